"""Grading thirty submissions of one problem set with two processes."""

import csv
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import course_submissions as submissions  # noqa: E402

from course import generate  # noqa: E402

COUNT, LIMIT = 30, 180


def main():
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder) / "course"
        generate.write_course(
            course,
            "2027",
            [submissions.SET],
            limits=submissions.LIMITS,
            variants={submissions.SET: submissions.VARIANTS},
        )
        bench = submissions.Bench(course)
        late, _ = bench.wrong("motion", "not_critical")
        kinds = [bench.notebook(), bench.notebook(decline=None), bench.notebook(motion=late)]
        for number in range(COUNT):
            target = course / "submitted" / f"student-{number:02}" / submissions.SET
            target.mkdir(parents=True)
            notebook = kinds[number % len(kinds)]
            (target / f"{submissions.SET}.ipynb").write_bytes(submissions.text(notebook))
        command = [sys.executable, "-m", "course.grade", "--jobs", "2", "--course", str(course)]
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        with (course / "grades.csv").open() as file:
            marked = sum(float(row["score"]) > 0 for row in csv.DictReader(file))
        cpu = used.ru_utime + used.ru_stime
        print(f"{marked} submissions graded: {wall:.0f} s, {cpu:.0f} s of processor time,", end=" ")
        print(f"limit {LIMIT} s: {'kept' if wall < LIMIT else 'exceeded'}")


if __name__ == "__main__":
    main()
