"""What the record says of the data, and what the loss is held against."""

import math

import numpy as np
import pytest

from cubic_cli.analysis.describe import describe_column, describe_context, describe_losses, describe_tensor
from cubic_cli.statistics import summarise

CONTEXTS = {
    "data of the cubic": ((50.0, 200.0, 19.0), 0.75, 19.0),
    "the cubic leaves a tenth": ((50.0, 200.0, 20.0), 0.75, None),
    "no number of the cubic": ((50.0, 200.0, math.nan), 0.75, None),
    "a constant y": ((1.0, 0.0, 0.0), None, None),
    "y of too small a variance": ((0.0, 2.0**-101, 0.0), None, 0.0),
    "an infinite loss": ((math.inf, 200.0, 1.0), None, 1.0),
    "no y is finite": ((math.nan, None, math.nan), None, None),
    "a loss that is no number": ((math.nan, 200.0, 1.0), None, 1.0),
}


@pytest.mark.parametrize("case", CONTEXTS)
def test_what_the_loss_is_held_against(case):
    (loss, variance, noise), r_squared, floor = CONTEXTS[case]
    context = describe_context(loss, variance, noise)
    assert (context.target_variance, context.r_squared, context.noise_floor) == (variance, r_squared, floor)


def test_a_column_is_described_in_float32s_shortest_text():
    column = describe_column(summarise(np.array([0.1, np.nan, -np.inf, 0.3], np.float32)))
    assert (column.min, column.max, column.nan, column.posinf, column.neginf) == (0.1, 0.3, 1, 0, 1)


def test_a_column_without_finite_values_has_no_figures():
    column = describe_column(summarise(np.array([np.nan, np.inf], np.float32)))
    assert all(map(math.isnan, (column.min, column.max, column.mean, column.std)))
    assert (column.nan, column.posinf, column.neginf) == (1, 1, 0)


@pytest.mark.parametrize("value", [0.3, 1.3, 640000064.0, -0.1])
def test_the_mean_of_a_constant_lies_between_its_ends_as_they_are_written(value):
    """0.3 is 0.30000001192… in float32, and its shortest text is 0.3."""
    column = describe_column(summarise(np.full(3, value, np.float32)))
    assert column.min == column.mean == column.max
    assert column.std == 0


def test_losses_of_many_pieces_are_described_as_one():
    losses = np.random.default_rng(0).lognormal(size=300_000).astype(np.float32)
    losses[7], losses[8] = np.nan, 0
    wide = np.delete(losses, 7).astype(np.float64)
    tensor = describe_losses(losses, 30)
    assert (tensor.nan, tensor.nonfinite, tensor.shape, tensor.flops) == (1, 1, (1,), 30)
    assert (tensor.min, np.float32(tensor.max)) == (0, np.float32(wide.max()))
    assert np.float32(tensor.smallest) == np.float32(wide[wide > 0].min())
    assert tensor.mean == pytest.approx(wide.mean(), rel=1e-12)
    assert tensor.std == pytest.approx(wide.std(), rel=1e-12)


def test_zeros_are_a_share_of_all_values_those_that_are_no_number_too():
    values = np.array([0, 1, 2, np.nan], np.float32)
    assert describe_tensor("z1", (1, 4), 8, summarise(values), values).zeros == 1 / 4
