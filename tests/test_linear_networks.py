"""Products, gradients and their cost, starts; the velocity of the product, sharpness, drift."""

import tracemalloc
from functools import reduce
from itertools import pairwise

import evidence
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import fractional_matrix_power

from dmflib import flow
from dmflib import linear_networks as networks
from dmflib.descent import MaxSteps, gradient_descent
from dmflib.losses import Completion, FullObservation, Regression, Sensing
from dmflib.matrices import frobenius_norm, spectral_norm

fast = settings(deadline=None, max_examples=40)
chains = st.lists(st.integers(1, 5), min_size=2, max_size=6)  # depth 1 to 5
long_chains = st.lists(st.integers(1, 4), min_size=3, max_size=6)  # depth 2 to 5
shapes = st.tuples(st.integers(1, 5), st.integers(1, 5))
depths = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)


def normal_factors(widths, seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(b, a)) for a, b in pairwise(widths)]


def singular_factors(rng, shape, rank):
    """Orthonormal U and V, and `rank` singular values in [0.3, 2]."""
    U, V = (np.linalg.qr(rng.normal(size=(n, rank)))[0] for n in shape)
    return U, rng.uniform(0.3, 2, rank), V


def balanced_factors(rng, U, sigma, V, depth, padding):
    """The balanced factors of U diag(sigma) V^T that the chapter writes down."""
    rank = len(sigma)
    inner = [np.linalg.qr(rng.normal(size=(rank + rng.integers(padding + 1), rank)))[0]
             for _ in range(depth - 1)]  # fmt: skip
    root = np.diag(sigma ** (1 / depth))
    return [after @ root @ before.T for before, after in pairwise([V, *inner, U])]


# Products and gradients


@fast
@given(chains, seeds)
def test_product_applies_the_first_factor_first(widths, seed):
    factors = normal_factors(widths, seed)
    x = np.random.default_rng(seed + 1).normal(size=widths[0])
    expected = reduce(lambda x, W: W @ x, factors, x)
    np.testing.assert_allclose(networks.product(factors) @ x, expected, atol=1e-10)
    np.testing.assert_allclose(
        networks.product(factors), reduce(np.matmul, factors[::-1]), atol=1e-10
    )


def test_product_of_one_factor_is_a_copy():
    W = np.ones((2, 2))
    networks.product([W])[0, 0] = 5
    assert W[0, 0] == 1


@pytest.mark.ledger("networks-thm-gradient")
@fast
@given(chains, seeds)
def test_gradients_are_exact_differences(widths, seed):
    """The loss is a quadratic in each single factor, so central differences are exact.

    With whole numbers as entries the arithmetic is exact as well.
    """
    rng = np.random.default_rng(seed)
    factors = [np.rint(2 * W) for W in normal_factors(widths, seed)]
    loss = FullObservation(rng.integers(-5, 6, size=(widths[-1], widths[0])))
    gradients = networks.factor_gradients(factors, loss.gradient(networks.product(factors)))
    assert [G.shape for G in gradients] == [W.shape for W in factors]
    for W, G in zip(factors, gradients, strict=True):
        i, j = rng.integers(W.shape[0]), rng.integers(W.shape[1])
        values = []
        for step in (1, -1):
            W[i, j] += step
            values.append(loss.value(networks.product(factors)))
            W[i, j] -= step
        evidence.agree((values[0] - values[1]) / 2, G[i, j])


@fast
@given(chains, seeds)
def test_gradients_are_the_formula_of_source_a(widths, seed):
    factors = normal_factors(widths, seed)
    outer = np.random.default_rng(seed + 1).normal(size=(widths[-1], widths[0]))
    for i, G in enumerate(networks.factor_gradients(factors, outer)):
        left = reduce(lambda A, W: W @ A, factors[i + 1 :], np.eye(factors[i].shape[0]))
        right = reduce(lambda A, W: W @ A, factors[:i], np.eye(widths[0]))
        np.testing.assert_allclose(G, left.T @ outer @ right.T, rtol=1e-10, atol=1e-10)


@pytest.mark.ledger("networks-thm-gradient", "networks-thm-conservation")
@fast
@given(chains, seeds)
def test_the_gradient_conserves_the_balance_defects(widths, seed):
    """Along W_i' = -G_i each W_{i+1}^T W_{i+1} - W_i W_i^T stays: G_{i+1}^T W_{i+1} = W_i G_i^T."""
    factors = normal_factors(widths, seed)
    outer = np.random.default_rng(seed + 1).normal(size=(widths[-1], widths[0]))
    G = networks.factor_gradients(factors, outer)
    evidence.holds([g.shape == W.shape for g, W in zip(G, factors, strict=True)])
    for i in range(len(factors) - 1):
        evidence.agree(factors[i + 1].T @ G[i + 1], G[i] @ factors[i].T, atol=1e-9)


