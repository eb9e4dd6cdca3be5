import contextlib
import os
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubic_cli.data import read as samples
from cubic_cli.data.read import read_chunks, read_samples
from cubic_cli.errors import DatasetError

FLOAT32_END = Fraction(2) ** 128 - Fraction(2) ** 103  # from here on, float32 rounds to infinity


def oracle_number(text):
    """Return the float32 that `text` names, by exact arithmetic; None beyond the grammar or the range."""
    text = text.strip(" \t")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    sign, rest = (text[0], text[1:]) if text[:1] in ("+", "-") else ("+", text)
    if rest.lower() in ("nan", "inf", "infinity"):
        return np.float32(float(sign + rest))
    mantissa, mark, exponent = rest.replace("E", "e").partition("e")
    if exponent[:1] in ("+", "-"):
        exponent_sign, exponent = exponent[0], exponent[1:]
    else:
        exponent_sign = "+"
    whole, _, part = mantissa.partition(".")
    digits = set("0123456789")
    if not set(whole + part + exponent) <= digits or not whole + part or (mark and not exponent):
        return None
    power = int(exponent_sign + (exponent or "0")) - len(part)
    exact = int(whole + part) * Fraction(10) ** max(-400, min(400, power))
    if exact >= FLOAT32_END:
        return None
    with np.errstate(over="ignore"):
        guess = np.minimum(np.float32(float(exact)), np.finfo(np.float32).max)
        near = [np.nextafter(guess, np.float32(way)) for way in (0, np.inf)] + [guess]
    near = [value for value in near if np.isfinite(value)]
    value = min(near, key=lambda v: (abs(Fraction(float(v)) - exact), int(v.view(np.uint32)) & 1))
    return -value if sign == "-" else value


def oracle(raw):
    """Return the samples of a CSV file by its grammar, in plain Python, or the number of the line it is refused at."""
    lines = raw.removeprefix(b"\xef\xbb\xbf").decode("latin-1").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if number == len(lines):
            if line or not rows:
                return number
            return np.array(rows, np.float32)
        fields = line.removesuffix("\r").split(",")
        if number == 1:
            if [f.strip(" \t") for f in fields] not in [[a, b] for a in ("x", '"x"') for b in ("y", '"y"')]:
                return 1
            continue
        values = [oracle_number(field) for field in fields]
        if len(values) != 2 or any(value is None for value in values):
            return number
        rows.append(values)


TOKENS = [
    b" ", b"\t", b'"', b"\r", b"\n", b"\r\n", b",", b"e", b"E", b"+", b"-", b".", b"inf", b"-NaN", b"Infinity", b"_",
    b"0x", b"\0", b"\xef\xbb\xbf", b"\xff", b"1e400", b"e39", b"e-45", b"#", b"\x0b", b"\x0c", b"\xc2\xa0", b"null",
    b"7", b"1,2\n", b'"3"', b" 3 ", b"1_0", b";", b"'",
]  # fmt: skip
NUMBERS = st.one_of(
    st.floats(width=32).map(lambda v: str(np.float32(v))),
    st.floats().map(repr),
    st.sampled_from(["1.", ".5", "+3", "1e-46", "3.4028235677973366e38", "3.40282356779733e38", "16777217", "-0.0"]),
)


@st.composite
def files(draw):
    rows = draw(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12))
    raw = "".join(f"{line[0]},{line[1]}\n" for line in [("x", "y"), *rows]).encode()
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.sampled_from([b"", *TOKENS])) + raw[at + draw(st.integers(0, 2)) :]
    return raw


@settings(deadline=None, max_examples=250)
@given(raw=files(), block=st.sampled_from([200, 1 << 23]), rows=st.integers(1, 9))
def test_a_csv_file_is_read_as_its_grammar_says_or_refused_at_its_line(raw, block, rows):
    path = Path("data.csv")
    path.write_bytes(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "_BLOCK", block)
        expected = oracle(raw)
        if isinstance(expected, int):
            with pytest.raises(DatasetError) as caught:
                list(read_chunks(path, None, rows))
            said = str(caught.value)
            assert f"line {expected}:" in said or "no samples" in said or not raw
            return
        chunks = list(read_chunks(path, None, rows))
    assert [len(x) for x, _ in chunks[:-1]] == [rows] * (len(chunks) - 1)
    found = np.concatenate([np.stack(chunk, axis=1) for chunk in chunks])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found)[found == 0], np.signbit(expected)[found == 0])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("rows", [1, 7, 100, 1000, 5000])
