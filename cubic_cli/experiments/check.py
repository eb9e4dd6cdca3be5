"""`cubic check`: does this JAX installation compute right on these devices? Nothing is read and nothing is written.

The pass goes by the programs of `cubic forward`, and what lies under it has checks of its own: `check_pass` and
`primitives`. A check is a function that compiles, and gives back another that is run once a round.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cubic_cli.config import Device, Initializer
from cubic_cli.engine.devices import absent_platforms, failed_plugins, pick_devices
from cubic_cli.errors import DeviceError, UsageError
from cubic_cli.experiments.report import Check, CheckedDevice, Report, Row, attempt, ids, merge_alike, not_checked
from cubic_cli.experiments.watch import Watch, unwatched


def check(device: Device, seconds: float = 0.0, watch: Watch = unwatched) -> Report:
    """Check this process's devices of JAX's backend `device`, each alone and all together.

    It is repeated until `seconds` have passed, for the faults that come with heat and time. What JAX_PLATFORMS names
    and is not there makes it "not checked", and where neither it nor `device` chose, so does a plugin that is installed
    and did not come up. `watch` shows the progress of compiling, and of the checks.
    """
    started = time.perf_counter()
    until = started + seconds if seconds else 0.0
    rows: list[Row] = []
    devices: list[Any] = []
    facts: dict[str, Any] = {"rounds": 0, "processes": 1}
    try:
        with watch("starting JAX", None, ""):
            devices = _own_devices(device)
        with without_compilation_cache():
            rows, facts["rounds"] = run_checks(list_checks(devices), until, watch)
            facts |= _find_facts(devices[0])
    except UsageError:
        raise
    except Exception as error:  # whatever keeps JAX from starting
        rows.append(not_checked("devices", ids(devices), error))
    if devices and device is Device.auto:
        chosen = os.environ.get("JAX_PLATFORMS")
        for name, reason in (absent_platforms() if chosen else failed_plugins()).items():
            what = f"JAX_PLATFORMS {name}" if chosen else f"plugin {name}"
            rows.append(not_checked(what, [], DeviceError(*f"it did not come up: {reason}".splitlines())))
    facts["seconds"] = round(time.perf_counter() - started, 3)
    named = tuple(CheckedDevice(each.id, each.device_kind, each.process_index) for each in devices)
    return Report(named, tuple(rows), facts)


def _own_devices(device: Device) -> list[Any]:
    """Return the devices of this process."""
    devices = pick_devices(device)
    import jax

    return [each for each in devices if each.process_index == jax.process_index()]


@contextlib.contextmanager
def without_compilation_cache() -> Iterator[None]:
    """Neither read nor keep compiled programs: what another JAX or driver compiled proves nothing of this one."""
    import jax

    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def list_checks(devices: Sequence[Any]) -> list[Check]:
    """Return all that is checked on these devices."""
    from cubic_cli.experiments import check_pass, primitives

    one = devices[0]
    drawn = [
        Check(f"initializer {kind}", [one], functools.partial(primitives.initializer, kind, one))
        for kind in Initializer
    ]
    under = [
        Check("x·W + b in full float32", devices, functools.partial(primitives.product, devices)),
        Check("large product of integers", devices, functools.partial(primitives.integers, devices)),
        Check("NaN and infinities told", [one], functools.partial(primitives.nonfinite, one)),
        Check("eager beside compiled", [one], lambda: primitives.eager(one, *check_pass.draw_batch())),
    ]
    names = primitives.COLLECTIVES if len(devices) > 1 else ()
    collectives = [Check(name, devices, functools.partial(primitives.collective, name, devices)) for name in names]
    return [*drawn, *check_pass.list_passes(devices), *under, *collectives]


def run_checks(checks: Sequence[Check], until: float = 0.0, watch: Watch = unwatched) -> tuple[list[Row], int]:
    """Run all checks, in rounds until the time `until`, but once at least; return the rows and how many rounds.

    Threads compile side by side, for XLA compiles outside Python's lock.
    """
    prepared: list[Callable[[], Iterable[Row]]] = []
    named = "steps", "steps"  # several make one row
    with (
        watch("compiling", len(checks), *named) as advance,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
    ):
        for ready in pool.map(_prepare, checks):
            prepared.append(ready)
            advance(1, 1)
    rows: list[Row] = []
    rounds = 0
    with watch("checking", None if until else len(checks), *named) as advance:
        while not rounds or time.perf_counter() < until:
            for one, ready in zip(checks, prepared, strict=True):
                rows += attempt(one.what, ids(one.devices), ready)
                advance(1, 1)
            rows = merge_alike(rows)
            rounds += 1
    return rows, rounds


def _prepare(check: Check) -> Callable[[], Iterable[Row]]:
    """Return what is run once a round; where it cannot be compiled, that says why."""
    try:
        return check.prepare()
    except Exception as error:
        failed = not_checked(check.what, ids(check.devices), error)
        return lambda: [failed]


def _find_facts(device: Any) -> dict[str, Any]:
    """Return the versions, and what is good to know of a device and is neither right nor wrong."""
    from importlib.metadata import version

    from cubic_cli.experiments.facts import find_facts

    facts = {"jax": version("jax"), "jaxlib": version("jaxlib"), "platform": device.platform}
    with contextlib.suppress(Exception):  # what keeps it from these has kept a row from its verdict
        facts |= find_facts(device)
    return facts
