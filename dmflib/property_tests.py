r"""Tests of a function by the properties that every right answer has, on random instances.

A `Task` names the function that is asked for, draws instances of its arguments, and lists
properties: methods marked with `holds`, each worth some points. `Task.run` tries every property
on every instance and returns a `Report`, which says what holds and, where something fails, on
which instance and by how much. The same class serves a reader who checks an exercise, the open
tests of an assignment and the hidden ones, which differ in the seed alone.
"""

import copy
from dataclasses import dataclass

import numpy as np

from dmflib import _checks

LONGEST = 400  # characters of one value in a report


class FailedError(AssertionError):
    """A property does not hold; the message says how far it is off."""


class GoneError(Exception):
    """The function under test ended its process or did not come back in time."""


def holds(text, points=1):
    """Mark a method of a `Task` as a property of right answers.

    Parameters
    ----------
    text : str
        What the property says, to go after the function's name: "solves the equations".
    points : float
        What it is worth, positive.

    Returns
    -------
    callable
        A decorator. The method takes the function under test and the instance's arguments by
        name, and raises `FailedError`, best through `close` and its kin, where it fails.

    Raises
    ------
    ValueError
        If `points` is not positive.
    """
    points = _checks.real("points", points, above=0)

    def mark(method):
        method.property_text, method.property_points = text, points
        return method

    return mark


def returned(value, shape):
    """Return what a function gave back as a finite array of the given shape.

    Parameters
    ----------
    value : object
        Anything.
    shape : tuple of int
        The shape that is expected.

    Returns
    -------
    ndarray of float

    Raises
    ------
    FailedError
        If it is no such array; the message says what it is instead.
    """
    shape = tuple(shape)
    wanted = f"an array of shape {shape}" if shape else "a number"
    try:
        numbers = np.asarray(value)
        if numbers.dtype.kind not in "biuf":
            raise TypeError
    except (TypeError, ValueError):
        text = "nothing (None)" if value is None else shown(value)
        raise FailedError(f"it returned {text} instead of {wanted}") from None
    if numbers.shape != shape:
        kind = f"an array of shape {numbers.shape}" if numbers.ndim else "a single number"
        raise FailedError(f"it returned {kind} instead of {wanted}")
    numbers = numbers.astype(float)
    if not np.isfinite(numbers).all():
        raise FailedError(f"it returned {shown(numbers)}, which is not finite")
    return numbers


def close(measured, expected, tolerance, what):
    """Fail unless two arrays agree up to a tolerance in the largest entry.

    Parameters
    ----------
    measured, expected : array_like
        They must broadcast. What is not a number agrees with nothing.
    tolerance : float
        Allowed for the largest absolute difference, not negative.
    what : str
        What is compared, for the message.

    Raises
    ------
    FailedError
        If they differ by more.
    ValueError
        If the tolerance is negative.
    """
    tolerance = _checks.real("tolerance", tolerance, at_least=0)
    with np.errstate(all="ignore"):
        difference = np.max(np.abs(np.subtract(measured, expected)), initial=0.0)
    if not difference <= tolerance:  # also where the difference is not a number
        raise FailedError(f"{what}: off by {difference:.3g}, and {tolerance:.1g} is allowed")


def at_most(measured, bound, what):
    """Fail unless a number is at most a bound.

    Parameters
    ----------
    measured, bound : float
        A number that is NaN is at most nothing.
    what : str
        What is bounded, for the message.

    Raises
    ------
    FailedError
        If it is larger.
    """
    if not measured <= bound:
        raise FailedError(f"{what}: {measured:.6g}, and at most {bound:.6g} is right")


def at_least(measured, bound, what):
    """Fail unless a number is at least a bound.

    Parameters
    ----------
    measured, bound : float
        A number that is NaN is at least nothing.
    what : str
        What is bounded, for the message.

    Raises
    ------
    FailedError
        If it is smaller.
    """
    if not measured >= bound:
        raise FailedError(f"{what}: {measured:.6g}, and at least {bound:.6g} is right")


