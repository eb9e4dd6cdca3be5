"""The figure of a run: the samples with the cubic and the network, the histograms, the losses. Needs matplotlib."""

import importlib.util
import io
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cubic_cli.cli.views.files import write_whole
from cubic_cli.data.problem import Float32, Float64, cubic
from cubic_cli.data.read import read_chunks
from cubic_cli.data.scaling import choose_scale
from cubic_cli.data.source import Sha256, spread_indices
from cubic_cli.errors import CubicError, DatasetError, UsageError
from cubic_cli.parameters import from_names
from cubic_cli.reference.network import forward
from cubic_cli.runs import saved
from cubic_cli.runs.record import Record, Tensor
from cubic_cli.runs.store import Run, near

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")
_SAMPLES = 2000  # drawn at most
_BATCHES = 1000  # drawn at most; more are drawn as the band between the smallest and the largest
_CURVE = 512  # points of a curve
# Okabe and Ito, "Color universal design" (2008): they differ for all kinds of colour vision.
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
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


def check_path(path: str) -> Path:
    """Return the path if a figure can be drawn there.

    Raises:
        UsageError: it has another ending; names those that are accepted.
        CubicError: matplotlib is missing; says what to install.
    """
    if Path(path).suffix.lower() not in ENDINGS or "\0" in path:
        raise UsageError(f"--plot: found {path!r}; expected a path that ends in {', '.join(ENDINGS)}")
    if not available():
        raise CubicError("--plot needs matplotlib; install it with `pip install matplotlib`")
    return Path(path)


def save(run: Run, path: Path) -> None:
    """Draw the run in a file, whole or not at all.

    Raises:
        CubicError: the path is a link or a folder, or cannot be written.
        RunError: a file of the run is missing or damaged.
    """
    write_whole(path, render(draw(run), path.suffix.lower().removeprefix(".")), "--plot")


def svg(run: Run) -> str:
    """Return the figure as an `<svg>` element, for a page.

    Raises:
        RunError: a file of the run is missing or damaged.
    """
    text = render(draw(run), "svg").decode()
    return text[text.index("<svg") :]


def render(figure: "Figure", kind: str) -> bytes:
    """Return a figure as a file of a kind, `png`, `svg` or `pdf`; the same figure gives the same bytes."""
    import matplotlib

    metadata = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Creator": None}}.get(kind, {})
    stream = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format=kind, dpi=150, metadata=metadata)
    return stream.getvalue()


def draw(run: Run) -> "Figure":
    """Return the figure of a run.

    Raises:
        RunError: a file of the run is missing or damaged.
    """
    import matplotlib
    from matplotlib.figure import Figure

    record = run.parsed
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 7.2), layout="constrained")
        grid = figure.add_gridspec(2, 6)
        name = "\n".join(textwrap.wrap(record.run_name, 72))
        figure.suptitle(f"{name}\n{_subtitle(record)}", fontsize=10)
        _draw_fit(figure.add_subplot(grid[0, :3]), record, run.parameters)
        _draw_losses(figure.add_subplot(grid[0, 3:]), record, saved.first_epoch_losses(run.saved_in, record))
        for place, name in enumerate(("z1", "a1", "z2")):
            _draw_histogram(figure.add_subplot(grid[1, 2 * place : 2 * place + 2]), record.tensor(name))
        _fix_layout(figure)
    return figure


def _fix_layout(figure: "Figure") -> None:
    """Lay the figure out once and for all: the solver's last digits are not the same every time."""
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(value, 4) for value in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


def _subtitle(record: Record) -> str:
    config = record.config
    return (
        f"1 → {config.hidden_size} → 1, {config.activation}, {config.initializer or 'parameters of a file'}, scaling "
        f"{config.scaling}, {record.dataset.rows:,} samples in batches of {config.batch_size}"
    )


def _draw_fit(axes: "Axes", record: Record, parameters: dict[str, Float32]) -> None:
    """Draw the samples, the cubic that they come from, and the network, all in the units of the data."""
    low, high = record.dataset.x.min, record.dataset.x.max
    axes.set(title="the samples, the cubic and the network", xlabel="x", ylabel="y")
    if not (math.isfinite(low) and math.isfinite(high)):
        _note(axes, "no x is finite")
        return
    try:
        x, y = read_spread(record)
        axes.plot(x, y, ".", color=_GREY, markersize=2.5, alpha=0.5, label="samples", rasterized=x.size > _SAMPLES)
    except DatasetError as error:
        axes.text(0.5, 0.02, _wrap(str(error)), transform=axes.transAxes, ha="center", fontsize=7, color=_GREY)
    margin = 0.02 * (high - low) or 1.0
    xs = np.linspace(low - margin, high + margin, _CURVE)
    with np.errstate(all="ignore"):
        axes.plot(*_finite(xs, cubic(xs)), color=_GREEN, label="the true cubic", linewidth=1.5)
        axes.plot(*_finite(xs, predict(record, parameters, xs)), color=_RED, label="the network", linewidth=1.5)
    axes.legend(loc="upper left")


