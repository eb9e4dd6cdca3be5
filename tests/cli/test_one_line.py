"""An error is one line, whatever the names in it hold: no name makes a line of its own, or controls a terminal."""

import os
from pathlib import Path

import polars as pl
import pytest
from helpers import QUICK

from cubic_cli.errors import CubicError, PeerError

EVIL = "a\nerror: forged\r\x1b[2J\x85b"
ESCAPED = r"a\nerror: forged\r\x1b[2J\x85b"


def assert_one_line(err, name=""):
    assert name in err
    assert "\x1b" not in err
    assert "\r" not in err
    lines = err.splitlines()
    assert [line for line in lines if line.strip().startswith("error: forged")] == []
    assert len([line for line in lines if line.startswith("error: ")]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("forward", "--dataset", f"{EVIL}.csv"),
        ("forward", "--dataset", EVIL),
        ("forward", "--parameters", f"{EVIL}.json"),
        ("forward", "--parameters", f"{EVIL}.pt"),
        ("forward", "--run-name", EVIL),
        ("forward", "--x", EVIL, "--y", EVIL),
        ("forward", "--x", EVIL),
        ("forward", "--seed", EVIL),
        ("forward", "--activation", EVIL),
        ("forward", "--verify", EVIL),
        ("forward", f"--{EVIL}"),
        ("forward", "--fail-on", EVIL),
        ("forward", "--distributed", "--coordinator-address", EVIL),
        ("forward", "--device", EVIL),
        (EVIL,),
        (f"--{EVIL}",),
        ("generate", "--dataset", f"{EVIL}/x.csv"),
        ("generate", "--dataset", f"{EVIL}.parquet/x.parquet"),
        ("inspect", EVIL),
        ("inspect", f"{EVIL}/x"),
        ("inspect", "--run-name", EVIL),
        ("inspect", "plain", EVIL),
        ("inspect", "--artifact-dir", EVIL),
        ("inspect", "--list", "--sort", EVIL),
        ("inspect", "plain", "--compare", EVIL),
        ("inspect", "plain", "--plot", EVIL),
        ("inspect", "plain", "--save", EVIL),
        ("inspect", "plain", "--save", f"{EVIL}/x.svg"),
        ("inspect", "plain", "--plot", f"{EVIL}/x.svg"),
        ("sweep", "--parameters", f"{EVIL}.json", "--parameters", "b.json"),
        ("sweep", "--hidden-size", EVIL),
        ("check", "--save", f"{EVIL}.x"),
        ("check", "--device", EVIL),
    ],
    ids=lambda value: " ".join(word.replace(EVIL, "EVIL") for word in value),
)
def test_of_arguments(cubic, arguments):
    Path("data.csv").write_text("x,y\n" + "1,2\n3,4\n" * 10)
    if "plain" in arguments:
        assert cubic("forward", "--run-name", "plain", *QUICK)[0] == 0
    status, out, err = cubic(*arguments)
    assert status in (1, 2), out
    assert "error: forged" in err or "--fail-on" in arguments  # which has it word by word
    assert_one_line(err)


@pytest.mark.parametrize("name", ["RUN_NAME", "SEED", "ACTIVATION", "PARAMETERS", "DATASET", "FAIL_ON", "X_COLUMN"])
@pytest.mark.parametrize("from_file", [True, False])
def test_of_variables(cubic, monkeypatch, name, from_file):
    Path("data.csv").write_text("x,y\n1,2\n3,4\n")
    if from_file:
        Path(".env").write_text(f'{name}="{EVIL.replace(chr(13), "")}"\n', newline="")
    else:
        monkeypatch.setenv(name, EVIL)
    status, out, err = cubic("forward")
    assert (status, out) in ((1, ""), (2, ""))
    assert_one_line(err)


def test_of_the_variables_of_jax(cubic, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", EVIL)

    def raise_it(*arguments):
        raise ValueError("what nobody foresaw")

    monkeypatch.setattr("cubic_cli.cli.commands.generate.write_dataset", raise_it)
    assert_one_line(cubic("generate")[2])


def test_of_the_folder_of_a_env(cubic, monkeypatch):
    folder = Path(EVIL)
    folder.mkdir()
    (folder / ".env").write_text("SEED=x\nRUN_NAM=y\n")
    monkeypatch.chdir(folder)
    status, _, err = cubic("generate")
    assert status == 2
    assert_one_line(err)


@pytest.mark.parametrize("line", [f"SEED='{EVIL}", "DATASET=${a\nerror: forged}", "A\nerror: forged=\nSEED='"])
def test_of_a_line_that_cannot_be_read(cubic, line):
    Path(".env").write_text(f"RUN_NAME=x\n{line}\n", newline="")
    err = cubic("generate", "--n", 3)[2]
    assert "forged" not in "".join(text for text in err.splitlines() if text.strip().startswith("error: forged"))


def test_of_columns(cubic):
    pl.DataFrame({EVIL: [1.0, 2.0], "y": ["a", "b"]}).write_parquet("d.parquet")
    assert_one_line(cubic("forward", "--dataset", "d.parquet")[2])
    status, _, err = cubic("forward", "--dataset", "d.parquet", "--x", "y", "--y", EVIL)
    assert status == 1
    assert "forged\n" not in err
    Path("d.csv").write_text(f'"{EVIL}",z\n1,2\n', newline="")
    status, _, err = cubic("forward", "--dataset", "d.csv")
    assert status == 1
    assert [line for line in err.splitlines() if line.strip().startswith("error: forged")] == []


@pytest.mark.parametrize("file", ["run.json", "history.parquet", "params.safetensors"])
def test_of_the_folder_of_a_damaged_run(cubic, file):
    Path("data.csv").write_text("x,y\n" + "1,2\n3,4\n" * 10)
    assert cubic("forward", "--run-name", "a", "--artifact-dir", EVIL, *QUICK)[0] == 0
    (Path(EVIL) / "a" / file).write_bytes(b"junk")
    status, _, err = cubic("inspect", "--artifact-dir", EVIL, "--epoch", 1, "--batch", 1)
    assert status == 1
    assert_one_line(err)


@pytest.mark.parametrize("made", ["file", "link", "stranger", "original"])
def test_of_what_stands_where_a_run_would_be_saved(cubic, made):
    Path("data.csv").write_text("x,y\n1,2\n3,4\n")
    folder = Path(EVIL) / "run"
    folder.parent.mkdir()
    if made == "file":
        folder.write_text("")
    elif made == "link":
        folder.symlink_to("nowhere")
    else:
        folder.mkdir()
        (folder / ("model.json" if made == "original" else EVIL)).write_text("{}")
    status, _, err = cubic("forward", "--artifact-dir", EVIL, "--run-name", "run")
    assert status == 1
    assert_one_line(err)


def test_of_an_error_of_the_system(cubic, monkeypatch):
    def raise_it(*arguments):
        raise OSError(5, "Input/output error", EVIL)

    monkeypatch.setattr("cubic_cli.cli.commands.generate.write_dataset", raise_it)
    assert_one_line(cubic("generate")[2])


def test_lines_of_their_own_are_given_as_such():
    assert str(CubicError("one\ntwo", "three\x1b", "  four\n")) == "one\\ntwo\nthree\\x1b\n  four\\n"
    assert str(PeerError(str(PeerError("one\ntwo")))) == "one\\ntwo"  # escaped once


def test_bytes_that_are_no_text_are_shown(cubic):
    name = os.fsdecode(b"a\xff\n\xfe.csv")
    assert_one_line(cubic("forward", "--dataset", name)[2], r"a\xff\n\xfe.csv")
