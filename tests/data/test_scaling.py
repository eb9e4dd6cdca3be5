import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubic_cli.config import Scaling
from cubic_cli.data.scaling import Scale, choose_scale
from cubic_cli.statistics import EMPTY, merge, summarise

ULP = 2.0**-24  # half the spacing of float32 just below 1: the rounding of one scaled value
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def scaled(kind, values, pieces=3):
    """Scale a column by the statistics of its own values, gathered piece by piece."""
    values = np.asarray(values, np.float32)
    seen = EMPTY
    for piece in np.array_split(values, pieces):
        seen = merge(seen, summarise(piece))
    scale = choose_scale(kind, seen)
    return scale, scale.apply(values)


@given(st.lists(FLOAT32, min_size=2, max_size=40))
def test_minmax_ends_at_0_and_1_exactly(values):
    values = np.array(values, np.float32)
    _, out = scaled(Scaling.minmax, values)
    assert out.dtype == np.float32
    if values.min() == values.max():
        assert not out.any()
        return
    assert (out[values.argmin()], out[values.argmax()]) == (0.0, 1.0)
    assert ((out >= 0) & (out <= 1)).all()
    low, high = float(values.min()), float(values.max())
    expected = [(float(v) - low) / (high - low) for v in values]
    np.testing.assert_allclose(out, expected, rtol=0, atol=ULP)


@given(st.lists(FLOAT32, min_size=2, max_size=40))
def test_standard_has_mean_0_and_population_variance_1(values):
    values = np.array(values, np.float32)
    _, out = scaled(Scaling.standard, values)
    if values.min() == values.max():
        assert not out.any()
        return
    out = out.astype(np.float64)
    # Each value is rounded by at most ULP of the largest, √N; the statistics are float64 and add nothing to speak of.
    assert abs(out.mean()) <= 2 * ULP * np.sqrt(len(out))
    assert out.var() == pytest.approx(1.0, abs=8 * ULP * np.sqrt(len(out)))


@pytest.mark.parametrize(("middle", "half"), [(1e6, 0.1), (-1e6, 0.1), (1e30, 1e24), (0.0, 1e-38), (0.0, 3.4e38)])
@pytest.mark.parametrize("kind", [Scaling.minmax, Scaling.standard])
def test_far_offsets_and_extreme_ranges(kind, middle, half):
    values = np.random.default_rng(2).uniform(middle - half, middle + half, 10_000).astype(np.float32)
    _, out = scaled(kind, values, pieces=7)
    exact = values.astype(np.longdouble)  # of the float32 numbers as they are, whatever was lost when they were made
    if kind is Scaling.minmax:
        expected = (exact - exact.min()) / (exact.max() - exact.min())
    else:
        expected = (exact - exact.mean()) / exact.std()
    np.testing.assert_allclose(out, expected.astype(np.float64), rtol=0, atol=4 * ULP)


@pytest.mark.parametrize("kind", [Scaling.minmax, Scaling.standard])
def test_constant_columns_become_0_and_what_is_not_finite_stays(kind):
    for constant in (0.0, 7.0, 0.1, -3.4e38, 1e-45):
        scale, out = scaled(kind, [constant, np.nan, constant, np.inf, -np.inf])
        assert scale.factor == 0
        np.testing.assert_array_equal(out, [0, np.nan, 0, np.inf, -np.inf])
    assert scaled(kind, [12.5], pieces=1)[1].tolist() == [0.0]
    # Nothing finite: there are no statistics, and nothing to scale.
    scale, out = scaled(kind, [np.nan, np.inf, -np.inf])
    assert (scale.shift, scale.factor) == (0.0, 0.0)
    np.testing.assert_array_equal(out, [np.nan, np.inf, -np.inf])
    # Values that are not finite take no part in the statistics of the others.
    _, out = scaled(kind, [1.0, np.nan, 3.0, np.inf])
    np.testing.assert_array_equal(out, [0 if kind is Scaling.minmax else -1, np.nan, 1, np.inf])


def test_none_changes_nothing():
    values = np.array([0.1, -3.4e38, 1e-45, np.nan, np.inf], np.float32)
    scale, out = scaled(Scaling.none, values)
    assert scale == Scale(0.0, 1.0)
    np.testing.assert_array_equal(out, values)


def write(x, y):
    pl.DataFrame({"x": x.astype(np.float32), "y": y.astype(np.float32)}).write_parquet("data.parquet")


def forward(cubic, *arguments):
    base = ("--dataset", "data.parquet", "--num-samples", "all", "--num-epochs", 1, "--hidden-size", 3)
    status, out, err = cubic("forward", *base, "--json", *arguments)
    assert status == 0, err
    return json.loads(out)


@pytest.mark.parametrize("unit", [1.0, 1e-25, 1e25])
@pytest.mark.parametrize("kind", ["minmax", "standard"])
def test_the_record_holds_the_scales_and_the_loss_in_the_units_of_the_data(cubic, kind, unit):
    """Also where the loss in the units of the data is a number that float32 does not hold."""
    rng = np.random.default_rng(4)
    x, y = (unit * (5 + rng.normal(0, 2, (2, 37)))).astype(np.float32).astype(np.float64)
    write(x, y)
    record = forward(cubic, "--scaling", kind)
    assert record["scaling"]["statistics_of"] == "the samples used"
    maps = {"minmax": lambda v: (v.min(), v.max() - v.min()), "standard": lambda v: (v.mean(), v.std())}
    for name, values in (("x", x), ("y", y)):
        shift, factor = maps[kind](values)
        assert record["scaling"][name]["shift"] == pytest.approx(shift, rel=1e-12)
        assert record["scaling"][name]["factor"] == pytest.approx(factor, rel=1e-12)
    # With ones, the answer of three units is 3 max(x + 1, 0) + 1, of the scaled x, and scaled back to the data.
    (x_shift, x_factor), (y_shift, y_factor) = maps[kind](x), maps[kind](y)
    answers = (3 * np.maximum((x - x_shift) / x_factor + 1, 0) + 1) * y_factor + y_shift
    assert record["loss_in_data_units"] == pytest.approx(np.mean((answers - y) ** 2), rel=1e-5)


def test_without_scaling_the_losses_are_one(cubic):
    write(np.linspace(-1, 1, 37), np.linspace(0, 3, 37))
    record = forward(cubic)
    assert record["loss_in_data_units"] == record["loss"]
    assert record["scaling"]["x"] == record["scaling"]["y"] == {"shift": 0.0, "factor": 1.0}


@pytest.mark.parametrize("kind", ["minmax", "standard"])
def test_a_constant_target_has_no_loss_in_the_units_of_the_data(cubic, kind):
    """Whatever the network answers, scaled back it is the constant."""
    write(np.linspace(-1, 1, 37), np.full(37, 7.0))
    record = forward(cubic, "--scaling", kind)
    assert record["loss"] > 0
    assert record["loss_in_data_units"] == 0
    assert record["scaling"]["y"] == {"shift": 7.0, "factor": 0.0}
    assert record["context"]["r_squared"] is None
