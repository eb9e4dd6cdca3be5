"""Values that are not finite: counted apart, found where they began, saved, shown; verification bears them."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from helpers import QUICK, B, H, N
from helpers import parameters as make_parameters

from cubic_cli import network
from cubic_cli.analysis import describe as record
from cubic_cli.config import Activation, ForwardConfig
from cubic_cli.data.source import Arrays
from cubic_cli.engine import schedule
from cubic_cli.experiments import run
from cubic_cli.parameters import Parameters, from_names
from cubic_cli.runs.saved import load_history

ONE, X = np.ones(H), np.linspace(-50, 50, N)  # by steps of 100/102
Y = 2 * X


def put(values, index, value):
    values = values.astype(float)
    values[index] = value
    return values


# name: (W1, b1, W2, b2), x, y; under ReLU the first is in (tensor, row, cause)
CASES = {
    "what the loss hides": ((put(ONE, 0, 3e37), ONE, ONE, 0), -np.linspace(1, 50, N), Y, ("z1", 23, "overflow")),
    "z1 overflows": ((put(ONE, 0, 3e37), ONE, ONE, 0), X, Y, ("z1", 1, "overflow")),
    "the bias brings z1 back": ((ONE * 1e37, -ONE * 3e38, ONE * 1e-30, 0), X, Y, ("z1", 1, "overflow")),
    "z2 overflows": ((ONE * 1e30, ONE, put(ONE, 1, 1e9), 0), X, Y, ("z2", 53, "overflow")),
    "only the sum in z2 overflows": ((ONE, ONE, ONE * 2e38, 0), 0 * X, Y, ("z2", 1, "overflow")),
    "only the loss overflows": ((ONE * 1e20, ONE, ONE, 0), X, Y, ("loss", 53, "overflow")),
    "the largest loss that does not": ((ONE, ONE * 0, ONE * 1.5e18 / H, 0), 0 * X + 10, Y, None),
    "NaN in y": ((ONE, ONE, ONE, 0), X, put(Y, 13, np.nan), ("loss", 14, "data")),
    "inf in y": ((ONE, ONE, ONE, 0), X, put(Y, 13, np.inf), ("loss", 14, "data")),
    "-inf in y": ((ONE, ONE, ONE, 0), X, put(Y, 39, -np.inf), ("loss", 40, "data")),
    "NaN in x": ((ONE, ONE, ONE, 0), put(X, 13, np.nan), Y, ("z1", 14, "data")),
    "inf in x": ((ONE, ONE, ONE, 0), put(X, 0, np.inf), Y, ("z1", 1, "data")),
    "-inf in x": ((ONE, ONE, ONE, 0), put(X, 13, -np.inf), Y, ("z1", 14, "data")),
    "overflow before NaN in y": ((put(ONE, 0, 3e37), ONE, ONE, 0), X, put(Y, 0, np.nan), ("z1", 1, "overflow")),
    "NaN in W1": ((put(ONE, 2, np.nan), ONE, ONE, 0), X, Y, ("z1", 1, "parameters")),
    "inf in W2": ((ONE, ONE, put(ONE, 2, np.inf), 0), X, Y, ("z2", 1, "parameters")),
    "NaN in b2": ((ONE, ONE, ONE, np.nan), X, Y, ("z2", 1, "parameters")),
    "large y": ((ONE, ONE, ONE, 0), X, Y * 3e36, ("loss", 1, "overflow")),
    "large x": ((ONE, ONE, ONE, 0), X * 6e36, Y, ("z2", 59, "overflow")),
    "nothing but NaN": ((ONE, ONE, ONE, 0), X * np.nan, Y * np.nan, ("z1", 1, "data")),
    "the smallest numbers": ((ONE * 1e-45, ONE * 0, ONE * 1e-45, 0), X * 1e-44, Y * 1e-45, None),
}


@pytest.fixture
def inject(monkeypatch):
    """Write the dataset of a case, and have its parameters drawn."""

    def prepare(name, by_unit=True):
        (w1, b1, w2, b2), x, y, first = CASES[name]
        with np.errstate(under="ignore"):
            w1, b1, w2, b2, x, y = (np.asarray(a, np.float32) for a in (w1, b1, w2, [b2], x, y))
        parameters = Parameters(*map(jnp.asarray, (w1[None, :], b1, w2[:, None], b2)))
        monkeypatch.setattr(network, "initialise", lambda *_: parameters)
        if not by_unit:
            monkeypatch.setattr(schedule, "MAX_UNITS", 0)
        rows = "".join(f"{a},{b}\n" for a, b in zip(x, y, strict=True))
        Path("data.csv").write_text(f"x,y\n{rows}")
        return (w1, b1, w2, b2), x, y, first

    return prepare


def compute(parameters, x, activation):
    """Return z1, a1 and z2 in plain float32, a sample a row."""
    w1, b1, w2, b2 = parameters
    with np.errstate(all="ignore"):
        z = x[:, None] * w1 + b1
        wide = z.astype(np.float64)
        gelu = 0.5 * wide * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
        a = {
            Activation.relu: np.where(z <= 0, np.float32(0), z),
            Activation.leaky_relu: np.where(z > 0, z, np.float32(0.01) * z),
            Activation.gelu: np.where(z == -np.inf, 0, gelu).astype(np.float32),
            Activation.tanh: np.tanh(z),
            Activation.identity: z,
        }[activation]
        return {"z1": z, "a1": a, "z2": (a * w2).sum(axis=1, dtype=np.float32, keepdims=True) + b2}


WITHIN = [name for name, ((_, _, w2, _), x, y, first) in CASES.items() if first is None or first[0] in ("z1", "z2")]
# Every case by both schedules; where the hidden layer or what follows from it is concerned, with each activation.
RUNS = [(name, Activation.relu, by_unit) for name in CASES for by_unit in (True, False)]
RUNS += [(name, kind, True) for name in WITHIN for kind in Activation if kind is not Activation.relu]
RUNS += [(name, Activation.gelu, False) for name in WITHIN]


@pytest.mark.parametrize(("name", "activation", "by_unit"), RUNS)
def test_counted_found_and_verified(inject, name, activation, by_unit):
    parameters, x, y, first = inject(name, by_unit)
    config = ForwardConfig(hidden_size=H, batch_size=B, num_epochs=2, num_samples=N, activation=activation)
    scratch = Path("scratch")
    scratch.mkdir()
    run.run(config, {}, scratch, run.read(config, scratch))
    text = (scratch / "run.json").read_text()
    written = json.loads(text)
    assert written["verification"]["passed"], written["verification"]
    tensors = compute(parameters, x, activation)
    with np.errstate(all="ignore"):
        squares = np.square(tensors["z2"][:, 0].astype(np.float64) - y)
        losses = np.array([squares[start : start + B].mean() for start in range(0, N, B)]).astype(np.float32)
    tensors["loss"] = losses
    for told in written["tensors"]:
        values = tensors[told["name"]]
        finite = values[np.isfinite(values)]
        counts = (np.isnan(values).sum(), np.isposinf(values).sum(), np.isneginf(values).sum())
        # Whether x·W1 + b1 overflows on its way depends on whether the two are rounded as one; and where gelu
        # underflows to 0, which ∞ makes NaN, depends on how tanh is computed.
        if name != "the bias brings z1 back" and (name, activation) != ("inf in W2", Activation.gelu):
            assert (told["nan"], told["posinf"], told["neginf"]) == counts, told["name"]
            assert (told["min"] is None) == (finite.size == 0)
            if finite.size and told["name"] != "loss":
                scale = max(np.abs(finite.astype(np.float64)).max(), 1e-37)
                assert abs(told["max"] - float(finite.max())) <= 1e-5 * scale
                assert abs(told["min"] - float(finite.min())) <= 1e-5 * scale
        assert told["nonfinite"] == told["nan"] + told["posinf"] + told["neginf"]
    history = load_history(scratch)
    each = sum(t["nonfinite"] for t in written["tensors"])
    assert history["nonfinite"].to_list() == history["nonfinite"].to_list()[: -(-N // B)] * 2
    assert history["nonfinite"].sum() == 2 * each
    found = written["first_nonfinite"]
    assert (found is None) == (each == 0)
    if activation is Activation.relu and (found is not None or name != "the bias brings z1 back"):
        expected = first and dict(zip(("tensor", "row", "cause"), first, strict=True))
        assert found == (expected and {**expected, "epoch": 1, "batch": (expected["row"] - 1) // B + 1})
    assert "NaN" not in text.replace('"NaN"', "")


@pytest.mark.parametrize(
    ("name", "scaling"),
    [
        ("what the loss hides", "none"), ("NaN in W1", "minmax"), ("nothing but NaN", "standard"),
        ("inf in x", "minmax"), ("inf in x", "standard"), ("large y", "none"), ("large y", "standard"),
    ],
)  # fmt: skip
def test_every_command_bears_them(cubic, inject, name, scaling):
    inject(name)
    settings = ("--num-samples", N, "--hidden-size", H, "--num-epochs", 2, "--scaling", scaling, "--gradients")
    status, out, err = cubic("forward", *settings, "--json")
    assert status == 0, err
    first = json.loads(out)
    assert first == json.loads(Path("model/default_run/run.json").read_text())
    for arguments in (
        ("--json",),
        (),
        ("--list",),
        ("--list", "--json"),
        ("--epoch", 1, "--batch", 1),
        ("--epoch", 2, "--batch", 4, "--json"),
        ("--compare", "default_run"),
    ):
        status, _, err = cubic("inspect", *arguments)
        assert status == 0
        assert err in ("", "default_run is the newest run\n")
    status, _, err = cubic("forward", *settings, "--fail-on", "nonfinite")
    assert status == (first["first_nonfinite"] is not None)
    assert status == 0 or "nonfinite: " in err


def test_what_the_loss_hides_is_told_though_the_loss_is_healthy(cubic, inject):
    """One weight of 3e37 and negative x: −∞ in z1, which ReLU turns into 0, and JAX's own checks are silent."""
    inject("what the loss hides")
    status, out, _ = cubic("forward", "--num-samples", N, "--hidden-size", H, "--fail-on", "nonfinite", "--json")
    told = json.loads(out)
    assert status == 1
    assert np.isfinite(told["loss"])
    assert told["verification"]["passed"]
    z1, a1, z2, loss = told["tensors"]
    assert z1["neginf"] == np.count_nonzero(np.linspace(1, 50, N) * 3e37 > 3.4028235e38)
    assert z1["min"] > -3.4028236e38
    assert a1["nonfinite"] == z2["nonfinite"] == loss["nonfinite"] == 0
    assert told["first_nonfinite"]["tensor"] == "z1"
    assert told["findings"][0]["id"] == "nonfinite"


