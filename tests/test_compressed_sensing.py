"""When l1 finds the truth, how fast the flow gets there, and what noise and steps change."""

import warnings
from itertools import combinations

import cvxpy
import evidence
import joblib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad, solve_ivp
from scipy.stats import norm

from dmflib import bregman
from dmflib import compressed_sensing as cs
from dmflib.sparse_recovery import basis_pursuit

seeds = st.integers(0, 2**32 - 1)
quick = settings(deadline=None, max_examples=40)


def instance(seed, m=24, n=40, s=4, nonnegative=False):
    rng = np.random.default_rng(seed)
    A = cs.gaussian_measurements(m, n, rng)
    return A, cs.sparse_signal(n, s, nonnegative=nonnegative, rng=rng)


def limit(A, x, depth, scale):
    return bregman.minimizer(A, A @ x, scale**depth, depth, signed=True)


# --- signals ------------------------------------------------------------------------------------


@quick
@given(st.integers(1, 30), st.data(), st.booleans(), seeds)
def test_signals_have_their_sparsity_and_their_sizes(n, data, nonnegative, seed):
    s = data.draw(st.integers(0, n))
    x = cs.sparse_signal(n, s, nonnegative=nonnegative, rng=seed)
    size = np.abs(x[x != 0])
    assert len(size) == s
    assert ((size >= 0.5) & (size <= 1.5)).all()
    assert not nonnegative or (x >= 0).all()
    assert_array_equal(x, cs.sparse_signal(n, s, nonnegative=nonnegative, rng=seed))


def test_signals_are_spread_and_matrices_normalised():
    X = np.array([cs.sparse_signal(10, 3, rng=seed) for seed in range(4000)])
    assert_allclose((X != 0).mean(axis=0), 0.3, atol=0.04)
    assert_allclose((X > 0).sum() / (X != 0).sum(), 0.5, atol=0.03)
    A = cs.gaussian_measurements(50, 2000, 0)
    assert_allclose((A**2).sum(axis=0).mean(), 1, atol=0.02)
    assert abs(A.mean()) < 0.002


@quick
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.data())
def test_tail_is_the_distance_to_sparse_vectors(x, data):
    s = data.draw(st.integers(0, len(x)))
    supports = [np.array(S, int) for S in combinations(range(len(x)), s)]
    best = min(np.abs(np.delete(x, S)).sum() for S in supports)
    assert_allclose(cs.tail(x, s), best, atol=1e-12)


# --- null space and isometry --------------------------------------------------------------------


@settings(deadline=None, max_examples=12)
@given(seeds, st.integers(4, 7), st.integers(1, 2))
def test_null_space_constant_bounds_and_is_attained(seed, m, s):
    rng = np.random.default_rng(seed)
    A = cs.gaussian_measurements(m, 8, rng)
    rho = cs.null_space_constant(A, s)
    kernel = np.linalg.svd(A)[2][m:]
    V = np.sort(np.abs(rng.standard_normal((4000, len(kernel))) @ kernel), axis=1)
    ratios = V[:, -s:].sum(axis=1) / V[:, :-s].sum(axis=1)
    assert ratios.max() <= rho * (1 + 1e-7)
    if len(kernel) == 1:
        assert_allclose(rho, ratios[0], rtol=1e-6)


@pytest.mark.ledger("thm-compressed-sensing-stable")
@pytest.mark.parametrize("seed", range(6))
def test_null_space_constant_below_one_is_recovery_of_all(seed):
    A = cs.gaussian_measurements(6, 9, seed)
    rho = cs.null_space_constant(A, 2)
    found = []
    for S in combinations(range(9), 2):
        for sign in (1, -1):
            x = np.zeros(9)
            x[list(S)] = 1, sign
            _, c = cs.dual_certificate(A, x)
            found.append(c < 1)
    evidence.holds(all(found) == (rho < 1))


def test_null_space_constant_at_the_edges():
    assert cs.null_space_constant(np.eye(3), 2) == 0
    assert cs.null_space_constant([[1.0, 1.0, 0.0]], 0) == 0
    assert cs.null_space_constant([[1.0, 0.0]], 1) == np.inf
    assert_allclose(cs.null_space_constant([[1.0, 1.0]], 1), 1)
    assert_allclose(cs.null_space_constant([[1.0, 2.0]], 1), 2)


