"""The list of runs: its rows, by which they can be sorted, and its screen."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from cubic_cli.cli.views.blocks import BAD, GOOD, Column, Facts, Grid, Screen, fit
from cubic_cli.cli.views.format import GLUE, number, r_squared
from cubic_cli.errors import UsageError, shorten
from cubic_cli.parsers import suggestion
from cubic_cli.runs.listed import Listed, list_runs
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
    "loss": "loss_in_data_units",
    "R²": "r_squared",
    "device": "device",
    "verified": "verified",
}
# Columns that are left out where they do not fit, in this order; the run, its loss and the verdict always stay.
DROP = ("device", "created", "samples", "epochs", "seed", "B", "scaling", "activation", "H", "initializer", "R²")
_OWN = ("run", "created", "loss", "R²", "verified")  # of a run, and no setting
_LEFT = ("run", "created", "initializer", "activation", "scaling", "device", "verified")
_FILE = 20  # cells: of a file's name in the place of an initialiser
_NAME = 32  # cells: names are shortened to no fewer, in the middle, while there is room for them and what always stays
_FEWEST = 12  # cells of a name


def rows(artifact_dir: Path, sort: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of `inspect --list --json`, sorted by a column or key; `-` before it turns the order around.

    A damaged run has only `run_name` and `damaged`, which says what is wrong, and stands last, as does what is not a
    number among numbers.

    Raises:
        UsageError: there is no such column; names those there are.
    """
    key = None if sort is None else _key(sort)
    made = [row(name, record) for name, record in list_runs(artifact_dir)]
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
        raise UsageError(f"--sort: found {sort!r}; expected a column: {', '.join(names)}{suggestion(sort, names)}")
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
        "loss_in_data_units": record.loss_in_data_units,
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
        blocks.append(_table(whole, width))
    if damaged:
        blocks.append(
            Facts([(shorten(row["run_name"], _NAME), Text(f"damaged: {row['damaged']}", BAD)) for row in damaged])
        )
    return blocks


def _table(found: list[dict[str, Any]], width: int) -> Grid:
    """Return the table of the runs; a setting that all of them share is said once, below."""
    cells = {title: [_cell(row, key) for row in found] for title, key in COLUMNS.items()}
    shared = [
        title for title in COLUMNS if title not in _OWN and len(found) > 1 and len({*map(str, cells[title])}) == 1
    ]
    shown = [title for title in COLUMNS if title not in shared]
    kept = sum(max(map(cell_len, [title, *map(str, cells[title])])) + 2 for title in ("loss", "R²", "verified"))
    longest = max(cell_len(row["run_name"]) for row in found)
    # Where "…" has to be three letters, the name is two wider.
    name = max(_FEWEST, min(max(_NAME, min(longest, width // 3)), width - kept - 2))
    cells["run"] = [shorten(row["run_name"], name) for row in found]
    columns = [Column(title, title not in _LEFT) for title in shown]
    grid = Grid("", columns, list(zip(*(cells[title] for title in shown), strict=True)), DROP)
    notes = [f"in all runs: {', '.join(f'{title}{GLUE}{cells[title][0]}' for title in shared)}"] if shared else []
    fitting = fit(grid, width).columns
    if left := [column.name for column in columns if column not in fitting]:
        notes.append(f"no room for {', '.join(left)}: --json has all")
    return replace(grid, note="; ".join(notes))


def _cell(row: dict[str, Any], key: str) -> str | Text:
    value = row[key]
    if key == "created":
        return str(value)[:19].replace("T", GLUE)
    if key == "initializer" and value is None:  # the network is a file's
        return shorten(Path(row["parameters"] or "–").name, _FILE)
    if key == "r_squared":
        return r_squared(value)
    if key == "loss_in_data_units":
        return number(value)
    if key == "verified":
        return Text("–") if value is None else Text("yes", GOOD) if value else Text("NO", BAD)
    return f"{value:,}" if isinstance(value, int) else str(value)