@pytest.mark.ledger("networks-thm-conservation")
@settings(deadline=None, max_examples=15)
@given(long_chains, seeds, st.sampled_from(["full", "completion", "sensing"]))
def test_the_flow_keeps_every_defect_for_every_loss(widths, seed, kind):
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(widths[-1], widths[0]))
    loss = {
        "full": FullObservation(target),
        "completion": Completion(target, rng.random(target.shape) < 0.7),
        "sensing": Sensing(rng.normal(size=(3, *target.shape)) / 2, rng.normal(size=3)),
    }[kind]
    start = normal_factors(widths, seed)
    run = flow.gradient_flow(loss, start, t_final=0.5, method="DOP853", rtol=1e-10, atol=1e-12,
                             keep=("factors",))  # fmt: skip
    for before, after in zip(
        networks.balance_defects(start), networks.balance_defects(run.final_factors), strict=True
    ):
        evidence.agree(after, before, atol=1e-8)
    even = networks.balanced(networks.product(start), len(start))
    run = flow.gradient_flow(loss, even, t_final=0.5, method="DOP853", rtol=1e-10, atol=1e-12,
                             keep=("factors",))  # fmt: skip
    evidence.at_most(networks.imbalance(run.final_factors), 1e-8)


def test_factor_gradients_leave_their_input_alone():
    factors, outer = normal_factors([3, 2, 4, 3], 0), np.ones((3, 3))
    copies = [W.copy() for W in factors]
    networks.factor_gradients(factors, outer)
    assert all((W == V).all() for W, V in zip(factors, copies, strict=True))
    assert (outer == 1).all()


# Cost


class Counted(np.ndarray):
    """An array that counts the matrix products it takes part in."""

    products = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if ufunc.__name__ in ("matmul", "vecdot", "matvec", "vecmat"):
            Counted.products += 1
        plain = [x.view(np.ndarray) if isinstance(x, Counted) else x for x in inputs]
        if out is not None:
            kwargs["out"] = tuple(x.view(np.ndarray) for x in out)
        return getattr(ufunc, method)(*plain, **kwargs)

    def __array_function__(self, func, types, args, kwargs):
        if func in (np.dot, np.einsum, np.tensordot, np.linalg.multi_dot):
            raise AssertionError("a matrix product by another name")
        return super().__array_function__(func, types, args, kwargs)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 8])
def test_an_evaluation_takes_three_products_for_each_factor_but_one(depth):
    factors = [W.view(Counted) for W in normal_factors([3] * (depth + 1), depth)]
    loss = FullObservation(np.eye(3))
    workspace = networks.Backpropagation([W.shape for W in factors])
    workspace.partial[1:] = [W.view(Counted) for W in workspace.partial[1:]]
    workspace.outer = [W.view(Counted) for W in workspace.outer]
    workspace.gradients = [W.view(Counted) for W in workspace.gradients]
    Counted.products = 0
    value = workspace.evaluate(loss, factors)
    assert Counted.products == 3 * (depth - 1)
    assert value == pytest.approx(
        loss.value(reduce(np.matmul, normal_factors([3] * (depth + 1), depth)[::-1])), rel=1e-12
    )
    assert workspace.evaluations == 1


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("kind", ["full", "completion"])
def test_an_evaluation_allocates_nothing(depth, kind):
    n = 120
    factors = normal_factors([n] * (depth + 1), 0)
    target = np.ones((n, n))
    loss = FullObservation(target) if kind == "full" else Completion(target, target > 0)
    workspace = networks.Backpropagation([W.shape for W in factors])
    workspace.evaluate(loss, factors)
    tracemalloc.start()
    try:
        workspace.evaluate(loss, factors)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(100):
            workspace.evaluate(loss, factors)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    matrix = 8 * n * n
    assert peak - before < matrix / 20
    assert after - before < 2000  # a few Python objects, however many evaluations


