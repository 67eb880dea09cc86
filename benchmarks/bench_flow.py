"""Gradient evaluations and seconds of gradient flow on matrix completion.

A random 100 x 100 matrix of rank 5 with Frobenius norm 100 is completed from 2000 entries, from
``gaussian([100] * (N + 1), 1e-3)``, until the mean square of the errors on these entries is 1e-6
(the loss, half their sum, is 1e-3). All methods get the same tolerances. Only the start and the
end are recorded. Run it with

    python benchmarks/bench_flow.py
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is loaded

import argparse
from time import perf_counter

import numpy as np

from dmflib.flow import gradient_flow
from dmflib.linear_networks import gaussian
from dmflib.losses import Completion
from dmflib.stopping import LossBelow, MaxSteps

SIZE, RANK, NORM, OBSERVED, MEAN_SQUARE = 100, 5, 100.0, 2000, 1e-6
TOLERANCES = ((1e-3, 1e-3), (1e-4, 1e-5), (1e-6, 1e-8))


def completion(seed):
    rng = np.random.default_rng(seed)
    target = rng.standard_normal((SIZE, RANK)) @ rng.standard_normal((RANK, SIZE))
    target *= NORM / np.linalg.norm(target)
    mask = np.zeros(SIZE * SIZE, dtype=bool)
    mask[rng.choice(SIZE * SIZE, OBSERVED, replace=False)] = True
    return Completion(target, mask.reshape(SIZE, SIZE)), target


def seconds_of_products(depth, repeats=300):
    """Least time of the 3(N-1) matrix products of one gradient."""
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((2, SIZE, SIZE))
    out = np.empty((SIZE, SIZE))
    best = np.inf
    for _ in range(repeats):
        begin = perf_counter()
        # As in the gradient: a third of the products with each factor transposed, or neither.
        for _ in range(depth - 1):
            np.matmul(A, B, out=out)
            np.matmul(A, B.T, out=out)
            np.matmul(A.T, B, out=out)
        best = min(best, perf_counter() - begin)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["rkc", "RK45", "DOP853"])
    parser.add_argument("--depths", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-steps", type=int, default=2000)
    arguments = parser.parse_args()
    loss, target = completion(arguments.seed)
    stop = LossBelow(OBSERVED * MEAN_SQUARE / 2) | MaxSteps(arguments.max_steps)
    # The first run pays for loading scipy's solvers.
    for method in arguments.methods:
        gradient_flow(loss, gaussian([SIZE] * 3, 1e-3, 0), stop=MaxSteps(2), method=method)
    print(
        f"{'rtol':>7} {'atol':>7} {'depth':>5} {'method':>7} {'evaluations':>11} {'seconds':>8} "
        f"{'per products':>12} {'error':>8}  ended by"
    )
    for rtol, atol in TOLERANCES:
        for depth in arguments.depths:
            start = gaussian([SIZE] * (depth + 1), 1e-3, arguments.seed + 1)
            products = seconds_of_products(depth)
            for method in arguments.methods:
                begin = perf_counter()
                run = gradient_flow(
                    loss, start, stop=stop, method=method, rtol=rtol, atol=atol, record=10**9
                )
                seconds = perf_counter() - begin
                error = np.linalg.norm(run.products[-1] - target) / NORM
                print(
                    f"{rtol:7.0e} {atol:7.0e} {depth:5d} {method:>7} {run.evaluations:11d} "
                    f"{seconds:8.2f} {seconds / run.evaluations / products:12.2f} {error:8.1e}  "
                    f"{run.stopped_by}",
                    flush=True,
                )
    print(
        "\nper products: time of one evaluation, with its share of the integrator's work, over\n"
        "the time of its 3(N-1) matrix products alone. error: of the whole matrix, relative."
    )


if __name__ == "__main__":
    main()
