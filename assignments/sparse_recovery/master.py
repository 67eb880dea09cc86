"""Problem set to the chapter on sparse recovery: other factors, other losses."""

import numpy as np

from assignments.sparse_recovery import checks
from course.authoring import Experiment, Implement, ProblemSet, Variant, Write, drawn, wrong

# --- problem 1 ----------------------------------------------------------------------------------

DISTANCE = r"""
Entry by entry let $x_k=MAP$, and let $w$ follow the gradient flow of $\frac12\lVert Ax(w)-y\rVert_2^2$, for some $A$ and $y$. This is a mirror flow, $\frac{\mathrm d}{\mathrm dt}\nabla F(x)=-A^{\mathsf T}(Ax-y)$, with a potential $F$ that is not one of the chapter's.

Write `distance_to(z, x)`, which returns its Bregman divergence $D_F(z,x)$, a number, for any two vectors. As in the chapter, $F$ has no other factor than the one that this equation gives it.
"""


class Sine(Variant):
    """Hyperbolic sine."""

    task = checks.Sine
    text = DISTANCE.replace("MAP", r"@scale\cdot\sinh w_k")

    @staticmethod
    def draw(rng):
        return {"scale": float(rng.choice([0.5, 0.8, 1.5, 2.0]))}

    @staticmethod
    def distance_to(z, x):
        """Divergence of z from x."""
        ### BEGIN SOLUTION
        # F'' = 1 / (c^2 + x^2), so F' = arctan(x / c) / c
        c = drawn.scale

        def potential(x):
            return (x / c * np.arctan(x / c) - np.log1p((x / c) ** 2) / 2).sum()

        return potential(z) - potential(x) - np.arctan(x / c) @ (z - x) / c
        ### END SOLUTION

    @staticmethod
    @wrong("exchanges the two points", keeps=("positive", "separate"))
    def exchanged(z, x):
        c = drawn.scale

        def potential(x):
            return (x / c * np.arctan(x / c) - np.log1p((x / c) ** 2) / 2).sum()

        return potential(x) - potential(z) - np.arctan(z / c) @ (x - z) / c

    @staticmethod
    @wrong(
        "measures in the factors: the Euclidean distance of what the flow moves",
        keeps=("positive", "separate"),
    )
    def in_factors(z, x):
        return ((np.arcsinh(z / drawn.scale) - np.arcsinh(x / drawn.scale)) ** 2).sum() / 2

    @staticmethod
    @wrong(
        "divides by the derivative once and not by its square: the potential of another flow",
        keeps=("positive", "separate"),
    )
    def slope_once(z, x):
        c = drawn.scale

        def potential(x):
            return (x * np.arcsinh(x / c) - np.sqrt(c**2 + x**2)).sum()

        return potential(z) - potential(x) - np.arcsinh(x / c) @ (z - x)


class Cubic(Variant):
    """Linear and cubic."""

    task = checks.Cubic
    text = DISTANCE.replace("MAP", r"w_k+@scale\,w_k^3")

    @staticmethod
    def draw(rng):
        return {"scale": float(rng.choice([0.2, 0.5, 1.0, 2.0]))}

    @staticmethod
    def distance_to(z, x):
        """Divergence of z from x."""
        ### BEGIN SOLUTION
        r = np.sqrt(3 * drawn.scale)

        def factor(x):
            return 2 / r * np.sinh(np.arcsinh(1.5 * r * x) / 3)  # the real root of the cubic

        def dual(x):
            return np.arctan(r * factor(x)) / r

        def potential(x):
            # x F' - F is the integral of x over the dual, in terms of w
            w = factor(x)
            return (x * dual(x) - w**2 / 6 - np.log1p((r * w) ** 2) / (3 * r**2)).sum()

        return potential(z) - potential(x) - dual(x) @ (z - x)
        ### END SOLUTION

    @staticmethod
    @wrong("exchanges the two points", keeps=("positive", "separate"))
    def exchanged(z, x):
        r = np.sqrt(3 * drawn.scale)

        def factor(x):
            return 2 / r * np.sinh(np.arcsinh(1.5 * r * x) / 3)

        def dual(x):
            return np.arctan(r * factor(x)) / r

        def potential(x):
            w = factor(x)
            return (x * dual(x) - w**2 / 6 - np.log1p((r * w) ** 2) / (3 * r**2)).sum()

        return potential(x) - potential(z) - dual(z) @ (x - z)

    @staticmethod
    @wrong(
        "measures in the factors: the Euclidean distance of what the flow moves",
        keeps=("positive", "separate"),
    )
    def in_factors(z, x):
        r = np.sqrt(3 * drawn.scale)
        w, v = (2 / r * np.sinh(np.arcsinh(1.5 * r * a) / 3) for a in (z, x))
        return ((w - v) ** 2).sum() / 2

    @staticmethod
    @wrong("integrates the dual over the factor instead of over x", keeps=("separate",))
    def over_factor(z, x):
        r = np.sqrt(3 * drawn.scale)

        def factor(x):
            return 2 / r * np.sinh(np.arcsinh(1.5 * r * x) / 3)

        def dual(x):
            return np.arctan(r * factor(x)) / r

        def potential(x):
            w = factor(x)
            return (w * dual(x) - np.log1p((r * w) ** 2) / (2 * r**2)).sum()

        return potential(z) - potential(x) - dual(x) @ (z - x)


