"""The forward pass in plain `jnp`, and cubic's: observed, and as the same program without observation."""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.problem import ALL, EPOCHS, LOSS, Figures, Problem, Run, counts, moments
from cubic_cli.config import Activation, Device
from cubic_cli.data.source import Arrays
from cubic_cli.engine.compiler import compile_ahead, options_by_unit
from cubic_cli.engine.devices import pick_devices
from cubic_cli.engine.layout import lay_out, place, usual_tuning
from cubic_cli.engine.observed import Chunk
from cubic_cli.engine.passes import _AHEAD, Pass, _Step, gather, map_blocks
from cubic_cli.engine.schedule import by_unit
from cubic_cli.float32 import TENSORS
from cubic_cli.parameters import Parameters


def plain(matmul: bool) -> Callable[[Problem, str], Run]:
    """Return the maker of a jitted pass over `[K, B, H]` arrays, by matrix products or by broadcasting."""

    def make(problem: Problem, level: str) -> Run:
        def observe(x: Any, y: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> list[Any]:
            z1 = x @ w1[None, :] + b1 if matmul else x * w1 + b1
            a1 = jnp.maximum(z1, 0)
            z2 = a1 @ w2[:, None] + b2 if matmul else jnp.sum(a1 * w2, axis=2, keepdims=True) + b2
            loss = jnp.mean(jnp.square(z2 - y), axis=(1, 2))
            if level == LOSS:
                return [loss]
            tensors = (z1, a1, z2)
            history = [jnp.stack([f(t, axis=(1, 2)) for t in tensors]) for f in (jnp.min, jnp.max)]
            if level != ALL:
                return [loss, *history]
            kinds = (jnp.mean, jnp.std, lambda t: jnp.sum(t == 0), lambda t: jnp.sum(~jnp.isfinite(t)))
            return [loss, *history, *(jnp.stack([kind(t) for t in tensors]) for kind in kinds)]

        shape = (problem.batches, problem.batch, 1)
        arrays = problem.x.reshape(shape), problem.y.reshape(shape), problem.w1, problem.b1, problem.w2, problem.b2
        placed = jax.device_put(arrays, jax.devices()[0])
        run = jax.jit(observe)
        return Run(lambda: Figures(*jax.device_get(run(*placed))), lambda: run(*placed), jax.block_until_ready)

    return make


def by_sample(units: int) -> Callable[[Problem, str], Run]:
    """Return the maker of a jitted pass over `[H, N]` arrays, or `[N, H]`, reduced over the `units` first.

    For a GPU: there XLA takes minutes to compile the reductions of `[K, B, H]` arrays; and those of `[N, H]` too, if it
    tries out how best to compile them.
    """

    def make(problem: Problem, level: str) -> Run:
        about = problem.about

        def observe(x: Any, y: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> list[Any]:
            z1 = x * w1 + b1
            a1 = jnp.maximum(z1, 0)
            z2 = jnp.sum(a1 * w2, axis=units) + b2
            loss = jnp.mean(jnp.square(z2 - y).reshape(-1, problem.batch), axis=1)
            if level == LOSS:
                return [loss]
            ends = []
            for end in (jnp.min, jnp.max):
                of_z1, of_z2 = (end(v.reshape(-1, problem.batch), axis=1) for v in (end(z1, axis=units), z2))
                ends += [of_z1, jax.nn.relu(of_z1), of_z2]
            if level != ALL:
                return [loss, *ends]
            z, a, c = z1 - about[0], a1 - about[1], z2 - about[2]
            summed = [jnp.sum(v, axis=units) for v in (z, a, z * z, a * a)]
            zeros = [jnp.sum((v == 0).astype(jnp.float32), axis=units) for v in (z1, a1)]
            summed = [*summed[:2], c, *summed[2:], c * c, *zeros, (z2 == 0).astype(jnp.float32)]
            part = math.gcd(problem.samples, 1024)  # a sum of few is exact enough; the host adds these
            return [loss, *ends, *(jnp.sum(v.reshape(-1, part), axis=1) for v in summed)]

        w1, b1, w2 = (np.expand_dims(values, 1 - units) for values in (problem.w1, problem.b1, problem.w2))
        arrays = np.expand_dims(problem.x, units), problem.y, w1, b1, w2, problem.b2
        placed = jax.device_put(arrays, jax.devices()[0])
        run = jax.jit(observe, compiler_options={"xla_gpu_autotune_level": 0})

        def figures() -> Figures:
            loss, *seen = jax.device_get(run(*placed))
            if level == LOSS:
                return Figures(loss)
            low, high = np.array(seen[:3]), np.array(seen[3:6])
            if level != ALL:
                return Figures(loss, low, high)
            total, squares, zeros = np.array(seen[6:]).sum(axis=1, dtype=np.float64).reshape(3, 3)
            mean, std = moments(counts(problem), total, squares, about)
            nonfinite = (~np.isfinite(total)).astype(int)  # a sum is finite only if each of its values is
            return Figures(loss, low, high, mean, std, zeros.astype(np.int64), nonfinite)

        return Run(figures, lambda: run(*placed), jax.block_until_ready)

    return make


def _parameters(problem: Problem) -> Parameters:
    return Parameters(problem.w1[None, :], problem.b1, problem.w2[:, None], problem.b2[None])


def cubic(problem: Problem, level: str) -> Run:
    """Return some epochs of cubic's own pass, each with its figures on the host."""
    source, devices = Arrays(problem.x, problem.y), pick_devices(Device.auto)
    given = _parameters(problem), source, problem.batch, problem.activation, devices
    observed = Pass(*given, statistics=level == ALL)
    # The first epoch again and again: it is the one that tells all. As in a run, the next chunks are on their way.
    steps = [_Step(1, number, *span) for number, span in enumerate(observed._spans)]

    def chunks() -> Iterator[Chunk]:
        plan = iter(steps * EPOCHS)
        ahead = deque(observed._dispatch(step) for step in itertools.islice(plan, _AHEAD))
        while ahead:
            dispatched = ahead.popleft()
            ahead.extend(observed._dispatch(step) for step in itertools.islice(plan, 1))
            yield observed._collect(dispatched)

    def run() -> Figures:
        coming = chunks()
        for _ in range(EPOCHS):
            epoch = gather(itertools.islice(coming, len(steps)))
        low, high = (np.array([epoch.columns[f"{name}_{end}"] for name in TENSORS]) for end in ("min", "max"))
        if level != ALL:
            return Figures(epoch.columns["loss"], low, high)
        seen = [epoch.tensors[name] for name in TENSORS]
        fields = (
            np.array([getattr(tensor, name) for tensor in seen]) for name in ("mean", "std", "zeros", "nonfinite")
        )
        return Figures(epoch.columns["loss"], low, high, *fields)

    program = observed._program(observed._usual)

    def compute() -> Any:
        return [program.compute(observed._arrays(program, step)) for step in steps]

    return Run(run, compute, jax.block_until_ready, EPOCHS)


def fetch(problem: Problem, level: str) -> Run:
    """Return what brings a history that lies on the device to the host, as JAX does when it is asked for it."""
    found = cubic(problem, level)()
    placed = jax.device_put((found.loss, *found.low, *found.high), jax.devices()[0])
    again = jax.jit(lambda arrays: [array + 0 for array in arrays])  # an array keeps what was fetched of it

    def run() -> Figures:
        loss, *ends = jax.device_get(again(placed))
        return Figures(loss, np.array(ends[:3]), np.array(ends[3:]))

    return Run(run)


def unobserved(problem: Problem, level: str) -> Run:
    """Return cubic's schedule of which only the loss is kept: XLA removes what observes."""
    assert level == LOSS
    devices = pick_devices(Device.auto)
    tuning = usual_tuning(devices[0])
    places = lay_out(problem.samples, problem.batch, len(devices), tuning.block)

    def see(parameters: Parameters, *blocks: Any) -> Any:
        def loss(block: Any) -> Any:
            return by_unit(Activation.relu, tuning, places.axis, parameters, None, *block).loss

        return jax.lax.map(loss, blocks)

    loop, mesh = map_blocks(see, tuple(devices[: places.blocks]))
    samples = place(places, problem.x), place(places, problem.y), places.piece_sizes(problem.samples)
    parameters = jax.device_put(_parameters(problem), NamedSharding(mesh, PartitionSpec()))
    placed = jax.device_put(samples, NamedSharding(mesh, PartitionSpec("devices")))
    program = compile_ahead(jax.jit(loop), (parameters, *placed), options_by_unit(devices[0]))

    def run() -> Figures:
        loss = np.asarray(program(parameters, *placed)).reshape(-1)[: problem.batches * places.pieces_per_batch]
        return Figures(loss.reshape(problem.batches, -1).mean(axis=1))

    return Run(run, lambda: program(parameters, *placed), jax.block_until_ready)
