"""The `.env` file: what takes effect of it, what is told, and whose is taken."""

import json
import os
import re
import socket
import tracemalloc
from pathlib import Path
from unittest.mock import patch

import helpers
import pytest
from dotenv.variables import parse_variables

from cubic_cli.cli import dotenv
from cubic_cli.cli.dotenv import load


@pytest.fixture
def environment(monkeypatch):
    """What stands in for the environment."""
    values = {"HOME": "/somewhere"}
    monkeypatch.setattr(dotenv.os, "environ", values)
    return values


def test_an_empty_variable_leaves_the_word_to_dotenv(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("SEED=5\nBATCH_SIZE=\n")
    monkeypatch.setenv("SEED", "")
    found = load()
    assert found.names == {"SEED"}


@pytest.mark.parametrize(
    ("raw", "seed"),
    [
        (b"SEED=1\r\nHIDDEN_SIZE=2\r\n", "1"),
        (b"\xef\xbb\xbfSEED=1\n", "1"),
        (b"SEED=1\nSEED=2\n", "2"),
        (b"SEED=2\nSEED=\n", None),
        (b"SEED='1'\n", "1"),
        (b'SEED="1" # one\n', "1"),
        (b"SEED=1 # one\n", "1"),
        (b"export SEED=1\n", "1"),
        (b"  SEED = 1\n", "1"),
        (b"# SEED=1\n\n", None),
        (b"SEED=${HOME}\n", "/somewhere"),
        (b"SEED='${HOME}'\n", "${HOME}"),
        (b"A=1\nB=${A}2\nSEED=${B}3\n", "123"),
        (b"A=${SEED:-7}\nSEED=${A}\n", "7"),
        (b"SEED=${A}\nSEED=1\n", "1"),
        (b"SEED=$HOME", "$HOME"),
        (b"OTHER=\xc3\xa9\nSEED=1", "1"),
    ],
)
def test_what_dotenv_may_look_like(tmp_path, monkeypatch, raw, seed):
    (tmp_path / ".env").write_bytes(raw)
    values = {"HOME": "/somewhere"}
    monkeypatch.setattr(dotenv.os, "environ", values)
    load()
    assert values.get("SEED") == seed


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"SEED=1\n\nthis is = not 'a line\n", 3),
        (b"SEED=1\nSEED\n", 2),
        (b"SEED=1\nPASSWORD\n", 2),
        (b"SEED=1\nB='open\n", 2),
        (b"A=1\nSEED=\xff\xfe\n", 2),
        (b"SEED=1\nSE\0ED=1\n", 2),
        (b"SEED=1\nB=2\0\n", 2),
        (b"SEED=1\n=1\n", 2),
        (b"export SEED\n", 1),
        (b"# as in Windows\nset SEED=1\n", 2),
        (b"A=1\n'SEED'=\xff\n", 2),
        ("\ufeffSEED=1\n".encode("utf-16-le"), 1),
    ],
)
def test_a_line_of_dotenv_that_is_none(cubic, tmp_path, raw, line):
    (tmp_path / ".env").write_bytes(raw)
    status, out, err = cubic("inspect")
    assert (status, out) == (2, "")
    assert f"{tmp_path / '.env'}, line {line}:" in err


def test_only_settings_and_what_chooses_of_jax_take_effect(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text(
        "SEED=1\nPATH=/evil\nJAX_PLATFORMS=cpu\nJAX_COMPILATION_CACHE_DIR=/evil\nXLA_FLAGS=--xla_dump_to=/evil\n"
        "JAX_DUMP_IR_TO=/evil\nAWS_SECRET_ACCESS_KEY=hunter2\nLD_PRELOAD=x\n"
    )
    values = {"PATH": "/bin"}
    monkeypatch.setattr(dotenv.os, "environ", values)
    notes = load().notes
    assert values == {"PATH": "/bin", "SEED": "1", "JAX_PLATFORMS": "cpu"}
    assert [note.split()[0] for note in notes] == ["JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS", "JAX_DUMP_IR_TO"]
    assert not any("evil" in note for note in notes)


@pytest.mark.parametrize(
    "secret", ["PASSWORD=hunter2 'x\n", "PASSWORD 'hunter2\n", "hunter2\n", "PASSWORD=\xff hunter2"]
)
def test_no_secret_is_shown(cubic, tmp_path, secret):
    (tmp_path / ".env").write_text(f"SEED=1\nTOKEN=hunter2\n{secret}", encoding="latin-1")
    _, out, err = cubic("forward")
    assert "hunter2" not in out + err


def test_a_secret_is_not_saved(cubic, tmp_path):
    cubic("generate", "--n", 20)
    (tmp_path / ".env").write_text("TOKEN=hunter2\nNUM_SAMPLES=20\n")
    status, out, err = cubic("forward", "--hidden-size", 3, "--json")
    assert status == 0, err
    assert json.loads(out)["sources"]["num_samples"] == ".env"
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".env"]
    assert len(files) == 4
    assert not any(b"hunter2" in path.read_bytes() for path in files)


