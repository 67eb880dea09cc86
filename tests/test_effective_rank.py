"""Inequalities attacked on random instances, sharp constants attained, plateaus measured."""

import math
from decimal import Decimal, localcontext

import evidence
import matplotlib.cbook
import numpy as np
import PIL.Image
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import quad, solve_ivp

from dmflib import effective_rank as er
from dmflib.descent import MaxSteps, RankPlateaus, gradient_descent
from dmflib.linear_networks import identical, product_velocity
from dmflib.losses import Completion, FullObservation
from dmflib.matrices import distance_to_rank, effective_rank, effective_rank_of_spectrum

KINDS = ("stable", "nuclear", "entropy")
spectra = st.lists(
    st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-9, 1), st.floats(1e-3, 1)),
    min_size=1,
    max_size=9,
).filter(any)


# --- three ranks --------------------------------------------------------------------------------


@pytest.mark.ledger("thm-effective-rank-chain")
@settings(deadline=None)
@given(spectra)
@example([1.0])
@example([1.0, 1.0, 0.0])
@example([1.0, 1e-300])
def test_each_rank_is_at_most_the_next(sigma):
    chain = er.rank_chain(sigma)
    assert chain[0] >= 1 - 1e-15
    evidence.at_most(1.0, chain[0], slack=1e-15)
    evidence.at_most(chain[:-1], chain[1:], slack=1e-12)


@pytest.mark.ledger("thm-effective-rank-chain")
@settings(deadline=None)
@given(st.integers(1, 8), st.integers(0, 5), st.floats(1e-3, 1e3))
def test_equal_values_make_all_ranks_equal(count, zeros, size):
    chain = er.rank_chain([size] * count + [0.0] * zeros)
    evidence.agree(chain, count, rtol=1e-13)


@pytest.mark.ledger("thm-effective-rank-chain")
@settings(deadline=None)
@given(spectra)
def test_unequal_values_separate_all_ranks(sigma):
    positive = [s for s in sigma if s > 0]
    assume(min(positive) < 0.9 * max(positive))
    # the four differences are strict; near 1 they are as small as the smallest value squared
    assume(min(positive) > 1e-3)
    evidence.holds(np.diff(er.rank_chain(sigma)) > 1e-9)


@settings(deadline=None)
@given(spectra)
def test_chain_agrees_with_renyi_entropies(sigma):
    # nuclear, participation, entropy and rank are exp(H_q) for q = infinity, 2, 1, 0
    rho = np.array([s for s in sigma if s > 0]) / sum(sigma)

    def renyi(q):
        return (rho**q).sum() ** (1 / (1 - q))

    _, nuclear, participation, entropy, rank = er.rank_chain(sigma)
    assert_allclose(nuclear, 1 / rho.max(), rtol=1e-12)
    assert_allclose(participation, renyi(2), rtol=1e-12)
    assert_allclose(entropy, np.sqrt(renyi(1 + 1e-5) * renyi(1 - 1e-5)), rtol=1e-6)
    assert rank == len(rho)


@pytest.mark.parametrize("count", [1, 4, 100, 10_000])
def test_ranks_disagree_without_bound(count):
    chain = er.rank_chain(er.disagreeing_spectrum(count))
    assert_allclose(chain[[0, 1, 3, 4]], [1 + 1 / count, 2, 2 * np.sqrt(count), count + 1])


def test_shaped_spectra():
    sigma = er.shaped_spectrum(6, 1.0, gap=10, after=2, floor=0.02)
    assert_allclose(sigma, [1, 1 / 2, 1 / 30, 1 / 40, 0.02, 0.02])
    assert_allclose(er.rank_chain(er.shaped_spectrum(7, 0.0)), 7)
    assert_allclose(er.shaped_spectrum(3, 2.0, gap=5, after=9), [1, 1 / 4, 1 / 9])


@pytest.mark.ledger("thm-effective-rank-truncation")
@settings(deadline=None)
@given(spectra, st.integers(1, 9), st.floats(0, 0.95), st.integers(0, 2**32 - 1))
def test_truncation_gap_bounds_every_matrix_near_a_truncation(sigma, rank, share, seed):
    sigma = np.sort(sigma)[::-1]
    rank = min(rank, len(sigma))
    delta = share * sigma[0]
    rng = np.random.default_rng(seed)
    kept = np.where(np.arange(len(sigma)) < rank, sigma, 0.0)
    # corners of the box of all allowed spectra, and points inside it, in the order of the box
    signs = rng.choice([-1.0, 1.0], (50, len(sigma))) * rng.choice([1.0, rng.uniform()], (50, 1))
    near = np.abs(kept + delta * signs)
    near[:, :rank] = np.maximum(kept + delta * signs, 0)[:, :rank]
    found = np.abs(effective_rank_of_spectrum(near, "nuclear") - kept.sum() / kept[0])
    evidence.at_most(found, er.truncation_gap(sigma, rank, delta) + 1e-12, slack=1e-9)


