"""Tests of the problem set on matrix recovery. You may read them; they hold no solutions."""

import numpy as np

from dmflib.property_tests import FailedError, Task, at_least, at_most, close, holds, returned

# --- problem 1: what measurements do not see ----------------------------------------------------


class Unseen(Task):
    """What both variants of the first problem share: measurements ``W_ij + blur * W_i,j+1``."""

    function = "unseen_changes"
    instances = 4
    blur = 0.5
    sign = 1  #: of the transpose: 1 for symmetric matrices, -1 for skew ones
    sizes = ((5, 2, 9), (6, 2, 11), (6, 3, 15), (7, 2, 13))  #: n, rank, dimension

    def instance(self, rng, index):
        n, rank, _ = self.sizes[index]
        B = rng.standard_normal((n, rank))
        if self.sign == 1:
            core = np.diag(rng.choice([-1.0, 1.0], rank) * rng.uniform(1, 2, rank))
        else:
            core = np.kron(np.eye(rank // 2), [[0, 1.0], [-1.0, 0]])
        count = int(rng.integers(2, n + 1))
        chosen = rng.choice(n * n, count, replace=False)
        places = [(int(k) // n, int(k) % n) for k in chosen]
        return {"W": B @ core @ B.T, "places": places}

    def changes(self, f, W, places):
        """The answer, whose first dimension is free."""
        value = np.asarray(f(W, places))
        if value.ndim != 3:
            raise FailedError(f"it returned an array of shape {value.shape} instead of (f, n, n)")
        return returned(value, (len(value), *W.shape))

    def seen(self, H, place):
        """What a measurement sees of matrices."""
        i, j = place
        return H[:, i, j] + self.blur * H[:, i, (j + 1) % H.shape[-1]]

    @holds("returns orthonormal matrices of the right symmetry that no measurement sees", 3)
    def invisible(self, f, W, places):
        H = self.changes(f, W, places)
        at_least(len(H), 1, "number of changes")
        flat = H.reshape(len(H), W.size)
        close(flat @ flat.T, np.eye(len(H)), 1e-8, "inner products, minus the identity")
        close(H, self.sign * np.swapaxes(H, 1, 2), 1e-9, "a change, minus its (signed) transpose")
        for place in places:
            close(self.seen(H, place), 0, 1e-8, f"what the measurement at {place} sees")

    @holds("changes the rank in second order only", 2)
    def tangent(self, f, W, places):
        H = self.changes(f, W, places)
        at_least(len(H), 1, "number of changes")
        close(np.linalg.norm(H, axis=(1, 2)), 1, 1e-8, "norms")
        close(H, self.sign * np.swapaxes(H, 1, 2), 1e-9, "a change, minus its (signed) transpose")
        rank = np.linalg.matrix_rank(W)
        for step in (1e-4, -1e-4):
            beyond = np.linalg.svd(W + step * H, compute_uv=False)[:, rank]
            at_most(beyond.max(), 1e-6, "first singular value beyond the rank, for a step of 1e-4")

    @holds("finds all of them", 4)
    def complete(self, f, W, places):
        shape = (len(W), int(np.linalg.matrix_rank(W)))
        count = {size[:2]: size[2] for size in self.sizes}[shape]
        H = self.changes(f, W, [])
        close(len(H), count, 0, "number of changes without any measurement")
        for k, place in enumerate(places):
            # a measurement removes one direction if it sees any, and no other
            seen = np.abs(self.seen(H, place)).max(initial=0.0) > 1e-8
            after = self.changes(f, W, places[: k + 1])
            close(len(after), len(H) - seen, 0, f"number of changes with {k + 1} measurements")
            flat, old = after.reshape(len(after), W.size), H.reshape(len(H), W.size)
            close(flat @ old.T @ old, flat, 1e-7, "a change, minus its part in the former ones")
            H = after


class Symmetric(Unseen):
    """Symmetric matrices."""


class Skew(Unseen):
    """Skew-symmetric matrices, whose rank is even."""

    sign = -1
    sizes = ((5, 2, 7), (6, 2, 9), (6, 4, 14), (7, 4, 18))


# --- problem 2: a completion with its proof -----------------------------------------------------


class Proven(Task):
    """What both variants of the second problem share: a pair of primal and dual point."""

    function = "proven_completion"
    instances = 4

    def instance(self, rng, index):
        m, n = ((7, 7), (7, 9), (9, 8), (10, 10))[index]
        truth = rng.standard_normal((m, 2)) @ rng.standard_normal((2, n))
        mask = rng.random((m, n)) < 0.6
        mask[0, 0], mask[-1, -1] = True, False
        values = truth + (rng.random((m, n)) < 0.1) * rng.choice([-4.0, 4.0], (m, n))
        return {"values": np.where(mask, values, 0.0), "mask": mask}

    def pair(self, f, values, mask):
        """Both points."""
        pair = f(values, mask)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise FailedError("it did not return a pair: a matrix and its certificate")
        W, Y = (returned(value, values.shape) for value in pair)
        at_least(np.abs(Y).max(), 1e-6, "largest entry of the certificate")
        at_least(np.abs(W).max(), 1e-6, "largest entry of the matrix")
        return W, Y

    def primal(self, W, values, mask):
        """What is to be made small; fail where W is not allowed."""
        raise NotImplementedError

    def dual(self, Y, values, mask):
        """The bound from below that belongs to Y; fail where Y is not allowed."""
        raise NotImplementedError

    @holds("has a certificate that proves some bound", 3)
    def certificate(self, f, values, mask):
        _, Y = self.pair(f, values, mask)
        at_least(self.dual(Y, values, mask), 1e-6, "the bound that it proves")

    @holds("has a value within one part in a thousand of its own bound", 6)
    def gap(self, f, values, mask):
        W, Y = self.pair(f, values, mask)
        bound, value = self.dual(Y, values, mask), self.primal(W, values, mask)
        at_most(value, bound + 1e-3 * abs(bound), "value of the matrix, where the bound allows")


class Elastic(Proven):
    """Nuclear norm plus a multiple of half the squared Frobenius norm, entries exact."""

    weight = 0.5

    def primal(self, W, values, mask):
        close(W[mask], values[mask], 1e-8, "observed entries")
        sigma = np.linalg.svd(W, compute_uv=False)
        return sigma.sum() + self.weight * (sigma**2).sum() / 2

    def dual(self, Y, values, mask):
        close(Y[~mask], 0, 1e-8, "certificate outside the observed places")
        beyond = np.maximum(np.linalg.svd(Y, compute_uv=False) - 1, 0)
        return (Y * values).sum() - (beyond**2).sum() / (2 * self.weight)


class Robust(Proven):
    """Sum of absolute deviations plus a multiple of the nuclear norm."""

    weight = 1.8

    def primal(self, W, values, mask):
        return np.abs((W - values)[mask]).sum() + self.weight * np.linalg.norm(W, "nuc")

    def dual(self, Y, values, mask):
        close(Y[~mask], 0, 1e-8, "certificate outside the observed places")
        at_most(np.abs(Y).max(), 1 + 1e-9, "largest entry of the certificate")
        at_most(np.linalg.norm(Y, 2), self.weight * (1 + 1e-9), "its spectral norm")
        return (Y * values).sum()


# --- problem 3: one measurement -----------------------------------------------------------------


class One(Task):
    """What both variants of the third problem share: one number <A, W> is measured."""

    function = "limit_of_one"
    instances = 4

    def simulated(self, velocity, begin, product, A, y):
        """End of the flow, and the residual there."""
        from scipy.integrate import solve_ivp

        def right(t, state):
            return velocity(state, (A * product(state)).sum() - y)

        path = solve_ivp(right, (0, 2000), begin, "LSODA", rtol=1e-10, atol=1e-12)
        return product(path.y[:, -1])

    @holds("fits the measurement", 2)
    def fits(self, f, A, y, **start):
        W = returned(f(A, y, **start), A.shape)
        at_least(np.abs(W).max(), 1e-6, "largest entry")
        close((A * W).sum(), y, 1e-8, "<A, W> - y")

    @holds("does not move from a start that fits", 2)
    def still(self, f, A, y, **start):
        W0 = self.product_of(**start)
        close(returned(f(A, float((A * W0).sum()), **start), A.shape), W0, 1e-8, "way")
        W = returned(f(A, y, **start), A.shape)
        at_least(np.abs(W - W0).max(), 1e-6, "way from a start that does not fit")

    @holds("is where the flow ends", 5)
    def flow(self, f, A, y, **start):
        W = returned(f(A, y, **start), A.shape)
        close(W, self.end(A, y, **start), 1e-6, "your limit, minus the end of the flow")


class Rates(One):
    """W = U V^T, where V moves at another rate than U."""

    rate, columns = 2.0, 3

    def instance(self, rng, index):
        m, n, k = ((2, 2, 2), (3, 4, 2), (4, 3, 1), (3, 3, 3))[index]
        A = rng.standard_normal((m, n)) / 2
        start = {"U0": rng.standard_normal((m, k)), "V0": rng.standard_normal((n, k))}
        return {"A": A, "y": float(rng.uniform(-3, 3))} | start

    def product_of(self, U0, V0):
        return U0 @ V0.T

    def end(self, A, y, U0, V0):
        k, m = U0.shape[1], len(U0)

        def parts(state):
            both = state.reshape(-1, k)
            return both[:m], both[m:]

        def velocity(state, off):
            U, V = parts(state)
            return -off * np.concatenate([A @ V, self.rate * A.T @ U]).ravel()

        begin = np.concatenate([U0, V0]).ravel()
        return self.simulated(velocity, begin, lambda s: parts(s)[0] @ parts(s)[1].T, A, y)


class Signs(One):
    """W = U J U^T with a fixed diagonal matrix of signs, A symmetric."""

    signs, columns = (1, -1), 2

    def instance(self, rng, index):
        n = 2 + index
        A = np.diag(rng.uniform(0.3, 1, n) * np.resize([1, -1], n))
        Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
        U0 = rng.standard_normal((n, len(self.signs)))
        return {"A": Q @ A @ Q.T, "y": float(rng.uniform(-3, 3)), "U0": U0}

    def product_of(self, U0):
        return U0 * self.signs @ U0.T

    def end(self, A, y, U0):
        def product(state):
            U = state.reshape(U0.shape)
            return U * self.signs @ U.T

        def velocity(state, off):
            return -2 * off * (A @ state.reshape(U0.shape) * self.signs).ravel()

        return self.simulated(velocity, U0.ravel(), product, A, y)