@pytest.mark.ledger("thm-compressed-sensing-stable")
@settings(deadline=None, max_examples=12)
@given(seeds, st.floats(0.3, 3))
def test_stability_theorem(seed, spread):
    # |z - x|_1 <= (1 + rho) / (1 - rho) (|z|_1 - |x|_1 + 2 tail) for any two with Az = Ax
    rng = np.random.default_rng(seed)
    A = cs.gaussian_measurements(6, 8, rng)
    kernel = np.linalg.svd(A)[2][6:]
    rho = cs.null_space_constant(A, 1)
    assume(rho < 0.999)
    for _ in range(50):
        x = cs.sparse_signal(8, 1, rng=rng) + 0.1 * rng.standard_normal(8) * rng.integers(2)
        z = x + spread * rng.standard_normal(2) @ kernel
        excess = np.abs(z).sum() - np.abs(x).sum() + 2 * cs.tail(x, 1)
        bound = (1 + rho) / (1 - rho) * excess
        evidence.at_most(np.abs(z - x).sum(), bound + 1e-12, slack=1e-7)


@pytest.mark.ledger("cor-compressed-sensing-flow")
@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(2, 4), st.floats(-3, 0.5), st.booleans())
def test_limit_of_the_flow_is_near_what_was_measured(seed, depth, digits, compressible):
    rng = np.random.default_rng(seed)
    A = cs.gaussian_measurements(6, 8, rng)
    rho = cs.null_space_constant(A, 1)
    assume(rho < 0.99)
    x = cs.sparse_signal(8, 1, rng=rng) + 0.1 * compressible * rng.standard_normal(8)
    best = np.abs(basis_pursuit(A, A @ x)).sum()
    end = limit(A, x, depth, 10 ** (digits / depth))
    epsilon = max(np.abs(end).sum() / best - 1, 0)
    bound = (1 + rho) / (1 - rho) * (2 * cs.tail(x, 1) + epsilon * best)
    evidence.at_most(np.abs(end - x).sum(), bound + 1e-8)


@settings(deadline=None, max_examples=15)
@given(seeds, st.integers(1, 3))
def test_isometry_constant_bounds_sparse_vectors(seed, s):
    rng = np.random.default_rng(seed)
    A = cs.gaussian_measurements(30, 9, rng)
    delta = cs.restricted_isometry_constant(A, s)
    X = np.array([cs.sparse_signal(9, s, rng=rng) for _ in range(300)])
    ratio = ((X @ A.T) ** 2).sum(axis=1) / (X**2).sum(axis=1)
    assert np.abs(ratio - 1).max() <= delta * (1 + 1e-12)
    assert delta <= np.abs(np.linalg.eigvalsh(A.T @ A) - 1).max() + 1e-12
    if s == 1:
        assert_allclose(delta, np.abs((A**2).sum(axis=0) - 1).max())


@pytest.mark.ledger("prop-compressed-sensing-isometry")
@pytest.mark.parametrize("n", [5, 8, 12])
@pytest.mark.parametrize("noise", [0.0, 0.005, 0.01])
def test_isometry_gives_the_null_space_property(n, noise):
    # delta_2s < 1/3 gives the constant delta / (1 - 2 delta); near the corners of a simplex
    corners = np.linalg.svd(np.eye(n) - 1 / n)[2][: n - 1] * np.sqrt(n / (n - 1))
    A = corners + noise * np.random.default_rng(n).standard_normal(corners.shape)
    delta = cs.restricted_isometry_constant(A, 2)
    assert delta < 1 / 3
    evidence.at_most(cs.null_space_constant(A, 1), delta / (1 - 2 * delta) + 1e-9)
    if noise == 0:
        assert_allclose([delta, cs.null_space_constant(A, 1)], 1 / (n - 1))


@pytest.mark.ledger("thm-compressed-sensing-gaussian")
@pytest.mark.parametrize("n", [2, 8, 100])
def test_isometry_theorem_for_single_columns_exactly(n):
    """At s = 1 the constant is the largest | |a_k|^2 - 1 |, of independent chi-squares."""
    from scipy.stats import chi2

    for m in (20, 100, 400, 2000):
        for delta in (0.05, 0.2, 0.5, 0.9):
            one = chi2.sf(m * (1 + delta), m) + chi2.cdf(m * (1 - delta), m)
            exact = -np.expm1(n * np.log1p(-one))
            bound = 18 * np.e * n * np.exp(-m * (delta**2 / 16 - delta**3 / 48))
            if bound < 1:  # larger ones say nothing
                evidence.at_most(exact, bound)


@pytest.mark.ledger("thm-compressed-sensing-gaussian")
def test_isometry_theorem_on_random_matrices():
    # In its range the theorem promises failures in at most 5 of 100 cases; there are none.
    m = cs.isometry_measurements(8, 1, 0.5, 0.05)
    deltas = [
        cs.restricted_isometry_constant(cs.gaussian_measurements(m, 8, k), 1) for k in range(100)
    ]
    evidence.at_most(np.mean(np.array(deltas) > 0.5), 0.05)
    exponent = m * (0.25 / 16 - 0.125 / 48)
    assert 2 * (9 * np.e * 8) * np.exp(-exponent) <= 0.05 * (1 + 1e-9)


