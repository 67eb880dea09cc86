r"""Commuting measurements: the one setting where the limit of a deep factorization is known.

Symmetric matrices :math:`A_1,\dots,A_m` that commute have a common orthonormal eigenbasis
:math:`V`, so that :math:`A_i=V\,\mathrm{diag}(a_i)\,V^T`. Their eigenvalues are the rows of an
m x n table. Gradient flow of :math:`\tfrac12\sum_i(\langle A_i,W\rangle-y_i)^2` over N factors
that start at :math:`\alpha I` stays diagonal in this basis, and the eigenvalues :math:`x_k` of
the product obey

.. math:: \dot x_k=-N\,x_k^{2-2/N}\,\bigl(a^T(ax-y)\bigr)_k,\qquad x_k(0)=\alpha^N .

It ends at the fit that minimises a strictly convex function (`flow_limit`), and for
:math:`\alpha\to0` this becomes the linear programme :math:`\min\sum_kx_k` subject to
:math:`ax=y,\ x\ge0` (`linear_program`): the least nuclear norm (source D, theorems 1 and 2).
`least_trace` solves the same convex problem for measurements that do not commute.
"""

from dataclasses import dataclass

import numpy as np

from dmflib import _checks, bregman
from dmflib.losses import Sensing

__all__ = [
    "LinearProgram",
    "common_eigenbasis",
    "commuting_loss",
    "conflicting_entries",
    "descent_limit",
    "diagonal_flow",
    "excess_asymptotics",
    "flow_limit",
    "least_trace",
    "linear_program",
    "random_problem",
    "rank_one_fit",
    "small_scale_limit",
    "tilted_pair",
]


LARGEST_LOG = np.log(1e140)  # squares of what starts there neither overflow nor vanish


# --- problems ------------------------------------------------------------------------------------


def common_eigenbasis(operators):
    r"""Eigenvectors shared by symmetric matrices that commute, and the table of eigenvalues.

    Parameters
    ----------
    operators : array_like, shape (m, n, n)
        Symmetric matrices with :math:`A_iA_j=A_jA_i`.

    Returns
    -------
    basis : ndarray, shape (n, n)
        Orthonormal eigenvectors in columns.
    eigenvalues : ndarray, shape (m, n)
        Entry (i, k) belongs to matrix i and column k.

    Raises
    ------
    ValueError
        If the matrices are not symmetric or do not commute (up to 1e-10, relative).
    """
    operators = _symmetric("operators", operators)
    # A generic combination has the common eigenspaces and no others.
    weights = np.random.default_rng(0).standard_normal(len(operators))
    sizes = np.linalg.norm(operators, axis=(1, 2))
    scaled = operators / np.where(sizes > 0, sizes, 1)[:, None, None]
    basis = np.linalg.eigh(np.tensordot(weights, scaled, 1))[1]
    inner = basis.T @ scaled @ basis
    eigenvalues = np.diagonal(inner, axis1=1, axis2=2)
    outside = inner - eigenvalues[:, :, None] * np.eye(len(basis))
    if np.abs(outside).max() > 1e-10:
        _checks.fail("operators", operators, "symmetric matrices that commute with one another")
    return basis, eigenvalues * sizes[:, None]


def _symmetric(name, operators):
    operators = _checks.array(name, operators, ndim=3)
    if operators.shape[1] != operators.shape[2]:
        _checks.fail(name, operators, "a stack of square matrices")
    apart = np.abs(operators - operators.transpose(0, 2, 1)).max()
    if apart > 1e-12 * np.abs(operators).max():
        _checks.fail(name, operators, "a stack of symmetric matrices")
    return operators


def commuting_loss(eigenvalues, measurements, basis=None):
    r"""Loss of a matrix whose measurements share an eigenbasis.

    Parameters
    ----------
    eigenvalues : array_like, shape (m, n)
        Row i holds the eigenvalues of :math:`A_i`.
    measurements : array_like, shape (m,)
        The numbers :math:`y_i`.
    basis : array_like, shape (n, n), optional
        Orthonormal eigenvectors in columns; the unit vectors where left out.

    Returns
    -------
    dmflib.losses.Sensing

    Raises
    ------
    ValueError
        If the shapes do not fit together or the basis is not orthonormal.
    """
    table, y = _problem(eigenvalues, measurements)
    n = table.shape[1]
    basis = np.eye(n) if basis is None else _checks.array("basis", basis, shape=(n, n))
    if np.abs(basis.T @ basis - np.eye(n)).max() > 1e-10:
        _checks.fail("basis", basis, "an orthogonal matrix")
    return Sensing(np.einsum("pk,ik,qk->ipq", basis, table, basis), y)


