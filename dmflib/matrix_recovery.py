r"""Recovering a matrix of low rank from few numbers, at the size of the published experiments.

The unknown :math:`\hat W` is seen through a loss: `Completion` shows some of its entries,
`Sensing` inner products with given matrices. `recover` follows gradient flow on a deep
factorization until the observations are met; `least_nuclear_norm` finds the solution with the
least sum of singular values, with a certificate. `Trial` and `solve` make studies of many cases
(source D, sections 1, 2.2 and appendix E).
"""

from dataclasses import asdict, dataclass, fields
from itertools import product as combinations
from time import process_time

import numpy as np

from dmflib import _checks
from dmflib.flow import gradient_flow
from dmflib.linear_networks import gaussian
from dmflib.losses import Completion, Sensing
from dmflib.matrices import (
    effective_rank_of_spectrum,
    frobenius_norm,
    singular_values,
    spectral_norm,
)
from dmflib.stopping import LossBelow, MaxSteps

CONVEX = 0  # the depth of a trial that minimises the nuclear norm
MEAN_SQUARE = 1e-6  # where the published runs stop
CHECK_EVERY = 10  # iterations between two looks at the duality gap
RELAXATION = 1.6

RANKS = (5, 10)
COUNTS = (1000, 1250, 1500, 2000, 2500, 3000, 4000, 5000)
SEEDS = (0, 1, 2)
#: Depth and scale of the start; the two small scales are those of source D, figure 2.
METHODS = ((CONVEX, 0.0), (2, 1e-3), (2, 5e-4), (2, 2.5e-4), (3, 1e-3), (4, 1e-3))


# --- problems -----------------------------------------------------------------------------------


def random_matrix(n, rank, rng=None):
    r"""A random square matrix of given rank whose entries have mean square one.

    It is :math:`UV^T` with independent standard Gaussian factors of `rank` columns, scaled to
    Frobenius norm `n` (source D, appendix E).

    Parameters
    ----------
    n : int
        Size.
    rank : int
        Between 1 and `n`.
    rng : numpy.random.Generator, int or None
        Source of randomness, or a seed.

    Returns
    -------
    ndarray, shape (n, n)

    Raises
    ------
    ValueError
        If `n` or `rank` is not a positive integer or `rank` exceeds `n`.
    """
    n = _checks.integer("n", n, at_least=1)
    rank = _rank(rank, n)
    rng = _checks.generator("rng", rng)
    W = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, n))
    return W * (n / frobenius_norm(W))


def random_mask(shape, count, rng=None):
    """Places of `count` entries chosen uniformly without repetition.

    The first entries chosen with one seed are the same for every `count`, so that masks of one
    seed are nested.

    Parameters
    ----------
    shape : (int, int)
    count : int
        Between 1 and the number of entries.
    rng : numpy.random.Generator, int or None
        Source of randomness, or a seed.

    Returns
    -------
    ndarray of bool
        Of the given shape.

    Raises
    ------
    ValueError
        If `shape` is not a pair of positive integers or `count` does not fit.
    """
    rows, columns = _shape(shape)
    count = _checks.integer("count", count, at_least=1)
    if count > rows * columns:
        _checks.fail("count", count, f"at most {rows * columns}, the number of entries")
    order = _checks.generator("rng", rng).permutation(rows * columns)
    mask = np.zeros(rows * columns, dtype=bool)
    mask[order[:count]] = True
    return mask.reshape(rows, columns)


def gaussian_sensing(target, count, rng=None):
    r"""Inner products of a matrix with Gaussian matrices, as a loss.

    The entries of the :math:`A_i` are independent with standard deviation
    :math:`1/\sqrt{mn}` (source D, appendix E), so that each measurement has mean square
    :math:`\|\hat W\|_F^2/(mn)`.

    Parameters
    ----------
    target : array_like, shape (m, n)
        The matrix that is measured.
    count : int
        Number of measurements; together they hold ``count * m * n`` numbers.
    rng : numpy.random.Generator, int or None
        Source of randomness, or a seed.

    Returns
    -------
    Sensing

    Raises
    ------
    ValueError
        If `target` is not a finite matrix or `count` is not a positive integer.
    """
    target = _checks.array("target", target, ndim=2)
    count = _checks.integer("count", count, at_least=1)
    operators = _checks.generator("rng", rng).standard_normal((count, *target.shape))
    operators /= np.sqrt(target.size)
    return Sensing(operators, operators.reshape(count, -1) @ target.ravel())


