"""The frames an explorer stores are the figure that its drawing function draws."""

import itertools
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from explore_reading import assert_shows, data_of, frame, look_up, name_of, ruler, static_svg

from dmflib.explore import MAX_BYTES, explore

DEPTHS, SCALES = [2, 3, 4], [0.05, 0.1]
RED, BLUE = "#aa0000", "#0000aa"
T = np.linspace(0, 1, 200)


def curve(depth, scale):
    return np.sin(depth * T) * (1 - scale)


def draw(ax, depth, scale):
    ruler(ax)
    ax.plot(T, curve(depth, scale), color=RED)
    ax.plot(T, 0.2 * T, color=BLUE)
    ax.set(xlabel="time", ylabel="value", title=rf"depth {depth}, $\sigma$ = {scale}")
    return f"Depth {depth} ends at {curve(depth, scale)[-1]:.3f}."


def make(**changes):
    arguments = {"alt": "A curve rises.", "depth": DEPTHS, "scale": SCALES} | changes
    return explore(arguments.pop("draw", draw), **arguments)


@pytest.fixture(scope="module")
def explorer():
    return make(caption="A caption with <angles> & ampersands.")


def test_every_frame_shows_what_draw_computed(explorer):
    for i, j in itertools.product(range(3), range(2)):
        svg = frame(explorer.html, (i, j))
        assert_shows(svg, RED, T, curve(DEPTHS[i], SCALES[j]))
        assert_shows(svg, BLUE, T, 0.2 * T)


def test_the_static_figure_is_the_default_frame(explorer):
    svg = static_svg(explorer.html)
    assert_shows(svg, RED, T, curve(3, 0.05))  # the lower of two middles
    ids = re.findall(r"data-slot='(\d+)'", svg)
    assert ids == [str(i) for i in range(len(ids))]
    assert "Depth 3 ends at" in explorer.html.split("<script")[0]


def test_start_chooses_the_static_figure():
    page = make(start={"depth": 4, "scale": 0.1}).html
    assert_shows(static_svg(page), RED, T, curve(4, 0.1))
    assert ">Depth 4 ends at" in page
    assert "value='2'" in page


def test_only_what_changes_is_stored(explorer):
    data = data_of(explorer.html)
    assert len(data["slots"]) == 2  # the red curve and the title
    assert all(slot["axes"] == [0, 1] for slot in data["slots"])
    assert BLUE not in "".join(data["fragments"])

    def depth_alone(ax, depth, scale):
        ax.plot(T, T**depth)
        ax.axhline(scale)

    data = data_of(make(draw=depth_alone).html)
    assert [slot["axes"] for slot in data["slots"]] == [[0], [1]]
    assert len(data["fragments"]) == 1 + 3 + 2


def test_logarithmic_axes_are_shared_by_all_frames():
    sizes = [1, 2, 3]

    def power(rate):
        return 10 ** (-rate * np.linspace(0, 2, 100))

    def draw(ax, rate):
        ax.set(xscale="log", yscale="log")
        ruler(ax, (-1, -6), (2, 6))
        ax.plot(np.logspace(-1, 1, 100), power(rate), color=RED)

    page = explore(draw, alt="Powers.", rate=sizes).html
    for i, rate in enumerate(sizes):
        svg = frame(page, (i,))
        x = np.logspace(-1, 1, 100)
        assert_shows(svg, RED, x, power(rate), (-1, -6), (2, 6), (True, True))


def test_limits_are_the_union_of_the_frames():
    def draw(ax, shift):
        ax.margins(0)
        ruler(ax)
        ax.plot([shift, shift + 1], [0, 1], color=RED)

    page = explore(draw, alt="A line.", shift=[-3, 0, 5]).html
    box = re.search(r"<clipPath[^>]*><rect x='(\d+)' y='(\d+)' width='(\d+)'", page)
    left, width = int(box[1]), int(box[3])
    for i, shift in enumerate([-3, 0, 5]):
        svg = frame(page, (i,))
        assert_shows(svg, RED, [shift, shift + 1], [0, 1])
        start = int(re.search(rf"stroke='{RED}'.*?<path d='M(\d+)", svg.replace('"', "'"))[1])
        assert start == pytest.approx(left + width * (shift + 3) / 9, abs=1)


