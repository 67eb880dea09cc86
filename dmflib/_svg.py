"""A matplotlib renderer that writes small SVG: the pen with which explorers draw their frames.

Matplotlib's own SVG writer aims at whole files. A frame of an explorer is a handful of artists that
must be drawn alone, stored many times and shown under a strict Content-Security-Policy, so this
renderer writes coordinates as integers in tenths of a point, relative to one another, and styles as
attributes. Letters and markers are drawn once and referred to.

References inside a fragment begin with ``#_``; whoever puts fragments into a page replaces that
mark by a name that is unique there (`placed`).
"""

import base64
import io

import numpy as np

UNITS = 10  # SVG units per point
_EM = 1000  # units of a letter's outline per font size


def pen(width, height):
    """Return a renderer for a figure of the given size in points.

    The figure's resolution must be 72 dots per inch, so that matplotlib's pixels are points.
    """
    from matplotlib.backend_bases import RendererBase

    class Pen(_Pen, RendererBase):
        pass

    return Pen(width, height)


def placed(fragment, name):
    """Return an SVG fragment whose references carry `name`."""
    return fragment.replace("#_", f"#{name}-").replace(" id='_", f" id='{name}-")


class _Pen:
    """The drawing methods; `pen` joins them with matplotlib's base class, imported late."""

    def __init__(self, width, height):
        from matplotlib.transforms import Affine2D

        super().__init__()
        self.width, self.height = width, height
        self._flip = Affine2D().scale(UNITS, -UNITS).translate(0, UNITS * height)
        self._shapes = {}  # what is referred to: (tag, the element after its id) -> id
        self._glyphs = {}  # matplotlib's name of a letter -> id
        self._elements = []  # (attributes, element) since the last `take`

    # What matplotlib asks a renderer.

    def get_canvas_width_height(self):
        return self.width, self.height

    def points_to_pixels(self, points):
        return points

    def get_image_magnification(self):
        return 3.0

    def get_text_width_height_descent(self, s, prop, ismath):
        return self._text2path.get_text_width_height_descent(s, prop, ismath)

    def draw_path(self, gc, path, transform, rgbFace=None):
        attributes = self._attributes(gc, rgbFace)
        if attributes is None:
            return
        transform = transform + self._flip
        if path.codes is not None and 8 < len(path.codes) < 60 and np.any(path.codes > 2):
            # A small curved shape, such as a circle of a scatter plot, will come again.
            outline = path.cleaned(transform, remove_nans=True, curves=True)
            if np.any(outline.codes > 2):
                corner = outline.vertices[0].copy()
                outline.vertices = outline.vertices - corner
                self._use(attributes, self._shape("path", f" d='{_data(outline)}'/>"), corner)
            return
        margin = 10 * UNITS
        box = (-margin, -margin, self.width * UNITS + margin, self.height * UNITS + margin)
        open_line = rgbFace is None and gc.get_hatch_path() is None
        data = _data(
            path.cleaned(transform, remove_nans=True, clip=box if open_line else None, curves=True)
        )
        if data:
            self._elements.append((attributes, f"<path d='{data}'/>"))

    def draw_markers(self, gc, marker_path, marker_trans, path, trans, rgbFace=None):
        from matplotlib.transforms import Affine2D

        places = [points[-2:] for points, _ in path.iter_segments(trans, simplify=False)]
        if len(places) == 1:  # fills arrive here as one big marker
            self.draw_path(
                gc, marker_path, marker_trans + Affine2D().translate(*places[0]), rgbFace
            )
            return
        attributes = self._attributes(gc, rgbFace)
        if attributes is None or not places:
            return
        outline = marker_path.cleaned(
            marker_trans + Affine2D().scale(UNITS, -UNITS), remove_nans=True, curves=True
        )
        shape = self._shape("path", f" d='{_data(outline)}'/>")
        for place in self._flip.transform(places):
            self._use(attributes, shape, place)

    def draw_image(self, gc, x, y, im, transform=None):
        from PIL import Image

        rows, columns = im.shape[:2]
        if not rows or not columns:
            return
        attributes = self._clip(gc)
        if gc.get_alpha() != 1:
            attributes += f" opacity='{gc.get_alpha():.3g}'"
        png = io.BytesIO()
        Image.fromarray(im[::-1]).save(png, format="png")
        source = base64.b64encode(png.getvalue()).decode("ascii")
        scale = UNITS / self.get_image_magnification()
        width, height = columns * scale, rows * scale
        top = UNITS * (self.height - y) - height
        self._elements.append(
            (
                attributes,
                f"<image x='{UNITS * x:.0f}' y='{top:.0f}' width='{width:.0f}'"
                f" height='{height:.0f}' preserveAspectRatio='none'"
                f" href='data:image/png;base64,{source}'/>",
            )
        )

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        writer = self._text2path
        known = dict.fromkeys(self._glyphs)
        if ismath:
            glyphs, new, bars = writer.get_glyphs_mathtext(
                prop, s, glyph_map=known, return_new_glyphs_only=True
            )
        else:
            glyphs, new, bars = writer.get_glyphs_with_font(
                writer._get_font(prop), s, glyph_map=known, return_new_glyphs_only=True
            )
        for name, outline in new.items():
            self._glyphs[name] = self._glyph(*outline)
        unit = _EM / writer.FONT_SCALE
        body = []
        for name, across, up, size in glyphs:
            shape = self._glyphs[name]
            if shape is None:  # a space
                continue
            across, up = round(unit * across), round(unit * up)
            if size != 1:
                move = f" transform='translate({across} {up})scale({size:.3g})'"
            else:
                move = f" x='{across}'" * (across != 0) + f" y='{up}'" * (up != 0)
            body.append(f"<use href='#{shape}'{move}/>")
        for points, codes in bars:
            body.append(f"<path d='{_data(_outline(points, codes, unit))}'/>")
        if not body:
            return
        scale = UNITS * prop.get_size_in_points() / _EM
        turn = f"rotate({-angle:.4g})" if angle else ""
        transform = (
            f"translate({UNITS * x:.0f} {UNITS * y:.0f}){turn}scale({scale:.4g} {-scale:.4g})"
        )
        color = gc.get_rgb()
        alpha = gc.get_alpha() if gc.get_forced_alpha() else color[3]
        self._elements.append(
            (
                _paint("fill", color, alpha) + self._clip(gc),
                f"<g transform='{transform}'>{''.join(body)}</g>",
            )
        )

    # Writing.

    def take(self):
        """Return what was drawn since the last call, as one SVG fragment."""
        parts, last = [], None
        for attributes, element in self._elements:
            if attributes != last:
                parts.append(f"</g><g{attributes}>" if parts else f"<g{attributes}>")
                last = attributes
            parts.append(element)
        self._elements = []
        return "".join(parts) + "</g>" if parts else ""

    def definitions(self):
        """Return the ``<defs>`` that all fragments drawn so far refer to."""
        shapes = (f"<{tag} id='{name}'{rest}" for (tag, rest), name in self._shapes.items())
        return f"<defs>{''.join(shapes)}</defs>"

    def _shape(self, tag, rest):
        return self._shapes.setdefault((tag, rest), f"_{len(self._shapes):x}")

    def _glyph(self, points, codes):
        data = _data(_outline(points, codes, _EM / self._text2path.FONT_SCALE))
        return self._shape("path", f" d='{data}'/>") if data else None

    def _use(self, attributes, shape, place):
        if np.isfinite(place).all():
            x, y = np.rint(place).astype(int)
            self._elements.append((attributes, f"<use href='#{shape}' x='{x}' y='{y}'/>"))

    def _clip(self, gc):
        path, transform = gc.get_clip_path()
        rectangle = gc.get_clip_rectangle()
        if path is not None:
            outline = path.cleaned(transform + self._flip, remove_nans=True, curves=True)
            shape = f"<path d='{_data(outline)}'/>"
        elif rectangle is not None:
            (x0, y1), (x1, y0) = np.rint(self._flip.transform(rectangle.get_points())).astype(int)
            shape = f"<rect x='{x0}' y='{y0}' width='{x1 - x0}' height='{y1 - y0}'/>"
        else:
            return ""
        return f" clip-path='url(#{self._shape('clipPath', f'>{shape}</clipPath>')})'"

    def _hatch(self, gc, face):
        from matplotlib.transforms import Affine2D

        size = 72 * UNITS
        lines = _data(
            gc.get_hatch_path().cleaned(
                Affine2D().scale(size, -size).translate(0, size), remove_nans=True, curves=True
            )
        )
        color = gc.get_hatch_color()
        color = gc.get_rgb() if color is None else color
        ground = "" if face is None else f"<rect width='{size}' height='{size}'{face}/>"
        return self._shape(
            "pattern",
            f" patternUnits='userSpaceOnUse' width='{size}' height='{size}'>{ground}"
            f"<path d='{lines}'{_paint('fill', color, color[3])}{_paint('stroke', color, color[3])}"
            f" stroke-width='{UNITS * gc.get_hatch_linewidth():.3g}'/></pattern>",
        )

    def _attributes(self, gc, face):
        """Style and clip as SVG attributes, or None where nothing would be seen."""
        alpha = gc.get_alpha() if gc.get_forced_alpha() else None
        fill = stroke = ""
        if face is not None:
            opacity = alpha if alpha is not None else (face[3] if len(face) == 4 else 1)
            fill = _paint("fill", face, opacity)
        if gc.get_hatch_path() is not None:
            fill = f" fill='url(#{self._hatch(gc, fill or None)})'"
        color = gc.get_rgb()
        opacity = color[3] if alpha is None else alpha
        if gc.get_linewidth() and opacity:
            stroke = _paint("stroke", color, opacity)
            stroke += f" stroke-width='{UNITS * gc.get_linewidth():.3g}'"
            if gc.get_joinstyle() != "round":
                stroke += f" stroke-linejoin='{gc.get_joinstyle()}'"
            cap = {"projecting": "square"}.get(gc.get_capstyle(), gc.get_capstyle())
            if cap != "butt":
                stroke += f" stroke-linecap='{cap}'"
            offset, dashes = gc.get_dashes()
            if dashes is not None:
                numbers = " ".join(f"{UNITS * dash:.3g}" for dash in dashes)
                stroke += f" stroke-dasharray='{numbers}'"
                stroke += f" stroke-dashoffset='{UNITS * offset:.3g}'" if offset else ""
        return fill + stroke + self._clip(gc) if fill or stroke else None


