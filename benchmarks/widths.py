"""Does cubic's pass fall off a cliff? Values a second (samples/s times H) by hidden size and by activation.

python -m benchmarks.widths [--samples N] [--batch B] [--rounds R] [--json FILE]
"""

import statistics
import sys
from typing import Any

from rich.table import Table

from benchmarks import measure
from benchmarks.problem import ALL, HISTORY, check, make, reference
from cubic_cli.config import Activation, Device
from cubic_cli.engine.devices import pick_devices

WIDTHS = (1, 3, 16, 64, 1000, 4096)
_WIDE = 256  # from here on a tenth of the samples says as much


def measure_all(samples: int, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each hidden size with relu, and for each other activation at H = 64."""
    from benchmarks.with_jax import cubic

    cases = [(hidden, Activation.relu) for hidden in WIDTHS]
    cases += [(64, activation) for activation in Activation if activation is not Activation.relu]
    runs, sizes = {}, {}
    for hidden, activation in cases:
        problem = make(samples // 10 if hidden >= _WIDE else samples, batch, hidden, activation)
        expected, scale = reference(problem)
        for level in (HISTORY, ALL):
            run = cubic(problem, level)
            check(f"H = {hidden}, {activation}, {level}", problem, level, run(), expected, scale)
            runs[hidden, activation, level] = run
            sizes[hidden, activation, level] = problem.samples
        print(f"ready: H = {hidden}, {activation}", file=sys.stderr)
    rows = []
    for key, seconds in measure.interleave(runs, rounds).items():
        hidden, activation, level = key
        values = sizes[key] * hidden / 1e6
        rows.append(
            {
                "hidden": hidden,
                "activation": activation.value,
                "level": level,
                "samples": sizes[key],
                "median": values / statistics.median(seconds),
                "best": values / min(seconds),
            }
        )
    return rows


def draw_table(rows: list[dict[str, Any]], batch: int) -> Table:
    """Return the table of all rows."""
    title = f"Million values of z1 a second, B = {batch}: median (best)"
    table = measure.columns(title, ("H", "activation", "samples", HISTORY, ALL), left=("activation",))
    cells: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in rows:
        key = f"{row['hidden']:,}", row["activation"], f"{row['samples']:,}"
        cells.setdefault(key, {})[row["level"]] = f"{row['median']:,.0f} ({row['best']:,.0f})"
    for key, by_level in cells.items():
        table.add_row(*key, by_level[HISTORY], by_level[ALL])
    return table


def main() -> None:
    """Run the benchmark."""
    parser = measure.options(__doc__, rounds=7)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=10)
    given = parser.parse_args()
    pick_devices(Device.auto)  # the cores are JAX devices only if that is said before its first use
    document = {"machine": measure.machine(), "rows": measure_all(given.samples, given.batch, given.rounds)}
    measure.report(document, [draw_table(document["rows"], given.batch)], given.json)


if __name__ == "__main__":
    main()
