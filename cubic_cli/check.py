"""`cubic check`: does this JAX installation compute right on this device? Nothing is read and nothing is written.

Samples made in memory go through the very pass that `forward` runs, with every initialiser and every activation, in
batches that divide the samples and in batches that do not, on all devices and on one, twice. What comes out is held
against NumPy float64 (`verify`), against closed forms, and against itself, bit for bit.
"""

import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cubic_cli import verify
from cubic_cli.config import Activation, Device, Initializer
from cubic_cli.dataset import Float32, draw
from cubic_cli.devices import pick_devices

if TYPE_CHECKING:
    from cubic_cli.forward import Chunk, Pass
    from cubic_cli.network import Parameters

HIDDEN_SIZE = 16
BATCH_SIZE = 10
SAMPLES = 200  # twenty whole batches
SHORTER = SAMPLES - 3  # the last batch has seven
_SEED = 0
_NOISE_STD = 10.0
_FILLED = (Initializer.ones, Initializer.zeros)
_DRAWN = tuple(kind for kind in Initializer if kind not in _FILLED)
_TENSORS = ("z1", "a1", "z2")
# JAX draws from a normal distribution that is cut off at two standard deviations, and widens it to keep the variance.
_CUT_NORMAL = 2 / 0.87962566103423978


@dataclass(frozen=True)
class Row:
    """One thing that was checked: on which devices, the largest error, its limit, and what was wrong, if anything."""

    what: str
    device: str
    error: float | None
    limit: float | None
    failure: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the installation computed this right."""
        return self.failure is None


@dataclass(frozen=True)
class Report:
    """All that was checked, on which devices, with which version of JAX."""

    platform: str
    kind: str
    devices: int
    jax: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether everything was right."""
        return all(row.passed for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Return the document that `cubic check --json` prints."""
        rows = []
        for row in self.rows:
            rows.append({"what": row.what, "device": row.device, "error": row.error, "limit": row.limit})
            rows[-1] |= {"passed": row.passed, "failure": row.failure}
        device = {"platform": self.platform, "kind": self.kind, "devices": self.devices}
        return {"device": device, "versions": {"jax": self.jax}, "rows": rows, "passed": self.passed}


class _Outcome(NamedTuple):
    error: float
    limit: float
    failure: str | None


def check(device: Device) -> Report:
    """Check the devices of JAX's backend `device`.

    Raises:
        DeviceError: there is no such device.
    """
    devices = pick_devices(device)
    import jax

    return Report(
        devices[0].platform, devices[0].device_kind, len(devices), jax.__version__, tuple(_check_all(devices))
    )


def _check_all(devices: list[Any]) -> Iterator[Row]:
    platform = devices[0].platform
    everywhere = f"{platform} × {len(devices)}" if len(devices) > 1 else platform

    def row(what: str, compare: Callable[[], _Outcome], where: str = everywhere) -> Row:
        try:
            return Row(what, where, *compare())
        except Exception as error:  # whatever JAX raises says that the device does not work
            text = (str(error).splitlines() or [""])[0]
            return Row(what, where, None, None, f"{type(error).__name__}: {text}")

    x, y = next(draw(SAMPLES, _NOISE_STD, _SEED))
    networks: dict[Initializer, Parameters] = {}
    yield row("matrix product at highest precision", partial(_multiply, devices[0]), platform)
    yield row("drawn parameters", partial(_draw, networks), platform)
    if len(networks) < len(Initializer):
        return
    network = networks[Initializer.he_normal]
    _compile_all(network, x, y, devices)
    for initializer in Initializer:
        yield row(f"initializer {initializer}", partial(_compare, networks[initializer], x, y, devices))
    for kind in Activation:
        yield row(f"activation {kind}", partial(_compare, network, x, y, devices, kind))
    for initializer in _FILLED:
        closed_form = partial(_compare_with_closed_form, initializer, networks[initializer], x, y, devices)
        yield row(f"closed form for {initializer}", closed_form)
    yield row("a last batch that is shorter", partial(_compare, network, x[:SHORTER], y[:SHORTER], devices))
    yield row("the plain schedule", partial(_compare, network, x, y, devices, by_unit=False))
    yield row("values that are not finite", partial(_count_nonfinite, network, x, y, devices))
    yield row("a second run, bit for bit", partial(_run_twice, network, x, y, devices))
    if len(devices) > 1:
        yield row("one device and all, bit for bit", partial(_compare_one_with_all, network, x, y, devices))


def _multiply(device: Any) -> _Outcome:
    """Multiply matrices that need all 24 bits: a product in bfloat16 or TF32 is off by 1e-4 and more."""
    import jax

    rng = np.random.default_rng(_SEED)
    a, b = (rng.uniform(1, 2, (64, 64)).astype(np.float32) for _ in range(2))
    product = jax.jit(partial(jax.numpy.matmul, precision=jax.lax.Precision.HIGHEST))
    found = np.asarray(product(jax.device_put(a, device), jax.device_put(b, device)), np.float64)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    error, limit = float(np.abs(found - expected).max() / expected.max()), 64 * 2.0**-24
    failure = f"the product is off by {error:.1e} of its largest value: this is not float32 at highest precision"
    return _Outcome(error, limit, None if error <= limit else failure)


def _draw(networks: "dict[Initializer, Parameters]") -> _Outcome:
    """Fill `networks`, and compare the largest weight with the bound of its distribution."""
    import jax

    from cubic_cli.network import initialise

    drawn, again = _draw_all(), _draw_all()
    networks |= {kind: initialise(kind, HIDDEN_SIZE, _SEED) for kind in _FILLED}
    networks |= dict(zip(_DRAWN, drawn, strict=True))
    largest, failure = 0.0, None
    for kind, network in zip(_DRAWN, drawn, strict=True):
        weights = np.concatenate([np.asarray(layer.weight).ravel() for layer in network])
        if len(np.unique(weights)) < len(weights) or not np.isfinite(weights).all():
            failure = f"the weights of {kind} are not {len(weights)} different numbers"
        for layer in network:
            fan_in, fan_out = layer.weight.shape
            variance = 2 / fan_in if kind.startswith("he") else 2 / (fan_in + fan_out)
            bound = math.sqrt(variance) * (math.sqrt(3) if kind.endswith("uniform") else _CUT_NORMAL)
            largest = max(largest, float(np.abs(layer.weight).max()) / bound)
    if largest > 1:
        failure = f"a weight is {largest:.3g} times the largest that its distribution has"
    if not jax.tree.all(jax.tree.map(_same_bits, drawn, again)):
        failure = "drawn twice from one key, the parameters differ"
    return _Outcome(largest, 1.0, failure)


def _draw_all() -> "list[Parameters]":
    """Draw the parameters of each initialiser that draws."""
    drawn: list[Parameters] = _draw_program()()
    return drawn


@functools.cache
def _draw_program() -> Callable[[], Any]:
    import jax

    from cubic_cli.network import initialise

    # One program, for that of each would take as long to compile.
    return jax.jit(lambda: [initialise(kind, HIDDEN_SIZE, _SEED) for kind in _DRAWN])


def _compile_all(network: "Parameters", x: Float32, y: Float32, devices: list[Any]) -> None:
    """Compile the programs of the rows at once: XLA compiles outside Python's lock."""
    wanted: list[Callable[[], Any]] = [partial(_pass, network, x, y, devices, kind) for kind in Activation]
    wanted += [partial(_pass, network, x, y, devices, by_unit=False), partial(_pass, network, x, y, devices[:1])]
    with ThreadPoolExecutor() as pool:
        for compiling in [pool.submit(make) for make in wanted]:
            compiling.exception()  # comes again in the row that needs the program, and is told there


def _pass(
    network: "Parameters",
    x: Float32,
    y: Float32,
    devices: list[Any],
    activation: Activation = Activation.relu,
    by_unit: bool | None = None,
) -> "Pass":
    from cubic_cli.forward import Pass
    from cubic_cli.source import Arrays

    return Pass(network, Arrays(x, y), BATCH_SIZE, activation, devices, by_unit=by_unit)


def _run(*arguments: Any, **options: Any) -> "Chunk":
    (chunk,) = _pass(*arguments, **options).chunks()
    return chunk


def _compare(
    network: "Parameters",
    x: Float32,
    y: Float32,
    devices: list[Any],
    activation: Activation = Activation.relu,
    by_unit: bool | None = None,
) -> _Outcome:
    """Compare every figure of the history and of the record with NumPy float64."""
    from cubic_cli.network import by_name

    chunk = _run(network, x, y, devices, activation, by_unit)
    reference = verify.compute(by_name(network), x, y, BATCH_SIZE, activation)
    result = verify.verify(reference, _seen(chunk), np.arange(len(chunk.sizes)), HIDDEN_SIZE)
    return _Outcome(result["max_relative_error"], result["tolerance"], _describe(result.get("failure")))


def _seen(chunk: "Chunk") -> verify.Seen:
    from cubic_cli.record import describe_tensor
    from cubic_cli.run import history_columns

    assert chunk.tensors is not None
    tensors = {name: describe_tensor(name, [], statistics) for name, statistics in chunk.tensors.items()}
    loss = float(chunk.squared_error.sum() / chunk.sizes.sum())
    return verify.Seen(history_columns(chunk), tensors, [loss], [], loss)


def _describe(failure: dict[str, Any] | None) -> str | None:
    if failure is None:
        return None
    where = "" if failure["batch"] is None else f" of batch {failure['batch']}"
    return f"{failure['quantity']}{where} is {failure['found']:.9g} and float64 says {failure['expected']:.9g}"


def _compare_with_closed_form(
    initializer: Initializer, network: "Parameters", x: Float32, y: Float32, devices: list[Any]
) -> _Outcome:
    """Compare losses and extremes with what all ones (z1 = x + 1, z2 = H·max(z1, 0) + 1) or all zeros must give."""
    chunk = _run(network, x, y, devices)
    xs, ys = (column.astype(np.float64).reshape(-1, BATCH_SIZE) for column in (x, y))
    ones = float(initializer is Initializer.ones)
    z1 = ones * (xs + 1)
    z2 = ones * (HIDDEN_SIZE * np.maximum(z1, 0) + 1)
    expected = {"z1": z1, "a1": np.maximum(z1, 0), "z2": z2}
    errors = {"loss": _relative(chunk.loss, np.square(z2 - ys).mean(axis=1))}
    for name, tensor in expected.items():
        errors[f"{name}_min"] = _relative(chunk.low[name], tensor.min(axis=1))
        errors[f"{name}_max"] = _relative(chunk.high[name], tensor.max(axis=1))
    worst = max(errors, key=lambda name: errors[name])
    limit = verify.tolerance(HIDDEN_SIZE)
    failure = f"{worst} is off by {errors[worst]:.1e}, relatively"
    return _Outcome(errors[worst], limit, None if errors[worst] <= limit else failure)


def _relative(found: Float32, expected: NDArray[np.float64]) -> float:
    error = np.abs(found - expected).max() / (np.abs(expected).max() or 1.0)
    return float(error) if np.isfinite(error) else math.inf


def _count_nonfinite(network: "Parameters", x: Float32, y: Float32, devices: list[Any]) -> _Outcome:
    """Count a NaN and two infinities among the samples: each must be found in every unit that it reaches."""
    x = x.copy()
    x[[3, 57, 121]] = np.nan, np.inf, -np.inf
    chunk = _run(network, x, y, devices)
    assert chunk.tensors is not None
    z1 = chunk.tensors["z1"]
    found = (int(z1.nan), int(z1.posinf) + int(z1.neginf))
    expected = (HIDDEN_SIZE, 2 * HIDDEN_SIZE)
    batches = [k for k, loss in enumerate(chunk.loss) if not np.isfinite(loss)]
    failure = None
    if found != expected:
        failure = f"z1 holds {expected[0]} NaN and {expected[1]} infinities; {found[0]} and {found[1]} were counted"
    elif batches != [0, 5, 12]:
        failure = "the losses that are not finite are not those of the batches with such values"
    return _Outcome(float(abs(sum(found) - sum(expected))), 0.0, failure)


def _run_twice(network: "Parameters", x: Float32, y: Float32, devices: list[Any]) -> _Outcome:
    first, second = _run(network, x, y, devices), _run(network, x, y, devices)
    return _bit_for_bit(first, second, losses=True, failure="from one run to the next, {} changed")


def _compare_one_with_all(network: "Parameters", x: Float32, y: Float32, devices: list[Any]) -> _Outcome:
    every, one = _run(network, x, y, devices), _run(network, x, y, devices[:1])
    return _bit_for_bit(every, one, losses=False, failure="{} is another on one device than on all")


def _bit_for_bit(a: "Chunk", b: "Chunk", losses: bool, failure: str) -> _Outcome:
    """Compare the extremes, and the `losses` if asked for, bit for bit; the error is the share that differs."""
    pairs = {f"{name}_min": (a.low[name], b.low[name]) for name in _TENSORS}
    pairs |= {f"{name}_max": (a.high[name], b.high[name]) for name in _TENSORS}
    if losses:
        pairs["loss"] = (a.loss, b.loss)
    different = [name for name, pair in pairs.items() if not _same_bits(*pair)]
    return _Outcome(len(different) / len(pairs), 0.0, failure.format(different[0]) if different else None)


def _same_bits(a: Any, b: Any) -> bool:
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()
