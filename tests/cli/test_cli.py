import hashlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import polars as pl
import pytest

import cubic_cli
from cubic_cli.cli import app, library_variables
from cubic_cli.engine.passes import Pass

LAZY = """
import sys
from cubic_cli.cli.app import run
{extra}
try:
    run({arguments!r})
except SystemExit:  # of a shell that asks for completions
    pass
loaded = [m for m in {modules!r} if m in sys.modules]
sys.exit(f"loaded {{loaded}}" if loaded else 0)
"""


def loads_none_of(modules, arguments, extra=""):
    code = LAZY.format(arguments=arguments, extra=extra, modules=modules)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def loads_no_jax(arguments, extra=""):
    return loads_none_of(["jax", "jaxlib"], arguments, extra)


def test_generate_forward_inspect(cubic, tmp_path):
    assert cubic("generate", "--n", 2000)[0] == 0
    status, out, _ = cubic("forward", "--run-name", "exp1", "--json")
    assert status == 0
    record = json.loads(out)
    folder = tmp_path / "model" / "exp1"
    assert sorted(p.name for p in folder.iterdir()) == ["history.parquet", "params.safetensors", "run.json"]
    assert record == json.loads((folder / "run.json").read_text())
    assert json.loads(cubic("inspect", "--run-name", "exp1", "--json")[1]) == record
    frame = pl.read_csv("data.csv", schema={"x": pl.Float32, "y": pl.Float32}).head(1000)
    digest = hashlib.sha256(frame.to_numpy().astype("<f4").tobytes()).hexdigest()
    assert record["dataset"]["sha256"] == digest
    x, y = frame.to_numpy().astype(np.float64).T
    assert record["loss"] == pytest.approx(np.mean((64 * np.maximum(x + 1, 0) + 1 - y) ** 2), rel=1e-6)
    assert record["verification"]["passed"]
    history = pl.read_parquet(folder / "history.parquet")
    assert history.height == record["iterations"] == 1000
    for name in ("z1", "a1", "z2"):
        tensor = next(t for t in record["tensors"] if t["name"] == name)
        assert np.float32(tensor["min"]) == history[f"{name}_min"].min()
        assert np.float32(tensor["max"]) == history[f"{name}_max"].max()


def test_one_iteration_in_the_words_of_the_original(cubic):
    cubic("generate", "--n", 1000)
    cubic("forward")
    status, out, _ = cubic("inspect", "--epoch", 10, "--batch", 100)
    x = pl.read_csv("data.csv")["x"].to_numpy()[990:]
    assert status == 0
    line = next(line for line in out.splitlines() if "(z1)" in line).split()
    assert line[:4] == ["Layer", "1", "pre-activation", "(z1)"]
    assert f"min={np.float32(x.min()) + np.float32(1):.3f}" in line
    assert cubic("inspect", "--epoch", 11, "--batch", 1)[0] == 1


def test_the_rows_of_the_contract_to_the_last_digit(cubic, tmp_path):
    xs = np.linspace(-82.228, 66.615, 10)
    (tmp_path / "data.csv").write_text("x,y\n" + 2 * "".join(f"{x:.3f},0\n" for x in xs))
    assert cubic("forward", "--num-samples", 20)[0] == 0
    assert cubic("inspect", "--epoch", 1, "--batch", 1)[1].splitlines()[1:4] == [
        "Layer 1 pre-activation (z1)  shape=[10, 64]  min=-81.228  max=67.615",
        "Layer 1 activation (a1)      shape=[10, 64]  min=0.000    max=67.615",
        "Layer 2 pre-activation (z2)  shape=[10, 1]   min=1.000    max=4328.360",
    ]


def test_the_same_seed_gives_the_same_bytes(cubic, tmp_path):
    files = []
    for name, seed in (("a.csv", 1), ("b.csv", 1), ("c.csv", 2)):
        assert cubic("generate", "--n", 500, "--seed", seed, "--dataset", name)[0] == 0
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1] != files[2]


