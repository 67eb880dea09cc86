import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmflib._rkc import RKC, StepUnderflowError, coefficients
from dmflib.flow import (
    METHODS,
    InvariantWarning,
    _Invariants,
    _ProductFlow,
    gradient_flow,
    product_flow,
)
from dmflib.linear_networks import (
    balance_defects,
    balanced,
    factor_gradients,
    gaussian,
    identical,
    imbalance,
    perturbed,
    product,
)
from dmflib.losses import Completion, FullObservation, Regression, Sensing
from dmflib.stopping import (
    Diverged,
    DivergenceWarning,
    GradientBelow,
    Interrupted,
    InterruptionWarning,
    LossBelow,
    MaxSteps,
    RankPlateaus,
    TimeReached,
)


class Quartic:
    """-sum W⁴/4: from w(0) = 1 the flow w' = w³ runs to infinity at time 1/2."""

    shape = (1, 1)

    def value(self, W):
        return float(-(W**4).sum() / 4)

    def gradient(self, W):
        return -(W**3)


class Pressed(FullObservation):
    """Ctrl-C at the k-th computation of the gradient."""

    def __init__(self, target, at):
        super().__init__(target)
        self.calls, self.at = 0, at

    def value_and_gradient(self, W, out):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return super().value_and_gradient(W, out)


def linear(spectrum, rows=2, rng=0):
    """A loss with the flow W' = -(W - W*) diag(spectrum), a start, and the exact flow."""
    rng = np.random.default_rng(rng)
    n = len(spectrum)
    limit, start = rng.standard_normal((2, rows, n))
    inputs = np.diag(np.sqrt(np.asarray(spectrum) * n / 2))

    def exact(t):
        return limit + (start - limit) * np.exp(-t * np.asarray(spectrum))

    return Regression(inputs, limit @ inputs), start, exact


def completion(n, observed, rank, rng=0):
    rng = np.random.default_rng(rng)
    target = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, n))
    mask = np.zeros(n * n, bool)
    mask[rng.permutation(n * n)[:observed]] = True
    return Completion(target, mask.reshape(n, n))


# The integrator -----------------------------------------------------------------------------


def scalar(rate, y=1.0):
    def fun(y, out):
        np.multiply(y, rate, out=out)

    return RKC(fun, np.array([y]), np.array([rate * y]), 1e9, 1e-3, 1e-3)


@pytest.mark.parametrize("stages", [2, 3, 5, 10, 50, 200])
def test_rkc_polynomial_is_exponential_to_second_order_and_bounded_where_claimed(stages):
    # One step on y' = λy multiplies by a polynomial in z = hλ.
    limit = (stages**2 - 1) / 1.54
    z = -np.linspace(0, limit, 400)[1:]
    values = np.array([scalar(point)._stages(1.0, stages)[0][0] for point in z])
    assert np.abs(values).max() <= 1 + 1e-12
    # Damping: away from the origin the values stay clear of one.
    assert np.abs(values[z < -3]).max() < 0.99 if (z < -3).any() else True
    small = np.array([0.02, 0.01])
    errors = [abs(scalar(x)._stages(1.0, stages)[0][0] - np.exp(x)) for x in small]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("stages", [2, 3, 7, 20])
def test_rkc_with_fixed_steps_has_order_two_on_a_nonlinear_system(stages):
    def fun(y, out):  # logistic and its square, coupled: y0 = 1/(1 + e^{-t})
        out[0] = y[0] * (1 - y[0])
        out[1] = y[0] - y[1]

    def error(steps):
        y0 = np.array([0.5, 0.0])
        f0 = np.empty(2)
        fun(y0, f0)
        stepper = RKC(fun, y0, f0, 1e9, 1e-6, 1e-6)
        for _ in range(steps):
            stepper._accept(2 / steps, *stepper._stages(2 / steps, stages))
        exact = 1 / (1 + np.exp(-2.0))
        exact_second = np.exp(-2.0) * (np.exp(2) - 1 - np.log((1 + np.exp(2)) / 2))
        return np.abs(stepper.y - [exact, exact_second])

    order = np.log2(np.linalg.norm(error(128)) / np.linalg.norm(error(256)))
    assert order == pytest.approx(2, abs=0.1)


