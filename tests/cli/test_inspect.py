import copy
import json
import os
import re
import shutil
import string
import threading
import time
import warnings
from pathlib import Path

import helpers
import numpy as np
import polars as pl
import pytest
import records
from helpers import SHAPE, B, H, N, samples
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import cubic_cli
from cubic_cli import config
from cubic_cli.analysis import compare, iteration
from cubic_cli.cli import app as cli
from cubic_cli.cli.views import blocks, format, listing
from cubic_cli.cli.views import compare as compare_view
from cubic_cli.cli.views import run as run_view
from cubic_cli.errors import CubicError, RunError
from cubic_cli.runs import damage, saved
from cubic_cli.runs import store as runs
from cubic_cli.runs.files import FILES, check_digest, held
from cubic_cli.runs.record import to_json
from cubic_cli.runs.run import load_run
from cubic_cli.runs.saved import load_history

SETTINGS = {
    "plain": (),
    "scaled": ("--scaling", "standard", "--initializer", "he_normal", "--activation", "gelu"),
}
LAST = -(-N // B)  # batch, of three samples


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a dataset and a few runs, made once."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in config.SETTINGS:  # an earlier test's .env may have left some
            patch.delenv(name, raising=False)
        assert cli.run(["generate", "--n", "300", "--seed", "1"]) == 0
        for name, arguments in SETTINGS.items():
            common = [*SHAPE, "--num-epochs", "3", "--run-name", name]
            assert cli.run(["forward", *common, *arguments]) == 0
    return folder


@pytest.fixture
def here(made, tmp_path):
    """A copy of that folder, to be damaged, as the current folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("model/*/run.json"):
        path.write_text(path.read_text().replace(str(made), str(tmp_path)))
    return tmp_path


def change_record(folder, **changes):
    path = folder / "run.json"
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(record))


def test_forward_and_inspect_show_the_same_screen(cubic, here):
    status, out, err = cubic("forward", *SHAPE)
    assert status == 0
    assert err.splitlines()[-1].startswith("saved in ")
    assert cubic("inspect", "default_run") == (0, out, "")
    assert out.startswith("default_run")


def test_the_record_has_the_distributions_of_the_tensors(here):
    record = runs.load_record(here / "model" / "plain")
    x = pl.read_csv("data.csv")["x"].to_numpy()[:N].astype(np.float32).astype(np.float64)
    z1 = np.repeat(x + 1, H)
    seen = record.tensor("z1")
    counts, _ = np.histogram(z1.astype(np.float32), np.array(seen.histogram.edges, np.float32))
    assert tuple(counts) == seen.histogram.counts
    assert sum(counts) == N * H
    assert seen.histogram.edges[0] == seen.min
    assert seen.quantiles["0.5"] == pytest.approx(np.median(z1), rel=1e-6)
    assert sum(record.tensor("loss").histogram.counts) == LAST


@pytest.mark.parametrize("name", list(SETTINGS))
@pytest.mark.parametrize("batch", [1, 7, LAST])
def test_one_iteration_is_computed_again(here, name, batch):
    folder = here / "model" / name
    record = runs.load_record(folder)
    values = iteration.recompute(folder, record, 2, batch)
    assert values.check.agrees
    assert values.identified
    assert values.check.error < 1e-6
    rows = slice((batch - 1) * 10, min(batch * 10, N))
    x, y = pl.read_csv("data.csv").head(N).to_numpy().astype(np.float32).astype(np.float64).T
    if name == "scaled":
        x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    np.testing.assert_allclose(values.x, x[rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values.y, y[rows], rtol=1e-5, atol=1e-6)
    if name == "plain":
        np.testing.assert_allclose(values.z2, H * np.maximum(x[rows] + 1, 0) + 1, rtol=1e-6)
    loss = load_history(folder).row((2 - 1) * LAST + batch - 1, named=True)["loss"]
    assert np.mean((values.z2 - values.y) ** 2) == pytest.approx(loss, rel=1e-5)


def test_one_iteration_on_the_screen(cubic, here):
    status, out, _ = cubic("inspect", "--run-name", "plain", "--epoch", 3, "--batch", LAST)
    assert status == 0
    assert f"shape=[3, {H}]" in out
    assert "those of the run, by their SHA-256" in out
    assert "check    yes" in out
    assert len([line for line in out.splitlines() if line.strip().startswith("10")]) == 3


@pytest.mark.parametrize("name", list(SETTINGS))
def test_one_iteration_as_json_has_the_samples_as_the_network_has_them_and_the_check(cubic, here, name):
    status, out, err = cubic("inspect", name, "--epoch", 3, "--batch", LAST, "--json")
    document = json.loads(out)
    assert (status, err) == (0, "")
    assert set(document) == {"run_name", "epoch", "batch", "tensors", "samples", "check"}
    assert [set(tensor) for tensor in document["tensors"]] == [{"name", "shape", "min", "max"}] * 4
    samples = document["samples"]
    assert [set(sample) for sample in samples] == [{"row", "x", "y", "z2", "error"}] * 3
    assert [sample["row"] for sample in samples] == [101, 102, 103]
    x = pl.read_csv("data.csv")["x"].to_numpy()[:N]
    x = x if name == "plain" else (x - x.mean()) / x.std()
    assert [sample["x"] for sample in samples] == pytest.approx(x[100:], rel=1e-5)
    z2, loss = document["tensors"][2:]
    assert min(sample["z2"] for sample in samples) == pytest.approx(z2["min"], rel=1e-6)
    assert np.mean([sample["error"] ** 2 for sample in samples]) == pytest.approx(loss["min"], rel=1e-5)
    check = document["check"]
    assert (check["passed"], check["reference"]) == (True, "numpy float64")
    assert check["max_relative_error"] < 1e-6 < check["tolerance"]


def test_one_iteration_of_infinities_warns_of_nothing(cubic):
    Path("n.csv").write_text("x,y\n" + "inf,1\n-inf,2\nnan,3\n0,4\n" * 5)
    arguments = (*helpers.QUICK, "--initializer", "zeros")
    assert cubic("forward", "--dataset", "n.csv", *arguments)[0] == 0
    status, out, err = cubic("inspect", "default_run", "--epoch", 1, "--batch", 1)
    assert (status, err) == (0, "")
    assert "? is not finite" in out


def test_of_a_large_batch_are_computed_the_first_samples_and_a_spread_of_the_units(cubic, here):
    assert cubic("forward", "--num-samples", "all", "--batch-size", 300, "--num-epochs", 1)[0] == 0
    folder = here / "model" / "default_run"
    shown = iteration.recompute(folder, runs.load_record(folder), 1, 1, most=10)
    assert list(shown.rows[:11]) == [*range(1, 11), shown.rows[shown.shown[shown.rows[shown.shown] > 10][0]]]
    assert len(shown.shown) == len(shown.z1) == iteration.SHOWN
    x = pl.read_csv("data.csv")["x"].to_numpy()
    np.testing.assert_allclose(shown.z2, 64 * np.maximum(x[shown.rows - 1] + 1, 0) + 1, rtol=1e-6)
    np.testing.assert_allclose(shown.z1[:, 5], x[shown.rows[shown.shown] - 1] + 1, rtol=1e-6)
    assert shown.check.agrees


def test_of_a_run_from_arrays_the_samples_of_a_batch_are_those_in_the_record(cubic):
    x, y = samples(1000)  # the record keeps 200 of them
    cubic_cli.forward(x, y, run_name="arrays", num_epochs=1)
    status, out, _ = cubic("inspect", "arrays", "--epoch", 1, "--batch", 7)
    assert status == 0
    kept = [sample for sample in runs.load_record(Path("model/arrays")).samples if 60 < sample.row <= 70]
    assert 0 < len(kept) < 10
    assert f"{len(kept)} of 10 of this batch, as the record keeps them; the run came from arrays" in out
    assert "check    none" in out
    document = json.loads(cubic("inspect", "arrays", "--epoch", 1, "--batch", 7, "--json")[1])
    assert [sample["row"] for sample in document["samples"]] == [sample.row for sample in kept]
    assert [sample["x"] for sample in document["samples"]] == [sample.x for sample in kept]
    assert document["check"] is None
    cubic_cli.forward(x[:25], y[:25], run_name="few", scaling="standard", num_epochs=1, hidden_size=3)
    document = json.loads(cubic("inspect", "few", "--epoch", 1, "--batch", 3, "--json")[1])
    assert [sample["row"] for sample in document["samples"]] == [21, 22, 23, 24, 25]
    assert document["check"]["passed"]


def test_where_the_record_of_arrays_keeps_no_sample_of_a_batch_it_says_so(cubic):
    x, y = samples(600)
    cubic_cli.forward(x, y, run_name="arrays", batch_size=2, num_epochs=1, hidden_size=3)
    there = {(sample.row - 1) // 2 + 1 for sample in runs.load_record(Path("model/arrays")).samples}
    batch = min(set(range(1, 301)) - there)
    status, out, err = cubic("inspect", "arrays", "--epoch", 1, "--batch", batch)
    assert (status, err) == (0, "")
    assert "came from arrays, and its record keeps 200 of their rows, none of" in " ".join(out.split())
    document = json.loads(cubic("inspect", "arrays", "--epoch", 1, "--batch", batch, "--json")[1])
    assert (document["samples"], document["check"]) == (None, None)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda lines: [*lines[:5], "1.5,2.5\n", *lines[6:]], "has changed since, by the SHA-256 of its samples"),
        (lambda lines: lines[:31], "has changed since: data.csv has 30 rows"),  # the batch's own are there
        (lambda lines: lines[:15], "data.csv has 14 rows"),
        (None, "there is no dataset data.csv"),
    ],
    ids=["another sample", "cut behind the batch", "cut before it", "gone"],
)
def test_of_a_dataset_that_has_changed_or_is_gone_no_sample_is_shown(cubic, here, change, why):
    arguments = ("inspect", "--run-name", "plain", "--epoch", 1, "--batch", 2)
    recorded = cubic(*arguments)[1].splitlines()[:4]
    lines = Path("data.csv").read_text().splitlines(keepends=True)
    if change is None:
        Path("data.csv").unlink()
    else:
        Path("data.csv").write_text("".join(change(lines)))
    status, out, err = cubic(*arguments)
    assert (status, out.splitlines()[:4]) == (1, recorded)
    assert "the dataset of run plain" in " ".join(err.split())
    assert why in " ".join(err.split())
    assert "z2 − y" not in out
    status, out, err = cubic(*arguments, "--json")
    document = json.loads(out)
    assert (status, document["batch"], document["samples"], document["check"]) == (1, 2, None, None)
    assert why in " ".join(err.split())


def test_a_history_that_was_changed_is_told(cubic, here):
    change_record(here / "model" / "plain", files=None)  # as earlier versions wrote it
    arguments = ("inspect", "--run-name", "plain", "--epoch", 1, "--batch", 2)
    history = pl.read_parquet("model/plain/history.parquet")
    history.with_columns(loss=pl.col("loss") * 2).write_parquet("model/plain/history.parquet")
    status, out, err = cubic(*arguments)
    assert (status, "check    NO: loss" in out) == (1, True)
    assert "model/plain/history.parquet is damaged: loss of epoch 1, batch 2 is not what" in " ".join(err.split())
    status, out, err = cubic(*arguments, "--json")
    assert (status, json.loads(out)["batch"]) == (1, 2)
    assert "history.parquet is damaged" in err


def test_a_run_under_another_name_is_compared_by_it(cubic, here):
    shutil.copytree("model/plain", "model/trusted")
    status, out, err = cubic("inspect", "--run-name", "plain", "--compare", "trusted", "--tolerance", 0)
    assert (status, err) == (0, "")
    assert out.startswith("plain against trusted")


def test_compare(cubic, here):
    status, out, err = cubic("inspect", "--run-name", "plain", "--compare", "plain", "--tolerance", 0, "--json")
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert document["within_tolerance"] is True
    assert document["others"][0]["differences"] == []
    status, out, err = cubic("inspect", "--run-name", "plain", "--compare", "scaled", "--compare", "plain", "--json")
    document = json.loads(out)
    assert (status, document["within_tolerance"]) == (0, None)
    assert [other["run_name"] for other in document["others"]] == ["scaled", "plain"]
    names = {difference["name"] for difference in document["others"][0]["differences"]}
    assert names == {"scaling", "initializer", "activation"}
    status, out, err = cubic("inspect", "--run-name", "plain", "--compare", "model/scaled", "--tolerance", "0.01")
    assert status == 1
    assert "not within 0.01 of scaled (loss," in err
    assert out.index("initializer") < out.index("z1 min")


def changed(factor=1.0, **changes):
    return records.make(loss=records.RECORD.loss * factor, **changes)


@pytest.mark.parametrize("factor", [1 + 1e-5, 1 - 1e-5])
def test_a_tolerance_is_relative(factor):
    for tolerance, beyond in ((1.01e-5, []), (0.99e-5, ["loss"])):
        assert compare.compare(records.RECORD, changed(factor), tolerance)["beyond"] == beyond


def test_what_is_not_a_number_is_equal_to_itself_alone():
    nan, none = changed(float("nan")), records.make(tensors__1={"min": None, "max": None})
    for record in (nan, none, changed(float("inf"))):
        assert compare.document(record, [copy.deepcopy(record)], 0.0)["within_tolerance"]
        assert not compare.document(record, [records.RECORD], 1e9)["within_tolerance"]
    assert compare.compare(none, records.RECORD, 1e9)["beyond"] == ["a1.min", "a1.max"]


@pytest.mark.parametrize(
    ("changes", "tolerance", "beyond"),
    [
        ({"tensors__0__neginf": 1}, 1e9, ["z1.neginf"]),  # which the loss hides behind a ReLU
        ({"tensors__3__nan": 2}, 1e9, ["loss.nan"]),
        ({"tensors__2__mean": 0.125 + 2e-3}, 1e-3, []),  # z2 reaches 2.25
        ({"tensors__2__mean": 0.125 + 3e-3}, 1e-3, ["z2.mean"]),
        ({"tensors__0__std": 1.5 * 1.002}, 1e-3, ["z1.std"]),
        ({"tensors__0__std": 1.5 + 5.25 * 2**-23}, 0, []),
        ({"tensors__1__zeros": 0.4998 + 0.9e-5}, 0, []),
        ({"tensors__1__zeros": 0.4998 + 2e-5}, 0, ["a1.zeros"]),
        ({"tensors__0__zeros": 0.5}, 0, []),  # of a1 alone
    ],
)
def test_what_the_loss_hides_is_compared(changes, tolerance, beyond):
    assert compare.compare(records.make(**changes), records.RECORD, tolerance)["beyond"] == beyond


def test_paths_do_not_count_where_digests_agree():
    elsewhere = records.make(dataset__path="/elsewhere/data.csv", config__dataset="../data.csv")
    assert compare.compare(elsewhere, records.RECORD)["differences"] == []
    unknown = records.make(dataset__path="/elsewhere/data.csv", dataset__sha256=None)
    names = [one["name"] for one in compare.compare(unknown, records.RECORD)["differences"]]
    assert names == ["path", "sha256"]


def test_an_end_of_a_range_is_held_against_its_tensor():
    """A minimum of 1e-9 against 0 is no difference where the tensor reaches 5."""
    near = records.make(tensors__1={"min": 1e-9})
    assert compare.compare(near, records.RECORD, 1e-6)["beyond"] == []
    far = records.make(tensors__1={"min": 1e-3})
    assert compare.compare(far, records.RECORD, 1e-6)["beyond"] == ["a1.min"]


def test_list(cubic, here):
    shutil.copytree(here / "model" / "plain", here / "model" / "z")
    (here / "model" / "z" / "run.json").write_text('{"schema": 1')
    found = json.loads(cubic("inspect", "--list", "--json")[1])["runs"]
    assert [row["run_name"] for row in found] == ["plain", "scaled", "z"]
    assert set(found[2]) == {"run_name", "damaged"}
    assert "run.json is damaged" in found[2]["damaged"]
    shutil.copytree(here / "model" / "plain", here / "model" / "copy")
    assert listing.rows(Path("model"))[0]["run_name"] == "copy"
    shutil.rmtree(here / "model" / "copy")
    record = json.loads(cubic("inspect", "--run-name", "plain", "--json")[1])
    assert found[0]["r_squared"] == record["context"]["r_squared"]
    assert (found[0]["device"], found[0]["verified"]) == ("cpu", True)
    assert [(row["loss"], row["loss_in_data_units"]) for row in found[:2]] == [
        (record.loss, record.loss_in_data_units)
        for record in (runs.load_record(here / "model" / name) for name in ("plain", "scaled"))
    ]
    # In its own units the scaled run has by far the smaller loss.
    assert found[1]["loss"] < found[0]["loss"] < found[1]["loss_in_data_units"]
    assert format.number(found[1]["loss_in_data_units"]) in cubic("inspect", "--list")[1]
    for sort, names in (("loss", ["plain", "scaled"]), ("-loss", ["scaled", "plain"]), ("R2", ["scaled", "plain"])):
        rows = json.loads(cubic("inspect", "--list", "--sort", sort, "--json")[1])["runs"]
        assert [row["run_name"] for row in rows] == [*names, "z"]
    assert "damaged: " in cubic("inspect", "--list")[1]


@pytest.mark.parametrize(
    ("place", "named"),
    [
        (("context", "r_squared"), "context.r_squared is 'much'"),
        (("config", "hidden_size"), "config.hidden_size is 'much'"),
        (("dataset", "rows"), "dataset.rows is 'much'"),
        (("tensors", 0, "max"), None),
        (("config", "fail_on"), None),
        (("timing", "epoch_seconds"), None),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_a_run_is_listed_if_what_is_shown_of_it_is_sound(here, place, named):
    document = copy.deepcopy(records.DOCUMENT)
    *path, last = place
    part = document
    for key in path:
        part = part[key]
    part[last] = "much"
    (here / "model" / "plain" / "run.json").write_text(to_json(document), encoding="utf-8")
    row = listing.rows(here / "model")[0]
    assert row["run_name"] == "plain"
    if named is None:
        assert row["loss"] == records.RECORD.loss
    else:
        assert f"run.json is damaged: {named};" in row["damaged"]


def test_every_column_and_key_sorts(cubic, here):
    rows = listing.rows(Path("model"))
    for name in [*listing.COLUMNS, *rows[0]]:
        assert len(listing.rows(Path("model"), name)) == 2
    # A file stands in the initializer's column, and the loss is shown in the data's units.
    assert set(rows[0]) == {*listing.COLUMNS.values(), "parameters", "loss"}
    status, out, err = cubic("inspect", "--list", "--sort", "size")
    assert (status, out) == (2, "")
    assert "'size'" in err
    assert "did you mean 'verified'?" in cubic("inspect", "--list", "--sort", "verifed")[2]
    assert all(name in err for name in listing.COLUMNS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--epoch", 1), ("--batch", 1), ("--sort", "loss"), ("--tolerance", 1), ("--list", "--compare", "plain"),
        ("--compare", "plain", "--tolerance", -1), ("--compare", "plain", "--tolerance", "nan"),
        ("--save", "out.png"), ("--save", "out"), ("--list", "--epoch", 1, "--batch", 1),
        ("plain",), ("plain", "--list"),
    ],
)  # fmt: skip
def test_flags_that_do_not_go_together_are_a_wrong_use(cubic, here, arguments):
    status, out, err = cubic("inspect", "--run-name", "plain", *arguments)
    assert (status, out) == (2, ""), err


@pytest.mark.parametrize("arguments", [(), ("--list",), ("--epoch", 1, "--batch", 2), ("--compare", "scaled")])
def test_save(cubic, here, arguments):
    for ending in ("svg", "html", "txt", "md"):
        status, out, err = cubic("inspect", "--run-name", "plain", *arguments, "--save", f"out.{ending}")
        assert (status, err) == (0, f"kept in out.{ending}\n")
        text = Path(f"out.{ending}").read_text(encoding="utf-8")
        assert "plain" in text
        assert "\x1b" not in text
        assert ("<svg" in text) >= (ending == "svg")
        assert ("</html>" in text) == (ending == "html")
    assert Path("out.txt").read_text(encoding="utf-8") == out
    page = Path("out.html").read_text(encoding="utf-8")
    assert "src=" not in page
    assert "<link" not in page
    assert sorted(p.name for p in here.iterdir() if p.name.startswith((".", "out"))) == [
        "out.html", "out.md", "out.svg", "out.txt",
    ]  # fmt: skip


def test_the_page_of_the_list_has_whole_names(cubic, here):
    name = "a" * 90
    assert cubic("forward", *helpers.QUICK, "--run-name", name)[0] == 0
    assert cubic("inspect", "--list", "--save", "out.html")[0] == 0
    assert name in Path("out.html").read_text(encoding="utf-8")


def test_save_follows_no_link_and_says_what_cannot_be_written(cubic, here):
    Path("precious.md").write_text("three years")
    Path("link.md").symlink_to("precious.md")
    Path("folder.md").mkdir()
    for path in ("link.md", "folder.md", "nowhere/out.md"):
        status, _, err = cubic("inspect", "--run-name", "plain", "--save", path)
        assert status == 1
        assert f"cannot write {path}" in err
    assert Path("precious.md").read_text() == "three years"


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("history.parquet", None, "is missing"),
        ("history.parquet", 0, "no whole Parquet file"),
        ("history.parquet", 700, "no whole Parquet file"),
        ("params.safetensors", None, "is missing"),
        ("params.safetensors", 5, "no whole safetensors file"),
        ("params.safetensors", -5, "no whole safetensors file"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_shown(cubic, here, name, damage, said):
    path = here / "model" / "plain" / name
    data = path.read_bytes()
    path.unlink()
    if damage is not None:
        path.write_bytes(data[:damage])
    status, out, err = cubic("inspect", "--run-name", "plain")
    assert status == 1
    assert f"plain/{name}" in err
    assert said in err
    assert "z1" in out
    assert ("batches  " in out) == (name != "history.parquet")
    status, out, err = cubic("inspect", "--run-name", "plain", "--epoch", 1, "--batch", 1)
    assert status == 1
    assert f"plain/{name}" in err
    assert ("Layer 1" in out) == (name != "history.parquet")


@pytest.mark.parametrize(("name", "at"), [("history.parquet", 587), ("params.safetensors", -20)])
def test_one_bit_that_changed_is_told_before_the_file_is_decoded(cubic, here, name, at):
    """Of a history polars may ask for 2⁶¹ bytes, and Rust ends the process; a parameter is another number."""
    path = here / "model" / "plain" / name
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    said = f"model/plain/{name} is damaged: its SHA-256 is not what run.json says of it; run `cubic forward"
    for arguments in ((), ("--epoch", 1, "--batch", 1), ("--row", 1)):
        status, _, err = cubic("inspect", "plain", *arguments)
        assert (status, said in " ".join(err.split())) == (1, True)
    with pytest.raises(RunError, match="SHA-256"):
        getattr(load_run(path.parent), "history" if name == "history.parquet" else "parameters")


@pytest.mark.parametrize(("name", "part"), [("history.parquet", "iterations"), ("params.safetensors", "parameters")])
def test_a_file_is_held_against_what_is_left_of_a_damaged_record(cubic, here, name, part):
    """One damage does not hide another."""
    folder = here / "model" / "plain"
    change_record(folder, **{part: "damaged"})
    status, out, err = cubic("inspect", "plain")
    assert (status, "z1" in out, "SHA-256" in err) == (1, True, False)
    data = bytearray((folder / name).read_bytes())
    data[-20] ^= 1
    (folder / name).write_bytes(data)
    status, out, err = cubic("inspect", "plain")
    assert (status, "z1" in out) == (1, True)
    assert f"run.json is damaged: {part}" in err
    assert f"{name} is damaged: its SHA-256" in err


@pytest.mark.parametrize("name", ["history.parquet", "params.safetensors"])
def test_of_a_large_file_the_digest_is_asked_where_all_of_it_is_read(here, name):
    path = here / "model" / "plain" / name
    other = runs.load_record(path.parent).model_copy(update={"files": {name: "0" * 64}})
    size = path.stat().st_size
    check_digest(path, other, most=size - 1)
    for most in ({"most": size}, {}):
        with pytest.raises(RunError, match="SHA-256"):
            check_digest(path, other, **most)


@pytest.mark.parametrize("name", ["history.parquet", "params.safetensors"])
def test_a_pipe_keeps_nobody_waiting(cubic, here, name):
    path = here / "model" / "plain" / name
    path.unlink()
    os.mkfifo(path)
    status, out, err = cubic("inspect", "--run-name", "plain")
    assert (status, "z1" in out) == (1, True)
    assert f"{name} is no regular file" in err


def test_a_history_of_another_run_is_told(cubic, here):
    change_record(here / "model" / "plain", iterations=6300)
    status, _, err = cubic("inspect", "--run-name", "plain")
    assert status == 1
    assert "history.parquet does not hold the 2,100 iterations an epoch" in err


@pytest.mark.parametrize(
    ("text", "said"), [('{"schema": 1', "damaged"), ("[]", "schema"), ('{"schema": 3}', "schema 3")]
)
def test_a_record_that_cannot_be_read(cubic, here, text, said):
    (here / "model" / "plain" / "run.json").write_text(text)
    status, out, err = cubic("inspect", "--run-name", "plain")
    assert status == 1
    assert "run.json" in err
    assert said in err
    assert "33 iterations in 3 epochs" in out
    assert f"input_layer.weight [1, {H}]" in out
    status, out, err = cubic("inspect", "--run-name", "plain", "--json")
    assert (status, out) == (1, "")
    for name in ("history.parquet", "params.safetensors"):
        (here / "model" / "plain" / name).write_bytes(b"PAR1junkPAR1")
    status, out, err = cubic("inspect", "--run-name", "plain")
    assert status == 1
    assert out.count("is damaged") == 2


def test_a_damaged_part_is_named_and_the_rest_is_shown(cubic, here):
    tensors = runs.load_record(here / "model" / "plain").as_dict()["tensors"]
    tensors[1]["max"] = "a lot"
    change_record(here / "model" / "plain", tensors=tensors, timing={})
    status, out, err = cubic("inspect", "--run-name", "plain")
    assert status == 1
    assert "run.json is damaged: tensors[1].max is 'a lot'" in err
    assert "timing.compile_seconds is missing" in err
    assert "verified" in out
    assert "speed" not in out


@pytest.mark.parametrize("files", [5, [], {"history.parquet": 3}], ids=["number", "list", "no digest"])
def test_damaged_digests_are_named_and_the_rest_is_shown(cubic, here, files):
    change_record(here / "model" / "plain", files=files)
    status, out, err = cubic("inspect", "--run-name", "plain")
    assert status == 1
    assert err.count("is damaged") == 1
    assert "run.json is damaged: files" in err
    assert "verified" in out
    assert "batches  " in out


def test_a_record_without_what_came_later_is_whole(cubic, here):
    record = runs.load_record(here / "model" / "plain").as_dict()
    for tensor in record["tensors"]:
        del tensor["quantiles"], tensor["histogram"]
    del record["gradients"]
    (here / "model" / "plain" / "run.json").write_text(json.dumps(record))
    status, out, err = cubic("inspect", "--run-name", "plain")
    assert (status, err) == (0, "")
    assert "50 %" not in out


def test_only_the_first_epoch_is_read(here, monkeypatch):
    read = []
    collect = pl.LazyFrame.collect

    def watched(frame, *arguments, **options):
        result = collect(frame, *arguments, **options)
        read.append((result.columns, result.height))
        return result

    monkeypatch.setattr(pl.LazyFrame, "collect", watched)
    monkeypatch.setattr(pl, "read_parquet", None)
    saved.inspect_run(here / "model" / "plain")
    assert read == [(["epoch", "loss"], LAST)]


def refusal(action):
    """Return what an action says that cannot be done, None where it can be."""
    try:
        action()
    except CubicError as error:
        return str(error)
    return None


def places(value, at=()):
    """Every place of a document."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


PLACES = [place for place in places(records.DOCUMENT) if place]
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.just(10**40), st.floats(), st.text(string.printable, max_size=5),
    st.just([]), st.just({}), st.just([None]), st.just("relu"),
)  # fmt: skip


