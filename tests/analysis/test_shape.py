import numpy as np
import pytest

from cubic_cli.analysis.shape import shape, share, spread
from cubic_cli.runs.record import Exponents, Histogram, Tensor

RNG = np.random.default_rng(0)


def exponents_of(values):
    """By the definition, one value at a time."""
    powers = np.floor(np.log2(np.abs(values))).astype(int)
    first, last = powers.min(), powers.max()
    sides = [[int(np.sum((powers == k) & (np.sign(values) == s))) for k in range(first, last + 1)] for s in (-1, 1)]
    return Exponents(first=int(first), negative=tuple(sides[0]), positive=tuple(sides[1]))


def tensor(values):
    nonzero = values[values != 0]
    counts, edges = np.histogram(nonzero, 64, (values.min(), values.max()))
    return Tensor(
        name="z1", label="z1", shape=(1,), min=values.min(), max=values.max(), mean=0.0, std=1.0,
        zeros=float(np.mean(values == 0)), nonfinite=0, nan=0, posinf=0, neginf=0,
        histogram=Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist())),
        exponents=exponents_of(nonzero),
    )  # fmt: skip


NORMAL = RNG.normal(size=50_000)
UNIFORM = RNG.uniform(-82, 67, 50_000)
LOG_UNIFORM = 10.0 ** RNG.uniform(-6, 3, 50_000)


@pytest.mark.parametrize("values", [NORMAL, UNIFORM, np.maximum(NORMAL, 0)], ids=["normal", "uniform", "relu"])
def test_within_three_decades_bins_are_those_of_numpy(values):
    found = shape(tensor(values))
    assert not found.logarithmic
    (bins,) = found.bins
    counts, edges = np.histogram(values[values != 0], 64, (values.min(), values.max()))
    np.testing.assert_allclose(bins.edges, edges)
    np.testing.assert_allclose(bins.heights, counts / values.size)


def test_a_normal_has_one_hump_and_a_uniform_none():
    heights = shape(tensor(NORMAL)).bins[0].heights
    smooth = np.convolve(heights, np.ones(5) / 5, "valid")
    assert np.sum(np.diff(np.sign(np.diff(smooth[smooth > smooth.max() / 10]))) < 0) <= 3
    heights = shape(tensor(UNIFORM)).bins[0].heights
    assert heights.max() < 1.3 * heights.min()


@pytest.mark.parametrize("sign", [1, -1])
def test_beyond_heights_are_densities_per_decade(sign):
    values = sign * LOG_UNIFORM
    found = shape(tensor(values))
    assert found.logarithmic
    (bins,) = found.bins
    magnitudes = np.sort(np.abs(bins.edges))
    density, _ = np.histogram(np.log10(np.abs(values)), np.log10(magnitudes), density=True)
    np.testing.assert_allclose(bins.heights[::sign], density)
    # A ninth of the values in each of nine decades, but for the bins that the ends cut.
    assert bins.heights[2:-2] == pytest.approx(np.full(len(bins.heights) - 4, 1 / 9), rel=0.2)


def test_both_signs_and_zeros_share_one_whole():
    values = np.concatenate([LOG_UNIFORM, -LOG_UNIFORM, np.zeros(25_000)])
    found = shape(tensor(values))
    assert len(found.bins) == 2
    total = sum(float(np.sum(bins.heights)) for bins in found.bins) * np.log10(2)
    assert total == pytest.approx(0.8)
    assert found.bins[0].edges[-1] == -found.smallest


# Symmetric-log cells, as the axis that tensors share has: most of them finer than a bin of a wide tensor.
CELLS = np.sinh(np.linspace(-1, 1, 42) * np.arcsinh(1e4))


@pytest.mark.parametrize(
    "values",
    [NORMAL, UNIFORM, LOG_UNIFORM, -LOG_UNIFORM, np.maximum(NORMAL, 0), 64 * np.abs(UNIFORM) + 1],
    ids=["normal", "uniform", "log-uniform", "negative", "relu", "beyond 1"],
)
def test_shares_of_cells_are_those_of_numpy(values):
    found = share(tensor(values), CELLS)
    nonzero = values[values != 0]
    expected = np.histogram(nonzero, CELLS)[0] / nonzero.size
    assert found.sum() == pytest.approx(1)
    # An edge within a bin parts what is in it by interpolation, so that some of the bin may be next door: of a normal's
    # 64 bins the fullest has 5 %.
    np.testing.assert_allclose(found, expected, atol=0.02)
    np.testing.assert_allclose(np.cumsum(found), np.cumsum(expected), atol=0.02)


def test_a_constant_is_in_one_cell_and_what_is_unknown_has_no_shares():
    assert np.flatnonzero(share(tensor(np.full(9, 5.0)), CELLS)).tolist() == [np.searchsorted(CELLS, 5.0) - 1]
    assert share(tensor(NORMAL).model_copy(update={"histogram": None}), CELLS) is None


def test_the_shares_of_schema_1_leave_the_zeros_out():
    values = np.maximum(NORMAL, 0)
    counts, edges = np.histogram(values, 64)
    bins = Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))
    old = tensor(values).model_copy(update={"exponents": None, "histogram": bins})
    cells = np.array([-1.0, 0.0, 1.0, 5.0])
    expected = np.histogram(values[values > 0], cells)[0] / np.sum(values > 0)
    np.testing.assert_allclose(share(old, cells), expected, atol=0.02)


@pytest.mark.parametrize("values", [NORMAL, UNIFORM, LOG_UNIFORM], ids=["normal", "uniform", "log-uniform"])
def test_the_spread_is_that_of_the_magnitudes(values):
    low, high = np.quantile(np.abs(values), [0.01, 0.99])
    # The last bin is an octave wide, 0.3 decades, and a normal's 99 % lies far from where a straight line has it.
    assert spread(exponents_of(values)) == pytest.approx(np.log10(high / low), abs=0.2)


def test_without_a_value_there_is_no_shape():
    empty = tensor(NORMAL).model_copy(update={"histogram": None})
    assert shape(empty) is None
    nothing = empty.model_copy(update={"histogram": Histogram(edges=(0.0, 1.0), counts=(0,))})
    assert shape(nothing) is None


def test_bins_of_schema_1_have_many_widths_and_hold_the_zeros():
    values = np.maximum(NORMAL, 0)
    edges = np.unique(np.concatenate([[0], np.geomspace(1e-3, values.max(), 30)]))
    counts, _ = np.histogram(values, edges)
    old = tensor(values).model_copy(
        update={"exponents": None, "histogram": Histogram(edges=tuple(edges), counts=tuple(counts.tolist()))}
    )
    (bins,) = shape(old).bins
    density, _ = np.histogram(values[values > 0], edges, density=True)
    expected = density * np.mean(values > 0) * (edges[-1] / len(counts))
    np.testing.assert_allclose(bins.heights, expected, atol=1e-3)
