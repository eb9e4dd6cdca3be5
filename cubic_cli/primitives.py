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
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from numpy.typing import NDArray

from cubic_cli import closed_form, network
from cubic_cli.config import Initializer
from cubic_cli.forward import compile_ahead
from cubic_cli.network import Layer, Parameters
from cubic_cli.problem import Float32
from cubic_cli.statistics import summarise
from cubic_cli.verdict import STANDARD_ERRORS, Row, count_differing, name_devices, number

INNER = 64  # K, the terms of each sum of the product
# The products of this number are off by 2⁻⁷ in bfloat16, 2⁻¹⁴ in TF32 and 2⁻¹⁶ in three passes of bfloat16, each all in
# one direction, so that no sum can hide it.
FACTOR = 1.0 + 2.0**-8 - 2.0**-15


def _compile(function: Any, device: jax.Device, *arguments: Any) -> Callable[..., Any]:
    """Compile what runs for a moment: by a CPU's older emitters and not optimised, in a third of the time."""
    quickly: dict[str, str | bool] = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": "0"}
    program: Callable[..., Any] = compile_ahead(function, arguments, quickly if device.platform == "cpu" else None)
    return program


class Product(NamedTuple):
    """What `network.linear` made of `x [16 D, K]`, twice, and its operands."""

    layer: Layer
    x: Float32
    found: tuple[Float32, Float32]


def multiply(devices: list[Any]) -> Product:
    """Multiply matrices as the network does, each device its own rows."""
    rows, columns = 16 * len(devices), 8
    x = np.float32(FACTOR) * np.exp2(np.add.outer(np.arange(rows), np.arange(INNER)) % 5).astype(np.float32)
    weight = np.float32(FACTOR) * np.exp2(np.add.outer(np.arange(INNER), np.arange(columns)) % 3).astype(np.float32)
    layer = Layer(jnp.asarray(weight), jnp.asarray(np.arange(columns, dtype=np.float32)))
    mesh = Mesh(np.array(devices), ("devices",))
    over, everywhere = NamedSharding(mesh, PartitionSpec("devices")), NamedSharding(mesh, PartitionSpec())
    operands = jax.device_put((layer, x), (everywhere, over))
    # A function of its own: what is traced for it does not outlive the check.
    linear = _compile(jax.jit(lambda layer, x: network.linear(layer, x), out_shardings=over), devices[0], *operands)
    first, second = (np.asarray(linear(*operands)) for _ in range(2))
    return Product(layer, x, (first, second))


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

DRAWS = 160  # seeds that each initialiser is drawn with
FILLED = (Initializer.ones, Initializer.zeros)
DRAWN = tuple(kind for kind in Initializer if kind not in FILLED)


class Drawn(NamedTuple):
    """The parameters of each initialiser: by the first seed, the same again, and by all seeds `[DRAWS, …]`.

    What is filled is the same by every seed: `[1, …]`.
    """

    first: dict[Initializer, Parameters]
    again: dict[Initializer, Parameters]
    every: dict[Initializer, Parameters]


def draw(hidden_size: int, device: jax.Device) -> Drawn:
    """Draw the parameters of every initialiser, those that JAX draws by one program."""
    # The seed is an argument, or XLA would draw while it compiles.
    drawing = jax.jit(lambda seed: [network.initialise(kind, hidden_size, seed) for kind in DRAWN])
    seed = jax.ShapeDtypeStruct((), np.uint32, sharding=SingleDeviceSharding(device))
    program = _compile(drawing, device, seed)

    def by(seed: int) -> dict[Initializer, Parameters]:
        return dict(zip(DRAWN, jax.device_get(program(np.uint32(seed))), strict=True))

    draws = [by(seed) for seed in range(DRAWS)]
    first, again = (
        {kind: jax.device_get(network.initialise(kind, hidden_size, 0)) for kind in FILLED} | drawn
        for drawn in (draws[0], by(0))
    )
    every = {kind: jax.tree.map(lambda array: array[None], first[kind]) for kind in FILLED}
    every |= {kind: jax.tree.map(lambda *arrays: np.stack(arrays), *(d[kind] for d in draws)) for kind in DRAWN}
    return Drawn(first, again, every)


