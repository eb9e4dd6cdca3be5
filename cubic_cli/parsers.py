"""The limits of the settings: each function returns what a text says, or raises `ValueError` with what is accepted."""

import difflib
import os
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

MAX_RUN_NAME = 100
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Names that Windows gives to devices, with or without an extension.
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(1, 10))}


def suggestion(found: str, accepted: Iterable[str]) -> str:
    """Return `; did you mean …?` for what is nearly one of the accepted words, and nothing for anything else."""
    words = {str(word).casefold(): str(word) for word in accepted}
    near = difflib.get_close_matches(found.casefold(), words, n=1)
    return f"; did you mean {words[near[0]]!r}?" if near else ""


Word = TypeVar("Word", bound=StrEnum)


def parse_choice(words: type[Word]) -> Callable[[str], Word]:
    """Return a parser of one of the `words`."""

    def choice(text: str) -> Word:
        try:
            return words(text)
        except ValueError:
            raise ValueError(f"expected one of {', '.join(words)}{suggestion(text, words)}") from None

    return choice


_BOOLEANS = dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True)
_BOOLEANS |= dict.fromkeys(("false", "f", "no", "n", "off", "0"), False)


def parse_boolean(text: str) -> bool:
    """Return what a boolean word says, in any case.

    Raises:
        ValueError: it is none.
    """
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError("expected a boolean word: true, false, yes, no, on, off, 1, 0") from None


def parse_size(text: str) -> float:
    """Return a finite decimal number of at least 0; stricter than `float`, which takes `1_0`, ` 1` and `inf`.

    Raises:
        ValueError: it is none.
    """
    if not _DECIMAL.fullmatch(text) or not (value := float(text)) < float("inf"):
        raise ValueError("expected a finite number of at least 0")
    return value


_DECIMAL = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def check_column(name: str) -> str:
    """Return `name` if a column may bear it.

    Raises:
        ValueError: it is empty.
    """
    if not name.strip():
        raise ValueError("expected the name of a column")
    return name


def check_run_name(name: str) -> str:
    """Return `name` if a run may bear it.

    Raises:
        ValueError: the name could leave the artifact folder or is no portable file name.
    """
    wanted = (
        f"a run name has 1 to {MAX_RUN_NAME} ASCII letters, digits, '.', '_' or '-', and starts with a letter or digit"
    )
    if not _RUN_NAME.fullmatch(name) or len(name) > MAX_RUN_NAME:
        raise ValueError(wanted)
    if name.endswith("."):
        raise ValueError(f"{wanted}; it does not end with a dot")
    if name.split(".")[0].upper() in _RESERVED:
        raise ValueError(f"{wanted}; Windows reserves this one")
    return name


def check_dataset(path: str) -> str:
    """Return `path` if it names a CSV or Parquet file.

    Raises:
        ValueError: the path ends in neither `.csv` nor `.parquet`, or no file system takes it.
    """
    if Path(path).suffix.lower() not in (".csv", ".parquet") or "\0" in path:
        raise ValueError("expected a path that ends in .csv or .parquet")
    return path


def check_address(text: str) -> str:
    """Return `text` if it is `host:port`; an IPv6 address stands in brackets.

    Raises:
        ValueError: it is not.
    """
    match = re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\]):([0-9]{1,5})", text := text.strip())
    if not match or not 1 <= int(match[2]) <= 65535:
        raise ValueError("expected host:port, the address of process 0, as in 10.0.0.1:1234")
    return text


def parse_count_or_all(text: str) -> int | None:
    """Return a count, None for `all`.

    Raises:
        ValueError: neither `all` nor an integer of at least 1.
    """
    if text.lower() == "all":
        return None
    return parse_integer(1, accepted="an integer of at least 1, or 'all'")(text)


def conversion(path: Path) -> tuple[str, str, str]:
    """Return what to do with a pickle, which runs whatever code it holds, and two lines that do it."""
    target = path.with_suffix(".safetensors").name
    return (
        "a pickle runs code when it is read; convert it once, in Python, with PyTorch:",
        "    import torch, safetensors.torch",
        f"    safetensors.torch.save_file(torch.load({path.name!r}, weights_only=True), {target!r})",
    )


def check_parameters(path: str) -> str:
    """Return `path` if it names a file of parameters.

    Raises:
        ValueError: its ending is another; for a pickle of PyTorch's it says how to convert it.
    """
    ending = Path(path).suffix.lower()
    if ending in (".pt", ".pth", ".pkl", ".bin"):
        what, *code = conversion(Path(path))
        refused = ValueError(what)
        for line in code:
            refused.add_note(line)
        raise refused
    if ending not in (".safetensors", ".json") or "\0" in path:
        raise ValueError("expected a path that ends in .safetensors or .json")
    return path


def expand_home(path: str) -> str:
    """Return `path` with a leading `~` or `~name` replaced by the home folder, as few shells do in `--flag=~/path`.

    Raises:
        ValueError: there is no such home folder.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        name = path.partition("/")[0]
        raise ValueError(f"there is no home folder {name}; write ./{name} for what is named so")
    return expanded


def check_folder(path: str) -> str:
    """Return `path` if it names a folder, there or not.

    Raises:
        ValueError: it is empty, or no file system takes it.
    """
    if not path or "\0" in path:
        raise ValueError("expected a folder")
    return path


def parse_integer(low: int, high: int = 2**63 - 1, accepted: str = "") -> Callable[[str], int]:
    """Return a parser of whole numbers from `low` to `high`; stricter than `int`, which takes `1_0`, ` 1` and `+1`."""
    unlimited = high == 2**63 - 1
    accepted = accepted or (f"an integer of at least {low}" if unlimited else f"an integer from {low} to {high}")

    def integer(text: str) -> int:
        if not re.fullmatch(r"[0-9]+", text):
            raise ValueError(f"expected {accepted}")
        value = int(text) if len(text) <= 40 else 2**63
        if value > high and unlimited:
            raise ValueError(f"expected {accepted}, and at most {high}")
        if not low <= value <= high:
            raise ValueError(f"expected {accepted}")
        return value

    return integer
