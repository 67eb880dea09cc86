r"""How many measurements a flow needs to find a sparse vector.

A vector :math:`x\in\mathbb R^n` with :math:`s` nonzeros is measured by :math:`y=Ax` with
:math:`m<n` Gaussian rows. The product parameterisation :math:`x=u^{\odot N}-v^{\odot N}`, started
at :math:`u=v=\alpha\mathbf 1`, leads gradient flow on :math:`\frac12\|Ax-y\|_2^2` close to the
solution of least :math:`\ell_1`-norm. This module holds what that implies: when the least
:math:`\ell_1`-norm is the truth (null space constants, the statistical dimension), how fast the
flow's limit approaches it, what noise, discrete steps and single samples change, and what a small
scale costs.

The flow itself is followed in its dual coordinates :math:`\xi(t)=\int_0^t(y-Ax)\,\mathrm dt`, of
which there are only :math:`m`: :math:`x=\alpha^Nh(A^{\mathsf T}\xi)` with an increasing function
:math:`h`, so no factor can lose its sign.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from dmflib import _checks, bregman

# --- signals and measurements -------------------------------------------------------------------


def gaussian_measurements(m, n, rng=None):
    """Random matrix whose entries are independent normal variables of variance 1/m.

    Parameters
    ----------
    m, n : int
        Rows and columns, at least 1.
    rng : numpy.random.Generator, int or None

    Returns
    -------
    ndarray, shape (m, n)
        Its columns have length 1 on average.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    m, n = _checks.integer("m", m, at_least=1), _checks.integer("n", n, at_least=1)
    return _checks.generator("rng", rng).standard_normal((m, n)) / np.sqrt(m)


def sparse_signal(n, sparsity, *, nonnegative=False, rng=None):
    """Random vector with the given number of nonzeros, each of absolute value from 1/2 to 3/2.

    Parameters
    ----------
    n : int
        Length, at least 1.
    sparsity : int
        Number of nonzeros, from 0 to `n`.
    nonnegative : bool
        Whether all nonzeros are positive; otherwise the signs are random.
    rng : numpy.random.Generator, int or None

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    n, sparsity = _sizes(n, sparsity)
    nonnegative = _flag("nonnegative", nonnegative)
    rng = _checks.generator("rng", rng)
    x = np.zeros(n)
    support = rng.permutation(n)[:sparsity]
    signs = 1.0 if nonnegative else rng.choice([-1.0, 1.0], sparsity)
    x[support] = signs * rng.uniform(0.5, 1.5, sparsity)
    return x


def tail(x, sparsity):
    r"""Distance in :math:`\ell_1` to the nearest vector with at most the given number of nonzeros.

    Parameters
    ----------
    x : array_like, shape (n,)
    sparsity : int
        From 0 to n.

    Returns
    -------
    float
        The sum of all but the `sparsity` largest absolute values, :math:`\sigma_s(x)_1` in the
        literature.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    x = _checks.array("x", x, ndim=1)
    _, sparsity = _sizes(len(x), sparsity)
    return float(np.sort(np.abs(x))[: len(x) - sparsity].sum())


# --- what a matrix must have --------------------------------------------------------------------


def null_space_constant(A, sparsity):
    r"""Exact null space constant of a small matrix, by one linear program for each sign pattern.

    The least :math:`\rho` with :math:`\|v_S\|_1\le\rho\|v_{S^c}\|_1` for all
    :math:`v\in\ker A` and all sets :math:`S` of `sparsity` indices. Every vector with
    `sparsity` nonzeros is the unique solution of least :math:`\ell_1`-norm exactly if it is
    below 1.

    Parameters
    ----------
    A : array_like, shape (m, n)
    sparsity : int
        From 0 to n.

    Returns
    -------
    float
        Infinite if a nonzero vector of the null space lives on `sparsity` indices.

    Raises
    ------
    ValueError
        If the sizes do not fit, or more than 20 000 programs would be needed.
    """
    from math import comb

    from scipy.optimize import linprog

    A = _checks.array("A", A, ndim=2)
    n = A.shape[1]
    _, sparsity = _sizes(n, sparsity)
    if sparsity == 0 or np.linalg.matrix_rank(A) == n:
        return 0.0
    programs = comb(n, sparsity) * 2 ** (sparsity - 1)
    if programs > 20_000:
        _checks.fail(
            "sparsity", sparsity, f"such that at most 20000 programs arise, not {programs}"
        )
    worst = 0.0
    for S in itertools.combinations(range(n), sparsity):
        rest = np.setdiff1d(np.arange(n), S)
        if np.linalg.matrix_rank(A[:, S]) < sparsity:
            return np.inf
        # v on S is free; outside, v = p - q with p, q >= 0 and the sum of p + q at most 1
        equal = np.hstack([A[:, S], A[:, rest], -A[:, rest]])
        budget = np.r_[np.zeros(sparsity), np.ones(2 * len(rest))][None]
        bounds = [(None, None)] * sparsity + [(0, None)] * (2 * len(rest))
        for signs in itertools.product([1.0, -1.0], repeat=sparsity - 1):  # v and -v are alike
            cost = np.r_[-1.0, np.negative(signs), np.zeros(2 * len(rest))]
            found = linprog(cost, budget, [1.0], equal, np.zeros(len(A)), bounds, method="highs")
            if found.status != 0:
                raise ArithmeticError(f"the linear program failed: {found.message}")
            worst = max(worst, -found.fun)
    return float(worst)


