"""Time and size of an explorer with 60 frames of 4 lines with 200 points each.

The limits: 2 s to make, 400 kB in the page. Prints a table.
"""

import gzip
import time

import numpy as np

from dmflib.explore import explore

REPEATS = 3


def oscillating(ax, depth, scale):
    t = np.linspace(0, 10, 200)
    for k in range(1, 5):
        ax.plot(t, np.sin(k * t + scale) * np.exp(-depth * t / 20))


def smooth(ax, depth, scale):
    t = np.linspace(0, 10, 200)
    for k in range(1, 5):
        ax.plot(t, k / (1 + (1 / scale - 1) * np.exp(-depth * t / 4)), label=f"value {k}")
    ax.set_title(f"depth {depth}, scale {scale:.2f}")
    ax.legend()


def main():
    print("60 frames, 4 lines, 200 points   seconds      kB   kB gzipped")
    for draw in (oscillating, smooth):
        seconds = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            page = explore(
                draw, alt="Lines.", depth=[1, 2, 3, 4, 5, 6], scale=list(np.linspace(0.05, 0.5, 10))
            ).html
            seconds.append(time.perf_counter() - started)
        size, packed = len(page.encode()), len(gzip.compress(page.encode()))
        print(
            f"{draw.__name__:30} {np.median(seconds):9.2f} {size / 1e3:7.0f} {packed / 1e3:12.0f}"
        )


if __name__ == "__main__":
    main()
