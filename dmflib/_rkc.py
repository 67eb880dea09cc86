r"""A stabilised explicit Runge–Kutta–Chebyshev integrator for :math:`\dot y=f(y)`.

Along a gradient flow the Jacobian is minus a Hessian: its spectrum is real, and after the first
moments almost all of it is negative. A method with :math:`s` stages built from Chebyshev
polynomials stays stable on an interval of length :math:`0.65\,s^2` of the negative real axis, so
a stiff flow costs a number of evaluations that grows with the *root* of its stiffness, without
any linear system being solved. The formulas are those of Sommeijer, Shampine and Verwer, "RKC: an
explicit solver for parabolic PDEs", J. Comput. Appl. Math. 88 (1998) 315–326.
"""

from functools import lru_cache
from math import ceil, isfinite, sqrt

import numpy as np

EPSILON = float(np.finfo(float).eps)
DAMPING = 2 / 13
MAX_STAGES = 500
SAFETY = 0.8
# The power method approaches the spectral radius from below, and the radius grows between two
# estimates of it.
RADIUS_SAFETY = 1.2
POWER_ITERATIONS = 50
LONGEST_SCHEDULE = 25


class StepUnderflowError(ArithmeticError):
    """No step that changes the time is accurate enough, or finite."""


@lru_cache(maxsize=1024)
def coefficients(stages):
    r"""Coefficients of the second-order method with so many stages (RKC, section 2).

    Parameters
    ----------
    stages : int
        At least 2.

    Returns
    -------
    first : float
        :math:`\tilde\mu_1`.
    later : tuple of (float, float, float, float)
        :math:`(\mu_j,\nu_j,\tilde\mu_j,\tilde\gamma_j)` for :math:`j=2,\dots,s`.
    """
    w0 = 1 + DAMPING / stages**2
    T, dT, ddT = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for _ in range(2, stages + 1):
        ddT.append(2 * w0 * ddT[-1] - ddT[-2] + 4 * dT[-1])
        dT.append(2 * w0 * dT[-1] - dT[-2] + 2 * T[-1])
        T.append(2 * w0 * T[-1] - T[-2])
    w1 = dT[-1] / ddT[-1]
    b = [ddT[j] / dT[j] ** 2 for j in range(2, stages + 1)]
    b = [b[0], b[0], *b]
    later = []
    for j in range(2, stages + 1):
        mu_tilde = 2 * b[j] * w1 / b[j - 1]
        gamma_tilde = -(1 - b[j - 1] * T[j - 1]) * mu_tilde
        later.append((2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], mu_tilde, gamma_tilde))
    return b[1] * w1, tuple(later)