@pytest.mark.parametrize("m", [5, 30, 200])
@pytest.mark.parametrize("t", [0.05, 0.3, 0.7, 0.99])
def test_tail_of_chi_square_used_in_the_proof(m, t):
    from scipy.stats import chi2

    outside = chi2.sf(m * (1 + t), m) + chi2.cdf(m * (1 - t), m)
    assert outside <= 2 * np.exp(-m * (t**2 / 4 - t**3 / 6))


# --- the phase transition -----------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0, 2.5, 5.0])
def test_excess_moment_is_its_integral(tau):
    expected = 2 * quad(lambda g: (g - tau) ** 2 * norm.pdf(g), tau, np.inf, epsabs=0)[0]
    assert_allclose(cs.excess_moment(tau), expected, rtol=1e-8)
    assert cs.excess_moment(tau) <= np.exp(-(tau**2) / 2) * (1 + 1e-14)


@pytest.mark.parametrize("tau", [8, 15, 25])
def test_excess_moment_far_out(tau):
    # the density taken out of the integral: no underflow, no cancellation
    rest = quad(lambda g: g**2 * np.exp(-(g**2) / 2 - g * tau), 0, np.inf, epsabs=0)[0]
    assert_allclose(cs.excess_moment(tau), 2 * norm.pdf(tau) * rest, rtol=1e-9)


@pytest.mark.ledger("thm-compressed-sensing-dimension")
@quick
@given(st.integers(1, 2000), st.data(), st.booleans())
def test_statistical_dimension_is_the_minimum_and_obeys_the_bound(n, data, nonnegative):
    s = data.draw(st.integers(1, n))
    value = cs.statistical_dimension(n, s, nonnegative=nonnegative)
    tau = np.linspace(0, 8, 4001)
    moment = cs.excess_moment(tau) / (2 if nonnegative else 1)
    on_grid = (s * (1 + tau**2) + (n - s) * moment).min()
    assert value <= on_grid * (1 + 1e-12)
    assert on_grid - value <= 1e-5 * n
    assert s * (1 - 1e-12) <= value <= n * (1 + 1e-12)
    evidence.at_most(value, 2 * s * np.log(np.e * n / s), slack=1e-12)


@pytest.mark.ledger("thm-compressed-sensing-dimension")
def test_statistical_dimension_is_the_distance_to_the_polar_cone():
    # E dist(g, normal cone)^2, measured: the minimum over tau is taken for each g.
    n, s, rng = 60, 6, np.random.default_rng(0)
    for nonnegative in (False, True):
        values, tau = [], np.linspace(0, 6, 601)
        for g in rng.standard_normal((2000, n)):
            rest = np.maximum((g[s:] if nonnegative else np.abs(g[s:]))[:, None] - tau, 0)
            values.append((((g[:s, None] - tau) ** 2).sum(0) + (rest**2).sum(0)).min())
        upper = cs.statistical_dimension(n, s, nonnegative=nonnegative)
        noise = 4 * np.std(values) / np.sqrt(len(values))
        evidence.at_most(np.mean(values), upper + noise)
        assert upper - 2 * np.sqrt(n / s) - noise <= np.mean(values)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.5, 0.8, 0.95])
def test_both_formulas_of_the_transition_agree(ratio, nonnegative):
    n = 10**6
    s = round(cs.weak_threshold(ratio, nonnegative=nonnegative) * ratio * n)
    dimension = cs.statistical_dimension(n, s, nonnegative=nonnegative)
    assert_allclose(dimension / n, ratio, atol=1e-4)


def test_transition_lies_where_basis_pursuit_succeeds_half_the_time():
    def pursuit(A, y):
        from scipy.optimize import linprog

        n = A.shape[1]
        found = linprog(np.ones(2 * n), A_eq=np.hstack([A, -A]), b_eq=y, method="highs").x
        return found[:n] - found[n:]

    n, s = 60, 5
    centre = cs.statistical_dimension(n, s)
    cells = [(round(centre + shift), s) for shift in (-10, 0, 10)]
    low, middle, high = cs.success_rates(pursuit, n, cells, trials=40, rng=0)
    assert low <= 0.25
    assert 0.15 <= middle <= 0.85
    assert high >= 0.85


def test_success_rates_do_not_depend_on_the_workers():
    cells = [(10, 2), (15, 3), (20, 4)]
    one = cs.success_rates(_least_norm, 20, cells, trials=6, rng=3)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        two = cs.success_rates(_least_norm, 20, cells, trials=6, rng=3)
    assert_array_equal(one, two)
    assert one[2] == 1  # as many measurements as unknowns


def _least_norm(A, y):
    return np.linalg.lstsq(A, y, rcond=None)[0]


def test_a_method_that_gives_up_has_failed():
    def give_up(A, y):
        raise ArithmeticError

    assert_array_equal(cs.success_rates(give_up, 5, [(5, 1)], trials=2, rng=0), [0.0])


