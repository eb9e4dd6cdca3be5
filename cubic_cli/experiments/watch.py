"""How one looks on at long work."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

# From a description, a total (or None), and the names of what is counted and of what has a rate, to what is told how
# much more is done, and how much work that was.
Watch = Callable[..., AbstractContextManager[Callable[[int, int], None]]]


@contextlib.contextmanager
def unwatched(description: str, total: int | None, *names: str) -> Iterator[Callable[[int, int], None]]:
    """Let no one look on."""
    yield lambda more, effort: None
