"""Problem set to the chapter on norm blow-up: other losses, and descent that keeps the sign."""

import numpy as np

from assignments.norm_blowup import checks
from course.authoring import Experiment, Implement, ProblemSet, Variant, Write, drawn, wrong

# --- problem 1 ----------------------------------------------------------------------------------

PATTERN = r"""
Of a 2×2 matrix three entries are observed, $W_{12}$ as $@z$, $W_{21}$ as $@z2$ and $W_{22}$ as $0$, and the loss is

LOSS

Let $\det W>0$. Write `least_entry(loss)`, the largest number $B$ for which $|W_{11}|\ge B$ for every such matrix with $\ell(W)\le$ `loss`, to six digits. The loss is a number, small enough that no observed entry off the diagonal can reach zero:
at most a third of the deviation that would take it there.
"""


class Squares(Variant):
    """Weighted squares."""

    task = checks.Squares
    text = PATTERN.replace(
        "LOSS",
        r"$$\ell(W)=\tfrac12\sum_{ij}w_{ij}\,(W_{ij}-b_{ij})^2,\qquad (w_{12},w_{21},w_{22})=@weights .$$",
    )

    @staticmethod
    def draw(rng):
        weights = [(1.0, 2.0, 4.0), (3.0, 1.0, 2.0), (2.0, 5.0, 1.0), (4.0, 1.0, 0.5)]
        z, z2 = (float(v) for v in rng.choice([0.5, 1.5, 2.0, 3.0], 2, replace=False))
        return {"z": z, "z2": z2, "weights": weights[rng.integers(len(weights))]}

    @staticmethod
    def least_entry(loss):
        """Best lower bound of the hidden entry."""
        ### BEGIN SOLUTION
        from scipy.optimize import brentq

        # Lagrange: a (z - a) w1 = b (z2 - b) w2 = c^2 w3 = kappa, and the loss is all used
        w1, w2, w3 = drawn.weights
        z, z2 = drawn.z, drawn.z2

        def deviations(kappa):
            a = 2 * kappa / w1 / (z + np.sqrt(z**2 - 4 * kappa / w1))
            b = 2 * kappa / w2 / (z2 + np.sqrt(z2**2 - 4 * kappa / w2))
            return a, b, np.sqrt(kappa / w3)

        def excess(kappa):
            a, b, c = deviations(kappa)
            return (w1 * a**2 + w2 * b**2 + w3 * c**2) / (2 * loss) - 1

        a, b, c = deviations(brentq(excess, 0, 2 * loss, xtol=1e-14 * loss, rtol=1e-13))
        return (z - a) * (z2 - b) / c
        ### END SOLUTION

    @staticmethod
    @wrong(
        "lets each deviation use the whole loss: a bound, and not the best one",
        keeps=("bound", "grows"),
    )
    def crude(loss):
        a, b, c = np.sqrt(2 * loss / np.array(drawn.weights))
        return (drawn.z - a) * (drawn.z2 - b) / c

    @staticmethod
    @wrong(
        "gives all of the loss to the last entry, as if only that could deviate: no bound",
        keeps=("grows",),
    )
    def only_last(loss):
        return drawn.z * drawn.z2 / np.sqrt(2 * loss / drawn.weights[2])

    @staticmethod
    @wrong("forgets the factor one half of the loss", keeps=("bound", "grows"))
    def no_half(loss):
        a, b, c = np.sqrt(4 * loss / np.array(drawn.weights))
        return (drawn.z - a) * (drawn.z2 - b) / c


class Absolute(Variant):
    """Weighted absolute values."""

    task = checks.Absolute
    text = PATTERN.replace(
        "LOSS",
        r"$$\ell(W)=\sum_{ij}w_{ij}\,|W_{ij}-b_{ij}|,\qquad (w_{12},w_{21},w_{22})=@weights .$$",
    )

    @staticmethod
    def draw(rng):
        weights = [(1.0, 2.0, 4.0), (3.0, 1.0, 2.0), (2.0, 5.0, 1.0), (4.0, 1.0, 0.5)]
        z, z2 = (float(v) for v in rng.choice([0.5, 1.5, 2.0, 3.0], 2, replace=False))
        return {"z": z, "z2": z2, "weights": weights[rng.integers(len(weights))]}

    @staticmethod
    def least_entry(loss):
        """Best lower bound of the hidden entry."""
        ### BEGIN SOLUTION
        # All of the loss goes into the last entry: there it changes the quotient's logarithm by
        # loss / c at first, elsewhere by loss / (z - a), which is less.
        return drawn.z * drawn.z2 * drawn.weights[2] / loss
        ### END SOLUTION

    @staticmethod
    @wrong(
        "lets each deviation use the whole loss: a bound, and not the best one",
        keeps=("bound", "grows"),
    )
    def crude(loss):
        a, b, c = loss / np.array(drawn.weights)
        return (drawn.z - a) * (drawn.z2 - b) / c

    @staticmethod
    @wrong("takes the exponent of the squared loss for this one", keeps=())
    def root(loss):
        return drawn.z * drawn.z2 / np.sqrt(2 * loss / drawn.weights[2])


