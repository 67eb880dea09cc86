"""Submissions as they come in: right, wrong, broken and hostile, each with what it deserves."""

import copy
import json
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

from course import authoring

SET = "least_squares"
VARIANTS = {"motion": "Momentum", "limit": "Rates", "decline": "Loss"}
FULL = {"motion": 10, "limit": 9, "decline": 7}
LIMITS = {"cell_seconds": 3, "call_seconds": 2, "total_seconds": 30, "memory_mb": 1500}
LIMITS |= {"file_mb": 10, "processes": 40}


@dataclass
class Case:
    """One student's submission, the marks it deserves and words that the grader must say."""

    student: str
    marks: dict
    says: str = ""
    files: dict = field(default_factory=dict)  # bytes by file name


class Bench:
    """Makes notebooks out of a course's release."""

    def __init__(self, course):
        self.course = Path(course)
        self.release = nbformat.read(self.course / "release" / SET / f"{SET}.ipynb", as_version=4)
        self.drawn = authoring.choose(authoring.load(SET), "2027", VARIANTS)
        self.answers = {
            problem: variant.solution(self.drawn.numbers[problem])
            for problem, variant in self.drawn.variants.items()
        }

    def wrong(self, problem, name):
        """A common wrong answer and the points that it keeps."""
        variant, numbers = self.drawn.variants[problem], self.drawn.numbers[problem]
        sources = {n: (source, keeps) for n, source, _, keeps in variant.wrong_answers(numbers)}
        source, keeps = sources[name]
        task = self.drawn.task(problem)
        return source, sum(getattr(task, kept).property_points for kept in keeps)

    def notebook(self, **answers):
        """The release with answers: all right ones, unless others (or None) are given."""
        notebook = copy.deepcopy(self.release)
        for problem, source in (self.answers | answers).items():
            if source is not None:
                self.cell(notebook, f"{problem}-code").source = source
        return notebook

    @staticmethod
    def cell(notebook, name):
        """A cell by its label."""
        return next(c for c in notebook.cells if c.metadata.nbgrader.get("grade_id") == name)

    def with_cell(self, source, **answers):
        """Right answers, and one more cell behind the set-up."""
        notebook = self.notebook(**answers)
        notebook.cells.insert(2, new_code_cell(textwrap.dedent(source)))
        return notebook

    def hard_coded(self):
        """A function that knows the answers to the open instances by heart."""
        task, seed = self.drawn.task("limit"), self.drawn.seeds["limit"]
        namespace = {}
        exec("import numpy as np\n" + self.answers["limit"], namespace)
        table = [
            (i["beta0"].tolist(), namespace["resting_place"](**i).tolist()) for i in task.draw(seed)
        ]
        return f"""TABLE = {table!r}

def resting_place(X, y, beta0):
    for start, end in TABLE:
        if len(start) == len(beta0) and np.allclose(start, beta0):
            return np.array(end)
    return np.zeros(len(beta0))
"""


def text(notebook):
    return json.dumps(notebook, indent=1, ensure_ascii=False).encode()  # unchecked, as students may


PATCH = """
import builtins
import unittest

import dmflib.property_tests as tests_module

nothing = lambda *args, **kwargs: None
for name in dir(np.testing):
    if name.startswith("assert"):
        setattr(np.testing, name, nothing)
np.allclose = np.array_equal = lambda *args, **kwargs: True
np.max = np.abs = lambda *args, **kwargs: 0.0
for name in ("close", "at_most", "FailedError"):
    setattr(tests_module, name, nothing)
    setattr(checks, name, nothing)
tests_module.returned = checks.returned = lambda value, shape: np.zeros(shape)
tests_module.Report.points = 100.0
builtins.AssertionError = unittest.SkipTest
"""

CHECKER = """
class checks:
    class Passed:
        points = 1000.0

        def run(self, *args, **kwargs):
            return self

        def __init__(self, **numbers):
            pass

    Momentum = Rates = Decline = Passed

def points(*args):
    return 1000.0
"""

