"""How the tensors grow with the width, drawn: a panel a tensor, both axes logarithmic, a colour a group of runs.

The same runs give the same bytes.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cubic_cli.analysis.growth import GROUP, group_of, in_words, tell_apart
from cubic_cli.cli.views.format import power_of_h
from cubic_cli.cli.views.page import LIGHT
from cubic_cli.cli.views.plot import style
from cubic_cli.float32 import TENSORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A group has a colour and a marker of its own: nothing is told by colour alone.
_COLOURS = tuple(LIGHT[name] for name in ("blue", "red", "green", "purple", "orange", "ink"))
_MARKERS = "osD^vP*"
_TICKS = 8  # of the width that can be told apart


def draw(growth: Sequence[dict[str, Any]]) -> "Figure":
    """Return the figure of what `growth` returned: the spreads of each tensor, and the lines of the exponents."""
    groups = list(dict.fromkeys(group_of(entry) for entry in growth))
    varying, shared = tell_apart(groups)
    with style({"axes.grid": True, "grid.alpha": 0.3}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 2.8 + 0.2 * len(groups)), layout="constrained")
        figure.suptitle("Standard deviation of each tensor over the width H" + (f" ({shared})" if shared else ""))
        panels = figure.subplots(1, len(TENSORS), sharey=True)
        for axes, tensor in zip(panels, TENSORS, strict=True):
            entries = {group_of(entry): entry for entry in growth if entry["tensor"] == tensor}
            for index, group in enumerate(groups):
                label = in_words(group, varying or range(len(GROUP)))
                _draw_group(axes, entries[group], label, index)
            _finish(axes, tensor, growth)
        panels[0].set_ylabel("standard deviation")
        panels[0].set_ylim(*_range([point["std"] for entry in growth for point in entry["points"]]))
    return figure


def _range(sizes: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the shared axis: never less than a decade, or rounding would look like growth."""
    low, high = min(sizes, default=1.0), max(sizes, default=1.0)
    middle = math.sqrt(low) * math.sqrt(high)
    return min(low / 1.2, middle / math.sqrt(10)), max(high * 1.2, middle * math.sqrt(10))


def _draw_group(axes: "Axes", entry: dict[str, Any], label: str, index: int) -> None:
    """Draw the runs of one group, and the least-squares line through them."""
    colour: Any = {"color": _COLOURS[index % len(_COLOURS)]}
    widths = [point["hidden_size"] for point in entry["points"]]
    sizes = [point["std"] for point in entry["points"]]
    slope = entry["exponent"]
    marker = _MARKERS[index % len(_MARKERS)]
    axes.plot(widths, sizes, marker, label=f"{label}: {power_of_h(slope, 'no power')}", markersize=4, **colour)
    if slope is not None:
        middle = [sum(map(math.log, values)) / len(values) for values in (widths, sizes)]
        ends = [min(widths), max(widths)]
        axes.plot(ends, [math.exp(middle[1] + slope * (math.log(h) - middle[0])) for h in ends], "-", lw=1, **colour)


def _finish(axes: "Axes", tensor: str, growth: Sequence[dict[str, Any]]) -> None:
    """Set the scales, the ticks at the widths, the title and the legend of one panel."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    widths = sorted({point["hidden_size"] for entry in growth for point in entry["points"]})
    if 0 < len(widths) <= _TICKS:
        axes.xaxis.set_major_locator(FixedLocator(widths))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(widths, [f"{width:g}" for width in widths])
    axes.set_title(tensor)
    axes.set_xlabel("H")
    if growth:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False, fontsize=8)
