import itertools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cubic_cli import network
from cubic_cli.config import Activation, Device, Initializer
from cubic_cli.engine import passes as forward
from cubic_cli.engine.layout import CPU, lay_out
from cubic_cli.experiments import check, primitives
from cubic_cli.network import initialise


@pytest.fixture
def fresh_programs():
    """For errors that are compiled in: they would last longer than the test."""
    forward._compile.cache_clear()
    yield
    forward._compile.cache_clear()


@pytest.fixture
def break_device(monkeypatch):
    """Change the parameters that the programs get, their samples `(x, y, sizes)`, or what they return.

    The batches of `check` are narrow: the samples are `[blocks, S, pieces]`.
    """

    def install(parameters=lambda p: p, arrays=lambda x, y, sizes: (x, y, sizes), seen=lambda program, s: s):
        make, start = forward.Pass.__init__, forward._Program.start
        monkeypatch.setattr(forward.Pass, "__init__", lambda self, p, *a, **o: make(self, parameters(p), *a, **o))
        monkeypatch.setattr(forward._Program, "start", lambda self, given: seen(self, start(self, arrays(*given))))

    return install


def failures():
    report = check.check(Device.cpu)
    assert report.passed == (not [row for row in report.rows if row.failure])
    return {(row.what, row.device): row.failure for row in report.rows if not row.passed}


AGAINST_FLOAT64 = {(f"{kind} against float64", f"{n} × cpu") for kind in Activation for n in (1, 4)}


def test_a_right_installation_passes_and_writes_nothing(cubic, tmp_path):
    status, out, err = cubic("check", "--json")
    document = json.loads(out)
    assert (status, err, document["passed"]) == (0, "", True)
    assert document["device"] == {"platform": "cpu", "kind": "cpu", "devices": 4, "processes": 1}
    rows = {(row["what"], row["device"]): row for row in document["rows"]}
    assert set(rows) >= AGAINST_FLOAT64 | {(f"initializer {kind}", "1 × cpu") for kind in Initializer}
    assert all(row["error"] <= row["limit"] for row in rows.values())
    assert list(tmp_path.iterdir()) == []


def test_the_cases_cover_every_initialiser_and_activation_with_batches_of_both_kinds():
    whole = {(kind, not case.missing) for case in check.CASES for kind in case[:2]}
    assert whole == set(itertools.product([*Initializer, *Activation], (True, False)))
    assert {case.activation for case in check.CASES if case.initializer is Initializer.ones} == set(Activation)
    assert len(check.CASES) == len(set(check.CASES))


@pytest.mark.parametrize("width", ["40", "80", "160"])
def test_the_screen_has_a_line_a_check_and_one_that_closes(cubic, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    status, out, _ = cubic("check")
    assert status == 0
    assert out.count(" right") == 24 + 1
    assert " ".join(out.split()).rpartition("right all")[2].startswith(" 24 checks passed: JAX")
    assert max(map(len, out.splitlines())) <= min(int(width), 80)
    assert "…" not in out


def test_a_failed_check_says_what_and_exits_1(cubic, break_device, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    break_device(arrays=lambda x, y, sizes: (x, y.at[0, 3, 1].add(4000), sizes))
    status, out, err = cubic("check")
    assert status == 1
    assert "WRONG" in out
    assert "relu against float64, 4 × cpu: ones, batches of 4: loss of batch 2" in " ".join(out.split())
    assert "does not compute right" in out.splitlines()[-1]
    assert "Do not trust" in err


def test_an_absent_device_names_what_is_there(cubic):
    status, out, err = cubic("check", "--device", "gpu")
    assert (status, out) == (1, "")
    assert "cpu" in err


# --- injected errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bias", "tensor"), [("b1", "z1"), ("b2", "z2")])
def test_a_wrong_bias(break_device, bias, tensor):
    def wrong(p):
        return p._replace(**{bias: jnp.asarray(getattr(p, bias)).at[-1].add(1.0)})

    break_device(wrong)
    found = failures()
    assert set(found) >= AGAINST_FLOAT64
    assert all(f": {tensor}_" in found[key] for key in AGAINST_FLOAT64)
    assert not [what for what, _ in found if "two runs" in what]


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
        lambda matmul, a, b: matmul(rounded(a, 7), rounded(b, 7)),  # bfloat16
        lambda matmul, a, b: matmul(rounded(a, 10), rounded(b, 10)),  # TF32
        in_three_passes,  # what `Precision.HIGH` is on a TPU
    ],
)
def test_a_product_below_the_precision_asked_for(monkeypatch, rough):
    matmul, devices = jnp.matmul, jax.devices()
    monkeypatch.setattr(jnp, "matmul", lambda a, b, precision: rough(matmul, a, b))
    row, again = primitives.check_product(primitives.multiply(devices), devices)
    assert "no float32 at highest precision" in row.failure
    assert again.passed


