r"""Gradient flow: gradient descent with infinitely small steps, followed by adaptive integration.

`gradient_flow` moves the factors, :math:`\dot W_i=-\nabla_{W_i}\ell(W_N\cdots W_1)`.
`product_flow` moves the product alone, by the equation that it obeys when the factors are balanced.
"""

import numpy as np

from dmflib import _checks
from dmflib._integration import METHODS, InvariantWarning, Run, check_arguments, warn_at_end
from dmflib.linear_networks import Backpropagation, balance_defects, check_factors, product, views
from dmflib.losses import check_loss
from dmflib.trajectory import Recorder

__all__ = ["METHODS", "InvariantWarning", "gradient_flow", "product_flow"]

LARGEST_PRODUCT = 1e150  # beyond, the square in a loss would overflow
ALWAYS_CHECKED = 10  # matrices up to this size are checked after every step


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
    with a square product, the rank of the product and the sign of its determinant (source C,
    theorem 2 and lemma 5). Rounding and truncation do not; an `InvariantWarning` says when one of
    them was lost.

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
        times exactly there, by interpolation. The start and the end are always recorded. The
        interpolation of ``"DOP853"`` is of lower order than its long steps: at `rtol` 1e-8 its
        error can be 1e-4; use ``"rkc"`` or ``"RK45"`` where the path between steps matters.
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
    arguments = check_arguments(t_final, stop, method, rtol, atol, record)
    recorder = Recorder(keep)
    system = _FactorFlow(loss, [W.shape for W in factors])
    start = np.concatenate([W.ravel() for W in factors])
    invariants = _Invariants(factors, rtol, atol)
    run = Run(system, start, recorder, invariants, *arguments)
    run.go(progress)
    warn_at_end("gradient flow", run)
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
    arguments = check_arguments(t_final, stop, method, rtol, atol, record)
    recorder = Recorder(keep)
    if "factors" in ((keep,) if isinstance(keep, str) else tuple(keep)):
        _checks.fail("keep", keep, "without 'factors': a product flow has none")
    system = _ProductFlow(loss, W0.shape, depth)
    invariants = _Invariants([W0], rtol, atol, keeps_sign=depth > 1)
    run = Run(system, W0.ravel(), recorder, invariants, *arguments)
    run.go(progress)
    warn_at_end("product flow", run)
    return recorder.trajectory(run.ended, None, system.evaluations)


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


class _Invariants:
    """Watches what the exact flow keeps, and notes when the computed one has lost it.

    Parameters
    ----------
    factors : list of ndarray
        The start; for a product flow the product alone.
    rtol, atol : float
    keeps_sign : bool, optional
        Whether the rank and the sign of the determinant are kept. By default they are if the
        start is balanced and there are at least two factors.

    Attributes
    ----------
    cheap : bool
        Whether the matrices are so small that every step can be checked.
    lost : dict
        Messages of what was lost, with the keys ``"determinant"``, ``"rank"`` and ``"balance"``.
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
        self._rank = self._start_rank(factors) if keeps_sign else None

    def check(self, step, time, W, factors):
        """Look at a state that was reached after so many accepted steps."""
        if factors is None:
            factors = [W]
        if self._sign is not None and "determinant" not in self.lost:
            self._check_sign(time, W, factors)
        if self._rank is not None and "rank" not in self.lost:
            self._check_rank(time, W)
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

    def _check_rank(self, time, W):
        sigma = np.linalg.svd(W, compute_uv=False)
        allowed = 1e-6 * sigma[0] if self._rank else 1e3 * self._atol
        if sigma[self._rank] > allowed:
            self.lost["rank"] = (
                f"the rank of the product, which the flow from a balanced start keeps, has grown "
                f"from {self._rank} at time {time:.4g}: rounding errors outside the start's column "
                f"and row spaces have grown to {sigma[self._rank]:.1e}. What was computed from "
                f"about this time on is not the flow. Use coordinates of the matrices of this rank"
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

    def _start_rank(self, factors):
        """Rank of the product, or None where it is as large as its shape allows."""
        W = product(factors)
        if not np.isfinite(W).all():
            return None
        sigma = np.linalg.svd(W, compute_uv=False)
        rank = int((sigma > 1e-13 * max(W.shape) * sigma[0]).sum())
        return rank if rank < len(sigma) else None


def _square(factors):
    """The factors where all are square (their determinants are far from rounding), or else W."""
    if all(W.shape[0] == W.shape[1] for W in factors):
        return factors
    return [product(factors)]


def _determinant_sign(factors):
    return np.prod([np.linalg.slogdet(W)[0] for W in _square(factors)])