# --- problem 2 ----------------------------------------------------------------------------------

LIMIT = r"""
FACTORS The factors follow the gradient flow of $\frac12\lVert Ax-y\rVert_2^2$ in these $2n$ unknowns, powers and products taken entry by entry, and the matrix $A$ has independent rows.

Write `flow_limit_of(A, y)`, which returns $\lim_{t\to\infty}x(t)$, with residual $\lVert Ax-y\rVert$ below $10^{-8}$. *Hint:* find $x$ as a function of the dual point $\mu=A^{\mathsf T}\nu$; then solve $m$ equations for $\nu$ by Newton's method, with shorter steps where a full one would leave the domain or increase
the convex function behind it. Following the flow with an integrator is not precise enough.
"""


class Pair(Variant):
    """One factor and the square of another."""

    task = checks.Pair
    text = LIMIT.replace(
        "FACTORS",
        r"Let $x=a\odot b^{\odot2}$ with $a(0)=0$ and $b(0)=@start\cdot\mathbf 1$.",
    )

    @staticmethod
    def draw(rng):
        return {"start": float(rng.choice([0.5, 0.6, 0.8, 1.0]))}

    @staticmethod
    def flow_limit_of(A, y):
        """End of the flow."""
        ### BEGIN SOLUTION
        # b^2 - 2 a^2 = start^2 stays, and a' = b^2 mu' gives a = start tan(theta) / sqrt 2
        beta = drawn.start

        def factors(nu):
            theta = np.sqrt(2) * beta * (A.T @ nu)
            if np.abs(theta).max() >= np.pi / 2:
                return None
            a = beta * np.tan(theta) / np.sqrt(2)
            return a, beta**2 + 2 * a**2  # the first factor and the square of the second

        def height(nu):
            found = factors(nu)
            return np.inf if found is None else (found[0] ** 2).sum() / 2 - y @ nu

        nu = np.zeros(len(y))
        for _ in range(200):
            a, square = factors(nu)
            off = A @ (a * square) - y
            if np.abs(off).max() < 1e-13 * (1 + np.abs(y).max()):
                break
            step = np.linalg.solve(A * (square**2 + 4 * a**2 * square) @ A.T, off)
            length = 1.0
            while not height(nu - length * step) <= height(nu) + 1e-13 and length > 1e-12:
                length /= 2
            nu = nu - length * step
        a, square = factors(nu)
        return a * square
        ### END SOLUTION

    @staticmethod
    @wrong(
        "believes that every factorization from a small start ends at least Euclidean norm",
        keeps=("solves", "unseen"),
    )
    def least_norm(A, y):
        return np.linalg.pinv(A) @ y

    @staticmethod
    @wrong("stops the flow early and takes this for the limit", keeps=("unseen",))
    def early(A, y):
        a, b = np.zeros(A.shape[1]), np.full(A.shape[1], drawn.start)
        for _ in range(100):
            force = A.T @ (A @ (a * b**2) - y)
            a, b = a - 0.01 * b**2 * force, b - 0.02 * a * b * force
        return a * b**2

    @staticmethod
    @wrong("leaves the second factor where it started: least norm in disguise", keeps=("solves",))
    def frozen(A, y):
        a = np.linalg.lstsq(A * drawn.start**2, y, rcond=None)[0]
        seen = np.abs(A).sum(axis=0) > 0
        return np.where(seen, a * drawn.start**2, drawn.start**2)


