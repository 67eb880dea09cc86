"""The full site: JupyterLite beside the book, the wheel in it, nothing fetched before a click."""

import hashlib
import json
import subprocess
import sys
import zipfile
from urllib.parse import urlsplit

import build_site
import pytest
from live_notebooks import ROLE, live
from serving import served

pytestmark = pytest.mark.skipif(
    not (build_site.BUILD / "html").exists(), reason="run `make book` before the tests of the site"
)
CHAPTERS = sorted(path.stem for path in (build_site.ROOT / "chapters").glob("*.ipynb"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp("site") / "site"
    build_site.build(target)
    return target


def locked(site):
    path = site / "lite" / "static" / "pyodide" / "pyodide-lock.json"
    return json.loads(path.read_text(encoding="utf-8"))["packages"]


def test_every_chapter_offers_to_run_and_its_notebook_is_there(site):
    for stem in CHAPTERS:
        text = (site / "chapters" / f"{stem}.html").read_text(encoding="utf-8")
        assert f'href="../lite/notebooks/index.html?path=chapters/{stem}.ipynb"' in text
        assert (site / "lite" / "files" / "chapters" / f"{stem}.ipynb").exists()
    assert (site / "lite" / "notebooks" / "index.html").exists()


def test_live_notebooks_differ_from_the_chapters_in_words_only(site):
    left, folded = [], 0
    for stem in CHAPTERS:
        path = build_site.ROOT / "chapters" / f"{stem}.ipynb"
        source = json.loads(path.read_text(encoding="utf-8"))
        copy = json.loads((site / "lite" / "files" / "chapters" / path.name).read_text("utf-8"))
        for cell, other in zip(source["cells"], copy["cells"], strict=True):
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                place = 0
                for words in ROLE.split(text)[::3]:  # what stands between roles
                    place = other["source"].index(words, place) + len(words)
                assert other["source"].endswith(words)
                left += ROLE.findall(other["source"])
                continue
            assert other["source"] == text
            folded += other["metadata"].get("jupyter", {}).get("source_hidden", False)
            # JupyterLite shows the parts of a text that is split with commas between them.
            for output in other["outputs"]:
                assert isinstance(output.get("text", ""), str)
                assert all(not isinstance(data, list) for data in output.get("data", {}).values())
    assert folded > 100
    assert {role for role, _ in left} <= {"ref", "prf:ref", "numref"}  # within one chapter


CHAPTER = {
    "cells": [
        {
            "cell_type": "markdown",
            "metadata": {},
            "source": [
                ":label: own\n",
                "{cite}`b,a` and {doc}`other`, {doc}`its name <other>`, {prf:ref}`thm`, ",
                "{prf:ref}`own`, {ref}`there <far>`, {cite}`a`, {eq}`eq`",
            ],
        }
    ]
}
PAGE = """<a class="reference internal" href="other.html">9. sidebar</a>
<article class="bd-article"><span class="bibtex-citation" id="id1">
[<a class="reference internal" href="b.html#id3" title="Title">Bee <em>et al.</em>, 2001</a>,
<a class="reference internal" href="b.html#id2">A &amp; B, 1999</a>]</span>
<a class="reference internal" href="other.html"><span class="doc">Other title</span></a>
<a class="reference internal" href="other.html#thm">Theorem 2.5</a>
<span class="bibtex-citation" id="id2">[<a class="reference internal" href="b.html#id2">A &amp; B,
1999</a>]</span></article>"""


def test_references_become_the_words_of_the_page():
    (cell,) = live(CHAPTER, PAGE)["cells"]
    assert cell["source"].splitlines()[1].replace("\n", " ") == (
        "[Bee et al., 2001; A & B, 1999] and Other title, its name, Theorem 2.5, "
        "{prf:ref}`own`, there, [A & B, 1999], {eq}`eq`"
    )
    with pytest.raises(ValueError, match="fewer citations"):
        live(CHAPTER, PAGE.replace("bibtex-citation", "no", 1))
    with pytest.raises(ValueError, match="more citations"):
        live({"cells": []}, PAGE)
    with pytest.raises(ValueError, match=r"does not show the reference .*`thm`"):
        live(CHAPTER, PAGE.replace("#thm", "#lem"))


def test_only_the_notebook_application_without_source_maps(site):
    assert not list((site / "lite").rglob("*.map"))
    assert not (site / "lite" / "lab").exists()
    size = sum(p.stat().st_size for p in (site / "lite").rglob("*") if p.is_file())
    assert size < 45e6


def test_wheel_is_in_both_indexes_with_its_hash(site):
    package = locked(site)["dmflib"]
    wheel = site / "lite" / "static" / "pyodide" / package["file_name"]
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == package["sha256"]
    assert {"numpy", "scipy", "matplotlib"} <= set(package["depends"])
    index = json.loads((site / "lite" / "pypi" / "all.json").read_text(encoding="utf-8"))
    assert "dmflib" in index
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = build_site.ROOT / "dmflib"
    files = [*package.glob("*.py"), *package.glob("*.css"), *(package / "data").iterdir()]
    sources = {p.relative_to(build_site.ROOT).as_posix() for p in files}
    assert sources <= names


def test_all_other_packages_come_from_the_one_address(site):
    lock = json.loads(build_site.LOCK.read_text(encoding="utf-8"))
    url = build_site.pyodide_url(lock)
    for name, package in locked(site).items():
        own = name in {"dmflib", *build_site.WIDGETS}
        assert package["file_name"].startswith(f"{url}/") != own
    config = json.loads((site / "lite" / "jupyter-lite.json").read_text(encoding="utf-8"))
    settings = config["jupyter-config-data"]["litePluginSettings"]
    kernel = settings["@jupyterlite/pyodide-kernel-extension:kernel"]
    assert kernel["pyodideUrl"] == f"{url}/pyodide.mjs"
    assert "dmflib" in kernel["loadPyodideOptions"]["packages"]


def test_one_variable_moves_the_runtime(monkeypatch):
    lock = {"info": {"version": "1.2.3"}, "packages": {"a": {"file_name": "a.whl"}}}
    assert build_site.pyodide_url(lock).endswith("/pyodide/v1.2.3/full")
    monkeypatch.setenv("PYODIDE_URL", "https://own.example/py/")
    url = build_site.pyodide_url(lock)
    packages = build_site.extended_lock(lock, [], url)["packages"]
    assert packages["a"]["file_name"] == "https://own.example/py/a.whl"


def test_wheel_imports_with_numpy_alone(site, tmp_path):
    wheel = site / "lite" / "static" / "pyodide" / locked(site)["dmflib"]["file_name"]
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import importlib, pkgutil, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('scipy', 'matplotlib', 'ipywidgets', 'joblib'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import dmflib\n"
        f"assert dmflib.__file__.startswith({str(tmp_path)!r})\n"
        "for module in pkgutil.iter_modules(dmflib.__path__):\n"
        "    importlib.import_module('dmflib.' + module.name)\n"
        "print('ok')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout == "ok\n", done.stderr


@pytest.mark.browser
def test_button_opens_the_notebook_and_nothing_is_fetched_before(site, browser):
    with served(site) as address:
        context = browser.new_context()
        elsewhere = []

        def watch(request):
            if not request.url.startswith((address, "data:", "blob:")):
                elsewhere.append(request.url)

        context.on("request", watch)
        tab = context.new_page()
        tab.goto(f"{address}/chapters/least_squares.html", wait_until="networkidle")
        assert elsewhere == []
        tab.get_by_role("link", name="Run live").click()
        heading = tab.locator(".jp-Notebook h1")
        heading.first.wait_for(timeout=120_000)
        assert "Least squares" in heading.first.inner_text()
        assert "from dmflib import" in tab.locator(".jp-Notebook").inner_text()
        deadline = 60
        while not elsewhere and deadline:
            tab.wait_for_timeout(500)
            deadline -= 1
        lock = json.loads(build_site.LOCK.read_text(encoding="utf-8"))
        place = urlsplit(build_site.pyodide_url(lock)).netloc
        assert {urlsplit(url).netloc for url in elsewhere} == {place}
        context.close()
