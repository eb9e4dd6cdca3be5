"""Many processes, one run: JAX's distributed runtime connects them, and their devices are one mesh.

Every process runs the same code over the same samples: what is placed goes to the devices of all, and every figure
comes back to all, by JAX's own arrays and collectives (`engine.mesh`). What JAX lacks is to name who differs, fails or
dies. So what must be alike is agreed on beforehand, through the key-value store of JAX's coordination service; a
process that fails says so under `_FAILED`, which all watch; and one that is killed misses its heartbeats, for which JAX
aborts the others, and `supervisor` says which one it was. Nothing here waits for a process that is gone.
"""

import contextlib
import importlib.util
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, astuple
from importlib import metadata
from typing import Any

from cubic_cli import __version__
from cubic_cli.cluster import supervisor
from cubic_cli.cluster.rendezvous import meet
from cubic_cli.config import Device, ForwardConfig, GenerateConfig, ProcessAddress
from cubic_cli.engine import mesh
from cubic_cli.engine.compiler import prepare_cpu
from cubic_cli.engine.devices import pick_devices
from cubic_cli.errors import CubicError, PeerError, printable

_FAILED = "cubic/failed"  # the key under which the first process that fails says why
_LINGER = 1.0  # seconds that process 0, which keeps the store, stays for the others to read why it ends
_POLL = 5.0  # seconds of one blocking look at the store
_CONNECT = 15  # seconds for JAX to connect processes that have met
_FOREVER = 30 * 24 * 3600 * 1000  # milliseconds: as long as it takes, for one that is gone ends the wait


def _seconds(name: str, default: float) -> float:
    """Return an internal setting, which the tests shorten."""
    return float(os.environ.get(name) or default)


def _heartbeat() -> int:
    """Return after how many seconds without a sign of life a process counts as dead."""
    return int(_seconds("CUBIC_HEARTBEAT_SECONDS", 15))


def detect(where: ProcessAddress | None) -> tuple[ProcessAddress, list[int] | None]:
    """Return the place of this process, as given or as JAX finds it in a cluster's environment, and its own devices.

    The devices are the numbers of those of its machine that are its own, None for all.

    Raises:
        PeerError: there is no cluster, or it cannot be read.
    """
    from jax._src.clusters import ClusterEnv

    address, processes, process_id = (None, None, None) if where is None else astuple(where)
    try:
        address, processes, process_id, devices = ClusterEnv.auto_detect_unset_distributed_params(
            address, processes, process_id, None, None, _CONNECT
        )
    except Exception as error:  # of the cluster's own client: whatever it raises
        raise PeerError(f"JAX cannot read the cluster it detected: {str(error).splitlines()[0]}; {_BY_HAND}") from None
    if address is None or processes is None or process_id is None:
        raise PeerError(f"JAX detects no cluster here (Slurm, Kubernetes, a TPU pod, Open MPI); {_BY_HAND}")
    return ProcessAddress(address, processes, process_id), None if devices is None else list(devices)


_BY_HAND = (
    "set COORDINATOR_ADDRESS (host:port of process 0), NUM_PROCESSES and PROCESS_ID (from 0) for each process, "
    "or give --coordinator-address, --num-processes and --process-id"
)


class Group:
    """The processes of a run, seen from one of them.

    Every method that waits ends with this process where another fails or dies.

    Args:
        place: of this process.
        client: JAX's, of the coordination service.
        tell: prints why this process ends because of another, and returns the exit status with which it does.
    """

    def __init__(self, place: ProcessAddress, client: Any, tell: Callable[[str], int]) -> None:
        self.processes, self.process_id = place.num_processes, place.process_id
        self._client, self._tell = client, tell
        self._ending = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="peers").start()

    def agree(self, what: str, mine: Mapping[str, object]) -> None:
        """Return once all processes have come here with what process 0 has.

        Args:
            what: they agree on; each word is used once.
            mine: this process's values, JSON's, by the names under which they are told.

        Raises:
            PeerError: a value of this process differs; names both.
        """
        first = self.share(what, dict(mine))
        for name in [*mine, *first]:
            if mine.get(name) != first.get(name):
                raise PeerError(
                    f"process {self.process_id} has {name} {mine.get(name)} and process 0 has {first.get(name)}; "
                    "give all processes the same"
                )
        with self._errors():
            self._client.wait_at_barrier(f"cubic/{what}", _FOREVER)

    def gather(self, name: str, document: Any) -> list[Any] | None:
        """Collect one JSON document of each process: return them by process at process 0, and None elsewhere."""
        if self.process_id:
            self._put(f"{name}/{self.process_id}", document)
            return None
        return [document, *(self._get(f"{name}/{process}") for process in range(1, self.processes))]

    def share(self, name: str, document: Any = None) -> Any:
        """Return at every process the JSON document that process 0 gives."""
        if self.process_id:
            return self._get(name)
        self._put(name, document)
        return document

    def finish(self) -> None:
        """End together, once process 0 has saved and shown all."""
        import jax

        self.share("end")
        self._ending.set()
        with contextlib.suppress(RuntimeError):  # whoever goes now
            jax.distributed.shutdown()

    def fail(self, message: str) -> None:
        """Tell all others that this process fails; the first that does is heard."""
        if self._ending.is_set():
            return
        self._ending.set()
        with contextlib.suppress(Exception):
            self._client.key_value_set(_FAILED, json.dumps({"process": self.process_id, "message": message}))
            if self.process_id == 0:
                time.sleep(_LINGER)

    def _put(self, key: str, document: Any) -> None:
        with self._errors():
            self._client.key_value_set(f"cubic/{key}", json.dumps(document))

    def _get(self, key: str) -> Any:
        while True:
            with contextlib.suppress(TimeoutError), self._errors():
                return json.loads(self._client.blocking_key_value_get(f"cubic/{key}", int(_POLL * 1000)))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        from jax.errors import JaxRuntimeError

        try:
            yield
        except JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" in str(error):
                raise TimeoutError from None
            time.sleep(3)  # JAX is about to abort this process for it, and the supervisor will say why
            raise PeerError("process 0 died or cannot be reached any more; see what it said") from None

    def _watch(self) -> None:
        """End this process when another one fails."""
        while not self._ending.is_set():
            try:
                failed = json.loads(self._client.blocking_key_value_get(_FAILED, int(_POLL * 1000)))
            except Exception:  # nobody failed, or the store is gone, for which JAX aborts
                time.sleep(0.01)
                continue
            if self._ending.is_set():
                return
            status = self._tell(printable(f"process {failed['process']} failed: {failed['message']}"))
            if self.process_id == 0:
                time.sleep(_LINGER)
            supervisor.exit_now(status)