def test_noise_beyond_float32_is_told(cubic, tmp_path):
    said = "some y are infinite: with a noise of 1e+39 they lie beyond float32, which ends at 3.4028e+38"
    assert cubic("generate", "--n", 20, "--noise-std", "1e39")[::2] == (0, f"{said}\n")
    (tmp_path / "data.csv").unlink()
    assert cubic("generate", "--n", 20, "--noise-std", "1e36")[2] == ""


@pytest.mark.parametrize(
    ("arguments", "command"),
    [(("forward", "--n"), "cubic forward"), (("sweep", "--seed"), "cubic sweep"), (("--bogus",), "cubic")],
)
def test_a_wrong_use_points_to_the_help_of_its_command(cubic, arguments, command):
    status, out, err = cubic(*arguments)
    assert (status, out) == (2, "")
    assert f"`{command} --help` says more" in err


def test_precedence(cubic, tmp_path, monkeypatch):
    cubic("generate", "--n", 50)
    (tmp_path / ".env").write_text("HIDDEN_SIZE=3\nBATCH_SIZE=7\nNUM_SAMPLES=30\nSECRET=hunter2\n")
    monkeypatch.setenv("BATCH_SIZE", "10")
    monkeypatch.setenv("NUM_EPOCHS", "")
    record = json.loads(cubic("forward", "--num-samples", "20", "--json")[1])
    config, sources = record["config"], record["sources"]
    assert (config["hidden_size"], sources["hidden_size"]) == (3, ".env")
    assert (config["batch_size"], sources["batch_size"]) == (10, "environment")
    assert (config["num_samples"], sources["num_samples"]) == (20, "flag")
    assert (config["num_epochs"], sources["num_epochs"]) == (10, "default")
    assert "hunter2" not in json.dumps(record)


def test_a_line_of_dotenv_that_cannot_be_read(cubic, tmp_path):
    (tmp_path / ".env").write_text("SEED=1\n\nthis is = not 'a line\n")
    status, _, err = cubic("inspect")
    assert status == 2
    assert "line 3" in err


def test_columns_by_name_and_fewer_samples_than_asked_for(cubic, tmp_path):
    (tmp_path / "data.csv").write_text("when,note,price\n" + "1,a,2\n" * 19 + "3,b,4")
    status, out, err = cubic("forward", "--x", "when", "--y", "price", "--hidden-size", 3, "--json")
    assert status == 0
    assert json.loads(out)["dataset"]["y"]["max"] == 4
    assert err.splitlines()[:2] == [
        "data.csv: the last line has no end; it is read as it stands, but it may have been cut off",
        "data.csv has 20 rows, fewer than the 1,000 asked for; all of them are used",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"), ("a,b\n1,2\n", "line 1"), ("x,y\n1,2\n3\n", "line 3"), ("x,y\n1,2\n3,\n", "line 3"),
        ("x,y\n1,2\n3,four\n", "line 3"), ("x,y\n1,2\n\n3,4\n", "line 3"), ("x,y\n1,1e400\n", "line 2"),
        ("x,y\n1,2,3\n", "line 2"), ("x,y\n0x1,2\n", "line 2"), ("x,y\n", "no samples"),
    ],
)  # fmt: skip
def test_a_bad_dataset_names_the_line(cubic, tmp_path, text, said):
    (tmp_path / "data.csv").write_text(text)
    status, out, err = cubic("forward", "--num-samples", "3")
    assert (status, out) == (1, "")
    assert said in err


def test_no_dataset_says_how_to_make_one(cubic):
    status, _, err = cubic("forward")
    assert status == 1
    assert "cubic generate" in err


def test_an_absent_device_names_what_is_there(cubic):
    cubic("generate", "--n", 10)
    status, _, err = cubic("forward", "--num-samples", 10, "--device", "tpu")
    assert status == 1
    assert "cpu" in err


