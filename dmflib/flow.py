r"""Gradient flow: gradient descent with infinitely small steps, followed by adaptive integration.

`gradient_flow` moves the factors, :math:`\dot W_i=-\nabla_{W_i}\ell(W_N\cdots W_1)`.
`product_flow` moves the product alone, by the equation that it obeys when the factors are balanced.
"""

import warnings

import numpy as np

from dmflib import _checks
from dmflib._progress import progress_bar
from dmflib._rkc import RKC, StepUnderflowError
from dmflib.linear_networks import Backpropagation, balance_defects, check_factors, product, views
from dmflib.losses import check_loss
from dmflib.stopping import (
    Diverged,
    DivergenceWarning,
    Interrupted,
    InterruptionWarning,
    State,
    TimeReached,
    check_rule,
)
from dmflib.trajectory import Recorder

__all__ = ["METHODS", "InvariantWarning", "gradient_flow", "product_flow"]

METHODS = ("rkc", "RK45", "DOP853", "LSODA", "Radau", "BDF")
END_OF_TIME = 1e300  # a run without t_final that comes to rest ends here
LARGEST_PRODUCT = 1e150  # beyond, the square in a loss would overflow
ALWAYS_CHECKED = 10  # matrices up to this size are checked after every step


class InvariantWarning(RuntimeWarning):
    """The computed path has lost something that the exact flow keeps; the message says what."""


def gradient_flow(
    loss,
    factors,
    t_final=None,
    stop=None,
    method="rkc",
    rtol=1e-6,
    atol=1e-9,
    record=None,
    keep=("products",),
    progress=False,
):
    r"""Gradient flow on all factors at once, :math:`\dot W_i=-\nabla_{W_i}\ell(W_N\cdots W_1)`.

    The flow keeps every difference :math:`W_{j+1}^TW_{j+1}-W_jW_j^T` and, from a balanced start
    with a square product, the sign of the product's determinant (source C, theorem 2 and lemma 5).
    Rounding and truncation do not; an `InvariantWarning` says when one of them was lost.

    Parameters
    ----------
    loss : loss
        Any object with ``shape``, ``value(W)`` and ``gradient(W)``; see `dmflib.losses`.
    factors : sequence of array_like
        The start ``W_1, ..., W_N``, not changed; ``W_i`` has shape ``(d_i, d_{i-1})``.
    t_final : float, optional
        Time at which the flow ends, positive.
    stop : StoppingRule, optional
        For example ``LossBelow(1e-8) | MaxSteps(10_000)``; looked at after every accepted step.
        At least one of `t_final` and `stop` is needed. Without `t_final`, a run whose rule never
        fires does not end, except that one at rest ends at time 1e300.
    method : {"rkc", "RK45", "DOP853", "LSODA", "Radau", "BDF"}
        ``"rkc"`` is a Runge–Kutta–Chebyshev method of order 2, made for stiff flows without
        linear systems. The others are scipy's; the last three cope with stiffness through
        a Jacobian, which pays off for small matrices only.
    rtol, atol : float
        Each step's error in an entry of the factors is kept near ``atol + rtol |entry|``.
        `rtol` lies between 1e-13 and 1, `atol` is positive.
    record : None, int or array_like of float
        None records every accepted step, an integer every so many, an increasing array of
        times exactly there (by interpolation). The start and the end are always recorded.
    keep : str or sequence of str
        What is recorded besides times and losses: any of ``"products"``, ``"factors"``,
        ``"singular_values"``.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Trajectory
        Its ``stopped_by`` says what ended the run. A run that diverges ends at the last finite
        state with `Diverged` and a `DivergenceWarning`; one that the user interrupts keeps what
        was recorded and ends with `Interrupted`.

    Raises
    ------
    ValueError
        If the factors do not fit together or their product does not have the loss's shape, or
        another argument is outside its range.
    """
    factors = check_factors(factors)
    check_loss(loss, (factors[-1].shape[0], factors[0].shape[1]))
    arguments = _check_arguments(t_final, stop, method, rtol, atol, record)
    recorder = Recorder(keep)
    system = _FactorFlow(loss, [W.shape for W in factors])
    start = np.concatenate([W.ravel() for W in factors])
    invariants = _Invariants(factors, rtol, atol)
    run = _Run(system, start, recorder, invariants, *arguments)
    run.go(progress)
    _warn("gradient flow", run)
    final = [W.copy() for W in views(run.y, system.shapes)]
    return recorder.trajectory(run.ended, final, system.evaluations)


