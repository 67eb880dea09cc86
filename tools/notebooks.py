"""Execute the chapters and normalise what is stored of them.

A committed notebook holds its text outputs, which nbval compares, and nothing that changes from
run to run: no images, no widget state, no timings. ``python tools/notebooks.py`` executes every
chapter and writes it back in that form; with names of chapters it does these alone.
"""

import argparse
import hashlib
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = ROOT / "chapters"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
TIMEOUT = 120  # seconds for one cell
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class CellError(Exception):
    """A cell raised; the message names notebook and cell."""


def execute(path, text_only):
    """Run one notebook and return it with its outputs.

    `text_only` leaves pictures and pages of explorers out, as the stored outputs do.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    os.environ["DMFLIB_TEXT_ONLY"] = "1" if text_only else "0"
    # Small matrices: a second thread gains nothing, and the other core runs another notebook.
    for name in THREADS:
        os.environ.setdefault(name, "1")
    notebook = jupytext.read(path)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        extra_arguments=["--log-level=40"],  # errors only
        resources={"metadata": {"path": str(Path(path).parent)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        index = next(
            i
            for i, cell in enumerate(notebook.cells)
            if any(output.output_type == "error" for output in cell.get("outputs", ()))
        )
        name = Path(path).relative_to(ROOT)
        raise CellError(f"{name}, cell {index}: {error.ename}: {error.evalue}") from None
    return notebook


def execute_all(paths, text_only, done):
    """Run notebooks side by side, one for each core, and call `done(path, notebook)` for each."""
    paths = list(paths)
    if not paths:
        return
    workers = min(len(paths), len(os.sched_getaffinity(0)) if sys.platform == "linux" else 2)
    with ProcessPoolExecutor(workers) as pool:
        jobs = {pool.submit(execute, path, text_only): path for path in paths}
        try:
            for job in as_completed(jobs):
                done(jobs[job], job.result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def normalise(notebook):
    """Strip everything from a notebook that is not text or changes from run to run."""
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    count = 0
    for index, cell in enumerate(notebook.cells):
        # Ids by position: a cell inserted by any editor gets the same form.
        cell.id = f"cell-{index}"
        for name in ("execution", "collapsed", "trusted", "ExecuteTime"):
            cell.metadata.pop(name, None)
        if cell.cell_type != "code":
            cell.pop("attachments", None)
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = [normalise_output(o, count) for o in cell.outputs if not _is_stderr(o)]
        # What is printed in pieces, which fall as time does, becomes one output.
        CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, index)
    return notebook


def normalise_output(output, count):
    """Keep the text of an output."""
    if output.output_type == "execute_result":
        output.execution_count = count
    if "data" in output:
        output.data = {kind: value for kind, value in output.data.items() if kind == "text/plain"}
        output.metadata = {}
    return output


def _is_stderr(output):
    return output.output_type == "stream" and output.name == "stderr"


def dump(notebook):
    """Return the stored form of a notebook as text."""
    return nbformat.writes(notebook, indent=1, ensure_ascii=False).rstrip("\n") + "\n"


def write(path, text):
    """Replace a file whole, so that an interruption leaves the old or the new one."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def fingerprint(*paths):
    """Hash of the names and contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="stems of chapters; all where left out")
    names = parser.parse_args().names
    paths = sorted(CHAPTERS.glob("*.ipynb"))
    unknown = set(names) - {path.stem for path in paths}
    if unknown:
        parser.error(f"no such chapter: {', '.join(sorted(unknown))}")
    if names:
        paths = [path for path in paths if path.stem in names]

    def store(path, notebook):
        write(path, dump(normalise(notebook)))
        print(f"executed {path.relative_to(ROOT)}")

    try:
        execute_all(paths, text_only=True, done=store)
    except CellError as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
