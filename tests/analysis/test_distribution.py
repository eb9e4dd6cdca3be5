import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cubic_cli.analysis import distribution
from cubic_cli.config import Activation

VALUES = arrays(np.float32, st.integers(1, 200), elements=st.floats(width=32))


@settings(deadline=None, max_examples=200)
@given(VALUES)
def test_every_finite_value_is_in_the_bin_that_holds_it(values):
    described = distribution.describe(values)
    finite = values[np.isfinite(values)]
    if not finite.size:
        assert described == (None, None)
        return
    edges, counts = map(list, (described.histogram.edges, described.histogram.counts))
    edges = np.float32(edges).tolist() if finite.min() < finite.max() else edges
    assert len(edges) == len(counts) + 1 <= distribution.BINS + 1
    assert all(a < b for a, b in itertools.pairwise(edges))
    plain = [0] * len(counts)
    for value in finite.tolist():
        inside = [k for k in range(len(counts)) if edges[k] <= value < edges[k + 1]]
        plain[inside[0] if inside else -1] += 1
        assert inside or value == edges[-1]
    assert counts == plain


@settings(deadline=None, max_examples=100)
@given(VALUES)
def test_a_quantile_is_the_smallest_value_that_so_many_do_not_exceed(values):
    quantiles = distribution.describe(values).quantiles
    finite = values[np.isfinite(values)].tolist()
    if not finite:
        return
    for share in (0.01, 0.5, 0.99):
        enough = [v for v in finite if sum(other <= v for other in finite) >= share * len(finite)]
        assert np.float32(quantiles[str(share)]) == min(enough)


def test_the_edges_are_even_in_asinh_and_wide_where_the_values_are():
    edges = distribution.choose_edges(-10.0, 1000.0)
    steps = np.diff(np.arcsinh(edges))  # the linear part of 1000 is within ±1
    assert len(edges) == 49
    assert (edges[0], edges[-1]) == (-10.0, 1000.0)
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-5)  # edges are float32 numbers


@pytest.mark.parametrize("hidden", [1, 3, 64, 4096])
def test_tensors_of_any_width_look_at_no_more_than_the_limit(hidden, monkeypatch):
    monkeypatch.setattr(distribution, "LIMIT", 1000)
    rng = np.random.default_rng(0)
    values = {
        "input_layer.weight": rng.normal(size=(1, hidden)).astype(np.float32),
        "input_layer.bias": rng.normal(size=hidden).astype(np.float32),
        "output_layer.weight": rng.normal(size=(hidden, 1)).astype(np.float32),
        "output_layer.bias": np.ones(1, np.float32),
    }
    x = np.linspace(-3, 3, 900, dtype=np.float32)
    seen = distribution.of_tensors(values, Activation.relu, x)
    for name, entry in seen.items():
        assert 0 < sum(entry.histogram.counts) <= 1000
        if name == "a1":
            assert entry.quantiles["0.01"] == 0.0
    z1 = np.float64(x)[:, None] * values["input_layer.weight"] + values["input_layer.bias"]
    assert z1.min() <= seen["z1"].quantiles["0.5"] <= z1.max()
    assert seen["z1"].quantiles["0.5"] == pytest.approx(np.median(z1), abs=0.25 * z1.std())
    z2 = np.maximum(z1, 0) @ values["output_layer.weight"] + 1
    edges = seen["z2"].histogram.edges
    assert z2.min() - 1e-3 <= edges[0] < edges[-1] <= z2.max() + 1e-3 or len(edges) == 2


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 40))
def test_a_spread_of_a_stream_is_every_so_many_of_it(sizes, limit):
    stream = np.arange(sum(sizes), dtype=np.float32)
    spread = distribution.Spread()
    earlier, distribution.LIMIT = distribution.LIMIT, limit
    try:
        for part in np.split(stream, np.cumsum(sizes)[:-1]) if sizes else []:
            spread.add(part)
    finally:
        distribution.LIMIT = earlier
    kept = spread.values
    assert len(kept) <= limit
    if len(stream):
        stride = len(stream) if len(kept) == 1 else int(kept[1])
        np.testing.assert_array_equal(kept, stream[::stride])
        assert len(stream) <= limit or len(kept) > limit // 2
