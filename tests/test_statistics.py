import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cubic_cli.statistics import EMPTY, Statistics, merge, merge_all, summarise

LONGEST = 40
VALUES = arrays(np.float32, st.integers(1, LONGEST), elements=st.floats(width=32, allow_subnormal=False))
compiled = jax.jit(summarise, static_argnums=2)


def to_host(seen):
    return Statistics(*(np.asarray(field, np.float64) for field in seen))


def of(values):
    """Summarise values of any number by one compiled program: what stands beyond them is masked, and would show."""
    padded = np.resize(np.array([np.nan, 3e38, np.inf, 0, -3e38], np.float32), LONGEST)
    padded[: len(values)] = values
    return to_host(compiled(padded, np.arange(LONGEST) < len(values), (0,)))


def check(seen, values):
    finite = values[np.isfinite(values)].astype(np.float64)
    assert seen.count == finite.size
    assert seen.nan == np.isnan(values).sum()
    assert seen.posinf == (values == np.inf).sum()
    assert seen.neginf == (values == -np.inf).sum()
    assert seen.zeros == (values == 0).sum()
    if finite.size:
        scale = np.abs(finite).max()
        assert (seen.min, seen.max) == (finite.min(), finite.max())
        # 40 float32 roundings, each 6e-8 of the largest magnitude, at most.
        np.testing.assert_allclose(seen.mean, finite.mean(), atol=3e-6 * scale + 1e-37)
        np.testing.assert_allclose(seen.std, finite.std(), atol=3e-6 * scale + 1e-37)


@given(values=VALUES, cuts=st.lists(st.integers(0, LONGEST), max_size=5), order=st.randoms(use_true_random=False))
def test_any_split_merges_to_the_whole_in_any_order(values, cuts, order):
    """Into any number of parts, empty ones too; and a sum of parts is a part again."""
    parts = [of(part) for part in np.split(values, sorted(min(cut, len(values)) for cut in cuts))] + [EMPTY]
    order.shuffle(parts)
    while len(parts) > 1:
        at = order.randrange(len(parts) - 1)
        parts[at : at + 2] = [merge(parts[at], parts[at + 1])]
    check(parts[0], values)


def test_values_at_the_limits_of_float32_do_not_overflow_the_sums():
    for values in ([2.0**126, 2.0**126], [3.4e38, -3.4e38, 3.4e38], [1e-30, 3e-30], [0.0, 0.0]):
        check(of(np.array(values, np.float32)), np.array(values, np.float32))


def test_merge_all_is_the_whole():
    values = np.random.default_rng(1).normal(5, 2, (37, 11)).astype(np.float32)
    seen = merge_all(to_host(summarise(values, np.ones(values.shape, bool), (1,))))
    check(seen, values.reshape(-1))


def test_what_is_masked_is_not_seen():
    values = np.array([1.0, np.nan, 0.0, 3.0], np.float32)
    seen = summarise(values, np.array([True, False, False, True]), (0,))
    assert (int(seen.count), int(seen.nan), int(seen.zeros), float(seen.mean)) == (2, 0, 0, 2.0)


@pytest.mark.parametrize("offset", [0.0, 3e3, 1e6, -1e7])
def test_a_float32_mean_far_from_zero_is_right_to_its_last_digit(offset):
    """A mean rounded once, 2⁻²⁴ of itself, but for the rounding of the mean deviation: a sum over n is off by more."""
    values = (offset + np.random.default_rng(1).uniform(0, 1000, (20_000, 64))).astype(np.float32)
    seen = to_host(jax.jit(summarise, static_argnums=2)(values, True, 0))
    exact = values.astype(np.float64)
    mean, std, largest = exact.mean(axis=0), exact.std(axis=0), abs(exact).max()
    assert (abs(seen.mean - mean) <= 2.0**-24 * (abs(mean) + 4 * std)).all()
    assert (abs(seen.std - std) <= 4 * 2.0**-24 * (std + largest)).all()


def test_a_mean_that_no_number_holds_does_not_widen_the_spread():
    """2²⁴ and 2²⁴ + 2 lie 1 from their mean, which float32 rounds to one of them; so do 2⁵³ and 2⁵³ + 2 in float64."""
    assert to_host(jax.jit(summarise)(np.float32([2.0**24, 2.0**24 + 2]))).std == 1
    assert summarise(np.array([2.0**53, 2.0**53 + 2])).std == 1


def test_a_merged_mean_lies_within_the_range():
    """One value beside 10¹⁷ of another weighs nothing, and their difference is rounded all the same."""
    one, many = summarise(np.array([0.8545842348534083])), summarise(np.array([-0.4889690638420449]))
    merged = merge(one, many._replace(count=10**17))
    assert merged.min <= merged.mean <= merged.max
