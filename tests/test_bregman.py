"""Potentials against derivatives and decimals, the nearest solution against another solver."""

import warnings
from decimal import Decimal, localcontext

import evidence
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from dmflib import bregman as bg

seeds = st.integers(0, 2**32 - 1)
QUICK = settings(deadline=None)
depths = st.sampled_from([2, 3, 4, 5, 7])


def problem(seed, m=3, n=8, positive=True):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n))
    z = rng.exponential(size=n) if positive else rng.standard_normal(n)
    return A, A @ z, z, rng


# --- potentials ---------------------------------------------------------------------------------


@QUICK
@given(seeds, depths)
def test_gradients_are_derivatives_and_inverses(seed, depth):
    rng = np.random.default_rng(seed)
    x, direction = np.exp(rng.uniform(-2, 2, 5)), rng.uniform(-1, 1, 5)
    h = 1e-4 * x.min()
    values = [bg.potential(x + k * h * direction, depth) for k in (-2, -1, 1, 2)]
    slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    assert_allclose(bg.gradient(x, depth) @ direction, slope, rtol=1e-6, atol=1e-6)
    assert_allclose(bg.inverse_gradient(bg.gradient(x, depth), depth), x, rtol=1e-12)


@pytest.mark.ledger("prop-sparse-recovery-mirror")
@QUICK
@given(seeds, depths)
def test_the_potential_gives_the_velocity_of_identical_factors(seed, depth):
    # F''(x) times the velocity -N x^{2-2/N} g is -g: the mirror form, without a factor of time.
    rng = np.random.default_rng(seed)
    x, g = np.exp(rng.uniform(-2, 2, 5)), rng.uniform(-1, 1, 5)
    w, h = x ** (1 / depth), 1e-6
    moved = (w - h * w ** (depth - 1) * g) ** depth, (w + h * w ** (depth - 1) * g) ** depth
    change = (bg.gradient(moved[0], depth) - bg.gradient(moved[1], depth)) / (2 * h)
    evidence.agree(change, -g, rtol=1e-6, atol=1e-8)


@QUICK
@given(seeds, depths)
def test_a_mirror_step_is_the_two_gradients_one_after_the_other(seed, depth):
    rng = np.random.default_rng(seed)
    x = np.exp(rng.uniform(-2, 2, 5))
    step = rng.uniform(-3, 0.9, 5) * (1.0 if depth == 2 else -bg.gradient(x, depth))
    expected = bg.inverse_gradient(bg.gradient(x, depth) + step, depth)
    assert_allclose(bg.mirror_step(x, step, depth), expected, rtol=1e-10)


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
def test_a_mirror_step_keeps_tiny_entries_accurate(depth):
    x = 1e-30
    limit = 1.0 if depth == 2 else -bg.gradient(x, depth)
    with localcontext() as context:
        context.prec = 80
        p, big = 1 - Decimal(2) / depth, Decimal(x)
        for part in (-1e2, -1e-9, 1e-12, 0.5, 1 - 2.0**-30):
            if depth == 2:
                exact = big * (2 * Decimal(part)).exp()
            else:
                exact = (big**-p - (depth - 2) * Decimal(part * limit)) ** (-1 / p)
            moved = bg.mirror_step(x, part * limit, depth)
            # a number this near to the end of the domain is known to 2^-22 only
            assert abs(moved / float(exact) - 1) < (1e-5 if part > 0.9 else 1e-11)


@QUICK
@given(seeds, depths)
def test_the_divergence_is_its_definition(seed, depth):
    rng = np.random.default_rng(seed)
    z, x = rng.exponential(size=(2, 4))
    x = x + 1e-3
    z[0] = 0.0
    expected = bg.potential(z, depth) - bg.potential(x, depth) - bg.gradient(x, depth) @ (z - x)
    assert_allclose(bg.divergence(z, x, depth), expected, rtol=1e-9, atol=1e-9)
    assert bg.divergence(x, x, depth) == 0


