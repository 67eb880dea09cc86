"""Recovering matrices: against a plain PyTorch loop, against matrix products, and at full size.

1. Our gradient flow against a loop that does what the published experiments do: automatic
   differentiation, gradient descent whose one step size is divided by a running average of the
   gradient's norm, until the mean square error of 2000 observed entries is 1e-6. Same data, same
   start, one thread each. This part needs PyTorch, for example the build without CUDA:

       pip install torch --index-url https://download.pytorch.org/whl/cpu

2. One gradient step against its 3(N-1) matrix products alone.
3. Memory of a run against what it was asked to keep.
4. The whole completion study on two cores.

    python benchmarks/bench_matrix_recovery.py [--parts torch step memory study]
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is loaded
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import platform
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from dmflib import matrix_recovery as mr
from dmflib.flow import gradient_flow
from dmflib.linear_networks import Backpropagation, gaussian, views
from dmflib.losses import Completion
from dmflib.stopping import LossBelow, MaxSteps

ROOT = Path(__file__).resolve().parents[1]
OBSERVED, SCALE, MEAN_SQUARE = 2000, 1e-3, 1e-6
# By depth: relative tolerance, and the absolute one in units of an entry of the start. We stop at
# a smaller training error than the loop, so that ours is not the larger one by chance.
TOLERANCES = {2: (1e-4, 1e-4), 3: (1e-3, 0.1), 4: (1e-3, 0.1)}
OUR_MEAN_SQUARE = 7e-7
RATE, DECAY, EPSILON = 1e-3, 0.99, 1e-4  # of the published loop
SIZES, DEPTHS = (50, 100, 200, 300, 500, 700, 1000), (2, 3, 4, 5)


def torch_loop(target, mask, start):
    """Run the published loop without its logging; return the product and the steps taken."""
    import torch

    torch.set_num_threads(1)
    rows, columns = (torch.from_numpy(index) for index in np.nonzero(mask))
    wanted = torch.from_numpy(target[mask]).float()
    factors = [torch.nn.Parameter(torch.from_numpy(W).float()) for W in start]
    average, step = 0.0, 0
    while True:
        W = factors[0]
        for factor in factors[1:]:
            W = factor @ W
        loss = (W[rows, columns] - wanted).pow(2).mean()
        if loss.item() <= MEAN_SQUARE:
            return W.detach().double().numpy(), step
        for factor in factors:
            factor.grad = None
        loss.backward()
        step += 1
        with torch.no_grad():
            square = sum(factor.grad.pow(2).sum().item() for factor in factors)
            average = DECAY * average + (1 - DECAY) * square
            rate = RATE / ((average / (1 - DECAY**step)) ** 0.5 + EPSILON)
            for factor in factors:
                factor -= rate * factor.grad


def compare_with_torch(seed=0):
    try:
        import torch
    except ImportError:
        print("PyTorch is not here, the comparison with its loop is left out. To get it:")
        print("    pip install torch --index-url https://download.pytorch.org/whl/cpu\n")
        return
    torch_loop(np.ones((2, 2)), np.eye(2) > 0, [np.eye(2), np.eye(2)])  # warm
    print(f"torch {torch.__version__}, one thread each; seconds of processor time")
    print("depth |  loop: steps   seconds    error |  flow: gradients  seconds    error |  faster")
    trial = mr.Trial(5, OBSERVED, seed, 2)
    target, mask = trial.target(), trial.loss().mask
    for depth in (2, 3, 4):
        start = gaussian([100] * (depth + 1), SCALE, seed + 1)
        begin = process_time()
        W, steps = torch_loop(target, mask, start)
        slow = process_time() - begin
        times = []
        for _ in range(5):
            begin = process_time()
            run = our_flow(target, mask, start)
            times.append(process_time() - begin)
        errors = [np.linalg.norm(V - target) / 100 for V in (W, run.products[-1])]
        fast = np.median(times)
        print(
            f"{depth:5d} | {steps:12d} {slow:9.2f} {errors[0]:8.5f} |"
            f" {run.evaluations:16d} {fast:8.3f} {errors[1]:8.5f} | {slow / fast:7.0f}",
            flush=True,
        )
    print()


def our_flow(target, mask, start):
    """Follow the flow from the same start to a slightly smaller training error."""
    rtol, atol = TOLERANCES[len(start)]
    return gradient_flow(
        Completion(target, mask),
        start,
        stop=LossBelow(OBSERVED * OUR_MEAN_SQUARE / 2),
        rtol=rtol,
        atol=atol * np.sqrt(np.mean(start[0] ** 2)),
        record=10**9,
    )


def seconds_each(work, budget=0.4):
    """Return the least processor time of one call; as many calls as fit into the budget."""
    work()
    best, spent = np.inf, 0.0
    while spent < budget:
        begin = process_time()
        work()
        took = process_time() - begin
        best, spent = min(best, took), spent + took
    return best


def one_step(n, depth):
    """Seconds of a gradient step, and of its matrix products alone."""
    rng = np.random.default_rng(0)
    loss = Completion(rng.standard_normal((n, n)), mr.random_mask((n, n), n * n // 5, rng))
    factors = gaussian([n] * (depth + 1), 1.0, rng)
    shapes = [W.shape for W in factors]
    flat = np.concatenate([W.ravel() for W in factors])
    factors, workspace = views(flat, shapes), Backpropagation(shapes)

    def step():
        workspace.evaluate(loss, factors)
        workspace.flat_gradient *= 1e-6
        np.subtract(flat, workspace.flat_gradient, out=flat)

    def products():  # the same memory, the same order
        workspace.multiply(factors)
        workspace.distribute(factors)

    # Turn by turn, so that a busy moment hits both.
    pairs = [(seconds_each(step, 0.1), seconds_each(products, 0.1)) for _ in range(3)]
    return tuple(np.min(pairs, axis=0))


def compare_with_products(plot):
    print("one gradient step (product, loss, gradients, update) against its matrix products")
    print(f"{'n':>5} {'depth':>5} {'step/us':>10} {'products/us':>12} {'ratio':>6}")
    table = np.empty((len(DEPTHS), len(SIZES), 2))
    for i, depth in enumerate(DEPTHS):
        for j, n in enumerate(SIZES):
            table[i, j] = step, bare = one_step(n, depth)
            print(f"{n:5d} {depth:5d} {1e6 * step:10.1f} {1e6 * bare:12.1f} {step / bare:6.2f}")
    large = np.array(SIZES) >= 200
    slopes = [
        np.polyfit(np.log(np.array(SIZES)[large]), np.log(t), 1)[0] for t in table[:, large, 0]
    ]
    per_layer = table[:, :, 0] / (np.array(DEPTHS)[:, None] - 1)
    spread = per_layer.max(axis=0) / per_layer.min(axis=0)
    print(f"largest ratio {np.max(table[..., 0] / table[..., 1]):.2f}")
    print("power of n from n = 200 on:", ", ".join(f"{s:.2f}" for s in slopes))
    print("time/(depth - 1), largest over least:", ", ".join(f"{s:.2f}" for s in spread), "\n")
    if plot:
        plot_steps(table[..., 0], plot)


def plot_steps(seconds, path):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    from dmflib import plotting

    plotting.use_style()
    fig, axes = plt.subplots(2, figsize=(5.2, 6))
    for depth, row, color in zip(DEPTHS, seconds, plotting.shades(len(DEPTHS)), strict=True):
        (line,) = axes[0].loglog(SIZES, 1e3 * row, "o-", color=color)
        plotting.label_line(line, f"depth {depth}")
    last = 1e3 * seconds[0, -1]
    plotting.reference_slope(axes[0], (200, last / 125 / 3), 3, 5, "slope 3")
    axes[0].set(xlabel="size n", ylabel="one step / ms", xlim=(45, 1900))
    for j, n in enumerate(SIZES):
        if n in (100, 300, 1000):
            (line,) = axes[1].plot(DEPTHS, seconds[:, j] / seconds[0, j], "o-")
            plotting.label_line(line, f"n = {n}", offset=(5, 0))
    axes[1].plot(DEPTHS, np.array(DEPTHS) - 1, color=plotting.GREY, linestyle="--", linewidth=1)
    axes[1].set(
        xlabel="depth N", ylabel="time over that at depth 2", xticks=DEPTHS, xlim=(1.8, 5.8)
    )
    fig.savefig(path, metadata={"Date": None})
    print(f"wrote {path}\n")


def measure_memory():
    print("memory of a run, depth 3, 100 x 100: 300 recorded steps (one product: 80 kB)")
    loss = mr.Trial(5, OBSERVED, 0, 3).loss()
    start = gaussian([100] * 4, SCALE, 1)
    for keep in ((), ("singular_values",), ("products",), ("factors",)):
        peaks = []
        for steps in (10, 310):
            tracemalloc.start()
            run = gradient_flow(loss, start, stop=MaxSteps(steps), rtol=1e-8, record=1, keep=keep)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            del run
        print(f"keep={keep!s:<22} {(peaks[1] - peaks[0]) / 300 / 1e3:8.1f} kB for each record")
    print()


def time_study(workers):
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "tools" / "study.py"), "matrix_recovery_study"]
        command += ["--workers", str(workers), "--store", folder, "--tables", folder]
        begin = perf_counter()
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"completion study, {workers} processes: {perf_counter() - begin:.0f} s (limit 120)")
        print(run.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("torch", "step", "memory", "study")
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plot", help="write the figure of the costs of one step there")
    arguments = parser.parse_args()
    print(f"numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}\n")
    if "torch" in arguments.parts:
        compare_with_torch()
    if "step" in arguments.parts:
        compare_with_products(arguments.plot)
    if "memory" in arguments.parts:
        measure_memory()
    if "study" in arguments.parts:
        time_study(arguments.workers)


if __name__ == "__main__":
    main()
