"""A run as a page, and a part of it for a notebook: the verdict and the figure first, then every table.

It is made of the record and of the losses of the first epoch alone. A section that asks for a damaged part of the
record is left out.
"""

from collections.abc import Callable

import numpy as np
from rich.text import Text

from cubic_cli.cli import again
from cubic_cli.cli.views import formats, page, plot
from cubic_cli.cli.views import run as on_screen
from cubic_cli.cli.views.blocks import Column, Facts
from cubic_cli.cli.views.fit import finite_samples
from cubic_cli.cli.views.format import duration, many, mean, number, percent, setting
from cubic_cli.cli.views.page import Cell
from cubic_cli.cli.views.run import Section, View
from cubic_cli.cli.views.tensors import table
from cubic_cli.config import SETTINGS, ForwardConfig
from cubic_cli.errors import shorten
from cubic_cli.float32 import TENSORS, Float32
from cubic_cli.runs.damage import unless_damaged
from cubic_cli.runs.record import Record, Tensor
from cubic_cli.runs.run import Run
from cubic_cli.runs.saved import Saved

_LONGEST = 2000  # letters of a foreign text
_WIDE = 300  # cells: tables of a page have no width of their own


def document(found: Saved) -> str:
    """Return the page of a saved run, whole or damaged."""
    view = View(found.record, found.losses, _WIDE, found.folder)
    name = getattr(found.record, "run_name", found.folder.name)
    parts = [f"<h1>{page.escape(shorten(name, _LONGEST))}</h1>"]
    if found.problems:
        items = "".join(f"<li>{page.escape(shorten(problem, _LONGEST))}</li>" for problem in found.problems)
        parts += [page.verdict("bad", "Damaged", ": what is whole is shown."), f"<ul>{items}</ul>"]
    parts += [made for section in _SECTIONS if (made := unless_damaged(section, view))]
    return page.document(f"cubic: {name}", *parts)


def remains(name: str, why: str, found: list[tuple[str, str]]) -> str:
    """Return the page of a run whose record cannot be read: why, and what `saved.salvage` found in its other files."""
    head, verdict = f"<h1>{page.escape(shorten(name, _LONGEST))}</h1>", page.verdict("bad", "Damaged", f": {why}")
    return page.document(f"cubic: {name}", head, verdict, page.facts(found))


def notebook(run: Run) -> str:
    """Return what a notebook shows of a run: the verdict, the findings, the loss and the tensors.

    All its colours are those of the notebook around it, be it light or dark.
    """
    view = View(run.parsed, None, _WIDE)
    where = "not saved" if run.folder is None else f"saved in {run.folder}"
    parts = [f"<p><strong>{page.escape(shorten(run.parsed.run_name, _LONGEST))}</strong> · {page.escape(where)}</p>"]
    parts += [section(view) for section in (_about, _verdict, _findings, _loss, _tensors)]
    own = "; ".join(f"--{name}: {_AROUND.get(name, 'currentColor')}" for name in page.LIGHT)
    style = f"<style>.cubic {{ {own}; }}\n{page.STYLE}</style>".replace(".cubic", ".cubic" * 3)  # above Jupyter's own
    return f'{style}\n<div class="cubic">{"".join(parts)}</div>'


_AROUND = {"paper": "transparent", "card": "transparent", "line": "color-mix(in srgb, currentColor 25%, transparent)"}


def _as_shown(*sections: Section) -> Callable[[View], str]:
    """Return a section of the page that is made of the screen's."""
    return lambda view: page.from_screen(on_screen.show(view, sections))


def _section(title: str, *parts: str) -> str:
    return "\n".join([f"<h2>{page.escape(title)}</h2>", *parts])


def _folded(title: str, *parts: str) -> str:
    return "\n".join([f"<details><summary>{page.escape(title)}</summary>", *parts, "</details>"])


def _about(view: View) -> str:
    """The network and its samples in a line."""
    return page.paragraph(plot.subtitle(view.record), "quiet")


def _verdict(view: View) -> str:
    check = view.record.verification
    if check is None:
        return page.verdict("warning", "Not verified", ": the run was made with --no-verify.")
    said = (
        f"{many(check.batches, 'batch', 'batches')} computed again in {check.reference}; the largest relative error is "
        f"{check.max_relative_error:.1e}, and {check.tolerance:.1e} is allowed."
    )
    if check.passed:
        return page.verdict("good", "Verified", f": {said}")
    if check.failure is not None:
        where = "" if check.failure.batch is None else f" of batch {check.failure.batch:,}"
        found, expected = number(check.failure.found), number(check.failure.expected)
        said = f"{check.failure.quantity}{where} is {found}, and {check.reference} says {expected}. {said}"
    return page.verdict("bad", "NOT VERIFIED", f": {said}" + ("" if check.deterministic else " The epochs differ."))


def _figure(view: View) -> str:
    """The panels, each with its words, or why there are none."""
    if not plot.available():
        return page.NO_FIGURE
    figures = []
    for name, svg in plot.panels(view.record, view.losses).items():
        if name == "fit":
            kind, title, words = "half", "Samples and network", _fit_words(view.record)
        elif name == "losses" and view.losses is not None:
            kind, title, words = "half", "Losses", _losses_words(view.losses)
        else:
            kind, title, words = "", f"Histogram of {name}", _say(view.record.tensor(name))
        figures.append(page.figure(svg, name, title, words, kind))
    panels = "\n".join(['<div class="panels">', *figures, "</div>"])
    if len(figures) == 2 + len(TENSORS):
        return panels
    return panels + page.paragraph("Panels of damaged parts are left out.", "quiet")


