"""What the chapter on linear networks proves beyond the module's basic properties."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import fractional_matrix_power

from dmflib import flow
from dmflib import linear_networks as networks
from dmflib.descent import MaxSteps, gradient_descent
from dmflib.losses import FullObservation, Regression
from dmflib.matrices import spectral_norm

fast = settings(deadline=None, max_examples=40)
chains = st.lists(st.integers(1, 4), min_size=2, max_size=6)  # depth 1 to 5
long_chains = st.lists(st.integers(1, 4), min_size=3, max_size=6)  # depth 2 to 5
shapes = st.tuples(st.integers(1, 5), st.integers(1, 5))
depths = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)


def normal_factors(widths, seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(b, a)) for a, b in pairwise(widths)]


def balanced_of_rank(rng, shape, depth, rank, padding=0):
    """Factors that are balanced by construction, exact where the product has low rank."""
    bases = [np.linalg.qr(rng.normal(size=(n, rank)))[0] for n in reversed(shape)]
    inner = [np.linalg.qr(rng.normal(size=(rank + padding, rank)))[0] for _ in range(depth - 1)]
    root = np.diag(rng.uniform(0.3, 2, rank) ** (1 / depth))
    chain = [bases[0], *inner, bases[1]]
    return [after @ root @ before.T for before, after in pairwise(chain)]


# The velocity of the product


@fast
@given(shapes, depths, seeds, st.data())
def test_velocity_is_the_chain_rule_at_balanced_factors_of_any_rank(shape, depth, seed, data):
    """No power of a matrix enters: each factor in turn is replaced by its own velocity."""
    rng = np.random.default_rng(seed)
    rank = data.draw(st.integers(1, min(shape)))
    factors = balanced_of_rank(rng, shape, depth, rank, padding=data.draw(st.integers(0, 2)))
    assert networks.imbalance(factors) < 1e-12
    G = rng.normal(size=shape)
    expected = np.zeros(shape)
    for j, Gj in enumerate(networks.factor_gradients(factors, G)):
        expected -= networks.product([*factors[:j], Gj, *factors[j + 1 :]])
    W = networks.product(factors)
    np.testing.assert_allclose(networks.product_velocity(W, G, depth), expected, atol=1e-9)


@fast
@given(st.integers(1, 5), depths, seeds)
def test_velocity_is_the_formula_with_matrix_powers(n, depth, seed):
    """The powers come from Schur forms and Padé approximants, not from eigenvalues."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    W, G = U * rng.uniform(0.3, 2, n) @ V, rng.normal(size=(n, n))
    expected = -sum(
        fractional_matrix_power(W @ W.T, (depth - j) / depth)
        @ G
        @ fractional_matrix_power(W.T @ W, (j - 1) / depth)
        for j in range(1, depth + 1)
    )
    np.testing.assert_allclose(networks.product_velocity(W, G, depth), expected, atol=1e-10)


@fast
@given(shapes, depths, seeds)
def test_velocity_is_symmetric_and_never_climbs(shape, depth, seed):
    rng = np.random.default_rng(seed)
    W, G, Z = rng.normal(size=(3, *shape))
    forth = np.vdot(Z, networks.product_velocity(W, G, depth))
    back = np.vdot(networks.product_velocity(W, Z, depth), G)
    assert forth == pytest.approx(back, abs=1e-10)
    assert np.vdot(G, networks.product_velocity(W, G, depth)) <= 0
    np.testing.assert_allclose(
        networks.product_velocity(W.T, G.T, depth).T,
        networks.product_velocity(W, G, depth),
        atol=1e-10,
    )


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_power_zero_is_the_identity_and_not_a_projection(depth):
    """From a matrix of rank 1 the flow also moves in directions across its range."""
    W = np.diag([1.0, 0.0])
    G = np.array([[0.0, 1.0], [1.0, 1.0]])
    velocity = networks.product_velocity(W, G, depth)
    np.testing.assert_allclose(velocity, [[0, -1], [-1, 0]], atol=1e-15)


def test_velocity_at_zero_vanishes_from_depth_two_on():
    G = np.ones((2, 3))
    np.testing.assert_array_equal(networks.product_velocity(np.zeros((2, 3)), G, 1), -G)
    for depth in (2, 3, 4):
        assert not networks.product_velocity(np.zeros((2, 3)), G, depth).any()


