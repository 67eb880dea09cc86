"""Tests of the problem set on least squares. You may read them; they hold no solutions."""

import numpy as np

from dmflib.property_tests import Task, at_least, close, holds, returned


def tame(draw):
    """Draw matrices until one has no singular values that are small and not zero."""
    while True:
        X = draw()
        sigma = np.linalg.svd(X, compute_uv=False)
        if sigma[sigma > 1e-10].min() > 0.08 * sigma[0]:
            return X


def problem(rng, index):
    """A matrix, answers and a start; wide, tall or of deficient rank by turns."""
    shapes = ((3, 5), (6, 3), (4, 4), (2, 6), (5, 5))
    n, d = shapes[index % len(shapes)]

    def draw():
        X = rng.standard_normal((n, d))
        if index % 5 == 4:
            X[-1] = X[0] - X[1]
        return X

    X = tame(draw)
    X *= rng.uniform(0.7, 1.3) / np.linalg.norm(X, 2)
    return {"X": X, "y": rng.standard_normal(n), "beta0": rng.standard_normal(d)}


def gradient(X, y, beta):
    """Gradient of the sum of squared errors."""
    return 2 * X.T @ (X @ beta - y)


def kernel(X):
    """Projection onto the null space of a matrix."""
    return np.eye(X.shape[1]) - np.linalg.pinv(X, rcond=1e-10) @ X


# --- problem 1: another equation of motion ------------------------------------------------------


class Motion(Task):
    """What all variants of the first problem share."""

    function = "place_at"

    def instance(self, rng, index):
        return problem(rng, index) | {"t": float(rng.uniform(0.5, 4))}

    def path(self, f, times, X, y, beta0):
        """The answer at several times."""
        return np.array([returned(f(X, y, t, beta0), beta0.shape) for t in times])

    def derivatives(self, f, t, X, y, beta0, h=0.02):
        """Value and two derivatives at a time, by differences of order six."""
        path = self.path(f, t + h * np.arange(-3, 4), X, y, beta0)
        first = np.array([-1, 9, -45, 0, 45, -9, 1]) / (60 * h)
        second = np.array([2, -27, 270, -490, 270, -27, 2]) / (180 * h * h)
        return path[3], first @ path, second @ path

    def moves(self, f, t, X, y, beta0):
        """Fail for a path that stands still, which satisfies much."""
        start, later = self.path(f, (1e-9, t), X, y, beta0)
        at_least(np.abs(later - start).max(), 1e-3, "way from time zero to t")
        return start


class Momentum(Motion):
    """A heavy ball: acceleration, and friction in proportion to the velocity."""

    friction = 1.0

    @holds("starts at beta0 at rest", 2)
    def start(self, f, X, y, beta0, t):
        close(self.moves(f, t, X, y, beta0), beta0, 1e-7, "place at time 1e-9")
        path = self.path(f, (0.0, 1e-3, 2e-3), X, y, beta0)
        velocity = (4 * path[1] - 3 * path[0] - path[2]) / 2e-3
        close(velocity, 0, 1e-4, "velocity at time zero")

    @holds("obeys the equation of motion", 4)
    def equation(self, f, X, y, beta0, t):
        self.moves(f, t, X, y, beta0)
        place, first, second = self.derivatives(f, t, X, y, beta0)
        force = second + self.friction * first + gradient(X, y, place)
        close(force, 0, 1e-5, "acceleration + friction * velocity + gradient")

    @holds("never moves in the null space of X", 2)
    def null_space(self, f, X, y, beta0, t):
        self.moves(f, t, X, y, beta0)
        (late,) = self.path(f, (5 * t,), X, y, beta0)
        close(kernel(X) @ (late - beta0), 0, 1e-7, "component in the null space")

    @holds("is right where friction is just critical for a singular value", 2)
    def critical(self, f, X, y, beta0, t):
        # 8 sigma^2 = friction^2, where the two exponents of this mode meet
        X = X * self.friction / (np.sqrt(8) * np.linalg.norm(X, 2))
        self.moves(f, 10 * t, X, y, beta0)
        place, first, second = self.derivatives(f, t, X, y, beta0)
        force = second + self.friction * first + gradient(X, y, place)
        close(force, 0, 1e-5, "acceleration + friction * velocity + gradient")