def _problem(eigenvalues, measurements):
    table = _checks.array("eigenvalues", eigenvalues, ndim=2)
    return table, _checks.array("measurements", measurements, shape=(len(table),))


def random_problem(seed, size=6, count=3):
    r"""A random commuting problem with positive definite fits, to test a statement on.

    Parameters
    ----------
    seed : int or numpy.random.Generator
    size : int
        Number n of eigenvalues.
    count : int
        Number m of measurements, less than n.

    Returns
    -------
    eigenvalues : ndarray, shape (m, n)
        Gaussian.
    measurements : ndarray, shape (m,)
        Of a diagonal matrix with entries between 0.1 and 1.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    rng = _checks.generator("seed", seed)
    size = _checks.integer("size", size, at_least=1)
    count = _checks.integer("count", count, at_least=1)
    if count >= size:
        _checks.fail("count", count, f"less than size={size}")
    table = rng.standard_normal((count, size))
    return table, table @ rng.uniform(0.1, 1, size)


def tilted_pair(angle):
    r"""Two measurements of 2x2 matrices whose eigenvectors differ by an angle.

    The squared lengths :math:`e^TWe=1` are measured along the first unit vector and along a
    second vector, at the angle :math:`\pi/2-\theta` to the first. At :math:`\theta=0` the
    measurements commute. The least nuclear norm is :math:`2/(1+|\sin\theta|)`.

    Parameters
    ----------
    angle : float
        :math:`\theta`, between -pi/2 and pi/2, both excluded.

    Returns
    -------
    dmflib.losses.Sensing

    Raises
    ------
    ValueError
        If `angle` is outside its range.
    """
    angle = _checks.real("angle", angle, above=-np.pi / 2, below=np.pi / 2)
    vectors = np.array([[1.0, 0.0], [np.sin(angle), np.cos(angle)]])
    return Sensing(np.einsum("ip,iq->ipq", vectors, vectors), [1.0, 1.0])


def conflicting_entries(ratio):
    r"""A completion problem where least rank and least nuclear norm exclude one another.

    Of a symmetric 4x4 matrix the entries (1,3), (1,4), (2,3) are 1, R, R. The least nuclear norm
    of a positive semidefinite fit is 4R for :math:`R\ge1`, at rank 2; the smallest of rank 1 is
    :math:`2+2R^2` (Li, Luo and Lyu 2021).

    Parameters
    ----------
    ratio : float
        :math:`R`, at least 1.

    Returns
    -------
    dmflib.losses.Sensing

    Raises
    ------
    ValueError
        If `ratio` is below 1.
    """
    ratio = _checks.real("ratio", ratio, at_least=1)
    operators = np.zeros((3, 4, 4))
    for i, (row, column) in enumerate([(0, 2), (0, 3), (1, 2)]):
        operators[i, row, column] = operators[i, column, row] = 0.5
    return Sensing(operators, [1.0, ratio, ratio])


# --- the least nuclear norm ----------------------------------------------------------------------


@dataclass(frozen=True)
class LinearProgram:
    r"""The least weighted sum of non-negative numbers that fit linear measurements, with proof.

    Parameters
    ----------
    value : float
        The least sum :math:`Q`.
    spectrum : ndarray, shape (n,)
        One minimiser :math:`x`.
    multipliers : ndarray, shape (m,)
        :math:`\nu` with :math:`a^T\nu\le w` and :math:`\nu^Ty=Q`, which proves that no fit has a
        smaller sum.
    slack : ndarray, shape (n,)
        :math:`s=w-a^T\nu\ge0`. The sum of any fit z exceeds Q by :math:`s^Tz`. Among all
        multipliers, those with the largest smallest slack off the support are chosen.
    support : ndarray of bool, shape (n,)
        Where some minimiser is positive: the slack vanishes there, and only there.
    unique : bool
        Whether minimiser and multipliers are the only ones.
    """

    value: float
    spectrum: np.ndarray
    multipliers: np.ndarray
    slack: np.ndarray
    support: np.ndarray
    unique: bool


def linear_program(eigenvalues, measurements, weights=None):
    r"""Least nuclear norm of a positive semidefinite fit, if the measurements commute.

    .. math:: Q=\min\Bigl\{\sum_kw_kx_k:\ ax=y,\ x\ge0\Bigr\}

    Parameters
    ----------
    eigenvalues : array_like, shape (m, n)
        The table :math:`a`.
    measurements : array_like, shape (m,)
    weights : array_like, shape (n,), optional
        Positive :math:`w_k`; ones where left out, which is the nuclear norm.

    Returns
    -------
    LinearProgram

    Raises
    ------
    ValueError
        If the shapes do not fit together, a weight is not positive, or no positive semidefinite
        matrix has these measurements.
    """
    table, y = _problem(eigenvalues, measurements)
    n = table.shape[1]
    weights = np.ones(n) if weights is None else _positive("weights", weights, n)
    rows, target, size = _normalised(table, y)
    _refuse_unsolvable(table, y)
    first = _minimise(weights, equal=(rows, target))
    support = _support(rows, target, weights, first.fun)
    scaled, slack = _certificate(rows, target, weights, first.fun, support)
    x = np.where(support, first.x, 0) * size
    norms = np.linalg.norm(table, axis=1)
    multipliers = scaled / np.where(norms > 0, norms, 1)
    columns = rows[:, support]
    rank = np.linalg.matrix_rank(columns) if support.any() else 0
    unique = rank == support.sum() and rank == np.linalg.matrix_rank(rows)
    return LinearProgram(first.fun * size, x, multipliers, slack, support, bool(unique))


def _positive(name, value, n):
    value = _checks.array(name, value, shape=(n,))
    if (value <= 0).any():
        _checks.fail(name, value, "positive")
    return value


def _normalised(table, y):
    """Rows of length 1 and measurements of size 1, and what the latter were divided by."""
    norms = np.linalg.norm(table, axis=1)
    norms = np.where(norms > 0, norms, 1)
    size = np.abs(y / norms).max() or 1.0
    return table / norms[:, None], y / norms / size, size


def _minimise(cost, equal=None, below=None, bounds=(0, None)):
    """Solution of a linear programme, or None where nothing is feasible."""
    from scipy.optimize import linprog

    A_eq, b_eq = equal if equal is not None else (None, None)
    A_ub, b_ub = below if below is not None else (None, None)
    result = linprog(cost, A_ub, b_ub, A_eq, b_eq, bounds, method="highs")
    return result if result.status == 0 else None


def _support(rows, target, weights, value):
    """Where some minimiser is positive, by one more programme.

    Maximise the sum of t with t <= 1, t <= z over multiples (at least 1) z of minimisers: a large
    multiple lifts every entry that can be positive above 1.
    """
    m, n = rows.shape
    cost = np.concatenate([np.zeros(n), -np.ones(n), [0.0]])
    zeros = np.zeros((m, n))
    equal = np.vstack(
        [
            np.hstack([rows, zeros, -target[:, None]]),
            np.concatenate([weights, np.zeros(n), [-value]]),
        ]
    )
    below = np.hstack([-np.eye(n), np.eye(n), np.zeros((n, 1))])
    bounds = [(0, None)] * n + [(0, 1)] * n + [(1, None)]
    result = _minimise(cost, (equal, np.zeros(m + 1)), (below, np.zeros(n)), bounds)
    return result.x[n : 2 * n] > 0.5


def _certificate(rows, target, weights, value, support):
    """Multipliers whose smallest slack off the support is as large as possible."""
    m, _ = rows.shape
    on, off = rows[:, support].T, rows[:, ~support].T
    cost = np.append(np.zeros(m), -1.0)
    equal = np.vstack(
        [np.hstack([on, np.zeros((len(on), 1))]), np.append(target, 0.0)],
    )
    below = np.hstack([off, np.ones((len(off), 1))])
    bounds = [(None, None)] * m + [(0, 1e3)]
    result = _minimise(
        cost,
        (equal, np.append(weights[support], value)),
        (below, weights[~support]) if len(off) else None,
        bounds,
    )
    multipliers = result.x[:m]
    slack = np.where(support, 0.0, weights - rows.T @ multipliers)
    return multipliers, slack


def least_trace(operators, measurements, gap=1e-7):
    r"""Least nuclear norm of a positive semidefinite fit, whether or not measurements commute.

    Maximises :math:`\nu^Ty+\mu\ln\det(I-\sum_i\nu_iA_i)` by Newton's method for a falling
    sequence of :math:`\mu`. Each :math:`\nu` proves the bound :math:`\nu^Ty` from below.

    Parameters
    ----------
    operators : array_like, shape (m, n, n)
        Symmetric.
    measurements : array_like, shape (m,)
        Of some positive definite matrix; otherwise the method does not converge.
    gap : float
        How far the answer may be above the lower bound, relative to the answer; between 1e-7
        and 1.

    Returns
    -------
    W : ndarray, shape (n, n)
        A positive definite fit, close to the least one.
    bound : float
        No positive semidefinite fit has a smaller nuclear norm.

    Raises
    ------
    ValueError
        If the matrices are not symmetric, the shapes do not fit together, or no positive definite
        matrix with these measurements was found.
    """
    operators = _symmetric("operators", operators)
    y = _checks.array("measurements", measurements, shape=(len(operators),))
    gap = _checks.real("gap", gap, at_least=1e-7, at_most=1)
    norms = np.linalg.norm(operators, axis=(1, 2))
    if (norms == 0).any():
        _checks.fail("operators", operators, "different from zero")
    scaled, size = operators / norms[:, None, None], np.abs(y / norms).max() or 1.0
    target = y / norms / size
    n = len(operators[0])
    multipliers, mu = np.zeros(len(y)), 1.0
    while True:
        multipliers, W = _centre(scaled, target, multipliers, mu)
        if W is None:
            _checks.fail("measurements", y, "those of a positive definite matrix")
        if n * mu <= gap * np.trace(W):
            return W * size, float(multipliers @ target) * size
        mu *= 0.2


def _centre(operators, y, multipliers, mu):
    """Newton's method for one value of mu; W is None where it does not converge."""
    before = np.inf
    for _ in range(200):
        values, vectors = np.linalg.eigh(
            np.eye(operators.shape[1]) - np.tensordot(multipliers, operators, 1)
        )
        half = vectors / np.sqrt(values)
        W = mu * half @ half.T
        residual = y - np.einsum("ipq,pq->i", operators, W)
        moved = half.T @ operators @ half
        hessian = mu * np.einsum("ipq,jpq->ij", moved, moved)
        move = np.linalg.lstsq(hessian, residual, rcond=1e-15)[0]
        # Length in the local norm: shortened steps keep the matrix positive definite.
        length = np.sqrt(max(residual @ move / mu, 0.0))
        if length < 1e-9 or (length < 1e-3 and length > 0.5 * before):  # rounding is reached
            return multipliers, W if np.abs(residual).max() < 1e-6 else None
        multipliers = multipliers + move / (1 + length)
        before = length
    return multipliers, None


