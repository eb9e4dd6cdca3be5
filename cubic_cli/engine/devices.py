"""The devices of JAX: which there are, and which a run uses."""

import importlib.util
import logging
import os
import re
import stat
import sys
import warnings
from pathlib import Path
from typing import Any

from cubic_cli.config import Device
from cubic_cli.engine.compiler import prepare_cpu
from cubic_cli.errors import DeviceError, UsageError


def keep_compiled() -> None:
    """Have JAX keep what it compiles in the user's cache folder; before JAX's first use.

    JAX's own variables move the cache or turn it off. Where the folder cannot be written there is none, nor where
    others may write: what it holds is run.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    try:
        folder = _user_cache() / "cubic" / "jax"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return
    if not os.access(folder, os.W_OK) or not all(map(_is_own, (folder, folder.parent))):
        return
    # A cache that breaks later, or is full, costs time and no more.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    # JAX keeps only what took a second to compile; here all together takes half of that.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def _user_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    given = Path(os.environ.get(variable, ""))
    return given if given.is_absolute() else Path.home() / ".cache"  # the XDG specification passes over others


def _is_own(folder: Path) -> bool:
    """Return whether a folder is this user's, and not everybody's to write."""
    status = folder.stat()
    return not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & stat.S_IWOTH)


def pick_devices(device: Device) -> list[Any]:
    """Return JAX's devices of the backend that is asked for; in a distributed run, those of all processes.

    A plugin of JAX that fails is told on standard error in a line of its own, without a traceback.

    Raises:
        DeviceError: there is none; gives JAX's whole reason, and names what is there. Or JAX is told not to compile.
        UsageError: JAX does not take the value of one of its variables.
    """
    prepare_cpu()
    try:
        import jax
    except ValueError as error:  # so JAX reads its variables
        raise UsageError(_bad_variable(str(error))) from None

    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        raise DeviceError("JAX_DISABLE_JIT is set, and cubic runs nothing that is not compiled; unset it")
    log = logging.getLogger(_LOG)
    if _failures not in log.filters:
        log.addFilter(_failures)
    backend = None if device is Device.auto else device.value
    try:
        return list(jax.devices(backend))
    except (RuntimeError, AssertionError) as error:  # JAX asserts where JAX_PLATFORMS names what is not there
        why = str(error).strip() or f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')} names none that is there"
        if named := re.search("Unable to initialize backend '(.*?)'", why):
            _failures.reasons[named[1]] = why
    try:
        there = ", ".join(sorted({d.platform for d in jax.devices()}))
    except (RuntimeError, AssertionError):
        there = ""
    if backend is None or not there:
        raise DeviceError(*f"JAX finds no device: {why}".splitlines())
    try:  # once more, for a plugin that fails keeps JAX from all others, but only at the first call
        return list(jax.devices(backend))
    except (RuntimeError, AssertionError):
        pass
    chosen = os.environ.get("JAX_PLATFORMS", "").strip()
    if chosen and not _NAMES[backend].intersection(map(str.strip, chosen.split(","))):
        only = f"only: {there}; JAX_PLATFORMS={chosen} lets JAX use nothing else: unset it, or give --device auto"
        raise DeviceError(f"there is no {backend} for JAX here, {only}")
    reasons = "".join(f"; {name} did not come up: {reason}" for name, reason in failed_plugins().items())
    said = f"there is no {backend} for JAX here, only: {there}{reasons or f' ({why})'}; give --device auto, "
    said += f"or install JAX for it (pip install 'jax[{'cuda13' if device is Device.gpu else 'tpu'}]')"
    raise DeviceError(*said.splitlines())  # JAX's reason may have many


def _bad_variable(said: str) -> str:
    """Return the words for a variable that JAX does not take; what it says names it, or only its value."""
    given = {name: value for name, value in os.environ.items() if name.startswith("JAX_")}
    named = [name for name in given if name.lower() in said.lower()]
    named = named or [name for name, value in given.items() if repr(value) in said]
    name, found = (named[0], f"found {given[named[0]]!r}; ") if named else ("JAX's variables", "")
    return f"{name}: {found}JAX says: {said}. Unset it, or see docs.jax.dev/en/latest/config_options.html"


# --- JAX's plugins: what is not public of them stands here, and a test says when it changes ---------------------------

_LOG = "jax._src.xla_bridge"  # the logger to which JAX tells of plugins that it cannot load, and to which alone
_NAMES = {"cpu": {"cpu"}, "gpu": {"gpu", "cuda", "rocm"}, "tpu": {"tpu"}}  # of a device, in JAX_PLATFORMS
_BUILT_IN = ("cpu", "proxy")  # JAX's backends that no plugin brings; `tpu` needs libtpu


class _PluginFailures(logging.Filter):
    """Keeps what JAX's log says of plugins that it cannot load, and makes a line of the traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[str, str] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None or "plugin configuration error" in str(record.msg):
            name = str(record.args[0]) if isinstance(record.args, tuple) and record.args else "a plugin"
            reason = f"{type(error).__name__}: {error}" if error is not None else record.getMessage()
            self.reasons[name] = reason
            record.msg, record.args = f"JAX's plugin {name} did not come up: {reason}", ()
            record.exc_info = None
        return True


_failures = _PluginFailures()


def failed_plugins() -> dict[str, str]:
    """Return the plugins of JAX that are installed and did not come up, with JAX's whole reason; after `pick_devices`.

    One whose backend is registered and that JAX passes over in silence, as `cuda` without a driver, is among them.
    """
    import jax
    from jax._src import xla_bridge

    found = dict(_failures.reasons)
    for name in tuple(getattr(xla_bridge, "_backend_factories", ())):  # JAX may yet add to it
        if name in _BUILT_IN or (name == "tpu" and importlib.util.find_spec("libtpu") is None):
            continue
        try:
            jax.local_devices(backend=name)
        except (RuntimeError, AssertionError) as error:
            passed_over = f"JAX passed it over: it sees no device for {name}; is its driver there?"
            found.setdefault(name, passed_over if "Unknown backend" in str(error) else str(error).strip())
    return found


def absent_platforms() -> dict[str, str]:
    """Return those of JAX_PLATFORMS that JAX passes over in silence, with its reason; after `pick_devices`."""
    import jax

    found = {}
    for name in filter(None, map(str.strip, os.environ.get("JAX_PLATFORMS", "").split(","))):
        try:
            jax.local_devices(backend=name)
        except (RuntimeError, AssertionError) as error:
            found[name] = str(error).strip()
    return found
