"""Tests of the problem set on sparse recovery. You may read them; they hold no solutions."""

import numpy as np

from dmflib.property_tests import FailedError, Task, at_least, close, holds, returned

# --- problem 1: the divergence of another parameterisation --------------------------------------


class Divergence(Task):
    """What both variants of the first problem share: entries of x are functions of entries of w."""

    function = "distance_to"
    scale = 1.0

    def entry(self, w):
        """The entry x that belongs to w."""
        raise NotImplementedError

    def slope(self, w):
        """Derivative of the entry."""
        raise NotImplementedError

    def instance(self, rng, index):
        n = 2 + index
        w = rng.uniform(-1.5, 1.5, n)
        z = rng.standard_normal(n) * rng.uniform(0.5, 2)
        if index == 1:
            z[0] = w[0] = 0.0
        A = rng.standard_normal((2, n)) / 2
        return {"z": z, "x": self.entry(w), "w": w, "A": A, "y": rng.standard_normal(2)}

    def value(self, f, z, x):
        return float(returned(f(z, x), ()))

    @holds("is zero at its own point and positive elsewhere", 2)
    def positive(self, f, z, x, w, A, y):
        close(self.value(f, x, x), 0, 1e-12, "divergence of x from x")
        at_least(self.value(f, z, x), 1e-6, "divergence of z from x")
        for size in (1e-3, -1e-3):
            at_least(self.value(f, x + size, x), 1e-12, "divergence of a neighbour from x")

    @holds("falls along the flow by as much as the theorem says", 5)
    def flow(self, f, z, x, w, A, y):
        from scipy.integrate import solve_ivp

        def velocity(t, state):
            force = A.T @ (A @ self.entry(state[:-1]) - y)
            gain = force @ (self.entry(state[:-1]) - z)
            return np.append(-self.slope(state[:-1]) * force, gain)

        path = solve_ivp(velocity, (0, 1), np.append(w, 0), "DOP853", rtol=1e-10, atol=1e-12)
        *end, gain = path.y[:, -1]
        fallen = self.value(f, z, x) - self.value(f, z, self.entry(np.array(end)))
        at_least(abs(gain), 1e-9, "change along the flow")
        close(fallen, gain, 1e-6 * (1 + abs(gain)), "fall of the divergence from time 0 to 1")

    @holds("is a sum over the entries", 1)
    def separate(self, f, z, x, w, A, y):
        parts = [self.value(f, z[k : k + 1], x[k : k + 1]) for k in range(len(z))]
        at_least(max(parts), 1e-6, "largest part")
        close(self.value(f, z, x), sum(parts), 1e-10, "divergence, minus the sum of its parts")


class Sine(Divergence):
    """x is a hyperbolic sine."""

    def entry(self, w):
        return self.scale * np.sinh(w)

    def slope(self, w):
        return self.scale * np.cosh(w)


class Cubic(Divergence):
    """x is linear for small w and cubic for large."""

    def entry(self, w):
        return w + self.scale * w**3

    def slope(self, w):
        return 1 + 3 * self.scale * w**2


# --- problem 2: where other factors end ---------------------------------------------------------


class Limit(Task):
    """What both variants of the second problem share."""

    function = "flow_limit_of"
    start = 0.5

    def begin(self, n):
        """Factors at time zero, an array of shape (2, n)."""
        raise NotImplementedError

    def product(self, factors):
        """The vector x."""
        raise NotImplementedError

    def velocity(self, factors, force):
        """Velocity of the factors, where the gradient with respect to x is the force."""
        raise NotImplementedError

    def instance(self, rng, index):
        m, n = ((1, 2), (2, 5), (3, 6), (2, 6), (1, 4))[index % 5]
        A = np.linalg.qr(rng.standard_normal((n, m)))[0].T * rng.uniform(0.8, 1.3)
        z = rng.standard_normal(n) * rng.choice([0.3, 1.0])
        return {"A": A, "y": A @ z}

    def simulated(self, A, y):
        """End of the flow."""
        from scipy.integrate import solve_ivp

        n = A.shape[1]

        def velocity(t, state):
            factors = state.reshape(2, n)
            return self.velocity(factors, A.T @ (A @ self.product(factors) - y)).ravel()

        begin = self.begin(n).ravel()
        path = solve_ivp(velocity, (0, 2000), begin, "LSODA", rtol=1e-9, atol=1e-11)
        return self.product(path.y[:, -1].reshape(2, n))

    @holds("solves the equations", 2)
    def solves(self, f, A, y):
        x = returned(f(A, y), (A.shape[1],))
        at_least(np.abs(x).max(), 1e-6, "largest entry")
        close(A @ x, y, 1e-8, "A x - y")

    @holds("leaves entries where they started that no equation sees", 2)
    def unseen(self, f, A, y):
        n = A.shape[1]
        x = returned(f(np.insert(A, 1, 0, axis=1), y), (n + 1,))
        start = self.product(self.begin(n + 1))
        at_least(np.abs(x - start).max(), 1e-6, "way from the start")
        close(x[1], start[1], 1e-8, "the unseen entry, minus its start")

    @holds("is where the flow ends", 5)
    def flow(self, f, A, y):
        x = returned(f(A, y), (A.shape[1],))
        close(x, self.simulated(A, y), 1e-5, "your limit, minus the end of the flow")


