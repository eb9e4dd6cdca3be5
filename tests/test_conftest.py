"""The tests themselves, run as somebody may run them."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.process
@pytest.mark.parametrize("workers", [0, 2])
def test_without_a_cache_of_pytest_one_goes_with_the_session(workers, tmp_path):
    """As where the clone is read-only. Two workers share it."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", workers, TESTS / "test_network.py"]
    said = subprocess.run(
        [*map(str, command), "-k", "squares or refused", "--basetemp", tmp_path / "of the tests"],
        cwd=TESTS.parent,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["of the tests"]
