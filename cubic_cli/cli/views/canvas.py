"""A picture of dots, two wide and four high in a cell of the terminal: braille, or one letter a cell where that is not.

A library (plotext, uniplot) brings colours, widths and a global state of its own; what is needed of one is this.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from cubic_cli.float32 import Float64

_BRAILLE = 0x2800  # the first of 256 characters, which has no dot
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], np.uint8)  # of the eight dots of a cell
HIGH, WIDE = _BITS.shape  # dots in a cell


class Layer(NamedTuple):
    """Dots `[4 · cells high, 2 · cells wide]` of one style, and the letter that stands for them without braille."""

    dots: NDArray[np.bool_]
    style: str
    letter: str


def points(x: Float64, y: Float64, high: int, wide: int) -> NDArray[np.bool_]:
    """Return the dots of points in the unit square, y upward, on a picture of `high` by `wide` cells."""
    dots = np.zeros((HIGH * high, WIDE * wide), np.bool_)
    dots[_place(1.0 - y, HIGH * high), _place(x, WIDE * wide)] = True
    return dots


def line(x: Float64, y: Float64, high: int, wide: int) -> NDArray[np.bool_]:
    """Return the dots of the line through points in the unit square, in their order, without a gap."""
    steps = np.hypot(np.diff(x) * WIDE * wide, np.diff(y) * HIGH * high)
    along = np.concatenate([[0.0], np.cumsum(np.ceil(2 * steps))])  # two looks a dot
    where = np.arange(along[-1] + 1)
    return points(np.interp(where, along, x), np.interp(where, along, y), high, wide)


def _place(share: Float64, dots: int) -> NDArray[np.intp]:
    return np.clip(share * dots, 0, dots - 1).astype(np.intp)


def braille(layers: Sequence[Layer]) -> list[Text]:
    """Return the lines of a picture; where layers share a cell it has the dots of all and the style of the first."""
    lit: NDArray[np.bool_] = np.logical_or.reduce([layer.dots for layer in layers])
    codes = np.einsum("hiwj,ij->hw", _cells(lit).astype(np.int64), _BITS.astype(np.int64))
    return _lines(layers, np.vectorize(lambda code: chr(_BRAILLE + code) if code else " ", otypes=[object])(codes))


def letters(layers: Sequence[Layer]) -> list[Text]:
    """Return the lines of a picture with a letter a cell, that of the first layer that has a dot there."""
    return _lines(layers, np.array([" ", *(layer.letter for layer in layers)], object)[_owners(layers)])


def _cells(dots: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return dots cell by cell, `[high, 4, wide, 2]`."""
    return dots.reshape(len(dots) // HIGH, HIGH, -1, WIDE)


def _owners(layers: Sequence[Layer]) -> NDArray[np.int64]:
    """Return the layer, from 1, that each cell `[high, wide]` belongs to; 0 is none."""
    there = np.stack([np.logical_or.reduce(_cells(layer.dots), axis=(1, 3)) for layer in layers])
    owners: NDArray[np.int64] = np.where(there.any(axis=0), 1 + np.argmax(there, axis=0), 0)
    return owners


def _lines(layers: Sequence[Layer], glyphs: NDArray[Any]) -> list[Text]:
    styles = ["", *(layer.style for layer in layers)]
    lines = []
    for row, owners in zip(glyphs, _owners(layers), strict=True):
        text = Text()
        for owner, cells in itertools.groupby(zip(owners, row, strict=True), key=lambda cell: int(cell[0])):
            text.append("".join(glyph for _, glyph in cells), styles[owner])
        lines.append(text)
    return lines
