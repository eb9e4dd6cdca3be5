"""What tests of several rooms need: samples, parameters made by hand, and `cubic` in processes of its own."""

import os
import subprocess
import sys

import numpy as np
import pytest

from cubic_cli.parameters import Parameters

# /proc and /dev/full, names of any bytes, and mutexes of zeros are Linux's alone.
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs what Linux alone has")
# A shell ignores SIGINT in what it runs in the background; Python's own handling is what a user's terminal gives.
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
MAIN = INTERRUPTIBLE + "from cubic_cli.__main__ import main; main()"
# The shape of whatever asks for no other, on all devices: XLA compiles its programs once for all tests. The last batch
# is short, a device has three of them and the last device two, and of the units one is left over by the steps of four.
N, B, H = 103, 10, 9
# The same for what needs many samples, or batches that stand in rows.
MANY, ROWS = 39_990, 1_000
SHAPE = ("--num-samples", str(N), "--batch-size", str(B), "--hidden-size", str(H))  # of `forward`
QUICK = ("--num-samples", "20", "--num-epochs", "2", "--hidden-size", "3")  # still smaller, of ReLU as it comes


def samples(n, seed=0):
    """Return n samples of the noisy cubic: `x [n]` and `y [n]`, float32."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-100, 100, n).astype(np.float32)
    return x, (0.01 * x**3 - 0.5 * x + 20 + rng.normal(0, 10, n)).astype(np.float32)


def near_one(n):
    """Return n samples of about 1 in size: `x [n]` and `y [n]`, float32."""
    rng = np.random.default_rng(3)
    return rng.normal(0, 1, n).astype(np.float32), rng.normal(1, 2, n).astype(np.float32)


def parameters(w1, b1, w2, b2):
    """Return float32 parameters from numbers or lists of H numbers: each takes its own shape."""
    hidden = np.broadcast(*map(np.ravel, (w1, b1, w2))).size
    shapes = ((1, hidden), (hidden,), (hidden, 1), (1,))
    given = zip((w1, b1, w2, b2), shapes, strict=True)
    with np.errstate(over="ignore"):
        arrays = [np.broadcast_to(np.ravel(value), np.prod(shape)).reshape(shape) for value, shape in given]
        return Parameters(*(array.astype(np.float32) for array in arrays))


def drawn(hidden, seed=0):
    """Return float32 parameters of the variance of `he_normal`, drawn by NumPy, which compiles nothing."""
    rng = np.random.default_rng(seed)
    return parameters(rng.normal(0, 2**0.5, hidden), 0, rng.normal(0, (2 / hidden) ** 0.5, hidden), 0)


def start(*arguments, code=MAIN, shell="", environment=None, **options):
    """Start `cubic` as a process of its own.

    `shell`, a line that runs "$0" "$@", may close its streams or limit it; `environment` adds variables, and takes away
    those that are None.
    """
    # -P: as in an installed script, the current folder is no place for modules.
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    if shell:
        command = ["bash", "-c", shell, *command]
    variables = {name: value for name, value in {**os.environ, **(environment or {})}.items() if value is not None}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=variables, **(streams | options))


def finish(process, seconds=120):
    """Wait for a process; return its exit status, standard output and standard error, which holds no traceback."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()  # where it hung
    assert "Traceback" not in (out or "") + (err or "")
    return process.returncode, out, err


def outside(*arguments, **options):
    """Run `cubic` in a process of its own; return its exit status, standard output and standard error."""
    return finish(start(*arguments, **options))