@pytest.mark.ledger("thm-effective-rank-truncation")
@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.floats(0.01, 0.3), st.integers(0, 2**32 - 1))
def test_truncation_gap_is_attained(size, rank, share, seed):
    sigma = np.sort(np.random.default_rng(seed).uniform(0.01, 0.3, size))[::-1]
    sigma[0], rank = 1.0, min(rank, size)
    near = np.where(np.arange(size) < rank, sigma, 0.0) + share
    near[0] = 1 - share
    kept = sigma[:rank].sum()
    change = effective_rank_of_spectrum(near, "nuclear") - kept
    gap = share * (size + kept - 2) / (1 - share)
    evidence.agree(change, gap, rtol=1e-9, atol=1e-13)
    evidence.agree(er.truncation_gap(sigma, rank, share), gap, rtol=1e-9, atol=1e-13)


def test_truncation_gap_holds_for_perturbed_matrices():
    # Weyl: singular values move by at most the spectral norm of the perturbation.
    rng = np.random.default_rng(0)
    worst = 0
    for _ in range(300):
        m, n, rank = rng.integers(1, 7, 3)
        A = rng.standard_normal((m, n))
        rank = min(rank, m, n)
        kept = er.truncated(A, rank)
        E = rng.standard_normal((m, n))
        size = np.linalg.norm(kept, 2)
        E *= rng.uniform(0, 0.9) * size / np.linalg.norm(E, 2)
        change = abs(effective_rank(kept + E, "nuclear") - effective_rank(kept, "nuclear"))
        sigma = np.linalg.svd(kept, compute_uv=False)
        bound = er.truncation_gap(sigma, rank, np.linalg.norm(E, 2))
        assert change <= bound + 1e-10
        worst = max(worst, change / bound) if bound > 1e-12 else worst
    assert worst > 0.2  # the bound is of the right size


def test_three_orders_of_a_small_singular_value():
    delta = np.array([1e-3, 1e-4, 1e-5])
    sigma = np.stack([np.ones(3), delta], axis=-1)
    excess = [effective_rank_of_spectrum(sigma, kind) - 1 for kind in KINDS]
    assert_allclose(excess[0], delta**2, rtol=1e-5)
    assert_allclose(excess[1], delta, rtol=1e-9)
    assert_allclose(excess[2], delta * np.log(np.e / delta), rtol=0.01)


# --- a small loss and a positive determinant ----------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4), st.floats(1e-3, 1e3))
@example([0.0, 1e-170, 1e-170, 0.0], 1.0)
@example([1e300, 0.0, 1e300, 1e300], 1.0)
def test_two_by_two_spectrum_agrees_with_the_usual_one(entries, size):
    W = size * np.array(entries).reshape(2, 2)
    expected = np.linalg.svd(W, compute_uv=False)
    assert_allclose(er.two_by_two_spectrum(W), expected, atol=1e-7 * (expected[0] + 1e-200))


def test_small_singular_values_keep_their_digits():
    W = np.array([[1e9, 1.0], [1.0, 3e-9]])
    with localcontext(prec=60):
        a, b, c, d = (Decimal(float(x)) for x in W.flat)
        trace, det = a * a + b * b + c * c + d * d, a * d - b * c
        large = (trace / 2 + ((trace / 2) ** 2 - det * det).sqrt()).sqrt()
        expected = [float(large), float(abs(det) / large)]
    assert_allclose(er.two_by_two_spectrum(W), expected, rtol=1e-12)
    assert_allclose(er.two_by_two_spectrum(np.zeros((2, 2))), 0)


def test_loss_is_that_of_the_completion_problem():
    loss = Completion([[0.0, 1.0], [1.0, 0.0]], [[False, True], [True, True]])
    for W in np.random.default_rng(1).standard_normal((20, 2, 2)):
        assert er.completion_loss(W) == pytest.approx(loss.value(W), rel=1e-13)


@pytest.mark.ledger("thm-effective-rank-sharp")
@settings(max_examples=500, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=4, max_size=4))
@example([0.0, 0.0, 0.0, 0.0])
@example([1.0, 0.0, 0.0, 1.0])
def test_determinant_is_at_most_half_loss_times_square(entries):
    W = np.array(entries).reshape(2, 2)
    evidence.at_most(2 * er.determinant(W), er.completion_loss(W) * (W**2).sum() + 1e-12)


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3))
def test_sum_of_squares_in_the_proof(x, b, c, d):
    loss = er.completion_loss([[x, b], [c, d]])
    m, n = (b + c) / 2, (b - c) / 2
    left = loss**2 * (b**2 + c**2 + d**2) + 2 * loss * b * c - d**2
    right = 2 * (1 - loss) * n**2 + 2 * (1 + loss) * (m - (1 - loss)) ** 2
    assert left == pytest.approx(right, abs=1e-9 * (1 + loss**3))


@pytest.fixture(scope="module")
def completions():
    """Loss and singular values of many matrices of positive determinant."""
    W = er.random_completions(300_000, 0)
    assert len(W) > 150_000
    assert (er.determinant(W) > 0).all()
    return er.completion_loss(W), er.two_by_two_spectrum(W)


