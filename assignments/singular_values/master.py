"""Problem set to the chapter on singular values: other laws, other races, values that coincide."""

import numpy as np

from assignments.singular_values import checks
from course.authoring import Experiment, Implement, ProblemSet, Variant, Write, drawn, wrong

# --- problem 1 ----------------------------------------------------------------------------------

SPEEDS = r"""
Write `speeds(W, gradient)`: the velocities of the singular values of $W$ at this moment, in the order of `numpy.linalg.svd`, where `gradient` is $\nabla\ell(W)$. The singular values are positive and distinct. The factors are not given: their part in the answer is a function of $W$, which you have to find.
"""


class Unequal(Variant):
    """Different rates, out of balance."""

    task = checks.Unequal
    text = (
        r"""
Two square factors learn at different rates, $\dot W_j=-\rho_j\nabla_{W_j}\ell(W_2W_1)$ with $(\rho_1,\rho_2)=@rates$, and

$$
\tfrac1{\rho_2}W_2^{\mathsf T}W_2-\tfrac1{\rho_1}W_1W_1^{\mathsf T}=@offset\,I .
$$
"""
        + SPEEDS
    )

    @staticmethod
    def draw(rng):
        rates = ((1.0, 3.0), (2.0, 0.25), (0.5, 4.0), (3.0, 2.0))[rng.integers(4)]
        return {"rates": rates, "offset": float(rng.choice([0.3, 0.5, 0.8]))}

    @staticmethod
    def speeds(W, gradient):
        """Velocities of the singular values."""
        ### BEGIN SOLUTION
        U, sigma, Vt = np.linalg.svd(W)
        drive = np.einsum("ir,ij,rj->r", U, gradient, Vt)
        both = drawn.rates[0] * drawn.rates[1]
        return -np.sqrt(4 * both * sigma**2 + (both * drawn.offset) ** 2) * drive
        ### END SOLUTION

    @staticmethod
    @wrong("forgets the offset: right only where values are large", keeps=("large",))
    def no_offset(W, gradient):
        U, sigma, Vt = np.linalg.svd(W)
        drive = np.einsum("ir,ij,rj->r", U, gradient, Vt)
        return -2 * np.sqrt(drawn.rates[0] * drawn.rates[1]) * sigma * drive

    @staticmethod
    @wrong("takes the law of equal rates, with the offset", keeps=())
    def equal_rates(W, gradient):
        U, sigma, Vt = np.linalg.svd(W)
        drive = np.einsum("ir,ij,rj->r", U, gradient, Vt)
        return -np.sqrt(4 * sigma**2 + drawn.offset**2) * drive

    @staticmethod
    @wrong("scales the values by the rates and not the offset", keeps=("large",))
    def offset_as_it_is(W, gradient):
        U, sigma, Vt = np.linalg.svd(W)
        drive = np.einsum("ir,ij,rj->r", U, gradient, Vt)
        both = drawn.rates[0] * drawn.rates[1]
        return -np.sqrt(4 * both * sigma**2 + drawn.offset**2) * drive