@settings(max_examples=4 * settings().max_examples, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.booleans(), JUNK), min_size=1, max_size=3))
@example([(("tensors",), False, [])])
@example([(("dataset", "y", "min"), False, 3.4028235677973366e38)])  # the first that is no float32
@example([(("dataset", "x", "mean"), False, 1.9566235514834686e40)])
@example([(("dataset", "x", "std"), False, 1e-300), (("config", "scaling"), False, "standard")])
def test_no_damage_to_a_record_is_a_traceback(here, changes):
    record = copy.deepcopy(records.DOCUMENT)
    for (*path, last), remove, junk in changes:
        part = record
        try:
            for key in path:
                part = part[key]
            if remove:
                del part[last]
            else:
                part[last] = junk
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took this place away
    folder = here / "model" / "plain"
    (folder / "run.json").write_text(to_json(record), encoding="utf-8")
    rows = listing.rows(here / "model", "loss")
    assert len(rows) == 2
    blocks.layout(listing.screen(rows, 80), 80)

    def see():
        found = saved.inspect_run(folder)
        screen = run_view.screen(found.record, found.losses, 80)
        blocks.layout(screen, 80)
        blocks.markdown(screen)
        if not damage.parse(found.document)[1]:
            for runs_ in ([found.record, records.RECORD], [records.RECORD, found.record]):
                document = compare.document(runs_[0], runs_[1:], 0.1)
                blocks.layout(compare_view.screen(document, runs_, 80), 80)

    assert "run.json" in (refusal(see) or "run.json")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FILES), st.integers(0, 3000), st.binary(max_size=3))
