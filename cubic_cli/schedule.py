"""Two schedules of one computation: the forward pass over a block of samples, observed batch by batch.

`plain` is the definition: it makes `[pieces, S, H]` tensors by `network.forward` and summarises them. `by_unit` keeps
the samples on the minor axis and scans over the hidden units instead, so that no `[S, H]` tensor ever exists and
everything stays in the cache; its statistics are raw moments, exact enough for ordinary numbers only, and say so.

    S samples of a piece, H hidden, U units unrolled in one step of the scan
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cubic_cli.config import Activation
from cubic_cli.network import ACTIVATIONS, Parameters, forward
from cubic_cli.statistics import Statistics, summarise

UNROLL = 8  # more units in one step compile longer and run no faster
MAX_UNITS = (1 << 15) - 1  # of `by_unit`: two counts of units share one int32
_GROUP = 256  # samples, at most, whose sums are added in float32; the rest is added in float64 on the host
_PAGE = 1024  # values: where the arrays of the carry are a multiple apart, they compete for the same lines of the cache

# For these f(min z) is min f(z), bit for bit: they do not decrease, and are rounded at most once.
_MONOTONE = (Activation.relu, Activation.leaky_relu, Activation.identity)


class Extremes(NamedTuple):
    """The smallest and largest finite value of one tensor in each piece, `[pieces]`."""

    min: jax.Array
    max: jax.Array


class Moments(NamedTuple):
    """The sum, the sum of squares and the count of zeros of one tensor, by groups of samples of a piece `[groups]`."""

    total: jax.Array
    squares: jax.Array
    zeros: jax.Array


class Plain(NamedTuple):
    """What `plain` sees: the sum of the squared errors and the statistics of each tensor, by piece.

    The errors are multiplied by `error_scale`, a power of two, so that neither their squares nor the sum of these leave
    float32's range where the mean does not.
    """

    squared_error: jax.Array
    error_scale: jax.Array
    z1: Statistics
    a1: Statistics
    z2: Statistics


class ByUnit(NamedTuple):
    """What `by_unit` sees: the history's figures by piece and, if asked for, the moments over the block."""

    squared_error: jax.Array
    z1: Extremes
    a1: Extremes
    z2: Extremes
    moments: tuple[Moments, Moments, Moments] | None


def _mask(x: jax.Array, size: jax.Array) -> jax.Array:
    """Return which samples of `x [pieces, S]` are real, given each piece's `size [pieces]`."""
    return jnp.arange(x.shape[-1], dtype=jnp.int32)[None, :] < size[:, None]


def plain(activation: Activation, parameters: Parameters, x: jax.Array, y: jax.Array, size: jax.Array) -> Plain:
    """Observe the pieces `x` and `y` `[pieces, S]`, of which the first `size [pieces]` samples are real."""
    tensors = forward(parameters, x[..., None], ACTIVATIONS[activation])
    mask = _mask(x, size)[..., None]
    error = jnp.where(mask, tensors.z2 - y[..., None], 0.0)
    largest = jnp.max(jnp.where(jnp.isfinite(error), jnp.abs(error), 0.0), axis=(1, 2))
    scale = jnp.where(largest > 2.0**40, 2.0**-80, jnp.where(largest < 2.0**-40, 2.0**80, 1.0))
    scaled = error * scale[:, None, None]
    squared = jnp.sum(scaled * scaled, axis=(1, 2))
    return Plain(squared, scale, *(summarise(tensor, mask, (1, 2)) for tensor in tensors))


class _Seen(NamedTuple):
    """The carry of the scan over units: what is known of each sample, `[pieces · S]`, from the units so far."""

    z2: jax.Array
    z1: Extremes
    a1: Extremes | None
    sums: tuple[jax.Array, ...]  # of z1, z1², a1, a1²; the zeros of both in one int32


