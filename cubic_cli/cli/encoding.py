"""Text for a stream: foreign characters are escaped, and where the encoding has no glyph another stands for it."""

import functools
import re

from cubic_cli.errors import printable

# What stands for a glyph where an encoding, as ASCII or cp1252, has none. Of a family with one that is missing none is
# used, so that a histogram is not made of two alphabets; each of its stand-ins has the width of its glyph.
_STAND_INS: tuple[dict[str, str], ...] = (
    dict(zip("▁▂▃▄▅▆▇█░▒▓━┊╌", ".:-=+*%@+*%=|-", strict=True)),
    {"…": "...", "│": "|"},
    {"−": "-", "–": "-", "·": ".", "•": "*", "×": "x", "±": "+-", "→": "->", "≤": "<=", "≥": ">=", "∞": "inf"},
    {"½": "1/2", "µ": "u", "∂": "d", "Σ": "sum", "ε": "eps", "σ": "sigma", "Δ": "d"},
    {"√": "sqrt", "π": "pi", "′": "'"},
    {"\u00a0": " ", "\u202f": " ", "’": "'", "“": '"', "”": '"'},
)
_EXPONENT = re.compile("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_DIGITS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def legible(text: str, encoding: str | None = None) -> str:
    """Return text with foreign characters escaped, and with a stand-in for each glyph that `encoding` lacks."""
    text = printable(text)
    if encoding is None or text.isascii():
        return text
    text = _EXPONENT.sub(lambda found: _exponent(found[0], encoding), text).translate(_table(encoding))
    return text if _holds(encoding, text) else text.encode(encoding, "backslashreplace").decode(encoding)


def _exponent(raised: str, encoding: str) -> str:
    """Return a whole exponent as it is or spelt out: Latin-1 has ¹, ² and ³ alone."""
    return raised if _holds(encoding, raised) else f"^{raised.translate(_DIGITS)}"


def has_braille(encoding: str | None) -> bool:
    """Return whether a picture can be drawn in braille."""
    return encoding is None or _holds(encoding, "⣿")


@functools.cache
def _table(encoding: str) -> dict[int, str]:
    table = {}
    for index, family in enumerate(_STAND_INS):
        missing = {glyph: other for glyph, other in family.items() if not _holds(encoding, glyph)}
        table.update(family if missing and index == 0 else missing)
    return str.maketrans(table)


def _holds(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
