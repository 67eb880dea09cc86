"""The limit against convex solvers, integration and its optimality; the rates against the limit."""

import cvxpy as cp
import evidence
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import special_ortho_group

from dmflib import least_nuclear_norm as ln
from dmflib.flow import gradient_flow, product_flow
from dmflib.linear_networks import identical, product_velocity
from dmflib.losses import Sensing
from dmflib.matrices import nuclear_norm, schatten_norm
from dmflib.singular_values import companion, lag_limit
from dmflib.stopping import LossBelow

seeds = st.integers(0, 2**32 - 1)
depths = st.integers(2, 6)


def objective(z, depth, scale):
    """What the flow from scale * I minimises among the fits (depth 2: for scale < 1)."""
    if depth == 2:
        return z.sum() + (z * np.log(z) - z).sum() / np.log(1 / scale**2)
    return z.sum() - depth / 2 * scale ** (depth - 2) * (z ** (2 / depth)).sum()


def basis_of(seed, n):
    return special_ortho_group.rvs(n, random_state=np.random.default_rng(seed))


# --- commuting measurements ----------------------------------------------------------------------


@given(seeds, st.integers(1, 5), st.integers(2, 6))
@settings(deadline=None)
def test_a_common_eigenbasis_is_found_again(seed, count, size):
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((count, size)) * 10.0 ** rng.integers(-3, 4, (count, 1))
    loss = ln.commuting_loss(table, np.zeros(count), basis_of(seed, size))
    basis, found = ln.common_eigenbasis(loss.operators)
    assert_allclose(basis.T @ basis, np.eye(size), atol=1e-12)
    for A, values in zip(loss.operators, found, strict=True):
        assert_allclose(basis * values @ basis.T, A, atol=1e-9 * np.abs(A).max())


def test_equal_eigenvalues_of_one_matrix_do_not_hide_the_basis_of_another():
    basis = basis_of(3, 4)
    table = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [2, -1, 5, 5], [0, 0, 0, 3]])
    operators = ln.commuting_loss(table, np.zeros(4), basis).operators
    found, values = ln.common_eigenbasis(operators)
    assert_allclose(found @ (values[:, :, None] * found.T), operators, atol=1e-12)
    assert {tuple(row) for row in values.T.round(6)} == {tuple(row) for row in table.T}


def test_matrices_that_do_not_commute_are_refused():
    with pytest.raises(ValueError, match="operators"):
        ln.common_eigenbasis(ln.tilted_pair(1e-6).operators)
    assert ln.common_eigenbasis(ln.tilted_pair(0.0).operators)[1].shape == (2, 2)


