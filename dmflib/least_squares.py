r"""Gradient flow and gradient descent on least squares, in closed form.

The loss is :math:`f(\beta)=\|y-X\beta\|_2^2`, without a factor one half, so its gradient is
:math:`2X^{\mathsf T}(X\beta-y)`. Let :math:`u_i,\sigma_i,v_i` be the singular vectors and positive
singular values of :math:`X`. Every solution in this module has the form

.. math:: \beta = \beta_0 + \sum_i \phi(\sigma_i)\,
          \bigl(\langle u_i,y\rangle/\sigma_i-\langle v_i,\beta_0\rangle\bigr)\,v_i

with a *filter* :math:`\phi` between 0 (nothing learned) and 1 (learned): flow, descent and ridge
regression differ in the filter alone. The form shows that the component of the start in the null
space of :math:`X` never moves, and in floating point it does not move either.

Singular values at most ``max(n, d) * eps * sigma_1`` count as zero, as in
`numpy.linalg.matrix_rank`; ``eps`` is the spacing of floating-point numbers at 1.

A `preconditioner` :math:`M`, symmetric and positive definite, replaces :math:`\nabla f` by
:math:`M\nabla f`. With :math:`M=LL^{\mathsf T}` that is the plain method for :math:`XL` in the
coordinates :math:`\gamma=L^{-1}\beta`, so all formulas carry over.
"""

from dataclasses import dataclass

import numpy as np

from dmflib import _checks

EPS = np.finfo(float).eps


def loss(X, y, beta):
    """Sum of squared errors of the predictions ``X @ beta`` (source C, equation 3).

    Parameters
    ----------
    X : array_like, shape (n, d)
        One sample per row.
    y : array_like, shape (n,)
        One answer per sample.
    beta : array_like, shape (..., d)
        One or many vectors of coefficients.

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If the shapes do not fit together or an entry is not finite.
    """
    X, y = _problem(X, y)
    return ((_coefficients("beta", beta, X) @ X.T - y) ** 2).sum(axis=-1)[()]


def gradient(X, y, beta):
    r"""Gradient of the loss, :math:`2X^{\mathsf T}(X\beta-y)` (source C, equation 4).

    Parameters
    ----------
    X : array_like, shape (n, d)
    y : array_like, shape (n,)
    beta : array_like, shape (..., d)

    Returns
    -------
    ndarray, shape (..., d)

    Raises
    ------
    ValueError
        If the shapes do not fit together or an entry is not finite.
    """
    X, y = _problem(X, y)
    return 2 * (_coefficients("beta", beta, X) @ X.T - y) @ X


def flow_filter(sigma, t):
    r"""How much of a component gradient flow has learned: :math:`1-e^{-2t\sigma^2}`.

    Parameters
    ----------
    sigma : array_like
        Singular values, not negative.
    t : array_like
        Times, not negative; broadcast against `sigma`.

    Returns
    -------
    ndarray or float
        Between 0 and 1; exact to rounding for small times too. Source C, section 2, prints
        the same numbers divided by `sigma`.

    Raises
    ------
    ValueError
        If a value is negative or not finite.
    """
    sigma, t = _nonnegative("sigma", sigma), _nonnegative("t", t)
    with np.errstate(over="ignore", under="ignore"):
        return -np.expm1(-2 * t * sigma * sigma)[()]


def descent_filter(sigma, step_size, steps):
    r"""How much gradient descent has learned: :math:`1-(1-2\eta\sigma^2)^k`.

    For :math:`\eta\sigma^2>1` the base is below -1 and the filter grows without bound.

    Parameters
    ----------
    sigma : array_like
        Singular values, not negative.
    step_size : float
        The number :math:`\eta`, positive.
    steps : array_like of int
        The numbers of steps :math:`k`, not negative; broadcast against `sigma`.

    Returns
    -------
    ndarray or float

    Raises
    ------
    ValueError
        If a value is outside its range, or the filter leaves the floating-point numbers; the
        message then says at which step.
    """
    sigma = _nonnegative("sigma", sigma)
    step_size = _checks.real("step_size", step_size, above=0)
    steps = _whole(steps)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        shrink = 2 * step_size * sigma * sigma  # from the left: sigma**2 may underflow
        # log|1 - shrink|, without cancellation where the base is near 1 and where it is near -1
        log_base = np.where(shrink < 1, np.log1p(-np.minimum(shrink, 1)), np.log1p(shrink - 2))
        power = np.where(steps == 0, 0.0, steps * log_base)  # 0 * (-inf) would be NaN
        negative = (shrink > 1) & (steps % 2 == 1)
        result = np.where(negative, 1 + np.exp(power), -np.expm1(power))
    if not np.isfinite(result).all():
        last = int(np.log(np.finfo(float).max) / np.max(log_base))
        _checks.fail(
            "steps",
            steps,
            f"at most {last} here: at step_size={step_size:g} descent diverges and leaves the "
            f"floating-point numbers at step {last + 1}",
        )
    return result[()]


