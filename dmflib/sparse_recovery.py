r"""Sparse solutions of Ax = y from products of factors, without a penalty.

The unknown is a product of N identical vectors, :math:`x=w^{\odot N}`, or a difference of two,
:math:`x=u^{\odot N}-v^{\odot N}`. Every factor follows its own gradient of
:math:`\frac12\|Ax-y\|_2^2`:

.. math::

    \dot w&=-w^{\odot(N-1)}\odot A^{\mathsf T}(Ax-y),\\
    \dot u&=-u^{\odot(N-1)}\odot A^{\mathsf T}(Ax-y),\\
    \dot v&=+v^{\odot(N-1)}\odot A^{\mathsf T}(Ax-y).

Descent takes steps along the same velocities. The one vector w on :math:`L(w^{\odot N})` would move
N times faster; all times and step sizes here belong to the equations above.
"""

import warnings
from dataclasses import dataclass

import numpy as np

from dmflib import _checks, bregman
from dmflib.bregman import AccuracyWarning, check_solvable, doubled
from dmflib.stopping import Diverged, DivergenceWarning, MaxSteps, TimeReached
from dmflib.trajectory import recorded_steps


@dataclass(frozen=True)
class ResidualReached:
    """The residual has fallen to the wanted fraction of the norm of y.

    Parameters
    ----------
    residual : float
        The fraction at the end.
    time : float
        When.
    """

    residual: float
    time: float

    def __str__(self):
        return f"residual {self.residual:.1e} at time {self.time:g}"


@dataclass(frozen=True)
class Run:
    r"""The recorded path of a product of identical factors.

    Parameters
    ----------
    times : ndarray, shape (T,)
        Times of the flow, or step numbers of descent; the last one is the end of the run.
    factors : ndarray, shape (T, n) or (T, 2, n)
        The factor w, or the factors u and v of the signed product.
    products : ndarray, shape (T, n)
        :math:`x`.
    losses : ndarray, shape (T,)
        :math:`\frac12\|Ax-y\|_2^2`.
    residual : float
        :math:`\|Ax-y\|_2/\|y\|_2` at the end.
    reached : bool
        Whether the residual that was asked for was reached.
    stopped_by : object
        `ResidualReached`, or what else ended the run.
    steps : int
        Steps taken, rejected ones included.
    effective_start : ndarray or None
        Of descent, and of the shape of one record of `factors`: the start from which the flow
        stays on the dual line of the last iterate. None for the flow, and where a factor has
        changed its sign.
    """

    times: np.ndarray
    factors: np.ndarray
    products: np.ndarray
    losses: np.ndarray
    residual: float
    reached: bool
    stopped_by: object
    steps: int
    effective_start: np.ndarray | None = None

    @property
    def limit(self):
        """The product at the end of the run, shape (n,)."""
        return self.products[-1]


# --- the flow -----------------------------------------------------------------------------------

# RODAS, a Rosenbrock method of order 4 with an embedded one of order 3, stiffly accurate
# (Hairer and Wanner, Solving Ordinary Differential Equations II, section IV.10).
_GAMMA = 0.25
_STAGES = [
    [],
    [1.544],
    [0.9466785280815826, 0.2557011698983284],
    [3.314825187068521, 2.896124015972201, 0.9986419139977817],
    [1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950],
    [1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950, 1.0],
]
_COUPLINGS = [
    [],
    [-5.6688],
    [-2.430093356833875, -0.2063599157091915],
    [-0.1073529058151375, -9.594562251023355, -20.47028614809616],
    [7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160],
    [
        *(8.083246795921522, -7.981132988064893, -31.52159432874371),
        *(16.31930543123136, -6.058818238834054),
    ],
]


