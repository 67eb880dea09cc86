"""Stopping rules: each alone, combined, and the plateaus of the effective rank."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmflib.descent import gradient_descent
from dmflib.linear_networks import Backpropagation, identical
from dmflib.losses import FullObservation
from dmflib.matrices import effective_rank_of_spectrum
from dmflib.stopping import (
    AllOf,
    AnyOf,
    Diverged,
    DivergenceWarning,
    GradientBelow,
    Interrupted,
    InterruptionWarning,
    LossBelow,
    MaxSteps,
    RankPlateaus,
    State,
    StoppingRule,
    TimeReached,
    check_rule,
    warn_ended,
)

fast = settings(deadline=None, max_examples=60)


class Seen:
    """A state of a run, made by hand."""

    def __init__(self, step=0, loss=1.0, gradient=1.0, product=None):
        self.step = self.time = step
        self.loss, self.gradient, self.product = loss, gradient, product

    def gradient_norm(self):
        return self.gradient


def fires(rule, states):
    """Index of the first state at which the rule fires, and what it reports."""
    check = rule.watch()
    for index, state in enumerate(states):
        fired = check(state)
        if fired is not None:
            return index, fired
    return None


# The simple rules


@pytest.mark.parametrize(
    ("rule", "states", "index"),
    [
        (MaxSteps(0), [Seen(0)], 0),
        (MaxSteps(2), [Seen(k) for k in range(5)], 2),
        (LossBelow(0.5), [Seen(loss=x) for x in (1, 0.6, 0.5, 0.4)], 2),
        (LossBelow(0), [Seen(loss=x) for x in (1, 1e-300, 0)], 2),
        (GradientBelow(0.5), [Seen(gradient=x) for x in (1, 0.6, 0.5, 0.4)], 2),
    ],
)
def test_a_rule_fires_at_its_threshold_and_reports_itself(rule, states, index):
    assert fires(rule, states) == (index, rule)


# A bit of each state says whether a rule holds there: enough to test the logic of combinations.


class Bit(StoppingRule):
    def __init__(self, bit):
        self.bit = bit

    def holds(self, state):
        return bool(state.step >> self.bit & 1)


words = st.lists(st.integers(0, 7), max_size=8).map(lambda words: [Seen(w) for w in words])


@fast
@given(words)
def test_or_fires_first_and_names_the_rule(states):
    a, b, c = Bit(0), Bit(1), Bit(2)
    for rule in (a | b | c, a | (b | c)):
        fired = fires(rule, states)
        first = next((i for i, s in enumerate(states) if s.step), None)
        if first is None:
            assert fired is None
        else:
            # Where several hold at once, the one that was written first is named.
            word = states[first].step
            named = a if word & 1 else b if word & 2 else c
            assert fired == (first, named)


@fast
@given(words)
def test_and_fires_when_all_hold_at_once(states):
    rule = Bit(0) & Bit(1)
    first = next((i for i, s in enumerate(states) if s.step & 3 == 3), None)
    assert fires(rule, states) == (None if first is None else (first, rule))


@fast
@given(words)
def test_and_binds_closer_than_or(states):
    a, b, c = Bit(0), Bit(1), Bit(2)
    rule = a & b | c
    first = next((i for i, s in enumerate(states) if s.step & 3 == 3 or s.step & 4), None)
    fired = fires(rule, states)
    assert fired is None if first is None else fired[0] == first
    if fired:
        both = states[first].step & 3 == 3
        assert isinstance(fired[1], AllOf if both else Bit)


def test_limits_of_combinations():
    assert MaxSteps(7).limit() == 7
    assert LossBelow(1).limit() is None
    assert (MaxSteps(7) | LossBelow(1) | MaxSteps(3)).limit() == 3
    assert (LossBelow(1) | GradientBelow(1)).limit() is None
    assert (MaxSteps(7) & LossBelow(1)).limit() is None  # it may go on after 7 steps
    assert ((MaxSteps(7) & LossBelow(1)) | MaxSteps(9)).limit() == 9


def test_rules_are_values():
    rule = MaxSteps(7) | LossBelow(1e-3) & GradientBelow(2)
    assert rule == MaxSteps(7) | LossBelow(1e-3) & GradientBelow(2)
    assert hash(rule) == hash(pickle.loads(pickle.dumps(rule)))
    assert str(rule) == "MaxSteps(7) | LossBelow(0.001) & GradientBelow(2)"
    assert str(RankPlateaus(2, 50)) == "RankPlateaus(2, length=50, kind='nuclear')"
    with pytest.raises(AttributeError):
        rule.rules[0].steps = 3


def test_thresholds_become_plain_numbers():
    assert type(MaxSteps(np.int64(3)).steps) is int
    assert type(LossBelow(np.float32(0.5)).threshold) is float
    assert type(GradientBelow(1).threshold) is float


def test_only_rules_combine():
    for other in (3, None, MaxSteps, "LossBelow(1)"):
        for combine in (lambda x: MaxSteps(1) | x, lambda x: MaxSteps(1) & x, AnyOf, AllOf):
            with pytest.raises(ValueError, match="must be"):
                combine(other)
        with pytest.raises(ValueError, match="stop must be"):
            check_rule("stop", other)


def test_the_base_class_has_no_condition():
    with pytest.raises(NotImplementedError):
        StoppingRule().watch()(Seen())


# Plateaus


def spectrum_path(ranks):
    """States whose nuclear effective rank is given: singular values 1 and rank - 1."""
    return [Seen(k, product=np.diag([1.0, rank - 1.0])) for k, rank in enumerate(ranks)]


STAIRS = [2.0] * 20 + [1.5] * 10 + [1.7] * 4 + [1.2] * 30 + [1.9] * 8
#         start          plateau     too short    plateau     plateau of 8


@pytest.mark.parametrize(
    ("count", "length", "index"),
    [
        (1, 7, 27),  # 1.5 begins at step 20
        (1, 9, 29),
        (1, 10, 44),  # ten steps of 1.5 last nine; 1.2 begins at step 34
        (2, 7, 41),
        (3, 7, 71),  # 1.9 begins at step 64
        (3, 8, None),
        (1, 29, 63),
        (1, 30, None),  # the twenty steps of the start never count, however long
        (4, 1, 65),  # 1.7 counts as well
    ],
)
def test_plateaus_of_a_known_path(count, length, index):
    rule = RankPlateaus(count, length)
    assert fires(rule, spectrum_path(STAIRS)) == (None if index is None else (index, rule))


def test_the_start_does_not_count_however_long_it_rests():
    assert fires(RankPlateaus(1, 5), spectrum_path([1.5] * 1000)) is None


def test_changes_within_the_tolerance_do_not_end_a_plateau():
    wobble = [2.0] * 5 + [1.5 + 0.04 * (-1) ** k for k in range(30)]
    assert fires(RankPlateaus(1, 10, tolerance=0.1), spectrum_path(wobble))[0] == 15
    assert fires(RankPlateaus(1, 10, tolerance=0.05), spectrum_path(wobble)) is None


@pytest.mark.parametrize("drift", [0.0, 1e-3, 4e-3])
def test_a_slow_drift_is_one_plateau(drift):
    # Over 10 steps the rank changes by less than 0.05, over the whole stretch by up to 0.4.
    slope = [2.0] * 5 + [1.3 + drift * k for k in range(100)] + [1.9] * 11
    states = spectrum_path(slope)
    assert fires(RankPlateaus(1, 10), states)[0] == 15
    assert fires(RankPlateaus(2, 10), states)[0] == 115


@fast
@given(
    st.lists(st.sampled_from([1.0, 1.1, 1.2, 1.5, 1.9]), min_size=1, max_size=40),
    st.lists(st.floats(0.1, 3), min_size=40, max_size=40),
    st.integers(1, 3),
    st.sampled_from([0.5, 2.0, 5.5]),
    st.sampled_from([0.05, 0.15, 0.35]),
)
def test_plateaus_are_what_the_docstring_says(ranks, gaps, count, length, tolerance):
    """The definition read literally, looking back over the whole path each time."""
    times = np.cumsum(gaps)[: len(ranks)]
    states = [Seen(k, product=np.diag([1.0, r - 1.0])) for k, r in enumerate(ranks)]
    for state, time in zip(states, times, strict=True):
        state.time = time
    seen, resting, expected = 0, True, None
    for now, time in enumerate(times):
        back = [k for k in range(now + 1) if time - times[k] >= length]
        window = ranks[back[-1] if back else 0 : now + 1]
        if max(window) - min(window) > tolerance:
            resting = False
        elif back and not resting:
            resting, seen = True, seen + 1
            if seen == count:
                expected = now
                break
    fired = fires(RankPlateaus(count, length, tolerance), states)
    assert fired == (
        None if expected is None else (expected, RankPlateaus(count, length, tolerance))
    )


def test_a_long_plateau_counts_once():
    assert fires(RankPlateaus(2, 10), spectrum_path([2.0] * 5 + [1.5] * 500)) is None


@pytest.mark.parametrize("every", [2, 3, 5])
def test_looking_less_often_finds_plateaus_a_few_looks_late(every):
    states = spectrum_path(np.repeat(STAIRS, 6))
    exact = fires(RankPlateaus(2, 40), states)[0]
    late = fires(RankPlateaus(2, 40, every=every), states)[0]
    assert exact <= late <= exact + 2 * every  # late at the beginning and at the end
    looked = []

    class Watched(Seen):
        @property
        def product(self):
            looked.append(self.step)
            return np.diag([1.0, 0.5])

        @product.setter
        def product(self, value):
            pass

    fires(RankPlateaus(1, 9, every=every), [Watched(k) for k in range(20)])
    assert looked == list(range(0, 20, every))


def test_a_rule_that_has_fired_holds_on_for_the_sake_of_and():
    # The plateau is found at a step divisible by 5; the other rule holds at step 33 alone.
    states = spectrum_path(STAIRS)
    states[33].loss = 0.0
    rule = RankPlateaus(1, 5, every=5) & LossBelow(0.5)
    assert fires(rule, states) == (33, rule)


def test_one_rule_serves_many_runs():
    rule = RankPlateaus(2, 7)
    states = spectrum_path(STAIRS)
    first, second = rule.watch(), rule.watch()
    for state in states[:30]:
        first(state)
    assert [second(state) for state in states].index(rule) == 41


def test_the_zero_matrix_is_a_plateau_of_rank_zero():
    states = spectrum_path([2.0] * 5)
    states += [Seen(k, product=np.zeros((2, 2))) for k in range(5, 20)]
    assert fires(RankPlateaus(1, 10), states)[0] == 15


SPECTRUM = np.array([10.0, 5.0, 1.0])
LEVELS = {"nuclear": [1, 1.5, 1.6], "stable": [1, 1.25, 1.26]}


@pytest.mark.parametrize("kind", ["nuclear", "entropy", "stable"])
def test_plateaus_of_a_real_run_are_at_the_ranks_of_truncations(kind):
    """Target diag(10, 5, 1), depth 3: larger eigenvalues first (source A, section 4).

    From the start scale a at depth 3 the flow leaves for the eigenvalue s at about the time
    1 / (s a): here after 1e4, 2e4 and 1e5 steps. The length lies below all stages and above
    the transitions.
    """
    truncations = [np.where(np.arange(3) < r, SPECTRUM, 0) for r in (1, 2, 3)]
    levels = [effective_rank_of_spectrum(sigma, kind) for sigma in truncations]
    if kind in LEVELS:
        assert levels == pytest.approx(LEVELS[kind], rel=1e-14)
    tolerance = 0.2 * np.diff(levels).min()
    path = gradient_descent(
        FullObservation(np.diag(SPECTRUM)),
        identical(3, 3, 0.01),
        1e-3,
        RankPlateaus(3, 4000, tolerance, kind, every=20) | MaxSteps(130_000),
        record=20,
        keep="singular_values",
    )
    assert path.stopped_by == RankPlateaus(3, 4000, tolerance, kind, every=20)
    # The recorded path tells where fewer plateaus would have ended the run.
    states = [
        Seen(t, product=np.diag(s)) for t, s in zip(path.times, path.singular_values, strict=True)
    ]
    ends = [fires(RankPlateaus(c, 4000, tolerance, kind, every=20), states)[0] for c in (1, 2, 3)]
    assert ends[2] == len(states) - 1
    for end, level, sigma in zip(ends, levels, truncations, strict=True):
        assert path.effective_rank(kind)[end] == pytest.approx(level, abs=tolerance)
        np.testing.assert_allclose(path.singular_values[end], sigma, atol=0.05)


def test_the_rank_does_not_see_size():
    """A run may rest at rank 1 before anything is recovered; the docstring warns of it."""
    stop = RankPlateaus(1, 1000, every=10)
    path = gradient_descent(
        FullObservation(np.diag(SPECTRUM)), identical(3, 3, 0.01), 1e-3, stop, record=10**6
    )
    assert path.effective_rank("nuclear")[-1] == pytest.approx(1, abs=0.05)
    assert path.singular_values[-1, 0] < 0.1


# What a mover uses


def test_the_state_shows_the_workspace():
    workspace = Backpropagation([(2, 2), (2, 2)])
    state = State(workspace)
    workspace.evaluate(FullObservation(np.zeros((2, 2))), [np.eye(2), 2 * np.eye(2)])
    np.testing.assert_array_equal(state.product, 2 * np.eye(2))
    # Gradients are 4 I and 2 I.
    assert state.gradient_norm() == pytest.approx(np.sqrt(2 * 16 + 2 * 4))
    assert (state.step, state.time, state.loss) == (0, 0, None)


def test_endings_speak():
    assert str(Diverged(3)) == "divergence at step 3"
    assert str(Interrupted(3)) == "interruption after step 3"
    assert str(TimeReached(2.5)) == "time 2.5 reached"


def test_the_warning_points_at_the_caller_of_the_mover():
    def mover():
        warn_ended("gradient descent", Diverged(3), DivergenceWarning)

    with pytest.warns(
        DivergenceWarning, match="gradient descent ended by divergence at step 3"
    ) as w:
        mover()
    assert w[0].filename == __file__
    assert issubclass(DivergenceWarning, RuntimeWarning)
    assert issubclass(InterruptionWarning, RuntimeWarning)