def test_the_workspace_agrees_with_the_plain_functions():
    factors = normal_factors([3, 5, 2, 4], 1)
    loss = FullObservation(np.ones((4, 3)))
    workspace = networks.Backpropagation([W.shape for W in factors])
    for _ in range(2):  # a second use must not see the first
        value = workspace.evaluate(loss, factors)
        W = networks.product(factors)
        assert value == loss.value(W)
        np.testing.assert_array_equal(workspace.partial[-1], W)
        for G, H in zip(
            workspace.gradients, networks.factor_gradients(factors, loss.gradient(W)), strict=True
        ):
            np.testing.assert_array_equal(G, H)
        joined = np.concatenate([G.ravel() for G in workspace.gradients])
        np.testing.assert_array_equal(workspace.flat_gradient, joined)
        factors = normal_factors([3, 5, 2, 4], 2)


@fast
@given(chains, seeds)
def test_views_share_memory_and_cover_it(widths, seed):
    factors = normal_factors(widths, seed)
    flat = np.concatenate([W.ravel() for W in factors])
    parts = networks.views(flat, [W.shape for W in factors])
    for part, W in zip(parts, factors, strict=True):
        np.testing.assert_array_equal(part, W)
        assert np.shares_memory(part, flat)
        part[...] = 0
    assert not flat.any()


# Balance and starts


@pytest.mark.ledger("networks-prop-balanced")
@fast
@given(shapes, depths, seeds, st.data())
def test_the_written_factors_are_balanced_for_any_bases_between_them(shape, depth, seed, data):
    rng = np.random.default_rng(seed)
    rank = data.draw(st.integers(1, min(shape)))
    U, sigma, V = singular_factors(rng, shape, rank)
    factors = balanced_factors(rng, U, sigma, V, depth, padding=3)
    evidence.holds(len(factors) == depth)
    evidence.agree(reduce(np.matmul, factors[::-1]), U * sigma @ V.T, atol=1e-12)
    for before, after in pairwise(factors):
        evidence.agree(after.T @ after, before @ before.T, atol=1e-12)


@pytest.mark.ledger("networks-lem-powers")
@fast
@given(shapes, depths, seeds, st.data())
def test_partial_products_of_balanced_factors_are_powers(shape, depth, seed, data):
    """The power 0 is the identity, also of a singular matrix; the others vanish with it."""
    rng = np.random.default_rng(seed)
    rank = data.draw(st.integers(1, min(shape)))
    U, sigma, V = singular_factors(rng, shape, rank)
    factors = balanced_factors(rng, U, sigma, V, depth, padding=2)
    for j in range(1, depth + 1):
        A = reduce(np.matmul, factors[: j - 1 : -1], np.eye(shape[0]))
        B = reduce(lambda right, W: W @ right, factors[: j - 1], np.eye(shape[1]))
        left = U * sigma ** (2 * (depth - j) / depth) @ U.T if j < depth else np.eye(shape[0])
        right = V * sigma ** (2 * (j - 1) / depth) @ V.T if j > 1 else np.eye(shape[1])
        evidence.agree(A @ A.T, left, atol=1e-12)
        evidence.agree(B.T @ B, right, atol=1e-12)


@pytest.mark.ledger("networks-prop-balanced")
@fast
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 6)),
    st.integers(1, 6),
    st.sampled_from([1e-100, 1e-3, 1.0, 1e3]),
    seeds,
)
def test_balanced_factors_are_balanced_and_multiply_back(shape, depth, scale, seed):
    m, n, rank = shape
    rng = np.random.default_rng(seed)
    W0 = scale * rng.normal(size=(m, rank)) @ rng.normal(size=(rank, n))
    factors = networks.balanced(W0, depth)
    size = max(np.abs(W0).max(), np.finfo(float).tiny)
    assert len(factors) == depth
    evidence.at_most(np.abs(networks.product(factors) - W0).max(), 1e-13 * depth * 10 * size)
    evidence.at_most(networks.imbalance(factors), 1e-13 * size ** (2 / depth) * 10)
    if depth > 1:
        assert {W.shape[0] for W in factors[:-1]} == {min(m, n)}


def test_imbalance_is_the_largest_defect():
    factors = [np.diag([1.0, 2.0]), np.diag([3.0, 2.0]), np.diag([3.0, 0.0])]
    np.testing.assert_array_equal(networks.balance_defects(factors)[0], np.diag([8.0, 0.0]))
    assert networks.imbalance(factors) == 8
    assert networks.imbalance(factors[:1]) == 0
    assert networks.balance_defects(factors[:1]) == []
    turned = normal_factors([2, 5, 3], 0)
    first, second = turned
    expected = frobenius_norm(second.T @ second - first @ first.T)
    assert networks.imbalance(turned) == pytest.approx(expected)


