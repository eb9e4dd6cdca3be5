"""Where samples stand: batches in pieces, pieces in blocks of one shape, blocks in chunks.

A batch of `B` samples is observed in pieces of at most a block, so that a batch larger than the memory passes too.
Pieces are laid out in blocks of one shape, `[pieces, S]` or `[S, pieces]`, the rest padded; a chunk is what is
dispatched at a time.

    N samples, B batch, K batches, S samples of a piece, H hidden
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cubic_cli.data.source import RESIDENT
from cubic_cli.engine.mesh import spans_processes
from cubic_cli.float32 import Float32


class Tuning(NamedTuple):
    """How much of the work one kind of device likes at a time.

    Attributes:
        chunk: samples dispatched at a time.
        block: samples of a block of the schedule by units.
        unroll: units of the hidden layer in one step of its scan.
        in_cache: whether a block's carry stays in the cache; else each step's sums are added up over the samples.
        plain_values: values of z1 in a block of the plain schedule; bounds its memory.
        resident: samples that stay on the devices from epoch to epoch, where no more are asked for.
        history_values: values of z1 in the epochs after the first, beyond which a program for the history alone is
            compiled beside the first epochs.
    """

    chunk: int = 1 << 20
    block: int = 10_000
    unroll: int = 4
    in_cache: bool = True
    plain_values: int = 1 << 21
    history_values: int = 1 << 26
    resident: int = RESIDENT


# On a CPU what is known of a block of samples stays in the cache, and more units in a step compile longer and run no
# faster. On an accelerator all samples are one block a device, for blocks run one after the other. What is carried goes
# to the memory and back with every step: so sums are not, unless the activation has exponentials.
#
# An NVIDIA H200, JAX 0.11.2, N = 16,384,000, H = 64, G samples/s on the device, one epoch at a time, B = 10 / 1000:
#
#                                            history        all            all, H = 1024   all, gelu (N = 2²²)
#     16 units, sums added up in each step   15.5 / 17.3    8.6 / 8.5      0.83            2.1
#     16 units, sums carried by sample                      6.5 / 6.8      0.75            3.0
#     16 units, all but z2 by piece          14.2 / 15.7    6.0 / 8.8      0.82            2.5
#     32 units                               16.6 / 17.1
#     64 units as an axis                     4.2 / 4.3     1.6 / 1.6      0.28            1.1
#     in blocks of 10,000                     0.05 / 0.07   0.04
#
# With the next epochs on their way, as in a run, 21.0 / 22.6 and 10.5 / 10.8. 32 units take twice as long to compile.
# A TPU gets the same, by its documentation alone: vectors lie along the minor axis, as the samples do. It is untried.
CPU = Tuning()
GPU = Tuning(chunk=1 << 24, block=1 << 24, unroll=16, in_cache=False, plain_values=1 << 26, history_values=1 << 40)
TPU = GPU
_TUNINGS = {"cpu": CPU, "gpu": GPU, "tpu": TPU}
_SAMPLE_BYTES = 256  # that a sample of a chunk may take: 64 were measured, of two chunks on their way and one kept
_PLAIN_BYTES = 64  # that a value of z1 may take in the plain schedule: four arrays of them in a quarter of the memory


def usual_tuning(device: Any) -> Tuning:
    """Return how much of the work a device of this kind likes, whatever its memory; of an unknown kind as a GPU."""
    return _TUNINGS.get(device.platform, GPU)


def choose_tuning(devices: list[Any]) -> Tuning:
    """Return how much of the work the devices like, of what their free memory holds; of many processes all alike."""
    tuning = usual_tuning(devices[0])
    if devices[0].platform == "cpu" or spans_processes(devices):
        return tuning
    least = min(_free_bytes(device) for device in devices)
    free = least * len(devices)
    chunk = min(tuning.chunk, _power_of_two(free // _SAMPLE_BYTES))
    plain_values = min(tuning.plain_values, _power_of_two(least // _PLAIN_BYTES))
    resident = free // 32  # a quarter, of 8 bytes a sample
    return tuning._replace(chunk=chunk, block=min(tuning.block, chunk), plain_values=plain_values, resident=resident)


def _power_of_two(most: int) -> int:
    """Return the largest that is not beyond `most`, or a thousand."""
    return 1 << max(10, most.bit_length() - 1)


def _free_bytes(device: Any) -> int:
    try:
        stats = device.memory_stats() or {}
    except (NotImplementedError, RuntimeError):
        stats = {}
    return int(stats.get("bytes_limit", 1 << 33)) - int(stats.get("bytes_in_use", 0))


# XLA has a fast reduction for wide rows, the batches here; narrow ones are columns: a vector reduces many at once.
_WIDE_BATCH = 100
_PLAIN_PIECE = 1 << 8  # samples whose statistics are summed in float32; the host adds these in float64


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

    def on_all(self, devices: int) -> "Layout":
        """Return the layout with as many blocks, some of them empty, that all devices have the same number."""
        return self._replace(blocks=-(-self.blocks // devices) * devices)

    # What follows is the same for nearly all chunks, and as large as the figures themselves: so it is kept, read-only.

    @functools.lru_cache(4)  # noqa: B019 (a layout is a value, and a few are kept)
    def sizes(self, samples: int) -> NDArray[np.int64]:
        """Return the sizes of the batches of `samples`, `[K]`."""
        sizes = np.full(-(-samples // self.batch), self.batch, np.int64)
        sizes[-1] = samples - (len(sizes) - 1) * self.batch
        sizes.flags.writeable = False
        return sizes

    @functools.lru_cache(4)  # noqa: B019
    def piece_sizes(self, samples: int) -> NDArray[np.int32]:
        """Return how many of `samples` each piece holds, `[blocks, pieces]`."""
        of_batch = np.clip(samples - np.arange(self.batches) * self.batch, 0, self.batch)
        sizes = np.clip(of_batch[:, None] - np.arange(self.pieces_per_batch) * self.piece, 0, self.piece)
        placed = np.zeros((self.blocks, self.pieces), np.int32)
        placed.reshape(-1)[: sizes.size] = sizes.reshape(-1)
        placed.flags.writeable = False
        return placed

    @functools.lru_cache(2)  # noqa: B019
    def nothing(self) -> NDArray[np.int64]:
        """Return zeros for all batches, `[K]`."""
        nothing = np.zeros(self.batches, np.int64)
        nothing.flags.writeable = False
        return nothing


def lay_out(samples: int, batch: int, devices: int, block: int) -> Layout:
    """Choose pieces and blocks for the schedule by units. Narrow batches stand in columns, wide ones in rows.

    Args:
        samples: of a chunk, at most.
        batch: B.
        devices: D; each has as many blocks, where there is more than one block at all.
        block: samples of a block, at most, and so of a piece.
    """
    batch = min(batch, samples)
    return _lay_out(samples, batch, devices, block, block, axis=0 if batch < _WIDE_BATCH else 1)


def lay_out_plain(samples: int, batch: int, devices: int, block: int) -> Layout:
    """Choose pieces and blocks for the plain schedule: rows, of pieces short enough to be summed in float32.

    How many pieces a block has does not depend on the devices, for the last bit of a product may depend on its shape.
    """
    layout = _lay_out(samples, min(batch, samples), 1, block, min(block, _PLAIN_PIECE), axis=1)
    return layout if layout.blocks == 1 else layout.on_all(devices)


def _lay_out(samples: int, batch: int, devices: int, block: int, longest: int, axis: int) -> Layout:
    pieces_per_batch = -(-batch // longest)
    piece = -(-batch // pieces_per_batch)
    batches = -(-samples // batch)
    total = batches * pieces_per_batch
    pieces = min(-(-total // devices), max(1, block // piece))
    blocks = -(-total // pieces)
    if blocks > 1:
        blocks = -(-blocks // devices) * devices
        pieces = -(-total // blocks)  # as even as can be
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


def spans(samples: int, batch: int, chunk: int) -> list[tuple[int, int]]:
    """Return the samples `(start, stop)` of each chunk: whole batches, or a part of one that is larger than a chunk."""
    if batch > chunk:
        part = -(-batch // -(-batch // chunk))
        starts = (at for first in range(0, samples, batch) for at in range(first, min(first + batch, samples), part))
        return [(at, min(at + part, at - at % batch + batch, samples)) for at in starts]
    batches = -(-samples // batch)
    size = -(-batches // -(-samples // chunk)) * batch
    return [(at, min(at + size, samples)) for at in range(0, samples, size)]
