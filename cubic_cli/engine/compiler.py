"""What the engine asks of XLA and JAX beyond their plain use: every switch, and every name that is not public.

    switch                                                   gain, history / all
    XLA_FLAGS: xla_cpu_use_multi_output_fusion               1.2 / 1.9
        Otherwise each of a unit's eight figures computes the unit again.
    disabled pass: cse                                       1.5 / 1.7
        It makes XLA store what LLVM computes once anyway.
    disabled pass: cpu-parallel-task-assigner                1.7 / 1.3
        The cores are devices already; loops split once more over all cores only wait for each other.
    disabled pass: rematerialization                         none for ReLU; others were not measured
        It may take the fusion of all figures apart again.
    disabled pass: small-while-loop-hoisting                 7 / 10, from JAX 0.12 on
        It moves the scan over units to where nothing is vectorised.
    compile option: xla_cpu_prefer_vector_width = 512        1.3 to 1.5, on AMD from Zen 5 on
        These compute the whole of such a vector at once; XLA prefers 256.
    JAX_NUM_CPU_DEVICES                                      1.4 / 1.9, on two cores
        The cores of a CPU become devices, for one loop runs on one core.

Gains are of the pass at H = 64, B = 10: `python -m benchmarks.throughput --no-torch` with the switch and without it;
the first four by the processor time of an epoch on two cores of a Zen 5, JAX 0.10.2.
An XLA that does not know a flag or a pass ignores it; a compile option that it refuses is left out. So all of it costs
no more than its gain. Of JAX all that is used is public but three switches of `undisturbed`, which may go; it is
imported late, for it reads its variables then.
`tests/engine/test_compiler.py` says when a switch no longer does what it is here for.
"""

import contextlib
import itertools
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cubic_cli.errors import UsageError

if TYPE_CHECKING:
    import jax

Options = dict[str, str | bool]

_FUSE = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"
_WITHOUT = "rematerialization,cpu-parallel-task-assigner"
_WITHOUT_BY_UNIT = f"{_WITHOUT},cse,small-while-loop-hoisting"
_tracing = threading.Lock()
_unknown: set[str] = set()  # compile options that this XLA has not


def options_plain(device: "jax.Device") -> Options:
    """Return how XLA is to compile the plain schedule for a device."""
    return {"xla_disable_hlo_passes": _WITHOUT} if device.platform == "cpu" else {}


def options_by_unit(device: "jax.Device") -> Options:
    """Return how XLA is to compile the schedule by units for a device."""
    if device.platform != "cpu":
        return {}
    wide = {"xla_cpu_prefer_vector_width": "512"} if has_wide_vectors() else {}
    return {"xla_disable_hlo_passes": _WITHOUT_BY_UNIT, **wide}


def compile_ahead(function: Any, arguments: tuple[Any, ...], options: Options) -> Any:
    """Compile what `jax.jit` returned for arguments of these shapes; an option that XLA does not know is left out.

    Threads trace in turn, and compile side by side: tracing holds Python's lock, and where several trace at once, none
    is done before all are.
    """
    import jax

    with _tracing, undisturbed():
        lowered = function.lower(*arguments)
    while True:
        known = {name: value for name, value in options.items() if name not in _unknown}
        try:
            return lowered.compile(known or None)
        except jax.errors.JaxRuntimeError as error:
            refused = [name for name in known if "No such compile option" in str(error) and name in str(error)]
            if not refused:
                raise
            _unknown.update(refused)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Switch off what halts JAX at a value that is not finite, or at a transfer: to observe them is the purpose.

    The command line does without more of JAX's switches; here are those that a program may have set before it calls.
    """
    import jax
    from jax._src import config

    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.debug_nans(False))
        stack.enter_context(jax.debug_infs(False))
        stack.enter_context(jax.no_tracing(False))
        stack.enter_context(jax.transfer_guard("allow"))
        for name in ("nan", "divide", "oob"):  # not public, and no older than they are
            if hasattr(config, switch := f"error_checking_behavior_{name}"):
                stack.enter_context(getattr(config, switch)("ignore"))
        yield


def prepare_cpu() -> None:
    """Expose each CPU core as a JAX device and switch multi-output fusion on; before JAX is used.

    Variables that are set win. Where XLA_FLAGS names a file of flags it is left alone.

    Raises:
        UsageError: JAX_NUM_CPU_DEVICES is no count; JAX would find no device, or one.
    """
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if given := os.environ.get("JAX_NUM_CPU_DEVICES", "").strip():
        if not given.isascii() or not given.isdigit() or int(given) < 1:
            raise UsageError(f"JAX_NUM_CPU_DEVICES: found {given!r}; expected an integer of 1 or more")
    elif "host_platform_device_count" not in flags:
        os.environ["JAX_NUM_CPU_DEVICES"] = str(count_cores())
    if "xla_backend_extra_options" not in flags and (not flags or flags.startswith("-")):
        os.environ["XLA_FLAGS"] = f"{flags} {_FUSE}".strip()


def count_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may keep busy: those it may run on, or its control groups' share of time.

    Args:
        root: of the file system, for tests.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the cores' worth of time that each control group of this process may use, of both versions of cgroups."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / controllers
        group = mounted / path.lstrip("/")
        for folder in (group, *group.parents):
            # In a container the group is often its own root, whatever its path is outside.
            with contextlib.suppress(OSError, ValueError):
                if controllers:
                    quota = float((folder / "cpu.cfs_quota_us").read_text())
                    period = float((folder / "cpu.cfs_period_us").read_text())
                else:
                    quota, period = map(float, (folder / "cpu.max").read_text().split())  # `max` is no number
                if quota > 0 and period > 0:
                    yield quota / period
            if folder == mounted:
                break


def has_wide_vectors(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether XLA had better use vectors of 512 bits here, of which it prefers 256.

    AMD's processors compute the whole of one at once from Zen 5 on (family 26). Before, they compute halves, and LLVM
    has been seen to abort on some shapes; of others we know too little. What XLA_FLAGS says of it stays as it is.
    """
    if "xla_cpu_prefer_vector_width" in os.environ.get("XLA_FLAGS", ""):
        return False
    try:
        with cpuinfo.open(encoding="utf-8") as lines:
            pairs = (line.split(":", 1) for line in itertools.islice(lines, 4))
            fields = {name.strip(): value.strip() for name, value in pairs}
        return fields["vendor_id"] == "AuthenticAMD" and int(fields["cpu family"]) >= 26
    except (OSError, KeyError, ValueError):  # no Linux, or no x86
        return False
