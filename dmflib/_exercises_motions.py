r"""Exercises of the chapters that ask for a motion: where it is, how long it takes, how it ends."""

import numpy as np

from dmflib.matrices import effective_rank_of_spectrum
from dmflib.property_tests import Task, at_least, at_most, close, holds, returned


def _integral(function, start, end, panels=60):
    """Gauss and Legendre's rule on equal panels, for smooth functions."""
    nodes, weights = np.polynomial.legendre.leggauss(10)
    half = (end - start) / panels / 2
    centres = start + half * (2 * np.arange(panels)[:, None] + 1)
    return half * (function(centres + half * nodes) @ weights).sum()


class _PeriodTwo(Task):
    """Identical start, two values for ever (a): the orbit of period two at depth 2."""

    function = "period_two"

    def instance(self, rng, index):
        return {"kappa": (1.0001, 2.0)[index] if index < 2 else float(1 + rng.exponential())}

    @holds("returns two positive numbers, the larger first")
    def ordered(self, f, kappa):
        x, y = returned(f(kappa), (2,))
        at_least(y, 1e-300, "second number")
        at_most(y, x * (1 - 1e-6), "second number")

    @holds("is an orbit: a step of descent takes each number to the other")
    def orbit(self, f, kappa):
        x, y = returned(f(kappa), (2,))
        at_least(abs(x - y), 1e-6, "distance of the two numbers")
        close(x * (1 + kappa * (1 - x**2)), y, 1e-9, "one step from the first")
        close(y * (1 + kappa * (1 - y**2)), x, 1e-9, "one step from the second")


class _PerturbationRatio(Task):
    """Perturbed start, a ratio to order: how much smaller the first factor of three must be."""

    function = "perturbation_ratio"

    def instance(self, rng, index):
        return {"delay": (3.0, 1.01)[index] if index < 2 else float(1 + 10 ** rng.uniform(-1, 1.5))}

    @staticmethod
    def _ratio(f, delay):
        ratio = returned(f(delay), ())
        at_least(ratio, 1e-300, "β/α")
        at_most(ratio, 1 - 1e-12, "β/α")
        return ratio

    @holds("lies between 0 and 1")
    def inside(self, f, delay):
        self._ratio(f, delay)

    @holds("falls when the delay grows")
    def falls(self, f, delay):
        longer = self._ratio(f, 1.5 * delay)
        at_most(longer, self._ratio(f, delay) * (1 - 1e-6), "β/α for a delay 1.5 times as long")

    @holds("makes -λ the given number of times as late as λ")
    def delays(self, f, delay):
        ratio = self._ratio(f, delay)
        # With x = √κ sinh u the integrands 1/(κ + x²) of both times become 1/cosh u.
        start = np.arcsinh((1 - ratio) / np.sqrt(ratio * (2 - ratio)))
        late = _integral(lambda u: 1 / np.cosh(u), -40, start)
        early = _integral(lambda u: 1 / np.cosh(u), start, start + 40)
        close(late / early, delay, 1e-7 * delay, "quotient of the two times, by quadrature")


class _InfiniteDepthTime(Task):
    """Singular values, infinitely deep: the time from a small value to a larger one."""

    function = "infinite_depth_time"

    def instance(self, rng, index):
        target = float(rng.uniform(0.5, 4))
        start = 1e-6 if index == 0 else float(target * 10 ** rng.uniform(-3, -1))
        share = 0.9999 if index == 1 else rng.uniform(0.2, 0.95)
        return {"value": float(share * target), "target": target, "start": start}

    @holds("is positive and adds up along the way")
    def adds_up(self, f, value, target, start):
        middle = np.sqrt(start * value)
        whole = returned(f(value, target, start), ())
        at_least(whole, 1e-300, "time")
        parts = returned(f(middle, target, start), ()) + returned(f(value, target, middle), ())
        close(parts, whole, 1e-9 * whole, f"times by way of {middle:.4g}, against the whole")

    @holds("moves at the speed σ²(s - σ)")
    def speed(self, f, value, target, start):
        step = 1e-4 * min(value, target - value)
        time = returned(f(value + step, target, value - step), ())
        at_least(time, 1e-300, "time")
        speed = value**2 * (target - value)
        close(2 * step / time, speed, 1e-6 * speed, f"speed at σ = {value:.6g}")

    @holds("is accurate to nine digits, from a tiny start and near the target too")
    def accurate(self, f, value, target, start):
        # In u = ln(σ/(s - σ)) the law is du/dτ = s σ, and 1/σ = (1 + exp(-u))/s.
        begin, end = (np.log(sigma / (target - sigma)) for sigma in (start, value))
        expected = _integral(lambda u: (1 + np.exp(-u)) / target**2, begin, end)
        close(returned(f(value, target, start), ()), expected, 1e-9 * expected, "time")


