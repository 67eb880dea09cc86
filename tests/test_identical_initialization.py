"""The recursion against matrices, the closed forms against quadrature, the bounds against runs."""

import time
from decimal import Decimal, localcontext

import evidence
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import quad, solve_ivp

from dmflib import identical_initialization as ii
from dmflib.descent import MaxSteps, gradient_descent
from dmflib.flow import gradient_flow
from dmflib.linear_networks import identical
from dmflib.losses import FullObservation
from dmflib.matrices import effective_rank
from dmflib.stopping import Diverged, DivergenceWarning

DEPTHS = (2, 3, 4, 5, 6)


def velocity(lam, N, d):
    return d ** (N - 1) * (lam - d**N)


def loop(lam, N, alpha, eta, steps):
    path = [np.full(len(lam), float(alpha))]
    for _ in range(steps):
        d = path[-1]
        path.append(d + eta * velocity(np.asarray(lam), N, d))
    return np.array(path)


@st.composite
def ways(draw, max_depth=9):
    """Eigenvalue of any sign, depth, start, and an end on the flow's way."""
    N = draw(st.integers(2, max_depth))
    sign, exponent = draw(st.sampled_from([-1, 0, 1])), draw(st.floats(-3, 2))
    lam = sign * 10**exponent
    root = max(lam, 0) ** (1 / N)
    start = 10 ** draw(st.floats(-1.5, 1))
    part = draw(st.floats(0.001, 0.999))
    end = start + part * (root - start)
    assume(abs(root - start) > 1e-3 * start)
    return lam, N, start, end


# --- the recursion ------------------------------------------------------------------------------


@pytest.mark.ledger("identical-lem-diagonal")
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(6))
def test_descent_on_matrices_stays_diagonal_identical_and_follows_the_recursion(depth, seed):
    rng = np.random.default_rng([depth, seed])
    V = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    lam = np.array([4.0, 2.0, 0.5, 0.0, -3.0]) if seed == 0 else rng.uniform(-4, 4, 5)
    eta = ii.max_step_size(lam, depth, 0.6) / 2
    run = gradient_descent(
        FullObservation(V * lam @ V.T), identical(5, depth, 0.6), eta, MaxSteps(60),
        keep=("factors", "products"),
    )  # fmt: skip
    path = ii.dynamics(lam, depth, 0.6, eta, 60)
    for factor in run.factors:
        D = V.T @ factor @ V
        expected = np.zeros_like(D)
        np.einsum("tii->ti", expected)[...] = path.values
        evidence.agree(D, expected, atol=1e-12)
    spectra = np.einsum("ji,tjk,ki->ti", V, run.products, V)
    evidence.agree(path.eigenvalues, spectra, atol=1e-12)
    evidence.agree(path.values, loop(lam, depth, 0.6, eta, 60), atol=1e-12)


@pytest.mark.ledger("identical-lem-diagonal")
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_flow_on_matrices_stays_diagonal_identical_and_follows_the_equation(depth, seed):
    rng = np.random.default_rng([depth, seed])
    V = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    lam = rng.uniform(-3, 3, 4)
    run = gradient_flow(
        FullObservation(V * lam @ V.T), identical(4, depth, 0.6), t_final=1.0, method="DOP853",
        rtol=1e-11, atol=1e-13, keep=("factors",),
    )  # fmt: skip
    for factor in run.final_factors:
        entries = ii.flow_solution(lam, depth, 0.6, 1.0)
        evidence.agree(V.T @ factor @ V, np.diag(entries), atol=1e-8)


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("depth", [1, 2, 3, 7])
def test_both_ways_to_compute_are_the_recursion(count, depth):
    lam = np.linspace(-2, 3, count)
    path = ii.dynamics(lam, depth, 0.4, 0.01, 60)
    assert_allclose(path.values, loop(lam, depth, 0.4, 0.01, 60), rtol=1e-12)
    assert path.stopped_by is None


def test_recording_keeps_what_is_asked_and_changes_nothing():
    lam = [3.0, -1.0]
    every = ii.dynamics(lam, 3, 0.2, 0.01, 103)
    some = ii.dynamics(lam, 3, 0.2, 0.01, 103, record=25)
    assert some.times.tolist() == [0, 25, 50, 75, 100, 103]
    assert_allclose(some.values, every.values[some.times], rtol=0, atol=0)
    listed = ii.dynamics(lam, 3, 0.2, 0.01, 103, record=[7, 3, 500])
    assert listed.times.tolist() == [0, 3, 7, 103]
    assert_allclose(listed.values, every.values[listed.times], rtol=0, atol=0)
    assert ii.dynamics(lam, 3, 0.2, 0.01, 0).values.tolist() == [[0.2, 0.2]]


def test_resting_at_a_fixed_point_is_not_computed_again():
    path = ii.dynamics([1.0], 2, 1.0, 0.1, 10**12, record=10**11)  # would take days
    assert (path.values == 1).all()
    assert len(path.times) == 11


def test_long_runs_take_well_under_a_second():
    # The slow eigenvalues never come to rest, so that all steps are taken.
    seconds = []
    for _ in range(3):
        start = time.process_time()
        path = ii.dynamics([0.1, 0.05, 0.02, -0.01], 3, 0.1, 1e-3, 200_000, record=100)
        seconds.append(time.process_time() - start)
    assert path.times[-1] == 200_000
    assert (path.values[-1] != path.values[-2]).any()
    assert min(seconds) < 0.8


@pytest.mark.parametrize("record", [1, 2, 50])
@pytest.mark.parametrize("lam", [[1.0, 5.0], np.linspace(1, 5, 30), [0.1, 9.0, 0.2]])
@pytest.mark.parametrize("depth", [2, 3, 6])
def test_divergence_is_reported_with_its_step(record, lam, depth):
    with np.errstate(all="ignore"):
        expected = np.isfinite(loop(lam, depth, 0.9, 3.0, 60)).all(axis=1)
    first = int(np.argmin(expected))
    assert not expected[first]
    with pytest.warns(DivergenceWarning, match=f"divergence at step {first}$"):
        path = ii.dynamics(lam, depth, 0.9, 3.0, 100, record=record)
    assert path.stopped_by == Diverged(first)
    assert path.times[-1] == first - 1
    assert np.isfinite(path.values).all()


