"""The polar flow of normalised weights: where it ends, against methods that share no code."""

import math
import warnings
from fractions import Fraction

import evidence
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.optimize import linprog
from test_bad_input import INF, NAN, NEGATIVE, NOT_A_COUNT, NOT_POSITIVE, cases

from dmflib import bregman
from dmflib import weight_normalization as wn
from dmflib.stopping import DivergenceWarning


def problem(seed, signed=False):
    """A random problem with a sparse solution, equal or unequal weights, and two rates."""
    rng = np.random.default_rng(seed)
    m = rng.integers(1, 6)
    n = rng.integers(m + 1, 12)
    A = rng.standard_normal((m, n))
    x = rng.exponential(size=n) * (rng.random(n) < 0.5)
    x[0] += 0.3
    if signed:
        x *= rng.choice([-1, 1], n)
    init = rng.uniform(0.3, 1) * rng.uniform(0.5, 1, n)
    return A, A @ x, int(rng.integers(2, 6)), init, 10 ** rng.uniform(-0.6, 0.7)


def well_posed(A, y):
    """Whether some solution is positive in every entry, by a margin; else the approach is slow."""
    n = A.shape[1]
    found = linprog(
        [0] * n + [-1],
        A_ub=np.hstack([-np.eye(n), np.ones((n, 1))]),
        b_ub=np.zeros(n),
        A_eq=np.hstack([A, np.zeros((len(A), 1))]),
        b_eq=y,
        bounds=[(0, None)] * n + [(None, 1)],
    )
    return found.status == 0 and -found.fun > 0.1


def solvable(seed, signed=False):
    """The first problem, drawn from this seed and then others, that has a positive solution."""
    drawn = problem(seed, signed)
    while not signed and not well_posed(*drawn[:2]):
        seed += 10**6
        drawn = problem(seed, signed)
    return drawn


def least_l1(A, y, signed=False):
    if signed:
        A = np.hstack([A, -A])
    return linprog(np.ones(A.shape[1]), A_eq=A, b_eq=y).fun


def raw_flow(A, y, depth, init, radial_rate, direction_rate, times, length=1.0):
    """The polar flow in (r, v), as it is defined, by another integrator: w and |v| at the times."""

    def velocity(t, state):
        r, v = state[0], state[1:]
        size = math.sqrt(v @ v)
        w = r * v / size
        gradient = depth * w ** (depth - 1) * (A.T @ (A @ w**depth - y))
        radial = v @ gradient / size
        across = (r / size) * (gradient - radial * v / size)
        return np.concatenate([[-radial_rate * radial], -direction_rate * across])

    r0 = np.linalg.norm(init)
    start = np.concatenate([[r0], length * init / r0])
    found = solve_ivp(velocity, (0, times[-1]), start, "DOP853", times, rtol=1e-12, atol=1e-13)
    r, v = found.y[0], found.y[1:]
    sizes = np.linalg.norm(v, axis=0)
    return (r * v / sizes).T, sizes


# --- the invariant and the limit ----------------------------------------------------------------


@pytest.mark.ledger("lem-weight-normalization-conserved")
@pytest.mark.parametrize("seed", [0, 1, 4, 5, 6, 7, 8, 10])
def test_the_path_is_that_of_the_raw_coordinates(seed):
    A, y, depth, init, kappa = problem(seed)
    run = wn.flow(A, y, depth, init, kappa, direction_rate=1.3, rtol=1e-12, record=[0.3, 1.0])
    early = run.times <= 1.0
    raw, sizes = raw_flow(A, y, depth, init, kappa, 1.3, run.times[early])
    evidence.agree(run.weights[early], raw, atol=2e-9)
    evidence.agree(sizes, 1.0, atol=1e-10)  # the norm of v is conserved
    # and psi w moves along the range of A^T, or its image under powers does
    for w in raw:
        evidence.at_most(wn.invariant_defect(A, init, w, depth, kappa / 1.3), 1e-7)


