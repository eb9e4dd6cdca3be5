"""`generate`: what it replaces, what it refuses, and that nothing of a stranger's is lost."""

import json
import os
import re
import shlex
from pathlib import Path

import helpers
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubic_cli.config import GenerateConfig
from cubic_cli.data import generate as dataset
from cubic_cli.data.generate import generate, is_own, refuse_to_replace, write
from cubic_cli.data.problem import cubic
from cubic_cli.data.read import read_samples
from cubic_cli.errors import DatasetError


@given(
    rows=st.sampled_from([1, 2, 9, 30, 1500]),
    noise=st.sampled_from([0.0, 1.0, 1e3, 1e20, 1e300]),
    seed=st.integers(0, 2**32 - 1),
    suffix=st.sampled_from(["csv", "parquet"]),
)
def test_its_own_of_the_same_seed_are_recognised_whatever_their_size_noise_and_format(rows, noise, seed, suffix):
    path = Path(f"data.{suffix}")
    path.unlink(missing_ok=True)
    generate(GenerateConfig(rows, str(path), noise, seed))
    assert is_own(path, 10, seed)


@given(rows=st.integers(100, 1500), noise=st.floats(0, 100), seed=st.integers(1, 2**32 - 1))
def test_its_own_of_another_seed_are_recognised_by_the_cubic(rows, noise, seed):
    """Of a hundred rows none lies below −50 with a chance of 3e-13."""
    Path("data.csv").unlink(missing_ok=True)
    generate(GenerateConfig(rows, "data.csv", noise, seed))
    assert is_own(Path("data.csv"), noise, 0)


def test_noise_that_hides_the_cubic_could_be_anything():
    generate(GenerateConfig(1000, "data.csv", 1e4, 1))
    assert not is_own(Path("data.csv"), 1e4, 0)
    assert is_own(Path("data.csv"), 10, 1)


X = np.array([-51, 51, *range(8)], np.float32)
OWN = {
    "ten rows over both halves": (X, 0.0, True),
    "nine rows": (X[:9], 0.0, False),
    "x beyond 100": (np.append(X, 100), 0.0, False),
    "x at -50": (np.maximum(X, -50), 0.0, False),
    "x at 50": (np.minimum(X, 50), 0.0, False),
    "59 beside the cubic": (X, 59.0, True),
    "61 beside the cubic": (X, 61.0, False),
}


@pytest.mark.parametrize("case", OWN)
def test_the_limits_of_what_is_its_own(case):
    x, beside, expected = OWN[case]
    y = cubic(x.astype(float)) + beside * (np.arange(len(x)) == 3)
    pl.DataFrame({"x": x, "y": y.astype(np.float32)}).write_csv("data.csv")
    assert is_own(Path("data.csv")) is expected
    assert is_own(Path("data.csv"), noise_std=10.5) is (expected or beside == 61)  # 6 standard deviations are 63


def test_other_columns_are_no_dataset_of_its_own():
    frame = pl.DataFrame({"x": X, "y": cubic(X.astype(float)).astype(np.float32)})
    for other in (frame.select("y", "x"), frame.with_columns(note=1), frame.cast(pl.Float64)):
        other.write_parquet("data.parquet")
        assert not is_own(Path("data.parquet"))
        other.rename({"x": "X"}).write_csv("data.csv")
        assert not is_own(Path("data.csv"))