def test_an_infinite_product_of_finite_values_does_not_hide_divergence():
    with pytest.warns(DivergenceWarning):
        path = ii.dynamics([-1e200], 2, 1e100, 1.0, 10)
    assert np.isfinite(path.values).all()


@pytest.mark.ledger("identical-prop-saddle")
@pytest.mark.parametrize(("N", "place"), [(2, 1), (2, 2), (3, 1), (4, 1), (5, 1), (3, 2)])
def test_the_limit_is_a_saddle_where_a_negative_eigenvalue_is_larger_in_size(N, place):
    # In the plane of a positive and a negative eigenvalue, p = -q grows like exp(rate t).
    lam = np.array([5.0, 3.0, 1.0, -4.0])
    rate = lam[place] ** (1 - 2 / N) * (4 - lam[place])
    d = np.maximum(lam, 0) ** (1 / N)
    factors = [np.diag(d) for _ in range(N)]
    factors[-1][3, place], factors[0][place, 3] = 1e-9, -1e-9
    eta = 0.2 * ii.max_step_size(lam, N, 0.1)
    steps = int(4 / (rate * eta))
    loss = FullObservation(np.diag(lam))
    end = gradient_descent(loss, factors, eta, MaxSteps(steps)).final_factors
    evidence.agree(end[-1][3, place], 1e-9 * (1 + eta * rate) ** steps, rtol=1e-6)
    # the loss at the disturbed point is smaller, to second order by the rate
    for size in (1e-1, 1e-3):
        factors = [np.diag(d) for _ in range(N)]
        factors[-1][3, place], factors[0][place, 3] = size, -size
        product = np.linalg.multi_dot([*factors[::-1]])
        change = loss.value(product) - loss.value(np.diag(d**N))
        assert change < 0
    evidence.agree(-change / size**2, rate, rtol=1e-2)
    # with an eigenvalue above 4 the same disturbance dies out
    factors = [np.diag(d) for _ in range(N)]
    factors[-1][3, 0], factors[0][0, 3] = 1e-9, -1e-9
    end = gradient_descent(loss, factors, eta, MaxSteps(steps)).final_factors
    decay = -(lam[0] ** (1 - 2 / N)) * (lam[0] - 4)
    evidence.agree(end[-1][3, 0], 1e-9 * (1 + eta * decay) ** steps, rtol=1e-4)


def test_rounding_alone_leaves_the_path_of_the_theorem():
    W, V = ii.second_example(), ii.example_eigenvectors()
    run = gradient_descent(FullObservation(W), identical(4, 3, 0.1), 0.01, MaxSteps(6000), 6000)
    assert np.diag(V.T @ run.products[-1] @ V)[3] == pytest.approx(-5, abs=1e-6)
    path = ii.dynamics([5, 3, -1, -5], 3, 0.1, 0.01, 6000, record=6000)
    assert_allclose(path.eigenvalues[-1], [5, 3, 0, 0], atol=1e-5)


# --- step sizes and convergence -----------------------------------------------------------------


@pytest.mark.ledger("identical-lem-slope")
@pytest.mark.parametrize("depth", [*DEPTHS, 9, 20])
def test_one_step_is_an_increasing_map_below_the_limit(depth):
    """The slope g' = 1 + eta v', with v' checked by a difference quotient."""
    rng = np.random.default_rng(depth)
    for _ in range(150):
        lam = rng.choice([-1, 0, 1, 1]) * 10 ** rng.uniform(-3, 2)
        alpha = 10 ** rng.uniform(-2, 1)
        M = max(alpha, abs(lam) ** (1 / depth))
        eta = ii.max_step_size([lam], depth, alpha) * (1 - 1e-9)
        d = M * np.linspace(0, 1, 301)
        turn = d ** (depth - 2) * ((2 * depth - 1) * d**depth - (depth - 1) * lam)
        h = 1e-6 * M
        quotient = (velocity(lam, depth, d + h) - velocity(lam, depth, d - h)) / (2 * h)
        size = M ** (2 * depth - 2)
        assert_allclose(turn / size, -quotient / size, atol=1e-5)
        evidence.at_most((eta * turn).max(), 1)
        if lam > 0:
            root = lam ** (1 / depth)
            d = root * np.linspace(0, 1, 301)
            turn = d ** (depth - 2) * ((2 * depth - 1) * d**depth - (depth - 1) * lam)
            evidence.at_most(turn.max(), depth * lam ** (2 - 2 / depth), slack=1e-12)
            evidence.at_most((eta * turn).max(), 0.5)


@pytest.mark.ledger("identical-thm-convergence")
@pytest.mark.parametrize("depth", DEPTHS)
def test_below_the_limit_every_entry_moves_monotonically_to_the_positive_part(depth):
    rng = np.random.default_rng(depth)
    for _ in range(40):
        lam = rng.choice([-1, 0, 1, 1], 4) * 10 ** rng.uniform(-1, 1, 4)
        alpha = 10 ** rng.uniform(-0.5, 0.5)
        eta = ii.max_step_size(lam, depth, alpha) * (1 - 1e-12)
        path = ii.dynamics(lam, depth, alpha, eta, 3000, strict=True)
        limit = np.maximum(lam, 0) ** (1 / depth)
        distance = np.abs(path.values - limit)
        assert (np.diff(distance, axis=0) <= 1e-14).all()
        sides = np.sign(path.values - limit) * np.sign(alpha - limit)
        evidence.holds(((sides >= 0) | (distance <= 1e-12)).all(axis=0))
        assert (distance[-1] < np.maximum(1e-9, distance[0])).all()


