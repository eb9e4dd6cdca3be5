"""The variables of JAX and XLA that are set: an error that comes from one of them names it, and where it stands."""

import os
import subprocess
import sys
from collections.abc import Mapping

from cubic_cli.cli.dotenv import DotEnv
from cubic_cli.errors import CubicError, UsageError

MARK = "here "  # how our notes on errors begin; JAX has its own


def snapshot() -> dict[str, str]:
    """Return what is set by the user, before the engine adds its own."""
    return {name: value for name, value in os.environ.items() if name.startswith(("JAX_", "XLA_"))}


def note(error: Exception, variables: Mapping[str, str], dotenv: DotEnv) -> None:
    """Note on an error which variable it names and where that stands; on one that nobody foresaw, which are set."""
    if isinstance(error, UsageError):
        return
    said = str(error)
    named = [name for name, value in variables.items() if _is_about(said, name, value)]
    if named:
        error.add_note(MARK + "; ".join(f"{name}={variables[name]} stands in {_place(name, dotenv)}" for name in named))
    elif variables and not isinstance(error, CubicError | OSError):
        error.add_note(
            f"{MARK}variables of JAX that are set: {', '.join(f'{n}={v}' for n, v in sorted(variables.items()))}"
        )


def _is_about(said: str, name: str, value: str) -> bool:
    lower = name.lower()
    is_path = os.sep in value and value in said
    return is_path or lower in said.lower() or lower.removeprefix("jax_") in said.lower()


def _place(name: str, dotenv: DotEnv) -> str:
    return str(dotenv.path) if name in dotenv.names else "the environment"


def refuse_bad_flags() -> None:
    """Raise an error if XLA does not take what XLA_FLAGS says: it would end this process, so another tries it.

    Raises:
        UsageError: says what XLA said.
    """
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if not flags or "jax" in sys.modules:
        return
    code = "from jaxlib import _jax; _jax.CompileOptions()"
    tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, errors="replace", check=False)
    said = [line.rpartition("] ")[2] for line in tried.stderr.splitlines() if "parse_flags_from_env" in line]
    if tried.returncode and said:
        raise UsageError(f"XLA_FLAGS: found {flags!r}; XLA says: {said[-1]}")
