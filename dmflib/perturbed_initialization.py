r"""Deep factorization of a symmetric matrix from a start whose first factor is a little smaller.

In the eigenbasis of the target the factors stay diagonal, and each eigenvalue :math:`\lambda` has
a recursion of its own for two numbers: the entry :math:`x` of the first factor and the common
entry :math:`y` of the others (source A, equations 3.3 and 3.5). With the residual
:math:`r=\lambda-xy^{N-1}` and :math:`s=\eta\,r\,y^{N-2}` it reads

.. math:: x^+=x+s\,y,\qquad y^+=y+s\,x,\qquad\text{so}\qquad y^+\pm x^+=(1\pm s)(y\pm x).

The start is :math:`x=\alpha-\beta`, :math:`y=\alpha`. Gradient flow keeps
:math:`\kappa=y^2-x^2=\beta(2\alpha-\beta)>0`; with :math:`x=\sqrt\kappa\sinh\theta` and
:math:`y=\sqrt\kappa\cosh\theta` it is :math:`\dot\theta=r\,y^{N-2}`, and all times in this
module are integrals over the *rapidity* :math:`\theta`. One step of descent multiplies
:math:`\kappa` by :math:`1-s^2`.
"""

import math
from dataclasses import dataclass
from itertools import pairwise, repeat

import numpy as np

from dmflib import _checks
from dmflib.matrices import EFFECTIVE_RANKS
from dmflib.stopping import Diverged, DivergenceWarning, RankPlateaus, warn_ended
from dmflib.trajectory import Ranked, recorded_steps

# --- constants of the theorems ------------------------------------------------------------------


def growth_constant(depth):
    r"""The number c between 1 and 2 with :math:`(c-1)c^{N-1}=1` (source A, lemma 3.2).

    No factor grows beyond c times :math:`M=\max(\alpha,|\lambda|^{1/N})`: where the larger entry is
    :math:`cM` and the product at most :math:`M^N`, the smaller is at most :math:`(c-1)M`, and the
    difference of the two, which the perturbation keeps below :math:`M`, would be :math:`M`.

    Parameters
    ----------
    depth : int
        Number :math:`N` of factors, at least 1.

    Returns
    -------
    float
        The golden ratio for two factors, and the limit 1 for many.

    Raises
    ------
    ValueError
        If `depth` is not a positive integer.
    """
    depth = _checks.integer("depth", depth, at_least=1)
    # Newton for ln(c-1) + (N-1) ln c in the variable ln(c-1): convex, so monotone from the right.
    e = 1.0
    for _ in range(100):
        value = math.log(e) + (depth - 1) * math.log1p(e)
        new = e * math.exp(-value / (1 + (depth - 1) * e / (1 + e)))
        if abs(new - e) <= 1e-16 * e:
            break
        e = new
    return 1 + e


def max_step_size(eigenvalues, depth, scale):
    r"""Step sizes below this are covered by theorem 3.1 of source A (equation 3.6).

    .. math:: \frac1{9N(cM)^{2N-2}},\qquad M=\max\bigl(\alpha,\max_i|\lambda_i|^{1/N}\bigr)

    Parameters
    ----------
    eigenvalues : array_like, shape (n,) or number
        Eigenvalues :math:`\lambda_i` of the target.
    depth : int
        Number :math:`N` of factors, at least 1.
    scale : float
        The number :math:`\alpha`, positive.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    return monotone_step_size(eigenvalues, depth, scale) / 9


def monotone_step_size(eigenvalues, depth, scale):
    r"""Up to this step size descent is proved to reach every eigenvalue, without overshooting.

    It is :math:`1/(N(cM)^{2N-2})`, nine times the limit of source A; the proof is in the chapter
    and asks nothing of the perturbation but :math:`0<\beta<\alpha`.

    Parameters
    ----------
    eigenvalues : array_like, shape (n,) or number
    depth : int
        Number :math:`N` of factors, at least 1.
    scale : float
        The number :math:`\alpha`, positive.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    eigenvalues = _spectrum(eigenvalues)
    depth = _checks.integer("depth", depth, at_least=1)
    scale = _checks.real("scale", scale, above=0)
    M = max(scale, np.abs(eigenvalues).max() ** (1 / depth))
    return float(1 / (depth * (growth_constant(depth) * M) ** (2 * depth - 2)))


