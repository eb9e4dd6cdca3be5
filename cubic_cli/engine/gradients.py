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
from cubic_cli.network import ACTIVATIONS, Tensors, forward, mean_squared_error
from cubic_cli.parameters import Parameters

_MAX_EXPONENT = 126  # of what sums of products may reach
_HALVED = 0.5 ** np.arange(127, dtype=np.float32)  # so often, and no oftener: it would be zero
_WITHIN_A_SLOPE = 5  # exponent of what gelu multiplies on its way to a slope of about 1: less than 32


class Sizes(NamedTuple):
    """How much of the work a device gets at a time."""

    piece: int = 256  # samples that it adds up, whatever the order: a sum of n numbers alike may lose n/4 roundings
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
    totals = [np.zeros(array.shape) for array in parameters]
    for start in range(0, source.count, blocks * samples):
        x, y = source.read(start, min(start + blocks * samples, source.count))
        used = np.arange(blocks * samples) < len(x)
        padded = (np.pad(column, (0, used.size - len(x)), mode="edge") for column in (x, y))
        with undisturbed():
            arrays = put([column.reshape(blocks, pieces, piece) for column in (*padded, used)], over)
            found, halvings = fetch(run(given, *arrays))
        with np.errstate(all="ignore"):  # ∞ − ∞
            for total, parts in zip(totals, found, strict=True):
                total += np.einsum("bp...,bp->...", parts, 4.0**halvings)
    return Parameters(*(total / source.count for total in totals))


def squared_error(
    activation: Activation, parameters: Parameters, x: jax.Array, y: jax.Array, used: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the sum of the squared errors over the samples of `x [S]` and `y [S]`, each error halved n times; and n.

    `used [S]` is false where a sample is padding. Errors are halved so often that no product of theirs on the way to a
    gradient leaves float32's range, though the forward pass did not; mostly not at all.
    """
    tensors = forward(parameters, x[:, None], activation)
    z2 = tensors.z2[:, 0]
    errors = jnp.where(used, z2 - y, 0)
    halvings = _halvings(activation, *jax.lax.stop_gradient((parameters.w2, x, tensors, errors)))
    scale = jnp.where(used, jnp.asarray(_HALVED)[halvings], 0)
    return mean_squared_error(z2, y, used, scale) * jnp.sum(used, dtype=z2.dtype), halvings


def _halvings(activation: Activation, w2: jax.Array, x: jax.Array, tensors: Tensors, errors: jax.Array) -> jax.Array:
    """Return how often to halve the `errors [S]`, from 0, for the gradients of their squares to stay in range."""
    slopes = jax.grad(lambda z1: jnp.sum(ACTIVATIONS[activation](z1)))(tensors.z1)
    # Twice an error is multiplied by a1; or by W2, within the slope, and on by the slope times x. S products are added.
    of_error, of_a1, of_w2, of_rest = map(_exponent, (errors, tensors.a1, w2, slopes * (x / 2)[:, None]))
    factor = jnp.maximum(of_a1, of_w2 + jnp.maximum(_WITHIN_A_SLOPE, of_rest + 1))
    reach = 1 + of_error + jnp.maximum(factor, 0) + errors.size.bit_length()
    return jnp.clip((reach - _MAX_EXPONENT + 1) // 2, 0, _HALVED.size - 1)


def _exponent(values: jax.Array) -> jax.Array:
    """Return the n for which 2ⁿ⁻¹ ≤ the largest magnitude < 2ⁿ."""
    return jnp.frexp(jnp.max(jnp.abs(values)))[1]


@functools.lru_cache(16)
def _compile(activation: Activation, devices: tuple[Any, ...]) -> tuple[Callable[..., Any], NamedSharding]:
    slope = jax.grad(functools.partial(squared_error, activation), has_aux=True)
    slopes = jax.vmap(slope, in_axes=(None, 0, 0, 0))

    def blocks(parameters: Parameters, x: jax.Array, y: jax.Array, used: jax.Array) -> Any:
        return jax.lax.map(lambda block: slopes(parameters, *block), (x, y, used))

    loop, mesh = map_blocks(blocks, devices)
    return jax.jit(loop), NamedSharding(mesh, PartitionSpec("devices"))
