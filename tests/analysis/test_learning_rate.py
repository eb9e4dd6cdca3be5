"""The largest learning rate against closed forms, a scan of steps, and the original program's exact values."""

from pathlib import Path

import numpy as np
import pytest
from helpers import near_one, parameters

from cubic_cli.analysis.learning_rate import largest_learning_rate
from cubic_cli.config import Activation
from cubic_cli.data.source import Arrays
from cubic_cli.parameters import Parameters
from cubic_cli.reference.gradients import compute
from cubic_cli.reference.network import forward

N, H = 203, 5
ORIGINAL = Path(__file__).parents[1] / "original"


def drawn():
    rng = np.random.default_rng(4)
    # Biases that are not zero, so that nothing lies on the bend of a ReLU.
    return parameters(rng.normal(0, 1.4, H), np.linspace(-0.7, 0.9, H), rng.normal(0, 0.6, H), 0)


def alone(b2):
    """Gradients of zeros but for that of b2."""
    return Parameters(np.zeros((1, H)), np.zeros(H), np.zeros((H, 1)), np.array([b2]))


@pytest.mark.parametrize("mean", [1.0, 1e-3, 1e-9])
def test_of_a_constant_answer_it_is_1(mean):
    """With zeros only b2 moves, and its loss is a parabola: (b2 − m)² + c comes back to its height at η = 1.

    However near b2 is to the bottom: the fall of the loss is then far below what a float64 loss can tell.
    """
    y = np.append(np.tile([-1.0, 1.0], 64), mean * 129).astype(np.float32)
    slopes = alone(-2 * y.astype(np.float64).mean())
    rate = largest_learning_rate(parameters([0.0] * H, 0, 0, 0), slopes, Arrays(0 * y, y), Activation.relu)
    assert rate == pytest.approx(1.0, rel=1e-6)  # searched to 1e-7; y sums to rounding


@pytest.mark.parametrize("activation", list(Activation))
def test_no_step_below_it_raises_the_loss(activation):
    x, y = near_one(N)
    start = drawn()
    slopes = compute(start, x, y, activation).value
    rate = largest_learning_rate(start, slopes, Arrays(x, y), activation)

    def after(step):
        moved = Parameters(*(value - step * slope for value, slope in zip(start, slopes, strict=True)))
        return np.mean((forward(moved, x, activation)[2] - y) ** 2)

    assert all(after(step) <= after(0.0) for step in np.linspace(0, rate, 500))
    assert after(rate * (1 + 1e-6)) > after(0.0)


@pytest.mark.parametrize("activation", list(Activation))
def test_among_all_samples_it_is_as_exact_as_among_some(activation):
    """The search begins among a spread of the samples, whose own rate is another."""
    x, y = np.tile(near_one(N), 10)
    x[::7] *= 1.5
    slopes = compute(drawn(), x, y, activation).value
    expected = largest_learning_rate(drawn(), slopes, Arrays(x, y), activation)
    found = largest_learning_rate(drawn(), slopes, Arrays(x, y), activation, search_values=1)
    assert found == pytest.approx(expected, rel=3e-7)


def test_there_is_none_without_a_way_down():
    """As of gradients that are zero, that lead up, as one may that is all rounding, or that are not finite."""
    x, y = near_one(N)
    zeros = parameters([0.0] * H, 0, 0, 0)
    for slope in (0.0, 2e-3 * np.sign(y.mean()), np.inf, np.nan):
        assert largest_learning_rate(zeros, alone(slope), Arrays(x, y), Activation.relu) is None
    x[3] = np.nan
    assert largest_learning_rate(zeros, alone(1.0), Arrays(x, np.inf * y), Activation.relu) is None


SCALED = {
    "none": lambda v: v,
    "minmax": lambda v: ((v - v.min()) / (v.max() - v.min())).astype(np.float32),
    "standard": lambda v: ((v - v.mean(dtype=float)) / v.std(dtype=float)).astype(np.float32),
}


# The rates are those of the original program's first update, computed apart in float64: five digits are promised, and
# the samples, scaled in float32, move the eighth.
@pytest.mark.parametrize(
    ("scaling", "rate"), [("none", 4.9244408e-6), ("standard", 0.032066670), ("minmax", 0.51190651)]
)
def test_the_original_first_step(scaling, rate):
    x, y = np.loadtxt(ORIGINAL / "data.csv", np.float32, delimiter=",", skiprows=1).T
    x, y = (SCALED[scaling](column) for column in (x, y))
    ones = parameters([1.0] * 64, 1, 1, 1)
    slopes = compute(ones, x, y, Activation.relu).value
    found = largest_learning_rate(ones, slopes, Arrays(x, y), Activation.relu)
    assert found == pytest.approx(rate, rel=5e-7)
