"""The pass, for `check`: by the programs that `forward` runs, compiled for each activation, on samples drawn in memory.

Over all devices every initialiser and activation, over each device alone one; compared with float64, closed forms, and
itself, and given NaN and infinities to count.

    N samples, B batch, K batches, H hidden, D devices
"""

import functools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cubic_cli.config import Activation, GenerateConfig, Initializer
from cubic_cli.data.problem import draw
from cubic_cli.data.source import Arrays
from cubic_cli.engine.layout import usual_tuning
from cubic_cli.engine.passes import Pass, gather
from cubic_cli.errors import CubicError
from cubic_cli.experiments import primitives
from cubic_cli.experiments.report import STANDARD_ERRORS, Check, Row, count_differing, ids, judge
from cubic_cli.float32 import TENSORS, Float32
from cubic_cli.parameters import Parameters
from cubic_cli.reference import closed_form, expected, verify
from cubic_cli.reference.network import forward
from cubic_cli.reference.verify import Seen
from cubic_cli.statistics import Statistics, summarise

HIDDEN, ODD = 64, 61  # the default width, and one that is no multiple of the units in one step of the scan
BATCH, SHORT = 10, 7  # samples of a batch, and of the last
BATCHES = 256
ALONE = Activation.relu  # what passes over each device alone, and is given NaN and infinities
NOISE_STD = GenerateConfig.noise_std


class Way(NamedTuple):
    """How the pass goes: the schedule (None leaves it to the pass), whether with statistics, and over H units.

    `parted`: in several chunks, and several blocks on each device.
    """

    name: str
    by_unit: bool | None
    statistics: bool = True
    hidden: int = HIDDEN
    parted: bool = False


CHOSEN = Way("as forward goes", None)
HISTORY = Way(f"the history alone, H = {ODD}", None, statistics=False, hidden=ODD, parted=True)
BY_UNIT, PLAIN = Way("unit by unit", True), Way("all units at once", False)


def _name(activation: Activation) -> str:
    return f"{activation} against float64"


def _name_alone(way: Way) -> str:
    return f"alone, {way.name}"


def draw_samples(batches: int, last: int) -> Arrays:
    """Return samples for so many batches, of which the last has `last`."""
    return Arrays(*next(draw((batches - 1) * BATCH + last, NOISE_STD, 0)))


def draw_batch() -> tuple[Parameters, Float32, Float32]:
    """Return parameters and one batch."""
    samples = draw_samples(1, BATCH)
    return draw_parameters(), samples.x, samples.y


def draw_parameters(kind: Initializer = Initializer.he_normal) -> Parameters:
    """Return the parameters that `forward` begins with by default but for the initialiser, on the host."""
    return primitives.draw(kind, HIDDEN, 0)


def narrow(parameters: Parameters, hidden: int) -> Parameters:
    """Return the parameters of the first `hidden` units."""
    w1, b1, w2, b2 = parameters
    return Parameters(w1[:, :hidden], b1[:hidden], w2[:hidden], b2)