class Decaying(Variant):
    """Weight decay."""

    task = checks.Decaying
    text = (
        r"""
The $@depth$ factors are balanced at the start and follow the gradient flow of $\ell(W_N\cdots W_1)+\frac{@decay}2\sum_j\lVert W_j\rVert_F^2$. They may be rectangular, and no factor is narrower than $W$ and its transpose.
"""
        + SPEEDS
    )

    @staticmethod
    def draw(rng):
        return {"depth": int(rng.choice([3, 4, 5])), "decay": float(rng.choice([0.1, 0.2, 0.5]))}

    @staticmethod
    def speeds(W, gradient):
        """Velocities of the singular values."""
        ### BEGIN SOLUTION
        N = drawn.depth
        U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
        drive = np.einsum("ir,ij,rj->r", U, gradient, Vt)
        return -N * sigma ** (2 - 2 / N) * drive - N * drawn.decay * sigma
        ### END SOLUTION

    @staticmethod
    @wrong("lets the product decay at the rate of one factor", keeps=())
    def decay_of_one(W, gradient):
        N = drawn.depth
        U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
        drive = np.einsum("ir,ij,rj->r", U, gradient, Vt)
        return -N * sigma ** (2 - 2 / N) * drive - drawn.decay * sigma

    @staticmethod
    @wrong("takes the mobility of depth 2 at every depth", keeps=("drift",))
    def depth_two(W, gradient):
        N = drawn.depth
        U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
        drive = np.einsum("ir,ij,rj->r", U, gradient, Vt)
        return -2 * sigma * drive - N * drawn.decay * sigma

    @staticmethod
    @wrong(
        "treats the decay as part of the gradient of W, so it gets the mobility too",
        keeps=(),
    )
    def decay_of_product(W, gradient):
        N = drawn.depth
        U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
        drive = np.einsum("ir,ij,rj->r", U, gradient + drawn.decay * W, Vt)
        return -N * sigma ** (2 - 2 / N) * drive


# --- problem 2 ----------------------------------------------------------------------------------

RACE = r"""
As in the race of the chapter, one number is measured, $\ell(W)=\frac12(\langle A,W\rangle-y)^2$, and $A$ and the start have the same singular vectors. But the start is not balanced: FACTORS. Let $\sigma_1$ and $\sigma_2$ be two values of the product on which $A$ has the values $a_1$ and $a_2$, and $\rho=a_1/a_2$.

Write `follower(value, start, other_start, ratio)`: $\sigma_1$ at the time at which $\sigma_2$ is `value`, where $\sigma_1$ began at `start`, $\sigma_2$ at `other_start` and $\rho$ is `ratio`. Values are signed: with this start they may pass through zero.
"""


class RaceOfTwo(Variant):
    """Two factors."""

    task = checks.RaceOfTwo
    text = RACE.replace(
        "FACTORS", r"$W_2^{\mathsf T}W_2-W_1W_1^{\mathsf T}=@offset\,I$ for two factors"
    )

    @staticmethod
    def draw(rng):
        return {"power": 1, "offset": float(rng.choice([0.1, 0.2, 0.4, 0.8]))}

    @staticmethod
    def follower(value, start, other_start, ratio):
        """The first value when the second has reached one."""
        ### BEGIN SOLUTION
        half = drawn.offset / 2
        way = np.arcsinh(value / half) - np.arcsinh(other_start / half)
        return half * np.sinh(np.arcsinh(start / half) + ratio * way)
        ### END SOLUTION

    @staticmethod
    @wrong("uses the relation of balanced factors", keeps=("begins",))
    def balanced(value, start, other_start, ratio):
        return start * (value / other_start) ** ratio

    @staticmethod
    @wrong("loses the one half of the offset in the root", keeps=("begins",))
    def whole_offset(value, start, other_start, ratio):
        k = drawn.offset
        return k * np.sinh(
            np.arcsinh(start / k) + ratio * (np.arcsinh(value / k) - np.arcsinh(other_start / k))
        )


