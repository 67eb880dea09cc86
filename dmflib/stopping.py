"""Rules that end a run; they combine with ``|`` (whichever comes first) and ``&`` (all at once).

A rule is a description and holds no state, so one rule serves many runs. `StoppingRule.watch`
starts the watching for one run.
"""

import warnings
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from dmflib import _checks
from dmflib.matrices import EFFECTIVE_RANKS, effective_rank


class StoppingRule:
    """Base class of the rules; supplies ``|`` and ``&``."""

    def watch(self):
        """Start watching one run.

        Returns
        -------
        callable
            Takes the run's state (attributes ``time``, ``loss``, ``product``, method
            ``gradient_norm()``) after every step and returns the rule that fired, or None.
        """
        return lambda state: self if self.holds(state) else None

    def holds(self, state):
        """Whether the rule is fulfilled in this state; for rules without memory.

        Parameters
        ----------
        state : State

        Returns
        -------
        bool
        """
        raise NotImplementedError

    def limit(self):
        """Largest time the run can reach under this rule; for the progress bar.

        Returns
        -------
        float or None
        """
        return None

    def __or__(self, other):
        return AnyOf((self, check_rule("stop", other)))

    def __and__(self, other):
        return AllOf((self, check_rule("stop", other)))


def check_rule(name, rule):
    """Return `rule` if it is a stopping rule.

    Parameters
    ----------
    name : str
        What the caller calls it.
    rule : StoppingRule

    Returns
    -------
    StoppingRule

    Raises
    ------
    ValueError
        If it is something else.
    """
    if not isinstance(rule, StoppingRule):
        _checks.fail(name, rule, "a stopping rule, for example MaxSteps(1000) | LossBelow(1e-6)")
    return rule


def _check_rules(rules):
    if not isinstance(rules, tuple) or not rules:
        _checks.fail("rules", rules, "a non-empty tuple of stopping rules")
    for i, rule in enumerate(rules):
        check_rule(f"rules[{i}]", rule)


@dataclass(frozen=True)
class AnyOf(StoppingRule):
    """Ends the run when one of the rules does; written ``a | b``.

    Parameters
    ----------
    rules : tuple of StoppingRule

    Raises
    ------
    ValueError
        If `rules` is empty or holds something else.
    """

    rules: tuple

    def __post_init__(self):
        _check_rules(self.rules)

    def watch(self):
        """Start watching one run; see `StoppingRule.watch`."""
        watchers = [rule.watch() for rule in self.rules]

        def check(state):
            # Every watcher sees every state: some of them count.
            fired = [watcher(state) for watcher in watchers]
            return next((rule for rule in fired if rule is not None), None)

        return check

    def limit(self):
        """Smallest limit of the rules; see `StoppingRule.limit`."""
        limits = [rule.limit() for rule in self.rules]
        return min((limit for limit in limits if limit is not None), default=None)

    def __str__(self):
        return " | ".join(map(str, self.rules))


@dataclass(frozen=True)
class AllOf(StoppingRule):
    """Ends the run when all the rules hold at once; written ``a & b``.

    Parameters
    ----------
    rules : tuple of StoppingRule

    Raises
    ------
    ValueError
        If `rules` is empty or holds something else.
    """

    rules: tuple

    def __post_init__(self):
        _check_rules(self.rules)

    def watch(self):
        """Start watching one run; see `StoppingRule.watch`."""
        watchers = [rule.watch() for rule in self.rules]

        def check(state):
            fired = [watcher(state) for watcher in watchers]
            return self if all(rule is not None for rule in fired) else None

        return check

    def __str__(self):
        return " & ".join(map(str, self.rules))


@dataclass(frozen=True)
class MaxSteps(StoppingRule):
    """Ends the run after a number of steps (source A, termination condition 1).

    In a gradient flow it counts the integrator's accepted steps.

    Parameters
    ----------
    steps : int
        At least 0.

    Raises
    ------
    ValueError
        If `steps` is not a non-negative integer.
    """

    steps: int

    def __post_init__(self):
        object.__setattr__(self, "steps", _checks.integer("steps", self.steps, at_least=0))

    def holds(self, state):
        """Whether the steps are taken."""
        return state.step >= self.steps

    def limit(self):
        """Number of steps."""
        return self.steps

    def __str__(self):
        return f"MaxSteps({self.steps})"


@dataclass(frozen=True)
class LossBelow(StoppingRule):
    """Ends the run when the loss is at most a threshold (source A, termination condition 2).

    Parameters
    ----------
    threshold : float
        At least 0.

    Raises
    ------
    ValueError
        If `threshold` is negative or not finite.
    """

    threshold: float

    def __post_init__(self):
        threshold = _checks.real("threshold", self.threshold, at_least=0)
        object.__setattr__(self, "threshold", threshold)

    def holds(self, state):
        """Whether the loss is small enough."""
        return state.loss <= self.threshold

    def __str__(self):
        return f"LossBelow({self.threshold:g})"