def hadamard_flow(
    A,
    y,
    depth,
    init,
    signed=True,
    *,
    residual=1e-10,
    t_final=None,
    times=None,
    rtol=1e-6,
    max_steps=20_000,
):
    r"""Gradient flow of a product of N identical factors, to its limit.

    It is integrated as gradient flow of the convex dual: with
    :math:`\nabla F(x)=\nabla F(x_0)+A^{\mathsf T}\nu` the flow reads
    :math:`\dot\nu=y-Ax(\nu)`. Every step is a mirror step from the current point, so the product
    stays positive, and on the dual line, by construction, at every scale. An implicit method of
    order four takes steps that grow with time.

    Parameters
    ----------
    A : array_like, shape (m, n)
    y : array_like, shape (m,)
    depth : int
        N, at least 2.
    init : array_like
        The factors at the start, positive: a number or shape (n,); in the signed case a number or
        shape (n,) for both u and v, or shape (2, n).
    signed : bool
        Whether the product is :math:`u^{\odot N}-v^{\odot N}` or :math:`w^{\odot N}`.
    residual : float
        Stop when :math:`\|Ax-y\|_2` has fallen to this fraction of :math:`\|y\|_2`.
    t_final : float, optional
        Stop at this time at the latest.
    times : array_like, optional
        Record at these times, increasing; every step is recorded where left out. The start and
        the end are always recorded.
    rtol : float
        Local error allowed in a step: of the factors, relative to their largest entry.
    max_steps : int
        Give up after so many steps.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If an argument is outside its range, or `y` is not of the form Ax with x of the kind that
        the product can take; the message then holds the residual of the best fit.

    Warns
    -----
    AccuracyWarning
        If the run ended at neither `residual` nor `t_final`; ``reached`` is then False.
    """
    depth = _checks.integer("depth", depth, at_least=2)
    A, y = check_solvable(A, y, nonnegative=not signed)
    w0, B = doubled(A, init, signed, "init")
    residual = _checks.real("residual", residual, at_least=0)
    if t_final is not None:
        t_final = _checks.real("t_final", t_final, above=0)
    times = _record_times(times)
    rtol = _checks.real("rtol", rtol, above=0, below=1)
    max_steps = _checks.integer("max_steps", max_steps, at_least=1)

    x0 = w0**depth
    if not (x0 > 0).all() or not np.isfinite(x0).all():
        _checks.fail("init", w0, f"such that its power {depth} neither under- nor overflows")
    flow = _DualFlow(B, y, depth, rtol)
    size = np.linalg.norm(y) or np.linalg.norm(B @ x0)
    x, t, h, steps, due = x0, 0.0, flow.first_step(x0), 0, 0
    records = [(t, x)]
    while due < len(times) and times[due] <= 0:
        due += 1
    ended = None
    while ended is None:
        reached = np.linalg.norm(B @ x - y) / size
        if reached <= residual:
            ended = ResidualReached(float(reached), t)
        elif t_final is not None and t >= t_final:
            ended = TimeReached(t)
        elif steps >= max_steps or not t + h > t:
            ended = MaxSteps(max(steps, 1))
        else:
            stop = min([t_final or np.inf, *times[due : due + 1]])
            planned = h
            if t + 1.001 * h >= stop:
                h = stop - t
            moved, error = flow.step(x, h)
            steps += 1
            if error <= 1:
                t = stop if h == stop - t else t + h
                x = moved
                if due < len(times) and t >= times[due]:
                    due += 1
                    records.append((t, x))
                elif not times:
                    records.append((t, x))
            factor = min(5.0, max(0.2, 0.9 * error**-0.25)) if error > 0 else 5.0
            h = max(h * factor, planned) if error <= 1 and h < planned else h * factor
    if records[-1][0] < t:
        records.append((t, x))
    if not isinstance(ended, (ResidualReached, TimeReached)):
        text = f"flow gave up after {steps} steps at time {t:g}, residual {reached:.1e}"
        warnings.warn(text, AccuracyWarning, stacklevel=2)
    recorded, path = zip(*records, strict=True)
    factors = np.stack(path) ** (1 / depth)
    factors[0] = w0
    return _run(A, y, signed, recorded, factors, np.stack(path), residual, ended, steps)