class RaceOfThree(Variant):
    """Three factors."""

    task = checks.RaceOfThree
    text = RACE.replace(
        "FACTORS",
        r"$W_3^{\mathsf T}W_3=W_2W_2^{\mathsf T}$ and $W_2^{\mathsf T}W_2-W_1W_1^{\mathsf T}=@offset\,I$ for three factors",
    )

    @staticmethod
    def draw(rng):
        return {"power": 2, "offset": float(rng.choice([0.3, 0.5, 0.8, 1.2]))}

    @staticmethod
    def follower(value, start, other_start, ratio):
        """The first value when the second has reached one."""
        ### BEGIN SOLUTION
        from scipy.optimize import brentq

        kept = drawn.offset
        width = np.sqrt(kept)

        # A value is a (kept + a^2) with the number a of the first factor, and arctan(a / width)
        # moves in proportion to the drive.
        def angle(value):
            size = abs(value)
            a = brentq(lambda a: a * (kept + a * a) - size, 0, size / kept + 1e-300, xtol=1e-16)
            return np.sign(value) * np.arctan(a / width)

        a = width * np.tan(angle(start) + ratio * (angle(value) - angle(other_start)))
        return a * (kept + a * a)
        ### END SOLUTION

    @staticmethod
    @wrong("uses the relation of balanced factors", keeps=("begins",))
    def balanced(value, start, other_start, ratio):
        roots = [x ** (-1 / 3) for x in (start, value, other_start)]
        return (roots[0] + ratio * (roots[1] - roots[2])) ** -3

    @staticmethod
    @wrong("uses the mobility of two factors out of balance", keeps=("begins",))
    def of_two(value, start, other_start, ratio):
        half = drawn.offset / 2
        way = np.arcsinh(value / half) - np.arcsinh(other_start / half)
        return half * np.sinh(np.arcsinh(start / half) + ratio * way)


# --- problem 3 ----------------------------------------------------------------------------------

PARTING = r"""
Write `speeds_after(W, gradient)`: the derivatives from the right of the *sorted*, non-negative singular values under this flow, in the order of `numpy.linalg.svd`. CASE Values closer than $10^{-8}$ coincide. The vectors that `numpy.linalg.svd` returns for them are one choice of many; your answer must not depend on it.
"""


class Meeting(Variant):
    """Positive values coincide."""

    task = checks.Meeting
    text = r"""
Square factors learn at the different rates $(\rho_1,\dots,\rho_N)=@rates$, $\dot W_j=-\rho_j\nabla_{W_j}\ell(W_N\cdots W_1)$, and they are in balance with these rates: $\frac1{\rho_{j+1}}W_{j+1}^{\mathsf T}W_{j+1}=\frac1{\rho_j}W_jW_j^{\mathsf T}$.
""" + PARTING.replace("CASE", "All of them are positive, and some of them coincide.")

    @staticmethod
    def draw(rng):
        rates = ((1.0, 3.0), (0.5, 1.0), (1.0, 2.0, 3.0), (0.5, 1.0, 4.0))[rng.integers(4)]
        return {"rates": rates}

    @staticmethod
    def speeds_after(W, gradient):
        """Right derivatives of the sorted singular values."""
        ### BEGIN SOLUTION
        N = len(drawn.rates)
        U, sigma, Vt = np.linalg.svd(W)
        K = U.T @ gradient @ Vt.T
        speeds = np.zeros_like(sigma)
        for group in np.split(np.arange(len(sigma)), np.flatnonzero(-np.diff(sigma) > 1e-8) + 1):
            block = K[np.ix_(group, group)]
            drives = -np.linalg.eigvalsh((block + block.T) / 2)  # the largest speed first
            speeds[group] = (
                N * np.prod(drawn.rates) ** (1 / N) * sigma[group] ** (2 - 2 / N) * drives
            )
        return speeds
        ### END SOLUTION

    @staticmethod
    @wrong(
        "reads the diagonal in the basis that numpy happened to choose",
        keeps=("alone", "total"),
    )
    def diagonal(W, gradient):
        N = len(drawn.rates)
        U, sigma, Vt = np.linalg.svd(W)
        drives = np.einsum("ir,ij,rj->r", U, gradient, Vt)
        return -N * np.prod(drawn.rates) ** (1 / N) * sigma ** (2 - 2 / N) * drives

    @staticmethod
    @wrong("takes the law of equal rates, as the package has it", keeps=())
    def equal_rates(W, gradient):
        from dmflib.singular_values import velocities

        return velocities(W, gradient, len(drawn.rates))

    @staticmethod
    @wrong(
        "takes singular values of the block for its drives, as if signs did not count",
        keeps=("alone",),
    )
    def no_signs(W, gradient):
        N = len(drawn.rates)
        U, sigma, Vt = np.linalg.svd(W)
        K = U.T @ gradient @ Vt.T
        drives = -np.diag(K).copy()
        for group in np.split(np.arange(len(sigma)), np.flatnonzero(-np.diff(sigma) > 1e-8) + 1):
            if len(group) > 1:
                drives[group] = np.linalg.svd(K[np.ix_(group, group)], compute_uv=False)
        return N * np.prod(drawn.rates) ** (1 / N) * sigma ** (2 - 2 / N) * drives


