"""Where samples stand: batches in pieces, pieces in blocks of one shape, blocks in chunks.

A batch of `B` samples is observed in pieces of at most a block, so that a batch larger than the memory passes too.
Pieces are laid out in blocks of one shape, `[pieces, S]` or `[S, pieces]`, the rest padded; a chunk is what is
dispatched at a time.

    N samples, B batch, K batches, S samples of a piece
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cubic_cli.data.problem import Float32

# Samples of a block of the schedule by units: what is known of each stays in the cache, and starting costs little.
_BLOCK = 10_000
# XLA has a fast reduction for wide rows, the batches here; narrow ones are columns: a vector reduces many at once.
_WIDE_BATCH = 100
_CHUNK = 1 << 20  # samples dispatched at a time


class Layout(NamedTuple):
    """Where the samples of a chunk stand on the devices: K batches, the last may be shorter.

    `axis` is that of a block along which the samples of a piece lie: they are `[blocks, pieces, S]`, or
    `[blocks, S, pieces]` where it is 0.
    """

    batches: int
    batch: int
    piece: int
    pieces_per_batch: int
    pieces: int
    blocks: int
    axis: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the samples of a chunk."""
        return self.blocks, *((self.pieces, self.piece) if self.axis else (self.piece, self.pieces))


def lay_out(samples: int, batch: int, devices: int, limit: int | None = None) -> Layout:
    """Choose pieces and blocks for batches of `batch` of `samples` on `devices`.

    A block has at most `limit` samples and rows for pieces; without a limit it is as the schedule by units likes it.
    """
    batch = min(batch, samples)
    axis = 0 if limit is None and batch < _WIDE_BATCH else 1
    limit = limit or _BLOCK
    pieces_per_batch = -(-batch // limit)
    piece = -(-batch // pieces_per_batch)
    batches = -(-samples // batch)
    total = batches * pieces_per_batch
    pieces = min(-(-total // devices), max(1, limit // piece))
    blocks = -(-total // pieces)
    if blocks > 1:
        blocks = -(-blocks // devices) * devices
        pieces = -(-total // blocks)
    return Layout(batches, batch, piece, pieces_per_batch, pieces, blocks, axis)


def place(layout: Layout, values: Float32) -> Float32:
    """Return `values [n]`, n ≤ N, in the layout's shape; the padding repeats the last value of its batch."""
    wide = layout.piece * layout.pieces_per_batch
    size = layout.blocks * layout.pieces * layout.piece
    if wide != layout.batch:
        whole = -(-len(values) // layout.batch) * layout.batch
        rows = np.pad(values, (0, whole - len(values)), mode="edge").reshape(-1, layout.batch)
        values = np.pad(rows, ((0, 0), (0, wide - layout.batch)), mode="edge").reshape(-1)
    if len(values) < size:
        values = np.pad(values, (0, size - len(values)), mode="edge")
    blocks = values.reshape(layout.blocks, layout.pieces, layout.piece)
    return blocks if layout.axis else np.ascontiguousarray(blocks.swapaxes(1, 2))


def piece_sizes(layout: Layout, samples: int) -> NDArray[np.int32]:
    """Return how many of `samples` each piece holds, `[blocks, pieces]`."""
    of_batch = np.clip(samples - np.arange(layout.batches) * layout.batch, 0, layout.batch)
    sizes = np.clip(of_batch[:, None] - np.arange(layout.pieces_per_batch) * layout.piece, 0, layout.piece)
    placed = np.zeros(layout.blocks * layout.pieces, np.int32)
    placed[: sizes.size] = sizes.reshape(-1)
    return placed.reshape(layout.blocks, layout.pieces)


def spans(samples: int, batch: int) -> list[tuple[int, int]]:
    """Return the samples `(start, stop)` of each chunk: whole batches, or a part of one that is larger than a chunk."""
    if batch > _CHUNK:
        part = -(-batch // -(-batch // _CHUNK))
        starts = (at for first in range(0, samples, batch) for at in range(first, min(first + batch, samples), part))
        return [(at, min(at + part, at - at % batch + batch, samples)) for at in starts]
    batches = -(-samples // batch)
    chunk = -(-batches // -(-samples // _CHUNK)) * batch
    return [(at, min(at + chunk, samples)) for at in range(0, samples, chunk)]
