import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cubic_cli.statistics import EMPTY, merge, merge_all, summarise, to_host

VALUES = arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_subnormal=False))


def of(values):
    return to_host(summarise(values, np.ones(values.shape, bool), (0,)))


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


@settings(deadline=None, max_examples=60)
@given(VALUES, st.data())
def test_any_split_merges_to_the_whole(values, data):
    cut = data.draw(st.integers(0, len(values)))
    parts = [of(part) for part in (values[:cut], values[cut:]) if len(part)]
    merged = EMPTY
    for part in parts:
        merged = merge(merged, part)
    check(merged, values)
    check(merge(of(values), EMPTY), values)


def test_values_at_the_limits_of_float32_do_not_overflow_the_sums():
    for values in ([2.0**126, 2.0**126], [3.4e38, -3.4e38, 3.4e38], [1e-30, 3e-30], [0.0, 0.0]):
        check(of(np.array(values, np.float32)), np.array(values, np.float32))


def test_merge_all_is_the_whole():
    values = np.random.default_rng(1).normal(5, 2, (37, 11)).astype(np.float32)
    seen = merge_all(summarise(values, np.ones(values.shape, bool), (1,)))
    check(seen, values.reshape(-1))


def test_what_is_masked_is_not_seen():
    values = np.array([1.0, np.nan, 0.0, 3.0], np.float32)
    seen = summarise(values, np.array([True, False, False, True]), (0,))
    assert (int(seen.count), int(seen.nan), int(seen.zeros), float(seen.mean)) == (2, 0, 0, 2.0)
