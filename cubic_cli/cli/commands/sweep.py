"""`cubic sweep`: run a grid of settings, rank the runs, and say how the tensors grow with the width."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cubic_cli.cli import library_variables, own_network, terminal
from cubic_cli.cli import settings as options
from cubic_cli.config import AXES, RUN, SHOW, ForwardConfig
from cubic_cli.errors import CubicError, UsageError

if TYPE_CHECKING:
    from cubic_cli.experiments.sweep import Outcome


_SWEPT = ("parameters", *AXES)


@options.takes(ForwardConfig, several=_SWEPT)
def sweep(
    ctx: typer.Context,
    *,
    rerun: Annotated[
        bool,
        typer.Option("--rerun", rich_help_panel=RUN, help="Run again what is saved already."),
    ] = False,
    plot: Annotated[
        str | None,
        typer.Option(rich_help_panel=SHOW, metavar="FILE", help="Draw how the tensors grow with H (.png, .svg, .pdf)."),
    ] = None,
    save: options.Save = None,
    json: options.Json = False,
) -> None:
    """Run the forward pass for each combination of settings, save each run as <RUN_NAME>-…, and rank them in a table.

        cubic sweep --initializer ones,he_normal --scaling none,standard
        cubic sweep --hidden-size 16,64,256 --initializer he_normal --plot growth.png
        cubic sweep --parameters epoch1.safetensors --parameters epoch9.safetensors

    A saved run is kept if running it again would give the same numbers: an interrupted sweep goes on where it stopped.
    Where the table is too wide, these go first: rank, dead, distinct, range, rate, gradient, R².
    """
    library_variables.refuse_bad_flags()
    from cubic_cli.analysis.growth import growth
    from cubic_cli.cli.views import sweep as view
    from cubic_cli.experiments import sweep as grid

    base = options.configure(ctx, ForwardConfig, without=_SWEPT)
    axes = {name: ctx.params[name] for name in AXES}
    sources = options.sources(ctx)
    networks = own_network.read(ctx, ctx.params["parameters"], sources, axes["initializer"], axes["hidden_size"])
    sources = own_network.adopted_sources(sources) if networks else sources | {"parameters": "default"}
    points = grid.expand(base, axes, networks)
    if plot is not None:
        _check_plot(plot, 0 if networks else len(set(axes["hidden_size"])))
    if save is not None:
        from cubic_cli.cli.views.save import check_path

        check_path(save)
    outcomes = []
    for outcome in grid.run_grid(points, base, sources, rerun, terminal.progress, terminal.tell):
        outcomes.append(outcome)
        if terminal.moves():
            terminal.tell(f"{len(outcomes)}/{len(points)} {_news(outcome)}")
    ranked = grid.rank(outcomes)
    grown = growth([outcome.record for outcome in outcomes if outcome.record is not None])
    document = {"runs": [_row(outcome) for outcome in ranked], "growth": grown}
    name = base.run_name
    page = functools.partial(view.as_page, document, name)
    terminal.give(document, lambda width: view.screen(document, name, width), json, save, f"cubic sweep {name}", page)
    if not json:
        terminal.tell(_sum_up(outcomes, Path(base.artifact_dir)))
    if plot is not None:
        from cubic_cli.cli.views import plot as plotting
        from cubic_cli.cli.views.sweep_plot import draw

        plotting.save(draw(grown), Path(plot))
        terminal.tell(f"drawn in {plot}")
    _refuse(outcomes, base.fail_on)


def _check_plot(path: str, widths: int) -> None:
    """Raise an error, before anything is run, if the plot could not be drawn."""
    from cubic_cli.cli.views.plot import check_path

    if widths < 2:
        raise UsageError("--plot draws how the tensors grow with H; give --hidden-size at least twice, and no file")
    check_path(path)


def _news(outcome: "Outcome") -> str:
    """Return what is told of a run when it is done."""
    from cubic_cli.cli.views.format import duration, number

    if outcome.record is None:
        return f"{outcome.config.run_name} failed: {outcome.error}"
    seconds = sum(epoch.seconds for epoch in outcome.record.epochs)
    how = "as saved" if outcome.kept else f"epochs in {duration(seconds)}"
    return f"{outcome.config.run_name}: loss {number(outcome.record.loss_in_data_units)}, {how}"


def _sum_up(outcomes: "list[Outcome]", folder: Path) -> str:
    """Return the line about all runs: how many are saved, were kept, and failed."""
    failed = sum(outcome.record is None for outcome in outcomes)
    kept = sum(outcome.kept for outcome in outcomes)
    counts = {f"saved in {folder}": len(outcomes) - kept - failed, "kept as saved": kept, "failed": failed}
    return "runs: " + ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def _row(outcome: "Outcome") -> dict[str, Any]:
    """Return a run's row of `inspect --list --json` and the figures of the sweep, or why there is none."""
    from cubic_cli.analysis.growth import figures
    from cubic_cli.cli.views import listing

    if outcome.record is None:
        settings = outcome.config.as_json()
        chosen = {name: settings[name] for name in ("run_name", "parameters", *AXES)}
        return {**chosen, "error": outcome.error}
    return {
        **listing.row(outcome.config.run_name, outcome.record),
        **figures(outcome.record),
        "kept": outcome.kept,
    }


def _refuse(outcomes: "list[Outcome]", fail_on: tuple[str, ...]) -> None:
    """Raise `CubicError` if a run failed, is not verified, or has a finding that `--fail-on` names."""
    from cubic_cli.experiments import sweep as grid

    reasons = {outcome.config.run_name: grid.refusals(outcome, fail_on) for outcome in outcomes}
    refused = [f"{name}: {', '.join(why)}" for name, why in reasons.items() if why]
    if refused:
        raise CubicError(f"{len(refused)} of {len(outcomes)} runs failed; " + "; ".join(refused))