THIEF = """
import ctypes, glob, io, os, subprocess

PLACES = {places!r}
FOUND = []
for place in PLACES:
    for path in glob.glob(place + "/**/*.py", recursive=True) + [place + "/course.json"] + \\
            glob.glob(place + "/**/*.ipynb", recursive=True) + {files!r}:
        for read in (
            lambda: open(path).read(),
            lambda: os.read(os.open(path, os.O_RDONLY), 10**6).decode(),
            lambda: subprocess.run(["cat", path], capture_output=True, text=True).stdout,
            lambda: io.FileIO(path).read().decode(),
        ):
            try:
                if content := read():
                    FOUND.append(content)
            except Exception as error:
                print(type(error).__name__, path)
try:
    FOUND.append(open("/proc/%d/environ" % os.getppid()).read())
except Exception as error:
    print(type(error).__name__)
assert not FOUND, "loot"
print("nothing found")

def place_at(X, y, t, beta0):
    raise RuntimeError("found: " + " ".join(FOUND)[:500])
"""

LINE = """
import json, os, struct

for fd in range(3, 30):
    for value in ({"value": 1.0, "number": 7}, {"ready": {}}):
        data = json.dumps(value).encode()
        try:
            os.write(fd, struct.pack("<Q", len(data)) + data)
        except OSError:
            pass
"""

FORK = """
import os, time

for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(10_000)
        os._exit(0)
"""

STUB = "def {name}(*args):\n    {body}\n"


