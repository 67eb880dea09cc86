"""Problem set to the chapter on least squares: other motions, other limits, other rates."""

import numpy as np

from assignments.least_squares import checks
from course.authoring import Experiment, Implement, ProblemSet, Variant, Write, drawn, wrong

# --- problem 1 ----------------------------------------------------------------------------------

HEAD = r"""
As in the chapter, $f(\beta)=\lVert y-X\beta\rVert_2^2$, without a factor ½, and $X=\sum_i\sigma_iu_iv_i^{\mathsf T}$.
"""


class Momentum(Variant):
    """Heavy ball in continuous time."""

    task = checks.Momentum
    text = (
        HEAD
        + r"""
A ball with friction rolls in the landscape $f$:

$$
\ddot\beta+@friction\,\dot\beta=-\nabla f(\beta),\qquad \beta(0)=\beta_0,\quad\dot\beta(0)=0 .
$$

Write `place_at(X, y, t, beta0)`, which returns $\beta(t)$ in closed form for one time $t\ge0$, exact to about ten digits, for every $X$.
Singular values at most $10^{-10}\sigma_1$ count as zero. One mode may be just critically damped; a formula that divides by zero there is not good enough.
"""
    )

    @staticmethod
    def draw(rng):
        return {"friction": float(rng.choice([0.6, 0.8, 1.2, 1.5]))}

    @staticmethod
    def place_at(X, y, t, beta0):
        """Place of the ball at time t."""
        ### BEGIN SOLUTION
        U, sigma, Vt = np.linalg.svd(X, full_matrices=False)
        keep = sigma > 1e-10 * sigma[0]
        U, sigma, Vt = U[:, keep], sigma[keep], Vt[keep]
        gap = U.T @ y / sigma - Vt @ beta0
        half = drawn.friction / 2
        root = np.sqrt(half**2 - 2 * sigma**2 + 0j)
        # sinh(root t) / root, whose value at root = 0 is t
        small = np.abs(root * t) < 1e-4
        safe = np.where(small, 1, root)
        ratio = np.where(small, t * (1 + (root * t) ** 2 / 6), np.sinh(safe * t) / safe)
        left = np.exp(-half * t) * (np.cosh(root * t) + half * ratio)
        return beta0 + Vt.T @ ((1 - left.real) * gap)
        ### END SOLUTION

    @staticmethod
    @wrong("takes the factor 2 of the gradient for a factor 1", keeps=("start", "null_space"))
    def half_gradient(X, y, t, beta0):
        U, sigma, Vt = np.linalg.svd(X, full_matrices=False)
        keep = sigma > 1e-10 * sigma[0]
        U, sigma, Vt = U[:, keep], sigma[keep], Vt[keep]
        gap = U.T @ y / sigma - Vt @ beta0
        half = drawn.friction / 2
        root = np.sqrt(half**2 - sigma**2 + 1e-14j)
        left = np.exp(-half * t) * (np.cosh(root * t) + half * np.sinh(root * t) / root)
        return beta0 + Vt.T @ ((1 - left.real) * gap)

    @staticmethod
    @wrong(
        "starts from zero: X+ y alone, so what the start has in the null space is lost",
        keeps=("equation", "critical"),
    )
    def from_zero(X, y, t, beta0):
        U, sigma, Vt = np.linalg.svd(X, full_matrices=False)
        keep = sigma > 1e-10 * sigma[0]
        U, sigma, Vt = U[:, keep], sigma[keep], Vt[keep]
        half = drawn.friction / 2
        root = np.sqrt(half**2 - 2 * sigma**2 + 1e-14j)
        left = np.exp(-half * t) * (np.cosh(root * t) + half * np.sinh(root * t) / root)
        return Vt.T @ ((1 - left.real) * (U.T @ y / sigma))

    @staticmethod
    @wrong(
        "divides by zero where a mode is critically damped",
        keeps=("start", "equation", "null_space"),
    )
    def not_critical(X, y, t, beta0):
        U, sigma, Vt = np.linalg.svd(X, full_matrices=False)
        keep = sigma > 1e-10 * sigma[0]
        U, sigma, Vt = U[:, keep], sigma[keep], Vt[keep]
        gap = U.T @ y / sigma - Vt @ beta0
        half = drawn.friction / 2
        square = half**2 - 2 * sigma**2
        root = np.sqrt(np.where(np.abs(square) < 1e-12, np.nan, square) + 0j)
        left = np.exp(-half * t) * (np.cosh(root * t) + half * np.sinh(root * t) / root)
        return beta0 + Vt.T @ ((1 - left.real) * gap)


