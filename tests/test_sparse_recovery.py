"""The flow against its factors and the convex dual, the l1 bounds against random instances."""

import evidence
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from dmflib import bregman as bg
from dmflib import sparse_recovery as sr
from dmflib.stopping import Diverged, DivergenceWarning, MaxSteps, TimeReached

seeds = st.integers(0, 2**32 - 1)
depths = st.sampled_from([2, 3, 4])


def problem(seed, signed=True, m=3, n=8):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n)) / np.sqrt(m)
    z = rng.standard_normal(n) if signed else rng.exponential(size=n)
    return A, A @ z, rng


def factor_velocity(A, y, depth, signed):
    def velocity(t, flat):
        w = flat.reshape(-1, A.shape[1])
        x = w[0] ** depth - w[1] ** depth if signed else w[0] ** depth
        g = A.T @ (A @ x - y)
        signs = np.array([[1.0], [-1.0]]) if signed else 1.0
        return (-signs * w ** (depth - 1) * g).ravel()

    return velocity


# --- the flow -----------------------------------------------------------------------------------


@pytest.mark.ledger("lem-sparse-recovery-identical")
@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_factors_of_one_start_stay_one(seed, depth):
    """All factors by their own gradients, against the law of the product in logarithms."""
    from scipy.integrate import solve_ivp

    A, y, rng = problem(seed, signed=False)
    init, times = np.exp(rng.uniform(-1.5, 0, 8)), np.linspace(0.2, 3, 5)

    def velocity(t, flat):
        W = flat.reshape(depth, 8)
        g = A.T @ (A @ W.prod(axis=0) - y)
        return np.concatenate([-np.delete(W, k, 0).prod(axis=0) * g for k in range(depth)])

    def law(t, z):
        x = np.exp(z)
        return -depth * x ** (1 - 2 / depth) * (A.T @ (A @ x - y))

    options = {"method": "DOP853", "t_eval": times, "rtol": 1e-11, "atol": 1e-13}
    W = solve_ivp(velocity, (0, 3), np.tile(init, depth), **options).y.reshape(depth, 8, 5)
    z = solve_ivp(law, (0, 3), depth * np.log(init), **options).y
    evidence.agree(W, np.broadcast_to(W[0], W.shape), rtol=1e-9, atol=1e-12)
    evidence.agree(W.prod(axis=0), np.exp(z), rtol=1e-7, atol=1e-12)
    evidence.holds(W > 0)


@pytest.mark.ledger("thm-sparse-recovery-gunasekar")
@pytest.mark.parametrize("seed", range(12))
def test_any_mirror_flow_ends_at_the_nearest_solution(seed):
    """F = sum of cosh, the loss a sum of fourth powers and squares: nothing of this chapter."""
    from scipy.integrate import solve_ivp
    from scipy.optimize import minimize

    A, y, rng = problem(seed)
    x0 = rng.standard_normal(8)

    def velocity(t, nu):  # grad F(x) = grad F(x0) + A^T nu
        residual = A @ np.arcsinh(np.sinh(x0) + A.T @ nu) - y
        return -(residual + residual**3)

    nu = solve_ivp(velocity, (0, 1e3), np.zeros(3), "LSODA", rtol=1e-10, atol=1e-12).y[:, -1]
    end = np.arcsinh(np.sinh(x0) + A.T @ nu)
    assert np.abs(A @ end - y).max() < 1e-9
    particular, kernel = np.linalg.pinv(A) @ y, np.linalg.svd(A)[2][3:]

    def divergence(c):
        z = particular + c @ kernel
        value = (np.cosh(z) - np.cosh(x0) - np.sinh(x0) * (z - x0)).sum()
        return value, kernel @ (np.sinh(z) - np.sinh(x0))

    best = minimize(divergence, np.zeros(5), jac=True, method="BFGS", options={"gtol": 1e-10})
    evidence.agree(end, particular + best.x @ kernel, atol=1e-7)


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("uniform", [False, True])
def test_the_path_is_that_of_the_factors(depth, signed, uniform):
    from scipy.integrate import solve_ivp

    for seed in range(3):
        A, y, rng = problem(seed, signed)
        shape = (2, 8) if signed else (8,)
        init = np.full(shape, 0.4) if uniform else np.exp(rng.uniform(-1, 0, shape))
        times = [0.3, 1.0, 4.0]
        run = sr.hadamard_flow(A, y, depth, init, signed, times=times, t_final=4.0, rtol=1e-8)
        expected = solve_ivp(
            factor_velocity(A, y, depth, signed), (0, 4), init.ravel(), "DOP853", times,
            rtol=1e-11, atol=1e-13,
        ).y.T.reshape(3, *shape)  # fmt: skip
        assert_allclose(run.factors[1:], expected, rtol=1e-7)
        assert_allclose(run.times, [0, *times])
        assert isinstance(run.stopped_by, TimeReached)


