"""What every contender computes: the samples, the parameters, the figures, and the float64 reference they must equal.

N samples, B batch, K batches, H hidden; the tensors are z1, a1 and z2, in this order
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cubic_cli.config import Activation, Initializer
from cubic_cli.data.problem import draw
from cubic_cli.reference.network import activate

LOSS, HISTORY, ALL = "loss", "history", "all"
LEVELS = (LOSS, HISTORY, ALL)
EPOCHS = 8  # one after the other, where a contender keeps the device busy from one to the next
_BLOCK = 1 << 12  # samples of the reference at a time: their values stay in the cache


@dataclass(frozen=True)
class Problem:
    """`x` and `y` `[N]`, `w1`, `b1` and `w2` `[H]`, `b2`, all float32; the batch size; f."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    w1: NDArray[np.float32]
    b1: NDArray[np.float32]
    w2: NDArray[np.float32]
    b2: np.float32
    batch: int
    activation: Activation = Activation.relu

    @functools.cached_property
    def about(self) -> NDArray[np.float32]:
        """Numbers near the means of the tensors, `[3]`, about which all contenders take their moments.

        Squares about zero cancel where the values lie far from it, and then tell a wrong deviation.
        """
        z1 = np.outer(self.x[:: max(1, self.samples // 64)][:64], self.w1) + self.b1
        a1 = activate(self.activation, z1.astype(np.float64))
        return np.array([z1.mean(), a1.mean(), (a1 @ self.w2).mean() + self.b2], np.float32)

    @property
    def samples(self) -> int:
        """N."""
        return len(self.x)

    @property
    def hidden(self) -> int:
        """H."""
        return len(self.w1)

    @property
    def batches(self) -> int:
        """K."""
        return self.samples // self.batch


@dataclass(frozen=True)
class Run:
    """A contender, ready to run: called, it returns its figures on the host.

    A call passes over the samples `epochs` times, and returns the figures of the last. `compute` begins one epoch whose
    figures stay on the device, and `wait` is given what it returned.
    """

    figures: Callable[[], "Figures"]
    compute: Callable[[], Any] | None = None
    wait: Callable[[Any], Any] | None = None
    epochs: int = 1

    def __call__(self) -> "Figures":
        return self.figures()


class Figures(NamedTuple):
    """What is seen: the losses `[K]`, the extremes of the tensors `[3, K]`, and their statistics `[3]`."""

    loss: NDArray[np.floating]
    low: NDArray[np.floating] | None = None
    high: NDArray[np.floating] | None = None
    mean: NDArray[np.floating] | None = None
    std: NDArray[np.floating] | None = None
    zeros: NDArray[np.integer] | None = None
    nonfinite: NDArray[np.integer] | None = None


def make(samples: int, batch: int, hidden: int, activation: Activation = Activation.relu) -> Problem:
    """Return samples of the cubic and random parameters (`he_normal`); `batch` divides `samples`."""
    from cubic_cli.network import initialise

    if samples % batch:
        raise ValueError(f"{samples} samples are no whole number of batches of {batch}")
    columns = zip(*draw(samples, 10.0, 0), strict=True)
    x, y = (np.concatenate(parts) for parts in columns)
    w1, b1, w2, b2 = (np.array(value).reshape(-1) for value in initialise(Initializer.he_normal, hidden, 0))
    return Problem(x, y, w1, b1, w2, b2[0], batch, activation)


def moments(
    count: NDArray[np.integer],
    total: NDArray[np.floating],
    squares: NDArray[np.floating],
    about: NDArray[np.floating] | float = 0.0,
) -> tuple:
    """Return mean and standard deviation `[3]` from sums of differences from `about` and of their squares."""
    shift = total / count
    return np.asarray(about, np.float64) + shift, np.sqrt(np.maximum(squares / count - shift * shift, 0))


def counts(problem: Problem) -> NDArray[np.int64]:
    """Return the number of values of each tensor, `[3]`."""
    return problem.samples * np.array([problem.hidden, problem.hidden, 1])


def reference(problem: Problem) -> tuple[Figures, NDArray[np.float64]]:
    """Return all figures in float64, and the scale of each batch's loss, `mean((|z2| + |y|)²)`."""
    low, high = np.empty((3, problem.samples)), np.empty((3, problem.samples))
    error, scale = np.empty(problem.samples), np.empty(problem.samples)
    w1, b1, w2 = (values.astype(np.float64) for values in (problem.w1, problem.b1, problem.w2))

    def see(start: int) -> NDArray[np.float64]:
        """Return of each tensor the sum, the sum of squares, the zeros and what is not finite, `[4, 3]`, of a block."""
        here = slice(start, start + _BLOCK)
        z1 = np.outer(problem.x[here].astype(np.float64), w1) + b1
        a1 = activate(problem.activation, z1)
        z2 = a1 @ w2[:, None] + float(problem.b2)
        for i, tensor in enumerate((z1, a1, z2)):
            low[i, here], high[i, here] = tensor.min(axis=1), tensor.max(axis=1)
        error[here] = np.square(z2[:, 0] - problem.y[here])
        scale[here] = np.square(np.abs(z2[:, 0]) + np.abs(problem.y[here]))
        kinds = (np.sum, lambda t: np.square(t).sum(), lambda t: (t == 0).sum(), lambda t: (~np.isfinite(t)).sum())
        return np.array([[kind(tensor) for tensor in (z1, a1, z2)] for kind in kinds])

    with ThreadPoolExecutor() as pool:  # NumPy computes outside Python's lock
        total, squares, *counted = sum(pool.map(see, range(0, problem.samples, _BLOCK)))
    zeros, nonfinite = (values.astype(np.int64) for values in counted)

    by_batch = (3, problem.batches, problem.batch)
    figures = Figures(
        error.reshape(by_batch[1:]).mean(axis=1),
        low.reshape(by_batch).min(axis=2),
        high.reshape(by_batch).max(axis=2),
        *moments(counts(problem), total, squares),
        zeros,
        nonfinite,
    )
    return figures, scale.reshape(by_batch[1:]).mean(axis=1)


# Many contenders add millions of values in float32; a figure that is off by more than this is another figure.
_TOLERANCE = 1e-3


def check(
    name: str, problem: Problem, level: str, found: Figures, expected: Figures, loss_scale: NDArray[np.float64]
) -> None:
    """Compare a contender's figures with the float64 reference, each relative to its own scale.

    Raises:
        ValueError: a figure is missing or differs; names it.
    """
    assert expected.high is not None
    assert expected.low is not None
    assert expected.std is not None
    spread = np.maximum(np.abs(expected.low), np.abs(expected.high)).max(axis=1, keepdims=True)
    scales = Figures(loss_scale, spread, spread, expected.std, expected.std)
    fields = {LOSS: Figures._fields[:1], HISTORY: Figures._fields[:3], ALL: Figures._fields}[level]
    for field in fields:
        if field == "zeros" and problem.activation is Activation.gelu:
            continue  # float32's tanh reaches −1, and gelu 0, before float64's does
        value, wanted, scale = getattr(found, field), getattr(expected, field), getattr(scales, field)
        if value is None or np.shape(value) != wanted.shape:
            raise ValueError(f"{name} has no {field} of shape {wanted.shape}")
        off = np.abs(np.asarray(value, np.float64) - wanted)
        limit = (
            0 if scale is None else np.broadcast_to((1e-5 if field in fields[:3] else _TOLERANCE) * scale, off.shape)
        )
        if not (off <= limit).all():
            raise ValueError(f"{name} has another {field}: {np.asarray(value).flat[:3]}, expected {wanted.flat[:3]}")