@pytest.mark.ledger("identical-thm-convergence")
@pytest.mark.parametrize("depth", DEPTHS)
def test_descent_comes_as_near_to_the_positive_part_as_is_asked(depth):
    rng = np.random.default_rng(depth)
    size = 10 ** rng.uniform(-1, 1, 200)
    lam = size * rng.choice([-1, 0, 1, 1], 200)
    alpha = size ** (1 / depth) * 10 ** rng.uniform(-0.4, 0.15, 200)
    eta = np.array(
        [ii.max_step_size([x], depth, a) for x, a in zip(lam, alpha, strict=True)]
    ) * (1 - 1e-9)  # fmt: skip
    root = np.maximum(lam, 0) ** (1 / depth)
    eps = np.where(lam > 0, 1e-9 * root, 0.1 ** (1 / (depth - 1)) * alpha)
    eps = np.minimum(eps, 0.5 * np.abs(alpha - root))
    steps = ii.first_step(lam, depth, alpha, eta, eps, max_steps=200_000)
    evidence.holds(steps > 0)


@pytest.mark.ledger("identical-thm-recovery")
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_descent_on_matrices_tends_to_the_nearest_positive_semidefinite_matrix(depth, seed):
    rng = np.random.default_rng([depth, seed])
    V = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    # negative eigenvalues smaller in size than positive ones: rounding then does not grow
    lam = np.array([*rng.uniform(1.5, 4, 2), *-rng.uniform(0.5, 1.2, 2)])
    target, loss = V * lam @ V.T, FullObservation(V * lam @ V.T)
    M = max(0.5, np.abs(lam).max() ** (1 / depth))
    eta = 0.999 / ((3 * depth - 2) * M ** (2 * depth - 2))
    # at depth 2 zero is unstable for factors that differ: rounding must not grow to matter
    steps = 30_000 if depth > 2 else int(12 / eta)
    run = gradient_descent(loss, identical(4, depth, 0.5), eta, MaxSteps(steps), record=steps)
    limit = V * np.maximum(lam, 0) @ V.T
    # what is left of each negative eigenvalue at most, since the flow is never faster
    time = steps * eta * 0.5
    left = 0.25 * np.exp(-2 * time) if depth == 2 else (
        (depth - 2) * time) ** (-depth / (depth - 2))  # fmt: skip
    evidence.at_most(np.linalg.norm(run.products[-1] - limit), 1e-9 + 2 * left)
    least = (np.minimum(lam, 0) ** 2).sum() / 2
    assert run.losses[-1] >= least * (1 - 1e-12)
    evidence.agree(loss.value(limit), least, rtol=1e-12)
    for _ in range(20):
        B = rng.standard_normal((4, rng.integers(1, 5)))
        P = rng.choice([0.1, 1, 3]) * B @ B.T
        P = P if rng.random() < 0.5 else limit + 1e-3 * P
        evidence.at_most(np.linalg.norm(limit - target), np.linalg.norm(P - target))


@pytest.mark.ledger("identical-thm-recovery")
@pytest.mark.parametrize("depth", DEPTHS)
def test_the_limit_of_theorem_2_2_is_never_larger(depth):
    rng = np.random.default_rng(depth)
    lam = rng.normal(size=(200, 4)) * 10 ** rng.uniform(-2, 2, (200, 1))
    largest = np.maximum(0.3, np.abs(lam).max(axis=1) ** (1 / depth))
    ours = ii.max_step_size(lam, depth, 0.3)
    assert ours.shape == (200,)
    evidence.at_most(1 / ((3 * depth - 2) * largest ** (2 * depth - 2)), ours, slack=1e-14)


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_constant_for_negative_eigenvalues_is_the_largest_with_a_monotone_recursion(depth):
    lam = -2.0
    alpha = 2 ** (1 / depth)
    eta = ii.max_step_size([lam], depth, alpha)
    slope = 1 - eta * ((2 * depth - 1) * alpha ** (2 * depth - 2) + (depth - 1) * 2
                       * alpha ** (depth - 2))  # fmt: skip
    assert slope == pytest.approx(0, abs=1e-14)


@pytest.mark.ledger("identical-prop-order")
@pytest.mark.parametrize("depth", DEPTHS)
def test_larger_eigenvalues_stay_ahead(depth):
    rng = np.random.default_rng(depth)
    for trial in range(40):
        lam = np.array([3.0, 2.0, 0.4, 0.0, -0.3, -2.0])
        if trial:
            lam = rng.choice([-1, 1], 6) * 10 ** rng.uniform(-1, 1, 6)
            lam = np.sort(lam)[::-1]
        alpha = 0.3 if trial == 0 else 10 ** rng.uniform(-0.7, 0.5)
        eta = ii.max_step_size(lam, depth, alpha) * 0.999
        values = ii.dynamics(lam, depth, alpha, eta, 4000).values
        # the order of numbers may end where they are equal up to rounding or underflow
        behind = (np.diff(values[1:], axis=1) <= 0) | (values[1:, :-1] < 1e-300)
        evidence.holds(behind.all(axis=0) & (np.diff(values[1:20], axis=1) < 0).all(axis=0))


@pytest.mark.ledger("identical-prop-rates")
def test_local_rates():
    rng = np.random.default_rng(0)
    random = [(N, 10 ** rng.uniform(-0.5, 0.7)) for N in (2, 3, 4, 5) for _ in range(5)]
    for N, lam in [(2, 3.0), (3, 0.7), (5, 2.0), *random]:
        eta = ii.max_step_size([lam], N, 0.5)
        d = ii.dynamics([lam], N, 0.5, eta, 4000).values[:, 0]
        e = lam ** (1 / N) - d
        k = np.flatnonzero(e > 1e-6 * lam ** (1 / N))[-1]
        evidence.agree(e[k + 1] / e[k], 1 - eta * N * lam ** (2 - 2 / N), atol=2e-4)
    for lam in (-2.0, -0.7, -5.0):
        d = ii.dynamics([lam], 2, 0.5, 0.01, 3000).values[-2:, 0]
        evidence.agree(d[1] / d[0], 1 + 0.01 * lam, rtol=1e-9)
    cases = [(N, lam, (N - 2) * -lam, N - 2) for N in (3, 4, 5) for lam in (-2.0, -1.1, -0.3)]
    for N, lam, speed, power in [*cases, *((N, 0.0, 2 * N - 2, 2 * N - 2) for N in (2, 3, 4))]:
        eta = ii.max_step_size([lam], N, 1.0) / 2
        end = ii.dynamics([lam], N, 1.0, eta, 10**6, record=10**6).values[-1, 0]
        evidence.agree(end * (speed * eta * 1e6) ** (1 / power), 1, rtol=1e-3)


