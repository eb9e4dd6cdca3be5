"""Samples a second of every contender, side by side, and the ratios that cubic is to reach.

python -m benchmarks.throughput [--samples N] [--batch B …] [--hidden H] [--rounds R] [--json FILE] [--no-torch]

On a GPU, which is used if JAX uses it, the contenders are those of a GPU, and the time that the device takes stands
beside that until the figures are on the host.
"""

import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from benchmarks import c_loop, measure, with_cuda, with_numpy, with_torch
from benchmarks.problem import ALL, EPOCHS, HISTORY, LOSS, Figures, Problem, Run, check, make, reference
from cubic_cli.config import Device
from cubic_cli.engine.devices import pick_devices

Maker = Callable[[Problem, str], Run | Callable[[], Figures]]

CUBIC, UNOBSERVED = "cubic", "cubic, unobserved"
C_LOOP, COMPILED, EAGER, JNP, NUMPY = "fused C loop", "torch.compile", "torch eager", "plain jnp", "NumPy"
CUDA, FETCH = "fused CUDA kernel", "fetch of the history"
HOST, ON_DEVICE = "figures on the host", "on the device"


@dataclass(frozen=True)
class Goal:
    """`ours` at its level is to be at least `least` times as fast as `other` at its, by the time that `at` names."""

    ours: str
    other: str
    other_level: str
    least: float
    at: str = HOST


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


GPU_GOALS = (
    Goal(HISTORY, CUDA, HISTORY, 0.25, ON_DEVICE),
    Goal(ALL, CUDA, ALL, 0.25, ON_DEVICE),
    Goal(HISTORY, COMPILED, HISTORY, 3.0, ON_DEVICE),
    Goal(ALL, COMPILED, ALL, 4.0, ON_DEVICE),
    Goal(ALL, JNP, LOSS, 1.0, ON_DEVICE),
    Goal(HISTORY, FETCH, HISTORY, 1 / 3),
    Goal(ALL, FETCH, HISTORY, 1 / 3),
)


def contenders(gpu: bool) -> dict[tuple[str, str], dict[str, Maker]]:
    """Return the formulations of each contender at each level; the fastest of them counts."""
    from benchmarks import with_jax

    whole = [name for name in with_torch.FORMULATIONS if name != "unrolled"]
    plain_jax = {"matrix products": with_jax.plain(True), "broadcast": with_jax.plain(False)}
    if gpu:
        plain_jax = {"samples first": with_jax.by_sample(1), "units first": with_jax.by_sample(0)}
    made: dict[tuple[str, str], dict[str, Maker]] = {(UNOBSERVED, LOSS): {"": with_jax.unobserved}}
    if gpu:
        made[FETCH, HISTORY] = {"": with_jax.fetch}
    for level in (LOSS, HISTORY, ALL):
        if level != LOSS:
            made[CUBIC, level] = {"": with_jax.cubic}
        made[CUDA if gpu else C_LOOP, level] = {"": with_cuda.fused if gpu else c_loop.fused}
        formulations = ("samples first", "units first") if gpu else with_torch.FORMULATIONS
        made[COMPILED, level] = {name: with_torch.compiled(name) for name in formulations}
        made[EAGER, level] = {name: with_torch.eager(name) for name in (formulations if gpu else whole)}
        made[JNP, level] = plain_jax
        if not gpu:
            made[NUMPY, level] = {"": with_numpy.plain}
    return made


def prepare(
    problem: Problem, gpu: bool, without: set[str], say: Callable[[str], None]
) -> tuple[dict[Any, Any], dict[Any, Any], dict[tuple[str, str], str]]:
    """Build, check and try every contender; return the fastest formulation of each, what was tried, and what failed.

    Raises:
        ValueError: cubic computes other figures than the float64 reference.
    """
    expected, scale = reference(problem)
    runs, tried, failed = {}, {}, {}
    for (name, level), formulations in contenders(gpu).items():
        if name in without:
            continue
        ready: dict[str, Run | Callable[[], Figures]] = {}
        for formulation, maker in formulations.items():
            try:
                made = maker(problem, level)
                check(f"{name}, {level}, {formulation}", problem, level, made(), expected, scale)
                ready[formulation] = made
            except ImportError as error:
                say(f"{name} is left out: {error}")
                without.add(name)
                break
            except Exception as error:  # of a compiler, a driver or a card without memory: the others go on
                if name == CUBIC:
                    raise
                failed[name, level] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                say(f"{name}, {level}, {formulation} failed: {error}")
        if ready and name not in without:
            failed.pop((name, level), None)
            tried[name, level] = times = try_out({key: on_device(run) or run for key, run in ready.items()})
            fastest = min(times, key=times.__getitem__)
            runs[name, level] = fastest, ready[fastest]
            speeds = ", ".join(f"{key} {problem.samples / value / 1e6:,.1f}".strip() for key, value in times.items())
            say(f"{name}, {level}: {speeds} M samples/s")
    return runs, tried, failed


@dataclass(frozen=True)
class Busy:
    """Some epochs of a contender, one begun after the other, whose figures stay on the device."""

    run: Run
    epochs: int = EPOCHS

    def __call__(self) -> None:
        assert self.run.compute is not None
        assert self.run.wait is not None
        begun = [self.run.compute() for _ in range(self.epochs)]
        self.run.wait(begun)