def stability_limit(eigenvalues, depth):
    r"""Above this step size no factorization of the largest eigenvalue attracts descent.

    The flattest factorization of :math:`\lambda` is the balanced one, where the loss has the
    curvature :math:`N|\lambda|^{2-2/N}`; descent repels where step times curvature exceeds 2.

    Parameters
    ----------
    eigenvalues : array_like, shape (n,) or number
        Not all of them zero.
    depth : int
        Number :math:`N` of factors, at least 1.

    Returns
    -------
    float
        :math:`2/(N\max|\lambda|^{2-2/N})`.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    largest = np.abs(_spectrum(eigenvalues)).max()
    depth = _checks.integer("depth", depth, at_least=1)
    if largest == 0:
        _checks.fail("eigenvalues", 0, "not all zero")
    return float(2 / (depth * largest ** (2 - 2 / depth)))


def conserved_quantity(scale, perturbation):
    r"""The number :math:`\kappa=\alpha^2-(\alpha-\beta)^2` that gradient flow keeps.

    Parameters
    ----------
    scale : float
        The number :math:`\alpha`, positive.
    perturbation : float
        The number :math:`\beta`, :math:`0<\beta<\alpha`.

    Returns
    -------
    float
        :math:`\beta(2\alpha-\beta)`, between 0 and :math:`\alpha^2`.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    scale, perturbation = _start(scale, perturbation)
    return perturbation * (2 * scale - perturbation)


def eigendecomposition(target):
    r"""Eigenvalues, largest first, and eigenvectors of a symmetric target.

    Parameters
    ----------
    target : array_like, shape (n, n)
        Symmetric up to rounding: the diagonal form of this start needs orthogonal eigenvectors.

    Returns
    -------
    eigenvalues : ndarray, shape (n,)
    vectors : ndarray, shape (n, n)
        One eigenvector per column.

    Raises
    ------
    ValueError
        If `target` is not a finite square matrix, or not symmetric.
    """
    target = _checks.array("target", target, ndim=2)
    if target.shape[0] != target.shape[1]:
        raise ValueError(f"target has shape {target.shape}: target must be square")
    largest, skew = np.abs(target).max(), np.abs(target - target.T).max()
    if skew > 1e-10 * largest:
        _checks.fail(
            "target", target, f"symmetric up to rounding; two opposite entries differ by {skew:.3g}"
        )
    values, vectors = np.linalg.eigh((target + target.T) / 2)
    return values[::-1], vectors[:, ::-1]


def _spectrum(eigenvalues):
    return np.atleast_1d(_checks.array("eigenvalues", eigenvalues)).ravel()


def _start(scale, perturbation):
    scale = _checks.real("scale", scale, above=0)
    return scale, _checks.real("perturbation", perturbation, above=0, below=scale)


# --- gradient descent ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Dynamics(Ranked):
    r"""The recorded entries of the factors, and what follows from them.

    Its method ``effective_rank(kind)`` is that of `dmflib.trajectory.Ranked`.

    Parameters
    ----------
    times : ndarray of int, shape (T,)
        Step numbers; the first is 0 and the last the end of the run.
    first : ndarray, shape (T, n)
        Entries :math:`x` of the first factor, one column for each eigenvalue.
    others : ndarray, shape (T, n)
        The common entries :math:`y` of the factors 2 to N. With one factor they stay at the scale.
    depth : int
        Number :math:`N` of factors.
    stopped_by : Diverged or None
        None where all steps were taken.
    """

    times: np.ndarray
    first: np.ndarray
    others: np.ndarray
    depth: int
    stopped_by: Diverged | None = None

    @property
    def eigenvalues(self):
        """Eigenvalues of the product, an array of shape (T, n)."""
        return self.first * self.others ** (self.depth - 1)

    _spectra = eigenvalues

    @property
    def conserved(self):
        """The differences of squares that a flow would keep, an array of shape (T, n)."""
        return (self.others - self.first) * (self.others + self.first)


