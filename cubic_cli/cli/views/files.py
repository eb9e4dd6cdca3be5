"""Files that a user names for a view, written whole or not at all."""

import os
from collections.abc import Sequence
from pathlib import Path

from cubic_cli.atomic import replacing_file
from cubic_cli.errors import CubicError, UsageError
from cubic_cli.runs.files import refuse_in_run


def check_ending(path: str, endings: Sequence[str], flag: str) -> None:
    """Refuse a path that a `flag` names and that ends otherwise.

    Raises:
        UsageError: it has another ending; names those that are accepted.
    """
    if Path(path).suffix.lower() not in endings or "\0" in path:
        raise UsageError(f"{flag}: found {path!r}; expected a path that ends in {', '.join(endings)}")


def write_whole(path: Path, content: bytes, flag: str) -> None:
    """Write a file that a `flag` names, whole or not at all.

    Raises:
        CubicError: the path is not that of a file, or cannot be written.
    """

    def check(path: Path) -> None:
        refuse_in_run(path, flag)
        unfit = {
            "a link": path.is_symlink(),
            "a folder": path.is_dir(),
            "no regular file": path.exists() and not path.is_file(),
            "read-only": path.exists() and not os.access(path, os.W_OK),
        }
        for what in (what for what, there in unfit.items() if there):
            raise CubicError(f"cannot write {path}: it is {what}; name another file with {flag}")

    check(path)
    try:
        with replacing_file(path, check) as stream:
            stream.write(content)
    except OSError as error:
        raise CubicError(
            f"cannot write {path}: {error.strerror or error}; name a file with {flag} in a folder that can be written"
        ) from None
