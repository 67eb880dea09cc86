"""Experiments on the border of the theory: gradients, prediction, descent, and what is proved."""

import itertools

import evidence
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmflib import open_questions as oq
from dmflib.matrices import effective_rank

SEEDS = st.integers(0, 2**32 - 1)


def problem(seed, m=6, n=10):
    rng = np.random.default_rng(seed)
    A, x = rng.standard_normal((m, n)) / np.sqrt(m), np.zeros(n)
    x[:2] = rng.choice([-1, 1], 2) * rng.uniform(0.5, 1.5, 2)
    return A, A @ x


# --- stochastic descent -------------------------------------------------------------------------


@pytest.mark.ledger("prop-open-questions-square")
@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, m=st.integers(1, 6), noise=st.sampled_from([0.0, 0.7]))
def test_mean_square_by_all_batches_and_by_both_signs_of_the_noise(seed, m, noise):
    rng = np.random.default_rng(seed)
    A, r = rng.standard_normal((m, 3)), rng.standard_normal(m)
    for batch in range(1, m + 1):
        # signs ±1 have the mean square of a normal variable
        signs = list(itertools.product([-1, 1], repeat=batch))
        squares = [
            (m / batch * ((r[list(B)] + noise * np.array(omega)) @ A[list(B)])) ** 2
            for B in itertools.combinations(range(m), batch)
            for omega in signs
        ]
        exact = oq.mean_square_gradient(A, r, batch, noise)
        evidence.agree(exact, np.mean(squares, axis=0), rtol=1e-10, atol=1e-12)


@pytest.mark.ledger("thm-open-questions-integral")
@pytest.mark.parametrize(("seed", "scale"), [(0, 0.03), (1, 0.1), (2, 0.4), (3, 1.5), (4, 0.01)])
def test_the_integral_of_the_loss_is_the_entropy_of_the_limit(seed, scale):
    A, y = problem(seed)
    moments, limit = oq.residual_moments(A, y, scale, rtol=1e-9)
    assert np.abs(A @ limit - y).max() < 1.1e-5 * np.abs(y).max()
    # what is left of the residual counts to first order: <∇φ(x), x(∞) - x>
    dual = np.linalg.lstsq(A, y - A @ limit, rcond=None)[0]
    rest = np.arcsinh(limit / 2 / scale**2) / 2 @ dual
    evidence.agree(np.trace(moments), oq.loss_integral(limit, scale) + rest, rtol=1e-6)
    assert np.linalg.eigvalsh(moments).min() > 0
    assert np.array_equal(moments, moments.T)


def test_the_integral_in_one_dimension_and_its_limits():
    # one equation, one unknown: the integral of (x - y)**2 dt with dx/dt = -2 (x - y) root
    from scipy.integrate import quad

    y, a = 1.3, 0.2
    direct = quad(lambda x: (y - x) / (2 * np.sqrt(x * x + 4 * a**4)), 0, y)[0]
    assert oq.loss_integral([y], a) == pytest.approx(direct, rel=1e-9)
    assert oq.loss_integral([1e-9], 1.0) == pytest.approx(1e-18 / 8, rel=1e-9)  # no cancellation
    assert oq.loss_integral([0.0, 0.0], 0.1) == 0


