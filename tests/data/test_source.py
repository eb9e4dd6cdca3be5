"""Samples of a run: described as they come, and read again from memory or from a file alike."""

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubic_cli.config import Scaling
from cubic_cli.data.scaling import choose_scale
from cubic_cli.data.source import Arrays, RawFile, Scaled, ingest

CHUNKS = st.lists(st.integers(1, 50), min_size=1, max_size=6)


def chunks(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [tuple(rng.normal(0, 50, (2, n)).astype(np.float32)) for n in lengths]


@given(lengths=CHUNKS, data=st.data())
def test_a_file_of_samples_reads_as_the_arrays_do(lengths, data):
    Path("samples").unlink(missing_ok=True)
    parts = chunks(lengths)
    raw = RawFile(Path("samples"))
    for part in parts:
        raw.append(*part)
    arrays = Arrays(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    start = data.draw(st.integers(0, sum(lengths)))
    stop = data.draw(st.integers(start, sum(lengths)))
    some = np.array(data.draw(st.lists(st.integers(0, sum(lengths) - 1), min_size=1, max_size=9)))
    shift = Scaled(raw, choose_scale(Scaling.none, None), choose_scale(Scaling.none, None))
    assert raw.count == arrays.count == shift.count == sum(lengths)
    for found in (raw, shift):
        np.testing.assert_array_equal(found.read(start, stop), arrays.read(start, stop))
        np.testing.assert_array_equal(found.take(some), arrays.take(some))


@given(lengths=CHUNKS, piece=st.sampled_from([1, 7, 1 << 15]), resident=st.sampled_from([0, 60, 1 << 24]))
def test_samples_are_described_whatever_their_chunks(lengths, piece, resident):
    parts = chunks(lengths)
    Path("spill").unlink(missing_ok=True)
    data = ingest(iter(parts), Path("spill"), resident=resident, piece=piece)
    x, y = (np.concatenate(column) for column in zip(*parts, strict=True))
    assert isinstance(data.source, RawFile) == (len(x) > resident)
    np.testing.assert_array_equal(data.source.read(0, len(x)), [x, y])
    for seen, values in ((data.x, x), (data.y, y)):
        wide = values.astype(np.float64)
        assert (seen.count, seen.min, seen.max) == (len(x), values.min(), values.max())
        # float64 sums of at most 300 values: a few 2⁻⁵³ of the magnitudes.
        assert float(seen.mean) == pytest.approx(wide.mean(), abs=1e-12)
        assert float(seen.std) == pytest.approx(wide.std(), rel=1e-12, abs=1e-12)
    wide = x.astype(np.float64)
    assert data.noise_floor == pytest.approx(np.mean((y - (0.01 * wide**3 - 0.5 * wide + 20)) ** 2), rel=1e-12)
    packed = b"".join(struct.pack("<ff", a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True))
    assert data.sha256 == hashlib.sha256(packed).hexdigest()


def test_what_is_not_finite_is_counted():
    x = np.array([np.nan, np.inf, -np.inf, -np.inf, 7], np.float32)
    data = ingest(iter([(x, x), (x[:1], x[:1])]), Path("spill"))
    assert [int(count) for count in (data.x.nan, data.x.posinf, data.x.neginf, data.x.count)] == [2, 1, 2, 1]
    assert (data.x.min, data.x.max, data.x.mean, data.x.std) == (7, 7, 7, 0)
    assert np.isnan(data.noise_floor)


def test_numbers_at_the_ends_of_float32_overflow_nothing():
    x = np.array([3.4e38, -3.4e38, 1e-45], np.float32)
    data = ingest(iter([(x, x)]), Path("spill"))
    assert float(data.x.std) == pytest.approx(np.std(x.astype(np.float64)))
    assert np.isfinite(data.noise_floor)
