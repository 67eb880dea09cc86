"""One table of bad input for the public names of the ground floors.

Each case raises a ValueError whose message names the argument and says what it must be. The
modules above (`flow`, `least_squares`, `explore`, one module for each result) have a table of
the same form in their own test files.
"""

import inspect

import numpy as np
import pytest

from dmflib import descent, linear_networks, losses, matrices, plotting, stopping, trajectory

I2 = np.eye(2)
NAN, INF = np.full((2, 2), np.nan), np.full((2, 2), np.inf)
CUBE = np.ones((2, 2, 2))
HUGE = 1e300 * np.ones((2, 2, 2))
RAGGED = [[1.0], [2.0, 3.0]]
LOSS = losses.FullObservation(I2)
STOP = stopping.MaxSteps(1)

# What is no finite stack of matrices, no finite matrix, no positive number, no count from 1 or 0.
NOT_MATRICES = [
    NAN, INF, [1.0, 2.0], 3.0, np.ones((0, 2)), RAGGED, "ab", None, 1j * I2, ...
]  # fmt: skip
NOT_A_MATRIX = [*NOT_MATRICES, CUBE]
NOT_POSITIVE = [0, -1.0, np.nan, np.inf, "1", None, 1j, [1.0], True]
NEGATIVE = [-1.0, -1e-300, np.nan, np.inf, -np.inf, "1", None, [1.0]]
NOT_A_COUNT = [0, -1, 1.5, 2.0, np.nan, "2", None, [2], True]
NEGATIVE_COUNT = [-1, 1.5, np.nan, "2", None, [2], False]
UNKNOWN = ["unknown", "", None, 1, ["entropy"]]
NOT_A_COLOR = [
    None, 3, True, "", "goldd", "#12345", [], [0.5, 0.5], [0.1, 0.2, 1.5], [np.nan, 0, 0], I2, CUBE,
    1j, [1j, 0, 0], ["0", "0", "0"],
]  # fmt: skip
NOT_FACTORS = [
    [], None, 3, "ab", I2, [NAN], [-INF], [I2, [1.0, 2.0]], [CUBE], [np.ones((2, 0))],
    [np.ones((3, 2)), I2], [I2, "W"], [I2, None], [1j * I2],
]  # fmt: skip
NOT_RULES = [None, 3, "MaxSteps(3)", stopping.MaxSteps, [STOP]]


def cases(function, good, /, **bad):
    """For each named argument every bad value, beside good values of the others."""
    for name, values in bad.items():
        for value in values:
            yield function, {**good, name: value}, name


class Axes:
    """Stands for fresh axes (or a line in them), since figures are made only in the test."""

    def __init__(self, scale, line=False):
        self.scale, self.line = scale, line

    def make(self):
        from matplotlib.figure import Figure

        ax = Figure().add_subplot(xscale=self.scale, yscale=self.scale)
        return ax.plot([1, 2], [1, 2])[0] if self.line else ax


