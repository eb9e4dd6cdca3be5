"""The mesh: the devices of a run in a row, of one process or of many, and how arrays come onto them and back.

What is sharded is so along its first axis. Each process places its own part of what all have, and every figure comes
back to all: so a run by many processes is the code of a run by one.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_LOCKED = "pinned_host"


def spans_processes(devices: Iterable[jax.Device]) -> bool:
    """Return whether the devices are those of several processes."""
    return len({device.process_index for device in devices}) > 1


def put(arrays: Any, sharding: NamedSharding) -> Any:
    """Return the host's arrays, a pytree, on the devices of a mesh; where that spans processes, all have them whole."""
    if sharding.is_fully_addressable:
        return jax.device_put(arrays, sharding)

    def place(array: Any) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(place, arrays)


@functools.lru_cache(64)
def locks_pages(device: jax.Device) -> bool:
    """Return whether a device copies to memory of the host that is locked for it."""
    if device.platform == "cpu":
        return False
    try:
        return any(memory.kind == _LOCKED for memory in device.addressable_memories())
    except (NotImplementedError, RuntimeError):  # of a plugin that knows no memories
        return False


def start_fetch(arrays: Any) -> Any:
    """Return arrays on the devices of a mesh, a pytree, on their way to the host; at once. `fetch` waits for them.

    To locked pages, which NumPy then sees as they are: to others a GPU takes five times as long.
    """
    first = jax.tree.leaves(arrays)[0]
    if not first.is_fully_addressable:
        return arrays
    if locks_pages(next(iter(first.devices()))):
        return jax.device_put(arrays, jax.tree.map(lambda array: array.sharding.with_memory_kind(_LOCKED), arrays))
    for array in jax.tree.leaves(arrays):
        array.copy_to_host_async()  # as soon as it is there
    return arrays


def fetch(arrays: Any) -> Any:
    """Return arrays on the devices of a mesh, a pytree, on the host: all of them, in every process.

    Where the mesh spans processes these exchange their parts: all call this in one order, from one thread.
    """
    sharding = jax.tree.leaves(arrays)[0].sharding
    if not sharding.is_fully_addressable:
        arrays = jax.tree.map(lambda array: array.addressable_data(0), _gather(sharding.mesh)(arrays))
    return jax.device_get(arrays)


def connect(devices: Sequence[jax.Device]) -> None:
    """Exchange a number between all devices. The first exchange has 30 seconds for all to come, later ones have no end.

    So this is for when all processes are known to have come, before one of them compiles for longer than another.
    """
    over = NamedSharding(Mesh(np.array(devices), ("devices",)), PartitionSpec("devices"))
    fetch(put(np.zeros(len(devices), np.float32), over))


@functools.lru_cache(4)
def _gather(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda arrays: arrays, out_shardings=NamedSharding(mesh, PartitionSpec()))