def dynamics(eigenvalues, depth, scale, perturbation, step_size, steps, record=1, strict=False):
    r"""Gradient descent from the perturbed start, one recursion for each eigenvalue (A, 3.5).

    The loss is :math:`\frac12\|W-\hat W\|_F^2` with a symmetric target.

    Parameters
    ----------
    eigenvalues : array_like, shape (n,) or number
        Eigenvalues :math:`\lambda_i` of the target, in any order; see `eigendecomposition`.
    depth : int
        Number :math:`N` of factors, at least 1.
    scale : float
        The number :math:`\alpha`, positive.
    perturbation : float
        The number :math:`\beta`, :math:`0<\beta<\alpha`.
    step_size : float
        The number :math:`\eta`, positive.
    steps : int
        Number of steps, not negative.
    record : int or array_like of int
        Record every so many steps, or exactly these steps. The start and the end are always
        recorded; memory is that of the records alone. A long run with few records is fastest.
    strict : bool
        Whether to refuse what theorem 3.1 of source A does not cover: a step size at or above
        `max_step_size`, or a perturbation at or above ``(growth_constant(depth) - 1) * scale``.

    Returns
    -------
    Dynamics
        A run that diverges ends at the last finite state, with `Diverged` in ``stopped_by`` and a
        `DivergenceWarning` that names the step.

    Raises
    ------
    ValueError
        If an argument is outside its range; with `strict`, the message gives the limit.
    """
    eigenvalues = _spectrum(eigenvalues)
    depth = _checks.integer("depth", depth, at_least=1)
    scale, perturbation = _start(scale, perturbation)
    step_size = _checks.real("step_size", step_size, above=0)
    steps = _checks.integer("steps", steps, at_least=0)
    due = recorded_steps(record, steps)
    if strict:
        _check_assumptions(eigenvalues, depth, scale, perturbation, step_size)

    walks = [_walk(lam, depth, scale, perturbation, step_size, due) for lam in eigenvalues.tolist()]
    ends = [end for _, _, end in walks if end is not None]
    ended = None
    if ends:
        ended = Diverged(min(ends))
        if ended.step == 0:
            _checks.fail("eigenvalues", eigenvalues, "small enough for the loss to be finite")
        # The last finite state was not recorded yet, so the run is repeated up to it.
        due = [k for k in due if k < ended.step - 1] + [ended.step - 1]
        walks = [
            _walk(lam, depth, scale, perturbation, step_size, due) for lam in eigenvalues.tolist()
        ]
        warn_ended("gradient descent", ended, DivergenceWarning)
    first, others, _ = zip(*walks, strict=True)
    return Dynamics(np.array(due), np.transpose(first), np.transpose(others), depth, ended)


def _check_assumptions(eigenvalues, depth, scale, perturbation, step_size):
    """Raise unless theorem 3.1 of source A covers the run."""
    limit = max_step_size(eigenvalues, depth, scale)
    if step_size >= limit:
        _checks.fail("step_size", step_size, f"< {limit:.6g}, the limit of theorem 3.1 of source A")
    limit = (growth_constant(depth) - 1) * scale
    if perturbation >= limit:
        _checks.fail(
            "perturbation",
            perturbation,
            f"< (c - 1) * scale = {limit:.6g}, as theorem 3.1 of source A asks",
        )


def _walk(lam, depth, scale, perturbation, step_size, due):
    """Recorded entries of one eigenvalue's recursion and the step of divergence, or None.

    Plain Python numbers are several times faster here than short arrays, and a state that a step
    leaves unchanged to the last bit ends the work: all later states are the same.
    """
    advance = {1: _advance_one, 2: _advance_two, 3: _advance_three}.get(depth, _advance)
    x, y = scale - perturbation, scale
    xs, ys = [x], [y]
    if not _is_finite(lam, x, y, depth):
        return xs, ys, 0
    for before, now in pairwise(due):
        start = x, y
        try:
            x, y = advance(lam, x, y, step_size, depth - 2, 1)
            if (x, y) == start:  # at rest for ever
                rest = len(due) - len(xs)
                return xs + rest * [x], ys + rest * [y], None
            x, y = advance(lam, x, y, step_size, depth - 2, now - before - 1)
            fine = _is_finite(lam, x, y, depth)
        except OverflowError:
            fine = False
        if not fine:
            return xs, ys, _first_failure(lam, *start, step_size, depth, advance, before, now)
        xs.append(x)
        ys.append(y)
    return xs, ys, None


