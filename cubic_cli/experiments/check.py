"""`cubic check`: does this JAX installation compute right on these devices? Nothing is read and nothing is written.

Samples drawn in memory go through `forward.Pass`, the compiled pass of `cubic forward`, under every initialiser and
activation, in batches that divide the samples and that do not, over all devices and over one, twice. What comes out is
held against the float64 reference, closed forms, and itself. Compiling takes nearly all of the time: so shapes are few
and small, parameters and the activation are data, and programs compile side by side. The programs of `forward` know
their activation, and are others: a run verifies itself.

    N samples, B batch, H hidden, D devices
"""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cubic_cli.config import Activation, Device, GenerateConfig, Initializer
from cubic_cli.data.problem import Float32, draw
from cubic_cli.data.source import Arrays
from cubic_cli.engine.devices import pick_devices
from cubic_cli.experiments.report import STANDARD_ERRORS, Report, Row, count_differing, guard, name_devices, number
from cubic_cli.reference import closed_form, expected, verify

if TYPE_CHECKING:
    from cubic_cli.engine.passes import Epoch, Pass
    from cubic_cli.experiments.primitives import Drawn
    from cubic_cli.parameters import Parameters

HIDDEN, BATCH, BATCHES = 2, 4, 250
MISSING = 2  # samples that the last batch lacks, where it is shorter
TENSORS = ("z1", "a1", "z2")
NOISE_STD = GenerateConfig.noise_std
_SEED = 0
_THREADS = 3  # as many as have something long to compile


class Case(NamedTuple):
    """One way through the pass; `missing` is how many samples the last batch has less than the others."""

    initializer: Initializer
    activation: Activation
    missing: int

    def __str__(self) -> str:
        last = f", the last of {BATCH - self.missing}" if self.missing else ""
        return f"{self.initializer}, batches of {BATCH}{last}"


# `ones`, which has closed forms, with every activation, and each other initialiser with two: so that each of both meets
# batches that divide the samples and batches that do not.
CASES = [
    Case(initializer, activation, MISSING * (step % 2))
    for i, initializer in enumerate(Initializer)
    for j, activation in enumerate(Activation)
    if (step := (j - i) % len(Activation)) < 2 or initializer is Initializer.ones
]


class Twice(NamedTuple):
    """Two epochs of one pass."""

    first: "Epoch"
    second: "Epoch"


def check(device: Device) -> Report:
    """Check all devices of JAX's backend `device`, and the first of them alone.

    Raises:
        DeviceError: there is no such device.
    """
    started = time.perf_counter()
    devices = pick_devices(device)
    import jax

    rows = tuple(check_all(devices))
    seconds = time.perf_counter() - started
    return Report(devices[0].platform, devices[0].device_kind, len(devices), jax.__version__, seconds, rows)