@pytest.mark.ledger("thm-effective-rank-distance")
def test_distance_bound_holds_and_is_nearly_reached(completions):
    loss, sigma = completions
    evidence.at_most(sigma[:, 1], np.sqrt(2 * loss))
    distance = sigma[:, 1] / er.infimal_distance_bound(loss)
    assert 1 - 1e-4 < distance.max() <= 1


@pytest.mark.ledger("cor-effective-rank-ranks")
def test_largest_ranks_hold_and_are_nearly_reached(completions):
    loss, sigma = completions
    evidence.at_most(sigma[:, 1] / sigma[:, 0], er.ratio_bound(loss), slack=1e-9)
    assert (sigma[:, 1] / sigma[:, 0] / er.ratio_bound(loss)).max() > 1 - 1e-6
    below = loss < 1
    participation = sigma[below].sum(axis=1) ** 2 / (sigma[below] ** 2).sum(axis=1)
    evidence.at_most(participation, 1 + loss[below], slack=1e-12)
    for kind in KINDS:
        excess = effective_rank_of_spectrum(sigma, kind) - 1
        seen = loss > 1e-5  # below, the stable rank minus 1 has few digits
        evidence.at_most(excess[seen], (er.rank_bound(loss, kind) - 1)[seen], slack=1e-4)
        share = excess / (er.rank_bound(loss, kind) - 1)
        assert share[seen].max() > 1 - 1e-5
        assert effective_rank_of_spectrum(sigma, "nuclear").max() <= 2 + 1e-12


@pytest.mark.ledger("thm-effective-rank-repaired")
def test_repaired_inequality_holds(completions):
    loss, sigma = completions
    excess = effective_rank_of_spectrum(sigma, "entropy") - 1
    evidence.at_most(excess, 4 * np.sqrt(2 * loss))


@pytest.mark.ledger("thm-effective-rank-one")
def test_inequality_holds_with_the_constant_one(completions):
    loss, sigma = completions
    for kind in KINDS:
        evidence.at_most(effective_rank_of_spectrum(sigma, kind) - 1, np.sqrt(loss))


@pytest.mark.ledger("prop-effective-rank-irank")
@settings(deadline=None)
@given(st.floats(-1e3, 1e3))
@example(0.0)
def test_solutions_have_infimal_rank_one_and_no_less(entry):
    W = np.array([[entry, 1.0], [1.0, 0.0]])
    with localcontext(prec=60):  # the root of the smaller eigenvalue of W^T W
        x = abs(Decimal(entry))
        half = (x * x + 2) / 2
        distance = float((1 / (half + (half * half - 1).sqrt())).sqrt())
    evidence.agree(2 / (abs(entry) + math.hypot(entry, 2)), distance, rtol=1e-13)
    evidence.agree(er.two_by_two_spectrum(W)[1], distance, rtol=1e-12)
    evidence.agree(distance_to_rank(W, 1), distance, atol=1e-12 * (1 + abs(entry)))
    if entry:
        evidence.at_most(distance * abs(entry), 1.0)
    for kind in KINDS:
        assert effective_rank_of_spectrum(er.two_by_two_spectrum(W), kind) > 1
    far = er.two_by_two_spectrum([[1e9, 1.0], [1.0, 0.0]])
    ranks = np.array([effective_rank_of_spectrum(far, kind) for kind in KINDS])
    evidence.agree(ranks, 1.0, atol=1e-8)


@pytest.mark.ledger("thm-effective-rank-sharp", "cor-effective-rank-ranks")
@settings(deadline=None)
@given(st.floats(1e-8, 1 - 1e-8))
def test_extremal_completion_attains_every_bound(loss):
    W = er.extremal_completion(loss)
    evidence.agree(er.completion_loss(W), loss, rtol=1e-7)
    evidence.agree(2 * er.determinant(W), loss * (W**2).sum(), rtol=1e-9)
    large, small = er.two_by_two_spectrum(W)
    evidence.agree(small / large, er.ratio_bound(loss), rtol=1e-6)
    # (sum of singular values)^2 = (1 + loss) * (sum of squares)
    assert (large + small) ** 2 == pytest.approx((1 + loss) * (W**2).sum(), rel=1e-9)


@pytest.mark.parametrize("loss", [1e-3, 0.05, 0.4, 0.8, 0.97])
def test_no_other_matrix_does_better_by_a_general_optimiser(loss):
    from scipy.optimize import minimize

    def spectrum(z):
        # errors on the sphere of this loss, the first entry free
        error = np.array(z[:3]) / np.linalg.norm(z[:3]) * np.sqrt(2 * loss)
        return np.array([[np.sinh(z[3]), 1 + error[0]], [1 + error[1], error[2]]])

    def negative(z):
        W = spectrum(z)
        return -2 * er.determinant(W) / (loss * (W**2).sum())

    rng = np.random.default_rng(0)
    best = max(-minimize(negative, 3 * rng.standard_normal(4)).fun for _ in range(12))
    assert best == pytest.approx(1, rel=1e-6)


