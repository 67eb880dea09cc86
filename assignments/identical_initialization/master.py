"""Problem set to the chapter on the identical start: other limits, other clocks, other gaps."""

import numpy as np

from assignments.identical_initialization import checks
from course.authoring import Experiment, Implement, ProblemSet, Variant, Write, drawn, wrong

# --- problem 1 ----------------------------------------------------------------------------------

RESTING = r"""
The factors $W_1=\dots=W_N=\alpha I$ follow the gradient flow of

LOSS

with a symmetric $\hat W$ and $N=@depth$. Write `resting_product(target, scale)`, which returns the limit of $W=W_N\cdots W_1$ for $t\to\infty$, where `target` is $\hat W$ and `scale` is $\alpha$, to eight digits. The limit need not be the one that fits best: find out first where an eigenvalue can rest, then which of these places it reaches.
"""


class Decay(Variant):
    """Weight decay."""

    task = checks.Decay
    text = RESTING.replace(
        "LOSS",
        r"$$\tfrac12\lVert W_N\cdots W_1-\hat W\rVert_F^2+\tfrac{@decay}2\sum_{j=1}^N\lVert W_j\rVert_F^2$$",
    )

    @staticmethod
    def draw(rng):
        depth, decay = ((3, 0.2), (3, 0.35), (3, 0.5), (4, 0.1), (4, 0.25))[rng.integers(5)]
        return {"depth": depth, "decay": decay}

    @staticmethod
    def resting_product(target, scale):
        """Limit of the product."""
        ### BEGIN SOLUTION
        N, mu = drawn.depth, drawn.decay
        eigenvalues, V = np.linalg.eigh(target)
        ends = []
        for lam in eigenvalues:
            # velocity of a factor's entry: d (lam d^(N - 2) - d^(2N - 2) - mu)
            bracket = np.zeros(2 * N - 1)
            bracket[0], bracket[N], bracket[-1] = -1, lam, -mu
            roots = np.roots(bracket)
            roots = np.sort(roots[np.abs(roots.imag) < 1e-9].real)
            roots = np.concatenate([[0.0], roots[roots > 0]])
            if np.polyval(bracket, scale) > 0:
                d = roots[roots > scale].min()
            else:
                d = roots[roots <= scale].max()
            ends.append(d**N)
        return (V * ends) @ V.T
        ### END SOLUTION

    @staticmethod
    @wrong(
        "believes that decay shrinks every eigenvalue by the same amount, as it does at depth 2",
        keeps=("diagonal",),
    )
    def soft_threshold(target, scale):
        eigenvalues, V = np.linalg.eigh(target)
        return (V * np.maximum(eigenvalues - drawn.decay, 0)) @ V.T

    @staticmethod
    @wrong(
        "takes the best place of rest: does not see that a small start never gets there",
        keeps=("diagonal", "rest"),
    )
    def best_rest(target, scale):
        N, mu = drawn.depth, drawn.decay
        eigenvalues, V = np.linalg.eigh(target)
        ends = []
        for lam in eigenvalues:
            bracket = np.zeros(2 * N - 1)
            bracket[0], bracket[N], bracket[-1] = -1, lam, -mu
            roots = np.roots(bracket)
            real = roots[np.abs(roots.imag) < 1e-9].real
            ends.append(max(real.max(initial=0.0), 0.0) ** N)
        return (V * ends) @ V.T

    @staticmethod
    @wrong("forgets the decay", keeps=("diagonal",))
    def no_decay(target, scale):
        eigenvalues, V = np.linalg.eigh(target)
        return (V * np.maximum(eigenvalues, 0)) @ V.T


