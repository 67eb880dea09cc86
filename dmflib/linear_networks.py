"""Deep linear networks: factors, their product, and the gradient of each factor.

Factors are a sequence ``W_1, ..., W_N``, the first applied first, so the product is
``W_N @ ... @ W_1``. ``W_i`` has shape ``(d_i, d_{i-1})`` and the product ``(d_N, d_0)``.
"""

from itertools import pairwise

import numpy as np

from dmflib import _checks
from dmflib.matrices import frobenius_norm


def check_factors(factors):
    """Return `factors` as a list of finite matrices that can be multiplied.

    Parameters
    ----------
    factors : sequence of array_like
        ``W_1, ..., W_N``; ``W_i`` has shape ``(d_i, d_{i-1})``.

    Returns
    -------
    list of ndarray

    Raises
    ------
    ValueError
        If there is no factor, one is not a finite matrix, or neighbours do not fit.
    """
    try:
        factors = list(factors)
    except TypeError:
        _checks.fail("factors", factors, "a sequence of matrices")
    if not factors:
        _checks.fail("factors", factors, "a sequence of at least one matrix")
    factors = [_checks.array(f"factors[{i}]", W, ndim=2) for i, W in enumerate(factors)]
    for i, (first, second) in enumerate(pairwise(factors)):
        if second.shape[1] != first.shape[0]:
            raise ValueError(
                f"factors[{i + 1}] has shape {second.shape}: factors[{i + 1}] must have "
                f"{first.shape[0]} columns, as many as factors[{i}] has rows"
            )
    return factors


def product(factors):
    """Product of the factors, the last one on the left.

    Parameters
    ----------
    factors : sequence of array_like
        ``W_1, ..., W_N``; ``W_i`` has shape ``(d_i, d_{i-1})``.

    Returns
    -------
    ndarray, shape (d_N, d_0)

    Raises
    ------
    ValueError
        If the factors do not fit together.
    """
    factors = check_factors(factors)
    result = factors[0].copy()
    for W in factors[1:]:
        result = W @ result
    return result


def factor_gradients(factors, gradient):
    r"""Gradient of the loss with respect to each factor (source A, section 1.4).

    By the chain rule the i-th one is
    :math:`(W_N\cdots W_{i+1})^T\,\nabla\ell(W)\,(W_{i-1}\cdots W_1)^T`.

    Parameters
    ----------
    factors : sequence of array_like
        ``W_1, ..., W_N``; ``W_i`` has shape ``(d_i, d_{i-1})``.
    gradient : array_like, shape (d_N, d_0)
        Gradient of the loss at the product.

    Returns
    -------
    list of ndarray
        The i-th has the shape of the i-th factor.

    Raises
    ------
    ValueError
        If the factors do not fit together or `gradient` has another shape than their product.
    """
    factors = check_factors(factors)
    shape = (factors[-1].shape[0], factors[0].shape[1])
    workspace = Backpropagation([W.shape for W in factors])
    workspace.multiply(factors)
    workspace.outer[-1][...] = _checks.array("gradient", gradient, shape=shape)
    workspace.distribute(factors)
    return workspace.gradients