@pytest.mark.ledger("thm-effective-rank-one")
def test_entropy_bound_is_below_one_plus_root():
    loss = np.concatenate([np.geomspace(1e-12, 1, 20_001), 1 - np.geomspace(1e-8, 0.5, 2001)])
    share = (er.rank_bound(loss) - 1) / np.sqrt(loss)
    evidence.at_most(er.rank_bound(loss) - 1, np.sqrt(loss), slack=1e-12)
    assert share.max() > 1 - 1e-9
    assert_allclose(er.rank_bound([1.0, 3.0, 1e9]), 2)
    with localcontext(prec=50):  # near the end of the interval, where the two sides touch
        for gap in ("1e-3", "1e-6", "1e-9"):
            x = 1 - Decimal(gap)
            q = (1 - (1 - x**2).sqrt()) / x
            rho = q / (1 + q)
            h = -rho * rho.ln() - (1 - rho) * (1 - rho).ln()
            assert h.exp() < 1 + x.sqrt()


def test_polynomial_of_the_sharp_constant():
    # tau - R(s) has the derivative's sign of (s - 1)(2s^5 + 3s^4 + 2s^3 + 4s^2 - 1)
    s = np.linspace(0.02, 0.98, 49)

    def difference(s):
        R = np.sqrt(1 - s**4) * (1 + s**2) / (2 * s * (1 + s))
        return np.arccosh(1 / s**2) / 2 - R

    slope = (difference(s + 1e-6) - difference(s - 1e-6)) / 2e-6
    polynomial = (s - 1) * (2 * s**5 + 3 * s**4 + 2 * s**3 + 4 * s**2 - 1)
    assert_allclose(slope, polynomial / (2 * s**2 * (1 + s) * np.sqrt(1 - s**4)), rtol=1e-6)
    roots = np.roots([2, 3, 2, 4, 0, -1])
    assert ((np.abs(roots.imag) < 1e-12) & (roots.real > 0)).sum() == 1


def test_small_losses():
    loss = np.array([1e-4, 1e-6, 1e-8])
    assert_allclose(er.rank_bound(loss, "nuclear") - 1, loss / 2, rtol=1e-6)
    assert_allclose(er.rank_bound(loss[:2], "stable") - 1, loss[:2] ** 2 / 4, rtol=1e-3)
    assert_allclose(er.rank_bound(loss) - 1, loss / 2 * np.log(2 * np.e / loss), rtol=1e-3)
    assert er.rank_bound(0.0) == er.rank_bound(0.0, "stable") == 1
    assert er.infimal_distance_bound(0.0) == er.ratio_bound(0.0) == 0


@pytest.mark.ledger("lem-effective-rank-entropy")
@settings(deadline=None)
@given(st.floats(0, 1))
def test_binary_entropy(rho):
    with localcontext(prec=400):  # so that 1 - p keeps every digit of a tiny p
        p = Decimal(rho)
        terms = [-x * x.ln() if x else Decimal(0) for x in (p, 1 - p)]
    assert er.binary_entropy(rho) == pytest.approx(float(sum(terms)), rel=1e-12, abs=1e-300)
    evidence.at_most(er.binary_entropy(rho), 2 * np.log(2) * np.sqrt(rho * (1 - rho)) + 1e-15)
    if 0 < rho < 1:  # the inequality of source C fails everywhere
        assert er.binary_entropy(rho) > (1 - rho) * rho


def test_segment_argument_in_any_size():
    # If correcting the observed entries makes the determinant non-positive, the least singular
    # value is at most the root of twice the loss.
    rng, worst, used = np.random.default_rng(2), 0, 0
    for _ in range(3000):
        n = rng.integers(2, 5)
        W, B = rng.standard_normal((2, n, n))
        mask = rng.random((n, n)) < 0.6
        if np.linalg.det(W) > 0 >= np.linalg.det(np.where(mask, B, W)):
            error = np.linalg.norm(np.where(mask, W - B, 0))
            worst, used = max(worst, distance_to_rank(W, n - 1) / error), used + 1
    assert used > 500
    assert 0.5 < worst <= 1


@pytest.mark.parametrize("depth", [3, 4])
def test_bounds_hold_along_a_flow(depth):
    loss = Completion([[0.0, 1.0], [1.0, 0.0]], [[False, True], [True, True]])
    W0 = np.array([[0.5, 0.1], [-0.1, 0.4]])
    flow = solve_ivp(
        lambda t, w: product_velocity(
            w.reshape(2, 2), loss.gradient(w.reshape(2, 2)), depth
        ).ravel(),
        (0, 100),
        W0.ravel(),
        rtol=1e-8,
        atol=1e-10,
    )
    W = flow.y.T.reshape(-1, 2, 2)
    values, sigma = er.completion_loss(W), er.two_by_two_spectrum(W)
    assert values[-1] < 0.01
    assert (er.determinant(W) > 0).all()
    assert (sigma[:, 1] <= er.infimal_distance_bound(values)).all()
    for kind in KINDS:
        assert (effective_rank_of_spectrum(sigma, kind) <= er.rank_bound(values, kind)).all()