# --- problem 2 ----------------------------------------------------------------------------------

LATE = r"""
The flow of $N$ balanced factors starts at $\alpha I$ and moves the 2×2 matrix of the chapter, but the loss is

LOSS

Write `entry_at(t, depth)`, your prediction of $W_{11}(t)$ for late times and $N\ge2$, a formula. The tests compare it with the flow itself, to three per cent. *Hint:* find $\ell$ as a function of $W_{11}$ in the valley where the second singular value is negligible and the other entries have
settled, and use $\dot\sigma_1=-N\sigma_1^{2-2/N}\langle\nabla\ell,u_1v_1^{\mathsf T}\rangle$.
"""


class Powers(Variant):
    """Another power of the deviations."""

    task = checks.Powers
    text = LATE.replace(
        "LOSS",
        r"$$\ell(W)=\tfrac1{@power}\bigl(|W_{12}-1|^{@power}+|W_{21}-1|^{@power}+|W_{22}|^{@power}\bigr).$$",
    )

    @staticmethod
    def draw(rng):
        return {"power": int(rng.choice([3, 4]))}

    @staticmethod
    def entry_at(t, depth):
        """Hidden entry at a late time."""
        ### BEGIN SOLUTION
        # In the valley W22 = 1 / W11, the loss is W11^-q / q, and W11 is the first singular value:
        # its velocity is N W11^(2 - 2/N) W11^(-q - 1).
        N, q = depth, drawn.power
        return ((q * N + 2) * t) ** (N / (q * N + 2))
        ### END SOLUTION

    @staticmethod
    @wrong("takes the law of the squared loss", keeps=("power_law",))
    def squared(t, depth):
        return ((2 * depth + 2) * t) ** (depth / (2 * depth + 2))

    @staticmethod
    @wrong(
        "forgets the factor N of the velocity: right exponent, wrong factor",
        keeps=("power_law", "exponent"),
    )
    def no_depth(t, depth):
        N, q = depth, drawn.power
        return ((q * N + 2) * t / N) ** (N / (q * N + 2))


class Below(Variant):
    """An observed entry that cannot be reached."""

    task = checks.Below
    text = LATE.replace(
        "LOSS",
        r"$$\ell(W)=\tfrac1{@power}\bigl(|W_{12}-1|^{@power}+|W_{21}-1|^{@power}+|W_{22}-b|^{@power}\bigr),\qquad b=@last .$$",
    )

    @staticmethod
    def draw(rng):
        power, last = ((3, -0.4), (3, -0.5), (3, -0.7), (3, -0.8))[rng.integers(4)]
        return {"power": power, "last": last}

    @staticmethod
    def entry_at(t, depth):
        """Hidden entry at a late time."""
        ### BEGIN SOLUTION
        # W22 = 1 / W11 and the loss is |b|^q / q + |b|^(q - 1) / W11 to leading order.
        N, q, b = depth, drawn.power, abs(drawn.last)
        return ((N + 2) * b ** (q - 1) * t) ** (N / (N + 2))
        ### END SOLUTION

    @staticmethod
    @wrong("takes the law for an entry that can be reached", keeps=("power_law",))
    def reachable(t, depth):
        N, q = depth, drawn.power
        return ((q * N + 2) * t) ** (N / (q * N + 2))

    @staticmethod
    @wrong(
        "loses the power of the unreachable entry: right exponent, wrong factor",
        keeps=("power_law", "exponent"),
    )
    def no_power(t, depth):
        return ((depth + 2) * t) ** (depth / (depth + 2))


# --- problem 3 ----------------------------------------------------------------------------------

SIGNED = r"""
At depth 2, from $W_1=W_2=\sqrt\alpha\,I$, gradient descent keeps $W_2=W_1^{\mathsf T}$. Take the loss

LOSS

Write `signed_descent(scale, step_size, steps)`, which walks `steps` steps and returns the pair of the product $W$, of shape (2, 2), and $\ln\det W$. A product of two floating-point factors forgets the determinant as soon as it is small compared with
$W_{12}^2$. Yours must know it to six digits after thousands of steps, when it may be $10^{-60}$ and less.
"""


