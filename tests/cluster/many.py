"""`cubic` in the many processes of one run."""

import os
import socket
import time
from pathlib import Path

import helpers


def free_port():
    """Return a port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start_all(devices, *arguments, command="forward", only=None, own=None, **environment):
    """Start the processes of a distributed run; return them by their numbers.

    Args:
        devices: how many CPU devices each process has.
        arguments: of all processes.
        command: of `cubic`.
        only: the numbers of the processes that are started (None: all).
        own: what one process has of its own, by its number: arguments, and a dict of environment variables, in which
            `cwd` is its folder.
        environment: of all processes.
    """
    address = f"127.0.0.1:{free_port()}"
    started = {}
    for process, count in enumerate(devices):
        mine = list((own or {}).get(process, ()))
        variables = {"JAX_NUM_CPU_DEVICES": str(count), **environment}
        for extra in [extra for extra in mine if isinstance(extra, dict)]:
            mine.remove(extra)
            variables |= extra
        if only is None or process in only:
            place = ("--coordinator-address", address, "--num-processes", len(devices), "--process-id", process)
            folder = variables.pop("cwd", None)
            everything = (command, "--distributed", *place, *arguments, *mine)
            started[process] = helpers.start(*everything, environment=variables, cwd=folder)
    return started


def finish(running, seconds=120):
    """Wait for processes, so long for each; return (status, standard output, standard error) of each."""
    ended = {}
    try:
        for process, popen in running.items():
            ended[process] = helpers.finish(popen, seconds)
            assert "Check failure" not in "".join(ended[process][1:]), "a dump of C++"
    finally:
        for popen in running.values():
            popen.kill()
    return ended


def worker_of(popen):
    """Return the number of the worker under a supervisor."""
    children = Path(f"/proc/{popen.pid}/task/{popen.pid}/children")
    wait_for(lambda: children.read_text().split())
    return int(children.read_text().split()[0])


def wait_for(condition):
    """Wait until it holds, a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def scratches():
    """Return the scratch folders of the processes that have begun to read."""
    return list(Path("model").glob(".*.scratch")) if os.path.isdir("model") else []
