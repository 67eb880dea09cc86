r"""Gradient descent from the identical start on a symmetric target, one eigenvalue at a time.

All N factors start as :math:`\alpha I` and the loss is :math:`\tfrac12\|W-\hat W\|_F^2` with
:math:`\hat W=V\operatorname{diag}(\lambda_1,\dots,\lambda_n)V^{\mathsf T}`. Then all factors stay
equal to one matrix :math:`V\operatorname{diag}(d_1,\dots,d_n)V^{\mathsf T}`, and each entry moves
alone: descent is the recursion :math:`d\leftarrow d+\eta\,v(d)` and the flow is
:math:`\dot d=v(d)`, with the *velocity*

.. math:: v(d)=d^{N-1}(\lambda-d^N),\qquad d(0)=\alpha>0 .

The entry ends at :math:`\lambda_+^{1/N}`, where :math:`\lambda_+=\max(\lambda,0)`. In this module
a *value* is an entry d; the eigenvalue of the product is :math:`d^N`.

The time of the flow between two values is an integral with a closed form (see `flow_time`).
Steps of descent are counted by that time: `clock_bounds` bounds their number from both sides, and
`iteration_bound` is the published bound (source A, equation 2.6).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dmflib import _checks
from dmflib.stopping import Diverged, DivergenceWarning, warn_ended
from dmflib.trajectory import Ranked, recorded_steps

FEW = 12  # up to so many numbers a loop over Python's floats is faster than numpy's arrays

# The argument of `ceil` is enlarged by its own rounding error before it is rounded up.
GUARD = 1 + 1e-11


@dataclass(frozen=True)
class Dynamics(Ranked):
    """The recorded entries of the factors, and what follows from them.

    Its method ``effective_rank(kind)`` is that of `dmflib.trajectory.Ranked`.

    Parameters
    ----------
    times : ndarray of int, shape (T,)
        Step numbers; the first is 0 and the last the end of the run.
    values : ndarray, shape (T, n)
        Entries d of the diagonal matrix that all factors are, in the target's eigenbasis.
    depth : int
        Number of factors.
    stopped_by : Diverged or None
        None where all steps were taken.
    """

    times: np.ndarray
    values: np.ndarray
    depth: int
    stopped_by: Diverged | None = None

    @property
    def eigenvalues(self):
        """Eigenvalues of the product, ``values ** depth``, shape (T, n)."""
        return self.values**self.depth

    _spectra = eigenvalues


def dynamics(eigenvalues, depth, scale, step_size, steps, record=1, strict=False):
    r"""Run gradient descent from the identical start on the eigenvalues (source A, equation 2.5).

    Parameters
    ----------
    eigenvalues : array_like, shape (n,)
        Eigenvalues of the symmetric target, of any sign and order.
    depth : int
        Number of factors, at least 1.
    scale : float
        Every factor starts as ``scale`` times the identity; positive.
    step_size : float
        Positive.
    steps : int
        Number of steps, at least 0.
    record : int or array_like of int
        Record every so many steps, or exactly these steps. The start and the end are always
        recorded; memory is that of the records alone.
    strict : bool
        Whether to refuse a step size that the theorem does not cover, see `max_step_size`.

    Returns
    -------
    Dynamics
        A run that diverges ends at the last finite state, with `Diverged` in ``stopped_by`` and a
        `DivergenceWarning` that names the step.

    Raises
    ------
    ValueError
        If an argument is outside its range; with `strict`, the message gives the limit.
    """
    lam = _checks.array("eigenvalues", eigenvalues, ndim=1)
    depth = _checks.integer("depth", depth, at_least=1)
    scale = _checks.real("scale", scale, above=0)
    step_size = _checks.real("step_size", step_size, above=0)
    steps = _checks.integer("steps", steps, at_least=0)
    if strict:
        limit = float(max_step_size(lam, depth, scale))
        if step_size >= limit:
            allowed = f"< {limit:.6g}, the limit of the theorem for this spectrum and scale"
            _checks.fail("step_size", step_size, allowed)
    times = np.array(recorded_steps(record, steps))
    values, lost = _run(lam, depth, scale, step_size, times)
    if lost is None:
        return Dynamics(times, values, depth)
    # The last finite state was not recorded yet, so the run is repeated up to it.
    times = np.append(times[times < lost - 1], lost - 1)
    values, _ = _run(lam, depth, scale, step_size, times)
    ended = Diverged(int(lost))
    warn_ended("gradient descent", ended, DivergenceWarning)
    return Dynamics(times, values, depth, ended)


def _run(lam, depth, scale, step_size, times):
    """Values at the given steps, and the first step with one that is not finite, or None."""
    if lam.size <= FEW:
        columns, lost = [], None
        for target in lam.tolist():
            column, at = _run_one(target, depth, scale, step_size, times.tolist())
            columns.append(column)
            lost = at if lost is None else lost if at is None else min(at, lost)
        return (None, lost) if lost else (np.array(columns).T, None)
    values = np.empty((len(times), lam.size))
    values[0] = d = np.full(lam.size, scale)
    with np.errstate(over="ignore", invalid="ignore"):
        for row, (before, now) in enumerate(pairwise(times), start=1):
            for k in range(before, now):
                power = d ** (depth - 1)
                d = d + step_size * power * (lam - power * d)
                if not np.isfinite(d).all():
                    return None, k + 1
            values[row] = d
    return values, None


def _run_one(target, depth, d, step_size, times):
    """Values of one entry at the given steps, and the step at which it was lost, or None.

    Python's own floats: an array of one number costs ten times as much for each operation.
    """
    values, exponent = [d], depth - 1
    for before, now in pairwise(times):
        start = d
        try:
            for _ in range(before, now):
                power = d**exponent
                new = d + step_size * power * (target - power * d)
                if new == d:  # a fixed point of the rounded recursion: nothing moves any more
                    return values + [d] * (len(times) - len(values)), None
                d = new
        except OverflowError:  # what Python's powers raise instead of returning infinity
            d = np.inf
        if not abs(d) < np.inf:
            return None, before + _steps_to_infinity(target, exponent, start, step_size)
        values.append(d)
    return values, None


def _steps_to_infinity(target, exponent, d, step_size):
    """Number of steps from `d` until the entry is not finite, which it must become."""
    count, d = 0, np.float64(d)
    with np.errstate(over="ignore", invalid="ignore"):
        while np.isfinite(d):
            power = d**exponent
            d = d + step_size * power * (target - power * d)
            count += 1
    return count


def max_step_size(eigenvalues, depth, scale):
    r"""Step size below which every entry converges monotonically (source A, theorem 2.1).

    For one eigenvalue, with :math:`M=\max(\alpha,|\lambda|^{1/N})`, it is
    :math:`1/(2NM^{2N-2})` if :math:`\lambda\ge0` and :math:`1/((3N-2)M^{2N-2})` if
    :math:`\lambda<0`; for a spectrum it is the least of these. Theorem 2.2 asks for a step size
    below :math:`1/((3N-2)M^{2N-2})` with the largest M, which is never more.

    Parameters
    ----------
    eigenvalues : array_like, shape (..., n)
        One spectrum, or a stack of spectra.
    depth : int
        At least 1. The theorem begins at 2; at depth 1 the same formula is safe too.
    scale : float
        Positive.

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    lam = _checks.array("eigenvalues", eigenvalues, min_ndim=1)
    depth = _checks.integer("depth", depth, at_least=1)
    scale = _checks.real("scale", scale, above=0)
    return _step_limit(lam, depth, scale).min(axis=-1)[()]


