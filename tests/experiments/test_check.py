"""`cubic check`: what is injected is seen, and only what differs is called wrong.

The passes here are made of NumPy by `honest`, which is quick, and are then broken; a whole check runs what is compiled.
"""

import contextlib
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pages
import pytest

from cubic_cli.cli.views import blocks
from cubic_cli.cli.views import check as view
from cubic_cli.config import Activation, Device, Initializer
from cubic_cli.data.source import Arrays
from cubic_cli.errors import DeviceError
from cubic_cli.experiments import check, check_pass, primitives, report
from cubic_cli.experiments.check_pass import BATCH
from cubic_cli.experiments.report import Check, CheckedDevice, Report, Verdict
from cubic_cli.reference.network import forward
from cubic_cli.reference.verify import Seen
from cubic_cli.statistics import summarise

RIGHT, NOT_CHECKED, WRONG = Verdict.RIGHT, Verdict.NOT_CHECKED, Verdict.WRONG
TWO = [SimpleNamespace(id=number, platform="cpu") for number in (3, 7)]
AGAINST_FLOAT64 = {f"{kind} against float64" for kind in Activation}


def honest(way, activation, parameters, samples, devices):
    """Make a pass that computes right, in NumPy."""

    def run():
        with np.errstate(all="ignore"):
            z1, a1, z2 = forward(parameters, samples.x, activation)
            tensors = {"z1": z1, "a1": a1, "z2": z2[:, None]}
            starts = np.arange(0, len(samples.x), BATCH)
            sizes = np.diff([*starts, len(samples.x)])
            squared = np.add.reduceat(np.square(z2 - samples.y), starts)
            loss = (squared / sizes).astype(np.float32)
            bad = sum((~np.isfinite(values)).sum(axis=1) for values in tensors.values())
            columns = {"loss": loss, "nonfinite": np.add.reduceat(bad, starts) + ~np.isfinite(loss)}
            for name, values in tensors.items():
                finite = np.isfinite(values)
                low, high = np.where(finite, values, np.inf), np.where(finite, values, -np.inf)
                columns[f"{name}_min"] = np.minimum.reduceat(low.min(axis=1), starts).astype(np.float32)
                columns[f"{name}_max"] = np.maximum.reduceat(high.max(axis=1), starts).astype(np.float32)
            seen = {name: summarise(values) for name, values in tensors.items()} if way.statistics else {}
            return Seen(columns, seen, float(np.float32(squared.sum() / len(samples.x))))

    return run


def passes(make, devices=TWO):
    """Return the rows of all passes, by name, of few batches."""
    rows, _ = check.run_checks(check_pass.list_passes(devices, make, batches=16))
    return {row.what: row for row in rows}


def broken(parameters=lambda p: p, samples=lambda s: s, seen=lambda figures: figures, where=lambda way, devices: True):
    """Make passes that are given other parameters or samples, or say something else, where `where` says."""

    def make(way, activation, p, s, devices):
        if not where(way, devices):
            return honest(way, activation, p, s, devices)
        run = honest(way, activation, parameters(p), samples(s), devices)
        return lambda: seen(run())

    return make


def wrong(rows):
    return {what for what, row in rows.items() if row.verdict is WRONG}


def column(figures, name, change):
    return replace(figures, columns=figures.columns | {name: change(figures.columns[name])})


# --- a right installation -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole():
    """One whole check of the four devices of the CPU, as `cubic check` makes it."""
    return check.check(Device.cpu)


@pytest.mark.long
def test_a_right_installation_is_right(whole):
    assert [(row.what, row.text) for row in whole.rows if row.verdict is not RIGHT] == []
    assert whole.verdict is RIGHT
    assert {whole.verdict_of(device) for device in whole.devices} == {RIGHT}
    assert [(device.id, device.kind, device.process) for device in whole.devices] == [(n, "cpu", 0) for n in range(4)]
    assert all(row.error <= row.limit for row in whole.rows)


@pytest.mark.long
def test_what_it_covers(whole):
    rows = {row.what: row for row in whole.rows}
    assert set(rows) >= AGAINST_FLOAT64 | {f"initializer {kind}" for kind in Initializer} | set(primitives.COLLECTIVES)
    assert rows.keys() >= {"NaN and infinities counted", "NaN and infinities told"}
    assert rows.keys() >= {"eager beside compiled", "large product of integers"}
    for name in ("alone, unit by unit", "alone, all units at once", "alone as together", "x·W + b in full float32"):
        assert set(rows[name].verdicts) == {0, 1, 2, 3}