class Uneven(Variant):
    """The difference of two different powers."""

    task = checks.Uneven
    text = LIMIT.replace(
        "FACTORS",
        r"Let $x=u^{\odot@first}-v^{\odot@second}$ with $u(0)=v(0)=@start\cdot\mathbf 1$.",
    )

    @staticmethod
    def draw(rng):
        first, second = ((2, 3), (3, 2), (2, 4), (4, 2))[rng.integers(4)]
        start = float(rng.choice([0.4, 0.5, 0.6]))
        return {"first": first, "second": second, "start": start}

    @staticmethod
    def flow_limit_of(A, y):
        """End of the flow."""

        ### BEGIN SOLUTION
        def factor(power, dual):
            """Factor w with w' = power w^(power - 1) dual', from the start; or None."""
            if power == 2:
                return drawn.start * np.exp(2 * dual)
            base = drawn.start ** (2 - power) - power * (power - 2) * dual
            return base ** (1 / (2 - power)) if base.min() > 0 else None

        def factors(nu):
            dual = A.T @ nu
            return factor(drawn.first, dual), factor(drawn.second, -dual)

        p, q = drawn.first, drawn.second

        def height(nu):
            u, v = factors(nu)
            if u is None or v is None:
                return np.inf
            return (u**2 / (2 * p) + v**2 / (2 * q)).sum() - y @ nu

        nu = np.zeros(len(y))
        for _ in range(200):
            u, v = factors(nu)
            off = A @ (u**p - v**q) - y
            if np.abs(off).max() < 1e-13 * (1 + np.abs(y).max()):
                break
            metric = p**2 * u ** (2 * p - 2) + q**2 * v ** (2 * q - 2)
            step, length = np.linalg.solve(A * metric @ A.T, off), 1.0
            while not height(nu - length * step) <= height(nu) + 1e-13 and length > 1e-12:
                length /= 2
            nu = nu - length * step
        u, v = factors(nu)
        return u**p - v**q
        ### END SOLUTION

    @staticmethod
    @wrong(
        "believes that every factorization from a small start ends at least Euclidean norm",
        keeps=("solves",),
    )
    def least_norm(A, y):
        return np.linalg.pinv(A) @ y

    @staticmethod
    @wrong(
        "takes the solution nearest to the start in the Euclidean norm: the metric does not stay",
        keeps=("solves", "unseen"),
    )
    def nearest(A, y):
        start = drawn.start**drawn.first - drawn.start**drawn.second
        return start + np.linalg.pinv(A) @ (y - A.sum(axis=1) * start)

    @staticmethod
    @wrong("stops the flow early and takes this for the limit", keeps=("unseen",))
    def early(A, y):
        p, q = drawn.first, drawn.second
        u = v = np.full(A.shape[1], drawn.start)
        for _ in range(100):
            force = A.T @ (A @ (u**p - v**q) - y)
            u, v = u - 0.01 * p * u ** (p - 1) * force, v + 0.01 * q * v ** (q - 1) * force
        return u**p - v**q


# --- problem 3 ----------------------------------------------------------------------------------

HALF = r"""
Suppose every entry is measured by itself, $A=I$, so that all entries of $x=w^{\odot@depth}$ move alone. For an entry that is to become $b>0$ take the loss LOSS of the one entry. The $@depth$ factors are equal, as in the chapter, and start at $\alpha$:
$\dot w=-w^{@depth-1}\,\ell'(w^{@depth})$.

Write `half_learned(t, scale)`, which returns the value $b$ of the entry that is half learned at time $t$, $x(t)=b/2$, to six digits. Where there are several such $b$, return the largest. The tests ask for times at which $b$ is much larger than the start, $\alpha^{@depth}$.
"""


