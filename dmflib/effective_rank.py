r"""Effective ranks: their inequalities, what a small loss does to them, and their plateaus.

Three numbers stand in for the rank of a matrix with singular values
:math:`\sigma_1\ge\sigma_2\ge\dots` and move continuously: the *stable* rank
:math:`\sum_i\sigma_i^2/\sigma_1^2`, the *nuclear* rank :math:`\sum_i\sigma_i/\sigma_1` and the
*entropy* rank :math:`e^H`, where H is the entropy of :math:`\rho_i=\sigma_i/\sum_j\sigma_j`. They
are computed by `dmflib.matrices.effective_rank`; this module holds what is known about them.

The second part is about completing :math:`\begin{pmatrix}*&1\\1&0\end{pmatrix}` with the loss
:math:`\ell(W)=\tfrac12\bigl((W_{12}-1)^2+(W_{21}-1)^2+W_{22}^2\bigr)`. For every W

.. math:: 2\det W\le\ell(W)\,\|W\|_F^2 ,

and from this follow the largest effective ranks that a positive determinant leaves.

The third part is about gradient descent from the identical start on a symmetric target. In the
target's eigenbasis every eigenvalue :math:`\sigma` of the product moves alone; the flow is
:math:`\dot\sigma=N\sigma^{2-2/N}(\lambda-\sigma)`. Times at which it crosses a level give the
plateaus of the effective rank.
"""

import math

import numpy as np

from dmflib import _checks
from dmflib.matrices import EFFECTIVE_RANKS, effective_rank_of_spectrum

# --- three ranks --------------------------------------------------------------------------------


def rank_chain(sigma):
    r"""Four effective ranks and the rank of a spectrum, from the smallest to the largest.

    They are the stable rank, the nuclear rank, the participation ratio
    :math:`(\sum_i\sigma_i)^2/\sum_i\sigma_i^2`, the entropy rank and the rank. Each is at most
    the next, and two of them agree only if all positive singular values are equal.

    Parameters
    ----------
    sigma : array_like, shape (..., r)
        Singular values in any order; their signs do not matter, not all of them zero. The rank
        counts every value that is not exactly zero.

    Returns
    -------
    ndarray, shape (..., 5)

    Raises
    ------
    ValueError
        If a spectrum is empty, zero or not finite.
    """
    sigma = np.abs(_checks.array("sigma", sigma, min_ndim=1))
    stable, nuclear, entropy = (
        effective_rank_of_spectrum(sigma, kind) for kind in ("stable", "nuclear", "entropy")
    )
    rank = np.count_nonzero(sigma, axis=-1)
    return np.stack([stable, nuclear, nuclear**2 / stable, entropy, rank], axis=-1)


def disagreeing_spectrum(count):
    r"""One singular value 1 and `count` singular values ``1 / count``.

    Its stable rank is :math:`1+1/K`, its nuclear rank 2, its entropy rank :math:`2\sqrt K` and its
    rank :math:`K+1`, where K is `count`.

    Parameters
    ----------
    count : int
        At least 1.

    Returns
    -------
    ndarray, shape (count + 1,)

    Raises
    ------
    ValueError
        If `count` is not a positive integer.
    """
    count = _checks.integer("count", count, at_least=1)
    return np.append(1.0, np.full(count, 1 / count))


