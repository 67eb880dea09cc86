r"""Experiments on the border of the theory: noise, ReLU, and tensors.

Three small laboratories, each as large as its question needs. Stochastic descent on a diagonal
network of depth 2, many walks at once, with the effective start of every walk and its prediction
to first order in the step size. Fully connected networks with ReLU or without it, with gradients
written by hand. Tensors of order three as sums of products of vectors (CP), completed from some of
their entries. The last two move by :func:`descend`, which follows the gradient flow of a stack of
problems, each with its own step.

Little here is a theorem. What is proved is in the docstrings of `mean_square_gradient`,
`loss_integral`, `balance_defects`, `component_speeds` and `rank_one_entry_bound`.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from dmflib import _checks, bregman

# --- stochastic descent on a diagonal network of depth 2 ----------------------------------------


def mean_square_gradient(A, residual, batch, label_noise=0.0):
    r"""Mean square of each entry of a gradient estimated from a few noisy rows.

    For :math:`g=\frac mb\sum_{i\in B}a_i(r_i+\delta\omega_i)` with `batch` rows :math:`B` drawn
    without repetition and independent standard :math:`\omega_i`,

    .. math:: \mathbb E\,g_j^2=\bar g_j^2+\frac{m-b}{b(m-1)}
              \Bigl(m\sum_ia_{ij}^2r_i^2-\bar g_j^2\Bigr)+\frac mb\,\delta^2\sum_ia_{ij}^2,
              \qquad\bar g=A^{\mathsf T}r .

    Parameters
    ----------
    A : array_like, shape (m, n)
    residual : array_like, shape (m,)
        The vector :math:`r=Ax-y`.
    batch : int
        The number :math:`b`, from 1 to m.
    label_noise : float
        The standard deviation :math:`\delta`, not negative.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    ValueError
        If the shapes do not fit together or a number is outside its range.
    """
    A, r = _problem(A, residual, "residual")
    batch = _batch(batch, len(A))
    delta = _checks.real("label_noise", label_noise, at_least=0)
    spread = _spread(len(A), batch)
    full = (r @ A) ** 2
    rows = len(A) * (r**2 @ A**2)
    return full + spread * (rows - full) + len(A) / batch * delta**2 * (A**2).sum(axis=0)


def loss_integral(x, scale):
    r"""Integral over time of the squared residual of the flow that ends at a given solution.

    At depth 2, for :math:`x=u^{\odot2}-v^{\odot2}` from :math:`u=v=\alpha\mathbf 1`, the flow of
    :math:`\frac12\|Ax-y\|_2^2` satisfies

    .. math:: \int_0^\infty\|Ax(t)-y\|_2^2\,\mathrm dt=\frac12\sum_j
              \Bigl(x_j\operatorname{arcsinh}\frac{x_j}{2\alpha^2}
              -\sqrt{x_j^2+4\alpha^4}+2\alpha^2\Bigr),\qquad x=x(\infty).

    Parameters
    ----------
    x : array_like, shape (n,)
        The limit of the flow.
    scale : float
        The start :math:`\alpha`, positive.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    x = _checks.array("x", x, ndim=1)
    scale = _checks.real("scale", scale, above=0)
    z = np.abs(x) / scale**2
    # The root minus 2 is z**2 / (root + 2), which does not cancel for small z.
    return float(scale**2 / 2 * (z * np.arcsinh(z / 2) - z**2 / (np.hypot(z, 2) + 2)).sum())


def residual_moments(A, y, scale, *, rtol=1e-8):
    r"""Integral over time of the matrix :math:`rr^{\mathsf T}` of residuals along the flow.

    The flow of depth 2 from :math:`u=v=\alpha\mathbf 1` is followed in its m dual coordinates
    until every residual is below :math:`10^{-5}` of the largest entry of `y`.

    Parameters
    ----------
    A : array_like, shape (m, n)
        With independent rows.
    y : array_like, shape (m,)
        Not zero.
    scale : float
        The start, positive.
    rtol : float
        Relative tolerance of the integration, between 1e-12 and 1e-3.

    Returns
    -------
    moments : ndarray, shape (m, m)
        Its trace is what `loss_integral` says of the limit.
    limit : ndarray, shape (n,)

    Raises
    ------
    ValueError
        If the shapes do not fit together or a number is outside its range.
    """
    from scipy.integrate import solve_ivp

    A, y = _problem(A, y)
    scale = _checks.real("scale", scale, above=0)
    rtol = _checks.real("rtol", rtol, at_least=1e-12, at_most=1e-3)
    m, size = len(A), np.abs(y).max()
    if size == 0:
        _checks.fail("y", y, "not zero")
    if np.linalg.matrix_rank(A) < m:
        _checks.fail("A", A, "a matrix with independent rows")
    upper = np.triu_indices(m)

    def product(xi):
        return 2 * scale**2 * np.sinh(2 * (xi @ A))

    def velocity(_, state):
        r = y - A @ product(state[:m])
        return np.concatenate([r, np.outer(r, r)[upper]])

    def settled(_, state):
        return np.abs(y - A @ product(state[:m])).max() - 1e-5 * size

    settled.terminal = True
    start = np.zeros(m + len(upper[0]))
    with np.errstate(over="ignore", invalid="ignore"):  # a trial step may overshoot; it is refused
        path = solve_ivp(
            velocity, (0, 1e9), start, "DOP853", events=settled, rtol=rtol, atol=rtol * 1e-2 * size
        )
    if path.status != 1:
        raise ArithmeticError(f"the flow was lost at time {path.t[-1]:g}: {path.message}")
    moments = np.zeros((m, m))
    moments[upper] = path.y[m:, -1]
    return moments + np.triu(moments, 1).T, product(path.y[:m, -1])


