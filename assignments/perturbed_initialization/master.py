"""Problem set to the chapter on the perturbed start: shared factors and unequal rates."""

import numpy as np

from assignments.perturbed_initialization import checks
from course.authoring import Experiment, Implement, ProblemSet, Variant, Write, drawn, wrong

# --- problem 1 ----------------------------------------------------------------------------------

TIED = r"""
Share a factor: $W=Y\,X^{@power}$ with two matrices $X$ and $Y$, which start at $x_0I$ and $y_0I$ and follow the gradient flow of $\frac12\lVert YX^{@power}-\hat W\rVert_F^2$, where $\hat W$ is symmetric. `starts` is $(x_0,y_0)$; neither is zero.
"""
RATES = r"""
Three factors learn at different rates: $W=W_3W_2W_1$, $\dot W_j=-\rho_j\nabla_{W_j}\ell$ with $(\rho_1,\rho_2,\rho_3)=@rates$ and $\ell=\frac12\lVert W-\hat W\rVert_F^2$, where $\hat W$ is symmetric. They start at $d_1I$, $d_2I$ and $d_3I$. `starts` is $(d_1,d_2,d_3)$; none of them is zero, and any may be negative.
"""
FOUND = r"""
Write `final_product(target, starts)`, which returns the limit of $W$ for $t\to\infty$, where `target` is $\hat W$, which has no eigenvalue zero. Eigenvalues of one sign are always found. Which ones, and under which condition on the start are the others? Numbers that agree up to rounding count as equal.
"""


class Tied(Variant):
    """A shared factor."""

    task = checks.Tied
    text = TIED + FOUND

    @staticmethod
    def draw(rng):
        return {"power": int(rng.choice([2, 3]))}

    @staticmethod
    def final_product(target, starts):
        """Limit of the product."""
        ### BEGIN SOLUTION
        k = drawn.power
        x, y = starts
        eigenvalues, V = np.linalg.eigh(target)
        # x^2 - k y^2 is conserved; x cannot change its sign, and y can if that number is positive
        both = x**2 - k * y**2 > 1e-12
        found = both | (np.sign(eigenvalues) == np.sign(x**k * y))
        return (V * np.where(found, eigenvalues, 0)) @ V.T
        ### END SOLUTION

    @staticmethod
    @wrong(
        "compares the starts themselves, as for two simple factors: the conserved number is not derived",
        keeps=("rest", "same_sign"),
    )
    def plain_difference(target, starts):
        x, y = starts
        eigenvalues, V = np.linalg.eigh(target)
        found = (x**2 > y**2) | (np.sign(eigenvalues) == np.sign(x**drawn.power * y))
        return (V * np.where(found, eigenvalues, 0)) @ V.T

    @staticmethod
    @wrong(
        "takes any difference for enough: does not see which of the two numbers must cross",
        keeps=(),
    )
    def any_difference(target, starts):
        return target

    @staticmethod
    @wrong("puts the power on the wrong side of the conserved number", keeps=("rest", "same_sign"))
    def wrong_side(target, starts):
        x, y = starts
        eigenvalues, V = np.linalg.eigh(target)
        found = (drawn.power * x**2 > y**2) | (np.sign(eigenvalues) == np.sign(x**drawn.power * y))
        return (V * np.where(found, eigenvalues, 0)) @ V.T


