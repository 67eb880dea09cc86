"""The stored form of the chapters; their results are compared by nbval."""

import json
from pathlib import Path

import nbformat
import notebooks
import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
LONGEST_CELL = 15


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request):
    return request.param


def code_cells(path):
    notebook = nbformat.read(path, as_version=4)
    return [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]


def test_is_stored_in_normal_form(chapter):
    stored = chapter.read_text(encoding="utf-8")
    normal = notebooks.dump(notebooks.normalise(nbformat.reads(stored, as_version=4)))
    assert stored == normal, f"run: make notebooks ONLY={chapter.stem}"


def test_was_executed_to_the_end_without_errors(chapter):
    for index, cell in code_cells(chapter):
        kinds = [output.output_type for output in cell.outputs]
        assert "error" not in kinds, f"cell {index} stores an error"
    printed = [o for _, cell in code_cells(chapter) for o in cell.outputs]
    assert printed, f"no outputs: run make notebooks ONLY={chapter.stem}"


def test_cells_are_short_and_hold_no_algorithms(chapter):
    for index, cell in code_cells(chapter):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= LONGEST_CELL, f"cell {index} has {len(lines)} lines"


def test_figures_have_words(chapter):
    for index, cell in code_cells(chapter):
        pictures = [
            output
            for output in cell.outputs
            if "<Figure size" in str(output.get("data", {}).get("text/plain", ""))
        ]
        if not pictures:
            continue
        myst = cell.metadata.get("mystnb", {})
        assert len(pictures) == 1, f"cell {index} draws {len(pictures)} figures"
        assert len(myst.get("image", {}).get("alt", "")) > 40, f"cell {index}: alternative text"
        assert len(myst.get("figure", {}).get("caption", "")) > 20, f"cell {index}: caption"
        assert myst["figure"].get("name", "").startswith("fig-"), f"cell {index}: name"


def test_normalising_keeps_text_and_drops_pictures():
    cell = nbformat.v4.new_code_cell(
        "x", metadata={"execution": {"iopub.status.busy": "now"}, "tags": ["hide-input"]}
    )
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="1\n"),
        nbformat.v4.new_output("stream", name="stderr", text="noise"),
        nbformat.v4.new_output("stream", name="stdout", text="2\n"),
        nbformat.v4.new_output(
            "execute_result",
            data={"text/plain": "T", "image/png": "AAAA", "text/html": "<b>"},
            execution_count=7,
        ),
    ]
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    kept = notebooks.normalise(notebook)
    text = json.dumps(kept)
    assert "AAAA" not in text
    assert "noise" not in text
    assert "widgets" not in text
    assert kept.cells[0].metadata == {"tags": ["hide-input"]}
    assert [output.output_type for output in kept.cells[0].outputs] == ["stream", "execute_result"]
    assert kept.cells[0].outputs[0].text == "1\n2\n"
    assert kept.cells[0].outputs[1].data == {"text/plain": "T"}
    again = notebooks.dump(notebooks.normalise(nbformat.reads(notebooks.dump(kept), as_version=4)))
    assert again == notebooks.dump(kept)


def test_a_failing_cell_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("Words."),
            nbformat.v4.new_code_cell("x = 1"),
            nbformat.v4.new_code_cell("x / 0"),
        ]
    )
    path = tmp_path / "broken.ipynb"
    nbformat.write(notebook, path)
    with pytest.raises(notebooks.CellError, match=r"broken.ipynb, cell 2: ZeroDivisionError"):
        notebooks.execute(path, text_only=True)


def test_nothing_is_left_over_beside_a_figure(chapter):
    # `ax.set(...)` in the last line returns what it has set, and the page would show it.
    for index, cell in code_cells(chapter):
        kinds = {output.output_type for output in cell.outputs}
        if "figure" in cell.metadata.get("mystnb", {}):
            assert "execute_result" not in kinds, f"cell {index} ends with a value"
