"""Whoever never comes, differs, fails or dies is named to all within a minute, and the earlier run is untouched."""

import os
import signal
import time
from pathlib import Path

import helpers
import polars as pl
import pytest
from many import finish, scratches, start_all, wait_for, worker_of
from safetensors.numpy import load_file, save_file

pytestmark = pytest.mark.cluster

ENDLESS = ("--num-epochs", 10_000_000, "--num-samples", "all")


@pytest.fixture
def earlier(cubic, tmp_path):
    """A dataset and an earlier run; at the end it is as it was, and no scratch of a process that lives on is left."""
    x, y = helpers.samples(1000)
    pl.DataFrame({"x": x, "y": y}).write_csv("data.csv")
    assert cubic("forward", "--num-samples", "all")[0] == 0
    folder = tmp_path / "model" / "default_run"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    yield folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len(before) == 3


def running(devices, *arguments, **environment):
    """Start processes that pass over their samples without an end, and return them when they do."""
    started = start_all(devices, *ENDLESS, *arguments, CUBIC_HEARTBEAT_SECONDS="6", **environment)
    try:
        wait_for(lambda: len(scratches()) == len(devices))
    except AssertionError:
        said = [process.communicate() for process in started.values() if process.kill() is None]
        pytest.fail(f"they did not begin: {said}")
    time.sleep(3)  # until they exchange figures; sooner is another test of the same
    return started


def test_one_that_never_comes(earlier):
    ended = finish(start_all([1, 1, 1], only=[0, 1], CUBIC_JOIN_SECONDS="8"))
    for status, out, err in ended.values():
        assert (status, out) == (1, "")
        assert "process 2 did not come within 8 s" in err


def test_process_0_that_never_comes(earlier):
    ((status, _, err),) = finish(start_all([1, 1], only=[1], CUBIC_JOIN_SECONDS="1")).values()
    assert status == 1
    assert "process 0 did not come" in err


@helpers.needs_linux
@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_is_killed(earlier, victim):
    started = running([1, 1, 1])
    worker = worker_of(started[victim])
    if victim:  # the whole machine, as it were, at once: the worker has no time to say that its supervisor is gone
        os.kill(worker, signal.SIGSTOP)
        started[victim].kill()
    os.kill(worker, signal.SIGKILL)
    ended = finish(started)
    for process, (status, out, err) in ended.items():
        if process != victim:
            assert (status, out) == (1, "")
            assert f"process {victim} died" in err
            assert "The earlier run is untouched" in err
    if victim == 0:
        assert "SIGKILL" in ended[0][2]
        assert not scratches()


@helpers.needs_linux
@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_is_stopped(earlier, victim):
    started = running([1, 1])
    worker = worker_of(started[victim])
    os.kill(worker, signal.SIGSTOP)
    status, out, err = finish({1 - victim: started.pop(1 - victim)})[1 - victim]
    assert (status, out) == (1, "")
    assert f"process {victim} died or cannot be reached" in err
    os.kill(worker, signal.SIGKILL)
    finish(started)


def test_one_that_fails_says_why(earlier):
    ended = finish(start_all([1, 1], own={1: ("--dataset", "not_here.csv")}))
    assert [status for status, _, _ in ended.values()] == [1, 1]
    assert "process 1 failed: there is no dataset not_here.csv" in ended[0][2]
    assert ended[1][2].startswith("error: there is no dataset not_here.csv")
    assert not scratches()


@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_is_interrupted(earlier, victim):
    started = running([1, 1])
    started[victim].send_signal(signal.SIGINT)
    ended = finish(started)
    assert ended[victim][0] == 130
    assert ended[1 - victim][0] == 1
    assert f"process {victim} failed: it was interrupted" in ended[1 - victim][2]


def test_one_that_cannot_save(earlier):
    Path("file").write_text("")
    ended = finish(start_all([1, 1], "--num-samples", "all", own={0: ("--artifact-dir", "file/model")}))
    assert [status for status, _, _ in ended.values()] == [1, 1]
    assert "cannot save the run" in ended[0][2]
    assert "process 0 failed: cannot save the run" in ended[1][2]


DIFFERENT = {
    "a setting": ((), ("--hidden-size", 3), "process 1 has hidden_size 3 and process 0 has 64"),
    "whether to generate": ((), ("--generate",), "process 1 has generate True and process 0 has False"),
    "noise": (
        ("--generate", "--num-dataset", 50),
        ({"NOISE_STD": "0"},),
        "process 1 has noise_std 0.0 and process 0 has 10.0",
    ),
    "a dataset": ((), ("--dataset", "zeros.csv"), "process 1 has the dataset's SHA-256"),
    "rows": ((), ("--dataset", "short.csv"), "process 1 has rows 400 and process 0 has 1000"),
}


@pytest.mark.parametrize(("of_all", "of_one", "told"), DIFFERENT.values(), ids=DIFFERENT)
def test_one_that_differs(earlier, of_all, of_one, told):
    x, y = helpers.samples(1000)
    pl.DataFrame({"x": x * 0, "y": y}).write_csv("zeros.csv")
    pl.DataFrame({"x": x[:400], "y": y[:400]}).write_csv("short.csv")
    ended = finish(start_all([1, 1], "--num-samples", 1000, *of_all, own={1: of_one}))
    assert [status for status, _, _ in ended.values()] == [1, 1]
    assert told in ended[1][2]
    assert f"process 1 failed: {told}" in ended[0][2]
    assert not scratches()


def test_one_that_has_other_parameters(earlier, tmp_path):
    """The same path, and another file: as a copy that was not renewed."""
    found = load_file(earlier / "params.safetensors")
    (tmp_path / "other").mkdir()
    save_file(found, "p.safetensors")
    save_file(found | {"output_layer.bias": found["output_layer.bias"] + 1}, "other/p.safetensors")
    arguments = ("--parameters", "p.safetensors", "--dataset", tmp_path / "data.csv")
    ended = finish(start_all([1, 1], *arguments, own={1: ({"cwd": "other"},)}))
    assert [status for status, _, _ in ended.values()] == [1, 1]
    for _, _, err in ended.values():
        assert "process 1 has the parameters' SHA-256" in err


def test_the_seed_alone_decides_what_all_draw(earlier):
    """Another generator of JAX's at one process draws nothing."""
    arguments = ("--initializer", "he_normal", "--num-samples", "all", "--run-name", "drawn")
    ended = finish(start_all([1, 1], *arguments, own={1: ({"JAX_DEFAULT_PRNG_IMPL": "rbg"},)}))
    assert [status for status, _, _ in ended.values()] == [0, 0], ended


def test_no_cluster_says_what_to_set():
    status, _, err = helpers.outside("forward", "--distributed")
    assert status == 1
    assert "JAX detects no cluster" in err
    assert all(name in err for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"))
