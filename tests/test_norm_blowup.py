"""Bounds against minimisation, the flow against other coordinates, orders and precisions."""

import math
import warnings
from decimal import Decimal, localcontext

import evidence
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp
from scipy.optimize import minimize
from test_bad_input import cases

from dmflib import norm_blowup as nb
from dmflib.descent import gradient_descent
from dmflib.flow import InvariantWarning, gradient_flow, product_flow
from dmflib.linear_networks import balanced, identical, product_velocity, tilted
from dmflib.losses import Sensing
from dmflib.matrices import distance_to_rank, nuclear_norm, schatten_norm
from dmflib.stopping import Diverged, DivergenceWarning, LossBelow, MaxSteps, TimeReached

I2, J = np.eye(2), np.diag([1.0, -1.0])
seeds = st.integers(0, 2**32 - 1)


def signed_matrices(seed, count, sign=1, near=None):
    """Random 2x2 matrices whose determinant has a sign, near a solution for small distances."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((count, 2, 2)) * 10 ** rng.uniform(-3, 0.5, (count, 1, 1))
    if near is not None:
        W += nb.solution(10 ** rng.uniform(-2, 4, count) * rng.choice([-1, 1], count), near)
    return W[np.sign(W[:, 0, 0] * W[:, 1, 1] - W[:, 0, 1] * W[:, 1, 0]) == sign]


def losses_of(W, observed=(1.0, 1.0, 0.0)):
    z, z2, eps = observed
    return ((W[:, 0, 1] - z) ** 2 + (W[:, 1, 0] - z2) ** 2 + (W[:, 1, 1] - eps) ** 2) / 2


# --- the problem --------------------------------------------------------------------------------


def test_the_loss_sees_three_entries():
    loss = nb.counterexample()
    assert loss.value([[1e9, 1.0], [1.0, 0.0]]) == 0
    assert loss.value([[0.0, 3.0], [0.0, 1.0]]) == (4 + 1 + 1) / 2
    assert_allclose(loss.gradient([[7.0, 3.0], [0.0, 1.0]]), [[0, 2], [-1, 1]])


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_the_hidden_entry_may_stand_anywhere(place):
    # Exchanging rows or columns moves the hidden entry and everything else with it.
    W = np.array([[0.3, -1.1], [2.0, 0.7]])
    moved = W[::-1] if place[0] else W
    moved = moved[:, ::-1] if place[1] else moved
    observed = (0.4, -2.0, 0.1)
    value = nb.counterexample(observed=observed).value(W)
    assert nb.counterexample(place, observed).value(moved) == pytest.approx(value, rel=1e-14)


def test_solutions_have_loss_zero_and_the_determinant_of_the_other_sign():
    W = nb.solution([-3.0, 0.0, 1e6], (2.0, 0.5, 0.0))
    assert W.shape == (3, 2, 2)
    assert (losses_of(W, (2.0, 0.5, 0.0)) == 0).all()
    assert_allclose(np.linalg.det(W), -1.0)


@pytest.mark.ledger("prop-norm-blowup-bounded")
@given(st.floats(0.2, 4), seeds, st.floats(0, 3))
def test_norms_keep_the_minimiser_bounded(p, seed, delta):
    # |x| n11 <= c (||W_x|| + ||W_0||), so what is nearly as good as the best is bounded
    weights = np.random.default_rng(seed).uniform(0.1, 10, (2, 2))
    constant = max(1.0, 2 ** (1 / p - 1))
    x = np.linspace(-1, 1, 2001)[1:-1]
    norms = ((weights * np.abs(nb.solution(np.tan(np.pi / 2 * x)))) ** p).sum((1, 2)) ** (1 / p)
    origin = norms[len(x) // 2]
    good = np.abs(np.tan(np.pi / 2 * x[norms <= norms.min() + delta]))
    evidence.at_most(good, constant * (2 * origin + delta) / weights[0, 0], slack=1e-12)


# --- lower bounds -------------------------------------------------------------------------------


@pytest.mark.ledger("thm-norm-blowup-entry")
@pytest.mark.parametrize("rho", [0.01, 0.1, 0.5, 0.8, 0.86, 0.87, 0.9, 0.99])
def test_entry_bound_is_the_least_value(rho):
    # minimise (1-x)(1-y)/w over the sphere by another method, from many starts
    def ratio(angles):
        w, x, y = rho * np.array(
            [
                np.cos(angles[0]),
                np.sin(angles[0]) * np.cos(angles[1]),
                np.sin(angles[0]) * np.sin(angles[1]),
            ]
        )
        return (1 - x) * (1 - y) / w if w > 1e-9 else 1e9

    rng = np.random.default_rng(0)
    starts = rng.uniform(0.0, np.pi / 2, (12, 2)) * [0.99, 1]
    options = {"xatol": 1e-9, "fatol": 1e-14, "maxiter": 4000}
    found = min(minimize(ratio, s, method="Nelder-Mead", options=options).fun for s in starts)
    evidence.agree(nb.entry_lower_bound(rho**2 / 2), found, rtol=1e-7)


@pytest.mark.ledger("thm-norm-blowup-entry")
@settings(max_examples=20)
@given(seeds)
def test_entry_bound_on_random_matrices(seed):
    W = signed_matrices(seed, 2000, near=(1.0, 1.0, 0.0))
    loss = losses_of(W)
    evidence.at_most(nb.entry_lower_bound(loss), np.abs(W[:, 0, 0]), slack=1e-9)


def test_entry_bound_is_attained_in_the_limit_and_not_for_the_other_sign():
    r = 0.05
    rho = math.sqrt(r + r * r)
    corner = (1 - r) ** 1.5 / math.sqrt(r)
    W = np.array([[[corner * (1 + 1e-9), 1 - r], [1 - r, math.sqrt(r * (1 - r))]]])
    assert np.linalg.det(W[0]) > 0
    assert losses_of(W)[0] == pytest.approx(rho**2 / 2, rel=1e-12)
    assert corner == pytest.approx(nb.entry_lower_bound(rho**2 / 2), rel=1e-12)
    assert nb.entry_lower_bound(losses_of(nb.solution([0.0]))[0]) == np.inf


@pytest.mark.ledger("thm-norm-blowup-entry")
def test_simple_bound_and_the_bound_of_the_source_lie_below():
    rho = np.linspace(1e-4, 1, 5001)
    best = nb.entry_lower_bound(rho**2 / 2)
    assert (best >= (1 / rho - rho) - 1e-12).all()
    evidence.at_most((1 / rho - rho)[:-1], best[:-1], slack=1e-12)
    assert (1 / rho - rho >= (1 - rho) ** 2 / rho - 1e-12).all()
    assert (np.diff(best) < 0).all()  # so that a bound of the loss gives a bound of the entry
    assert_allclose(nb.entry_lower_bound([0.5, 0.7, 100.0]), 0, atol=1e-7)
    # the two branches meet at rho^2 = 3/4
    assert_allclose(nb.entry_lower_bound([0.375 - 1e-12, 0.375 + 1e-12]), 0.5, rtol=1e-9)


@pytest.mark.ledger("thm-norm-blowup-general")
@settings(max_examples=30)
@given(seeds, st.sampled_from([1, -1]), st.sampled_from([1, -1]), st.sampled_from([0, 1, -1]))
def test_entry_bound_for_other_observations(seed, s1, s2, s3):
    rng = np.random.default_rng(seed)
    observed = 10 ** rng.uniform(-1, 1, 3) * [s1, s2, s3 * 0.3]
    W = signed_matrices(seed, 1500, sign=s1 * s2, near=observed)
    bound = nb.entry_lower_bound(losses_of(W, observed), observed)
    evidence.at_most(bound, np.abs(W[:, 0, 0]), slack=1e-9)
    # the published form: min(|z|, |z'|) over |eps| + sqrt(2 loss), up to a constant
    assert nb.entry_lower_bound(0.0, observed) == pytest.approx(
        abs(observed[0] * observed[1] / observed[2]) if s3 else np.inf, rel=1e-12
    )


def test_scaling_the_problem_scales_the_bound():
    loss = np.geomspace(1e-8, 0.4, 30)
    bound = nb.entry_lower_bound(loss)
    assert_allclose(nb.entry_lower_bound(9 * loss, (3.0, -3.0, 0.0)), 3 * bound, rtol=1e-12)
    assert nb.entry_lower_bound(1.0, (0.0, 1.0, 0.3)) == 0


def entrywise(weights, p):
    return lambda W: ((weights * np.abs(W)) ** p).sum() ** (1 / p)


@pytest.mark.ledger("thm-norm-blowup-norms")
@settings(max_examples=30)
@given(seeds, st.floats(0.3, 3))
def test_norm_bounds_for_norms_and_quasi_norms(seed, p):
    rng = np.random.default_rng(seed)
    c = max(1.0, 2 ** (1 / p - 1))
    basis = rng.standard_normal((4, 4))
    norms = [
        (entrywise(rng.uniform(0.1, 10, (2, 2)), p), c),
        (lambda W: schatten_norm(W, p), c),
        (lambda W: np.abs(basis @ np.ravel(W)).max(), 1.0),
    ]
    W = signed_matrices(seed, 300, near=(1.0, 1.0, 0.0))
    loss = losses_of(W)
    for norm, constant in norms:
        values = np.array([norm(M) for M in W])
        a, b = nb.norm_constants(norm, constant)
        evidence.at_most(a / np.sqrt(loss) - b, values, slack=1e-9)
        evidence.at_most(nb.norm_lower_bound(loss, norm, constant=constant), values, slack=1e-9)
    best = nb.norm_lower_bound(loss, p)
    evidence.at_most(best, schatten_norm(W, p), slack=1e-9)
    assert (best >= nb.norm_lower_bound(loss, norms[1][0], constant=c) - 1e-9 * best).all()


@pytest.mark.ledger("thm-norm-blowup-general")
@settings(max_examples=30)
@given(seeds)
def test_norm_bounds_for_other_observations(seed):
    rng = np.random.default_rng(seed)
    observed = rng.uniform(0.3, 3, 3) * rng.choice([-1, 1], 3) * [1, 1, 0.1]
    sign = np.sign(observed[0] * observed[1])
    W = signed_matrices(seed, 300, sign, observed)
    norm = entrywise(rng.uniform(0.1, 10, (2, 2)), 0.5)
    bound = nb.norm_lower_bound(losses_of(W, observed), norm, observed, constant=2.0)
    evidence.at_most(bound, [norm(M) for M in W], slack=1e-9)


def test_the_printed_matrix_units_give_another_number():
    W = np.array([[7.0, 1.0], [1.0, 0.0]])
    E = np.eye(4).reshape(2, 2, 2, 2)
    rest = W - W[0, 0] * E[0, 0]
    printed = W[0, 1] * E[0, 0] + W[1, 0] * E[1, 0] + W[1, 1] * E[1, 0]
    assert nuclear_norm(rest) == pytest.approx(2)
    assert nuclear_norm(printed) == pytest.approx(math.sqrt(2))


# --- the sign of the determinant ----------------------------------------------------------------


@pytest.mark.ledger("lem-norm-blowup-sign")
@given(seeds, st.integers(2, 5), st.integers(2, 4))
def test_logarithm_of_the_determinant_moves_at_a_bounded_speed(seed, depth, n):
    rng = np.random.default_rng(seed)
    W, G = rng.standard_normal((2, n, n))
    U, s, Vt = np.linalg.svd(W)
    if s[-1] < 1e-2:
        return
    velocity = product_velocity(W, G, depth)
    measured = np.trace(np.linalg.solve(W, velocity))  # d/dt ln|det W|
    expected = -depth * np.vdot(G, U * s ** (1 - 2 / depth) @ Vt)
    evidence.agree(measured, expected, rtol=1e-8, atol=1e-8)
    bound = depth * np.linalg.norm(G) * math.sqrt(n) * s[0] ** (1 - 2 / depth)
    evidence.at_most(abs(expected), bound, slack=1e-12)


@pytest.mark.parametrize("depth", [3, 4, 6])
def test_exponent_of_one_singular_value(depth):
    def pull(t):
        return math.sin(3 * t) - 0.8

    s0, kappa, t = 0.4, 1 - 2 / depth, 0.9
    solved = solve_ivp(
        lambda t, s: pull(t) * s ** (2 - 2 / depth), (0, t), [s0], rtol=1e-11, atol=1e-13
    ).y[0, -1]
    integral = (1 - math.cos(3 * t)) / 3 - 0.8 * t
    right = (s0**-kappa - kappa * integral) ** (-1 / kappa)
    printed = 2 * (2 - 2 / depth)  # 2 alpha with the report's alpha
    wrong = (s0 ** (1 - printed) + (1 - printed) * integral) ** (1 / (1 - printed))
    assert right == pytest.approx(solved, rel=1e-8)
    assert abs(wrong / solved - 1) > 0.02


# --- the flow -----------------------------------------------------------------------------------

STARTS = [
    I2, -I2, J, -J, [[1.0, 0.3], [-0.5, 0.2]], [[-0.3, 1.0], [-0.2, 0.1]],
    [[0.2, 0.9], [0.4, 0.1]], [[0.0, -1.0], [1.0, 0.0]],
]  # fmt: skip


@pytest.mark.ledger("lem-norm-blowup-sign")
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("start", STARTS)
def test_flow_agrees_with_the_product_flow(depth, start):
    times = [0.5, 2.0, 12.0]
    ours = nb.flow(depth, 0.4, start=start, t_final=12, record=times, rtol=1e-10)
    other = product_flow(
        nb.counterexample(), 0.4 * np.array(start), depth, 12.0,
        method="DOP853", rtol=1e-11, atol=1e-13, record=times,
    )  # fmt: skip
    assert_allclose(ours.times, other.times)
    assert_allclose(ours.products, other.products, atol=3e-8)
    assert_allclose(ours.losses, other.losses, atol=3e-8)
    logs = np.linalg.slogdet(other.products)
    evidence.holds(logs[0] == np.sign(np.linalg.det(start)))
    assert (logs[0] == ours.sign).all()
    assert_allclose(ours.log_determinants, logs[1], rtol=3e-6, atol=1e-6)


def taylor_step(factors, h, order):
    """One step of the factor flow by its Taylor series, in the arithmetic of the entries."""
    zero = 0 * factors[0]
    W = [[F] for F in factors]
    target = np.array([[0, 1], [1, 0]]) + zero
    seen = np.array([[0, 1], [1, 1]])

    def coefficient(first, second, k):
        return sum((first[i] @ second[k - i] for i in range(k + 1)), zero)

    below = [[] for _ in factors]  # W_i ... W_1
    outer = [[] for _ in factors]  # (W_N ... W_{i+1})^T G
    for k in range(order):
        below[0].append(W[0][k])
        for i in range(1, len(W)):
            below[i].append(coefficient(W[i], below[i - 1], k))
        outer[-1].append(seen * (below[-1][k] - target if k == 0 else below[-1][k]))
        for i in range(len(W) - 1, 0, -1):
            transposed = [F.T for F in W[i]]
            outer[i - 1].append(coefficient(transposed, outer[i], k))
        W[0].append(-outer[0][k] / (k + 1))
        for i in range(1, len(W)):
            transposed = [F.T for F in below[i - 1]]
            W[i].append(-coefficient(outer[i], transposed, k) / (k + 1))
    return [sum((F * h**k for k, F in enumerate(series)), zero) for series in W]


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("start", [I2, -J, [[1.0, 0.3], [-0.5, 0.2]]])
def test_flow_agrees_with_taylor_series_in_fifty_digits(depth, start):
    with localcontext() as context:
        context.prec = 50
        factors = [
            np.array([[Decimal(x) for x in row] for row in W.tolist()], dtype=object)
            for W in balanced(start, depth)
        ]
        for _ in range(32):
            factors = taylor_step(factors, Decimal(1) / 32, 14)
        exact = factors[0]
        for F in factors[1:]:
            exact = F @ exact
    ours = nb.flow(depth, 1.0, start=start, t_final=1.0, rtol=1e-11)
    assert_allclose(ours.products[-1], exact.astype(float), atol=2e-9)


@pytest.mark.parametrize(("scale", "time"), [(0.1, 100), (1.0, 110.0), (0.01, 30.0)])
def test_flow_agrees_with_sixty_digits_where_doubles_have_lost_the_sign(scale, time):
    a, b, d, log_determinant = nb.decimal_flow(scale, time, digits=60)
    run = nb.flow(2, scale, t_final=time, rtol=1e-11)
    W = run.products[-1]
    assert_allclose([W[0, 0], W[0, 1], W[1, 1]], [float(x) for x in (a, b, d)], rtol=1e-8)
    assert run.log_determinants[-1] == pytest.approx(float(log_determinant), rel=1e-7)
    if time > 50:  # the product's entries in double precision no longer show the determinant
        assert log_determinant < math.log(1e-15)


def test_many_digits_agree_with_the_series_of_the_factors_and_with_more_digits():
    half, full = (nb.decimal_flow(0.1, 20.0, digits=digits) for digits in (40, 70))
    assert max(abs(x - y) for x, y in zip(half, full, strict=True)) < Decimal(10) ** -15
    with localcontext() as context:
        context.prec = 40
        root = Decimal("0.25").sqrt()  # the product starts at 1/4
        factors = [root * np.array([[Decimal(1), 0], [0, Decimal(1)]]) for _ in range(2)]
        for _ in range(64):
            factors = taylor_step(factors, Decimal(1) / 32, 14)
        W = factors[1] @ factors[0]
    a, b, d, _ = nb.decimal_flow(0.25, 2.0)
    assert_allclose(W.astype(float), np.array([[a, b], [b, d]]).astype(float), rtol=1e-14)
    with pytest.raises(ValueError, match="digits"):
        nb.decimal_flow(0.1, 100.0, digits=20)


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0])
def test_depth_two_agrees_with_its_polynomial_equations_to_the_end(scale):
    # other coordinates (ln a, ln(1 - b) where that is positive, ln det), another integrator
    def velocity(t, y):
        a, g = math.exp(y[0]), math.exp(y[1])
        b = 1 - g
        d = (b * b + math.exp(max(y[2], -745))) / a
        return [2 * b * g / a, -(a + d) + b * d / g, -2 * d]

    ours = nb.flow(2, scale, rtol=1e-10)
    late = ours.times[-1]
    early = 1e-6
    y0 = [math.log(scale), math.log1p(-2 * scale * early), 2 * math.log(scale) - 2 * scale * early]
    solved = solve_ivp(velocity, (early, late), y0, method="Radau", rtol=1e-9, atol=1e-9)
    assert_allclose(ours.products[-1, 0, 0], math.exp(solved.y[0, -1]), rtol=1e-6)
    assert_allclose(1 - ours.products[-1, 0, 1], math.exp(solved.y[1, -1]), rtol=1e-4)
    assert_allclose(ours.log_determinants[-1], solved.y[2, -1], rtol=1e-6)


@pytest.mark.parametrize("depth", [3, 4])
def test_deeper_flows_agree_with_the_equations_of_eigenvalues_and_angle(depth):
    def velocity(t, y):
        x, w, angle = math.exp(y[0]), math.exp(y[1]), y[2]
        s, c = math.sin(angle), math.cos(angle)
        g, d = 1 - (x - w) * s * c, x * s * s + w * c * c
        turn = (x + w) / (x ** (2 / depth) - w ** (2 / depth))
        return [
            depth * x ** (1 - 2 / depth) * (2 * g * s * c - d * s * s),
            -depth * w ** (1 - 2 / depth) * (2 * g * s * c + d * c * c),
            turn * (g * math.cos(2 * angle) - d * s * c),
        ]

    W = nb.flow(depth, 0.3, t_final=0.5, rtol=1e-11)
    values, vectors = np.linalg.eigh(W.products[-1])
    angle = abs(math.atan(vectors[1, 1] / vectors[0, 1]))
    y0 = [math.log(values[1]), math.log(values[0]), angle]
    ours = nb.flow(depth, 0.3, rtol=1e-10)
    late = ours.times[-1] - 0.5
    solved = solve_ivp(velocity, (0, late), y0, method="LSODA", rtol=1e-8, atol=1e-10)
    assert_allclose(ours.log_singular_values[-1], solved.y[:2, -1], rtol=1e-5)


@pytest.mark.ledger("thm-norm-blowup-limit")
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0])
def test_end_of_the_run_is_that_of_the_theorem(depth, scale):
    run = nb.flow(depth, scale)
    assert isinstance(run.stopped_by, LossBelow)
    W, loss, t = run.products[-1], run.losses[-1], run.times[-1]
    assert loss < 1e-8
    assert W[0, 0] > 7000
    evidence.agree(W[0, 0] * math.sqrt(2 * loss), 1.0, atol=1e-6)
    assert W[0, 0] >= nb.entry_lower_bound(loss) * (1 - 1e-12)
    evidence.agree(nb.late_entry(t, depth), W[0, 0], rtol=1e-5)
    evidence.agree(nb.late_loss(t, depth), loss, rtol=1e-5)
    smaller = run.log_singular_values[-1, 1]
    evidence.agree(nb.late_log_singular_value(W[0, 0], depth), smaller, rtol=1e-4)
    assert (np.diff(run.losses) < 0).all()
    assert np.isfinite(run.log_determinants).all()


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize(
    "start", [0.01 * I2, 3 * I2, [[2.0, 0.9], [0.9, 0.5]], [[40, 0.5], [0.5, 0.01]]]
)
def test_what_the_proof_says_on_the_way(depth, start):
    run = nb.flow(depth, 1.0, start=start, stop=LossBelow(1e-6))
    a, b, d = run.products[:, 0, 0], run.products[:, 0, 1], run.products[:, 1, 1]
    assert (b[1:] > 0).all()
    assert (b[1:] < 1).all()
    assert (a[1:] > d[1:]).all()
    assert_allclose(b, run.products[:, 1, 0], atol=1e-13)
    larger, smaller = run.log_singular_values.T
    assert (np.diff(smaller) < 0).all()
    assert np.exp(larger).min() >= min(np.exp(larger[0]), 0.25) * (1 - 1e-7)
    if depth == 2:
        assert (np.diff(a) > -1e-10).all()


@settings(max_examples=8, deadline=None)
@given(seeds, st.integers(2, 4), st.sampled_from([1, -1]))
def test_symmetries_of_the_problem(seed, depth, sign):
    rng = np.random.default_rng(seed)
    start = rng.standard_normal((2, 2))
    if np.sign(np.linalg.det(start)) != sign:
        start = start @ J

    def end(W0):
        return nb.flow(depth, 0.5, start=W0, t_final=5.0, rtol=1e-10)

    run = end(start)
    assert run.sign == sign
    assert_allclose(end(start.T).products[-1], run.products[-1].T, atol=1e-7)
    assert_allclose(end(-J @ start @ J).products[-1], -J @ run.products[-1] @ J, atol=1e-7)
    assert (np.diff(run.losses) <= 1e-15).all()
    sigma = run.log_singular_values
    assert (sigma[:, 0] >= sigma[:, 1]).all()
    assert_allclose(sigma.sum(axis=1), run.log_determinants, atol=1e-9)


@pytest.mark.ledger("prop-norm-blowup-negative")
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_negative_determinant_ends_at_a_bounded_solution_of_rank_two(depth):
    run = nb.flow(depth, 0.1, start=[[0.0, 1.0], [1.0, 0.0]], stop=LossBelow(1e-16))
    assert run.sign == -1
    evidence.agree(run.products[-1], [[0, 1], [1, 0]], atol=1e-7)
    # exact: W12 = s solves s' = N s^(2-2/N) (1 - s)
    early = run.times < 3
    solved = solve_ivp(
        lambda t, s: depth * s ** (2 - 2 / depth) * (1 - s), (0, 3), [0.1],
        t_eval=run.times[early], rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    evidence.agree(run.products[early, 0, 1], solved.y[0], atol=1e-5)


def test_other_losses_and_losses_without_the_fast_method():
    operators = np.random.default_rng(0).standard_normal((3, 2, 2))
    loss = Sensing(operators, [1.0, -0.5, 0.3])

    class Plain:
        shape, value, gradient = (2, 2), staticmethod(loss.value), staticmethod(loss.gradient)

    first = nb.flow(3, 0.5, loss=loss, t_final=3.0)
    second = nb.flow(3, 0.5, loss=Plain(), t_final=3.0)
    other = product_flow(loss, 0.5 * I2, 3, 3.0, method="DOP853", rtol=1e-10, atol=1e-12)
    assert_allclose(first.products[-1], second.products[-1], rtol=1e-12)
    assert_allclose(first.products[-1], other.products[-1], atol=1e-6)


def test_negative_epsilon_from_a_positive_start_cannot_fit():
    loss = nb.counterexample(observed=(1.0, 1.0, -0.3))
    for depth in (2, 3):
        run = nb.flow(depth, 0.1, loss=loss, t_final=1e7)
        assert run.losses[-1] > 0.045
        assert run.losses[-1] == pytest.approx(0.045, rel=2e-2)
        # a' = N |eps| a^(-2/N), see the chapter
        expected = (0.3 * (depth + 2) * 1e7) ** (depth / (depth + 2))
        assert run.products[-1, 0, 0] == pytest.approx(expected, rel=1e-2)


def test_stopping_and_recording():
    run = nb.flow(2, 0.1, stop=MaxSteps(7))
    assert len(run) == 8
    assert run.stopped_by == MaxSteps(7)
    times = [0.0, 1.0, 50.0, 1e4]
    run = nb.flow(2, 0.1, t_final=2e4, record=times)
    assert_allclose(run.times, [*times, 2e4])
    assert isinstance(run.stopped_by, TimeReached)
    fine = nb.flow(2, 0.1, t_final=50.0, rtol=1e-10)
    assert_allclose(run.products[2], fine.products[-1], rtol=1e-5)
    already = nb.flow(2, 1.0, start=nb.solution(3.0), stop=LossBelow(1e-8))
    assert len(already) == 1
    assert "LossBelow" in repr(nb.flow(2, 1.0, stop=LossBelow(0.9)))


def test_ranks_fall_with_the_loss():
    run = nb.flow(3, 0.1)
    late = run.losses < 1e-3
    assert run.effective_rank("entropy")[-1] - 1 < 1e-6
    distance = np.exp(run.log_singular_values[late, 1])
    assert (distance <= np.sqrt(2 * run.losses[late])).all()
    # the two ways to the distance agree while rounding still allows it
    visible = late & (run.losses > 1e-5)
    assert_allclose(
        distance_to_rank(run.products[visible], 1),
        np.exp(run.log_singular_values[visible, 1]),
        rtol=1e-6,
    )


# --- what goes wrong without the coordinates ----------------------------------------------------


def test_factors_in_double_precision_show_the_opposite_and_warn():
    factors = balanced(0.1 * I2, 2)
    with pytest.warns(InvariantWarning, match="sign of the product's determinant"):
        wrong = gradient_flow(
            nb.counterexample(), factors, 1e4, method="BDF", rtol=1e-9, atol=1e-12, record=[1e3]
        )
    right = nb.flow(2, 0.1, t_final=1e4)
    assert wrong.losses[-1] < 1e-25
    assert abs(wrong.products[-1, 0, 0]) < 25
    assert right.products[-1, 0, 0] == pytest.approx((6e4) ** (1 / 3), rel=1e-2)
    assert right.losses[-1] > 1e-4


def test_imbalance_bounds_the_entry_like_the_root_of_a_logarithm_at_depth_two():
    ends = []
    for ratio in (1e-4, 1e-6, 1e-8):
        factors = tilted(balanced(0.1 * I2, 2), 1 + ratio)
        run = gradient_flow(
            nb.counterexample(), factors, 1e4, method="BDF", rtol=1e-11, atol=1e-13, record=10**6
        )
        assert run.losses[-1] < 1e-20
        ends.append(run.products[-1, 0, 0])
    slopes = np.diff(np.square(ends)) / math.log(100)
    assert ((slopes > 3.2) & (slopes < 4)).all()  # 4 in the limit


# --- descent ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "eta"), [(0.1, 0.05), (1.0, 0.2), (0.01, 0.4)])
def test_symmetric_descent_is_gradient_descent(scale, eta):
    ours = nb.symmetric_descent(scale, eta, 40)
    factors = identical(2, 2, math.sqrt(scale))
    other = gradient_descent(nb.counterexample(), factors, eta, MaxSteps(40))
    assert_allclose(ours.products, other.products, atol=1e-10)
    assert_allclose(ours.losses, other.losses, atol=1e-10)
    logs = np.linalg.slogdet(other.products[:20])
    assert (logs[0] == 1).all()
    assert_allclose(ours.log_determinants[:20], logs[1], atol=1e-7)


@pytest.mark.ledger("thm-norm-blowup-descent")
@settings(max_examples=15, deadline=None)
@given(st.floats(1e-3, 2), st.floats(0.01, 0.9))
def test_descent_at_depth_two_obeys_the_bound_at_every_step_size(scale, eta):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)  # the bound holds until then
        run = nb.symmetric_descent(scale, eta, 3000)
    entry, bound = run.products[:, 0, 0], nb.entry_lower_bound(run.losses)
    evidence.at_most(bound, entry, slack=1e-9)
    assert (run.products[:, 1, 1] >= 0).all()


@pytest.mark.ledger("thm-norm-blowup-descent")
@pytest.mark.parametrize("seed", range(50))
def test_one_step_from_transposed_factors(seed):
    rng = np.random.default_rng(seed)
    first, eta = rng.standard_normal((2, 2)), 10 ** rng.uniform(-2, 0.5)
    run = gradient_descent(nb.counterexample(), [first, first.T], eta, MaxSteps(1))
    W, after = run.products
    G = nb.counterexample().gradient(W)
    step = I2 - eta * G
    evidence.agree(after, step @ W @ step, rtol=1e-12, atol=1e-12)
    change = np.linalg.det(step) ** 2 * np.linalg.det(W)
    evidence.agree(np.linalg.det(after), change, rtol=1e-8, atol=1e-10)


def test_long_steps_keep_the_loss_away_from_zero():
    for eta in (0.3, 0.1):
        run = nb.symmetric_descent(0.1, eta, 60_000, record=10)
        assert run.products[:, 0, 0].max() < 1.25 * 2 / eta
        assert run.losses.min() > 0.6 * eta**2 / 8


def test_descent_that_diverges_says_when():
    with pytest.warns(DivergenceWarning, match="step"):
        run = nb.symmetric_descent(1.0, 5.0, 100)
    assert isinstance(run.stopped_by, Diverged)
    assert np.isfinite(run.products).all()
    assert len(nb.symmetric_descent(0.1, 0.1, 25, record=10)) == 4


# --- bad input ----------------------------------------------------------------------------------

NOT_POSITIVE = [0, -1.0, np.nan, np.inf, "1", None, True]
NOT_A_DEPTH = [1, 0, 2.0, "2", None, np.nan]
NOT_OBSERVED = [[1.0, 2.0], 3.0, [1, 1, np.nan], "abc", None, [1, 1, 1j]]
BAD = [
    (nb.counterexample, {}, {"unobserved": [3, (0, 2), (0, 1, 1), (-1, 0), ("a", 0), (0.0, 1)]}),
    (nb.counterexample, {}, {"observed": NOT_OBSERVED}),
    (nb.solution, {"entry": 1.0}, {"entry": [np.nan, "x", []], "observed": NOT_OBSERVED}),
    (nb.entry_lower_bound, {"loss": 1.0}, {"loss": [-1e-9, np.nan, "x"], "observed": NOT_OBSERVED}),
    (nb.norm_constants, {"norm": 1.0}, {"norm": [0, -1.0, np.nan, "nuclear", None]}),
    (nb.norm_constants, {"norm": np.linalg.norm}, {"constant": [0.5, np.inf, None]}),
    (nb.norm_constants, {"norm": 1.0}, {"norm": [lambda W: 0.0, lambda W: -1.0]}),
    (nb.norm_lower_bound, {"loss": 1.0, "norm": 1.0}, {"loss": [-1.0, None], "norm": [0, "x"]}),
    (nb.norm_lower_bound, {"loss": 1.0, "norm": np.linalg.norm}, {"observed": NOT_OBSERVED}),
    (nb.late_entry, {"time": 1.0, "depth": 2}, {"time": [-1.0, np.nan], "depth": NOT_A_DEPTH}),
    (nb.late_loss, {"time": 1.0, "depth": 2}, {"time": [-1.0, "x"], "depth": NOT_A_DEPTH}),
    (nb.late_log_singular_value, {"entry": 1.0, "depth": 2},
     {"entry": [0.0, -1.0, np.inf], "depth": NOT_A_DEPTH}),
    (nb.flow, {"depth": 2, "scale": 0.1, "stop": MaxSteps(1)},
     {"depth": NOT_A_DEPTH, "scale": NOT_POSITIVE, "loss": [3, "x"],
      "start": [np.ones((2, 2)), np.zeros((2, 2)), np.eye(3), "x"], "t_final": NOT_POSITIVE[:5],
      "stop": [3, "x"], "rtol": [0, 1.0, None], "record": [[1.0, 1.0], [-1.0], [], "x", 3]}),
    (nb.flow, {"depth": 2, "scale": 0.1, "t_final": 1.0}, {"record": [[2.0]]}),
    (nb.decimal_flow, {"scale": 0.1, "time": 1.0},
     {"scale": [*NOT_POSITIVE, 5], "time": [*NOT_POSITIVE, 300], "digits": [5, 30.0, None]}),
    (nb.symmetric_descent, {"scale": 0.1, "step_size": 0.1, "steps": 3},
     {"scale": NOT_POSITIVE, "step_size": NOT_POSITIVE, "steps": [0, 1.5, None],
      "record": [0, 2.5]}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [case for function, good, bad in BAD for case in cases(function, good, **bad)],
)
def test_bad_input_names_the_argument(function, arguments, name):
    with pytest.raises(ValueError, match=name):
        function(**arguments)
