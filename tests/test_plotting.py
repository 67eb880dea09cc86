"""The figure style: colours that everybody can tell apart, and labels where they belong."""

import os
import subprocess
import sys
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from colours import contrast, in_dark_mode, lab, linear
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from dmflib import plotting
from dmflib.plotting import (
    COLORS,
    GREY,
    STYLE,
    ink,
    label_line,
    reference_slope,
    shades,
    use_style,
)


@pytest.fixture(autouse=True)
def clean_matplotlib():
    backend = mpl.get_backend()
    plt.switch_backend("agg")
    with mpl.rc_context():
        yield
    plt.close("all")
    plt.switch_backend(backend)


# Machado, Oliveira and Fernandes 2009, severity 1, for linear light
COLOR_BLIND = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
}
PAIRS = list(combinations(COLORS, 2))


def test_the_colour_science_itself():
    np.testing.assert_allclose(lab(linear("white")), [100, 0, 0], atol=0.01)
    np.testing.assert_allclose(lab(linear("red")), [53.24, 80.09, 67.20], atol=0.02)
    np.testing.assert_allclose(lab(linear("blue")), [32.30, 79.19, -107.86], atol=0.02)
    assert contrast("black", "white") == pytest.approx(21)
    assert contrast("#767676", "white") == pytest.approx(4.54, abs=0.005)
    np.testing.assert_allclose(in_dark_mode("white"), [0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(in_dark_mode("#808080"), to_rgb("#7f7f7f"), atol=1e-12)
    for matrix in COLOR_BLIND.values():  # greys stay grey
        np.testing.assert_allclose(np.sum(matrix, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", COLORS)
def test_colours_stand_out_from_the_page(name):
    assert contrast(COLORS[name], "white") >= 3
    assert contrast(in_dark_mode(COLORS[name]), "#14181e") >= 3


@pytest.mark.parametrize("key", ["axes.labelcolor", "text.color", "xtick.labelcolor", "grey"])
def test_text_is_readable(key):
    color = GREY if key == "grey" else STYLE[key]
    assert contrast(color, "white") >= 4.5
    assert contrast(in_dark_mode(color), "#14181e") >= 4.5


@pytest.mark.parametrize("pair", PAIRS)
def test_colours_differ_in_grey_print(pair):
    one, other = (lab(linear(COLORS[name]))[0] for name in pair)
    assert abs(one - other) >= 8


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("kind", COLOR_BLIND)
@pytest.mark.parametrize("page", [np.array, in_dark_mode], ids=["light", "dark"])
def test_colours_differ_for_colour_blind_readers(kind, pair, page):
    colors = [page(to_rgb(COLORS[name])) for name in pair]
    seen = [lab(np.clip(COLOR_BLIND[kind] @ linear(color), 0, 1)) for color in colors]
    assert np.linalg.norm(seen[0] - seen[1]) >= 12


def test_colours_are_ordered_from_dark_to_light():
    lightness = [lab(linear(color))[0] for color in COLORS.values()]
    assert lightness == sorted(lightness)


def hue(color):
    return np.degrees(np.arctan2(*lab(linear(color))[:0:-1])) % 360


def test_colours_are_what_they_are_called():
    # Hue angles in the a*b* plane.
    for name, low, high in (
        ("navy", 250, 310),
        ("purple", 310, 350),
        ("red", 20, 60),
        ("gold", 65, 95),
    ):
        assert low <= hue(COLORS[name]) <= high, name


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_shades_go_from_dark_to_light_and_stay_visible(count):
    colors = shades(count)
    assert len(colors) == count
    lightness = [lab(linear(color))[0] for color in colors]
    assert lightness == sorted(lightness)
    assert len(set(colors)) == count
    for color in colors:
        assert contrast(color, "white") >= 3
        assert contrast(in_dark_mode(color), "#14181e") >= 3


def test_ink_is_readable_and_keeps_the_hue():
    rng = np.random.default_rng(3)
    for color in [*COLORS.values(), *shades(9), "white", "yellow", "black", *rng.random((300, 3))]:
        text = ink(color)
        assert contrast(text, "white") >= 4.5
        if contrast(color, "white") >= 4.6:
            np.testing.assert_allclose(to_rgb(text), to_rgb(color), atol=0.5 / 255)
        else:  # no darker than it must be, and the parts of linear light in proportion
            assert contrast(text, "white") < 4.6
            np.testing.assert_allclose(
                linear(text) / linear(text).sum(), linear(color) / linear(color).sum(), atol=0.01
            )
    for color in [*COLORS.values(), *shades(9)]:
        assert contrast(in_dark_mode(ink(color)), "#14181e") >= 4.5
    with pytest.raises(ValueError, match="color must be a colour that matplotlib knows"):
        ink("golden")


# Style


def test_every_setting_is_known_to_matplotlib():
    assert set(STYLE) <= set(mpl.rcParams)


def test_use_style_sets_the_style_and_the_cycle():
    mpl.rcdefaults()
    use_style()
    for key, value in STYLE.items():
        expected = mpl.rcsetup._validators[key](value)
        assert mpl.rcParams[key] == expected, key
    assert mpl.rcParams["axes.prop_cycle"].by_key()["color"] == list(COLORS.values())
    figure, ax = plt.subplots()
    assert tuple(figure.get_size_inches()) == (plotting.WIDTH, plotting.HEIGHT)
    lines = [ax.plot([0, 1])[0] for _ in COLORS]
    assert [line.get_color() for line in lines] == list(COLORS.values())


@pytest.mark.parametrize("text_only", [True, False])
def test_notebooks_get_vectors_or_bitmaps(text_only):
    """In a shell of IPython, as a notebook's kernel is: which formats a figure is shown in."""
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "import matplotlib; matplotlib.use('agg')\n"
        "from dmflib.plotting import use_style; use_style()\n"
        "import matplotlib.pyplot as plt\n"
        "figure = plt.figure(); figure.add_subplot().plot([0, 1])\n"
        "data, _ = shell.display_formatter.format(figure)\n"
        "print(sorted(data))\n"
        "if 'image/svg+xml' in data:\n"
        "    import re\n"
        "    print(re.search(r'width=\"([\\d.]+)pt\"', data['image/svg+xml']).group(1))\n"
    )
    environment = os.environ | {"DMFLIB_TEXT_ONLY": "1" if text_only else "0"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    formats, *width = run.stdout.splitlines()
    if text_only:
        assert formats == "['image/png', 'text/plain']"
    else:
        assert formats == "['image/svg+xml', 'text/plain']"
        assert float(width[0]) == pytest.approx(72 * plotting.WIDTH)  # the whole figure, uncropped


def test_figures_are_the_same_bytes_again():
    import io

    use_style()
    files = []
    for _ in range(2):
        figure, ax = plt.subplots()
        ax.plot([0, 1], marker="o", clip_on=True)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        files.append(file.getvalue())
    assert files[0] == files[1]


# Labels


def on_page(ax, point):
    return ax.transData.transform(point)


def test_a_label_has_the_lines_colour_and_text():
    _, ax = plt.subplots()
    (line,) = ax.plot([0, 1, 2], [0, 1, 4], color=COLORS["red"], label="depth 3")
    label = label_line(line)
    assert (label.get_text(), label.get_color(), label.xy) == ("depth 3", COLORS["red"], (2, 4))
    other = label_line(line, "here", at=1.5, offset=(0, 7), color="black", fontsize=6)
    assert (other.get_text(), other.get_color(), other.get_fontsize()) == ("here", "black", 6)
    assert other.xy == (1.5, 2.5)
    ax.figure.canvas.draw()
    place = other.get_transform().transform(other.get_position())
    assert place - on_page(ax, other.xy) == pytest.approx([0, 7 * ax.figure.dpi / 72])


def test_gaps_and_order_do_not_matter():
    _, ax = plt.subplots()
    (line,) = ax.plot([3, 1, np.nan, 2, 0, 9], [6, 2, 5, 4, 0, np.nan])
    assert label_line(line, "x").xy == (0, 0)
    assert label_line(line, "x", at=2.5).xy == (2.5, 5)


@pytest.mark.parametrize(
    "scales", [("log", "log"), ("linear", "log"), ("log", "linear"), ("symlog", "linear")]
)
def test_a_label_between_points_lies_on_the_line_as_drawn(scales):
    _, ax = plt.subplots()
    ax.set(xscale=scales[0], yscale=scales[1])
    (line,) = ax.plot([1, 1e4], [1, 1e-8])
    label = label_line(line, "x", at=30)
    ax.figure.canvas.draw()
    start, end, here = (on_page(ax, p) for p in ((1, 1), (1e4, 1e-8), label.xy))
    part = (here[0] - start[0]) / (end[0] - start[0])
    assert here[1] == pytest.approx(start[1] + part * (end[1] - start[1]))


def test_points_that_a_logarithmic_axis_cannot_show_are_passed_over():
    _, ax = plt.subplots()
    (line,) = ax.plot([0, 1, 2, 3], [5.0, 1.0, 0.1, 0.0])
    assert label_line(line, "x").xy == (3, 0)
    ax.set_yscale("log")
    assert label_line(line, "x").xy == (2, 0.1)
    with pytest.raises(ValueError, match="at must be"):
        label_line(line, "x", at=2.5)
    ax.set_xscale("log")
    with pytest.raises(ValueError, match="at must be"):
        label_line(line, "x", at=0.5)


def test_a_line_without_a_visible_point():
    _, ax = plt.subplots()
    for data in ([], [np.nan, np.inf]):
        (line,) = ax.plot(data, data)
        with pytest.raises(ValueError, match="line must be a line with at least one point"):
            label_line(line, "x")
    with pytest.raises(ValueError, match="line must be a line that stands in axes"):
        label_line(Line2D([0, 1], [0, 1]), "x")


@pytest.mark.parametrize("slope", [-2, 0, 1, 0.5])
@pytest.mark.parametrize("width", [100, 0.01])
def test_a_reference_line_has_its_slope(slope, width):
    _, ax = plt.subplots()
    ax.set(xscale="log", yscale="log")
    line = reference_slope(ax, (2, 3), slope, width, "slope", color=COLORS["navy"])
    x, y = line.get_data()
    assert (x[0], y[0], line.get_color()) == (2, 3, COLORS["navy"])
    assert x[1] / x[0] == pytest.approx(width)
    assert np.log(y[1] / y[0]) / np.log(x[1] / x[0]) == pytest.approx(slope)
    (label,) = ax.texts
    assert (label.get_text(), label.xy) == ("slope", (x[1], y[1]))
    reference_slope(ax, (2, 3), slope, width)
    assert len(ax.texts) == 1  # no text, no label


def test_a_reference_line_needs_logarithmic_axes():
    _, ax = plt.subplots()
    ax.set_xscale("log")
    with pytest.raises(ValueError, match="ax must be axes with two logarithmic scales"):
        reference_slope(ax, (1, 1), 1, 10)