class _DualFlow:
    """One step of the flow nu' = y - B x(nu), from a point x that stands for nu = 0."""

    def __init__(self, B, y, depth, rtol):
        self.B, self.y = bregman.independent_rows(B, y)
        self.depth, self.rtol = depth, rtol

    def first_step(self, x):
        slopes = self.B.T @ (self.y - self.B @ x)
        pace = np.abs(self.depth * x ** (1 - 2 / self.depth) * slopes).max(initial=0.0)
        return 1e-2 / pace if pace else 1.0

    def step(self, x, h):
        """Point after time h, and the error of its logarithm in units of the tolerance."""
        N = self.depth
        power = N * x ** (1 - 2 / N)  # how log x answers to the dual variable
        if not self.y.size:
            return x, 0.0
        solver = bregman.DualSteps(self.B, power * x, 1 / (_GAMMA * h))
        changes, slopes, here = [], [], x
        for a, c in zip(_STAGES, _COUPLINGS, strict=True):
            if a:
                here = bregman.shifted(x, sum(f * s for f, s in zip(a, slopes, strict=True)), N)
                if here is None or not np.isfinite(here).all():
                    return x, 1e4
            right = self.y - self.B @ here
            right = right + sum(f / h * u for f, u in zip(c, changes, strict=True))
            slope, _, change = solver.solve(right)
            changes.append(change)
            slopes.append(slope)
        end = bregman.shifted(here, slopes[-1], N)
        if end is None or not np.isfinite(end).all():
            return x, 1e4
        # the change of w = x^(1/N) that corresponds, beside the largest w
        w = end ** (1 / N)
        return end, np.abs(w ** (N - 1) * slopes[-1]).max() / (self.rtol * w.max())


def _record_times(times):
    if times is None:
        return []
    times = _checks.array("times", times, ndim=1)
    if times[0] < 0 or (np.diff(times) <= 0).any():
        _checks.fail("times", times, "increasing, from 0 on")
    return times.tolist()


def _run(A, y, signed, times, factors, parts, wanted, ended, steps, start=None):
    if signed:
        parts = parts.reshape(len(parts), 2, -1)
        products = parts[:, 0] - parts[:, 1]
        factors = factors.reshape(parts.shape)
        start = None if start is None else start.reshape(2, -1)
    else:
        products = parts
    gaps = products @ A.T - y
    size = np.linalg.norm(y) or np.linalg.norm(gaps[0]) or 1.0
    last = float(np.linalg.norm(gaps[-1]) / size)
    reached = isinstance(ended, ResidualReached) or last <= wanted
    return Run(
        np.asarray(times), factors, products, (gaps**2).sum(axis=1) / 2,
        last, reached, ended, steps, start,
    )  # fmt: skip


# --- gradient descent ---------------------------------------------------------------------------


