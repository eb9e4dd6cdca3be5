"""The tests' own second oracle: the network and all its figures by plain extended precision, `np.longdouble`.

It shares nothing with `cubic_cli`: formulas, statistics and the bounds of rounding are written out once more, the bound
of an activation by trying the two ends of what z1 may be.
"""

from typing import NamedTuple

import numpy as np

U = 2.0**-24  # the rounding of one float32 operation
TINY = 2.0**-126  # what is smaller may be zero to a device
MOST = float(np.finfo(np.float32).max)


def wide(values):
    return np.asarray(values).astype(np.longdouble)


FUNCTIONS = {
    "relu": lambda z: np.where(z < 0, 0.0, z),
    "leaky_relu": lambda z: np.where(z < 0, z / 100, z),
    "identity": lambda z: z,
    "tanh": np.tanh,
    "gelu": lambda z: np.where(z < -60, 0, z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))),
}
# Of the activation itself, relative to its result; of gelu to z, for 1 + tanh cancels.
ROUNDINGS = {"relu": 0, "leaky_relu": 1, "identity": 0, "tanh": 6, "gelu": 6}


class Tensor(NamedTuple):
    """Values `[N, width]`, how far a float32 may lie from each, which overflow surely, and which possibly."""

    values: np.ndarray
    bound: np.ndarray
    surely: np.ndarray
    possibly: np.ndarray


class Bound(NamedTuple):
    """A figure, and how far the recorded one may lie from it; `tolerances` is what three of are an error."""

    value: float
    allowed: float


def tensors(parameters, x, activation):
    """Return z1, a1 and z2 over `x [N]` as `Tensor`s by name."""
    with np.errstate(all="ignore"):
        return _tensors(parameters, x, activation)


def _tensors(parameters, x, activation):
    w1, b1, w2, b2 = (wide(array).reshape(-1) for array in parameters)
    x = wide(x)[:, None]
    f = FUNCTIONS[activation]
    product = x * w1
    z1 = product + b1
    of_z1 = U * (np.abs(product) + np.abs(z1)) + TINY * (3 + np.abs(x) + np.abs(w1))
    a1 = f(z1)
    ends = (np.abs(f(z1 + of_z1) - a1), np.abs(f(z1 - of_z1) - a1))  # NaN at an infinity that has a value
    of_a1 = np.where(np.isfinite(z1), np.maximum(*ends), 0) + TINY
    size = np.where(z1 < -9, 0.0, np.abs(z1)) if activation == "gelu" else np.abs(a1)
    of_a1 = of_a1 + ROUNDINGS[activation] * U * np.where(np.isfinite(size), size, 0)
    terms = a1 * w2
    z2 = (terms.sum(axis=1) + b2[0])[:, None]
    sizes = (np.abs(terms).sum(axis=1) + abs(b2[0]))[:, None]
    hidden = len(w1)
    of_z2 = (of_a1 * np.abs(w2)).sum(axis=1)[:, None] + U * (np.sqrt(hidden) + 1) * sizes + U * hidden / 8 * np.abs(z2)
    of_z2 = of_z2 + TINY * hidden * (2 + np.abs(a1).max(axis=1)[:, None])
    limit = MOST * (1 - max(1e-5, hidden * U))
    over = ~(np.abs(product) <= limit) | ~(np.abs(z1) <= limit)
    over_a1 = over
    tiny_x = ((x != 0) & (np.abs(x) < TINY)).any() and np.isinf(w1).any()
    if activation == "relu" and (np.abs(w1) >= TINY).all() and not tiny_x:  # else ∞ · 0 is NaN
        over_a1 = over & ~((z1 < 0) & (product < 0))
    over_z2 = over_a1.any(axis=1, keepdims=True) | ~(sizes <= limit)
    found = {}
    for name, values, bound, possibly in (
        ("z1", z1, of_z1, over),
        ("a1", a1, of_a1, over_a1),
        ("z2", z2, of_z2, over_z2),
    ):
        surely = ~(np.abs(values) <= 2 * MOST - limit)
        found[name] = Tensor(values, bound, surely, surely | possibly)
    return found


def zeros(tensor):
    """Return how many values are zero at least and at most."""
    magnitude = np.abs(tensor.values)
    with np.errstate(invalid="ignore"):
        return int(((magnitude == 0) & (tensor.bound <= TINY)).sum()), int((magnitude <= tensor.bound).sum())


