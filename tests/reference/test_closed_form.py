import itertools
import math

import jax
import numpy as np
import pytest
from helpers import MANY as N
from helpers import ROWS, H
from scipy.integrate import quad  # of JAX's own dependencies

from cubic_cli.config import Activation, Initializer
from cubic_cli.data.problem import cubic, draw
from cubic_cli.data.source import Arrays
from cubic_cli.engine.passes import Pass, gather
from cubic_cli.float32 import TENSORS
from cubic_cli.network import initialise
from cubic_cli.reference import closed_form
from cubic_cli.reference.closed_form import Expected

SEED = 11
# Beyond so many standard errors a sample contradicts its expectation; by chance that is one test in two million.
STANDARD_ERRORS = 5.0


def errors(found, expected, count=N):
    """The distance of a sample's mean from its expectation, in standard errors."""
    return abs(found - expected.mean) / (expected.deviation / math.sqrt(count))


# --- the closed forms themselves ------------------------------------------------------------------------------------


def test_the_average_of_powers_is_that_of_calculus():
    assert closed_form.average(np.ones_like) == pytest.approx(1, rel=1e-14)
    for power in range(1, 13):
        expected = 0.0 if power % 2 else 100.0**power / (power + 1)
        assert closed_form.average(lambda x: x**power) == pytest.approx(expected, rel=1e-12, abs=1e-10 * 100.0**power)  # noqa: B023


def test_the_loss_of_the_identity_is_the_integral_worked_out_by_hand():
    """H(x + 1) + 1 − 0.01 x³ + 0.5 x − 20 = −c x³ + m x + k, whose square has the even moments 10⁴ⁿ / (2n + 1)."""
    for hidden, noise in ((1, 0.0), (7, 10.0), (64, 3.0)):
        c, m, k = 0.01, hidden + 0.5, hidden - 19.0
        second = c**2 * 1e12 / 7 - 2 * c * m * 1e8 / 5 + m**2 * 1e4 / 3 + k**2
        assert closed_form.loss(Activation.identity, hidden, noise).mean == pytest.approx(second + noise**2, rel=1e-12)


def test_the_mean_of_relu_is_a_triangle():
    """The mean of max(x + 1, 0) over 200 is the area 101² / 2."""
    assert closed_form.values("a1", Activation.relu, 3).mean == pytest.approx(101**2 / 2 / 200, rel=1e-13)
    assert closed_form.values("z1", Activation.relu, 3).deviation == pytest.approx(100 / math.sqrt(3), rel=1e-13)
    assert closed_form.values("z2", Activation.relu, 8).mean == pytest.approx(8 * 101**2 / 2 / 200 + 1, rel=1e-13)


@pytest.mark.parametrize("activation", list(Activation))
def test_the_quadrature_agrees_with_an_adaptive_one(activation):
    """Fourth powers of errors are the roughest that it is given."""

    def powers(function, *exponents):
        return [lambda x, exponent=exponent: function(np.asarray(x)) ** exponent for exponent in exponents]

    def adaptive(integrand):
        panels = itertools.pairwise((-100, -10, -1, 10, 100))
        return sum(quad(integrand, *panel, epsabs=0, epsrel=1e-13, limit=500)[0] for panel in panels) / 200

    z1, a1, z2 = (powers(closed_form.tensor(name, activation, 9), 1, 2) for name in TENSORS)
    predict = closed_form.tensor("z2", activation, 9)
    for integrand in (*z1, *a1, *z2, *powers(lambda x: predict(x) - cubic(x), 2, 4)):
        assert closed_form.average(integrand) == pytest.approx(adaptive(integrand), rel=1e-11)


def test_noise_alone():
    """Without the network's part, the squared error is σ² χ²(1): mean σ², deviation √2 σ²."""
    noise = 50.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_form, "cubic", closed_form.tensor("z2", Activation.tanh, 4))
        assert closed_form.loss(Activation.tanh, 4, noise) == pytest.approx(Expected(noise**2, math.sqrt(2) * noise**2))


@pytest.mark.parametrize("kind", [kind for kind in Initializer if kind not in (Initializer.ones, Initializer.zeros)])
def test_weights_follow_their_distribution(kind):
    fan_in, fan_out = 40, 1000
    drawn = getattr(jax.nn.initializers, kind.value)()(jax.random.key(3), (fan_in, fan_out))
    weight = np.asarray(drawn, np.float64)
    expected, largest = closed_form.weights(kind, fan_in, fan_out)
    squares = np.square(weight)
    assert errors(squares.mean(), expected, weight.size) < STANDARD_ERRORS
    assert squares.std() == pytest.approx(expected.deviation, rel=0.02)
    assert 0.99 * largest < np.abs(weight).max() <= largest * (1 + 1e-6)


# --- runs over samples, held against them ---------------------------------------------------------------------------