def shaped_spectrum(size, decay, gap=1.0, after=1, floor=0.0):
    r"""A spectrum that falls like a power, with a gap in one place and a noise floor.

    The values are :math:`\max(g_ii^{-p},\,f)` with :math:`g_i=1` up to the index `after` and
    :math:`1/` `gap` beyond it.

    Parameters
    ----------
    size : int
        How many values, at least 1.
    decay : float
        The exponent p, at least 0.
    gap : float
        Factor by which the values after the gap are smaller, at least 1.
    after : int
        Index of the last value before the gap, at least 1.
    floor : float
        The least value f, between 0 and 1.

    Returns
    -------
    ndarray, shape (size,)
        Largest first; the first is 1.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    size = _checks.integer("size", size, at_least=1)
    decay = _checks.real("decay", decay, at_least=0)
    gap = _checks.real("gap", gap, at_least=1)
    after = _checks.integer("after", after, at_least=1)
    floor = _checks.real("floor", floor, at_least=0, at_most=1)
    sigma = np.arange(1.0, size + 1) ** -decay
    sigma[after:] /= gap
    return np.maximum(sigma, floor)


def truncation_gap(sigma, rank, tolerance):
    r"""Largest change of the nuclear rank near the truncation of a spectrum.

    Let :math:`r_L` be the nuclear rank of the first L of n singular values
    :math:`\sigma_1\ge\sigma_2\ge\dots`. A matrix whose first L singular values are within
    :math:`\delta<\sigma_1` of these, and whose others are at most :math:`\delta`, has a nuclear
    rank within

    .. math:: \frac{\delta\,(n+r_L-2)}{\sigma_1-\delta}

    of :math:`r_L` (source A, section 4, made precise). No smaller bound holds if
    :math:`\sigma_2+2\delta\le\sigma_1`, where for :math:`L=1` zero stands for
    :math:`\sigma_2`.

    Parameters
    ----------
    sigma : array_like, shape (n,)
        Singular values in any order; their signs do not matter.
    rank : int
        The L of the truncation, between 1 and n.
    tolerance : float
        The :math:`\delta`, at least 0 and below the largest singular value.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    sigma = np.sort(np.abs(_checks.array("sigma", sigma, ndim=1)))[::-1]
    rank = _rank(rank, len(sigma))
    tolerance = _checks.real("tolerance", tolerance, at_least=0, below=float(sigma[0]))
    kept = sigma[:rank].sum() / sigma[0]
    # Written without the 2, so that one singular value alone gives zero and no rounding error.
    return float(tolerance * ((len(sigma) - 1) + (kept - 1)) / (sigma[0] - tolerance))


# --- a small loss and a positive determinant ----------------------------------------------------


def completion_loss(W):
    """Half the sum of squared errors in the observed entries of (* 1; 1 0).

    Parameters
    ----------
    W : array_like, shape (..., 2, 2)

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If `W` is not a stack of finite 2 by 2 matrices.
    """
    W = _two_by_two(W)
    return (((W[..., 0, 1] - 1) ** 2 + (W[..., 1, 0] - 1) ** 2 + W[..., 1, 1] ** 2) / 2)[()]


def two_by_two_spectrum(W):
    r"""Both singular values of 2 by 2 matrices, the small one to relative accuracy.

    :math:`\sigma_1+\sigma_2` and :math:`|\sigma_1-\sigma_2|` are the lengths
    :math:`\sqrt{(a+d)^2+(c-b)^2}` and :math:`\sqrt{(a-d)^2+(b+c)^2}` in some order, and
    :math:`\sigma_2=|\det W|/\sigma_1`. The usual algorithm has an error of
    :math:`10^{-16}\sigma_1` in :math:`\sigma_2`; here the error is that of the determinant.

    Parameters
    ----------
    W : array_like, shape (..., 2, 2)

    Returns
    -------
    ndarray, shape (..., 2)

    Raises
    ------
    ValueError
        If `W` is not a stack of finite 2 by 2 matrices.
    """
    W = _two_by_two(W)
    # Scaled by a power of two, so that products of entries neither overflow nor vanish.
    exponent = np.frexp(np.abs(W).max(axis=(-2, -1)))[1]
    W = np.ldexp(W, -exponent[..., None, None])
    a, b, c, d = W[..., 0, 0], W[..., 0, 1], W[..., 1, 0], W[..., 1, 1]
    largest = (np.hypot(a + d, c - b) + np.hypot(a - d, b + c)) / 2
    smallest = np.abs(determinant(W)) / np.where(largest > 0, largest, 1)
    return np.ldexp(np.stack([largest, smallest], axis=-1), exponent[..., None])


def determinant(W):
    """Determinant of 2 by 2 matrices, ``a*d - b*c``.

    Entries below 1e-154 may give zero.

    Parameters
    ----------
    W : array_like, shape (..., 2, 2)

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If `W` is not a stack of finite 2 by 2 matrices.
    """
    W = _two_by_two(W)
    return (W[..., 0, 0] * W[..., 1, 1] - W[..., 0, 1] * W[..., 1, 0])[()]