def ridge_filter(sigma, penalty):
    r"""How much ridge regression keeps of a component: :math:`\sigma^2/(\sigma^2+\lambda)`.

    Parameters
    ----------
    sigma : array_like
        Singular values, not negative.
    penalty : array_like
        The numbers :math:`\lambda`, positive; broadcast against `sigma`. The flow's counterpart
        is :math:`\lambda=1/(2t)`.

    Returns
    -------
    ndarray or float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If a value is outside its range or not finite.
    """
    sigma = _nonnegative("sigma", sigma)
    penalty = _positive("penalty", penalty)
    # hypot neither overflows nor underflows; 0 stays 0
    root = np.sqrt(penalty)
    return ((sigma / np.hypot(sigma, root)) ** 2)[()]


def flow_solution(X, y, t, beta0=None, *, preconditioner=None):
    r"""Gradient flow :math:`\dot\beta=-\nabla f(\beta)` at the given times, in closed form.

    Source C, equation 6, extended to any start.

    Parameters
    ----------
    X : array_like, shape (n, d)
    y : array_like, shape (n,)
    t : array_like
        Times, not negative.
    beta0 : array_like, shape (d,), optional
        The start; zero where left out.
    preconditioner : array_like, shape (d, d), optional
        A symmetric positive definite matrix M: the flow is then :math:`\dot\beta=-M\nabla f`.

    Returns
    -------
    ndarray, shape t.shape + (d,)

    Raises
    ------
    ValueError
        If the shapes do not fit together or a value is outside its range.
    """
    modes = _Modes.of(X, y, beta0, preconditioner)
    t = _nonnegative("t", t)
    return modes.combine(flow_filter(modes.sigma, t[..., None]))


def descent_solution(X, y, step_size, steps, beta0=None, *, preconditioner=None):
    r"""Gradient descent after the given numbers of steps, in closed form.

    The iterates :math:`\beta_{k+1}=\beta_k-\eta\nabla f(\beta_k)` without walking: step 10**15
    costs what step 1 costs.

    Parameters
    ----------
    X : array_like, shape (n, d)
    y : array_like, shape (n,)
    step_size : float
        Positive. Descent converges from every start below `max_step_size`, and above it diverges
        from almost every start.
    steps : array_like of int
        Not negative.
    beta0 : array_like, shape (d,), optional
        The start; zero where left out.
    preconditioner : array_like, shape (d, d), optional
        A symmetric positive definite matrix M: the steps are then :math:`-\eta M\nabla f`.

    Returns
    -------
    ndarray, shape steps.shape + (d,)

    Raises
    ------
    ValueError
        If the shapes do not fit together, a value is outside its range, or descent diverges and
        has left the floating-point numbers before the last of these steps.
    """
    modes = _Modes.of(X, y, beta0, preconditioner)
    steps = _whole(steps)
    with np.errstate(over="ignore", invalid="ignore"):
        solution = modes.combine(descent_filter(modes.sigma, step_size, steps[..., None]))
    finite = np.isfinite(solution).all(axis=-1)
    if not finite.all():
        first = steps[~finite].min()
        _checks.fail(
            "steps",
            steps,
            f"below {first} here: at step_size={step_size:g} descent diverges and has left the "
            "floating-point numbers by then",
        )
    return solution


