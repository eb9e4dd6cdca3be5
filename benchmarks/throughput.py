"""Samples a second of every contender, side by side, and the ratios that cubic is to reach.

python -m benchmarks.throughput [--samples N] [--batch B …] [--hidden H] [--rounds R] [--json FILE] [--no-torch]

On a GPU, which is used if JAX uses it, the contenders are those of a GPU, and the time that the device takes stands
beside that until the figures are on the host. There nothing more is begun after 150 s. What was not
measured is named, with the reason.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import c_loop, measure, with_cuda, with_numpy, with_torch
from benchmarks.problem import ALL, EPOCHS, HISTORY, LEVELS, LOSS, Figures, Problem, Run, check, make, reference
from cubic_cli.config import Device
from cubic_cli.engine.devices import pick_devices

Maker = Callable[[Problem, str], Run | Callable[[], Figures]]
Say = Callable[[str], None]
Failed = dict[tuple[str, ...], str]  # why a contender is not there, at a level, in a formulation; or a whole contender

CUBIC, UNOBSERVED = "cubic", "cubic, unobserved"
C_LOOP, COMPILED, EAGER, JNP, NUMPY = "fused C loop", "torch.compile", "torch eager", "plain jnp", "NumPy"
CUDA, FETCH = "fused CUDA kernel", "fetch of the history"
HOST, ON_DEVICE = "figures on the host", "on the device"
PACE = 5e9  # samples/s: a goal of its own
_WIDE = 100  # samples from which a batch is wide
_MOST = {"gpu": 150, "cpu": 7200}  # seconds after which no contender is begun


@dataclass(frozen=True)
class Goal:
    """`ours` at its level is to be at least `least` times as fast as `other` at its, by the time that `at` names.

    `of` says for which batches: all, the narrow or the wide ones. Without another it is `least` samples/s.
    """

    ours: str
    other: str
    other_level: str
    least: float
    at: str = HOST
    of: str = "all"


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
    Goal(HISTORY, FETCH, HISTORY, 1 / 3, of="narrow"),
    Goal(ALL, FETCH, HISTORY, 1 / 3, of="narrow"),
    Goal(HISTORY, "", "", PACE, of="wide"),
    Goal(ALL, "", "", PACE, of="wide"),
)


def contenders(gpu: bool) -> dict[tuple[str, str], dict[str, Maker]]:
    """Return the formulations of each contender at each level; the fastest of them counts.

    Those come last that may take long to compile.
    """
    from benchmarks import with_jax

    whole = [name for name in with_torch.FORMULATIONS if name != "unrolled"]
    plain_jax: dict[str, Maker] = {"matrix products": with_jax.plain(True), "broadcast": with_jax.plain(False)}
    of_torch = list(with_torch.FORMULATIONS)
    if gpu:
        plain_jax = {"samples first": with_jax.by_sample(1), "units first": with_jax.by_sample(0)}
        whole = of_torch = ["samples first", "units first"]
    kinds: dict[str, dict[str, Maker]] = {
        CUDA if gpu else C_LOOP: {"": with_cuda.fused if gpu else c_loop.fused},
        EAGER: {name: with_torch.eager(name) for name in whole},
        COMPILED: {name: with_torch.compiled(name) for name in of_torch},
        JNP: plain_jax,
    }
    if not gpu:
        kinds[NUMPY] = {"": with_numpy.plain}
    made: dict[tuple[str, str], dict[str, Maker]] = {(CUBIC, level): {"": with_jax.cubic} for level in (HISTORY, ALL)}
    made[UNOBSERVED, LOSS] = {"": with_jax.unobserved}
    if gpu:
        made[FETCH, HISTORY] = {"": with_jax.fetch}
    return made | {(name, level): formulations for name, formulations in kinds.items() for level in LEVELS}


class Ready(NamedTuple):
    """A contender at a level, in its fastest formulation, ready to be timed; and what all of them took when tried.

    `busy` leaves the figures on the device, where it has one of its own.
    """

    formulation: str
    run: Callable[[], Any]
    busy: Callable[[], Any] | None
    tried: dict[str, float]


def prepare(problem: Problem, gpu: bool, failed: Failed, until: float, say: Say) -> dict[tuple[str, str], Ready]:
    """Build, check and try every contender until the time `until`; what fails goes to `failed`, with the reason.

    Raises:
        ValueError: cubic computes other figures than the float64 reference.
    """
    expected, scale = reference(problem)
    ready: dict[tuple[str, str], Ready] = {}
    for (name, level), formulations in contenders(gpu).items():
        made: dict[str, tuple[Any, Callable[[], Any] | None]] = {}
        for formulation, maker in formulations.items():
            key = name, level, formulation
            if (name,) in failed:
                break
            if name != CUBIC and time.perf_counter() > until:
                failed[key] = "the time was up"
                continue
            started, words = time.perf_counter(), ", ".join(filter(None, key))
            try:
                run = maker(problem, level)
                check(words, problem, level, run(), expected, scale)
                say(f"{words}: right, {time.perf_counter() - started:.1f} s until it was there")
                made[formulation] = run, on_device(run)
            except ImportError as error:
                failed[name,] = f"it is not there: {error}"
                say(f"{name} is left out: {error}")
            except Exception as error:  # of a compiler, a driver or a card without memory: the others go on
                if name == CUBIC:
                    raise
                failed[key] = measure.explain(error)
                say(f"{words} failed after {time.perf_counter() - started:.1f} s: {error}")
        lost: dict[str, str] = {}
        times = try_out({key: busy or run for key, (run, busy) in made.items()}, lost)
        failed.update({(name, level, formulation): why for formulation, why in lost.items()})
        if times:
            fastest = min(times, key=times.__getitem__)
            ready[name, level] = Ready(fastest, *made[fastest], times)
            speeds = ", ".join(f"{key} {problem.samples / value / 1e6:,.1f}".strip() for key, value in times.items())
            say(f"{name}, {level}: {speeds} M samples/s")
        if gpu:
            with_torch.give_back()
    return ready


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
    """Return what computes a contender's figures and leaves them on the device, where it has one of its own.

    As many epochs as pass in a second, but no more than `EPOCHS`, and one at least.
    """
    if not getattr(run, "compute", None):
        return None
    seconds = measure.best(Busy(run, 1), at_least=0.0)
    return Busy(run, max(1, min(EPOCHS, int(1 / seconds))))


def try_out(ready: dict[str, Callable[[], Any]], lost: dict[str, str]) -> dict[str, float]:
    """Return the shortest time of each formulation; those that may be the fastest get more tries. Some are `lost`."""
    times = {name: min(seconds) for name, seconds in measure.interleave(ready, 1, lost).items()}
    close = {name: ready[name] for name in times if len(times) > 1 and times[name] < 6 * min(times.values())}
    again = measure.interleave(close, 3, lost)
    return {name: min(seconds, *again.get(name, [seconds])) for name, seconds in times.items()}


def compare(problem: Problem, rounds: int, gpu: bool, failed: Failed, until: float, say: Say) -> Any:
    """Measure all contenders at one batch size and return the document of it."""
    ready = prepare(problem, gpu, failed, until, say)
    timed: dict[tuple[str, str, str], Callable[[], Any]] = {(*key, HOST): made.run for key, made in ready.items()}
    if gpu:
        timed |= {(*key, ON_DEVICE): made.busy for key, made in ready.items() if made.busy}

    say(f"{rounds} rounds, B = {problem.batch}")
    lost: dict[tuple[str, str, str], str] = {}
    by_place = measure.interleave(timed, rounds, lost)
    for (name, level, at), why in lost.items():
        failed[name, level, f"{ready[name, level].formulation} {at}".strip()] = why
    rows = [
        {
            "contender": name,
            "level": level,
            "time": at,
            "formulation": ready[name, level].formulation,
            "median": problem.samples / statistics.median(times) / 1e6,
            "best": problem.samples / min(times) / 1e6,
            "tried": {key: problem.samples / value / 1e6 for key, value in ready[name, level].tried.items()},
        }
        for (name, level, at), times in by_place.items()
    ]
    ratios = []
    for goal in GPU_GOALS if gpu else GOALS:
        ours = by_place.get((CUBIC, goal.ours, goal.at))
        other = by_place.get((goal.other, goal.other_level, goal.at))
        if not goal.other and ours:
            other = [problem.samples] * len(ours)  # a second a sample
        if ours and other and goal.of in ("all", "wide" if problem.batch >= _WIDE else "narrow"):
            ratio = statistics.median(b / a for a, b in zip(ours, other, strict=True))
            best = min(other) / min(ours)
            ratios.append({**asdict(goal), "ratio": ratio, "of_bests": best, "met": ratio >= goal.least})
    return {
        "samples": problem.samples,
        "batch": problem.batch,
        "hidden": problem.hidden,
        "throughput": rows,
        "failed": [
            dict(zip(("contender", "level", "formulation"), key, strict=False)) | {"error": why}
            for key, why in failed.items()
        ],
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
        for name in (CUBIC, UNOBSERVED, FETCH, CUDA, C_LOOP, COMPILED, JNP, EAGER, NUMPY):
            if name in by_name:
                speed.add_row(name, *(by_name[name].get(level, "") for level in (LOSS, HISTORY, ALL)))
        if any(row["time"] == at for row in found["throughput"]):
            speeds.append(speed)
    names = ("cubic", "against", "goal", "ratio", "of bests", "")
    goals = measure.columns(f"cubic against the others, {where}: ratio of speeds", names, left=("cubic", "against", ""))
    for row in found["ratios"]:
        where = f", {ON_DEVICE}" if row["at"] == ON_DEVICE else ""
        against, unit = (f"{row['other']}, {row['other_level']}{where}", 1.0) if row["other"] else ("M samples/s", 1e6)
        ratios = (f"{row[key] / unit:,.2f}" for key in ("ratio", "of_bests"))
        goals.add_row(row["ours"], against, f"≥ {row['least'] / unit:,.2f}", *ratios, measure.met(row["met"]))
    return [*speeds, goals]


def missing(found: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each contender, or formulation of one, that was not measured."""
    for row in found["failed"]:
        what = ", ".join(filter(None, (row.get(key) for key in ("contender", "level", "formulation"))))
        yield f"Not measured: {what}: {row['error']}"


