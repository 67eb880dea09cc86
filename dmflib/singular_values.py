r"""The singular values of the product, and their singular vectors, as they move along a flow.

A path of matrices :math:`W(t)` that is analytic in :math:`t` has a singular value decomposition
:math:`W(t)=U(t)\,\mathrm{diag}(\sigma(t))\,V(t)^T` whose parts are analytic too, if one allows
the values to become negative and to change their order. `analytic_svd` follows such branches
along a sampled path.

Along the gradient flow of :math:`N` balanced factors the branches obey equations of their own
(source D, theorem 3 and lemma 2). With :math:`G=\nabla\ell(W)` and :math:`K=U^TGV`,

.. math::

    \dot\sigma_r&=-N|\sigma_r|^{2-2/N}K_{rr},\\
    \dot U&=-U\,\bigl(F\odot(KS+SK^T)\bigr)-(I-UU^T)\,GV\,\mathrm{diag}(h),\\
    \dot V&=-V\,\bigl(F\odot(SK+K^TS)\bigr)-(I-VV^T)\,G^TU\,\mathrm{diag}(h),

where :math:`F_{rs}=1/(|\sigma_s|^{2/N}-|\sigma_r|^{2/N})` off the diagonal and
:math:`h_r=\mathrm{sign}(\sigma_r)|\sigma_r|^{1-2/N}`. `velocities`, `vector_velocities` and
`branch_velocities` evaluate them, `flow` integrates them.
"""

import warnings

import numpy as np

from dmflib import _checks
from dmflib._integration import Run, check_arguments, warn_at_end
from dmflib.linear_networks import check_factors, factor_gradients
from dmflib.losses import check_loss
from dmflib.stopping import Diverged
from dmflib.trajectory import Recorder, Trajectory

__all__ = [
    "BranchWarning",
    "SpectralTrajectory",
    "analytic_svd",
    "arrival_time",
    "branch_velocities",
    "companion",
    "factor_velocities",
    "flow",
    "lag_limit",
    "offset_factors",
    "offset_velocities",
    "random_path",
    "random_problem",
    "rebalanced",
    "sigmoid",
    "vector_velocities",
    "velocities",
]

EPS = np.finfo(float).eps
# Values closer than this, relative to the largest, are treated as one value at that sample: the
# vectors that a decomposition returns for them are wrong by rounding divided by their distance.
SAME = 1e-11
# Cosine of 30 degrees. Two branches can always be joined with turns of at most 45 degrees, in one
# order or in the other; between 30 and 60 degrees the choice is not safe.
STEEPEST_TURN = np.sqrt(0.75)


class BranchWarning(RuntimeWarning):
    """The samples of a path are too far apart to say which singular value continues which."""


# --- following a sampled path --------------------------------------------------------------------


def analytic_svd(matrices):
    r"""Singular value decompositions that continue one another along a path of matrices.

    Values keep their branch where two of them cross or come close, and change their sign where
    one passes through zero. Neighbouring samples are joined by the overlap of their singular
    vectors, so the path must be sampled so finely that no vector turns by more than 30 degrees
    from one sample to the next; a `BranchWarning` says where one does. A near-crossing that lies
    entirely between two samples cannot be told from a crossing by any method.

    Where values coincide at a sample, the vectors in their common subspace are those closest to
    the neighbouring samples.

    Parameters
    ----------
    matrices : array_like, shape (T, m, n)
        The path, in the order of time. Let p = min(m, n).

    Returns
    -------
    U : ndarray, shape (T, m, p)
        Left singular vectors in columns, orthonormal.
    S : ndarray, shape (T, p)
        Signed singular values; at the first sample non-negative and largest first.
    V : ndarray, shape (T, n, p)
        Right singular vectors in columns, orthonormal. Each matrix is
        ``U[k] * S[k] @ V[k].T``, up to 1e-11 times its norm where values coincide.

    Raises
    ------
    ValueError
        If `matrices` is not a finite array with three dimensions.

    Notes
    -----
    Existence for analytic paths: A. Bunse-Gerstner et al., "Numerical computation of an analytic
    singular value decomposition of a matrix valued function", Numer. Math. 60 (1991), theorem 1
    (source D, lemma 1; source C, lemma 3).
    """
    matrices = _checks.array("matrices", matrices, ndim=3)
    samples = [_Sample(*parts) for parts in zip(*np.linalg.svd(matrices), strict=True)]
    count, p = len(samples), min(matrices.shape[1:])
    # At a sample with coinciding values the branches are not visible: begin where they are.
    anchor = max(range(count), key=lambda k: samples[k].separation)
    U = np.empty((count, matrices.shape[1], p))
    V = np.empty((count, matrices.shape[2], p))
    S = np.empty((count, p))
    first = samples[anchor]
    U[anchor], S[anchor], V[anchor] = first.U[:, :p], first.sigma, first.V[:, :p]
    for steps in (range(anchor + 1, count), range(anchor - 1, -1, -1)):
        for k in steps:
            before = k - 1 if k > anchor else k + 1
            samples[k].join(U[before], V[before])
            U[k], S[k], V[k] = samples[k].continued(U[before], V[before])
            _check_turn(min(before, k), U[before] * U[k], V[before] * V[k])
    for k in range(1, count - 1):
        if samples[k].coinciding:
            # The mean of both neighbours is closer by one order of the distance of samples.
            U[k], S[k], V[k] = samples[k].continued(
                U[k - 1] + U[k + 1], V[k - 1] + V[k + 1], U[k], V[k]
            )
    signs = np.where(S[0] < 0, -1.0, 1.0)
    S, V = S * signs, V * signs
    order = np.lexsort((-S[anchor], -S[0]))
    return U[:, :, order], S[:, order], V[:, :, order]