def _first_failure(lam, x, y, step_size, depth, advance, before, now):
    """Walk from step `before` again, one step at a time, to the step that is not finite."""
    for step in range(before + 1, now):
        try:
            x, y = advance(lam, x, y, step_size, depth - 2, 1)
        except OverflowError:
            return step
        if not _is_finite(lam, x, y, depth):
            return step
    return now


def _is_finite(lam, x, y, depth):
    """Whether the loss is a finite number."""
    try:
        r = lam - x * y ** (depth - 1)
    except OverflowError:
        return False
    return math.isfinite(r * r)


def _advance(lam, x, y, eta, power, count):
    """`count` steps; `power` is N - 2."""
    for _ in repeat(None, count):
        q = y**power
        s = eta * (lam - x * y * q) * q
        x, y = x + s * y, y + s * x
    return x, y


def _advance_three(lam, x, y, eta, power, count):
    for _ in repeat(None, count):
        s = eta * (lam - x * y * y) * y
        x, y = x + s * y, y + s * x
    return x, y


def _advance_two(lam, x, y, eta, power, count):
    for _ in repeat(None, count):
        s = eta * (lam - x * y)
        x, y = x + s * y, y + s * x
    return x, y


def _advance_one(lam, x, y, eta, power, count):
    for _ in repeat(None, count):
        x += eta * (lam - x)
    return x, y