def test_identical_and_perturbed():
    for W in networks.identical(3, 4, 0.1):
        np.testing.assert_array_equal(W, 0.1 * np.eye(3))
    first, *others = networks.perturbed(3, 4, 0.5, 0.125)
    np.testing.assert_array_equal(first, 0.375 * np.eye(3))
    for W in others:
        np.testing.assert_array_equal(W, 0.5 * np.eye(3))
    assert len(others) == 3
    # alpha**2 - (alpha - beta)**2 on the diagonal of the first defect, nothing after.
    defects = networks.balance_defects([first, *others])
    np.testing.assert_allclose(defects[0], (0.25 - 0.375**2) * np.eye(3))
    assert not np.any(defects[1:])


def test_starts_are_separate_arrays():
    factors = networks.identical(2, 3, 1.0)
    factors[0][0, 0] = 7
    assert factors[1][0, 0] == 1
    middle = networks.balanced(np.eye(2), 4)
    middle[1][0, 0] = 7
    assert middle[2][0, 0] == 1
    W0 = np.eye(2)
    networks.balanced(W0, 1)[0][0, 0] = 7
    assert W0[0, 0] == 1


@pytest.mark.parametrize(
    "widths",
    [(50, 50), (40, 40, 40), (30, 30, 30, 30, 30), (80, 10, 40), (10, 90, 30, 60), (60, 1, 60)],
)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 5.0])
def test_the_size_of_a_gaussian_product_does_not_depend_on_depth(widths, scale):
    """E W_ij**2 = scale**2 / d_0; the mean over draws is compared with its standard error."""
    rng = np.random.default_rng(0)
    means = [
        np.mean(networks.product(networks.gaussian(widths, scale, rng)) ** 2) for _ in range(400)
    ]
    mean, error = np.mean(means), np.std(means) / np.sqrt(len(means))
    expected = scale**2 / widths[0]
    assert abs(mean - expected) < 4 * error
    assert error < 0.15 * expected


def test_each_gaussian_factor_has_the_documented_size():
    widths, scale = (60, 200, 80, 150), 0.01
    for W, before, after in zip(
        networks.gaussian(widths, scale, 3), widths[:-1], widths[1:], strict=True
    ):
        assert W.shape == (after, before)
        assert np.std(W) == pytest.approx(scale ** (1 / 3) / np.sqrt(before), rel=0.03)
        assert abs(np.mean(W)) < 4 * np.std(W) / np.sqrt(W.size)


def test_randomness_is_the_callers():
    first = networks.gaussian([3, 3, 3], 1, rng=5)
    again = networks.gaussian([3, 3, 3], 1, rng=np.random.default_rng(5))
    assert all((W == V).all() for W, V in zip(first, again, strict=True))
    rng = np.random.default_rng(5)
    networks.gaussian([3, 3, 3], 1, rng=rng)
    assert (networks.gaussian([3, 3, 3], 1, rng=rng)[0] != first[0]).all()


def test_numbers_of_every_kind_are_taken():
    factors = networks.perturbed(np.int64(2), np.int32(2), np.array(0.5), np.float32(0.25))
    np.testing.assert_array_equal(factors[0], 0.25 * np.eye(2))


def test_factors_may_come_as_one_array_or_a_generator():
    stack = np.stack([np.eye(2)] * 3)
    np.testing.assert_array_equal(networks.product(stack), np.eye(2))
    np.testing.assert_array_equal(networks.product(W for W in stack), np.eye(2))


def test_neighbours_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"factors\[2\] must have 4 columns"):
        networks.product([np.ones((3, 2)), np.ones((4, 3)), np.ones((2, 3))])


# The velocity of the product


@pytest.mark.ledger("networks-thm-product-flow")
@fast
@given(shapes, depths, seeds, st.data())
def test_velocity_is_the_chain_rule_at_balanced_factors_of_any_rank(shape, depth, seed, data):
    """No power of a matrix enters: each factor in turn is replaced by its own velocity."""
    rng = np.random.default_rng(seed)
    rank = data.draw(st.integers(1, min(shape)))
    factors = balanced_factors(rng, *singular_factors(rng, shape, rank), depth, padding=2)
    assert networks.imbalance(factors) < 1e-12
    G = rng.normal(size=shape)
    expected = np.zeros(shape)
    for j, Gj in enumerate(networks.factor_gradients(factors, G)):
        expected -= networks.product([*factors[:j], Gj, *factors[j + 1 :]])
    W = networks.product(factors)
    evidence.agree(networks.product_velocity(W, G, depth), expected, atol=1e-9)