# --- where the flow ends -------------------------------------------------------------------------


def flow_limit(eigenvalues, measurements, depth, scale, shape=None):
    r"""Where the eigenvalues of the product end, for commuting measurements and a given start.

    The unique minimiser, among the fits :math:`z\ge0`, :math:`az=y`, of

    .. math::

        &\sum_kz_k+\frac1{\ln(1/\alpha^2)}\sum_k(z_k\ln z_k-z_k)\quad(N=2),\\
        &\sum_kz_k-\frac N2\alpha^{N-2}\sum_kz_k^{2/N}\quad(N\ge3),

    computed by `dmflib.bregman.minimizer`, without any flow. (At depth 2 this form of the function
    is for :math:`\alpha<1`.)

    Parameters
    ----------
    eigenvalues : array_like, shape (m, n)
        The table :math:`a`.
    measurements : array_like, shape (m,)
        Of some positive semidefinite matrix.
    depth : int
        Number :math:`N` of factors, at least 2.
    scale : float
        :math:`\alpha`; every factor starts at :math:`\alpha V\mathrm{diag}(c)V^T`. Positive.
    shape : array_like, shape (n,), optional
        The positive numbers :math:`c_k`; ones where left out.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    ValueError
        If an argument is outside its range or no positive semidefinite matrix has these
        measurements.
    """
    table, y = _problem(eigenvalues, measurements)
    depth = _checks.integer("depth", depth, at_least=2)
    scale = _checks.real("scale", scale, above=0)
    n = table.shape[1]
    shape = np.ones(n) if shape is None else _positive("shape", shape, n)
    _refuse_unsolvable(table, y)
    start = depth * np.log(scale * shape)
    if np.abs(start).max() > LARGEST_LOG:
        _checks.fail("scale", scale, "such that (scale * shape)**depth is within 1e-140 and 1e140")
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        x = bregman.minimizer(table, y, np.exp(start), depth)
    if not np.isfinite(x).all():
        _checks.fail("scale", scale, "larger: an entry of the limit is below the smallest number")
    return x