@example("run.json", 892, b" ")  # in the name of the dataset
@example("history.parquet", 1100, b"\x00\x00\x80")  # in the size of a batch
def test_no_damage_to_a_file_is_a_traceback(here, made, name, at, junk):
    data = (made / "model" / "scaled" / name).read_bytes()
    folder = here / "model" / "scaled"
    for file in FILES:
        shutil.copy(made / "model" / "scaled" / file, folder / file)
    at = min(at, len(data))
    (folder / name).write_bytes(data[:at] + junk + (data[at + len(junk) :] if junk else b""))

    def see():
        found = saved.inspect_run(folder)
        blocks.layout(run_view.screen(found.record, found.losses, 80), 80)
        if not damage.parse(found.document)[1]:
            iteration.recorded(folder, found.record, 1, 2)
            iteration.recompute(folder, found.record, 1, 2)

    assert "scaled" in (refusal(see) or "scaled")


@pytest.mark.parametrize("column", ["nonfinite", "size", "a1_max"])
def test_a_history_that_lacks_a_column_is_damaged(cubic, here, column):
    path = here / "model" / "plain" / "history.parquet"
    change_record(path.parent, files=None)  # as earlier versions wrote it
    pl.read_parquet(path).rename({column: "something"}).write_parquet(path)
    status, _, err = cubic("inspect", "plain", "--epoch", 1, "--batch", 2)
    assert status == 1
    assert "history.parquet is damaged: epoch 1, batch 2 is not where it belongs" in " ".join(err.split())