@pytest.mark.ledger("networks-thm-product-flow")
@fast
@given(st.integers(1, 5), depths, seeds)
def test_velocity_is_the_formula_with_matrix_powers(n, depth, seed):
    """The powers come from Schur forms and Padé approximants, not from eigenvalues."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    W, G = U * rng.uniform(0.3, 2, n) @ V, rng.normal(size=(n, n))
    expected = -sum(
        fractional_matrix_power(W @ W.T, (depth - j) / depth)
        @ G
        @ fractional_matrix_power(W.T @ W, (j - 1) / depth)
        for j in range(1, depth + 1)
    )
    evidence.agree(networks.product_velocity(W, G, depth), expected, atol=1e-10)


@pytest.mark.ledger("networks-thm-product-flow")
@fast
@given(shapes, depths, seeds)
def test_velocity_is_symmetric_and_never_climbs(shape, depth, seed):
    rng = np.random.default_rng(seed)
    W, G, Z = rng.normal(size=(3, *shape))
    forth = np.vdot(Z, networks.product_velocity(W, G, depth))
    back = np.vdot(networks.product_velocity(W, Z, depth), G)
    evidence.agree(forth, back, rtol=1e-6, atol=1e-10)
    evidence.holds(np.vdot(G, networks.product_velocity(W, G, depth)) <= 0)
    # the eigenvalue on u_r v_s^T, also where r or s counts a direction of the kernel
    U, sigma, Vt = np.linalg.svd(W)
    (r, s), j = rng.integers(shape), np.arange(1, depth + 1)
    left, right = (sigma[i] if i < len(sigma) else 0.0 for i in (r, s))
    weight = (left ** (2 * (depth - j) / depth) * right ** (2 * (j - 1) / depth)).sum()
    alone = np.outer(U[:, r], Vt[s])
    evidence.agree(networks.product_velocity(W, alone, depth), -weight * alone, atol=1e-10)
    np.testing.assert_allclose(
        networks.product_velocity(W.T, G.T, depth).T,
        networks.product_velocity(W, G, depth),
        atol=1e-10,
    )


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_power_zero_is_the_identity_and_not_a_projection(depth):
    """From a matrix of rank 1 the flow also moves in directions across its range."""
    W = np.diag([1.0, 0.0])
    G = np.array([[0.0, 1.0], [1.0, 1.0]])
    velocity = networks.product_velocity(W, G, depth)
    np.testing.assert_allclose(velocity, [[0, -1], [-1, 0]], atol=1e-15)


def test_velocity_at_zero_vanishes_from_depth_two_on():
    G = np.ones((2, 3))
    np.testing.assert_array_equal(networks.product_velocity(np.zeros((2, 3)), G, 1), -G)
    for depth in (2, 3, 4):
        assert not networks.product_velocity(np.zeros((2, 3)), G, depth).any()


def circulation(gradient, depth, u, plane, size):
    """Line integral of the velocity around a half ring of matrices u w^T, w in a plane."""
    nodes, weights = np.polynomial.legendre.leggauss(24)
    corners = np.array([[1, 0], [2, 0], [2, np.pi], [1, np.pi], [1, 0]])
    total = 0
    for start, end in pairwise(corners):
        for s, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            (radius, angle), (dr, da) = start + s * (end - start), end - start
            out = np.array([np.cos(angle), np.sin(angle)])
            along = dr * out + radius * da * np.array([-out[1], out[0]])
            W, step = (size * np.outer(u, x @ plane) for x in (radius * out, along))
            total -= weight * np.vdot(networks.product_velocity(W, gradient(W), depth), step)
    return total


@pytest.mark.ledger("networks-thm-no-potential")
@settings(deadline=None, max_examples=25)
@given(shapes, st.integers(2, 6), seeds)
def test_the_velocity_does_work_around_small_half_rings_from_depth_three_on(shape, depth, seed):
    m, n = shape
    n = max(n, 2)  # the other shapes are transposes of these
    rng = np.random.default_rng(seed)
    G = rng.normal(size=(m, n))
    u = rng.normal(size=m)
    u /= np.linalg.norm(u)
    g = G.T @ u
    plane = np.linalg.qr(np.column_stack([g, rng.normal(size=n)]))[0].T  # first direction is g
    target = rng.normal(size=(m, n))

    def near(W):  # a gradient that is G at zero, of a loss that is not linear
        return G + np.linalg.norm(g) * (W - np.sin(W * target) * target + W**2 * target)

    expected = 2 * (depth - 1) * (depth - 2) / (3 * depth - 2) * (2 ** (3 - 2 / depth) - 1)
    for gradient, size, tolerance in ((lambda W: G, 1, 1e-8), (near, 2e-3, 0.01)):
        work = circulation(gradient, depth, u, plane, size) / size ** (3 - 2 / depth)
        evidence.agree(abs(work) / np.linalg.norm(g), expected, atol=tolerance)


def test_velocity_is_that_of_the_product_flow():
    rng = np.random.default_rng(1)
    loss = FullObservation(rng.normal(size=(3, 4)))
    W0, short = rng.normal(size=(3, 4)), 1e-6
    for depth in (1, 2, 3, 4):
        run = flow.product_flow(loss, W0, depth, t_final=short, method="DOP853")
        measured = (run.products[-1] - W0) / short
        velocity = networks.product_velocity(W0, loss.gradient(W0), depth)
        np.testing.assert_allclose(measured, velocity, rtol=1e-4, atol=1e-4)


# The same product with another balance


@fast
@given(long_chains, seeds, st.floats(0.1, 10))
def test_tilting_keeps_the_product_and_can_be_undone(widths, seed, ratio):
    factors = normal_factors(widths, seed)
    moved = networks.tilted(factors, ratio)
    np.testing.assert_allclose(
        networks.product(moved), networks.product(factors), rtol=1e-10, atol=1e-10
    )
    for W, V in zip(factors, networks.tilted(moved, 1 / ratio), strict=True):
        np.testing.assert_allclose(V, W, rtol=1e-12)


@fast
@given(shapes, st.integers(2, 6), seeds, st.floats(1.1, 10))
def test_tilting_unbalances_the_first_pair_only(shape, depth, seed, ratio):
    W = np.random.default_rng(seed).normal(size=shape)
    first, *others = networks.balance_defects(networks.tilted(networks.balanced(W, depth), ratio))
    size = spectral_norm(W) ** (2 / depth)
    assert np.linalg.norm(first) >= (ratio**2 - ratio ** (-2 / (depth - 1))) * size * (1 - 1e-10)
    for D in others:
        assert np.linalg.norm(D) <= 1e-12 * max(1, size)


@pytest.mark.parametrize("depth", [2, 3])
def test_strong_tilt_turns_depth_n_into_depth_n_minus_one(depth):
    """The big first factor hardly moves; the paths agree as the tilt grows."""
    loss = FullObservation(np.diag([2.0, 1.0]))
    ref = flow.product_flow(loss, 0.01 * np.eye(2), depth - 1, t_final=50.0)
    wanted = np.interp(1, ref.products[:, 0, 0], ref.products[:, 1, 1])
    gaps = []
    for ratio in (10, 100):
        start = networks.tilted(networks.identical(2, depth, 0.01 ** (1 / depth)), ratio)
        run = flow.gradient_flow(loss, start, t_final=50.0, rtol=1e-8, atol=1e-10)
        gaps.append(abs(np.interp(1, run.products[:, 0, 0], run.products[:, 1, 1]) - wanted))
    assert gaps[1] < 1e-3
    assert gaps[1] < 0.1 * gaps[0]


# Sharpness


@pytest.mark.ledger("networks-prop-sharpness")
@fast
@given(chains, seeds)
def test_sharpness_is_the_largest_eigenvalue_of_the_hessian(widths, seed):
    """The Hessian at an exact fit is J^T J; J is built from products with one factor replaced."""
    factors = normal_factors(widths, seed)
    columns = []
    for j, W in enumerate(factors):
        for k in range(W.size):
            E = np.zeros(W.size)
            E[k] = 1
            replaced = [*factors[:j], E.reshape(W.shape), *factors[j + 1 :]]
            columns.append(networks.product(replaced).ravel())
    largest = np.linalg.norm(np.transpose(columns), 2) ** 2
    evidence.agree(networks.sharpness(factors), largest, rtol=1e-9, atol=1e-12)


@pytest.mark.ledger("networks-prop-sharpness")
@fast
@given(long_chains, seeds)
def test_no_factorization_is_flatter_than_a_balanced_one(widths, seed):
    factors = normal_factors(widths, seed)
    N, W = len(factors), networks.product(factors)
    bound = N * spectral_norm(W) ** (2 - 2 / N)
    evidence.at_most(bound, networks.sharpness(factors), slack=1e-9)
    evidence.agree(networks.sharpness(networks.balanced(W, N)), bound, rtol=1e-9, atol=1e-12)


@pytest.mark.ledger("networks-prop-sharpness")
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_step_limit_separates_convergence_from_its_failure(depth):
    """Just below 2/sharpness a start near the balanced minimiser converges, just above not."""
    target = np.diag([2.0, 1.0])
    loss, limit = FullObservation(target), 2 / networks.sharpness(networks.balanced(target, depth))
    start = [W + 1e-3 for W in networks.balanced(target, depth)]
    below = gradient_descent(loss, start, 0.98 * limit, MaxSteps(2000))
    above = gradient_descent(loss, start, 1.02 * limit, MaxSteps(2000), record=2000)
    evidence.at_most(below.losses[-1], 1e-20)
    evidence.at_most(1e-4, above.losses[-1])


# Balance under descent, and the sample loss


@pytest.mark.ledger("networks-thm-drift")
@fast
@given(long_chains, seeds, st.floats(1e-4, 1))
def test_one_step_moves_the_defects_by_the_square_of_the_step(widths, seed, eta):
    factors = normal_factors(widths, seed)
    G = np.random.default_rng(seed + 1).normal(size=(widths[-1], widths[0]))
    gradients = networks.factor_gradients(factors, G)
    moved = [W - eta * Gi for W, Gi in zip(factors, gradients, strict=True)]
    rows = zip(
        networks.balance_defects(moved),
        networks.balance_defects(factors),
        pairwise(gradients),
        strict=True,
    )
    size = max(1, max(np.abs(g).max() for g in gradients) ** 2, np.abs(moved[0]).max() ** 2)
    for after, before, (g, h) in rows:
        change = eta**2 * (h.T @ h - g @ g.T)
        evidence.agree((after - before) / size, change / size, atol=1e-10)


@pytest.mark.ledger("networks-thm-drift")
@pytest.mark.parametrize("seed", range(12))
def test_drift_is_bounded_by_step_size_times_the_loss_that_was_lost(seed):
    rng = np.random.default_rng(seed)
    loss = FullObservation(rng.normal(size=(3, 4)))
    start, eta = networks.gaussian([4, 3, 5, 3], 0.5, rng), 0.02
    run = gradient_descent(loss, start, eta, MaxSteps(500), keep=("factors",))
    for k in range(500):
        now = [F[k] for F in run.factors]
        grads = networks.factor_gradients(now, loss.gradient(networks.product(now)))
        squares = sum(np.vdot(g, g) for g in grads)
        assert run.losses[k + 1] <= run.losses[k] - eta / 2 * squares + 1e-14
    defects = networks.balance_defects(start), networks.balance_defects(run.final_factors)
    bound = 2 * eta * (run.losses[0] - run.losses[-1])
    for before, after in zip(*defects, strict=True):
        drift = np.linalg.norm(after - before)
        assert drift > 0
        evidence.at_most(drift, bound)


@pytest.mark.ledger("networks-thm-drift")
@pytest.mark.parametrize("seed", range(6))
def test_drift_per_step_size_tends_to_its_integral_along_the_flow(seed):
    rng = np.random.default_rng(seed)
    widths, T = rng.integers(1, 4, size=rng.integers(3, 5)), 0.5
    loss = FullObservation(rng.normal(size=(widths[-1], widths[0])))
    start = [rng.normal(size=(b, a)) / 1.5 for a, b in pairwise(widths)]
    forms = [W.shape for W in start] + [(n, n) for n in widths[1:-1]]

    def motion(t, state):
        parts = networks.views(state.copy(), forms)
        factors = parts[: len(start)]
        G = networks.factor_gradients(factors, loss.gradient(networks.product(factors)))
        rates = [h.T @ h - g @ g.T for g, h in pairwise(G)]
        return np.concatenate([*(-g.ravel() for g in G), *(r.ravel() for r in rates)])

    state = np.concatenate([*(W.ravel() for W in start), np.zeros(sum(widths[1:-1] ** 2))])
    end = solve_ivp(motion, (0, T), state, method="DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    integrals = np.concatenate([D.ravel() for D in networks.views(end, forms)[len(start) :]])
    size, errors = np.linalg.norm(integrals), []
    for steps in (1000, 2000):
        run = gradient_descent(loss, start, T / steps, MaxSteps(steps), record=steps,
                               keep=("factors",))  # fmt: skip
        rows = zip(
            networks.balance_defects(run.final_factors),
            networks.balance_defects(start),
            strict=True,
        )
        drift = np.concatenate([(after - before).ravel() for after, before in rows]) * steps / T
        errors.append((drift - integrals) / size)
    evidence.agree(errors[1], 0, atol=5e-3)
    # the first-order term removed, what is left is of second order
    evidence.agree(2 * errors[1] - errors[0], 0, atol=2e-5)


@pytest.mark.ledger("networks-thm-whitened")
@fast
@given(seeds, st.integers(1, 4), st.integers(1, 4), st.integers(0, 4))
def test_sample_loss_is_a_weighted_distance_to_the_least_squares_matrix(seed, m, n, extra):
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(n, n + extra)), rng.normal(size=(m, n + extra))
    C = X @ X.T / (n + extra)
    if np.linalg.cond(C) > 1e6:
        return
    target = Y @ X.T @ np.linalg.inv(X @ X.T)
    loss, W = Regression(X, Y), rng.normal(size=(m, n))
    distance = np.trace((W - target) @ C @ (W - target).T)
    evidence.agree(loss.value(W) - loss.value(target), distance, rtol=1e-6, atol=1e-8)


@pytest.mark.ledger("networks-thm-whitened")
@fast
@given(seeds, st.integers(1, 4), st.integers(1, 4), st.integers(0, 4))
def test_whitened_inputs_and_no_others_give_the_matrix_loss(seed, m, n, extra):
    rng = np.random.default_rng(seed)
    samples = n + extra
    Q = np.linalg.qr(rng.normal(size=(samples, n)))[0].T
    X, Y = np.sqrt(samples) * Q, rng.normal(size=(m, samples))
    target, W = Y @ X.T / samples, rng.normal(size=(m, n))
    loss = Regression(X, Y)
    expected = 2 * FullObservation(target).value(W) + loss.value(target)
    evidence.agree(loss.value(W), expected, rtol=1e-9)
    # For other inputs the second difference in a direction of unit length, which is 2c for
    # c |W - B|^2, is twice an eigenvalue of C: the least and the largest differ.
    spread = rng.uniform(0.5, 2, n)
    C_vectors = np.linalg.qr(rng.normal(size=(n, n)))[0]
    loss = Regression(C_vectors * np.sqrt(spread) @ X, Y)
    row = rng.normal(size=m)
    for value, v in zip(spread, C_vectors.T, strict=True):
        Z = np.outer(row / np.linalg.norm(row), v)
        second = loss.value(W + Z) - 2 * loss.value(W) + loss.value(W - Z)
        evidence.agree(second, 2 * value, rtol=1e-9)


# Bad input

GOOD = {"W": np.eye(2), "gradient": np.eye(2), "depth": 2}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"W": np.ones(2)}, "W"),
        ({"W": np.full((2, 2), np.nan)}, "W"),
        ({"gradient": np.ones((2, 3))}, "gradient"),
        ({"gradient": np.full((2, 2), np.inf)}, "gradient"),
        ({"depth": 0}, "depth"),
        ({"depth": 1.5}, "depth"),
    ],
)
def test_bad_input_of_the_velocity(change, named):
    with pytest.raises(ValueError, match=rf"^{named}\b"):
        networks.product_velocity(**(GOOD | change))


@pytest.mark.parametrize(
    ("factors", "ratio", "named"),
    [
        ([np.eye(2)], 2, "factors"),
        ([], 2, "factors"),
        ([np.ones((2, 3)), np.ones((2, 3))], 2, "factors"),
        ([np.eye(2)] * 2, 0, "ratio"),
        ([np.eye(2)] * 2, -1, "ratio"),
        ([np.eye(2)] * 2, np.inf, "ratio"),
        ([np.eye(2)] * 2, "2", "ratio"),
    ],
)
def test_bad_input_of_tilting(factors, ratio, named):
    with pytest.raises(ValueError, match=rf"^{named}\b"):
        networks.tilted(factors, ratio)


@pytest.mark.parametrize("factors", [[], 3, [np.ones((2, 3)), np.ones((2, 3))]])
def test_bad_input_of_the_sharpness(factors):
    with pytest.raises(ValueError, match=r"^factors\b"):
        networks.sharpness(factors)
