"""Matrix recovery: what can be known, the deep solutions, the convex ones, and the studies."""

import json
import sys
import tracemalloc
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import evidence
import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bad_input import cases

from dmflib import matrix_recovery as mr
from dmflib.flow import gradient_flow
from dmflib.linear_networks import Backpropagation, factor_gradients, gaussian, product, views
from dmflib.losses import Completion, FullObservation, Sensing
from dmflib.matrices import effective_rank, nuclear_norm, spectral_norm
from dmflib.stopping import LossBelow, MaxSteps

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import study  # noqa: E402

seeds = st.integers(0, 2**32 - 1)


def problem(seed, kind, n=6, rank=2, count=20):
    return mr.Trial(rank, count, seed, 2, size=n, problem=kind)


# --- problems -----------------------------------------------------------------------------------


@given(n=st.integers(1, 12), data=st.data(), seed=seeds)
def test_random_matrices_have_their_rank_and_norm(n, data, seed):
    rank = data.draw(st.integers(1, n))
    W = mr.random_matrix(n, rank, seed)
    sigma = np.linalg.svd(W, compute_uv=False)
    assert np.linalg.norm(W) == pytest.approx(n, rel=1e-12)
    assert sigma[rank:].max(initial=0) <= 1e-12 * n
    assert sigma[rank - 1] > 0


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), data=st.data(), seed=seeds)
def test_masks_of_one_seed_are_nested(rows, columns, data, seed):
    few = data.draw(st.integers(1, rows * columns))
    many = data.draw(st.integers(few, rows * columns))
    small, large = (mr.random_mask((rows, columns), count, seed) for count in (few, many))
    assert small.sum() == few
    assert large.sum() == many
    assert (large | ~small).all()


def test_every_entry_is_as_likely():
    hits = sum(mr.random_mask((4, 5), 6, seed).astype(int) for seed in range(4000))
    # Each count is binomial with mean 1200 and deviation 29.
    assert np.abs(hits - 1200).max() < 5 * 29


def test_gaussian_measurements_have_the_published_size():
    target = mr.random_matrix(20, 2, 0)
    loss = mr.gaussian_sensing(target, 4000, 1)
    assert loss.operators.std() == pytest.approx(1 / 20, rel=0.01)
    expected = np.einsum("kij,ij->k", loss.operators, target)
    np.testing.assert_allclose(loss.measurements, expected, atol=1e-12)
    assert np.mean(loss.measurements**2) == pytest.approx(1, rel=0.1)


# --- what can be known --------------------------------------------------------------------------


def tangent_rank(loss, target, rank):
    """The same dimension from random tangent vectors and finite differences of the observations."""
    rng = np.random.default_rng(0)
    U, sigma, Vt = np.linalg.svd(target)
    left, right = U[:, :rank] * sigma[:rank], Vt[:rank].T
    m, n = target.shape
    columns = []
    for _ in range(rank * (m + n)):
        B, A = rng.standard_normal((m, rank)), rng.standard_normal((n, rank))
        step = (left + 1e-4 * B) @ (right + 1e-4 * A).T - (left - 1e-4 * B) @ (right - 1e-4 * A).T
        seen = step[loss.mask] if isinstance(loss, Completion) else loss._rows @ step.ravel()
        columns.append(seen / 2e-4)
    return np.linalg.matrix_rank(np.array(columns), tol=1e-7)


@pytest.mark.ledger("thm-matrix-recovery-free")
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 200),
    kind=st.sampled_from(["completion", "sensing"]),
    rank=st.integers(1, 3),
    count=st.integers(1, 35),
)
def test_free_directions_agree_with_finite_differences(seed, kind, rank, count):
    trial = problem(seed, kind, 6, rank, count)
    loss, target = trial.loss(), trial.target()
    d = mr.degrees_of_freedom((6, 6), rank)
    free = mr.free_directions(loss, target, rank)
    evidence.agree(free, d - tangent_rank(loss, target, rank))
    evidence.at_most(d - count, free)


def observed(loss, W):
    return W[loss.mask] if isinstance(loss, Completion) else loss._rows @ W.ravel()


