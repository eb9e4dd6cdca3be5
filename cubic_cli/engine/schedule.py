"""Two schedules of one computation: the forward pass over a block of samples, observed batch by batch.

`plain` is the definition: it makes `[pieces, S, H]` tensors by `network.forward` and summarises them. `by_unit` keeps
the samples on the minor axis and scans over the hidden units instead, so that no `[S, H]` tensor ever exists and
everything stays in the cache; its statistics are raw moments, exact enough for ordinary numbers only, and say so.

    S samples of a piece, H hidden, U units unrolled in one step of the scan
"""

import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cubic_cli.config import Activation
from cubic_cli.network import Parameters, activate, forward
from cubic_cli.statistics import Statistics, summarise

UNROLL = 4  # more units in one step compile longer and run no faster
MAX_UNITS = (1 << 15) - 1  # of `by_unit`: two counts of units share one int32
_GROUP = 16  # samples of a block, then blocks, whose sums are added in float32; the host adds these in float64
_PAGE = 1024  # values: where the arrays of the carry are a multiple apart, they compete for the same lines of the cache

# For these f(min z) is min f(z), bit for bit: they do not decrease, and are rounded at most once.
_MONOTONE = (Activation.relu, Activation.leaky_relu, Activation.identity)


class Extremes(NamedTuple):
    """The smallest and largest finite value of one tensor in each piece, `[pieces]`."""

    min: jax.Array
    max: jax.Array


class Moments(NamedTuple):
    """The sum, the sum of squares and the count of zeros of a tensor, by groups of samples."""

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
    """What `by_unit` sees: the history's figures by piece and, if asked for, the moments over the block.

    The extremes of a1 are None where they follow from those of z1: `complete` fills them in.
    """

    squared_error: jax.Array
    z1: Extremes
    a1: Extremes | None
    z2: Extremes
    moments: tuple[Moments, Moments, Moments] | Moments | None


def _is_monotone(activation: Activation | jax.Array) -> bool:
    return isinstance(activation, Activation) and activation in _MONOTONE


def _mask(x: jax.Array, size: jax.Array, axis: int = 1) -> jax.Array:
    """Return which samples of `x`, those of a piece along `axis`, are real, given each piece's `size [pieces]`."""
    return jax.lax.broadcasted_iota(jnp.int32, x.shape, axis) < jnp.expand_dims(size, axis)


def plain(
    activation: Activation | jax.Array, parameters: Parameters, x: jax.Array, y: jax.Array, size: jax.Array
) -> Plain:
    """Observe the pieces `x` and `y` `[pieces, S]`, of which the first `size [pieces]` samples are real."""
    tensors = forward(parameters, x[..., None], functools.partial(activate, activation))
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
    sums: tuple[jax.Array, ...]  # of z1, z1², a1, a1²; the zeros of both, two int32 in the bits of a float32


def _see_units(
    activation: Activation | jax.Array,
    x: jax.Array,
    seen: _Seen,
    w1: jax.Array,
    b1: jax.Array,
    w2: jax.Array,
    start: jax.Array | None = None,
) -> _Seen:
    """Add a few units to what is seen; their part of z2 is added up from `start` on, if given, before the carry's.

    Each figure is written from `x` on, all of it, and every array is float32: so XLA fuses all figures into one loop,
    and there LLVM computes a unit once. XLA must not find the common parts first (it has no `cse` pass), for it would
    store them. Products are added in one order that holds for every program: of `a b + c d` LLVM rounds either first.
    """
    units = range(w1.size)

    def z1(unit: int) -> jax.Array:
        return x * w1[unit] + b1[unit]

    def a1(unit: int) -> jax.Array:
        return activate(activation, z1(unit))

    if not _is_monotone(activation):
        a1 = functools.cache(a1)  # exponentials are worth storing

    def is_zero(unit: int) -> jax.Array:  # of a1; relu compares so anyway
        return z1(unit) <= 0 if activation is Activation.relu else a1(unit) == 0

    def add(seen: jax.Array, value: Callable[[int], jax.Array]) -> jax.Array:
        return functools.reduce(operator.add, map(value, units), seen)

    def widen(seen: Extremes, value: Callable[[int], jax.Array]) -> Extremes:
        return Extremes(
            functools.reduce(_smaller, map(value, units), seen.min),
            functools.reduce(_larger, map(value, units), seen.max),
        )

    sums: tuple[jax.Array, ...] = ()
    if seen.sums:
        z, zz, a, aa, bits = seen.sums
        zeros = _counts(bits)
        for unit in units:
            zeros = jnp.where(is_zero(unit), zeros + 1, zeros)
            zeros = jnp.where(z1(unit) == 0, zeros + (1 << 16), zeros)
        sums = (
            add(z, z1),
            add(zz, lambda unit: _square(z1(unit))),
            add(a, a1),
            add(aa, lambda unit: _square(a1(unit))),
            jax.lax.bitcast_convert_type(zeros, jnp.float32),
        )
    z2 = add(seen.z2 if start is None else start, lambda unit: a1(unit) * w2[unit])
    z2 = z2 if start is None else seen.z2 + z2  # of few units first: it rounds less
    return _Seen(z2, widen(seen.z1, z1), seen.a1 and widen(seen.a1, a1), sums)


