r"""Potentials, Bregman divergences and mirror steps of products of factors.

If each of N identical factors :math:`w>0` follows its own gradient of a loss
:math:`\mathcal L(w^{\odot N})`, then the product :math:`x=w^{\odot N}` moves by

.. math:: \dot x=-N\,x^{2-2/N}\odot\nabla\mathcal L(x),
          \qquad\text{that is}\qquad \frac{d}{dt}\nabla F(x)=-\nabla\mathcal L(x)

with the *potential*

.. math:: F(x)=\tfrac12\sum_k(x_k\ln x_k-x_k)\ (N=2),\qquad
          F(x)=-\frac{N}{2(N-2)}\sum_kx_k^{2/N}\ (N>2).

This is the normalisation of source B. There is one clock in the whole package: the loss is
:math:`\mathcal L(x)=\frac12\|Ax-y\|_2^2` and every factor follows its own gradient. The flow of the
one vector w on :math:`\mathcal L(w^{\odot N})` runs through the same curve N times faster.

The *signed* product is :math:`x=x_+-x_-=u^{\odot N}-v^{\odot N}`. Its factors u and v follow the
positive flow for the matrix :math:`(A,-A)`, so everything signed is the positive case with twice
as many unknowns; eliminating the split into two parts gives the *hyperbolic entropy*.
"""

import warnings

import numpy as np

from dmflib import _checks

#: Relative residual beyond which a system counts as having no solution.
SOLVABLE = 1e-9

EPS = np.finfo(float).eps


class AccuracyWarning(RuntimeWarning):
    """A result has not reached the accuracy that was asked for."""


# --- the positive case --------------------------------------------------------------------------


def potential(x, depth):
    r"""Potential F whose gradient the flow of a positive product moves at the loss's pace.

    Parameters
    ----------
    x : array_like, shape (..., n)
        Entries not negative; F is finite on the boundary, its gradient is not.
    depth : int
        N, at least 2.

    Returns
    -------
    ndarray, shape (...), or float
        Source B, Bregman divergence.

    Raises
    ------
    ValueError
        If an entry of `x` is negative or not finite, or `depth` is not an integer above 1.
    """
    depth, x = _depth(depth), _nonnegative("x", x)
    if depth == 2:
        return (_xlogx(x) - x).sum(axis=-1)[()] / 2
    return -depth / (2 * (depth - 2)) * (x ** (2 / depth)).sum(axis=-1)[()]


def gradient(x, depth):
    r"""Gradient of the potential: :math:`\frac12\ln x`, or :math:`-x^{2/N-1}/(N-2)`.

    Parameters
    ----------
    x : array_like
        Positive entries.
    depth : int
        N, at least 2.

    Returns
    -------
    ndarray or float
        Of the shape of `x`.

    Raises
    ------
    ValueError
        If an entry of `x` is not positive or `depth` is not an integer above 1.
    """
    depth, x = _depth(depth), _positive("x", x)
    return np.log(x)[()] / 2 if depth == 2 else -(x ** (2 / depth - 1))[()] / (depth - 2)


def inverse_gradient(dual, depth):
    r"""Point at which the gradient of the potential has the given value.

    Parameters
    ----------
    dual : array_like
        Any real numbers at depth 2; negative numbers at greater depth.
    depth : int
        N, at least 2.

    Returns
    -------
    ndarray or float
        :math:`e^{2\mu}`, or :math:`(-(N-2)\mu)^{-N/(N-2)}`.

    Raises
    ------
    ValueError
        If `dual` holds a value that the gradient does not take, or `depth` is not an integer
        above 1.
    """
    depth, dual = _depth(depth), _checks.array("dual", dual)
    if depth == 2:
        return np.exp(2 * dual)[()]
    if dual.max() >= 0:
        _checks.fail("dual", dual, f"negative at depth {depth}")
    return ((-(depth - 2) * dual) ** (-depth / (depth - 2)))[()]