def test_rkc_internal_coefficients_reproduce_constants():
    # Consistency of every stage: Y_j - Y_0 = c_j h on y' = 1, with c_s = 1 and c increasing.
    for stages in (2, 3, 9, 40):
        first, later = coefficients(stages)
        times = [0.0, first]
        for mu, nu, mu_tilde, gamma_tilde in later:
            times.append(mu * times[-1] + nu * times[-2] + mu_tilde + gamma_tilde)
        assert times[-1] == pytest.approx(1, rel=1e-12)
        assert (np.diff(times) > 0).all()


def test_rkc_radius_bounds_the_spectral_radius_of_a_symmetric_jacobian():
    rng = np.random.default_rng(1)
    for _ in range(10):
        A = rng.standard_normal((30, 30))
        A = -(A + A.T)
        y0 = rng.standard_normal(30)
        stepper = RKC(lambda y, out, A=A: np.matmul(A, y, out=out), y0, A @ y0, 1, 1e-3, 1e-3)
        true = np.abs(np.linalg.eigvalsh(A)).max()
        assert true <= stepper.radius <= 1.21 * true


def test_rkc_stops_when_no_step_is_finite():
    def fun(y, out):
        out.fill(np.nan)

    stepper = RKC(fun, np.ones(1), np.ones(1), 1.0, 1e-3, 1e-3)
    with pytest.raises(StepUnderflowError):
        stepper.step()
    assert stepper.t == 0
    assert stepper.y[0] == 1


