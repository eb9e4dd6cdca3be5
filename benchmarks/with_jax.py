"""The forward pass in plain `jnp`, and cubic's: observed, and as the same program without observation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.problem import ALL, LOSS, Figures, Problem
from cubic_cli.config import Activation, Device
from cubic_cli.data.source import Arrays
from cubic_cli.engine import layout, schedule
from cubic_cli.engine import passes as forward
from cubic_cli.engine.devices import pick_devices
from cubic_cli.network import Layer, Parameters
from cubic_cli.statistics import merge


def plain(matmul: bool) -> Callable[[Problem, str], Callable[[], Figures]]:
    """Return the maker of a jitted pass over `[K, B, H]` arrays, by matrix products or by broadcasting."""

    def make(problem: Problem, level: str) -> Callable[[], Figures]:
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
        return lambda: Figures(*jax.device_get(run(*placed)))

    return make


def _parameters(problem: Problem) -> Parameters:
    return Parameters(
        Layer(jnp.asarray(problem.w1[None, :]), jnp.asarray(problem.b1)),
        Layer(jnp.asarray(problem.w2[:, None]), jnp.asarray(problem.b2[None])),
    )


def cubic(problem: Problem, level: str) -> Callable[[], Figures]:
    """Return an epoch of cubic's own pass, one of many, with its figures on the host."""
    source, devices = Arrays(problem.x, problem.y), pick_devices(Device.auto)
    observed = forward.Pass(_parameters(problem), source, problem.batch, problem.activation, devices, num_epochs=1000)
    observed.wait_for_programs()

    def run() -> Figures:
        chunks = list(observed.chunks(statistics=level == ALL))
        loss = np.concatenate([chunk.loss for chunk in chunks])
        low = np.array([np.concatenate([chunk.low[name] for chunk in chunks]) for name in forward.TENSORS])
        high = np.array([np.concatenate([chunk.high[name] for chunk in chunks]) for name in forward.TENSORS])
        if level != ALL:
            return Figures(loss, low, high)
        tensors = []
        for name in forward.TENSORS:
            first, *others = (chunk.tensors[name] for chunk in chunks)  # type: ignore[index]
            for other in others:
                first = merge(first, other)
            tensors.append(first)
        fields = (np.array([getattr(t, name) for t in tensors]) for name in ("mean", "std", "zeros", "nonfinite"))
        return Figures(loss, low, high, *fields)

    return run


def unobserved(problem: Problem, level: str) -> Callable[[], Figures]:
    """Return cubic's schedule of which only the loss is kept: XLA removes what observes."""
    assert level == LOSS
    devices = pick_devices(Device.auto)
    places = layout.lay_out(problem.samples, problem.batch, len(devices))

    def see(parameters: Parameters, *block: Any) -> Any:
        return schedule.by_unit(Activation.relu, False, places.axis, parameters, *block).squared_error

    loop, mesh = forward.map_blocks(see, tuple(devices[: places.blocks]))
    samples = (
        layout.place(places, problem.x),
        layout.place(places, problem.y),
        layout.piece_sizes(places, problem.samples),
    )
    parameters = jax.device_put(_parameters(problem), NamedSharding(mesh, PartitionSpec()))
    placed = jax.device_put(samples, NamedSharding(mesh, PartitionSpec("devices")))
    options = forward.compiler_options("history", devices[0])
    program = forward.compile_ahead(jax.jit(loop), (parameters, *placed), options)

    def run() -> Figures:
        error = np.asarray(program(parameters, *placed)).reshape(-1)[: problem.batches * places.pieces_per_batch]
        return Figures(error.reshape(problem.batches, -1).sum(axis=1) / problem.batch)

    return run