def binary_entropy(rho):
    r"""Entropy of the two weights :math:`\rho` and :math:`1-\rho`, in natural units.

    Parameters
    ----------
    rho : array_like
        Numbers between 0 and 1.

    Returns
    -------
    ndarray, of the shape of `rho`, or float

    Raises
    ------
    ValueError
        If a number is outside the interval.
    """
    rho = _checks.array("rho", rho)
    if (rho < 0).any() or (rho > 1).any():
        _checks.fail("rho", rho, "between 0 and 1")
    # log1p keeps the second term where rho is tiny; weight zero counts as 0 * log 0 = 0.
    first = rho * np.log(rho, out=np.zeros_like(rho), where=rho > 0)
    second = (1 - rho) * np.log1p(-rho, out=np.zeros_like(rho), where=rho < 1)
    return np.abs(first + second)[()]


def ratio_bound(loss):
    r"""Largest :math:`\sigma_2/\sigma_1` that a positive determinant leaves at a given loss.

    Below the loss :math:`\ell=1` it is :math:`(1-\sqrt{1-\ell^2})/\ell`, about
    :math:`\ell/2`; from there on it is 1. Below 1 it is attained, by `extremal_completion`.

    Parameters
    ----------
    loss : array_like
        Values of the loss on (* 1; 1 0), at least 0.

    Returns
    -------
    ndarray, of the shape of `loss`, or float

    Raises
    ------
    ValueError
        If a value is negative or not finite.
    """
    loss = np.minimum(_losses(loss), 1)
    # The same number without a difference of nearly equal ones.
    return (loss / (1 + np.sqrt((1 - loss) * (1 + loss))))[()]


def rank_bound(loss, kind="entropy"):
    r"""Largest effective rank that a positive determinant leaves at a given loss.

    With q of `ratio_bound` it is :math:`1+q` for the nuclear rank, :math:`1+q^2` for the stable
    rank and :math:`e^{h(q/(1+q))}` for the entropy rank, where h is `binary_entropy`. For small
    losses these are :math:`1+\ell/2`, :math:`1+\ell^2/4` and :math:`1+\tfrac\ell2\ln(2e/\ell)`.
    The bound :math:`1+\sqrt\ell` of the form of source C, equation 12, follows from each.

    Parameters
    ----------
    loss : array_like
        Values of the loss on (* 1; 1 0), at least 0.
    kind : {"entropy", "nuclear", "stable"}
        See `dmflib.matrices.effective_rank`.

    Returns
    -------
    ndarray, of the shape of `loss`, or float

    Raises
    ------
    ValueError
        If `kind` is unknown or a loss is negative or not finite.
    """
    _checks.choice("kind", kind, EFFECTIVE_RANKS)
    q = np.asarray(ratio_bound(loss))
    return effective_rank_of_spectrum(np.stack([np.ones_like(q), q], axis=-1), kind)


def infimal_distance_bound(loss):
    r"""Largest distance to rank 1 that a positive determinant leaves at a given loss.

    It is :math:`\sqrt{2\ell}` (source C, equation 13, with its constant). No matrix attains it,
    and no smaller bound holds.

    Parameters
    ----------
    loss : array_like
        Values of the loss on (* 1; 1 0), at least 0.

    Returns
    -------
    ndarray, of the shape of `loss`, or float

    Raises
    ------
    ValueError
        If a value is negative or not finite.
    """
    return np.sqrt(2 * _losses(loss))[()]


def extremal_completion(loss):
    r"""The matrix of a given loss with positive determinant whose effective ranks are largest.

    It is :math:`\begin{pmatrix}d/\ell&1-\ell\\1-\ell&d\end{pmatrix}` with
    :math:`d=\sqrt{2\ell(1-\ell)}`, and :math:`2\det W=\ell\,\|W\|_F^2`.

    Parameters
    ----------
    loss : array_like
        Values between 0 and 1, both excluded.

    Returns
    -------
    ndarray, shape (..., 2, 2)

    Raises
    ------
    ValueError
        If a value is outside the interval.
    """
    loss = _losses(loss)
    if (loss <= 0).any() or (loss >= 1).any():
        _checks.fail("loss", loss, "between 0 and 1, both excluded")
    d = np.sqrt(2 * loss * (1 - loss))
    return np.stack([d / loss, 1 - loss, 1 - loss, d], axis=-1).reshape(*loss.shape, 2, 2)


