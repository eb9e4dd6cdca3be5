"""`cubic check`: does this JAX installation compute right on these devices? Nothing is read and nothing is written.

Samples drawn in memory go through `forward.Pass`, the compiled pass of `cubic forward`, under every initialiser and
activation, in batches that divide the samples and that do not, over all devices and over one, twice. What comes out is
held against the float64 reference, closed forms, and itself. Compiling takes nearly all of the time: so shapes are few
and small, parameters and the activation are data, and programs compile side by side.

    N samples, B batch, H hidden, D devices
"""

import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cubic_cli import closed_form, verify
from cubic_cli.config import Activation, Device, ForwardConfig, GenerateConfig, Initializer
from cubic_cli.devices import pick_devices
from cubic_cli.problem import Float32, draw
from cubic_cli.record import describe_tensor
from cubic_cli.source import Arrays
from cubic_cli.verdict import Report, Row, count_differing, guard, name_devices, number

if TYPE_CHECKING:
    from cubic_cli.forward import Epoch, Pass
    from cubic_cli.network import Parameters
    from cubic_cli.primitives import Drawn

HIDDEN, BATCH, SAMPLES = 4, 4, 1000  # B divides N; it does not divide N − 2, which is as many batches
STANDARD_ERRORS = 5.0  # beyond which a sample contradicts a closed form: one in two million by chance
TENSORS = ("z1", "a1", "z2")
DEFAULT = ForwardConfig()
NOISE_STD = GenerateConfig.noise_std
_SEED = 0


class Case(NamedTuple):
    """One way through the pass."""

    initializer: Initializer
    activation: Activation
    samples: int

    def __str__(self) -> str:
        return f"{self.initializer}, {self.samples} samples in batches of {BATCH}"


# Every initialiser with every activation, and each of both with batches that divide and that do not.
CASES = [
    Case(initializer, activation, SAMPLES - 2 * ((i + j) % 2))
    for i, initializer in enumerate(Initializer)
    for j, activation in enumerate(Activation)
]


class Twice(NamedTuple):
    """Two epochs of one pass."""

    first: "Epoch"
    second: "Epoch"


class Seen(NamedTuple):
    """What came out of some passes with these parameters."""

    parameters: "dict[Initializer, Parameters]"
    epochs: dict[Case, Twice]


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


def check_all(devices: list[Any]) -> Iterator[Row]:
    """Yield the rows of the table. What JAX raises under way becomes a row that has not passed."""
    from cubic_cli import primitives

    samples = next(draw(SAMPLES, NOISE_STD, _SEED))
    sets = [devices] if len(devices) == 1 else [devices, devices[:1]]
    with ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 1))) as pool:  # XLA compiles outside Python's lock
        drawn = pool.submit(primitives.draw, HIDDEN)
        # One device computes the history alone: that is sooner compiled, and `forward` has a program for it too.
        seen = [pool.submit(pass_cases, some, samples, drawn, some is devices) for some in sets]
        default = pool.submit(pass_default, devices, samples)
        nonfinite = pool.submit(pass_nonfinite, devices, samples)
        product = pool.submit(primitives.multiply, devices)
        yield from guard("x·W + b", devices, lambda: primitives.check_product(product.result(), devices))
        yield from guard("initializers", devices[:1], lambda: primitives.check_drawn(drawn.result(), devices[:1]))
        for some, future in zip(sets, seen, strict=True):
            yield from guard("the pass", some, partial(check_cases, future, samples, some))
        if len(sets) > 1:
            yield from guard("all devices and one", devices, partial(check_devices, devices, *seen))
        yield from guard("default run", devices, partial(check_default, default, samples, devices))
        yield from guard("NaN and infinities", devices, partial(check_nonfinite, nonfinite, devices))


def make_pass(
    parameters: "Parameters", x: Float32, y: Float32, batch: int, activation: Activation, devices: list[Any], **how: Any
) -> "Pass":
    """Return the pass over these samples."""
    from cubic_cli.forward import Pass

    return Pass(parameters, Arrays(x, y), batch, activation, devices, **how)


# --- every initialiser and activation -------------------------------------------------------------------------------