def observations(loss):
    """How many numbers a loss has seen of the unknown matrix.

    Parameters
    ----------
    loss : Completion or Sensing

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If `loss` is something else.
    """
    if isinstance(loss, Completion):
        return int(loss.mask.sum())
    if isinstance(loss, Sensing):
        return len(loss.measurements)
    return _checks.fail("loss", loss, "a Completion or a Sensing")


# --- what can be known --------------------------------------------------------------------------


def degrees_of_freedom(shape, rank):
    """Dimension of the set of matrices of given shape and rank, ``rank * (m + n - rank)``.

    Parameters
    ----------
    shape : (int, int)
    rank : int
        Between 1 and the smaller of both.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If `shape` is not a pair of positive integers or `rank` does not fit.
    """
    rows, columns = _shape(shape)
    rank = _rank(rank, min(rows, columns))
    return rank * (rows + columns - rank)


def thin_lines(mask, rank):
    """How many rows and columns show fewer entries than the rank.

    Each of them can be changed without changing the rank or an observed entry.

    Parameters
    ----------
    mask : array_like of bool, shape (m, n)
        True where an entry is observed.
    rank : int
        At least 1.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If `mask` is not a matrix or `rank` is not a positive integer.
    """
    mask = _checks.array("mask", mask, ndim=2) != 0
    rank = _checks.integer("rank", rank, at_least=1)
    return int((mask.sum(axis=0) < rank).sum() + (mask.sum(axis=1) < rank).sum())


def free_directions(loss, target, rank):
    r"""Dimension of the changes that keep rank and observations of a matrix to first order.

    It is the dimension of the kernel of the measurement map on the tangent space
    :math:`\{U_rA^T+BV_r^T\}` of the matrices of this rank. Eigenvalues of the Gram matrix
    below 1e-12 times the largest count as zero.

    Parameters
    ----------
    loss : Completion or Sensing
    target : array_like, shape (m, n)
        Its truncation to the given rank is looked at.
    rank : int
        Between 1 and the rank of `target`.

    Returns
    -------
    int
        Zero where no matrix of this rank near `target` has the same observations.

    Raises
    ------
    ValueError
        If `loss` is neither Completion nor Sensing, shapes differ, or `rank` does not fit.
    """
    observations(loss)
    target = _checks.array("target", target, shape=loss.shape)
    rank = _rank(rank, min(loss.shape))
    U, sigma, Vt = np.linalg.svd(target)
    if sigma[rank - 1] <= 1e-12 * sigma[0]:
        _checks.fail("rank", rank, "at most the rank of target")
    left, right, rest = U[:, :rank], Vt[:rank].T, U[:, rank:]
    if isinstance(loss, Completion):
        rows, columns = np.nonzero(loss.mask)
        count, places = len(rows), np.arange(len(rows))
        first = np.zeros((count, loss.shape[1], rank))
        first[places, columns] = left[rows]
        second = rest[rows][:, :, None] * right[columns][:, None, :]
    else:
        count = len(loss.operators)
        first = np.swapaxes(loss.operators, 1, 2) @ left
        second = rest.T @ (loss.operators @ right)
    M = np.concatenate([first.reshape(count, -1), second.reshape(count, -1)], axis=1)
    gram = M @ M.T if count < M.shape[1] else M.T @ M
    values = np.linalg.eigvalsh(gram)
    return int(M.shape[1] - (values > 1e-12 * values[-1]).sum())


# --- deep factorizations ------------------------------------------------------------------------