def ridge_solution(X, y, penalty, beta0=None, *, preconditioner=None):
    r"""Minimiser of :math:`f(\beta)+\lambda\,(\beta-\beta_0)^{\mathsf T}M^{-1}(\beta-\beta_0)`.

    Parameters
    ----------
    X : array_like, shape (n, d)
    y : array_like, shape (n,)
    penalty : array_like
        The numbers :math:`\lambda`, positive.
    beta0 : array_like, shape (d,), optional
        Where the penalty pulls to; zero where left out.
    preconditioner : array_like, shape (d, d), optional
        The matrix M, symmetric and positive definite; the identity where left out.

    Returns
    -------
    ndarray, shape penalty.shape + (d,)

    Raises
    ------
    ValueError
        If the shapes do not fit together or a value is outside its range.
    """
    modes = _Modes.of(X, y, beta0, preconditioner)
    penalty = _positive("penalty", penalty)
    return modes.combine(ridge_filter(modes.sigma, penalty[..., None]))


def limit_solution(X, y, beta0=None, *, preconditioner=None):
    r"""Where flow and convergent descent end: the least-squares solution nearest to the start.

    Without a preconditioner it is :math:`X^+y+P_{\ker X}\beta_0`; with one, nearest is meant in the
    norm :math:`\sqrt{z^{\mathsf T}M^{-1}z}`.

    Parameters
    ----------
    X : array_like, shape (n, d)
    y : array_like, shape (n,)
    beta0 : array_like, shape (d,), optional
        The start; zero where left out.
    preconditioner : array_like, shape (d, d), optional
        A symmetric positive definite matrix M.

    Returns
    -------
    ndarray, shape (d,)

    Raises
    ------
    ValueError
        If the shapes do not fit together or a value is outside its range.
    """
    modes = _Modes.of(X, y, beta0, preconditioner)
    return modes.combine(np.ones_like(modes.sigma))


def min_norm_solution(X, y):
    r"""Least-squares solution of least Euclidean norm, :math:`X^+y` (source C, section 3).

    Parameters
    ----------
    X : array_like, shape (n, d)
    y : array_like, shape (n,)
        It need not lie in the range of X.

    Returns
    -------
    ndarray, shape (d,)

    Raises
    ------
    ValueError
        If the shapes do not fit together or an entry is not finite.
    """
    return limit_solution(X, y)


def max_step_size(X, *, preconditioner=None):
    r"""Step size below which descent converges from every start: :math:`1/\sigma_1^2`.

    At this step size and above it, descent converges from almost no start.

    Parameters
    ----------
    X : array_like, shape (n, d)
    preconditioner : array_like, shape (d, d), optional
        A symmetric positive definite matrix M; :math:`\sigma_1` is then that of
        :math:`XM^{1/2}`.

    Returns
    -------
    float
        Infinite for the zero matrix, where nothing moves.

    Raises
    ------
    ValueError
        If `X` is not a finite matrix, or `preconditioner` is not symmetric positive definite.
    """
    sigma = _spectrum(X, preconditioner)
    return _inverse_square(sigma[0]) if len(sigma) else np.inf


def convergence_factor(X, step_size, *, preconditioner=None):
    r"""Largest factor by which one step multiplies an error: :math:`\max_i|1-2\eta\sigma_i^2|`.

    The maximum runs over the positive singular values. It is smallest,
    :math:`(\sigma_1^2-\sigma_r^2)/(\sigma_1^2+\sigma_r^2)`, at
    :math:`\eta=1/(\sigma_1^2+\sigma_r^2)`; see `best_step_size`.

    Parameters
    ----------
    X : array_like, shape (n, d)
    step_size : float
        Positive.
    preconditioner : array_like, shape (d, d), optional
        A symmetric positive definite matrix M.

    Returns
    -------
    float
        Below 1 exactly when descent converges from every start; 0 for the zero matrix.

    Raises
    ------
    ValueError
        If a value is outside its range.
    """
    sigma = _spectrum(X, preconditioner)
    step_size = _checks.real("step_size", step_size, above=0)
    return float(np.abs(1 - 2 * step_size * sigma**2).max(initial=0))


