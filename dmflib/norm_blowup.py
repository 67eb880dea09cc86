r"""A completion problem whose solution runs to infinity: every norm grows, and the rank falls.

Of a 2x2 matrix three entries are observed, :math:`W_{12}=z`, :math:`W_{21}=z'` and
:math:`W_{22}=\epsilon`. If the determinant of the start has the sign of :math:`zz'` and
:math:`\epsilon=0`, then the flow of balanced factors can lower the loss only by sending
:math:`W_{11}` to infinity, since it keeps the sign of the determinant and every solution has the
other sign (source C, theorem 1).

`flow` follows the product to any time. It moves coordinates in which the sign cannot be lost: a
2x2 matrix acts on the complex numbers by :math:`w\mapsto\zeta w+\omega\bar w`, its singular
values are :math:`|\zeta|+|\omega|` and :math:`||\zeta|-|\omega||`, and its determinant is
:math:`|\zeta|^2-|\omega|^2`. Matrices of positive determinant are therefore described, all of
them and without a singular point, by :math:`\ln\det W`, the angle of :math:`\zeta` and the
number :math:`\omega`.
"""

import math
import warnings

import numpy as np

from dmflib import _checks
from dmflib.losses import Completion, check_loss
from dmflib.stopping import (
    Diverged,
    DivergenceWarning,
    LossBelow,
    MaxSteps,
    TimeReached,
    check_rule,
)
from dmflib.trajectory import Recorder, Trajectory

END_OF_TIME = 1e30  # a run whose rule never fires ends here
SMALLEST_LOG, LARGEST_LOG = -745.0, 700.0  # exp of less is zero, of more is infinite
LARGEST_ENTRY = 1e150  # beyond, the square in the loss would overflow


def counterexample(unobserved=None, observed=(1.0, 1.0, 0.0)):
    r"""Loss of a 2x2 completion problem with one entry hidden (source C, equations 7 and 9).

    .. math:: \ell(W)=\tfrac12\bigl((W_{12}-z)^2+(W_{21}-z')^2+(W_{22}-\epsilon)^2\bigr)

    Parameters
    ----------
    unobserved : (int, int), optional
        Row and column of the hidden entry, counted from 0; the upper left one where left out.
    observed : (float, float, float)
        The observed values: the hidden entry's neighbour in its row, :math:`z`; its neighbour
        in its column, :math:`z'`; and the entry opposite, :math:`\epsilon`.

    Returns
    -------
    Completion

    Raises
    ------
    ValueError
        If `unobserved` is no position in a 2x2 matrix or `observed` does not hold three numbers.
    """
    row, column = (0, 0) if unobserved is None else _position(unobserved)
    z, z2, eps = _checks.array("observed", observed, shape=(3,))
    target = np.full((2, 2), np.nan)
    target[row, 1 - column], target[1 - row, column], target[1 - row, 1 - column] = z, z2, eps
    return Completion(target, ~np.isnan(target))


def _position(unobserved):
    allowed = "a pair (row, column) of numbers 0 or 1, or None"
    try:
        row, column = (_checks.integer("unobserved", i, at_least=0) for i in unobserved)
    except TypeError:
        _checks.fail("unobserved", unobserved, allowed)
    except ValueError:
        _checks.fail("unobserved", unobserved, allowed)
    if max(row, column) > 1:
        _checks.fail("unobserved", unobserved, allowed)
    return row, column


def solution(entry, observed=(1.0, 1.0, 0.0)):
    """Matrix of loss zero with a given hidden entry in the upper left corner.

    Parameters
    ----------
    entry : array_like, shape (...)
        The hidden entry, one number or many.
    observed : (float, float, float)
        See `counterexample`.

    Returns
    -------
    ndarray, shape (..., 2, 2)

    Raises
    ------
    ValueError
        If an argument is not finite or has the wrong shape.
    """
    entry = _checks.array("entry", entry)
    z, z2, eps = _checks.array("observed", observed, shape=(3,))
    W = np.empty((*entry.shape, 2, 2))
    W[..., 0, 0], W[..., 0, 1], W[..., 1, 0], W[..., 1, 1] = entry, z, z2, eps
    return W


# --- bounds -------------------------------------------------------------------------------------