def _refuse_unsolvable(table, y):
    try:
        bregman.check_solvable(table, y, nonnegative=True)
    except ValueError as error:
        message = f"measurements={y}: measurements must be those of a positive semidefinite matrix"
        raise ValueError(message) from error


def small_scale_limit(eigenvalues, measurements, depth):
    r"""Where the eigenvalues end when the scale of the start tends to zero.

    A solution of `linear_program`. Where that has several solutions, it is the one of largest
    entropy :math:`-\sum x_k\ln x_k` at depth 2, and of largest :math:`\sum x_k^{2/N}` at depth
    N at least 3.

    Parameters
    ----------
    eigenvalues : array_like, shape (m, n)
    measurements : array_like, shape (m,)
    depth : int
        Number :math:`N` of factors, at least 2.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    ValueError
        If an argument is outside its range or no positive semidefinite matrix has these
        measurements.
    """
    depth = _checks.integer("depth", depth, at_least=2)
    program = linear_program(eigenvalues, measurements)
    table, y = _problem(eigenvalues, measurements)
    x = np.zeros(table.shape[1])
    support = program.support
    if support.any():
        # On the support all fits have one sum, so the limit is the same for every scale.
        size = (program.value / support.sum()) ** (1 / depth)
        x[support] = flow_limit(table[:, support], y, depth, size)
    return x


