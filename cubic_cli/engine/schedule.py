"""Two schedules of one computation: the forward pass over a block of samples, observed batch by batch.

`plain` is the definition: it makes `[pieces, S, H]` tensors by `network.forward` and summarises them. `by_unit` keeps
the samples on the minor axis and scans over the hidden units instead, so that no `[S, H]` tensor ever exists and
everything stays in the cache; it takes values for finite, and says where that was wrong.

    S samples of a piece, H hidden, U units of one step of the scan
"""

import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

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
_FAR = 2.0**120  # differences from a pivot beyond this may leave the range

# For these f(min z) is min f(z), bit for bit: they do not decrease, and are rounded at most once.
_MONOTONE = (Activation.relu, Activation.leaky_relu, Activation.identity)


def find_pivots(activation: Activation, parameters: Parameters, x: jax.Array) -> Tensors:
    """Return a number near the mean of each tensor over the samples `x [n]`: its mean over some, from first to last.

    Sums of differences from it, and of their squares, keep their digits however far the values lie from zero. It is
    zero where that is near the end of float32's range, which the differences would leave.
    """
    some = x[:: -(-x.size // _PIVOT_SAMPLES), None]
    z1 = some * parameters.w1 + parameters.b1[None, :]
    a1 = ACTIVATIONS[activation](z1)
    z2 = jnp.sum(a1 * parameters.w2[:, 0][None, :], axis=1, keepdims=True) + parameters.b2[None, :]
    # As one array: XLA makes a loop of each step for each array, and compiles that for ten milliseconds and more.
    tensors = jnp.stack([z1, a1, jnp.broadcast_to(z2, z1.shape)])
    finite = jnp.isfinite(tensors)
    count = jnp.sum(finite, axis=(1, 2), dtype=jnp.float32)
    shares = jnp.where(finite, tensors * (1 / z1.size), 0.0)  # their sum stays in the range, that of the values may not
    pivots = jnp.sum(shares, axis=(1, 2)) * (z1.size / jnp.maximum(count, 1.0))
    return Tensors(*jnp.where(jnp.abs(pivots) < _FAR, pivots, 0.0))


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


def complete_plain(activation: Activation, tuning: Tuning, seen: Observed) -> Observed:
    """Return what `plain` saw of a device's blocks, as it is but for one `sure`."""
    return seen._replace(sure=jnp.all(seen.sure, keepdims=True))


def _mask(x: jax.Array, size: jax.Array, axis: int = 1) -> jax.Array:
    """Return which samples of `x`, those of a piece along `axis`, are real, given each piece's `size [pieces]`."""
    return jax.lax.broadcasted_iota(jnp.int32, x.shape, axis) < jnp.expand_dims(size, axis)


# --- by units -------------------------------------------------------------------------------------------------------

# w1, b1 and w2 of a few hidden units, `[U]` each; of the first few also b2, from which their part of z2 is added up.
_Units = tuple[jax.Array, ...]
_Total = Callable[[jax.Array], jax.Array]  # adds up what is known of the samples, `[n]`, to parts: `[parts]`


class _Ends(NamedTuple):
    min: jax.Array
    max: jax.Array


class _Seen(NamedTuple):
    """The carry of the scan over units: what is known of each sample, `[n]`, from the units so far.

    The sums are of z1, z1², a1, a1² about pivots, and the zeros of z1 and a1: five by sample, with both zeros in the
    bits of one float32; or over the samples, `[4, parts]` and `[2, parts]`.
    """

    z2: jax.Array
    z1: _Ends
    a1: _Ends | None  # None where it follows from z1
    sums: tuple[jax.Array, ...]


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
    mask = _mask(x, size, axis)
    by_sample = tuning.in_cache or activation not in _MONOTONE  # with exponentials a GPU is faster so
    beyond = 0 if by_sample else -x.size % _PARTS
    if tuning.in_cache and x.size % _ALIASING == 0:
        beyond = _ASIDE
    flat, used = x.reshape(-1), mask.reshape(-1)
    if beyond:
        flat, used = jnp.pad(flat, (0, beyond), mode="edge"), jnp.pad(used, (0, beyond))

    def total(values: jax.Array) -> jax.Array:
        values = jnp.where(used, values, 0)
        return _fold(values) if by_sample else jnp.sum(values.reshape(_PARTS, -1), axis=1, dtype=values.dtype)

    def real(values: jax.Array) -> jax.Array:
        return values[: x.size].reshape(x.shape)

    seen = _scan_units(activation, tuning, by_sample, parameters, about, flat, total)
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
        moments=about and _moments(seen, about, total),
    )


def _scan_units(
    activation: Activation,
    tuning: Tuning,
    by_sample: bool,
    parameters: Parameters,
    about: Tensors | None,
    x: jax.Array,
    total: _Total,
) -> _Seen:
    """Return what is known of the samples `x [n]` from all hidden units, a few of these at a time; sums as totals."""
    hidden, bias, unroll = parameters.b1.size, parameters.b2, tuning.unroll
    steps = hidden // unroll
    empty = _Ends(*(jnp.full(x.shape, end, jnp.float32) for end in (jnp.inf, -jnp.inf)))
    nothing = jnp.zeros(x.shape, jnp.float32)  # also where JAX's default is float64
    apart = (nothing,) * 4 + (nothing.astype(jnp.int32),) * 2
    sums: tuple[jax.Array, ...] = ()
    if about is not None:
        sums = (nothing,) * 5 if by_sample else _totals(apart, total)
    seen = _Seen(
        nothing if steps else jnp.broadcast_to(bias, x.shape), empty, None if activation in _MONOTONE else empty, sums
    )
    units = (parameters.w1[0], parameters.b1, parameters.w2[:, 0])
    see = functools.partial(_see_units, activation, tuning, about, x)

    def step(seen: _Seen, some: _Units) -> tuple[_Seen, None]:
        if about is None or by_sample:
            return see(seen, some), None
        new = see(seen._replace(sums=apart), some)
        return new._replace(sums=tuple(map(operator.add, seen.sums, _totals(new.sums, total)))), None

    if steps:
        some = (values[: steps * unroll].reshape(steps, unroll) for values in units)
        seen, _ = jax.lax.scan(step, seen, (*some, jnp.pad(bias, (0, steps - 1))))
    if hidden % unroll:
        seen, _ = step(seen, tuple(values[steps * unroll :] for values in units))
    if about is not None and by_sample:
        *values, bits = seen.sums
        zeros = _counts(bits)
        seen = seen._replace(sums=_totals((*values, zeros >> 16, zeros & 0xFFFF), total))
    return seen


def _totals(sums: tuple[jax.Array, ...], total: _Total) -> tuple[jax.Array, ...]:
    """Return six sums by sample as totals: four of values, `[4, parts]`, and two of zeros, `[2, parts]`."""
    return tuple(jnp.stack([total(values) for values in some]) for some in (sums[:4], sums[4:]))


def _see_units(
    activation: Activation, tuning: Tuning, about: Tensors | None, x: jax.Array, seen: _Seen, some: _Units
) -> _Seen:
    """Add a few units to what is seen of each sample.

    On a CPU each figure is written from `x` on, all of it, and every array is float32: so XLA fuses all figures into
    one loop, and there LLVM computes a unit once. XLA must not find the common parts first (it has no `cse` pass), for
    it would store them. Products are added in one order that holds for every program: of `a b + c d` LLVM rounds either
    first.
    """
    w1, b1, w2, *start = some
    units = range(w1.size)

    def z1(unit: int) -> jax.Array:
        return x * w1[unit] + b1[unit]

    def a1(unit: int) -> jax.Array:
        z = z1(unit)
        # −0 stays, which no figure shows; one instruction of a CPU, and with `<=` two.
        return jnp.where(z < 0, 0.0, z) if activation is Activation.relu else ACTIVATIONS[activation](z)

    if not tuning.in_cache:
        z1 = functools.cache(z1)  # XLA would find it, and take longer
    if not tuning.in_cache or activation not in _MONOTONE:
        a1 = functools.cache(a1)  # exponentials are worth storing

    def z1_is_zero(unit: int) -> jax.Array:
        return z1(unit) == 0

    def a1_is_zero(unit: int) -> jax.Array:  # relu compares so anyway
        return z1(unit) <= 0 if activation is Activation.relu else a1(unit) == 0

    def add(seen: jax.Array, value: Callable[[int], jax.Array]) -> jax.Array:
        return functools.reduce(operator.add, map(value, units), seen)

    def add_up(seen: jax.Array, value: Callable[[int], jax.Array]) -> jax.Array:  # of few units first: it rounds less
        return seen + functools.reduce(operator.add, map(value, units))

    def widen(seen: _Ends, value: Callable[[int], jax.Array]) -> _Ends:
        return _Ends(
            functools.reduce(_smaller, map(value, units), seen.min),
            functools.reduce(_larger, map(value, units), seen.max),
        )

    def count(seen: jax.Array, *kinds: tuple[Callable[[int], jax.Array], int]) -> jax.Array:
        for unit in units:
            for is_one, one in kinds:
                seen = jax.lax.select(is_one(unit), seen + one, seen)
        return seen

    sums: tuple[jax.Array, ...] = ()
    if about is not None:
        z, zz, a, aa, *zeros = seen.sums
        if len(zeros) == 1:
            both = count(_counts(zeros[0]), (a1_is_zero, 1), (z1_is_zero, 1 << 16))
            zeros = [jax.lax.bitcast_convert_type(both, jnp.float32)]
        else:
            zeros = [count(zeros[0], (z1_is_zero, 1)), count(zeros[1], (a1_is_zero, 1))]
        sums = (
            add_up(z, lambda unit: z1(unit) - about.z1),
            add_up(zz, lambda unit: _square(z1(unit) - about.z1)),
            add_up(a, lambda unit: a1(unit) - about.a1),
            add_up(aa, lambda unit: _square(a1(unit) - about.a1)),
            *zeros,
        )

    def product(unit: int) -> jax.Array:
        return a1(unit) * w2[unit]

    z2 = seen.z2 + add(start[0], product) if start else add(seen.z2, product)
    return _Seen(z2, widen(seen.z1, z1), seen.a1 and widen(seen.a1, a1), sums)


# Not jnp.minimum: it must propagate NaN, which costs more; a NaN shows in the loss anyway.
def _smaller(a: jax.Array, b: jax.Array) -> jax.Array:
    return jax.lax.select(b < a, b, a)


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    return jax.lax.select(b > a, b, a)


def _square(value: jax.Array) -> jax.Array:
    return value * value


def _counts(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, jnp.int32)


def _moments(seen: _Seen, about: Tensors, total: _Total) -> Moments:
    """Return the moments of a block, `[3, parts]`."""
    (z, zz, a, aa), (z1_zeros, a1_zeros) = seen.sums
    z2 = seen.z2 - about.z2
    return Moments(
        total=jnp.stack([z, a, total(z2)]),
        squares=jnp.stack([zz, aa, total(_square(z2))]),
        zeros=jnp.stack([z1_zeros, a1_zeros, total((seen.z2 == 0).astype(jnp.int32))]),
        about=jnp.stack(about),
    )


def _fold(values: jax.Array) -> jax.Array:
    """Add up `values [n, …]` in groups until few parts are left; sums of sums round less than one long sum."""
    while len(values) > _PARTS:
        rows = jnp.pad(values, [(0, -len(values) % _GROUP)] + [(0, 0)] * (values.ndim - 1))
        values = jnp.sum(rows.reshape(_GROUP, -1, *values.shape[1:]), axis=0, dtype=values.dtype)
    return values


def complete_by_unit(activation: Activation, tuning: Tuning, seen: Observed) -> Observed:
    """Return what `by_unit` saw of a device's blocks, with the extremes of a1 and sums over the blocks.

    Doing both once for all blocks is faster than once per block. An accelerator takes the extremes of the whole, too; a
    CPU, which is the host, would compile longer.
    """
    f = ACTIVATIONS[activation]
    a1_min = f(seen.z1_min) if seen.a1_min is None else seen.a1_min
    a1_max = f(seen.z1_max) if seen.a1_max is None else seen.a1_max
    moments = seen.moments

    def over_blocks(values: jax.Array) -> jax.Array:
        """From `[blocks, 3, parts]` to `[1, 3, parts]`, with a part for every group of blocks."""
        if len(values) == 1:
            return values
        rows = jnp.pad(values, ((0, -len(values) % _GROUP), (0, 0), (0, 0)))
        groups = jnp.sum(rows.reshape(_GROUP, -1, *rows.shape[1:]), axis=0, dtype=values.dtype)
        return jnp.moveaxis(groups, 0, 1).reshape(1, 3, -1)

    seen = seen._replace(a1_min=a1_min, a1_max=a1_max, sure=jnp.all(seen.sure, keepdims=True))
    if moments is None:
        return seen
    total, squares, zeros, about = moments
    seen = seen._replace(moments=Moments(over_blocks(total), over_blocks(squares), over_blocks(zeros), about[:1]))
    if tuning.in_cache:
        return seen
    low, high = jnp.stack([seen.z1_min, a1_min, seen.z2_min]), jnp.stack([seen.z1_max, a1_max, seen.z2_max])
    return seen._replace(extremes=jnp.stack([jnp.min(low, axis=(1, 2)), jnp.max(high, axis=(1, 2))])[None])