def _see_unit(activation: Activation, x: jax.Array, seen: _Seen, w1: jax.Array, b1: jax.Array, w2: jax.Array) -> _Seen:
    z1 = x * w1 + b1
    a1 = ACTIVATIONS[activation](z1)
    sums: tuple[jax.Array, ...] = ()
    if seen.sums:
        z, zz, a, aa, zeros = seen.sums
        zeros = jnp.where(a1 == 0, zeros + 1, zeros)
        zeros = jnp.where(z1 == 0, zeros + (1 << 16), zeros)
        sums = (z + z1, zz + z1 * z1, a + a1, aa + a1 * a1, zeros)
    return _Seen(seen.z2 + a1 * w2, _widen(seen.z1, z1), seen.a1 and _widen(seen.a1, a1), sums)


def _widen(seen: Extremes, values: jax.Array) -> Extremes:
    # Not jnp.minimum: it must propagate NaN, which costs more; a NaN shows in the squared error anyway.
    return Extremes(jnp.where(values < seen.min, values, seen.min), jnp.where(values > seen.max, values, seen.max))


def by_unit(
    activation: Activation, moments: bool, parameters: Parameters, x: jax.Array, y: jax.Array, size: jax.Array
) -> ByUnit:
    """Observe the pieces `x` and `y` `[pieces, S]`; samples beyond `size` must repeat a real one of their piece.

    What is not finite is not looked at: it shows as a `squared_error` that is not finite, or an infinite extreme of
    z1 (all that a hidden unit can swallow), and is for `plain` to count.
    """
    shape, flat_x = x.shape, x.reshape(-1)
    if flat_x.size % _PAGE == 0:
        flat_x = jnp.pad(flat_x, (0, 48), mode="edge")
    hidden = parameters.input_layer.bias.size
    empty = Extremes(jnp.full(flat_x.shape, jnp.inf), jnp.full(flat_x.shape, -jnp.inf))
    nothing = jnp.zeros(flat_x.shape)
    seen = _Seen(
        jnp.full(flat_x.shape, parameters.output_layer.bias[0]),
        empty,
        None if activation in _MONOTONE else empty,
        (nothing,) * 4 + (jnp.zeros(flat_x.shape, jnp.int32),) if moments else (),
    )
    units = (parameters.input_layer.weight[0], parameters.input_layer.bias, parameters.output_layer.weight[:, 0])

    def step(seen: _Seen, some: tuple[jax.Array, ...]) -> tuple[_Seen, None]:
        for unit in range(some[0].size):
            seen = _see_unit(activation, flat_x, seen, *(values[unit] for values in some))
        return seen, None

    whole = hidden - hidden % UNROLL
    if whole:
        seen, _ = jax.lax.scan(step, seen, tuple(values[:whole].reshape(-1, UNROLL) for values in units))
    seen, _ = step(seen, tuple(values[whole:] for values in units))
    a1 = Extremes(*map(ACTIVATIONS[activation], seen.z1)) if seen.a1 is None else seen.a1

    mask = _mask(x, size)
    error = jnp.where(mask, _real(seen.z2, shape) - y, 0.0)

    def by_piece(sample: Extremes) -> Extremes:
        return Extremes(jnp.min(_real(sample.min, shape), axis=1), jnp.max(_real(sample.max, shape), axis=1))

    return ByUnit(
        squared_error=jnp.sum(error * error, axis=1),
        z1=by_piece(seen.z1),
        a1=by_piece(a1),
        z2=by_piece(Extremes(seen.z2, seen.z2)),
        moments=_moments(seen, mask) if moments else None,
    )


def _moments(seen: _Seen, mask: jax.Array) -> tuple[Moments, Moments, Moments]:
    def grouped(values: jax.Array) -> jax.Array:
        rows = jnp.where(mask, _real(values, mask.shape), 0)
        if rows.shape[1] > _GROUP:
            rows = jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % _GROUP))).reshape(-1, _GROUP)
        return jnp.sum(rows, axis=1, dtype=values.dtype)

    z, zz, a, aa, zeros = seen.sums
    return (
        Moments(grouped(z), grouped(zz), grouped(zeros >> 16)),
        Moments(grouped(a), grouped(aa), grouped(zeros & 0xFFFF)),
        Moments(grouped(seen.z2), grouped(seen.z2 * seen.z2), grouped((seen.z2 == 0).astype(jnp.int32))),
    )


def _real(values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the values of the pieces in their shape, without what was added against `_PAGE`."""
    return values[: shape[0] * shape[1]].reshape(shape)