def test_foreign_names_and_records_control_no_terminal(cubic, here):
    esc = "\x1b]0;PWN\x07\u202e"
    record = json.loads((here / "model" / "plain" / "run.json").read_text())
    record["run_name"] += esc
    record["created"] += esc
    record["dataset"]["path"] = f"{esc}.csv"
    record["device"]["kind"] = esc
    record["sources"]["seed"] = esc
    record["findings"][0]["id"] = f"<script>{esc}"
    record["findings"][0]["text"] += esc
    (here / "model" / "plain" / "run.json").write_text(json.dumps(record))
    (here / "model" / f"a{esc}").mkdir()
    for arguments in ((), ("--list",), ("--epoch", 1, "--batch", 1), ("--compare", "scaled"), ("--json",)):
        for stream in cubic("inspect", "--run-name", "plain", *arguments)[1:]:
            assert not set("\x1b\x07\u202e") & set(stream)
    assert cubic("inspect", "--run-name", "plain", "--save", "out.md")[0] == 0
    assert "<script>" not in Path("out.md").read_text(encoding="utf-8")
    assert "\x1b" not in cubic("inspect", "--compare", f"{esc}/x")[2]


# Which run is meant


@pytest.fixture
def three(here):
    """Three runs: "old", "new" and "newest", by their records."""
    for name, when in (("old", "10:00:00Z"), ("new", "10:31:00Z"), ("newest", "10:31:00.000001Z")):
        shutil.copytree(here / "model" / "plain", here / "model" / name)
        change_record(here / "model" / name, run_name=name, created=f"2126-11-26T{when}")
    return here


