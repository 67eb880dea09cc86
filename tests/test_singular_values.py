"""Branches of constructed paths; the spectral equations against factors, products and mpmath."""

from itertools import pairwise

import evidence
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm
from scipy.optimize import brentq

from dmflib import singular_values as sv
from dmflib.flow import InvariantWarning, gradient_flow, product_flow
from dmflib.linear_networks import (
    balance_defects,
    balanced,
    factor_gradients,
    imbalance,
    product,
    product_velocity,
)
from dmflib.losses import Completion, FullObservation, Sensing
from dmflib.stopping import DivergenceWarning, GradientBelow, LossBelow, TimeReached

fast = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 2**32 - 1)


def orthogonal(n, rng):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def turning_path(times, values, shape, seed, speed=1.0):
    """Known branches: U(t), V(t) rotate, the values are given functions of t in the rows."""
    rng = np.random.default_rng(seed)
    p = min(shape)
    bases = []
    for n in shape:
        R = rng.standard_normal((n, n))
        R = speed * (R - R.T) / max(np.linalg.norm(R - R.T, 2), 1e-300)
        start = orthogonal(n, rng)[:, :p]
        bases.append(np.stack([expm((t + t**2 / 4) * R) @ start for t in times]))
    U, V = bases
    S = np.stack(values, axis=1)
    return (U * S[:, None]) @ V.transpose(0, 2, 1), U, S, V


def match(known, found):
    """Reorder and flip the known branches so that they agree with what was found at its start."""
    U, S, V = known
    order, signs = np.argsort(-np.abs(S[0]), kind="stable"), np.sign(S[0])
    U, S, V = U[:, :, order], (S * signs)[:, order], (V * signs)[:, :, order]
    flips = np.sign((U[0] * found[0][0]).sum(axis=0))
    return U * flips, S, V * flips


def check_branches(known, matrices, rtol=1e-7):
    """Values to rounding, vectors to what a gap of the values allows, one sign for all times."""
    U, S, V = sv.analytic_svd(matrices)
    known_U, known_S, known_V = match(known, (U, S, V))
    assert_allclose((U * S[:, None]) @ V.transpose(0, 2, 1), matrices, atol=1e-10)
    assert_allclose(S, known_S, atol=1e-9)
    assert_allclose(U, known_U, atol=rtol)
    assert_allclose(V, known_V, atol=rtol)


# --- analytic_svd -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 6)])
@pytest.mark.parametrize("seed", range(4))
def test_branches_cross_without_swapping(shape, seed):
    t = np.linspace(0, 2, 301) + 1e-3 / np.pi  # no sample hits a crossing exactly
    values = [3 - t, 1.5 + 0.4 * t, 1.2 + np.sin(3 * t) / 2, 0.3 + 0.1 * np.cos(5 * t)]
    path, *known = turning_path(t, values[: min(shape)], shape, seed)
    check_branches(known, path)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 6), (1, 3), (2, 2), (3, 1)])
def test_branches_pass_through_zero_and_through_one_another_at_a_sample(shape):
    t = np.linspace(-1, 1, 201)  # crossings at -0.5, 0 and 0.5 are samples
    values = [1 + t, 1 - t, t + 0.5, 0.5 * t - 0.25][: min(shape)]
    if min(shape) == 1:
        values = [t]
    path, *known = turning_path(t[3:-3], [v[3:-3] for v in values], shape, 7, speed=0.4)
    # at a sample where branches meet, the vectors come from the neighbours: order h**2
    check_branches(known, path, rtol=2e-4)


def test_vectors_at_a_sampled_crossing_are_of_second_order():
    errors = []
    for count in (41, 81, 161):
        t = np.linspace(-1, 1, count)
        path, *known = turning_path(t, [2 + t, 2 - t, 0.5 + 0 * t], (4, 3), 3)
        U, S, V = sv.analytic_svd(path)
        known_U, known_S, _ = match(known, (U, S, V))
        assert_allclose(S, known_S, atol=1e-12)
        errors.append(np.abs(U - known_U).max())
    assert errors[2] < 1e-3
    assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.15)


@pytest.mark.parametrize("gap", [0.3, 0.1, 0.02])
def test_near_crossing_is_not_taken_for_a_crossing(gap):
    t = np.linspace(-1, 1, int(8 / gap) | 1)
    half = np.sqrt(t**2 + gap**2)
    path = np.stack([np.stack([2 + t, gap + 0 * t], 1), np.stack([gap + 0 * t, 2 - t], 1)], 1)
    U, S, _ = sv.analytic_svd(path)
    assert_allclose(S, np.stack([2 + half, 2 - half], 1), atol=1e-12)
    angle = np.unwrap(2 * np.arctan2(U[:, 1, 0], U[:, 0, 0])) / 2
    assert abs(angle[-1] - angle[0]) == pytest.approx(np.pi / 2 - np.arctan(gap), abs=1e-9)


def test_two_thousand_near_misses():
    """Random smooth paths: generic ones do not cross, so sorting is right between samples."""
    rng = np.random.default_rng(0)
    A, B, C = rng.standard_normal((3, 6, 4))
    t = np.linspace(0, 2 * np.pi, 4001)[:, None, None]
    path = A + np.cos(t) * B + np.sin(t) * C
    _, S, _ = sv.analytic_svd(path)
    assert_allclose(S, np.linalg.svd(path, compute_uv=False), atol=1e-12)
    assert (np.diff(S, axis=1) < 0).all()


def test_warns_where_the_sampling_is_too_coarse():
    t = np.linspace(-1, 1, 8)
    path = np.array([[[2 + s, 0.2], [0.2, 2 - s]] for s in t])  # turns by 54 - 18 degrees
    with pytest.warns(sv.BranchWarning, match="between the samples 3 and 4"):
        sv.analytic_svd(path)


