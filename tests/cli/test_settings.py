"""Every setting, bad by flag, by variable and in `.env`: exit 2, a message that names it, and nothing is touched."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cubic_cli import config
from cubic_cli.cli import dotenv
from cubic_cli.cli import settings as options
from cubic_cli.config import check_run_name, parse_integer
from cubic_cli.errors import UsageError

KNOWN = frozenset(options.SETTINGS)
FLAGS = {
    "NUM_DATASET": "--num-dataset",
    "GENERATE_DATASET": None,
    "DATASET": "--dataset",
    "NOISE_STD": "--noise-std",
    "X_COLUMN": "--x",
    "Y_COLUMN": "--y",
    "SEED": "--seed",
    "HIDDEN_SIZE": "--hidden-size",
    "BATCH_SIZE": "--batch-size",
    "NUM_EPOCHS": "--num-epochs",
    "NUM_SAMPLES": "--num-samples",
    "RUN_NAME": "--run-name",
    "INITIALIZER": "--initializer",
    "ACTIVATION": "--activation",
    "SCALING": "--scaling",
    "DEVICE": "--device",
    "VERIFY": None,
    "FAIL_ON": "--fail-on",
}
NO_INTEGERS = [
    "0.5",
    "1_0",
    "2.0",
    " 1",
    "1 ",
    "+1",
    "-1",
    "-0",
    "١",
    "²",
    "1e3",
    "9" * 30,
    "9" * 500,
    "inf",
    "nan",
    "0x1",
]
COUNTS = ["NUM_DATASET", "HIDDEN_SIZE", "BATCH_SIZE", "NUM_EPOCHS", "NUM_SAMPLES"]
BAD = [
    *((name, value) for name in COUNTS for value in ("0", "1_0", "9" * 30, "-1")),
    *(("HIDDEN_SIZE", value) for value in NO_INTEGERS),
    *(("SEED", value) for value in (*NO_INTEGERS, "4294967296")),
    *(("NUM_SAMPLES", value) for value in (*NO_INTEGERS, "all of them", "ALL ")),
    *(("NOISE_STD", value) for value in ("-1", "1_0", " 1", "inf", "nan", "1e400", "١", "0x1", "1e", ".", "ten")),
    *(("DATASET", value) for value in ("data", "data.txt", ".csv", "a.csv/..", "data.csv.gz")),
    *((name, value) for name in ("VERIFY", "GENERATE_DATASET") for value in ("2", "maybe", " ", "tru")),
    *((name, value) for name in ("INITIALIZER", "ACTIVATION", "SCALING", "DEVICE") for value in ("x", "relu6", "None")),
    *(("FAIL_ON", value) for value in ("explode", "NaN", "all")),
    *(
        ("RUN_NAME", value)
        for value in ("..", ".", "a/b", "/abs", "a" * 101, "a" * 300, "a\nb", "🙂", "é", "-a", "_a", "CON", "nul.txt")
    ),
    *(("RUN_NAME", value) for value in ("a.", "..a", "a b", "com1", "LPT9.x.y", "a\\b", "~", "$HOME")),
]  # fmt: skip


def refused(result, name, value, tmp_path):
    status, out, err = result
    assert (status, out) == (2, ""), err
    assert name in err
    assert repr(value)[1:-1] in err or value.strip(" ") in err
    assert "expected" in err or "a run name has" in err
    assert [path.name for path in tmp_path.iterdir() if path.name != ".env"] == []


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_wherever_it_comes_from(cubic, tmp_path, monkeypatch, name, value):
    if FLAGS[name] is not None:
        refused(cubic("forward", f"{FLAGS[name]}={value}"), FLAGS[name], value, tmp_path)
    with monkeypatch.context() as environment:
        environment.setenv(name, value)
        refused(cubic("forward"), name, value, tmp_path)
    if not set(value) & set("\n'\\"):
        (tmp_path / ".env").write_text(f"{name}='{value}'\n", encoding="utf-8")
        result = cubic("forward")
        refused(result, name, value, tmp_path)
        assert str(tmp_path / ".env") in result[2]


@pytest.mark.parametrize("name", [name for name, flag in FLAGS.items() if flag is not None])
def test_an_empty_flag_is_refused_and_an_empty_variable_is_not_set(cubic, tmp_path, monkeypatch, name):
    if name != "FAIL_ON":  # an empty list of findings is a list
        assert cubic("forward", FLAGS[name], "")[0] == 2
    monkeypatch.setenv(name, "")
    status, _, err = cubic("forward")
    assert status == 1
    assert "there is no dataset data.csv" in err


def test_an_empty_variable_leaves_the_word_to_dotenv(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("SEED=5\nBATCH_SIZE=\n")
    monkeypatch.setenv("SEED", "")
    found = dotenv.load(KNOWN)
    assert found.names == {"SEED"}


@given(st.text(max_size=25))
@example("0" * 25)
def test_what_is_an_integer(text):
    parse = parse_integer(0, 1000)
    if text and set(text) <= set("0123456789") and int(text) <= 1000:
        assert parse(text) == int(text)
    else:
        with pytest.raises(ValueError, match="expected an integer from 0 to 1000"):
            parse(text)


@given(st.text(max_size=110))
@example("a" * 100)
@example("a" * 101)
@example("Aux.tar.gz")
@example("a\n")
def test_a_run_name_is_one_portable_folder(name):
    try:
        check_run_name(name)
    except ValueError:
        return
    assert Path("model", name).parent == Path("model")
    assert name.isascii()
    assert len(name) <= 100
    assert name == name.strip(" .-_") or name.endswith(("-", "_"))
    assert not any(c in name for c in '<>:"/\\|?*\n\0 ')


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
        (b"SEED=${HOME}\n", "${HOME}"),
        (b"SEED=$HOME", "$HOME"),
        (b"OTHER=\xc3\xa9\nSEED=1", "1"),
    ],
)
def test_what_dotenv_may_look_like(tmp_path, monkeypatch, raw, seed):
    monkeypatch.setenv("HOME", "/somewhere")
    (tmp_path / ".env").write_bytes(raw)
    values = {}
    monkeypatch.setattr(dotenv.os, "environ", values)
    dotenv.load(KNOWN)
    assert values.get("SEED") == seed


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"SEED=1\n\nthis is = not 'a line\n", 3),
        (b"SEED=1\nSEED\n", 2),
        (b"just words\n", 1),
        (b"SEED=1\nPASSWORD\n", 2),
        (b"A=1\nB='open\n", 2),
        (b"A=1\nSEED=\xff\xfe\n", 2),
        (b"A=1\nSE\0ED=1\n", 2),
        (b"A=1\nB=2\0\n", 2),
        (b"A=1\n=1\n", 2),
        (b"\x1f\x8b\x08\x00\x00", 1),
    ],
)
def test_a_line_of_dotenv_that_is_none(cubic, tmp_path, raw, line):
    (tmp_path / ".env").write_bytes(raw)
    status, out, err = cubic("inspect")
    assert (status, out) == (2, "")
    assert f"{tmp_path / '.env'}, line {line}:" in err


def test_only_settings_and_those_of_jax_take_effect(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text(
        "SEED=1\nPATH=/evil\nJAX_X=1\nXLA_X=2\nAWS_SECRET_ACCESS_KEY=hunter2\nLD_PRELOAD=x\n"
    )
    values = {"PATH": "/bin"}
    monkeypatch.setattr(dotenv.os, "environ", values)
    dotenv.load(KNOWN)
    assert values == {"PATH": "/bin", "SEED": "1", "JAX_X": "1", "XLA_X": "2"}


@pytest.mark.parametrize(
    "secret", ["PASSWORD=hunter2 'x\n", "PASSWORD 'hunter2\n", "hunter2\n", "PASSWORD=\xff hunter2"]
)
def test_no_secret_is_shown(cubic, tmp_path, secret):
    (tmp_path / ".env").write_text(f"TOKEN=hunter2\n{secret}", encoding="latin-1")
    _, out, err = cubic("forward")
    assert "hunter2" not in out + err


def test_a_secret_is_not_saved(cubic, tmp_path):
    cubic("generate", "--n", 10)
    (tmp_path / ".env").write_text("TOKEN=hunter2\nNUM_SAMPLES=10\n")
    status, out, err = cubic("forward", "--json")
    assert status == 0, err
    assert json.loads(out)["sources"]["num_samples"] == ".env"
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".env"]
    assert len(files) == 4
    assert not any(b"hunter2" in path.read_bytes() for path in files)


def test_a_dotenv_that_is_a_folder_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("SEED=1\n")
    (tmp_path / "below" / ".env").mkdir(parents=True)
    monkeypatch.setattr(dotenv.os, "environ", {})
    assert dotenv.load(KNOWN, tmp_path / "below").path == tmp_path / ".env"


def test_a_huge_dotenv_is_refused_without_reading_it(tmp_path):
    with (tmp_path / ".env").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(UsageError, match="1 MiB"):
        dotenv.load(KNOWN)


TEXTS = st.text(max_size=12) | st.sampled_from(["", "1", "-1", "1e400", "all", "true", "..", "CON", "x.csv", "9" * 40])


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(sorted(FLAGS)), TEXTS, max_size=4), st.lists(TEXTS, max_size=3))
def test_any_settings_and_words_give_a_status_and_no_traceback(values, words):
    """Without a dataset every run that is not refused (2) is not done (1), and says why."""
    from cubic_cli.cli import app as cli

    with pytest.MonkeyPatch.context() as patch:
        for name in FLAGS:
            patch.delenv(name, raising=False)
        for name, value in values.items():
            if "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value):
                patch.setenv(name, value)
        patch.delenv("GENERATE_DATASET", raising=False)
        assert cli.run(["forward", "--no-generate", *words]) in (0 if "--help" in words else 1, 1, 2)


@settings(deadline=None, max_examples=12)
@given(
    hidden=st.integers(1, 70),
    batch=st.integers(1, 60),
    epochs=st.integers(1, 4),
    samples=st.integers(1, 50) | st.just("all"),
    seed=st.integers(0, 2**32 - 1),
    initializer=st.sampled_from(config.Initializer),
    activation=st.sampled_from(config.Activation),
    scaling=st.sampled_from(config.Scaling),
)
def test_any_settings_that_are_accepted_give_a_run_that_is_verified(
    tmp_path_factory, hidden, batch, epochs, samples, seed, initializer, activation, scaling
):
    from cubic_cli.cli import app as cli
    from cubic_cli.runs import store as runs

    folder = tmp_path_factory.mktemp("run")
    dataset = folder / "data.csv"
    assert cli.run(["generate", "--n", "50", "--dataset", str(dataset), "--seed", str(seed)]) == 0
    settings = {
        "hidden-size": hidden, "batch-size": batch, "num-epochs": epochs, "num-samples": samples, "seed": seed,
        "initializer": initializer, "activation": activation, "scaling": scaling, "dataset": dataset,
        "artifact-dir": folder, "run-name": "any",
    }  # fmt: skip
    assert cli.run(["forward", *(f"--{name}={value}" for name, value in settings.items())]) == 0
    run = runs.load_run(folder / "any")
    assert run.record["verification"]["passed"]
    count = 50 if samples == "all" else samples
    assert run.history.height == run.record["iterations"] == epochs * -(-count // batch)
    assert run.history["size"].sum() == epochs * count
    assert len({repr(epoch["loss"]) for epoch in run.record["epochs"]}) == 1
