"""`cubic forward`: run the pass, verify it, show it, save it."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cubic_cli import options, terminal
from cubic_cli.commands.generate import write_dataset
from cubic_cli.config import ForwardConfig, GenerateConfig
from cubic_cli.errors import CubicError


def forward(
    ctx: typer.Context,
    generate: Annotated[
        bool,
        typer.Option(
            "--generate/--no-generate",
            envvar="GENERATE_DATASET",
            callback=options.boolean,
            help="Generate the dataset first.",
        ),
    ] = False,
    num_dataset: options.NumDataset = GenerateConfig.num_dataset,
    dataset: options.Dataset = ForwardConfig.dataset,
    noise_std: options.NoiseStd = GenerateConfig.noise_std,
    seed: options.Seed = ForwardConfig.seed,
    hidden_size: options.HiddenSize = ForwardConfig.hidden_size,
    batch_size: options.BatchSize = ForwardConfig.batch_size,
    num_epochs: options.NumEpochs = ForwardConfig.num_epochs,
    num_samples: options.NumSamples = str(ForwardConfig.num_samples),
    run_name: options.RunName = ForwardConfig.run_name,
    initializer: options.Initializer = ForwardConfig.initializer,
    activation: options.Activation = ForwardConfig.activation,
    scaling: options.Scaling = ForwardConfig.scaling,
    device: options.Device = ForwardConfig.device,
    verify: options.Verify = ForwardConfig.verify,
    gradients: options.Gradients = ForwardConfig.gradients,
    fail_on: options.FailOn = [],  # noqa: B006
    artifact_dir: options.ArtifactDir = ForwardConfig.artifact_dir,
    json: options.Json = False,
) -> None:
    """Run the forward pass over the dataset, verify it, show every tensor's statistics and save the run."""
    config = ForwardConfig(
        hidden_size=hidden_size,
        batch_size=batch_size,
        num_epochs=num_epochs,
        num_samples=None if num_samples == "all" else int(num_samples),
        seed=seed,
        initializer=initializer,
        activation=activation,
        scaling=scaling,
        dataset=dataset,
        run_name=run_name,
        artifact_dir=artifact_dir,
        device=device,
        verify=verify,
        gradients=gradients,
        fail_on=tuple(fail_on),
    )
    if generate:
        summary = write_dataset(GenerateConfig(num_dataset, dataset, noise_std, seed), force=False)
        print(f"generated {summary.rows:,} rows in {summary.path}", file=sys.stderr)
    from cubic_cli import run, runs, saved
    from cubic_cli.views import blocks
    from cubic_cli.views import run as view

    folder = Path(artifact_dir) / run_name
    names = [name for name in config.as_json() if name in ctx.params]
    with runs.replacing(folder) as scratch, terminal.progress("epochs", num_epochs) as advance:
        record = run.run(config, options.sources(ctx, names), scratch, lambda epoch, loss: advance(1))
        losses = None if json else saved.losses_of(scratch, record)
    if json:
        print(runs.to_json(record))
    else:
        terminal.show(lambda width: blocks.render(view.screen(record, losses, width), width))
        print(f"saved in {folder}", file=sys.stderr)
    refuse(record)


def refuse(record: dict[str, Any]) -> None:
    """Raise `CubicError` if a run is not verified, or has a finding that `--fail-on` names."""
    check = record["verification"]
    if check is not None and not check["passed"]:
        texts = [f["text"] for f in record["findings"] if f["id"] in ("unverified", "nondeterministic")]
        raise CubicError("the run is saved, but it is not verified: " + "; ".join(texts))
    found = [f"{f['id']}: {f['text']}" for f in record["findings"] if f["id"] in record["config"]["fail_on"]]
    if found:
        raise CubicError("the run is saved, but it has what --fail-on names; " + "; ".join(found))