def _fit_words(record: Record) -> str:
    if record.samples is None:
        return "No samples are recorded."
    samples = finite_samples(record)
    if not len(samples):
        return "No sample is finite."
    (x, y, z2), (x_max, y_max, z2_max) = ([number(end) for end in ends] for ends in (samples.min(0), samples.max(0)))
    cubic = "" if record.context.noise_floor is None else " The dashed line is the true cubic."
    return (
        f"{many(len(samples), 'sample')}: x from {x} to {x_max}, y from {y} to {y_max}. The network answers from {z2} "
        f"to {z2_max}.{cubic}"
    )


def _losses_words(losses: Float32) -> str:
    said = f"The loss of {many(len(losses), 'batch', 'batches')} {on_screen.losses_in_words(losses)}".rstrip()
    lost = np.count_nonzero(~np.isfinite(losses))
    return f"{said}; {lost:,} not finite." if lost else f"{said}."


def _say(tensor: Tensor) -> str:
    lost = f", {tensor.nonfinite:,} values not finite" if tensor.nonfinite else ""
    if tensor.min is None:
        return f"{tensor.label}: no value is finite{lost}."
    centre = mean(tensor.mean, tensor.min, tensor.max)
    return (
        f"{tensor.label}: from {number(tensor.min)} to {number(tensor.max)}, mean {centre}, std {number(tensor.std)}, "
        f"{percent(tensor.zeros)} zeros{lost}."
    )


def _findings(view: View) -> str:
    found = on_screen.by_level(view.record.findings)
    if not found:
        return _section("What the numbers say", page.paragraph("Nothing is conspicuous."))
    return _section("What the numbers say", page.findings((f.level, f.id, shorten(f.text, _LONGEST)) for f in found))


def _loss(view: View) -> str:
    note = "The mean squared error of an epoch; R² compares it with predicting the mean of y."
    if view.record.context.noise_floor is not None:
        note += " No network can beat the true cubic, whose loss is the noise."
    return _section("Loss", page.from_screen([on_screen.loss(view)]), page.paragraph(note, "quiet"))


def _tensors(view: View) -> str:
    return _section("Tensors and parameters", page.from_screen([table(view.record, view.width)]))


def _units(view: View) -> Facts:
    units = view.record.units
    said = {
        "hidden units": f"{units.count:,}, {units.distinct:,} of them distinct",
        "always zero": f"{units.dead:,}",
        "always positive": f"{units.always_on:,}",
        "rank of a1": f"{units.rank:,}",
    }
    return Facts([(name, Text(text)) for name, text in said.items()])


def _formats(view: View) -> str:
    if not view.record.formats:
        return ""
    _, *blocks = formats.screen(view.record)
    return _folded("In fewer bits", page.from_screen(blocks))


def _settings(view: View) -> str:
    config, sources = view.record.config.model_dump(mode="json"), view.record.sources
    defaults = ForwardConfig().as_json()
    rows: list[list[Cell]] = []
    for name, value in config.items():
        if name.upper() not in SETTINGS:
            continue
        came = sources.get(name, "")
        file = getattr(view.record, "parameters_file", None)
        if came == "default" and name in ("hidden_size", "initializer") and file is not None:
            came = "the parameters"
        shown = Text(shorten(setting(value), _LONGEST), "" if value == defaults.get(name) else "bold")
        rows.append([again.flag(name), name.upper(), shown, came])
    columns = [Column(name, right=False) for name in ("flag", "variable", "value", "from")]
    return _folded("Settings", page.table(columns, rows, note="Bold: other than the default."))


def _again(view: View) -> str:
    made, place = again.command(view.record, view.folder), again.place(view.record)
    where = "" if place is None else f" in {place}"
    said = (
        f"This command makes the run again{where}. It gives the same numbers on the same device with the same "
        "versions, where no variable and no .env says otherwise:"
    )
    if view.record.config.dataset is None:
        said = "The samples came from arrays. With the same x and y, this makes the run again:"
    parts = [page.paragraph(said), f'<pre class="command">{page.escape(made)}</pre>']
    if (many := view.record.device.processes) > 1:
        said = f"{many:,} processes made it, with --distributed; one alone gets the same extremes, and sums to 1e-6."
        parts.append(page.paragraph(said))
    return _section("Make it again", *parts)


def _origin(view: View) -> str:
    record = view.record
    data, device, file, timing = record.dataset, record.device, record.parameters_file, record.timing
    kind = f"{device.devices:,} × {device.kind}"
    kind += f" of {device.processes:,} processes" if device.processes > 1 else ""
    said = {
        "dataset": "arrays" if data.path is None else shorten(data.path, _LONGEST),
        "samples": f"{data.rows:,}, of the columns {record.config.x_column} and {record.config.y_column}",
        "SHA-256": data.sha256,
        "digest": data.digest,
        "parameters": None if file is None else f"{file.dtype}, SHA-256 {file.sha256}",
        "device": f"{kind}, matmul precision {device.matmul_precision}",
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "speed": f"{duration(timing.epoch_seconds)} an epoch, {number(timing.samples_per_second)} samples/s",
        "created": record.created,
    }
    return _section("Where it came from", page.facts((name, text) for name, text in said.items() if text))


_SECTIONS: tuple[Callable[[View], str], ...] = (
    _about,
    _verdict,
    _figure,
    _findings,
    _loss,
    _tensors,
    _as_shown(on_screen.network, on_screen.parameters, on_screen.cost, _units, on_screen.epochs, on_screen.gradients),
    _formats,
    _settings,
    _again,
    _origin,
)
