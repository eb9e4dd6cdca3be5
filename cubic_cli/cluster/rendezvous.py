"""Meet before JAX connects: process 0 listens at the coordinator's address, the others come there.

`jax.distributed.initialize` ends in a C++ abort where a process never comes, and does not say which. So all processes
meet first, by plain TCP at the very port that JAX's coordinator will use, in lines of JSON: a process says who it is,
`{"process": 1, "processes": 4}`, and is told whom all wait for, `{"missing": [2, 3]}`, whenever another comes.

Whatever else speaks at the port is a stranger: nothing that it says or leaves unsaid ends the meeting or delays it, and
64 of them are heard at a time. One that speaks this protocol cannot be told from a process (nor can JAX tell it), so
the ports want a network that is trusted.
"""

import asyncio
import contextlib
import json
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterable
from typing import Any

from cubic_cli.errors import PeerError

_RETRY = 0.1  # seconds between two attempts to reach process 0
_PATIENCE = 5.0  # seconds: process 0 may have started later, and is to say first who did not come
_LINE = 1 << 16  # bytes: a longer line comes from a stranger; process 0 names 10,000 who are missing in one
_STRANGERS = 64  # connections that have not said who they are; the oldest makes room


def meet(address: str, processes: int, process_id: int, seconds: float, patience: float = _PATIENCE) -> None:
    """Return when all `processes` have come to `address`, at most `seconds` from now.

    Where process 0 was reached it has `patience`, seconds, on top, to say who did not come.

    Raises:
        PeerError: some did not come, or left (names them); two have one number; this process cannot listen.
    """
    if process_id > 0:
        asyncio.run(_come(address, processes, process_id, seconds, patience))
    elif processes > 1:
        asyncio.run(_receive(address, processes, seconds, patience))


def number_of(processes: list[int]) -> str:
    """Return `process 2`, or `processes 2, 3`."""
    return f"process{'es' if len(processes) > 1 else ''} {', '.join(map(str, processes))}"


def _absent(missing: list[int], seconds: float) -> PeerError:
    return PeerError(
        f"{number_of(missing)} did not come within {seconds:g} s; start one `cubic` for each PROCESS_ID, at about the "
        "same time and with the same COORDINATOR_ADDRESS and NUM_PROCESSES, and see what the missing ones say"
    )


async def _receive(address: str, processes: int, seconds: float, patience: float) -> None:
    """Wait, as process 0, until all have come."""
    missing = list(range(1, processes))
    here: list[StreamWriter] = []
    strangers: dict[StreamWriter, None] = {}  # the oldest first
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)  # however a stranger's connection ends, nobody is told
    ended: asyncio.Future[PeerError | None] = loop.create_future()

    def end(error: PeerError | None) -> None:
        if not ended.done():
            ended.set_result(error)

    async def hear(reader: StreamReader, writer: StreamWriter) -> None:
        """Hear a stranger, who may turn out to be a process."""
        strangers[writer] = None
        if len(strangers) > _STRANGERS:
            oldest = next(iter(strangers))
            del strangers[oldest]
            oldest.close()
        with contextlib.closing(writer):
            line = b""
            with contextlib.suppress(OSError, ValueError):  # ValueError: the line is too long
                line = await reader.readline()
            strangers.pop(writer, None)
            number = _greet(writer, line, processes, missing)
            if number is None:
                return
            here.append(writer)
            missing.remove(number)
            if missing:
                _tell(here, {"missing": missing})
            else:
                end(None)
            with contextlib.suppress(OSError):
                await reader.read(1)  # nobody speaks twice: it has closed
            end(PeerError(f"process {number} left before {number_of(missing)} came"))

    server = await asyncio.start_server(hear, sock=_listen(address), limit=_LINE)
    await asyncio.wait([ended], timeout=seconds)
    server.close()
    error = ended.result() if ended.done() else _absent(missing, seconds)
    for peer in strangers:
        peer.close()
    hearing = asyncio.all_tasks() - {asyncio.current_task()}
    # Only now, for they go on to JAX, at the same port: nobody else may listen there.
    _tell(here, {"missing": []} if error is None else {"error": str(error)})
    if error is None and hearing:
        # Who closes first keeps the port busy for a while; JAX needs it here, so the others close first.
        await asyncio.wait(hearing, timeout=patience)
    for peer in here:
        peer.close()
    await asyncio.gather(*hearing)
    if error is not None:
        raise error


def _listen(address: str) -> socket.socket:
    port = int(address.rpartition(":")[2])
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise PeerError(
            f"process 0 cannot listen at COORDINATOR_ADDRESS {address}: {error.strerror}; "
            "choose a free port, and give PROCESS_ID 0 to one process alone"
        ) from None


def _greet(peer: StreamWriter, line: bytes, processes: int, missing: list[int]) -> int | None:
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


async def _come(address: str, processes: int, process_id: int, seconds: float, patience: float) -> None:
    """Go to process 0, and wait there until all have come."""
    host, _, port = address.rpartition(":")
    missing: list[int] = []  # nobody has said
    strange = False
    deadline = asyncio.get_running_loop().time() + seconds
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(deadline) as limit:
            while True:
                try:
                    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), limit=_LINE)
                except OSError:  # not there yet, or its name is not known yet
                    await asyncio.sleep(_RETRY)
                    continue
                limit.reschedule(deadline + patience)
                strange = True
                with contextlib.closing(writer), contextlib.suppress(OSError, ValueError):
                    _tell([writer], {"process": process_id, "processes": processes})
                    async for line in reader:
                        told = _decode(line)
                        if isinstance(error := told.get("error"), str):
                            raise PeerError(error)
                        if isinstance(refusal := told.get("refused"), str):
                            raise PeerError(f"process 0 at {address} refused this one: {refusal}")
                        if not _are_processes(told.get("missing"), processes):
                            break
                        missing = told["missing"]
                        if not missing:
                            return
                if missing:
                    raise PeerError(f"process 0 at {address} left before {number_of(missing)} came")
                # Another program's words, or none, as where a crowd of strangers pushed this process out: once more.
                limit.reschedule(deadline)
                await asyncio.sleep(_RETRY)
    if missing:
        raise _absent(missing, seconds)
    hint = "start it, and see that its machine and port can be reached from here"
    if strange:
        hint = "is another program at this address?"
    raise PeerError(f"process 0 did not come to COORDINATOR_ADDRESS {address} within {seconds:g} s; {hint}")


def _tell(peers: Iterable[StreamWriter], message: dict[str, Any]) -> None:
    """Send a message; one that does not take it has left, which is noticed when it is read."""
    for peer in peers:
        peer.write(json.dumps(message).encode() + b"\n")


def _decode(line: bytes) -> dict[str, Any]:
    """Return the message of a line, empty for what no process says."""
    try:
        message = json.loads(line) if line.endswith(b"\n") else {}
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _are_processes(missing: Any, processes: int) -> bool:
    """Return whether these are the numbers of processes that may be missing."""
    return isinstance(missing, list) and all(type(number) is int and 0 < number < processes for number in missing)
