import itertools
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pages
import polars as pl
import pytest
import records
from helpers import start
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cubic_cli.cli import terminal
from cubic_cli.cli.views import blocks, plot
from cubic_cli.cli.views import sweep as view
from cubic_cli.config import AXES, Activation, ForwardConfig, Initializer, Scaling
from cubic_cli.data import read as samples
from cubic_cli.engine import passes as forward
from cubic_cli.experiments import run, sweep
from cubic_cli.experiments.sweep import Outcome
from cubic_cli.parsers import check_run_name
from cubic_cli.reference import expected
from cubic_cli.runs import store as runs

ONE_POINT = {name: [getattr(ForwardConfig, name)] for name in AXES}


@pytest.fixture
def data(cubic):
    cubic("generate", "--n", 40)
    return pl.read_csv("data.csv").to_numpy().astype(np.float64).T


@pytest.fixture
def swept(cubic):
    """Run `cubic sweep` on 40 samples, two epochs each; returns (status, document, standard error)."""

    def swept(*arguments):
        status, out, err = cubic("sweep", "--num-samples", 40, "--num-epochs", 2, "--json", *arguments)
        return status, json.loads(out) if out else None, err

    return swept


def flags(name, values):
    return [word for value in values for word in (name, value)]


def kept(document):
    return {row["run_name"] for row in document["runs"] if row["kept"]}


def names(document):
    return {row["run_name"] for row in document["runs"]}


# The grid


def test_names_say_what_varies_and_the_shapes_come_first():
    axes = {
        **ONE_POINT,
        "hidden_size": [64, 8, 64],
        "initializer": [Initializer.he_normal, Initializer.ones],
        "seed": [3, 1],
    }
    configs = [point.config for point in sweep.expand(ForwardConfig(run_name="exp1", num_epochs=3), axes)]
    assert [config.run_name for config in configs] == [
        "exp1-h8-he_normal-s3", "exp1-h8-he_normal-s1", "exp1-h8-ones-s3", "exp1-h8-ones-s1",
        "exp1-h64-he_normal-s3", "exp1-h64-he_normal-s1", "exp1-h64-ones-s3", "exp1-h64-ones-s1",
    ]  # fmt: skip
    assert {(c.num_epochs, c.batch_size, c.scaling) for c in configs} == {(3, 10, Scaling.none)}
    assert [c.hidden_size for c in configs] == [8] * 4 + [64] * 4


def test_a_grid_of_one_point_keeps_the_name():
    ((config, _),) = sweep.expand(ForwardConfig(run_name="exp1"), {**ONE_POINT, "hidden_size": [5, 5]})
    assert (config.run_name, config.hidden_size) == ("exp1", 5)


@given(
    st.fixed_dictionaries(
        {
            "hidden_size": st.lists(st.integers(1, 10**9), min_size=1, max_size=3),
            "batch_size": st.lists(st.integers(1, 10**9), min_size=1, max_size=3),
            "initializer": st.lists(st.sampled_from(Initializer), min_size=1, max_size=3),
            "activation": st.lists(st.sampled_from(Activation), min_size=1, max_size=3),
            "scaling": st.lists(st.sampled_from(Scaling), min_size=1, max_size=3),
            "seed": st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=2),
        }
    )
)
def test_every_point_once_under_a_name_of_its_own(axes):
    configs = [point.config for point in sweep.expand(ForwardConfig(run_name="r"), axes)]
    points = {tuple(getattr(config, name) for name in AXES) for config in configs}
    assert points == set(itertools.product(*(axes[name] for name in AXES)))
    assert len({config.run_name for config in configs}) == len(configs) == len(points)
    for config in configs:
        check_run_name(config.run_name)


def test_a_name_that_grows_too_long_is_told_before_anything_is_run(cubic, tmp_path):
    arguments = ("--hidden-size", 8, "--hidden-size", 16)
    status, out, err = cubic("sweep", "--run-name", "a" * 98, *arguments)
    assert (status, out) == (2, "")
    assert "--run-name" in err
    assert "-h16, of 102 letters" in err
    assert "at most 96" in err
    assert not (tmp_path / "model").exists()