def predicted_rates(A, moments, batch):
    r"""How fast the logarithm of the effective start falls with the step size, to first order.

    Without label noise :math:`\log(\alpha_j/\alpha)\approx-\eta\rho_j`, where :math:`2\rho_j` is
    the integral of `mean_square_gradient` along the flow.

    Parameters
    ----------
    A : array_like, shape (m, n)
    moments : array_like, shape (m, m)
        What `residual_moments` returned.
    batch : int
        From 1 to m.

    Returns
    -------
    ndarray, shape (n,)
        The numbers :math:`\rho_j`.

    Raises
    ------
    ValueError
        If the shapes do not fit together or a number is outside its range.
    """
    A = _checks.array("A", A, ndim=2)
    m = len(A)
    moments = _checks.array("moments", moments, shape=(m, m))
    spread = _spread(m, _batch(batch, m))
    full = np.einsum("ij,ik,kj->j", A, moments, A)
    return (full + spread * (m * (np.diag(moments) @ A**2) - full)) / 2


@dataclass(frozen=True)
class Walks:
    """Where many stochastic walks ended.

    Parameters
    ----------
    x : ndarray, shape (k, n)
        The products u**2 - v**2.
    log_starts : ndarray, shape (k, 2, n)
        Logarithms of the factors u and v from which the flow would pass through the end.
    residuals : ndarray, shape (k,)
        Largest absolute entry of A x - y.
    steps : int
        Number of steps made.
    left_at : ndarray of int, shape (k,)
        The step at which a walk was stopped because a factor would have grown more than a
        millionfold in that step or vanished; 0 for walks that were not.
    """

    x: np.ndarray
    log_starts: np.ndarray
    residuals: np.ndarray
    steps: int
    left_at: np.ndarray