def test_the_corner_of_the_chapter():
    t = np.linspace(-2, 2, 401)  # -1, 0 and 1 are samples
    path = np.array([[[1.0, s], [s, 1.0]] for s in t])
    _, S, _ = sv.analytic_svd(path)
    assert_allclose(S, np.stack([1 - t, -1 - t], 1), atol=1e-12)
    ordered = np.linalg.svd(path, compute_uv=False)
    assert_allclose(ordered[:, 0], 1 + np.abs(t), atol=1e-12)
    assert_allclose(ordered[:, 1], np.abs(1 - np.abs(t)), atol=1e-12)


def test_equal_values_at_the_start_and_for_ever():
    t = np.linspace(0, 1, 51)
    path, *known = turning_path(t, [1 + t, 1 + 0 * t, 1 - t / 2], (3, 3), 1, speed=0.3)
    U, S, V = sv.analytic_svd(path)
    assert_allclose(np.sort(S, axis=1), np.sort(known[1], axis=1), atol=1e-12)
    assert_allclose((U * S[:, None]) @ V.transpose(0, 2, 1), path, atol=1e-11)
    assert np.abs(np.diff(U, axis=0)).max() < 0.02
    path, *_ = turning_path(t, [2 + t, 2 + t, 1 + 0 * t], (4, 3), 2, speed=0.3)
    U, S, V = sv.analytic_svd(path)
    assert_allclose((U * S[:, None]) @ V.transpose(0, 2, 1), path, atol=1e-11)
    assert np.abs(np.diff(U, axis=0)).max() < 0.02


@fast
@given(seeds, st.integers(1, 5), st.integers(1, 5), st.integers(0, 5))
def test_decomposition_of_any_path(seed, m, n, rank):
    """Whatever the rank: orthonormal columns, the matrices back, sorted values at the start."""
    rng = np.random.default_rng(seed)
    low = rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n))
    path = np.cumsum(1e-3 * rng.standard_normal((4, 1, 1)) * low, axis=0) + low
    U, S, V = sv.analytic_svd(path)
    eye = np.broadcast_to(np.eye(min(m, n)), (4, min(m, n), min(m, n)))
    assert_allclose(U.transpose(0, 2, 1) @ U, eye, atol=1e-12)
    assert_allclose(V.transpose(0, 2, 1) @ V, eye, atol=1e-12)
    assert_allclose((U * S[:, None]) @ V.transpose(0, 2, 1), path, atol=1e-9)
    assert (S[0] >= 0).all()
    assert (np.diff(S[0]) <= 1e-15).all()


@pytest.mark.parametrize("seed", range(60))
def test_branches_of_random_paths(seed):
    matrices, branches = sv.random_path(seed, samples=401)
    _, S, _ = sv.analytic_svd(matrices)
    order, signs = np.argsort(-np.abs(branches[0])), np.sign(branches[0])
    assert_allclose(S, (branches * signs)[:, order], atol=1e-10)


def test_one_sample_is_an_ordinary_decomposition():
    W = np.random.default_rng(3).standard_normal((4, 3))
    U, S, V = sv.analytic_svd(W[None])
    assert_allclose(U[0] * S[0] @ V[0].T, W, atol=1e-13)
    assert_allclose(S[0], np.linalg.svd(W, compute_uv=False))


# --- velocities ---------------------------------------------------------------------------------


def factor_step(factors, gradient, h):
    """Product after an Euler step of all factors; its derivative in h is exact at zero."""
    return product(
        [W - h * D for W, D in zip(factors, factor_gradients(factors, gradient), strict=True)]
    )


@pytest.mark.ledger("thm-singular-values-law")
@pytest.mark.parametrize("seed", range(150))
def test_values_move_as_finite_differences_of_the_factors(seed):
    W, G, N = sv.random_problem(seed)
    factors, h = balanced(W, N), 1e-5
    ahead, behind = (factor_step(factors, G, s) for s in (h, -h))
    measured = np.subtract(*(np.linalg.svd(M, compute_uv=False) for M in (ahead, behind)))
    evidence.agree(sv.velocities(W, G, N), measured / (2 * h), atol=2e-6, rtol=2e-6)


@pytest.mark.ledger("thm-singular-values-vectors")
@pytest.mark.parametrize("seed", range(150))
def test_vectors_move_as_finite_differences_of_the_factors(seed):
    W, G, N = sv.random_problem(seed)
    factors, h = balanced(W, N), 1e-5
    path = np.stack([factor_step(factors, G, s) for s in (0.0, h, -h)])
    U0, _, Vt0 = np.linalg.svd(W, full_matrices=False)
    # order 0, h, -h: joined to the middle sample, whatever the turn
    U, _, V = sv.analytic_svd(path)
    signs = np.sign((U[0] * U0).sum(axis=0))
    U_dot, V_dot = sv.vector_velocities(W, G, N)
    evidence.agree(U_dot, (U[1] - U[2]) * signs / (2 * h), atol=1e-5, rtol=1e-5)
    evidence.agree(V_dot, (V[1] - V[2]) * signs / (2 * h), atol=1e-5, rtol=1e-5)
    assert_allclose(V[0] * signs, Vt0.T, atol=1e-10)


@pytest.mark.parametrize("widths", [(3, 3), (3, 5, 4), (2, 3, 4, 3), (2, 4, 3, 5)])
def test_velocities_of_any_factors_are_finite_differences(widths):
    rng = np.random.default_rng(len(widths))
    factors = [rng.standard_normal(shape) for shape in zip(widths[1:], widths, strict=False)]
    G, h = rng.standard_normal((widths[-1], widths[0])), 1e-6
    pair = (np.linalg.svd(factor_step(factors, G, s), compute_uv=False) for s in (h, -h))
    measured = np.subtract(*pair) / (2 * h)
    assert_allclose(sv.factor_velocities(factors, G), measured, rtol=1e-5, atol=1e-5)