def excess_asymptotics(eigenvalues, measurements, depth, scale):
    r"""How much the nuclear norm of the limit exceeds the least one, to leading order.

    With the slacks :math:`s_k` of the linear programme, its solution :math:`x^0` with support S
    and :math:`c=a_S^{-1}a`,

    .. math::

        \sum_{k\notin S}s_k\,\alpha^{2s_k}\prod_{j\in S}(x^0_j)^{c_{jk}}\quad(N=2),\qquad
        \alpha^N\sum_{k\notin S}s_k^{-2/(N-2)}\quad(N\ge3).

    Parameters
    ----------
    eigenvalues : array_like, shape (m, n)
        Of linearly independent measurements.
    measurements : array_like, shape (m,)
    depth : int
        Number :math:`N` of factors, at least 2.
    scale : float
        :math:`\alpha`, positive.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is outside its range, or solution or multipliers of the linear programme
        are not unique.
    """
    table, y = _problem(eigenvalues, measurements)
    depth = _checks.integer("depth", depth, at_least=2)
    scale = _checks.real("scale", scale, above=0)
    program = linear_program(table, y)
    if not program.unique:
        _checks.fail("measurements", y, "such that the linear programme has a unique solution")
    on, slack = program.support, program.slack[~program.support]
    if depth > 2:
        return float(scale**depth * (slack ** (-2 / (depth - 2))).sum())
    powers = np.linalg.lstsq(table[:, on], table[:, ~on], rcond=None)[0]
    factors = np.exp(np.log(program.spectrum[on]) @ powers)
    return float((slack * scale ** (2 * slack) * factors).sum())


def rank_one_fit(spectrum, basis=None):
    r"""A matrix of rank one with the same commuting measurements and the same nuclear norm.

    :math:`ww^T` with :math:`w=\sum_k\sqrt{x_k}\,v_k`: its diagonal in the basis is that of
    :math:`V\mathrm{diag}(x)V^T`, and commuting measurements see nothing else.

    Parameters
    ----------
    spectrum : array_like, shape (n,)
        Eigenvalues :math:`x_k`, at least 0.
    basis : array_like, shape (n, n), optional
        The vectors :math:`v_k` in columns; unit vectors where left out.

    Returns
    -------
    ndarray, shape (n, n)

    Raises
    ------
    ValueError
        If an eigenvalue is negative or the shapes do not fit together.
    """
    x = _checks.array("spectrum", spectrum, ndim=1)
    if (x < 0).any():
        _checks.fail("spectrum", x, "non-negative")
    w = np.sqrt(x)
    if basis is not None:
        w = _checks.array("basis", basis, shape=(len(x), len(x))) @ w
    return np.outer(w, w)


