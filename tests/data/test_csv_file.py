"""CSV files: read as their grammar says, or refused with the line; what polars alone would lose is refused."""

import tracemalloc
from pathlib import Path

import csv_reference
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubic_cli.data.read import read_chunks, read_samples
from cubic_cli.errors import DatasetError

TOKENS = [
    b"", b" ", b"\t", b'"', b"\r", b"\n", b"\r\n", b",", b"e", b"+", b"-", b".", b"-NaN", b"Infinity", b"_", b"0x",
    b"\0", b"\xef\xbb\xbf", b"\xff", b"1e400", b"e39", b"e-45", b"#", b"\x0b", b"\xc2\xa0", b"7", b"1,2\n", b" 3 ",
    b"1_0", b";", b'""', b'"a,b"', b'"a\nb"', b'" 1 "', b'"5"" pipe"', b"\n\n", b" \n", b'" , "', b',"',
]  # fmt: skip
NUMBERS = st.one_of(
    st.floats(width=32).map(lambda v: str(np.float32(v))),
    st.floats().map(repr),
    st.integers().map(str),
    st.sampled_from(
        ["1.", ".5", "+3", "1e-46", "3.4028235677973366e38", "3.40282356779733e38", "16777217", "-0.0", "1e39", "inf"]
    ),
    st.just("1.00000005960464477539062500001"),  # beyond the midpoint of two float32 by less than a float64 can tell
)
DRESSED = st.tuples(NUMBERS, st.sampled_from(["{}", "{}", "{}", '"{}"', " {}", "{} ", '\t"{}" ', '" {} "'])).map(
    lambda pair: pair[1].format(pair[0])
)
TEXTS = st.sampled_from(["a", "", "some text", '"a,b"', '"x\ny"', '"5"" p"', "1;2", " b ", '"a\r\nb"', '""', "1,5"])


@st.composite
def files(draw):
    columns = draw(st.permutations(["x", "y", "note", "z"][: draw(st.integers(2, 4))]))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    lines = [columns] + [
        [draw(DRESSED if name in ("x", "y") else TEXTS) for name in columns] for _ in range(draw(st.integers(0, 9)))
    ]
    raw = "".join(",".join(line) + end for line in lines).encode()
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.sampled_from(TOKENS)) + raw[at + draw(st.integers(0, 2)) :]
    return raw


@given(raw=files(), block=st.sampled_from([8, 200, 1 << 23]), n=st.sampled_from([None, 1, 4]))
def test_a_file_is_read_as_the_reference_reads_it_or_refused_at_the_same_line(raw, block, n):
    path = Path("data.csv")
    path.write_bytes(raw)
    expected, line = csv_reference.read_or_line(raw, n)
    if expected is None:
        with pytest.raises(DatasetError) as caught:
            read_samples(path, n, block=block)
        said = str(caught.value)
        assert f"line {line}:" in said or ", line " not in said
        return
    found = np.stack(read_samples(path, n, block=block), axis=1)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found)[found == 0], np.signbit(expected)[found == 0])


def read(raw, columns=("x", "y"), n=None, **block):
    Path("data.csv").write_bytes(raw)
    told = []
    x, y = read_samples(Path("data.csv"), n, columns, told.append, **block)
    return list(zip(x.tolist(), y.tolist(), strict=True)), told


LOST_BY_POLARS = {  # where it reads two columns of these, or gives them no types
    "a long row shifts": (b"x,z,y\n1,2,5,4\n", "line 2: .*4 fields under a header of 3"),
    "a quote inside": (b'x,y,note\n1,2,5" pipe\n3,4,6" pipe\n5,6,ok\n', "line 2: .*a quote stands inside a field"),
    "text after a closing quote": (b'x,y,note\n1,2,ok\n3,4,"a"b\n', "line 3: .*text follows a closing one"),
    "beyond float32": (b"x,y\n1,2\n1e39,2\n", "line 3: .*'1e39' in column 'x' is outside the range of float32"),
    "just beyond float32": (b"x,y\n3.4028236e38,2\n", "line 2: .*outside the range of float32"),
    "forty digits": (b"x,y\n" + b"9" * 40 + b",2\n", "line 2: .*outside the range of float32"),
    "a short row": (b"x,y\n1,2\n3\n", "line 3: .*there is no field for column 'y'"),
    "an empty line": (b"x,y\n1,2\n\n3,4\n", "line 3: .*empty line"),
    "an empty field": (b"x,y\n1,\n", "line 2: .*column 'y' is empty"),
    "carriage returns alone": (b"x,y\r1,2\r3,4\r", r"carriage returns alone; mend it with `tr '\\r' '\\n'`"),
    "a name twice": (b"x,x,y\n1,2,3\n", "line 1: .*column 'x' is there twice"),
    "no header": (b"1,2\n3,4\n", "line 1: found '1,2'; expected a header"),
    "a stray carriage return": (b"x,y\n1\r,2\n", r"line 2: found '1\\r,2'; column 'x' is '1\\r'; .*a carriage return"),
    "two carriage returns": (b"x,y\r\r\n1,2\r\r\n", r"line 1: found 'x,y\\r'; a carriage return .*`tr -s '\\r' '\\n'`"),
    "a line that a carriage return ends": (
        b"x,y\n1,2\r3,4\n",
        r"line 2: found '1,2\\r3,4'; these are 3 fields under a header of 2; a carriage return stands in the line",
    ),
    "a carriage return before a quote": (b'x,y\n1,2\r"3",4\n', r"line 2: found '1,2\\r\"3\",4'; a carriage return"),
    "a carriage return after the header": (b"x,y\r1,2\r3,4\n", r"line 1: found 'x,y\\r1,2\\r3,4'; a carriage return"),
    "a quote never closed": (b'x,y,z\n1,2,3\n1,2,"abc\n3,4,5\n', "line 3: a quote opens here and is never closed"),
}