def best_step_size(X, *, preconditioner=None):
    r"""Step size of the fastest guaranteed convergence: :math:`1/(\sigma_1^2+\sigma_r^2)`.

    Parameters
    ----------
    X : array_like, shape (n, d)
    preconditioner : array_like, shape (d, d), optional
        A symmetric positive definite matrix M.

    Returns
    -------
    float
        Infinite for the zero matrix.

    Raises
    ------
    ValueError
        If `X` is not a finite matrix, or `preconditioner` is not symmetric positive definite.
    """
    sigma = _spectrum(X, preconditioner)
    return _inverse_square(np.hypot(sigma[0], sigma[-1])) if len(sigma) else np.inf


def descent_path(X, y, step_size, steps, beta0=None, *, preconditioner=None):
    """All iterates of gradient descent, walked one gradient at a time.

    The loop that `descent_solution` replaces, and an independent check of it.

    Parameters
    ----------
    X : array_like, shape (n, d)
    y : array_like, shape (n,)
    step_size : float
        Positive.
    steps : int
        How many, at least 0.
    beta0 : array_like, shape (d,), optional
        The start; zero where left out.
    preconditioner : array_like, shape (d, d), optional
        A symmetric positive definite matrix.

    Returns
    -------
    ndarray, shape (steps + 1, d)
        The start and every iterate.

    Raises
    ------
    ValueError
        If the shapes do not fit together, a value is outside its range, or an iterate leaves the
        floating-point numbers; the message then says at which step.
    """
    X, y = _problem(X, y)
    step_size = _checks.real("step_size", step_size, above=0)
    steps = _checks.integer("steps", steps, at_least=0)
    path = np.empty((steps + 1, X.shape[1]))
    path[0] = _start(beta0, X)
    M = _preconditioner(preconditioner, X)
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(steps):
            direction = 2 * X.T @ (X @ path[k] - y)
            path[k + 1] = path[k] - step_size * (direction if M is None else M @ direction)
            if not np.isfinite(path[k + 1]).all():
                _checks.fail(
                    "steps",
                    steps,
                    f"at most {k} here: at step_size={step_size:g} descent diverges and leaves "
                    f"the floating-point numbers at step {k + 1}",
                )
    return path


def divergence_step(X, y, step_size, beta0=None, factor=1e6):
    r"""First step at which the error exceeds `factor` times its size at the start.

    The error is the distance to `limit_solution`.

    Parameters
    ----------
    X : array_like, shape (n, d)
    y : array_like, shape (n,)
    step_size : float
        Positive.
    beta0 : array_like, shape (d,), optional
        The start; zero where left out.
    factor : float
        At least 1.

    Returns
    -------
    int or None
        None where that never happens.

    Raises
    ------
    ValueError
        If the shapes do not fit together or a value is outside its range.
    """
    modes = _Modes.of(X, y, beta0, None)
    step_size = _checks.real("step_size", step_size, above=0)
    factor = _checks.real("factor", factor, at_least=1)
    moves = modes.gap != 0
    with np.errstate(divide="ignore"):
        growth = np.log(np.abs(1 - 2 * step_size * modes.sigma[moves] ** 2))
        sizes = 2 * np.log(np.abs(modes.gap[moves]))
    if not (growth > 0).any():
        return None
    start = np.logaddexp.reduce(sizes)

    def exceeds(k):
        # Logarithms, because the error itself may overflow long before the answer is found.
        with np.errstate(invalid="ignore"):
            grown = np.logaddexp.reduce(sizes + 2 * k * growth)
        return grown > start + 2 * np.log(factor)

    # The squared error is a sum of exponentials of k, so it is convex: once above its first
    # value it stays there, and bisection finds the first such step.
    low, high = 0, 1
    while not exceeds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if exceeds(middle) else (middle, high)
    return high


def descent_lag(X, y, t, beta0=None):
    r"""How far descent runs ahead of the flow, per unit of step size, as the step size tends to 0.

    The limit of :math:`(\beta(t)-\beta_k)/\eta` for :math:`k\eta=t`. In the direction of
    :math:`v_i` it is :math:`-2t\sigma_i^4e^{-2t\sigma_i^2}` times what there is to learn.

    Parameters
    ----------
    X : array_like, shape (n, d)
    y : array_like, shape (n,)
    t : array_like
        Times, not negative.
    beta0 : array_like, shape (d,), optional
        The start; zero where left out.

    Returns
    -------
    ndarray, shape t.shape + (d,)

    Raises
    ------
    ValueError
        If the shapes do not fit together or a value is outside its range.
    """
    modes = _Modes.of(X, y, beta0, None)
    t = _nonnegative("t", t)[..., None]
    weights = -2 * t * modes.sigma**4 * np.exp(-2 * t * modes.sigma**2)
    return (weights * modes.gap) @ modes.directions


