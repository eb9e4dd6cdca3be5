"""`cubic inspect`: look at saved runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cubic_cli import options, terminal
from cubic_cli.config import ForwardConfig
from cubic_cli.errors import RunError, UsageError


def inspect(
    run_name: options.RunName = ForwardConfig.run_name,
    artifact_dir: options.ArtifactDir = ForwardConfig.artifact_dir,
    list_: Annotated[bool, typer.Option("--list", help="List the runs.")] = False,
    epoch: Annotated[
        int | None, typer.Option(parser=options.POSITIVE, metavar="INTEGER", help="With --batch: show one iteration.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(parser=options.POSITIVE, metavar="INTEGER", help="With --epoch: show one iteration.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Show a saved run, the list of runs, or one iteration. It starts no JAX."""
    from cubic_cli import runs
    from cubic_cli.views import report

    if list_:
        records = runs.list_runs(Path(artifact_dir))
        if json:
            print(runs.to_json({"runs": [_list_row(record) for record in records]}))
        else:
            terminal.show(lambda width: report.runs(records))
        return
    folder = Path(artifact_dir) / run_name
    runs.recover(folder)
    record = runs.load_record(folder)
    if (epoch is None) != (batch is None):
        raise UsageError("--epoch and --batch go together, as in --epoch 10 --batch 100")
    if epoch is not None and batch is not None:
        document = _iteration(folder, record, epoch, batch)
        if json:
            print(runs.to_json(document))
        else:
            labels = {tensor["name"]: tensor["label"] for tensor in record["tensors"]}
            terminal.show(lambda width: report.iteration(document, labels))
    elif json:
        print(runs.to_json(record))
    else:
        terminal.show(lambda width: report.run(record, width))


def _list_row(record: dict[str, Any]) -> dict[str, Any]:
    if "damaged" in record:
        return record
    keys = ("hidden_size", "batch_size", "num_epochs", "initializer", "activation", "scaling", "seed")
    return {
        "run_name": record["run_name"],
        "created": record["created"],
        "loss": record["loss"],
        **{key: record["config"][key] for key in keys},
    }


def _iteration(folder: Path, record: dict[str, Any], epoch: int, batch: int) -> dict[str, Any]:
    """Return the tensors' shapes and extremes in one iteration, as `inspect --json` prints them."""
    from cubic_cli import runs

    history = runs.load_history(folder)
    epochs = record["config"]["num_epochs"]
    batches = history.height // epochs
    if epoch > epochs or batch > batches:
        raise RunError(
            f"run {record['run_name']} has epochs 1 to {epochs} and batches 1 to {batches}; "
            f"there is no epoch {epoch}, batch {batch}"
        )
    row = history.row((epoch - 1) * batches + batch - 1, named=True)
    tensors = []
    for tensor in record["tensors"]:
        name = tensor["name"]
        low, high = (row["loss"],) * 2 if name == "loss" else (row[f"{name}_min"], row[f"{name}_max"])
        shape = tensor["shape"] if name == "loss" else [row["size"], *tensor["shape"][1:]]
        tensors.append(
            {
                "name": name,
                "shape": shape,
                "min": None if low is None else runs.shortest(low),
                "max": None if high is None else runs.shortest(high),
            }
        )
    return {"run_name": record["run_name"], "epoch": epoch, "batch": batch, "tensors": tensors}