def recover(
    loss,
    depth,
    scale=1e-3,
    rng=None,
    mean_square=MEAN_SQUARE,
    rtol=1e-3,
    atol=None,
    max_steps=100_000,
    record=10**9,
    keep=("products",),
):
    r"""Solution that gradient flow on a deep factorization finds from a small Gaussian start.

    All factors are square, or as wide as the wider side of the matrix. The run ends when the
    mean of the squared errors of the observations has fallen to `mean_square` (source D,
    appendix E, where steps of gradient descent take the place of the flow).

    Parameters
    ----------
    loss : Completion or Sensing
    depth : int
        Number of factors, at least 1.
    scale : float
        The entries of the product start with standard deviation ``scale / sqrt(n)``; see
        `dmflib.linear_networks.gaussian`.
    rng : numpy.random.Generator, int or None
        Source of randomness of the start, or a seed.
    mean_square : float
        Positive.
    rtol, atol : float
        Tolerances of one step, see `dmflib.flow.gradient_flow`. Where `atol` is left out, it is
        `rtol` times the typical size of an entry of the start's factors.
    max_steps : int
        Number of accepted steps at which a run is given up.
    record : None, int or array_like of float
        When the path is recorded; by default at its start and its end alone.
    keep : str or sequence of str
        What is recorded; by default the product.

    Returns
    -------
    Trajectory
        ``products[-1]`` is the solution; ``stopped_by`` is a `LossBelow` where it was reached.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    count = observations(loss)
    depth = _checks.integer("depth", depth, at_least=1)
    scale = _checks.real("scale", scale, above=0)
    mean_square = _checks.real("mean_square", mean_square, above=0)
    rtol = _checks.real("rtol", rtol, at_least=1e-13, below=1)
    rows, columns = loss.shape
    width = max(rows, columns)
    if atol is None:
        atol = rtol * scale ** (1 / depth) / np.sqrt(width)
    start = gaussian([columns, *[width] * (depth - 1), rows], scale, rng)
    stop = LossBelow(count * mean_square / 2) | MaxSteps(max_steps)
    return gradient_flow(loss, start, stop=stop, rtol=rtol, atol=atol, record=record, keep=keep)


# --- least nuclear norm -------------------------------------------------------------------------


def shrink_singular_values(W, threshold):
    r"""Lower every singular value by a threshold, the small ones to zero.

    It is the minimiser of :math:`\tfrac12\|X-W\|_F^2+\gamma\|X\|_*` over all :math:`X`.

    Parameters
    ----------
    W : array_like, shape (m, n)
    threshold : float
        :math:`\gamma`, at least 0.

    Returns
    -------
    ndarray, shape (m, n)

    Raises
    ------
    ValueError
        If `W` is not a finite matrix or `threshold` is negative.
    """
    W = _checks.array("W", W, ndim=2)
    return _shrink(W, _checks.real("threshold", threshold, at_least=0))


def _shrink(W, threshold):
    U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
    keep = sigma > threshold
    return (U[:, keep] * (sigma[keep] - threshold)) @ Vt[keep]


@dataclass(frozen=True, eq=False)
class ConvexSolution:
    r"""A matrix that meets the observations, with a proof of how small its nuclear norm is.

    Parameters
    ----------
    W : ndarray, shape (m, n)
        Meets the observations up to rounding.
    nuclear : float
        Its nuclear norm.
    lower_bound : float
        No matrix that meets the observations has a smaller nuclear norm than this.
    certificate : ndarray, shape (m, n)
        The reason: a combination of measurement matrices of spectral norm 1, so that
        :math:`\|W\|_*\ge\langle Y,W\rangle`, which is the same number for all solutions.
    iterations : int
    """

    W: np.ndarray
    nuclear: float
    lower_bound: float
    certificate: np.ndarray
    iterations: int

    @property
    def gap(self):
        """Relative distance between the nuclear norm and its lower bound."""
        return (self.nuclear - self.lower_bound) / self.nuclear if self.nuclear else 0.0


def least_nuclear_norm(loss, tolerance=1e-4, step=0.2, max_iterations=50_000):
    r"""Solution of least nuclear norm, by Douglas–Rachford splitting, with a certificate.

    The iteration alternates between the affine set of solutions, by a projection :math:`P`, and
    the nuclear norm, by :math:`S_\gamma`, which lowers singular values (`shrink_singular_values`):

    .. math:: X=P(Z),\quad Y=S_\gamma(2X-Z),\quad Z\leftarrow Z+\omega(Y-X)

    It ends when a feasible matrix and a dual certificate enclose the optimum (theorem of weak
    duality: every :math:`Y` in the span of the measurement matrices with
    :math:`\|Y\|_2\le1` gives the lower bound :math:`\langle Y,W\rangle`).

    Parameters
    ----------
    loss : Completion or Sensing
        Sensing operators must be linearly independent.
    tolerance : float
        Relative duality gap that is wanted, between 1e-10 and 1.
    step : float
        :math:`\gamma`, as a multiple of the spectral norm of the least-squares solution.
        Any positive number converges.
    max_iterations : int
        At least 1.

    Returns
    -------
    ConvexSolution

    Raises
    ------
    ValueError
        If an argument is outside its range, operators are linearly dependent, or the iterations
        do not suffice.
    """
    observations(loss)
    tolerance = _checks.real("tolerance", tolerance, at_least=1e-10, below=1)
    step = _checks.real("step", step, above=0)
    max_iterations = _checks.integer("max_iterations", max_iterations, at_least=1)
    project, span = _affine_set(loss)
    Z = project(np.zeros(loss.shape))
    gamma = step * spectral_norm(Z)
    if gamma == 0:  # all observations are zero, and so is the solution
        return ConvexSolution(Z, 0.0, 0.0, np.zeros(loss.shape), 0)
    least, most, W, certificate = -np.inf, np.inf, Z, None
    with np.errstate(under="ignore"):
        for k in range(max_iterations):
            X = project(Z)
            Y = _shrink(2 * X - Z, gamma)
            if k % CHECK_EVERY == 0:
                feasible = project(Y)
                norm = singular_values(feasible).sum()
                if norm < most:
                    most, W = norm, feasible
                D = span(X - Z)
                size = spectral_norm(D)
                bound = np.vdot(D, X) / size if size > 0 else 0.0
                if bound > least:
                    least, certificate = bound, D / size if size > 0 else D
                if most - least <= tolerance * most:
                    return ConvexSolution(W, float(most), float(least), certificate, k + 1)
            Z += RELAXATION * (Y - X)
    return _checks.fail(
        "max_iterations", max_iterations, f"larger: the gap is still {(most - least) / most:.1e}"
    )


def _affine_set(loss):
    """Projection onto the solutions, and onto the span of the measurement matrices."""
    if isinstance(loss, Completion):
        mask, target = loss.mask, loss.target
        return lambda Z: np.where(mask, target, Z), lambda Z: np.where(mask, Z, 0.0)
    rows = loss.operators.reshape(len(loss.operators), -1)
    if len(rows) > rows.shape[1]:
        _checks.fail("loss", loss, "a Sensing with at most as many measurements as entries")
    Q, R = np.linalg.qr(rows.T)
    pivots = np.abs(np.diagonal(R))
    if pivots.min() <= 1e-10 * pivots.max():
        _checks.fail("loss", loss, "a Sensing with linearly independent operators")
    wanted = np.linalg.solve(R.T, loss.measurements)

    def project(Z):
        z = Z.ravel()
        return (z + Q @ (wanted - z @ Q)).reshape(loss.shape)

    return project, lambda Z: (Q @ (Z.ravel() @ Q)).reshape(loss.shape)


# --- studies ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One cell of a study: a problem and a way to solve it.

    Parameters
    ----------
    rank : int
        Of the unknown matrix.
    count : int
        Number of observations.
    seed : int
        Of matrix, observations and start; trials with one seed share what they can.
    depth : int
        Number of factors; 0 is the solution of least nuclear norm.
    scale : float
        Of the start; becomes 0 where `depth` is 0.
    size : int
        Rows and columns of the unknown matrix.
    problem : {"completion", "sensing"}
        Whether entries or Gaussian measurements are observed.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """

    rank: int
    count: int
    seed: int
    depth: int
    scale: float = 1e-3
    size: int = 100
    problem: str = "completion"

    def __post_init__(self):
        _checks.integer("size", self.size, at_least=1)
        _rank(self.rank, self.size)
        _checks.integer("count", self.count, at_least=1)
        _checks.integer("seed", self.seed, at_least=0)
        _checks.integer("depth", self.depth, at_least=0)
        scale = _checks.real("scale", self.scale, above=0) if self.depth else 0.0
        object.__setattr__(self, "scale", scale)
        _checks.choice("problem", self.problem, ("completion", "sensing"))

    def target(self):
        """Return the unknown matrix.

        Returns
        -------
        ndarray, shape (size, size)
        """
        return random_matrix(self.size, self.rank, np.random.default_rng([self.seed, self.rank]))

    def loss(self):
        """Return what is observed of the unknown matrix, as a loss.

        Returns
        -------
        Completion or Sensing
        """
        target, rng = self.target(), np.random.default_rng([self.seed, self.rank, 1])
        if self.problem == "sensing":
            return gaussian_sensing(target, self.count, rng)
        return Completion(target, random_mask(target.shape, self.count, rng))

    def start(self):
        """Return the source of randomness of the start, the same for all scales.

        Returns
        -------
        numpy.random.Generator
        """
        return np.random.default_rng([self.seed, self.depth, 2])