STRANGERS = {
    "a sine": lambda x, noise: np.sin(x),
    "a large sine": lambda x, noise: 1e6 * np.sin(x),
    "a line": lambda x, noise: 2 * x + 1,
    "a steep line": lambda x, noise: 1e6 * x,
    "a square": lambda x, noise: x * x,
    "an exponential": lambda x, noise: np.exp(x / 10),
    "noise": lambda x, noise: 50 * noise,
    "large noise": lambda x, noise: 1e5 * noise,
    "a price": lambda x, noise: 2e5 + 1e5 * noise,
    "twice the cubic": lambda x, noise: 2 * cubic(x),
    "the cubic upside down": lambda x, noise: -cubic(x),
    "the cubic higher up": lambda x, noise: cubic(x) + 100,
    "the cubic and NaN": lambda x, noise: np.where(x == x[0], np.nan, cubic(x)),
    "infinity": lambda x, noise: np.full_like(x, np.inf),
    "zero": lambda x, noise: 0 * x,
}


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("rows", [2, 10, 1000])
def test_a_strangers_are_refused(name, rows):
    rng = np.random.default_rng(rows)
    x = rng.uniform(-100, 100, rows)
    columns = [np.asarray(column, np.float32) for column in (x, STRANGERS[name](x, rng.standard_normal(rows)))]
    path = Path("data.csv")
    dataset.write(path, iter([pl.DataFrame(dict(zip("xy", columns, strict=True)))]))
    before = path.read_bytes()
    with pytest.raises(DatasetError, match="--force"):
        generate(GenerateConfig(10))
    assert path.read_bytes() == before
    generate(GenerateConfig(10), force=True)
    assert is_own(path)


@pytest.mark.parametrize(
    "text",
    [
        "x,y\n1,2\n", "x,y\n1,2\n3,4\n", "x,y\n0.5,19.75\n0.25,19.87\n", "x,y\n", "a,b\n1,2\n", "x,y\nname,value\n",
        "x,y\n" + "".join(f"{i / 100},{20 - i / 200}\n" for i in range(50)), "x,y\n101,9000\n" * 1,
        "x,y\n" + "".join(f"{i},{cubic(i)}\n" for i in range(90, 120)), "no table at all", "\n",
    ],
)  # fmt: skip
def test_a_strangers_by_hand_are_refused(text):
    Path("data.csv").write_text(text)
    with pytest.raises(DatasetError, match="does not look like a dataset of cubic's"):
        refuse_to_replace(Path("data.csv"))


def test_an_empty_file_is_refused_too():
    Path("data.csv").touch()
    with pytest.raises(DatasetError, match=r"is empty; run `cubic generate --force --dataset data\.csv` to replace it"):
        generate(GenerateConfig(5))
    generate(GenerateConfig(5), force=True)
    assert is_own(Path("data.csv"))


def test_who_may_read_the_file_may_read_its_replacement():
    generate(GenerateConfig(5))
    Path("data.csv").chmod(0o640)
    generate(GenerateConfig(6))
    assert Path("data.csv").stat().st_mode & 0o777 == 0o640


def test_a_panic_of_polars_is_an_error_of_ours(monkeypatch):
    def panic(*arguments, **options):
        raise pl.exceptions.PanicException("the pool cannot start")

    monkeypatch.setattr(pl.DataFrame, "write_csv", panic)
    with pytest.raises(DatasetError, match=r"polars failed on data\.csv: the pool cannot start"):
        generate(GenerateConfig(5))
    assert os.listdir() == []


def test_a_strangers_file_that_comes_under_way_is_kept():
    def leave(rows):
        Path("data.csv").write_text("x,y\n1,2\n")

    with pytest.raises(DatasetError, match="--force"):
        generate(GenerateConfig(5), progress=leave)
    assert Path("data.csv").read_text() == "x,y\n1,2\n"
    assert os.listdir() == ["data.csv"]


@pytest.mark.parametrize("force", [False, True])
def test_a_link_is_never_followed(force):
    Path("precious.csv").write_text("x,y\n1,2\n")
    Path("data.csv").symlink_to("precious.csv")
    if force:
        generate(GenerateConfig(5), force=True)
        assert not Path("data.csv").is_symlink()
    else:
        with pytest.raises(DatasetError, match="is a link"):
            generate(GenerateConfig(5))
    assert Path("precious.csv").read_text() == "x,y\n1,2\n"
    Path("nowhere.csv").symlink_to("missing.csv")
    with pytest.raises(DatasetError, match="is a link"):
        generate(GenerateConfig(5, "nowhere.csv"))
    assert not Path("missing.csv").exists()


