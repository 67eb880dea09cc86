"""Products, gradients, their cost, and the starts."""

import tracemalloc
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmflib import linear_networks as networks
from dmflib.losses import Completion, FullObservation
from dmflib.matrices import frobenius_norm

fast = settings(deadline=None, max_examples=40)
chains = st.lists(st.integers(1, 5), min_size=2, max_size=6)  # depth 1 to 5
seeds = st.integers(0, 2**32 - 1)


def normal_factors(widths, seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(b, a)) for a, b in pairwise(widths)]


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
        assert G[i, j] == (values[0] - values[1]) / 2


@fast
@given(chains, seeds)
def test_gradients_are_the_formula_of_source_a(widths, seed):
    factors = normal_factors(widths, seed)
    outer = np.random.default_rng(seed + 1).normal(size=(widths[-1], widths[0]))
    for i, G in enumerate(networks.factor_gradients(factors, outer)):
        left = reduce(lambda A, W: W @ A, factors[i + 1 :], np.eye(factors[i].shape[0]))
        right = reduce(lambda A, W: W @ A, factors[:i], np.eye(widths[0]))
        np.testing.assert_allclose(G, left.T @ outer @ right.T, rtol=1e-10, atol=1e-10)


@fast
@given(chains, seeds)
def test_the_gradient_conserves_the_balance_defects(widths, seed):
    """Along W_i' = -G_i each W_{i+1}^T W_{i+1} - W_i W_i^T stays: G_{i+1}^T W_{i+1} = W_i G_i^T."""
    factors = normal_factors(widths, seed)
    outer = np.random.default_rng(seed + 1).normal(size=(widths[-1], widths[0]))
    G = networks.factor_gradients(factors, outer)
    for i in range(len(factors) - 1):
        np.testing.assert_allclose(factors[i + 1].T @ G[i + 1], G[i] @ factors[i].T, atol=1e-9)


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
    assert np.abs(networks.product(factors) - W0).max() <= 1e-13 * depth * 10 * size
    assert networks.imbalance(factors) <= 1e-13 * size ** (2 / depth) * 10
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