@pytest.mark.long
def test_the_facts(whole):
    facts = json.loads(json.dumps(whole.facts))
    assert facts["default_precision"] == "float32"
    assert 0 < facts["exp_ulp"] < 10
    assert 0 < facts["tanh_ulp"] < 10
    assert (facts["platform"], facts["rounds"], facts["processes"]) == ("cpu", 1, 1)
    assert set(facts["subnormals"]) == {"operands", "results"}


@pytest.mark.long
@pytest.mark.parametrize("width", [40, 80, 160])
def test_the_screen_has_a_line_a_check_and_one_that_closes(whole, width):
    lines = blocks.layout(view.screen(whole), width).plain.splitlines()
    for row in whole.rows:
        assert [line for line in lines if line.startswith(row.what + " ") and line.endswith(" right")]
    assert max(map(len, lines)) <= min(width, 80)
    assert "computes right: all" in " ".join(lines[-3:])


def test_the_passes_that_are_compiled():
    """Of one activation over all devices; the whole is long."""
    checks = check_pass.list_passes(jax.devices(), batches=100)
    # One after the other: they have programs in common.
    compiled = [
        [one for one in checks if one.what == what] for what in ("relu against float64", "NaN and infinities counted")
    ]
    rows = [row for some in compiled for row in check.run_checks(some)[0]]
    assert {row.what: row.text for row in rows if row.verdict is not RIGHT} == {}
    assert len(rows) == 4


def test_nothing_is_written_and_no_compiled_program_is_kept_or_read(tmp_path, monkeypatch):
    before = jax.config.jax_enable_compilation_cache
    seen = []
    monkeypatch.setattr(
        check, "list_checks", lambda devices: seen.append(jax.config.jax_enable_compilation_cache) or []
    )
    check.check(Device.cpu)
    assert (seen, jax.config.jax_enable_compilation_cache) == ([False], before)
    assert list(tmp_path.iterdir()) == []


def test_every_case_of_the_pass():
    made = []

    def make(way, activation, parameters, samples, devices):
        made.append((way, activation, len(devices)))
        return honest(way, activation, parameters, samples, devices)

    assert {row.verdict for row in passes(make).values()} == {RIGHT}
    for way, kind in itertools.product((check_pass.CHOSEN, check_pass.HISTORY, check_pass.PLAIN), Activation):
        assert made.count((way, kind, 2)) >= len(Initializer)
    assert made.count((check_pass.BY_UNIT, check_pass.ALONE, 1)) == 2
    assert made.count((check_pass.PLAIN, check_pass.ALONE, 1)) == 2
    for way in (check_pass.BY_UNIT, check_pass.PLAIN):  # the last of each counts what is not finite
        assert (way, check_pass.ALONE, 2) in made
    assert check_pass.HISTORY.hidden % 4 != 0
    assert check_pass.CHOSEN.hidden == 64


# --- errors that are injected into the pass -------------------------------------------------------------------------


@pytest.mark.parametrize(("bias", "tensor"), [("b1", "z1"), ("b2", "z2")])
def test_a_wrong_bias(bias, tensor):
    rows = passes(broken(lambda p: p._replace(**{bias: getattr(p, bias) + np.float32(1)})))
    assert wrong(rows) >= AGAINST_FLOAT64
    assert all(f": {tensor}_" in rows[what].text for what in AGAINST_FLOAT64)
    assert rows["the same, bit for bit"].verdict is RIGHT


def test_parameters_in_bfloat16():
    rows = passes(broken(lambda p: jax.tree.map(lambda a: np.asarray(jnp.asarray(a, jnp.bfloat16), np.float32), p)))
    assert wrong(rows) >= AGAINST_FLOAT64
    assert not any(kind in rows[what].text for what in AGAINST_FLOAT64 for kind in (" ones:", " zeros:"))