def _step_limit(lam, N, scale):
    """The limit of theorem 2.1 for each eigenvalue."""
    largest = np.maximum(scale, np.abs(lam) ** (1 / N))
    with np.errstate(over="ignore", divide="ignore"):
        return 1 / (np.where(lam >= 0, 2 * N, 3 * N - 2) * largest ** (2 * N - 2))


# --- the flow -----------------------------------------------------------------------------------


def flow_time(eigenvalue, depth, start, end):
    r"""Time that the flow needs from one value to another, in closed form.

    It is :math:`T_N^+(\lambda,\mu,\alpha)=\int_\alpha^\mu\frac{ds}{s^{N-1}(\lambda-s^N)}`. Where
    :math:`s^N\le2|\lambda|` the integrand is split into
    :math:`\frac1\lambda\bigl(s^{1-N}+\frac{s}{\lambda-s^N}\bigr)`, and the second term into
    partial fractions over the N complex roots of :math:`\lambda`; above that, where the two terms
    would cancel, it is a power series in :math:`\lambda/s^N`. The result has a relative accuracy
    near rounding, apart from the rounding of `start` and `end` themselves close to the limit.

    Parameters
    ----------
    eigenvalue : array_like
        The target :math:`\lambda`, of any sign.
    depth : int
        At least 2.
    start, end : array_like
        Positive values :math:`\alpha` and :math:`\mu` of the entry, not of the product. The flow
        from `start` must reach `end`. All arrays broadcast.

    Returns
    -------
    ndarray or float
        Infinite where the time exceeds the floating-point numbers.

    Raises
    ------
    ValueError
        If an argument is outside its range, or `end` is not on the way from `start` to the limit.
    """
    depth = _checks.integer("depth", depth, at_least=2)
    lam, alpha, mu = np.broadcast_arrays(
        _checks.array("eigenvalue", eigenvalue), _positive("start", start), _positive("end", end)
    )
    root = _root(lam, depth)
    reached = np.where(root > alpha, (mu >= alpha) & (mu < root), (mu <= alpha) & (mu > root))
    reached |= mu == alpha
    if not reached.all():
        first = np.unravel_index(np.argmin(reached), reached.shape)
        _checks.fail(
            "end",
            float(mu[first]),
            f"between the start {alpha[first]:g} and, exclusively, the limit {root[first]:g}",
        )
    low, high = np.minimum(alpha, mu), np.maximum(alpha, mu)
    return _time(lam, depth, low, high, np.abs(low - root), np.abs(high - root))[()]


