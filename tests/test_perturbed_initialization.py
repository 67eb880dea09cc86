"""Lemmas and constants of the perturbed start, attacked on random instances and at the edges."""

import time
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

import evidence
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import quad, solve_ivp
from scipy.optimize import brentq

from dmflib import perturbed_initialization as pert
from dmflib.descent import MaxSteps, RankPlateaus, gradient_descent
from dmflib.flow import gradient_flow
from dmflib.linear_networks import perturbed
from dmflib.losses import Completion, FullObservation, Sensing
from dmflib.matrices import effective_rank
from dmflib.stopping import Diverged, DivergenceWarning

EXAMPLE_1 = (10, 7, 5, -5)
EXAMPLE_2 = (5, 3, -1, -5)
V = np.array([[0, 1, 1, 1], [1, 0, 1, -1], [1, -1, 0, 1], [1, 1, -1, 0]]) / np.sqrt(3)


def random_case(rng, depths=(2, 3, 4, 5)):
    """Eigenvalue of either sign, depth, scale and perturbation over several orders of size."""
    scale = 10 ** rng.uniform(-1.3, 0.4)
    perturbation = scale * min(10 ** rng.uniform(-3, 0), 0.999)
    eigenvalue = rng.choice([-1, 1]) * 10 ** rng.uniform(-1.5, 1)
    return float(eigenvalue), int(rng.choice(depths)), float(scale), float(perturbation)


@st.composite
def cases(draw):
    return random_case(np.random.default_rng(draw(st.integers(0, 2**32 - 1))))


def start_product(depth, scale, perturbation):
    return (scale - perturbation) * scale ** (depth - 1)


def literal_recursion(eigenvalues, depth, scale, perturbation, step_size, steps):
    """Equation (3.5) of source A with one index for the eigenvalue, as it is written."""
    lam = np.asarray(eigenvalues, dtype=float)
    d1, d2 = np.full(lam.shape, scale - perturbation), np.full(lam.shape, scale)
    for _ in range(steps):
        r = d1 * d2 ** (depth - 1) - lam
        d1, d2 = (
            d1 - step_size * d2 ** (depth - 1) * r,
            d2 - step_size * d1 * d2 ** (depth - 2) * r,
        )
    return d1, d2


# --- constants ----------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 8, 30, 1000])
def test_growth_constant_solves_its_equation(depth):
    c = pert.growth_constant(depth)
    with localcontext(prec=40):
        low, high = Decimal(0), Decimal(1)  # bisection for c - 1
        for _ in range(120):
            e = (low + high) / 2
            low, high = (low, e) if e * (1 + e) ** (depth - 1) > 1 else (e, high)
        assert c == pytest.approx(float(1 + high), abs=4e-16)
    # the function is increasing on (1, infinity), so the root is the only one there
    grid = np.linspace(1 + 1e-9, 3, 400)
    assert (np.diff((grid - 1) * grid ** min(depth - 1, 300)) > 0).all()


def test_growth_constants_as_printed():
    printed = [2, 1.618034, 1.465571, 1.380278, 1.324718]
    assert_allclose([pert.growth_constant(n) for n in range(1, 6)], printed, atol=5e-7)
    assert pert.growth_constant(2) == pytest.approx((1 + 5**0.5) / 2, abs=1e-15)


def test_step_limits_of_the_sources_examples():
    assert pert.max_step_size(EXAMPLE_1, 3, 0.1) == pytest.approx(3.7e-4, abs=0.05e-4)
    assert pert.max_step_size(EXAMPLE_2, 3, 0.1) == pytest.approx(9.4e-4, abs=0.05e-4)
    assert 0.05 / (pert.growth_constant(3) - 1) == pytest.approx(0.107, abs=5e-4)
    c = pert.growth_constant(4)
    assert pert.max_step_size(-3, 4, 2.0) == pytest.approx(1 / (36 * (2 * c) ** 6), rel=1e-14)
    assert pert.stability_limit([-8, 1], 3) == pytest.approx(2 / (3 * 16), rel=1e-14)


@given(st.floats(1e-6, 1e3), st.floats(1e-9, 1, exclude_max=True))
def test_conserved_quantity_is_the_difference_of_squares(scale, fraction):
    perturbation = scale * fraction
    a, b = Fraction(scale), Fraction(perturbation)
    expected = float(a**2 - (a - b) ** 2)
    assert pert.conserved_quantity(scale, perturbation) == pytest.approx(expected, rel=1e-14)


@pytest.mark.ledger("perturbed-lem-constant")
@given(st.integers(2, 9), st.floats(0.01, 10), st.integers(0, 2**32 - 1))
def test_the_meaning_of_the_constant(depth, M, seed):
    # |x| y^(N-1) <= M^N and y - |x| <= M give y <= cM, and nothing smaller holds.
    rng = np.random.default_rng(seed)
    c = pert.growth_constant(depth)
    y = M * 3 * rng.uniform(size=500)
    x = y * rng.uniform(size=500)
    allowed = (x * y ** (depth - 1) <= M**depth) & (y - x <= M)
    # the largest of the allowed points counts, and the corner where both hold with equality
    evidence.at_most(y[allowed].max(initial=0.0), c * M, slack=1e-12)
    evidence.agree((c - 1) * M * (c * M) ** (depth - 1), M**depth, rtol=1e-12)


# --- lemma 3.1: the matrices follow the scalar recursion ----------------------------------------


def random_basis(seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((4, 4)))[0]


