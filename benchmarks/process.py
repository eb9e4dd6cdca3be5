"""Whole processes, from the command line to the exit, each against the least that its work takes.

python -m benchmarks.process [--rounds R] [--only WORD] [--json FILE]

On the device that JAX takes by itself, for cubic and for its floor.
"""

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.processes import CUBIC, PYTHON, Paired, paired, run

_TWO_COMMANDS = """
import typer
app = typer.Typer()
@app.command()
def one(n: int = 1) -> None: "One."
@app.command()
def two(n: int = 2) -> None: "Two."
app()
"""
_DRAW = """
import numpy as np, polars as pl
rng = np.random.default_rng(0)
x = rng.uniform(-100, 100, 10_000_000).astype("f4")
y = (0.01 * x.astype("f8") ** 3 - 0.5 * x + 20 + 10 * rng.standard_normal(len(x))).astype("f4")
pl.DataFrame({"x": x, "y": y}).write_csv("floor.csv")
"""
_JAX = "import jax, jax.numpy as jnp; jax.jit(lambda x: x @ x)(jnp.ones((8, 8))).block_until_ready()"
_DEVICE = "import jax; device = jax.devices()[0]; print(); print(device.platform); print(device.device_kind)"

_ALL = ("forward", "--num-samples", "all", "--initializer", "he_normal")


@dataclass(frozen=True)
class Case:
    """A command of cubic, Python's arguments for its floor, and the largest ratio of their times."""

    name: str
    command: tuple[str, ...]
    floor: tuple[str, ...]
    most: float
    cold: bool = False  # JAX's compilation cache is emptied before each run
    rounds: int | None = None


CASES = (
    Case("forward, warm cache", ("forward",), ("-c", _JAX), 1.35),
    Case("forward, no cache", ("forward",), ("-c", _JAX), 2.0, cold=True),
    Case("forward, verified", (*_ALL, "--verify"), ("-m", "cubic_cli", *_ALL, "--no-verify"), 1.10),
    Case("--help", ("--help",), ("two.py", "--help"), 1.25),
    Case("inspect", ("inspect",), ("-c", "import typer, rich, polars, pydantic"), 1.6),
    Case("generate --n 100000", ("generate", "--n", "100000"), ("-c", "import typer, rich, polars, numpy"), 2.0),
    Case(
        "generate --n 10000000",
        ("generate", "--n", "10000000", "--dataset", "large.csv"),
        ("-c", _DRAW),
        1.6,
        rounds=3,
    ),
)


def find_device(folder: Path) -> tuple[str, str]:
    """Return the platform of the device that JAX takes, and its kind; asked in a process of its own, as all here."""
    platform, kind = run([*PYTHON, "-c", _DEVICE], folder).said.splitlines()[-2:]
    return platform, kind


def measure_case(case: Case, folder: Path, platform: str, rounds: int) -> Paired:
    """Return the paired times of a command and its floor."""

    def ours() -> float:
        if case.cold:
            shutil.rmtree(folder / "cache", ignore_errors=True)
        return run([*CUBIC, *case.command], folder, DEVICE=platform).seconds

    def floor() -> float:
        return run([*PYTHON, *case.floor], folder, DEVICE=platform).seconds

    return paired(ours, floor, min(rounds, case.rounds or rounds))


def main() -> None:
    """Run the benchmark."""
    parser = measure.options(__doc__, rounds=9)
    parser.add_argument("--only", default="", metavar="WORD", help="only the cases whose name has this word")
    given = parser.parse_args()
    title = "Seconds of whole processes: medians, and medians of paired ratios"
    table = measure.columns(title, ("", "cubic", "floor", "goal", "ratio", "from – to", ""))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "two.py").write_text(_TWO_COMMANDS)
        platform, kind = find_device(folder)
        document: dict[str, Any] = {"machine": measure.machine() | {"device": kind}, "rows": []}
        print(measure.describe(document["machine"]), file=sys.stderr, flush=True)
        run([*CUBIC, "generate"], folder)
        run([*CUBIC, "forward"], folder, DEVICE=platform)
        for case in CASES:
            if given.only not in case.name:
                continue
            found = measure_case(case, folder, platform, given.rounds)
            met = found.ratio <= case.most
            document["rows"].append({"name": case.name, "most": case.most, **found._asdict(), "met": met})
            measure.keep(document, given.json)
            times = f"{found.a:.3f}", f"{found.b:.3f}", f"≤ {case.most:.2f}", f"{found.ratio:.2f}"
            table.add_row(case.name, *times, f"{found.low:.2f} – {found.high:.2f}", measure.met(met))
            print(f"{case.name}: {' '.join(times)}", file=sys.stderr, flush=True)
    measure.report(document, [table], None)  # kept above


if __name__ == "__main__":
    main()