class _SignChangeTime(Task):
    """Norm blow-up, depth one: when the determinant of the flow from a scaled identity is zero."""

    function = "sign_change_time"

    def instance(self, rng, index):
        scale = (1e-6, 30.0)[index] if index < 2 else float(10 ** rng.uniform(-3, 1))
        return {"scale": scale}

    @staticmethod
    def _determinant(scale, t):
        # W11 = scale, W12 = W21 = 1 - exp(-t), W22 = scale * exp(-t), without cancellation
        root = 2 * np.sinh(t / 2)
        return np.exp(-t) * (scale - root) * (scale + root)

    @staticmethod
    def _time(f, scale):
        t = returned(f(scale), ())
        at_least(t, 1e-300, "time")
        return t

    @holds("is a positive time")
    def positive(self, f, scale):
        self._time(f, scale)

    @holds("is where the determinant turns from positive to negative")
    def changes(self, f, scale):
        t = self._time(f, scale)
        before, after = (self._determinant(scale, factor * t) for factor in (1 - 1e-3, 1 + 1e-3))
        at_least(before, 0.0, "the determinant a thousandth earlier")
        at_most(after, 0.0, "the determinant a thousandth later")

    @holds("is accurate to nine digits, for a tiny scale too")
    def accurate(self, f, scale):
        t = self._time(f, scale)
        slope = np.exp(-t) * 2 * scale * np.cosh(t / 2)  # minus the derivative at the zero
        close(self._determinant(scale, t) / slope, 0.0, 1e-9 * abs(t), "distance to the zero")


class _EntropyRankGradient(Task):
    """Effective rank, when growing lowers the rank: the derivative by each singular value."""

    function = "entropy_rank_gradient"

    def instance(self, rng, index):
        sigma = 10 ** rng.uniform(-2, 1, int(rng.integers(3, 8)))
        if index == 0:  # the second value is above its share, although it is not the largest
            sigma = np.array([1.0, 0.9, 0.02, 0.02, 0.02, 0.02])
        return {"sigma": np.sort(sigma)[::-1].copy()}

    @staticmethod
    def _by_logarithm(f, sigma):
        """Derivatives by the logarithms of the values."""
        return sigma * returned(f(sigma), sigma.shape)

    @holds("says that the rank does not change if all values grow in proportion")
    def homogeneous(self, f, sigma):
        parts = self._by_logarithm(f, sigma)
        at_least(np.abs(parts).max(), 1e-9, "largest of the derivatives, times its value")
        close(parts.sum(), 0.0, 1e-9 * np.abs(parts).sum(), "sum of derivatives times values")

    @holds("is positive for the values whose share is below 1/erank, negative for the others")
    def signs(self, f, sigma):
        share = sigma * effective_rank_of_spectrum(sigma) / sigma.sum()
        clear = np.abs(share - 1) > 1e-6
        found = np.sign(self._by_logarithm(f, sigma))
        close(found[clear], np.sign(1 - share)[clear], 0.5, "signs of the derivatives")

    @holds("agrees with difference quotients")
    def agrees(self, f, sigma):
        step = 1e-4
        ahead, behind = (
            effective_rank_of_spectrum(sigma * np.exp(sign * step * np.eye(len(sigma))))
            for sign in (1, -1)
        )
        expected = (ahead - behind) / (2 * step)
        close(self._by_logarithm(f, sigma), expected, 1e-6, "derivatives times values")


class _NeutralRate(Task):
    """Weight normalization, by hand (b): the rate of the length at which nothing is magnified."""

    function = "neutral_rate"

    def instance(self, rng, index):
        start = float(10 ** rng.uniform(-1, 1))
        if index < 2:
            return {"start": 1.0, "end": (2.0, 1 + 1e-7)[index]}
        return {
            "start": start,
            "end": float(start * 10 ** (rng.choice([-1, 1]) * rng.uniform(0.1, 2))),
        }

    @holds("lies between the squares of the two lengths")
    def between(self, f, start, end):
        kappa, squares = returned(f(start, end), ()), (start**2, end**2)
        at_least(kappa, min(squares), "rate")
        at_most(kappa, max(squares), "rate")

    @holds("does not care which length comes first")
    def symmetric(self, f, start, end):
        kappa = returned(f(start, end), ())
        at_least(kappa, 1e-300, "rate")
        close(returned(f(end, start), ()), kappa, 1e-7 * kappa, "rate for the way back")

    @holds("makes ρ one, to ten digits, for nearly equal lengths too")
    def neutral(self, f, start, end):
        # (end² - start²)/ln(end²/start²) without the two differences
        exact = _integral(lambda s: start ** (2 - 2 * s) * end ** (2 * s), 0, 1)
        close(returned(f(start, end), ()), exact, 1e-11 * exact, "rate")