def random_completions(count, rng=None):
    r"""Random 2 by 2 matrices with positive determinant, many of them near the extremal ones.

    A third has errors in random directions and a first entry of random size. A third consists of
    `extremal_completion` with relative errors between :math:`10^{-6}` and 1. A third has its
    whole error in the last entry and a large first entry: there the distance to rank 1 is largest.
    Losses lie between :math:`10^{-6}` and about 2. Matrices with another determinant are thrown
    away.

    Parameters
    ----------
    count : int
        How many are drawn before that, at least 3.
    rng : numpy.random.Generator, int or None
        Source of randomness, or a seed.

    Returns
    -------
    ndarray, shape (k, 2, 2)
        With k at most `count`.

    Raises
    ------
    ValueError
        If `count` is too small.
    """
    third = _checks.integer("count", count, at_least=3) // 3
    rng = _checks.generator("rng", rng)
    size = 10 ** rng.uniform(-3, 0.3, third)
    errors = rng.standard_normal((third, 3))
    errors *= size[:, None] / np.linalg.norm(errors, axis=1, keepdims=True)
    first = rng.choice([-1, 1], third) * 10 ** rng.uniform(-2, 6, third)
    anywhere = np.stack([first, 1 + errors[:, 0], 1 + errors[:, 1], errors[:, 2]], axis=-1)
    near = extremal_completion(10 ** rng.uniform(-6, -0.01, third)).reshape(third, 4)
    near *= 1 + 10 ** rng.uniform(-6, 0, (third, 1)) * rng.standard_normal((third, 4))
    huge = 10 ** rng.uniform(1, 6, third) / size
    corner = np.stack([huge, np.ones(third), np.ones(third), size], axis=-1)
    W = np.concatenate([anywhere, near, corner]).reshape(-1, 2, 2)
    return W[determinant(W) > 0]


# --- plateaus -----------------------------------------------------------------------------------


def rise_time(eigenvalue, depth, start, end):
    r"""Time in which the flow of one eigenvalue of the product rises from one value to another.

    The flow from the identical start moves an eigenvalue :math:`\sigma` of the product by
    :math:`\dot\sigma=N\sigma^{2-2/N}(\lambda-\sigma)` (source A, section 2, as a flow). The time
    is an integral, computed by Gauss–Legendre quadrature in :math:`\ln(\sigma/(\lambda-\sigma))`,
    where the integrand is a smooth exponential.

    Parameters
    ----------
    eigenvalue : float
        The target's eigenvalue :math:`\lambda>0`.
    depth : int
        Number :math:`N` of factors, at least 1.
    start, end : float
        With ``0 < start <= end < eigenvalue``.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    lam = _checks.real("eigenvalue", eigenvalue, above=0)
    depth = _checks.integer("depth", depth, at_least=1)
    start = _checks.real("start", start, above=0, below=lam)
    end = _checks.real("end", end, at_least=start, below=lam)
    low = math.log(start) - math.log(lam - start)
    # Not the difference of two logarithms: a short way keeps its digits.
    width = math.log1p((end - start) / start) + math.log1p((end - start) / (lam - end))
    pieces = max(1, math.ceil(width))
    nodes, weights = np.polynomial.legendre.leggauss(16)
    half = width / (2 * pieces)
    u = low + half * (2 * np.arange(pieces)[:, None] + 1 + nodes)
    # sigma = lam / (1 + exp(-u)), and the integrand is sigma**(2/N - 1) / (N lam).
    logs = math.log(lam) - np.logaddexp(0, -u)
    return float(half * (np.exp((2 / depth - 1) * logs) @ weights).sum() / (depth * lam))


def plateau_interval(eigenvalues, depth, scale, rank, tolerance):
    r"""When the flow has recovered the largest eigenvalues and no other one has begun to show.

    The interval starts at the last time at which one of the L largest eigenvalues comes within
    :math:`\delta` of its target, and ends at the first time at which another one exceeds
    :math:`\delta` (source A, section 4, made precise). In between, the nuclear rank of the
    product is within `truncation_gap` of that of the best approximation of rank L.

    Parameters
    ----------
    eigenvalues : array_like, shape (n,)
        Eigenvalues of the symmetric target, in any order.
    depth : int
        Number of factors, at least 1.
    scale : float
        Every factor starts as ``scale`` times the identity; positive.
    rank : int
        The L, between 1 and n; as many eigenvalues must exceed `tolerance`.
    tolerance : float
        The :math:`\delta`, above ``scale ** depth``.

    Returns
    -------
    start, end : float
        Times of the flow of half the squared distance. There is no plateau if
        ``start >= end``; `end` is infinite if no other eigenvalue ever exceeds `tolerance`.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    lam, depth, origin, rank, tolerance = _plateau(eigenvalues, depth, scale, rank, tolerance)
    recovery = [rise_time(x, depth, origin, max(origin, x - tolerance)) for x in lam[:rank]]
    escape = [rise_time(x, depth, origin, tolerance) for x in lam[rank:] if x > tolerance]
    return max(recovery), min(escape, default=math.inf)