class Rates(Variant):
    """Three rates."""

    task = checks.Rates
    text = RATES + FOUND

    @staticmethod
    def draw(rng):
        rates = ((1.0, 4.0, 0.25), (0.25, 1.0, 4.0), (4.0, 0.25, 4.0), (1.0, 4.0, 1.0))
        return {"rates": rates[rng.integers(4)]}

    @staticmethod
    def final_product(target, starts):
        """Limit of the product."""
        ### BEGIN SOLUTION
        eigenvalues, V = np.linalg.eigh(target)
        # d_i^2 / rate_i - d_j^2 / rate_j is conserved
        heights = np.sort(np.square(starts) / np.array(drawn.rates))
        both = heights[1] > heights[0] * (1 + 1e-12)
        found = both | (np.sign(eigenvalues) == np.sign(np.prod(starts)))
        return (V * np.where(found, eigenvalues, 0)) @ V.T
        ### END SOLUTION

    @staticmethod
    @wrong(
        "looks for a tie of the starts themselves: the rates change what is conserved",
        keeps=("rest", "same_sign"),
    )
    def plain_tie(target, starts):
        eigenvalues, V = np.linalg.eigh(target)
        sizes = np.sort(np.abs(starts))
        found = (sizes[1] > sizes[0]) | (np.sign(eigenvalues) == np.sign(np.prod(starts)))
        return (V * np.where(found, eigenvalues, 0)) @ V.T

    @staticmethod
    @wrong(
        "divides by the rate where its root belongs",
        keeps=("rest", "same_sign"),
    )
    def no_root(target, starts):
        eigenvalues, V = np.linalg.eigh(target)
        heights = np.sort(np.abs(starts) / np.array(drawn.rates))
        found = (heights[1] > heights[0]) | (np.sign(eigenvalues) == np.sign(np.prod(starts)))
        return (V * np.where(found, eigenvalues, 0)) @ V.T

    @staticmethod
    @wrong("takes different rates for enough, and every start for a good one", keeps=())
    def always(target, starts):
        return target


# --- problem 2 ----------------------------------------------------------------------------------

CROSSING = r"""
Here all starts are positive, the target has the negative eigenvalue `eigenvalue`, and the start is one from which it is found. Write `time_of_crossing(eigenvalue, starts)`: the time at which the eigenvalue of $W$ that belongs to it is zero, to seven digits. An integral over one number is as good as a closed form.
"""


class TiedCrossing(Variant):
    """A shared factor."""

    task = checks.TiedCrossing
    text = TIED + CROSSING

    @staticmethod
    def draw(rng):
        return {"power": int(rng.choice([2, 3]))}

    @staticmethod
    def time_of_crossing(eigenvalue, starts):
        """Time at which the product is zero."""
        ### BEGIN SOLUTION
        from scipy.integrate import quad

        k, size = drawn.power, abs(eigenvalue)
        x, y = starts
        kept = x**2 - k * y**2

        # y = sqrt(kept / k) sinh(theta), x = sqrt(kept) cosh(theta), and dy / dt = x^k (...)
        def slowness(theta):
            y, x = np.sqrt(kept / k) * np.sinh(theta), np.sqrt(kept) * np.cosh(theta)
            return x / np.sqrt(k) / (x**k * (size + x**k * y))

        return quad(slowness, 0, np.arcsinh(y * np.sqrt(k / kept)), epsabs=0, epsrel=1e-11)[0]
        ### END SOLUTION

    @staticmethod
    @wrong("keeps the difference of squares of two simple factors", keeps=("scaling",))
    def plain_difference(eigenvalue, starts):
        from scipy.integrate import quad

        x, y = starts
        kept = x**2 - y**2

        def slowness(y):
            power = (kept + y**2) ** (drawn.power / 2)
            return 1 / (power * (abs(eigenvalue) + power * y))

        return quad(slowness, 0, y)[0]

    @staticmethod
    @wrong(
        "holds the residual at the eigenvalue on the way: the product is not small at the start",
        keeps=("large", "scaling"),
    )
    def fixed_residual(eigenvalue, starts):
        from scipy.integrate import quad

        k = drawn.power
        x, y = starts
        kept = x**2 - k * y**2
        return quad(lambda y: (kept + k * y**2) ** (-k / 2), 0, y)[0] / abs(eigenvalue)


