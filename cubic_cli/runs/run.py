"""A saved run for notebooks and scripts: its record, its history and its parameters, read when they are asked for."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cubic_cli.errors import RunError, five_digits
from cubic_cli.float32 import Float32
from cubic_cli.runs.files import RECORD, find_file, held
from cubic_cli.runs.store import load_parameters, load_record

if TYPE_CHECKING:
    import polars as pl


class Run:
    """A saved run: `folder`, `record`, `history` and `parameters`; the last two are read when first asked for.

    Raises:
        RunError: what is asked for is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder: Path | None = folder
        with held(folder):
            self.parsed = load_record(folder)  # the same with types
            self._identity = _identify(folder)

    @classmethod
    def detached(cls, folder: Path) -> "Run":
        """Return a run that holds all that is in `folder`, which may go; its own `folder` is None."""
        run = cls(folder)
        run.history, run.parameters  # noqa: B018 (read now, and kept)
        run.folder = None
        return run

    @property
    def saved_in(self) -> Path:
        """The folder of a run that has one."""
        if self.folder is None:
            raise RunError("this run is not saved; give it a run_name")
        return self.folder

    @functools.cached_property
    def record(self) -> dict[str, Any]:
        """What `run.json` says; numbers that are not finite are floats."""
        return self.parsed.as_dict()

    @functools.cached_property
    def history(self) -> "pl.DataFrame":
        """A row an iteration, as in `history.parquet`."""
        from cubic_cli.runs.saved import load_history

        with self._unreplaced() as folder:
            return load_history(folder, self.parsed)

    @functools.cached_property
    def parameters(self) -> dict[str, Float32]:
        """The parameters by name, as in `params.safetensors`."""
        with self._unreplaced() as folder:
            return load_parameters(folder, self.parsed)

    @contextlib.contextmanager
    def _unreplaced(self) -> Iterator[Path]:
        """Hold the run's files, if they are still those of its record."""
        with held(self.saved_in):
            if _identify(self.saved_in) != self._identity:
                raise RunError(f"{self.saved_in} was replaced by another run since it was loaded; load it again")
            yield self.saved_in

    def __repr__(self) -> str:
        record, check = self.parsed, self.parsed.verification
        verified = "not verified" if check is None else "verified" if check.passed else "NOT VERIFIED"
        sizes = f"N = {record.dataset.rows:,}, H = {record.config.hidden_size:,}"
        where = "not saved" if self.folder is None else repr(str(self.folder))
        return f"<Run {where}: {sizes}, loss {five_digits(record.loss)}, {verified}>"

    def _repr_html_(self) -> str:
        """Return the run as a notebook shows it: a part of the page that `cubic inspect --save` makes."""
        from cubic_cli.cli.views.report import notebook  # the one look upward: a run shows itself by its view

        return notebook(self)


def _identify(folder: Path) -> tuple[int, int, int]:
    """Return what tells the record of a run from that of one which replaces it."""
    found = find_file(folder / RECORD).stat()
    return found.st_dev, found.st_ino, found.st_mtime_ns


def load_run(path: str | Path) -> Run:
    """Return the run saved in the folder `path`, for notebooks and scripts. Starts no JAX.

        >>> run = cubic_cli.load_run("model/exp1")
        >>> run
        <Run 'model/exp1': N = 1,000, H = 64, loss 9,194,200, verified>
        >>> run.record["tensors"][0]["max"]            # run.json: a dict; NaN and infinities are floats
        >>> run.history.filter(pl.col("epoch") == 1)   # history.parquet: a polars DataFrame, a row an iteration
        >>> run.parameters["input_layer.weight"]       # params.safetensors: NumPy arrays by name

    Raises:
        RunError: there is no run, or its record is damaged or of a later schema. `history` and `parameters` raise it
            when they are read.
    """
    return Run(Path(path))
