"""Memory and time against samples: generate, and forward over all of them, as CSV and as Parquet.

    python -m benchmarks.growth [--full] [--rows N …] [--rounds R] [--folder FOLDER] [--json FILE]

At 100 million rows it needs about 8 GB in FOLDER.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import measure
from benchmarks.processes import CUBIC, run

_SMALL, _FULL = (100_000, 300_000, 1_000_000), (1_000_000, 10_000_000, 100_000_000)
_MEGABYTE = 1e6
MOST_MEMORY = {"generate": 400, "forward": 1200}  # megabytes, at any number of rows


def measure_all(rows: list[int], rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Return what each command cost at each number of rows: the least time and the most memory of the rounds.

    One epoch in batches of ten, so that the history has a tenth as many rows as the dataset.
    """
    found = []
    for kind in ("csv", "parquet"):
        for n in rows:
            data = f"data.{kind}"
            commands = {
                "generate": ["generate", "--n", str(n), "--dataset", data],
                "forward": ["forward", "--num-samples", "all", "--num-epochs", "1", "--dataset", data],
            }
            for name, command in commands.items():
                costs = [run([*CUBIC, *command], folder) for _ in range(rounds)]
                seconds, memory = min(cost.seconds for cost in costs), max(cost.memory for cost in costs)
                found.append({"command": name, "format": kind, "rows": n, "seconds": seconds, "memory": memory})
                print(f"{name}, {kind}, {n:,} rows: {seconds:.1f} s", file=sys.stderr)
            (folder / data).unlink()
            shutil.rmtree(folder / "model")
    return found


def draw_table(found: list[dict[str, Any]]) -> Table:
    """Return the table of all costs, with the time of each further million rows: constant where time is linear."""
    names = ("command", "format", "rows", "seconds", "s/million", "MB", "limit", "")
    table = measure.columns("Peak memory, and time of each further million rows", names, left=("command", "format"))
    before: dict[str, Any] | None = None
    for row in sorted(found, key=lambda row: (row["command"], row["format"], row["rows"])):
        same = before is not None and before["command"] == row["command"] and before["format"] == row["format"]
        slope = ""
        if same and before is not None:
            slope = f"{(row['seconds'] - before['seconds']) / (row['rows'] - before['rows']) * 1e6:.3f}"
        limit, memory = MOST_MEMORY[row["command"]], row["memory"] / _MEGABYTE
        cells = f"{row['rows']:,}", f"{row['seconds']:.2f}", slope, f"{memory:,.0f}", f"{limit:,}"
        table.add_row(row["command"], row["format"], *cells, measure.met(memory < limit))
        before = row
    return table


def main() -> None:
    """Run the benchmark."""
    parser = measure.options(__doc__, rounds=3)
    parser.add_argument("--rows", type=int, nargs="+", default=list(_SMALL))
    parser.add_argument("--full", action="store_true", help="1, 10 and 100 million rows; takes minutes")
    parser.add_argument("--folder", type=Path, help="where the files go meanwhile (default: the system's)")
    given = parser.parse_args()
    machine = measure.machine()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        found = measure_all(list(_FULL) if given.full else given.rows, given.rounds, Path(name))
    measure.report({"machine": machine, "rows": found}, [draw_table(found)], given.json)


if __name__ == "__main__":
    main()
