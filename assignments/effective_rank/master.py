"""Problem set to the chapter on effective rank: other ranks, other stairs, the rank of noise."""

import numpy as np

from assignments.effective_rank import checks
from course.authoring import Experiment, Implement, ProblemSet, Variant, Write, drawn, wrong

# --- problem 1 ----------------------------------------------------------------------------------

SPECTRA = r"""
Consider spectra of $n$ values $1=\sigma_1\ge\dots\ge\sigma_n\ge0$ for which the sum $S=\sum_i\sigma_i^{@power}$ has a given value, the *level*, between $1$ and $n$. How far can QUANTITY still vary?

Write `extreme_spectra(level, size)`, which returns an array of shape `(2, size)`: in row 0 a spectrum with this level for which NAME is least, in row 1 one for which it is largest. A spectrum may stand in any order.
"""


class PowerSums(Variant):
    """Another sum of powers."""

    task = checks.PowerSums
    text = SPECTRA.replace("QUANTITY", r"the sum $R=\sum_i\sigma_i^{@other}$").replace(
        "NAME", "$R$"
    )

    @staticmethod
    def draw(rng):
        power, other = ((2.0, 4.0), (0.5, 1.0), (1.5, 2.0), (3.0, 4.0))[rng.integers(4)]
        return {"power": power, "other": other}

    @staticmethod
    def extreme_spectra(level, size):
        """Two spectra, for the least and for the largest value."""
        ### BEGIN SOLUTION
        # in the powers t the level is linear and R a sum of convex functions
        flat = np.full(size, (level - 1) / (size - 1))
        flat[0] = 1
        whole = int(level)
        steep = np.zeros(size)
        steep[:whole] = 1
        if whole < size:
            steep[whole] = level - whole
        return np.array([flat, steep]) ** (1 / drawn.power)
        ### END SOLUTION

    @staticmethod
    @wrong("takes the extremes of a concave sum: the rows are exchanged", keeps=("level",))
    def exchanged(level, size):
        flat, steep = np.full(size, (level - 1) / (size - 1)), np.zeros(size)
        flat[0], steep[: int(level)] = 1, 1
        if level < size:
            steep[int(level)] = level - int(level)
        return np.array([steep, flat]) ** (1 / drawn.power)

    @staticmethod
    @wrong(
        "makes the values equal but uses as few of them as the level needs",
        keeps=("level", "largest"),
    )
    def few(level, size):
        whole = int(np.ceil(level))
        flat, steep = np.zeros(size), np.zeros(size)
        flat[:whole], flat[0] = (level - 1) / (whole - 1), 1
        steep[: int(level)] = 1
        if level < size:
            steep[int(level)] = level - int(level)
        return np.array([flat, steep]) ** (1 / drawn.power)

    @staticmethod
    @wrong("gives the powers instead of the singular values", keeps=())
    def powers(level, size):
        flat, steep = np.full(size, (level - 1) / (size - 1)), np.zeros(size)
        flat[0], steep[: int(level)] = 1, 1
        if level < size:
            steep[int(level)] = level - int(level)
        return np.array([flat, steep])


class Entropies(Variant):
    """The entropy of the same powers."""

    task = checks.Entropies
    text = SPECTRA.replace(
        "QUANTITY",
        r"the rank $R=\exp\bigl(-\sum_i\rho_i\ln\rho_i\bigr)$ of the shares $\rho_i=\sigma_i^{@power}/S$",
    ).replace("NAME", "$R$")

    @staticmethod
    def draw(rng):
        return {"power": float(rng.choice([0.5, 1.5, 2.0, 3.0]))}

    @staticmethod
    def extreme_spectra(level, size):
        """Two spectra, for the least and for the largest value."""
        ### BEGIN SOLUTION
        # the entropy is concave in the powers: least at a corner, largest when all are equal
        flat = np.full(size, (level - 1) / (size - 1))
        flat[0] = 1
        whole = int(level)
        steep = np.zeros(size)
        steep[:whole] = 1
        if whole < size:
            steep[whole] = level - whole
        return np.array([steep, flat]) ** (1 / drawn.power)
        ### END SOLUTION

    @staticmethod
    @wrong("takes the extremes of a convex sum: the rows are exchanged", keeps=("level",))
    def exchanged(level, size):
        flat, steep = np.full(size, (level - 1) / (size - 1)), np.zeros(size)
        flat[0], steep[: int(level)] = 1, 1
        if level < size:
            steep[int(level)] = level - int(level)
        return np.array([flat, steep]) ** (1 / drawn.power)

    @staticmethod
    @wrong("lets the largest value share in the equality, so the spectrum has no 1", keeps=())
    def equal(level, size):
        flat, steep = np.full(size, level / size), np.zeros(size)
        steep[: int(level)] = 1
        if level < size:
            steep[int(level)] = level - int(level)
        return np.array([steep, flat]) ** (1 / drawn.power)

    @staticmethod
    @wrong(
        "makes the values equal and as few as the level allows: least for whole levels only",
        keeps=("level", "largest"),
    )
    def even(level, size):
        flat, steep = np.full(size, (level - 1) / (size - 1)), np.zeros(size)
        whole = int(np.ceil(level))
        flat[0] = 1
        steep[:whole], steep[0] = (level - 1) / (whole - 1), 1
        return np.array([steep, flat]) ** (1 / drawn.power)