@pytest.mark.ledger("lem-least-nuclear-norm-diagonal")
@given(seeds, depths)
@settings(deadline=None)
def test_the_flow_of_the_matrices_stays_diagonal_and_positive(seed, depth):
    # The velocity of the product at a diagonal matrix is diagonal, with the entries of the module.
    table, y = ln.random_problem(seed)
    basis = basis_of(seed, 6)
    loss = ln.commuting_loss(table, y, basis)
    x = np.random.default_rng(seed).uniform(0.01, 2, 6)
    W = basis * x @ basis.T
    moved = basis.T @ product_velocity(W, loss.gradient(W), depth) @ basis
    expected = -depth * x ** (2 - 2 / depth) * (table.T @ (table @ x - y))
    size = np.abs(expected).max()
    evidence.agree(moved / size, np.diag(expected) / size, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_factors_and_eigenvalues_end_at_the_same_fit(depth):
    table, y = ln.random_problem(5, 4, 2)
    basis = basis_of(1, 4)
    loss = ln.commuting_loss(table, y, basis)
    run = gradient_flow(
        loss, identical(4, depth, 0.5), 1e6, LossBelow(1e-18), rtol=1e-9, atol=1e-13
    )
    x = ln.flow_limit(table, y, depth, 0.5)
    assert_allclose(run.products[-1], basis * x @ basis.T, atol=1e-6)
    path = ln.diagonal_flow(table, y, depth, 0.5, [0, 0.5, 2.0])
    early = gradient_flow(
        loss, identical(4, depth, 0.5), 2.0, record=[0.5, 2.0], method="DOP853", rtol=1e-10
    )
    for W, values in zip(early.products, path, strict=True):
        assert_allclose(W, basis * values @ basis.T, atol=1e-7)


# --- where the flow ends -------------------------------------------------------------------------


@pytest.mark.ledger("thm-least-nuclear-norm-end")
@given(seeds, depths, st.sampled_from([0.5, 0.1, 0.01]))
@settings(deadline=None)
def test_no_other_fit_has_a_smaller_objective(seed, depth, scale):
    table, y = ln.random_problem(seed)
    x = ln.flow_limit(table, y, depth, scale)
    assert (x > 0).all()
    assert_allclose(table @ x, y, rtol=0, atol=1e-8 * np.abs(y).max())
    rng = np.random.default_rng(seed)
    kernel = np.linalg.svd(table)[2][3:]
    best = objective(x, depth, scale)
    for _ in range(10):
        way = kernel.T @ rng.standard_normal(3)
        longest = np.min(-x[way < 0] / way[way < 0], initial=10)  # where an entry would vanish
        for length in (0.01, 0.3, 0.99):
            other = objective(x + length * longest * way, depth, scale)
            evidence.holds(other >= best - 1e-9 * (1 + abs(best)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_a_convex_solver_finds_the_same_fit(seed, depth):
    table, y = ln.random_problem(seed)
    scale, z = 0.2, cp.Variable(6)
    if depth == 2:
        goal = cp.sum(z) - cp.sum(cp.entr(z) + z) / np.log(1 / scale**2)
    else:
        goal = cp.sum(z) - depth / 2 * scale ** (depth - 2) * cp.sum(cp.power(z, 2 / depth))
    problem = cp.Problem(cp.Minimize(goal), [table @ z == y])
    problem.solve(solver=cp.CLARABEL)
    assert_allclose(ln.flow_limit(table, y, depth, scale), z.value, atol=1e-4)
    assert objective(ln.flow_limit(table, y, depth, scale), depth, scale) <= problem.value + 1e-8


@pytest.mark.ledger("thm-least-nuclear-norm-end")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_integration_arrives_at_the_limit(seed, depth):
    table, y = ln.random_problem(seed)
    end = ln.diagonal_flow(table, y, depth, 0.2, [0.0, 1e9])[-1]
    evidence.agree(end, ln.flow_limit(table, y, depth, 0.2), rtol=1e-5)


@given(seeds, depths)
@settings(deadline=None, max_examples=50)
def test_the_limit_knows_the_set_of_fits_only(seed, depth):
    # Other equations for the same set, and other units of W, change nothing else.
    table, y = ln.random_problem(seed)
    x = ln.flow_limit(table, y, depth, 0.1)
    mix = np.random.default_rng(seed).standard_normal((3, 3)) + 4 * np.eye(3)
    assert_allclose(ln.flow_limit(mix @ table, mix @ y, depth, 0.1), x, rtol=1e-5, atol=1e-9)
    larger = ln.flow_limit(table, 7 * y, depth, 0.1 * 7 ** (1 / depth))
    assert_allclose(larger, 7 * x, rtol=1e-5, atol=1e-9)


@given(seeds, depths)
@settings(deadline=None, max_examples=50)
def test_a_smaller_scale_never_gives_a_larger_nuclear_norm(seed, depth):
    table, y = ln.random_problem(seed)
    sums = [ln.flow_limit(table, y, depth, s).sum() for s in (0.9, 0.3, 0.1, 0.03, 0.01)]
    assert (np.diff(sums) <= 1e-9 * sums[0]).all()
    assert sums[-1] >= ln.linear_program(table, y).value * (1 - 1e-9)


@pytest.mark.ledger("prop-least-nuclear-norm-shape")
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_shape_of_the_start_is_followed_by_the_matrices(depth):
    table, y = ln.random_problem(8, 4, 2)
    shape = np.array([1.0, 0.5, 2.0, 1.3])
    start = np.diag((0.3 * shape) ** depth)
    run = product_flow(
        ln.commuting_loss(table, y), start, depth, 1e6, LossBelow(1e-16), rtol=1e-9, atol=1e-13
    )
    x = ln.flow_limit(table, y, depth, 0.3, shape)
    evidence.agree(run.products[-1], np.diag(x), atol=1e-5)


@pytest.mark.ledger("prop-least-nuclear-norm-shape")
def test_from_depth_three_on_another_start_selects_another_norm():
    # min z1 + z2 for z1 + 2 z2 = 2 picks the second entry, weights (1, 3) the first.
    table, y, shape = [[1.0, 2.0]], [2.0], np.array([1.0, 1 / 3])
    evidence.agree(ln.flow_limit(table, y, 2, 1e-8, shape), [0, 1], atol=1e-5)
    evidence.agree(ln.flow_limit(table, y, 3, 1e-6, shape), [2, 0], atol=1e-5)
    evidence.agree(ln.flow_limit(table, y, 4, 1e-4, shape**0.5), [2, 0], atol=1e-3)


# --- the least nuclear norm ----------------------------------------------------------------------


@given(seeds, st.integers(2, 7), st.data())
@settings(deadline=None)
def test_the_programme_proves_itself(seed, size, data):
    count = data.draw(st.integers(1, size - 1))
    table, y = ln.random_problem(seed, size, count)
    weights = np.random.default_rng(seed).uniform(0.5, 2, size)
    p = ln.linear_program(table, y, weights)
    assert (p.spectrum >= 0).all()
    assert_allclose(table @ p.spectrum, y, atol=1e-8 * np.abs(y).max())
    assert p.value == pytest.approx(weights @ p.spectrum, rel=1e-8)
    assert p.multipliers @ y == pytest.approx(p.value, rel=1e-6)
    assert_allclose(p.slack, weights - table.T @ p.multipliers, atol=1e-6)
    assert p.slack.min() >= -1e-9
    assert (p.slack[~p.support] > 0).all()


@given(seeds)
@settings(deadline=None, max_examples=20)
def test_the_excess_is_what_the_slack_sees(seed):
    table, y = ln.random_problem(seed)
    p = ln.linear_program(table, y)
    for depth in (2, 3, 4):
        x = ln.flow_limit(table, y, depth, 0.1)
        assert x.sum() - p.value == pytest.approx(p.slack @ x, rel=1e-5, abs=1e-7)


@pytest.mark.ledger("lem-least-nuclear-norm-programme")
@pytest.mark.parametrize("seed", range(5))
def test_another_solver_finds_the_same_value_for_whole_matrices(seed):
    # The diagonal programme is no restriction: off-diagonal entries cannot lower the trace.
    table, y = ln.random_problem(seed, 4, 2)
    loss = ln.commuting_loss(table, y, basis_of(seed, 4))
    Z = cp.Variable((4, 4), PSD=True)
    fits = [cp.trace(A @ Z) == b for A, b in zip(loss.operators, y, strict=True)]
    problem = cp.Problem(cp.Minimize(cp.trace(Z)), fits)
    problem.solve(solver=cp.CLARABEL)
    evidence.agree(ln.linear_program(table, y).value, problem.value, rtol=1e-6)
    W, bound = ln.least_trace(loss.operators, y)
    assert bound == pytest.approx(problem.value, rel=2e-6)
    assert np.trace(W) == pytest.approx(problem.value, rel=2e-6)


@pytest.mark.parametrize("seed", range(6))
def test_least_trace_where_nothing_commutes(seed):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((4, 5, 5))
    A = A + A.transpose(0, 2, 1)
    B = rng.standard_normal((5, 5))
    y = np.einsum("ipq,pq->i", A, B @ B.T)
    W, bound = ln.least_trace(A, y)
    Z = cp.Variable((5, 5), PSD=True)
    fits = [cp.trace(M @ Z) == b for M, b in zip(A, y, strict=True)]
    problem = cp.Problem(cp.Minimize(cp.trace(Z)), fits)
    problem.solve(solver=cp.CLARABEL)
    assert np.linalg.eigvalsh(W)[0] > 0
    assert_allclose(np.einsum("ipq,pq->i", A, W), y, atol=1e-5 * np.abs(y).max())
    assert np.trace(W) == pytest.approx(problem.value, rel=1e-5)
    assert bound == pytest.approx(problem.value, rel=1e-5)


@pytest.mark.ledger("prop-least-nuclear-norm-conflict")
@pytest.mark.parametrize("ratio", [1.0, 1.5, 2.0, 5.0])
def test_conflicting_entries_have_the_norms_of_their_docstring(ratio):
    loss = ln.conflicting_entries(ratio)
    R = ratio
    least = np.array([[R, 1, 1, R], [1, R, R, 1], [1, R, R, 1], [R, 1, 1, R]])
    w = np.array([1, R, 1, R])
    assert loss.value(least) == 0
    assert loss.value(np.outer(w, w)) == 0
    assert np.trace(np.outer(w, w)) == 2 + 2 * R**2
    assert np.linalg.eigvalsh(least)[0] > -1e-12 * R
    W, bound = ln.least_trace(loss.operators, loss.measurements)
    evidence.agree(bound, 4 * R, rtol=1e-6)
    evidence.agree(np.trace(W), 4 * R, rtol=1e-6)
    evidence.at_most(np.linalg.matrix_rank(least, tol=1e-9), 2)


@pytest.mark.ledger("prop-least-nuclear-norm-conflict")
@given(st.floats(1, 100), st.floats(0.01, 100))
@settings(deadline=None)
def test_no_rank_one_fit_of_conflicting_entries_is_smaller(ratio, first):
    # All of them: w1 w3 = 1, w1 w4 = R, w2 w3 = R.
    w = np.array([first, ratio * first, 1 / first, ratio / first])
    assert ln.conflicting_entries(ratio).value(np.outer(w, w)) < 1e-18 * ratio**2
    evidence.at_most(2 + 2 * ratio**2, w @ w, slack=1e-12)


@pytest.mark.ledger("prop-least-nuclear-norm-angle")
@pytest.mark.parametrize("angle", [-1.0, -0.2, 0.05, 0.3, 1.2])
def test_a_tilted_pair_has_a_rank_one_solution_of_known_norm(angle):
    loss = ln.tilted_pair(angle)
    W, bound = ln.least_trace(loss.operators, loss.measurements)
    value = 2 / (1 + abs(np.sin(angle)))
    assert bound <= value * (1 + 1e-9)
    evidence.agree(np.trace(W), value, rtol=1e-6)
    assert np.linalg.eigvalsh(W)[0] < 1e-5 / abs(np.sin(angle))


@pytest.mark.ledger("prop-least-nuclear-norm-angle")
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("angle", [0.0, 0.1, 0.4, 0.9, 1.4])
def test_the_flow_of_a_tilted_pair_is_that_of_one_measurement(angle, depth):
    """The flow of the product, which knows nothing of the reduction."""
    run = product_flow(
        ln.tilted_pair(angle), 0.3**depth * np.eye(2), depth, 1e6, LossBelow(1e-20),
        rtol=1e-10, atol=1e-13,
    )  # fmt: skip
    s = np.sin(angle)
    x = ln.flow_limit([[1 + s, 1 - s]], [2.0], depth, 0.3)
    evidence.agree(np.linalg.eigvalsh(run.products[-1]), np.sort(x), atol=1e-6)


@pytest.mark.ledger("prop-least-nuclear-norm-schatten")
@given(seeds, depths, st.integers(2, 6))
@settings(deadline=None)
def test_commuting_measurements_do_not_see_the_rank(seed, depth, size):
    table, y = ln.random_problem(seed, size, 1 + seed % (size - 1))
    basis = basis_of(seed, size)
    loss = ln.commuting_loss(table, y, basis)
    x = ln.flow_limit(table, y, depth, 0.3)
    W, flat = basis * x @ basis.T, ln.rank_one_fit(x, basis)
    assert np.linalg.matrix_rank(flat) == 1
    assert loss.value(flat) < 1e-12 * (1 + np.abs(table).max() ** 2 * x.sum() ** 2)
    evidence.agree(nuclear_norm(flat), nuclear_norm(W), rtol=1e-9)
    for p in (0.1, 0.5, 0.9):
        assert schatten_norm(flat, p) < schatten_norm(W, p)


@pytest.mark.ledger("prop-least-nuclear-norm-schatten")
@given(seeds, st.floats(0.05, 0.95), st.floats(0.02, 0.98))
@settings(deadline=None)
def test_the_limit_is_no_local_minimum_of_a_schatten_quasi_norm(seed, p, fraction):
    x = np.random.default_rng(seed).uniform(0.1, 1, 4)
    W = np.diag(x)
    W[0, 1] = W[1, 0] = fraction * np.sqrt(x[0] * x[1])
    before, after = np.linalg.eigvalsh(np.diag(x)), np.linalg.eigvalsh(W)
    assert after[0] > 0
    evidence.holds((after**p).sum() < (before**p).sum())
    evidence.agree(after.sum(), before.sum(), rtol=1e-12)


# --- small scales --------------------------------------------------------------------------------


@pytest.mark.ledger("thm-least-nuclear-norm-rate")
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_the_excess_follows_its_rate(seed, depth):
    table, y = ln.random_problem(seed)
    p = ln.linear_program(table, y)
    assert p.unique
    # The rate holds once the other entries have all but reached the solution. At depth 2 that can
    # take scales like 1e-30.
    enough = 1e-4 * p.spectrum[p.support].min() * p.slack[~p.support].min()
    scale = 0.01
    while ln.excess_asymptotics(table, y, depth, scale) > enough or (
        depth > 2 and scale ** (depth - 2) > 1e-4
    ):
        scale /= 10
    x = ln.flow_limit(table, y, depth, scale)
    excess = p.slack @ x  # the difference of the sums would be rounding
    evidence.agree(excess, ln.excess_asymptotics(table, y, depth, scale), rtol=0.02)


@pytest.mark.ledger("thm-least-nuclear-norm-limit")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_limit_of_small_scales_solves_the_programme(seed, depth):
    table, y = ln.random_problem(seed, 7, 3)
    x = ln.small_scale_limit(table, y, depth)
    p = ln.linear_program(table, y)
    evidence.agree(x.sum(), p.value, rtol=1e-9)
    evidence.agree(x, p.spectrum, rtol=1e-7, atol=1e-8)
    scale = 1e-20 if depth == 2 else 1e-9 ** (1 / (depth - 2))
    evidence.agree(ln.flow_limit(table, y, depth, scale).sum(), p.value, rtol=1e-2)


@pytest.mark.ledger("thm-least-nuclear-norm-limit")
@pytest.mark.parametrize("depth", [2, 3, 4, 7])
def test_among_several_solutions_the_limit_has_the_largest_quasi_norm(depth):
    # With the trace among the measurements, every fit has the least nuclear norm.
    table, y = np.array([[1.0, 1, 1, 1], [1, 2, 3, 5]]), np.array([1.0, 1.7])
    x = ln.small_scale_limit(table, y, depth)
    for scale in (0.5, 0.1):
        assert_allclose(ln.flow_limit(table, y, depth, scale), x, atol=1e-8)
    z = cp.Variable(4)
    size = cp.sum(cp.entr(z)) if depth == 2 else cp.sum(cp.power(z, 2 / depth))
    cp.Problem(cp.Maximize(size), [table @ z == y]).solve(solver=cp.CLARABEL)
    evidence.agree(x, z.value, rtol=1e-7, atol=1e-4)
    assert not ln.linear_program(table, y).unique


@pytest.mark.ledger("prop-least-nuclear-norm-ties")
@given(seeds, depths, st.integers(3, 6), st.floats(0.02, 0.8))
@settings(deadline=None)
def test_with_the_trace_among_the_measurements_the_scale_does_not_count(seed, depth, size, scale):
    rng = np.random.default_rng(seed)
    table = np.vstack([np.ones(size), rng.standard_normal((1 + seed % (size - 2), size))])
    y = table @ rng.uniform(0.2, 2, size)
    x = ln.flow_limit(table, y, depth, 0.3)
    evidence.agree(ln.flow_limit(table, y, depth, scale), x, rtol=1e-5, atol=1e-8)
    # the formula: the image of x lies in the row space of the table
    image = np.log(x) if depth == 2 else x ** (2 / depth - 1)
    theta = np.linalg.lstsq(table.T, image, rcond=None)[0]
    evidence.agree(theta @ table, image, rtol=1e-5, atol=1e-8)


def test_support_of_all_minimisers_not_of_one():
    # Two equal columns: each vertex uses one of them, the relative interior both.
    table, y = np.array([[1.0, 1.0, 0.2], [0.0, 0.0, 1.0]]), np.array([1.0, 0.0])
    p = ln.linear_program(table, y)
    assert p.support.tolist() == [True, True, False]
    assert_allclose(ln.small_scale_limit(table, y, 3), [0.5, 0.5, 0], atol=1e-12)


# --- one measurement -----------------------------------------------------------------------------


@pytest.mark.ledger("prop-least-nuclear-norm-one")
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_one_measurement_keeps_the_relations_between_values(depth):
    a, y, scale = np.array([[1.0, 0.6, -0.5]]), [1.0], 0.1
    path = ln.diagonal_flow(a, y, depth, scale, np.geomspace(0.1, 1e4, 30))
    start = scale**depth
    for k in (1, 2):
        expected = companion(path[:, 0], start, start, a[0, k], depth)
        evidence.agree(path[:, k], expected, rtol=1e-6)
        rho = a[0, k]  # the first is 1
        if depth == 2:
            formula = scale ** (2 * (1 - rho)) * path[:, 0] ** rho
        else:
            race = (1 - rho) * scale ** (2 - depth) + rho * path[:, 0] ** (2 / depth - 1)
            formula = race ** (-depth / (depth - 2))
        evidence.agree(path[:, k], formula, rtol=1e-6)
    evidence.agree(path[-1], ln.flow_limit(a, y, depth, scale), rtol=1e-6)
    evidence.agree(ln.linear_program(a, y).slack, 1 - a[0], atol=1e-9)


@pytest.mark.parametrize("depth", [3, 4, 6])
def test_the_slack_of_one_measurement_is_the_lag_of_its_values(depth):
    a, y = np.array([[1.0, 0.6]]), [1.0]
    slack = ln.linear_program(a, y).slack[1]
    assert slack == pytest.approx(0.4)
    behind = ln.flow_limit(a, y, depth, 1e-4)[1]
    assert behind / 1e-4**depth == pytest.approx(lag_limit(0.6, depth), rel=1e-3)
    assert lag_limit(0.6, depth) == pytest.approx(slack ** (-depth / (depth - 2)))


# --- descent -------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3])
def test_descent_approaches_the_flow_in_proportion_to_the_step(depth):
    table, y = ln.random_problem(2, 5, 2)
    limit = ln.flow_limit(table, y, depth, 0.3)
    gaps = [
        np.abs(ln.descent_limit(table, y, depth, 0.3, eta, 1e-12)[0] - limit).max()
        for eta in (0.02, 0.01, 0.005)
    ]
    assert_allclose(np.divide(gaps[:-1], gaps[1:]), 2, rtol=0.1)


@pytest.mark.ledger("prop-least-nuclear-norm-descent")
@pytest.mark.parametrize("seed", range(3, 7))
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_descent_ends_where_the_flow_from_another_start_ends(depth, seed):
    table, y = ln.random_problem(seed, 5, 2)
    scale, eta = 0.3, 0.02
    d, lost = np.full(5, scale), np.zeros(5)
    for _ in range(200_000):
        residual = table @ d**depth - y
        if np.abs(residual).max() < 1e-13:
            break
        e = eta * d ** (depth - 2) * (table.T @ residual)
        assert e.max() < 1
        if depth == 2:
            lost -= np.log1p(-e) + e
        else:
            lost += d ** (2.0 - depth) * ((1 - e) ** (2.0 - depth) - 1 - (depth - 2) * e)
        d = d * (1 - e)
    assert (lost >= 0).all()
    raised = 1 + scale ** (depth - 2) * lost  # what the weights are multiplied by, from depth 3
    shape = np.exp(-lost) if depth == 2 else raised ** (-1 / (depth - 2))
    evidence.agree(d**depth, ln.flow_limit(table, y, depth, scale, shape), rtol=1e-6)
    assert_allclose(d**depth, ln.descent_limit(table, y, depth, scale, eta, 1e-12)[0], rtol=1e-8)


def test_at_depth_two_the_step_size_changes_the_limit_of_small_scales():
    table, y = ln.random_problem(98, 6, 2)
    least = ln.linear_program(table, y).value
    for scale in (1e-8, 1e-32):
        x, _ = ln.descent_limit(table, y, 2, scale, 0.33, 1e-9)
        assert 0.033 < x.sum() / least - 1 < 0.035
    assert ln.flow_limit(table, y, 2, 1e-32).sum() / least - 1 < 1e-4


def test_descent_reports_how_it_fails():
    table, y = ln.random_problem(0)
    with pytest.raises(ValueError, match=r"step_size=50.*diverges at step \d"):
        ln.descent_limit(table, y, 2, 0.5, 50)
    with pytest.raises(ValueError, match="max_steps=3"):
        ln.descent_limit(table, y, 2, 0.5, 1e-3, max_steps=3)


# --- bad input -----------------------------------------------------------------------------------

TABLE, Y = ln.random_problem(0, 3, 1)
EYE, NAN = np.eye(2), np.full((2, 2), np.nan)
ASKEW = [[[0.0, 1.0], [0.0, 0.0]]]
TABLES = [3.0, [1.0, 2.0], [[np.nan, 1, 1]], "ab", None, np.ones((0, 3)), [[1j, 1, 1]]]
VALUES = [3.0, [1.0, 2.0], [np.inf], "ab", None, [[1.0]]]
SCALES = [0, -1.0, np.nan, np.inf, "1", None]
DEPTHS = [1, 0, 2.0, "2", None, True]
COUNTS = [0, -1, 1.5, "2", None]
GOOD = {"eigenvalues": TABLE, "measurements": Y}
MOVING = {**GOOD, "depth": 3, "scale": 0.1}
UNREACHABLE = {"eigenvalues": [[1.0, 2.0]], "depth": 2, "scale": 0.1}

CASES = [
    (ln.common_eigenbasis, {}, {"operators": [EYE, [EYE, NAN], ASKEW, np.ones((1, 2, 3)), "a"]}),
    (ln.commuting_loss, GOOD, {"eigenvalues": TABLES, "measurements": VALUES}),
    (ln.commuting_loss, GOOD, {"basis": [EYE, 2 * np.eye(3), "a", np.ones(3)]}),
    (ln.random_problem, {"seed": 0}, {"seed": [-1, "a"], "size": COUNTS, "count": [*COUNTS, 6]}),
    (ln.tilted_pair, {}, {"angle": [2.0, np.pi / 2, -2.0, np.nan, "a", None]}),
    (ln.conflicting_entries, {}, {"ratio": [0.9, -1, np.inf, "a", None]}),
    (
        ln.linear_program,
        GOOD,
        {
            "eigenvalues": TABLES,
            "measurements": VALUES,
            "weights": [[0.0, 1, 1], [-1.0, 1, 1], [1.0], "a"],
        },
    ),
    (ln.linear_program, {"eigenvalues": [[1.0, 2.0]]}, {"measurements": [[-1.0]]}),
    (
        ln.least_trace,
        {"operators": [EYE], "measurements": [1.0]},
        {
            "operators": [EYE, ASKEW, [0 * EYE], [NAN], "a"],
            "measurements": [[1.0, 2.0], [np.nan], "a", [-1.0]],
            "gap": [0, 1e-9, 2.0, np.nan, "a"],
        },
    ),
    (
        ln.flow_limit,
        MOVING,
        {
            "eigenvalues": TABLES,
            "measurements": VALUES,
            "depth": DEPTHS,
            "scale": SCALES,
            "shape": [[0.0, 1, 1], [1.0], "a"],
        },
    ),
    (ln.flow_limit, UNREACHABLE, {"measurements": [[-1.0]]}),
    (
        ln.small_scale_limit,
        {**GOOD, "depth": 3},
        {"eigenvalues": TABLES, "measurements": VALUES, "depth": DEPTHS},
    ),
    (
        ln.excess_asymptotics,
        MOVING,
        {"eigenvalues": TABLES, "measurements": VALUES, "depth": DEPTHS, "scale": SCALES},
    ),
    (
        ln.excess_asymptotics,
        {"eigenvalues": [[1.0, 1.0]], "depth": 3, "scale": 0.1},
        {"measurements": [[1.0]]},
    ),
    (ln.rank_one_fit, {"spectrum": [1.0, 2.0]}, {"spectrum": [[-1.0], 3.0, "a"], "basis": [[1.0]]}),
    (
        ln.diagonal_flow,
        {**MOVING, "times": [0.0, 1.0]},
        {
            "eigenvalues": TABLES,
            "measurements": VALUES,
            "depth": DEPTHS,
            "scale": SCALES,
            "times": [[1.0, 1.0], [-1.0, 1.0], 3.0, [], "a"],
            "rtol": [0, 1.0, "a"],
        },
    ),
    (
        ln.descent_limit,
        {**MOVING, "step_size": 0.1},
        {
            "eigenvalues": TABLES,
            "measurements": VALUES,
            "depth": DEPTHS,
            "scale": SCALES,
            "step_size": SCALES,
            "accuracy": SCALES,
            "max_steps": COUNTS,
        },
    ),
]


@pytest.mark.parametrize(
    ("function", "good", "name", "value"),
    [
        (function, good, name, value)
        for function, good, bad in CASES
        for name, values in bad.items()
        for value in values
    ],
)
def test_bad_input_is_named(function, good, name, value):
    with pytest.raises(ValueError, match=rf"(?s)^{name}\b.*: {name} must be"):
        function(**{**good, name: value})


def test_every_public_function_is_in_the_table():
    tested = {function.__name__ for function, _, _ in CASES}
    assert tested == {name for name in ln.__all__ if name.islower()}


def test_problems_are_losses_of_the_right_shape():
    assert isinstance(ln.tilted_pair(0.3), Sensing)
    assert ln.conflicting_entries(2).shape == (4, 4)