class Backpropagation:
    """Memory and order of work for the gradients of all factors in 3(N-1) matrix products.

    ``multiply`` forms the partial products ``W_i ... W_1`` (N-1 products, the last is the
    product itself). ``distribute`` walks back from the gradient at the product, with one
    product for the gradient of each factor and one to pass on (2(N-1) products). All arrays
    are allocated once; the movers call the two methods thousands of times.

    Parameters
    ----------
    shapes : sequence of (int, int)
        Shapes of the factors, first applied first. They are not checked here.

    Attributes
    ----------
    partial : list of ndarray
        After ``multiply``: ``partial[i]`` is ``W_{i+1} ... W_1``. Before, it is overwritten.
    outer : list of ndarray
        ``outer[-1]`` takes the gradient at the product before ``distribute``.
    flat_gradient : ndarray
        All factor gradients, one after the other.
    gradients : list of ndarray
        The same memory, one matrix for each factor.
    evaluations : int
        How often ``evaluate`` was called.
    """

    def __init__(self, shapes):
        columns = shapes[0][1]
        self.partial = [None] + [np.empty((rows, columns)) for rows, _ in shapes[1:]]
        self.flat_gradient = np.empty(sum(rows * cols for rows, cols in shapes))
        self.gradients = views(self.flat_gradient, shapes)
        self.evaluations = 0
        # The gradient of the first factor is what is left at the end of the walk.
        self.outer = [self.gradients[0]] + [np.empty((rows, columns)) for rows, _ in shapes[1:]]

    def multiply(self, factors):
        """Form the partial products and return the product.

        Parameters
        ----------
        factors : list of ndarray

        Returns
        -------
        ndarray, shape (d_N, d_0)
            The last partial product; the next call overwrites it.
        """
        self.partial[0] = factors[0]
        for i in range(1, len(factors)):
            np.matmul(factors[i], self.partial[i - 1], out=self.partial[i])
        return self.partial[-1]

    def distribute(self, factors):
        """Turn the gradient in ``outer[-1]`` into the gradients of all factors.

        Parameters
        ----------
        factors : list of ndarray
            The same as in the call of ``multiply`` before.
        """
        for i in range(len(factors) - 1, 0, -1):
            np.matmul(self.outer[i], self.partial[i - 1].T, out=self.gradients[i])
            np.matmul(factors[i].T, self.outer[i], out=self.outer[i - 1])

    def evaluate(self, loss, factors):
        """Loss of the product; afterwards the gradients stand in ``gradients``.

        Parameters
        ----------
        loss : loss
            See `dmflib.losses`.
        factors : list of ndarray

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If the loss answers with a value or gradient of the wrong shape.
        """
        W = self.multiply(factors)
        self.evaluations += 1
        if hasattr(loss, "value_and_gradient"):
            value, _ = loss.value_and_gradient(W, self.outer[-1])
        elif not np.isfinite(W).all():
            return np.inf  # a reader's loss may refuse such a product; the mover reports it
        else:
            value, gradient = loss.value(W), loss.gradient(W)
            for name, answer, shape in (("value", value, ()), ("gradient", gradient, W.shape)):
                if np.shape(answer) != shape:
                    raise ValueError(
                        f"loss.{name}(W) has shape {np.shape(answer)}: loss.{name}(W) must have "
                        f"shape {shape}"
                    )
            self.outer[-1][...] = gradient
        self.distribute(factors)
        return value


def views(flat, shapes):
    """Matrices of the given shapes that share the memory of one vector.

    Parameters
    ----------
    flat : ndarray, shape (sum of all sizes,)
    shapes : sequence of (int, int)

    Returns
    -------
    list of ndarray
    """
    matrices, start = [], 0
    for rows, columns in shapes:
        matrices.append(flat[start : start + rows * columns].reshape(rows, columns))
        start += rows * columns
    return matrices


def imbalance(factors):
    """Largest Frobenius norm of :math:`W_{j+1}^TW_{j+1}-W_jW_j^T` over neighbouring factors.

    Gradient flow keeps each of these differences constant; a start is *balanced* when they
    vanish (source C, theorem 2).

    Parameters
    ----------
    factors : sequence of array_like
        ``W_1, ..., W_N``; ``W_i`` has shape ``(d_i, d_{i-1})``.

    Returns
    -------
    float
        Zero for a single factor.

    Raises
    ------
    ValueError
        If the factors do not fit together.
    """
    return float(max((frobenius_norm(D) for D in balance_defects(factors)), default=0.0))


def balance_defects(factors):
    """The matrices :math:`W_{j+1}^TW_{j+1}-W_jW_j^T`, constant along gradient flow.

    Parameters
    ----------
    factors : sequence of array_like
        ``W_1, ..., W_N``; ``W_i`` has shape ``(d_i, d_{i-1})``.

    Returns
    -------
    list of ndarray
        N-1 symmetric matrices; the j-th has shape ``(d_j, d_j)``.

    Raises
    ------
    ValueError
        If the factors do not fit together.
    """
    factors = check_factors(factors)
    return [V.T @ V - W @ W.T for W, V in pairwise(factors)]


