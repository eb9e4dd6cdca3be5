"""The forward pass as one writes it in NumPy, with the same figures."""

from collections.abc import Callable

import numpy as np

from benchmarks.problem import ALL, LOSS, Figures, Problem


def plain(problem: Problem, level: str) -> Callable[[], Figures]:
    """Return the pass over `[K, B, H]` arrays, ready to run."""
    shape = (problem.batches, problem.batch, 1)
    x, y = problem.x.reshape(shape), problem.y.reshape(shape)
    w1, w2 = problem.w1[None, :], problem.w2[:, None]

    def run() -> Figures:
        z1 = x * w1 + problem.b1  # ten times as fast as x @ w1 on small batches
        a1 = np.maximum(z1, 0)
        z2 = a1 @ w2 + problem.b2
        loss = np.square(z2 - y).mean(axis=(1, 2))
        if level == LOSS:
            return Figures(loss)
        tensors = (z1, a1, z2)
        low = np.array([t.min(axis=(1, 2)) for t in tensors])
        high = np.array([t.max(axis=(1, 2)) for t in tensors])
        if level != ALL:
            return Figures(loss, low, high)
        return Figures(
            loss,
            low,
            high,
            np.array([t.mean() for t in tensors]),
            np.array([t.std() for t in tensors]),
            np.array([t.size - np.count_nonzero(t) for t in tensors]),
            np.array([t.size - np.count_nonzero(np.isfinite(t)) for t in tensors]),
        )

    return run
