"""The operator against its definition, the metric against three other formulas, volume by hand."""

import itertools
import math

import evidence
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.linalg import expm
from test_bad_input import cases

from dmflib import riemannian_geometry as rg
from dmflib.flow import gradient_flow, product_flow
from dmflib.linear_networks import balance_defects, balanced, product_velocity
from dmflib.losses import Completion, FullObservation, Sensing
from dmflib.matrices import distance_to_rank, psd_power
from dmflib.stopping import Diverged, DivergenceWarning

seeds = st.integers(0, 2**32 - 1)
depths = st.integers(2, 6)
I2 = np.eye(2)


def random_matrix(rng, m, n, rank=None, spread=1.0):
    """Singular values within a factor of ten or so times the spread, vectors uniform."""
    rank = min(m, n) if rank is None else rank
    U = np.linalg.qr(rng.standard_normal((m, m)))[0][:, :rank]
    V = np.linalg.qr(rng.standard_normal((n, n)))[0][:, :rank]
    return (U * 10 ** (spread * rng.uniform(-0.5, 0.5, rank))) @ V.T


def balanced_low_rank(W, rank, depth):
    """Balanced factors with exact zeros: rounding errors would enter with the power 1/N."""
    U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
    root = np.where(np.arange(len(sigma)) < rank, sigma, 0) ** (1 / depth)
    return [root[:, None] * Vt, *(np.diag(root) for _ in range(depth - 2)), U * root]


# --- the operator --------------------------------------------------------------------------------


@given(seeds)
def test_operator_is_its_definition(seed):
    W, _, _, depth = rg.random_point(seed)
    Z = np.random.default_rng(seed).standard_normal(W.shape)
    terms = [
        psd_power(W @ W.T, (depth - j) / depth) @ Z @ psd_power(W.T @ W, (j - 1) / depth)
        for j in range(1, depth + 1)
    ]
    scale = depth * np.linalg.norm(W, 2) ** (2 - 2 / depth) * np.linalg.norm(Z)
    # Powers of the squared matrix see its zero eigenvalues as rounding to the power 1/N.
    atol = scale * 1e-15 ** (1 / depth)
    assert_allclose(rg.operator(W, Z, depth), sum(terms), atol=10 * atol)
    assert_allclose(rg.operator(W, Z, depth), -product_velocity(W, Z, depth), atol=1e-12 * scale)


@pytest.mark.ledger("lem-riemannian-geometry-eigen")
@given(seeds, depths, st.sampled_from([(3, 3), (4, 2), (2, 5)]), st.integers(1, 3), st.booleans())
def test_products_of_singular_vectors_are_eigenvectors(seed, depth, shape, rank, equal):
    """The operator by its definition, with powers in which zeros stay zeros."""
    rng = np.random.default_rng(seed)
    bases = [np.linalg.qr(rng.standard_normal((k, k)))[0] for k in shape]
    sigma = 10 ** rng.uniform(-0.5, 0.5, max(shape))
    sigma[min(rank, *shape) :] = 0
    sigma[1] = sigma[0] if equal and sigma[1] else sigma[1]

    def power(side, exponent):
        return bases[side] * (sigma[: shape[side]] ** 2) ** exponent @ bases[side].T

    values = rg.eigenvalues(sigma, depth)
    x, y = sigma[:, None], sigma
    with np.errstate(invalid="ignore"):
        quotient = (x**2 - y**2) / (x ** (2 / depth) - y ** (2 / depth))
    near = np.abs(x - y) < 1e-3 * (x + y)  # there the quotient has no digits
    formula = np.where(x == y, depth * x ** (2 - 2 / depth), np.where(near, values, quotient))
    evidence.agree(values, formula, rtol=1e-9)
    for r, s in itertools.product(*map(range, shape)):
        Z = np.outer(bases[0][:, r], bases[1][:, s])
        image = sum(
            power(0, (depth - j) / depth) @ Z @ power(1, (j - 1) / depth)
            for j in range(1, depth + 1)
        )
        evidence.agree(image, formula[r, s] * Z, atol=1e-9)


@given(seeds)
def test_operator_is_symmetric_and_positive_on_the_tangent_space(seed):
    W, Z1, Z2, depth = rg.random_point(seed)
    image = rg.operator(W, Z1, depth)
    sigma = np.linalg.svd(W, compute_uv=False)
    rank = np.linalg.matrix_rank(W)
    top = depth * sigma[0] ** (2 - 2 / depth)
    size = np.linalg.norm(Z1) * np.linalg.norm(Z2)
    assert abs(np.vdot(image, Z2) - np.vdot(Z1, rg.operator(W, Z2, depth))) <= 1e-12 * top * size
    assert np.linalg.norm(image - rg.tangent_part(W, image)) <= 1e-9 * top * np.linalg.norm(Z1)
    least = sigma[rank - 1] ** (2 - 2 / depth) * (depth if rank == max(W.shape) else 1)
    square = np.vdot(Z1, Z1)
    assert least * (1 - 1e-9) * square <= np.vdot(image, Z1) <= top * (1 + 1e-9) * square


@pytest.mark.ledger("prop-riemannian-geometry-tangent")
@pytest.mark.parametrize(
    ("m", "n", "rank"), [(3, 3, 3), (3, 3, 2), (4, 2, 2), (2, 5, 1), (3, 4, 2)]
)
def test_rank_of_the_operator_is_the_dimension_and_its_extremes_are_attained(m, n, rank):
    W = random_matrix(np.random.default_rng(m + 10 * n), m, n, rank)
    sigma = np.linalg.svd(W, compute_uv=False)[:rank]
    for depth in (2, 3, 6):
        columns = [rg.operator(W, E.reshape(m, n), depth).ravel() for E in np.eye(m * n)]
        values = np.linalg.eigvalsh(np.array(columns))
        positive = values[values > 1e-10 * values[-1]]
        evidence.agree(len(positive), rank * (m + n - rank))
        evidence.agree(positive[-1], depth * sigma[0] ** (2 - 2 / depth), rtol=1e-7)
        full = rank == max(m, n)
        least = (depth if full else 1) * sigma[-1] ** (2 - 2 / depth)
        evidence.agree(positive[0], least, rtol=1e-7)


