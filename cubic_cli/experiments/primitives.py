"""What the pass stands on, for `check`: a matrix product in full float32, parameters drawn as they should be, and the
count of values that are not finite.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from cubic_cli import network
from cubic_cli.config import Initializer
from cubic_cli.data.problem import Float32
from cubic_cli.engine.compiler import compile_ahead, options_plain
from cubic_cli.experiments.report import STANDARD_ERRORS, Row, count_differing, name_devices, number
from cubic_cli.parameters import Parameters
from cubic_cli.reference import closed_form
from cubic_cli.statistics import summarise

INNER = 64  # K, the terms of each sum of the product
# The products of this number are off by 2⁻⁷ in bfloat16, 2⁻¹⁴ in TF32 and 2⁻¹⁶ in three passes of bfloat16, each all in
# one direction, so that no sum can hide it.
FACTOR = 1.0 + 2.0**-8 - 2.0**-15


def _compile_quickly(function: Any, device: jax.Device, *arguments: Any) -> Callable[..., Any]:
    """Compile what a library computes, or what has loose limits: on a CPU not optimised, in half the time."""
    quickly: dict[str, str | bool] = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": "0"}
    program: Callable[..., Any] = compile_ahead(function, arguments, quickly if device.platform == "cpu" else {})
    return program


class Product(NamedTuple):
    """What `network.linear` made of `x [16 D, K]`, twice, and its operands."""

    layer: tuple[Float32, Float32]
    x: Float32
    found: tuple[Float32, Float32]


def multiply(devices: list[Any]) -> Product:
    """Multiply matrices as the network does, each device its own rows."""
    rows, columns = 16 * len(devices), 8
    x = np.float32(FACTOR) * np.exp2(np.add.outer(np.arange(rows), np.arange(INNER)) % 5).astype(np.float32)
    weight = np.float32(FACTOR) * np.exp2(np.add.outer(np.arange(INNER), np.arange(columns)) % 3).astype(np.float32)
    over, everywhere = _shardings(devices)
    bias = np.arange(columns, dtype=np.float32)
    layer, placed = jax.device_put(((weight, bias), x), (everywhere, over))
    # A function of its own: what is traced for it does not outlive the check.
    linear = jax.jit(lambda layer, x: network.linear(layer[0], layer[1], x), out_shardings=over)
    program = _compile_quickly(linear, devices[0], layer, placed)
    first, second = (jax.device_get(program(layer, placed)) for _ in range(2))
    return Product((weight, bias), x, (first, second))


def _shardings(devices: list[Any]) -> tuple[NamedSharding, NamedSharding]:
    """Return how arrays are shared among the devices: the first axis over them, or all to each."""
    mesh = Mesh(np.array(devices), ("devices",))
    return NamedSharding(mesh, PartitionSpec("devices")), NamedSharding(mesh, PartitionSpec())


def check_product(product: Product, devices: list[Any]) -> Iterator[Row]:
    """Compare with float64; a float32 sum of K terms is off by at most K·2⁻²⁴ of the sum of their magnitudes."""
    weight, bias = (np.asarray(array, np.float64) for array in product.layer)
    x = product.x.astype(np.float64)
    scale = np.abs(x) @ np.abs(weight) + np.abs(bias)
    errors = np.abs(product.found[0] - (x @ weight + bias)) / scale
    errors = np.where(np.isnan(errors), np.inf, errors)
    worst, limit, failure = float(errors.max()), INNER * 2.0**-24, None
    if worst > limit:
        row, column = np.unravel_index(np.argmax(errors), errors.shape)
        rough = "; this is no float32 at highest precision, as TF32 and bfloat16 are none" if worst < 0.02 else ""
        failure = f"row {row + 1}, column {column + 1} of x·W + b is off by {worst:.1e}{rough}"
    where = name_devices(devices)
    yield Row("x·W + b at highest precision", where, number(worst), limit, "relative", failure)
    differ = count_differing(*product.found)
    failure = f"{differ} of {errors.size} values of x·W + b changed" if differ else None
    yield Row("x·W + b, two runs", where, differ, 0.0, "values", failure)


# --- the initialisers -----------------------------------------------------------------------------------------------

DRAWS = 2048  # seeds that each initialiser is drawn with
_ALIKE = 0.01  # of this many numbers of 23 bits a few may be equal
FILLED = (Initializer.ones, Initializer.zeros)
DRAWN = tuple(kind for kind in Initializer if kind not in FILLED)


class Drawn(NamedTuple):
    """The parameters of each initialiser by all seeds, `[DRAWS, …]`, or `[1, …]` of those that are filled; twice."""

    every: dict[Initializer, Parameters]
    again: dict[Initializer, Parameters]

    @property
    def first(self) -> dict[Initializer, Parameters]:
        """The parameters by the first seed."""
        first: dict[Initializer, Parameters] = jax.tree.map(lambda array: array[0], self.every)
        return first


def draw(hidden_size: int, device: jax.Device) -> Drawn:
    """Draw the parameters of every initialiser, those that JAX draws by one program."""
    drawing = jax.vmap(lambda seed: [network.initialise(kind, hidden_size, seed) for kind in DRAWN])
    # The seeds are an argument, or XLA would draw while it compiles.
    seeds = jax.device_put(np.arange(DRAWS, dtype=np.uint32), device)
    program = _compile_quickly(jax.jit(drawing), device, seeds)

    def once() -> dict[Initializer, Parameters]:
        filled = jax.device_get({kind: network.initialise(kind, hidden_size, 0) for kind in FILLED})
        found: dict[Initializer, Parameters] = jax.tree.map(lambda array: array[None], filled)
        return found | dict(zip(DRAWN, jax.device_get(program(seeds)), strict=True))

    return Drawn(once(), once())


def check_drawn(drawn: Drawn, devices: list[Any]) -> Iterator[Row]:
    """Hold weights and biases against the values, or the mean, mean square and bounds, that they must have."""
    where = name_devices(devices)
    for kind, parameters in drawn.every.items():
        judge = functools.partial(_judge_filled if kind in FILLED else _judge, kind)
        layers = {"input_layer": parameters[:2], "output_layer": parameters[2:]}
        errors, failures = zip(*(judge(*item) for item in layers.items()), strict=True)
        limit, unit = (0.0, "values") if kind in FILLED else (STANDARD_ERRORS, "standard errors")
        failure = next((text for text in failures if text), None)
        pairs = zip(jax.tree.leaves(parameters), jax.tree.leaves(drawn.again[kind]), strict=True)
        if failure is None and any(count_differing(*pair) for pair in pairs):
            failure = "drawn twice from the same seeds, the parameters differ"
        yield Row(f"initializer {kind}", where, number(max(errors)), limit, unit, failure)  # type: ignore[arg-type]


def _judge_filled(kind: Initializer, name: str, layer: tuple[Any, Any]) -> tuple[float, str | None]:
    """Return how many parameters of a layer are not what they are filled with, and what to say of them."""
    value = float(kind is Initializer.ones)
    wrong = {
        f"{name}.{part}": int(np.count_nonzero(array != value))
        for part, array in zip(("weight", "bias"), layer, strict=True)
    }
    failure = next((f"{count} values of {part} are not {value:g}" for part, count in wrong.items() if count), None)
    return sum(wrong.values()), failure


def _judge(kind: Initializer, name: str, layer: tuple[Any, Any]) -> tuple[float, str | None]:
    """Return the error of a layer's drawn weights `[DRAWS, in, out]`, in standard errors, and what to say of it."""
    weights, bias = layer
    fan_in, fan_out = weights.shape[1:]
    expected, largest = closed_form.weights(kind, fan_in, fan_out)
    weight = np.asarray(weights, np.float64)
    count, mean, square = weight.size, float(weight.mean()), float(np.square(weight).mean())
    errors = {
        f"the mean of {name}.weight is {mean:.3g}, not about 0": abs(mean) / math.sqrt(expected.mean / count),
        f"the mean square of {name}.weight is {square:.6g}, not about {expected.mean:.6g}": abs(square - expected.mean)
        / (expected.deviation / math.sqrt(count)),
    }
    failure = next((text for text, error in errors.items() if not error <= STANDARD_ERRORS), None)
    beyond = int(np.count_nonzero(~(np.abs(weight) <= largest * (1 + 1e-6))))  # float32 may round the bound up
    if (different := len(np.unique(weight))) < (1 - _ALIKE) * count:
        failure = f"{name}.weight holds only {different} different numbers of {count}"
    if beyond:
        failure = f"{beyond} values of {name}.weight lie beyond ±{largest:.6g}"
    if np.any(bias != 0):
        failure = f"{name}.bias is not 0"
    worst = max(errors.values())
    return (math.inf if math.isnan(worst) else worst), failure