class Powers(Variant):
    """A power of the deviation."""

    task = checks.Powers
    text = HALF.replace("LOSS", r"$\ell(x)=\frac1{@power}\lvert x-b\rvert^{@power}$")

    @staticmethod
    def draw(rng):
        depth, power = ((2, 1.5), (2, 3.0), (2, 4.0), (3, 1.5), (3, 3.0))[rng.integers(5)]
        return {"depth": depth, "power": power}

    @staticmethod
    def half_learned(t, scale):
        """Entry that is half learned at a time."""
        ### BEGIN SOLUTION
        from scipy.integrate import quad
        from scipy.optimize import brentq

        N, q = drawn.depth, drawn.power

        def time(b):
            """Time to half of b, an integral over ln w."""
            ends = np.log(scale), np.log(b / 2) / N
            value = quad(
                lambda s: np.exp((2 - N) * s) * (b - np.exp(N * s)) ** (1 - q),
                *ends,
                epsabs=0,
                epsrel=1e-11,
                limit=200,
            )
            return value[0]

        low, high = np.log(10 * scale**N), np.log(1e6)
        return np.exp(brentq(lambda log: np.log(time(np.exp(log)) / t), low, high, xtol=1e-12))
        ### END SOLUTION

    @staticmethod
    @wrong("takes the chapter's loss, the square", keeps=("order",))
    def squared(t, scale):
        from scipy.optimize import brentq

        N = drawn.depth

        def time(log):
            b, s = np.exp(log), np.linspace(np.log(scale), log / N - np.log(2) / N, 4001)
            values = np.exp((2 - N) * s) / (b - np.exp(N * s))
            return (values[1:] + values[:-1]).sum() * (s[1] - s[0]) / 2 - t

        return np.exp(brentq(time, np.log(10 * scale**N), np.log(1e6)))

    @staticmethod
    @wrong(
        "keeps the gradient that the entry has at the start: the right order of size, no digits",
        keeps=("order",),
    )
    def first_gradient(t, scale):
        from scipy.optimize import brentq

        N, q = drawn.depth, drawn.power

        def time(log):
            b = np.exp(log)
            if N == 2:
                way = np.log(b / 2 / scale**2) / 2
            else:
                way = (scale ** (2 - N) - (b / 2) ** ((2 - N) / N)) / (N - 2)
            return way * b ** (1 - q) - t

        return np.exp(brentq(time, np.log(10 * scale**N), np.log(1e6)))


class Absolute(Variant):
    """The absolute value."""

    task = checks.Absolute
    text = HALF.replace("LOSS", r"$\ell(x)=\lvert x-b\rvert$")

    @staticmethod
    def draw(rng):
        return {"depth": int(rng.choice([2, 3, 4]))}

    @staticmethod
    def half_learned(t, scale):
        """Entry that is half learned at a time."""
        ### BEGIN SOLUTION
        # until it arrives every entry moves alike, w' = w^(N - 1)
        N = drawn.depth
        if N == 2:
            return 2 * scale**2 * np.exp(2 * t)
        return 2 * (scale ** (2 - N) - (N - 2) * t) ** (-N / (N - 2))
        ### END SOLUTION

    @staticmethod
    @wrong("gives the entry that has just been learned, not the half learned one", keeps=("order",))
    def whole(t, scale):
        N = drawn.depth
        if N == 2:
            return scale**2 * np.exp(2 * t)
        return (scale ** (2 - N) - (N - 2) * t) ** (-N / (N - 2))

    @staticmethod
    @wrong("believes that large entries come first, as under the squared loss", keeps=())
    def large_first(t, scale):
        N = drawn.depth
        way = -2 * np.log(scale) if N == 2 else scale ** (2 - N)
        return way / t

    @staticmethod
    @wrong("forgets the exponent of the product: the factor instead of the entry", keeps=("order",))
    def factor(t, scale):
        N = drawn.depth
        if N == 2:
            return 2 * scale * np.exp(t)
        return 2 * (scale ** (2 - N) - (N - 2) * t) ** (-1 / (N - 2))


# --- the set ------------------------------------------------------------------------------------

