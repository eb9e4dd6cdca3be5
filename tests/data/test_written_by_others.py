"""Files as other programs write them, each with what it adds of its own; skipped where the program is not there."""

import csv
from pathlib import Path

import numpy as np
import pytest

from cubic_cli.data.read import read_samples
from cubic_cli.errors import DatasetError

X = np.array([0.1, 1e-40, -3.5, np.nan, np.inf, 16777217.0])
Y = np.arange(6)


def check(path, x=X, y=Y):
    found = read_samples(Path(path), None)
    for column, values in zip(found, (x, y), strict=True):
        np.testing.assert_array_equal(column, np.asarray(values, np.float32))


@pytest.mark.parametrize(
    "quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC], ids=["minimal", "all", "texts"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_of_python(quoting, encoding):
    with open("data.csv", "w", newline="", encoding=encoding) as stream:
        writer = csv.writer(stream, quoting=quoting)
        writer.writerow(["y", 'a "note", é', "x"])
        writer.writerows([y, 'line 1\r\nline "2", é', x] for x, y in zip(X.tolist(), Y.tolist(), strict=True))
    check("data.csv")


def frame():
    pandas = pytest.importorskip("pandas")
    index = pandas.date_range("2026-01-01", periods=6, name="day")
    return pandas.DataFrame({"name": list('ab"c,\n'), "y": Y, "x": X}, index=index)


@pytest.mark.parametrize("options", [{}, {"index": False}, {"quoting": csv.QUOTE_ALL}, {"lineterminator": "\r\n"}])
def test_csv_of_pandas(options):
    frame().to_csv("data.csv", na_rep="nan", **options)
    check("data.csv")


@pytest.mark.parametrize("compression", [None, "snappy", "gzip", "zstd"])
def test_parquet_of_pandas(compression):
    pytest.importorskip("pyarrow")
    numbers = frame().fillna({"x": 0.5})
    numbers.to_parquet("data.parquet", compression=compression)
    check("data.parquet", numbers["x"])
    numbers.reset_index().astype({"y": "Int64"}).to_parquet("data.parquet", compression=compression)
    check("data.parquet", numbers["x"])
    frame().to_parquet("data.parquet", compression=compression)
    with pytest.raises(DatasetError, match="row 4: column 'x' is null, as pandas writes NaN"):
        check("data.parquet")


def test_parquet_of_arrow():
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"list": [[1]] * 6, "x": arrow.array(X).dictionary_encode(), "y": arrow.array(Y, arrow.uint16())}
    for table in (arrow.table(columns), arrow.table(columns | {"x": arrow.array(X, arrow.float64())})):
        parquet.write_table(table, "data.parquet", row_group_size=2, use_dictionary=True, version="1.0")
        check("data.parquet")
    halves = arrow.table({"x": arrow.array(np.float16([0.1, 2])), "y": arrow.array(np.float16([-1, 65504]))})
    parquet.write_table(halves, "data.parquet")
    check("data.parquet", np.float16([0.1, 2]), [-1, 65504])


def test_files_of_duckdb():
    duckdb = pytest.importorskip("duckdb")
    query = "select 'a, \"b\"' as name, 1.25::decimal(9, 2) as x, 7::hugeint as y, null as n from range(3)"
    duckdb.sql(query).write_csv("data.csv")
    check("data.csv", [1.25] * 3, [7] * 3)
    duckdb.sql(query).write_parquet("data.parquet")
    check("data.parquet", [1.25] * 3, [7] * 3)


def test_files_of_polars():
    import polars as pl

    table = pl.DataFrame({"x": X, "when": [None] * 6, "y": Y}).with_columns(pl.lit(["a"]).alias("list"))
    table.write_parquet("data.parquet", statistics=True)
    check("data.parquet")
    table.drop("list").write_csv("data.csv", include_bom=True, line_terminator="\r\n")
    check("data.csv")