@QUICK
@given(seeds, depths, st.floats(-12, 0))
def test_the_divergence_of_near_points_is_exact_and_positive(seed, depth, digits):
    rng = np.random.default_rng(seed)
    x = float(rng.exponential() + 0.1)
    z = x * (1 + 10**digits * float(rng.choice([-1, 1])) / 2)
    with localcontext() as context:
        context.prec = 60
        Z, X, N = Decimal(z), Decimal(x), Decimal(depth)
        if depth == 2:
            exact = (Z * (Z / X).ln() + X - Z) / 2
        else:
            exact = (N - 2) * X ** (2 / N) + 2 * Z * X ** (2 / N - 1) - N * Z ** (2 / N)
            exact /= 2 * (N - 2)
        # z/x is known to rounding, and the divergence is of second order in it
        allowed = 1e-9 + 1e-15 * 10**-digits
        assert abs(bg.divergence(z, x, depth) / float(exact) - 1) < allowed


@QUICK
@given(seeds)
def test_depth_two_is_half_of_kullback_and_leibler(seed):
    from scipy.special import kl_div

    z, x = np.random.default_rng(seed).exponential(size=(2, 6)) + 1e-6
    assert_allclose(bg.divergence(z, x, 2), kl_div(z, x).sum() / 2, rtol=1e-8, atol=1e-12)


@pytest.mark.ledger("prop-sparse-recovery-mirror")
@QUICK
@given(seeds, depths)
def test_the_dual_potential_is_half_the_squared_norm_of_the_factors(seed, depth):
    x = np.random.default_rng(seed).exponential(size=6) + 1e-3
    legendre = bg.gradient(x, depth) @ x - bg.potential(x, depth)
    evidence.agree(legendre, (x ** (2 / depth)).sum() / 2, rtol=1e-9)


# --- the hyperbolic entropy ---------------------------------------------------------------------


@pytest.mark.ledger("prop-sparse-recovery-entropy")
@QUICK
@given(seeds, st.floats(0.05, 5))
def test_depth_two_has_the_closed_form(seed, scale):
    x = np.random.default_rng(seed).standard_normal(5)
    z = x / scale**2
    q = 2 - np.sqrt(4 + z**2) + z * np.arcsinh(z / 2)
    expected = scale**2 * q.sum() / 2
    evidence.agree(bg.hyperbolic_entropy(x, scale), expected, rtol=1e-8, atol=1e-12)
    assert_allclose(bg.hyperbolic_gradient(x, scale), np.arcsinh(z / 2) / 2, rtol=1e-12)
    dual = bg.hyperbolic_gradient(x, scale)
    evidence.agree(2 * scale**2 * np.sinh(2 * dual), x, rtol=1e-10)


@QUICK
@given(seeds, depths, st.floats(0.05, 5))
def test_its_gradient_is_its_derivative_and_has_an_inverse(seed, depth, scale):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(4)
    h = 1e-2 * (np.abs(x) + scale**depth)  # the entropy bends on this length
    line = x[:, None] + np.arange(-3, 4) * h[:, None]
    values = bg.hyperbolic_entropy(line[:, :, None], scale, depth)
    slope = values @ np.array([-1, 9, -45, 0, 45, -9, 1]) / (60 * h)
    dual = bg.hyperbolic_gradient(x, scale, depth)
    assert_allclose(dual, slope, rtol=1e-6, atol=1e-6 * np.abs(dual).max())
    # Near the ends of the domain the dual is known to rounding only, and x answers steeply.
    back = bg.hyperbolic_inverse_gradient(dual, scale, depth)
    p = 1 - 2 / depth
    steep = 1 + (1 + np.abs(x) / scale**depth) ** p * (depth - 2)
    assert (np.abs(back - x) <= 1e-13 * steep * (np.abs(x) + scale**depth)).all()


@pytest.mark.ledger("prop-sparse-recovery-entropy")
@pytest.mark.parametrize("depth", [3, 4, 6])
def test_deep_entropy_inverts_the_function_of_the_source(depth):
    z = np.linspace(-0.99, 0.99, 41)
    k = depth / (depth - 2)
    h = (1 - z) ** -k - (1 + z) ** -k
    for scale in (0.01, 1.0, 7.0):
        dual = z * scale ** (2 - depth) / (depth - 2)
        found = bg.hyperbolic_gradient(scale**depth * h, scale, depth)
        evidence.agree(found, dual, rtol=1e-7, atol=1e-12)
        assert_allclose(
            bg.hyperbolic_inverse_gradient(dual, scale, depth) / scale**depth, h, rtol=1e-10
        )