def stochastic_walks(
    A, y, scale, step_sizes, steps, *, batch, label_noise=0.0, noisy_steps=0, tolerance=1e-4,
    rng=None,
):  # fmt: skip
    r"""Stochastic descent on two vectors of factors, one walk for each given step size.

    One step multiplies :math:`u` by :math:`1-\eta g` and :math:`v` by :math:`1+\eta g` with the
    estimate :math:`g` of `mean_square_gradient`. The sums of :math:`\log|1\mp\eta g|\pm\eta g`
    give the effective start.

    Parameters
    ----------
    A : array_like, shape (m, n)
    y : array_like, shape (m,)
    scale : float
        Start of all entries of both vectors, positive.
    step_sizes : array_like, shape (k,)
        One for each walk, positive; repeat a number to repeat the walk with other draws.
    steps : int
        At most so many steps.
    batch : int
        Rows in one step, drawn without repetition, from 1 to m.
    label_noise : float
        Standard deviation of the noise added to the answers, anew in each step.
    noisy_steps : int
        The noise is added in the first so many steps.
    tolerance : float
        Ends when no entry of :math:`Ax-y` exceeds it in any walk, which is looked at every 50
        steps after the noisy ones.
    rng : numpy.random.Generator, int or None

    Returns
    -------
    Walks

    Raises
    ------
    ValueError
        If the shapes do not fit together or a number is outside its range.
    """
    A, y = _problem(A, y)
    scale = _checks.real("scale", scale, above=0)
    eta = _checks.array("step_sizes", step_sizes, ndim=1)[:, None].copy()
    if (eta <= 0).any():
        _checks.fail("step_sizes", eta[:, 0], "positive")
    steps = _checks.integer("steps", steps, at_least=0)
    m, batch = len(A), _batch(batch, len(A))
    delta = _checks.real("label_noise", label_noise, at_least=0)
    noisy = _checks.integer("noisy_steps", noisy_steps, at_least=0)
    tolerance = _checks.real("tolerance", tolerance, at_least=0)
    rng = _checks.generator("rng", rng)
    k = len(eta)
    u, v = np.full((2, k, A.shape[1]), scale)
    bend, left_at, step = np.zeros((2, k, A.shape[1])), np.zeros(k, int), 0
    rows = np.arange(k)[:, None]
    while True:
        residual = (u**2 - v**2) @ A.T - y
        if step % 50 == 0 and step >= noisy:
            active = np.abs(residual).max(axis=1) > tolerance
            if not active[left_at == 0].any():
                break
        if step >= steps:
            break
        if delta and step < noisy:
            residual = residual + delta * rng.standard_normal(residual.shape)
        if batch == 1:
            chosen = rng.integers(m, size=k)
            move = m * eta * residual[rows[:, 0], chosen, None] * A[chosen]
        else:
            if batch < m:
                chosen = np.argpartition(rng.random((k, m)), batch, axis=1)[:, :batch]
                keep = np.zeros((k, m))
                keep[rows, chosen] = m / batch
                residual = residual * keep
            move = eta * (residual @ A)
        step += 1
        ends = np.abs(np.stack([1 - move, 1 + move]))
        bad = ~((ends.min(axis=(0, 2)) > 0) & (ends.max(axis=(0, 2)) < 1e6))
        if bad.any():
            left_at[bad], eta[bad], move[bad], ends[:, bad] = step, 0.0, 0.0, 1.0
        bend += np.log(ends)
        bend[0] += move
        bend[1] -= move
        u, v = u * ends[0], v * ends[1]
    x = u**2 - v**2
    starts = np.log(scale) + bend.transpose(1, 0, 2)
    return Walks(x, starts, np.abs(x @ A.T - y).max(axis=1), step, left_at)


def distance_to_nearest(A, x, log_starts):
    r"""How far a solution is from the limit of the flow from given factors, relatively.

    Parameters
    ----------
    A : array_like, shape (m, n)
    x : array_like, shape (n,)
        Not zero.
    log_starts : array_like, shape (2, n)
        Logarithms of the two vectors of factors.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the shapes do not fit together or `x` is zero.
    """
    A, x = _checks.array("A", A, ndim=2), _checks.array("x", x, ndim=1)
    if len(x) != A.shape[1] or not x.any():
        _checks.fail("x", x, f"a nonzero vector of length {A.shape[1]}")
    logs = _checks.array("log_starts", log_starts, shape=(2, len(x)))
    nearest = bregman.minimizer(A, A @ x, np.exp(2 * logs), 2, signed=True)
    return float(np.linalg.norm(nearest - x) / np.linalg.norm(x))


def _spread(m, batch):
    """Share of the variance between rows that is left in the mean of a batch."""
    return (m - batch) / (batch * max(m - 1, 1))


def _batch(batch, m):
    batch = _checks.integer("batch", batch, at_least=1)
    if batch > m:
        _checks.fail("batch", batch, f"at most the number of rows, {m}")
    return batch


def _problem(A, y, name="y"):
    A = _checks.array("A", A, ndim=2)
    return A, _checks.array(name, y, shape=(len(A),))


# --- descent of a stack of problems -------------------------------------------------------------


@dataclass(frozen=True)
class Descent:
    """Where a stack of descents ended and what was seen on the way.

    Parameters
    ----------
    parts : tuple of ndarray, each of shape (k, ...)
        The parameters of the k problems.
    losses : ndarray, shape (k,)
    times : ndarray, shape (k,)
        Sums of the steps, the time of the flow.
    steps : int
        Evaluations of the gradient.
    seen : tuple of ndarray
        Times (r, k), losses (r, k) and what `observe` returned (r, ...), at every record.
    """

    parts: tuple
    losses: np.ndarray
    times: np.ndarray
    steps: int
    seen: tuple