def named(cubic, *arguments):
    """Return the status, which run is shown, and what is said of it."""
    status, out, err = cubic("inspect", *arguments, "--json")
    return status, json.loads(out)["run_name"] if out else None, err


def test_the_newest_run_is_shown_where_none_is_named(cubic, three):
    assert named(cubic) == (0, "newest", "newest is the newest run\n")
    os.utime(three / "model" / "new")
    change_record(three / "model" / "newest", created="2126-11-26T10:31:00Z")
    assert named(cubic)[1] == "new"  # the same moment: the folder's time decides


def test_a_run_is_named_by_its_name_or_the_path_of_its_folder(cubic, three, tmp_path):
    assert named(cubic, "old") == (0, "old", "")
    assert named(cubic, "--run-name", "old") == (0, "old", "")
    assert named(cubic, "./model/old") == (0, "old", "")
    shutil.move(three / "model" / "old", tmp_path / "kept")
    assert named(cubic, tmp_path / "kept")[0] == 0
    assert named(cubic, "kept")[0] == 1
    assert cubic("inspect", "new", "--compare", tmp_path / "kept", "--compare", "newest")[0] == 0
    assert "there is no run model/kept" in cubic("inspect", "new", "--compare", "kept")[2]


def test_points_are_paths(cubic, three, monkeypatch):
    monkeypatch.chdir("model/old")
    assert named(cubic, ".") == (0, "old", "")
    monkeypatch.chdir("/")
    status, out, err = cubic("inspect", "..")
    assert (status, out) == (1, "")
    assert "there is no run /;" in err