# --- problem 2 ----------------------------------------------------------------------------------

STAIRS = r"""
As in the chapter, two symmetric factors start at $\alpha I$, and the target $\hat W$ has eigenvalues $\lambda_i\ge0$. But gradient flow reduces

LOSS

so each eigenvalue $\sigma_i$ of the product $W$ moves alone, from $\alpha^2$ to a limit. With a *tolerance* $\delta$, an eigenvalue has *left* zero when $\sigma_i\ge\delta$, and has *arrived* when it is within $\delta$ of its limit, if that is not zero. In order of arrival, stair number $k$ begins when the $k$-th
has arrived and ends when the next one leaves zero.

Write `stair(eigenvalues, scale, tolerance, count)`, which returns three numbers for the stair with the number `count`: the time when it begins, the time when it ends, and its height, the nuclear rank that the product would have if the eigenvalues that have arrived were at their limits and the others
zero. The tests ask for stairs that exist: they begin before they end, and another eigenvalue follows. Five digits are enough.
"""


class Decayed(Variant):
    """Weight decay on both factors."""

    task = checks.Decayed
    text = STAIRS.replace(
        "LOSS",
        r"$$\tfrac12\lVert W_2W_1-\hat W\rVert_F^2+\tfrac{@decay}2\bigl(\lVert W_1\rVert_F^2+\lVert W_2\rVert_F^2\bigr),$$",
    )

    @staticmethod
    def draw(rng):
        return {"decay": float(rng.choice([0.3, 0.5, 0.8, 1.2]))}

    @staticmethod
    def stair(eigenvalues, scale, tolerance, count):
        """Begin, end and height of a stair."""
        ### BEGIN SOLUTION
        # sigma' = 2 sigma (lambda - decay - sigma): the chapter's equation, for what is left
        # of the eigenvalues when the decay is subtracted; the others never leave zero
        end = np.sort(np.asarray(eigenvalues) - drawn.decay)[::-1]
        end = end[end > tolerance]

        def time(end, level):
            return np.log(level * (end - scale**2) / (scale**2 * (end - level))) / (2 * end)

        there, left = time(end, end - tolerance), time(end, tolerance)
        order = np.argsort(there)
        height = end[order[:count]].sum() / end[order[:count]].max()
        return there[order[count - 1]], left[order[count:]].min(), height
        ### END SOLUTION

    @staticmethod
    @wrong(
        "lets the decay shift the rates but not the limits: heights and arrivals of the target",
        keeps=("end",),
    )
    def limits_unchanged(eigenvalues, scale, tolerance, count):
        value = np.sort(np.asarray(eigenvalues))[::-1]
        value = value[value > drawn.decay]
        rate = value - drawn.decay

        def time(level):
            return np.log(level * (rate - scale**2) / (scale**2 * (rate - level))) / (2 * rate)

        there = time(rate - tolerance / 2)
        return (
            there[count - 1],
            time(tolerance)[count],
            value[:count].sum() / value[:count].max(),
        )

    @staticmethod
    @wrong("forgets the decay", keeps=())
    def no_decay(eigenvalues, scale, tolerance, count):
        end = np.sort(np.asarray(eigenvalues))[::-1]

        def time(end, level):
            return np.log(level * (end - scale**2) / (scale**2 * (end - level))) / (2 * end)

        there, left = time(end, end - tolerance), time(end, tolerance)
        return there[count - 1], left[count], end[:count].sum() / end[0]

    @staticmethod
    @wrong(
        "takes the clock of one vector that is squared: all times half as long", keeps=("height",)
    )
    def fast_clock(eigenvalues, scale, tolerance, count):
        end = np.sort(np.asarray(eigenvalues) - drawn.decay)[::-1]
        end = end[end > tolerance]

        def time(end, level):
            return np.log(level * (end - scale**2) / (scale**2 * (end - level))) / (4 * end)

        there, left = time(end, end - tolerance), time(end, tolerance)
        return there[count - 1], left[count], end[:count].sum() / end[0]


