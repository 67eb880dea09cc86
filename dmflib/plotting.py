"""One figure style for the whole book, and labels written on lines instead of in legends.

Figures are drawn for a white page with a transparent background; the book's style sheet inverts
their lightness in dark mode and keeps their hues. The four colours differ in lightness, so they
survive grey print and colour blindness. Panels are stacked, never side by side: at phone width a
figure is as wide as the screen.
"""

import os

import numpy as np

from dmflib import _checks

#: Colours by name, darkest first. Each stands out from the page, light or dark, by a contrast of
#: at least 3:1, and each pair differs in lightness and for colour-blind readers.
COLORS = {
    "navy": "#14305c",
    "purple": "#8c3b7a",
    "red": "#c8462a",
    "gold": "#ba8a1f",
}

#: Grey for axes, reference lines and remarks; dark enough to read.
GREY = "#595959"

WIDTH, HEIGHT = 5.2, 3.4  # inches; on a phone one inch is about 70 pixels

#: Matplotlib settings of every figure in the book.
STYLE = {
    "figure.figsize": (WIDTH, HEIGHT),
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#262626",
    "axes.linewidth": 0.8,
    "text.color": "#262626",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "#404040",
    "ytick.labelcolor": "#404040",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "grid.color": "#d0d0d0",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "lines.solid_capstyle": "round",
    "image.cmap": "cividis",
    "svg.hashsalt": "dmflib",
    "mathtext.fontset": "dejavusans",
}


def use_style():
    """Set the book's figure style for this session and draw sharp figures in notebooks.

    Call it once at the top of a notebook. Notebooks get vector graphics, or bitmaps where the
    environment variable ``DMFLIB_TEXT_ONLY`` is 1, as it is while stored text outputs are
    compared.
    """
    import matplotlib.pyplot as plt
    from cycler import cycler

    plt.rcParams.update(STYLE)
    plt.rcParams["axes.prop_cycle"] = cycler(color=list(COLORS.values()))
    try:
        from IPython import get_ipython
    except ImportError:
        return
    if get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        text_only = os.environ.get("DMFLIB_TEXT_ONLY") == "1"
        # The figure decides its own size; cropping to the ink would change it from run to run.
        set_matplotlib_formats("png" if text_only else "svg", bbox_inches=None)


def shades(count):
    """Colours from dark to light for an ordered parameter such as depth or scale.

    Parameters
    ----------
    count : int
        At least 1.

    Returns
    -------
    list of str
        Hexadecimal colours along matplotlib's inferno map, up to the contrast 3:1 with white.

    Raises
    ------
    ValueError
        If `count` is not a positive integer.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    count = _checks.integer("count", count, at_least=1)
    return [to_hex(colormaps["inferno"](x)) for x in np.linspace(0.12, 0.67, count)]


def ink(color):
    """Darken a colour until text in it can be read: contrast 4.5:1 with white, hue kept.

    Parameters
    ----------
    color : str or sequence of float
        Any colour that matplotlib knows.

    Returns
    -------
    str
        Hexadecimal; the colour itself where it is dark enough.

    Raises
    ------
    ValueError
        If `color` is not a colour.
    """
    from matplotlib.colors import is_color_like, to_hex, to_rgb

    # matplotlib takes (nan, 0, 0) for a colour.
    share = np.array(to_rgb(color)) if is_color_like(color) else np.array(np.nan)
    if not np.isfinite(share).all():
        _checks.fail("color", color, "a colour that matplotlib knows")
    # sRGB to linear light and back; luminance and contrast as WCAG 2.1 defines them.
    light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance = light @ [0.2126, 0.7152, 0.0722]
    light = light * min(1, (1.05 / 4.55 - 0.05) / max(luminance, 1e-9))
    share = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return to_hex(np.clip(share, 0, 1))


def label_line(line, text=None, *, at=None, offset=(4, 0), **style):
    """Write a label beside a line, in the line's colour, dark enough to be read.

    Parameters
    ----------
    line : matplotlib.lines.Line2D
    text : str, optional
        The line's own label where left out.
    at : float, optional
        Horizontal data coordinate; the line's last point where left out.
    offset : (float, float)
        Distance from the line in points.
    **style
        Passed on to `matplotlib.axes.Axes.annotate`.

    Returns
    -------
    matplotlib.text.Annotation

    Raises
    ------
    ValueError
        If `line` is not a line in axes or has no point to be seen, `at` lies outside its data,
        or `offset` is not a pair of numbers.
    """
    from matplotlib.lines import Line2D

    if not isinstance(line, Line2D) or line.axes is None:
        _checks.fail("line", line, "a line that stands in axes")
    offset = tuple(_checks.array("offset", offset, shape=(2,)))
    x, y = (np.asarray(data, dtype=float) for data in line.get_data())
    seen = np.isfinite(x) & np.isfinite(y)
    log_x, log_y = (scale() == "log" for scale in (line.axes.get_xscale, line.axes.get_yscale))
    seen &= (x > 0) | (not log_x)
    seen &= (y > 0) | (not log_y)
    if not seen.any():
        _checks.fail("line", line, "a line with at least one point to be seen")
    x, y = x[seen], y[seen]
    if at is None:
        point = (x[-1], y[-1])
    else:
        at = _checks.real("at", at, at_least=x.min(), at_most=x.max())
        # Between its points the line is straight on the page, not in the data.
        order = np.argsort(x, kind="stable")
        across, up = line.axes.xaxis.get_transform(), line.axes.yaxis.get_transform()
        height = np.interp(
            across.transform([at])[0], across.transform(x[order]), up.transform(y[order])
        )
        point = (at, up.inverted().transform([height])[0])
    settings = {
        "color": ink(line.get_color()),
        "xytext": offset,
        "textcoords": "offset points",
        "va": "center",
        "annotation_clip": False,
        "fontsize": 8.5,
    }
    label = line.get_label() if text is None else text
    return line.axes.annotate(label, point, **(settings | style))


def reference_slope(ax, start, slope, width, text=None, **style):
    """Draw a dashed line of given slope on log–log axes, to read exponents by eye.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        With two logarithmic axes.
    start : (float, float)
        Where the line begins, positive data coordinates.
    slope : float
        Exponent: the line is ``y = start[1] * (x / start[0])**slope``.
    width : float
        Ratio of the line's last to its first horizontal coordinate, positive and not 1.
    text : str, optional
        Label at the end of the line.
    **style
        Passed on to `matplotlib.axes.Axes.plot`.

    Returns
    -------
    matplotlib.lines.Line2D

    Raises
    ------
    ValueError
        If the axes are not logarithmic or a number is outside its range.
    """
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes) or (ax.get_xscale(), ax.get_yscale()) != ("log", "log"):
        _checks.fail("ax", ax, "axes with two logarithmic scales")
    x0, y0 = _checks.array("start", start, shape=(2,))
    x0 = _checks.real("start[0]", x0, above=0)
    y0 = _checks.real("start[1]", y0, above=0)
    slope = _checks.real("slope", slope)
    width = _checks.real("width", width, above=0)
    if width == 1:
        _checks.fail("width", width, "different from 1")
    with np.errstate(over="ignore", under="ignore"):
        x1, y1 = x0 * width, y0 * np.power(width, slope)
    if not (np.isfinite([x1, y1]).all() and x1 > 0 and y1 > 0):
        _checks.fail("width", width, "such that the line's end is positive and finite")
    settings = {"color": GREY, "linestyle": (0, (4, 3)), "linewidth": 1}
    (line,) = ax.plot([x0, x1], [y0, y1], **(settings | style))
    if text:
        label_line(line, text)
    return line