def main() -> None:
    """Run the benchmark."""
    parser = measure.options(__doc__, rounds=7)
    parser.add_argument("--samples", type=int, help="default: 1,000,000, and 16,384,000 on a GPU")
    parser.add_argument("--batch", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--no-torch", action="store_true", help="leave torch out; compiling it takes minutes")
    given = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch and CuPy share the card's memory
    began, console = time.perf_counter(), Console(width=None if sys.stdout.isatty() else 100)  # as wide as the tables

    def say(text: str) -> None:
        print(f"{time.perf_counter() - began:4.0f} s  {text}", file=sys.stderr, flush=True)

    device = pick_devices(Device.auto)[0]
    gpu = device.platform == "gpu"
    document: dict[str, Any] = {"machine": measure.machine() | {"device": device.device_kind}, "batches": []}
    say(measure.describe(document["machine"]))
    samples = given.samples or (16_384_000 if gpu else 1_000_000)
    for done, batch in enumerate(given.batch, 1):
        failed: Failed = {(name,): "--no-torch" for name in (COMPILED, EAGER) if given.no_torch}
        until = began + _MOST["gpu" if gpu else "cpu"] * done / len(given.batch)
        found = compare(make(samples, batch, given.hidden), given.rounds, gpu, failed, until, say)
        document["batches"].append(found)
        measure.keep(document, given.json)
        console.print(*tables(found), sep="\n")
        for line in missing(found):
            console.print(line, markup=False)
    console.print(measure.describe(document["machine"]), markup=False)


if __name__ == "__main__":
    main()