def entry_lower_bound(loss, observed=(1.0, 1.0, 0.0)):
    r"""How large the hidden entry must be at a given loss, if the determinant has the sign of zz'.

    With :math:`\rho=\sqrt{2\ell}` and :math:`z=z'=1,\ \epsilon=0` the bound is the best one: for
    :math:`\rho^2\le\tfrac34` it is :math:`(1-r)^{3/2}r^{-1/2}` with :math:`r+r^2=\rho^2`, above it
    is :math:`\sqrt{1-\rho^2}`. It is at least :math:`1/\rho-\rho`. For other entries it is
    :math:`|zz'|\,\mu(\rho/m)/(|\epsilon|+\rho)` with :math:`m=\min(|z|,|z'|)` and the function
    :math:`\mu(s)=(1-s/\sqrt2)^2` for :math:`s\le1/\sqrt2`, :math:`(1-s^2)/2` above; for
    :math:`\epsilon=0` the best bound, scaled, is used instead. It is zero for :math:`\rho\ge m`.

    Parameters
    ----------
    loss : array_like, shape (...)
        Values of the loss, not negative.
    observed : (float, float, float)
        :math:`z`, :math:`z'`, :math:`\epsilon`.

    Returns
    -------
    ndarray, shape (...), or float
        Lower bound of :math:`|W_{11}|`; infinite at loss zero if :math:`\epsilon=0`.

    Raises
    ------
    ValueError
        If a loss is negative or `observed` does not hold three numbers.

    Notes
    -----
    Source C, equation 20, has :math:`(1-\rho)^2/\rho`, which is smaller.
    """
    rho = np.sqrt(2 * _losses(loss))
    z, z2, eps = np.abs(_checks.array("observed", observed, shape=(3,)))
    least = min(z, z2)
    if least == 0:
        return np.zeros(rho.shape)[()]
    relative = np.minimum(rho / least, 1.0)
    if eps == 0:
        return (max(z, z2) * _best_bound(relative))[()]
    small = (1 - relative / math.sqrt(2)) ** 2
    mu = np.where(relative <= math.sqrt(0.5), small, (1 - relative**2) / 2)
    return (z * z2 * mu / (eps + rho))[()]


def _best_bound(rho):
    """The bound for z = z' = 1 and epsilon = 0, for 0 <= rho <= 1."""
    # r = (sqrt(1 + 4 rho^2) - 1) / 2 without cancellation
    r = 2 * rho**2 / (1 + np.sqrt(1 + 4 * rho**2))
    with np.errstate(divide="ignore"):
        inner = (1 - r) ** 1.5 / np.sqrt(r)
    return np.where(rho**2 <= 0.75, inner, np.sqrt(1 - rho**2))


def norm_constants(norm, constant=1.0):
    r"""Constants a and b with ‖W‖ ≥ a/√ℓ − b wherever det W > 0, for z = z' = 1 and ε = 0.

    With :math:`n_{ij}=\|e_ie_j^T\|` and the constant c of the quasi-triangle inequality,
    :math:`a=n_{11}/(\sqrt2c)` and :math:`b=n_{11}/c+2c\,n_{12}+2c^2n_{21}+c^2n_{22}`.

    Parameters
    ----------
    norm : float or callable
        Exponent p of a Schatten norm, ``0 < p <= inf``, or a function of a 2x2 matrix with
        ``norm(s * W) == abs(s) * norm(W)`` that is positive where W is not zero.
    constant : float
        The number c with ``norm(A + B) <= c * (norm(A) + norm(B))``, at least 1. Not used for a
        Schatten norm, which has ``c = max(1, 2**(1/p - 1))``.

    Returns
    -------
    a, b : float

    Raises
    ------
    ValueError
        If `norm` is neither, is not positive on a matrix unit, or `constant` is below 1.
    """
    (n11, n12, n21, n22), c = _units(norm, constant)
    return n11 / (math.sqrt(2) * c), n11 / c + 2 * c * n12 + c**2 * (2 * n21 + n22)