def test_a_dropped_batch_is_the_fault_of_the_device_that_has_it():
    def drop(samples):
        x, y = samples.x.copy(), samples.y.copy()
        x[BATCH : 2 * BATCH], y[BATCH : 2 * BATCH] = x[:BATCH], y[:BATCH]
        return Arrays(x, y)

    rows = passes(broken(samples=drop))
    assert all("of batch 2 is" in rows[what].text for what in AGAINST_FLOAT64)
    assert rows["relu against float64"].verdicts == {3: WRONG, 7: RIGHT}


def test_a_shuffled_statistic():
    rows = passes(broken(seen=lambda figures: column(figures, "a1_max", lambda values: np.roll(values, 1))))
    assert wrong(rows) >= AGAINST_FLOAT64 - {"tanh against float64"}  # whose largest are all 1
    assert "a1_max" in rows["gelu against float64"].text


def test_a_flipped_bit_of_one_value():
    def flip(values):
        changed = values.copy()
        changed.view(np.int32)[5] ^= 1 << 20
        return changed

    rows = passes(
        broken(seen=lambda figures: column(figures, "z2_max", flip), where=lambda way, _: way.name == "unit by unit")
    )
    assert wrong(rows) == {"alone, unit by unit"}


def test_zeros():
    def nothing(figures):
        return Seen(**jax.tree.map(lambda value: np.zeros_like(value) if np.ndim(value) else 0.0, vars(figures)))

    rows = passes(broken(seen=nothing))
    assert wrong(rows) >= AGAINST_FLOAT64 | {"ones: expected loss, means", "NaN and infinities counted"}
    assert "the loss is 0, not about" in rows["ones: expected loss, means"].text


def test_a_device_that_does_not_repeat_itself():
    calls = itertools.count()

    def drift(figures):
        return column(figures, "loss", lambda v: np.append(v[:-1], v[-1:] * np.float32(1 + next(calls) % 2 * 2.0**-22)))

    rows = passes(broken(seen=drift, where=lambda way, devices: len(devices) == 2))
    assert wrong(rows) == {"the same, bit for bit"}
    assert rows["the same, bit for bit"].verdicts == {3: RIGHT, 7: WRONG}
    assert "1 of loss differ" in rows["the same, bit for bit"].text


def test_one_device_apart():
    def larger(figures):
        return column(figures, "z2_max", lambda values: np.nextafter(values, np.float32(np.inf)))

    rows = passes(broken(seen=larger, where=lambda way, devices: [d.id for d in devices] == [7]))
    assert wrong(rows) == {"alone as together"}
    assert rows["alone as together"].verdicts == {3: RIGHT, 7: WRONG}
    assert "device 7: 8 of z2_max" in rows["alone as together"].text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: column(f, "nonfinite", np.zeros_like), "values of batch 1 are not finite, not"),
        (
            lambda f: replace(f, tensors=f.tensors | {"a1": f.tensors["a1"]._replace(posinf=0)} if f.tensors else {}),
            "the posinf of a1 is 0, not",
        ),
        (
            lambda f: replace(f, tensors=f.tensors | {"a1": f.tensors["a1"]._replace(zeros=0)} if f.tensors else {}),
            "the zeros of a1 is 0, not",
        ),
    ],
    ids=["by batch", "infinities", "zeros"],
)
def test_values_that_are_not_finite_miscounted(change, said):
    rows = passes(broken(seen=lambda f: change(f) if f.columns["nonfinite"].any() else f))
    assert wrong(rows) == {"NaN and infinities counted"}
    assert said in rows["NaN and infinities counted"].text


def test_what_is_raised_is_not_checked_and_the_rest_is():
    def make(way, activation, *rest):
        if activation is Activation.gelu:
            raise jax.errors.JaxRuntimeError("INTERNAL: no\nkernel")
        run = honest(way, activation, *rest)

        def started():
            if activation is Activation.tanh and way is check_pass.PLAIN:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
            return run()

        return started

    rows = passes(make)
    assert {row.what for row in rows.values() if row.verdict is NOT_CHECKED} == {
        "gelu against float64",
        "tanh against float64",
    }
    assert "INTERNAL: no\nkernel" in rows["gelu against float64"].text
    assert "XLA_PYTHON_CLIENT_PREALLOCATE=false" in rows["tanh against float64"].text
    assert wrong(rows) == set()


