"""Gradient descent: against Algorithm 1 written out, and every way in which a run can end."""

import inspect
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmflib import descent, stopping
from dmflib.descent import GradientBelow, LossBelow, MaxSteps, gradient_descent
from dmflib.linear_networks import balance_defects, factor_gradients, gaussian, identical, product
from dmflib.losses import Completion, FullObservation, Regression, Sensing
from dmflib.matrices import frobenius_norm
from dmflib.stopping import Diverged, DivergenceWarning, Interrupted, InterruptionWarning
from dmflib.trajectory import KEEPABLE

fast = settings(deadline=None, max_examples=25)


def algorithm_1(loss, factors, step_size, steps):
    """Algorithm 1 of source A, literally: all gradients first, then all updates."""
    history = [[W.copy() for W in factors]]
    for _ in range(steps):
        factors = history[-1]
        outer = loss.gradient(product(factors))
        updated = []
        for j, W in enumerate(factors):
            left, right = np.eye(W.shape[0]), np.eye(W.shape[1])
            for V in factors[j + 1 :]:
                left = V @ left
            for V in reversed(factors[:j]):
                right = right @ V
            updated.append(W - step_size * left.T @ outer @ right.T)
        history.append(updated)
    return history


def example(widths=(4, 3, 5), seed=0):
    rng = np.random.default_rng(seed)
    loss = FullObservation(rng.normal(size=(widths[-1], widths[0])))
    return loss, gaussian(widths, 0.5, rng)


@fast
@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=6),
    st.sampled_from(["full", "completion", "sensing", "regression"]),
    st.integers(0, 2**32 - 1),
)
def test_it_is_algorithm_1(widths, kind, seed):
    rng = np.random.default_rng(seed)
    m, n = widths[-1], widths[0]
    mask = rng.random((m, n)) < 0.7
    mask[0, 0] = True
    loss = {
        "full": lambda: FullObservation(rng.normal(size=(m, n))),
        "completion": lambda: Completion(rng.normal(size=(m, n)), mask),
        "sensing": lambda: Sensing(rng.normal(size=(3, m, n)), rng.normal(size=3)),
        "regression": lambda: Regression(rng.normal(size=(n, 4)), rng.normal(size=(m, 4))),
    }[kind]()
    start = gaussian(widths, 0.5, rng)
    copies = [W.copy() for W in start]
    path = gradient_descent(loss, start, 1e-3, MaxSteps(7), keep=("products", "factors"))
    expected = algorithm_1(loss, start, 1e-3, 7)
    for k, factors in enumerate(expected):
        for history, W in zip(path.factors, factors, strict=True):
            np.testing.assert_allclose(history[k], W, rtol=1e-10, atol=1e-10)
        assert path.losses[k] == pytest.approx(loss.value(product(factors)), rel=1e-9)
        np.testing.assert_allclose(path.products[k], product(factors), rtol=1e-9, atol=1e-10)
    for W, copy, final in zip(start, copies, path.final_factors, strict=True):
        np.testing.assert_array_equal(W, copy)
        assert not np.shares_memory(W, final)


def test_a_single_factor_follows_the_closed_form():
    # W_k - T = (1 - eta)**k (W_0 - T)
    loss, (W0,) = example((3, 3))
    path = gradient_descent(loss, [W0], 0.1, MaxSteps(50))
    decay = 0.9 ** np.arange(51)[:, None, None]
    np.testing.assert_allclose(
        path.products, loss.target + decay * (W0 - loss.target), rtol=1e-12, atol=1e-14
    )


def test_the_loss_decreases_by_the_gradient_for_small_steps():
    # d loss = -eta |gradient|**2 + O(eta**2): the quotient tends to 1 linearly in eta.
    loss, start = example((4, 3, 5, 2))
    G = descent.Backpropagation([W.shape for W in start])
    G.evaluate(loss, start)
    square = np.sum(G.flat_gradient**2)
    defects = []
    for eta in (1e-3, 1e-4, 1e-5):
        losses = gradient_descent(loss, start, eta, MaxSteps(1)).losses
        defects.append(abs((losses[0] - losses[1]) / (eta * square) - 1))
    assert defects[0] / defects[1] == pytest.approx(10, rel=0.1)
    assert defects[1] / defects[2] == pytest.approx(10, rel=0.1)


def test_balance_drifts_with_the_square_of_the_step_only():
    loss, start = example((4, 3, 5))
    drift = []
    for eta in (1e-2, 1e-3):
        path = gradient_descent(loss, start, eta, MaxSteps(round(1 / eta)))
        change = balance_defects(path.final_factors)[0] - balance_defects(start)[0]
        drift.append(np.linalg.norm(change))
    assert drift[0] / drift[1] == pytest.approx(10, rel=0.2)


