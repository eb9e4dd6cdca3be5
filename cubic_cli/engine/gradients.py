"""The gradients of an epoch's loss, by `jax.grad`, and how large a step down them may be.

L(θ) = mean((z2 − y)²) over the samples, θ = (W1, b1, W2, b2);  a step of plain gradient descent is θ − η ∂L/∂θ

N samples, S samples of a block, H hidden
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from numpy.typing import NDArray

from cubic_cli.config import Activation
from cubic_cli.data.problem import Float32, Float64
from cubic_cli.data.source import Source, spread_indices
from cubic_cli.engine.passes import map_blocks
from cubic_cli.network import ACTIVATIONS, Parameters, by_name, forward
from cubic_cli.reference import verify

LEARNING_RATE = 0.01  # of the steps that are measured: what textbooks begin with
_BLOCK_VALUES = 1 << 20  # values of z1 in one block: bounds the memory of a device
_BLOCKS = 32  # blocks of one device dispatched at a time
_SEARCH_VALUES = 1 << 20  # values of z1 that stand for all when the largest learning rate is looked for
_MIN_SEARCH_SAMPLES = 256


def measure(parameters: Parameters, source: Source, activation: Activation, devices: list[Any]) -> dict[str, Float64]:
    """Return the gradient of the loss over all samples by the parameters' names, in their shapes.

    Blocks are differentiated in float32 on the devices and added in float64 on the host.
    """
    hidden = parameters.input_layer.bias.size
    samples = max(1, min(source.count, _BLOCK_VALUES // hidden))
    blocks = len(devices) * min(_BLOCKS, -(-source.count // (samples * len(devices))))
    run, over = _compile(activation, tuple(devices))
    totals = {name: np.zeros(array.shape) for name, array in by_name(parameters).items()}
    for start in range(0, source.count, blocks * samples):
        x, y = source.read(start, min(start + blocks * samples, source.count))
        used = np.zeros(blocks * samples, np.float32)
        used[: len(x)] = 1
        padded = (np.pad(column, (0, used.size - len(x)), mode="edge") for column in (x, y))
        arrays = jax.device_put([column.reshape(blocks, samples) for column in (*padded, used)], over)
        for name, parts in by_name(run(parameters, *arrays)).items():
            totals[name] += parts.sum(axis=0, dtype=np.float64)
    return {name: total / source.count for name, total in totals.items()}


def squared_error(
    activation: Activation, parameters: Parameters, x: jax.Array, y: jax.Array, used: jax.Array
) -> jax.Array:
    """Return the sum of the squared errors over the samples of `x [S]` and `y [S]` where `used [S]` is 1, a scalar."""
    z2 = forward(parameters, x[:, None], ACTIVATIONS[activation]).z2[:, 0]
    return jnp.sum(used * jnp.square(z2 - y))


@functools.lru_cache(16)
def _compile(activation: Activation, devices: tuple[Any, ...]) -> tuple[Callable[..., Parameters], NamedSharding]:
    loop, mesh = map_blocks(jax.grad(functools.partial(squared_error, activation)), devices)
    return jax.jit(loop), NamedSharding(mesh, PartitionSpec("devices"))


def describe(
    gradients: dict[str, Float64], parameters: dict[str, Float32], source: Source, activation: Activation
) -> dict[str, Any]:
    """Return the record's `gradients`.

    `norm` is Euclidean. `step_ratio` is the length of a step at `learning_rate` over that of the parameter it moves,
    null for a parameter of zeros. `largest_learning_rate` is explained at the function of that name.
    """
    rows = []
    for name, gradient in gradients.items():
        norm, length = _norm(gradient), _norm(parameters[name])
        rows.append(
            {
                "name": name,
                "shape": list(gradient.shape),
                "norm": norm,
                "min": float(gradient.min()),
                "max": float(gradient.max()),
                "step_ratio": LEARNING_RATE * norm / length if length > 0 else None,
            }
        )
    spread = search_indices(source.count, parameters["input_layer.bias"].size)
    largest = largest_learning_rate(parameters, gradients, *source.take(spread), activation)
    return {"parameters": rows, "learning_rate": LEARNING_RATE, "largest_learning_rate": largest}


def search_indices(count: int, hidden: int) -> NDArray[np.int64]:
    """Return which of `count` samples, evenly spread, stand for all when the largest learning rate is looked for."""
    return spread_indices(count, max(_MIN_SEARCH_SAMPLES, _SEARCH_VALUES // hidden))


def _norm(values: NDArray[Any]) -> float:
    largest = float(np.abs(values).max())
    if not 0.0 < largest < math.inf:
        return largest
    return largest * float(np.linalg.norm((values / largest).ravel()))  # squares may leave the range


def largest_learning_rate(
    parameters: dict[str, Float32], gradients: dict[str, Float64], x: Float32, y: Float32, activation: Activation
) -> float | None:
    """Return the largest η up to which no step `θ − η ∂L/∂θ` raises the loss over `x [n]` and `y [n]`, in float64.

    It is looked for upward from small steps, by doublings and then by bisection to a relative 1e-4, so it is the first
    η beyond which the loss rises, though it may fall again later. Infinite where no step raises the loss; None where
    there is no way down: the gradient is zero or all rounding, or the loss is not finite.
    """
    slope = sum(float(np.square(gradient).sum()) for gradient in gradients.values())
    if not 0 < slope < math.inf:
        return None
    xs, ys = x.astype(np.float64), y.astype(np.float64)

    def answer(rate: float) -> Float64:
        moved = {name: parameters[name] - rate * gradients[name] for name in parameters}
        with np.errstate(all="ignore"):
            return verify.forward(verify.unpack(moved), xs, activation)[2]

    before = answer(0.0)
    error = before - ys

    def raises(rate: float) -> bool:
        # (e + d)² − e² = d (d + 2e): near the bottom the two losses agree in all their digits.
        with np.errstate(all="ignore"):
            change = answer(rate) - before
            return not np.mean(change * (change + 2.0 * error)) <= 0

    with np.errstate(all="ignore"):
        start = float(np.mean(np.square(error)))
    if not 0 < start < math.inf:
        return None
    # On the straight line down, the loss would be gone at start / slope; a loss that curves rises long before, and near
    # its bottom so long before that the search begins lower.
    gone = start / slope
    low = next((rate for power in (-30, -60, -90) if not raises(rate := gone * 2.0**power)), None)
    if low is None:
        return None
    while not raises(high := 2 * low):
        low = high
        if high > gone * 2.0**60:
            return math.inf
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if raises(middle) else (middle, high)
    return low