@fast
@given(seeds)
def test_balanced_factors_obey_the_law(seed):
    W, G, N = sv.random_problem(seed)
    found = sv.factor_velocities(balanced(W, N), G)
    assert_allclose(found, sv.velocities(W, G, N), atol=1e-10)


@fast
@given(seeds)
def test_the_three_velocities_add_up_to_that_of_the_product(seed):
    W, G, N = sv.random_problem(seed)
    rng = np.random.default_rng(seed)
    U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
    V, order = Vt.T, rng.permutation(len(sigma))
    signs = rng.choice([-1.0, 1.0], len(sigma))
    U, sigma, V = U[:, order], (sigma * signs)[order], (V * signs)[:, order]
    U_dot, rates, V_dot = sv.branch_velocities(U, sigma, V, G, N)
    velocity = U_dot * sigma @ V.T + U * rates @ V.T + U * sigma @ V_dot.T
    assert_allclose(velocity, product_velocity(W, G, N), atol=1e-10)
    for A, A_dot in ((U, U_dot), (V, V_dot)):
        assert_allclose(A.T @ A_dot + A_dot.T @ A, 0, atol=1e-10)


def test_the_sign_of_a_negative_value_matters_in_the_outer_part():
    W, G, N = np.array([[2.0, 0], [0, 1], [0, 0]]), np.arange(6.0).reshape(3, 2) - 2, 1
    U, S, V = np.eye(3)[:, :2], np.array([2.0, -1.0]), np.diag([1.0, -1.0])
    U_dot, rates, V_dot = sv.branch_velocities(U, S, V, G, N)
    assert_allclose(U_dot * S @ V.T + U * rates @ V.T + U * S @ V_dot.T, -G, atol=1e-12)
    assert_allclose(W, U * S @ V.T)
    # with |sigma| in place of sigma, as printed in source D, the sum misses by this much
    printed = U_dot * [1, -1]
    wrong = printed * S @ V.T + U * rates @ V.T + U * S @ V_dot.T
    assert np.abs(wrong + G).max() > 1


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("values", [(2, 2, 1), (1, 1, 1), (2, 0, 0), (0, 0, 0), (3, 2, 0)])
@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (3, 4)])
def test_velocities_are_right_derivatives_where_values_coincide(depth, values, shape):
    rng = np.random.default_rng(depth)
    U, V = orthogonal(shape[0], rng)[:, :3], orthogonal(shape[1], rng)[:, :3]
    W, G, h = U * values @ V.T, rng.standard_normal(shape), 1e-8
    ahead = np.linalg.svd(W + h * product_velocity(W, G, depth), compute_uv=False)
    assert_allclose(sv.velocities(W, G, depth), (ahead - values) / h, atol=1e-5)


def test_velocities_take_stacks():
    rng = np.random.default_rng(0)
    W, G = rng.standard_normal((2, 4, 2, 3, 5))
    assert_allclose(sv.velocities(W, G, 3)[2, 1], sv.velocities(W[2, 1], G[2, 1], 3))


@pytest.mark.ledger("thm-singular-values-alignment")
@fast
@given(seeds)
def test_stationary_vectors_diagonalise_the_gradient(seed):
    """Corollary 1, with numbers: each off-diagonal entry is a combination of the rotations."""
    W, G, N = sv.random_problem(seed)
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    U_dot, V_dot = sv.vector_velocities(W, G, N)
    K, left, right = U.T @ G @ Vt.T, U.T @ U_dot, Vt @ V_dot
    j = np.arange(N)[:, None, None]
    Q = (s[:, None] ** (2 * (N - 1 - j) / N) * s ** (2 * j / N)).sum(axis=0)
    off = -(left * s - s[:, None] * right) / Q
    np.fill_diagonal(off, np.diagonal(K))
    evidence.agree(off, K, atol=1e-10)


@pytest.mark.ledger("thm-singular-values-alignment")
@pytest.mark.parametrize("seed", range(60))
def test_no_other_gradient_leaves_the_vectors_at_rest(seed):
    """The velocities are linear in the gradient; their kernel is spanned by the u_r v_r^T."""
    W, _, N = sv.random_problem(seed)
    U, _, Vt = np.linalg.svd(W, full_matrices=False)
    rng = np.random.default_rng(seed)
    aligned = U * rng.standard_normal(len(Vt)) @ Vt
    for rates in sv.vector_velocities(W, aligned, N):
        evidence.agree(rates, np.zeros_like(rates), atol=1e-10)
    units = np.eye(W.size).reshape(-1, *W.shape)
    columns = [np.concatenate([A.ravel() for A in sv.vector_velocities(W, E, N)]) for E in units]
    values = np.linalg.svd(np.transpose(columns), compute_uv=False)
    evidence.agree(np.sum(values > 1e-8), W.size - len(Vt))


def exact_velocity(factors, gradient):
    """Derivative of the product along the flow of the factors, by the rule of the product."""
    rates = [-D for D in factor_gradients(factors, gradient)]
    return sum(product([*factors[:j], rates[j], *factors[j + 1 :]]) for j in range(len(factors)))


def even_power(A, exponent):
    """A symmetric semidefinite matrix to a power, by its eigenvectors; the power 0 gives I."""
    values, vectors = np.linalg.eigh(A)
    values = np.where(values > 1e-12 * values[-1], values, 0.0)  # roots magnify rounded zeros
    return vectors * values**exponent @ vectors.T  # and 0**0 is 1


