"""Losses: gradients, agreement among each other, and what a reader's own loss must offer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmflib.descent import MaxSteps, gradient_descent
from dmflib.linear_networks import gaussian
from dmflib.losses import Completion, FullObservation, Regression, Sensing, check_loss

KINDS = ("full", "completion", "sensing", "regression")
fast = settings(deadline=None, max_examples=40)
kinds = st.sampled_from(KINDS)
sizes = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)


def make(kind, m, n, seed):
    """A loss with small whole numbers as data, so that differences of values are exact."""
    rng = np.random.default_rng(seed)
    whole = lambda *shape: rng.integers(-9, 10, size=shape).astype(float)  # noqa: E731
    if kind == "full":
        return FullObservation(whole(m, n))
    if kind == "completion":
        mask = rng.random((m, n)) < 0.5
        mask[rng.integers(m), rng.integers(n)] = True
        return Completion(np.where(mask, whole(m, n), np.nan), mask)
    if kind == "sensing":
        return Sensing(whole(4, m, n), whole(4))
    return Regression(whole(n, 8), whole(m, 8))  # 8 samples: their mean is exact


def reference_value(loss, W):
    """The definition, entry by entry and sample by sample."""
    if isinstance(loss, FullObservation):
        return sum((w - t) ** 2 for w, t in zip(W.flat, loss.target.flat, strict=True)) / 2
    if isinstance(loss, Completion):
        return sum((W[i, j] - loss.target[i, j]) ** 2 for i, j in np.argwhere(loss.mask)) / 2
    if isinstance(loss, Sensing):
        pairs = zip(loss.operators, loss.measurements, strict=True)
        return sum((np.trace(A.T @ W) - y) ** 2 for A, y in pairs) / 2
    pairs = zip(loss.inputs.T, loss.outputs.T, strict=True)
    return np.mean([np.sum((W @ x - y) ** 2) for x, y in pairs])


@fast
@given(kinds, sizes, sizes, seeds)
def test_the_value_is_the_definition(kind, m, n, seed):
    loss = make(kind, m, n, seed)
    W = np.random.default_rng(seed + 1).integers(-9, 10, size=(m, n)).astype(float)
    assert loss.shape == (m, n)
    assert loss.value(W) == reference_value(loss, W)


@fast
@given(kinds, sizes, sizes, seeds)
def test_the_gradient_is_the_exact_central_difference(kind, m, n, seed):
    # For a quadratic a central difference is exact, and with whole numbers so is the arithmetic.
    loss = make(kind, m, n, seed)
    W = np.random.default_rng(seed + 1).integers(-9, 10, size=(m, n)).astype(float)
    gradient = loss.gradient(W)
    for i, j in np.ndindex(m, n):
        step = np.zeros((m, n))
        step[i, j] = 1
        assert gradient[i, j] == (loss.value(W + step) - loss.value(W - step)) / 2


@fast
@given(kinds, sizes, sizes, seeds)
def test_the_gradient_writes_into_out_and_nothing_else(kind, m, n, seed):
    loss = make(kind, m, n, seed)
    W = np.random.default_rng(seed + 1).normal(size=(m, n))
    before, out = W.copy(), np.full((m, n), np.nan)
    value, gradient = loss.value_and_gradient(W, out)
    assert gradient is out
    assert value == loss.value(W)
    np.testing.assert_array_equal(out, loss.gradient(W))
    np.testing.assert_array_equal(W, before)


@pytest.mark.parametrize("kind", KINDS)
def test_convexity(kind):
    rng = np.random.default_rng(3)
    loss = make(kind, 4, 3, 5)
    for _ in range(20):
        V, W = rng.normal(size=(2, 4, 3)) * 10
        bound = loss.value(V) + np.vdot(loss.gradient(V), W - V)
        assert loss.value(W) >= bound - 1e-10 * abs(bound)


def test_unobserved_entries_are_never_read():
    mask = np.array([[True, False, True], [False, True, False]])
    W = np.arange(6.0).reshape(2, 3)
    answers = []
    for hidden in (np.nan, np.inf, 1e300, 0.0):
        loss = Completion(np.where(mask, 1.5, hidden), mask)
        answers.append((loss.value(W), loss.gradient(W)))
        assert not answers[-1][1][~mask].any()
    for value, gradient in answers:
        assert value == answers[0][0]
        np.testing.assert_array_equal(gradient, answers[0][1])


def test_observed_entries_must_be_finite():
    with pytest.raises(ValueError, match="target must be a finite real array"):
        Completion([[1.0, np.nan]], [[True, True]])


def test_a_mask_may_be_zeros_and_ones_and_nothing_else():
    target = np.arange(4.0).reshape(2, 2)
    W = np.ones((2, 2))
    expected = Completion(target, [[True, False], [False, True]]).value(W)
    assert Completion(target, [[1, 0], [0, 1]]).value(W) == expected
    assert Completion(target, np.eye(2)).value(W) == expected
    with pytest.raises(ValueError, match="mask must be"):
        Completion(target, [[1, 2], [0, 1]])


@fast
@given(sizes, sizes, seeds)
def test_full_and_partial_observation_are_sensing_by_unit_matrices(m, n, seed):
    loss = make("completion", m, n, seed)
    W = np.random.default_rng(seed).normal(size=(m, n))
    places = np.argwhere(loss.mask)
    units = np.zeros((len(places), m, n))
    for unit, (i, j) in zip(units, places, strict=True):
        unit[i, j] = 1
    sensing = Sensing(units, [loss.target[i, j] for i, j in places])
    assert sensing.value(W) == pytest.approx(loss.value(W), rel=1e-13)
    np.testing.assert_allclose(sensing.gradient(W), loss.gradient(W), atol=1e-13)
    full, everywhere = make("full", m, n, seed), np.ones((m, n), dtype=bool)
    assert Completion(full.target, everywhere).value(W) == full.value(W)


def whitened(n, samples, rng):
    """Inputs with X X^T / M equal to the identity."""
    return np.sqrt(samples) * np.linalg.qr(rng.normal(size=(samples, n)))[0].T


@fast
@given(sizes, sizes, seeds)
def test_regression_on_whitened_inputs_is_full_observation(m, n, seed):
    """mean |W x - y|**2 = |W - T|**2 + constant, with T = Y X^T / M, when X X^T = M I."""
    rng = np.random.default_rng(seed)
    X = whitened(n, n + 3, rng)
    Y = rng.normal(size=(m, n + 3))
    regression = Regression(X, Y)
    full = FullObservation(Y @ X.T / (n + 3))
    W, V = rng.normal(size=(2, m, n))
    np.testing.assert_allclose(regression.gradient(W), 2 * full.gradient(W), atol=1e-12)
    constants = [regression.value(A) - 2 * full.value(A) for A in (W, V)]
    assert constants[0] == pytest.approx(constants[1], abs=1e-11)


@fast
@given(sizes, st.integers(2, 5), seeds)
def test_regression_on_other_inputs_is_not(m, n, seed):
    """If 2 * FullObservation(T) + c fits for some T, the quadratic parts agree: X X^T = M I.

    The quadratic part of the difference along D is |D X|**2 / M - |D|**2. Whatever T is, its
    second difference is that number, and it vanishes for all D exactly for whitened inputs.
    """
    rng = np.random.default_rng(seed)
    X = whitened(n, n + 3, rng)
    X[0] *= 1.5
    regression = Regression(X, rng.normal(size=(m, n + 3)))
    full = FullObservation(rng.normal(size=(m, n)))
    W, D = np.zeros((m, n)), np.zeros((m, n))
    D[0, 0] = 1
    curvature = [
        loss.value(W + D) + loss.value(W - D) - 2 * loss.value(W) for loss in (regression, full)
    ]
    assert curvature[0] - 2 * curvature[1] == pytest.approx(2 * (1.5**2 - 1), rel=1e-10)


def test_a_loss_keeps_its_own_data():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(2, 3))
    arrays = {
        FullObservation: (rng.normal(size=(2, 3)),),
        Completion: (rng.normal(size=(2, 3)), np.array([[True, False, True]] * 2)),
        Sensing: (np.asfortranarray(rng.normal(size=(4, 2, 3))), rng.normal(size=4)),
        Regression: (rng.normal(size=(3, 5)), rng.normal(size=(2, 5))),
    }
    for kind, data in arrays.items():
        loss = kind(*data)
        value, gradient = loss.value(W), loss.gradient(W)
        for x in data:
            x[...] = ~x if x.dtype == bool else 100 * x
        assert loss.value(W) == value
        np.testing.assert_array_equal(loss.gradient(W), gradient)


def test_whole_numbers_and_lists_are_taken():
    assert FullObservation([[1, 2]]).value([[0, 0]]) == 2.5
    assert Sensing([[[1, 2]]], [3]).value([[0, 0]]) == 4.5


class Huber:
    """A reader's loss: no base class, not quadratic, nothing but the three members."""

    shape = (3, 2)

    def value(self, W):
        return np.sum(np.sqrt(1 + (W - 1) ** 2) - 1)

    def gradient(self, W):
        return (W - 1) / np.sqrt(1 + (W - 1) ** 2)