# --- rates --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(seeds, st.integers(1, 6))
def test_certificate_is_optimal(seed, s):
    A, x = instance(seed, 16, 30, s)
    nu, c = cs.dual_certificate(A, x)
    on = x != 0
    assert_allclose((nu @ A)[on], np.sign(x[on]), atol=1e-8)
    assert_allclose(np.abs(nu @ A)[~on].max(), c, atol=1e-8)
    # no other certificate is better: the minimum norm one, and random neighbours
    kernel = np.linalg.svd(A[:, on].T)[2][s:]
    rng = np.random.default_rng(seed)
    others = [
        np.linalg.pinv(A[:, on].T) @ np.sign(x[on]),
        *(nu + 0.1 * rng.standard_normal((20, len(kernel))) @ kernel),
    ]
    assert all(np.abs(other @ A)[~on].max() >= c - 1e-8 for other in others)


def test_no_certificate_where_the_columns_contradict():
    nu, c = cs.dual_certificate([[1.0, 1.0, 0.3]], [1.0, -1.0, 0.0])
    assert c == np.inf
    assert not np.isfinite(nu).any()


@pytest.mark.ledger("thm-compressed-sensing-rate")
@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(2, 5), st.integers(1, 5), st.floats(-10, -3))
def test_rate_bound_is_never_exceeded(seed, depth, s, exponent):
    A, x = instance(seed, s=s)
    nu, c = cs.dual_certificate(A, x)
    assume(c < 0.98)
    scale = 10 ** (exponent / depth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bregman.AccuracyWarning)
        distance = np.abs(limit(A, x, depth, scale) - x).sum()
    evidence.at_most(distance, cs.rate_bound(A, x, depth, scale, nu) + 1e-9, slack=1e-6)


def test_rates_by_depth():
    # alpha**N from depth 3 on; at depth 2 the power 2 (1 - c)
    A, x = instance(1, 30, 60, 5)
    _, c = cs.dual_certificate(A, x)
    for depth, expected in ((2, 2 * (1 - c)), (3, 3), (4, 4)):
        scales = np.array([1e-6, 1e-8]) ** (1 / depth)
        errors = [np.abs(limit(A, x, depth, scale) - x).sum() for scale in scales]
        slope = np.log(errors[1] / errors[0]) / np.log(scales[1] / scales[0])
        assert_allclose(slope, expected, rtol=0.03)


def test_rate_bound_is_infinite_where_it_says_nothing():
    A, x = instance(0)
    nu, c = cs.dual_certificate(A, x)
    assert cs.rate_bound(A, x, 3, 1.0, nu) == np.inf
    wide, many = instance(0, 10, 40, 9)
    nu, c = cs.dual_certificate(wide, many)
    assert c >= 1
    assert cs.rate_bound(wide, many, 3, 1e-9, nu) == np.inf


# --- noise --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(2, 25), st.integers(2, 40))
def test_lasso_path_is_optimal_everywhere(seed, m, n):
    rng = np.random.default_rng(seed)
    A, y = rng.standard_normal((m, n)), rng.standard_normal(m)
    path = cs.lasso_path(A, y)
    assert (np.diff(path[0]) < 0).all()
    assert path[0][-1] == 0
    penalties = rng.uniform(0, 1.1, 20) * path[0][0]
    size = np.abs(A.T @ y).max()
    for penalty, x in zip(penalties, cs.lasso_solution(path, penalties), strict=True):
        correlation = A.T @ (y - A @ x)
        assert np.abs(correlation).max() <= penalty + 1e-8 * size
        on = np.abs(x) > 1e-9
        assert_allclose(correlation[on], penalty * np.sign(x[on]), atol=1e-7 * size)


@pytest.mark.parametrize("seed", range(4))
def test_lasso_path_agrees_with_cvxpy(seed):
    A, x = instance(seed, 15, 30, 4)
    y = A @ x + 0.1 * np.random.default_rng(seed).standard_normal(15)
    path = cs.lasso_path(A, y)
    for fraction in (0.5, 0.1, 0.02):
        penalty = fraction * path[0][0]
        z = cvxpy.Variable(30)
        loss = cvxpy.sum_squares(A @ z - y) / 2 + penalty * cvxpy.norm1(z)
        cvxpy.Problem(cvxpy.Minimize(loss)).solve(
            solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12
        )
        assert_allclose(cs.lasso_solution(path, penalty), z.value, atol=1e-5)


