"""Tests of the problem set on norm blow-up. You may read them; they hold no solutions."""

import math
from decimal import Decimal, localcontext

import numpy as np

from dmflib.property_tests import FailedError, Task, at_least, at_most, close, holds, returned

# --- problem 1: a bound for another loss --------------------------------------------------------


class Bound(Task):
    """What both variants of the first problem share: a loss in three deviations."""

    function = "least_entry"
    z, z2 = 1.0, 1.0  #: observed entries beside and below the hidden one
    weights = (1.0, 1.0, 1.0)  #: of the deviations of W12, W21 and W22
    power = 2  #: the deviations' exponent; the loss has the factor 1/power

    def instance(self, rng, index):
        sizes = [w * z**self.power for w, z in zip(self.weights, (self.z, self.z2), strict=False)]
        most = min(sizes) / self.power / 3**self.power
        return {"loss": float(most * (1e-4 if index == 0 else 10 ** rng.uniform(-3, 0)))}

    def reach(self, loss):
        """How far each of the three deviations can go alone."""
        return (self.power * loss / np.array(self.weights)) ** (1 / self.power)

    def smallest(self, loss, shares):
        """Infimum of the entry where the three deviations use these shares of the loss."""
        a, b, c = np.moveaxis(self.reach(loss) * shares ** (1 / self.power), -1, 0)
        return (self.z - a) * (self.z2 - b) / c

    @holds("is a lower bound: no matrix with this loss and a positive determinant is below it", 3)
    def bound(self, f, loss):
        value = returned(f(loss), ())
        rng = np.random.default_rng(7)
        shares = rng.dirichlet([0.3, 0.3, 2.0], 4000)
        smallest = self.smallest(loss, shares).min()
        at_most(value, smallest * (1 + 1e-9), "your bound, where a smaller entry was found")
        crude = self.z * self.z2 / self.reach(loss)[2]
        at_least(value, crude / 10, "your bound, which should not be a trivial one")

    @holds("grows without bound as the loss goes to zero, at the right power", 2)
    def grows(self, f, loss):
        values = [returned(f(factor * loss), ()) for factor in (1e-6, 1e-8)]
        at_least(min(values), 1e-300, "your bound at tiny losses")
        slope = math.log(values[1] / values[0]) / math.log(100)
        close(slope, 1 / self.power, 2e-3, "exponent of one over the loss")

    @holds("is the best bound, to six digits", 4)
    def best(self, f, loss):
        value = returned(f(loss), ())
        # zoom into the simplex of shares; the first two are small
        centre, width = np.array([0.5, 0.5]), 0.5
        for _ in range(40):
            grid = np.clip(centre + width * np.mgrid[-1:1:9j, -1:1:9j].reshape(2, -1).T, 0, 1)
            grid = grid[grid.sum(axis=1) < 1]
            shares = np.column_stack([grid, 1 - grid.sum(axis=1)])
            entries = self.smallest(loss, shares)
            centre, width = grid[entries.argmin()], 0.6 * width
        close(value / entries.min(), 1, 1e-6, "your bound over the smallest entry found")


class Squares(Bound):
    """Weighted squares."""


class Absolute(Bound):
    """Weighted absolute values."""

    power = 1


# --- problem 2: the end of the run for another loss ---------------------------------------------


class PowerLoss:
    """Loss ``sum |W_ij - b_ij|^q / q`` over three observed entries of a 2x2 matrix."""

    shape = (2, 2)

    def __init__(self, power, last):
        self.power, self.target = power, np.array([[np.nan, 1.0], [1.0, last]])

    def value(self, W):
        """Loss of a matrix."""
        return float((np.abs(np.nan_to_num(W - self.target)) ** self.power).sum() / self.power)

    def gradient(self, W):
        """Gradient of the loss."""
        residual = np.nan_to_num(W - self.target)
        return np.sign(residual) * np.abs(residual) ** (self.power - 1)


