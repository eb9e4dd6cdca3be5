"""The gradients of an epoch's loss, mean((z2 − y)²) over the samples, by `jax.grad`.

S samples of a piece, H hidden
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cubic_cli.config import Activation
from cubic_cli.data.source import Source
from cubic_cli.engine.compiler import undisturbed
from cubic_cli.engine.mesh import fetch, put
from cubic_cli.engine.passes import map_blocks
from cubic_cli.float32 import Float32, Float64
from cubic_cli.network import forward, mean_squared_error
from cubic_cli.parameters import Parameters

_SCALES = (2.0**-16, 2.0**-48, 2.0**-96, 2.0**-126)  # of errors whose products overflow, one after the other


class Sizes(NamedTuple):
    """How much of the work a device gets at a time."""

    piece: int = 64  # samples that it adds up, in any order: a sum of n may lose n roundings of its largest
    block: int = 1 << 20  # values of z1 in its memory
    blocks: int = 32  # dispatched together


_SIZES = Sizes()


def measure(
    parameters: Parameters, source: Source, activation: Activation, devices: list[Any], sizes: Sizes = _SIZES
) -> Parameters:
    """Return the gradient of the loss over all samples by each parameter, in its shape: units of the loss over its own.

    Pieces of blocks are differentiated in float32 on the devices and added in float64 on the host, which may hold what
    float32 does not.
    """
    piece = max(1, min(source.count, sizes.piece, sizes.block // parameters.hidden_size))
    pieces = max(1, min(-(-source.count // piece), sizes.block // (parameters.hidden_size * piece)))
    samples = pieces * piece
    blocks = len(devices) * min(sizes.blocks, -(-source.count // (samples * len(devices))))
    run, over = _compile(activation, tuple(devices))
    given = put(Parameters(*map(np.asarray, parameters)), NamedSharding(over.mesh, PartitionSpec()))

    def differentiate(x: Float32, y: Float32, scale: float) -> list[Float64]:
        used = np.where(np.arange(blocks * samples) < len(x), np.float32(scale), np.float32(0))
        padded = (np.pad(column, (0, used.size - len(x)), mode="edge") for column in (x, y))
        with undisturbed():
            arrays = put([column.reshape(blocks, pieces, piece) for column in (*padded, used)], over)
            return [parts.astype(np.float64) / scale**2 for parts in fetch(run(given, *arrays))]

    totals = [np.zeros(array.shape) for array in parameters]
    for start in range(0, source.count, blocks * samples):
        x, y = source.read(start, min(start + blocks * samples, source.count))
        found = differentiate(x, y, 1.0)
        # What overflowed on its way, once more by smaller errors. Nothing else: the smaller they are, the more of their
        # products fall below 2⁻¹²⁶, to zero.
        for scale in _SCALES:
            if all(np.isfinite(parts).all() for parts in found):
                break
            found = [np.where(np.isfinite(a), a, b) for a, b in zip(found, differentiate(x, y, scale), strict=True)]
        with np.errstate(all="ignore"):  # ∞ − ∞
            for total, parts in zip(totals, found, strict=True):
                total += parts.sum(axis=(0, 1))
    return Parameters(*(total / source.count for total in totals))


def squared_error(
    activation: Activation, parameters: Parameters, x: jax.Array, y: jax.Array, used: jax.Array
) -> jax.Array:
    """Return the sum of the squared errors over the samples of `x [S]` and `y [S]`, a scalar.

    `used [S]` is 0 where a sample is padding, else the power of two that its error is multiplied by: a product of an
    error near float32's end would be infinite, and times a slope of 0 no number.
    """
    z2 = forward(parameters, x[:, None], activation).z2[:, 0]
    return mean_squared_error(z2, y, used > 0, used) * jnp.sum(used > 0, dtype=z2.dtype)


@functools.lru_cache(16)
def _compile(activation: Activation, devices: tuple[Any, ...]) -> tuple[Callable[..., Parameters], NamedSharding]:
    slope = jax.vmap(jax.grad(functools.partial(squared_error, activation)), in_axes=(None, 0, 0, 0))

    def blocks(parameters: Parameters, x: jax.Array, y: jax.Array, used: jax.Array) -> Any:
        return jax.lax.map(lambda block: slope(parameters, *block), (x, y, used))

    loop, mesh = map_blocks(blocks, devices)
    return jax.jit(loop), NamedSharding(mesh, PartitionSpec("devices"))
