"""What the numbers mean: rules from a record to sentences, most important first.

Every limit stands in `limits.LIMITS`, with its source; no finding is made that the numbers do not support.
"""

import math
from collections.abc import Iterator, Sequence

from cubic_cli.analysis.limits import LIMITS
from cubic_cli.analysis.scaled import as_scaled
from cubic_cli.config import Activation, Scaling
from cubic_cli.errors import five_digits
from cubic_cli.runs.record import Finding, Histogram, Parameter, Record, Summary, Tensor

_SATURATED_TANH = math.atanh(0.99)  # |z1| beyond which tanh is within 1 % of ±1, and its slope below 0.02
_ROUNDING = 1e-6  # of R²: a float32 loss that equals the variance of y may round to either side of it


def find(record: Record) -> tuple[Finding, ...]:
    """Return the findings of `record`, most important first.

    The order is that of `LIMITS`, a considered one, for figures of different kinds do not compare: errors come first,
    for nothing else can be believed before them; then what the numbers do from layer to layer, what the units do, what
    comes of it, and the data as they came. Findings of one id are in the order of the data flow.
    """
    order = list(LIMITS)
    return tuple(sorted((f for rule in _RULES for f in rule(record)), key=lambda finding: order.index(finding.id)))


def _finding(id: str, tensor: str | None, value: float, text: str, limit: float | None = None) -> Finding:
    """Return a finding; its limit is that in `LIMITS`, where no other is given."""
    rule = LIMITS[id]
    limit = rule.limit if limit is None else limit
    return Finding(id=id, level=rule.level, tensor=tensor, value=float(value), limit=float(limit), text=text)


def refused(record: Record, fail_on: Sequence[str]) -> tuple[list[Finding], list[Finding]]:
    """Return the findings that make a command fail: those of a failed verification, and those that `fail_on` names."""
    verified = record.verification is None or record.verification.passed
    failing = [f for f in record.findings if not verified and f.id in LIMITS and LIMITS[f.id].fails]
    return failing, [f for f in record.findings if f not in failing and f.id in fail_on]


def _nonfinite(record: Record) -> Iterator[Finding]:
    count = sum(tensor.nonfinite for tensor in record.tensors)
    first = record.first_nonfinite
    if count <= LIMITS["nonfinite"].limit or first is None:
        return
    row = f"row {first.row:,} of the samples"
    cause, advice = {
        "data": ("the data", f"`--row {first.row}` shows it"),
        "parameters": (
            "the parameters",
            "they are not finite themselves" + _advice(record, "try another --initializer"),
        ),
        "overflow": (
            "an overflow of float32",
            "try --scaling standard" + _advice(record, "or --initializer he_normal", ", "),
        ),
    }.get(first.cause, (first.cause, f"`--row {first.row}` shows it"))
    yield _finding(
        "nonfinite",
        first.tensor,
        count,
        f"{count:,} {'value is' if count == 1 else 'values are'} not finite; the first is in {first.tensor}, "
        f"epoch {first.epoch}, batch {first.batch:,}, {row}, and comes from {cause}: {advice}",
    )


def _limit(id: str) -> str:
    return f"(limit {five_digits(LIMITS[id].limit)})"


def _advice(record: Record, initializer: str, before: str = "; ", file: str = "") -> str:
    """Return what to do about an initialiser; of a network from a file, which has none, what there is to say."""
    advice = initializer if record.config.initializer is not None else file
    return before + advice if advice else ""