def check_drawn(drawn: Drawn, devices: list[Any]) -> Iterator[Row]:
    """Hold weights and biases against the values, or the mean, mean square and bounds, that they must have."""
    where = name_devices(devices)
    for kind, parameters in drawn.every.items():
        judge = functools.partial(_judge_filled if kind in FILLED else _judge, kind)
        errors, failures = zip(*(judge(*item) for item in parameters._asdict().items()), strict=True)
        limit, unit = (0.0, "values") if kind in FILLED else (STANDARD_ERRORS, "standard errors")
        failure = next((text for text in failures if text), None)
        pairs = zip(jax.tree.leaves(drawn.first[kind]), jax.tree.leaves(drawn.again[kind]), strict=True)
        if failure is None and any(count_differing(*pair) for pair in pairs):
            failure = "drawn twice from one seed, the parameters differ"
        yield Row(f"initializer {kind}", where, number(max(errors)), limit, unit, failure)  # type: ignore[arg-type]


def _judge_filled(kind: Initializer, name: str, layer: Layer) -> tuple[float, str | None]:
    """Return how many parameters of a layer are not what they are filled with, and what to say of them."""
    value = float(kind is Initializer.ones)
    wrong = {f"{name}.{part}": int(np.count_nonzero(array != value)) for part, array in layer._asdict().items()}
    failure = next((f"{count} values of {part} are not {value:g}" for part, count in wrong.items() if count), None)
    return sum(wrong.values()), failure


def _judge(kind: Initializer, name: str, layer: Layer) -> tuple[float, str | None]:
    """Return the error of a layer's drawn weights `[DRAWS, in, out]`, in standard errors, and what to say of it."""
    fan_in, fan_out = layer.weight.shape[1:]
    expected, largest = closed_form.weights(kind, fan_in, fan_out)
    weight = np.asarray(layer.weight, np.float64)
    count, mean, square = weight.size, float(weight.mean()), float(np.square(weight).mean())
    errors = {
        f"the mean of {name}.weight is {mean:.3g}, not about 0": abs(mean) / math.sqrt(expected.mean / count),
        f"the mean square of {name}.weight is {square:.6g}, not about {expected.mean:.6g}": abs(square - expected.mean)
        / (expected.deviation / math.sqrt(count)),
    }
    failure = next((text for text, error in errors.items() if not error <= STANDARD_ERRORS), None)
    beyond = int(np.count_nonzero(~(np.abs(weight) <= largest * (1 + 1e-6))))  # float32 may round the bound up
    if len(np.unique(weight)) < count:
        failure = f"{name}.weight does not hold {count} different numbers"
    if beyond:
        failure = f"{beyond} values of {name}.weight lie beyond ±{largest:.6g}"
    if np.any(layer.bias != 0):
        failure = f"{name}.bias is not 0"
    worst = max(errors.values())
    return (math.inf if math.isnan(worst) else worst), failure


# --- what is not finite ---------------------------------------------------------------------------------------------


KINDS = ("nan", "posinf", "neginf")


def count(device: jax.Device) -> NDArray[np.int32]:
    """Return how many of each kind are among NaN, ∞, −∞, −1 and 1, and what ReLU makes of these: `[2, kinds]`."""

    def counts(z1: jax.Array) -> jax.Array:
        tensors = jnp.stack([z1, network.relu(z1)])
        seen = summarise(tensors, jnp.ones_like(tensors, bool), (1,))
        return jnp.stack([getattr(seen, kind) for kind in KINDS], axis=1)

    z1 = jax.device_put(np.array([np.nan, np.inf, -np.inf, -1, 1], np.float32), device)
    return np.asarray(_compile(jax.jit(counts), device, z1)(z1))


def check_counted(counted: NDArray[np.int32], devices: list[Any]) -> Iterator[Row]:
    """There is one of each, but that ReLU turns −∞ to 0."""
    expected = np.array([[1, 1, 1], [1, 1, 0]])
    wrong, failure = np.argwhere(counted != expected), None
    if len(wrong):
        tensor, kind = wrong[0]
        found, right = counted[tensor, kind], expected[tensor, kind]
        failure = f"{found} values of {('z1', 'a1')[tensor]} are {KINDS[kind]}, not {right}"
    yield Row("NaN and infinities, counted", name_devices(devices), len(wrong), 0.0, "values", failure)
