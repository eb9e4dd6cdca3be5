"""The forward pass in PyTorch, eager or compiled, in every formulation that had a chance to be the fastest.

Data are finite here, so none of these looks at extremes over finite values only, as cubic does: an advantage.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.problem import ALL, LOSS, Figures, Problem, Run, counts, moments

Tensors = tuple[Any, ...]


def _torch(problem: Problem) -> tuple[Any, ...]:
    import torch

    torch.set_grad_enabled(False)
    arrays = (problem.x, problem.y, problem.w1, problem.b1, problem.w2)
    return torch, *(torch.from_numpy(np.array(values)).to(device()) for values in arrays)


def device() -> str:
    """Return where torch computes: on the GPU if JAX does, too.

    Raises:
        ImportError: there is no torch, or JAX computes on a GPU and torch sees none.
    """
    import jax
    import torch

    if jax.default_backend() != "gpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise ImportError(f"torch {torch.__version__} sees no card")
    return "cuda"


def _wait(seen: Any) -> None:
    import torch

    if device() == "cuda":
        torch.cuda.synchronize()


def give_back() -> None:
    """Give what torch keeps of the card's memory to the others, if torch is used at all."""
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _whole(problem: Problem, level: str, matmul: bool) -> Callable[[], Any]:
    """`[K, B, H]` tensors, by matrix products or broadcasting, each reduced as it is."""
    torch, x, y, w1, b1, w2 = _torch(problem)
    x, y = x.view(-1, problem.batch, 1), y.view(-1, problem.batch, 1)
    b2, about = float(problem.b2), problem.about.tolist()

    def run() -> Any:
        z1 = x @ w1[None, :] + b1 if matmul else x * w1 + b1
        a1 = torch.relu(z1)
        z2 = a1 @ w2[:, None] + b2 if matmul else (a1 * w2).sum(dim=2, keepdim=True) + b2
        seen = [(z2 - y).square().mean(dim=(1, 2))]
        tensors = (z1, a1, z2)
        if level != LOSS:
            seen += [[t.amin(dim=(1, 2)) for t in tensors], [t.amax(dim=(1, 2)) for t in tensors]]
        if level == ALL:
            away = [t - pivot for t, pivot in zip(tensors, about, strict=True)]
            seen += [[t.sum() for t in away], [(t * t).sum() for t in away]]
            seen += [[(t == 0).sum() for t in tensors], [(~t.isfinite()).sum() for t in tensors]]
        return seen

    return run


def _by_sample(problem: Problem, level: str, units: int) -> Callable[[], Any]:
    """Tensors with the H units on axis `units`, `[H, N]` or `[N, H]`, reduced over them first."""
    torch, x, y, w1, b1, w2 = _torch(problem)
    x = x.unsqueeze(units)
    w1, b1, w2 = (values.unsqueeze(1 - units) for values in (w1, b1, w2))
    b2, about = float(problem.b2), problem.about.tolist()

    def run() -> Any:
        z1 = x * w1 + b1
        a1 = torch.relu(z1)
        z2 = (a1 * w2).sum(dim=units) + b2
        ends = () if level == LOSS else (z1.amin(dim=units), z1.amax(dim=units))
        sums = _terms(z1, a1, about) if level == ALL else []
        return _reduce(torch, problem.batch, about[2], z2, y, ends, [t.sum(dim=units) for t in sums])

    return run


def _unrolled(problem: Problem, level: str) -> Callable[[], Any]:
    """`[N]` tensors, one expression over the samples with all H units written out: one fused loop once compiled."""
    torch, x, y, w1, b1, w2 = _torch(problem)
    hidden, b2, about = problem.hidden, float(problem.b2), problem.about.tolist()

    def run() -> Any:
        z2, ends, sums = torch.full_like(x, b2), (), []
        for h in range(hidden):
            z1 = x * w1[h] + b1[h]
            a1 = torch.relu(z1)
            z2 = z2 + a1 * w2[h]
            if level != LOSS:
                ends = (torch.minimum(ends[0], z1), torch.maximum(ends[1], z1)) if ends else (z1, z1)
            if level == ALL:
                here = _terms(z1, a1, about)
                sums = [old + new for old, new in zip(sums, here, strict=True)] if sums else here
        return _reduce(torch, problem.batch, about[2], z2, y, ends, sums)

    return run


def _terms(z1: Any, a1: Any, about: list[float]) -> list[Any]:
    """Return what is summed over the units."""
    d, ad = z1 - about[0], a1 - about[1]
    return [d, d * d, ad, ad * ad, (z1 == 0).float(), (a1 == 0).float()]


def _reduce(torch: Any, batch: int, about: float, z2: Any, y: Any, ends: Tensors, sums: list[Any]) -> list[Any]:
    """Return the figures from what is known of each sample, `[N]`: z2, the ends of z1, the sums over the units.

    relu does not decrease, so a1's ends are those of z1; a sum is finite only if each of its values is; counts are
    floats up to here because integers beside them keep the compiled loop from being vectorised.
    """

    def by_batch(values: Any) -> Any:
        return values.view(-1, batch)

    seen = [by_batch((z2 - y).square()).mean(dim=1)]
    if ends:
        low, high = ends
        seen.append([by_batch(t).amin(dim=1) for t in (low, torch.relu(low), z2)])
        seen.append([by_batch(t).amax(dim=1) for t in (high, torch.relu(high), z2)])
    if sums:
        total, squares, a_total, a_squares, zeros, a_zeros = sums
        d = z2 - about
        seen.append([t.sum() for t in (total, a_total, d)])
        seen.append([t.sum() for t in (squares, a_squares, d * d)])
        seen.append([t.long().sum() for t in (zeros, a_zeros, z2 == 0)])
        seen.append([(~t.isfinite()).sum() for t in (total, a_total, z2)])
    return seen


FORMULATIONS: dict[str, Callable[[Problem, str], Callable[[], Any]]] = {
    "matrix products": functools.partial(_whole, matmul=True),
    "broadcast": functools.partial(_whole, matmul=False),
    "samples first": functools.partial(_by_sample, units=1),
    "units first": functools.partial(_by_sample, units=0),
    "unrolled": _unrolled,
}


def _figures(problem: Problem, level: str, run: Callable[[], Any]) -> Run:
    def seen() -> Figures:
        loss, *rest = run()
        loss = loss.cpu()
        arrays = [np.array([t.cpu().numpy() for t in part]) for part in rest]
        if level != ALL:
            return Figures(loss.numpy(), *arrays)
        low, high, total, squares, zeros, nonfinite = arrays
        mean, std = moments(counts(problem), total.astype(np.float64), squares.astype(np.float64), problem.about)
        return Figures(loss.numpy(), low, high, mean, std, zeros, nonfinite)

    return Run(seen, run, _wait)


def eager(formulation: str) -> Callable[[Problem, str], Run]:
    """Return the maker of a pass, run operation by operation."""
    return lambda problem, level: _figures(problem, level, FORMULATIONS[formulation](problem, level))


def compiled(formulation: str) -> Callable[[Problem, str], Run]:
    """Return the maker of a pass, compiled by `torch.compile` for these shapes."""

    def make(problem: Problem, level: str) -> Run:
        import torch
        import torch._dynamo

        # All levels and batch sizes of a formulation are entries of one function's cache; more of them are refused.
        torch._dynamo.config.recompile_limit = 64
        run = torch.compile(FORMULATIONS[formulation](problem, level), dynamic=False, fullgraph=True)
        return _figures(problem, level, run)

    return make
