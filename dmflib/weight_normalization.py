r"""Weight normalisation: a product of weights whose length and direction move at two rates.

The unknown is :math:`x=w^{\odot N}\ge0` with :math:`w=r\,v/\|v\|`, the loss
:math:`L=\frac12\|Ax-y\|_2^2`, and the *polar flow* is

.. math:: \dot r=-\eta_r\,\partial_rL,\qquad \dot v=-\eta_v\,\nabla_vL .

It conserves :math:`\|v\|`, which is 1 here. Only :math:`\kappa=\eta_r/\eta_v` changes the path;
the size of the two rates is a matter of time. With :math:`\psi(r)=e^{r^2/(2\kappa)}/r`,

.. math:: \frac{\mathrm d}{\mathrm dt}\bigl(\psi(r)\,w\bigr)=-\eta_v\,r^2\psi(r)\,\nabla_wL ,

so the limit of the polar flow from :math:`w_0` is that of the plain flow from
:math:`w_0/\rho`, where :math:`\rho=\psi(r_\infty)/\psi(r_0)`.

`flow` integrates :math:`\ln w`, so no weight can change its sign or become zero. `limit` knows
nothing of time: it finds the minimiser and :math:`\rho` from two equations. With ``signed=True``
the model is :math:`x=p^{\odot N}-q^{\odot N}`, and :math:`w=(p,q)` has one length: this is
the positive case for the matrix :math:`(A\;\;{-A})`.
"""

import math
import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dmflib import _checks
from dmflib.bregman import check_solvable, doubled
from dmflib.stopping import Diverged, DivergenceWarning

MAX_STEPS = 20_000  # of the integrator
LARGEST_WEIGHT = 1e6
COLLAPSED = 1e-7  # radius over first radius at which the flow counts as ended at zero


# --- what ρ is, and what it is good for ---------------------------------------------------------


def log_magnification(start, end, radial_rate, direction_rate=1.0):
    r"""Logarithm of how much smaller a start the plain flow needs for the same limit.

    .. math:: \ln\rho=\ln\frac{r_0}{r_\infty}+\frac{r_\infty^2-r_0^2}{2\kappa},
              \qquad\kappa=\eta_r/\eta_v .

    The slides (source B) have :math:`\kappa` in place of :math:`2\kappa`.

    Parameters
    ----------
    start, end : float
        The radii :math:`r_0=\|w(0)\|_2` and :math:`r_\infty=\|w(\infty)\|_2`, positive.
    radial_rate, direction_rate : float
        :math:`\eta_r` and :math:`\eta_v` (with :math:`\|v\|=1`), positive.

    Returns
    -------
    float
        Negative where normalisation does harm.

    Raises
    ------
    ValueError
        If an argument is not positive.
    """
    start = _checks.real("start", start, above=0)
    end = _checks.real("end", end, above=0)
    kappa = _ratio(radial_rate, direction_rate)
    return math.log(start / end) + (end - start) * (end + start) / (2 * kappa)


def magnification(start, end, radial_rate, direction_rate=1.0):
    r"""Magnification factor :math:`\rho` of the implicit bias; see `log_magnification`.

    Parameters
    ----------
    start, end : float
        Radii at the start and in the limit, positive.
    radial_rate, direction_rate : float
        The two rates, positive.

    Returns
    -------
    float
        Infinite where the number is too large for floating point.

    Raises
    ------
    ValueError
        If an argument is not positive.
    """
    log = log_magnification(start, end, radial_rate, direction_rate)
    return math.exp(log) if log < 709 else math.inf


