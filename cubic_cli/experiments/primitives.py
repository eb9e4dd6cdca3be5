"""What the pass stands on, for `check`: products, eager operators, collectives, and parameters drawn as they should be.

Each function compiles what it needs and returns what is run once a round, which yields rows. Nothing is compiled with
options: what is proved is what anybody's program gets.

    D devices, K terms of a sum
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from cubic_cli import network
from cubic_cli.config import Activation, Initializer
from cubic_cli.experiments.report import STANDARD_ERRORS, Row, count_differing, ids, judge
from cubic_cli.float32 import Float32, Float64
from cubic_cli.parameters import Parameters, by_name
from cubic_cli.reference import closed_form, rounding
from cubic_cli.reference.network import forward
from cubic_cli.statistics import summarise

Round = Callable[[], Iterator[Row]]
_AXIS = "devices"


def _shardings(devices: Sequence[Any]) -> tuple[NamedSharding, NamedSharding]:
    """Return how arrays are shared among the devices: the first axis over them, or all to each."""
    mesh = Mesh(np.array(devices), (_AXIS,))
    return NamedSharding(mesh, PartitionSpec(_AXIS)), NamedSharding(mesh, PartitionSpec())


def compile_plain(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    # A function of its own: what is traced for it does not outlive the check.
    program: Callable[..., Any] = jax.jit(lambda *given: function(*given)).lower(*arguments).compile()
    return program


# --- products -------------------------------------------------------------------------------------------------------

_INNER = 64  # K
_ROWS = 16  # of each device
# The products of this number are off by 2⁻⁷ in bfloat16, 2⁻¹⁴ in TF32 and 2⁻¹⁶ in three passes of bfloat16, each all in
# one direction, so that no sum can hide it.
FACTOR = 1.0 + 2.0**-8 - 2.0**-15


def factors(rows: int, columns: int, powers: int) -> Float32:
    """Return `FACTOR` times powers of two, `[rows, columns]`."""
    exponents = np.add.outer(np.arange(rows), np.arange(columns)) % powers
    values: Float32 = np.float32(FACTOR) * np.exp2(exponents).astype(np.float32)
    return values


def product(devices: Sequence[Any]) -> Round:
    """`x·W + b` of the network, each device its own rows, at the precision that the pass asks for.

    Held against float64: a float32 sum of K terms is off by at most K·2⁻²⁴ of the sum of their magnitudes.
    """
    x, weight = factors(_ROWS * len(devices), _INNER, 5), factors(_INNER, 8, 3)
    bias = np.arange(8, dtype=np.float32)
    over, everywhere = _shardings(devices)
    given = (*jax.device_put((weight, bias), everywhere), jax.device_put(x, over))
    program = compile_plain(network.linear, *given)
    exact = x.astype(np.float64) @ weight.astype(np.float64) + bias
    scale = np.abs(x).astype(np.float64) @ np.abs(weight) + np.abs(bias)
    what, limit = "x·W + b in full float32", _INNER * 2.0**-24

    def rounds() -> Iterator[Row]:
        first, second = (np.asarray(jax.device_get(program(*given))) for _ in range(2))
        errors = np.abs(first - exact) / scale
        errors = np.where(np.isnan(errors), np.inf, errors)
        worst, text, wrong = float(errors.max()), None, errors.max(axis=1) > limit
        if worst > limit:
            row, column = np.unravel_index(np.argmax(errors), errors.shape)
            rough = "; that is less than float32, as TF32 and bfloat16 are" if worst < 0.02 else ""
            text = f"row {row + 1}, column {column + 1} is off by {worst:.1e}{rough}"
        elif differ := count_differing(first, second):
            text, wrong = f"{differ} of {first.size} values changed when computed again", (first != second).any(axis=1)
        yield judge(what, ids(devices), worst, limit, "relative", text, _owners(devices, wrong))

    return rounds


def _owners(devices: Sequence[Any], wrong: NDArray[np.bool_]) -> set[int]:
    """Return the ids of the devices whose rows, as many of `wrong` for each, hold anything that is wrong."""
    shares = wrong.reshape(len(devices), -1)
    return {device.id for device, share in zip(devices, shares, strict=True) if share.any()}


_LARGE = 1024


def integers(devices: Sequence[Any]) -> Round:
    """One large product of small integers: exact in float32, in whatever order it is summed."""
    generator = np.random.default_rng(0)
    x, weight = (
        generator.integers(-8, 9, (rows, _LARGE)).astype(np.float32) for rows in (_LARGE // 2 * len(devices), _LARGE)
    )
    over, everywhere = _shardings(devices)
    given = jax.device_put(x, over), jax.device_put(weight, everywhere)
    program = compile_plain(lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST), *given)
    exact = (x.astype(np.float64) @ weight.astype(np.float64)).astype(np.float32)

    def rounds() -> Iterator[Row]:
        differ = np.asarray(jax.device_get(program(*given))) != exact
        text = f"{differ.sum():,} of {differ.size:,} sums of {_LARGE} integers are not exact" if differ.any() else None
        what = "large product of integers"
        yield judge(what, ids(devices), differ.sum(), 0, "values", text, _owners(devices, differ.any(axis=1)))

    return rounds


# --- eager beside compiled ------------------------------------------------------------------------------------------


def operate(activation: Activation, parameters: Parameters, x: Any, y: Any) -> dict[str, Any]:
    """Return the network's tensors and loss, and the statistics of z2, of a batch `x` and `y` `[B, 1]`."""
    z1, a1, z2 = network.forward(parameters, x, activation)
    seen = summarise(z2)
    statistics = {f"{name} of z2": getattr(seen, name) for name in ("min", "max", "mean", "std")}
    return {"z1": z1, "a1": a1, "z2": z2, "loss": network.mean_squared_error(z2, y)} | statistics


