"""Samples from a dataset's file, in chunks and in bounded memory, each read exactly or refused with its line. No JAX.

The grammar of a CSV file:

    file   = [BOM] header line+                 BOM: the three bytes of UTF-8's byte order mark
    header = "x" "," "y" end
    line   = field "," field end
    field  = blank* (number | '"' number '"') blank*              the header's names may be written so, too
    number = [sign] (digits ["." [digits]] | "." digits) [("e" | "E") [sign] digits]
           | [sign] ("inf" | "infinity" | "nan")                  in any case
    blank  = space | tab
    end    = LF | CR LF

A number is rounded once, to the nearest float32; one whose magnitude is beyond float32 is refused (`inf`, written out,
is data), one that is too small becomes a subnormal or zero. A last line without its end is refused, for nothing says
that its number was not cut off; so is an empty line. A Parquet file has the two columns x and y, in this order, Float32
without nulls.

Blocks of bytes, cut at their last line end, are parsed by polars. `_tidy` is the grammar, line by line: what polars
does not take at once goes through it.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
import polars as pl

from cubic_cli.data.problem import Float32
from cubic_cli.errors import DatasetError

Samples = tuple[Float32, Float32]  # x [n], y [n]

SCHEMA = pl.Schema({"x": pl.Float32, "y": pl.Float32})
CHUNK = 1 << 20  # samples of a chunk, unless another number is asked for
_BLOCK = 1 << 23  # bytes of CSV parsed at a time; a longer line is no pair of numbers
_NUMBER = re.compile(rb"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|(?i:inf|infinity|nan))")
_BOM = b"\xef\xbb\xbf"
_UNTIDY = (b" ", b"\t", b'"', b"\r", _BOM[:1])  # read otherwise by polars than by the grammar, or not at all
_GZIP = b"\x1f\x8b"


def read_samples(path: Path, num_samples: int | None) -> Samples:
    """Return the first `num_samples` samples (all for None) as `(x [N], y [N])`.

    Raises:
        DatasetError: as `read_chunks`.
    """
    return _join(list(read_chunks(path, num_samples)))


def read_chunks(
    path: Path, num_samples: int | None, rows: int = CHUNK, part: tuple[int, int] | None = None
) -> Iterator[Samples]:
    """Yield the first `num_samples` samples (all for None) in chunks `(x [n], y [n])`, in the order of the file.

    Each chunk but the last has `rows` samples. Of a `part`, `(start, stop)`, only the samples from `start` up to `stop`
    are read, and earlier ones are skipped over, unseen. The memory is bounded, but for Parquet files of huge row
    groups, which polars reads whole. A file that is replaced meanwhile is read to its end; one that is written to is
    refused, at the latest after the last chunk.

    Raises:
        DatasetError: the file is missing, has fewer samples, holds what is no pair of float32 numbers (names the line),
            or changes while it is read.
    """
    start, stop = part or (0, num_samples)
    seen = start
    with _opened(path) as stream:
        read = _read_parquet if path.suffix.lower() == ".parquet" else _read_csv
        for chunk in _regroup(read(path, stream, stop, start), rows):
            seen += len(chunk[0])
            yield chunk
        if stop is not None and seen < stop and part is not None:
            seen = count_samples(path)
        if seen == 0:
            raise DatasetError(f"{path} has no samples; run `cubic generate --dataset {path}` to make some")
        if num_samples is not None and stop is not None and seen < stop:
            raise DatasetError(
                f"{path} has {seen:,} rows and {num_samples:,} were asked for; "
                f"generate more, or give --num-samples {seen} (or all)"
            )


def count_samples(path: Path) -> int:
    """Return how many rows the file has, without looking at what stands in them.

    Raises:
        DatasetError: the file is missing or is no dataset.
    """
    with _opened(path) as stream:
        if path.suffix.lower() == ".parquet":
            try:
                return int(pl.scan_parquet(stream).select(pl.len()).collect().item())
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
                raise DatasetError(f"{path} is no Parquet file that can be read: {_first_line(error)}") from None
        _check_header(path, stream.readline(4096))
        # A last line without its end counts, so that who reads it refuses it.
        return sum(_count_lines(block) or 1 for block in _blocks(stream, _BLOCK))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file, and raise `DatasetError` if it is not one, cannot be read, or changes until it is closed."""
    try:
        if not path.exists():
            raise DatasetError(f"there is no dataset {path}; run `cubic generate --dataset {path}` to make one")
        if not path.is_file():
            raise DatasetError(f"{path} is no regular file; name a .csv or .parquet file with --dataset")
        with path.open("rb", buffering=0) as stream:
            before = os.fstat(stream.fileno())
            error = None
            try:
                yield stream
            except (DatasetError, OSError) as caught:
                error = caught
            after = os.fstat(stream.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise DatasetError(f"{path} changed while it was read; run the command again when it is complete")
            if error is not None:
                raise error
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from None


def _regroup(pieces: Iterator[Samples], rows: int) -> Iterator[Samples]:
    """Yield the samples of `pieces`, of any lengths, in chunks of `rows`."""
    held: list[Samples] = []
    count = 0
    for x, y in pieces:
        while count + len(x) >= rows:
            cut = rows - count
            yield _join([*held, (x[:cut], y[:cut])])
            x, y, held, count = x[cut:], y[cut:], [], 0
        if len(x):
            held.append((x, y))
            count += len(x)
    if held:
        yield _join(held)


def _join(held: list[Samples]) -> Samples:
    x, y = (column[0] if len(column) == 1 else np.concatenate(column) for column in zip(*held, strict=True))
    return x, y


def _read_parquet(path: Path, stream: IO[bytes], num_samples: int | None, skip: int) -> Iterator[Samples]:
    try:
        frame = pl.scan_parquet(stream, n_rows=num_samples)
        frame = frame.slice(skip) if skip else frame
        schema = frame.collect_schema()
        if list(schema.items()) != list(SCHEMA.items()):
            found = ", ".join(f"{name} ({kind})" for name, kind in schema.items())
            raise DatasetError(f"{path} has the columns {found}; expected x and y, both Float32, in this order")
        seen = skip
        for batch in frame.collect_batches(maintain_order=True, chunk_size=CHUNK):
            for column in batch:
                if column.null_count():
                    row = seen + int(column.is_null().arg_true()[0]) + 1
                    raise DatasetError(f"{path}, row {row}: {column.name} is null; expected a float32 number")
            seen += batch.height
            yield batch["x"].to_numpy(), batch["y"].to_numpy()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DatasetError(f"{path} is no Parquet file that can be read: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read_csv(path: Path, stream: IO[bytes], num_samples: int | None, skip: int) -> Iterator[Samples]:
    header = stream.readline(4096)
    _check_header(path, header)
    line, seen = 2, 0
    for block in _blocks(stream, _BLOCK if num_samples is None else min(_BLOCK, 4096 + 32 * num_samples)):
        if not block.endswith(b"\n"):
            what = "is too long" if len(block) > _BLOCK else "has no end, so it may be cut off"
            _refuse(path, line, block, f"the line {what}; expected two numbers, x,y, and a line end")
        lines = _count_lines(block)
        if seen < skip:
            passed = min(lines, skip - seen)
            block = block[len(_first_lines(block, passed)) :]
            line, seen, lines = line + passed, seen + passed, lines - passed
        if num_samples is not None and lines > num_samples - seen:
            lines = num_samples - seen
            block = _first_lines(block, lines)
        if lines:
            yield _parse(path, block, line)
        line, seen = line + lines, seen + lines
        if seen == num_samples:
            return


def _check_header(path: Path, header: bytes) -> None:
    if not header:
        raise DatasetError(f"{path} is empty; run `cubic generate --dataset {path}` to make a dataset")
    if header.startswith(_GZIP):
        raise DatasetError(f"{path} is compressed with gzip; decompress it first, with `gunzip`")
    names = [_unquote(field) for field in header.removeprefix(_BOM).removesuffix(b"\n").removesuffix(b"\r").split(b",")]
    if names != [b"x", b"y"] or not header.endswith(b"\n"):
        _refuse(path, 1, header, "expected the header x,y")


def _blocks(stream: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the rest of the file in blocks of whole lines, the first of about `size` bytes, and a line with no end."""
    rest = b""
    while len(rest) <= _BLOCK and (block := stream.read(size)):
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
        size = _BLOCK
    if rest:
        yield rest


def _count_lines(block: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))  # five times as fast as bytes.count


def _first_lines(block: bytes, lines: int) -> bytes:
    return block[: int(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))[lines - 1]) + 1]


def _parse(path: Path, block: bytes, line: int) -> Samples:
    """Return the samples of `block`, whole lines of which the first is the file's line `line`."""
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    frame = None if any(mark in block for mark in _UNTIDY) else _polars(block)
    refused = None
    if frame is None:
        block, refused = _tidy(block)
        frame = _polars(block)
    if frame is None:
        raise DatasetError(f"{path}, from line {line}: there are no numbers that can be read")
    x, y = frame["x"].to_numpy(), frame["y"].to_numpy()
    if np.isinf(x).any() or np.isinf(y).any():
        _refuse_overflow(path, block, line, x, y)
    if refused is not None:
        _refuse(path, line + frame.height, refused, "expected two numbers, x,y")
    return x, y


def _polars(block: bytes) -> pl.DataFrame | None:
    """Return the samples of `block`, a row a line, None where polars refuses it or leaves something out."""
    if not block:
        return pl.DataFrame(schema=SCHEMA)
    try:
        frame = pl.read_csv(block, schema=SCHEMA, has_header=False, quote_char=None, glob=False)
    except pl.exceptions.PolarsError:
        return None
    whole = frame.height == _count_lines(block) and not any(column.null_count() for column in frame)
    return frame if whole else None


def _tidy(block: bytes) -> tuple[bytes, bytes | None]:
    """Return the lines of `block`, without blanks and quotation marks, up to the first that is no sample; and that."""
    tidy: list[bytes] = []
    for text in block.removesuffix(b"\n").split(b"\n"):
        fields = [_unquote(field) for field in text.split(b",")]
        if len(fields) != 2 or not all(_NUMBER.fullmatch(field) for field in fields):
            return b"".join(tidy), text
        tidy.append(b",".join(fields) + b"\n")
    return b"".join(tidy), None


def _unquote(field: bytes) -> bytes:
    field = field.strip(b" \t")
    return field[1:-1] if len(field) > 1 and field.startswith(b'"') and field.endswith(b'"') else field


def _refuse_overflow(path: Path, block: bytes, line: int, x: Float32, y: Float32) -> None:
    """Raise `DatasetError` at the first infinite value that is not written as one."""
    lines, values = block.split(b"\n"), np.stack([x, y], axis=1)
    for row in np.flatnonzero(np.isinf(values).any(axis=1)):
        for field, value in zip(lines[row].split(b","), values[row], strict=True):
            if np.isinf(value) and b"inf" not in field.lower():
                raise DatasetError(f"{path}, line {line + row}: {_shorten(field)} is outside the range of float32")


def _refuse(path: Path, line: int, found: bytes, expected: str) -> NoReturn:
    raise DatasetError(f"{path}, line {line}: found {_shorten(found)}; {expected}")


def _shorten(text: bytes) -> str:
    shown = text[:200].rstrip(b"\r\n").decode("utf-8", "replace")
    return repr(shown if len(shown) <= 40 else shown[:37] + "...")