class RatesCrossing(Variant):
    """Three rates."""

    task = checks.RatesCrossing
    text = RATES + CROSSING

    @staticmethod
    def draw(rng):
        rates = ((1.0, 3.0, 0.5), (0.5, 1.0, 3.0), (2.0, 0.5, 1.0), (3.0, 2.0, 0.5))
        return {"rates": rates[rng.integers(4)]}

    @staticmethod
    def time_of_crossing(eigenvalue, starts):
        """Time at which the product is zero."""
        ### BEGIN SOLUTION
        from scipy.integrate import quad

        heights = np.array(starts) / np.sqrt(drawn.rates)  # d / sqrt(rate)
        low, middle, high = np.sort(heights)
        gaps, rate = np.array([middle**2 - low**2, high**2 - low**2]), np.prod(drawn.rates) ** 0.5

        # All heights z satisfy dz / dt = rate * (product of the two others) * (residual), and the
        # smallest is sqrt(gaps[0]) sinh(theta).
        def slowness(theta):
            z = np.sqrt(gaps[0]) * np.sinh(theta)
            last = np.sqrt(gaps[1] + z**2)
            product = z * np.sqrt(gaps[0]) * np.cosh(theta) * last * rate
            return 1 / (rate * last * (abs(eigenvalue) + product))

        return quad(slowness, 0, np.arcsinh(low / np.sqrt(gaps[0])), epsabs=0, epsrel=1e-11)[0]
        ### END SOLUTION

    @staticmethod
    @wrong(
        "lets the smallest number cross, and not the smallest over its root of the rate",
        keeps=("scaling",),
    )
    def smallest_start(eigenvalue, starts):
        from scipy.integrate import quad

        starts = np.array(starts)
        first = int(np.argmin(starts))
        kept = starts**2 - starts[first] ** 2

        def slowness(z):
            others = np.prod(np.sqrt(np.delete(kept, first) + z**2))
            return 1 / (drawn.rates[first] * others * (abs(eigenvalue) + z * others))

        return quad(slowness, 0, starts[first])[0]

    @staticmethod
    @wrong(
        "holds the residual at the eigenvalue on the way: the product is not small at the start",
        keeps=("large", "scaling"),
    )
    def fixed_residual(eigenvalue, starts):
        from scipy.integrate import quad

        heights = np.sort(np.array(starts) / np.sqrt(drawn.rates))
        gaps, rate = heights[1:] ** 2 - heights[0] ** 2, np.prod(drawn.rates) ** 0.5
        slowness = quad(lambda z: 1 / np.sqrt(np.prod(gaps + z**2)), 0, heights[0])[0]
        return slowness / (rate * abs(eigenvalue))


# --- problem 3 ----------------------------------------------------------------------------------

WAITING = r"""
Let $T_+$ and $T_-$ be the times at which half of the eigenvalue $\lambda$ and half of $-\lambda$ are found. As $\alpha\to0$ for a fixed `share` $s\ge0$, both times are $\frac{c_\pm}{\lambda}\alpha^{-q}$ to leading order. START Write `waiting_times(share)`, which returns the pair $c_+,c_-$ to five digits. The tests compare with simulated flows, to two parts in a thousand.
"""


class TiedWaiting(Variant):
    """A shared factor."""

    task = checks.TiedWaiting
    text = WAITING.replace(
        "START",
        r"The flow is that of $W=Y\,X^{@power}$ from $X=\alpha I$ and $Y=s\,\alpha I$, and $s$ is so small that negative values are found; $q=@power-1$.",
    )

    @staticmethod
    def draw(rng):
        return {"power": int(rng.choice([2, 3, 4])), "depth": 2, "rate": 1.0}

    @staticmethod
    def waiting_times(share):
        """Coefficients of the times of positive and negative eigenvalues."""
        ### BEGIN SOLUTION
        from scipy.integrate import quad

        # dy / dt = lambda x^k with x^2 = kept + k y^2, from the share to either infinity
        k, kept = drawn.power, 1 - drawn.power * share**2
        width = np.sqrt(kept / k)

        def slowness(angle):  # y = width tan(angle)
            return kept ** (-k / 2) * width * np.cos(angle) ** (k - 2)

        angle = np.arctan(share / width)
        plus = quad(slowness, angle, np.pi / 2, epsrel=1e-11)[0]
        minus = quad(slowness, -np.pi / 2, angle, epsrel=1e-11)[0]
        return plus, minus
        ### END SOLUTION

    @staticmethod
    @wrong("counts only the way to the crossing of zero for negative values", keeps=("positive",))
    def to_crossing(share):
        from scipy.integrate import quad

        k, kept = drawn.power, 1 - drawn.power * share**2
        slowness = lambda y: (kept + k * y**2) ** (-k / 2)  # noqa: E731
        return quad(slowness, share, np.inf)[0], quad(slowness, 0, share)[0]

    @staticmethod
    @wrong("keeps the difference of squares of two simple factors", keeps=("even",))
    def plain_difference(share):
        from scipy.integrate import quad

        k, kept = drawn.power, 1 - share**2
        slowness = lambda y: (kept + y**2) ** (-k / 2)  # noqa: E731
        return quad(slowness, share, np.inf)[0], quad(slowness, -np.inf, share)[0]


