"""Gradient descent on the factors of a matrix: Algorithm 1 of source A.

The stopping rules live in `dmflib.stopping` and can be imported from here as well.
"""

import math

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
    check_rule,
    warn_ended,
)
from dmflib.trajectory import Recorder, schedule

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
    check_rule("stop", stop)
    due = schedule(record)
    recorder = Recorder(keep)

    shapes = [W.shape for W in factors]
    start = np.concatenate([W.ravel() for W in factors])
    # Step k stands in buffer k % 2. So the state before a step that overflows is still there,
    # and an interruption at any moment finds the whole state of the step that is counted.
    flats = (start, np.empty_like(start))
    buffers = tuple(views(flat, shapes) for flat in flats)
    workspace = Backpropagation(shapes)
    state = State(workspace)
    check = stop.watch()

    with (
        np.errstate(over="ignore", invalid="ignore"),
        progress_bar(progress, stop.limit(), "step") as bar,
    ):
        try:
            while True:
                now, after = state.step % 2, (state.step + 1) % 2
                state.loss = workspace.evaluate(loss, buffers[now])
                if not math.isfinite(state.loss):
                    ended = Diverged(state.step)
                    break
                ended = check(state)
                if ended is not None:
                    break
                if state.step in due:
                    recorder.add(state.step, state.loss, state.product, buffers[now])
                workspace.flat_gradient *= step_size
                np.subtract(flats[now], workspace.flat_gradient, out=flats[after])
                state.step += 1
                state.time = state.step
                if bar is not None:
                    bar.update(1)
        except KeyboardInterrupt:
            ended = Interrupted(state.step)
        last = state.step
        if isinstance(ended, Interrupted):
            state.loss = workspace.evaluate(loss, buffers[last % 2])
            if not math.isfinite(state.loss):  # the interruption came first
                ended = Diverged(last)
        if isinstance(ended, Diverged):
            if last == 0:
                _checks.fail("factors", "the start", "small enough for its loss to be finite")
            last -= 1
            state.loss = workspace.evaluate(loss, buffers[last % 2])
    if isinstance(ended, Diverged):
        warn_ended("gradient descent", ended, DivergenceWarning)
    elif isinstance(ended, Interrupted):
        warn_ended("gradient descent", ended, InterruptionWarning)
    if last not in recorder.times[-1:]:
        recorder.add(last, state.loss, state.product, buffers[last % 2])
    final_factors = [W.copy() for W in buffers[last % 2]]
    return recorder.trajectory(ended, final_factors, workspace.evaluations)