@given(seeds, depths)
def test_eigenvalues_by_the_quotient(seed, depth):
    sigma = 10 ** np.random.default_rng(seed).uniform(-3, 3, 4)
    assume(np.abs(np.subtract.outer(sigma, sigma) + np.diag(sigma)).min() > 1e-3 * sigma.min())
    a = rg.eigenvalues(sigma, depth)
    r, s = np.triu_indices(4, 1)
    x, y = np.maximum(sigma[r], sigma[s]), np.minimum(sigma[r], sigma[s])
    assert_allclose(a[r, s], (x**2 - y**2) / (x ** (2 / depth) - y ** (2 / depth)), rtol=1e-10)
    assert_allclose(np.diag(a), depth * sigma ** (2 - 2 / depth), rtol=1e-13)
    assert_allclose(a, a.T, rtol=1e-13)


def test_equal_and_vanishing_values():
    assert_allclose(rg.eigenvalues([2.0, 2.0], 3), 3 * 2 ** (4 / 3))
    a = rg.eigenvalues([2.0, 0.0], 3)
    assert_allclose(a, [[3 * 2 ** (4 / 3), 2 ** (4 / 3)], [2 ** (4 / 3), 0]])
    assert_allclose(rg.eigenvalues([2.0, 0.0], 1), 1)
    assert_allclose(rg.eigenvalues([2.0, 0.0], np.inf), [[4, 0], [0, 0]])
    close = rg.eigenvalues([1.0, 1.0 + 1e-12], np.inf)
    assert_allclose(close, 1, rtol=1e-11)


@pytest.mark.ledger("thm-riemannian-geometry-infinite")
@given(seeds)
def test_infinite_depth_is_the_limit_with_its_first_correction(seed):
    sigma = 10 ** np.random.default_rng(seed).uniform(-1, 1, 3)
    limit, errors = rg.eigenvalues(sigma, np.inf), []
    correction = -np.log(np.multiply.outer(sigma, sigma))
    for depth in (100, 200):
        expansion = limit * (1 + correction / depth)
        errors.append(
            np.abs(rg.eigenvalues(sigma, depth) / depth / limit - expansion / limit).max()
        )
    evidence.at_most(errors[0], 20 / 100**2)
    evidence.at_most(errors[1], 0.3 * errors[0] + 1e-13)


@pytest.mark.ledger("thm-riemannian-geometry-infinite")
@given(seeds)
def test_operator_of_infinite_depth_is_an_integral(seed):
    rng = np.random.default_rng(seed)
    W, Z = random_matrix(rng, 3, 3), rng.standard_normal((3, 3))
    values, U = np.linalg.eigh(W @ W.T)
    other, V = np.linalg.eigh(W.T @ W)
    nodes, weights = np.polynomial.legendre.leggauss(30)
    total = sum(
        w / 2 * (U * values ** (1 - s)) @ U.T @ Z @ (V * other**s) @ V.T
        for s, w in zip((nodes + 1) / 2, weights, strict=True)
    )
    evidence.agree(rg.operator(W, Z, np.inf), total, atol=1e-9)


# --- tangent spaces ------------------------------------------------------------------------------


@given(seeds)
def test_tangent_spaces_and_retraction_are_those_of_pymanopt(seed):
    from pymanopt.manifolds import FixedRankEmbedded

    rng = np.random.default_rng(seed)
    m, n = rng.integers(2, 6, 2)
    rank = int(rng.integers(1, min(m, n)))  # its QR-based retraction needs 2 rank <= m, n
    manifold = FixedRankEmbedded(int(m), int(n), rank)
    W, Z = random_matrix(rng, m, n, rank), rng.standard_normal((m, n))
    U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
    point = (U[:, :rank], sigma[:rank], Vt[:rank])
    tangent = manifold.projection(point, Z)
    left, middle, right = manifold.embedding(point, tangent)
    ambient = left @ middle @ right.T
    ours = rg.tangent_part(W, Z)
    assert_allclose(ours, ambient, atol=1e-12)
    if 2 * rank <= min(m, n):
        small = 0.1 * sigma[rank - 1] / np.linalg.norm(ours) * ours
        step = manifold.retraction(point, manifold.projection(point, small))
        assert_allclose(
            rg.nearest_of_rank(W + small, rank), (step[0] * step[1]) @ step[2], atol=1e-12
        )


@pytest.mark.ledger("prop-riemannian-geometry-tangent")
@given(seeds)
def test_tangent_part_contains_velocities_of_curves_and_is_a_projection(seed):
    W, Z1, _, _ = rg.random_point(seed)
    Z = np.random.default_rng(seed).standard_normal(W.shape)
    size = np.linalg.norm(Z1)
    # Z1 = AW + WB
    evidence.agree(rg.tangent_part(W, Z1) / size, Z1 / size, atol=1e-11)
    once = rg.tangent_part(W, Z)
    evidence.agree(rg.tangent_part(W, once), once, atol=1e-12)
    evidence.agree(np.vdot(Z - once, Z1) / (size * np.linalg.norm(Z)), 0.0, atol=1e-10)


def test_retraction_agrees_with_the_curve_to_first_order():
    rng = np.random.default_rng(0)
    W = random_matrix(rng, 4, 3, 2)
    Z = rg.tangent_part(W, rng.standard_normal((4, 3)))
    gaps = [np.linalg.norm(rg.nearest_of_rank(W + h * Z, 2) - W - h * Z) for h in (1e-2, 1e-3)]
    assert 90 < gaps[0] / gaps[1] < 110


# --- the metric ----------------------------------------------------------------------------------


