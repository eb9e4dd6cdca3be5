"""`cubic generate`: write the dataset."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cubic_cli.cli import settings as options
from cubic_cli.cli import terminal
from cubic_cli.config import DATA, GenerateConfig
from cubic_cli.errors import five_digits

if TYPE_CHECKING:
    from cubic_cli.data.generate import Generated


@options.takes(GenerateConfig)
def generate(
    ctx: typer.Context,
    *,
    force: Annotated[
        bool, typer.Option("--force", rich_help_panel=DATA, help="Replace a file that is not cubic's own.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Write the dataset: samples of a noisy cubic, the same bytes for the same seed.

    cubic generate                               100,000 rows in data.csv
    cubic generate --n 1000000 --dataset big.parquet
    cubic generate --noise-std 0 --seed 7 --dataset clean.csv
    """
    summary = write_dataset(options.configure(ctx, GenerateConfig), force)
    from cubic_cli.cli.views import dataset as view

    terminal.give(asdict(summary), lambda width: view.screen(summary), json)


def write_dataset(config: GenerateConfig, force: bool) -> "Generated":
    from cubic_cli.data import generate as dataset
    from cubic_cli.float32 import FLOAT32_MAX
    from cubic_cli.runs.files import refuse_in_run

    refuse_in_run(Path(config.dataset), "--dataset")
    with terminal.progress("generating", config.num_dataset, "rows", "rows") as advance:
        summary = dataset.generate(config, force, lambda rows: advance(rows, rows))
    if math.isinf(summary.y_min) or math.isinf(summary.y_max):
        terminal.tell(
            f"some y are infinite: with a noise of {five_digits(config.noise_std)} they lie beyond float32, which ends "
            f"at {five_digits(FLOAT32_MAX)}"
        )
    return summary
