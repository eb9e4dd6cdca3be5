"""The figure of a run: the samples with the cubic and the network, the histograms, the losses. Needs matplotlib."""

import contextlib
import functools
import importlib.util
import io
import math
import os
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cubic_cli.analysis.shape import shape
from cubic_cli.cli.views.files import check_ending, write_whole
from cubic_cli.cli.views.fit import finite_samples
from cubic_cli.cli.views.format import many, number, percent
from cubic_cli.cli.views.page import LIGHT
from cubic_cli.data.problem import cubic
from cubic_cli.data.source import spread_indices
from cubic_cli.errors import CubicError, printable, shorten
from cubic_cli.float32 import TENSORS, Float32
from cubic_cli.runs import saved
from cubic_cli.runs.damage import unless_damaged
from cubic_cli.runs.record import Record
from cubic_cli.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")
_POINTS = 1000  # of samples and of batches, drawn at most
_LETTERS = 200  # of a name
_CURVE = 512  # points of the cubic
_DRAWABLE = 1e300  # matplotlib's own arithmetic overflows beyond
_BLUE, _ORANGE, _GREEN, _RED, _GREY = (LIGHT[name] for name in ("blue", "orange", "green", "red", "quiet"))
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "cubic",  # the same run, the same bytes
    "pdf.fonttype": 42,
}


def available() -> bool:
    """Return whether matplotlib can be imported."""
    return importlib.util.find_spec("matplotlib") is not None


def check_path(path: str) -> None:
    """Refuse a path in which no figure can be drawn.

    Raises:
        UsageError: it has another ending.
        CubicError: matplotlib is missing; says what to install.
    """
    check_ending(path, ENDINGS, "--plot")
    if not available():
        raise CubicError("--plot needs matplotlib; install it with `pip install matplotlib`")


def save(figure: "Figure", path: Path) -> None:
    """Draw a figure in a file, whole or not at all.

    Raises:
        CubicError: the path is a link or a folder, or cannot be written.
    """
    write_whole(path, render(figure, path.suffix.lower().removeprefix(".")), "--plot")


def panels(record: Record, losses: Float32 | None) -> dict[str, str]:
    """Return the panels of the figure by name, each an SVG of its own: a page puts them side by side, or in a column.

    Of a record that is damaged there are those whose parts are whole, and without `losses` none of them.
    """
    drawn = {}
    for name, panel in _panels(losses).items():
        size = _HALF if name in ("fit", "losses") else _THIRD
        figure = unless_damaged(_draw_alone, panel, size, record)
        if figure is not None:
            drawn[name] = render(figure, "svg").decode()
    return drawn


_HALF, _THIRD = (5.6, 3.6), (4.2, 3.0)  # inches, at the sizes of letters that suit half and a third of a page


def _draw_alone(panel: "Callable[[Axes, Record], None]", size: tuple[float, float], record: Record) -> "Figure":
    with style({"font.size": 10}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        panel(figure.add_subplot(), record)
        _fix_layout(figure)
    return figure


def _panels(losses: Float32 | None) -> dict[str, "Callable[[Axes, Record], None]"]:
    """Return what draws each panel, by name; without `losses` none draws them."""
    found: dict[str, Callable[[Axes, Record], None]] = {"fit": _draw_fit}
    if losses is not None:
        found["losses"] = functools.partial(_draw_losses, losses=losses)
    return found | {name: functools.partial(_draw_histogram, name=name) for name in TENSORS}


@contextlib.contextmanager
def style(more: Any = None) -> Iterator[None]:
    """Let matplotlib draw as it comes, whatever the user's matplotlibrc or MPLBACKEND say, and then as `STYLE` says."""
    backend = os.environ.pop("MPLBACKEND", None)  # a notebook names one that its kernel alone has
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | (more or {}))
        yield


def render(figure: "Figure", kind: str) -> bytes:
    """Return a figure as a file of a kind, `png`, `svg` or `pdf`; the same figure gives the same bytes."""
    metadata = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Creator": None}}.get(kind, {})
    stream = io.BytesIO()
    with style():
        _fix_layout(figure)
        figure.savefig(stream, format=kind, dpi=150, metadata=metadata)
    return stream.getvalue()


def draw(run: Run) -> "Figure":
    """Return the figure of a run, from its record and its history alone; it is laid out when it is drawn.

    Raises:
        RunError: a file of the run is missing or damaged.
    """
    record, losses = run.parsed, saved.first_epoch_losses(run.saved_in, run.parsed)
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 7.2), layout="constrained")
        grid = figure.add_gridspec(2, 6)
        title = "\n".join(textwrap.wrap(_plain(record.run_name), 72))
        figure.suptitle(f"{title}\n{subtitle(record)}", fontsize=10)
        places = [grid[0, :3], grid[0, 3:], *(grid[1, 2 * column : 2 * column + 2] for column in range(3))]
        for place, panel in zip(places, _panels(losses).values(), strict=True):
            panel(figure.add_subplot(place), record)
    return figure


def _fix_layout(figure: "Figure") -> None:
    """Lay the figure out once and for all: the solver's last digits are not the same every time."""
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(value, 4) for value in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


def subtitle(record: Record) -> str:
    """Return the network and its samples in a line."""
    config = record.config
    parameters = config.initializer or "parameters of a file"
    return (
        f"1 → {config.hidden_size:,} → 1, {config.activation}, {parameters}, scaling "
        f"{config.scaling}, {many(record.dataset.rows, 'sample')} in batches of {config.batch_size:,}"
    )


