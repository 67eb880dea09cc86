"""What a problem set is made of, and how a cohort's name draws this year's.

A set is a module ``assignments/NAME/master.py`` with one object ``SET``. Everything in it that a
student must not see is a solution, a wrong answer or a rubric; everything that the tests need is
in ``checks.py`` beside it, which students get as it is.
"""

import hashlib
import importlib
import inspect
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from types import SimpleNamespace

import numpy as np

ASSIGNMENTS = Path(__file__).resolve().parents[1] / "assignments"

#: Stands for the drawn numbers in solutions: ``drawn.power`` becomes this year's literal.
drawn = SimpleNamespace()


class Text(Template):
    """Markdown in which ``@name`` is a drawn number; dollars are free for mathematics."""

    delimiter = "@"


def wrong(reveals, keeps=()):
    """Mark a function of a `Variant` as a common wrong answer.

    Parameters
    ----------
    reveals : str
        What the error shows about the student's understanding.
    keeps : tuple of str
        Names of the properties (methods of the task) that this answer still has.
    """

    def mark(function):
        function.reveals, function.keeps = reveals, tuple(keeps)
        return function

    return mark


class Variant:
    """One version of a problem: a statement, numbers to draw, a solution, common wrong answers.

    A subclass sets the attributes below and defines the solution as a static method with the name
    of the function that is asked for. In it the lines between ``### BEGIN SOLUTION`` and
    ``### END SOLUTION`` are cut from the student's copy, and ``drawn.name`` is replaced by this
    year's number. Common wrong answers are static methods marked with `wrong`.
    """

    task = None  #: class of the tests, a `dmflib.property_tests.Task` in ``checks.py``
    text = ""  #: what is asked, Markdown; ``@name`` is a drawn number

    @staticmethod
    def draw(rng):
        """Numbers of this cohort, by name; plain Python numbers, strings or tuples of them."""
        return {}

    @classmethod
    def solution(cls, numbers):
        """Source of the solution, markers included."""
        return _source(vars(cls)[cls.task.function], numbers)

    @classmethod
    def wrong_answers(cls, numbers):
        """Common wrong answers: name, source, what it reveals, properties that still hold."""
        for name, value in vars(cls).items():
            function = getattr(value, "__func__", None)
            if hasattr(function, "reveals"):
                source = _source(value, numbers).replace(
                    f"def {name}(", f"def {cls.task.function}("
                )
                yield name, source, function.reveals, function.keeps


def _source(method, numbers):
    source = textwrap.dedent(inspect.getsource(method.__func__))
    source = source[re.search(r"^def ", source, re.M).start() :]  # without decorators
    return re.sub(r"\bdrawn\.(\w+)", lambda name: _literal(numbers[name[1]]), source).rstrip()


def _literal(value):
    """A number as it may stand in any formula: ``-0.5 ** 2`` would not be the square."""
    text = repr(value)
    return f"({text})" if text.startswith("-") else text


@dataclass(frozen=True)
class Implement:
    """A problem that asks for a function, in several variants; graded by machine."""

    name: str
    title: str
    minutes: int
    variants: tuple


@dataclass(frozen=True)
class Write:
    """A question answered in words, graded by hand.

    Parameters
    ----------
    name, title : str
    minutes : int
    text : str
        The question; ``@name`` is a drawn number of the variant named by `of`.
    answer : str
        A model answer.
    rubric : tuple of (points, text)
        What earns how much.
    of : str
        Name of the `Implement` problem whose numbers the text may use; empty for none.
    by_variant : dict
        For each variant's class name another ``(text, answer)``, where they differ.
    """

    name: str
    title: str
    minutes: int
    text: str
    answer: str
    rubric: tuple
    of: str = ""
    by_variant: dict = field(default_factory=dict)

    @property
    def points(self):
        """Points there are."""
        return sum(points for points, _ in self.rubric)


@dataclass(frozen=True)
class Experiment:
    """An open code cell: a figure or a table that a written question then asks about."""

    name: str
    title: str
    minutes: int
    text: str
    solution: str
    of: str = ""


@dataclass(frozen=True)
class ProblemSet:
    """One problem set: the chapter's name, an introduction, and its problems in order."""

    name: str
    title: str
    outcomes: tuple
    text: str
    problems: tuple

    @property
    def minutes(self):
        """Minutes for all of it."""
        return sum(problem.minutes for problem in self.problems)


@dataclass(frozen=True)
class Drawn:
    """What a cohort gets: for each `Implement` problem its variant, numbers and open seed."""

    variants: dict
    numbers: dict
    seeds: dict

    def task(self, name):
        """The tests of a problem, with this year's numbers."""
        return self.variants[name].task(**self.numbers[name])


def names():
    """Names of the sets that are there."""
    return sorted(path.parent.name for path in ASSIGNMENTS.glob("*/master.py"))


def load(name):
    """The `ProblemSet` of that name."""
    return importlib.import_module(f"assignments.{name}.master").SET


def seed(*words):
    """A number below 2**31 that depends on every word, the same on every machine."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:4], "big") // 2


def choose(problem_set, cohort, variants=None):
    """Draw a cohort's variants and numbers.

    Parameters
    ----------
    problem_set : ProblemSet
    cohort : str
        The cohort's name; the same name draws the same course.
    variants : dict, optional
        Class names of variants to take whatever the draw says, by problem: for tests.

    Returns
    -------
    Drawn
    """
    chosen, numbers, seeds = {}, {}, {}
    for problem in problem_set.problems:
        if not isinstance(problem, Implement):
            continue
        words = (cohort, problem_set.name, problem.name)
        rng = np.random.default_rng(seed(*words, "draw"))
        variant = problem.variants[rng.integers(len(problem.variants))]
        if variants and problem.name in variants:
            (variant,) = (v for v in problem.variants if v.__name__ == variants[problem.name])
        chosen[problem.name] = variant
        numbers[problem.name] = variant.draw(rng)
        seeds[problem.name] = seed(*words, "open")
    return Drawn(chosen, numbers, seeds)