def _paint(kind, color, opacity):
    from matplotlib.colors import to_hex

    text = f" {kind}='{to_hex(color[:3])}'"
    return text if opacity == 1 else f"{text} {kind}-opacity='{opacity:.3g}'"


def _outline(points, codes, scale):
    from matplotlib.path import Path
    from matplotlib.transforms import Affine2D

    points = np.asarray(points, dtype=float).reshape(-1, 2)
    return Path(points, codes).cleaned(Affine2D().scale(scale), remove_nans=True, curves=True)


def _numbers(values):
    """Write integers one after another, a minus sign serving as separator."""
    return " ".join(map(str, values)).replace(" -", "-")


def _data(path):
    """Write a cleaned path: every part begins absolutely and goes on in relative integers."""
    finite = np.abs(path.vertices) < 1e7  # what lies further out was not meant to be seen
    points = np.rint(np.where(finite, path.vertices, np.sign(path.vertices) * 1e7)).astype(int)
    codes = path.codes
    starts = np.flatnonzero(codes == path.MOVETO)
    ends = [*starts[1:], len(codes)][: len(starts)]
    return "".join(_part(points[a:b], codes[a:b], path) for a, b in zip(starts, ends, strict=True))


def _part(points, codes, path):
    points, codes = points[codes != path.STOP], codes[codes != path.STOP]
    closed = codes[-1] == path.CLOSEPOLY
    if closed:
        points, codes = points[:-1], codes[:-1]
    if len(points) < 2:
        return ""
    text = "M" + _numbers(points[0].tolist())
    if (codes[1:] == path.LINETO).all():
        steps = np.diff(points, axis=0)
        steps = steps[steps.any(axis=1)]
        if len(steps) == 0:  # a dot: a round cap makes it visible
            return text + "h0"
        # Steps in one direction become one step; the drawn line stays the same.
        cross = steps[:-1, 0] * steps[1:, 1] - steps[:-1, 1] * steps[1:, 0]
        dot = (steps[:-1] * steps[1:]).sum(axis=1)
        corners = np.flatnonzero(np.append(True, (cross != 0) | (dot < 0)))
        steps = np.add.reduceat(steps, corners, axis=0)
        return text + "l" + _numbers(steps.ravel().tolist()) + "z" * bool(closed)
    here, i = points[0], 1
    letters = {path.LINETO: ("l", 1), path.CURVE3: ("q", 2), path.CURVE4: ("c", 3)}
    last = ""
    while i < len(points):
        letter, count = letters[codes[i]]
        numbers = _numbers((points[i : i + count] - here).ravel().tolist())
        separator = letter if letter != last else " " * (numbers[0] != "-")
        text += separator + numbers
        last, here, i = letter, points[i + count - 1], i + count
    return text + "z" * bool(closed)
