"""Where samples stand: batches in pieces, pieces in blocks of one shape, blocks in chunks.

A batch of `B` samples is observed in pieces of at most a block, so that a batch larger than the memory passes too.
Pieces are laid out in blocks `[pieces, S]` of one shape, the rest padded; a chunk is what is dispatched at a time.

    N samples, B batch, K batches, S samples of a piece
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cubic_cli.problem import Float32

# Samples of a block of the other schedule: what is known of each stays in the cache, and starting costs little. XLA has
# a fast reduction for wide rows, the batches here, but takes it in large blocks alone; narrow rows are better without.
_WIDE_BATCH, _NARROW_BLOCK, _WIDE_BLOCK = 100, 3_700, 8_200
_CHUNK = 1 << 20  # samples dispatched at a time


class Layout(NamedTuple):
    """Where the samples of a chunk stand on the devices, `[blocks, pieces, S]`: K batches, the last may be shorter."""

    batches: int
    batch: int
    piece: int
    pieces_per_batch: int
    pieces: int
    blocks: int


def lay_out(samples: int, batch: int, limit: int, devices: int) -> Layout:
    """Choose pieces and blocks, of at most `limit` samples, for batches of `batch` of `samples` on `devices`."""
    batch = min(batch, samples)
    pieces_per_batch = -(-batch // limit)
    piece = -(-batch // pieces_per_batch)
    batches = -(-samples // batch)
    total = batches * pieces_per_batch
    pieces = min(-(-total // devices), max(1, limit // piece))
    blocks = -(-total // pieces)
    if blocks > 1:
        blocks = -(-blocks // devices) * devices
        pieces = -(-total // blocks)
    return Layout(batches, batch, piece, pieces_per_batch, pieces, blocks)


def block_size(batch: int) -> int:
    """Return how many samples a block of the schedule by units has at most."""
    return _WIDE_BLOCK if batch >= _WIDE_BATCH else _NARROW_BLOCK


def place(layout: Layout, values: Float32) -> Float32:
    """Return `values [n]`, n ≤ N, as `[blocks, pieces, S]`; the padding repeats the last value of its batch."""
    wide = layout.piece * layout.pieces_per_batch
    size = layout.blocks * layout.pieces * layout.piece
    if wide != layout.batch:
        whole = -(-len(values) // layout.batch) * layout.batch
        rows = np.pad(values, (0, whole - len(values)), mode="edge").reshape(-1, layout.batch)
        values = np.pad(rows, ((0, 0), (0, wide - layout.batch)), mode="edge").reshape(-1)
    if len(values) < size:
        values = np.pad(values, (0, size - len(values)), mode="edge")
    return values.reshape(layout.blocks, layout.pieces, layout.piece)


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