def test_only_the_rate_over_the_squared_norm_of_v_counts():
    A, y, depth, init, kappa = problem(3)
    raw, size = raw_flow(A, y, depth, init, kappa, 2.0, [0.7], length=1.7)
    run = wn.flow(A, y, depth, init, kappa, direction_rate=2 / 1.7**2, rtol=1e-12, record=[0.7])
    assert size == pytest.approx(1.7, abs=1e-9)
    np.testing.assert_allclose(run.weights[0], raw[0], atol=1e-9)


@pytest.mark.ledger("thm-weight-normalization-limit", "thm-weight-normalization-convergence")
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", range(24))
def test_the_limit_is_that_of_the_plain_flow_from_a_smaller_start(seed, signed):
    A, y, depth, init, kappa = solvable(seed, signed)
    run = wn.flow(A, y, depth, init, kappa, signed=signed, tol=1e-13, rtol=1e-13)
    assert run.converged
    log = wn.log_magnification(run.radii[0], run.radii[-1], kappa)
    small = init * np.exp(-log)
    plain = wn.flow(A, y, depth, small, None, signed=signed, tol=1e-13, rtol=1e-13)
    assert plain.converged
    # by convex duality, in two implementations
    B, start = (np.hstack([A, -A]), np.tile(small, 2)) if signed else (A, small)
    dual = wn._unknown(bregman.minimizer(B, y, start**depth, depth) ** (1 / depth), depth, signed)
    found = wn.limit(A, y, depth, init, kappa, signed=signed)
    assert found.log_magnification == pytest.approx(log, abs=1e-7)
    for other in (plain.limit, dual, found.x):
        evidence.agree(run.limit, other, atol=1e-8)
    assert np.abs(A @ found.x - y).max() < 1e-10


def test_without_the_two_the_formula_is_wrong():
    worst = 0.0
    for seed in range(12):
        A, y, depth, init, kappa = solvable(seed)
        end = wn.limit(A, y, depth, init, kappa)
        r0 = np.linalg.norm(init)
        slide = math.log(r0 / end.radius) + (end.radius**2 - r0**2) / kappa
        wrong = wn.limit(A, y, depth, init * math.exp(-slide), None)
        worst = max(worst, np.abs(wrong.x - end.x).max())
    assert worst > 0.03