def norm_lower_bound(loss, norm, observed=(1.0, 1.0, 0.0), constant=1.0):
    r"""How large any norm must be at a given loss, if the determinant has the sign of zz'.

    For a Schatten norm it is the bound of the entry itself (`entry_lower_bound`), because
    :math:`\|W\|_{S_p}\ge\sigma_1\ge|W_{11}|`. For any other norm or quasi-norm
    it is, with :math:`B` the bound of the entry, :math:`\rho=\sqrt{2\ell}` and the numbers c and
    :math:`n_{ij}` of `norm_constants`,

    .. math:: B\,n_{11}/c-c(|z|+\rho)n_{12}-c^2(|z'|+\rho)n_{21}-c^2(|\epsilon|+\rho)n_{22}

    or zero where that is negative (source C, equation 11 and section 7).

    Parameters
    ----------
    loss : array_like, shape (...)
        Values of the loss, not negative.
    norm : float or callable
        See `norm_constants`.
    observed : (float, float, float)
        :math:`z`, :math:`z'`, :math:`\epsilon`.
    constant : float
        See `norm_constants`.

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If a loss is negative or another argument is outside its range.
    """
    (n11, n12, n21, n22), c = _units(norm, constant)
    entry = entry_lower_bound(loss, observed)
    if not callable(norm):
        return entry
    z, z2, eps = np.abs(_checks.array("observed", observed, shape=(3,)))
    rho = np.sqrt(2 * _losses(loss))
    rest = c * (z + rho) * n12 + c**2 * ((z2 + rho) * n21 + (eps + rho) * n22)
    return np.maximum(entry * n11 / c - rest, 0.0)[()]


def _losses(loss):
    loss = _checks.array("loss", loss)
    if (loss < 0).any():
        _checks.fail("loss", loss, "a finite real array, none negative")
    return loss


def _units(norm, constant):
    """Norms of the four matrix units and the constant of the quasi-triangle inequality."""
    if callable(norm):
        c = _checks.real("constant", constant, at_least=1)
        units = [_checks.real("norm(unit matrix)", norm(E), above=0) for E in _matrix_units()]
        return units, c
    p = _checks.real("norm", norm, above=0, finite=False)
    return [1.0] * 4, max(1.0, 2 ** (1 / p - 1)) if p < np.inf else 1.0


def _matrix_units():
    return np.eye(4).reshape(4, 2, 2)


# --- predictions for the end of the run ---------------------------------------------------------


def late_entry(time, depth):
    r"""Hidden entry late in the run, :math:`((2N+2)t)^{N/(2N+2)}`, for z = z' = 1 and ε = 0.

    Parameters
    ----------
    time : array_like, shape (...)
        Times of the flow, not negative.
    depth : int
        At least 2.

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If a time is negative or `depth` is below 2.
    """
    time = _checks.array("time", time)
    if (time < 0).any():
        _checks.fail("time", time, "a finite real array, none negative")
    N = _checks.integer("depth", depth, at_least=2)
    return (((2 * N + 2) * time) ** (N / (2 * N + 2)))[()]


def late_loss(time, depth):
    r"""Loss late in the run, :math:`\tfrac12((2N+2)t)^{-N/(N+1)}`, for z = z' = 1 and ε = 0.

    Parameters
    ----------
    time : array_like, shape (...)
        Times of the flow, not negative.
    depth : int
        At least 2.

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If a time is negative or `depth` is below 2.
    """
    with np.errstate(divide="ignore"):
        return 0.5 / np.square(late_entry(time, depth))


def late_log_singular_value(entry, depth):
    r"""Logarithm of the smaller singular value late in the run, from the hidden entry.

    At depth 2 it is :math:`-W_{11}^2/2` to leading order; at depth :math:`N\ge3`,
    :math:`\sigma_2=\bigl(\tfrac{N+2}{N-2}\bigr)^{N/(N-2)}W_{11}^{-(N+2)/(N-2)}`.

    Parameters
    ----------
    entry : array_like, shape (...)
        :math:`W_{11}`, positive.
    depth : int
        At least 2.

    Returns
    -------
    ndarray, shape (...), or float

    Raises
    ------
    ValueError
        If an entry is not positive or `depth` is below 2.
    """
    entry = _checks.array("entry", entry)
    if (entry <= 0).any():
        _checks.fail("entry", entry, "a finite real array, all positive")
    N = _checks.integer("depth", depth, at_least=2)
    if N == 2:
        return (-(entry**2) / 2)[()]
    ratio = (N + 2) / (N - 2)
    return (N / (N - 2) * math.log(ratio) - ratio * np.log(entry))[()]