def hadamard_descent(
    A, y, depth, init, step_size, signed=True, *, steps=100_000, residual=1e-10, record=None
):
    r"""Gradient descent of a product of N identical factors.

    One step is :math:`w\leftarrow w\odot(1-\eta\,w^{\odot(N-2)}\odot A^{\mathsf T}(Ax-y))`; in the
    signed case v moves with the opposite sign.

    Parameters
    ----------
    A : array_like, shape (m, n)
    y : array_like, shape (m,)
    depth : int
        N, at least 2.
    init : array_like
        The factors at the start, as in `hadamard_flow`.
    step_size : float
        :math:`\eta`, positive. See `stability_limit`.
    signed : bool
        Whether the product is :math:`u^{\odot N}-v^{\odot N}` or :math:`w^{\odot N}`.
    steps : int
        At most so many steps.
    residual : float
        Stop when :math:`\|Ax-y\|_2` has fallen to this fraction of :math:`\|y\|_2`.
    record : int or array_like of int, optional
        Record every so many steps, or exactly these; the start and the end are always recorded,
        and nothing else where left out.

    Returns
    -------
    Run
        Its `effective_start` is the start of a flow whose dual line holds the last iterate: where
        descent converges, its limit is the nearest solution to that start, exactly.

    Raises
    ------
    ValueError
        If an argument is outside its range or the system has no solution of the kind.

    Warns
    -----
    DivergenceWarning
        If an iterate leaves the floating-point numbers; the run ends before it, and `stopped_by`
        names the step.
    """
    depth = _checks.integer("depth", depth, at_least=2)
    A, y = check_solvable(A, y, nonnegative=not signed)
    w, B = doubled(A, init, signed, "init")
    eta = _checks.real("step_size", step_size, above=0)
    steps = _checks.integer("steps", steps, at_least=1)
    residual = _checks.real("residual", residual, at_least=0)
    wanted = set(recorded_steps(steps if record is None else record, steps))
    size = np.linalg.norm(y) or np.linalg.norm(B @ w**depth)
    # Twice the change of the potential's gradient that is not of the form A^T nu; see _defect.
    excess = np.zeros_like(w)
    positive = True
    records, k, ended, last = [(0, w)], 0, None, w
    with np.errstate(over="ignore", invalid="ignore"):
        while ended is None:
            gap = B @ w**depth - y
            reached = np.linalg.norm(gap) / size
            if not np.isfinite(reached):
                ended = Diverged(k)
                warnings.warn(f"descent ended by {ended}", DivergenceWarning, stacklevel=2)
                w, k = last, max(k - 1, 0)
            elif reached <= residual:
                ended = ResidualReached(float(reached), k)
            elif k == steps:
                ended = MaxSteps(steps)
            if k in wanted and records[-1][0] < k:
                records.append((k, w))
            if ended is None:
                a = eta * w ** (depth - 2) * (B.T @ gap)
                positive = positive and bool((a < 1).all())
                if positive:
                    excess = excess + _defect(w, a, depth)
                w = w * (1 - a)
                k += 1
    while records[-1][0] > k:
        records.pop()
    if records[-1][0] < k:
        records.append((k, w))
    taken, path = zip(*records, strict=True)
    start = None
    if positive:
        w0 = path[0]
        start = w0 * np.exp(-excess) if depth == 2 else (
            w0 * (1 + w0 ** (depth - 2) * excess) ** (-1 / (depth - 2)))  # fmt: skip
    factors = np.stack(path)
    return _run(A, y, signed, taken, factors, factors**depth, residual, ended, k, start)


def _defect(w, a, depth):
    """What a step w -> w (1 - a) adds beyond a step along the gradient of the potential.

    At depth 2 it is -ln(1-a) - a; at depth N it is w^{2-N} ((1-a)^{2-N} - 1 - (N-2) a).
    Both are convex in a and zero to second order: never negative.
    """
    log = -np.log1p(-a)
    small = np.abs(a) < 1e-3
    if depth == 2:
        return np.where(small, a**2 * (1 / 2 + a * (1 / 3 + a * (1 / 4 + a / 5))), log - a)
    p = depth - 2
    b = a**2 * p * (p + 1) / 2
    series = b * (1 + a * (p + 2) / 3 * (1 + a * (p + 3) / 4 * (1 + a * (p + 4) / 5)))
    return w ** (-p) * np.where(small, series, np.expm1(p * log) - p * a)