class Leaving(Variant):
    """Several values are zero."""

    task = checks.Leaving
    text = r"""
Two square factors follow gradient flow at equal rates and are out of balance, $W_2^{\mathsf T}W_2-W_1W_1^{\mathsf T}=@offset\,I$, as in the chapter.
""" + PARTING.replace(
        "CASE",
        "The positive ones are distinct, and two or more are zero: $W$ has lost rank at this moment, and it need not stay so.",
    )

    @staticmethod
    def draw(rng):
        return {"offset": float(rng.choice([-0.8, -0.5, 0.3, 0.5, 1.2]))}

    @staticmethod
    def speeds_after(W, gradient):
        """Right derivatives of the sorted singular values."""
        ### BEGIN SOLUTION
        kappa = drawn.offset
        U, sigma, Vt = np.linalg.svd(W)
        K = U.T @ gradient @ Vt.T
        speeds = -np.sqrt(4 * sigma**2 + kappa**2) * np.diag(K)
        rank = np.count_nonzero(sigma > 1e-8)
        # between the two null spaces W moves by -|offset| K, and leaves zero with its values
        block = K[rank:, rank:]
        speeds[rank:] = abs(kappa) * np.linalg.svd(block, compute_uv=False)
        return speeds
        ### END SOLUTION

    @staticmethod
    @wrong("applies the law of simple values to all, signs included", keeps=("alone",))
    def diagonal(W, gradient):
        kappa = drawn.offset
        U, sigma, Vt = np.linalg.svd(W)
        drives = np.einsum("ir,ij,rj->r", U, gradient, Vt)
        return -np.sqrt(4 * sigma**2 + kappa**2) * drives

    @staticmethod
    @wrong(
        "takes the symmetric part, which decides where values are equal and positive",
        keeps=("alone",),
    )
    def symmetric(W, gradient):
        kappa = drawn.offset
        U, sigma, Vt = np.linalg.svd(W)
        K = U.T @ gradient @ Vt.T
        speeds = -np.sqrt(4 * sigma**2 + kappa**2) * np.diag(K)
        rank = np.count_nonzero(sigma > 1e-8)
        block = K[rank:, rank:]
        speeds[rank:] = -abs(kappa) * np.linalg.eigvalsh((block + block.T) / 2)
        return speeds

    @staticmethod
    @wrong("believes that zero values stay zero, as they do in balance", keeps=("alone",))
    def at_rest(W, gradient):
        kappa = drawn.offset
        U, sigma, Vt = np.linalg.svd(W)
        speeds = -np.sqrt(4 * sigma**2 + kappa**2) * np.einsum("ir,ij,rj->r", U, gradient, Vt)
        return np.where(sigma > 1e-8, speeds, 0)


# --- the set ------------------------------------------------------------------------------------

