import json
import os
import subprocess
import sys

import jax
import polars as pl
import pytest
from helpers import outside

from cubic_cli.engine.devices import failed_plugins, keep_compiled
from cubic_cli.float32 import EXTREMES


def forward(name, arguments, environment):
    """Run `cubic forward` in a process of its own; returns the record and the history."""
    unset = {"JAX_NUM_CPU_DEVICES": None, "XLA_FLAGS": None}
    command = ("forward", "--run-name", name, "--json", *arguments)
    status, out, err = outside(*command, environment=unset | environment)
    assert status == 0, err
    return json.loads(out), pl.read_parquet(f"model/{name}/history.parquet")


@pytest.fixture
def kept_in(monkeypatch, tmp_path):
    """Return where what is compiled is kept, None for nowhere, where the user's caches are in a folder."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def where(folder):
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
        keep_compiled()
        return os.environ["JAX_COMPILATION_CACHE_DIR"] or None

    return where


def test_what_is_compiled_is_kept_in_the_users_cache_folder(kept_in, tmp_path):
    assert kept_in(tmp_path / "cache") == str(tmp_path / "cache/cubic/jax")
    assert kept_in("relative") == kept_in("") == str(tmp_path / "home/.cache/cubic/jax")
    assert not (tmp_path / "relative").exists()


@pytest.mark.parametrize("open_to_all", ["cubic", "cubic/jax"])
def test_what_others_may_write_is_not_run(kept_in, tmp_path, open_to_all):
    assert kept_in(tmp_path)
    (tmp_path / open_to_all).chmod(0o777)
    assert kept_in(tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give folders away")
@pytest.mark.parametrize("of_another", ["cubic", "cubic/jax"])
def test_what_another_user_keeps_is_not_run(kept_in, tmp_path, of_another):
    assert kept_in(tmp_path)
    os.chown(tmp_path / of_another, 65534, -1)
    assert kept_in(tmp_path) is None


@pytest.mark.process
@pytest.mark.parametrize("batch", [10, 900])  # 900: fewer batches than devices
def test_virtual_devices_do_not_matter(cubic, batch):
    cubic("generate", "--n", 2003)
    arguments = ("--num-samples", "all", "--batch-size", batch, "--initializer", "he_normal", "--num-epochs", 2)
    environments = {
        1: {"JAX_NUM_CPU_DEVICES": "1"},
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


@pytest.mark.process
def test_what_jax_is_told_of_types_does_not_matter(cubic):
    """The usual run is of the tests' own settings, which are strict."""
    cubic("generate", "--n", 103)
    arguments = ("--num-samples", "all", "--initializer", "he_normal", "--gradients")
    told = {"JAX_ENABLE_X64": "1", "JAX_NUMPY_DTYPE_PROMOTION": "standard", "JAX_NUMPY_RANK_PROMOTION": "allow"}
    record, history = forward("told", arguments, told)
    usual, alone = forward("usual", arguments, {})
    assert record["verification"]["passed"]
    assert history.equals(alone)
    assert record["gradients"] == usual["gradients"]


def test_jax_without_its_compiler(cubic):
    cubic("generate", "--n", 20)
    with jax.disable_jit():
        for command, expected in ((("check",), 3), (("forward", "--num-samples", "all"), 1)):
            status, out, err = cubic(*command)
            assert status == expected
            assert "JAX_DISABLE_JIT is set" in out + err


# --- plugins of JAX that do not come up ------------------------------------------------------------------------------

_REGISTER = """
def initialize():
    from jax._src import xla_bridge
    def fail(): raise RuntimeError("Outdated cuDNN\\nfound 8, expected 9")
    xla_bridge.register_backend_factory("broken", fail, priority=200, fail_quietly={quietly})
"""
PLUGINS = {
    "loud": _REGISTER.format(quietly=False),
    "quiet": _REGISTER.format(quietly=True),
    "raising": "def initialize():\n    raise RuntimeError('Outdated cuDNN\\nfound 8, expected 9')\n",
    "not importable": "raise ImportError('Outdated cuDNN\\nfound 8, expected 9')\n",
}
_PICK = """
import json, sys
from cubic_cli.config import Device
from cubic_cli.engine.devices import failed_plugins, pick_devices
from cubic_cli.errors import DeviceError
found = []
for device in sys.argv[1:]:
    try:
        found.append([device.platform for device in pick_devices(Device(device))])
    except DeviceError as error:
        found.append(str(error))
print(json.dumps([*found, failed_plugins()]))
"""


# A GPU that is there would be found, too.
_DRIVERLESS = "import jax._src.hardware_utils as h; h.has_visible_nvidia_gpu = lambda: False\n"


def pick(*devices, folder, **environment):
    """Pick devices in a process of its own, with the plugins in `folder`; return what is found of each, or said."""
    tried = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    ended = subprocess.run(
        [sys.executable, "-c", _DRIVERLESS + _PICK, *devices],
        capture_output=True,
        text=True,
        env={**tried, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), **environment},
        check=True,
    )
    assert "Traceback" not in ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.process
@pytest.mark.parametrize("kind", PLUGINS)
def test_a_plugin_that_fails_is_told_with_its_whole_reason(tmp_path, kind):
    folder = tmp_path / "jax_plugins" / "broken"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(PLUGINS[kind])
    auto, cpu, gpu, failed = pick("auto", "cpu", "gpu", folder=tmp_path)
    # Others may be installed here, and not come up either.
    (reason,) = (said for said in failed.values() if "Outdated cuDNN" in said)
    assert "Outdated cuDNN\nfound 8, expected 9" in reason
    assert set(cpu) == {"cpu"}
    if kind != "loud":
        assert set(auto) == {"cpu"}
    for found in [gpu] + [auto] * (kind == "loud"):
        assert "Outdated cuDNN\nfound 8, expected 9" in found
        assert "auto for JAX" not in found


def test_a_backend_that_jax_passes_over_in_silence(monkeypatch):
    """As `cuda` where no driver is there. What is not public of JAX is the table of backends."""
    from jax._src import xla_bridge

    monkeypatch.setitem(xla_bridge._backend_factories, "imagined", xla_bridge._backend_factories["cpu"])
    assert failed_plugins()["imagined"] == "JAX passed it over: it sees no device for imagined; is its driver there?"


@pytest.mark.process
def test_platforms_that_are_not_there_are_told_in_jax_words(tmp_path):
    found, _ = pick("auto", folder=tmp_path, JAX_PLATFORMS="cpu, imagined")
    assert "Unable to initialize backend ' imagined'" in found
    # `cuda` where no GPU is seen JAX passes over, and asserts that another came up, without a word.
    found, _ = pick("auto", folder=tmp_path, JAX_PLATFORMS="cuda")
    assert found.endswith("JAX_PLATFORMS=cuda names none that is there")