# --- what is not finite ---------------------------------------------------------------------------------------------


COUNTED = ("count", "nan", "posinf", "neginf", "zeros")


def count(devices: list[Any]) -> NDArray[np.int32]:
    """Return what each device counts among NaN, ∞, −∞, −1 and 1, and among what ReLU makes of these: `[D, 2, figures]`.

    It is compiled as for a run, for what is left out of floating-point arithmetic shows in optimised code.
    """

    def counts(z1: jax.Array) -> jax.Array:
        tensors = jnp.stack([z1, network.relu(z1)], axis=1)
        seen = summarise(tensors, jnp.ones_like(tensors, bool), (2,))
        return jnp.stack([getattr(seen, name) for name in COUNTED], axis=-1)

    over, _ = _shardings(devices)
    z1 = jax.device_put(np.array([[np.nan, np.inf, -np.inf, -1, 1]] * len(devices), np.float32), over)
    program = compile_ahead(jax.jit(counts, out_shardings=over), (z1,), options_plain(devices[0]))
    counted: NDArray[np.int32] = jax.device_get(program(z1))
    return counted


def check_counted(counted: NDArray[np.int32], devices: list[Any]) -> Iterator[Row]:
    """There is one of each, but that ReLU turns −∞ and −1 to 0; `count` is of the finite ones."""
    expected = np.broadcast_to([[2, 1, 1, 1, 0], [3, 1, 1, 0, 2]], counted.shape)
    wrong, failure = np.argwhere(counted != expected), None
    if len(wrong):
        device, tensor, figure = at = tuple(wrong[0])
        what = f"{COUNTED[figure]} of {('z1', 'a1')[tensor]}"
        failure = f"device {device + 1}: the {what} is {counted[at]}, not {expected[at]}"
    yield Row("NaN and infinities, counted", name_devices(devices), len(wrong), 0.0, "values", failure)