class Decay(Variant):
    """Weight decay towards a point that is not the start."""

    task = checks.Decay
    text = (
        HEAD
        + r"""
A penalty pulls towards a point $b$, which need not be the start:

$$
\dot\beta=-\nabla\bigl(f(\beta)+@decay\,\lVert\beta-b\rVert_2^2\bigr),\qquad\beta(0)=\beta_0 .
$$

Write `place_at(X, y, t, beta0, anchor)`, which returns $\beta(t)$ in closed form for one time $t\ge0$, for every $X$ and for $b$ = `anchor`.
"""
    )

    @staticmethod
    def draw(rng):
        return {"decay": float(rng.choice([0.3, 0.4, 0.6, 0.7]))}

    @staticmethod
    def place_at(X, y, t, beta0, anchor):
        """Coefficients at time t."""
        ### BEGIN SOLUTION
        rates, V = np.linalg.eigh(X.T @ X + drawn.decay * np.eye(X.shape[1]))
        end = V.T @ (X.T @ y + drawn.decay * anchor) / rates
        return V @ (end + np.exp(-2 * rates * t) * (V.T @ beta0 - end))
        ### END SOLUTION

    @staticmethod
    @wrong("pulls towards the start instead of the given point", keeps=("start",))
    def pulls_to_start(X, y, t, beta0, anchor):
        rates, V = np.linalg.eigh(X.T @ X + drawn.decay * np.eye(X.shape[1]))
        end = V.T @ (X.T @ y + drawn.decay * beta0) / rates
        return V @ (end + np.exp(-2 * rates * t) * (V.T @ beta0 - end))

    @staticmethod
    @wrong(
        "forgets that the gradient has a factor 2: right end, wrong pace", keeps=("start", "end")
    )
    def half_pace(X, y, t, beta0, anchor):
        rates, V = np.linalg.eigh(X.T @ X + drawn.decay * np.eye(X.shape[1]))
        end = V.T @ (X.T @ y + drawn.decay * anchor) / rates
        return V @ (end + np.exp(-rates * t) * (V.T @ beta0 - end))


class Average(Variant):
    """The weighted average of the path."""

    task = checks.Average
    text = (
        HEAD
        + r"""
Let $\beta(t)$ be gradient flow, $\dot\beta=-\nabla f(\beta)$ from $\beta_0$. Instead of its last point one often keeps an average in which late times count more:

$$
m(t)=\frac{@power+1}{t^{@power+1}}\int_0^ts^{@power}\,\beta(s)\,ds,\qquad m(0)=\beta_0 .
$$

Write `place_at(X, y, t, beta0)`, which returns $m(t)$ in closed form for one time $t\ge0$, exact to about ten digits, for every $X$ and for times between $10^{-9}$ and $10^{7}$. (`scipy.special` has
what you need.)
"""
    )

    @staticmethod
    def draw(rng):
        return {"power": int(rng.choice([0, 1, 2]))}

    @staticmethod
    def place_at(X, y, t, beta0):
        """Average of the path up to time t."""
        ### BEGIN SOLUTION
        from scipy.special import hyp1f1

        U, sigma, Vt = np.linalg.svd(X, full_matrices=False)
        keep = sigma > 1e-10 * sigma[0]
        U, sigma, Vt = U[:, keep], sigma[keep], Vt[keep]
        gap = U.T @ y / sigma - Vt @ beta0
        p, x = drawn.power, 2 * sigma**2 * t
        # (p+1) x^-(p+1) int_0^x s^p e^-s ds
        left = hyp1f1(p + 1, p + 2, -x)
        return beta0 + Vt.T @ ((1 - left) * gap)
        ### END SOLUTION

    @staticmethod
    @wrong(
        "returns the last point of the path instead of the average", keeps=("start", "null_space")
    )
    def last_point(X, y, t, beta0):
        U, sigma, Vt = np.linalg.svd(X, full_matrices=False)
        keep = sigma > 1e-10 * sigma[0]
        U, sigma, Vt = U[:, keep], sigma[keep], Vt[keep]
        gap = U.T @ y / sigma - Vt @ beta0
        return beta0 + Vt.T @ (-np.expm1(-2 * sigma**2 * t) * gap)

    @staticmethod
    @wrong(
        "takes the rate of a mode for its singular value squared, without the 2",
        keeps=("start", "null_space", "slow"),
    )
    def half_rate(X, y, t, beta0):
        from scipy.special import hyp1f1

        U, sigma, Vt = np.linalg.svd(X, full_matrices=False)
        keep = sigma > 1e-10 * sigma[0]
        U, sigma, Vt = U[:, keep], sigma[keep], Vt[keep]
        gap = U.T @ y / sigma - Vt @ beta0
        p, x = drawn.power, sigma**2 * t
        return beta0 + Vt.T @ ((1 - hyp1f1(p + 1, p + 2, -x)) * gap)


