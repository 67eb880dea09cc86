r"""Exercises of the chapters that ask for a solution: which one, out of the many there are."""

import numpy as np

from dmflib.property_tests import Task, at_least, at_most, close, holds, returned


class _KernelFit(Task):
    """Least squares, random features (a): the least-norm fit from inner products alone."""

    function = "kernel_fit"

    def instance(self, rng, index):
        n, d = int(rng.integers(2, 6)), int(rng.integers(2, 9))
        X, row = rng.standard_normal((n, d)), rng.standard_normal(d)
        if index == 0:  # a row twice: the matrix of inner products has no inverse
            X[1] = X[0]
        y = X @ rng.standard_normal(d)
        return {"gram": X @ X.T, "cross": X @ row, "y": y}

    @holds("is linear in the answers")
    def linear(self, f, gram, cross, y):
        first = returned(f(gram, cross, y), ())
        close(returned(f(gram, cross, -2 * y), ()), -2 * first, 1e-7 * (1 + abs(first)), "-2 y")
        some = abs(np.subtract(*(returned(f(gram, cross, v), ()) for v in (gram[0], 0 * y))))
        at_least(some, 1e-9, "change when the answers change")

    @holds("fits the data: at a sample's own place it gives that sample's answer")
    def interpolates(self, f, gram, cross, y):
        for i in range(len(y)):
            close(returned(f(gram, gram[i], y), ()), y[i], 1e-6 * (1 + abs(y[i])), f"sample {i}")

    @holds("is the fit of least norm")
    def least_norm(self, f, gram, cross, y):
        # Features with these inner products: rows of a root of the matrix, one for the new point.
        values, vectors = np.linalg.eigh(gram)
        kept = values > 1e-10 * values[-1]
        features = vectors[:, kept] * np.sqrt(values[kept])
        row = (vectors[:, kept].T @ cross) / np.sqrt(values[kept])
        beta = np.linalg.lstsq(features, y, rcond=None)[0]
        expected = row @ beta
        close(returned(f(gram, cross, y), ()), expected, 1e-6 * (1 + abs(expected)), "prediction")


class _BestMap(Task):
    """Linear networks, whitening (b): the best approximation of low rank in the sample loss."""

    function = "best_map"

    def instance(self, rng, index):
        m, n = (int(size) for size in rng.integers(2, 6, 2))
        root = rng.standard_normal((n, n))
        covariance = 4.0 * np.eye(n) if index == 0 else root @ root.T + 0.1 * np.eye(n)
        target = rng.standard_normal((m, n))
        return {
            "target": target,
            "covariance": covariance,
            "rank": int(rng.integers(1, min(m, n))),
        }

    @holds("has at most the rank that is allowed")
    def low_rank(self, f, target, covariance, rank):
        sigma = np.linalg.svd(returned(f(target, covariance, rank), target.shape))[1]
        at_most(sigma[rank], 1e-9 * (1 + sigma[0]), f"singular value {rank + 1}")

    @holds("is the map itself where the rank allows it")
    def complete(self, f, target, covariance, rank):
        found = returned(f(target, covariance, min(target.shape)), target.shape)
        close(found, target, 1e-8, f"the map of rank {min(target.shape)}")

    @holds("has the least loss among the matrices of this rank")
    def least_loss(self, f, target, covariance, rank):
        difference = returned(f(target, covariance, rank), target.shape) - target
        # Eckart, Young and Mirsky, with another root of the covariance than the symmetric one
        root = np.linalg.cholesky(covariance)
        least = (np.linalg.svd(target @ root)[1][rank:] ** 2).sum()
        close(((difference @ root) ** 2).sum(), least, 1e-8 * (1 + least), "loss")


class _Sparsify(Task):
    """Sparse recovery, vertices: walk to a vertex without a larger norm."""

    function = "sparsify"

    def instance(self, rng, index):
        m = int(rng.integers(2, 5))
        n = m + int(rng.integers(3, 6))
        A, z = rng.standard_normal((m, n)), rng.standard_normal(n)
        if index == 0:
            A[-1] = A[0]  # the rank is less than the number of equations
        if index == 1:
            A[0] = np.sign(z)  # z has the least norm already, as have all with its signs
            z[::2] *= 0.01
        return {"A": A, "z": z}

    @holds("solves the same equations")
    def solves(self, f, A, z):
        x = returned(f(A, z), z.shape)
        close(A @ x, A @ z, 1e-8 * (1 + np.abs(A @ z).max()), "A x - A z")

    @holds("has no larger ℓ₁-norm")
    def shrinks(self, f, A, z):
        x = returned(f(A, z), z.shape)
        at_most(np.abs(x).sum(), np.abs(z).sum() * (1 + 1e-9), "norm")

    @holds("has at most as many nonzero entries as A has rank")
    def is_sparse(self, f, A, z):
        x = np.abs(returned(f(A, z), z.shape))
        at_most((x > 1e-9 * x.max()).sum(), np.linalg.matrix_rank(A), "nonzero entries")