# --- how it moves --------------------------------------------------------------------------------


def diagonal_flow(eigenvalues, measurements, depth, scale, times, rtol=1e-10):
    r"""Eigenvalues of the product along the flow, for commuting measurements.

    Integrates :math:`\frac{\mathrm d}{\mathrm dt}\ln x_k=-Nx_k^{1-2/N}(a^T(ax-y))_k` with a stiff
    method, so that no eigenvalue loses its sign or its relative accuracy.

    Parameters
    ----------
    eigenvalues : array_like, shape (m, n)
    measurements : array_like, shape (m,)
    depth : int
        Number :math:`N` of factors, at least 2.
    scale : float
        :math:`\alpha`, positive: every factor starts at :math:`\alpha I`.
    times : array_like, shape (T,)
        Increasing, none negative.
    rtol : float
        Error of the logarithms in one step, between 1e-12 and 1e-2.

    Returns
    -------
    ndarray, shape (T, n)

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    from scipy.integrate import solve_ivp

    table, y = _problem(eigenvalues, measurements)
    depth = _checks.integer("depth", depth, at_least=2)
    scale = _checks.real("scale", scale, above=0)
    times = _checks.array("times", times, ndim=1)
    if times[0] < 0 or (np.diff(times) <= 0).any():
        _checks.fail("times", times, "an increasing list of times, none negative")
    rtol = _checks.real("rtol", rtol, at_least=1e-12, at_most=1e-2)
    q = 1 - 2 / depth

    def velocity(_, v):
        return -depth * np.exp(q * v) * (table.T @ (table @ np.exp(v) - y))

    def jacobian(_, v):
        pull = depth * np.exp(q * v)
        residual = table.T @ (table @ np.exp(v) - y)
        return -pull[:, None] * (table.T @ (table * np.exp(v))) - np.diag(q * pull * residual)

    start = np.full(table.shape[1], depth * np.log(scale))
    if times[-1] == 0:
        return np.exp(start)[None]
    run = solve_ivp(
        velocity,
        (0, times[-1]),
        start,
        method="Radau",
        t_eval=times,
        jac=jacobian,
        rtol=rtol,
        atol=rtol,
    )
    return np.exp(run.y.T)


def descent_limit(
    eigenvalues, measurements, depth, scale, step_size, accuracy=1e-10, max_steps=1_000_000
):
    r"""Where gradient descent on the factors ends, for commuting measurements.

    All factors stay equal, with the entries
    :math:`d_k\leftarrow d_k\bigl(1-\eta d_k^{N-2}(a^T(ad^N-y))_k\bigr)`.

    Parameters
    ----------
    eigenvalues : array_like, shape (m, n)
    measurements : array_like, shape (m,)
    depth : int
        Number :math:`N` of factors, at least 2.
    scale : float
        :math:`\alpha`, positive.
    step_size : float
        :math:`\eta`, positive.
    accuracy : float
        Descent ends when no measurement is off by more than this times the largest one.
    max_steps : int
        At least 1.

    Returns
    -------
    spectrum : ndarray, shape (n,)
        The entries :math:`d_k^N` at the end.
    steps : int
        How many steps were taken.

    Raises
    ------
    ValueError
        If an argument is outside its range, or descent diverges or does not arrive within
        `max_steps` steps: the message says which, and names the step.
    """
    table, y = _problem(eigenvalues, measurements)
    depth = _checks.integer("depth", depth, at_least=2)
    scale = _checks.real("scale", scale, above=0)
    step_size = _checks.real("step_size", step_size, above=0)
    accuracy = _checks.real("accuracy", accuracy, above=0)
    max_steps = _checks.integer("max_steps", max_steps, at_least=1)
    d = np.full(table.shape[1], scale)
    allowed = accuracy * np.abs(y).max()
    largest = 1e6 * (1 + np.abs(d).max() + np.abs(y).max())
    for step in range(max_steps + 1):
        residual = table @ d**depth - y
        if np.abs(residual).max() <= allowed:
            return d**depth, step
        d = d - step_size * d ** (depth - 1) * (table.T @ residual)
        if not np.abs(d).max() < largest:
            _checks.fail("step_size", step_size, f"smaller: descent diverges at step {step + 1}")
    _checks.fail("max_steps", max_steps, "larger: descent has not arrived by then")