def test_a_strangers_files_are_refused(cubic, tmp_path):
    cubic("generate", "--n", 10)
    stranger = tmp_path / "model" / "mine"
    stranger.mkdir(parents=True)
    (stranger / "thesis.txt").write_text("three years")
    assert cubic("forward", "--num-samples", 10, "--run-name", "mine")[0] == 1
    assert (stranger / "thesis.txt").read_text() == "three years"
    (tmp_path / "precious.csv").write_text("x,y\nname,value\n")
    assert cubic("generate", "--dataset", "precious.csv")[0] == 1
    assert (tmp_path / "precious.csv").read_text() == "x,y\nname,value\n"


def test_a_run_replaces_the_earlier_one(cubic, tmp_path):
    cubic("generate", "--n", 20)
    for seed in (2, 3):
        assert cubic("forward", *helpers.QUICK, "--seed", seed)[0] == 0
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["default_run"]
    assert json.loads(cubic("inspect", "--json")[1])["config"]["seed"] == 3


def test_nan_in_the_data_is_counted_and_found(cubic, tmp_path):
    rows = ["x,y"] + ["1.0,2.0"] * 20
    rows[13] = "nan,2.0"
    (tmp_path / "data.csv").write_text("\n".join(rows) + "\n")
    record = json.loads(cubic("forward", *helpers.QUICK, "--json")[1])
    assert record["first_nonfinite"] == {"tensor": "z1", "epoch": 1, "batch": 2, "row": 13, "cause": "data"}
    assert [t["nan"] for t in record["tensors"]] == [3, 3, 1, 1]
    assert record["loss"] == "NaN"
    assert record["verification"]["passed"]
    assert cubic("inspect")[0] == 0


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["generate", "--n", "10"], ["inspect", "--list"]])
def test_what_needs_no_jax_loads_none(arguments):
    assert loads_no_jax(arguments)