def test_chunks_have_the_size_asked_for_and_the_order_of_the_file(suffix, rows, monkeypatch):
    monkeypatch.setattr(samples, "_BLOCK", 1000)
    x = np.arange(1003, dtype=np.float32)
    frame = pl.DataFrame({"x": x, "y": -x})
    path = Path(f"data.{suffix}")
    frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path, row_group_size=10)
    for n in (None, 1, 998, 1003):
        chunks = list(read_chunks(path, n, rows))
        used = n or 1003
        assert [len(c) for c, _ in chunks] == [rows] * (used // rows) + ([used % rows] if used % rows else [])
        np.testing.assert_array_equal(np.concatenate([c for c, _ in chunks]), x[:used])
        np.testing.assert_array_equal(np.concatenate([c for _, c in chunks]), -x[:used])
    with pytest.raises(DatasetError, match="1,003 rows"):
        read_samples(path, 1004)


FLOATS = st.lists(st.floats(width=32), min_size=1, max_size=30)


@settings(deadline=None, max_examples=60)
@given(values=FLOATS, suffix=st.sampled_from(["csv", "parquet"]))
def test_what_is_written_reads_back_exactly(values, suffix):
    from cubic_cli.data.generate import write

    x = np.array(values, np.float32)
    path = Path(f"data.{suffix}")
    write(path, iter([pl.DataFrame({"x": x, "y": x[::-1]})]))
    for found, wanted in zip(read_samples(path, None), (x, x[::-1]), strict=True):
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(np.signbit(found)[~np.isnan(wanted)], np.signbit(wanted)[~np.isnan(wanted)])


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"\x1f\x8b\x08\x00junk", "gzip"),
        (b"\x00\x01\x02\xff\n\x00", "line 1"),
        (b"\xff\xfex\x00,\x00y\x00\n\x00", "line 1"),
        (b"y,x\n1,2\n", "expected the header x,y"),
        (b"x,y,z\n1,2,3\n", "expected the header x,y"),
        (b"x,y", "line 1"),
        (b"x,y\n1,2\n3.5,-1", "line 3: found '3.5,-1'; the line has no end"),
        (b"x,y\n1,2\n\n", "line 3"),
        (b"x,y\n1,2\n \n", "line 3"),
        (b"x,y\n1,2\r3,4\n", "line 2"),
        (b"x,y\n1e39,2\n", "'1e39' is outside the range of float32"),
        (b'x,y\n"1,5","2"\n', "line 2"),
    ],
)  # fmt: skip
def test_what_is_refused(raw, said):
    path = Path("data.csv")
    path.write_bytes(raw)
    with pytest.raises(DatasetError, match=said):
        read_samples(path, None)


def test_blanks_quotes_and_foreign_line_ends_are_read():
    path = Path("data.csv")
    path.write_bytes(b'\xef\xbb\xbf"x", y\r\n 1.5 ,\t"2e1"\r\n"nan",-inf\r\n')
    x, y = read_samples(path, None)
    np.testing.assert_array_equal(x, [1.5, np.nan])
    np.testing.assert_array_equal(y, [20, -np.inf])


def test_the_line_is_right_beyond_the_first_block(monkeypatch):
    monkeypatch.setattr(samples, "_BLOCK", 100)
    path = Path("data.csv")
    path.write_text("x,y\n" + "1.25,2\n" * 1000 + "1,1e99\n" + "1.25,2\n" * 1000)
    with pytest.raises(DatasetError, match="line 1002"):
        read_samples(path, None)
    assert len(read_samples(path, 1000)[0]) == 1000


def test_a_huge_line_is_refused_without_reading_it():
    path = Path("data.csv")
    with path.open("wb") as stream:
        stream.write(b"x,y\n")
        stream.truncate(1 << 30)  # a hole: a line of zero bytes
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"line 2: .* too long"):
        read_samples(path, None)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (pl.DataFrame({"x": [1.0], "y": [2.0]}), "Float64"),
        (pl.DataFrame({"x": [1], "y": ["a"]}), "String"),
        (pl.DataFrame({"y": [1.0], "x": [2.0]}, schema_overrides={"x": pl.Float32, "y": pl.Float32}), "in this order"),
        (pl.DataFrame({"x": [1.0, 2.0], "y": [2.0, None]}, schema=samples.SCHEMA), "row 2: y is null"),
        (pl.DataFrame({"x": [], "y": []}, schema=samples.SCHEMA), "no samples"),
    ],
)  # fmt: skip
def test_parquet_files_that_are_refused(frame, said):
    path = Path("data.parquet")
    frame.write_parquet(path)
    with pytest.raises(DatasetError, match=said):
        read_samples(path, None)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_damaged_parquet_file_is_refused_or_read(data):
    path = Path("data.parquet")
    pl.DataFrame({"x": np.arange(50, dtype=np.float32), "y": np.ones(50, np.float32)}).write_parquet(path)
    raw = path.read_bytes()
    at = data.draw(st.integers(0, len(raw) - 1))
    path.write_bytes(raw[:at] + data.draw(st.binary(max_size=4)) + raw[at + data.draw(st.integers(0, 3)) :])
    with contextlib.suppress(DatasetError):
        assert len(read_samples(path, None)[0])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_that_changes_while_it_is_read_is_refused(suffix):
    path = Path(f"data.{suffix}")
    frame = pl.DataFrame({"x": np.ones(100, np.float32), "y": np.ones(100, np.float32)})
    frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    chunks = read_chunks(path, None, 10)
    next(chunks)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DatasetError, match="changed while it was read"):
        list(chunks)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(suffix):
    for name, value in (("data", 1), ("other", 2)):
        frame = pl.DataFrame({"x": np.full(1000, value, np.float32), "y": np.ones(1000, np.float32)})
        path = Path(f"{name}.{suffix}")
        frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path, row_group_size=10)
    chunks = read_chunks(Path(f"data.{suffix}"), None, 10)
    next(chunks)
    os.replace(f"other.{suffix}", f"data.{suffix}")
    assert {float(v) for x, _ in chunks for v in x} == {1.0}
