"""The pass: chunks of samples to the devices, compiled loops over their blocks, and what was seen, in order.

The blocks of a chunk (`layout`) are sharded over the devices, and each device maps over its own. Chunks are dispatched
ahead, so that reading, computing and recording overlap.

    N samples, B batch, K batches, S samples of a piece, H hidden, D devices
"""

import contextlib
import functools
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cubic_cli.config import Activation
from cubic_cli.data.source import Source
from cubic_cli.engine import mesh, schedule
from cubic_cli.engine.compiler import Options, compile_ahead, options_by_unit, options_plain, undisturbed
from cubic_cli.engine.layout import Layout, Tuning, choose_tuning, lay_out, lay_out_plain, place, spans
from cubic_cli.engine.observed import Chunk, Observed, collect, join
from cubic_cli.float32 import Float32
from cubic_cli.parameters import Parameters, shapes
from cubic_cli.statistics import EMPTY, Statistics, merge

_AHEAD = 2  # chunks on their way
_COMPILING = "cubic: compiles the history's program"  # name of the thread


class Clock:
    """The time in seconds, by a clock that stands still while the compiler works; and how long it has worked."""

    def __init__(self, read: Callable[[], float] = time.perf_counter) -> None:
        self.compile_seconds = 0.0
        self._read = read

    def now(self) -> float:
        """Return the time."""
        return self._read() - self.compile_seconds

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let no time pass."""
        started = self._read()
        try:
            yield
        finally:
            self.compile_seconds += self._read() - started


@dataclass(frozen=True)
class Schedule:
    """One way to see a chunk: `see` maps a block, `complete` is given what was seen of all blocks of a device.

    `statistics` says whether it tells those of the tensors, and `counts` whether it counts what is not finite.
    """

    name: str
    statistics: bool
    counts: bool
    see: Callable[..., Observed]
    complete: Callable[[Activation, Tuning, Observed], Observed]
    lay_out: Callable[..., Layout]
    options: Callable[[jax.Device], Options]


_FAST = (schedule.complete_by_unit, lay_out, options_by_unit)
HISTORY = Schedule("history", False, False, schedule.by_unit, *_FAST)
MOMENTS = Schedule("moments", True, False, schedule.by_unit, *_FAST)
PLAIN = Schedule("plain", True, True, schedule.plain, schedule.complete_plain, lay_out_plain, options_plain)


def map_blocks(loop: Callable[..., Any], devices: tuple[jax.Device, ...]) -> tuple[Callable[..., Any], Mesh]:
    """Return `loop` over blocks of samples, sharded over the devices, and the mesh of these.

    It takes the parameters and the blocks `[blocks, …]` of x, y and a third array, and each device its own.
    """
    row = Mesh(np.array(devices), ("devices",))
    over, everywhere = PartitionSpec("devices"), PartitionSpec()
    specs = (everywhere, over, over, over)
    return jax.shard_map(loop, mesh=row, in_specs=specs, out_specs=over, check_vma=False), row


@functools.lru_cache(64)
def _compile(
    how: Schedule, activation: Activation, tuning: Tuning, layout: Layout, hidden: int, devices: tuple[jax.Device, ...]
) -> tuple[Any, Mesh]:
    """Compile the loop of a schedule over the blocks of a chunk, sharded over the devices: the only `jit` of the pass.

    Passes of the same shapes share a program.
    """
    see = functools.partial(how.see, activation)
    if not how.counts:
        see = functools.partial(see, tuning, layout.axis)

    def blocks(parameters: Parameters, x: jax.Array, y: jax.Array, sizes: jax.Array) -> Observed:
        about = schedule.find_pivots(activation, parameters, x.reshape(-1)) if how.statistics else None
        if len(x) == 1:  # without a loop it is traced and lowered in three quarters of the time
            seen = jax.tree.map(lambda of_block: of_block[None], see(parameters, about, x[0], y[0], sizes[0]))
        else:
            seen = jax.lax.map(lambda block: see(parameters, about, *block), (x, y, sizes))
        return how.complete(activation, tuning, seen)

    loop, row = map_blocks(blocks, devices)
    over, everywhere = PartitionSpec("devices"), PartitionSpec()

    def shaped(shape: tuple[int, ...], kind: Any, spec: PartitionSpec) -> Any:
        return jax.ShapeDtypeStruct(shape, kind, sharding=NamedSharding(row, spec))

    parameters = Parameters(*(shaped(shape, np.float32, everywhere) for shape in shapes(hidden)))
    samples, sizes = shaped(layout.shape, np.float32, over), shaped((layout.blocks, layout.pieces), np.int32, over)
    options = how.options(devices[0])
    return compile_ahead(jax.jit(loop), (parameters, samples, samples, sizes), options), row


class _Program:
    """One schedule, compiled for chunks of one shape, with the parameters in place."""

    def __init__(
        self,
        how: Schedule,
        activation: Activation,
        tuning: Tuning,
        layout: Layout,
        parameters: Parameters,
        devices: list[jax.Device],
    ) -> None:
        self.how, self.layout, self.devices = how, layout, devices[: layout.blocks]
        self._run, over = _compile(how, activation, tuning, layout, parameters.hidden_size, tuple(self.devices))
        self._over = NamedSharding(over, PartitionSpec("devices"))
        # From the host: between devices JAX would compile a program for each array.
        given: Any = Parameters(*map(np.asarray, parameters))
        with undisturbed():
            self._parameters = mesh.put(given, NamedSharding(over, PartitionSpec()))

    def put(self, x: Float32, y: Float32) -> Any:
        """Copy the samples of a chunk to the devices."""
        placed = (place(self.layout, x), place(self.layout, y), self.layout.piece_sizes(len(x)))
        with undisturbed():
            return mesh.put(placed, self._over)

    def compute(self, arrays: Any) -> Any:
        """Dispatch a chunk; returns at once what will be seen of it."""
        with undisturbed():
            return self._run(self._parameters, *arrays)

    def start(self, arrays: Any) -> Any:
        """Dispatch a chunk, whose figures then come to the host; returns at once."""
        with undisturbed():
            return mesh.start_fetch(self._run(self._parameters, *arrays))

    def fetch(self, running: Any) -> Observed:
        """Return what was seen of a chunk, once it is, on the host."""
        with undisturbed():
            seen: Observed = mesh.fetch(running)
        return seen


class _Step(NamedTuple):
    """A chunk of the run: its epoch, from 1, its number in the epoch and its samples."""

    epoch: int
    number: int
    start: int
    stop: int


class _Dispatched(NamedTuple):
    """A chunk on its way: the program, what will be seen, and when it was dispatched, by the clock of the pass."""

    step: _Step
    program: _Program
    running: Any
    at: float


class Pass:
    """The forward pass over samples on the devices. Compiles when it is made.

    Args:
        parameters: the network's.
        source: the samples.
        batch_size: B.
        activation: of the hidden layer.
        devices: JAX's devices to use.
        by_unit: force the schedule (None chooses).
        statistics: whether those of the tensors are wanted; if not, only the history's program is compiled.
        tuning: how much of the work the devices like at a time (None: what is known of their kind).
        clock: counts the seconds.
    """

    def __init__(
        self,
        parameters: Parameters,
        source: Source,
        batch_size: int,
        activation: Activation,
        devices: list[jax.Device],
        *,
        by_unit: bool | None = None,
        statistics: bool = True,
        tuning: Tuning | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.source, self.batch = source, min(batch_size, source.count)
        self.clock = clock or Clock()
        self._parameters, self._activation, self._devices = parameters, activation, devices
        self._tuning = tuning or choose_tuning(devices)
        self._spans = spans(source.count, self.batch, self._tuning.chunk)
        self._programs: dict[str, _Program] = {}
        self._resident: dict[tuple[bool, int], Any] = {}
        self._plain_spans: set[int] = set()
        if by_unit is None:
            by_unit = parameters.hidden_size <= schedule.MAX_UNITS
        self._statistics = statistics
        self._usual = (MOMENTS if statistics else HISTORY) if by_unit else PLAIN
        self._compiling: threading.Thread | None = None
        self.devices = self._program(self._usual).devices

    def run(self, epochs: int = 1) -> Iterator[Chunk]:
        """Yield every chunk of every epoch, in order; two are always on their way.

        The statistics of the tensors are those of the first epoch: nothing changes after it. Where many epochs follow,
        another thread compiles a program for their history alone. A chunk of which the fast schedule cannot tell all
        passes once more, by the plain one.
        """
        later = self.source.count * self._parameters.hidden_size * (epochs - 1)
        if self._usual is MOMENTS and later > self._tuning.history_values and self._compiling is None:
            self._compiling = threading.Thread(None, self._make_program, _COMPILING, (HISTORY,), daemon=True)
            self._compiling.start()
            if mesh.spans_processes(self._devices):
                self._compiling.join()  # so that all processes run the same program
        plan = (_Step(epoch, i, *span) for epoch in range(1, epochs + 1) for i, span in enumerate(self._spans))
        ahead = deque(self._dispatch(step) for step in itertools.islice(plan, _AHEAD))
        on_host = ahead[0].at
        part: Chunk | None = None
        while ahead:
            earliest = ahead.popleft()
            ahead.extend(self._dispatch(step) for step in itertools.islice(plan, 1))
            chunk, step = self._collect(earliest), earliest.step
            began, on_host = max(earliest.at, on_host), self.clock.now()
            chunk = replace(chunk, seconds=on_host - began)
            part = chunk if part is None else join(part, chunk)
            if step.stop % self.batch == 0 or step.stop == self.source.count:
                yield part
                part = None

    def observe(self, x: Float32, y: Float32) -> dict[str, Statistics]:
        """Return the statistics of each tensor over other samples `[n]`, by the same compiled programs."""
        merged: dict[str, Statistics] = {}

        def see(how: Schedule, step: _Step) -> Chunk | None:
            program = self._program(how)
            arrays = program.put(x[step.start : step.stop], y[step.start : step.stop])
            return self._read(program, program.start(arrays), step)

        for span in spans(len(x), self.batch, self._tuning.chunk):
            step = _Step(1, 0, *span)
            chunk = see(self._usual, step) or see(PLAIN, step)
            assert chunk is not None
            assert chunk.tensors is not None
            merged = {name: merge(merged.get(name, EMPTY), seen) for name, seen in chunk.tensors.items()}
        return merged

    def _dispatch(self, step: _Step) -> _Dispatched:
        program = self._program(self._choose(step))
        return _Dispatched(step, program, program.start(self._arrays(program, step)), self.clock.now())

    def _choose(self, step: _Step) -> Schedule:
        if step.number in self._plain_spans:
            return PLAIN
        return HISTORY if step.epoch > 1 and HISTORY.name in self._programs else self._usual

    def _collect(self, dispatched: _Dispatched) -> Chunk:
        """Return what was seen of a chunk; by the plain schedule once more where the fast one cannot tell."""
        step, chunk = dispatched.step, None
        # Once one epoch has needed the plain schedule all do: their losses are to be the same, bit for bit.
        if dispatched.program.how.counts or step.number not in self._plain_spans:
            chunk = self._read(dispatched.program, dispatched.running, step)
        if chunk is None:
            self._plain_spans.add(step.number)
            program = self._program(PLAIN)
            chunk = self._read(program, program.start(self._arrays(program, step)), step)
        assert chunk is not None
        return chunk

    def _read(self, program: _Program, running: Any, step: _Step) -> Chunk | None:
        seen, samples, statistics = program.fetch(running), step.stop - step.start, step.epoch == 1 and self._statistics
        first, hidden = step.start // self.batch, self._parameters.hidden_size
        return collect(seen, program.layout, hidden, samples, step.epoch, first, statistics)

    def _program(self, how: Schedule) -> _Program:
        if how.name not in self._programs:
            with self.clock.standing_still():
                self._make_program(how)
        return self._programs[how.name]

    def _make_program(self, how: Schedule) -> None:
        block = self._tuning.block
        if how.counts:
            block = max(1, self._tuning.plain_values // self._parameters.hidden_size)
        longest = max(stop - start for start, stop in self._spans)
        layout = how.lay_out(longest, self.batch, len(self._devices), block)
        if mesh.spans_processes(self._devices):
            layout = layout.on_all(len(self._devices))
        # What memory likes is in the layout: passes share a program however much is free.
        tuning = self._tuning._replace(chunk=0, block=0, plain_values=0, resident=0)
        given = self._activation, tuning, layout, self._parameters, self._devices
        self._programs[how.name] = _Program(how, *given)

    def _arrays(self, program: _Program, step: _Step) -> Any:
        """Return a chunk on the devices, where it stays if there is room for all."""
        key = program.how.counts, step.number
        if key in self._resident:
            return self._resident[key]
        arrays = program.put(*self.source.read(step.start, step.stop))
        if self.source.count <= self._tuning.resident:
            self._resident[key] = arrays
        return arrays


@dataclass(frozen=True)
class Epoch:
    """One whole epoch: the history's columns, `[K]`, the loss over its samples, and the statistics of the tensors."""

    columns: dict[str, Any]
    tensors: dict[str, Statistics]
    loss: float


def gather(chunks: Iterator[Chunk]) -> Epoch:
    """Return the chunks of one epoch as one."""
    seen = list(chunks)
    tensors: dict[str, Statistics] = {}
    for chunk in seen:
        tensors = {name: merge(tensors.get(name, EMPTY), part) for name, part in (chunk.tensors or {}).items()}
    columns = seen[0].columns
    if len(seen) > 1:
        columns = {name: np.concatenate([chunk.columns[name] for chunk in seen]) for name in columns}
    with np.errstate(over="ignore"):
        total = sum(chunk.squared_error for chunk in seen)
        return Epoch(columns, tensors, float(np.float32(total / columns["size"].sum())))