# --- plateaus -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.floats(0.1, 20), st.integers(1, 6), st.floats(1e-6, 0.9), st.floats(0, 0.999))
def test_rise_time_agrees_with_quadrature(lam, depth, first, second):
    start = lam * first
    end = start + (lam - start) * second

    def slowness(growth):
        x = start * math.exp(growth)
        return x / (depth * x ** (2 - 2 / depth) * (lam - x))

    way = math.log1p((end - start) / start)
    expected = quad(slowness, 0, way, epsabs=0, epsrel=1e-11, limit=400)
    assert er.rise_time(lam, depth, start, end) == pytest.approx(expected[0], rel=1e-9)


def test_rise_time_has_the_known_closed_forms():
    start, end, lam = 1e-9, 2.5, 3.0
    logs = math.log(end * (lam - start) / (start * (lam - end)))
    assert er.rise_time(lam, 2, start, end) == pytest.approx(logs / (2 * lam), rel=1e-13)
    decay = math.log((lam - start) / (lam - end))
    assert er.rise_time(lam, 1, start, end) == pytest.approx(decay, rel=1e-13)
    # far below the target: a pure power
    power = (1e-12 ** (-1 / 3) - 1e-9 ** (-1 / 3)) / lam
    assert er.rise_time(lam, 3, 1e-12, 1e-9) == pytest.approx(power, rel=1e-6)
    assert er.rise_time(lam, 4, 0.1, 0.1) == 0


def test_eigenvalue_path_is_gradient_descent_on_matrices():
    lam = np.array([4.0, 1.5, -2.0, 0.0])
    V = np.linalg.qr(np.random.default_rng(3).standard_normal((4, 4)))[0]
    steps = [0, 1, 7, 400]
    run = gradient_descent(
        FullObservation(V * lam @ V.T), identical(4, 3, 0.3), 0.01, MaxSteps(400), record=steps
    )
    diagonal = np.einsum("ij,tik,kl->tjl", V, run.products, V)
    path = er.eigenvalue_path(lam, 3, 0.3, 0.01, steps)
    assert_allclose(diagonal, path[:, :, None] * np.eye(4), atol=1e-11)


def test_divergence_is_named_with_its_step():
    with pytest.raises(ValueError, match=r"step_size=.*diverges at step"):
        er.eigenvalue_path([4.0], 3, 0.5, 3.0, [0, 100])


@st.composite
def targets(draw):
    """Depth, scale, tolerance and eigenvalues with negative ones among them."""
    depth = draw(st.integers(2, 4))
    scale = draw(st.floats(0.02, 0.4))
    tolerance = scale**depth * draw(st.floats(1.2, 20))
    small = st.floats(-2, 0.9 * tolerance)
    large = st.floats(1.1 * tolerance, 5)
    lam = draw(st.lists(st.one_of(small, large, large), min_size=2, max_size=5))
    assume(max(lam) > 1.1 * tolerance)
    assume(all(abs(x - tolerance) > 0.05 * tolerance for x in lam))
    return depth, scale, tolerance, np.sort(lam)[::-1]


@settings(max_examples=60, deadline=None)
@given(targets(), st.integers(1, 5), st.floats(0.2, 1))
def test_certain_steps_lie_on_the_plateau(target, rank, share):
    depth, scale, delta, lam = target
    rank = min(rank, int((lam > delta).sum()))
    falling = scale ** (depth - 2) * (scale**depth - lam[-1])
    eta = share / max(depth * lam[0] ** (2 - 2 / depth), falling)
    first, last = er.descent_plateau(lam, depth, scale, eta, rank, delta)
    end = min(last, first + 300)
    assume(first <= end < 3000)
    path = er.eigenvalue_path(lam, depth, scale, eta, np.arange(first, end + 1))
    assert (np.abs(path[:, :rank] - lam[:rank]) <= delta * (1 + 1e-9)).all()
    assert (np.abs(path[:, rank:]) <= delta * (1 + 1e-9)).all()
    kept = lam[:rank].sum() / lam[0]
    found = effective_rank_of_spectrum(path, "nuclear")
    sigma = np.append(lam[:rank], np.zeros(len(lam) - rank))
    assert np.abs(found - kept).max() <= er.truncation_gap(sigma, rank, delta) * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(targets(), st.integers(1, 5))
@example((2, 0.25, 0.125, np.array([1.0, 1.0, 0.1875])), 1)  # escapes above its inflection
def test_plateau_of_small_steps_is_that_of_the_flow(target, rank):
    depth, scale, delta, lam = target
    rank = min(rank, int((lam > delta).sum()))
    start, end = er.plateau_interval(lam, depth, scale, rank, delta)
    eta = 1e-4 / lam[0] ** (2 - 2 / depth)
    first, last = er.descent_plateau(lam, depth, scale, eta, rank, delta)
    assert first * eta == pytest.approx(start, rel=1e-3, abs=2 * eta)
    if np.isfinite(end):
        assert last * eta == pytest.approx(end, rel=1e-3, abs=2 * eta)
    assert math.isinf(last) == math.isinf(end)