def eager(
    device: Any,
    parameters: Parameters,
    x: Float32,
    y: Float32,
    operate: Callable[..., dict[str, Any]] = operate,
    kinds: Collection[Activation] = tuple(Activation),
) -> Round:
    """The operators of the network one by one, as in a notebook, and compiled, of one batch: there are installations
    where only the eager ones are wrong.
    """
    given = jax.device_put((parameters, x[:, None], y[:, None]), device)
    compiled = {kind: compile_plain(lambda *g, kind=kind: operate(kind, *g), *given) for kind in kinds}
    exactly = {kind: _expect(kind, parameters, x, y) for kind in kinds}
    what, limit = "eager beside compiled", rounding.tolerance(parameters.hidden_size)

    def rounds() -> Iterator[Row]:
        for kind in kinds:
            for way, found in (("eager", operate(kind, *given)), ("compiled", compiled[kind](*given))):
                for name, (exact, scale) in exactly[kind].items():
                    values = np.asarray(found[name], np.float64).reshape(exact.shape)
                    error = float(np.max(np.abs(values - exact))) / scale
                    text = None
                    if not error <= limit:
                        text = f"{way}, {kind}: {name} is off by {error:.1e} of {scale:.3g}"
                    yield judge(what, [device.id], error, limit, "relative", text)

    return rounds


def _expect(kind: Activation, parameters: Parameters, x: Float32, y: Float32) -> dict[str, tuple[Float64, float]]:
    """Return what `operate` must give, in float64, and what errors are relative to."""
    z1, a1, z2 = forward(parameters, x, kind)
    terms = float(np.abs(a1 * parameters.w2[:, 0]).sum(axis=1).max())
    loss = np.asarray(np.mean(np.square(z2 - y)), np.float64)
    statistics = {"min": z2.min(), "max": z2.max(), "mean": z2.mean(), "std": z2.std()}
    largest = float(np.abs(z1).max())
    return {
        "z1": (z1, largest),
        "a1": (a1, largest),
        "z2": (z2, terms),
        "loss": (loss, float(loss + terms * math.sqrt(loss))),
    } | {f"{name} of z2": (np.asarray(value, np.float64), terms) for name, value in statistics.items()}


# --- collectives ----------------------------------------------------------------------------------------------------


class Collective(NamedTuple):
    """An operation of a device on its `[n]`, and what all must have from the `[D, n]` of all, `[D, …]`.

    `grows`: what each gets is D times what it gives.
    """

    operate: Callable[[jax.Array, int], jax.Array]
    expect: Callable[[NDArray[np.int32]], NDArray[np.int32]]
    grows: bool = False


def _sum(values: NDArray[np.int32]) -> NDArray[np.int32]:
    total: NDArray[np.int32] = values.sum(axis=0, dtype=np.int32)
    return total


COLLECTIVES = {
    "psum": Collective(
        lambda x, devices: jax.lax.psum(x, _AXIS), lambda values: np.broadcast_to(_sum(values), values.shape)
    ),
    "all_gather": Collective(
        lambda x, devices: jax.lax.all_gather(x, _AXIS, tiled=True),
        lambda values: np.broadcast_to(values.reshape(-1), (len(values), values.size)),
        grows=True,
    ),
    "psum_scatter": Collective(
        lambda x, devices: jax.lax.psum_scatter(x, _AXIS, tiled=True),
        lambda values: _sum(values).reshape(len(values), -1),
    ),
    "ppermute": Collective(
        lambda x, devices: jax.lax.ppermute(x, _AXIS, [(d, (d + 1) % devices) for d in range(devices)]),
        lambda values: np.roll(values, 1, axis=0),
    ),
}
_SMALL, _MEBI = 16, 1 << 20  # int32 values: a few, and 4 MiB