@pytest.mark.ledger("thm-riemannian-geometry-integral")
@given(seeds, depths)
def test_integral_formula_is_the_metric(seed, depth):
    W, Z1, Z2, _ = rg.random_point(seed)
    lengths = rg.metric(W, Z1, Z1, depth) * rg.metric(W, Z2, Z2, depth)
    gap = rg.metric_integral(W, Z1, Z2, depth) - rg.metric(W, Z1, Z2, depth)
    # Numbers of the size of the condition of W are lost by both in rounding.
    sigma = np.linalg.svd(W, compute_uv=False)
    condition = sigma[0] / sigma[np.linalg.matrix_rank(W) - 1]
    evidence.agree(gap / np.sqrt(lengths) / max(1, condition / 1e4) ** 2, 0.0, atol=1e-10)


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6])
@pytest.mark.parametrize(
    ("m", "n", "rank"), [(3, 3, 3), (3, 3, 1), (4, 3, 2), (2, 4, 2), (1, 3, 1)]
)
def test_integral_formula_to_ten_digits(m, n, rank, depth):
    rng = np.random.default_rng(depth)
    W = random_matrix(rng, m, n, rank)
    Z1, Z2 = (rg.tangent_part(W, Z) for Z in rng.standard_normal((2, m, n)))
    both = rg.metric(W, Z1, Z2, depth), rg.metric_integral(W, Z1, Z2, depth)
    size = np.sqrt(rg.metric(W, Z1, Z1, depth) * rg.metric(W, Z2, Z2, depth))
    assert abs(both[0] - both[1]) < 1e-12 * size


@pytest.mark.ledger("thm-riemannian-geometry-integral")
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_integral_as_printed_by_adaptive_quadrature(depth):
    rng = np.random.default_rng(depth)
    W = random_matrix(rng, 3, 3)
    Z1, Z2 = rng.standard_normal((2, 3, 3))

    def integrand(s):
        t = np.exp(s)
        left = np.linalg.solve(t * np.eye(3) + W @ W.T, Z1)
        right = np.linalg.solve(t * np.eye(3) + W.T @ W, Z2.T)
        return np.trace(left @ right) * t ** (1 + 1 / depth)

    value = np.sin(np.pi / depth) / np.pi * quad(integrand, -60, 90, epsabs=1e-12, limit=300)[0]
    evidence.agree(value, rg.metric(W, Z1, Z2, depth), rtol=1e-9, atol=1e-9)


@pytest.mark.ledger("thm-riemannian-geometry-integral")
@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize(("m", "n", "rank"), [(3, 3, 2), (4, 2, 1), (2, 3, 1)])
def test_integral_diverges_off_the_tangent_space(m, n, rank, depth):
    rng = np.random.default_rng(depth)
    W, Z = random_matrix(rng, m, n, rank), rng.standard_normal((m, n))
    normal = np.linalg.norm(Z - rg.tangent_part(W, Z)) ** 2
    for t in (1e-9, 1e-11):
        left = np.linalg.solve(t * np.eye(m) + W @ W.T, Z)
        right = np.linalg.solve(t * np.eye(n) + W.T @ W, Z.T)
        # the integrand grows like t^(1/N - 2) at zero
        evidence.agree(np.trace(left @ right) * t**2, normal, rtol=1e-3)


@given(seeds)
def test_inverse_undoes_the_operator(seed):
    W, Z, _, depth = rg.random_point(seed)
    back = rg.operator(W, rg.inverse_operator(W, Z, depth), depth)
    assert_allclose(back, Z, atol=1e-9 * np.abs(Z).max())


@pytest.mark.ledger("thm-riemannian-geometry-gradient")
@given(seeds)
def test_metric_turns_the_flow_into_steepest_descent(seed):
    W, Z, _, depth = rg.random_point(seed)
    rng = np.random.default_rng(seed)
    G = FullObservation(rng.standard_normal(W.shape)).gradient(W)
    gradient = -product_velocity(W, G, depth)
    length = np.sqrt(rg.metric(W, gradient, gradient, depth))
    speed = np.sqrt(rg.metric(W, Z, Z, depth))
    sigma = np.linalg.svd(W, compute_uv=False)
    loose = 1e-10 * (sigma[0] / sigma[np.linalg.matrix_rank(W) - 1]) ** 2
    gap = rg.metric(W, gradient, Z, depth) - np.vdot(G, Z)
    allowed = 1e-12 * np.linalg.norm(G) * np.linalg.norm(Z) + loose * length * speed
    evidence.at_most(abs(gap), allowed)
    evidence.at_most(abs(np.vdot(G, Z)), length * speed, slack=1e-9)
    # the loss falls at the rate of the squared speed
    evidence.at_most(abs(np.vdot(G, gradient) - length**2), allowed + loose * length**2)


@pytest.mark.ledger("thm-riemannian-geometry-price")
@settings(deadline=None)
@given(seeds)
def test_metric_is_the_price_in_the_factors(seed):
    rng = np.random.default_rng(seed)
    m, n = rng.integers(1, 4, 2)
    depth, rank = int(rng.integers(2, 5)), int(rng.integers(1, min(m, n) + 1))
    W = random_matrix(rng, m, n, rank)
    factors = balanced_low_rank(W, rank, depth)
    Z = rg.tangent_part(W, rng.standard_normal((m, n)))
    velocities = rg.lift(factors, Z)
    evidence.agree(sum(np.vdot(D, D) for D in velocities), rg.metric(W, Z, Z, depth), rtol=1e-9)
    # Jacobian of the product, column by column, and the least solution by the pseudoinverse.
    columns = []
    for j, factor in enumerate(factors):
        for E in np.eye(factor.size):
            moved = [E.reshape(F.shape) if i == j else F for i, F in enumerate(factors)]
            total = moved[0]
            for F in moved[1:]:
                total = F @ total
            columns.append(total.ravel())
    least = np.linalg.pinv(np.array(columns).T, rcond=1e-9) @ Z.ravel()
    evidence.agree(np.concatenate([D.ravel() for D in velocities]), least, rtol=1e-7, atol=1e-8)
    # The cheapest motion keeps balance: the defects do not move to first order.
    h = 1e-6
    moved = [F + h * D for F, D in zip(factors, velocities, strict=True)]
    defect = max(np.linalg.norm(D) for D in balance_defects(moved))
    evidence.at_most(defect, 1e-9 * (1 + least @ least))