@pytest.mark.ledger("thm-sparse-recovery-limit", "prop-sparse-recovery-entropy")
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("uniform", [False, True])
def test_the_limit_of_the_factors_is_the_minimiser(depth, signed, uniform):
    # An integration that knows nothing of the dual, to the end, against Newton on the dual.
    from scipy.integrate import solve_ivp

    for seed in range(3):
        A, y, rng = problem(seed, signed)
        shape = (2, 8) if signed else (8,)
        init = np.full(shape, 0.5) if uniform else np.exp(rng.uniform(-1, 0, shape))
        end = solve_ivp(factor_velocity(A, y, depth, signed), (0, 3e3), init.ravel(), "LSODA",
                        rtol=1e-11, atol=1e-13).y[:, -1].reshape(shape)  # fmt: skip
        x = end[0] ** depth - end[1] ** depth if signed else end**depth
        assert np.abs(A @ x - y).max() < 1e-8
        nearest = bg.minimizer(A, y, init**depth, depth, signed)
        size = max(1, np.abs(nearest).max())
        evidence.agree(x / size, nearest / size, rtol=1e-7, atol=1e-8)
        run = sr.hadamard_flow(A, y, depth, init, signed, residual=1e-11)
        assert_allclose(run.limit, nearest, atol=1e-8 * max(1, np.abs(nearest).max()))


@given(seeds, depths, st.booleans(), st.floats(-2, 0.5))
@settings(max_examples=40, deadline=None)
def test_the_flow_ends_at_the_minimiser_at_every_scale(seed, depth, signed, digits):
    A, y, rng = problem(seed, signed, 4, 12)
    init = 10**digits * np.exp(rng.uniform(-0.5, 0.5, (2, 12) if signed else 12))
    run = sr.hadamard_flow(A, y, depth, init, signed, residual=1e-11)
    assert run.reached
    assert (run.factors > 0).all()
    nearest = bg.minimizer(A, y, init**depth, depth, signed)
    assert_allclose(run.limit, nearest, atol=1e-8 * max(1, np.abs(nearest).max()))
    assert (np.diff(run.losses) <= 1e-5 * run.losses[0]).all()