class Entries(Variant):
    """Other observed entries."""

    task = checks.Entries
    text = SIGNED.replace(
        "LOSS",
        r"$$\ell(W)=\tfrac12\bigl((W_{12}-@z)^2+(W_{21}-@z)^2+W_{22}^2\bigr).$$",
    )

    @staticmethod
    def draw(rng):
        return {"z": float(rng.choice([0.8, 1.25, 1.5]))}

    @staticmethod
    def signed_descent(scale, step_size, steps):
        """Product after some steps, and the logarithm of its determinant."""
        ### BEGIN SOLUTION
        a, b, d, log = scale, 0.0, scale, 2 * np.log(scale)
        for _ in range(steps):
            m, n = step_size * (drawn.z - b), 1 - step_size * d  # I - eta G = (1 m; m n)
            left, right = a + m * b, b + m * d
            log += 2 * np.log(abs(n - m * m))
            a, b = left + m * right, m * left + n * right
            d = (b * b + np.exp(log)) / a
        return np.array([[a, b], [b, d]]), log
        ### END SOLUTION

    @staticmethod
    @wrong("takes the logarithm of the product's determinant at the end", keeps=("path", "early"))
    def at_the_end(scale, step_size, steps):
        W = scale * np.eye(2)
        for _ in range(steps):
            residual = W - np.array([[0, drawn.z], [drawn.z, 0]])
            residual[0, 0] = 0
            A = np.eye(2) - step_size * residual
            W = A @ W @ A
        return W, np.log(max(abs(W[0, 0] * W[1, 1] - W[0, 1] * W[1, 0]), 1e-300))

    @staticmethod
    @wrong("multiplies the determinant by a factor instead of its square", keeps=("path",))
    def not_squared(scale, step_size, steps):
        W, log = scale * np.eye(2), 2 * np.log(scale)
        for _ in range(steps):
            residual = W - np.array([[0, drawn.z], [drawn.z, 0]])
            residual[0, 0] = 0
            A = np.eye(2) - step_size * residual
            W = A @ W @ A
            log += np.log(abs(np.linalg.det(A)))
        return W, log


class Weighted(Variant):
    """Another weight of the last entry."""

    task = checks.Weighted
    text = SIGNED.replace(
        "LOSS",
        r"$$\ell(W)=\tfrac12\bigl((W_{12}-1)^2+(W_{21}-1)^2+@weight\,W_{22}^2\bigr).$$",
    )

    @staticmethod
    def draw(rng):
        return {"weight": float(rng.choice([0.5, 2.0, 3.0]))}

    @staticmethod
    def signed_descent(scale, step_size, steps):
        """Product after some steps, and the logarithm of its determinant."""
        ### BEGIN SOLUTION
        a, b, d, log = scale, 0.0, scale, 2 * np.log(scale)
        for _ in range(steps):
            m, n = step_size * (1 - b), 1 - step_size * drawn.weight * d
            left, right = a + m * b, b + m * d
            log += 2 * np.log(abs(n - m * m))
            a, b = left + m * right, m * left + n * right
            d = (b * b + np.exp(log)) / a
        return np.array([[a, b], [b, d]]), log
        ### END SOLUTION

    @staticmethod
    @wrong("takes the logarithm of the product's determinant at the end", keeps=("path", "early"))
    def at_the_end(scale, step_size, steps):
        W = scale * np.eye(2)
        for _ in range(steps):
            G = np.array([[0, W[0, 1] - 1], [W[1, 0] - 1, drawn.weight * W[1, 1]]])
            A = np.eye(2) - step_size * G
            W = A @ W @ A
        return W, np.log(max(abs(W[0, 0] * W[1, 1] - W[0, 1] * W[1, 0]), 1e-300))

    @staticmethod
    @wrong("forgets the weight", keeps=())
    def no_weight(scale, step_size, steps):
        a, b, d, log = scale, 0.0, scale, 2 * np.log(scale)
        for _ in range(steps):
            m, n = step_size * (1 - b), 1 - step_size * d
            left, right = a + m * b, b + m * d
            log += 2 * np.log(abs(n - m * m))
            a, b = left + m * right, m * left + n * right
            d = (b * b + np.exp(log)) / a
        return np.array([[a, b], [b, d]]), log


# --- the set ------------------------------------------------------------------------------------