def identical(n, depth, scale):
    """The identical start: every factor is `scale` times the identity (source A, 2.1).

    Parameters
    ----------
    n : int
        Size of the square factors.
    depth : int
        Number of factors, at least 1.
    scale : float
        Positive.

    Returns
    -------
    list of ndarray, each of shape (n, n)

    Raises
    ------
    ValueError
        If `n` or `depth` is not a positive integer or `scale` is not positive.
    """
    n = _checks.integer("n", n, at_least=1)
    depth = _checks.integer("depth", depth, at_least=1)
    scale = _checks.real("scale", scale, above=0)
    return [scale * np.eye(n) for _ in range(depth)]


def perturbed(n, depth, scale, perturbation):
    r"""The perturbed start: identical, but the first factor is a little smaller (source A, 3.1).

    Parameters
    ----------
    n : int
        Size of the square factors.
    depth : int
        Number of factors, at least 1.
    scale : float
        :math:`\alpha > 0`: the factors 2 to N are :math:`\alpha I`.
    perturbation : float
        :math:`\beta` with :math:`0<\beta<\alpha`: the first factor is
        :math:`(\alpha-\beta)I`.

    Returns
    -------
    list of ndarray, each of shape (n, n)

    Raises
    ------
    ValueError
        If a number is outside its range.
    """
    factors = identical(n, depth, scale)
    scale = float(scale)
    perturbation = _checks.real("perturbation", perturbation, above=0, below=scale)
    factors[0] = (scale - perturbation) * np.eye(len(factors[0]))
    return factors


def gaussian(widths, scale, rng=None):
    """Independent Gaussian entries, so that the product's have size ``scale / sqrt(d_0)``.

    The entries of ``W_i`` have standard deviation ``scale**(1/N) / sqrt(d_{i-1})``; those of
    the product then have standard deviation ``scale / sqrt(d_0)`` at every depth. For square
    factors this is the start of the experiments in source D.

    Parameters
    ----------
    widths : sequence of int
        ``d_0, ..., d_N``, at least two numbers.
    scale : float
        Positive.
    rng : numpy.random.Generator, int or None
        Source of randomness, or a seed.

    Returns
    -------
    list of ndarray

    Raises
    ------
    ValueError
        If `widths` has fewer than two entries or one is not a positive integer, or `scale` is
        not positive.
    """
    try:
        widths = list(widths)
    except TypeError:
        _checks.fail("widths", widths, "a sequence of at least two positive integers")
    if len(widths) < 2:
        _checks.fail("widths", widths, "a sequence of at least two positive integers")
    widths = [_checks.integer(f"widths[{i}]", d, at_least=1) for i, d in enumerate(widths)]
    scale = _checks.real("scale", scale, above=0)
    rng = _checks.generator("rng", rng)
    size = scale ** (1 / (len(widths) - 1))
    return [
        rng.normal(scale=size / np.sqrt(before), size=(after, before))
        for before, after in pairwise(widths)
    ]


def balanced(W0, depth):
    r"""Balanced factors of a given product, from its singular value decomposition.

    With :math:`W_0=U\Sigma V^T` and inner width ``min(m, n)``, the first factor is
    :math:`\Sigma^{1/N}V^T`, the last :math:`U\Sigma^{1/N}`, those between
    :math:`\Sigma^{1/N}`.

    Parameters
    ----------
    W0 : array_like, shape (m, n)
    depth : int
        Number of factors, at least 1.

    Returns
    -------
    list of ndarray

    Raises
    ------
    ValueError
        If `W0` is not a finite matrix or `depth` is not a positive integer.
    """
    W0 = _checks.array("W0", W0, ndim=2)
    depth = _checks.integer("depth", depth, at_least=1)
    if depth == 1:
        return [W0.copy()]
    U, sigma, Vt = np.linalg.svd(W0, full_matrices=False)
    root = sigma ** (1 / depth)
    inner = [np.diag(root) for _ in range(depth - 2)]
    return [root[:, None] * Vt, *inner, U * root]