@settings(deadline=None, max_examples=40)  # one instance is a whole flow
@given(st.integers(0, 10**6))
def test_the_invariant_holds_along_the_whole_path(seed):
    A, y, depth, init, kappa = problem(seed)
    run = wn.flow(A, y, depth, init, kappa, t_final=2.0, rtol=1e-11)
    for w in run.weights[:: max(1, len(run.weights) // 5)]:
        assert wn.invariant_defect(A, init, w, depth, kappa) < 1e-7
    assert (run.weights > 0).all()
    assert (np.diff(run.residuals) < 1e-7 * np.linalg.norm(y) + 1e-9).all()


def test_the_defect_sees_another_path():
    A, y, depth, init, kappa = problem(5)
    w = wn.flow(A, y, depth, init, kappa, rtol=1e-11).weights[-1]
    assert wn.invariant_defect(A, init, w, depth, kappa) < 1e-7
    assert wn.invariant_defect(A, init, w, depth, 1.5 * kappa) > 1e-3
    assert wn.invariant_defect(A, init, w, depth, None) > 1e-3


def test_the_defect_of_the_plain_flow():
    A, y, depth, init, _ = problem(5)
    w = wn.flow(A, y, depth, init, None, rtol=1e-11).weights[-1]
    assert wn.invariant_defect(A, init, w, depth, None) < 1e-7


def test_rates_are_a_clock_and_a_ratio():
    A, y, depth, init, kappa = problem(8)
    slow = wn.flow(A, y, depth, init, kappa, rtol=1e-12, record=[0.6])
    fast = wn.flow(A, y, depth, init, 3 * kappa, direction_rate=3, rtol=1e-12, record=[0.2])
    np.testing.assert_allclose(slow.weights[0], fast.weights[0], atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.5, 2))
def test_scaling_weights_and_rate_together_changes_nothing(seed, s):
    A, y, depth, init, kappa = solvable(seed)
    one = wn.limit(A, y, depth, init, kappa)
    other = wn.limit(A / s**depth, y, depth, s * init, s**2 * kappa)
    np.testing.assert_allclose(other.x, s**depth * one.x, rtol=0, atol=1e-7 * s**depth)
    assert other.log_magnification == pytest.approx(one.log_magnification, abs=1e-7)


def test_the_two_signs_may_start_apart():
    A, y, depth, init, kappa = problem(4, signed=True)
    starts = np.stack([init, 0.5 * init])
    end = wn.limit(A, y, depth, starts, kappa, signed=True).x
    parts = wn.limit(np.hstack([A, -A]), y, depth, starts.ravel(), kappa).x
    np.testing.assert_allclose(end, parts[: len(end)] - parts[len(end) :], atol=1e-12)
    run = wn.flow(A, y, depth, starts, kappa, signed=True)
    np.testing.assert_allclose(run.limit, end, atol=1e-7)
    assert np.abs(wn.limit(A, y, depth, init, kappa, signed=True).x - end).max() > 1e-3


def test_sign_of_the_data():
    A, y, depth, init, kappa = problem(4, signed=True)
    one = wn.limit(A, y, depth, init, kappa, signed=True)
    other = wn.limit(A, -y, depth, init, kappa, signed=True)
    np.testing.assert_allclose(other.x, -one.x, atol=1e-10)


def test_separate_normalisation_of_the_two_signs_has_another_limit():
    # d/dt(psi u) and d/dt(psi v) carry r_u^2 and r_v^2, which differ.
    A, y = np.array([[1.0, 0.7, -0.4], [0.2, -0.5, 0.9]]), np.array([1.0, -0.6])
    depth, kappa, init = 3, 0.3, np.full(3, 0.5)

    def velocity(t, state):
        halves, out = np.split(np.exp(state), 2), []
        residual = A @ (halves[0] ** depth - halves[1] ** depth) - y
        for w, sign in zip(halves, (1, -1), strict=True):
            g, R = sign * (A.T @ residual), w @ w
            out.append(-depth * (R * w ** (depth - 2) * g + (kappa / R - 1) * (g @ w**depth)))
        return np.concatenate(out)

    logs = solve_ivp(velocity, (0, 400), np.log(np.tile(init, 2)), "LSODA", rtol=1e-10, atol=1e-10)
    halves = np.split(np.exp(logs.y[:, -1]), 2)
    assert np.abs(A @ (halves[0] ** 3 - halves[1] ** 3) - y).max() < 1e-8
    r0 = np.linalg.norm(init)
    duals = []
    for w in halves:
        psi = math.exp(wn.log_magnification(r0, np.linalg.norm(w), kappa))
        duals.append((psi * w) ** (2 - depth) - init ** (2 - depth))
    row_space = A.T @ np.linalg.pinv(A.T)
    # each stays in the range of A^T, but they are not opposite to each other
    assert all(np.abs(d - row_space @ d).max() < 1e-6 for d in duals)
    assert np.abs(duals[0] + duals[1]).max() > 2e-3


# --- the potential ------------------------------------------------------------------------------


@pytest.mark.ledger("thm-weight-normalization-potential")
@given(st.integers(2, 6), st.integers(0, 10**6), st.floats(0.05, 20))
def test_gradient_of_the_potential(depth, seed, kappa):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.05, 1, 4)
    w = x ** (1 / depth)
    psi = math.exp(w @ w / (2 * kappa)) / np.linalg.norm(w)
    expected = np.log(psi * w) if depth == 2 else -((psi * w) ** (2 - depth)) / (depth - 2)
    h = 1e-3 * np.diag(x)
    values = {k: wn.potential(x + k * h, depth, kappa) for k in (-2, -1, 1, 2)}
    measured = (values[-2] - 8 * values[-1] + 8 * values[1] - values[2]) / (12e-3 * x)
    scale = np.abs(expected).max() + abs(wn.potential(x, depth, kappa)) / x.min()
    evidence.agree(measured / scale, expected / scale, atol=1e-8)


