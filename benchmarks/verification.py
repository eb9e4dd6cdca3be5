"""What surrounds the pass: what the verification costs, and the steady state of the command over the pass alone.

python -m benchmarks.verification [--rounds R] [--json FILE]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import measure
from benchmarks.problem import HISTORY, make
from benchmarks.processes import CUBIC, paired, run
from cubic_cli.config import Device, ForwardConfig, Initializer
from cubic_cli.engine.devices import pick_devices
from cubic_cli.experiments.run import run as forward

_SAMPLES, _EPOCHS = 1_000_000, 60
_STEADY_FROM = 10  # epochs: the first ones compile, read the samples, and fill what waits to be written
_REST = 0.5  # seconds after a run, for NumPy's BLAS: its threads spin for a tenth of a second after their last call
_FORWARD = [*CUBIC, "forward", "--num-samples", "all", "--initializer", "he_normal"]


def verified(folder: Path, rounds: int) -> dict[str, Any]:
    """Compare the command over 100,000 samples and ten epochs with verification and without."""
    run([*CUBIC, "generate", "--n", "100000"], folder)

    def command(flag: str) -> float:
        return run([*_FORWARD, flag], folder).seconds

    found = paired(lambda: command("--verify"), lambda: command("--no-verify"), rounds)
    return {"name": "verify over --no-verify", "unit": "s", "most": 1.10, **found._asdict()}


def steady(folder: Path, batch: int, rounds: int) -> dict[str, Any]:
    """Compare a steady epoch of the whole run, recording included, with an epoch of the pass alone, in turn."""
    from benchmarks.with_jax import cubic

    data = str(folder / "steady.csv")
    run([*CUBIC, "generate", "--n", str(_SAMPLES), "--dataset", data], folder)
    config = ForwardConfig(
        batch_size=batch,
        num_epochs=_EPOCHS,
        num_samples=None,
        initializer=Initializer.he_normal,
        dataset=data,
        verify=False,
    )
    alone = cubic(make(_SAMPLES, batch, config.hidden_size), HISTORY)

    def command() -> float:
        ends: list[float] = []
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            forward(config, {}, Path(scratch), progress=lambda epoch, loss: ends.append(time.perf_counter()))
        time.sleep(_REST)
        return 1000 * (ends[-1] - ends[_STEADY_FROM]) / (len(ends) - 1 - _STEADY_FROM)

    def epoch() -> float:
        started = time.perf_counter()
        for _ in range(_EPOCHS - _STEADY_FROM):
            alone()
        return 1000 * (time.perf_counter() - started) / (_EPOCHS - _STEADY_FROM)

    found = paired(command, epoch, rounds)
    return {"name": f"epoch over pass, B = {batch}", "unit": "ms", "most": 1.3, **found._asdict()}


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
