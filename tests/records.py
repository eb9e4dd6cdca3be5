"""A record made by hand: healthy, fixed in every number and time, and without a finding."""

import copy

import numpy as np

from cubic_cli.analysis import distribution
from cubic_cli.runs.record import Record

_LABELS = {"z1": "Layer 1 pre-activation (z1)", "a1": "Layer 1 activation (a1)"}
_LABELS |= {"z2": "Layer 2 pre-activation (z2)", "loss": "Loss"}


def tensor(name, shape, low, high, mean, std, zeros=0.0):
    spread = distribution.describe(np.linspace(low, high, 1000).astype(np.float32))
    return {
        "name": name, "label": _LABELS[name], "shape": shape, "dtype": "float32", "min": low, "max": high,
        "mean": mean, "std": std, "zeros": zeros, "nonfinite": 0, "nan": 0, "posinf": 0, "neginf": 0,
        "quantiles": spread.quantiles, "histogram": spread.histogram and spread.histogram.model_dump(),
    }  # fmt: skip


def parameter(name, shape, low, high):
    return {
        "name": name, "shape": shape, "dtype": "float32", "count": int(np.prod(shape)),
        "min": low, "max": high, "mean": (low + high) / 2, "std": (high - low) / 4,
    }  # fmt: skip


DOCUMENT = {
    "schema": 1,
    "run_name": "fixed",
    "created": "2026-11-23T08:00:00Z",
    "config": {
        "hidden_size": 64, "batch_size": 10, "num_epochs": 10, "num_samples": 1000, "seed": 0,
        "initializer": "he_normal", "activation": "relu", "scaling": "standard", "dataset": "data.csv",
        "run_name": "fixed", "artifact_dir": "model", "device": "auto", "verify": True, "gradients": False,
        "fail_on": [],
    },
    "sources": {
        "hidden_size": "default", "batch_size": "default", "num_epochs": "default", "num_samples": "default",
        "seed": "default", "initializer": ".env", "activation": "default", "scaling": "environment",
        "dataset": "default", "run_name": "flag", "device": "default", "verify": "default",
    },
    "dataset": {
        "path": "data.csv", "rows": 1000, "sha256": "ab" * 32,
        "x": {"min": -99.5, "max": 99.75, "mean": 0.5, "std": 57.5},
        "y": {"min": -9800.5, "max": 9900.25, "mean": 20.5, "std": 3800.0},
    },
    "device": {"platform": "cpu", "kind": "cpu", "devices": 2, "processes": 1, "matmul_precision": "highest"},
    "versions": {"cubic": "0.1.0", "python": "3.12.1", "jax": "0.10.2", "jaxlib": "0.10.2", "numpy": "2.4.6"},
    "iterations": 1000,
    "epochs": [{"epoch": epoch, "loss": 0.875, "seconds": 0.00125} for epoch in range(1, 11)],
    "loss": 0.875,
    "loss_in_data_units": 12635000.0,
    "tensors": [
        tensor("z1", [10, 64], -5.25, 5.125, 0.01, 1.5),
        tensor("a1", [10, 64], 0.0, 5.125, 0.6, 0.9, 0.4998),
        tensor("z2", [10, 1], -1.5, 2.25, 0.125, 0.75),
        tensor("loss", [1], 0.125, 2.5, 0.875, 0.5),
    ],
    "parameters": [
        parameter("input_layer.weight", [1, 64], -3.0, 2.75),
        parameter("input_layer.bias", [64], -0.5, 0.5),
        parameter("output_layer.weight", [64, 1], -0.5, 0.375),
        parameter("output_layer.bias", [1], 0.0, 0.0),
    ],
    "units": {"count": 64, "distinct": 64, "dead": 0, "always_on": 0, "rank": 12},
    "first_nonfinite": None,
    "gradients": None,
    "findings": [],
    "context": {"target_variance": 1.0, "r_squared": 0.125, "noise_floor": 6.9e-06},
    "verification": {
        "reference": "numpy float64", "batches": 100, "max_relative_error": 1.25e-07, "tolerance": 1e-05,
        "deterministic": True, "passed": True,
    },
    "timing": {"compile_seconds": 0.25, "epoch_seconds": 0.00125, "samples_per_second": 800000.0},
}  # fmt: skip


RECORD = Record.model_validate(DOCUMENT)


def make(**changes):
    """Return the record with changes, as in `units={"dead": 3}` or `config__scaling="none"`; lists are replaced."""
    return Record.model_validate(make_document(**changes))


def make_document(**changes):
    """Return the JSON object of `make`."""
    document = copy.deepcopy(DOCUMENT)
    for key, value in changes.items():
        part, inner = document, key
        while "__" in inner:
            outer, inner = inner.split("__", 1)
            part = part[int(outer) if isinstance(part, list) else outer]
        inner = int(inner) if isinstance(part, list) else inner
        if isinstance(value, dict) and isinstance(part[inner], dict) and "histogram" not in value:
            part[inner].update(value)
        else:
            part[inner] = value
    return document


def losses():
    """Return losses of 100 batches, with one spike."""
    values = (0.875 + 0.5 * np.sin(np.arange(100) / 7)).astype(np.float32)
    values[36] = 2.5
    return values