def test_a_hard_link_keeps_what_it_had():
    generate(GenerateConfig(5))
    os.link("data.csv", "kept.csv")
    before = Path("kept.csv").read_bytes()
    generate(GenerateConfig(6))
    assert Path("kept.csv").read_bytes() == before


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_file_is_refused_even_by_force(force):
    Path("folder.csv").mkdir()
    os.mkfifo("pipe.csv")
    Path("zero.csv").symlink_to("/dev/zero")
    for name in ("folder.csv", "pipe.csv", "zero.csv"):
        with pytest.raises(DatasetError, match="no regular file"):
            generate(GenerateConfig(5, name), force=force)
    assert sorted(os.listdir()) == ["folder.csv", "pipe.csv", "zero.csv"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing/data.csv", "there is no folder missing; make it"),
        ("file/data.csv", "there is no folder file"),
        ("n" * 252 + ".csv", "File name too long"),
        pytest.param("/proc/data.csv", "cannot write /proc/data.csv: ", marks=helpers.needs_linux),
    ],
)
def test_a_path_that_cannot_be_written(cubic, path, said):
    Path("file").touch()
    status, out, err = cubic("generate", "--n", 5, "--dataset", path)
    assert (status, out) == (1, "")
    assert said in err
    assert os.listdir() == ["file"]


@pytest.mark.parametrize(
    "name", ["with space.csv", "ünïcode 🙂.csv", "UPPER.CSV", "-dash.csv", "a\nb.csv", "x.PARQUET"]
)
def test_names_that_are_unusual(cubic, name):
    assert cubic("generate", "--n", 20, f"--dataset={name}")[0] == 0
    assert is_own(Path(name))
    status, _, err = cubic("forward", *helpers.QUICK, f"--dataset={name}")
    assert status == 0, err


MADE = {  # what stands where the dataset is to be
    "nothing": lambda path: None,
    "an empty file": lambda path: path.touch(),
    "blank lines": lambda path: path.write_text("\n\n"),
    "a header alone": lambda path: path.write_text("x,y\n"),
    "a link to nothing": lambda path: path.symlink_to("gone.csv"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to an empty file": lambda path: (Path("empty.csv").touch(), path.symlink_to("empty.csv")),
    "an empty file for a table": lambda path: path.touch(),
    "a table of no rows": lambda path: write(path, iter([])),
}


@pytest.mark.parametrize("made", MADE)
def test_the_command_that_forward_names_makes_the_dataset(cubic, made):
    path = Path("my data.parquet" if "table" in made else "my data.csv")
    MADE[made](path)
    status, _, err = cubic("forward", "--dataset", path)
    assert status == 1
    _, *arguments = shlex.split(re.search(r"`(cubic generate [^`]*)`", " ".join(err.split()))[1])
    assert ("--force" in arguments) is (made != "nothing")
    status, _, err = cubic(*arguments, "--n", 20)
    assert status == 0, err
    assert len(read_samples(path, None)[0]) == 20


def test_the_ends_are_those_of_the_file(cubic):
    found = json.loads(cubic("generate", "--n", 50, "--json")[1])
    rows = [line.split(",") for line in Path("data.csv").read_text().splitlines()[1:]]
    for name, values in zip("xy", zip(*rows, strict=True), strict=True):
        ends = [found[f"{name}_min"], found[f"{name}_max"]]
        assert ends == [float(min(values, key=float)), float(max(values, key=float))]


def test_noise_beyond_all_numbers_warns_of_nothing():
    summary = generate(GenerateConfig(100, noise_std=1e308))
    assert summary.y_max == np.inf


def test_what_cannot_be_read_is_refused(monkeypatch):
    Path("data.csv").write_text("x,y\n1,2\n")
    monkeypatch.setattr(dataset.os, "access", lambda path, mode: False)  # root may read all
    with pytest.raises(DatasetError, match=r"cannot read data\.csv"):
        refuse_to_replace(Path("data.csv"))
