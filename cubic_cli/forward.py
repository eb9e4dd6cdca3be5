"""The forward pass over a dataset: samples to batches, batches to devices, one compiled loop, an epoch at a time.

A batch of `B` samples is observed in pieces, so that a batch larger than the memory passes too; pieces are laid out in
blocks `[pieces, S]` of one shape, the rest padded and masked. Each device maps over its own blocks.

    N samples, B batch, K batches, S samples of a piece, H hidden
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cubic_cli.config import Activation
from cubic_cli.dataset import Float32
from cubic_cli.network import ACTIVATIONS, Parameters, forward
from cubic_cli.statistics import Statistics, merge_all, summarise, to_host

_BLOCK_VALUES = 1 << 21  # values of z1 in one block: bounds the memory of a device
_MAX_PIECE = 1 << 14


class Observation(NamedTuple):
    """What is seen of one piece: the statistics of each tensor and the sum of the squared errors."""

    z1: Statistics
    a1: Statistics
    z2: Statistics
    squared_error: Any


class Layout(NamedTuple):
    """Where the samples stand on the devices: `[blocks, pieces, S]`."""

    samples: int
    batch: int
    piece: int
    pieces_per_batch: int
    pieces: int
    blocks: int

    @property
    def batches(self) -> int:
        """K, the last and shorter one included."""
        return -(-self.samples // self.batch)


def lay_out(samples: int, batch: int, hidden: int, devices: int) -> Layout:
    """Choose pieces and blocks for `samples` in batches of `batch` on `devices` devices."""
    batch = min(batch, samples)
    limit = max(1, min(_MAX_PIECE, _BLOCK_VALUES // hidden))
    pieces_per_batch = -(-batch // limit)
    piece = -(-batch // pieces_per_batch)
    total = -(-samples // batch) * pieces_per_batch
    pieces = min(total, max(1, limit // piece))
    blocks = -(-total // pieces)
    if blocks > 1:
        blocks = -(-blocks // devices) * devices
    return Layout(samples, batch, piece, pieces_per_batch, pieces, blocks)


def place(layout: Layout, values: Float32) -> Float32:
    """Return `values [N]` as `[blocks, pieces, S]`, padded with zeros."""
    wide = layout.piece * layout.pieces_per_batch
    size = layout.blocks * layout.pieces * layout.piece
    if wide == layout.batch:
        placed = np.zeros(size, np.float32)
        placed[: layout.samples] = values
    else:
        whole = np.zeros(layout.batches * layout.batch, np.float32)
        whole[: layout.samples] = values
        padded = np.zeros((layout.batches, wide), np.float32)
        padded[:, : layout.batch] = whole.reshape(layout.batches, layout.batch)
        placed = np.zeros(size, np.float32)
        placed[: padded.size] = padded.reshape(-1)
    return placed.reshape(layout.blocks, layout.pieces, layout.piece)


def piece_sizes(layout: Layout) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return how many samples each piece holds, `[blocks, pieces]`."""
    sizes = np.minimum(layout.batch, layout.samples - np.arange(layout.batches) * layout.batch)
    of_batch = np.clip(sizes[:, None] - np.arange(layout.pieces_per_batch) * layout.piece, 0, layout.piece)
    placed = np.zeros(layout.blocks * layout.pieces, np.int32)
    placed[: of_batch.size] = of_batch.reshape(-1)
    return placed.reshape(layout.blocks, layout.pieces)


def observe(activation: Activation, parameters: Parameters, x: jax.Array, y: jax.Array, size: jax.Array) -> Observation:
    """Run the forward pass over a block, `x` and `y` `[pieces, S]`, and observe each piece."""
    tensors = forward(parameters, x[..., None], ACTIVATIONS[activation])
    mask = (jnp.arange(x.shape[-1], dtype=jnp.int32)[None, :] < size[:, None])[..., None]
    error = jnp.where(mask, tensors.z2 - y[..., None], 0.0)
    z1, a1, z2 = (summarise(tensor, mask, (1, 2)) for tensor in tensors)
    return Observation(z1, a1, z2, jnp.sum(error * error, axis=(1, 2)))


