"""Mean and standard deviation are those of the float32 values that the device had, however far from zero these lie.

The oracle is NumPy in float64 over values that are known exactly: weights are powers of two and biases zero, so that no
product is rounded, and z2 is one unit of a1.
"""

import functools

import jax
import numpy as np
import pytest
from helpers import MANY, ROWS, B, H, N, drawn, samples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cubic_cli.config import Activation
from cubic_cli.data.source import Arrays
from cubic_cli.engine.layout import CPU
from cubic_cli.engine.passes import Pass, gather
from cubic_cli.float32 import FLOAT32_MAX, SMALLEST_NORMAL
from cubic_cli.parameters import Parameters

ULP = 2.0**-24
W1 = np.resize(np.array([1, -1, 0.5, 2, 1], np.float32), (1, H))
PARAMETERS = Parameters(W1, np.zeros(H, np.float32), np.eye(H, 1, dtype=np.float32), np.zeros(1, np.float32))
# At once, and in a chunk of several blocks a device with another after it.
TUNINGS = {"one block": CPU, "chunks of blocks": CPU._replace(chunk=80, block=10, plain_values=10 * H)}
by_both_schedules = pytest.mark.parametrize("by_unit", [False, True], ids=["plain", "by_unit"])
in_all_layouts = pytest.mark.parametrize("tuning", TUNINGS.values(), ids=TUNINGS)


def observe(x, by_unit, tuning=CPU, batch=B, parameters=PARAMETERS):
    passing = Pass(parameters, Arrays(x, x), batch, Activation.relu, jax.devices(), by_unit=by_unit, tuning=tuning)
    return gather(passing.run()).tensors


def exact(x):
    """Return what z1 and a1 hold, and z2 where it is one unit of a1: infinity times a weight of 0 is NaN."""
    with np.errstate(all="ignore"):
        z1 = x[:, None] * W1
        a1 = np.where(z1 <= 0, np.float32(0), z1)
        return {"z1": z1, "a1": a1} | ({"z2": a1[:, :1]} if np.isfinite(a1).all() else {})


def check(seen, values, units=16.0):
    """Hold mean and std against float64, within `units` in the last place of what they are."""
    finite = values[np.isfinite(values)].astype(np.float64)
    assert (seen.nan, seen.posinf, seen.neginf) == (
        np.isnan(values).sum(),
        (values == np.inf).sum(),
        (values == -np.inf).sum(),
    )
    assert (seen.count, seen.zeros) == (finite.size, (values == 0).sum())
    if not finite.size:
        return
    first = finite[0]
    mean = first + np.mean(finite - first)
    std, largest = np.sqrt(np.mean(np.square(finite - mean))), np.abs(finite).max()
    assert (seen.min, seen.max) == (finite.min(), finite.max())
    assert seen.min <= seen.mean <= seen.max
    # Subnormal differences may be flushed to zero.
    assert abs(seen.mean - mean) <= units * ULP * (abs(mean) + std) + SMALLEST_NORMAL
    assert abs(seen.std - std) <= units * ULP * (std + ULP * largest) + SMALLEST_NORMAL
    if finite.min() == finite.max():
        assert (seen.mean, seen.std) == (first, 0.0)


def normal_or_zero(x):
    """Return values whose products are neither subnormal, which a device may flush, nor rounded."""
    x = np.float32(x)
    return np.where(np.abs(x) < 4 * SMALLEST_NORMAL, np.float32(0), x).astype(np.float32)


rng = np.random.default_rng(1)
CASES = {
    "10⁷ + U(−1, 1)": 1e7 + rng.uniform(-1, 1, N),
    "10⁷ or one more": 1e7 + rng.integers(0, 2, N),
    "seconds since 1970": 1.7e9 + 128 * rng.integers(0, 2, N),
    "10⁶ + U(−1, 1)": 1e6 + rng.uniform(-1, 1, N),
    "negative": -1e6 + rng.uniform(-1, 1, N),
    "a constant": np.full(N, 0.3),
    "two numbers": rng.choice([0.1, 0.7], N),
    "one that is far": np.r_[rng.uniform(-1, 1, N - 1), 1e6],
    "the first is far": np.r_[1e12, rng.uniform(-1, 1, N - 1)],
    "sorted": np.sort(rng.uniform(-100, 100, N)),
    "small": 1e-25 * rng.normal(size=N),
    "large": 1e25 * rng.normal(size=N),
    "of all magnitudes": np.exp(rng.uniform(-60, 60, N)),
    "heavy tails": rng.standard_cauchy(N),
    "NaN among values that are far": np.where(np.arange(N) % 7 == 0, np.nan, 1e7 + rng.uniform(-1, 1, N)),
    "infinity among values that are far": np.where(np.arange(N) % 50 == 3, -np.inf, 1e7 + rng.uniform(-1, 1, N)),
}


@in_all_layouts
@by_both_schedules
@pytest.mark.parametrize("x", CASES.values(), ids=CASES)
def test_mean_and_std_are_those_of_the_values(x, by_unit, tuning):
    x = normal_or_zero(x)
    seen, values = observe(x, by_unit, tuning), exact(x)
    for name in values:
        check(seen[name], values[name])


# Of a float32 sum of the values of a piece: each addition may round to the same side, by half a unit of the sum of
# squares, of which the deviation is the root; and five roundings of each term.
WORST = B * H / 2 + 5
numbers = st.floats(width=32, allow_subnormal=False, min_value=-(2.0**100), max_value=2.0**100)


@by_both_schedules
@given(
    values=arrays(np.float32, N, elements=numbers, fill=numbers),
    offset=st.sampled_from([0.0, 1.0, 1e7, -1.7e9, 1e20]),
    spread=st.sampled_from([1.0, 1e-3, 1e-20]),
)
def test_any_values(by_unit, values, offset, spread):
    with np.errstate(all="ignore"):
        x = normal_or_zero(values.astype(np.float64) * spread + offset)
    seen, exactly = observe(x, by_unit), exact(x)
    for name in exactly:
        check(seen[name], exactly[name], WORST)


@given(values=arrays(np.float32, N, elements=st.floats(width=32, allow_subnormal=False)))
def test_any_values_that_are_no_numbers_too(values):
    x = normal_or_zero(np.where(np.abs(values) > FLOAT32_MAX / 4, np.inf, values))
    seen, exactly = observe(x, True), exact(x)
    for name in exactly:
        check(seen[name], exactly[name], WORST)


@functools.cache
def cubic_samples():
    return samples(MANY)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_drawn_weights_on_the_cubic(offset):
    """Units of drawn weights: each product is rounded to either side, and their mean hardly."""
    x = cubic_samples()[0] + np.float32(offset)
    parameters = drawn(H)
    seen = observe(x, True, batch=ROWS, parameters=parameters)["z1"]
    z1 = x[:, None].astype(np.float64) * np.asarray(parameters.w1, np.float64)
    assert abs(seen.mean - z1.mean()) <= 4 * ULP * (abs(z1.mean()) + z1.std())
    assert abs(seen.std - z1.std()) <= 4 * ULP * z1.std()


def test_moments_about_pivots_that_are_far_from_most_are_not_believed():
    """The pivots are the mean of every 157th sample of a device, about which the moments of all cancel."""
    x = rng.uniform(-1, 1, (4, 10_000))
    x[:, ::157] = 1e6
    x = normal_or_zero(x.reshape(-1)[:MANY])
    seen, values = observe(x, True, batch=ROWS), exact(x)
    for name in values:
        check(seen[name], values[name])
