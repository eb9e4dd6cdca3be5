"""Timing side by side: every round runs all contenders in turn, so that drift and load hit all alike."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_PAUSE = 0.005  # seconds in which the threads of one library stop spinning before the next one starts


def best(run: Callable[[], Any], at_least: float = 0.1, most: int = 20) -> float:
    """Return the shortest wall time of an epoch of `run` in seconds, repeated until `at_least` seconds have passed."""
    times: list[float] = []
    while not times or (sum(times) < at_least and len(times) < most):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times) / getattr(run, "epochs", 1)


def interleave(
    runs: dict[Any, Callable[[], Any]], rounds: int, lost: dict[Any, str] | None = None
) -> dict[Any, list[float]]:
    """Return the seconds of each run in each round; without those that fail, where these may be `lost`, with why."""
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name in list(seconds):
            time.sleep(_PAUSE)
            try:
                seconds[name].append(best(runs[name]))
            except Exception as error:
                if lost is None:
                    raise
                lost[name] = explain(error)
                del seconds[name]
    return seconds


def explain(error: Exception) -> str:
    """Return an exception's type and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def machine(packages: tuple[str, ...] = ("jax", "jaxlib", "numpy", "polars", "torch")) -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, versions, load."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = lines[0] if lines else model
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": os.getloadavg()[0],
        "versions": versions,
    }


def describe(of: dict[str, Any]) -> str:
    """Return one line about the machine."""
    versions = ", ".join(f"{name} {number}" for name, number in of["versions"].items())
    device = f"; {of['device']}" if "device" in of else ""
    load = f"load {of['load']:.1f} at the start"
    return f"{of['processor']}, {of['cores']} cores, {of['system']}; {versions}; {load}{device}"


def options(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return the options that every benchmark has; the first line of `description` stands above them."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    return parser


def columns(title: str, names: tuple[str, ...], left: tuple[str, ...] = ("",)) -> Table:
    """Return an empty table; all columns but those of `left` are numbers."""
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, justify="left" if name in left else "right")
    return table


def met(reached: bool) -> str:
    """Return whether a goal is met, in its colour."""
    return "[green]met[/]" if reached else "[red]not met[/]"


def report(document: dict[str, Any], tables: list[Table], path: Path | None) -> None:
    """Print the machine and the tables, and write all figures to `path`, if it is given."""
    Console().print(describe(document["machine"]), *tables, sep="\n")
    keep(document, path)


def keep(document: dict[str, Any], path: Path | None) -> None:
    """Write all figures to `path`, if it is given."""
    if path:
        path.write_text(json.dumps(document, indent=1) + "\n")