def restricted_isometry_constant(A, sparsity):
    r"""Exact restricted isometry constant of a small matrix, by trying all supports.

    The least :math:`\delta` with
    :math:`(1-\delta)\|x\|_2^2\le\|Ax\|_2^2\le(1+\delta)\|x\|_2^2` for all :math:`x` with at most
    `sparsity` nonzeros.

    Parameters
    ----------
    A : array_like, shape (m, n)
    sparsity : int
        From 1 to n.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the sizes do not fit, or there are more than 200 000 supports.
    """
    from math import comb

    A = _checks.array("A", A, ndim=2)
    n, sparsity = _sizes(A.shape[1], sparsity, least=1)
    if comb(n, sparsity) > 200_000:
        allowed = f"such that there are at most 200000 supports, not {comb(n, sparsity)}"
        _checks.fail("sparsity", sparsity, allowed)
    gram, worst = A.T @ A, 0.0
    supports = itertools.combinations(range(n), sparsity)
    while chunk := list(itertools.islice(supports, 4096)):
        S = np.array(chunk)
        spectra = np.linalg.eigvalsh(gram[S[:, :, None], S[:, None, :]])
        worst = max(worst, np.abs(spectra - 1).max())
    return float(worst)


def isometry_measurements(n, sparsity, delta, failure):
    r"""Number of Gaussian rows for which the chapter proves a restricted isometry constant.

    The least :math:`m` with
    :math:`2(9en/s)^s\exp(-m(\delta^2/16-\delta^3/48))\le\eta`.

    Parameters
    ----------
    n, sparsity : int
        Length and number of nonzeros, 1 <= sparsity <= n.
    delta : float
        The constant, strictly between 0 and 1.
    failure : float
        The probability :math:`\eta` of failure that is allowed, strictly between 0 and 1.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    n, sparsity = _sizes(n, sparsity, least=1)
    delta = _checks.real("delta", delta, above=0, below=1)
    failure = _checks.real("failure", failure, above=0, below=1)
    entropy = sparsity * np.log(9 * np.e * n / sparsity) + np.log(2 / failure)
    return int(np.ceil(entropy / (delta**2 / 16 - delta**3 / 48)))


# --- the phase transition -----------------------------------------------------------------------


def excess_moment(threshold):
    r"""Mean square by which a standard normal variable exceeds a threshold in absolute value.

    :math:`\mathbb E(|g|-\tau)_+^2=2\bigl((1+\tau^2)\Phi(-\tau)-\tau\varphi(\tau)\bigr)`, with the
    distribution function :math:`\Phi` and the density :math:`\varphi`.

    Parameters
    ----------
    threshold : array_like
        The numbers :math:`\tau`, not negative.

    Returns
    -------
    ndarray or float

    Raises
    ------
    ValueError
        If a value is negative or not finite.
    """
    tau = _checks.array("threshold", threshold)
    if (tau < 0).any():
        _checks.fail("threshold", tau, "not negative")
    density, mills = _normal(tau)
    return (2 * density * ((1 + tau**2) * mills - tau))[()]


def statistical_dimension(n, sparsity, *, nonnegative=False):
    r"""Number of Gaussian measurements at which a sparse vector begins to be the least in l1.

    .. math:: \min_{\tau\ge0}\;s(1+\tau^2)+(n-s)\,\mathbb E(|g|-\tau)_+^2 ,

    where :math:`|g|` becomes :math:`g` if only vectors without negative entries are admitted. It
    exceeds the statistical dimension of the cone of descent directions by at most
    :math:`2\sqrt{n/s}` (Amelunxen, Lotz, McCoy and Tropp 2014, proposition 4.5 and theorem 4.3).

    Parameters
    ----------
    n : int
        Length.
    sparsity : array_like of int
        Numbers of nonzeros, from 0 to `n`.
    nonnegative : bool

    Returns
    -------
    ndarray or float

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    n = _checks.integer("n", n, at_least=1)
    s = _checks.array("sparsity", sparsity)
    if (s != np.floor(s)).any() or (s < 0).any() or (s > n).any():
        _checks.fail("sparsity", s, f"whole numbers from 0 to n={n}")
    sides = 1 if _flag("nonnegative", nonnegative) else 2
    # The derivative in tau has the sign of s tau - (n - s) sides (density - tau * tail).
    low, high = np.zeros(s.shape), np.full(s.shape, 40.0)
    for _ in range(60):
        tau = (low + high) / 2
        density, mills = _normal(tau)
        rising = s * tau > (n - s) * sides * density * (1 - tau * mills)
        low, high = np.where(rising, low, tau), np.where(rising, tau, high)
    density, mills = _normal(low)
    outside = (n - s) * sides * density * ((1 + low**2) * mills - low)
    return np.where(s == 0, 0.0, s * (1 + low**2) + outside)[()]


