import json

import jax
import numpy as np
import pytest

from cubic_cli import network
from cubic_cli.config import Activation, Initializer
from cubic_cli.data.source import Arrays
from cubic_cli.engine import gradients
from cubic_cli.reference import gradients as verify_gradients
from cubic_cli.reference import verify

N, H = 203, 5


def samples(scale=1.0):
    rng = np.random.default_rng(3)
    return (scale * rng.normal(0, 1, N)).astype(np.float32), (scale * rng.normal(1, 2, N)).astype(np.float32)


def loss(values, x, y, activation):
    """The mean squared error in float64, straight from the formulas."""
    x, y = x.astype(np.float64)[:, None], y.astype(np.float64)[:, None]
    a1 = verify.activate(activation, x @ values["input_layer.weight"] + values["input_layer.bias"])
    return np.mean((a1 @ values["output_layer.weight"] + values["output_layer.bias"] - y) ** 2)


def by_differences(values, x, y, activation):
    """Central differences: a step of 1e-5 leaves an error of about 1e-10 of the loss's third derivative, or 1e-9."""
    values = {name: array.astype(np.float64) for name, array in values.items()}
    slopes = {}
    for name, array in values.items():
        slopes[name] = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = array.copy()
                moved[index] += step
                ends.append(loss(values | {name: moved}, x, y, activation))
            slopes[name][index] = (ends[0] - ends[1]) / 2e-5
    return slopes


@pytest.fixture
def drawn():
    parameters = network.initialise(Initializer.he_normal, H, 4)
    # Biases that are not zero, so that nothing lies on the bend of a ReLU.
    hidden = parameters.input_layer._replace(bias=np.linspace(-0.7, 0.9, H, dtype=np.float32))
    return parameters._replace(input_layer=hidden)


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("devices", [1, 3])
def test_gradients_against_differences(drawn, activation, devices):
    x, y = samples()
    values = network.by_name(drawn)
    expected = by_differences(values, x, y, activation)
    found = gradients.measure(drawn, Arrays(x, y), activation, jax.devices()[:devices])
    by_hand = verify_gradients.compute(values, x, y, activation)
    for name, slope in expected.items():
        assert found[name].shape == slope.shape
        np.testing.assert_allclose(by_hand[name][0], slope, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found[name], slope, rtol=2e-5, atol=1e-5)  # float32 sums of 203 terms
    error, failure = verify_gradients.verify(found, by_hand, 1e-5)
    assert error < 1e-6
    assert failure is None


@pytest.mark.parametrize("initializer", list(Initializer))
@pytest.mark.parametrize("activation", list(Activation))
def test_raw_data_and_every_initialiser_verify(initializer, activation):
    x, y = samples(scale=100.0)
    parameters = network.initialise(initializer, H, 1)
    found = gradients.measure(parameters, Arrays(x, y), activation, jax.devices())
    expected = verify_gradients.compute(network.by_name(parameters), x, y, activation)
    assert verify_gradients.verify(found, expected, 1e-5)[1] is None


@pytest.mark.parametrize("name", ["input_layer.weight", "input_layer.bias", "output_layer.weight", "output_layer.bias"])
def test_a_wrong_gradient_is_named(drawn, name):
    x, y = samples()
    found = gradients.measure(drawn, Arrays(x, y), Activation.relu, jax.devices())
    expected = verify_gradients.compute(network.by_name(drawn), x, y, Activation.relu)
    found[name].flat[-1] += 1e-4 * float(expected[name][1].max())
    assert verify_gradients.verify(found, expected, 1e-5)[1]["quantity"] == f"gradient of {name}"


def test_blocks_do_not_matter(drawn, monkeypatch):
    x, y = samples()
    whole = gradients.measure(drawn, Arrays(x, y), Activation.tanh, jax.devices())
    monkeypatch.setattr(gradients, "_BLOCK_VALUES", 7 * H)
    monkeypatch.setattr(gradients, "_BLOCKS", 2)
    parts = gradients.measure(drawn, Arrays(x, y), Activation.tanh, jax.devices())
    for name, gradient in whole.items():
        np.testing.assert_allclose(parts[name], gradient, rtol=1e-5, atol=1e-6)


def test_the_largest_learning_rate_in_closed_form():
    """With zeros, the loss of a step is mean((−η ∂L/∂b2 − y)²): a parabola that is back where it was at η = 1."""
    x, y = samples()
    values = network.by_name(network.initialise(Initializer.zeros, H, 0))
    slopes = {name: np.zeros(array.shape) for name, array in values.items()}
    slopes["output_layer.bias"][:] = -2 * y.astype(np.float64).mean()
    rate = gradients.largest_learning_rate(values, slopes, x, y, Activation.relu)
    assert rate == pytest.approx(1.0, rel=2e-4)  # bisection to 1e-4


@pytest.mark.parametrize("activation", list(Activation))
def test_no_step_below_the_largest_learning_rate_raises_the_loss(drawn, activation):
    x, y = samples()
    values = network.by_name(drawn)
    slopes = by_differences(values, x, y, activation)
    rate = gradients.largest_learning_rate(values, slopes, x, y, activation)

    def after(step):
        return loss({name: values[name] - step * slopes[name] for name in values}, x, y, activation)

    start = loss(values, x, y, activation)
    assert all(after(step) <= start for step in np.linspace(0, rate, 500))
    assert after(rate * 1.001) > start