# What a process may have of its own: its name for the dataset, where it keeps what, on what it runs, what it refuses.
_OWN = ("dataset", "parameters", "run_name", "artifact_dir", "device", "fail_on")


def settings_of_all(config: ForwardConfig, generate: GenerateConfig | None) -> dict[str, object]:
    """Return the settings that the processes of a run must have alike, by their names."""
    settings = {**config.as_json(), "generate": generate is not None}
    if generate is not None:
        settings |= asdict(generate)
    return {name: value for name, value in settings.items() if name not in _OWN}


@contextlib.contextmanager
def joined(
    where: ProcessAddress | None, device: Device, mine: Mapping[str, object], tell: Callable[[str], int]
) -> Iterator[Group]:
    """Join the other processes, in a worker; JAX's devices are then those of all.

    An error that leaves the context is told to the others, who end with it.

    Args:
        where: the place of this process, None for JAX to detect it.
        device: what is asked for; all processes must have the same platform.
        mine: what all must have alike before anything is read, beside the platform and the versions.
        tell: prints why this process ends because of another, and returns the exit status with which it does.

    Raises:
        DeviceError: the device is not there.
        PeerError: JAX detects no cluster; a process does not come, or differs; names it.
    """
    group: list[Group] = []
    supervisor.become_worker(lambda: group[0].fail("it was interrupted") if group else None)
    prepare_cpu()
    import jax

    place, devices = detect(where)
    if devices is not None:
        for name in ("jax_cuda_visible_devices", "jax_rocm_visible_devices"):
            jax.config.update(name, ",".join(map(str, devices)))
    platform = _own_platform(device)
    meet(place.coordinator_address, place.num_processes, place.process_id, _seconds("CUBIC_JOIN_SECONDS", 40))
    for name in [name for name in os.environ if "_proxy" in name.lower()]:
        del os.environ[name]  # gRPC would go through it; the processes have met without
    jax.config.update("jax_enable_preemption_service", False)  # it would take over SIGTERM
    jax.distributed.initialize(
        **asdict(place),
        local_device_ids=devices,
        initialization_timeout=_CONNECT,
        heartbeat_timeout_seconds=_heartbeat(),
    )
    from jax._src.distributed import global_state

    group.append(Group(place, global_state.client, tell))
    try:
        versions = {"cubic": __version__} | {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
        group[0].agree("settings", {**versions, "platform": platform, **mine})
        mesh.connect(pick_devices(device))
        yield group[0]
    except BaseException as error:
        if _is_broken_collective(error):
            # Another process is gone: it says why, or JAX misses its heartbeats and the supervisor names it.
            time.sleep(2 * _heartbeat())
        group[0].fail((str(error) or type(error).__name__).splitlines()[0])
        raise


def _own_platform(device: Device) -> str:
    """Return the platform of this process, as if it were alone.

    Once the processes are connected, JAX waits for the devices of a platform in all of them: a GPU beside a CPU would
    wait for ever.
    """
    import jax
    from jax.extend.backend import clear_backends

    if importlib.util.find_spec("libtpu") is not None and device is not Device.cpu:
        return "tpu"  # may not start twice in one process (nobody has tried), and its processes wait for no other
    platform: str = pick_devices(device)[0].platform
    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")  # no other is waited for
    clear_backends()
    return platform


def _is_broken_collective(error: BaseException) -> bool:
    """Return whether JAX raised this because another process left in the midst of an exchange."""
    return not isinstance(error, CubicError) and bool(re.search("gloo|nccl|connection", str(error), re.IGNORECASE))