def l1_excess_bound(optimum, size, depth, radius, log_magnification=0.0):
    r"""Bound on the relative excess of the limit's 1-norm over the least one.

    For a start whose weights are all equal, :math:`w_0=(r_0/\sqrt n)\mathbf 1`, with
    :math:`\beta_1=\rho^{-N}r_0^Nn^{1-N/2}<Q` and :math:`\beta_{\min}=\beta_1/n`,

    .. math:: \frac{\|x_\infty\|_1}{Q}-1\le\begin{cases}
              \ln n\,/\ln(Q/\beta_1),&N=2,\\
              \frac N2\,\bigl(\beta_1^{1-2/N}-\beta_{\min}^{1-2/N}\bigr)
              \big/\bigl(Q^{1-2/N}-\beta_1^{1-2/N}\bigr),&N>2,\end{cases}

    which is the bound of source B (magnification theorem) with its constants corrected.

    Parameters
    ----------
    optimum : float
        :math:`Q`, the least 1-norm of a solution, positive.
    size : int
        :math:`n`, the number of weights (twice the number of unknowns in the signed case).
    depth : int
        :math:`N\ge2`.
    radius : float
        :math:`r_0`, positive.
    log_magnification : float
        :math:`\ln\rho`; zero is the plain flow.

    Returns
    -------
    float
        Infinite where :math:`\beta_1\ge Q` and nothing is claimed.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    optimum = _checks.real("optimum", optimum, above=0)
    size = _checks.integer("size", size, at_least=1)
    depth = _checks.integer("depth", depth, at_least=2)
    radius = _checks.real("radius", radius, above=0)
    log = _checks.real("log_magnification", log_magnification)
    # ln of β₁/Q; everything below depends on this number and on n.
    small = depth * (math.log(radius) - log) + (1 - depth / 2) * math.log(size) - math.log(optimum)
    if small >= 0:
        return math.inf
    if depth == 2:
        return math.log(size) / -small
    power = 1 - 2 / depth
    ratio = math.exp(power * small)
    return depth / 2 * ratio * -math.expm1(-power * math.log(size)) / -math.expm1(power * small)


def log_magnification_bound(optimum, depth, radius, radial_rate, direction_rate=1.0):
    r"""Lower bound on the magnification from the least 1-norm alone, as a logarithm.

    Since :math:`\|x\|_{2/N}\ge\|x\|_1\ge Q`, the limit has :math:`r_\infty\ge Q^{1/N}`; and
    :math:`\psi` increases beyond :math:`\sqrt\kappa`.

    Parameters
    ----------
    optimum : float
        :math:`Q`, the least 1-norm of a solution; :math:`Q^{2/N}\ge\kappa` is needed.
    depth : int
        :math:`N\ge2`.
    radius : float
        :math:`r_0`, positive.
    radial_rate, direction_rate : float
        The two rates, positive.

    Returns
    -------
    float
        A number that :math:`\ln\rho` is not below.

    Raises
    ------
    ValueError
        If an argument is outside its range, :math:`Q^{2/N}<\kappa` included.
    """
    optimum = _checks.real("optimum", optimum, above=0)
    depth = _checks.integer("depth", depth, at_least=2)
    radius = _checks.real("radius", radius, above=0)
    kappa, least = _ratio(radial_rate, direction_rate), optimum ** (1 / depth)
    if least**2 < kappa:
        _checks.fail("optimum", optimum, f">= kappa^(N/2) = {kappa ** (depth / 2):g}")
    return log_magnification(radius, least, kappa)


def potential(x, depth, radial_rate, direction_rate=1.0):
    r"""Strictly convex function in whose Bregman divergence the polar flow finds the nearest point.

    With :math:`R=\sum_ix_i^{2/N}=\|w\|_2^2` and :math:`\kappa=\eta_r/\eta_v` it is

    .. math:: F_\kappa(x)=\begin{cases}
              \frac12\sum_ix_i\ln(x_i/R)+\dfrac{R^2}{4\kappa},&N=2,\\[2pt]
              -\dfrac N{2(N-2)}\displaystyle\int_0^R
              \bigl(s\,e^{-s/\kappa}\bigr)^{(N-2)/2}\,\mathrm ds,&N>2,
              \end{cases}

    and :math:`\nabla F_\kappa` is :math:`\ln(\psi w)` for :math:`N=2`,
    :math:`-(\psi w)^{\odot(2-N)}/(N-2)` for :math:`N>2`. Along the flow
    :math:`\frac{\mathrm d}{\mathrm dt}\nabla F_\kappa(x)
    =-N\eta_v\,r^2\psi^{2-N}A^{\mathsf T}(Ax-y)`.

    Parameters
    ----------
    x : array_like, shape (..., n)
        Entries not negative.
    depth : int
        :math:`N\ge2`.
    radial_rate, direction_rate : float
        The two rates, positive.

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    x = _checks.array("x", x, min_ndim=1)
    depth = _checks.integer("depth", depth, at_least=2)
    kappa = _ratio(radial_rate, direction_rate)
    if (x < 0).any():
        _checks.fail("x", x, "without negative entries")
    R = (x ** (2 / depth)).sum(axis=-1)
    if depth == 2:
        share = x / np.where(R > 0, R, 1.0)[..., None]
        logs = np.log(np.where(share > 0, share, 1.0))
        return ((x * logs).sum(axis=-1) / 2 + R**2 / (4 * kappa))[()]
    from scipy.special import gammainc

    rate = (depth - 2) / (2 * kappa)
    scale = math.exp(math.lgamma(depth / 2) - depth / 2 * math.log(rate))
    return (-depth / 2 / (depth - 2) * scale * gammainc(depth / 2, rate * R))[()]


