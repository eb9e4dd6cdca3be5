"""Two schedules of one computation: the forward pass over a block of samples, observed batch by batch.

`plain` is the definition: it makes `[pieces, S, H]` tensors by `network.forward` and summarises them. `by_unit` keeps
the samples on the minor axis and scans over the hidden units instead, so that no `[S, H]` tensor ever exists and
everything stays in the cache; it takes values for finite, and says where that was wrong.

    S samples of a piece, H hidden, U units of one step of the scan
"""

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cubic_cli.config import Activation
from cubic_cli.engine.layout import Tuning
from cubic_cli.engine.observed import Moments, Observed
from cubic_cli.network import ACTIVATIONS, Tensors, forward, mean_squared_error
from cubic_cli.parameters import Parameters
from cubic_cli.statistics import Statistics, summarise

MAX_UNITS = (1 << 15) - 1  # of `by_unit`: two counts of units share one int32
_GROUP = 16  # sums of float32 are of so many terms at a time
_PARTS = 1024  # of a sum that may be left for the host to add, in float64
_ALIASING = 1024  # float32 in a 4 KiB page: arrays of the carry that are a multiple apart share the lines of the cache
_ASIDE = 48  # float32, three lines: enough to set them apart
_TINY = 2.0**-100  # a mean of squares below this may lack some that were below 2⁻¹²⁶ and flushed to zero
_PIVOT_SAMPLES = 64

# For these f(min z) is min f(z), bit for bit: they do not decrease, and are rounded at most once.
_MONOTONE = (Activation.relu, Activation.leaky_relu, Activation.identity)


