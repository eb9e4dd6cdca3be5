import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubic_cli.analysis.formats import FORMATS, describe, fits, largest_scale, round_to

# Bits of the mantissa, the exponent of the smallest normal number, the largest finite number.
BITS = {"float16": (10, -14, 65504), "bfloat16": (7, -126, 2**128 - 2**120), "float8_e4m3fn": (3, -6, 448)}
BITS |= {"float8_e5m2": (2, -14, 57344)}


def nearest(name, value):
    """Round by the definition: the nearest multiple of the last place, ties to the even one, in exact arithmetic."""
    mantissa, smallest, largest = BITS[name]
    if value == 0:
        return 0.0
    exponent = max(math.frexp(value)[1] - 1, smallest)
    place = Fraction(2) ** (exponent - mantissa)
    rounded = round(Fraction(value) / place) * place  # Python rounds ties to even
    return float(rounded) if abs(rounded) <= largest else math.nan


@pytest.mark.parametrize("name", FORMATS)
@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_rounding_is_to_the_nearest_even(name, value):
    found = float(round_to(name, np.array([value]))[0])
    expected = nearest(name, value)
    assert found == expected or (math.isnan(expected) and not math.isfinite(found))


@pytest.mark.parametrize("name", FORMATS)
@given(largest=st.floats(min_value=2.0**-149, max_value=2.0**127, width=32))
def test_the_scale_is_the_largest_that_fits(name, largest):
    scale = largest_scale(name, largest)
    assert math.frexp(scale)[0] == 0.5
    assert fits(name, largest * scale)
    assert not math.isfinite(nearest(name, largest * scale * 2))


def test_shares_and_error_of_values_made_by_hand():
    values = np.array([0, 0, 1.0, 1.1, 500, -1e-9, np.nan, np.inf], np.float32)
    found = {entry.format: entry for entry in describe("z1", values, -1e-9, 500.0)}
    eight = found["float8_e4m3fn"]
    assert (eight.tensor, eight.overflow, eight.underflow) == ("z1", 1 / 6, 1 / 4)
    assert eight.median_error == pytest.approx((0 + abs(1.125 / np.float32(1.1) - 1)) / 2)
    assert eight.scale == 0.5  # 250 fits 448, 500 does not
    assert eight.scaled_underflow == 1 / 4
    assert found["bfloat16"].underflow == found["bfloat16"].overflow == 0
    assert found["float16"].scale == 128.0  # 64,000 fits 65,504


def test_the_ends_decide_of_the_scale_though_the_spread_has_not_seen_them():
    entry = next(describe("z2", np.array([1.0], np.float32), -1e5, 2.0))
    assert (entry.overflow, entry.scale) == (0.0, 0.5)


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [np.nan, np.inf]], ids=["nothing", "zeros", "not finite"])
def test_without_a_number_there_is_no_scale(values):
    end = 0.0 if 0.0 in values else None
    for entry in describe("a1", np.array(values, np.float32), end, end):
        assert (entry.overflow, entry.underflow, entry.median_error) == (0, 0, None)
        assert (entry.scale, entry.scaled_underflow) == (None, None)


def test_the_default_network_overflows_eight_bits_and_a_sixteenth_mends_it():
    x = np.random.default_rng(0).uniform(-100, 100, 4000).astype(np.float32)
    z2 = 64 * np.maximum(x + 1, 0) + 1
    entry = next(e for e in describe("z2", z2, 1.0, 6461.0) if e.format == "float8_e4m3fn")
    assert entry.overflow == pytest.approx(np.mean(z2 > 464), abs=1e-9)
    assert entry.scale == 2.0**-4
