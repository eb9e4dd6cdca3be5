"""What XLA is given for a GPU and a TPU, which needs neither: JAX lowers for platforms that are not there."""

import re

import jax
import numpy as np
import pytest
from helpers import B, H, N
from jax.sharding import NamedSharding, PartitionSpec

from cubic_cli.config import Activation
from cubic_cli.engine import gradients, passes
from cubic_cli.engine.layout import GPU, lay_out, lay_out_plain
from cubic_cli.engine.passes import HISTORY, MOMENTS, PLAIN
from cubic_cli.parameters import Parameters, shapes

PLATFORMS = ("cuda", "tpu")
# What is slow there, or is not XLA's own: it may be there on one platform and not on another.
NOT_WANTED = {"custom_call", "gather", "scatter", "sort", "rng_bit_generator", "send", "recv", "infeed", "outfeed"}


def lower(function, arguments, options=None):
    return function.trace(*arguments).lower(lowering_platforms=PLATFORMS).as_text()


def lower_pass(monkeypatch, how, activation, devices):
    """Return what XLA is given of a schedule, as an accelerator is given it, on so many devices."""
    monkeypatch.setattr(passes, "compile_ahead", lower)
    layout = lay_out_plain(N, B, devices, N) if how is PLAIN else lay_out(N, B, devices, GPU.block)
    text, _ = passes._compile.__wrapped__(
        how, activation, GPU, layout, 2 * GPU.unroll + 1, tuple(jax.devices()[:devices])
    )
    return text


def lower_gradients(activation, devices):
    run, over = gradients._compile(activation, tuple(jax.devices()[:devices]))
    everywhere = NamedSharding(over.mesh, PartitionSpec())
    parameters = Parameters(*(jax.ShapeDtypeStruct(shape, np.float32, sharding=everywhere) for shape in shapes(H)))
    column = jax.ShapeDtypeStruct((devices, 2, B), np.float32, sharding=over)
    return lower(run, (parameters, column, column, column))


@pytest.mark.parametrize("activation", Activation)
def test_an_accelerator_is_given_nothing_that_is_slow_there(monkeypatch, activation):
    """No callback to the host, no sorting, nothing of 64 bits: a GPU is slow at them, and a TPU has none."""
    texts = [lower_pass(monkeypatch, how, activation, 2) for how in (MOMENTS, PLAIN)]
    texts.append(lower_gradients(activation, 2))
    for text in texts:
        assert set(re.findall(r"stablehlo\.(\w+)", text)) & NOT_WANTED == set()
        assert re.findall(r"tensor<(?:\d+x)*(?:f|u?i)64>", text) == []


def test_the_history_of_an_accelerator_is_a_scan_and_nothing_else_that_loops(monkeypatch):
    text = lower_pass(monkeypatch, HISTORY, Activation.relu, 1)
    assert text.count("stablehlo.while") == 1