def collective(name: str, devices: Sequence[Any], collectives: Mapping[str, Collective] = COLLECTIVES) -> Round:
    """One collective over all devices, of integers, exact: few values, and 4 MiB at the larger side of each device."""
    operation, count = collectives[name], len(devices)
    over, _ = _shardings(devices)

    def each(x: jax.Array) -> jax.Array:
        return operation.operate(x[0], count)[None]

    spec = PartitionSpec(_AXIS)
    whole = jax.shard_map(each, mesh=over.mesh, in_specs=spec, out_specs=spec, check_vma=False)
    programs = []
    for size in (_SMALL, _MEBI):
        each_gives = -(-size // count) * (1 if operation.grows else count)
        values = np.random.default_rng(size).integers(-(2**31), 2**31, (count, each_gives)).astype(np.int32)
        given = jax.device_put(values, over)
        programs.append((compile_plain(whole, given), given, operation.expect(values)))

    def rounds() -> Iterator[Row]:
        for program, given, exact in programs:
            found = program(given)
            wrong = {}
            for shard in found.addressable_shards:
                where = shard.index[0].start or 0
                if differ := count_differing(np.asarray(shard.data)[0], exact[where]):
                    wrong[devices[where].id] = differ
            total = sum(wrong.values())
            text = f"{total:,} of {exact.size:,} integers are wrong, at {name_devices(wrong)}" if wrong else None
            yield judge(name, ids(devices), total, 0, "values", text, wrong)

    return rounds


def name_devices(numbers: Any) -> str:
    """Return the devices of these ids in words, the first few of many."""
    names = [str(number) for number in numbers]
    few = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"device {few}" if len(names) == 1 else f"devices {few}"


# --- what is not finite ----------------------------------------------------------------------------------------------

_KINDS = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0, -2.0, 2.0**127], np.float32)
_TIMES = 9  # so that the pairs fill vectors of any width and leave some over
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "isnan(a)": lambda a, b: a.__array_namespace__().isnan(a),
    "isinf(a)": lambda a, b: a.__array_namespace__().isinf(a),
    "isfinite(a)": lambda a, b: a.__array_namespace__().isfinite(a),
    "a = b": lambda a, b: a == b,
    "a + b": lambda a, b: a + b,
    "a - b": lambda a, b: a - b,
    "a · b": lambda a, b: a * b,
    "a / b": lambda a, b: a / b,
}


def nonfinite(device: Any, operators: Mapping[str, Callable[[Any, Any], Any]] = OPERATORS) -> Round:
    """NaN and the infinities, found where they are and where they must come out, eager and compiled.

    XLA's fast arithmetic may take them for impossible. The values, all pairs of kinds, are data: nothing can be folded.
    """
    a, b = (np.tile(side.ravel(), _TIMES) for side in np.meshgrid(_KINDS, _KINDS))
    given = jax.device_put((a, b), device)
    compiled = {name: compile_plain(operator, *given) for name, operator in operators.items()}
    with np.errstate(all="ignore"):
        exactly = {name: _kind(OPERATORS[name](a, b)) for name in operators}

    def rounds() -> Iterator[Row]:
        for name, exact in exactly.items():
            for way, operator in (("eager", operators[name]), ("compiled", compiled[name])):
                found, text = _kind(np.asarray(operator(*given))), None
                wrong = np.flatnonzero(found != exact)
                if len(wrong):
                    at = wrong[0]
                    text = f"{way}: {name} is {found[at]} of a = {a[at]:g}, b = {b[at]:g}, not {exact[at]}"
                yield judge("NaN and infinities told", [device.id], len(wrong), 0, "values", text)

    return rounds


def _kind(values: NDArray[Any]) -> NDArray[np.str_]:
    """Return of each value whether it is NaN, an infinity or finite; of a truth value which it is."""
    if values.dtype == np.bool_:
        return np.where(values, "true", "false")
    kinds: NDArray[np.str_] = np.select(
        [np.isnan(values), values == np.inf, values == -np.inf], ["NaN", "∞", "−∞"], "finite"
    )
    return kinds


# --- the initialisers -----------------------------------------------------------------------------------------------