def pass_cases(devices: list[Any], samples: tuple[Float32, Float32], drawn: "Future[Drawn]", statistics: bool) -> Seen:
    """Run every case on the devices, with or without the statistics of tensors; all share one compiled program."""
    from cubic_cli.network import initialise

    def of(case: Case, parameters: "Parameters") -> "Pass":
        x, y = (array[: case.samples] for array in samples)
        return make_pass(parameters, x, y, BATCH, case.activation, devices, any_activation=True, statistics=statistics)

    of(CASES[0], initialise(Initializer.ones, HIDDEN, _SEED))  # compiles, while the parameters are drawn
    parameters, epochs = drawn.result().first, {}
    for case in CASES:
        passing = of(case, parameters[case.initializer])
        epochs[case] = Twice(passing.epoch(), passing.epoch())
    return Seen(parameters, epochs)


def check_cases(future: "Future[Seen]", samples: tuple[Float32, Float32], devices: list[Any]) -> Iterator[Row]:
    """Compare each activation with float64, the losses and means with closed forms, and two runs bit for bit."""
    parameters, epochs = future.result()
    (x, y), where = samples, name_devices(devices)
    for activation in Activation:
        worst, failure = 0.0, None
        for case in (case for case in CASES if case.activation is activation):
            n, network = case.samples, parameters[case.initializer]
            error, text = compare(network, x[:n], y[:n], BATCH, activation, epochs[case].first)
            worst, failure = max(worst, error), failure or (text and f"{case}: {text}")
        limit = verify.tolerance(HIDDEN)
        yield Row(f"{activation} against float64", where, number(worst), limit, "relative", failure)
    ones = {case.activation: pair.first for case, pair in epochs.items() if case.initializer is Initializer.ones}
    means = " and means" if any(epoch.tensors for epoch in ones.values()) else ""
    yield check_closed_form(f"ones: expected loss{means}", ones, HIDDEN, where)
    yield _row_of_bits("all of these, two runs", where, {case: differing(*pair) for case, pair in epochs.items()})


def compare(
    parameters: "Parameters", x: Float32, y: Float32, batch: int, activation: Activation, epoch: "Epoch"
) -> tuple[float, str | None]:
    """Compare every figure of an epoch with float64; returns the largest relative error, and what is wrong."""
    from cubic_cli.network import by_name

    reference = verify.compute(by_name(parameters), x, y, batch, activation)
    history: dict[str, NDArray[Any]] = {"loss": epoch.batch_loss}
    history["nonfinite"] = epoch.nonfinite + ~np.isfinite(epoch.batch_loss)
    for name in TENSORS:
        history |= {f"{name}_min": epoch.low[name], f"{name}_max": epoch.high[name]}
    tensors = {name: describe_tensor(name, [], statistics) for name, statistics in epoch.tensors.items()}
    seen = verify.Seen(history, tensors, [epoch.loss], [], epoch.loss)
    result = verify.verify(reference, seen, np.arange(len(epoch.sizes)), parameters.input_layer.bias.size)
    return result["max_relative_error"], _explain(result.get("failure"))


def _explain(failure: dict[str, Any] | None) -> str | None:
    if failure is None:
        return None
    where = "" if failure["batch"] is None else f" of batch {failure['batch']}"
    return f"{failure['quantity']}{where} is {failure['found']:.9g} and float64 says {failure['expected']:.9g}"


def check_closed_form(what: str, ones: "dict[Activation, Epoch]", hidden: int, where: str) -> Row:
    """Hold the loss of the network of ones, and the means of its tensors, against their expectations."""
    worst, failure = 0.0, None
    for activation, epoch in ones.items():
        quantities = [("loss", epoch.loss, closed_form.loss(activation, hidden, NOISE_STD))]
        for name, statistics in epoch.tensors.items():
            expected = closed_form.values(name, activation, hidden)
            quantities.append((f"mean of {name}", float(statistics.mean), expected))
        for name, found, expected in quantities:
            error = abs(found - expected.mean) / (expected.deviation / math.sqrt(epoch.sizes.sum()))
            worst = max(worst, math.inf if math.isnan(error) else error)
            if not error <= STANDARD_ERRORS and failure is None:
                failure = f"{activation}: the {name} is {found:.6g}, not about {expected.mean:.6g}"
    return Row(what, where, number(worst), STANDARD_ERRORS, "standard errors", failure)