def _check_turn(k, left, right):
    """Warn if a vector turns too far between the samples k and k + 1."""
    cosine = min(left.sum(axis=0).min(), right.sum(axis=0).min())
    if cosine < STEEPEST_TURN:
        degrees = np.degrees(np.arccos(max(cosine, -1.0)))
        warnings.warn(
            f"analytic_svd: a singular vector turns by {degrees:.0f} degrees between the samples "
            f"{k} and {k + 1}; which value continues which is a guess there. Sample the path more "
            f"finely",
            BranchWarning,
            stacklevel=3,
        )


class _Sample:
    """One matrix of a path, decomposed into the subspaces that belong to different values.

    Attributes
    ----------
    U, sigma, V : ndarray, shapes (m, m), (p,), (n, n)
        Full singular value decomposition, the values sorted.
    groups : list of ndarray
        Indices of values that coincide; those that are zero form the last group, if any.
    separation : (int, float)
        Number of groups and smallest relative distance of neighbouring values.
    coinciding : list of (ndarray, ndarray, bool)
        After `join`: group, its branches, whether the group is that of zero; only where the
        vectors are not determined by the matrix.
    """

    def __init__(self, U, sigma, Vt):
        self.U, self.sigma, self.V = U, sigma, Vt.T
        p = len(sigma)
        same = SAME * sigma[0]
        # The distance to zero counts as one more gap.
        gaps = -np.diff(sigma, append=0.0)
        ends = [i + 1 for i in range(p - 1) if gaps[i] > same]
        self.groups = np.split(np.arange(p), ends)
        self._vanishes = gaps[-1] <= same
        smallest = gaps[: p - (len(U) == len(Vt))].min(initial=np.inf)
        self.separation = (len(self.groups), smallest / (sigma[0] or 1.0))
        self._columns = np.arange(p)
        self.coinciding = []

    def join(self, U, V):
        """Decide which branch of a neighbouring sample continues at which position."""
        from scipy.optimize import linear_sum_assignment

        p = len(self.sigma)
        left, right = U.T @ self.U[:, :p], V.T @ self.V[:, :p]
        overlap = np.abs(left * right)
        unclear = [(group, null) for group, null in self._kinds() if len(group) > 1 or null]
        for group, null in unclear:
            A, B = self._coordinates(group, null, U, V)
            joint = np.linalg.norm(A, axis=0) * np.linalg.norm(B, axis=0)
            overlap[:, group] = joint[:, None]
        _, columns = linear_sum_assignment(overlap, maximize=True)
        self._columns = columns
        self._signs = [np.where(x[np.arange(p), columns] < 0, -1.0, 1.0) for x in (left, right)]
        self.coinciding = [
            (group, np.flatnonzero(np.isin(columns, group)), null) for group, null in unclear
        ]

    def continued(self, U, V, like_U=None, like_V=None):
        """Decomposition of this matrix whose vectors are close to U and V.

        `like_U` and `like_V` fix the signs of vectors that are determined up to their sign; they
        are U and V where left out.
        """
        if like_U is None:
            left, right = self._signs
            new_U, new_V = self.U[:, self._columns] * left, self.V[:, self._columns] * right
            sigma = self.sigma[self._columns] * left * right
        else:
            new_U, new_V = like_U.copy(), like_V.copy()
            p = len(self.sigma)
            inner = self.U[:, :p].T @ like_U, self.V[:, :p].T @ like_V
            sigma = np.einsum("ir,i,ir->r", inner[0], self.sigma, inner[1])
        for group, branches, null in self.coinciding:
            A, B = self._coordinates(group, null, U[:, branches], V[:, branches])
            if null:
                A, B = _polar(A), _polar(B)
            else:
                signs = np.where((A * B).sum(axis=0) < 0, -1.0, 1.0)
                A = _polar(A + B * signs)
                B = A * signs
            left, right = self._subspaces(group, null)
            new_U[:, branches], new_V[:, branches] = left @ A, right @ B
            k = len(group)
            sigma[branches] = np.einsum("ir,i,ir->r", A[:k], self.sigma[group], B[:k])
        return new_U, sigma, new_V

    def _kinds(self):
        """Each group, and whether it is that of the value zero."""
        last = len(self.groups) - 1
        return [(group, self._vanishes and i == last) for i, group in enumerate(self.groups)]

    def _subspaces(self, group, null):
        """Left and right singular vectors of a group; for zero, the whole null spaces."""
        stop = None if null else group[-1] + 1
        return self.U[:, group[0] : stop], self.V[:, group[0] : stop]

    def _coordinates(self, group, null, U, V):
        left, right = self._subspaces(group, null)
        return left.T @ U, right.T @ V