def on_device(run: Any) -> Callable[[], Any] | None:
    """Return what computes a contender's figures and leaves them on the device, where it has one of its own."""
    return Busy(run) if getattr(run, "compute", None) else None


def try_out(ready: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the shortest time of each formulation; those that may be the fastest get more tries."""
    times = {name: measure.best(run) for name, run in ready.items()}
    close = {name: run for name, run in ready.items() if len(ready) > 1 and times[name] < 6 * min(times.values())}
    again = measure.interleave(close, rounds=3)
    return {name: min(seconds, *again.get(name, [seconds])) for name, seconds in times.items()}


def compare(problem: Problem, rounds: int, gpu: bool, without: set[str], say: Callable[[str], None]) -> dict[str, Any]:
    """Measure all contenders at one batch size and return the document of it."""
    runs, tried, failed = prepare(problem, gpu, without, say)
    timed: dict[tuple[str, str, str], Callable[[], Any]] = {(*key, HOST): run for key, (_, run) in runs.items()}
    if gpu:
        timed |= {(*key, ON_DEVICE): compute for key, (_, run) in runs.items() if (compute := on_device(run))}
    by_place = measure.interleave(timed, rounds)  # type: ignore[type-var]
    rows = [
        {
            "contender": name,
            "level": level,
            "time": at,
            "formulation": runs[name, level][0],
            "median": problem.samples / statistics.median(times) / 1e6,
            "best": problem.samples / min(times) / 1e6,
            "tried": {key: problem.samples / value / 1e6 for key, value in tried[name, level].items()},
        }
        for (name, level, at), times in by_place.items()
    ]
    ratios = []
    for goal in GPU_GOALS if gpu else GOALS:
        ours = by_place.get((CUBIC, goal.ours, goal.at))
        other = by_place.get((goal.other, goal.other_level, goal.at))
        if ours and other:
            ratio = statistics.median(b / a for a, b in zip(ours, other, strict=True))
            best = min(other) / min(ours)
            ratios.append({**asdict(goal), "ratio": ratio, "of_bests": best, "met": ratio >= goal.least})
    return {
        "samples": problem.samples,
        "batch": problem.batch,
        "hidden": problem.hidden,
        "throughput": rows,
        "failed": [{"contender": name, "level": level, "error": text} for (name, level), text in failed.items()],
        "ratios": ratios,
    }


def tables(found: dict[str, Any]) -> list[Table]:
    """Return the tables of one batch size: throughput, then ratios and goals."""
    where = f"B = {found['batch']}, H = {found['hidden']}, N = {found['samples']:,}"
    speeds = []
    for at in (ON_DEVICE, HOST):
        title = f"Million samples/s, {where}, {at}: median of the rounds (best)"
        speed = measure.columns(title, ("", LOSS, HISTORY, ALL))
        by_name: dict[str, dict[str, str]] = {}
        for row in found["throughput"]:
            if row["time"] == at:
                by_name.setdefault(row["contender"], {})[row["level"]] = f"{row['median']:,.1f} ({row['best']:,.1f})"
        for row in found["failed"]:
            by_name.setdefault(row["contender"], {})[row["level"]] = "failed"
        for name in (CUBIC, UNOBSERVED, FETCH, CUDA, C_LOOP, COMPILED, JNP, EAGER, NUMPY):
            if name in by_name:
                speed.add_row(name, *(by_name[name].get(level, "") for level in (LOSS, HISTORY, ALL)))
        if any(row["time"] == at for row in found["throughput"]):
            speeds.append(speed)
    names = ("cubic", "against", "goal", "ratio", "of bests", "")
    goals = measure.columns(f"cubic against the others, {where}: ratio of speeds", names, left=("cubic", "against", ""))
    for row in found["ratios"]:
        where = f", {ON_DEVICE}" if row["at"] == ON_DEVICE else ""
        against, least = f"{row['other']}, {row['other_level']}{where}", f"≥ {row['least']:.2f}"
        ratios = f"{row['ratio']:.2f}", f"{row['of_bests']:.2f}"
        goals.add_row(row["ours"], against, least, *ratios, measure.met(row["met"]))
    return [*speeds, goals]


def main() -> None:
    """Run the benchmark."""
    parser = measure.options(__doc__, rounds=7)
    parser.add_argument("--samples", type=int, help="default: 1,000,000, and 16,384,000 on a GPU")
    parser.add_argument("--batch", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--no-torch", action="store_true", help="leave torch out; compiling it takes minutes")
    given = parser.parse_args()
    # The cores are JAX devices only if that is said before its first use.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch and CuPy share the card's memory
    device = pick_devices(Device.auto)[0]
    gpu = device.platform == "gpu"
    samples = given.samples or (16_384_000 if gpu else 1_000_000)
    without = {COMPILED, EAGER} if given.no_torch else set()
    document: dict[str, Any] = {"machine": measure.machine() | {"device": device.device_kind}, "batches": []}
    for batch in given.batch:
        problem = make(samples, batch, given.hidden)
        found = compare(problem, given.rounds, gpu, without, lambda text: print(text, file=sys.stderr))
        document["batches"].append(found)
        measure.keep(document, given.json)
    measure.report(document, [table for found in document["batches"] for table in tables(found)], None)  # kept above


if __name__ == "__main__":
    main()