def weak_threshold(undersampling, *, nonnegative=False):
    r"""Largest ratio of nonzeros to measurements that l1 minimisation recovers, for large sizes.

    With a parameter :math:`z>0`, the curve of Donoho and Tanner is

    .. math:: \frac mn=\frac{\kappa\varphi(z)}{z+\kappa(\varphi(z)-z\Phi(-z))},\qquad
              \frac sm=1-\frac{z\Phi(-z)}{\varphi(z)}

    with :math:`\kappa=2`, or :math:`\kappa=1` without negative entries (Donoho, Maleki and
    Montanari 2009).

    Parameters
    ----------
    undersampling : array_like
        Ratios m/n, strictly between 0 and 1.
    nonnegative : bool

    Returns
    -------
    ndarray or float
        Ratios s/m.

    Raises
    ------
    ValueError
        If a ratio is outside its range.
    """
    ratio = _checks.array("undersampling", undersampling)
    if (ratio <= 0).any() or (ratio >= 1).any():
        _checks.fail("undersampling", ratio, "strictly between 0 and 1")
    sides = 1 if _flag("nonnegative", nonnegative) else 2
    low, high = np.zeros(ratio.shape), np.full(ratio.shape, 40.0)
    for _ in range(60):
        z = (low + high) / 2
        density, mills = _normal(z)
        enough = sides * density / (z + sides * density * (1 - z * mills)) > ratio
        low, high = np.where(enough, z, low), np.where(enough, high, z)
    return (1 - low * _normal(low)[1])[()]


def _normal(tau):
    """Density of the normal distribution and Mills' ratio, the tail divided by the density."""
    from scipy.special import erfcx

    return np.exp(-(tau**2) / 2) / np.sqrt(2 * np.pi), np.sqrt(np.pi / 2) * erfcx(tau / np.sqrt(2))