@functools.cache
def compiled_epoch(activation: Activation, mesh: Mesh) -> Callable[..., Observation]:
    """Return the compiled loop over `[blocks, …]`, sharded over the mesh; the only `jit` of the pass."""

    def blocks(parameters: Parameters, x: jax.Array, y: jax.Array, sizes: jax.Array) -> Observation:
        seen: Observation = jax.lax.map(lambda block: observe(activation, parameters, *block), (x, y, sizes))
        return seen

    over = PartitionSpec("devices")
    return jax.jit(
        jax.shard_map(blocks, mesh=mesh, in_specs=(PartitionSpec(), over, over, over), out_specs=over, check_vma=False)
    )


@dataclass(frozen=True)
class Epoch:
    """One epoch: per batch the loss and the extremes, for the whole the statistics of each tensor, the seconds."""

    batch_loss: Float32
    batch_z1: Statistics
    batch_a1: Statistics
    batch_z2: Statistics
    sizes: np.ndarray[Any, np.dtype[np.int64]]
    loss: float
    seconds: float

    def tensors(self) -> dict[str, Statistics]:
        """Return the statistics of z1, a1 and z2 over the whole epoch."""
        return {name: merge_all(getattr(self, f"batch_{name}")) for name in ("z1", "a1", "z2")}


class Pass:
    """The samples on the devices, and the compiled loop over them. Compiles when it is made.

    Args:
        parameters: the network's.
        x, y: the samples, `[N]`.
        batch_size: B.
        activation: of the hidden layer.
        devices: JAX's devices to use.
    """

    def __init__(
        self,
        parameters: Parameters,
        x: Float32,
        y: Float32,
        batch_size: int,
        activation: Activation,
        devices: list[jax.Device],
    ) -> None:
        layout = lay_out(len(x), batch_size, parameters.input_layer.bias.size, len(devices))
        self.layout = layout
        self.devices = devices[: layout.blocks]
        mesh = Mesh(np.array(self.devices), ("devices",))
        over = NamedSharding(mesh, PartitionSpec("devices"))
        started = time.perf_counter()
        arrays = jax.device_put((place(layout, x), place(layout, y), piece_sizes(layout)), over)
        self._arguments = (jax.device_put(parameters, NamedSharding(mesh, PartitionSpec())), *arrays)
        self._run = compiled_epoch(activation, mesh).lower(*self._arguments).compile()  # type: ignore[attr-defined]
        self.compile_seconds = time.perf_counter() - started

    def epoch(self) -> Epoch:
        """Run one epoch; blocks until its figures are on the host."""
        started = time.perf_counter()
        seen: Observation = jax.device_get(self._run(*self._arguments))
        seconds = time.perf_counter() - started
        used = self.layout.batches * self.layout.pieces_per_batch
        per_batch = jax.tree.map(
            lambda a: a.reshape(-1)[:used].reshape(self.layout.batches, self.layout.pieces_per_batch), seen
        )
        sizes = np.full(self.layout.batches, self.layout.batch, np.int64)
        sizes[-1] = self.layout.samples - (self.layout.batches - 1) * self.layout.batch
        total = per_batch.squared_error.sum(axis=1, dtype=np.float64)
        with np.errstate(over="ignore"):
            batch_loss = (total / sizes).astype(np.float32)
            loss = float(np.float32(total.sum() / self.layout.samples))
        merge_pieces = merge_all if self.layout.pieces_per_batch > 1 else _only_piece
        return Epoch(
            batch_loss,
            merge_pieces(per_batch.z1),
            merge_pieces(per_batch.a1),
            merge_pieces(per_batch.z2),
            sizes,
            loss,
            seconds,
        )


def _only_piece(statistics: Statistics) -> Statistics:
    return to_host(Statistics(*(field[:, 0] for field in statistics)))