def test_a_loss_with_three_members_moves():
    path = gradient_descent(Huber(), gaussian([2, 4, 3], 0.5, rng=1), 0.1, MaxSteps(2000))
    assert path.losses[-1] < 1e-12
    np.testing.assert_allclose(path.products[-1], np.ones((3, 2)), atol=1e-5)


def test_a_loss_with_three_members_agrees_with_a_built_in_one():
    inner = FullObservation(np.arange(6.0).reshape(3, 2))

    class Plain:
        shape = (3, 2)
        value = staticmethod(lambda W: 0.5 * np.sum((W - inner.target) ** 2))
        gradient = staticmethod(lambda W: W - inner.target)

    start = gaussian([2, 4, 3], 0.5, rng=1)
    paths = [gradient_descent(loss, start, 0.01, MaxSteps(50)) for loss in (inner, Plain())]
    np.testing.assert_array_equal(paths[0].products, paths[1].products)
    np.testing.assert_allclose(paths[0].losses, paths[1].losses, rtol=1e-13)


@pytest.mark.parametrize(
    ("member", "answer", "message"),
    [
        ("value", lambda self, W: W, r"loss.value\(W\) must have shape \(\)"),
        ("gradient", lambda self, W: 1.0, r"loss.gradient\(W\) must have shape \(3, 2\)"),
        ("gradient", lambda self, W: W.sum(axis=0), r"loss.gradient\(W\) must have shape"),
    ],
)
def test_answers_of_the_wrong_shape_are_not_broadcast(member, answer, message):
    loss = type("Wrong", (Huber,), {member: answer})()
    with pytest.raises(ValueError, match=message):
        gradient_descent(loss, gaussian([2, 3], 0.5, rng=1), 0.1, MaxSteps(3))


def test_check_loss_names_what_is_missing():
    for name in ("value", "gradient"):
        members = {"shape": (1, 1), "value": None, "gradient": None}
        del members[name]
        with pytest.raises(ValueError, match=f"loss must be .*; no {name}"):
            check_loss(type("Half", (), members)(), (1, 1))
    with pytest.raises(ValueError, match="loss must have the shape"):
        check_loss(Huber(), (2, 3))
    check_loss(Huber(), (3, 2))