@pytest.mark.ledger("prop-sparse-recovery-entropy")
@QUICK
@given(seeds, depths, st.floats(0.1, 2))
def test_it_is_the_least_divergence_of_the_two_parts(seed, depth, scale):
    from scipy.optimize import minimize_scalar

    x = float(np.random.default_rng(seed).normal())
    start = scale**depth

    def split(log):
        smaller = np.exp(log)
        parts = np.array([abs(x) + smaller, smaller])
        return bg.divergence(parts, np.full(2, start), depth)

    best = minimize_scalar(split, bounds=(-40, np.log(start) + 1), method="bounded",
                           options={"xatol": 1e-9})  # fmt: skip
    evidence.agree(bg.hyperbolic_entropy([x], scale, depth), best.fun, rtol=1e-6, atol=1e-9)


@QUICK
@given(depths)
def test_from_the_square_to_the_absolute_value(depth):
    x = np.array([-2.0, 0.3, 1.0])
    large, small = 1e3, 1e-9
    quadratic = (x**2).sum() / (4 * depth * large ** (2 * depth - 2))
    assert_allclose(bg.hyperbolic_entropy(x, large, depth), quadratic, rtol=1e-4)
    # ratio of two vectors' entropies against the ratio of their l1 norms
    other = np.array([1.0, 0.0, 0.0])
    ratio = bg.hyperbolic_entropy(x, small, depth) / bg.hyperbolic_entropy(other, small, depth)
    assert abs(ratio / 3.3 - 1) < (0.05 if depth == 2 else 0.01)


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("scale", [1e-3, 0.3, 10.0])
def test_level_sets_lie_on_the_level(depth, scale):
    level = bg.hyperbolic_entropy([0.7, -0.2], scale, depth)
    curve = bg.level_set(level, scale, depth, points=37)
    assert_allclose(bg.hyperbolic_entropy(curve, scale, depth), level, rtol=1e-9)
    assert_allclose(curve[0], curve[-1], atol=1e-12 * np.abs(curve).max())


# --- the nearest solution -----------------------------------------------------------------------


def stationarity(A, x, x0, depth):
    """Largest part of the change of the gradient that is not of the form A^T nu, relative."""
    change = bg.gradient(x, depth) - bg.gradient(x0, depth)
    kernel = np.linalg.svd(A)[2][np.linalg.matrix_rank(A) :]
    return np.abs(kernel @ change).max(initial=0) / np.abs(change).max()


@QUICK
@given(seeds, depths, st.floats(-3, 1))
def test_the_conditions_of_the_positive_minimiser(seed, depth, digits):
    A, y, _, rng = problem(seed)
    x0 = 10**digits * np.exp(rng.uniform(-1, 1, 8))
    x = bg.minimizer(A, y, x0, depth)
    assert_allclose(A @ x, y, atol=1e-9 * np.linalg.norm(y))
    assert (x > 0).all()
    assert stationarity(A, x, x0, depth) < 1e-8


