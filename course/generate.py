"""`make course`: this year's nbgrader course directory.

The directory holds ``source/`` (with solutions and hidden tests, readable by its owner alone),
``release/`` made from it by nbgrader, ``gradebook.db``, ``nbgrader_config.py`` and
``course.json``, which says what was drawn and holds the key of the hidden instances.
"""

import argparse
import json
import os
import re
import secrets
import shutil
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course import authoring
from course.authoring import Experiment, Implement, Text, Write

ROOT = Path(__file__).resolve().parents[1]
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LIMITS = {
    "cell_seconds": 60,  # processor time of one cell
    "call_seconds": 20,  # and of one call by the tests
    "total_seconds": 300,  # and of the whole notebook
    "memory_mb": 3000,
    "file_mb": 50,
    "processes": 64,
}
CONFIG = '''"""nbgrader's configuration of this course; written by `make course`."""

import sys

# Where the course's own code is: change it when you move the course to another machine.
sys.path.insert(0, {root!r})

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = {course!r}
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__", ".git"]
c.ClearSolutions.code_stub = {{"python": "# YOUR CODE HERE\\nraise NotImplementedError"}}
c.OverwriteCells.add_missing_cells = False  # the grader restores them in their places
c.Autograde.autograde_preprocessors = [
    "course.preprocessor.ConfinedExecute",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
'''
WELCOME = """Work through the problems in order; together they take about {minutes} minutes.
Write your code and your answers in the cells that say so and leave the others as they are. The test
cells tell you what holds and, where something fails, on which instance. After you have handed in,
the same tests run on other instances. Functions must not read files or print.

You may use `numpy`, `scipy`, `matplotlib` and `dmflib`. What is asked here goes beyond `dmflib`."""


def marker(name, *, grade=False, solution=False, locked=False, points=None):
    """A cell's nbgrader metadata."""
    entry = {"grade_id": name, "grade": grade, "solution": solution, "locked": locked}
    entry |= {"task": False, "schema_version": 3}
    if points is not None:
        entry["points"] = points
    return {"nbgrader": entry}


def words(text, name):
    """A locked cell of text."""
    cell = new_markdown_cell(text, metadata=marker(name, locked=True))
    cell["id"] = name
    return cell


def code(text, name, **marks):
    """A cell of code with its nbgrader metadata."""
    cell = new_code_cell(text, metadata=marker(name, **marks))
    cell["id"] = name
    return cell


def test_cell(problem, drawn, hidden):
    """The cell that tests a function: open instances, then hidden ones."""
    variant, function = drawn.variants[problem.name], drawn.variants[problem.name].task.function
    numbers = ", ".join(f"{key}={value!r}" for key, value in drawn.numbers[problem.name].items())
    lines = [
        f"tests = checks.{variant.task.__name__}({numbers})",
        f"report = tests.run({function}, seed={drawn.seeds[problem.name]})",
        "print(report)",
        "### BEGIN HIDDEN TESTS",
        f"report = tests.run({function}, seed={hidden})",
        "print(report)",
        "### END HIDDEN TESTS",
        "report.points",
    ]
    points = drawn.task(problem.name).max_points()
    return code("\n".join(lines), f"{problem.name}-test", grade=True, locked=True, points=points)


def hidden_seed(key, problem_set, problem):
    """Seed of the hidden instances, never that of the open ones."""
    return 2**31 + authoring.seed(key, problem_set.name, problem.name, "hidden")


def notebook(problem_set, drawn, key):
    """The source notebook of a set: everything, solutions and hidden tests included."""
    outcomes = "\n".join(f"* {outcome}" for outcome in problem_set.outcomes)
    head = f"# {problem_set.title}\n\n{WELCOME.format(minutes=problem_set.minutes)}\n\n"
    head += f"What you practise:\n\n{outcomes}\n\n{problem_set.text.strip()}"
    setup = f"import numpy as np\n\nimport {problem_set.name}_checks as checks"
    cells = [words(head, "introduction"), code(setup, "setup", locked=True)]
    for number, problem in enumerate(problem_set.problems, 1):
        name = problem.name
        of = name if isinstance(problem, Implement) else problem.of
        numbers = drawn.numbers.get(of, {})
        variant = drawn.variants.get(of)
        title = f"## {number}. {problem.title}"
        minutes = f"about {problem.minutes} minutes"
        if isinstance(problem, Implement):
            points = drawn.task(name).max_points()
            text = f"{title}\n\n*{points:g} points, {minutes}.*\n\n"
            cells += [
                words(text + Text(variant.text).substitute(numbers).strip(), f"{name}-text"),
                code(variant.solution(numbers), f"{name}-code", solution=True),
                test_cell(problem, drawn, hidden_seed(key, problem_set, problem)),
            ]
        elif isinstance(problem, Write):
            question, answer = problem.by_variant.get(
                variant and variant.__name__, (problem.text, problem.answer)
            )
            text = f"{title}\n\n*{problem.points:g} points, {minutes}, graded by a person.*\n\n"
            text += Text(question).substitute(numbers).strip()
            rubric = "\n".join(f"* {points:g}: {what}" for points, what in problem.rubric)
            model = Text(answer).substitute(numbers).strip() + f"\n\n**Rubric**\n\n{rubric}"
            cell = new_markdown_cell(
                f"### BEGIN SOLUTION\n{model}\n### END SOLUTION",
                metadata=marker(f"{name}-answer", grade=True, solution=True, points=problem.points),
            )
            cell["id"] = f"{name}-answer"
            cells += [words(text, f"{name}-text"), cell]
        elif isinstance(problem, Experiment):
            text = f"{title}\n\n*{minutes}.*\n\n" + Text(problem.text).substitute(numbers).strip()
            body = Text(problem.solution).substitute(numbers).strip()
            body = f"### BEGIN SOLUTION\n{body}\n### END SOLUTION"
            cells += [words(text, f"{name}-text"), code(body, f"{name}-code", solution=True)]
    made = new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    made.nbformat, made.nbformat_minor = 4, 5
    nbformat.validate(made)
    return made


