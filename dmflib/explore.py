"""Figures with sliders that stay alive on a published page.

`explore` takes an ordinary matplotlib function and the values that its parameters may have. It
draws every combination when the notebook runs. In a live kernel the sliders call the function
again; on the page a small script, ``_static/explore.js``, swaps the parts of the figure that
differ. No mathematics is written a second time.
"""

import hashlib
import html
import itertools
import json
import numbers
import os
import re
import sys
from contextlib import contextmanager

import numpy as np

from dmflib import _checks, _svg, plotting

MAX_FRAMES = 2000
MAX_BYTES = 400_000  # of HTML for one explorer


def explore(
    draw,
    *,
    alt,
    caption=None,
    labels=None,
    formats=None,
    subplots=None,
    figsize=None,
    start=None,
    **parameters,
):
    r"""Make a figure with one slider for each parameter, alive with and without a kernel.

    Parameters
    ----------
    draw : callable
        ``draw(ax, **values)`` draws one frame with matplotlib on empty axes: lines, fills,
        scatters, texts, titles, legends, images; scales and limits too. It may return a sentence
        that describes the frame, numbers included; the sentence stands under the figure and is
        read aloud by screen readers when a slider moves.
    alt : str
        What the figure shows, for readers who do not see it. The titles of the frame are added.
    caption : str, optional
        Plain text under the figure.
    labels : dict of str to str, optional
        The name shown beside a slider; the parameter's own name where left out.
    formats : dict of str to str or callable, optional
        How a parameter's values are written: a format string such as ``"{:.2f}"`` or a function
        from a value to a text. Numbers are written with up to six digits where left out.
    subplots : dict, optional
        Arguments of `matplotlib.figure.Figure.subplots`, such as ``dict(nrows=2, sharex=True)``.
        `draw` then receives what that method returns.
    figsize : (float, float), optional
        Inches; where left out, the book's figure size and 2.2 inches for each further row.
    start : dict of str to value, optional
        Where the sliders stand at first and what is printed; the middle of each list where left
        out, the lower of two middles.
    **parameters : sequence of numbers or strings
        The values of each parameter, in the slider's order.

    Returns
    -------
    Explorer

    Raises
    ------
    ValueError
        If an argument does not fit, if there are more than 2000 frames, if scales, axis labels,
        ticks or the number of axes differ between frames, or if the HTML exceeds 400 kB.

    Notes
    -----
    All frames share one coordinate system: the union of the limits that the frames end with. What
    the axes themselves show (labels, ticks, grid, scales) is the same in every frame; what depends
    on the parameters belongs in an artist, a title or the returned sentence. Three-dimensional and
    polar axes are not supported.

    Examples
    --------
    >>> def draw(ax, rate):
    ...     t = np.linspace(0, 5, 50)
    ...     ax.plot(t, np.exp(-rate * t))
    ...     return f"At rate {rate} half is left after {np.log(2) / rate:.2f}."
    >>> explore(draw, alt="Exponential decay.", rate=[0.5, 1, 2])
    Explorer(rate=[0.5, 1, 2])
    """
    if not callable(draw):
        _checks.fail("draw", draw, "a function draw(ax, **values)")
    if not isinstance(alt, str) or not alt.strip():
        _checks.fail("alt", alt, "a sentence that says what the figure shows")
    if caption is not None and not isinstance(caption, str):
        _checks.fail("caption", caption, "a string or None")
    if not parameters:
        _checks.fail("parameters", parameters, "at least one, such as depth=[2, 3, 4]")
    values = {name: _values(name, listed) for name, listed in parameters.items()}
    count = int(np.prod([len(listed) for listed in values.values()], dtype=object))
    if count > MAX_FRAMES:
        shape = " x ".join(str(len(listed)) for listed in values.values())
        _checks.fail("parameters", f"{shape} = {count} frames", f"at most {MAX_FRAMES} frames")
    labels = _settings("labels", labels, values)
    for name, label in labels.items():
        if not isinstance(label, str) or not label.strip():
            _checks.fail(f"labels[{name!r}]", label, "a string that is not empty")
    formats = _settings("formats", formats, values)
    texts = {name: _texts(name, listed, formats.get(name)) for name, listed in values.items()}
    start = _settings("start", start, values)
    for name, value in start.items():
        if value not in values[name]:
            _checks.fail(f"start[{name!r}]", value, f"one of {values[name]}")
    if subplots is not None and not isinstance(subplots, dict):
        _checks.fail("subplots", subplots, "a dict of arguments of Figure.subplots, or None")
    if figsize is None:
        rows = (subplots or {}).get("nrows", 1)
        rows = _checks.integer("subplots['nrows']", rows, at_least=1)
        figsize = (plotting.WIDTH, plotting.HEIGHT + 2.2 * (rows - 1))
    figsize = tuple(_checks.array("figsize", figsize, shape=(2,)).tolist())
    if min(figsize) <= 0:
        _checks.fail("figsize", figsize, "two positive numbers of inches")
    return Explorer(
        _Scene(draw, subplots, figsize, values),
        alt=alt.strip(),
        caption=caption,
        labels={name: labels.get(name, name) for name in values},
        texts=texts,
        start={name: start.get(name, v[(len(v) - 1) // 2]) for name, v in values.items()},
    )


def _values(name, listed):
    """Return a parameter's values as a list of Python numbers or strings."""
    allowed = "a non-empty list of different finite numbers or strings"
    if isinstance(listed, (str, dict)) or not hasattr(listed, "__iter__"):
        _checks.fail(name, listed, allowed)
    values = [v.item() if isinstance(v, np.generic) else v for v in listed]
    for v in values:
        is_number = isinstance(v, numbers.Real) and not isinstance(v, bool) and np.isfinite(v)
        if not is_number and not isinstance(v, str):
            _checks.fail(name, listed, allowed)
    if not values or len(set(values)) < len(values):
        _checks.fail(name, listed, allowed)
    return values


def _settings(name, given, parameters):
    """Return an optional dict whose keys are names of parameters."""
    if given is None:
        return {}
    if not isinstance(given, dict) or not set(given) <= set(parameters):
        _checks.fail(name, given, "a dict whose keys are among " + ", ".join(parameters))
    return given


def _texts(name, values, form):
    """Write every value of a parameter as a reader sees it."""
    if form is None:
        texts = [v if isinstance(v, str) else f"{v:g}" for v in values]
    elif callable(form):
        texts = [form(v) for v in values]
    elif isinstance(form, str) and "{" in form:
        try:
            texts = [form.format(v) for v in values]
        except (ValueError, LookupError, AttributeError) as error:
            raise ValueError(
                f"formats[{name!r}]={form!r}: {error}; it must be a format string for {values[0]!r}"
            ) from error
    else:
        _checks.fail(f"formats[{name!r}]", form, "a format string such as '{:.2f}' or a function")
    if not all(isinstance(text, str) for text in texts) or len(set(texts)) < len(texts):
        _checks.fail(f"formats[{name!r}]", texts, "a way to write each value as a different text")
    return texts


class Explorer:
    """A figure with sliders, made by `explore`, which checks and completes its arguments.

    Parameters
    ----------
    scene : object
        Draws the frames.
    alt : str
        What the figure shows.
    caption : str or None
        Text under the figure.
    labels : dict of str to str
        The name shown beside each slider.
    texts : dict of str to list of str
        How the values of each parameter are written.
    start : dict of str to value
        Where each slider stands at first.

    Attributes
    ----------
    parameters : dict of str to list
        The values of each parameter.
    html : str
        The published form: static figure, hidden controls, and the frames as data for the script.

    Raises
    ------
    ValueError
        If the frames cannot share one pair of axes, or the HTML exceeds 400 kB.
    """

    def __init__(self, scene, *, alt, caption, labels, texts, start):
        self.parameters = scene.values
        self._scene, self._alt, self._caption = scene, alt, caption
        self._labels, self._texts, self._start = labels, texts, start
        self._view = None
        self.html = self._page(scene.frames(start))
        size = len(self.html.encode())
        if size > MAX_BYTES:
            raise ValueError(
                f"parameters give {size / 1000:.0f} kB of HTML: an explorer must be at most "
                f"{MAX_BYTES / 1000:.0f} kB; list fewer values, draw fewer points, or draw what "
                "does not depend on the parameters the same way in every frame"
            )

    def __repr__(self):
        parts = (
            f"{name}=[{_abridged(map(_plain, listed))}]" for name, listed in self.parameters.items()
        )
        return f"Explorer({', '.join(parts)})"

    def _repr_mimebundle_(self, include=None, exclude=None):
        bundle = {"text/plain": repr(self)}
        if os.environ.get("DMFLIB_TEXT_ONLY") != "1":
            bundle["text/html"] = self.html
        if _kernel_is_running():
            try:
                self._view = self._view or self.widget()
            except ImportError:  # no ipywidgets: the static figure remains
                pass
            else:
                bundle |= {
                    kind: data
                    for kind, data in self._view._repr_mimebundle_().items()
                    if kind.startswith("application/vnd.jupyter.widget-view")
                }
        return bundle

    def widget(self):
        """Return the figure with ipywidgets sliders that call the drawing function.

        Returns
        -------
        ipywidgets.VBox
            The figure, one slider for each parameter, and the frame's sentence. An error raised
            by the drawing function is shown in place of the figure.
        """
        import ipywidgets

        sliders = {
            name: ipywidgets.SelectionSlider(
                options=list(zip(self._texts[name], listed, strict=True)),
                value=self._start[name],
                description=self._labels[name],
                continuous_update=True,
                style={"description_width": "10em"},
                layout={"width": "32em", "max_width": "100%"},
            )
            for name, listed in self.parameters.items()
        }
        figure = ipywidgets.HTML(layout={"max_width": "35em"})
        sentence = ipywidgets.HTML()

        def redraw(change=None):
            values = {name: slider.value for name, slider in sliders.items()}
            try:
                drawing, titles, text = self._scene.live(values)
            except Exception as error:  # the reader's own function: show what it said
                message = html.escape(f"{type(error).__name__}: {error}")
                where = html.escape(", ".join(f"{k}={v!r}" for k, v in values.items()))
                figure.value = f"<pre role='alert'>draw(ax, {where}) failed\n{message}</pre>"
                sentence.value = ""
            else:
                figure.value = self._svg(drawing, _joined(self._alt, titles), _name(drawing))
                sentence.value = f"<p aria-live='polite'>{html.escape(text)}</p>"

        for slider in sliders.values():
            slider.observe(redraw, names="value")
        redraw()
        return ipywidgets.VBox([figure, *sliders.values(), sentence])

    def _svg(self, drawing, label, name):
        width, height = self._scene.size
        box = f"0 0 {width * _svg.UNITS:.0f} {height * _svg.UNITS:.0f}"
        # A CSS pixel is three quarters of a point.
        return (
            f"<svg class='dmf-explorer-figure' xmlns='http://www.w3.org/2000/svg' role='img'"
            f" aria-label='{html.escape(label)}' viewBox='{box}'"
            f" width='{width * 4 / 3:.0f}' height='{height * 4 / 3:.0f}'>"
            f"{_svg.placed(drawing, name)}</svg>"
        )

    def _page(self, frames):
        """Write figure, controls and data for the published page."""
        names = list(self.parameters)
        first = tuple(self.parameters[n].index(self._start[n]) for n in names)
        alts = np.vectorize(lambda titles: _joined(self._alt, titles), otypes=[object])(
            frames.titles
        )
        sentences = frames.sentences
        data = {
            "labels": [self._labels[n] for n in names],
            "texts": [self._texts[n] for n in names],
            "fragments": frames.fragments,
            "slots": [_table(slot) for slot in frames.slots],
            "sentence": _table(sentences),
            "alt": _table(alts),
        }
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        text = text.replace("</", "<\\/").replace("<!--", "<\\u0021--")
        drawing = frames.drawing(first)
        name = _name(drawing + text + repr(self._caption))
        svg = self._svg(drawing, alts[first], name)
        controls = "".join(
            f"<div class='dmf-explorer-control'>"
            f"<label for='{name}-slider-{n}'>{html.escape(self._labels[n])}</label>"
            f"<input id='{name}-slider-{n}' type='range' min='0'"
            f" max='{len(self.parameters[n]) - 1}' step='1' value='{i}' autocomplete='off'"
            f" aria-valuetext='{html.escape(f'{self._labels[n]} = {self._texts[n][i]}')}'>"
            f"<output for='{name}-slider-{n}' aria-live='off'>"
            f"{html.escape(self._texts[n][i])}</output>"
            f"</div>"
            for n, i in zip(names, first, strict=True)
        )
        words = ""
        if any(sentences.flat):
            shown = html.escape(sentences[first])
            words += f"<p class='dmf-explorer-sentence' aria-live='polite'>{shown}</p>"
        if self._caption:
            words += f"<p class='dmf-explorer-caption'>{html.escape(self._caption)}</p>"
        return (
            f"<figure class='dmf-explorer' id='{name}'>{svg}"
            f"<div class='dmf-explorer-controls' hidden>{controls}</div>"
            + (f"<figcaption>{words}</figcaption>" if words else "")
            + f"<script type='application/json'>{text}</script></figure>"
        )


def _plain(value):
    return repr(value) if isinstance(value, str) else f"{value:g}"


def _abridged(words):
    words = list(words)
    return ", ".join(words if len(words) <= 8 else [*words[:3], "...", words[-1]])


def _joined(alt, titles):
    return f"{alt} {titles}".strip()


def _name(text):
    """A name for identifiers in the page: the same for the same content, on every run."""
    return "x" + hashlib.sha256(text.encode()).hexdigest()[:10]


def _table(entries):
    """Leave out the parameters on which nothing depends; say which ones remain."""
    axes = []
    for axis in reversed(range(entries.ndim)):
        first = entries.take([0], axis=axis)
        if (entries == first).all():
            entries = entries.take(0, axis=axis)
        else:
            axes.insert(0, axis)
    return {"axes": axes, "entries": np.ravel(entries).tolist()}


def _kernel_is_running():
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


class _Frames:
    """All frames as fragments of SVG: what never changes, and numbered slots for what does."""

    def __init__(self, background, slots, fragments, definitions, sentences, titles):
        self.background, self.slots, self.fragments = background, slots, fragments
        self.definitions, self.sentences, self.titles = definitions, sentences, titles

    def drawing(self, at):
        """The frame at the given index of each parameter, complete."""
        parts = (
            part
            if isinstance(part, str)
            else f"<g data-slot='{part}'>{self.fragments[self.slots[part][at]]}</g>"
            for part in self.background
        )
        return self.definitions + _whole(parts)


def _whole(parts):
    return f"<g fill='none' stroke-linejoin='round'>{''.join(parts)}</g>"


class _Scene:
    """Draws frames on one common coordinate system."""

    def __init__(self, draw, subplots, figsize, values):
        self.draw, self.subplots, self.figsize, self.values = draw, subplots, figsize, values
        self.size = tuple(72 * length for length in figsize)
        self._places = self._title_places = None  # known once all frames are drawn

    def frames(self, start):
        """Draw all combinations and sort out what changes."""
        shape = tuple(len(listed) for listed in self.values.values())
        combinations = [
            dict(zip(self.values, v, strict=True)) for v in itertools.product(*self.values.values())
        ]
        default = combinations.index(start)
        with _style():
            drawn = [self._figure(values) for values in combinations]
            figures = [figure for figure, _ in drawn]
            self._agree(figures, combinations, default)
            pen = _svg.pen(*self.size)
            furniture, movable = self._paint(figures[default], pen)
            layers = [
                movable if figure is figures[default] else self._paint(figure, pen, False)[1]
                for figure in figures
            ]
        background, slots, fragments = _sort_out(furniture, layers, shape)
        return _Frames(
            background,
            slots,
            fragments,
            pen.definitions(),
            np.array([sentence for _, sentence in drawn], dtype=object).reshape(shape),
            np.array([_titles(figure) for figure in figures], dtype=object).reshape(shape),
        )

    def live(self, values):
        """Draw one frame now. Return its SVG, its titles and its sentence."""
        with _style():
            figure, sentence = self._figure(values)
            self._settle(figure)
            pen = _svg.pen(*self.size)
            furniture, movable = self._paint(figure, pen)
        parts = []
        for fixed, moving in zip(furniture, movable, strict=True):
            parts += [fixed, *moving]
        return pen.definitions() + _whole(parts), _titles(figure), sentence

    def _figure(self, values):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=self.figsize, dpi=72, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(**(self.subplots or {}))
        for ax in figure.axes:
            if ax.name != "rectilinear":
                _checks.fail("subplots", self.subplots, "rectilinear axes, not " + ax.name)
        try:
            sentence = self.draw(axes, **values)
        except Exception as error:
            where = ", ".join(f"{name}={value!r}" for name, value in values.items())
            error.add_note(f"explore was drawing the frame {where}")
            raise
        if sentence is not None and not isinstance(sentence, str):
            _checks.fail("draw's return value", sentence, "a sentence (str) or None")
        return figure, sentence or ""

    def _agree(self, figures, combinations, default):
        """Give all frames the same layout and limits; refuse what cannot be shared."""
        reference = figures[default]
        look = _furnishing(reference)
        for figure, values in zip(figures, combinations, strict=True):
            other = _furnishing(figure)
            for what, here in look.items():
                if here != other.get(what):
                    where = ", ".join(f"{name}={value!r}" for name, value in values.items())
                    raise ValueError(
                        f"draw gives different {what} at {where} ({other.get(what)!r:.80} instead "
                        f"of {here!r:.80}): axes must be the same in all frames; put what depends "
                        "on the parameters into a title, a text or the returned sentence"
                    )
        limits = []
        for group in zip(*(figure.axes for figure in figures), strict=True):
            ends = np.array([(*ax.get_xlim(), *ax.get_ylim()) for ax in group])
            if hasattr(group[0], "_colorbar") and (ends != ends[0]).any():
                raise ValueError(
                    "draw gives different colour scales: a colour bar must be the same in all "
                    "frames; give vmin and vmax"
                )
            limits.append((_union(ends[:, :2]), _union(ends[:, 2:])))
        for ax, (x, y) in zip(reference.axes, limits, strict=True):
            _limit(ax, x, y)
        # The layout of the default frame, with room for the tallest titles, holds for all.
        titles = [_title_artists(figure) for figure in figures]
        own = titles[default]
        shown = {place: title.get_text() for place, title in own.items()}
        for place, title in own.items():
            title.set_text(max((t[place].get_text() for t in titles if place in t), key=_lines))
        reference.draw(_svg.pen(*self.size))
        for place, title in own.items():
            title.set_text(shown[place])
        self._places = [
            (ax.get_position().frozen(), ax.get_xlim(), ax.get_ylim()) for ax in reference.axes
        ]
        self._title_places = {place: title.get_position() for place, title in own.items()}
        for figure in figures:
            self._settle(figure)

    def _settle(self, figure):
        figure.set_layout_engine("none")
        for ax, (position, x, y) in zip(figure.axes, self._places, strict=True):
            ax.set_axes_locator(None)
            ax.set_aspect("auto")
            ax.set_position(position)
            _limit(ax, x, y)
        for place, title in _title_artists(figure).items():
            if place in self._title_places:
                title.set_position(self._title_places[place])

    def _paint(self, figure, pen, with_furniture=True):
        """Draw a figure in matplotlib's order.

        Returns
        -------
        furniture : list of str
            What belongs to the axes themselves, drawn first to last.
        movable : list of list of str
            Behind each piece of furniture, the fragments drawn upon it.
        """
        furniture, movable = [], []
        for artist, fixed in _artists(figure):
            if fixed:
                if with_furniture:
                    artist.draw(pen)
                furniture.append(pen.take())
                movable.append([])
            else:
                artist.draw(pen)
                movable[-1].append(pen.take())
        return furniture, movable


@contextmanager
def _style():
    import matplotlib
    from cycler import cycler

    colors = cycler(color=list(plotting.COLORS.values()))
    with matplotlib.rc_context({**plotting.STYLE, "axes.prop_cycle": colors}):
        yield


def _artists(figure):
    """Yield (artist, is furniture) in the order in which matplotlib paints."""

    def by_depth(children, background):
        children = [c for c in children if c is not background and c.get_visible()]
        return sorted(children, key=lambda child: child.get_zorder())

    yield figure.patch, True
    for child in by_depth(figure.get_children(), figure.patch):
        if child not in figure.axes:
            yield child, False
            continue
        ax = child
        framed = ax.axison and ax.get_frame_on()
        if framed:
            yield ax.patch, True
        for artist in by_depth(ax.get_children(), ax.patch):
            if artist in (ax.xaxis, ax.yaxis):
                if ax.axison:
                    yield artist, True
            elif artist in ax.spines.values():
                if framed:
                    yield artist, True
            else:
                yield artist, False


def _furnishing(figure):
    """What has to be the same in all frames, by the name a reader knows it by."""
    look = {"numbers of axes": len(figure.axes)}
    for i, ax in enumerate(figure.axes):
        of = f" of axes {i}" if len(figure.axes) > 1 else ""
        look[f"frames{of}"] = (ax.axison, ax.get_frame_on(), ax.get_visible(), ax.get_zorder())
        look[f"visible spines{of}"] = [name for name, s in ax.spines.items() if s.get_visible()]
        for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
            look[f"{name} scales{of}"] = axis.get_scale()
            look[f"{name} labels{of}"] = axis.get_label_text()
            look[f"{name} ticks{of}"] = [
                (
                    type(part).__name__,
                    np.ravel(getattr(part, "locs", ()))[:50].tolist()
                    if type(part).__name__ == "FixedLocator"
                    else list(getattr(part, "seq", ())),
                )
                for part in (axis.get_major_locator(), axis.get_major_formatter())
            ]
            look[f"{name} directions{of}"] = axis.get_inverted()
    return look


def _title_artists(figure):
    """The titles of a figure, by place; matplotlib moves them when it lays out the figure."""
    titles = {
        (i, place): title
        for i, ax in enumerate(figure.axes)
        for place, title in enumerate((ax.title, ax._left_title, ax._right_title))
    }
    above = {name: getattr(figure, name) for name in ("_suptitle", "_supxlabel", "_supylabel")}
    return titles | {name: title for name, title in above.items() if title is not None}


def _titles(figure):
    """All titles of a figure as plain text, formulas without their marks."""
    titles = _title_artists(figure)
    texts = [figure.get_suptitle(), *(t.get_text() for p, t in titles.items() if p[0] != "_")]
    plain = (re.sub(r"[$\\{}]", "", text).strip().rstrip(".") for text in texts)
    return " ".join(f"{text}." for text in plain if text)


def _lines(title):
    return len(title.splitlines())


def _union(ends):
    low, high = ends.min(), ends.max()
    return (high, low) if ends[0, 0] > ends[0, 1] else (low, high)


def _limit(ax, x, y):
    if not hasattr(ax, "_colorbar"):
        ax.set(xlim=x, ylim=y)


def _sort_out(furniture, frames, shape):
    """Separate what is the same in all frames from what changes.

    Returns
    -------
    background : list of str or int
        Fragments, and numbers of slots, first to last.
    slots : list of ndarray of int, shape `shape`
        For every slot, which fragment each frame puts there.
    fragments : list of str
    """
    background, slots, numbers_of = [], [], {"": 0}
    for i, piece in enumerate(furniture):
        background.append(piece)
        layers = [frame[i] for frame in frames]
        for column in itertools.zip_longest(*layers, fillvalue=""):
            if len(set(column)) == 1:
                background.append(column[0])
                continue
            entries = [numbers_of.setdefault(fragment, len(numbers_of)) for fragment in column]
            background.append(len(slots))
            slots.append(np.array(entries).reshape(shape))
    return background, slots, list(numbers_of)
