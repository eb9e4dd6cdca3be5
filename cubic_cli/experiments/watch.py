"""How one looks on at long work."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

Advance = Callable[[int, int], None]  # takes how much more is done, and how much work that was

# From a description, a total (or None), and the names of what is counted and of what has a rate.
Watch = Callable[..., AbstractContextManager[Advance]]


@contextlib.contextmanager
def unwatched(description: str, total: int | None, *names: str) -> Iterator[Advance]:
    """Let no one look on."""
    yield lambda more, effort: None