def test_a_variable_holds_one_value(swept, cubic, data, monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("INITIALIZER=zeros\n")
    monkeypatch.setenv("HIDDEN_SIZE", "3")
    _, document, _ = swept("--seed", 1, "--seed", 2)
    assert {(row["hidden_size"], row["initializer"]) for row in document["runs"]} == {(3, "zeros")}
    sources = json.loads(cubic("inspect", "--run-name", "default_run-s2", "--json")[1])["sources"]
    found = [sources[name] for name in ("hidden_size", "initializer", "seed", "activation")]
    assert found == ["environment", ".env", "flag", "default"]
    for bad in ("3 4", " "):
        monkeypatch.setenv("HIDDEN_SIZE", bad)
        status, out, err = cubic("sweep")
        assert (status, out) == (2, "")
        assert "HIDDEN_SIZE" in err


# What the runs say


def test_the_ranking_against_float64(swept, data):
    """With `ones`, z1 is x + 1 for every unit and z2 is H relu(x + 1) + 1."""
    x, y = data
    widths = (3, 4, 16)
    status, document, err = swept("--run-name", "w", *flags("--hidden-size", widths))
    assert status == 0
    expected = {f"w-h{h}": np.mean((h * np.maximum(x + 1, 0) + 1 - y) ** 2) for h in widths}
    rows = document["runs"]
    assert [row["run_name"] for row in rows] == sorted(expected, key=expected.get)
    largest = np.abs(x + 1).max()
    for row in rows:
        loss = expected[row["run_name"]]
        assert row["loss"] == row["loss_in_data_units"] == pytest.approx(loss, rel=1e-6)
        assert row["r_squared"] == pytest.approx(1 - loss / y.var(), rel=1e-6, abs=1e-6)
        growth = (row["hidden_size"] * np.maximum(x + 1, 0).max() + 1) / largest
        assert row["range_growth"] == pytest.approx(growth, rel=1e-6)
        assert (row["dead"], row["distinct"], row["rank"], row["gradient_norm"]) == (0, 1, 1, None)
        assert (f"explodes ×{growth:.3g}" in row["verdict"]) == (growth > 10)
        assert ("worse than the mean" in row["verdict"]) == (loss > y.var())
        assert "all units alike" in row["verdict"]
    assert err == ""


def test_the_spread_of_z2_grows_as_h_with_ones_and_that_of_z1_does_not(swept, data):
    _, document, _ = swept(*flags("--hidden-size", (3, 4, 16)))
    grown = {entry["tensor"]: entry for entry in document["growth"]}
    assert list(grown) == ["z1", "a1", "z2"]
    assert grown["z2"]["exponent"] == pytest.approx(1, abs=1e-6)  # std(H a + 1) = H std(a)
    assert grown["z1"]["exponent"] == pytest.approx(0, abs=1e-6)
    stds = [point["std"] for point in grown["z2"]["points"]]
    assert stds == pytest.approx([h * np.maximum(data[0] + 1, 0).std() for h in (3, 4, 16)], rel=1e-6)


def test_the_exponent_of_drawn_parameters_is_the_slope_of_polyfit(swept, data, tmp_path):
    arguments = (*flags("--hidden-size", (3, 4, 16)), *flags("--seed", (0, 1)), "--initializer", "he_normal")
    _, document, _ = swept(*arguments)
    logs = []
    for h, seed in itertools.product((3, 4, 16), (0, 1)):
        record = json.loads((tmp_path / "model" / f"default_run-h{h}-s{seed}" / "run.json").read_text())
        logs.append((math.log(h), math.log(record["tensors"][2]["std"])))
    slope = np.polyfit(*np.transpose(logs), 1)[0]
    assert document["growth"][2]["exponent"] == pytest.approx(slope, rel=1e-9)


def test_losses_that_are_not_finite_rank_last_and_failed_runs_after_them():
    losses = [math.nan, 2.0, math.inf, 1.0]
    outcomes = [Outcome(ForwardConfig(), records.make(loss_in_data_units=loss)) for loss in losses]
    ranked = sweep.rank([Outcome(ForwardConfig(), error="x"), *outcomes])
    assert [o.error or str(o.record.loss_in_data_units) for o in ranked] == ["1.0", "2.0", "nan", "inf", "x"]


def test_the_gradient_norm_is_of_all_parameters_together(swept, data):
    _, document, _ = swept("--gradients", "--hidden-size", 3)
    x, y = data
    error = 2 * (3 * np.maximum(x + 1, 0) + 1 - y) / len(x)
    on = x > -1
    of_a_unit = [(error * on * x).sum(), (error * on).sum(), (error * np.maximum(x + 1, 0)).sum()]
    parts = [*of_a_unit * 3, error.sum()]
    assert document["runs"][0]["gradient_norm"] == pytest.approx(np.linalg.norm(parts), rel=1e-5)


# One process


def test_the_dataset_is_read_once_and_programs_are_compiled_once_a_shape(swept, data, monkeypatch):
    traces, reads = [], []
    how, read_chunks = forward.MOMENTS, samples.read_chunks
    see = lambda *a: traces.append(a[3].hidden_size) or how.see(*a)  # noqa: E731
    monkeypatch.setattr(forward, "MOMENTS", replace(how, see=see))
    monkeypatch.setattr(run, "read_chunks", lambda *a: reads.append(a) or read_chunks(*a))
    arguments = (
        *flags("--hidden-size", (4, 3)),
        *flags("--initializer", ("ones", "he_normal", "zeros")),
        *flags("--scaling", ("none", "standard")),
        *flags("--seed", (0, 1)),
    )
    status, document, _ = swept(*arguments)
    assert status == 0
    assert len(document["runs"]) == 24
    assert traces == [3, 4]
    assert len(reads) == 1


# Going on


def test_what_is_saved_is_kept_and_the_rest_is_run(swept, data, tmp_path):
    grid = flags("--hidden-size", (3, 4, 16))
    assert kept(swept(*grid)[1]) == set()
    model = tmp_path / "model"
    shutil.rmtree(model / "default_run-h3")
    (model / "default_run-h4" / "history.parquet").unlink()
    before = (model / "default_run-h16" / "run.json").stat().st_ino
    status, document, _ = swept(*grid)
    assert status == 0
    assert kept(document) == {"default_run-h16"}
    assert (model / "default_run-h16" / "run.json").stat().st_ino == before
    assert kept(swept(*grid)[1]) == names(document)
    parameters = model / "default_run-h16" / "params.safetensors"
    parameters.write_bytes(parameters.read_bytes()[:-1] + b"\x40")  # another bias
    assert kept(swept(*grid)[1]) == {"default_run-h3", "default_run-h4"}
    assert kept(swept(*grid, "--rerun")[1]) == set()
    assert sorted(p.name for p in model.iterdir()) == sorted(names(document))


@pytest.mark.parametrize(
    ("changes", "stays"),
    [
        ({"config": {"num_epochs": 3}}, False),
        ({"config": {"initializer": "zeros"}}, False),
        ({"versions": {"jax": "0.1"}}, False),
        ({"versions": {"cubic": "0.0"}}, False),
        ({"versions": {"numpy": "1.0", "python": "3.0"}}, True),
        ({"dataset": {"sha256": "00" * 32}}, False),
        ({"device": {"platform": "gpu"}}, False),
        ({"verification": None}, False),
        ({"verification": {"passed": False}}, False),
        ({"config": {"fail_on": ["explodes"], "dataset": "elsewhere.csv"}}, True),
        ({"tensors": []}, False),
    ],
)
def test_a_run_is_kept_only_if_it_would_be_the_same_again(swept, data, tmp_path, changes, stays):
    swept("--run-name", "r")
    path = tmp_path / "model" / "r" / "run.json"
    record = json.loads(path.read_text())
    for part, change in changes.items():
        record[part] = record[part] | change if isinstance(change, dict) else change
    path.write_text(json.dumps(record))
    assert kept(swept("--run-name", "r")[1]) == ({"r"} if stays else set())


def test_other_samples_and_more_to_check_are_run_again(swept, cubic, data):
    swept("--no-verify")
    assert kept(swept("--no-verify")[1]) == {"default_run"}
    assert kept(swept()[1]) == set()
    assert kept(swept("--no-verify")[1]) == {"default_run"}  # more than was asked for
    assert kept(swept("--gradients")[1]) == set()
    assert kept(swept()[1]) == {"default_run"}
    assert kept(swept("--num-samples", 39)[1]) == set()
    assert cubic("generate", "--n", 40, "--seed", 1, "--force")[0] == 0
    assert kept(swept("--num-samples", 39)[1]) == set()


@pytest.mark.process
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_it_keeps_what_is_done_and_a_second_call_does_the_rest(swept, data, tmp_path, how):
    grid = [str(word) for word in flags("--seed", range(40))]
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with start("sweep", "--num-samples", 60, "--num-epochs", 2, *grid, **nowhere) as process:
        while len(list((tmp_path / "model").glob("[!.]*/run.json"))) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(how)
        process.wait(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    done = {path.name for path in (tmp_path / "model").iterdir() if not path.name.startswith(".")}
    assert 3 <= len(done) < 40
    for name in done:
        assert runs.load_record(tmp_path / "model" / name).verification.passed
    status, document, _ = swept(*grid)
    assert status == 0
    assert kept(document) == done
    assert len(document["runs"]) == 40
    assert {path.name for path in (tmp_path / "model").iterdir()} == names(document)


def test_where_nothing_moves_a_sweep_says_one_line(cubic, data):
    grid = ("sweep", "--num-samples", 40, "--hidden-size")
    assert cubic(*grid, "4,16")[2] == "runs: 2 saved in model\n"
    assert cubic(*grid, "3,4,16")[2] == "runs: 1 saved in model, 2 kept as saved\n"


def test_on_a_terminal_a_sweep_says_a_line_a_run(cubic, data, monkeypatch):
    monkeypatch.setattr(terminal, "moves", lambda: True)
    grid = ("sweep", "--num-samples", 40, "--hidden-size", "4,16")
    first, second = cubic(*grid)[2], cubic(*grid)[2]
    assert re.findall("(./2 .*): loss .*, epochs in", first) == ["1/2 default_run-h4", "2/2 default_run-h16"]
    assert second.count(", as saved\n") == 2


# What fails


def test_a_run_that_fails_stops_no_other(swept, cubic, data, tmp_path, monkeypatch):
    original = run.run

    def failing(config, *rest, **named):
        if config.hidden_size == 3:
            raise MemoryError
        if config.hidden_size == 4:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 40 bytes.\nmore")
        if config.hidden_size == 5:
            raise ValueError("odd")
        return original(config, *rest, **named)

    monkeypatch.setattr(run, "run", failing)
    stranger = tmp_path / "model" / "default_run-h2"
    stranger.mkdir(parents=True)
    (stranger / "thesis.txt").write_text("three years")
    grid = flags("--hidden-size", (2, 3, 4, 5, 16))
    status, document, err = swept(*grid)
    assert status == 1
    assert [row.get("error") is None for row in document["runs"]] == [True] + [False] * 4
    errors = {row["hidden_size"]: row["error"] for row in document["runs"][1:]}
    assert "thesis.txt" in errors[2]
    assert "not enough memory" in errors[3]
    assert "not enough memory" in errors[4]
    assert errors[5].startswith("ValueError: odd")
    assert "4 of 5 runs failed" in err.splitlines()[-1]
    assert "default_run-h4" in err.splitlines()[-1]
    assert (stranger / "thesis.txt").exists()
    assert not list((tmp_path / "model").glob(".*"))
    assert "default_run-h4  failed: there is not enough memory" in cubic("sweep", "--num-samples", 40, *grid)[1]


def test_a_run_that_is_not_verified_is_saved_named_and_run_again(swept, data, monkeypatch, tmp_path):
    compute = expected.compute

    def wrong_for_four(*arguments):
        reference = compute(*arguments)
        reference.loss *= 1 + (reference.hidden_size == 4)
        return reference

    grid = ("--initializer", "he_normal", *flags("--hidden-size", (3, 4)))
    with monkeypatch.context() as patch:
        patch.setattr(expected, "compute", wrong_for_four)
        status, document, err = swept(*grid)
        assert status == 1
        row = next(row for row in document["runs"] if row["hidden_size"] == 4)
        assert row["verdict"][0] == "not verified"
        assert row["verified"] is False
        assert err.splitlines()[-1].endswith("1 of 2 runs failed; default_run-h4: unverified")
        assert (tmp_path / "model" / "default_run-h4" / "run.json").exists()
    status, document, _ = swept(*grid)
    assert (status, kept(document)) == (0, {"default_run-h3"})


def test_fail_on_is_asked_of_runs_that_are_kept_too(swept, data):
    grid = flags("--initializer", ("ones", "he_normal"))
    assert swept(*grid)[0] == 0
    status, document, err = swept(*grid, "--fail-on", "explodes")
    assert status == 1
    assert len(kept(document)) == 2
    assert err.splitlines()[-1].endswith("default_run-ones: explodes")


def test_no_dataset_and_no_device_are_errors_of_the_sweep(cubic, data):
    assert "cubic generate" in cubic("sweep", "--dataset", "no.csv")[2]
    status, out, err = cubic("sweep", "--device", "tpu")
    assert (status, out) == (1, "")
    assert "cpu" in err


def test_help_loads_no_jax():
    code = "import sys; from cubic_cli.cli.app import run; run(['sweep', '--help']); sys.exit('jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0
    assert "--rerun" in found.stdout


# The screen


def row(name, **changes):
    return {
        "run_name": name, "hidden_size": 64, "loss_in_data_units": 1234567.0, "r_squared": -8079.05,
        "range_growth": 64.0, "dead": 7, "distinct": 64, "rank": 2, "gradient_norm": None,
        "largest_learning_rate": None, "verified": True,
        "findings": [],
        "verdict": ["explodes ×64", "all units alike", "worse than the mean"], **changes,
    }  # fmt: skip


def lines(rows, name, width):
    screen = view.screen({"runs": rows, "growth": []}, name, width)
    return blocks.layout(screen, width).plain.splitlines()


@pytest.mark.parametrize("base", ["a", "b" * 95, "c" * 60])
@pytest.mark.parametrize("width", [60, 80, 120, 160, 250])
def test_long_names_never_cost_a_number(base, width):
    rows = [row(f"{base}-h{h}", verdict=["explodes ×64"]) for h in (8, 64)]
    shown = lines(rows, base, width)
    assert max(map(cell_len, shown)) <= width
    table = [line for line in shown if "explodes" in line]
    assert len(table) == 2
    for line, h in zip(table, (8, 64), strict=True):
        assert "1,234,600" in line
        assert "-8,079.050" in line
        assert f"h{h} " in line


@pytest.mark.parametrize("width", [60, 80])
def test_a_name_too_long_for_the_screen_is_shortened_in_the_middle(width):
    shown = lines([row("x" + "b" * 98 + "y")], "x" + "b" * 98 + "y", width)
    assert max(map(cell_len, shown)) <= width
    (line,) = (line for line in shown if "1,234,600" in line)
    assert line.startswith("xbb")
    assert "…bb" in line
    assert "bby " in line
    assert "explodes ×64" in line


def test_columns_go_in_the_order_that_is_stated(cubic):
    rows = [row(f"run-h{h}", gradient_norm=12.5, largest_learning_rate=0.01) for h in (8, 64)]
    headers = [next(line for line in lines(rows, "run", width) if line.startswith("run ")) for width in range(40, 140)]
    shown = [tuple(name for name in view.DROP if name in header.split()) for header in reversed(headers)]
    orders = list(dict.fromkeys(shown))
    assert orders[0] == view.DROP
    for fewer, more in zip(orders[1:], orders, strict=False):
        assert fewer == more[1:]
    assert orders[-1] == ()
    words = cubic("sweep", "--help")[1].split("these go first:")[1].split(".")[0]
    assert tuple(word.strip() for word in " ".join(words.split()).split(",")) == view.DROP


def test_the_screen_of_a_sweep_over_widths(cubic, data):
    grid = (*flags("--hidden-size", (4, 16)), *flags("--initializer", ("ones", "zeros")))
    status, out, _ = cubic("sweep", "--run-name", "exp1", "--num-samples", 40, *grid)
    assert status == 0
    assert out.splitlines()[0] == "sweep exp1  4 runs, 4 verified"
    growth = out[out.index("Growth with H (relu, scaling none)") :].splitlines()
    assert growth[2].split() == ["ones", "H^0.00", "H^0.00", "H^1.00"]
    assert growth[3].split() == ["zeros", "–", "–", "–"]
    assert growth[4].endswith("H = 4, 16; –: constant or not finite.")
    assert "Growth" not in cubic("sweep", "--num-samples", 40, "--hidden-size", 4)[1]


def test_a_power_of_one_draw_a_width_is_said_to_hold_chance(cubic, data):
    grid = ("sweep", "--num-samples", 40, "--hidden-size", "4,16", "--initializer", "he_normal")
    words = "one seed a width, so that chance is in it"
    assert words in " ".join(cubic(*grid)[1].split())
    assert words not in " ".join(cubic(*grid, "--seed", "0,1")[1].split())


def test_the_screen_of_a_sweep_is_kept_as_it_is_shown(cubic, data):
    grid = ("sweep", "--num-samples", 40, "--hidden-size", "4,16")
    for ending in (".txt", ".md", ".html", ".svg"):
        status, out, err = cubic(*grid, "--save", f"kept{ending}")
        assert (status, err.splitlines()[0]) == (0, f"kept in kept{ending}")
        assert "h16" in Path(f"kept{ending}").read_text(encoding="utf-8")
    assert cubic(*grid, "--save", "kept.txt")[1] == Path("kept.txt").read_text(encoding="utf-8")
    assert set(json.loads(cubic(*grid, "--json", "--save", "kept.md")[1])) == {"runs", "growth"}
    assert "| run | loss | R² |" in Path("kept.md").read_text(encoding="utf-8")
    status, out, err = cubic("sweep", "--save", "kept.docx", "--run-name", "never")
    assert (status, out, ".html" in err) == (2, "", True)
    assert not list(Path("model").glob("never*"))


# The plot


def test_the_same_runs_give_the_same_plot(swept, data, tmp_path):
    """The other endings are written as the figure of a run is."""
    grid = (*flags("--hidden-size", (4, 16)), *flags("--initializer", ("ones", "zeros")))
    files = [tmp_path / f"{name}.svg" for name in "ab"]
    for file in files:
        assert swept(*grid, "--plot", file)[0] == 0
    first, second = (file.read_bytes() for file in files)
    assert first == second
    assert first.startswith(b"<?xml")
    assert b"ones: H^1.00" in first
    assert b"zeros: no power" in first


def test_a_plot_that_cannot_be_drawn_is_told_before_anything_is_run(cubic, data, tmp_path, monkeypatch):
    widths = flags("--hidden-size", (4, 16))
    for arguments, said in ((("--plot", "g.png"), "twice"), ((*widths, "--plot", "g.gif"), ".png")):
        status, out, err = cubic("sweep", *arguments)
        assert (status, out) == (2, "")
        assert said in err
    monkeypatch.setattr(plot, "available", lambda: False)
    status, out, err = cubic("sweep", *widths, "--plot", "g.png")
    assert (status, out) == (1, "")
    assert "pip install matplotlib" in err
    assert not (tmp_path / "model").exists()


# The page


def test_the_page_of_a_sweep_has_its_verdict_its_figure_and_its_tables(cubic, data, tmp_path):
    grid = (*flags("--hidden-size", (4, 16)), *flags("--initializer", ("ones", "zeros")))
    for ending in ("html", "md", "txt", "svg"):
        status, out, err = cubic("sweep", "--run-name", "a", "--num-samples", 40, *grid, "--save", f"out.{ending}")
        assert (status, err.splitlines()[0]) == (0, f"kept in out.{ending}")
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == out
    found = pages.check((tmp_path / "out.html").read_text(encoding="utf-8"))
    assert found.find("p", class_="verdict good")[0]["text"] == "✓ Verified: 4 runs, 4 verified, 0 failed."
    assert {row[0] for row in found.rows("")[1:]} == {"a-h4-ones", "a-h16-ones", "a-h4-zeros", "a-h16-zeros"}
    assert found.rows("Growth with H (relu, scaling none)")[1] == ["ones", "H^0.00", "H^0.00", "H^1.00"]
    assert len(found.find("figure")) == plot.available()
    assert "| a-h4-ones | " in (tmp_path / "out.md").read_text(encoding="utf-8")
    assert cubic("sweep", "--save", "out.png")[0] == 2


def test_the_page_of_a_sweep_says_which_runs_failed():
    rows = [{"run_name": "a", "error": "there is not enough memory"}]
    found = pages.check(view.as_page({"runs": rows, "growth": []}, "exp"))
    assert found.find("p", class_="verdict bad")[0]["text"] == "✗ Failed: 1 run, 0 verified, 1 failed."
    assert "failed: there is not enough memory" in [e["text"] for e in found.find("dd")]
