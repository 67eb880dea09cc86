"""Losses of a matrix: what is being minimised, apart from how the matrix is factorized.

A loss is any object with ``shape`` (of the matrix ``W``), ``value(W)`` and ``gradient(W)``. The
four classes here also have ``value_and_gradient(W, out)``, which computes the residual once and
writes the gradient into `out`; the movers use it where it exists. A loss keeps its own copy of
the arrays it is made from.
"""

import numpy as np

from dmflib import _checks


class Loss:
    """Base class: supplies `value` and `gradient` from `value_and_gradient`.

    Attributes
    ----------
    shape : tuple of int
        Shape ``(m, n)`` of the matrices that the loss takes.
    """

    shape: tuple

    def value(self, W):
        """Loss at W.

        Parameters
        ----------
        W : array_like, shape (m, n)

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If `W` has another shape or is not finite.
        """
        W = _checks.array("W", W, shape=self.shape)
        return self.value_and_gradient(W, np.empty(self.shape))[0]

    def gradient(self, W):
        """Gradient of the loss at W.

        Parameters
        ----------
        W : array_like, shape (m, n)

        Returns
        -------
        ndarray, shape (m, n)

        Raises
        ------
        ValueError
            If `W` has another shape or is not finite.
        """
        W = _checks.array("W", W, shape=self.shape)
        return self.value_and_gradient(W, np.empty(self.shape))[1]

    def value_and_gradient(self, W, out):
        """Loss at W, and its gradient written into `out`; inputs are not checked.

        Parameters
        ----------
        W : ndarray, shape (m, n)
        out : ndarray, shape (m, n)
            Overwritten; must not be `W`.

        Returns
        -------
        value : float
        gradient : ndarray
            `out` itself.
        """
        raise NotImplementedError


class FullObservation(Loss):
    r"""Half the squared Frobenius distance to a target (source A, equation 1.3).

    Parameters
    ----------
    target : array_like, shape (m, n)
        The matrix :math:`\hat W` in :math:`\tfrac12\|W-\hat W\|_F^2`.

    Raises
    ------
    ValueError
        If `target` is not a finite matrix.
    """

    def __init__(self, target):
        self.target = _checks.array("target", target, ndim=2).copy()
        self.shape = self.target.shape

    def value_and_gradient(self, W, out):
        np.subtract(W, self.target, out=out)
        return 0.5 * np.vdot(out, out), out


class Completion(Loss):
    """Half the sum of squared errors over the observed entries (source C, equation 7).

    Parameters
    ----------
    target : array_like, shape (m, n)
        Observed values; entries outside the mask are not read and may be NaN.
    mask : array_like of bool, shape (m, n)
        True where an entry is observed; at least one must be.

    Raises
    ------
    ValueError
        If the shapes differ, no entry is observed, or an observed entry is not finite.
    """

    def __init__(self, target, mask):
        try:
            values = np.asarray(target)
        except ValueError:  # rows of different lengths
            values = np.array(None)
        if values.ndim != 2 or values.dtype.kind not in "biuf":
            _checks.fail("target", target, "a real array with 2 dimensions")
        mask = _checks.array("mask", mask, shape=values.shape)
        if not np.isin(mask, (0, 1)).all():
            _checks.fail("mask", mask, "an array of True and False (or 1 and 0)")
        mask = mask.astype(bool)
        if not mask.any():
            _checks.fail("mask", mask, "True for at least one entry")
        self.mask = mask
        self.target = _checks.array("target", np.where(mask, values, 0.0), ndim=2)
        self.shape = self.target.shape
        self._weights = mask.astype(float)

    def value_and_gradient(self, W, out):
        np.subtract(W, self.target, out=out)
        out *= self._weights
        return 0.5 * np.vdot(out, out), out


class Sensing(Loss):
    r"""Half the sum of squared errors of linear measurements.

    The loss is :math:`\tfrac12\sum_i(\langle A_i,W\rangle-y_i)^2`, with the Frobenius inner
    product (source D, equation 1).

    Parameters
    ----------
    operators : array_like, shape (k, m, n)
        The matrices :math:`A_i`.
    measurements : array_like, shape (k,)
        The numbers :math:`y_i`.

    Raises
    ------
    ValueError
        If the shapes do not fit together or an entry is not finite.
    """

    def __init__(self, operators, measurements):
        self.operators = _checks.array("operators", operators, ndim=3).copy(order="C")
        count = len(self.operators)
        self.measurements = _checks.array("measurements", measurements, shape=(count,)).copy()
        self.shape = self.operators.shape[1:]
        self._rows = self.operators.reshape(count, -1)

    def value_and_gradient(self, W, out):
        residual = self._rows @ W.reshape(-1) - self.measurements
        out[...] = (residual @ self._rows).reshape(self.shape)
        return 0.5 * np.vdot(residual, residual), out


class Regression(Loss):
    r"""Mean squared error of a linear map on samples (source A, equation 1.1).

    The loss is :math:`\tfrac1M\sum_{i=1}^M\|Wx_i-y_i\|_2^2`. It equals
    ``FullObservation`` up to a constant and a factor 2 only for whitened inputs.

    Parameters
    ----------
    inputs : array_like, shape (n, M)
        One sample :math:`x_i` per column.
    outputs : array_like, shape (m, M)
        One answer :math:`y_i` per column.

    Raises
    ------
    ValueError
        If the numbers of samples differ or an entry is not finite.
    """

    def __init__(self, inputs, outputs):
        self.inputs = _checks.array("inputs", inputs, ndim=2).copy()
        samples = self.inputs.shape[1]
        self.outputs = _checks.array("outputs", outputs, shape=(None, samples)).copy()
        self.shape = (len(self.outputs), len(self.inputs))

    def value_and_gradient(self, W, out):
        samples = self.inputs.shape[1]
        residual = W @ self.inputs - self.outputs
        np.matmul(residual, self.inputs.T, out=out)
        out *= 2 / samples
        return np.vdot(residual, residual) / samples, out


def check_loss(loss, shape):
    """Raise unless `loss` has the three members of a loss and the wanted shape.

    Parameters
    ----------
    loss : object
    shape : (int, int)
        Shape of the matrices that the loss is to take.

    Raises
    ------
    ValueError
        If a member is missing or the shape differs.
    """
    missing = [name for name in ("shape", "value", "gradient") if not hasattr(loss, name)]
    if missing:
        _checks.fail("loss", loss, f"an object with shape, value and gradient; no {missing[0]}")
    if not isinstance(loss.shape, (tuple, list)) or tuple(loss.shape) != tuple(shape):
        raise ValueError(
            f"loss has shape {loss.shape}: loss must have the shape of the matrix that "
            f"moves, {tuple(shape)}"
        )
