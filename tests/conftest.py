import os
import shutil
import tempfile

# Before JAX is first used: four CPU devices, so that sharding is tested on any machine.
os.environ["JAX_NUM_CPU_DEVICES"] = "4"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "allow"
os.environ["NO_COLOR"] = "1"
os.environ.pop("COLUMNS", None)
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()

import pytest

from cubic_cli.cli import app as cli
from cubic_cli.cli import settings as options
from cubic_cli.engine import devices

devices.prepare_cpu()


@pytest.fixture(scope="session", autouse=True)
def compilation_cache():
    """What `cubic` compiles in processes of its own is kept for the session, and not in the user's cache."""
    yield
    shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def clean_folder(tmp_path, monkeypatch):
    """Every test runs in an empty folder, without the settings of whoever runs it, and leaves none of a .env."""
    for name in options.SETTINGS:
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