def test_little_is_loaded_before_an_interrupt_is_ours():
    """Until then Ctrl-C is Python's traceback: typing alone would take as long as all of this."""
    code = "import sys, cubic_cli.__main__; print(*sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}  # which loads re
    environment["PYTHONPATH"] = str(Path(cubic_cli.__file__).parents[1])  # -S finds no installed package
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout.split()
    assert "signal" in loaded
    assert not {"typing", "contextlib", "threading", "re", "pathlib", "importlib.metadata"} & {*loaded}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["forward", "--help"], ["inspect", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    assert loads_none_of(["jax", "numpy", "polars", "safetensors", "matplotlib", "pydantic"], arguments)


def test_completion_loads_no_jax(monkeypatch):
    monkeypatch.setenv("_CUBIC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "cubic inspect x")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert loads_no_jax([])


def test_that_the_tests_above_can_fail():
    assert not loads_no_jax(["--help"], extra="import jax")
    assert not loads_none_of(["polars"], ["--help"], extra="import cubic_cli.data.read")


def test_fail_on_makes_a_finding_exit_1_and_keeps_the_run(cubic, tmp_path, monkeypatch):
    cubic("generate", "--n", 1000)
    status, out, err = cubic("forward", "--fail-on", "nonfinite, explodes", "--json")
    assert status == 1
    assert json.loads(out)["config"]["fail_on"] == ["nonfinite", "explodes"]
    assert "explodes: layer 2 multiplies" in err
    assert (tmp_path / "model" / "default_run" / "run.json").exists()
    assert cubic("forward", "--fail-on", "nonfinite")[0] == 0
    monkeypatch.setenv("FAIL_ON", "low_rank,explode")
    status, out, err = cubic("forward")
    assert (status, out) == (2, "")
    assert "FAIL_ON" in err
    assert "'explode'" in err


# The edge, where errors become messages


class PanicException(BaseException):  # as pyo3 names it
    """What a panic of Rust raises."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PanicException("worker threads cannot be set to 0"), "PanicException: worker threads cannot be set to 0"),
        (RuntimeError("first\nsecond \x1b[31m"), "error: RuntimeError: first\n  second \\x1b[31m\n"),
        (RuntimeError("RESOURCE_EXHAUSTED: out of memory"), "not enough memory; give a smaller --hidden-size"),
        (RuntimeError("RESOURCE_EXHAUSTED: out of memory"), "XLA_PYTHON_CLIENT_PREALLOCATE=false"),
        (MemoryError(), "or --num-samples\n"),
        (ValueError(), "error: ValueError: \n"),
        (OSError(28, "No space left", "/x"), "No space left (/x)"),
    ],
)
def test_an_error_of_a_library_is_a_message(cubic, monkeypatch, error, said):
    def raise_it(*arguments):
        raise error

    monkeypatch.setattr("cubic_cli.cli.commands.generate.write_dataset", raise_it)
    status, out, err = cubic("generate")
    assert (status, out) == (1, "")
    assert said in err


@pytest.mark.parametrize("from_file", [True, False])
def test_the_variable_of_jax_that_an_error_is_about_is_named_with_its_place(cubic, tmp_path, monkeypatch, from_file):
    def raise_it(*arguments):
        raise ValueError('Invalid value "foo" for JAX flag jax_default_matmul_precision')

    monkeypatch.setattr("cubic_cli.cli.commands.generate.write_dataset", raise_it)
    if from_file:
        (tmp_path / ".env").write_text("JAX_DEFAULT_MATMUL_PRECISION=foo\n")
    else:
        monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "foo")
    place = f"{tmp_path / '.env'}, line 1" if from_file else "the environment"
    assert f"JAX_DEFAULT_MATMUL_PRECISION=foo stands in {place}" in cubic("generate")[2]


@pytest.mark.parametrize(
    ("error", "noted"),
    [
        (RuntimeError("Unknown backend nope. Available backends are ['cpu']"), "JAX_PLATFORM_NAME=nope stands in the "),
        (
            TypeError("a list is no tuple"),
            "of JAX's variables these are set: JAX_PLATFORM_NAME=nope, JAX_SCAN3=1; with",
        ),
    ],
    ids=["by its value", "by nothing"],
)
def test_the_variables_of_jax_are_named_where_its_error_names_none(cubic, monkeypatch, error, noted):
    def raise_it(*arguments):
        raise error

    for name in [name for name in app.os.environ if name.startswith(("JAX_", "XLA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_PLATFORM_NAME", "nope")
    monkeypatch.setenv("JAX_SCAN3", "1")
    monkeypatch.setattr("cubic_cli.cli.commands.generate.write_dataset", raise_it)
    status, _, err = cubic("generate")
    assert status == 1
    assert f"\n  {noted}" in err


HALTING = dict.fromkeys(library_variables.HALTING, "1") | {
    name: "raise" if "BEHAVIOR" in name else "disallow"
    for name in library_variables.HALTING
    if "BEHAVIOR" in name or "TRANSFER" in name
}


@pytest.mark.process
def test_what_halts_jax_halts_nothing_here(tmp_path):
    (tmp_path / "data.csv").write_text("x,y\n" + "nan,1\n3e38,1\n1,1\n" * 5)
    status, _, err = helpers.outside("forward", *helpers.QUICK, "--gradients", environment=HALTING)
    assert (status, "error" in err) == (0, False), err


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "value", "from_file"),
    [
        ("JAX_NUM_CPU_DEVICES", "0", True),
        ("JAX_NUM_CPU_DEVICES", "abc", False),
        ("JAX_ENABLE_X64", "perhaps", True),
        ("JAX_NUMPY_DTYPE_PROMOTION", "loose", False),
        ("JAX_SERIALIZATION_VERSION", "new", False),  # told by JAX without the variable's name
    ],
)
def test_a_value_that_jax_does_not_take_is_told_with_its_variable_and_place(cubic, tmp_path, name, value, from_file):
    assert cubic("generate", "--n", 20)[0] == 0
    if from_file:
        (tmp_path / ".env").write_text(f"\n{name}={value}\n")
    place = f"{tmp_path / '.env'}, line 2" if from_file else "the environment"
    given = {"JAX_NUM_CPU_DEVICES": ""} | ({} if from_file else {name: value})
    for command in (("forward", *helpers.QUICK), ("check",)):
        status, out, err = helpers.outside(*command, environment=given)
        assert (status, out) == (2, "")
        assert err.startswith(f"error: {name}: found {value!r}; ")
        assert f"  {name}={value} stands in {place}\n" in err
        assert "Error" not in err


@pytest.mark.process
@pytest.mark.parametrize("folder", ["file", "gs://bucket/jax", "/proc/nope"])
@pytest.mark.parametrize("raises", ["0", "1"])
def test_a_cache_of_no_use_is_told_in_a_line(cubic, tmp_path, folder, raises):
    assert cubic("generate", "--n", 20)[0] == 0
    (tmp_path / "file").touch()
    given = {"PYTHONWARNINGS": None, "JAX_COMPILATION_CACHE_DIR": folder, "JAX_RAISE_PERSISTENT_CACHE_ERRORS": raises}
    status, _, err = helpers.outside("forward", *helpers.QUICK, environment=given)
    told, saved = err.splitlines()
    assert status == 0
    assert told.startswith(f"note: JAX_COMPILATION_CACHE_DIR={folder} did not serve, and JAX compiled anew: ")
    assert saved.startswith("saved in ")


@pytest.mark.parametrize("command", ["generate", "forward", "inspect", "sweep"])
@pytest.mark.parametrize("threads", ["0", "-1", "many"])
def test_threads_that_polars_does_not_take(cubic, monkeypatch, command, threads):
    monkeypatch.setenv("POLARS_MAX_THREADS", threads)
    told = f"error: POLARS_MAX_THREADS: found {threads!r}; expected an integer of 1 or more\n"
    assert cubic(command) == (2, "", told)


@pytest.mark.process
@pytest.mark.parametrize(("debugging", "backtrace"), [(None, False), ("1", True)])
def test_a_panic_of_rust_has_no_backtrace(debugging, backtrace):
    panic = "import polars; polars.LazyFrame({'a': [1]}).sink_csv('a')"
    code = f"import cubic_cli.cli.app as app, cubic_cli.__main__ as m\napp.run = lambda: exec({panic!r}) or 0\nm.main()"
    variables = {"POLARS_MAX_THREADS": "0", "RUST_BACKTRACE": "1", "CUBIC_DEBUG": debugging}
    ended = helpers.start(code=code, environment=variables)
    _, err = ended.communicate(timeout=60)
    assert "panicked" in err
    assert ("stack backtrace" in err) is backtrace


@pytest.mark.process
def test_flags_that_xla_does_not_take_are_told(cubic):
    assert cubic("generate", "--n", 20)[0] == 0
    status, _, err = helpers.outside("forward", *helpers.QUICK, environment={"XLA_FLAGS": "--nonsense=1"})
    assert status == 2
    assert "XLA_FLAGS: found '--nonsense=1'; XLA says: Unknown flag" in err


def test_elsewhere_there_is_one_clear_word(cubic, monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    status, out, err = cubic("check")
    assert (status, out) == (1, "")
    assert "WSL" in err
    assert len(err.splitlines()) == 1


def test_an_error_of_a_cache_is_not_told_as_one_of_the_run(cubic, monkeypatch, tmp_path):
    def raise_it(*arguments, **options):
        raise FileNotFoundError(2, "No such file or directory", "/proc/nope")

    cubic("generate", "--n", 20)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/proc/nope")
    monkeypatch.setattr("cubic_cli.experiments.run.run", raise_it)
    status, _, err = cubic("forward", "--num-samples", 20)
    assert status == 1
    assert "cannot save" not in err
    assert err.endswith("(/proc/nope)\n  JAX_COMPILATION_CACHE_DIR=/proc/nope stands in the environment\n")


def test_epochs_that_differ_are_a_finding_and_exit_1(cubic, monkeypatch):
    """A device that adds a little to the second epoch's squares, of which the batches' losses show nothing."""
    run = Pass.run

    def drift(self, epochs=1):
        for chunk in run(self, epochs):
            yield replace(chunk, squared_error=chunk.squared_error * (1 + 1e-3 * (chunk.epoch == 2)))

    monkeypatch.setattr(Pass, "run", drift)
    cubic("generate", "--n", 20)
    status, out, err = cubic("forward", *helpers.QUICK, "--json")
    assert status == 1
    check = json.loads(out)["verification"]
    assert (check["deterministic"], check["passed"]) == (False, False)
    assert "the epochs gave 2 different losses" in err


# Help


def examples(help):
    """Return the examples of a help, as a shell takes them: what each shows is behind many blanks, or a comment."""
    joined = re.sub(r" \\\n +", " ", help)
    return [line.split("   ")[0].split() for line in joined.splitlines() if line.startswith("  cubic ")]


@pytest.mark.parametrize("command", ["generate", "forward", "inspect", "sweep", "check"])
def test_the_examples_of_a_help_can_be_typed_at_any_width(cubic, monkeypatch, command):
    shown = {}
    for width in (60, 80, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        out = cubic(command, "--help")[1]
        assert max(map(len, out.splitlines())) <= width
        shown[width] = examples(out)
    assert len(shown[60]) == 3
    assert shown[60] == shown[80] == shown[100]


@pytest.mark.parametrize("command", ["generate", "forward", "inspect", "sweep", "check"])
def test_the_help_has_a_sentence_an_option_and_fits(cubic, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    out = cubic(command, "--help")[1]
    lines = out.splitlines()
    assert len(lines) <= 66
    assert max(map(len, lines)) <= 80
    assert "…" not in out.replace("<RUN_NAME>-…", "")
    assert len([line for line in lines if line.startswith(f"  cubic {command}")]) >= 3
    cells = re.split(r"\n│ (?=-|\[)", out)[1:]
    for cell in cells:
        words = " ".join(cell.split("╰")[0].replace("│", " ").split())
        assert re.search(r"\.( [A-Z_]+(=\S+)?)?$", words), words


def test_a_word_that_is_nearly_right_is_told_what_is(cubic):
    for arguments, meant in (
        (("forward", "--initializer", "he_norml"), "did you mean 'he_normal'?"),
        (("forward", "--activation", "ReLU"), "did you mean 'relu'?"),
        (("forward", "--fail-on", "nonfinit"), "did you mean 'nonfinite'?"),
        (("sweep", "--activation", "relu,tahn"), "did you mean 'tanh'?"),
        (("forwrd",), "Did you mean 'forward'?"),
        (("forward", "--hiden-size", "3"), "--hidden-size"),
    ):
        status, out, err = cubic(*arguments)
        assert (status, out) == (2, "")
        assert meant in err
        assert "?;" not in err


def test_lists_with_commas_wherever_an_option_may_be_repeated(cubic):
    cubic("generate", "--n", 20)
    grid = ("--seed", "2,3", "--seed", "4", "--scaling", "none, minmax")
    status, out, _ = cubic("sweep", *grid, *helpers.QUICK, "--json")
    assert status == 0
    assert len(json.loads(out)["runs"]) == 6


def test_without_a_command_the_help_is_shown(cubic):
    status, out, err = cubic()
    assert (status, err) == (2, "")
    assert "generate" in out


@pytest.mark.parametrize("columns", [1, 30, 40, 60])
def test_the_help_is_whole_at_any_width(cubic, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    status, out, err = cubic("inspect", "--help")
    assert (status, err) == (0, "")
    assert "…" not in out


@pytest.mark.parametrize("command", [(), ("forward",), ("inspect",), ("sweep",)], ids=" ".join)
@pytest.mark.parametrize(("term", "encoding"), [("dumb", "utf-8"), ("xterm", "ascii"), ("xterm", "cp1252")])
def test_the_help_keeps_its_columns_where_there_are_no_boxes(monkeypatch, term, encoding, command):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    assert app.run([*command, "--help"]) == 0
    sys.stdout.flush()
    shown = sys.stdout.buffer.getvalue().decode(encoding)
    assert shown.isascii() or encoding == "cp1252"
    assert "\\u" not in shown
    assert {len(line) for line in shown.splitlines() if line.startswith(("|", "+"))} == {80}