def product_flow(
    loss,
    W0,
    depth,
    t_final=None,
    stop=None,
    method="rkc",
    rtol=1e-6,
    atol=1e-9,
    record=None,
    keep=("products",),
    progress=False,
):
    r"""Flow of the product of `depth` balanced factors, without the factors.

    .. math:: \dot W=-\sum_{j=1}^N(WW^T)^{(N-j)/N}\,\nabla\ell(W)\,(W^TW)^{(j-1)/N}

    It is the path of ``gradient_flow(loss, balanced(W0, depth))`` (source C, theorem 2 and
    equation 14), computed from one singular value decomposition for each evaluation.

    Parameters
    ----------
    loss : loss
        Any object with ``shape``, ``value(W)`` and ``gradient(W)``; see `dmflib.losses`.
    W0 : array_like, shape (m, n)
        The start, not changed.
    depth : int
        Number :math:`N` of factors, at least 1.
    t_final : float, optional
        Time at which the run ends at the latest.
    stop : StoppingRule, optional
        As in `gradient_flow`; one of `t_final` and `stop` must be given.
    method : str
        As in `gradient_flow`.
    rtol, atol : float
        Tolerances of one step, for the entries of the product.
    record : None, int or array_like of float
        As in `gradient_flow`.
    keep : str or sequence of str
        Any of ``"products"``, ``"singular_values"``.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Trajectory
        As in `gradient_flow`, but ``final_factors`` is None. The final product is
        ``products[-1]``, since the end is always recorded.

    Raises
    ------
    ValueError
        If `W0` does not have the loss's shape or another argument is outside its range.
    """
    W0 = _checks.array("W0", W0, ndim=2)
    check_loss(loss, W0.shape)
    depth = _checks.integer("depth", depth, at_least=1)
    arguments = _check_arguments(t_final, stop, method, rtol, atol, record)
    recorder = Recorder(keep)
    if "factors" in ((keep,) if isinstance(keep, str) else tuple(keep)):
        _checks.fail("keep", keep, "without 'factors': a product flow has none")
    system = _ProductFlow(loss, W0.shape, depth)
    invariants = _Invariants([W0], rtol, atol, keeps_sign=depth > 1)
    run = _Run(system, W0.ravel(), recorder, invariants, *arguments)
    run.go(progress)
    _warn("product flow", run)
    return recorder.trajectory(run.ended, None, system.evaluations)


def _check_arguments(t_final, stop, method, rtol, atol, record):
    """Check what both flows take, and return it in the order of `_Run`."""
    if t_final is None and stop is None:
        raise ValueError("t_final=None and stop=None: one of t_final and stop must be given")
    if t_final is not None:
        t_final = _checks.real("t_final", t_final, above=0, at_most=END_OF_TIME)
    if stop is not None:
        check_rule("stop", stop)
    _checks.choice("method", method, METHODS)
    rtol = _checks.real("rtol", rtol, at_least=1e-13, below=1)
    atol = _checks.real("atol", atol, above=0)
    every, times = _schedule(record, t_final)
    return t_final, stop, method, rtol, atol, every, times


def _schedule(record, t_final):
    """Turn `record` into (every so many steps, None) or (None, list of times)."""
    if record is None:
        return 1, None
    if np.ndim(record) == 0:
        if isinstance(record, float | np.floating):
            _checks.fail("record", record, "None, an integer >= 1 or an increasing list of times")
        return _checks.integer("record", record, at_least=1), None
    times = _checks.array("record", record, ndim=1)
    if times[0] < 0 or (np.diff(times) <= 0).any():
        _checks.fail("record", times, "an increasing list of times, none negative")
    if t_final is not None and times[-1] > t_final:
        _checks.fail("record", times, f"a list of times up to t_final={t_final:g}")
    return None, times.tolist()


class _FactorFlow:
    """Right-hand side of the flow of the factors, all in one vector.

    Attributes
    ----------
    workspace
        Has the product, the loss's ``value`` and the gradient at the last state that was asked
        for.
    at : ndarray or None
        That state; it is the very vector that was passed in.
    evaluations : int
    """

    name = "factors"

    def __init__(self, loss, shapes):
        self._loss, self.shapes = loss, shapes
        self.workspace = Backpropagation(shapes)
        self._largest = LARGEST_PRODUCT ** (2 / len(shapes))
        self.evaluations = 0
        self.at = self.value = None

    def __call__(self, y, out):
        """Write minus the gradient into `out`, or NaN where the loss overflows."""
        self.at = None
        self.evaluations += 1
        if y @ y < self._largest:
            self.value = self.workspace.evaluate(self._loss, views(y, self.shapes))
            if np.isfinite(self.value):
                np.negative(self.workspace.flat_gradient, out=out)
                self.at = y
                return
        self.value = np.inf
        out.fill(np.nan)

    def stand_at(self, y):
        """Make value, product and gradient those of `y`."""
        if self.at is not y:
            self(y, np.empty_like(y))

    def matrices(self, y):
        """Loss, product and factors at `y`, without a gradient."""
        factors = views(y, self.shapes)
        if self.at is y:
            return self.value, self.workspace.partial[-1], factors
        self.at = None
        W = self.workspace.multiply(factors)
        return _value(self._loss, W, self.workspace.outer[-1]), W, factors