@pytest.mark.ledger("perturbed-lem-diagonal")
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("spectrum", "V"),
    [(EXAMPLE_1, V), (EXAMPLE_2, V)]
    + [(np.random.default_rng(s).uniform(-8, 8, 4), random_basis(s)) for s in range(4)],
)
def test_descent_on_matrices_is_the_scalar_recursion(depth, spectrum, V):
    target = V * spectrum @ V.T
    run = gradient_descent(
        FullObservation(target),
        perturbed(4, depth, 0.6, 0.25),
        2e-3,
        MaxSteps(400),
        record=80,
        keep=("products", "factors"),
    )
    path = pert.dynamics(spectrum, depth, 0.6, 0.25, 2e-3, 400, record=80)
    assert_allclose(path.times, run.times)
    diagonal = np.einsum("ia,tij,ja->ta", V, run.products, V)
    evidence.agree(path.eigenvalues, diagonal, rtol=1e-7, atol=1e-10)
    for i, W in enumerate(run.factors):
        D = V.T @ W @ V
        evidence.agree(D, D * np.eye(4), atol=1e-10)  # lemma 3.1: diagonal
        expected = path.first if i == 0 else path.others
        evidence.agree(np.einsum("taa->ta", D), expected, rtol=1e-7, atol=1e-10)


@pytest.mark.ledger("perturbed-lem-diagonal")
@settings(max_examples=40, deadline=None)
@given(cases())
def test_the_recursion_is_equation_3_5(case):
    lam, depth, scale, perturbation = case
    eta = pert.monotone_step_size(lam, depth, scale)
    path = pert.dynamics(lam, depth, scale, perturbation, eta, 60, record=[7, 60])
    d1, d2 = literal_recursion([lam], depth, scale, perturbation, eta, 60)
    evidence.agree(path.first[-1], d1, rtol=1e-9, atol=1e-12)
    evidence.agree(path.others[-1], d2, rtol=1e-9)


@pytest.mark.ledger("perturbed-lem-cone")
@settings(max_examples=30, deadline=None)
@given(cases())
def test_one_step_multiplies_the_conserved_quantity(case):
    lam, depth, scale, perturbation = case
    eta = pert.monotone_step_size(lam, depth, scale)
    path = pert.dynamics(lam, depth, scale, perturbation, eta, 30, record=1)
    s = eta * (lam - path.eigenvalues[:-1]) * path.others[:-1] ** (depth - 2)
    evidence.agree(path.conserved[1:], path.conserved[:-1] * (1 - s**2), rtol=1e-9)
    for sign in (1, -1):  # light-cone coordinates
        w = path.others + sign * path.first
        evidence.agree(w[1:], w[:-1] * (1 + sign * s), rtol=1e-9)


def test_records_do_not_change_the_path():
    every = pert.dynamics(EXAMPLE_1, 3, 0.1, 0.05, 1e-3, 7000, record=1)
    some = pert.dynamics(EXAMPLE_1, 3, 0.1, 0.05, 1e-3, 7000, record=[5000, 17, 9999])
    coarse = pert.dynamics(EXAMPLE_1, 3, 0.1, 0.05, 1e-3, 7000, record=700)
    assert some.times.tolist() == [0, 17, 5000, 7000]
    assert len(every.times) == 7001
    assert len(coarse.times) == 11
    for path in (some, coarse):
        assert np.array_equal(path.first, every.first[path.times])
        assert np.array_equal(path.others, every.others[path.times])
    assert pert.dynamics(3, 2, 0.1, 0.05, 0.1, 0).eigenvalues.shape == (1, 1)


def test_rest_is_rest():
    # The early end at a state that a step leaves unchanged must not change anything.
    long = pert.dynamics(EXAMPLE_2, 2, 0.3, 0.1, 5e-3, 60_000, record=10_000)
    d1, d2 = long.first[1], long.others[1]
    plain = d1 + 5e-3 * (np.array(EXAMPLE_2) - d1 * d2) * d2
    assert_allclose(plain, d1, atol=1e-14)
    assert_allclose(long.eigenvalues[-1], EXAMPLE_2, rtol=1e-12)


def test_long_runs_are_fast():
    # No eigenvalue comes to rest here, so all 800 000 steps are really taken.
    clock = time.perf_counter()
    path = pert.dynamics((-5, -4, -3, -2), 5, 0.1, 5e-4, 1e-4, 200_000, record=200)
    assert time.perf_counter() - clock < 2
    assert (np.abs(path.eigenvalues[-1]) < 0.1).all()


# --- lemma 3.2 and theorem 3.1, and the stronger ones of the chapter ----------------------------


@lru_cache
def walked(depth):
    """1500 random cases at the step limit of the chapter, after 1500 steps, and their extremes."""
    rng = np.random.default_rng(depth)
    drawn = [random_case(rng, (depth,)) for _ in range(1500)]
    lam, _, scale, perturbation = map(np.array, zip(*drawn, strict=True))
    M = np.maximum(scale, np.abs(lam) ** (1 / depth))
    eta = np.array([pert.monotone_step_size(x, depth, a) for x, a in zip(lam, scale, strict=True)])
    x, y = scale - perturbation, scale.copy()
    first_sign = np.sign(lam - x * y ** (depth - 1))
    kappa = pert_kappa = y**2 - x**2
    largest_step, largest_entry, changes = np.zeros((3, len(lam)))
    for _ in range(1500):
        r = lam - x * y ** (depth - 1)
        assert (first_sign * r >= -1e-12 * M**depth).all()  # never beyond
        s = eta * r * y ** (depth - 2)
        largest_step = np.maximum(largest_step, np.abs(s))
        new = x + s * y, y + s * x
        moved = new[0] * new[1] ** (depth - 1) - x * y ** (depth - 1)
        assert (first_sign * moved >= -1e-12 * M**depth).all()  # monotone
        changes = changes + (np.sign(new[0]) != np.sign(x))
        x, y = new
        largest_entry = np.maximum(largest_entry, y)
        assert (np.abs(x) < y).all()
        kappa, before = (y - x) * (y + x), kappa
        assert (kappa <= before * (1 + 1e-9) + 1e-15 * M**2).all()
    drift = np.log(pert_kappa / (kappa + 1e-13 * y**2))  # rounding errors are of the size of y**2
    return drawn, eta, M, largest_step, largest_entry, changes, drift


