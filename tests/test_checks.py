"""The input checks themselves, and the one form of their messages."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmflib import _checks
from dmflib._progress import progress_bar

fast = settings(deadline=None)


def refuses(check, *args, match="must be", **kwargs):
    with pytest.raises(ValueError, match=match) as caught:
        check("size", *args, **kwargs)
    assert str(caught.value).startswith("size")
    return str(caught.value)


@pytest.mark.parametrize(
    "value",
    [2, 2.0, np.float32(2), np.int8(2), np.uint64(2), np.array(2.0), np.array(2), Fraction(2)],
)
def test_numbers_of_every_kind_are_real(value):
    assert type(_checks.real("size", value)) is float
    assert _checks.real("size", value, above=1, at_least=2, at_most=2, below=3) == 2


@pytest.mark.parametrize(
    "value",
    [
        *(None, "2", b"2", True, np.True_, 2j, np.complex128(2 + 1j), [2], np.array([2.0]), {}),
        *(..., np.array("2")),
        *(np.nan, np.inf, -np.inf, 10**400, Fraction(10**400), np.float32("nan")),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_not_a_finite_real_number(value):
    refuses(_checks.real, value, match="a finite real number")


@fast
@given(st.floats(allow_nan=False), st.floats(-1e6, 1e6))
def test_bounds(value, bound):
    for word, holds in {
        "above": value > bound,
        "at_least": value >= bound,
        "below": value < bound,
        "at_most": value <= bound,
    }.items():
        if holds:
            assert _checks.real("size", value, **{word: bound}, finite=False) == value
        else:
            message = refuses(_checks.real, value, **{word: bound}, finite=False)
            sign = {"above": ">", "at_least": ">=", "below": "<", "at_most": "<="}[word]
            assert f"{sign} {bound:g}" in message


def test_infinity_where_it_is_allowed():
    assert _checks.real("size", np.inf, above=0, finite=False) == np.inf
    refuses(_checks.real, np.nan, finite=False, match="a real number or infinity")


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_integers(value):
    assert type(_checks.integer("size", value, at_least=3)) is int
    refuses(_checks.integer, value, at_least=4, match="an integer >= 4")


@pytest.mark.parametrize("value", [3.0, "3", None, True, np.False_, [3], np.array([3]), np.nan])
def test_what_is_not_an_integer(value):
    refuses(_checks.integer, value, at_least=0, match="an integer >= 0")


def test_arrays_keep_their_values_and_become_floats():
    for value in ([[1, 2]], ((1, 2),), np.array([[1, 2]], dtype=np.uint8), [[True, 2]]):
        result = _checks.array("size", value, ndim=2)
        assert result.dtype == float
        np.testing.assert_array_equal(result, [[1, 2]])
    original = np.ones(3)
    assert _checks.array("size", original) is original  # nothing is copied without need


@pytest.mark.parametrize(
    "value",
    [
        None,
        "ab",
        [["a"]],
        [[1], [2, 3]],
        [1j],
        [None],
        {},
        ...,
        [np.nan],
        [[1, np.inf]],
        [10**400],
    ],
)
def test_what_is_not_an_array(value):
    refuses(_checks.array, value, match="a finite real array")


@pytest.mark.parametrize(
    ("options", "good", "bad", "allowed"),
    [
        ({"ndim": 1}, [1], [[1]], "1 dimension, not empty"),
        ({"ndim": 2}, [[1]], [1], "2 dimensions, not empty"),
        ({"min_ndim": 2}, [[[1]]], [1], "at least 2 dimensions"),
        ({"shape": (2, None)}, [[1], [2]], [[1, 2]], r"of shape \(2, any\)"),
        ({"shape": ()}, 1, [1], r"of shape \(\)"),
        ({}, [1], [], "not empty"),
        ({"min_size": 0}, [], [np.nan], "a finite real array"),
    ],
)
def test_shapes(options, good, bad, allowed):
    _checks.array("size", good, **options)
    message = refuses(_checks.array, bad, match=allowed, **options)
    if np.isfinite(bad).all():
        assert f"has shape {np.shape(bad)}" in message


def test_matrices_take_stacks():
    assert _checks.matrices("size", np.ones((2, 3, 4))).shape == (2, 3, 4)
    refuses(_checks.matrices, np.ones(3), match="at least 2 dimensions")
    refuses(_checks.matrices, np.ones((3, 0)), match="not empty")


@pytest.mark.parametrize("value", ["c", None, 3, ["a"], {"a": 1}])
def test_choices(value):
    assert _checks.choice("size", "a", ("a", "b")) == "a"
    refuses(_checks.choice, value, ("a", "b"), match="one of 'a', 'b'")


def test_generators():
    rng = np.random.default_rng(1)
    assert _checks.generator("size", rng) is rng
    first = _checks.generator("size", 5).random()
    assert first == np.random.default_rng(5).random()
    assert _checks.generator("size", None).random() != _checks.generator("size", None).random()
    for value in (-1, 1.5, "seed", ...):
        refuses(_checks.generator, value, match="numpy.random.Generator")


def test_messages_hold_the_value_and_stay_short():
    assert "size=-2.5: size must be" in refuses(_checks.real, -2.5, above=0)
    message = refuses(_checks.array, np.full((500, 500), np.nan))
    assert len(message) < 300
    assert "nan" in message


def test_a_bar_that_is_not_wanted_is_none(capsys):
    with progress_bar(False, 10, "step") as bar:
        assert bar is None
    with progress_bar(True, 10, "step") as bar:
        bar.update(10)
    assert "10/10" in capsys.readouterr().err
    assert bar.disable  # closed