def test_velocity_is_that_of_the_product_flow():
    rng = np.random.default_rng(1)
    loss = FullObservation(rng.normal(size=(3, 4)))
    W0, short = rng.normal(size=(3, 4)), 1e-6
    for depth in (1, 2, 3, 4):
        run = flow.product_flow(loss, W0, depth, t_final=short, method="DOP853")
        measured = (run.products[-1] - W0) / short
        velocity = networks.product_velocity(W0, loss.gradient(W0), depth)
        np.testing.assert_allclose(measured, velocity, rtol=1e-4, atol=1e-4)


# The same product with another balance


@fast
@given(long_chains, seeds, st.floats(0.1, 10))
def test_tilting_keeps_the_product_and_can_be_undone(widths, seed, ratio):
    factors = normal_factors(widths, seed)
    moved = networks.tilted(factors, ratio)
    np.testing.assert_allclose(
        networks.product(moved), networks.product(factors), rtol=1e-10, atol=1e-10
    )
    for W, V in zip(factors, networks.tilted(moved, 1 / ratio), strict=True):
        np.testing.assert_allclose(V, W, rtol=1e-12)


@fast
@given(shapes, st.integers(2, 6), seeds, st.floats(1.1, 10))
def test_tilting_unbalances_the_first_pair_only(shape, depth, seed, ratio):
    W = np.random.default_rng(seed).normal(size=shape)
    first, *others = networks.balance_defects(networks.tilted(networks.balanced(W, depth), ratio))
    size = spectral_norm(W) ** (2 / depth)
    assert np.linalg.norm(first) >= (ratio**2 - ratio ** (-2 / (depth - 1))) * size * (1 - 1e-10)
    for D in others:
        assert np.linalg.norm(D) <= 1e-12 * max(1, size)


@pytest.mark.parametrize("depth", [2, 3])
def test_strong_tilt_turns_depth_n_into_depth_n_minus_one(depth):
    """The big first factor hardly moves; the paths agree as the tilt grows."""
    loss = FullObservation(np.diag([2.0, 1.0]))
    ref = flow.product_flow(loss, 0.01 * np.eye(2), depth - 1, t_final=50.0)
    wanted = np.interp(1, ref.products[:, 0, 0], ref.products[:, 1, 1])
    gaps = []
    for ratio in (10, 100):
        start = networks.tilted(networks.identical(2, depth, 0.01 ** (1 / depth)), ratio)
        run = flow.gradient_flow(loss, start, t_final=50.0, rtol=1e-8, atol=1e-10)
        gaps.append(abs(np.interp(1, run.products[:, 0, 0], run.products[:, 1, 1]) - wanted))
    assert gaps[1] < 1e-3
    assert gaps[1] < 0.1 * gaps[0]


# Sharpness


@fast
@given(chains, seeds)
def test_sharpness_is_the_largest_eigenvalue_of_the_hessian(widths, seed):
    """The Hessian at an exact fit is J^T J; J is built from products with one factor replaced."""
    factors = normal_factors(widths, seed)
    columns = []
    for j, W in enumerate(factors):
        for k in range(W.size):
            E = np.zeros(W.size)
            E[k] = 1
            replaced = [*factors[:j], E.reshape(W.shape), *factors[j + 1 :]]
            columns.append(networks.product(replaced).ravel())
    largest = np.linalg.norm(np.transpose(columns), 2) ** 2
    assert networks.sharpness(factors) == pytest.approx(largest, rel=1e-9, abs=1e-12)


