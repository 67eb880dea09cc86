"""Tests of the problem set on singular values. You may read them; they hold no solutions."""

import math

import numpy as np
from scipy.integrate import solve_ivp

from dmflib.linear_networks import balanced, factor_gradients, product
from dmflib.property_tests import Task, at_least, close, holds, returned
from dmflib.singular_values import offset_factors


def orthogonal(rng, n):
    """A random orthogonal matrix."""
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def root(M):
    """Positive semidefinite root of a symmetric matrix."""
    values, V = np.linalg.eigh(M)
    return (V * np.sqrt(np.maximum(values, 0))) @ V.T


def simple_speeds(W, velocity):
    """Velocities of simple, positive singular values of a matrix that moves."""
    U, _, Vt = np.linalg.svd(W, full_matrices=False)
    return np.einsum("ir,ij,rj->r", U, velocity, Vt)


# --- problem 1: another law of the singular values ----------------------------------------------


class Law(Task):
    """What both variants of the first problem share: factors, and how they move."""

    function = "speeds"

    def factors(self, rng, index, size):
        """Factors as the statement has them; the largest singular value of W is about `size`."""
        raise NotImplementedError

    def velocity(self, factors, gradient):
        """Velocity of the product, from the motion of the factors."""
        raise NotImplementedError

    def instance(self, rng, index):
        factors = [
            self.factors(rng, index * (k == 0), size) for k, size in enumerate((1, 1e4, 1e-4))
        ]
        return {
            "factors": factors,
            "gradients": [rng.standard_normal(product(F).shape) for F in factors],
        }

    def compare(self, f, factors, gradient, tolerance=1e-7):
        """Compare the answer with the motion of the factors."""
        W = product(factors)
        exact = simple_speeds(W, self.velocity(factors, gradient))
        value = returned(f(W, gradient), exact.shape)
        size = np.abs(exact).max()
        close(value / size, exact / size, tolerance, "speeds over the largest one")

    @holds("is what the factors do", 4)
    def motion(self, f, factors, gradients):
        self.compare(f, factors[0], gradients[0])

    @holds("is right for large singular values", 2)
    def large(self, f, factors, gradients):
        self.compare(f, factors[1], gradients[1], 1e-5)

    @holds("is right for small singular values", 2)
    def small(self, f, factors, gradients):
        self.compare(f, factors[2], gradients[2], 1e-6)


class Unequal(Law):
    """Two factors that learn at different rates and are out of balance."""

    rates = (1.0, 2.0)
    offset = 0.5

    def factors(self, rng, index, size):
        n = (4, 3, 5, 2, 6)[index % 5]
        first = orthogonal(rng, n) * np.sort(rng.uniform(0.3, 1, n)) @ orthogonal(rng, n)
        first *= size if size < 1 else math.sqrt(size)
        return [first, self.partner(rng, first)]

    def partner(self, rng, first):
        """The second factor that belongs to a first one."""
        gram = first @ first.T / self.rates[0] + self.offset * np.eye(len(first))
        return orthogonal(rng, len(first)) @ root(self.rates[1] * gram)

    def velocity(self, factors, gradient):
        first, second = factors
        moves = self.rates[0] * second.T @ gradient, self.rates[1] * gradient @ first.T
        return -(second @ moves[0] + moves[1] @ first)

    @holds("is right where large and small values stand together", 2)
    def together(self, f, factors, gradients):
        U, sigma, Vt = np.linalg.svd(factors[0][0])
        first = U * np.geomspace(30, 1e-3, len(sigma)) @ Vt
        second = self.partner(np.random.default_rng(5), first)
        W, G = second @ first, gradients[0]
        exact = simple_speeds(W, self.velocity([first, second], G))
        value = returned(f(W, G), exact.shape)
        close(value / exact, 1, 1e-6, "speeds over those of the factors")