def stability_limit(A, factors, depth):
    r"""Step size above which descent cannot settle at these factors.

    At a solution the second derivative of the loss of all N factors has the largest eigenvalue
    :math:`N\|A\operatorname{diag}(w^{\odot(N-1)})\|_2^2`, and a step size above two over it makes
    the solution repelling.

    Parameters
    ----------
    A : array_like, shape (m, n)
    factors : array_like, shape (n,) or (2, n)
        w, or u and v, at a solution.
    depth : int
        N, at least 2.

    Returns
    -------
    float
        Infinite where the second derivative vanishes.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    A = _checks.array("A", A, ndim=2)
    depth = _checks.integer("depth", depth, at_least=2)
    factors = _checks.array("factors", factors)
    n = A.shape[1]
    if factors.shape not in ((n,), (2, n)):
        raise ValueError(f"factors has shape {factors.shape}: factors must be ({n},) or (2, {n})")
    weights = np.sqrt((factors.reshape(-1, n) ** (2 * depth - 2)).sum(axis=0))
    curvature = depth * np.linalg.norm(A * weights, 2) ** 2
    return 2 / curvature if curvature > 0 else np.inf


# --- the least l1 norm --------------------------------------------------------------------------


def basis_pursuit(A, y, nonnegative=False, weights=None):
    r"""Solution of Ax = y of least (weighted) l1 norm, by linear programming.

    Parameters
    ----------
    A : array_like, shape (m, n)
    y : array_like, shape (m,)
    nonnegative : bool
        Whether the entries of the solution must not be negative.
    weights : array_like, optional
        Positive weights h of the norm :math:`\sum_kh_k|z_k|`: a number or shape (n,); for signed
        solutions also shape (2, n), the weights of positive and of negative entries.

    Returns
    -------
    ndarray, shape (n,)
        A vertex of the set of minimisers; there may be others.

    Raises
    ------
    ValueError
        If the shapes do not fit, or the system has no solution of the kind; the message then holds
        the residual of the best fit.
    """
    from scipy.optimize import linprog

    A, y = check_solvable(A, y, nonnegative=nonnegative)
    cost, B = doubled(A, 1.0 if weights is None else weights, not nonnegative, "weights")
    size = np.linalg.norm(y)
    if not size:
        return np.zeros(A.shape[1])
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    result = linprog(cost / cost.max(), A_eq=B, b_eq=y / size, method="highs", options=options)
    if result.status != 0:  # on the edge of what has solutions: take the tolerances of the solver
        result = linprog(cost / cost.max(), A_eq=B, b_eq=y / size, method="highs")
    if result.status != 0:
        _checks.fail("y", y, f"reachable for the solver, which said: {result.message}")
    z = size * result.x
    return z if nonnegative else z[: A.shape[1]] - z[A.shape[1] :]


def certificate_margin(A, z, nonnegative=False):
    r"""How clearly a sparse solution is the one of least l1 norm.

    The largest :math:`\delta` for which some :math:`\nu` has :math:`(A^{\mathsf T}\nu)_k=
    \operatorname{sign}z_k` where z is not zero, and elsewhere :math:`(A^{\mathsf T}\nu)_k\le
    1-\delta`, in absolute value for signed solutions. If it is positive and the columns on the
    support are independent, z is the only solution of least norm.

    Parameters
    ----------
    A : array_like, shape (m, n)
    z : array_like, shape (n,)
        Entries below 1e-9 of the largest count as zero.
    nonnegative : bool
        Whether only solutions with entries that are not negative compete.

    Returns
    -------
    float
        Minus infinity if no :math:`\nu` takes the signs of z, infinity if z has no zero.

    Raises
    ------
    ValueError
        If the shapes do not fit or an entry is not finite.
    """
    from scipy.optimize import linprog

    A = _checks.array("A", A, ndim=2)
    m, n = A.shape
    z = _checks.array("z", z, shape=(n,))
    support = np.abs(z) > 1e-9 * np.abs(z).max()
    if support.all():
        return np.inf
    columns = A[:, ~support].T
    above = np.vstack([columns] if nonnegative else [columns, -columns])
    result = linprog(
        np.append(np.zeros(m), -1.0),
        np.column_stack([above, np.ones(len(above))]), np.ones(len(above)),
        np.column_stack([A[:, support].T, np.zeros(support.sum())]), np.sign(z[support]),
        bounds=[(None, None)] * (m + 1), method="highs",
    )  # fmt: skip
    if result.status == 3:  # unbounded
        return np.inf
    return float(result.x[-1]) if result.status == 0 else -np.inf


def start_sizes(init, depth):
    r"""What the l1 theorem needs to know of a start: beta_1, beta_min and the weights.

    Parameters
    ----------
    init : array_like
        The factors at the start with their full shape, (n,) or (2, n); positive.
    depth : int
        N, at least 2.

    Returns
    -------
    beta1 : float
        :math:`\|w_0\|_2^2`, over both factors in the signed case.
    beta_min : float
        The least :math:`w_{0k}^2`.
    weights : ndarray
        :math:`w_0^{\odot(2-N)}`, of the shape of `init`.

    Raises
    ------
    ValueError
        If an entry of `init` is not positive or `depth` is not an integer above 1.
    """
    depth = _checks.integer("depth", depth, at_least=2)
    init = _checks.array("init", init, min_ndim=1)
    if init.min() <= 0:
        _checks.fail("init", init, "positive")
    return (init**2).sum(), (init**2).min(), init ** (2.0 - depth)


def l1_excess_bound(optimum, beta1, beta_min, depth, form="published"):
    r"""How far the limit's l1 norm may lie above the least one, relative to it.

    With :math:`p=1-2/N` the forms are, for N > 2,

    .. math:: \frac N2\,\frac{\beta_1^p-\beta_{\min}^p}{Q^p-\beta_1^p},\qquad
              \frac{N(\beta_1^p-\beta_{\min}^p)}{2Q^p-N\beta_1^p},\qquad
              \frac{\beta_1^p-\beta_{\min}^p}{Q^p-\beta_1^p}

    by the names ``"published"``, ``"restricted"`` and ``"sharp"``. For N = 2 all three are
    :math:`\ln(\beta_1/\beta_{\min})/\ln(Q/\beta_1)`.

    Parameters
    ----------
    optimum : array_like
        Q, the least norm among the solutions of the kind, in the norm weighted by `start_sizes`;
        for a start with equal entries :math:`\alpha` the plain norm goes with
        :math:`\beta_1=n\alpha^N` (signed: :math:`2n\alpha^N`) and :math:`\beta_{\min}=\alpha^N`.
    beta1 : array_like
        Below the optimum; ``"restricted"`` needs :math:`(N/2)^{N/(N-2)}\beta_1<Q`.
    beta_min : array_like
        Positive, at most `beta1`.
    depth : int
        N, at least 2.
    form : {"published", "restricted", "sharp"}
        The first is source B and Chou, Maly and Rauhut (2023), the
        second Chou, Rauhut and Ward (2024), and the
        third is proved in this book; it is never the largest.

    Returns
    -------
    ndarray or float
        Epsilon: the limit's norm is at most (1 + epsilon) Q.

    Raises
    ------
    ValueError
        If a number is outside its range, so that the form says nothing.
    """
    depth = _checks.integer("depth", depth, at_least=2)
    _checks.choice("form", form, ("published", "restricted", "sharp"))
    Q, large, small = (
        _checks.array(name, value)
        for name, value in (("optimum", optimum), ("beta1", beta1), ("beta_min", beta_min))
    )
    try:
        Q, large, small = np.broadcast_arrays(Q, large, small)
    except ValueError:
        _checks.fail("optimum", Q, "of a shape that fits those of beta1 and beta_min")
    if small.min() <= 0:
        _checks.fail("beta_min", small, "positive")
    if (small > large).any():
        _checks.fail("beta_min", small, "at most beta1")
    p = 1 - 2 / depth
    limit = (depth / 2) ** (1 / p) if form == "restricted" and depth > 2 else 1.0
    if (limit * large >= Q).any():
        _checks.fail("optimum", Q, f"larger than {limit:g} times beta1")
    spread, room = np.log(large / small), np.log(Q / large)
    if depth == 2:
        return (spread / room)[()]
    # (beta1^p - beta_min^p) / beta1^p and (Q^p - beta1^p) / beta1^p
    spread, room = -np.expm1(-p * spread), np.expm1(p * room)
    if form == "sharp":
        return (spread / room)[()]
    if form == "published":
        return (depth / 2 * spread / room)[()]
    return (depth * spread / (2 * room - (depth - 2)))[()]


def crowded_excess(n, scale, depth):
    r"""Excess of the l1 norm where n - 1 competitors are hardly worse than the best solution.

    The problem is :math:`x_1+(1-\delta)(x_2+\dots+x_n)=1` with non-negative unknowns, whose least
    l1 norm is 1. The gap :math:`\delta` is the one of largest excess as the scale tends to zero:
    :math:`(1+W(M/e))/\ln(1/\alpha^2)` for N = 2 and a multiple of :math:`\alpha^{N-2}` beyond,
    where :math:`M=n-1` and W is Lambert's function.

    Parameters
    ----------
    n : int
        Number of unknowns, at least 2.
    scale : float
        :math:`\alpha`, the entries of the factors at the start; so small that the gap is below 1.
    depth : int
        N, at least 2.

    Returns
    -------
    measured : float
        The excess of the limit.
    leading : float
        Its leading order as the scale tends to zero.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import lambertw

    n = _checks.integer("n", n, at_least=2)
    scale = _checks.real("scale", scale, above=0, below=1)
    depth = _checks.integer("depth", depth, at_least=2)
    M, p = n - 1, 1 - 2 / depth
    if depth == 2:
        unit, best = 1 / np.log(scale**-2), float(np.real(lambertw(M / np.e)))
        width = best + 1
    else:
        unit = scale ** (depth - 2)

        def gap(log):  # X = x_1 is the exponential of `log`
            x = np.exp(log)
            return (M / (1 - x)) ** p - x**-p

        # The gap is positive for X > 1/n only.
        found = minimize_scalar(
            lambda log: np.expm1(log) * gap(log),
            bounds=(-np.log(n), -1e-9), method="bounded", options={"xatol": 1e-10},
        )  # fmt: skip
        best, width = -found.fun, gap(found.x)
    delta = float(width * unit)
    if not 0 < delta < 1:
        _checks.fail("scale", scale, "smaller: the gap to the competitors must be below 1")
    x = bregman.minimizer([[1, *np.full(M, 1 - delta)]], [1], scale**depth, depth)
    return delta * x[1:].sum(), best * unit


