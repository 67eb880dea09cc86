"""The checks of exercises: right answers pass, wrong ones are told what is wrong and where."""

import math
import subprocess
import sys

import numpy as np
import pytest

from dmflib import exercises
from dmflib.exercises import check

RIGHT = {
    "kernel_fit": lambda gram, cross, y: cross @ np.linalg.pinv(gram, rcond=1e-10) @ y,
    "sign_change_time": lambda scale: 2 * math.asinh(scale / 2),
    "period_two": lambda kappa: np.sqrt(
        (1 + 1 / kappa + np.array([1, -1]) * math.sqrt((1 + 3 / kappa) * (1 - 1 / kappa))) / 2
    ),
}


def cancelling(scale):
    q = (2 + scale**2 - math.sqrt((2 + scale**2) ** 2 - 4)) / 2
    return -math.log(q)


#: (function, an answer that is wrong, number of properties that it keeps)
WRONG = [
    ("kernel_fit", lambda gram, cross, y: 0.0, 0),
    ("kernel_fit", lambda gram, cross, y: float(y[0]), 1),
    ("kernel_fit", lambda gram, cross, y: float(cross @ y), 1),
    ("kernel_fit", lambda gram, cross, y: cross @ np.linalg.solve(gram + np.eye(len(y)), y), 1),
    ("sign_change_time", lambda scale: scale, 1),
    ("sign_change_time", cancelling, 2),
    ("sign_change_time", lambda scale: -2 * math.asinh(scale / 2), 0),
    ("period_two", lambda kappa: np.ones(2), 0),
    ("period_two", lambda kappa: (1.2, 0.7), 1),
    ("period_two", lambda kappa: RIGHT["period_two"](kappa)[::-1], 1),
]


def named(name, function):
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    wrapper.__name__ = name
    return wrapper


def task(name):
    return exercises._TASKS[name]()


def test_every_exercise_has_an_answer_here():
    assert sorted(RIGHT) == exercises.names()
    assert {name for name, _, _ in WRONG} == set(RIGHT)


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("seed", range(20))
def test_right_answers_have_every_property(name, seed):
    report = task(name).run(RIGHT[name], seed)
    assert report.points == report.max_points, str(report)


@pytest.mark.parametrize(("name", "answer", "kept"), WRONG)
def test_wrong_answers_are_found_on_any_seed(name, answer, kept):
    for seed in range(5):
        report = task(name).run(answer, seed)
        assert sum(outcome.points > 0 for outcome in report.outcomes) == kept, str(report)
        for outcome in report.outcomes:
            if not outcome.points:
                assert outcome.message
                assert outcome.instance


@pytest.mark.parametrize("name", RIGHT)
def test_cheap_answers_have_few_properties(name):
    cheap = (lambda *args: 0.0, lambda *args: np.zeros(2), lambda *args: None, lambda *args: np.nan)
    for answer in cheap:
        assert task(name).run(answer, 0).points == 0


def test_check_prints_what_fails_and_on_which_instance(capsys):
    check(named("sign_change_time", lambda scale: scale))
    printed = capsys.readouterr().out
    assert "sign_change_time: 1 of 3 points" in printed
    assert "is where the determinant turns from positive to negative: FAILS" in printed
    assert "at scale = " in printed
    check(named("sign_change_time", RIGHT["sign_change_time"]), seed=3)
    assert "3 of 3 points" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [None, 3, "period_two", lambda kappa: 1, abs])
def test_an_unknown_function_is_refused_with_the_names_that_are_known(bad):
    with pytest.raises(ValueError, match=r"^function=.*must be a function named kernel_fit, "):
        check(bad)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match=r"^seed=-1"):
        check(named("period_two", RIGHT["period_two"]), seed=-1)


def test_the_orbit_is_that_of_gradient_descent():
    """The map of the exercise is a step of descent at depth 2 from equal factors."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        kappa, x = 1 + rng.exponential(), rng.uniform(0.1, 1.3)
        target = 2.0  # kappa = step size * target, and x = factor / sqrt(target)
        eta, d = kappa / target, x * math.sqrt(target)
        d -= eta * d * (d * d - target)
        assert d / math.sqrt(target) == pytest.approx(x * (1 + kappa * (1 - x**2)), rel=1e-12)


def test_the_determinant_is_that_of_the_flow():
    """At depth one, W' = -grad: three entries relax, the hidden one stays."""
    for scale, t in ((0.1, 0.05), (0.1, 0.2), (3.0, 1.0)):
        W = np.array([[scale, 1 - math.exp(-t)], [1 - math.exp(-t), scale * math.exp(-t)]])
        found = exercises._SignChangeTime._determinant(scale, t)
        assert found == pytest.approx(np.linalg.det(W), rel=1e-12)


def test_checks_need_numpy_alone():
    code = (
        "import sys, dmflib.exercises\n"
        "print([m for m in ('scipy', 'matplotlib', 'IPython') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