class Tilt(Variant):
    """The square is fitted."""

    task = checks.Tilt
    text = RESTING.replace(
        "LOSS",
        r"$$\tfrac12\lVert W^2-\hat W\rVert_F^2+@tilt\,\operatorname{tr}W,\qquad W=W_N\cdots W_1,$$",
    )

    @staticmethod
    def draw(rng):
        return {"depth": int(rng.choice([2, 3])), "tilt": float(rng.choice([0.4, 0.6, 0.8, 1.0]))}

    @staticmethod
    def resting_product(target, scale):
        """Limit of the product."""
        ### BEGIN SOLUTION
        start = scale**drawn.depth
        eigenvalues, V = np.linalg.eigh(target)
        ends = []
        for lam in eigenvalues:
            drive = [-2.0, 0.0, 2 * lam, -drawn.tilt]  # of the product's eigenvalue p
            roots = np.roots(drive)
            roots = np.sort(roots[np.abs(roots.imag) < 1e-9].real)
            roots = np.concatenate([[0.0], roots[roots > 0]])  # zero is a wall
            if np.polyval(drive, start) > 0:
                ends.append(roots[roots > start].min())
            else:
                ends.append(roots[roots <= start].max())
        return (V * ends) @ V.T
        ### END SOLUTION

    @staticmethod
    @wrong("forgets the linear term: the root of the positive part", keeps=("diagonal",))
    def no_tilt(target, scale):
        eigenvalues, V = np.linalg.eigh(target)
        return (V * np.sqrt(np.maximum(eigenvalues, 0))) @ V.T

    @staticmethod
    @wrong(
        "takes the best place of rest: does not see that a small start never gets there",
        keeps=("diagonal", "rest"),
    )
    def best_rest(target, scale):
        eigenvalues, V = np.linalg.eigh(target)
        ends = []
        for lam in eigenvalues:
            roots = np.roots([-2.0, 0.0, 2 * lam, -drawn.tilt])
            ends.append(max(roots[np.abs(roots.imag) < 1e-9].real.max(), 0.0))
        return (V * ends) @ V.T


# --- problem 2 ----------------------------------------------------------------------------------

TIMING = r"""
Now $N=2$, $W_1=W_2=\alpha I$ at the start, and the loss is a power of the distance of eigenvalues,

$$
\ell(W)=\tfrac1{@power}\sum_i|p_i-\lambda_i|^{@power},
$$

where $p_i$ and $\lambda_i$ are the eigenvalues of $W$ and $\hat W$ to the same eigenvector. Write `time_needed(eigenvalue, start, end)`: the time in which the flow moves the *product's* eigenvalue from `start` to `end`, where $\hat W$ has `eigenvalue`, to seven digits.
`start` is positive, `end` lies between it and the limit, and `eigenvalue` has any sign or is zero.
"""


class Powers(Variant):
    """A high power."""

    task = checks.Powers
    text = TIMING

    @staticmethod
    def draw(rng):
        return {"power": int(rng.choice([3, 4, 5, 6]))}

    @staticmethod
    def time_needed(eigenvalue, start, end):
        """Time on the way."""
        ### BEGIN SOLUTION
        from scipy.integrate import quad

        lam, m = eigenvalue, drawn.power - 1
        # dp = 2 p sign(lam - p) |lam - p|^m dt. Near zero ln p is the variable that moves evenly,
        # near the limit the logarithm of the gap is.
        if lam <= 0:
            return quad(lambda x: (np.exp(x) - lam) ** -m / 2, np.log(end), np.log(start))[0]
        parts = 0.0
        low, high = sorted((start, end))
        half = min(max(lam / 2, low), high) if end < lam else low
        if low < half:
            parts += quad(
                lambda x: (lam - np.exp(x)) ** -m / 2, np.log(low), np.log(half), epsrel=1e-11
            )[0]
        if half < high:
            sign = 1 if end < lam else -1
            gaps = sorted((sign * (lam - half), sign * (lam - high)))
            parts += quad(
                lambda y: np.exp((1 - m) * y) / (2 * (lam - sign * np.exp(y))),
                np.log(gaps[0]),
                np.log(gaps[1]),
                epsrel=1e-11,
                limit=200,
            )[0]
        return parts
        ### END SOLUTION

    @staticmethod
    @wrong("takes the clock of the squared loss", keeps=("adds",))
    def squared(eigenvalue, start, end):
        if eigenvalue == 0:
            return (1 / end - 1 / start) / 2
        quotient = end * (eigenvalue - start) / (start * (eigenvalue - end))
        return np.log(quotient) / (2 * eigenvalue)

    @staticmethod
    @wrong(
        "uses the velocity of a factor's entry for that of the product",
        keeps=("adds", "late"),
    )
    def of_factor(eigenvalue, start, end):
        from scipy.integrate import quad

        def slowness(x):
            gap = eigenvalue - np.exp(x)
            return np.sign(gap) / np.abs(gap) ** (drawn.power - 1)

        return quad(slowness, np.log(start), np.log(end), limit=500, epsrel=1e-11)[0]


