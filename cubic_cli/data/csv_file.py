"""Two columns of numbers from a CSV file, by polars, which gets blocks of whole records and a type for every column.

    file   = [BOM] header record* (blank* end)*         the last record may lack its end, which is told
    header = record
    record = field ("," field)* end
    field  = blank* '"' (text without '"' | '""')* '"' blank* | text without , " and end
    number = [sign] (digits ["." [digits]] | "." digits) [("e" | "E") [sign] digits]
           | [sign] ("inf" | "infinity" | "nan")        in any case; between blanks, in quotes or not
    blank  = space | tab
    end    = LF | CR LF

Left to itself, polars loses rows at a stray quote and shifts what stands in long ones when it reads some of the columns
alone. So quotes are checked here, every column is read, rows are counted, and each must have its two numbers.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cubic_cli.errors import DatasetError, list_names
from cubic_cli.float32 import Float32

_LONGEST = 1 << 25  # bytes of one record; more is no CSV, or a quote that is never closed
_BOM = b"\xef\xbb\xbf"
_BLANKS = b" \t\r\n"

# Possessive (`++`, `*+`): a field is read in one way only, in linear time.
_OPEN = rb'[ \t]*+"(?:[^"]++|"")*+'
_PLAIN = rb'[^",\n]*+'
_FIELD = rb'(?:%b"[ \t]*+(?:\r(?=\n))?|%b)' % (_OPEN, _PLAIN)
_RECORD = re.compile(rb"(?:%b,)*+%b\n" % (_FIELD, _FIELD))
_RECORDS = re.compile(rb"(?:%b)*+" % _RECORD.pattern)
_BEGUN = re.compile(rb'(?:%b,)*+(?:%b(?:"[ \t]*+\r?)?|%b)' % (_FIELD, _OPEN, _PLAIN))  # what may become a record
_FIELDS = re.compile(rb"(%b)[,\n]" % _FIELD)
_NUMBER = re.compile(rb"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|(?i:inf|infinity|nan))")
_DECIMAL_COMMA = re.compile(rb"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_BLANKS_BESIDE = re.compile(rb'(?<![ \t])[ \t]++(?=[,\r\n"])|(?<=[,\n"])[ \t]++')  # a separator or a quote
_QUOTED = re.compile(rb'"[^"]*"')
_LONE_CR = re.compile(rb"\r(?!\n)")
_FORMATS = {
    b"\x1f\x8b": "is compressed with gzip; decompress it first, with `gunzip`",
    b"BZh": "is compressed with bzip2; decompress it first, with `bunzip2`",
    b"\xfd7zXZ": "is compressed with xz; decompress it first, with `unxz`",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; decompress it first, with `unzstd`",
    b"PK\x03\x04": "is a ZIP archive, as .xlsx files are; unpack it, or save the sheet as CSV",
    b"PAR1": "is a Parquet file; give it a name that ends in .parquet",
    b"\xff\xfe\0\0": "is UTF-32 text; save it as UTF-8, for instance with `iconv -f UTF-32 -t UTF-8`",  # before UTF-16
    b"\0\0\xfe\xff": "is UTF-32 text; save it as UTF-8, for instance with `iconv -f UTF-32 -t UTF-8`",
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8, for instance with `iconv -f UTF-16 -t UTF-8`",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8, for instance with `iconv -f UTF-16 -t UTF-8`",
}
_SEPARATORS = {b";": "semicolons", b"\t": "tabs", b"|": "bars"}
_QUOTES = (
    "a quote stands inside a field that does not begin with one, or text follows a closing one; write such text in "
    'quotes and each of its quotes twice, as in "5"" pipe"'
)
_COMMAS = "write numbers with a decimal point, not a comma, and text that holds a comma in quotes"


def read(
    path: Path,
    stream: IO[bytes],
    columns: tuple[str, str],
    num_samples: int | None,
    tell: Callable[[str], None],
    size: int,
) -> Iterator[tuple[Float32, Float32]]:
    """Yield the first `num_samples` samples (all for None) of `columns`, `(x [n], y [n])` of each `size` bytes.

    Raises:
        DatasetError: names the line, what was found there and what is expected.
    """
    _refuse_other_formats(path, stream)
    table, seen = None, 0
    first = size if num_samples is None else min(size, 4096 + 32 * num_samples)
    for block, line, is_whole in _blocks(path, stream, first, size):
        if table is None:
            header = block[: _end_of(_RECORD, block)]
            table = _Table.of(path, header, columns)
            block, line = block[len(header) :], line + header.count(b"\n")
        rows = len(_record_ends(block)) if b'"' in block else _count_lines(block)
        if num_samples is not None and rows > num_samples - seen:
            rows, is_whole = num_samples - seen, True
            block = block[: _record_ends(block)[rows - 1] + 1]
        if rows:
            yield table.parse(block, line, rows)
        if not is_whole:
            tell(f"{path}: the last line has no end; it is read as it stands, but it may have been cut off")
        seen += rows
        if seen == num_samples:
            return
    if table is None:
        raise DatasetError(empty(path))


def empty(path: Path) -> str:
    """Return what is wrong with an empty file, and what replaces it."""
    return f"{path} is empty; run {generating(path, force=True)} to replace it with a dataset"


def generating(path: Path, force: bool = False) -> str:
    """Return the command that makes a dataset of this name; `force` replaces what is there."""
    return f"`cubic generate {'--force ' if force else ''}--dataset {shlex.quote(str(path))}`"


def _refuse_other_formats(path: Path, stream: IO[bytes]) -> None:
    head = stream.read(4096)
    stream.seek(0)
    for magic, what in _FORMATS.items():
        if head.startswith(magic):
            raise DatasetError(f"{path} {what}")
    if b"\0" in head.split(b"\n")[0]:
        raise DatasetError(f"{path}, line 1: found zero bytes; this is UTF-16, UTF-32 or no text; save it as UTF-8")
    if b"\n" not in head and re.search(rb"\r[^\n]", head):
        raise DatasetError(f"{path}: its lines end in carriage returns alone; mend it with `tr '\\r' '\\n'`")


def _blocks(path: Path, stream: IO[bytes], first: int, size: int) -> Iterator[tuple[bytes, int, bool]]:
    """Yield blocks of whole records, of about `size` bytes: `(block, its first line, has its last end)`.

    Empty lines wait until something follows them, and are passed over at the end of the file.
    """
    rest, line, is_whole, asked = b"", 1, True, first
    while True:
        more = stream.read(asked)
        data = rest + more if line > 1 or rest else more.removeprefix(_BOM)
        if not more and not data.endswith(b"\n") and data.strip(_BLANKS):
            data, is_whole = data + b"\n", False
        end, is_sound = data.rfind(b"\n") + 1, True
        if b'"' in data:
            end = _end_of(_RECORDS, data)
            is_sound = _BEGUN.fullmatch(data, end) is not None
        if is_sound and data[end - 2 : end - 1] in _BLANKS:
            filled = len(data[:end].rstrip(_BLANKS))
            end = data.find(b"\n", filled) + 1 if filled else 0
        block = data[:end]
        if block:
            yield block, line, is_whole
        line += _count_lines(block)
        if not is_sound:
            odd = data[end:].split(b"\n", 1)[0].removesuffix(b"\r")
            raise DatasetError(f"{path}, line {line}: found {_show(odd)}; {_oddity(odd) or _QUOTES}")
        rest, asked = data[end:], size
        if not more:
            if rest.strip(_BLANKS):
                raise DatasetError(f"{path}, line {line}: a quote opens here and is never closed: {_show(rest)}")
            return
        if len(rest) > _LONGEST:
            raise DatasetError(f"{path}, line {line}: the line is too long, or a quote is never closed: {_show(rest)}")


def _end_of(pattern: re.Pattern[bytes], data: bytes) -> int:
    """Return where what `pattern` finds at the start of `data` ends."""
    found = pattern.match(data)
    return found.end() if found else 0


def _count_lines(block: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))  # five times as fast as bytes.count


def _record_ends(block: bytes) -> NDArray[np.int64]:
    """Return where the records of `block` end: its line ends that are not in quotes."""
    raw = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(raw == ord("\n"))
    if b'"' in block:
        quotes = np.flatnonzero(raw == ord('"'))
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    return ends


@dataclass(frozen=True)
class _Table:
    """The columns of a file: their number, which are wanted, and where these are."""

    path: Path
    width: int
    names: tuple[str, str]
    places: tuple[int, int]

    @classmethod
    def of(cls, path: Path, header: bytes, names: tuple[str, str]) -> "_Table":
        """Find the columns `names` in a header.

        Raises:
            DatasetError: there is no such column, or it is there twice.
        """
        fields = _split(header)
        found = [_unquote(field).decode("utf-8", "surrogateescape") for field in fields]
        for name in names:
            if found.count(name) == 1:
                continue
            if name in found:
                why = f"column {name!r} is there twice; give the columns names of their own"
            elif all(_NUMBER.fullmatch(_unquote(field)) for field in fields):
                why = "expected a header with the names of the columns, as in x,y"
            elif oddity := _oddity(header):
                why = oddity
            else:
                why = f"there is no column {name!r}, only {list_names(found)}; name two of them with --x and --y"
            raise DatasetError(f"{path}, line 1: found {_show(_without_end(header))}; {why}")
        return cls(path, len(fields), names, (found.index(names[0]), found.index(names[1])))

    def parse(self, block: bytes, line: int, rows: int) -> tuple[Float32, Float32]:
        """Return the `rows` samples of `block`, whose first record begins in the file's line `line`."""
        clear = block
        if block.count(b"\r") > block.count(b"\r\n"):
            clear = _LONE_CR.sub(b"\0", block)  # polars takes it for a blank, a zero byte for what it is
        frame = self._read(clear, rows, pl.Float32)
        if frame is None:
            clear = _BLANKS_BESIDE.sub(b"", clear)
            frame = self._read(clear, rows, pl.Float32)
        if frame is None or self._overflows(frame, clear, rows):
            self._refuse(block, line)
        x, y = (column.to_numpy() for column in frame)
        return x, y

    def _read(self, block: bytes, rows: int, kind: type[pl.DataType]) -> pl.DataFrame | None:
        """Return the two columns as `kind`, None unless every row has both."""
        names = [str(place) for place in range(self.width)]
        wanted = [names[place] for place in self.places]
        schema = {name: kind if name in wanted else pl.String for name in names}
        try:
            frame = pl.read_csv(",".join(names).encode() + b"\n" + block, schema=schema, encoding="utf8-lossy")
        except pl.exceptions.PolarsError:
            return None
        frame = frame.select(wanted)
        return frame if frame.height == rows and not any(column.null_count() for column in frame) else None

    def _overflows(self, frame: pl.DataFrame, block: bytes, rows: int) -> bool:
        """Return whether a number is infinite that is not written so: polars takes 1e39 for infinity."""
        if not any(column.is_infinite().any() for column in frame):
            return False
        texts = self._read(block, rows, pl.String)
        assert texts is not None
        return any(
            not texts[column.name].filter(column.is_infinite()).str.contains("(?i)inf").all() for column in frame
        )

    def _refuse(self, block: bytes, line: int) -> NoReturn:
        """Raise `DatasetError` for the first record of `block` that is none of ours."""
        for record in _RECORD.finditer(block):
            text = record.group()
            why = self._fault(text)
            if why:
                raise DatasetError(f"{self.path}, line {line}: found {_show(_without_end(text))}; {why}")
            line += text.count(b"\n")
        raise DatasetError(f"{self.path}, from line {line}: there are numbers that cannot be read")

    def _fault(self, record: bytes) -> str:
        """Return what is wrong with a record, nothing where it is a sample."""
        fields = _split(record)
        oddity = _oddity(record)
        hint = f"; {oddity}" if oddity else ""
        if not record.strip(_BLANKS):
            return "this is an empty line; take it out"
        if len(fields) > self.width:
            return f"these are {len(fields)} fields under a header of {self.width}; {oddity or _COMMAS}"
        for place, name in zip(self.places, self.names, strict=True):
            if place >= len(fields):
                return f"there is no field for column {name!r}{hint}"
            text = _unquote(fields[place])
            if not text:
                return f"column {name!r} is empty; leave such rows out, or write nan"
            if not _NUMBER.fullmatch(text):
                hint = f"; {_COMMAS}" if _DECIMAL_COMMA.fullmatch(text) else hint
                return f"column {name!r} is {_show(text)}; expected a number{hint}"
            if _is_beyond_float32(text):
                return f"{_show(text)} in column {name!r} is outside the range of float32"
        return ""