class Decaying(Law):
    """Balanced factors, each of which also decays."""

    depth = 3
    decay = 0.2

    def factors(self, rng, index, size):
        m, n = ((4, 4), (3, 5), (5, 2), (2, 2), (4, 3))[index % 5]
        p = min(m, n)
        sigma = size * (np.arange(p, 0, -1) + rng.uniform(-0.3, 0.3, p)) / p
        return balanced(orthogonal(rng, m)[:, :p] * sigma @ orthogonal(rng, n)[:p], self.depth)

    @holds("is right where the gradient is zero", 2)
    def drift(self, f, factors, gradients):
        self.compare(f, factors[0], 0 * gradients[0])

    def velocity(self, factors, gradient):
        moves = factor_gradients(factors, gradient)
        total = 0
        for j, move in enumerate(moves):
            changed = list(factors)
            changed[j] = -move - self.decay * factors[j]
            total = total + product(changed)
        return total


# --- problem 2: a race of two values ------------------------------------------------------------


class Race(Task):
    """Numbers ``a`` and ``b`` in the factors, whose product ``a * b**power`` is a value."""

    function = "follower"
    power = 1  #: how many factors hold the second number
    offset = 0.5  #: of the squares

    def instance(self, rng, index):
        start, other = rng.uniform(0.02, 0.5, 2)
        return {
            "value": float(other + rng.uniform(0.3, 3)),
            "start": float(start),
            "other_start": float(other),
            "ratio": float(rng.uniform(0.1, 0.8)),
        }

    def numbers(self, value):
        """Both numbers that belong to a value, by bisection."""
        low, high = 0.0, 1 + abs(value)
        for _ in range(200):
            middle = (low + high) / 2
            if middle * (self.offset + middle**2) ** (self.power / 2) < abs(value):
                low = middle
            else:
                high = middle
        return math.copysign(low, value), math.sqrt(self.offset + low**2)

    def simulated(self, value, start, other_start, ratio):
        """The other value's follower, from the motion of all four numbers."""

        def speeds(t, z):
            a, b, c, d = z
            k = self.power
            one, two = np.array([b**k, a * b ** (k - 1)]), np.array([d**k, c * d ** (k - 1)])
            return np.concatenate([ratio * one, two]) * math.copysign(1, value - other_start)

        def arrival(t, z):
            return z[2] * z[3] ** self.power - value

        arrival.terminal = True
        begin = [*self.numbers(start), *self.numbers(other_start)]
        run = solve_ivp(
            speeds, (0, 1e3), begin, method="DOP853", events=arrival, rtol=1e-11, atol=1e-13
        )
        a, b = run.y_events[0][0][:2]
        return a * b**self.power

    def moves(self, f, value, start, other_start, ratio):
        """The answer; fail where it does not depend on the leader."""
        end = returned(f(value, start, other_start, ratio), ())
        begin = returned(f(other_start, start, other_start, ratio), ())
        at_least(abs(end - begin), 1e-3, "way of the follower")
        return end, begin

    @holds("starts at the start", 1)
    def begins(self, f, value, start, other_start, ratio):
        close(self.moves(f, value, start, other_start, ratio)[1], start, 1e-9, "follower")

    @holds("follows the motion of the factors", 4)
    def follows(self, f, value, start, other_start, ratio):
        end, _ = self.moves(f, value, start, other_start, ratio)
        exact = self.simulated(value, start, other_start, ratio)
        close(end / exact, 1, 1e-7, "follower over the simulated one")

    @holds("passes through zero where the leader runs the other way", 2)
    def negative(self, f, value, start, other_start, ratio):
        self.moves(f, value, start, other_start, ratio)
        exact = self.simulated(-value, start, other_start, ratio)
        close(f(-value, start, other_start, ratio), exact, 1e-7, "follower")

    @holds("is right far out", 2)
    def far(self, f, value, start, other_start, ratio):
        self.moves(f, value, start, other_start, ratio)
        arguments = (1e4, 0.5 * other_start, other_start, ratio)
        exact = self.simulated(*arguments)
        close(returned(f(*arguments), ()) / exact, 1, 1e-5, "follower over the simulated one")