# --- problem 2 ----------------------------------------------------------------------------------


class Rates(Variant):
    """Coordinates move at rates of their own, some not at all."""

    task = checks.Rates
    text = r"""
Each coordinate moves at a rate of its own, $\dot\beta_j=-\rho_j\,\partial_jf(\beta)$, and the rates repeat the pattern @rates: coordinate $j$, counted from 0, has the entry of the pattern with the number
$j$ modulo the pattern's length. A rate of zero freezes its coordinate, so the metric of the chapter, which has to be positive definite, does not cover this.

Write `resting_place(X, y, beta0)`, which returns $\lim_{t\to\infty}\beta(t)$.
"""

    @staticmethod
    def draw(rng):
        patterns = [(1, 0, 2), (3, 1, 0), (0, 1, 4), (2, 0, 1, 1), (1, 3, 0, 2)]
        return {"rates": patterns[rng.integers(len(patterns))]}

    @staticmethod
    def resting_place(X, y, beta0):
        """Where the flow with these rates ends."""
        ### BEGIN SOLUTION
        root = np.sqrt(np.resize(np.array(drawn.rates, dtype=float), X.shape[1]))
        # in the coordinates beta / root it is the plain flow for X * root
        return beta0 + root * (np.linalg.pinv(X * root, rcond=1e-10) @ (y - X @ beta0))
        ### END SOLUTION

    @staticmethod
    @wrong(
        "takes the limit of the plain flow: rates change the path, and the limit too",
        keeps=("rest",),
    )
    def plain(X, y, beta0):
        return beta0 + np.linalg.pinv(X) @ (y - X @ beta0)

    @staticmethod
    @wrong(
        "freezes coordinates but takes the nearest point in the Euclidean norm for the others",
        keeps=("frozen", "rest"),
    )
    def euclidean(X, y, beta0):
        free = np.resize(np.array(drawn.rates, dtype=float), X.shape[1]) > 0
        return beta0 + free * (np.linalg.pinv(X * free) @ (y - X @ beta0))

    @staticmethod
    @wrong("uses the rates where their square roots belong", keeps=("frozen", "rest"))
    def rates_as_roots(X, y, beta0):
        rates = np.resize(np.array(drawn.rates, dtype=float), X.shape[1])
        return beta0 + rates * (np.linalg.pinv(X * rates) @ (y - X @ beta0))