@pytest.mark.ledger("perturbed-thm-descent")
@pytest.mark.parametrize("depth", [2, 3, 4, 6])
def test_descent_approaches_every_eigenvalue_monotonically_below_the_limit(depth):
    _, _, M, largest_step, largest_entry, changes, _ = walked(depth)
    c = pert.growth_constant(depth)
    evidence.at_most(largest_step, 2 / (depth * c**depth), slack=1e-12)
    evidence.at_most(largest_entry, c * M, slack=1e-12)
    evidence.holds(changes <= 1)


@pytest.mark.ledger("perturbed-thm-drift")
@pytest.mark.parametrize("depth", [2, 3, 4, 6])
def test_the_conserved_quantity_drifts_less_than_the_bound(depth):
    drawn, eta, M, _, _, _, drift = walked(depth)
    c, perturbation = pert.growth_constant(depth), np.array([case[3] for case in drawn])
    bounds = 2.8 * eta * c ** (depth - 2) * M ** (2 * depth - 2)
    bounds *= np.log(2 * c * M / perturbation)
    stated = [
        pert.invariant_drift_bound(*case, step) for case, step in zip(drawn, eta, strict=True)
    ]
    evidence.agree(np.array(stated), bounds, rtol=1e-12)
    evidence.at_most(drift, bounds + 1e-9)


@pytest.mark.ledger("perturbed-thm-descent")
def test_every_eigenvalue_is_reached_beyond_the_assumptions_of_theorem_3_1():
    # any perturbation below the scale and nine times the step limit
    rng = np.random.default_rng(7)
    drawn = []
    while len(drawn) < 300:
        lam, depth, scale, perturbation = random_case(rng, (2, 3))
        if scale > 0.3 and perturbation > 0.1 * scale and abs(lam) > 0.3:
            drawn.append((lam, depth, scale, perturbation))
    for depth in (2, 3):
        lam, _, scale, beta = map(np.array, zip(*(c for c in drawn if c[1] == depth), strict=True))
        limit = [pert.monotone_step_size(x, depth, a) for x, a in zip(lam, scale, strict=True)]
        errors, diverged = pert.final_errors(lam, depth, scale, beta, limit, 40_000)
        assert (diverged == -1).all()
        evidence.at_most(errors, 1e-9 * np.abs(lam))


@pytest.mark.ledger("perturbed-cor-recovery")
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_descent_recovers_symmetric_matrices_of_both_signs(depth):
    rng = np.random.default_rng(depth)
    for _ in range(6):
        n = rng.integers(2, 5)
        U = np.linalg.qr(rng.standard_normal((n, n)))[0]
        lam = rng.choice([-1, 1], n) * rng.uniform(0.5, 2, n)
        scale = rng.uniform(0.7, 1.2)
        perturbation = scale * rng.uniform(0.2, 0.9)
        target = U * lam @ U.T
        M = max(scale, np.linalg.norm(target, 2) ** (1 / depth))
        eta = 1 / (depth * (pert.growth_constant(depth) * M) ** (2 * depth - 2))
        products, _ = pert.many_descents(
            target[None], perturbed(n, depth, scale, perturbation), eta, 10_000
        )
        error = np.linalg.norm(products[0] - target) / np.linalg.norm(target)
        evidence.at_most(error, 1e-8)


@pytest.mark.parametrize("eigenvalue", [10.0, -10.0])
def test_the_stability_limit_is_where_convergence_really_ends(eigenvalue):
    limit = pert.stability_limit(eigenvalue, 3)
    eta = limit * np.array([0.97, 1.03])
    errors, _ = pert.final_errors(
        eigenvalue, 3, 0.1, np.linspace(0.02, 0.098, 9)[:, None], eta, 8000
    )
    assert (errors[:, 0] < 1e-8).all()
    assert (errors[:, 1] > 1e-2).all()
    assert limit / pert.max_step_size(eigenvalue, 3, 0.1) == pytest.approx(83, abs=0.5)


def test_source_example_converges_outside_its_theorem():
    with pytest.raises(ValueError, match=r"step_size=0.001: .* < 0\.000372"):
        pert.dynamics(EXAMPLE_1, 3, 0.1, 0.05, 1e-3, 10, strict=True)
    with pytest.raises(ValueError, match=r"perturbation=0.05: .*0\.0465571"):
        pert.dynamics(EXAMPLE_1, 3, 0.1, 0.05, 3e-4, 10, strict=True)
    path = pert.dynamics(EXAMPLE_1, 3, 0.1, 0.05, 1e-3, 20_000)
    assert_allclose(path.eigenvalues[-1], EXAMPLE_1, rtol=1e-12)
    inside = pert.dynamics(EXAMPLE_1, 3, 0.1, 0.04, 3e-4, 100, strict=True)
    assert len(inside.times) == 101


def test_the_literal_equation_3_5_tends_to_the_second_eigenvalue():
    d1, d2 = 0.05, 0.1
    for _ in range(20_000):
        p = d1 * d2**2
        d1, d2 = d1 - 1e-3 * d2**2 * (p - 10), d2 - 1e-3 * d1 * d2 * (p - 7)
    assert d1 * d2**2 == pytest.approx(7, abs=1e-3)
    assert d1 > 25  # and one factor grows without bound


def test_depth_five_needs_more_than_200000_steps():
    path = pert.dynamics(EXAMPLE_1, 5, 0.1, 0.05, 1e-3, 700_000, record=100_000)
    product = path.eigenvalues[:, 3]
    assert abs(product[2]) < 1e-3
    assert product[-1] == pytest.approx(-5, rel=1e-9)


