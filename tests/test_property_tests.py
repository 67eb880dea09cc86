"""Testing by properties: points, messages, and that nothing passes by accident."""

import numpy as np
import pytest

from dmflib import property_tests
from dmflib.property_tests import FailedError, GoneError, Outcome, Report, Task, holds

NAN, INF = np.nan, np.inf


class Double(Task):
    """The double of a vector, and a factor that a course may draw."""

    function = "double"
    factor = 2

    def instance(self, rng, index):
        return {"x": rng.standard_normal(1 + index)}

    @holds("is linear", 1)
    def linear(self, f, x):
        value = property_tests.returned(f(3 * x), x.shape)
        property_tests.close(value, 3 * property_tests.returned(f(x), x.shape), 1e-9, "f(3 x)")

    @holds("has the right size", 2.5)
    def size(self, f, x):
        value = np.abs(property_tests.returned(f(x), x.shape)).max()
        property_tests.at_most(value, self.factor * np.abs(x).max() + 1e-12, "size")
        property_tests.at_least(value, self.factor * np.abs(x).max() - 1e-12, "size")


class Triple(Double):
    """A task that inherits its properties and adds one."""

    factor = 3

    @holds("keeps signs")
    def signs(self, f, x):
        property_tests.close(np.sign(property_tests.returned(f(x), x.shape)), np.sign(x), 0, "sign")


def test_a_right_answer_earns_everything_and_the_report_says_so():
    report = Double().run(lambda x: 2 * x, 0)
    assert (report.points, report.max_points) == (3.5, 3.5)
    assert str(report).splitlines() == [
        "double: 3.5 of 3.5 points",
        "[1/1] is linear: holds on 5 instances",
        "[2.5/2.5] has the right size: holds on 5 instances",
    ]


def test_each_property_earns_its_own_points_and_a_failure_shows_its_instance():
    report = Double().run(lambda x: 4 * x, 0)
    assert report.points == 1
    linear, size = report.outcomes
    assert linear == Outcome("is linear", 1, 1)
    assert "at most" in size.message
    np.testing.assert_array_equal(size.instance["x"], Double().draw(0)[0]["x"])
    assert f"at x = {property_tests.shown(size.instance['x'])}" in str(report)


def test_a_reason_is_given_once_and_another_one_in_full():
    same = Outcome("is", 0.0, 1.0, "no", {"a": 1})
    other = Outcome("was", 0.0, 1.0, "no", {"a": 2})
    report = Report("f", (same, same, Outcome("holds", 1.0, 1.0), same, other), 1)
    assert str(report).count("      no\n      at a = 1") == 1
    assert str(report).count("      for the same reason") == 2
    assert str(report).endswith("[0/1] was: FAILS\n      no\n      at a = 2")


def test_numbers_are_set_by_name_and_unknown_ones_refused():
    assert Double(factor=4).run(lambda x: 4 * x, 0).points == 3.5
    for wrong in ({"size": 3}, {"other": 1}, {"_try": 1}, {"run": 1}):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))}="):
            Double(**wrong)


def test_inherited_properties_come_first():
    assert [method.__name__ for method in Triple().properties()] == ["linear", "size", "signs"]
    assert Triple().max_points() == 4.5
    assert Triple().run(lambda x: 3 * x, 1).points == 4.5


def test_a_seed_draws_the_same_instances_and_another_seed_others():
    first, again, other = (Double().draw(seed) for seed in (5, 5, 6))
    assert repr(first) == repr(again) != repr(other)
    assert [len(instance["x"]) for instance in first] == [1, 2, 3, 4, 5]


def test_a_function_cannot_change_the_instances():
    def greedy(x):
        x *= 0
        return x

    report = Double().run(greedy, 0)
    assert report.points == 1  # zero is linear
    assert report.outcomes[1].instance["x"].any()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: None, "nothing (None)"),
        (lambda x: "two", "'two' instead of an array of shape (1,)"),
        (lambda x: 1j * x, "instead of an array"),
        (lambda x: [x, [1, 2]], "instead of an array"),
        (lambda x: NAN * x, "not finite"),
        (lambda x: INF * x, "not finite"),
        (lambda x: 2.0, "a single number instead of"),
        (lambda x: np.ones(7), "shape (7,) instead of"),
        (lambda x: 1 / 0, "ZeroDivisionError"),
        (lambda x, y: x, "TypeError"),
        (lambda x: {}["no"], "KeyError: 'no'"),
    ],
)
def test_odd_answers_fail_with_a_reason(answer, words):
    with np.errstate(all="ignore"):
        report = Double().run(answer, 0)
    assert report.points == 0
    assert words in report.outcomes[1].message