class RateWaiting(Variant):
    """Another rate for the smaller factor."""

    task = checks.RateWaiting
    text = WAITING.replace(
        "START",
        r"There are $N=@depth$ factors; the first starts at $s\,\alpha I$ and learns at the rate $@rate$, the others start at $\alpha I$ and learn at the rate 1, and $s$ is so small that negative values are found; $q=N-2$.",
    )

    @staticmethod
    def draw(rng):
        depth, rate = int(rng.choice([3, 4])), float(rng.choice([0.5, 2.0, 3.0]))
        return {"power": 1, "depth": depth, "rate": rate}

    @staticmethod
    def waiting_times(share):
        """Coefficients of the times of positive and negative eigenvalues."""
        ### BEGIN SOLUTION
        from scipy.integrate import quad

        # dx / dt = rate lambda y^(N - 1) with y^2 = kept + x^2 / rate
        N, rate = drawn.depth, drawn.rate
        kept = 1 - share**2 / rate
        width = np.sqrt(kept * rate)

        def slowness(angle):  # x = width tan(angle)
            return width / rate * kept ** ((1 - N) / 2) * np.cos(angle) ** (N - 3)

        angle = np.arctan(share / width)
        plus = quad(slowness, angle, np.pi / 2, epsrel=1e-11)[0]
        minus = quad(slowness, -np.pi / 2, angle, epsrel=1e-11)[0]
        return plus, minus
        ### END SOLUTION

    @staticmethod
    @wrong("counts only the way to the crossing of zero for negative values", keeps=("positive",))
    def to_crossing(share):
        from scipy.integrate import quad

        N, rate = drawn.depth, drawn.rate
        kept = 1 - share**2 / rate
        slowness = lambda x: (kept + x**2 / rate) ** ((1 - N) / 2) / rate  # noqa: E731
        return quad(slowness, share, np.inf)[0], quad(slowness, 0, share)[0]

    @staticmethod
    @wrong(
        "divides the chapter's times by the rate: the hyperbola has not changed", keeps=("even",)
    )
    def scaled_times(share):
        from scipy.integrate import quad

        N, rate = drawn.depth, drawn.rate
        slowness = lambda x: (1 - share**2 + x**2) ** ((1 - N) / 2) / rate  # noqa: E731
        return quad(slowness, share, np.inf)[0], quad(slowness, -np.inf, share)[0]


# --- the set ------------------------------------------------------------------------------------