class Weighted(Variant):
    """Weights that are powers of the eigenvalues."""

    task = checks.Weighted
    text = STAIRS.replace(
        "LOSS",
        r"$$\tfrac12\sum_i\lambda_i^{@exponent}\,\bigl(v_i^{\mathsf T}(W_2W_1-\hat W)\,v_i\bigr)^2+\text{the same for the entries off the diagonal},\qquad\hat W=\sum_i\lambda_iv_iv_i^{\mathsf T},\ \lambda_i>0,$$",
    )

    @staticmethod
    def draw(rng):
        return {"exponent": float(rng.choice([-4.0, -3.0, -2.5, -2.0]))}

    @staticmethod
    def stair(eigenvalues, scale, tolerance, count):
        """Begin, end and height of a stair."""
        ### BEGIN SOLUTION
        end = np.asarray(eigenvalues, dtype=float)
        rate = 2 * end ** (1 + drawn.exponent)  # sigma' = 2 lambda^e sigma (lambda - sigma)

        def time(level):
            return np.log(level * (end - scale**2) / (scale**2 * (end - level))) / rate

        there, left = time(end - tolerance), time(tolerance)
        order = np.argsort(there)  # not the order of the eigenvalues
        height = end[order[:count]].sum() / end[order[:count]].max()
        return there[order[count - 1]], left[order[count:]].min(), height
        ### END SOLUTION

    @staticmethod
    @wrong("ignores the weights: the limits are the same, so the path should be", keeps=())
    def no_weights(eigenvalues, scale, tolerance, count):
        end = np.sort(np.asarray(eigenvalues))[::-1]

        def time(level):
            return np.log(level * (end - scale**2) / (scale**2 * (end - level))) / (2 * end)

        there, left = time(end - tolerance), time(tolerance)
        return there[count - 1], left[count], end[:count].sum() / end[0]

    @staticmethod
    @wrong(
        "believes that large eigenvalues always come first, in the height", keeps=("begin", "end")
    )
    def largest_first(eigenvalues, scale, tolerance, count):
        end = np.asarray(eigenvalues, dtype=float)
        rate = 2 * end ** (1 + drawn.exponent)

        def time(level):
            return np.log(level * (end - scale**2) / (scale**2 * (end - level))) / rate

        there, left = np.sort(time(end - tolerance)), np.sort(time(tolerance))
        height = np.sort(end)[::-1][:count].sum() / end.max()
        return there[count - 1], left[count], height


# --- problem 3 ----------------------------------------------------------------------------------

NOISE = r"""
A plot of a rank needs to know what noise alone would show. Let $W$ be a large $m\times n$ matrix of independent entries with mean zero and variance one, $m\le n$, and $c=m/n$. By the law of Marchenko and Pastur the numbers $\sigma_i^2/n$ are distributed with the density

$$
\frac{\sqrt{(b-x)(x-a)}}{2\pi c\,x}\quad\text{on }a\le x\le b,\qquad a=(1-\sqrt c)^2,\quad b=(1+\sqrt c)^2,
$$

and the largest of them is near $b$. Write `noise_rank(rows, cols)`, your prediction of

RANK

for such a matrix, of any shape, with more or with fewer rows than columns. *Hint:* substitute $x=1+c+2\sqrt c\cos\theta$ before you integrate.
"""