# --- the time of the flow -----------------------------------------------------------------------


@pytest.mark.ledger("identical-thm-time")
@settings(max_examples=300, deadline=None)
@given(ways())
def test_flow_time_is_the_integral(way):
    lam, N, start, end = way
    expected, error = quad(
        lambda s: 1 / velocity(lam, N, s), start, end, epsabs=0, epsrel=1e-10, limit=500
    )
    tolerance = max(1e-9 * abs(expected), 10 * error)
    evidence.at_most(abs(ii.flow_time(lam, N, start, end) - expected), tolerance)
    assert expected > 0


def integral(lam, N, start, end):
    """The same integral in decimal arithmetic: tanh-sinh rules, halved until two of them agree."""
    with localcontext() as context:
        context.prec = 45
        lam, a, b = Decimal(lam), Decimal(start), Decimal(end)
        half_pi = Decimal("1.57079632679489661923132169163975144209858469968755")
        way = (b / a).ln()  # equal ratios of s weigh alike: the variable is its logarithm

        def term(u):
            e = u.exp()
            sinh, cosh = (e - 1 / e) / 2, (e + 1 / e) / 2
            w = (half_pi * sinh).exp()
            near = 1 / (1 + w * w)  # relative distance from the end
            weight = 4 * near * (1 - near) * half_pi * cosh
            s = b * (-way * near).exp()
            return weight / (s ** (N - 2) * (lam - s**N))

        h = Decimal(1) / 8
        total = sum(term(k * h) for k in range(-35, 36))
        while True:
            old = total * h
            h /= 2
            count = int(Decimal("4.375") / h)
            total += sum(term(k * h) for k in range(-count, count + 1) if k % 2)
            if abs(total * h - old) <= Decimal("1e-17") * abs(old):
                return float(total * h * way / 2)


@pytest.mark.ledger("identical-thm-time")
@settings(max_examples=60, deadline=None)
@given(ways(max_depth=20))
def test_flow_time_is_accurate_to_rounding(way):
    lam, N, start, end = way
    expected = integral(lam, N, start, end)
    # one rounding of the limit itself costs this much where the end is close to it
    root = max(lam, 0) ** (1 / N)
    condition = 1 + (root / abs(root - end) if lam > 0 else 0)
    error = ii.flow_time(lam, N, start, end) / expected - 1
    evidence.agree(error / (N * condition), 0, atol=1e-13)


@pytest.mark.ledger("identical-thm-time")
@given(st.integers(2, 9), st.sampled_from([-1, 1]), st.floats(-1, 1), st.floats(0.3, 2.5),
       st.floats(0.05, 0.95))  # fmt: skip
def test_the_formula_with_principal_logarithms_is_the_time(N, sign, exponent, ratio, part):
    """Roots and logarithms as the theorem writes them, where nothing cancels much."""
    lam, size = sign * 10**exponent, 10 ** (exponent / N)
    root, alpha = max(lam, 0) ** (1 / N), ratio * size
    assume(abs(alpha - root) > 0.05 * size)
    mu = alpha + part * (root - alpha)
    assume(mu > 0.1 * size)
    phases = 2 * np.arange(1, N + 1) + (sign < 0)
    roots = size * np.exp(1j * np.pi * phases / N)
    minus = np.log(mu / alpha) if N == 2 else (alpha ** (2 - N) - mu ** (2 - N)) / (N - 2)
    sums = (roots**2 * np.log((mu - roots) / (alpha - roots))).real.sum()
    terms = minus / lam, -sums / (N * lam**2)
    error = sum(terms) - ii.flow_time(lam, N, alpha, mu)
    evidence.agree(error / np.abs(terms).max(), 0, atol=1e-11)


@given(ways(), st.sampled_from([1e-13, 1e-9, 1e-4]))
def test_short_ways_keep_their_digits(way, length):
    lam, N, start, _ = way
    root = max(lam, 0) ** (1 / N)
    end = start * (1 + length * np.sign(root - start))
    middle = (start + end) / 2
    h = (end - start) / 2
    # Simpson's rule
    points, weights = (start, middle, end), (1, 4, 1)
    expected = h / 3 * sum(w / velocity(lam, N, s) for w, s in zip(weights, points, strict=True))
    assert ii.flow_time(lam, N, start, end) == pytest.approx(expected, rel=1e-6 * N)


@given(ways(), st.floats(0.01, 100))
def test_flow_time_adds_up_and_scales(way, factor):
    lam, N, start, end = way
    middle = start + 0.4 * (end - start)
    parts = ii.flow_time(lam, N, start, middle) + ii.flow_time(lam, N, middle, end)
    whole = ii.flow_time(lam, N, start, end)
    assert parts == pytest.approx(whole, rel=1e-10)
    scaled = ii.flow_time(factor**N * lam, N, factor * start, factor * end)
    assert scaled * factor ** (2 * N - 2) == pytest.approx(whole, rel=1e-9)


def test_flow_time_at_the_edges():
    assert ii.flow_time(2.0, 3, 0.5, 0.5) == 0
    assert ii.flow_time(0.0, 4, 2.0, 1.0) == pytest.approx((1 - 2.0**-6) / 6)
    # A tiny eigenvalue is not worse than none, and one above the cut joins one below.
    for lam in (1e-300, -1e-300):
        assert ii.flow_time(lam, 4, 2.0, 1.0) == pytest.approx((1 - 2.0**-6) / 6, rel=1e-12)
    assert ii.flow_time(-2.0, 2, 1.0, 0.5) == pytest.approx(np.log((4 * 2 + 1) / 3) / 4)
    assert ii.flow_time(1.0, 100, 0.5, 0.9) == pytest.approx((2.0**98 - 0.9**-98) / 98, rel=1e-9)
    assert ii.flow_time(1.0, 5, 1e-200, 0.5) == np.inf
    assert ii.flow_time([1.0, -1.0], 3, 0.5, [[0.5], [0.5]]).shape == (2, 2)