# --- divergence ---------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6])
def test_divergence_is_reported_with_the_step_of_the_matrix_run(depth):
    eta = 2.5 if depth == 1 else 1.5
    with pytest.warns(DivergenceWarning, match="divergence at step"):
        path = pert.dynamics((5, -5), depth, 0.9, 0.2, eta, 5000, record=100)
    with pytest.warns(DivergenceWarning):
        run = gradient_descent(
            FullObservation(np.diag([5.0, -5.0])),
            perturbed(2, depth, 0.9, 0.2),
            eta,
            MaxSteps(5000),
        )
    # the sum of two squares overflows at most one step before one of them
    assert isinstance(path.stopped_by, Diverged)
    assert 0 <= path.stopped_by.step - run.stopped_by.step <= 1
    assert path.times[-1] == path.stopped_by.step - 1
    assert np.isfinite(path.eigenvalues).all()
    if depth > 1:
        errors, at = pert.final_errors([5, -5], depth, 0.9, 0.2, eta, 5000)
        assert np.isinf(errors).any()
        assert abs(at[at >= 0].min() - path.stopped_by.step) <= 1


def test_grids_agree_with_single_runs():
    eta = np.geomspace(1e-3, 3e-2, 4)
    beta = np.array([0.02, 0.08])[:, None]
    errors, at = pert.final_errors(-4.0, 3, 0.1, beta, eta, 900)
    assert errors.shape == at.shape == (2, 4)
    for i, j in np.ndindex(2, 4):
        path = pert.dynamics(-4.0, 3, 0.1, beta[i, 0], eta[j], 900, record=900)
        assert errors[i, j] == pytest.approx(abs(path.eigenvalues[-1, 0] + 4), rel=1e-6, abs=1e-12)
    assert pert.final_errors(1.0, 2, 0.5, 0.1, 0.1, 0)[0] == pytest.approx(0.8)


# --- flow ---------------------------------------------------------------------------------------