def invariant_defect(A, start, end, depth, radial_rate, direction_rate=1.0):
    r"""How far two weight vectors are from lying on one path of the polar flow.

    Along the flow :math:`\ln(\psi w)` (:math:`N=2`) or :math:`(\psi w)^{\odot(2-N)}`
    (:math:`N>2`) moves in the range of :math:`A^{\mathsf T}` only. The defect is the norm of the
    part of the move outside, relative to the start for :math:`N>2`.

    Parameters
    ----------
    A : array_like, shape (m, n)
    start, end : array_like, shape (n,)
        Weights, positive.
    depth : int
        :math:`N\ge2`.
    radial_rate : float or None
        :math:`\eta_r`; None for the plain flow, where :math:`\psi=1`.
    direction_rate : float
        :math:`\eta_v`, positive.

    Returns
    -------
    float
        Zero up to rounding for the flow; descent drifts.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    A = _checks.array("A", A, ndim=2)
    depth = _checks.integer("depth", depth, at_least=2)
    first, last = (
        np.log(_positive(name, value, A.shape[1]))
        for name, value in (("start", start), ("end", end))
    )
    gain = 0.0
    if radial_rate is not None:
        radii = (float(np.exp(_log_norm(logs))) for logs in (first, last))
        gain = log_magnification(*radii, radial_rate, direction_rate)
    if depth == 2:
        move, size = last + gain - first, 1.0
    else:
        # relative to the start, in units that neither overflow nor underflow
        before = (2 - depth) * first
        top = before.max()
        move = np.exp((2 - depth) * (last + gain) - top) - np.exp(before - top)
        size = np.linalg.norm(np.exp(before - top))
    _U, s, Vt = np.linalg.svd(A, full_matrices=False)
    rows = Vt[s > s[0] * max(A.shape) * np.finfo(float).eps] if s.any() else Vt[:0]
    return float(np.linalg.norm(move - rows.T @ (rows @ move)) / size)


# --- the flow -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    r"""The recorded path of a polar or plain flow, or of descent.

    Parameters
    ----------
    times : ndarray, shape (T,)
        Times of a flow, step numbers of descent.
    weights : ndarray, shape (T, n), or (T, 2n) in the signed case
        :math:`w` at these times.
    residuals : ndarray, shape (T,)
        :math:`\|Ax-y\|_2`.
    depth : int
        :math:`N`.
    signed : bool
        Whether x is a difference of two powers.
    stopped_by : str
        ``"residual"``, ``"time"``, ``"steps"``, ``"collapse"`` (the flow tends to zero) or
        ``"divergence at step k"``.
    evaluations : int
        How often the velocity was computed.
    direction_norms : ndarray, shape (T,)
        :math:`\|v\|`: one for flows, increasing for descent.
    """

    times: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray
    depth: int
    signed: bool
    stopped_by: str
    evaluations: int
    direction_norms: np.ndarray

    @property
    def converged(self):
        """Whether the residual fell to the tolerance."""
        return self.stopped_by == "residual"

    @cached_property
    def points(self):
        """The unknown x at the recorded times, shape (T, n)."""
        return _unknown(self.weights, self.depth, self.signed)

    @property
    def limit(self):
        """Where the run ended, shape (n,); the limit only if it converged."""
        return self.points[-1]

    @cached_property
    def radii(self):
        """Length of the weights at the recorded times, shape (T,)."""
        return np.linalg.norm(self.weights, axis=1)


def flow(
    A,
    y,
    depth,
    init,
    radial_rate,
    *,
    direction_rate=1.0,
    signed=False,
    tol=1e-10,
    t_final=1e12,
    rtol=1e-9,
    record=None,
):
    r"""Gradient flow of the normalised weights, until the equations are solved.

    In the coordinates :math:`\ell=\ln w`, with :math:`g=A^{\mathsf T}(Ax-y)`,

    .. math:: \dot\ell=-N\Bigl(\eta_v\,r^2\,w^{\odot(N-2)}\odot g
              +\Bigl(\frac{\eta_r}{r^2}-\eta_v\Bigr)\langle g,x\rangle\,\mathbf 1\Bigr)

    (source B, normalised gradient flow).

    Parameters
    ----------
    A : array_like, shape (m, n)
    y : array_like, shape (m,)
        Not zero.
    depth : int
        :math:`N\ge2`.
    init : float or array_like, shape (n,)
        :math:`w(0)`, positive; a number stands for equal weights. In the signed case p and q both
        start here, or at the two rows of an array of shape (2, n).
    radial_rate : float or None
        :math:`\eta_r`, positive. None is the plain flow :math:`\dot w=-\eta_v\nabla_wL`.
    direction_rate : float
        :math:`\eta_v`, positive, for :math:`\|v\|=1`.
    signed : bool
        Whether :math:`x=p^{\odot N}-q^{\odot N}`.
    tol : float
        The run ends when :math:`\|Ax-y\|_2\le` `tol` :math:`\cdot\|y\|_2`.
    t_final : float
        Latest time.
    rtol : float
        Accuracy of a step, relative for the weights; between 1e-13 and 1e-2.
    record : None or array_like of float
        None records every step; increasing times record exactly these, and the end.

    Returns
    -------
    Run
        Ask `converged` before you believe `limit`.

    Raises
    ------
    ValueError
        If an argument is outside its range, or ``Ax = y`` has no solution (with x >= 0 in the
        positive case); the message names the residual of the best fit.
    """
    A, y, depth, w, rate, speed = _problem(A, y, depth, init, radial_rate, direction_rate, signed)
    tol = _checks.real("tol", tol, above=0)
    t_final = _checks.real("t_final", t_final, above=0)
    rtol = _checks.real("rtol", rtol, at_least=1e-13, at_most=1e-2)
    due = None
    if record is not None:
        due = _checks.array("record", record, ndim=1)
        if due[0] < 0 or (np.diff(due) <= 0).any() or due[-1] > t_final:
            _checks.fail("record", due, "increasing times between 0 and t_final")
        due = due.tolist()
    system = _System(A, y, depth, rate, speed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # LSODA's; its status says it too
        times, logs, ended = _integrate(system, np.log(w), tol, t_final, rtol, due)
    weights = np.exp(logs)
    residuals = np.linalg.norm(weights**depth @ A.T - y, axis=1)
    ones = np.ones(len(times))
    return Run(times, weights, residuals, depth, signed, ended, system.evaluations, ones)


class _System:
    """Velocity of the logarithms of the weights, and its derivative."""

    def __init__(self, A, y, depth, rate, speed):
        self.A, self.y, self.depth, self.rate, self.speed = A, y, depth, rate, speed
        self._gram, self.evaluations = A.T @ A, 0

    def parts(self, logs):
        w = np.exp(logs)
        x = w**self.depth
        image = self.A @ x
        return w, x, image, image - self.y

    def velocity(self, t, logs):
        self.evaluations += 1
        N, c = self.depth, self.speed
        w, _x, image, residual = self.parts(logs)
        pull = w ** (N - 2) * (self.A.T @ residual)
        if self.rate is None:
            return -N * c * pull
        R = w @ w
        return -N * (c * R * pull + (self.rate / R - c) * (residual @ image))

    def jacobian(self, t, logs):
        N, c = self.depth, self.speed
        w, x, image, residual = self.parts(logs)
        power = w ** (N - 2)
        pull = power * (self.A.T @ residual)
        J = power[:, None] * self._gram * (N * x)
        J[np.diag_indices(len(w))] += (N - 2) * pull
        if self.rate is None:
            return -N * c * J
        R, work = w @ w, residual @ image
        J *= c * R
        J += np.outer(2 * c * pull, w * w)
        J += (self.rate / R - c) * N * x * (self.A.T @ (residual + image))
        J -= 2 * self.rate * work / R**2 * w * w
        return -N * J


def _integrate(system, logs, tol, t_final, rtol, due):
    """Integrate with LSODA; return times, states and what ended the run."""
    from scipy.integrate import LSODA

    goal = tol * np.linalg.norm(system.y)
    floor = _log_norm(logs) + math.log(COLLAPSED)
    times, states, ended, index = [], [], None, 0
    solver = LSODA(system.velocity, 0.0, logs, t_final, rtol=rtol, atol=rtol, jac=system.jacobian)

    def keep(t, state):
        times.append(t)
        states.append(np.array(state))

    if due is None or (due and due[0] == 0):
        keep(0.0, logs)
        index = 1
    for _ in range(MAX_STEPS):
        if np.linalg.norm(system.parts(solver.y)[3]) <= goal:
            ended = "residual"
        elif solver.y.max() < floor and _log_norm(solver.y) < floor:
            ended = "collapse"
        elif solver.status == "finished":
            ended = "time"
        if ended:
            break
        solver.step()
        if solver.status == "failed":
            break
        if due is None:
            keep(solver.t, solver.y)
        else:
            dense = solver.dense_output()
            while index < len(due) and due[index] <= solver.t:
                keep(due[index], dense(due[index]))
                index += 1
    if not times or times[-1] < solver.t:
        keep(solver.t, solver.y)
    return np.array(times), np.array(states), ended or "steps"


# --- the limit, without the flow ----------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    r"""Where a polar flow ends, and the plain flow that ends there too.

    Parameters
    ----------
    x : ndarray, shape (n,)
        The limit.
    radius : float
        :math:`r_\infty`, the length of the weights.
    log_magnification : float
        :math:`\ln\rho`: the plain flow from :math:`\rho^{-N}x_0` has this limit.
    """

    x: np.ndarray
    radius: float
    log_magnification: float


def limit(A, y, depth, init, radial_rate, *, direction_rate=1.0, signed=False):
    r"""Limit of the polar flow, from two equations and without integrating anything.

    For each number :math:`s` the plain flow from :math:`e^{-s}w_0` ends at the minimiser of a
    Bregman divergence, of radius :math:`r(s)`. The polar flow ends at the one :math:`s` with
    :math:`s=\ln\rho(r(s))`, unless it ends at zero.

    Parameters
    ----------
    A : array_like, shape (m, n)
    y : array_like, shape (m,)
        Not zero.
    depth : int
        :math:`N\ge2`.
    init : float or array_like, shape (n,)
        :math:`w(0)`, positive; a number stands for equal weights. Signed as in `flow`.
    radial_rate : float or None
        :math:`\eta_r`, positive; None for the plain flow.
    direction_rate : float
        :math:`\eta_v`, positive.
    signed : bool
        Whether :math:`x=p^{\odot N}-q^{\odot N}`.

    Returns
    -------
    Limit

    Raises
    ------
    ValueError
        As for `flow`.
    ArithmeticError
        If Newton's method does not converge.
    """
    A, y, depth, w, rate, speed = _problem(A, y, depth, init, radial_rate, direction_rate, signed)
    path = _Path(A, y, depth, np.log(w))
    if rate is None:
        s = 0.0
    else:
        s = _magnification_root(path, math.exp(_log_norm(np.log(w))), rate / speed)
    weights = np.exp(path.walk_to(s))
    return Limit(_unknown(weights, depth, signed), float(np.linalg.norm(weights)), float(s))


def _magnification_root(path, r0, kappa):
    """The number s with s = ln ρ(r(s)); s - ln ρ(r(s)) increases, so it is walked to."""
    from scipy.optimize import brentq

    def function(s):
        return s - log_magnification(r0, math.exp(_log_norm(path.walk_to(s))), kappa)

    here, value = 0.0, function(0.0)
    direction = -math.copysign(1.0, value)
    while value * direction < 0:
        last, here, value = here, here + direction, function(here + direction)
        if path.settled:
            direction *= 2
    if value == 0:
        return here
    return brentq(function, min(last, here), max(last, here), xtol=1e-13, rtol=1e-14)


class _Path:
    r"""Limits of the plain flows from :math:`e^{-s}w_0`, by a primal-dual Newton method.

    With :math:`\ell=\ln w` the equations are :math:`Ae^{N\ell}=y` and, for some :math:`\mu`,

    .. math:: \ell-\ln w_0+s=A^{\mathsf T}\mu\quad(N=2),\qquad
              \tau e^{(2-N)\ell}-w_0^{2-N}=A^{\mathsf T}\mu\quad(N>2),\quad\tau=e^{-(N-2)s}.

    For :math:`N>2` and growing :math:`s` this is the central path of a linear program.

    Once the point is, to rounding, the vertex that it tends to for growing :math:`s`, the path is
    `settled`, and known from there on: the support rests, and off it :math:`\ell` falls with
    constant slope.
    """

    def __init__(self, A, y, depth, start):
        self._A, self._y, self._depth, self._start = A, y, depth, start
        # The scale of the start is absorbed in s.
        self._shift = start.max()
        self._logs = np.full(len(start), math.log(np.linalg.norm(y)) / depth)
        self._mu, self._s = np.zeros(len(y)), None
        self.settled, self._fall = False, None

    def walk_to(self, s):
        """Go to the minimiser for `s` in steps that move x by e^3 at most; return its logs."""
        if self._s is None:
            self._s = self._shift - self._logs[0]  # a start of the size of the solution
            self._move_to(self._s)
        step = 3.0 / self._depth
        while self._s != s and not (self.settled and s > self._s):
            there = self._s + max(-step, min(step, s - self._s))
            try:
                self._move_to(there)
            except ArithmeticError:
                # Rounding on the support exceeds what the tiny weights can compensate.
                if there < self._s or not self._settles(1e-9):
                    raise
                break
            self._s = there
            self._settles(1e-14)
        return self._logs - max(s - self._s, 0) * self._fall if self.settled else self._logs

    def _settles(self, tolerance):
        """Find out whether x lies on a support whose vertex solves the linear program.

        A share of `tolerance` may lie off it. The program is that of s = infinity: least <c, x>
        over all solutions, with c = w_0^(2-N). Since <c, x> falls with s, a point near a unique
        minimiser stays near it.
        """
        N, x = self._depth, np.exp(self._depth * self._logs)
        self.settled = False
        excess, start = self._s - self._shift, self._start - self._shift
        if excess <= 0:
            return False
        if N == 2:
            cost, mu = np.ones_like(x), self._mu / excess
        else:
            cost, mu = np.exp((2 - N) * start), -self._mu
        slack = (cost - mu @ self._A) / cost
        on = slack < x / x.max()
        if not on.any() or x[~on].sum() >= tolerance * x.sum():
            return False
        columns = self._A[:, on]
        repair, _, rank, _ = np.linalg.lstsq(columns.T, (slack * cost)[on], rcond=None)
        slack = (cost - (mu + repair) @ self._A) / cost
        vertex = np.linalg.lstsq(columns, self._y, rcond=None)[0]
        unique = rank == on.sum() and np.abs(slack[on]).max() <= 1e-9 and (slack[~on] > 1e-9).all()
        if unique and (vertex > 0).all():
            self.settled, self._fall = True, np.where(on, 0.0, slack if N == 2 else 1.0)
            self._logs[on] = np.log(vertex) / N
            if N > 2:  # Newton's method, which looks at x, has not moved these to their places
                self._logs[~on] = np.log((cost * slack)[~on]) / (2 - N) - excess
        return self.settled

    def _move_to(self, s):
        """Newton's method for `s` from the last point."""
        A, N, y = self._A, self._depth, self._y
        logs, mu, small = self._logs, self._mu, 1e-13 * np.linalg.norm(y)
        excess = s - self._shift
        weights = np.exp((2 - N) * (self._start - self._shift))
        last = math.inf
        for _iteration in range(300):
            x = np.exp(N * logs)
            residual = y - A @ x
            if N == 2:
                defect = logs - (self._start - self._shift) + excess - mu @ A
                stiffness, flip = np.ones_like(logs), 1.0
            else:
                slack = np.exp((2 - N) * (logs + excess))
                defect = slack - weights - mu @ A
                stiffness, flip = (N - 2) * slack, -1.0
            # d(logs) = flip (A^T d(mu) - defect) / stiffness, and A N x d(logs) = residual
            root = np.sqrt(N * x / stiffness)
            target = residual * flip + A @ (N * x * defect / stiffness)
            d_mu = _solve(root[:, None] * A.T, target)
            d_logs = flip * (d_mu @ A - defect) / stiffness
            largest = np.abs(d_logs).max()
            size = min(1.0, 2.0 / largest) if largest > 0 else 1.0
            logs, mu = logs + size * d_logs, mu + size * d_mu
            move = np.abs(x * d_logs).max() / max(x.max(), 1e-300)
            if size == 1 and move < 1e-11 and np.linalg.norm(residual) < 1e3 * small:
                if move >= last or move < 1e-15:
                    break
                last = move
        else:
            raise ArithmeticError(f"Newton's method did not converge at s = {s:g}")
        self._logs, self._mu = logs, mu