def test_the_walk_agrees_with_one_written_out_and_with_a_full_gradient():
    A, y = problem(3)
    walk = oq.stochastic_walks(A, y, 0.2, [0.05, 0.1], 40, batch=len(A), rng=0)
    for k, eta in enumerate((0.05, 0.1)):
        u = v = np.full(A.shape[1], 0.2)
        bend = np.zeros((2, A.shape[1]))
        for _ in range(40):
            g = A.T @ (A @ (u**2 - v**2) - y)
            u, v = u * (1 - eta * g), v * (1 + eta * g)
            bend += np.log([1 - eta * g, 1 + eta * g]) + eta * np.array([g, -g])
        np.testing.assert_allclose(walk.x[k], u**2 - v**2, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(walk.log_starts[k], np.log(0.2) + bend, rtol=1e-10)
    assert walk.steps == 40


@pytest.mark.parametrize(("batch", "noise"), [(1, 0.0), (2, 0.0), (6, 0.0), (1, 0.3), (6, 0.3)])
def test_a_walk_ends_at_the_nearest_solution_to_its_effective_start(batch, noise):
    A, y = problem(5)
    walk = oq.stochastic_walks(
        A, y, 0.1, [0.03, 0.08], 40_000, batch=batch, label_noise=noise, noisy_steps=200,
        tolerance=1e-8, rng=1,
    )  # fmt: skip
    assert (walk.left_at == 0).all()
    assert walk.residuals.max() < 1e-7
    assert walk.log_starts.max() <= np.log(0.1)  # every step lowers the start
    for k in range(2):
        assert oq.distance_to_nearest(A, walk.x[k], walk.log_starts[k]) < 1e-6


@pytest.mark.parametrize("batch", [1, 2, 6])
def test_the_prediction_is_right_to_first_order(batch):
    A, y = problem(5)
    moments, _ = oq.residual_moments(A, y, 0.1)
    rate = oq.predicted_rates(A, moments, batch).mean()
    errors = []
    for eta in (0.04, 0.01):
        walk = oq.stochastic_walks(A, y, 0.1, np.full(48, eta), 20_000, batch=batch, rng=0)
        fall = (np.log(0.1) - walk.log_starts).mean()
        errors.append(abs(fall / (eta * rate) - 1))
    assert errors[1] < 0.1
    assert errors[1] < errors[0] / 2  # the error is of first order itself


def test_walks_are_reproducible_and_independent_of_their_neighbours_step_sizes():
    A, y = problem(7)
    a = oq.stochastic_walks(A, y, 0.1, [0.02, 0.05], 300, batch=2, rng=3)
    b = oq.stochastic_walks(A, y, 0.1, [0.02, 0.05], 300, batch=2, rng=3)
    assert np.array_equal(a.x, b.x)
    c = oq.stochastic_walks(A, y, 0.1, [0.02, 50.0], 300, batch=2, rng=3)
    assert np.array_equal(a.x[0], c.x[0])
    assert c.left_at[0] == 0
    assert c.left_at[1] > 0
    assert np.isfinite(c.x).all()
    assert np.isfinite(c.log_starts).all()


@pytest.mark.ledger("prop-open-questions-energy")
@settings(deadline=None, max_examples=60)
@given(seed=SEEDS)
def test_the_energy_of_one_step(seed):
    rng = np.random.default_rng(seed)
    u, v = rng.uniform(0.05, 2, (2, 8))
    solution, q = rng.uniform(-2, 2, 8), rng.uniform(-0.9, 0.9, 8)
    up, down = np.maximum(solution, 0), np.maximum(-solution, 0)

    def energy(u, v):
        return ((u**2 + v**2) / 2 - up * np.log(u) - down * np.log(v)).sum()

    change = energy(u * (1 - q), v * (1 + q)) - energy(u, v)
    formula = -(q @ (u**2 - v**2 - solution)) + (q**2 @ (u**2 + v**2)) / 2
    formula -= up @ (np.log(1 - q) + q) + down @ (np.log(1 + q) - q)
    evidence.agree(change, formula, atol=1e-11)


# --- descent of a stack -------------------------------------------------------------------------


def test_descend_follows_the_flow_of_a_quadratic_whose_answer_is_known():
    rates = np.array([0.1, 1.0, 30.0])

    def evaluate(parts):
        return (rates * parts[0] ** 2).sum(axis=1) / 2, [rates * parts[0]]

    run = oq.descend(
        evaluate, [np.ones((2, 3))], 4000, step_size=1e-3, accuracy=0.02, tolerance=0.02
    )
    exact = np.exp(-rates * run.times[:, None])
    np.testing.assert_allclose(run.parts[0], exact, atol=0.01)
    assert (run.losses <= 0.02).all()
    assert run.steps < 4000  # it ends when all rest


def test_descend_leaves_a_flat_saddle_in_few_steps_and_each_problem_at_its_own_time():
    def evaluate(parts):  # x**4 saddle: the flow needs a time of order start**-2
        x = parts[0]
        return ((x**4 - 1) ** 2).sum(axis=1) / 2, [4 * (x**4 - 1) * x**3]

    run = oq.descend(evaluate, [np.array([[1e-2], [1e-3]])], 3000, tolerance=1e-10)
    np.testing.assert_allclose(run.parts[0], 1, atol=1e-5)
    assert run.steps < 600
    assert 50 < run.times[1] / run.times[0] < 200  # ten times smaller: a hundred times later
    assert 0.7 < run.times[0] / (1 / (8 * 1e-4)) < 1.4


def test_descend_records_what_is_seen():
    def evaluate(parts):
        return (parts[0] ** 2).sum(axis=1) / 2, [parts[0]]

    run = oq.descend(evaluate, [np.ones((2, 1))], 100, observe=lambda p: p[0][:, 0], record=10)
    times, losses, seen = run.seen
    assert times.shape == losses.shape == seen.shape
    assert (np.diff(losses, axis=0) <= 0).all()
    np.testing.assert_allclose(losses, seen**2 / 2)
    assert np.array_equal(seen[-1], run.parts[0][:, 0])


# --- networks -----------------------------------------------------------------------------------


def network(seed, activation="relu", samples=7):
    rng = np.random.default_rng(seed)
    widths = [4, 5, 3, 2][: rng.integers(2, 5)] if seed else [4, 5, 3, 2]
    weights = oq.random_weights(widths, 2.0, 2, rng)
    return (
        weights,
        rng.standard_normal((2, 4, samples)),
        rng.standard_normal((2, widths[-1], samples)),
    )


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 500), activation=st.sampled_from(["relu", "linear"]))
def test_network_gradients_agree_with_complex_steps(seed, activation):
    weights, X, Y = network(seed)
    losses, gradients = oq.network_gradients(weights, X, Y, activation)

    def loss(weights):  # the same function for complex weights, written another way
        out = X.astype(complex)
        for j, W in enumerate(weights):
            out = np.einsum("kij,kjs->kis", W, out)
            if activation == "relu" and j < len(weights) - 1:
                out = np.where(out.real > 0, out, 0)
        return ((out - Y) ** 2).sum(axis=(1, 2)) / (2 * X.shape[2])

    np.testing.assert_allclose(losses, loss(weights).real, rtol=1e-12)
    rng = np.random.default_rng(seed)
    directions = [rng.standard_normal(W.shape) for W in weights]
    moved = [W + 1e-30j * D for W, D in zip(weights, directions, strict=True)]
    slope = sum((G * D).sum(axis=(1, 2)) for G, D in zip(gradients, directions, strict=True))
    np.testing.assert_allclose(slope, loss(moved).imag / 1e-30, rtol=1e-9, atol=1e-12)