CONDITIONS = {
    "Tied": (
        r"""
Take the flow of problem 2 below with a general power $k\ge2$. (a) Reduce it to two numbers $x$ and $y$ for each eigenvalue, and find a combination of their squares that does not change. (b) State the condition on the start under which the product tends to $\lambda$ whatever its sign, and prove it. (c) Prove that from all other starts the product keeps its sign, and say what it tends to if $\lambda$ has the other one.
Why is it not $x_0>y_0$ that counts?
""",
        r"""
(a) $C=x^2-k\,y^2$. The gradient flow of $\frac12\lVert YX^k-\hat W\rVert_F^2$ keeps diagonal matrices in the basis of $\hat W$, and by uniqueness $\dot x=k\,x^{k-1}y\,r$, $\dot y=x^kr$, $r=\lambda-x^ky$: all $k$ places of $X$ contribute. $\frac{d}{dt}(x^2-ky^2)=2kx^kyr-2kx^kyr=0$. (b) $C>0$, that is $x_0^2>k\,y_0^2$: $x^2=C+ky^2\ge C$, so $x$ keeps its sign and $\dot y=h(y)(\lambda-yh(y))$ with
$h=x^k$ of one sign; $y\,h(y)$ is strictly monotone and unbounded both ways, so $y$ moves monotonically to the one point of rest. (c) $C\le0$: $\dot x=x\cdot(k\,x^{k-2}yr)$: $x$ never changes its sign, and $ky^2=x^2-C$ is positive for $x\ne0$, so $y$ does not either. For the wrong sign of $\lambda$ the product falls to zero, with $x\to0$. A shared factor moves $k$ times as fast, so $y$ has to be
smaller by $\sqrt k$ to reach zero first.
""",
    ),
    "Rates": (
        r"""
Take the flow of problem 2 below with general rates $\rho_j>0$. (a) Reduce it to three numbers for each eigenvalue, and find what is conserved. (b) State the condition on starts and rates under which the product tends to $\lambda$ whatever its sign, and prove it. (c) Prove that from all other starts the product keeps its sign, and say what it tends to if $\lambda$ has the other one.
Can rates alone, with equal starts, make negative
eigenvalues found?
""",
        r"""
(a) Diagonal matrices in the basis of $\hat W$ stay diagonal, and $\dot d_j=\rho_j\,r\prod_{i\ne j}d_i$. So $\frac{d}{dt}d_j^2/\rho_j=2rp$ for every $j$, and differences of $z_j^2$, $z_j=d_j/\sqrt{\rho_j}$, are conserved. (b) The smallest of the numbers $z_j^2$ is attained once. Let it be $z_1^2$. $z_i^2=z_1^2+\kappa_i$ with $\kappa_i>0$, so these $z_i$ keep their signs and $\dot z_1=h(z_1)(\lambda-p)$ up to sign, where $p$ is a strictly monotone and unbounded
function of $z_1$: it moves to the only point of rest. (c) For $z_1^2=z_2^2$ smallest, $\dot z_1=z_1\cdot(\pm\sqrt{\rho_1\rho_2\rho_3}\,r\,z_3)$: an exponential, no change of sign; nor for the others, which are larger. For a wrong sign the product tends to zero. With equal starts, the largest rate decides: negative values are found if it belongs to one factor only.
""",
    ),
}

WAITS = {
    "TiedWaiting": (
        r"""
(a) Explain the shape of your curve: what are its value and its slope at $s=0$, and where does it end? (b) Why do the dots lie off the curve, on which side, and how does their distance depend on $\alpha$? (c) Compare with one smaller factor and no sharing, at the same total depth: for which $s$ is $-\lambda$ found twice as late as $\lambda$ here and there?
""",
        r"""
(a) With $k=@power$, $c_\pm=\int dy/(1-ks^2+ky^2)^{k/2}$ from $s$ to $\pm\infty$. At $s=0$ they are equal; $c_-/c_+\approx1+4s/\int_{-\infty}^\infty(1+ky^2)^{-k/2}dy$. It goes to infinity at $s=1/\sqrt k$, where the tie begins. (b) Above it. The next term of $T_\pm$ is a constant: the integral runs to half of $\lambda$ and not to infinity. It is the same for both signs, whose paths end alike, and negative: both times are shorter by it, which makes their quotient larger. The relative error is of the order $\alpha^{k-1}$.
(c) Solve $c_-=2c_+$ for both. For $k=2$: an angle of $30°$, $\sin\varphi=s\sqrt2$, so $s=0.354$; without sharing $\sin\varphi=s$ and $s=0.5$. For other powers by `brentq`; for $k=3$, $(1/\sqrt3+s)=2(1/\sqrt3-s)$, $s=0.192$, and without sharing $\frac13$.
""",
    ),
    "RateWaiting": (
        r"""
(a) Explain the shape of your curve: what are its value and its slope at $s=0$, and where does it end? (b) Why do the dots lie off the curve, on which side, and how does their distance depend on $\alpha$? (c) For which $s$ is $-\lambda$ found twice as late as $\lambda$, here and with equal rates? Does a high rate of the smaller factor favour negative values?
""",
        r"""
(a) With $N=@depth$ and $\rho=@rate$, $c_\pm=\frac1\rho\int dx/(1-s^2/\rho+x^2/\rho)^{(N-1)/2}$ from $s$ to $\pm\infty$. Only $s/\sqrt\rho$ enters the quotient. It is one at $s=0$, rises linearly, with the slope $4/(\pi\sqrt\rho)$ at depth 3 and $2/\sqrt\rho$ at depth 4, and goes to infinity at $s=\sqrt\rho$, the tie. (b) Above it. The next term of $T_\pm$ is a constant: the integral runs to half of $\lambda$ and not to infinity. It is the same for both signs, whose paths end alike, and negative: both times are shorter by it, which makes their quotient larger. The relative error is of the order
$\alpha^{N-2}$. (c) At depth 3 $\sin\varphi=s/\sqrt\rho=\frac12$; at depth 4 $c_-/c_+=(1+s/\sqrt\rho)/(1-s/\sqrt\rho)$, so $s/\sqrt\rho=\frac13$. For equal rates $s=\frac12$ or $\frac13$. A high rate favours them: at the same $s$ the delay is smaller, and $s$ may even exceed 1.
""",
    ),
}