@pytest.mark.ledger("perturbed-thm-flow")
@settings(max_examples=40, deadline=None)
@given(cases(), st.floats(0.01, 0.9999))
def test_flow_time_agrees_with_an_ode_solver(case, share):
    lam, depth, scale, perturbation = case
    start = start_product(depth, scale, perturbation)
    end = start + share * (lam - start)
    T = pert.flow_time(lam, depth, scale, perturbation, end)

    def velocity(t, z):
        r = lam - z[0] * z[1] ** (depth - 1)
        return [z[1] ** (depth - 1) * r, z[0] * z[1] ** (depth - 2) * r]

    solved = solve_ivp(
        velocity, (0, T), [scale - perturbation, scale], method="LSODA", rtol=1e-11, atol=1e-13
    )
    kappa, size = pert.conserved_quantity(scale, perturbation), max(abs(lam), start)
    products = solved.y[0] * solved.y[1] ** (depth - 1)
    forward = np.sign(lam - start) * np.diff(products)
    assert (forward >= -1e-8 * size).all()  # monotone
    evidence.at_most(np.sqrt(kappa), solved.y[1].min(), slack=1e-5)
    x, y = solved.y[:, -1]
    rate = y ** (2 * depth - 4) * (y**2 + (depth - 1) * x**2)
    error = abs(x * y ** (depth - 1) - end) / (abs(lam - end) * rate)  # as a time
    evidence.at_most(error, 1e-6 * T + 1e-12)
    evidence.agree((y - x) * (y + x), kappa, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_two_factors_closed_form_is_the_integral(case):
    lam, _, scale, perturbation = case
    start = start_product(2, scale, perturbation)
    end = start + 0.7 * (lam - start)
    root = pert.conserved_quantity(scale, perturbation) ** 2 / 4
    expected = quad(
        lambda p: 1 / (2 * np.sqrt(root + p * p) * (lam - p)), start, end, epsabs=0, epsrel=1e-10,
        points=[0] if min(start, end) < 0 < max(start, end) else None, limit=400,
    )[0]  # fmt: skip
    assert pert.flow_time(lam, 2, scale, perturbation, end) == pytest.approx(expected, rel=1e-7)


@pytest.mark.ledger("perturbed-thm-crossing")
@settings(max_examples=40, deadline=None)
@given(cases())
def test_crossing_time_is_the_integral_over_the_first_factor(case):
    lam, depth, scale, perturbation = case
    lam, kappa = -abs(lam), pert.conserved_quantity(scale, perturbation)
    h = lambda x: (kappa + x * x) ** ((depth - 1) / 2)  # noqa: E731
    expected = quad(
        lambda x: 1 / (h(x) * (x * h(x) - lam)), 0, scale - perturbation, epsrel=1e-10, limit=400
    )[0]
    T = pert.crossing_time(lam, depth, scale, perturbation)
    evidence.agree(T, expected, rtol=1e-7)
    # the bounds of the chapter
    distance, largest = scale - perturbation, start_product(depth, scale, perturbation)
    evidence.at_most(distance / (scale ** (depth - 1) * (largest - lam)), T, slack=1e-12)
    evidence.at_most(T, distance / (kappa ** ((depth - 1) / 2) * -lam), slack=1e-12)


@pytest.mark.ledger("perturbed-thm-crossing")
@settings(max_examples=60, deadline=None)
@given(cases())
def test_crossing_time_of_two_factors_is_the_written_formula(case):
    lam, _, scale, perturbation = case
    lam = abs(lam)
    with localcontext(prec=50):  # differences of nearly equal numbers
        a, b, size = Decimal(scale), Decimal(perturbation), Decimal(lam)
        delta = (a * a - (a - b) ** 2) / 2
        S, w = (size**2 + delta**2).sqrt(), (2 * a - b) / b
        above = (delta * w + size - S) * (delta + size + S)
        below = (delta * w + size + S) * (delta + size - S)
        expected = float((above / below).ln() / (2 * S))
    evidence.agree(pert.crossing_time(-lam, 2, scale, perturbation), expected, rtol=1e-9)


@pytest.mark.ledger("perturbed-thm-crossing")
@settings(max_examples=30, deadline=None)
@given(cases())
def test_the_sign_of_the_product_changes_at_the_crossing_time(case):
    lam, depth, scale, perturbation = case
    lam = -abs(lam)
    T = pert.crossing_time(lam, depth, scale, perturbation)

    def velocity(t, z):
        r = lam - z[0] * z[1] ** (depth - 1)
        return [z[1] ** (depth - 1) * r, z[0] * z[1] ** (depth - 2) * r]

    solved = solve_ivp(
        velocity, (0, 1.5 * T), [scale - perturbation, scale], method="LSODA", rtol=1e-11,
        atol=1e-14, dense_output=True,
    )  # fmt: skip
    zero = brentq(lambda t: solved.sol(t)[0], 0, 1.5 * T, xtol=1e-12 * T)
    evidence.agree(zero / T, 1, atol=1e-5)
    grid = np.linspace(0, 1.5, 40)
    entries = solved.sol(grid * T)[0]
    evidence.holds((entries[grid < 0.999] > 0).all() and (entries[grid > 1.001] < 0).all())


def test_extreme_cases_of_the_flow():
    # tiny perturbations: no cancellation, and ln(2a/b)/(2|lambda|) to leading order
    crossing = pert.crossing_time(-3.0, 2, 1e-3, 1e-15)
    assert crossing == pytest.approx(np.log(2e12) / 6, rel=1e-5)
    assert pert.crossing_time(-3.0, 4, 0.1, 1e-9) > 1e5
    # a zero eigenvalue, and one that is nearly the start's product
    assert pert.flow_time(0.0, 3, 0.5, 0.2, 1e-6) > 0
    start = start_product(3, 0.5, 0.2)
    halving = pert.flow_time(start * (1 + 1e-6), 3, 0.5, 0.2, start * (1 + 0.5e-6))
    assert halving == pytest.approx(np.log(2) / (0.25 * (0.25 + 2 * 0.09)), rel=1e-5)
    assert pert.flow_time(2.0, 3, 0.5, 0.2, start) == 0
    # pieces of a path add up, from above the eigenvalue too
    for lam in (1e-3, -4.0, 6.0):
        ends = [start + share * (lam - start) for share in (0.3, 0.97)]
        times = [pert.flow_time(lam, 3, 0.5, 0.2, end) for end in ends]
        step = 1e-4 * (lam - start)
        later = pert.flow_time(lam, 3, 0.5, 0.2, ends[1] + step)
        x, y = pert.flow_limit(ends[1], 3, 0.5, 0.2)
        rate = y**2 * (y**2 + 2 * x**2)
        assert later - times[1] == pytest.approx(step / (rate * (lam - ends[1])), rel=1e-2)
        assert times[0] < times[1]


@pytest.mark.ledger("perturbed-thm-flow")
@settings(max_examples=60, deadline=None)
@given(cases())
def test_flow_limit_lies_on_the_hyperbola_and_has_the_product(case):
    lam, depth, scale, perturbation = case
    kappa = pert.conserved_quantity(scale, perturbation)
    x, y = pert.flow_limit(lam, depth, scale, perturbation)
    evidence.agree(x * y ** (depth - 1), lam, rtol=1e-10)
    evidence.agree(y, np.sqrt(kappa + x * x), rtol=1e-10)
    expected = brentq(
        lambda z: z * (kappa + z * z) ** ((depth - 1) / 2) - lam, -20, 20, xtol=1e-14, rtol=1e-13
    )
    evidence.agree(x, expected, rtol=1e-7, atol=1e-12)


def test_flow_of_the_factors_recovers_a_negative_eigenvalue_at_the_predicted_time():
    end = 0.9 * -5
    T = pert.flow_time(-5.0, 3, 0.3, 0.15, end)
    run = gradient_flow(
        FullObservation([[-5.0]]), perturbed(1, 3, 0.3, 0.15), t_final=T, rtol=1e-9, atol=1e-12
    )
    assert run.products[-1, 0, 0] == pytest.approx(end, rel=1e-5)


@pytest.mark.ledger("perturbed-thm-escape")
@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("depth", [3, 4, 5])
def test_plateau_times_are_the_leading_order(depth, q):
    for ratio in (0.1, 0.5, 0.9):
        for sign in (1, -1):
            quotients = [
                pert.flow_time(3.0 * sign, depth, a, ratio * a, 3.0 * q * sign)
                * 3
                / pert.plateau_time(sign, depth, a, ratio * a)
                for a in (0.1, 0.01, 0.001)
            ]
            gaps = np.abs(np.array(quotients) - 1)
            evidence.at_most(gaps[2], 0.01)
            evidence.at_most(gaps[1:], gaps[:-1])
            # the integral that the theorem writes down
            kappa, start = ratio * (2 - ratio), 1 - ratio  # at scale 1
            written = quad(
                lambda x, kappa=kappa: (kappa + x * x) ** (-(depth - 1) / 2),
                *((start, np.inf) if sign > 0 else (-np.inf, start)), epsabs=0, epsrel=1e-10,
            )[0]  # fmt: skip
            for a in (1.0, 0.01):
                scaled = pert.plateau_time(sign, depth, a, ratio * a) * a ** (depth - 2)
                evidence.agree(scaled, written, rtol=1e-8)


@pytest.mark.ledger("perturbed-thm-escape")
@given(st.floats(0.01, 2), st.floats(0.001, 0.999))
def test_plateau_time_of_three_factors_is_an_angle(scale, ratio):
    kappa, angle = pert.conserved_quantity(scale, ratio * scale), np.arcsin(1 - ratio)
    for sign in (1, -1):
        expected = (np.pi / 2 - sign * angle) / np.sqrt(kappa)
        evidence.agree(pert.plateau_time(sign, 3, scale, ratio * scale), expected, rtol=1e-9)


# --- descent against flow -----------------------------------------------------------------------


@pytest.mark.ledger("perturbed-thm-drift")
@pytest.mark.parametrize("eigenvalue", [4.0, -4.0, 0.02])
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_drift_of_the_conserved_quantity_is_of_first_order(eigenvalue, depth):
    ratios = []
    duration = 400 if abs(eigenvalue) > 1 else 4000  # the small one is left at a small rate
    for eta in (8e-3, 4e-3, 2e-3):
        path = pert.dynamics(eigenvalue, depth, 0.5, 0.2, eta, int(duration / eta), record=[0])
        loss = np.log(path.conserved[0, 0] / path.conserved[-1, 0])
        ratios.append(loss / (eta * pert.invariant_drift(eigenvalue, depth, 0.5, 0.2)))
    gaps = np.abs(np.array(ratios) - 1)
    evidence.at_most(gaps[-1], 0.05)
    evidence.at_most(gaps[-1], 0.6 * gaps[-2] + 1e-5)


@pytest.mark.ledger("perturbed-thm-drift")
@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(6))
def test_drift_up_to_a_time_tends_to_its_two_integrals_along_the_flow(depth, seed):
    # short plateaus: long ones delay the limit, since the times of flow and descent part there
    rng = np.random.default_rng([depth, seed])
    scale, lam = rng.uniform(0.5, 1.2), rng.choice([-1, 1]) * rng.uniform(0.3, 3)
    perturbation, share = scale * rng.uniform(0.2, 0.9), rng.uniform(0.05, 0.95)
    start = start_product(depth, scale, perturbation)
    T = pert.flow_time(lam, depth, scale, perturbation, start + share * (lam - start))
    kappa = pert.conserved_quantity(scale, perturbation)

    def motion(t, z):
        x, y = z[:2]
        r = lam - x * y ** (depth - 1)
        slope = y ** (depth - 2) * r
        return [y * slope, x * slope, slope**2]

    solved = solve_ivp(
        motion, (0, T), [scale - perturbation, scale, 0.0], method="LSODA", rtol=1e-10,
        atol=1e-14,
    )  # fmt: skip
    x, _, in_time = solved.y[:, -1]
    ends = np.arcsinh((scale - perturbation) / np.sqrt(kappa)), np.arcsinh(x / np.sqrt(kappa))

    def by_rapidity(theta):
        x, y = np.sqrt(kappa) * np.sinh(theta), np.sqrt(kappa) * np.cosh(theta)
        return abs(lam - x * y ** (depth - 1)) * y ** (depth - 2)

    in_rapidity = abs(quad(by_rapidity, *ends, epsabs=0, epsrel=1e-10, limit=200)[0])
    evidence.agree(in_time, in_rapidity, rtol=1e-5)
    gaps = []
    for steps in (2000, 4000):
        path = pert.dynamics(lam, depth, scale, perturbation, T / steps, steps, record=steps)
        drift = np.log(kappa / path.conserved[-1, 0]) * steps / T
        gaps.append(drift / in_time - 1)
    evidence.agree(gaps[1], 0, atol=0.02)
    # the error is of first order in the step size: extrapolated it is gone
    evidence.agree(2 * gaps[1] - gaps[0], 0, atol=1e-3)


