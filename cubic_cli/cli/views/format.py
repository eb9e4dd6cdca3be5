"""Numbers as text, and the small pictures of them that fit in a line: bars on a common axis, sparklines, shades."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cubic_cli.errors import five_digits

GLUE = "\u00a0"  # joins what must not be parted at the end of a line; printed as a space
BLOCKS = "▁▂▃▄▅▆▇█"
NO_NUMBER = "×"  # in a sparkline: a batch, or a bucket of them, whose loss is not finite


def glued(text: str) -> str:
    """Return text that no end of a line parts."""
    return text.replace(" ", GLUE)


def number(value: float | None) -> str:
    """Return a number for a screen: five significant digits, grouped; `–` is none."""
    if value is None:
        return "–"
    value = float(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return five_digits(value)


def three_decimals(value: float | None) -> str:
    """Return a number as the original program prints it, with an exponent where that says nothing or is too long."""
    if value is None or not math.isfinite(value) or (value and not 1e-3 <= abs(value) < 1e9):
        return number(value)
    return f"{float(value) + 0.0:.3f}"


def r_squared(value: float | None) -> str:
    """Return R², of which small parts say nothing: three decimals, and an exponent where a number has one."""
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{round(value, 3) + 0.0:,.3f}" if abs(value) < 1e9 else f"{value:.3e}"


def mean(value: float | None, low: float | None, high: float | None) -> str:
    """Return the mean of values from `low` to `high`; one below their rounding is 0."""
    if (
        value is not None
        and low is not None
        and high is not None
        and abs(value) <= _ROUNDING * max(abs(low), abs(high))
    ):
        return "0"
    return number(value)


_ROUNDING = 2.0**-24  # of a float32, relatively


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g}{GLUE}{unit}"
    return f"{seconds / 1e-6:.3g}{GLUE}µs"


def clock(when: datetime, now: datetime) -> str:
    """Return a moment as a person here would say it: the time of today, or the date and time.

    The first and the last year stand for a time that is not known: a damaged record's, which no other zone may hold.
    """
    if when.year in (datetime.min.year, datetime.max.year):
        return "an unknown time"
    here = when.astimezone()
    return f"{here:%H:%M}" if here.date() == now.astimezone().date() else f"{here:%Y-%m-%d %H:%M}"


def size(count: int) -> str:
    """Return a number of bytes in the unit that suits it."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:,.3g}{GLUE}{unit}" if unit != "bytes" else f"{count:,}{GLUE}{unit}"


def many(count: int, one: str, more: str = "") -> str:
    """Return a count with the name of what is counted."""
    return f"{count:,}{GLUE}{one if count == 1 else more or one + 's'}"


def setting(value: Any) -> str:
    """Return the value of a setting, as a flag takes it."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def power_of_h(exponent: float | None, none: str) -> str:
    """Return a power of the width, or what is said where there is `none`."""
    return none if exponent is None else f"H^{round(exponent, 2) + 0.0:.2f}"


def shape(sizes: Sequence[int]) -> str:
    """Return a shape, which no end of a line parts."""
    return f"[{f',{GLUE}'.join(str(n) for n in sizes)}]"


def percent(share: float) -> str:
    """Return a share; what is neither none nor all never reads 0.0% or 100.0%."""
    text = f"{share:.1%}"
    if (text == "0.0%" and share > 0) or (text == "100.0%" and share < 1):
        return "<0.1%" if share < 0.5 else ">99.9%"
    return text


@dataclass(frozen=True)
class Axis:
    """A symmetric-log axis from −`limit` to `limit` over `width` cells, an odd number: linear within ±`linear`."""

    limit: float
    linear: float
    width: int

    def cell(self, value: float) -> int:
        """Return the cell of a value, 0 to `width` − 1; zero has the one in the middle."""
        share = math.asinh(value / self.linear) / math.asinh(self.limit / self.linear)
        return round((self.width - 1) / 2 * (1 + max(-1.0, min(1.0, share))))

    @property
    def edges(self) -> NDArray[np.float64]:
        """The ends of the cells, `[width + 1]`."""
        half = (self.width - 1) / 2
        places = (np.arange(self.width + 1) - 0.5 - half) / half
        with np.errstate(over="ignore"):
            edges: NDArray[np.float64] = self.linear * np.sinh(places * math.asinh(self.limit / self.linear))
        return edges

    def header(self) -> str:
        """Return the ends and the zero of the axis, as the title of its column."""
        end = (
            f"{self.limit:g}"
            if 1e-2 <= self.limit <= 100
            else f"{self.limit:.0e}".replace("e+0", "e").replace("e+", "e")
        )
        half = (self.width - 1) // 2
        return f"{'−' + end:<{half}}0{end:>{half}}"


def common_axis(magnitudes: Iterable[float], width: int) -> Axis:
    """Return the axis on which values of all these `magnitudes` can be seen; its ends are powers of ten."""
    largest = max((m for m in magnitudes if math.isfinite(m) and m > 0), default=1.0)
    exponent = math.ceil(math.log10(largest) - 1e-9)
    limit = 10.0 ** min(exponent, 308)
    return Axis(limit, min(1.0, limit / 10), width - 1 + width % 2)


def bar(axis: Axis, low: float | None, high: float | None, share: NDArray[np.float64] | None) -> str:
    """Return a histogram on the axis, a height for the `share` of the values in each cell; without, the range alone.

    The ends are values that are there, though the even spread that a histogram comes from may have missed them.
    """
    cells = [" "] * axis.width
    cells[axis.width // 2] = "┊"
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "".join(cells)
    if share is None:
        for cell in range(axis.cell(low), axis.cell(high) + 1):
            cells[cell] = "━"
        return "".join(cells)
    for cell in {axis.cell(end) for end in (low, high) if end}:
        cells[cell] = BLOCKS[0]
    for cell in np.flatnonzero(share).tolist():
        cells[cell] = BLOCKS[max(0, math.ceil(share[cell] / share.max() * 8) - 1)]
    return "".join(cells)


def buckets(values: NDArray[Any], width: int) -> tuple[NDArray[np.float64], int]:
    """Return the largest of each bucket of consecutive values, at most `width` buckets of one size, and the size.

    A bucket that holds a value which is not finite is NaN.
    """
    each = max(1, -(-len(values) // width))
    starts = np.arange(0, len(values), each)
    return np.maximum.reduceat(np.where(np.isfinite(values), values, np.nan).astype(np.float64), starts), each


def sparkline(values: NDArray[np.float64]) -> str:
    """Return a line of blocks from the smallest to the largest value; `NO_NUMBER` stands where there is none."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    line = []
    for value in values:
        if not math.isfinite(value):
            line.append(NO_NUMBER)
        elif high == low:
            line.append(BLOCKS[3])
        else:
            line.append(BLOCKS[min(7, int((value - low) / (high - low) * 8))])
    return "".join(line)


SHADES = "░▒▓█"


def shade(value: float, largest: float) -> str:
    """Return a cell of a heat map: `·` is zero, shades are positive, `-` and `=` negative, `?` is not finite."""
    if not math.isfinite(value):
        return "?"
    if value == 0 or not largest:
        return "·"
    share = min(1.0, abs(value) / largest)
    return SHADES[min(3, int(share * 4))] if value > 0 else ("=" if share >= 0.5 else "-")