def _verification(record: Record) -> Iterator[Finding]:
    check = record.verification
    if check is None:
        return
    if (failure := check.failure) is not None:
        where = "" if failure.batch is None else f" of batch {failure.batch:,}"
        yield _finding(
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
        yield _finding(
            "nondeterministic",
            "loss",
            losses,
            f"the epochs gave {losses} different losses, and nothing changed between them; try `cubic check`"
            if losses > 1
            else "the batches' losses differ between the epochs, and nothing changed; try `cubic check`",
        )


def _growth(record: Record) -> Iterator[Finding]:
    """The range from layer to layer; where the input is zero throughout, there is nothing to multiply."""
    sizes = [_magnitude(as_scaled(record).x), *(_magnitude(record.tensor(name)) for name in ("z1", "z2"))]
    for layer, name in enumerate(("z1", "z2"), 1):
        before, after = sizes[layer - 1], sizes[layer]
        if not before or record.tensor(name).min is None:
            continue
        ratio = after / before
        change = f"{five_digits(before)} → {five_digits(after)}" + _advice(record, "try --initializer he_normal")
        beyond = {"explodes": ratio > LIMITS["explodes"].limit, "vanishes": ratio < LIMITS["vanishes"].limit}
        for id in (id for id, there in beyond.items() if there):
            text = f"layer {layer} multiplies the range by {five_digits(ratio)} {_limit(id)}: {change}"
            yield _finding(id, name, ratio, text)


def _units(record: Record) -> Iterator[Finding]:
    units, config, first = record.units, record.config, record.first_nonfinite
    if first is not None and first.cause == "parameters":
        return  # of units that are NaN there is nothing to say
    count, distinct, dead, rank = units.count, units.distinct, units.dead, units.rank
    initializer = config.initializer
    if dead > LIMITS["dead_units"].limit:
        yield _finding(
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
        yield _finding(
            "identical_units",
            "a1",
            alive / kinds,
            f"{alive:,} units, {kinds:,} distinct: "
            + how
            + _advice(record, "try --initializer he_normal", file="started alike, they stay alike"),
        )
    if (
        config.activation in (Activation.relu, Activation.leaky_relu)
        and units.switching is not None
        and units.switching < LIMITS["linear"].limit
        and record.tensor("z1").min is not None
    ):
        yield _finding(
            "linear",
            "z1",
            units.switching,
            f"no unit's z1 takes both signs: over these samples {config.activation} bends nowhere, and the network is "
            "a straight line; try --scaling standard, for x of both signs",
        )
    if distinct and min(count, record.dataset.rows) > LIMITS["low_rank"].limit >= rank:  # no rank exceeds the rows
        yield _finding("low_rank", "a1", rank, f"a1 has rank {rank} {_limit('low_rank')}: {_what_rank_means(record)}")


def _what_rank_means(record: Record) -> str:
    units, activation = record.units, record.config.activation
    drawn = record.config.initializer is not None
    count, rank = f"the {units.count:,} units", record.units.rank
    bias = next((p for p in record.parameters if p.name == "input_layer.bias"), None)
    if rank == 0:
        return f"{count} put out nothing; the network answers the same for every x"
    if activation == Activation.identity:
        return f"with `identity`, {count} together are a straight line; try --activation relu"
    if units.distinct == 1:
        return f"{count} do the work of one"  # `identical_units` says what to do
    if activation in (Activation.relu, Activation.leaky_relu) and bias and bias.min == bias.max == 0:
        where = "can bend only at 0" if rank == 2 else "does not bend"
        return f"with zero biases the network {where}; biases that differ would move the bends apart"
    return (
        f"{count} do the work of {rank}; try " + ("another --initializer, or " if drawn else "") + "--scaling standard"
    )


def _saturated(record: Record) -> Iterator[Finding]:
    units, activation = record.units, record.config.activation
    limit = LIMITS["saturated_units"].limit
    share = units.always_on / units.count
    if activation in (Activation.relu, Activation.leaky_relu) and share > limit:
        yield _finding(
            "saturated_units",
            "a1",
            share,
            f"{units.always_on:,} of {units.count:,} units {_limit('saturated_units')} are positive for every sample, "
            f"where {activation} is linear; try --scaling standard",
        )
    if activation == Activation.tanh:
        share = _share_beyond(record.tensor("z1").histogram, _SATURATED_TANH)
        if share > limit:
            yield _finding(
                "saturated_units",
                "a1",
                share,
                f"at least {share:.0%} of the values of a1 {_limit('saturated_units')} are within 1 % of ±1, where "
                "tanh hardly passes a gradient on; try --scaling standard",
            )


def _share_beyond(histogram: Histogram | None, bound: float) -> float:
    """Return the share of values that a histogram shows to be beyond ±`bound`: of bins that are so altogether."""
    if histogram is None or not sum(histogram.counts):
        return 0.0
    edges, counts = histogram.edges, histogram.counts
    beyond = sum(n for n, low, high in zip(counts, edges, edges[1:], strict=False) if low >= bound or high <= -bound)
    return float(beyond / sum(counts))


def _outcome(record: Record) -> Iterator[Finding]:
    context, loss = record.context, record.loss
    r_squared, floor = context.r_squared, context.noise_floor
    if r_squared is None or not math.isfinite(r_squared) or r_squared >= LIMITS["worse_than_mean"].limit - _ROUNDING:
        return
    best = f"; the true cubic has {five_digits(floor)}" if floor is not None and math.isfinite(floor) else ""
    yield _finding(
        "worse_than_mean",
        "loss",
        r_squared,
        f"the loss {five_digits(loss)} is {five_digits(1 - r_squared)} times that of predicting the mean of y{best}",
    )


def _data(record: Record) -> Iterator[Finding]:
    if record.config.scaling != Scaling.none:
        return
    largest, column = max((_magnitude(record.dataset.x), "x"), (_magnitude(record.dataset.y), "y"))
    if largest > LIMITS["unscaled_data"].limit:
        yield _finding(
            "unscaled_data",
            column,
            largest,
            f"{column} reaches {five_digits(largest)} {_limit('unscaled_data')}; try --scaling standard",
        )


def _formats(record: Record) -> Iterator[Finding]:
    """The first of the tensors, in the order of the data flow, that float16 cannot hold."""
    ends = {tensor.name: _magnitude(tensor) for tensor in record.tensors}
    ends |= {parameter.name: _magnitude(parameter) for parameter in record.parameters}
    for entry in record.formats or ():
        if entry.format == "float16" and entry.scale is not None and entry.scale < 1:
            yield _finding(
                "overflows_format",
                entry.tensor,
                ends.get(entry.tensor, math.nan),
                f"{entry.tensor} reaches {five_digits(ends.get(entry.tensor, math.nan))}, beyond float16 "
                f"{_limit('overflows_format')}; bfloat16 has the range of float32, or scale it by {entry.scale:.4g}",
            )
            return


_RULES = (_nonfinite, _verification, _growth, _units, _outcome, _data, _formats)


def _magnitude(summary: Summary | Tensor | Parameter) -> float:
    if summary.min is None or summary.max is None or math.isnan(summary.min):
        return 0.0
    return max(abs(summary.min), abs(summary.max))