def test_steps_times_step_size_tend_to_the_crossing_time():
    for depth in (2, 3):
        T = pert.crossing_time(-5.0, depth, 0.1, 0.05)
        gaps = []
        for eta in (2e-3, 1e-3, 5e-4):
            path = pert.dynamics(-5.0, depth, 0.1, 0.05, eta, int(2 * T / eta), record=1)
            before = np.flatnonzero(path.eigenvalues[:, 0] > 0)[-1]
            p = path.eigenvalues[before : before + 2, 0]
            gaps.append(abs(eta * (before + p[0] / (p[0] - p[1])) - T))
        assert gaps[0] < 0.02 * T
        # first order in the step size
        assert gaps[2] < 0.3 * gaps[0]


# --- targets and starts outside the theory ------------------------------------------------------


def diagonal_runs(starts, targets, step_size, steps):
    """Final products of 1-by-1 problems: `starts` has one row for each factor."""
    factors = [row[:, None, None] for row in starts]
    products, _ = pert.many_descents(np.reshape(targets, (-1, 1, 1)), factors, step_size, steps)
    return products[:, 0, 0]


@pytest.mark.ledger("perturbed-thm-tie")
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_a_unique_smallest_entry_recovers_both_signs(depth):
    rng = np.random.default_rng(depth)
    starts = rng.choice([-1, 1], (depth, 300)) * rng.uniform(0.6, 1.2, (depth, 300))
    starts[rng.integers(depth, size=300), np.arange(300)] *= 0.4
    lam = rng.choice([-1, 1], 300) * rng.uniform(0.5, 2, 300)
    errors = np.abs(diagonal_runs(starts, lam, 0.02, 6000) - lam)
    evidence.at_most(errors, 1e-8)


@pytest.mark.ledger("perturbed-thm-tie")
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_a_tie_for_the_smallest_entry_keeps_the_sign(depth):
    rng = np.random.default_rng(depth)
    starts = rng.uniform(0.6, 1.2, (depth, 200))
    starts[:2] = 0.3
    lam = -rng.uniform(0.5, 2, 200)
    products = diagonal_runs(starts, lam, 0.02, 6000)
    evidence.holds(products >= 0)
    assert products.max() < 1e-2