SET = ProblemSet(
    name="norm_blowup",
    title="Problem set: norm blow-up",
    outcomes=(
        "turn the sign of a determinant into a lower bound, for a loss of your own;",
        "predict the end of a run from a balance of leading terms, and test the prediction;",
        "compute what floating-point numbers cannot show.",
    ),
    text="It belongs to the chapter *Norm blow-up*.",
    problems=(
        Write(
            name="derive",
            title="Derive",
            minutes=20,
            text=r"""
Take the loss of problem 2 below. (a) Show from $\det W>0$ alone that $|W_{11}|\to\infty$ whenever $W_{12},W_{21}\to@z$, $@z2$ and $W_{22}\to0$, and give a lower bound in terms of the three deviations. (b) Conclude that every norm, and every quasi-norm with constant $c$, goes to infinity. (c) Which
of your inequalities would be lost if $W_{22}$ were observed as $0.1$, and which if $\det W<0$ were allowed?
""",
            answer=r"""
(a) With deviations $a,b,c$ of the three entries, $W_{11}W_{22}>W_{12}W_{21}\ge(@z-a)(@z2-b)>0$ for small $a$ and $b$, so $W_{22}\ne0$ and $|W_{11}|>(@z-a)(@z2-b)/c$. (b) $\lVert W\rVert\ge\frac1c|W_{11}|\,\lVert e_1e_1^{\mathsf T}\rVert-\lVert W-W_{11}e_1e_1^{\mathsf T}\rVert$ in a quasi-norm with constant $c$, and
the last term stays bounded since all its entries do and all quasi-norms on four dimensions are equivalent. (c) With $0.1$ the denominator is at most $0.1+c$: the bound stays, but it stays finite, about $10\cdot@z\cdot@z2$. With a negative determinant there is no first inequality, and $W_{11}=0$ fits the data.
""",
            rubric=(
                (
                    2,
                    "(a) the determinant's sign gives the inequality; signs of W11 and W22 are discussed",
                ),
                (2, "(b) triangle inequality with the constant; the rest is bounded"),
                (2, "(c) both answers, each with the line that changes"),
            ),
            of="bound",
        ),
        Implement("bound", "Implement: the best bound", 25, (Squares, Absolute)),
        Implement("late", "Implement and predict: the end of the run", 20, (Powers, Below)),
        Implement("descent", "Implement: descent that keeps the sign", 20, (Entries, Weighted)),
        Experiment(
            name="figure",
            title="Experiment: a figure",
            minutes=10,
            text=r"""
Run your `signed_descent` from scale $0.3$ with step size $0.05$ for $100, 200, 400, \dots, 6400$ steps. Plot $\ln\det W$ against $W_{11}^2$, and in the same figure the logarithm of the determinant that `numpy.linalg.det` finds for the same products.
""",
            solution="""
import matplotlib.pyplot as plt

runs = [signed_descent(0.3, 0.05, 100 * 2**k) for k in range(7)]
squares = [W[0, 0] ** 2 for W, _ in runs]
plt.plot(squares, [log for _, log in runs], "o-", label="kept")
found = [np.log(max(abs(np.linalg.det(W)), 1e-300)) for W, _ in runs]
plt.plot(squares, found, "s--", label="numpy.linalg.det")
plt.xlabel("W11 squared")
plt.ylabel("log det W")
plt.legend()
plt.show()
""",
            of="descent",
        ),
        Write(
            name="explain",
            title="Explain",
            minutes=15,
            text=r"""
(a) What is the slope of the kept curve in your figure, and why? (b) At which level does the other curve leave it, and why there? (c) What would a run in plain floating-point arithmetic do next, if the lost determinant came out negative?
""",
            answer=r"""
(a) Near $-\tfrac12$ times the weight of $W_{22}^2$ and divided by the square of the observed entries: with $W_{22}=z^2/W_{11}$, $\frac{d}{dt}\ln\det W=-2wW_{22}$ to leading order and $\dot W_{11}=2W_{11}\,wW_{22}\cdot z^2/W_{11}^2$, so $d\ln\det W/dW_{11}=-W_{11}/z^2$: slope $-1/(2z^2)$, whatever the weight.
(b) At about $\ln(10^{-16}z^2)$, some $-37$: $W_{11}W_{22}$ and $W_{12}^2$ agree to sixteen digits and their difference is rounding. (c) On the other side of determinant zero the data can be fitted with a bounded entry: $W_{11}$ turns, and the loss goes to zero, against the theorem.
""",
            rubric=(
                (2, "(a) the measured slope, about -1/(2 z^2), and a reason"),
                (2, "(b) rounding at relative 1e-16, as a difference of two nearly equal products"),
                (2, "(c) crosses determinant zero, bounded solution, loss to zero"),
            ),
            of="descent",
        ),
    ),
)