LAWS = {
    "Unequal": (
        r"""
Take the flow of problem 2 below with general rates $\rho_1,\rho_2>0$ and offset $\kappa$. (a) Prove that the relation between the factors persists. (b) Derive $\dot W$ as a function of $W$ and $\nabla\ell(W)$ alone, and from it the law of the singular values. (c) For which values is the mobility that of depth 2, and for which that of depth 1? Where is the border, and how does it move with the rates?
""",
        r"""
(a) $\frac d{dt}\frac1{\rho_2}W_2^{\mathsf T}W_2$ and $\frac d{dt}\frac1{\rho_1}W_1W_1^{\mathsf T}$ are both minus the symmetrised $W_2^{\mathsf T}\nabla\ell\,W_1^{\mathsf T}$: the rates cancel. (b) $\dot W=-\rho_1A\nabla\ell-\rho_2\nabla\ell\,B$ with $A=W_2W_2^{\mathsf T}$, $B=W_1^{\mathsf T}W_1$. $A^2=\frac{\rho_2}{\rho_1}WW^{\mathsf T}+\rho_2\kappa A$, so $\rho_1A=\frac{c\kappa}2I+\bigl(c\,WW^{\mathsf T}+\frac{c^2\kappa^2}4I\bigr)^{1/2}$
with $c=\rho_1\rho_2$; in the same way $\rho_2B=-\frac{c\kappa}2I+(c\,W^{\mathsf T}W+\dots)^{1/2}$. Semidefiniteness of the roots as in the chapter. The constants cancel, and $\dot\sigma_r=-\sqrt{4c\sigma_r^2+c^2\kappa^2}\,K_{rr}$. (c) $2\sqrt c\,\sigma$ above and $c|\kappa|$ below the border $\sigma=\sqrt c\,|\kappa|/2$.
""",
    ),
    "Decaying": (
        r"""
Take the flow of problem 2 below with a general depth $N\ge2$ and decay $\mu>0$. (a) Prove that balanced factors stay balanced. What becomes of $W_{j+1}^{\mathsf T}W_{j+1}-W_jW_j^{\mathsf T}$ if it is not zero at the start? (b) Derive the law of the singular values. (c) At depth 2 decay acts like a term $\mu\lVert W\rVert_*$ in the loss; show this, and find the power of singular values that takes its place at depth $N$. Can values reach
zero in finite time?
""",
        r"""
(a) $\dot W_j$ gains $-\mu W_j$, so the difference $D_j$ obeys $\dot D_j=-2\mu D_j$: zero stays zero, and everything else is forgotten like $e^{-2\mu t}$. (b) The product rule gives the flow of the chapter minus $N\mu W$; its diagonal in the moving bases is $\dot\sigma_r=-N\sigma_r^{2-2/N}K_{rr}-N\mu\sigma_r$. (c) $=-N\sigma_r^{2-2/N}(K_{rr}+\mu\sigma_r^{2/N-1})$, and $\mu\sigma^{2/N-1}$ is the derivative of
$\frac N2\mu\,\sigma^{2/N}$: at $N=2$ of $\mu\sigma$, whose sum is the nuclear norm; deeper, a Schatten quasi-norm to the power $2/N$. The right-hand side is locally Lipschitz in $\sigma$ and zero at zero, so values reach zero at infinite time only.
""",
    ),
}

