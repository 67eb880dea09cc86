r"""The product flow as steepest descent in another metric: operator, metric, geodesics, volume.

The product of :math:`N` balanced factors moves by :math:`\dot W=-\mathcal A_W(\nabla\ell(W))` with

.. math:: \mathcal A_W(Z)=\sum_{j=1}^N(WW^T)^{(N-j)/N}\,Z\,(W^TW)^{(j-1)/N}.

On the tangent space of the matrices of rank k this operator is symmetric and positive definite,
and :math:`g_W(Z,Z)=\langle\mathcal A_W^{-1}(Z),Z\rangle` is the metric in which the flow descends
most steeply (source B, last part). In the bases of singular vectors the operator multiplies entry
(r, s) by :math:`a_{rs}=(\sigma_r^2-\sigma_s^2)/(\sigma_r^{2/N}-\sigma_s^{2/N})`, and everything
here is computed from these numbers, except `metric_integral`, which knows nothing of them.

The depth ``inf`` stands for the limit of :math:`\mathcal A_W/N`. Divided by N the operator gives
the same paths at another speed; without the division there is no limit.
"""

from dataclasses import dataclass

import numpy as np

from dmflib import _checks
from dmflib.linear_networks import check_factors, imbalance, product
from dmflib.losses import Completion, check_loss
from dmflib.stopping import Diverged, DivergenceWarning, TimeReached, warn_ended
from dmflib.trajectory import Recorder

__all__ = [
    "Geodesic",
    "completion_limits",
    "connecting_geodesic",
    "density_exponent",
    "diagonal_geodesic",
    "distance_to_zero",
    "eigenvalues",
    "fixed_rank_flow",
    "geodesic",
    "inverse_operator",
    "lift",
    "log_density",
    "log_volume",
    "metric",
    "metric_integral",
    "nearest_of_rank",
    "operator",
    "random_point",
    "tangent_part",
    "volume_exponent",
]

EPS = np.finfo(float).eps
OFF = 1e-8  # relative size from which a part that should be zero counts as present
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(24)


# --- the operator --------------------------------------------------------------------------------


def eigenvalues(sigma, depth):
    r"""Eigenvalues of the operator on the pairs of singular vectors, all singular values given.

    .. math:: a_{rs}=\sum_{j=1}^N\sigma_r^{2(N-j)/N}\sigma_s^{2(j-1)/N},\qquad 0^0=1,

    which for different values is :math:`(\sigma_r^2-\sigma_s^2)/(\sigma_r^{2/N}-\sigma_s^{2/N})`
    and for equal ones :math:`N\sigma^{2-2/N}`.

    Parameters
    ----------
    sigma : array_like, shape (..., k)
        Singular values, none negative, in any order.
    depth : int or inf
        Number :math:`N` of factors, at least 1. For ``inf`` the limit of :math:`a_{rs}/N`, the
        logarithmic mean of :math:`\sigma_r^2` and :math:`\sigma_s^2`.

    Returns
    -------
    ndarray, shape (..., k, k)

    Raises
    ------
    ValueError
        If `sigma` is empty, negative or not finite, or `depth` is outside its range.
    """
    sigma = _checks.array("sigma", sigma, min_ndim=1)
    if (sigma < 0).any():
        _checks.fail("sigma", sigma, "an array without negative entries")
    return _weights(sigma, sigma, _depth(depth))


def _depth(depth, least=1, infinite=True):
    """Return a checked depth, an int or inf."""
    if infinite and isinstance(depth, float | np.floating) and depth == np.inf:
        return np.inf
    try:
        return _checks.integer("depth", depth, at_least=least)
    except ValueError:
        ending = " or inf" if infinite else ""
        _checks.fail("depth", depth, f"an integer >= {least}{ending}")


def _weights(left, right, depth):
    """Numbers by which the operator multiplies the entries between singular vectors."""
    left, right = left[..., :, None], right[..., None, :]
    if depth == np.inf:
        return _logarithmic_mean(left**2, right**2)
    x, y = left ** (2 / depth), right ** (2 / depth)
    return sum(x ** (depth - j) * y ** (j - 1) for j in range(1, depth + 1))


def _logarithmic_mean(x, y):
    """(x - y) / ln(x / y), x where both are equal, and 0 where one is 0."""
    x, y = np.broadcast_arrays(x, y)
    positive = (x > 0) & (y > 0)
    large = np.where(positive, np.maximum(x, y), 1.0)
    small = np.where(positive, np.minimum(x, y), 1.0)
    # small <= large, so that nothing overflows: (large - small) / r = large (1 - e^-r) / r.
    ratio = np.log(large) - np.log(small)
    apart = ratio > 0
    factor = np.divide(-np.expm1(-ratio), ratio, out=np.ones_like(ratio), where=apart)
    return np.where(positive, large * factor, 0.0)