def descent_plateau(eigenvalues, depth, scale, step_size, rank, tolerance):
    r"""Steps of gradient descent that are certain to lie on a plateau of the effective rank.

    Let :math:`M=(N-1)\lambda^{2-2/N}` and :math:`K=N\lambda^{2-2/N}`. A step of descent lasts at
    least :math:`\eta/(1+\eta M)` of the flow's time and at most :math:`\eta/(1-\eta K)`, or at
    most :math:`\eta` while the eigenvalue is below :math:`\lambda(N-1)/(2N-1)`. So recovery
    takes at most :math:`(1+\eta M)T/\eta` steps, rounded up, where T is the flow's time, and
    escape at least :math:`(1-\eta K)T/\eta`, or :math:`T/\eta` at a low level.

    Parameters
    ----------
    eigenvalues : array_like, shape (n,)
        Eigenvalues of the symmetric target, in any order.
    depth : int
        Number of factors, at least 2.
    scale : float
        Every factor starts as ``scale`` times the identity; positive.
    step_size : float
        Positive and at most :math:`1/(N\lambda_1^{2-2/N})`, so that no eigenvalue overshoots its
        target, and :math:`1/(\alpha^{N-2}(\alpha^N-\lambda_n))`, so that none which falls
        changes its sign.
    rank : int
        The L, between 1 and n; as many eigenvalues must exceed `tolerance`.
    tolerance : float
        The :math:`\delta`, above ``scale ** depth``.

    Returns
    -------
    first, last : float
        Whole numbers; there is no certain step if ``first > last``. `last` is infinite if no
        other eigenvalue ever exceeds `tolerance`.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    depth = _checks.integer("depth", depth, at_least=2)
    lam, depth, origin, rank, tolerance = _plateau(eigenvalues, depth, scale, rank, tolerance)
    rising = depth * lam[0] ** (2 - 2 / depth)
    # On [0, alpha] a step multiplies d by 1 - eta d**(N-2) (d**N - lam): never negative.
    falling = origin ** (1 - 2 / depth) * (origin - lam[-1])
    # The caller may have rounded the limit in another order of operations.
    limit = (1 + 1e-12) / max(rising, falling)
    eta = _checks.real("step_size", step_size, above=0, at_most=limit)
    first, last = 0.0, math.inf
    for x in lam[:rank]:
        slowing = 1 + eta * (depth - 1) * x ** (2 - 2 / depth)
        time = rise_time(x, depth, origin, max(origin, x - tolerance))
        first = max(first, math.ceil(slowing * time / eta))
    for x in lam[rank:][lam[rank:] > tolerance]:
        # Below `low` the flow accelerates. Both times are lower bounds of steps times step size.
        low = min(tolerance, max(origin, x * (depth - 1) / (2 * depth - 1)))
        hastening = 1 - eta * depth * x ** (2 - 2 / depth)
        certain = max(
            rise_time(x, depth, origin, low),
            hastening * rise_time(x, depth, origin, tolerance),
        )
        last = min(last, math.ceil(certain / eta) - 1)
    return float(first), float(last)


def eigenvalue_path(eigenvalues, depth, scale, step_size, steps):
    r"""Eigenvalues of the product along gradient descent from the identical start.

    Each factor stays a matrix with the target's eigenvectors and one number d for each of them,
    which moves by :math:`d\leftarrow d+\eta\,d^{N-1}(\lambda-d^N)` (source A, lemma 2.1).

    Parameters
    ----------
    eigenvalues : array_like, shape (n,)
        Eigenvalues of the symmetric target, in any order.
    depth : int
        Number of factors, at least 1.
    scale : float
        Every factor starts as ``scale`` times the identity; positive.
    step_size : float
        Positive.
    steps : array_like of int
        Steps that are wanted, in increasing order.

    Returns
    -------
    ndarray, shape (len(steps), n)

    Raises
    ------
    ValueError
        If an argument is outside its range, or a value is no longer finite; the message then
        names the step.
    """
    lam = _checks.array("eigenvalues", eigenvalues, ndim=1)
    depth = _checks.integer("depth", depth, at_least=1)
    scale = _checks.real("scale", scale, above=0)
    eta = _checks.real("step_size", step_size, above=0)
    wanted = _checks.array("steps", steps, ndim=1)
    if (wanted != np.floor(wanted)).any() or wanted[0] < 0 or (np.diff(wanted) <= 0).any():
        _checks.fail("steps", wanted, "increasing non-negative integers")
    d, done, path = np.full(lam.shape, scale), 0, []
    with np.errstate(over="ignore", invalid="ignore"):
        for step in wanted.astype(int).tolist():
            for now in range(done, step):
                power = d ** (depth - 1)
                d = d + eta * power * (lam - power * d)
                if not np.isfinite(d).all():
                    allowed = f"small enough; descent diverges at step {now + 1}"
                    _checks.fail("step_size", eta, allowed)
            done = step
            path.append(d**depth)
    return np.array(path)


def longest_plateau(times, ranks, tolerance=0.05):
    """The stretch of a path, longest on a logarithmic clock, in which the effective rank rests.

    A stretch rests if its effective ranks differ by at most `tolerance`. The stretches that touch
    the first or the last time do not count: every start rests, and so does every end.

    Parameters
    ----------
    times : array_like, shape (T,)
        Positive and increasing, for example steps.
    ranks : array_like, shape (T,)
        Effective rank at each time.
    tolerance : float
        Positive.

    Returns
    -------
    first, last : int
        Indices of the stretch's ends.

    Raises
    ------
    ValueError
        If an argument is outside its range, or no stretch remains.
    """
    times = _checks.array("times", times, ndim=1)
    ranks = _checks.array("ranks", ranks, shape=times.shape)
    tolerance = _checks.real("tolerance", tolerance, above=0)
    if times[0] <= 0 or (np.diff(times) <= 0).any():
        _checks.fail("times", times, "positive and increasing")
    ends, first = [], 0  # ends[i] is the first index of the longest rest that ends at i
    for last in range(len(times)):
        while np.ptp(ranks[first : last + 1]) > tolerance:
            first += 1
        ends.append(first)
    resting_at_start = sum(first == 0 for first in ends)  # so many indices belong to the start
    between = range(resting_at_start, ends[-1])
    lengths = {last: np.log(times[last] / times[ends[last]]) for last in between}
    lengths = {last: x for last, x in lengths.items() if ends[last] >= resting_at_start and x > 0}
    if not lengths:
        _checks.fail("ranks", ranks, "such that some stretch rests between the start and the end")
    last = max(lengths, key=lengths.get)
    return ends[last], last


def noisy_target(size, eigenvalues, noise, rng=None):
    r"""A symmetric matrix of low rank, and the same with symmetric Gaussian noise.

    The noise has entries of standard deviation `noise` off the diagonal; for large sizes its
    spectral norm is near ``2 * noise * sqrt(size)``.

    Parameters
    ----------
    size : int
        Number of rows, at least that of the eigenvalues.
    eigenvalues : array_like, shape (r,)
        Eigenvalues of the clean matrix that are not zero; its eigenvectors are random.
    noise : float
        At least 0.
    rng : numpy.random.Generator, int or None
        Source of randomness, or a seed.

    Returns
    -------
    clean, noisy : ndarray, shape (size, size)

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    lam = _checks.array("eigenvalues", eigenvalues, ndim=1)
    size = _checks.integer("size", size, at_least=len(lam))
    noise = _checks.real("noise", noise, at_least=0)
    rng = _checks.generator("rng", rng)
    V = np.linalg.qr(rng.standard_normal((size, len(lam))))[0]
    clean = (V * lam) @ V.T
    G = rng.standard_normal((size, size))
    return clean, clean + noise * (G + G.T) / math.sqrt(2)


