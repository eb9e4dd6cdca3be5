"""The arithmetic of one sample, written out: on a screen, in Markdown or as a LaTeX document, with blanks if wanted.

Every number stands in full, in the shortest text that reads back to the same float32, with float64's beside it.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from rich.text import Text

from cubic_cli.analysis.sample import Sample
from cubic_cli.cli.views.blocks import BAD, GOOD, Facts, Heading, Lines, Screen
from cubic_cli.cli.views.format import GLUE, number, percent
from cubic_cli.config import Activation
from cubic_cli.errors import printable
from cubic_cli.float32 import shortest
from cubic_cli.runs.files import near

_BLANK = "________"
_FORMULAS = {
    Activation.relu: "relu(z) = max(z, 0)",
    Activation.leaky_relu: "leaky_relu(z) = z where z > 0, else 0.01 z",
    Activation.gelu: "gelu(z) = z/2 · (1 + tanh(√(2/π) (z + 0.044715 z³)))",
    Activation.tanh: "tanh(z)",
    Activation.identity: "identity(z) = z",
}


class Step(NamedTuple):
    """An equation: what is computed, what float32 gives, and what float64 does; `exact` empty where it has none.

    `question` is the equation of a worksheet, before the blank; without one it is told there, too. A `note` ends it.
    """

    left: str
    result: str
    exact: str = ""
    question: str = ""
    note: str = ""


class Section(NamedTuple):
    """Steps under a heading, and what is to be said of those that are left out."""

    title: str
    steps: list[Step]
    note: str = ""


def in_full(value: float) -> str:
    """Return a float32 with all its digits."""
    return _plain(repr(shortest(value)))


def _wide(value: float) -> str:
    return _plain(repr(float(value)))


def _plain(text: str) -> str:
    named = {"nan": "NaN", "inf": "∞", "-inf": "−∞"}
    return named.get(text, re.sub(r"\.0(?=e|$)", "", text).replace("-", "−"))


def _factor(text: str) -> str:
    """Return a number that stands beside a sign."""
    return f"({text})" if text.startswith("−") else text


def _plus(text: str) -> str:
    return f"− {text[1:]}" if text.startswith("−") else f"+ {text}"


def write(sample: Sample, units: int | None) -> list[Section]:
    """Return the arithmetic of a sample, with the first `units` groups of units; None stands for all."""
    found = sample.arithmetic
    groups = len(found.units)
    shown = range(groups if units is None else min(units, groups))
    others = int(found.sizes[len(shown) :].sum())
    x = in_full(found.x)
    names = [f"[{unit}]" for unit in found.units[: len(shown)].tolist()]
    alike = [int(size) for size in found.sizes[: len(shown)]]

    first, second, terms = [], [], []
    for g, name in enumerate(names):
        z1, a1, w2, term = (in_full(v) for v in (found.z1[g], found.a1[g], found.w2[g], found.terms[g]))
        same = f"({alike[g]:,} units alike)" if alike[g] > 1 else ""
        products = f"z1{name} = {_factor(x)} · {_factor(in_full(found.w1[g]))} {_plus(in_full(found.b1[g]))}"
        first.append(Step(products, z1, _wide(found.exact_z1[g]), products, same))
        f = sample.activation
        second.append(Step(f"a1{name} = {f}({z1})", a1, _wide(found.exact_a1[g]), f"a1{name} = {f}(z1{name})"))
        times = f"{alike[g]:,} · " if alike[g] > 1 else ""
        product = f"{times}a1{name}·W2{name}"
        question = f"{product} = {times}a1{name} · {_factor(w2)}"
        terms.append(Step(f"{product} = {times}{_factor(a1)} · {_factor(w2)}", term, "", question))
    note, summands = "", [in_full(found.terms[g]) for g in range(len(names))]
    if others:
        note = f"{others:,} other units are left out; --units all writes out all"
        with np.errstate(all="ignore"):  # ∞ − ∞
            summands.append(in_full(float(found.terms[len(names) :].sum())))
        terms.append(Step(f"the {others:,} other units together", summands[-1]))
    b2, y, z2 = in_full(found.b2), in_full(found.y), in_full(found.z2)
    total = " ".join([summands[0], *map(_plus, [*summands[1:], b2])])
    answer = [
        Step(f"z2 = {total}", z2, _wide(found.exact_z2), f"z2 = Σ a1·W2 {_plus(b2)}"),
        Step(f"z2 − y = {z2} − {_factor(y)}", in_full(found.error), "", f"z2 − y = z2 − {_factor(y)}"),
        Step("(z2 − y)²", _wide(found.square), "", "(z2 − y)²"),
    ]
    sections = [
        Section("z1 = x·W1 + b1", first, note),
        Section(f"a1 = {sample.activation}(z1), with {_FORMULAS[sample.activation]}", second),
        Section("a1·W2, the largest first", terms),
        Section("z2 = Σ a1·W2 + b2, and the error", answer),
    ]
    if sample.has_gradients:
        sections.append(_gradients(sample, names))
    return sections


def _gradients(sample: Sample, names: list[str]) -> Section:
    of = sample.arithmetic.gradients
    power = "∂(z2 − y)²"
    of_b2 = f"{power}/∂b2 = 2 (z2 − y)"
    steps = [Step(of_b2, _wide(of.b2), "", of_b2)]
    for g, name in enumerate(names):
        lefts = (
            (f"{power}/∂W2{name} = 2 (z2 − y) · a1{name}", of.w2[g]),
            (f"{power}/∂b1{name} = 2 (z2 − y) · W2{name} · {sample.activation}′(z1{name})", of.b1[g]),
            (f"{power}/∂W1{name} = {power}/∂b1{name} · x", of.w1[g]),
        )
        steps += [Step(left, _wide(value), "", left) for left, value in lefts]
    return Section("gradients of this sample's squared error, in float64", steps)


def screen(sample: Sample, width: int, units: int | None, blank: bool = False) -> Screen:
    """Return the screen of one sample, for a terminal of `width` cells; `blank` leaves the results to be filled in."""
    given = []
    for name, read, got in _given(sample):
        scaled = "" if sample.scaling == "none" else f", {sample.scaling} scaling makes it {got}"
        given.append((name, Text(f"{read}{scaled}")))
    blocks: Screen = [Heading(_title(sample), Text(_where(sample))), Facts(given)]
    for section in write(sample, units):
        lines = [line for step in section.steps for line in _lines(step, width, blank)]
        blocks.append(Heading(section.title, Text(section.note)))
        blocks.append(Lines(lines))
    if not blank:
        blocks.append(Facts(_outcome(sample)))
    return blocks


def _title(sample: Sample) -> str:
    return f"row {sample.row:,} of run {sample.run_name}"


def _where(sample: Sample) -> str:
    parts = [f"batch {sample.batch:,}"]
    if sample.line is not None and sample.path is not None:
        parts.append(f"line {sample.line:,} of {near(str(sample.path))}")
    return ", ".join(parts)


def _given(sample: Sample) -> list[tuple[str, str, str]]:
    """Return x and y: the name, the number as it was read, and as the network got it."""
    found = sample.arithmetic
    return [("x", in_full(sample.x), in_full(found.x)), ("y", in_full(sample.y), in_full(found.y))]


def _lines(step: Step, width: int, blank: bool) -> list[str]:
    """Return an equation on a line or, where it is too long, on several; what float64 gives stands beside it."""
    note = f"  {step.note}" if step.note else ""
    if blank and step.question:
        return _fold(f"{step.question} = {_BLANK}{note}", width)
    lines = _fold(f"{step.left} = {step.result}{note}", width)
    if step.exact and step.exact != step.result:
        beside = f"float64 {step.exact}"
        if len(lines) == 1 and len(lines[0]) + 3 + len(beside) <= width:
            return [f"{lines[0]}   {beside}"]
        lines.append(f"    {beside}")
    return lines


def _fold(text: str, width: int) -> list[str]:
    """Return `text` in lines of at most `width`, parted before an operation."""
    lines = [""]
    for part in re.split(r" (?=[=+−;] )", text):
        joined = f"{lines[-1]} {part}" if lines[-1] else part
        if len(joined) > width and lines[-1].strip():
            lines.append(f"    {part}")
        else:
            lines[-1] = joined
    return lines


def _outcome(sample: Sample) -> list[tuple[str, Text]]:
    shares = (("the batch's loss", sample.of_batch), ("the epoch's", sample.of_epoch))
    told = [f"{percent(share)} of {name}" for name, share in shares if share is not None]
    error = number(sample.arithmetic.relative_error)
    agreement = f"z2 in float32 differs from float64 by {error}, relative to the magnitudes that it sums up"
    rows = [("share", Text("this sample makes " + " and ".join(told)))] if told else []
    yes = ("yes", GOOD) if sample.agrees else ("NO", BAD)
    rows.append(("agreement", Text.assemble(yes, f", {agreement} ({number(sample.tolerance)}{GLUE}allowed)")))
    return rows


# --- LaTeX ----------------------------------------------------------------------------------------------------------

_DOCUMENT = r"""\documentclass{article}
\usepackage{amsmath}
\usepackage[margin=2cm]{geometry}
\allowdisplaybreaks
\begin{document}
%s
\end{document}
"""
_SPECIAL = {c: f"\\{c}" for c in "#$%&_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"} | {"^": r"\^{}"}


def latex(sample: Sample, units: int | None, blank: bool = False) -> str:
    """Return the arithmetic as a whole LaTeX document, for slides and exercises."""
    parts = [rf"\section*{{{_text(_title(sample))}}}", _text(_where(sample)) + r"\par"]
    parts += [rf"\noindent ${name} = {_math(got)}$\par" for name, _, got in _given(sample)]
    for section in write(sample, units):
        parts.append(rf"\subsection*{{{_inline(section.title)}}}")
        parts += [_text(section.note) + r"\par"] if section.note else []
        rows = [_math(" ".join(line.strip() for line in _lines(step, 10**9, blank))) for step in section.steps]
        parts.append("\\begin{gather*}\n" + " \\\\\n".join(rows) + "\n\\end{gather*}")
    return _DOCUMENT % "\n".join(parts)


def _text(text: str) -> str:
    """Return words for LaTeX."""
    return "".join(_SPECIAL.get(c, c) for c in printable(text)).replace(GLUE, "~").replace("−", "--")


def _inline(title: str) -> str:
    """Return a section's title, whose equations stand before its comma and behind its `with`."""
    equation, comma, words = title.partition(", ")
    if not re.search("[=·]", equation):
        return _text(title)
    behind = f"with ${_math(words[5:])}$" if words.startswith("with ") else _text(words)
    return f"${_math(equation)}${comma}{behind}"


