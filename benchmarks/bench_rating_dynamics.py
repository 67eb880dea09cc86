"""A table of MovieLens 100K's size: one gradient, and the whole study of source D, figure 3.

    python benchmarks/bench_rating_dynamics.py [--study]

943 x 1682 places, 100 000 synthetic ratings. One gradient with the sparse loss beside that of
`Backpropagation` with the dense one, and beside its own limit: the dense products that it needs
at the speed of a bare product, and the sparse ones at the speed at which memory can be read.
With ``--study`` also all runs of ``tools/movielens.py`` on two cores: minutes.
"""

# ruff: noqa: E402 (the number of threads is set before numpy is loaded)

import os

for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"

import sys
import time
from pathlib import Path

import numpy as np

from dmflib import rating_dynamics
from dmflib.linear_networks import Backpropagation
from dmflib.losses import Completion

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import movielens

SHAPE, COUNT, REPEATS = (943, 1682), 100_000, 7


def least(*calls):
    """Least processor seconds of each call, timed in turn: others use the machine too."""
    times = []
    for _ in range(REPEATS):
        row = []
        for call in calls:
            started = time.process_time()
            call()
            row.append(time.process_time() - started)
        times.append(row)
    return np.min(times, axis=0)


def one_gradient(ratings):
    mask = np.zeros(SHAPE, dtype=bool)
    mask[ratings.rows, ratings.columns] = True
    sparse, dense = rating_dynamics.SparseCompletion(ratings), Completion(ratings.dense(), mask)
    m, n = SHAPE
    rng = np.random.default_rng(0)
    A, C = rng.standard_normal((m, m)), rng.standard_normal((m, n))
    product, out = np.empty((m, m)), np.empty((m, n))
    square, wide, copy = least(
        lambda: np.matmul(A, A, out=product),
        lambda: np.matmul(A, C, out=out),
        lambda: np.copyto(out, C),
    )
    rate = 2 * out.nbytes / copy  # bytes read and written in a second
    # A sparse product reads one row of the dense factor for each rating.
    read = COUNT * m * 8 / rate
    print(f"bare products: {2e-9 * m**3 / square:.0f} and {2e-9 * m * m * n / wide:.0f} Gflop/s")
    print(f"memory: {rate / 1e9:.0f} GB/s\n")
    print("depth  sparse/ms  dense/ms  dense ÷ sparse  limit/ms  sparse ÷ limit")
    for depth in (2, 3, 4):
        factors = rating_dynamics.identity_start(SHAPE, depth, 1e-3)
        factors = [W + 1e-2 * rng.standard_normal(W.shape) for W in factors]
        shapes = [W.shape for W in factors]
        ours, theirs = rating_dynamics.SparseBackpropagation(shapes), Backpropagation(shapes)
        fast, slow = least(
            lambda w=ours, f=factors: w.evaluate(sparse, f),
            lambda w=theirs, f=factors: w.evaluate(dense, f),
        )
        limit = 3 * (depth - 2) * square + wide + 2 * read
        print(
            f"{depth:5d} {1e3 * fast:10.0f} {1e3 * slow:9.0f} {slow / fast:15.2f} "
            f"{1e3 * limit:9.0f} {fast / limit:15.2f}"
        )


def main():
    ratings = rating_dynamics.synthetic_ratings(*SHAPE, COUNT, rng=0)
    one_gradient(ratings)
    if "--study" in sys.argv[1:]:
        started = time.perf_counter()
        results = movielens.study(ratings)
        print()
        movielens.report(results, 1.0)
        print(f"all of it, two runs at a time: {(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
