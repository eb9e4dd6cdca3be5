"""The network, `1 → H → 1`, written out: parameters, initialisers, activations, forward, loss.

z1 = x W1 + b1,  a1 = f(z1),  z2 = a1 W2 + b2,  loss = mean((z2 − y)²)

x [B, 1], W1 [1, H], b1 [H], z1 and a1 [B, H], W2 [H, 1], b2 [1], z2 [B, 1], y [B, 1]
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cubic_cli.config import Activation, Initializer
from cubic_cli.parameters import Parameters


class Tensors(NamedTuple):
    """The named tensors of one forward pass."""

    z1: jax.Array
    a1: jax.Array
    z2: jax.Array


def relu(z: jax.Array) -> jax.Array:
    """Return `max(z, 0)`; NaN stays NaN and the zeros are +0."""
    return jnp.where(z <= 0, 0.0, z)


def leaky_relu(z: jax.Array) -> jax.Array:
    """Return `z` where it is positive and `0.01 z` elsewhere (Maas, Hannun and Ng, 2013)."""
    return jnp.where(z > 0, z, 0.01 * z)


def gelu(z: jax.Array) -> jax.Array:
    """Return `z/2 (1 + tanh(√(2/π) (z + 0.044715 z³)))`, JAX's default form (Hendrycks and Gimpel, 2016).

    Beyond ±8 the float32 tanh is ±1. It is held there, for where z³ overflows, −∞ · 0 is NaN, and the limit is 0; so
    is the gradient of a large z.
    """
    above = jnp.where(z < -8, -8.0, z)
    within = jnp.where(above > 8, 8.0, above)
    return 0.5 * above * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (within + 0.044715 * (within * within * within))))


_TRUNCATED_STD = 0.87962566103423978  # of the standard normal within ±2

ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    Activation.relu: relu,
    Activation.leaky_relu: leaky_relu,
    Activation.gelu: gelu,
    Activation.tanh: jnp.tanh,
    Activation.identity: lambda z: z,
}


def initialise(initializer: Initializer, hidden_size: int, seed: int | jax.Array) -> Parameters:
    """Return the first parameters, float32; the seed may be traced.

    `ones` and `zeros` fill weights and biases alike. The others draw the weights from one key of `seed` for each layer,
    of variance 2 / (in + out) (Glorot and Bengio, 2010) or 2 / in (He et al., 2015), and their biases are zero. The
    normal ones are truncated at two standard deviations, as `jax.nn.initializers` has them. The generator is always
    threefry2x32 in its partitionable form, whatever JAX is told elsewhere, so that the seed alone decides.

    Raises:
        MemoryError: `hidden_size` is beyond 2³¹.
    """
    if hidden_size >= 2**31:
        raise MemoryError  # XLA, which counts in 32 bits here and there, would abort
    if initializer in (Initializer.ones, Initializer.zeros):

        def filled(*shape: int) -> jax.Array:
            # By NumPy: each array that JAX fills is a program to compile.
            array: jax.Array = jax.device_put(np.full(shape, initializer is Initializer.ones, np.float32))
            return array

        return Parameters(filled(1, hidden_size), filled(hidden_size), filled(hidden_size, 1), filled(1))
    with jax.threefry_partitionable(True):
        drawn: Parameters = _draw(initializer, hidden_size, jnp.asarray(seed, jnp.uint32))
    return drawn


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw(initializer: Initializer, hidden_size: int, seed: jax.Array) -> Parameters:
    fan_in, fan_out = np.array([1.0, hidden_size]), np.array([hidden_size, 1.0])  # of both layers
    variance = 2 / (fan_in + fan_out if initializer.value.startswith("glorot") else fan_in)
    # Not `jax.random.key`: JAX_RANDOM_SEED_OFFSET would be added to the seed.
    keys = jax.random.split(jax.random.wrap_key_data(jnp.stack([jnp.uint32(0), seed]), impl="threefry2x32"))
    if initializer.value.endswith("uniform"):
        unit = jax.vmap(lambda key: jax.random.uniform(key, (hidden_size,), jnp.float32, -1, 1))(keys)
        scale = np.sqrt(3 * variance)
    else:
        unit = jax.vmap(lambda key: jax.random.truncated_normal(key, -2, 2, (hidden_size,), jnp.float32))(keys)
        scale = np.sqrt(variance) / _TRUNCATED_STD
    one, two = unit * scale.astype(np.float32)[:, None]
    return Parameters(one[None, :], jnp.zeros(hidden_size, jnp.float32), two[:, None], jnp.zeros(1, jnp.float32))


def linear(weight: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
    """Return `x W + b`; `x [..., in]`, `W [in, out]` and `b [out]` give `[..., out]`.

    Products keep full float32 on every device.
    """
    product = jnp.matmul(x, weight, precision=jax.lax.Precision.HIGHEST)
    return product + jnp.broadcast_to(bias, product.shape)


def forward(parameters: Parameters, x: jax.Array, activation: Activation = Activation.relu) -> Tensors:
    """Return the tensors of the forward pass over `x [..., B, 1]`."""
    z1 = linear(parameters.w1, parameters.b1, x)
    a1 = ACTIVATIONS[activation](z1)
    z2 = linear(parameters.w2, parameters.b2, a1)
    return Tensors(z1, a1, z2)


def mean_squared_error(
    z2: jax.Array, y: jax.Array, mask: jax.Array | None = None, scale: jax.Array | float = 1.0
) -> jax.Array:
    """Return `mean((scale · (z2 − y))²)` over the samples, a scalar; where a `mask` is given, over those it marks.

    A `scale` that is a power of two keeps squares in float32's range that would leave it; the loss is then the result
    over scale².

    Raises:
        ValueError: the shapes differ, while tracing; `[B, 1] − [B]` would silently be `[B, B]`.
    """
    if z2.shape != y.shape:
        raise ValueError(f"predictions {z2.shape} and targets {y.shape} must have one shape")
    squared = jnp.square(scale * (z2 - y))
    if mask is None:
        return jnp.mean(squared)
    return jnp.sum(squared, where=mask) / jnp.maximum(jnp.sum(mask, dtype=squared.dtype), 1)