def test_lasso_path_drops_coordinates_and_stops_where_told():
    A, x = instance(3, 20, 60, 8)
    y = A @ x + 0.3 * np.random.default_rng(0).standard_normal(20)
    penalties, solutions = cs.lasso_path(A, y)
    counts = (solutions != 0).sum(axis=1)
    assert (np.diff(counts) < 0).any()  # a coordinate leaves
    part = cs.lasso_path(A, y, penalties[5])
    assert_allclose(part[0], penalties[:6])
    assert_allclose(part[1], solutions[:6], atol=1e-12)
    assert len(cs.lasso_path(A, y, 2 * penalties[0])[0]) == 1
    assert_array_equal(cs.lasso_solution((penalties, solutions), 2 * penalties[0]), np.zeros(60))


@pytest.mark.parametrize(("depth", "scale"), [(2, 0.1), (2, 1e-3), (3, 0.1), (4, 0.3)])
def test_dual_flow_is_the_flow_of_the_factors(depth, scale):
    A, x = instance(0, 8, 12, 2)
    y = A @ x + 0.1
    times = np.array([0.5, 2, 5, 8]) * cs.escape_time(np.abs(A.T @ y).max(), depth, scale, 1)
    path = cs.dual_flow(A, y, depth, scale, times)

    def velocity(_, state):  # all 2N vectors of factors, each by its own gradient
        W = state[: 2 * depth * 12].reshape(2, depth, 12)
        z = W[0].prod(axis=0) - W[1].prod(axis=0)
        gradient = A.T @ (A @ z - y)
        others = np.array([[np.delete(V, k, 0).prod(axis=0) for k in range(depth)] for V in W])
        slope = -others * gradient
        slope[1] *= -1
        return np.concatenate([slope.ravel(), z])

    start = np.concatenate([np.full(2 * depth * 12, scale), np.zeros(12)])
    found = solve_ivp(velocity, (0, times[-1]), start, "DOP853", times, rtol=1e-9, atol=1e-11)
    W = found.y[:-12].T.reshape(-1, 2, depth, 12)
    assert_allclose(path.x, W[:, 0].prod(axis=1) - W[:, 1].prod(axis=1), atol=1e-5)
    assert_allclose(path.means, found.y[-12:].T / times[:, None], atol=1e-5)


@pytest.mark.ledger("prop-compressed-sensing-average")
@pytest.mark.parametrize("scale", [0.1, 1e-3, 1e-8])
def test_identity_of_the_average(scale):
    # arcsinh(x(t) / 2 alpha^2) = 2 t A^T (y - A mean(t)), consistent or not
    A, x = instance(2, 20, 50, 4)
    y = A @ x + 0.1 * np.random.default_rng(0).standard_normal(20)
    path = cs.dual_flow(A, y, 2, scale, np.geomspace(0.1, 100, 9))
    left = np.arcsinh(path.x / (2 * scale**2))
    right = 2 * path.times[:, None] * ((y - path.means @ A.T) @ A)
    evidence.agree(left, right, rtol=1e-7, atol=1e-4)
    gap = np.abs((y - path.means @ A.T) @ A).max(axis=1)
    size = np.maximum(np.log(np.abs(path.x).max(axis=1) + scale**2), 0)
    evidence.at_most(gap, (np.log(1 / scale) + size / 2) / path.times, slack=1e-6)


def test_average_approaches_the_lasso_as_the_scale_falls():
    A, x = instance(5, 20, 40, 3)
    y = A @ x + 0.05 * np.random.default_rng(1).standard_normal(20)
    lasso = cs.lasso_path(A, y)
    penalties = np.array([0.5, 0.2, 0.1]) * lasso[0][0]
    apart = []
    for scale in (1e-4, 1e-16, 1e-64):
        means = cs.dual_flow(A, y, 2, scale, np.log(1 / scale) / penalties).means
        apart.append(np.abs(means - cs.lasso_solution(lasso, penalties)).max())
    assert apart[0] > 2 * apart[1] > 4 * apart[2]


# --- steps --------------------------------------------------------------------------------------


@pytest.mark.ledger("prop-compressed-sensing-step")
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_step_limit_is_the_largest_curvature_of_all_factors(depth):
    A, x = instance(0, 4, 6, 2)
    root = np.abs(x) ** (1 / depth)
    W = np.array([np.tile(root * (x > 0), (depth, 1)), np.tile(root * (x < 0), (depth, 1))])
    y = A @ x

    def gradient(w):
        V = w.reshape(W.shape)
        residual = A.T @ (A @ (V[0].prod(axis=0) - V[1].prod(axis=0)) - y)
        others = np.array([[np.delete(U, k, 0).prod(axis=0) for k in range(depth)] for U in V])
        others[1] *= -1
        return (others * residual).ravel()

    h, w = 1e-6, W.ravel()
    H = np.array([(gradient(w + h * e) - gradient(w - h * e)) / (2 * h) for e in np.eye(w.size)])
    values = np.linalg.eigvalsh((H + H.T) / 2)
    evidence.agree(cs.max_step_size(A, x, depth), 2 / values[-1], rtol=1e-6)
    B = A * np.abs(x) ** (1 - 1 / depth)
    positive = np.linalg.eigvalsh(depth * B @ B.T)[-2:]  # x has two entries
    expected = np.append(np.zeros(len(values) - 2), positive)
    evidence.agree(values / values[-1], expected / values[-1], atol=1e-6)
    assert cs.max_step_size(A, 0 * x, depth) == np.inf