def descend(
    evaluate, parts, steps, *, step_size=1e-2, accuracy=0.25, tolerance=0.0, observe=None,
    record=50,
):  # fmt: skip
    r"""Follow the gradient flow of a stack of problems, each with a step that fits its loss.

    A step :math:`\eta` is kept if the loss falls by :math:`\eta\|\nabla L\|^2` up to the fraction
    `accuracy`, more or less, and the next one is a fifth longer; otherwise it is undone and
    halved. So a step is short against all time scales of the flow, at the bottom of a valley and
    on the side of a saddle.

    Parameters
    ----------
    evaluate : callable
        ``evaluate(parts)`` returns the losses, shape (k,), and the gradients, a sequence like
        `parts`.
    parts : sequence of array_like, each of shape (k, ...)
    steps : int
        Number of evaluations, at least 1.
    step_size : float
        The first step, positive.
    accuracy : float
        Between 0 and 1; smaller is nearer to the flow.
    tolerance : float
        Problems with a loss at most this large rest.
    observe : callable, optional
        ``observe(parts)`` returns an array that is recorded.
    record : int
        Evaluations between two records, if `observe` is given.

    Returns
    -------
    Descent

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    if not callable(evaluate):
        _checks.fail("evaluate", evaluate, "a function evaluate(parts)")
    if observe is not None and not callable(observe):
        _checks.fail("observe", observe, "a function observe(parts) or None")
    parts = [_checks.array("parts", part, min_ndim=2) for part in parts]
    if not parts or len({len(part) for part in parts}) != 1:
        _checks.fail("parts", [part.shape for part in parts], "arrays with one first length")
    steps = _checks.integer("steps", steps, at_least=1)
    eta = np.full(len(parts[0]), _checks.real("step_size", step_size, above=0))
    accuracy = _checks.real("accuracy", accuracy, above=0, below=1)
    tolerance = _checks.real("tolerance", tolerance, at_least=0)
    record = _checks.integer("record", record, at_least=1)
    losses, gradients = evaluate(parts)
    times, seen = np.zeros(len(eta)), []
    for step in range(steps):
        if observe is not None and step % record == 0:
            seen.append((times.copy(), losses.copy(), observe(parts)))
        length = np.where(losses > tolerance, eta, 0.0)
        slope = sum((g.reshape(len(g), -1) ** 2).sum(axis=1) for g in gradients)
        if not (length * slope).any():
            break
        with np.errstate(over="ignore", invalid="ignore"):
            trial = [
                p - length.reshape(-1, *[1] * (p.ndim - 1)) * g
                for p, g in zip(parts, gradients, strict=True)
            ]
            new_losses, new_gradients = evaluate(trial)
            expected = length * slope
            good = np.abs(losses - new_losses - expected) <= accuracy * expected
        good |= expected <= 1e-12 * losses  # the change of the loss is rounding and says nothing
        times += np.where(good, length, 0.0)
        eta = np.where(length > 0, np.minimum(eta * np.where(good, 1.2, 0.5), 1e12), eta)
        losses = np.where(good, new_losses, losses)
        for old, new in ((parts, trial), (gradients := list(gradients), new_gradients)):
            for i, array in enumerate(new):
                old[i] = np.where(good.reshape(-1, *[1] * (array.ndim - 1)), array, old[i])
    if observe is not None:
        seen.append((times.copy(), losses.copy(), observe(parts)))
        seen = [np.array(column) for column in zip(*seen, strict=True)]
    return Descent(tuple(parts), losses, times, step + 1, tuple(seen))


# --- networks with and without ReLU -------------------------------------------------------------


def random_weights(widths, scale, networks, rng=None):
    """Gaussian weights of a stack of networks, of spectral norms near the scale.

    Parameters
    ----------
    widths : sequence of int
        Inputs, hidden layers, outputs: at least two numbers.
    scale : float
        Positive; the entries of a layer have the standard deviation scale / (√rows + √columns).
    networks : int
        Size of the stack, at least 1.
    rng : numpy.random.Generator, int or None

    Returns
    -------
    list of ndarray, shapes (networks, widths[j + 1], widths[j])

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    if np.ndim(widths) != 1 or len(widths) < 2:
        _checks.fail("widths", widths, "a sequence of at least two integers")
    widths = [_checks.integer("widths", width, at_least=1) for width in widths]
    scale = _checks.real("scale", scale, above=0)
    networks = _checks.integer("networks", networks, at_least=1)
    rng = _checks.generator("rng", rng)
    return [
        scale / (np.sqrt(m) + np.sqrt(n)) * rng.standard_normal((networks, m, n))
        for n, m in itertools.pairwise(widths)
    ]


def network_output(weights, inputs, activation="relu"):
    """Outputs of a stack of networks without biases; the last layer is linear.

    Parameters
    ----------
    weights : sequence of array_like, shapes (k, n_out, n_in)
    inputs : array_like, shape (k, n_in, samples) or (n_in, samples)
    activation : str
        ``"relu"`` or ``"linear"``.

    Returns
    -------
    ndarray, shape (k, n_out, samples)

    Raises
    ------
    ValueError
        If the shapes do not fit together or the activation is unknown.
    """
    weights, inputs = _network(weights, inputs)
    _checks.choice("activation", activation, ("relu", "linear"))
    return _forward(weights, inputs, activation)[-1]