def tilted(factors, ratio):
    """Factors with the same product and another balance.

    The first factor is multiplied by `ratio`, and each of the others is divided by
    ``ratio**(1/(N-1))``. If the factors were balanced, the others stay balanced among
    themselves; only the difference between the first two factors moves away from zero.

    Parameters
    ----------
    factors : sequence of array_like
        ``W_1, ..., W_N`` with N at least 2; ``W_i`` has shape ``(d_i, d_{i-1})``.
    ratio : float
        Positive; 1 changes nothing.

    Returns
    -------
    list of ndarray

    Raises
    ------
    ValueError
        If the factors do not fit together, there is only one, or `ratio` is not positive.
    """
    factors = check_factors(factors)
    if len(factors) < 2:
        _checks.fail("factors", factors, "a sequence of at least two matrices")
    ratio = _checks.real("ratio", ratio, above=0)
    share = ratio ** (1 / (len(factors) - 1))
    first, *others = factors
    return [ratio * first, *(W / share for W in others)]


def product_velocity(W, gradient, depth):
    r"""Velocity of the product of balanced factors that follow gradient flow.

    .. math:: -\sum_{j=1}^N(WW^T)^{(N-j)/N}\,\nabla\ell(W)\,(W^TW)^{(j-1)/N}

    (source C, theorem 2 and equation 14; the power 0 of any matrix is the identity). In the
    bases of singular vectors it multiplies entry (r, s) of :math:`U^T\nabla\ell\,V` by
    :math:`\sum_j\sigma_r^{2(N-j)/N}\sigma_s^{2(j-1)/N}`.

    Parameters
    ----------
    W : array_like, shape (m, n)
        The product, of any rank. Singular values below rounding,
        ``max(m, n) * 2.2e-16`` times the largest, count as zero.
    gradient : array_like, shape (m, n)
        Gradient of the loss at `W`.
    depth : int
        Number :math:`N` of factors, at least 1.

    Returns
    -------
    ndarray, shape (m, n)

    Raises
    ------
    ValueError
        If `W` or `gradient` is not a finite matrix, their shapes differ, or `depth` is not a
        positive integer.
    """
    W = _checks.array("W", W, ndim=2)
    gradient = _checks.array("gradient", gradient, shape=W.shape)
    depth = _checks.integer("depth", depth, at_least=1)
    U, sigma, Vt = np.linalg.svd(W)
    sigma[sigma <= max(W.shape) * np.finfo(float).eps * sigma[0]] = 0
    left, right = np.zeros(W.shape[0]), np.zeros(W.shape[1])
    left[: len(sigma)] = right[: len(sigma)] = sigma ** (2 / depth)
    powers = np.arange(depth)
    weights = (left[:, None] ** powers[::-1]) @ (right ** powers[:, None])
    return -U @ (weights * (U.T @ gradient @ Vt.T)) @ Vt


def sharpness(factors):
    r"""Largest eigenvalue of the loss's Hessian at factors that fit the target exactly.

    The loss is :math:`\tfrac12\|W_N\cdots W_1-\hat W\|_F^2`. Where the product is
    :math:`\hat W`, a change of the factors matters only through the change of the product, and
    the eigenvalue is the largest one of
    :math:`Z\mapsto\sum_j A_jA_j^TZB_j^TB_j` with :math:`A_j=W_N\cdots W_{j+1}` and
    :math:`B_j=W_{j-1}\cdots W_1`. Gradient descent is repelled from the minimiser if its step
    size exceeds 2 divided by this number.

    Parameters
    ----------
    factors : sequence of array_like
        ``W_1, ..., W_N``; ``W_i`` has shape ``(d_i, d_{i-1})``. The map is formed as a matrix
        with ``(d_N d_0)**2`` entries, so the product should be small.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the factors do not fit together.
    """
    factors = check_factors(factors)
    before = [np.eye(factors[0].shape[1])]
    for W in factors[:-1]:
        before.append(W @ before[-1])
    after = [np.eye(factors[-1].shape[0])]
    for W in factors[:0:-1]:
        after.append(after[-1] @ W)
    terms = zip(after[::-1], before, strict=True)
    return float(np.linalg.eigvalsh(sum(np.kron(A @ A.T, B.T @ B) for A, B in terms))[-1])
