"""Parquet, as much of it as the history needs: numbers, uncompressed, in groups of rows as they come.

By hand, because a long run writes as fast as it computes: for 100,000 rows the pass takes 4 ms of the processor. To
write them polars, pyarrow and arro3 take 3 to 5 ms, for they look for values that repeat, or copy; this takes 1.

The format: https://parquet.apache.org/docs/file-format/, and parquet.thrift in Thrift's compact protocol.
"""

import functools
import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cubic_cli import __version__

_MAGIC = b"PAR1"
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12  # Thrift's types
_TYPES = {np.dtype(np.int64): 2, np.dtype(np.float32): 4}  # Parquet's INT64 and FLOAT
_OPTIONAL, _UNCOMPRESSED, _DATA_PAGE = 1, 0, 0
_PLAIN, _RLE, _DELTA_BINARY_PACKED = 0, 3, 5
_PARTS = 1000  # given to one system call; Linux takes 1024


class ParquetWriter:
    """Writes rows of int64 and float32, nulls among them, to a file without a buffer, a group at a time.

    A column is an array `[rows]`, of its type in the schema; what is masked in it is null.
    """

    def __init__(self, file: io.FileIO, schema: Mapping[str, np.dtype[Any]]) -> None:
        self._file, self._schema = file, schema
        self._at = self._rows = 0
        self._groups: list[bytes] = []
        self._waiting: list[bytes | memoryview] = []
        self._add(_MAGIC)

    def write(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Write a group of rows.

        Raises:
            OSError: the file cannot be written.
        """
        start, rows = self._at, len(next(iter(columns.values())))
        described = [self._column(name, columns[name]) for name in self._schema]
        self._groups.append(  # a RowGroup
            _struct((1, _LIST, _list(_STRUCT, described)), (2, _I64, _int(self._at - start)), (3, _I64, _int(rows)))
        )
        self._rows += rows
        self._flush()

    def finish(self) -> None:
        """Write what makes the file whole: where everything stands.

        Raises:
            OSError: the file cannot be written.
        """
        columns = (  # SchemaElement
            _struct((1, _I32, _int(_TYPES[kind])), (3, _I32, _int(_OPTIONAL)), (4, _BINARY, _text(name)))
            for name, kind in self._schema.items()
        )
        root = _struct((4, _BINARY, _text("schema")), (5, _I32, _int(len(self._schema))))
        footer = _struct(  # FileMetaData
            (1, _I32, _int(1)),
            (2, _LIST, _list(_STRUCT, [root, *columns])),
            (3, _I64, _int(self._rows)),
            (4, _LIST, _list(_STRUCT, self._groups)),
            (6, _BINARY, _text(f"cubic-cli version {__version__}")),
        )
        self._add(footer, len(footer).to_bytes(4, "little"), _MAGIC)
        self._flush()

    def _add(self, *parts: bytes | memoryview) -> None:
        self._waiting += parts
        self._at += sum(memoryview(part).nbytes for part in parts)

    def _flush(self) -> None:
        write_all(self._file, self._waiting)
        self._waiting = []

    def _column(self, name: str, values: NDArray[Any]) -> bytes:
        """Add a column, in one page; returns what the footer says of it."""
        start, count = self._at, _int(len(values))
        present = values.compressed() if isinstance(values, np.ma.MaskedArray) else values
        if (step := _spacing(present)) is None:
            encoding, data = _PLAIN, np.ascontiguousarray(present).data
        else:
            encoding, data = _DELTA_BINARY_PACKED, memoryview(_deltas(len(present), int(present[0]), step))
        levels = _levels(values)
        self._add(_header(len(levels) + data.nbytes, len(values), encoding), levels, data)
        size = _int(self._at - start)
        described = _struct(  # ColumnMetaData
            (1, _I32, _int(_TYPES[self._schema[name]])),
            (2, _LIST, _list(_I32, [_int(encoding), _int(_RLE)])),
            (3, _LIST, _list(_BINARY, [_text(name)])),
            (4, _I32, _int(_UNCOMPRESSED)),
            (5, _I64, count),
            (6, _I64, size),
            (7, _I64, size),
            (9, _I64, _int(start)),
        )
        return _struct((2, _I64, _int(start)), (3, _STRUCT, described))  # ColumnChunk


def write_all(file: io.FileIO, parts: list[bytes | memoryview]) -> None:
    """Write the parts one after the other, without copying them, in as few system calls as can be.

    Raises:
        OSError: the file cannot be written.
    """
    rest = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
    while rest:
        # Windows has no writev.
        written = os.writev(file.fileno(), rest[:_PARTS]) if hasattr(os, "writev") else file.write(rest[0])
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if written:
            rest[0] = rest[0][written:]


@functools.lru_cache  # most pages of a file are alike
def _header(size: int, count: int, encoding: int) -> bytes:
    # A PageHeader, with its DataPageHeader.
    page = _struct((1, _I32, _int(count)), (2, _I32, _int(encoding)), (3, _I32, _int(_RLE)), (4, _I32, _int(_RLE)))
    return _struct((1, _I32, _int(_DATA_PAGE)), (2, _I32, _int(size)), (3, _I32, _int(size)), (5, _STRUCT, page))


def _levels(values: NDArray[Any]) -> bytes:
    """Return which of the values are not null: 1 where so."""
    if np.ma.is_masked(values):
        bits = np.packbits(~np.ma.getmaskarray(values), bitorder="little")
        levels = _varint(len(bits) << 1 | 1) + bits.tobytes()  # packed, eight to a byte
    else:
        levels = _varint(len(values) << 1) + b"\x01"  # a run of ones
    return len(levels).to_bytes(4, "little") + levels


def _spacing(values: NDArray[Any]) -> int | None:
    """Return the step between integers that are evenly spaced."""
    if values.dtype.kind == "f" or not values.size:
        return None
    if values[0] == values[-1]:  # it is sooner known of those that are all one
        return 0 if (values == values[0]).all() else None
    steps = np.diff(values)
    return int(steps[0]) if (steps == steps[0]).all() else None


def _deltas(count: int, first: int, step: int) -> bytes:
    """Return evenly spaced integers: the first, and for each block of 128 the step, to which no value adds any bits."""
    blocks = -(-(count - 1) // 128)
    return _varint(128) + _varint(4) + _varint(count) + _int(first) + (_int(step) + bytes(4)) * blocks


# --- Thrift's compact protocol --------------------------------------------------------------------------------------


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _int(number: int) -> bytes:
    return _varint(number << 1 if number >= 0 else ~(number << 1))


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _varint(len(encoded)) + encoded


def _list(kind: int, items: list[bytes]) -> bytes:
    head = bytes([len(items) << 4 | kind]) if len(items) < 15 else bytes([0xF0 | kind]) + _varint(len(items))
    return head + b"".join(items)


def _struct(*fields: tuple[int, int, bytes]) -> bytes:
    """Return a struct of fields `(id, type, value)` in the order of their ids."""
    out, last = bytearray(), 0
    for number, kind, value in fields:
        out += bytes([(number - last) << 4 | kind]) + value
        last = number
    return bytes(out) + b"\x00"