@pytest.mark.ledger("lem-singular-values-product")
@pytest.mark.parametrize("rank", [5, 1])
@pytest.mark.parametrize("seed", range(60))
def test_product_flow_by_powers_of_its_squares(seed, rank):
    W, G, N = sv.random_problem(seed)
    rng = np.random.default_rng(seed)
    U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
    sigma[rank:] = 0
    factors = [np.diag(sigma ** (1 / N))] * N
    factors[0], factors[-1] = factors[0] @ Vt, U @ factors[-1] @ (Vt if N == 1 else np.eye(len(Vt)))
    W = product(factors)
    for j in range(N - 1):  # other balanced factors of the same product
        Q = orthogonal(len(factors[j]), rng)
        factors[j], factors[j + 1] = Q @ factors[j], factors[j + 1] @ Q.T
    expected = -sum(
        even_power(W @ W.T, (N - j) / N) @ G @ even_power(W.T @ W, (j - 1) / N)
        for j in range(1, N + 1)
    )
    evidence.agree(exact_velocity(factors, G), expected, atol=1e-10)


@pytest.mark.ledger("lem-singular-values-weights")
@pytest.mark.parametrize("seed", range(100))
def test_weights_of_the_flow_in_the_moving_bases(seed):
    W, G, N = sv.random_problem(seed)
    rng = np.random.default_rng(seed)
    U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
    if seed % 2:  # equal values: the other case of the quotient
        sigma[:] = sigma[0]
    signs = rng.choice([-1.0, 1.0], len(sigma))
    sigma, V = sigma * signs, Vt.T * signs
    square = sigma**2
    with np.errstate(invalid="ignore"):
        Q = np.subtract.outer(square, square) / np.subtract.outer(
            square ** (1 / N), square ** (1 / N)
        )
    equal = np.equal.outer(square, square)
    Q = np.where(equal, N * square ** (1 - 1 / N), Q)
    velocity = exact_velocity(balanced(U * sigma @ V.T, N), G)
    evidence.agree(U.T @ velocity @ V, -Q * (U.T @ G @ V), atol=1e-10)


@pytest.mark.ledger("lem-singular-values-flow")
@pytest.mark.parametrize("seed", range(20))
def test_factors_keep_their_differences_and_do_not_run_away(seed):
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 5, rng.integers(3, 6))
    factors = [0.8 * rng.standard_normal(s) for s in zip(widths[1:], widths, strict=False)]
    operators = 0.4 * rng.standard_normal((3, widths[-1], widths[0]))
    loss = Sensing(operators, rng.standard_normal(3))
    ends = np.cumsum([W.size for W in factors])[:-1]

    def unpack(y):
        return [part.reshape(W.shape) for part, W in zip(np.split(y, ends), factors, strict=True)]

    def velocity(t, y):
        W = unpack(y)
        gradient = loss.gradient(product(W))
        return -np.concatenate([D.ravel() for D in factor_gradients(W, gradient)])

    y0 = np.concatenate([W.ravel() for W in factors])
    path = solve_ivp(velocity, (0, 3), y0, method="DOP853", rtol=1e-11, atol=1e-13)
    evidence.holds(path.success)
    for before, after in zip(
        balance_defects(factors), balance_defects(unpack(path.y[:, -1])), strict=True
    ):
        evidence.agree(after, before, atol=1e-8)
    # what keeps the solution finite: the way is at most the root of time times the loss
    way = np.linalg.norm(path.y.T - y0, axis=1)
    evidence.at_most(way, np.sqrt(path.t * loss.value(product(factors))))


# --- flow ---------------------------------------------------------------------------------------


def start(shape, seed, scale=0.2):
    rng = np.random.default_rng(seed)
    p = min(shape)
    sigma = scale * (1 + np.arange(p) / 2)
    U, V = orthogonal(shape[0], rng)[:, :p], orthogonal(shape[1], rng)[:, :p]
    return U * sigma @ V.T, FullObservation(rng.standard_normal(shape))


@pytest.mark.ledger("thm-singular-values-law")
@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (2, 4), (1, 3), (1, 1)])
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_flow_is_the_product_flow(shape, depth):
    W0, loss = start(shape, depth)
    times = np.linspace(0, 4, 17)
    path = sv.flow(loss, W0, depth, t_final=4, rtol=1e-9, atol=1e-11, record=times)
    options = {"method": "RK45", "rtol": 1e-11, "atol": 1e-13, "record": times}
    expected = product_flow(loss, W0, depth, t_final=4, **options)
    assert_allclose(path.products, expected.products, atol=3e-7)
    assert_allclose(path.losses, expected.losses, atol=1e-6)
    evidence.agree(path.singular_values, expected.singular_values, atol=3e-7)
    assert isinstance(path.stopped_by, TimeReached)


def test_flow_is_the_flow_of_the_factors():
    rng = np.random.default_rng(5)
    mask = rng.random((4, 3)) < 0.7
    loss = Completion(rng.standard_normal((4, 3)), mask)
    W0, _ = start((4, 3), 3)
    times = np.linspace(0, 5, 11)
    path = sv.flow(loss, W0, 3, t_final=5, rtol=1e-9, atol=1e-11, record=times)
    options = {"method": "RK45", "rtol": 1e-10, "atol": 1e-12, "record": times}
    factors = gradient_flow(loss, balanced(W0, 3), t_final=5, **options)
    assert_allclose(path.products, factors.products, atol=1e-6)


def test_values_change_sign_at_depth_one_only():
    W0, loss = np.diag([1.0, 0.5]), FullObservation(np.diag([1.5, -0.7]))
    one = sv.flow(loss, W0, 1, t_final=20)
    assert_allclose(one.S[-1], [1.5, -0.7], atol=1e-7)
    for depth in (2, 3):
        path = sv.flow(loss, W0, depth, t_final=20)
        assert (path.S > 0).all()
        assert path.S[-1, 1] < 0.02
    # sigma' = -2 sigma (sigma + 0.7): the sigmoid with a negative target
    t = path.times
    exact = -0.7 / (1 - (0.7 / 0.5 + 1) * np.exp(1.4 * 20))
    deep = sv.flow(loss, W0, 2, t_final=20).S[-1, 1]
    assert deep == pytest.approx(exact, rel=1e-5)
    assert exact < 1e-12
    assert t[-1] == 20