# --- the flow -----------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(ways())
@example((1.0, 9, 10.0, 7.75))  # far above the root
def test_flow_solution_inverts_the_time(way):
    lam, N, start, end = way
    t = ii.flow_time(lam, N, start, end)
    assert ii.flow_solution(lam, N, start, t) == pytest.approx(end, rel=1e-9)


@pytest.mark.ledger("identical-thm-sigmoid")
@pytest.mark.parametrize("lam", [2.0, 0.3, 0.0, -1.5])
@pytest.mark.parametrize("N", [1, 2, 3, 5])
def test_flow_solution_solves_the_equation(lam, N):
    times = np.linspace(0, 6, 13)
    run = solve_ivp(
        lambda t, d: velocity(lam, N, d), (0, 6), [0.6], t_eval=times, rtol=1e-11, atol=1e-13
    )
    evidence.agree(ii.flow_solution(lam, N, 0.6, times), run.y[0], rtol=1e-8)
    # the product moves by the balanced flow of the product
    if N > 1:
        run = solve_ivp(
            lambda t, s: N * np.abs(s) ** (2 - 2 / N) * (lam - s),
            (0, 6), [0.6**N], t_eval=times, rtol=1e-11, atol=1e-13,
        )  # fmt: skip
        ours = ii.flow_solution(lam, N, 0.6, times) ** N
        evidence.agree(ours, run.y[0], rtol=1e-7, atol=1e-12)