def network_gradients(weights, inputs, targets, activation="relu"):
    r"""Losses of a stack of networks and their gradients, by the chain rule written out.

    The loss is :math:`\frac1{2M}\sum_i\|f(x_i)-y_i\|_2^2` over M samples; the derivative of ReLU
    at zero is taken to be zero.

    Parameters
    ----------
    weights : sequence of array_like, shapes (k, n_out, n_in)
    inputs : array_like, shape (k, n_in, M) or (n_in, M)
    targets : array_like, shape (k, n_out, M) or (n_out, M)
    activation : str
        ``"relu"`` or ``"linear"``.

    Returns
    -------
    losses : ndarray, shape (k,)
    gradients : list of ndarray, shapes as `weights`

    Raises
    ------
    ValueError
        If the shapes do not fit together or the activation is unknown.
    """
    weights, inputs = _network(weights, inputs)
    _checks.choice("activation", activation, ("relu", "linear"))
    targets = _checks.array("targets", targets, min_ndim=2)
    if targets.shape[-2:] != (weights[-1].shape[1], inputs.shape[-1]) or targets.ndim > 3:
        expected = f"{weights[-1].shape[1]} outputs by {inputs.shape[-1]} samples"
        raise ValueError(f"targets has shape {targets.shape}: targets must be {expected}")
    return _backward(weights, inputs, targets, activation)


def train(weights, inputs, targets, steps, *, activation="relu", **options):
    """Train a stack of networks by `descend` on the loss of `network_gradients`.

    Parameters
    ----------
    weights : sequence of array_like, shapes (k, n_out, n_in)
    inputs : array_like, shape (k, n_in, M) or (n_in, M)
    targets : array_like, shape (k, n_out, M) or (n_out, M)
    steps : int
        Evaluations of the gradient.
    activation : str
        ``"relu"`` or ``"linear"``.
    **options
        Passed on to `descend`.

    Returns
    -------
    Descent

    Raises
    ------
    ValueError
        If the shapes do not fit together or an argument is outside its range.
    """
    network_gradients(weights, inputs, targets, activation)  # checks the shapes once
    inputs, targets = np.asarray(inputs, float), np.asarray(targets, float)
    return descend(lambda w: _backward(w, inputs, targets, activation), weights, steps, **options)