@pytest.mark.ledger("cor-singular-values-signs")
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("seed", range(12))
def test_rank_and_sign_of_the_determinant_stay(seed, depth):
    """The factors themselves, towards targets of full rank and of the other sign."""
    rng = np.random.default_rng(seed)
    rank = 1 + seed % 4  # 4 is full
    U, V = orthogonal(4, rng), orthogonal(4, rng)
    W0 = U[:, :rank] * rng.uniform(0.2, 1, rank) @ V[:, :rank].T
    target = rng.standard_normal((4, 4))
    target[0] *= -np.sign(np.linalg.det(target) * np.linalg.det(U) * np.linalg.det(V))
    options = {"method": "DOP853", "rtol": 1e-10, "atol": 1e-13, "record": np.linspace(0, 2, 9)}
    path = gradient_flow(FullObservation(target), balanced(W0, depth), t_final=2, **options)
    values = np.linalg.svd(path.products, compute_uv=False)
    evidence.at_most(values[:, rank:], 1e-12)
    evidence.holds(values[:, rank - 1] > 1e-6)
    if rank == 4:
        evidence.holds(np.linalg.det(path.products) * np.linalg.det(U) * np.linalg.det(V) > 0)


def test_a_value_far_below_rounding_keeps_its_sign():
    """At depth 2 the second value falls like exp(-2 t); factors lose it, logarithms do not."""
    loss = FullObservation(np.diag([1.0, -1.0]))
    path = sv.flow(loss, np.diag([0.5, 0.4]), 2, t_final=100)
    assert path.S[-1, 1] == pytest.approx(1 / ((1 + 1 / 0.4) * np.exp(200) - 1), rel=1e-4)


def test_crossing_in_a_basis_that_stands_still_is_followed():
    Q = orthogonal(3, np.random.default_rng(2))
    W0, target = Q * [0.5, 0.4, 0.3] @ Q.T, Q * [1.0, 3.0, 2.0] @ Q.T
    for depth in (1, 2, 3):
        path = sv.flow(FullObservation(target), W0, depth, t_final=10)
        assert_allclose(path.S[-1], [1, 3, 2], atol=2e-4)
        assert_allclose(path.products[-1], target, atol=2e-4)


def test_crossing_while_vectors_turn_is_passed_or_reported():
    # At depth 1 the path is a straight line: through a matrix with the values 1, 1 and 2.
    middle = np.diag([2.0, 1.0, 1.0])
    slope = np.array([[0.3, 0.5, 0.4], [0.1, 0.4, 0.2], [-0.3, 0.2, -0.5]])
    loss = FullObservation(middle + slope)

    def exact(times):
        return loss.target - 2 * slope * np.exp(-times)[:, None, None]

    path = sv.flow(loss, middle - slope, 1, t_final=2)
    assert_allclose(path.products, exact(path.times), atol=1e-7)
    times = np.append(np.linspace(0, 2, 201), 2.2)
    times[70] = np.log(2)  # the sample at which the values coincide
    times.sort()
    _, S, _ = sv.analytic_svd(exact(times))
    order = np.argsort(S[-1])
    ends = np.sort(path.S[-1])
    assert_allclose(S[-2][order], ends, atol=1e-6)
    with pytest.warns(RuntimeWarning) as caught:
        short = sv.flow(loss, middle - slope, 1, t_final=2, rtol=1e-11, atol=1e-13)
    assert {w.category for w in caught} == {DivergenceWarning, InvariantWarning}
    assert "two singular values meet" in str(caught[-1].message)
    assert short.times[-1] == pytest.approx(np.log(2), abs=1e-6)


def test_flow_stops_by_rules():
    W0, loss = start((3, 3), 1)
    path = sv.flow(loss, W0, 2, stop=LossBelow(1e-3) | GradientBelow(1e-6))
    assert isinstance(path.stopped_by, (LossBelow, GradientBelow))
    sharp = sv.flow(loss, W0, 2, stop=GradientBelow(0.1))
    gradients = factor_gradients(balanced(sharp.products[-1], 2), loss.gradient(sharp.products[-1]))
    norm = np.sqrt(sum((D**2).sum() for D in gradients))
    assert 0.02 < norm <= 0.1


def test_unstable_orthonormality_is_reported():
    watch = sv._Watch(1e-8, 1e-10)
    good = [np.eye(3), np.ones(3), np.eye(3)]
    watch.check(10, 0.5, np.eye(3), good)
    assert not watch.lost
    watch.check(10, 0.5, np.eye(3), [1.001 * np.eye(3), np.ones(3), np.eye(3)])
    assert "orthonormality" in watch.lost["vectors"]


# --- races --------------------------------------------------------------------------------------


@pytest.mark.ledger("prop-singular-values-one")
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("a", [(1.0, 0.5), (0.4, 1.0), (1.0, -0.5)])
def test_closed_relations_for_one_measurement(depth, a):
    """Source D, equations 10 and 11, against a precise integration of the factors."""
    A, W0 = np.diag([*a, 0.8]), np.diag([0.3, 0.2, 0.25])
    loss = Sensing([A], [2.0])
    factors = [np.diag(np.diag(W0) ** (1 / depth))] * depth

    def velocity(t, y):
        W = y.reshape(depth, 3)
        total = W.prod(axis=0)
        drive = loss.gradient(np.diag(total)).diagonal()
        return np.concatenate([-drive * np.delete(W, j, 0).prod(axis=0) for j in range(depth)])

    y0 = np.concatenate([np.diag(W) for W in factors])
    y = solve_ivp(velocity, (0, 3), y0, method="DOP853", rtol=1e-13, atol=1e-14).y
    sigma = y.reshape(depth, 3, -1).prod(axis=0)
    found = sv.companion(sigma[1], 0.3, 0.2, a[0] / a[1], depth)
    evidence.agree(found, sigma[0], rtol=1e-10, atol=1e-11)