#: (callable, arguments, the argument that the message must name)
CASES = [
    # matrices
    *(
        case
        for function in (
            matrices.singular_values,
            matrices.frobenius_norm,
            matrices.nuclear_norm,
            matrices.spectral_norm,
            matrices.effective_rank,
        )
        for case in cases(function, {}, W=NOT_MATRICES)
    ),
    *cases(
        matrices.schatten_norm,
        {"W": I2, "p": 1},
        W=NOT_MATRICES,
        p=[0, -1, np.nan, -np.inf, "1", None, np.array([1, 2]), 1j],
    ),
    *cases(matrices.effective_rank, {"W": I2}, W=[0 * I2, [I2, 0 * I2]], kind=UNKNOWN),
    *cases(
        matrices.effective_rank_of_spectrum,
        {"sigma": [1.0]},
        sigma=[[], [np.nan], [np.inf], 1.0, [0.0], [[1.0], [0.0]], "a", None, [1j]],
        kind=UNKNOWN,
    ),
    *cases(matrices.distance_to_rank, {"W": I2, "r": 1}, W=NOT_MATRICES, r=NEGATIVE_COUNT),
    *cases(
        matrices.psd_power,
        {"A": I2, "exponent": 1},
        A=[*NOT_MATRICES, np.ones((2, 3)), [[1, 2], [0, 1]], -I2, [I2, -I2]],
        exponent=[np.nan, np.inf, "1", None, [1.0]],
    ),
    *cases(matrices.psd_power, {"A": 0 * I2, "exponent": 1}, exponent=[-1, -0.5]),
    # losses
    *cases(losses.FullObservation, {}, target=NOT_A_MATRIX),
    *cases(
        losses.Completion,
        {"target": I2, "mask": I2 > 0},
        target=[RAGGED, "ab", None, 1j * I2, 3.0, [1.0, 2.0], CUBE, NAN, INF],
        mask=[[True, False], np.ones((3, 2)), 0 * I2, -I2, NAN, 0.5 * I2, "ab", None, RAGGED, CUBE],
    ),
    *cases(losses.Completion, {"target": np.ones((0, 2))}, mask=[np.ones((0, 2), dtype=bool)]),
    *cases(
        losses.Sensing,
        {"operators": CUBE, "measurements": [1, 2]},
        operators=[
            I2,
            NAN[None],
            np.ones((0, 2, 2)),
            np.ones((2, 0, 2)),
            [RAGGED],
            None,
            1j * CUBE,
        ],
        measurements=[[1], [1, 2, 3], [1, np.nan], 3.0, I2, None, "ab", []],
    ),
    *cases(
        losses.Regression,
        {"inputs": np.ones((3, 4)), "outputs": np.ones((2, 4))},
        inputs=NOT_A_MATRIX,
        outputs=[*NOT_A_MATRIX, np.ones((2, 3))],
    ),
    *(
        case
        for loss in (
            LOSS,
            losses.Completion(I2, I2 > 0),
            losses.Sensing(CUBE, [1, 2]),
            losses.Regression(I2, I2),
        )
        for method in (loss.value, loss.gradient)
        for case in cases(method, {}, W=[*NOT_A_MATRIX, np.ones((2, 3)), np.ones((3, 2))])
    ),
    *cases(losses.check_loss, {"shape": (2, 2)}, loss=[None, 3, I2, losses.FullObservation([[1]])]),
    # linear_networks
    *cases(linear_networks.check_factors, {}, factors=NOT_FACTORS),
    *cases(linear_networks.product, {}, factors=NOT_FACTORS),
    *cases(linear_networks.imbalance, {}, factors=NOT_FACTORS),
    *cases(linear_networks.balance_defects, {}, factors=NOT_FACTORS),
    *cases(
        linear_networks.factor_gradients,
        {"factors": [I2, I2], "gradient": I2},
        factors=NOT_FACTORS,
        gradient=[*NOT_A_MATRIX, np.ones((2, 3))],
    ),
    *cases(
        linear_networks.identical,
        {"n": 2, "depth": 3, "scale": 0.1},
        n=NOT_A_COUNT,
        depth=NOT_A_COUNT,
        scale=NOT_POSITIVE,
    ),
    *cases(
        linear_networks.perturbed,
        {"n": 2, "depth": 3, "scale": 0.1, "perturbation": 0.05},
        n=NOT_A_COUNT,
        depth=NOT_A_COUNT,
        scale=NOT_POSITIVE,
        perturbation=[*NOT_POSITIVE, 0.1, 0.2],
    ),
    *cases(
        linear_networks.gaussian,
        {"widths": [2, 2], "scale": 0.1, "rng": 0},
        widths=[[], [2], 2, None, "ab", [2, 0], [2, -1], [2, 1.5], [2, np.nan], [[2, 2], [2, 2]]],
        scale=NOT_POSITIVE,
        rng=[-1, 1.5, "seed", ...],
    ),
    *cases(linear_networks.balanced, {"W0": I2, "depth": 2}, W0=NOT_A_MATRIX, depth=NOT_A_COUNT),
    *cases(
        linear_networks.tilted,
        {"factors": [I2, I2], "ratio": 2.0},
        factors=[*NOT_FACTORS, [I2]],
        ratio=NOT_POSITIVE,
    ),
    *cases(
        linear_networks.product_velocity,
        {"W": I2, "gradient": I2, "depth": 2},
        W=NOT_A_MATRIX,
        gradient=[*NOT_A_MATRIX, np.ones((2, 3))],
        depth=NOT_A_COUNT,
    ),
    *cases(linear_networks.sharpness, {}, factors=NOT_FACTORS),
    # stopping
    *cases(stopping.MaxSteps, {}, steps=NEGATIVE_COUNT),
    *cases(stopping.LossBelow, {}, threshold=NEGATIVE),
    *cases(stopping.GradientBelow, {}, threshold=NEGATIVE),
    *cases(
        stopping.RankPlateaus,
        {"count": 1, "length": 10},
        count=NOT_A_COUNT,
        length=NOT_POSITIVE,
        tolerance=NOT_POSITIVE,
        kind=UNKNOWN,
        every=NOT_A_COUNT,
    ),
    *(
        case
        for combination in (stopping.AnyOf, stopping.AllOf)
        for case in cases(combination, {}, rules=[None, 3, (), [STOP], (STOP, 3), (None,), "ab"])
    ),
    *(
        (method, {"other": bad}, "stop")
        for method in (STOP.__or__, STOP.__and__)
        for bad in NOT_RULES
    ),
    *cases(stopping.check_rule, {"name": "rule"}, rule=NOT_RULES),
    # trajectory
    *cases(trajectory.Recorder, {}, keep=["all", ["products", "all"], None, 3, [None], [3], ""]),
    *cases(trajectory.schedule, {}, record=[0, -1, 1.5, None, "2", [], [-1], [0.5], [[1], [1, 2]]]),
    *cases(
        trajectory.recorded_steps,
        {"record": 1, "steps": 5},
        record=[0, -1, 1.5, None, "2", [], [-1], [0.5]],
        steps=[-1, 1.5, None, "2"],
    ),
    *cases(
        trajectory.Trajectory([0], [1.0], {"products": I2[None]}, STOP, None, 1).effective_rank,
        {},
        kind=UNKNOWN,
    ),
    # descent
    *cases(
        descent.gradient_descent,
        {"loss": LOSS, "factors": [I2, I2], "step_size": 0.1, "stop": STOP},
        loss=[None, 3, I2, losses.FullObservation(np.ones((2, 3))), "loss"],
        factors=[*NOT_FACTORS, HUGE],
        step_size=NOT_POSITIVE,
        stop=NOT_RULES,
        record=[
            0,
            -1,
            1.5,
            np.nan,
            "1",
            None,
            True,
            [],
            [-1],
            [0.5],
            [[1, 2]],
            RAGGED,
            ["a"],
            {1, 2},
        ],
        keep=["all", None, 3, ["products", "all"]],
    ),
    # plotting
    *cases(plotting.shades, {}, count=NOT_A_COUNT),
    *cases(plotting.ink, {}, color=NOT_A_COLOR),
    *cases(
        plotting.label_line,
        {"line": Axes("linear", line=True), "text": "x"},
        line=[None, 3, "line", Axes("linear")],
        at=[0.5, 2.5, np.nan, np.inf, "1", [1.0]],
        offset=[None, 3, (1,), (1, 2, 3), (np.nan, 0), "ab", (None, None)],
    ),
    *cases(
        plotting.reference_slope,
        {"ax": Axes("log"), "start": (1, 1), "slope": 1, "width": 10},
        ax=[None, 3, "ax", Axes("linear")],
        start=[None, 3, (1,), (1, 2, 3), (0, 1), (1, -1), (np.nan, 1), (1, np.inf), "ab"],
        slope=[np.nan, np.inf, None, "1", [1]],
        width=[*NOT_POSITIVE, 1],
    ),
    *cases(
        plotting.reference_slope,
        {"ax": Axes("log"), "start": (1, 1), "slope": 300},
        width=[1e3, 1e-3],
    ),
]