@dataclass(frozen=True)
class GradientBelow(StoppingRule):
    """Ends the run when the gradient is at most a threshold (source A, condition 3).

    The norm is the Euclidean one of the gradient with respect to all factors together.

    Parameters
    ----------
    threshold : float
        At least 0.

    Raises
    ------
    ValueError
        If `threshold` is negative or not finite.
    """

    threshold: float

    def __post_init__(self):
        threshold = _checks.real("threshold", self.threshold, at_least=0)
        object.__setattr__(self, "threshold", threshold)

    def holds(self, state):
        """Whether the gradient is small enough."""
        return state.gradient_norm() <= self.threshold

    def __str__(self):
        return f"GradientBelow({self.threshold:g})"


@dataclass(frozen=True)
class RankPlateaus(StoppingRule):
    """Ends the run on a plateau of the effective rank (source A, section 4).

    The run is on a plateau while the effective rank has varied by at most `tolerance` during the
    last `length` (steps, or units of time in a flow). A slow drift therefore stays one plateau:
    the next one begins only after a change that was faster. The plateau that contains the start
    does not count, since every start rests near a saddle first.

    The effective rank ignores size, so a run may rest on a plateau while its product is still
    small; a `length` above the time that the product needs to grow rules that out.

    Parameters
    ----------
    count : int
        The run ends when this many plateaus have been seen, at least 1.
    length : float
        Duration for which the effective rank must rest, positive.
    tolerance : float
        Largest difference of effective ranks within that time, positive.
    kind : {"nuclear", "entropy", "stable"}
        Which effective rank; see `dmflib.matrices.effective_rank`. That of the zero matrix
        counts as 0 here.
    every : int
        The effective rank costs a singular value decomposition, so it is computed only at every
        so many steps.

    Raises
    ------
    ValueError
        If a number is outside its range or `kind` is unknown.
    """

    count: int
    length: float
    tolerance: float = 0.05
    kind: str = "nuclear"
    every: int = field(default=1, repr=False)

    def __post_init__(self):
        _checks.integer("count", self.count, at_least=1)
        _checks.real("length", self.length, above=0)
        _checks.real("tolerance", self.tolerance, above=0)
        _checks.choice("kind", self.kind, EFFECTIVE_RANKS)
        _checks.integer("every", self.every, at_least=1)

    def watch(self):
        """Start watching one run; see `StoppingRule.watch`."""
        looks = deque()  # times and ranks that cover the last `length`
        highs, lows = deque(), deque()  # those that are extreme among all later ones
        counted, seen = True, 0  # the plateau at the start is taken as counted

        def check(state):
            nonlocal counted, seen
            if seen >= self.count or state.step % self.every:
                return self if seen >= self.count else None
            product = state.product
            rank = effective_rank(product, self.kind) if product.any() else 0.0
            looks.append((state.time, rank))
            while len(looks) > 1 and state.time - looks[1][0] >= self.length:
                looks.popleft()
            for extremes, sign in ((highs, 1), (lows, -1)):
                while extremes and sign * extremes[-1][1] <= sign * rank:
                    extremes.pop()
                extremes.append(looks[-1])
                while extremes[0][0] < looks[0][0]:
                    extremes.popleft()
            if highs[0][1] - lows[0][1] > self.tolerance:
                counted = False
            elif not counted and state.time - looks[0][0] >= self.length:
                counted, seen = True, seen + 1
            return self if seen >= self.count else None

        return check

    def __str__(self):
        return f"RankPlateaus({self.count}, length={self.length:g}, kind={self.kind!r})"


@dataclass(frozen=True)
class Diverged:
    """Says that a run was ended because the loss was no longer a finite number.

    Parameters
    ----------
    step : int
        The step whose result was not finite.
    """

    step: int

    def __str__(self):
        return f"divergence at step {self.step}"


@dataclass(frozen=True)
class Interrupted:
    """Says that a run was ended by the user (Ctrl-C or the notebook's stop button).

    Parameters
    ----------
    step : int
        The last finished step.
    """

    step: int

    def __str__(self):
        return f"interruption after step {self.step}"


@dataclass(frozen=True)
class TimeReached:
    """Says that a flow reached the time it was asked for.

    Parameters
    ----------
    time : float
    """

    time: float

    def __str__(self):
        return f"time {self.time:g} reached"


class DivergenceWarning(RuntimeWarning):
    """A run was ended because the loss was no longer finite; the message has the step."""


class InterruptionWarning(RuntimeWarning):
    """A run was ended by the user; what was recorded is kept."""


def warn_ended(mover, ended, category):
    """Warn the caller of a mover that its run ended early.

    Parameters
    ----------
    mover : str
        What was running, in words.
    ended : Diverged or Interrupted
    category : type of warning
    """
    warnings.warn(f"{mover} ended by {ended}", category, stacklevel=3)


class State:
    """What stopping rules see of a run.

    Parameters
    ----------
    workspace : Backpropagation
        Where the mover computes products and gradients.

    Attributes
    ----------
    step : int
        Steps taken.
    time : float
        Equal to `step` for descent, the time of the flow for a flow.
    loss : float
    product : ndarray, shape (m, n)
    """

    def __init__(self, workspace):
        self._workspace = workspace
        self.step = 0
        self.time = 0
        self.loss = None

    @property
    def product(self):
        """Product of the factors at this step."""
        return self._workspace.partial[-1]

    def gradient_norm(self):
        """Euclidean norm of the gradient with respect to all factors.

        Returns
        -------
        float
        """
        return np.linalg.norm(self._workspace.flat_gradient)