def _value(loss, W, scratch):
    """Loss at W by the way that the runs use."""
    if hasattr(loss, "value_and_gradient"):
        return loss.value_and_gradient(W, scratch)[0]
    return loss.value(W)


class _ProductFlow:
    r"""Right-hand side of the flow of the product; see `_FactorFlow`.

    In the bases of singular vectors, full ones, the sum over j multiplies entry (r, s) of
    :math:`U^T\nabla\ell\,V` by :math:`\sum_j\sigma_r^{2(N-j)/N}\sigma_s^{2(j-1)/N}`, where missing
    singular values are zero and :math:`0^0=1`.
    """

    name = "W0"

    def __init__(self, loss, shape, depth):
        self._loss, self._shape, self._depth = loss, shape, depth
        self._gradient = np.empty(shape)
        self._left, self._right = np.zeros(shape[0]), np.zeros(shape[1])
        self.workspace = self
        self.partial = [None]
        self.evaluations = 0
        self.at = self.value = None

    def __call__(self, y, out):
        """Write the velocity of the product into `out`, or NaN where the loss overflows."""
        self.at = None
        self.evaluations += 1
        self.value = np.inf
        W = y.reshape(self._shape)
        if y @ y < LARGEST_PRODUCT**2:
            if hasattr(self._loss, "value_and_gradient"):
                self.value, _ = self._loss.value_and_gradient(W, self._gradient)
            else:
                self.value = self._loss.value(W)
                self._gradient[...] = self._loss.gradient(W)
        if not np.isfinite(self.value):
            out.fill(np.nan)
            return
        U, sigma, Vt = np.linalg.svd(W)
        self._left[: len(sigma)] = self._right[: len(sigma)] = sigma
        N = self._depth
        powers = np.arange(N)
        weights = (self._left[:, None] ** (2 * powers[::-1] / N)) @ (
            self._right ** (2 * powers[:, None] / N)
        )
        inner = U.T @ self._gradient @ Vt.T
        # The squared norm of all factor gradients is the weighted sum of squares of `inner`.
        self.flat_gradient = (np.sqrt(weights) * inner).ravel()
        inner *= weights
        np.matmul(U @ inner, Vt, out=out.reshape(self._shape))
        np.negative(out, out=out)
        self.partial[-1] = W
        self.at = y

    def stand_at(self, y):
        """Make value, product and gradient those of `y`."""
        if self.at is not y:
            self(y, np.empty_like(y))

    def matrices(self, y):
        """Loss, product and no factors at `y`, without a velocity."""
        W = y.reshape(self._shape)
        if self.at is y:
            return self.value, W, None
        self.at = None
        return _value(self._loss, W, self._gradient), W, None


class _Scipy:
    """One of scipy's solvers with the interface of `RKC`."""

    def __init__(self, method, system, y0, t_bound, rtol, atol):
        # Imported here because scipy takes longer to load than the whole of dmflib.
        from scipy import integrate

        def fun(t, y):
            out = np.empty_like(y)
            system(y, out)
            self._finite = np.isfinite(system.value)
            return out

        self._finite, self._system = True, system
        # The others do not end a step with an evaluation at its result, and Newton's iteration
        # moves the very vector that it has had evaluated.
        self._ends_at_state = method in ("RK45", "DOP853")
        solver = getattr(integrate, method)
        self._solver = solver(fun, 0.0, y0.copy(), t_bound, rtol=rtol, atol=atol)
        self.t, self.y = 0.0, self._solver.y
        self.t_old, self._dense = 0.0, None

    def step(self):
        """Advance to the next accepted state; see `RKC.step`."""
        self._dense = None
        self._finite = True
        try:
            with warnings.catch_warnings():
                # LSODA warns before it fails; the failure is reported by the caller.
                warnings.filterwarnings("ignore", category=UserWarning)
                warnings.filterwarnings("ignore", category=RuntimeWarning)
                self._solver.step()
        except (ValueError, np.linalg.LinAlgError):
            # The implicit methods hand a Jacobian full of NaN to a linear solver.
            if self._finite:
                raise
            raise StepUnderflowError("the Jacobian is not finite") from None
        y = self._solver.y
        if self._solver.status == "failed" or not np.isfinite(y @ y):
            raise StepUnderflowError(f"no step possible at time {self.t:g}")
        self.t_old, self.y, self.t = self._solver.t_old, y, float(self._solver.t)
        if not self._ends_at_state:
            self._system.at = None

    def interpolate(self, t, out):
        """Interpolate within the last step; see `RKC.interpolate`."""
        if self._dense is None:
            self._dense = self._solver.dense_output()
        out[...] = self._dense(t)
        return out


