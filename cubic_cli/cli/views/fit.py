"""The fit on the screen: samples of the run, the network's answers there and, for data that follow it, the cubic."""

from typing import Any, NamedTuple

import numpy as np
from rich.cells import cell_len
from rich.text import Text

from cubic_cli.cli.encoding import legible
from cubic_cli.cli.views.blocks import QUIET, Picture
from cubic_cli.cli.views.canvas import WIDE, Layer, braille, letters, line, points
from cubic_cli.cli.views.format import number
from cubic_cli.cli.views.listing import shorten
from cubic_cli.data.problem import cubic
from cubic_cli.errors import printable
from cubic_cli.float32 import Float64
from cubic_cli.runs.record import Record

HEIGHT = 10  # lines
_NARROWEST, _WIDEST = 20, 72  # cells of the picture
_LONGEST_NAME = 12


class _Series(NamedTuple):
    """How something is drawn: a colour of the terminal's own, which suits its background, and a letter."""

    style: str
    letter: str


# The first is drawn over the others. Colour says nothing alone: at the right stand their names.
_NETWORK, _CUBIC, _DATA = _Series("bold magenta", "#"), _Series("green", "~"), _Series("", ".")


def picture(record: Record, width: int) -> Picture | None:
    """Return the fit for a terminal of `width` cells; None where there is no room, or where the record has no samples.

    Everything is in the units of the data.
    """
    rows = np.array([(s.x, s.y, s.z2) for s in record.samples or ()], np.float64).reshape(-1, 3)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not len(rows):
        return None
    x, y, z2 = rows[np.argsort(rows[:, 0], kind="stable")].T
    across, up = (x[0], x[-1]), (min(y.min(), z2.min()), max(y.max(), z2.max()))
    over, of = (shorten(printable(name), _LONGEST_NAME) for name in (record.config.x_column, record.config.y_column))
    ends = {_NETWORK: z2[-1], _CUBIC: cubic(x[-1:])[0], _DATA: y[-1]}
    names = {_NETWORK: "network", _CUBIC: "true cubic", _DATA: of}
    if record.context.noise_floor is None:
        del names[_CUBIC]
    last = {series: _share(ends[series], *up) for series in names}
    labels = [_labels(names, last, with_letters) for with_letters in (False, True)]
    scale = [number(up[1]), *[""] * (HEIGHT - 2), number(up[0])]
    margin = max(map(cell_len, scale))
    wide = min(_WIDEST, width - margin - 3 - max(_width(label) for lines in labels for label in lines))
    if wide < _NARROWEST:
        return None

    where = _share(x, *across)
    xs = np.linspace(*across, 2 * WIDE * wide)
    dots = {
        _NETWORK: line(where, _share(z2, *up), HEIGHT, wide),
        _CUBIC: line(_share(xs, *across), _share(cubic(xs), *up), HEIGHT, wide),
        _DATA: points(where, _share(y, *up), HEIGHT, wide),
    }
    layers = [Layer(dots[series], series.style, series.letter) for series in names]
    low, high = (number(end) for end in across)
    below = Text(f"{'':{margin + 2}}{low}{over:^{max(len(over) + 2, wide - len(low) - len(high))}}{high}", QUIET)
    pictures = [
        [
            *(
                Text.assemble((f"{value:>{margin}} │", QUIET), drawn, " ", label)
                for value, drawn, label in zip(scale, lines, beside, strict=True)
            ),
            below,
        ]
        for lines, beside in zip((braille(layers), letters(layers)), labels, strict=True)
    ]
    some = f"{len(rows):,} of {record.dataset.rows:,}" if len(rows) < record.dataset.rows else f"all {len(rows):,}"
    return Picture(f"{of} and the network's answer over {over}, {some} samples", *pictures)


def _labels(names: dict[_Series, str], ends: dict[_Series, Float64], with_letters: bool) -> list[Text]:
    """Return what stands at the right of each line: the names of what ends there, in its style."""
    labels = [Text() for _ in range(HEIGHT)]
    for series, name in names.items():
        label = labels[min(HEIGHT - 1, int((1.0 - ends[series]) * HEIGHT))]
        label.append(", " if label else "").append(f"{series.letter} {name}" if with_letters else name, series.style)
    return labels


def _width(label: Text) -> int:
    """Return how many cells a label takes in any encoding."""
    return cell_len(legible(label.plain, "ascii"))


def _share(values: Any, low: float, high: float) -> Float64:
    """Return where values lie between two ends, 0 to 1; in the middle where these are one. It does not overflow."""
    room = high / 2 - low / 2
    if not room:
        return np.full(np.shape(values), 0.5)
    share: Float64 = np.clip((values / 2 - low / 2) / room, 0.0, 1.0)
    return share
