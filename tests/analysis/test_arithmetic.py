import math

import numpy as np
import pytest
from helpers import parameters as made

from cubic_cli.analysis.row import write_out
from cubic_cli.config import Activation


def ones(hidden):
    return made(np.ones(hidden), 1, 1, 1)


def drawn(hidden):
    rng = np.random.default_rng(0)
    w1, b1, w2 = rng.normal(size=(3, hidden))  # the biases are not zero either
    return made(w1, b1, w2, rng.normal())


def test_units_that_are_alike_are_one_group():
    found = write_out(ones(64), Activation.relu, 13.5, 100.0)
    assert (found.units.tolist(), found.sizes.tolist()) == ([1], [64])
    assert (found.z1.tolist(), found.a1.tolist(), found.z2) == ([14.5], [14.5], 64 * 14.5 + 1)
    assert (found.error, found.square) == (829.0, 829.0**2)
    assert found.relative_error == 0
    # 2e = 1658; each unit's slope is 1, and its weights are 1.
    assert [g if isinstance(g, float) else g.tolist() for g in found.gradients] == [
        [1658 * 13.5], [1658.0], [1658 * 14.5], 1658.0
    ]  # fmt: skip


@pytest.mark.parametrize("activation", Activation)
def test_sums_and_gradients_are_those_of_plain_loops(activation):
    parameters, x, y = drawn(7), 0.75, -0.5

    def answer(w1, b1, w2, b2):
        total = float(b2[0])
        for unit in range(7):
            z = x * float(w1[0, unit]) + float(b1[unit])
            total += ACTIVATIONS[activation](z) * float(w2[unit, 0])
        return total

    found = write_out(parameters, activation, x, y)
    assert found.exact_z2 == pytest.approx(answer(*parameters), rel=1e-12)
    assert found.z2 == pytest.approx(answer(*parameters), rel=1e-5)
    assert 0 < found.relative_error < 1e-6
    assert found.z1[found.group_of] == pytest.approx(x * parameters.w1[0] + parameters.b1, rel=1e-6)
    step = 1e-6
    for name in parameters._fields:
        expected = []
        for index in np.ndindex(getattr(parameters, name).shape):
            squares = []
            for side in (step, -step):
                moved = getattr(parameters, name).astype(np.float64)
                moved[index] += side
                squares.append((answer(*parameters._replace(**{name: moved})) - y) ** 2)
            expected.append((squares[0] - squares[1]) / (2 * step))
        gradient = getattr(found.gradients, name)
        by_unit = [gradient] if name == "b2" else gradient[found.group_of]
        assert by_unit == pytest.approx(expected, rel=1e-5, abs=1e-7), name


ACTIVATIONS = {
    Activation.relu: lambda z: max(z, 0.0),
    Activation.leaky_relu: lambda z: z if z > 0 else z / 100,
    Activation.gelu: lambda z: z / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    Activation.tanh: math.tanh,
    Activation.identity: lambda z: z,
}


def test_the_largest_terms_come_first_and_add_up():
    found = write_out(drawn(100), Activation.tanh, 2.0, 0.0)
    sizes = np.abs(found.terms)
    assert np.all(sizes[:-1] >= sizes[1:])
    assert found.terms.sum() + found.b2 == pytest.approx(found.z2, rel=1e-5)


def test_what_is_not_finite_comes_first():
    parameters = drawn(5)
    parameters.w1[0, 3] = np.nan
    found = write_out(parameters, Activation.relu, 1.0, 0.0)
    assert found.units[0] == 4
    assert math.isnan(found.z2)
    assert found.relative_error == 0


def test_a_million_units_are_quickly_grouped():
    parameters = ones(1_000_000)
    parameters.b1[::2] = 2
    found = write_out(parameters, Activation.relu, 1.0, 0.0)
    assert found.units.tolist() == [1, 2]
    assert found.sizes.tolist() == [500_000, 500_000]
