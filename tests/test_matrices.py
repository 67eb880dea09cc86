"""Norms, ranks and powers: against other formulas, under symmetries, and at the edges."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.linalg import fractional_matrix_power

from dmflib import matrices

EPS = np.finfo(float).eps
fast = settings(deadline=None, max_examples=60)

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 6)
exponents = st.sampled_from([0.25, 0.5, 2 / 3, 1.0, 1.5, 2.0, 3.0, 7.0])
NORMS = {
    "frobenius": matrices.frobenius_norm,
    "nuclear": matrices.nuclear_norm,
    "spectral": matrices.spectral_norm,
    "schatten-1/2": lambda W: matrices.schatten_norm(W, 0.5),
    "schatten-3": lambda W: matrices.schatten_norm(W, 3),
    "schatten-inf": lambda W: matrices.schatten_norm(W, np.inf),
}


@st.composite
def any_matrices(draw, square=False):
    """Gaussian matrices of every rank, with spectra from flat to steep."""
    m = draw(sizes)
    n = m if square else draw(sizes)
    rank = draw(st.integers(1, min(m, n)))
    rng = np.random.default_rng(draw(seeds))
    steep = draw(st.sampled_from([0.0, 1.0, 3.0]))
    scale = 10.0 ** (-steep * np.arange(rank))
    return (rng.normal(size=(m, rank)) * scale) @ rng.normal(size=(rank, n))


def orthogonal(n, rng):
    return np.linalg.qr(rng.normal(size=(n, n)))[0]


# Norms against formulas that use no singular value decomposition


@fast
@given(any_matrices())
def test_frobenius_norm_is_the_trace_of_the_gram_matrix(W):
    assert matrices.frobenius_norm(W) == pytest.approx(np.sqrt(np.trace(W.T @ W)), rel=1e-14)
    assert matrices.frobenius_norm(W) == pytest.approx(np.sqrt(np.sum(W**2)), rel=1e-14)


@fast
@given(any_matrices(), exponents)
def test_schatten_norm_is_the_trace_of_a_power_of_the_gram_matrix(W, p):
    gram = W.T @ W if W.shape[1] <= W.shape[0] else W @ W.T
    eigenvalues = np.maximum(np.linalg.eigvalsh(gram), 0)
    # The root of an eigenvalue that should vanish is of the size of sqrt(eps).
    slack = len(gram) * (len(gram) * EPS * eigenvalues.max()) ** (p / 2)
    power = matrices.schatten_norm(W, p) ** p
    assert power == pytest.approx(np.sum(eigenvalues ** (p / 2)), rel=1e-12, abs=4 * slack)


@fast
@given(st.tuples(*[st.floats(-100, 100)] * 4))
def test_closed_forms_of_two_by_two_matrices(entries):
    W = np.reshape(entries, (2, 2))
    total, determinant = np.sum(W**2), abs(W[0, 0] * W[1, 1] - W[0, 1] * W[1, 0])
    assume(total > 1e-6)
    # (s1 + s2)**2 = s1**2 + s2**2 + 2 s1 s2
    assert matrices.nuclear_norm(W) == pytest.approx(np.sqrt(total + 2 * determinant), rel=1e-10)
    gap = np.hypot(
        np.hypot(W[0, 0], W[1, 0]) ** 2 - np.hypot(W[0, 1], W[1, 1]) ** 2, 2 * W[:, 0] @ W[:, 1]
    )
    assert matrices.spectral_norm(W) == pytest.approx(np.sqrt((total + gap) / 2), rel=1e-10)


@fast
@given(any_matrices())
def test_special_exponents(W):
    assert matrices.schatten_norm(W, 1) == pytest.approx(matrices.nuclear_norm(W), rel=1e-14)
    assert matrices.schatten_norm(W, 2) == pytest.approx(matrices.frobenius_norm(W), rel=1e-14)
    assert matrices.schatten_norm(W, np.inf) == matrices.spectral_norm(W)


@fast
@given(any_matrices(), st.sampled_from([10.0, 100.0, 1e4, 1e10, 1e300]))
def test_schatten_norm_tends_to_the_spectral_norm(W, p):
    # s1 <= |s|_p <= r**(1/p) s1
    spectral = matrices.spectral_norm(W)
    value = matrices.schatten_norm(W, p)
    assert spectral * (1 - 4 * EPS) <= value
    assert value <= min(W.shape) ** (1 / p) * spectral * (1 + 4 * EPS)


@fast
@given(any_matrices())
def test_schatten_norm_decreases_in_the_exponent(W):
    values = [matrices.schatten_norm(W, p) for p in (0.3, 0.5, 1, 1.7, 2, 5, 50, np.inf)]
    assert all(a >= b * (1 - 1e-13) for a, b in itertools.pairwise(values))


@fast
@given(any_matrices(square=True), seeds, st.sampled_from([0.25, 0.5, 0.9, 1, 1.5, 2, 4, np.inf]))
def test_triangle_inequality_with_its_factor(A, seed, p):
    rng = np.random.default_rng(seed)
    B = rng.normal(size=A.shape) * 10.0 ** rng.uniform(-2, 2)
    factor = 2 ** (1 / p - 1) if p < 1 else 1
    left = matrices.schatten_norm(A + B, p)
    right = matrices.schatten_norm(A, p) + matrices.schatten_norm(B, p)
    assert left <= factor * right * (1 + 1e-12)


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75])
def test_the_factor_of_the_quasi_triangle_inequality_is_attained(p):
    A, B = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])
    left = matrices.schatten_norm(A + B, p)
    right = matrices.schatten_norm(A, p) + matrices.schatten_norm(B, p)
    assert left / right == pytest.approx(2 ** (1 / p - 1), rel=1e-14)


@fast
@given(any_matrices(), seeds)
def test_norms_and_ranks_do_not_change_under_rotations(W, seed):
    rng = np.random.default_rng(seed)
    turned = orthogonal(W.shape[0], rng) @ W @ orthogonal(W.shape[1], rng)
    for name in ("frobenius", "nuclear", "spectral", "schatten-3"):
        assert NORMS[name](turned) == pytest.approx(NORMS[name](W), rel=1e-12), name
    for kind in matrices.EFFECTIVE_RANKS:
        expected = matrices.effective_rank(W, kind)
        assert matrices.effective_rank(turned, kind) == pytest.approx(expected, rel=1e-11)
        assert matrices.effective_rank(W.T, kind) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("exponent", [-1000, -996, -500, 500, 996, 1015])
def test_norms_are_homogeneous_far_beyond_the_range_of_squares(name, exponent, rng_matrix):
    # Powers of two scale without rounding: 2**-1000 is about 1e-301, 2**996 about 1e300.
    scaled = np.ldexp(rng_matrix, exponent)
    expected = NORMS[name](rng_matrix)
    assert np.ldexp(NORMS[name](scaled), -exponent) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_distances_ranks_and_powers_at_extreme_scales(scale, rng_matrix):
    far = matrices.distance_to_rank(scale * rng_matrix, 2)
    assert far / scale == pytest.approx(matrices.distance_to_rank(rng_matrix, 2), rel=1e-12)
    for kind in matrices.EFFECTIVE_RANKS:
        expected = matrices.effective_rank(rng_matrix, kind)
        assert matrices.effective_rank(scale * rng_matrix, kind) == pytest.approx(expected)
    A = rng_matrix @ rng_matrix.T
    root = matrices.psd_power(scale * A, 0.5)
    np.testing.assert_allclose(root / np.sqrt(scale), matrices.psd_power(A, 0.5), rtol=1e-11)


def test_entries_next_to_the_largest_double():
    # A sum or difference of two such entries is not a double; the answers are.
    huge = np.finfo(float).max
    assert matrices.frobenius_norm([[huge, 0.0]]) == huge
    with pytest.raises(ValueError, match="A must be symmetric"):
        matrices.psd_power([[huge, huge], [-huge, huge]], 0.5)
    np.testing.assert_allclose(matrices.psd_power(huge * np.eye(2), 0.5), np.sqrt(huge) * np.eye(2))


def test_subnormal_numbers():
    tiny = np.array([[5e-324, 0], [0, 5e-324]])
    assert matrices.spectral_norm(tiny) == 5e-324
    assert matrices.effective_rank(tiny, "nuclear") == 2
    assert matrices.frobenius_norm([[3 * 5e-324, 4 * 5e-324]]) == 5 * 5e-324


@pytest.fixture
def rng_matrix():
    return np.random.default_rng(7).normal(size=(4, 6))


def test_the_zero_matrix_has_norm_zero():
    for norm in NORMS.values():
        assert norm(np.zeros((3, 2))) == 0
    assert matrices.distance_to_rank(np.zeros((3, 2)), 1) == 0


# Stacks


@fast
@given(st.lists(st.integers(1, 3), max_size=2), sizes, sizes, seeds)
def test_a_stack_is_a_loop(stack, m, n, seed):
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(*stack, m, n)) * 10.0 ** rng.integers(-200, 200, size=(*stack, 1, 1))
    functions = [
        *NORMS.values(),
        *(
            lambda W, kind=kind: matrices.effective_rank(W, kind)
            for kind in matrices.EFFECTIVE_RANKS
        ),
        lambda W: matrices.distance_to_rank(W, 1),
        lambda W: matrices.psd_power(W @ np.swapaxes(W, -1, -2), 0.75),
        matrices.singular_values,
    ]
    with np.errstate(under="ignore"):
        W = np.where(np.abs(W) > 1e-140, W, 1e-140)  # so that W @ W.T stays a normal number
    W = np.clip(W, -1e140, 1e140)
    for function in functions:
        together = function(W)
        for index in np.ndindex(*stack):
            alone = function(W[index])
            np.testing.assert_allclose(together[index] if stack else together, alone, rtol=1e-13)


def test_one_bad_matrix_in_a_stack_is_found_beside_a_huge_one():
    skew = np.array([[1.0, 2.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="A must be symmetric"):
        matrices.psd_power(np.stack([1e20 * np.eye(2), skew]), 0.5)
    with pytest.raises(ValueError, match="A must be positive semidefinite"):
        matrices.psd_power(np.stack([1e20 * np.eye(2), -np.eye(2)]), 0.5)


def test_scalars_come_back_for_single_matrices(rng_matrix):
    for norm in NORMS.values():
        assert isinstance(norm(rng_matrix), float)
        assert norm(rng_matrix[None]).shape == (1,)
    assert isinstance(matrices.effective_rank(rng_matrix), float)
    assert isinstance(matrices.distance_to_rank(rng_matrix, 9), float)
    assert matrices.frobenius_norm([[3, 0], [0, 4]]) == 5


# Effective ranks


@fast
@given(any_matrices())
def test_effective_ranks_lie_between_one_and_the_rank_and_are_ordered(W):
    """Stable <= nuclear <= exp(entropy) <= rank.

    Let p_i = s_i / (s_1 + ... + s_n). The nuclear kind is 1 / max p, the exponential of the
    Renyi entropy of order infinity; exp(entropy) is that of order 1 and the rank that of order
    0, and Renyi entropies decrease in their order. The stable kind is the sum of (s_i / s_1)**2,
    term by term at most s_i / s_1. And each term with i = 1 is 1.
    """
    stable, nuclear, entropy = (
        matrices.effective_rank(W, kind) for kind in ("stable", "nuclear", "entropy")
    )
    slack = 1 + 1e-12
    assert stable * slack >= 1
    assert stable <= nuclear * slack
    assert nuclear <= entropy * slack
    # Singular values of the size of rounding add at most -n x log x to the entropy.
    assert entropy <= np.linalg.matrix_rank(W) * (1 + 1e-12) + 1e-10


@fast
@given(any_matrices())
def test_nuclear_squared_is_at_most_rank_times_frobenius_squared(W):
    # Cauchy and Schwarz, divided by s_1 squared: nuclear**2 <= rank * stable.
    nuclear = matrices.effective_rank(W, "nuclear")
    stable = matrices.effective_rank(W, "stable")
    assert nuclear**2 <= np.linalg.matrix_rank(W) * stable * (1 + 1e-10)


@pytest.mark.parametrize("kind", matrices.EFFECTIVE_RANKS)
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_flat_spectrum_has_its_rank(kind, rank):
    W = np.zeros((5, 7))
    W[range(rank), range(rank)] = 3.7
    assert matrices.effective_rank(W, kind) == pytest.approx(rank, rel=1e-14)


@pytest.mark.parametrize(
    ("kind", "value"), [("nuclear", 1.4), ("stable", 27 / 25), ("entropy", 2.217)]
)
def test_the_example_of_source_a(kind, value):
    # Eigenvalues 5, -1, -1. Source A has 1.4 and calls it the rank of Roy and Vetterli.
    W = [[1, 2, 2], [2, 1, 2], [2, 2, 1]]
    assert matrices.effective_rank(W, kind) == pytest.approx(value, abs=5e-4)


def test_the_entropy_against_its_definition():
    sigma = np.array([5.0, 2.0, 0.5, 0.0])
    p = sigma[:3] / sigma.sum()
    expected = np.prod(p**-p)
    assert matrices.effective_rank_of_spectrum(sigma) == pytest.approx(expected, rel=1e-14)
    assert matrices.effective_rank_of_spectrum(-sigma[::-1]) == pytest.approx(expected, rel=1e-14)


def test_the_error_names_the_argument_of_the_caller():
    with pytest.raises(ValueError, match="W must be nonzero"):
        matrices.effective_rank(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="sigma must be nonzero"):
        matrices.effective_rank_of_spectrum([[1.0, 0.0], [0.0, 0.0]])


# Distance to rank r


@fast
@given(any_matrices(), st.integers(0, 7), seeds)
def test_no_matrix_of_low_rank_is_nearer(W, r, seed):
    rng = np.random.default_rng(seed)
    distance = matrices.distance_to_rank(W, r)
    m, n = W.shape
    left = np.linalg.svd(W)[0][:, :r]
    for _ in range(5):
        # The best competitor for a column space: far ones and ones beside the optimum.
        wild = rng.normal(size=(m, min(r, m)))
        near = left + 1e-3 * rng.normal(size=left.shape)
        for columns in (wild, near):
            basis = np.linalg.qr(columns)[0]
            competitor = basis @ (basis.T @ W)
            assert np.linalg.norm(W - competitor) >= distance * (1 - 1e-12) - 1e-14
    best = left @ (left.T @ W)
    assert np.linalg.norm(W - best) == pytest.approx(
        distance, rel=1e-9, abs=1e-13 * np.abs(W).max()
    )
    if r >= min(m, n):
        assert distance == 0


@fast
@given(any_matrices())
def test_distance_to_rank_zero_is_the_norm_and_decreases(W):
    distances = [matrices.distance_to_rank(W, r) for r in range(min(W.shape) + 1)]
    assert distances[0] == pytest.approx(matrices.frobenius_norm(W), rel=1e-13)
    assert distances == sorted(distances, reverse=True)


# Powers


@st.composite
def positive_definite(draw):
    n = draw(sizes)
    rng = np.random.default_rng(draw(seeds))
    Q = orthogonal(n, rng)
    return (Q * 10.0 ** rng.uniform(-2, 2, size=n)) @ Q.T


@fast
@given(positive_definite(), st.sampled_from([-1.5, -1, -0.5, 1 / 3, 0.5, 2 / 3, 1.25, 3]))
def test_powers_agree_with_schur_and_pade(A, exponent):
    A = (A + A.T) / 2
    expected = np.real(fractional_matrix_power(A, exponent))
    difference = np.abs(matrices.psd_power(A, exponent) - expected).max()
    condition = np.linalg.cond(A)
    assert difference <= 1e-13 * condition * np.abs(expected).max()


@fast
@given(positive_definite(), st.floats(-1.5, 1.5), st.floats(-1.5, 1.5))
def test_powers_are_a_group(A, s, t):
    A = (A + A.T) / 2
    left = matrices.psd_power(A, s) @ matrices.psd_power(A, t)
    bound = np.linalg.norm(matrices.psd_power(A, s)) * np.linalg.norm(matrices.psd_power(A, t))
    assert np.abs(left - matrices.psd_power(A, s + t)).max() <= 1e-11 * bound
    np.testing.assert_allclose(
        matrices.psd_power(matrices.psd_power(A, 0.5), 2), A, atol=1e-12 * np.abs(A).max()
    )


@fast
@given(any_matrices(), st.sampled_from([0.1, 0.25, 0.5, 2 / 3, 1.0]))
def test_powers_of_singular_matrices_are_as_good_as_the_eigenvalues(W, s):
    """The known bound |A**s - B**s| <= |A - B|**s, for 0 < s <= 1 in the spectral norm.

    (Bhatia, Matrix Analysis, theorem X.1.1.) B is the matrix whose power is truly computed.
    """
    A = W @ W.T
    U, sigma, _ = np.linalg.svd(W)
    exact = np.zeros(len(A))
    exact[: len(sigma)] = np.where(sigma > 1e-13 * sigma[0], sigma, 0) ** (2 * s)
    error = np.linalg.norm(matrices.psd_power(A, s) - (U * exact) @ U.T, 2)
    assert error <= 4 * (20 * len(A) * EPS * sigma[0] ** 2) ** s


@fast
@given(any_matrices())
def test_the_power_zero_is_the_identity_even_of_singular_matrices(W):
    A = W @ W.T
    np.testing.assert_allclose(matrices.psd_power(A, 0), np.eye(len(A)), atol=1e-13)


def test_powers_of_diagonal_matrices_keep_tiny_eigenvalues():
    A = np.diag([1.0, 1e-40, 0.0])
    np.testing.assert_allclose(matrices.psd_power(A, 0.5), np.diag([1.0, 1e-20, 0.0]), rtol=1e-12)
    np.testing.assert_array_equal(matrices.psd_power(np.zeros((2, 2)), 0.5), np.zeros((2, 2)))


@pytest.mark.parametrize("A", [np.zeros((2, 2)), np.ones((3, 3)), np.diag([1.0, 1e-40])])
def test_negative_powers_of_singular_matrices_are_refused(A):
    with pytest.raises(ValueError, match="exponent must be at least 0 where A is singular"):
        matrices.psd_power(A, -0.5)


def test_rounding_of_gram_matrices_is_forgiven_and_true_negatives_are_not():
    rng = np.random.default_rng(0)
    for _ in range(50):
        W = rng.normal(size=(8, 2))
        assert np.isfinite(matrices.psd_power(W @ W.T, 0.3)).all()
    with pytest.raises(ValueError, match="least eigenvalue is -1e-06"):
        matrices.psd_power(np.diag([1.0, -1e-6]), 0.5)
