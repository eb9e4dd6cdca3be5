"""Parquet files: any type of number, each rounded once; what is no number is refused with its row."""

import contextlib
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubic_cli.data.read import read_samples
from cubic_cli.errors import DatasetError

PATH = Path("data.parquet")


def read(frame, columns=("x", "y"), **options):
    frame.write_parquet(PATH, **options)
    told = []
    x, y = read_samples(PATH, None, columns, told.append)
    assert x.dtype == y.dtype == np.float32
    return x.tolist(), y.tolist(), told


@pytest.mark.parametrize(
    "kind",
    [pl.Int8, pl.UInt8, pl.Int16, pl.UInt16, pl.Int32, pl.UInt32, pl.Int64, pl.UInt64, pl.Float64, pl.Decimal(20, 3)],
    ids=str,
)
@pytest.mark.parametrize("compression", ["uncompressed", "zstd", "snappy"])
def test_any_type_of_number_is_read_and_told(kind, compression):
    values = [3, 1, 1, 3, 7] * 100  # repeated: kept as a dictionary
    frame = pl.DataFrame({"index": range(500), "y": values, "x": values, "note": "text"})
    x, y, told = read(
        frame.with_columns(x=pl.col("x").cast(kind), y=pl.col("y").cast(pl.Float32)), compression=compression
    )
    assert (x, y) == (values, values)
    assert told == [f"data.parquet: column 'x' is {kind}; each value is rounded to the nearest float32"]


BEYOND_A_MIDPOINT = Decimal("1.00000005960464477539062500001")  # of two float32, by less than a float64 can tell


@pytest.mark.parametrize(
    ("values", "rounded"),
    [
        (pl.Series([0.1, 1e-46, np.nan, -np.inf, -0.0]), [np.float32(0.1), 0, np.nan, -np.inf, -0.0]),
        (pl.Series([2**54 + 2**30 + 1]), [2.0**54 + 2.0**31]),
        (pl.Series([BEYOND_A_MIDPOINT], dtype=pl.Decimal(38, 29)), [1 + 2.0**-23]),
    ],
    ids=["float64", "int64", "decimal"],
)
def test_a_number_is_rounded_once(values, rounded):
    np.testing.assert_array_equal(read(pl.DataFrame({"x": values, "y": values}))[0], np.array(rounded, np.float32))


FLOATS = {"x": pl.Float64, "y": pl.Float32}


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (pl.DataFrame({"x": [1.0], "y": ["a"]}), "column 'y' is String; expected a type of number"),
        (pl.DataFrame({"x": [True], "y": [1.0]}), "column 'x' is Boolean"),
        (pl.DataFrame({"a": [1.0], "y": [1.0]}), "no column 'x', only 'a', 'y'; name two of them with --x and --y"),
        (pl.DataFrame({"x": [1.0, 2.0], "y": [2.0, None]}, schema=FLOATS), "row 2: column 'y' is null"),
        (pl.DataFrame({"x": [1.0, -1e39], "y": [2.0, 3.0]}, schema=FLOATS), "row 2: column 'x' is outside the range"),
        (pl.DataFrame({"x": [], "y": []}, schema=FLOATS), "no samples"),
        (pl.DataFrame({"\x1b[31m": [1.0]}), r"only '\\x1b\[31m'"),
    ],
    ids=["text", "boolean", "another name", "null", "beyond float32", "no rows", "a control code"],
)
def test_what_is_refused(frame, said):
    with pytest.raises(DatasetError, match=said):
        read(frame)


def test_a_row_is_counted_over_row_groups():
    frame = pl.DataFrame({"x": [1.0] * 70 + [None], "y": [1.0] * 71}, schema=FLOATS)
    with pytest.raises(DatasetError, match="row 71: column 'x' is null"):
        read(frame, row_group_size=10)


@given(data=st.data())
def test_a_damaged_file_is_refused_or_read(data):
    pl.DataFrame({"x": np.arange(50, dtype=np.float32), "y": np.ones(50, np.float32)}).write_parquet(PATH)
    raw = PATH.read_bytes()
    at = data.draw(st.integers(0, len(raw) - 1))
    PATH.write_bytes(raw[:at] + data.draw(st.binary(max_size=4)) + raw[at + data.draw(st.integers(0, 3)) :])
    with contextlib.suppress(DatasetError):
        assert len(read_samples(PATH, None)[0])