class Shares(Variant):
    """Rényi's rank of the shares of the energy."""

    task = checks.Shares
    text = NOISE.replace(
        "RANK",
        r"$$R=\Bigl(\sum_i\rho_i^{q}\Bigr)^{1/(1-q)},\qquad\rho_i=\sigma_i^2\Big/\sum_j\sigma_j^2,\qquad q=@power,$$",
    )

    @staticmethod
    def draw(rng):
        return {"power": float(rng.choice([0.5, 2.0, 3.0])), "kind": "shares"}

    @staticmethod
    def noise_rank(rows, cols):
        """Rank of a large matrix of noise."""
        ### BEGIN SOLUTION
        m, n = min(rows, cols), max(rows, cols)
        c = m / n
        theta = (np.arange(4000) + 0.5) * np.pi / 4000
        x = 1 + c + 2 * np.sqrt(c) * np.cos(theta)
        moment = (x ** (drawn.power - 1) * 2 * np.sin(theta) ** 2).mean()
        return m * moment ** (1 / (1 - drawn.power))  # the mean of x is 1
        ### END SOLUTION

    @staticmethod
    @wrong(
        "believes that noise has full rank, since its expected covariance is the identity",
        keeps=("size", "strip"),
    )
    def full(rows, cols):
        return min(rows, cols)

    @staticmethod
    @wrong(
        "takes the shares of the singular values and not of their squares", keeps=("size", "strip")
    )
    def not_squared(rows, cols):
        m, c = min(rows, cols), min(rows, cols) / max(rows, cols)
        theta = (np.arange(4000) + 0.5) * np.pi / 4000
        x = 1 + c + 2 * np.sqrt(c) * np.cos(theta)
        weight, q = 2 * np.sin(theta) ** 2 / x, drawn.power
        moment = (x ** (q / 2) * weight).mean() / (x**0.5 * weight).mean() ** q
        return m * moment ** (1 / (1 - q))


class Largest(Variant):
    """A sum of powers over that of the largest value."""

    task = checks.Largest
    text = NOISE.replace("RANK", r"$$R=\sum_i\sigma_i^{p}\Big/\sigma_1^{p},\qquad p=@power,$$")

    @staticmethod
    def draw(rng):
        return {"power": float(rng.choice([0.5, 0.75, 1.0, 1.5])), "kind": "largest"}

    @staticmethod
    def noise_rank(rows, cols):
        """Rank of a large matrix of noise."""
        ### BEGIN SOLUTION
        m, n = min(rows, cols), max(rows, cols)
        c = m / n
        theta = (np.arange(4000) + 0.5) * np.pi / 4000
        x = 1 + c + 2 * np.sqrt(c) * np.cos(theta)
        moment = (x ** (drawn.power / 2 - 1) * 2 * np.sin(theta) ** 2).mean()
        return m * moment / (1 + np.sqrt(c)) ** drawn.power
        ### END SOLUTION

    @staticmethod
    @wrong(
        "believes that noise has full rank, since its expected covariance is the identity",
        keeps=("size", "strip"),
    )
    def full(rows, cols):
        return min(rows, cols)

    @staticmethod
    @wrong("takes the mean of the squares for the largest square", keeps=("size", "strip"))
    def no_edge(rows, cols):
        m, c = min(rows, cols), min(rows, cols) / max(rows, cols)
        theta = (np.arange(4000) + 0.5) * np.pi / 4000
        x = 1 + c + 2 * np.sqrt(c) * np.cos(theta)
        return m * (x ** (drawn.power / 2 - 1) * 2 * np.sin(theta) ** 2).mean()

    @staticmethod
    @wrong("takes the squared singular values for the values themselves", keeps=("size", "strip"))
    def squared(rows, cols):
        m, c = min(rows, cols), min(rows, cols) / max(rows, cols)
        theta = (np.arange(4000) + 0.5) * np.pi / 4000
        x = 1 + c + 2 * np.sqrt(c) * np.cos(theta)
        moment = (x ** (drawn.power - 1) * 2 * np.sin(theta) ** 2).mean()
        return m * moment / (1 + np.sqrt(c)) ** (2 * drawn.power)


# --- the set ------------------------------------------------------------------------------------

