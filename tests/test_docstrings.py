"""Every public name says what it is, what it takes, what it returns and what it refuses."""

import ast
import importlib
import inspect
import pkgutil
import textwrap

import numpydoc.validate
import pytest

import dmflib

# Codes of numpydoc.validate that hold here. Left out, and why:
#   SS05  first lines may name the thing ("Sum of the singular values.")
#   ES01, SA01, EX01  an extended summary, See Also and Examples are not always of use
#   PR06  "int" and "integer" are both plain words
#   PR07-PR09, RT03-RT05  a type with a shape may say everything; remarks need not be sentences
#   RT02  a single return value may carry its name
CODES = {
    *("GL01", "GL02", "GL03", "GL05", "GL06", "GL07", "GL08", "GL09", "GL10"),
    *("SS01", "SS02", "SS03", "SS04", "SS06"),
    *("PR01", "PR02", "PR03", "PR04", "PR05", "PR10", "RT01", "YD01"),
}


def public_modules():
    for module in pkgutil.iter_modules(dmflib.__path__):
        if not module.name.startswith("_"):
            yield importlib.import_module(f"dmflib.{module.name}")


def public_names():
    """Functions and classes where they are defined, and the methods that a class adds."""
    for module in public_modules():
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", "") != module.__name__:
                continue
            if inspect.isfunction(thing):
                yield f"{module.__name__}.{name}", thing
            elif inspect.isclass(thing):
                yield f"{module.__name__}.{name}", thing
                for method, value in vars(thing).items():
                    # An override inherits the docstring of the method it replaces.
                    inherited = any(hasattr(base, method) for base in thing.__mro__[1:])
                    if inspect.isfunction(value) and not method.startswith("_") and not inherited:
                        yield f"{module.__name__}.{name}.{method}", value


NAMES = dict(public_names())


def test_the_package_is_walked():
    for name in (
        "dmflib.matrices.psd_power",
        "dmflib.losses.Sensing",
        "dmflib.linear_networks.Backpropagation.evaluate",
        "dmflib.descent.gradient_descent",
        "dmflib.stopping.RankPlateaus",
    ):
        assert name in NAMES
    assert "dmflib.descent.check_factors" not in NAMES  # only where it is defined


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_follow_numpydoc(name):
    errors = numpydoc.validate.validate(name)["errors"]
    assert [error for error in errors if error[0] in CODES] == []


@pytest.mark.parametrize("name", NAMES)
def test_first_lines_are_sentences(name):
    first = inspect.getdoc(NAMES[name]).splitlines()[0]
    assert first.endswith(".")
    assert len(first.split()) >= 3
    assert first[0].isupper() or first.startswith((":", "`"))


def checks_its_input(thing):
    """Whether a function, or the constructor of a class, raises ValueError in its own body."""
    if inspect.isclass(thing):
        bodies = [vars(thing).get(name) for name in ("__init__", "__post_init__")]
        return any(checks_its_input(body) for body in bodies if inspect.isfunction(body))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except OSError:  # written by dataclass
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and "ValueError" in ast.unparse(node):
            return True
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.startswith(("_checks.", "check_", "_check")):
                return True
    return False


CHECKING = [name for name, thing in NAMES.items() if checks_its_input(thing)]


def test_checks_are_found():
    assert {"dmflib.matrices.schatten_norm", "dmflib.stopping.MaxSteps"} <= set(CHECKING)
    assert "dmflib.linear_networks.views" not in CHECKING


@pytest.mark.parametrize("name", CHECKING)
def test_what_is_refused_is_documented(name):
    doc = numpydoc.docscrape.NumpyDocString(inspect.getdoc(NAMES[name]))
    assert "ValueError" in [error.type for error in doc["Raises"]]


@pytest.mark.parametrize("name", NAMES)
def test_backslashes_survive(name):
    # "\tfrac" in a string that is not raw is a tab and "rac".
    assert not {c for c in inspect.getdoc(NAMES[name]) if ord(c) < 32} - {"\n"}


@pytest.mark.parametrize("module", list(public_modules()), ids=lambda module: module.__name__)
def test_modules_begin_with_a_sentence(module):
    assert module.__doc__.splitlines()[0].rstrip().endswith(".")
