"""Random runs against a second oracle: are all figures right, is a right run verified, and is an injected error caught?

python -m tools.campaign [--cases N] [--seed S] [--json FILE]

Each case draws data (of any magnitude and offset, constant, of one sample, subnormal, huge, not finite), parameters and
settings, and passes them through the engine and the verification, in this process. `tests/oracle.py` says what is
right. Then every figure in turn is falsified by three tolerances, and the verification is to notice. A tolerance is
the contract's, 1e-5 or H u of the figure's own scale: of an extreme the largest magnitude of its batch, of mean and
deviation the deviation, of the loss mean((|z2| + |y|)²), of a gradient its largest entry; to which comes the oracle's
bound of what float32 loses. Of extremes and losses it is the larger of the two.
"""

import argparse
import collections
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import oracle

from cubic_cli.config import Activation, Device, Initializer, Scaling
from cubic_cli.parameters import NAMES, Parameters
from cubic_cli.reference import expected, verify
from cubic_cli.reference import gradients as reference_gradients

WIDTHS = (1, 2, 3, 8, 16, 64, 64, 67, 256, 1024, 4096)
SIZES = ((1, 10), (1, 1), (7, 1), (7, 10), (64, 64), (203, 10), (203, 64), (1000, 10), (1003, 100), (1000, 1000))
MOST_VALUES = 1 << 18  # of z1 in a case: the oracle is slow
PER_SHAPE = 12  # cases of one shape, which share their programs


class Case(NamedTuple):
    """One run: its settings, and what goes in."""

    activation: Activation
    batch: int
    parameters: Parameters
    x: Any
    y: Any
    about: str


class Found(NamedTuple):
    """What the engine says of a case."""

    seen: verify.Seen
    gradients: Parameters


