"""Make a notebook that nbgrader can grade out of whatever was handed in, and say what was done.

The result has every cell of the release in its place: text, set-up and tests as they were given
out, answers as they were handed in. Nothing that a student may have done to the file, short of
deleting their own work, costs them that work.
"""

import copy
import json
import re

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

MISSING = "This cell was missing from what was handed in."
LARGEST = 300 * 2**20  # bytes of a file
MOST_CELLS = 2000


def read(path):
    """Cells of a notebook file as ``(type, source, metadata, id)``, with notes on its faults."""
    if path.stat().st_size > LARGEST:
        return [], [f"The file is larger than {LARGEST // 2**20} MB and was not read."]
    notes = []
    data = path.read_bytes()
    if not data.strip():
        return [], ["The file is empty."]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text = data.decode("utf-8-sig", errors="replace")
        notes.append(
            f"The file is not valid UTF-8 (byte {error.start}); such bytes were replaced by \ufffd."
        )
    try:
        content = json.loads(text)
        if isinstance(content, dict) and "worksheets" in content:
            content = nbformat.convert(nbformat.reads(text, as_version=nbformat.NO_CONVERT), 4)
        if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
            return [], [*notes, "The file is JSON but no notebook: it has no list of cells."]
    except RecursionError:
        return [], [*notes, "The file is not a notebook: it is nested too deeply."]
    except ValueError as error:
        end = ": it seems to be cut off" if not text.rstrip().endswith("}") else ""
        return [], [*notes, f"The file is not a notebook{end}; as JSON it fails with: {error}."]
    except Exception as error:
        return [], [*notes, f"The file is no notebook that can be read: {type(error).__name__}."]
    language = _get(content, "metadata", "kernelspec", "language") or "python"
    kernel = _get(content, "metadata", "kernelspec", "name") or "python3"
    if language != "python" or kernel != "python3":
        notes.append(f"The notebook names the kernel {kernel!r}; it was run with Python 3.")
    cells, faulty = [], 0
    for cell in content["cells"][:MOST_CELLS]:
        source = cell.get("source", "") if isinstance(cell, dict) else None
        if isinstance(source, list) and all(isinstance(line, str) for line in source):
            source = "".join(source)
        if not isinstance(source, str) or cell.get("cell_type") not in ("code", "markdown", "raw"):
            faulty += 1
            continue
        source = source.encode("utf-8", errors="replace").decode()  # no halves of characters
        metadata = cell.get("metadata") if isinstance(cell.get("metadata"), dict) else {}
        cells.append((cell["cell_type"], source, metadata, cell.get("id")))
    if faulty:
        notes.append(f"{faulty} entries of the file are no cells and were left out.")
    if len(content["cells"]) > MOST_CELLS:
        notes.append(f"Only the first {MOST_CELLS} cells were read.")
    return cells, notes


def _get(content, *keys):
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, str) else None


def is_test(cell):
    """Whether a cell of the release is a test."""
    marks = cell.metadata.get("nbgrader", {})
    return cell.cell_type == "code" and marks.get("grade", False) and not marks.get("solution")


def restore(cells, release):
    """The release with the student's cells in it, and notes on what had to be put right."""
    given = {cell.metadata.nbgrader.grade_id: cell for cell in release.cells}
    order = list(given)
    names = _identify(cells, given)
    notes = [_listed("put back, since they had lost their labels", _relabelled(cells, names))]
    last = {}
    for i, name in enumerate(names):  # of several answers the last that says something counts
        if name and (name not in last or not _blank(cells[i], given[name])):
            last[name] = i
    doubled = sorted({n for i, n in enumerate(names) if n and last[n] != i})
    notes.append(_listed("there more than once (the last counts; code of all is run)", doubled))
    groups, current, changed = {None: []}, None, []  # what follows which cell of the release
    for i, name in enumerate(names):
        kind, source = cells[i][:2]
        if name and last[name] == i:
            cell = copy.deepcopy(given[name])
            if cell.metadata.nbgrader.solution:
                cell.source = source
            elif cell.source.strip() != source.strip() or kind != cell.cell_type:
                changed.append(name)
            current = name
            groups[name] = [cell]
        elif name and (not given[name].metadata.nbgrader.solution or _blank(cells[i], given[name])):
            continue  # a second copy of text or tests, or of an answer that is none
        else:
            new = new_code_cell if kind == "code" else new_markdown_cell
            groups[current].append(new(source))
    notes.append(_listed("changed, and set back to what was given out", changed))
    found = [name for name in groups if name]
    if found != sorted(found, key=order.index):
        notes.append("The cells were in another order; they were graded in the order given out.")
    missing = [name for name in order if name not in groups]
    notes.append(_listed("missing, and put back", missing))
    strangers = any(
        not n and c[0] != "code" and c[1].strip() for n, c in zip(names, cells, strict=True)
    )
    for name in missing:
        cell = copy.deepcopy(given[name])
        if cell.metadata.nbgrader.solution and cell.cell_type == "code":
            cell.source = "# " + MISSING
        elif cell.metadata.nbgrader.solution and strangers:
            cell.source = MISSING + " There is text without a label elsewhere in the notebook."
        groups[name] = [cell]
    restored = copy.deepcopy(release)
    restored.cells = groups.pop(None) + [cell for name in order for cell in groups[name]]
    for i, cell in enumerate(restored.cells):
        cell["id"] = f"cell-{i}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return restored, [note for note in notes if note]


def _identify(cells, given):
    """For each cell the name of its twin in the release, or None."""
    names = []
    for kind, _, metadata, cell_id in cells:
        marks = metadata.get("nbgrader")
        label = marks.get("grade_id") if isinstance(marks, dict) else None
        name = label if isinstance(label, str) and label in given else None
        if name is None and isinstance(cell_id, str) and cell_id in given:
            name = cell_id
        if name and given[name].metadata.nbgrader.solution and kind != given[name].cell_type:
            name = None  # an answer that was turned into something else stays where it is
        names.append(name)
    for name, cell in given.items():
        if name in names:
            continue
        if not cell.metadata.nbgrader.solution:
            text = cell.source.strip()
            twins = [i for i, c in enumerate(cells) if c[1].strip() == text]
        elif cell.cell_type == "code" and (asked := re.search(r"^def (\w+)", cell.source, re.M)):
            defines = re.compile(rf"^(def\s+{asked[1]}\b|{asked[1]}\s*=)", re.M)
            twins = [i for i, c in enumerate(cells) if c[0] == "code" and defines.search(c[1])]
        else:
            twins = []
        twins = [i for i in twins if names[i] is None]
        if twins:
            names[twins[-1]] = name
    return names


def _relabelled(cells, names):
    def labelled(metadata):
        return isinstance(metadata.get("nbgrader"), dict) and metadata["nbgrader"].get("grade_id")

    return [n for n, c in zip(names, cells, strict=True) if n and not labelled(c[2])]


def _blank(cell, given):
    return bool(given.metadata.nbgrader.solution) and cell[1].strip() in ("", given.source.strip())


def _listed(what, names):
    return f"Cells {what}: {', '.join(names)}." if names else ""