def test_a_dotenv_that_is_a_folder_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("SEED=1\n")
    (tmp_path / "below" / ".env").mkdir(parents=True)
    monkeypatch.setattr(dotenv.os, "environ", {})
    found = load(tmp_path / "below")
    assert found.path == tmp_path / ".env"
    assert found.notes == (f"{tmp_path}/below/.env is passed over: it is no file",)


def test_a_huge_dotenv_is_refused_without_reading_it(tmp_path):
    with (tmp_path / ".env").open("wb") as stream:
        stream.truncate(1 << 40)
    assert load().error is None  # a stranger to us
    with (tmp_path / ".env").open("r+b") as stream:
        stream.write(b"SEED=1\n")
    assert "64 KiB" in str(load().error)


BOMBS = {  # of a few hundred bytes, and the line that is too much
    "each line doubles": ("A0=xxxxxxxxxx\n" + "".join(f"A{i + 1}=${{A{i}}}${{A{i}}}\n" for i in range(22)), 13),
    "many lines of one size": (f"A={'x' * 300}\nB={'${A}' * 30}\n" + "C=${B}x\n" * 400, 9),
    "one line": (f"A={'x' * 10_000}\nB={'${A}' * 1000}\n", 2),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_expands_without_end_is_refused_at_its_line(environment, tmp_path, bomb):
    text, line = BOMBS[bomb]
    (tmp_path / ".env").write_text(f"{text}SEED=1\n")
    tracemalloc.start()
    error = load(tmp_path).error
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"{tmp_path / '.env'}, line {line}: with this line the values are larger than 64 KiB" in str(error)
    assert peak < 1 << 24
    (tmp_path / ".env").write_text(f"{text}JAX_PLATFORMS=cpu\n")  # of other programs
    assert load(tmp_path).error is None
    assert environment["JAX_PLATFORMS"] == "cpu"


@pytest.mark.parametrize(
    "raw", [b"source ~/.bashrc\n", b"\xff\xfe\0", b"\x1f\x8b\x08\x00\x00", b"if [ x ]; then\n  A=1\nfi\n"]
)
def test_a_file_of_another_kind_is_passed_over(cubic, tmp_path, monkeypatch, raw):
    (tmp_path / ".env").write_bytes(raw + b"\nJAX_PLATFORMS=cpu\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert cubic("check", "--help")[::2] == (0, "")
    status, _, err = cubic("inspect", "--list")
    assert (status, err) == (0, "")
    assert os.environ["JAX_PLATFORMS"] == "cpu"


def test_help_is_there_though_a_setting_is_not(cubic, tmp_path):
    (tmp_path / ".env").write_text("SEED=${NOWHERE}\n")
    assert cubic("forward", "--help")[0] == 0
    status, out, err = cubic("forward")
    assert (status, out) == (2, "")
    assert f"{tmp_path / '.env'}, line 1: SEED has ${{NOWHERE}}, which is set neither" in err


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ARTIFACT_DIR=$HOME/runs", "ARTIFACT_DIR has $HOME, which is not replaced; write ${HOME}"),
        ("ARTIFACT_DIR=${HOME", "ARTIFACT_DIR has a ${ that begins neither ${NAME} nor ${NAME:-text}"),
        ("RUN_NAME=${A:-${HOME}}", "RUN_NAME has a ${ that begins neither"),
        ("DATASET=${A:x}.csv", "DATASET has a ${ that begins neither"),
    ],
)
def test_what_looks_like_a_name_and_is_not_replaced_is_told(environment, tmp_path, line, why):
    (tmp_path / ".env").write_text(f"\n{line}\n")
    assert str(load().error).startswith(f"{tmp_path}/.env, line 2: {why}")
    name, _, value = line.partition("=")
    (tmp_path / ".env").write_text(f"{name}='{value}'\n")
    load()
    assert environment[name] == value


