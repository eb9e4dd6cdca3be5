"""The screen of one run, that of `inspect` and of `forward`: from settings and data to what the numbers say.

A section that asks for a damaged part of the record is left out.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.text import Text

from cubic_cli.cli.views.blocks import (
    BAD,
    GOOD,
    QUIET,
    WARNING,
    Block,
    Bullet,
    Bullets,
    Column,
    Facts,
    Grid,
    Heading,
    Screen,
)
from cubic_cli.cli.views.fit import picture
from cubic_cli.cli.views.format import (
    GLUE,
    buckets,
    duration,
    glued,
    many,
    number,
    r_squared,
    setting,
    shape,
    size,
    sparkline,
)
from cubic_cli.cli.views.tensors import EQUATIONS, SYMBOLS, table
from cubic_cli.config import ForwardConfig
from cubic_cli.float32 import shortest
from cubic_cli.runs.damage import unless_damaged
from cubic_cli.runs.files import near
from cubic_cli.runs.record import Finding, Record

if TYPE_CHECKING:
    from cubic_cli.float32 import Float32

_LABEL = 13  # cells: the labels of the facts
_ROOM = 100  # cells from which on the losses have bars
_BAR = 50  # cells of the longest of them
_MANY = 20  # epochs: of more the first and the last are shown


class View(NamedTuple):
    """What a section is made of; `losses` are those of the first epoch's batches, `[K]`, if they are known."""

    record: Record
    losses: "Float32 | None"
    width: int
    folder: Path | None = None


def screen(record: Record, losses: "Float32 | None", width: int) -> Screen:
    """Return the screen of a run, for a terminal of `width` cells, without the parts of the record that are damaged.

    `losses` are those of the batches of one epoch, `[K]`; None leaves them out.
    """
    return show(View(record, losses, width), _SECTIONS)


def show(view: View, sections: "Sequence[Section]") -> Screen:
    """Return what sections say, but those that ask for a damaged part of the record; facts in turn are one block."""
    blocks: Screen = []
    for section in sections:
        block = unless_damaged(section, view)
        if isinstance(block, Facts) and blocks and isinstance(blocks[-1], Facts):
            blocks[-1] = replace(block, rows=[*blocks[-1].rows, *block.rows])
        elif block is not None:
            blocks.append(block)
    return blocks


def remains(found: list[tuple[str, str]]) -> Screen:
    """Return the screen of a run whose record cannot be read: what `saved.salvage` found."""
    return [Heading("what remains"), Facts([(name, Text(said)) for name, said in found])]


def _fact(label: str, text: str | Text) -> Facts:
    return Facts([(label, Text(text) if isinstance(text, str) else text)], _LABEL)


def _heading(view: View) -> Heading:
    record = view.record
    created = f"{record.created[:19]}{GLUE}UTC".replace("T", GLUE, 1)
    return Heading(record.run_name, Text(created, QUIET))