def _polar(A):
    """Nearest matrix with orthonormal columns."""
    U, _, Vt = np.linalg.svd(A, full_matrices=False)
    return U @ Vt


# --- velocities ----------------------------------------------------------------------------------


def velocities(W, gradient, depth):
    r"""How fast each singular value of a product of balanced factors moves under gradient flow.

    .. math:: \dot\sigma_r=-N(\sigma_r^2)^{1-1/N}\,\langle\nabla\ell(W),\,u_rv_r^T\rangle

    (source D, theorem 3 and equation 7; source C, lemma 4 and equation 16). Where values
    coincide, the pairs :math:`u_r,v_r` are those to which the branches tend for later times, so
    the answer is the derivative to the right of the sorted singular values for every `W`.

    Parameters
    ----------
    W : array_like, shape (..., m, n)
        The product, or a stack of products.
    gradient : array_like, of the shape of W
        Gradient of the loss at `W`.
    depth : int
        Number :math:`N` of factors, at least 1.

    Returns
    -------
    ndarray, shape (..., min(m, n))
        For the values in the order of ``numpy.linalg.svd``, largest first.

    Raises
    ------
    ValueError
        If `W` or `gradient` is not a finite matrix or stack, their shapes differ, or `depth` is
        not a positive integer.
    """
    W = _checks.matrices("W", W)
    gradient = _checks.array("gradient", gradient, shape=W.shape)
    depth = _checks.integer("depth", depth, at_least=1)
    result = np.empty((*W.shape[:-2], min(W.shape[-2:])))
    for index in np.ndindex(W.shape[:-2]):
        result[index] = _sorted_velocities(W[index], gradient[index], depth)
    return result


def _sorted_velocities(W, gradient, depth):
    """Right derivatives of the sorted singular values of one matrix."""
    sample = _Sample(*np.linalg.svd(W))
    result = np.empty(len(sample.sigma))
    for group, null in sample._kinds():
        left, right = sample._subspaces(group, null)
        inner = left.T @ gradient @ right
        if null:
            rates = np.zeros(len(group))
            if depth == 1:
                rates = np.linalg.svd(inner, compute_uv=False)[: len(group)]
        else:
            # First-order perturbation theory of equal values: the symmetric part decides.
            rates = -np.linalg.eigvalsh(inner + inner.T) / 2
            rates = depth * sample.sigma[group] ** (2 - 2 / depth) * rates
        result[group] = rates
    return result


def vector_velocities(W, gradient, depth):
    r"""How fast the singular vectors of a product of balanced factors turn under gradient flow.

    See `branch_velocities` for the equations (source D, lemma 2, equations 8 and 9).

    Parameters
    ----------
    W : array_like, shape (m, n)
        The product. Its singular values must be distinct; unless it is square, none may be zero.
        Let p = min(m, n).
    gradient : array_like, shape (m, n)
        Gradient of the loss at `W`.
    depth : int
        Number :math:`N` of factors, at least 1.

    Returns
    -------
    U_dot : ndarray, shape (m, p)
    V_dot : ndarray, shape (n, p)
        Derivatives of the columns of ``U`` and the rows of ``Vt`` in
        ``U, sigma, Vt = numpy.linalg.svd(W, full_matrices=False)``.

    Raises
    ------
    ValueError
        If `W` or `gradient` is not a finite matrix, their shapes differ, the singular values are
        not distinct (or not positive, if `W` is not square), or `depth` is not a positive integer.
    """
    W = _checks.array("W", W, ndim=2)
    gradient = _checks.array("gradient", gradient, shape=W.shape)
    depth = _checks.integer("depth", depth, at_least=1)
    U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
    _check_distinct("W", sigma, W.shape)
    U_dot, _, V_dot = _branch_velocities(U, sigma, Vt.T, gradient, depth)
    return U_dot, V_dot


def branch_velocities(U, sigma, V, gradient, depth):
    r"""Velocities of a whole decomposition, with values of either sign in any order.

    With :math:`K=U^T\nabla\ell\,V` and :math:`S=\mathrm{diag}(\sigma)`,

    .. math::

        \dot U&=-U\,\bigl(F\odot(KS+SK^T)\bigr)-(I-UU^T)\,\nabla\ell\,V\,\mathrm{diag}(h),\\
        \dot V&=-V\,\bigl(F\odot(SK+K^TS)\bigr)-(I-VV^T)\,\nabla\ell^T\,U\,\mathrm{diag}(h),

    where :math:`F_{rs}=1/(|\sigma_s|^{2/N}-|\sigma_r|^{2/N})` off the diagonal,
    :math:`h_r=\mathrm{sign}(\sigma_r)|\sigma_r|^{1-2/N}`, and :math:`\dot\sigma_r` is that of
    `velocities` (source D, theorem 3 and lemma 2, with the sign of :math:`\sigma_r` in
    :math:`h_r` added).

    Parameters
    ----------
    U : array_like, shape (m, p)
        Left singular vectors in columns, p = min(m, n).
    sigma : array_like, shape (p,)
        Singular values, distinct up to their sign; unless m = n, none may be zero.
    V : array_like, shape (n, p)
        Right singular vectors in columns.
    gradient : array_like, shape (m, n)
        Gradient of the loss at ``U * sigma @ V.T``.
    depth : int
        Number :math:`N` of factors, at least 1.

    Returns
    -------
    U_dot : ndarray, shape (m, p)
    sigma_dot : ndarray, shape (p,)
    V_dot : ndarray, shape (n, p)

    Raises
    ------
    ValueError
        If shapes do not fit together, U or V has no orthonormal columns, two values coincide up
        to their sign (or one is zero and m differs from n), or `depth` is not a positive integer.
    """
    gradient = _checks.array("gradient", gradient, ndim=2)
    m, n = gradient.shape
    p = min(m, n)
    U = _orthonormal("U", _checks.array("U", U, shape=(m, p)))
    V = _orthonormal("V", _checks.array("V", V, shape=(n, p)))
    sigma = _checks.array("sigma", sigma, shape=(p,))
    depth = _checks.integer("depth", depth, at_least=1)
    _check_distinct("sigma", sigma, (m, n))
    return _branch_velocities(U, sigma, V, gradient, depth)