def test_gaps_and_points_outside_are_drawn_as_gaps():
    def draw(ax, gap):
        y = T.copy()
        y[gap : gap + 5] = np.nan
        ax.plot(T, y, color=RED)
        ax.set_ylim(0, 0.5)

    svg = frame(explore(draw, alt="A broken line.", gap=[20, 50]).html, (1,))
    (path,) = re.findall(rf'stroke="{RED}".*?<[^>]*path d="([^"]*)"', svg)
    assert path.count("M") == 2
    assert "nan" not in svg.lower()
    assert "inf" not in re.sub("<defs>.*</defs>", "", svg)


def test_inverted_axes_and_equal_aspect():
    def draw(ax, radius):
        ax.set_aspect("equal")
        ruler(ax, (-1, -1), (2, 2))
        angle = np.linspace(0, 2 * np.pi, 300)
        ax.plot(radius * np.cos(angle), radius * np.sin(angle), color=RED)
        ax.invert_yaxis()

    page = explore(draw, alt="A circle.", radius=[0.5, 1.0]).html
    angle = np.linspace(0, 2 * np.pi, 300)
    for i, radius in enumerate([0.5, 1.0]):
        svg = frame(page, (i,))
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        assert_shows(svg, RED, x, y, (-1, -1), (2, 2))
        path = re.search(rf'stroke="{RED}".*?path d="M(\d+) (\d+)l([^z"]*)', svg)
        steps = np.array(re.findall(r"-?\d+", path[3]), dtype=int).reshape(-1, 2)
        extent = np.ptp(np.cumsum(steps, axis=0), axis=0)
        assert abs(extent[0] - extent[1]) <= 3  # round on the page
        assert steps[0, 1] > 0  # y grows downwards


def test_axes_switched_off_draw_nothing_themselves():
    def draw(ax, radius):
        ax.set_facecolor("#123456")
        ax.plot([0, radius], [0, 1], color=RED)
        ax.axis("off")

    svg = static_svg(explore(draw, alt="A line.", radius=[1, 2]).html)
    assert "#123456" not in svg
    assert svg.count("<path d=") == 1


def test_numbers_of_artists_may_differ():
    def draw(ax, depth):
        for k in range(depth):
            ax.plot(T, T ** (k + 1), color=f"#00000{k + 1}")
        ax.text(0.5, 0.5, f"{depth} lines")

    page = explore(draw, alt="Some lines.", depth=[1, 3]).html
    assert frame(page, (0,)).count('stroke="#00000') == 1
    assert frame(page, (1,)).count('stroke="#00000') == 3


def everything(axes, n):
    """One of each kind of artist."""
    upper, lower = axes
    rng = np.random.default_rng(n)
    upper.plot(T, T**n, "o-", markevery=20, label="points")
    upper.fill_between(T, 0, T**n, alpha=0.3)
    upper.scatter(rng.uniform(size=20), rng.uniform(size=20), c=rng.uniform(size=20))
    upper.bar([0.2, 0.5], [0.5, 0.1 * n], width=0.1, hatch="//", facecolor="none", edgecolor="k")
    upper.legend(loc="upper left")
    upper.annotate(f"n = {n}", (0.5, 0.5), (0.6, 0.7), arrowprops={"arrowstyle": "->"})
    image = lower.imshow(rng.uniform(size=(4, 6)), vmin=0, vmax=1, aspect="auto")
    lower.contour(np.add.outer(np.arange(4), n * np.arange(6)), levels=[3])
    lower.figure.colorbar(image, ax=lower)
    lower.axvline(n, linestyle="--")
    upper.set_title(f"all of it, n = {n}", loc="left")
    lower.figure.suptitle(f"Case {n}")