class _Run:
    """One integration: steps, stopping, recording, checking.

    Attributes
    ----------
    ended : object
        What ended the run.
    t, y
        The last accepted state.
    """

    def __init__(
        self, system, start, recorder, invariants, t_final, stop, method, rtol, atol, every, times
    ):
        self.system, self.recorder, self.invariants = system, recorder, invariants
        self._t_final, self._stop, self._method = t_final, stop, method
        self._tolerances = rtol, atol
        self._every, self._times = every, times
        self._due = 0  # index of the next of the times that were asked for
        self._state = State(system.workspace)
        self._last_recorded = None
        self._interpolated = None
        self.t, self.y, self.ended = 0.0, start, None

    def go(self, progress):
        """Integrate until something ends the run, and record the end."""
        limit, unit = self._t_final, "time"
        if limit is None:
            limit, unit = self._stop.limit(), "step"
        with (
            np.errstate(over="ignore", invalid="ignore", divide="ignore"),
            progress_bar(progress, limit, unit) as bar,
        ):
            try:
                self.ended = self._integrate(bar, unit)
            except StepUnderflowError:
                self.ended = Diverged(self._state.step + 1)
            except KeyboardInterrupt:
                self.ended = Interrupted(self._state.step)
            loss, W, factors = self.system.matrices(self.y)
            if self._last_recorded != self.t:
                self.recorder.add(self.t, loss, W, factors)
            self.invariants.check(self._state.step, self.t, W, factors)

    def _integrate(self, bar, unit):
        """Take steps; return what ended the run."""
        state = self._state
        velocity = np.empty_like(self.y)
        self.system(self.y, velocity)
        state.loss, state.time = self.system.value, 0.0
        if not np.isfinite(velocity @ velocity):
            _checks.fail(self.system.name, "the start", "small enough for its loss to be finite")
        check = self._stop.watch() if self._stop is not None else lambda state: None
        ended = check(state)
        self._record_start()
        if ended is not None:
            return ended
        t_bound = END_OF_TIME if self._t_final is None else self._t_final
        if self._method == "rkc":
            stepper = RKC(self.system, self.y, velocity, t_bound, *self._tolerances)
        else:
            stepper = _Scipy(self._method, self.system, self.y, t_bound, *self._tolerances)
        while ended is None:
            stepper.step()
            # The step counts from here on: what follows may be interrupted.
            state.step, self.t, self.y = state.step + 1, stepper.t, stepper.y
            self.system.stand_at(self.y)
            state.time, state.loss = self.t, self.system.value
            ended = check(state)
            self._record(stepper)
            if bar is not None:
                bar.update(1 if unit == "step" else stepper.t - stepper.t_old)
            if ended is None and self.t >= t_bound:
                ended = TimeReached(self.t)
        return ended

    def _record_start(self):
        loss, W, factors = self.system.matrices(self.y)
        self._add(0.0, loss, W, factors)
        if self._times and self._times[0] == 0:
            self._due = 1

    def _add(self, time, loss, W, factors):
        self.recorder.add(time, loss, W, factors)
        self._last_recorded = time

    def _record(self, stepper):
        """Record what is due after an accepted step, and look at the invariants."""
        here = self._every is not None and self._state.step % self._every == 0
        if here or self.invariants.cheap:
            loss, W, factors = self.system.matrices(self.y)
            if here:
                self._add(self.t, loss, W, factors)
            self.invariants.check(self._state.step, self.t, W, factors)
        while self._times is not None and self._due < len(self._times):
            time = self._times[self._due]
            if time > self.t:
                break
            if self._interpolated is None:
                self._interpolated = np.empty_like(self.y)
            y = self.y if time == self.t else stepper.interpolate(time, self._interpolated)
            loss, W, factors = self.system.matrices(y)
            self._add(time, loss, W, factors)
            if not self.invariants.cheap:
                self.invariants.check(self._state.step, time, W, factors)
            self._due += 1


