"""Colour science from its definitions: lightness, contrast, and the filter of dark mode."""

import numpy as np
from matplotlib.colors import to_rgb


def linear(color):
    """Linear light of an sRGB colour (IEC 61966-2-1)."""
    c = np.array(to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
)


def lab(light):
    """CIE L*a*b* of linear light, white point of sRGB."""
    ratio = XYZ @ light / XYZ.sum(axis=1)
    bend = 6 / 29
    f = np.where(ratio > bend**3, np.cbrt(ratio), ratio / (3 * bend**2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one, other):
    """Contrast ratio of WCAG 2.1."""
    dark, light = sorted(XYZ[1] @ linear(color) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


def in_dark_mode(color):
    """The colour after the style sheet's filter ``invert(1) hue-rotate(180deg)``.

    The matrix is that of the filter effects specification for an angle of 180 degrees.
    """
    red, green, blue = 0.213, 0.715, 0.072
    rotate = 2 * np.array([[red, green, blue]] * 3) - np.eye(3)
    return np.clip(rotate @ (1 - np.array(to_rgb(color))), 0, 1)
