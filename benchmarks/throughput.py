"""Samples a second of every contender, side by side, and the ratios that cubic is to reach.

python -m benchmarks.throughput [--samples N] [--batch B …] [--hidden H] [--rounds R] [--json FILE] [--no-torch]
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import c_loop, measure, with_numpy, with_torch
from benchmarks.problem import ALL, HISTORY, LOSS, Figures, Problem, check, make, reference
from cubic_cli.config import Device
from cubic_cli.engine.devices import pick_devices

Maker = Callable[[Problem, str], Callable[[], Figures]]

CUBIC, UNOBSERVED = "cubic", "cubic, unobserved"
C_LOOP, COMPILED, EAGER, JNP, NUMPY = "fused C loop", "torch.compile", "torch eager", "plain jnp", "NumPy"


@dataclass(frozen=True)
class Goal:
    """`ours` at its level is to be at least `least` times as fast as `other` at its."""

    ours: str
    other: str
    other_level: str
    least: float


GOALS = (
    Goal(HISTORY, C_LOOP, HISTORY, 0.5),
    Goal(ALL, C_LOOP, ALL, 0.6),
    Goal(HISTORY, COMPILED, HISTORY, 1.5),
    Goal(ALL, COMPILED, ALL, 1.5),
    Goal(ALL, JNP, LOSS, 1.5),
    Goal(ALL, EAGER, LOSS, 8.0),
    Goal(ALL, NUMPY, ALL, 40.0),
    Goal(ALL, EAGER, ALL, 40.0),
    Goal(HISTORY, UNOBSERVED, LOSS, 1 / 2.2),
)


def contenders() -> dict[tuple[str, str], dict[str, Maker]]:
    """Return the formulations of each contender at each level; the fastest of them counts."""
    from benchmarks import with_jax

    whole = [name for name in with_torch.FORMULATIONS if name != "unrolled"]
    plain_jax = {"matrix products": with_jax.plain(True), "broadcast": with_jax.plain(False)}
    made: dict[tuple[str, str], dict[str, Maker]] = {(UNOBSERVED, LOSS): {"": with_jax.unobserved}}
    for level in (LOSS, HISTORY, ALL):
        made[C_LOOP, level] = {"": c_loop.fused}
        made[COMPILED, level] = {name: with_torch.compiled(name) for name in with_torch.FORMULATIONS}
        made[EAGER, level] = {name: with_torch.eager(name) for name in whole}
        made[JNP, level] = plain_jax
        made[NUMPY, level] = {"": with_numpy.plain}
        if level != LOSS:
            made[CUBIC, level] = {"": with_jax.cubic}
    return made


def prepare(problem: Problem, without: set[str], say: Callable[[str], None]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Build, check and try every contender; return the fastest formulation of each, and what was tried.

    Raises:
        ValueError: a contender computes other figures than the float64 reference.
    """
    expected, scale = reference(problem)
    runs, tried = {}, {}
    for (name, level), formulations in contenders().items():
        if name in without:
            continue
        ready: dict[str, Callable[[], Figures]] = {}
        for formulation, maker in formulations.items():
            try:
                ready[formulation] = maker(problem, level)
                check(f"{name}, {level}, {formulation}", problem, level, ready[formulation](), expected, scale)
            except ImportError as error:
                say(f"{name} is left out: {error}")
                without.add(name)
                break
        else:
            tried[name, level] = times = try_out(ready)
            fastest = min(times, key=times.__getitem__)
            runs[name, level] = fastest, ready[fastest]
            speeds = ", ".join(f"{key} {problem.samples / value / 1e6:,.1f}".strip() for key, value in times.items())
            say(f"{name}, {level}: {speeds} M samples/s")
    return runs, tried


def try_out(ready: dict[str, Callable[[], Figures]]) -> dict[str, float]:
    """Return the shortest time of each formulation; those that may be the fastest get more tries."""
    times = {name: measure.best(run) for name, run in ready.items()}
    close = {name: run for name, run in ready.items() if len(ready) > 1 and times[name] < 6 * min(times.values())}
    again = measure.interleave(close, rounds=3)
    return {name: min(seconds, *again.get(name, [seconds])) for name, seconds in times.items()}


def compare(problem: Problem, rounds: int, without: set[str], say: Callable[[str], None]) -> dict[str, Any]:
    """Measure all contenders at one batch size and return the document of it."""
    runs, tried = prepare(problem, without, say)
    seconds = measure.interleave({key: run for key, (_, run) in runs.items()}, rounds)
    rows = [
        {
            "contender": name,
            "level": level,
            "formulation": runs[name, level][0],
            "median": problem.samples / statistics.median(times) / 1e6,
            "best": problem.samples / min(times) / 1e6,
            "tried": {key: problem.samples / value / 1e6 for key, value in tried[name, level].items()},
        }
        for (name, level), times in seconds.items()
    ]
    ratios = []
    for goal in GOALS:
        ours, other = seconds.get((CUBIC, goal.ours)), seconds.get((goal.other, goal.other_level))
        if ours and other:
            ratio = statistics.median(b / a for a, b in zip(ours, other, strict=True))
            best = min(other) / min(ours)
            ratios.append({**asdict(goal), "ratio": ratio, "of_bests": best, "met": ratio >= goal.least})
    return {
        "samples": problem.samples,
        "batch": problem.batch,
        "hidden": problem.hidden,
        "throughput": rows,
        "ratios": ratios,
    }


def tables(found: dict[str, Any]) -> list[Table]:
    """Return the tables of one batch size: throughput, then ratios and goals."""
    where = f"B = {found['batch']}, H = {found['hidden']}, N = {found['samples']:,}"
    speed = Table(title=f"Million samples/s, {where}: median of the rounds (best)", title_justify="left")
    for column in ("", LOSS, HISTORY, ALL):
        speed.add_column(column, justify="right" if column else "left")
    by_name: dict[str, dict[str, str]] = {}
    for row in found["throughput"]:
        by_name.setdefault(row["contender"], {})[row["level"]] = f"{row['median']:,.1f} ({row['best']:,.1f})"
    for name in (CUBIC, UNOBSERVED, C_LOOP, COMPILED, JNP, EAGER, NUMPY):
        if name in by_name:
            speed.add_row(name, *(by_name[name].get(level, "") for level in (LOSS, HISTORY, ALL)))
    goals = Table(title=f"cubic against the others, {where}: ratio of speeds", title_justify="left")
    for column in ("cubic", "against", "goal", "ratio", "of bests", ""):
        goals.add_column(column, justify="right" if column in ("goal", "ratio", "of bests") else "left")
    for row in found["ratios"]:
        met = "[green]met[/]" if row["met"] else "[red]not met[/]"
        goals.add_row(
            row["ours"],
            f"{row['other']}, {row['other_level']}",
            f"≥ {row['least']:.2f}",
            f"{row['ratio']:.2f}",
            f"{row['of_bests']:.2f}",
            met,
        )
    return [speed, goals]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--no-torch", action="store_true", help="leave torch out; compiling it takes minutes")
    given = parser.parse_args()
    pick_devices(Device.auto)  # the cores are JAX devices only if that is said before its first use
    without = {COMPILED, EAGER} if given.no_torch else set()
    document: dict[str, Any] = {"machine": measure.machine(), "batches": []}
    console = Console()
    console.print(measure.describe(document["machine"]))
    for batch in given.batch:
        problem = make(given.samples, batch, given.hidden)
        found = compare(problem, given.rounds, without, lambda text: print(text, file=sys.stderr))
        document["batches"].append(found)
        for table in tables(found):
            console.print(table)
        if given.json:
            given.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