class _Invariants:
    """Watches what the exact flow keeps, and notes when the computed one has lost it.

    Parameters
    ----------
    factors : list of ndarray
        The start; for a product flow the product alone.
    rtol, atol : float
    keeps_sign : bool, optional
        Whether the sign of the determinant is kept. By default it is if the start is balanced
        and there are at least two factors.

    Attributes
    ----------
    cheap : bool
        Whether the matrices are so small that every step can be checked.
    lost : dict
        Messages of what was lost, with the keys ``"determinant"`` and ``"balance"``.
    """

    def __init__(self, factors, rtol, atol, keeps_sign=None):
        self._rtol, self._atol = rtol, atol
        with np.errstate(over="ignore", invalid="ignore"):  # the run itself reports such a start
            self._watch(factors, keeps_sign)

    def _watch(self, factors, keeps_sign):
        self._defects = balance_defects(factors)
        self._count = sum(W.size for W in factors)
        self._largest = 0.0
        self._grow(factors)
        self.cheap = max(max(W.shape) for W in factors) <= ALWAYS_CHECKED
        self.lost = {}
        if keeps_sign is None:
            rounding = 1e-12 * max(np.vdot(W, W) for W in factors)
            off = max((np.linalg.norm(D) for D in self._defects), default=np.inf)
            keeps_sign = off <= rounding < np.inf
        self._sign = self._start_sign(factors) if keeps_sign else None

    def check(self, step, time, W, factors):
        """Look at a state that was reached after so many accepted steps."""
        if factors is None:
            factors = [W]
        if self._sign is not None and "determinant" not in self.lost:
            self._check_sign(time, W, factors)
        if self._defects and "balance" not in self.lost:
            self._check_balance(step, time, factors)

    def _check_sign(self, time, W, factors):
        if _determinant_sign(factors) == self._sign:
            return
        smallest = np.linalg.svd(W, compute_uv=False)[-1]
        self.lost["determinant"] = (
            f"the sign of the product's determinant, which the flow from a balanced start keeps, "
            f"is lost at time {time:.4g}: the smallest singular value has fallen to "
            f"{smallest:.1e}, below what rounding and rtol={self._rtol:g}, atol={self._atol:g} "
            f"resolve. What was computed from about this time on is not the flow. Use coordinates "
            f"of the product that keep the sign, such as the logarithms of its singular values"
        )

    def _check_balance(self, step, time, factors):
        self._grow(factors)
        drift = max(
            np.linalg.norm(now - before)
            for now, before in zip(balance_defects(factors), self._defects, strict=True)
        )
        # Along the exact flow the differences do not move, so what each step adds is at most
        # 2 |factors| times the step's error, and nothing amplifies it later.
        size = np.sqrt(self._count) * self._largest
        error = np.sqrt(self._count) * (self._atol + self._rtol * self._largest)
        explained = 2 * size * error * step + 1e-12 * size**2
        if drift > 10 * explained:
            self.lost["balance"] = (
                f"the differences W_(j+1)^T W_(j+1) - W_j W_j^T, which the flow keeps, have "
                f"moved by {drift:.1e} at time {time:.4g}, more than {step} steps with "
                f"rtol={self._rtol:g}, atol={self._atol:g} explain ({explained:.1e}). What was "
                f"computed from about this time on is not the flow. Use a smaller rtol or "
                f"another method, or, from a balanced start, product_flow"
            )

    def _grow(self, factors):
        self._largest = max(self._largest, max(np.abs(W).max() for W in factors))

    def _start_sign(self, factors):
        """Sign of the determinant, or None where there is none or rounding decides it."""
        if factors[-1].shape[0] != factors[0].shape[1]:
            return None
        for W in _square(factors):
            sigma = np.linalg.svd(W, compute_uv=False)
            if sigma[-1] <= 1e-14 * len(W) * sigma[0]:
                return None
        return _determinant_sign(factors)


def _square(factors):
    """The factors where all are square (their determinants are far from rounding), or else W."""
    if all(W.shape[0] == W.shape[1] for W in factors):
        return factors
    return [product(factors)]


def _determinant_sign(factors):
    return np.prod([np.linalg.slogdet(W)[0] for W in _square(factors)])


def _warn(mover, run):
    """Tell the caller of a flow how it ended, if not as asked, and what was lost."""
    if isinstance(run.ended, Diverged):
        warnings.warn(f"{mover} ended by {run.ended}", DivergenceWarning, stacklevel=3)
    elif isinstance(run.ended, Interrupted):
        warnings.warn(f"{mover} ended by {run.ended}", InterruptionWarning, stacklevel=3)
    for message in run.invariants.lost.values():
        warnings.warn(f"{mover}: {message}", InvariantWarning, stacklevel=3)