def test_all_kinds_of_artists_are_drawn_under_a_strict_policy():
    page = explore(everything, alt="Everything.", subplots={"nrows": 2}, n=[1, 2, 3]).html
    for i in range(3):
        svg = frame(page, (i,))
        for mark in ("pattern", "image", "fill-opacity", "stroke-dasharray", "clip-path"):
            assert mark in svg
    assert not re.search(r"\s(style|on\w+)\s*=", page)  # the policy forbids both
    titles = [look_up(data_of(page), data_of(page)["alt"], (i,)) for i in range(3)]
    assert titles[2] == "Everything. Case 3. all of it, n = 3."


def test_every_reference_is_defined_once_and_two_explorers_share_none(explorer):
    other = explore(lambda ax, a, b: draw(ax, a, b), alt="x", a=DEPTHS, b=SCALES)
    ids = []
    for page in (explorer.html, other.html):
        own = re.findall(r"\sid='([^']*)'", page)
        assert len(own) == len(set(own))
        ids.append(set(own))
        name = name_of(page)
        used = set(re.findall(r"#([\w-]+)", page.split("<script")[0]))
        used -= {u for u in used if re.fullmatch(r"[0-9a-f]{6}", u)}
        stored = "".join(data_of(page)["fragments"])
        used |= {f"{name}-{u}" for u in re.findall(r"#_([0-9a-f]+)", stored)}
        assert used
        assert used <= ids[-1]
    assert ids[0].isdisjoint(ids[1])


def test_the_same_call_gives_the_same_bytes(explorer):
    again = make(caption="A caption with <angles> & ampersands.")
    assert again.html == explorer.html
    code = "import test_explore as t; print(t.make().html)"
    printed = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=os.path.dirname(__file__),
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1] == make().html


def test_text_that_depends_on_the_parameters(explorer):
    data = data_of(explorer.html)
    for i, j in itertools.product(range(3), range(2)):
        sentence = look_up(data, data["sentence"], (i, j))
        assert sentence == f"Depth {DEPTHS[i]} ends at {curve(DEPTHS[i], SCALES[j])[-1]:.3f}."
        alt = look_up(data, data["alt"], (i, j))
        assert alt == f"A curve rises. depth {DEPTHS[i]}, sigma = {SCALES[j]}."
    titles = {frame(explorer.html, at) for at in itertools.product(range(3), range(2))}
    assert len(titles) == 6


def test_a_title_that_appears_later_has_room():
    def titled(ax, lines):
        ax.plot([0, 1], [0, 1])
        ax.set_title("\n".join("word" for _ in range(lines)))

    def top(page):
        return int(re.search(r"<clipPath[^>]*><rect x='\d+' y='(\d+)'", page)[1])

    empty = explore(titled, alt="A line.", lines=[0]).html
    later = explore(titled, alt="A line.", lines=[0, 3], start={"lines": 0}).html
    assert top(later) > top(empty) + 3 * 95
    assert "word" not in static_svg(later).split("aria-label='")[1].split("'")[0]


def test_html_is_escaped(explorer):
    assert "&lt;angles&gt; &amp; ampersands" in explorer.html

    def hostile(ax, word):
        ax.set_title(word)
        return word

    words = ["</script><b>", "<!--<script>", "'\"&"]
    page = explore(hostile, alt="<i>'", labels={"word": "<u>"}, word=words).html
    assert page.count("</script>") == 1
    for tag in ("<b>", "<i>", "<u>", "<!--"):
        assert tag not in page.split("<script")[0]
    assert "<!--" not in page
    data = data_of(page)
    assert [look_up(data, data["sentence"], (i,)) for i in range(3)] == words
    markup = re.sub(r"<input([^>]*)>", r"<input\1/>", page.split("<script")[0])
    ET.fromstring(markup.replace(" hidden", " hidden=''") + "</figure>")  # well formed


def test_strings_labels_and_formats():
    page = explore(
        lambda ax, method, rate: ax.set_title(f"{method} {rate}") and None,
        alt="A line.",
        method=["flow", "descent"],
        rate=np.array([0.123, 0.5]),
        labels={"rate": "Rate η"},
        formats={"rate": "{:.2f} s", "method": str.title},
        start={"method": "descent"},
    ).html
    data = data_of(page)
    assert data["labels"] == ["method", "Rate η"]
    assert data["texts"] == [["Flow", "Descent"], ["0.12 s", "0.50 s"]]
    assert "aria-valuetext='method = Descent'" in page
    assert "aria-valuetext='Rate η = 0.12 s'" in page


