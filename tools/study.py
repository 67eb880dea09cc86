"""The studies of the chapter on matrix recovery, at full size, resumable.

``python tools/study.py`` (or ``make study``) solves every trial that is not solved yet and writes
the tables in chapters/data. Each finished trial is stored at once in a file of its own, so that
an interruption at any moment loses only what was being computed; run the command again to go on.
``--fresh`` begins anew. Trials go through joblib: two local processes by default,
``--workers`` for more, ``--scheduler ADDRESS`` for a Dask cluster.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is loaded
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import csv
import hashlib
import io
import json
import platform
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from datetime import date
from pathlib import Path
from time import perf_counter

import joblib
import numpy as np

import dmflib
from dmflib import matrix_recovery as mr

ROOT = Path(__file__).resolve().parents[1]
STORE = ROOT / "_build" / "study"
TABLES = ROOT / "chapters" / "data"
COMMAND = "python tools/study.py"

STUDIES = {
    "matrix_recovery_study": mr.completion_study(),
    "matrix_recovery_sensing": mr.completion_study(
        ranks=(5,),
        counts=(1000, 1200, 1500, 2000),
        seeds=(0,),
        methods=((mr.CONVEX, 0.0), (2, 1e-3), (3, 1e-3), (4, 1e-3)),
        problem="sensing",
    ),
}


def code_key():
    """Hash of the modules that the results depend on: results of other code are not reused."""
    digest = hashlib.sha256()
    for path in sorted(Path(dmflib.__file__).parent.glob("*.py")):
        if path.stem in ("matrix_recovery", "flow", "_rkc", "losses", "linear_networks"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def place(store, trial):
    """File of one trial's result; equal trials have equal files."""
    text = json.dumps(asdict(trial), sort_keys=True)
    return Path(store) / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def write(path, text):
    """Replace a file whole, so that an interruption leaves the old one or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path):
    """Result of a finished trial, or None."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def labelled(index, solve, trial):
    """Result of a trial with the number by which the caller knows it."""
    return index, solve(trial)


def run(trials, store, solve=mr.solve, workers=2, progress=True):
    """Solve what is not solved yet, store each result at once, return all rows in order.

    Results come back to this process in the order in which they are finished, so that workers on
    other machines need no common disk.
    """
    rows = [load(place(store, trial)) for trial in trials]
    # The slow ones first, so that no core waits for the last.
    missing = sorted(
        (i for i, row in enumerate(rows) if row is None),
        key=lambda i: (-trials[i].depth, trials[i].count),
    )
    if not missing:
        return rows
    context = nullcontext()
    if progress:
        from tqdm.auto import tqdm

        context = tqdm(total=len(trials), initial=len(trials) - len(missing), unit="trial")
    # Dask's backend hands results over at the end of a call only: short calls store early.
    backend = type(joblib.parallel.get_active_backend()[0]).__name__
    batch = 4 * (workers or 2) if backend == "DaskDistributedBackend" else len(missing)
    options = {} if batch < len(missing) else {"return_as": "generator_unordered"}
    with context as bar:
        for begin in range(0, len(missing), batch):
            jobs = (
                joblib.delayed(labelled)(i, solve, trials[i])
                for i in missing[begin : begin + batch]
            )
            for i, row in joblib.Parallel(n_jobs=workers, batch_size=1, **options)(jobs):
                write(place(store, trials[i]), json.dumps(row))
                rows[i] = row
                if bar is not None:
                    bar.update()
    return rows


def as_text(rows, remarks):
    """Return the table with its remarks; numbers with the digits that can matter."""
    file = io.StringIO()
    for remark in remarks:
        file.write(f"# {remark}\n")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(f"{v:.6g}" if isinstance(v, float) else v for v in row.values())
    return file.getvalue()


def remarks(rows, wall):
    """Return what a reader needs to make the table again."""
    seconds = sum(row["seconds"] for row in rows)
    yield f"made by: {COMMAND}"
    yield (
        f"with: Python {platform.python_version()}, numpy {np.__version__}, "
        f"joblib {joblib.__version__}, dmflib {dmflib.__version__}, {platform.machine()}"
    )
    yield f"on {date.today()}; {len(rows)} trials, {seconds:.0f} processor seconds in the solvers"
    if wall is not None:
        yield f"from nothing to this table: {wall:.0f} seconds on {os.cpu_count()} cores"


def cluster(address):
    """Return the context that sends joblib's work to a Dask cluster."""
    if address is None:
        return nullcontext()
    from distributed import Client

    Client(address)
    return joblib.parallel_config(backend="dask")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(STUDIES)}; all where left out")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scheduler", help="address of a Dask scheduler")
    parser.add_argument("--fresh", action="store_true", help="forget what is done")
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--tables", type=Path, default=TABLES)
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(STUDIES)
    if unknown:
        parser.error(f"no such study: {', '.join(sorted(unknown))}")
    store = arguments.store / code_key()
    if arguments.fresh:
        shutil.rmtree(store, ignore_errors=True)
    for name in arguments.names or STUDIES:
        trials = STUDIES[name]
        done = sum(place(store, trial).exists() for trial in trials)
        print(f"{name}: {done} of {len(trials)} trials are done")
        begin = perf_counter()
        with cluster(arguments.scheduler):
            rows = run(trials, store, workers=arguments.workers)
        wall = perf_counter() - begin
        path = arguments.tables / f"{name}.csv"
        if done == len(trials) and path.exists():
            print(f"nothing to do: {path}")
            continue
        write(path, as_text(rows, remarks(rows, None if done else wall)))
        print(f"{wall:.0f} s; wrote {path}")


if __name__ == "__main__":
    main()