@pytest.mark.ledger("thm-effective-rank-plateau")
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(8))
def test_nuclear_rank_rests_on_the_plateau_of_the_flow(seed, depth):
    """Eigenvalues by a solver, in their logarithms; the ends of the interval by the module."""
    rng = np.random.default_rng(seed)
    lam = np.sort(rng.uniform(0.5, 5, 5))[::-1] * [1, 1, 1, 1, -0.3]
    scale, delta = (1e-4, 1e-3, 1e-2, 0.05)[depth - 1] ** (1 / depth), rng.uniform(0.2, 0.3)
    if depth == 1:  # every eigenvalue starts to move at once: only the last plateau is there
        scale = 1e-4
    for rank in range(1, 5):
        start, end = er.plateau_interval(lam, depth, scale, rank, delta)
        if not start < end:
            continue
        end = min(end, 3 * start)
        times = np.linspace(start, end, 30)
        values = np.array(
            [
                solve_ivp(
                    lambda t, z, x=x: depth * np.exp(z * (1 - 2 / depth)) * (x - np.exp(z)),
                    (0, end), [depth * np.log(scale)], "LSODA", times, rtol=1e-10, atol=1e-12,
                ).y[0]
                for x in lam[:4]
            ]
        )  # fmt: skip
        spectrum = np.vstack([np.exp(values), np.zeros(30)])  # the negative one has gone
        kept = lam[:rank].sum() / lam[0]
        found = np.abs(effective_rank_of_spectrum(spectrum.T, "nuclear") - kept)
        bound = delta * (5 + kept - 2) / (lam[0] - delta)
        evidence.at_most(found, bound)


@pytest.mark.ledger("thm-effective-rank-plateau")
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("seed", range(10))
def test_ratio_of_the_ends_of_a_plateau_in_the_limit(seed, depth):
    """Increments of the two ends have the ratio sooner than the ends (Stolz and Cesaro)."""
    rng = np.random.default_rng(seed)
    lam = np.cumprod(np.append(5.0, rng.uniform(0.5, 0.85, 3)))
    scales = np.array([1e-60, 1e-65]) ** (1 / (depth - 1))
    for rank in (1, 2, 3):
        ends = np.array([er.plateau_interval(lam, depth, a, rank, 0.1) for a in scales])
        evidence.holds(ends[:, 0] < ends[:, 1])
        growth = np.diff(ends, axis=0)[0]
        evidence.agree(growth[1] / growth[0], lam[rank - 1] / lam[rank], rtol=1e-6)


@pytest.mark.ledger("prop-effective-rank-descent")
@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("seed", range(30))
def test_steps_to_a_level_lie_between_the_two_bounds(seed, depth):
    rng = np.random.default_rng(seed)
    top = rng.uniform(0.5, 5)
    lam = top * rng.uniform(0.3, 1)
    eta = 10 ** rng.uniform(-2, 0) / (depth * top ** (2 - 2 / depth))
    d = (rng.uniform(0.02, 0.3) * lam) ** (1 / depth)
    scale, level = d, lam * rng.uniform(0.5, 0.95) ** rng.integers(1, 3)
    assert level > d**depth
    time = er.rise_time(lam, depth, d**depth, level)
    slow = math.ceil((1 + eta * (depth - 1) * lam ** (2 - 2 / depth)) * time / eta)
    fast = (1 - eta * depth * lam ** (2 - 2 / depth)) * time / eta
    if level <= (depth - 1) / (2 * depth - 1) * lam:
        fast = time / eta
    path = [scale**depth]
    while path[-1] < level or len(path) <= slow:
        d += eta * d ** (depth - 1) * (lam - d**depth)
        path.append(d**depth)
    path = np.array(path)
    evidence.holds(np.diff(path) >= 0)
    evidence.at_most(path, lam, slack=1e-12)
    evidence.at_most(np.argmax(path >= level * (1 - 1e-12)), slow)
    evidence.at_most(fast, np.argmax(path > level * (1 - 1e-12)), slack=1e-9)


def test_escape_and_recovery_happen_at_the_predicted_steps():
    lam, depth, scale, delta = [12.0, 5.0, 2.0, 0.6, 0.0], 3, 0.1, 0.05
    eta = 0.02 / (depth * lam[0] ** (4 / 3))
    for rank in (1, 2, 3):
        start, end = np.array(er.plateau_interval(lam, depth, scale, rank, delta)) / eta
        steps = np.arange(int(0.9 * start), int(1.1 * end))
        path = er.eigenvalue_path(lam, depth, scale, eta, steps)
        on = (np.abs(path[:, :rank] - lam[:rank]) <= delta).all(axis=1)
        on &= (path[:, rank:] <= delta).all(axis=1)
        assert np.diff(on.astype(int)).sum() == 0  # one stretch, neither at the first nor last step
        assert steps[on][0] == pytest.approx(start, rel=0.02)
        assert steps[on][-1] == pytest.approx(end, rel=0.02)