@pytest.mark.ledger("prop-open-questions-balance")
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_relu_keeps_the_diagonal_of_the_balance_and_linear_networks_all_of_it(seed):
    weights, X, Y = network(seed)
    for activation in ("relu", "linear"):
        _, G = oq.network_gradients(weights, X, Y, activation)
        for j in range(len(weights) - 1):
            change = weights[j + 1].transpose(0, 2, 1) @ G[j + 1] - G[j] @ weights[j].transpose(
                0, 2, 1
            )
            change = change + change.transpose(0, 2, 1)
            if activation == "relu":
                change = np.diagonal(change, axis1=1, axis2=2)
            evidence.agree(change, 0 * change, atol=1e-11)


def test_relu_does_not_keep_the_rest_of_the_balance():
    weights, X, Y = network(0)
    _, G = oq.network_gradients(weights, X, Y)
    change = weights[1].transpose(0, 2, 1) @ G[1] - G[0] @ weights[0].transpose(0, 2, 1)
    assert np.abs(change + change.transpose(0, 2, 1)).max() > 1e-2


def test_training_keeps_the_balance_as_far_as_its_steps_are_short():
    X, Y, _ = oq.low_rank_task(5, 4, 2, 30, 3, rng=0)
    start = oq.random_weights([5, 6, 4], 0.5, 3, rng=1)
    before = np.diagonal(oq.balance_defects(start)[0], axis1=1, axis2=2)
    drift = []
    for accuracy in (0.4, 0.02):
        run = oq.train(start, X, Y, 20_000, accuracy=accuracy, tolerance=1e-2)
        after = np.diagonal(oq.balance_defects(run.parts)[0], axis1=1, axis2=2)
        drift.append(np.abs(after - before).max())
    assert drift[1] < drift[0] / 5
    assert drift[1] < 0.01


