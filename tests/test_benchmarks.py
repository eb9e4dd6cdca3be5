"""What the benchmarks promise: whatever one contender does, the others are measured, and it is named."""

import os
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks are no part of the package

from benchmarks import throughput
from benchmarks.problem import ALL, HISTORY, LEVELS, LOSS, Run, make, reference
from benchmarks.supervised import results
from benchmarks.throughput import COMPILED, CUBIC, CUDA, EAGER, HOST, JNP, ON_DEVICE

FOREVER = time.time() + 1e9


class Alone:
    """A worker without a supervisor."""

    def __init__(self, lost=None):
        self.done, self.lost = 0, lost or {}

    def begin(self, key, seconds):
        pass


def compare(gpu=True, lost=None, until=FOREVER, failed=None):
    return throughput.compare(
        make(200, 10, 3), 2, gpu, {} if failed is None else failed, until, Alone(lost), lambda text: None
    )


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
    assert named(found) == {(JNP, HISTORY, f"tiring ({HOST})"): "RuntimeError: Xid 79"}


def test_a_contender_that_is_not_there_is_named_once(contenders):
    contenders(one=absent, other=absent)
    assert named(compare()) == {(JNP, None, None): "it is not there: No module named 'cupy'"}


def test_what_was_lost_and_what_is_late_is_left_out_and_cubic_never(contenders):
    contenders(one=exact, other=exact)
    assert list(named(compare(lost={(JNP, LOSS, "one"): "took more than 30 s"}))) == [(JNP, HISTORY, "one")]
    assert named(compare(lost={(JNP, ALL, "one"): "took more than 30 s"})) == {}
    late = compare(until=0.0)
    assert named(late) == {(JNP, HISTORY, key): "the time was up" for key in ("one", "other")}
    assert {row["contender"] for row in late["throughput"]} == {CUBIC}


@pytest.mark.long
def test_what_a_gpu_is_compared_with_computes_the_same_figures():
    """On a CPU, but for the kernel and torch; each is compared with float64."""
    found = compare(failed={(name,): "needs a card" for name in (EAGER, COMPILED)})
    assert named(found) == {
        (EAGER, None, None): "needs a card",
        (COMPILED, None, None): "needs a card",
        (CUDA, None, None): "it is not there: No module named 'cupy'",
    }
    tried = {(row["contender"], row["level"]): set(row["tried"]) for row in found["throughput"]}
    for level in LEVELS:
        assert tried[JNP, level] == {"samples first", "units first"}
    assert (CUBIC, ALL) in tried
    assert throughput.tables(found)


def troubled(worker):
    """Be stuck, exit, and abort, each once."""
    for number, trouble in enumerate((time.sleep, os._exit, os.kill)):
        for name in ("one", "other"):
            if (name, str(number)) in worker.lost or number < worker.done:
                continue
            worker.begin((name, str(number)), 5.0 if trouble is time.sleep else 60.0)
            if name == "other":
                trouble(*((os.getpid(), 9) if trouble is os.kill else (100,)))
        if number >= worker.done:
            worker.tell((number, dict(worker.lost)))


def hopeless(worker):
    worker.begin(("one",), 60.0)
    os._exit(3)


def wrong_itself(worker):
    raise ValueError("cubic has another loss")


@pytest.mark.process
def test_what_is_stuck_or_dies_is_left_out_and_all_is_begun_again(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    said = []
    told = list(results(troubled, say=said.append))
    lost = {
        ("other", "0"): "took more than 5 s",
        ("other", "1"): "its process ended with status 100",
        ("other", "2"): "its process ended with status -9",
    }
    assert told == [(number, dict(list(lost.items())[: number + 1])) for number in range(3)]
    assert len(said) == 3


@pytest.mark.process
@pytest.mark.parametrize(
    ("work", "reason"), [(hopeless, "one: its process ended with status 3"), (wrong_itself, "ValueError: cubic has")]
)
def test_what_cannot_go_on_ends(work, reason):
    with pytest.raises(RuntimeError, match=reason):
        list(results(work, say=lambda text: None))