def write_course(out, cohort, names=None, limits=None, variants=None, key=None):
    """Write the course directory and let nbgrader make the students' copies.

    Parameters
    ----------
    out : path
        It may exist from an earlier call; a course with submissions keeps its numbers.
    cohort : str
        Draws variants, numbers and open instances.
    names : list of str, optional
        Problem sets; all that are there where left out.
    limits : dict, optional
        Replaces some of `LIMITS`.
    variants : dict, optional
        ``{set: {problem: variant}}``, see `authoring.choose`.
    key : str, optional
        Key of the hidden instances; an existing course keeps its own, a new one makes one up.
    """
    out, names = Path(out).resolve(), list(names or authoring.names())
    out.mkdir(parents=True, exist_ok=True)
    record = out / "course.json"
    if record.exists():
        old = json.loads(record.read_text())
        if old["cohort"] != cohort:
            sys.exit(f"{out} is the course of cohort {old['cohort']}: choose another OUT")
        key = key or old["key"]
    key = key or secrets.token_hex(16)
    sets = {}
    for name in names:
        problem_set = authoring.load(name)
        drawn = authoring.choose(problem_set, cohort, (variants or {}).get(name))
        folder = out / "source" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        nbformat.write(notebook(problem_set, drawn, key), folder / f"{name}.ipynb")
        checks = authoring.ASSIGNMENTS / name / "checks.py"
        shutil.copy(checks, folder / f"{name}_checks.py")
        sets[name] = {
            problem: {
                "variant": variant.__name__,
                "task": variant.task.__name__,
                "numbers": drawn.numbers[problem],
                "hidden": hidden_seed(key, problem_set, _problem(problem_set, problem)),
            }
            for problem, variant in drawn.variants.items()
        }
    content = {"cohort": cohort, "key": key, "limits": LIMITS | (limits or {}), "sets": sets}
    record.touch(mode=0o600)
    record.write_text(json.dumps(content, indent=1) + "\n")
    course_id = "".join(c if c.isalnum() else "-" for c in cohort)
    config = CONFIG.format(root=str(ROOT), course=f"implicit-bias-{course_id}")
    (out / "nbgrader_config.py").write_text(config)
    (out / "submitted").mkdir(exist_ok=True)
    release(out, names)
    # Students' code must not find these; the owner of the course can read them.
    (out / "source").chmod(0o700)
    (out / "gradebook.db").chmod(0o600)


def _problem(problem_set, name):
    return next(problem for problem in problem_set.problems if problem.name == name)


def release(out, names):
    """Let nbgrader cut solutions and hidden tests, and enter the sets in its gradebook."""
    api = nbgrader_api(out)
    for name in names:
        result = api.generate_assignment(name, force=True)
        if not result["success"]:
            sys.exit(complaint(result))


def complaint(result):
    """What nbgrader says of a step that failed: the last error in its log."""
    lines = f"{result.get('log', '')}\n{result.get('error', '')}".strip().splitlines()
    errors = [line for line in lines if re.match(r"\s*[\w.]*(Error|Entry):", line)]
    return (errors or lines or ["nbgrader failed"])[-1].strip()


def nbgrader_api(out, **course):
    """nbgrader's own interface, configured by the course's file."""
    import warnings

    from nbgrader.apps import NbGraderAPI
    from sqlalchemy.exc import SAWarning
    from traitlets.config import Config
    from traitlets.config.loader import PyFileConfigLoader

    # nbgrader links its rows before it adds them, of which SQLAlchemy 2 warns; they are added
    warnings.filterwarnings("ignore", category=SAWarning)
    # nbgrader starts `alembic` by name, and the environment may not be an activated one
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    config = PyFileConfigLoader("nbgrader_config.py", path=str(out)).load_config()
    config.CourseDirectory.root = str(out)
    config.CourseDirectory.db_url = f"sqlite:///{Path(out) / 'gradebook.db'}"
    config.Application.log_level = "ERROR"
    config.merge(Config({"CourseDirectory": course}))
    return NbGraderAPI(config=config)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", required=True, help="draws this year's numbers")
    parser.add_argument("--out", required=True, help="the course directory")
    parser.add_argument("--only", nargs="*", help="names of problem sets; all where left out")
    options = parser.parse_args()
    if not options.cohort or not options.out:
        parser.error("say make course COHORT=2027 OUT=../course-2027")
    os.umask(0o022)
    write_course(options.out, options.cohort, options.only)
    print(f"{options.out}: give students what is in release/, and put what they hand in into")
    print("submitted/STUDENT/SET/SET.ipynb; then run make grade COURSE=" + options.out)


if __name__ == "__main__":
    main()
