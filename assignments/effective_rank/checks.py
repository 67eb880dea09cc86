"""Tests of the problem set on effective rank. You may read them; they hold no solutions."""

import numpy as np

from dmflib.property_tests import Task, at_least, at_most, close, holds, returned

# --- problem 1: the extreme spectra -------------------------------------------------------------


class Extremes(Task):
    """What both variants of the first problem share: spectra with a given sum of powers."""

    function = "extreme_spectra"
    power = 2.0  #: of the singular values in the sum that is given

    def instance(self, rng, index):
        size = 3 + index
        level = float(rng.uniform(1.2, size - 0.2))
        if index == 1:
            level = 2.0  # a whole number
        return {"level": level, "size": size}

    def value(self, sums):
        """The quantity to be extreme, for rows of powers ``sigma**power``."""
        raise NotImplementedError

    def rows(self, f, level, size):
        """Powers of both answers; fail unless they are spectra with this level."""
        sigma = returned(f(level, size), (2, size))
        at_least(sigma.min(), 0.0, "smallest singular value")
        close(sigma.max(axis=1), 1, 1e-9, "largest singular values")
        powers = sigma**self.power
        close(powers.sum(axis=1), level, 1e-8, "sum of the powers")
        return powers

    def exchanged(self, powers):
        """All spectra in which two values have exchanged a part of their powers."""
        first = int(powers.argmax())  # stays 1
        others = [k for k in range(len(powers)) if k != first]
        found = [powers]
        for i in others:
            for j in others[: others.index(i)]:
                both = powers[i] + powers[j]
                for share in np.linspace(max(0.0, both - 1), min(1.0, both), 41):
                    changed = powers.copy()
                    changed[i], changed[j] = share, both - share
                    found.append(np.clip(changed, 0, 1))
        return np.array(found)

    @holds("returns two spectra with the given level", 2)
    def level(self, f, level, size):
        self.rows(f, level, size)

    @holds("has a first row that no exchange between two values makes less", 3)
    def least(self, f, level, size):
        values = self.value(self.exchanged(self.rows(f, level, size)[0]))
        at_most(values[0] - values.min(), 1e-8, "gain by an exchange")

    @holds("has a second row that no exchange between two values makes larger", 3)
    def largest(self, f, level, size):
        values = self.value(self.exchanged(self.rows(f, level, size)[1]))
        at_most(values.max() - values[0], 1e-8, "gain by an exchange")


class PowerSums(Extremes):
    """The extreme quantity is another sum of powers."""

    other = 4.0  #: the power in that sum, larger than the given one

    def value(self, sums):
        return (sums ** (self.other / self.power)).sum(axis=-1)


class Entropies(Extremes):
    """The extreme quantity is the exponential of the entropy of the powers' shares."""

    def value(self, sums):
        shares = sums / sums.sum(axis=-1, keepdims=True)
        logs = np.log(np.where(shares > 0, shares, 1))
        return np.exp(-(shares * logs).sum(axis=-1))


# --- problem 2: stairs --------------------------------------------------------------------------


class Stairs(Task):
    """Times and height of a stair, compared with the flow of every eigenvalue."""

    function = "stair"
    instances = 4

    def velocity(self, d, eigenvalue):
        """How an eigenvalue d of both factors moves."""
        raise NotImplementedError

    def spectrum(self, rng, size):
        """Eigenvalues with some room between them, from large to small."""
        raise NotImplementedError

    def instance(self, rng, index):
        while True:
            values = self.spectrum(rng, 3 + index)
            scale = float(10 ** rng.uniform(-4, -2.5))
            tolerance = float(rng.uniform(0.01, 0.03))
            paths = [self.journey(value, scale, tolerance) for value in values]
            alive = sorted(path for path in paths if path is not None)
            count = int(rng.integers(1, len(alive)))
            (_, begin, _), (end, _, _) = alive[count - 1], alive[count]
            ends = np.array([path[2] for path in alive[:count]])
            if max(path[1] for path in alive[:count]) == begin and begin < 0.9 * end:
                height = float(ends.sum() / ends.max())
                drawn = {"eigenvalues": values, "scale": scale, "tolerance": tolerance}
                return drawn | {"count": count, "measured": (begin, end, height)}

    def journey(self, eigenvalue, scale, tolerance):
        """When the product's eigenvalue leaves zero, when it arrives, and where; or None."""
        from scipy.integrate import solve_ivp
        from scipy.optimize import brentq

        pace = self.velocity(1e-9, eigenvalue) / 1e-9
        if pace <= 0:
            return None
        span = (0.0, (40 - 2 * np.log(scale)) / pace)
        path = solve_ivp(
            lambda t, log: self.velocity(np.exp(log), eigenvalue) / np.exp(log),
            span,
            [np.log(scale)],
            "LSODA",
            rtol=1e-10,
            atol=1e-12,
            dense_output=True,
        )
        end = float(np.exp(2 * path.y[0, -1]))
        left = brentq(lambda t: np.exp(2 * path.sol(t)[0]) - tolerance, *span, xtol=1e-9)
        there = brentq(lambda t: np.exp(2 * path.sol(t)[0]) - end + tolerance, *span, xtol=1e-9)
        return left, there, end

    def answer(self, f, **instance):
        """The three numbers; fail unless they are a stair at all."""
        values = returned(f(**instance), (3,))
        at_least(values[0], 1e-6, "begin")
        at_least(values[1], values[0], "end, after the begin")
        return values

    @holds("begins when the last of the stair's eigenvalues arrives", 3)
    def begin(self, f, measured, **instance):
        begin = self.answer(f, **instance)[0]
        close(begin / measured[0], 1, 1e-4, "begin over the flow's")

    @holds("ends when the next eigenvalue leaves zero", 3)
    def end(self, f, measured, **instance):
        end = self.answer(f, **instance)[1]
        close(end / measured[1], 1, 1e-4, "end over the flow's")

    @holds("has the height of the eigenvalues that have arrived", 3)
    def height(self, f, measured, **instance):
        close(self.answer(f, **instance)[2], measured[2], 1e-6, "height")


