r"""Norms, ranks and powers of matrices.

A matrix here is the last two axes of an array of shape ``(..., m, n)``, so every function also
takes a stack of matrices, for example the products recorded along a trajectory, and answers with
an array of shape ``(...)``. All of them are functions of the singular values
:math:`\sigma_1 \ge \sigma_2 \ge \dots \ge 0` except where they say otherwise.
"""

import numpy as np

from dmflib import _checks

EFFECTIVE_RANKS = ("entropy", "nuclear", "stable")


def singular_values(W):
    """Singular values of each matrix, largest first.

    Parameters
    ----------
    W : array_like, shape (..., m, n)

    Returns
    -------
    ndarray, shape (..., min(m, n))

    Raises
    ------
    ValueError
        If `W` has fewer than two dimensions, is empty or is not finite.
    """
    return np.linalg.svd(_checks.matrices("W", W), compute_uv=False)


def frobenius_norm(W):
    """Root of the sum of all squared entries.

    Parameters
    ----------
    W : array_like, shape (..., m, n)

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If `W` has fewer than two dimensions, is empty or is not finite.
    """
    return _euclidean_norm(_checks.matrices("W", W), axis=(-2, -1))


def _euclidean_norm(x, axis):
    """Root of the sum of squares; scaled, so that no square overflows or underflows."""
    largest = np.abs(x).max(axis=axis, keepdims=True, initial=0)
    exponent = np.frexp(largest)[1]
    squares = np.ldexp(x, -exponent) ** 2
    root = np.sqrt(squares.sum(axis=axis, keepdims=True))
    return np.ldexp(root, exponent).squeeze(axis)[()]


def nuclear_norm(W):
    """Sum of the singular values.

    Parameters
    ----------
    W : array_like, shape (..., m, n)

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If `W` has fewer than two dimensions, is empty or is not finite.
    """
    return singular_values(W).sum(axis=-1)[()]


def spectral_norm(W):
    """Largest singular value: the most a unit vector can be stretched.

    Parameters
    ----------
    W : array_like, shape (..., m, n)

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If `W` has fewer than two dimensions, is empty or is not finite.
    """
    return singular_values(W)[..., 0][()]


def schatten_norm(W, p):
    """Schatten norm, the p-norm of the vector of singular values.

    For ``p < 1`` it is a quasi-norm: the triangle inequality holds up to the factor
    ``2**(1/p - 1)``. ``p = 1, 2, inf`` are the nuclear, Frobenius and spectral norms.

    Parameters
    ----------
    W : array_like, shape (..., m, n)
    p : float
        Exponent, ``0 < p <= inf``.

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If `p` is not positive, or `W` is not a stack of finite matrices.
    """
    p = _checks.real("p", p, above=0, finite=False)
    sigma = singular_values(W)
    largest = sigma[..., :1]
    if p == np.inf:
        return largest[..., 0][()]
    # Dividing by the largest value first keeps sigma**p away from overflow and underflow.
    scaled = np.divide(sigma, largest, out=np.zeros_like(sigma), where=largest > 0)
    return (largest[..., 0] * (scaled**p).sum(axis=-1) ** (1 / p))[()]


def effective_rank(W, kind="entropy"):
    """How many singular values count, as a number that moves continuously.

    Parameters
    ----------
    W : array_like, shape (..., m, n)
        Nonzero matrices.
    kind : {"entropy", "nuclear", "stable"}
        ``"entropy"``: exponential of the entropy of the singular values divided by their sum
        (Roy and Vetterli 2007; source C, section 5). ``"nuclear"``: nuclear norm over spectral
        norm (source A, section 4.1). ``"stable"``: squared Frobenius over squared spectral norm.

    Returns
    -------
    ndarray, shape (...), or float
        A number between 1 and the rank.

    Raises
    ------
    ValueError
        If `kind` is unknown, a matrix is zero, or `W` is not a stack of finite matrices.
    """
    return _effective_rank("W", singular_values(W), kind)


def effective_rank_of_spectrum(sigma, kind="entropy"):
    """Effective rank computed from singular values instead of from a matrix.

    Parameters
    ----------
    sigma : array_like, shape (..., r)
        Singular values in any order; their signs do not matter, not all of them zero.
    kind : {"entropy", "nuclear", "stable"}
        See `effective_rank`.

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If `kind` is unknown, or a spectrum is empty, zero or not finite.
    """
    return _effective_rank("sigma", np.abs(_checks.array("sigma", sigma, min_ndim=1)), kind)


def _effective_rank(name, sigma, kind):
    """Effective rank from checked singular values that the caller knows under `name`."""
    _checks.choice("kind", kind, EFFECTIVE_RANKS)
    largest = sigma.max(axis=-1, keepdims=True)
    if (largest == 0).any():
        _checks.fail(name, 0, "nonzero: the zero matrix has no effective rank")
    scaled = sigma / largest
    if kind == "nuclear":
        return scaled.sum(axis=-1)[()]
    if kind == "stable":
        return (scaled**2).sum(axis=-1)[()]
    weights = scaled / scaled.sum(axis=-1, keepdims=True)
    logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    return np.exp(-(weights * logs).sum(axis=-1))[()]


def distance_to_rank(W, r):
    r"""Frobenius distance to the nearest matrix of rank at most r.

    By the theorem of Eckart, Young and Mirsky it is the root of
    :math:`\sigma_{r+1}^2 + \sigma_{r+2}^2 + \dots`.

    Parameters
    ----------
    W : array_like, shape (..., m, n)
    r : int
        Rank, at least 0. From ``min(m, n)`` on the distance is 0.

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If `r` is not a non-negative integer, or `W` is not a stack of finite matrices.
    """
    r = _checks.integer("r", r, at_least=0)
    return _euclidean_norm(singular_values(W)[..., r:], axis=-1)


def psd_power(A, exponent):
    """Power of a symmetric positive semidefinite matrix, through its eigenvalues.

    Parameters
    ----------
    A : array_like, shape (..., n, n)
        Symmetric positive semidefinite, up to rounding: negative eigenvalues of the size of
        rounding errors count as zero.
    exponent : float
        Any real number where `A` is positive definite, else at least 0. The exponent 0 gives
        the identity even where `A` is singular, which is what the product flow needs. An
        exponent s below 1 enlarges rounding errors e of the eigenvalues near zero to e**s.

    Returns
    -------
    ndarray, shape (..., n, n)

    Raises
    ------
    ValueError
        If `A` is not square, not symmetric, has a truly negative eigenvalue, or is singular
        while `exponent` is negative.
    """
    A = _checks.matrices("A", A)
    exponent = _checks.real("exponent", exponent)
    if A.shape[-1] != A.shape[-2]:
        raise ValueError(f"A has shape {A.shape}: A must be square")
    half = A / 2  # so that the sum of two large entries does not overflow
    transposed = np.swapaxes(half, -1, -2)
    size = np.abs(half).max(axis=(-2, -1), keepdims=True)
    if (np.abs(half - transposed) > 1e-10 * size).any():
        _checks.fail("A", A, "symmetric")
    values, vectors = np.linalg.eigh(half + transposed)
    rounding = A.shape[-1] * np.finfo(float).eps * np.abs(values).max(axis=-1, keepdims=True)
    if (values < -10 * rounding).any():
        _checks.fail("A", A, f"positive semidefinite; its least eigenvalue is {values.min():g}")
    if exponent < 0 and (values <= rounding).any():
        _checks.fail("exponent", exponent, "at least 0 where A is singular")
    powers = np.maximum(values, 0.0) ** exponent
    return (vectors * powers[..., None, :]) @ np.swapaxes(vectors, -1, -2)
