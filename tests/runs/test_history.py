"""The history: what every epoch saw is read again as it was, and an epoch that differs is kept."""

from pathlib import Path

import helpers
import numpy as np
import polars as pl
import pytest

from cubic_cli.float32 import EXTREMES
from cubic_cli.runs.history import SCHEMA, History


def make(rows, seed=0, infinite=0.0):
    """Return the columns of so many batches; of a share of them no value is finite."""
    rng = np.random.default_rng(seed)
    columns = {name: rng.normal(size=rows).astype(np.float32) for name in ("loss", *EXTREMES)}
    columns |= {"size": np.full(rows, 10), "nonfinite": (rng.random(rows) < infinite).astype(np.int64)}
    for name in EXTREMES:
        columns[name][columns["nonfinite"] > 0] = np.inf if name.endswith("min") else -np.inf
    return columns


def split(columns, at):
    return [{name: values[part] for name, values in columns.items()} for part in (slice(0, at), slice(at, None))]


def expect(epochs):
    """Return the rows of the columns of each epoch, in plain words."""
    frames = [
        pl.DataFrame(columns).select(
            pl.lit(epoch, pl.Int64).alias("epoch"),
            pl.int_range(1, pl.len() + 1).alias("batch"),
            "size",
            "loss",
            *(pl.col(name).replace([np.inf, -np.inf], None) for name in EXTREMES),
            "nonfinite",
        )
        for epoch, columns in enumerate(epochs, 1)
    ]
    return pl.concat(frames)


IN_A_FILE, IN_PART, IN_MEMORY = 0, 100, 10**6


@pytest.mark.parametrize(
    ("epochs", "rows", "resident"),
    [
        (1, 1, IN_A_FILE), (10, 100, IN_A_FILE), (10, 100, IN_PART), (10, 100, IN_MEMORY), (3, 300_000, IN_A_FILE),
        (3, 300_000, IN_MEMORY), (500, 7, IN_PART),
    ],
)  # fmt: skip
def test_what_every_epoch_saw_is_read_again(tmp_path, epochs, rows, resident):
    columns = make(rows, infinite=0.1)
    with History(tmp_path, resident) as history:
        for epoch in range(1, epochs + 1):
            for part in split(columns, rows // 3) if rows > 3 else [columns]:
                history.add(epoch, {name: values.copy() for name, values in part.items()})
        history.write(tmp_path / "history.parquet")
        np.testing.assert_array_equal(history.losses, columns["loss"])
    assert history.deterministic
    assert history.batches == rows
    read = pl.read_parquet(tmp_path / "history.parquet")
    assert read.schema == SCHEMA
    assert read.equals(expect([columns] * epochs))
    assert [path.name for path in tmp_path.iterdir()] == ["history.parquet"]


@pytest.mark.parametrize("resident", [0, 10**6], ids=["in a file", "in memory"])
@pytest.mark.parametrize("name", ["loss", "z1_min", "z2_max", "nonfinite"])
def test_an_epoch_that_differs_by_one_bit_is_told_and_kept(tmp_path, name, resident):
    usual, other = make(50), make(50)
    other[name][40] = np.nextafter(other[name][40], np.float32(np.inf)) if name != "nonfinite" else 7
    with History(tmp_path, resident) as history:
        for epoch in range(1, 6):
            for part in split(other if epoch == 3 else usual, 20):
                history.add(epoch, part)
        history.write(tmp_path / "history.parquet")
    assert not history.deterministic
    expected = expect([usual, usual, other, usual, usual])
    assert pl.read_parquet(tmp_path / "history.parquet").equals(expected)


def test_nan_is_equal_to_itself(tmp_path):
    history, columns = History(tmp_path), make(5)
    columns["loss"][2] = np.nan
    for epoch in (1, 2):
        history.add(epoch, {name: values.copy() for name, values in columns.items()})
    assert history.deterministic


@helpers.needs_linux
def test_a_disk_that_is_full_is_an_error_with_its_number(tmp_path):
    history = History(tmp_path)
    history.add(1, make(1000))
    with pytest.raises(OSError, match="No space left") as caught:
        history.write(Path("/dev/full"))
    assert caught.value.errno == 28