def completion_study(ranks=RANKS, counts=COUNTS, seeds=SEEDS, methods=METHODS, **fixed):
    """List the trials of a study, every combination once.

    Where left out, it is the study of source D, figures 1 and 2, on two ranks, eight numbers of
    entries and three seeds.

    Parameters
    ----------
    ranks, counts, seeds : sequence of int
    methods : sequence of (int, float)
        Depth and scale of the start; depth 0 is the least nuclear norm.
    **fixed
        The remaining arguments of `Trial`.

    Returns
    -------
    list of Trial

    Raises
    ------
    ValueError
        If a value does not fit.
    """
    return [
        Trial(rank, count, seed, depth, scale, **fixed)
        for rank, seed, count, (depth, scale) in combinations(ranks, seeds, counts, methods)
    ]


def solve(trial, rtol=1e-3):
    """Solve one trial and measure its solution.

    Parameters
    ----------
    trial : Trial
    rtol : float
        Tolerance of the flow, see `recover`; the least nuclear norm is exact to a hundredth of
        it.

    Returns
    -------
    dict
        The fields of the trial; ``error``, the relative Frobenius distance to the unknown matrix;
        ``nuclear`` and ``effective_rank`` of the solution; ``lowest``, below which no nuclear
        norm of a solution lies (NaN for a flow); ``work``, gradients or iterations; ``reached``,
        the mean square error of the observations; ``seconds`` of processor time.

    Raises
    ------
    ValueError
        If `trial` is not a Trial or `rtol` is outside its range.
    """
    if not isinstance(trial, Trial):
        _checks.fail("trial", trial, "a Trial")
    rtol = _checks.real("rtol", rtol, at_least=1e-8, below=1)
    loss, target = trial.loss(), trial.target()
    begin = process_time()
    if trial.depth == CONVEX:
        solution = least_nuclear_norm(loss, tolerance=rtol / 100)
        W, lowest, work = solution.W, solution.lower_bound, solution.iterations
    else:
        run = recover(loss, trial.depth, trial.scale, trial.start(), rtol=rtol)
        W, lowest, work = run.products[-1], np.nan, run.evaluations
    seconds = process_time() - begin
    sigma = singular_values(W)
    return asdict(trial) | {
        "error": float(frobenius_norm(W - target) / frobenius_norm(target)),
        "nuclear": float(sigma.sum()),
        "effective_rank": float(effective_rank_of_spectrum(sigma)),
        "lowest": float(lowest),
        "work": int(work),
        "reached": float(2 * loss.value(W) / trial.count),
        "seconds": round(seconds, 3),
    }