def test_values_reach_draw_as_python_values():
    seen = []
    explore(lambda ax, a, b: seen.append((a, b)), alt="x", a=np.arange(2), b=np.array([0.5]))
    assert seen[-2:] == [(0, 0.5), (1, 0.5)]
    assert {type(v) for pair in seen for v in pair} == {int, float}


def test_text_form_is_short_and_stable(explorer):
    assert repr(explorer) == "Explorer(depth=[2, 3, 4], scale=[0.05, 0.1])"
    many = make(depth=range(1, 11), scale=["a"], draw=lambda ax, depth, scale: None)
    assert repr(many) == "Explorer(depth=[1, 2, 3, ..., 10], scale=['a'])"


def test_mime_bundle(explorer, monkeypatch):
    monkeypatch.delenv("DMFLIB_TEXT_ONLY", raising=False)
    bundle = explorer._repr_mimebundle_()
    assert bundle == {"text/plain": repr(explorer), "text/html": explorer.html}
    monkeypatch.setenv("DMFLIB_TEXT_ONLY", "1")
    assert explorer._repr_mimebundle_() == {"text/plain": repr(explorer)}
    monkeypatch.setattr("dmflib.explore._kernel_is_running", lambda: True)
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "application/vnd.jupyter.widget-view+json"}


def test_sliders_in_a_kernel_call_draw():
    box = make().widget()
    figure, depth, scale, sentence = box.children
    assert (depth.description, depth.value, scale.value) == ("depth", 3, 0.05)
    for d, s in itertools.product(DEPTHS, SCALES):
        depth.value, scale.value = d, s
        assert_shows(figure.value, RED, T, curve(d, s))
        assert f"Depth {d} ends at {curve(d, s)[-1]:.3f}." in sentence.value


def test_live_and_published_frames_agree():
    explorer = explore(everything, alt="Everything.", subplots={"nrows": 2}, n=[1, 2, 3])
    figure, slider, _ = explorer.widget().children

    def drawing(svg):
        """All groups that draw, with every reference replaced by what it refers to."""
        root = ET.fromstring(re.sub(" xmlns='[^']*'", "", svg))
        text = {e.get("id"): dict(e.items()) for e in root.iter() if e.get("id")}
        inside = {e.get("id"): [dict(c.items()) for c in e] for e in root.iter() if e.get("id")}
        _, canvas = root
        groups = []
        for group in canvas:
            groups += list(group) if group.get("data-slot") else [group]
        return [
            [
                {
                    key: [
                        {k: v for k, v in text[name].items() if k != "id"} | {"in": inside[name]}
                        for name in re.findall(r"#(x[0-9a-f]+-[0-9a-f]+)", value)
                    ]
                    or value
                    for key, value in element.items()
                }
                for element in group.iter()
            ]
            for group in groups
        ]

    for i, n in enumerate([1, 2, 3]):
        slider.value = n
        assert drawing(figure.value) == drawing(frame(explorer.html, (i,)))


def test_errors_of_draw_are_shown_in_a_kernel():
    working = True

    def fragile(ax, depth):
        if not working:
            raise RuntimeError("lost <sign>")
        ax.plot([0, depth], [0, 1])

    figure, slider, _ = explore(fragile, alt="A line.", depth=[1, 2]).widget().children
    working = False
    slider.value = 2
    assert "RuntimeError: lost &lt;sign&gt;" in figure.value
    assert "depth=2" in figure.value
    working = True
    slider.value = 1
    assert figure.value.startswith("<svg")