class _Frame:
    """Singular vectors of a matrix, its values filled up with zeros, and its rank."""

    def __init__(self, W, rank=None, name="W"):
        self.U, sigma, Vt = np.linalg.svd(W)
        self.V = Vt.T
        present = int((sigma > max(W.shape) * EPS * sigma[0]).sum())
        if rank is None:
            rank = present
            if rank == 0:
                _checks.fail(name, W, "a matrix that is not zero")
        else:
            rank = _checks.integer("rank", rank, at_least=1)
            if rank > present or (sigma[rank:] > OFF * sigma[0]).any():
                _checks.fail("rank", rank, f"the rank of W, whose singular values are {sigma}")
        self.rank = rank
        self.sigma = sigma[:rank]
        self.left, self.right = np.zeros(W.shape[0]), np.zeros(W.shape[1])
        self.left[:rank] = self.right[:rank] = self.sigma

    def inside(self, Z):
        """Entries of Z between singular vectors."""
        return self.U.T @ Z @ self.V

    def outside(self, K):
        """The matrix whose entries between singular vectors are K."""
        return self.U @ K @ self.V.T

    def check_tangent(self, name, Z):
        """Return the entries of Z between singular vectors, the normal block set to zero."""
        K = self.inside(Z)
        normal = K[self.rank :, self.rank :]
        if normal.size and np.abs(normal).max() > OFF * np.abs(K).max():
            _checks.fail(name, Z, f"tangent at W to the matrices of rank {self.rank}")
        normal[...] = 0
        return K

    def inverse_weights(self, depth):
        """One over the operator's eigenvalues on the tangent space, zero off it."""
        a = _weights(self.left, self.right, depth)
        k = self.rank
        if depth == np.inf and a.size > k * k:
            _checks.fail("depth", depth, "finite where W has not full rank or is not square")
        out = np.zeros_like(a)
        out[:k], out[:, :k] = 1 / a[:k], 1 / a[:, :k]
        return out


def _matrix(W):
    return _checks.array("W", W, ndim=2)


def operator(W, Z, depth):
    r"""Apply the operator that turns the gradient of a loss into the velocity of the product.

    :math:`\mathcal A_W(Z)=\sum_j(WW^T)^{(N-j)/N}Z(W^TW)^{(j-1)/N}` (source B, last part).

    Parameters
    ----------
    W : array_like, shape (m, n)
        Not zero. Singular values below rounding count as zero.
    Z : array_like, shape (m, n)
        Any matrix.
    depth : int or inf
        At least 1; for ``inf`` the limit of the operator divided by N,
        :math:`\int_0^1(WW^T)^{1-s}Z(W^TW)^s\,ds`.

    Returns
    -------
    ndarray, shape (m, n)

    Raises
    ------
    ValueError
        If `W` is zero or no finite matrix, the shapes differ, or `depth` is outside its range.
    """
    W = _matrix(W)
    Z = _checks.array("Z", Z, shape=W.shape)
    frame, depth = _Frame(W), _depth(depth)
    return frame.outside(_weights(frame.left, frame.right, depth) * frame.inside(Z))


def inverse_operator(W, Z, depth, rank=None):
    r"""Apply the inverse of the operator on the tangent space of the matrices of one rank.

    Parameters
    ----------
    W : array_like, shape (m, n)
        Not zero.
    Z : array_like, shape (m, n)
        Tangent at `W` to the matrices of the rank of `W`, see `tangent_part`.
    depth : int or inf
        At least 1; ``inf`` only for invertible `W`, since the limit has no inverse elsewhere.
    rank : int, optional
        Rank of `W`; where left out, the number of its singular values above rounding.

    Returns
    -------
    ndarray, shape (m, n)
        The only tangent matrix that the operator maps to `Z`.

    Raises
    ------
    ValueError
        If `W` does not have the rank, `Z` is not tangent, or an argument is outside its range.
    """
    W = _matrix(W)
    Z = _checks.array("Z", Z, shape=W.shape)
    frame, depth = _Frame(W, rank), _depth(depth)
    return frame.outside(frame.inverse_weights(depth) * frame.check_tangent("Z", Z))


def tangent_part(W, Z, rank=None):
    r"""Orthogonal projection onto the tangent space of the matrices of fixed rank.

    What is cut off is :math:`(I-P)Z(I-Q)`, where P and Q project onto the column space and the
    row space of W.

    Parameters
    ----------
    W : array_like, shape (m, n)
        Not zero.
    Z : array_like, shape (m, n)
    rank : int, optional
        Rank of `W`; where left out, the number of its singular values above rounding.

    Returns
    -------
    ndarray, shape (m, n)

    Raises
    ------
    ValueError
        If `W` does not have the rank or the shapes differ.
    """
    W = _matrix(W)
    Z = _checks.array("Z", Z, shape=W.shape)
    frame = _Frame(W, rank)
    K = frame.inside(Z)
    K[frame.rank :, frame.rank :] = 0
    return frame.outside(K)