def time_bounds(A, y, depth, scale, solution, entry, residual, signed=True):
    r"""Bounds on the times when the flow leaves its start and when it fits the data.

    Parameters
    ----------
    A : array_like, shape (m, n)
    y : array_like, shape (m,)
    depth : int
        N, at least 2.
    scale : float
        :math:`\alpha`, the entries of the factors at the start.
    solution : array_like, shape (n,)
        Any solution of the kind, such as the limit.
    entry : float
        Above the scale.
    residual : float
        A value of :math:`\|Ax-y\|_2`, positive.
    signed : bool
        Whether the product is :math:`u^{\odot N}-v^{\odot N}` or :math:`w^{\odot N}`.

    Returns
    -------
    before : float
        No factor has an entry larger than `entry` before this time.
    after : float
        The residual is at most `residual` from this time on.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    depth = _checks.integer("depth", depth, at_least=2)
    A, y = check_solvable(A, y, nonnegative=not signed)
    scale = _checks.real("scale", scale, above=0)
    entry = _checks.real("entry", entry, above=scale)
    residual = _checks.real("residual", residual, above=0)
    z = _checks.array("solution", solution, shape=(A.shape[1],))
    w0, B = doubled(A, scale, signed, "scale")
    if signed:
        z = np.concatenate([np.maximum(z, 0), np.maximum(-z, 0)])
    if z.min() < 0 or np.linalg.norm(B @ z - y) > 1e-6 * np.linalg.norm(y):
        _checks.fail("solution", z, "a solution of A @ z = y of the kind")
    steepest = np.linalg.norm(A, axis=0).max() * np.linalg.norm(B @ w0**depth - y)
    p = depth - 2
    way = np.log(entry / scale) if depth == 2 else (scale**-p - entry**-p) / p
    before = way / steepest if steepest else np.inf
    return float(before), float(bregman.divergence(z, w0**depth, depth) / residual**2)