def mirror_step(x, step, depth):
    r"""Move a positive point such that the gradient of the potential changes by `step`.

    The result :math:`\nabla F^*(\nabla F(x)+\delta)` is computed as x times a factor, so it keeps
    the relative accuracy of x however small x is; `gradient` and `inverse_gradient` one after the
    other lose it.

    Parameters
    ----------
    x : array_like
        Positive entries.
    step : array_like
        The change :math:`\delta`, broadcast against `x`.
    depth : int
        N, at least 2.

    Returns
    -------
    ndarray or float

    Raises
    ------
    ValueError
        If an entry of `x` is not positive, `depth` is not an integer above 1, or the step leaves
        the values that the gradient takes: it must be less than :math:`x^{2/N-1}/(N-2)` for N > 2.
    """
    depth, x, step = _depth(depth), _positive("x", x), _checks.array("step", step)
    with np.errstate(over="ignore"):
        moved = shifted(x, step, depth)
    if moved is None or not np.isfinite(moved).all():
        _checks.fail("step", step, f"small enough for a finite point at depth {depth}")
    return moved[()]


def divergence(z, x, depth):
    r"""Bregman divergence :math:`D_F(z,x)=F(z)-F(x)-\langle\nabla F(x),z-x\rangle`.

    At depth 2 it is half the Kullback–Leibler divergence :math:`\sum_k(z_k\ln(z_k/x_k)+x_k-z_k)`.

    Parameters
    ----------
    z : array_like, shape (..., n)
        Entries not negative.
    x : array_like, shape (..., n)
        Positive entries; broadcast against `z`.
    depth : int
        N, at least 2.

    Returns
    -------
    ndarray, shape (...), or float
        Not negative, and zero for z = x only. Computed entry by entry without cancellation where
        z is near x.

    Raises
    ------
    ValueError
        If an entry is outside its range, the shapes do not fit, or `depth` is not an integer
        above 1.
    """
    depth, z, x = _depth(depth), _nonnegative("z", z), _positive("x", x)
    try:
        z, x = np.broadcast_arrays(z, x)
    except ValueError:
        _checks.fail("z", z, f"of a shape that fits that of x, {x.shape}")
    with np.errstate(divide="ignore"):
        return _divergence(np.log(z / x), x, depth).sum(axis=-1)[()]


def _divergence(log, x, depth):
    """Divergence of each entry from the logarithm of z/x, which may be minus infinity."""
    near = np.abs(log) < 1e-2
    small = np.where(near, log, 0.0)
    ratio = np.exp(log)
    if depth == 2:
        # x/2 times e^l (l - 1) + 1, the sum of (k-1)/k! l^k
        series = sum((k - 1) / _FACTORIAL[k] * small**k for k in range(2, 10))
        far = ratio * np.where(ratio > 0, log - 1, 0.0) + 1
        return x / 2 * np.where(near, series, far)
    # x^{2/N}/2(N-2) times (N-2) + 2 e^l - N e^{2l/N}, the sum of (2 - N (2/N)^k)/k! l^k
    series = sum((2 - depth * (2 / depth) ** k) / _FACTORIAL[k] * small**k for k in range(2, 10))
    far = (depth - 2) + 2 * ratio - depth * np.exp(2 / depth * log)
    return x ** (2 / depth) / (2 * (depth - 2)) * np.where(near, series, far)


_FACTORIAL = np.cumprod([1.0, *range(1, 10)])


# --- the signed case ----------------------------------------------------------------------------


def hyperbolic_entropy(x, scale, depth=2):
    r"""Potential of the signed flow from equal factors u = v: the hyperbolic entropy.

    At depth 2 it is :math:`\frac12\sum_k\alpha_k^2q(x_k/\alpha_k^2)` with
    :math:`q(z)=2-\sqrt{4+z^2}+z\operatorname{arcsinh}(z/2)`; the factor one half makes
    :math:`\frac{d}{dt}\nabla Q(x)=-\nabla\mathcal L(x)` hold without a factor of time. At every
    depth it is the least value of :math:`D_F(z_+,\alpha^N)+D_F(z_-,\alpha^N)` over all
    :math:`z_+-z_-=x`.

    Parameters
    ----------
    x : array_like, shape (..., n)
        Any real entries.
    scale : array_like
        The number :math:`\alpha>0` at which the entries of u and v start; broadcast against `x`.
    depth : int
        N, at least 2.

    Returns
    -------
    ndarray, shape (...), or float
        Not negative, zero for x = 0 only. Source: Woodworth et al. (2020).

    Raises
    ------
    ValueError
        If an entry is not finite, `scale` is not positive or does not fit, or `depth` is not an
        integer above 1.
    """
    x, scale, depth = _signed(x, scale, depth)
    start = scale**depth
    larger, smaller, _ = _split(x, start, depth)
    total = _divergence(larger, start, depth) + _divergence(smaller, start, depth)
    return total.sum(axis=-1)[()]


