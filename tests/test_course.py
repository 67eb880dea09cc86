"""The course: what is given out, what earns a mark, and that grading cannot be broken."""

import csv
import hashlib
import html
import inspect
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import course_submissions as submissions
import nbformat
import numpy as np
import pytest

from course import authoring, generate, repair
from course.authoring import Experiment, Implement, Write

ROOT = Path(__file__).resolve().parents[1]
SET = submissions.SET
SETS = {name: authoring.load(name) for name in authoring.names()}
VARIANTS = [
    (name, problem.name, variant)
    for name, problem_set in SETS.items()
    for problem in problem_set.problems
    if isinstance(problem, Implement)
    for variant in problem.variants
]

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="grading needs processes as Unix has them"),
    # nbgrader and what it stands on
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]


def ident(value):
    return value if isinstance(value, str) else value.__name__


def run(source, task, seed):
    """Report on a function given as source, in this process: for sources that we have written."""
    namespace = {"np": np}
    exec(source, namespace)
    return task.run(namespace[task.function], seed)


def draws(variant, count=6):
    """Some of the numbers that cohorts may get, without repetition."""
    found = [variant.draw(np.random.default_rng(seed)) for seed in range(count)]
    return list({repr(numbers): numbers for numbers in found}.values())


# --- masters ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("name", "problem", "variant"), VARIANTS, ids=ident)
class TestMasters:
    def test_the_solution_is_right(self, name, problem, variant):
        for seed, numbers in enumerate(draws(variant, 3)):
            task = variant.task(**numbers)
            report = run(variant.solution(numbers), task, 2**31 + seed)
            assert report.points == report.max_points == task.max_points(), str(report)

    def test_common_wrong_answers_keep_what_they_are_said_to_keep(self, name, problem, variant):
        numbers = draws(variant)[0]
        task = variant.task(**numbers)
        answers = list(variant.wrong_answers(numbers))
        assert answers, "at least one common wrong answer"
        for answer, source, reveals, keeps in answers:
            report = run(source, task, 2**31 + 5)
            outcomes = zip(task.properties(), report.outcomes, strict=True)
            assert {m.__name__ for m, outcome in outcomes if outcome.points} == set(keeps), answer
            assert report.points < report.max_points
            assert len(reveals.split()) > 2

    def test_cheap_answers_earn_little(self, name, problem, variant):
        numbers = draws(variant)[0]
        task = variant.task(**numbers)
        first = next(iter(task.draw(0)[0]))
        for cheap in (
            lambda *args: None,
            lambda *args: np.nan,
            lambda *args: "all right",
            lambda *args: 0.0,
            lambda *args: 1.0,
            lambda *args: args[-1],
            lambda *args: np.zeros_like(args[0]),
            lambda *args: np.zeros_like(args[-1]),
            lambda *args: (0.0, 0.0),
            lambda *args: {first: args},
        ):
            report = task.run(cheap, 3)
            assert report.points <= 0.25 * report.max_points, inspect.getsource(cheap)

    def test_an_answer_for_other_numbers_is_not_right(self, name, problem, variant):
        others = draws(variant, 12)
        assert len(others) > 1, "the numbers must change what is right"
        task = variant.task(**others[0])
        report = run(variant.solution(others[1]), task, 17)
        assert report.points < report.max_points

    def test_an_answer_to_another_variant_is_not_right(self, name, problem, variant):
        task = variant.task(**draws(variant)[0])
        (all_variants,) = (p.variants for p in SETS[name].problems if p.name == problem)
        assert len(all_variants) > 1
        for other in set(all_variants) - {variant}:
            report = run(other.solution(draws(other)[0]), task, 17)
            assert report.points < report.max_points

    def test_every_property_has_points_and_fails_for_something(self, name, problem, variant):
        task = variant.task(**draws(variant)[0])
        assert len(task.properties()) >= 2
        report = task.run(lambda *args: None, 1)
        assert report.points == 0
        assert all(outcome.message for outcome in report.outcomes)

    def test_instances_differ_with_the_seed(self, name, problem, variant):
        task = variant.task(**draws(variant)[0])
        assert repr(task.draw(1)) == repr(task.draw(1)) != repr(task.draw(2))