def read_spread(record: Record) -> tuple[Float32, Float32]:
    """Return at most `_SAMPLES` finite samples of the run, evenly spread.

    Raises:
        DatasetError: the dataset is missing, or is not what the run has seen.
    """
    data = record.dataset
    if data.path is None:
        raise DatasetError("the samples came from arrays: they are not shown")
    digest, seen, kept = Sha256(), 0, []
    stride = -(-data.rows // _SAMPLES)
    names = record.config.x_column, record.config.y_column
    for x, y in read_chunks(near(data.path), data.rows, names):
        digest.add(x, y)
        first = -seen % stride
        kept.append((x[first::stride], y[first::stride]))
        seen += len(x)
    if data.sha256 is not None and digest.hexdigest() != data.sha256:
        raise DatasetError(f"{near(data.path)} has changed since the run: its samples are not shown")
    columns = np.stack([np.concatenate([chunk[i] for chunk in kept]) for i in range(2)])
    x, y = columns[:, np.isfinite(columns).all(axis=0)]
    return x, y


def predict(record: Record, parameters: dict[str, Float32], x: Float64) -> Float64:
    """Return what the network of a run answers at `x [n]`, both in the units of the data, in float64."""
    data, kind = record.dataset, record.config.scaling
    scale_x, scale_y = (choose_scale(kind, column) for column in (data.x, data.y))
    scaled = (x - scale_x.shift) / scale_x.factor if scale_x.factor else np.zeros_like(x)
    _, _, z2 = forward(from_names(parameters), scaled, record.config.activation)
    return z2 * scale_y.factor + scale_y.shift


def _finite(x: Float64, y: Float64) -> tuple[Float64, Float64]:
    shown = np.abs(y) < 1e300  # matplotlib's own arithmetic overflows beyond
    return x[shown], y[shown]


def _draw_losses(axes: "Axes", record: Record, losses: Float32) -> None:
    """Draw the loss of every batch of an epoch; the band of many; what is not finite at the top."""
    axes.set(title="the loss over the batches of an epoch", xlabel="batch", ylabel="loss")
    finite = np.isfinite(losses)
    if not finite.any():
        _note(axes, "no batch has a finite loss")
        return
    values = losses.astype(np.float64)
    each = -(-values.size // _BATCHES)
    starts = np.arange(0, values.size, each)
    low = np.minimum.reduceat(np.where(finite, values, np.inf), starts)
    high = np.maximum.reduceat(np.where(finite, values, -np.inf), starts)
    count = np.add.reduceat(finite.astype(int), starts)
    some = count > 0
    with np.errstate(invalid="ignore"):
        mean = np.add.reduceat(np.where(finite, values, 0.0), starts) / np.maximum(count, 1)
    batches = starts + 1 + (np.minimum(each, values.size - starts) - 1) / 2
    if each > 1:
        axes.fill_between(
            batches[some], low[some], high[some], color=_BLUE, alpha=0.3, linewidth=0,
            label=f"smallest to largest of {each:,} batches",
        )  # fmt: skip
        axes.plot(batches[some], mean[some], color=_BLUE, linewidth=1, label="their mean")
    else:
        axes.plot(batches[some], mean[some], color=_BLUE, linewidth=1, marker="." if some.sum() < 200 else "")
    epoch_loss = record.loss
    if math.isfinite(epoch_loss):
        axes.axhline(epoch_loss, color=_ORANGE, linewidth=1, linestyle="--", label="the loss of the epoch")
    smallest, largest = float(values[finite].min()), float(values[finite].max())
    if smallest > 0 and largest / smallest > 100:
        axes.set_yscale("log")
    if not finite.all():
        bad = np.flatnonzero(~finite)
        spread = bad[spread_indices(bad.size, _BATCHES)] + 1
        label = f"not finite ({bad.size:,})"
        axes.plot(
            spread, np.full(spread.size, 0.98), "x", color=_RED, transform=axes.get_xaxis_transform(), label=label
        )
    low_end, high_end = axes.get_ylim()
    room = high_end / low_end if axes.get_yscale() == "log" else high_end - low_end
    axes.set_ylim(top=high_end * room**0.25 if axes.get_yscale() == "log" else high_end + 0.25 * room)  # the legend's
    axes.legend(loc="upper right", ncols=2)


def _draw_histogram(axes: "Axes", tensor: Tensor) -> None:
    """Draw how the values of one tensor are distributed, over a symmetric logarithm."""
    axes.set(title=tensor.label, xlabel=tensor.name, ylabel="share of the values")
    histogram = tensor.histogram
    if histogram is None:
        _note(axes, "no value is finite" if tensor.min is None else "the record has no histogram")
        return
    edges, counts = np.array(histogram.edges), np.array(histogram.counts, float)
    share = counts / counts.sum()
    axes.stairs(share, edges, fill=True, color=_BLUE, alpha=0.8)
    largest = float(np.abs(edges).max())
    axes.set_xscale("symlog", linthresh=10.0 ** math.floor(math.log10(largest)) / 100, linscale=0.5)
    axes.tick_params(axis="x", labelsize=7, rotation=45)
    if tensor.zeros > 0:
        axes.text(0.98, 0.95, f"{tensor.zeros:.1%} are zero", transform=axes.transAxes, ha="right", va="top")
    if tensor.nonfinite:
        text = f"{tensor.nonfinite:,} are not finite"
        axes.text(0.98, 0.87, text, transform=axes.transAxes, ha="right", va="top", color=_RED)


def _note(axes: "Axes", text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=_GREY)
    axes.set(xticks=[], yticks=[])


def _wrap(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 90))