# --- the flow -----------------------------------------------------------------------------------


class SignedTrajectory(Trajectory):
    """A trajectory of 2x2 products that also knows how small the determinant is.

    Parameters
    ----------
    trajectory : Trajectory
        With recorded products.
    sign : int
        Sign of the determinant, 1 or -1, at all times.
    log_determinants : ndarray, shape (T,)
        Logarithm of the determinant's absolute value; it may be far below what the entries of
        the products can show.
    """

    def __init__(self, trajectory, sign, log_determinants):
        run = trajectory
        kept = {"products": run.products}
        super().__init__(run.times, run.losses, kept, run.stopped_by, None, run.evaluations)
        self.sign = sign
        self.log_determinants = log_determinants

    @property
    def log_singular_values(self):
        """Logarithms of the singular values, larger first, shape (T, 2)."""
        larger = np.log(np.linalg.norm(self.products, 2, axis=(1, 2)))
        return np.stack([larger, self.log_determinants - larger], axis=-1)


def flow(
    depth,
    scale,
    loss=None,
    start=None,
    t_final=None,
    stop=None,
    rtol=1e-8,
    record=None,
):
    r"""Gradient flow of balanced 2x2 factors, followed to any time with the determinant's sign.

    It is the path of ``product_flow(loss, scale * start, depth)`` (source C, equation 14), which
    keeps the sign of the determinant exactly (lemma 5). Here the sign is a part of the
    coordinates, so neither rounding nor the integrator can change it.

    Parameters
    ----------
    depth : int
        Number of factors, at least 2.
    scale : float
        Size of the start, positive.
    loss : loss, optional
        Any loss of 2x2 matrices; ``counterexample()`` where left out.
    start : array_like, shape (2, 2), optional
        The product starts at ``scale * start``; the identity where left out. It must be
        invertible, since otherwise the determinant has no sign.
    t_final : float, optional
        Time at which the flow ends, positive.
    stop : StoppingRule, optional
        See `dmflib.stopping`. Without `stop` and `t_final` it is ``LossBelow(1e-8)``. A run whose
        rule never fires ends at time 1e30.
    rtol : float
        Accuracy of one step, between 1e-12 and 1e-2, relative for the entries and absolute for
        the logarithm of the determinant while that is below 1.
    record : None or array_like of float
        None records every step, an increasing array of times exactly there. The start and the
        end are always recorded.

    Returns
    -------
    SignedTrajectory

    Raises
    ------
    ValueError
        If an argument is outside its range or the start is not invertible.
    """
    depth = _checks.integer("depth", depth, at_least=2)
    scale = _checks.real("scale", scale, above=0)
    loss = counterexample() if loss is None else loss
    check_loss(loss, (2, 2))
    start = np.eye(2) if start is None else _checks.array("start", start, shape=(2, 2))
    if t_final is not None:
        t_final = _checks.real("t_final", t_final, above=0, at_most=END_OF_TIME)
    if stop is not None:
        stop = check_rule("stop", stop)
    elif t_final is None:
        stop = LossBelow(1e-8)
    rtol = _checks.real("rtol", rtol, at_least=1e-12, at_most=1e-2)
    times = _record_times(record, t_final)
    sign, log_scale = np.linalg.slogdet(start)
    if sign == 0 or log_scale < math.log(1e-300):
        _checks.fail("start", start, "an invertible matrix")
    system = _System(loss, depth, sign)
    y0 = system.coordinates(scale * start, log_scale + 2 * math.log(scale))
    return _integrate(system, y0, stop, END_OF_TIME if t_final is None else t_final, rtol, times)


def _record_times(record, t_final):
    if record is None:
        return None
    times = _checks.array("record", record, ndim=1)
    last = np.inf if t_final is None else t_final
    if times[0] < 0 or (np.diff(times) <= 0).any() or times[-1] > last:
        allowed = "an increasing list of times, none negative or beyond t_final"
        _checks.fail("record", times, allowed)
    return times.tolist()


