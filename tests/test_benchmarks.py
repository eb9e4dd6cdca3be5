"""What the benchmarks promise: whatever one contender does, the others are measured, and it is named."""

import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks are no part of the package

from benchmarks import throughput
from benchmarks.problem import ALL, HISTORY, LEVELS, Run, make, reference
from benchmarks.throughput import COMPILED, CUBIC, CUDA, EAGER, HOST, JNP, ON_DEVICE

FOREVER = float("inf")


def compare(until=FOREVER, failed=None):
    return throughput.compare(make(200, 10, 3), 2, True, failed or {}, until, lambda text: None)


def named(found):
    return {
        tuple(row.get(key) for key in ("contender", "level", "formulation")): row["error"] for row in found["failed"]
    }


def exact(problem, level):
    """Return a contender that has the reference's own figures."""
    figures, _ = reference(problem)
    return Run(lambda: figures, lambda: None, lambda begun: None)


def wrong(problem, level):
    figures, _ = reference(problem)
    return lambda: figures._replace(loss=figures.loss * 2)


def broken(problem, level):
    raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand more")


def absent(problem, level):
    raise ImportError("No module named 'cupy'")


def tiring(problem, level):
    """Return a contender that fails when it is run for the fourth time."""
    figures, _ = reference(problem)
    left = iter(range(3))

    def run():
        if next(left, None) is None:
            raise RuntimeError("Xid 79")
        time.sleep(0.2)  # so that it is run once a round
        return figures

    return run


@pytest.fixture
def contenders(monkeypatch):
    """Put contenders of these formulations beside cubic, at the level of the history."""

    def put(**formulations):
        made = {(CUBIC, HISTORY): {"": exact}, (JNP, HISTORY): formulations}
        monkeypatch.setattr(throughput, "contenders", lambda gpu: made)

    return put


@pytest.mark.parametrize(
    ("maker", "reason"),
    [
        (wrong, "ValueError: plain jnp, history, odd has another loss"),
        (broken, "RuntimeError: RESOURCE_EXHAUSTED: out of memory"),
    ],
)
def test_a_formulation_that_fails_costs_itself_alone_and_is_named(contenders, maker, reason):
    contenders(odd=maker, right=exact)
    found = compare()
    assert {(row["contender"], row["time"]) for row in found["throughput"]} == {
        (name, at) for name in (CUBIC, JNP) for at in (HOST, ON_DEVICE)
    }
    ((key, error),) = named(found).items()
    assert key == (JNP, HISTORY, "odd")
    assert error.startswith(reason)
    assert "and more" not in error
    assert list(throughput.missing(found)) == [f"Not measured: plain jnp, history, odd: {error}"]


def test_a_contender_that_fails_in_a_round_is_named(contenders):
    contenders(tiring=tiring)
    found = compare()
    assert {row["contender"] for row in found["throughput"]} == {CUBIC}
    assert named(found) == {(JNP, HISTORY, f"tiring {HOST}"): "RuntimeError: Xid 79"}


def test_a_contender_that_is_not_there_is_named_once(contenders):
    contenders(one=absent, other=absent)
    assert named(compare()) == {(JNP, None, None): "it is not there: No module named 'cupy'"}


def test_what_is_late_is_left_out_and_cubic_never(contenders):
    contenders(one=exact, other=exact)
    late = compare(until=0.0)
    assert named(late) == {(JNP, HISTORY, key): "the time was up" for key in ("one", "other")}
    assert {row["contender"] for row in late["throughput"]} == {CUBIC}


def test_what_a_gpu_is_compared_with_computes_the_same_figures():
    """On a CPU, but for the kernel and torch; each is compared with float64."""
    found = compare(failed={(name,): "needs a card" for name in (CUDA, EAGER, COMPILED)})
    assert set(named(found)) == {(name, None, None) for name in (CUDA, EAGER, COMPILED)}
    tried = {(row["contender"], row["level"]): set(row["tried"]) for row in found["throughput"]}
    for level in LEVELS:
        assert tried[JNP, level] == {"samples first", "units first"}
    assert (CUBIC, ALL) in tried
    assert throughput.tables(found)