def make_pass(
    way: Way, activation: Activation, parameters: Parameters, samples: Arrays, devices: Sequence[Any]
) -> Callable[[], Seen]:
    """Compile the pass of `forward`; returns what runs an epoch of it."""
    tuning = usual_tuning(devices[0])
    if way.parted:
        tuning = tuning._replace(chunk=len(samples.x) // 2, block=len(samples.x) // (8 * len(devices)))
    passing = Pass(
        parameters,
        samples,
        BATCH,
        activation,
        list(devices),
        by_unit=way.by_unit,
        statistics=way.statistics,
        tuning=tuning,
    )

    def run() -> Seen:
        epoch = gather(passing.run())
        return Seen(epoch.columns, epoch.tensors, epoch.loss)

    return run


Make = Callable[[Way, Activation, Parameters, Arrays, Sequence[Any]], Callable[[], Seen]]


def list_passes(devices: Sequence[Any], make: Make = make_pass, batches: int = BATCHES) -> list[Check]:
    """Return the checks of the pass: over all devices for each activation, and over each device alone.

    `make` makes the passes, and all devices together have at least so many `batches`, each as many.
    """
    share = -(-batches // len(devices))
    samples = draw_samples(share * len(devices), SHORT)
    broken = spoil(samples)
    drawing, draw_once = threading.Lock(), functools.cache(draw_parameters)
    seen: dict[tuple[Any, ...], Seen] = {}

    def parameters(kind: Initializer, hidden: int) -> Parameters:
        with drawing:  # one compiles, the others wait for it
            return narrow(draw_once(kind), hidden)

    def compared(
        what: str, on: Sequence[Any], way: Way, activation: Activation, part: Arrays, kinds: Iterable[Initializer]
    ) -> Check:
        def prepare() -> Callable[[], Iterator[Row]]:
            drawn = {kind: parameters(kind, way.hidden) for kind in kinds}
            passes = {kind: make(way, activation, drawn[kind], part, on) for kind in drawn}
            references = {kind: expected.compute(drawn[kind], part.x, part.y, BATCH, activation) for kind in drawn}
            return lambda: check_pass(what, on, way, activation, passes, references, seen)

        return Check(what, on, prepare)

    def alone(way: Way, index: int) -> Check:
        part = Arrays(*samples.read(index * share * BATCH, (index + 1) * share * BATCH))
        return compared(_name_alone(way), [devices[index]], way, ALONE, part, (Initializer.he_normal,))

    def counted(way: Way) -> Check:
        def prepare() -> Callable[[], Iterator[Row]]:
            drawn = parameters(Initializer.he_normal, way.hidden)
            run, counts = make(way, ALONE, drawn, broken, devices), count_kinds(drawn, broken)
            return lambda: check_counts(devices, way, run(), counts)

        return Check("NaN and infinities counted", devices, prepare)

    checks = [
        compared(_name(activation), devices, way, activation, samples, Initializer)
        for activation in Activation
        for way in (CHOSEN, HISTORY, PLAIN)
    ]
    checks += [alone(way, index) for way in (BY_UNIT, PLAIN) for index in range(len(devices))]
    if len(devices) > 1:
        checks.append(Check("alone as together", devices, lambda: lambda: check_devices(devices, seen)))
    return [*checks, counted(BY_UNIT), counted(PLAIN)]


def check_pass(
    what: str,
    devices: Sequence[Any],
    way: Way,
    activation: Activation,
    passes: dict[Initializer, Callable[[], Seen]],
    references: dict[Initializer, expected.Reference],
    seen: dict[tuple[Any, ...], Seen],
) -> Iterator[Row]:
    """Run the pass for each initialiser, and compare with float64, closed forms and itself; at first it runs twice."""
    numbers = ids(devices)
    for kind, run in passes.items():
        key = (what, *numbers, kind, way)
        figures = run()
        if key not in seen:
            seen[key] = figures
            error, text, batch = compare(references[kind], figures)
            where = f"{way.name}, {kind}: " if len(passes) > 1 else f"device {numbers[0]}: "
            wrong = _owner(devices, None if way.parted else batch, len(figures.columns["loss"]))
            yield judge(what, numbers, error, references[kind].tolerance, "relative", text and where + text, wrong)
            if kind is Initializer.ones:
                yield check_closed_form(numbers, way, activation, figures, len(references[kind].sizes) * BATCH)
            figures = run()
        yield check_bits(devices, way, f"{activation}, {way.name}, {kind}", seen[key], figures)


def _owner(devices: Sequence[Any], batch: int | None, batches: int) -> list[int]:
    """Return the id of the device that has a batch, where each has its share in one block; none where it is of all."""
    return [] if batch is None else [devices[batch * len(devices) // batches].id]


def compare(reference: expected.Reference, figures: Seen) -> tuple[float, str | None, int | None]:
    """Compare every figure of an epoch with float64.

    Returns the largest relative error, what is wrong, and the batch where it is, from 0.
    """
    found = verify.verify(reference, figures, np.arange(len(reference.sizes)))
    failure = found.failure
    if failure is None:
        return found.max_relative_error, None, None
    where = "" if failure.batch is None else f" of batch {failure.batch}"
    text = f"{failure.quantity}{where} is {failure.found:.9g} and float64 says {failure.expected:.9g}"
    return found.max_relative_error, text, None if failure.batch is None else failure.batch - 1


def check_closed_form(numbers: Sequence[int], way: Way, activation: Activation, figures: Seen, samples: int) -> Row:
    """Hold the loss of the network of ones, and the means of its tensors, against their expectations."""
    assert figures.loss is not None  # it is of all batches
    quantities = [("loss", figures.loss, closed_form.loss(activation, way.hidden, NOISE_STD))]
    for name, statistics in figures.tensors.items():
        quantities.append((f"mean of {name}", float(statistics.mean), closed_form.values(name, activation, way.hidden)))
    worst, text = 0.0, None
    for name, found, right in quantities:
        error = abs(found - right.mean) / (right.deviation / math.sqrt(samples))
        worst = max(worst, math.inf if math.isnan(error) else error)
        if not error <= STANDARD_ERRORS and text is None:
            text = f"{activation}, {way.name}: the {name} is {found:.6g}, not about {right.mean:.6g}"
    return judge("ones: expected loss, means", numbers, worst, STANDARD_ERRORS, "standard errors", text)


def check_bits(devices: Sequence[Any], way: Way, where: str, first: Seen, second: Seen) -> Row:
    """Compare two runs bit for bit."""
    found, text = differing(first, second), None
    if found:
        name, places = next(iter(found.items()))
        text = f"{where}: {len(places)} of {name} differ" + (", among others" if len(found) > 1 else "")
    wrong: set[int] = set()
    if not way.parted:
        batches = len(first.columns["loss"])
        differ = (at for name in first.columns for at in found.get(name, ()))
        wrong = {number for at in differ for number in _owner(devices, at, batches)}
    return judge("the same, bit for bit", ids(devices), sum(map(len, found.values())), 0, "values", text, wrong)


def differing(a: Seen, b: Seen) -> dict[str, NDArray[np.int64]]:
    """Return the figures that differ in any bit, and in which places."""
    theirs = _arrays(b)
    places = {name: np.flatnonzero(_bits(values) != _bits(theirs[name])) for name, values in _arrays(a).items()}
    return {name: where for name, where in places.items() if len(where)}


def _arrays(seen: Seen) -> dict[str, NDArray[Any]]:
    """Return every figure by name."""
    whole = {
        f"{field} of {name}": np.array([getattr(statistics, field)])
        for name, statistics in seen.tensors.items()
        for field in Statistics._fields
    }
    return {**seen.columns, **whole, "loss of the epoch": np.array([seen.loss])}


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    return values.view(f"u{values.dtype.itemsize}")


def check_devices(devices: Sequence[Any], seen: dict[tuple[Any, ...], Seen]) -> Iterator[Row]:
    """Compare the extremes and counts of each device alone with those of its batches when all devices passed.

    They do not depend on the order of sums, and the programs of one share are alike.
    """
    case, numbers = (Initializer.he_normal, PLAIN), ids(devices)
    whole = seen.get((_name(ALONE), *numbers, *case))
    parts = {number: seen.get((_name_alone(PLAIN), number, *case)) for number in numbers}
    if whole is None or None in parts.values():
        raise CubicError("not every pass came to an end, see the rows above")
    start = 0
    for number, part in parts.items():
        assert part is not None
        stop = start + len(part.columns["loss"])
        names = [name for name in part.columns if name != "loss"]
        counts = {name: count_differing(part.columns[name], whole.columns[name][start:stop]) for name in names}
        total, text = sum(counts.values()), None
        if total:
            name = next(name for name, count in counts.items() if count)
            text = f"device {number}: {counts[name]} of {name} are not those that it found beside the others"
        yield judge("alone as together", [number], total, 0, "values", text)
        start = stop


# --- what is not finite ---------------------------------------------------------------------------------------------


def spoil(samples: Arrays) -> Arrays:
    """Return the samples with NaN, both infinities and zero among the x of some batches, and NaN and ∞ among the y."""
    x, y = samples.x.copy(), samples.y.copy()
    for offset, value in enumerate((np.nan, np.inf, -np.inf, 0.0)):
        x[offset * 13 :: 97] = value
    y[5::101], y[7::103] = np.nan, np.inf
    return Arrays(x, y)


def count_kinds(parameters: Parameters, samples: Arrays) -> dict[str, Any]:
    """Return what must be counted of each tensor, from float64, and of each batch."""
    with np.errstate(all="ignore"):
        tensors = forward(parameters, samples.x, ALONE)
        error = np.square(tensors[2] - samples.y)
    counts: dict[str, Any] = {}
    bad = np.zeros(len(samples.x), np.int64)
    for name, values in zip(TENSORS, tensors, strict=True):
        counts[name] = summarise(values)
        bad += (~np.isfinite(values)).reshape(len(values), -1).sum(axis=1)
    starts = np.arange(0, len(bad), BATCH)
    counts["nonfinite"] = np.add.reduceat(bad, starts) + ~np.isfinite(np.add.reduceat(error, starts))
    return counts


def check_counts(devices: Sequence[Any], way: Way, figures: Seen, counts: dict[str, Any]) -> Iterator[Row]:
    """Compare the counts of NaN, ∞, −∞ and zeros, which are exact."""
    found = figures.columns["nonfinite"]
    wrong = np.flatnonzero(found != counts["nonfinite"])
    text = None
    if len(wrong):
        batch = int(wrong[0])
        right = counts["nonfinite"][batch]
        text = f"{way.name}: {found[batch]} values of batch {batch + 1} are not finite, not {right}"
    total = len(wrong)
    for name in TENSORS:
        for kind in ("nan", "posinf", "neginf", "zeros", "count"):
            seen, right = (int(getattr(side[name], kind)) for side in (figures.tensors, counts))
            if seen != right:
                total += 1
                text = text or f"{way.name}: the {kind} of {name} is {seen}, not {right}"
    owners = {number for batch in wrong for number in _owner(devices, int(batch), len(found))}
    yield judge("NaN and infinities counted", ids(devices), total, 0, "values", text, owners)