class Late(Task):
    """Predictions for late times, compared with the flow itself."""

    function = "entry_at"
    instances = 3
    power = 4  #: of the loss
    last = 0.0  #: observed value of W22, zero or negative
    late = 9  #: power of ten of the time

    def instance(self, rng, index):
        depth = 2 + index
        time = 10 ** (self.late + rng.uniform(0, 1))
        return {"t": float(time), "depth": depth, "flow": self.flow(depth, time)}

    def flow(self, depth, time):
        """Hidden entry of the flow at a time and at a hundredth of it, from 0.5 times I."""
        from dmflib.norm_blowup import flow

        loss = PowerLoss(self.power, self.last)
        times = [time / 100, time]
        run = flow(depth, 0.5, loss, t_final=time, rtol=1e-6, record=times)
        return [float(run.products[np.searchsorted(run.times, t), 0, 0]) for t in times]

    @holds("is a power of the time", 2)
    def power_law(self, f, t, depth, flow):
        a, b, c = (returned(f(factor * t, depth), ()) for factor in (0.01, 1, 100))
        at_least(min(a, b, c), 1e-300, "your entry")
        close(math.log(b / a), math.log(c / b), 1e-6, "growth over two times the same factor")
        at_least(b / a, 1.01, "growth from a hundredth of the time")

    @holds("has the exponent that the flow has", 3)
    def exponent(self, f, t, depth, flow):
        a, b = (returned(f(factor * t, depth), ()) for factor in (0.01, 1))
        at_least(min(a, b), 1e-300, "your entry")
        measured = math.log(flow[1] / flow[0])
        close(math.log(b / a) / measured, 1, 0.02, "your exponent over the measured one")

    @holds("has the factor that the flow has", 3)
    def factor(self, f, t, depth, flow):
        close(returned(f(t, depth), ()) / flow[1], 1, 0.03, "your entry over the flow's")


class Powers(Late):
    """The fourth power of the deviations, or another one."""


class Below(Late):
    """An observed entry that a positive determinant cannot reach."""

    power, last, late = 3, -0.5, 7


# --- problem 3: descent that keeps the sign -----------------------------------------------------


class Descent(Task):
    """Descent at depth 2 from two equal factors, with the determinant's logarithm."""

    function = "signed_descent"
    z = 1.0  #: both observed entries off the diagonal
    weight = 1.0  #: of the square of the observed entry on the diagonal

    def instance(self, rng, index):
        size = 0.1 / max(1.0, self.z, self.weight)
        scale = float(rng.uniform(0.2, 1.0))
        return {"scale": scale, "step_size": float(size * rng.uniform(0.7, 1.3))}

    def answer(self, f, scale, step_size, steps):
        """Product and logarithm as they were returned."""
        value = f(scale, step_size, steps)
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise FailedError("it did not return a pair: the product and a logarithm")
        return returned(value[0], (2, 2)), returned(value[1], ())

    def exact(self, scale, step_size, steps):
        """Product and logarithm with eighty decimal digits."""
        with localcontext() as context:
            context.prec = 80
            a = d = Decimal(scale)
            b, eta = Decimal(0), Decimal(step_size)
            z, weight = Decimal(self.z), Decimal(self.weight)
            for _ in range(steps):
                m, n = eta * (z - b), 1 - eta * weight * d
                left, right = a + m * b, b + m * d
                below, last = m * a + n * b, m * b + n * d
                a, b, d = left + m * right, m * left + n * right, m * below + n * last
            return np.array([[a, b], [b, d]], dtype=float), float((a * d - b * b).ln())

    @holds("walks the path of gradient descent", 4)
    def path(self, f, scale, step_size):
        for steps in (1, 2, 60):
            W, _ = self.answer(f, scale, step_size, steps)
            close(W, self.exact(scale, step_size, steps)[0], 1e-9, f"product after {steps} steps")

    @holds("knows the logarithm of the determinant at the beginning", 2)
    def early(self, f, scale, step_size):
        for steps in (0, 1, 30):
            _, log = self.answer(f, scale, step_size, steps)
            close(log, self.exact(scale, step_size, steps)[1], 1e-8, f"after {steps} steps")

    @holds("and late, when the determinant is far below rounding", 4)
    def late(self, f, scale, step_size):
        W, log = self.answer(f, scale, step_size, 2500)
        product, exact = self.exact(scale, step_size, 2500)
        close(W, product, 1e-6, "product after 2500 steps")
        close(log / exact, 1, 1e-6, "logarithm over the exact one, after 2500 steps")


class Entries(Descent):
    """Other observed entries."""


class Weighted(Descent):
    """Another weight of the last entry."""
