"""Reads the lines of an explorer back from its SVG, as a reader's eye would: by colour and ruler.

A drawing function under test calls `ruler`. The ruler's points are known, so the map from data to
the page is found by least squares, without a look at how the explorer chose it.
"""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np

RULER_COLOR = "#abcdef"
RULER = np.random.default_rng(5).uniform(0.05, 0.95, (60, 2))
UNITS = 10  # per point


def ruler(ax, corner=(0, 0), size=(1, 1)):
    """Draw the ruler between `corner` and `corner + size`, decades on logarithmic axes."""
    x, y = (np.asarray(corner) + RULER * size).T
    x = 10**x if ax.get_xscale() == "log" else x
    y = 10**y if ax.get_yscale() == "log" else y
    ax.plot(x, y, color=RULER_COLOR, linewidth=0.5)


def points(data):
    """The vertices of an SVG path of straight parts, in the path's units."""
    found = []
    for letter, text in re.findall(r"([a-zA-Z])([^a-zA-Z]*)", data):
        numbers = np.array(re.findall(r"-?\d+", text), dtype=float).reshape(-1, 2)
        if letter == "M":
            found.extend(numbers)
        elif letter == "l":
            found.extend(found[-1] + np.cumsum(numbers, axis=0))
        else:
            assert letter == "z", letter
    return np.array(found)


def lines(svg):
    """Map each stroke colour in an SVG text to the vertices of its lines."""
    found = {}
    for group in ET.fromstring(svg).iter():
        color = group.get("stroke")
        for path in group if color else ():
            if path.tag.endswith("path"):
                found.setdefault(color, []).append(points(path.get("d")))
    return found


def in_ruler(svg, color):
    """Vertices of the one line of a colour, in the ruler's coordinates, and points per unit."""
    drawn = lines(svg)
    (marks,), (line,) = drawn[RULER_COLOR], drawn[color]
    assert len(marks) == len(RULER)
    result, scale = np.empty_like(line), np.empty(2)
    for k in range(2):
        (slope, shift), *_ = np.linalg.lstsq(
            np.column_stack([RULER[:, k], np.ones(len(RULER))]), marks[:, k], rcond=None
        )
        assert abs(slope * RULER[:, k] + shift - marks[:, k]).max() < 1  # the map is affine
        result[:, k] = (line[:, k] - shift) / slope
        scale[k] = abs(slope) / UNITS
    return result, scale


def distance(cloud, line):
    """Largest distance of the points of `cloud` from a polyline."""
    start, step = line[:-1], np.diff(line, axis=0)
    length = (step**2).sum(axis=1)
    keep = length > 0
    start, step, length = start[keep], step[keep], length[keep]
    along = np.einsum("nik,ik->ni", cloud[:, None] - start, step) / length
    nearest = start + np.clip(along, 0, 1)[..., None] * step
    return np.sqrt(((cloud[:, None] - nearest) ** 2).sum(axis=-1)).min(axis=1).max()


def assert_shows(svg, color, x, y, corner=(0, 0), size=(1, 1), log=(False, False)):
    """The line of a colour is the given data, to a tenth of a point in both directions."""
    drawn, scale = in_ruler(svg, color)
    data = np.column_stack([x, y]).astype(float)
    for k in range(2):
        data[:, k] = np.log10(data[:, k]) if log[k] else data[:, k]
    data = (data - corner) / size
    assert distance(drawn * scale, data * scale) < 0.1
    assert distance(data * scale, drawn * scale) < 0.1


def data_of(page):
    """The frames that an explorer's HTML carries."""
    return json.loads(re.search(r"<script[^>]*json'>(.*?)</script>", page, re.S)[1])


def static_svg(page):
    return re.search(r"<svg.*?</svg>", page, re.S)[0]


def look_up(data, table, at):
    index = 0
    for axis in table["axes"]:
        index = index * len(data["texts"][axis]) + at[axis]
    return table["entries"][index]


def name_of(page):
    """The name that makes an explorer's identifiers unique."""
    return re.search(r"<figure class='dmf-explorer' id='(\w+)'", page)[1]


def frame(page, at):
    """The complete SVG at the given positions of the sliders, put together from the page."""
    data, name = data_of(page), name_of(page)
    root = ET.fromstring(static_svg(page).replace(" xmlns='http://www.w3.org/2000/svg'", ""))
    for slot in root.iter():
        number = slot.get("data-slot")
        if number is not None:
            fragment = data["fragments"][look_up(data, data["slots"][int(number)], at)]
            slot[:] = ET.fromstring(f"<g>{fragment.replace('#_', f'#{name}-')}</g>")
    return ET.tostring(root, encoding="unicode")