class TwoSided(Variant):
    """An unknown matrix between two known ones."""

    task = checks.TwoSided
    text = r"""
A matrix $W\in\mathbb R^{p\times q}$ is moved by gradient flow on $\lVert Y-AWB\rVert_F^2$ from $W_0$, except that its row number @row, counted from 0, is frozen. The matrices $A$ and $B$ may have any rank, and $Y$ need not be of the form $AWB$.

Write `resting_place(A, B, Y, W0)`, which returns $\lim_{t\to\infty}W(t)$.
"""

    @staticmethod
    def draw(rng):
        return {"row": int(rng.integers(0, 3))}

    @staticmethod
    def resting_place(A, B, Y, W0):
        """Where the flow ends."""
        ### BEGIN SOLUTION
        free = A.copy()
        free[:, drawn.row] = 0
        way = np.linalg.pinv(free, rcond=1e-10) @ (Y - A @ W0 @ B) @ np.linalg.pinv(B)
        return W0 + way
        ### END SOLUTION

    @staticmethod
    @wrong("forgets the frozen row", keeps=("rest",))
    def all_rows(A, B, Y, W0):
        return W0 + np.linalg.pinv(A, rcond=1e-10) @ (Y - A @ W0 @ B) @ np.linalg.pinv(B)

    @staticmethod
    @wrong("takes the limit of all rows and then sets the frozen one back", keeps=("frozen",))
    def set_back(A, B, Y, W0):
        end = W0 + np.linalg.pinv(A, rcond=1e-10) @ (Y - A @ W0 @ B) @ np.linalg.pinv(B)
        end[drawn.row] = W0[drawn.row]
        return end

    @staticmethod
    @wrong(
        "returns the solution of least norm in the free rows: right from zero only", keeps=("rest",)
    )
    def least_norm(A, B, Y, W0):
        free = A.copy()
        free[:, drawn.row] = 0
        kept = np.zeros_like(W0)
        kept[drawn.row] = W0[drawn.row]
        return kept + np.linalg.pinv(free, rcond=1e-10) @ (Y - A @ kept @ B) @ np.linalg.pinv(B)


# --- problem 3 ----------------------------------------------------------------------------------

SERIES = r"""
The chapter's rate $e^{-2\sigma_r^2t}$ says nothing when there are infinitely many singular values that tend to zero, as for the features of a smooth function. Let $\sigma_j=j^{-@decay}$ and let the gaps be
$\delta_j=j^{-s}$, for $j=1,2,\dots$ Then WHAT is

$$
E(t)=\sum_{j\ge1}TERM\,e^{-4t\,j^{-2\cdot@decay}} .
$$

Write `exponents(s, t)`, which returns two numbers: the *measured* exponent at time $t$, $-\,d\ln E/d\ln t$, to three digits, from sums of as many terms as it takes; and the *predicted* exponent of late times,
$\lim_{t\to\infty}-\,d\ln E/d\ln t$, a formula in $s$ alone. The tests use $0.8\le s\le2.5$.
"""


def series(what, term):
    return SERIES.replace("WHAT", what).replace("TERM", term)


class Loss(Variant):
    """Decline of the loss."""

    task = checks.Decline
    text = series(what="the loss above its minimum", term=r"j^{-2\cdot@decay-2s}")

    @staticmethod
    def draw(rng):
        return {"decay": float(rng.choice([0.75, 1.0, 1.25])), "weight": 2}

    @staticmethod
    def exponents(s, t):
        """Measured and predicted exponent of the decline."""
        ### BEGIN SOLUTION
        a = drawn.decay
        j = np.arange(1.0, 1e6)
        terms = j ** (-2 * a - 2 * s) * np.exp(-4 * t * j ** (-2 * a))
        measured = 4 * t * (terms * j ** (-2 * a)).sum() / terms.sum()
        return measured, (2 * a + 2 * s - 1) / (2 * a)
        ### END SOLUTION

    @staticmethod
    @wrong("forgets how many modes there are: sets t = j^2a in one term", keeps=("measured",))
    def one_term(s, t):
        a = drawn.decay
        j = np.arange(1.0, 1e6)
        terms = j ** (-2 * a - 2 * s) * np.exp(-4 * t * j ** (-2 * a))
        return 4 * t * (terms * j ** (-2 * a)).sum() / terms.sum(), (2 * a + 2 * s) / (2 * a)

    @staticmethod
    @wrong("sums too few terms, so the measured decline is exponential", keeps=("predicted",))
    def few_terms(s, t):
        a = drawn.decay
        j = np.arange(1.0, 10)
        terms = j ** (-2 * a - 2 * s) * np.exp(-4 * t * j ** (-2 * a))
        measured = 4 * t * (terms * j ** (-2 * a)).sum() / terms.sum()
        return measured, (2 * a + 2 * s - 1) / (2 * a)


