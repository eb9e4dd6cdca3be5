"""A process that watches over another, its worker: what JAX's runtime aborts becomes a message and exit 1.

Where a process of a distributed run dies, JAX ends the others by a C++ abort, which no Python code can catch. So the
command starts itself once more, as the worker that does it all, and waits. The worker's words go where they always go;
what C++ writes, on either stream, is kept apart, and read only if the worker is killed.
"""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from cubic_cli.cluster.rendezvous import number_of
from cubic_cli.config import ProcessAddress
from cubic_cli.errors import PeerError

_UNTOUCHED = "The earlier run is untouched"
_WORKER = "CUBIC_WORKER"  # internal: the descriptors of the real standard error and of the pipe to the supervisor


def is_worker() -> bool:
    """Return whether this process is a worker under a supervisor."""
    return _WORKER in os.environ


def supervise(hidden: frozenset[str], where: ProcessAddress | None, clean: Callable[[], None] = lambda: None) -> int:
    """Run this very command in a worker, and return its exit status; what the worker told it has told.

    Args:
        hidden: variables that the worker is to find for itself, those of `.env`.
        where: the place of this process, if it is known.
        clean: called if the worker fails, to clear up what it left.

    Raises:
        PeerError: the worker was killed; says why.
    """
    package = str(Path(__file__).resolve().parents[2])
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    reading, writing = os.pipe()
    stderr = os.dup(2)
    environment[_WORKER] = f"{stderr},{reading}"
    with tempfile.TemporaryFile() as log:
        # The pipe's other end lives as long as this process does: that is how the worker knows.
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "cubic_cli", *sys.argv[1:]],
            stderr=None if os.environ.get("CUBIC_DEBUG") else log,
            env=environment,
            pass_fds=(stderr, reading),
        )
        os.close(reading)
        os.close(stderr)
        status = worker.wait()
        os.close(writing)
        if status:
            with contextlib.suppress(OSError):
                clean()
        if status >= 0:
            return status
        log.seek(0)
        said = log.read().decode("utf-8", "replace")
    raise PeerError(explain(said, -status, where.process_id if where else None))


def explain(said: str, killed_by: int, process_id: int | None) -> str:
    """Return why a worker was killed, from the signal and from what C++ said on standard error."""
    if match := re.search(r"stopped sending heartbeats\):\n((?:.*\d.*\n)+)", said):
        lost = [int(number) for number in re.findall(r"\d+", match[1])]
        return f"{number_of(lost)} died or cannot be reached any more; see what it said. {_UNTOUCHED}"
    if killed_by == signal.SIGABRT and "RegisterTask" in said:
        return f"JAX could not connect the processes: one of them left while it did. {_UNTOUCHED}"
    if killed_by == signal.SIGABRT and process_id != 0 and re.search("coordination ?service", said, re.IGNORECASE):
        return f"process 0 died or cannot be reached any more; see what it said. {_UNTOUCHED}"
    here = "this process" if process_id is None else f"this process, {process_id},"
    name = signal.Signals(killed_by).name if killed_by in list(signal.Signals) else f"signal {killed_by}"
    why = "; is there enough memory?" if killed_by == signal.SIGKILL else "; CUBIC_DEBUG=1 shows what it said"
    return f"{here} was killed ({name}){why} {_UNTOUCHED}"


def become_worker(interrupted: Callable[[], None]) -> None:
    """Speak on the real streams, which C++ does not, and end with the supervisor, as a worker does.

    Args:
        interrupted: called when the supervisor is gone, before this process goes too.
    """
    stderr, pipe = (int(part) for part in os.environ[_WORKER].split(","))
    sys.stderr = io.TextIOWrapper(os.fdopen(stderr, "wb", 0), errors="backslashreplace", write_through=True)
    sys.stdout.flush()
    real = os.fdopen(os.dup(1), "wb")
    sys.stdout = io.TextIOWrapper(real, sys.stdout.encoding, sys.stdout.errors, line_buffering=sys.stdout.isatty())
    os.dup2(2, 1)  # where gloo says on standard output that it is connected

    def wait() -> None:
        with contextlib.suppress(OSError):
            os.read(pipe, 1)
        with contextlib.suppress(BaseException):
            interrupted()
        os._exit(130)

    threading.Thread(target=wait, daemon=True, name="supervisor").start()


def exit_now(status: int) -> None:
    """End a worker at once: what JAX does at exit waits for processes that may be gone."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
