"""Every setting, bad by flag, by variable and in `.env`: exit 2, a message that names it, and nothing is touched."""

from dataclasses import fields
from pathlib import Path

import pytest
from dotenv import dotenv_values
from helpers import B, H, N
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cubic_cli import config
from cubic_cli.parsers import check_run_name, parse_integer

# The last of a setting's flags; a switch has none that takes a value.
FLAGS = {
    name: (setting.flags or (f"--{name.lower().replace('_', '-')}",))[-1] if setting.metavar else None
    for name, setting in config.SETTINGS.items()
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
    *((name, value) for name in ("VERIFY", "GENERATE_DATASET", "GRADIENTS") for value in ("2", "maybe", " ", "tru")),
    *((name, " ") for name in ("X_COLUMN", "Y_COLUMN")),
    ("PARAMETERS", "net.txt"),
    ("COORDINATOR_ADDRESS", "10.0.0.1"),
    *((name, "-1") for name in ("NUM_PROCESSES", "PROCESS_ID")),
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


# A setting has one parser, wherever its value comes from: all three ways are tried with one that is bad.
IN_ALL_WAYS = {name: value for name, value in reversed(BAD) if not set(value) & set("\n'\\")}


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_wherever_it_comes_from(cubic, tmp_path, monkeypatch, name, value):
    if FLAGS[name] is not None:
        refused(cubic("forward", f"{FLAGS[name]}={value}"), FLAGS[name], value, tmp_path)
        if IN_ALL_WAYS[name] != value:
            return
    with monkeypatch.context() as environment:
        environment.setenv(name, value)
        refused(cubic("forward"), name, value, tmp_path)
    if not set(value) & set("\n'\\"):
        (tmp_path / ".env").write_text(f"{name}='{value}'\n", encoding="utf-8")
        result = cubic("forward")
        refused(result, name, value, tmp_path)
        assert str(tmp_path / ".env") in result[2]


def test_every_setting_is_tried_with_a_bad_value():
    assert {name for name, _ in BAD} == set(config.SETTINGS) - {"ARTIFACT_DIR"}  # which may have any name


def test_the_file_of_settings_has_each_of_them_at_its_default():
    kinds = (config.GenerateConfig, config.ForwardConfig, config.ProcessConfig)
    defaults = {each.name.upper(): each.default for kind in kinds for each in fields(kind)} | {
        "GENERATE_DATASET": False
    }
    told = dotenv_values(Path(__file__).parents[2] / ".env")
    assert {
        name: config.SETTINGS[name].parse(text) if text else defaults[name] for name, text in told.items()
    } == defaults


@pytest.mark.parametrize("name", ["HIDDEN_SIZE", "INITIALIZER", "FAIL_ON"])
def test_a_list_of_nothing_is_refused(cubic, tmp_path, name):
    refused(cubic("sweep", f"{FLAGS[name]}= ,"), FLAGS[name], " ,", tmp_path)


@pytest.mark.parametrize("name", [name for name, flag in FLAGS.items() if flag is not None])
def test_an_empty_flag_is_refused_and_an_empty_variable_is_not_set(cubic, tmp_path, monkeypatch, name):
    assert cubic("forward", FLAGS[name], "")[0] == 2
    monkeypatch.setenv(name, "")
    status, _, err = cubic("forward")
    assert status == 1
    assert "there is no dataset data.csv" in err


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


TEXTS = st.text(max_size=12) | st.sampled_from(["", "1", "-1", "1e400", "all", "true", "..", "CON", "x.csv", "9" * 40])


@settings(max_examples=4 * settings().max_examples)
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


@settings(max_examples=settings().max_examples // 2)  # each compiles; `tools/campaign.py` has shapes of all kinds
@given(
    epochs=st.integers(1, 4),
    samples=st.integers(N - 2, N) | st.just("all"),
    seed=st.integers(0, 2**32 - 1),
    initializer=st.sampled_from(config.Initializer),
    activation=st.sampled_from(config.Activation),
    scaling=st.sampled_from(config.Scaling),
)
def test_any_settings_that_are_accepted_give_a_run_that_is_verified(
    tmp_path_factory, epochs, samples, seed, initializer, activation, scaling
):
    from cubic_cli.cli import app as cli
    from cubic_cli.runs.run import load_run

    folder = tmp_path_factory.mktemp("run")
    dataset = folder / "data.csv"
    assert cli.run(["generate", "--n", str(N), "--dataset", str(dataset), "--seed", str(seed)]) == 0
    settings = {
        "hidden-size": H, "batch-size": B, "num-epochs": epochs, "num-samples": samples, "seed": seed,
        "initializer": initializer, "activation": activation, "scaling": scaling, "dataset": dataset,
        "artifact-dir": folder, "run-name": "any",
    }  # fmt: skip
    assert cli.run(["forward", *(f"--{name}={value}" for name, value in settings.items())]) == 0
    run = load_run(folder / "any")
    assert run.record["verification"]["passed"]
    count = N if samples == "all" else samples
    assert run.history.height == run.record["iterations"] == epochs * -(-count // B)
    assert run.history["size"].sum() == epochs * count
    assert len({repr(epoch["loss"]) for epoch in run.record["epochs"]}) == 1


@pytest.mark.parametrize("name", ["ARTIFACT_DIR", "DATASET", "PARAMETERS"])
def test_a_path_may_begin_with_the_home_folder(monkeypatch, name):
    """Which a shell leaves as it is in `--artifact-dir=~/runs`: a folder `~` is removed with all of one's own."""
    monkeypatch.setenv("HOME", "/somewhere")
    ending = {"ARTIFACT_DIR": "", "DATASET": ".csv", "PARAMETERS": ".json"}[name]
    parse = config.SETTINGS[name].parse
    assert parse(f"~/runs{ending}") == f"/somewhere/runs{ending}"
    assert parse(f"./~/runs~{ending}") == f"./~/runs~{ending}"
    with pytest.raises(ValueError, match=r"there is no home folder ~nobody-of-this-name; write \./~nobody"):
        parse(f"~nobody-of-this-name/runs{ending}")
