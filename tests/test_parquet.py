import io
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubic_cli.history import EXTREMES, SCHEMA, HistoryWriter, frame
from cubic_cli.parquet import ParquetWriter

NUMBERS = pl.Schema({"whole": pl.Int64, "real": pl.Float32})
WHOLE = st.integers(-(2**63), 2**63 - 1)
REAL = st.none() | st.floats(width=32)
COLUMNS = st.one_of(
    st.lists(st.tuples(WHOLE, REAL), max_size=40),
    st.builds(lambda row, n: [row] * n, st.tuples(WHOLE, REAL), st.integers(1, 400)),
)


def written(schema, *groups):
    file = io.BytesIO()
    writer = ParquetWriter(file, schema)
    for rows in groups:
        writer.write(rows)
    writer.finish()
    return file.getvalue()


def bits(rows):
    """Return every value as its bits: NaN equals itself, and -0 is not 0."""
    return [None if value is None else np.float32(value).tobytes() for value in rows["real"]], rows["whole"].to_list()


@given(st.lists(COLUMNS, max_size=4))
def test_what_is_written_is_read(groups):
    frames = [pl.DataFrame(rows, schema=NUMBERS, orient="row") for rows in groups]
    read = pl.read_parquet(written(NUMBERS, *frames))
    whole = pl.concat(frames) if frames else pl.DataFrame(schema=NUMBERS)
    assert read.schema == NUMBERS
    assert bits(read) == bits(whole)


@pytest.mark.parametrize("rows", [1, 63, 64, 8191, 8192, 100_003])
def test_runs_of_any_length(rows):
    """The numbers of these take one, two and three bytes."""
    rng = np.random.default_rng(rows)
    real = pl.Series("real", rng.normal(size=rows).astype(np.float32))
    given = pl.DataFrame({"whole": np.full(rows, 7), "real": real.set(pl.Series(rng.random(rows) < 0.3), math.nan)})
    some = given.with_columns(real=pl.when(pl.int_range(rows) % 3 != 0).then("real"))
    read = pl.read_parquet(written(NUMBERS, given, some))
    assert bits(read) == bits(pl.concat([given, some]))


@pytest.mark.parametrize("step", [0, 1, -3, 2**62])
def test_evenly_spaced_numbers_take_no_room(step):
    with np.errstate(over="ignore"):
        rows = pl.DataFrame({"whole": np.arange(10_000) * np.int64(step) - 5})
    schema = pl.Schema({"whole": pl.Int64})
    file = written(schema, rows)
    assert pl.read_parquet(file).equals(rows)
    assert len(file) < 2000


def test_many_columns():
    schema = pl.Schema({f"column {i}": pl.Int64 for i in range(20)})
    rows = pl.DataFrame({name: np.arange(5) + i for i, name in enumerate(schema)})
    assert pl.read_parquet(written(schema, rows)).equals(rows)


@pytest.mark.parametrize(("frames", "batches"), [(1, 1), (10, 100), (3, 70_000), (200, 1000)])
def test_a_history_is_kept_in_groups_that_are_worth_it(tmp_path, frames, batches):
    path, rng = tmp_path / "history.parquet", np.random.default_rng(0)
    columns = {name: rng.normal(size=batches).astype(np.float32) for name in ("loss", *EXTREMES)}
    columns |= {"size": np.full(batches, 10), "nonfinite": np.zeros(batches, np.int64)}
    rows = [frame(epoch, 0, columns) for epoch in range(1, frames + 1)]
    with HistoryWriter(path) as history:
        for some in rows:
            history.append(some)
    read = pl.read_parquet(path)
    assert read.schema == SCHEMA
    assert read.equals(pl.concat(rows))
    assert len(history._writer._groups) <= math.ceil(frames * batches / 65_536)