@given(st.integers(2, 6), st.integers(0, 10**6), st.floats(0.05, 20))
def test_the_potential_is_convex(depth, seed, kappa):
    rng = np.random.default_rng(seed)
    x, z = rng.exponential(size=(2, 5)) * (rng.random((2, 5)) < 0.8)
    values = wn.potential([x, (x + z) / 2, z], depth, kappa)
    assert values[1] <= (values[0] + values[2]) / 2 + 1e-13 * np.abs(values).max()


@pytest.mark.ledger("thm-weight-normalization-potential")
@pytest.mark.parametrize("seed", range(10))
def test_the_limit_has_the_least_divergence_of_all_solutions(seed):
    A, y, depth, init, kappa = solvable(seed)
    end = wn.limit(A, y, depth, init, kappa).x
    psi = math.exp(init @ init / (2 * kappa)) / np.linalg.norm(init)
    dual = np.log(psi * init) if depth == 2 else -((psi * init) ** (2 - depth)) / (depth - 2)

    def divergence(z):
        return wn.potential(z, depth, kappa) - z @ dual

    kernel = np.linalg.svd(A)[2][np.linalg.matrix_rank(A) :]
    rng, least = np.random.default_rng(seed), divergence(end)
    for _ in range(50):
        way = kernel.T @ rng.standard_normal(len(kernel))
        far = (end / np.maximum(-way, 1e-300)).min()  # the boundary
        z = np.maximum(end + min(far, 1.0) * rng.random() * way, 0)
        evidence.holds(divergence(z) >= least - 1e-11 * (1 + abs(least)))


@pytest.mark.ledger("thm-weight-normalization-potential")
@pytest.mark.parametrize("seed", range(10))
def test_one_magnification_solves_its_equation(seed):
    A, y, depth, init, kappa = solvable(seed)
    r0, found = np.linalg.norm(init), wn.limit(A, y, depth, init, kappa).log_magnification
    shifts = found + np.linspace(-1.5, 1.5, 31) + 0.01
    gaps = []
    for s in shifts:
        x = wn.limit(A, y, depth, init * math.exp(-s), None).x
        gaps.append(s - wn.log_magnification(r0, np.sqrt((x ** (2 / depth)).sum()), kappa))
    evidence.holds(np.sign(gaps) == np.sign(shifts - found))


def test_potential_against_quadrature():
    x, kappa = np.array([0.3, 0.0, 1.1]), 0.4
    for depth in (3, 4, 7):
        R = (x ** (2 / depth)).sum()
        power = (depth - 2) / 2
        integral = quad(lambda s, p=power: (s * math.exp(-s / kappa)) ** p, 0, R, epsabs=1e-13)[0]
        assert wn.potential(x, depth, kappa) == pytest.approx(-depth / 2 / (depth - 2) * integral)


# --- the bound ----------------------------------------------------------------------------------


@pytest.mark.ledger("thm-weight-normalization-bound")
@pytest.mark.parametrize("signed", [False, True])
def test_no_limit_exceeds_the_bound(signed):
    tried = 0
    for seed in range(160):
        A, y, depth, _, kappa = solvable(seed, signed)
        rng = np.random.default_rng([seed, 7])
        n = A.shape[1] * (1 + signed)
        least = least_l1(A, y, signed)
        radius = least ** (1 / depth) * rng.uniform(0.1, 1.1)
        kappa *= 0.3 * least ** (2 / depth)
        end = wn.limit(A, y, depth, radius / math.sqrt(n), kappa, signed=signed)
        bound = wn.l1_excess_bound(least, n, depth, radius, end.log_magnification)
        tried += bound < 1
        if bound < math.inf:
            evidence.at_most(np.abs(end.x).sum() / least - 1, bound + 1e-9)
        if least ** (2 / depth) >= kappa:
            known = wn.log_magnification_bound(least, depth, radius, kappa)
            evidence.holds(known <= end.log_magnification + 1e-9)
    assert tried > 50


