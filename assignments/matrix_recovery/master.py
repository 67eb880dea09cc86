"""Problem set to the chapter on matrix recovery: symmetric matrices, other problems, one number."""

import numpy as np

from assignments.matrix_recovery import checks
from course.authoring import Experiment, Implement, ProblemSet, Variant, Write, drawn, wrong

# --- problem 1 ----------------------------------------------------------------------------------

UNSEEN = r"""
Let $W$ be a KIND $n\times n$ matrix of rank $r$. A blurred measurement at the place $(i,j)$ sees $W_{ij}+(@blur)\,W_{i,j+1}$, where the column after the last is the first; places count from 0. Consider the KIND matrices of rank $r$ near $W$, and the directions tangent to them at $W$ that none of the measurements sees.

Write `unseen_changes(W, places)`, where `places` is a list of pairs, perhaps empty. It returns an array of shape `(f, n, n)`: an orthonormal basis, in the Frobenius inner product, of these directions. Singular values at most $10^{-10}\sigma_1$ count as zero.
"""


class Symmetric(Variant):
    """Symmetric matrices."""

    task = checks.Symmetric
    text = UNSEEN.replace("KIND", "symmetric")

    @staticmethod
    def draw(rng):
        return {"blur": float(rng.choice([-2.0, -0.5, 0.5, 2.0]))}

    @staticmethod
    def unseen_changes(W, places):
        """Basis of the tangent directions that no measurement sees."""
        ### BEGIN SOLUTION
        n = len(W)
        U, sigma, _ = np.linalg.svd(W)
        off = U[:, sigma <= 1e-10 * sigma[0]]
        basis = []  # orthonormal, of all symmetric matrices
        for i in range(n):
            for j in range(i + 1):
                E = np.zeros((n, n))
                E[i, j] = E[j, i] = 1 if i == j else 0.5**0.5
                basis.append(E)
        basis = np.array(basis)
        # tangent: nothing in the block beyond the range; unseen: no measurement sees it
        rows = [(off.T @ basis @ off).reshape(len(basis), -1).T]
        for i, j in places:
            rows.append((basis[:, i, j] + drawn.blur * basis[:, i, (j + 1) % n])[None])
        _, s, Vt = np.linalg.svd(np.concatenate(rows))
        free = Vt[np.count_nonzero(s > 1e-9) :]
        return np.tensordot(free, basis, 1)
        ### END SOLUTION

    @staticmethod
    @wrong("forgets the rank: all symmetric matrices that are not seen", keeps=("invisible",))
    def no_rank(W, places):
        n, rows = len(W), []
        basis = np.array(
            [(np.eye(n)[[i]].T @ np.eye(n)[[j]]) for i in range(n) for j in range(i + 1)]
        )
        basis = basis + np.swapaxes(basis, 1, 2)
        basis = basis / np.linalg.norm(basis, axis=(1, 2))[:, None, None]
        for i, j in places:
            rows.append(basis[:, i, j] + drawn.blur * basis[:, i, (j + 1) % n])
        rows = np.array(rows).reshape(len(places), len(basis))
        _, s, Vt = np.linalg.svd(rows)
        return np.tensordot(Vt[np.count_nonzero(s > 1e-9) :], basis, 1)

    @staticmethod
    @wrong("ignores the measurements: the whole tangent space", keeps=("tangent",))
    def all_tangent(W, places):
        n = len(W)
        U, sigma, _ = np.linalg.svd(W)
        off = U[:, sigma <= 1e-10 * sigma[0]]
        P = np.eye(n) - off @ off.T
        basis = np.array([np.outer(a, b) + np.outer(b, a) for a in np.eye(n) for b in np.eye(n)])
        Q = np.eye(n) - P
        flat = (basis - Q @ basis @ Q).reshape(n * n, -1)
        _, s, Vt = np.linalg.svd(flat)
        return Vt[: np.count_nonzero(s > 1e-9)].reshape(-1, n, n)