WIDE = 1 << 14  # H of the draw that is compared with closed forms: 1 % of a mean square is a standard error
_ALIKE = 0.01  # of this many numbers of 23 bits a few may be equal
FILLED = (Initializer.ones, Initializer.zeros)


def draw(kind: Initializer, hidden: int, seed: int) -> Parameters:
    """Return parameters as `forward` draws them, on the host."""
    parameters: Parameters = jax.device_get(network.initialise(kind, hidden, seed))
    return parameters


def initializer(kind: Initializer, device: Any, draw: Callable[..., Parameters] = draw, hidden: int = WIDE) -> Round:
    """Hold one draw of an initialiser against its value, or its mean, mean square, bounds and distribution.

    It is drawn twice, and must not change.
    """

    def drawn() -> Parameters:
        with jax.default_device(device):
            return draw(kind, hidden, 0)

    drawn()  # compiles
    judged = _judge_filled if kind in FILLED else _judge_drawn
    limit, unit = (0.0, "values") if kind in FILLED else (STANDARD_ERRORS, "standard errors")

    def rounds() -> Iterator[Row]:
        first, second = drawn(), drawn()
        error, text = judged(kind, first)
        pairs = zip(first, second, strict=True)
        if text is None and any(count_differing(*pair) for pair in pairs):
            text = "drawn twice from the same seed, the parameters differ"
        yield judge(f"initializer {kind}", [device.id], error, limit, unit, text)  # type: ignore[arg-type]

    return rounds


def _judge_filled(kind: Initializer, parameters: Parameters) -> tuple[float, str | None]:
    """Return how many parameters are not what they are filled with, and what to say of them."""
    value = float(kind is Initializer.ones)
    wrong = {name: int(np.count_nonzero(array != value)) for name, array in by_name(parameters).items()}
    text = next((f"{count} values of {name} are not {value:g}" for name, count in wrong.items() if count), None)
    return sum(wrong.values()), text


def _judge_drawn(kind: Initializer, parameters: Parameters) -> tuple[float, str | None]:
    """Return the largest error of the weights in standard errors, and what to say of it."""
    arrays = by_name(parameters)
    worst, text = 0.0, None
    for name in ("input_layer", "output_layer"):
        error, found = _judge_weights(kind, f"{name}.weight", np.asarray(arrays[f"{name}.weight"]))
        worst, text = max(worst, error), text or found
        if np.any(arrays[f"{name}.bias"] != 0):
            text = f"{name}.bias is not 0"
    one, two = (np.asarray(arrays[f"{name}.weight"], np.float64).ravel() for name in ("input_layer", "output_layer"))
    with np.errstate(invalid="ignore"):
        correlation = abs(float(np.corrcoef(one, two)[0, 1])) * math.sqrt(one.size)
    if text is None and not correlation <= STANDARD_ERRORS:
        text = "the weights of the two layers are correlated"
    return max(worst, correlation), text


def _judge_weights(kind: Initializer, name: str, weight: Float32) -> tuple[float, str | None]:
    fan_in, fan_out = weight.shape
    expected, largest = closed_form.weights(kind, fan_in, fan_out)
    values = np.asarray(weight, np.float64).ravel()
    count, mean, square = values.size, float(values.mean()), float(np.square(values).mean())
    errors = {
        f"the mean of {name} is {mean:.3g}, not about 0": abs(mean) / math.sqrt(expected.mean / count),
        f"the mean square of {name} is {square:.6g}, not about {expected.mean:.6g}": abs(square - expected.mean)
        / (expected.deviation / math.sqrt(count)),
    }
    text = next((text for text, error in errors.items() if not error <= STANDARD_ERRORS), None)
    # Kolmogorov and Smirnov: by chance beyond √(ln(2/p) / 2n) with probability p, here that of five standard errors.
    shares = closed_form.distribution(kind, fan_in, fan_out, np.sort(values))
    distance = float(np.max(np.abs(shares - (np.arange(count) + 0.5) / count)))
    if text is None and not distance <= math.sqrt(math.log(2 / 5.7e-7) / (2 * count)):
        text = f"{name} is distributed otherwise: its share below a value is off by {distance:.3g}"
    if (different := len(np.unique(values))) < (1 - _ALIKE) * count:
        text = f"{name} holds only {different} different numbers of {count}"
    # float32 may round the bound up
    if beyond := int(np.count_nonzero(~(np.abs(values) <= largest * (1 + 1e-6)))):
        text = f"{beyond} values of {name} lie beyond ±{largest:.6g}"
    worst = max(errors.values())
    return (math.inf if math.isnan(worst) else worst), text