POTENTIALS = {
    "Pair": (
        r"""
Take the factors of problem 3 below. (a) Show that $b^{\odot2}-2a^{\odot2}$ does not change along the flow, and find $x$ as a function of the dual point $\mu$, where $\dot\mu=-A^{\mathsf T}(Ax-y)$ and $\mu(0)=0$. (b) Prove that the limit, if there is one, minimises a strictly convex function $F$ over the solutions. (c) What does $F$ become, up to a
factor, for starts $b(0)=\beta\mathbf 1$ with $\beta\to0$?
""",
        r"""
(a) With $g=A^{\mathsf T}(Ax-y)$, $\dot a=-b^2g$ and $\dot b=-2abg$, so $\frac{\mathrm d}{\mathrm dt}b^2=-4ab^2g=\frac{\mathrm d}{\mathrm dt}2a^2$ and $b^2=\beta^2+2a^2$. Then $\dot a=(\beta^2+2a^2)\dot\mu$ gives $a=\frac\beta{\sqrt2}\tan\theta$, $\theta=\sqrt2\beta\mu$, $b^2=\beta^2/\cos^2\theta$, and
$x=\frac{\beta^3}{\sqrt2}\tan\theta/\cos^2\theta$, increasing in $\mu$. (b) Let $F'$ be its inverse function; $F$ is strictly convex. $\nabla F(x(\infty))=\mu(\infty)\in\operatorname{range}A^{\mathsf T}$ is orthogonal to $z-x(\infty)$ for every solution $z$, which is the condition for the minimum of $F$. (c) For fixed $x\ne0$, $\theta\to\pm\frac\pi2$ as $\beta\to0$,
so $F'(x)\approx\frac{\pi}{2\sqrt2\,\beta}\operatorname{sign}x$: $F$ tends to a multiple of the $\ell_1$ norm.
""",
    ),
    "Uneven": (
        r"""
Take the factors of problem 3 below. (a) Find $u$ and $v$ as functions of the dual point $\mu$, where $\dot\mu=-A^{\mathsf T}(Ax-y)$ and $\mu(0)=0$, with the domain of $\mu$. (b) Prove that the limit, if there is one, minimises a strictly convex function $F$ over the solutions. (c) What do an entry $+1$ and an entry $-1$ cost,
to leading order as the start $\alpha\to0$? Say in words which solution is then preferred.
""",
        r"""
(a) $\dot u=pu^{p-1}\dot\mu$ and $\dot v=-qv^{q-1}\dot\mu$, with $p=@first$ and $q=@second$. A factor with the power 2 is $\alpha e^{\pm2\mu}$; one with a power $r>2$ is $(\alpha^{2-r}\mp r(r-2)\mu)^{-1/(r-2)}$, which bounds $\mu$ on this side by $\alpha^{2-r}/(r(r-2))$. (b) $x=u^p-v^q$ increases with $\mu$ from $-\infty$ to $\infty$; let $F'$ be its
inverse function. $\nabla F(x(\infty))=\mu(\infty)\in\operatorname{range}A^{\mathsf T}$ is orthogonal to $z-x(\infty)$ for every solution $z$: the condition for the minimum. (c) The sign that belongs to the power 2 costs $\frac14\ln(1/\alpha^2)$, the other one $\alpha^{2-r}/(r(r-2))$, which is much more: $\alpha^{-1}/3$ or $\alpha^{-2}/8$. So the
solution with the least $\ell_1$ norm of its expensive part is preferred, and among these the one whose other part is least.
""",
    ),
}