@pytest.mark.parametrize("name", SETS)
def test_a_set_has_its_parts(name):
    problem_set = SETS[name]
    assert (ROOT / "chapters" / f"{name}.ipynb").exists()
    assert 60 <= problem_set.minutes <= 120
    kinds = [type(problem) for problem in problem_set.problems]
    assert kinds.count(Write) >= 2, "derive and explain"
    assert kinds.count(Implement) >= 2
    assert Experiment in kinds
    labels = [problem.name for problem in problem_set.problems]
    assert len(set(labels)) == len(labels)
    for problem in problem_set.problems:
        if isinstance(problem, Write):
            assert problem.points > 0
            assert len(problem.rubric) >= 2
            versions = problem.by_variant.values() or [(problem.text, problem.answer)]
            assert all(min(map(len, version)) > 100 for version in versions)


@pytest.mark.parametrize("name", SETS)
def test_a_function_that_is_asked_for_is_none_of_the_package(name):
    import dmflib

    asked = {variant.task.function for n, _, variant in VARIANTS if n == name}
    for path in Path(dmflib.__file__).parent.glob("*.py"):
        defined = set(re.findall(r"^(?:def|class) (\w+)", path.read_text(), re.M))
        assert not asked & defined, f"{path.stem} has it"


@pytest.mark.parametrize("name", SETS)
def test_tests_need_nothing_that_students_do_not_have(name):
    source = (ROOT / "assignments" / name / "checks.py").read_text()
    modules = set(re.findall(r"^\s*(?:from|import) (\w+)", source, re.M))
    assert modules <= set(sys.stdlib_module_names) | {"numpy", "scipy", "dmflib"}


# --- what is given out --------------------------------------------------------------------------


def secrets_of(name, drawn, key):
    """What students must not see: long pieces of solutions, model answers, hidden seeds."""
    pieces = []
    for problem in SETS[name].problems:
        if isinstance(problem, Implement):
            pieces.append(str(generate.hidden_seed(key, SETS[name], problem)))
        for variant in getattr(problem, "variants", ()):
            numbers = draws(variant)[0]
            solution = variant.solution(numbers)
            found = re.search(r"### BEGIN SOLUTION\n(.*)### END SOLUTION", solution, re.S)
            pieces += windows(found[1])
            pieces += windows(solution.replace("### ", ""))[-1:]
            for _, source, _, _ in variant.wrong_answers(numbers):
                pieces += windows(source.split('"""')[-1])
        if isinstance(problem, Write):
            versions = list(problem.by_variant.values()) or [(problem.text, problem.answer)]
            for _, answer in versions:
                pieces += windows(answer)
            pieces += [bare(what) for _, what in problem.rubric]
        if isinstance(problem, Experiment):
            pieces += windows(problem.solution)
    return [piece for piece in pieces if len(piece) >= 10]


def bare(text):
    """Text without white space, backslashes and marks that depend on the file's format."""
    return re.sub(r"[\s\\\"']|\\n", "", text)


