"""What holds for datasets of either format."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubic_cli.data.generate import write
from cubic_cli.data.read import read_chunks, read_samples
from cubic_cli.errors import DatasetError

FORMATS = pytest.mark.parametrize("suffix", ["csv", "parquet"])


def save(path, frame):
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path, row_group_size=10)


@FORMATS
def test_the_first_samples_are_read_in_the_order_of_the_file(suffix):
    x = np.arange(1003, dtype=np.float32)
    path = Path(f"data.{suffix}")
    save(path, pl.DataFrame({"x": x, "other": "text", "y": -x}))
    for n in (None, 1, 998, 1003):
        found = np.concatenate([np.stack(chunk) for chunk in read_chunks(path, n, block=1000)], axis=1)
        np.testing.assert_array_equal(found, [x[:n], -x[:n]])


@FORMATS
def test_fewer_samples_than_asked_for_are_used_and_told(suffix):
    path, told = Path(f"data.{suffix}"), []
    save(path, pl.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0]}, schema={"x": pl.Float32, "y": pl.Float32}))
    assert read_samples(path, 1000, tell=told.append)[0].tolist() == [1, 2]
    assert told == [f"{path} has 2 rows, fewer than the 1,000 asked for; all of them are used"]
    save(path, pl.DataFrame({"x": [1.0], "y": [3.0]}, schema={"x": pl.Float32, "y": pl.Float32}))
    read_samples(path, 2, tell=told.append)
    assert told[1:] == [f"{path} has 1 row, fewer than the 2 asked for; it is used"]


@given(values=st.lists(st.floats(width=32), min_size=1, max_size=30), suffix=st.sampled_from(["csv", "parquet"]))
def test_what_is_written_reads_back_exactly(values, suffix):
    x = np.array(values, np.float32)
    path = Path(f"data.{suffix}")
    write(path, iter([pl.DataFrame({"x": x, "y": x[::-1]})]))
    for found, wanted in zip(read_samples(path, None), (x, x[::-1]), strict=True):
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(np.signbit(found)[~np.isnan(wanted)], np.signbit(wanted)[~np.isnan(wanted)])


@FORMATS
def test_a_file_that_changes_while_it_is_read_is_refused(suffix):
    path = Path(f"data.{suffix}")
    save(path, pl.DataFrame({"x": np.ones(100, np.float32), "y": np.ones(100, np.float32)}))
    chunks = read_chunks(path, None, block=100)
    next(chunks)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DatasetError, match="changed while it was read"):
        list(chunks)


@FORMATS
def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(suffix):
    for name, value in (("data", 1), ("other", 2)):
        frame = pl.DataFrame({"x": np.full(1000, value, np.float32), "y": np.ones(1000, np.float32)})
        save(Path(f"{name}.{suffix}"), frame)
    chunks = read_chunks(Path(f"data.{suffix}"), None, block=100)
    next(chunks)
    os.replace(f"other.{suffix}", f"data.{suffix}")
    assert {float(v) for x, _ in chunks for v in x} == {1.0}


@FORMATS
def test_the_command_that_makes_a_dataset_can_be_copied(suffix):
    with pytest.raises(DatasetError, match=rf"run `cubic generate --dataset 'my data\.{suffix}'` to make one"):
        read_samples(Path(f"my data.{suffix}"), None)


def test_no_command_is_named_that_would_make_other_columns():
    with pytest.raises(DatasetError, match=r"^there is no dataset houses\.csv; name one with --dataset$"):
        next(read_chunks(Path("houses.csv"), None, ("area", "price")))


@FORMATS
def test_what_is_no_file_is_refused(suffix):
    path = Path(f"data.{suffix}")
    with pytest.raises(DatasetError, match="there is no dataset"):
        read_samples(path, None)
    os.mkfifo(path)
    with pytest.raises(DatasetError, match="no regular file"):
        read_samples(path, None)


@FORMATS
def test_a_panic_of_polars_is_an_error_of_ours(suffix, monkeypatch):
    def panic(*arguments, **options):
        raise pl.exceptions.PanicException("the pool cannot start\nnote: …")

    path = Path(f"data.{suffix}")
    save(path, pl.DataFrame({"x": [1.0], "y": [2.0]}))
    monkeypatch.setattr(pl, "read_csv", panic)
    monkeypatch.setattr(pl, "scan_parquet", panic)
    with pytest.raises(DatasetError, match=r"polars failed on data\.\w+: the pool cannot start;"):
        read_samples(path, None)
