"""Tests of the problem set on the perturbed start. You may read them; they hold no solutions."""

import itertools
import math

import numpy as np
from scipy.integrate import solve_ivp

from dmflib.property_tests import FailedError, Task, at_least, at_most, close, holds, returned

# --- the flows that all problems are about ------------------------------------------------------


class Flow:
    """Gradient flow of numbers whose product, with powers, is to become an eigenvalue."""

    powers = (1, 1)  #: the product is ``d[0] ** powers[0] * d[1] ** powers[1] * ...``
    rates = (1.0, 1.0)  #: at which the numbers learn

    def product(self, d):
        """What is compared with the eigenvalue."""
        return math.prod(x**power for x, power in zip(d, self.powers, strict=True))

    def follow(self, start, eigenvalue, stop, longest, rtol=1e-11):
        """Integrate until `stop(d)` changes its sign, or to the longest time."""
        powers, rates = self.powers, self.rates
        others = [[k - (i == j) for j, k in enumerate(powers)] for i in range(len(powers))]
        weights = [rate * power for rate, power in zip(rates, powers, strict=True)]

        def velocity(t, d):
            d = d.tolist()
            slopes = [math.prod(map(pow, d, exponents)) for exponents in others]
            residual = eigenvalue - math.prod(map(pow, d, powers))
            return [w * residual * slope for w, slope in zip(weights, slopes, strict=True)]

        def event(t, d):
            return stop(d, velocity(t, d))

        event.terminal = True
        return solve_ivp(
            velocity,
            (0, longest),
            np.array(start, dtype=float),
            method="DOP853",
            events=event,
            rtol=rtol,
            atol=1e-3 * rtol,
        )


# --- problem 1: what is found -------------------------------------------------------------------


class Found(Task, Flow):
    """What both variants of the first problem share."""

    function = "final_product"

    def spectrum(self, rng):
        """A symmetric target with eigenvalues of both signs, none near zero."""
        eigenvalues = rng.choice([-1, 1], 4) * rng.uniform(0.5, 2, 4)
        eigenvalues[:2] = np.abs(eigenvalues[:2]) * (1, -1)
        Q = np.linalg.qr(rng.standard_normal((4, 4)))[0]
        return (Q * eigenvalues) @ Q.T

    def end(self, start, eigenvalue):
        """Product at the end of a simulation, which stops where nothing moves any more."""

        def moving(d, velocity):
            return max(map(abs, velocity)) - 3e-5

        return self.product(self.follow(start, eigenvalue, moving, 400).y[:, -1])

    def crosses(self, start):
        """Say whether the flow finds an eigenvalue of the other sign."""
        other = -np.sign(self.product(start))
        return abs(self.end(start, other) - other) < 0.1

    def values(self, f, target, starts):
        """Eigenvalues of the target and of the answer in the target's basis, and what is off."""
        W = returned(f(target, starts), target.shape)
        at_least(np.ptp(np.diag(W)), 1e-3, "spread of the diagonal")
        tries = itertools.product((0.5, 1.0, 2.0), repeat=len(starts))
        gaps = [np.abs(returned(f(target, t), target.shape) - target).max() for t in tries]
        at_least(max(gaps), 1e-3, "distance from the target, from the worst of many starts")
        at_most(min(gaps), 1e-3, "distance from the target, from the best of many starts")
        eigenvalues, V = np.linalg.eigh(target)
        turned = V.T @ W @ V
        return eigenvalues, np.diag(turned), turned - np.diag(np.diag(turned))

    @holds("holds eigenvalues of the target, or zeros, in its eigenvectors", 2)
    def rest(self, f, target, starts):
        eigenvalues, values, off = self.values(f, target, starts)
        close(off, 0, 1e-8, "entries off the diagonal, in the eigenvectors of the target")
        close(values * (values - eigenvalues), 0, 1e-8, "value * (value - eigenvalue)")

    @holds("has those of the sign of the start", 2)
    def same_sign(self, f, target, starts):
        eigenvalues, values, _ = self.values(f, target, starts)
        same = eigenvalues * self.product(starts) > 0
        close(values[same], eigenvalues[same], 1e-8, "eigenvalues of the sign of the start")

    @holds("has those of the other sign just where the flow finds them", 5)
    def other_sign(self, f, target, starts):
        eigenvalues, values, _ = self.values(f, target, starts)
        other = eigenvalues * self.product(starts) < 0
        ends = [self.end(starts, eigenvalue) for eigenvalue in eigenvalues[other]]
        close(
            values[other], ends, 2e-3, "eigenvalues of the other sign, compared with a simulation"
        )


class Tied(Found):
    """One factor stands several times in the product."""

    power = 2

    @property
    def powers(self):
        """The first number counts `power` times."""
        return (self.power, 1)

    def instance(self, rng, index):
        while True:
            share = rng.uniform(0.2, 0.97 if index < 2 else 1.6)
            start = rng.uniform(0.7, 1.1) * np.array([1, share])
            finds = {self.crosses(start * [1, change]) for change in (0.96, 1, 1.04)}
            if finds == {index % 2 == 0}:  # and not close to where this changes
                start *= rng.choice([-1, 1], 2)
                return {"target": self.spectrum(rng), "starts": tuple(map(float, start))}


class Rates(Found):
    """Three factors that learn at different rates."""

    powers = (1, 1, 1)
    rates = (1.0, 4.0, 0.25)

    def instance(self, rng, index):
        while True:
            start = rng.integers(1, 7, 3) / 4
            low = np.count_nonzero(start == start.min())
            if (index == 1 and np.unique(start).size < 3) or (index == 2 and low == 1):
                continue  # equal starts mean nothing by themselves
            if self.crosses(start) == (index % 2 == 0):
                start *= rng.choice([-1, 1], 3)
                return {"target": self.spectrum(rng), "starts": tuple(map(float, start))}