def shown(value):
    """Write a value in a few words, with four digits.

    Parameters
    ----------
    value : object
        An argument or a returned value.

    Returns
    -------
    str
        At most a few hundred characters.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        # the default would print an array of whole numbers without its points
        text = np.array2string(np.asarray(value), precision=4, threshold=60, separator=", ")
    elif isinstance(value, float):
        text = f"{value:.6g}"
    else:
        text = repr(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


@dataclass(frozen=True)
class Outcome:
    """What became of one property.

    Parameters
    ----------
    text : str
        The property.
    points, max_points : float
        What it earned and what it is worth.
    message : str
        Why it failed; empty where it holds.
    instance : dict or None
        The arguments on which it failed.
    """

    text: str
    points: float
    max_points: float
    message: str = ""
    instance: dict | None = None


@dataclass(frozen=True)
class Report:
    """What holds of a function and what does not; printing it says all.

    Parameters
    ----------
    name : str
        Name of the function.
    outcomes : tuple of Outcome
        One for each property.
    instances : int
        On how many instances each property was tried.
    """

    name: str
    outcomes: tuple
    instances: int

    @property
    def points(self):
        """Points earned."""
        return sum(outcome.points for outcome in self.outcomes)

    @property
    def max_points(self):
        """Points there are."""
        return sum(outcome.max_points for outcome in self.outcomes)

    def __str__(self):
        lines = [f"{self.name}: {self.points:g} of {self.max_points:g} points"]
        before = None
        for outcome in self.outcomes:
            mark = f"[{outcome.points:g}/{outcome.max_points:g}]"
            if not outcome.message:
                lines.append(f"{mark} {outcome.text}: holds on {self.instances} instances")
                continue
            lines.append(f"{mark} {outcome.text}: FAILS")
            reason = ["      " + line for line in outcome.message.splitlines()]
            for name, value in (outcome.instance or {}).items():
                first, *rest = shown(value).splitlines() or [""]
                reason += [f"      at {name} = {first}", *("         " + line for line in rest)]
            lines += ["      for the same reason"] if reason == before else reason
            before = reason
        return "\n".join(lines)


class Task:
    """An exercise that asks for a function: its instances and its properties.

    A subclass sets `function`, the name of the function, defines `instance`, and marks methods
    with `holds`. Numbers that belong to the exercise and not to its instances are attributes
    with a default, which the constructor replaces.

    Parameters
    ----------
    **numbers
        New values of these attributes.

    Raises
    ------
    ValueError
        If a name is no attribute of the class.
    """

    function = ""
    instances = 5

    def __init__(self, **numbers):
        for name, value in numbers.items():
            if name.startswith("_") or callable(getattr(type(self), name, len)):
                _checks.fail(name, value, f"a number that {type(self).__name__} has")
            setattr(self, name, value)

    def instance(self, rng, index):
        """Draw the arguments of one instance.

        Parameters
        ----------
        rng : numpy.random.Generator
            The only source of randomness.
        index : int
            Number of the instance, from 0; use it to have edge cases among the instances.

        Returns
        -------
        dict
            Arguments by name.
        """
        raise NotImplementedError

    def properties(self):
        """Properties in the order in which the class defines them, inherited ones first.

        Returns
        -------
        list of callable
        """
        names = {}
        for base in reversed(type(self).__mro__):
            names |= {n: None for n, m in vars(base).items() if hasattr(m, "property_text")}
        return [getattr(self, name) for name in names]

    def max_points(self):
        """Points there are.

        Returns
        -------
        float
        """
        return sum(method.property_points for method in self.properties())

    def draw(self, seed):
        """All instances that belong to a seed.

        Parameters
        ----------
        seed : int
            Not negative.

        Returns
        -------
        list of dict

        Raises
        ------
        ValueError
            If the seed is negative or no whole number.
        """
        seed = _checks.integer("seed", seed, at_least=0)
        return [self.instance(np.random.default_rng([seed, i]), i) for i in range(self.instances)]

    def run(self, function, seed):
        """Try every property on every instance.

        Parameters
        ----------
        function : callable
            The answer. It gets copies of the arguments.
        seed : int
            Chooses the instances, not negative.

        Returns
        -------
        Report

        Raises
        ------
        ValueError
            If `function` cannot be called or `seed` is negative.
        """
        if not callable(function):
            _checks.fail("function", function, "a function")
        instances = self.draw(seed)
        outcomes = [self._try(method, function, instances) for method in self.properties()]
        return Report(self.function, tuple(outcomes), len(instances))

    def _try(self, method, function, instances):
        text, worth = method.property_text, method.property_points
        for instance in instances:
            try:
                method(_Guarded(function), **copy.deepcopy(instance))
            except FailedError as failure:
                message = str(failure)
            except GoneError as failure:
                message = str(failure)
            except Exception as error:
                # what came back broke the test itself: a wrong type, as a rule
                message = f"what it returned cannot be used here ({type(error).__name__}: {error})"
            else:
                continue
            return Outcome(text, 0.0, worth, message[: 4 * LONGEST], instance)
        return Outcome(text, worth, worth)


class _Guarded:
    """A function that cannot change its caller's arrays, and whose errors are failures."""

    def __init__(self, function):
        self._function = function

    def __call__(self, *args, **kwargs):
        args, kwargs = copy.deepcopy((args, kwargs))
        try:
            return self._function(*args, **kwargs)
        except (FailedError, GoneError):
            raise
        except NotImplementedError:
            raise FailedError("it is not written yet (NotImplementedError)") from None
        except Exception as error:
            raise FailedError(f"it raised {type(error).__name__}: {error}") from error