def test_a_device_that_raises_leaves_nothing_to_compare_and_the_other_right():
    def make(way, activation, parameters, samples, devices):
        if devices == TWO[1:]:
            raise RuntimeError("CUDA_ERROR_DEVICES_UNAVAILABLE: busy or unavailable")
        return honest(way, activation, parameters, samples, devices)

    rows = passes(make)
    assert rows["alone, unit by unit"].verdicts == {3: RIGHT, 7: NOT_CHECKED}
    assert "for itself" in rows["alone, unit by unit"].text
    assert rows["alone as together"].verdict is NOT_CHECKED
    named = tuple(CheckedDevice(device.id, "cpu", 0) for device in TWO)
    found = Report(named, tuple(rows.values()))
    assert [found.verdict_of(device) for device in named] == [RIGHT, NOT_CHECKED]


# --- what lies under the pass ---------------------------------------------------------------------------------------


def rounded(array, bits):
    """Keep `bits` of the 23 of the mantissa."""
    raw = jax.lax.bitcast_convert_type(array, jnp.int32)
    half = 1 << (22 - bits)
    return jax.lax.bitcast_convert_type((raw + half) & ~(2 * half - 1), jnp.float32)


def in_three_passes(matmul, a, b):
    (a1, b1), (a2, b2) = ((rounded(v, 7), rounded(v - rounded(v, 7), 7)) for v in (a, b))
    return matmul(a1, a2) + matmul(a1, b2) + matmul(b1, a2)


@pytest.mark.parametrize(
    "rough",
    [
        lambda matmul, a, b: matmul(rounded(a, 7), rounded(b, 7)),
        lambda matmul, a, b: matmul(rounded(a, 10), rounded(b, 10)),
        in_three_passes,
    ],
    ids=["bfloat16", "TF32", "three passes of bfloat16"],  # the last is `Precision.HIGH` on a TPU
)
def test_a_product_below_the_precision_asked_for(monkeypatch, rough):
    matmul, devices = jnp.matmul, jax.devices()
    (row,) = primitives.product(devices)()
    assert row.verdict is RIGHT
    monkeypatch.setattr(jnp, "matmul", lambda a, b, precision: rough(matmul, a, b))
    (row,) = primitives.product(devices)()
    assert row.verdict is WRONG
    assert "less than float32" in row.text


def test_a_large_product_that_is_wrong_on_one_device(monkeypatch):
    matmul, devices = jnp.matmul, jax.devices()

    def stuck(a, b, precision):
        return matmul(a, b, precision=precision).at[-1, 5].add(1.0)

    monkeypatch.setattr(jnp, "matmul", stuck)
    (row,) = primitives.integers(devices)()
    assert row.text == "1 of 2,097,152 sums of 1024 integers are not exact"
    assert row.verdicts == {0: RIGHT, 1: RIGHT, 2: RIGHT, 3: WRONG}


def operators(change):
    """Check the operators of one device and one activation, with those that `change` breaks."""

    def operate(kind, *given):
        return change(primitives.operate(kind, *given), isinstance(given[1], jax.core.Tracer))

    drawn = check_pass.draw_batch()
    return report.merge_alike(primitives.eager(jax.devices()[1], *drawn, operate, [Activation.relu])())[0]


def test_an_operator_that_is_wrong_one_way_only():
    for change, said in (
        (lambda found, traced: found if traced else found | {"a1": found["a1"] * 0}, "eager, relu: a1 is off by"),
        (
            lambda found, traced: found | {"loss": found["loss"] * 2} if traced else found,
            "compiled, relu: loss is off by",
        ),
    ):
        row = operators(change)
        assert (row.what, row.verdicts) == ("eager beside compiled", {1: WRONG})
        assert said in row.text


def told(operators):
    """Check how one device finds what is not finite, with other operators."""
    (row,) = report.merge_alike(primitives.nonfinite(jax.devices()[1], operators)())
    assert row.what == "NaN and infinities told"
    return row


def in_programs(wrong, right):
    """Return an operator that is `wrong` where it is traced, and else `right`."""
    return lambda a, b: (wrong if isinstance(a, jax.core.Tracer) else right)(a, b)


