"""Sparse loss and gradients against the dense ones, the reader of tables, and the theory."""

import csv
import gzip
import importlib.util
import inspect
from itertools import pairwise
from pathlib import Path

import evidence
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmflib import descent, flow, rating_dynamics
from dmflib.linear_networks import Backpropagation, balanced, imbalance, product
from dmflib.losses import Completion
from dmflib.rating_dynamics import (
    Ratings,
    SparseBackpropagation,
    SparseCompletion,
    alignment,
    densest,
    depth_one,
    identity_start,
    rank_one_fit,
    read_ratings,
    sample_ratings,
    split,
    synthetic_ratings,
    waiting_time,
)
from dmflib.stopping import Diverged, DivergenceWarning, LossBelow, MaxSteps


def random_ratings(rng, m, n):
    """Some places of a table, in random order, with real values of both signs."""
    flat = rng.permutation(m * n)[: rng.integers(1, m * n + 1)]
    return Ratings(*np.divmod(flat, n), 3 * rng.standard_normal(flat.size), (m, n))


def dense_loss(ratings):
    mask = np.zeros(ratings.shape, dtype=bool)
    mask[ratings.rows, ratings.columns] = True
    return Completion(ratings.dense(), mask)


@st.composite
def problems(draw):
    """Ratings, factors of matching shapes with any inner widths, and the generator."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    widths = [int(d) for d in rng.integers(1, 7, draw(st.integers(1, 5)) + 1)]
    factors = [rng.standard_normal((b, a)) for a, b in pairwise(widths)]
    return random_ratings(rng, widths[-1], widths[0]), factors, rng


# --- the sparse loss -----------------------------------------------------------------------------


@given(problems())
@settings(deadline=None)
def test_the_sparse_loss_is_the_dense_one(problem):
    ratings, factors, _ = problem
    W, sparse, dense = product(factors), SparseCompletion(ratings), dense_loss(ratings)
    assert sparse.shape == dense.shape
    assert sparse.value(W) == pytest.approx(dense.value(W), rel=1e-12)
    np.testing.assert_array_equal(sparse.gradient(W), dense.gradient(W))
    value, gradient, transposed = sparse.value_and_sparse_gradient(W)
    assert value == sparse.value(W)
    assert gradient.nnz == len(ratings)
    np.testing.assert_array_equal(gradient.toarray(), dense.gradient(W))
    np.testing.assert_array_equal(transposed.toarray(), dense.gradient(W).T)


@pytest.mark.ledger("prop-rating-dynamics-sparse")
@given(problems())
@settings(deadline=None)
def test_gradients_of_factors_are_those_of_the_dense_way(problem):
    ratings, factors, _ = problem
    shapes = [W.shape for W in factors]
    sparse, dense = SparseBackpropagation(shapes), Backpropagation(shapes)
    value = sparse.evaluate(SparseCompletion(ratings), factors)
    assert value == pytest.approx(dense.evaluate(dense_loss(ratings), factors), rel=1e-10)
    scale = 1 + np.abs(dense.flat_gradient).max()
    evidence.agree(sparse.flat_gradient / scale, dense.flat_gradient / scale, atol=1e-11)
    np.testing.assert_allclose(sparse.partial[-1], product(factors), atol=1e-12 * scale)


@pytest.mark.ledger("prop-rating-dynamics-sparse")
@given(problems())
@settings(deadline=None)
def test_gradients_of_factors_are_finite_differences(problem):
    ratings, factors, rng = problem
    loss = SparseCompletion(ratings)
    work = SparseBackpropagation([W.shape for W in factors])
    moves = [rng.standard_normal(W.shape) for W in factors]

    def value(h):
        return loss.value(product([W + h * M for W, M in zip(factors, moves, strict=True)]))

    work.evaluate(loss, factors)
    slope = sum(np.vdot(G, M) for G, M in zip(work.gradients, moves, strict=True))
    # The loss is a polynomial of degree 2N along a line: exact differences from enough points.
    nodes = np.linspace(-1, 1, 2 * len(factors) + 1)
    values = [value(h) for h in nodes]
    polynomial = np.polynomial.Polynomial.fit(nodes, values, 2 * len(factors))
    size = 1 + max(values)
    evidence.agree(polynomial.deriv()(0.0) / size, slope / size, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_paths_are_those_of_the_dense_movers(shape, depth):
    ratings = random_ratings(np.random.default_rng(depth), *shape)
    sparse, dense = SparseCompletion(ratings), dense_loss(ratings)
    start = identity_start(shape, depth, 0.3)
    steps = descent.gradient_descent(dense, start, 0.01, MaxSteps(200), record=20)
    ours = rating_dynamics.descent(sparse, start, 0.01, 200, record=20)
    np.testing.assert_allclose(ours.times, 0.01 * steps.times, rtol=1e-13)
    np.testing.assert_allclose(ours.singular_values, steps.singular_values, atol=1e-9)
    np.testing.assert_allclose(ours.losses, steps.losses, rtol=1e-9, atol=1e-12)
    assert ours.evaluations == 201
    times = np.linspace(0, 2, 11)
    options = {"t_final": 2, "method": "RK45", "rtol": 1e-8, "atol": 1e-10, "record": times}
    path = flow.gradient_flow(dense, start, **options)
    ours = rating_dynamics.flow(sparse, start, **options)
    np.testing.assert_allclose(ours.singular_values, path.singular_values, atol=1e-9)
    np.testing.assert_allclose(ours.product, path.products[-1], atol=1e-9)
    assert ours.evaluations == path.evaluations


def test_the_start_is_not_changed_and_rules_stop_the_flow():
    ratings = random_ratings(np.random.default_rng(3), 5, 7)
    loss, start = SparseCompletion(ratings), identity_start((5, 7), 2, 0.2)
    copies = [W.copy() for W in start]
    run = rating_dynamics.flow(loss, start, stop=LossBelow(1e-3))
    rating_dynamics.descent(loss, start, 0.01, 3)
    assert run.losses[-1] <= 1e-3 < run.losses[-2]
    assert str(run.stopped_by) == "LossBelow(0.001)"
    for W, copy in zip(start, copies, strict=True):
        np.testing.assert_array_equal(W, copy)


def test_what_is_recorded_is_what_it_says():
    ratings = synthetic_ratings(20, 30, 300, rng=1)
    train, test = split(ratings, 240, 2)
    loss, start = SparseCompletion(train), identity_start((20, 30), 2, 0.01)
    run = rating_dynamics.flow(loss, start, t_final=1, test=test, count=4)
    W = run.product
    np.testing.assert_allclose(run.singular_values[-1], np.linalg.svd(W, compute_uv=False))
    np.testing.assert_allclose(run.alignment[-1], alignment(W, loss.gradient(W), 4), atol=1e-10)
    assert run.test_errors[-1] == pytest.approx(test.error(W))
    assert run.losses[-1] == pytest.approx(loss.value(W))
    assert rating_dynamics.flow(loss, start, t_final=1).test_errors is None
    assert [len(column) for column in (run.losses, run.alignment)] == [len(run.times)] * 2


def test_a_divergence_is_reported_with_its_step():
    loss = SparseCompletion(synthetic_ratings(8, 9, 50, rng=0))
    with pytest.warns(DivergenceWarning, match=r"step \d+"):
        run = rating_dynamics.descent(loss, identity_start((8, 9), 2, 0.1), 1.0, 100, record=1)
    assert isinstance(run.stopped_by, Diverged)
    assert np.isfinite(run.singular_values).all()
    assert np.isfinite(run.alignment).all()
    assert np.isfinite(run.product).all()
    assert len(run.times) < 101
    with pytest.raises(ValueError, match="factors"):
        rating_dynamics.descent(loss, identity_start((8, 9), 2, 1e200), 1.0, 1)


# --- alignment -----------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_alignment_is_perfect_exactly_for_common_vectors(seed):
    rng = np.random.default_rng(seed)
    m, n = (int(d) for d in rng.integers(1, 7, 2))
    p = min(m, n)
    U = np.linalg.qr(rng.standard_normal((m, m)))[0][:, :p]
    V = np.linalg.qr(rng.standard_normal((n, n)))[0][:, :p]
    sigma, drive = np.arange(p, 0, -1.0), rng.standard_normal(p)
    W = U * sigma @ V.T
    on, on_std, off, off_std = alignment(W, U * drive @ V.T)
    assert on == pytest.approx(np.abs(drive).mean())
    assert on_std == pytest.approx(np.abs(drive).std(), abs=1e-12)
    assert max(off, off_std) < 1e-12
    K = rng.standard_normal((p, p))
    on, on_std, off, off_std = alignment(W, U @ K @ V.T)
    parts = np.diagonal(K), K[~np.eye(p, dtype=bool)]
    expected = [f(np.abs(part)) if part.size else 0.0 for part in parts for f in (np.mean, np.std)]
    np.testing.assert_allclose([on, on_std, off, off_std], expected, atol=1e-12)


# --- theory --------------------------------------------------------------------------------------


@pytest.mark.ledger("prop-rating-dynamics-one")
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_depth_one_is_the_flow_of_one_matrix(seed):
    rng = np.random.default_rng(seed)
    m, n = (int(d) for d in rng.integers(1, 7, 2))
    ratings, W0, t = random_ratings(rng, m, n), rng.standard_normal((m, n)), rng.uniform(0.1, 3)
    run = rating_dynamics.flow(
        SparseCompletion(ratings), [W0], t_final=t, method="RK45", rtol=1e-8, atol=1e-10
    )
    evidence.agree(depth_one(ratings, W0, t), run.product, rtol=1e-7, atol=1e-6)
    np.testing.assert_array_equal(depth_one(ratings, W0, 0), W0)
    assert ratings.error(depth_one(ratings, W0, 50)) < 1e-12
    zero = depth_one(ratings, np.zeros((m, n)), t)  # the table shrunk: its vectors, all aligned
    evidence.agree(zero, (1 - np.exp(-t)) * ratings.dense(), rtol=1e-7, atol=1e-13)


@pytest.mark.ledger("thm-rating-dynamics-waiting")
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_no_value_arrives_before_the_waiting_time(seed, depth):
    """On the flow of the singular values themselves, from any balanced start."""
    rng = np.random.default_rng(seed)
    m, n = (int(d) for d in rng.integers(1, 6, 2))
    ratings, p = random_ratings(rng, m, n), min(m, n)
    start = 10.0 ** rng.uniform(-4, 0)
    basis = [np.linalg.qr(rng.standard_normal((d, d)))[0][:, :p] for d in (m, n)]
    values = start * np.r_[1.0, rng.random(p - 1)]
    factors = balanced(basis[0] * values @ basis[1].T, depth)
    B = ratings.dense()
    strength = np.linalg.norm(B, 2)
    level = start * 10 ** rng.uniform(0.1, 4)
    bound = waiting_time(strength, p, depth, start, level)
    run = rating_dynamics.flow(
        SparseCompletion(ratings),
        factors,
        t_final=bound,
        method="RK45",
        rtol=1e-8,
        atol=1e-10 * start ** (1 / depth),
    )
    evidence.at_most(run.singular_values.max(), level, slack=1e-4)


@given(
    st.floats(0.1, 1e3),
    st.integers(1, 1000),
    st.integers(1, 6),
    st.floats(1e-8, 1.0),
    st.floats(1.0, 1e8),
)
@settings(deadline=None)
def test_waiting_time_solves_its_differential_equation(strength, rank, depth, start, ratio):
    level, root = start * ratio, np.sqrt(rank)
    time = waiting_time(strength, rank, depth, start, level)
    if depth == 2:  # partial fractions
        closed = (np.log(level) - np.log(start)) - (
            np.log(strength + root * level) - np.log(strength + root * start)
        )
        assert time == pytest.approx(closed / (2 * strength), rel=1e-6, abs=1e-12 / strength)
    if depth == 1:
        closed = np.log((strength + root * level) / (strength + root * start)) / root
        assert time == pytest.approx(closed, rel=1e-6, abs=1e-12)
    # The drive is never above its value at the level and never below that at the start.
    x = np.log([start, level])
    power = 2 / depth - 1
    way = (
        np.diff(x)[0]
        if power == 0
        else np.exp(power * x[0]) * np.expm1(power * np.diff(x)[0]) / power
    )
    assert way / depth / (strength + root * level) <= time * (1 + 1e-8) + 1e-300
    assert time <= way / depth / (strength + root * start) * (1 + 1e-8) + 1e-300


def test_waiting_time_nearly_sharp_for_one_entry():
    ratings = Ratings([0], [0], [2.0], (1, 1))
    bound = waiting_time(2.0, 1, 3, 1e-4, 1e-2)
    run = rating_dynamics.flow(
        SparseCompletion(ratings),
        identity_start((1, 1), 3, 1e-4),
        t_final=bound,
        rtol=1e-8,
        atol=1e-12,
    )
    assert run.singular_values[-1, 0] == pytest.approx(1e-2, rel=0.02)


@pytest.mark.ledger("prop-rating-dynamics-plateau")
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_what_rests_at_rank_one_and_what_does_not(seed, depth):
    """From fits by alternating means; then with a wrong value, and with wrong vectors."""
    rng = np.random.default_rng(seed)
    m, n = (int(d) for d in rng.integers(2, 7, 2))
    mask = rng.random((m, n)) < 0.8
    mask[np.arange(max(m, n)) % m, np.arange(max(m, n)) % n] = True
    B = np.where(mask, np.outer(rng.uniform(1, 3, m), rng.uniform(1, 3, n)), 0.0)
    B *= 1 + 0.1 * rng.standard_normal((m, n))
    x, z = np.ones(m), np.ones(n)
    for _ in range(3000):
        x = (B @ z) / (mask @ z**2)
        z = (x @ B) / (x**2 @ mask)
    sigma = np.linalg.norm(x) * np.linalg.norm(z)
    u, v = x / np.linalg.norm(x), z / np.linalg.norm(z)
    root = sigma ** (1 / depth)
    factors = [root * v[None], *[np.full((1, 1), root)] * (depth - 2), root * u[:, None]]
    assert imbalance(factors) < 1e-12 * (1 + sigma)
    ratings = Ratings(*np.nonzero(mask), B[mask], (m, n))
    work = SparseBackpropagation([W.shape for W in factors])

    def size(parts):
        work.evaluate(SparseCompletion(ratings), parts)
        return np.abs(work.flat_gradient).max() / sigma

    if size(factors) > 1e-10:  # the means had not come to rest
        return
    G = np.where(mask, sigma * np.outer(u, v) - B, 0.0)
    evidence.agree(G @ v, np.zeros(m), atol=1e-8)
    evidence.agree(u @ G, np.zeros(n), atol=1e-8)
    quotient = np.vdot(B, np.outer(u, v)) / (np.outer(u, v)[mask] ** 2).sum()
    evidence.agree(sigma, quotient, rtol=1e-9)
    evidence.holds(size([1.01 * W for W in factors]) > 1e-4)
    turned = v + 0.05 * rng.standard_normal(n)
    turned *= np.linalg.norm(v) / np.linalg.norm(turned)
    if abs(turned @ v) < 1 - 1e-4:
        evidence.holds(size([root * turned[None], *factors[1:]]) > 1e-6)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_rank_one_fit_is_a_critical_point(seed):
    rng = np.random.default_rng(seed)
    m, n = (int(d) for d in rng.integers(2, 8, 2))
    u, v = rng.uniform(1, 3, m), rng.uniform(1, 3, n)
    mask = rng.random((m, n)) < 0.7
    mask[np.arange(max(m, n)) % m, np.arange(max(m, n)) % n] = True
    table = np.outer(u, v) * (1 + 0.1 * rng.standard_normal((m, n)))
    i, j = np.nonzero(mask)
    ratings = Ratings(i, j, table[i, j], (m, n))
    value, left, right = rank_one_fit(ratings)
    assert np.linalg.norm(left) == pytest.approx(1)
    assert np.linalg.norm(right) == pytest.approx(1)
    G = SparseCompletion(ratings).gradient(value * np.outer(left, right))
    assert max(np.abs(G @ right).max(), np.abs(left @ G).max()) < 1e-4 * value
    perfect = Ratings(i, j, np.outer(u, v)[i, j], (m, n))
    value, left, right = rank_one_fit(perfect)
    assert perfect.error(value * np.outer(left, right)) < 1e-4


@pytest.mark.ledger("prop-rating-dynamics-plateau")
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_good_fit_of_rank_one_lies_above_the_norm_of_the_data(seed):
    """Alternating means from the leading singular pair never come to a greater loss than its ray.

    That is all the proof uses of a best fit.
    """
    rng = np.random.default_rng(seed)
    m, n = (int(d) for d in rng.integers(2, 9, 2))
    mask = rng.random((m, n)) < rng.uniform(0.2, 1)
    mask[np.arange(max(m, n)) % m, np.arange(max(m, n)) % n] = True
    B = np.where(mask, rng.uniform(1, 5, (m, n)), 0.0)
    U, s, Vt = np.linalg.svd(B)
    x, z = np.abs(U[:, 0]) + 1e-12, np.abs(Vt[0]) + 1e-12
    for _ in range(500):
        x = (B @ z) / (mask @ z**2)
        z = (x @ B) / (x**2 @ mask)
    evidence.at_most(s[0], np.linalg.norm(x) * np.linalg.norm(z), slack=1e-9)


def test_the_first_plateau_of_depth_three_is_the_rank_one_fit():
    ratings = synthetic_ratings(20, 30, 300, noise=0.2, rng=0)
    value, u, v = rank_one_fit(ratings)
    start = identity_start((20, 30), 3, 1e-9)
    strength = np.linalg.norm(ratings.dense(), 2)
    later = 1.3 * waiting_time(strength, 20, 3, 1e-9, 1.0)
    run = rating_dynamics.flow(SparseCompletion(ratings), start, t_final=later, rtol=1e-6)
    assert run.singular_values[-1, 1] < 1e-3
    np.testing.assert_allclose(run.product, value * np.outer(u, v), atol=1e-2)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.floats(1e-6, 10))
@settings(deadline=None)
def test_the_identity_start_is_balanced_and_has_one_value(m, n, depth, scale):
    factors = identity_start((m, n), depth, scale)
    W = product(factors)
    np.testing.assert_allclose(W, scale * np.eye(m, n), rtol=1e-12)
    assert imbalance(factors) <= 1e-12 * scale
    assert len(factors) == depth
    wide = identity_start((m, n), depth, scale, width=9)
    np.testing.assert_allclose(product(wide), scale * np.eye(m, n), rtol=1e-12)


# --- tables --------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=30, deadline=None)
def test_reading_what_was_written(tmp_path_factory, seed, packed):
    rng = np.random.default_rng(seed)
    m, n = (int(d) for d in rng.integers(1, 8, 2))
    ratings = random_ratings(rng, m, n)
    lines = [
        f"{7 * i + 3}\t{2 * j + 1}\t{float(x)!r}\t{881250949 + i}\n"
        for i, j, x in zip(ratings.rows, ratings.columns, ratings.values, strict=True)
    ]
    path = tmp_path_factory.mktemp("table") / ("u.data.gz" if packed else "u.data")
    with (gzip.open if packed else open)(path, "wt") as file:
        file.writelines([*lines, "\n"])
    read = read_ratings(path)
    rows, columns = (np.unique(k, return_inverse=True) for k in (ratings.rows, ratings.columns))
    assert read.shape == (rows[0].size, columns[0].size)
    np.testing.assert_array_equal(read.rows, rows[1])
    np.testing.assert_array_equal(read.columns, columns[1])
    np.testing.assert_array_equal(read.values, ratings.values)


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("1 2", "3 or 4 fields"),
        ("1::2::3::4", "3 or 4 fields"),
        ("1 2 3 4 5", "3 or 4 fields"),
        ("0 2 3", "positive integers"),
        ("1 -2 3", "positive integers"),
        ("1.5 2 3", "positive integers"),
        ("x 2 3", "positive integers"),
        ("² 2 3", "positive integers"),
        ("1 99999999999 3", "positive integers"),
        ("1 2 good", "finite number"),
        ("1 2 nan", "finite number"),
        ("1 2 inf", "finite number"),
        ("4 5 1", r"not rated before \(line 1\)"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, allowed):
    path = tmp_path / "u.data"
    path.write_text(f"4\t5\t3\t1\n\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"path=.*u\.data', line 3: .*must have .*{allowed}"):
        read_ratings(path)


def test_a_bad_path_is_refused(tmp_path):
    empty, binary, packed = (tmp_path / name for name in ("empty", "binary", "not.gz"))
    empty.write_text("\n")
    binary.write_bytes(b"\xff\xfe\x00\x01\n")
    packed.write_text("1 2 3\n")
    for path in (tmp_path / "missing", tmp_path, empty, binary, packed, 3, None, ["a"]):
        with pytest.raises(ValueError, match=r"path=.*path must be"):
            read_ratings(path)


def test_the_sample_is_the_published_one():
    ratings = sample_ratings()
    assert ratings.shape == (1128, 2972)
    counts = np.bincount(ratings.values.astype(int))
    assert counts.tolist() == [0, 10186, 12951, 17609, 16921, 15754]


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_densest_part_is_a_part_and_stable(seed):
    rng = np.random.default_rng(seed)
    m, n = (int(d) for d in rng.integers(1, 9, 2))
    ratings = random_ratings(rng, m, n)
    a, b = int(rng.integers(1, m + 1)), int(rng.integers(1, n + 1))
    try:
        part = densest(ratings, a, b)
    except ValueError:
        assert False, "the fullest rows and columns meet in at least one rating"  # noqa: B011, PT015
    assert part.shape == (a, b)
    filled = np.zeros((m, n), dtype=bool)
    filled[ratings.rows, ratings.columns] = True
    assert set(part.values) <= set(ratings.values)
    if (a, b) == (m, n):
        np.testing.assert_array_equal(part.dense(), ratings.dense())
    assert len(part) >= filled.sum(axis=1).max() * (b == n)


def test_splits_are_random_and_complete():
    ratings = synthetic_ratings(8, 9, 30, rng=0)
    drawn, left = split(ratings, 5, 1)
    assert len(drawn) == 5
    np.testing.assert_array_equal(drawn.dense() + left.dense(), ratings.dense())
    np.testing.assert_array_equal(split(ratings, 5, 1)[0].dense(), drawn.dense())
    assert (split(ratings, 5, 2)[0].dense() != drawn.dense()).any()


def test_synthetic_ratings_have_the_size_and_the_skew_asked_for():
    ratings = synthetic_ratings(200, 300, 4000, rng=0)
    assert (ratings.shape, len(ratings)) == ((200, 300), 4000)
    assert set(ratings.values) == {1, 2, 3, 4, 5}
    for index in (ratings.rows, ratings.columns):
        counts = np.sort(np.bincount(index))
        assert counts[-1] > 5 * np.median(counts)
    exact = synthetic_ratings(30, 40, 1200, rank=1, noise=0.0, rng=3)
    assert len(exact) == 1200


I22 = Ratings([0, 1], [0, 1], [1.0, 2.0], (2, 2))
LOSS = SparseCompletion(I22)
START = identity_start((2, 2), 2, 0.1)
NOT_COUNTS = [0, -1, 1.5, None, "2"]
NOT_POSITIVE = [0, -1.0, np.nan, np.inf, None, "1"]
TABLE = {"rows": [0], "columns": [0], "values": [1.0], "shape": (1, 2)}
RUN = {"loss": LOSS, "factors": START}
WAIT = {"strength": 1.0, "rank": 2, "depth": 2, "start": 0.1, "level": 1.0}
BAD = [
    (Ratings, TABLE, "rows", [[1], [-1], [0.5], [0, 0], None, "a", [np.nan]]),
    (Ratings, TABLE, "columns", [[2], [-1], [0.5], [[0]], None]),
    (Ratings, TABLE, "values", [[np.nan], [], None, "a", 3.0, [1j]]),
    (Ratings, TABLE, "shape", [None, 3, (1,), (0, 2), (1, 2.5), (1, 2, 3)]),
    (Ratings, TABLE | {"columns": [1, 1], "values": [1, 2]}, "rows", [[0, 0]]),
    (I22.at, {}, "W", [np.eye(3), None, [[1, np.nan], [0, 0]]]),
    (I22.error, {}, "W", [np.eye(3), None]),
    (densest, {"ratings": I22, "columns": 1}, "rows", [*NOT_COUNTS, 3]),
    (densest, {"ratings": I22, "rows": 1}, "columns", [*NOT_COUNTS, 3]),
    (densest, {"rows": 1, "columns": 1}, "ratings", [None, np.eye(2)]),
    (split, {"ratings": I22}, "count", [*NOT_COUNTS, 2]),
    (split, {"count": 1}, "ratings", [None, np.eye(2)]),
    (split, {"ratings": I22, "count": 1}, "rng", [-1, "a", 1.5]),
    (synthetic_ratings, {"columns": 2, "count": 1}, "rows", NOT_COUNTS),
    (synthetic_ratings, {"rows": 2, "count": 1}, "columns", NOT_COUNTS),
    (synthetic_ratings, {"rows": 2, "columns": 2}, "count", [*NOT_COUNTS, 5]),
    (synthetic_ratings, {"rows": 2, "columns": 2, "count": 1}, "rank", NOT_COUNTS),
    (synthetic_ratings, {"rows": 2, "columns": 2, "count": 1}, "noise", [-1, np.nan, None]),
    (synthetic_ratings, {"rows": 2, "columns": 2, "count": 1}, "rng", [-1, "a"]),
    (SparseCompletion, {}, "ratings", [None, np.eye(2), LOSS]),
    (LOSS.value, {}, "W", [np.eye(3), None]),
    (alignment, {"gradient": np.eye(2)}, "W", [None, [1, 2], [[np.nan, 0], [0, 1]]]),
    (alignment, {"W": np.eye(2)}, "gradient", [None, np.eye(3), [[np.inf, 0], [0, 1]]]),
    (alignment, {"W": np.eye(2), "gradient": np.eye(2)}, "count", [0, 3, 1.5, "1"]),
    *(
        case
        for mover, rest in (
            (rating_dynamics.flow, {"t_final": 1}),
            (rating_dynamics.descent, {"step_size": 0.1, "steps": 2}),
        )
        for case in (
            (mover, {"factors": START} | rest, "loss", [None, dense_loss(I22), "loss"]),
            (mover, {"loss": LOSS} | rest, "factors", [None, [], [np.eye(3)], [np.ones((2, 3))]]),
            (mover, RUN | rest, "test", [np.eye(2), 3, Ratings([0], [0], [1.0], (1, 2))]),
            (mover, RUN | rest, "count", [0, -1, 1.5, "2"]),
            (mover, RUN | rest, "record", [0, -1, 0.5, [], "1"]),
        )
    ),
    (rating_dynamics.flow, RUN, "t_final", NOT_POSITIVE),
    (rating_dynamics.flow, RUN | {"t_final": 1}, "stop", [3, "stop"]),
    (rating_dynamics.flow, RUN | {"t_final": 1}, "method", ["euler", None]),
    (rating_dynamics.flow, RUN | {"t_final": 1}, "rtol", [0, 1, None]),
    (rating_dynamics.flow, RUN | {"t_final": 1}, "atol", NOT_POSITIVE),
    (rating_dynamics.descent, RUN | {"steps": 1}, "step_size", NOT_POSITIVE),
    (rating_dynamics.descent, RUN | {"step_size": 1}, "steps", NOT_COUNTS),
    (identity_start, {"depth": 2, "scale": 1}, "shape", [None, 3, (1,), (0, 2), (1.5, 2)]),
    (identity_start, {"shape": (2, 2), "scale": 1}, "depth", NOT_COUNTS),
    (identity_start, {"shape": (2, 2), "depth": 2}, "scale", NOT_POSITIVE),
    (identity_start, {"shape": (2, 2), "depth": 2, "scale": 1}, "width", [0, -1, 1.5, "2"]),
    (depth_one, {"W0": np.eye(2), "t": 1}, "ratings", [None, np.eye(2)]),
    (depth_one, {"ratings": I22, "t": 1}, "W0", [None, np.eye(3)]),
    (depth_one, {"ratings": I22, "W0": np.eye(2)}, "t", [-1, np.nan, None]),
    (waiting_time, WAIT, "strength", NOT_POSITIVE),
    (waiting_time, WAIT, "rank", NOT_COUNTS),
    (waiting_time, WAIT, "depth", NOT_COUNTS),
    (waiting_time, WAIT, "start", NOT_POSITIVE),
    (waiting_time, WAIT, "level", [0.05, np.inf, None]),
    (rank_one_fit, {}, "ratings", [None, np.eye(2)]),
    (rank_one_fit, {"ratings": I22}, "tolerance", NOT_POSITIVE),
    (rank_one_fit, {"ratings": I22}, "max_sweeps", [0, 1.5, None]),
]


@pytest.mark.parametrize(
    ("function", "arguments", "name", "value"),
    [(f, arguments, name, value) for f, arguments, name, values in BAD for value in values],
)
def test_bad_input_is_refused_by_name(function, arguments, name, value):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        function(**arguments | {name: value})
    assert name in str(caught.value).split(":")[0]
    assert "must be" in str(caught.value) or "must have" in str(caught.value)


def test_every_public_function_has_its_bad_input():
    public = {
        name
        for name, thing in vars(rating_dynamics).items()
        if inspect.isfunction(thing)
        and thing.__module__ == rating_dynamics.__name__
        and not name.startswith("_")
    }
    tested = {getattr(function, "__name__", "") for function, *_ in BAD}
    assert public - tested == {"read_ratings", "sample_ratings"}  # tested above; no argument


# --- the experiment at full size -----------------------------------------------------------------


@pytest.fixture(scope="module")
def movielens():
    path = Path(__file__).parents[1] / "tools" / "movielens.py"
    spec = importlib.util.spec_from_file_location("movielens", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(ratings, path):
    path.write_text(
        "".join(
            f"{i + 1}\t{j + 1}\t{int(x)}\t881250949\n"
            for i, j, x in zip(ratings.rows, ratings.columns, ratings.values, strict=True)
        )
    )


def test_the_experiment_runs_on_a_file_of_the_same_form(movielens, tmp_path, capsys):
    ratings = synthetic_ratings(12, 18, 160, rng=0)
    write(ratings, tmp_path / "u.data")
    out = tmp_path / "new" / "results"
    arguments = [str(tmp_path / "u.data"), str(out), "--count", "120", "--steps", "400"]
    assert movielens.main([*arguments, "--records", "9", "--times", "0.02"]) == 0
    assert "160 ratings in a table of" in capsys.readouterr().out
    with (out / "dynamics.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {(line["depth"], line["mover"]) for line in lines} == {
        (str(depth), mover) for depth in (1, 2, 3) for mover in ("flow", "descent")
    }
    assert len(lines) == 6 * 9
    assert float(lines[-1]["time"]) == pytest.approx(0.02 * 200_000 * 0.02 / 120)
    assert all(0 < float(line["test_rmse"]) < 6 for line in lines)
    assert (out / "dynamics.svg").read_text().lstrip().startswith("<?xml")


def test_the_experiment_says_what_is_wrong_with_a_file(movielens, tmp_path, capsys):
    bad = tmp_path / "u.data"
    bad.write_text("1\t2\t3\t4\n1\t2\n")
    for path, message in ((bad, "line 2"), (tmp_path / "none", "path must be")):
        assert movielens.main([str(path), str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_published_time_and_step(movielens):
    """One published step, taken by hand on the mean of the squares, is one of ours."""
    ratings = synthetic_ratings(5, 7, 20, rng=1)
    W1, W2 = identity_start((5, 7), 2, 1e-3)
    error = np.zeros((5, 7))
    error[ratings.rows, ratings.columns] = 2 / 20 * (ratings.at(W2 @ W1) - ratings.values)
    by_hand = (W2 - 0.01 * error @ W1.T) @ (W1 - 0.01 * W2.T @ error)
    size = movielens.published_time(20) / movielens.PUBLISHED_STEPS
    run = rating_dynamics.descent(SparseCompletion(ratings), [W1, W2], size, 1)
    np.testing.assert_allclose(run.product, by_hand, atol=1e-14)