def hyperbolic_gradient(x, scale, depth=2):
    r"""Gradient of the hyperbolic entropy.

    At depth 2 it is :math:`\frac12\operatorname{arcsinh}(x/2\alpha^2)`.

    Parameters
    ----------
    x : array_like
        Any real entries.
    scale : array_like
        The number :math:`\alpha>0` at which the entries of u and v start; broadcast against `x`.
    depth : int
        N, at least 2.

    Returns
    -------
    ndarray or float

    Raises
    ------
    ValueError
        As in `hyperbolic_entropy`.
    """
    x, scale, depth = _signed(x, scale, depth)
    return (np.sign(x) * _split(x, scale**depth, depth)[2])[()]


def hyperbolic_inverse_gradient(dual, scale, depth=2):
    r"""Point at which the hyperbolic entropy has the given gradient.

    Parameters
    ----------
    dual : array_like
        Real numbers, for N > 2 between :math:`\pm\alpha^{2-N}/(N-2)`.
    scale : array_like
        The number :math:`\alpha>0` at which the entries of u and v start; broadcast against
        `dual`.
    depth : int
        N, at least 2.

    Returns
    -------
    ndarray or float
        :math:`2\alpha^2\sinh2\mu` for N = 2; :math:`\alpha^Nh((N-2)\alpha^{N-2}\mu)` with
        :math:`h(z)=(1-z)^{-N/(N-2)}-(1+z)^{-N/(N-2)}` for N > 2.

    Raises
    ------
    ValueError
        If `dual` leaves the values that the gradient takes, and as in `hyperbolic_entropy`.
    """
    dual, scale, depth = _signed(dual, scale, depth, "dual")
    start = scale**depth
    with np.errstate(over="ignore"):
        parts = [_growth(start, sign * dual, depth) for sign in (1, -1)]
    if any(part is None or part.max() > 700 for part in parts):
        _checks.fail("dual", dual, "within the values of the gradient, and its point finite")
    # start (e^a - e^b) without cancellation for small a, b
    return (start * (np.expm1(parts[0]) - np.expm1(parts[1])))[()]