class Pair(Limit):
    """x is the product of one factor and the square of another."""

    def begin(self, n):
        return np.array([np.zeros(n), np.full(n, self.start)])

    def product(self, factors):
        return factors[0] * factors[1] ** 2

    def velocity(self, factors, force):
        a, b = factors
        return np.array([-(b**2) * force, -2 * a * b * force])


class Uneven(Limit):
    """x is the difference of two different powers."""

    first, second = 2, 3

    def begin(self, n):
        return np.full((2, n), self.start)

    def product(self, factors):
        return factors[0] ** self.first - factors[1] ** self.second

    def velocity(self, factors, force):
        u, v = factors
        p, q = self.first, self.second
        return np.array([-p * u ** (p - 1) * force, q * v ** (q - 1) * force])


# --- problem 3: which entries come first --------------------------------------------------------


class Halfway(Task):
    """The entry that is half learned at a time, compared with its own flow."""

    function = "half_learned"
    depth = 2

    def velocity(self, w, goal):
        """Velocity of one of the equal factors."""
        raise NotImplementedError

    def value(self, f, t, scale):
        """The answer; fail unless it is large compared with the start."""
        value = float(returned(f(t, scale), ()))
        at_least(value, 10 * scale**self.depth, "your entry")
        return value

    def time_to_half(self, goal, t, scale):
        """When the flow has learned half of an entry; at most a thousand times t."""
        from scipy.integrate import solve_ivp

        def velocity(s, log):
            return self.velocity(np.exp(log), goal) / np.exp(log)

        def half(s, log):
            return self.depth * log[0] - np.log(goal / 2)

        half.terminal = True
        span, start = (0, 1000 * t), [np.log(scale)]
        path = solve_ivp(velocity, span, start, "LSODA", rtol=1e-10, atol=1e-12, events=half)
        return float(path.t[-1])

    @holds("is half learned at that time", 5)
    def half(self, f, t, scale):
        time = self.time_to_half(self.value(f, t, scale), t, scale)
        close(time / t, 1, 1e-5, "time when your entry is half learned, over t")

    @holds("moves with time in the right direction", 2)
    def order(self, f, t, scale):
        now, later = (self.value(f, time, scale) for time in (t, 1.02 * t))
        at_least(abs(later / now - 1), 1e-4, "relative change of your entry from t to 1.02 t")
        small, large = (self.time_to_half(factor * now, t, scale) for factor in (0.8, 1.25))
        first = "large" if large < small else "small"
        if (later < now) != (first == "large"):
            raise FailedError(f"{first} entries are learned first, so yours moves the wrong way")


class Powers(Halfway):
    """The loss is a power of the deviation."""

    power = 3.0

    def instance(self, rng, index):
        goal, scale = rng.uniform(0.3, 3), float(10 ** rng.uniform(-2.5, -1.3))
        pace = goal ** (self.power - 1)
        way = np.log(goal / scale**2) / 2 if self.depth == 2 else 1 / scale
        return {"t": float(way / pace), "scale": scale}

    def velocity(self, w, goal):
        off = np.maximum(goal - w**self.depth, 0)
        return w ** (self.depth - 1) * off ** (self.power - 1)


class Absolute(Halfway):
    """The loss is the absolute value of the deviation."""

    def instance(self, rng, index):
        goal, scale = rng.uniform(0.3, 3), float(10 ** rng.uniform(-2.5, -1.3))
        end = (goal / 2) ** (1 / self.depth)
        time = np.log(end / scale)
        if self.depth > 2:
            power = self.depth - 2
            time = (scale**-power - end**-power) / power
        return {"t": float(0.9 * time), "scale": scale}

    def velocity(self, w, goal):
        return w ** (self.depth - 1)  # on the way to half
