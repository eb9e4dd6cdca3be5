"""Whole processes: run in a clean folder without anyone's settings, with their wall time and largest memory."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cubic_cli.config import SETTINGS

_ROOT = Path(__file__).resolve().parent.parent
PYTHON = [sys.executable]
CUBIC = [*PYTHON, "-m", "cubic_cli"]
_MAXRSS = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss


class Cost(NamedTuple):
    """Seconds of wall time, the largest resident memory in bytes; and what was said on both streams."""

    seconds: float
    memory: int
    said: str


def run(command: list[str], folder: Path, **environment: str) -> Cost:
    """Run a command in `folder`, its JAX caches there too, and return what it cost.

    Raises:
        RuntimeError: it failed; shows what it said.
    """
    # An installed cubic is compiled to bytecode: so is this one, by the first run, which is not counted.
    without = {*SETTINGS, "PYTHONDONTWRITEBYTECODE"}
    clean = {name: value for name, value in os.environ.items() if name not in without}
    path = os.pathsep.join(filter(None, (str(_ROOT), clean.get("PYTHONPATH"))))
    clean |= {"PYTHONPATH": path, "XDG_CACHE_HOME": str(folder / "cache"), "NO_COLOR": "1", **environment}
    said = folder / "said.txt"
    with said.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=clean, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said.read_text()[-500:]}")
    return Cost(seconds, usage.ru_maxrss * _MAXRSS, said.read_text())


class Paired(NamedTuple):
    """Two costs in turn, A B A B …: the medians, and the median of the ratios of neighbours."""

    a: float
    b: float
    ratio: float
    low: float
    high: float


def paired(a: Callable[[], float], b: Callable[[], float], rounds: int) -> Paired:
    """Measure `a` and `b`, which return seconds, in turn; the first round is not counted."""
    a(), b()
    pairs = [(a(), b()) for _ in range(rounds)]
    ratios = [one / other for one, other in pairs]
    medians = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Paired(*medians, statistics.median(ratios), min(ratios), max(ratios))