def test_the_bound_is_the_formula():
    for depth in (2, 3, 4, 6):
        Q, n, r0, log = 2.3, 17, 0.8, 0.6
        beta1 = n * (r0 / math.sqrt(n) * math.exp(-log)) ** depth
        least = beta1 / n
        if depth == 2:
            expected = math.log(beta1 / least) / math.log(Q / beta1)
        else:
            p = 1 - 2 / depth
            expected = depth / 2 * (beta1**p - least**p) / (Q**p - beta1**p)
        assert wn.l1_excess_bound(Q, n, depth, r0, log) == pytest.approx(float(expected), rel=1e-12)
    assert wn.l1_excess_bound(1.0, 4, 2, 1.0) == math.inf
    assert wn.l1_excess_bound(1.0, 1, 3, 0.5) == 0


def test_the_slide_s_constants_do_not_bound():
    """Its beta_1 = r0^2 sqrt(n) and beta_min = r0^2 make the bound at depth 2 half as large."""
    n, squared = 10_000, 1e-12
    A = np.full((1, n), 0.8)
    A[0, 0] = 1
    x = wn.limit(A, [1.0], 2, math.sqrt(squared / n), None).x
    excess = x.sum() - 1
    slide = math.log(math.sqrt(n)) / math.log(1 / (squared * math.sqrt(n)))
    assert excess > 1.02 * slide
    assert excess < wn.l1_excess_bound(1.0, n, 2, math.sqrt(squared))


@given(st.floats(1e-3, 30), st.floats(1e-3, 30), st.floats(1e-2, 1e3))
def test_magnification(start, end, kappa):
    log = wn.log_magnification(start, end, kappa)
    assert log == pytest.approx(-wn.log_magnification(end, start, kappa), abs=1e-9)
    a, b, k = map(Fraction, (start, end, kappa))
    exact = math.log(a / b) + float((b * b - a * a) / (2 * k))
    assert log == pytest.approx(float(exact), rel=1e-9, abs=1e-12)
    assert wn.log_magnification(start, end, 3 * kappa, 3) == pytest.approx(
        log, rel=1e-12, abs=1e-12
    )


def test_magnification_may_be_infinite():
    assert wn.magnification(0.1, 10.0, 0.01) == math.inf
    assert wn.magnification(1.0, 2.0, 1.0) == pytest.approx(math.exp(1.5) / 2)


# --- honesty of the integrator ------------------------------------------------------------------


def compressed(seed=0, m=30, n=100, s=6):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n)) / math.sqrt(m)
    x = np.zeros(n)
    x[rng.choice(n, s, replace=False)] = rng.uniform(0.5, 1.5, s)
    return A, A @ x, x


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_thirty_by_hundred_is_solved_with_few_evaluations(depth):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((30, 100)) / math.sqrt(30)
    y = A @ rng.exponential(size=100)
    run = wn.flow(A, y, depth, 0.5, 1.0)
    assert run.converged
    assert run.residuals[-1] <= 1e-10 * np.linalg.norm(y)
    assert run.evaluations < 20_000
    end = wn.limit(A, y, depth, 0.5, 1.0)
    np.testing.assert_allclose(run.limit, end.x, rtol=0, atol=1e-7)


def test_the_limit_at_great_magnification_is_the_least_l1_solution():
    A, y, x = compressed()
    for depth in (2, 3, 4, 6):
        radius = 0.9 * math.sqrt((x ** (2 / depth)).sum())
        end = wn.limit(A, y, depth, radius / 10, 0.004 * radius**2)
        assert end.log_magnification > 20
        np.testing.assert_allclose(end.x, x, rtol=0, atol=1e-8)
        # at great depth the weights off the support count long after their powers are zero
        known = wn.log_magnification(radius, np.linalg.norm(x ** (1 / depth)), 0.004 * radius**2)
        assert end.log_magnification == pytest.approx(known, abs=1e-9)