def test_the_row_is_that_of_the_sample_in_the_file(cubic):
    """Row 13 stands in line 14 of a CSV file, under its header."""
    lines = ["x,y", *["1.0,2.0"] * 20]
    lines[13] = "nan,2.0"
    Path("data.csv").write_text("\n".join(lines) + "\n")
    pl.DataFrame({"x": [1.0] * 12 + [np.nan] + [1.0] * 7, "y": [2.0] * 20}).cast(pl.Float32).write_parquet("d.parquet")
    for dataset in ("data.csv", "d.parquet"):
        _, out, _ = cubic("forward", *QUICK, "--json", "--dataset", dataset)
        first = json.loads(out)["first_nonfinite"]
        assert (first["batch"], first["row"], first["cause"]) == (2, 13, "data")


def test_the_row_is_found_in_pieces_of_a_large_batch():
    """Of 4,096 units 512 samples are looked at together."""
    parameters = make_parameters(1, [1] * 4096, 1, 0)
    for row in (0, 511, 512, 1100):
        x, y = np.ones(2400, np.float32), np.ones(2400, np.float32)
        y[row], x[1200 + row] = np.inf, np.nan
        config = ForwardConfig(hidden_size=4096, batch_size=1200)
        found = [record.find_first_nonfinite(batch, parameters, Arrays(x, y), config) for batch in (0, 1)]
        assert [(f.tensor, f.batch, f.row, f.cause) for f in found] == [
            ("loss", 1, row + 1, "data"),
            ("z1", 2, 1200 + row + 1, "data"),
        ]


def test_a_value_just_across_the_limit_is_still_placed():
    """Where the device rounded up to infinity and the host did not, the row is that of the value at the limit."""
    limit = float(np.finfo(np.float32).max)
    values = {
        "input_layer.weight": np.ones((1, 1), np.float32),
        "input_layer.bias": np.zeros(1, np.float32),
        "output_layer.weight": np.zeros((1, 1), np.float32),
        "output_layer.bias": np.zeros(1, np.float32),
    }
    x = np.array([1, 2, limit, 3], np.float32)
    found = record.find_first_nonfinite(
        0, from_names(values), Arrays(x, 0 * x), ForwardConfig(hidden_size=1, batch_size=4)
    )
    assert (found.tensor, found.row, found.cause) == ("z1", 3, "overflow")