@pytest.mark.parametrize(
    ("name", "operator", "said"),
    [
        ("isnan(a)", lambda a, b: jnp.isnan(a) & False, "isnan(a) is false of a = nan, b = nan, not true"),
        ("isinf(a)", lambda a, b: a == jnp.inf, "isinf(a) is false of a = -inf, b = nan, not true"),
        ("isfinite(a)", lambda a, b: a == a, "isfinite(a) is true of a = inf, b = nan, not false"),
        ("a = b", lambda a, b: ~(a < b) & ~(a > b), "a = b is true of a = nan, b = nan, not false"),
        ("a - b", lambda a, b: jnp.where(a == b, 0.0, a - b), "a - b is finite of a = inf, b = inf, not NaN"),
        ("a · b", lambda a, b: jnp.where(b == 0, 0.0, a * b), "a · b is finite of a = nan, b = 0, not NaN"),
        ("a / b", lambda a, b: jnp.where(b == 0, 0.0, a / b), "a / b is finite of a = nan, b = 0, not NaN"),
        ("a + b", lambda a, b: jnp.clip(a + b, -3e38, 3e38), "a + b is finite of a = inf, b = inf, not ∞"),
    ],
)
def test_what_is_not_finite_and_not_told_so(name, operator, said):
    row = told({name: operator})
    assert (row.verdict, row.text) == (WRONG, f"eager: {said}")
    row = told({name: in_programs(operator, primitives.OPERATORS[name])})
    assert (row.verdict, row.text) == (WRONG, f"compiled: {said}")
    assert told({name: primitives.OPERATORS[name]}).verdict is RIGHT


@pytest.mark.parametrize("name", primitives.COLLECTIVES)
def test_a_wrong_collective(name):
    devices, right = jax.devices()[:3], primitives.COLLECTIVES[name]
    assert {row.verdict for row in primitives.collective(name, devices)()} == {RIGHT}

    def operate(x, count):
        at_last = (jax.lax.axis_index("devices") == 2).astype(jnp.int32)
        return right.operate(x, count).at[-1].add(at_last)

    row, _ = primitives.collective(name, devices, {name: right._replace(operate=operate)})()
    assert row.verdicts == {0: RIGHT, 1: RIGHT, 2: WRONG}
    assert row.text.startswith("1 of ")
    assert row.text.endswith("integers are wrong, at device 2")


def bent(weight):
    """Make of uniform weights as many with the same bounds and the same mean square that are distributed otherwise."""
    largest = np.abs(weight).max()
    share = np.abs(weight) / largest
    return np.sign(weight) * largest * np.where(share < 1 / 3, 1 - share / 30, share / 30)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda w: w * 0, Initializer.he_normal, "different numbers"),
        (lambda w: w * np.float32(1.2), Initializer.he_uniform, "lie beyond"),
        (lambda w: w * np.float32(0.88), Initializer.he_normal, "mean square"),  # not widened after truncating
        (np.abs, Initializer.he_uniform, "mean of"),
        (lambda w: np.where(w == w[0, 0], np.float32(np.nan), w), Initializer.he_uniform, "lie beyond"),
        (lambda w: np.resize(w.ravel()[:1000], w.shape), Initializer.he_normal, "different numbers"),
        (bent, Initializer.he_uniform, "distributed otherwise"),
        (lambda w: np.where(w == w[0, 0], np.float32(2), w), Initializer.ones, "of input_layer.weight are not 1"),
    ],
    ids=["zeros", "too wide", "truncated only", "no negative", "NaN", "repeated", "another distribution", "not one"],
)
def test_parameters_of_another_distribution(change, kind, said):
    def otherwise(*arguments):
        p = primitives.draw(*arguments)
        return p._replace(w1=change(p.w1))

    (row,) = primitives.initializer(kind, jax.devices()[0])()
    assert row.verdict is RIGHT
    (row,) = primitives.initializer(kind, jax.devices()[0], otherwise)()
    assert (row.what, row.verdict) == (f"initializer {kind}", WRONG)
    assert said in row.text


def test_both_layers_drawn_from_one_key():
    def alike(*arguments):
        p = primitives.draw(*arguments)
        return p._replace(w2=p.w1.T * np.sqrt(np.float32(1 / primitives.WIDE)))

    (row,) = primitives.initializer(Initializer.he_normal, jax.devices()[0], alike)()
    assert row.text == "the weights of the two layers are correlated"


