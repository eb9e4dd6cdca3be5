"""The errors that people see: what was found, what was expected, what to do next; and how numbers stand there."""

import math
import re
from collections.abc import Iterable


class CubicError(Exception):
    """Something could not be done, or a check failed: exit status 1.

    The message is one line, whatever the names in it hold; `lines` stand below it, each for itself.
    """

    exit_code = 1

    def __init__(self, message: str = "", *lines: str) -> None:
        super().__init__("\n".join(map(printable, (message, *lines))))


class Note(str):
    """A note of ours on an error, a line below its message; JAX has its own."""


class UsageError(CubicError):
    """The command was asked for something that it does not accept: exit status 2."""

    exit_code = 2


class DatasetError(CubicError):
    """The dataset is missing, is not a dataset, or cannot be written."""


class ParametersError(CubicError):
    """A file of parameters is missing, or holds no network that fits."""


class RunError(CubicError):
    """A saved run is missing or damaged, or a run cannot be saved."""


class DeviceError(CubicError):
    """The device that was asked for is not there."""


class NotCheckedError(CubicError):
    """`check` could give no verdict: exit status 3."""

    exit_code = 3


class PeerError(CubicError):
    """Another process of a distributed run failed, died, or never came."""


_NO_MEMORY = "there is not enough memory; give a smaller --hidden-size, --batch-size or --num-samples"
_OF_A_GPU = "; on a GPU that others use set XLA_PYTHON_CLIENT_PREALLOCATE=false, or JAX takes most of it at its start"


def no_memory(error: BaseException) -> str | None:
    """Return what to say where the memory of the machine or of a device was not enough; None if it was."""
    text = str(error).split("\n", 1)[0]
    if "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:  # XLA's words
        return _NO_MEMORY + _OF_A_GPU
    return _NO_MEMORY if isinstance(error, MemoryError) else None


# Controls (C0, DEL, C1), marks of direction, separators of lines, and what no XML holds, as halves of surrogate pairs.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)


def printable(text: str) -> str:
    """Return foreign text with all that could control a terminal, turn its direction or break a page escaped.

    Text is foreign if another program or person chose it: a path, a record, a column's name, another process's words.
    """
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a path that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return match[0].encode("unicode_escape", "surrogatepass").decode()


def shorten(text: str, width: int) -> str:
    """Return text in at most `width` letters; what is left out is in the middle, for beginnings are often alike."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[-(width - 1 - head) :]}"


def list_names(names: Iterable[str]) -> str:
    """Return names as they stand in a message, no more than that has room for."""
    return shorten(", ".join(map(repr, names)) or "none", 200)


def five_digits(value: float) -> str:
    """Return a number as people read it, everywhere: five significant digits at most, thousands grouped.

    Trailing zeros are dropped; below 1e-4 and from 1e9 on there is an exponent.
    """
    if not math.isfinite(value):
        return str(value)
    mantissa, exponent = f"{value:.4e}".split("e")
    if float(mantissa) == 0:
        return "0"
    if not -4 <= int(exponent) < 9:
        return f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"
    whole, _, decimals = f"{float(f'{mantissa}e{exponent}'):,.{max(0, 4 - int(exponent))}f}".partition(".")
    return f"{whole}.{decimals}".rstrip("0").rstrip(".") if decimals else whole