def sweep(trials, workers=1):
    """Solve many trials with joblib, on as many processes as wanted or on the active backend.

    Parameters
    ----------
    trials : sequence of Trial
    workers : int or None
        Number of processes; None leaves the choice to the surrounding
        ``joblib.parallel_config``.

    Returns
    -------
    ndarray
        A structured array, one row for each trial in the given order, see `solve`.

    Raises
    ------
    ValueError
        If there is no trial or `workers` is not a positive integer.
    """
    trials = list(trials)
    if not trials:
        _checks.fail("trials", trials, "a non-empty list of Trial")
    if workers is not None:
        workers = _checks.integer("workers", workers, at_least=1)
    from joblib import Parallel, delayed

    return table(Parallel(n_jobs=workers)(delayed(solve)(trial) for trial in trials))


def table(rows):
    """Turn the answers of `solve` into a structured array.

    Parameters
    ----------
    rows : sequence of dict

    Returns
    -------
    ndarray
        Fields by name, one row for each dict.

    Raises
    ------
    ValueError
        If `rows` is empty.
    """
    rows = list(rows)
    if not rows:
        _checks.fail("rows", rows, "a non-empty list of answers of `solve`")
    kinds = {int: "i8", float: "f8", str: "U16"}
    types = [(name, kinds[type(value)]) for name, value in rows[0].items()]
    return np.array([tuple(row.values()) for row in rows], dtype=types)