def test_parameters_that_differ_when_drawn_again():
    seeds = itertools.count()

    def drift(kind, hidden, seed):
        return primitives.draw(kind, hidden, next(seeds))

    (row,) = primitives.initializer(Initializer.he_normal, jax.devices()[0], drift)()
    assert row.text == "drawn twice from the same seed, the parameters differ"


# --- verdicts, rounds, reports --------------------------------------------------------------------------------------


def row(what="a", error=0.0, text=None, devices=(0, 1), wrong=()):
    return report.judge(what, devices, error, 1.0, "relative", text, wrong)


def raised(what="b", devices=(0, 1)):
    return report.not_checked(what, devices, ValueError("what"))


DEVICES = tuple(CheckedDevice(number, "H100", 0) for number in (0, 1))


@pytest.mark.parametrize(
    ("rows", "verdict", "status"),
    [
        ([row()], RIGHT, 0),
        ([row(), raised()], NOT_CHECKED, 3),
        ([raised(), row(text="off"), row("c")], WRONG, 1),
        ([], NOT_CHECKED, 3),
        ([row(), raised(devices=())], NOT_CHECKED, 3),
    ],
    ids=["right", "not checked", "wrong before not checked", "nothing", "a plugin"],
)
def test_verdict_exit_status_and_json(cubic, monkeypatch, rows, verdict, status):
    monkeypatch.setattr(check, "check", lambda device, seconds, watch: Report(DEVICES, tuple(rows), {"seconds": 1.0}))
    ended, out, err = cubic("check", "--json")
    document = json.loads(out)
    assert (ended, document["verdict"]) == (status, verdict)
    assert list(document) == ["verdict", "devices", "rows", "facts"]
    assert all(list(device) == ["id", "kind", "process", "verdict"] for device in document["devices"])
    assert len(document["rows"]) == len(rows)
    assert ("Do not trust" in err) == (verdict is WRONG)
    assert ("no verdict" in err) == (verdict is NOT_CHECKED)
    assert (err == "") == (verdict is RIGHT)


@pytest.mark.parametrize("width", ["40", "80"])
def test_the_screen_of_what_is_not_right(cubic, monkeypatch, tmp_path, width):
    monkeypatch.setenv("COLUMNS", width)
    rows = (row("relu against float64", 2.0, "z1_max of batch 2 is 3 and float64 says 4", wrong=[1]), raised("psum"))
    monkeypatch.setattr(
        check, "check", lambda device, seconds, watch: Report(DEVICES, rows, {"jax": "0.1", "rounds": 3})
    )
    status, out, err = cubic("check", "--save", "kept.md")
    words = " ".join(out.split())
    assert status == 1
    assert "WRONG" in out
    assert "relu against float64 z1_max of batch 2 is 3 and float64 says 4" in words
    assert "psum ValueError: what" in words
    assert "0 H100 0 right 1 H100 0 WRONG" in words
    assert words.endswith("JAX 0.1 on 2 × H100 does not compute right: 1 of 2 checks in 3 rounds")
    assert max(map(len, out.splitlines())) <= int(width)
    assert "WRONG" in (tmp_path / "kept.md").read_text()
    assert "kept in kept.md" in err


@pytest.mark.parametrize(
    ("rows", "kind", "said"),
    [
        ((row("relu against float64", 0.5),), "good", "✓ Right: {} computes right: all 1 checks."),
        (
            (row("relu", 2.0, "z1 is 3", wrong=[1]),),
            "bad",
            "✗ Wrong: {} does not compute right: 1 of 1 checks.",
        ),
        (
            (raised("psum"),),
            "warning",
            "– Not checked: {} was not checked: no verdict for 1 of 1 checks.",
        ),
    ],
    ids=["right", "wrong", "not checked"],
)
def test_the_page_says_the_verdict_first(rows, kind, said):
    found = pages.check(view.as_page(Report(DEVICES, rows, {"jax": "0.1", "subnormals": {"operands": False}})))
    (verdict,) = found.find("p", class_=f"verdict {kind}")
    assert verdict["text"] == said.format("JAX 0.1 on 2 × H100")
    assert found.elements.index(verdict) < found.elements.index(found.find("table")[0])
    assert [row[0] for row in found.rows("")[1 : 1 + len(rows)]] == [row.what for row in rows]
    assert "operands: no" in [e["text"] for e in found.find("dd")]


