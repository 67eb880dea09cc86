"""Dynamics of source D, figure 3, on a table of ratings at its full size, such as MovieLens 100K.

    python tools/movielens.py ml-100k/u.data results

MovieLens 100K may be used freely for research but not passed on. Get ``ml-100k.zip`` from
https://grouplens.org/datasets/movielens/100k/ and unpack it; ``u.data`` has one rating a line.

Depths 1, 2 and 3 start at the identity, of scale 1e-3, and are followed twice over the time of
the published run (200 000 steps of size 0.01 on the mean squared error): by gradient flow, and by
gradient descent with fewer, larger steps. Descent with K times the published step differs from
the flow by K times as much, to first order, so the two together say how far the published run is
from the flow. ``--steps 200000`` takes the published steps themselves: hours.

The folder of results gets ``dynamics.csv`` and ``dynamics.svg``.
"""

# ruff: noqa: E402 (the number of threads is set before numpy is loaded)

import os

for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # the two cores run two jobs

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np

from dmflib import rating_dynamics

PUBLISHED_STEPS, PUBLISHED_SIZE, SCALE = 200_000, 0.01, 1e-3
DEPTHS = (1, 2, 3)
SHOWN = 10


def published_time(count):
    """Time of the published run: its loss is the mean of `count` squares, ours half their sum."""
    return PUBLISHED_STEPS * PUBLISHED_SIZE * 2 / count


def follow(train, test, depth, mover, end, steps, records, rtol):
    """One run; returns its dynamics and its processor seconds."""
    started = time.process_time()
    loss = rating_dynamics.SparseCompletion(train)
    start = rating_dynamics.identity_start(train.shape, depth, SCALE)
    due = np.unique(np.linspace(0, steps, records).astype(int))
    if mover == "flow":
        times = end * due / steps
        run = rating_dynamics.flow(
            loss, start, t_final=end, rtol=rtol, atol=rtol / 1e3, record=times, test=test
        )
    else:
        run = rating_dynamics.descent(loss, start, end / steps, steps, record=due, test=test)
    return run, time.process_time() - started


def study(ratings, count=None, times=1.0, steps=2000, records=41, rtol=1e-3, seed=0, jobs=2):
    """All runs, as a dictionary from (depth, mover) to (dynamics, seconds)."""
    from joblib import Parallel, delayed

    train, test = ratings, None
    if count is not None and count < len(ratings):
        train, test = rating_dynamics.split(ratings, count, seed)
    if train.shape[0] > train.shape[1]:
        raise ValueError(f"table of shape {train.shape}: it must not have more rows than columns")
    end = times * published_time(len(train))
    keys = [(depth, mover) for depth in DEPTHS[::-1] for mover in ("descent", "flow")]
    runs = Parallel(n_jobs=jobs)(
        delayed(follow)(train, test, depth, mover, end, steps, records, rtol)
        for depth, mover in keys
    )
    return dict(sorted(zip(keys, runs, strict=True)))


def write_table(results, path):
    """One line for each recorded moment."""
    names = [f"sigma_{k}" for k in range(1, SHOWN + 1)]
    parts = ["diagonal_mean", "diagonal_std", "off_diagonal_mean", "off_diagonal_std"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["depth", "mover", "time", "loss", "test_rmse", *parts, *names])
        for (depth, mover), (run, _) in results.items():
            for k, t in enumerate(run.times):
                error = "" if run.test_errors is None else f"{run.test_errors[k]:.6g}"
                sigma = run.singular_values[k, :SHOWN]
                numbers = [t, run.losses[k], *run.alignment[k], *sigma]
                cells = [f"{x:.6g}" for x in numbers]
                writer.writerow([depth, mover, *cells[:2], error, *cells[2:]])


def draw(results, path):
    """Singular values at the three depths and, at depth 2, the alignment."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from dmflib import plotting
    from dmflib.plotting import COLORS, label_line

    plotting.use_style()
    fig, panels = plt.subplots(4, figsize=(5.2, 9.2))
    for ax, depth in zip(panels, DEPTHS, strict=False):
        run, steps = results[depth, "flow"][0], results[depth, "descent"][0]
        ax.plot(run.times, run.singular_values[:, :SHOWN], color=COLORS["navy"], linewidth=1.2)
        ax.plot(steps.times[::4], steps.singular_values[::4, :SHOWN], ".", color=COLORS["red"])
        ax.set(title=f"depth {depth}", ylabel="singular values", yscale="symlog")
    run = results[2, "flow"][0]
    for k, name, color in ((0, "diagonal", "navy"), (2, "off the diagonal", "red")):
        (line,) = panels[3].plot(run.times[1:], run.alignment[1:, k], color=COLORS[color])
        label_line(line, name, at=run.times[len(run.times) // 2], offset=(6, 8))
    panels[3].set(yscale="log", ylabel="mean entry", xlabel="time", title="alignment, depth 2")
    fig.savefig(path)
    plt.close(fig)


def report(results, times):
    """Print what was measured, a line for each depth."""
    print(
        "depth  descent/s  flow/s  gradients  largest value  flow - descent  published, estimated"
    )
    for depth in DEPTHS:
        (walk, slow), (run, fast) = results[depth, "descent"], results[depth, "flow"]
        size = run.singular_values[:, 0].max()
        shared = min(len(walk.times), len(run.times))  # a walk that diverged is shorter
        gap = np.abs(run.singular_values[:shared] - walk.singular_values[:shared]).max() / size
        part = (walk.evaluations - 1) / (times * PUBLISHED_STEPS)
        print(
            f"{depth:5d} {slow:10.1f} {fast:7.1f} {run.evaluations:10d} {size:14.5g} "
            f"{gap:15.1e} {gap * part:21.1e}"
        )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="u.data of MovieLens 100K, or a file of the same form")
    parser.add_argument("out", help="folder for the results; made where it does not exist")
    parser.add_argument("--count", type=int, help="ratings to learn from (the paper: 10000)")
    parser.add_argument("--times", type=float, default=1.0, help="multiple of the published time")
    parser.add_argument("--steps", type=int, default=2000, help="steps of descent")
    parser.add_argument("--records", type=int, default=41, help="moments to record")
    options = parser.parse_args(arguments)
    try:
        ratings = rating_dynamics.read_ratings(options.data)
        print(f"{len(ratings)} ratings in a table of {ratings.shape[0]} x {ratings.shape[1]}")
        results = study(ratings, options.count, options.times, options.steps, options.records)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    write_table(results, out / "dynamics.csv")
    draw(results, out / "dynamics.svg")
    report(results, options.times)
    print(f"written: {out / 'dynamics.csv'}, {out / 'dynamics.svg'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
