"""A second reader of CSV files, tiny and slow: letter by letter, numbers by exact arithmetic. Nothing of it is ours."""

from fractions import Fraction

import numpy as np

FLOAT32_END = Fraction(2) ** 128 - Fraction(2) ** 103  # from here on, float32 rounds to infinity
DIGITS = set("0123456789")


class RefusedError(Exception):
    """The file is refused; `line` is where."""

    def __init__(self, line):
        super().__init__(f"line {line}")
        self.line = line


def read(raw, columns=("x", "y"), num_samples=None):
    """Return the samples of a file, float32 `[N, 2]`."""
    rows, width, places, empty = [], 0, (), 0
    for line, fields in records(raw.decode("latin-1").removeprefix("\xef\xbb\xbf")):
        if width and len(rows) == num_samples:
            break
        if fields == []:
            empty = empty or line  # refused once something follows
            continue
        if fields is None or empty:
            raise RefusedError(empty or line)
        if not width:
            width, places = len(fields), find(fields, columns)
            continue
        if len(fields) > width or max(places) >= len(fields):
            raise RefusedError(line)
        numbers = [number(fields[place]) for place in places]
        if None in numbers:
            raise RefusedError(line)
        rows.append(numbers)
    if not rows:
        raise RefusedError(None)
    return np.array(rows, np.float32)


def read_or_line(raw, num_samples=None):
    """Return the samples of a file, or the line where it is refused: `(samples, line)`, one of them None."""
    try:
        return read(raw, num_samples=num_samples), None
    except RefusedError as refused:
        return None, refused.line


def find(fields, columns):
    names = [field.strip(" \t").encode("latin-1").decode("utf-8", "surrogateescape") for field in fields]
    if any(names.count(column) != 1 for column in columns) or "\0" in "".join(names):
        raise RefusedError(1)
    return [names.index(column) for column in columns]


def records(text):
    """Yield `(line, fields)` of each record; no fields for an empty line, None where a quote stands wrong."""
    at, line = 0, 1
    while at < len(text):
        begun, fields, more = line, [], True
        end = text.find("\n", at) % (len(text) + 1)
        if not text[at:end].strip(" \t\r"):
            yield begun, []
            at, line = end + 1, line + 1
            continue
        while more:
            blanks = at
            while text[blanks : blanks + 1] in (" ", "\t"):
                blanks += 1
            if text[blanks : blanks + 1] == '"':
                field, at = "", blanks + 1
                while text[at : at + 1] != '"' or text[at : at + 2] == '""':
                    if at >= len(text):
                        yield begun, None
                        return
                    line += text[at] == "\n"
                    field += text[at]
                    at += 2 if text[at] == '"' else 1
                at += 1
                while text[at : at + 1] in (" ", "\t"):
                    at += 1
            else:
                end = at
                while text[end : end + 1] not in (",", "\n", ""):
                    end += 1
                field, at = text[at:end], end
                ends_line = text[end : end + 1] in ("\n", "")
                field = field.removesuffix("\r") if ends_line else field
                if '"' in field:
                    yield begun, None
                    return
            fields.append(field)
            if text[at : at + 2] == "\r\n" or text[at:] == "\r":
                at += 1
            if text[at : at + 1] not in (",", "\n", ""):
                yield begun, None
                return
            more = text[at : at + 1] == ","
            at += 1
        line += 1
        yield begun, fields


def number(text):
    """Return the float32 that `text` names; None where it names none, or one that is beyond float32."""
    text = text.strip(" \t")
    sign, rest = (text[0], text[1:]) if text[:1] in ("+", "-") else ("+", text)
    if rest.lower() in ("nan", "inf", "infinity"):
        return np.float32(float(sign + rest))
    mantissa, mark, exponent = rest.replace("E", "e").partition("e")
    power_sign, power = (exponent[0], exponent[1:]) if exponent[:1] in ("+", "-") else ("+", exponent)
    whole, _, part = mantissa.partition(".")
    if not set(whole + part + power) <= DIGITS or not whole + part or (mark and not power):
        return None
    exact = int(whole + part) * Fraction(10) ** max(-400, min(400, int(power_sign + (power or "0")) - len(part)))
    if exact >= FLOAT32_END:
        return None
    with np.errstate(over="ignore"):
        guess = np.minimum(np.float32(float(exact)), np.finfo(np.float32).max)
        near = [np.nextafter(guess, np.float32(way)) for way in (0, np.inf)] + [guess]
    value = min(
        (value for value in near if np.isfinite(value)),
        key=lambda value: (abs(Fraction(float(value)) - exact), int(value.view(np.uint32)) & 1),
    )
    return -value if sign == "-" else value
