"""A run by many processes is the run of one."""

import json
import os
from pathlib import Path

import helpers
import numpy as np
import polars as pl
import pytest
from many import finish, start_all

pytestmark = pytest.mark.cluster

# What says who ran, where and when; and the digest, of which a run has one or the other.
_OWN = ("run_name", "created", "timing", "device", "dataset/sha256", "dataset/digest", "config/run_name", "sources")
_SUM = 1e-6  # relative: the contract's for sums, which are added in another order


def write(path, rows, change=lambda x, y: None):
    x, y = helpers.samples(rows)
    change(x, y)
    frame = pl.DataFrame({"x": x, "y": y})
    frame.write_parquet(path) if path.endswith(".parquet") else frame.write_csv(path)


def flat(document, path=""):
    """Return the leaves of a JSON document by their paths."""
    if not isinstance(document, dict | list):
        return {path: document}
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    return {key: leaf for name, item in pairs for key, leaf in flat(item, f"{path}/{name}" if path else name).items()}


def assert_same_run(one, many):
    """Extremes, counts, and all that is not a sum are equal; sums, and what is computed from them, to 1e-6."""
    for a, b in zip(one["tensors"], many["tensors"], strict=True):
        exact = ("name", "shape", "min", "max", "zeros", "nonfinite", "nan", "posinf", "neginf", "histogram")
        if a["name"] == "loss":
            exact = ("name", "shape", "zeros", "nonfinite")
        assert [a.get(key) for key in exact] == [b.get(key) for key in exact]
    a, b = flat(one), flat(many)
    assert a.keys() - b.keys() <= {"dataset/digest"}
    assert b.keys() - a.keys() <= {"dataset/digest"}
    spreads = {f"tensors/{i}/mean": tensor["std"] for i, tensor in enumerate(one["tensors"])}
    for path in a.keys() & b.keys():
        if path.startswith(_OWN) or (path.startswith("epochs/") and path.endswith("seconds")):
            continue
        if path in ("verification/max_relative_error", "gradients/largest_learning_rate") or "step_ratio" in path:
            continue  # of rounding; found by bisection; a quotient of sums
        if isinstance(a[path], float) and isinstance(b[path], float):
            within = 1e-5 if path.startswith("gradients") else _SUM
            assert a[path] == pytest.approx(b[path], rel=within, abs=within * (spreads.get(path) or 0), nan_ok=True), (
                path
            )
        else:
            assert a[path] == b[path], path
    histories = [pl.read_parquet(f"model/{record['run_name']}/history.parquet") for record in (one, many)]
    assert histories[0].drop("loss").equals(histories[1].drop("loss"))
    losses = [history["loss"].to_numpy() for history in histories]
    np.testing.assert_allclose(*losses, rtol=_SUM)


def spoil(x, y):
    x[17] = np.nan
    x[20:25] = np.inf
    y[3] = np.nan


CASES = {
    "two": ([1, 1], "data.csv", 1003, lambda x, y: None, ("--scaling", "minmax", "--gradients")),
    "two with two devices each": ([2, 2], "data.parquet", 1503, lambda x, y: None, ("--activation", "gelu")),
    "three, and values that are not finite": ([1, 1, 1], "data.csv", 25, spoil, ("--batch-size", 4)),
    "unequal devices, one batch": ([1, 3], "data.csv", 60, lambda x, y: None, ("--batch-size", 100, "--gradients")),
    "fewer batches than processes": ([2, 1, 1], "data.csv", 30, spoil, ("--batch-size", 15)),
}


@pytest.mark.parametrize(("devices", "dataset", "rows", "change", "arguments"), CASES.values(), ids=CASES)
def test_many_processes_are_one(cubic, devices, dataset, rows, change, arguments):
    write(dataset, rows, change)
    Path(".env").write_text("HIDDEN_SIZE=11\n")
    arguments = (*arguments, "--dataset", dataset, "--num-samples", "all", "--num-epochs", 3, "--json")
    arguments = (*arguments, "--initializer", "he_normal")
    ended = finish(start_all(devices, *arguments, "--run-name", "many"))
    status, out, one = *cubic("forward", *arguments, "--run-name", "one")[:2], None
    one = json.loads(out)
    assert [ended[process][0] for process in ended] == [status] * len(devices), ended
    assert [out == "" for _, out, _ in ended.values()] == [False] + [True] * (len(devices) - 1)
    many = json.loads(ended[0][1])
    assert json.loads(Path("model/many/run.json").read_text()) == many
    assert sorted(os.listdir("model")) == ["many", "one"]
    assert (many["device"]["processes"], many["device"]["devices"]) == (len(devices), sum(devices))
    assert (many["dataset"]["sha256"], many["dataset"]["digest"]) == (None, one["dataset"]["sha256"])
    assert many["sources"]["hidden_size"] == ".env"
    assert many["verification"]["passed"]
    assert_same_run(one, many)


@pytest.mark.long
def test_many_chunks_and_a_program_for_the_history(cubic):
    write("data.parquet", 1_100_003)
    arguments = ("--dataset", "data.parquet", "--num-samples", "all", "--num-epochs", 30, "--hidden-size", 5, "--json")
    ended = finish(start_all([1, 1], *arguments, "--run-name", "many"))
    assert [status for status, _, _ in ended.values()] == [0, 0], ended
    one = json.loads(cubic("forward", *arguments, "--run-name", "one")[1])
    assert_same_run(one, json.loads(ended[0][1]))


def test_each_generates_the_same_dataset_and_a_proxy_is_not_asked(cubic):
    """gRPC would take JAX's connections through `http_proxy`, where nothing listens."""
    arguments = ("--generate", "--num-dataset", 300, "--num-samples", "all", "--json")
    ended = finish(start_all([1, 1], *arguments, "--run-name", "many", http_proxy="http://127.0.0.1:9"))
    assert [status for status, _, _ in ended.values()] == [0, 0], ended
    one = json.loads(cubic("forward", *arguments, "--run-name", "one")[1])
    assert_same_run(one, json.loads(ended[0][1]))


def test_what_is_refused_is_refused_by_all(cubic):
    write("data.csv", 100)
    ended = finish(start_all([1, 1], "--num-samples", "all", "--fail-on", "explodes"))
    assert [status for status, _, _ in ended.values()] == [1, 1]
    for _, _, err in ended.values():
        assert "the run is saved, but it has a finding that --fail-on names; explodes" in err
    assert cubic("inspect")[0] == 0