def nearest_of_rank(W, rank):
    """Nearest matrix of at most a given rank, by dropping the smaller singular values.

    As a map from a neighbourhood of the matrices of that rank to themselves it is a retraction.

    Parameters
    ----------
    W : array_like, shape (m, n)
    rank : int
        At least 1, at most ``min(m, n)``.

    Returns
    -------
    ndarray, shape (m, n)

    Raises
    ------
    ValueError
        If `W` is no finite matrix or `rank` is outside its range.
    """
    W = _matrix(W)
    rank = _checks.integer("rank", rank, at_least=1)
    if rank > min(W.shape):
        _checks.fail("rank", rank, f"an integer between 1 and {min(W.shape)}")
    U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
    return (U[:, :rank] * sigma[:rank]) @ Vt[:rank]


# --- the metric ----------------------------------------------------------------------------------


def metric(W, Z1, Z2, depth, rank=None):
    r"""Inner product of two directions in the metric of the product flow.

    :math:`g_W(Z_1,Z_2)=\langle\mathcal A_W^{-1}(Z_1),Z_2\rangle` (source B, last part; Bah,
    Rauhut, Terstiege and Westdickenberg 2022).

    Parameters
    ----------
    W : array_like, shape (m, n)
        Not zero.
    Z1, Z2 : array_like, shape (m, n)
        Tangent at `W` to the matrices of the rank of `W`.
    depth : int or inf
        At least 1; ``inf`` only for invertible `W`.
    rank : int, optional
        Rank of `W`; where left out, the number of its singular values above rounding.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If `W` does not have the rank, a direction is not tangent, or an argument is outside its
        range.
    """
    W = _matrix(W)
    Z1 = _checks.array("Z1", Z1, shape=W.shape)
    Z2 = _checks.array("Z2", Z2, shape=W.shape)
    frame, depth = _Frame(W, rank), _depth(depth)
    first, second = frame.check_tangent("Z1", Z1), frame.check_tangent("Z2", Z2)
    return float((frame.inverse_weights(depth) * first * second).sum())


def metric_integral(W, Z1, Z2, depth, rank=None):
    r"""Compute the same metric by its integral formula, without singular vectors.

    .. math:: \frac{\sin(\pi/N)}\pi\int_0^\infty
        \mathrm{tr}\bigl((tI+WW^T)^{-1}Z_1(tI+W^TW)^{-1}Z_2^T\bigr)\,t^{1/N}\,dt

    (source B, last part). With :math:`t=e^s` the integrand is analytic in a strip around the real
    axis and decays exponentially, so the trapezoidal rule converges exponentially.

    Parameters
    ----------
    W : array_like, shape (m, n)
        Not zero.
    Z1, Z2 : array_like, shape (m, n)
        Tangent at `W` to the matrices of the rank of `W`; for other directions the integral
        is infinite.
    depth : int
        At least 2: for a single factor the formula reads zero times infinity.
    rank : int, optional
        Rank of `W`; where left out, the number of its singular values above rounding.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If `W` does not have the rank, a direction is not tangent, or an argument is outside its
        range.
    """
    W = _matrix(W)
    Z1 = _checks.array("Z1", Z1, shape=W.shape)
    Z2 = _checks.array("Z2", Z2, shape=W.shape)
    depth = _depth(depth, least=2, infinite=False)
    frame = _Frame(W, rank)
    k = frame.rank
    frame.check_tangent("Z1", Z1)
    frame.check_tangent("Z2", Z2)
    scale = frame.sigma[0]
    # Random mixtures of columns and rows span the two ranges; beyond them the resolvents are 1/t.
    rng = np.random.default_rng(0)
    B = W / scale
    left = np.linalg.qr(np.hstack([B @ rng.standard_normal((B.shape[1], k)), np.eye(len(B))]))[0]
    right = np.linalg.qr(np.hstack([B.T @ rng.standard_normal((len(B), k)), np.eye(B.shape[1])]))[0]
    core = left[:, :k].T @ B @ right[:, :k]
    first, second = left.T @ Z1 @ right, left.T @ Z2 @ right
    full = k == max(B.shape)
    # exp(-37) is below rounding.
    start = 2 * np.log(frame.sigma[-1] / scale) - 37 * depth / (depth + 1 if full else 1)
    s = np.arange(start - 1, 37 * depth / (depth - 1) + 1, 0.5)
    t = np.exp(s)
    identity = np.eye(k)
    resolvent_left = np.linalg.inv(t[:, None, None] * identity + core @ core.T)
    resolvent_right = np.linalg.inv(t[:, None, None] * identity + core.T @ core)
    traces = (resolvent_left @ first[:k, :k] @ resolvent_right * second[:k, :k]).sum((1, 2))
    traces += (resolvent_left @ first[:k, k:] * second[:k, k:]).sum((1, 2)) / t
    traces += (first[k:, :k] @ resolvent_right * second[k:, :k]).sum((1, 2)) / t
    integral = 0.5 * (traces * t ** (1 + 1 / depth)).sum()
    # W was divided by its largest singular value, and g scales with its power 2/N - 2.
    return float(np.sin(np.pi / depth) / np.pi * integral * scale ** (2 / depth - 2))


