"""Against the figures that the original program, Rust and Burn, printed and saved: independent of any code here.

tests/original: the samples it read, what it printed for each batch, and the parameters it saved.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import parameters

from cubic_cli.config import Activation
from cubic_cli.data.source import Arrays
from cubic_cli.engine import gradients
from cubic_cli.engine.passes import Pass, gather
from cubic_cli.float32 import EXTREMES
from cubic_cli.parameters import Parameters
from cubic_cli.reference import gradients as reference_gradients
from cubic_cli.reference.network import forward

FOLDER = Path(__file__).parents[1] / "original"
ONES = parameters([1.0] * 64, 1, 1, 1)
SCALED = {
    "none": lambda v: v,
    "minmax": lambda v: ((v - v.min()) / (v.max() - v.min())).astype(np.float32),
    "standard": lambda v: ((v - v.mean(dtype=float)) / v.std(dtype=float)).astype(np.float32),
}
# What it printed of its first update, all samples in one batch; all entries of a parameter are alike.
GRADIENTS = {
    "none": (17132.916, 782.135, 17915.057, 3474.723, 9194228),
    "standard": (112.817, 139.033, 251.849, 140.084, 8080.047),
    "minmax": (105.507, 192.082, 297.588, 192.082, 9568.442),
}


def samples(scaling="none"):
    columns = np.loadtxt(FOLDER / "data.csv", np.float32, delimiter=",", skiprows=1).T
    return [SCALED[scaling](column) for column in columns]


def saved(name):
    """The parameters of one of its files; what was not finite was saved as null."""
    given = json.loads((FOLDER / name).read_text())
    return Parameters(*(np.reshape(np.array(v["values"], np.float32), v["shape"]) for v in given.values()))


def see(values, x, y):
    return gather(Pass(values, Arrays(x, y), 10, Activation.relu, jax.devices()).run())


def test_every_batch_has_the_extremes_and_the_loss_that_it_printed():
    """To half a unit of its last decimal or 2e-6; its own losses are off by 1.1e-6 of float64."""
    printed = np.genfromtxt(FOLDER / "rows.csv", delimiter=",", names=True)
    epoch = see(ONES, *samples())
    assert len(printed) == len(epoch.columns["loss"]) == 100
    for name in EXTREMES:
        np.testing.assert_allclose(epoch.columns[name], printed[name], rtol=2e-6, atol=0.5e-3)
    np.testing.assert_allclose(epoch.columns["loss"], printed["loss"], rtol=2e-6)


@pytest.mark.parametrize("scaling", GRADIENTS)
def test_the_gradients_of_its_first_update(scaling):
    """To half a unit of the last decimal it printed, or 2e-6: float32 sums of 1,000 terms."""
    x, y = samples(scaling)
    *slopes, loss = GRADIENTS[scaling]
    measured = gradients.measure(ONES, Arrays(x, y), Activation.relu, jax.devices())
    by_hand = reference_gradients.compute(ONES, x, y, Activation.relu).value
    for found in (measured, by_hand):
        for values, slope in zip(found, slopes, strict=True):
            np.testing.assert_allclose(values, slope, rtol=2e-6, atol=0.5e-3)
    assert see(ONES, x, y).loss == pytest.approx(loss, rel=2e-6)


def test_what_it_had_learned_after_fifty_epochs():
    """Figures in float64 that were computed apart; its 64 units are one, and all are on for every sample."""
    x, y = samples("minmax")
    trained = saved("trained.json")
    z1, a1, z2 = forward(trained, x, Activation.relu)
    assert np.mean((z2 - y) ** 2) == pytest.approx(0.00630386693, rel=1e-7)  # the scaled samples are float32
    assert (z1.min(), z1.max()) == pytest.approx((0.410413, 1.08787), abs=5e-6)  # half a unit of the last digit noted
    assert (z2.min(), z2.max()) == pytest.approx((0.216889, 0.765574), abs=5e-6)
    assert (a1 > 0).all()
    epoch = see(trained, x, y)
    assert epoch.loss == pytest.approx(0.00630386693, rel=2e-6)
    assert 1 - epoch.loss / y.var(dtype=float) == pytest.approx(0.835527, abs=1e-6)
    assert float(epoch.tensors["a1"].zeros) == 0


def test_its_default_explodes_in_three_iterations():
    """At its learning rate of 0.01 and without scaling: 8,053,185, 2.7e17, beyond float32; all is saved as null."""
    x, y = samples()
    losses, moved = [], ONES
    for start in (0, 10, 20):
        batch = x[start : start + 10], y[start : start + 10]
        losses.append(np.mean((forward(moved, batch[0], Activation.relu)[2] - batch[1]) ** 2))
        slopes = reference_gradients.compute(moved, *batch, Activation.relu).value
        moved = Parameters(*(value - 0.01 * slope for value, slope in zip(moved, slopes, strict=True)))
    assert losses[0] == pytest.approx(8053185, rel=2e-6)
    assert losses[1] == pytest.approx(2.7e17, rel=0.02)  # two digits were noted
    assert losses[2] > np.finfo(np.float32).max
    exploded = saved("nonfinite.json")
    assert all(np.isnan(array).all() for array in exploded)
    epoch = see(exploded, x[:20], y[:20])
    assert [int(epoch.tensors[name].nan) for name in ("z1", "a1", "z2")] == [20 * 64, 20 * 64, 20]