RANGES = {
    "PowerSums": (
        r"""
Take the two sums $S$ and $R$ of problem 2. (a) Prove the best lower and the best upper bound of $R$ in terms of $S$ and $n$, and say for which spectra they are attained. (b) Where in your proof is it used that the power in $R$ is larger than that in $S$? (c) For $S=2$, how far apart are the bounds as $n\to\infty$?
""",
        r"""
(a) Put $t_i=\sigma_i^{@power}\in[0,1]$, $t_1=1$, so $\sum_{i\ge2}t_i=S-1$ and $R=1+\sum_{i\ge2}\phi(t_i)$ with $\phi(t)=t^{\kappa}$, $\kappa=@other/@power>1$, convex. Jensen: $R\ge1+(n-1)\bigl(\frac{S-1}{n-1}\bigr)^{\kappa}$, attained when all $t_i$ with $i\ge2$ are equal. A convex function on the polytope
$\{t\in[0,1]^{n-1}:\sum t_i=S-1\}$ is largest at a vertex, where at most one entry is not 0 or 1: $R\le\lfloor S\rfloor+(S-\lfloor S\rfloor)^{\kappa}$. (b) In the convexity of $\phi$; for a smaller power it is concave and the bounds exchange their roles. (c) Lower: $1+(n-1)^{1-\kappa}\to1$; upper: 2. So the gap tends to 1.
""",
    ),
    "Entropies": (
        r"""
Take $S$ and $R$ of problem 2. (a) Prove the best lower and the best upper bound of $R$ in terms of $S$ and $n$, and say for which spectra they are attained. (b) What is the lower bound if $S$ is a whole number, and which inequality of the chapter's chain does it sharpen, where the power is 1? (c) For $S=2$, how does the upper bound grow as
$n\to\infty$?
""",
        r"""
(a) Put $t_i=\sigma_i^{@power}\in[0,1]$, $t_1=1$, $\sum t_i=S$. Then $\ln R=\ln S-\frac1S\sum_{i\ge2}t_i\ln t_i$, and $t\ln t$ is convex on $[0,1]$. By Jensen the sum is at least $(S-1)\ln\frac{S-1}{n-1}$, at equal $t_i$, so $R\le S\bigl(\frac{n-1}{S-1}\bigr)^{(S-1)/S}$. A convex function on a polytope is largest at a vertex, where all $t_i$ but one are 0 or 1
and the last is $f=S-\lfloor S\rfloor$: $R\ge S\,f^{-f/S}$. (b) Then $f\ln f=0$ and $R\ge S$, with equality for $S$ equal values. That the entropy rank is at least the sum over the largest is the chain without the participation ratio; for other levels $f^{-f/S}>1$ improves it. (c) $R\le2\sqrt{n-1}$: the dust of the chapter.
""",
    ),
}

SIGNALS = {
    "Shares": (
        r"""
(a) Read from your figure at which strength the rank has fallen to half of its value for noise alone, and explain the order of magnitude by comparing the signal's share with the sum over the noise, as powers of $m$. (b) Which of the orders $\frac12$, 2 and 3 would you use to *detect* a weak signal in noise, and which to stop
a run as soon as noise enters? (c) Rows are counted twice by mistake: every row of a noise matrix stands in it two times. What happens to the rank, and what does that say about it as a measure of noise?
""",
        r"""
(a) With $q=@power$: the noise has $\sum\rho^q\approx C\,m^{1-q}/(1+\tau^2)^q$, the signal the share $\tau^2/(1+\tau^2)$. For $q>1$ they balance at $\tau^{2q}\approx m^{1-q}$, so $\tau\approx m^{-(q-1)/(2q)}$: $m^{-1/4}$ (0.24 for $m=300$) for $q=2$, $m^{-1/3}$ (0.15) for $q=3$. For $q=\frac12$ the signal's term $\sqrt{\tau^2/(1+\tau^2)}$ never matters beside
$\sqrt m$; the rank is about $Cm/(1+\tau^2)$ and is half at $\tau\approx1$. (b) A large order detects: it sees the largest share. A small order reacts to noise under a strong signal, so it stops early. (c) All singular values are multiplied by $\sqrt2$, the shares and the rank stay, while the matrix has twice the rows: the
rank sees that they hold nothing new, and the prediction for $2m$ rows is wrong because the entries are not independent.
""",
    ),
    "Largest": (
        r"""
(a) Read from your figure at which strength the rank begins to fall, and explain the order of magnitude: compare the signal's singular value with the largest one of the noise, as powers of $m$. (b) With the strength fixed at $0.2$, let $m=n$ grow. Does this rank go to 1, to infinity, or neither? (c) Rows are
counted twice by mistake: every row of a noise matrix stands in it two times. What happens to the rank, and what does that say about it as a measure of noise?
""",
        r"""
(a) The signal has the singular value $\tau\sqrt{mn}$, the noise at most $\sqrt m+\sqrt n$: they are equal at $\tau=m^{-1/2}+n^{-1/2}$, about 0.1 here. In truth the largest value begins to move already at $\tau=(mn)^{-1/4}$, about 0.06, slowly. Beyond, the rank falls like $\tau^{-p}$, $p=@power$. (b) The noise contributes about $Cm\,m^{p/2}$ to the
sum, the signal $(\tau m)^p$, and the quotient is about $1+C\tau^{-p}m^{1-p/2}$: to infinity, since $p<2$. (For $p=2$ it would tend to $1+\tau^{-2}$, for a larger $p$ to 1.) (c) All singular values are multiplied by $\sqrt2$ and the rank stays, while the matrix has twice the rows: the rank sees that they hold nothing new, and the
prediction for $2m$ rows is wrong because the entries are not independent.
""",
    ),
}