def test_stopping_on_a_plateau_gives_the_truncation_of_noisy_data():
    clean, noisy = er.noisy_target(30, [12.0, 5.0, 2.0], 0.05, 1)
    eta = 0.2 / (3 * 12 ** (4 / 3))
    for rank in (1, 2, 3):
        rule = RankPlateaus(rank, length=200, every=5) | MaxSteps(4000)
        run = gradient_descent(
            FullObservation(noisy), identical(30, 3, 0.1), eta, rule, record=4000
        )
        assert isinstance(run.stopped_by, RankPlateaus)
        error, best = (
            np.linalg.norm(A - clean) for A in (run.products[-1], er.truncated(noisy, rank))
        )
        assert error == pytest.approx(best, rel=0.02)
    everything = np.linalg.norm(noisy - clean)
    assert error < 0.6 * everything


def test_longest_plateau_is_between_start_and_end():
    times = np.arange(1, 1001)
    ranks = np.interp(
        np.log(times), np.log([1, 10, 20, 200, 220, 400, 1000]), [5, 5, 1, 1, 2, 2, 3]
    )
    first, last = er.longest_plateau(times, ranks, tolerance=1e-9)
    assert (times[first], times[last]) == (20, 200)
    assert np.ptp(ranks[first : last + 1]) <= 1e-9
    with pytest.raises(ValueError, match="some stretch rests"):
        er.longest_plateau(times, np.ones(1000))
    with pytest.raises(ValueError, match="some stretch rests"):
        er.longest_plateau(times, np.arange(1000.0))


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=25))
def test_longest_plateau_agrees_with_a_search_over_all_stretches(ranks):
    times, n = np.arange(1.0, len(ranks) + 1), len(ranks)
    head = next((i for i in range(n) if np.ptp(ranks[: i + 1]) > 0.1), n)
    tail = next((i for i in range(n) if np.ptp(ranks[i:]) <= 0.1), n)
    stretches = [
        (math.log(times[j] / times[i]), i, j)
        for i in range(head, n)
        for j in range(i + 1, tail)
        if np.ptp(ranks[i : j + 1]) <= 0.1
    ]
    if not stretches:
        with pytest.raises(ValueError, match="ranks"):
            er.longest_plateau(times, ranks, 0.1)
        return
    first, last = er.longest_plateau(times, ranks, 0.1)
    assert math.log(times[last] / times[first]) == pytest.approx(max(stretches)[0])


# --- data ---------------------------------------------------------------------------------------


def test_noisy_target():
    clean, noisy = er.noisy_target(200, [3.0, -2.0], 0.1, 0)
    assert_allclose(np.linalg.eigvalsh(clean)[[0, -1]], [-2, 3])
    assert np.linalg.matrix_rank(clean) == 2
    assert_allclose(noisy, noisy.T)
    off = (noisy - clean)[np.triu_indices(200, 1)]
    assert off.std() == pytest.approx(0.1, rel=0.03)
    assert np.linalg.norm(noisy - clean, 2) == pytest.approx(0.2 * np.sqrt(200), rel=0.08)
    assert_allclose(*er.noisy_target(5, [1.0], 0.0, 3))


def test_truncation_is_the_nearest():
    A = np.random.default_rng(5).standard_normal((7, 5))
    for rank in range(6):
        B = er.truncated(A, rank)
        assert np.linalg.matrix_rank(B) == rank
        assert np.linalg.norm(A - B) == pytest.approx(distance_to_rank(A, rank), abs=1e-12)


def test_image():
    image = er.sample_image()
    assert image.shape == (600, 512)
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        grey = np.asarray(PIL.Image.open(file).convert("L"))
    assert np.abs(255 * image - grey).max() < 1
    assert image.min() >= 0
    assert image.max() <= 1
    # pixels vary slowly: neighbours are much nearer than shuffled pixels
    mixed = er.shuffled(image, 0)
    assert_allclose(np.sort(mixed, axis=None), np.sort(image, axis=None))
    assert np.abs(np.diff(image)).mean() < 0.2 * np.abs(np.diff(mixed)).mean()
    for kind in KINDS:
        assert effective_rank(image, kind) < effective_rank(mixed, kind)


def test_returns():
    returns, names = er.sample_returns()
    assert returns.shape == (69, 8)
    assert names[1:3] == ["AAPL", "MSFT"]
    assert np.abs(returns).max() < 1
    assert (returns != 0).any(axis=1).all()
    correlation = np.corrcoef(returns.T)
    assert 1 < effective_rank(correlation, "nuclear") < 3


# --- bad input ----------------------------------------------------------------------------------