def test_what_ended_a_run():
    A, y, depth, init, kappa = problem(0)
    assert wn.flow(A, y, depth, init, kappa).stopped_by == "residual"
    early = wn.flow(A, y, depth, init, kappa, t_final=0.05)
    assert early.stopped_by == "time"
    assert early.times[-1] == 0.05
    assert not early.converged
    # a weight that fell asleep: the time to wake it is out of reach
    A, y, x = compressed()
    r = 0.4 * math.sqrt((x**0.5).sum())
    run = wn.flow(A, y, 4, r / 10, 0.05, t_final=1e9)
    assert run.stopped_by in ("time", "steps")
    assert run.residuals[-1] > 0.1


def test_a_flow_may_end_at_zero():
    """Where y points away from A x and the direction turns too slowly, the length dies."""
    A, y, init = np.array([[1.0, -1.0]]), np.array([1.0]), np.array([0.1, 0.3])
    for depth in (2, 3):
        run = wn.flow(A, y, depth, init, 5.0)
        assert run.stopped_by == "collapse"
        assert run.residuals[-1] == pytest.approx(1, abs=1e-6)
        plain = wn.flow(A, y, depth, init, None)
        assert plain.converged
        slow = wn.flow(A, y, depth, init, 0.002)
        assert slow.converged


@pytest.mark.ledger("prop-weight-normalization-collapse")
@pytest.mark.parametrize("seed", range(30))
def test_the_collapse_of_two_weights_is_decided_by_the_start(seed):
    rng = np.random.default_rng(seed)
    first, second = np.sort(rng.uniform(0.05, 0.8, 2))
    squared = first**2 + second**2
    critical = squared / math.log(squared / (2 * first * second))
    share = rng.choice([rng.uniform(0.2, 0.9), rng.uniform(1.1, 5)])
    run = wn.flow(np.array([[1.0, -1.0]]), [1.0], 2, [first, second], share * critical)
    evidence.holds((run.stopped_by == "collapse") == (share > 1))
    evidence.holds(run.converged == (share < 1))


@pytest.mark.ledger("thm-weight-normalization-convergence")
def test_a_loss_below_that_of_zero_does_not_collapse():
    for seed in range(25):
        A, y, depth, init, kappa = problem(seed)
        shrunk = 0.2 * init
        if np.linalg.norm(A @ shrunk**depth - y) < np.linalg.norm(y):
            run = wn.flow(A, y, depth, shrunk, 20 * kappa, t_final=1e3)
            evidence.holds(run.stopped_by != "collapse")
            evidence.holds(run.weights > 0)


@pytest.mark.ledger("prop-weight-normalization-sleep")
@pytest.mark.parametrize(("seed", "depth", "share", "kappa"), [(0, 3, 0.5, 0.2), (2, 4, 0.7, 0.2)])
def test_a_sleeping_weight_takes_its_time(seed, depth, share, kappa):
    """The change of (psi w_i)^(2-N) is the integral of N (N-2) r^2 psi^(2-N) g_i."""
    A, y, x = compressed(seed)
    radius = share * math.sqrt((x ** (2 / depth)).sum())
    run = wn.flow(A, y, depth, radius / 10, kappa, tol=1e-4)
    assert run.converged
    psi = np.exp(run.radii**2 / (2 * kappa)) / run.radii
    sleepers = 0
    for i in np.flatnonzero(x):
        low = run.weights[:, i].argmin()
        if run.weights[low, i] > 0.1 * run.weights[0, i]:
            continue
        dual = (psi * run.weights[:, i]) ** (2 - depth)
        pull = (run.points @ A.T - y) @ A[:, i]
        clock = run.radii**2 * psi ** (2.0 - depth)
        fastest = depth * (depth - 2) * (clock * np.abs(pull))[low:].max()
        waited = run.times[-1] - run.times[low]
        evidence.at_most(0.999 * (dual[low] - dual[-1]) / fastest, waited)
        # and it is the weight's own depth of sleep that costs the time
        assert waited > run.weights[low, i] ** (2 - depth) / (100 * depth)
        sleepers += 1
    assert sleepers >= 2


