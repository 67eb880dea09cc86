"""The checks of exercises: right answers pass, wrong ones are told what is wrong and where."""

import math
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import linprog

from dmflib import _exercises_motions, exercises
from dmflib.exercises import check
from dmflib.least_nuclear_norm import flow_limit
from dmflib.matrices import effective_rank_of_spectrum
from dmflib.singular_values import arrival_time

ROOT = Path(__file__).resolve().parents[1]


def truncated(W, rank):
    U, sigma, Vt = np.linalg.svd(W)
    return (U[:, :rank] * sigma[:rank]) @ Vt[:rank]


def best_map(target, covariance, rank):
    values, V = np.linalg.eigh(covariance)
    root = (V * np.sqrt(values)) @ V.T
    return truncated(target @ root, rank) @ np.linalg.inv(root)


def walk(A, z, turn):
    """From z along kernel vectors of its support until none is left; turn chooses the sign."""
    x = z.copy()
    while True:
        on = np.flatnonzero(x)
        _, sigma, Vt = np.linalg.svd(A[:, on])
        if len(on) == (sigma > 1e-10 * sigma[0]).sum():
            return x
        way = Vt[-1] * turn(np.sign(x[on]) @ Vt[-1])
        times = np.where(way * x[on] < 0, -x[on] / np.where(way == 0, 1, way), np.inf)
        if np.isinf(times.min()):
            way, times = -way, np.where(way * x[on] > 0, x[on] / np.where(way == 0, 1, way), np.inf)
        first = on[times.argmin()]
        x[on] += times.min() * way
        x[first] = 0.0


def one_sided_certificate(A, x, two_sided=False):
    off, on = A[:, x == 0].T, A[:, x > 0].T
    off = np.vstack([off, -off]) if two_sided else off
    found = linprog(
        np.r_[np.zeros(A.shape[0]), 1],
        np.c_[off, -np.ones(len(off))],
        np.zeros(len(off)),
        np.c_[on, np.zeros(len(on))],
        np.ones(len(on)),
        [(None, None)] * (A.shape[0] + 1),
    )
    return found.x[:-1]


def central_point(a, y, mu):
    """Newton's method on the multipliers, with s = 1 - a' nu > 0 kept by shorter steps."""
    nu = np.zeros(len(y))
    for _ in range(200):
        slack = 1 - a.T @ nu
        x = mu / slack
        step = np.linalg.solve((a * x**2 / mu) @ a.T, y - a @ x)
        change = a.T @ step / slack
        # the dual function is self-concordant: this damping keeps the slack positive
        nu = nu + step / (1 + np.linalg.norm(change))
    return x


def complete_rank_one(values, mask):
    row, column = np.full(mask.shape[0], np.nan), np.full(mask.shape[1], np.nan)
    row[0] = 1.0
    for _ in range(sum(mask.shape)):
        for i, j in np.argwhere(mask):
            if np.isnan(column[j]):
                column[j] = values[i, j] / row[i]
            elif np.isnan(row[i]):
                row[i] = values[i, j] / column[j]
    return np.outer(row, column)


def one_hop(values, mask):
    """Fill an entry where three observed ones make a rectangle with it."""
    filled = values.copy()
    for i, j in np.argwhere(~mask):
        for k, h in np.argwhere(mask):
            if mask[i, h] and mask[k, j]:
                filled[i, j] = values[i, h] * values[k, j] / values[k, h]
    return filled


def positive_rank_one(values, mask):
    m, n = mask.shape
    places = np.argwhere(mask)
    design = np.hstack([np.eye(m)[places[:, 0]], np.eye(n)[places[:, 1]]])
    parts = np.linalg.lstsq(design, np.log(np.abs(values[mask])), rcond=None)[0]
    return np.exp(np.add.outer(parts[:m], parts[m:]))


def perturbation_ratio(delay):
    return 1 - math.sin(math.pi / 2 * (delay - 1) / (delay + 1))


def infinite_depth_time(value, target, start, weight=1.0):
    logarithm = math.log(value / start) + math.log((target - start) / (target - value))
    return (1 / start - 1 / value) / target + weight * logarithm / target**2