def _orthonormal(name, A):
    if np.abs(A.T @ A - np.eye(A.shape[1])).max() > 1e-6:
        _checks.fail(name, A, "a matrix with orthonormal columns")
    return A


def _check_distinct(name, sigma, shape):
    """Refuse values for which the vector equations are not defined."""
    sizes = np.sort(np.abs(sigma))
    rounding = len(sizes) * EPS * sizes[-1]
    if shape[0] != shape[1] and sizes[0] <= rounding:
        _checks.fail(name, sigma, "of full rank unless it is square")
    if (np.diff(sizes) <= rounding).any():
        _checks.fail(name, sigma, "without singular values of equal size")


def _branch_velocities(U, sigma, V, gradient, depth):
    """Equations of the docstring above; rotations with a numerator below rounding are zero."""
    K, turn_U, turn_V, out_U, out_V = _motion(U, sigma, V, gradient, depth)
    rates = -depth * np.abs(sigma) ** (2 - 2 / depth) * np.diagonal(K)
    with np.errstate(divide="ignore"):
        h = np.where(sigma == 0, 0.0, np.sign(sigma) * np.abs(sigma) ** (1 - 2 / depth))
    return U @ turn_U - h * out_U, rates, V @ turn_V - h * out_V


def _motion(U, sigma, V, gradient, depth):
    """K, the skew rotations within both bases, and the parts of the gradient outside them."""
    right, left = gradient @ V, gradient.T @ U
    K = U.T @ right
    size = np.abs(sigma)
    root = size ** (2 / depth)
    difference = root - root[:, None]
    # A crossing in a basis that does not turn is passed: there the numerator is rounding only.
    noise = 1e-13 * np.abs(K).max() * (size + size[:, None])
    turns = []
    for numerator in (K * sigma + sigma[:, None] * K.T, sigma[:, None] * K + K.T * sigma):
        moving = np.abs(numerator) > noise
        np.fill_diagonal(moving, False)
        turns.append(-np.divide(numerator, difference, out=np.zeros_like(K), where=moving))
    # A square basis has no outside; the difference would be its rounding, divided by a value.
    out_U = right - U @ K if len(U) > len(sigma) else np.zeros_like(U)
    out_V = left - V @ K.T if len(V) > len(sigma) else np.zeros_like(V)
    return K, *turns, out_U, out_V


# --- the flow of values and vectors --------------------------------------------------------------


class SpectralTrajectory(Trajectory):
    """A recorded path of `flow`: a `Trajectory` that also has the decomposition.

    Parameters
    ----------
    times, losses : ndarray, shape (T,)
        As in `dmflib.trajectory.Trajectory`.
    U, S, V : ndarray, shapes (T, m, p), (T, p), (T, n, p)
        Recorded singular vectors and signed values.
    stopped_by : object
        What ended the run.
    evaluations : int
        How many times the velocities were computed.
    """

    def __init__(self, times, losses, U, S, V, stopped_by, evaluations):
        self.U, self.S, self.V = U, S, V
        products = (U * S[:, None, :]) @ V.transpose(0, 2, 1)
        super().__init__(times, losses, {"products": products}, stopped_by, None, evaluations)