@fast
@given(long_chains, seeds)
def test_no_factorization_is_flatter_than_a_balanced_one(widths, seed):
    factors = normal_factors(widths, seed)
    N, W = len(factors), networks.product(factors)
    bound = N * spectral_norm(W) ** (2 - 2 / N)
    assert networks.sharpness(factors) >= bound * (1 - 1e-9)
    assert networks.sharpness(networks.balanced(W, N)) == pytest.approx(bound, rel=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_step_limit_separates_convergence_from_its_failure(depth):
    """Just below 2/sharpness a start near the balanced minimiser converges, just above not."""
    target = np.diag([2.0, 1.0])
    loss, limit = FullObservation(target), 2 / networks.sharpness(networks.balanced(target, depth))
    start = [W + 1e-3 for W in networks.balanced(target, depth)]
    below = gradient_descent(loss, start, 0.98 * limit, MaxSteps(2000))
    above = gradient_descent(loss, start, 1.02 * limit, MaxSteps(2000), record=2000)
    assert below.losses[-1] < 1e-20
    assert above.losses[-1] > 1e-4


# Balance under descent, and the sample loss


@fast
@given(long_chains, seeds, st.floats(1e-4, 1))
def test_one_step_moves_the_defects_by_the_square_of_the_step(widths, seed, eta):
    factors = normal_factors(widths, seed)
    G = np.random.default_rng(seed + 1).normal(size=(widths[-1], widths[0]))
    gradients = networks.factor_gradients(factors, G)
    moved = [W - eta * Gi for W, Gi in zip(factors, gradients, strict=True)]
    rows = zip(
        networks.balance_defects(moved),
        networks.balance_defects(factors),
        pairwise(gradients),
        strict=True,
    )
    size = max(1, max(np.abs(g).max() for g in gradients) ** 2, np.abs(moved[0]).max() ** 2)
    for after, before, (g, h) in rows:
        change = eta**2 * (h.T @ h - g @ g.T)
        np.testing.assert_allclose(after - before, change, atol=1e-10 * size)


@pytest.mark.parametrize("seed", range(5))
def test_drift_is_bounded_by_step_size_times_the_loss_that_was_lost(seed):
    rng = np.random.default_rng(seed)
    loss = FullObservation(rng.normal(size=(3, 4)))
    start, eta = networks.gaussian([4, 3, 5, 3], 0.5, rng), 0.02
    run = gradient_descent(loss, start, eta, MaxSteps(500), keep=("factors",))
    for k in range(500):
        now = [F[k] for F in run.factors]
        grads = networks.factor_gradients(now, loss.gradient(networks.product(now)))
        squares = sum(np.vdot(g, g) for g in grads)
        assert run.losses[k + 1] <= run.losses[k] - eta / 2 * squares + 1e-14
    defects = networks.balance_defects(start), networks.balance_defects(run.final_factors)
    bound = 2 * eta * (run.losses[0] - run.losses[-1])
    for before, after in zip(*defects, strict=True):
        drift = np.linalg.norm(after - before)
        assert 0 < drift <= bound


@fast
@given(seeds, st.integers(1, 4), st.integers(1, 4), st.integers(0, 4))
def test_sample_loss_is_a_weighted_distance_to_the_least_squares_matrix(seed, m, n, extra):
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(n, n + extra)), rng.normal(size=(m, n + extra))
    C = X @ X.T / (n + extra)
    if np.linalg.cond(C) > 1e6:
        return
    target = Y @ X.T @ np.linalg.inv(X @ X.T)
    loss, W = Regression(X, Y), rng.normal(size=(m, n))
    distance = np.trace((W - target) @ C @ (W - target).T)
    assert loss.value(W) - loss.value(target) == pytest.approx(distance, rel=1e-6, abs=1e-8)


# Bad input

GOOD = {"W": np.eye(2), "gradient": np.eye(2), "depth": 2}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"W": np.ones(2)}, "W"),
        ({"W": np.full((2, 2), np.nan)}, "W"),
        ({"gradient": np.ones((2, 3))}, "gradient"),
        ({"gradient": np.full((2, 2), np.inf)}, "gradient"),
        ({"depth": 0}, "depth"),
        ({"depth": 1.5}, "depth"),
    ],
)
def test_bad_input_of_the_velocity(change, named):
    with pytest.raises(ValueError, match=rf"^{named}\b"):
        networks.product_velocity(**(GOOD | change))


@pytest.mark.parametrize(
    ("factors", "ratio", "named"),
    [
        ([np.eye(2)], 2, "factors"),
        ([], 2, "factors"),
        ([np.ones((2, 3)), np.ones((2, 3))], 2, "factors"),
        ([np.eye(2)] * 2, 0, "ratio"),
        ([np.eye(2)] * 2, -1, "ratio"),
        ([np.eye(2)] * 2, np.inf, "ratio"),
        ([np.eye(2)] * 2, "2", "ratio"),
    ],
)
def test_bad_input_of_tilting(factors, ratio, named):
    with pytest.raises(ValueError, match=rf"^{named}\b"):
        networks.tilted(factors, ratio)


@pytest.mark.parametrize("factors", [[], 3, [np.ones((2, 3)), np.ones((2, 3))]])
def test_bad_input_of_the_sharpness(factors):
    with pytest.raises(ValueError, match=r"^factors\b"):
        networks.sharpness(factors)
