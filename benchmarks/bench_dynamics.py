"""Scalar recursions of descent: 200 000 steps of four eigenvalues, recorded every 200 steps.

Beside them the same steps as a numpy loop on an array of four entries, which is what one would
write first, on a tenth of the steps. Prints a table.
"""

import time

import numpy as np

from dmflib import identical_initialization, perturbed_initialization

EIGENVALUES = np.array([10.0, 7.0, 5.0, -5.0])  # the first example of source A
STEPS, ETA, ALPHA, BETA = 200_000, 1e-4, 0.1, 0.05
REPEATS = 3


def seconds(run):
    """Least time of a few runs."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def numpy_loop(depth, steps):
    """Steps of the perturbed recursion on arrays."""
    first, others = np.full(4, ALPHA - BETA), np.full(4, ALPHA)
    for _ in range(steps):
        power = others ** (depth - 2)
        gap = ETA * (EIGENVALUES - first * others * power) * power
        first, others = first + gap * others, others + gap * first


def main():
    print("depth   identical/s   perturbed/s   numpy loop/s   ratio to perturbed")
    for depth in (2, 3, 4, 5):
        one = seconds(
            lambda d=depth: identical_initialization.dynamics(
                EIGENVALUES, d, ALPHA, ETA, STEPS, record=200
            )
        )
        two = seconds(
            lambda d=depth: perturbed_initialization.dynamics(
                EIGENVALUES, d, ALPHA, BETA, ETA, STEPS, record=200
            )
        )
        naive = 10 * seconds(lambda d=depth: numpy_loop(d, STEPS // 10))
        print(f"{depth:5} {one:13.3f} {two:13.3f} {naive:14.3f} {naive / two:20.1f}")


if __name__ == "__main__":
    main()
