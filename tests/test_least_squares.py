"""Closed forms against loops, differential-equation solvers, pseudoinverses and KKT conditions."""

import evidence
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp
from scipy.linalg import expm, null_space, sqrtm
from scipy.optimize import brentq

from dmflib import least_squares as ls
from dmflib.descent import MaxSteps, gradient_descent
from dmflib.losses import Sensing


@st.composite
def problems(draw, max_size=7):
    """X of any shape and rank 0, 1, ..., with positive singular values in [1/3, 3]; y; start."""
    n, d = draw(st.integers(1, max_size)), draw(st.integers(1, max_size))
    rank = draw(st.integers(0, min(n, d)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    U = np.linalg.qr(rng.standard_normal((n, n)))[0][:, :rank]
    V = np.linalg.qr(rng.standard_normal((d, d)))[0][:, :rank]
    X = U * rng.uniform(1 / 3, 3, rank) @ V.T
    return X, rng.standard_normal(n), rng.standard_normal(d)


def metric(seed, d):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((d, d))
    M = A @ A.T + 0.3 * np.eye(d)
    return (M + M.T) / 2


def kernel_projection(X):
    return np.eye(X.shape[1]) - np.linalg.pinv(X, rcond=1e-10) @ X


# --- the loss -----------------------------------------------------------------------------------


@pytest.mark.ledger("lem-least-squares-gradient")
@given(problems())
def test_gradient_is_that_of_the_loss(problem):
    X, y, beta = problem
    # central differences of a quadratic have rounding errors only
    for i, slope in enumerate(ls.gradient(X, y, beta)):
        e = np.eye(len(beta))[i]
        measured = (ls.loss(X, y, beta + e) - ls.loss(X, y, beta - e)) / 2
        evidence.agree(measured, slope, atol=1e-10)


@pytest.mark.ledger("lem-least-squares-gradient")
@given(problems(), st.integers(0, 2**32 - 1))
def test_minimisers_solve_the_normal_equations_and_form_a_coset_of_the_kernel(problem, seed):
    X, y, beta = problem
    smallest = np.linalg.lstsq(X, y, rcond=None)[0]
    kernel = null_space(X, rcond=1e-10)
    other = smallest + kernel @ np.random.default_rng(seed).standard_normal(kernel.shape[1])
    least = ((y - X @ smallest) ** 2).sum()
    for minimiser in (smallest, other):
        evidence.agree(X.T @ X @ minimiser, X.T @ y, atol=1e-10)
        evidence.agree(ls.loss(X, y, minimiser), least, atol=1e-10)
    # elsewhere the loss is larger, by an amount that vanishes on the coset only
    away = np.linalg.pinv(X, rcond=1e-10) @ X @ (beta - smallest)
    excess = ls.loss(X, y, beta) - least
    evidence.agree(excess, ((X @ (beta - smallest)) ** 2).sum(), atol=1e-10)
    evidence.at_most((away**2).sum() / 9, excess + 1e-10)  # no singular value is below 1/3


def test_loss_and_gradient_take_stacks():
    X, y, _ = ls.random_problem(3)
    stack = np.random.default_rng(0).standard_normal((4, 2, X.shape[1]))
    assert_allclose(ls.loss(X, y, stack)[3, 1], ls.loss(X, y, stack[3, 1]))
    assert_allclose(ls.gradient(X, y, stack)[3, 1], ls.gradient(X, y, stack[3, 1]), atol=1e-12)


# --- flow ---------------------------------------------------------------------------------------


@pytest.mark.ledger("thm-least-squares-flow")
@given(problems(), st.floats(0, 3))
def test_flow_agrees_with_the_matrix_exponential(problem, t):
    X, y, beta0 = problem
    d = X.shape[1]
    augmented = np.zeros((d + 1, d + 1))
    augmented[:d, :d], augmented[:d, d] = -2 * X.T @ X, 2 * X.T @ y
    expected = expm(t * augmented) @ np.append(beta0, 1)
    evidence.agree(ls.flow_solution(X, y, t, beta0), expected[:d], atol=1e-11)


@settings(max_examples=15, deadline=None)
@given(problems(max_size=4), st.integers(0, 2**32 - 1))
def test_preconditioned_flow_agrees_with_an_ode_solver(problem, seed):
    X, y, beta0 = problem
    M = metric(seed, X.shape[1])
    times = np.array([0.0, 0.05, 0.3])
    solved = solve_ivp(
        lambda t, b: -2 * M @ X.T @ (X @ b - y),
        (0, 0.3),
        beta0,
        t_eval=times,
        method="LSODA",
        rtol=1e-9,
        atol=1e-11,
    )
    ours = ls.flow_solution(X, y, times, beta0, preconditioner=M)
    assert_allclose(ours, solved.y.T, atol=2e-6)


@given(problems(), st.floats(0, 5), st.floats(0, 5))
def test_flow_is_a_semigroup(problem, s, t):
    X, y, beta0 = problem
    halfway = ls.flow_solution(X, y, s, beta0)
    assert_allclose(
        ls.flow_solution(X, y, t, halfway), ls.flow_solution(X, y, s + t, beta0), atol=1e-11
    )


@pytest.mark.ledger("thm-least-squares-flow", "thm-least-squares-nearest")
@given(problems())
def test_null_space_component_never_moves(problem):
    X, y, beta0 = problem
    P = kernel_projection(X)
    for moved in (
        ls.flow_solution(X, y, [0.3, 1e9], beta0),
        ls.descent_solution(X, y, 0.1, [3, 10**9], beta0),
        ls.ridge_solution(X, y, [1e-9, 2.0], beta0),
    ):
        evidence.agree(moved @ P, [P @ beta0] * 2, atol=1e-11)


@pytest.mark.parametrize("X", [np.zeros((3, 2)), np.zeros((1, 1)), np.zeros((1, 4))])
def test_nothing_moves_for_the_zero_matrix(X):
    y, beta0 = np.ones(len(X)), np.arange(X.shape[1], dtype=float)
    assert_allclose(ls.flow_solution(X, y, 7.0, beta0), beta0, rtol=0)
    assert_allclose(ls.descent_solution(X, y, 1e9, 7, beta0), beta0, rtol=0)
    assert_allclose(ls.min_norm_solution(X, y), 0)
    assert ls.max_step_size(X) == ls.best_step_size(X) == np.inf
    assert ls.convergence_factor(X, 5.0) == 0
    assert ls.divergence_step(X, y, 1e9, beta0) is None


def test_small_times_keep_their_digits():
    # 1 - exp(-x) in plain arithmetic would have no correct digit here
    assert ls.flow_filter(1e-9, 1.0) == pytest.approx(2e-18, rel=1e-15)
    assert ls.descent_filter(1e-9, 0.25, 4) == pytest.approx(2e-18, rel=1e-15)
    # and sigma**2 would underflow here
    tiny = ls.flow_solution([[1e-200]], [1.0], 1e300)
    assert_allclose(tiny, [2e100], rtol=1e-12)


@given(problems())
def test_flow_from_zero_grows_in_norm_and_loses_loss(problem):
    X, y, _ = problem
    path = ls.flow_solution(X, y, np.linspace(0, 4, 60))
    assert (np.diff(np.linalg.norm(path, axis=1)) >= -1e-12).all()
    assert (np.diff(ls.loss(X, y, path)) <= 1e-12).all()


@given(problems(), st.floats(1e-3, 50))
def test_loss_bound_without_the_smallest_singular_value(problem, t):
    X, y, beta0 = problem
    limit = ls.limit_solution(X, y, beta0)
    excess = ls.loss(X, y, ls.flow_solution(X, y, t, beta0)) - ls.loss(X, y, limit)
    assert excess <= ((beta0 - limit) ** 2).sum() / (4 * np.e * t) + 1e-11


def test_that_bound_is_attained():
    sigma = 0.7
    t = 1 / (4 * sigma**2)
    excess = ls.loss([[sigma]], [0.0], ls.flow_solution([[sigma]], [0.0], t, [1.0]))
    assert excess == pytest.approx(1 / (4 * np.e * t), rel=1e-13)


# --- the limit ----------------------------------------------------------------------------------


@pytest.mark.ledger("prop-least-squares-penrose")
@given(problems(max_size=5), st.integers(0, 2**32 - 1))
def test_pseudoinverse_is_the_only_matrix_with_the_four_properties(problem, seed):
    X, _, _ = problem
    n, d = X.shape
    A = np.transpose([ls.min_norm_solution(X, e) for e in np.eye(n)])
    evidence.agree(X @ A @ X, X, atol=1e-11)
    evidence.agree(A @ X @ A, A, atol=1e-11)
    evidence.agree(X @ A, (X @ A).T, atol=1e-11)
    evidence.agree(A @ X, (A @ X).T, atol=1e-11)
    kernel, cokernel = null_space(X, rcond=1e-10), null_space(X.T, rcond=1e-10)
    evidence.agree(np.eye(d) - A @ X, kernel @ kernel.T, atol=1e-11)
    evidence.agree(np.eye(n) - X @ A, cokernel @ cokernel.T, atol=1e-11)
    # Three of the properties are linear. A change that keeps them breaks the fourth by its size.
    units = np.eye(n * d).reshape(-1, d, n)
    equations = [
        np.concatenate([(X @ Z @ X).ravel(), (X @ Z - (X @ Z).T).ravel(),
                        (Z @ X - (Z @ X).T).ravel()])
        for Z in units
    ]  # fmt: skip
    free = null_space(np.transpose(equations), rcond=1e-9)
    evidence.holds(free.shape[1] == kernel.shape[1] * cokernel.shape[1])
    Z = (free @ np.random.default_rng(seed).standard_normal(free.shape[1])).reshape(d, n)
    evidence.agree((A + Z) @ X @ (A + Z) - (A + Z), -Z, atol=1e-10)


@pytest.mark.ledger("thm-least-squares-limit")
@given(problems(), st.floats(0, 8))
def test_flow_nears_its_limit_at_the_rate_of_the_smallest_singular_value(problem, t):
    X, y, beta0 = problem
    U, sigma, Vt = np.linalg.svd(X, full_matrices=False)
    rank = (sigma > 1e-10).sum()
    U, sigma, Vt = U[:, :rank], sigma[:rank], Vt[:rank]
    to_learn = (U.T @ y) / sigma - Vt @ beta0
    limit, least = beta0 + Vt.T @ to_learn, ((y - U @ (U.T @ y)) ** 2).sum()
    beta = ls.flow_solution(X, y, t, beta0)
    rate = np.exp(-2 * sigma.min(initial=np.inf) ** 2 * t) if rank else 1.0
    far = np.linalg.norm(beta - limit)
    evidence.at_most(far, rate * np.linalg.norm(beta0 - limit) + 1e-11, slack=1e-9)
    expected = (sigma**2 * np.exp(-4 * t * sigma**2) * to_learn**2).sum()
    evidence.agree(ls.loss(X, y, beta) - least, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.ledger("thm-least-squares-limit")
@given(problems())
def test_limit_is_the_pseudoinverse_plus_the_null_space_component(problem):
    X, y, beta0 = problem
    pinv = np.linalg.pinv(X, rcond=1e-10)
    assert_allclose(ls.min_norm_solution(X, y), pinv @ y, atol=1e-11)
    assert_allclose(ls.min_norm_solution(X, y), np.linalg.lstsq(X, y, rcond=None)[0], atol=1e-11)
    expected = pinv @ y + kernel_projection(X) @ beta0
    limit = ls.limit_solution(X, y, beta0)
    evidence.agree(limit, expected, atol=1e-11)
    evidence.agree(ls.flow_solution(X, y, 1e6, beta0), limit, atol=1e-12)
    evidence.agree(ls.gradient(X, y, limit), 0, atol=1e-11)


@pytest.mark.ledger("thm-least-squares-metric")
@given(problems(), st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_limit_is_the_nearest_solution_in_the_metric(problem, seed, fraction):
    X, y, beta0 = problem
    M = metric(seed, X.shape[1])
    limit = ls.limit_solution(X, y, beta0, preconditioner=M)
    scale = np.linalg.cond(M)
    # KKT: stationary for the loss, and M^-1 (limit - start) in the range of X^T
    evidence.agree(ls.gradient(X, y, limit) / scale, 0, atol=1e-11)
    multiplier = np.linalg.solve(M, limit - beta0)
    evidence.agree(kernel_projection(X) @ multiplier / scale, 0, atol=1e-11)
    # flow and descent tend to it, with every step size below the limit
    late = ls.flow_solution(X, y, 1e6, beta0, preconditioner=M)
    evidence.agree((late - limit) / scale, 0, atol=1e-11)
    top = np.linalg.norm(X @ sqrtm(M).real, 2)
    eta = fraction / top**2 if X.any() else fraction
    late = ls.descent_solution(X, y, eta, 10**9, beta0, preconditioner=M)
    evidence.agree((late - limit) / scale, 0, atol=1e-11)


@pytest.mark.ledger("thm-least-squares-nearest")
@given(problems(), st.integers(0, 2**32 - 1))
def test_every_other_solution_is_farther(problem, seed):
    X, y, beta0 = problem
    away = kernel_projection(X) @ np.random.default_rng(seed).standard_normal(X.shape[1])
    for start in (np.zeros_like(beta0), beta0):
        nearest = ls.limit_solution(X, y, start)
        evidence.agree(ls.loss(X, y, nearest + away), ls.loss(X, y, nearest), rtol=1e-6, atol=1e-12)
        squared = ((nearest - start) ** 2).sum() + (away**2).sum()
        evidence.agree(((nearest + away - start) ** 2).sum(), squared, rtol=1e-6, atol=1e-12)
    evidence.agree(ls.limit_solution(X, y), np.linalg.lstsq(X, y, rcond=None)[0], atol=1e-11)


def test_rank_is_decided_at_the_documented_tolerance():
    X, y = np.diag([1.0, 1e-15, 0.0]), np.ones(3)
    assert 3 * ls.EPS < 1e-15 < 10 * ls.EPS  # max(n, d) * eps is below the second value
    assert_allclose(ls.min_norm_solution(X, y), [1, 1e15, 0])
    X[1, 1] = 6e-16  # and now above it
    assert_allclose(ls.min_norm_solution(X, y), [1, 0, 0])


def test_scaling_features_is_the_same_as_preconditioning():
    X, y, beta0 = ls.random_problem(11)
    D = np.diag(np.random.default_rng(1).uniform(0.2, 2, X.shape[1]))
    scaled = D @ ls.flow_solution(X @ D, y, [0.1, 0.7], np.linalg.solve(D, beta0))[..., None]
    ours = ls.flow_solution(X, y, [0.1, 0.7], beta0, preconditioner=D @ D)
    assert_allclose(ours, scaled[..., 0], atol=1e-12)


# --- descent ------------------------------------------------------------------------------------


@pytest.mark.ledger("thm-least-squares-descent")
@given(problems(), st.floats(0.05, 1.3), st.integers(0, 2**32 - 1))
def test_closed_form_of_descent_agrees_with_the_loop(problem, fraction, seed):
    X, y, beta0 = problem
    M = metric(seed, X.shape[1])
    for preconditioner in (None, M):
        eta = fraction * min(ls.max_step_size(X, preconditioner=preconditioner), 10)
        path = ls.descent_path(X, y, eta, 20, beta0, preconditioner=preconditioner)
        ours = ls.descent_solution(X, y, eta, np.arange(21), beta0, preconditioner=preconditioner)
        size = np.abs(path).max()
        evidence.agree(ours / size, path / size, atol=1e-9)


def test_descent_agrees_with_the_general_loop_on_one_factor():
    X, y, beta0 = ls.random_problem(5)
    eta = 0.8 * ls.max_step_size(X)
    # that loss has the factor one half, so its step size is doubled
    walked = gradient_descent(Sensing(X[:, :, None], y), [beta0[:, None]], 2 * eta, MaxSteps(30))
    ours = ls.descent_solution(X, y, eta, 30, beta0)
    assert_allclose(ours, walked.products[-1][:, 0], atol=1e-12)


@pytest.mark.ledger("thm-least-squares-step")
@given(problems(), st.floats(0.01, 0.999))
def test_descent_converges_below_the_limit_at_the_stated_rate(problem, fraction):
    X, y, beta0 = problem
    eta = fraction * min(ls.max_step_size(X), 10)
    limit, rho = ls.limit_solution(X, y, beta0), ls.convergence_factor(X, eta)
    assert rho < 1
    path = ls.descent_path(X, y, eta, 40, beta0)
    errors = np.linalg.norm(path - limit, axis=1)
    evidence.at_most(errors, rho ** np.arange(41) * errors[0] + 1e-11, slack=1e-9)
    assert ls.divergence_step(X, y, eta, beta0) is None


@pytest.mark.parametrize(
    ("fraction", "converges"), [(1 - 1e-6, True), (1, False), (1 + 1e-6, False)]
)
def test_the_step_limit_is_sharp(fraction, converges):
    X, y, beta0 = ls.random_problem(4)
    eta = fraction * ls.max_step_size(X)
    limit = ls.limit_solution(X, y, beta0)
    start, late = np.linalg.norm(ls.descent_solution(X, y, eta, [0, 10**7], beta0) - limit, axis=1)
    if converges:
        assert late < 1e-6 * start
    else:
        top = np.linalg.svd(X)[2][0] @ (beta0 - limit)
        assert late >= 0.999 * abs(top) > 0.01


@pytest.mark.ledger("thm-least-squares-step")
@given(problems(), st.one_of(st.just(1.0), st.floats(1, 2.5)))
def test_from_the_limit_on_the_first_component_never_comes_to_rest(problem, fraction):
    X, y, beta0 = problem
    sigma, Vt = np.linalg.svd(X, full_matrices=False)[1:]
    if not X.any():
        return
    path = ls.descent_path(X, y, fraction / sigma[0] ** 2, 30, beta0)
    component = (path - ls.limit_solution(X, y, beta0)) @ Vt[0]
    growth = (2 * fraction - 1.0) ** np.arange(31)
    expected = component[0] * (-1.0) ** np.arange(31)
    evidence.agree(component / growth, expected, atol=1e-9)


def test_at_the_limit_the_first_component_alternates():
    X, y, eta = [[2.0]], [6.0], 0.25
    assert_allclose(ls.descent_solution(X, y, eta, range(4)), [[0], [6], [0], [6]])
    assert_allclose(ls.descent_path(X, y, eta, 3), [[0], [6], [0], [6]])


def test_unlucky_and_lucky_starts_beyond_the_limit():
    X, y = np.diag([2.0, 1.0]), np.array([2.0, 3.0])
    eta = 1.5 * ls.max_step_size(X)  # 0.375: the second direction still converges
    lucky = ls.descent_solution(X, y, eta, 200, [1.0, 0.0])
    assert_allclose(lucky, [1, 3], atol=1e-12)
    assert ls.divergence_step(X, y, eta, [1.0, 0.0]) is None
    assert ls.divergence_step(X, y, eta, [1.1, 0.0]) is not None


@pytest.mark.ledger("thm-least-squares-step")
@given(problems())
def test_best_step_size_has_the_smallest_factor(problem):
    X, _, _ = problem
    best = ls.best_step_size(X) if X.any() else 1.0
    smallest = ls.convergence_factor(X, best)
    for other in (0.5, 0.9, 0.99, 1.01, 1.1, 1.5):
        evidence.at_most(smallest, ls.convergence_factor(X, other * best) + 1e-12)
    sigma = np.linalg.svd(X, compute_uv=False)
    if X.any():
        squares = sigma[sigma > 1e-10] ** 2
        evidence.agree(best, 1 / (squares[0] + squares[-1]), rtol=1e-12)
        expected = (squares[0] - squares[-1]) / (squares[0] + squares[-1])
        evidence.agree(smallest, expected, atol=1e-12)


@given(problems(), st.floats(1.001, 3), st.floats(1, 1e9))
def test_divergence_step_is_the_first(problem, fraction, factor):
    X, y, beta0 = problem
    limit = ls.limit_solution(X, y, beta0)
    if not X.any() or np.linalg.norm(X @ (beta0 - limit)) < 1e-6:
        return
    eta = fraction * ls.max_step_size(X)
    step = ls.divergence_step(X, y, eta, beta0, factor)
    moving = (np.eye(len(beta0)) - kernel_projection(X)) @ (beta0 - limit)
    before, at = ls.descent_solution(X, y, eta, [step - 1, step], beta0) - limit
    assert np.linalg.norm(before) <= factor * np.linalg.norm(moving) * (1 + 1e-7)
    assert np.linalg.norm(at) >= factor * np.linalg.norm(moving) * (1 - 1e-7)


@given(st.floats(1e-3, 2.5), st.integers(0, 400))
def test_descent_filter_agrees_with_the_power(shrink, k):
    plain = 1 - (1 - shrink) ** k
    assert ls.descent_filter(1.0, shrink / 2, k) == pytest.approx(plain, rel=1e-9, abs=1e-12)


def test_descent_filter_for_astronomic_step_counts():
    assert ls.descent_filter(1.0, 0.01, 10**17) == 1
    assert ls.descent_filter(1e-8, 0.5, 10**16) == pytest.approx(1 - np.exp(-1), rel=1e-12)
    # at the limit exactly, parity decides, even where floats cannot tell odd from even
    assert_allclose(ls.descent_filter(1.0, 1.0, [10**17, 10**17 + 1]), [0, 2])


def test_divergence_out_of_the_numbers_is_reported_with_its_step():
    X, y = [[1.0]], [1.0]
    with pytest.raises(ValueError, match=r"steps=.*at most (\d+) here.*step_size=1\.5") as raised:
        ls.descent_solution(X, y, 1.5, 5000)
    last = int(str(raised.value).split("at most ")[1].split()[0])
    assert np.isfinite(ls.descent_solution(X, y, 1.5, last)).all()
    with pytest.raises(ValueError, match="at most"):
        ls.descent_solution(X, y, 1.5, last + 1)
    with pytest.raises(ValueError, match=r"at most (\d+) here.*leaves") as raised:
        ls.descent_path(X, y, 1.5, 5000)
    walked = int(str(raised.value).split("at most ")[1].split()[0])
    assert last - 2 <= walked <= last  # the loop also needs room for the gradient
    with pytest.raises(ValueError, match=r"below 1020 here"):
        ls.descent_solution([[1.0]], [1e6], 1.5, 1020)


# --- flow and descent ---------------------------------------------------------------------------


@pytest.mark.ledger("thm-least-squares-euler")
@given(problems(), st.floats(0.001, 0.5))
def test_distance_of_flow_and_descent_obeys_the_uniform_bound(problem, fraction):
    X, y, beta0 = problem
    eta = fraction * min(ls.max_step_size(X), 10)
    k = np.unique(np.geomspace(1, 1e6, 60).astype(int))
    apart = ls.flow_solution(X, y, k * eta, beta0) - ls.descent_solution(X, y, eta, k, beta0)
    to_learn = np.linalg.norm(beta0 - ls.limit_solution(X, y, beta0))
    bound = 2 * fraction / np.e * to_learn if X.any() else 0
    evidence.at_most(np.linalg.norm(apart, axis=1).max(), bound + 1e-12)


@pytest.mark.ledger("thm-least-squares-euler")
def test_that_bound_is_attained_at_half_the_limit():
    # sigma = 1, eta = 1/2: descent is done after one step, where flow has e^-1 to go
    apart = ls.flow_solution([[1.0]], [1.0], 0.5) - ls.descent_solution([[1.0]], [1.0], 0.5, 1)
    evidence.agree(-apart, 2 * 0.5 / np.e, rtol=1e-14)


@pytest.mark.ledger("thm-least-squares-euler")
@pytest.mark.parametrize("seed", [7, *range(20, 28)])
def test_distance_to_the_flow_has_slope_one_and_the_stated_constant(seed):
    X, y, beta0 = ls.random_problem(seed)
    t = 0.4 * ls.max_step_size(X)
    k = 2 ** np.arange(5, 12)
    apart = [
        ls.flow_solution(X, y, t, beta0) - ls.descent_path(X, y, t / n, n, beta0)[-1] for n in k
    ]
    sizes = np.linalg.norm(apart, axis=1)
    slopes = np.diff(np.log(sizes)) / np.diff(np.log(t / k))
    assert_allclose(slopes, 1, atol=0.05)
    evidence.agree(slopes[-1], 1, atol=1e-3)
    lag = ls.descent_lag(X, y, t, beta0)
    sigma, Vt = np.linalg.svd(X, full_matrices=False)[1:]
    to_learn = Vt @ (ls.limit_solution(X, y, beta0) - beta0)
    weights = -2 * t * sigma**4 * np.exp(-2 * t * sigma**2)
    evidence.agree(lag, (weights * to_learn) @ Vt, atol=1e-11)
    measured = (apart[-1] / (t / k[-1]) - lag) / np.linalg.norm(lag)
    evidence.agree(measured, 0, atol=1e-2)
    # the error of the first-order term is itself of first order
    errors = [np.linalg.norm(a * n / t - lag) for a, n in zip(apart, k, strict=True)]
    assert errors[-2] / errors[-1] == pytest.approx(2, rel=0.02)


# --- early stopping and ridge -------------------------------------------------------------------


@given(problems(), st.floats(1e-3, 100), st.integers(0, 2**32 - 1))
def test_ridge_solves_its_normal_equations(problem, penalty, seed):
    X, y, beta0 = problem
    d = X.shape[1]
    for M in (np.eye(d), metric(seed, d)):
        inverse = np.linalg.inv(M)
        expected = np.linalg.solve(X.T @ X + penalty * inverse, X.T @ y + penalty * inverse @ beta0)
        ours = ls.ridge_solution(X, y, penalty, beta0, preconditioner=M)
        assert_allclose(ours, expected, atol=1e-9 * np.linalg.cond(M) * max(1, 1 / penalty))


@pytest.mark.ledger("thm-least-squares-ridge")
def test_flow_ridge_constants_by_brute_force():
    ratio, gap = ls.flow_ridge_constants()
    x = np.geomspace(1e-6, 1e6, 200_001)
    flow, ridge = ls.flow_filter(1.0, x / 2), ls.ridge_filter(1.0, 1 / x)
    quotients, differences = flow / ridge, flow - ridge
    assert quotients.min() + 1e-15 >= 1
    assert differences.min() + 1e-15 >= 0
    # no smaller constants will do
    evidence.at_most([quotients.max(), differences.max()], [ratio, gap])
    constants = np.array([ratio, gap])
    evidence.agree(constants, [quotients.max(), differences.max()], atol=1e-8)
    p = brentq(lambda p: np.exp(p) - 1 - p - p**2, 1, 3, xtol=1e-14)
    q = brentq(lambda q: np.exp(q / 2) - 1 - q, 1, 4, xtol=1e-14)
    evidence.agree(constants, [1 + p / (1 + p + p**2), q / (1 + q) ** 2], rtol=1e-12)
    evidence.agree(np.array([p, q, ratio, gap]), [1.79328, 2.51286, 1.29843, 0.20363], atol=1e-5)


@pytest.mark.ledger("thm-least-squares-ridge")
@given(problems(), st.floats(1e-4, 1e4))
def test_flow_and_ridge_stay_within_the_constants(problem, t):
    X, y, _ = problem
    ratio, gap = ls.flow_ridge_constants()
    flow, ridge = ls.flow_solution(X, y, t), ls.ridge_solution(X, y, 1 / (2 * t))
    norm = np.linalg.norm
    evidence.at_most(norm(flow - ridge), gap * norm(ls.min_norm_solution(X, y)) + 1e-12)
    assert norm(ridge) - 1e-12 <= norm(flow)
    evidence.at_most(norm(flow), ratio * norm(ridge) + 1e-12)


@pytest.mark.ledger("cor-least-squares-risk")
@settings(max_examples=30)
@given(problems(), st.floats(1e-3, 1e3), st.floats(0, 10))
def test_risk_of_flow_is_at_most_the_squared_ratio_times_that_of_ridge(problem, t, noise):
    X, _, truth = problem
    ratio, _ = ls.flow_ridge_constants()

    def risk(matrix):  # expected squared error of the estimate matrix @ (X truth + noise)
        return ((matrix @ X @ truth - truth) ** 2).sum() + noise**2 * (matrix**2).sum()

    units = np.eye(len(X))
    flow = np.transpose([ls.flow_solution(X, e, t) for e in units])
    ridge = np.transpose([ls.ridge_solution(X, e, 1 / (2 * t)) for e in units])
    evidence.at_most(risk(flow), ratio**2 * risk(ridge) + 1e-12)


def test_the_matching_penalty_is_one_over_twice_the_time():
    # to first order in t both have learned 2 t sigma**2; another matching has unbounded quotients
    t, sigma = 1e-6, 1.3
    flow = ls.flow_filter(sigma, t)
    assert flow / ls.ridge_filter(sigma, 1 / (2 * t)) == pytest.approx(1, abs=1e-5)
    assert flow / ls.ridge_filter(sigma, 1 / t) == pytest.approx(2, abs=1e-5)


# --- designs ------------------------------------------------------------------------------------


@pytest.mark.ledger("prop-least-squares-roughness")
@given(st.integers(1, 6), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_coefficients_measure_the_derivative(frequencies, smoothness, seed):
    beta = np.random.default_rng(seed).standard_normal(2 * frequencies + 1)
    j = np.arange(1, frequencies + 1)
    x = np.linspace(0, 2 * np.pi, 64, endpoint=False)  # exact quadrature for these degrees
    a, b = np.split(beta[1:], 2)
    values = ls.fourier_features(x, frequencies, smoothness) @ beta
    spectrum = np.fft.rfft(values - beta[0]) * (1j * np.arange(33)) ** smoothness
    derivative = np.fft.irfft(spectrum, 64)
    integral = (derivative**2).mean() * 2 * np.pi
    evidence.agree(integral / np.pi, (a**2).sum() + (b**2).sum(), rtol=1e-9, atol=1e-12)
    evidence.agree(values.mean() ** 2, beta[0] ** 2, rtol=1e-9, atol=1e-12)
    assert len(j) == len(a) == len(b)


def test_least_norm_fit_with_weights_one_over_j_is_nearly_piecewise_linear():
    x = np.linspace(0, 2 * np.pi, 6, endpoint=False)
    y = np.array([0.0, 1.0, 0.5, -1.0, 0.3, -0.8])
    grid = np.linspace(0, 2 * np.pi, 400)
    expected = np.interp(grid, np.append(x, 2 * np.pi), np.append(y, y[0]))
    worst = []
    for m in (50, 200):
        # the constant's weight must be large for it to be free of charge
        X, G = (ls.fourier_features(points, m, 1) for points in (x, grid))
        M = np.diag([1e6] + [1] * (2 * m))
        fit = G @ ls.limit_solution(X, y, preconditioner=M)
        worst.append(np.abs(fit - expected).max())
    assert worst[0] < 0.05
    assert worst[1] < worst[0] / 3  # of order 1/m


def test_random_features_approximate_the_laplace_kernel():
    x = np.linspace(0, 2, 7)
    kernel = np.exp(-np.abs(np.subtract.outer(x, x)) / 0.8)
    errors = []
    for count in (400, 40_000):
        Z = ls.random_features(x, count, rng=3, width=0.8)
        errors.append(np.sqrt(((Z @ Z.T - kernel) ** 2).mean()))
    assert errors[1] < 0.02
    assert errors[1] < errors[0] / 4  # of order count**-1/2, so about 10
    again = ls.random_features(x[2:4], 400, rng=3, width=0.8)
    assert_allclose(again, ls.random_features(x, 400, rng=3, width=0.8)[2:4])


def test_random_problems_reach_every_kind():
    rng = np.random.default_rng(0)
    shapes = set()
    for _ in range(300):
        X, y, beta0 = ls.random_problem(rng, max_size=3)
        n, d = X.shape
        assert y.shape == (n,)
        assert beta0.shape == (d,)
        shapes.add((n, d, np.linalg.matrix_rank(X)))
    assert shapes == {
        (n, d, r) for n in (1, 2, 3) for d in (1, 2, 3) for r in range(1, min(n, d) + 1)
    }


# --- shapes and bad input -----------------------------------------------------------------------


def test_times_steps_and_penalties_may_be_arrays():
    X, y, beta0 = ls.random_problem(4)
    d = X.shape[1]
    assert ls.flow_solution(X, y, 1.0).shape == (d,)
    assert ls.flow_solution(X, y, [[1.0, 2.0]], beta0).shape == (1, 2, d)
    assert ls.flow_solution(X, y, []).shape == (0, d)
    assert ls.descent_solution(X, y, 0.1, [0, 5, 2]).shape == (3, d)
    assert ls.ridge_solution(X, y, [0.1, 0.2]).shape == (2, d)
    assert_allclose(ls.flow_solution(X, y, 0, beta0), beta0, rtol=0)
    assert_allclose(ls.descent_solution(X, y, 0.1, 0, beta0), beta0, rtol=0)
    assert ls.flow_filter([[1.0], [2.0]], [0.1, 0.2, 0.3]).shape == (2, 3)


X, Y, B = [[1.0, 2.0]], [1.0], [0.0, 0.0]
BAD = [
    (ls.loss, ([1.0], Y, B), "X has shape"),
    (ls.loss, (X, [1.0, 2.0], B), "y has shape"),
    (ls.loss, (X, Y, [1.0]), "beta has shape"),
    (ls.gradient, (X, Y, [[1.0, np.nan]]), "beta="),
    (ls.gradient, ([[1.0, np.inf]], Y, B), "X="),
    (ls.flow_filter, (-1.0, 1.0), "sigma="),
    (ls.flow_filter, (1.0, -1.0), "t="),
    (ls.descent_filter, (1.0, 0.0, 3), "step_size="),
    (ls.descent_filter, (1.0, 0.1, 3.0), "steps="),
    (ls.descent_filter, (1.0, 0.1, -1), "steps="),
    (ls.descent_filter, (1.0, 0.1, True), "steps="),
    (ls.ridge_filter, (1.0, 0.0), "penalty="),
    (ls.ridge_filter, (-1.0, 1.0), "sigma="),
    (ls.flow_solution, (X, Y, -1.0), "t="),
    (ls.flow_solution, (X, Y, [0.0, np.nan]), "t="),
    (ls.flow_solution, (X, Y, np.inf), "t="),
    (ls.flow_solution, (np.empty((0, 2)), [], 1.0), "X has shape"),
    (ls.flow_solution, (X, [[1.0]], 1.0), "y has shape"),
    (ls.flow_solution, (X, Y, 1.0, [0.0]), "beta0 has shape"),
    (ls.flow_solution, (X, Y, 1.0, ["a", "b"]), "beta0="),
    (ls.descent_solution, (X, Y, -0.1, 3), "step_size="),
    (ls.descent_solution, (X, Y, np.nan, 3), "step_size="),
    (ls.descent_solution, (X, Y, 0.1, [1.5]), "steps="),
    (ls.ridge_solution, (X, Y, -1.0), "penalty="),
    (ls.limit_solution, (X, Y, [0.0, np.inf]), "beta0="),
    (ls.min_norm_solution, (X, [np.nan]), "y="),
    (ls.max_step_size, ([1.0, 2.0],), "X has shape"),
    (ls.convergence_factor, (X, 0.0), "step_size="),
    (ls.best_step_size, ([[np.nan]],), "X="),
    (ls.descent_path, (X, Y, 0.1, 2.5), "steps="),
    (ls.descent_path, (X, Y, 0.0, 2), "step_size="),
    (ls.divergence_step, (X, Y, 0.1, None, 0.5), "factor="),
    (ls.divergence_step, (X, Y, 0.0), "step_size="),
    (ls.descent_lag, (X, Y, -2.0), "t="),
    (ls.random_problem, ("seed",), "rng="),
    (ls.random_problem, (0, 0), "max_size="),
    (ls.fourier_features, ([[0.0]], 3), "x has shape"),
    (ls.fourier_features, ([0.0], 0), "frequencies="),
    (ls.fourier_features, ([0.0], 3, np.nan), "smoothness="),
    (ls.random_features, ([0.0], 0, 1), "count="),
    (ls.random_features, ([0.0], 3, -1), "rng="),
    (ls.random_features, ([0.0], 3, 1, 0.0), "width="),
    (ls.random_features, (0.0, 3, 1), "x has shape"),
]


@pytest.mark.parametrize(("function", "arguments", "message"), BAD)
def test_bad_input_is_named(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@pytest.mark.parametrize("M", [np.eye(3), -np.eye(2), [[1, 2], [2, 1]], [[1, 0.1], [0, 1]]])
@pytest.mark.parametrize("function", [ls.limit_solution, ls.max_step_size])
def test_preconditioner_must_be_a_metric(function, M):
    arguments = (X, Y) if function is ls.limit_solution else (X,)
    with pytest.raises(ValueError, match="preconditioner"):
        function(*arguments, preconditioner=np.array(M, dtype=float))