class Roots(Variant):
    """A low power."""

    task = checks.Roots
    text = TIMING.replace("between it and the limit", "between it and the limit, or at the limit")

    @staticmethod
    def draw(rng):
        return {"power": float(rng.choice([1.25, 1.5, 1.6, 1.75]))}

    @staticmethod
    def time_needed(eigenvalue, start, end):
        """Time on the way."""
        ### BEGIN SOLUTION
        from scipy.integrate import quad

        lam, m = eigenvalue, drawn.power - 1
        # dp = 2 p sign(lam - p) |lam - p|^m dt, where m < 1
        if lam <= 0:
            return quad(lambda x: (np.exp(x) - lam) ** -m / 2, np.log(end), np.log(start))[0]
        parts = 0.0
        half = min(max(lam / 2, start), end) if end <= lam else end
        if start < half <= end:
            parts += quad(
                lambda x: (lam - np.exp(x)) ** -m / 2, np.log(start), np.log(half), epsrel=1e-11
            )[0]
        sign = 1 if start < lam else -1
        first = half if sign > 0 else start
        # y = gap^(1 - m) removes the edge at the limit
        gaps = [(sign * (lam - p)) ** (1 - m) for p in (end, first)]
        parts += quad(
            lambda y: 1 / (2 * (1 - m) * (lam - sign * y ** (1 / (1 - m)))), *gaps, epsrel=1e-11
        )[0]
        return parts
        ### END SOLUTION

    @staticmethod
    @wrong("takes the clock of the squared loss, which never arrives", keeps=("adds",))
    def squared(eigenvalue, start, end):
        if eigenvalue == 0:
            return (1 / end - 1 / start) / 2
        quotient = end * (eigenvalue - start) / (start * (eigenvalue - end))
        return np.log(quotient) / (2 * eigenvalue)

    @staticmethod
    @wrong(
        "uses the velocity of a factor's entry for that of the product", keeps=("adds", "arrives")
    )
    def of_factor(eigenvalue, start, end):
        from scipy.integrate import quad

        m = drawn.power - 1
        if eigenvalue <= 0:
            return quad(lambda x: (np.exp(x) - eigenvalue) ** -m, np.log(end), np.log(start))[0]
        sign = 1 if start < eigenvalue else -1
        gaps = [(sign * (eigenvalue - p)) ** (1 - m) for p in (end, start)]
        return quad(
            lambda y: 1 / ((1 - m) * (eigenvalue - sign * y ** (1 / (1 - m)))),
            *gaps,
            epsrel=1e-12,
            limit=500,
        )[0]


# --- problem 3 ----------------------------------------------------------------------------------

LAG = r"""
The target has the eigenvalues $@targets$. START Let $\sigma_1$ and $\sigma_2$ be the eigenvalues of the product that belong to them. Write `second_value(scale, depth)`, a formula for $\sigma_2$ at the time at which $\sigma_1$ is half of its target, to leading order as the scale $\alpha\to0$:
the quotient of your formula and the true value tends to 1, at every depth $N\ge2$. The tests compare it with simulated flows at scales with $\alpha^N\approx10^{-13}$. Constants count.
"""