def level_set(level, scale, depth=2, points=200):
    r"""Closed curve in the plane on which the hyperbolic entropy has a given value.

    Parameters
    ----------
    level : float
        Positive.
    scale : float
        :math:`\alpha>0`, the same in both coordinates.
    depth : int
        N, at least 2.
    points : int
        Number of points, at least 4; the last one repeats the first.

    Returns
    -------
    ndarray, shape (points, 2)
        A circle for large scale, a square standing on its corner for small scale.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    level = _checks.real("level", level, above=0)
    scale = _checks.real("scale", scale, above=0)
    points = _checks.integer("points", points, at_least=4)
    angle = np.linspace(0, 2 * np.pi, points)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    low, high = np.zeros(points), np.ones(points)
    while (short := hyperbolic_entropy(high[:, None] * direction, scale, depth) < level).any():
        high[short] *= 2
    for _ in range(60):
        middle = (low + high) / 2
        below = hyperbolic_entropy(middle[:, None] * direction, scale, depth) < level
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return ((low + high) / 2)[:, None] * direction


# --- the nearest solution -----------------------------------------------------------------------


def check_solvable(A, y, nonnegative=False):
    r"""Return the system Ax = y as arrays, or refuse it if it has no (non-negative) solution.

    Parameters
    ----------
    A : array_like, shape (m, n)
    y : array_like, shape (m,)
    nonnegative : bool
        Whether the solution must have entries that are not negative.

    Returns
    -------
    A : ndarray, shape (m, n)
    y : ndarray, shape (m,)

    Raises
    ------
    ValueError
        If the shapes do not fit or an entry is not finite; if the best fit leaves a residual above
        1e-9 of the norm of `y`. The message then holds that residual.
    """
    A = _checks.array("A", A, ndim=2)
    y = _checks.array("y", y, shape=(A.shape[0],))
    size = np.linalg.norm(y)
    if nonnegative:
        residual = np.linalg.norm(A @ _nonnegative_solution(A, y) - y)
        wanted = "A @ z for some z >= 0"
    else:
        residual = np.linalg.norm(A @ np.linalg.lstsq(A, y, rcond=None)[0] - y)
        wanted = "in the range of A"
    if residual > SOLVABLE * size:
        _checks.fail("y", y, f"{wanted}; the best fit leaves a residual of norm {residual:.3e}")
    return A, y


def _nonnegative_solution(A, y):
    """Solve Ax = y with x >= 0 up to `SOLVABLE`, or fit it in least squares if that cannot be.

    The active set method of Lawson and Hanson (1974, chapter 23). `scipy.optimize.nnls` is the
    same method, but from 1.12 to 1.14 it works with the normal equations and fails where a
    solution exists: near a residual of zero it goes round in circles. Here the residual falls
    with every column that is admitted, so no set of columns comes twice.
    """
    norms = np.linalg.norm(A, axis=0)
    norms[norms == 0] = 1
    columns = A / norms
    size = np.linalg.norm(y)
    x, residual = np.zeros(A.shape[1]), y
    refused = np.zeros(A.shape[1], dtype=bool)
    while np.linalg.norm(residual) > SOLVABLE / 2 * size:
        slope = np.where(refused | (x > 0), 0, columns.T @ residual)
        entering = np.argmax(slope)
        if slope[entering] <= EPS * size:
            break
        trial = _admit(columns, y, x, entering)
        left = y - columns @ trial
        if np.linalg.norm(left) < np.linalg.norm(residual):
            x, residual = trial, left
            refused[:] = False
        else:  # the slope was a rounding error
            refused[entering] = True
    return x / norms


def _admit(A, y, x, entering):
    """Fit y by the support of x and one more column; columns leave until no entry is negative."""
    on = x > 0
    on[entering] = True
    while True:
        fit = np.zeros(len(x))
        fit[on] = np.linalg.lstsq(A[:, on], y, rcond=None)[0]
        if on[entering] and x[entering] == 0 and fit[entering] <= 0:
            return x
        falling = np.flatnonzero(on & (fit <= 0))
        if not falling.size:
            return fit
        # Towards the fit until the first entry reaches zero; that one leaves.
        fractions = x[falling] / (x[falling] - fit[falling])
        x = x + fractions.min() * (fit - x)
        x[falling[fractions.argmin()]] = 0
        x = np.where(on, np.maximum(x, 0), 0)
        on = x > 0


def minimizer(A, y, start, depth, signed=False):
    r"""Solution of Ax = y that is nearest to the start in the Bregman divergence.

    In the positive case it minimises :math:`D_F(z,x_0)` over all solutions :math:`z\ge0`. In the
    signed case it minimises the hyperbolic entropy over all solutions, or, for parts that start
    apart, :math:`D_F(z_+,x_{0+})+D_F(z_-,x_{0-})` over all :math:`A(z_+-z_-)=y`.

    In the signed case the entries are known to rounding of the two parts, about 1e-16 times the
    sum of the parts. The method is Newton's on the convex dual,
    :math:`\min_\nu\frac12\|w(\nu)\|_2^2-\langle y,\nu\rangle` with
    :math:`\nabla F(w^{\odot N})=\nabla F(x_0)+A^T\nu`. It knows nothing of any flow.

    Parameters
    ----------
    A : array_like, shape (m, n)
    y : array_like, shape (m,)
    start : array_like
        The product :math:`x_0` at the start, positive: a number or shape (n,). In the signed case
        a number or shape (n,) for both parts, or shape (2, n) for :math:`u^{\odot N}` and
        :math:`v^{\odot N}`.
    depth : int
        N, at least 2.
    signed : bool
        Whether the product is a difference of two positive ones.

    Returns
    -------
    ndarray, shape (n,)
        In the positive case an entry is exactly zero if it is zero in every solution.

    Raises
    ------
    ValueError
        If the shapes do not fit, a value is outside its range, or there is no solution; the
        message then holds the residual of the best fit.

    Warns
    -----
    AccuracyWarning
        If the residual stays above 1e-10 of the norm of `y`.
    """
    depth = _depth(depth)
    A, y = check_solvable(A, y, nonnegative=not signed)
    x0, B = doubled(A, start, signed, "start")
    x = np.zeros(x0.size)
    possible = np.ones(x0.size, bool) if signed else _possible_support(A, y)
    if possible.any():
        with np.errstate(all="ignore"):
            try:
                x[possible] = _newton(B[:, possible], y, x0[possible], depth)
            except np.linalg.LinAlgError:
                x[possible] = np.nan
    if not np.isfinite(x).all():
        _checks.fail("start", float(x0.min()), "larger: entries off the support underflow")
    residual = np.linalg.norm(B @ x - y)
    if residual > 1e-10 * np.linalg.norm(y):
        warnings.warn(
            f"minimizer stopped at residual {residual:.1e}", AccuracyWarning, stacklevel=2
        )
    return x.reshape(2, -1)[0] - x.reshape(2, -1)[1] if signed else x


def doubled(A, start, signed, name="start"):
    r"""Return the start as one positive vector and the matrix that acts on it.

    Parameters
    ----------
    A : ndarray, shape (m, n)
    start : array_like
        A number or shape (n,), in the signed case also shape (2, n); positive.
    signed : bool
    name : str
        The name of the argument in messages.

    Returns
    -------
    start : ndarray, shape (n,) or (2 n,)
    B : ndarray, shape (m, n) or (m, 2 n)
        A itself, or (A, -A) in the signed case.

    Raises
    ------
    ValueError
        If `start` does not fit or is not positive.
    """
    if not isinstance(signed, (bool, np.bool_)):
        _checks.fail("signed", signed, "True or False")
    n = A.shape[1]
    x0 = _positive(name, start)
    if x0.ndim == 0:
        x0 = np.full(n, x0)
    if x0.shape != (n,) and not (signed and x0.shape == (2, n)):
        shapes = f"a number or of shape ({n},)" + (f" or (2, {n})" if signed else "")
        raise ValueError(f"{name} has shape {x0.shape}: {name} must be {shapes}")
    if not signed:
        return x0, A
    return np.broadcast_to(x0, (2, n)).ravel(), np.hstack([A, -A])


# --- internals ----------------------------------------------------------------------------------


def _depth(depth):
    return _checks.integer("depth", depth, at_least=2)


def _nonnegative(name, value):
    value = _checks.array(name, value)
    if value.min() < 0:
        _checks.fail(name, value, "not negative")
    return value


def _positive(name, value):
    value = _checks.array(name, value)
    if value.min() <= 0:
        _checks.fail(name, value, "positive")
    return value


def _signed(x, scale, depth, name="x"):
    x, scale = _checks.array(name, x), _positive("scale", scale)
    try:
        x, scale = np.broadcast_arrays(x, scale)
    except ValueError:
        _checks.fail("scale", scale, f"of a shape that fits that of {name}, {x.shape}")
    return x, scale, _depth(depth)


def _xlogx(x):
    return x * np.log(np.where(x > 0, x, 1.0))


def _growth(x, step, depth):
    """Logarithm of the factor of a mirror step; None where the step leaves the domain."""
    if depth == 2:
        return 2 * step
    p = 1 - 2 / depth
    decrease = (depth - 2) * x**p * step
    return None if np.max(decrease) >= 1 else -np.log1p(-decrease) / p


def shifted(x, step, depth):
    """Mirror step without checks; None where it leaves the domain of the dual.

    Parameters
    ----------
    x : ndarray
        Positive.
    step : ndarray
    depth : int

    Returns
    -------
    ndarray or None
    """
    growth = _growth(x, step, depth)
    return None if growth is None else x * np.exp(growth)


def _split(x, start, depth):
    """Logarithms of the larger and the smaller part of |x| over their start; the dual variable."""
    size = np.abs(x) / start
    log = np.arcsinh(size / 2)  # of the larger part over its start; exact at depth 2
    if depth == 2:
        return log, -log, log / 2
    p = 1 - 2 / depth
    for _ in range(100):  # Newton; the larger part is exp(log), convex in log from the second on
        z = -np.expm1(-p * log)
        other = -np.log1p(z) / p  # logarithm of the smaller part
        value = np.expm1(log) - np.expm1(other) - size
        slope = np.exp(log) + np.exp(other) * (1 - z) / (1 + z)
        move = value / slope
        log = log - move
        if (np.abs(move) <= 1e-15 * log).all():
            break
    z = -np.expm1(-p * log)
    dual = z / ((depth - 2) * start**p)
    return log, -np.log1p(z) / p, dual


def _possible_support(A, y):
    """Entries that are positive in some non-negative solution, by one linear program.

    Maximise the sum of t subject to A z = tau y, z >= t, 0 <= t <= 1, tau >= 1: multiples of
    solutions of largest support make t = 1 exactly on that support.
    """
    from scipy.optimize import linprog

    m, n = A.shape
    scale = np.abs(A).max() or 1.0
    size = np.abs(y).max() or 1.0
    equal = np.hstack([A / scale, np.zeros((m, n)), -y[:, None] / size])
    below = np.hstack([-np.eye(n), np.eye(n), np.zeros((n, 1))])
    cost = np.concatenate([np.zeros(n), -np.ones(n), [0]])
    bounds = [(0, None)] * n + [(0, 1)] * n + [(1, None)]
    result = linprog(cost, below, np.zeros(n), equal, np.zeros(m), bounds, method="highs")
    if result.status != 0:  # y sits on the edge of what has solutions, within rounding
        return np.ones(n, bool)
    return result.x[n : 2 * n] > 0.5


def independent_rows(B, y):
    """Return the same system with no more equations than its rank.

    Parameters
    ----------
    B : ndarray, shape (m, n)
    y : ndarray, shape (m,)

    Returns
    -------
    B : ndarray, shape (rank, n)
        Its rows are orthogonal to one another.
    y : ndarray, shape (rank,)
    """
    U, sigma, Vt = np.linalg.svd(B, full_matrices=False)
    rank = (sigma > max(B.shape) * EPS * sigma[0]).sum()
    return sigma[:rank, None] * Vt[:rank], U[:, :rank].T @ y


class DualSteps:
    r"""Solves with the matrix B diag(curvature) B^T + ridge for the dual variable.

    By QR with pivoting of the rows of diag(curvature)^(1/2) B^T in the order of their size. That
    keeps small curvatures, which the product of the matrices would lose beside large ones.

    Parameters
    ----------
    B : ndarray, shape (m, n)
    curvature : ndarray, shape (n,)
        Positive, of any sizes.
    ridge : float
        Not negative.
    """

    def __init__(self, B, curvature, ridge=0.0):
        from scipy.linalg import qr

        self._order = np.argsort(-curvature)
        self._roots = np.sqrt(curvature[self._order])
        self._ridge = ridge
        rows = self._roots[:, None] * B.T[self._order]
        if ridge:
            rows = np.vstack([rows, np.sqrt(ridge) * np.eye(B.shape[0])])
        self._Q, self._R, self._pivots = qr(
            rows, mode="economic", pivoting=True, check_finite=False
        )

    def solve(self, right):
        """Solve for one right-hand side.

        Parameters
        ----------
        right : ndarray, shape (m,)

        Returns
        -------
        slopes : ndarray, shape (n,)
            B^T times the solution.
        decrease : float
            The solution times `right`.
        solution : ndarray, shape (m,), or None
            None without a ridge.
        """
        from scipy.linalg.lapack import dtrtrs  # most of the time would go to a wrapper

        u, failed = dtrtrs(self._R, right[self._pivots], trans=1)
        if failed:
            raise np.linalg.LinAlgError("the matrix is singular")
        rows = self._Q @ u
        n = self._roots.size
        slopes = np.empty(n)
        slopes[self._order] = rows[:n] / self._roots
        return slopes, u @ u, rows[n:] / np.sqrt(self._ridge) if self._ridge else None


def _newton(B, y, x, depth):
    """Minimise the dual from nu = 0; x carries nu, and every step is a mirror step of x."""
    B, y = independent_rows(B, y)
    if not y.size:
        return x
    last, stalled = np.inf, 0
    for _ in range(1000):
        residual = y - B @ x
        if (np.abs(residual) <= EPS * (np.abs(B) @ x + np.abs(y))).all():
            break
        s, decrease, _ = DualSteps(B, depth * x ** (2 - 2 / depth)).solve(residual)
        # How much log x would change: the curvature is nearly constant over changes below one.
        pace = np.abs(depth * x ** (1 - 2 / depth) * s).max()
        if pace < 0.1:
            x = shifted(x, s, depth)
            stalled += pace > last / 2
            if pace < EPS or stalled > 5:  # rounding is reached
                break
            last = pace
            continue
        t, ascent = min(1.0, 2.0 / pace), decrease + x @ s
        before = (x ** (2 / depth)).sum() / 2
        while t * pace > 1e-3:
            moved = shifted(x, t * s, depth)
            if moved is not None:
                change = (moved ** (2 / depth)).sum() / 2 - before - t * ascent
                if change <= -0.1 * t * decrease:
                    break
            t /= 2
        x = shifted(x, t * s, depth)
    return x
