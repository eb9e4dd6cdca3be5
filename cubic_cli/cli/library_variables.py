"""Variables of JAX, XLA and polars: those that would halt the pass are set aside, and what is wrong is named."""

import contextlib
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping

from cubic_cli.cli import terminal
from cubic_cli.cli.dotenv import DotEnv
from cubic_cli.errors import CubicError, Note, UsageError

# JAX's switches that change no number: they halt it, or forbid what the pass does, to help who debugs a program of his
# own. The purpose of the pass is to observe such values, so they are off.
HALTING = (
    "JAX_DEBUG_NANS",
    "JAX_DEBUG_INFS",
    "JAX_ERROR_CHECKING_BEHAVIOR_NAN",
    "JAX_ERROR_CHECKING_BEHAVIOR_DIVIDE",
    "JAX_ERROR_CHECKING_BEHAVIOR_OOB",
    "JAX_CHECK_TRACER_LEAKS",
    "JAX_COMPILATION_CACHE_CHECK_CONTENTS",
    "JAX_DEBUG_KEY_REUSE",
    "JAX_NO_EXECUTION",
    "JAX_NO_TRACING",
    "JAX_RAISE_PERSISTENT_CACHE_ERRORS",
    "JAX_THREAD_GUARD",
    "JAX_TRANSFER_GUARD",
    "JAX_TRANSFER_GUARD_HOST_TO_DEVICE",
    "JAX_TRANSFER_GUARD_DEVICE_TO_DEVICE",
    "JAX_TRANSFER_GUARD_DEVICE_TO_HOST",
)


def set_aside() -> None:
    """Take the switches that would halt the pass out of the environment, before JAX reads it."""
    for name in HALTING:
        os.environ.pop(name, None)


def snapshot() -> dict[str, str]:
    """Return what is set by the user, before the engine adds its own."""
    return {name: value for name, value in os.environ.items() if name.startswith(("JAX_", "XLA_"))}


def note(error: Exception, variables: Mapping[str, str], dotenv: DotEnv) -> None:
    """Note on an error which variable it names and where that stands; on one that nobody foresaw, which are set."""
    said = str(error)
    if isinstance(error, UsageError):
        named = [name for name in variables if said.startswith(f"{name}:")]
    else:
        named = [name for name, value in variables.items() if _is_about(said, name, value)]
    if named:
        error.add_note(Note("; ".join(f"{name}={variables[name]} stands in {_place(name, dotenv)}" for name in named)))
    elif variables and not isinstance(error, CubicError | OSError):
        those = ", ".join(f"{name}={value}" for name, value in sorted(variables.items()))
        error.add_note(Note(f"of JAX's variables these are set: {those}; without them it may do"))


def _is_about(said: str, name: str, value: str) -> bool:
    lower = name.lower()
    is_path = os.sep in value and value in said
    is_word = len(value) > 2 and value.isalpha() and re.search(rf"\b{value}\b", said) is not None  # as a device's
    return is_path or is_word or lower in said.lower() or lower.removeprefix("jax_") in said.lower()


def _place(name: str, dotenv: DotEnv) -> str:
    return f"{dotenv.path}, line {dotenv.lines[name]}" if name in dotenv.names else "the environment"


@contextlib.contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Tell what a library warns of in one line, once, without the path of its code."""
    before, told = warnings.showwarning, set[str]()

    def show(message: Warning | str, *_: object) -> None:
        text = about = " ".join(str(message).split())
        if text.startswith(("Error reading persistent", "Error writing persistent")):  # one for each program
            about = "JAX_COMPILATION_CACHE_DIR"
            text = (
                f"{about}={os.environ.get(about, '')} did not serve, and JAX compiled anew: {text.partition(': ')[2]}"
            )
        if about not in told:
            told.add(about)
            terminal.tell(f"note: {text}")

    warnings.showwarning = show  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = before


def refuse_bad_threads() -> None:
    """Raise an error if POLARS_MAX_THREADS is no count: at 0 polars would panic, which prints lines of Rust.

    Raises:
        UsageError: says what is accepted.
    """
    given = os.environ.get("POLARS_MAX_THREADS", "").strip()
    if given and not (given.isascii() and given.isdigit() and int(given) > 0):
        raise UsageError(f"POLARS_MAX_THREADS: found {given!r}; expected an integer of 1 or more")


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