@pytest.mark.ledger("thm-matrix-recovery-free")
@pytest.mark.parametrize("kind", ["completion", "sensing"])
@pytest.mark.parametrize(("rank", "count"), [(1, 8), (2, 17), (2, 25), (3, 26), (1, 30), (2, 34)])
@pytest.mark.parametrize("seed", range(3))
def test_free_directions_lead_to_other_solutions_and_no_others_do(seed, rank, count, kind):
    """Near the truth: solutions by Gauss-Newton in the factors where there are free directions."""
    trial = problem(seed, kind, 6, rank, count)
    loss, target = trial.loss(), trial.target()
    U, sigma, Vt = np.linalg.svd(target)
    left, right = U[:, :rank] * np.sqrt(sigma[:rank]), Vt[:rank].T * np.sqrt(sigma[:rank])
    y, units = observed(loss, target), np.eye(12 * rank)

    def jacobian(z):
        L, R = z.reshape(2, 6, rank)
        moves = [observed(loss, D @ R.T + L @ E.T) for D, E in units.reshape(-1, 2, 6, rank)]
        return np.transpose(moves)

    z0 = np.concatenate([left.ravel(), right.ravel()])
    free = mr.free_directions(loss, target, rank)
    rng = np.random.default_rng(seed)
    if free == 0:
        for size in 10.0 ** rng.uniform(-7, -4, 50):
            L, R = (z0 + size * rng.standard_normal(z0.size)).reshape(2, 6, rank)
            step = L @ R.T - target
            evidence.holds(np.linalg.norm(observed(loss, step)) > 1e-3 * np.linalg.norm(step))
    elif mr.degrees_of_freedom((6, 6), rank) - count == free:  # onto
        kernel = np.linalg.svd(jacobian(z0))[2][count:]
        tangents = [D @ right.T + left @ E.T for D, E in kernel.reshape(-1, 2, 6, rank)]
        tangents = np.reshape(tangents, (-1, 36))
        evidence.agree(np.linalg.matrix_rank(tangents, tol=1e-8), free)
        move, size = kernel.T @ rng.standard_normal(len(kernel)), 1e-3
        z = z0 + size * move
        for _ in range(8):
            L, R = z.reshape(2, 6, rank)
            z = z + np.linalg.pinv(jacobian(z)) @ (y - observed(loss, L @ R.T))
        L, R = z.reshape(2, 6, rank)
        evidence.agree(observed(loss, L @ R.T), y, atol=1e-11)
        D, E = move.reshape(2, 6, rank)
        way = D @ right.T + left @ E.T
        bent = np.linalg.norm(L @ R.T - target - size * way)
        evidence.at_most(bent, 0.2 * size * np.linalg.norm(way))


@pytest.mark.ledger("prop-matrix-recovery-gaussian")
@given(seed=seeds, rank=st.integers(1, 4), count=st.integers(1, 50))
def test_gaussian_measurements_fix_as_many_directions_as_there_can_be(seed, rank, count):
    trial = problem(seed, "sensing", 5, rank, count)
    free = mr.free_directions(trial.loss(), trial.target(), rank)
    evidence.agree(free, max(0, rank * (10 - rank) - count))


@pytest.mark.ledger("prop-matrix-recovery-thin")
@given(seed=seeds, rank=st.integers(1, 4), count=st.integers(1, 48))
def test_thin_lines_leave_free_directions(seed, rank, count):
    """Each missing entry of a thin row frees a direction; rows of one matrix do not interfere."""
    trial = problem(seed, "completion", 7, rank, count)
    loss, target = trial.loss(), trial.target()
    missing = np.maximum(rank - loss.mask.sum(axis=1), 0).sum()
    thin_rows = (loss.mask.sum(axis=1) < rank).sum()
    free = mr.free_directions(loss, target, rank)
    evidence.at_most(missing, free)
    evidence.at_most(rank - loss.mask.sum(axis=0), free)
    assert mr.thin_lines(loss.mask, rank) >= thin_rows
    if mr.thin_lines(loss.mask, rank):
        assert free > 0


@pytest.mark.ledger("prop-matrix-recovery-thin")
@pytest.mark.parametrize("seed", range(20))
def test_a_thin_row_can_be_changed_without_a_trace(seed):
    trial = mr.Trial(3, 40, seed, 2, size=10)
    loss, target = trial.loss(), trial.target()
    Vt = np.linalg.svd(target)[2]
    evidence.agree(np.linalg.matrix_rank(target, tol=1e-8), 3)
    for row in np.flatnonzero(loss.mask.sum(axis=1) < 3):
        seen = Vt[:3][:, loss.mask[row]]  # conditions on the row's three coordinates
        for direction in np.linalg.svd(seen.T)[2][loss.mask[row].sum() :]:
            other = target.copy()
            other[row] += 100 * direction @ Vt[:3]
            evidence.at_most(np.linalg.matrix_rank(other, tol=1e-8), 3)
            evidence.at_most(np.abs((other - target)[loss.mask]), 1e-10)
            assert np.linalg.norm(other - target) > 10


