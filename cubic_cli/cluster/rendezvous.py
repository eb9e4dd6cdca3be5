"""Meet before JAX connects: process 0 listens at the coordinator's address, the others come there.

`jax.distributed.initialize` ends in a C++ abort where a process never comes, and does not say which. So all processes
meet first, by plain TCP at the very port that JAX's coordinator will use, in lines of JSON: a process says who it is,
`{"process": 1, "processes": 4}`, and is told whom all wait for, `{"missing": [2, 3]}`, whenever another comes.
"""

import contextlib
import json
import select
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

from cubic_cli.errors import PeerError

_RETRY = 0.1  # seconds between two attempts to reach process 0
_PATIENCE = 5.0  # seconds for process 0, which may have started later, to say first who did not come
_LINE = 4096  # bytes: a longer greeting comes from a stranger


def meet(address: str, processes: int, process_id: int, seconds: float) -> None:
    """Return when all `processes` have come to `address`, at most `seconds` from now.

    Raises:
        PeerError: some did not come, or left (names them); two have one number; this process cannot listen.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    if process_id == 0:
        _receive(address, int(port), processes, deadline, seconds)
    else:
        _come(host.strip("[]"), int(port), processes, process_id, deadline, seconds)


def number_of(processes: list[int]) -> str:
    """Return `process 2`, or `processes 2, 3`."""
    return f"process{'es' if len(processes) > 1 else ''} {', '.join(map(str, processes))}"


def _absent(missing: list[int], seconds: float) -> PeerError:
    return PeerError(
        f"{number_of(missing)} did not come within {seconds:g} s; start one `cubic` for each PROCESS_ID, at about the "
        "same time and with the same COORDINATOR_ADDRESS and NUM_PROCESSES, and see what the missing ones say"
    )


def _receive(address: str, port: int, processes: int, deadline: float, seconds: float) -> None:
    """Wait, as process 0, until all have come."""
    here: dict[socket.socket, int] = {}
    strangers: set[socket.socket] = set()
    missing = list(range(1, processes))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(address, port))
        while missing:
            ready, _, _ = select.select([server, *here, *strangers], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise _tell(here, _absent(missing, seconds))
            for peer in ready:
                if peer is server:
                    strangers.add(stack.enter_context(server.accept()[0]))
                elif peer in here:  # nobody speaks twice: it has closed
                    raise _tell(here, PeerError(f"process {here[peer]} left before {number_of(missing)} came"))
                else:
                    strangers.remove(peer)
                    if (number := _greet(peer, processes, missing)) is None:
                        peer.close()
                    else:
                        here[peer] = number
                        missing.remove(number)
                        for other in here:
                            _send(other, {"missing": missing})
        # Who closes first keeps the port busy for a while; JAX needs it here, so the others close first.
        for peer in here:
            peer.settimeout(max(0.1, min(5.0, deadline - time.monotonic())))
            with contextlib.suppress(OSError):
                peer.recv(1)


def _tell(here: Iterable[socket.socket], error: PeerError) -> PeerError:
    """Tell all who are here why process 0 gives up."""
    for peer in here:
        _send(peer, {"error": str(error)})
    return error


def _listen(address: str, port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise PeerError(
            f"process 0 cannot listen at COORDINATOR_ADDRESS {address}: {error.strerror}; "
            "choose a free port, and give PROCESS_ID 0 to one process alone"
        ) from None


def _greet(peer: socket.socket, processes: int, missing: list[int]) -> int | None:
    """Return the number of who has come, None for a stranger or one that cannot take part (and is told why)."""
    try:
        peer.settimeout(1.0)
        greeting = json.loads(peer.recv(_LINE))
        number, wanted = int(greeting["process"]), int(greeting["processes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if wanted != processes:
        _send(peer, {"refused": f"it has NUM_PROCESSES={processes}, this one {wanted}: give all the same"})
    elif number not in missing:
        _send(peer, {"refused": f"another process has PROCESS_ID={number}: give each its own"})
    else:
        return number
    return None


def _come(host: str, port: int, processes: int, process_id: int, deadline: float, seconds: float) -> None:
    """Go to process 0, and wait there until all have come."""
    with _reach(host, port, deadline, seconds) as peer:
        _send(peer, {"process": process_id, "processes": processes})
        missing = [0]
        try:
            for told in _lines(peer, deadline + _PATIENCE):
                if "error" in told:
                    raise PeerError(told["error"])
                if "refused" in told:
                    raise PeerError(f"process 0 at {host}:{port} refused this one: {told['refused']}")
                missing = told["missing"]
                if not missing:
                    return
        except TimeoutError:
            raise _absent(missing, seconds) from None
        except (OSError, ValueError, KeyError, TypeError):
            pass
        waiting = f" before {number_of(missing)} came" if missing != [0] else "; is another program at this address?"
        raise PeerError(f"process 0 at {host}:{port} left{waiting}")


def _reach(host: str, port: int, deadline: float, seconds: float) -> socket.socket:
    while (left := deadline - time.monotonic()) > 0:
        try:
            return socket.create_connection((host, port), timeout=left)
        except OSError:  # not there yet, or its name is not known yet
            time.sleep(max(0.0, min(_RETRY, left)))
    raise PeerError(
        f"process 0 did not come to COORDINATOR_ADDRESS {host}:{port} within {seconds:g} s; "
        "start it, and see that its machine and port can be reached from here"
    )


def _send(peer: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # one that has left is noticed when it is read
        peer.sendall(json.dumps(message).encode() + b"\n")


def _lines(peer: socket.socket, deadline: float) -> Iterator[dict[str, Any]]:
    rest = b""
    while True:
        peer.settimeout(max(0.001, deadline - time.monotonic()))
        received = peer.recv(_LINE)
        if not received:
            return
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            yield json.loads(line)