@pytest.mark.ledger("thm-riemannian-geometry-distance")
@given(seeds, st.integers(1, 6))
def test_distance_to_zero_is_the_length_of_the_ray_and_has_slope_one(seed, depth):
    rng = np.random.default_rng(seed)
    W = random_matrix(rng, 3, 3)
    # The ray t^N W has constant speed.
    speed = np.sqrt(rg.metric(W, depth * W, depth * W, depth))
    evidence.agree(rg.distance_to_zero(W, depth), speed, rtol=1e-10)
    sum_of_squares = sum(np.vdot(F, F) for F in balanced(W, depth))
    assert_allclose(rg.distance_to_zero(W, depth) ** 2, sum_of_squares, rtol=1e-10)
    # No direction changes it faster than its own length.
    Z, h = rng.standard_normal((3, 3)), 1e-6
    Z *= np.linalg.norm(W, -2) / np.linalg.norm(Z)
    slope = (rg.distance_to_zero(W + h * Z, depth) - rg.distance_to_zero(W - h * Z, depth)) / 2 / h
    evidence.at_most(abs(slope), np.sqrt(rg.metric(W, Z, Z, depth)) + 1e-7, slack=1e-6)


@pytest.mark.ledger("thm-riemannian-geometry-distance")
@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("seed", range(8))
def test_no_curve_is_shorter_than_the_difference_of_the_distances(seed, depth):
    """Curves of rank two, as products of paths of factors; the length by midpoints."""
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((2, 2, 3, 2))
    s = np.linspace(0, 1, 401)[:, None, None]
    path = (left[0] + s * left[1]) @ (right[0] + np.sin(s) * right[1]).transpose(0, 2, 1)
    middle, step = (path[1:] + path[:-1]) / 2, np.diff(path, axis=0)
    middle = [rg.nearest_of_rank(M, 2) for M in middle]
    step = [rg.tangent_part(M, D, 2) for M, D in zip(middle, step, strict=True)]
    length = sum(
        np.sqrt(rg.metric(M, D, D, depth, rank=2)) for M, D in zip(middle, step, strict=True)
    )
    sigma = np.linalg.svd(path[[0, -1]], compute_uv=False)[:, :2]
    distances = np.sqrt(depth * (sigma ** (2 / depth)).sum(axis=1))
    evidence.at_most(abs(distances[0] - distances[1]), length)


# --- the flow on matrices of fixed rank ----------------------------------------------------------


def low_rank_problem():
    rng = np.random.default_rng(3)
    W0 = random_matrix(rng, 4, 3, 2)
    return FullObservation(rng.standard_normal((4, 3))), W0


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_flow_on_fixed_rank_is_the_flow_of_the_factors(depth):
    loss, W0 = low_rank_problem()
    ours = rg.fixed_rank_flow(loss, W0, depth, 1.0, 400)
    factors = gradient_flow(loss, balanced(W0, depth), 1.0, method="DOP853", rtol=1e-11, atol=1e-13)
    assert_allclose(ours.products[-1], factors.products[-1], atol=1e-7)
    assert distance_to_rank(ours.products, 2).max() < 1e-14
    plain = product_flow(loss, W0, depth, 1.0, method="DOP853", rtol=1e-10, atol=1e-13)
    assert_allclose(ours.products[-1], plain.products[-1], atol=1e-6)


def test_retraction_keeps_order_four():
    loss, W0 = low_rank_problem()
    exact = rg.fixed_rank_flow(loss, W0, 3, 0.5, 2000).products[-1]
    errors = [
        np.linalg.norm(rg.fixed_rank_flow(loss, W0, 3, 0.5, k).products[-1] - exact)
        for k in (40, 80, 160)
    ]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (orders > 3.7).all()
    assert (orders < 4.4).all()


def test_plain_integration_loses_the_rank_at_depth_two():
    u, v = np.array([0.6, 0.8]), np.array([1.0, 0.0])
    loss, W0 = FullObservation(np.diag([2.0, 1.5])), np.outer(u, v)
    plain = rg.fixed_rank_flow(loss, W0, 2, 40.0, 800, rank=1, retract=False)
    kept = rg.fixed_rank_flow(loss, W0, 2, 40.0, 800)
    assert plain.singular_values[-1, 1] > 1.4
    assert kept.singular_values[:, 1].max() < 1e-14
    assert_allclose(kept.singular_values[-1, 0], 2, atol=1e-9)


@pytest.mark.ledger("thm-riemannian-geometry-rank")
@settings(max_examples=10, deadline=None)
@given(seeds)
def test_rank_is_kept_along_the_factors(seed):
    rng = np.random.default_rng(seed)
    W0 = random_matrix(rng, 3, 3, 2)
    loss = FullObservation(rng.standard_normal((3, 3)))
    depth = int(rng.integers(2, 5))
    factors = balanced_low_rank(W0, 2, depth)
    sigma = gradient_flow(loss, factors, 0.5, rtol=1e-6, atol=1e-9).singular_values
    evidence.at_most(sigma[:, 2], 1e-12)
    evidence.holds(sigma[:, 1] > 0)


def test_divergence_is_reported_with_its_step():
    loss = FullObservation(np.diag([50.0, 60.0]))
    with pytest.warns(DivergenceWarning, match="step"):
        run = rg.fixed_rank_flow(loss, np.diag([20.0, 0.0]), 3, 100.0, 10)
    assert isinstance(run.stopped_by, Diverged)
    assert np.isfinite(run.products).all()