def _data(view: View) -> Facts:
    data, config = view.record.dataset, view.record.config
    where = "arrays" if data.path is None else near(data.path)
    batches = many(-(-data.rows // config.batch_size), "batch", "batches")
    said = (
        f"{where}: {many(data.rows, 'sample')} in {batches} of {min(config.batch_size, data.rows):,}, "
        f"{many(config.num_epochs, 'epoch')}, {many(view.record.iterations, 'iteration')}"
    )
    if config.scaling != "none":
        ranges = (f"{name} from {number(c.min)} to {number(c.max)}" for name, c in (("x", data.x), ("y", data.y)))
        said += f"; {', '.join(map(glued, ranges))} before {config.scaling} scaling"
    return _fact("data", said)


def _device(view: View) -> Facts:
    device, versions = view.record.device, view.record.versions
    name = glued(f"{device.devices} × {device.platform}") if device.devices > 1 else device.platform
    kind = f" ({device.kind})" if device.kind != device.platform else ""
    processes = f" in {device.processes:,} processes" if device.processes > 1 else ""
    made_by = [glued(f"{name} {versions[name]}") for name in ("jax", "numpy", "cubic") if name in versions]
    said = [f"{name}{kind}{processes}", f"matmul precision {device.matmul_precision}", *made_by]
    return _fact("device", ", ".join(said))


def _settings(view: View) -> Facts | None:
    """The settings that differ from the default, each with where it came from."""
    config, sources = view.record.config.model_dump(mode="json"), view.record.sources
    defaults = ForwardConfig().as_json()
    names = [name for name in sources if name in config and config[name] != defaults.get(name)]
    if getattr(view.record, "parameters_file", None) is not None:  # it gives these
        names = [name for name in names if name not in ("hidden_size", "initializer")]
    if not names:
        return None
    given = (f"{name}={setting(config[name])}{GLUE}({sources[name]})" for name in names)
    return _fact("settings", ", ".join(given))


def network(view: View) -> Facts:
    activation = view.record.config.activation
    z1, _, z2, _ = (list(tensor.shape) for tensor in view.record.tensors)
    steps = [
        f"x {shape([*z1[:1], 1])}",
        f"→ z1 = {EQUATIONS['z1']} {shape(z1)}",
        f"→ a1 = {EQUATIONS['a1'].format(activation=activation)}",
        f"→ z2 = {EQUATIONS['z2']} {shape(z2)}",
        "→ loss",
    ]
    return _fact("network", " ".join(map(glued, steps)))


def parameters(view: View) -> Facts:
    """How many there are and what a pass costs, as one compares networks; the table has each of them."""
    arrays = view.record.parameters
    kinds = "/".join(sorted({array.dtype for array in arrays}))
    origin = view.record.config.initializer or _origin(view.record)
    said = [f"{many(sum(array.count for array in arrays), 'parameter')} of {kinds}"]
    if all(array.bytes is not None for array in arrays):  # schema 1 does not say
        said.append(size(sum(array.bytes or 0 for array in arrays)))
    return _fact("parameters", ", ".join([*said, origin]))


def cost(view: View) -> Facts | None:
    """What one batch takes, the loss left out: operations, and the memory of what it puts out."""
    tensors = [tensor for tensor in view.record.tensors if tensor.name != "loss"]
    if any(tensor.flops is None or tensor.bytes is None for tensor in tensors):
        return None
    flops, held = sum(t.flops or 0 for t in tensors), sum(t.bytes or 0 for t in tensors)
    return _fact("a batch", f"{flops:,}{GLUE}FLOPs, {size(held)} of activations")


def _origin(record: Record) -> str:
    file = record.parameters_file
    if file is None or file.path is None:
        return "from arrays"
    cast = f" ({file.dtype})" if file.dtype != "float32" else ""
    return f"from {near(file.path)}{cast}"


def loss(view: View) -> Facts | Grid:
    """The loss beside what it is compared with, in its units; with bars where there is room."""
    record, context = view.record, view.record.context
    baselines = (("predicting the mean", context.target_variance), ("the true cubic", context.noise_floor))
    held = [(name, value) for name, value in baselines if value is not None and math.isfinite(value)]
    same = repr(record.loss_in_data_units) == repr(record.loss)  # NaN too
    as_read = [] if same else [("in the data's units", record.loss_in_data_units)]
    fit = r_squared(context.r_squared)
    if view.width < _ROOM:
        said = [*(f"{name} {number(value)}" for name, value in (*as_read, *held)), f"R² {fit}"]
        text = Text.assemble((number(record.loss), "bold"), f"{GLUE}· ")
        return _fact("loss", text.append(f"{GLUE}· ".join(map(glued, said))))
    figures = [("of the network", record.loss), *held]
    largest = max((value for _, value in figures if math.isfinite(value)), default=0.0) or 1.0
    bars = {name: "█" * round(value / largest * _BAR) for name, value in figures if math.isfinite(value)}
    first, *rest = [(name, number(value), bars.get(name, "")) for name, value in (*figures[:1], *as_read, *figures[1:])]
    rows: list[tuple[str | Text, ...]] = [(first[0], Text(first[1], "bold"), first[2]), *rest, ("R²", fit, "")]
    return Grid("", [Column("loss", False), Column(""), Column(" ", False, True)], rows)


def _batches(view: View) -> Facts | None:
    """The losses of the first epoch's batches as a line, and where the worst is."""
    losses = view.losses
    if losses is None or not len(losses):
        return None
    some, each = buckets(losses, max(10, min(view.width - _LABEL, 100)))
    text = Text(f"{sparkline(some)} {losses_in_words(losses)}".rstrip())
    if each > 1:
        text.append(f"; one bar = the largest of {each:,}{GLUE}batches")
    if lost := np.count_nonzero(~np.isfinite(losses)):
        text.append(f"; {lost:,} not finite", BAD)
    return _fact("batches", text)


def losses_in_words(losses: "Float32") -> str:
    """Return the range of the losses `[K]` of batches, those that are finite, and which is the worst."""
    finite = np.flatnonzero(np.isfinite(losses))
    if not finite.size:
        return ""
    worst = int(finite[np.argmax(losses[finite])])
    mean = float(losses[finite].mean(dtype=np.float64))
    said = f"from {number(shortest(losses[finite].min()))} to {number(shortest(losses[worst]))}"
    if len(losses) == 1 or mean <= 0:
        return said
    times = f"{number(float(losses[worst]) / mean)}{GLUE}times the mean"
    where = glued(f"--epoch 1 --batch {worst + 1}")
    return f"{said}; the worst is batch{GLUE}{worst + 1:,}, {times} ({where} shows it)"


def epochs(view: View) -> Facts | Grid:
    """Return that all epochs are identical, or the table of those that differ, of many the first and the last."""
    epochs = view.record.epochs
    if len({repr(epoch.loss) for epoch in epochs}) <= 1:
        all_ = f"all {len(epochs):,}" if len(epochs) > 2 else "both"
        return _fact("epochs", f"{all_} epochs identical" if len(epochs) > 1 else "1")
    shown = epochs if len(epochs) <= _MANY else [*epochs[: _MANY // 2], *epochs[-_MANY // 2 :]]
    # In full: they differ, be it in the last digit.
    rows = [(f"{epoch.epoch:,}", f"{epoch.loss:,}", duration(epoch.seconds)) for epoch in shown]
    note = f"{len(epochs) - _MANY:,} epochs in the middle are left out" if len(epochs) > _MANY else ""
    return Grid("epochs", [Column("epoch"), Column("loss"), Column("time")], rows, note=note)


def _verification(view: View) -> Facts:
    check = view.record.verification
    if check is None:
        return _fact("verified", Text("no (--no-verify)", WARNING))
    text = Text.assemble(("yes", GOOD) if check.passed else ("NO", BAD))
    text.append(
        f", {many(check.batches, 'batch', 'batches')} against {check.reference}: largest relative error "
        f"{check.max_relative_error:.1e} ({check.tolerance:.1e}{GLUE}allowed)"
    )
    if not check.deterministic:
        text.append("; the epochs differ", BAD)
    return _fact("verified", text)


def _timing(view: View) -> Facts:
    timing = view.record.timing
    rate = f"{number(timing.samples_per_second)}{GLUE}samples/s"
    compiled = f"compiled in {duration(timing.compile_seconds)}"
    return _fact("speed", f"{duration(timing.epoch_seconds)} an epoch, {rate}; {compiled}")


def gradients(view: View) -> Grid | None:
    """Return the table of the gradients, with the largest learning rate below it; None where none were measured."""
    gradients = view.record.gradients
    if gradients is None:
        return None
    columns = [Column("gradient", False), Column("shape", False)]
    columns += map(Column, ("norm", "min", "max", "step / parameter"))
    rows = [
        (f"∂loss/∂{SYMBOLS.get(p.name, p.name)}", shape(p.shape), *map(number, (p.norm, p.min, p.max, p.step_ratio)))
        for p in gradients.parameters
    ]
    rate = number(gradients.largest_learning_rate)
    note = f"The largest learning rate at which a step does not raise the loss is {rate}."
    return Grid("gradients", columns, rows, ("min", "max", "shape"), note)


def _findings(view: View) -> Bullets | None:
    """What was found, the worst first; the title counts the levels, which colours show beside it."""
    found = by_level(view.record.findings)
    counts = {level: sum(finding.level == level for finding in found) for level in _LEVELS}
    said = ", ".join(many(count, level) for level, count in counts.items() if count)
    items = [Bullet(finding.id, _join(finding.text), finding.level) for finding in found]
    return Bullets("what the numbers say" + (f" ({said})" if said else ""), items) if items else None


def by_level(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings, the worst first; those of a level that is not known stand last."""
    return sorted(findings, key=lambda f: _LEVELS.index(f.level) if f.level in _LEVELS else len(_LEVELS))


_LEVELS = ("error", "warning", "note")


def _join(text: str) -> str:
    """Join what belongs together: `batch 7`, and both ends of an arrow."""
    return re.sub(r"\b(epoch|batch|row|layer) (?=\d)", rf"\1{GLUE}", text).replace(" → ", f"{GLUE}→{GLUE}")


Section = Callable[[View], Block | None]
_SECTIONS: tuple[Section, ...] = (
    _heading,
    _data,
    _device,
    _settings,
    network,
    parameters,
    cost,
    lambda view: table(view.record, view.width),
    lambda view: picture(view.record, view.width),
    loss,
    _batches,
    epochs,
    _verification,
    _timing,
    gradients,
    _findings,
)