def _oddity(record: bytes) -> str:
    """Return what to do where, outside quotes, lines or fields end with anything but LF, CR LF and commas."""
    plain = _QUOTED.sub(b"", _without_end(record))
    if b"\r" in plain:
        return "a carriage return stands in the line; if it ends one, mend the file with `tr -s '\\r' '\\n'`"
    for separator, name in _SEPARATORS.items():
        if separator in plain and b"," not in plain:
            return f"its fields lie between {name}; save it with commas between fields and points in numbers"
    return ""


def _is_beyond_float32(number: bytes) -> bool:
    """Return whether the nearest float32 is infinite, though the number is not written so."""
    if b"inf" in number.lower() or not abs(float(number)) > 3e38:
        return False
    return bool(np.isinf(pl.Series([number.decode()]).cast(pl.Float32)[0]))  # rounded once, as in `_read`


def _without_end(record: bytes) -> bytes:
    return record.removesuffix(b"\n").removesuffix(b"\r")


def _split(record: bytes) -> list[bytes]:
    """Return the fields of a record as they stand."""
    return _FIELDS.findall(_without_end(record) + b"\n")


def _unquote(field: bytes) -> bytes:
    """Return what a field says: without the blanks about it, and its quotes."""
    field = field.strip(b" \t")
    if len(field) > 1 and field.startswith(b'"') and field.endswith(b'"'):
        field = field[1:-1].replace(b'""', b'"').strip(b" \t")
    return field


def _show(text: bytes) -> str:
    """Return text of a file for people: short, with what cannot be seen escaped."""
    shown = text[:200].decode("utf-8", "replace")
    return repr(shown if len(shown) <= 40 else shown[:37] + "...")