class Skew(Variant):
    """Skew-symmetric matrices."""

    task = checks.Skew
    text = UNSEEN.replace("KIND", "skew-symmetric")

    @staticmethod
    def draw(rng):
        return {"blur": float(rng.choice([-2.0, -0.5, 0.5, 2.0]))}

    @staticmethod
    def unseen_changes(W, places):
        """Basis of the tangent directions that no measurement sees."""
        ### BEGIN SOLUTION
        n = len(W)
        U, sigma, _ = np.linalg.svd(W)
        off = U[:, sigma <= 1e-10 * sigma[0]]
        basis = []  # orthonormal, of all skew-symmetric matrices
        for i in range(n):
            for j in range(i):
                E = np.zeros((n, n))
                E[i, j], E[j, i] = 0.5**0.5, -(0.5**0.5)
                basis.append(E)
        basis = np.array(basis)
        # tangent: nothing in the block beyond the range; unseen: no measurement sees it
        rows = [(off.T @ basis @ off).reshape(len(basis), -1).T]
        for i, j in places:
            rows.append((basis[:, i, j] + drawn.blur * basis[:, i, (j + 1) % n])[None])
        _, s, Vt = np.linalg.svd(np.concatenate(rows))
        free = Vt[np.count_nonzero(s > 1e-9) :]
        return np.tensordot(free, basis, 1)
        ### END SOLUTION

    @staticmethod
    @wrong("ignores the measurements: the whole tangent space", keeps=("tangent",))
    def all_tangent(W, places):
        n = len(W)
        U, sigma, _ = np.linalg.svd(W)
        off = U[:, sigma <= 1e-10 * sigma[0]]
        Q = off @ off.T
        basis = np.array([np.outer(a, b) - np.outer(b, a) for a in np.eye(n) for b in np.eye(n)])
        flat = (basis - Q @ basis @ Q).reshape(n * n, -1)
        _, s, Vt = np.linalg.svd(flat)
        return Vt[: np.count_nonzero(s > 1e-9)].reshape(-1, n, n)


# --- problem 2 ----------------------------------------------------------------------------------

PROVEN = r"""
Some entries of a matrix are given, at the places $\Omega$. Instead of the chapter's problem solve

PROBLEM

Write `proven_completion(values, mask)`, where `mask` is true at $\Omega$ and `values` is zero elsewhere. It returns the pair $(W,Y)$ of a solution and a certificate: a matrix $Y$ that is zero outside $\Omega$BOUND, and proves the lower bound

DUAL

The value of your $W$ must exceed the bound of your $Y$ by at most one part in a thousand. *Hint:* which step of the iteration of Douglas and Rachford must change, and what is it now?
"""


class Elastic(Variant):
    """Nuclear norm with a ridge."""

    task = checks.Elastic
    text = (
        PROVEN.replace(
            "PROBLEM",
            r"$$\min\ \lVert W\rVert_*+\tfrac{@weight}2\lVert W\rVert_F^2\quad\text{subject to the given entries, exactly to }10^{-8}.$$",
        )
        .replace("BOUND", "")
        .replace(
            "DUAL",
            r"$$\langle Y,\text{values}\rangle-\frac1{2\cdot@weight}\sum_i\max(\sigma_i(Y)-1,0)^2 .$$",
        )
    )

    @staticmethod
    def draw(rng):
        return {"weight": float(rng.choice([0.3, 0.5, 1.0, 2.0]))}

    @staticmethod
    def proven_completion(values, mask):
        """Solution and certificate."""
        ### BEGIN SOLUTION
        gamma = 1.0
        Z = values.astype(float)
        for _ in range(3000):
            X = np.where(mask, values, Z)
            U, s, Vt = np.linalg.svd((2 * X - Z) / (1 + gamma * drawn.weight), full_matrices=False)
            V = U * np.maximum(s - gamma / (1 + gamma * drawn.weight), 0) @ Vt
            Z = Z + V - X
            if np.abs(V - X).max() < 1e-10:
                break
        X = np.where(mask, values, Z)
        return X, np.where(mask, X - Z, 0) / gamma
        ### END SOLUTION

    @staticmethod
    @wrong("solves the chapter's problem, without the ridge", keeps=("certificate",))
    def no_ridge(values, mask):
        Z = values.astype(float)
        for _ in range(3000):
            X = np.where(mask, values, Z)
            U, s, Vt = np.linalg.svd(2 * X - Z, full_matrices=False)
            Z = Z + U * np.maximum(s - 1, 0) @ Vt - X
        X = np.where(mask, values, Z)
        return X, np.where(mask, X - Z, 0)

    @staticmethod
    @wrong("returns the solution and a matrix that proves nothing: itself", keeps=())
    def itself(values, mask):
        Z = values.astype(float)
        for _ in range(1000):
            X = np.where(mask, values, Z)
            U, s, Vt = np.linalg.svd((2 * X - Z) / (1 + drawn.weight), full_matrices=False)
            Z = Z + U * np.maximum(s - 1 / (1 + drawn.weight), 0) @ Vt - X
        X = np.where(mask, values, Z)
        return X, X