def test_a_network_scales_like_its_layers_and_forgets_a_permutation_of_neurons():
    weights, X, _ = network(0)
    out = oq.network_output(weights, X)
    np.testing.assert_allclose(oq.network_output([2 * W for W in weights], X), 8 * out)
    order = np.random.default_rng(0).permutation(5)
    permuted = [weights[0][:, order], weights[1][:, :, order], weights[2]]
    np.testing.assert_allclose(oq.network_output(permuted, X), out, rtol=1e-12)
    product = weights[2] @ weights[1] @ weights[0]
    np.testing.assert_allclose(oq.network_output(weights, X, "linear"), product @ X, rtol=1e-10)


def test_a_small_linear_network_learns_the_rank_of_its_task():
    X, Y, (C, B) = oq.low_rank_task(6, 6, 2, 30, 4, activation="linear", rng=0)
    np.testing.assert_allclose(Y, B @ C @ X, atol=1e-12)
    for scale, least, most in ((0.01, 2.0, 2.4), (1.0, 3.0, 6.0)):
        run = oq.train(
            oq.random_weights([6, 6, 6], scale, 4, rng=1), X, Y, 3000, activation="linear",
            tolerance=1e-4,
        )  # fmt: skip
        assert run.losses.max() <= 1e-4
        ranks = effective_rank(run.parts[0])
        assert ((least <= ranks) & (ranks <= most)).all()


# --- tensors ------------------------------------------------------------------------------------


def tensor(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 4, 3))
    factors = [rng.standard_normal((2, d, rng.integers(1, 2) + 2)) for d in shape]
    mask = rng.random(shape) < 0.6
    mask[0, 0, 0] = True
    return factors, rng.standard_normal(shape), mask


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS)
def test_cp_gradients_agree_with_complex_steps(seed):
    factors, target, mask = tensor(seed)
    losses, gradients = oq.cp_gradients(factors, target, mask)

    def loss(factors):
        T = np.einsum("kir,kjr,klr->kijl", *factors)
        return (mask * (T - target) ** 2).sum(axis=(1, 2, 3)) / 2

    np.testing.assert_allclose(losses, loss(factors), rtol=1e-11)
    np.testing.assert_allclose(
        oq.cp_tensor(factors), np.einsum("kir,kjr,klr->kijl", *factors), atol=1e-12
    )
    rng = np.random.default_rng(seed)
    directions = [rng.standard_normal(F.shape) for F in factors]
    moved = [F + 1e-30j * D for F, D in zip(factors, directions, strict=True)]
    slope = sum((G * D).sum(axis=(1, 2)) for G, D in zip(gradients, directions, strict=True))
    np.testing.assert_allclose(slope, loss(moved).imag / 1e-30, rtol=1e-9, atol=1e-11)


@pytest.mark.ledger("prop-open-questions-speed")
@settings(deadline=None, max_examples=40)
@given(seed=SEEDS)
def test_the_speed_of_a_component_and_what_is_conserved(seed):
    factors, target, mask = tensor(seed)
    _, gradients = oq.cp_gradients(factors, target, mask)
    sizes = [np.linalg.norm(F, axis=1) for F in factors]
    # the chain rule for the product of three norms, from the gradients themselves
    growth = [-(F * G).sum(axis=1) for F, G in zip(factors, gradients, strict=True)]
    slope = sum(g / s * np.prod(sizes, axis=0) / s for g, s in zip(growth, sizes, strict=True))
    formula = oq.component_speeds(factors, target, mask)
    scale = np.abs(formula).max() + 1
    evidence.agree(slope / scale, formula / scale, atol=1e-9)
    # each factor's square grows at the same speed
    size = np.abs(growth[0]).max() + 1
    evidence.agree(growth[0] / size, growth[1] / size, atol=1e-9)
    evidence.agree(growth[0] / size, growth[2] / size, atol=1e-9)