def test_dollars_of_other_names_are_nobodys_business(environment, tmp_path):
    (tmp_path / ".env").write_text("PASSWORD=${\nOTHER=$HOME\nARTIFACT_DIR=US$\nX_COLUMN=US$HOME\n")
    assert load().error is None
    assert (environment["ARTIFACT_DIR"], environment["X_COLUMN"]) == ("US$", "US$HOME")


@pytest.mark.parametrize("text", ["${" * 8000, "${" * 8000 + ":}"], ids=["no end", "a colon"])
def test_names_without_an_end_take_no_time(environment, tmp_path, text):
    """Counted in letters that are looked at for a name: each once, not once for every `${` before it."""
    seen = []
    (tmp_path / ".env").write_text(f"SEED=1\nA={text}\n")
    with patch("dotenv.variables.parse_variables", lambda piece: seen.append(len(piece)) or parse_variables(piece)):
        assert load(tmp_path).error is None
    assert sum(seen) <= len(text)
    assert max(seen) <= 4


def test_an_undefined_name_behind_a_name_is_one_too(environment, tmp_path):
    (tmp_path / ".env").write_text("A=1\nB=${C}/x\nARTIFACT_DIR=${B}\n")
    assert "line 3: ARTIFACT_DIR has ${B}" in str(load().error)
    environment["B"] = "/y"
    assert load().error is None
    assert environment["ARTIFACT_DIR"] == "/y"


def test_the_environment_beats_the_file_in_what_is_expanded_too(environment, tmp_path):
    (tmp_path / ".env").write_text("RUN_NAME=file\nDATASET=${RUN_NAME}.csv\n")
    environment["RUN_NAME"] = "shell"
    load()
    assert environment["DATASET"] == "shell.csv"


@pytest.mark.parametrize(
    ("written", "meant"),
    [("~/runs", "/somewhere/runs"), ("${HOME}/runs", "/somewhere/runs"), ("/abs", "/abs"), ("runs", "{folder}/runs")],
)
def test_a_path_is_relative_to_the_folder_of_its_file(environment, tmp_path, written, meant):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / ".env").write_text(f"ARTIFACT_DIR={written}\nDATASET=~/x.csv\nRUN_NAME=~\n")
    load(tmp_path / "a" / "b")
    assert environment["ARTIFACT_DIR"] == meant.format(folder=tmp_path)
    assert environment["DATASET"] == "/somewhere/x.csv"
    assert environment["RUN_NAME"] == "~"


@pytest.mark.parametrize("setting", ["ARTIFACT_DIR", "DATASET", "PARAMETERS"])
def test_a_home_folder_of_nobody_is_an_error(environment, tmp_path, setting):
    (tmp_path / ".env").write_text(f"SEED=1\n{setting}=~nobody-of-this-name/x.csv\n")
    said = f"{tmp_path}/.env, line 2: there is no home folder ~nobody-of-this-name; write ./~nobody-of-this-name for"
    assert str(load(tmp_path).error).startswith(said)
    (tmp_path / ".env").write_text(f"{setting}=./~nobody-of-this-name/x.csv\n")
    load(tmp_path)
    assert environment[setting] == "./~nobody-of-this-name/x.csv"


def test_a_path_stays_as_it_is_beside_its_file(environment, tmp_path):
    (tmp_path / ".env").write_text("DATASET=x.csv\n")
    load(tmp_path)
    assert environment["DATASET"] == "x.csv"


def test_cubic_works_from_any_folder_below(cubic, tmp_path, monkeypatch):
    cubic("generate", "--n", 20)
    (tmp_path / ".env").write_text("DATASET=data.csv\nARTIFACT_DIR=runs\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert cubic("forward", *helpers.QUICK)[0] == 0
    assert (tmp_path / "runs" / "default_run" / "run.json").exists()
    assert not list((tmp_path / "below").iterdir())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HIDEN_SIZE", "HIDDEN_SIZE"),
        ("HIDDNE_SIZE", "HIDDEN_SIZE"),
        ("HIDENSIZE", "HIDDEN_SIZE"),
        ("hidden_size", "HIDDEN_SIZE"),
        ("SEEDS", "SEED"),
        ("SEDE", "SEED"),
        ("VERIFYY", "VERIFY"),
        ("FEED", "SEED"),
        ("SEA", None),
        ("DATABASE", None),
        ("HIDE_SIZES", None),
    ],
)
def test_a_name_that_is_nearly_one_of_ours_is_told(cubic, tmp_path, name, meant):
    (tmp_path / ".env").write_text(f"{name}=hunter2\n")
    status, _, err = cubic("inspect", "--list")
    assert status == 0
    expected = f"note: {name} in {tmp_path / '.env'} has no effect; did you mean {meant}?\n"
    assert err == (expected if meant else "")


needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")


@needs_root
@pytest.mark.parametrize(
    ("owner", "mode", "here", "taken"),
    [
        (0, 0o644, 0, True),
        (0, 0o664, 0, True),
        (0, 0o646, 0, False),
        (12345, 0o644, 0, False),
        (12345, 0o644, 12345, True),
        (12345, 0o666, 12345, False),
    ],
)
def test_whose_file_above_is_taken(environment, tmp_path, owner, mode, here, taken):
    """Another's, or one that everybody may write, is passed over with a line, and the search goes on upward."""
    (tmp_path / ".env").write_text("SEED=1\n")
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (tmp_path / "a" / ".env").write_text("SEED=2\n")
    os.chown(tmp_path / "a" / ".env", owner, 0)
    os.chown(folder, here, 0)
    (tmp_path / "a" / ".env").chmod(mode)
    found = load(folder)
    assert environment["SEED"] == ("2" if taken else "1")
    assert found.path == (tmp_path / "a" if taken else tmp_path) / ".env"
    assert [str(tmp_path / "a" / ".env") in note for note in found.notes] == ([] if taken else [True])


@needs_root
def test_what_a_stranger_closes_keeps_nobody_from_working(environment, tmp_path, monkeypatch):
    """A file that its owner alone may read, in a folder that all share: this user, here root, gets it refused."""
    (tmp_path / ".env").write_text("SEED=1\n")
    closed = tmp_path / "a" / ".env"
    (tmp_path / "a" / "b").mkdir(parents=True)
    closed.write_text("SEED=2\n")

    def refusing(path, *arguments, open_=os.open, **options):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", path)
        return open_(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)
    assert "cannot read" in str(load(tmp_path / "a" / "b").error)  # one's own
    os.chown(closed, 4242, 4242)
    found = load(tmp_path / "a" / "b")
    assert found.path == tmp_path / ".env"
    assert found.notes == (f"{closed} is passed over: it is neither yours nor of the owner of the current folder",)


@pytest.mark.parametrize("where", ["", "a"])
def test_a_link_to_itself_is_passed_over(environment, tmp_path, where):
    (tmp_path / "a").mkdir()
    (tmp_path / where / ".env").symlink_to(".env")
    assert load(tmp_path / "a").notes == (f"{tmp_path / where / '.env'} is passed over: it is a link to itself",)


def test_a_file_here_is_taken_as_it_is_and_one_above_is_not_if_others_may_write_it(environment, tmp_path):
    (tmp_path / ".env").write_text("SEED=1\n")
    (tmp_path / ".env").chmod(0o666)
    (tmp_path / "below").mkdir()
    assert load(tmp_path / "below").names == frozenset()
    assert load(tmp_path).names == {"SEED"}


def test_the_file_behind_a_link_is_judged(environment, tmp_path):
    (tmp_path / "theirs").write_text("SEED=1\n")
    (tmp_path / "theirs").chmod(0o666)
    (tmp_path / "below").mkdir()
    (tmp_path / ".env").symlink_to("theirs")
    assert load(tmp_path / "below").names == frozenset()


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)  # of the current folder, for a whole path may be too long


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (os.mkfifo, "no file"),
        (lambda path: path.symlink_to("/dev/zero"), "no file"),
        (lambda path: path.symlink_to("nowhere"), "a link to what is not there"),
        (make_socket, "no file"),
    ],
    ids=["pipe", "device", "link", "socket"],
)
def test_what_is_no_file_is_passed_over_and_told(environment, tmp_path, monkeypatch, make, what):
    (tmp_path / ".env").write_text("SEED=1\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    make(tmp_path / "below" / ".env")
    found = load()
    assert found.path == tmp_path / ".env"
    assert found.notes == (f"{tmp_path}/below/.env is passed over: it is {what}",)


def test_the_list_of_jax_variables_stands_in_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(JAX_\w+)`", text)) == dotenv.JAX_VARIABLES


def test_a_bad_value_is_told_with_its_line(cubic, tmp_path):
    (tmp_path / ".env").write_text("# of ours\n\nSEED=1\nHIDDEN_SIZE=x\n")
    status, out, err = cubic("forward")
    assert (status, out) == (2, "")
    assert f"HIDDEN_SIZE in {tmp_path / '.env'}, line 4: found 'x'" in err