def cases(bench):
    """All submissions of the batch; most are right but for one thing."""
    right, none = dict(FULL), {"motion": 0, "limit": 0, "decline": 0}
    nothing = dict.fromkeys(FULL)  # no answers: the stubs stay
    made = []

    def add(student, content, marks, says="", name=f"{SET}.ipynb"):
        data = content if isinstance(content, bytes) else text(content)
        made.append(Case(student, right | marks, says, {name: data}))

    def put(student, notebook, marks=None, says="", **more):
        add(student, notebook, marks or {}, says, **more)

    # honest work
    put("perfect", bench.notebook())
    put("empty", bench.notebook(**nothing), none, "not written yet")
    half, half_points = bench.wrong("motion", "half_gradient")
    put(
        "one-mistake-one-gap",
        bench.notebook(motion=half, decline=None),
        {"motion": half_points, "decline": 0},
        "off by",
    )
    late, late_points = bench.wrong("motion", "not_critical")
    near, near_points = bench.wrong("limit", "euclidean")
    rate, rate_points = bench.wrong("decline", "one_term")
    marks = {"motion": late_points, "limit": near_points, "decline": rate_points}
    put("three-mistakes", bench.notebook(motion=late, limit=near, decline=rate), marks, "off by")
    second = bench.notebook(motion=late, limit=near, decline=rate + "\n# once more")
    put("three-mistakes-again", second, marks, "off by")
    put(
        "other-shape",
        bench.notebook(limit=STUB.format(name="resting_place", body="return np.zeros((2, 2))")),
        {"limit": 0},
        r"an array of shape \(2, 2\) instead of",
    )
    put("syntax-error", bench.notebook(motion="def place_at(X, y:\n"), {"motion": 0}, "no function")

    # ends, hangs and hogs
    put("loop-in-cell", bench.with_cell("while True: pass"), {}, "did not come back within 3 s")
    hang = STUB.format(name="resting_place", body="while True: pass")
    put("loop-in-function", bench.notebook(limit=hang), {"limit": 0}, "did not come back within")
    put("memory-in-cell", bench.with_cell("hoard = np.ones(10**11)"))
    big = STUB.format(name="resting_place", body="return [0] * 10**10")
    put("memory-in-function", bench.notebook(limit=big), {"limit": 0}, "MemoryError")
    put("sys-exit", bench.with_cell("import sys\nsys.exit(0)"))
    put("os-exit", bench.with_cell("import os\nos._exit(0)"), {}, r"exit status 0\)")
    leave = STUB.format(name="resting_place", body="import os; os._exit(0)")
    put("os-exit-in-function", bench.notebook(limit=leave), {"limit": 0}, "ended its own process")
    put("lingering-fork", bench.with_cell(FORK), {}, "Processes that it had left behind were ended")
    put("large-file", bench.with_cell("open('x', 'wb').write(bytes(10**8))"))
    put("prints-50-mb", bench.with_cell("print('x' * 50_000_000)"))
    kill = "import os\nos.kill(os.getppid(), 9)\nos.kill(-1, 9)"
    put("kills-the-grader", bench.with_cell(kill))
    put("asks-for-input", bench.with_cell("input('?')"))

    # broken files
    deleted = bench.notebook()
    deleted.cells = [c for c in deleted.cells if not c.metadata.nbgrader.grade_id.endswith("-test")]
    put(
        "deleted-tests", deleted, {}, "missing, and put back: motion-test, limit-test, decline-test"
    )
    edited = bench.notebook(**nothing)
    for cell in edited.cells:
        if cell.metadata.nbgrader.grade_id.endswith("-test"):
            cell.source = "1000.0"
            cell.metadata.nbgrader.points = 1000
    put("edited-tests", edited, none, "changed, and set back to what was given out: motion-test")
    turned = bench.notebook()
    turned.cells = turned.cells[::-1]
    put("reordered", turned, {}, "another order")
    doubled = bench.notebook()
    stubs = copy.deepcopy(bench.release.cells)
    doubled.cells = [*doubled.cells, *copy.deepcopy(doubled.cells), *stubs]
    put("doubled", doubled, {}, "more than once")
    bare = bench.notebook()
    for cell in bare.cells:
        cell.metadata = {}
        cell.pop("id")
    bare.nbformat_minor = 4
    put("without-metadata", bare, {}, "lost their labels")
    whole = text(bench.notebook())
    put("invalid-json", whole.replace(b'"cells": [', b'"cells": [,'), none, "is not a notebook")
    put("truncated", whole[: len(whole) // 2], none, "cut off")
    put("no-bytes", b"", none, "is empty")
    put("no-notebook", b'{"cells": 3}', none, "no list of cells")
    put("odd-cells", _odd(bench.notebook()), {}, "are no cells")
    latin = whole.replace(
        b"YOUR ANSWER HERE", "Ein \u00e4u\u00dferst sch\u00f6ner Beweis".encode("latin-1"), 1
    )
    put("latin-1", latin, {}, "not valid UTF-8")
    foreign = bench.notebook()
    foreign.metadata.kernelspec = {"name": "julia-1.11", "language": "julia", "display_name": "J"}
    put("other-kernel", foreign, {}, "julia-1.11")
    loud = bench.notebook()
    stream = nbformat.v4.new_output("stream", name="stdout", text="y" * 50_000_000)
    bench.cell(loud, "motion-code").outputs = [stream]
    put("file-of-50-mb", loud)
    put("other-name", bench.notebook(), {}, "other-name", name="my other-name.ipynb")

    # cheats
    put(
        "hard-coded",
        bench.notebook(limit=bench.hard_coded()),
        {"limit": 0},
        "off by|way from the start",
    )
    bad = {
        "motion": STUB.format(name="place_at", body="return None"),
        "limit": STUB.format(name="resting_place", body="return args[-1]"),
        "decline": STUB.format(name="exponents", body="return np.zeros(2)"),
    }
    put("patched", bench.with_cell(PATCH, **bad), none, "instead of an array")
    put("own-checker", bench.with_cell(CHECKER, **bad), none, "instead of an array")
    root = str(Path(authoring.ASSIGNMENTS))
    places = [str(bench.course), root, str(bench.course / "source" / SET)]
    files = [f"{root}/{SET}/master.py", str(bench.course / "source" / SET / f"{SET}.ipynb")]
    files += [str(bench.course / "course.json"), str(bench.course / "gradebook.db")]
    thief = THIEF.format(places=places, files=files)
    put("thief", bench.with_cell(thief, motion=""), {"motion": 0}, r"RuntimeError: found:  \(")
    borrowed = "return checks.Momentum(friction=1.0).energy(*args)"
    put(
        "asks-the-tests",
        bench.notebook(motion=STUB.format(name="place_at", body=borrowed)),
        {"motion": 0},
        "has no attribute",
    )
    claims = "print('place_at: 10 of 10 points')\nprint('[4/4] all holds')\n26.0"
    put("prints-a-pass", bench.with_cell(claims, **bad), none, "instead of an array")
    put("on-the-line", bench.with_cell(LINE, **nothing), none, "wrote on the grader's line")
    return made


def _odd(notebook):
    content = json.loads(nbformat.writes(notebook))
    content["cells"][1:1] = [3, None, {"cell_type": "code", "source": {"a": 1}}, {"source": "x"}]
    content["cells"][0]["metadata"] = "none"
    return json.dumps(content).encode()


def answers_of(notebook):
    """Sources by label, for tests of the repair itself."""
    return {c.metadata.nbgrader.get("grade_id"): c.source for c in notebook.cells}