@QUICK
@given(seeds, depths)
def test_pythagoras_and_no_solution_is_nearer(seed, depth):
    A, y, z, rng = problem(seed)
    x0 = np.exp(rng.uniform(-2, 1, 8))
    x = bg.minimizer(A, y, x0, depth)
    total = bg.divergence(z, x0, depth)
    parts = bg.divergence(x, x0, depth) + bg.divergence(z, x, depth)
    assert_allclose(total, parts, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("signed", [False, True])
def test_it_agrees_with_a_conic_solver(depth, signed):
    import cvxpy as cp

    for seed in range(4):
        A, y, _, rng = problem(seed, 4, 9, positive=not signed)
        start = np.exp(rng.uniform(-1, 0, (2, 9) if signed else 9))
        z = cp.Variable(18 if signed else 9, nonneg=True)
        B, x0 = (np.hstack([A, -A]), start.ravel()) if signed else (A, start)
        if depth == 2:
            goal = cp.sum(cp.kl_div(z, x0))
        else:
            goal = 2 * (x0 ** (2 / depth - 1)) @ z - depth * cp.sum(cp.power(z, 2 / depth))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cp.Problem(cp.Minimize(goal), [B @ z == y]).solve(solver=cp.CLARABEL)
        ours = bg.minimizer(A, y, start, depth, signed)
        expected = z.value[:9] - z.value[9:] if signed else z.value
        assert_allclose(ours, expected, atol=1e-3)
        if not signed:  # the solver's objective is accurate to 1e-8, its point to the root of that
            theirs = bg.divergence(np.maximum(z.value, 0), start, depth)
            assert_allclose(bg.divergence(ours, start, depth), theirs, rtol=1e-6)


@QUICK
@given(seeds, depths, st.floats(-2, 0.3))
def test_the_signed_minimiser_is_stationary_for_the_hyperbolic_entropy(seed, depth, digits):
    A, y, _, rng = problem(seed, positive=False)
    scale = 10**digits * np.exp(rng.uniform(-0.3, 0.3, 8))
    x = bg.minimizer(A, y, scale**depth, depth, signed=True)
    assert_allclose(A @ x, y, atol=1e-9 * np.linalg.norm(y))
    dual = bg.hyperbolic_gradient(x, scale, depth)
    kernel = np.linalg.svd(A)[2][3:]
    assert np.abs(kernel @ dual).max() < 1e-8 * np.abs(dual).max()


def test_small_starts_at_every_depth_reach_rounding():
    A, _, _, rng = problem(1, 30, 100)
    z = np.zeros(100)
    z[:5] = [1, -2, 0.5, 1.5, -1]
    for depth in (2, 3, 4, 5):
        for scale in (1.0, 0.1, 1e-2, 1e-3):
            for signed, truth in ((True, z), (False, abs(z))):
                y = A @ truth
                x = bg.minimizer(A, y, scale**depth, depth, signed)
                assert np.linalg.norm(A @ x - y) < 1e-12 * np.linalg.norm(y)
                assert np.abs(x).sum() >= np.abs(truth).sum() - 1e-12
    del rng


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_entries_that_every_solution_has_at_zero(depth):
    # z_1 + z_2 = 0 leaves no choice; the others are nearest to the start on z_3 + z_4 = 1.
    A = np.array([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    assert_allclose(bg.minimizer(A, [0, 1], 0.3, depth), [0, 0, 0.5, 0.5], atol=1e-12)
    assert_allclose(bg.minimizer(A, [0, 0], 0.3, depth), 0, atol=1e-12)


def test_systems_of_dependent_rows_and_zero_columns():
    A = np.array([[1.0, 2, 0], [2, 4, 0]])
    x = bg.minimizer(A, [1, 2], [0.1, 0.1, 0.7], 3)
    assert_allclose(A @ x, [1, 2], atol=1e-12)
    assert x[2] == pytest.approx(0.7)  # nothing is measured of it
    assert_allclose(bg.minimizer(np.zeros((1, 2)), [0], 0.5, 2), 0.5)


def test_the_message_holds_the_residual_of_the_best_fit():
    with pytest.raises(ValueError, match=r"y=.*range of A.*residual of norm 1\.000e\+00"):
        bg.minimizer([[1, 0], [0, 0]], [0, 1], 1.0, 2, signed=True)
    with pytest.raises(ValueError, match=r"y=.*z >= 0.*residual of norm 2\.000e\+00"):
        bg.minimizer([[1, 1]], [-2], 1.0, 2)


def refusal(A, y):
    """The residual that the refusal of a non-negative solution names, or 0 without a refusal."""
    try:
        bg.check_solvable(A, y, nonnegative=True)
    except ValueError as error:
        return float(str(error).split()[-1])
    return 0.0


SHAPES = [(1, 1), (1, 6), (3, 3), (3, 8), (8, 3), (10, 30), (20, 60)]


def draw_columns(rng, m, n):
    """Columns that are Gaussian, non-negative, repeated, zero, or of very different lengths."""
    A = rng.standard_normal((m, n))
    kind = rng.integers(5)
    if kind == 1:
        A = np.abs(A)
    elif kind == 2:
        A = A[:, rng.integers(n, size=n)]
    elif kind == 3:
        A[:, rng.random(n) < 0.3] = 0
    elif kind == 4:
        A *= 10.0 ** rng.integers(-5, 6, n)
    return A


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from(SHAPES), share=st.floats(0, 1))
def test_what_a_nonnegative_vector_produces_is_solvable(seed, shape, share):
    rng = np.random.default_rng(seed)
    A = draw_columns(rng, *shape)
    z = rng.exponential(size=shape[1]) * (rng.random(shape[1]) < share)
    assert refusal(A, A @ z) == 0


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(SHAPES),
    share=st.floats(0, 1),
    exponent=st.floats(-7, 2),
)
def test_the_residual_of_a_refusal_is_the_distance_to_the_cone(seed, shape, share, exponent):
    # The nearest point is known beforehand: no column has a positive product with the residual,
    # those in use have the product zero (the conditions of Karush, Kuhn and Tucker). All entries
    # are integers, so that these products are exact.
    rng = np.random.default_rng(seed)
    m, n = shape
    A = rng.integers(-9, 10, (m, n))
    normal = rng.choice([-1, 1], m)
    used = rng.random(n) < share
    A = m * A - np.outer(normal, np.where(used, normal @ A, np.maximum(normal @ A, 0)))
    A = A * 2.0 ** rng.integers(-9, 10, n)
    normal = normal / np.sqrt(m)
    nearest = A @ (rng.exponential(size=n) * used)
    distance = 10.0**exponent * (np.linalg.norm(nearest) or 1)
    assert_allclose(refusal(A, nearest + distance * normal), distance, rtol=1e-3)
    closer = nearest + 1e-10 * np.linalg.norm(nearest) * normal
    assert refusal(A, closer) == 0


BAD = [
    (bg.potential, ([-1.0], 2), "x"),
    (bg.potential, ([1.0], 1), "depth"),
    (bg.gradient, ([0.0], 3), "x"),
    (bg.gradient, ([1.0], 2.5), "depth"),
    (bg.inverse_gradient, ([0.0], 3), "dual"),
    (bg.inverse_gradient, ([np.nan], 2), "dual"),
    (bg.mirror_step, ([0.0], 1.0, 2), "x"),
    (bg.mirror_step, ([1.0], 1.0, 3), "step"),
    (bg.mirror_step, ([1.0], 1e9, 2), "step"),
    (bg.divergence, ([-1.0], [1.0], 2), "z"),
    (bg.divergence, ([1.0], [0.0], 2), "x"),
    (bg.divergence, ([1.0, 2.0], [1.0, 2.0, 3.0], 2), "z"),
    (bg.hyperbolic_entropy, ([1.0], 0.0), "scale"),
    (bg.hyperbolic_entropy, ([1.0], [1.0, 2.0, 3.0], 0), "depth"),
    (bg.hyperbolic_entropy, ([1.0, 2.0], [1.0, 2.0, 3.0]), "scale"),
    (bg.hyperbolic_gradient, ("a", 1.0), "x"),
    (bg.hyperbolic_inverse_gradient, ([1.0], 1.0, 3), "dual"),
    (bg.hyperbolic_inverse_gradient, ([1e9], 1.0, 2), "dual"),
    (bg.level_set, (0.0, 1.0), "level"),
    (bg.level_set, (1.0, -1.0), "scale"),
    (bg.level_set, (1.0, 1.0, 2, 3), "points"),
    (bg.check_solvable, ([1.0], [1.0]), "A"),
    (bg.check_solvable, ([[1.0]], [1.0, 2.0]), "y"),
    (bg.minimizer, ([[1.0, 1.0]], [1.0], 0.0, 2), "start"),
    (bg.minimizer, ([[1.0, 1.0]], [1.0], [1.0, 1.0, 1.0], 2), "start"),
    (bg.minimizer, ([[1.0, 1.0]], [1.0], np.ones((2, 2)), 2), "start"),
    (bg.minimizer, ([[1.0, 1.0]], [1.0], 1.0, 1), "depth"),
    (bg.minimizer, ([[1.0, 1.0]], [1.0], 1.0, 2, "yes"), "signed"),
]


@pytest.mark.parametrize(("function", "arguments", "name"), BAD)
def test_bad_input_is_named(function, arguments, name):
    with pytest.raises(ValueError, match=rf"^{name}[ =].*must be"):
        function(*arguments)


def test_a_start_that_underflows_is_refused_or_served():
    rng = np.random.default_rng(1)
    A = rng.standard_normal((4, 9))
    y = A @ np.maximum(rng.standard_normal(9), 0)
    refusals = []
    for exponent in (100, 200, 300):
        for depth in (2, 5):
            try:
                x = bg.minimizer(A, y, 10.0**-exponent, depth)
            except ValueError as error:
                refusals.append(str(error))
            else:
                assert np.linalg.norm(A @ x - y) <= 1e-10 * np.linalg.norm(y)
    assert refusals
    assert all("start=1e-" in text for text in refusals)
