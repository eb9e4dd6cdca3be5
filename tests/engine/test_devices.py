import json
import os
import subprocess
import sys

import jax
import polars as pl
import pytest

from cubic_cli.engine.devices import has_wide_vectors, prepare_cpu

EXTREMES = [f"{name}_{end}" for name in ("z1", "a1", "z2") for end in ("min", "max")]


def forward(name, arguments, environment):
    """Run `cubic forward` in a process of its own; returns the record and the history."""
    clean = {key: value for key, value in os.environ.items() if key not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")}
    ended = subprocess.run(
        [sys.executable, "-m", "cubic_cli", "forward", "--run-name", name, "--json", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**clean, **environment},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), pl.read_parquet(f"model/{name}/history.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("batch", [10, 900])  # 900: fewer batches than devices
def test_virtual_devices_do_not_matter(cubic, batch):
    cubic("generate", "--n", 2003)
    arguments = ("--num-samples", "all", "--batch-size", batch, "--initializer", "he_normal", "--num-epochs", 2)
    environments = {
        1: {"JAX_NUM_CPU_DEVICES": "1"},
        2: {"JAX_NUM_CPU_DEVICES": "2"},
        3: {"JAX_NUM_CPU_DEVICES": "3"},
        8: {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
    }
    runs = {n: forward(f"on_{n}", arguments, environment) for n, environment in environments.items()}
    one, alone = runs[1]
    for devices, (record, history) in runs.items():
        assert record["device"]["devices"] <= devices
        assert record["device"]["devices"] > 1 or devices == 1
        for name in ("epoch", "batch", "size", "nonfinite", *EXTREMES):
            assert history[name].equals(alone[name])
        assert history["loss"].to_list() == pytest.approx(alone["loss"].to_list(), rel=1e-6)
        assert record["loss"] == pytest.approx(one["loss"], rel=1e-6)
        for a, b in zip(record["tensors"], one["tensors"], strict=True):
            assert (a["zeros"], a["nonfinite"]) == (b["zeros"], b["nonfinite"])
            assert a["name"] == "loss" or (a["min"], a["max"]) == (b["min"], b["max"])
        assert record["verification"]["passed"]


@pytest.mark.slow
def test_flags_in_dotenv_are_kept(cubic, tmp_path):
    cubic("generate", "--n", 100)
    (tmp_path / ".env").write_text("XLA_FLAGS=--xla_force_host_platform_device_count=3\n")
    record, _ = forward("mine", ("--num-samples", "all"), {})
    assert record["device"]["devices"] == 3


@pytest.mark.parametrize("flags", ["--xla_force_host_platform_device_count=8", "--xla_cpu_enable_fast_math=false"])
def test_what_the_environment_says_stays(monkeypatch, flags):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES")
    prepare_cpu()
    assert flags in os.environ["XLA_FLAGS"]
    assert ("JAX_NUM_CPU_DEVICES" in os.environ) == ("device_count" not in flags)


@pytest.mark.parametrize(
    ("cpuinfo", "wide"),
    [
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n", True),
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n", False),
        ("processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 26\nmodel\t\t: 2\n", False),
        ("processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\n", False),
        ("", False),
        ("\n\n\n\n", False),
    ],
)
def test_wide_vectors_are_for_those_processors_that_compute_them_whole(tmp_path, monkeypatch, cpuinfo, wide):
    path = tmp_path / "cpuinfo"
    assert not has_wide_vectors(path)
    path.write_text(cpuinfo)
    assert has_wide_vectors(path) is wide
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_prefer_vector_width=256")
    assert not has_wide_vectors(path)


@pytest.mark.parametrize(
    "environment",
    [{"JAX_ENABLE_X64": "1"}, {"JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_NUMPY_RANK_PROMOTION": "raise"}],
)
def test_what_jax_is_told_of_types_does_not_matter(cubic, environment):
    cubic("generate", "--n", 103)
    arguments = ("--num-samples", "all", "--initializer", "he_normal", "--gradients")
    record, history = forward("told", arguments, environment)
    usual, alone = forward("usual", arguments, {})
    assert record["verification"]["passed"]
    assert history.equals(alone)
    assert record["gradients"] == usual["gradients"]


def test_jax_without_its_compiler(cubic):
    cubic("generate", "--n", 20)
    with jax.disable_jit():
        for command in (("check",), ("forward", "--num-samples", "all")):
            status, out, err = cubic(*command)
            assert (status, out) == (1, "")
            assert "JAX_DISABLE_JIT is set" in err