_MATH: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"_{4,}", r"\\underline{\\hspace{2.5cm}}"),
    (r" +\(([\d,]+) units alike\)", r"\\;\\text{(\1 units alike)}"),
    (r"the ([\d,]+) other units together", r"\\text{the \1 other units together}"),
    (r" +float64 ", r"\\quad \\text{float64 }"),
    (r"\b(max|where|else)\b", r"\\text{ \1 }"),
    (r"leaky_relu", r"\\operatorname{leaky\\_relu}"),
    (r"\b(relu|gelu|identity)\b", r"\\operatorname{\1}"),
    (r"(?<![a-z])tanh", r"\\tanh"),
    (r"\b([zaWb])([12])\[(\d+)\]", r"\1^{(\2)}_{\3}"),
    (r"\b([aWb])([12])\b", r"\1^{(\2)}"),
    (r"\bz([12])\b(?!\^)", r"z^{(\1)}"),
    (r"(?<=\d)e(−?)\+?0*(\d+)", r" \\times 10^{\1\2}"),
    (r"∂\(z\^\{\(2\)\} − y\)²/∂", r"\\partial (z^{(2)} − y)^2 / \\partial "),
    (r"²", "^2"),
    (r"³", "^3"),
    (r"′", "'"),
    (r"√", r"\\surd"),
    (r"π", r"\\pi"),
    (r"·", r"\\cdot "),
    (r"Σ", r"\\sum"),
    (r"∞", r"\\infty"),
    (r"NaN", r"\\mathrm{NaN}"),
    (r"−", "-"),
    (r"; ", r",\\quad "),
)


def _math(text: str) -> str:
    """Return an equation of a screen in LaTeX's words."""
    for pattern, put in _MATH:
        text = re.sub(pattern, put, text)
    return text
