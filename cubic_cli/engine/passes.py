"""The pass: blocks of samples to devices, compiled loops over them, an epoch at a time.

The blocks of a chunk (`layout`) are sharded over the devices, and each device maps over its own. Chunks are dispatched
ahead, so that reading, computing and recording overlap.

    N samples, B batch, K batches, S samples of a piece, H hidden
"""

import functools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from cubic_cli.config import Activation
from cubic_cli.data.problem import Float32
from cubic_cli.data.source import RESIDENT, Source
from cubic_cli.engine import schedule
from cubic_cli.engine.devices import has_wide_vectors
from cubic_cli.engine.layout import Layout, lay_out, piece_sizes, place, spans
from cubic_cli.network import Layer, Parameters
from cubic_cli.statistics import Statistics, from_moments, merge_all, merge_by_name

TENSORS = ("z1", "a1", "z2")
_PLAIN_VALUES = 1 << 21  # values of z1 in one block of the plain schedule: bounds the memory of a device
_PLAIN_PIECE = 1 << 14
# A CPU's cores are devices here already: loops split once more over all cores only wait for each other.
_WITHOUT = "rematerialization,cpu-parallel-task-assigner"
_AHEAD = 2  # chunks dispatched ahead
_LITTLE_WORK = 1 << 26  # values of z1: below, compiling a program for the history alone costs more than it saves
_tracing = threading.Lock()


@dataclass(frozen=True)
class Chunk:
    """What was seen of a run of whole batches; the arrays are `[K]`, the extremes over finite values.

    `tensors` are the statistics over the chunk, None where only the history was asked for. `squared_error` is the sum
    over each batch, in float64 of float32 pieces; `nonfinite` counts the values of z1, a1 and z2 that are not finite.
    """

    first_batch: int
    sizes: NDArray[np.int64]
    squared_error: NDArray[np.float64]
    low: dict[str, Float32]
    high: dict[str, Float32]
    nonfinite: NDArray[np.int64]
    tensors: dict[str, Statistics] | None

    @property
    def loss(self) -> Float32:
        """The mean squared error of each batch."""
        with np.errstate(over="ignore"):
            return (self.squared_error / self.sizes).astype(np.float32)


def map_blocks(
    see: Callable[..., Any], devices: tuple[jax.Device, ...], complete: Callable[[Any], Any] = lambda seen: seen
) -> tuple[Callable[..., Any], Mesh]:
    """Return the loop that maps `see` over blocks of samples, sharded over the devices, and the mesh of these.

    `see` takes the parameters and one block `(x, y, …)`; the loop the parameters and all blocks, `[blocks, …]`.
    `complete` is given what was seen of all blocks of a device.
    """
    mesh = Mesh(np.array(devices), ("devices",))
    over, everywhere = PartitionSpec("devices"), PartitionSpec()

    def blocks(parameters: Parameters, x: jax.Array, y: jax.Array, rest: jax.Array) -> Any:
        return complete(jax.lax.map(lambda block: see(parameters, *block), (x, y, rest)))

    specs = (everywhere, over, over, over)
    return jax.shard_map(blocks, mesh=mesh, in_specs=specs, out_specs=over, check_vma=False), mesh


@functools.lru_cache(64)
def _compile(
    name: str, activation: Activation | None, layout: Layout, hidden: int, devices: tuple[jax.Device, ...]
) -> tuple[Any, Mesh]:
    """Compile the loop of a schedule over the blocks of a chunk, sharded over the devices: the only `jit` of the pass.

    Without an activation it takes the index of one beside the parameters. Passes of the same shapes share a program.
    """

    def see(given: Any, *block: jax.Array) -> Any:
        parameters, kind = given if activation is None else (given, activation)
        if name == "plain":
            return schedule.plain(kind, parameters, *block)
        return schedule.by_unit(kind, name == "moments", layout.axis, parameters, *block)

    def complete(seen: Any) -> Any:
        return seen if name == "plain" else schedule.complete(activation, seen)

    loop, mesh = map_blocks(see, devices, complete)
    over, everywhere = PartitionSpec("devices"), PartitionSpec()

    def shaped(shape: tuple[int, ...], kind: Any, spec: PartitionSpec) -> Any:
        return jax.ShapeDtypeStruct(shape, kind, sharding=NamedSharding(mesh, spec))

    parameters = Parameters(
        Layer(shaped((1, hidden), np.float32, everywhere), shaped((hidden,), np.float32, everywhere)),
        Layer(shaped((hidden, 1), np.float32, everywhere), shaped((1,), np.float32, everywhere)),
    )
    samples, sizes = shaped(layout.shape, np.float32, over), shaped((layout.blocks, layout.pieces), np.int32, over)
    given = parameters if activation is not None else (parameters, shaped((), np.int32, everywhere))
    options = compiler_options(name, devices[0])
    return compile_ahead(jax.jit(loop), (given, samples, samples, sizes), options), mesh


