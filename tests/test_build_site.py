"""The full site: JupyterLite beside the book, the wheel in it, nothing fetched before a click."""

import hashlib
import json
import subprocess
import sys
import zipfile
from urllib.parse import urlsplit

import build_site
import pytest
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
