"""Tests of the problem set on the identical start. You may read them; they hold no solutions."""

import math

import numpy as np
from scipy.integrate import solve_ivp

from dmflib.property_tests import Task, at_least, at_most, close, holds, returned

# --- problem 1: where the product comes to rest -------------------------------------------------


class Resting(Task):
    """What both variants of the first problem share: a target, equal factors, and a pull back."""

    function = "resting_product"
    depth = 3

    def speed(self, product, eigenvalue):
        """Velocity of an eigenvalue of the product, where the target has `eigenvalue`."""
        raise NotImplementedError

    def instance(self, rng, index):
        while True:
            scale = float(rng.uniform(0.2, 0.7) if index % 2 else rng.uniform(0.6, 1.4))
            pool = rng.uniform(0, 4, 40)
            pool = pool[self.decided(pool, scale)]
            scales = np.repeat([scale, 1.6], len(pool))
            ends, others = np.split(self.ends(np.tile(pool, 2), scales), 2)
            found = pool[ends > 0.05]
            lost = pool[(ends < 0.05) & (others > 0.05)]  # found from a larger start
            if found.size and (lost.size or index % 2 == 0):
                eigenvalues = np.unique([-rng.uniform(0.5, 2), found[0], *lost[:1], *pool[-2:]])
                Q = np.linalg.qr(rng.standard_normal((len(eigenvalues),) * 2))[0]
                return {"target": (Q * eigenvalues) @ Q.T, "scale": scale}

    def decided(self, eigenvalues, scale):
        """Say which eigenvalues do not start near a point where they would stand still."""
        near = self.speed(scale**self.depth * np.array([[0.9], [1.0], [1.1]]), eigenvalues)
        return (np.abs(near) > 0.01 * scale**2).all(axis=0) & (np.ptp(np.sign(near), axis=0) == 0)

    def ends(self, eigenvalues, scales):
        """Where a simulation of the flow arrives after a long time."""
        run = solve_ivp(
            lambda t, p: self.speed(np.maximum(p, 0), eigenvalues),
            (0, 3e4),
            np.broadcast_to(scales, eigenvalues.shape) ** self.depth,
            method="LSODA",
            rtol=1e-9,
            atol=1e-12,
            lband=0,
            uband=0,
        )
        return run.y[:, -1]

    def values(self, f, target, scale):
        """Eigenvalues of the target and of the answer in the target's basis, and what is off."""
        W = returned(f(target, scale), target.shape)
        at_least(np.ptp(np.diag(W)), 1e-3, "spread of the diagonal")
        eigenvalues, V = np.linalg.eigh(target)
        turned = V.T @ W @ V
        return eigenvalues, np.diag(turned), turned - np.diag(np.diag(turned))

    @holds("is diagonal where the target is, and without negative eigenvalues", 2)
    def diagonal(self, f, target, scale):
        _, values, off = self.values(f, target, scale)
        close(off, 0, 1e-8, "entries off the diagonal, in the eigenvectors of the target")
        at_least(values.min(), -1e-10, "smallest eigenvalue")

    @holds("is at rest there", 3)
    def rest(self, f, target, scale):
        eigenvalues, values, _ = self.values(f, target, scale)
        at_least(values.max(), 1e-3, "largest eigenvalue")
        close(self.speed(np.maximum(values, 0), eigenvalues), 0, 1e-7, "velocity of eigenvalues")

    @holds("is where the flow goes from this start", 4)
    def reached(self, f, target, scale):
        eigenvalues, values, _ = self.values(f, target, scale)
        close(
            values, self.ends(eigenvalues, scale), 1e-5, "eigenvalues, compared with a simulation"
        )


class Decay(Resting):
    """Weight decay: each factor is pulled to zero in proportion to itself."""

    decay = 0.3

    def speed(self, product, eigenvalue):
        N = self.depth
        pull = self.decay * product
        return N * (product ** (2 - 2 / N) * (eigenvalue - product) - pull)


class Tilt(Resting):
    """The square of the product is fitted, and its trace is penalised."""

    depth = 2
    tilt = 1.0

    def speed(self, product, eigenvalue):
        N = self.depth
        drive = 2 * product * (eigenvalue - product**2) - self.tilt
        return N * product ** (2 - 2 / N) * drive


# --- problem 2: the time on the way -------------------------------------------------------------