def windows(text, size=60):
    """Pieces from the beginning, the middle and the end."""
    text = bare(text)
    middle = max(0, len(text) // 2 - size // 2)
    return [text[:size], text[middle : middle + size], text[-size:]]


def published():
    """Everything that is or would be on the book's pages, as bare text."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import build_book
    finally:
        sys.path.remove(str(ROOT / "tools"))
    files = build_book.sources()
    for path in files:
        assert not {"assignments", "course"} & set(path.relative_to(ROOT).parts)
    if build_book.HTML.exists():
        ends = (".html", ".ipynb", ".md", ".txt", ".js", ".py", ".json")
        files += [p for p in build_book.HTML.rglob("*") if p.suffix in ends and p.is_file()]
    for path in files:
        if path.suffix in (".woff2", ".png", ".svg") or "mathjax" in path.parts:
            continue
        text = path.read_text(encoding="utf-8", errors="replace").replace("\\n", "\n")
        if path.suffix == ".html":
            text = html.unescape(re.sub(r"<[^>]+>", "", text))
        yield path, bare(text)


@pytest.fixture(scope="module")
def whole_course(tmp_path_factory):
    """A course with every set."""
    out = tmp_path_factory.mktemp("whole") / "course"
    generate.write_course(out, "2031", key="0123456789abcdef")
    return out


def test_the_students_copy_holds_no_solution_and_no_hidden_test(whole_course):
    for name in SETS:
        drawn = authoring.choose(SETS[name], "2031")
        copies = sorted((whole_course / "release" / name).rglob("*"))
        text = "".join(bare(p.read_text().replace("\\n", "\n")) for p in copies)
        assert {path.name for path in copies} == {f"{name}.ipynb", f"{name}_checks.py"}
        assert "HIDDENTESTS" not in text
        assert "BEGINSOLUTION" not in text
        found = [piece for piece in secrets_of(name, drawn, "0123456789abcdef") if piece in text]
        assert found == []
        # the search finds what is there: the source holds the solutions of this year's variants
        source = bare(
            (whole_course / "source" / name / f"{name}.ipynb").read_text().replace("\\n", "\n")
        )
        held = [piece for piece in secrets_of(name, drawn, "0123456789abcdef") if piece in source]
        assert len(held) > 6


def test_no_page_of_the_book_holds_a_solution():
    pages = list(published())
    assert len(pages) > 10
    for name, problem_set in SETS.items():
        drawn = authoring.choose(problem_set, "2031")
        for piece in secrets_of(name, drawn, "0123456789abcdef"):
            for path, text in pages:
                assert piece not in text, (path, name, piece)


def test_a_name_draws_the_same_course_and_another_name_another(tmp_path):
    def copies(cohort, folder):
        generate.write_course(tmp_path / folder, cohort, [SET], key="k")
        return {
            str(p.relative_to(tmp_path / folder)): p.read_bytes()
            for step in ("source", "release")
            for p in sorted((tmp_path / folder / step).rglob("*.ipynb"))
        }

    first = copies("2027", "a")
    assert copies("2027", "b") == first
    assert copies("2028", "c") != first


@pytest.mark.parametrize("name", SETS)
def test_cohorts_get_every_variant(name):
    seen = set()
    for year in range(2027, 2067):
        drawn = authoring.choose(SETS[name], str(year))
        seen |= {(problem, variant.__name__) for problem, variant in drawn.variants.items()}
        json.dumps(drawn.numbers)  # plain numbers only
    assert seen == {(problem, v.__name__) for n, problem, v in VARIANTS if n == name}


def test_hidden_instances_are_others_and_depend_on_the_key(whole_course):
    record = json.loads((whole_course / "course.json").read_text())
    for name, problems in record["sets"].items():
        drawn = authoring.choose(SETS[name], "2031")
        for problem, entry in problems.items():
            assert entry["hidden"] >= 2**31 > drawn.seeds[problem]
            (asked,) = (p for p in SETS[name].problems if p.name == problem)
            assert entry["hidden"] != generate.hidden_seed("another", SETS[name], asked)
    assert (whole_course / "course.json").stat().st_mode & 0o077 == 0
    assert (whole_course / "source").stat().st_mode & 0o077 == 0


def test_students_copies_run_and_say_what_is_missing(whole_course, tmp_path):
    """The open tests work in a plain kernel, for the student's own eyes."""
    folder = whole_course / "release" / SET
    notebook = nbformat.read(folder / f"{SET}.ipynb", as_version=4)
    code = "\n".join(
        c.source.replace("report.points", "print(report.points)")
        for c in notebook.cells
        if c.cell_type == "code" and "raise NotImplementedError" not in c.source[:60]
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "it is not written yet" in done.stdout
    assert "0 of " in done.stdout


# --- grading ------------------------------------------------------------------------------------

GRADE = [sys.executable, "-m", "course.grade", "--jobs", "2", "--course"]


def grade(course, **options):
    return subprocess.run(
        [*GRADE, str(course)], cwd=ROOT, capture_output=True, text=True, **options
    )


def kill_when(course, enough):
    """Start to grade and kill the grader, with no chance to tidy up, when `enough()` is true."""
    process = subprocess.Popen(
        [*GRADE, str(course)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not enough():
        time.sleep(0.05)
    assert process.poll() is None, "it was done before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()


def rows(course):
    """All marks in the gradebook's own tables."""
    query = (
        "select s.student_id, a.name, c.name, g.auto_score, g.manual_score from grade g"
        " join submitted_notebook n on g.notebook_id = n.id"
        " join submitted_assignment s on n.assignment_id = s.id"
        " join assignment a on s.assignment_id = a.id join base_cell c on g.cell_id = c.id"
    )
    with sqlite3.connect(course / "gradebook.db") as database:
        return sorted(database.execute(query).fetchall())


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """The whole batch, graded by a grader that is killed twice on the way."""
    course = tmp_path_factory.mktemp("batch") / "course"
    generate.write_course(
        course, "2027", [SET], limits=submissions.LIMITS, variants={SET: submissions.VARIANTS}
    )
    cases = submissions.cases(submissions.Bench(course))
    for case in cases:
        folder = course / "submitted" / case.student / SET
        folder.mkdir(parents=True)
        for name, data in case.files.items():
            (folder / name).write_bytes(data)
    handed_in = digest(course / "submitted")

    def results():
        return {p: p.stat().st_mtime_ns for p in (course / ".grading/results").rglob("[!.]*.json")}

    def recorded():
        return list((course / ".grading/done").rglob("[!.]*.json"))

    kill_when(course, lambda: len(results()) >= 5)
    first = results()
    kill_when(course, lambda: len(recorded()) >= 3)
    assert all(results()[path] == at for path, at in first.items()), "ran again what was done"
    done = grade(course)
    assert done.returncode == 0, done.stdout + done.stderr
    assert digest(course / "submitted") == handed_in
    return course, {case.student: case for case in cases}, done.stdout


def digest(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return [(str(p), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]


def table(course, student):
    with (course / "marks.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["student"] == student]


STUDENTS = re.findall(
    r'^    (?:put|add)\(\s*"([\w-]+)"', inspect.getsource(submissions.cases), re.M
)


def test_the_batch_is_as_large_as_it_says(batch):
    _, cases, printed = batch
    assert sorted(cases) == sorted(STUDENTS)
    assert len(STUDENTS) >= 30
    assert f"{len(STUDENTS)} submissions" in printed


@pytest.mark.parametrize("student", STUDENTS)
def test_each_submission_gets_what_it_deserves_and_is_told_why(batch, student):
    course, cases, _ = batch
    case, mine = cases[student], table(course, student)
    assert {
        r["problem"]: float(r["points"]) for r in mine if r["problem"] in case.marks
    } == case.marks
    auto = {cell: score for who, _, cell, score, _ in rows(course) if who == student}
    assert {problem: auto[f"{problem}-test"] for problem in case.marks} == case.marks
    notebook = course / "autograded" / student / SET / f"{SET}.ipynb"
    words = "; ".join(r["why"] for r in mine) + notebook.read_text(encoding="utf-8")
    assert re.search(case.says, words)
    for row in mine:  # whoever loses points is told why
        if row["problem"] in case.marks and float(row["points"]) < float(row["max_points"]):
            assert len(row["why"]) > 20
    page = (course / "feedback" / student / SET / f"{SET}.html").read_text(encoding="utf-8")
    assert f"(Score: {float(sum(case.marks.values()))} / 38.0)" in page
    assert len(page) < 3e6
    record = json.loads((course / "course.json").read_text())
    for entry in record["sets"][SET].values():  # feedback does not give away hidden instances
        assert str(entry["hidden"]) not in page


def test_the_thief_would_have_found_something_without_a_fence(batch):
    """The theft is a real one: the same code, not confined, finds the solutions."""
    _, cases, _ = batch
    notebook = json.loads(cases["thief"].files[f"{SET}.ipynb"])
    (code,) = (c["source"] for c in notebook["cells"] if "FOUND" in "".join(c["source"]))
    code = "import numpy as np\n" + "".join(code).replace('assert not FOUND, "loot"', "")
    code += "\nprint('solution' if any('BEGIN SOLUTION' in f for f in FOUND) else 'none')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "solution", done.stderr


def test_nothing_is_lost_or_doubled_and_nothing_is_graded_twice(batch):
    course, cases, _ = batch
    before, cells = rows(course), {row[2] for row in rows(course)}
    assert len(before) == len(cases) * len(cells)
    assert len({row[:3] for row in before}) == len(before)
    again = grade(course)
    assert f"{len(cases)} of them already in the gradebook" in again.stdout
    assert "ran" not in again.stdout
    assert rows(course) == before


def test_no_process_of_a_submission_is_left(batch):
    import psutil

    from course.confine import FIRST_USER

    for process in psutil.process_iter():
        try:
            assert process.uids().real < FIRST_USER
            scratch = process.environ().get("MPLCONFIGDIR", "")
        except psutil.Error:
            continue
        assert "grading-" not in scratch


def test_an_honest_notebook_is_run_once(batch):
    """What grading costs: one process and one run for each notebook that ends by itself."""
    course, _, _ = batch
    starts = {
        path.stem: json.loads(path.read_text())["starts"]
        for path in (course / ".grading" / "results" / SET).glob("[!.]*.json")
    }
    for student in ("perfect", "empty", "three-mistakes", "sys-exit", "file-of-50-mb", "patched"):
        assert starts[student] == 1
    assert starts["os-exit"] == 2  # once to see which cell it is, once without it
    assert max(starts.values()) <= 9


def test_another_version_is_tested_on_other_instances(batch):
    """So that what feedback shows is of no use for an answer by heart."""
    course, _, _ = batch
    reports = [
        json.loads((course / ".grading" / "results" / SET / f"{name}.json").read_text())["marks"]
        for name in ("three-mistakes", "three-mistakes-again")
    ]
    for problem in submissions.FULL:
        first, second = (report[problem]["report"] for report in reports)
        assert "FAILS" in first
        assert first != second


def test_nbgraders_own_command_runs_confined_too(whole_course):
    """As the buttons of nbgrader do: no repair, and the same marks from the same process."""
    bench = whole_course / "submitted" / "button" / SET
    bench.mkdir(parents=True)
    notebook = nbformat.read(whole_course / "source" / SET / f"{SET}.ipynb", as_version=4)
    stolen = "print(open('../../../course.json').read()); report = None"
    notebook.cells.insert(2, nbformat.v4.new_code_cell(stolen))
    nbformat.write(notebook, bench / f"{SET}.ipynb")
    command = [sys.executable, "-m", "nbgrader", "autograde", SET, "--student", "button"]
    done = subprocess.run(command, cwd=whole_course, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    marks = {row[2]: row[3] for row in rows(whole_course) if row[0] == "button"}
    drawn = authoring.choose(SETS[SET], "2031")
    for problem in drawn.variants:
        assert marks[f"{problem}-test"] == drawn.task(problem).max_points()
    path = whole_course / "autograded" / "button" / SET / f"{SET}.ipynb"
    assert "Error" in path.read_text()
    assert json.loads((whole_course / "course.json").read_text())["key"] not in path.read_text()


def test_grades_are_exported_by_nbgrader(batch):
    course, cases, _ = batch
    with (course / "grades.csv").open(encoding="utf-8", newline="") as file:
        scores = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert scores == {case.student: sum(case.marks.values()) for case in cases.values()}


def test_a_person_grades_the_written_answers_and_a_new_version_keeps_no_old_mark(batch):
    course, _, _ = batch
    api = generate.nbgrader_api(course)
    with api.gradebook as gradebook:
        cell = gradebook.find_grade("derive-answer", SET, SET, "perfect")
        assert cell.auto_score == 0  # nobody wrote anything there
        cell.manual_score = 5
        gradebook.db.commit()
    assert "ran" not in grade(course).stdout
    page = course / "feedback" / "perfect" / SET / f"{SET}.html"
    assert "(Score: 31.0 / 38.0)" in page.read_text(encoding="utf-8")
    bench = submissions.Bench(course)
    file = course / "submitted" / "perfect" / SET / f"{SET}.ipynb"
    file.write_bytes(submissions.text(bench.notebook(limit=None)))
    others = [row for row in rows(course) if row[0] != "perfect"]
    printed = grade(course).stdout
    assert printed.count("ran ") == 1
    marks = {row[2]: row[3:] for row in rows(course) if row[0] == "perfect"}
    assert marks["limit-test"] == (0, None)
    assert marks["motion-test"] == (10, None)
    assert marks["derive-answer"] == (0, 5)
    assert [row for row in rows(course) if row[0] != "perfect"] == others


def test_folders_that_cannot_be_graded_are_named_and_stop_nothing(batch):
    course, _, _ = batch
    odd = course / "submitted" / "a*b" / SET
    other = course / "submitted" / "zoe" / "no_such_set"
    link = course / "submitted" / "linked" / SET
    for folder in (odd, other, link.parent):
        folder.mkdir(parents=True)
    link.symlink_to(course / "source" / SET)
    done = grade(course)
    assert done.returncode == 1
    for student, why in (
        ("a*b", "none that nbgrader"),
        ("zoe", "no problem set"),
        ("linked", "link"),
    ):
        assert why in table(course, student)[0]["why"]
    for folder in (odd, other):
        folder.rmdir()
    link.unlink()
    assert grade(course).returncode == 0


@pytest.mark.parametrize("name", SETS)
def test_every_master_is_graded(whole_course, name):
    """Its solutions earn everything that a machine gives, its stubs nothing."""
    for student, step in (("solution", "source"), ("stubs", "release")):
        folder = whole_course / "submitted" / student / name
        folder.mkdir(parents=True)
        content = (whole_course / step / name / f"{name}.ipynb").read_bytes()
        (folder / f"{name}.ipynb").write_bytes(content)
    done = grade(whole_course)
    assert done.returncode == 0, done.stdout + done.stderr
    marks = {row[2]: row[3] for row in rows(whole_course) if row[:2] == ("solution", name)}
    drawn = authoring.choose(SETS[name], "2031")
    for problem in SETS[name].problems:
        if isinstance(problem, Implement):
            assert marks[f"{problem.name}-test"] == drawn.task(problem.name).max_points()
        elif isinstance(problem, Write):
            assert marks[f"{problem.name}-answer"] is None  # waits for a person
    stubs = [row[3] for row in rows(whole_course) if row[:2] == ("stubs", name)]
    assert stubs == [0] * len(marks)
    # and the experiments leave a picture for the person who grades
    path = whole_course / "autograded" / "solution" / name / f"{name}.ipynb"
    outputs = [o for c in nbformat.read(path, as_version=4).cells for o in c.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" for output in outputs)


# --- the parts ----------------------------------------------------------------------------------


def test_numbers_in_texts_and_solutions_are_this_years():
    class Asked(authoring.Variant):
        task = type("T", (), {"function": "asked"})
        text = "price @price, $x^2$"

        @staticmethod
        def asked(x):
            ### BEGIN SOLUTION
            return authoring.drawn.price * x
            ### END SOLUTION

    source = Asked.solution({"price": 7})
    assert source.startswith("def asked(x):")
    assert "7 * x" in source.replace("authoring.", "")
    assert "(-7) * x" in Asked.solution({"price": -7})
    assert authoring.Text(Asked.text).substitute(price=7) == "price 7, $x^2$"


def test_values_cross_the_line_unchanged_and_nothing_else_does():
    from course.worker import Unusable, decode, encode

    values = [
        None,
        True,
        3,
        -1.5,
        "ü",
        (1, [2.0, "x"]),
        {"a": np.arange(6.0).reshape(2, 3)},
        1 + 2j,
    ]
    values += [np.float32(2.5), np.array(3), np.zeros((0, 2)), np.array([True]), 10**30]
    for value in values:
        back = decode(json.loads(json.dumps(encode(value))))
        np.testing.assert_equal(back, value.item() if isinstance(value, np.generic) else value)

    class Sly:
        def __eq__(self, other):
            return True

        def __reduce__(self):
            return (os._exit, (1,))

        __hash__ = None

    for odd in (Sly(), np.array([Sly()]), {1: 2}, print):
        assert isinstance(decode(json.loads(json.dumps(encode(odd)))), Unusable)
    for forged in (
        {"array": ["|O", [1], "AAAA"]},
        {"array": ["<f8", [10**9], ""]},
        {"a": 1, "b": 2},
        {"tuple": 3},
        [1],
    ):
        with pytest.raises((ValueError, TypeError)):
            decode(forged)


def test_a_repair_of_the_release_is_the_release(batch):
    course, _, _ = batch
    release = submissions.Bench(course).release
    path = course / "release" / SET / f"{SET}.ipynb"
    cells, notes = repair.read(path)
    restored, more = repair.restore(cells, release)
    assert notes == more == []
    assert [c.source for c in restored.cells] == [c.source for c in release.cells]
    assert [c.metadata for c in restored.cells] == [c.metadata for c in release.cells]


def test_repair_survives_any_damage(batch, tmp_path):
    """Bytes flipped, cut and repeated: always a notebook with every test in it."""
    course, _, _ = batch
    bench, rng = submissions.Bench(course), np.random.default_rng(5)
    whole = submissions.text(bench.notebook())
    tests = [c.source for c in bench.release.cells if repair.is_test(c)]
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            at = int(rng.integers(len(data)))
            kind = rng.integers(3)
            if kind == 0:
                data[at] = rng.integers(256)
            elif kind == 1:
                del data[at : at + int(rng.integers(1, 300))]
            else:
                data[at:at] = data[at : at + int(rng.integers(1, 300))]
        path = tmp_path / "damaged.ipynb"
        path.write_bytes(bytes(data))
        cells, notes = repair.read(path)
        restored, _ = repair.restore(cells, bench.release)
        assert cells or notes
        nbformat.validate(restored)
        assert [c.source for c in restored.cells if repair.is_test(c)] == tests


def test_what_student_code_cannot_do(tmp_path):
    """Each right that it is said not to have, tried in a worker under a grader of its own."""
    code = f"""
import json
from course import confine, generate
confine.adopt_orphans()
secret = {str(tmp_path / "secret")!r}
open(secret, "w").write("hidden")
limits = generate.LIMITS | {{"memory_mb": 1500, "file_mb": 1, "processes": 20}}
with confine.Worker(limits, [], [{str(tmp_path)!r}]) as worker:
    print(json.dumps(worker.rights))
    for source in (
        f"print(open({{secret!r}}).read())",
        f"open({{secret!r}}, 'w').write('changed')",
        "import os; os.kill(os.getppid(), 9); print('killed')",
        "import socket; socket.create_connection(('127.0.0.1', 9)); print('connected')",
        "open('big', 'wb').write(bytes(2 * 2**20)); print('written')",
        "bytearray(2 * 10**9); print('allocated')",
        "open('own', 'w').write('fine'); print(open('own').read())",
    ):
        outputs = worker.cell(source)["outputs"]
        print(json.dumps([o.get("text") or o.get("ename") for o in outputs]))
print(open(secret).read())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rights, *said, secret = done.stdout.splitlines()
    said = [json.loads(line) for line in said]
    assert secret == "hidden"
    assert said[0] == ["PermissionError"]
    assert said[4] == ["OSError"]
    assert said[5] == ["MemoryError"] or sys.platform == "darwin"
    assert said[6] == ["fine\n"]
    rights = json.loads(rights)
    if rights["user"] or rights["landlock"] >= 6:
        assert said[2] == ["PermissionError"]
    if rights["landlock"] >= 4:
        assert said[3] in (["PermissionError"], ["OSError"])
