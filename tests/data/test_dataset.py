"""`generate`: what it replaces, what it refuses, and that nothing of a stranger's is lost."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubic_cli.config import GenerateConfig
from cubic_cli.data import generate as dataset
from cubic_cli.data.generate import generate, is_own, refuse_strangers
from cubic_cli.data.problem import cubic
from cubic_cli.errors import DatasetError


@settings(deadline=None, max_examples=60)
@given(
    rows=st.sampled_from([1, 2, 5, 9, 10, 30, 100, 1500]),
    noise=st.sampled_from([0.0, 1e-6, 1.0, 10.0, 1e3, 1e6, 1e20, 3e38, 1e300]),
    seed=st.integers(0, 4095),
    suffix=st.sampled_from(["csv", "parquet"]),
)
def test_its_own_are_recognised_whatever_their_size_noise_and_format(rows, noise, seed, suffix):
    path = Path(f"data.{suffix}")
    path.unlink(missing_ok=True)
    generate(GenerateConfig(rows, str(path), noise, seed))
    assert is_own(path)


@settings(deadline=None, max_examples=20)
@given(rows=st.integers(40, 1500), noise=st.floats(0, 2000), seed=st.integers(4096, 2**32 - 1), again=st.integers(0, 9))
def test_its_own_of_any_seed_are_recognised_where_the_cubic_shows(rows, noise, seed, again):
    Path("data.csv").unlink(missing_ok=True)
    generate(GenerateConfig(rows, "data.csv", noise, seed))
    assert is_own(Path("data.csv"))
    generate(GenerateConfig(10, "data.csv", 1e9, seed))
    assert is_own(Path("data.csv"), seed)  # the same command again
    assert not is_own(Path("data.csv"), again)  # noise that hides the cubic could be anything


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
        refuse_strangers(Path("data.csv"))


def test_an_empty_file_is_nobodys():
    Path("data.csv").touch()
    generate(GenerateConfig(5))
    assert is_own(Path("data.csv"))


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
        ("/proc/data.csv", "cannot write /proc/data.csv: "),
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
    assert cubic("generate", "--n", 5, f"--dataset={name}")[0] == 0
    assert is_own(Path(name))
    status, _, err = cubic("forward", "--num-samples", 5, "--num-epochs", 1, "--hidden-size", 2, f"--dataset={name}")
    assert status == 0, err


def test_noise_beyond_all_numbers_warns_of_nothing():
    summary = generate(GenerateConfig(100, noise_std=1e308))
    assert summary.y_max == np.inf


def test_what_cannot_be_read_is_refused(monkeypatch):
    Path("data.csv").write_text("x,y\n1,2\n")
    monkeypatch.setattr(dataset.os, "access", lambda path, mode: False)  # root may read all
    with pytest.raises(DatasetError, match=r"cannot read data\.csv"):
        refuse_strangers(Path("data.csv"))