SET = ProblemSet(
    name="effective_rank",
    title="Problem set: effective rank",
    outcomes=(
        "find the range of one effective rank when another is known, with the spectra at its ends;",
        "predict the stairs of a run when the loss is changed: their order, times and heights;",
        "predict what an effective rank shows for pure noise, and read a measured rank against it.",
    ),
    text="It belongs to the chapter *Effective rank: what is minimised instead of a norm*.",
    problems=(
        Write(
            name="derive",
            title="Derive",
            minutes=20,
            text="",
            answer="",
            rubric=(
                (2, "the bound by Jensen's inequality, with the spectrum that attains it"),
                (2, "the bound by vertices of a polytope, with the one broken value"),
                (1, "the answer to (b)"),
                (1, "the answer to (c), with a power of n or a limit"),
            ),
            of="extremes",
            by_variant=RANGES,
        ),
        Implement("extremes", "Implement: extreme spectra", 20, (PowerSums, Entropies)),
        Implement("stairs", "Implement: other stairs", 25, (Decayed, Weighted)),
        Implement("noise", "Implement: the rank of noise", 20, (Shares, Largest)),
        Experiment(
            name="figure",
            title="Experiment: a figure",
            minutes=10,
            text=r"""
Take a matrix $G$ of noise with $m=300$ rows and $n=400$ columns, and add a signal of rank 1: $G+\tau\sqrt{mn}\,uv^{\mathsf T}$ with unit vectors $u$ and $v$, so that $\tau^2$ is the signal's energy divided by that of the noise. Plot the rank $R$ of problem 4 against the strength $\tau$ from $0.01$ to $3$ on a logarithmic axis, and
beside it a horizontal line at your `noise_rank(300, 400)`.
""",
            solution="""
import matplotlib.pyplot as plt

rng = np.random.default_rng(0)
G = rng.standard_normal((300, 400))
u, v = rng.standard_normal(300), rng.standard_normal(400)
signal = np.outer(u, v) / np.linalg.norm(u) / np.linalg.norm(v) * np.sqrt(300 * 400)
strengths = np.geomspace(0.01, 3, 25)
spectra = [np.linalg.svd(G + tau * signal, compute_uv=False) for tau in strengths]
if "@kind" == "shares":
    shares = [sigma**2 / (sigma**2).sum() for sigma in spectra]
    ranks = [(rho**@power).sum() ** (1 / (1 - @power)) for rho in shares]
else:
    ranks = [((sigma / sigma[0]) ** @power).sum() for sigma in spectra]
plt.semilogx(strengths, ranks, "o-", label="noise and signal")
plt.axhline(noise_rank(300, 400), linestyle="--", color="gray", label="noise, predicted")
plt.xlabel("strength of the signal")
plt.ylabel("rank R")
plt.legend()
plt.show()
""",
            of="noise",
        ),
        Write(
            name="explain",
            title="Explain",
            minutes=20,
            text="",
            answer="",
            rubric=(
                (1, "(a) a strength read from the figure that agrees with it"),
                (2, "(a) the balance of signal and noise that explains its order of magnitude"),
                (2, "(b) the right answer with the leading term"),
                (1, "(c) the rank stays, with the reason"),
            ),
            of="noise",
            by_variant=SIGNALS,
        ),
    ),
)