# --- geodesics -----------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([1, 2, 3, 5, np.inf]))
def test_geodesics_have_constant_speed_and_momenta(seed, depth):
    rng = np.random.default_rng(seed)
    W, Z = random_matrix(rng, 3, 3), rng.standard_normal((3, 3))
    Z *= 0.3 * np.linalg.norm(W, -2) / np.linalg.norm(Z)
    path = rg.geodesic(W, Z, depth, [0.0, 0.5, 1.0])
    assume(path.boundary is None)
    triples = list(zip(path.matrices, path.velocities, strict=True))
    speeds = [rg.metric(M, V, V, depth) for M, V in triples]
    assert_allclose(speeds, speeds[0], rtol=1e-6)
    momenta = [rg.inverse_operator(M, V, depth) for M, V in triples]
    for turn in (lambda M, P: P @ M.T - M @ P.T, lambda M, P: P.T @ M - M.T @ P):
        spins = [turn(M, P) for (M, _), P in zip(triples, momenta, strict=True)]
        assert_allclose(spins, [spins[0]] * 3, atol=1e-7 * np.linalg.norm(momenta[0]))


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([1, 2, 3, 6, np.inf]))
def test_geodesics_between_diagonal_matrices(seed, depth):
    a, b = np.random.default_rng(seed).uniform(0.1, 2, (2, 2))
    s = np.linspace(0, 1, 5)
    if depth == np.inf:
        velocity = a * np.log(b / a)
    else:
        velocity = depth * a ** (1 - 1 / depth) * (b ** (1 / depth) - a ** (1 / depth))
    assume(abs(a[0] - a[1]) > 1e-3)
    path = rg.geodesic(np.diag(a), np.diag(velocity), depth, s)
    expected = rg.diagonal_geodesic(a, b, depth, s)
    assert_allclose(np.einsum("tii->ti", path.matrices), expected, atol=1e-6)
    assert_allclose(expected[[0, -1]], [a, b], rtol=1e-12)


def test_geodesics_of_depth_two_are_those_of_bures_and_wasserstein():
    rng = np.random.default_rng(1)
    A = np.cov(rng.standard_normal((3, 9)))
    S = rng.standard_normal((3, 3))
    S = (S + S.T) / 10
    times = np.linspace(0, 1, 4)
    path = rg.geodesic(A, S @ A + A @ S, 2, times)
    for t, W in zip(times, path.matrices, strict=True):
        assert_allclose(W, (np.eye(3) + t * S) @ A @ (np.eye(3) + t * S), atol=1e-9)
    end = rg.geodesic(A, S @ A + A @ S, 2, [0.0, 100.0]).boundary
    assert end == pytest.approx(-1 / np.linalg.eigvalsh(S)[0], rel=0.02)


def test_geodesics_are_found_between_two_matrices():
    a, b = np.array([1.0, 0.3]), np.array([0.4, 0.9])
    s = np.linspace(0, 1, 3)
    for depth in (1, 3):
        path = rg.connecting_geodesic(np.diag(a), np.diag(b), depth, s, stages=1)
        expected = rg.diagonal_geodesic(a, b, depth, s)
        assert_allclose(np.einsum("tii->ti", path.matrices), expected, atol=1e-6)
    A, B = np.array([[1.0, 0.4], [0.4, 0.5]]), np.array([[0.6, -0.2], [-0.2, 0.9]])
    path = rg.connecting_geodesic(A, B, 2, [0.0, 1.0], stages=2)
    assert_allclose(path.matrices[-1], B, atol=1e-7)
    half = psd_power(A, 0.5)
    overlap = np.trace(psd_power(half @ B @ half, 0.5))
    square = 2 * (np.trace(A) + np.trace(B) - 2 * overlap)  # twice Bures and Wasserstein
    assert rg.metric(A, path.velocities[0], path.velocities[0], 2) == pytest.approx(square)


@pytest.mark.parametrize("depth", [2, 3, np.inf])
def test_geodesics_minimise_energy(depth):
    rng = np.random.default_rng(5)
    W = random_matrix(rng, 2, 2)
    Z = 0.3 * rng.standard_normal((2, 2))
    times = np.linspace(0, 1, 201)
    path = rg.geodesic(W, Z, depth, times).matrices

    def energy(matrices):
        middle, step = (matrices[1:] + matrices[:-1]) / 2, np.diff(matrices, axis=0)
        return sum(rg.metric(M, D, D, depth) for M, D in zip(middle, step, strict=True))

    base = energy(path)
    for _ in range(4):
        bump = np.sin(np.pi * times)[:, None, None] * rng.standard_normal((2, 2)) * 0.02
        up, down = energy(path + bump) - base, energy(path - bump) - base
        assert up > 0
        assert down > 0
        assert abs(up - down) < 0.2 * (up + down)  # stationary: no first-order part


@pytest.mark.parametrize("depth", [2, 3, 6])
def test_straight_is_not_always_shortest(depth):
    # From diag(1, 0) to diag(0, 1): straight through the diagonal, or turning at rank one.
    s = np.linspace(0, 1, 4001)
    path = rg.diagonal_geodesic([1, 0], [0, 1], depth, s)
    middle, step = (path[1:] + path[:-1]) / 2, np.diff(path, axis=0)
    weights = np.array([rg.eigenvalues(x, depth).diagonal() for x in middle])
    straight = np.sqrt((step**2 / weights).sum(1)).sum()
    assert straight == pytest.approx(np.sqrt(2 * depth), rel=0.05)
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    start = np.diag([1.0, 0.0])
    velocity = turn @ start - start @ turn
    turning = np.pi / 2 * np.sqrt(rg.metric(start, velocity, velocity, depth))
    assert turning == pytest.approx(np.pi / np.sqrt(2))
    assert (turning < np.sqrt(2 * depth)) == (depth >= 3)


