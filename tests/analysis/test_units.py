"""The hidden layer, unit by unit: by plain loops, and the rank by NumPy's."""

import helpers
import numpy as np

from cubic_cli.analysis.units import describe_units
from cubic_cli.config import Activation

X = np.array([-2, -1, 0.5, 3], np.float32)
ENDS = X[[0, -1]]
# relu of x, of −x, of x again, of what is never positive, of what always is, and of a constant
NETWORK = helpers.parameters([1, -1, 1, 0, 2, 0], [0, 0, 0, -1, 10, 5], 1, 0)


def test_units_that_are_alike_dead_always_on_or_switch():
    units = [
        [max(float(w) * float(x) + float(b), 0.0) for x in X] for w, b in zip(NETWORK.w1[0], NETWORK.b1, strict=True)
    ]
    found = describe_units(NETWORK, Activation.relu, ENDS, X)
    assert found.count == 6
    assert found.distinct == len(set(map(tuple, units))) == 5
    assert found.dead == sum(not any(unit) for unit in units) == 1
    assert found.always_on == sum(all(unit) for unit in units) == 2
    assert found.switching == 3  # x changes its sign in the first three
    assert found.rank == np.linalg.matrix_rank(np.array(units)) == 3


def test_a_unit_that_is_now_and_then_zero_is_not_dead_and_one_of_nan_neither():
    network = helpers.parameters([1, np.nan], 0, 1, 0)
    assert describe_units(network, Activation.relu, ENDS, X).dead == 0


def test_of_samples_of_which_none_is_finite_nothing_is_known():
    found = describe_units(NETWORK, Activation.relu, ENDS * np.nan, X * np.nan)
    assert (found.count, found.distinct, found.dead, found.rank) == (6, 0, 0, 0)
