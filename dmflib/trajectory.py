"""What a mover returns: recorded times, losses and matrices, and what follows from them."""

from functools import cached_property
from itertools import takewhile

import numpy as np

from dmflib import _checks, matrices

KEEPABLE = ("products", "factors", "singular_values")
ENDLESS = 10**18  # more steps than any run takes


class Ranked:
    """A recorded path of products whose spectra are known, and so their effective ranks."""

    def effective_rank(self, kind="entropy"):
        """Effective rank of each recorded product.

        Parameters
        ----------
        kind : {"entropy", "nuclear", "stable"}
            See `dmflib.matrices.effective_rank`.

        Returns
        -------
        ndarray, shape (T,)

        Raises
        ------
        ValueError
            If `kind` is unknown, a product is zero, or the spectra were not kept.
        """
        return matrices.effective_rank_of_spectrum(self._spectra, kind)


class Trajectory(Ranked):
    """The recorded path of a gradient descent or gradient flow.

    Its method ``effective_rank(kind)`` is that of `Ranked`; it needs the products or their
    singular values.

    Parameters
    ----------
    times : ndarray, shape (T,)
        Step numbers of gradient descent, or times of a flow. The first entry is the start and
        the last one the end of the run.
    losses : ndarray, shape (T,)
        Loss at each recorded time.
    kept : dict
        What else was recorded, by its name in `KEEPABLE`.
    stopped_by : object
        What ended the run: the stopping rule that fired, or one of `Diverged`, `Interrupted`,
        `TimeReached`.
    final_factors : list of ndarray
        The factors at the end, from which a run can be continued. None for a product flow.
    evaluations : int
        How many times the gradient was computed.
    """

    def __init__(self, times, losses, kept, stopped_by, final_factors, evaluations):
        self.times = np.asarray(times)
        self.losses = np.asarray(losses, dtype=float)
        self._kept = kept
        self.stopped_by = stopped_by
        self.final_factors = final_factors
        self.evaluations = evaluations

    def __len__(self):
        return len(self.times)

    def __repr__(self):
        return (
            f"Trajectory({len(self)} records, times {self.times[0]:g} to {self.times[-1]:g}, "
            f"loss {self.losses[0]:.3g} to {self.losses[-1]:.3g}, stopped by {self.stopped_by})"
        )

    def _require(self, name, *, wanted=None):
        if name not in self._kept:
            needed = repr(name) if wanted is None else f"{name!r} or {wanted!r}"
            raise ValueError(
                f"keep={tuple(self._kept)!r}: keep must contain {needed} "
                f"when the run is started for the trajectory to have its {wanted or name}"
            )
        return self._kept[name]

    @property
    def products(self):
        """Recorded products, an array of shape (T, m, n)."""
        return self._require("products")

    @property
    def factors(self):
        """Recorded factors, a list of N arrays of shape (T, d_i, d_{i-1})."""
        return self._require("factors")

    @cached_property
    def singular_values(self):
        """Singular values of the products, largest first, shape (T, min(m, n))."""
        if "singular_values" in self._kept:
            return self._kept["singular_values"]
        products = self._require("products", wanted="singular_values")
        return matrices.singular_values(products)

    @property
    def _spectra(self):
        return self.singular_values


class Recorder:
    """Collects what the caller wants to keep and turns it into a `Trajectory`.

    Parameters
    ----------
    keep : str or sequence of str
        Any of ``"products"``, ``"factors"``, ``"singular_values"``; may be empty. Losses and
        times are always kept.

    Raises
    ------
    ValueError
        If a name is unknown.
    """

    def __init__(self, keep):
        try:
            names = (keep,) if isinstance(keep, str) else tuple(keep)
        except TypeError:
            _checks.fail("keep", keep, f"a sequence of names among {KEEPABLE}")
        for name in names:
            _checks.choice("keep", name, KEEPABLE)
        self._names = tuple(dict.fromkeys(names))
        self._records = []

    @property
    def times(self):
        """Times recorded so far."""
        return [record[0] for record in self._records]

    def add(self, time, loss, product, factors):
        """Record one state; arrays are copied.

        Parameters
        ----------
        time : int or float
        loss : float
        product : ndarray, shape (m, n)
        factors : list of ndarray
        """
        kept = []
        for name in self._names:
            if name == "products":
                kept.append(product.copy())
            elif name == "singular_values":
                kept.append(np.linalg.svd(product, compute_uv=False))
            else:
                kept.append([W.copy() for W in factors])
        # One append for the whole record, so that an interruption cannot leave half of one.
        self._records.append((time, float(loss), *kept))

    def trajectory(self, stopped_by, final_factors, evaluations):
        """Close the record.

        Parameters
        ----------
        stopped_by : object
            See `Trajectory`.
        final_factors : list of ndarray or None
        evaluations : int

        Returns
        -------
        Trajectory
        """
        times, losses, *histories = zip(*self._records, strict=True)
        kept = {}
        for name, history in zip(self._names, histories, strict=True):
            if name == "factors":
                kept[name] = [np.stack(factor) for factor in zip(*history, strict=True)]
            else:
                kept[name] = np.stack(history)
        return Trajectory(times, losses, kept, stopped_by, final_factors, evaluations)


def schedule(record):
    """Steps that the caller wants recorded, however long the run will be.

    Parameters
    ----------
    record : int or array_like of int
        Every so many steps, or exactly these.

    Returns
    -------
    range or dict
        Holds the steps in increasing order, the start among them; ``step in schedule`` is quick.

    Raises
    ------
    ValueError
        If `record` is neither a positive integer nor a list of non-negative ones.
    """
    if not isinstance(record, (list, tuple, range, np.ndarray)):
        return range(0, ENDLESS, _checks.integer("record", record, at_least=1))
    allowed = "a positive integer or a non-empty list of non-negative integers"
    try:
        steps = np.asarray(record)
    except ValueError:  # rows of different lengths
        _checks.fail("record", record, allowed)
    if steps.ndim != 1 or not steps.size or steps.dtype.kind not in "iu" or steps.min() < 0:
        _checks.fail("record", record, allowed)
    return dict.fromkeys(sorted({0, *steps.tolist()}))


def recorded_steps(record, steps):
    """Steps that a run of known length records, in order, its first and last among them.

    Parameters
    ----------
    record : int or array_like of int
        See `schedule`; steps beyond the end are left out.
    steps : int
        Length of the run.

    Returns
    -------
    list of int

    Raises
    ------
    ValueError
        If `record` is neither a positive integer nor a list of non-negative ones, or `steps` is
        not a non-negative integer.
    """
    steps = _checks.integer("steps", steps, at_least=0)
    return [*takewhile(lambda step: step < steps, schedule(record)), steps]