@pytest.mark.parametrize(("depth", "scale"), [(2, 0.4), (3, 0.6), (4, 0.7)])
def test_small_steps_end_at_the_limit_of_the_flow(depth, scale):
    A, x = instance(1, 5, 12, 2)
    target, apart = limit(A, x, depth, scale), []
    for fraction in (0.1, 0.05):
        eta = fraction * cs.max_step_size(A, x, depth)
        walk = cs.descent(A, A @ x, depth, scale, eta, 40_000, tolerance=1e-10)
        assert walk.residual <= 1e-10
        assert walk.left_at is None
        apart.append(np.linalg.norm(walk.x - target))
    assert apart[0] < 0.03 * np.linalg.norm(x)
    assert_allclose(apart[0] / apart[1], 2, rtol=0.2)  # first order in the step


def test_descent_is_descent_on_all_factors():
    A, x = instance(4, 6, 9, 2)
    y, depth, eta = A @ x, 3, 0.05
    walk = cs.descent(A, y, depth, 0.3, eta, 25, tolerance=0)
    W = np.full((2, depth, 9), 0.3)
    for _ in range(25):
        g = A.T @ (A @ (W[0].prod(axis=0) - W[1].prod(axis=0)) - y)
        others = np.array([[np.delete(V, k, 0).prod(axis=0) for k in range(depth)] for V in W])
        W = W - eta * others * np.array([g, -g])[:, None]
    assert_allclose(walk.u, W[0, 0], rtol=1e-10)
    assert_allclose(walk.v, W[1, 2], rtol=1e-10)
    assert walk.steps == 25


@pytest.mark.parametrize(("depth", "scale"), [(2, 1e-2), (3, 0.03), (4, 0.1)])
def test_the_step_limit_separates(depth, scale):
    A, x = instance(1, 20, 30, 2)
    bound = cs.max_step_size(A, x, depth)
    below, above = (
        cs.descent(A, A @ x, depth, scale, fraction * bound, 6000) for fraction in (0.95, 1.05)
    )
    assert below.residual < 3e-3
    # Beyond it descent jumps about or ends elsewhere, where the loss is flat enough for its steps.
    assert np.linalg.norm(above.x - x) > 4 * np.linalg.norm(below.x - x)
    if above.residual < 3e-3:
        assert cs.max_step_size(A, above.x, depth) > 1.04 * bound


def test_a_step_too_long_is_reported():
    A, x = instance(1, 20, 30, 2)
    walk = cs.descent(A, A @ x, 3, 0.5, 50.0, 100)
    assert walk.left_at == walk.steps + 1
    assert (walk.u > 0).all()
    assert (walk.v > 0).all()


@settings(deadline=None, max_examples=20)
@given(
    seeds,
    st.integers(2, 4),
    st.floats(0.05, 0.4),
    st.sampled_from([1, 3, 12]),
    st.floats(0.05, 0.5),
)
def test_every_walk_lies_on_a_flow_from_its_effective_start(seed, depth, scale, batch, fraction):
    A, x = instance(seed, 12, 20, 2)
    eta = fraction * cs.max_step_size(A, x, depth) * batch / 12 / 2
    walk = cs.descent(A, A @ x, depth, scale, eta, 1500, batch=batch, rng=seed)
    assume(walk.left_at is None)
    with np.errstate(all="raise"):
        ends = np.array([walk.u, walk.v])
        if depth == 2:
            u, v = np.log(ends / walk.starts)
        else:
            u, v = (walk.starts ** (2 - depth) - ends ** (2 - depth)) * scale ** (depth - 2)
    size = 1 + np.abs(u).max()
    assert_allclose(u, -v, atol=1e-8 * size)
    assert_allclose(A.T @ np.linalg.lstsq(A.T, u, rcond=None)[0], u, atol=1e-8 * size)


@pytest.mark.ledger("thm-compressed-sensing-effective")
@settings(deadline=None, max_examples=15)
@given(seeds, st.integers(2, 4), st.sampled_from([1, 4, 12]))
def test_small_steps_lower_both_effective_starts(seed, depth, batch):
    A, x = instance(seed, 12, 20, 2)
    eta = 0.02 * cs.max_step_size(A, x, depth) * batch / 12
    walk = cs.descent(A, A @ x, depth, 0.2, eta, 1000, batch=batch, rng=seed)
    assert walk.left_at is None
    evidence.at_most(walk.starts, 0.2, slack=1e-12)
    assert walk.starts.min() < 0.2 * (1 - 1e-6)