CURVES = {
    "Pair": (
        r"""
(a) What do the curves show at small and at large $|s|$? Name the norm that is minimised at each end. (b) At large $|s|$ the second entry $x_2$ itself stops growing. Find its limit from the dual and compare with the figure. (c) A classmate says: large data act like a small start. Make this precise: by which power of $c$ must
the start be multiplied, if $y$ is multiplied by $c$, so that the limit is just multiplied by $c$?
""",
        r"""
(a) At small $|s|$ the limit is $A^{+}y$, $x_2/s\to0.6/1.36=0.44$: the metric is still that of the start, and the Euclidean norm is minimised. At large $|s|$, $x_2/s\to0$: the $\ell_1$ norm, since $x_1$ is cheaper per unit of $y$. (b) $\mu_2=0.6\,\mu_1$ and $\theta_1\to\frac\pi2$, so $\theta_2\to0.3\,\pi$ and
$x_2\to\frac{\beta^3}{\sqrt2}\tan(0.3\pi)/\cos^2(0.3\pi)=2.82\,\beta^3$ with $\beta=@start$; hence $x_2/s$ falls like $1/s$. (c) $x/\beta^3$ is a function of $\beta\mu$ alone, so multiplying $y$ by $c$ and $\beta$ by $c^{1/3}$ multiplies the limit by $c$. With $\beta$ unchanged it is like a start smaller by the factor $c^{-1/3}$.
""",
    ),
    "Uneven": (
        r"""
(a) What do the curves show at large $|s|$ for the two signs of $s$, and which norm do both ends approach? (b) The two curves of $x_2/s$ fall at different speeds. Find both powers of $|s|$ from the dual and compare with the figure. (c) A classmate says: large data act like a small start. Is there a power of $c$ by which the start can be
multiplied, if $y$ is multiplied by $c$, so that the limit is just multiplied by $c$?
""",
        r"""
(a) For both signs $x_2/s\to0$ and $x_1/s\to1$: with one equation and entries of one sign both costs are multiples of the $\ell_1$ norm, and $x_1$ is cheaper per unit of $y$. (b) $\mu_2=0.6\,\mu_1$. On the side of the power 2, $x_1\approx\alpha^2e^{4\mu_1}$ and $x_2\approx\alpha^2(x_1/\alpha^2)^{0.6}$, so $x_2/s$ falls like $|s|^{-0.4}$. On the side of
the larger power $r$ the dual is bounded, $\mu_1\to\mu_{\max}$, and $x_2$ tends to a number, $\alpha^r\,0.4^{-r/(r-2)}$ up to the other factor's small part; so $x_2/s$ falls like $|s|^{-1}$. (c) No: $u^{@first}$ and $v^{@second}$ scale with different powers of the start. Each sign alone obeys such a rule, and both together do not.
""",
    ),
}

SET = ProblemSet(
    name="sparse_recovery",
    title="Problem set: sparse recovery",
    outcomes=(
        "find the potential of a parameterisation, and test it by what the flow does;",
        "compute the limit of a flow from its dual, without following it;",
        "say which entries are learned first under another loss, and when.",
    ),
    text="It belongs to the chapter *Sparse recovery: a product turns the flow into ℓ₁ minimisation*.",
    problems=(
        Implement("distance", "Implement: a divergence", 20, (Sine, Cubic)),
        Write(
            name="derive",
            title="Derive",
            minutes=20,
            text="",
            answer="",
            rubric=(
                (2, "(a) the factors as functions of the dual point"),
                (2, "(b) orthogonality to the null space, and strict convexity of F"),
                (2, "(c) the leading order of the cost of an entry, and its meaning"),
            ),
            of="limit",
            by_variant=POTENTIALS,
        ),
        Implement("limit", "Implement: a limit", 30, (Pair, Uneven)),
        Implement("half", "Implement: which entries come first", 20, (Powers, Absolute)),
        Experiment(
            name="figure",
            title="Experiment: a figure",
            minutes=10,
            text=r"""
Take one equation with two unknowns, $A=(1,\ 0.6)$ and $y=s$. With your `flow_limit_of`, plot $x_2/s$ for $s$ from $0.1$ to $1000$, and in the same figure for $s$ from $-0.1$ to $-1000$ over $|s|$, both axes logarithmic.
""",
            solution="""
import matplotlib.pyplot as plt

sizes = np.geomspace(0.1, 1000, 50)
A = np.array([[1, 0.6]])
for sign, name in ((1, "s > 0"), (-1, "s < 0")):
    shares = [flow_limit_of(A, np.array([sign * s]))[1] / (sign * s) for s in sizes]
    plt.loglog(sizes, np.abs(shares), label=name)
plt.xlabel("|s|")
plt.ylabel("x2 / s")
plt.legend()
plt.show()
""",
            of="limit",
        ),
        Write(
            name="explain",
            title="Explain",
            minutes=15,
            text="",
            answer="",
            rubric=(
                (2, "(a) both ends of the curves with the norm that belongs to them"),
                (2, "(b) the limit or the powers from the dual, compared with the figure"),
                (2, "(c) the right answer with a scaling argument"),
            ),
            of="limit",
            by_variant=CURVES,
        ),
    ),
)