def test_geodesics_do_not_see_turned_bases_and_run_backwards():
    rng = np.random.default_rng(7)
    W, Z = random_matrix(rng, 3, 2), 0.2 * rng.standard_normal((3, 2))
    Q, R = (
        np.linalg.qr(rng.standard_normal((3, 3)))[0],
        np.linalg.qr(rng.standard_normal((2, 2)))[0],
    )
    path = rg.geodesic(W, Z, 3, [0.0, 0.4])
    turned = rg.geodesic(Q @ W @ R, Q @ Z @ R, 3, [0.0, 0.4])
    assert_allclose(turned.matrices[-1], Q @ path.matrices[-1] @ R, atol=1e-8)
    back = rg.geodesic(path.matrices[-1], -path.velocities[-1], 3, [0.4])
    assert_allclose(back.matrices[-1], W, atol=1e-8)
    assert_allclose(rg.geodesic(W, Z, 3, [0.0]).velocities[0], Z)


# --- volume --------------------------------------------------------------------------------------


def volume_by_hand(sigma, depth, m, n, rng):
    """Root of the determinant of g on the velocities of singular values and vectors."""
    k = len(sigma)
    U = np.linalg.qr(rng.standard_normal((m, m)))[0]
    V = np.linalg.qr(rng.standard_normal((n, n)))[0]
    W = (U[:, :k] * sigma) @ V[:, :k].T
    unit = [[np.outer(U[:, i], V[:, j]) for j in range(n)] for i in range(m)]
    moves = [unit[i][i] for i in range(k)]
    for i, j in itertools.combinations(range(k), 2):  # turn u_i, u_j; then v_i, v_j
        moves += [
            sigma[i] * unit[j][i] - sigma[j] * unit[i][j],
            sigma[i] * unit[i][j] - sigma[j] * unit[j][i],
        ]
    moves += [sigma[i] * unit[r][i] for i in range(k) for r in range(k, m)]
    moves += [sigma[i] * unit[i][r] for i in range(k) for r in range(k, n)]
    gram = [[rg.metric_integral(W, X, Y, depth, rank=k) for Y in moves] for X in moves]
    return np.linalg.slogdet(np.array(gram))[1] / 2, W


@pytest.mark.ledger("thm-riemannian-geometry-volume")
@pytest.mark.parametrize(("m", "n", "k"), [(2, 2, 2), (3, 3, 3), (3, 2, 2), (3, 3, 1), (2, 4, 1)])
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_volume_density_by_the_gram_determinant(m, n, k, depth):
    sigma = np.array([1.7, 0.6, 0.25])[:k]
    by_hand, W = volume_by_hand(sigma, depth, m, n, np.random.default_rng(0))
    roots = sigma ** (2 / depth)
    formula = -k / 2 * np.log(depth) + ((m + n - 2 * k + 1) / depth - 1) * np.log(sigma).sum()
    formula += sum(np.log(x - y) for x, y in itertools.combinations(roots, 2))
    evidence.agree(formula, by_hand, atol=1e-9)
    evidence.agree(rg.log_volume(sigma, depth, (m, n)), by_hand, atol=1e-9)
    # The other density is the same volume against the Euclidean one of the same coordinates.
    columns = [rg.operator(W, E.reshape(m, n), depth).ravel() for E in np.eye(m * n)]
    values = np.linalg.eigvalsh(np.array(columns))[-k * (m + n - k) :]
    evidence.agree(rg.log_density(sigma, depth, (m, n)), -np.log(values).sum() / 2, rtol=1e-6)
    euclidean = rg.log_volume(sigma, 1, (m, n))
    both = rg.log_density(sigma, depth, (m, n)) + euclidean
    assert rg.log_volume(sigma, depth, (m, n)) == pytest.approx(both)


@pytest.mark.parametrize(("m", "n"), [(2, 2), (3, 2), (5, 2)])
def test_depth_one_measures_euclidean_volume_of_a_ball(m, n):
    # Volume of the unit ball of m x n matrices, from singular values and two Stiefel manifolds.
    nodes, weights = np.polynomial.legendre.leggauss(40)
    angle = np.pi / 8 * (nodes + 1)  # sigma = (cos, sin) r, the larger one first
    sigma = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    arc = (np.exp(rg.log_volume(sigma, 1, (m, n))) * weights).sum() * np.pi / 8

    def sphere(d):
        return 2 * np.pi ** (d / 2) / math.gamma(d / 2)

    frames = sphere(m) * sphere(m - 1) * sphere(n) * (sphere(n - 1) if n > 1 else 1)
    volume = arc / (m * n) * frames / 4  # the signs of the two pairs are counted four times
    assert volume == pytest.approx(np.pi ** (m * n / 2) / math.gamma(m * n / 2 + 1), rel=1e-10)


@pytest.mark.ledger("prop-riemannian-geometry-exponents")
@pytest.mark.parametrize("gap", [0, 1, 2])
@pytest.mark.parametrize("depth", [2, 3, 4, 6])
def test_exponents_near_low_rank(depth, gap):
    n = 4
    for corank in range(1, n + 1):
        large, small = np.array([3.0, 2.0, 1.5, 1.2])[: n - corank], np.arange(1, corank + 1)
        logs = []
        for eps in (1e-40, 1e-41):
            sigma = np.concatenate([large, eps * small])
            shape = (n + gap, n)
            logs.append([f(sigma, depth, shape) for f in (rg.log_volume, rg.log_density)])
        slopes = np.subtract(*logs) / np.log(10)
        evidence.agree(slopes[0], -corank * (1 - (corank + gap) / depth), atol=1e-5)
        evidence.agree(slopes[1], -corank * (corank + gap) * (1 - 1 / depth), atol=1e-5)
        evidence.agree(rg.volume_exponent(corank, depth, gap), slopes[0], atol=1e-5)
        evidence.agree(rg.density_exponent(corank, depth, gap), slopes[1], atol=1e-5)


