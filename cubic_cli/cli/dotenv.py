"""The `.env` file: settings that lie underneath the environment."""

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

from cubic_cli.errors import CubicError, UsageError


@dataclass(frozen=True)
class DotEnv:
    """The `.env` file that was found, and the names that it set."""

    path: Path | None
    names: frozenset[str]


def load(known: frozenset[str], start: Path | None = None) -> DotEnv:
    """Lay the nearest `.env`, from `start` upward, underneath the environment.

    Only the `known` names and those of JAX and XLA take effect; a value is never shown, for a `.env` holds secrets.
    An empty variable counts as not set.

    Raises:
        UsageError: the file cannot be read; names the file and the line.
        CubicError: the current folder is gone.
    """
    from dotenv.parser import parse_stream

    path = _find_dotenv(start)
    if path is None:
        return DotEnv(None, frozenset())
    values: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(_read_dotenv(path))):
        string = binding.original.string
        if binding.error or "\0" in string or (binding.key and binding.value is None):
            line = binding.original.line + string[: len(string) - len(string.lstrip())].count("\n")
            raise UsageError(f"{path}, line {line}: expected NAME=VALUE, a comment or an empty line")
        if binding.key and (binding.key in known or binding.key.startswith(("JAX_", "XLA_"))):
            values[binding.key] = binding.value or ""
    names = {name for name, value in values.items() if value and not os.environ.get(name)}
    os.environ.update({name: values[name] for name in names})
    return DotEnv(path, frozenset(names))


_MAX_DOTENV = 1 << 20  # bytes


def _find_dotenv(start: Path | None) -> Path | None:
    """Return the nearest `.env` from `start`, or the current folder, upward."""
    try:
        folder = start or Path.cwd()
    except FileNotFoundError:
        raise CubicError("the current folder is not there any more; change to another with `cd`") from None
    for path in (f / ".env" for f in (folder, *folder.parents)):
        with contextlib.suppress(PermissionError):  # a folder above, which is closed to this user
            if path.is_file():
                return path
    return None


def _read_dotenv(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_DOTENV + 1)
        if len(raw) > _MAX_DOTENV:
            raise UsageError(f"{path} is larger than 1 MiB; a file of settings is smaller")
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}, line {line}: this is not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