def _solve(M, target):
    """Solve M^T M z = target, with the rows of M in all orders of magnitude."""
    from scipy.linalg import qr, solve_triangular

    order = np.argsort(-np.abs(M).max(axis=1))
    R, pivots = qr(M[order], mode="r", pivoting=True, check_finite=False)
    diagonal = np.abs(np.diagonal(R))
    rank = int((diagonal > diagonal[0] * 1e-15 * max(M.shape)).sum()) if diagonal[0] > 0 else 0
    R, z = R[:rank, :rank], np.zeros(M.shape[1])
    half = solve_triangular(R, target[pivots[:rank]], trans="T", check_finite=False)
    z[pivots[:rank]] = solve_triangular(R, half, check_finite=False)
    return z


# --- descent ------------------------------------------------------------------------------------


def descent(
    A,
    y,
    depth,
    init,
    radial_rate,
    step_size,
    steps,
    *,
    direction_rate=1.0,
    signed=False,
    renormalize=False,
    tol=0.0,
    record=1,
):
    r"""Gradient descent on length and direction of the weights, as a program would run it.

    .. math:: r\leftarrow r-h\,\eta_r\,\partial_rL,\qquad v\leftarrow v-h\,\eta_v\,\nabla_vL,
              \qquad\|v^{(0)}\|=1 .

    A step of :math:`v` is perpendicular to :math:`v`, so :math:`\|v\|` never decreases.

    Parameters
    ----------
    A : array_like, shape (m, n)
    y : array_like, shape (m,)
        Not zero.
    depth : int
        :math:`N\ge2`.
    init : float or array_like, shape (n,)
        :math:`w(0)`, positive; a number stands for equal weights. Signed as in `flow`.
    radial_rate : float or None
        :math:`\eta_r`, positive; None for the plain descent on :math:`w`.
    step_size : float
        :math:`h`, positive.
    steps : int
        At least 1.
    direction_rate : float
        :math:`\eta_v`, positive.
    signed : bool
        Whether :math:`x=p^{\odot N}-q^{\odot N}`.
    renormalize : bool
        Whether :math:`v` is divided by its length after every step.
    tol : float
        The run ends early when :math:`\|Ax-y\|_2\le` `tol` :math:`\cdot\|y\|_2`.
    record : int
        Record every so many steps; start and end are always recorded.

    Returns
    -------
    Run
        Its times are step numbers. A run that diverges ends at the last finite state, with a
        `DivergenceWarning`. Weights may become negative: nothing keeps them positive.

    Raises
    ------
    ValueError
        As for `flow`.
    """
    A, y, depth, w, rate, speed = _problem(A, y, depth, init, radial_rate, direction_rate, signed)
    h = _checks.real("step_size", step_size, above=0)
    steps = _checks.integer("steps", steps, at_least=1)
    record = _checks.integer("record", record, at_least=1)
    goal = _checks.real("tol", tol, at_least=0) * np.linalg.norm(y)
    r = np.linalg.norm(w)
    v, length, ended, rows = w / r, 1.0, "steps", []
    residual = A @ w**depth - y
    rows.append((0, w, np.linalg.norm(residual), length))
    for k in range(1, steps + 1):
        gradient = depth * w ** (depth - 1) * (A.T @ residual)
        if rate is None:
            trial = w - h * speed * gradient
        else:
            unit = v / length
            radial = unit @ gradient
            new_r = r - h * rate * radial
            new_v = v - h * speed * (r / length) * (gradient - radial * unit)
            new_length = np.linalg.norm(new_v)
            if renormalize:
                new_v, new_length = new_v / new_length, 1.0
            trial = new_r * new_v / new_length
        if not np.abs(trial).max() < LARGEST_WEIGHT:
            ended = str(Diverged(k))
            warnings.warn(f"descent ended by {ended}", DivergenceWarning, stacklevel=2)
            break
        w = trial
        if rate is not None:
            r, v, length = new_r, new_v, new_length
        residual = A @ w**depth - y
        size = np.linalg.norm(residual)
        done = size <= goal
        if done or k % record == 0 or k == steps:
            rows.append((k, w, size, length))
        if done:
            ended = "residual"
            break
    times, weights, sizes, lengths = (np.array(column) for column in zip(*rows, strict=True))
    return Run(times, weights, sizes, depth, signed, ended, k, lengths)


