"""The fit on the screen: samples of the run, the network's answers there and, for data that follow it, the cubic."""

from typing import Any, NamedTuple

import numpy as np
from rich.cells import cell_len
from rich.text import Text

from cubic_cli.cli.encoding import legible
from cubic_cli.cli.views.blocks import QUIET, Picture
from cubic_cli.cli.views.canvas import WIDE, Layer, braille, letters, line, points
from cubic_cli.cli.views.format import number
from cubic_cli.data.problem import cubic
from cubic_cli.errors import printable, shorten
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
    rows = finite_samples(record)
    if not len(rows):
        return None
    in_braille, in_letters = (_draw(record, rows, width, with_letters) for with_letters in (False, True))
    if not in_braille or not in_letters:
        return None
    over, of = (shorten(printable(name), _LONGEST_NAME) for name in (record.config.x_column, record.config.y_column))
    count, all_ = len(rows), record.dataset.rows
    some = f"{count:,} of {all_:,} samples" if count < all_ else f"all {count:,} samples" if count > 1 else "the sample"
    return Picture(f"{of} and the network's answer over {over}, {some}", in_braille, in_letters)


def finite_samples(record: Record, largest: float = np.inf) -> Float64:
    """Return x, y and z2 of the record's samples, `[n, 3]`, in the order of x; all three are below `largest`."""
    rows = np.array([(s.x, s.y, s.z2) for s in record.samples or ()], np.float64).reshape(-1, 3)
    rows = rows[(np.abs(rows) < largest).all(axis=1)]
    return rows[np.argsort(rows[:, 0], kind="stable")]


def _draw(record: Record, rows: Float64, width: int, with_letters: bool) -> list[Text]:
    """Return the lines; none where there is no room. `rows` are x, y and z2 in the order of x."""
    x, y, z2 = rows.T
    left, right, low, high = x[0], x[-1], min(y.min(), z2.min()), max(y.max(), z2.max())
    encoding = "ascii" if with_letters else None  # the poorest that letters are for
    over, of = (
        shorten(legible(name, encoding), _LONGEST_NAME) for name in (record.config.x_column, record.config.y_column)
    )
    names = {_NETWORK: "network", _CUBIC: "true cubic", _DATA: of}
    if record.context.noise_floor is None:
        del names[_CUBIC]
    ends = {_NETWORK: z2[-1], _CUBIC: cubic(x[-1:])[0], _DATA: y[-1]}
    beside = [Text() for _ in range(HEIGHT)]
    for series, name in names.items():
        label = beside[min(HEIGHT - 1, int((1.0 - _share(ends[series], low, high)) * HEIGHT))]
        label.append(", " if label else "").append(f"{series.letter} {name}" if with_letters else name, series.style)
    scale = [number(high), *[""] * (HEIGHT - 2), number(low)]
    margin = max(map(cell_len, scale))
    wide = min(_WIDEST, width - margin - 3 - max(cell_len(legible(label.plain, encoding)) for label in beside))
    if wide < _NARROWEST:
        return []

    where = _share(x, left, right)
    xs = np.linspace(left, right, 2 * WIDE * wide)
    dots = {
        _NETWORK: line(where, _share(z2, low, high), HEIGHT, wide),
        _CUBIC: line(_share(xs, left, right), _share(cubic(xs), low, high), HEIGHT, wide),
        _DATA: points(where, _share(y, low, high), HEIGHT, wide),
    }
    layers = [Layer(dots[series], series.style, series.letter) for series in names]
    drawn = (letters if with_letters else braille)(layers)
    ticks = number(left), number(right)
    spare = wide - sum(map(cell_len, (*ticks, over)))
    if spare < 2:  # no room for the name, which the title has, too
        spare, over = max(1, spare + cell_len(over)), ""
    between = f"{'':{spare // 2}}{over}{'':{spare - spare // 2}}"
    return [
        *(
            Text.assemble((f"{value:>{margin}} │", QUIET), cells, " ", label)
            for value, cells, label in zip(scale, drawn, beside, strict=True)
        ),
        Text(f"{'':{margin + 2}}{ticks[0]}{between}{ticks[1]}", QUIET),
    ]


def _share(values: Any, low: float, high: float) -> Float64:
    """Return where values lie between two ends, 0 to 1; in the middle where these are one. It does not overflow."""
    room = high / 2 - low / 2
    if not room:
        return np.full(np.shape(values), 0.5)
    share: Float64 = np.clip((values / 2 - low / 2) / room, 0.0, 1.0)
    return share