@pytest.mark.parametrize("case", LOST_BY_POLARS)
def test_what_polars_would_lose_or_change_is_refused_at_its_line(case):
    raw, said = LOST_BY_POLARS[case]
    with pytest.raises(DatasetError, match=said):
        read(raw)


FOREIGN = {
    "gzip": (b"\x1f\x8b\x08\x00junk", "gunzip"),
    "zip": (b"PK\x03\x04junk", "as .xlsx files are"),
    "zstd": (b"\x28\xb5\x2f\xfdjunk", "unzstd"),
    "xz": (b"\xfd7zXZ\x00junk", "unxz"),
    "bzip2": (b"BZh9junk", "bunzip2"),
    "parquet": (b"PAR1junk", r"a name that ends in \.parquet"),
    "utf-16": ("x,y\n1,2\n".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    "utf-16 without a mark": ("x,y\n1,2\n".encode("utf-16-be"), "save it as UTF-8"),
    "utf-32": ("x,y\n1,2\n".encode("utf-32"), "UTF-32 text; .* `iconv -f UTF-32 -t UTF-8`"),
    "utf-32, big end first": ("\ufeffx,y\n1,2\n".encode("utf-32-be"), "UTF-32 text; .* `iconv -f UTF-32 -t UTF-8`"),
    "utf-32 without a mark": ("x,y\n1,2\n".encode("utf-32-le"), "UTF-16, UTF-32 or no text; save it as UTF-8"),
    "semicolons": (b"x;y\n1,5;2,5\n", "line 1: found 'x;y'; its fields lie between semicolons; save it with commas"),
    "semicolons below": (b"x,y\n1.5;2.5\n", "line 2: found '1.5;2.5'; .*semicolons"),
    "semicolons and quotes": (b'"x";"y"\n"1,5";"2,5"\n', "line 1: .*; its fields lie between semicolons"),
    "a semicolon in quotes": (b'x,y\n1,"a;b"\n', "line 2: .*column 'y' is 'a;b'; expected a number$"),
    "a semicolon in a field": (b"x,y\n1,a;b\n", "line 2: .*column 'y' is 'a;b'; expected a number$"),
    "a semicolon in another column": (b"x,y,z\n1,NA,a;b\n", "line 2: .*column 'y' is 'NA'; expected a number$"),
    "a semicolon in a name": (b'x,"y;z"\n1,2\n', "line 1: .*no column 'y', only 'x', 'y;z'"),
    "tabs": (b"x\ty\n1.5\t2.5\n", r"line 1: found 'x\\ty'; its fields lie between tabs; save it with commas"),
    "tabs below": (b"x,y\n1.5\t2.5\n", r"line 2: found '1.5\\t2.5'; .*tabs"),
    "bars": (b"x|y\n1.5|2.5\n", r"line 1: found 'x\|y'; its fields lie between bars"),
    "a tab in a field": (b"x,y\nn\ta,2\n", "column 'x' is 'n\\\\ta'; expected a number$"),
    "decimal commas": (b"x,y\n1,5,2,5\n", "line 2: .*4 fields under a header of 2; write numbers with a decimal point"),
    "decimal commas in quotes": (b'x,y\n"1,5","2,5"\n', "line 2: .*column 'x' is '1,5'; .*with a decimal point"),
    "other columns": (b"a,b\n1,2\n", "no column 'x', only 'a', 'b'; name two of them with --x and --y"),
    "letters in another script": (b"x,y\n1,NA\n", "line 2: found '1,NA'; column 'y' is 'NA'; expected a number"),
    "a control code": (b"x,y\n\x1b[31m1,2\n", r"found '\\x1b\[31m1,2'"),
    "nothing": (b"", "is empty"),
    "blanks": (b"\n \n", "is empty"),
    "a header alone": (b"x,y\n", "no samples"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_no_such_file_is_refused_with_what_to_do(case):
    raw, said = FOREIGN[case]
    with pytest.raises(DatasetError, match=said):
        read(raw)


ACCEPTED = {
    "mark, CRLF, blanks and quotes": b'\xef\xbb\xbf"x", y\r\n 1.5 ,\t"2e1"\r\n"nan",-inf \r\n',
    "any order among others": b'y,"a ""b"", c",x\n20,"1,5\n7",1.5\n-inf,5;,nan\n',
    "an index": b",x,y\n0,1.5,20\n1,nan,-Infinity\n",
    "other columns of any content": b"x,y,z\n1.5,20,\xff\xfe\nnan,-inf,a\rb\0\n",
    "Latin-1 in other columns and their names": b"x,caf\xe9,y\n1.5,\xe9t\xe9,20\nnan,,-inf\n",
    "a short row that reaches both": b"x,y,z\n1.5,20\nnan,-inf,\n",
    "a name twice elsewhere": b"x,y,z,z\n1.5,20,,\nnan,-inf,,\n",
    "empty lines at the end": b"x,y\n1.5,20\nnan,-inf\n\r\n\n \n",
    "integers and many digits": b"x,y\n1.50000000000000000000000000000000000001,20\nNaN,-INF\n",
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_others_write_is_read(case):
    rows, told = read(ACCEPTED[case])
    np.testing.assert_array_equal(rows, [(1.5, 20), (np.nan, -np.inf)])
    assert told == []


def test_columns_go_by_their_names():
    raw = b'time,"price, in EUR",x\n1,2,3\n4,5,6\n'
    assert read(raw, ("price, in EUR", "time"))[0] == [(2, 1), (5, 4)]
    with pytest.raises(DatasetError, match="x and y are both column 'time'"):
        read(raw, ("time", "time"))


def test_a_last_line_without_its_end_is_read_and_told():
    rows, told = read(b"x,y\n1,2\n3.5,-1")
    assert rows == [(1, 2), (3.5, -1)]
    assert told == ["data.csv: the last line has no end; it is read as it stands, but it may have been cut off"]
    assert read(b"x,y\n1,2\n3.5,-1", n=1)[1] == []  # it is not used


def test_lines_are_counted_where_quoted_fields_hold_line_breaks():
    rows = '1.25,"a\n""b\n",2\n' * 300
    with pytest.raises(DatasetError, match="line 902: found '1,,1e99'"):
        read(f"x,note,y\n{rows}1,,1e99\n{rows}".encode(), block=100)
    assert len(read(f"x,note,y\n{rows}1,,1e99\n".encode(), n=300, block=100)[0]) == 300


def test_a_field_longer_than_a_block_is_read_and_one_without_end_refused():
    assert read(b'x,note,y\n1,"' + b"a,\n" * 300 + b'",2\n3,,4\n', block=100)[0] == [(1, 2), (3, 4)]
    with pytest.raises(DatasetError, match="line 2: the line is too long, or a quote is never closed"):
        read(b'x,note,y\n1,"' + b"a,\n" * (1 << 24))


def test_rows_beyond_the_samples_asked_for_are_not_looked_at():
    assert read(b'x,y\n1,2\n3,4\noops,"a"b\n', n=2)[0] == [(1, 2), (3, 4)]


def test_a_huge_line_is_refused_without_reading_it():
    path = Path("data.csv")
    with path.open("wb") as stream:
        stream.write(b"x,y\n")
        stream.truncate(1 << 30)  # a hole: a line of zero bytes
    tracemalloc.start()
    with pytest.raises(DatasetError, match="line 2: the line is too long"):
        read_samples(path, None)
    assert tracemalloc.get_traced_memory()[1] < 1 << 28
    tracemalloc.stop()


def test_quoted_columns_agree_with_plain_ones_over_many_threads_and_blocks():
    rng = np.random.default_rng(3)
    frame = pl.DataFrame({"x": rng.normal(size=200_000).astype(np.float32), "y": np.arange(200_000, dtype=np.float32)})
    notes = pl.Series("note", ['a, "b"\r\n', "c", "", '"', "\n\n\n"]).sample(200_000, with_replacement=True, seed=1)
    frame.insert_column(1, notes).write_csv("data.csv", quote_style="always")
    chunks = list(read_chunks(Path("data.csv"), None))
    for column, parts in zip(("x", "y"), zip(*chunks, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), frame[column].to_numpy())