def read_table(path):
    """Read a study that was stored as text with commas; lines that begin with # are remarks.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    ndarray
        A structured array as `sweep` returns it.
    """
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file if not line.startswith("#")]
    return np.genfromtxt(lines, delimiter=",", names=True, dtype=None, encoding="utf-8")


def pick(rows, row):
    """Find in a table the row of the same trial.

    Parameters
    ----------
    rows : ndarray
        A table of `sweep` or `read_table`.
    row : mapping
        A row of another table, or an answer of `solve`.

    Returns
    -------
    record
        The row of `rows` with the same rank, count, seed, depth, scale, size and problem.

    Raises
    ------
    ValueError
        If there is not exactly one.
    """
    names = [field.name for field in fields(Trial)]
    found = rows[np.all([rows[name] == row[name] for name in names], axis=0)]
    if len(found) != 1:
        _checks.fail("row", row, f"a trial that stands once in rows, not {len(found)} times")
    return found[0]


def over_seeds(rows, value, **fixed):
    """Mean and extremes over the seeds, for each number of observations.

    Parameters
    ----------
    rows : ndarray
        A table of `sweep` or `read_table`.
    value : str
        Name of the field that is averaged.
    **fixed
        Values that other fields must have, for example ``depth=3, rank=5``.

    Returns
    -------
    counts, mean, low, high : ndarray
        Numbers of observations in increasing order; mean, least and largest value.

    Raises
    ------
    ValueError
        If a field is unknown or no row has these values.
    """
    for name in (value, *fixed):
        if name not in (rows.dtype.names or ()):
            _checks.fail("value" if name is value else name, name, "the name of a field of rows")
    chosen = rows[np.all([rows[name] == wanted for name, wanted in fixed.items()], axis=0)]
    if not len(chosen):
        _checks.fail("fixed", fixed, "values that some row has")
    counts = np.unique(chosen["count"])
    groups = [chosen[value][chosen["count"] == count] for count in counts]
    summary = [[g.mean() for g in groups], [g.min() for g in groups], [g.max() for g in groups]]
    return counts, *np.array(summary)


# --- checks -------------------------------------------------------------------------------------


def _rank(rank, size):
    rank = _checks.integer("rank", rank, at_least=1)
    if rank > size:
        _checks.fail("rank", rank, f"at most {size}, the size of the matrix")
    return rank


def _shape(shape):
    try:
        rows, columns = shape
    except (TypeError, ValueError):
        _checks.fail("shape", shape, "a pair of positive integers")
    return tuple(_checks.integer("shape", side, at_least=1) for side in (rows, columns))