@pytest.mark.parametrize("arguments", [("",), ("old", "--compare", "")])
def test_an_empty_name_is_refused(cubic, three, arguments):
    status, out, err = cubic("inspect", *arguments)
    assert (status, out) == (2, "")
    assert "found '' for a run" in err


def test_a_folder_without_files_of_a_run_is_none(cubic, three, tmp_path):
    (tmp_path / "model" / "empty").mkdir()
    status, out, err = cubic("inspect", "empty")
    assert (status, out) == (1, "")
    assert "there is no run model/empty; the newest: newest, new, old" in err
    with pytest.raises(RunError, match=r"there is no run model; "):
        load_run("model")
    with pytest.raises(RunError, match="there is no run"):
        load_run("model\0")


def test_a_name_of_dotenv_is_a_default(cubic, three, tmp_path):
    (tmp_path / ".env").write_text("RUN_NAME=old\n")
    status, name, err = named(cubic)
    assert (status, name) == (0, "old")
    assert err == f"note: newest is newer than RUN_NAME in {tmp_path / '.env'}; `cubic inspect newest` shows it\n"
    assert named(cubic, "new") == (0, "new", "")
    del os.environ["RUN_NAME"]  # which the command before laid there
    (tmp_path / ".env").write_text("RUN_NAME=newest\n")
    assert named(cubic) == (0, "newest", "")
    del os.environ["RUN_NAME"]  # which the command before laid there
    (tmp_path / ".env").write_text("RUN_NAME=gone\n")
    assert named(cubic) == (0, "newest", "newest is the newest run\n")