class Distance(Variant):
    """Decline of the squared distance to the limit."""

    task = checks.Decline
    text = series(
        what=r"the squared distance $\lVert\beta(t)-\beta(\infty)\rVert_2^2$", term=r"j^{-2s}"
    )

    @staticmethod
    def draw(rng):
        return {"decay": float(rng.choice([0.75, 1.0, 1.25])), "weight": 0}

    @staticmethod
    def exponents(s, t):
        """Measured and predicted exponent of the decline."""
        ### BEGIN SOLUTION
        a, last = drawn.decay, 1e6
        j = np.arange(1.0, last)
        terms = j ** (-2 * s) * np.exp(-4 * t * j ** (-2 * a))
        rest = last ** (1 - 2 * s) / (2 * s - 1)  # the sum converges slowly
        measured = 4 * t * (terms * j ** (-2 * a)).sum() / (terms.sum() + rest)
        return measured, (2 * s - 1) / (2 * a)
        ### END SOLUTION

    @staticmethod
    @wrong("takes the exponent of the loss for that of the distance", keeps=("measured",))
    def of_loss(s, t):
        a, last = drawn.decay, 1e6
        j = np.arange(1.0, last)
        terms = j ** (-2 * s) * np.exp(-4 * t * j ** (-2 * a))
        rest = last ** (1 - 2 * s) / (2 * s - 1)
        measured = 4 * t * (terms * j ** (-2 * a)).sum() / (terms.sum() + rest)
        return measured, (2 * a + 2 * s - 1) / (2 * a)


# --- the set ------------------------------------------------------------------------------------

MOTIONS = {
    "Momentum": (
        r"""
(a) Let $c_i=\langle v_i,\beta\rangle$. Derive the equation of $c_i$ from the equation of motion in problem 2 below and solve it; say what happens for $8\sigma_i^2$ smaller than, equal to and larger than the square of the friction.
(b) Prove that the ball comes to rest at $X^{+}y+P_{\ker X}\beta_0$, although it overshoots. Which one property of the force does the proof need?
""",
        r"""
(a) The inner product of the equation with $v_i$ gives $\ddot c_i+\gamma\dot c_i+2\sigma_i^2c_i=2\sigma_i\langle u_i,y\rangle$, with $\gamma=@friction$; for $v\in\ker X$ it gives $\ddot c+\gamma\dot c=0$ with $\dot c(0)=0$, so $c$ is constant. With
$e=c_i-\langle u_i,y\rangle/\sigma_i$ and $r=\sqrt{\gamma^2/4-2\sigma_i^2}$, $e(t)=e(0)\,e^{-\gamma t/2}\bigl(\cosh rt+\tfrac{\gamma}{2r}\sinh rt\bigr)$. For $8\sigma^2<\gamma^2$ two decreasing exponentials; at equality
$e^{-\gamma t/2}(1+\gamma t/2)$; beyond, oscillations with the envelope $e^{-\gamma t/2}$. (b) In all three cases $e\to0$, as $\operatorname{Re}r<\gamma/2$, and the null space does not move. The force lies in the range of $X^{\mathsf T}$, and so do velocity and displacement.
""",
    ),
    "Decay": (
        r"""
(a) Solve the equation of problem 2 below and find the limit, for every $X$. Where is it for $y=0$? (b) Without decay the component of the start in $\ker X$ is never forgotten. How fast is it forgotten here, and what takes its place? Compare with the statement of the chapter that the flow is biased
by its start.
""",
        r"""
(a) With $\lambda=@decay$ and $H=X^{\mathsf T}X+\lambda I$, $\dot\beta=-2(H\beta-X^{\mathsf T}y-\lambda b)$, so $\beta(t)=\beta_\infty+e^{-2Ht}(\beta_0-\beta_\infty)$ with $\beta_\infty=H^{-1}(X^{\mathsf T}y+\lambda b)$. $H$ is positive definite, so the limit exists. For $y=0$ it is
$\lambda H^{-1}b$, which is $b$ in the null space and smaller elsewhere. (b) In $\ker X$, $H=\lambda I$: the difference to $b$ decays as $e^{-2\lambda t}$. The bias of the start is replaced by that of the penalty, for times much larger than $1/(2\lambda)$.
""",
    ),
    "Average": (
        r"""
(a) Derive the factor by which the gap of the mode $\sigma_i$ has closed at time $t$, as an integral, and its behaviour for small and for large $\sigma_i^2t$. (b) The path approaches its limit exponentially, its average only like a power of $1/t$. Prove it, with the power and the constant, and say what is gained by
averaging when $y$ is noisy.
""",
        r"""
(a) $\beta(s)=\beta_0+\sum(1-e^{-2\sigma_i^2s})\delta_iv_i$; the average of the factor is $1-\varphi(2\sigma_i^2t)$, $\varphi(x)=(p+1)x^{-p-1}\int_0^xs^pe^{-s}ds$ with $p=@power$. For small $x$, $1-\varphi=\frac{p+1}{p+2}x+O(x^2)$; for large $x$, $\varphi\approx(p+1)!\,x^{-p-1}$.
(b) So the distance of mode $i$ is $\delta_i(p+1)!\,(2\sigma_i^2t)^{-p-1}$: a power of $1/t$, never exponential. Directions of small $\sigma_i$ are learned later, as with a larger penalty, so noise there enters less.
""",
    ),
}