@pytest.mark.ledger("thm-compressed-sensing-effective")
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("depth", "scale"), [(2, 0.3), (3, 0.5), (4, 0.6)])
def test_a_walk_ends_at_the_nearest_solution_to_its_effective_start(depth, scale, seed):
    A, x = instance(seed, 5, 12, 2)
    eta = 0.15 * cs.max_step_size(A, x, depth)
    walk = cs.descent(A, A @ x, depth, scale, eta, 30_000, batch=1, tolerance=1e-10, rng=0)
    assert walk.residual <= 1e-10
    nearest = bregman.minimizer(A, A @ x, walk.starts**depth, depth, signed=True)
    evidence.agree(walk.x, nearest, atol=1e-7)
    assert np.abs(walk.x - limit(A, x, depth, scale)).max() > 1e-3


def test_batches_are_unbiased():
    # the mean first step over single rows is the full first step
    A, x = instance(0, 5, 8, 2)
    moves = []
    for seed in range(3000):
        walk = cs.descent(A, A @ x, 2, 0.1, 1e-3, 1, batch=1, rng=seed)
        moves.append(np.log(walk.u / 0.1))
    full = np.log(cs.descent(A, A @ x, 2, 0.1, 1e-3, 1).u / 0.1)
    error = np.std(moves, axis=0) / np.sqrt(3000)
    assert (np.abs(np.mean(moves, axis=0) - full) <= 5 * error + 1e-5).all()


@pytest.mark.parametrize(("depth", "scale"), [(2, 0.05), (3, 0.2)])
def test_effective_scale_finds_the_scale_of_a_limit(depth, scale):
    A, x = instance(0)
    found, distance = cs.effective_scale(
        A, limit(A, x, depth, scale), depth, (scale / 9, 9 * scale)
    )
    assert_allclose(found, scale, rtol=1e-4)
    assert distance < 1e-4


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_escape_time_solves_its_equation(depth):
    c, scale, size = 1.7, 0.05, 0.4
    found = solve_ivp(
        lambda _, u: c * u ** (depth - 1),
        (0, 1e6),
        [scale],
        events=_crossing(size ** (1 / depth)),
        rtol=1e-10,
        atol=1e-13,
    )
    assert_allclose(cs.escape_time(c, depth, scale, size), found.t_events[0][0], rtol=1e-7)


def _crossing(height):
    def event(_, u):
        return u[0] - height

    event.terminal = True
    return event


@pytest.mark.ledger("prop-compressed-sensing-time")
@settings(deadline=None, max_examples=10)
@given(seeds, st.sampled_from([(2, 1e-3), (3, 0.02), (4, 0.1)]))
def test_nothing_escapes_before_its_time(seed, case):
    # while |x|_1 <= theta, the pull is at most |A^T y| + mu theta
    depth, scale = case
    A, x = instance(seed, 12, 20, 2)
    y, theta = A @ x, 0.2
    pull = np.abs(A.T @ y).max() + np.abs(A.T @ A).max() * theta
    time = cs.escape_time(pull, depth, scale, theta / 20)
    path = cs.dual_flow(A, y, depth, scale, time * np.array([0.5, 1.0]))
    evidence.at_most(np.abs(path.x).sum(axis=1), theta)


# --- bad input ----------------------------------------------------------------------------------