# --- real data ----------------------------------------------------------------------------------


def sample_image():
    """A photograph of Grace Hopper in grey, from the data that matplotlib ships.

    Returns
    -------
    ndarray, shape (600, 512)
        Brightness between 0 (black) and 1.
    """
    import matplotlib.image

    colours = np.asarray(matplotlib.image.imread(_sample_data("grace_hopper.jpg")), dtype=float)
    return colours @ [0.299, 0.587, 0.114] / 255


def sample_returns():
    """Monthly returns of eight companies' stocks, from the data that matplotlib ships.

    Returns
    -------
    returns : ndarray, shape (months, 8)
        Differences of the logarithms of the prices, for all months in which all eight were
        traded, 2016 to 2022. The file's last line repeats the month before it and is left out.
    names : list of str
        The companies' ticker symbols.
    """
    with open(_sample_data("Stocks.csv"), encoding="utf-8") as file:
        lines = [line.strip().split(",") for line in file if not line.startswith("#")]
    names = lines[0][1:9]
    prices = np.array([[float(x) for x in line[1:9]] for line in lines[1:-1] if all(line[1:9])])
    return np.diff(np.log(prices), axis=0), names


def shuffled(A, rng=None):
    """The same entries in random places.

    Parameters
    ----------
    A : array_like, shape (m, n)
    rng : numpy.random.Generator, int or None
        Source of randomness, or a seed.

    Returns
    -------
    ndarray, shape (m, n)

    Raises
    ------
    ValueError
        If `A` is not a finite matrix.
    """
    A = _checks.array("A", A, ndim=2)
    return _checks.generator("rng", rng).permutation(A.ravel()).reshape(A.shape)