class _OneSidedCertificate(Task):
    """Compressed sensing, the positive case (a): the best certificate for signals z >= 0."""

    function = "one_sided_certificate"

    def instance(self, rng, index):
        while True:
            A, on = rng.standard_normal((4, 9)), rng.permutation(9) < 2
            off = A[:, ~on]
            if self._least_margin(A[:, on], off) > 0.9:
                continue
            # One instance where the shortest vector is no certificate, and one where no
            # certificate bounds the absolute values.
            shortest = np.linalg.pinv(A[:, on].T) @ np.ones(2)
            if index == 0 and (off.T @ shortest).max() < 1.01:
                continue
            if index == 1 and self._least_margin(A[:, on], np.hstack([off, -off])) < 1.01:
                continue
            return {"A": A, "x": on * rng.uniform(0.5, 2, 9)}

    @staticmethod
    def _least_margin(on, off):
        """Least possible max of the products with `off`, from the dual linear program."""
        from scipy.optimize import linprog

        # on @ mu = off @ weights with weights >= 0 of sum one: the margin is at least sum(mu)
        equal = np.vstack(
            [np.hstack([on, -off]), np.r_[np.zeros(on.shape[1]), np.ones(off.shape[1])]]
        )
        found = linprog(
            np.r_[-np.ones(on.shape[1]), np.zeros(off.shape[1])],
            A_eq=equal,
            b_eq=np.r_[np.zeros(len(on)), 1.0],
            bounds=[(None, None)] * on.shape[1] + [(0, None)] * off.shape[1],
        )
        return -found.fun if found.status == 0 else np.inf  # it has no bound, or we cannot tell

    @staticmethod
    def _margin(f, A, x):
        nu = returned(f(A, x), (len(A),))
        products = nu @ A
        close(products[x > 0], 1.0, 1e-7, "products with the columns of the support")
        return products[x == 0].max()

    @holds("is one on the support")
    def on_support(self, f, A, x):
        self._margin(f, A, x)

    @holds("is a certificate: one on the support and below one elsewhere")
    def certifies(self, f, A, x):
        at_most(self._margin(f, A, x), 1 - 1e-9, "largest product elsewhere")

    @holds("is the best certificate")
    def best(self, f, A, x):
        least = self._least_margin(A[:, x > 0], A[:, x == 0])
        close(self._margin(f, A, x), least, 1e-6, "largest product elsewhere, against the least")


class _CentralPoint(Task):
    """Least nuclear norm, interior-point method (a): a point of the central path."""

    function = "central_point"

    def instance(self, rng, index):
        a = rng.standard_normal((2, int(rng.integers(4, 7))))
        y = a @ rng.uniform(0.1, 1, a.shape[1])
        return {
            "a": a,
            "y": y,
            "mu": (1e-3, 10.0)[index] if index < 2 else 10 ** rng.uniform(-2, 1),
        }

    @holds("solves the equations")
    def solves(self, f, a, y, mu):
        x = returned(f(a, y, mu), (a.shape[1],))
        close(a @ x, y, 1e-7 * (1 + np.abs(y).max()), "a x - y")

    @holds("is positive")
    def positive(self, f, a, y, mu):
        at_least(returned(f(a, y, mu), (a.shape[1],)).min(), 1e-300, "least entry")

    @holds("makes 1 - μ/x a combination of the rows of a")
    def central(self, f, a, y, mu):
        x = returned(f(a, y, mu), (a.shape[1],))
        at_least(x.min(), 1e-300, "least entry")
        slope = 1 - mu / x
        combination = a.T @ np.linalg.lstsq(a.T, slope, rcond=None)[0]
        close(slope, combination, 1e-6 * (1 + np.abs(slope).max()), "1 - μ/x")


class _CompleteRankOne(Task):
    """Matrix recovery, counting (c): a matrix of rank one from a connected set of entries."""

    function = "complete_rank_one"

    def instance(self, rng, index):
        m, n = (int(size) for size in rng.integers(3, 6, 2))
        mask = np.zeros((m, n), dtype=bool)
        component = np.arange(m + n)  # of every row and column; entries join them one by one
        for i, j in rng.permutation([(i, j) for i in range(m) for j in range(n)]):
            if component[i] != component[m + j]:
                mask[i, j] = True
                component[component == component[m + j]] = component[i]
        if index == 0:  # a single path through all rows and columns: the longest way round
            m = n = 4
            mask = (np.eye(4) + np.eye(4, k=1) > 0)[rng.permutation(4)][:, rng.permutation(4)]
        elif index > 1:  # the second instance is a tree, too: m + n - 1 entries
            mask |= rng.random((m, n)) < 0.2
        row, column = (rng.uniform(0.5, 2, k) * rng.choice([-1, 1], k) for k in (m, n))
        return {"values": np.where(mask, np.outer(row, column), 0.0), "mask": mask}

    @holds("keeps the observed entries")
    def keeps(self, f, values, mask):
        W = returned(f(values, mask), mask.shape)
        close(W[mask], values[mask], 1e-8, "observed entries")

    @holds("has rank one")
    def rank_one(self, f, values, mask):
        sigma = np.linalg.svd(returned(f(values, mask), mask.shape))[1]
        at_least(sigma[0], 1e-6, "first singular value")
        at_most(sigma[1], 1e-8 * sigma[0], "second singular value")

    @holds("multiplies a row of the answer where the row's observed entries are multiplied")
    def scales(self, f, values, mask):
        W = returned(f(values, mask), mask.shape)
        at_least(np.abs(W).min(), 1e-6, "least absolute value of an entry")
        for i in range(len(mask)):
            factor = np.ones((len(mask), 1))
            factor[i] = -3.0
            scaled = returned(f(factor * values, mask), mask.shape)
            close(scaled, factor * W, 1e-7 * np.abs(W).max(), f"row {i} times -3")


TASKS = (
    _KernelFit,
    _BestMap,
    _Sparsify,
    _OneSidedCertificate,
    _CentralPoint,
    _CompleteRankOne,
)