@pytest.mark.ledger("prop-singular-values-one")
@fast
@given(seeds, st.integers(1, 6), st.integers(1, 5))
def test_one_measurement_does_not_turn_the_vectors(seed, depth, n):
    rng = np.random.default_rng(seed)
    U, V = orthogonal(n, rng), orthogonal(n, rng)
    a, sigma = rng.standard_normal(n), rng.uniform(0.05, 2, n)
    W, A, y = U * sigma @ V.T, U * a @ V.T, rng.standard_normal()
    drive = np.vdot(A, W) - y
    velocity = exact_velocity(balanced(W, depth), Sensing([A], [y]).gradient(W))
    expected = np.diag(-depth * sigma ** (2 - 2 / depth) * drive * a)
    evidence.agree(U.T @ velocity @ V, expected, atol=1e-10)


def test_companion_at_its_edges():
    assert sv.companion(0.5, 0.5, 0.5, 0.3, 3) == pytest.approx(0.5)
    asymptote = sv.lag_limit(0.4, 3)
    assert sv.companion(1e30, 1.0, 1.0, 0.4, 3) == pytest.approx(asymptote, rel=1e-8)
    assert sv.companion(1e6, 10.0, 1.0, 0.9, 4) == np.inf  # the first ran away before
    assert np.isinf(sv.lag_limit(0.4, 2))


@given(st.floats(0.05, 0.95), st.floats(0.01, 1.0))
def test_asymptote_falls_with_depth_if_the_slower_one_starts_behind(ratio, s):
    limits = [(s**-q - ratio) ** (-1 / q) for q in 1 - 2 / np.arange(3, 30)]
    assert (np.diff(limits) < 0).all()


def test_asymptote_need_not_fall_with_depth_otherwise():
    limits = [(1.9**-q - 0.5) ** (-1 / q) for q in 1 - 2 / np.array([3, 6, 100])]
    assert limits[0] > limits[1] < limits[2]


@pytest.mark.ledger("thm-singular-values-gap")
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7])
def test_gap_in_the_limit_by_times_of_arrival(depth, seed):
    """The second value when the first arrives, from a start that is as good as zero."""
    rng = np.random.default_rng(seed)
    s1, ratio, scale = rng.uniform(0.5, 5), rng.uniform(0.1, 0.8), 1e-60
    s2, mu, q = ratio * s1, s1 * rng.uniform(0.1, 0.9), 1 - 2 / depth

    def time(value, target):  # in the logarithm of the value over the start
        def integrand(x):
            return np.exp(-q * x) / (depth * (target - scale * np.exp(x)))

        pieces = np.linspace(0, np.log(value / scale), 40)  # it lives near one end
        return sum(quad(integrand, *ends, epsabs=0, epsrel=1e-12)[0] for ends in pairwise(pieces))

    if depth == 1:  # t = ln(s1 / (s1 - mu))
        found, expected = s2 * -np.expm1(np.log1p(-mu / s1)), ratio * mu
    elif depth == 2:
        t = np.log(mu / scale * (s1 - scale) / (s1 - mu)) / (2 * s1)
        found = sv.sigmoid(t, s2, scale)
        expected = scale ** (1 - ratio) * (mu * s1 / (s1 - mu)) ** ratio
    else:
        goal, ends = time(mu, s1), np.log(scale) + np.array([1e-9, 40])
        found = np.exp(brentq(lambda z: time(np.exp(z), s2) - goal, *ends, xtol=1e-13, rtol=1e-14))
        expected = scale * (1 - ratio) ** (-depth / (depth - 2))
    evidence.agree(found, expected, rtol=1e-8)


@pytest.mark.parametrize("depth", [3, 4, 5])
def test_lag_limit_is_the_limit_of_the_race(depth):
    """Targets 5 and 4: the second value over the start, when the first is at 4.5."""
    apart = []
    for scale in (1e-4, 1e-6, 1e-8):
        t = sv.arrival_time(4.5, 5.0, depth, scale)

        def lag(t, z, depth=depth, scale=scale):  # logarithm of the second value
            return [depth * np.exp((1 - 2 / depth) * z[0]) * (4 - np.exp(z[0]))]

        path = solve_ivp(lag, (0, t), [np.log(scale)], method="Radau", rtol=1e-10, atol=1e-10)
        apart.append(np.exp(path.y[0, -1]) / scale / sv.lag_limit(0.8, depth) - 1)
    assert abs(apart[2]) < abs(apart[1]) < abs(apart[0])
    assert abs(apart[2]) < {3: 0.08, 4: 1e-3, 5: 1e-3}[depth]


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("start_", "value"), [(0.01, 1.9), (1e-6, 1.0), (5.0, 2.2), (0.5, 0.5)])
def test_arrival_time_is_the_integral(depth, start_, value):
    def integrand(x):  # in the logarithm of the value
        return 1 / (depth * np.exp(x * (1 - 2 / depth)) * (2 - np.exp(x)))

    expected = quad(integrand, np.log(start_), np.log(value), epsabs=1e-13, epsrel=1e-12)[0]
    assert sv.arrival_time(value, 2.0, depth, start_) == pytest.approx(
        expected, rel=1e-9, abs=1e-12
    )


@pytest.mark.ledger("prop-singular-values-sigmoid")
@pytest.mark.parametrize("seed", range(40))
def test_sigmoid_is_the_solution_for_targets_of_both_signs(seed):
    rng = np.random.default_rng(seed)
    target, begin = rng.uniform(0.1, 3) * rng.choice([-1, 1]), 10 ** rng.uniform(-3, 0.5)
    times = np.linspace(0, 4, 9)
    path = solve_ivp(
        lambda t, s: 2 * s * (target - s), (0, 4), [begin], method="DOP853", t_eval=times,
        rtol=1e-12, atol=1e-15,
    )  # fmt: skip
    formula = target / (1 + (target / begin - 1) * np.exp(-2 * target * times))
    evidence.agree(formula, path.y[0], rtol=1e-9, atol=1e-13)
    if target > 0:
        evidence.agree(sv.sigmoid(times, target, begin), formula, rtol=1e-12)


