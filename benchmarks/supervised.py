"""Work in a process of its own, which is ended where it is stuck or dies, and begun again without what it was at.

A compiler that takes minutes, or a driver that aborts, cannot be stopped from within.
"""

import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

Key = tuple[str, ...]
_START = 180.0  # seconds until the work says for the first time what it is at


class Worker:
    """What the work is given.

    Attributes:
        done: how many results it has told in all, before it was begun again.
        lost: what it is to leave out, and why.
    """

    def __init__(self, sender: Connection, done: int, lost: dict[Key, str]) -> None:
        self.done, self.lost = done, lost
        self._sender = sender

    def begin(self, key: Key, seconds: float) -> None:
        """Say what is next, and that it is lost if nothing more is said for so many seconds."""
        self._sender.send(("begin", (key, seconds)))

    def tell(self, result: Any) -> None:
        """Hand over a result."""
        self._sender.send(("result", result))


def results(work: Callable[..., None], *given: Any, say: Callable[[str], None]) -> Iterator[Any]:
    """Yield what `work(worker, *given)` tells; `work` is a function of a module, and all is pickled.

    Raises:
        RuntimeError: it failed; or what it was at was lost before, and so would be again.
    """
    context, done, lost = multiprocessing.get_context("spawn"), 0, dict[Key, str]()
    while True:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(sender, done, lost, work, given))
        process.start()
        sender.close()
        key, seconds = Key(), _START
        try:
            while True:
                if not receiver.poll(seconds):
                    reason = f"took more than {seconds:.0f} s"
                    break
                kind, said = receiver.recv()
                if kind == "begin":
                    key, seconds = said
                elif kind == "result":
                    done += 1
                    yield said
                elif kind == "failed":
                    raise RuntimeError(said)
                else:
                    return
        except EOFError:
            process.join(10)
            reason = f"its process ended with status {process.exitcode}"
        finally:
            process.kill()
            process.join()
        if not key or key in lost:
            raise RuntimeError(f"{', '.join(key) or 'the start'}: {reason}")
        lost[key] = reason
        say(f"{', '.join(key)}: {reason}; it is left out, and all is begun again")


def _work(
    sender: Connection, done: int, lost: dict[Key, str], work: Callable[..., None], given: tuple[Any, ...]
) -> None:
    try:
        work(Worker(sender, done, lost), *given)
        sender.send(("done", None))
    except Exception as error:
        traceback.print_exc()
        sender.send(("failed", f"{type(error).__name__}: {error}"))