def final_errors(eigenvalue, depth, scale, perturbation, step_size, steps):
    r"""How far the product is from its eigenvalue after many steps, for whole grids at once.

    Parameters
    ----------
    eigenvalue : array_like
        The numbers :math:`\lambda`. All arrays are broadcast against one another.
    depth : int
        Number :math:`N` of factors, at least 2.
    scale : array_like
        The numbers :math:`\alpha`, positive.
    perturbation : array_like
        The numbers :math:`\beta`, :math:`0<\beta<\alpha`.
    step_size : array_like
        The numbers :math:`\eta`, positive.
    steps : array_like of int
        Number of steps of each run, not negative.

    Returns
    -------
    errors : ndarray
        :math:`|xy^{N-1}-\lambda|`, infinite where the run diverged.
    diverged_at : ndarray of int
        The step at which the loss was no longer finite; -1 for runs that stay finite.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    depth = _checks.integer("depth", depth, at_least=2)
    eigenvalue = _checks.array("eigenvalue", eigenvalue)
    scale, step_size = _checks.array("scale", scale), _checks.array("step_size", step_size)
    perturbation = _checks.array("perturbation", perturbation)
    steps = _checks.array("steps", steps)
    for name, values in (("scale", scale), ("step_size", step_size)):
        if (values <= 0).any():
            _checks.fail(name, values, "positive")
    if (perturbation <= 0).any() or not (perturbation < scale).all():
        _checks.fail("perturbation", perturbation, "positive and below scale")
    if (steps < 0).any() or (steps % 1 != 0).any():
        _checks.fail("steps", steps, "non-negative integers")
    grids = np.broadcast_arrays(eigenvalue, scale, perturbation, step_size, steps)
    lam, scale, perturbation, eta, steps = (grid.ravel() for grid in grids)
    errors, diverged_at = np.empty(lam.size), np.full(lam.size, -1)

    place = np.arange(lam.size)
    x, y, k = scale - perturbation, scale.copy(), 0
    with np.errstate(over="ignore", invalid="ignore"):
        while True:
            q = y ** (depth - 2)
            r = lam - x * y * q
            lost = ~np.isfinite(r * r)
            done = steps <= k
            if lost.any() or done.any():
                errors[place[done]] = np.abs(r[done])
                errors[place[lost]], diverged_at[place[lost]] = np.inf, k
                left = ~(lost | done)
                lam, eta, steps, place = (a[left] for a in (lam, eta, steps, place))
                x, y, q, r = (a[left] for a in (x, y, q, r))
                if not left.any():
                    break
            s = eta * r * q
            x, y = x + s * y, y + s * x
            k += 1
    shape = grids[0].shape
    return errors.reshape(shape)[()], diverged_at.reshape(shape)[()]


def plateau_steps(path, length, tolerance=0.05, kind="nuclear"):
    """Steps at which `RankPlateaus` would have stopped, for one plateau, two, and so on.

    Parameters
    ----------
    path : Dynamics
    length : int
        Number of steps for which the effective rank must rest, positive.
    tolerance : float
        Largest difference of effective ranks within that time, positive.
    kind : {"nuclear", "entropy", "stable"}
        Which effective rank; see `dmflib.matrices.effective_rank`.

    Returns
    -------
    list of int
        Recorded steps, so a path with few records gives them coarsely.

    Raises
    ------
    ValueError
        If `path` is no path or another argument is outside its range.
    """
    if not isinstance(path, Dynamics):
        _checks.fail("path", path, "what dynamics returns")
    _checks.choice("kind", kind, EFFECTIVE_RANKS)
    looks = [
        _Look(time, k, np.diag(product))
        for k, (time, product) in enumerate(zip(path.times, path.eigenvalues, strict=True))
    ]
    found = []
    while True:
        watch = RankPlateaus(len(found) + 1, length, tolerance, kind).watch()
        step = next((int(look.time) for look in looks if watch(look)), None)
        if step is None:
            return found
        found.append(step)


@dataclass(frozen=True)
class _Look:
    """What the plateau rule sees of a state."""

    time: int
    step: int
    product: np.ndarray


# --- gradient flow ------------------------------------------------------------------------------


def flow_limit(eigenvalue, depth, scale, perturbation):
    r"""Where gradient flow ends: the point of the hyperbola whose product is the eigenvalue.

    Parameters
    ----------
    eigenvalue : float
        The number :math:`\lambda`.
    depth : int
        Number :math:`N` of factors, at least 2.
    scale, perturbation : float
        The numbers :math:`\alpha` and :math:`\beta`, :math:`0<\beta<\alpha`.

    Returns
    -------
    first, others : float
        The entries :math:`x`, :math:`y` with :math:`y^2-x^2=\kappa` and :math:`xy^{N-1}=\lambda`.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    eigenvalue, depth, scale, perturbation = _case(eigenvalue, depth, scale, perturbation)
    kappa = conserved_quantity(scale, perturbation)
    theta = _rapidity(eigenvalue, depth, kappa)
    return math.sqrt(kappa) * math.sinh(theta), math.sqrt(kappa) * math.cosh(theta)


