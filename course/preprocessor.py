"""The step that replaces nbgrader's own `Execute`: the notebook runs confined."""

from nbformat.v4 import new_markdown_cell, new_output
from nbgrader.preprocessors import NbGraderPreprocessor

from course import grade, repair


class ConfinedExecute(NbGraderPreprocessor):
    """Put the outputs of a confined run into a notebook, and the marks into its test cells.

    nbgrader takes the mark from a test cell's result, as ever; the result comes from the grader's
    process and not from the student's.
    """

    def preprocess(self, nb, resources):
        names = resources["nbgrader"]
        course = grade.Course(self.parent.parent.coursedir.root)
        result = grade.result_of(course, names["assignment"], names["student"], nb)
        for index, cell in enumerate(nb.cells):
            if cell.cell_type != "code":
                continue
            if not repair.is_test(cell):
                outputs = result["outputs"].get(str(index), [])
                cell.outputs = [new_output(**output) for output in outputs]
                continue
            mark = result["marks"][cell.metadata.nbgrader.grade_id.removesuffix("-test")]
            cell.source = without_hidden_tests(cell.source)
            number = {"text/plain": repr(float(mark["points"]))}
            cell.outputs = [
                new_output("stream", name="stdout", text=mark["report"] + "\n"),
                new_output("execute_result", data=number, execution_count=None),
            ]
        notes = [*nb.metadata.pop("grading_notes", []), *result["notes"]]
        if notes:
            text = "**What the grader had to do with this notebook**\n\n"
            nb.cells.insert(0, new_markdown_cell(text + "\n".join(f"* {note}" for note in notes)))
            if nb.nbformat_minor < 5:
                nb.cells[0].pop("id", None)
        return nb, resources


def without_hidden_tests(source):
    """The source that students have seen: the feedback does not give away hidden instances."""
    lines, hidden = [], False
    for line in source.splitlines():
        hidden = hidden or "BEGIN HIDDEN TESTS" in line
        if not hidden:
            lines.append(line)
        hidden = hidden and "END HIDDEN TESTS" not in line
    return "\n".join(lines)