@pytest.mark.parametrize("how", ["argument", "flag", "environment"])
def test_a_name_that_is_not_there_is_told_with_the_nearest_and_the_newest(cubic, three, monkeypatch, how):
    if how == "environment":
        monkeypatch.setenv("RUN_NAME", "plian")
    arguments = {"argument": ("plian",), "flag": ("--run-name", "plian"), "environment": ()}[how]
    status, out, err = cubic("inspect", *arguments)
    assert (status, out) == (1, "")
    assert "there is no run model/plian (did you mean plain?); the newest: newest, new, old; " in " ".join(err.split())


NEARLY = {  # what is named, and what is said
    "a run beside": (("kept",), "there is no run model/kept, but ./kept is one; name it so, as a path"),
    "a run beside, by its flag": (("--run-name", "kept"), "there is no run model/kept, but ./kept is one"),
    "a run beside, compared": (("new", "--compare", "kept"), "there is no run model/kept, but ./kept is one"),
    "a record": (("model/old/run.json",), "model/old/run.json is a file of a run; name its folder, model/old"),
    "a history": (("./kept/history.parquet",), "kept/history.parquet is a file of a run; name its folder, kept"),
    "the folder of runs": (("model/",), "model is a folder of runs; name one, as in model/newest, or list them: "),
    "its bare name": (("model",), "`cubic inspect --list --artifact-dir model`"),
    "another with a blank": (
        ("./my runs",),
        "as in my runs/a, or list them: `cubic inspect --list --artifact-dir 'my runs'`",
    ),
}


@pytest.mark.parametrize("case", NEARLY)
def test_what_is_nearly_a_run_is_told_as_what_it_is(cubic, three, case):
    arguments, said = NEARLY[case]
    shutil.copytree("model/old", "kept")
    shutil.copytree("model/old", "my runs/a")
    status, out, err = cubic("inspect", *arguments)
    assert (status, out) == (1, "")
    assert said in " ".join(err.split())


def test_without_any_run_the_way_to_make_one_is_told(cubic):
    for arguments in ((), ("x",)):
        status, _, err = cubic("inspect", *arguments)
        assert status == 1
        assert "`cubic forward` makes one" in err


@pytest.fixture
def complete(capfd, monkeypatch):
    """Return what a shell is offered for the last word of a line."""

    def offered(*words):
        monkeypatch.setenv("_CUBIC_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(["cubic", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        with pytest.raises(SystemExit):
            cli.run([])
        return capfd.readouterr().out.split()

    return offered


def test_a_shell_completes_names_of_runs_the_newest_first(complete, three):
    for words in (("inspect",), ("inspect", "old", "--compare"), ("inspect", "--run-name"), ("forward", "--run-name")):
        assert complete(*words, "ne") == ["newest", "new"]
    (three / "model").rename(three / "elsewhere")
    assert complete("inspect", "ne") == []
    assert complete("inspect", "--artifact-dir", "elsewhere", "ne") == ["newest", "new"]
    assert complete("inspect", "--artifact-dir", "''", "ne") == []
    Path(".env").write_text("ARTIFACT_DIR=elsewhere\n")
    assert complete("inspect", "ne") == ["newest", "new"]


def test_a_shell_that_completes_is_told_nothing(complete, three):
    (three / "model" / ".new.0123abcd.scratch" / "of another").mkdir(parents=True)  # which cannot be cleared up
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert complete("inspect", "ne") == ["newest", "new"]
    assert told == []


def test_a_shell_completes_what_is_accepted_in_lists_with_commas_too(complete):
    assert complete("forward", "--initializer", "he") == ["he_uniform", "he_normal"]
    assert complete("sweep", "--initializer", "he") == ["he_uniform", "he_normal"]
    assert complete("sweep", "--initializer", "ones,he_n") == ["ones,he_normal"]
    assert complete("check", "--device", "g") == ["gpu"]
    assert complete("forward", "--fail-on", "dead_units,expl") == ["dead_units,explodes"]
    assert complete("inspect", "--list", "--sort", "l") == ["loss"]


def test_a_pipe_for_a_record_keeps_nobody_waiting(cubic, three):
    (three / "model" / "pipe").mkdir()
    os.mkfifo(three / "model" / "pipe" / "run.json")
    assert named(cubic)[1] == "newest"


def test_forward_says_which_run_it_replaces(cubic, here):
    arguments = ("forward", *helpers.QUICK, "--run-name", "again")
    assert cubic(*arguments)[2] == "saved in model/again\n"
    change_record(here / "model" / "again", created="2026-11-24T10:31:00Z")
    assert re.search(r"saved in model/again; replaced the run of 2026-11-2\d \d\d:\d\d\n", cubic(*arguments)[2])
    assert re.search(r"; replaced the run of \d\d:\d\d\n", cubic(*arguments)[2])


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize("created", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "yesterday", None])
def test_forward_replaces_a_run_of_which_it_cannot_be_told_when_it_was_made(cubic, here, monkeypatch, zone, created):
    change_record(here / "model" / "plain", created=created)
    with monkeypatch.context() as patched:
        patched.setenv("TZ", zone)
        time.tzset()
        status, _, err = cubic("forward", *helpers.QUICK, "--run-name", "plain")
    time.tzset()
    assert (status, err) == (0, "saved in model/plain; replaced the run of an unknown time\n")