def flow_time(eigenvalue, depth, scale, perturbation, end):
    r"""When the product of gradient flow has the value `end`.

    Exact up to the error of the quadrature; in closed form for two factors.

    Parameters
    ----------
    eigenvalue : float
        The number :math:`\lambda`.
    depth : int
        Number :math:`N` of factors, at least 2.
    scale, perturbation : float
        The numbers :math:`\alpha` and :math:`\beta`, :math:`0<\beta<\alpha`.
    end : float
        Between the start's product :math:`(\alpha-\beta)\alpha^{N-1}` and the eigenvalue, which
        is reached at no finite time.

    Returns
    -------
    float
        Time; divided by the step size, the number of steps to first order.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    eigenvalue, depth, scale, perturbation = _case(eigenvalue, depth, scale, perturbation)
    end = _checks.real("end", end)
    start = (scale - perturbation) * scale ** (depth - 1)
    if end == start:
        return 0.0
    if not (start < end < eigenvalue or eigenvalue < end < start):
        allowed = f"between the start's product {start:.6g} and the eigenvalue {eigenvalue:g}"
        _checks.fail("end", end, allowed + ", which itself is never reached")
    kappa = conserved_quantity(scale, perturbation)
    theta0 = _first_rapidity(scale, perturbation)
    if depth == 2:
        return _two_factor_time(eigenvalue, kappa, theta0, _rapidity(end, 2, kappa))
    # Near the eigenvalue the integrand over the rapidity is singular, and the one over the
    # logarithm of the residual is smooth. Near the saddle at zero it is the other way round.
    middle = start
    if eigenvalue < 0 or start < eigenvalue / 2:
        middle = max(end, eigenvalue / 2) if eigenvalue < 0 else min(end, eigenvalue / 2)
    near_saddle = (theta0, _rapidity(middle, depth, kappa)) if middle != start else (0.0, 0.0)
    return _time_by_rapidity(eigenvalue, depth, kappa, *near_saddle) + _time_by_residual(
        eigenvalue, depth, kappa, middle, end
    )


def _time_by_rapidity(lam, depth, kappa, start, end):
    r"""The integral of :math:`d\theta/(r\,y^{N-2})`."""
    root = math.sqrt(kappa)

    def integrand(theta):
        y = root * math.cosh(theta)
        q = y ** (depth - 2)
        return 1 / (q * (lam - root * math.sinh(theta) * y * q))

    return _quadrature(integrand, start, end)


def _time_by_residual(lam, depth, kappa, start, end):
    r"""The integral of :math:`-d\ln|r|/g`, where :math:`\dot r=-g\,r`."""
    sign = math.copysign(1, lam - start)

    def integrand(log_residual):
        theta = _rapidity(lam - sign * math.exp(log_residual), depth, kappa)
        return 1 / _curvature(depth, kappa, theta)

    return _quadrature(integrand, math.log(abs(lam - end)), math.log(abs(lam - start)))


def _curvature(depth, kappa, theta):
    r"""The rate :math:`g=y^{2N-4}(y^2+(N-1)x^2)` at which the residual falls."""
    y2, x2 = kappa * math.cosh(theta) ** 2, kappa * math.sinh(theta) ** 2
    return y2 ** (depth - 2) * (y2 + (depth - 1) * x2)


def _quadrature(integrand, start, end):
    from scipy.integrate import quad

    if start == end:  # the integrand may have its pole there
        return 0.0
    # Pieces of length about 2, since the interesting part of a long interval is short.
    ends = np.linspace(start, end, max(2, 1 + math.ceil(abs(end - start) / 2)))
    return sum(quad(integrand, a, b, epsabs=0, epsrel=1e-11)[0] for a, b in pairwise(ends.tolist()))


def _two_factor_time(lam, kappa, start, end):
    r"""The integral of :math:`d\theta/(\lambda-\frac\kappa2\sinh2\theta)`, by partial fractions.

    In :math:`w=e^{2\theta}` the denominator has the roots :math:`(\lambda\pm S)/a`, with
    :math:`a=\kappa/2` and :math:`S=\sqrt{\lambda^2+a^2}`.
    """
    a = kappa / 2
    S = math.hypot(lam, a)
    # The positive root and minus the negative one; their product is 1: no cancellation.
    root, other = ((lam + S) / a, a / (lam + S)) if lam > 0 else (a / (S - lam), (S - lam) / a)
    logs = [
        math.log(math.exp(2 * t) + other) - math.log(abs(root - math.exp(2 * t)))
        for t in (start, end)
    ]
    return (logs[1] - logs[0]) / (2 * S)


def crossing_time(eigenvalue, depth, scale, perturbation):
    r"""When gradient flow carries the product of a negative eigenvalue through zero.

    .. math:: T_\times=\int_0^{\alpha-\beta}
              \frac{dx}{h(x)\,(|\lambda|+x\,h(x))},\qquad h(x)=(\kappa+x^2)^{(N-1)/2}

    Parameters
    ----------
    eigenvalue : float
        Negative.
    depth : int
        Number :math:`N` of factors, at least 2.
    scale, perturbation : float
        The numbers :math:`\alpha` and :math:`\beta`, :math:`0<\beta<\alpha`.

    Returns
    -------
    float
        Time; divided by the step size, the number of steps to first order.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    eigenvalue = _checks.real("eigenvalue", eigenvalue, below=0)
    return flow_time(eigenvalue, depth, scale, perturbation, 0.0)


