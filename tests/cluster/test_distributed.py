import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubic_cli.cluster import join as distributed
from cubic_cli.cluster import supervisor
from cubic_cli.config import Place
from cubic_cli.data.problem import draw
from cubic_cli.experiments.shares import Spool, deal
from cubic_cli.runs.history import Batches

EXTREMES = [f"{name}_{end}" for name in ("z1", "a1", "z2") for end in ("min", "max")]
# A shell ignores SIGINT in what it runs in the background; Python's own handling is what a user's terminal gives.
MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from cubic_cli.__main__ import main; main()"
)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start(*arguments, command="forward", **environment):
    """Start `cubic forward`, or another command, in a process of its own, which Ctrl-C can reach."""
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2", **environment},
    )


def start_all(processes, *arguments, only=None, **environment):
    """Start the processes of a distributed run (`only` those, if given); returns them by their numbers."""
    port = free_port()
    return {
        process: start(
            *("--distributed", "--coordinator-address", f"127.0.0.1:{port}"),
            *("--num-processes", processes, "--process-id", process, *arguments),
            **environment,
        )
        for process in (range(processes) if only is None else only)
    }


def finish(running):
    """Wait for processes; returns (status, standard output, standard error) of each."""
    ended = {}
    try:
        for process, popen in running.items():
            out, err = popen.communicate(timeout=100)
            assert "Traceback" not in out + err
            assert "Check failure" not in out + err, "a dump of C++"
            ended[process] = (popen.returncode, out, err)
    finally:
        for popen in running.values():
            popen.kill()
    return ended