class _System:
    r"""The product flow in the coordinates (ln|det W|, arg zeta, Re omega, Im omega).

    A start of negative determinant is multiplied by diag(1, -1) from the right, and so is every
    gradient: the flow commutes with orthogonal matrices.

    Attributes
    ----------
    product : ndarray, shape (2, 2)
        Where the loss was last asked; the reflection is undone.
    value : float
        The loss there.
    evaluations : int
    """

    def __init__(self, loss, depth, sign):
        self._loss, self._depth, self.sign = loss, depth, float(sign)
        self.product, self._gradient = np.empty((2, 2)), np.empty((2, 2))
        self.value, self.evaluations = None, 0
        self._speeds = 0.0

    def coordinates(self, W, log_determinant):
        """Coordinates of a matrix whose determinant has the right sign."""
        (a, b), (c, d) = W.tolist()
        b, d = b * self.sign, d * self.sign
        return np.array(
            [log_determinant, math.atan2((c - b) / 2, (a + d) / 2), (a - d) / 2, (b + c) / 2]
        )

    def matrix(self, y):
        """Entries a, b, c, d of the reflected matrix; |zeta| and |omega|."""
        log_determinant, psi, p, q = y.tolist()
        determinant = math.exp(log_determinant) if log_determinant > SMALLEST_LOG else 0.0
        omega = math.hypot(p, q)
        zeta = math.sqrt(omega * omega + determinant)
        real, imag = zeta * math.cos(psi), zeta * math.sin(psi)
        a, b, c, d = real + p, q - imag, q + imag, real - p
        # The smaller diagonal entry may be a difference of large numbers; a d = b c + det is not.
        if abs(b * c) + determinant < max(a * a, d * d):
            if abs(a) >= abs(d):
                d = (b * c + determinant) / a
            else:
                a = (b * c + determinant) / d
        return a, b, c, d, zeta, omega

    def stand_at(self, y):
        """Set product, loss and gradient to those of `y`; return |zeta| and |omega|."""
        a, b, c, d, zeta, omega = self.matrix(y)
        W, s = self.product, self.sign
        W[0, 0], W[0, 1], W[1, 0], W[1, 1] = a, s * b, c, s * d
        if hasattr(self._loss, "value_and_gradient"):
            self.value, _ = self._loss.value_and_gradient(W, self._gradient)
        else:
            self.value = self._loss.value(W)
            self._gradient[...] = self._loss.gradient(W)
        return zeta, omega

    def velocity(self, t, y):
        """Velocity of the coordinates."""
        self.evaluations += 1
        N = self._depth
        zeta, omega = self.stand_at(y)
        chi = math.atan2(y[3], y[2])
        theta, phi = (chi + y[1]) / 2, (chi - y[1]) / 2  # angles of u_1 and v_1
        (g11, g12), (g21, g22) = self._gradient.tolist()
        g12, g22 = g12 * self.sign, g22 * self.sign
        cu, su, cv, sv = math.cos(theta), math.sin(theta), math.cos(phi), math.sin(phi)
        x1, x2 = g11 * cv + g12 * sv, g21 * cv + g22 * sv
        y1, y2 = g12 * cv - g11 * sv, g22 * cv - g21 * sv
        # U^T G V, entry by entry
        h11, h21 = cu * x1 + su * x2, cu * x2 - su * x1
        h12, h22 = cu * y1 + su * y2, cu * y2 - su * y1
        log1 = math.log(zeta + omega)
        log2 = y[0] - log1
        power1, power2 = (_exp((1 - 2 / N) * log) for log in (log1, log2))
        larger, smaller = _exp(2 / N * log1), _exp(2 / N * log2)
        w11, w22 = N * power1 * (zeta + omega), N * power2 * _exp(log2)
        w12 = sum(larger ** (N - 1 - j) * smaller**j for j in range(N))
        m11, m12, m21, m22 = w11 * h11, w12 * h12, w12 * h21, w22 * h22
        self._speeds = w11 * h11**2 + w12 * (h12**2 + h21**2) + w22 * h22**2
        # zeta and omega of the matrix (m11 m12; m21 m22), turned back by psi and chi
        along, across = (m11 - m22) / 2, (m21 + m12) / 2
        cos, sin = math.cos(chi), math.sin(chi)
        return np.array(
            [
                -N * (power1 * h11 + power2 * h22),
                (m12 - m21) / (2 * zeta),
                sin * across - cos * along,
                -sin * along - cos * across,
            ]
        )

    def jacobian(self, t, y):
        """Derivatives of the velocity by differences, with steps that fit each coordinate."""
        size = abs(y[2]) + abs(y[3]) + math.exp(min(y[0] / 2, 300.0))
        # Late in a run the logarithm is so large that a fixed step would be lost in its rounding.
        late = max(1.0, 1e-6 * abs(y[0]))
        steps = 1e-7 * np.array([late, 1.0 / (1.0 + size), size, min(size, 1.0)])
        here, columns = self.velocity(t, y), []
        for i, step in enumerate(steps):
            moved = y.copy()
            moved[i] += step
            columns.append((self.velocity(t, moved) - here) / (moved[i] - y[i]))
        return np.transpose(columns)

    def gradient_norm(self):
        """Euclidean norm of all factor gradients where the velocity was last asked."""
        return math.sqrt(self._speeds)