SET = ProblemSet(
    name="least_squares",
    title="Problem set: least squares",
    outcomes=(
        "solve a linear equation of motion mode by mode, also where modes change their character;",
        "find what a rule of motion leaves unchanged, and from it the limit;",
        "turn a spectrum into a rate, and a measured slope into evidence.",
    ),
    text="It belongs to the chapter *Least squares: the solution nearest to the start*.",
    problems=(
        Write(
            name="derive",
            title="Derive",
            minutes=20,
            text="",
            answer="",
            rubric=(
                (3, "the equation of one mode and its solution, with all cases"),
                (2, "the limit, or the rate, with a proof"),
                (1, "the answer to the last question, with a reason"),
            ),
            of="motion",
            by_variant=MOTIONS,
        ),
        Implement("motion", "Implement: a motion", 25, (Momentum, Decay, Average)),
        Implement("limit", "Implement: a limit", 20, (Rates, TwoSided)),
        Implement("decline", "Experiment: a rate", 20, (Loss, Distance)),
        Experiment(
            name="figure",
            title="Experiment: a figure",
            minutes=10,
            text=r"""
Plot $E(t)$ of problem 4 for $s=1$ and $s=2$ against $t$ from $1$ to $10^4$, both axes logarithmic, each with a line of the predicted slope beside it.
""",
            solution="""
import matplotlib.pyplot as plt

times = np.logspace(0, 4, 60)
for s in (1, 2):
    slopes = np.array([exponents(s, t)[0] for t in times])
    steps = np.diff(np.log(times)) * (slopes[1:] + slopes[:-1]) / 2
    E = np.exp(-np.concatenate([[0], np.cumsum(steps)]))  # E(t) / E(1)
    plt.loglog(times, E, label=f"s = {s}, measured")
    plt.loglog(times, E[-1] * (times / times[-1]) ** -exponents(s, 1)[1], "--", label="predicted")
plt.xlabel("time t")
plt.ylabel("E(t) / E(1)")
plt.legend()
plt.show()
""",
            of="decline",
        ),
        Write(
            name="explain",
            title="Explain",
            minutes=15,
            text=r"""
(a) Explain the predicted exponent in three sentences to somebody who has seen the series but not the calculation: which modes are still unlearned at time $t$, and how much do they weigh together? (b) With a finite number $d$ of modes the power law ends. When, and what follows it? Where would you see it in your figure?
""",
            answer=r"""
(a) At time $t$ the factor $e^{-4tj^{-2a}}$, with $a=@decay$, is near one for $j\gg t^{1/(2a)}$ and near zero for smaller $j$: the first $J=(4t)^{1/(2a)}$ modes are learned. What is left is the tail of the series of weights $j^{-q}$, about $J^{1-q}/(q-1)$, with $q=2s$ for the distance and $q=2a+2s$ for the loss. Hence the exponent
$(q-1)/(2a)$. (b) The tail is empty when $J\approx d$, at $t\approx d^{2a}/4$; from then on the last mode rules and the decline is exponential, at the rate $4d^{-2a}$. The curve bends down, away from the line.
""",
            rubric=(
                (
                    2,
                    "(a) a moving border between learned and unlearned modes, at j of the order t^(1/2a)",
                ),
                (2, "(a) the tail behind it, as a sum or integral, gives the exponent"),
                (2, "(b) the time d^(2a)/4 and the exponential after it"),
            ),
            of="decline",
        ),
    ),
)
