"""What counts as a finding: each is declared here once, with its level, its limit and source, and its short form.

The sentences are made in `findings`, from a record.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from cubic_cli.errors import five_digits

if TYPE_CHECKING:  # the command line asks for the ids, and waits for neither NumPy nor pydantic
    from cubic_cli.runs.record import Finding, Record, Units


class Rule(NamedTuple):
    """A finding's level, the limit beyond which it is made, what the limit is of, and where it comes from.

    `short` says the finding in a few words, for a row of a table; nothing where another finding has said it, or where
    it is of the data and not of the run. A run that has one that `fails` is not verified: its command ends with exit
    status 1, whatever `--fail-on` names.
    """

    level: str
    limit: float
    meaning: str
    source: str
    short: "Callable[[Finding, Units], str]"
    fails: bool = False


def _grows(finding: "Finding", units: "Units") -> str:
    """A layer of dead units neither grows nor shrinks: all that it puts out is zero."""
    factor = f"{finding.value:.3g}" if finding.value < 100 else five_digits(finding.value)
    return f"{finding.id} ×{factor}" if units.dead < units.count else ""


def _dead(_: "Finding", units: "Units") -> str:
    return "all units dead" if units.dead == units.count else f"{units.dead:,} of {units.count:,} units dead"


def _alike(_: "Finding", units: "Units") -> str:
    if units.dead == units.count:
        return ""
    return "all units alike" if units.distinct == 1 else f"{units.distinct:,} of {units.count:,} units distinct"


LIMITS: dict[str, Rule] = {
    "nonfinite": Rule(
        "error",
        0,
        "values that are NaN or infinite",
        "IEEE 754: no arithmetic recovers them",
        lambda finding, _: f"not finite from {finding.tensor} on",
    ),
    "unverified": Rule(
        "error",
        1e-5,
        "relative error against float64",
        "max(1e-5, H·2⁻²⁴): float32 rounding of a sum of H terms",
        lambda *_: "not verified",
        fails=True,
    ),
    "nondeterministic": Rule(
        "error",
        1,
        "different losses among the epochs",
        "no parameter changes between epochs",
        lambda *_: "not deterministic",
        fails=True,
    ),
    "explodes": Rule(
        "warning",
        10,
        "a layer's largest magnitude over that of its input (|z1| over |x|, |z2| over |z1|)",
        "Glorot and Bengio (2010): a layer should keep the variance; ten times the range is a hundred times that",
        _grows,
    ),
    "vanishes": Rule("warning", 0.1, "the same ratio", "Glorot and Bengio (2010), as above", _grows),
    "dead_units": Rule(
        "warning",
        0,
        "units that put out zero for every sample",
        "Maas, Hannun and Ng (2013): they get no gradient",
        _dead,
    ),
    "saturated_units": Rule(
        "warning",
        0.5,
        "share of units that are positive for every sample (relu, leaky_relu); for tanh, of values within 1 % of ±1",
        "a ReLU that is always on is linear; Glorot and Bengio (2010), 3: a saturated tanh passes no gradient on",
        lambda *_: "units saturated",
    ),
    "identical_units": Rule(
        "warning",
        1,
        "units over distinct units, dead ones left out",
        "Goodfellow, Bengio and Courville (2016), 8.4: units must break the symmetry",
        _alike,
    ),
    "linear": Rule(
        "warning",
        1,
        "units whose z1 takes both signs over the samples (relu, leaky_relu); below it",
        "a ReLU bends where z1 changes its sign: without a bend the network is a straight line",
        lambda *_: "a straight line",
    ),
    "low_rank": Rule(
        "warning",
        2,
        "rank of a1 over the samples",
        "a cubic turns twice, and two independent units give one bend",
        lambda finding, units: f"rank {finding.value:.0f}" if units.distinct > 1 else "",
    ),
    "worse_than_mean": Rule(
        "warning", 0, "R²", "predicting the mean of y has R² = 0", lambda *_: "worse than the mean"
    ),
    "unscaled_data": Rule(
        "warning",
        10,
        "largest |x| or |y| under --scaling none",
        "LeCun et al., Efficient BackProp (1998), 4.3: inputs near unit variance",
        lambda *_: "",
    ),
    "overflows_format": Rule(
        "note",
        65504,
        "largest magnitude of z1, a1, z2 and the parameters",
        "IEEE 754: the largest float16",
        lambda *_: "",
    ),
}


def in_short(record: "Record") -> dict[str, str]:
    """Return what the findings of a record come to, a few words for each id that has any, most important first."""
    found = {finding.id: finding for finding in reversed(record.findings)}  # the first of an id stands
    words = {id: rule.short(found[id], record.units) for id, rule in LIMITS.items() if id in found}
    return {id: text for id, text in words.items() if text}


def markdown() -> str:
    """Return `LIMITS` as the table of `docs/numbers.md`."""
    lines = ["| finding | level | limit | of what | source |", "|---|---|---|---|---|"]
    lines += [
        f"| `{id}` | {rule.level} | {rule.limit:g} | {rule.meaning.replace('|', chr(92) + '|')} | {rule.source} |"
        for id, rule in LIMITS.items()
    ]
    return "\n".join(lines) + "\n"