@pytest.mark.ledger("perturbed-thm-tie")
@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.booleans(), st.integers(0, 2**32 - 1))
def test_the_flow_of_any_real_entries_is_decided_by_the_smallest(depth, tie, seed):
    rng = np.random.default_rng(seed)
    starts = rng.choice([-1, 1], depth) * rng.uniform(0.6, 1.2, depth)
    starts[0] = 0.3 * np.sign(starts[0])
    if tie:
        starts[1] = 0.3 * np.sign(starts[1])
    lam = -np.sign(np.prod(starts)) * rng.uniform(0.5, 2)  # on the other side of zero

    def motion(t, d):
        others = [np.prod(np.delete(d, i)) for i in range(depth)]
        return (lam - np.prod(d)) * np.array(others)

    solved = solve_ivp(motion, (0, 60), starts, method="LSODA", rtol=1e-10, atol=1e-13)
    products = solved.y.prod(axis=0) * np.sign(np.prod(starts))
    if tie:
        # rounding parts the two entries in the end; their difference is what LSODA lets through
        evidence.holds(products.min() > -1e-6)
    else:
        evidence.agree(products[-1], -abs(lam), atol=1e-7)


def test_many_descents_is_gradient_descent():
    rng = np.random.default_rng(2)
    targets = rng.standard_normal((3, 3, 3))
    starts = [0.5 * rng.standard_normal((3, 3, 3)), 0.4 * np.eye(3), rng.uniform(size=(3, 3))]
    products, _ = pert.many_descents(targets, starts, 0.01, 300)
    for i, target in enumerate(targets):
        factors = [W if W.ndim == 2 else W[i] for W in starts]
        run = gradient_descent(FullObservation(target), factors, 0.01, MaxSteps(300), record=300)
        assert_allclose(products[i], run.products[-1], atol=1e-12)


def negative_targets(count, seed):
    targets = np.random.default_rng(seed).standard_normal((count, 3, 3))
    targets[np.linalg.det(targets) > 0, 0] *= -1
    return targets


@pytest.mark.ledger("perturbed-thm-determinant")
@pytest.mark.parametrize("depth", [2, 3])
def test_the_flow_from_the_identical_start_keeps_the_sign_of_the_determinant(depth):
    for target in negative_targets(4, depth):
        smallest = np.linalg.svd(target, compute_uv=False)[-1]
        run = gradient_flow(
            FullObservation(target),
            [0.3 * np.eye(3)] * depth,
            t_final=15,
            method="DOP853",
            rtol=1e-10,
            atol=1e-14,
        )
        assert (np.linalg.det(run.products) > 0).all()
        # the distance of the target to the matrices of determinant >= 0
        away = np.linalg.norm(run.products - target, axis=(1, 2)).min()
        evidence.at_most(smallest, away, slack=1e-6)


@pytest.mark.ledger("perturbed-thm-determinant")
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("kind", ["full", "completion", "sensing"])
def test_every_factor_keeps_a_positive_determinant_for_every_loss(depth, kind):
    rng = np.random.default_rng(depth)
    for target in negative_targets(3, 10 + depth):
        loss = {
            "full": FullObservation(target),
            "completion": Completion(target, rng.random((3, 3)) < 0.7),
            "sensing": Sensing(rng.standard_normal((5, 3, 3)), rng.standard_normal(5)),
        }[kind]
        run = gradient_flow(
            loss, [0.5 * np.eye(3)] * depth, t_final=3, method="DOP853", rtol=1e-10, atol=1e-14,
            keep=("factors",),
        )  # fmt: skip
        evidence.holds([(np.linalg.det(factor) > 0).all() for factor in run.factors])


def test_descent_from_the_identical_start_loses_the_sign_later_for_smaller_steps():
    targets = negative_targets(30, 0)
    times = []
    for eta in (0.08, 0.02):
        _, change = pert.many_descents(targets, [0.3 * np.eye(3)] * 2, eta, int(60 / eta))
        times.append(np.where(change > 0, eta * change, np.inf))
    both = np.isfinite(times[1])
    assert both.mean() > 0.6
    assert (times[1][both] > times[0][both]).all()
    # a leak of order eta delays the crossing by ln(4) / (2 sigma_n), as the closed form predicts
    smallest = np.linalg.svd(targets, compute_uv=False)[:, -1]
    delay = 2 * (times[1][both] - times[0][both]) * smallest[both] / np.log(4)
    assert np.median(delay) == pytest.approx(1, abs=0.1)


def test_symmetric_targets_keep_identical_factors_identical():
    target = V * EXAMPLE_2 @ V.T
    # two tiny eigenvalues: their product is above rounding for the first 200 steps only
    products, change = pert.many_descents(target[None], [0.4 * np.eye(4)] * 2, 0.01, 200)
    assert change.tolist() == [-1]
    assert_allclose(np.sort(np.linalg.eigvalsh(products[0]))[[0, 3]], [0, 5], atol=1e-5)


# --- the plateau rule ---------------------------------------------------------------------------


def test_effective_rank_is_that_of_the_products():
    path = pert.dynamics(EXAMPLE_1, 3, 0.1, 0.05, 1e-3, 4000, record=500)
    for kind in ("entropy", "nuclear", "stable"):
        expected = [effective_rank(np.diag(row), kind) for row in path.eigenvalues]
        assert_allclose(path.effective_rank(kind), expected, rtol=1e-12)


def test_plateau_steps_are_those_of_the_rule_in_a_matrix_run():
    path = pert.dynamics((10, 3, -1), 3, 0.1, 0.05, 2e-3, 16_000, record=20)
    found = pert.plateau_steps(path, 600)
    assert len(found) >= 3
    for count, step in enumerate(found, start=1):
        rule = RankPlateaus(count, length=600, every=20)
        run = gradient_descent(
            FullObservation(np.diag([10.0, 3.0, -1.0])),
            perturbed(3, 3, 0.1, 0.05),
            2e-3,
            rule | MaxSteps(16_000),
            record=16_000,
        )
        assert run.times[-1] == step


# --- input --------------------------------------------------------------------------------------