def truncated(A, rank):
    """The nearest matrix of rank at most `rank`, from the singular value decomposition.

    Parameters
    ----------
    A : array_like, shape (m, n)
    rank : int
        At least 0.

    Returns
    -------
    ndarray, shape (m, n)

    Raises
    ------
    ValueError
        If `A` is not a finite matrix or `rank` is not a non-negative integer.
    """
    A = _checks.array("A", A, ndim=2)
    rank = _checks.integer("rank", rank, at_least=0)
    U, sigma, Vt = np.linalg.svd(A, full_matrices=False)
    return (U[:, :rank] * sigma[:rank]) @ Vt[:rank]


# --- checks -------------------------------------------------------------------------------------


def _sample_data(name):
    import matplotlib

    return f"{matplotlib.get_data_path()}/sample_data/{name}"


def _two_by_two(W):
    W = _checks.matrices("W", W)
    if W.shape[-2:] != (2, 2):
        raise ValueError(f"W has shape {W.shape}: W must be a stack of 2 by 2 matrices")
    return W


def _losses(loss):
    loss = _checks.array("loss", loss)
    if (loss < 0).any():
        _checks.fail("loss", loss, "at least 0")
    return loss


def _rank(rank, size):
    rank = _checks.integer("rank", rank, at_least=1)
    if rank > size:
        _checks.fail("rank", rank, f"at most {size}, the number of singular values")
    return rank


def _plateau(eigenvalues, depth, scale, rank, tolerance):
    """Return sorted eigenvalues, depth, the start's eigenvalue, rank and tolerance."""
    lam = np.sort(_checks.array("eigenvalues", eigenvalues, ndim=1))[::-1]
    depth = _checks.integer("depth", depth, at_least=1)
    scale = _checks.real("scale", scale, above=0)
    rank = _rank(rank, len(lam))
    origin = scale**depth
    if lam[rank - 1] <= origin:
        _checks.fail(
            "rank", rank, f"at most {(lam > origin).sum()}, the eigenvalues above {origin:g}"
        )
    tolerance = _checks.real("tolerance", tolerance, above=origin, below=float(lam[rank - 1]))
    return lam, depth, origin, rank, tolerance