@pytest.mark.ledger("lem-matrix-recovery-dimension")
@given(m=st.integers(1, 8), n=st.integers(1, 8), data=st.data())
def test_degrees_of_freedom_count_independent_tangents(m, n, data):
    rank = data.draw(st.integers(1, min(m, n)))
    rng = np.random.default_rng(m * 10 + n)
    U, V = rng.standard_normal((m, rank)), rng.standard_normal((n, rank))
    tangents = [U @ rng.standard_normal((rank, n)) + rng.standard_normal((m, rank)) @ V.T
                for _ in range(m * n + 3)]  # fmt: skip
    measured = np.linalg.matrix_rank(np.reshape(tangents, (-1, m * n)))
    evidence.agree(measured, rank * (m + n - rank))
    evidence.agree(mr.degrees_of_freedom((m, n), rank), measured)


# --- deep solutions -----------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    seed=seeds,
    kind=st.sampled_from(["completion", "sensing"]),
    depth=st.integers(1, 4),
    scale=st.floats(0.1, 2),
)
def test_gradients_agree_with_finite_differences(seed, kind, depth, scale):
    loss = problem(seed, kind, 4, 2, 9).loss()
    rng = np.random.default_rng(seed)
    factors = gaussian([4] * (depth + 1), scale, rng)
    directions = [rng.standard_normal(W.shape) for W in factors]
    gradients = factor_gradients(factors, loss.gradient(product(factors)))
    slope = sum(np.vdot(G, D) for G, D in zip(gradients, directions, strict=True))

    def central(h):
        ends = [
            loss.value(product([W + s * h * D for W, D in zip(factors, directions, strict=True)]))
            for s in (1, -1)
        ]
        return (ends[0] - ends[1]) / (2 * h)

    h = 1e-3
    extrapolated = (64 * central(h / 4) - 20 * central(h / 2) + central(h)) / 45
    size = 1 + sum(np.linalg.norm(G) for G in gradients) + loss.value(product(factors))
    assert abs(extrapolated - slope) < 1e-8 * size * (1 + scale) ** 8


@pytest.mark.parametrize("kind", ["completion", "sensing"])
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_paths_agree_with_an_ode_solver_at_tight_tolerance(kind, depth):
    from scipy.integrate import solve_ivp

    trial = problem(3, kind, 5, 2, 15)
    loss = trial.loss()
    start = gaussian([5] * (depth + 1), 0.1, trial.start())
    shapes = [W.shape for W in start]
    run = gradient_flow(loss, start, t_final=2.0, rtol=1e-7, atol=1e-9, record=[0.5, 1.0, 2.0])

    def velocity(t, y):
        factors = views(y, shapes)
        gradients = factor_gradients(factors, loss.gradient(product(factors)))
        return -np.concatenate([G.ravel() for G in gradients])

    y0 = np.concatenate([W.ravel() for W in start])
    exact = solve_ivp(velocity, (0, 2), y0, "DOP853", [0.5, 1, 2], rtol=1e-12, atol=1e-14)
    expected = [product(views(y.copy(), shapes)) for y in exact.y.T]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(run.products[1:], expected, atol=2e-4 * scale)
    # Ten times the tolerance, more than three times the error: the method is of second order.
    loose = gradient_flow(loss, start, t_final=2.0, rtol=1e-4, atol=1e-6, record=[0.5, 1.0, 2.0])
    errors = [np.abs(r.products[1:] - expected).max() for r in (loose, run)]
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_recover_ends_where_the_observations_are_met(depth):
    trial = mr.Trial(1, 60, 0, depth, size=12)
    run = mr.recover(trial.loss(), depth, rng=trial.start(), mean_square=1e-8)
    assert isinstance(run.stopped_by, LossBelow)
    assert len(run) == 2
    residual = (run.products[-1] - trial.target())[trial.loss().mask]
    assert np.mean(residual**2) <= 1e-8


def test_recover_takes_wide_matrices_and_starts_as_told():
    rng = np.random.default_rng(0)
    target = rng.standard_normal((5, 1)) @ rng.standard_normal((1, 9))
    loss = Completion(target, mr.random_mask((5, 9), 35, 1))
    run = mr.recover(loss, 3, 1e-2, 7)
    assert run.products.shape == (2, 5, 9)
    np.testing.assert_allclose(run.products[0], product(gaussian([9, 9, 9, 5], 1e-2, 7)))
    assert np.linalg.norm(run.products[-1] - target) < 0.1 * np.linalg.norm(target)