def test_what_is_not_written_and_what_is_gone_are_said():
    def unwritten(x):
        raise NotImplementedError

    def gone(x):
        raise GoneError("it did not come back")

    assert "not written yet" in Double().run(unwritten, 0).outcomes[0].message
    assert Double().run(gone, 0).outcomes[0].message == "it did not come back"


def test_a_returned_object_that_breaks_the_test_is_a_failure_and_not_an_error():
    class Careless(Task):
        function = "careless"

        def instance(self, rng, index):
            return {}

        @holds("adds")
        def adds(self, f):
            f() + 1

    assert "cannot be used here" in Careless().run(lambda: "x", 0).outcomes[0].message
    assert Careless().run(lambda: 1, 0).points == 1


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_what_is_no_number_is_close_to_nothing_and_at_most_nothing(bad):
    for pair in ((bad, 0.0), (0.0, bad), ([0.0, bad], [0.0, 0.0])):
        with pytest.raises(FailedError):
            property_tests.close(*pair, 1e9, "x")
    if np.isnan(bad):
        for pair in ((bad, 0), (0, bad)):
            for compare in (property_tests.at_most, property_tests.at_least):
                with pytest.raises(FailedError):
                    compare(*pair, "x")


def test_close_allows_its_tolerance_and_no_more():
    property_tests.close([1.0, 2.0], [1.0, 2.5], 0.5, "x")
    with pytest.raises(FailedError, match=r"x: off by 0\.5, and 0\.4 is allowed"):
        property_tests.close([1.0, 2.0], [1.0, 2.5], 0.4, "x")
    property_tests.close(np.zeros(0), np.zeros(0), 0, "nothing")


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (holds, {"text": "x", "points": 0}, "points"),
        (holds, {"text": "x", "points": NAN}, "points"),
        (property_tests.close, {"measured": 1, "expected": 1, "tolerance": -1, "what": ""}, "tol"),
        (property_tests.close, {"measured": 1, "expected": 1, "tolerance": NAN, "what": ""}, "tol"),
        (Double().run, {"function": 3, "seed": 0}, "function"),
        (Double().run, {"function": abs, "seed": -1}, "seed"),
        (Double().run, {"function": abs, "seed": 1.5}, "seed"),
        (Double().draw, {"seed": None}, "seed"),
    ],
)
def test_bad_input_is_refused_by_name(function, arguments, name):
    with pytest.raises(ValueError, match=f"^{name}.*must be"):
        function(**arguments)


def test_bounds_are_allowed_and_no_more():
    property_tests.at_most(2.0, 2.0, "x")
    property_tests.at_least(2.0, 2.0, "x")
    with pytest.raises(FailedError, match=r"x: 2\.5, and at most 2 is right"):
        property_tests.at_most(2.5, 2.0, "x")
    with pytest.raises(FailedError, match=r"x: 1\.5, and at least 2 is right"):
        property_tests.at_least(1.5, 2.0, "x")


def test_long_values_are_cut_and_short_ones_are_plain():
    assert len(property_tests.shown("x" * 10**6)) < 500
    assert len(property_tests.shown(np.zeros((90, 90)))) < 500
    assert property_tests.shown(0.1 + 0.2) == "0.3"
    assert property_tests.shown(np.array([1.0, 2.5])) == "[1. , 2.5]"
    report = Report("f", (Outcome("is", 0.0, 1.0, "no", {"a": 1}),), 1)
    assert str(report) == "f: 0 of 1 points\n[0/1] is: FAILS\n      no\n      at a = 1"


def test_a_task_without_instances_says_so():
    with pytest.raises(NotImplementedError):
        Task().instance(np.random.default_rng(0), 0)