class Robust(Variant):
    """Absolute deviations."""

    task = checks.Robust
    text = (
        PROVEN.replace(
            "PROBLEM",
            r"$$\min\ \sum_{(i,j)\in\Omega}\lvert W_{ij}-\text{values}_{ij}\rvert+@weight\,\lVert W\rVert_*,$$ which forgives a few entries that are grossly wrong.",
        )
        .replace("BOUND", r", has $|Y_{ij}|\le1$ and $\lVert Y\rVert_2\le@weight$")
        .replace("DUAL", r"$$\langle Y,\text{values}\rangle .$$")
    )

    @staticmethod
    def draw(rng):
        return {"weight": float(rng.choice([1.4, 1.6, 1.8, 2.0]))}

    @staticmethod
    def proven_completion(values, mask):
        """Solution and certificate."""
        ### BEGIN SOLUTION
        gamma = 1.0
        Z = values.astype(float)
        for _ in range(2000):
            off = Z - values
            X = np.where(mask, values + np.sign(off) * np.maximum(np.abs(off) - gamma, 0), Z)
            U, s, Vt = np.linalg.svd(2 * X - Z, full_matrices=False)
            V = U * np.maximum(s - gamma * drawn.weight, 0) @ Vt
            Z = Z + V - X
            if np.abs(V - X).max() < 1e-6:
                break
        Y = np.where(mask, (X - Z + V - X) / gamma, 0)  # of the last X
        Y = np.clip(Y, -1, 1)
        return V, Y / max(1, np.linalg.norm(Y, 2) / drawn.weight)
        ### END SOLUTION

    @staticmethod
    @wrong(
        "fits the entries exactly: the chapter's loss has no room for errors",
        keeps=("certificate",),
    )
    def exact(values, mask):
        Z = values.astype(float)
        for _ in range(2000):
            X = np.where(mask, values, Z)
            U, s, Vt = np.linalg.svd(2 * X - Z, full_matrices=False)
            Z = Z + U * np.maximum(s - 1, 0) @ Vt - X
        X = np.where(mask, values, Z)
        Y = np.where(mask, X - Z, 0)
        return X, Y / max(np.abs(Y).max(), np.linalg.norm(Y, 2) / drawn.weight)

    @staticmethod
    @wrong("returns a certificate that is not scaled into its limits", keeps=())
    def not_scaled(values, mask):
        return values, 2 * np.sign(values)


# --- problem 3 ----------------------------------------------------------------------------------


