"""Time of one gradient descent step over that of its 3(N-1) matrix products alone.

Run with ``python benchmarks/bench_descent.py``. The products write into arrays allocated before,
with the operands and layouts of a real step; both are timed in turn on one thread, and the
quotient of the medians is printed. The floor is what any implementation in numpy needs beside
the products: reading the factors, the gradients and the mask once each.
"""

# ruff: noqa: E402 (the number of threads is set before numpy is loaded)

import os
import sys

THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
for variable in THREADS:  # read when numpy is loaded
    os.environ[variable] = "1"

import platform
import statistics
import time

import numpy as np

from dmflib.descent import MaxSteps, gradient_descent
from dmflib.linear_networks import Backpropagation, gaussian
from dmflib.losses import Completion

LIMIT = 1.5  # for n=100, depth 3


def problem(n, depth):
    """Completion of a rank 5 matrix from a fifth of its entries (2000 for n=100)."""
    rng = np.random.default_rng(0)
    target = rng.normal(size=(n, 5)) @ rng.normal(size=(5, n)) / np.sqrt(5)
    mask = np.zeros(n * n, dtype=bool)
    mask[rng.permutation(n * n)[: n * n // 5]] = True
    return Completion(target, mask.reshape(n, n)), gaussian([n] * (depth + 1), 1e-3, rng)


def time_descent(loss, factors, steps):
    """Seconds for one step of the mover, without its start and its end."""

    def run(count):
        start = time.perf_counter()
        gradient_descent(loss, factors, 1e-3, MaxSteps(count), record=10**9, keep=())
        return time.perf_counter() - start

    return (run(steps) - run(0)) / steps


def time_products(factors, steps):
    """Seconds for the products of one step."""
    work = Backpropagation([W.shape for W in factors])
    work.multiply(factors)
    work.outer[-1][...] = work.partial[-1]
    count = len(factors)
    calls = [(factors[i], work.partial[i - 1], work.partial[i]) for i in range(1, count)]
    for i in range(count - 1, 0, -1):
        calls.append((work.outer[i], work.partial[i - 1].T, work.gradients[i]))
        calls.append((factors[i].T, work.outer[i], work.outer[i - 1]))
    assert len(calls) == 3 * (count - 1)
    start = time.perf_counter()
    for _ in range(steps):
        for left, right, out in calls:
            np.matmul(left, right, out=out)
    return (time.perf_counter() - start) / steps


def time_passes(loss, factors, steps):
    """Seconds for what a step must do beside its products, written as few numpy calls."""
    flat = np.concatenate([W.ravel() for W in factors])
    after, gradient = np.empty_like(flat), np.zeros_like(flat)
    W, out, weights = np.zeros(loss.shape), np.empty(loss.shape), loss.mask.astype(float)
    start = time.perf_counter()
    for _ in range(steps):
        np.subtract(W, loss.target, out=out)
        np.multiply(out, weights, out=out)
        np.vdot(out, out)
        np.multiply(gradient, 1e-3, out=gradient)
        np.subtract(flat, gradient, out=after)
    return (time.perf_counter() - start) / steps


def measure(n, depth, repeats=15, seconds=0.03):
    """Medians over interleaved repeats: step, products, passes, in seconds."""
    loss, factors = problem(n, depth)
    steps = max(5, round(seconds / time_products(factors, 5)))
    rows = [
        (
            time_descent(loss, factors, steps),
            time_products(factors, steps),
            time_passes(loss, factors, steps),
        )
        for _ in range(repeats)
    ]
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def main():
    print(f"numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}")
    print("   n depth   step/us  products/us  ratio  floor")
    within = True
    for n in (30, 100, 300):
        for depth in (2, 3, 4):
            step, products, passes = measure(n, depth, repeats=15 if n < 300 else 7)
            ratio, floor = step / products, 1 + passes / products
            limited = (n, depth) == (100, 3)
            if limited:
                within = ratio <= LIMIT
            note = f"  limit {LIMIT}: {'kept' if within else 'BROKEN'}" if limited else ""
            print(
                f"{n:4d} {depth:5d} {1e6 * step:9.1f} {1e6 * products:12.1f} "
                f"{ratio:6.2f} {floor:6.2f}{note}"
            )
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