def test_errors_of_draw_name_the_frame():
    def fails(ax, depth):
        return 1 / (depth - 2)

    with pytest.raises(ZeroDivisionError) as caught:
        explore(fails, alt="x", depth=[2, 3])
    assert "depth=2" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draw": "plot"}, "draw='plot': draw must be a function"),
        ({"alt": " "}, "alt=' ': alt must be a sentence"),
        ({"alt": None}, "alt=None"),
        ({"caption": 3}, "caption=3"),
        ({"depth": []}, r"depth=\[\]: depth must be a non-empty list"),
        ({"depth": 3}, "depth=3: depth must be"),
        ({"depth": "flow"}, "depth='flow': depth must be"),
        ({"depth": [1, 1]}, "depth=.* different"),
        ({"depth": [1, float("nan")]}, "depth=.* finite"),
        ({"depth": [1, np.inf]}, "depth=.* finite"),
        ({"depth": [1, None]}, "depth="),
        ({"depth": [[1], [2]]}, "depth="),
        ({"depth": range(3000), "scale": [1]}, "3000 x 1 = 3000 frames.*at most 2000"),
        ({"labels": {"width": "w"}}, "labels=.*depth, scale"),
        ({"labels": ["depth"]}, "labels="),
        ({"labels": {"depth": ""}}, r"labels\['depth'\]=''"),
        ({"formats": {"scale": "%g"}}, r"formats\['scale'\]='%g'"),
        ({"formats": {"scale": "{:d}"}}, r"formats\['scale'\]='{:d}'"),
        ({"formats": {"scale": "{:.0f}"}}, r"formats\['scale'\]=\['0', '0'\].*different"),
        ({"formats": {"scale": abs}}, r"formats\['scale'\]"),
        ({"start": {"depth": 7}}, r"start\['depth'\]=7: .*one of \[2, 3, 4\]"),
        ({"start": 3}, "start=3"),
        ({"subplots": 2}, "subplots=2"),
        ({"subplots": {"nrows": 0}}, r"subplots\['nrows'\]=0"),
        ({"subplots": {"subplot_kw": {"projection": "polar"}}}, "rectilinear"),
        ({"figsize": (1, -1)}, "figsize"),
        ({"figsize": (np.nan, 1)}, "figsize"),
        ({"figsize": 3}, "figsize"),
        ({"draw": lambda ax, depth, scale: depth}, "draw's return value=2"),
        ({"draw": lambda ax, depth, scale: ax.set_xlabel(f"{depth}") and None}, "x labels"),
        ({"draw": lambda ax, depth, scale: ax.set_yscale(["log", "linear"][depth % 2])}, "y scale"),
        ({"draw": lambda ax, depth, scale: ax.set_xticks([depth]) and None}, "x ticks"),
        ({"draw": lambda ax, depth, scale: ax.twinx() and None if depth > 2 else None}, "of axes"),
        (
            {"draw": lambda ax, depth, scale: ax.set_xlim((depth % 2, 1 - depth % 2)) and None},
            "dir",
        ),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_parameters_are_required():
    with pytest.raises(ValueError, match="parameters="):
        explore(draw, alt="x")


def test_colour_bars_must_agree():
    def draw(ax, top):
        image = ax.imshow([[0, top]])
        ax.figure.colorbar(image)

    with pytest.raises(ValueError, match="vmin and vmax"):
        explore(draw, alt="x", top=[1, 2])


def test_size_limit():
    def noise(ax, seed):
        ax.plot(np.random.default_rng(seed).uniform(size=4000))

    with pytest.raises(ValueError, match=r"kB of HTML.*at most 400 kB.*fewer"):
        explore(noise, alt="x", seed=range(20))


def test_sixty_frames_of_four_lines_are_small_and_quick():
    def draw(ax, depth, scale):
        for k in range(4):
            ax.plot(T, np.sin(6 * T * depth + k) * scale)
        ax.set_title(f"depth {depth}, scale {scale:g}")

    def run():
        begin = time.process_time()
        page = explore(draw, alt="x", depth=range(1, 11), scale=np.arange(1, 7)).html
        return time.process_time() - begin, len(page.encode())

    (_, size), (again, _) = run(), run()
    print(f"60 frames, 4 lines, 200 points: {again:.2f} s, {size / 1000:.0f} kB")
    assert again < 2
    assert size <= MAX_BYTES


def test_import_is_light():
    code = "import sys, dmflib.explore; print([m for m in sys.modules if m in "
    code += "('matplotlib', 'ipywidgets', 'scipy', 'IPython', 'PIL')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