class Timing(Task):
    """Two equal factors, and the loss is a power of the distance of eigenvalues."""

    function = "time_needed"
    power = 4.0

    def instance(self, rng, index):
        eigenvalue = float((-1 if index % 3 == 2 else 1) * rng.uniform(0.5, 2.5))
        limit = max(eigenvalue, 0.0)
        start = float(10 ** rng.uniform(-4, -1) if index % 3 == 0 else limit + rng.uniform(0.5, 2))
        share = rng.uniform(0.5, 0.95)
        return {
            "eigenvalue": eigenvalue,
            "start": start,
            "end": float(start + share * (limit - start)),
        }

    def simulated(self, eigenvalue, start, end):
        """Time at which a simulation of one factor's entry arrives."""

        def velocity(t, d):
            gap = eigenvalue - d**2
            return d * np.sign(gap) * np.abs(gap) ** (self.power - 1)

        def arrival(t, d):
            return d[0] - math.sqrt(end)

        arrival.terminal = True
        run = solve_ivp(
            velocity,
            (0, 1e7),
            [math.sqrt(start)],
            method="DOP853",
            events=arrival,
            rtol=1e-11,
            atol=1e-14,
        )
        return run.t_events[0][0]

    def time(self, f, *arguments):
        """The answer, if it is a positive number."""
        value = returned(f(*arguments), ())
        at_least(value, 1e-9, "time")
        return value

    @holds("adds up: the way in two parts takes as long as the whole", 2)
    def adds(self, f, eigenvalue, start, end):
        middle = (start * end) ** 0.5
        parts = [self.time(f, eigenvalue, start, middle), self.time(f, eigenvalue, middle, end)]
        whole = self.time(f, eigenvalue, start, end)
        close(sum(parts) / whole, 1, 1e-7, "both parts over the whole")
        at_least(min(parts) / whole, 1e-4, "share of the shorter part")

    @holds("is the time that the flow takes", 4)
    def flow(self, f, eigenvalue, start, end):
        exact = self.simulated(eigenvalue, start, end)
        close(self.time(f, eigenvalue, start, end) / exact, 1, 1e-6, "time over a simulated one")

    @holds("is right for the eigenvalue zero", 2)
    def zero(self, f, eigenvalue, start, end):
        for begin, stop in ((1.0, 0.6), (1.7, 0.9)):
            exact = self.simulated(0.0, begin, stop)
            close(self.time(f, 0.0, begin, stop) / exact, 1, 1e-6, "time over a simulated one")


class Powers(Timing):
    """A high power, flat at the limit."""

    @holds("grows like the right power of one over the distance that is left", 2)
    def late(self, f, eigenvalue, start, end):
        limit = abs(eigenvalue)
        gaps = limit * np.array([1e-2, 1e-3, 1e-4])
        times = [self.time(f, limit, limit / 2, float(limit - gap)) for gap in gaps]
        first, second = np.diff(times)
        at_least(first, 1e-9, "time for one more digit")
        close(math.log10(second / first), self.power - 2, 0.02, "power")


class Roots(Timing):
    """A low power, with an edge at the limit."""

    power = 1.5

    @holds("is finite up to the limit itself, and right near it", 2)
    def arrives(self, f, eigenvalue, start, end):
        limit = abs(eigenvalue)
        whole = self.time(f, limit, limit / 2, limit)
        left = [whole - self.time(f, limit, limit / 2, limit * (1 - gap)) for gap in (1e-3, 1e-4)]
        at_least(min(left), 1e-9, "time for the last piece of the way")
        close(math.log10(left[0] / left[1]), 2 - self.power, 0.01, "power of the distance left")


# --- problem 3: how empty the second place is ---------------------------------------------------


class Lag(Task):
    """Second eigenvalue of the product when the first is half its target."""

    function = "second_value"
    instances = 3
    targets = (3.0, 2.0)  #: both eigenvalues of the target
    power = 2  #: of the loss
    tilt = 0.0  #: the factors start at ``scale * (I + tilt * target)``

    def instance(self, rng, index):
        depth = (2, 3, 4)[index % 3]
        return {"scale": float(10 ** (rng.uniform(-13, -12) / depth)), "depth": depth}

    def simulated(self, scale, depth):
        """The second value along the flow, by its logarithm."""
        first, second = self.targets
        starts = [depth * math.log(scale * (1 + self.tilt * target)) for target in self.targets]

        def slope(x, y):  # logarithm of the second against that of the first
            drive = (second - np.exp(y)) ** (self.power - 1)
            drive /= (first - np.exp(x)) ** (self.power - 1)
            return np.exp((1 - 2 / depth) * (y - x)) * drive

        span = (starts[0], math.log(first / 2))
        return solve_ivp(slope, span, [starts[1]], method="LSODA", rtol=1e-9, atol=1e-10).y[0, -1]

    def logarithms(self, f, scale, depth):
        """Logarithms of the answer and of the simulated value."""
        value = returned(f(scale, depth), ())
        at_least(value, 1e-300, "second value")
        at_most(value, 1e300, "second value")
        return math.log(value), self.simulated(scale, depth)

    @holds("falls with the scale like the right power", 3)
    def exponent(self, f, scale, depth):
        one, two = (self.logarithms(f, factor * scale, depth) for factor in (1, 0.2))
        measured = (one[1] - two[1]) / math.log(5)
        close((one[0] - two[0]) / math.log(5), measured, 0.01 * measured, "power of the scale")

    @holds("is right at depth 2, to two per cent", 3)
    def shallow(self, f, scale, depth):
        mine, exact = self.logarithms(f, scale ** (depth / 2), 2)
        close(mine, exact, 0.02, "logarithm of the second value, compared with a simulation")

    @holds("is right at depths 3 and 4, to two per cent", 3)
    def deep(self, f, scale, depth):
        for N in (3, 4):
            mine, exact = self.logarithms(f, scale ** (depth / N), N)
            close(mine, exact, 0.02, f"logarithm of the second value at depth {N}")


class LagPowers(Lag):
    """Another power of the loss."""

    power = 4


class LagStart(Lag):
    """A start that leans on the target."""