def test_rkc_allocates_nothing_while_it_steps():
    n = 100_000
    spectrum = np.linspace(1, 400, n)

    def fun(y, out):
        np.multiply(y, spectrum, out=out)
        np.negative(out, out=out)

    y0 = np.ones(n)
    stepper = RKC(fun, y0, -spectrum, 1e9, 1e-4, 1e-6)
    out = np.empty(n)
    stepper.step()
    tracemalloc.start()
    for _ in range(10):
        stepper.step()
        stepper.interpolate(0.5 * (stepper.t_old + stepper.t), out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n  # one vector would be 8 n bytes


# Known solutions ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_linear_flow_follows_the_exponential(method):
    loss, start, exact = linear([0.0, 0.3, 1, 2, 10])
    times = np.linspace(0, 3, 11)
    run = gradient_flow(
        loss, [start], t_final=3, method=method, rtol=1e-8, atol=1e-10, record=times
    )
    np.testing.assert_array_equal(run.times, times)
    np.testing.assert_allclose(run.products, [exact(t) for t in times], atol=3e-6)


def test_error_falls_with_the_square_of_the_number_of_steps():
    loss, start, exact = linear([0.2, 1, 3, 5])
    steps, errors = [], []
    for rtol in 10.0 ** -np.arange(4, 10):
        run = gradient_flow(loss, [start], t_final=2, rtol=rtol, atol=rtol)
        steps.append(len(run) - 1)
        errors.append(np.abs(run.products[-1] - exact(2)).max())
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(-2, abs=0.15)


@pytest.mark.parametrize(("method", "power"), [("rkc", 2 / 3), ("RK45", 0.85), ("DOP853", 0.9)])
def test_error_follows_the_tolerance(method, power):
    # A method of order p that controls the error of a step of order p + 1 by rtol has a global
    # error near rtol^(p/(p+1)); what counts is that a tighter tolerance is answered.
    loss = completion(5, 18, 2)
    start = gaussian([5, 5, 5], 0.5, rng=1)
    reference = gradient_flow(loss, start, t_final=2, method="DOP853", rtol=1e-13, atol=1e-14)
    tolerances = 10.0 ** -np.arange(3, 10)
    errors = [
        np.abs(
            gradient_flow(loss, start, t_final=2, method=method, rtol=tol, atol=tol).products[-1]
            - reference.products[-1]
        ).max()
        for tol in tolerances
    ]
    slope = np.polyfit(np.log(tolerances), np.log(errors), 1)[0]
    assert slope == pytest.approx(power, abs=0.2)


def test_stiff_linear_flow_costs_rkc_a_fraction():
    loss, start, exact = linear(np.logspace(0, 6, 13))
    runs = {
        method: gradient_flow(
            loss, [start], t_final=0.01, method=method, rtol=1e-4, atol=1e-6, record=10**9
        )
        for method in ("rkc", "RK45")
    }
    for run in runs.values():
        assert np.abs(run.products[-1] - exact(0.01)).max() < 1e-3
    assert 10 * runs["rkc"].evaluations < runs["RK45"].evaluations
    # A hundred times as far, where stability alone asks two million evaluations of RK45:
    far = gradient_flow(loss, [start], t_final=1, rtol=1e-4, atol=1e-6, record=10**9)
    assert np.abs(far.products[-1] - exact(1)).max() < 1e-3
    assert far.evaluations < 20_000


@pytest.mark.parametrize("method", ["rkc", "DOP853"])
def test_depth_two_singular_values_are_sigmoids(method):
    s, s0 = np.array([3.0, 1.0, 0.5]), 1e-4
    run = gradient_flow(
        FullObservation(np.diag(s)),
        identical(3, 2, np.sqrt(s0)),
        t_final=12,
        method=method,
        rtol=1e-8,
        atol=1e-11,
        record=np.linspace(0, 12, 25),
    )
    sigmoid = s / (1 + (s / s0 - 1) * np.exp(-2 * s * run.times[:, None]))
    np.testing.assert_allclose(run.products, sigmoid[:, :, None] * np.eye(3), atol=2e-5)


@pytest.mark.parametrize("depth", [2, 3])
def test_rkc_agrees_with_dop853_on_completion(depth):
    loss = completion(6, 24, 2)
    start = gaussian([6] * (depth + 1), 0.05, rng=2)
    times = np.linspace(0, 5, 21)
    mine = gradient_flow(loss, start, t_final=5, rtol=1e-8, atol=1e-10, record=times)
    other = gradient_flow(
        loss, start, t_final=5, method="DOP853", rtol=1e-11, atol=1e-13, record=times
    )
    np.testing.assert_allclose(mine.products, other.products, atol=5e-5)
    np.testing.assert_allclose(mine.losses, other.losses, atol=5e-5)


# Properties ---------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from(["rkc", "LSODA"]))
def test_loss_never_increases(seed, depth, method):
    rng = np.random.default_rng(seed)
    widths = [4] + [5] * (depth - 1) + [3]
    loss = Sensing(rng.standard_normal((8, 3, 4)), rng.standard_normal(8))
    run = gradient_flow(loss, gaussian(widths, 0.3, rng), t_final=20, method=method)
    assert np.diff(run.losses).max() < 1e-5 * max(1, run.losses[0])
    assert run.losses[-1] < run.losses[0]
    assert run.stopped_by == TimeReached(20.0)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_orthogonal_changes_of_basis_commute_with_the_flow(seed):
    rng = np.random.default_rng(seed)
    U, V, inner = (np.linalg.qr(rng.standard_normal((4, 4)))[0] for _ in range(3))
    target = rng.standard_normal((4, 4))
    W1, W2 = gaussian([4, 4, 4], 0.2, rng)
    times = np.linspace(0, 2, 5)
    plain = gradient_flow(FullObservation(target), [W1, W2], t_final=2, record=times)
    turned = gradient_flow(
        FullObservation(U @ target @ V),
        [inner @ W1 @ V, U @ W2 @ inner.T],
        t_final=2,
        record=times,
    )
    np.testing.assert_allclose(turned.products, U @ plain.products @ V, atol=5e-4)


@pytest.mark.parametrize("method", ["rkc", "DOP853", "Radau"])
def test_balance_defects_stay(method):
    loss = completion(4, 10, 2)
    start = gaussian([4, 5, 3, 4], 0.5, rng=3)
    run = gradient_flow(loss, start, t_final=10, method=method, rtol=1e-7, atol=1e-9)
    for before, after in zip(
        balance_defects(start), balance_defects(run.final_factors), strict=True
    ):
        np.testing.assert_allclose(after, before, atol=1e-4)


def test_flow_leaves_a_saddle():
    # The mixed start: one singular value must grow by nine orders of magnitude.
    start = balanced(np.diag([2.0, 1e-9]), 2)
    run = gradient_flow(FullObservation(np.diag([2.0, 1.0])), start, stop=LossBelow(1e-8))
    assert run.times[-1] == pytest.approx(np.log(1e9 * 1e4) / 2, rel=0.2)
    assert run.evaluations < 5000


def test_flow_at_rest_ends():
    run = gradient_flow(FullObservation(np.eye(2)), [np.zeros((2, 2))] * 2, stop=LossBelow(1e-3))
    assert isinstance(run.stopped_by, TimeReached)
    assert run.losses[-1] == 1
    assert not run.products.any()


def test_start_is_not_changed_and_run_continues_from_final_factors():
    loss = completion(5, 20, 2)
    start = gaussian([5, 5, 5], 0.3, rng=5)
    copies = [W.copy() for W in start]
    first = gradient_flow(loss, start, t_final=1, rtol=1e-8)
    second = gradient_flow(loss, first.final_factors, t_final=1, rtol=1e-8)
    whole = gradient_flow(loss, start, t_final=2, rtol=1e-8)
    for W, copy in zip(start, copies, strict=True):
        np.testing.assert_array_equal(W, copy)
    np.testing.assert_array_equal(product(first.final_factors), first.products[-1])
    np.testing.assert_allclose(second.products[-1], whole.products[-1], atol=1e-5)


# The product flow ---------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2), (1, 3)])
def test_product_flow_is_the_flow_of_balanced_factors(depth, shape):
    rng = np.random.default_rng(depth)
    W0 = 0.5 * rng.standard_normal(shape)
    loss = Sensing(rng.standard_normal((5, *shape)), rng.standard_normal(5))
    times = np.linspace(0, 3, 13)
    options = {"t_final": 3, "method": "DOP853", "rtol": 1e-10, "atol": 1e-12, "record": times}
    alone = product_flow(loss, W0, depth, **options)
    together = gradient_flow(loss, balanced(W0, depth), **options)
    np.testing.assert_allclose(alone.products, together.products, atol=1e-7)
    np.testing.assert_allclose(alone.losses, together.losses, atol=1e-7)
    assert alone.final_factors is None
    chebyshev = product_flow(loss, W0, depth, t_final=3, rtol=1e-8, atol=1e-10, record=times)
    np.testing.assert_allclose(chebyshev.products, together.products, atol=5e-5)


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("rank", [1, 2])
def test_product_velocity_is_the_chain_rule_where_singular_values_vanish(depth, rank):
    rng = np.random.default_rng(rank)
    W = rng.standard_normal((3, rank)) @ rng.standard_normal((rank, 4))
    loss = FullObservation(rng.standard_normal((3, 4)))
    factors = balanced(W, depth)
    gradients = factor_gradients(factors, loss.gradient(W))
    velocity = np.zeros((3, 4))
    for j, G in enumerate(gradients):
        velocity -= product([np.eye(4), *factors[:j], G, *factors[j + 1 :]])
    system, out = _ProductFlow(loss, (3, 4), depth), np.empty(12)
    system(W.ravel(), out)
    np.testing.assert_allclose(out.reshape(3, 4), velocity, atol=1e-6)
    norm = np.sqrt(sum(np.vdot(G, G) for G in gradients))
    assert np.linalg.norm(system.flat_gradient) == pytest.approx(norm, rel=1e-6)


def test_product_flow_of_depth_one_ignores_the_singular_values():
    run = product_flow(FullObservation(np.eye(2)), np.zeros((2, 2)), 1, t_final=1, rtol=1e-8)
    np.testing.assert_allclose(run.products[-1], (1 - np.exp(-1)) * np.eye(2), atol=1e-5)


def test_product_flow_stops_by_the_gradient_of_the_factors():
    rng = np.random.default_rng(0)
    W0 = rng.standard_normal((3, 3))
    loss = FullObservation(W0 + 0.3 * rng.standard_normal((3, 3)))
    run = product_flow(loss, W0, 3, stop=GradientBelow(1e-3))
    factors = balanced(run.products[-1], 3)
    gradients = factor_gradients(factors, loss.gradient(run.products[-1]))
    assert np.sqrt(sum(np.vdot(G, G) for G in gradients)) <= 1e-3 * (1 + 1e-6)


# Records, stopping, ends --------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_dense_records_agree_with_the_steps(method):
    loss = completion(4, 12, 2)
    start = gaussian([4, 4, 4], 0.3, rng=7)
    options = {"t_final": 4, "method": method, "rtol": 1e-7, "atol": 1e-9}
    steps = gradient_flow(loss, start, **options)
    dense = gradient_flow(loss, start, record=steps.times[1:-1:3], **options)
    np.testing.assert_array_equal(dense.times[1:-1], steps.times[1:-1:3])
    assert dense.times[0] == 0
    assert dense.times[-1] == 4
    np.testing.assert_allclose(dense.products[1:-1], steps.products[1:-1:3], atol=1e-5)
    between = gradient_flow(loss, start, record=np.linspace(0, 4, 50), **options)
    exact = gradient_flow(
        loss, start, 4, method="DOP853", rtol=1e-12, atol=1e-13, record=np.linspace(0, 4, 50)
    )
    np.testing.assert_allclose(between.products, exact.products, atol=2e-4)


def test_every_kth_step_is_recorded_and_recording_changes_nothing():
    loss = completion(4, 12, 2)
    start = gaussian([4, 4, 4], 0.3, rng=7)
    every = gradient_flow(loss, start, t_final=4)
    third = gradient_flow(loss, start, t_final=4, record=3)
    count = len(every) - 1
    wanted = sorted({*range(0, count, 3), count})
    np.testing.assert_array_equal(third.times, every.times[wanted])
    np.testing.assert_array_equal(third.products, every.products[wanted])
    dense = gradient_flow(loss, start, t_final=4, record=[1, 2])
    assert dense.times.tolist() == [0, 1, 2, 4]
    np.testing.assert_array_equal(dense.products[-1], every.products[-1])
    assert dense.evaluations == every.evaluations


def test_what_is_kept():
    loss = completion(4, 12, 2)
    start = gaussian([4, 3, 4], 0.3, rng=7)
    run = gradient_flow(loss, start, t_final=1, keep=("products", "factors", "singular_values"))
    for i in range(len(run)):
        np.testing.assert_array_equal(run.factors[1][i] @ run.factors[0][i], run.products[i])
        assert loss.value(run.products[i]) == pytest.approx(run.losses[i], rel=1e-12)
    sigma = np.linalg.svd(run.products, compute_uv=False)
    np.testing.assert_allclose(run.singular_values, sigma, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_evaluations_count_the_calls_of_the_gradient(method):
    loss = Pressed(np.diag([1.0, 2.0]), at=None)
    run = gradient_flow(loss, identical(2, 2, 0.1), t_final=5, method=method, record=10**9)
    assert run.evaluations == loss.calls


def test_stopping_rules():
    target = np.diag([4.0, 1.0])
    loss, start = FullObservation(target), identical(2, 2, 1e-2)

    rule = LossBelow(1e-3)
    run = gradient_flow(loss, start, stop=rule)
    assert run.stopped_by is rule
    assert run.losses[-1] <= 1e-3 < run.losses[-2]

    rule = MaxSteps(7)
    run = gradient_flow(loss, start, stop=rule, t_final=100)
    assert run.stopped_by is rule
    assert len(run) == 8

    run = gradient_flow(loss, start, stop=MaxSteps(0))
    assert len(run) == 1
    assert run.evaluations == 1

    rule = GradientBelow(1e-4)
    run = gradient_flow(loss, start, stop=rule & LossBelow(1))
    gradients = factor_gradients(run.final_factors, loss.gradient(run.products[-1]))
    assert run.stopped_by == rule & LossBelow(1)
    assert np.sqrt(sum(np.vdot(G, G) for G in gradients)) <= 1e-4

    # The ratio of the singular values is e^(-6t) first, and rank one rests from 0.5 on, until
    # the second one escapes near log(1e4)/2.
    rule = RankPlateaus(1, length=1.0)
    run = gradient_flow(loss, start, stop=rule | LossBelow(1e-8))
    assert run.stopped_by is rule
    assert 1.4 < run.times[-1] < 4.6
    assert run.effective_rank("nuclear")[-1] == pytest.approx(1, abs=0.1)

    run = gradient_flow(loss, start, stop=LossBelow(1e-30), t_final=0.5)
    assert run.stopped_by == TimeReached(0.5)
    assert run.times[-1] == 0.5


@pytest.mark.parametrize("at", [1, 2, 5, 17, 40])
@pytest.mark.parametrize("method", ["rkc", "RK45", "DOP853", "LSODA", "Radau", "BDF"])
def test_interruption_keeps_the_records(method, at):
    target, start = np.diag([1.0, 2.0]), gaussian([2, 2, 2], 0.1, rng=0)
    with pytest.warns(InterruptionWarning, match="gradient flow"):
        run = gradient_flow(Pressed(target, at), start, t_final=50, method=method)
    whole = gradient_flow(FullObservation(target), start, t_final=50, method=method)
    assert isinstance(run.stopped_by, Interrupted)
    assert len(run) == run.stopped_by.step + 1
    # Not bit by bit: sums depend on how the memory happens to be aligned.
    np.testing.assert_allclose(run.times, whole.times[: len(run)], rtol=1e-7)
    np.testing.assert_allclose(run.products, whole.products[: len(run)], rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(product(run.final_factors), run.products[-1])


@pytest.mark.parametrize("method", METHODS)
def test_blow_up_is_reported_with_its_step(method):
    with pytest.warns(DivergenceWarning, match="divergence at step"):
        run = gradient_flow(Quartic(), [np.ones((1, 1))], t_final=2, method=method)
    assert isinstance(run.stopped_by, Diverged)
    assert run.stopped_by.step == len(run)
    assert np.isfinite(run.losses).all()
    assert np.isfinite(run.products).all()
    # w = (1 - 2t)^(-1/2): the run ends at the pole.
    assert run.times[-1] == pytest.approx(0.5, abs=1e-3)


def test_divergence_of_a_product_flow_is_reported():
    with pytest.warns(DivergenceWarning, match="product flow"):
        run = product_flow(Quartic(), [[1.0]], 2, t_final=2)
    assert isinstance(run.stopped_by, Diverged)


# Invariants ---------------------------------------------------------------------------------

TWO_BY_TWO = Completion([[0, 1], [1, 0]], np.array([[False, True], [True, True]]))


@pytest.mark.parametrize("method", ["rkc", "RK45", "LSODA", "Radau"])
def test_lost_sign_of_the_determinant_is_reported(method):
    start = balanced(0.1 * np.eye(2), 2)
    with pytest.warns(InvariantWarning, match=r"smallest singular value .* logarithms") as caught:
        gradient_flow(
            TWO_BY_TWO, start, 1e3, method=method, rtol=1e-9, atol=1e-12, record=np.arange(1000)
        )
    assert len(caught) == 1
    assert caught[0].filename == __file__
    time = float(str(caught[0].message).split("lost at time ")[1].split(":")[0])
    assert 1e2 < time < 1e3


def test_sign_that_is_kept_is_not_reported():
    start = balanced(0.1 * np.eye(2), 2)
    run = gradient_flow(TWO_BY_TWO, start, t_final=50, rtol=1e-9, atol=1e-12)
    assert np.linalg.det(run.products[-1]) > 0


@pytest.mark.parametrize(
    "start",
    [
        identical(4, 3, 0.3),
        perturbed(4, 2, 0.3, 0.1),
        gaussian([4, 4, 4], 0.1, rng=0),
        gaussian([4, 2, 4], 0.1, rng=0),
        balanced(np.diag([1.0, 0.1, 0, 0]), 2),
        [-np.eye(4)],
    ],
    ids=["identical", "perturbed", "gaussian", "narrow", "singular", "single"],
)
@pytest.mark.parametrize("method", ["rkc", "DOP853", "BDF"])
def test_ordinary_runs_do_not_warn(start, method):
    target = np.diag([3.0, 2, 1, 0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient_flow(FullObservation(target), start, t_final=20, method=method)
        gradient_flow(FullObservation(target), start, t_final=20, method=method, rtol=1e-2)


def test_unbalanced_and_single_factors_may_change_the_sign():
    # Without the assumption the statement is false, so nothing was lost.
    run = gradient_flow(FullObservation([[-1.0]]), [[[2.0]], [[0.1]]], t_final=20)
    assert run.products[0, 0, 0] > 0 > run.products[-1, 0, 0]
    run = product_flow(FullObservation([[-1.0]]), [[1.0]], 1, t_final=20)
    assert run.products[-1, 0, 0] < 0


def test_large_matrices_are_checked_where_they_are_recorded():
    start = identical(12, 2, 1.0)
    watch = _Invariants(start, 1e-6, 1e-9)
    assert not watch.cheap
    assert not watch.lost
    flipped = [start[0], np.diag([-1e-9] + [1.0] * 11)]
    watch.check(5, 0.25, product(flipped), flipped)
    assert "time 0.25" in watch.lost["determinant"]


def test_balance_is_reported_only_beyond_what_the_tolerances_explain():
    start = gaussian([3, 4, 3], 1.0, rng=0)
    watch = _Invariants(start, 1e-6, 1e-9)
    near = [start[0] + 1e-7, start[1]]
    watch.check(3, 1.0, product(near), near)
    assert not watch.lost
    far = [start[0] + 0.1, start[1]]
    assert imbalance(far) > 0
    watch.check(3, 2.0, product(far), far)
    assert "time 2" in watch.lost["balance"]


# Bad input ----------------------------------------------------------------------------------

EYE = FullObservation(np.eye(2))
GOOD = {"loss": EYE, "factors": [np.eye(2), np.eye(2)], "t_final": 1.0}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"loss": 3}, "loss"),
        ({"loss": FullObservation(np.eye(3))}, "loss"),
        ({"factors": []}, "factors"),
        ({"factors": 3}, "factors"),
        ({"factors": [np.eye(2), np.eye(3)]}, "factors"),
        ({"factors": [np.full((2, 2), np.nan)]}, "factors"),
        ({"factors": [np.full((2, 2), 1e200)] * 2}, "factors"),
        ({"t_final": None}, "t_final.*stop"),
        ({"t_final": 0}, "t_final"),
        ({"t_final": -1}, "t_final"),
        ({"t_final": np.nan}, "t_final"),
        ({"t_final": np.inf}, "t_final"),
        ({"t_final": "long"}, "t_final"),
        ({"stop": 7}, "stop"),
        ({"method": "euler"}, "method"),
        ({"method": None}, "method"),
        ({"rtol": 0}, "rtol"),
        ({"rtol": 1e-15}, "rtol"),
        ({"rtol": 1}, "rtol"),
        ({"rtol": np.nan}, "rtol"),
        ({"atol": 0}, "atol"),
        ({"atol": -1e-9}, "atol"),
        ({"atol": [1e-9]}, "atol"),
        ({"record": 0}, "record"),
        ({"record": 0.5}, "record"),
        ({"record": True}, "record"),
        ({"record": []}, "record"),
        ({"record": [0.5, 0.5]}, "record"),
        ({"record": [-0.5, 0.5]}, "record"),
        ({"record": [0.5, np.nan]}, "record"),
        ({"record": [0.5, 2]}, "record"),
        ({"record": "all"}, "record"),
        ({"keep": "everything"}, "keep"),
    ],
)
def test_bad_input_names_the_argument(change, named):
    with pytest.raises(ValueError, match=named):
        gradient_flow(**{**GOOD, **change})
    if "factors" not in change:
        both = {**GOOD, "W0": np.eye(2), "depth": 2, **change}
        del both["factors"]
        with pytest.raises(ValueError, match=named):
            product_flow(**both)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"W0": np.eye(3)}, "loss"),
        ({"W0": [1.0, 2.0]}, "W0"),
        ({"W0": [[np.inf]]}, "W0"),
        ({"W0": np.full((2, 2), 1e200)}, "W0"),
        ({"depth": 0}, "depth"),
        ({"depth": 1.5}, "depth"),
        ({"keep": "factors"}, "keep"),
        ({"keep": ("products", "factors")}, "keep"),
    ],
)
def test_bad_input_of_the_product_flow(change, named):
    with pytest.raises(ValueError, match=named):
        product_flow(**{"loss": EYE, "W0": np.eye(2), "depth": 2, "t_final": 1.0, **change})