class Rates(Variant):
    """Two factors with rates of their own."""

    task = checks.Rates
    text = r"""
Of a matrix $W=UV^{\mathsf T}$ only one number is measured, $\langle A,W\rangle=y$. Gradient flow on $\frac12(\langle A,UV^{\mathsf T}\rangle-y)^2$ starts at any $U_0$ and $V_0$, not balanced, and $V$ moves at @rate times its gradient, $U$ at the plain one.

Write `limit_of_one(A, y, U0, V0)`, which returns $\lim_{t\to\infty}W(t)$, with $\langle A,W\rangle=y$ to $10^{-8}$. *Hint:* the equations are linear in $(U,V)$, up to a change of time.
"""

    @staticmethod
    def draw(rng):
        return {"rate": float(rng.choice([0.25, 0.5, 2.0, 4.0])), "columns": 3}

    @staticmethod
    def limit_of_one(A, y, U0, V0):
        """End of the flow."""
        ### BEGIN SOLUTION
        from scipy.linalg import expm
        from scipy.optimize import brentq

        m, n = A.shape
        K = np.block([[np.zeros((m, m)), A], [drawn.rate * A.T, np.zeros((n, n))]])

        def product(s):
            both = expm(s * K) @ np.concatenate([U0, V0])
            return both[:m] @ both[m:].T

        def off(s):
            return (A * product(s)).sum() - y

        end = 0.1  # <A, W> increases with s
        while off(-end) > 0 or off(end) < 0:
            end *= 1.5
        return product(brentq(off, -end, end, xtol=1e-15, rtol=1e-14))
        ### END SOLUTION

    @staticmethod
    @wrong("takes the nearest matrix that fits, as if W itself moved", keeps=("fits", "still"))
    def nearest(A, y, U0, V0):
        W = U0 @ V0.T
        return W + (y - (A * W).sum()) / (A * A).sum() * A

    @staticmethod
    @wrong("forgets the rate", keeps=("fits", "still"))
    def no_rate(A, y, U0, V0):
        from scipy.linalg import expm
        from scipy.optimize import brentq

        m, n = A.shape
        K = np.block([[np.zeros((m, m)), A], [A.T, np.zeros((n, n))]])

        def product(s):
            both = expm(s * K) @ np.concatenate([U0, V0])
            return both[:m] @ both[m:].T

        def off(s):
            return (A * product(s)).sum() - y

        end = 0.1
        while off(-end) > 0 or off(end) < 0:
            end *= 1.5
        return product(brentq(off, -end, end, xtol=1e-15, rtol=1e-14))


class Signs(Variant):
    """A symmetric matrix with signs."""

    task = checks.Signs
    text = r"""
Of a symmetric matrix $W=UJU^{\mathsf T}$ only one number is measured, $\langle A,W\rangle=y$, with a symmetric $A$ that has eigenvalues of both signs. $J$ is the fixed diagonal matrix with the entries @signs, and $U$ has as many columns. Gradient flow on $\frac12(\langle A,UJU^{\mathsf T}\rangle-y)^2$ starts at any $U_0$.

Write `limit_of_one(A, y, U0)`, which returns $\lim_{t\to\infty}W(t)$, with $\langle A,W\rangle=y$ to $10^{-8}$. *Hint:* the equation is linear in $U$, up to a change of time.
"""

    @staticmethod
    def draw(rng):
        signs = ((1, -1), (1, 1), (1, -1, -1), (-1, 1, -1))[rng.integers(4)]
        return {"signs": signs, "columns": len(signs)}

    @staticmethod
    def limit_of_one(A, y, U0):
        """End of the flow."""
        ### BEGIN SOLUTION
        from scipy.optimize import brentq

        values, Q = np.linalg.eigh(A)
        J, C = np.array(drawn.signs), Q.T @ U0

        def product(s):
            U = Q @ (np.exp(2 * s * np.outer(values, J)) * C)
            return U * J @ U.T

        def off(s):
            return (A * product(s)).sum() - y

        end = 0.1  # <A, W> increases with s
        while off(-end) > 0 or off(end) < 0:
            end *= 1.5
        return product(brentq(off, -end, end, xtol=1e-15, rtol=1e-14))
        ### END SOLUTION

    @staticmethod
    @wrong("takes the nearest matrix that fits, as if W itself moved", keeps=("fits", "still"))
    def nearest(A, y, U0):
        W = U0 * np.array(drawn.signs) @ U0.T
        return W + (y - (A * W).sum()) / (A * A).sum() * A

    @staticmethod
    @wrong(
        "scales the start until it fits: right only where the start is an eigenvector",
        keeps=("still",),
    )
    def scaled(A, y, U0):
        W = U0 * np.array(drawn.signs) @ U0.T
        return W * np.sqrt(abs(y / (A * W).sum()))


