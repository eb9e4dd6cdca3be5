"""The problem: a noisy cubic, and samples of it.

x ~ U[-100, 100),  y = 0.01 x³ − 0.5 x + 20 + ε,  ε ~ N(0, noise_std²);  both float32.
"""

from collections.abc import Iterator

import numpy as np

from cubic_cli.float32 import Float32 as Float32
from cubic_cli.float32 import Float64 as Float64

X_LIMIT = 100.0
_CHUNK = 1 << 20  # rows drawn and written at a time: bounds the memory
_BELOW_LIMIT = np.nextafter(np.float32(X_LIMIT), np.float32(0))


def cubic(x: Float64) -> Float64:
    """Return the noise-free target `0.01 x³ − 0.5 x + 20`, in float64."""
    return 0.01 * x**3 - 0.5 * x + 20.0


def draw(rows: int, noise_std: float, seed: int) -> Iterator[tuple[Float32, Float32]]:
    """Yield the samples in chunks `(x [n], y [n])`, `rows` in all; the same seed gives the same samples.

    x and the noise come from two streams of the seed, so the values do not depend on the chunk size.
    """
    x_stream, noise_stream = _streams(seed)
    for start in range(0, rows, _CHUNK):
        n = min(_CHUNK, rows - start)
        x = _draw_x(x_stream, n)
        with np.errstate(over="ignore"):
            noise = noise_std * noise_stream.standard_normal(n)
            y = (cubic(x.astype(np.float64)) + noise).astype(np.float32)
        yield x, y


def draw_x(rows: int, seed: int) -> Float32:
    """Return x alone of the first `rows` samples, at most a chunk of them."""
    return _draw_x(_streams(seed)[0], rows)


def _streams(seed: int) -> "list[np.random.Generator]":  # in quotes: numpy.random is loaded when it is used
    return [np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(2)]


def _draw_x(stream: "np.random.Generator", n: int) -> Float32:
    # A float64 just below 100 can round to the float32 100.0, which the interval excludes.
    return np.minimum(stream.uniform(-X_LIMIT, X_LIMIT, n).astype(np.float32), _BELOW_LIMIT)