I2, BAD_NUMBERS = np.eye(2), [np.nan, np.inf, "1", None, [1.0], True]
CASES = [
    (er.rank_chain, {"sigma": [1.0]}, {"sigma": [[], [0.0], [np.nan], 1.0, None, [[1.0], [0.0]]]}),
    (er.disagreeing_spectrum, {"count": 1}, {"count": [0, 1.5, None, True]}),
    (
        er.shaped_spectrum,
        {"size": 3, "decay": 1.0},
        {
            "size": [0, 1.5],
            "decay": [-1, *BAD_NUMBERS],
            "gap": [0.5, *BAD_NUMBERS],
            "after": [0, 1.5],
            "floor": [-0.1, 1.1, *BAD_NUMBERS],
        },
    ),
    (
        er.truncation_gap,
        {"sigma": [2.0, 1.0], "rank": 1, "tolerance": 0.1},
        {
            "sigma": [[], [np.nan, 1.0], [[1.0]]],
            "rank": [0, 3, 1.5],
            "tolerance": [-0.1, 2.0, *BAD_NUMBERS],
        },
    ),
    *(
        (function, {"W": I2}, {"W": [np.eye(3), [1.0], np.nan * I2, None, np.ones((2, 3))]})
        for function in (er.completion_loss, er.two_by_two_spectrum, er.determinant)
    ),
    (er.binary_entropy, {"rho": 0.5}, {"rho": [-0.1, 1.1, np.nan, None]}),
    *(
        (function, {"loss": 0.5}, {"loss": [-0.1, np.nan, np.inf, "a", None]})
        for function in (er.ratio_bound, er.rank_bound, er.infimal_distance_bound)
    ),
    (er.rank_bound, {"loss": 0.5}, {"kind": ["unknown", None, 1]}),
    (er.extremal_completion, {"loss": 0.5}, {"loss": [0.0, 1.0, -1.0, 2.0, np.nan, [0.5, 1.0]]}),
    (er.random_completions, {"count": 3}, {"count": [2, 3.0, None], "rng": ["a", -1]}),
    (
        er.rise_time,
        {"eigenvalue": 1.0, "depth": 2, "start": 0.1, "end": 0.5},
        {
            "eigenvalue": [0, -1.0, *BAD_NUMBERS],
            "depth": [0, 1.5],
            "start": [0, 1.0, *BAD_NUMBERS],
            "end": [0.05, 1.0, *BAD_NUMBERS],
        },
    ),
    *(
        (
            function,
            {"eigenvalues": [3.0, 1.0], "depth": 2, "scale": 0.1, "rank": 1, "tolerance": 0.1}
            | extra,
            {
                "eigenvalues": [[], [np.nan], [[1.0]], None],
                "depth": [0, 1.5],
                "scale": [0, *BAD_NUMBERS],
                "rank": [0, 3, 1.5],
                "tolerance": [0.01, 3.0, *BAD_NUMBERS],
            }
            | bad,
        )
        for function, extra, bad in (
            (er.plateau_interval, {}, {}),
            (
                er.descent_plateau,
                {"step_size": 0.01},
                {"depth": [1, 1.5], "step_size": [0, 1 / 6 + 1e-9, *BAD_NUMBERS]},
            ),
        )
    ),
    (
        er.plateau_interval,
        {"eigenvalues": [3.0, -1.0], "depth": 2, "scale": 0.1, "rank": 1, "tolerance": 0.1},
        {"rank": [2]},
    ),
    (
        er.eigenvalue_path,
        {"eigenvalues": [1.0], "depth": 2, "scale": 0.1, "step_size": 0.1, "steps": [0, 1]},
        {
            "eigenvalues": [[], [np.nan]],
            "depth": [0],
            "scale": [0, *BAD_NUMBERS],
            "step_size": [0, *BAD_NUMBERS],
            "steps": [[], [0.5], [-1], [1, 1], [2, 1], None],
        },
    ),
    (
        er.longest_plateau,
        {"times": [1.0, 2.0, 3.0], "ranks": [1.0, 2.0, 3.0]},
        {
            "times": [[], [0.0, 1.0, 2.0], [1.0, 1.0, 2.0], [np.nan, 1.0, 2.0]],
            "ranks": [[1.0], None],
            "tolerance": [0, *BAD_NUMBERS],
        },
    ),
    (
        er.noisy_target,
        {"size": 3, "eigenvalues": [1.0], "noise": 0.1},
        {
            "size": [0, 1.5],
            "eigenvalues": [[], [np.nan]],
            "noise": [-1, *BAD_NUMBERS],
            "rng": ["a", -1],
        },
    ),
    (er.shuffled, {"A": I2}, {"A": [np.nan * I2, [1.0], None], "rng": ["a", -1]}),
    (er.truncated, {"A": I2, "rank": 1}, {"A": [np.nan * I2, [1.0]], "rank": [-1, 1.5, None]}),
]


@pytest.mark.parametrize(
    ("function", "good", "name", "value"),
    [(f, good, name, v) for f, good, bad in CASES for name, values in bad.items() for v in values],
)
def test_bad_input_is_named(function, good, name, value):
    with pytest.raises(ValueError, match=rf"^{name}(=| has shape)"):
        function(**{**good, name: value})


def test_good_values_of_the_table_are_good():
    for function, good, _ in CASES:
        if function is not er.longest_plateau:  # its example has no plateau
            function(**good)


def test_stacks_and_scalars():
    assert er.rank_chain(np.ones((2, 3, 4))).shape == (2, 3, 5)
    assert isinstance(er.ratio_bound(0.3), float)
    assert er.rank_bound([[0.1, 0.2]]).shape == (1, 2)
    assert er.extremal_completion([0.1, 0.2]).shape == (2, 2, 2)
    assert er.two_by_two_spectrum(np.ones((3, 1, 2, 2))).shape == (3, 1, 2)
    assert isinstance(er.binary_entropy(0.2), float)