# --- the set ------------------------------------------------------------------------------------

FLOWS = {
    "Rates": (
        r"""
Take the flow of problem 4 below. (a) Show that $(U,V)$ runs along $e^{sK}(U_0,V_0)$ with a fixed matrix $K$ and a clock $s(t)$, and that $\langle A,W\rangle$ increases with $s$. Conclude that there is at most one limit that fits. (b) What does the rate leave unchanged along the flow, in place of $U^{\mathsf T}U-V^{\mathsf T}V$? (c) Let the start be
$\varepsilon U_0$, $\varepsilon V_0$ and $y>0$. Where does the limit go as $\varepsilon\to0$, and which norm does it minimise among the matrices with $\langle A,W\rangle=y$?
""",
        r"""
(a) With $r=\langle A,W\rangle-y$: $\dot U=-rAV$, $\dot V=-\rho rA^{\mathsf T}U$, $\rho=@rate$. Put $\dot s=-r$: then $\frac{\mathrm d}{\mathrm ds}(U,V)=K(U,V)$ with the blocks $A$ and $\rho A^{\mathsf T}$. $\frac{\mathrm d}{\mathrm ds}\langle A,W\rangle=\lVert AV\rVert_F^2+\rho\lVert A^{\mathsf T}U\rVert_F^2>0$ unless both vanish, so the value $y$ is met at most
once. (b) $\rho\,U^{\mathsf T}U-V^{\mathsf T}V$: both terms have the derivative $-\rho r(U^{\mathsf T}AV+V^{\mathsf T}A^{\mathsf T}U)$. (c) $s\to\infty$, and the largest eigenvalue $\sqrt\rho\,\sigma_1$ of $K$ wins: $W\to\frac y{\sigma_1}u_1v_1^{\mathsf T}$ if $\sigma_1>\sigma_2$ and the start has a component there. Since
$y=\langle A,W\rangle\le\sigma_1\lVert W\rVert_*$, it has the least nuclear norm, $y/\sigma_1$, whatever the rate.
""",
    ),
    "Signs": (
        r"""
Take the flow of problem 4 below. (a) Show that each column of $U$ runs along $e^{\pm2sA}$ with one clock $s(t)$, and that $\langle A,W\rangle$ increases with $s$. Conclude that there is at most one limit that fits. (b) Which entries of $U^{\mathsf T}U$, or which other products of columns, stay unchanged? (c) Let the start be $\varepsilon U_0$ and $y>0$. Where does the
limit go as $\varepsilon\to0$, and which norm does it minimise among the symmetric matrices with $\langle A,W\rangle=y$ that the signs @signs allow?
""",
        r"""
(a) With $r=\langle A,W\rangle-y$: $\dot U=-2rAUJ$. Put $\dot s=-r$: column $j$ is $e^{2sJ_{jj}A}u_j(0)$, and $\frac{\mathrm d}{\mathrm ds}\langle A,W\rangle=4\lVert AU\rVert_F^2>0$ unless $AU=0$, so the value $y$ is met at most once. (b) For columns of opposite signs $u_j^{\mathsf T}u_k$ stays, as the two exponentials cancel; for the same sign $u_j^{\mathsf T}u_k$ changes.
(c) As $s\to\infty$ the fastest growth wins: columns with the sign $+$ grow like $e^{2s\lambda_{\max}}$ along the top eigenvector $q$, those with the sign $-$ like $e^{2s|\lambda_{\min}|}$ along the lowest. With the larger of these $\lambda$ that the signs allow, $W\to\frac y\lambda qq^{\mathsf T}$, up to the sign. Since $\langle A,W\rangle\le\lambda\lVert W\rVert_*$ for the matrices $W$ that
the signs allow, it has the least nuclear norm.
""",
    ),
}