def worker_of(popen):
    """Return the number of the worker under a supervisor."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = Path(f"/proc/{popen.pid}/task/{popen.pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.05)
    raise AssertionError("there is no worker")


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def samples(path, rows, change=lambda x, y: None):
    x, y = next(iter(draw(rows, 10.0, 0)))
    change(x, y)
    frame = pl.DataFrame({"x": x, "y": y})
    frame.write_parquet(path) if path.endswith(".parquet") else frame.write_csv(path)


def alike(a, b, rel):
    """Check that two tables of numbers and of words (NaN, Infinity) agree."""
    assert a.keys() == b.keys()
    for name in a:
        assert a[name] == b[name] or a[name] == pytest.approx(b[name], rel=rel)


def same_run(one, many):
    """Check that a distributed run is the one of a single process."""
    for name in ("z1", "a1", "z2"):
        a, b = (next(t for t in record["tensors"] if t["name"] == name) for record in (one, many))
        assert [a[k] for k in ("min", "max", "zeros", "nan", "posinf", "neginf", "shape", "histogram")] == [
            b[k] for k in ("min", "max", "zeros", "nan", "posinf", "neginf", "shape", "histogram")
        ]
        # Other groups of samples are added in float32 first.
        assert [a["mean"], a["std"]] == pytest.approx([b["mean"], b["std"]], rel=1e-7, abs=1e-8 * b["std"])
    for key in ("iterations", "units", "first_nonfinite"):
        assert one[key] == many[key]
    for column in ("x", "y"):
        alike(one["dataset"][column], many["dataset"][column], 1e-12)
    assert one["dataset"]["rows"] == many["dataset"]["rows"]
    alike(one["context"], many["context"], 1e-6)
    assert one["verification"]["batches"] == many["verification"]["batches"]
    assert many["verification"]["passed"]
    a, b = (pl.read_parquet(f"model/{record['run_name']}/history.parquet") for record in (one, many))
    assert a.schema == b.schema
    for name in ("epoch", "batch", "size", "nonfinite", *EXTREMES):
        assert a[name].equals(b[name], null_equal=True)
    np.testing.assert_allclose(a["loss"].to_numpy(), b["loss"].to_numpy(), rtol=1e-6)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("processes", "dataset", "arguments"),
    [
        (2, "data.csv", ("--num-samples", "all", "--scaling", "minmax", "--gradients")),
        (4, "data.parquet", ("--num-samples", 1503, "--activation", "gelu")),
    ],
)
def test_many_processes_are_one(cubic, processes, dataset, arguments):
    samples(dataset, 2003)
    arguments = (*arguments, "--dataset", dataset, "--num-epochs", 3, "--initializer", "he_normal", "--json")
    ended = finish(start_all(processes, *arguments, "--run-name", "many"))
    assert {status for status, _, _ in ended.values()} == {0}, ended
    assert [out == "" for _, out, _ in ended.values()] == [False] + [True] * (processes - 1)
    many = json.loads(ended[0][1])
    assert json.loads(Path("model/many/run.json").read_text()) == many
    assert sorted(os.listdir("model")) == ["many"]
    one = json.loads(cubic("forward", *arguments, "--run-name", "one")[1])
    same_run(one, many)
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert [epoch["loss"] for epoch in many["epochs"]] == [many["loss"]] * 3
    assert many["dataset"]["sha256"] is None
    assert (many["device"]["processes"], many["device"]["devices"]) == (processes, 2 * processes)
    if one["gradients"] is not None:
        norms = ([row["norm"] for row in record["gradients"]["parameters"]] for record in (one, many))
        assert next(norms) == pytest.approx(next(norms), rel=1e-5)


@pytest.mark.cluster
def test_fewer_batches_than_processes_and_values_that_are_not_finite(cubic):
    def spoil(x, y):
        x[17] = np.nan
        x[20:25] = np.nan
        y[3] = np.inf

    samples("data.csv", 25, spoil)
    arguments = ("--num-samples", "all", "--num-epochs", 2, "--json")
    Path(".env").write_text("HIDDEN_SIZE=8\n")
    ended = finish(start_all(4, *arguments, "--run-name", "many"))
    many = json.loads(ended[0][1])
    one = json.loads(cubic("forward", *arguments, "--run-name", "one")[1])
    same_run(one, many)
    assert many["sources"]["hidden_size"] == ".env"
    assert many["first_nonfinite"]["row"] == 4


@pytest.mark.cluster
def test_a_process_that_never_comes_is_named():
    samples("data.csv", 100)
    ended = finish(start_all(3, only=[0, 1], CUBIC_JOIN_SECONDS="6"))
    for status, out, err in ended.values():
        assert (status, out) == (1, "")
        assert "process 2 did not come within 6 s" in err
    ((status, _, err),) = finish(start_all(3, only=[2], CUBIC_JOIN_SECONDS="1")).values()
    assert status == 1
    assert "process 0 did not come" in err
    assert not Path("model").exists()


@pytest.mark.cluster
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_is_named(cubic, tmp_path, victim):
    samples("data.csv", 1000)
    assert cubic("forward")[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "model" / "default_run").iterdir()}
    running = start_all(3, "--num-epochs", 10_000_000, CUBIC_HEARTBEAT_SECONDS="6")
    wait_for(lambda: len(list((tmp_path / "model").glob(".*.scratch"))) == 3)
    time.sleep(1)
    worker = worker_of(running[victim])
    if victim:  # the whole machine, as it were, and not the worker alone
        running[victim].kill()
    os.kill(worker, signal.SIGKILL)
    ended = finish(running)
    for process, (status, out, err) in ended.items():
        if process != victim:
            assert (status, out) == (1, "")
            assert f"process {victim} died" in err
    if victim == 0:
        assert "SIGKILL" in ended[0][2]
        assert not list((tmp_path / "model").glob(".*.scratch"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "model" / "default_run").iterdir()} == before


@pytest.mark.cluster
def test_a_process_that_fails_says_so_to_all():
    samples("data.csv", 1000)
    running = start_all(2, only=[0])
    port = running[0].args[running[0].args.index("--coordinator-address") + 1]
    running[1] = start(
        *("--distributed", "--coordinator-address", port, "--num-processes", 2, "--process-id", 1),
        *("--dataset", "not_here.csv"),
    )
    ended = finish(running)
    assert [status for status, _, _ in ended.values()] == [1, 1]
    assert "process 1 failed: there is no dataset not_here.csv" in ended[0][2]
    assert ended[1][2].startswith("error: there is no dataset not_here.csv")
    assert not list(Path("model").iterdir())


@pytest.mark.cluster
def test_an_interrupt_is_130_and_told_to_the_others(tmp_path):
    samples("data.csv", 1000)
    running = start_all(2, "--num-epochs", 10_000_000)
    wait_for(lambda: len(list(tmp_path.glob("model/.*.scratch"))) == 2)
    running[1].send_signal(signal.SIGINT)
    ended = finish(running)
    assert ended[1][0] == 130
    assert ended[0][0] == 1
    assert "process 1 failed: it was interrupted" in ended[0][2]


@pytest.mark.cluster
def test_different_settings_are_refused():
    samples("data.csv", 100)
    address = f"127.0.0.1:{free_port()}"
    where = ("--distributed", "--coordinator-address", address, "--num-processes", 2, "--num-samples", 100)
    ended = finish({p: start(*where, "--process-id", p, "--hidden-size", 3 + p) for p in (0, 1)})
    assert [status for status, _, _ in ended.values()] == [1, 1]
    assert "process 1 has hidden_size=4 and process 0 hidden_size=3" in ended[0][2]
    assert "process 0 failed: process 1 has hidden_size=4" in ended[1][2]


@pytest.mark.cluster
def test_no_cluster_says_what_to_set():
    ((status, _, err),) = finish({0: start("--distributed")}).values()
    assert status == 1
    assert "JAX detects no cluster" in err
    assert all(name in err for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"))


def test_a_cluster_is_detected(monkeypatch):
    job = {"JOB_ID": "7", "STEP_NODELIST": "node[3-9]", "NTASKS": "4", "PROCID": "2", "LOCALID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert distributed.detect() == Place("node3:61447", 4, 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--num-processes", 2), "--num-processes goes with --distributed"),
        (("--distributed", "--num-processes", 2), "not set: COORDINATOR_ADDRESS, PROCESS_ID"),
        (("--distributed", "--coordinator-address", "here", "--process-id", 0), "found 'here'; expected host:port"),
        (("--distributed", "--coordinator-address", "h:70000"), "found 'h:70000'; expected host:port"),
        (("--distributed", "--num-processes", 0), "NUM_PROCESSES / --num-processes: found '0'"),
        (("--distributed", "--process-id", -1), "PROCESS_ID / --process-id: found '-1'"),
        (
            ("--distributed", "--coordinator-address", "h:1", "--num-processes", 2, "--process-id", 2),
            "found 2; expected an integer from 0 to 1",
        ),
    ],
)
def test_bad_settings_are_exit_2(cubic, arguments, said):
    status, out, err = cubic("forward", *arguments)
    assert (status, out) == (2, "")
    assert said in err


@given(st.integers(1, 10_000), st.integers(1, 300), st.integers(1, 9))
def test_shares_are_all_batches_once_and_in_order(rows, batch, processes):
    shares = [deal(rows, batch, processes, process) for process in range(processes)]
    assert [shares[0].first, shares[0].start] == [0, 0]
    assert [shares[-1].last, shares[-1].stop] == [-(-rows // batch), rows]
    for a, b in itertools.pairwise(shares):
        assert (a.last, a.stop) == (b.first, b.start)
        assert 0 <= (a.last - a.first) - (b.last - b.first) <= 1
    assert all(share.start % batch == 0 or share.start == rows for share in shares)


def test_a_spool_keeps_equal_epochs_once(tmp_path):
    loss = np.array([1.0, 2.0])
    with Spool(tmp_path) as spool:
        for epoch, change in ((1, 0.0), (2, 0.0), (3, 1.0)):
            spool.append(Batches(epoch, 0, {"loss": loss + change}))
        assert spool.epochs == [[0], [0], [1]]
        assert pl.read_ipc(spool.piece(1))["loss"].to_list() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("said", "signal_number", "process", "told"),
    [
        ("unhealthy (stopped sending heartbeats):\n2\n5\nThe tasks", signal.SIGABRT, 0, "processes 2, 5 died"),
        ("Failed to send RPC to coordination service", signal.SIGABRT, 1, "process 0 died"),
        ("RPC: /xla.coordination.CoordinationService/RegisterTask", signal.SIGABRT, 1, "one of them left"),
        ("", signal.SIGKILL, 3, "this process, 3, was killed (SIGKILL); is there enough memory?"),
        ("", signal.SIGSEGV, None, "this process was killed (SIGSEGV)"),
    ],
)  # fmt: skip
def test_what_a_killed_worker_said(said, signal_number, process, told):
    assert told in supervisor.explain(said, signal_number, process)


@pytest.mark.cluster
def test_check_of_every_process(tmp_path, monkeypatch):
    """One report of all devices at process 0; the cache, which `forward` keeps, is left alone."""
    monkeypatch.chdir(tmp_path)
    ended = finish(start_all(2, "--json", command="check", XDG_CACHE_HOME=str(tmp_path)))
    assert [status for status, _, _ in ended.values()] == [0, 0]
    document = json.loads(ended[0][1])
    assert document["verdict"] == "right"
    assert [device["process"] for device in document["devices"]] == [0, 0, 1, 1]
    assert len({device["id"] for device in document["devices"]}) == 4
    assert document["facts"]["processes"] == 2
    assert ended[1][1] == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.cluster
def test_check_ends_where_a_process_never_comes():
    ended = finish(start_all(2, "--json", only=[0], command="check", CUBIC_JOIN_SECONDS="2"))
    status, out, err = ended[0]
    document = json.loads(out)
    assert (status, document["verdict"], document["devices"]) == (3, "not_checked", [])
    assert "process 1" in document["rows"][0]["text"]
    assert "process 1" in err


def test_a_store_that_goes_before_it_has_answered_the_last_word_is_no_failure(monkeypatch):
    from jax.errors import JaxRuntimeError

    class Store:
        def blocking_key_value_get_bytes(self, key, milliseconds):
            return b"null"

        def blocking_key_value_get(self, key, milliseconds):
            raise JaxRuntimeError("DEADLINE_EXCEEDED")

        def key_value_set_bytes(self, key, value):
            raise JaxRuntimeError("UNAVAILABLE: Socket closed")

    waits = []
    monkeypatch.setattr(distributed.time, "sleep", waits.append)
    assert distributed.Group(Place("localhost:1", 2, 1), Store()).finish() is None
    assert max(waits, default=0) < 1
