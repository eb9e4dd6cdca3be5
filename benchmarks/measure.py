"""Timing side by side: every round runs all contenders in turn, so that drift and load hit all alike."""

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PAUSE = 0.005  # seconds in which the threads of one library stop spinning before the next one starts


def best(run: Callable[[], Any], at_least: float = 0.1, most: int = 20) -> float:
    """Return the shortest wall time of an epoch of `run` in seconds, repeated until `at_least` seconds have passed."""
    times: list[float] = []
    while not times or (sum(times) < at_least and len(times) < most):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times) / getattr(run, "epochs", 1)


def interleave(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each run in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(_PAUSE)
            seconds[name].append(best(run))
    return seconds


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
    return f"{of['processor']}, {of['cores']} cores, {of['system']}; {versions}; load {of['load']:.1f} at the start"