def entropy_rank_gradient(sigma):
    rho = sigma / sigma.sum()
    entropy = -(rho * np.log(rho)).sum()
    return -np.exp(entropy) * (np.log(rho) + entropy) / sigma.sum()


def nuclear_rank_gradient(sigma):
    gradient = np.full(len(sigma), 1 / sigma[0])
    gradient[0] -= sigma.sum() / sigma[0] ** 2
    return gradient


def neutral_rate(start, end):
    if start > end:
        start, end = end, start
    gap = (end - start) / start
    return (
        start**2 * gap * (2 + gap) / (2 * math.log1p(gap)) if gap < 1e-3 else naive_rate(start, end)
    )


def naive_rate(start, end):
    return (end**2 - start**2) / (2 * math.log(end / start))


def too_early(rating, depth, start, level):
    ends = start ** (2 / depth), level ** (2 / depth)
    return quad(lambda x: 1 / (rating**2 - x**depth), *ends, epsrel=1e-12)[0]


def waiting(rating, depth, start, level, sign):
    rate = lambda u: math.exp(u * (2 / depth - 1)) / depth / (rating - sign * math.exp(u))  # noqa: E731
    return quad(rate, math.log(start), math.log(level), epsrel=1e-6)[0]


def geodesic_end(A, Z):
    values, V = np.linalg.eigh(A)
    S = V @ ((V.T @ Z @ V) / np.add.outer(values, values)) @ V.T
    return -1 / np.linalg.eigvalsh(S)[0]


def straight_end(A, Z):
    return -1 / np.linalg.eigvals(np.linalg.solve(A, Z)).real.min()


def last_end(A, Z):
    values, V = np.linalg.eigh(A)
    S = V @ ((V.T @ Z @ V) / np.add.outer(values, values)) @ V.T
    eigenvalues = np.linalg.eigvalsh(S)
    return -1 / eigenvalues[eigenvalues < 0].max()


def cancelling(scale):
    q = (2 + scale**2 - math.sqrt((2 + scale**2) ** 2 - 4)) / 2
    return -math.log(q)


def period_two(kappa):
    signs = np.array([1, -1])
    return np.sqrt((1 + 1 / kappa + signs * math.sqrt((1 + 3 / kappa) * (1 - 1 / kappa))) / 2)


RIGHT = {
    "kernel_fit": lambda gram, cross, y: cross @ np.linalg.pinv(gram, rcond=1e-10) @ y,
    "best_map": best_map,
    "period_two": period_two,
    "perturbation_ratio": perturbation_ratio,
    "infinite_depth_time": infinite_depth_time,
    "sign_change_time": lambda scale: 2 * math.asinh(scale / 2),
    "entropy_rank_gradient": entropy_rank_gradient,
    "sparsify": lambda A, z: walk(A, z, lambda slope: -1 if slope > 0 else 1),
    "one_sided_certificate": one_sided_certificate,
    "neutral_rate": neutral_rate,
    "central_point": central_point,
    "complete_rank_one": complete_rank_one,
    "too_early": too_early,
    "geodesic_end": geodesic_end,
}