@given(st.floats(0.01, 5), st.floats(1e-6, 10))
def test_sigmoid_solves_its_equation_and_knows_its_time(target, begin):
    t = 0.7 / target
    value, h = sv.sigmoid(t, target, begin), 1e-4 / target
    slope = (sv.sigmoid(t + h, target, begin) - sv.sigmoid(t - h, target, begin)) / (2 * h)
    assert slope == pytest.approx(2 * value * (target - value), abs=1e-6 * target**2, rel=1e-5)
    if abs(begin - target) > 1e-3 * target:
        assert sv.arrival_time(value, target, 2, begin) == pytest.approx(t, rel=1e-6)


# --- starts that are not balanced ---------------------------------------------------------------


@fast
@given(seeds, st.floats(-3, 3))
def test_offset_factors_have_their_product_and_their_offset(seed, offset):
    W = np.random.default_rng(seed).standard_normal((3, 3))
    factors = sv.offset_factors(W, offset)
    assert_allclose(product(factors), W, atol=1e-10)
    assert_allclose(balance_defects(factors)[0], offset * np.eye(3), atol=1e-10)


@pytest.mark.parametrize("offset", [0.0, 0.3, -0.3, 2.0, -50.0])
def test_law_of_offset_factors(offset):
    rng = np.random.default_rng(1)
    U, V = orthogonal(4, rng), orthogonal(4, rng)
    W, G = U * [2.0, 1.0, 0.4, 0.1] @ V.T, rng.standard_normal((4, 4))
    factors, h = sv.offset_factors(W, offset), 1e-6
    ahead, behind = (np.linalg.svd(factor_step(factors, G, s), compute_uv=False) for s in (h, -h))
    expected = sv.offset_velocities(W, G, offset)
    assert_allclose((ahead - behind) / (2 * h), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.ledger("thm-singular-values-offset")
@fast
@given(seeds, st.floats(-5, 5), st.integers(1, 5))
def test_product_of_offset_factors_moves_by_roots(seed, offset, n):
    rng = np.random.default_rng(seed)
    U, V = orthogonal(n, rng), orthogonal(n, rng)
    sigma = 0.3 * np.arange(n, 0, -1) + rng.uniform(0, 0.2, n)
    W, G = U * sigma @ V.T, rng.standard_normal((n, n))
    Q = orthogonal(n, rng)
    first, second = sv.offset_factors(W, offset)
    velocity = exact_velocity([Q @ first, second @ Q.T], G)
    shift = offset**2 / 4 * np.eye(n)
    roots = even_power(W @ W.T + shift, 0.5), even_power(W.T @ W + shift, 0.5)
    evidence.agree(velocity, -roots[0] @ G - G @ roots[1], atol=1e-10)
    evidence.agree(np.diag(U.T @ velocity @ V), sv.offset_velocities(W, G, offset), atol=1e-10)


@pytest.mark.ledger("prop-singular-values-descent")
@pytest.mark.parametrize("seed", range(20))
def test_steps_lose_balance_at_most_in_proportion_to_the_step(seed):
    rng = np.random.default_rng(seed)
    W0, loss, depth = rng.standard_normal((3, 4)), FullObservation(rng.standard_normal((3, 4))), 3
    factors, eta = balanced(W0, depth), 0.002 * (1 + seed % 5)
    values, defects, decrease = [loss.value(W0)], [], []
    for _ in range(400):
        gradients = factor_gradients(factors, loss.gradient(product(factors)))
        before = balance_defects(factors)
        factors = [W - eta * D for W, D in zip(factors, gradients, strict=True)]
        after = balance_defects(factors)
        for j in range(depth - 1):
            change = eta**2 * (
                gradients[j + 1].T @ gradients[j + 1] - gradients[j] @ gradients[j].T
            )
            evidence.agree(after[j] - before[j], change, atol=1e-13)
        values.append(loss.value(product(factors)))
        defects.append(max(np.linalg.norm(D) for D in after))
        decrease.append(eta / 2 * sum((D**2).sum() for D in gradients))
    assert (-np.diff(values) >= np.array(decrease) - 1e-15).all()
    evidence.at_most(defects, 2 * eta * (values[0] - np.array(values[1:])))


def test_offset_factors_may_cross_zero():
    loss = FullObservation(-np.eye(1))
    factors = sv.offset_factors(np.array([[0.5]]), 0.2)
    path = gradient_flow(loss, factors, t_final=60)
    assert path.products[-1, 0, 0] == pytest.approx(-1, abs=1e-4)


@fast
@given(seeds, st.integers(2, 5), st.floats(0, 0.3))
def test_rebalanced_keeps_the_product(seed, depth, size):
    W = np.random.default_rng(seed).standard_normal((4, 3))
    factors = sv.rebalanced(balanced(W, depth), size, seed)
    assert_allclose(product(factors), W, atol=1e-10)
    assert (imbalance(factors) > 1e-3 * size) or size < 1e-8


def test_error_of_the_law_is_of_first_order_in_the_imbalance():
    W, G, N = np.diag([2.0, 1.0, 0.5]), np.arange(9.0).reshape(3, 3) / 4 - 1, 3
    errors = []
    for size in (1e-2, 1e-3, 1e-4):
        factors, h = sv.rebalanced(balanced(W, N), size, 3), 1e-6
        pair = (np.linalg.svd(factor_step(factors, G, s), compute_uv=False) for s in (h, -h))
        errors.append(np.abs(np.subtract(*pair) / (2 * h) - sv.velocities(W, G, N)).max())
    slopes = np.diff(np.log10(errors))
    assert_allclose(slopes, -1, atol=0.1)


# --- bad input ----------------------------------------------------------------------------------

I2 = np.eye(2)
W2 = np.diag([2.0, 1.0])
LOSS = FullObservation(W2)
NAN = np.full((2, 2), np.nan)

BAD = [
    (sv.analytic_svd, (I2,), {}, "matrices"),
    (sv.analytic_svd, (np.stack([I2, NAN]),), {}, "matrices"),
    (sv.analytic_svd, (np.ones((0, 2, 2)),), {}, "matrices"),
    (sv.velocities, (NAN, I2, 2), {}, "W"),
    (sv.velocities, (I2, np.eye(3), 2), {}, "gradient"),
    (sv.velocities, (I2, I2, 0), {}, "depth"),
    (sv.vector_velocities, (I2, I2, 2), {}, "W"),
    (sv.vector_velocities, (np.array([[2.0, 0], [0, 0], [0, 0]]), np.ones((3, 2)), 2), {}, "W"),
    (sv.vector_velocities, (W2, NAN, 2), {}, "gradient"),
    (sv.vector_velocities, (W2, I2, 1.5), {}, "depth"),
    (sv.branch_velocities, (2 * I2, [2.0, 1.0], I2, I2, 2), {}, "U"),
    (sv.branch_velocities, (I2, [2.0, 1.0], np.ones((2, 2)), I2, 2), {}, "V"),
    (sv.branch_velocities, (I2, [2.0, -2.0], I2, I2, 2), {}, "sigma"),
    (sv.branch_velocities, (I2, [2.0], I2, I2, 2), {}, "sigma"),
    (sv.branch_velocities, (I2, [2.0, 1.0], I2, [1.0], 2), {}, "gradient"),
    (sv.branch_velocities, (I2, [2.0, 1.0], I2, I2, -1), {}, "depth"),
    (sv.flow, (LOSS, I2, 2, 1.0), {}, "W0"),
    (sv.flow, (LOSS, np.diag([1.0, 0.0]), 2, 1.0), {}, "W0"),
    (sv.flow, (LOSS, W2, 0, 1.0), {}, "depth"),
    (sv.flow, (LOSS, W2, 2, -1.0), {}, "t_final"),
    (sv.flow, (LOSS, W2, 2), {}, "t_final"),
    (sv.flow, (LOSS, W2, 2, 1.0), {"rtol": 0}, "rtol"),
    (sv.flow, (LOSS, W2, 2, 1.0), {"method": "Euler"}, "method"),
    (sv.flow, (LOSS, np.ones((3, 2)), 2, 1.0), {}, "loss"),
    (sv.companion, (0.0, 1.0, 1.0, 0.5, 2), {}, "value"),
    (sv.companion, (1.0, 0.0, 1.0, 0.5, 2), {}, "start"),
    (sv.companion, (1.0, 1.0, -1.0, 0.5, 3), {}, "other_start"),
    (sv.companion, (1.0, 1.0, 1.0, np.nan, 3), {}, "ratio"),
    (sv.companion, (1.0, 1.0, 1.0, 0.5, 0), {}, "depth"),
    (sv.lag_limit, (1.0, 3), {}, "ratio"),
    (sv.lag_limit, (0.5, 0), {}, "depth"),
    (sv.sigmoid, (-1.0, 1.0, 0.1), {}, "t"),
    (sv.sigmoid, (1.0, 0.0, 0.1), {}, "target"),
    (sv.sigmoid, (1.0, 1.0, 0.0), {}, "start"),
    (sv.arrival_time, (1.0, 1.0, 2, 0.1), {}, "value"),
    (sv.arrival_time, (0.05, 1.0, 2, 0.1), {}, "value"),
    (sv.arrival_time, (1.0, 1.0, 2, 1.0), {}, "start"),
    (sv.arrival_time, (0.5, -1.0, 2, 0.1), {}, "target"),
    (sv.arrival_time, (0.5, 1.0, 0, 0.1), {}, "depth"),
    (sv.factor_velocities, ([I2, np.ones((3, 3))], I2), {}, "factors"),
    (sv.factor_velocities, ([I2, I2], I2), {}, "factors"),
    (sv.factor_velocities, ([W2, I2], np.eye(3)), {}, "gradient"),
    (sv.offset_factors, (np.ones((2, 3)), 0.1), {}, "W0"),
    (sv.offset_factors, (I2, np.inf), {}, "offset"),
    (sv.offset_velocities, (np.ones((2, 3)), np.ones((2, 3)), 0.1), {}, "W"),
    (sv.offset_velocities, (I2, I2, 0.1), {}, "W"),
    (sv.offset_velocities, (W2, NAN, 0.1), {}, "gradient"),
    (sv.offset_velocities, (W2, I2, None), {}, "offset"),
    (sv.rebalanced, ([I2, np.ones((3, 3))], 0.1), {}, "factors"),
    (sv.rebalanced, ([I2, I2], -0.1), {}, "size"),
    (sv.rebalanced, ([I2, I2], 0.1, "x"), {}, "rng"),
    (sv.random_problem, ("x",), {}, "seed"),
    (sv.random_path, ("x",), {}, "seed"),
    (sv.random_path, (0, 1), {}, "samples"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input_is_refused_with_its_name(case):
    function, arguments, options, name = BAD[case]
    with pytest.raises(ValueError, match=name):
        function(*arguments, **options)


def test_every_public_function_has_bad_input():
    functions = {name for name in sv.__all__ if callable(getattr(sv, name))}
    functions = {n for n in functions if not isinstance(getattr(sv, n), type)}
    assert functions == {function.__name__ for function, *_ in BAD}
