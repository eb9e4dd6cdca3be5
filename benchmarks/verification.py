"""What surrounds the pass: what the verification costs, and the steady state of the command over the pass alone.

python -m benchmarks.verification [--rounds R] [--json FILE]
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from cubic_cli.config import Device
from cubic_cli.devices import pick_devices
from rich.console import Console
from rich.table import Table

from benchmarks import measure
from benchmarks.problem import HISTORY, make
from benchmarks.processes import CUBIC, paired, run

_SAMPLES = 1_000_000
_FEW, _MANY = 2, 102  # epochs; the difference of their times is that of a hundred steady epochs
_FORWARD = [*CUBIC, "forward", "--num-samples", "all", "--initializer", "he_normal"]


def verified(folder: Path, rounds: int) -> dict[str, Any]:
    """Compare the command over 100,000 samples and ten epochs with verification and without."""
    run([*CUBIC, "generate", "--n", "100000"], folder)

    def command(flag: str) -> float:
        return run([*_FORWARD, flag], folder).seconds

    found = paired(lambda: command("--verify"), lambda: command("--no-verify"), rounds)
    return {"name": "with verification over without", "unit": "s", "most": 1.10, **found._asdict()}


def steady(folder: Path, batch: int, rounds: int) -> dict[str, Any]:
    """Compare a steady epoch of the command with an epoch of the pass alone, in turn."""
    from benchmarks.with_jax import cubic

    run([*CUBIC, "generate", "--n", str(_SAMPLES)], folder)
    alone = cubic(make(_SAMPLES, batch, 64), HISTORY)

    def command() -> float:
        few, many = (
            run([*_FORWARD, "--no-verify", "--batch-size", str(batch), "--num-epochs", str(epochs)], folder).seconds
            for epochs in (_FEW, _MANY)
        )
        return 1000 * (many - few) / (_MANY - _FEW)

    def epoch() -> float:
        return 1000 * statistics.median(measure.best(alone, 0) for _ in range(20))

    found = paired(command, epoch, rounds)
    return {"name": f"command's epoch over the pass alone, B = {batch}", "unit": "ms", "most": 1.3, **found._asdict()}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    given = parser.parse_args()
    pick_devices(Device.auto)  # the cores are JAX devices only if that is said before its first use
    machine = measure.machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [verified(folder, given.rounds), *(steady(folder, batch, given.rounds) for batch in (10, 1000))]
    table = Table(title="Medians, and medians of paired ratios", title_justify="left")
    for column in ("", "this", "over that", "goal", "ratio", "from – to", ""):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        row["met"] = row["ratio"] <= row["most"]
        times = (f"{row[key]:.3g} {row['unit']}" for key in ("a", "b"))
        verdict = "[green]met[/]" if row["met"] else "[red]not met[/]"
        limits = f"≤ {row['most']:.2f}", f"{row['ratio']:.2f}", f"{row['low']:.2f} – {row['high']:.2f}"
        table.add_row(row["name"], *times, *limits, verdict)
    Console().print(measure.describe(machine), table, sep="\n")
    if given.json:
        given.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