def _time(lam, N, low, high, gap_low, gap_high):
    """Flow time between two values on one side of the limit; the gaps are their distances to it."""
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        size = np.abs(lam)
        root = size ** (1 / N)
        cut = 2 ** (1 / N) * root
        below = low < cut
        low1, high1 = np.minimum(low, cut), np.minimum(high, cut)
        gap_cut = cut - root
        gap_low1 = np.where(low > cut, gap_cut, gap_low)
        gap_high1 = np.where(high > cut, gap_cut, gap_high)
        near = np.where(below, _partial_fractions(lam, N, low1, high1, gap_low1, gap_high1), 0.0)
        near = np.where(low == high, 0.0, near)
        far = np.where(high > cut, _series(lam, N, np.maximum(low, cut), high), 0.0)
        return near + far


def _partial_fractions(lam, N, low, high, gap_low, gap_high):
    """Flow time where neither value's power exceeds twice the eigenvalue, which is not zero."""
    size = np.abs(lam)
    root = size ** (1 / N)
    growth = np.log1p((high - low) / low)
    # The power law: integral of s**(1 - N).
    law = growth if N == 2 else low ** (2.0 - N) * -np.expm1(-(N - 2) * growth) / (N - 2)
    x0, width = low / root, (high - low) / root
    total = np.zeros(np.shape(x0))
    negative = lam < 0
    for index in range(N // 2 + 1):
        for sign in (1, -1):
            angle = np.pi * (2 * index + (sign < 0)) / N
            if angle > np.pi + 1e-9:
                continue
            # Complex roots come in pairs with equal real parts of the logarithm's product.
            weight = 1 if index == 0 and sign > 0 else 2 - (abs(angle - np.pi) < 1e-9)
            if angle == 0:
                change = np.where(low < root, low - high, high - low) / gap_low
                small = np.abs(change) < 0.5
                term = np.where(
                    small, np.log1p(np.where(small, change, 0)), np.log(gap_high / gap_low)
                )
            else:
                x, y = width * _inverse(x0 - np.cos(angle), -np.sin(angle))
                real = 0.5 * np.log1p(2 * x + x * x + y * y)
                term = np.cos(2 * angle) * real - np.sin(2 * angle) * np.arctan2(y, 1 + x)
            total += np.where(negative == (sign < 0), -weight * term / N, 0.0)
    total *= (root / size) ** 2
    # lam > 0 below the limit: both parts add. lam > 0 above it, and lam < 0, they subtract.
    rising = (lam > 0) & (low < root)
    return np.where(rising, law / size + total, np.abs(law / size - np.abs(total)))


def _inverse(x, y):
    """Real and imaginary part of 1/(x + iy)."""
    return np.array([x, np.broadcast_to(-y, np.shape(x))]) / (x * x + y * y)


def _series(lam, N, low, high):
    """Flow time where both values' powers are at least twice the size of the eigenvalue."""
    ratio = np.log1p((low - high) / high)
    q = lam / low**N
    total, power = 0.0, np.ones(np.shape(q))
    for k in range(60):  # |q| <= 1/2
        exponent = 2 * N - 2 + k * N
        total = total - power * np.expm1(exponent * ratio) / exponent
        power = power * q
    return total * low ** (2.0 - 2 * N)


def flow_solution(eigenvalue, depth, scale, t):
    r"""Value of the entry at a time of the flow.

    At depth 2 it is explicit: :math:`d^2=\lambda/(1+(\lambda/\alpha^2-1)e^{-2\lambda t})`, a
    sigmoid. At other depths the time is explicit as a function of the value and is inverted by
    bisection in the coordinate :math:`\log\frac{d^N}{|\lambda-d^N|}`, which keeps the distance to
    the limit accurate, or in :math:`\log d` where the limit is zero.

    Parameters
    ----------
    eigenvalue : array_like
        The target, of any sign.
    depth : int
        At least 1.
    scale : array_like
        The value at time 0, positive.
    t : array_like
        Times, not negative. All arrays broadcast.

    Returns
    -------
    ndarray or float

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    N = _checks.integer("depth", depth, at_least=1)
    lam, alpha, t = np.broadcast_arrays(
        _checks.array("eigenvalue", eigenvalue),
        _positive("scale", scale),
        _checks.array("t", t),
    )
    if (t < 0).any():
        _checks.fail("t", t, "at least 0")
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        if N == 1:
            return (lam + (alpha - lam) * np.exp(-t))[()]
        if N == 2:
            return _sigmoid(lam, alpha, t)[()]
        still = alpha ** (2.0 - 2 * N) + (2 * N - 2) * t
        values = np.where(lam == 0, still ** (-1 / (2 * N - 2)), alpha)
        for which, solve in ((lam > 0, _towards_root), (lam < 0, _towards_zero)):
            if which.any():
                values[which] = solve(lam[which], N, alpha[which], t[which])
    return values[()]


def _sigmoid(lam, alpha, t):
    """Depth 2: one over the square solves a linear equation, and both terms are positive."""
    divided = np.where(lam == 0, 2 * t, -np.expm1(-2 * lam * t) / np.where(lam == 0, 1, lam))
    return (np.exp(-2 * lam * t) / alpha**2 + divided) ** -0.5


def _bisect(time, t, low, high):
    """The argument at which an increasing function takes the values `t`."""
    for _ in range(80):
        middle = (low + high) / 2
        late = time(middle) > t
        low, high = np.where(late, low, middle), np.where(late, middle, high)
    return (low + high) / 2


def _towards_root(lam, N, alpha, t):
    root = lam ** (1 / N)
    rising = alpha < root

    def distance(w):  # |d/root - 1| where d**N / lam = 1/(1 + exp(-w)) or 1/(1 - exp(-w))
        # Far above the root w is tiny, and 1 - exp(-w) must not be rounded to a difference.
        falling = np.where(w < 0.7, np.log(-np.expm1(-w)), np.log1p(-np.exp(-w)))
        inside = np.where(rising, np.log1p(np.exp(-w)), falling)
        return np.abs(np.expm1(-inside / N))

    def value(w):
        return root * np.where(rising, 1 - distance(w), 1 + distance(w))

    def time(w):
        d, gap = value(w), root * distance(w)
        # At the start's own coordinate rounding may put the value on the wrong side of it.
        low, high = np.where(rising, alpha, d), np.where(rising, d, alpha)
        gaps = np.where(rising, gap0, gap), np.where(rising, gap, gap0)
        return np.where(low < high, _time(lam, N, low, high, *gaps), 0.0)

    gap0 = np.abs(alpha - root)
    way = N * np.log(alpha / root)
    start = np.where(rising, way - np.log(-np.expm1(way)), -np.log1p(-np.exp(-way)))
    speed = N * lam ** (2 - 2 / N) * np.maximum(1, alpha / root) ** (N - 2)
    # Beyond 800 the distance is below the smallest number.
    end = np.minimum(start + speed * t, np.maximum(start, 800.0))
    settled = (gap0 == 0) | (t == 0)
    w = _bisect(time, t, np.where(settled, 1.0, start), np.where(settled, 1.0, end))
    return np.where(settled, alpha, value(w))


def _towards_zero(lam, N, alpha, t):
    root = np.abs(lam) ** (1 / N)

    def time(u):
        d = alpha * np.exp(-u)
        return np.where(d > 0, _time(lam, N, d, alpha, d + root, alpha + root), np.inf)

    speed = alpha ** (N - 2.0) * (alpha**N - lam)
    u = _bisect(time, t, np.zeros_like(t), np.minimum(speed * t, 745.0))
    return alpha * np.exp(-u)


def escape_time(eigenvalue, depth, scale):
    r"""Time at which the flow leaves the neighbourhood of zero, to leading order for small starts.

    Near zero the velocity is :math:`\lambda d^{N-1}`. At depth 2 growth is exponential and reaches
    the size of the limit after :math:`\ln(\lambda/\alpha^2)/(2\lambda)`; at greater depth it would
    reach infinity at :math:`\alpha^{2-N}/((N-2)\lambda)`.

    Parameters
    ----------
    eigenvalue : array_like
        The target, positive.
    depth : int
        At least 2.
    scale : array_like
        The start, positive and below :math:`\lambda^{1/N}`. Arrays broadcast.

    Returns
    -------
    ndarray or float

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    N = _checks.integer("depth", depth, at_least=2)
    lam, alpha = np.broadcast_arrays(_positive("eigenvalue", eigenvalue), _positive("scale", scale))
    if (alpha >= _root(lam, N)).any():
        _checks.fail("scale", alpha, "below the limit eigenvalue ** (1 / depth)")
    if N == 2:
        return (np.log(np.sqrt(lam) / alpha) / lam)[()]
    return (alpha ** (2.0 - N) / ((N - 2) * lam))[()]


# --- counting steps -----------------------------------------------------------------------------


def iteration_bound(eigenvalue, depth, scale, step_size, accuracy):
    r"""Bound on the number of steps until the entry is within `accuracy` of its limit.

    It is :math:`T_N^{\mathrm{Id}}` of source A, equation 2.6, with the ceilings that its cases 1
    to 3 need, and the last term of case 4 rounded up. With :math:`r=\lambda_+^{1/N}` and
    :math:`p=(c_N\lambda)^{1/N}`, where :math:`c_N=\frac{N-1}{2N-1}`, it adds up to three terms:
    the flow's time over the step size, :math:`s_N=\lceil(p/\alpha)^{N-1}\rceil` steps for the lag
    of descent while the entry speeds up, and the steps of a linear rate near the limit.

    Parameters
    ----------
    eigenvalue : array_like
        The target, of any sign.
    depth : int
        At least 2.
    scale : array_like
        The start, positive.
    step_size : array_like
        Positive and below `max_step_size`, which is the theorem's condition.
    accuracy : array_like
        Positive and below the distance of the start from the limit. All arrays broadcast.

    Returns
    -------
    ndarray or float
        Whole numbers.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    lam, N, alpha, eta, eps, root = _problem(eigenvalue, depth, scale, step_size, accuracy)
    c = (N - 1) / (2 * N - 1)
    peak = c ** (1 / N) * root
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        growth = np.log(alpha / eps)
        law = growth if N == 2 else eps ** (2.0 - N) * -np.expm1((2 - N) * growth) / (N - 2)
        case1 = np.ceil(GUARD * law / (eta * np.abs(lam)))
        case2 = _steps_of_flow(lam, N, alpha, eta, root, eps)
        rate = -np.log1p(-eta * N * peak ** (2 * N - 2))
        case3 = np.ceil(GUARD * np.log((root - alpha) / eps) / rate)
        lag = np.ceil((peak / alpha) ** (N - 1) / GUARD)
        reach = np.maximum(eps, root - peak)  # distance at which the first phase ends
        linear = np.ceil(GUARD * np.log(np.maximum(reach / eps, 1)) / rate)
        case45 = _steps_of_flow(lam, N, alpha, eta, root, reach) + lag + linear
    return np.select([lam < 0, root < alpha, peak < alpha], [case1, case2, case3], case45)[()]


def clock_bounds(eigenvalue, depth, scale, step_size, accuracy):
    r"""Least and largest number of steps until the entry is within `accuracy` of its limit.

    The flow needs the time :math:`\tau` for the same way. Descent keeps that time up to two
    logarithms: with the largest speed on the way, :math:`v_{\max}`, the first step k within
    `accuracy` satisfies

    .. math:: \frac\tau\eta-C\ln\frac{v_{\max}}{|v(\mathrm{end})|}\;\le\;k\;\le\;
              \Bigl\lceil\frac\tau\eta+\ln\frac{v_{\max}}{|v(\alpha)|}\Bigr\rceil ,

    where :math:`C=(1/m-1)/\ln(1/m)` and m is the least slope of the recursion on the way. Proved
    in the chapter; it is no theorem of source A and sharper than its bound.

    Parameters
    ----------
    eigenvalue : array_like
        The target, of any sign.
    depth : int
        At least 2.
    scale : array_like
        The start, positive.
    step_size : array_like
        Positive and below `max_step_size`.
    accuracy : array_like
        Positive and below the distance of the start from the limit. All arrays broadcast.

    Returns
    -------
    lower, upper : ndarray or float
        Whole numbers; `lower` is at least 1.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    lam, N, alpha, eta, eps, root = _problem(eigenvalue, depth, scale, step_size, accuracy)
    rising = alpha < root
    peak = ((N - 1) / (2 * N - 1)) ** (1 / N) * root
    end = np.where(rising, root - eps, root + eps)
    top = np.where(rising, np.clip(peak, alpha, end), alpha)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        time = _flow_time_to(lam, N, alpha, root, eps) / eta
        first, fastest = (_speed(lam, N, x) for x in (alpha, top))
        # next to the root the difference in the speed cancels
        sums = sum(np.maximum(root, 0) ** (N - 1 - j) * end**j for j in range(N))
        last = np.where(lam > 0, end ** (N - 1) * eps * sums, _speed(lam, N, end))
        steepest = np.where(rising, root, alpha)
        slope = 1 - eta * (
            (2 * N - 1) * steepest ** (2 * N - 2) - (N - 1) * lam * steepest ** (N - 2)
        )
        factor = (1 / slope - 1) / -np.log(slope)
        lower = np.ceil((time - factor * np.log(fastest / last)) / GUARD)
        upper = np.ceil(GUARD * (time + np.log(fastest / first)))
    return np.maximum(lower, 1)[()], upper[()]


def _speed(lam, N, d):
    return d ** (N - 1) * np.abs(lam - d**N)


def _flow_time_to(lam, N, alpha, root, gap):
    """Flow time from the start to the distance `gap` from the limit."""
    end = np.where(alpha < root, root - gap, root + gap)
    rising = alpha < root
    low, high = np.where(rising, alpha, end), np.where(rising, end, alpha)
    far = np.abs(alpha - root)
    return _time(lam, N, low, high, np.where(rising, far, gap), np.where(rising, gap, far))


def _steps_of_flow(lam, N, alpha, eta, root, gap):
    far = np.abs(alpha - root)
    time = np.where(gap < far, _flow_time_to(lam, N, alpha, root, np.minimum(gap, far)), 0)
    return np.ceil(GUARD * time / eta)


def _problem(eigenvalue, depth, scale, step_size, accuracy):
    """Checked arguments of the bounds, broadcast, and the limit."""
    N = _checks.integer("depth", depth, at_least=2)
    lam, alpha, eta, eps = np.broadcast_arrays(
        _checks.array("eigenvalue", eigenvalue),
        _positive("scale", scale),
        _positive("step_size", step_size),
        _positive("accuracy", accuracy),
    )
    limit = _step_limit(lam, N, alpha)
    _require("step_size", eta, eta < limit, limit, "the limit of the theorem")
    root = _root(lam, N)
    far = np.abs(alpha - root)
    _require("accuracy", eps, eps < far, far, "the distance of the start from the limit")
    return lam, N, alpha, eta, eps, root


def _require(name, values, fine, limits, what):
    """Raise for the first value that is not below its limit."""
    if not fine.all():
        first = np.unravel_index(np.argmin(fine), fine.shape)
        _checks.fail(name, float(values[first]), f"< {limits[first]:.6g}, {what}")


def _positive(name, value):
    numbers = _checks.array(name, value)
    if (numbers <= 0).any():
        _checks.fail(name, numbers, "positive")
    return numbers


def _root(lam, N):
    """The limit of the entry."""
    return np.maximum(lam, 0.0) ** (1 / N)


def first_step(eigenvalue, depth, scale, step_size, accuracy, max_steps=1_000_000):
    """Run descent on many entries at once and count steps until each is near its limit.

    Parameters
    ----------
    eigenvalue : array_like
        Targets, of any sign.
    depth : int
        At least 1.
    scale : array_like
        Starts, positive.
    step_size : array_like
        Positive.
    accuracy : array_like
        Largest distance from the limit that counts as near, positive. All arrays broadcast.
    max_steps : int
        When to give up.

    Returns
    -------
    ndarray of int, or int
        First step within `accuracy`; -1 where there was none in `max_steps` steps.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    N = _checks.integer("depth", depth, at_least=1)
    max_steps = _checks.integer("max_steps", max_steps, at_least=0)
    lam, alpha, eta, eps = np.broadcast_arrays(
        _checks.array("eigenvalue", eigenvalue),
        _positive("scale", scale),
        _positive("step_size", step_size),
        _positive("accuracy", accuracy),
    )
    found = np.full(lam.shape, -1)
    counts = found.reshape(-1)
    lam, d, eta, eps = (x.reshape(-1).copy() for x in (lam, alpha, eta, eps))
    limit = lam.copy() if N == 1 else _root(lam, N)
    running = np.arange(lam.size)
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(max_steps + 1):
            near = np.abs(d - limit) <= eps
            if near.any():
                counts[running[near]] = k
                running, lam, d, eta, eps, limit = (
                    x[~near] for x in (running, lam, d, eta, eps, limit)
                )
                if not running.size:
                    break
            power = d ** (N - 1)
            d += eta * power * (lam - power * d)
    return found[()]


def random_instances(depth, count, rng=None):
    """Random instances of the step count, in all cases of the published bound.

    Parameters
    ----------
    depth : int
        At least 2.
    count : int
        At least 1.
    rng : numpy.random.Generator, int or None
        Source of randomness, or a seed.

    Returns
    -------
    eigenvalue, scale, step_size, accuracy : ndarray, shape (count,)
        As `iteration_bound` takes them. Every fourth eigenvalue is negative, every tenth zero;
        starts lie below and above the limit; every fifth step size is the theorem's limit, less a
        part in 10**9; accuracies run from 1/1000 of the way to all of it.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    N = _checks.integer("depth", depth, at_least=2)
    count = _checks.integer("count", count, at_least=1)
    rng = _checks.generator("rng", rng)
    size = 10 ** rng.uniform(-2, 1.5, count)
    kind = rng.random(count)
    lam = np.where(kind < 0.25, -size, np.where(kind < 0.35, 0.0, size))
    scale = size ** (1 / N) * 10 ** rng.uniform(-1.2 / max(1, N - 2), 0.5, count)
    share = np.where(rng.random(count) < 0.2, 1.0, rng.uniform(0.2, 1, count))
    step_size = _step_limit(lam, N, scale) * share * (1 - 1e-9)
    part = np.where(rng.random(count) < 0.4, rng.random(count), 10 ** rng.uniform(-3, 0, count))
    accuracy = np.abs(scale - _root(lam, N)) * np.clip(part, 1e-3, 1 - 1e-9)
    return lam, scale, step_size, accuracy


def late_values(depth, relative_steps, scale=0.3, skip=2000, keep=200):
    r"""Where descent ends up when its steps are too large, for a bifurcation diagram.

    In the unit :math:`\lambda^{1/N}` the recursion for a positive eigenvalue is
    :math:`x\leftarrow x+\kappa x^{N-1}(1-x^N)`, with the single parameter
    :math:`\kappa=\eta\lambda^{2-2/N}`.

    Parameters
    ----------
    depth : int
        At least 2.
    relative_steps : array_like, shape (K,)
        Values of :math:`\kappa`, positive.
    scale : float
        Start in the unit :math:`\lambda^{1/N}`, positive.
    skip : int
        Steps taken before any is kept.
    keep : int
        Steps kept, at least 1.

    Returns
    -------
    values : ndarray, shape (keep, K)
        The last values of x. A masked array where runs have diverged.
    diverged_at : ndarray of int, shape (K,)
        The step at which a run left the floating-point numbers; -1 where it did not.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    N = _checks.integer("depth", depth, at_least=2)
    kappa = _positive("relative_steps", _checks.array("relative_steps", relative_steps, ndim=1))
    skip = _checks.integer("skip", skip, at_least=0)
    keep = _checks.integer("keep", keep, at_least=1)
    x = np.full(kappa.shape, _checks.real("scale", scale, above=0))
    values = np.ma.masked_all((keep, kappa.size))
    diverged_at = np.full(kappa.shape, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(1, skip + keep + 1):
            power = x ** (N - 1)
            x = x + kappa * power * (1 - power * x)
            lost = ~np.isfinite(x) & (diverged_at < 0)
            diverged_at[lost] = k
            if k > skip:
                values[k - skip - 1] = np.ma.masked_invalid(x)
    values[:, diverged_at >= 0] = np.ma.masked
    return values, diverged_at


# --- matrices -----------------------------------------------------------------------------------


def first_example(printed=False):
    """The first 4 x 4 target of source A (equation 5.1), with eigenvalues 10, 7, 5 and -5.

    Parameters
    ----------
    printed : bool
        Whether to return the matrix as it is printed, with -5 for its last entry. The matrix
        that belongs to the printed eigenvalues and eigenvectors has 22/3 there.

    Returns
    -------
    ndarray, shape (4, 4)
    """
    W = np.array([[7, 10, -12, 2], [10, 10, 15, 5], [-12, 15, 12, 3], [2, 5, 3, 22]]) / 3
    if printed:
        W[3, 3] = -5
    return W


def second_example():
    """The second 4 x 4 target of source A (equation 5.2), with eigenvalues 5, 3, -1 and -5.

    Returns
    -------
    ndarray, shape (4, 4)
    """
    return np.array([[-3, 4, -8, 4], [4, -1, 10, 6], [-8, 10, 3, 2], [4, 6, 2, 7]]) / 3


def example_eigenvectors():
    """The orthogonal matrix V that both examples of source A share (section 5.1).

    Returns
    -------
    ndarray, shape (4, 4)
        Eigenvectors in the columns.
    """
    return np.array([[0, 1, 1, 1], [1, 0, 1, -1], [1, -1, 0, 1], [1, 1, -1, 0]]) / np.sqrt(3)


def noisy_low_rank(n, values, noise, rng=None):
    """A positive semidefinite matrix of low rank, and the same with symmetric noise.

    Parameters
    ----------
    n : int
        Size, at least the number of values.
    values : array_like, shape (r,)
        The positive eigenvalues of the truth; its eigenvectors are random.
    noise : float
        The noise has independent Gaussian entries above the diagonal of this standard deviation
        over ``sqrt(n)``, so that its spectrum fills about the interval ``[-2 noise, 2 noise]``.
    rng : numpy.random.Generator, int or None
        Source of randomness, or a seed.

    Returns
    -------
    truth, observed : ndarray, shape (n, n)

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    values = _positive("values", _checks.array("values", values, ndim=1))
    n = _checks.integer("n", n, at_least=values.size)
    noise = _checks.real("noise", noise, at_least=0)
    rng = _checks.generator("rng", rng)
    U = np.linalg.qr(rng.standard_normal((n, values.size)))[0]
    truth = U * values @ U.T
    truth = (truth + truth.T) / 2
    E = rng.standard_normal((n, n))
    return truth, truth + noise * (E + E.T) / np.sqrt(2 * n)
