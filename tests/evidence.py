"""What a test of a numbered result measured, kept for the ledger.

A test marked ``@pytest.mark.ledger("thm-...")`` states the result with the functions of this module
instead of a bare ``assert``. They fail as an assertion does, and they remember how many instances
were tried, with which tolerance, and how near the worst of them came to it.
"""

import numpy as np

#: What the test that runs now has measured; `tests/conftest.py` empties and collects it.
current = []


def at_most(values, bounds, slack=0.0):
    """Fail unless every value is at most its bound; the margin is the largest quotient.

    `slack` is the relative rounding allowed above the bound. Bounds of zero ask for values of
    at most zero, and infinite bounds count as instances without a margin.
    """
    values, bounds = np.broadcast_arrays(np.asarray(values, float), np.asarray(bounds, float))
    size = np.where(np.isfinite(bounds), np.abs(bounds), 0.0)
    good = values <= bounds + slack * size
    if not good.all():
        where = np.unravel_index(np.argmin(good), good.shape)
        raise AssertionError(f"{values[where]!r} exceeds the bound {bounds[where]!r} at {where}")
    usual = (bounds > 0) & np.isfinite(bounds)
    worst = (values[usual] / bounds[usual]).max(initial=0.0)
    current.append((values.size, "bound" if slack == 0 else f"bound, slack {slack:g}", worst))


def agree(measured, expected, rtol=0.0, atol=0.0):
    """Fail unless the numbers agree within ``atol + rtol |expected|``.

    The margin is the share used. Infinite numbers agree with themselves; NaN never agrees.
    """
    measured, expected = np.broadcast_arrays(np.asarray(measured), np.asarray(expected))
    same = measured == expected
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(measured - expected))
    allowed = atol + rtol * np.abs(np.where(np.isfinite(expected), expected, 0.0))
    good = same | (error <= allowed)
    if not good.all():
        where = np.unravel_index(np.argmin(good), good.shape)
        raise AssertionError(
            f"{measured[where]!r} differs from {expected[where]!r} by {error[where]:.3g}, "
            f"more than {np.broadcast_to(allowed, error.shape)[where]:.3g}, at {where}"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        used = np.where(error == 0, 0.0, error / allowed)
    words = [f"{name} {value:g}" for name, value in (("rtol", rtol), ("atol", atol)) if value]
    # One instance is one array: the entries of a matrix are not tried independently.
    current.append((1, ", ".join(words) or "exact", used.max(initial=0.0)))


def holds(statements):
    """Fail unless every statement is true; each counts as an instance, and there is no margin."""
    statements = np.asarray(statements)
    assert statements.all(), f"false at {np.flatnonzero(~np.atleast_1d(statements).ravel())[:5]}"
    current.append((statements.size, "exact", 0.0))


def summary(measurements):
    """One entry of the ledger from what a test measured."""
    return {
        "instances": int(sum(count for count, _, _ in measurements)),
        "tolerance": "; ".join(dict.fromkeys(tolerance for _, tolerance, _ in measurements)),
        "worst": float(f"{max(worst for _, _, worst in measurements):.2g}"),
    }