SET = ProblemSet(
    name="matrix_recovery",
    title="Problem set: matrix recovery",
    outcomes=(
        "compute what measurements of a structured matrix of low rank do not see;",
        "solve a convex completion problem of your own, with a proof that the solution is one;",
        "follow one measurement from any start to its limit, and see a norm being minimised.",
    ),
    text="It belongs to the chapter *Recovering matrices: when depth helps, and when it misleads*.",
    problems=(
        Implement("unseen", "Implement: what is not seen", 25, (Symmetric, Skew)),
        Implement("proven", "Implement: a completion with its proof", 30, (Elastic, Robust)),
        Write(
            name="derive",
            title="Derive",
            minutes=20,
            text="",
            answer="",
            rubric=(
                (2, "(a) the linear equation with its clock, and the monotone measurement"),
                (2, "(b) the conserved products, with the calculation"),
                (2, "(c) the limit of rank 1 and the inequality that shows its norm to be least"),
            ),
            of="one",
            by_variant=FLOWS,
        ),
        Implement("one", "Implement: one measurement", 20, (Rates, Signs)),
        Experiment(
            name="figure",
            title="Experiment: a figure",
            minutes=10,
            text=r"""
Take $A=\operatorname{diag}(1,a,-\frac12)$ with $a=0.3,\ 0.6,\ 0.9$, and $y=1$. Start with random factors of your problem 4, times $\varepsilon=10^{-1},10^{-2},\dots,10^{-6}$. Plot the excess $\lVert W\rVert_*-1$ of the limit's nuclear norm against $\varepsilon$, both axes logarithmic, one line for each $a$, and measure the slopes.
""",
            solution="""
import inspect

import matplotlib.pyplot as plt

rng = np.random.default_rng(0)
start = [rng.standard_normal((3, @columns)) for _ in range(2)]
count = len(inspect.signature(limit_of_one).parameters) - 2  # one factor or two
scales = 10.0 ** -np.arange(1, 7)
for a in (0.3, 0.6, 0.9):
    A, excess = np.diag([1, a, -0.5]), []
    for scale in scales:
        factors = [scale * F for F in start[:count]]
        excess.append(np.linalg.norm(limit_of_one(A, 1.0, *factors), "nuc") - 1)
    plt.loglog(scales, excess, "o-", label=f"a = {a}")
plt.xlabel("scale of the start")
plt.ylabel("excess of the nuclear norm")
plt.legend()
plt.show()
""",
            of="one",
        ),
        Write(
            name="explain",
            title="Explain",
            minutes=15,
            text=r"""
(a) Predict the slopes of your figure from the second largest eigenvalue or singular value, and compare. (b) What happens for $a=1$, and why is the nuclear norm no help there? (c) The chapter shows runs in which a vanishing start does *not* lead to the least nuclear norm. What is special about one measurement?
""",
            answer=r"""
(a) The clock runs until the leading part, $\varepsilon^2e^{2s}$ in units where $\sigma_1=1$ grows like $e^s$ in each factor, is of order 1. A second part has then grown to $\varepsilon^2e^{2as}=\varepsilon^{2(1-a)}$ and costs in the nuclear norm a multiple of it, since it contributes only $a<1$ to the measurement: slopes $2(1-a)$, that is 1.4, 0.8, 0.2. (The value $-\frac12$ plays the same part
where it is the second largest in absolute value and the signs allow it: then the slope is 1 for $a=0.3$.) (b) For $a=1$ the two directions grow together, and the limit has rank 2 with the proportions of the start. All such matrices have the same nuclear norm, so it cannot choose. (c) The direction $A$ of the gradient never changes, only its size: the flow is linear up to its clock. With several
measurements the direction turns, the matrices $A_k$ need not commute, and no single potential is known.
""",
            rubric=(
                (2, "(a) a power law with the exponent 2(1 - a), from the two growth rates"),
                (2, "(b) ties: the start decides, all of these have the same nuclear norm"),
                (2, "(c) the gradient's direction is fixed; several matrices need not commute"),
            ),
            of="one",
        ),
    ),
)