# --- shared -------------------------------------------------------------------------------------


def _ratio(radial_rate, direction_rate):
    """The one number that the path depends on."""
    radial_rate = _checks.real("radial_rate", radial_rate, above=0)
    return radial_rate / _checks.real("direction_rate", direction_rate, above=0)


def _positive(name, value, n):
    value = _checks.array(name, value, shape=(n,))
    if (value <= 0).any():
        _checks.fail(name, value, "positive in every entry")
    return value


def _log_norm(logs):
    """Logarithm of the norm of exp(logs)."""
    top = logs.max()
    return top + math.log(np.square(np.exp(logs - top)).sum()) / 2


def _unknown(weights, depth, signed):
    x = weights**depth
    if not signed:
        return x
    n = x.shape[-1] // 2
    return x[..., :n] - x[..., n:]


def _problem(A, y, depth, init, radial_rate, direction_rate, signed):
    """Check what all movers take; return the positive problem that stands for it."""
    A, y = check_solvable(A, y, nonnegative=not signed)
    depth = _checks.integer("depth", depth, at_least=2)
    w, A = doubled(A, init, signed, "init")
    if radial_rate is not None:
        radial_rate = _checks.real("radial_rate", radial_rate, above=0)
    direction_rate = _checks.real("direction_rate", direction_rate, above=0)
    if not y.any():
        _checks.fail("y", y, "different from zero")
    return A, y, depth, w, radial_rate, direction_rate