def test_depth_one_fills_in_its_start():
    trial = mr.Trial(2, 40, 5, 1, size=10)
    run = mr.recover(trial.loss(), 1, 1e-3, 0)
    hidden = ~trial.loss().mask
    np.testing.assert_array_equal(run.products[-1][hidden], run.products[0][hidden])


def test_recording_keeps_what_was_asked_for():
    """Bytes that each further record costs: one product, or a spectrum, or next to nothing."""
    loss, start = mr.Trial(2, 400, 0, 3, size=40).loss(), gaussian([40] * 4, 1e-3, 0)
    costs = {}
    for keep in ((), ("singular_values",), ("products",)):
        peaks = []
        for steps in (20, 220):
            tracemalloc.start()
            gradient_flow(loss, start, stop=MaxSteps(steps), rtol=1e-9, record=1, keep=keep)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        costs[keep] = (peaks[1] - peaks[0]) / 200
    size = 8 * 40 * 40
    assert costs[()] < 0.05 * size
    assert costs["singular_values",] < 0.15 * size
    # While a list becomes one array both are there.
    assert 0.9 * size < costs["products",] < 2.2 * size


def test_a_gradient_costs_three_products_for_each_further_factor(monkeypatch):
    calls = []
    multiply = np.matmul
    monkeypatch.setattr(np, "matmul", lambda *a, **k: calls.append(1) or multiply(*a, **k))
    for depth in (2, 3, 4, 5):
        factors = gaussian([6] * (depth + 1), 1.0, 0)
        workspace = Backpropagation([W.shape for W in factors])
        calls.clear()
        workspace.evaluate(mr.Trial(2, 20, 0, 2, size=6).loss(), factors)
        assert len(calls) == 3 * (depth - 1)


# --- least nuclear norm -------------------------------------------------------------------------


@pytest.mark.ledger("lem-matrix-recovery-prox")
@given(m=st.integers(1, 5), n=st.integers(1, 5), seed=seeds, threshold=st.floats(0, 3))
def test_lowering_singular_values_is_the_proximal_map(m, n, seed, threshold):
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((m, n))
    X = mr.shrink_singular_values(W, threshold)

    def objective(V):
        return 0.5 * np.linalg.norm(V - W) ** 2 + threshold * nuclear_norm(V)

    for _ in range(20):
        # Strong convexity: the objective grows by at least half the squared distance.
        H = rng.standard_normal((m, n)) * 10.0 ** rng.integers(-4, 1)
        growth = objective(X + H) - objective(X)
        evidence.at_most(0.5 * np.linalg.norm(H) ** 2, growth + 1e-11)


@pytest.mark.ledger("thm-matrix-recovery-duality")
@given(seed=seeds, m=st.integers(1, 5), n=st.integers(1, 5), count=st.integers(1, 8))
def test_a_certificate_bounds_every_matrix_from_below(seed, m, n, count):
    rng = np.random.default_rng(seed)
    operators, nu = rng.standard_normal((count, m, n)), rng.standard_normal(count)
    nu /= np.linalg.norm(np.tensordot(nu, operators, 1), 2)
    W = rng.standard_normal((m, n)) * 10 ** rng.uniform(-2, 1)
    if seed % 2:  # where equality is near: the unit matrix of the certificate
        U, _, Vt = np.linalg.svd(np.tensordot(nu, operators, 1))
        W = np.outer(U[:, 0], Vt[0]) + 0.1 * W
    seen = np.einsum("kij,ij->k", operators, W)
    evidence.at_most(nu @ seen, nuclear_norm(W), slack=1e-12)
    y = seen + 0.1 * rng.standard_normal(count)
    bound = nu @ y - np.linalg.norm(nu) * np.linalg.norm(seen - y)
    evidence.at_most(bound, nuclear_norm(W), slack=1e-12)