I2, NAN = np.eye(2), np.full((2, 2), np.nan)
MATRIX = [NAN, [1.0, 2.0], 3.0, np.ones((0, 2)), "ab", None, 1j * I2]
COUNT = [0, -1, 1.5, np.nan, "2", None, [2], True]
POSITIVE = [0, -1.0, np.nan, np.inf, "1", None, [1.0], True]
FLAG = [0, 1, None, "yes"]
SEED = [-1, "seed", 1.5]
CASES = [
    (cs.gaussian_measurements, {"m": 2, "n": 2}, {"m": COUNT, "n": COUNT, "rng": SEED}),
    (
        cs.sparse_signal,
        {"n": 3, "sparsity": 1},
        {"n": COUNT, "sparsity": [-1, 4, 1.5], "nonnegative": FLAG, "rng": SEED},
    ),
    (
        cs.tail,
        {"x": [1.0, 2.0], "sparsity": 1},
        {"x": [I2, [np.nan], "a"], "sparsity": [-1, 3, 1.5]},
    ),
    (
        cs.null_space_constant,
        {"A": np.ones((1, 2)), "sparsity": 1},
        {"A": MATRIX, "sparsity": [-1, 3, 1.5]},
    ),
    (cs.null_space_constant, {"A": np.ones((2, 60))}, {"sparsity": [5]}),
    (
        cs.restricted_isometry_constant,
        {"A": I2, "sparsity": 1},
        {"A": MATRIX, "sparsity": [0, -1, 3, 1.5]},
    ),
    (cs.restricted_isometry_constant, {"A": np.ones((2, 90))}, {"sparsity": [5]}),
    (
        cs.isometry_measurements,
        {"n": 9, "sparsity": 2, "delta": 0.3, "failure": 0.1},
        {"n": COUNT, "sparsity": [0, 10], "delta": [*POSITIVE, 1], "failure": [*POSITIVE, 1]},
    ),
    (cs.excess_moment, {}, {"threshold": [-1, np.nan, "a", None]}),
    (
        cs.statistical_dimension,
        {"n": 5, "sparsity": 2},
        {"n": COUNT, "sparsity": [-1, 6, 1.5, [1, np.nan]], "nonnegative": FLAG},
    ),
    (
        cs.weak_threshold,
        {"undersampling": 0.5},
        {"undersampling": [0, 1, -1, [0.5, 2], np.nan], "nonnegative": FLAG},
    ),
    (
        cs.success_rates,
        {"recover": _least_norm, "n": 5, "cells": [(3, 1)], "trials": 1},
        {
            "recover": [None, 3],
            "n": COUNT,
            "cells": [[], [(0, 1)], [(6, 1)], [(1.5, 1)], [(1, 2, 3)], None],
            "trials": COUNT,
            "nonnegative": FLAG,
            "tolerance": POSITIVE,
            "rng": SEED,
        },
    ),
    (
        cs.dual_certificate,
        {"A": np.ones((1, 2)), "x": [1.0, 0.0]},
        {"A": MATRIX, "x": [[1.0], [0.0, 0.0], [1.0, 1.0], I2]},
    ),
    (
        cs.rate_bound,
        {"A": [[1.0, 0.5]], "x": [1.0, 0.0], "depth": 3, "scale": 0.1, "certificate": [1.0]},
        {
            "A": MATRIX,
            "x": [[1.0], [0.0, 0.0], [1.0, 1.0]],
            "depth": [1, 2.5, None],
            "scale": POSITIVE,
            "certificate": [[0.5], [1.0, 1.0], [np.nan]],
        },
    ),
    (
        cs.lasso_path,
        {"A": I2, "y": [1.0, 2.0]},
        {"A": MATRIX, "y": [[1.0], [np.nan, 1], None], "min_penalty": [-1, np.nan, None]},
    ),
    (
        cs.lasso_path,
        {"y": [1.0, 1.0]},
        {"A": [np.array([[1.0, 1.0, 0.3], [1.0, 1.0 + 1e-9, 0.2]])]},
    ),
    (cs.lasso_solution, {"path": cs.lasso_path(I2, [1.0, 2.0], 0.5)}, {"penalty": [0.1, np.nan]}),
    (
        cs.dual_flow,
        {"A": I2, "y": [1.0, 2.0], "depth": 2, "scale": 0.1, "times": [1.0]},
        {
            "A": MATRIX,
            "y": [[1.0], None],
            "depth": [1, 2.5],
            "scale": POSITIVE,
            "times": [[], [0.0], [2.0, 1.0], 3.0],
            "rtol": [0, 1, None],
        },
    ),
    (
        cs.max_step_size,
        {"A": I2, "x": [1.0, 2.0], "depth": 2},
        {"A": MATRIX, "x": [[1.0], I2], "depth": [1, 2.5]},
    ),
    (
        cs.descent,
        {"A": I2, "y": [1.0, 2.0], "depth": 2, "scale": 0.1, "step_size": 0.1, "steps": 3},
        {
            "A": MATRIX,
            "y": [[1.0], None],
            "depth": [1, 2.5],
            "scale": POSITIVE,
            "step_size": POSITIVE,
            "steps": [-1, 1.5],
            "batch": [0, 3, 1.5],
            "tolerance": [-1, np.nan],
            "rng": SEED,
        },
    ),
    (
        cs.effective_scale,
        {"A": I2, "x": [1.0, 2.0], "depth": 2, "bounds": (0.1, 1)},
        {
            "A": MATRIX,
            "x": [[1.0], [0.0, 0.0]],
            "depth": [1, 2.5],
            "bounds": [(0, 1), (1, 1), (2, 1), (1,), None],
        },
    ),
    (
        cs.escape_time,
        {"correlation": 1.0, "depth": 2, "scale": 0.1, "size": 1.0},
        {
            "correlation": POSITIVE,
            "depth": [1, 2.5],
            "scale": [0, -1, np.nan, [0.1, 0]],
            "size": [0, 1e-9, np.nan, None],
        },
    ),
]


@pytest.mark.parametrize(
    ("function", "good", "name", "value"),
    [(f, good, name, v) for f, good, bad in CASES for name, values in bad.items() for v in values],
)
def test_bad_input_is_named(function, good, name, value):
    with pytest.raises(ValueError, match=rf"(?s)^{name}\b.*must be"):
        function(**{**good, name: value})