class _TooEarly(Task):
    """Rating dynamics, a table with one rating: how much too early the bound is."""

    function = "too_early"

    def instance(self, rng, index):
        rating = float(rng.uniform(1, 5))
        depth, start, level = (
            int(rng.integers(1, 6)),
            10 ** rng.uniform(-4, -2),
            rng.uniform(0.1, 0.9),
        )
        if index < 2:
            depth, start, level = ((6, 1e-16, 0.01), (2, 1e-3, 0.9))[index]
        return {
            "rating": rating,
            "depth": depth,
            "start": float(start),
            "level": float(level * rating),
        }

    @holds("is positive and adds up along the way")
    def adds_up(self, f, rating, depth, start, level):
        middle = np.sqrt(start * level)
        whole = returned(f(rating, depth, start, level), ())
        at_least(whole, 1e-300, "difference of the times")
        parts = [returned(f(rating, depth, *way), ()) for way in ((start, middle), (middle, level))]
        close(sum(parts), whole, 1e-7 * whole, f"sum by way of {middle:.4g}, against the whole")

    @holds("is at most 2L/(b - L) times the bound t_L")
    def bounded(self, f, rating, depth, start, level):
        bound = _integral(
            lambda u: np.exp(u * (2 / depth - 1)) / (depth * (rating + np.exp(u))),
            np.log(start),
            np.log(level),
        )
        difference = returned(f(rating, depth, start, level), ())
        at_least(difference, 1e-300, "difference of the times")
        at_most(difference, 2 * level / (rating - level) * bound, "difference of the times")

    @holds("is accurate to eight digits, where both times are huge too")
    def accurate(self, f, rating, depth, start, level):
        # the difference of the integrands, in u = ln σ
        expected = _integral(
            lambda u: 2 * np.exp(2 * u / depth) / (depth * (rating**2 - np.exp(2 * u))),
            np.log(start),
            np.log(level),
        )
        close(returned(f(rating, depth, start, level), ()), expected, 1e-8 * expected, "difference")


class _GeodesicEnd(Task):
    """Riemannian geometry, depth two (c): where a geodesic of positive matrices ends."""

    function = "geodesic_end"

    def instance(self, rng, index):
        n = int(rng.integers(2, 5))
        root, S = rng.standard_normal((2, n, n))
        A, S = root @ root.T + 0.2 * np.eye(n), S + S.T
        if index == 0:  # S does not commute with A, and both its values are negative
            A, S = np.array([[2.0, 1.0], [1.0, 3.0]]), -np.diag([1.0, 0.25])
        if np.linalg.eigvalsh(S)[0] > -0.1:
            S = -S
        return {"A": A, "Z": S @ A + A @ S}

    @staticmethod
    def _factors(A, Z, times):
        """Eigenvalues of I + sS at the times, with SA + AS = Z solved entry by entry."""
        eye = np.eye(len(A))
        S = np.linalg.solve(np.kron(A, eye) + np.kron(eye, A), Z.ravel()).reshape(A.shape)
        return np.linalg.eigvalsh(eye + np.multiply.outer(times, (S + S.T) / 2))

    @staticmethod
    def _end(f, A, Z):
        end = returned(f(A, Z), ())
        at_least(end, 1e-300, "end")
        return end

    @holds("is a positive time")
    def positive(self, f, A, Z):
        self._end(f, A, Z)

    @holds("is a time at which the geodesic has a matrix of lower rank")
    def singular(self, f, A, Z):
        factors = self._factors(A, Z, self._end(f, A, Z))
        least = np.abs(factors).min() / np.abs(factors).max()
        at_most(least, 1e-8, "least eigenvalue of I + sS, relative to the largest")

    @holds("is the first such time")
    def first(self, f, A, Z):
        times = self._end(f, A, Z) * np.linspace(0, 0.999, 50)
        at_least(self._factors(A, Z, times).min(), 0.0, "least eigenvalue of I + sS before")


TASKS = (
    _PeriodTwo,
    _PerturbationRatio,
    _InfiniteDepthTime,
    _SignChangeTime,
    _EntropyRankGradient,
    _NeutralRate,
    _TooEarly,
    _GeodesicEnd,
)