# --- run against run ------------------------------------------------------------------------------------------------


def _figures(epoch: "Epoch") -> dict[str, NDArray[Any]]:
    """Return every figure of an epoch by name, in the order of the data flow."""
    figures: dict[str, NDArray[Any]] = {}
    for name in TENSORS:
        figures |= {f"{name}_min": epoch.low[name], f"{name}_max": epoch.high[name]}
        whole = epoch.tensors[name]._asdict() if epoch.tensors else {}
        figures |= {f"{name}_{field}": np.array([whole[field]]) for field in whole if field not in ("min", "max")}
    return figures | {"nonfinite": epoch.nonfinite, "loss": epoch.batch_loss, "epoch_loss": np.array([epoch.loss])}


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


def check_devices(devices: list[Any], every: "Future[Seen]", one: "Future[Seen]") -> Iterator[Row]:
    """Compare what all devices found with what one did, in all that does not hang on the order of sums."""
    exact = ("_min", "_max", "_count", "_zeros", "nonfinite")
    pairs = {case: (every.result().epochs[case].first, one.result().epochs[case].first) for case in CASES}
    found = {case: differing(*pair, exact) for case, pair in pairs.items()}
    yield _row_of_bits("extremes and counts, all and one", name_devices(devices), found)


# --- the default run, and what is not finite ------------------------------------------------------------------------


def pass_default(devices: list[Any], samples: tuple[Float32, Float32]) -> "tuple[Parameters, Twice]":
    """Run the network that `cubic forward` runs when nothing else is asked for: its very program."""
    from cubic_cli.network import initialise

    parameters = initialise(DEFAULT.initializer, DEFAULT.hidden_size, DEFAULT.seed)
    passing = make_pass(parameters, *samples, DEFAULT.batch_size, DEFAULT.activation, devices)
    return parameters, Twice(passing.epoch(), passing.epoch())


def check_default(
    future: "Future[tuple[Parameters, Twice]]", samples: tuple[Float32, Float32], devices: list[Any]
) -> Iterator[Row]:
    """Compare the default run with float64, with its closed form and with itself."""
    (parameters, epochs), where, name = future.result(), name_devices(devices), f"H = {DEFAULT.hidden_size}"
    error, failure = compare(parameters, *samples, DEFAULT.batch_size, DEFAULT.activation, epochs.first)
    limit = verify.tolerance(DEFAULT.hidden_size)
    yield Row(f"default run, {name}, against float64", where, number(error), limit, "relative", failure)
    ones = {DEFAULT.activation: epochs.first}
    yield check_closed_form(f"default run, {name}: expected loss", ones, DEFAULT.hidden_size, where)
    counts = differing(*epochs)
    failure = f"{', '.join(counts)} changed" if counts else None
    yield Row(f"default run, {name}, two runs", where, sum(counts.values()), 0.0, "values", failure)


def pass_nonfinite(devices: list[Any], samples: tuple[Float32, Float32]) -> "Epoch":
    """Run the network of ones, by the schedule that counts, over one batch a device; NaN, ∞ and −∞ are in the first."""
    from cubic_cli.network import initialise

    x, y = (array[: BATCH * len(devices)].copy() for array in samples)
    x[:3] = np.nan, np.inf, -np.inf
    ones = initialise(Initializer.ones, HIDDEN, _SEED)
    return make_pass(ones, x, y, BATCH, Activation.relu, devices, by_unit=False).epoch()


def check_nonfinite(future: "Future[Epoch]", devices: list[Any]) -> Iterator[Row]:
    """Count what must have become of them: ReLU turns −∞ to 0, and nothing else does."""
    tensors = future.result().tensors
    expected = {"z1": (HIDDEN, HIDDEN, HIDDEN), "a1": (HIDDEN, HIDDEN, 0), "z2": (1, 1, 0)}
    wrong, failure = 0, None
    for name, counts in expected.items():
        for kind, count in zip(("nan", "posinf", "neginf"), counts, strict=True):
            found = int(getattr(tensors[name], kind))
            wrong += abs(found - count)
            if found != count and failure is None:
                failure = f"{found} values of {name} are {kind}, not {count}"
    yield Row("NaN and infinities, counted", name_devices(devices), wrong, 0.0, "values", failure)
