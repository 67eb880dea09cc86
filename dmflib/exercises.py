r"""Checks of the exercises that ask for a function: ``check(f)`` says what holds and what fails.

The name of the function chooses the exercise. In a notebook::

    from dmflib.exercises import check

    def sign_change_time(scale):
        ...

    check(sign_change_time)
"""

import numpy as np

from dmflib import _checks
from dmflib.property_tests import Task, at_least, at_most, close, holds, returned

_TASKS = {}


def _exercise(task):
    """Register a task under the name of its function."""
    if task.function in _TASKS:
        raise RuntimeError(f"two exercises ask for {task.function}")
    _TASKS[task.function] = task
    return task


def names():
    """Names of the functions that the chapters ask for and `check` knows.

    Returns
    -------
    list of str
    """
    return sorted(_TASKS)


def check(function, seed=0):
    """Print which properties a reader's function has, and where one fails.

    Parameters
    ----------
    function : callable
        It must have the name that the exercise gives it.
    seed : int
        Another seed tries other instances.

    Raises
    ------
    ValueError
        If no exercise asks for a function of this name, or `seed` is negative.
    """
    name = getattr(function, "__name__", None)
    if not callable(function) or name not in _TASKS:
        _checks.fail("function", function, "a function named " + ", ".join(names()))
    print(_TASKS[name]().run(function, seed))


# --- the exercises ------------------------------------------------------------------------------


@_exercise
class _KernelFit(Task):
    """Least squares, random features (a): the least-norm fit from inner products alone."""

    function = "kernel_fit"

    def instance(self, rng, index):
        n, d = int(rng.integers(2, 6)), int(rng.integers(2, 9))
        X, row = rng.standard_normal((n, d)), rng.standard_normal(d)
        if index == 0:  # a row twice: the matrix of inner products has no inverse
            X[1] = X[0]
        y = X @ rng.standard_normal(d)
        return {"gram": X @ X.T, "cross": X @ row, "y": y}

    @holds("is linear in the answers")
    def linear(self, f, gram, cross, y):
        first = returned(f(gram, cross, y), ())
        close(returned(f(gram, cross, -2 * y), ()), -2 * first, 1e-7 * (1 + abs(first)), "-2 y")
        some = abs(np.subtract(*(returned(f(gram, cross, v), ()) for v in (gram[0], 0 * y))))
        at_least(some, 1e-9, "change when the answers change")

    @holds("fits the data: at a sample's own place it gives that sample's answer")
    def interpolates(self, f, gram, cross, y):
        for i in range(len(y)):
            close(returned(f(gram, gram[i], y), ()), y[i], 1e-6 * (1 + abs(y[i])), f"sample {i}")

    @holds("is the fit of least norm")
    def least_norm(self, f, gram, cross, y):
        # Features with these inner products: rows of a root of the matrix, one for the new point.
        values, vectors = np.linalg.eigh(gram)
        kept = values > 1e-10 * values[-1]
        features = vectors[:, kept] * np.sqrt(values[kept])
        row = (vectors[:, kept].T @ cross) / np.sqrt(values[kept])
        beta = np.linalg.lstsq(features, y, rcond=None)[0]
        expected = row @ beta
        close(returned(f(gram, cross, y), ()), expected, 1e-6 * (1 + abs(expected)), "prediction")


@_exercise
class _SignChangeTime(Task):
    """Norm blow-up, depth one: when the determinant of the flow from a scaled identity is zero."""

    function = "sign_change_time"

    def instance(self, rng, index):
        scale = (1e-6, 30.0)[index] if index < 2 else float(10 ** rng.uniform(-3, 1))
        return {"scale": scale}

    @staticmethod
    def _determinant(scale, t):
        # W11 = scale, W12 = W21 = 1 - exp(-t), W22 = scale * exp(-t), without cancellation
        root = 2 * np.sinh(t / 2)
        return np.exp(-t) * (scale - root) * (scale + root)

    @staticmethod
    def _time(f, scale):
        t = returned(f(scale), ())
        at_least(t, 1e-300, "time")
        return t

    @holds("is a positive time")
    def positive(self, f, scale):
        self._time(f, scale)

    @holds("is where the determinant turns from positive to negative")
    def changes(self, f, scale):
        t = self._time(f, scale)
        before, after = (self._determinant(scale, factor * t) for factor in (1 - 1e-3, 1 + 1e-3))
        at_least(before, 0.0, "the determinant a thousandth earlier")
        at_most(after, 0.0, "the determinant a thousandth later")

    @holds("is accurate to nine digits, for a tiny scale too")
    def accurate(self, f, scale):
        t = self._time(f, scale)
        slope = np.exp(-t) * 2 * scale * np.cosh(t / 2)  # minus the derivative at the zero
        close(self._determinant(scale, t) / slope, 0.0, 1e-9 * abs(t), "distance to the zero")


@_exercise
class _PeriodTwo(Task):
    """Identical start, two values for ever (a): the orbit of period two at depth 2."""

    function = "period_two"

    def instance(self, rng, index):
        return {"kappa": (1.0001, 2.0)[index] if index < 2 else float(1 + rng.exponential())}

    @holds("returns two positive numbers, the larger first")
    def ordered(self, f, kappa):
        x, y = returned(f(kappa), (2,))
        at_least(y, 1e-300, "second number")
        at_most(y, x * (1 - 1e-6), "second number")

    @holds("is an orbit: a step of descent takes each number to the other")
    def orbit(self, f, kappa):
        x, y = returned(f(kappa), (2,))
        at_least(abs(x - y), 1e-6, "distance of the two numbers")
        close(x * (1 + kappa * (1 - x**2)), y, 1e-9, "one step from the first")
        close(y * (1 + kappa * (1 - y**2)), x, 1e-9, "one step from the second")