def test_no_way_down_and_values_that_are_not_finite():
    x, y = samples()
    values = network.by_name(network.initialise(Initializer.ones, H, 0))
    still = {name: np.zeros(array.shape) for name, array in values.items()}
    assert gradients.largest_learning_rate(values, still, x, y, Activation.relu) is None
    x[3] = np.nan
    parameters = network.initialise(Initializer.ones, H, 0)
    found = gradients.measure(parameters, Arrays(x, y), Activation.relu, jax.devices())
    assert np.isnan(found["output_layer.bias"]).all()
    assert gradients.largest_learning_rate(values, found, x, y, Activation.relu) is None


def test_forward_measures_and_verifies_them(cubic):
    cubic("generate", "--n", 300)
    plain = json.loads(cubic("forward", "--num-samples", 300, "--json")[1])
    assert plain["gradients"] is None
    record = json.loads(cubic("forward", "--num-samples", 300, "--gradients", "--json")[1])
    assert record["verification"]["passed"]
    measured = record["gradients"]
    assert [row["name"] for row in measured["parameters"]] == [row["name"] for row in record["parameters"]]
    assert 0 < measured["largest_learning_rate"] < 1e-3
    # With ones, every hidden unit has one and the same gradient.
    row = measured["parameters"][1]
    assert row["min"] == row["max"] == pytest.approx(row["norm"] / 8, rel=1e-6)
    assert row["step_ratio"] == pytest.approx(0.01 * row["norm"] / 8, rel=1e-6)


def test_a_wrong_gradient_makes_forward_fail(cubic, monkeypatch):
    cubic("generate", "--n", 100)
    original = gradients.measure

    def wrong(*arguments):
        found = original(*arguments)
        found["input_layer.bias"] = found["input_layer.bias"] * 1.01
        return found

    monkeypatch.setattr(gradients, "measure", wrong)
    status, _, err = cubic("forward", "--num-samples", 100, "--gradients")
    assert status == 1
    assert "gradient of input_layer.bias" in err


def test_gradients_over_a_spread_where_not_every_batch_is_verified(cubic, monkeypatch):
    cubic("generate", "--n", 500)
    monkeypatch.setattr(verify, "MAX_SAMPLES", 100)
    record = json.loads(cubic("forward", "--num-samples", "all", "--gradients", "--json")[1])
    assert record["verification"]["batches"] == 10
    assert record["verification"]["passed"]


@pytest.mark.parametrize("mean", [1.0, 1e-3, 1e-9])
def test_the_largest_learning_rate_of_a_constant_answer_is_1(mean):
    """With zeros only b2 moves, and its loss is a parabola: (b2 − m)² + c comes back to its height at η = 1.

    However near b2 is to the bottom: the fall of the loss is then far below what a float64 loss can tell.
    """
    values = network.by_name(network.initialise(Initializer.zeros, H, 0))
    y = np.tile(np.array([-1.0, 1.0], np.float32), 64)
    y = np.append(y, np.float32(mean * 129)).astype(np.float32)
    slopes = {name: np.zeros(array.shape) for name, array in values.items()}
    slopes["output_layer.bias"][:] = -2 * y.astype(np.float64).mean()
    rate = gradients.largest_learning_rate(values, slopes, np.zeros_like(y), y, Activation.relu)
    assert rate == pytest.approx(1.0, rel=1e-3)


def test_a_gradient_that_leads_up_has_no_learning_rate():
    """As one that is all rounding may: null, for 0 would be no step at all."""
    x, y = samples()
    values = network.by_name(network.initialise(Initializer.zeros, H, 0))
    slopes = {name: np.zeros(array.shape) for name, array in values.items()}
    slopes["output_layer.bias"][:] = 2e-3 * np.sign(y.mean())
    assert gradients.largest_learning_rate(values, slopes, x, y, Activation.relu) is None


@pytest.mark.parametrize("activation", list(Activation))
def test_gradients_of_large_pre_activations_are_verified(activation):
    """Where z³ or z² leaves float32's range, the slope of gelu is 1 or 0, not NaN."""
    parameters = network.initialise(Initializer.he_normal, H, 4)
    x = np.array([1e10, -1e10, 1e13, -3e13], np.float32)
    y = np.zeros(4, np.float32)
    found = gradients.measure(parameters, Arrays(x, y), activation, jax.devices()[:1])
    expected = verify_gradients.compute(network.by_name(parameters), x, y, activation)
    for name, (reference, scale) in expected.items():
        assert np.isfinite(scale).all(), name
        np.testing.assert_allclose(found[name], reference, rtol=0, atol=1e-5 * scale.max())


def test_infinite_gradients_have_no_learning_rate():
    x, y = samples()
    values = network.by_name(network.initialise(Initializer.ones, H, 0))
    slopes = {name: np.full(array.shape, np.inf) for name, array in values.items()}
    assert gradients.largest_learning_rate(values, slopes, x, y, Activation.relu) is None