@pytest.mark.ledger("thm-matrix-recovery-duality")
@settings(max_examples=60, deadline=None)
@given(
    seed=seeds,
    kind=st.sampled_from(["completion", "sensing"]),
    rank=st.integers(1, 3),
    count=st.integers(1, 36),
)
def test_the_convex_solution_is_enclosed(seed, kind, rank, count):
    trial = problem(seed, kind, 6, rank, count)
    loss = trial.loss()
    solution = mr.least_nuclear_norm(loss, tolerance=1e-4)
    assert -1e-14 <= solution.gap <= 1e-4
    assert loss.value(solution.W) <= 1e-16 * (1 + np.sum(trial.target() ** 2))
    assert nuclear_norm(solution.W) == pytest.approx(solution.nuclear)
    # The certificate proves the bound, for this solution and for the unknown matrix.
    Y = solution.certificate
    assert spectral_norm(Y) <= 1 + 1e-12
    if kind == "completion":
        assert not Y[~loss.mask].any()
    else:
        rows = loss.operators.reshape(count, -1)
        coefficients = np.linalg.lstsq(rows.T, Y.ravel(), rcond=None)[0]
        np.testing.assert_allclose(coefficients @ rows, Y.ravel(), atol=1e-8)
    for W in (solution.W, trial.target()):
        assert np.vdot(Y, W) == pytest.approx(solution.lower_bound, abs=1e-6)
        evidence.at_most(solution.lower_bound, nuclear_norm(W) + 1e-9)


def by_cvxpy(loss, solver, **options):
    import cvxpy as cp

    W = cp.Variable(loss.shape)
    if isinstance(loss, Completion):
        rows, columns = np.nonzero(loss.mask)
        constraints = [W[rows, columns] == loss.target[rows, columns]]
    else:
        rows = loss.operators.reshape(len(loss.operators), -1)
        constraints = [rows @ cp.vec(W, order="C") == loss.measurements]
    answer = cp.Problem(cp.Minimize(cp.normNuc(W)), constraints)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer.solve(solver=solver, **options)
    return answer.value, W.value


@pytest.mark.ledger("prop-matrix-recovery-rest")
@pytest.mark.parametrize("kind", ["completion", "sensing"])
@pytest.mark.parametrize(("rank", "count"), [(1, 18), (2, 30), (3, 45)])
def test_the_convex_solution_agrees_with_an_interior_point_method(kind, rank, count):
    loss = mr.Trial(rank, count, 4, 2, size=8, problem=kind).loss()
    optimum, _ = by_cvxpy(loss, "CLARABEL")
    ours = mr.least_nuclear_norm(loss, tolerance=1e-6)
    evidence.agree(ours.nuclear, optimum, rtol=3e-6)
    evidence.agree(ours.lower_bound, optimum, rtol=3e-6)


def test_the_convex_solution_agrees_at_a_larger_size():
    loss = mr.Trial(2, 450, 0, 2, size=30).loss()
    optimum, W = by_cvxpy(loss, "SCS", eps_abs=1e-7, eps_rel=1e-7, max_iters=20_000)
    ours = mr.least_nuclear_norm(loss, tolerance=1e-5)
    assert ours.nuclear == pytest.approx(optimum, rel=1e-4)
    assert np.linalg.norm(ours.W - W) < 1e-2 * np.linalg.norm(W)


@pytest.mark.parametrize("step", [0.02, 0.2, 2.0])
def test_the_optimum_does_not_depend_on_the_step(step):
    loss = mr.Trial(2, 60, 1, 2, size=12).loss()
    reference = mr.least_nuclear_norm(loss, tolerance=1e-7)
    other = mr.least_nuclear_norm(loss, tolerance=1e-5, step=step)
    assert other.nuclear == pytest.approx(reference.nuclear, rel=2e-5)


def test_nothing_observed_but_zeros():
    loss = Completion(np.zeros((4, 4)), np.eye(4) > 0)
    solution = mr.least_nuclear_norm(loss)
    assert solution.nuclear == solution.gap == 0
    assert not solution.W.any()


def test_one_row_is_its_observed_part():
    """With one row the nuclear norm is the Euclidean one, and zeros are best."""
    loss = Completion(np.array([[3.0, 1.0, 4.0]]), np.array([[True, False, True]]))
    solution = mr.least_nuclear_norm(loss, tolerance=1e-9)
    np.testing.assert_allclose(solution.W, [[3, 0, 4]], atol=1e-3)
    assert solution.nuclear == pytest.approx(5, rel=1e-9)


# --- the claims, at the papers' size ------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    return mr.read_table(ROOT / "chapters" / "data" / "matrix_recovery_study.csv")