class RKC:
    r"""Integrator of :math:`\dot y=f(y)`, one accepted step at a time.

    The evaluation that ends an accepted step is the one at the new `y`. Nothing is allocated
    during a step; `y` and `f` are memory of the integrator and change with the next step.

    Parameters
    ----------
    fun : callable
        ``fun(y, out)`` writes :math:`f(y)` into `out`. It may write NaN where :math:`f` overflows;
        the step is then repeated with half the length.
    y0, f0 : ndarray, shape (n,)
        Start and the derivative there, which must be finite; both are copied.
    t_bound : float
        Time that is not passed.
    rtol, atol : float
        The root mean square of error/(atol + rtol |y|) is kept near one in every step.

    Attributes
    ----------
    t : float
        Time after the last accepted step.
    y, f : ndarray
        State and derivative at `t`.
    t_old, y_old, f_old
        The same before the last accepted step.
    h : float
        Length proposed for the next step.
    radius : float
        Estimate from above of the Jacobian's spectral radius.
    rejected : int
        Number of rejected steps.
    """

    def __init__(self, fun, y0, f0, t_bound, rtol, atol):
        self._fun, self.t_bound, self._rtol, self._atol = fun, t_bound, rtol, atol
        self._max_stages = min(MAX_STAGES, max(2, round(sqrt(rtol / (10 * EPSILON)))))
        self.t = self.t_old = 0.0
        self.y = np.array(y0, dtype=float)
        self.f = np.array(f0, dtype=float)
        self.y_old, self.f_old = np.empty_like(self.y), np.empty_like(self.y)
        self._free = [np.empty_like(self.y) for _ in range(6)]
        self.rejected = 0
        self._start_power_method()
        self.h = self._initial_step()
        self._old_h = self._old_error = None

    def step(self):
        """Advance to the next accepted state.

        Raises
        ------
        StepUnderflowError
            If the step becomes too short to change the time. The state is then the one before.
        """
        if not self.f.any():  # at rest for ever
            np.copyto(self._free[2], self.y)
            self._free[3].fill(0.0)
            self._accept(self.t_bound - self.t, self._free[2], self._free[3])
            return
        repeated = False
        while True:
            if self._steps_until_estimate <= 0:
                self._estimate_radius(repeated)
            h, stages = self._step_and_stages()
            if h <= 4 * np.spacing(self.t):
                raise StepUnderflowError(f"step {h:g} at time {self.t:g}")
            y, f = self._stages(h, stages)
            error = self._error(h, y, f)
            if error <= 1:
                break
            repeated = True
            self.rejected += 1
            self.h = h * (max(0.1, SAFETY * error ** (-1 / 3)) if isfinite(error) else 0.5)
            if not self._estimate_is_here:
                self._steps_until_estimate = 0
        self._accept(h, y, f)
        self._control(h, error, repeated)

    def interpolate(self, t, out):
        """Cubic Hermite interpolation within the last step.

        Parameters
        ----------
        t : float
            Between `t_old` and `t`.
        out : ndarray
            Overwritten.

        Returns
        -------
        ndarray
            `out` itself.
        """
        h = self.t - self.t_old
        theta = (t - self.t_old) / h
        work = self._free[0]
        # Terms are added to y_old in the order of their size, so that constants stay constant.
        np.subtract(self.y, self.y_old, out=out)
        out *= theta * theta * (3 - 2 * theta)
        np.multiply(self.f_old, h * theta * (1 - theta) ** 2, out=work)
        out += work
        np.multiply(self.f, h * theta * theta * (theta - 1), out=work)
        out += work
        out += self.y_old
        return out

    def _step_and_stages(self):
        """Length of the next step, and stages that make it stable (RKC, section 2)."""
        h = self.h
        remaining = self.t_bound - self.t
        if h >= remaining:
            h = remaining
        elif 2 * h > remaining:
            h = remaining / 2  # two equal steps instead of one and a crumb
        stages = max(2, ceil(sqrt(1 + 1.54 * h * self.radius)))
        if stages > self._max_stages:
            stages = self._max_stages
            h = (stages**2 - 1) / (1.54 * self.radius)
        return h, stages

    def _stages(self, h, stages):
        """Take a trial step; return the new state and its derivative (RKC, equation 2)."""
        y, f, fun = self.y, self.f, self._fun
        before, last, stage, derivative, work, _ = self._free
        first, later = coefficients(stages)
        # `before` and `last` are differences from y: a sum around zero loses fewer digits.
        before.fill(0.0)
        np.multiply(f, first * h, out=last)
        for mu, nu, mu_tilde, gamma_tilde in later:
            np.add(y, last, out=stage)
            fun(stage, derivative)
            before *= nu
            np.multiply(last, mu, out=work)
            before += work
            derivative *= mu_tilde * h
            before += derivative
            np.multiply(f, gamma_tilde * h, out=work)
            before += work
            before, last = last, before
        np.add(y, last, out=stage)
        fun(stage, derivative)
        return stage, derivative

    def _error(self, h, y, f):
        """Weighted size of the estimated local error (RKC, section 3.1)."""
        work, scale = self._free[0], self._free[1]
        np.abs(self.y, out=work)
        np.abs(y, out=scale)
        np.maximum(work, scale, out=scale)
        scale *= self._rtol
        scale += self._atol
        np.subtract(self.y, y, out=work)
        # The same difference says how fast f changed: a lower bound of the spectral radius.
        moved = work @ work
        work *= 0.8
        work2 = self._free[4]
        np.add(self.f, f, out=work2)
        work2 *= 0.4 * h
        work += work2
        work /= scale
        np.subtract(self.f, f, out=work2)
        self._secant = sqrt(work2 @ work2 / moved) if moved > 0 else 0.0
        return sqrt(work @ work / work.size)

    def _accept(self, h, y, f):
        end = self.t + h if h < self.t_bound - self.t else self.t_bound
        # One statement without a call: the user's interruption finds either state complete.
        self.y_old, self.y, self._free[2], self.f_old, self.f, self._free[3], self.t_old, self.t = (
            self.y,
            y,
            self.y_old,
            self.f,
            f,
            self.f_old,
            self.t,
            end,
        )

    def _control(self, h, error, repeated):
        """Propose the next step (RKC, section 3.2) and plan the next estimate of the radius."""
        error = max(error, 1e-10)
        factor = SAFETY * error ** (-1 / 3)
        if self._old_h is not None:
            factor *= min(1.0, h / self._old_h * (self._old_error / error) ** (1 / 3))
        self.h = h * min(1.0 if repeated else 10.0, max(0.1, factor))
        self._old_h, self._old_error = h, error
        self._estimate_is_here = False
        self._steps_until_estimate -= 1
        if self._secant > self.radius:
            self._steps_until_estimate = 0

    def _initial_step(self):
        """First step: a tenth of what an Euler step of length 1/radius suggests (RKC, 3.2)."""
        remaining = self.t_bound - self.t
        h = min(remaining, 1 / self.radius if self.radius > 0 else 1.0)
        stage, derivative = self._free[2], self._free[3]
        np.multiply(self.f, h, out=stage)
        stage += self.y
        self._fun(stage, derivative)
        derivative -= self.f
        np.abs(self.y, out=stage)
        stage *= self._rtol
        stage += self._atol
        derivative /= stage
        error = h * sqrt(derivative @ derivative / derivative.size)
        if not isfinite(error):
            return 1e-3 * h
        return min(h, 0.1 * h / sqrt(error)) if error > 0 else h

    def _start_power_method(self):
        # Half the first guess is random: the flow's own direction may be confined to a subspace
        # (symmetric matrices, say) that rounding errors do not respect.
        direction = np.random.default_rng(0).standard_normal(self.y.size)
        direction /= np.linalg.norm(direction)
        speed = np.linalg.norm(self.f)
        if speed > 0:
            if direction @ self.f < 0:
                np.negative(direction, out=direction)  # or the two could cancel
            direction += self.f / speed
            direction /= np.linalg.norm(direction)
        self._free[5] = direction
        self._estimate = self.radius = 0.0
        self._schedule = 1
        self._estimate_radius(True)

    def _estimate_radius(self, careful):
        """Nonlinear power method, from the last eigenvector on (RKC, section 3.3).

        Parameters
        ----------
        careful : bool
            Whether to iterate until the estimate moves by one percent, comparing iterates of
            this call alone. Otherwise five percent from the last call's estimate will do.
        """
        stage, change, direction = self._free[2], self._free[3], self._free[5]
        size = sqrt(EPSILON) * (sqrt(self.y @ self.y) or 1.0)
        planned_for = self._estimate
        previous, tolerance = (0.0, 0.01) if careful else (planned_for, 0.05)
        for _ in range(POWER_ITERATIONS):
            np.multiply(direction, size, out=stage)
            stage += self.y
            self._fun(stage, change)
            change -= self.f
            norm = sqrt(change @ change) if isfinite(change @ change) else 0.0
            if norm == 0:
                break  # the derivative does not see this direction, or overflows
            np.divide(change, norm, out=direction)
            self._estimate = norm / size
            if abs(self._estimate - previous) <= tolerance * self._estimate:
                break
            previous = self._estimate
        self.radius = RADIUS_SAFETY * self._estimate
        # Rarely where the radius rests, often where it moves.
        steady = abs(self._estimate - planned_for) <= 0.1 * self._estimate
        self._schedule = min(LONGEST_SCHEDULE, 2 * self._schedule) if steady else 2
        self._steps_until_estimate = self._schedule
        self._estimate_is_here = True