def test_no_solution_is_refused_with_the_residual():
    for function in (wn.flow, wn.limit):
        with pytest.raises(ValueError, match=r"z >= 0; .* residual of norm 1\.41"):
            function(np.eye(2), [-1.0, -1.0], 2, 0.5, 1.0)
        with pytest.raises(ValueError, match=r"range of A; .* residual of norm 7\.07"):
            function([[1.0], [1.0]], [1.0, 2.0], 2, 0.5, 1.0, signed=True)
    assert wn.limit(np.eye(2), [-1.0, -1.0], 2, 0.5, 1.0, signed=True).x == pytest.approx([-1, -1])


# --- descent ------------------------------------------------------------------------------------


def test_descent_tends_to_the_flow_with_the_first_order():
    A, y = np.array([[1.0, 0.6, 0.3], [0.2, 0.5, 0.9]]), np.array([1.0, 0.8])
    depth, init, kappa = 3, np.array([0.5, 0.4, 0.6]), 0.4
    end = wn.limit(A, y, depth, init, kappa).x
    errors, growth = [], []
    for h in (2e-3, 1e-3, 5e-4):
        run = wn.descent(A, y, depth, init, kappa, h, 400_000, tol=1e-9, record=10**6)
        assert run.converged
        errors.append(np.abs(run.limit - end).max())
        growth.append(run.direction_norms[-1] ** 2 - 1)
    for values in (errors, growth):
        ratios = np.divide(values[:-1], values[1:])
        assert ((ratios > 1.8) & (ratios < 2.2)).all()


@pytest.mark.ledger("prop-weight-normalization-growth")
@pytest.mark.parametrize("seed", range(12))
def test_steps_lengthen_the_direction_as_pythagoras_says(seed):
    A, y, depth, init, kappa = problem(seed)
    run = wn.descent(A, y, depth, init, kappa, 0.002, 200)
    evidence.at_most(run.direction_norms[:-1], run.direction_norms[1:], slack=1e-14)
    directions = run.weights / run.radii[:, None]
    # where the length changes its sign, w turns over and v does not
    cosines = np.abs(np.einsum("ij,ij->i", directions[1:], directions[:-1]))
    ratios = run.direction_norms[:-1] / run.direction_norms[1:]
    evidence.agree(ratios, cosines, atol=1e-12)
    tangents = 1 / cosines**2 - 1
    growth = (run.direction_norms[1:] / run.direction_norms[0]) ** 2
    evidence.agree(growth, np.cumprod(1 + tangents), rtol=1e-9)
    again = wn.descent(A, y, depth, init, kappa, 0.002, 200, renormalize=True)
    np.testing.assert_array_equal(again.direction_norms, 1)


def test_one_step_by_hand():
    A, y = np.array([[1.0, 2.0]]), np.array([3.0])
    init, h, eta, speed = np.array([0.6, 0.8]), 0.1, 0.5, 2.0
    gradient = 2 * init * A[0] * (A[0] @ init**2 - 3)
    radial = init @ gradient  # r = 1, v = init
    r, v = 1 - h * eta * radial, init - h * speed * (gradient - radial * init)
    run = wn.descent(A, y, 2, init, eta, h, 1, direction_rate=speed)
    np.testing.assert_allclose(run.weights[1], r * v / np.linalg.norm(v), rtol=1e-14)
    assert run.direction_norms[1] == pytest.approx(np.linalg.norm(v), rel=1e-14)
    plain = wn.descent(A, y, 2, init, None, h, 1)
    np.testing.assert_allclose(plain.weights[1], init - h * gradient, rtol=1e-14)


def test_divergence_is_reported_with_its_step():
    A, y, _x = compressed()
    with pytest.warns(DivergenceWarning, match="step"):
        run = wn.descent(A, y, 3, 0.5, None, 1.0, 100)
    assert run.stopped_by.startswith("divergence at step")
    assert np.isfinite(run.weights).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        long = wn.descent(A, y, 2, 0.2, 0.1, 0.01, 50, record=20)
    np.testing.assert_array_equal(long.times, [0, 20, 40, 50])