def compile_ahead(function: Any, arguments: tuple[Any, ...], options: dict[str, str | bool] | None) -> Any:
    """Compile what `jax.jit` returned for arguments of these shapes. Threads trace in turn, and compile side by side.

    For tracing holds Python's lock: where several trace at once, none is done before all are.
    """
    with _tracing:
        lowered = function.lower(*arguments)
    return lowered.compile(options)


def compiler_options(name: str, device: jax.Device) -> dict[str, str | bool] | None:
    """Return how XLA is to compile the schedule `name` for a device: which passes it leaves out, and how wide."""
    if device.platform != "cpu":
        return None
    if name == "plain":
        return {"xla_disable_hlo_passes": _WITHOUT}
    wide = {"xla_cpu_prefer_vector_width": "512"} if has_wide_vectors() else {}
    return {"xla_disable_hlo_passes": f"{_WITHOUT},cse", **wide}


class _Program:
    """One schedule, compiled for chunks of one shape, with the parameters in place."""

    def __init__(
        self,
        name: str,
        activation: Activation,
        any_activation: bool,
        layout: Layout,
        parameters: Parameters,
        devices: list[jax.Device],
    ) -> None:
        self.layout, self.devices = layout, devices[: layout.blocks]
        compiled_for = None if any_activation else activation
        hidden = parameters.input_layer.bias.size
        self._run, mesh = _compile(name, compiled_for, layout, hidden, tuple(self.devices))
        self._over = NamedSharding(mesh, PartitionSpec("devices"))
        # From the host: between devices JAX would compile a program for each array.
        given: Any = jax.tree.map(np.asarray, parameters)
        if any_activation:
            given = given, np.int32([*Activation].index(activation))
        self._given = jax.device_put(given, NamedSharding(mesh, PartitionSpec()))

    def put(self, x: Float32, y: Float32) -> Any:
        """Copy the samples of a chunk to the devices."""
        placed = (place(self.layout, x), place(self.layout, y), piece_sizes(self.layout, len(x)))
        return jax.device_put(placed, self._over)

    def start(self, arrays: Any) -> Any:
        """Dispatch a chunk; returns at once."""
        return self._run(self._given, *arrays)

    def by_batch(self, values: Any, samples: int) -> Any:
        """Return `values [blocks, pieces]` as `[K, pieces of a batch]`."""
        batches = -(-samples // self.layout.batch)
        per_batch = self.layout.pieces_per_batch
        return np.asarray(values).reshape(-1)[: batches * per_batch].reshape(batches, per_batch)

    def merged(self, merge: np.ufunc, values: Any, samples: int) -> Any:
        """Return `values [blocks, pieces]` with the pieces of each batch merged, `[K]`."""
        by_batch = self.by_batch(values, samples)
        return by_batch[:, 0] if self.layout.pieces_per_batch == 1 else merge.reduce(by_batch, axis=1)


class _Dispatched(NamedTuple):
    """A chunk on its way: the schedule, what will be seen, and when it was dispatched, by the clock of the pass."""

    kind: str
    running: Any
    at: float


class Pass:
    """The forward pass over samples, epoch by epoch, on the devices. Compiles when it is made.

    Args:
        parameters: the network's.
        source: the samples.
        batch_size: B.
        activation: of the hidden layer.
        devices: JAX's devices to use.
        num_epochs: how many epochs will be asked for; long work is worth one more program, for the history alone, which
            another thread compiles while the first epochs pass.
        by_unit: force the schedule (None chooses).
        any_activation: whether to compile one program for all activations, to which this one is an argument; it is
            sooner done than one for each, and runs longer.
        statistics: whether those of the tensors will be asked for; if not, only the history's program is compiled.
    """

    def __init__(
        self,
        parameters: Parameters,
        source: Source,
        batch_size: int,
        activation: Activation,
        devices: list[jax.Device],
        num_epochs: int = 1,
        by_unit: bool | None = None,
        any_activation: bool = False,
        statistics: bool = True,
    ) -> None:
        self.source, self._activation, self._any_activation = source, activation, any_activation
        self._parameters, self._devices = parameters, devices
        hidden = parameters.input_layer.bias.size
        if by_unit is None:
            by_unit = devices[0].platform == "cpu" and hidden <= schedule.MAX_UNITS
        self.batch = min(batch_size, source.count)
        self._spans = spans(source.count, self.batch)
        self._chunk = max(stop - start for start, stop in self._spans)
        self._by_unit = by_unit
        self._plain_limit = max(1, min(_PLAIN_PIECE, _PLAIN_VALUES // hidden))
        self._programs: dict[str, _Program] = {}
        self._resident: dict[tuple[str, int], Any] = {}
        self._plain_spans: set[int] = set()
        self._ahead: deque[_Dispatched] = deque()
        self._compiling: threading.Thread | None = None
        self.compile_seconds = 0.0
        self.epoch_seconds = 0.0
        self._on_host = -math.inf  # when the latest figures were, by `_clock`
        self._statistics = statistics
        self.devices = self._program(self._kind(statistics)).devices
        if by_unit and statistics and source.count * hidden * (num_epochs - 1) > _LITTLE_WORK:
            self._compiling = threading.Thread(target=self._make_program, args=("history",), daemon=True)
            self._compiling.start()

    def wait_for_programs(self) -> None:
        """Wait until all is compiled; the epochs that follow run at full speed."""
        if self._compiling is not None:
            self._compiling.join()

    def _clock(self) -> float:
        """Return the time in seconds, by a clock that stands still while an epoch waits for the compiler."""
        return time.perf_counter() - self.compile_seconds

    def chunks(self, statistics: bool = True, more: bool = False) -> Iterator[Chunk]:
        """Run one epoch, and yield what was seen, chunk by chunk; with or without the statistics of the tensors.

        If `more` is to come, an epoch without them, the devices of a long run get its first chunks before they are done
        with this one. `epoch_seconds` run from when the devices could begin with the epoch, which is when its first
        chunk is dispatched or the earlier epoch is done, until the latest figures are on the host.
        """
        coming = list(range(len(self._spans)))
        if more and self._compiling is not None and not self._plain_spans:
            coming += coming[:_AHEAD]
        self._keep_busy(coming, 0, statistics)
        began = max(self._ahead[0].at, self._on_host)
        part: Chunk | None = None
        for index, (start, stop) in enumerate(self._spans):
            kind, running, _ = self._ahead.popleft()
            self._keep_busy(coming, index + 1, statistics)
            chunk = self._collect(kind, jax.device_get(running), start, stop - start)
            if chunk is None:
                self._plain_spans.add(index)
                del coming[len(self._spans) :]  # the next epoch cannot be ahead of what is done again
                while len(self._ahead) > len(self._spans) - index - 1:
                    self._ahead.pop()
                running = self._program("plain").start(self._arrays("plain", index))
                chunk = self._collect("plain", jax.device_get(running), start, stop - start)
                assert chunk is not None
            self._on_host = self._clock()
            self.epoch_seconds = self._on_host - began
            part = chunk if part is None else join(part, chunk)
            if stop % self.batch == 0 or stop == self.source.count:
                yield part
                part = None

    def _keep_busy(self, coming: list[int], position: int, statistics: bool) -> None:
        """Dispatch of the chunks `coming`, this epoch's and then the next one's, what is to be ahead of `position`."""
        for at in range(position + len(self._ahead), min(position + _AHEAD, len(coming))):
            self._dispatch(coming[at], statistics and at < len(self._spans))

    def _dispatch(self, index: int, statistics: bool) -> None:
        kind = "plain" if index in self._plain_spans else self._kind(statistics)
        at = self._clock()
        self._ahead.append(_Dispatched(kind, self._program(kind).start(self._arrays(kind, index)), at))

    def _kind(self, statistics: bool) -> str:
        """Return the schedule of most chunks."""
        if not self._by_unit:
            return "plain"
        if not self._statistics:
            return "history"
        return "history" if not statistics and "history" in self._programs else "moments"

    def observe(self, x: Float32, y: Float32) -> dict[str, Statistics]:
        """Return the statistics of each tensor over other samples `[n]`, by the same compiled programs."""
        merged: dict[str, Statistics] = {}
        for start, stop in spans(len(x), self.batch):
            chunk = None
            for name in ("moments", "plain") if self._by_unit else ("plain",):
                program = self._program(name)
                running = program.start(program.put(x[start:stop], y[start:stop]))
                chunk = chunk or self._collect(name, jax.device_get(running), start, stop - start)
            assert chunk is not None
            assert chunk.tensors is not None
            merged = merge_by_name(merged, chunk.tensors)
        return merged

    def _program(self, name: str) -> _Program:
        if name not in self._programs:
            started = time.perf_counter()
            self._make_program(name)
            self.compile_seconds += time.perf_counter() - started
        return self._programs[name]

    def _make_program(self, name: str) -> None:
        limit = self._plain_limit if name == "plain" else None
        layout = lay_out(self._chunk, self.batch, len(self._devices), limit)
        kind = self._activation, self._any_activation
        self._programs[name] = _Program(name, *kind, layout, self._parameters, self._devices)

    def _arrays(self, name: str, index: int) -> Any:
        """Return a chunk on the devices, where it stays if there is room for all."""
        key = ("plain" if name == "plain" else "by_unit", index)
        if key in self._resident:
            return self._resident[key]
        arrays = self._program(name).put(*self.source.read(*self._spans[index]))
        if self.source.count <= RESIDENT:
            self._resident[key] = arrays
        return arrays

    def _collect(self, kind: str, seen: Any, start: int, samples: int) -> Chunk | None:
        """Return the figures of a chunk by batch, or None if only the plain schedule can tell them."""
        program = self._programs[kind]
        batches = -(-samples // self.batch)
        sizes = np.full(batches, min(self.batch, samples), np.int64)
        sizes[-1] = samples - (batches - 1) * self.batch
        squared_error = np.asarray(seen.squared_error, np.float64)
        if isinstance(seen, schedule.Plain):
            scale = np.asarray(seen.error_scale, np.float64)
            squared_error = squared_error / np.square(np.where(scale == 0, 1.0, scale))  # zeros: a device that fails
        squared_error = program.merged(np.add, squared_error, samples)
        low, high = {}, {}
        nonfinite = np.zeros(batches, np.int64)
        tensors: dict[str, Statistics] | None = None
        if isinstance(seen, schedule.Plain):
            tensors = {}
            for name in TENSORS:
                of_batch = merge_all(Statistics(*(program.by_batch(f, samples) for f in getattr(seen, name))))
                low[name], high[name] = of_batch.min.astype(np.float32), of_batch.max.astype(np.float32)
                nonfinite += of_batch.nonfinite
                tensors[name] = merge_all(of_batch)
            return Chunk(start // self.batch, sizes, squared_error, low, high, nonfinite, tensors)
        for name in TENSORS:
            extremes: schedule.Extremes = getattr(seen, name)
            low[name] = program.merged(np.minimum, extremes.min, samples)
            high[name] = program.merged(np.maximum, extremes.max, samples)
        if not all(np.isfinite(values).all() for values in (squared_error, low["z1"], high["z1"])):
            return None
        if seen.moments is not None:
            tensors = {}
            for index, name in enumerate(TENSORS):
                width = 1 if name == "z2" else self._parameters.input_layer.bias.size
                with np.errstate(invalid="ignore"):  # sums that overflowed, to both sides
                    total, squares = (m[:, index].sum(dtype=np.float64) for m in seen.moments[:2])
                zeros = seen.moments.zeros[:, index].sum(dtype=np.int64)
                statistics = from_moments(samples * width, low[name].min(), high[name].max(), zeros, total, squares)
                if statistics is None:
                    return None
                tensors[name] = statistics
        return Chunk(start // self.batch, sizes, squared_error, low, high, nonfinite, tensors)

    def epoch(self) -> "Epoch":
        """Run one epoch and keep all that was seen."""
        return gather(self.chunks(self._statistics))


@dataclass(frozen=True)
class Epoch:
    """One epoch: what was seen of each batch, `[K]`, the loss, and the statistics of each tensor, where asked for."""

    sizes: NDArray[np.int64]
    batch_loss: Float32
    low: dict[str, Float32]
    high: dict[str, Float32]
    nonfinite: NDArray[np.int64]
    tensors: dict[str, Statistics]
    loss: float


def join(a: Chunk, b: Chunk) -> Chunk:
    """Merge two parts of one batch."""
    assert a.tensors is None or b.tensors is not None
    return Chunk(
        a.first_batch,
        a.sizes + b.sizes,
        a.squared_error + b.squared_error,
        {name: np.minimum(a.low[name], b.low[name]) for name in TENSORS},
        {name: np.maximum(a.high[name], b.high[name]) for name in TENSORS},
        a.nonfinite + b.nonfinite,
        None if a.tensors is None or b.tensors is None else merge_by_name(a.tensors, b.tensors),
    )


def gather(chunks: Iterator[Chunk]) -> Epoch:
    """Keep the chunks of an epoch."""
    seen = list(chunks)
    tensors: dict[str, Statistics] = {}
    for chunk in seen:
        tensors = merge_by_name(tensors, chunk.tensors or {})
    sizes = np.concatenate([chunk.sizes for chunk in seen])
    with np.errstate(over="ignore"):
        loss = float(np.float32(sum(float(chunk.squared_error.sum()) for chunk in seen) / sizes.sum()))
    return Epoch(
        sizes,
        np.concatenate([chunk.loss for chunk in seen]),
        {name: np.concatenate([chunk.low[name] for chunk in seen]) for name in TENSORS},
        {name: np.concatenate([chunk.high[name] for chunk in seen]) for name in TENSORS},
        np.concatenate([chunk.nonfinite for chunk in seen]),
        tensors,
        loss,
    )
