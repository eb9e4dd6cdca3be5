import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cubic_cli import check, forward, network
from cubic_cli.config import Activation, Device


@pytest.fixture
def fresh_programs():
    """For errors that are compiled in: they would last longer than the test."""
    forward._compile.cache_clear()
    yield
    forward._compile.cache_clear()


@pytest.fixture
def break_device(monkeypatch):
    """Change the parameters that the programs get, their samples `(x, y, sizes)`, or what they return."""

    def install(parameters=lambda p: p, arrays=lambda x, y, sizes: (x, y, sizes), seen=lambda program, s: s):
        initialise, start = forward.Pass.__init__, forward._Program.start
        monkeypatch.setattr(forward.Pass, "__init__", lambda self, p, *a, **o: initialise(self, parameters(p), *a, **o))
        monkeypatch.setattr(forward._Program, "start", lambda self, given: seen(self, start(self, arrays(*given))))

    return install


def failures():
    report = check.check(Device.cpu)
    assert report.passed == (not [row for row in report.rows if row.failure])
    return {row.what: row.failure for row in report.rows if not row.passed}


def test_a_right_installation_passes_and_writes_nothing(cubic, tmp_path):
    status, out, err = cubic("check", "--json")
    document = json.loads(out)
    assert (status, err) == (0, "")
    assert document["passed"]
    assert document["device"] == {"platform": "cpu", "kind": "cpu", "devices": 4}
    what = [row["what"] for row in document["rows"]]
    for kind in (*check.Initializer, *check.Activation):
        assert any(kind in text for text in what)
    assert all(row["error"] <= row["limit"] for row in document["rows"])
    assert list(tmp_path.iterdir()) == []


def test_the_screen_has_a_line_a_check_and_one_that_closes(cubic, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = cubic("check")
    assert status == 0
    assert out.count(" right") == 20 + 1
    assert out.splitlines()[-1].startswith("all 20 checks passed: JAX")
    assert max(map(len, out.splitlines())) <= 80


def test_an_absent_device_names_what_is_there(cubic):
    status, out, err = cubic("check", "--device", "gpu")
    assert (status, out) == (1, "")
    assert "cpu" in err


def test_a_wrong_bias(break_device):
    break_device(lambda p: p._replace(input_layer=p.input_layer._replace(bias=p.input_layer.bias.at[3].add(1.0))))
    found = failures()
    assert found["initializer he_normal"].startswith("z1_")
    assert found["closed form for ones"].startswith("z")
    assert "a second run, bit for bit" not in found


def test_products_in_bfloat16(break_device, monkeypatch):
    def rough(tree):
        return jax.tree.map(lambda a: a.astype(jnp.bfloat16).astype(jnp.float32), tree)

    matmul = jnp.matmul
    monkeypatch.setattr(jnp, "matmul", lambda a, b, **options: matmul(*rough((a, b)), **options))
    break_device(rough)
    found = failures()
    assert "not float32 at highest precision" in found["matrix product at highest precision"]
    assert found["initializer he_normal"].startswith("z1_")
    assert "initializer ones" not in found  # bfloat16 holds ones exactly


def test_a_dropped_batch(break_device):
    break_device(arrays=lambda x, y, sizes: (x.at[0, 1].set(x[0, 0]), y.at[0, 1].set(y[0, 0]), sizes))
    assert "of batch 2 is" in failures()["initializer he_normal"]


def test_one_wrong_row(break_device):
    break_device(arrays=lambda x, y, sizes: (x, y.at[0, 1, 3].add(400), sizes))
    assert failures()["activation identity"].startswith("loss of batch 2")


def test_a_shuffled_statistic(break_device):
    break_device(seen=lambda _, s: s._replace(a1=s.a1._replace(max=jnp.roll(s.a1.max, 1))))
    assert failures()["activation gelu"].startswith("a1_max")


@pytest.mark.parametrize("bit", [20, 27])
def test_one_flipped_bit_in_one_activation(monkeypatch, fresh_programs, bit):
    def flipped(z):
        a = network.relu(z)
        bits = jax.lax.bitcast_convert_type(a, jnp.int32) ^ (1 << bit)
        wrong = jax.lax.bitcast_convert_type(bits, jnp.float32)
        return jnp.where(z > peak * (1 - 1e-6), wrong, a)

    weights = np.asarray(network.initialise(check.Initializer.he_normal, check.HIDDEN_SIZE, 0).input_layer.weight)
    samples = next(check.draw(check.SAMPLES, 10.0, 0))[0]
    peak = float(np.outer(samples, weights[0]).max())
    monkeypatch.setitem(network.ACTIVATIONS, Activation.relu, flipped)
    assert failures()["activation relu"].startswith("a1_")


def test_a_device_that_returns_zeros(break_device):
    break_device(seen=lambda _, s: jax.tree.map(jnp.zeros_like, s))
    found = failures()
    assert {f"initializer {kind}" for kind in check.Initializer} <= set(found)
    assert {f"activation {kind}" for kind in Activation} <= set(found)


def test_a_device_that_draws_zeros(monkeypatch):
    monkeypatch.setattr(check, "_draw_all", lambda: jax.tree.map(jnp.zeros_like, drawn()))
    drawn = jax.jit(lambda: [network.initialise(kind, check.HIDDEN_SIZE, 0) for kind in check._DRAWN])
    assert "not 32 different numbers" in failures()["drawn parameters"]


def test_a_device_that_does_not_repeat_itself(break_device):
    drift = itertools.count(1)
    break_device(seen=lambda _, s: s._replace(squared_error=s.squared_error * (1 + next(drift) * 2e-7)))
    assert "loss changed" in failures()["a second run, bit for bit"]


def test_one_device_that_differs(break_device):
    def differ(program, seen):
        alone = len(program.devices) == 1
        return seen._replace(z2=seen.z2._replace(max=seen.z2.max * (1 + 2e-7))) if alone else seen

    break_device(seen=differ)
    assert failures() == {"one device and all, bit for bit": "z2_max is another on one device than on all"}


def test_an_error_of_jax_is_a_failed_row(cubic, monkeypatch):
    def refuse(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nstack")

    monkeypatch.setattr(forward._Program, "start", refuse)
    status, out, err = cubic("check")
    assert status == 1
    assert "RESOURCE_EXHAUSTED: out of memory" in out
    assert "Do not trust" in err