def plateau_time(sign, depth, scale, perturbation):
    r"""How long a unit eigenvalue waits near zero, for three factors or more.

    It is the integral of :math:`(\kappa+x^2)^{-(N-1)/2}` from :math:`\alpha-\beta` to infinity for
    a positive eigenvalue, and to minus infinity for a negative one. For small scales every
    product close to an eigenvalue :math:`\lambda` is first reached at about the time
    ``plateau_time / abs(eigenvalue)``; the quotient of the two tends to 1 as the scale tends to 0.

    Parameters
    ----------
    sign : {1, -1}
        Sign of the eigenvalue.
    depth : int
        Number :math:`N` of factors, at least 3; with two factors the integral is infinite.
    scale, perturbation : float
        The numbers :math:`\alpha` and :math:`\beta`, :math:`0<\beta<\alpha`.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    if sign not in (1, -1):
        _checks.fail("sign", sign, "1 or -1")
    depth = _checks.integer("depth", depth, at_least=3)
    scale, perturbation = _start(scale, perturbation)
    kappa = conserved_quantity(scale, perturbation)
    theta0 = _first_rapidity(scale, perturbation)
    # beyond |theta| = 60 the integrand is below 1e-26
    total = _quadrature(
        lambda theta: math.cosh(theta) ** (2 - depth), sign * theta0, 60.0 + abs(theta0)
    )
    return total * kappa ** (1 - depth / 2)


def invariant_drift(eigenvalue, depth, scale, perturbation):
    r"""How much of the conserved quantity descent loses on its whole way, per unit of step size.

    Since a step multiplies :math:`\kappa` by :math:`1-s^2`, the logarithm of its loss is, to first
    order in the step size, :math:`\eta\int|r|\,y^{N-2}\,|d\theta|` along the flow.

    Parameters
    ----------
    eigenvalue : float
        The number :math:`\lambda`.
    depth : int
        Number :math:`N` of factors, at least 2.
    scale, perturbation : float
        The numbers :math:`\alpha` and :math:`\beta`, :math:`0<\beta<\alpha`.

    Returns
    -------
    float
        The integral: :math:`\ln(\kappa_0/\kappa_\infty)\approx\eta` times it.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    eigenvalue, depth, scale, perturbation = _case(eigenvalue, depth, scale, perturbation)
    kappa = conserved_quantity(scale, perturbation)
    root = math.sqrt(kappa)

    def integrand(theta):
        y = root * math.cosh(theta)
        q = y ** (depth - 2)
        return (eigenvalue - root * math.sinh(theta) * y * q) * q

    end = _rapidity(eigenvalue, depth, kappa)
    return abs(_quadrature(integrand, _first_rapidity(scale, perturbation), end))