class LagPowers(Variant):
    """Another power of the loss."""

    task = checks.LagPowers
    text = LAG.replace(
        "START",
        r"All $N$ factors start at $\alpha I$, and the loss is $\frac1{@power}\sum_i|\sigma_i-\lambda_i|^{@power}$.",
    )

    @staticmethod
    def draw(rng):
        power, ratio = ((3, 0.6), (3, 0.7), (4, 0.7), (4, 0.8))[rng.integers(4)]
        first = float(rng.choice([1.5, 2.0, 3.0]))
        return {"power": power, "tilt": 0.0, "targets": (first, round(ratio * first, 6))}

    @staticmethod
    def second_value(scale, depth):
        """Second eigenvalue of the product when the first is half found."""
        ### BEGIN SOLUTION
        N, m = depth, drawn.power - 1
        first, second = drawn.targets
        share = (second / first) ** m  # of the drives at the start
        if N == 2:
            # time of the first: (ln(first / start) + rest) / (2 first^m)
            rest = sum((2**k - 1) / k for k in range(1, m))
            return scale**2 * np.exp(share * (np.log(first / scale**2) + rest))
        return scale**N * (1 - share) ** (-N / (N - 2))
        ### END SOLUTION

    @staticmethod
    @wrong("takes the gap of the squared loss: eigenvalues in place of their drives", keeps=())
    def squared(scale, depth):
        first, second = drawn.targets
        if depth == 2:
            return second * (scale**2 / second) * (first / scale**2) ** (second / first)
        return scale**depth * (1 - second / first) ** (-depth / (depth - 2))

    @staticmethod
    @wrong(
        "loses the constant at depth 2, where the end of the first one's way takes time too",
        keeps=("exponent", "deep"),
    )
    def no_constant(scale, depth):
        first, second = drawn.targets
        share = (second / first) ** (drawn.power - 1)
        if depth == 2:
            return scale**2 * (first / scale**2) ** share
        return scale**depth * (1 - share) ** (-depth / (depth - 2))


class LagStart(Variant):
    """A start that leans on the target."""

    task = checks.LagStart
    text = LAG.replace(
        "START",
        r"All $N$ factors start at $\alpha\,(I+@tilt\,\hat W)$, and the loss is the squared one of the chapter.",
    )

    @staticmethod
    def draw(rng):
        tilt, *targets = (
            (0.5, 3.0, 2.0),
            (1.0, 2.0, 1.5),
            (0.3, 4.0, 3.0),
            (-0.1, 4.0, 2.0),
            (-0.2, 2.0, 1.0),
        )[rng.integers(5)]
        return {"power": 2, "tilt": tilt, "targets": tuple(targets)}

    @staticmethod
    def second_value(scale, depth):
        """Second eigenvalue of the product when the first is half found."""
        ### BEGIN SOLUTION
        N = depth
        first, second = drawn.targets
        one, two = scale * (1 + drawn.tilt * first), scale * (1 + drawn.tilt * second)
        if N == 2:
            return two**2 * (first / one**2) ** (second / first)
        # while both are small, d^(2 - N) falls at the rate (N - 2) lambda
        return (two ** (2 - N) - second / first * one ** (2 - N)) ** (-N / (N - 2))
        ### END SOLUTION

    @staticmethod
    @wrong("forgets that the entries start at different heights", keeps=("exponent",))
    def same_start(scale, depth):
        first, second = drawn.targets
        if depth == 2:
            return scale**2 * (first / scale**2) ** (second / first)
        return scale**depth * (1 - second / first) ** (-depth / (depth - 2))

    @staticmethod
    @wrong(
        "gives the second entry its own start, and the clock of the first the common one",
        keeps=("exponent",),
    )
    def half_way(scale, depth):
        first, second = drawn.targets
        two = scale * (1 + drawn.tilt * second)
        if depth == 2:
            return two**2 * (first / scale**2) ** (second / first)
        return two**depth * (1 - second / first) ** (-depth / (depth - 2))


# --- the set ------------------------------------------------------------------------------------