def test_one_run_is_seen_whole_while_two_replace_each_other(cubic, here):
    place, kept = here / "model" / "taken_turns", here / "kept"
    kept.mkdir()
    for name, activation in (("plain", "relu"), ("scaled", "gelu")):
        copy_ = shutil.copytree(here / "model" / name, kept / activation)
        change_record(copy_, run_name="taken_turns")
    expected = {}
    arguments = [(), ("--json",), ("--epoch", 1, "--batch", 3), ("--row", 7)]
    for name in ("relu", "gelu"):
        shutil.copytree(kept / name, place, dirs_exist_ok=True)
        for given_ in arguments:
            expected.setdefault(given_, []).append(cubic("inspect", "taken_turns", *given_)[1])
    stop = threading.Event()

    def take_turns():
        while not stop.is_set():
            for name in ("relu", "gelu"):
                with runs.replacing(place) as folder:
                    shutil.copytree(kept / name, folder, dirs_exist_ok=True)

    turns = threading.Thread(target=take_turns)
    turns.start()
    try:
        for given_ in arguments * 5:
            status, out, err = cubic("inspect", "taken_turns", *given_)
            assert (status, err) == (0, "")
            assert out in expected[given_]
        for _ in range(5):
            with held(place):
                run = load_run(place)
                assert run.parameters["input_layer.bias"].shape == (run.parsed.config.hidden_size,)
                assert run.history.height == run.parsed.iterations
    finally:
        stop.set()
        turns.join()


def test_a_run_that_was_replaced_since_it_was_loaded_is_not_mixed_with_another(here):
    run = load_run(here / "model" / "plain")
    with runs.replacing(here / "model" / "plain") as folder:
        shutil.copytree(here / "model" / "scaled", folder, dirs_exist_ok=True)
    with pytest.raises(RunError, match="was replaced by another run since it was loaded; load it again"):
        run.history  # noqa: B018


def test_without_proc_a_run_is_read_by_its_path(cubic, here, monkeypatch):
    with_proc = cubic("inspect", "plain", "--row", 3)
    is_dir = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: path != Path("/proc/self/fd") and is_dir(path))
    assert cubic("inspect", "plain", "--row", 3) == with_proc


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--row", 1), "input_layer.weight is not what run.json says of it"),
        (("--epoch", 1, "--batch", 1), "input_layer.weight is not what run.json says of it"),
    ],
    ids=["row", "iteration"],
)
def test_parameters_of_another_run_are_not_taken_for_this_ones(cubic, here, arguments, words):
    change_record(here / "model" / "plain", files=None)  # as earlier versions wrote it
    other = load_file(here / "model" / "plain" / "params.safetensors")
    other["input_layer.weight"] = other["input_layer.weight"] * 2 + 1
    save_file(other, here / "model" / "plain" / "params.safetensors")
    status, _, err = cubic("inspect", "plain", *arguments)
    assert status == 1
    assert words in " ".join(err.split())


def test_parameters_that_the_record_does_not_name_are_not_taken_for_its_own(cubic, here):
    path = here / "model" / "plain" / "run.json"
    path.write_text(path.read_text().replace('"name": "input_layer.weight"', '"name": "else.weight"'))
    status, _, err = cubic("inspect", "plain", "--row", 1)
    assert status == 1
    assert "input_layer.weight is not what run.json says of it" in " ".join(err.split())


def test_parameters_of_another_width_are_not_taken_for_this_runs(cubic, here):
    save_file({"input_layer.weight": np.ones((1, 2), np.float32)}, here / "model" / "plain" / "params.safetensors")
    status, out, err = cubic("inspect", "plain")
    assert (status, "z1" in out) == (1, True)
    assert "does not hold the parameters that run.json speaks of" in " ".join(err.split())


def test_a_damaged_run_elsewhere_is_made_again_elsewhere(cubic, here):
    (here / "model").rename(here / "other runs")
    (here / "other runs" / "plain" / "params.safetensors").unlink()
    _, _, err = cubic("inspect", "other runs/plain")
    assert "cubic forward --run-name plain --artifact-dir 'other runs'" in " ".join(err.split())


@pytest.mark.parametrize("flag", ["--save", "--plot"])
def test_a_view_takes_no_place_of_another_kind(cubic, here, flag):
    os.mkfifo("pipe.svg")
    for path, words in {
        "pipe.svg": "it is no regular file",
        "model/plain/x.svg": "a run's folder holds its own files alone",
    }.items():
        status, _, err = cubic("inspect", "plain", flag, path)
        assert status == 1
        assert words in " ".join(err.split())
    assert not os.path.lexists("model/plain/x.svg")
    status, _, err = cubic("inspect", "plain", "--save", "a.svg", "--plot", "a.svg")
    assert (status, "the same file" in err) == (2, True)


def test_nothing_else_is_put_into_the_folder_of_a_run(cubic, here):
    """It could not be replaced any more."""
    before = sorted(os.listdir("model/plain"))
    for arguments, flag in {
        ("generate", "--n", 5, "--force", "--dataset", "model/plain/data.csv"): "--dataset",
        ("forward", *helpers.QUICK, "--artifact-dir", "model/plain"): "--artifact-dir",
    }.items():
        status, _, err = cubic(*arguments)
        assert (status, "holds its own files alone; name another with " + flag in " ".join(err.split())) == (1, True)
    assert sorted(os.listdir("model/plain")) == before
    Path("run.json").write_text("{}")  # of another program, beside the dataset
    assert cubic("inspect", "plain", "--save", "plain.md")[0] == 0
    assert cubic("generate", "--n", 5, "--force")[0] == 0


def test_a_record_beyond_the_memory_keeps_no_list_from_the_others(cubic, here, monkeypatch):
    read_text = Path.read_text

    def exhausted(path, *arguments, **options):
        if "plain" in str(path):
            raise MemoryError
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", exhausted)
    status, out, _ = cubic("inspect", "--list")
    assert status == 0
    assert "there is not enough memory to read model/plain/run.json" in " ".join(out.split())
    assert "scaled " in out


def test_a_limit_of_open_files_is_no_damage(cubic, here, monkeypatch):
    def fail(self):
        raise pl.exceptions.PanicException(
            'called `Result::unwrap()` on an `Err` value: Os { code: 24, kind: TooManyOpenFiles, message: "…" }'
        )

    monkeypatch.setattr(pl.LazyFrame, "collect", fail)
    status, _, err = cubic("inspect", "plain")
    assert status == 1
    assert "ulimit -n" in err
    assert "damaged" not in err