def flow_ridge_constants():
    r"""How near flow and ridge regression stay to each other, whatever the data.

    With penalty :math:`\lambda=1/(2t)` and :math:`x=2t\sigma^2` the filters are
    :math:`1-e^{-x}` and :math:`x/(1+x)`.

    Returns
    -------
    ratio : float
        Largest quotient of the two, about 1.2984; the smallest is 1.
    gap : float
        Largest difference of the two, about 0.2036; the smallest is 0.
    """
    from scipy.optimize import brentq

    # Where the derivatives vanish; both roots are the only positive ones.
    x = brentq(lambda x: np.exp(x) - 1 - x - x**2, 1, 3, xtol=1e-14)
    ratio = 1 + x / (1 + x + x**2)
    x = brentq(lambda x: np.exp(x / 2) - 1 - x, 1, 4, xtol=1e-14)
    return ratio, x / (1 + x) ** 2


def random_problem(rng, max_size=8):
    """Draw a least-squares problem of random shape and rank, to test a statement on.

    Parameters
    ----------
    rng : numpy.random.Generator or int
        A generator, or a seed for one.
    max_size : int
        Largest number of samples and of features, at least 1.

    Returns
    -------
    X : ndarray, shape (n, d)
        Of random rank between 1 and min(n, d).
    y : ndarray, shape (n,)
        Not in the range of X, in general.
    beta0 : ndarray, shape (d,)
        A start with a component in the null space of X, if there is one.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    rng = _checks.generator("rng", rng)
    max_size = _checks.integer("max_size", max_size, at_least=1)
    n, d = rng.integers(1, max_size, size=2, endpoint=True)
    rank = rng.integers(1, min(n, d), endpoint=True)
    X = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, d))
    return X, rng.standard_normal(n), rng.standard_normal(d)


def fourier_features(x, frequencies, smoothness=0.0):
    r"""Design matrix of trigonometric polynomials with frequency j weighted by :math:`j^{-s}`.

    The columns are the constant 1, then :math:`j^{-s}\cos jx`, then :math:`j^{-s}\sin jx` for
    :math:`j=1,\dots,m`. For a function :math:`g` with coefficients :math:`\beta`, the sum of the
    squares of all coefficients but the first is :math:`\frac1\pi\int_0^{2\pi}g^{(s)}(x)^2\,dx` for
    every whole number :math:`s`.

    Parameters
    ----------
    x : array_like, shape (n,)
        Angles in radians.
    frequencies : int
        The number m of frequencies, at least 1.
    smoothness : float
        The exponent s.

    Returns
    -------
    ndarray, shape (n, 2 m + 1)

    Raises
    ------
    ValueError
        If a value is outside its range.
    """
    x = _checks.array("x", x, ndim=1)
    j = np.arange(1, _checks.integer("frequencies", frequencies, at_least=1) + 1)
    weights = j ** -_checks.real("smoothness", smoothness)
    angles = np.outer(x, j)
    return np.hstack([np.ones((len(x), 1)), weights * np.cos(angles), weights * np.sin(angles)])


def random_features(x, count, rng, width=1.0):
    r"""Design matrix of random cosines whose inner products approximate :math:`e^{-|x-x'|/w}`.

    The columns are :math:`\sqrt{2/d}\,\cos(\omega_jx+b_j)` with Cauchy-distributed frequencies and
    uniform phases (random Fourier features for the Laplace kernel, Rahimi and Recht 2007).

    Parameters
    ----------
    x : array_like, shape (n,)
    count : int
        The number d of features, at least 1.
    rng : numpy.random.Generator or int
        A generator, or a seed for one: the same seed gives the same features at other points.
    width : float
        The kernel's width w, positive, in the unit of `x`.

    Returns
    -------
    ndarray, shape (n, d)

    Raises
    ------
    ValueError
        If a value is outside its range.
    """
    x = _checks.array("x", x, ndim=1)
    count = _checks.integer("count", count, at_least=1)
    rng = _checks.generator("rng", rng)
    width = _checks.real("width", width, above=0)
    frequencies = rng.standard_cauchy(count) / width
    phases = rng.uniform(0, 2 * np.pi, count)
    return np.sqrt(2 / count) * np.cos(np.outer(x, frequencies) + phases)


@dataclass(frozen=True)
class _Modes:
    """A problem in the coordinates in which its unknowns do not interact.

    The solution with filter values phi is ``start + (phi * gap) @ directions``.
    """

    start: np.ndarray  # (d,)
    sigma: np.ndarray  # (r,), the positive singular values of X L
    gap: np.ndarray  # (r,), what there is to learn in each direction
    directions: np.ndarray  # (r, d), rows L v_i

    @classmethod
    def of(cls, X, y, beta0, preconditioner):
        X, y = _problem(X, y)
        start = _start(beta0, X)
        M = _preconditioner(preconditioner, X)
        if M is None:
            U, sigma, V = _svd(X)
            return cls(start, sigma, U.T @ y / sigma - V @ start, V)
        L = np.linalg.cholesky(M)
        U, sigma, V = _svd(X @ L)
        gap = U.T @ y / sigma - V @ np.linalg.solve(L, start)
        return cls(start, sigma, gap, V @ L.T)

    def combine(self, phi):
        return self.start + (phi * self.gap) @ self.directions


def _svd(X):
    """Reduced singular value decomposition without the values that count as zero."""
    U, sigma, V = np.linalg.svd(X, full_matrices=False)
    rank = np.count_nonzero(sigma > max(X.shape) * EPS * sigma[0])
    return U[:, :rank], sigma[:rank], V[:rank]


def _spectrum(X, preconditioner):
    """Positive singular values of X L with M = L L^T."""
    X = _checks.array("X", X, ndim=2)
    M = _preconditioner(preconditioner, X)
    return _svd(X if M is None else X @ np.linalg.cholesky(M))[1]


def _inverse_square(sigma):
    with np.errstate(over="ignore"):
        return float(1 / sigma / sigma)


def _problem(X, y):
    X = _checks.array("X", X, ndim=2)
    return X, _checks.array("y", y, shape=(len(X),))


def _start(beta0, X):
    d = X.shape[1]
    return np.zeros(d) if beta0 is None else _checks.array("beta0", beta0, shape=(d,))


def _coefficients(name, beta, X):
    beta = _checks.array(name, beta, min_ndim=1)
    if beta.shape[-1] != X.shape[1]:
        raise ValueError(
            f"{name} has shape {beta.shape}: {name} must be a finite real array of shape "
            f"(..., {X.shape[1]}), as X has {X.shape[1]} columns"
        )
    return beta


def _preconditioner(M, X):
    """Return M as a symmetric positive definite matrix, or None."""
    if M is None:
        return None
    d = X.shape[1]
    M = _checks.array("preconditioner", M, shape=(d, d))
    allowed = f"a symmetric positive definite matrix of shape ({d}, {d})"
    if not np.allclose(M, M.T, rtol=0, atol=d * EPS * np.abs(M).max()):
        _checks.fail("preconditioner", M, allowed)
    try:
        np.linalg.cholesky(M)
    except np.linalg.LinAlgError:
        _checks.fail("preconditioner", M, allowed)
    return M


def _nonnegative(name, value):
    value = _checks.array(name, value, min_size=0)
    if (value < 0).any():
        _checks.fail(name, value, "finite and >= 0")
    return value


def _positive(name, value):
    value = _checks.array(name, value, min_size=0)
    if (value <= 0).any():
        _checks.fail(name, value, "finite and > 0")
    return value


def _whole(steps):
    """Return `steps` as an integer array without negative entries."""
    steps = np.asarray(steps)
    if steps.dtype.kind not in "iu" or (steps < 0).any():
        _checks.fail("steps", steps, "an integer >= 0, or an array of such integers")
    return steps
