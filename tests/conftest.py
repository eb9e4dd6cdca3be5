"""How every test runs: JAX strict, on four devices of the CPU, in an empty folder, without anyone's settings.

Nothing here may import JAX: it reads its variables once, and child processes inherit them.
"""

import os
import tempfile

import pytest
from hypothesis import settings

from cubic_cli.cli import app as cli
from cubic_cli.config import SETTINGS
from cubic_cli.engine import compiler

OF_SESSION = "CUBIC_TESTS_CACHE"

settings.register_profile("developer", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=300, deadline=None, print_blob=True)
settings.load_profile("developer")  # another by `--hypothesis-profile ci`


def pytest_addoption(parser):
    parser.addoption("--device", choices=("cpu", "gpu"), default="cpu", help="where JAX runs; tests marked gpu need it")


def pytest_configure(config):
    """Set JAX's variables before any test imports it."""
    if config.getoption("--device") == "gpu":
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # child processes share the card's memory
    else:
        os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ |= {
        "JAX_NUM_CPU_DEVICES": "4",  # sharding is tested on any machine
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        # One cache for the workers, their child processes and the next session; `--cache-clear` empties it.
        "JAX_COMPILATION_CACHE_DIR": cache_folder(config, "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        # JAX writes an entry in place: whoever reads it at that moment compiles for himself, with a warning.
        "PYTHONWARNINGS": "ignore:Error reading persistent compilation cache entry",
        "XDG_CACHE_HOME": cache_folder(config, "home"),  # never the user's own
        "NO_COLOR": "1",
        "TERM": "xterm",
    }
    os.environ.pop("COLUMNS", None)
    if config.option.collectonly:  # no snapshot is used, which says nothing
        config.pluginmanager.unregister(name="syrupy")
    compiler.prepare_cpu()


def cache_folder(config, name):
    """Return a folder of pytest's cache; under `-p no:cacheprovider` one that goes with the session, of all workers."""
    if hasattr(config, "cache"):
        return str(config.cache.mkdir(name))
    folders = os.environ.get(OF_SESSION)  # the workers inherit it
    if folders is None:
        of_session = tempfile.TemporaryDirectory(prefix="cubic-tests-")
        config.add_cleanup(of_session.cleanup)
        folders = os.environ[OF_SESSION] = of_session.name
    return os.path.join(folders, name)


def pytest_xdist_auto_num_workers(config):
    """Return 1 on a GPU, which takes one process at a time; None leaves it to the number of cores."""
    return 1 if config.getoption("--device") == "gpu" else None


def pytest_collection_modifyitems(config, items):
    """Leave out what asks a GPU where none was asked for."""
    if config.getoption("--device") == "cpu":
        asking = [item for item in items if item.get_closest_marker("gpu")]
        if asking:
            config.hook.pytest_deselected(items=asking)
            items[:] = [item for item in items if item not in asking]


def pytest_make_parametrize_id(val, argname):
    """Return an id that reads: words as on a command line, a switch by its name, numbers in short."""
    if isinstance(val, bool):
        return argname if val else f"not {argname}"
    if isinstance(val, float):
        return f"{val:.6g}"
    if isinstance(val, (str, bytes)):
        shown = repr(str(val) if isinstance(val, str) else val).removeprefix("b")[1:-1]  # in one line
        return (shown if len(shown) <= 40 else f"{shown[:30]}… {len(shown)}") or "nothing"
    if isinstance(val, (tuple, list, set)):
        return " ".join(str(pytest_make_parametrize_id(each, argname) or each) for each in val) or "nothing"
    if isinstance(val, dict):
        named = {
            name: each if isinstance(each, bool) else pytest_make_parametrize_id(each, name) or each
            for name, each in val.items()
        }
        return " ".join(f"{name}={each}" for name, each in named.items()) or "nothing"
    if isinstance(val, (BaseException, type)):
        return (val if isinstance(val, type) else type(val)).__name__
    return "…" if getattr(val, "__name__", "") == "<lambda>" else None


@pytest.fixture(autouse=True)
def clean_folder(tmp_path, monkeypatch):
    """Every test runs in an empty folder, without the settings of whoever runs it, and leaves none of a .env."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def cubic(capfd):
    """Run the command line; returns (status, standard output, standard error)."""

    def run(*arguments):
        status = cli.run([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return run