def lift(factors, Z):
    r"""Cheapest motion of balanced factors that moves their product with a given velocity.

    Among all :math:`(\dot W_1,\dots,\dot W_N)` with :math:`\dot W=Z` it is the one with the least
    :math:`\sum_j\|\dot W_j\|_F^2`, and that least value is :math:`g_W(Z,Z)`.

    Parameters
    ----------
    factors : sequence of array_like
        Balanced ``W_1, ..., W_N``; ``W_i`` has shape ``(d_i, d_{i-1})``.
    Z : array_like, shape (d_N, d_0)
        Tangent at the product to the matrices of its rank.

    Returns
    -------
    list of ndarray
        One velocity for each factor.

    Raises
    ------
    ValueError
        If the factors do not fit together or are not balanced, or `Z` is not tangent.
    """
    factors = check_factors(factors)
    if imbalance(factors) > OFF * max(np.vdot(W, W) for W in factors):
        _checks.fail("factors", "factors off balance", "balanced")
    W = product(factors)
    outer = inverse_operator(W, Z, len(factors))
    before = [np.eye(W.shape[1])]
    for factor in factors[:-1]:
        before.append(factor @ before[-1])
    velocities = []
    for factor, B in zip(factors[::-1], before[::-1], strict=True):
        velocities.append(outer @ B.T)
        outer = factor.T @ outer
    return velocities[::-1]


def distance_to_zero(W, depth):
    r"""Length of the shortest way from a matrix to the zero matrix.

    It is :math:`\sqrt N\,(\sum_r\sigma_r^{2/N})^{1/2}`, the root of N times the Schatten
    quasi-norm of exponent 2/N to the power 1/N, and the norm of balanced factors.

    Parameters
    ----------
    W : array_like, shape (..., m, n)
    depth : int
        At least 1.

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If `W` is no stack of finite matrices or `depth` is outside its range.
    """
    sigma = np.linalg.svd(_checks.matrices("W", W), compute_uv=False)
    depth = _depth(depth, infinite=False)
    return np.sqrt(depth * (sigma ** (2 / depth)).sum(-1))[()]


# --- motion --------------------------------------------------------------------------------------


def fixed_rank_flow(loss, W0, depth, t_final, steps, rank=None, retract=True):
    r"""Integrate the product flow on the matrices of fixed rank, with a retraction at each step.

    Four stages of the classical method of Runge and Kutta, then `nearest_of_rank`. The exact flow
    never leaves the matrices of rank k, so the nearest one is not farther from it than twice the
    error of the step, and the order stays 4.

    Parameters
    ----------
    loss : loss
        See `dmflib.losses`.
    W0 : array_like, shape (m, n)
        The start, not zero.
    depth : int or inf
        At least 2.
    t_final : float
        Positive.
    steps : int
        Number of equal steps.
    rank : int, optional
        Rank of `W0`; where left out, the number of its singular values above rounding.
    retract : bool
        False leaves the retraction out and counts no singular value as zero: plain integration,
        for comparison.

    Returns
    -------
    Trajectory
        Every step is recorded. A run that diverges ends at the last finite state with `Diverged`
        and a `DivergenceWarning`.

    Raises
    ------
    ValueError
        If `W0` does not have the loss's shape or another argument is outside its range.
    """
    W = _checks.array("W0", W0, ndim=2)
    check_loss(loss, W.shape)
    depth = _depth(depth, least=2)
    t_final = _checks.real("t_final", t_final, above=0)
    steps = _checks.integer("steps", steps, at_least=1)
    rank = _Frame(W, rank, "W0").rank
    cut = rank if retract else min(W.shape)

    def velocity(W):
        return _velocity(W, loss.gradient(W), depth, cut)

    if retract:
        W = nearest_of_rank(W, rank)
    recorder, h = Recorder("products"), t_final / steps
    recorder.add(0.0, loss.value(W), W, None)
    ended = TimeReached(t_final)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(1, steps + 1):
            new = _runge_kutta(velocity, W, h)
            value = loss.value(new) if new is not None else np.inf
            if not np.isfinite(value):
                ended = Diverged(step)
                break
            W = nearest_of_rank(new, rank) if retract else new
            recorder.add(step * h, value if not retract else loss.value(W), W, None)
    if isinstance(ended, Diverged):
        warn_ended("flow on the matrices of fixed rank", ended, DivergenceWarning)
    return recorder.trajectory(ended, None, 4 * steps)