def test_the_table_holds_the_whole_study(rows):
    assert len(rows) == len(mr.completion_study()) == 2 * 8 * 3 * 6
    listed = {(t.rank, t.count, t.seed, t.depth, t.scale) for t in mr.completion_study()}
    assert {tuple(row)[:5] for row in rows[["rank", "count", "seed", "depth", "scale"]]} == listed
    assert rows["reached"].max() <= mr.MEAN_SQUARE
    convex = rows[rows["depth"] == mr.CONVEX]
    assert ((convex["nuclear"] - convex["lowest"]) / convex["nuclear"]).max() <= 1e-4


def test_the_table_names_its_command_and_versions():
    for name in study.STUDIES:
        text = (ROOT / "chapters" / "data" / f"{name}.csv").read_text()
        assert text.startswith(f"# made by: {study.COMMAND}")
        assert "numpy" in text.splitlines()[1]


@pytest.mark.parametrize("trial", [mr.Trial(5, 2000, 0, 3), mr.Trial(5, 2000, 1, 0),
                                   mr.Trial(5, 3000, 2, 2), mr.Trial(10, 4000, 0, 4)])  # fmt: skip
def test_trials_of_the_table_come_out_again(rows, trial):
    now = mr.solve(trial)
    chosen = np.all([rows[n] == v for n, v in asdict(trial).items() if n != "scale"], axis=0)
    (stored,) = rows[chosen & (rows["scale"] == trial.scale)]
    assert now["error"] == pytest.approx(stored["error"], rel=0.05, abs=2e-3)
    assert now["nuclear"] == pytest.approx(stored["nuclear"], rel=1e-3)
    assert now["effective_rank"] == pytest.approx(stored["effective_rank"], rel=1e-2)


def worst(rows, pick, value, **fixed):
    return pick(rows[value][np.all([rows[k] == v for k, v in fixed.items()], axis=0)])


def test_depth_helps_where_entries_are_few(rows):
    """Source D, figure 1, for every seed: 2000 entries, rank 5."""
    for depth in (3, 4):
        assert worst(rows, max, "error", rank=5, count=2000, depth=depth) < 0.02
    assert worst(rows, min, "error", rank=5, count=2000, depth=2, scale=1e-3) > 0.15
    assert worst(rows, min, "error", rank=5, count=2000, depth=mr.CONVEX) > 0.1


def test_all_agree_where_entries_are_many(rows):
    assert worst(rows, max, "error", rank=5, count=5000) < 0.01
    assert worst(rows, max, "error", rank=10, count=5000) < 0.02


def test_the_deep_solutions_trade_nuclear_norm_for_effective_rank(rows):
    """Source D, figure 2, in the data-poor regime, for every seed."""
    for rank, count in ((5, 1000), (5, 1250), (10, 1000), (10, 2000)):
        for seed in mr.SEEDS:
            fixed = {"rank": rank, "count": count, "seed": seed}
            convex = {
                v: worst(rows, max, v, depth=0, **fixed) for v in ("nuclear", "effective_rank")
            }
            for depth in (3, 4):
                least = worst(rows, min, "nuclear", depth=depth, **fixed)
                assert least > 1.15 * convex["nuclear"]
                largest = worst(rows, max, "effective_rank", depth=depth, **fixed)
                assert largest < 0.7 * convex["effective_rank"]


def test_deep_solutions_are_worse_where_low_rank_is_not_enough(rows):
    for rank, count in ((5, 1000), (10, 1000), (10, 2000)):
        for seed in mr.SEEDS:
            fixed = {"rank": rank, "count": count, "seed": seed}
            convex = worst(rows, max, "error", depth=mr.CONVEX, **fixed)
            for depth in (3, 4):
                assert worst(rows, min, "error", depth=depth, **fixed) > convex


def test_a_smaller_start_helps_depth_two_where_entries_suffice(rows):
    for seed in mr.SEEDS:
        errors = [
            worst(rows, max, "error", rank=5, count=2000, depth=2, seed=seed, scale=scale)
            for scale in (1e-3, 5e-4, 2.5e-4)
        ]
        assert errors[0] > errors[1] > errors[2]


def test_small_sensing_problems_are_solved_exactly_by_depth():
    """20 x 20, rank 2: 76 degrees of freedom."""
    trial = mr.Trial(2, 120, 0, 3, size=20, problem="sensing")
    assert mr.solve(trial)["error"] < 0.02
    assert mr.solve(replace(trial, depth=mr.CONVEX))["error"] > 0.1
    assert mr.solve(replace(trial, count=60))["error"] > 0.5


# --- studies ------------------------------------------------------------------------------------

SMALL = mr.completion_study((1,), (30, 50), (0,), ((0, 0.0), (2, 1e-3)), size=8)


