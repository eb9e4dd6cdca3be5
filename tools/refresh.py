"""Run the `$ cubic …` commands in the console blocks of Markdown pages, and bring the outputs below them up to date.

    python tools/refresh.py README.md docs/exploding-numbers.md
    python tools/refresh.py --check README.md docs/exploding-numbers.md

The commands of a page share a temporary folder, so that later ones see the runs of earlier ones; `$ printf … > FILE`
makes a small file there. They run in this process, 100 columns wide, without colours and without the settings of
whoever runs this. What is shown is standard output and, where a command fails, its error.

What a clock or a machine decides may differ: dates, durations, speeds, devices, rounding errors; so may the last digit
of a number. A block in which nothing else differs is left as it stands.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from cubic_cli.cli import app as cli
from cubic_cli.config import SETTINGS

WIDTH = 100
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_UNSIGNED = r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?"
_NUMBER = re.compile(f"-?{_UNSIGNED}")
_TOLERANCE = 1e-4  # relative: float32 sums of a thousand terms, in another order
_NOISE = 1e-7  # what is smaller is what rounding leaves of a zero
# What the clock or the machine decides.
_VARYING = [
    re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?: UTC|Z)?"),
    re.compile(r"[\d.,]+(?:e[+-]?\d+)?\s(?:s|ms|µs)\b"),
    re.compile(r"[\d.,]+(?:e[+-]?\d+)?\ssamples/s"),
    re.compile(r"(?<=relative error )[\d.]+(?:e[+-]?\d+)?"),
    re.compile(r"(?<=^device)\s.*", re.MULTILINE),
]


def main(arguments: list[str]) -> int:
    """Refresh or check the pages that are named; 1 if a page that is checked is out of date."""
    check = "--check" in arguments
    stale = False
    for path in map(Path, (argument for argument in arguments if argument != "--check")):
        text = path.read_text(encoding="utf-8")
        fresh = refresh(text)
        if fresh != text:
            stale = True
            print(f"{path} is out of date; run `python tools/refresh.py {path}`" if check else f"{path} refreshed")
            if not check:
                path.write_text(fresh, encoding="utf-8")
    return int(check and stale)


def refresh(text: str) -> str:
    """Return the page with the outputs that its commands give now."""
    with _place():
        return _BLOCK.sub(lambda block: f"```console\n{_refresh_block(block[1])}```", text)


def console_blocks(text: str) -> list[str]:
    """Return what stands in the console blocks of a page: the commands and their outputs."""
    return _BLOCK.findall(text)


def without_blocks(text: str) -> str:
    """Return a page without its blocks of code and screens."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """Return a page without its blocks, code and the targets of links."""
    return re.sub(r"`[^`]*`|\]\([^)]*\)", " ", without_blocks(text))


def numbers(text: str) -> list[str]:
    """Return the numbers in a text as they are written, without signs; digits within a name, as in z1, are none."""
    return re.findall(rf"(?<![\w.]){_UNSIGNED}", text)


def same(committed: str, fresh: str) -> bool:
    """Return whether two outputs differ in nothing but what may vary."""
    a, b = (_mask(text) for text in (committed, fresh))
    words = [" ".join(_NUMBER.sub("#", text).split()) for text in (a, b)]
    return words[0] == words[1] and all(map(_close, _NUMBER.findall(a), _NUMBER.findall(b)))


def _mask(text: str) -> str:
    for pattern in _VARYING:
        text = pattern.sub(" … ", text)
    return text


def _close(a: str, b: str) -> bool:
    """Return whether two printed numbers are equal but for rounding: one unit of their last decimal, or less."""
    x, y = (float(text.replace(",", "")) for text in (a, b))
    unit = 0.0
    if (match := re.search(r"\.(\d+)(?:e([+-]?\d+))?$", a)) is not None:
        unit = 10.0 ** (int(match[2] or 0) - len(match[1]))
    return abs(x - y) <= max(1.001 * unit, _TOLERANCE * max(abs(x), abs(y)), _NOISE)


def _refresh_block(block: str) -> str:
    """Return the block with fresh outputs, or as it is if these are the same."""
    parts = []
    for command in _commands(block):
        words = shlex.split(command.removeprefix("$ ").replace("\\\n", " "))
        if words[0] == "printf":  # makes a file
            subprocess.run(["bash", "-c", command.removeprefix("$ ")], check=True)
            parts.append(command)
            continue
        if words[0] != "cubic":
            raise SystemExit(f"only `$ cubic …` and `$ printf … > FILE` can be run here, not {command!r}")
        parts.append(f"{command}\n{_run(words[1:])}")
    fresh = "\n".join(parts)
    return block if same(block, fresh) else fresh


def _commands(block: str) -> Iterator[str]:
    """Yield the commands of a block; a backslash at the end of a line joins the next one."""
    lines = iter(block.splitlines())
    for line in lines:
        if line.startswith("$ "):
            while line.endswith("\\"):
                line = f"{line}\n{next(lines)}"
            yield line


def _run(arguments: list[str]) -> str:
    """Return what a command prints, with its error if it fails; a line holds no spaces at its end."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.run(arguments)
    text = out.getvalue() + (err.getvalue() if status else "")
    return "".join(f"{line.rstrip()}\n" for line in text.rstrip().splitlines())


@contextlib.contextmanager
def _place() -> Iterator[None]:
    """Work in a temporary folder, with a terminal of `WIDTH` columns and no settings."""
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place), mock.patch.dict(os.environ):
        for name in SETTINGS:
            os.environ.pop(name, None)
        os.environ.update(COLUMNS=str(WIDTH), NO_COLOR="1", TERM="xterm")
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