def draw(seed: int) -> Iterator[Case]:
    """Yield cases for ever, some of a shape at a time."""
    rng = np.random.default_rng(seed)
    while True:
        hidden = int(rng.choice(WIDTHS))
        count, batch = SIZES[rng.integers(len(SIZES))]
        count = min(count, max(1, MOST_VALUES // hidden))
        activation = Activation(rng.choice([kind.value for kind in Activation]))
        for _ in range(PER_SHAPE):
            yield draw_case(rng, activation, hidden, count, batch)


def draw_case(rng: np.random.Generator, activation: Activation, hidden: int, count: int, batch: int) -> Case:
    """Draw the data and the parameters of a case."""
    (kind_x, x), (kind_y, y) = draw_column(rng, count), draw_column(rng, count)
    if rng.random() < 0.4:
        with np.errstate(all="ignore"):
            kind_y, y = "cubic", 0.01 * x**3 - 0.5 * x + 20 + rng.normal(0, 10, count)
    scaling = Scaling(rng.choice([kind.value for kind in Scaling], p=[0.6, 0.2, 0.2]))
    with np.errstate(all="ignore"):
        x, y = (scale(column.astype(np.float32), scaling) for column in (x, y))
    kind, parameters = draw_parameters(rng, hidden)
    about = f"{activation} H={hidden} N={count} B={batch} x:{kind_x} y:{kind_y} {scaling} {kind}"
    return Case(activation, batch, parameters, x, y, about)


def draw_column(rng: np.random.Generator, count: int) -> tuple[str, Any]:
    """Draw the values of a column, float64, and say of what kind they are."""
    kind = rng.choice(
        ["plain", "plain", "magnitude", "offset", "offset", "constant", "two", "integers", "subnormal", "tails", "huge"]
        + ["strange"]
    )
    plain = rng.uniform(-100, 100, count)
    power = rng.uniform(-44, 38)
    with np.errstate(all="ignore"):
        values = {
            "plain": plain,
            "magnitude": plain / 100 * 10.0**power,
            "offset": 10.0 ** rng.uniform(-3, 9) * rng.choice([-1, 1]) + plain * 10.0 ** rng.uniform(-5, 0),
            "constant": np.full(count, rng.choice([0.3, 0.0, -1.0, 1e7, -3e-20, 10.0**power])),
            "two": rng.choice([1e7, 1e7 + 1], count) if rng.random() < 0.5 else rng.choice([-1.0, 0.0], count),
            "integers": np.round(plain),
            "subnormal": plain * 10.0 ** rng.uniform(-46, -38),
            "tails": plain * 10.0 ** rng.uniform(-20, 15, count),
            "huge": plain / 100 * 10.0 ** rng.uniform(36, 38.5),
            "strange": np.where(rng.random(count) < 0.05, rng.choice([np.nan, np.inf, -np.inf], count), plain),
        }[str(kind)]
    return str(kind), np.clip(values, -oracle.MOST, oracle.MOST) if kind != "strange" else values


def scale(column: Any, scaling: Scaling) -> Any:
    """Scale as `cubic` does; here in the simplest way, for the oracle sees what comes out."""
    finite = column[np.isfinite(column)].astype(float)
    if scaling is Scaling.none or not finite.size:
        return column
    shift, factor = finite.min(), np.ptp(finite)
    if scaling is Scaling.standard:
        shift, factor = finite.mean(), finite.std()
    return ((column.astype(float) - shift) / factor if factor else 0 * column).astype(np.float32)


def draw_parameters(rng: np.random.Generator, hidden: int) -> tuple[str, Parameters]:
    """Draw parameters as initialisers do, and as files may hold them."""
    kind = rng.choice([*Initializer, *Initializer, "trained", "cancelling", "magnitude", "biased", "strange"])
    shapes = ((1, hidden), (hidden,), (hidden, 1), (1,))
    drawn = [rng.normal(0, 1, shape) for shape in shapes]
    if kind in ("ones", "zeros"):
        drawn = [np.full(shape, float(kind == "ones")) for shape in shapes]
    elif kind in list(Initializer):
        drawn = [drawn[0] * 1.4, 0 * drawn[1], drawn[2] * np.sqrt(2 / hidden), 0 * drawn[3]]
    elif kind == "trained":
        drawn = [np.full(shape, rng.normal()) for shape in shapes]
    elif kind == "cancelling":
        drawn[0], drawn[1] = np.abs(drawn[0]) + 0.1, np.abs(drawn[1])
        drawn[2] = np.where(np.arange(hidden) < hidden // 2, 1.0, -1.0)[:, None]
    elif kind == "magnitude":
        drawn = [array * 10.0 ** rng.uniform(-20, 15) for array in drawn]
    elif kind == "biased":
        drawn[1], drawn[3] = drawn[1] * 1000, drawn[3] * 1000
    elif kind == "strange":
        drawn[rng.integers(4)].flat[0] = rng.choice([np.nan, np.inf, 3e38, 1e-45])
    with np.errstate(all="ignore"):
        return str(kind), Parameters(*(np.clip(array, -3.4e38, 3.4e38).astype(np.float32) for array in drawn))


def observe(case: Case, devices: list[Any]) -> Found:
    """Pass a case through the engine."""
    from cubic_cli.data.source import Arrays
    from cubic_cli.engine import gradients
    from cubic_cli.engine.passes import Pass, gather

    source = Arrays(case.x, case.y)
    epoch = gather(Pass(case.parameters, source, case.batch, case.activation, devices).run())
    measured = gradients.measure(case.parameters, source, case.activation, devices)
    return Found(verify.Seen(epoch.columns, epoch.tensors, epoch.loss), measured)


def judge(case: Case, seen: verify.Seen) -> tuple[list[str], dict[str, float]]:
    """Return the figures that are wrong, and three tolerances of each that can be told, by the oracle."""
    tolerance = max(1e-5, case.parameters.hidden_size * oracle.U)
    tensors = oracle.tensors(case.parameters, case.x, case.activation.value)
    wrong, three = [], {}

    def hold(name: str, found: Any, value: float, allowed: float) -> None:
        if not abs(float(found) - value) <= allowed:
            wrong.append(f"{name} is {float(found):.9g}, not {value:.9g} within {allowed:.3g}")

    edges = range(0, len(case.x), case.batch)
    for k, start in enumerate(edges):
        here = slice(start, start + case.batch)
        certain = True
        surely = possibly = 0
        for name, tensor in tensors.items():
            part = oracle.Tensor(*(field[here] for field in tensor))
            surely, possibly = surely + int(part.surely.sum()), possibly + int(part.possibly.sum())
            if (part.surely != part.possibly).any():
                certain = False
                continue
            finite = part.values[~part.surely].astype(float)
            if not finite.size:
                continue
            largest = float(np.abs(finite).max())
            rounding = float(part.bound[~part.surely].max())
            allowed = tolerance * largest + rounding
            for end, value in (("min", finite.min()), ("max", finite.max())):
                hold(f"{name}_{end}[{k}]", seen.columns[f"{name}_{end}"][k], float(value), allowed)
                three[f"{name}_{end}[{k}]"] = 3 * max(tolerance * largest, rounding)
        found = float(seen.columns["loss"][k])
        possibly += not np.isfinite(found)
        if not surely <= seen.columns["nonfinite"][k] <= possibly:
            wrong.append(f"nonfinite[{k}] is {seen.columns['nonfinite'][k]}, not from {surely} to {possibly}")
        elif surely == possibly:
            three[f"nonfinite[{k}]"] = 3
        value, of = oracle.loss(oracle.Tensor(*(field[here] for field in tensors["z2"])), case.y[here])
        if certain and surely == 0 and np.isfinite(value.value) and value.value < oracle.MOST * (1 - 1e-3):
            hold(f"loss[{k}]", found, value.value, value.allowed + tolerance * value.value)
            three[f"loss[{k}]"] = 3 * max(tolerance * of, value.allowed)
    for name, tensor in tensors.items():
        statistics = seen.tensors[name]
        if (tensor.surely != tensor.possibly).any():
            continue
        least, most = oracle.zeros(tensor)
        if not least <= statistics.zeros <= most:
            wrong.append(f"{name}.zeros is {statistics.zeros}, not from {least} to {most}")
        elif most - least < 3:
            three[f"{name}.zeros"] = 3
        if statistics.nonfinite != tensor.surely.sum():
            wrong.append(f"{name}.nonfinite is {statistics.nonfinite}, not {tensor.surely.sum()}")
        three[f"{name}.nan"] = three[f"{name}.count"] = 3
        if statistics.count == 0:
            continue
        if not statistics.min <= statistics.mean <= statistics.max:
            wrong.append(f"{name}.mean {statistics.mean} outside of {statistics.min} to {statistics.max}")
        if statistics.min == statistics.max and statistics.std != 0:
            wrong.append(f"{name}.std of a constant is {statistics.std}")
        finite = oracle.Tensor(*(field[~tensor.surely] for field in tensor))
        mean, std = oracle.spread(finite)
        for field, figure in (("mean", mean), ("std", std)):
            allowed = tolerance * std.value + figure.allowed
            hold(f"{name}.{field}", getattr(statistics, field), figure.value, allowed)
            three[f"{name}.{field}"] = 3 * allowed
    return wrong, three


def judge_gradients(case: Case, found: Parameters) -> tuple[list[str], dict[int, Any]]:
    """Return the gradients that are wrong, and three tolerances of each entry, by the parameter's place.

    Nothing is known of them where a float32 of the forward pass, or an error, may overflow.
    """
    tolerance = max(1e-5, case.parameters.hidden_size * oracle.U)
    tensors = oracle.tensors(case.parameters, case.x, case.activation.value)
    errors = tensors["z2"].values[:, 0] - case.y
    if any(tensor.possibly.any() for tensor in tensors.values()) or not np.abs(errors).max() < oracle.MOST * 0.999:
        return [], {}
    values, bounds = oracle.gradients(case.parameters, case.x, case.y, case.activation.value)
    wrong, three = [], {}
    for index, (name, value, bound) in enumerate(zip(NAMES, values, bounds, strict=True)):
        allowed = tolerance * np.abs(value).max() + bound
        error = np.abs(found[index].ravel() - value)
        worst = int(np.argmax(error - allowed))
        if not error[worst] <= allowed[worst]:
            wrong.append(f"gradient of {name} is off by {error[worst]:.3g}, more than {allowed[worst]:.3g}")
        three[index] = 3 * allowed
    return wrong, three


def falsify(seen: verify.Seen, name: str, error: float) -> verify.Seen:
    """Return what was seen with one figure off by `error`."""
    if "." in name:
        tensor, field = name.split(".")
        other = seen.tensors[tensor]
        value = getattr(other, field)
        value = value - error if field in ("zeros", "count") and value >= error else value + error
        return dataclasses.replace(seen, tensors={**seen.tensors, tensor: other._replace(**{field: value})})
    column, batch = name[:-1].split("[")
    values = np.array(seen.columns[column], np.float64)
    values[int(batch)] += error
    return dataclasses.replace(seen, columns={**seen.columns, column: values})


def campaign(
    cases: int, seed: int, devices: list[Any], save: Callable[[dict[str, Any]], None] = lambda result: None
) -> dict[str, Any]:
    """Run the campaign, and return its counts; what is known so far goes to `save` again and again."""
    wrong, alarms, missed = [], [], collections.Counter[str]()
    injected, figures, examples = collections.Counter[str](), 0, {}
    rng = np.random.default_rng(seed + 1)

    def counted(done: int) -> dict[str, Any]:
        return {
            "cases": done,
            "figures": figures,
            "wrong": wrong,
            "alarms": alarms,
            "injected": dict(injected),
            "missed": dict(missed),
            "caught": 1 - sum(missed.values()) / max(1, sum(injected.values())),
            "examples": examples,
        }

    def count(kind: str, passed: bool, of: str) -> None:
        injected[kind] += 1
        if passed:
            missed[kind] += 1
            examples.setdefault(kind, []).append(of)

    for number, case in zip(range(cases), draw(seed), strict=False):
        if number % PER_SHAPE == 0:
            save(counted(number))
        found = observe(case, devices)
        slopes = reference_gradients.compute(case.parameters, case.x, case.y, case.activation)
        with np.errstate(all="ignore"):
            bad, three = judge(case, found.seen)
            bad_gradients, of_gradients = judge_gradients(case, found.gradients)
        figures += len(three) + len(of_gradients)
        wrong += [f"{number} {case.about}: {text}" for text in bad + bad_gradients]
        reference = expected.compute(case.parameters, case.x, case.y, case.batch, case.activation)
        batches = np.arange(len(reference.sizes))
        verdict = verify.verify(reference, found.seen, batches)
        verdict = verdict.joined(*reference_gradients.verify(found.gradients, slopes))
        if verdict.failure is not None:
            alarms.append(f"{number} {case.about}: {verdict.failure}")
            continue
        kinds: dict[str, list[str]] = collections.defaultdict(list)
        for name in three:
            kinds[name.split("[")[0]].append(name)
        for kind, names in kinds.items():
            name = names[rng.integers(len(names))]
            passed = verify.verify(reference, falsify(found.seen, name, three[name]), batches).passed
            count(kind, passed, f"{number} {case.about}: {name} by {three[name]:.3g}")
        for index, errors in of_gradients.items():
            off = [array.copy() for array in found.gradients]
            entry = rng.integers(errors.size)
            off[index].flat[entry] += errors[entry]
            passed = reference_gradients.verify(Parameters(*off), slopes)[1] is None
            count(f"gradient of {NAMES[index]}", passed, f"{number} {case.about}: {entry} by {errors[entry]:.3g}")
    return counted(cases)


def main() -> None:
    """Run the campaign and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was found to FILE")
    given = parser.parse_args()
    from cubic_cli.engine.devices import pick_devices

    started = time.perf_counter()

    def save(result: dict[str, Any]) -> None:
        if given.json:
            given.json.write_text(json.dumps(result, indent=1) + "\n")

    result = campaign(given.cases, given.seed, pick_devices(Device.auto), save)
    save(result)
    for name in ("wrong", "alarms"):
        print(f"{len(result[name])} {name}", *result[name][:5], sep="\n  ")
    print(f"{result['cases']} cases, {result['figures']} figures, {sum(result['injected'].values())} injected errors")
    for kind, of in result["injected"].items():
        caught = of - result["missed"].get(kind, 0)
        print(f"  {kind:32} caught {caught:5} of {of:5}, {100 * caught / of:6.2f} %")
    print(f"caught {100 * result['caught']:.3f} % of all; {time.perf_counter() - started:.0f} s")
    sys.exit(bool(result["wrong"] or result["alarms"]))


if __name__ == "__main__":
    main()
