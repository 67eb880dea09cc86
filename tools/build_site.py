"""Build the full site: the book, and beside it a JupyterLite in which each chapter runs.

``_build/site`` is what a deployment publishes. The book's pages are those of ``make book``, with
one button more. JupyterLite holds the notebooks, the wheel of this package and the widgets; the
Python that runs them, Pyodide, comes from its public distribution when a reader asks for it, or
from the place that the variable PYODIDE_URL names.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from live_notebooks import live
from notebooks import ROOT

BUILD = ROOT / "_build"
LOCK = ROOT / "site" / "pyodide-lock.json"
# What runs beside numpy, scipy and matplotlib and is not part of Pyodide.
WIDGETS = ("ipywidgets", "jupyterlab-widgets", "comm")
PRELOADED = ["dmflib", "ipywidgets"]
# Of all extensions that stand in the environment, those that a reader of a chapter needs.
EXTENSIONS = (
    "@jupyterlite/pyodide-kernel-extension",
    "@jupyter-widgets/jupyterlab-manager",
    "jupyterlab-myst",
    "jupyterlab_pygments",
)
# A button that leads to the application which is left out.
DISABLED = ["@jupyter-notebook/lab-extension:interface-switcher"]
BUTTON = (
    '<a class="run-live" href="{root}lite/notebooks/index.html?path=chapters/{stem}.ipynb">'
    "Run live</a>"
)
# The list of files, to which the logo leads, is left out: back to the book instead.
TREE = (
    '<!DOCTYPE html><html lang="en"><title>The book</title>'
    '<meta http-equiv="refresh" content="0; url=../../index.html"></html>\n'
)


def pyodide_url(lock):
    """Where the runtime is fetched from: the public distribution of this release, or a copy."""
    public = f"https://cdn.jsdelivr.net/pyodide/v{lock['info']['version']}/full"
    url = os.environ.get("PYODIDE_URL", public).rstrip("/")
    if not url.startswith(("https://", "http://", "/")):
        sys.exit(f"PYODIDE_URL={url}: it must begin with https://, http:// or /")
    return url


def make_wheels(folder):
    """Build this package's wheel, and fetch those of the widgets as they are installed here."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    own = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    pinned = [f"{name}=={version(name)}" for name in WIDGETS]
    others = [*pip, "download", "--no-deps", "--only-binary=:all:", "-d", folder, *pinned]
    for command in (own, others):
        done = subprocess.run([str(p) for p in command], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"a wheel was not made: {done.stderr[-2000:]}")
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    return sorted(Path(folder).glob("*.whl"))


def requirements(wheel):
    """Names of the packages that a wheel asks for unconditionally."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode("utf-8").splitlines()
    wanted = [line.partition(":")[2] for line in lines if line.startswith("Requires-Dist:")]
    names = [re.split(r"[\s<>=!~;\[]", w.strip())[0] for w in wanted if "extra ==" not in w]
    return [name.replace("_", "-").lower() for name in names]


def extended_lock(lock, wheels, url):
    """The list of packages of Pyodide, with absolute addresses, and the local wheels besides."""
    packages = {
        name: package | {"file_name": f"{url}/{package['file_name']}"}
        for name, package in lock["packages"].items()
    }
    local = {wheel.name.split("-")[0].replace("_", "-").lower(): wheel for wheel in wheels}
    for name, wheel in local.items():
        packages[name] = {
            "name": name,
            "version": wheel.name.split("-")[1],
            "file_name": wheel.name,
            "install_dir": "site",
            "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
            "package_type": "package",
            "imports": [name.replace("-", "_")],
            "depends": [r for r in requirements(wheel) if r in local or r in lock["packages"]],
            "unvendored_tests": False,
        }
    return lock | {"packages": packages}


def build_lite(target, wheels, lock, url):
    """Build JupyterLite, reduced to the notebook application, into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        shutil.copytree(ROOT / "chapters", folder / "contents" / "chapters")
        for junk in folder.rglob(".ipynb_checkpoints"):
            shutil.rmtree(junk)
        for path in (folder / "contents" / "chapters").glob("*.ipynb"):
            page = (BUILD / "html" / "chapters" / f"{path.stem}.html").read_text(encoding="utf-8")
            notebook = live(json.loads(path.read_text(encoding="utf-8")), page)
            path.write_text(json.dumps(notebook, ensure_ascii=False), encoding="utf-8")
        kernel = {
            "pyodideUrl": f"{url}/pyodide.mjs",
            "loadPyodideOptions": {
                "lockFileURL": "./static/pyodide/pyodide-lock.json",
                "packages": PRELOADED,
            },
        }
        settings = {"@jupyterlite/pyodide-kernel-extension:kernel": kernel}
        lite = {
            "jupyter-lite-schema-version": 0,
            "jupyter-config-data": {
                "appName": "The implicit bias of gradient descent",
                "appUrl": "./..",  # where lite/index.html leads
                "disabledExtensions": DISABLED,
                "litePluginSettings": settings,
            },
        }
        (folder / "jupyter-lite.json").write_text(json.dumps(lite))
        installed = Path(sys.prefix) / "share" / "jupyter" / "labextensions"
        config = {
            "LiteBuildConfig": {
                "apps": ["notebooks"],
                "contents": [str(folder / "contents")],
                "federated_extensions": [str(installed / name) for name in EXTENSIONS],
                "ignore_sys_prefix": ["federated_extensions"],
                "no_sourcemaps": True,
                "output_dir": str(target),
            },
            "PipliteAddon": {"piplite_urls": [str(wheel) for wheel in wheels]},
        }
        (folder / "jupyter_lite_config.json").write_text(json.dumps(config))
        command = [sys.executable, "-m", "jupyterlite_core", "build", "--lite-dir", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if done.returncode:
            sys.exit(f"JupyterLite was not built:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    place = target / "static" / "pyodide"
    place.mkdir(parents=True)
    (place / "pyodide-lock.json").write_text(json.dumps(extended_lock(lock, wheels, url)))
    for wheel in wheels:
        shutil.copy(wheel, place)
    for path in target.rglob("*.map"):
        path.unlink()
    (target / "tree").mkdir()
    (target / "tree" / "index.html").write_text(TREE, encoding="utf-8")


def add_buttons(pages):
    """Offer on each chapter's page to run it."""
    for path in sorted((pages / "chapters").glob("*.html")):
        text = path.read_text(encoding="utf-8")
        button = BUTTON.format(root="../", stem=path.stem)
        head, article, body = text.partition('<article class="bd-article">')
        path.write_text(f"{head}{article}\n{button}{body}", encoding="utf-8")


def build(target):
    """Build the site into a folder, which appears when it is complete."""
    lock = json.loads(LOCK.read_text(encoding="utf-8"))
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(BUILD / "html", fresh)
    with tempfile.TemporaryDirectory() as folder:
        build_lite(fresh / "lite", make_wheels(folder), lock, pyodide_url(lock))
    add_buttons(fresh)
    (fresh / ".nojekyll").touch()
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=BUILD / "site")
    target = parser.parse_args().output
    if not (BUILD / "html").exists():
        sys.exit("no site: build the book first (make book)")
    build(target)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target} is ready, {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
