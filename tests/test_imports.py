"""Importing is light, needs numpy alone, and runs downhill through the layers."""

import json
import os
import pkgutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import dmflib

ROOT = Path(__file__).parents[1]
MODULES = ["dmflib", *(f"dmflib.{module.name}" for module in pkgutil.iter_modules(dmflib.__path__))]
SECONDS = 0.3  # on top of numpy


def python(code, *options):
    run = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_modules_are_found():
    assert {"dmflib.matrices", "dmflib.descent", "dmflib.plotting"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_numpy_and_the_standard_library(module):
    code = (
        f"import json, sys; import {module}\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    # Not counted: what .pth files of the environment ask for, and what the compiled parts of
    # numpy register (up to 1.26 "cython_runtime", which belongs to no distribution).
    alone = python(code.replace(module, "numpy.random"))
    loaded = set(json.loads(python(code))) - set(json.loads(alone))
    foreign = loaded - sys.stdlib_module_names - {"dmflib", "numpy"}
    distributed = {name: packages_distributions().get(name) for name in foreign}
    assert {name for name, owners in distributed.items() if owners != ["numpy"]} == set()


BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("numpy", "dmflib"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Block())
for name in [n for n in sys.modules if n.partition(".")[0] in ("scipy", "matplotlib", "tqdm")]:
    del sys.modules[name]
"""


def test_everything_imports_where_there_is_only_numpy():
    code = BLOCK + "import importlib\n"
    code += "".join(f"importlib.import_module({module!r})\n" for module in MODULES)
    code += "try:\n    import scipy\nexcept ModuleNotFoundError:\n    print('blocked')"
    assert python(code) == "blocked\n"


def test_descent_runs_where_there_is_only_numpy():
    code = BLOCK + (
        "import numpy as np\n"
        "from dmflib.descent import gradient_descent, LossBelow, MaxSteps, RankPlateaus\n"
        "from dmflib.linear_networks import gaussian\n"
        "from dmflib.losses import Completion\n"
        "path = gradient_descent(Completion(np.eye(3), np.eye(3) > 0), gaussian([3] * 3, 1, 0),\n"
        "                        0.1, LossBelow(1e-6) | RankPlateaus(9, 100) | MaxSteps(5000))\n"
        "print(path.stopped_by, path.effective_rank().shape == path.times.shape)\n"
    )
    assert python(code) == "LossBelow(1e-06) True\n"


def test_importing_the_package_loads_none_of_its_modules():
    code = "import sys, dmflib; print([m for m in sys.modules if m.startswith('dmflib.')])"
    assert python(code) == "[]\n"


@pytest.mark.parametrize("module", MODULES)
def test_importing_takes_little_time_on_top_of_numpy(module):
    code = (
        "import time, numpy; start = time.perf_counter()\n"
        f"import {module}; print(time.perf_counter() - start)"
    )
    for _ in range(5):  # the best of several: the machine may be busy
        seconds = float(python(code))
        if seconds < SECONDS:
            break
    assert seconds < SECONDS


def test_imports_run_downhill(tmp_path, monkeypatch, capsys):
    from importlinter.api import read_configuration
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    monkeypatch.chdir(ROOT)
    contracts = read_configuration("pyproject.toml")["contracts_options"]
    assert [contract["type"] for contract in contracts] == ["layers"]
    for contract in contracts:  # nothing is let through
        assert "ignore_imports" not in contract
        assert contract["exhaustive"] in (True, "True", "true")
        assert "exhaustive_ignores" not in contract
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=str(tmp_path))
    printed = capsys.readouterr().out
    assert status == EXIT_STATUS_SUCCESS, printed
    assert "0 broken" in printed


def test_the_linter_sees_an_import_uphill(tmp_path, monkeypatch, capsys):
    """The contract itself, on a copy of the package in which `matrices` imports `descent`."""
    copy = tmp_path / "dmflib"
    copy.mkdir()
    for path in (ROOT / "dmflib").glob("*.py"):
        (copy / path.name).write_text(path.read_text())
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    with (copy / "matrices.py").open("a") as file:
        file.write("\n\ndef climb():\n    from dmflib import descent\n\n    return descent\n")
    code = "from importlinter.cli import lint_imports_command as command; command()"
    run = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "dmflib.matrices -> dmflib.descent" in run.stdout
