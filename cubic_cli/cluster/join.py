"""Many processes, one run: JAX's distributed runtime connects them, and its key-value store carries what they say.

Each process runs the compiled pass over its own part of the samples, on its own devices, and what it saw is merged at
process 0. No program spans the processes, and none needs to: statistics form a monoid, so that merging them is exact in
counts and extremes, and a collective over all devices would make every process wait for every other at each step, and
hang where one is gone. JAX's runtime still does what only it can: it finds the cluster (Slurm, Kubernetes, TPU pods,
Open MPI), makes all devices known, and watches the processes by heartbeats.

Nothing here waits forever: a process that fails says so under `FAILED`, which all watch; one that is killed misses its
heartbeats, for which JAX aborts the others, and `supervisor` says which one it was.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from cubic_cli.cli import terminal
from cubic_cli.cluster import supervisor
from cubic_cli.cluster.rendezvous import meet
from cubic_cli.config import Place
from cubic_cli.engine.compiler import prepare_cpu
from cubic_cli.errors import PeerError

_FAILED = "cubic/failed"  # the key under which the first process that fails says why
_LINGER = 1.0  # seconds that process 0, which keeps the store, stays for the others to read why it ends
_POLL = 5.0  # seconds of one blocking look at the store
_LEAVE = 5.0  # seconds to wait at the end for the others to have read the end
_PART = 0.2  # seconds that the store stays after that, for JAX aborts a process that finds it gone
_CONNECT = 15  # seconds for JAX to connect processes that have met


def _seconds(name: str, default: float) -> float:
    """Return an internal setting, which the tests shorten."""
    return float(os.environ.get(name) or default)


def detect() -> Place:
    """Return the place that JAX finds in a cluster's environment.

    Raises:
        PeerError: there is none, or it cannot be read.
    """
    from jax._src.clusters import ClusterEnv

    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, _CONNECT)
    except Exception as error:  # of the cluster's own client: whatever it raises
        raise PeerError(f"JAX cannot read the cluster it detected: {str(error).splitlines()[0]}; {_BY_HAND}") from None
    address, processes, process_id = found[:3]
    if address is None or processes is None or process_id is None:
        raise PeerError(f"JAX detects no cluster here (Slurm, Kubernetes, a TPU pod, Open MPI); {_BY_HAND}")
    return Place(address, processes, process_id)


_BY_HAND = (
    "set COORDINATOR_ADDRESS (host:port of process 0), NUM_PROCESSES and PROCESS_ID (from 0) for each process, "
    "or give --coordinator-address, --num-processes and --process-id"
)


class Group:
    """The processes of a run, seen from one of them.

    What they tell each other are JSON documents, NaN and infinities included, and pieces of bytes. Every method that
    waits ends with this process where another fails or dies.
    """

    def __init__(self, place: Place, client: Any) -> None:
        self.processes, self.process_id, self._client = place.num_processes, place.process_id, client
        self._ending = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="peers").start()

    def gather(self, name: str, document: Any, timeout: float | None = None) -> list[Any] | None:
        """Collect one document of each process: return them by process at process 0, and None elsewhere.

        Args:
            name: of what is gathered, each used once.
            document: this process's.
            timeout: seconds that process 0 waits for each; None waits for as long as the process lives.

        Raises:
            PeerError: one has not answered in time; names it.
        """
        if self.process_id:
            self.put(f"{name}/{self.process_id}", json.dumps(document).encode())
            return None
        documents = [document]
        for process in range(1, self.processes):
            try:
                documents.append(json.loads(self.take(f"{name}/{process}", timeout)))
            except TimeoutError:
                raise PeerError(f"process {process} has not told its {name} within {timeout:g} s") from None
        return documents

    def share(self, name: str, document: Any = None) -> Any:
        """Return at every process the document that process 0 gives."""
        if self.process_id == 0:
            self.put(name, json.dumps(document).encode())
            return document
        return json.loads(self._get(name, None))

    def put(self, key: str, value: bytes) -> None:
        """Write a value under a key that is new."""
        with self._errors():
            self._client.key_value_set_bytes(f"cubic/{key}", value)

    def take(self, key: str, timeout: float | None = None) -> bytes:
        """Wait for a value, return it, and remove it.

        Raises:
            TimeoutError: it has not come within `timeout` seconds.
        """
        value = self._get(key, timeout)
        with self._errors():
            self._client.key_value_delete(f"cubic/{key}")
        return value

    def _get(self, key: str, timeout: float | None) -> bytes:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            wait = _POLL if deadline is None else min(_POLL, max(0.001, deadline - time.monotonic()))
            with contextlib.suppress(TimeoutError), self._errors():
                value: bytes = self._client.blocking_key_value_get_bytes(f"cubic/{key}", int(wait * 1000) or 1)
                return value
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(key)

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

    def fail(self, message: str) -> None:
        """Tell all others that this process fails; the first that does is heard."""
        if self._ending.is_set():
            return
        self._ending.set()
        with contextlib.suppress(Exception):
            told = json.dumps({"process": self.process_id, "message": message})
            self._client.key_value_set(_FAILED, told)
            if self.process_id == 0:
                time.sleep(_LINGER)

    def finish(self, message: str | None = None) -> str | None:
        """End together: process 0 says how it ended, None for well; returns that at every process."""
        message = self.share("end", message)
        self._ending.set()
        if self.process_id:
            with contextlib.suppress(Exception):  # the store may be gone before it has answered
                self._client.key_value_set_bytes(f"cubic/left/{self.process_id}", b"")
            return message
        with contextlib.suppress(TimeoutError, PeerError):
            deadline = time.monotonic() + _LEAVE
            for process in range(1, self.processes):
                self._get(f"left/{process}", max(0.001, deadline - time.monotonic()))
            time.sleep(_PART)
        return message

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
            terminal.fail(f"process {failed['process']} failed: {failed['message']}", 1)
            if self.process_id == 0:
                time.sleep(_LINGER)
            supervisor.leave(1)


@contextlib.contextmanager
def joined(where: Place | None) -> Iterator[Group]:
    """Join the other processes, in a worker; JAX's devices are then those of all, and its local ones this process's.

    An error that leaves the context is told to the others, who end with it.

    Raises:
        PeerError: JAX detects no cluster, or a process does not come; names it.
    """
    group: list[Group] = []
    supervisor.attend(lambda: group[0].fail("it was interrupted") if group else None)
    prepare_cpu()
    import jax

    settled = where or detect()
    seconds = _seconds("CUBIC_JOIN_SECONDS", 40)
    meet(settled.coordinator_address, settled.num_processes, settled.process_id, seconds)
    jax.config.update("jax_enable_preemption_service", False)  # it would take over SIGTERM
    jax.distributed.initialize(
        # Where JAX has found the cluster it does so once more, for the devices of each process are told by it too.
        **(asdict(where) if where is not None else {}),
        initialization_timeout=_CONNECT,
        heartbeat_timeout_seconds=int(_seconds("CUBIC_HEARTBEAT_SECONDS", 15)),
    )
    from jax._src.distributed import global_state

    group.append(Group(settled, global_state.client))
    try:
        yield group[0]
    except BaseException as error:
        group[0].fail((str(error) or type(error).__name__).splitlines()[0])
        raise