def flow(
    loss,
    W0,
    depth,
    t_final=None,
    stop=None,
    method="RK45",
    rtol=1e-8,
    atol=1e-10,
    record=None,
    progress=False,
):
    r"""Gradient flow of a product of balanced factors, by the motion of its singular values.

    Integrates the equations of `branch_velocities` for :math:`U`, :math:`\sigma` and :math:`V`
    themselves, without ever decomposing a matrix after the start; the products are multiplied
    back afterwards. From depth 2 on the values are held by their logarithms, so that no value
    reaches zero or changes its sign, however small it becomes.

    The path is that of ``product_flow(loss, W0, depth)``. Values that cross in a basis that does
    not turn are followed. Where two meet while their vectors turn, the equations are singular;
    with small tolerances the run may end there, and an `InvariantWarning` says so.

    Parameters
    ----------
    loss : loss
        Any object with ``shape``, ``value(W)`` and ``gradient(W)``; see `dmflib.losses`.
    W0 : array_like, shape (m, n)
        The start. Its singular values must be distinct and positive.
    depth : int
        Number :math:`N` of factors, at least 1.
    t_final : float, optional
        Time at which the flow ends, positive.
    stop : StoppingRule, optional
        As in `dmflib.flow.gradient_flow`; one of `t_final` and `stop` must be given.
    method : str
        As in `dmflib.flow.gradient_flow`. ``"DOP853"`` needs fewer evaluations, but what it
        records between its long steps is less exact than the steps themselves.
    rtol, atol : float
        Tolerances of one step for the entries of the singular vectors and, from depth 2 on, the
        logarithms of the values.
    record : None, int or array_like of float
        As in `dmflib.flow.gradient_flow`.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    SpectralTrajectory

    Raises
    ------
    ValueError
        If `W0` does not have the loss's shape, two of its singular values coincide or one is
        zero, or another argument is outside its range.
    """
    W0 = _checks.array("W0", W0, ndim=2)
    check_loss(loss, W0.shape)
    depth = _checks.integer("depth", depth, at_least=1)
    arguments = check_arguments(t_final, stop, method, rtol, atol, record)
    U, sigma, Vt = np.linalg.svd(W0, full_matrices=False)
    if sigma[-1] <= max(W0.shape) * EPS * sigma[0]:
        _checks.fail("W0", W0, "of full rank, with singular values that are distinct")
    _check_distinct("W0", sigma, W0.shape)
    system = _SpectralFlow(loss, W0.shape, depth)
    recorder = Recorder("factors")
    watch = _Watch(arguments[3], arguments[4])
    run = Run(system, system.pack(U, sigma, Vt.T), recorder, watch, *arguments)
    run.go(progress)
    if isinstance(run.ended, Diverged):
        watch.note_meeting(run.t, system.unpack(run.y)[1])
    warn_at_end("flow of singular values", run)
    raw = recorder.trajectory(run.ended, None, system.evaluations)
    return SpectralTrajectory(raw.times, raw.losses, *raw.factors, raw.stopped_by, raw.evaluations)


class _SpectralFlow:
    """Right-hand side for `dmflib.flow`: U, log of the values (the values at depth 1) and V."""

    name = "W0"

    def __init__(self, loss, shape, depth):
        self._loss, self._shape, self._depth = loss, shape, depth
        m, n = shape
        p = min(m, n)
        self._cuts = np.cumsum([m * p, p])
        self._shapes = (m, p), (n, p)
        self.workspace = self
        self.partial = [None]
        self.evaluations = 0
        self.at = self.value = None

    def pack(self, U, sigma, V):
        """All in one vector."""
        values = sigma if self._depth == 1 else np.log(sigma)
        return np.concatenate([U.ravel(), values, V.ravel()])

    def unpack(self, y):
        """U, the signed values and V."""
        U, values, V = np.split(y, self._cuts)
        sigma = values if self._depth == 1 else np.exp(values)
        return U.reshape(self._shapes[0]), sigma, V.reshape(self._shapes[1])

    def __call__(self, y, out):
        """Write the velocity into `out`, or NaN where the loss overflows."""
        self.at = None
        self.evaluations += 1
        U, sigma, V = self.unpack(y)
        W = U * sigma @ V.T
        self.value = self._loss.value(W) if np.abs(W).max() < 1e150 else np.inf
        if not np.isfinite(self.value):
            out.fill(np.nan)
            return
        N = self._depth
        K, turn_U, turn_V, out_U, out_V = _motion(U, sigma, V, self._loss.gradient(W), N)
        size = np.abs(sigma)
        h = np.sign(sigma) * size ** (1 - 2 / N)
        rates = -np.diagonal(K) if N == 1 else -N * h * np.diagonal(K)
        with np.errstate(over="ignore", invalid="ignore"):
            out[...] = np.concatenate(
                [(U @ turn_U - h * out_U).ravel(), rates, (V @ turn_V - h * out_V).ravel()]
            )
        # The squared norm of all factor gradients, as a sum of squares.
        powers = np.arange(N)
        weights = (size[:, None] ** (2 * powers[::-1] / N)) @ (size ** (2 * powers[:, None] / N))
        outside = size ** (1 - 1 / N)
        self.flat_gradient = np.concatenate(
            [(np.sqrt(weights) * K).ravel(), (outside * out_U).ravel(), (outside * out_V).ravel()]
        )
        self.partial[-1] = W
        self.at = y

    def stand_at(self, y):
        """Make value, product and gradient those of `y`."""
        if self.at is not y:
            self(y, np.empty_like(y))

    def matrices(self, y):
        """Loss, product and decomposition at `y`."""
        U, sigma, V = self.unpack(y)
        W = U * sigma @ V.T
        return self._loss.value(W), W, [U, sigma, V]