class Decayed(Stairs):
    """Weight decay on both factors."""

    decay = 0.5

    def velocity(self, d, eigenvalue):
        return d * (eigenvalue - d * d) - self.decay * d

    def spectrum(self, rng, size):
        above = rng.uniform(0.3, 0.5) * np.cumprod(rng.uniform(1.8, 2.5, size))[::-1]
        below = np.sort(rng.uniform(0, 0.9 * self.decay, 2))[::-1]
        return np.concatenate([self.decay + above, below])


class Weighted(Stairs):
    """Squared errors with weights that are powers of the eigenvalues."""

    exponent = -2.0

    def velocity(self, d, eigenvalue):
        return eigenvalue**self.exponent * d * (eigenvalue - d * d)

    def spectrum(self, rng, size):
        return rng.uniform(0.2, 0.4) * np.cumprod(rng.uniform(1.6, 2.2, size))[::-1]


# --- problem 3: the rank of noise ---------------------------------------------------------------


class Noise(Task):
    """Predictions for large matrices of independent entries, compared with such matrices."""

    function = "noise_rank"
    instances = 3

    def rank(self, sigma):
        """The rank of this problem, from singular values."""
        raise NotImplementedError

    def instance(self, rng, index):
        rows = int(rng.integers(280, 320))
        cols = rows if index == 0 else int(rows * rng.uniform(0.6, 0.8) ** (-1) ** index)
        draws = rng.standard_normal((5, rows, cols))
        measured = self.rank(np.linalg.svd(draws, compute_uv=False)).mean()
        return {"rows": rows, "cols": cols, "measured": float(measured)}

    @holds("agrees with random matrices, to four per cent", 4)
    def measured(self, f, rows, cols, measured):
        value = returned(f(rows, cols), ())
        close(value / measured, 1, 0.04, "your rank over the measured one")

    @holds("grows with the size and does not care which side is longer", 2)
    def size(self, f, rows, cols, measured):
        cols += 7  # not square
        value, turned, double = (
            returned(f(*sides), ()) for sides in ((rows, cols), (cols, rows), (2 * rows, 2 * cols))
        )
        at_least(value, 1.0, "your rank")
        close(turned / value, 1, 1e-6, "rank of the transpose, over the rank")
        close(double / value, 2, 1e-6, "rank at twice the size, over the rank")

    @holds("is nearly full for a long strip", 2)
    def strip(self, f, rows, cols, measured):
        for count in (rows, 5):
            value = returned(f(count, count * 10**6), ())
            close(value / count, 1, 0.02, f"your rank of {count} very long rows, over {count}")


class Shares(Noise):
    """Rényi's rank of the shares of the squared singular values."""

    power, kind = 2.0, "shares"

    def rank(self, sigma):
        shares = sigma**2 / (sigma**2).sum(axis=-1, keepdims=True)
        return (shares**self.power).sum(axis=-1) ** (1 / (1 - self.power))


class Largest(Noise):
    """A sum of powers over the power of the largest value."""

    power, kind = 1.0, "largest"

    def rank(self, sigma):
        return ((sigma / sigma[..., :1]) ** self.power).sum(axis=-1)