MODULES = (matrices, losses, linear_networks, stopping, trajectory, descent, plotting)

#: Public names that check nothing, and why.
WITHOUT_CHECKS = {
    "use_style": "takes no argument",
    "Loss": "base class without a constructor",
    "StoppingRule": "base class without a constructor",
    "Backpropagation": "inner loop of the movers, which check before it",
    "views": "inner loop of the movers, which check before it",
    "State": "made by the movers",
    "Diverged": "made by the movers",
    "Interrupted": "made by the movers",
    "TimeReached": "made by the movers",
    "Trajectory": "made by the movers",
    "Ranked": "base class without a constructor",
    "DivergenceWarning": "a warning",
    "InterruptionWarning": "a warning",
    "warn_ended": "called by the movers with what they made",
}


def describe(case):
    function, arguments, name = case
    value = " ".join(repr(arguments.get(name, arguments.get("other"))).split())
    return f"{getattr(function, '__qualname__', function)}-{name}-{value[:30]}"


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_bad_input_is_refused_by_name(case):
    function, arguments, name = case
    arguments = {
        key: value.make() if isinstance(value, Axes) else value for key, value in arguments.items()
    }
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        function(**arguments)
    message = str(caught.value)
    assert name in message.split(":")[0]
    assert "must be" in message or "must have" in message
    assert len(message) < 400


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_table(module):
    public = {
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(thing) or inspect.isclass(thing))
        and thing.__module__ == module.__name__
    }
    tested = {getattr(function, "__name__", "") for function, _, _ in CASES}
    assert public - tested - set(WITHOUT_CHECKS) == set()
    assert not tested & set(WITHOUT_CHECKS)


@pytest.mark.parametrize(
    "function", sorted({f for f, *_ in CASES if inspect.isfunction(f)}, key=lambda f: f.__name__)
)
def test_every_checked_argument_is_in_the_table(function):
    tested = {name for other, _, name in CASES if other is function}
    free = {
        "text",
        "style",
        "progress",
        "shape",
        "name",
    }  # any string, any truth value, set by the caller
    assert set(inspect.signature(function).parameters) - free == tested