RACES = {
    "RaceOfTwo": (
        r"""
(a) Your curve for this offset has two straight parts in logarithmic axes. Which slopes do they have, and why? Where is the corner? (b) The balanced curve has one slope. For which starts do the two curves differ most, and what does this say about learning one value at a time? (c) What happens to your curve as the offset goes to zero with fixed starts, and if the starts go to zero with a fixed offset? In which order are the limits taken in
"small and approximately balanced"?
""",
        r"""
(a) Below $\sigma\approx@offset/2$ the mobility is constant and $\sigma_1-\sigma_1(0)=\rho(\sigma_2-\sigma_2(0))$: slope 1 once the starts are left behind. Above, the mobility is $2\sigma$ and $\sigma_1\propto\sigma_2^\rho$: slope $\rho$. (b) For starts far below the corner: the follower is carried along to about $\rho$ times the corner before it falls back. So values start together, and the gap opens only above the corner. (c) For offset to zero the balanced curve
returns; for starts to zero the limit is $\frac\kappa2\sinh(\rho\,\operatorname{arsinh}(2\sigma_2/\kappa))$, no gap in the beginning. The offset must be small compared with the start of the product, whereas a random start of factors has an offset of the size of its product.
""",
    ),
    "RaceOfThree": (
        r"""
(a) Your curve for this offset has a straight part in logarithmic axes and then a bound. Which slope has the one, how high is the other for starts near zero, and why? (b) The balanced curve has a bound as well. Compare how the two bounds depend on the starts. What does this say about learning one value at a time? (c) What happens to your curve as the offset goes to zero with fixed starts, and if the starts go to zero with a fixed offset? In
which order are the limits taken in "small and approximately balanced"?
""",
        r"""
(a) With $\kappa=@offset$, below $\sigma\approx\kappa^{3/2}$ the mobility is the constant $\kappa^2$, so $\sigma_1-\sigma_1(0)=\rho(\sigma_2-\sigma_2(0))$: slope 1. The angle of the leader ends at $\frac\pi2$, that of the follower at $\varphi=\rho\frac\pi2$ for starts near zero, and the bound is $\kappa^{3/2}\tan\varphi/\cos^2\varphi$. (b) The balanced bound $\varepsilon(1-\rho)^{-3}$ is proportional to the start, this one does not depend on it: a smaller start does not widen
the gap. Below the corner values rise together. (c) For offset to zero the balanced curve returns; for starts to zero the curve through zero remains. The offset must be small compared with $\varepsilon^{2/3}$, whereas a random start of factors has an offset of just this size.
""",
    ),
}

SET = ProblemSet(
    name="singular_values",
    title="Problem set: singular values",
    outcomes=(
        "derive the law of singular values for factors that are not treated alike;",
        "integrate it for a race of two values, and read exponents and bounds from the relation;",
        "say what singular values do where they coincide or vanish.",
    ),
    text="It belongs to the chapter *Singular values: a law of their own*.",
    problems=(
        Write(
            name="derive",
            title="Derive",
            minutes=20,
            text="",
            answer="",
            rubric=(
                (2, "(a) the derivative of the difference, with its cancellation"),
                (2, "(b) the law, with all constants and the step that needs balance"),
                (2, "(c) both parts, with the border or the power"),
            ),
            of="law",
            by_variant=LAWS,
        ),
        Implement("law", "Implement: a law", 20, (Unequal, Decaying)),
        Implement("race", "Implement: a race", 25, (RaceOfTwo, RaceOfThree)),
        Implement("parting", "Implement: values that coincide", 25, (Meeting, Leaving)),
        Experiment(
            name="figure",
            title="Experiment: a figure",
            minutes=10,
            text=r"""
Plot your `follower` for $\rho=\frac12$ against the leader from its start to $100$, both axes logarithmic, for the common starts $10^{-1}$, $10^{-2}$, $10^{-3}$ and $10^{-4}$. Add the balanced relation of the chapter, `dmflib.singular_values.companion`, for the same starts, dashed.
""",
            solution="""
import matplotlib.pyplot as plt
from dmflib.singular_values import companion

for k, start in enumerate((1e-1, 1e-2, 1e-3, 1e-4)):
    leader = np.geomspace(start, 100, 200)
    mine = [follower(value, start, start, 0.5) for value in leader]
    plt.loglog(leader, mine, f"C{k}", label=f"start {start:g}")
    plt.loglog(leader, companion(leader, start, start, 0.5, @power + 1), f"C{k}--")
plt.xlabel("leader")
plt.ylabel("follower")
plt.legend()
plt.show()
""",
            of="race",
        ),
        Write(
            name="explain",
            title="Explain",
            minutes=15,
            text="",
            answer="",
            rubric=(
                (2, "(a) slopes or bound, with the mobility that causes them, and the corner"),
                (2, "(b) values rise together below the corner; the dependence on the starts"),
                (2, "(c) both limits, and that they do not commute"),
            ),
            of="race",
            by_variant=RACES,
        ),
    ),
)
