import io
import math
import os
import tempfile

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubic_cli.runs.history import EXTREMES, SCHEMA, Batches, HistoryWriter
from cubic_cli.runs.parquet import ParquetWriter, write_all

NUMBERS = pl.Schema({"whole": pl.Int64, "real": pl.Float32})
WHOLE = st.integers(-(2**63), 2**63 - 1)
REAL = st.none() | st.floats(width=32)
COLUMNS = st.one_of(
    st.lists(st.tuples(WHOLE, REAL), max_size=40),
    st.builds(lambda row, n: [row] * n, st.tuples(WHOLE, REAL), st.integers(1, 400)),
)


def columns(frame):
    return {
        name: np.ma.masked_array(frame[name].fill_null(0).to_numpy(), frame[name].is_null().to_numpy())
        if frame[name].null_count()
        else frame[name].to_numpy()
        for name in frame.columns
    }


def written(schema, *groups):
    kinds = {pl.Int64: np.dtype(np.int64), pl.Float32: np.dtype(np.float32)}
    with tempfile.TemporaryFile(buffering=0) as file:
        writer = ParquetWriter(file, {name: kinds[kind] for name, kind in schema.items()})
        for rows in groups:
            writer.write(columns(rows))
        writer.finish()
        file.seek(0)
        return file.read()


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


@pytest.mark.parametrize(("epochs", "batches"), [(1, 1), (10, 100), (3, 70_000), (200, 1000)])
@pytest.mark.parametrize("infinite", [0, 0.1])
def test_a_history_is_kept_in_groups_that_are_worth_it(tmp_path, epochs, batches, infinite):
    path, rng = tmp_path / "history.parquet", np.random.default_rng(0)
    given = {name: rng.normal(size=batches).astype(np.float32) for name in ("loss", *EXTREMES)}
    given |= {"size": np.full(batches, 10), "nonfinite": (rng.random(batches) < infinite).astype(np.int64)}
    for name in EXTREMES:
        given[name][given["nonfinite"] > 0] = np.inf if name.endswith("min") else -np.inf
    with HistoryWriter(path) as history:
        for epoch in range(1, epochs + 1):
            # An epoch comes in one piece or in two.
            for some in (slice(0, batches // 3), slice(batches // 3, batches)):
                if len(piece := Batches(epoch, some.start, {name: values[some] for name, values in given.items()})):
                    history.append(piece)
    read = pl.read_parquet(path)
    assert read.columns == list(SCHEMA)
    assert read["epoch"].to_list() == np.repeat(np.arange(1, epochs + 1), batches).tolist()
    assert read["batch"].to_list() == np.tile(np.arange(1, batches + 1), epochs).tolist()
    expected = pl.DataFrame(given).with_columns(pl.col(EXTREMES).replace([np.inf, -np.inf], None))
    assert read.drop("epoch", "batch").equals(pl.concat([expected] * epochs).select(read.columns[2:]))
    assert len(history._writer._groups) <= math.ceil(epochs * batches / 65_536)


@pytest.mark.parametrize("at_once", [1, 7, 10**6])
@pytest.mark.parametrize("vectors", [True, False])
def test_what_is_written_in_part_is_written_on(tmp_path, monkeypatch, at_once, vectors):
    class Slow(io.FileIO):
        def write(self, data):
            return super().write(data[:at_once])

    if vectors:
        monkeypatch.setattr(os, "writev", lambda fd, parts: os.write(fd, b"".join(parts)[:at_once]), raising=False)
    else:
        monkeypatch.delattr(os, "writev", raising=False)
    parts = [b"ab", b"", np.arange(5, dtype=np.float32).data, np.zeros(0, np.float32).data, b"c" * 100] * 30
    with Slow(tmp_path / "file", "w") as file:
        write_all(file, parts)
    assert (tmp_path / "file").read_bytes() == b"".join(parts)