def test_values_that_check_does_not_take(cubic):
    assert cubic("check", "--save", "kept.docx")[0] == 2
    status, out, err = cubic("check", "--seconds", "-1")
    assert (status, out) == (2, "")
    assert "at least 0" in err


def test_a_device_that_is_not_there_is_not_checked(cubic):
    status, out, err = cubic("check", "--device", "gpu", "--json")
    document = json.loads(out)
    assert (status, document["verdict"], document["devices"]) == (3, "not_checked", [])
    said = "there is no gpu for JAX here, only: cpu; JAX_PLATFORMS=cpu lets JAX use nothing else: unset it"
    assert said in document["rows"][0]["text"]
    assert "there is no gpu" in err


@pytest.mark.parametrize(
    ("device", "platforms", "verdict"),
    [
        (Device.auto, "", NOT_CHECKED),
        (Device.cpu, "", RIGHT),
        (Device.auto, "cpu", RIGHT),
        (Device.auto, "cuda,cpu", NOT_CHECKED),
    ],
    ids=["nobody chose", "--device", "JAX_PLATFORMS", "JAX_PLATFORMS names one that is absent"],
)
def test_a_plugin_that_did_not_come_up(monkeypatch, device, platforms, verdict):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(check, "failed_plugins", lambda: {"cuda": "no driver\nlibcuda.so.1 is missing"})
    ready = Check("a", jax.devices(), lambda: lambda: [row()])
    monkeypatch.setattr(check, "list_checks", lambda devices: [ready])
    found = check.check(device)
    assert found.verdict is verdict
    if verdict is NOT_CHECKED:
        assert {each for row in found.rows if not row.verdicts for each in row.what.split()} >= {"cuda"}
    if verdict is NOT_CHECKED and not platforms:
        assert found.rows[-1].what == "plugin cuda"
        assert "no driver\nlibcuda.so.1 is missing" in found.rows[-1].text
        assert {found.verdict_of(each) for each in found.devices} == {RIGHT}


def test_whatever_keeps_jax_from_starting_is_not_checked(monkeypatch):
    def fail(device):
        raise ImportError("jaxlib version 0.1 is newer than and incompatible with jax version 0.0")

    monkeypatch.setattr(check, "pick_devices", fail)
    found = check.check(Device.auto)
    assert found.verdict is NOT_CHECKED
    assert "jaxlib version 0.1" in found.rows[0].text


def test_rounds_until_the_time_is_over_and_the_worst_is_kept(monkeypatch):
    """By a clock that goes on by one when it is read, which is between two rounds."""
    monkeypatch.setattr(check, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    rounds = itertools.count(1)

    def each():
        number = next(rounds)
        return [row(error=number, text="off" if number == 3 else None)]

    checks = [Check("a", [], lambda: each)]
    found, count = check.run_checks(checks, 5)
    assert count == next(rounds) - 1 == 6
    assert [(one.verdict, one.error, one.text) for one in found] == [(WRONG, 3.0, "off")]
    assert check.run_checks(checks)[1] == 1


def test_compiling_and_checking_are_watched():
    """Of several rounds it is not known how many checks they are."""
    seen = []

    @contextlib.contextmanager
    def watch(description, total, *names):
        seen.append([description, total, 0])

        def advance(more, effort):
            seen[-1][-1] += more

        yield advance

    checks = [Check(name, [], lambda: lambda: [row()]) for name in "abc"]
    check.run_checks(checks, 0.0, watch)
    assert seen == [["compiling", 3, 3], ["checking", 3, 3]]
    check.run_checks(checks, 1e-9, watch)
    assert seen[2:] == [["compiling", 3, 3], ["checking", None, 3]]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), "PREALLOCATE"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY"), "nvidia-smi"),
        (RuntimeError("all CUDA-capable devices are busy or unavailable"), "another program has the card"),
        (RuntimeError("The TPU is already in use by process 12"), "end it, or wait"),
        (RuntimeError("INTERNAL: NCCL operation ncclGroupEnd() failed"), "NCCL_DEBUG=INFO"),
        (DeviceError("there is no gpu"), "there is no gpu"),
        (TypeError("of two\nlines"), "TypeError: of two\nlines; CUBIC_DEBUG=1 shows where"),
    ],
    ids=["exhausted", "memory", "CUDA's memory", "busy", "TPU", "NCCL", "no device", "any other"],
)
def test_what_is_raised_is_told_whole_with_the_way_out(error, said):
    def rows():
        raise error

    (found,) = report.attempt("a", (0,), rows)
    assert (found.verdict, found.error) == (NOT_CHECKED, None)
    assert said in found.text


