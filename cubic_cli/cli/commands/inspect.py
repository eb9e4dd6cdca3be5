"""`cubic inspect`: look at saved runs."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cubic_cli.cli import settings as options
from cubic_cli.cli import terminal
from cubic_cli.config import RUN, SHOW, ForwardConfig
from cubic_cli.errors import CubicError, DatasetError, RunError, UsageError
from cubic_cli.parsers import parse_count_or_all, parse_integer, parse_size
from cubic_cli.runs.files import HISTORY, RECORD, has_files, held, rerun_hint

if TYPE_CHECKING:
    from cubic_cli.runs.saved import Saved


UNITS = 8  # groups of units written out by --row
_COUNT = options.parser(parse_integer(1))


def _shown(*flags: str, **given: Any) -> Any:
    """Return an option that says what is shown."""
    return typer.Option(*flags, rich_help_panel=SHOW, **given)


def _complete_column(incomplete: str) -> list[str]:
    from cubic_cli.cli.views.listing import COLUMNS

    return [name for name in COLUMNS if name.startswith(incomplete)]


def inspect(
    ctx: typer.Context,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="The run: a name, or the path of its folder. Without one it is the newest.",
            autocompletion=options.complete_run,
            rich_help_panel=RUN,
        ),
    ] = None,
    run_name: Annotated[str | None, options.of("run_name", help="Show the run of this name, as RUN does.")] = None,
    artifact_dir: options.ArtifactDir = ForwardConfig.artifact_dir,
    list_: Annotated[bool, _shown("--list", help="List the runs.")] = False,
    sort: Annotated[
        str | None,
        _shown(
            metavar="COLUMN",
            help="With --list: sort by this column, -COLUMN downward.",
            autocompletion=_complete_column,
        ),
    ] = None,
    epoch: Annotated[int | None, _shown(parser=_COUNT, metavar="INT", help="With --batch: show one iteration.")] = None,
    batch: Annotated[int | None, _shown(parser=_COUNT, metavar="INT", help="With --epoch: show one iteration.")] = None,
    row: Annotated[
        int | None,
        _shown(parser=_COUNT, metavar="INT", help="Write out the arithmetic of one sample, from 1 (--save .tex too)."),
    ] = None,
    units: Annotated[
        int | None,
        _shown(
            parser=options.parser(parse_count_or_all), metavar="K|all", help="With --row: write out this many units."
        ),
    ] = UNITS,
    blank: Annotated[
        bool, _shown("--blank", help="With --row: leave the results out; --save writes them to a second file.")
    ] = False,
    formats: Annotated[bool, _shown("--formats", help="Show what each tensor would lose in fewer bits.")] = False,
    compare: Annotated[
        list[str],
        _shown(
            metavar="OTHER",
            help="Set this other run beside it: its name, or its folder's path; repeatable.",
            autocompletion=options.complete_run,
        ),
    ] = [],  # noqa: B006
    tolerance: Annotated[
        float | None,
        _shown(
            parser=options.parser(parse_size),
            metavar="R",
            help="With --compare: exit 1 where a figure differs by more than R, relatively.",
        ),
    ] = None,
    save: options.Save = None,
    plot: Annotated[str | None, _shown(metavar="FILE", help="Draw the run (.png, .svg, .pdf).")] = None,
    json: options.Json = False,
) -> None:
    """Show a saved run, the list of runs, one iteration, or runs side by side. It starts no JAX.

    cubic inspect                                the newest run
    cubic inspect he --compare default_run       two runs side by side
    cubic inspect he --row 7                     the arithmetic of one sample
    """
    _check_usage(ctx)
    if list_:
        _list(Path(artifact_dir), sort, save, json)
        return
    from cubic_cli.runs import store as runs

    folder = _choose(ctx, run, Path(artifact_dir))
    runs.recover(folder)
    with held(folder):
        if compare:
            _compare(folder, compare, Path(artifact_dir), tolerance, save, json)
        elif epoch is not None and batch is not None:
            _iteration(folder, epoch, batch, save, json)
        elif row is not None:
            _row(folder, row, units, blank, save, json)
        elif formats:
            _formats(folder, save, json)
        else:
            _run(folder, save, plot, json)


def _choose(ctx: typer.Context, run: str | None, artifact_dir: Path) -> Path:
    """Return the folder of the run that is meant; says on standard error where that is not what was named.

    Raises:
        RunError: it is not there, or there is none.
    """
    from cubic_cli.runs import names

    named, source = ctx.params["run_name"] if run is None else run, options.source(ctx, "run_name")
    if run is not None or source in ("flag", "environment"):
        return names.find(named, artifact_dir)
    newest = next(iter(names.newest_first(artifact_dir)), None)
    if source == ".env" and (artifact_dir / named).is_dir():
        if newest not in (None, named):
            terminal.tell(f"note: {newest} is newer than RUN_NAME in {ctx.obj.path}; `cubic inspect {newest}` shows it")
        return artifact_dir / named
    if newest is None:
        raise RunError(f"there is no run in {artifact_dir}; `cubic forward` makes one")
    terminal.tell(f"{newest} is the newest run")
    return artifact_dir / newest


def _check_usage(ctx: typer.Context) -> None:
    """Raise `UsageError` for options that do not go together, and for files that nothing is kept or drawn in."""
    given = ctx.params
    if (given["epoch"] is None) != (given["batch"] is None):
        raise UsageError("--epoch and --batch go together, as in --epoch 10 --batch 100")
    if given["sort"] is not None and not given["list_"]:
        raise UsageError("--sort goes with --list")
    if given["tolerance"] is not None and not given["compare"]:
        raise UsageError("--tolerance goes with --compare OTHER")
    chosen = [name for name in ("list_", "compare", "epoch", "row", "formats", "plot") if given[name]]
    if len(chosen) > 1:
        first, second = (f"--{name.rstrip('_')}" for name in chosen[:2])
        raise UsageError(f"{first} and {second} show different things; give one of them")
    if given["row"] is None and (given["blank"] or options.source(ctx, "units") == "flag"):
        raise UsageError("--units and --blank go with --row")
    if given["blank"] and given["json"]:
        raise UsageError("--blank leaves out what --json prints; give one of them")
    if given["run"] is not None and options.source(ctx, "run_name") == "flag":
        raise UsageError("RUN and --run-name both name the run; give one of them")
    if given["run"] is not None and given["list_"]:
        raise UsageError(f"--list lists all runs; leave {given['run']!r} out, or leave --list out")
    if given["plot"] is not None and given["plot"] == given["save"]:
        raise UsageError("--save and --plot name the same file; give each its own")
    if given["plot"] is not None:
        from cubic_cli.cli.views.plot import check_path as check_plot

        check_plot(given["plot"])
    if given["save"] is not None:
        from cubic_cli.cli.views.save import check_path

        check_path(given["save"], (".tex",) if given["row"] is not None else ())


def _list(artifact_dir: Path, sort: str | None, save: str | None, json: bool) -> None:
    from cubic_cli.cli.views import listing
    from cubic_cli.runs import store as runs

    runs.recover_all(artifact_dir)
    rows = listing.rows(artifact_dir, sort)
    title = "cubic inspect --list"
    terminal.give(
        {"runs": rows}, lambda width: listing.screen(rows, width), json, save, title, lambda: _list_page(rows, title)
    )


def _list_page(rows: list[dict[str, Any]], title: str) -> str:
    from cubic_cli.cli.views import listing, page

    return page.document(title, page.from_screen(listing.screen(rows, _NO_END), title))


_NO_END = 1000  # cells: room for whole names


def _compare(
    folder: Path, names: list[str], artifact_dir: Path, tolerance: float | None, save: str | None, json: bool
) -> None:
    from cubic_cli.analysis import compare
    from cubic_cli.cli.views import compare as view
    from cubic_cli.runs.names import find
    from cubic_cli.runs.store import load_record

    record = load_record(folder)
    others = []
    for name in names:
        other = find(name, artifact_dir)
        others.append(load_record(other).model_copy(update={"run_name": other.resolve().name}))
    document = compare.document(record, others, tolerance)
    title = " ".join(["cubic inspect", folder.name, *(f"--compare {name}" for name in names)])
    records = [record, *others]
    page = functools.partial(view.as_page, document, records)
    terminal.give(document, lambda width: view.screen(document, records, width), json, save, title, page)
    if document["within_tolerance"] is False:
        apart = [f"{one['run_name']} ({', '.join(one['beyond'])})" for one in document["others"] if one["beyond"]]
        raise CubicError(f"{record.run_name} is not within {tolerance:g} of {'; '.join(apart)}")


def _row(folder: Path, row: int, units: int | None, blank: bool, save: str | None, json: bool) -> None:
    from cubic_cli.analysis.sample import read_sample
    from cubic_cli.cli.views import row as view
    from cubic_cli.cli.views.files import write_whole
    from cubic_cli.runs.store import load_record

    sample = read_sample(folder, load_record(folder), row)
    document = sample.as_json() if json else {}
    title = f"cubic inspect --row {row}"
    parts = [(save, blank)]
    if save is not None and blank:
        path = Path(save)
        parts.append((str(path.with_name(f"{path.stem}-answers{path.suffix}")), False))
    terminal.give(document, lambda width: view.screen(sample, width, units, blank), json, None, title)
    for target, empty in parts:
        if target is None:
            continue
        if Path(target).suffix.lower() == ".tex":
            write_whole(Path(target), view.latex(sample, units, empty).encode(), "--save")
        else:
            from cubic_cli.cli.views.save import save as keep

            show = functools.partial(view.screen, sample, units=units, blank=empty)
            keep(Path(target), show, terminal.console().width, title)
        terminal.tell(f"kept in {target}")


def _formats(folder: Path, save: str | None, json: bool) -> None:
    from cubic_cli.cli.views import formats as view
    from cubic_cli.runs.store import load_record

    record = load_record(folder)
    if record.formats is None:
        raise RunError(
            f"{folder / RECORD} does not say what its tensors lose in fewer bits, for an earlier version of cubic "
            f"wrote it; {rerun_hint(folder)}"
        )
    entries = [entry.model_dump(mode="json") for entry in record.formats]
    document = {"run_name": record.run_name, "formats": entries}
    terminal.give(document, lambda width: view.screen(record), json, save, f"cubic inspect {folder.name} --formats")


def _iteration(folder: Path, epoch: int, batch: int, save: str | None, json: bool) -> None:
    from cubic_cli.analysis import iteration
    from cubic_cli.analysis.reread import NoSamplesError
    from cubic_cli.cli.views import iteration as view
    from cubic_cli.runs.store import load_record

    record = load_record(folder)
    document = iteration.recorded(folder, record, epoch, batch)
    labels = {tensor.name: tensor.label for tensor in record.tensors}
    values: iteration.Values | None = None
    why = ""
    problem: CubicError | None = None
    try:
        values = iteration.recompute(folder, record, epoch, batch)
        if values.check is not None and not values.check.agrees:
            problem = RunError(
                f"{folder / HISTORY} is damaged: {values.check.quantity} of epoch {epoch}, batch {batch} is not "
                f"what the run's parameters and samples give; {rerun_hint(folder)}"
            )
    except NoSamplesError as error:
        why = str(error)
    except (DatasetError, RunError) as error:
        why, problem = str(error), error
    title = f"cubic inspect {folder.name} --epoch {epoch} --batch {batch}"
    shown = iteration.as_json(document, values)
    terminal.give(shown, lambda width: view.screen(document, labels, width, values, why), json, save, title)
    if problem is not None:
        raise problem


def _run(folder: Path, save: str | None, plot: str | None, json: bool) -> None:
    from cubic_cli.cli.views import run as view
    from cubic_cli.runs import saved
    from cubic_cli.runs.run import load_run

    try:
        found = saved.inspect_run(folder)
    except RunError as error:
        if has_files(folder) and not json:
            found_still, why = saved.salvage(folder), str(error)
            title, page = f"cubic inspect {folder.name}", lambda: _remains_page(folder.name, why, found_still)
            terminal.give(None, lambda width: view.remains(found_still), json, save, title, page)
        raise
    terminal.give(
        found.document,
        lambda width: view.screen(found.record, found.losses, width),
        json,
        save,
        f"cubic inspect {folder.name}",
        lambda: _page(found),
    )
    _report(found)
    if plot is not None:
        from cubic_cli.cli.views import plot as plotting

        plotting.save(plotting.draw(load_run(folder)), Path(plot))
        terminal.tell(f"drawn in {plot}")


def _page(found: "Saved") -> str:
    from cubic_cli.cli.views import report  # whoever keeps no page need not wait for it

    return report.document(found)


def _remains_page(name: str, why: str, found: list[tuple[str, str]]) -> str:
    from cubic_cli.cli.views import report

    return report.remains(name, why, found)


def _report(found: "Saved") -> None:
    """Raise `RunError` if a file of the run is damaged; says which and what."""
    if not found.problems:
        return
    for problem in found.problems[:-1]:
        terminal.tell(f"warning: {problem}")
    raise RunError(found.problems[-1])