def _exp(x):
    return math.exp(x) if x > SMALLEST_LOG else 0.0


class _State:
    """What stopping rules see of a run; see `dmflib.stopping.State`."""

    def __init__(self, system):
        self._system, self.step, self.time, self.loss = system, 0, 0.0, None
        self.y = None

    @property
    def product(self):
        return self._system.product

    def gradient_norm(self):
        self._system.velocity(self.time, self.y)
        return self._system.gradient_norm()


def _integrate(system, y, stop, t_bound, rtol, times):
    """Integrate with scipy's BDF method, whose steps may grow with time."""
    from scipy.integrate import BDF

    recorder, logs, due = Recorder("products"), [], 0

    def add(time, y):
        system.stand_at(y)
        recorder.add(time, system.value, system.product, None)
        logs.append(y[0])

    state = _State(system)
    check = stop.watch() if stop is not None else lambda state: None
    add(0.0, y)
    if times and times[0] == 0:
        due = 1
    state.y, state.loss = y, system.value
    ended = check(state)
    size = min(1.0, math.exp(y[0] / 2))
    atol = rtol * np.array([1.0, 1e-3, 1e-3 * size, 1e-3 * size])
    if ended is None:
        solver = BDF(system.velocity, 0.0, y, t_bound, rtol=rtol, atol=atol, jac=system.jacobian)
    while ended is None:
        message = solver.step()
        if solver.status == "failed" or not np.isfinite(solver.y).all():
            ended = Diverged(state.step + 1)
            text = f"flow in coordinates that keep the sign ended by {ended}: {message}"
            warnings.warn(text, DivergenceWarning, stacklevel=3)
            break
        state.step, state.time, state.y = state.step + 1, solver.t, solver.y
        system.stand_at(solver.y)
        state.loss = system.value
        ended = check(state)
        if ended is None and solver.status == "finished":
            ended = TimeReached(solver.t)
        if times is None:
            add(solver.t, solver.y)
        else:
            dense = solver.dense_output()
            while due < len(times) and times[due] <= solver.t:
                add(times[due], solver.y if times[due] == solver.t else dense(times[due]))
                due += 1
    if recorder.times[-1] < state.time:
        add(state.time, state.y)
    run = recorder.trajectory(ended, None, system.evaluations)
    return SignedTrajectory(run, int(system.sign), np.array(logs))


