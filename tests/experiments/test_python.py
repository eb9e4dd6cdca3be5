"""`cubic_cli.forward`: what the command line would record, without a trace in the process."""

import dataclasses
import inspect
import os
import signal
import threading
from pathlib import Path

import helpers
import jax
import numpy as np
import pytest
from helpers import B, H, N

import cubic_cli
from cubic_cli.config import ForwardConfig
from cubic_cli.errors import CubicError
from cubic_cli.parameters import by_name
from cubic_cli.runs.record import Config

X, Y = helpers.samples(40)
SMALL = {"hidden_size": 3, "num_epochs": 2}


def test_arrays_give_the_figures_of_the_formulas(capfd, tmp_path):
    run = cubic_cli.forward(X, Y, **SMALL)
    z2 = 3 * np.maximum(X.astype(float) + 1, 0) + 1
    assert run.record["loss"] == pytest.approx(np.mean((z2 - Y) ** 2), rel=1e-6)
    assert (run.folder, run.record["dataset"]["path"], run.record["config"]["dataset"]) == (None, None, None)
    assert (run.record["dataset"]["rows"], run.record["config"]["num_samples"]) == (40, "all")
    assert run.record["verification"]["passed"]
    assert not {"dataset", "num_samples"} & set(run.record["sources"])
    assert run.record["sources"]["hidden_size"] == "argument"
    assert run.history.height == 8
    assert run.parameters["input_layer.bias"].tolist() == [1.0] * 3
    assert "not saved" in repr(run)
    assert "Tensors and parameters" in run._repr_html_()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_dataset_gives_the_run_of_the_command_line(cubic):
    cubic("generate", "--n", 1200)
    assert cubic("forward", "--num-epochs", 2, "--initializer", "he_normal")[0] == 0
    by_hand = cubic_cli.load_run("model/default_run").record
    run = cubic_cli.forward(Path("data.csv"), num_epochs=2, initializer="he_normal", run_name="named")
    assert run.folder == Path("model/named")
    for part in ("loss", "tensors", "dataset", "findings", "units", "samples"):
        assert run.record[part] == by_hand[part], part


def test_parameters_as_arrays():
    network = helpers.parameters([1.0, -0.5, 0.0], [0.5, 1.0, 0.0], [0.25, 2.0, 1.0], 0.125)
    run = cubic_cli.forward([13.5, 2] * 10, [100, 1] * 10, parameters=by_name(network))
    assert run.record["tensors"][2]["max"] == 14 * 0.25 + 0.125
    assert (run.record["config"]["hidden_size"], run.record["config"]["initializer"]) == (3, None)
    assert run.record["parameters_file"]["path"] is None


def test_process_is_as_it_was_in_any_thread(monkeypatch):
    monkeypatch.setenv("HIDDEN_SIZE", "7")
    monkeypatch.setenv("NUM_EPOCHS", "none of ours")
    Path(".env").write_text("BATCH_SIZE=9\n")
    jax.numpy.ones(3).block_until_ready()
    environment, handlers = dict(os.environ), [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    configuration = dict(jax.config.values)
    found = []
    thread = threading.Thread(target=lambda: found.append(cubic_cli.forward(X, Y)))
    thread.start()
    thread.join()
    config = found[0].record["config"]
    assert (config["hidden_size"], config["num_epochs"], config["batch_size"]) == (64, 10, 10)
    assert dict(os.environ) == environment
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert dict(jax.config.values) == configuration


@pytest.mark.parametrize(
    ("arguments", "named", "said"),
    [
        ((X, Y[:-1]), {}, "equally many"),
        ((X,), {}, "y is missing"),
        ((["a"], [1]), {}, "expected numbers"),
        ((np.ma.masked_greater([1.0, 2.0], 1), [1, 2]), {}, "x: some numbers are masked"),
        (([1e39], [1]), {}, "outside the range of float32"),
        (([], []), {}, "at least 1"),
        ((X, Y), {"hidden_size": 0}, "hidden_size: found 0"),
        ((X, Y), {"activation": "rellu"}, "did you mean 'relu'"),
        ((X, Y), {"verify": 1}, "verify: found 1"),
        ((X, Y), {"device": "tpu"}, "tpu"),
        (("gone.csv",), {}, "gone.csv"),
        ((X, Y), {"parameters": {}}, "weight or a bias is missing"),
        ((X, Y), {"run_name": "../up"}, "run_name"),
    ],
    ids=[
        "lengths",
        "no y",
        "text",
        "mask",
        "too large",
        "empty",
        "width",
        "word",
        "no truth",
        "device",
        "file",
        "net",
        "name",
    ],
)
def test_one_error(arguments, named, said):
    with pytest.raises(CubicError, match=said.replace("[", r"\[")):
        cubic_cli.forward(*arguments, **named)


def test_every_setting_is_an_argument_and_stands_in_the_record():
    """All but the dataset, which is x where it is a path, and fail_on, which is for commands."""
    names = [each.name for each in dataclasses.fields(ForwardConfig)]
    assert {"x", "y", *names} - {"dataset", "fail_on"} == set(inspect.signature(cubic_cli.forward).parameters)
    assert set(names) <= set(Config.model_fields)


def test_what_units_do_at_infinite_x_counts():
    """At the finite x all put out 0, and the largest and the smallest x are infinite."""
    x = np.resize(np.array([np.inf, -np.inf, -1.0], np.float32), N)
    run = cubic_cli.forward(x, x, batch_size=B, hidden_size=H, num_epochs=1, activation="tanh")
    assert run.record["units"]["dead"] == 0
    assert "dead_units" not in [finding["id"] for finding in run.record["findings"]]