@pytest.mark.ledger("prop-riemannian-geometry-exponents")
@pytest.mark.parametrize("gap", [0, 1, 2])
@pytest.mark.parametrize("depth", [2, 3, 6])
@pytest.mark.parametrize("corank", [1, 2])
def test_volume_near_low_rank_by_quadrature(corank, depth, gap):
    """Singular values 1 and 2, or 1 alone, stay; the others are integrated up to epsilon."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    ratio, share = (nodes + 1) / 2, weights / 2  # of the second small value to the first
    shape, volumes = (3 + gap, 3), []
    large = [2.0, 1.0][: 3 - corank]

    def inner(x):  # the density over the small values, their largest being exp(x)
        small = np.exp(x)
        if corank == 1:
            return np.exp(rg.log_volume(np.append(large, small), depth, shape)) * small
        z = ratio**depth  # smooth in the root of the value
        sigma = np.stack([np.full(60, large[0]), np.full(60, small), small * z], axis=-1)
        slope = depth * ratio ** (depth - 1)
        return (np.exp(rg.log_volume(sigma, depth, shape)) * slope * share).sum() * small**2

    for eps in (1e-20, 1e-22):
        volumes.append(
            quad(inner, np.log(eps) - 80, np.log(eps), epsabs=0, epsrel=1e-9, limit=400)[0]
        )
    slope = np.log(volumes[0] / volumes[1]) / np.log(100)
    evidence.agree(slope, corank * (corank + gap) / depth, atol=1e-4)


def test_volume_of_infinite_depth_is_the_limit():
    sigma = np.array([2.0, 0.7, 0.1])
    depth = 10**4
    # A/N in place of A multiplies g by N, and the root of its determinant by N^(9/2).
    shifted = rg.log_volume(sigma, depth) + 4.5 * np.log(depth)
    assert shifted == pytest.approx(rg.log_volume(sigma, np.inf), abs=3e-3)
    shifted = rg.log_density(sigma, depth) + 4.5 * np.log(depth)
    assert shifted == pytest.approx(rg.log_density(sigma, np.inf), abs=3e-3)


def test_printed_constant_belongs_to_the_operator_divided_by_depth():
    sigma = np.array([2.0, 0.7, 0.1])
    for depth in (2, 3, 5):
        shifted = rg.log_volume(sigma, depth) + 4.5 * np.log(depth)
        gaps = sigma ** (2 / depth)
        van = (gaps[0] - gaps[1]) * (gaps[0] - gaps[2]) * (gaps[1] - gaps[2])
        printed = 3 * np.log(depth) + (1 - depth) / depth * np.log(sigma).sum() + np.log(van)
        assert shifted == pytest.approx(printed)


def test_equal_values_have_no_volume():
    assert rg.log_volume([1.0, 1.0], 3) == -np.inf
    assert rg.log_volume([1.0, 1.0], np.inf) == -np.inf
    assert np.isfinite(rg.log_density([1.0, 1.0], 3))
    assert rg.log_volume(np.ones((5, 3, 2)) * [1.0, 2.0], 3).shape == (5, 3)


# --- many completions at once --------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3])
def test_completions_are_limits_of_the_product_flow(depth):
    loss = Completion(I2, I2 > 0)
    starts = 0.3 * np.random.default_rng(0).standard_normal((2, 2, 2))
    ends, losses = rg.completion_limits(loss, starts, depth, rtol=1e-8)
    assert losses.max() < 1e-10
    for start, end in zip(starts, ends, strict=True):
        run = product_flow(
            loss, start, depth, 60.0, method="DOP853", rtol=1e-8, atol=1e-11, record=10**9
        )
        assert_allclose(end, run.products[-1], atol=1e-4)


def test_completions_at_depth_one_and_in_the_limit():
    loss = Completion(I2, I2 > 0)
    starts = np.random.default_rng(1).standard_normal((4, 2, 2))
    ends, losses = rg.completion_limits(loss, starts, 1)
    assert (losses == 0).all()
    assert_allclose(ends[:, 0, 1], starts[:, 0, 1])
    start = expm(np.array([[0.1, 0.3], [0.3, -0.2]]))[None]  # positive definite
    far, near = (rg.completion_limits(loss, start, d, 1e-16, rtol=1e-9)[0] for d in (400, np.inf))
    assert_allclose(far, near, atol=0.01)
    assert np.abs(far - near).max() > 1e-6


# --- bad input -----------------------------------------------------------------------------------

NOT_A_MATRIX = [np.full((2, 2), np.nan), [1.0, 2.0], "ab", None, np.ones((2, 2, 2))]
NOT_A_DEPTH = [0, -1, 2.5, "2", None, -np.inf, np.nan, True]
Z = np.array([[1.0, 0.5], [0.0, 2.0]])
LOW = np.diag([1.0, 0.0])
OFF_TANGENT = np.diag([0.0, 1.0])
LOSS = Completion(I2, I2 > 0)
NOT_POSITIVE = [0, -1.0, np.nan, np.inf, "1", None]
POINT = {"W": I2, "Z": Z, "depth": 3}
METRIC = {"W": I2, "Z1": Z, "Z2": Z, "depth": 3}
FLOW = {"loss": LOSS, "W0": I2, "depth": 2, "t_final": 1.0, "steps": 2}
BAD = [
    (rg.eigenvalues, {"sigma": [1.0], "depth": 2},
     {"sigma": [[], [-1.0], [np.nan], 1.0, None], "depth": NOT_A_DEPTH}),
    (rg.operator, POINT,
     {"W": [*NOT_A_MATRIX, 0 * I2], "Z": [*NOT_A_MATRIX, np.ones((2, 3))], "depth": NOT_A_DEPTH}),
    (rg.inverse_operator, POINT,
     {"W": NOT_A_MATRIX, "Z": NOT_A_MATRIX, "depth": NOT_A_DEPTH, "rank": [0, 1, 3, 1.5]}),
    (rg.inverse_operator, {**POINT, "W": LOW}, {"Z": [OFF_TANGENT], "depth": []}),
    (rg.inverse_operator, {**POINT, "W": LOW, "Z": LOW}, {"depth": [np.inf], "rank": [2]}),
    (rg.tangent_part, {"W": I2, "Z": Z}, {"W": NOT_A_MATRIX, "Z": NOT_A_MATRIX, "rank": [0, 3]}),
    (rg.nearest_of_rank, {"W": I2, "rank": 1}, {"W": NOT_A_MATRIX, "rank": [0, 3, 1.5, None]}),
    (rg.metric, METRIC,
     {"W": NOT_A_MATRIX, "Z1": NOT_A_MATRIX, "Z2": NOT_A_MATRIX, "depth": NOT_A_DEPTH,
      "rank": [0, 1, 3]}),
    (rg.metric, {**METRIC, "W": LOW, "Z1": LOW, "Z2": LOW},
     {"Z1": [OFF_TANGENT], "Z2": [OFF_TANGENT], "depth": [np.inf]}),
    (rg.metric_integral, METRIC,
     {"W": NOT_A_MATRIX, "Z1": NOT_A_MATRIX, "Z2": NOT_A_MATRIX,
      "depth": [*NOT_A_DEPTH, 1, np.inf], "rank": [0, 1, 3]}),
    (rg.metric_integral, {**METRIC, "W": LOW, "Z1": LOW, "Z2": LOW},
     {"Z1": [OFF_TANGENT], "Z2": [OFF_TANGENT]}),
    (rg.lift, {"factors": [I2, I2], "Z": Z},
     {"factors": [[], [I2, 2 * I2], None], "Z": NOT_A_MATRIX}),
    (rg.distance_to_zero, {"W": I2, "depth": 2},
     {"W": NOT_A_MATRIX[:4], "depth": [*NOT_A_DEPTH, np.inf]}),
    (rg.fixed_rank_flow, FLOW,
     {"loss": [3, None, FullObservation(np.eye(3))], "W0": [*NOT_A_MATRIX, 0 * I2],
      "depth": [*NOT_A_DEPTH, 1],
      "t_final": NOT_POSITIVE, "steps": [0, 1.5, None], "rank": [0, 1, 3]}),
    (rg.completion_limits, {"loss": LOSS, "starts": I2[None], "depth": 2},
     {"loss": [3, FullObservation(I2)],
      "starts": [I2, np.ones((1, 3, 3)), np.full((1, 2, 2), np.nan)],
      "depth": NOT_A_DEPTH, "tolerance": NOT_POSITIVE, "longest": NOT_POSITIVE,
      "rtol": [0, 1.0, None]}),
    (rg.geodesic, {**POINT, "times": [0.0, 1.0]},
     {"W": [*NOT_A_MATRIX, LOW], "Z": NOT_A_MATRIX, "depth": NOT_A_DEPTH,
      "times": [[], [-1.0], [1.0, 1.0], 1.0, "x"], "rtol": [0, 1.0, None]}),
    (rg.geodesic, {"W": np.ones((2, 1)), "Z": np.ones((2, 1)), "depth": 2, "times": [1.0]},
     {"depth": [np.inf]}),
    (rg.connecting_geodesic, {"start": I2, "end": 2 * I2, "depth": 2, "times": [0.5, 1.0]},
     {"start": NOT_A_MATRIX, "end": [*NOT_A_MATRIX, LOW, np.diag([1.0, -1.0])],
      "depth": NOT_A_DEPTH, "times": [[-1.0], [2.0], 1.0, [0.5, 0.5]], "stages": [0, 1.5]}),
    (rg.connecting_geodesic,
     {"start": np.ones((2, 3)), "end": np.ones((2, 3)), "depth": 2, "times": [1.0]},
     {"start": [np.ones((2, 3))]}),
    (rg.diagonal_geodesic, {"start": [1.0], "end": [2.0], "depth": 2, "s": [0.5]},
     {"start": [[-1.0], [np.nan], 1.0], "end": [[-1.0], [1.0, 2.0]], "depth": NOT_A_DEPTH,
      "s": [[-0.1], [1.1], 0.5, []]}),
    (rg.diagonal_geodesic, {"start": [1.0], "end": [2.0], "depth": np.inf, "s": [0.5]},
     {"start": [[0.0]], "end": [[0.0]]}),
    (rg.log_volume, {"sigma": [1.0], "depth": 2},
     {"sigma": [[0.0], [-1.0], [], 1.0], "depth": NOT_A_DEPTH,
      "shape": [(0, 1), 3, (1,), (1, 2.5)]}),
    (rg.log_volume, {"sigma": [1.0], "depth": np.inf, "shape": (2, 1)}, {"depth": [np.inf]}),
    (rg.log_density, {"sigma": [1.0], "depth": 2},
     {"sigma": [[0.0], [-1.0], [], 1.0], "depth": NOT_A_DEPTH,
      "shape": [(0, 1), 3, (1,), (1, 2.5)]}),
    (rg.volume_exponent, {"corank": 1, "depth": 2},
     {"corank": [-1, 1.5, None], "depth": NOT_A_DEPTH, "shape_gap": [-1, 0.5]}),
    (rg.density_exponent, {"corank": 1, "depth": 2},
     {"corank": [-1, 1.5, None], "depth": NOT_A_DEPTH, "shape_gap": [-1, 0.5]}),
    (rg.random_point, {"seed": 0}, {"seed": [-1, 1.5, None]}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [case for function, good, bad in BAD for case in cases(function, good, **bad)],
)
def test_bad_input_names_the_argument(function, arguments, name):
    with pytest.raises(ValueError, match=name):
        function(**arguments)


def test_every_public_function_has_bad_input():
    functions = {name for name in rg.__all__ if name != "Geodesic"}
    assert functions == {function.__name__ for function, *_ in BAD}


def test_one_measurement_flows_along_the_diagonal():
    # The loss of the explorer: the flow from a diagonal start stays diagonal.
    run = product_flow(Sensing([np.diag([1.0, 0.8])], [1.0]), np.diag([0.3, 0.2]), 3, 50.0)
    assert np.abs(run.products[:, [0, 1], [1, 0]]).max() < 1e-14