def test_trials_of_one_seed_share_matrix_and_entries():
    few, many = (mr.Trial(2, count, 3, depth, size=9) for count, depth in ((20, 2), (50, 3)))
    np.testing.assert_array_equal(few.target(), many.target())
    assert (many.loss().mask | ~few.loss().mask).all()
    small, large = (gaussian([9] * 3, s, few.start()) for s in (1e-4, 1e-2))
    np.testing.assert_allclose(10 * small[0], large[0])


def test_rows_say_what_was_solved():
    row = mr.solve(SMALL[1])
    assert {name: row[name] for name in asdict(SMALL[1])} == asdict(SMALL[1])
    W = mr.recover(SMALL[1].loss(), 2, 1e-3, SMALL[1].start()).products[-1]
    target = SMALL[1].target()
    assert row["error"] == pytest.approx(np.linalg.norm(W - target) / np.linalg.norm(target))
    assert row["effective_rank"] == pytest.approx(effective_rank(W))
    assert row["reached"] <= mr.MEAN_SQUARE


def without_time(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def same(first, second):
    return json.dumps(without_time(first)) == json.dumps(without_time(second))


def test_an_interrupted_study_loses_nothing(tmp_path):
    """The third trial is interrupted; the second run computes it and the rest, no other."""
    solved = []

    def solve(trial):
        if len(solved) == 2 and not again:
            raise KeyboardInterrupt
        solved.append(trial)
        return mr.solve(trial)

    again = False
    with pytest.raises(KeyboardInterrupt):
        study.run(SMALL, tmp_path, solve, workers=1, progress=False)
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert not list(tmp_path.glob("*.part"))
    again = True
    rows = study.run(SMALL, tmp_path, solve, workers=1, progress=False)
    assert sorted(map(repr, solved)) == sorted(map(repr, SMALL))  # each exactly once
    assert same(rows, [mr.solve(trial) for trial in SMALL])
    study.run(SMALL, tmp_path, solve, workers=1, progress=False)
    assert len(solved) == len(SMALL)


def test_a_torn_file_is_not_a_result(tmp_path, monkeypatch):
    def torn(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", torn)
    path = study.place(tmp_path, SMALL[0])
    with pytest.raises(KeyboardInterrupt):
        study.write(path, "{}")
    assert study.load(path) is None


def test_tables_survive_writing_and_reading(tmp_path):
    rows = [mr.solve(trial) for trial in SMALL]
    study.write(tmp_path / "t.csv", study.as_text(rows, ["a remark, with a comma"]))
    back, now = mr.read_table(tmp_path / "t.csv"), mr.table(rows)
    assert back.dtype.names == now.dtype.names
    np.testing.assert_allclose(back["error"], now["error"], rtol=1e-5)
    np.testing.assert_array_equal(back["problem"], now["problem"])
    np.testing.assert_array_equal(back["depth"], now["depth"])


def test_tables_keep_fractions_after_a_row_of_whole_numbers():
    rows = mr.table([asdict(mr.Trial(1, 2, 0, 0, 0, 5)), asdict(mr.Trial(1, 2, 0, 2, 0.5, 5))])
    np.testing.assert_array_equal(rows["scale"], [0, 0.5])


def test_a_row_is_found_again(rows):
    now = mr.table([asdict(trial) for trial in mr.completion_study()[7:9]])
    for row in now:
        assert mr.pick(rows, row)["count"] == row["count"]
        assert mr.pick(rows, row)["depth"] == row["depth"]


def test_over_seeds_averages():
    rows = mr.table([mr.solve(t) for t in mr.completion_study((1,), (30, 50), (0, 1, 2),
                                                              ((2, 1e-2),), size=8)])  # fmt: skip
    counts, mean, low, high = mr.over_seeds(rows, "error", depth=2)
    np.testing.assert_array_equal(counts, [30, 50])
    np.testing.assert_allclose(mean[0], rows["error"][rows["count"] == 30].mean())
    assert (low <= mean).all()
    assert (mean <= high).all()


def test_the_sweep_runs_on_a_dask_cluster(tmp_path):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        rows = mr.sweep(SMALL, workers=None)
        stored = study.run(SMALL, tmp_path, progress=False)
    expected = [mr.solve(trial) for trial in SMALL]
    np.testing.assert_allclose(rows["error"], [row["error"] for row in expected])
    assert same(stored, expected)
    assert len(list(tmp_path.glob("*.json"))) == len(SMALL)


# --- bad input ----------------------------------------------------------------------------------

COMPLETION = Completion(np.eye(3), np.eye(3) > 0)
NOT_A_COUNT = [0, -1, 1.5, None, "2"]
NOT_POSITIVE = [0, -1.0, np.nan, np.inf, "1", None]
NOT_A_SHAPE = [3, None, (1,), (0, 2), (1.5, 2), "ab"]
NOT_A_LOSS = [None, 3, FullObservation(np.eye(3)), np.eye(3)]
DEPENDENT = Sensing(np.ones((2, 2, 2)), [1.0, 1.0])
TOO_MANY = Sensing(np.random.default_rng(0).standard_normal((5, 2, 2)), np.ones(5))
ROWS = mr.table([{"count": 1, "error": 0.5}])
BAD = [
    (mr.random_matrix, {"n": 3, "rank": 2}, {"n": NOT_A_COUNT, "rank": [*NOT_A_COUNT, 4]}),
    (mr.random_matrix, {"n": 3, "rank": 2}, {"rng": [-1, "x"]}),
    (mr.random_mask, {"shape": (2, 3), "count": 2},
     {"shape": NOT_A_SHAPE, "count": [*NOT_A_COUNT, 7]}),
    (mr.gaussian_sensing, {"target": np.eye(2), "count": 2},
     {"target": [None, [1.0], [[np.nan]]], "count": NOT_A_COUNT}),
    (mr.observations, {}, {"loss": NOT_A_LOSS}),
    (mr.degrees_of_freedom, {"shape": (2, 3), "rank": 1},
     {"shape": NOT_A_SHAPE, "rank": [*NOT_A_COUNT, 3]}),
    (mr.thin_lines, {"mask": np.eye(2) > 0, "rank": 1},
     {"mask": [None, [1.0]], "rank": NOT_A_COUNT}),
    (mr.free_directions, {"loss": COMPLETION, "target": np.eye(3), "rank": 1},
     {"loss": NOT_A_LOSS, "target": [np.eye(2), None], "rank": [*NOT_A_COUNT, 4]}),
    (mr.free_directions, {"loss": COMPLETION, "target": np.diag([1.0, 0, 0])}, {"rank": [2]}),
    (mr.recover, {"loss": COMPLETION, "depth": 2},
     {"loss": NOT_A_LOSS, "depth": NOT_A_COUNT, "scale": NOT_POSITIVE, "mean_square": NOT_POSITIVE,
      "rtol": [0, 1.0, None], "rng": [-1, "x"]}),
    (mr.shrink_singular_values, {"W": np.eye(2), "threshold": 1},
     {"W": [None, [1.0]], "threshold": [-1.0, None]}),
    (mr.least_nuclear_norm, {"loss": COMPLETION},
     {"loss": [*NOT_A_LOSS, DEPENDENT, TOO_MANY], "tolerance": [0, 1.0, None], "step": NOT_POSITIVE,
      "max_iterations": NOT_A_COUNT}),
    (mr.least_nuclear_norm, {"loss": mr.Trial(2, 30, 0, 2, size=8).loss()},
     {"max_iterations": [1]}),
    (mr.Trial, {"rank": 1, "count": 2, "seed": 0, "depth": 2, "size": 3},
     {"rank": [*NOT_A_COUNT, 4], "count": NOT_A_COUNT, "seed": [-1, None], "depth": [-1, None],
      "scale": NOT_POSITIVE, "size": NOT_A_COUNT, "problem": ["other", None]}),
    (mr.completion_study, {"size": 3, "ranks": (1,)}, {"ranks": [(0,)], "counts": [(0,)]}),
    (mr.solve, {"trial": SMALL[0]}, {"trial": [None, 3], "rtol": [0, 1.0, None]}),
    (mr.sweep, {"trials": SMALL}, {"trials": [[]], "workers": [0, "x"]}),
    (mr.table, {}, {"rows": [[]]}),
    (mr.pick, {"rows": mr.table([asdict(SMALL[0])])}, {"row": [asdict(SMALL[1])]}),
    (mr.over_seeds, {"rows": ROWS}, {"value": ["other"]}),
    (mr.over_seeds, {"rows": ROWS, "value": "error"}, {"count": [7]}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [case for function, good, bad in BAD for case in cases(function, good, **bad)],
)
def test_bad_input_names_the_argument(function, arguments, name):
    with pytest.raises(ValueError, match=name.removesuffix("s")):
        function(**arguments)