# --- bad input ----------------------------------------------------------------------------------

GOOD = {"A": [[1.0, 2.0]], "y": [1.0], "depth": 2, "init": [0.5, 0.5], "radial_rate": 1.0}
MODEL = {
    "A": [NAN, INF, [1.0], 3.0, np.ones((0, 2)), "ab", None],
    "y": [[np.nan], [1.0, 2.0], 1.0, [0.0], [-1.0], "a"],
    "depth": [*NOT_A_COUNT, 1],
    "init": [0, -1.0, [1.0], [0.5, 0.0], [0.5, -1.0], [np.nan, 1], "a"],
    "radial_rate": [v for v in NOT_POSITIVE if v is not None],
    "direction_rate": NOT_POSITIVE,
    "signed": [1, None, "yes"],
}
CASES = [
    *cases(
        wn.flow,
        GOOD,
        **MODEL,
        tol=NOT_POSITIVE,
        t_final=NOT_POSITIVE,
        rtol=[*NOT_POSITIVE, 1e-14, 0.1],
        record=[[], [-1.0], [1.0, 1.0], [2.0, 1.0], [[1.0]], 3.0, "a", [1e13]],
    ),
    *cases(wn.limit, GOOD, **MODEL),
    *cases(
        wn.descent,
        {**GOOD, "step_size": 0.1, "steps": 2},
        **MODEL,
        step_size=NOT_POSITIVE,
        steps=NOT_A_COUNT,
        tol=NEGATIVE,
        record=NOT_A_COUNT,
    ),
    *(
        case
        for function in (wn.log_magnification, wn.magnification)
        for case in cases(
            function,
            {"start": 1.0, "end": 2.0, "radial_rate": 1.0},
            start=NOT_POSITIVE,
            end=NOT_POSITIVE,
            radial_rate=NOT_POSITIVE,
            direction_rate=NOT_POSITIVE,
        )
    ),
    *cases(
        wn.l1_excess_bound,
        {"optimum": 1.0, "size": 3, "depth": 3, "radius": 0.1},
        optimum=NOT_POSITIVE,
        size=NOT_A_COUNT,
        depth=[*NOT_A_COUNT, 1],
        radius=NOT_POSITIVE,
        log_magnification=[np.nan, np.inf, None, "1"],
    ),
    *cases(
        wn.log_magnification_bound,
        {"optimum": 1.0, "depth": 3, "radius": 0.1, "radial_rate": 0.5},
        optimum=[*NOT_POSITIVE, 0.1],
        depth=[*NOT_A_COUNT, 1],
        radius=NOT_POSITIVE,
        radial_rate=NOT_POSITIVE,
        direction_rate=NOT_POSITIVE,
    ),
    *cases(
        wn.potential,
        {"x": [1.0, 0.0], "depth": 3, "radial_rate": 0.5},
        x=[[-1.0], 3.0, [np.nan], "a", None, []],
        depth=[*NOT_A_COUNT, 1],
        radial_rate=NOT_POSITIVE,
        direction_rate=NOT_POSITIVE,
    ),
    *cases(
        wn.invariant_defect,
        {"A": [[1.0, 2.0]], "start": [1.0, 1.0], "end": [1.0, 2.0], "depth": 3, "radial_rate": 1},
        A=[NAN, [1.0], None],
        start=[[1.0], [0.0, 1.0], None],
        end=[[1.0], [-1.0, 1.0], None],
        depth=[*NOT_A_COUNT, 1],
        radial_rate=[v for v in NOT_POSITIVE if v is not None],
        direction_rate=NOT_POSITIVE,
    ),
]


@pytest.mark.parametrize(("function", "arguments", "name"), CASES)
def test_bad_input(function, arguments, name):
    with pytest.raises(ValueError, match=name):
        function(**arguments)