LIMITS = {
    "Decay": (
        r"""
Take the loss of problem 2 below, for a general depth $N\ge2$ and decay $\mu>0$. (a) Prove that the factors stay equal and diagonal in the eigenvectors of $\hat W$, and derive the equation of one entry $d$. (b) Show that at $N=2$ the limit of an eigenvalue is $(\lambda-\mu)_+$ from every start. (c) Let $N\ge3$. Show that zero attracts for every $\lambda$,
and compute the smallest $\lambda$ for which an eigenvalue can be found at all. What does this mean for a very small start?
""",
        r"""
(a) The gradient for $W_j$ gains $\mu W_j$; with $W_j=VDV^{\mathsf T}$ it is $V(D^{N-1}(D^N-\Lambda)+\mu D)V^{\mathsf T}$, the same for all $j$, so by uniqueness of the flow $\dot d=d^{N-1}(\lambda-d^N)-\mu d$. (b) $N=2$: $\dot d=d(\lambda-\mu-d^2)$, whose positive starts go to $\sqrt{(\lambda-\mu)_+}$. (c) $\dot d=d\,(\lambda d^{N-2}-d^{2N-2}-\mu)$, and near $d=0$ the bracket is near
$-\mu<0$: zero attracts. The bracket is largest at $d^N=\frac{N-2}{2N-2}\lambda$, where it is $\frac{N}{2N-2}\lambda\bigl(\frac{N-2}{2N-2}\lambda\bigr)^{(N-2)/N}-\mu$. It must be positive, so $\lambda^{2-2/N}>\mu\,\frac{2N-2}{N}\bigl(\frac{2N-2}{N-2}\bigr)^{(N-2)/N}$. From a very small start nothing is found, however large $\lambda$ is: the start must be above the lower
root, about $(\mu/\lambda)^{1/(N-2)}$.
""",
    ),
    "Tilt": (
        r"""
Take the loss of problem 2 below, for a general depth $N\ge2$ and any factor $\tau>0$ of the trace. (a) Prove that the factors stay equal and diagonal in the eigenvectors of $\hat W$, and derive the equation of one entry $d$. (b) Show that zero attracts for every $\lambda$, and compute the smallest $\lambda$ for which an eigenvalue can be found at all. What does this mean for a very small start?
(c) Why is an eigenvalue of the product never negative, although the loss of a negative one may be smaller?
""",
        r"""
(a) On symmetric matrices that commute with $\hat W$ the gradient with respect to $W$ is $2W(W^2-\hat W)+\tau I$. With $W_j=VDV^{\mathsf T}$ each factor gets $VD^{N-1}(2D^N(D^{2N}-\Lambda)+\tau I)V^{\mathsf T}$, and by uniqueness $\dot d=d^{N-1}\bigl(2p(\lambda-p^2)-\tau\bigr)$, $p=d^N$. (b) For small $p$ the bracket is near $-\tau$: $d$ falls to zero. $2p(\lambda-p^2)$ is largest at
$p=\sqrt{\lambda/3}$, where it is $\frac43\lambda\sqrt{\lambda/3}$; this exceeds $\tau$ for $\lambda>3(\tau/4)^{2/3}$. From a very small start nothing is found, however large $\lambda$ is: the start of the product must be above the lower root, about $\tau/(2\lambda)$. (c) $d=0$ is a solution, and solutions do not meet; a product of equal positive numbers stays positive. At $p<0$, $\tau p$ would lower the loss.
""",
    ),
}

SPEEDS = {
    "LagPowers": (
        r"""
(a) Read the slopes of the three lines in your figure and derive them. (b) Compare with the squared loss: by which power of the scale does the second place empty at depth 2 here, by which there, and why does a high power of the loss separate values better? (c) The same power has a price. What is it, at the end of the way? Use problem 3.
""",
        r"""
(a) At depth 2 $\sigma_2\propto\alpha^{2(1-r)}$ with $r=(\lambda_2/\lambda_1)^{q-1}$, here $q=@power$ and the targets $@targets$; at depths 3 and 4 $\alpha^3$ and $\alpha^4$. While both are small, $\dot\sigma=N\sigma^{2-2/N}\lambda^{q-1}$. (b) With the square, $r=\lambda_2/\lambda_1$, which is larger. The drive at the start is $\lambda^{q-1}$: a high power
exaggerates differences of eigenvalues. (c) Near the limit the drive is $(\lambda-\sigma)^{q-1}$: the distance falls like $t^{-1/(q-2)}$ and not exponentially. The first value needs ever longer for its last digits, and the second arrives meanwhile.
""",
    ),
    "LagStart": (
        r"""
(a) Read the slopes of the three lines in your figure and derive them. (b) By which factor does the lean $c$ of the start move the line at depth 2, and by which at depth 3, compared with $c=0$? Expand both for small $c$: why is there no term of first order, and does any lean make the second place emptier? Ask what the flow itself does to a start $\alpha I$ in a short time.
(c) For a negative lean the second value starts above the first. When does it also arrive first, as $\alpha\to0$, at depth 2 and at depth $N\ge3$?
""",
        r"""
(a) At depth 2 $\sigma_2\propto\alpha^{2(1-\rho)}$, $\rho=\lambda_2/\lambda_1$ with the targets $@targets$; at depths 3 and 4 $\alpha^3$ and $\alpha^4$. (b) With $e_i=1+c\lambda_i$, here $c=@tilt$, the factors are $e_2^2e_1^{-2\rho}=1+c^2\lambda_2(\lambda_1-\lambda_2)+\dots$ and $\bigl((e_2^{-1}-\rho e_1^{-1})/(1-\rho)\bigr)^{-3}=1+3c^2\lambda_1\lambda_2+\dots$: a small lean of
either sign fills the second place a little. In a short time the flow turns $\alpha$ into $\alpha(1+\alpha^{N-2}\lambda_it)$, so to first order a lean is a start that has been on its way for a while, and the order of arrival cannot tell. (c) The waits are $\frac1{2\lambda_i}\ln\frac{\lambda_i}{\alpha^2e_i^2}$ at depth 2: the larger target wins for small $\alpha$, whatever the lean. At
depth $N\ge3$ they are proportional to $e_i^{2-N}/\lambda_i$: the second wins if $(e_2/e_1)^{N-2}>\lambda_1/\lambda_2$.
""",
    ),
}