def limits(name, activation, hidden, margin=0.0):
    """The range of a tensor for x within ±100 but for a margin: at an end of x, or at gelu's only minimum."""
    x = [-100 + margin, 100 - margin] + [-0.7524614 - 1] * (activation is Activation.gelu)
    found = closed_form.tensor(name, activation, hidden)(np.array(x))
    return found.min(), found.max()


def run(activation, noise, change=lambda p: p):
    ((x, y),) = draw(N, noise, SEED)
    parameters = change(initialise(Initializer.ones, H, 0))
    return gather(Pass(parameters, Arrays(x, y), ROWS, activation, jax.devices()).run())


CASES = [
    (Activation.relu, 10.0),
    (Activation.relu, 0.0),
    (Activation.leaky_relu, 10.0),
    (Activation.identity, 10.0),
    (Activation.gelu, 500.0),
    (Activation.tanh, 1e4),
]


@pytest.mark.parametrize(("activation", "noise"), CASES)
def test_a_run_has_the_loss_the_means_and_the_ranges_that_the_formulas_say(activation, noise):
    epoch = run(activation, noise)
    assert errors(epoch.loss, closed_form.loss(activation, H, noise)) < STANDARD_ERRORS
    for name in TENSORS:
        expected, seen = closed_form.values(name, activation, H), epoch.tensors[name]
        assert errors(float(seen.mean), expected) < STANDARD_ERRORS
        # A standard deviation has a standard error too; for values in a bounded range it is below half of the mean's.
        assert float(seen.std) == pytest.approx(expected.deviation, rel=STANDARD_ERRORS / math.sqrt(N))
        low, high = limits(name, activation, H)
        # Of N samples the nearest to an end of x is 200 / N away on average; 20 times that is one in e²⁰.
        near_low, near_high = limits(name, activation, H, margin=20 * 200 / N)
        rounding = 1e-6 * max(abs(low), abs(high))
        assert low - rounding <= float(seen.min) <= near_low + rounding
        assert near_high - rounding <= float(seen.max) <= high + rounding


@pytest.mark.parametrize("activation", list(Activation))
def test_the_spread_of_the_squared_error(activation):
    """The standard error that these tests stand on: that of the sample itself, in NumPy."""
    ((x, y),) = draw(N, 10.0, SEED)
    predicted = closed_form.tensor("z2", activation, 8)(x.astype(np.float64))
    expected = closed_form.loss(activation, 8, 10.0)
    assert np.square(predicted - y).std() == pytest.approx(expected.deviation, rel=0.02)


# --- they can fail --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: 0.0104 * x**3 - 0.5 * x + 20,
        lambda x: 0.01 * x**3 - 4.0 * x + 20,
        lambda x: 0.01 * x**3 - 0.5 * x + 1020,
        lambda x: 0.01 * x**3 + 0.5 * np.abs(x) * x + 20,
    ],
    ids=["of x³", "of x", "the constant", "a square instead of x"],
)
def test_a_wrong_coefficient_of_the_data_shows(monkeypatch, wrong):
    """As far as the sample can tell: its loss has a standard error of 0.8 %, so the 20 must be off by a thousand."""
    epoch = run(Activation.tanh, 10.0)
    assert errors(epoch.loss, closed_form.loss(Activation.tanh, H, 10.0)) < STANDARD_ERRORS
    monkeypatch.setattr(closed_form, "cubic", wrong)
    assert errors(epoch.loss, closed_form.loss(Activation.tanh, H, 10.0)) > STANDARD_ERRORS


@pytest.mark.parametrize(("noise", "other"), [(1e4, 1.05e4), (1e4, 0.95e4)])
def test_a_wrong_noise_shows(noise, other):
    epoch = run(Activation.relu, noise)
    assert errors(epoch.loss, closed_form.loss(Activation.relu, H, other)) > STANDARD_ERRORS


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p._replace(w2=p.w2 * 1.05),
        lambda p: p._replace(w1=p.w1 * 1.05),
        lambda p: p._replace(b1=p.b1 + 3.0),
    ],
    ids=["W2", "W1", "b1"],
)
def test_a_wrong_parameter_of_the_network_shows(change):
    epoch = run(Activation.relu, 10.0, change)
    found = [errors(epoch.loss, closed_form.loss(Activation.relu, H, 10.0))]
    found += [errors(float(epoch.tensors[n].mean), closed_form.values(n, Activation.relu, H)) for n in TENSORS]
    ends = [abs(float(epoch.tensors[n].max) / limits(n, Activation.relu, H)[1] - 1) for n in TENSORS]
    assert max(found) > STANDARD_ERRORS or max(ends) > 20 * 2 / N


def test_the_cubic_is_that_of_the_contract():
    x = np.array([-100.0, -1.0, 0.0, 2.0, 50.0])
    np.testing.assert_allclose(cubic(x), [-9930.0, 20.49, 20.0, 19.08, 1245.0])
