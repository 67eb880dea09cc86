"""The build on a small book: incremental, whole after an interruption, honest about failures."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
TOC = """format: jb-book
root: index
parts:
  - caption: Part
    numbered: true
    chapters:
      - file: chapters/small
  - caption: Reference
    chapters:
      - file: bibliography
"""


def write_chapter(book, code):
    cells = [
        nbformat.v4.new_markdown_cell("# Small\n\nWords {cite}`penrose1955`."),
        nbformat.v4.new_code_cell(code),
    ]
    (book / "chapters").mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), book / "chapters" / "small.ipynb")


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A book of two pages with the real configuration, style and tools."""
    book = tmp_path_factory.mktemp("book")
    for name in ("tools", "_static", "_templates", "dmflib"):
        shutil.copytree(ROOT / name, book / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "CITATION.cff",
        "_config.yml",
        "requirements.txt",
        "references.bib",
        "bibliography.md",
    ):
        shutil.copy(ROOT / name, book / name)
    (book / "_toc.yml").write_text(TOC)
    (book / "index.md").write_text("# Book\n\nFirst edition.\n")
    write_chapter(book, "print(6 * 7)")
    result = build(book)
    assert result.returncode == 0, result.stderr
    return book


def command(book):
    return [sys.executable, str(book / "tools" / "build_book.py")]


def build(book):
    return subprocess.run(command(book), capture_output=True, text=True)


def page(book, name="index.html"):
    return (book / "_build" / "html" / name).read_text(encoding="utf-8")


def test_pages_hold_text_and_outputs(book):
    assert "First edition." in page(book)
    assert "42" in page(book, "chapters/small.html")


def test_nothing_changed_takes_no_sphinx(book):
    before = (book / "_build" / "html" / "index.html").stat().st_mtime_ns
    result = build(book)
    assert result.returncode == 0, result.stderr
    assert "executed" not in result.stdout
    assert (book / "_build" / "html" / "index.html").stat().st_mtime_ns == before


def test_prose_is_rebuilt_without_executing_and_code_with(book):
    index = book / "index.md"
    index.write_text(index.read_text() + "\nSecond edition.\n")
    result = build(book)
    assert result.returncode == 0, result.stderr
    assert "executed" not in result.stdout
    assert "Second edition." in page(book)
    write_chapter(book, "print(6 * 8)")
    result = build(book)
    assert "executed chapters/small.ipynb" in result.stdout
    assert "48" in page(book, "chapters/small.html")


def test_a_changed_style_reaches_pages_that_did_not_change(book):
    sheet = book / "_static" / "book.css"
    sheet.write_text(sheet.read_text() + "\n.bd-article p { letter-spacing: 0.0625em; }\n")
    result = build(book)
    assert result.returncode == 0, result.stderr
    assert "executed" not in result.stdout
    static = book / "_build" / "html" / "_static"
    (joined,) = (path for path in static.glob("all-*.css") if path.name in page(book))
    assert "0.0625em" in joined.read_text(encoding="utf-8")


def test_a_cell_that_raises_stops_the_build_and_is_named(book):
    old = page(book, "chapters/small.html")
    write_chapter(book, "raise ValueError('no such depth')")
    result = build(book)
    assert result.returncode != 0
    assert "chapters/small.ipynb, cell 1: ValueError: no such depth" in result.stderr
    assert page(book, "chapters/small.html") == old
    write_chapter(book, "print(6 * 8)")
    assert build(book).returncode == 0


def test_a_warning_stops_the_build_and_leaves_the_published_pages(book):
    index = book / "index.md"
    good = index.read_text()
    index.write_text(good + "\nSee {doc}`nowhere`.\n")
    result = build(book)
    assert result.returncode != 0
    assert "nowhere" in result.stderr
    assert "nowhere" not in page(book)
    index.write_text(good)
    assert build(book).returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="kills a process group")
def test_a_killed_build_leaves_nothing_that_a_later_build_trusts(book):
    index = book / "index.md"
    index.write_text(index.read_text() + "\nThird edition.\n")
    write_chapter(book, "print(6 * 9)")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for wait in (0.5, 2.0, 3.0):
        run = subprocess.Popen(command(book), start_new_session=True, **quiet)
        time.sleep(wait)
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        # Whenever it was killed, the published book is one edition or the other, whole.
        editions = ("Third edition." in page(book), "54" in page(book, "chapters/small.html"))
        assert editions in {(False, False), (True, True)}
    result = build(book)
    assert result.returncode == 0, result.stderr
    assert "Third edition." in page(book)
    assert "54" in page(book, "chapters/small.html")