class _Watch:
    """Checks that the computed vectors stay orthonormal, as the exact ones do."""

    cheap = True

    def __init__(self, rtol, atol):
        self._step_error = rtol + atol
        self.lost = {}

    def check(self, step, time, W, parts):
        """Look at a state that was reached after so many accepted steps."""
        if "vectors" in self.lost:
            return
        defect = max(np.linalg.norm(A.T @ A - np.eye(A.shape[1])) for A in (parts[0], parts[2]))
        allowed = 10 * np.sqrt(parts[0].size + parts[2].size) * self._step_error * (step + 1)
        if defect > allowed + 1e-10:
            self.lost["vectors"] = (
                f"the singular vectors have lost their orthonormality by {defect:.1e} at time "
                f"{time:.4g}. What was computed from about this time on is not the flow. Use a "
                f"smaller rtol, or product_flow"
            )

    def note_meeting(self, time, sigma):
        """Say what the integrator stumbled over, if it was a pair of equal values."""
        sizes = np.sort(np.abs(sigma))
        if (np.diff(sizes) < 1e-4 * sizes[1:]).any() or sizes[0] < 1e-4 * sizes[-1]:
            self.lost["meeting"] = (
                f"two singular values meet, or one passes through zero, at time {time:.6g} while "
                f"their vectors turn; the equations are singular there. Use product_flow and "
                f"analytic_svd"
            )


# --- races whose vectors do not turn -------------------------------------------------------------