class Decay(Motion):
    """Gradient flow of the squared errors plus a pull towards a point other than the start."""

    decay = 0.5

    def instance(self, rng, index):
        drawn = super().instance(rng, index)
        return drawn | {"anchor": rng.standard_normal(len(drawn["beta0"]))}

    def path(self, f, times, X, y, start):
        beta0, anchor = start
        return np.array([returned(f(X, y, t, beta0, anchor), beta0.shape) for t in times])

    @holds("starts at beta0", 2)
    def start(self, f, X, y, beta0, anchor, t):
        close(self.moves(f, t, X, y, (beta0, anchor)), beta0, 1e-7, "place at time 1e-9")

    @holds("obeys the equation of the flow", 4)
    def equation(self, f, X, y, beta0, anchor, t):
        self.moves(f, t, X, y, (beta0, anchor))
        place, first, _ = self.derivatives(f, t, X, y, (beta0, anchor))
        force = first + gradient(X, y, place) + 2 * self.decay * (place - anchor)
        close(force, 0, 1e-5, "velocity + gradient of the whole loss")

    @holds("ends at rest, wherever it began", 2)
    def end(self, f, X, y, beta0, anchor, t):
        self.moves(f, t, X, y, (beta0, anchor))
        late = 200 / self.decay
        (place,) = self.path(f, (late,), X, y, (beta0, anchor))
        close(gradient(X, y, place) + 2 * self.decay * (place - anchor), 0, 1e-7, "gradient")

    @holds("forgets the start in the null space of X at the right rate", 2)
    def null_space(self, f, X, y, beta0, anchor, t):
        X = X * (np.arange(X.shape[1]) > 0)  # a column of zeros: a null space in any case
        y = X @ np.ones(X.shape[1])
        first, second = self.path(f, (t, 2 * t), X, y, (beta0, anchor))
        off = [kernel(X) @ (place - anchor) for place in (beta0, first, second)]
        at_least(np.abs(off[0] - off[1]).max(), 1e-6, "what is forgotten up to time t")
        scale = (off[0] @ off[0]) ** 0.5
        close(off[1] * (off[1] @ off[0]), off[2] * scale**2, 1e-6 * (1 + scale) ** 3, "ratio")
        # a short time, where the rate is a difference quotient
        (soon,) = self.path(f, (1e-4,), X, y, (beta0, anchor))
        rate = (kernel(X) @ (soon - beta0)) / 1e-4
        close(rate, -2 * self.decay * off[0], 1e-2 * (1 + np.abs(off[0]).max()), "velocity there")


class Average(Motion):
    """The weighted average of the path of gradient flow up to now."""

    power = 1

    @holds("starts at beta0", 2)
    def start(self, f, X, y, beta0, t):
        close(self.moves(f, t, X, y, beta0), beta0, 1e-6, "average at time 1e-9")

    @holds("is the average of a path that obeys the flow", 4)
    def equation(self, f, X, y, beta0, t):
        self.moves(f, t, X, y, beta0)
        mean, first, second = self.derivatives(f, t, X, y, beta0)
        p = self.power
        flow = mean + t * first / (p + 1)
        velocity = first + (first + t * second) / (p + 1)
        close(velocity + gradient(X, y, flow), 0, 1e-5, "velocity of the path + gradient")

    @holds("never moves in the null space of X", 2)
    def null_space(self, f, X, y, beta0, t):
        self.moves(f, t, X, y, beta0)
        (late,) = self.path(f, (5 * t,), X, y, beta0)
        close(kernel(X) @ (late - beta0), 0, 1e-7, "component in the null space")

    @holds("approaches its limit like the right power of the time", 2)
    def slow(self, f, X, y, beta0, t):
        U, s, Vt = np.linalg.svd(X)
        rank = np.count_nonzero(s > 1e-10)
        X = U[:, :rank] * np.linspace(1.2, 0.8, rank) @ Vt[:rank]  # nothing small but zero
        first, second, third = self.path(f, (40.0, 80.0, 160.0), X, y, beta0)
        factor = 2 ** (self.power + 1)
        limit = (factor * third - second) / (factor - 1)
        close(gradient(X, y, limit), 0, 1e-7, "gradient at the extrapolated limit")
        close((factor * second - first) / (factor - 1), limit, 1e-7, "extrapolation from half")
        way = np.abs(first - limit).max()
        at_least(way, 1e-9, "way that is left at time 40")


# --- problem 2: another rule of motion ----------------------------------------------------------


class Limit(Task):
    """What both variants of the second problem share."""

    function = "resting_place"


class Rates(Limit):
    """Coordinate j moves at the rate ``rates[j % len(rates)]``; some coordinates are frozen."""

    rates = (1, 0, 2)

    def instance(self, rng, index):
        shapes = ((3, 6), (2, 7), (4, 6), (7, 4), (2, 5))
        n, d = shapes[index % len(shapes)]
        speeds = self.speeds(d)
        moved = tame(lambda: rng.standard_normal((n, d)) * speeds)
        X = np.where(
            speeds > 0, moved / np.where(speeds > 0, speeds, 1), rng.standard_normal((n, d))
        )
        return {"X": X, "y": rng.standard_normal(n), "beta0": rng.standard_normal(d)}

    def speeds(self, d):
        """The rate of every coordinate."""
        return np.resize(np.array(self.rates, dtype=float), d)

    @holds("leaves frozen coordinates where they were", 2)
    def frozen(self, f, X, y, beta0):
        end, speeds = returned(f(X, y, beta0), beta0.shape), self.speeds(len(beta0))
        at_least(np.abs(end - beta0).max(), 1e-6, "way from the start")
        close(end[speeds == 0], beta0[speeds == 0], 1e-9, "frozen coordinates")

    @holds("is at rest there", 3)
    def rest(self, f, X, y, beta0):
        end = returned(f(X, y, beta0), beta0.shape)
        close(self.speeds(len(beta0)) * gradient(X, y, end), 0, 1e-7, "rates * gradient")

    @holds("is the one of these points that the motion reaches", 4)
    def reached(self, f, X, y, beta0):
        end, speeds = returned(f(X, y, beta0), beta0.shape), self.speeds(len(beta0))
        close(speeds * gradient(X, y, end), 0, 1e-7, "rates * gradient")
        # The velocity is diag(rates) X^T (...): what is orthogonal to its range stays.
        U, s, _ = np.linalg.svd(speeds[:, None] * X.T)
        still = U[:, np.count_nonzero(s > 1e-10) :].T
        close(still @ (end - beta0), 0, 1e-7, "a combination of coordinates that cannot move")