@pytest.mark.ledger("thm-open-questions-entry")
@settings(deadline=None, max_examples=60)
@given(seed=SEEDS)
def test_no_tensor_of_rank_one_has_a_smaller_corner(seed):
    rng = np.random.default_rng(seed)
    q = 10 ** rng.uniform(-1.5, 0, (4000, 3))
    signs = rng.choice([-1, 1], (4000, 3))
    # near the valley: the three ones are hit up to an error, the corner is their product over T222²
    p = np.stack([1 / (q[:, 1] * q[:, 2]), 1 / (q[:, 0] * q[:, 2]), 1 / (q[:, 0] * q[:, 1])], 1)
    p *= 1 + rng.uniform(-0.6, 0.6, p.shape) * 10 ** rng.uniform(-4, 0, (4000, 1))
    a, b, c = (np.stack([p[:, i], q[:, i]], 1) * signs[:, [i]] for i in range(3))
    T = np.einsum("ki,kj,kl->kijl", a, b, c)
    target, mask = oq.corner_problem()
    loss = (mask * (T - target) ** 2).sum(axis=(1, 2, 3)) / 2
    good = (loss > 0) & (loss < 0.5)
    bound = oq.rank_one_entry_bound(loss[good]) if good.any() else np.zeros(0)
    evidence.at_most(bound, np.abs(T[good, 0, 0, 0]), slack=1e-9)