def companion(value, start, other_start, ratio, depth):
    r"""One singular value as a function of another, for a single measurement.

    While the singular vectors stand still, :math:`\dot\sigma_r=-N|\sigma_r|^{2-2/N}\delta\,a_r`
    with one factor :math:`\delta(t)` for all r. With :math:`\rho=a_1/a_2`,

    .. math::

        \sigma_1=\begin{cases}
        \rho(\sigma_2-\sigma_2(0))+\sigma_1(0),&N=1,\\
        \sigma_1(0)\,(\sigma_2/\sigma_2(0))^{\rho},&N=2,\\
        \bigl(\sigma_1(0)^{-q}+\rho(\sigma_2^{-q}-\sigma_2(0)^{-q})\bigr)^{-1/q},\quad
        q=1-2/N,&N\ge3
        \end{cases}

    (source D, equations 10 and 11).

    Parameters
    ----------
    value : array_like
        The second value :math:`\sigma_2`, positive from depth 2 on.
    start : float
        :math:`\sigma_1(0)`, positive from depth 2 on.
    other_start : float
        :math:`\sigma_2(0)`, positive from depth 2 on.
    ratio : float
        :math:`\rho`.
    depth : int
        Number :math:`N` of factors, at least 1.

    Returns
    -------
    ndarray, of the shape of value, or float
        The first value. Infinity where it has run away before the second one is at `value`.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    depth = _checks.integer("depth", depth, at_least=1)
    ratio = _checks.real("ratio", ratio)
    bound = {} if depth == 1 else {"above": 0}
    start = _checks.real("start", start, **bound)
    other_start = _checks.real("other_start", other_start, **bound)
    value = _checks.array("value", value)
    if depth > 1 and (value <= 0).any():
        _checks.fail("value", value, "positive from depth 2 on")
    if depth == 1:
        return (start + ratio * (value - other_start))[()]
    if depth == 2:
        return (start * (value / other_start) ** ratio)[()]
    q = 1 - 2 / depth
    inverse = start**-q + ratio * (value**-q - other_start**-q)
    with np.errstate(divide="ignore"):
        return (np.maximum(inverse, 0.0) ** (-1 / q))[()]


def lag_limit(ratio, depth):
    r"""How far the slower of two values gets, relative to a common small start.

    :math:`(1-\rho)^{-N/(N-2)}` for :math:`N\ge3` and infinity below: with the start
    :math:`\varepsilon\to0`, the value with the weaker drive, :math:`0<\rho<1` times the
    stronger one, is still at this multiple of :math:`\varepsilon` when the other has arrived.

    Parameters
    ----------
    ratio : float
        :math:`\rho`, the quotient of the two drives, between 0 and 1.
    depth : int
        Number :math:`N` of factors, at least 1.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If `ratio` is not between 0 and 1 or `depth` is not a positive integer.
    """
    ratio = _checks.real("ratio", ratio, above=0, below=1)
    depth = _checks.integer("depth", depth, at_least=1)
    return (1 - ratio) ** (-depth / (depth - 2)) if depth > 2 else np.inf


def sigmoid(t, target, start):
    r"""A singular value that is fitted alone at depth 2, in closed form (Saxe et al. 2014).

    The solution of :math:`\dot\sigma=2\sigma(s-\sigma)`,

    .. math:: \sigma(t)=\frac{s}{1+(s/\sigma(0)-1)\,e^{-2st}} .

    Parameters
    ----------
    t : array_like
        Times, at least 0.
    target : float
        :math:`s`, positive.
    start : float
        :math:`\sigma(0)`, positive.

    Returns
    -------
    ndarray, of the shape of t, or float

    Raises
    ------
    ValueError
        If a number is outside its range.
    """
    t = _checks.array("t", t)
    if (t < 0).any():
        _checks.fail("t", t, "finite and >= 0")
    target = _checks.real("target", target, above=0)
    start = _checks.real("start", start, above=0)
    return (target / (1 + (target / start - 1) * np.exp(-2 * target * t)))[()]


def arrival_time(value, target, depth, start):
    r"""Time after which a singular value that is fitted alone has moved from start to value.

    .. math:: t=\int_{\sigma(0)}^{\sigma}\frac{\mathrm ds}{N s^{2-2/N}(\hat\sigma-s)}

    for the flow :math:`\dot\sigma=N\sigma^{2-2/N}(\hat\sigma-\sigma)`: the loss
    :math:`\tfrac12\|W-\hat W\|_F^2`, if start and target share their singular vectors.

    Parameters
    ----------
    value : array_like
        Values between `start` and `target`, not equal to the target.
    target : float
        :math:`\hat\sigma`, positive.
    depth : int
        Number :math:`N` of factors, at least 1.
    start : float
        :math:`\sigma(0)`, positive and different from `target`.

    Returns
    -------
    ndarray, of the shape of value, or float

    Raises
    ------
    ValueError
        If a number is outside its range.
    """
    from scipy.integrate import quad

    target = _checks.real("target", target, above=0)
    depth = _checks.integer("depth", depth, at_least=1)
    start = _checks.real("start", start, above=0)
    if start == target:
        _checks.fail("start", start, f"different from target={target:g}")
    value = _checks.array("value", value)
    low, high = (start, target) if start < target else (target, start)
    if (value < low).any() or (value > high).any() or (value == target).any():
        _checks.fail("value", value, f"between start={start:g} and target={target:g}, not there")
    x = value / target
    x0 = start / target
    # 1/(s^a (1-s)) = 1/s^a + ... + 1/(1-s): what is singular is integrated by hand.
    power = 2 - 2 / depth
    total = np.log(np.abs((1 - x0) / (1 - x)))
    total = total + np.log(x / x0) if depth > 1 else total
    if depth > 2:
        total = total + (x0 ** (1 - power) - x ** (1 - power)) / (power - 1)
        total = total - np.log(x / x0)

        def rest(s):  # s^-a/(1-s) - s^-a - 1/(1-s), smooth at 1
            return (s ** (1 - power) - 1) / (1 - s) if s != 1 else power - 1

        integrals = [quad(rest, x0, one, epsabs=1e-13, epsrel=1e-13)[0] for one in x.ravel()]
        total = total + np.reshape(integrals, x.shape)
    return (total / (depth * target**power))[()]


# --- starts that are not balanced ----------------------------------------------------------------


def factor_velocities(factors, gradient):
    r"""How fast the singular values of any product move while its factors follow gradient flow.

    With :math:`\dot W=\sum_jW_N\cdots W_{j+1}\dot W_jW_{j-1}\cdots W_1` and
    :math:`\dot W_j=-\nabla_{W_j}\ell` it is :math:`\dot\sigma_r=u_r^T\dot Wv_r`, balanced or
    not; `velocities` is what this becomes for balanced factors.

    Parameters
    ----------
    factors : sequence of array_like
        ``W_1, ..., W_N``; ``W_i`` has shape ``(d_i, d_{i-1})``. The singular values of their
        product must be distinct.
    gradient : array_like, shape (d_N, d_0)
        Gradient of the loss at the product.

    Returns
    -------
    ndarray, shape (min(d_N, d_0),)
        For the values in the order of ``numpy.linalg.svd``, largest first.

    Raises
    ------
    ValueError
        If the factors do not fit together, two singular values of the product coincide, or
        `gradient` has another shape than the product.
    """
    factors = check_factors(factors)
    moves = factor_gradients(factors, gradient)
    # Product rule from the right: W_j ... W_1 and its derivative, one factor at a time.
    W, W_dot = factors[0], -moves[0]
    for factor, move in zip(factors[1:], moves[1:], strict=True):
        W, W_dot = factor @ W, factor @ W_dot - move @ W
    U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
    _check_distinct("factors", sigma, (1, 1))
    return np.einsum("ir,ij,rj->r", U, W_dot, Vt)


def offset_factors(W0, offset):
    r"""Two square factors of a given product with :math:`W_2^TW_2-W_1W_1^T=\kappa I`.

    Parameters
    ----------
    W0 : array_like, shape (n, n)
    offset : float
        :math:`\kappa`; 0 gives balanced factors.

    Returns
    -------
    list of ndarray
        ``[W_1, W_2]``, both of shape (n, n).

    Raises
    ------
    ValueError
        If `W0` is not a square finite matrix or `offset` is not a finite number.
    """
    W0 = _checks.array("W0", W0, ndim=2)
    if W0.shape[0] != W0.shape[1]:
        _checks.fail("W0", W0, "square")
    offset = _checks.real("offset", offset)
    U, sigma, Vt = np.linalg.svd(W0)
    larger = np.hypot(sigma, offset / 2) + abs(offset) / 2
    # The two squares have the product sigma**2: dividing keeps the digits of the smaller one.
    smaller = np.divide(sigma**2, larger, out=np.zeros_like(sigma), where=larger > 0)
    first, second = (smaller, larger) if offset >= 0 else (larger, smaller)
    return [np.sqrt(first)[:, None] * Vt, U * np.sqrt(second)]


def offset_velocities(W, gradient, offset):
    r"""How fast singular values move at depth 2 if the factors differ by a multiple of I.

    .. math:: \dot\sigma_r=-\sqrt{4\sigma_r^2+\kappa^2}\;\langle\nabla\ell(W),u_rv_r^T\rangle
              \qquad\text{where}\quad W_2^TW_2-W_1W_1^T=\kappa I

    for square factors. At :math:`\kappa=0` this is `velocities` at depth 2; for
    :math:`\kappa\gg\sigma_r` it is :math:`|\kappa|` times that at depth 1.

    Parameters
    ----------
    W : array_like, shape (n, n)
        The product, with distinct singular values.
    gradient : array_like, shape (n, n)
        Gradient of the loss at `W`.
    offset : float
        :math:`\kappa`.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    ValueError
        If `W` or `gradient` is not a square finite matrix, two singular values coincide, or
        `offset` is not a finite number.
    """
    W = _checks.array("W", W, ndim=2)
    if W.shape[0] != W.shape[1]:
        _checks.fail("W", W, "square")
    gradient = _checks.array("gradient", gradient, shape=W.shape)
    offset = _checks.real("offset", offset)
    U, sigma, Vt = np.linalg.svd(W)
    _check_distinct("W", sigma, W.shape)
    drive = np.einsum("ir,ij,rj->r", U, gradient, Vt)
    return -np.sqrt(4 * sigma**2 + offset**2) * drive


def rebalanced(factors, size, rng=None):
    """Factors with the same product, thrown out of balance at random.

    Between neighbours stands ``C inv(C)`` with ``C = expm(size * R)``, where R is symmetric with
    Gaussian entries and Frobenius norm 1.

    Parameters
    ----------
    factors : sequence of array_like
        ``W_1, ..., W_N``; ``W_i`` has shape ``(d_i, d_{i-1})``.
    size : float
        At least 0; 0 changes nothing.
    rng : numpy.random.Generator, int or None
        Source of randomness, or a seed.

    Returns
    -------
    list of ndarray

    Raises
    ------
    ValueError
        If the factors do not fit together or `size` is negative.
    """
    factors = [W.copy() for W in check_factors(factors)]
    size = _checks.real("size", size, at_least=0)
    rng = _checks.generator("rng", rng)
    for i in range(len(factors) - 1):
        R = rng.standard_normal((len(factors[i]),) * 2)
        values, vectors = np.linalg.eigh(R + R.T)
        values *= size / np.linalg.norm(values)
        factors[i] = vectors * np.exp(values) @ vectors.T @ factors[i]
        factors[i + 1] = factors[i + 1] @ (vectors * np.exp(-values)) @ vectors.T
    return factors


def random_problem(seed):
    """A small random instance, to test a statement on.

    Parameters
    ----------
    seed : int or numpy.random.Generator

    Returns
    -------
    W : ndarray, shape (m, n)
        With 1 to 5 rows and columns; singular values between 0.3 and 2.2, at least 0.1 apart.
    gradient : ndarray, shape (m, n)
    depth : int
        From 1 to 5.

    Raises
    ------
    ValueError
        If `seed` is neither a non-negative integer nor a Generator.
    """
    rng = _checks.generator("seed", seed)
    m, n = (int(k) for k in rng.integers(1, 6, 2))
    p = min(m, n)
    sigma = 0.3 + 0.3 * np.arange(p) + rng.uniform(0, 0.2, p)
    U = np.linalg.qr(rng.standard_normal((m, m)))[0][:, :p]
    V = np.linalg.qr(rng.standard_normal((n, n)))[0][:, :p]
    return U * sigma @ V.T, rng.standard_normal((m, n)), int(rng.integers(1, 6))


def random_path(seed, samples=401):
    """A smooth path of matrices whose branches are known, to test `analytic_svd` on.

    The singular vectors rotate at constant speed; the values are random sums of a constant and a
    cosine, so that they cross one another and zero.

    Parameters
    ----------
    seed : int or numpy.random.Generator
    samples : int
        Number T of matrices, at least 2.

    Returns
    -------
    matrices : ndarray, shape (T, m, n)
        With 1 to 5 rows and columns.
    branches : ndarray, shape (T, min(m, n))
        The signed singular values.

    Raises
    ------
    ValueError
        If `seed` is neither a non-negative integer nor a Generator, or `samples` is below 2.
    """
    from scipy.linalg import expm

    rng = _checks.generator("seed", seed)
    samples = _checks.integer("samples", samples, at_least=2)
    t = np.linspace(0, 1, samples)
    m, n = (int(k) for k in rng.integers(1, 6, 2))
    p = min(m, n)
    bases = []
    for size in (m, n):
        basis = np.linalg.qr(rng.standard_normal((size, size)))[0][:, :p]
        turn = rng.standard_normal((size, size))
        turn = (turn - turn.T) / max(np.linalg.norm(turn - turn.T, 2), 1.0)
        bases.append(np.stack([expm(time * turn) @ basis for time in t]))
    shift, height = rng.uniform(-1, 1, p), rng.uniform(1, 2, p)
    branches = shift + height * np.cos(rng.uniform(1, 4, p) * t[:, None] + rng.uniform(0, 6, p))
    U, V = bases
    return (U * branches[:, None]) @ V.transpose(0, 2, 1), branches