def low_rank_task(inputs, outputs, rank, samples, tasks, *, activation="relu", rng=None):
    r"""Random regression tasks :math:`y=B\,\sigma(Cx)` with few hidden neurons.

    The rows of C and the columns of B are orthonormal, the inputs are standard normal.

    Parameters
    ----------
    inputs, outputs : int
        Sizes of x and y, at least `rank`.
    rank : int
        Number of hidden neurons of the teacher, at least 1.
    samples : int
        At least 1.
    tasks : int
        Number of independent tasks.
    activation : str
        ``"relu"`` or ``"linear"``.
    rng : numpy.random.Generator, int or None

    Returns
    -------
    X : ndarray, shape (tasks, inputs, samples)
    Y : ndarray, shape (tasks, outputs, samples)
    teacher : list of two ndarrays
        C, shape (tasks, rank, inputs), and B, shape (tasks, outputs, rank).

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    rank = _checks.integer("rank", rank, at_least=1)
    inputs = _checks.integer("inputs", inputs, at_least=rank)
    outputs = _checks.integer("outputs", outputs, at_least=rank)
    samples = _checks.integer("samples", samples, at_least=1)
    tasks = _checks.integer("tasks", tasks, at_least=1)
    _checks.choice("activation", activation, ("relu", "linear"))
    rng = _checks.generator("rng", rng)
    C = np.linalg.qr(rng.standard_normal((tasks, inputs, rank)))[0].transpose(0, 2, 1)
    B = np.linalg.qr(rng.standard_normal((tasks, outputs, rank)))[0]
    X = rng.standard_normal((tasks, inputs, samples))
    return X, _forward([C, B], X, activation)[-1], [C, B]


def balance_defects(weights):
    r"""The matrices :math:`W_{j+1}^{\mathsf T}W_{j+1}-W_jW_j^{\mathsf T}` of a stack of networks.

    Gradient flow keeps them if the network is linear. With ReLU it keeps their diagonals: what
    leaves a neuron minus what enters it, in squares (Du, Hu and Lee 2018).

    Parameters
    ----------
    weights : sequence of array_like, shapes (k, n_out, n_in)

    Returns
    -------
    list of ndarray, shapes (k, n, n), one for each hidden layer

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """
    weights = _stacks(weights)
    return [
        B.transpose(0, 2, 1) @ B - A @ A.transpose(0, 2, 1) for A, B in itertools.pairwise(weights)
    ]


def _stacks(weights):
    """Checked stacks of weights."""
    weights = [_checks.array("weights", W, ndim=3) for W in weights]
    shapes = [W.shape for W in weights]
    chained = all(a[1] == b[2] for a, b in itertools.pairwise(shapes))
    if not weights or not chained or len({shape[0] for shape in shapes}) != 1:
        _checks.fail("weights", shapes, "stacks of one size, each layer fitting the next")
    return weights


def _network(weights, inputs):
    """Checked stacks of weights, and inputs that fit."""
    weights = _stacks(weights)
    k, _, n = weights[0].shape
    inputs = _checks.array("inputs", inputs, min_ndim=2)
    fits = inputs.ndim == 2 or (inputs.ndim == 3 and len(inputs) == k)
    if not fits or inputs.shape[-2] != n:
        raise ValueError(
            f"inputs has shape {inputs.shape}: inputs must be of shape ({n}, samples), "
            f"or a stack of {k} such"
        )
    return weights, inputs


def _forward(weights, inputs, activation):
    """What enters each layer, and the output."""
    layers = [inputs]
    for j, W in enumerate(weights):
        z = W @ layers[-1]
        hidden = activation == "relu" and j < len(weights) - 1
        layers.append(np.maximum(z, 0) if hidden else z)
    return layers


def _backward(weights, inputs, targets, activation):
    layers = _forward(weights, inputs, activation)
    M = inputs.shape[-1]
    delta = (layers[-1] - targets) / M
    losses = M / 2 * (delta**2).sum(axis=(1, 2))
    gradients = [None] * len(weights)
    for j in reversed(range(len(weights))):
        gradients[j] = delta @ np.swapaxes(layers[j], -1, -2)
        if j:
            delta = np.swapaxes(weights[j], -1, -2) @ delta
            if activation == "relu":
                delta = delta * (layers[j] > 0)
    return losses, gradients


# --- tensors of order three as sums of products of vectors --------------------------------------


def cp_tensor(factors):
    r"""Tensors :math:`T=\sum_ra_r\otimes b_r\otimes c_r` from their factors.

    Parameters
    ----------
    factors : sequence of three array_like, shapes (k, d_1, R), (k, d_2, R), (k, d_3, R)

    Returns
    -------
    ndarray, shape (k, d_1, d_2, d_3)

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """
    return _cp(_factors(factors))


def cp_gradients(factors, target, mask):
    r"""Losses :math:`\frac12\sum_\Omega(T-\hat T)^2` of a stack of CP tensors, and gradients.

    Parameters
    ----------
    factors : sequence of three array_like, shapes (k, d_1, R), (k, d_2, R), (k, d_3, R)
    target : array_like, shape (d_1, d_2, d_3) or (k, d_1, d_2, d_3)
    mask : array_like of bool, shape as `target`
        True where an entry is observed.

    Returns
    -------
    losses : ndarray, shape (k,)
    gradients : list of three ndarrays, shapes as `factors`

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """
    factors = _factors(factors)
    return _cp_gradients(factors, *_observed(factors, target, mask))


def cp_completion(factors, target, mask, steps, **options):
    """Complete tensors by `descend` on the loss of `cp_gradients`.

    Parameters
    ----------
    factors : sequence of three array_like, shapes (k, d_1, R), (k, d_2, R), (k, d_3, R)
    target : array_like, shape (d_1, d_2, d_3) or (k, d_1, d_2, d_3)
    mask : array_like of bool, shape as `target`
    steps : int
        Evaluations of the gradient.
    **options
        Passed on to `descend`.

    Returns
    -------
    Descent

    Raises
    ------
    ValueError
        If the shapes do not fit together or an argument is outside its range.
    """
    factors = _factors(factors)
    target, mask = _observed(factors, target, mask)
    return descend(lambda parts: _cp_gradients(parts, target, mask), factors, steps, **options)


def random_factors(shape, components, scale, tensors, rng=None):
    """Gaussian CP factors whose components have norms near the scale.

    Parameters
    ----------
    shape : (int, int, int)
    components : int
        The number R, at least 1.
    scale : float
        Typical norm of one component a ⊗ b ⊗ c, positive.
    tensors : int
        Size of the stack.
    rng : numpy.random.Generator, int or None

    Returns
    -------
    list of three ndarrays, shapes (tensors, d, components)

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    if np.ndim(shape) != 1 or len(shape) != 3:
        _checks.fail("shape", shape, "three integers")
    shape = [_checks.integer("shape", d, at_least=1) for d in shape]
    components = _checks.integer("components", components, at_least=1)
    scale = _checks.real("scale", scale, above=0)
    tensors = _checks.integer("tensors", tensors, at_least=1)
    rng = _checks.generator("rng", rng)
    return [
        scale ** (1 / 3) / np.sqrt(d) * rng.standard_normal((tensors, d, components)) for d in shape
    ]