def check_all(devices: list[Any]) -> list[Row]:
    """Return the rows of the table. What JAX raises under way becomes a row that has not passed."""
    from cubic_cli.experiments import primitives

    batches = -(-BATCHES // len(devices)) * len(devices)  # each device has as many
    samples = next(draw(batches * BATCH, NOISE_STD, _SEED))
    one = devices[:1]
    sets = [one, devices] if len(devices) > 1 else [devices]
    with ThreadPoolExecutor(_THREADS) as pool:  # XLA compiles outside Python's lock

        def rows(what: str, on: list[Any], found: Callable[[], Iterator[Row]]) -> Future[list[Row]]:
            return pool.submit(guard, what, on, found)

        # One device computes the history alone: that is sooner compiled, and `forward` has such a program too. What
        # waits for a result was submitted after what gives it, so that no number of threads is too small.
        making = [pool.submit(make_passes, some, samples, some is devices) for some in sets]
        drawn = pool.submit(primitives.draw, HIDDEN, one[0])
        table = [
            rows("x·W + b", devices, lambda: primitives.check_product(primitives.multiply(devices), devices)),
            rows("NaN and infinities", devices, lambda: primitives.check_counted(primitives.count(devices), devices)),
            rows("initializers", one, lambda: primitives.check_drawn(drawn.result(), one)),
        ]
        references = pool.submit(refer, samples, drawn)
        seen = [pool.submit(pass_cases, make, drawn) for make in making]
        for some, future in zip(sets, seen, strict=True):
            table.append(rows("the pass", some, partial(check_cases, future, references, some)))
        if len(sets) > 1:
            table.append(rows("one device and all", devices, partial(check_devices, devices, *seen)))
    return [row for future in table for row in future.result()]


def make_passes(
    devices: list[Any], samples: tuple[Float32, Float32], statistics: bool
) -> "Callable[[Case, Parameters], Pass]":
    """Return what makes the pass of a case, with or without the statistics of tensors; compiles."""
    from cubic_cli.engine.passes import Pass
    from cubic_cli.network import initialise

    def make(case: Case, parameters: "Parameters") -> Pass:
        return Pass(
            parameters,
            Arrays(*_part(samples, case)),
            BATCH,
            case.activation,
            devices,
            statistics=statistics,
        )

    for case in CASES[: len(Activation)]:  # compiles, while the parameters are drawn
        make(case, initialise(Initializer.ones, HIDDEN, _SEED))
    return make


def pass_cases(making: "Future[Callable[[Case, Parameters], Pass]]", drawn: "Future[Drawn]") -> dict[Case, Twice]:
    """Run every case, twice."""
    make, parameters = making.result(), drawn.result().first
    passes = ((case, make(case, parameters[case.initializer])) for case in CASES)
    from cubic_cli.engine.passes import gather

    return {case: Twice(gather(passing.run()), gather(passing.run())) for case, passing in passes}


def refer(samples: tuple[Float32, Float32], drawn: "Future[Drawn]") -> dict[Case, expected.Reference]:
    """Return the float64 reference of every case."""
    from cubic_cli.parameters import Parameters

    values = {kind: Parameters(*map(np.asarray, parameters)) for kind, parameters in drawn.result().first.items()}
    return {
        case: expected.compute(values[case.initializer], *_part(samples, case), BATCH, case.activation)
        for case in CASES
    }


def _part(samples: tuple[Float32, Float32], case: Case) -> tuple[Float32, Float32]:
    x, y = samples
    return x[: len(x) - case.missing], y[: len(y) - case.missing]


def check_cases(
    future: "Future[dict[Case, Twice]]", referring: "Future[dict[Case, expected.Reference]]", devices: list[Any]
) -> Iterator[Row]:
    """Compare each activation with float64, the losses and means with closed forms, and two runs bit for bit."""
    epochs, references, where = future.result(), referring.result(), name_devices(devices)
    for activation in Activation:
        worst, failure = 0.0, None
        for case in (case for case in CASES if case.activation is activation):
            error, text = compare(references[case], epochs[case].first)
            worst, failure = max(worst, error), failure or (text and f"{case}: {text}")
        limit = expected.tolerance(HIDDEN)
        yield Row(f"{activation} against float64", where, number(worst), limit, "relative", failure)
    ones = {case.activation: pair.first for case, pair in epochs.items() if case.initializer is Initializer.ones}
    means = " and means" if any(epoch.tensors for epoch in ones.values()) else ""
    yield check_closed_form(f"ones: expected loss{means}", ones, where)
    yield _row_of_bits("all of these, two runs", where, {case: differing(*pair) for case, pair in epochs.items()})


def compare(reference: expected.Reference, epoch: "Epoch") -> tuple[float, str | None]:
    """Compare every figure of an epoch with float64; returns the largest relative error, and what is wrong."""
    seen = verify.Seen(epoch.columns, epoch.tensors, epoch.loss)
    verdict = verify.verify(reference, seen, np.arange(len(epoch.columns["size"])))
    return verdict.max_relative_error, _explain(verdict.failure)


def _explain(failure: verify.Failure | None) -> str | None:
    if failure is None:
        return None
    where = "" if failure.batch is None else f" of batch {failure.batch}"
    return f"{failure.quantity}{where} is {failure.found:.9g} and float64 says {failure.expected:.9g}"


def check_closed_form(what: str, ones: "dict[Activation, Epoch]", where: str) -> Row:
    """Hold the loss of the network of ones, and the means of its tensors, against their expectations."""
    worst, failure = 0.0, None
    for activation, epoch in ones.items():
        quantities = [("loss", epoch.loss, closed_form.loss(activation, HIDDEN, NOISE_STD))]
        for name, statistics in epoch.tensors.items():
            expected = closed_form.values(name, activation, HIDDEN)
            quantities.append((f"mean of {name}", float(statistics.mean), expected))
        for name, found, expected in quantities:
            error = abs(found - expected.mean) / (expected.deviation / math.sqrt(epoch.columns["size"].sum()))
            worst = max(worst, math.inf if math.isnan(error) else error)
            if not error <= STANDARD_ERRORS and failure is None:
                failure = f"{activation}: the {name} is {found:.6g}, not about {expected.mean:.6g}"
    return Row(what, where, number(worst), STANDARD_ERRORS, "standard errors", failure)


# --- run against run ------------------------------------------------------------------------------------------------


def _figures(epoch: "Epoch") -> dict[str, NDArray[Any]]:
    """Return every figure of an epoch by name, in the order of the data flow."""
    figures: dict[str, NDArray[Any]] = {}
    for name in TENSORS:
        figures |= {f"{name}_{end}": epoch.columns[f"{name}_{end}"] for end in ("min", "max")}
        whole = epoch.tensors[name]._asdict() if epoch.tensors else {}
        figures |= {f"{name}_{field}": np.array([whole[field]]) for field in whole if field not in ("min", "max")}
    return figures | {
        "nonfinite": epoch.columns["nonfinite"],
        "loss": epoch.columns["loss"],
        "epoch_loss": np.array([epoch.loss]),
    }


def differing(a: "Epoch", b: "Epoch", endings: tuple[str, ...] = ("",)) -> dict[str, int]:
    """Return the figures of both, of those whose names end so, that differ in any bit, and in how many values."""
    theirs = _figures(b)
    both = ((name, ours) for name, ours in _figures(a).items() if name in theirs and name.endswith(endings))
    counts = {name: count_differing(ours, theirs[name]) for name, ours in both}
    return {name: count for name, count in counts.items() if count}


def _row_of_bits(what: str, where: str, found: dict[Case, dict[str, int]]) -> Row:
    total = sum(sum(counts.values()) for counts in found.values())
    failure = None
    if total:
        case, counts = next((case, counts) for case, counts in found.items() if counts)
        name, count = next(iter(counts.items()))
        failure = f"{case.activation}, {case}: {count} of {name} differ" + (", among others" if total > count else "")
    return Row(what, where, total, 0.0, "values", failure)


def check_devices(
    devices: list[Any], one: "Future[dict[Case, Twice]]", every: "Future[dict[Case, Twice]]"
) -> Iterator[Row]:
    """Compare what one device found with what all did, in what of the history does not hang on the order of sums."""
    exact = ("_min", "_max", "nonfinite")
    found = {case: differing(one.result()[case].first, every.result()[case].first, exact) for case in CASES}
    yield _row_of_bits("extremes, one device and all", name_devices(devices), found)