def invariant_drift_bound(eigenvalue, depth, scale, perturbation, step_size):
    r"""Proved bound on the logarithm of the loss of the conserved quantity, at every step.

    .. math:: \ln\frac{\kappa_0}{\kappa_k}\le2.8\,\eta\,c^{N-2}M^{2N-2}\ln\frac{2cM}\beta

    for every step :math:`k` of descent with a step size up to `monotone_step_size`.

    Parameters
    ----------
    eigenvalue : float
        The number :math:`\lambda`.
    depth : int
        Number :math:`N` of factors, at least 2.
    scale, perturbation : float
        The numbers :math:`\alpha` and :math:`\beta`, :math:`0<\beta<\alpha`.
    step_size : float
        Positive, at most ``monotone_step_size(eigenvalue, depth, scale)``.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    eigenvalue, depth, scale, perturbation = _case(eigenvalue, depth, scale, perturbation)
    limit = monotone_step_size(eigenvalue, depth, scale)
    step_size = _checks.real("step_size", step_size, above=0, at_most=limit)
    c, M = growth_constant(depth), max(scale, abs(eigenvalue) ** (1 / depth))
    logarithm = math.log(2 * c * M / perturbation)
    return 2.8 * step_size * c ** (depth - 2) * M ** (2 * depth - 2) * logarithm


def _case(eigenvalue, depth, scale, perturbation):
    eigenvalue = _checks.real("eigenvalue", eigenvalue)
    depth = _checks.integer("depth", depth, at_least=2)
    return eigenvalue, depth, *_start(scale, perturbation)


def _first_rapidity(scale, perturbation):
    """Rapidity of the start, without cancellation for small perturbations."""
    return 0.5 * math.log((2 * scale - perturbation) / perturbation)


def _rapidity(product, depth, kappa):
    r"""The rapidity at which :math:`xy^{N-1}` has a given value.

    Newton's method for :math:`\ln|x|+\frac{N-1}2\ln(\kappa+x^2)` as a convex function of
    :math:`\ln|x|`, monotone from the right.
    """
    if product == 0:
        return 0.0
    size = math.log(abs(product)) - depth / 2 * math.log(kappa)  # now kappa = 1
    z = min(size, size / depth)
    for _ in range(100):
        # x**2 / (1 + x**2) and ln(1 + x**2) without overflow
        weight = 1 / (1 + math.exp(-2 * z)) if z > -300 else 0.0
        log1p = math.log1p(math.exp(-2 * abs(z))) + max(0.0, 2 * z)
        step = (z + (depth - 1) / 2 * log1p - size) / (1 + (depth - 1) * weight)
        z -= step
        if abs(step) <= 1e-15 * max(1.0, abs(z)):
            break
    theta = math.asinh(math.exp(z))
    return math.copysign(theta, product)


# --- targets without symmetry -------------------------------------------------------------------


def many_descents(targets, factors, step_size, steps):
    r"""Gradient descent on many small problems at once, with any targets and any starts.

    Each run minimises :math:`\frac12\|W_N\cdots W_1-\hat W\|_F^2` over all its factors.

    Parameters
    ----------
    targets : array_like, shape (B, n, n)
        One target :math:`\hat W` for each run.
    factors : sequence of array_like, each of shape (n, n) or (B, n, n)
        The start ``W_1, ..., W_N``, common to all runs or one for each.
    step_size : float
        Positive.
    steps : int
        Not negative.

    Returns
    -------
    products : ndarray, shape (B, n, n)
        The products after the last step.
    sign_changes : ndarray of int, shape (B,)
        The first step after which the determinant's sign is not that of the start; -1 for runs
        that keep it.

    Raises
    ------
    ValueError
        If the shapes do not fit together, an argument is outside its range, or a run diverges;
        the message then says at which step.
    """
    targets = _checks.array("targets", targets, ndim=3)
    if targets.shape[1] != targets.shape[2]:
        raise ValueError(f"targets has shape {targets.shape}: targets must be square matrices")
    step_size = _checks.real("step_size", step_size, above=0)
    steps = _checks.integer("steps", steps, at_least=0)
    factors = _stacks(factors, targets.shape)
    signs = np.full(len(targets), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(steps + 1):
            partial = [factors[0]]
            for W in factors[1:]:
                partial.append(W @ partial[-1])
            if not np.isfinite(partial[-1]).all():
                _checks.fail("step_size", step_size, f"smaller: a run diverges at step {step}")
            negative = np.linalg.det(partial[-1]) < 0
            if step == 0:
                start = negative
            signs[(negative != start) & (signs < 0)] = step
            if step == steps:
                return partial[-1], signs
            outer = step_size * (partial[-1] - targets)
            for i in range(len(factors) - 1, 0, -1):
                gradient = outer @ partial[i - 1].swapaxes(-1, -2)
                outer = factors[i].swapaxes(-1, -2) @ outer
                factors[i] = factors[i] - gradient
            factors[0] = factors[0] - outer
    raise AssertionError("the loop returns at its last step")


def _stacks(factors, shape):
    """Return the factors as a list of arrays of the targets' shape."""
    try:
        factors = list(factors)
    except TypeError:
        _checks.fail("factors", factors, "a sequence of matrices or stacks of matrices")
    if not factors:
        _checks.fail("factors", factors, "a sequence of at least one matrix")
    stacks = []
    for i, W in enumerate(factors):
        W = _checks.array(f"factors[{i}]", W, min_ndim=2)
        if W.shape not in (shape, shape[1:]):
            raise ValueError(
                f"factors[{i}] has shape {W.shape}: factors[{i}] must have shape "
                f"{shape[1:]} or {shape}"
            )
        stacks.append(np.broadcast_to(W, shape).copy())
    return stacks
