import itertools
import json

import jax
import numpy as np
import oracle
import pytest
from helpers import H, N, drawn, near_one, samples
from helpers import parameters as made

from cubic_cli import network
from cubic_cli.config import Activation, Initializer
from cubic_cli.data.source import Arrays
from cubic_cli.engine import gradients
from cubic_cli.parameters import NAMES, Parameters, by_name, from_names
from cubic_cli.reference import gradients as verify_gradients
from cubic_cli.reference import verify
from cubic_cli.reference.network import activate

SMALL = ("--hidden-size", 3)


def filled(value):
    return made([value] * H, value, value, value)


def on_host(parameters):
    return {name: np.asarray(array) for name, array in by_name(parameters).items()}


def loss(values, x, y, activation):
    """The mean squared error in float64, straight from the formulas."""
    x, y = x.astype(np.float64)[:, None], y.astype(np.float64)[:, None]
    a1 = activate(activation, x @ values["input_layer.weight"] + values["input_layer.bias"])
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


def by_hand_of(parameters, x, y, activation):
    return verify_gradients.compute(Parameters(*map(np.asarray, parameters)), x, y, activation)


# Biases that are not zero, so that nothing lies on the bend of a ReLU.
BIASED = drawn(H, 4)._replace(b1=np.linspace(-0.7, 0.9, H, dtype=np.float32))