class RaceOfTwo(Race):
    """Two factors."""


class RaceOfThree(Race):
    """Three factors."""

    power = 2


# --- problem 3: where singular values coincide --------------------------------------------------


class Parting(Task):
    """Velocities of sorted singular values just after a moment at which several coincide."""

    function = "speeds_after"

    def matrix(self, rng, sigma):
        """A square matrix with given singular values and random vectors."""
        n = len(sigma)
        return (orthogonal(rng, n) * sigma) @ orthogonal(rng, n)

    rates = (1.0, 1.0)  #: at which the factors learn

    def factors(self, W):
        """Factors of the product as the statement has them."""
        raise NotImplementedError

    def simulated(self, W, gradient):
        """One-sided difference quotients of the flow's sorted singular values, extrapolated."""
        factors = self.factors(W)
        moves = factor_gradients(factors, gradient)
        before = np.linalg.svd(W, compute_uv=False)
        quotients = []
        for h in (4e-5, 2e-5, 1e-5):
            parts = zip(factors, moves, self.rates, strict=True)
            moved = product([F - h * rate * move for F, move, rate in parts])
            quotients.append((np.linalg.svd(moved, compute_uv=False) - before) / h)
        one, two, three = quotients
        return (8 * three - 6 * two + one) / 3

    def compare(self, f, W, gradient):
        """Answer and simulation, where something moves."""
        exact = self.simulated(W, gradient)
        value = returned(f(W, gradient), exact.shape)
        at_least(np.ptp(value), 1e-3, "difference of speeds")
        return value, exact

    @holds("is right for the values that stand alone", 2)
    def alone(self, f, W, gradient, equal):
        value, exact = self.compare(f, W, gradient)
        close(value[~equal], exact[~equal], 1e-4, "speeds of simple values")

    @holds("has the right sum where values coincide", 2)
    def total(self, f, W, gradient, equal):
        value, exact = self.compare(f, W, gradient)
        close(value[equal].sum(), exact[equal].sum(), 1e-4, "sum of the speeds there")

    @holds("has each of them, the largest first", 4)
    def each(self, f, W, gradient, equal):
        value, exact = self.compare(f, W, gradient)
        close(value[equal], exact[equal], 1e-4, "speeds there")


class Meeting(Parting):
    """Factors that learn at different rates, in balance with them; positive values coincide."""

    rates = (1.0, 2.0, 3.0)

    def factors(self, W):
        size = math.prod(self.rates) ** 0.5
        parts = balanced(W / size, len(self.rates))
        return [rate**0.5 * F for rate, F in zip(self.rates, parts, strict=True)]

    def instance(self, rng, index):
        sigma = np.array(
            ((2, 1, 1), (1.5, 1.5, 0.5), (1, 1, 1), (2, 1.2, 1.2, 1.2, 0.6), (1.8, 1.3, 1.3, 0.7))[
                index
            ]
        )
        sigma = sigma * rng.uniform(0.8, 1.2)
        equal = np.array([np.sum(np.abs(sigma - s) < 1e-9) > 1 for s in sigma])
        n = len(sigma)
        W = self.matrix(rng, sigma)
        return {"W": W, "gradient": rng.standard_normal((n, n)), "equal": equal}


class Leaving(Parting):
    """Two factors out of balance; several values are zero."""

    offset = 0.5

    def factors(self, W):
        return offset_factors(W, self.offset)

    def instance(self, rng, index):
        sigma = np.array(
            ((2, 0, 0), (1.5, 1, 0, 0), (1.2, 0, 0, 0), (2, 1.5, 0.7, 0, 0), (1, 0, 0))[index]
        )
        sigma = sigma * rng.uniform(0.8, 1.2)
        n = len(sigma)
        W = self.matrix(rng, sigma)
        return {"W": W, "gradient": rng.standard_normal((n, n)), "equal": sigma == 0}
