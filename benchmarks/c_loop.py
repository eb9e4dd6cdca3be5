"""The floor: `fused.c`, compiled on the fly."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.problem import ALL, LEVELS, Figures, Problem, counts, moments

_FLAGS = ["-O3", "-march=native", "-fopenmp", "-fno-trapping-math", "-fno-signed-zeros", "-shared", "-fPIC"]
_Float = ctypes.POINTER(ctypes.c_float)


class _Problem(ctypes.Structure):
    _fields_ = [
        *((name, _Float) for name in ("x", "y", "w1", "b1", "w2")),
        ("b2", ctypes.c_float),
        ("about", ctypes.c_float * 3),
        ("hidden", ctypes.c_int64),
        ("batch", ctypes.c_int64),
    ]


class _History(ctypes.Structure):
    _fields_ = [("loss", _Float), ("low", _Float * 3), ("high", _Float * 3)]


class _Moments(ctypes.Structure):
    _fields_ = [
        ("sum", ctypes.c_double),
        ("squares", ctypes.c_double),
        ("zeros", ctypes.c_int64),
        ("nonfinite", ctypes.c_int64),
    ]


@functools.cache
def _library() -> ctypes.CDLL:
    compiler = shutil.which("cc")
    if compiler is None:
        raise ImportError("there is no C compiler `cc`")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "fused.so"
        subprocess.run([compiler, *_FLAGS, str(Path(__file__).with_name("fused.c")), "-o", str(made)], check=True)
        return ctypes.CDLL(str(made))


def _pointer(values: np.ndarray) -> Any:
    return values.ctypes.data_as(_Float)


def fused(problem: Problem, level: str) -> Callable[[], Figures]:
    """Return the loop, ready to run.

    Raises:
        ImportError: there is no C compiler.
    """
    observe = _library().observe
    arrays = [np.ascontiguousarray(getattr(problem, name)) for name in ("x", "y", "w1", "b1", "w2")]
    given = _Problem(
        *map(_pointer, arrays), problem.b2, (ctypes.c_float * 3)(*problem.about), problem.hidden, problem.batch
    )
    given.arrays = arrays  # they live as long as the pointers to them
    loss = np.empty(problem.batches, np.float32)
    low, high = (np.empty((3, problem.batches), np.float32) for _ in range(2))
    history = _History(_pointer(loss), (_Float * 3)(*map(_pointer, low)), (_Float * 3)(*map(_pointer, high)))
    of = (_Moments * 3)()

    def run() -> Figures:
        observe(
            ctypes.byref(given),
            ctypes.c_int64(problem.samples),
            LEVELS.index(level),
            ctypes.byref(history),
            of,
        )
        if level != ALL:
            return Figures(loss, low, high)
        sums = (np.array([getattr(m, name) for m in of]) for name in ("sum", "squares"))
        mean, std = moments(counts(problem), *sums, problem.about)
        return Figures(loss, low, high, mean, std, np.array([m.zeros for m in of]), np.array([m.nonfinite for m in of]))

    return run
