"""Build the book: execute what changed, run Sphinx, and publish the pages in one move.

Everything is made beside the published pages and moved into place when it is complete:

* ``_build/executed``: outputs of each notebook, under a name that depends on its code, the
  package and the requirements, so a change in any of them executes it again and a change in
  the prose does not;
* ``_build/source``: the book's sources with these outputs, which Sphinx reads;
* ``_build/work``: Sphinx's own memory and pages, thrown away when a build was interrupted or
  the package changed;
* ``_build/html``: the published pages.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from finish_pages import finish
from notebooks import KERNEL, ROOT, CellError, dump, execute_all, fingerprint, write

import ledger

BUILD = ROOT / "_build"
EXECUTED, SOURCE, WORK, HTML = (BUILD / name for name in ("executed", "source", "work", "html"))
PAGES = ("*.md", "*.bib", "_config.yml", "_toc.yml", "_static/**/*", "_templates/**/*")
NOT_PAGES = {"README.md", "CONTRIBUTING.md"}
# Pages are typeset when they are finished; of MathJax they need the fonts.
MATHJAX_FONTS = "output/chtml/fonts"


def package_key():
    """Hash of everything but the notebooks that outputs and pages depend on."""
    files = [
        *(ROOT / "dmflib").glob("*"),
        ROOT / "requirements.txt",
        *(ROOT / "tools").glob("*.py"),
    ]
    return fingerprint(*sorted(path for path in files if path.is_file()))


def executed_path(path, key):
    """Where the outputs of a notebook belong, by its code."""
    code = "\0".join(c.source for c in jupytext.read(path).cells if c.cell_type == "code")
    digest = hashlib.sha256((key + code).encode()).hexdigest()
    return EXECUTED / f"{path.stem}-{digest[:16]}.ipynb"


def is_notebook(path):
    """Whether a page has code cells to execute."""
    return path.suffix == ".ipynb" or "{code-cell}" in path.read_text(encoding="utf-8")


def sources():
    """All files that Sphinx reads, notebooks included."""
    files = {path for pattern in PAGES for path in ROOT.glob(pattern) if path.is_file()}
    files |= set((ROOT / "chapters").glob("*.ipynb"))
    return sorted(path for path in files if path.name not in NOT_PAGES)


def run_notebooks(paths, key):
    """Execute the notebooks whose outputs are missing; return where each one's outputs are."""
    EXECUTED.mkdir(parents=True, exist_ok=True)
    wanted = {path: executed_path(path, key) for path in paths}
    missing = [path for path, target in wanted.items() if not target.exists()]
    started = time.perf_counter()

    def store(path, notebook):
        write(wanted[path], dump(notebook))
        seconds = time.perf_counter() - started
        print(f"executed {path.relative_to(ROOT)} ({seconds:.0f} s after the start)", flush=True)

    execute_all(missing, text_only=False, done=store)
    for stale in set(EXECUTED.iterdir()) - set(wanted.values()):
        stale.unlink()
    return wanted


def with_outputs(path, executed, errata=()):
    """Return a notebook with the outputs of its executed twin and its links to the ledger."""
    notebook = jupytext.read(path)
    done = nbformat.read(executed, as_version=4)
    outputs = iter([c for c in done.cells if c.cell_type == "code"])
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"
        if cell.cell_type == "code":
            twin = next(outputs)
            cell.outputs, cell.execution_count = twin.outputs, twin.execution_count
    if errata:
        stored = jupytext.read(path)
        ledger.with_links(notebook)
        ledger.with_anchors(notebook, stored, path.stem, errata)
    notebook.metadata["kernelspec"] = nbformat.from_dict(KERNEL)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return dump(notebook)


def stage(executed):
    """Bring ``_build/source`` up to date, touching only what changed; say whether it did."""
    kept, changed = set(), False
    contents, errata = accounts()
    for path in sources():
        target = SOURCE / path.relative_to(ROOT)
        if path in executed:
            target = target.with_suffix(".ipynb")
            contents[target] = with_outputs(path, executed[path], errata).encode()
        else:
            contents[target] = path.read_bytes()
    for target, content in contents.items():
        kept.add(target)
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            changed = True
    generated = SOURCE / "api"  # autosummary writes here
    for path in SOURCE.rglob("*"):
        generated_here = generated in path.parents or path.name == "conf.py"
        if path.is_file() and path not in kept and not generated_here:
            path.unlink()
            changed = True
    return changed


def accounts():
    """The pages made from the ledger, by their place, and the errata; nothing without a ledger."""
    if not ledger.LEDGER.exists():
        return {}, []
    results, evidence, errata = ledger.load()
    notebooks = ledger.chapters()
    found = ledger.problems(results, evidence, notebooks)
    found += ledger.problems_of_errata(errata, notebooks)
    if found:
        sys.exit("the ledger does not close:\n" + "\n".join(found))
    pages = {
        SOURCE / "ledger.md": ledger.page(results, evidence, notebooks).encode(),
        SOURCE / "errata.md": ledger.errata_page(errata, notebooks).encode(),
    }
    return pages, errata


def run_sphinx(pages):
    """Write the configuration and run Sphinx with warnings as errors."""
    tool = Path(sys.executable).with_name("jupyter-book")
    subprocess.run([tool, "config", "sphinx", SOURCE], check=True, stdout=subprocess.DEVNULL)
    options = ["-b", "html", "-d", str(WORK / "doctrees"), "-q", "-W", "--keep-going", "-n"]
    settings = ["-D", "nb_execution_mode=off"]
    command = [sys.executable, "-m", "sphinx", *options, *settings, str(SOURCE), str(pages)]
    return subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "0"}).returncode


def trim(pages):
    """Remove the parts of MathJax that no page asks for."""
    mathjax = pages / "_static" / "mathjax"
    fonts = mathjax / MATHJAX_FONTS
    for path in mathjax.rglob("*"):
        if path.is_file() and fonts not in path.parents:
            path.unlink()


def publish(pages):
    """Swap the finished pages in; a reader sees the old book or the new one."""
    fresh, old = BUILD / "html.new", BUILD / "html.old"
    for path in (fresh, old):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(pages, fresh)
    trim(fresh)
    try:
        finish(fresh)
    except ValueError as problem:
        sys.exit(f"the book was not built: {problem}")
    if HTML.exists():
        HTML.rename(old)
    fresh.rename(HTML)
    shutil.rmtree(old, ignore_errors=True)


def main():
    started = time.perf_counter()
    key = package_key()
    marker = WORK / "complete"  # absent while a build is under way or after one was interrupted
    complete = marker.exists() and marker.read_text() == key
    if not complete:
        shutil.rmtree(WORK, ignore_errors=True)
        shutil.rmtree(SOURCE, ignore_errors=True)
    pages = [path for path in sources() if path.suffix in {".md", ".ipynb"}]
    try:
        executed = run_notebooks([path for path in pages if is_notebook(path)], key)
    except CellError as failure:
        sys.exit(str(failure))
    marker.unlink(missing_ok=True)
    if stage(executed) or not complete or not HTML.exists():
        if run_sphinx(WORK / "html"):
            sys.exit("the book was not built: mend the warnings above")
        # Where no page has changed, Sphinx leaves the style sheets as they were.
        shutil.copytree(SOURCE / "_static", WORK / "html" / "_static", dirs_exist_ok=True)
        publish(WORK / "html")
    marker.write_text(key)
    print(f"{HTML / 'index.html'} is ready ({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    main()