def spread(tensor):
    """Return mean and standard deviation over all values, which are finite, and the bound of both from the values'."""
    values, bound = tensor.values, tensor.bound
    mean = values.mean()
    std = np.sqrt(np.square(values - mean).mean())
    of_values = np.sqrt(np.square(bound).mean())
    return Bound(float(mean), float(of_values + 4 * U * (abs(mean) + std))), Bound(
        float(std), float(of_values + 4 * U * (std + np.abs(values).max()))
    )


def loss(z2, y):
    """Return the mean squared error of one batch, its bound, and the contract's scale, mean((|z2| + |y|)²)."""
    y = wide(y)[:, None]
    with np.errstate(all="ignore"):
        error = z2.values - y
        bound = z2.bound + 2 * U * np.abs(error) + TINY
        value = np.square(error).mean()
        allowed = (bound * (2 * np.abs(error) + bound)).mean() + 1e-5 * value + 2.0**-149
        return Bound(float(value), float(allowed)), float(np.square(np.abs(z2.values) + np.abs(y)).mean())


def slopes(activation, z):
    """Return f′(z), by the derivatives of the textbook."""
    if activation == "relu":
        return wide(z > 0)
    if activation == "leaky_relu":
        return np.where(z > 0, wide(1.0), wide(0.01))
    if activation == "tanh":
        return 1 / np.cosh(np.clip(z, -500, 500)) ** 2
    if activation == "gelu":
        z = np.clip(z, -60, 60)
        c = np.sqrt(2 / np.pi)
        t = c * (z + 0.044715 * z**3)
        return (1 + np.tanh(t)) / 2 + z / 2 * c * (1 + 0.134145 * z**2) / np.cosh(np.clip(t, -500, 500)) ** 2
    return np.ones_like(z)


def of_slopes(activation, z, of_z):
    """Return how far a float32 slope may lie from f′(z): by trying the ends of what z may be, and by its own terms."""
    f = slopes(activation, z)
    off = np.maximum(np.abs(slopes(activation, z + of_z) - f), np.abs(slopes(activation, z - of_z) - f))
    saturated = np.abs(z) > 9
    if activation == "tanh":  # 1 − tanh²
        terms = 1 + 2 * ROUNDINGS["tanh"] * np.tanh(z) ** 2
        off = off + np.where(saturated, np.abs(f), U * terms)
    if activation == "gelu":  # 1 + tanh, and z (1 − tanh²) times the derivative of what tanh is of
        inner = np.minimum(np.abs(z), 9)
        terms = ROUNDINGS["gelu"] * (0.5 + inner * (1 + 0.134145 * inner**2) * 0.8)
        off = off + np.where(saturated, np.where(z < 0, np.abs(f), 0.0), U * terms)
    return off + U * np.abs(f) + TINY


def gradients(parameters, x, y, activation):
    """Return the gradients of mean((z2 − y)²) by W1, b1, W2 and b2, each `[H]` or `[1]`, and how far each may be off.

    Roundings of samples add up to the sum of their magnitudes; those of a sum to a few for each of its terms.
    """
    seen = tensors(parameters, x, activation)
    w2 = wide(parameters.w2).reshape(-1)
    x, y = wide(x)[:, None], wide(y)[:, None]
    with np.errstate(all="ignore"):
        z1, a1, z2 = (seen[name].values for name in ("z1", "a1", "z2"))
        slope, of_slope = slopes(activation, z1), of_slopes(activation, z1, seen["z1"].bound)
        r = 2 * (z2 - y) / len(y)
        of_r = 2 * (seen["z2"].bound + U * np.abs(z2 - y) + TINY) / len(y)
        delta = r * w2 * slope
        of_delta = np.abs(w2) * (of_r * np.abs(slope) + np.abs(r) * of_slope) + 2 * U * np.abs(delta)
        of_delta = of_delta + TINY * (3 + np.abs(r) + np.abs(w2))  # each product, r and W2
        found = []
        for terms, bound in (
            (x * delta, np.abs(x) * of_delta + TINY * (1 + np.abs(delta))),
            (delta, of_delta),
            (a1 * r, np.abs(a1) * of_r + np.abs(r) * seen["a1"].bound + TINY),
            (r, of_r),
        ):
            value = terms.sum(axis=0)
            # 64 at a time: each addition rounds a partial sum, as large as the norm of its terms, or the sum of all.
            of_sum = 0
            for piece in np.split(terms, range(64, len(y), 64)):
                norm = np.sqrt((piece * piece).sum(axis=0))
                of_sum = of_sum + U * len(piece) * (norm + np.abs(piece.sum(axis=0)) / 4)
            found.append((value.astype(float), (bound.sum(axis=0) + of_sum).astype(float)))
    return [value for value, _ in found], [bound for _, bound in found]
