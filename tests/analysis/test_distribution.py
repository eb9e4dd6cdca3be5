import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cubic_cli.analysis import distribution
from cubic_cli.config import Activation
from cubic_cli.parameters import from_names

VALUES = arrays(np.float32, st.integers(1, 200), elements=st.floats(width=32))


@given(VALUES)
def test_every_non_zero_value_is_in_the_bin_that_holds_it(values):
    described = distribution.describe(values)
    finite = values[np.isfinite(values)]
    nonzero = finite[finite != 0]
    if not nonzero.size:
        assert described[1:] == (None, None, None)
        return
    edges, counts = described.histogram.edges, described.histogram.counts
    assert all(a < b for a, b in itertools.pairwise(edges))
    assert len(edges) == len(counts) + 1
    low, high = (float(str(end)) for end in (finite.min(), finite.max()))
    if low < high:
        assert len(counts) == 64
        assert (edges[0], edges[-1]) == (low, high)
        # Equal bins, but for the rounding of float64 beside the largest magnitude.
        np.testing.assert_allclose(np.diff(edges), (high - low) / 64, atol=2**-51 * max(-low, high))
    plain = [0] * len(counts)
    for value in nonzero.tolist():
        inside = [k for k in range(len(counts)) if edges[k] <= value < edges[k + 1]]
        plain[inside[0] if inside else 0 if value < edges[0] else -1] += 1
    assert list(counts) == plain


@given(VALUES)
def test_exponents_are_those_of_the_binary_logarithm(values):
    described = distribution.describe(values)
    nonzero = [value for value in values[np.isfinite(values)].tolist() if value]
    if not nonzero:
        assert described.exponents is None
        return
    exponents = described.exponents
    for sign, counts in ((-1, exponents.negative), (1, exponents.positive)):
        for k, count in enumerate(counts):
            low = 2.0 ** (exponents.first + k)
            assert count == sum(low <= sign * value < 2 * low for value in nonzero)
    assert sum(exponents.negative) + sum(exponents.positive) == len(nonzero)
    assert exponents.negative[0] or exponents.positive[0]
    assert exponents.negative[-1] or exponents.positive[-1]
    assert np.float32(described.smallest) == min(np.abs(np.float32(nonzero)))


@given(VALUES)
def test_a_quantile_is_the_smallest_value_that_so_many_do_not_exceed(values):
    quantiles = distribution.describe(values).quantiles
    finite = values[np.isfinite(values)].tolist()
    if not finite:
        return
    for share in (0.01, 0.5, 0.99):
        enough = [v for v in finite if sum(other <= v for other in finite) >= share * len(finite)]
        assert np.float32(quantiles[str(share)]) == min(enough)


def test_the_exact_ends_are_those_of_the_histogram_though_the_spread_ends_before():
    histogram = distribution.describe(np.float32([1, 2, 3]), -1.0, 7.0).histogram
    assert histogram.edges == tuple(np.linspace(-1, 7, 65))
    assert [k for k, count in enumerate(histogram.counts) if count] == [16, 24, 32]


def test_a_constant_has_one_bin_about_it():
    assert distribution.describe(np.full(5, -3, np.float32)).histogram.model_dump() == {
        "edges": (-4.5, -1.5), "counts": (5,),
    }  # fmt: skip


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
    parameters = from_names(values)
    taken = distribution.take_tensors(parameters, Activation.relu, x)
    seen = {name: distribution.describe(array) for name, array in taken.items()}
    for name, entry in seen.items():
        assert 0 < sum(entry.histogram.counts) <= taken[name].size <= 1000
        if name == "a1":
            assert entry.quantiles["0.01"] == 0.0
    z1 = np.float64(x)[:, None] * values["input_layer.weight"] + values["input_layer.bias"]
    assert z1.min() <= seen["z1"].quantiles["0.5"] <= z1.max()
    assert seen["z1"].quantiles["0.5"] == pytest.approx(np.median(z1), abs=0.25 * z1.std())
    z2 = np.maximum(z1, 0) @ values["output_layer.weight"] + 1
    edges = seen["z2"].histogram.edges
    assert z2.min() - 1e-3 <= edges[0] < edges[-1] <= z2.max() + 1e-3 or len(edges) == 2


def test_numbers_that_the_device_took_for_zero_have_a_bin():
    """z1 of one subnormal sample: the host's is not 0, and the exact ends, the device's, are."""
    found = distribution.describe(np.array([-1e-39, -1e-39], np.float32), 0.0, 0.0)
    assert found.histogram.counts == (2,)
    assert found.histogram.edges[0] < 0 < found.histogram.edges[1]