@pytest.mark.ledger("thm-sparse-recovery-limit")
@given(seeds, depths, st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_loss_is_below_the_divergence_over_time(seed, depth, signed):
    A, y, _ = problem(seed, signed)
    run = sr.hadamard_flow(A, y, depth, 0.3, signed, rtol=1e-7)
    B = np.hstack([A, -A]) if signed else A
    nearest = run.factors[-1].ravel() ** depth
    distance = bg.divergence(nearest, np.full(B.shape[1], 0.3**depth), depth)
    evidence.at_most(run.losses * 2 * run.times, distance, slack=1e-6)


@given(seeds, depths)
@settings(max_examples=25, deadline=None)
def test_what_the_two_factors_conserve(seed, depth):
    A, y, _ = problem(seed)
    run = sr.hadamard_flow(A, y, depth, 0.2)
    u, v = run.factors[:, 0], run.factors[:, 1]
    kept = u * v if depth == 2 else u ** (2.0 - depth) + v ** (2.0 - depth)
    # far from the start one of the powers is tiny beside the other
    assert_allclose(kept, np.broadcast_to(kept[0], kept.shape), rtol=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_thirty_by_one_hundred_takes_few_steps(depth):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((30, 100)) / np.sqrt(30)
    z = np.zeros(100)
    z[:5] = [1, -2, 0.5, 1.5, -1]
    for scale in (1.0, 0.1, 0.01):
        run = sr.hadamard_flow(A, A @ z, depth, scale)
        assert run.reached
        assert run.residual <= 1e-10
        assert run.steps < 1200  # each about 0.3 milliseconds


def test_it_says_when_it_gives_up():
    A, y, _ = problem(0)
    with pytest.warns(bg.AccuracyWarning, match="gave up after 7 steps"):
        run = sr.hadamard_flow(A, y, 3, 0.1, max_steps=7)
    assert not run.reached
    assert run.residual > 1e-10
    assert isinstance(run.stopped_by, MaxSteps)


def test_integration_error_moves_the_clock_and_not_the_limit():
    A, y, _ = problem(3)
    rough = sr.hadamard_flow(A, y, 3, 0.1, rtol=0.1, residual=1e-12)
    fine = sr.hadamard_flow(A, y, 3, 0.1, rtol=1e-9, residual=1e-12)
    assert rough.steps < fine.steps / 4
    assert_allclose(rough.limit, fine.limit, atol=1e-10)


# --- descent ------------------------------------------------------------------------------------


@pytest.mark.ledger("thm-sparse-recovery-descent")
@given(seeds, depths, st.booleans(), st.floats(0.05, 0.9))
@settings(max_examples=40, deadline=None)
def test_descent_ends_nearest_to_its_effective_start(seed, depth, signed, fraction):
    A, y, _ = problem(seed, signed)
    nearest = bg.minimizer(A, y, 0.3**depth, depth, signed)
    eta = fraction * sr.stability_limit(A, np.abs(nearest) ** (1 / depth), depth)
    run = sr.hadamard_descent(A, y, depth, 0.3, eta, signed, steps=2000, residual=1e-12)
    if run.effective_start is None or not run.reached:
        return  # a factor crossed zero, or the tail is slow: the claim is about the others
    evidence.at_most(run.effective_start, 0.3, slack=1e-12)
    nearest = bg.minimizer(A, y, run.effective_start**depth, depth, signed)
    size = max(1, np.abs(nearest).max())
    evidence.agree(run.limit / size, nearest / size, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("signed", [False, True])
def test_the_effective_start_is_not_vacuous(depth, signed):
    # Many runs do converge with all factors positive, and the effective start then matters.
    usable = 0
    for seed in range(20):
        A, y, _ = problem(seed, signed)
        nearest = bg.minimizer(A, y, 0.3**depth, depth, signed)
        eta = 0.5 * sr.stability_limit(A, np.abs(nearest) ** (1 / depth), depth)
        run = sr.hadamard_descent(A, y, depth, 0.3, eta, signed, steps=2000, residual=1e-12)
        usable += run.effective_start is not None and run.reached
        if usable == 5:
            return
    pytest.fail(f"only {usable} runs of 20 converge with all factors positive")


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_descent_tends_to_the_flow_at_first_order(depth):
    A, y, _ = problem(5)
    limit = bg.minimizer(A, y, 0.5**depth, depth, signed=True)
    gaps = []
    for eta in (0.02, 0.01, 0.005):
        run = sr.hadamard_descent(A, y, depth, 0.5, eta, residual=1e-9)
        gaps.append(np.abs(run.limit - limit).max())
    assert_allclose(np.array(gaps[:-1]) / gaps[1:], 2, rtol=0.1)


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("signed", [False, True])
def test_descent_leaves_solutions_above_the_limit_and_stays_below(depth, signed):
    A, y, rng = problem(2, signed)
    flow = sr.hadamard_flow(A, y, depth, 0.3, signed, residual=1e-14)
    limit = sr.stability_limit(A, flow.factors[-1], depth)
    near = flow.factors[-1] * (1 + 1e-7 * rng.standard_normal(flow.factors[-1].shape))
    for fraction, settles in ((0.98, True), (1.02, False)):
        run = sr.hadamard_descent(
            A, y, depth, near, fraction * limit, signed, steps=300, residual=0, record=1
        )
        assert (run.losses[-1] < 1e-2 * run.losses[0]) == settles


def test_the_second_derivative_of_all_factors():
    # By finite differences of the gradient of N = 3 separate factors.
    A, y, _rng = problem(4, signed=False)
    w = bg.minimizer(A, y, 0.2, 3) ** (1 / 3)

    def gradients(flat):
        factors = flat.reshape(3, -1)
        g = A.T @ (A @ factors.prod(axis=0) - y)
        return np.concatenate([np.delete(factors, j, 0).prod(axis=0) * g for j in range(3)])

    flat, h = np.tile(w, 3), 1e-6
    hessian = np.array([
        (gradients(flat + h * e) - gradients(flat - h * e)) / (2 * h) for e in np.eye(24)
    ])  # fmt: skip
    assert_allclose(2 / sr.stability_limit(A, w, 3), np.linalg.eigvalsh(hessian)[-1], rtol=1e-7)


def test_divergence_is_reported_with_its_step():
    A, y, _ = problem(0)
    with pytest.warns(DivergenceWarning):
        run = sr.hadamard_descent(A, y, 3, 1.0, 50.0, record=1)
    assert isinstance(run.stopped_by, Diverged)
    assert np.isfinite(run.losses).all()
    assert run.times[-1] == run.stopped_by.step - 1
    assert not run.reached


# --- l1 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nonnegative", [False, True])
def test_basis_pursuit_agrees_with_a_conic_solver(nonnegative):
    import cvxpy as cp

    for seed in range(8):
        A, y, rng = problem(seed, not nonnegative, 4, 10)
        weights = np.exp(rng.uniform(-1, 1, 10)) if seed % 2 else np.ones(10)
        z = cp.Variable(10, nonneg=nonnegative)
        cp.Problem(cp.Minimize(cp.norm1(cp.multiply(weights, z))), [A @ z == y]).solve(
            solver=cp.CLARABEL
        )
        ours = sr.basis_pursuit(A, y, nonnegative, weights)
        assert_allclose(A @ ours, y, atol=1e-9)
        assert_allclose((weights * abs(ours)).sum(), (weights * abs(z.value)).sum(), rtol=1e-6)
        assert not nonnegative or (ours >= 0).all()


def test_basis_pursuit_weighs_signs_apart():
    weights = np.array([[1.0, 1.0], [9.0, 0.1]])
    assert_allclose(sr.basis_pursuit([[1.0, -1.0]], [1.0], weights=weights), [0, -1], atol=1e-12)


def instance(seed):
    """A random problem, a random start, and its limit with the norms of the l1 theorem."""
    rng = np.random.default_rng(seed)
    depth, signed = int(rng.choice([2, 3, 4, 5])), bool(rng.integers(2))
    m = int(rng.integers(1, 5))
    n = m + int(rng.integers(1, 12))
    A = rng.standard_normal((m, n))
    if rng.random() < 0.3:  # nearly equal columns are the hardest
        A = np.outer(A[:, 0], np.ones(n)) + 10 ** rng.uniform(-4, 0) * A
    z = rng.exponential(size=n) * (rng.random(n) < 0.5)
    z[0] = 1.0
    z = z * rng.choice([-1, 1], n) if signed else z
    init = 10 ** rng.uniform(-3, 0) * np.ones((2, n) if signed else n)
    if rng.random() < 0.5:
        init = init * np.exp(rng.uniform(-0.5, 0.5, init.shape))
    beta1, beta_min, weights = sr.start_sizes(init, depth)
    best = sr.basis_pursuit(A, A @ z, not signed, weights)
    limit = bg.minimizer(A, A @ z, init**depth, depth, signed)
    if signed:
        best, limit = (np.stack([np.maximum(v, 0), np.maximum(-v, 0)]) for v in (best, limit))
    return depth, beta1, beta_min, (weights * best).sum(), (weights * limit).sum()


@pytest.mark.ledger("thm-sparse-recovery-l1", "cor-sparse-recovery-published")
def test_the_l1_theorem_on_random_instances():
    held = dict.fromkeys(("published", "restricted", "sharp"), 0)
    for seed in range(500):
        depth, beta1, beta_min, Q, R = instance(seed)
        for form in held:
            factor = (depth / 2) ** (depth / (depth - 2)) if depth > 2 else 1
            if 1.0001 * (factor if form == "restricted" else 1) * beta1 < Q:
                epsilon = sr.l1_excess_bound(Q, beta1, beta_min, depth, form)
                evidence.at_most(R / Q - 1, epsilon + 1e-9 * (1 + epsilon))
                held[form] += 1
        # the self-bounding form, which the sharp one follows from
        p = 1 - 2 / depth
        if 1.0001 * beta1 < R:
            spread = np.log(beta1 / beta_min) if depth == 2 else beta1**p - beta_min**p
            room = np.log(R / beta1) if depth == 2 else R**p - beta1**p
            evidence.at_most((R / Q - 1) * room, spread + 1e-8 * room, slack=1e-7)
    assert min(held.values()) >= 300


@pytest.mark.ledger("cor-sparse-recovery-published")
@given(st.integers(2, 9), st.floats(0.01, 10), st.floats(1e-6, 0.999), st.floats(1.001, 1e6))
def test_order_of_the_three_forms(depth, beta1, fraction, ratio):
    beta_min, Q = fraction * beta1, ratio * beta1
    sharp = sr.l1_excess_bound(Q, beta1, beta_min, depth, "sharp")
    published = sr.l1_excess_bound(Q, beta1, beta_min, depth)
    evidence.at_most(sharp, published, slack=1e-12)
    evidence.agree(published, depth / 2 * sharp, rtol=1e-12)
    edge = (depth / 2) ** (depth / (depth - 2)) if depth > 2 else 1
    if edge * beta1 < Q:
        restricted = sr.l1_excess_bound(Q, beta1, beta_min, depth, "restricted")
        evidence.at_most(published, restricted, slack=1e-9)
    else:
        with pytest.raises(ValueError, match="optimum"):
            sr.l1_excess_bound(Q, beta1, beta_min, depth, "restricted")


@pytest.mark.parametrize("nonnegative", [False, True])
def test_the_margin_tells_whether_the_solution_is_best_and_by_how_much(nonnegative):
    # sum |x| - sum |z| >= delta sum_{off} |x|, for every solution x; and some x need not do more
    seen = []
    for seed in range(30):
        A, y, rng = problem(seed, not nonnegative, 3, 6)
        z = sr.basis_pursuit(A, y, nonnegative)
        delta = sr.certificate_margin(A, z, nonnegative)
        kernel = np.linalg.svd(A)[2][3:]
        ratios = []
        for _ in range(300):
            x = z + 1e-4 * rng.standard_normal(3) @ kernel
            off = np.abs(z) <= 1e-9
            if nonnegative and (x < 0).any():
                continue
            ratios.append((np.abs(x).sum() - np.abs(z).sum()) / np.abs(x[off]).sum())
        assert not ratios or min(ratios) >= delta - 1e-7
        seen.append(delta)
    assert min(seen) > 0
    assert sr.certificate_margin([[1.0, 1.0]], [1.0, 0.0]) == pytest.approx(0)
    assert sr.certificate_margin([[1.0, 0.7]], [1.0, 0.0]) == pytest.approx(0.3)
    assert sr.certificate_margin([[1.0, 1.0]], [1.0, -1.0]) == np.inf
    assert sr.certificate_margin([[1.0, 1.0, 1.0]], [1.0, -1.0, 0.0]) == -np.inf


@pytest.mark.ledger("thm-sparse-recovery-fixed")
def test_slopes_of_the_excess():
    # alpha^N for N > 2, alpha^(2 delta) for N = 2, where the solution of least norm is unique.
    rng = np.random.default_rng(3)
    A, z = rng.standard_normal((6, 12)), np.zeros(12)
    z[[1, 5]] = 1.0, 0.5
    assert_allclose(sr.basis_pursuit(A, A @ z, True), z, atol=1e-9)
    delta = sr.certificate_margin(A, z, True)
    for depth, slope in ((2, 2 * delta), (3, 3), (4, 4)):
        scales = np.array([1e-3, 3e-4] if depth > 2 else [1e-20, 1e-22])
        excess = [bg.minimizer(A, A @ z, a**depth, depth)[z == 0].sum() for a in scales]
        measured = np.diff(np.log(excess)) / np.diff(np.log(scales))
        evidence.agree(measured, slope, rtol=0.02)


@pytest.mark.ledger("thm-sparse-recovery-fixed")
@pytest.mark.parametrize("seed", range(20))
def test_the_excess_over_its_power_of_the_scale_stays_bounded(seed):
    A, y, _ = problem(seed, signed=False, m=4, n=9)
    z = sr.basis_pursuit(A, y, True)
    delta = sr.certificate_margin(A, z, True)
    assert 0 < delta < np.inf
    for depth, power in ((2, 2 * delta), (3, 3), (4, 4)):
        # far enough down that the other entries no longer compete with those of z
        scales = np.array([1e-4, 1e-5, 1e-6]) if depth > 2 else 10.0 ** (-4 / delta - np.arange(3))
        if scales.min() < 1e-60:
            continue
        off = [bg.minimizer(A, y, a**depth, depth)[z < 1e-9].sum() for a in scales]
        quotients = off / scales**power
        evidence.at_most(quotients[1:], 1.2 * quotients[0])


@pytest.mark.ledger("thm-sparse-recovery-regimes")
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("seed", range(12))
def test_the_two_regimes(seed, depth):
    A, y, _ = problem(seed)
    nearest = np.linalg.pinv(A) @ y
    gaps = [
        np.abs(bg.minimizer(A, y, start, depth, signed=True) - nearest).max()
        for start in (20.0, 60.0, 180.0)  # alpha to the power N
    ]
    evidence.at_most(gaps[1:], np.array(gaps[:-1]) / 5)  # of second order in the inverse
    least = np.abs(sr.basis_pursuit(A, y)).sum()
    start = 1e-60 if depth == 2 else 1e-4 ** (depth / (depth - 2))
    norm = np.abs(bg.minimizer(A, y, start, depth, signed=True)).sum()
    evidence.agree(norm, least, rtol=1e-2)


@pytest.mark.ledger("thm-sparse-recovery-sharp")
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_sharp_form_is_nearly_attained(depth):
    scale, ratios = {2: 1e-60, 3: 1e-5, 5: 1e-3}[depth], []
    for n in (2, 10, 1000):
        measured, leading = sr.crowded_excess(n, scale, depth)
        evidence.agree(measured, leading, rtol=0.05)
        bound = sr.l1_excess_bound(1, n * scale**depth, scale**depth, depth, "sharp")
        evidence.at_most(measured, bound)
        ratios.append(measured / bound)
    assert ratios[0] > 0.39
    assert (np.diff(ratios) > 0).all()


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_no_other_gap_has_a_larger_excess(depth):
    scale, n = (1e-60, 1e-5)[depth > 2], 7
    measured, _ = sr.crowded_excess(n, scale, depth)
    unit = 1 / np.log(scale**-2) if depth == 2 else scale ** (depth - 2)
    for delta in unit * np.geomspace(0.05, 50, 40):
        if delta < 1:
            x = bg.minimizer([[1, *np.full(n - 1, 1 - delta)]], [1], scale**depth, depth)
            assert delta * x[1:].sum() <= measured * 1.02


@pytest.mark.ledger("thm-sparse-recovery-time")
@given(seeds, depths, st.booleans(), st.floats(0.02, 0.3))
@settings(max_examples=30, deadline=None)
def test_times_lie_within_their_bounds(seed, depth, signed, scale):
    A, y, _ = problem(seed, signed)
    run = sr.hadamard_flow(A, y, depth, scale, signed, rtol=1e-7)
    residual, entry = 1e-2 * np.linalg.norm(y), 2 * scale
    before, after = sr.time_bounds(A, y, depth, scale, run.limit, entry, residual, signed)
    largest = run.factors.reshape(len(run.times), -1).max(axis=1)
    evidence.at_most(largest[run.times < before], entry, slack=1e-5)
    evidence.at_most(np.sqrt(2 * run.losses[run.times >= after]), residual, slack=1e-5)


def test_bounds_are_the_printed_formulas():
    Q, large, small = 3.0, 0.2, 0.01
    assert_allclose(sr.l1_excess_bound(Q, large, small, 2), np.log(20) / np.log(15))
    p = 1 - 2 / 5
    gap = large**p - small**p
    assert_allclose(sr.l1_excess_bound(Q, large, small, 5), 2.5 * gap / (Q**p - large**p))
    expected = 5 * gap / (2 * Q**p - 5 * large**p)
    assert_allclose(sr.l1_excess_bound(Q, large, small, 5, "restricted"), expected)


def test_the_constants_of_the_talk_are_wrong():
    # With beta_1 = alpha sqrt(n), beta_min = alpha, as printed, the "bound" is not one.
    for seed in range(100):
        rng = np.random.default_rng(seed)
        depth, n, scale = 2, 40, 0.02
        A = rng.standard_normal((10, n))
        z = np.zeros(n)
        z[:2] = rng.uniform(0.5, 1.5, 2)
        limit = bg.minimizer(A, A @ z, scale**depth, depth)
        Q = sr.basis_pursuit(A, A @ z, nonnegative=True).sum()
        bound = sr.l1_excess_bound(Q, scale * np.sqrt(depth), scale, depth)
        if limit.sum() > (1 + bound) * Q:
            return
    pytest.fail("no instance exceeds the printed bound")


BAD = [
    (sr.hadamard_flow, {"A": [1.0]}, "A"),
    (sr.hadamard_flow, {"y": [1.0, 2.0]}, "y"),
    (sr.hadamard_flow, {"y": [-1.0], "signed": False}, "y"),
    (sr.hadamard_flow, {"depth": 1}, "depth"),
    (sr.hadamard_flow, {"init": 0.0}, "init"),
    (sr.hadamard_flow, {"init": 1e-200}, "init"),
    (sr.hadamard_flow, {"init": [1.0, 1.0, 1.0]}, "init"),
    (sr.hadamard_flow, {"signed": 1}, "signed"),
    (sr.hadamard_flow, {"residual": -1.0}, "residual"),
    (sr.hadamard_flow, {"t_final": 0.0}, "t_final"),
    (sr.hadamard_flow, {"times": [2.0, 1.0]}, "times"),
    (sr.hadamard_flow, {"rtol": 0.0}, "rtol"),
    (sr.hadamard_flow, {"max_steps": 0}, "max_steps"),
    (sr.hadamard_descent, {"step_size": 0.0}, "step_size"),
    (sr.hadamard_descent, {"step_size": 0.1, "steps": 0}, "steps"),
    (sr.hadamard_descent, {"step_size": 0.1, "record": 0}, "record"),
    (sr.hadamard_descent, {"step_size": 0.1, "residual": np.nan}, "residual"),
    (sr.hadamard_descent, {"step_size": 0.1, "y": [-1.0], "signed": False}, "y"),
]


@pytest.mark.parametrize(("function", "arguments", "name"), BAD)
def test_bad_input_is_named(function, arguments, name):
    good = {"A": [[1.0, 1.5]], "y": [1.0], "depth": 2, "init": 0.1}
    with pytest.raises(ValueError, match=rf"^{name}[ =].*must be"):
        function(**good | arguments)


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (sr.basis_pursuit, ([[1.0, 1.0]], [-1.0], True), "y"),
        (sr.basis_pursuit, ([[1.0], [0.0]], [0.0, 1.0]), "y"),
        (sr.basis_pursuit, ([[1.0, 1.0]], [1.0], False, [1.0, 0.0]), "weights"),
        (sr.stability_limit, ([1.0], [1.0], 2), "A"),
        (sr.stability_limit, ([[1.0, 1.0]], [1.0], 2), "factors"),
        (sr.stability_limit, ([[1.0]], [1.0], 0), "depth"),
        (sr.certificate_margin, ([1.0], [1.0]), "A"),
        (sr.certificate_margin, ([[1.0, 1.0]], [1.0]), "z"),
        (sr.crowded_excess, (1, 0.1, 2), "n"),
        (sr.crowded_excess, (9, 1.0, 2), "scale"),
        (sr.crowded_excess, (1000, 0.9, 3), "scale"),
        (sr.crowded_excess, (9, 0.1, 1), "depth"),
        (sr.time_bounds, ([[1.0, 1.0]], [1.0], 2, 0.1, [1.0, 1.0], 0.2, 0.1), "solution"),
        (sr.time_bounds, ([[1.0, 1.0]], [1.0], 2, 0.1, [2.0, -1.0], 0.2, 0.1, False), "solution"),
        (sr.time_bounds, ([[1.0, 1.0]], [1.0], 2, 0.1, [1.0, 0.0], 0.1, 0.1), "entry"),
        (sr.time_bounds, ([[1.0, 1.0]], [1.0], 2, 0.1, [1.0, 0.0], 0.2, 0.0), "residual"),
        (sr.time_bounds, ([[1.0, 1.0]], [1.0], 2, 0.0, [1.0, 0.0], 0.2, 0.1), "scale"),
        (sr.time_bounds, ([[1.0, 1.0]], [1.0], 0, 0.1, [1.0, 0.0], 0.2, 0.1), "depth"),
        (sr.start_sizes, ([0.0, 1.0], 2), "init"),
        (sr.start_sizes, ([1.0], 1), "depth"),
        (sr.l1_excess_bound, (1.0, 1.0, 0.1, 2), "optimum"),
        (sr.l1_excess_bound, (2.0, 1.0, 0.1, 4, "restricted"), "optimum"),
        (sr.l1_excess_bound, (2.0, 1.0, 1.1, 4), "beta_min"),
        (sr.l1_excess_bound, (2.0, 1.0, 0.0, 4), "beta_min"),
        (sr.l1_excess_bound, (2.0, 1.0, 0.5, 1), "depth"),
        (sr.l1_excess_bound, (2.0, 1.0, 0.5, 3, "best"), "form"),
        (sr.l1_excess_bound, ([2.0, 3.0], [1.0] * 3, 0.5, 3), "optimum"),
    ],
)
def test_bad_input_of_the_rest(function, arguments, name):
    with pytest.raises(ValueError, match=rf"^{name}[ =].*must be"):
        function(*arguments)
