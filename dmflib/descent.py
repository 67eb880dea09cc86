"""Gradient descent on the factors of a matrix: Algorithm 1 of source A.

The stopping rules live in `dmflib.stopping` and can be imported from here as well.
"""

import numpy as np

from dmflib import _checks
from dmflib._progress import progress_bar
from dmflib.linear_networks import Backpropagation, check_factors, views
from dmflib.losses import check_loss
from dmflib.stopping import (
    Diverged,
    DivergenceWarning,
    GradientBelow,
    Interrupted,
    InterruptionWarning,
    LossBelow,
    MaxSteps,
    RankPlateaus,
    State,
    StoppingRule,
    warn_ended,
)
from dmflib.trajectory import Recorder

__all__ = [
    "GradientBelow",
    "LossBelow",
    "MaxSteps",
    "RankPlateaus",
    "gradient_descent",
]


def gradient_descent(loss, factors, step_size, stop, record=1, keep=("products",), progress=False):
    """Gradient descent with a constant step on all factors at once (source A, algorithm 1).

    Parameters
    ----------
    loss : loss
        Any object with ``shape``, ``value(W)`` and ``gradient(W)``; see `dmflib.losses`.
    factors : sequence of array_like
        The start ``W_1, ..., W_N``, not changed; ``W_i`` has shape ``(d_i, d_{i-1})``.
    step_size : float
        Positive.
    stop : StoppingRule
        For example ``MaxSteps(10_000) | LossBelow(1e-8)``.
    record : int or array_like of int
        Record every so many steps, or exactly these steps. The start and the end are always
        recorded.
    keep : str or sequence of str
        What is recorded besides steps and losses: any of ``"products"``, ``"factors"``,
        ``"singular_values"``. Memory is that of the records alone.
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
    step_size = _checks.real("step_size", step_size, above=0)
    if not isinstance(stop, StoppingRule):
        _checks.fail("stop", stop, "a stopping rule, for example MaxSteps(1000)")
    due = _schedule(record)
    recorder = Recorder(keep)

    shapes = [W.shape for W in factors]
    flat = np.concatenate([W.ravel() for W in factors])
    factors = views(flat, shapes)
    workspace = Backpropagation(shapes)
    state = State(workspace)
    check = stop.watch()
    finite = flat.copy()  # the state before the last step, in case that step overflows

    with (
        np.errstate(over="ignore", invalid="ignore"),
        progress_bar(progress, stop.limit(), "step") as bar,
    ):
        try:
            while True:
                state.loss = workspace.evaluate(loss, factors)
                if not np.isfinite(state.loss):
                    ended = Diverged(state.step)
                    break
                ended = check(state)
                if ended is not None:
                    break
                if due(state.step):
                    recorder.add(state.step, state.loss, state.product, factors)
                np.copyto(finite, flat)
                workspace.flat_gradient *= step_size
                flat -= workspace.flat_gradient
                state.step += 1
                state.time = state.step
                if bar is not None:
                    bar.update(1)
        except KeyboardInterrupt:
            ended = Interrupted(state.step)
    last = state.step
    if isinstance(ended, Diverged):
        if state.step == 0:
            _checks.fail("factors", "the start", "small enough for its loss to be finite")
        last -= 1
        np.copyto(flat, finite)
        warn_ended("gradient descent", ended, DivergenceWarning)
    elif isinstance(ended, Interrupted):
        warn_ended("gradient descent", ended, InterruptionWarning)
    state.loss = workspace.evaluate(loss, factors)
    if not recorder.times or recorder.times[-1] < last:
        recorder.add(last, state.loss, state.product, factors)
    return recorder.trajectory(ended, [W.copy() for W in factors], state.step + 1)


def _schedule(record):
    """Return a function that says whether a step is to be recorded."""
    if np.ndim(record) == 0:
        every = _checks.integer("record", record, at_least=1)
        return lambda step: step % every == 0
    steps = np.asarray(record)
    if steps.ndim != 1 or steps.dtype.kind not in "iu" or (steps < 0).any():
        _checks.fail("record", steps, "a positive integer or a list of non-negative integers")
    wanted = set(steps.tolist())
    return wanted.__contains__
