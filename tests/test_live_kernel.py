"""The kernel of "Run live", seen at work with all of Pyodide that the registries hold.

The runtime comes from npm, packages of pure Python from PyPI. Pyodide's own numpy, scipy and
matplotlib are in neither, so this shows that the kernel starts below any address, takes this
package's wheel from the extended list with its hash, and draws widgets; not that chapters run.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile

import build_site
import pytest
from serving import served

NPM = shutil.which("npm")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (build_site.BUILD / "html").exists(), reason="run `make book` first"),
    pytest.mark.skipif(NPM is None, reason="the kernel of Run live is left out: no npm here"),
]
CORE = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip")
# What the kernel asks for, and what ipywidgets needs.
WANTED = ("micropip", "ipython", "jedi", "traitlets")
RUN = """async code => {
    const panel = window.jupyterapp.shell.currentWidget;
    await panel.context.ready;
    await panel.context.sessionContext.ready;
    const sent = panel.context.sessionContext.session.kernel.requestExecute({code});
    let text = '';
    sent.onIOPub = ({content}) => {
        text += content.text ?? '';
        text += content.ename ? `${content.ename}: ${content.evalue}` : '';
    };
    await sent.done;
    return text;
}"""


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(packages, names):
    found, left = {}, [canonical(name) for name in names]
    while left:
        name = left.pop()
        if name not in found:
            found[name] = packages[name]
            left += [canonical(other) for other in packages[name]["depends"]]
    return found


def fetched(folder, lock):
    """Fill a folder with the runtime and the packages; return the list of what is there."""
    release = lock["info"]["version"]
    command = [NPM, "pack", "--silent", f"pyodide@{release}", "--pack-destination", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    with tarfile.open(folder / f"pyodide-{release}.tgz") as archive:
        for name in CORE:
            with archive.extractfile(f"package/{name}") as source:
                (folder / name).write_bytes(source.read())
    packages = closure(lock["packages"], WANTED)
    pins = [f"{name}=={package['version']}" for name, package in packages.items()]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--quiet"]
    command += ["--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--platform=any", "--implementation=py"]
    command += ["--abi=none", f"--python-version={lock['info']['python'].rsplit('.', 1)[0]}"]
    subprocess.run([*command, "-d", str(folder), *pins], check=True, timeout=300)
    # Pyodide packs these wheels anew, so that their hashes differ from those of its list.
    for package in packages.values():
        content = (folder / package["file_name"]).read_bytes()
        package["sha256"] = hashlib.sha256(content).hexdigest()
    return {"info": lock["info"], "packages": packages}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Serve the site below a path, and the runtime beside it."""
    root = tmp_path_factory.mktemp("live")
    (root / "py").mkdir()
    lock = json.loads(build_site.LOCK.read_text(encoding="utf-8"))
    try:
        reduced = fetched(root / "py", lock)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"the kernel of Run live is left out: {error}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYODIDE_URL", "/py")
        patch.setattr(build_site, "LOCK", root / "lock.json")
        build_site.LOCK.write_text(json.dumps(reduced))
        build_site.build(root / "some" / "where")
    # The test speaks to the kernel through the application's own object.
    path = root / "some" / "where" / "lite" / "jupyter-lite.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["jupyter-config-data"]["exposeAppInBrowser"] = True
    path.write_text(json.dumps(config))
    with served(root) as server:
        yield server


def test_kernel_runs_with_this_package_and_its_widgets(address, browser):
    context = browser.new_context()
    elsewhere = []
    context.on("request", lambda r: elsewhere.append(r.url) if address not in r.url else None)
    tab = context.new_page()
    tab.set_default_timeout(120_000)
    tab.goto(f"{address}/some/where/chapters/least_squares.html")
    tab.get_by_role("link", name="Run live").click()
    tab.locator(".jp-Notebook h1").first.wait_for()

    def run(code):
        return tab.evaluate(RUN, code)

    lock = json.loads(build_site.LOCK.read_text(encoding="utf-8"))
    assert run("import sys; print(sys.version.split()[0])").strip() == lock["info"]["python"]
    assert "site-packages/dmflib/" in run("import dmflib; print(dmflib.__file__)")
    wheels = "import pyodide_js; print(sorted(pyodide_js.loadedPackages.to_py()))"
    assert {"'dmflib'", "'ipywidgets'"} <= set(re.findall(r"'[\w-]+'", run(wheels)))
    # The chapters' own files are there, and what is missing here says so.
    assert "least_squares.ipynb" in run("import os; print(os.listdir())")
    assert "No module named 'numpy'" in run("from dmflib import least_squares")
    tab.evaluate(
        """() => {
            const cells = window.jupyterapp.shell.currentWidget.content;
            cells.activeCellIndex = 1;
            const source = 'import ipywidgets\\nipywidgets.IntSlider(3)';
            cells.activeCell.model.sharedModel.setSource(source);
            return window.jupyterapp.commands.execute('notebook:run-cell');
        }"""
    )
    slider = tab.locator(".jupyter-widgets [role=slider]")
    slider.focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator(".widget-readout").inner_text() == "4"
    assert [url for url in elsewhere if url.startswith("http")] == []
    context.close()


def test_places_left_out_lead_to_the_book(address, browser):
    context = browser.new_context()
    tab = context.new_page()
    for place in ("lite/", "lite/tree"):
        tab.goto(f"{address}/some/where/{place}")
        tab.wait_for_url("**/some/where/index.html")
    context.close()