def _runge_kutta(velocity, W, h):
    """One step of the classical method, or None where a stage is not finite."""
    total, stage = np.zeros_like(W), W
    for weight, reach in ((1, 0.5), (2, 0.5), (2, 1.0), (1, 0.0)):
        if not (np.isfinite(stage).all() and np.abs(stage).max() < 1e100):
            return None
        slope = velocity(stage)
        total += weight * slope
        stage = W + reach * h * slope
    return W + h / 6 * total


def _velocity(W, gradient, depth, cut):
    """Velocity of stacks of products; singular values from number `cut` on count as zero."""
    U, sigma, Vt = np.linalg.svd(W)
    left, right = np.zeros(W.shape[:-1]), np.zeros((*W.shape[:-2], W.shape[-1]))
    left[..., :cut] = right[..., :cut] = sigma[..., :cut]
    K = np.swapaxes(U, -1, -2) @ gradient @ np.swapaxes(Vt, -1, -2)
    return -U @ (_weights(left, right, depth) * K) @ Vt


def completion_limits(loss, starts, depth, tolerance=1e-10, longest=1e4, rtol=1e-5):
    """Follow product flows of matrix completion from many starts at once, to a small loss.

    Parameters
    ----------
    loss : dmflib.losses.Completion
    starts : array_like, shape (S, m, n)
        Invertible, or of full rank.
    depth : int or inf
        At least 1. At depth 1 the limits are known: the observed entries take their values.
    tolerance : float
        The runs end together when the largest loss is below it; positive.
    longest : float
        Time of the operator divided by `depth` at which the runs end at the latest.
    rtol : float
        Relative tolerance of the integrator, between 1e-12 and 1e-2.

    Returns
    -------
    ends : ndarray, shape (S, m, n)
    losses : ndarray, shape (S,)
        Below `tolerance`, unless `longest` was reached.

    Raises
    ------
    ValueError
        If `loss` is no completion problem or another argument is outside its range.
    """
    from scipy.integrate import DOP853

    if not isinstance(loss, Completion):
        _checks.fail("loss", loss, "a dmflib.losses.Completion")
    starts = _checks.array("starts", starts, shape=(None, *loss.shape))
    depth = _depth(depth)
    tolerance = _checks.real("tolerance", tolerance, above=0)
    longest = _checks.real("longest", longest, above=0)
    rtol = _checks.real("rtol", rtol, at_least=1e-12, at_most=1e-2)

    def residuals(W):
        return np.where(loss.mask, W - loss.target, 0.0)

    def values(W):
        return 0.5 * (residuals(W) ** 2).sum((1, 2))

    if depth == 1:
        ends = np.where(loss.mask, loss.target, starts)
        return ends, values(ends)
    clock = 1 if depth == np.inf else depth
    cut = min(loss.shape)

    def velocity(t, y):
        W = y.reshape(starts.shape)
        return _velocity(W, residuals(W), depth, cut).ravel() / clock

    small = np.abs(starts).max()
    solver = DOP853(velocity, 0.0, starts.ravel(), longest, rtol=rtol, atol=rtol**1.5 * small)
    while solver.status == "running":
        solver.step()
        if values(solver.y.reshape(starts.shape)).max() < tolerance:
            break
    ends = solver.y.reshape(starts.shape).copy()
    return ends, values(ends)


# --- geodesics -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Geodesic:
    """A geodesic at some moments.

    Parameters
    ----------
    times : ndarray, shape (T,)
        The moments asked for, up to the end.
    matrices : ndarray, shape (T, m, n)
    velocities : ndarray, shape (T, m, n)
    boundary : float or None
        Time at which the geodesic ran into the matrices of lower rank and ended, if it did.
    """

    times: np.ndarray
    matrices: np.ndarray
    velocities: np.ndarray
    boundary: float | None