#: (function, an answer that is wrong, which of its properties hold; a point: by chance)
WRONG = [
    ("kernel_fit", lambda gram, cross, y: 0.0, "000"),
    ("kernel_fit", lambda gram, cross, y: float(y[0]), "100"),
    ("kernel_fit", lambda gram, cross, y: float(cross @ y), "100"),
    (
        "kernel_fit",
        lambda gram, cross, y: cross @ np.linalg.solve(gram + np.eye(len(y)), y),
        "100",
    ),
    ("best_map", lambda target, covariance, rank: target, "010"),
    ("best_map", lambda target, covariance, rank: truncated(target, rank), "110"),
    (
        "best_map",
        lambda target, covariance, rank: truncated(target @ np.linalg.cholesky(covariance), rank),
        "100",
    ),
    (
        "best_map",
        lambda target, C, rank: truncated(target @ C, rank) @ np.linalg.inv(C),
        "110",
    ),
    ("period_two", lambda kappa: np.ones(2), "00"),
    ("period_two", lambda kappa: (1.2, 0.7), "10"),
    ("period_two", lambda kappa: period_two(kappa)[::-1], "01"),
    ("perturbation_ratio", lambda delay: 1 / delay, "110"),
    ("perturbation_ratio", lambda delay: 1 - perturbation_ratio(delay), "100"),
    ("perturbation_ratio", lambda delay: math.sin(math.pi / (delay + 1)), "110"),
    ("perturbation_ratio", lambda delay: perturbation_ratio(delay) - 1, "000"),
    ("infinite_depth_time", lambda *args: infinite_depth_time(*args, weight=0), "100"),
    ("infinite_depth_time", lambda *args: infinite_depth_time(*args, weight=-1), "100"),
    ("infinite_depth_time", lambda *args: -infinite_depth_time(*args), "000"),
    ("infinite_depth_time", lambda *args: args[1] * infinite_depth_time(*args), "100"),
    ("infinite_depth_time", lambda *args: 1000 * arrival_time(*args[:2], 1000, args[2]), "100"),
    ("sign_change_time", lambda scale: scale, "100"),
    ("sign_change_time", cancelling, "110"),
    ("sign_change_time", lambda scale: -2 * math.asinh(scale / 2), "000"),
    (
        "entropy_rank_gradient",
        lambda sigma: entropy_rank_gradient(sigma) / effective_rank_of_spectrum(sigma),
        "110",
    ),
    ("entropy_rank_gradient", lambda sigma: sigma.sum() * entropy_rank_gradient(sigma), "110"),
    ("entropy_rank_gradient", nuclear_rank_gradient, "100"),
    ("entropy_rank_gradient", lambda sigma: -np.log(sigma / sigma.sum()) / sigma.sum(), "000"),
    ("sparsify", lambda A, z: z, "110"),
    ("sparsify", lambda A, z: np.zeros(len(z)), "011"),
    ("sparsify", lambda A, z: np.linalg.pinv(A) @ A @ z, "1.0"),
    ("sparsify", lambda A, z: walk(A, z, lambda slope: 1 if slope > 0 else -1), "101"),
    ("one_sided_certificate", lambda A, x: np.zeros(len(A)), "000"),
    ("one_sided_certificate", lambda A, x: np.linalg.pinv(A[:, x > 0].T).sum(axis=1), "100"),
    ("one_sided_certificate", lambda A, x: one_sided_certificate(A, x, two_sided=True), "1.0"),
    ("neutral_rate", lambda start, end: start**2, "100"),
    ("neutral_rate", lambda start, end: (start**2 + end**2) / 2, "110"),
    ("neutral_rate", naive_rate, "110"),
    ("neutral_rate", lambda start, end: 2 * neutral_rate(start, end), "010"),
    ("central_point", lambda a, y, mu: np.linalg.pinv(a) @ y, "100"),
    ("central_point", lambda a, y, mu: np.full(a.shape[1], mu), "011"),
    ("central_point", lambda a, y, mu: central_point(a, y, 2 * mu), "110"),
    ("central_point", lambda a, y, mu: flow_limit(a, y, 20, mu ** (1 / 20)), "110"),
    ("complete_rank_one", lambda values, mask: values, "100"),
    ("complete_rank_one", lambda values, mask: truncated(values, 1), "010"),
    ("complete_rank_one", one_hop, "100"),
    ("complete_rank_one", positive_rank_one, "010"),
    ("too_early", lambda *args: waiting(*args, sign=1) - waiting(*args, sign=-1), ".10"),
    ("too_early", lambda *args: 2 * args[3] / args[0] * waiting(*args, sign=-1), "010"),
    ("too_early", lambda *args: waiting(*args, sign=1), "100"),
    ("too_early", lambda *args: 0.99 * too_early(*args), "110"),
    ("geodesic_end", lambda A, Z: -1 / np.linalg.eigvalsh(Z)[0], "10."),
    ("geodesic_end", straight_end, "101"),
    ("geodesic_end", last_end, "110"),
    ("geodesic_end", lambda A, Z: -geodesic_end(A, Z), "000"),
]


def named(name, function):
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    wrapper.__name__ = name
    return wrapper


def task(name):
    return exercises._TASKS[name]()