GOOD = {"eigenvalue": -2.0, "depth": 3, "scale": 0.5, "perturbation": 0.2}
SPECTRUM = {"eigenvalues": [1.0, -2.0], "depth": 3, "scale": 0.5}
RUN = {**SPECTRUM, "perturbation": 0.2, "step_size": 0.01, "steps": 5}
GRID = {**GOOD, "step_size": 0.01, "steps": 5}
NOT_REAL = [np.nan, np.inf, "1", None, 1j]
NOT_POSITIVE = [0, -1.0, *NOT_REAL]
BETA = [0, -0.1, 0.5, 0.7, np.nan, "1", None]
DEPTH = [0, -1, 2.5, "3", None, True]
LOST = {"eigenvalues": [[], [np.nan], "a", None, [1j]]}
COMMON = {"depth": DEPTH, "scale": NOT_POSITIVE}
MANY = {"targets": np.ones((2, 2, 2)), "factors": [np.eye(2)], "step_size": 0.1, "steps": 3}

TABLE = [
    (pert.growth_constant, {}, {"depth": DEPTH}),
    (pert.max_step_size, SPECTRUM, LOST | COMMON),
    (pert.monotone_step_size, SPECTRUM, LOST | COMMON),
    (pert.stability_limit, {"eigenvalues": 1.0, "depth": 2}, {**LOST, "depth": DEPTH}),
    (pert.stability_limit, {"depth": 2}, {"eigenvalues": [0, [0.0, 0.0]]}),
    (
        pert.conserved_quantity,
        {"scale": 0.5, "perturbation": 0.2},
        {"scale": NOT_POSITIVE, "perturbation": BETA},
    ),
    (
        pert.eigendecomposition,
        {},
        {"target": [[1.0], np.ones((2, 3)), [[1.0, 2.0], [0.0, 1.0]], [[np.nan]], None, "a"]},
    ),
    (
        pert.dynamics,
        RUN,
        {
            **LOST,
            **COMMON,
            "perturbation": BETA,
            "step_size": NOT_POSITIVE,
            "steps": [-1, 1.5, "3", None],
            "record": [0, -1, 1.5, "2", [], [1.5], [-1], [[1]], [[1], [1, 2]]],
        },
    ),
    (
        pert.final_errors,
        GRID,
        {
            "eigenvalue": [np.nan, "a", None],
            "depth": [*DEPTH, 1],
            "scale": [0, -1, np.nan, "a"],
            "perturbation": [0, 0.5, [0.1, 0.6], np.nan],
            "step_size": [0, [0.1, -0.1], np.inf],
            "steps": [-1, 1.5, np.nan],
        },
    ),
    *(
        (function, GOOD | more, {"depth": [*DEPTH, 1], "scale": NOT_POSITIVE, "perturbation": BETA})
        for function, more in (
            (pert.flow_limit, {}),
            (pert.flow_time, {"end": -1.0}),
            (pert.crossing_time, {}),
            (pert.invariant_drift, {}),
            (pert.invariant_drift_bound, {"step_size": 1e-3}),
        )
    ),
    (pert.flow_time, GOOD | {"end": -1.0}, {"eigenvalue": NOT_REAL}),
    (pert.flow_time, GOOD, {"end": [-2.0, -3.0, 0.2, 5.0, *NOT_REAL]}),
    (pert.crossing_time, GOOD, {"eigenvalue": [0, 1.0, *NOT_REAL]}),
    (pert.invariant_drift_bound, GOOD, {"step_size": [0, -1, 1.0, *NOT_REAL]}),
    (
        pert.plateau_time,
        {"sign": 1, "depth": 3, "scale": 0.5, "perturbation": 0.2},
        {"sign": [0, 2, "+"], "depth": [*DEPTH, 2], "scale": NOT_POSITIVE, "perturbation": BETA},
    ),
    (
        pert.many_descents,
        MANY,
        {
            "targets": [np.eye(2), np.ones((2, 2, 3)), "a", None],
            "factors": [[], None, [np.eye(3)], [[1.0]], [np.ones((3, 2, 2))]],
            "step_size": [*NOT_POSITIVE, 2.5e3],
            "steps": [-1, 1.5, "3"],
        },
    ),
    (
        pert.plateau_steps,
        {"path": pert.dynamics(1.0, 2, 0.5, 0.2, 0.01, 5), "length": 2},
        {
            "path": [None, 3],
            "length": [0, -1, "a"],
            "tolerance": [0, -1, np.nan],
            "kind": ["rank", None],
        },
    ),
]
CASES = [
    (function, {**good, name: value}, name)
    for function, good, bad in TABLE
    for name, values in bad.items()
    for value in values
]


@pytest.mark.parametrize(("function", "arguments", "name"), CASES)
def test_bad_input_is_named(function, arguments, name):
    if function is pert.many_descents and arguments["step_size"] == 2.5e3:
        arguments = arguments | {"factors": [np.eye(2)] * 2, "steps": 50}
    with pytest.raises(ValueError, match=rf"(?s)^{name}.* must (be|have)"):
        function(**arguments)


def test_good_input_of_the_table_is_good():
    for function, good, bad in TABLE:
        missing = {"depth": 3, "eigenvalues": 1.0, "target": np.eye(2), "end": -1.0}
        missing["step_size"] = 1e-3
        function(**{**{k: v for k, v in missing.items() if k in bad}, **good})


def test_asymmetry_is_measured_in_the_message():
    with pytest.raises(ValueError, match=r"opposite entries differ by 2"):
        pert.eigendecomposition([[1.0, 2.0], [0.0, 1.0]])
    target = V * EXAMPLE_1 @ V.T
    values, vectors = pert.eigendecomposition(target)
    assert_allclose(values, EXAMPLE_1, atol=1e-12)
    assert_allclose(vectors * values @ vectors.T, target, atol=1e-12)