def decimal_flow(scale, time, digits=50):
    r"""Flow at depth 2 from scale times the identity, by Taylor series in many decimal digits.

    The entries a, b, d of the symmetric product obey, for z = z' = 1 and epsilon = 0,

    .. math:: \dot a=2b(1-b),\qquad \dot b=(1-b)(a+d)-bd,\qquad \dot d=2b(1-b)-2d^2,

    and their series are sums of products. It is slow and knows nothing of `flow`: a check.

    Parameters
    ----------
    scale : float
        The product starts at this multiple of the identity; between 1e-3 and 3.
    time : float
        Up to 200.
    digits : int
        Digits of the arithmetic, at least 20. With 50, the result has at least 20 for times
        up to 100.

    Returns
    -------
    a, b, d, log_determinant : decimal.Decimal
        Entries of the product and ln(a d - b^2).

    Raises
    ------
    ValueError
        If an argument is outside its range, or if `digits` do not suffice to tell the
        determinant from zero.
    """
    from decimal import Decimal, localcontext

    scale = _checks.real("scale", scale, at_least=1e-3, at_most=3)
    time = _checks.real("time", time, above=0, at_most=200)
    digits = _checks.integer("digits", digits, at_least=20)
    order, steps = 24, math.ceil(16 * time)
    with localcontext() as context:
        context.prec = digits
        h = Decimal(repr(time)) / steps
        a, b, d = Decimal(repr(scale)), Decimal(0), Decimal(repr(scale))
        for _ in range(steps):
            A, B, D, G = [a], [b], [d], [1 - b]
            for k in range(order):
                indices = range(k + 1)
                bg = sum(B[i] * G[k - i] for i in indices)
                bd = sum(B[i] * D[k - i] for i in indices)
                dd = sum(D[i] * D[k - i] for i in indices)
                turn = sum(G[i] * (A[k - i] + D[k - i]) for i in indices)
                A.append(2 * bg / (k + 1))
                B.append((turn - bd) / (k + 1))
                D.append(2 * (bg - dd) / (k + 1))
                G.append(-B[-1])
            a, b, d = (sum(c * h**k for k, c in enumerate(series)) for series in (A, B, D))
        determinant = a * d - b * b
        if determinant <= Decimal(10) ** (5 - digits):
            _checks.fail("digits", digits, f"larger: at time {time:g} the determinant needs more")
        return a, b, d, determinant.ln()


# --- gradient descent at depth 2 ----------------------------------------------------------------


def symmetric_descent(scale, step_size, steps, record=1):
    r"""Gradient descent at depth 2 from two equal factors, with the determinant in logarithms.

    From :math:`W_2=W_1^T=\sqrt{\alpha}\,I` the two factors of the problem :math:`z=z'=1`,
    :math:`\epsilon=0` remain transposes of each other, and one step is

    .. math:: W\leftarrow(I-\eta\nabla\ell(W))\,W\,(I-\eta\nabla\ell(W)),

    so that the determinant is multiplied by a square.

    Parameters
    ----------
    scale : float
        :math:`\alpha`, positive: the product starts at :math:`\alpha I`.
    step_size : float
        :math:`\eta`, positive.
    steps : int
        At least 1.
    record : int
        Record every so many steps; the start and the end are always recorded.

    Returns
    -------
    SignedTrajectory
        Its times are step numbers. A run that diverges ends at the last finite state with
        `Diverged` and a `DivergenceWarning`.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    a = d = _checks.real("scale", scale, above=0)
    eta = _checks.real("step_size", step_size, above=0)
    steps = _checks.integer("steps", steps, at_least=1)
    record = _checks.integer("record", record, at_least=1)
    b, log_determinant, ended = 0.0, 2 * math.log(a), MaxSteps(steps)
    recorder, logs = Recorder("products"), []

    def add(k):
        recorder.add(k, (b - 1) ** 2 + d * d / 2, np.array([[a, b], [b, d]]), None)
        logs.append(log_determinant)

    add(0)
    for k in range(1, steps + 1):
        # One step with I - eta G = (1 m; m n), which has the determinant n - m^2.
        m, n = eta * (1 - b), 1 - eta * d
        left, right = a + m * b, b + m * d
        next_a, next_b = left + m * right, m * left + n * right
        factor = abs(n - m * m)
        log_determinant += 2 * math.log(factor) if factor > 0 else -math.inf
        determinant = _exp(log_determinant) if log_determinant < LARGEST_LOG else math.inf
        next_d = (next_b * next_b + determinant) / next_a if next_a > 0 else 0.0
        if not max(next_a, abs(next_b), next_d) < LARGEST_ENTRY:
            ended = Diverged(k)
            warnings.warn(f"gradient descent ended by {ended}", DivergenceWarning, stacklevel=2)
            break
        a, b, d = next_a, next_b, next_d
        if k % record == 0 or k == steps:
            add(k)
    run = recorder.trajectory(ended, None, k)
    return SignedTrajectory(run, 1, np.array(logs))