# What is recorded


@pytest.mark.parametrize(
    ("record", "steps", "times"),
    [
        (1, 4, [0, 1, 2, 3, 4]),
        (3, 7, [0, 3, 6, 7]),
        (3, 6, [0, 3, 6]),
        (100, 7, [0, 7]),
        ([2, 5], 7, [0, 2, 5, 7]),
        ((5, 2, 2, 0, 99), 7, [0, 2, 5, 7]),
        (range(4, 7), 6, [0, 4, 5, 6]),
        (np.array([7]), 7, [0, 7]),
        (np.int64(2), 3, [0, 2, 3]),
        (1, 0, [0]),
        ([3], 0, [0]),
    ],
)
def test_the_start_the_end_and_the_wished_steps_are_recorded(record, steps, times):
    loss, start = example()
    full = gradient_descent(loss, start, 0.01, MaxSteps(steps))
    path = gradient_descent(loss, start, 0.01, MaxSteps(steps), record=record)
    assert path.times.tolist() == times
    np.testing.assert_array_equal(path.losses, full.losses[times])
    np.testing.assert_array_equal(path.products, full.products[times])


@pytest.mark.parametrize("keep", [(), "products", "factors", ("singular_values", "factors")])
def test_keeping_does_not_change_the_run(keep):
    loss, start = example()
    full = gradient_descent(loss, start, 0.01, MaxSteps(20), keep=KEEPABLE)
    path = gradient_descent(loss, start, 0.01, MaxSteps(20), keep=keep)
    np.testing.assert_array_equal(path.losses, full.losses)
    for name in [keep] if isinstance(keep, str) else keep:
        for ours, theirs in zip(getattr(path, name), getattr(full, name), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for name in {"products", "factors"} - set([keep] if isinstance(keep, str) else keep):
        with pytest.raises(ValueError, match="keep must contain"):
            getattr(path, name)


def test_memory_does_not_grow_with_steps():
    n = 60
    loss = FullObservation(np.eye(n))
    start = identical(n, 3, 0.1)
    peaks = []
    for steps in (20, 400):
        tracemalloc.start()
        gradient_descent(loss, start, 1e-3, MaxSteps(steps), record=10**6)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert abs(peaks[1] - peaks[0]) < 8 * n * n / 4


# How a run ends


@pytest.mark.parametrize("name", ["steps", "loss", "gradient"])
def test_the_rule_that_ended_the_run_is_reported(name):
    loss, start = example((3, 3, 3), seed=1)
    fired = {"steps": MaxSteps(50), "loss": LossBelow(0.5), "gradient": GradientBelow(0.8)}[name]
    others = {
        "steps": LossBelow(1e-300) | GradientBelow(0),
        "loss": MaxSteps(10**5) | GradientBelow(0),
        "gradient": MaxSteps(10**5) | LossBelow(0),
    }[name]
    for stop in (fired, fired | others, others | fired):
        path = gradient_descent(loss, start, 0.01, stop)
        assert path.stopped_by == fired
    assert path.evaluations == path.times[-1] + 1
    # It held at the last step and at none before.
    norms = [
        np.sqrt(sum(np.sum(G**2) for G in factor_gradients_of(loss, factors)))
        for factors in algorithm_1(loss, start, 0.01, int(path.times[-1]))
    ]
    held = {
        "steps": path.times >= 50,
        "loss": path.losses <= 0.5,
        "gradient": np.array(norms) <= 0.8,
    }[name]
    assert held.tolist() == [False] * (len(held) - 1) + [True]


def factor_gradients_of(loss, factors):
    return factor_gradients(factors, loss.gradient(product(factors)))


def test_and_waits_for_the_later_rule():
    loss, start = example((3, 3, 3), seed=1)
    early = gradient_descent(loss, start, 0.01, LossBelow(0.5)).times[-1]
    for steps in (early - 10, early + 10):
        stop = MaxSteps(steps) & LossBelow(0.5)
        path = gradient_descent(loss, start, 0.01, stop)
        assert path.times[-1] == max(early, steps)
        assert path.stopped_by == stop


def test_a_start_that_fulfils_the_rule_takes_no_step():
    loss, start = example()
    path = gradient_descent(loss, start, 0.01, LossBelow(1e9))
    assert (path.times.tolist(), path.evaluations) == ([0], 1)
    for W, final in zip(start, path.final_factors, strict=True):
        np.testing.assert_array_equal(W, final)


@pytest.mark.parametrize("widths", [(3, 3), (4, 3, 5), (3, 3, 3, 3)])
@pytest.mark.parametrize("record", [1, 7])
def test_a_run_continued_from_its_end_is_one_long_run(widths, record):
    loss, start = example(widths)
    first = gradient_descent(loss, start, 0.01, MaxSteps(21), record=record)
    second = gradient_descent(loss, first.final_factors, 0.01, MaxSteps(14), record=record)
    whole = gradient_descent(loss, start, 0.01, MaxSteps(35), record=record)
    np.testing.assert_array_equal(np.r_[first.times, second.times[1:] + 21], whole.times)
    np.testing.assert_array_equal(np.r_[first.losses, second.losses[1:]], whole.losses)
    np.testing.assert_array_equal(np.r_[first.products, second.products[1:]], whole.products)


@pytest.mark.parametrize("record", [1, 4, 1000])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_divergence_is_reported_with_its_step(depth, record):
    loss, start = FullObservation(np.diag([10.0, 5.0])), identical(2, depth, 1.5)
    with pytest.warns(DivergenceWarning, match="gradient descent ended by divergence") as caught:
        path = gradient_descent(loss, start, 3.0, MaxSteps(10**5), record=record, keep=KEEPABLE)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    step = path.stopped_by.step
    assert path.stopped_by == Diverged(step)
    # The literal algorithm has its first infinite loss at this step.
    with np.errstate(all="ignore"):
        expected = [
            0.5 * np.sum((product(f) - loss.target) ** 2) if f_finite(f) else np.inf
            for f in algorithm_1(Unchecked(loss.target), start, 3.0, step)
        ]
    assert np.isfinite(expected).tolist() == [True] * step + [False]
    assert path.times[-1] == step - 1
    assert np.isfinite(path.losses).all()
    assert np.isfinite(path.products).all()
    assert np.isfinite(path.singular_values).all()
    assert all(np.isfinite(W).all() for W in path.final_factors)
    assert path.losses[-1] == pytest.approx(expected[-2], rel=1e-6)
    np.testing.assert_array_equal(path.products[-1], product(path.final_factors))


def f_finite(factors):
    return all(np.isfinite(W).all() for W in factors)


class Unchecked:
    """Half squared distance, for states that the library's loss would refuse."""

    def __init__(self, target):
        self.target, self.shape = target, target.shape

    def value(self, W):
        return 0.5 * np.sum((W - self.target) ** 2)

    def gradient(self, W):
        return W - self.target


def test_divergence_with_a_loss_that_refuses_infinite_matrices():
    class Strict(Unchecked):
        def value(self, W):
            return 0.5 * frobenius_norm(W - self.target) ** 2

    with pytest.warns(DivergenceWarning):
        path = gradient_descent(
            Strict(np.diag([10.0, 5.0])), identical(2, 3, 1.5), 3.0, MaxSteps(10**5)
        )
    assert np.isfinite(path.losses).all()


def test_a_start_with_infinite_loss_is_an_error():
    with pytest.raises(ValueError, match="factors must be small enough for its loss"):
        gradient_descent(FullObservation(np.eye(2)), identical(2, 2, 1e200), 0.1, MaxSteps(3))


class Interrupting(Unchecked):
    """Presses Ctrl-C during the k-th evaluation."""

    def __init__(self, target, k):
        super().__init__(target)
        self.calls, self.k = 0, k

    def gradient(self, W):
        self.calls += 1
        if self.calls == self.k:
            raise KeyboardInterrupt
        return super().gradient(W)


@pytest.mark.parametrize("call", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("record", [1, 3, 1000])
def test_an_interrupted_run_keeps_its_records(call, record):
    loss, start = example((3, 3, 3))
    whole = gradient_descent(Unchecked(loss.target), start, 0.01, MaxSteps(30))
    with pytest.warns(InterruptionWarning, match=f"interruption after step {call - 1}") as caught:
        path = gradient_descent(
            Interrupting(loss.target, call), start, 0.01, MaxSteps(30), record=record
        )
    assert caught[0].filename == __file__
    assert path.stopped_by == Interrupted(call - 1)
    expected = sorted({*range(0, call, record), call - 1})
    assert path.times.tolist() == expected
    np.testing.assert_array_equal(path.losses, whole.losses[expected])
    np.testing.assert_array_equal(path.products, whole.products[expected])
    rest = gradient_descent(
        Unchecked(loss.target), path.final_factors, 0.01, MaxSteps(30 - path.times[-1])
    )
    np.testing.assert_array_equal(rest.products[-1], whole.products[-1])


def test_an_interruption_at_any_line_leaves_a_whole_state():
    """Ctrl-C between any two lines of the loop: the record is that of the uninterrupted run."""
    loss, start = example((2, 2, 2))
    run = lambda: gradient_descent(  # noqa: E731
        loss, start, 0.05, MaxSteps(4), keep=("products", "factors")
    )
    whole = run()
    source, first = inspect.getsourcelines(gradient_descent)
    begin = next(i for i, line in enumerate(source) if "while True" in line) + first
    end = next(i for i, line in enumerate(source) if "except KeyboardInterrupt" in line) + first
    passed = 0

    def press_at(wanted):
        def trace(frame, event, argument):
            nonlocal passed
            if frame.f_code is not gradient_descent.__code__:
                return None
            if event == "line" and begin <= frame.f_lineno < end:
                passed += 1
                if passed == wanted:
                    raise KeyboardInterrupt
            return trace

        return trace

    def traced(wanted):
        nonlocal passed
        passed, before = 0, sys.gettrace()
        sys.settrace(press_at(wanted))
        try:
            return run()
        finally:
            sys.settrace(before)

    traced(wanted=0)
    assert passed > 40
    for wanted in range(1, passed + 1):
        with pytest.warns(InterruptionWarning):
            path = traced(wanted)
        last = path.stopped_by.step
        assert path.times.tolist() == list(range(last + 1))
        np.testing.assert_array_equal(path.losses, whole.losses[: last + 1])
        np.testing.assert_array_equal(path.products, whole.products[: last + 1])
        for W, history in zip(path.final_factors, whole.factors, strict=True):
            np.testing.assert_array_equal(W, history[last])


def test_other_errors_of_a_loss_pass_through():
    class Broken(Unchecked):
        def gradient(self, W):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gradient_descent(Broken(np.eye(2)), identical(2, 2, 1.0), 0.1, MaxSteps(3))


def test_evaluations_are_counted():
    calls = []

    class Counting(Unchecked):
        def gradient(self, W):
            calls.append(1)
            return super().gradient(W)

    path = gradient_descent(Counting(np.eye(2)), identical(2, 2, 1.0), 0.1, MaxSteps(17))
    assert path.evaluations == len(calls) == 18


# Conveniences


def test_the_progress_bar_counts_the_steps(capsys):
    loss, start = example()
    silent = gradient_descent(loss, start, 0.01, MaxSteps(40))
    assert capsys.readouterr().err == ""
    path = gradient_descent(loss, start, 0.01, MaxSteps(40) | LossBelow(0), progress=True)
    shown = capsys.readouterr().err
    assert "40/40" in shown
    np.testing.assert_array_equal(path.losses, silent.losses)
    gradient_descent(loss, start, 0.01, LossBelow(silent.losses[25]), progress=True)
    assert "25step" in capsys.readouterr().err


def test_the_bar_is_loaded_only_when_wanted():
    code = (
        "import sys, numpy as np\n"
        "from dmflib.descent import *\n"
        "from dmflib.losses import FullObservation\n"
        "gradient_descent(FullObservation(np.eye(2)), [np.eye(2)], .1, MaxSteps(3))\n"
        "assert 'tqdm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_whole_numbers_as_factors():
    loss = FullObservation(2 * np.eye(2))
    path = gradient_descent(loss, [[[1, 0], [0, 1]], np.eye(2, dtype=int)], 0.1, MaxSteps(100))
    np.testing.assert_allclose(path.products[-1], 2 * np.eye(2), atol=1e-6)


def test_factors_in_any_memory_layout():
    loss, start = example()
    expected = gradient_descent(loss, start, 0.01, MaxSteps(10)).products
    strided = [np.repeat(W, 2, axis=0)[::2] for W in start]
    transposed = [np.asfortranarray(W) for W in start]
    read_only = [W.copy() for W in start]
    for W in read_only:
        W.flags.writeable = False
    for variant in (strided, transposed, read_only):
        np.testing.assert_array_equal(
            gradient_descent(loss, variant, 0.01, MaxSteps(10)).products, expected
        )


def test_the_same_array_twice_is_two_factors():
    W = np.eye(2) * 0.5
    loss = FullObservation(np.diag([2.0, 1.0]))
    twice = gradient_descent(loss, [W, W], 0.01, MaxSteps(50))
    apart = gradient_descent(loss, [W, W.copy()], 0.01, MaxSteps(50))
    np.testing.assert_array_equal(twice.products, apart.products)


def test_the_rules_are_offered_beside_the_mover():
    for name in descent.__all__:
        assert getattr(stopping, name, getattr(descent, name)) is getattr(descent, name)
    assert set(descent.__all__) >= {"MaxSteps", "LossBelow", "GradientBelow", "RankPlateaus"}