@pytest.mark.ledger("identical-thm-sigmoid")
@settings(deadline=None)
@given(st.sampled_from([-1, 1]), st.floats(-1, 0.7), st.floats(-1.5, 0.5), st.floats(0, 4))
def test_depth_two_is_a_sigmoid(sign, exponent, start, end):
    lam, alpha = sign * 10**exponent, 10**start
    t = np.linspace(0, end, 5)
    expected = lam / (1 + (lam / alpha**2 - 1) * np.exp(-2 * lam * t))
    evidence.agree(ii.flow_solution(lam, 2, alpha, t) ** 2, expected, rtol=1e-9, atol=1e-14)
    run = solve_ivp(
        lambda t, d: velocity(lam, 2, d), (0, end), [alpha], method="DOP853", rtol=1e-10,
        atol=1e-12,
    )  # fmt: skip
    evidence.agree(run.y[0, -1] ** 2, expected[-1], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("N", [2, 3, 4])
def test_late_times_end_at_the_positive_part(N):
    lam = np.array([4.0, 0.5, 0.0, -2.0])
    late = ii.flow_solution(lam, N, 0.3, 1e9)
    assert_allclose(late, np.maximum(lam, 0) ** (1 / N), atol=0.07)
    assert_allclose(late[:2], lam[:2] ** (1 / N), rtol=1e-14)
    root = 4.0 ** (1 / N)
    assert ii.flow_solution(4.0, N, root, 5.0) == pytest.approx(root, rel=1e-14)
    assert (np.diff(ii.flow_solution(4.0, N, 0.01, np.linspace(0, 50, 300))) >= 0).all()
    assert (np.diff(ii.flow_solution(4.0, N, 3.0, np.linspace(0, 50, 300))) <= 0).all()


@pytest.mark.ledger("identical-prop-escape")
@pytest.mark.parametrize("theta", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("N", [2, 3, 4, 6])
def test_escape_time_is_the_leading_order(N, theta):
    lam = np.array([0.3, 2.0, 9.0])
    root = lam ** (1 / N)
    errors = []
    for small in (1e-2, 2e-3):
        half = ii.flow_time(lam, N, small * root, theta ** (1 / N) * root)
        formula = np.log(lam / (small * root) ** 2) / (2 * lam) if N == 2 else (
            (small * root) ** (2 - N) / ((N - 2) * lam))  # fmt: skip
        # the difference tends to a constant times lam**(2/N - 2)
        escape = ii.escape_time(lam, N, small * root)
        evidence.agree(escape, formula, rtol=1e-13)
        errors.append((half - escape) * lam ** (2 - 2 / N))
        rounding = 1e-15 * (escape * lam ** (2 - 2 / N)).max()
        # the starts are scaled alike, so this holds before the limit already
        evidence.at_most(np.abs(errors[-1] - errors[-1][0]).max(), 4 * rounding)
    evidence.at_most(np.abs(errors[0] - errors[1]), 4 * rounding + 1e-4)
    assert np.abs(errors).max() < 3
    if N == 2 and theta == 0.5:
        assert_allclose(errors[1], 0, atol=1e-5)


@pytest.mark.parametrize(("N", "expected"), [(2, [0.68, 0.45, 0.25]), (3, [0.21, 0.003, 0.0])])
def test_the_second_value_when_the_first_is_at_nine_tenths(N, expected):
    for scale, fraction in zip([1e-2, 1e-4, 1e-6], expected, strict=True):
        start = scale ** (1 / N)
        t = ii.flow_time(5.0, N, start, 4.5 ** (1 / N))
        second = ii.flow_solution(4.0, N, start, t) ** N
        assert second / 4 == pytest.approx(fraction, abs=5e-3)
    predicted = scale * (1 - 4 / 5) ** (-N / (N - 2)) if N > 2 else None
    if N > 2:
        assert second == pytest.approx(predicted, rel=5e-2)


@pytest.mark.ledger("identical-thm-incremental")
@given(st.floats(0.1, 5), st.floats(0.1, 0.99), st.floats(-12, -2), st.floats(0.01, 0.99))
def test_at_depth_two_the_second_value_is_a_power_of_the_scale(largest, ratio, exponent, part):
    lam = np.array([largest, ratio * largest])
    sigma = 10**exponent * lam[1]
    t = ii.flow_time(lam[0], 2, sigma**0.5, (sigma + part * (lam[0] - sigma)) ** 0.5)
    ends = ii.flow_solution(lam, 2, sigma**0.5, t) ** 2
    odds = ends / (lam - ends) * (lam - sigma) / sigma
    evidence.agree(odds[1], odds[0] ** ratio, rtol=1e-7)


@pytest.mark.ledger("identical-thm-incremental")
@settings(max_examples=30, deadline=None)
@given(st.integers(3, 8), st.floats(0.1, 5), st.floats(0.05, 0.9), st.floats(0.1, 0.9))
def test_from_depth_three_on_the_second_value_stays_within_a_factor_of_the_scale(
    N, largest, ratio, theta
):
    start = np.array([1e-3, 1e-5]) * largest ** (1 / N)
    t = ii.flow_time(largest, N, start, (theta * largest) ** (1 / N))
    second = ii.flow_solution(ratio * largest, N, start, t) ** N
    gaps = np.abs(second / start**N * (1 - ratio) ** (N / (N - 2)) - 1)
    evidence.at_most(gaps[1], gaps[0] + 1e-9)
    evidence.agree(gaps[1], 0, atol=0.02)


# --- counting steps -----------------------------------------------------------------------------


def counted(N, count, seed, most=20_000):
    """Random instances that can be run, with their first steps."""
    instance = ii.random_instances(N, count, seed)
    fast = ii.clock_bounds(instance[0], N, *instance[1:])[1] < most
    lam, alpha, eta, eps = (x[fast] for x in instance)
    steps = ii.first_step(lam, N, alpha, eta, eps, max_steps=2 * most)
    assert (steps >= 1).all()
    return lam, alpha, eta, eps, steps


def lag(lam, N, alpha):
    """s_N of source A where cases 4 and 5 use it."""
    peak = ((N - 1) / (2 * N - 1) * np.maximum(lam, 0)) ** (1 / N)
    return np.where((lam > 0) & (alpha <= peak), np.ceil((peak / alpha) ** (N - 1)), 0)


@pytest.mark.ledger("identical-thm-clock")
@pytest.mark.parametrize("N", [*DEPTHS, 8])
def test_descent_keeps_the_clock_of_the_flow(N):
    lam, alpha, eta, eps, steps = counted(N, 2000, N)
    lower, upper = ii.clock_bounds(lam, N, alpha, eta, eps)
    evidence.at_most(lower, steps)
    evidence.at_most(steps, upper)
    # the same from the theorem's words: speeds on a grid, and any bound m of the slopes
    rng = np.random.default_rng(N)
    root = np.maximum(lam, 0) ** (1 / N)
    for case in rng.choice(len(lam), 150, replace=False):
        value, a, h, r = lam[case], alpha[case], eta[case], root[case]
        mu = r + (eps[case] if a > r else -eps[case])
        way, rest = np.linspace(a, mu, 2001), np.linspace(a, r, 2001)
        slopes = 1 + h * rest ** (N - 2) * ((N - 1) * value - (2 * N - 1) * rest**N)
        m = min(slopes.min(), 1 - 1e-9) * rng.uniform(0.3, 1)
        m = 0.5 if a < r and rng.random() < 0.5 else m
        C = (1 / m - 1) / np.log(1 / m)
        speeds = np.abs(velocity(value, N, way))
        tau = ii.flow_time(value, N, a, mu) / h
        least = tau - C * np.log(speeds.max() / speeds[-1])
        most = np.ceil((tau + np.log(speeds.max() / speeds[0])) * (1 + 1e-9))
        evidence.at_most(least, steps[case])
        evidence.at_most(steps[case], most)


@pytest.mark.ledger("identical-cor-bound")
def test_no_bound_fails_on_random_instances():
    total = without = earlier = worse = 0
    for N in DEPTHS:
        lam, alpha, eta, eps, steps = counted(N, 2000, N)
        published = ii.iteration_bound(lam, N, alpha, eta, eps)
        lower, upper = ii.clock_bounds(lam, N, alpha, eta, eps)
        evidence.at_most(steps, published)
        total += len(steps)
        without += (steps > published - lag(lam, N, alpha)).sum()
        earlier += (steps > lower).sum()
        worse += (upper > published).sum()
    assert total > 5000
    assert without > 100  # the term s_N is needed, so the test can fail
    assert earlier > 0  # and so is some distance between the bounds
    assert worse == 0  # measured, not proved


@pytest.mark.ledger("identical-cor-bound")
@pytest.mark.parametrize("N", DEPTHS)
def test_bounds_hold_at_the_edges_of_their_cases(N):
    c = (N - 1) / (2 * N - 1)
    tiny = 1e-9
    for lam in (0.5, 1.0, 6.0):
        root, peak = lam ** (1 / N), (c * lam) ** (1 / N)
        for alpha in (peak * (1 - tiny), peak, peak * (1 + tiny), root * 0.999, root * 1.001, 0.3):
            eta = ii.max_step_size([lam], N, alpha) * (1 - tiny)
            far = abs(root - alpha)
            for eps in (far * (1 - tiny), far * 0.5, far * 1e-3, root - peak, root - peak + tiny):
                if not 0 < eps < far:
                    continue
                steps = ii.first_step(lam, N, alpha, eta, eps)
                lower, upper = ii.clock_bounds(lam, N, alpha, eta, eps)
                assert lower <= steps <= upper
                evidence.at_most(steps, ii.iteration_bound(lam, N, alpha, eta, eps))


def test_the_ceiling_that_the_source_leaves_out_is_needed():
    problem = (1.0, 2, 0.9, 0.01, 0.0999)
    formula = np.log((1 - 0.9) / 0.0999) / abs(np.log(1 - 0.01 * 2 / 3))
    assert formula < 0.2
    assert ii.first_step(*problem) == 1
    assert ii.iteration_bound(*problem) == 1


@pytest.mark.parametrize("N", DEPTHS)
def test_descent_keeps_the_flow_s_time_as_steps_become_small(N):
    lam, alpha, eps = 2.0, 0.3, 0.01
    tau = ii.flow_time(lam, N, alpha, 2 ** (1 / N) - eps)
    gaps = []
    for share in (0.5, 0.05):
        eta = share * ii.max_step_size([lam], N, alpha)
        gaps.append(abs(eta * ii.first_step(lam, N, alpha, eta, eps) - tau) / eta)
    assert max(gaps) < 10  # in steps: the same however many there are


def test_first_step_finds_the_first():
    d = loop([2.0], 3, 0.2, 0.01, 4000)[:, 0]
    expected = int(np.argmax(np.abs(d - 2 ** (1 / 3)) <= 0.05))
    assert ii.first_step(2.0, 3, 0.2, 0.01, 0.05) == expected
    assert ii.first_step([2.0], 3, 0.2, 0.01, 0.05).shape == (1,)
    assert ii.first_step(2.0, 3, 0.2, 0.01, 0.05, max_steps=expected - 1) == -1
    assert ii.first_step(2.0, 3, 0.2, 0.01, 5.0) == 0
    assert ii.first_step(-2.0, 1, 0.2, 0.1, 0.01) > 0


# --- steps that are too large -------------------------------------------------------------------


@pytest.mark.parametrize("N", DEPTHS)
def test_the_limit_is_stable_up_to_two_over_the_depth(N):
    values, diverged = ii.late_values(N, [1 / (2 * N), 1.9 / N, 2.1 / N], skip=5000)
    assert (diverged == -1).all()
    assert_allclose(values[:, :2], 1, atol=1e-9)
    assert np.abs(values[:, 2] - 1).min() > 1e-3
    assert_allclose(values[0, 2], values[2, 2], atol=1e-9)  # period two


def test_period_two_at_depth_two():
    kappa = np.array([1.05, 1.1, 1.2])
    values, _ = ii.late_values(2, kappa)
    assert_allclose(values[0] * values[1], 1 / kappa, rtol=1e-9)
    assert_allclose(values[0] ** 2 + values[1] ** 2, 1 + 1 / kappa, rtol=1e-9)
    # stable up to sqrt(5) - 1 and not beyond
    for kappa, stable in ((np.sqrt(5) - 1.001, True), (np.sqrt(5) - 0.999, False)):
        values, _ = ii.late_values(2, [kappa], skip=60_000, keep=3)
        assert (abs(values[2, 0] - values[0, 0]) < 1e-6) == stable


def test_at_twice_the_first_limit_depth_two_triples_an_angle():
    theta = 0.3
    path = ii.dynamics([1.0], 2, np.sqrt(2) * np.sin(theta), 2.0, 12).values[:, 0]
    assert_allclose(path, np.sqrt(2) * np.sin(3.0 ** np.arange(13) * theta), atol=1e-8)


def test_divergence_of_late_values_is_masked_and_dated():
    values, diverged = ii.late_values(2, [0.5, 2.5], skip=3, keep=60)
    assert diverged[0] == -1
    assert diverged[1] > 0
    with np.errstate(all="ignore"):
        x = loop([1.0], 2, 0.3, 2.5, 60)[:, 0]
    assert diverged[1] == np.argmin(np.isfinite(x))
    assert not values.mask[:, 0].any()
    assert values.mask[:, 1].all()


# --- matrices -----------------------------------------------------------------------------------


def test_the_source_s_examples_have_their_eigenvalues_but_for_one_entry():
    V = ii.example_eigenvectors()
    assert_allclose(V.T @ V, np.eye(4), atol=1e-15)
    assert_allclose(V * [10, 7, 5, -5] @ V.T, ii.first_example(), atol=1e-14)
    assert_allclose(V * [5, 3, -1, -5] @ V.T, ii.second_example(), atol=1e-14)
    difference = ii.first_example() - ii.first_example(printed=True)
    assert np.argwhere(difference).tolist() == [[3, 3]]
    assert difference[3, 3] == pytest.approx(37 / 3)
    assert np.linalg.eigvalsh(ii.first_example(printed=True))[0] == pytest.approx(-5.325, abs=1e-3)


def test_noisy_low_rank():
    truth, observed = ii.noisy_low_rank(40, [5, 2], 0.3, 0)
    assert_allclose(np.linalg.eigvalsh(truth)[-2:], [2, 5], rtol=1e-12)
    assert np.linalg.matrix_rank(truth, tol=1e-10) == 2
    assert_allclose(observed, observed.T)
    noise = np.concatenate(
        [np.linalg.eigvalsh(np.subtract(*ii.noisy_low_rank(100, [1], 0.3, s))) for s in range(9)]
    )
    assert noise.std() == pytest.approx(0.3, rel=0.05)
    assert np.abs(noise).max() < 2.6 * 0.3


@pytest.mark.ledger("identical-prop-rank")
@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(1e-3, 0.3))
def test_effective_rank_near_that_of_the_truncation(seed, rank, delta):
    rng = np.random.default_rng(seed)
    lam = np.sort(rng.uniform(0.5, 5, 6))[::-1]
    kept = np.where(np.arange(6) < rank, lam, 0)
    near = kept + rng.uniform(-delta, delta, 6)
    ours, theirs = (effective_rank(np.diag(x), "nuclear") for x in (near, kept))
    evidence.at_most(abs(ours - theirs), delta * (6 + theirs) / (lam[0] - delta) + 1e-12)


@pytest.mark.ledger("identical-prop-rank")
@pytest.mark.parametrize("N", [2, 3, 4])
def test_the_plateaus_of_the_effective_rank_grow_without_bound_as_the_scale_shrinks(N):
    rng = np.random.default_rng(N)
    for _ in range(8):
        lam = np.cumsum(rng.uniform(0.3, 1.5, 5))[::-1]
        delta, L = 0.05, int(rng.integers(1, 5))
        lengths = []
        for alpha in (0.1, 0.02, 0.003):
            first = ii.flow_time(lam[L - 1], N, alpha, (lam[L - 1] - delta) ** (1 / N))
            last = ii.flow_time(lam[L], N, alpha, delta ** (1 / N))
            lengths.append(last - first)
            if last > first:
                kept = np.where(np.arange(5) < L, lam, 0)
                theirs = effective_rank(np.diag(kept), "nuclear")
                times = np.linspace(first, last, 7)[:, None]
                for now in ii.flow_solution(lam, N, alpha, times) ** N:
                    ours = effective_rank(np.diag(now), "nuclear")
                    bound = delta * (5 + theirs) / (lam[0] - delta)
                    evidence.at_most(abs(ours - theirs), bound, slack=1e-9)
        assert (np.diff(lengths) > 0).all()
        # each further factor of ten of the scale adds at least what the escape times differ by
        gap = ii.escape_time(lam[L], N, 1e-3) - ii.escape_time(lam[L], N, 1e-2)
        gap *= 1 - lam[L] / lam[L - 1]
        longer = [
            ii.flow_time(lam[L], N, a, delta ** (1 / N))
            - ii.flow_time(lam[L - 1], N, a, (lam[L - 1] - delta) ** (1 / N))
            for a in (1e-2, 1e-3)
        ]
        evidence.agree((longer[1] - longer[0]) / gap, 1, atol=0.05)


def test_effective_rank_of_the_dynamics():
    path = ii.dynamics([4.0, 2.0, -1.0], 3, 0.3, 0.01, 500, record=100)
    expected = [effective_rank(np.diag(row), "nuclear") for row in path.eigenvalues]
    assert_allclose(path.effective_rank("nuclear"), expected)


# --- what is refused ----------------------------------------------------------------------------

NOT_POSITIVE = [0, -1.0, np.nan, np.inf, "1", None, 1j, True]
NOT_A_COUNT = [-1, 1.5, "2", None, True]
NOT_NUMBERS = [np.nan, np.inf, "1", None, 1j, [[1.0], [2.0, 3.0]], []]
NOT_POSITIVE_NUMBERS = [*NOT_NUMBERS, 0, -1.0, [1.0, -1.0]]

RUN = {"eigenvalues": [1.0, -1.0], "depth": 3, "scale": 0.5, "step_size": 0.01, "steps": 5}
STEPS = {"eigenvalue": 1.0, "depth": 3, "scale": 0.5, "step_size": 0.01, "accuracy": 0.1}
WAY = {"eigenvalue": 1.0, "depth": 3, "start": 0.5, "end": 0.6}


def cases(function, good, /, **bad):
    for name, values in bad.items():
        for value in values:
            yield function, {**good, name: value}, name


CASES = [
    *cases(
        ii.dynamics, RUN,
        eigenvalues=[*NOT_NUMBERS, 1.0, [[1.0]]], depth=[0, *NOT_A_COUNT], scale=NOT_POSITIVE,
        step_size=NOT_POSITIVE, steps=NOT_A_COUNT, record=[0, -1, 1.5, None, "1", [-1], [0.5], []],
    ),
    *cases(ii.dynamics, {**RUN, "strict": True}, step_size=[0.2, 1 / 7]),
    *cases(
        ii.max_step_size, {"eigenvalues": [1.0], "depth": 2, "scale": 1},
        eigenvalues=[*NOT_NUMBERS, 1.0], depth=[0, *NOT_A_COUNT], scale=NOT_POSITIVE,
    ),
    *cases(
        ii.flow_time, WAY,
        eigenvalue=NOT_NUMBERS, depth=[0, 1, *NOT_A_COUNT], start=NOT_POSITIVE_NUMBERS,
        end=[*NOT_POSITIVE_NUMBERS, 0.4, 1.0, 1.1],
    ),
    *cases(ii.flow_time, {**WAY, "eigenvalue": -1.0, "start": 0.5}, end=[0.6]),
    *cases(
        ii.flow_solution, {"eigenvalue": 1.0, "depth": 3, "scale": 0.5, "t": 1.0},
        eigenvalue=NOT_NUMBERS, depth=[0, *NOT_A_COUNT], scale=NOT_POSITIVE_NUMBERS,
        t=[*NOT_NUMBERS, -1.0],
    ),
    *cases(
        ii.escape_time, {"eigenvalue": 1.0, "depth": 3, "scale": 0.5},
        eigenvalue=NOT_POSITIVE_NUMBERS, depth=[0, 1, *NOT_A_COUNT],
        scale=[*NOT_POSITIVE_NUMBERS, 1.0, 2.0],
    ),
    *(
        case
        for function in (ii.iteration_bound, ii.clock_bounds)
        for case in cases(
            function, STEPS,
            eigenvalue=NOT_NUMBERS, depth=[0, 1, *NOT_A_COUNT], scale=NOT_POSITIVE_NUMBERS,
            step_size=[*NOT_POSITIVE_NUMBERS, 1 / 6, 1.0], accuracy=[*NOT_POSITIVE_NUMBERS, 0.5],
        )
    ),
    *cases(
        ii.first_step, STEPS,
        eigenvalue=NOT_NUMBERS, depth=[0, *NOT_A_COUNT], scale=NOT_POSITIVE_NUMBERS,
        step_size=NOT_POSITIVE_NUMBERS, accuracy=NOT_POSITIVE_NUMBERS, max_steps=NOT_A_COUNT,
    ),
    *cases(
        ii.random_instances, {"depth": 3, "count": 2},
        depth=[0, 1, *NOT_A_COUNT], count=[0, *NOT_A_COUNT], rng=["seed", -1],
    ),
    *cases(
        ii.late_values, {"depth": 3, "relative_steps": [0.5]},
        depth=[0, 1, *NOT_A_COUNT], relative_steps=[*NOT_POSITIVE_NUMBERS, 0.5],
        scale=NOT_POSITIVE, skip=NOT_A_COUNT, keep=[0, *NOT_A_COUNT],
    ),
    *cases(
        ii.noisy_low_rank, {"n": 4, "values": [1.0], "noise": 0.1},
        n=[0, *NOT_A_COUNT], values=[*NOT_POSITIVE_NUMBERS, 1.0], noise=[-1.0, np.nan, None],
        rng=["seed", -1],
    ),
    *cases(
        ii.dynamics([1.0], 2, 0.5, 0.1, 1).effective_rank, {}, kind=["unknown", None]
    ),
]  # fmt: skip


@pytest.mark.parametrize(("function", "arguments", "name"), CASES)
def test_bad_input_is_named(function, arguments, name):
    with pytest.raises(ValueError, match=rf"^{name}[ =\[].*must (be|have)"):
        function(**arguments)


def test_the_message_of_a_large_step_holds_the_limit():
    limit = ii.max_step_size([2.0, -3.0], 3, 0.5)
    with pytest.raises(ValueError, match=f"step_size must be < {limit:.6g}"):
        ii.dynamics([2.0, -3.0], 3, 0.5, 0.2, 10, strict=True)
    with pytest.raises(ValueError, match=f"step_size must be < {limit:.6g}"):
        ii.iteration_bound(-3.0, 3, 0.5, 0.2, 0.1)