def geodesic(W, Z, depth, times, rtol=1e-10):
    r"""Straightest path in the metric of the product flow from a matrix in a given direction.

    Integrates Hamilton's equations of :math:`H(W,P)=\tfrac12\langle P,\mathcal A_W(P)\rangle`,
    :math:`\dot W=\mathcal A_W(P)`, :math:`\dot P=-\partial H/\partial W`, with the derivatives of
    the matrix powers by divided differences.

    Parameters
    ----------
    W : array_like, shape (m, n)
        Of full rank.
    Z : array_like, shape (m, n)
        Velocity at the start; its length in the metric is the speed for all times.
    depth : int or inf
        At least 1; ``inf`` needs a square `W`.
    times : array_like, shape (T,)
        Increasing, none negative.
    rtol : float
        Relative tolerance, between 1e-13 and 1e-3.

    Returns
    -------
    Geodesic
        It ends early where the smallest singular value has fallen to 1e-6 of its start: for
        finite depth a geodesic can reach the matrices of lower rank in finite time.

    Raises
    ------
    ValueError
        If `W` has not full rank or another argument is outside its range.
    """
    from scipy.integrate import solve_ivp

    W = _matrix(W)
    Z = _checks.array("Z", Z, shape=W.shape)
    depth = _depth(depth)
    times = _checks.array("times", times, ndim=1)
    if times[0] < 0 or (np.diff(times) <= 0).any():
        _checks.fail("times", times, "increasing and not negative")
    rtol = _checks.real("rtol", rtol, at_least=1e-13, at_most=1e-3)
    frame = _Frame(W)
    if frame.rank < min(W.shape):
        _checks.fail("W", W, "of full rank")
    P = frame.outside(frame.inverse_weights(depth) * frame.check_tangent("Z", Z))
    terms = _terms(depth)

    def field(t, y):
        W, P = y.reshape(2, *frame_shape)
        return np.concatenate([part.ravel() for part in _hamilton(W, P, terms)])

    def reaches_boundary(t, y):
        W = y[: y.size // 2].reshape(frame_shape)
        return np.linalg.svd(W, compute_uv=False)[-1] - 1e-6 * frame.sigma[-1]

    frame_shape = W.shape
    reaches_boundary.terminal = True
    start = np.concatenate([W.ravel(), P.ravel()])
    if times[-1] == 0:
        return Geodesic(times, W[None].copy(), Z[None].copy(), None)
    run = solve_ivp(
        field, (0, times[-1]), start, "DOP853", t_eval=times, rtol=rtol,
        atol=1e-3 * rtol * frame.sigma[-1], events=reaches_boundary,
    )  # fmt: skip
    states = run.y.T.reshape(-1, 2, *W.shape)
    velocities = [_hamilton(*state, terms)[0] for state in states]
    met = run.t_events[0]
    return Geodesic(
        run.t,
        states[:, 0].copy(),
        np.reshape(velocities, (-1, *W.shape)),
        float(met[0]) if len(met) else None,
    )


def connecting_geodesic(start, end, depth, times, stages=4):
    r"""Find a geodesic from one square matrix to another one, by shooting.

    The end is moved along the straight line from the start in a few stages; each stage corrects
    the velocity of the one before. What is found is a geodesic, the shortest path at least if
    the two are near.

    Parameters
    ----------
    start, end : array_like, shape (n, n)
        Invertible, with determinants of one sign.
    depth : int or inf
        At least 1.
    times : array_like, shape (T,)
        Increasing, between 0 and 1, the times of `start` and `end`.
    stages : int
        At least 1; more of them for a long way.

    Returns
    -------
    Geodesic

    Raises
    ------
    ValueError
        If the matrices are not square, have different signs or no inverse, if another argument
        is outside its range, or if no geodesic is found with so many stages.
    """
    from scipy.optimize import root

    start = _checks.array("start", start, ndim=2)
    end = _checks.array("end", end, shape=start.shape)
    depth = _depth(depth)
    times = _checks.array("times", times, ndim=1)
    if times[0] < 0 or times[-1] > 1:
        _checks.fail("times", times, "between 0 and 1")
    stages = _checks.integer("stages", stages, at_least=1)
    if start.shape[0] != start.shape[1]:
        _checks.fail("start", start, "square")
    if np.linalg.det(start) * np.linalg.det(end) <= 0:
        _checks.fail("end", end, "invertible, with a determinant of the sign of that of start")

    def miss(velocity, target):
        path = geodesic(start, velocity.reshape(start.shape), depth, [1.0], rtol=1e-9)
        # Beyond the boundary there is no end to compare; a large miss sends the search back.
        reached = path.matrices[-1] if path.boundary is None else 1e3 * (1 + np.abs(target))
        return (reached - target).ravel()

    velocity = (end - start).ravel() / stages
    for stage in range(1, stages + 1):
        target = start + stage / stages * (end - start)
        found = root(miss, velocity, args=(target,), tol=1e-9)
        size = np.abs(end).max()
        if np.abs(miss(found.x, target)).max() > 1e-6 * size:
            _checks.fail("stages", stages, "larger: the shooting failed")
        velocity = found.x * (stage + 1) / stage if stage < stages else found.x
    return geodesic(start, velocity.reshape(start.shape), depth, times)


def _terms(depth):
    """Powers p, q and weights of the sum of (WW^T)^p Z (W^TW)^q that is the operator."""
    if depth == np.inf:
        q = (NODES + 1) / 2
        return 1 - q, q, NODE_WEIGHTS / 2
    j = np.arange(1, depth + 1)
    return (depth - j) / depth, (j - 1) / depth, np.ones(depth)


def _hamilton(W, P, terms):
    """Velocities of W and P: the operator on P, and minus the derivative of H with respect to W."""
    U, sigma, Vt = np.linalg.svd(W)
    left, right = np.zeros(W.shape[0]), np.zeros(W.shape[1])
    left[: len(sigma)] = right[: len(sigma)] = sigma**2
    K = U.T @ P @ Vt.T
    velocity, force = np.zeros_like(K), np.zeros_like(K)
    values = np.zeros_like(K)
    np.fill_diagonal(values, sigma)
    for p, q, weight in zip(*terms, strict=True):
        L, R = left**p, right**q
        velocity += weight * L[:, None] * K * R
        force += weight * (_divided_differences(left, p) * ((K * R) @ K.T)) @ values
        force += weight * values @ (_divided_differences(right, q) * ((K.T * L) @ K))
    return U @ velocity @ Vt, -U @ force @ Vt


def _divided_differences(x, p):
    """(x_i^p - x_j^p) / (x_i - x_j) without cancellation; 0 where both are 0."""
    large, small = np.maximum(x[:, None], x), np.minimum(x[:, None], x)
    out = np.zeros_like(large)
    if p == 0:
        return out
    # With r = ln(large / small): large^(p-1) (1 - e^(-pr)) / (1 - e^-r), and p where r = 0.
    inside = small > 0
    ratio = np.log(np.where(inside, large, 1.0)) - np.log(np.where(inside, small, 1.0))
    factor = np.divide(
        np.expm1(-p * ratio), np.expm1(-ratio), out=np.full_like(ratio, p), where=ratio > 0
    )
    np.power(large, p - 1, out=out, where=large > 0)
    return out * np.where(inside, factor, 1.0)


def diagonal_geodesic(start, end, depth, s):
    r"""Geodesic between two positive diagonal matrices, in closed form.

    On diagonal matrices the coordinates :math:`\sqrt N\,\sigma_r^{1/N}` are Cartesian, so the
    path is straight in the N-th roots; in the limit of infinite depth, in the logarithms. It is
    the shortest path among diagonal matrices; from depth 3 on a detour can be shorter.

    Parameters
    ----------
    start, end : array_like, shape (k,)
        Diagonals, not negative; positive for infinite depth.
    depth : int or inf
        At least 1.
    s : array_like, shape (T,)
        Fractions of the way, between 0 and 1.

    Returns
    -------
    ndarray, shape (T, k)

    Raises
    ------
    ValueError
        If a diagonal is negative, the lengths differ, or an argument is outside its range.
    """
    start = _checks.array("start", start, ndim=1)
    end = _checks.array("end", end, shape=start.shape)
    depth = _depth(depth)
    for name, values in (("start", start), ("end", end)):
        if (values < 0).any() or (depth == np.inf and (values == 0).any()):
            _checks.fail(name, values, "not negative, and positive for infinite depth")
    s = _checks.array("s", s, ndim=1)
    if s.min() < 0 or s.max() > 1:
        _checks.fail("s", s, "an array of fractions between 0 and 1")
    s = s[:, None]
    if depth == np.inf:
        return start ** (1 - s) * end**s
    return ((1 - s) * start ** (1 / depth) + s * end ** (1 / depth)) ** depth


# --- volume --------------------------------------------------------------------------------------


def _values_and_shape(sigma, shape, depth):
    """Check what both densities take: positive values, and a shape that can have that rank."""
    sigma = _checks.array("sigma", sigma, min_ndim=1)
    if (sigma <= 0).any():
        _checks.fail("sigma", sigma, "an array of positive numbers")
    k = sigma.shape[-1]
    if shape is None:
        shape = (k, k)
    try:
        m, n = (_checks.integer("shape", side, at_least=k) for side in shape)
    except (TypeError, ValueError):
        _checks.fail("shape", shape, f"two integers >= {k}")
    depth = _depth(depth)
    if depth == np.inf and (m, n) != (k, k):
        _checks.fail("depth", depth, "finite for matrices that are not square or of low rank")
    return sigma, m + n - 2 * k, depth


def log_volume(sigma, depth, shape=None):
    r"""Logarithm of the volume density in singular values and singular vectors.

    On the m by n matrices of rank k the Riemannian volume is
    :math:`v\,d\sigma_1\cdots d\sigma_k\,dU\,dV` with

    .. math:: v=N^{-k/2}\prod_r\sigma_r^{(m+n-2k+1)/N-1}
        \prod_{r<s}|\sigma_r^{2/N}-\sigma_s^{2/N}|,

    where dU and dV are the invariant volumes of orthonormal frames,
    :math:`\bigwedge_{r<s}u_r^Tdu_s` and so on. For k = m = n source B has
    :math:`N^{n(n-1)/2}` in place of :math:`N^{-n/2}`, which belongs to the operator divided by N.

    Parameters
    ----------
    sigma : array_like, shape (..., k)
        Positive singular values, in any order.
    depth : int or inf
        At least 1. For ``inf``, which needs square matrices of full rank, the limit
        :math:`\prod_r\sigma_r^{-1}\prod_{r<s}|\ln\sigma_r^2-\ln\sigma_s^2|` of the
        volume of the operator divided by N.
    shape : (int, int), optional
        Shape of the matrices; (k, k) where left out.

    Returns
    -------
    ndarray, shape (...), or float
        Minus infinity where two singular values are equal.

    Raises
    ------
    ValueError
        If a singular value is not positive or an argument is outside its range.
    """
    sigma, free, depth = _values_and_shape(sigma, shape, depth)
    k, logs = sigma.shape[-1], np.log(sigma)
    first, second = np.triu_indices(k, 1)
    high = np.maximum(logs[..., first], logs[..., second])
    gaps = np.abs(logs[..., first] - logs[..., second])
    with np.errstate(divide="ignore"):
        if depth == np.inf:
            return (np.log(2 * gaps).sum(-1) - logs.sum(-1))[()]
        differences = 2 / depth * high + np.log(-np.expm1(-2 / depth * gaps))
    powers = ((free + 1) / depth - 1) * logs.sum(-1)
    return (powers + differences.sum(-1) - k / 2 * np.log(depth))[()]


def log_density(sigma, depth, shape=None):
    r"""Logarithm of :math:`\sqrt{\det g}`, the volume density against the Euclidean volume.

    It is minus half the sum of the logarithms of the operator's eigenvalues on the tangent space.

    Parameters
    ----------
    sigma : array_like, shape (..., k)
        Positive singular values, in any order.
    depth : int or inf
        At least 1; ``inf`` needs square matrices of full rank.
    shape : (int, int), optional
        Shape of the matrices; (k, k) where left out.

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If a singular value is not positive or an argument is outside its range.
    """
    sigma, free, depth = _values_and_shape(sigma, shape, depth)
    inner = np.log(_weights(sigma, sigma, depth)).sum((-2, -1))
    outer = free * (2 - 2 / depth) * np.log(sigma).sum(-1)
    return (-(inner + outer) / 2)[()]


def volume_exponent(corank, depth, shape_gap=0):
    r"""Power of :math:`\varepsilon` with which the density v changes near matrices of lower rank.

    If `corank` singular values of a matrix of full rank are of size :math:`\varepsilon`, then
    :math:`v\sim\varepsilon^{-c(1-(c+|m-n|)/N)}` with c the corank.

    Parameters
    ----------
    corank : int
        Number of small singular values, at least 0.
    depth : int or inf
        At least 1. For ``inf`` logarithms come on top of the power.
    shape_gap : int
        :math:`|m-n|`, at least 0.

    Returns
    -------
    float
        Negative where v tends to infinity.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    c = _checks.integer("corank", corank, at_least=0)
    gap = _checks.integer("shape_gap", shape_gap, at_least=0)
    return float(-c * (1 - (c + gap) / _depth(depth))) + 0.0  # no negative zero


def density_exponent(corank, depth, shape_gap=0):
    r"""Power of :math:`\varepsilon` with which :math:`\sqrt{\det g}` changes near lower rank.

    It is :math:`-c(c+|m-n|)(1-1/N)` with c the corank: never positive.

    Parameters
    ----------
    corank : int
        Number of small singular values, at least 0.
    depth : int or inf
        At least 1. For ``inf`` logarithms come on top of the power.
    shape_gap : int
        :math:`|m-n|`, at least 0.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    c = _checks.integer("corank", corank, at_least=0)
    gap = _checks.integer("shape_gap", shape_gap, at_least=0)
    return float(-c * (c + gap) * (1 - 1 / _depth(depth))) + 0.0


def random_point(seed):
    """Matrix of random shape and rank, two tangent directions and a depth, to try claims on.

    Parameters
    ----------
    seed : int

    Returns
    -------
    W, Z1, Z2 : ndarray, shape (m, n)
        Up to 5 rows and columns; the ranks run from 1 to full, the sizes over four decades.
    depth : int
        2 to 6, in turn.

    Raises
    ------
    ValueError
        If `seed` is not a non-negative integer.
    """
    seed = _checks.integer("seed", seed, at_least=0)
    rng = np.random.default_rng(seed)
    m, n = rng.integers(1, 6, 2)
    rank = int(rng.integers(1, min(m, n) + 1))
    W = rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n)) * 10 ** rng.uniform(-2, 2)
    A, B = rng.standard_normal((2, m, m)), rng.standard_normal((2, n, n))
    Z1, Z2 = A @ W + W @ B
    return W, Z1, Z2, 2 + seed % 5