def _draw_fit(axes: "Axes", record: Record) -> None:
    """Draw samples of the run, what the network answers there and, for data that follow it, the cubic."""
    follows = record.context.noise_floor is not None
    names = ("samples", "the true cubic", "network") if follows else ("samples", "network")
    axes.set(
        title=f"{', '.join(names[:-1])} and the {names[-1]}",
        xlabel=_plain(record.config.x_column),
        ylabel=_plain(record.config.y_column),
    )
    rows = finite_samples(record, _DRAWABLE)
    x, y, z2 = rows[spread_indices(len(rows), _POINTS)].T
    if not x.size:
        _note(axes, "the record has no samples" if record.samples is None else "no sample is finite")
        return
    axes.plot(x, y, ".", color=_GREY, markersize=3, alpha=0.6, label="samples")
    if follows:
        xs = np.linspace(x.min(), x.max(), _CURVE)
        with np.errstate(all="ignore"):
            axes.plot(xs, cubic(xs), "--", color=_GREEN, label="the true cubic", linewidth=1.5)
    # A line between the samples where they are many enough to show its course, their marks where not.
    axes.plot(x, z2, "-" if x.size > 20 else "o-", color=_RED, label="the network", linewidth=1.5, ms=3)
    axes.yaxis.set_major_formatter(_tick)
    axes.legend(loc="upper left")


def _draw_losses(axes: "Axes", record: Record, losses: Float32) -> None:
    """Draw the loss of each batch of an epoch as a point, of many batches an even spread, and name the worst."""
    axes.set(title="loss of each batch", xlabel="batch", ylabel="loss")
    finite = np.flatnonzero(np.isfinite(losses))
    if not finite.size:
        _note(axes, "no batch has a finite loss")
        return
    worst = int(finite[np.argmax(losses[finite])])
    shown = np.union1d(finite[spread_indices(finite.size, _POINTS)], [worst])
    label = "batches" if shown.size == finite.size else f"{shown.size:,} of {finite.size:,} batches, evenly spread"
    axes.plot(shown + 1, losses[shown].astype(np.float64), ".", color=_BLUE, markersize=4, label=label)
    if math.isfinite(record.loss):
        axes.axhline(record.loss, color=_ORANGE, linewidth=1.2, linestyle="--", label="the epoch's mean")
    axes.plot(
        worst + 1, float(losses[worst]), "o", color=_RED, fillstyle="none", label=f"the worst, batch {worst + 1:,}"
    )
    axes.yaxis.set_major_formatter(_tick)
    smallest, largest = float(losses[finite].min()), float(losses[finite].max())
    if smallest > 0 and largest / smallest > 100:
        axes.set_yscale("log")
    if (bad := np.flatnonzero(~np.isfinite(losses))).size:
        marked = bad[spread_indices(bad.size, _POINTS)] + 1
        label = f"not finite ({bad.size:,})"
        axes.plot(
            marked, np.full(marked.size, 0.98), "x", color=_RED, transform=axes.get_xaxis_transform(), label=label
        )
    low_end, high_end = axes.get_ylim()
    room = high_end / low_end if axes.get_yscale() == "log" else high_end - low_end
    axes.set_ylim(top=high_end * room**0.3 if axes.get_yscale() == "log" else high_end + 0.3 * room)  # the legend's
    axes.legend(loc="upper right", ncols=2)


def _draw_histogram(axes: "Axes", record: Record, name: str) -> None:
    """Draw how the values of one tensor are distributed, on the axis that shows their shape; zeros are said."""
    tensor = record.tensor(name)
    axes.set(title=_plain(tensor.label), xlabel=tensor.name)
    found = shape(tensor)
    if found is None:
        only_zeros = tensor.zeros > 0 and tensor.nonfinite == 0
        _note(
            axes,
            "all values are zero" if only_zeros else "no value is finite" if tensor.min is None else "no histogram",
        )
        return
    for bins in found.bins:
        axes.stairs(bins.heights, bins.edges, fill=True, color=_BLUE, alpha=0.8)
    if found.logarithmic:
        axes.set_xscale("symlog", linthresh=found.smallest, linscale=0.3)
        axes.set(xlabel=f"{tensor.name} (logarithmic)", ylabel="share per decade")
        if len(found.bins) > 1:  # near zero the powers of both signs are close to each other
            axes.tick_params(axis="x", labelsize=8, rotation=45)
    else:
        axes.set_ylabel("share of the values")
    axes.locator_params(axis="y", nbins=6)  # whatever the size: the layout, which measures them, changes it
    axes.set_ylim(top=1.2 * max(float(bins.heights.max()) for bins in found.bins))
    said = [(f"zero: {percent(tensor.zeros)}", "black")] if tensor.zeros > 0 else []
    said += [(f"not finite: {tensor.nonfinite:,}", _RED)] if tensor.nonfinite else []
    for line, (text, colour) in enumerate(said):
        axes.text(0.98, 0.97 - 0.08 * line, text, transform=axes.transAxes, ha="right", va="top", color=colour)


def _plain(text: str) -> str:
    """Return foreign text as matplotlib shows it: without control, and with dollars that begin no formula."""
    return printable(shorten(text, _LETTERS)).replace("$", r"\$")


def _tick(value: float, _: float) -> str:
    """Return a tick of a linear axis as numbers stand on a screen; matplotlib would take a power of ten apart."""
    return number(value)


def _note(axes: "Axes", text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=_GREY)
    axes.set(xticks=[], yticks=[])
