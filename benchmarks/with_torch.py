"""The forward pass in PyTorch, eager or compiled, in every formulation that had a chance to be the fastest.

Data are finite here, so none of these looks at extremes over finite values only, as cubic does: an advantage.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.problem import ALL, LOSS, Figures, Problem, counts, moments

Tensors = tuple[Any, ...]


def _torch(problem: Problem) -> tuple[Any, ...]:
    import torch

    torch.set_grad_enabled(False)
    return torch, *(torch.from_numpy(np.array(v)) for v in (problem.x, problem.y, problem.w1, problem.b1, problem.w2))


def _statistics(tensors: Tensors) -> list[Any]:
    sums = [[t.sum() for t in tensors], [(t * t).sum() for t in tensors]]
    return [*sums, [(t == 0).sum() for t in tensors], [(~t.isfinite()).sum() for t in tensors]]


def _whole(problem: Problem, level: str, matmul: bool, two_steps: bool) -> Callable[[], Any]:
    """`[K, B, H]` tensors; by matrix products or broadcasting; reduced over B and H at once or one by one."""
    torch, x, y, w1, b1, w2 = _torch(problem)
    x, y = x.view(-1, problem.batch, 1), y.view(-1, problem.batch, 1)
    b2 = float(problem.b2)

    def run() -> Any:
        z1 = x @ w1[None, :] + b1 if matmul else x * w1 + b1
        a1 = torch.relu(z1)
        z2 = a1 @ w2[:, None] + b2 if matmul else (a1 * w2).sum(dim=2, keepdim=True) + b2
        loss = (z2 - y).square().mean(dim=(1, 2))
        if level == LOSS:
            return [loss]
        tensors = (z1, a1, z2)
        if two_steps:
            low, high = [t.amin(dim=2).amin(dim=1) for t in tensors], [t.amax(dim=2).amax(dim=1) for t in tensors]
        else:
            low, high = [t.amin(dim=(1, 2)) for t in tensors], [t.amax(dim=(1, 2)) for t in tensors]
        return [loss, low, high] + (_statistics(tensors) if level == ALL else [])

    return run


def _matmul(problem: Problem, level: str) -> Callable[[], Any]:
    return _whole(problem, level, matmul=True, two_steps=False)


def _broadcast(problem: Problem, level: str) -> Callable[[], Any]:
    return _whole(problem, level, matmul=False, two_steps=False)


def _two_steps(problem: Problem, level: str) -> Callable[[], Any]:
    return _whole(problem, level, matmul=False, two_steps=True)


def _transposed(problem: Problem, level: str) -> Callable[[], Any]:
    """`[H, N]` tensors, the samples on the minor axis."""
    torch, x, y, w1, b1, w2 = _torch(problem)
    b2 = float(problem.b2)

    def by_batch(values: Any) -> Any:
        return values.view(-1, problem.batch)

    def run() -> Any:
        z1 = x[None, :] * w1[:, None] + b1[:, None]
        a1 = torch.relu(z1)
        z2 = (a1 * w2[:, None]).sum(dim=0) + b2
        loss = by_batch((z2 - y).square()).mean(dim=1)
        if level == LOSS:
            return [loss]
        low = [by_batch(t).amin(dim=1) for t in (z1.amin(dim=0), a1.amin(dim=0), z2)]
        high = [by_batch(t).amax(dim=1) for t in (z1.amax(dim=0), a1.amax(dim=0), z2)]
        return [loss, low, high] + (_statistics((z1, a1, z2)) if level == ALL else [])

    return run


def _unrolled(problem: Problem, level: str) -> Callable[[], Any]:
    """`[N]` tensors, one expression over the samples with all H units written out: one fused loop once compiled."""
    torch, x, y, w1, b1, w2 = _torch(problem)
    hidden, b2 = problem.hidden, float(problem.b2)

    def by_batch(values: Any) -> Any:
        return values.view(-1, problem.batch)

    def run() -> Any:
        z2 = torch.full_like(x, b2)
        low = high = total = squares = a_total = a_squares = zeros = a_zeros = None
        for h in range(hidden):
            z1 = x * w1[h] + b1[h]
            a1 = torch.relu(z1)
            z2 = z2 + a1 * w2[h]
            if level == LOSS:
                continue
            low = z1 if low is None else torch.where(z1 < low, z1, low)
            high = z1 if high is None else torch.where(z1 > high, z1, high)
            if level == ALL:
                here = (z1, z1 * z1, a1, a1 * a1, (z1 == 0).int(), (a1 == 0).int())
                seen = (total, squares, a_total, a_squares, zeros, a_zeros)
                total, squares, a_total, a_squares, zeros, a_zeros = (
                    new if old is None else old + new for old, new in zip(seen, here, strict=True)
                )
        loss = by_batch((z2 - y).square()).mean(dim=1)
        if level == LOSS:
            return [loss]
        ends = [low, torch.relu(low), z2], [high, torch.relu(high), z2]
        figures = [
            loss,
            [by_batch(end).amin(dim=1) for end in ends[0]],
            [by_batch(end).amax(dim=1) for end in ends[1]],
        ]
        if level == ALL:
            figures += [
                [t.sum() for t in (total, a_total, z2)],
                [t.sum() for t in (squares, a_squares, z2 * z2)],
                [t.sum() for t in (zeros, a_zeros, z2 == 0)],
                # A sum over the units is finite only if all of them are; only where one is not would one count them.
                [(~t.isfinite()).sum() for t in (total, a_total, z2)],
            ]
        return figures

    return run


FORMULATIONS: dict[str, Callable[[Problem, str], Callable[[], Any]]] = {
    "matrix products": _matmul,
    "broadcast": _broadcast,
    "broadcast, two steps": _two_steps,
    "transposed": _transposed,
    "unrolled": _unrolled,
}


def _figures(problem: Problem, level: str, run: Callable[[], Any]) -> Callable[[], Figures]:
    def seen() -> Figures:
        loss, *rest = run()
        arrays = [np.array([t.numpy() for t in part]) for part in rest]
        if level != ALL:
            return Figures(loss.numpy(), *arrays)
        low, high, total, squares, zeros, nonfinite = arrays
        mean, std = moments(counts(problem), total.astype(np.float64), squares.astype(np.float64))
        return Figures(loss.numpy(), low, high, mean, std, zeros, nonfinite)

    return seen


def eager(formulation: str) -> Callable[[Problem, str], Callable[[], Figures]]:
    """Return the maker of a pass, run operation by operation."""
    return lambda problem, level: _figures(problem, level, FORMULATIONS[formulation](problem, level))


def compiled(formulation: str) -> Callable[[Problem, str], Callable[[], Figures]]:
    """Return the maker of a pass, compiled by `torch.compile` for these shapes."""

    def make(problem: Problem, level: str) -> Callable[[], Figures]:
        import torch

        torch._dynamo.reset()
        run = torch.compile(FORMULATIONS[formulation](problem, level), dynamic=False, fullgraph=True)
        return _figures(problem, level, run)

    return make
