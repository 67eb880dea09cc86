"""Input checks shared by all modules: one message form, ``argument=value; allowed``."""

import operator
from numbers import Real

import numpy as np


def fail(name, value, allowed):
    """Raise the package's one kind of input error."""
    text = np.array2string(value, threshold=8) if isinstance(value, np.ndarray) else repr(value)
    raise ValueError(f"{name}={text[:120]}: {name} must be {allowed}")


def real(name, value, *, above=None, at_least=None, below=None, at_most=None, finite=True):
    """Return `value` as a float within the given bounds, finite unless the caller says not."""
    allowed = "a finite real number" if finite else "a real number or infinity"
    for word, bound in ((">", above), (">=", at_least), ("<", below), ("<=", at_most)):
        if bound is not None:
            allowed += f", {word} {bound:g}"
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    # `float` alone would take strings, and drop the imaginary part of numpy's complex numbers.
    if isinstance(value, bool) or not isinstance(value, Real):
        fail(name, value, allowed)
    try:
        number = float(value)
    except OverflowError:
        fail(name, value, allowed)
    inside = (
        (np.isfinite(number) if finite else not np.isnan(number))
        and (above is None or number > above)
        and (at_least is None or number >= at_least)
        and (below is None or number < below)
        and (at_most is None or number <= at_most)
    )
    if not inside:
        fail(name, value, allowed)
    return number


def integer(name, value, *, at_least):
    """Return `value` as an int that is at least `at_least`."""
    allowed = f"an integer >= {at_least}"
    if isinstance(value, (bool, np.bool_)):
        fail(name, value, allowed)
    try:
        number = operator.index(value)
    except TypeError:
        fail(name, value, allowed)
    if number < at_least:
        fail(name, value, allowed)
    return number


def array(name, value, *, ndim=None, min_ndim=None, shape=None, min_size=1):
    """Return `value` as a finite float array of the given dimension or shape.

    `shape` may hold None for a free dimension.
    """
    if shape is not None:
        lengths = ", ".join("any" if length is None else str(length) for length in shape)
        allowed = f"a finite real array of shape ({lengths})"
    elif ndim is not None:
        allowed = f"a finite real array with {ndim} dimension{'s' * (ndim != 1)}"
    elif min_ndim is not None:
        allowed = f"a finite real array with at least {min_ndim} dimensions"
    else:
        allowed = "a finite real array"
    if min_size:
        allowed += ", not empty"
    try:
        numbers = np.asarray(value)
        if numbers.dtype.kind not in "biuf":
            raise TypeError
        numbers = numbers.astype(float, copy=False)
    except (TypeError, ValueError):
        fail(name, value, allowed)
    fits = (
        (ndim is None or numbers.ndim == ndim)
        and (min_ndim is None or numbers.ndim >= min_ndim)
        and numbers.size >= min_size
    )
    if shape is not None:
        fits = fits and numbers.ndim == len(shape)
        fits = fits and all(w is None or w == h for w, h in zip(shape, numbers.shape, strict=True))
    if not fits:
        raise ValueError(f"{name} has shape {numbers.shape}: {name} must be {allowed}")
    if not np.isfinite(numbers).all():
        fail(name, numbers, allowed)
    return numbers


def matrices(name, value):
    """Return `value` as a finite array of shape (..., m, n) with m, n >= 1."""
    return array(name, value, min_ndim=2)


def choice(name, value, options):
    """Return `value` if it is one of `options`."""
    if not isinstance(value, str) or value not in options:
        fail(name, value, "one of " + ", ".join(repr(option) for option in options))
    return value


def generator(name, value):
    """Return a numpy Generator made from a Generator, a seed or None."""
    try:
        return np.random.default_rng(value)
    except (TypeError, ValueError):
        fail(name, value, "a numpy.random.Generator, a non-negative integer seed or None")