def test_parameters_in_bfloat16(break_device):
    break_device(lambda p: jax.tree.map(lambda a: jnp.asarray(a).astype(jnp.bfloat16).astype(jnp.float32), p))
    found = failures()
    assert set(found) >= AGAINST_FLOAT64
    assert all("z1_" in found[key] and ": glorot_uniform" not in key for key in AGAINST_FLOAT64)


def test_a_dropped_batch(break_device):
    break_device(arrays=lambda x, y, sizes: (x.at[0, :, 1].set(x[0, :, 0]), y.at[0, :, 1].set(y[0, :, 0]), sizes))
    found = failures()
    assert all("of batch 2 is" in found[key] for key in AGAINST_FLOAT64)


def test_a_short_batch_that_is_taken_for_a_whole_one(break_device):
    break_device(arrays=lambda x, y, sizes: (x, y, jnp.where(sizes > 0, check.BATCH, 0).astype(sizes.dtype)))
    found = failures()
    assert set(found) >= AGAINST_FLOAT64
    assert all("the last of 2: " in found[key] for key in AGAINST_FLOAT64)


def test_a_shuffled_statistic(break_device):
    def shuffled(_, s):
        return s._replace(a1_max=jnp.roll(s.a1_max, 1))

    break_device(seen=shuffled)
    found = failures()
    assert all("a1_max" in found[key] for key in AGAINST_FLOAT64)


def test_one_flipped_bit_in_one_activation(monkeypatch, fresh_programs):
    """In the largest z1 of all cases, and only under relu."""
    weight, bias = (
        np.asarray(a) for a in primitives.draw(check.HIDDEN, jax.devices()[0]).first[Initializer.he_normal][:2]
    )
    (x, _), relu = next(check.draw(4 * check.BATCH * 63, 10.0, 0)), network.ACTIVATIONS[Activation.relu]
    peak = float((np.outer(x, weight[0]) + bias).max())

    def flipped(z):
        bits = jax.lax.bitcast_convert_type(relu(z), jnp.int32) ^ (1 << 20)
        near = jnp.abs(z - peak) < 1e-6 * peak
        return jnp.where(near, jax.lax.bitcast_convert_type(bits, jnp.float32), relu(z))

    monkeypatch.setitem(network.ACTIVATIONS, Activation.relu, flipped)
    found = failures()
    assert {what for what, _ in found} == {"relu against float64"}
    assert all("he_normal" in text and "a1_" in text for text in found.values())


def test_a_device_that_returns_zeros(cubic, break_device):
    break_device(seen=lambda _, s: jax.tree.map(jnp.zeros_like, s))
    status, out, _ = cubic("check", "--json")
    document = json.loads(out)
    assert (status, document["passed"]) == (1, False)
    found = {(row["what"], row["device"]): row["failure"] for row in document["rows"] if not row["passed"]}
    assert set(found) >= AGAINST_FLOAT64
    assert "relu: the loss is 0, not about" in found["ones: expected loss and means", "4 × cpu"]


def test_a_device_that_does_not_repeat_itself(break_device):
    def drift(program, seen):
        program.calls = getattr(program, "calls", 0) + 1
        return seen._replace(loss=seen.loss * (1 + program.calls * 2e-7))

    break_device(seen=drift)
    found = failures()
    assert {what for what, _ in found} == {"all of these, two runs"}
    assert "of loss differ" in found["all of these, two runs", "1 × cpu"]


def test_one_device_that_differs_from_all(break_device):
    def differ(program, seen):
        alone = len(program.devices) == 1
        return seen._replace(z2_max=seen.z2_max * (1 + 2e-7)) if alone else seen

    break_device(seen=differ)
    found = failures()
    assert list(found) == [("extremes, one device and all", "4 × cpu")]
    assert "z2_max differ" in next(iter(found.values()))


