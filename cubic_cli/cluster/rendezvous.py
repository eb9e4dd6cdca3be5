"""Meet before JAX connects: process 0 listens at the coordinator's address, the others come there.

`jax.distributed.initialize` ends in a C++ abort where a process never comes, and does not say which. So all processes
meet first, by plain TCP at the very port that JAX's coordinator will use, in lines of JSON: a process says who it is,
`{"process": 1, "processes": 4}`, and is told whom all wait for, `{"missing": [2, 3]}`, whenever another comes.

Whatever else speaks at the port is a stranger: nothing that it says or leaves unsaid ends the meeting or delays it, and
64 of them are heard at a time. One that speaks this protocol cannot be told from a process (nor can JAX tell it), so
the ports want a network that is trusted.
"""

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

from cubic_cli.errors import PeerError

_RETRY = 0.1  # seconds between two attempts to reach process 0
_PATIENCE = 5.0  # seconds for process 0, which may have started later, to say first who did not come
_LINE = 1 << 16  # bytes: a longer line comes from a stranger; process 0 names 10,000 who are missing in one
_STRANGERS = 64  # connections that have not said who they are; the oldest makes room


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
    strangers: dict[socket.socket, bytes] = {}  # what each has said so far, the oldest first
    missing = list(range(1, processes))
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        server = stack.enter_context(_listen(address, port))
        selector.register(server, selectors.EVENT_READ, server)

        def dismiss(peer: socket.socket) -> None:
            selector.unregister(peer)
            strangers.pop(peer, None)
            peer.close()

        def accept() -> None:
            with contextlib.suppress(OSError):  # it has left again, or this process has too many files open
                peer, _ = server.accept()
                peer.setblocking(False)
                strangers[peer] = b""
                selector.register(peer, selectors.EVENT_READ, peer)
            if len(strangers) > _STRANGERS:
                dismiss(next(iter(strangers)))

        def listen(peer: socket.socket) -> None:
            """Hear a stranger, who may turn out to be a process."""
            try:
                received = peer.recv(_LINE)
            except OSError:
                received = b""
            strangers[peer] += received
            line, ended, _ = strangers[peer].partition(b"\n")
            if not ended and received and len(line) <= _LINE:
                return
            number = _greet(peer, line, processes, missing) if ended else None
            if number is None:
                dismiss(peer)
                return
            del strangers[peer]
            here[stack.enter_context(peer)] = number
            missing.remove(number)
            _tell(here, {"missing": missing})

        try:
            while missing:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise _absent(missing, seconds)
                for peer in [key.data for key, _ in selector.select(left)]:
                    if peer is server:
                        accept()
                    elif peer in strangers:
                        listen(peer)
                    elif peer in here:  # nobody speaks twice: it has closed
                        raise PeerError(f"process {here[peer]} left before {number_of(missing)} came")
        except PeerError as error:
            _tell(here, {"error": str(error)})
            raise
        finally:
            for peer in [*strangers]:
                dismiss(peer)
        # Who closes first keeps the port busy for a while; JAX needs it here, so the others close first.
        closing = time.monotonic() + _PATIENCE
        for peer in here:
            peer.settimeout(max(0.1, closing - time.monotonic()))
            with contextlib.suppress(OSError):
                peer.recv(1)


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


def _greet(peer: socket.socket, line: bytes, processes: int, missing: list[int]) -> int | None:
    """Return the number of who has come, None for a stranger or one that cannot take part (and is told why)."""
    greeting = _decode(line)
    number, wanted = greeting.get("process"), greeting.get("processes")
    if type(number) is not int or type(wanted) is not int:
        return None
    if wanted != processes:
        refusal = f"it has NUM_PROCESSES={processes}, this one {wanted}: give all the same"
    elif number not in missing:
        refusal = f"another process has PROCESS_ID={number}: give each its own"
    else:
        return number
    _tell([peer], {"refused": refusal})
    return None


def _come(host: str, port: int, processes: int, process_id: int, deadline: float, seconds: float) -> None:
    """Go to process 0, and wait there until all have come."""
    at = f"{host}:{port}"
    missing: list[int] = []  # nobody has said
    strange = False
    while (peer := _reach(host, port, deadline)) is not None:
        with peer:
            _tell([peer], {"process": process_id, "processes": processes})
            try:
                for line in _lines(peer, deadline + _PATIENCE):
                    told = _decode(line)
                    if isinstance(error := told.get("error"), str):
                        raise PeerError(error)
                    if isinstance(refusal := told.get("refused"), str):
                        raise PeerError(f"process 0 at {at} refused this one: {refusal}")
                    if not _are_processes(told.get("missing"), processes):
                        break
                    missing = told["missing"]
                    if not missing:
                        return
            except TimeoutError:
                strange = True
                break
            except OSError:
                pass
        if missing:
            raise PeerError(f"process 0 at {at} left before {number_of(missing)} came")
        # Another program's words, or none, as where a crowd of strangers has pushed this process out: once more.
        strange = True
        time.sleep(max(0.0, min(_RETRY, deadline - time.monotonic())))
    if missing:
        raise _absent(missing, seconds)
    hint = "start it, and see that its machine and port can be reached from here"
    if strange:
        hint = "is another program at this address?"
    raise PeerError(f"process 0 did not come to COORDINATOR_ADDRESS {at} within {seconds:g} s; {hint}")


def _reach(host: str, port: int, deadline: float) -> socket.socket | None:
    """Return a connection, None where there is none by the deadline."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            return socket.create_connection((host, port), timeout=left)
        except OSError:  # not there yet, or its name is not known yet
            time.sleep(max(0.0, min(_RETRY, left)))
    return None


def _tell(peers: Iterable[socket.socket], message: dict[str, Any]) -> None:
    """Send a message; one that does not take it has left, which is noticed when it is read."""
    for peer in peers:
        with contextlib.suppress(OSError):
            peer.sendall(json.dumps(message).encode() + b"\n")


def _lines(peer: socket.socket, deadline: float) -> Iterator[bytes]:
    """Yield the lines that come; end where the peer does, or a line is too long.

    Raises:
        TimeoutError: the deadline is over, however much has come.
    """
    rest = b""
    while len(rest) <= _LINE:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        peer.settimeout(left)
        received = peer.recv(_LINE)
        if not received:
            return
        *lines, rest = (rest + received).split(b"\n")
        yield from lines


def _decode(line: bytes) -> dict[str, Any]:
    """Return the message of a line, empty for what no process says."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _are_processes(missing: Any, processes: int) -> bool:
    """Return whether these are the numbers of processes that may be missing."""
    return isinstance(missing, list) and all(type(number) is int and 0 < number < processes for number in missing)