SET = ProblemSet(
    name="identical_initialization",
    title="Problem set: the identical start",
    outcomes=(
        "reduce a flow of matrices to one scalar equation for each eigenvalue, for a loss of your own;",
        "decide which of several places of rest a start reaches;",
        "compute a waiting time exactly where formulas have singular ends;",
        "find the leading order of a gap between two values, constant included.",
    ),
    text="It belongs to the chapter *The identical start: only the non-negative part, large values first*.",
    problems=(
        Write(
            name="derive",
            title="Derive",
            minutes=20,
            text="",
            answer="",
            rubric=(
                (2, "(a) induction or uniqueness, and the scalar equation"),
                (2, "(b) with a reason for every start"),
                (2, "(c) all parts, and the threshold or the wall where there is one"),
            ),
            of="rest",
            by_variant=LIMITS,
        ),
        Implement("rest", "Implement: a place of rest", 20, (Decay, Tilt)),
        Implement("clock", "Implement: a clock", 25, (Powers, Roots)),
        Implement("lag", "Predict: how empty the second place is", 25, (LagPowers, LagStart)),
        Experiment(
            name="figure",
            title="Experiment: a figure",
            minutes=10,
            text=r"""
Plot your `second_value` against the scale $\alpha$ from $10^{-6}$ to $0.1$ for the depths 2, 3 and 4, both axes logarithmic. Then find with `scipy.integrate.solve_ivp` from which scale on the formula is within ten per cent of the flow at depth 3, and mark this scale.
""",
            solution="""
import matplotlib.pyplot as plt
from scipy.integrate import solve_ivp

targets, power, tilt = np.array(@targets), @power, @tilt


def flow(t, d):
    gap = targets - d**3
    return d**2 * np.sign(gap) * np.abs(gap) ** (power - 1)


def measured(scale):
    def half(t, d):
        return d[0] ** 3 - targets[0] / 2

    half.terminal = True
    run = solve_ivp(flow, (0, 1e9), scale * (1 + tilt * targets), events=half, rtol=1e-8, atol=1e-12)
    return run.y[1, -1] ** 3


scales = np.geomspace(1e-6, 0.1, 60)
for depth in (2, 3, 4):
    plt.loglog(scales, [second_value(a, depth) for a in scales], label=f"depth {depth}")
dots = np.geomspace(1e-3, 0.1, 20)
values = np.array([measured(a) for a in dots])
plt.loglog(dots, values, "k.", label="flow, depth 3")
near = np.abs(np.array([second_value(a, 3) for a in dots]) / values - 1) < 0.1
plt.axvline(dots[near].max(), linestyle=":")
plt.xlabel("scale")
plt.ylabel("second value when the first is half found")
plt.legend()
plt.show()
""",
            of="lag",
        ),
        Write(
            name="explain",
            title="Explain",
            minutes=15,
            text="",
            answer="",
            rubric=(
                (2, "(a) three slopes, derived from the flow of small values"),
                (2, "(b) the comparison with numbers or formulas, and a reason"),
                (2, "(c) the answer for each case that is asked for"),
            ),
            of="lag",
            by_variant=SPEEDS,
        ),
    ),
)