def test_what_is_shared_counts_against_those_that_are_as_bad_alone():
    shared = row("all", text="off")
    alone = row("alone", text="off", wrong=[1])
    assert [Report(DEVICES, (shared,)).verdict_of(device) for device in DEVICES] == [WRONG, WRONG]
    assert [Report(DEVICES, (shared, alone)).verdict_of(device) for device in DEVICES] == [RIGHT, WRONG]
    assert [Report(DEVICES, (raised(), alone)).verdict_of(device) for device in DEVICES] == [RIGHT, WRONG]


def test_merging_believes_who_names_the_culprit():
    for pair in itertools.permutations((row(text="off"), row(text="there", wrong=[1]))):
        found = report.merge(*pair)
        assert (found.verdicts, found.text) == ({0: RIGHT, 1: WRONG}, "there")


def test_reports_of_several_processes_are_one_and_survive_json():
    one = Report(DEVICES[:1], (row(devices=[0]), row("b", devices=[0])), {"jax": "1", "seconds": 1.0, "processes": 1})
    other = Report(
        (CheckedDevice(9, "H100", 1),), (row(devices=[9], text="off", error=2.0), raised(devices=[9])), {"seconds": 2.0}
    )
    sent = [report.from_document(json.loads(json.dumps(report.to_document(each)))) for each in (one, other)]
    assert sent == [one, other]
    found = report.merge_reports(sent)
    assert [(each.what, each.verdict) for each in found.rows] == [("a", WRONG), ("b", NOT_CHECKED)]
    assert found.rows[0].text == "process 1: off"
    assert found.rows[0].verdicts == {0: RIGHT, 9: WRONG}
    assert (found.facts["processes"], found.facts["seconds"], found.facts["jax"]) == (2, 2.0, "1")
    assert [found.verdict_of(device) for device in found.devices] == [RIGHT, WRONG]


@pytest.mark.parametrize("devices", [1, 2, 3, 24, 64, 251, 1000])
def test_every_device_has_as_many_batches(devices):
    made = {}

    def make(way, activation, parameters, samples, on):
        made[way, len(on)] = len(samples.x)
        raise NotImplementedError

    many = [SimpleNamespace(id=number, platform="cpu") for number in range(devices)]
    check.run_checks(check_pass.list_passes(many, make)[:1])
    (samples,) = made.values()
    batches = -(-samples // BATCH)
    assert batches % devices == 0
    assert batches >= check_pass.BATCHES
    assert samples % BATCH == check_pass.SHORT


_FAST = """
import sys, jax
from cubic_cli.experiments import primitives, report
(row,) = report.merge_alike(primitives.nonfinite(jax.devices()[0])())
print(row.verdict, row.text)
"""
_ENABLED = "--xla_cpu_enable_fast_math=true"


@pytest.mark.process
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", "right"),
        (_ENABLED, "right"),
        (f"{_ENABLED} --xla_cpu_fast_math_honor_division=false --xla_cpu_fast_math_honor_functions=false", "right"),
        (f"{_ENABLED} --xla_cpu_fast_math_honor_nans=false", "wrong eager: isnan(a) is false"),
        (f"{_ENABLED} --xla_cpu_fast_math_honor_infs=false", "wrong eager: isinf(a) is false"),
        (
            f"{_ENABLED} --xla_cpu_fast_math_honor_nans=false --xla_cpu_fast_math_honor_infs=false",
            "wrong",
        ),
    ],
    ids=["none", "fast", "division and functions", "no NaN", "no infinity", "neither"],
)
def test_fast_arithmetic_of_xla(flags, expected):
    """Where XLA takes for granted that there is no NaN, or no infinity, and finds none."""
    environment = {**check.os.environ, "XLA_FLAGS": flags, "JAX_NUM_CPU_DEVICES": "1"}
    ended = subprocess.run([sys.executable, "-c", _FAST], capture_output=True, text=True, env=environment, check=False)
    assert ended.stdout.startswith(expected), ended.stderr