# Not jnp.minimum: it must propagate NaN, which costs more; a NaN shows in the squared error anyway.
def _smaller(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(b < a, b, a)


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(b > a, b, a)


def _square(value: jax.Array) -> jax.Array:
    return value * value


def _counts(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, jnp.int32)


def by_unit(
    activation: Activation | jax.Array,
    moments: bool,
    axis: int,
    parameters: Parameters,
    x: jax.Array,
    y: jax.Array,
    size: jax.Array,
) -> ByUnit:
    """Observe the pieces `x` and `y`; samples beyond `size` must repeat a real one of their piece.

    They are `[pieces, S]`, or `[S, pieces]` if the `axis` of the samples is 0.

    What is not finite is not looked at: it shows as a `squared_error` that is not finite, or an infinite extreme of
    z1 (all that a hidden unit can swallow), and is for `plain` to count.
    """
    shape, flat_x = x.shape, x.reshape(-1)
    if flat_x.size % _PAGE == 0:
        flat_x = jnp.pad(flat_x, (0, 48), mode="edge")
    hidden, bias = parameters.input_layer.bias.size, parameters.output_layer.bias
    steps = hidden // UNROLL
    empty = Extremes(*(jnp.full(flat_x.shape, end, jnp.float32) for end in (jnp.inf, -jnp.inf)))
    nothing = jnp.zeros(flat_x.shape, jnp.float32)  # also where JAX's default is float64
    seen = _Seen(
        nothing if steps else jnp.broadcast_to(bias, flat_x.shape),
        empty,
        None if _is_monotone(activation) else empty,
        (nothing,) * 5 if moments else (),
    )
    units = (parameters.input_layer.weight[0], parameters.input_layer.bias, parameters.output_layer.weight[:, 0])

    def step(seen: _Seen, some: tuple[jax.Array, ...]) -> tuple[_Seen, None]:
        return _see_units(activation, flat_x, seen, *some), None

    if steps:
        some = (values[: steps * UNROLL].reshape(steps, UNROLL) for values in units)
        seen, _ = jax.lax.scan(step, seen, (*some, jnp.pad(bias, (0, steps - 1))))
    if hidden % UNROLL:
        seen, _ = step(seen, tuple(values[steps * UNROLL :] for values in units))

    mask = _mask(x, size, axis)
    error = jnp.where(mask, _real(seen.z2, shape) - y, 0.0)

    def by_piece(sample: Extremes) -> Extremes:
        return Extremes(jnp.min(_real(sample.min, shape), axis=axis), jnp.max(_real(sample.max, shape), axis=axis))

    return ByUnit(
        squared_error=jnp.sum(error * error, axis=axis),
        z1=by_piece(seen.z1),
        a1=seen.a1 and by_piece(seen.a1),
        z2=by_piece(Extremes(seen.z2, seen.z2)),
        moments=_moments(seen, mask) if moments else None,
    )


def complete(activation: Activation | None, seen: ByUnit) -> ByUnit:
    """Return what `by_unit` saw of a device's blocks with the extremes of a1, and the moments by groups of blocks.

    Both are sooner done for all blocks at once than for each. The activation may be None where the extremes are there.
    """
    a1 = seen.a1
    if a1 is None:
        assert activation is not None
        a1 = Extremes(*(activate(activation, end) for end in seen.z1))

    def grouped(*of_tensors: jax.Array) -> jax.Array:
        values = jnp.stack(of_tensors, axis=1)  # an array more is dearer to fetch than its values
        rows = jnp.pad(values, ((0, -len(values) % _GROUP), (0, 0), (0, 0)))
        return jnp.sum(rows.reshape(-1, _GROUP, *rows.shape[1:]), axis=1, dtype=values.dtype)

    return seen._replace(a1=a1, moments=seen.moments and jax.tree.map(grouped, *seen.moments))


def _moments(seen: _Seen, mask: jax.Array) -> tuple[Moments, Moments, Moments]:
    # The groups are of samples far apart, whatever their batch: sums over the major axis are quick.
    used = jnp.pad(mask.reshape(-1), (0, seen.z2.size - mask.size))

    def grouped(values: jax.Array) -> jax.Array:
        rows = jnp.pad(jnp.where(used, values, 0), (0, -used.size % _GROUP)).reshape(_GROUP, -1)
        return jnp.sum(rows, axis=0, dtype=values.dtype)

    z, zz, a, aa, bits = seen.sums
    zeros = _counts(bits)
    return (
        Moments(grouped(z), grouped(zz), grouped(zeros >> 16)),
        Moments(grouped(a), grouped(aa), grouped(zeros & 0xFFFF)),
        Moments(grouped(seen.z2), grouped(_square(seen.z2)), grouped((seen.z2 == 0).astype(jnp.int32))),
    )


def _real(values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the values of the pieces in their shape, without what was added against `_PAGE`."""
    return values[: shape[0] * shape[1]].reshape(shape)