def test_an_error_of_jax_is_a_failed_row(cubic, monkeypatch):
    def refuse(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nstack")

    monkeypatch.setattr(forward._Program, "start", refuse)
    status, out, err = cubic("check")
    assert status == 1
    assert "JaxRuntimeError: RESOURCE_EXHAUSTED: out of memory" in out
    assert "Do not trust" in err
    assert len([line for line in out.splitlines() if line.endswith("  right")]) == 9  # all but the passes


@pytest.mark.parametrize(
    ("module", "name", "wrong", "said"),
    [
        (jnp, "isnan", lambda values: jnp.zeros_like(values, bool), "the nan of z1 is 0, not 1"),
        (jnp, "isfinite", lambda values: jnp.ones_like(values, bool), "the count of z1 is 5, not 2"),
        (network, "relu", lambda z: jnp.maximum(z, -jnp.inf), "the count of a1 is 2, not 3"),
        (network, "relu", lambda z: jnp.where(z == -1, 0.5, jnp.maximum(z, 0)), "the zeros of a1 is 1, not 2"),
    ],
)
def test_values_that_are_not_finite_miscounted(monkeypatch, module, name, wrong, said):
    devices = jax.devices()
    (row,) = primitives.check_counted(primitives.count(devices), devices)
    assert row.passed
    monkeypatch.setattr(module, name, wrong)
    (row,) = primitives.check_counted(primitives.count(devices), devices)
    assert row.failure == f"device 1: {said}"


@pytest.mark.process
@pytest.mark.parametrize("kind", ["nans", "infs"])
def test_fast_arithmetic_of_xla(tmp_path, kind):
    """Numbers that XLA is told are never there."""
    flags = f"--xla_cpu_enable_fast_math=true --xla_cpu_fast_math_honor_{kind}=false"
    command = [sys.executable, "-m", "cubic_cli", "check", "--json"]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_NUM_CPU_DEVICES": "2"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 1
    failed = {row["what"] for row in json.loads(ended.stdout)["rows"] if not row["passed"]}
    assert "NaN and infinities, counted" in failed


@pytest.mark.parametrize("devices", [1, 2, 3, 24, 64, 251, 1000])
def test_every_device_has_work(devices):
    batches = -(-check.BATCHES // devices) * devices
    layout = lay_out(batches * check.BATCH - check.MISSING, check.BATCH, devices, CPU.block)
    sizes = layout.piece_sizes(batches * check.BATCH - check.MISSING)
    assert layout.blocks == devices
    assert (sizes[:, -1] > 0).all()


# --- the parameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (jnp.zeros_like, Initializer.he_normal, "different numbers"),
        (lambda w: w * 1.2, Initializer.glorot_uniform, "lie beyond"),
        (lambda w: w * 0.88, Initializer.glorot_normal, "mean square"),  # not widened after truncating
        (jnp.abs, Initializer.he_uniform, "mean of"),
        (lambda w: w.at[3, 0, 0].set(jnp.nan), Initializer.he_uniform, "lie beyond"),
        (lambda w: jnp.broadcast_to(w[:1], w.shape), Initializer.glorot_normal, "different numbers"),
        (lambda w: w.at[0, 0, 0].set(2.0), Initializer.ones, "1 values of input_layer.weight are not 1"),
    ],
)
def test_parameters_of_another_distribution(change, kind, said):
    drawn = primitives.draw(check.HIDDEN, jax.devices()[0])
    assert all(row.passed for row in primitives.check_drawn(drawn, jax.devices()[:1]))
    right = drawn.every[kind]
    wrong = right._replace(w1=change(jnp.asarray(right.w1)))
    drawn = drawn._replace(every=drawn.every | {kind: jax.tree.map(np.asarray, wrong)})
    (row,) = [row for row in primitives.check_drawn(drawn, jax.devices()[:1]) if not row.passed]
    assert row.what == f"initializer {kind}"
    assert said in row.failure


def test_parameters_that_differ_when_drawn_again():
    drawn = primitives.draw(check.HIDDEN, jax.devices()[0])
    again = jax.tree.map(np.copy, drawn.again[Initializer.he_normal])
    again.w2[-1] = np.nextafter(again.w2[-1], np.float32(2))
    drawn.again[Initializer.he_normal] = again
    (row,) = [row for row in primitives.check_drawn(drawn, jax.devices()[:1]) if not row.passed]
    assert (row.what, row.failure) == (
        "initializer he_normal",
        "drawn twice from the same seeds, the parameters differ",
    )


def test_parameters_are_those_that_forward_draws():
    drawn = primitives.draw(check.HIDDEN, jax.devices()[0])
    for kind in Initializer:
        ours, forwards = (jax.tree.leaves(p) for p in (drawn.first[kind], initialise(kind, check.HIDDEN, 0)))
        for a, b in zip(ours, forwards, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-7)  # fused otherwise, the last bit may differ
