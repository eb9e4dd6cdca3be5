"""The switches of XLA and JAX: each does what it is here for, and an XLA that lacks one loses no more than its gain."""

import re

import jax
import numpy as np
import pytest
from helpers import B, H, N

from cubic_cli.config import Activation, Initializer
from cubic_cli.data.source import Arrays
from cubic_cli.engine import compiler, passes
from cubic_cli.engine.layout import CPU, lay_out
from cubic_cli.engine.passes import Pass, gather
from cubic_cli.network import initialise


def compiled(how):
    """Return the text of a schedule's program, after all of XLA's passes."""
    devices = tuple(jax.devices())
    program, _ = passes._compile(how, Activation.relu, CPU, lay_out(N, B, len(devices), CPU.block), H, devices)
    return program.as_text()


@pytest.mark.parametrize(("how", "figures"), [(passes.HISTORY, 3), (passes.MOMENTS, 8)], ids=["history", "moments"])
def test_one_loop_sees_all_figures_of_a_unit(how, figures):
    """The speed of the pass on a CPU, without a clock: of z2 and the figures a carry each, by one fusion.

    Without the fusion of several outputs there would be one each, with `cse` more, and from JAX 0.12 on, without the
    pass that is left out, the scan would be a function in which nothing is vectorised.
    """
    text = compiled(how)
    assert "xla_cpu_small_call" not in text
    bodies = re.findall(r"^%?\S+ \(.*?^}", text, flags=re.MULTILINE | re.DOTALL)
    scan = re.search(rf"f32\[{H // CPU.unroll},{CPU.unroll}\].* while\(.*body=(%?[\w.]+)", text)
    (body,) = [part for part in bodies if part.startswith(scan[1].lstrip("%")) or part.startswith(scan[1])]
    widths = [
        len(re.findall(rf"f32\[{3 * B}\]", line.split(" fusion(")[0]))
        for line in body.splitlines()
        if " fusion(" in line
    ]
    assert max(widths) == figures


def test_an_option_that_xla_does_not_know_is_left_out():
    function = jax.jit(lambda values: values + 1)
    asked = {"xla_no_such_option": True, "xla_disable_hlo_passes": "cse", "xla_nor_this": "2"}
    program = compiler.compile_ahead(function, (np.float32(1),), asked)
    assert program(np.float32(1)) == 2
    assert compiler._unknown >= {"xla_no_such_option", "xla_nor_this"}
    assert "xla_disable_hlo_passes" not in compiler._unknown


def test_a_value_that_xla_does_not_take_is_an_error():
    with pytest.raises(jax.errors.JaxRuntimeError, match="not_a_boolean"):
        compiler.compile_ahead(
            jax.jit(jax.numpy.negative), (np.float32(1),), {"xla_cpu_enable_fast_math": "not_a_boolean"}
        )


SWITCHES = {
    "debug_nans": lambda: jax.debug_nans(True),
    "debug_infs": lambda: jax.debug_infs(True),
    "no_tracing": lambda: jax.no_tracing(True),
    "transfer_guard": lambda: jax.transfer_guard("disallow"),
    # not public; should they go, their lines in `undisturbed` may too
    "error_checking_behavior_nan": lambda: jax._src.config.error_checking_behavior_nan("raise"),
    "error_checking_behavior_divide": lambda: jax._src.config.error_checking_behavior_divide("raise"),
    "error_checking_behavior_oob": lambda: jax._src.config.error_checking_behavior_oob("raise"),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_what_halts_jax_is_off_while_the_pass_runs(switch):
    x = np.ones(N, np.float32)
    x[1], x[B], x[B + 1] = np.nan, np.inf, 3e38
    parameters = initialise(Initializer.ones, H, 0)
    usual = gather(Pass(parameters, Arrays(x, x), B, Activation.relu, jax.devices()).run())
    with SWITCHES[switch]():
        told = gather(Pass(parameters, Arrays(x, x), B, Activation.relu, jax.devices()).run())
    # NaN: all units in z1 and a1, z2, the loss; ∞ likewise, and 3e38, whose z2 is infinite too
    counted = [2 * H + 2, 2 * H + 3] + [0] * 9
    assert told.columns["nonfinite"].tolist() == usual.columns["nonfinite"].tolist() == counted
    assert told.tensors == usual.tensors


@pytest.mark.parametrize("flags", ["--xla_force_host_platform_device_count=8", "--xla_cpu_enable_fast_math=false"])
def test_what_the_environment_says_stays(monkeypatch, flags):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES")
    compiler.prepare_cpu()
    assert compiler.os.environ["XLA_FLAGS"].startswith(f"{flags} --xla_backend_extra_options=")
    assert ("JAX_NUM_CPU_DEVICES" in compiler.os.environ) == ("device_count" not in flags)


@pytest.mark.parametrize("flags", ["/somewhere/flags.txt", "flags"])
def test_a_file_of_flags_is_left_alone(monkeypatch, flags):
    """XLA reads flags from a file where XLA_FLAGS does not begin with a dash."""
    monkeypatch.setenv("XLA_FLAGS", flags)
    compiler.prepare_cpu()
    assert compiler.os.environ["XLA_FLAGS"] == flags


QUOTAS = {
    "2 cores by cgroup v2": ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "200000 100000\n"}, 2),
    "of the group above": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
        },
        2,
    ),
    "half a core": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    "a container that sees its own group as the root": (
        {"proc/self/cgroup": "0::/docker/4711\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"},
        3,
    ),
    "cgroup v1": (
        {
            "proc/self/cgroup": "3:memory:/m\n2:cpu,cpuacct:/a\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
    "no limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
    "no control groups": ({}, 64),
}


@pytest.mark.parametrize(("files", "cores"), QUOTAS.values(), ids=QUOTAS)
def test_a_quota_of_time_is_no_more_devices_than_it_is_worth(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(compiler.os, "sched_getaffinity", lambda process: range(64), raising=False)
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert compiler.count_cores(tmp_path) == cores


def test_where_a_process_cannot_be_bound_to_cores_all_are_its_own(tmp_path, monkeypatch):
    """As on macOS."""
    monkeypatch.delattr(compiler.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(compiler.os, "cpu_count", lambda: 6)
    assert compiler.count_cores(tmp_path) == 6


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
    ids=["Zen 5", "Zen 4", "Intel", "ARM", "empty", "blank"],
)
def test_wide_vectors_are_for_those_processors_that_compute_them_whole(tmp_path, monkeypatch, cpuinfo, wide):
    path = tmp_path / "cpuinfo"
    assert not compiler.has_wide_vectors(path)
    path.write_text(cpuinfo)
    assert compiler.has_wide_vectors(path) is wide
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_prefer_vector_width=256")
    assert not compiler.has_wide_vectors(path)