def test_progress_bar_reaches_its_end(capsys):
    pytest.importorskip("tqdm")
    gradient_flow(EYE, [0.1 * np.eye(2)], t_final=2.0, progress=True)
    assert "2.0/2.0" in capsys.readouterr().err


@pytest.mark.parametrize("method", METHODS)
def test_recorded_losses_belong_to_the_recorded_factors(method):
    loss = completion(4, 12, 2)
    start = gaussian([4, 4, 4], 0.3, rng=7)
    run = gradient_flow(loss, start, 4, method=method, keep=("products", "factors"))
    for i in range(len(run)):
        W = run.factors[1][i] @ run.factors[0][i]
        np.testing.assert_allclose(run.products[i], W, rtol=0, atol=1e-15 * np.abs(W).max() * 10)
        assert run.losses[i] == pytest.approx(loss.value(W), rel=1e-12)


def test_a_rank_that_grows_by_rounding_is_reported():
    loss, start = FullObservation(np.diag([2.0, 1.5])), np.outer([0.6, 0.8], [1.0, 0.0])
    with pytest.warns(InvariantWarning, match="rank of the product.* has grown from 1"):
        run = product_flow(loss, start, 2, 40.0, rtol=1e-9, atol=1e-12)
    assert run.singular_values[-1, 1] > 1  # what the exact flow keeps at zero


def test_a_rank_that_is_kept_is_not_reported():
    loss, start = FullObservation(np.diag([2.0, 1.5])), np.diag([0.5, 0.0])
    run = product_flow(loss, start, 2, 40.0, rtol=1e-9, atol=1e-12)
    assert run.singular_values[-1] == pytest.approx([2, 0], abs=1e-6)
