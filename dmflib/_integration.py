"""One integration of a flow: steps by a method, stopping, recording, and what to say at its end.

A *system* is a right-hand side ``system(y, out)`` that also knows the ``value`` of the loss where
it was last evaluated, a ``workspace`` for stopping rules, the ``name`` of the argument that starts
it, and ``matrices(y)``. *Invariants* check states (``check``, ``cheap``) and collect what was
``lost``.
"""

import warnings

import numpy as np

from dmflib import _checks
from dmflib._progress import progress_bar
from dmflib._rkc import RKC, StepUnderflowError
from dmflib.stopping import (
    Diverged,
    DivergenceWarning,
    Interrupted,
    InterruptionWarning,
    State,
    TimeReached,
    check_rule,
)

METHODS = ("rkc", "RK45", "DOP853", "LSODA", "Radau", "BDF")
END_OF_TIME = 1e300  # a run without t_final that comes to rest ends here


class InvariantWarning(RuntimeWarning):
    """The computed path has lost something that the exact flow keeps; the message says what."""


def check_arguments(t_final, stop, method, rtol, atol, record):
    """Check what all flows take, and return it in the order of `Run`."""
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


class Run:
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


def warn_at_end(mover, run):
    """Tell the caller of a flow how it ended, if not as asked, and what was lost."""
    if isinstance(run.ended, Diverged):
        warnings.warn(f"{mover} ended by {run.ended}", DivergenceWarning, stacklevel=3)
    elif isinstance(run.ended, Interrupted):
        warnings.warn(f"{mover} ended by {run.ended}", InterruptionWarning, stacklevel=3)
    for message in run.invariants.lost.values():
        warnings.warn(f"{mover}: {message}", InvariantWarning, stacklevel=3)