def component_norms(factors):
    r"""Norms :math:`\|a_r\|\|b_r\|\|c_r\|` of the components of CP tensors.

    Parameters
    ----------
    factors : sequence of three array_like, shapes (k, d_1, R), (k, d_2, R), (k, d_3, R)

    Returns
    -------
    ndarray, shape (k, R)
        Not sorted. Their sum bounds the tensor's nuclear norm from above.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """
    return np.prod([np.linalg.norm(F, axis=1) for F in _factors(factors)], axis=0)


def component_speeds(factors, target, mask):
    r"""How fast gradient flow changes the norm of each component, by a formula.

    With :math:`\gamma_r=-\langle G,\hat a_r\otimes\hat b_r\otimes\hat c_r\rangle`, where
    :math:`G` is the gradient of the loss at the tensor and hats are unit vectors,

    .. math:: \frac{\mathrm d}{\mathrm dt}\|a_r\|\|b_r\|\|c_r\|
              =\gamma_r\,\bigl(\|b_r\|^2\|c_r\|^2+\|a_r\|^2\|c_r\|^2+\|a_r\|^2\|b_r\|^2\bigr),

    which is :math:`3\gamma_rs_r^{4/3}` for equal norms, :math:`s_r` being the component's norm
    (Razin, Maman and Cohen 2021, theorem 1).

    Parameters
    ----------
    factors : sequence of three array_like, shapes (k, d_1, R), (k, d_2, R), (k, d_3, R)
        Without zero columns.
    target : array_like, shape (d_1, d_2, d_3) or (k, d_1, d_2, d_3)
    mask : array_like of bool, shape as `target`

    Returns
    -------
    ndarray, shape (k, R)

    Raises
    ------
    ValueError
        If the shapes do not fit together or a column is zero.
    """
    factors = _factors(factors)
    target, mask = _observed(factors, target, mask)
    sizes = [np.linalg.norm(F, axis=1) for F in factors]
    if min(size.min() for size in sizes) == 0:
        _checks.fail("factors", "a zero column", "three stacks without zero columns")
    units = [F / size[:, None] for F, size in zip(factors, sizes, strict=True)]
    G = mask * (_cp(factors) - target)
    pull = -np.einsum("kijl,kir,kjr,klr->kr", G, *units)
    a, b, c = (size**2 for size in sizes)
    return pull * (b * c + a * c + a * b)


def corner_problem(corner=0.0):
    r"""Completion problem for a 2×2×2 tensor that sets norm against rank.

    Observed are :math:`T_{122}=T_{212}=T_{221}=1` and :math:`T_{222}=\epsilon`. With
    :math:`\epsilon\ne0` exactly one tensor of rank one fits, and its hidden corner is
    :math:`T_{111}=1/\epsilon^2`; with :math:`\epsilon=0` none does, but some come arbitrarily
    near.

    Parameters
    ----------
    corner : float
        The number :math:`\epsilon`.

    Returns
    -------
    target : ndarray, shape (2, 2, 2)
        Zero where nothing is observed.
    mask : ndarray of bool, shape (2, 2, 2)

    Raises
    ------
    ValueError
        If `corner` is not a finite number.
    """
    target, mask = np.zeros((2, 2, 2)), np.zeros((2, 2, 2), bool)
    target[0, 1, 1] = target[1, 0, 1] = target[1, 1, 0] = 1.0
    target[1, 1, 1] = _checks.real("corner", corner)
    mask[0, 1, 1] = mask[1, 0, 1] = mask[1, 1, 0] = mask[1, 1, 1] = True
    return target, mask


def rank_one_entry_bound(loss):
    r"""Least hidden corner of a tensor of rank one at a given loss of `corner_problem`.

    For :math:`\epsilon=0` and :math:`\rho=\sqrt{2\ell}<1` every tensor of rank one has

    .. math:: |T_{111}|\ge\frac{(1-r)^2}{2r},\qquad r=\sqrt{1+\rho^2}-1,

    and no larger bound holds.

    Parameters
    ----------
    loss : array_like
        Above 0 and below 1/2.

    Returns
    -------
    ndarray or float

    Raises
    ------
    ValueError
        If a loss is outside its range.
    """
    loss = _checks.array("loss", loss)
    if (loss <= 0).any() or (loss >= 0.5).any():
        _checks.fail("loss", loss, "above 0 and below 1/2")
    r = 2 * loss / (np.sqrt(1 + 2 * loss) + 1)
    return ((1 - r) ** 2 / (2 * r))[()]