def success_rates(
    recover, n, cells, *, trials, nonnegative=False, tolerance=0.01, rng=None, n_jobs=None
):
    """How often a method finds a random sparse vector, for several sizes.

    In each trial all cells share one Gaussian matrix, of which they take the first rows, and one
    order of the support. So neighbouring cells differ by their sizes and not by luck.

    Parameters
    ----------
    recover : callable
        ``recover(A, y)`` returns an estimate of shape (n,). A method that raises ArithmeticError
        has failed in that trial.
    n : int
        Length of the vectors.
    cells : sequence of (int, int)
        Pairs of a number of measurements and a number of nonzeros, both from 1 to `n`.
    trials : int
        Number of random instances for each cell.
    nonnegative : bool
        Whether the vectors have no negative entries.
    tolerance : float
        Success means an error of at most this fraction of the vector's Euclidean norm.
    rng : numpy.random.Generator, int or None
    n_jobs : int, optional
        Passed on to `joblib.Parallel`; one process where neither this nor
        `joblib.parallel_config` says otherwise. Results do not depend on it.

    Returns
    -------
    ndarray, shape (len(cells),)
        Fractions of successes.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    from joblib import Parallel, delayed

    if not callable(recover):
        _checks.fail("recover", recover, "a function recover(A, y)")
    n = _checks.integer("n", n, at_least=1)
    pairs = _checks.array("cells", cells, shape=(None, 2))
    if (pairs != np.floor(pairs)).any() or pairs.min() < 1 or pairs.max() > n:
        _checks.fail("cells", pairs, f"pairs of whole numbers from 1 to n={n}")
    trials = _checks.integer("trials", trials, at_least=1)
    nonnegative = _flag("nonnegative", nonnegative)
    tolerance = _checks.real("tolerance", tolerance, above=0)
    seeds = _checks.generator("rng", rng).spawn(trials)
    pairs = pairs.astype(int)
    jobs = (delayed(_trial)(recover, n, pairs, nonnegative, tolerance, seed) for seed in seeds)
    return np.mean(Parallel(n_jobs=n_jobs)(jobs), axis=0)


def _trial(recover, n, pairs, nonnegative, tolerance, rng):
    """One matrix and one full vector, cut to the size of each cell."""
    rows = rng.standard_normal((pairs[:, 0].max(), n))
    order, full = rng.permutation(n), sparse_signal(n, n, nonnegative=nonnegative, rng=rng)
    hits = []
    for m, s in pairs:
        A, x = rows[:m] / np.sqrt(m), np.zeros(n)
        x[order[:s]] = full[order[:s]]
        try:
            found = recover(A, A @ x)
        except ArithmeticError:
            hits.append(False)
            continue
        hits.append(np.linalg.norm(found - x) <= tolerance * np.linalg.norm(x))
    return hits


# --- how fast the error falls with the scale ----------------------------------------------------


def dual_certificate(A, x):
    r"""Vector that certifies a least l1-norm, with the least correlations outside the support.

    A solution :math:`\nu` of :math:`A_S^{\mathsf T}\nu=\operatorname{sign}(x_S)` for which
    :math:`c=\max_{i\notin S}|\langle a_i,\nu\rangle|` is least, where :math:`S` is the support
    of `x` and :math:`a_i` are the columns. If :math:`c<1` and the columns in :math:`S` are
    independent, `x` is the unique solution of least :math:`\ell_1`-norm.

    Parameters
    ----------
    A : array_like, shape (m, n)
    x : array_like, shape (n,)

    Returns
    -------
    certificate : ndarray, shape (m,)
        Not finite if there is no such vector.
    margin : float
        The number :math:`c`; infinite if there is no such vector.

    Raises
    ------
    ValueError
        If the shapes do not fit together, or `x` has no zero or is zero.
    """
    from scipy.optimize import linprog

    A, x, on = _sparse_problem(A, x)
    off = A[:, ~on].T
    ones = np.ones((len(off), 1))
    found = linprog(
        np.r_[np.zeros(len(A)), 1.0],
        np.vstack([np.hstack([off, -ones]), np.hstack([-off, -ones])]),
        np.zeros(2 * len(off)),
        np.hstack([A[:, on].T, np.zeros((on.sum(), 1))]),
        np.sign(x[on]),
        [(None, None)] * len(A) + [(0, None)],
        method="highs",
    )
    if found.status == 2:  # infeasible
        return np.full(len(A), np.inf), np.inf
    if found.status != 0:
        raise ArithmeticError(f"the linear program failed: {found.message}")
    return found.x[:-1], float(found.fun)


def rate_bound(A, x, depth, scale, certificate):
    r"""Proved bound on the distance in l1 of the flow's limit to the sparse vector.

    Let :math:`A_S^{\mathsf T}\nu=\operatorname{sign}(x_S)` on the support :math:`S` of `x`,
    :math:`c=\max_{i\notin S}|\langle a_i,\nu\rangle|<1` and
    :math:`K=\|A_S^+A_{S^c}\|_{1\to1}`. The distance is at most :math:`(1+K)(n-s)` times

    .. math:: 2\alpha^N\Bigl(h(\tfrac{1+c}2)+\tfrac{2c}{1-c}h(c)\Bigr)
              \quad\text{if }N\ge3\text{ and }4K\kappa\le1-c,

    .. math:: 4\alpha^2\Bigl(\sinh(\Lambda c+2T)+\tfrac{\Lambda c}{2T}\sinh(\Lambda c)\Bigr)
              \quad\text{if }N=2,

    with :math:`h(z)=(1-z)^{-N/(N-2)}-(1+z)^{-N/(N-2)}`,
    :math:`\kappa=(\alpha^N/\min_S|x_i|)^{1-2/N}`; :math:`\Lambda` is the mean of the largest and
    the least of :math:`\operatorname{arcsinh}(|x_i|/2\alpha^2)` on :math:`S`, and
    :math:`T=1+RK` with half their difference :math:`R`.

    Parameters
    ----------
    A : array_like, shape (m, n)
    x : array_like, shape (n,)
        The sparse vector.
    depth : int
        The number :math:`N`, at least 2.
    scale : float
        The start :math:`\alpha` of each factor, positive.
    certificate : array_like, shape (m,)
        The vector :math:`\nu`.

    Returns
    -------
    float
        Infinite where a condition fails.

    Raises
    ------
    ValueError
        If the shapes do not fit together, a number is outside its range, or `certificate` does
        not give the signs of `x`.
    """
    A, x, on = _sparse_problem(A, x)
    depth = _checks.integer("depth", depth, at_least=2)
    scale = _checks.real("scale", scale, above=0)
    nu = _checks.array("certificate", certificate, shape=(len(A),))
    correlations, size = nu @ A, np.abs(x[on])
    if np.abs(correlations[on] - np.sign(x[on])).max() > 1e-8:
        _checks.fail("certificate", nu, "such that A_S^T certificate = sign(x_S)")
    c = np.abs(correlations[~on]).max()
    if np.linalg.matrix_rank(A[:, on]) < on.sum() or c >= 1:
        return np.inf
    K = np.abs(np.linalg.pinv(A[:, on]) @ A[:, ~on]).sum(axis=0).max()
    with np.errstate(over="ignore"):
        if depth == 2:
            low, high = np.arcsinh(np.array([size.min(), size.max()]) / scale / scale / 2)
            mean, T = (low + high) / 2, 1 + (high - low) / 2 * K
            entry = 2 * np.sinh(mean * c + 2 * T) + mean * c / T * np.sinh(mean * c)
        elif 4 * K * (scale**depth / size.min()) ** (1 - 2 / depth) > 1 - c:
            return np.inf
        else:
            entry = _link((1 + c) / 2, depth) + 2 * c / (1 - c) * _link(c, depth)
        return float(2 * (1 + K) * (~on).sum() * scale**depth * entry)


def _sparse_problem(A, x):
    """A matrix and a vector with zeros and nonzeros, and where the nonzeros are."""
    A, x = _checks.array("A", A, ndim=2), _checks.array("x", x, ndim=1)
    on = x != 0
    if len(x) != A.shape[1] or not on.any() or on.all():
        _checks.fail("x", x, f"a vector of length {A.shape[1]} with zero and nonzero entries")
    return A, x, on


def _link(z, depth):
    """The function h with x = scale**depth * h(A.T @ nu) on the flow."""
    if depth == 2:
        return 2 * np.sinh(z)
    power = -depth / (depth - 2)
    return (1 - z) ** power - (1 + z) ** power


# --- noise --------------------------------------------------------------------------------------


def lasso_path(A, y, min_penalty=0.0):
    r"""All solutions of the Lasso, which is piecewise linear in its penalty, by homotopy.

    Minimisers of :math:`\frac12\|Ax-y\|_2^2+\lambda\|x\|_1` from the least :math:`\lambda` with
    the solution zero downwards. Between two neighbouring penalties the solution is the straight
    line between the two rows (Osborne, Presnell and Turlach 2000).

    Parameters
    ----------
    A : array_like, shape (m, n)
        Columns in general position, as random ones are.
    y : array_like, shape (m,)
    min_penalty : float
        Where to end, not negative.

    Returns
    -------
    penalties : ndarray, shape (k,)
        Falling.
    solutions : ndarray, shape (k, n)

    Raises
    ------
    ValueError
        If the shapes do not fit together, a number is outside its range, or active columns become
        dependent.
    """
    A, y = _problem(A, y)
    end = _checks.real("min_penalty", min_penalty, at_least=0)
    correlation = A.T @ y
    penalty = np.abs(correlation).max()
    x, active = np.zeros(A.shape[1]), []
    penalties, solutions = [penalty], [x]
    if penalty <= end:
        return np.array(penalties), np.array(solutions)
    entering = int(np.abs(correlation).argmax())
    while True:
        if entering >= 0:
            active.append(entering)
        columns, signs = A[:, active], np.sign(correlation[active])
        gram = columns.T @ columns
        if np.linalg.cond(gram) > 1e13:
            _checks.fail("A", A, "a matrix whose columns are in general position")
        direction = np.linalg.solve(gram, signs)  # of x, for a penalty that falls at unit speed
        change = A.T @ (columns @ direction)
        step, entering, leaving = (penalty - end) * (1 - 1e-12), -1, -1
        resting = np.setdiff1d(np.arange(A.shape[1]), active)
        # With as many active columns as rows all correlations end together, at the penalty zero.
        for side in (1.0, -1.0) if len(active) < len(A) else ():
            slope = 1 - side * change[resting]
            gap = penalty - side * correlation[resting]
            with np.errstate(divide="ignore", invalid="ignore"):
                steps = np.where(slope > 1e-14, np.maximum(gap, 0) / slope, np.inf)
            if len(steps) and steps.min() < step:
                step, entering = steps.min(), int(resting[steps.argmin()])
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = -x[active] / direction
        steps[~(steps > 0)] = np.inf
        if steps.min() < step:
            step, entering, leaving = steps.min(), -1, int(steps.argmin())
        x = x.copy()
        x[active] += step * direction
        correlation = correlation - step * change
        penalty = penalty - step if entering >= 0 or leaving >= 0 else end
        if leaving >= 0:
            x[active.pop(leaving)] = 0.0
        penalties.append(penalty)
        solutions.append(x)
        if entering < 0 and leaving < 0:
            return np.array(penalties), np.array(solutions)


def lasso_solution(path, penalty):
    """Solution of the Lasso at given penalties, by interpolation on its exact path.

    Parameters
    ----------
    path : (ndarray, ndarray)
        What `lasso_path` returned.
    penalty : array_like
        Not below the last penalty of the path; above the first the solution is zero.

    Returns
    -------
    ndarray, shape penalty.shape + (n,)

    Raises
    ------
    ValueError
        If a penalty is below the end of the path.
    """
    penalties, solutions = path
    penalty = _checks.array("penalty", penalty)
    if (penalty < penalties[-1]).any():
        _checks.fail("penalty", penalty, f"at least {penalties[-1]:g}, where the path ends")
    rising = penalties[::-1]
    return np.stack([np.interp(penalty, rising, column[::-1]) for column in solutions.T], axis=-1)


@dataclass(frozen=True)
class DualPath:
    """The flow at given times, in primal and dual coordinates.

    Parameters
    ----------
    times : ndarray, shape (k,)
    x : ndarray, shape (k, n)
        The product at these times.
    means : ndarray, shape (k, n)
        Its average from time 0 on.
    dual : ndarray, shape (k, m)
        The integral of the residual y - A x.
    """

    times: np.ndarray
    x: np.ndarray
    means: np.ndarray
    dual: np.ndarray


def dual_flow(A, y, depth, scale, times, *, rtol=1e-8):
    r"""Flow of the signed product and its average over time, integrated in m dual coordinates.

    Every factor follows its own gradient of :math:`\frac12\|Ax-y\|_2^2`, from
    :math:`u=v=\alpha\mathbf 1`. Then :math:`x=u^{\odot N}-v^{\odot N}` is
    :math:`\alpha^Nh(c_NA^{\mathsf T}\xi)` with :math:`\dot\xi=y-Ax`, where :math:`c_2=2` and
    :math:`c_N=(N-2)\alpha^{N-2}`. The data need not be consistent.

    Parameters
    ----------
    A : array_like, shape (m, n)
    y : array_like, shape (m,)
    depth : int
        At least 2.
    scale : float
        The number :math:`\alpha`, positive.
    times : array_like, shape (k,)
        Positive and increasing.
    rtol : float
        Relative tolerance of the integration, between 1e-12 and 1e-3.

    Returns
    -------
    DualPath

    Raises
    ------
    ValueError
        If the shapes do not fit together or a number is outside its range.
    """
    from scipy.integrate import solve_ivp

    A, y = _problem(A, y)
    depth = _checks.integer("depth", depth, at_least=2)
    scale = _checks.real("scale", scale, above=0)
    times = _checks.array("times", times, ndim=1)
    if times[0] <= 0 or (np.diff(times) <= 0).any():
        _checks.fail("times", times, "positive and increasing")
    rtol = _checks.real("rtol", rtol, at_least=1e-12, at_most=1e-3)
    m, n = A.shape
    speed = 2.0 if depth == 2 else (depth - 2) * scale ** (depth - 2)

    def product(xi):
        return scale**depth * _link(speed * (xi @ A), depth)

    def velocity(_, state):
        x = product(state[:m])
        return np.concatenate([y - A @ x, x])

    # A trial step beyond the pole of h, or an overflow, gives an error that refuses the step.
    with np.errstate(all="ignore"):
        path = solve_ivp(
            velocity, (0, times[-1]), np.zeros(m + n), "DOP853", times,
            rtol=rtol, atol=rtol * 1e-2 * np.r_[np.full(m, 1 / speed), np.full(n, 1.0)],
        )  # fmt: skip
    if not path.success or not np.isfinite(path.y).all():
        raise ArithmeticError(f"the flow was lost after {path.t[-1]:g}: {path.message}")
    xi = path.y[:m].T
    return DualPath(times, product(xi), path.y[m:].T / times[:, None], xi)


# --- steps --------------------------------------------------------------------------------------


def max_step_size(A, x, depth):
    r"""Largest step size at which a solution is linearly stable under full gradient descent.

    At a solution with :math:`u^{\odot N}=x_+`, :math:`v^{\odot N}=x_-` the largest eigenvalue of
    the Hessian of the loss in all factors is
    :math:`\lambda=N\|A\operatorname{diag}(|x|^{1-1/N})\|_2^2`; the limit is :math:`2/\lambda`.

    Parameters
    ----------
    A : array_like, shape (m, n)
    x : array_like, shape (n,)
    depth : int
        At least 2.

    Returns
    -------
    float
        Infinite for the zero vector.

    Raises
    ------
    ValueError
        If the shapes do not fit together or the depth is below 2.
    """
    A, x = _checks.array("A", A, ndim=2), _checks.array("x", x, ndim=1)
    if len(x) != A.shape[1]:
        _checks.fail("x", x, f"a vector of length {A.shape[1]}")
    depth = _checks.integer("depth", depth, at_least=2)
    top = np.linalg.norm(A * np.abs(x) ** (1 - 1 / depth), 2)
    return float(2 / (depth * top**2)) if top > 0 else np.inf


@dataclass(frozen=True)
class Walk:
    """Where gradient descent on the factors ended, full or stochastic.

    Parameters
    ----------
    x : ndarray, shape (n,)
        The product u**N - v**N.
    u, v : ndarray, shape (n,)
        The factors.
    steps : int
        Number of steps made.
    residual : float
        Largest absolute entry of A x - y.
    left_at : int or None
        The step that would have left the theory (see `descent`), if any.
    starts : ndarray, shape (2, n)
        The factors u and v from which the flow would pass through the end of the walk.
    """

    x: np.ndarray
    u: np.ndarray
    v: np.ndarray
    steps: int
    residual: float
    left_at: int | None
    starts: np.ndarray


def descent(A, y, depth, scale, step_size, steps, *, batch=None, tolerance=1e-9, rng=None):
    r"""Gradient descent on the two vectors of factors, with all samples or with some at a time.

    Every factor follows its own gradient: one step multiplies :math:`u` by
    :math:`1-\eta u^{N-2}g` and :math:`v` by :math:`1+\eta v^{N-2}g`, where
    :math:`g=\frac mb\sum_{i\in B}a_i(\langle a_i,x\rangle-y_i)` is an unbiased estimate of the
    gradient :math:`A^{\mathsf T}(Ax-y)` from `batch` rows.

    Parameters
    ----------
    A : array_like, shape (m, n)
    y : array_like, shape (m,)
    depth : int
        At least 2.
    scale : float
        Start of all entries of both vectors, positive.
    step_size : float
        The number :math:`\eta`, positive.
    steps : int
        At most so many steps.
    batch : int, optional
        Number of rows drawn for a step, without repetition; all where left out.
    tolerance : float
        Ends when no entry of :math:`Ax-y` exceeds it, which is looked at every 20 steps.
    rng : numpy.random.Generator, int or None
        Draws the batches.

    Returns
    -------
    Walk
        It ends early, with `left_at`, where a step would make a factor vanish, change its sign
        (from depth 3 on; at depth 2 the product does not see signs and the vectors are kept
        positive), or grow more than a millionfold.

    Raises
    ------
    ValueError
        If the shapes do not fit together or a number is outside its range.
    """
    A, y = _problem(A, y)
    depth = _checks.integer("depth", depth, at_least=2)
    scale = _checks.real("scale", scale, above=0)
    eta = _checks.real("step_size", step_size, above=0)
    steps = _checks.integer("steps", steps, at_least=0)
    tolerance = _checks.real("tolerance", tolerance, at_least=0)
    m, n = A.shape
    batch = m if batch is None else _checks.integer("batch", batch, at_least=1)
    if batch > m:
        _checks.fail("batch", batch, f"at most the number of rows, {m}")
    rng = _checks.generator("rng", rng)
    u, v, bend = np.full(n, scale), np.full(n, scale), np.zeros((2, n))
    step, left_at, full = 0, None, batch == m
    rows, answers = A, y
    while True:
        x = u**depth - v**depth
        if step % 20 == 0 or full:
            residual = float(np.abs(A @ x - y).max())
            if residual <= tolerance:
                break
        if step >= steps or left_at is not None:
            break
        if not full:
            chosen = [rng.integers(m)] if batch == 1 else rng.choice(m, batch, replace=False)
            rows, answers = A[chosen], y[chosen]
        move = eta * m / batch * ((rows @ x - answers) @ rows)
        grow_u, grow_v = -move * u ** (depth - 2), move * v ** (depth - 2)
        ends = (1 + grow_u, 1 + grow_v)
        # x is even in the factors at depth 2, so a sign does no harm there; elsewhere it does.
        smallest, largest = min(e.min() for e in ends), max(e.max() for e in ends)
        if depth == 2:
            smallest = min(np.abs(e).min() for e in ends)
        if not (smallest > 0 and largest < 1e6):
            left_at = step + 1
            continue
        # What a step changes in the dual variable beyond a multiple of the rows moves the start.
        for part, factor, grow in zip(bend, (u, v), (grow_u, grow_v), strict=True):
            if depth == 2:
                part += np.log(np.abs(1 + grow)) - grow
            else:
                convex = (1 + grow) ** (2 - depth) - 1 + (depth - 2) * grow
                part += factor ** (2 - depth) * convex
        u, v = u * np.abs(ends[0]), v * np.abs(ends[1])
        step += 1
    residual = float(np.abs(A @ x - y).max())
    if depth == 2:
        starts = scale * np.exp(bend)
    else:
        starts = (scale ** (2 - depth) + bend) ** (1 / (2 - depth))
    return Walk(x, u, v, step, residual, left_at, starts)


def effective_scale(A, x, depth, bounds):
    r"""Scale from which the flow's limit is nearest to a given solution.

    Parameters
    ----------
    A : array_like, shape (m, n)
    x : array_like, shape (n,)
        A solution, by whatever method.
    depth : int
        At least 2.
    bounds : (float, float)
        Least and largest scale that are tried, positive.

    Returns
    -------
    scale : float
    distance : float
        Euclidean distance of the flow's limit to `x`, relative to the norm of `x`.

    Raises
    ------
    ValueError
        If the shapes do not fit together or a number is outside its range.
    """
    from scipy.optimize import minimize_scalar

    A, x = _checks.array("A", A, ndim=2), _checks.array("x", x, ndim=1)
    if len(x) != A.shape[1] or not x.any():
        _checks.fail("x", x, f"a nonzero vector of length {A.shape[1]}")
    depth = _checks.integer("depth", depth, at_least=2)
    bounds = _checks.array("bounds", bounds, shape=(2,))
    if not 0 < bounds[0] < bounds[1]:
        _checks.fail("bounds", bounds, "two positive numbers in increasing order")

    def distance(log_scale):
        limit = bregman.minimizer(A, A @ x, np.exp(depth * log_scale), depth, signed=True)
        return np.linalg.norm(limit - x) / np.linalg.norm(x)

    found = minimize_scalar(distance, bounds=np.log(bounds), options={"xatol": 1e-6})
    return float(np.exp(found.x)), float(found.fun)


def escape_time(correlation, depth, scale, size):
    r"""Time in which an entry of the product grows from the start to a given size at a fixed pull.

    :math:`\dot u=cu^{N-1}` takes :math:`u` from :math:`\alpha` to :math:`b` in the time
    :math:`\log(b/\alpha)/c` for :math:`N=2`, and
    :math:`(\alpha^{2-N}-b^{2-N})/((N-2)c)` for :math:`N>2`.

    Parameters
    ----------
    correlation : float
        The pull :math:`c`, positive: :math:`\|A^{\mathsf T}y\|_\infty` near zero.
    depth : int
        At least 2.
    scale : array_like
        The numbers :math:`\alpha`, positive.
    size : float
        The size :math:`b^N` of the product's entry, at least that of the start.

    Returns
    -------
    ndarray or float

    Raises
    ------
    ValueError
        If a number is outside its range.
    """
    c = _checks.real("correlation", correlation, above=0)
    depth = _checks.integer("depth", depth, at_least=2)
    alpha = _checks.array("scale", scale)
    if (alpha <= 0).any():
        _checks.fail("scale", alpha, "positive")
    b = _checks.real("size", size, at_least=float((alpha**depth).max())) ** (1 / depth)
    if depth == 2:
        return (np.log(b / alpha) / c)[()]
    return ((alpha ** (2 - depth) - b ** (2 - depth)) / ((depth - 2) * c))[()]


# --- checks of input ----------------------------------------------------------------------------


def _problem(A, y):
    A = _checks.array("A", A, ndim=2)
    return A, _checks.array("y", y, shape=(len(A),))


def _sizes(n, sparsity, least=0):
    n = _checks.integer("n", n, at_least=1)
    sparsity = _checks.integer("sparsity", sparsity, at_least=least)
    if sparsity > n:
        _checks.fail("sparsity", sparsity, f"at most n={n}")
    return n, sparsity


def _flag(name, value):
    if not isinstance(value, (bool, np.bool_)):
        _checks.fail(name, value, "True or False")
    return bool(value)
