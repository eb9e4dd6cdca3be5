"""What the numbers mean: rules from a record to sentences, most important first. No JAX here.

Every limit stands in `LIMITS`, with its source; no finding is made that the numbers do not support.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cubic_cli.config import Activation, Scaling
from cubic_cli.errors import five_digits

if TYPE_CHECKING:  # the command line asks for the ids, and waits for neither NumPy nor pydantic
    from cubic_cli.runs.record import Finding, Histogram, Parameter, Record, Summary, Tensor


class Rule(NamedTuple):
    """A finding's level, the limit beyond which it is made, what the limit is of, and where it comes from.

    A run that has one that `fails` is not verified: its command ends with exit status 1, whatever `--fail-on` names.
    """

    level: str
    limit: float
    meaning: str
    source: str
    fails: bool = False


LIMITS: dict[str, Rule] = {
    "nonfinite": Rule("error", 0, "values that are NaN or infinite", "IEEE 754: no arithmetic recovers them"),
    "unverified": Rule(
        "error",
        1e-5,
        "relative error against float64",
        "max(1e-5, H·2⁻²⁴): float32 rounding of a sum of H terms",
        fails=True,
    ),
    "nondeterministic": Rule(
        "error", 1, "different losses among the epochs", "no parameter changes between epochs", fails=True
    ),
    "explodes": Rule(
        "warning",
        10,
        "a layer's largest magnitude over that of its input (|z1| over |x|, |z2| over |z1|)",
        "Glorot and Bengio (2010): a layer should keep the variance; ten times the range is a hundred times that",
    ),
    "vanishes": Rule(
        "warning",
        0.1,
        "the same ratio",
        "Glorot and Bengio (2010), as above",
    ),
    "dead_units": Rule(
        "warning",
        0,
        "units that put out zero for every sample",
        "Maas, Hannun and Ng (2013): they get no gradient",
    ),
    "saturated_units": Rule(
        "warning",
        0.5,
        "share of units that are positive for every sample (relu, leaky_relu); for tanh, of values within 1 % of ±1",
        "a ReLU that is always on is linear; Glorot and Bengio (2010), 3: a saturated tanh passes no gradient on",
    ),
    "identical_units": Rule(
        "warning",
        1,
        "units over distinct units, dead ones left out",
        "Goodfellow, Bengio and Courville (2016), 8.4: units must break the symmetry",
    ),
    "linear": Rule(
        "warning",
        1,
        "units whose z1 takes both signs over the samples (relu, leaky_relu); below it",
        "a ReLU bends where z1 changes its sign: without a bend the network is a straight line",
    ),
    "low_rank": Rule(
        "warning", 2, "rank of a1 over the samples", "a cubic turns twice, and two independent units give one bend"
    ),
    "worse_than_mean": Rule("warning", 0, "R²", "always answering the mean of y has R² = 0"),
    "unscaled_data": Rule(
        "warning",
        10,
        "largest |x| or |y| under --scaling none",
        "LeCun et al., Efficient BackProp (1998), 4.3: inputs near unit variance",
    ),
    "overflows_format": Rule(
        "note", 65504, "largest magnitude of z1, a1, z2 and the parameters", "IEEE 754: the largest float16"
    ),
}

_SATURATED_TANH = math.atanh(0.99)  # |z1| beyond which tanh is within 1 % of ±1, and its slope below 0.02
_ROUNDING = 1e-6  # of R²: a float32 loss that equals the variance of y may round to either side of it


class _Finding(NamedTuple):
    """A finding as a rule makes it; `limit` None stands for the one in `LIMITS`."""

    id: str
    tensor: str | None
    value: float
    text: str
    limit: float | None = None


def find(record: "Record") -> "tuple[Finding, ...]":
    """Return the findings of `record`, most important first.

    The order is that of `LIMITS`, a considered one, for figures of different kinds do not compare: errors come first,
    for nothing else can be believed before them; then what the numbers do from layer to layer, what the units do, what
    comes of it, and the data as they came. Findings of one id are in the order of the data flow.
    """
    from cubic_cli.runs.record import Finding

    found = [finding for rule in _RULES for finding in rule(record)]
    order = list(LIMITS)
    return tuple(
        Finding(
            id=finding.id,
            level=LIMITS[finding.id].level,
            tensor=finding.tensor,
            value=float(finding.value),
            limit=float(LIMITS[finding.id].limit if finding.limit is None else finding.limit),
            text=finding.text,
        )
        for finding in sorted(found, key=lambda finding: order.index(finding.id))
    )


def refused(record: "Record", fail_on: Sequence[str]) -> "tuple[list[Finding], list[Finding]]":
    """Return the findings that make a command fail: those of a failed verification, and those that `fail_on` names."""
    verified = record.verification is None or record.verification.passed
    failing = [f for f in record.findings if not verified and f.id in LIMITS and LIMITS[f.id].fails]
    return failing, [f for f in record.findings if f not in failing and f.id in fail_on]


def limits_markdown() -> str:
    """Return `LIMITS` as the table of `docs/numbers.md`."""
    lines = ["| finding | level | limit | of what | source |", "|---|---|---|---|---|"]
    lines += [
        f"| `{id}` | {rule.level} | {rule.limit:g} | {rule.meaning.replace('|', chr(92) + '|')} | {rule.source} |"
        for id, rule in LIMITS.items()
    ]
    return "\n".join(lines) + "\n"


def _nonfinite(record: "Record") -> Iterator[_Finding]:
    count = sum(tensor.nonfinite for tensor in record.tensors)
    first = record.first_nonfinite
    if count <= LIMITS["nonfinite"].limit or first is None:
        return
    row = f"row {first.row:,} of the samples"
    cause, advice = {
        "data": ("the data", f"look at {row}"),
        "parameters": (
            "the parameters",
            "they are not finite themselves" + _advice(record, "try another --initializer"),
        ),
        "overflow": (
            "an overflow of float32",
            "try --scaling standard" + _advice(record, "or --initializer he_normal", ", "),
        ),
    }.get(first.cause, (first.cause, f"look at {row}"))
    yield _Finding(
        "nonfinite",
        first.tensor,
        count,
        f"{count:,} {'value is' if count == 1 else 'values are'} not finite; the first is in {first.tensor}, "
        f"epoch {first.epoch}, batch {first.batch:,}, {row}, and comes from {cause}: {advice}",
    )


def _advice(record: "Record", initializer: str, before: str = "; ", file: str = "") -> str:
    """Return what to do about an initialiser; of a network from a file, which has none, what there is to say."""
    advice = initializer if record.config.initializer is not None else file
    return before + advice if advice else ""


def _verification(record: "Record") -> Iterator[_Finding]:
    check = record.verification
    if check is None:
        return
    if (failure := check.failure) is not None:
        where = "" if failure.batch is None else f" of batch {failure.batch:,}"
        yield _Finding(
            "unverified",
            failure.quantity.split("_")[0],
            failure.relative_error,
            f"{failure.quantity}{where} is {failure.found:.9g} and float64 says "
            f"{failure.expected:.9g}: the device did not compute what the formulas say; "
            "try --device cpu, and `cubic check`",
            check.tolerance,
        )
    if not check.deterministic:
        losses = len({epoch.loss for epoch in record.epochs})
        yield _Finding(
            "nondeterministic",
            "loss",
            losses,
            f"the epochs gave {losses} different losses, and nothing changed between them; try `cubic check`"
            if losses > 1
            else "the batches' losses differ between the epochs, and nothing changed; try `cubic check`",
        )


def _growth(record: "Record") -> Iterator[_Finding]:
    """The range from layer to layer; where the input is zero throughout, there is nothing to multiply."""
    from cubic_cli.analysis.describe import as_scaled

    sizes = [_magnitude(as_scaled(record).x), *(_magnitude(record.tensor(name)) for name in ("z1", "z2"))]
    for layer, name in enumerate(("z1", "z2"), 1):
        before, after = sizes[layer - 1], sizes[layer]
        if not before or record.tensor(name).min is None:
            continue
        ratio = after / before
        change = f"{five_digits(before)} becomes {five_digits(after)}"
        if ratio > LIMITS["explodes"].limit:
            yield _Finding(
                "explodes",
                name,
                ratio,
                f"layer {layer} multiplies the range by {five_digits(ratio)}: {change}"
                + _advice(record, "try --initializer he_normal, which is made to keep it"),
            )
        if ratio < LIMITS["vanishes"].limit:
            yield _Finding(
                "vanishes",
                name,
                ratio,
                f"layer {layer} shrinks the range to {five_digits(ratio)} of what it was: {change}"
                + _advice(record, "try --initializer he_normal, which is made to keep it"),
            )


def _units(record: "Record") -> Iterator[_Finding]:
    units, config, first = record.units, record.config, record.first_nonfinite
    if first is not None and first.cause == "parameters":
        return  # of units that are NaN there is nothing to say
    count, distinct, dead, rank = units.count, units.distinct, units.dead, units.rank
    initializer = config.initializer
    if dead > LIMITS["dead_units"].limit:
        yield _Finding(
            "dead_units",
            "a1",
            dead,
            f"{dead:,} of {count:,} units put out zero for every sample"
            + (
                _advice(record, "try --initializer he_normal")
                if dead == count
                else "; try --scaling standard, for x of both signs"
            ),
        )
    yield from _saturated(record)
    # Dead units are all alike, which `dead_units` has said already, unless there are no others.
    alive, kinds = (count, distinct) if distinct == 1 else (count - dead, distinct - (dead > 0))
    if kinds and alive / kinds > LIMITS["identical_units"].limit:
        how = "some repeat others"
        if kinds == 1 and initializer in (None, "ones", "zeros"):
            how = f"with `{initializer}` they all compute the same" if initializer else "they all compute the same"
        yield _Finding(
            "identical_units",
            "a1",
            alive / kinds,
            f"{alive:,} units, {kinds:,} distinct: "
            + how
            + _advice(
                record, "try an initializer that draws, such as he_normal", file="started alike, they stay alike"
            ),
        )
    if (
        config.activation in (Activation.relu, Activation.leaky_relu)
        and units.switching is not None
        and units.switching < LIMITS["linear"].limit
        and record.tensor("z1").min is not None
    ):
        yield _Finding(
            "linear",
            "z1",
            units.switching,
            f"no unit's z1 takes both signs, so that over these samples {config.activation} bends nowhere and the "
            "network is a straight line; try --scaling standard, for x of both signs",
        )
    if count > LIMITS["low_rank"].limit >= rank:
        yield _Finding("low_rank", "a1", rank, f"rank {rank}: {_what_rank_means(record)}")


def _what_rank_means(record: "Record") -> str:
    units, activation = record.units, record.config.activation
    drawn = record.config.initializer is not None
    count, rank = f"the {units.count:,} hidden units", record.units.rank
    bias = next((p for p in record.parameters if p.name == "input_layer.bias"), None)
    if rank == 0:
        return f"{count} put out nothing; the network answers the same for every x"
    if activation == Activation.identity:
        return f"with `identity`, {count} together are a straight line; try --activation relu"
    if units.distinct == 1:
        return f"{count} do the work of one" + _advice(record, "try an initializer that draws, such as he_normal")
    if activation in (Activation.relu, Activation.leaky_relu) and bias and bias.min == bias.max == 0:
        where = "can bend only at 0" if rank == 2 else "does not bend"
        return f"with zero biases the network {where}; biases that differ would move the bends apart"
    return (
        f"{count} do the work of {rank}; try " + ("another --initializer, or " if drawn else "") + "--scaling standard"
    )


def _saturated(record: "Record") -> Iterator[_Finding]:
    units, activation = record.units, record.config.activation
    limit = LIMITS["saturated_units"].limit
    share = units.always_on / units.count
    if activation in (Activation.relu, Activation.leaky_relu) and share > limit:
        yield _Finding(
            "saturated_units",
            "a1",
            share,
            f"{units.always_on:,} of {units.count:,} units are positive for every sample, where {activation} "
            "is linear: they bend nothing; try --scaling standard",
        )
    if activation == Activation.tanh:
        share = _share_beyond(record.tensor("z1").histogram, _SATURATED_TANH)
        if share > limit:
            yield _Finding(
                "saturated_units",
                "a1",
                share,
                f"at least {share:.0%} of the values of a1 are within 1 % of ±1, where tanh hardly passes a gradient "
                "on; try --scaling standard",
            )


def _share_beyond(histogram: "Histogram | None", bound: float) -> float:
    """Return the share of values that a histogram shows to be beyond ±`bound`: of bins that are so altogether."""
    if histogram is None or not sum(histogram.counts):
        return 0.0
    edges, counts = histogram.edges, histogram.counts
    beyond = sum(n for n, low, high in zip(counts, edges, edges[1:], strict=False) if low >= bound or high <= -bound)
    return float(beyond / sum(counts))


def _outcome(record: "Record") -> Iterator[_Finding]:
    context, loss = record.context, record.loss
    r_squared, floor = context.r_squared, context.noise_floor
    if r_squared is None or not math.isfinite(r_squared) or r_squared >= LIMITS["worse_than_mean"].limit - _ROUNDING:
        return
    best = f"; the cubic itself leaves {five_digits(floor)}" if floor is not None and math.isfinite(floor) else ""
    yield _Finding(
        "worse_than_mean",
        "loss",
        r_squared,
        f"the loss {five_digits(loss)} is {five_digits(1 - r_squared)} times the variance of y: always answering the "
        f"mean of y would do better{best}",
    )


def _data(record: "Record") -> Iterator[_Finding]:
    if record.config.scaling != Scaling.none:
        return
    largest, column = max((_magnitude(record.dataset.x), "x"), (_magnitude(record.dataset.y), "y"))
    if largest > LIMITS["unscaled_data"].limit:
        yield _Finding(
            "unscaled_data",
            column,
            largest,
            f"{column} reaches {five_digits(largest)}, far from unit scale; try --scaling standard",
        )


def _formats(record: "Record") -> Iterator[_Finding]:
    """The first of the tensors, in the order of the data flow, that float16 cannot hold."""
    ends = {tensor.name: _magnitude(tensor) for tensor in record.tensors}
    ends |= {parameter.name: _magnitude(parameter) for parameter in record.parameters}
    for entry in record.formats or ():
        if entry.format == "float16" and entry.scale is not None and entry.scale < 1:
            yield _Finding(
                "overflows_format",
                entry.tensor,
                ends.get(entry.tensor, math.nan),
                f"{entry.tensor} reaches {ends.get(entry.tensor, math.nan):,.4g}, beyond float16; bfloat16 has the "
                f"range of float32, or scale it by {entry.scale:.4g}",
            )
            return


_RULES = (_nonfinite, _verification, _growth, _units, _outcome, _data, _formats)


def _magnitude(summary: "Summary | Tensor | Parameter") -> float:
    if summary.min is None or summary.max is None or math.isnan(summary.min):
        return 0.0
    return max(abs(summary.min), abs(summary.max))
