"""The list of runs: its rows, by which they can be sorted, and its screen."""

import math
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from cubic_cli.cli.views.blocks import BAD, GOOD, Column, Facts, Grid, Screen
from cubic_cli.cli.views.format import GLUE, number, r_squared
from cubic_cli.errors import UsageError
from cubic_cli.runs import store as runs
from cubic_cli.runs.listed import Listed
from cubic_cli.runs.record import Record

_CONFIG = ("hidden_size", "batch_size", "num_epochs", "initializer", "parameters", "activation", "scaling", "seed")
# The columns of the screen and the keys of the rows that they show.
COLUMNS = {
    "run": "run_name",
    "created": "created",
    "H": "hidden_size",
    "B": "batch_size",
    "epochs": "num_epochs",
    "samples": "num_samples",
    "initializer": "initializer",
    "activation": "activation",
    "scaling": "scaling",
    "seed": "seed",
    "loss": "loss",
    "R²": "r_squared",
    "device": "device",
    "verified": "verified",
}
# Columns that are left out where they do not fit, in this order; the run, its loss and R² always stay.
DROP = ("seed", "device", "epochs", "samples", "created", "B", "verified", "scaling", "activation", "H", "initializer")
_LEFT = ("run", "created", "initializer", "activation", "scaling", "device", "verified")
_FILE = 20  # cells: of a file's name in the place of an initialiser
_NAME = 32  # cells: names are shortened to no fewer, in the middle, where they are all that does not fit


def rows(artifact_dir: Path, sort: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of `inspect --list --json`, sorted by a column or key; `-` before it turns the order around.

    A damaged run has only `run_name` and `damaged`, which says what is wrong, and stands last, as does what is not a
    number among numbers.

    Raises:
        UsageError: there is no such column; names those there are.
    """
    key = None if sort is None else _key(sort)
    made = [row(name, record) for name, record in runs.list_runs(artifact_dir)]
    if key is None:
        return made
    known = [row for row in made if not _missing(row.get(key))]
    known.sort(key=lambda row: row[key], reverse=sort is not None and sort.startswith("-"))
    return known + sorted((row for row in made if _missing(row.get(key))), key=lambda row: "damaged" in row)


def _key(sort: str) -> str:
    keys = (
        {name.lower(): key for name, key in COLUMNS.items()}
        | {key: key for key in (*COLUMNS.values(), "parameters")}
        | {"r2": "r_squared"}
    )
    if (key := keys.get(sort.removeprefix("-").lower())) is None:
        names = dict.fromkeys([*COLUMNS, *COLUMNS.values()])
        raise UsageError(f"--sort: found {sort!r}; expected a column: {', '.join(names)}")
    return key


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def row(name: str, record: Record | Listed | str) -> dict[str, Any]:
    """Return the row of a run, of a damaged one, of which only the damage is known, `run_name` and `damaged` alone."""
    if isinstance(record, str):
        return {"run_name": name, "damaged": record}
    check = record.verification
    return {
        "run_name": name,
        "created": record.created,
        "loss": record.loss,
        **{key: getattr(record.config, key) for key in _CONFIG},
        "num_samples": record.dataset.rows,
        "r_squared": record.context.r_squared,
        "device": record.device.platform,
        "verified": None if check is None else check.passed,
    }


def screen(found: list[dict[str, Any]], width: int) -> Screen:
    """Return the list of runs, for a terminal of `width` cells."""
    if not found:
        return [Facts([("no runs yet", Text("`cubic forward --run-name NAME` makes one"))])]
    whole = [row for row in found if "damaged" not in row]
    damaged = [row for row in found if "damaged" in row]
    blocks: Screen = []
    if whole:
        longest = max(cell_len(row["run_name"]) for row in whole)
        name = max(_NAME, min(longest, width // 3))
        columns = [Column(title, title not in _LEFT) for title in COLUMNS]
        blocks.append(Grid("", columns, [[_cell(row, k, name) for k in COLUMNS.values()] for row in whole], DROP))
    if damaged:
        blocks.append(
            Facts([(shorten(row["run_name"], _NAME), Text(f"damaged: {row['damaged']}", BAD)) for row in damaged])
        )
    return blocks


def _cell(row: dict[str, Any], key: str, name: int) -> str | Text:
    value = row[key]
    if key == "run_name":
        return shorten(value, name)
    if key == "created":
        return str(value)[:19].replace("T", GLUE)
    if key == "initializer" and value is None:  # the network is a file's
        return shorten(Path(row["parameters"] or "–").name, _FILE)
    if key == "r_squared":
        return r_squared(value)
    if key == "loss":
        return number(value)
    if key == "verified":
        return Text("–") if value is None else Text("yes", GOOD) if value else Text("NO", BAD)
    return f"{value:,}" if isinstance(value, int) else str(value)


def shorten(name: str, width: int) -> str:
    """Return a name in at most `width` letters; what is left out is in the middle, for beginnings are often alike."""
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    return f"{name[:head]}…{name[-(width - 1 - head) :]}"