class TwoSided(Limit):
    """Gradient flow of ``||Y - A W B||^2`` in a matrix W of which one row is frozen."""

    row = 0  #: the frozen one

    def instance(self, rng, index):
        p, q = ((3, 3), (4, 2), (5, 3), (3, 4), (4, 4))[index % 5]

        def draw():
            A = rng.standard_normal((p - 1 - index % 2, p))
            if index % 3 == 2:
                A[-1] = A[0]
            return self.free(A)

        A = tame(draw)
        A[:, self.row] = rng.standard_normal(len(A))
        B = tame(lambda: rng.standard_normal((q, q - 1)))
        Y = rng.standard_normal((len(A), B.shape[1]))
        return {"A": A, "B": B, "Y": Y, "W0": rng.standard_normal((p, q))}

    def free(self, A):
        """The matrix A with zeros where it meets the frozen row."""
        return A * (np.arange(A.shape[1]) != self.row)

    def end(self, f, A, B, Y, W0):
        """The answer; fail where it is the start."""
        end = returned(f(A, B, Y, W0), W0.shape)
        at_least(np.abs(end - W0).max(), 1e-6, "way from the start")
        return end

    @holds("leaves the frozen row, and all of a start that is a solution", 2)
    def frozen(self, f, A, B, Y, W0):
        end = self.end(f, A, B, Y, W0)
        close(end[self.row], W0[self.row], 1e-9, "frozen row")
        close(returned(f(A, B, A @ W0 @ B, W0), W0.shape), W0, 1e-8, "way from a solution")

    @holds("is at rest there", 3)
    def rest(self, f, A, B, Y, W0):
        end = self.end(f, A, B, Y, W0)
        close(self.free(A).T @ (A @ end @ B - Y) @ B.T, 0, 1e-8, "gradient where it counts")

    @holds("is the nearest such matrix to the start", 4)
    def nearest(self, f, A, B, Y, W0):
        end = self.end(f, A, B, Y, W0)
        close(self.free(A).T @ (A @ end @ B - Y) @ B.T, 0, 1e-8, "gradient where it counts")
        still = kernel(np.kron(self.free(A), B.T))  # what changes nothing, or cannot move
        close(still @ (end - W0).ravel(), 0, 1e-8, "component that changes nothing")


# --- problem 3: how fast, with infinitely many small singular values ---------------------------


class Decline(Task):
    """Exponents in time where ``sigma_j = j**-a`` and ``delta_j = j**-s``, for j = 1, 2, ..."""

    function = "exponents"
    decay = 1.0  #: a
    weight = 2  #: power of sigma in the sum: 2 for the loss, 0 for the squared distance

    def instance(self, rng, index):
        # slow or fast, and always a sum that converges
        return {"s": float(rng.uniform(0.8, 2.5)), "t": float(10 ** rng.uniform(2, 3))}

    def slope(self, s, t):
        """Minus the slope of the sum in a log-log plot, by its exact derivative."""
        j = np.arange(1.0, 2e5)
        sigma2 = j ** (-2 * self.decay)
        terms = sigma2 ** (self.weight / 2) * j ** (-2 * s) * np.exp(-4 * t * sigma2)
        rest = 2e5 ** (1 - self.decay * self.weight - 2 * s)
        rest /= self.decay * self.weight + 2 * s - 1  # the terms that are left out
        return 4 * t * (terms * sigma2).sum() / (terms.sum() + rest)

    @holds("measures the slope at a time to three digits", 3)
    def measured(self, f, s, t):
        value = returned(f(s, t), (2,))[0]
        close(value, self.slope(s, t), 2e-3, "measured exponent")

    @holds("predicts the exponent of late times", 4)
    def predicted(self, f, s, t):
        value = returned(f(s, t), (2,))[1]
        late = self.slope(s, 10.0 ** (3 if self.decay < 1 else 4.5))
        close(value, late, 0.02 * (1 + late), "predicted exponent, compared with a late slope")
        twice = returned(f(s, 2 * t), (2,))[1]
        close(value, twice, 1e-9, "prediction at another time")