@pytest.mark.parametrize(
    ("activation", "devices"), [*((kind, 4) for kind in Activation), (Activation.tanh, 1), (Activation.tanh, 3)]
)
def test_gradients_against_differences(activation, devices):
    x, y = near_one(N)
    values = on_host(BIASED)
    expected = by_differences(values, x, y, activation)
    found = gradients.measure(BIASED, Arrays(x, y), activation, jax.devices()[:devices])
    by_hand = verify_gradients.compute(from_names(values), x, y, activation)
    for name, slope in expected.items():
        assert by_name(found)[name].shape == slope.shape
        np.testing.assert_allclose(by_name(by_hand.value)[name], slope, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(by_name(found)[name], slope, rtol=2e-5, atol=1e-5)  # float32 sums of 103 terms
    error, failure = verify_gradients.verify(found, by_hand)
    assert error < 1e-6
    assert failure is None


@pytest.mark.parametrize("activation", Activation)
def test_raw_data_and_every_initialiser_verify(activation):
    x, y = (100 * values for values in near_one(N))
    for initializer in Initializer:
        parameters = network.initialise(initializer, H, 1)
        found = gradients.measure(parameters, Arrays(x, y), activation, jax.devices())
        expected = by_hand_of(parameters, x, y, activation)
        assert verify_gradients.verify(found, expected)[1] is None, initializer


@pytest.mark.parametrize("name", ["input_layer.weight", "input_layer.bias", "output_layer.weight", "output_layer.bias"])
def test_a_wrong_gradient_is_named(name):
    x, y = near_one(N)
    found = gradients.measure(BIASED, Arrays(x, y), Activation.relu, jax.devices())
    expected = by_hand_of(BIASED, x, y, Activation.relu)
    by_name(found)[name].flat[-1] += 1e-4 * np.abs(by_name(expected.value)[name]).max()
    assert verify_gradients.verify(found, expected)[1].quantity == f"gradient of {name}"


def test_blocks_do_not_matter():
    x, y = near_one(N)
    whole = gradients.measure(BIASED, Arrays(x, y), Activation.tanh, jax.devices())
    cut = gradients.Sizes(piece=3, block=7 * H, blocks=2)
    parts = gradients.measure(BIASED, Arrays(x, y), Activation.tanh, jax.devices(), cut)
    for part, gradient in zip(parts, whole, strict=True):
        np.testing.assert_allclose(part, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [300, 5_000])
def test_many_samples_alike_lose_no_digits(count):
    """One after the other in float32, a sum of n numbers alike is off by n/4 roundings: of 5,000 by 7e-5."""
    x, y = np.full(count, 0.3, np.float32), np.full(count, 0.1, np.float32)
    parameters = made(0.7, 0.7, 0.7, 0.7)
    found = gradients.measure(parameters, Arrays(x, y), Activation.relu, jax.devices())
    expected = by_hand_of(parameters, x, y, Activation.relu)
    for name, one, other, rounding in zip(NAMES, found, expected.value, expected.rounding, strict=True):
        # A quarter of 64 roundings, and a few of each sample.
        assert one.item() == pytest.approx(other.item(), rel=24 * 2.0**-24), name
        assert rounding.item() < 1e-5 * other.item(), name


@pytest.mark.parametrize("kind", ["one against all others", "halves"])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_samples_alike_that_cancel_are_no_failure(kind, weight):
    """What is added to a partial sum much larger than itself is rounded one way, and nothing is left of that sum."""
    y = np.zeros(1000)
    y[slice(0, 500) if kind == "halves" else 1] = 1.0
    y = ((y - y.mean()) / y.std()).astype(np.float32)
    parameters = made(np.linspace(0.1, 3, H), 0.1, weight, 0.0)
    for value in (0.7, 1.3, 1.9):
        x = np.full_like(y, value)
        found = gradients.measure(parameters, Arrays(x, y), Activation.tanh, jax.devices())
        expected = by_hand_of(parameters, x, y, Activation.tanh)
        assert verify_gradients.verify(found, expected)[1] is None
        values, bounds = oracle.gradients(parameters, x, y, "tanh")
        for one, right, bound in zip(found, values, bounds, strict=True):
            assert np.all(np.abs(one.ravel() - right) <= 1e-5 * np.abs(right).max() + bound)


def test_infinities_of_both_signs_are_no_warning():
    x = np.repeat(np.float32([1, -1]), 256)
    y = np.repeat(np.float32([np.inf, -np.inf]), 256)
    assert np.isnan(gradients.measure(made(1, 1, 1, 1), Arrays(x, y), Activation.relu, jax.devices()).b2).all()


def test_forward_measures_and_verifies_them(cubic):
    cubic("generate", "--n", 20)
    plain = json.loads(cubic("forward", *SMALL, "--json")[1])
    assert plain["gradients"] is None
    record = json.loads(cubic("forward", *SMALL, "--gradients", "--json")[1])
    assert record["verification"]["passed"]
    measured = record["gradients"]
    assert [row["name"] for row in measured["parameters"]] == [row["name"] for row in record["parameters"]]
    assert 0 < measured["largest_learning_rate"] < 1e-3
    # With ones, every hidden unit has one and the same gradient.
    row = measured["parameters"][1]
    assert row["min"] == row["max"]
    assert abs(row["max"]) == pytest.approx(row["norm"] / np.sqrt(3), rel=1e-6)
    assert row["step_ratio"] == pytest.approx(0.01 * row["norm"] / np.sqrt(3), rel=1e-6)


def test_a_wrong_gradient_makes_forward_fail(cubic, monkeypatch):
    cubic("generate", "--n", 20)
    original = gradients.measure

    def wrong(*arguments):
        found = original(*arguments)
        return found._replace(b1=found.b1 * 1.01)

    monkeypatch.setattr(gradients, "measure", wrong)
    status, _, err = cubic("forward", *SMALL, "--gradients")
    assert status == 1
    assert "gradient of input_layer.bias" in err


def test_gradients_over_a_spread_where_not_every_batch_is_verified(cubic, monkeypatch):
    cubic("generate", "--n", 20)
    monkeypatch.setattr(verify, "MAX_SAMPLES", 10)
    record = json.loads(cubic("forward", *SMALL, "--gradients", "--json")[1])
    assert record["verification"]["batches"] == 1
    assert record["verification"]["passed"]


@pytest.mark.parametrize("activation", Activation)
def test_gradients_of_large_pre_activations_are_verified(activation):
    """Where z³ or z² leaves float32's range, the slope of gelu is 1 or 0, not NaN."""
    parameters = drawn(H, 4)
    x = np.resize(np.array([1e10, -1e10, 1e13, -3e13], np.float32), N)
    y = np.zeros(N, np.float32)
    found = gradients.measure(parameters, Arrays(x, y), activation, jax.devices())
    expected = by_hand_of(parameters, x, y, activation)
    assert expected.told
    assert verify_gradients.verify(found, expected)[1] is None


@pytest.mark.parametrize("name", by_name(Parameters(*range(4))))
def test_three_tolerances_of_the_largest_entry_are_noticed(name):
    x, y = near_one(N)
    expected = by_hand_of(BIASED, x, y, Activation.tanh)
    for sign in (-1, 1):
        found = gradients.measure(BIASED, Arrays(x, y), Activation.tanh, jax.devices())
        by_name(found)[name].flat[0] += sign * 3e-5 * np.abs(by_name(expected.value)[name]).max()
        assert verify_gradients.verify(found, expected)[1].quantity == f"gradient of {name}"


@pytest.mark.parametrize("activation", [Activation.tanh, Activation.gelu])
def test_saturated_activations_verify(activation):
    """Their slope is a small difference of 1 and tanh², which float32 knows to 2⁻²⁴ of 1 alone."""
    x, y = samples(N)
    for seed in range(8):
        parameters = drawn(H, seed)
        found = gradients.measure(parameters, Arrays(x, y), activation, jax.devices())
        _, failure = verify_gradients.verify(found, by_hand_of(parameters, x, y, activation))
        assert failure is None


@pytest.mark.parametrize("activation", Activation)
def test_gradients_where_x_may_be_zero_to_the_device_verify(activation):
    x, y = near_one(N)
    parameters = drawn(H, 4)
    for scale, target in itertools.product((1e-33, 1e-35, 1e-38, 1e-41), (y, (1e36 * y).astype(np.float32))):
        small = (scale * x).astype(np.float32)
        found = gradients.measure(parameters, Arrays(small, target), activation, jax.devices())
        expected = by_hand_of(parameters, small, target, activation)
        assert verify_gradients.verify(found, expected)[1] is None, scale


@pytest.mark.parametrize("activation", Activation)
def test_gradients_of_targets_near_the_end_of_float32_verify(activation):
    """2 (z2 − y) overflows, and times a slope of 0 it is NaN."""
    parameters = drawn(H, 4)
    for x in (1.8e19, 1.0):
        column, y = np.full(N, x, np.float32), np.full(N, 3e38, np.float32)
        found = gradients.measure(parameters, Arrays(column, y), activation, jax.devices())
        expected = by_hand_of(parameters, column, y, activation)
        assert expected.told
        assert verify_gradients.verify(found, expected)[1] is None


def test_gradients_of_errors_near_the_end_of_float32():
    """2 (z2 − y) is beyond float32 and times a slope of 0 no number; the gradient of b2 is its mean all the same."""
    x, y = (np.resize(np.array(a, np.float32), N) for a in ([1, 2, 3, 4], [3e38, -2e38, 3e38, 1]))
    parameters = filled(0.0)
    found = gradients.measure(parameters, Arrays(x, y), Activation.relu, jax.devices())
    assert found.b2 == pytest.approx(-2 * y.astype(np.float64).mean(), rel=1e-6)
    assert not any(gradient.any() for gradient in found[:3])


@pytest.mark.parametrize("large", [1e31, 1e34, 1e37])
def test_gradients_of_large_targets_and_small_samples_verify(large):
    """The products are of unit size: a scale that keeps errors in range must not make terms of them vanish."""
    x, y = near_one(N)
    x, y = x / np.float32(large), y * np.float32(large)
    parameters = drawn(H, 4)
    found = gradients.measure(parameters, Arrays(x, y), Activation.identity, jax.devices())
    expected = by_hand_of(parameters, x, y, Activation.identity)
    assert verify_gradients.verify(found, expected)[1] is None
    # x below 2⁻¹²⁶, the smallest tenth of 1e-37, is zero to the device: less than a hundredth of the mean.
    assert found.w1 == pytest.approx(expected.value.w1, rel=1e-2, abs=1e-4 * np.abs(expected.value.w1).max())


def test_gradients_are_measured_whatever_jax_is_told_to_halt_at():
    x = np.resize(np.array([1, np.nan], np.float32), N)
    with jax.debug_nans(True), jax.debug_infs(True):
        found = gradients.measure(filled(1.0), Arrays(x, x), Activation.relu, jax.devices())
    assert np.isnan(found.b2).all()


@pytest.mark.parametrize("x", [0.3, 7.1, 99.9])
def test_gradients_of_samples_that_are_all_alike_verify(x):
    """Then all roundings of a sum over them go one way, and come to N / 4 of them."""
    column, y = np.full(1000, x, np.float32), np.full(1000, -1.7, np.float32)
    for initializer in Initializer:
        parameters = network.initialise(initializer, H, 3)
        found = gradients.measure(parameters, Arrays(column, y), Activation.leaky_relu, jax.devices())
        expected = by_hand_of(parameters, column, y, Activation.leaky_relu)
        assert verify_gradients.verify(found, expected)[1] is None


def test_a_gradient_that_cancels_verifies():
    """Standardised targets add up to zero; a sum that passes one of 14 on its way rounds at that size."""
    x, y = np.ones(N, np.float32), np.linspace(-1e-3, 1e-3, N)
    y[0] = 14
    y = (y - y.mean()).astype(np.float32)
    parameters = filled(0.0)
    found = gradients.measure(parameters, Arrays(x, y), Activation.relu, jax.devices())
    assert verify_gradients.verify(found, by_hand_of(parameters, x, y, Activation.relu))[1] is None


# Sizes of z1, of W2 and of y. r is 2 (z2 − y); a1 is about z1, or 1 of tanh, and so W2 z1 is within float32's range.
FAR = {
    "r W2 overflows, and what it is times x does not": (1.0, 1e30, 0.0, 1e-30),
    "r W2 overflows, and so do all gradients through it": (1.0, 1e37, 0.0, 1.0),
    "r x overflows, and what it is times W2 does not": (1.0, 1e-30, 1e30, 1e30),
    "r a1 overflows": (1e15, 1.0, 1e30, 1.0),
    "r W2 z1 overflows within the slope of gelu": (5.0, 1e36, 1.0, 1.0),
    "errors near float32's end": (1.0, 1.0, 3e38, 1.0),
    "errors near float32's end, and small x": (1.0, 1.0, 3e38, 1e-37),
}


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("name", FAR)
def test_products_that_leave_float32_leave_the_gradients_right(name, activation):
    """Where the forward pass is finite, so is every gradient, in float64; and the verification sees each of them."""
    of_z1, of_w2, of_y, of_x = FAR[name]
    rng = np.random.default_rng(5)
    x, y = (of * rng.uniform(0.5, 1, N) * rng.choice([-1, 1], N) for of in (of_x, of_y))
    x, y = x.astype(np.float32), y.astype(np.float32)
    parameters = drawn(H, 4)
    parameters = made(parameters.w1 * np.float32(of_z1 / of_x), parameters.b1, parameters.w2 * np.float32(of_w2), 0)
    found = gradients.measure(parameters, Arrays(x, y), activation, jax.devices())
    expected = by_hand_of(parameters, x, y, activation)
    assert expected.told
    assert verify_gradients.verify(found, expected)[1] is None
    values, _ = oracle.gradients(parameters, x, y, activation.value)
    for gradient, value in zip(found, values, strict=True):
        np.testing.assert_allclose(gradient.ravel(), value, rtol=1e-4, atol=1e-4 * np.abs(value).max())
    for name, gradient in by_name(found).items():
        if gradient.any():  # those of a saturated tanh are zero, and known to 2⁻²⁴ of 1 alone
            off = by_name(found) | {name: gradient + 1e-3 * np.abs(gradient).max()}
            assert verify_gradients.verify(from_names(off), expected)[1].quantity == f"gradient of {name}"


def test_a_gradient_that_is_no_number_leaves_the_others_as_they_are():
    """Only W1's is, by a sample of x = ∞ whose unit is dead: the others are not looked for among smaller errors."""
    x, y = near_one(N)
    x[7] = np.inf
    parameters = made(-np.ones(H), 40, 1e-30, 0)
    found = gradients.measure(parameters, Arrays(x, y), Activation.relu, jax.devices())
    assert np.isnan(found.w1).all()
    assert found.b2.item() == pytest.approx(-2 * y.astype(float).mean(), rel=1e-5)
    assert found.b1 == pytest.approx(-2e-30 * y.astype(float)[np.isfinite(x)].sum() / N, rel=1e-5)
