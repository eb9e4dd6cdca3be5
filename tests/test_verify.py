import numpy as np
import pytest

from cubic_cli import verify
from cubic_cli.config import Activation


@pytest.fixture
def case():
    rng = np.random.default_rng(5)
    x = rng.uniform(-100, 100, 95).astype(np.float32)
    y = rng.normal(0, 50, 95).astype(np.float32)
    parameters = {
        "input_layer.weight": rng.normal(0, 1, (1, 8)).astype(np.float32),
        "input_layer.bias": rng.normal(0, 1, 8).astype(np.float32),
        "output_layer.weight": rng.normal(0, 1, (8, 1)).astype(np.float32),
        "output_layer.bias": np.ones(1, np.float32),
    }
    reference = verify.compute(parameters, x, y, 10, Activation.relu)
    history = {"loss": reference.loss.astype(np.float32)}
    for name in verify.TENSORS:
        history[f"{name}_min"] = reference.low[name].astype(np.float32)
        history[f"{name}_max"] = reference.high[name].astype(np.float32)
    return reference, history


def test_the_right_figures_pass(case):
    reference, history = case
    result = verify.verify(reference, history, [1.5, 1.5], 8)
    assert result["passed"]
    assert result["batches"] == 10
    assert result["max_relative_error"] < 1e-6


@pytest.mark.parametrize("quantity", ["loss", "z1_min", "z1_max", "a1_max", "z2_min", "z2_max"])
def test_one_wrong_figure_fails_and_is_named(case, quantity):
    reference, history = case
    history[quantity][4] *= np.float32(1.001)
    result = verify.verify(reference, history, [1.5, 1.5], 8)
    assert not result["passed"]
    assert result["failure"]["quantity"] == quantity
    assert result["failure"]["batch"] == 5


def test_epochs_that_differ_fail(case):
    reference, history = case
    result = verify.verify(reference, history, [1.5, 1.5000001], 8)
    assert not result["passed"]
    assert not result["deterministic"]