@pytest.mark.ledger("thm-open-questions-entry")
@pytest.mark.parametrize("rho", [1e-3, 0.1, 0.5, 0.9, 0.99])
def test_the_bound_on_the_corner_is_attained_and_found_by_a_search(rho):
    from scipy.optimize import minimize

    r = np.sqrt(1 + rho**2) - 1
    w = np.sqrt(2 * r * (1 - r))
    assert 3 * r**2 + w**2 == pytest.approx(rho**2)
    bound = oq.rank_one_entry_bound(rho**2 / 2)
    evidence.agree((1 - r) ** 3 / w**2, bound, rtol=1e-9)

    def corner(angles):  # logarithm of the corner, on the sphere of the four errors
        x = rho * np.array(
            [
                np.cos(angles[0]),
                np.sin(angles[0]) * np.cos(angles[1]),
                np.sin(angles[0]) * np.sin(angles[1]) * np.cos(angles[2]),
                np.sin(angles[0]) * np.sin(angles[1]) * np.sin(angles[2]),
            ]
        )
        return np.log1p(-x[:3]).sum() - np.log(x[3] ** 2 + 1e-300)

    rng = np.random.default_rng(0)
    options = {"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000}
    found = min(
        minimize(corner, rng.uniform(0.1, 1.4, 3), method="Nelder-Mead", options=options).fun
        for _ in range(6)
    )
    evidence.agree(np.exp(found), bound, rtol=1e-6)


@pytest.mark.ledger("thm-open-questions-symmetric")
@pytest.mark.parametrize("start", [(0.1, 0.1), (0.02, 0.3), (0.5, 0.05), (1.2, 0.6)])
def test_one_symmetric_component_runs_away_at_the_proved_rate(start):
    target, mask = oq.corner_problem()
    factors = [np.array(start)[None, :, None]] * 3
    run = oq.cp_flow(factors, target, mask, 1e9)
    corner = oq.cp_tensor(run.parts)[0, 0, 0, 0]
    evidence.agree(corner * 2 * run.losses[0], 1, rtol=1e-3)
    evidence.agree(corner / (2.5 * run.times[0]) ** 0.6, 1, rtol=1e-2)
    p, q = run.parts[0][0, :, 0]
    evidence.agree((1 - p * q**2) * p**3, 0.5, rtol=0.05)


def test_the_two_integrators_agree():
    rng = np.random.default_rng(0)
    target, mask = rng.standard_normal((3, 3, 3)), rng.random((3, 3, 3)) < 0.7
    start = oq.random_factors((3, 3, 3), 3, 0.3, 1, rng)
    run = oq.cp_completion(start, target, mask, 20_000, accuracy=0.005, tolerance=2.0)
    exact = oq.cp_flow(start, target, mask, run.times[0])
    difference = np.abs(oq.cp_tensor(run.parts) - oq.cp_tensor(exact.parts)).max()
    assert difference < 0.02
    assert exact.seen[2].shape[1:] == (1, 3)


def test_completion_of_tensors_finds_what_was_hidden_from_small_starts_only():
    rng = np.random.default_rng(0)
    truth = [np.linalg.qr(rng.standard_normal((4, 5, 2)))[0] for _ in range(3)]
    target, mask = oq.cp_tensor(truth), rng.random((4, 5, 5, 5)) < 0.6
    errors = []
    for scale in (1e-4, 1.0):
        start = oq.random_factors((5, 5, 5), 8, scale, 4, rng=1)
        run = oq.cp_completion(start, target, mask, 3000, tolerance=1e-5)
        gap = (oq.cp_tensor(run.parts) - target) * ~mask
        errors.append(np.median(np.linalg.norm(gap.reshape(4, -1), axis=1)))
    assert errors[0] < 0.05
    assert errors[1] > 5 * errors[0]


def test_the_corner_problem_and_its_solutions_of_rank_one():
    target, mask = oq.corner_problem(0.5)
    e = 0.5 ** (1 / 3)
    vector = np.array([e / 0.5, e])[None, :, None]
    assert oq.cp_gradients([vector] * 3, target, mask)[0] == pytest.approx(0, abs=1e-25)
    assert oq.cp_tensor([vector] * 3)[0, 0, 0, 0] == pytest.approx(4)
    assert oq.component_norms([vector] * 3)[0, 0] == pytest.approx(np.hypot(e, 2 * e) ** 3)


# --- bad input ----------------------------------------------------------------------------------

A, Y = problem(0)
ONES = np.ones((1, 2, 3))
W = [np.ones((1, 3, 2)), np.ones((1, 2, 3))]
CP = [ONES, ONES, ONES]
T, M = oq.corner_problem()
GOOD = {
    oq.mean_square_gradient: {"A": A, "residual": Y, "batch": 2, "label_noise": 0.1},
    oq.loss_integral: {"x": [1.0], "scale": 0.1},
    oq.residual_moments: {"A": A, "y": Y, "scale": 0.1, "rtol": 1e-8},
    oq.predicted_rates: {"A": A, "moments": np.eye(6), "batch": 1},
    oq.stochastic_walks: {
        "A": A, "y": Y, "scale": 0.1, "step_sizes": [0.1], "steps": 1, "batch": 1,
        "label_noise": 0.0, "noisy_steps": 0,
        "tolerance": 0.1, "rng": 0,
    },
    oq.distance_to_nearest: {"A": A, "x": np.ones(10), "log_starts": np.zeros((2, 10))},
    oq.descend: {
        "evaluate": lambda p: (p[0][:, 0], p), "parts": [np.ones((1, 1))], "steps": 1,
        "step_size": 0.1,
        "accuracy": 0.1, "tolerance": 0.0, "observe": None, "record": 1,
    },
    oq.random_weights: {"widths": [2, 3], "scale": 0.1, "networks": 1, "rng": 0},
    oq.network_output: {"weights": W, "inputs": np.ones((2, 4)), "activation": "relu"},
    oq.network_gradients: {
        "weights": W, "inputs": np.ones((2, 4)), "targets": np.ones((2, 4)), "activation": "relu"
    },
    oq.train: {
        "weights": W, "inputs": np.ones((2, 4)), "targets": np.ones((2, 4)), "steps": 1,
        "activation": "relu"
    },
    oq.low_rank_task: {
        "inputs": 3, "outputs": 3, "rank": 2, "samples": 4, "tasks": 1,
        "activation": "relu", "rng": 0
    },
    oq.balance_defects: {"weights": W},
    oq.cp_tensor: {"factors": CP},
    oq.cp_gradients: {"factors": CP, "target": T, "mask": M},
    oq.cp_completion: {"factors": CP, "target": T, "mask": M, "steps": 1},
    oq.cp_flow: {"factors": CP, "target": T, "mask": M, "t_final": 0.1, "tolerance": 0.0,
        "rtol": 1e-6},
    oq.random_factors: {"shape": (2, 2, 2), "components": 1, "scale": 0.1, "tensors": 1, "rng": 0},
    oq.component_norms: {"factors": CP},
    oq.component_speeds: {"factors": CP, "target": T, "mask": M},
    oq.corner_problem: {"corner": 0.1},
    oq.rank_one_entry_bound: {"loss": 0.1},
}  # fmt: skip
POSITIVE, COUNT = [0, -1.0, np.nan, "1", None], [0, -1, 1.5, "2", None, True]
NOT_NEGATIVE, COUNT0 = [-1.0, np.nan, np.inf, "1", None], [-1, 1.5, "2", None]
BAD = {
    "A": [1.0, np.full((2, 2), np.nan), None, np.ones((0, 2))],
    "residual": [np.ones(3), [np.nan] * 6, None],
    "y": [np.ones(3), np.full(6, np.inf), None],
    "batch": [*COUNT, 7],
    "label_noise": NOT_NEGATIVE,
    "x": [np.ones((2, 2)), [np.nan], None],
    "scale": POSITIVE,
    "rtol": [0, 1, 1e-15, "a"],
    "moments": [np.eye(5), np.ones(6), None],
    "step_sizes": [[0.0], [-1.0], 0.1, [], [np.nan]],
    "steps": [-1, 1.5, None],
    "noisy_steps": COUNT0,
    "tolerance": NOT_NEGATIVE,
    "rng": [-1, "a", 1.5],
    "log_starts": [np.ones(10), np.ones((2, 9)), None],
    "evaluate": [None, 3],
    "parts": [[np.ones(2)], [np.ones((1, 1)), np.ones((2, 1))], []],
    "step_size": POSITIVE,
    "accuracy": [0, 1, -1, np.nan, None],
    "observe": [3, "a"],
    "record": COUNT,
    "widths": [[2], 3, [2, 0], [2, 1.5]],
    "networks": COUNT,
    "weights": [[], [np.ones((1, 2))], [W[0], W[0]], [W[0], np.ones((2, 2, 3))]],
    "inputs": [np.ones((3, 4)), np.ones((2, 2, 4)), np.ones(2), None],
    "targets": [np.ones((3, 4)), np.ones((2, 3)), np.ones(4), None],
    "activation": ["tanh", None, 1],
    "outputs": [1, 0, None],
    "rank": [*COUNT, 4],
    "samples": COUNT,
    "tasks": COUNT,
    "factors": [[], CP[:2], [ONES, ONES, np.ones((1, 2, 4))], [ONES, ONES, np.ones((2, 2))]],
    "target": [np.ones((2, 2)), np.ones((2, 2, 3)), np.ones((5, 2, 2, 2)), None],
    "mask": [np.ones((2, 2, 2)), np.zeros((2, 2, 2), bool), np.ones((2, 2), bool), None],
    "t_final": POSITIVE,
    "shape": [(2, 2), 2, (2, 2, 0), None],
    "components": COUNT,
    "tensors": COUNT,
    "corner": [np.nan, np.inf, "1", None],
    "loss": [0.0, 0.5, -1.0, np.nan, [0.1, 0.6], None],
}  # fmt: skip


@pytest.mark.parametrize("function", GOOD, ids=lambda f: f.__name__)
def test_bad_input_is_refused_by_name(function):
    good = GOOD[function]
    function(**good)
    for name in good:
        bad = BAD[name]
        if name == "inputs" and function is oq.low_rank_task:
            bad = [1, 0, 1.5, None]
        if name == "rng":
            bad = [-1, "a"]
        for value in bad:
            pattern = "inputs" if name == "rank" and value == 4 else name
            with pytest.raises(ValueError, match=pattern):
                function(**{**good, name: value})


def test_more_bad_input():
    with pytest.raises(ValueError, match="y"):
        oq.residual_moments(A, 0 * Y, 0.1)
    with pytest.raises(ValueError, match="A"):
        oq.residual_moments(np.ones((2, 3)), [1.0, 1.0], 0.1)
    with pytest.raises(ValueError, match="factors"):
        oq.cp_flow([np.ones((2, 2, 1))] * 3, T, M, 1.0)
    with pytest.raises(ValueError, match="factors"):
        oq.component_speeds([0 * ONES] * 3, T, M)


def test_every_public_function_is_in_the_table():
    import inspect

    public = {
        thing
        for name, thing in vars(oq).items()
        if inspect.isfunction(thing) and thing.__module__ == oq.__name__ and name[0] != "_"
    }
    assert public == set(GOOD)