SET = ProblemSet(
    name="perturbed_initialization",
    title="Problem set: the perturbed start",
    outcomes=(
        "find what a flow conserves when its factors are not treated alike;",
        "decide from the conserved numbers which eigenvalues are found;",
        "turn the conserved numbers into a time, exactly and to leading order.",
    ),
    text="It belongs to the chapter *The perturbed start: negative eigenvalues are found too*.",
    problems=(
        Write(
            name="derive",
            title="Derive",
            minutes=20,
            text="",
            answer="",
            rubric=(
                (2, "(a) the scalar equations with their factors, and the conserved numbers"),
                (2, "(b) one monotone equation with one point of rest"),
                (2, "(c) signs are kept, the limit zero, and the last question"),
            ),
            of="found",
            by_variant=CONDITIONS,
        ),
        Implement("found", "Implement: what is found", 20, (Tied, Rates)),
        Implement("crossing", "Implement: a crossing time", 25, (TiedCrossing, RatesCrossing)),
        Implement("waiting", "Predict: how long each sign waits", 25, (TiedWaiting, RateWaiting)),
        Experiment(
            name="figure",
            title="Experiment: a figure",
            minutes=10,
            text=r"""
Plot the quotient $c_-/c_+$ of problem 4 against the share. Add dots: quotients of the two times, measured on the flow with $\lambda=1$ by `scipy.integrate.solve_ivp`, for five shares, at $\alpha=0.5$ and at $\alpha=0.1$.
""",
            solution="""
import matplotlib.pyplot as plt
from scipy.integrate import solve_ivp

# the small number first, then the others, of which the last may count several times
powers = np.array([1] * (@depth - 1) + [@power])
rates = np.array([@rate] + [1] * (@depth - 1))
others = powers - np.eye(@depth)


def time(sign, share, alpha):
    def velocity(t, d):
        return rates * powers * (sign - np.prod(d**powers)) * np.prod(d**others, axis=1)

    def half(t, d):
        return np.prod(d**powers) - sign / 2

    half.terminal = True
    start = alpha * np.array([share] + [1] * (@depth - 1))
    return solve_ivp(velocity, (0, 1e9), start, events=half, rtol=1e-8, atol=1e-12).t[-1]


shares = np.linspace(0, 0.45, 60)
plt.plot(shares, [np.divide(*waiting_times(s)[::-1]) for s in shares], label="small start")
for alpha in (0.5, 0.1):
    dots = np.linspace(0.05, 0.4, 5)
    plt.plot(dots, [time(-1, s, alpha) / time(1, s, alpha) for s in dots], "o", label=f"scale {alpha}")
plt.xlabel("share s")
plt.ylabel("time of -1 / time of 1")
plt.legend()
plt.show()
""",
            of="waiting",
        ),
        Write(
            name="explain",
            title="Explain",
            minutes=15,
            text="",
            answer="",
            rubric=(
                (2, "(a) value and slope at zero, and the pole at the tie"),
                (
                    2,
                    "(b) above the curve: a bounded correction, alike for both signs, with its order",
                ),
                (2, "(c) both shares, and the last comparison"),
            ),
            of="waiting",
            by_variant=WAITS,
        ),
    ),
)