def find_pivots(activation: Activation, parameters: Parameters, x: jax.Array) -> Tensors:
    """Return a number near the mean of each tensor over the samples `x [n]`: its mean over some of these.

    Sums of differences from it, and of their squares, keep their digits however far the values lie from zero.
    """
    some = x[:: max(1, x.size // _PIVOT_SAMPLES)][:_PIVOT_SAMPLES, None]
    z1 = some * parameters.w1 + parameters.b1[None, :]
    a1 = ACTIVATIONS[activation](z1)
    z2 = jnp.sum(a1 * parameters.w2[:, 0][None, :], axis=1) + parameters.b2

    def mean(values: jax.Array) -> jax.Array:
        finite = jnp.isfinite(values)
        share = 1 / jnp.maximum(jnp.sum(finite, dtype=jnp.float32), 1.0)
        return jnp.sum(jnp.where(finite, values, 0.0) * share)  # shares first: a sum may leave the range

    return Tensors(*map(mean, (z1, a1, z2)))


# --- the definition -------------------------------------------------------------------------------------------------


def plain(
    activation: Activation, parameters: Parameters, about: Tensors, x: jax.Array, y: jax.Array, size: jax.Array
) -> Observed:
    """Observe the pieces `x` and `y` `[pieces, S]`, of which the first `size [pieces]` samples are real."""
    tensors = forward(parameters, x[..., None], activation)
    mask, targets = _mask(x, size)[..., None], y[..., None]
    error = jnp.where(mask, tensors.z2 - targets, 0.0)
    largest = jnp.max(jnp.where(jnp.isfinite(error), jnp.abs(error), 0.0), axis=(1, 2))
    # So that neither squares nor their sum leave float32's range where the mean does not.
    scale = jnp.where(largest > 2.0**40, 2.0**-80, jnp.where(largest < 2.0**-40, 2.0**80, 1.0)).astype(jnp.float32)
    seen = [summarise(values, mask, (1, 2), pivot) for values, pivot in zip(tensors, about, strict=True)]
    z1, a1, z2 = seen
    return Observed(
        loss=jax.vmap(mean_squared_error)(tensors.z2, targets, mask, scale),
        z1_min=z1.min,
        z1_max=z1.max,
        a1_min=a1.min,
        a1_max=a1.max,
        z2_min=z2.min,
        z2_max=z2.max,
        sure=jnp.bool_(True),
        scale=scale,
        nonfinite=z1.nonfinite + a1.nonfinite + z2.nonfinite,
        statistics=Statistics(*(jnp.stack(fields) for fields in zip(*seen, strict=True))),
        about=jnp.stack(about),
    )


def complete_plain(activation: Activation, seen: Observed) -> Observed:
    """Return what `plain` saw of a device's blocks, as it is but for one `sure`."""
    return seen._replace(sure=jnp.all(seen.sure, keepdims=True))


def _mask(x: jax.Array, size: jax.Array, axis: int = 1) -> jax.Array:
    """Return which samples of `x`, those of a piece along `axis`, are real, given each piece's `size [pieces]`."""
    return jax.lax.broadcasted_iota(jnp.int32, x.shape, axis) < jnp.expand_dims(size, axis)


# --- by units -------------------------------------------------------------------------------------------------------


class _Ends(NamedTuple):
    min: jax.Array
    max: jax.Array


class _Seen(NamedTuple):
    """The carry of the scan over units: what is known of each sample, `[pieces · S]`, from the units so far."""

    z2: jax.Array
    z1: _Ends
    a1: _Ends | None  # None where it follows from z1
    sums: tuple[jax.Array, ...]  # of z1, z1², a1, a1² about pivots; the zeros of both, two int32 in a float32's bits


def by_unit(
    activation: Activation,
    tuning: Tuning,
    axis: int,
    parameters: Parameters,
    about: Tensors | None,
    x: jax.Array,
    y: jax.Array,
    size: jax.Array,
) -> Observed:
    """Observe the pieces `x` and `y`, with moments `about` pivots if these are given.

    They are `[pieces, S]`, or `[S, pieces]` if the `axis` of the samples is 0; samples beyond `size` must repeat a real
    one of their piece.

    Assumes finite values. A non-finite one shows in `loss`, or, where the activation hides it, as an infinite extreme
    of z1; and where squares may have been flushed to zero the loss is next to nothing though not all errors are. Then
    the figures are not `sure`, and the caller repeats the chunk with `plain`.
    """
    shape, flat_x = x.shape, x.reshape(-1)
    if tuning.written_out and flat_x.size % _ALIASING == 0:
        flat_x = jnp.pad(flat_x, (0, _ASIDE), mode="edge")
    seen = _scan_units(activation, tuning, parameters, about, flat_x)

    def real(values: jax.Array) -> jax.Array:
        return values[: shape[0] * shape[1]].reshape(shape)

    mask = _mask(x, size, axis)
    z2 = real(seen.z2)
    error = jnp.where(mask, z2 - y, 0.0)
    loss = jnp.sum(error * error, axis=axis) / jnp.maximum(size, 1).astype(jnp.float32)
    flushed = jax.lax.cond(
        jnp.any(loss < _TINY), lambda: jnp.any((loss < _TINY) & jnp.any(error != 0, axis=axis)), lambda: False
    )
    z1 = _Ends(jnp.min(real(seen.z1.min), axis=axis), jnp.max(real(seen.z1.max), axis=axis))
    a1 = seen.a1 and _Ends(jnp.min(real(seen.a1.min), axis=axis), jnp.max(real(seen.a1.max), axis=axis))
    return Observed(
        loss=loss,
        z1_min=z1.min,
        z1_max=z1.max,
        a1_min=a1 and a1.min,
        a1_max=a1 and a1.max,
        z2_min=jnp.min(z2, axis=axis),
        z2_max=jnp.max(z2, axis=axis),
        sure=jnp.all(jnp.isfinite(loss) & jnp.isfinite(z1.min) & jnp.isfinite(z1.max)) & ~flushed,
        moments=about and _moments(seen, about, mask),
    )


def _scan_units(
    activation: Activation, tuning: Tuning, parameters: Parameters, about: Tensors | None, x: jax.Array
) -> _Seen:
    """Return what is known of each sample of `x [n]` from all hidden units, a few of these at a time."""
    hidden, bias, unroll = parameters.b1.size, parameters.b2, tuning.unroll
    steps = hidden // unroll
    empty = _Ends(*(jnp.full(x.shape, end, jnp.float32) for end in (jnp.inf, -jnp.inf)))
    nothing = jnp.zeros(x.shape, jnp.float32)  # also where JAX's default is float64
    seen = _Seen(
        nothing if steps else jnp.broadcast_to(bias, x.shape),
        empty,
        None if activation in _MONOTONE else empty,
        () if about is None else (nothing,) * 5,
    )
    units = (parameters.w1[0], parameters.b1, parameters.w2[:, 0])

    def step(seen: _Seen, some: tuple[jax.Array, ...]) -> tuple[_Seen, None]:
        return _see_units(activation, tuning.written_out, about, x, seen, *some), None

    if steps:
        some = (values[: steps * unroll].reshape(steps, unroll) for values in units)
        seen, _ = jax.lax.scan(step, seen, (*some, jnp.pad(bias, (0, steps - 1))))
    if hidden % unroll:
        seen, _ = step(seen, tuple(values[steps * unroll :] for values in units))
    return seen


def _see_units(
    activation: Activation,
    written_out: bool,
    about: Tensors | None,
    x: jax.Array,
    seen: _Seen,
    w1: jax.Array,
    b1: jax.Array,
    w2: jax.Array,
    start: jax.Array | None = None,
) -> _Seen:
    """Add a few units to what is seen; their part of z2 is added up from `start` on, if given, before the carry's.

    The units are written out one after the other, or are the major axis of one expression, over which XLA reduces.

    Written out, each figure is written from `x` on, all of it, and every array is float32: so XLA fuses all figures
    into one loop, and there LLVM computes a unit once. XLA must not find the common parts first (it has no `cse` pass),
    for it would store them. Products are added in one order that holds for every program: of `a b + c d` LLVM rounds
    either first.
    """
    if not written_out:
        x, w1, b1, w2 = x[None, :], w1[:, None], b1[:, None], w2[:, None]
    units = range(w1.size) if written_out else [...]

    def z1(unit: Any) -> jax.Array:
        return x * w1[unit] + b1[unit]

    def a1(unit: Any) -> jax.Array:
        z = z1(unit)
        # −0 stays, which no figure shows; one instruction of a CPU, and with `<=` two.
        return jnp.where(z < 0, 0.0, z) if activation is Activation.relu else ACTIVATIONS[activation](z)

    if activation not in _MONOTONE:
        a1 = functools.cache(a1) if written_out else a1  # exponentials are worth storing

    def is_zero(unit: Any) -> jax.Array:  # of a1; relu compares so anyway
        return z1(unit) <= 0 if activation is Activation.relu else a1(unit) == 0

    def each(value: Callable[[Any], jax.Array], reduce: Callable[..., jax.Array]) -> Iterator[jax.Array]:
        return (value(unit) if written_out else reduce(value(unit), axis=0) for unit in units)

    def add(seen: jax.Array, value: Callable[[Any], jax.Array]) -> jax.Array:
        return functools.reduce(operator.add, each(value, jnp.sum), seen)

    def add_up(seen: jax.Array, value: Callable[[Any], jax.Array]) -> jax.Array:  # of few units first: it rounds less
        return seen + functools.reduce(operator.add, each(value, jnp.sum))

    def widen(seen: _Ends, value: Callable[[Any], jax.Array]) -> _Ends:
        return _Ends(
            functools.reduce(_smaller, each(value, jnp.min), seen.min),
            functools.reduce(_larger, each(value, jnp.max), seen.max),
        )

    sums: tuple[jax.Array, ...] = ()
    if about is not None:
        z, zz, a, aa, bits = seen.sums
        zeros = _counts(bits)
        if written_out:
            for unit in range(w1.size):
                zeros = jnp.where(is_zero(unit), zeros + 1, zeros)
                zeros = jnp.where(z1(unit) == 0, zeros + (1 << 16), zeros)
        else:
            zeros = add(zeros, lambda unit: jnp.where(is_zero(unit), 1, 0) + jnp.where(z1(unit) == 0, 1 << 16, 0))
        sums = (
            add_up(z, lambda unit: z1(unit) - about.z1),
            add_up(zz, lambda unit: _square(z1(unit) - about.z1)),
            add_up(a, lambda unit: a1(unit) - about.a1),
            add_up(aa, lambda unit: _square(a1(unit) - about.a1)),
            jax.lax.bitcast_convert_type(zeros, jnp.float32),
        )
    z2 = add(seen.z2 if start is None else start, lambda unit: a1(unit) * w2[unit])
    z2 = z2 if start is None else seen.z2 + z2
    return _Seen(z2, widen(seen.z1, z1), seen.a1 and widen(seen.a1, a1), sums)


# Not jnp.minimum: it must propagate NaN, which costs more; a NaN shows in the loss anyway.
def _smaller(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(b < a, b, a)


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(b > a, b, a)


def _square(value: jax.Array) -> jax.Array:
    return value * value


def _counts(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, jnp.int32)


def _moments(seen: _Seen, about: Tensors, mask: jax.Array) -> Moments:
    """Return the moments of a block, `[3, parts]`, from what is known of each sample."""
    # Parts are of samples far apart, whatever their batch: sums over the major axis are quick.
    used = jnp.pad(mask.reshape(-1), (0, seen.z2.size - mask.size))

    def fold(*of_tensors: jax.Array) -> jax.Array:
        return jnp.stack([_fold(jnp.where(used, values, 0)) for values in of_tensors])

    z, zz, a, aa, bits = seen.sums
    zeros, z2 = _counts(bits), seen.z2 - about.z2
    return Moments(
        total=fold(z, a, z2),
        squares=fold(zz, aa, _square(z2)),
        zeros=fold(zeros >> 16, zeros & 0xFFFF, (seen.z2 == 0).astype(jnp.int32)),
        about=jnp.stack(about),
    )


def _fold(values: jax.Array) -> jax.Array:
    """Add up `values [n, …]` in groups until few parts are left; sums of sums round less than one long sum."""
    while len(values) > _PARTS:
        rows = jnp.pad(values, [(0, -len(values) % _GROUP)] + [(0, 0)] * (values.ndim - 1))
        values = jnp.sum(rows.reshape(_GROUP, -1, *values.shape[1:]), axis=0, dtype=values.dtype)
    return values


def complete_by_unit(activation: Activation, seen: Observed) -> Observed:
    """Return what `by_unit` saw of a device's blocks, with the extremes of a1 and sums over the blocks.

    Doing both once for all blocks is faster than once per block.
    """
    f = ACTIVATIONS[activation]
    a1_min = f(seen.z1_min) if seen.a1_min is None else seen.a1_min
    a1_max = f(seen.z1_max) if seen.a1_max is None else seen.a1_max
    moments = seen.moments

    def over_blocks(values: jax.Array) -> jax.Array:
        """From `[blocks, 3, parts]` to `[1, 3, parts]`, with a part for every group of blocks."""
        rows = jnp.pad(values, ((0, -len(values) % _GROUP), (0, 0), (0, 0)))
        groups = jnp.sum(rows.reshape(_GROUP, -1, *rows.shape[1:]), axis=0, dtype=values.dtype)
        return jnp.moveaxis(groups, 0, 1).reshape(1, 3, -1)

    if moments is not None:
        total, squares, zeros, about = moments
        moments = Moments(over_blocks(total), over_blocks(squares), over_blocks(zeros), about[:1])
    return seen._replace(a1_min=a1_min, a1_max=a1_max, sure=jnp.all(seen.sure, keepdims=True), moments=moments)