def test_every_exercise_has_an_answer_here():
    assert sorted(RIGHT) == exercises.names()
    assert {name for name, _, _ in WRONG} == set(RIGHT)


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("seed", range(20))
def test_right_answers_have_every_property(name, seed):
    report = task(name).run(RIGHT[name], seed)
    assert report.points == report.max_points, str(report)


@pytest.mark.parametrize(("name", "answer", "kept"), WRONG)
def test_wrong_answers_are_found_on_any_seed(name, answer, kept):
    for seed in range(5):
        report = task(name).run(answer, seed)
        found = "".join("1" if outcome.points else "0" for outcome in report.outcomes)
        assert re.fullmatch(kept, found), str(report)
        for outcome in report.outcomes:
            if not outcome.points:
                assert outcome.message
                assert outcome.instance


@pytest.mark.parametrize("name", RIGHT)
def test_cheap_answers_have_few_properties(name):
    cheap = (lambda *args: 0.0, lambda *args: np.zeros(2), lambda *args: None, lambda *args: np.nan)
    for answer in cheap:
        assert task(name).run(answer, 0).points == 0


def test_check_prints_what_fails_and_on_which_instance(capsys):
    check(named("sign_change_time", lambda scale: scale))
    printed = capsys.readouterr().out
    assert "sign_change_time: 1 of 3 points" in printed
    assert "is where the determinant turns from positive to negative: FAILS" in printed
    assert "at scale = " in printed
    check(named("sign_change_time", RIGHT["sign_change_time"]), seed=3)
    assert "3 of 3 points" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [None, 3, "period_two", lambda kappa: 1, abs])
def test_an_unknown_function_is_refused_with_the_names_that_are_known(bad):
    with pytest.raises(ValueError, match=r"^function=.*must be a function named best_map, "):
        check(bad)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match=r"^seed=-1"):
        check(named("period_two", RIGHT["period_two"]), seed=-1)


def test_the_orbit_is_that_of_gradient_descent():
    """The map of the exercise is a step of descent at depth 2 from equal factors."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        kappa, x = 1 + rng.exponential(), rng.uniform(0.1, 1.3)
        target = 2.0  # kappa = step size * target, and x = factor / sqrt(target)
        eta, d = kappa / target, x * math.sqrt(target)
        d -= eta * d * (d * d - target)
        assert d / math.sqrt(target) == pytest.approx(x * (1 + kappa * (1 - x**2)), rel=1e-12)


def test_the_determinant_is_that_of_the_flow():
    """At depth one, W' = -grad: three entries relax, the hidden one stays."""
    for scale, t in ((0.1, 0.05), (0.1, 0.2), (3.0, 1.0)):
        W = np.array([[scale, 1 - math.exp(-t)], [1 - math.exp(-t), scale * math.exp(-t)]])
        found = _exercises_motions._SignChangeTime._determinant(scale, t)
        assert found == pytest.approx(np.linalg.det(W), rel=1e-12)


def cells_with_checks():
    """(chapter, source, printed text) of every cell that asks for a function."""
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and "dmflib.exercises" in cell.source:
                yield path.stem, cell.source, "".join(o.text for o in cell.outputs)


def test_the_chapters_ask_for_these_functions_with_these_arguments():
    asked = {}
    for chapter, source, printed in cells_with_checks():
        name, arguments = re.search(r"^def (\w+)\((.*)\):$", source, re.MULTILINE).groups()
        assert name not in asked
        asked[name] = chapter
        assert f"\ncheck({name})" in source
        assert arguments.split(", ") == list(task(name).draw(0)[0])
        # what is stored is the report on a function that is not written yet
        assert printed == f"{task(name).run(lambda *args: None, 0)}\n"
    assert sorted(asked) == exercises.names()
    assert len(set(asked.values())) == len(asked)  # one in a chapter


def test_each_exercise_says_the_name_and_the_arguments():
    text = "".join(path.read_text("utf-8") for path in (ROOT / "chapters").glob("*.ipynb"))
    for name in exercises.names():
        assert f"`{name}({', '.join(task(name).draw(0)[0])})`" in text


def test_checks_need_numpy_alone():
    code = (
        "import sys, dmflib.exercises\n"
        "print([m for m in ('scipy', 'matplotlib', 'IPython') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