# --- problem 2: when a value crosses zero -------------------------------------------------------


class Crossing(Task, Flow):
    """What both variants of the second problem share."""

    function = "time_of_crossing"

    def simulated(self, eigenvalue, starts, longest=1e6, rtol=1e-11):
        """Time at which the product is zero in a simulation; infinite if it is never."""
        run = self.follow(starts, eigenvalue, lambda d, v: self.product(d), longest, rtol)
        return run.t_events[0][0] if run.t_events[0].size else np.inf

    def instance(self, rng, index):
        while True:
            starts = rng.uniform(0.3, 1.5, len(self.powers))
            eigenvalue = float(-rng.uniform(0.5, 3))
            if self.simulated(eigenvalue, starts, 40.0, 1e-6) < np.inf:
                return {"eigenvalue": eigenvalue, "starts": tuple(map(float, starts))}

    def time(self, f, eigenvalue, starts):
        """The answer, if it is a positive number."""
        value = returned(f(eigenvalue, starts), ())
        at_least(value, 1e-12, "time")
        return value

    def compare(self, f, eigenvalue, starts):
        """Compare the answer with a simulation."""
        exact = self.simulated(eigenvalue, starts)
        close(self.time(f, eigenvalue, starts) / exact, 1, 1e-6, "time over the simulated one")

    @holds("is the time that a simulation takes", 4)
    def simulation(self, f, eigenvalue, starts):
        self.compare(f, eigenvalue, starts)

    @holds("is right where the eigenvalue is large", 2)
    def large(self, f, eigenvalue, starts):
        exact = self.simulated(1e3 * eigenvalue, starts)
        quotient = self.time(f, 1e3 * eigenvalue, starts) / exact
        close(quotient, 1, 5e-3, "time over the simulated one")

    @holds("is right where the eigenvalue is small against the start", 2)
    def small(self, f, eigenvalue, starts):
        self.compare(f, 0.03 * eigenvalue, starts)

    @holds("scales like the flow", 2)
    def scaling(self, f, eigenvalue, starts):
        degree, factor = sum(self.powers), 1.7
        scaled = tuple(factor * start for start in starts)
        quotient = self.time(f, factor**degree * eigenvalue, scaled)
        quotient /= self.time(f, eigenvalue, starts)
        close(quotient * factor ** (2 * degree - 2), 1, 1e-7, "quotient of times, rescaled")


class TiedCrossing(Crossing):
    """One factor stands several times in the product."""

    power = 2

    @property
    def powers(self):
        """The first number counts `power` times."""
        return (self.power, 1)


class RatesCrossing(Crossing):
    """Three factors that learn at different rates."""

    powers = (1, 1, 1)
    rates = (1.0, 4.0, 0.25)


# --- problem 3: how long a value waits, from a small start --------------------------------------


class Waiting(Task, Flow):
    """Leading order of the times at which half of an eigenvalue of either sign is found."""

    function = "waiting_times"
    longest = 0.45  #: share
    depth = 2  #: how many numbers there are
    power = 1  #: how often the last of them counts
    rate = 1.0  #: at which the first, smaller one learns

    @property
    def powers(self):
        """How often each number counts."""
        return (1,) * (self.depth - 1) + (self.power,)

    @property
    def rates(self):
        """At which each number learns."""
        return (self.rate,) + (1.0,) * (self.depth - 1)

    def instance(self, rng, index):
        return {"share": float(self.longest * (1 - 0.9 * rng.random() * (index > 0)))}

    def start(self, scale, share):
        """All numbers at the start."""
        return np.array((share * scale,) + (scale,) * (self.depth - 1))

    def simulated(self, sign, share):
        """Coefficient of the leading power of the scale, from simulations at two scales."""
        power, times = sum(self.powers) - 2, []
        for scale in (1e-3, 5e-4):
            run = self.follow(
                self.start(scale, share), sign, lambda d, v: self.product(d) - sign / 2, 1e12
            )
            times.append(run.t_events[0][0])
        return (times[1] - times[0]) * scale**power / (1 - 0.5**power)

    def answer(self, f, share):
        """Both coefficients, if they are a pair of positive numbers."""
        value = f(share)
        if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != 2:
            raise FailedError("it did not return a pair of numbers")
        plus, minus = returned(value[0], ()), returned(value[1], ())
        at_least(min(plus, minus), 1e-9, "coefficient")
        return plus, minus

    @holds("is right for positive eigenvalues", 3)
    def positive(self, f, share):
        exact = self.simulated(1, share)
        close(self.answer(f, share)[0] / exact, 1, 2e-3, "coefficient over a simulated one")

    @holds("is right for negative eigenvalues", 4)
    def negative(self, f, share):
        exact = self.simulated(-1, share)
        close(self.answer(f, share)[1] / exact, 1, 2e-3, "coefficient over a simulated one")

    @holds("treats both signs alike where the share is zero, and nowhere else", 2)
    def even(self, f, share):
        plus, minus = self.answer(f, 0.0)
        close(minus / plus, 1, 1e-9, "quotient of both at share zero")
        plus, minus = self.answer(f, share)
        at_least(minus / plus, 1 + share / 4, "quotient of both")


class TiedWaiting(Waiting):
    """One factor stands several times in the product."""

    power = 2


class RateWaiting(Waiting):
    """The first factor is smaller, and it learns at another rate."""

    depth, rate = 3, 2.0
    longest = 0.6