def cp_flow(factors, target, mask, t_final, *, tolerance=0.0, rtol=1e-8):
    """Gradient flow of one CP tensor by an integrator for stiff equations.

    Where a valley is narrow and long, as in `corner_problem`, `descend` would need very many
    steps.

    Parameters
    ----------
    factors : sequence of three array_like, shapes (1, d_1, R), (1, d_2, R), (1, d_3, R)
    target : array_like, shape (d_1, d_2, d_3)
    mask : array_like of bool, shape as `target`
    t_final : float
        Time of the end, positive.
    tolerance : float
        Ends earlier when the loss falls to this number.
    rtol : float
        Relative tolerance, between 1e-12 and 1e-3.

    Returns
    -------
    Descent
        What is seen are the norms of the components at the integrator's own times.

    Raises
    ------
    ValueError
        If the shapes do not fit together or a number is outside its range.
    """
    from scipy.integrate import solve_ivp

    factors = _factors(factors)
    if len(factors[0]) != 1:
        _checks.fail("factors", [F.shape for F in factors], "stacks of one tensor")
    target, mask = _observed(factors, target, mask)
    t_final = _checks.real("t_final", t_final, above=0)
    tolerance = _checks.real("tolerance", tolerance, at_least=0)
    rtol = _checks.real("rtol", rtol, at_least=1e-12, at_most=1e-3)
    cuts = np.cumsum([0] + [F.size for F in factors])

    def parts(state):
        return [
            state[i:j].reshape(F.shape)
            for i, j, F in zip(cuts[:-1], cuts[1:], factors, strict=True)
        ]

    def velocity(_, state):
        return -np.concatenate([g.ravel() for g in _cp_gradients(parts(state), target, mask)[1]])

    def fitted(_, state):
        return _cp_gradients(parts(state), target, mask)[0][0] - tolerance

    fitted.terminal = True
    start = np.concatenate([F.ravel() for F in factors])
    smallest = rtol * np.abs(start[start != 0]).min(initial=1.0)
    path = solve_ivp(
        velocity, (0, t_final), start, "LSODA", events=fitted, rtol=rtol, atol=smallest
    )
    if not path.success:
        raise ArithmeticError(f"the flow was lost after {path.t[-1]:g}: {path.message}")
    states = [parts(state) for state in path.y.T]
    losses = np.array([_cp_gradients(state, target, mask)[0] for state in states])
    norms = np.array([component_norms(state) for state in states])
    seen = (path.t[:, None], losses, norms)
    return Descent(tuple(states[-1]), losses[-1], path.t[-1:], path.nfev, seen)


def _cp(factors):
    a, b, c = factors
    k, R = a.shape[0], a.shape[2]
    pairs = (a[:, :, None] * b[:, None]).reshape(k, -1, R)
    shape = (k, a.shape[1], b.shape[1], c.shape[1])
    return (pairs @ c.transpose(0, 2, 1)).reshape(shape)


def _cp_gradients(factors, target, mask):
    a, b, c = factors
    k, R = a.shape[0], a.shape[2]
    pairs = (a[:, :, None] * b[:, None]).reshape(k, -1, R)
    error = (pairs @ c.transpose(0, 2, 1)).reshape(k, a.shape[1], b.shape[1], c.shape[1])
    error = mask * (error - target)
    flat = error.reshape(k, -1, c.shape[1])
    inner = (flat @ c).reshape(k, a.shape[1], b.shape[1], R)  # error with c put in
    gradient_a = (inner * b[:, None]).sum(axis=2)
    gradient_b = (inner * a[:, :, None]).sum(axis=1)
    gradient_c = flat.transpose(0, 2, 1) @ pairs
    return (error**2).sum(axis=(1, 2, 3)) / 2, [gradient_a, gradient_b, gradient_c]


def _factors(factors):
    factors = [_checks.array("factors", F, ndim=3) for F in factors]
    sizes = {(F.shape[0], F.shape[2]) for F in factors}
    if len(factors) != 3 or len(sizes) != 1:
        _checks.fail(
            "factors", [F.shape for F in factors], "three stacks (k, d, R) with one k and one R"
        )
    return factors


def _observed(factors, target, mask):
    """Targets and masks that fit the factors."""
    shape = tuple(F.shape[1] for F in factors)
    target = _checks.array("target", target, min_ndim=3)
    if target.shape not in (shape, (len(factors[0]), *shape)):
        raise ValueError(
            f"target has shape {target.shape}: target must be of shape {shape}, "
            f"or a stack of {len(factors[0])} such"
        )
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != target.shape or not mask.any():
        _checks.fail("mask", mask, f"booleans of shape {target.shape}, not all False")
    return target, mask
