"""What a process knows of the run that it joins, without starting one."""

import signal

import pytest

from cubic_cli.cluster import join, supervisor
from cubic_cli.config import ForwardConfig, GenerateConfig, ProcessAddress


def test_a_cluster_is_detected(monkeypatch):
    job = {"JOB_ID": "7", "STEP_NODELIST": "node[3-9]", "NTASKS": "4", "PROCID": "2", "LOCALID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert join.detect(None) == (ProcessAddress("node3:61447", 4, 2), [0])
    assert join.detect(ProcessAddress("here:1", 2, 1)) == (ProcessAddress("here:1", 2, 1), [0])


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
    ids=["without --distributed", "one alone", "no port", "no such port", "none", "negative", "too large"],
)
def test_bad_settings_are_exit_2(cubic, arguments, said):
    status, out, err = cubic("forward", *arguments)
    assert (status, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(
    ("said", "signal_number", "process", "told"),
    [
        ("unhealthy (stopped sending heartbeats):\n2\n5\nThe tasks", signal.SIGABRT, 0, "processes 2, 5 died"),
        ("Failed to send RPC to coordination service", signal.SIGABRT, 1, "process 0 died"),
        ("RPC: /xla.coordination.CoordinationService/Heartbeat", signal.SIGABRT, 1, "process 0 died"),
        ("RPC: /xla.coordination.CoordinationService/RegisterTask", signal.SIGABRT, 1, "one of them left"),
        ("", signal.SIGKILL, 3, "this process, 3, was killed (SIGKILL); is there enough memory?"),
        ("", signal.SIGSEGV, None, "this process was killed (SIGSEGV)"),
    ],
    ids=["heartbeats", "process 0", "process 0 stopped", "connecting", "killed", "crashed"],
)  # fmt: skip
def test_what_a_killed_worker_said(said, signal_number, process, told):
    assert told in supervisor.explain(said, signal_number, process)


def test_settings_of_all_leave_out_what_each_may_have_of_its_own():
    one = ForwardConfig(dataset="a.csv", run_name="a", artifact_dir="a", device="cpu", fail_on=("linear",))
    other = ForwardConfig(dataset="b.csv", run_name="b", artifact_dir="b", device="auto")
    assert join.settings_of_all(one, None) == join.settings_of_all(other, None)


@pytest.mark.parametrize(
    "generate", [None, GenerateConfig(num_dataset=5), GenerateConfig(noise_std=0.5)], ids=["not", "size", "noise"]
)
def test_what_is_generated_is_a_setting_of_all(generate):
    config = ForwardConfig()
    assert join.settings_of_all(config, generate) != join.settings_of_all(config, GenerateConfig())
