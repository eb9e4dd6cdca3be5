"""What the machine may do to `cubic`, done to it: killed, interrupted, a full disk, others at the same time."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

from cubic_cli import load_run

CUBIC = [sys.executable, "-m", "cubic_cli"]
FILES = ["history.parquet", "params.safetensors", "run.json"]


# Runs before the command, in its process. SIGINT is ignored in a shell's background jobs, and in what they start.
SETUP = """import os, resource, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
{}
os.execv(sys.argv[1], sys.argv[1:])
"""


def start(*arguments, setup="pass", stdout=subprocess.PIPE, **options):
    command = [sys.executable, "-c", SETUP.format(setup), *CUBIC, *map(str, arguments)]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, **options)


def finish(process):
    out, err = ((stream or b"").decode() for stream in process.communicate(timeout=120))
    assert "Traceback" not in out + err
    return process.returncode, out, err


def run(*arguments, **options):
    return finish(start(*arguments, **options))


def whole(folder, hidden):
    """Check that the run in `folder` is complete and of one piece, with one of the `hidden` sizes."""
    assert sorted(p.name for p in folder.iterdir()) == FILES
    saved = load_run(folder)
    assert saved.record["config"]["hidden_size"] in hidden
    assert saved.history.height == saved.record["iterations"]
    assert saved.parameters["input_layer.bias"].shape == (saved.record["config"]["hidden_size"],)


@pytest.fixture
def data(cubic):
    assert cubic("generate", "--n", 300)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_forward_stopped_at_any_moment_leaves_a_whole_run(data, tmp_path, kind):
    assert run("forward", "--num-samples", 300, "--hidden-size", 3)[0] == 0
    started = time.monotonic()
    assert run("forward", "--num-samples", 300, "--hidden-size", 4)[0] == 0
    seconds = time.monotonic() - started
    rng = np.random.default_rng(kind)
    for moment in rng.uniform(0.02, 1.1, 6):
        process = start("forward", "--num-samples", 300, "--hidden-size", 5)
        time.sleep(moment * seconds)
        process.send_signal(kind)
        status, _, err = finish(process)
        stopped = -signal.SIGKILL if kind == signal.SIGKILL else 130
        assert status in (0, stopped, -signal.SIGINT), err  # SIGINT before Python runs any code is the system's
        whole(tmp_path / "model" / "default_run", (4, 5))
    assert run("forward", "--num-samples", 300, "--hidden-size", 6)[0] == 0
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["default_run"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_generate_stopped_at_any_moment_leaves_a_whole_dataset(tmp_path, kind):
    path = tmp_path / "data.csv"
    assert run("generate", "--n", 2_000_000, "--seed", 1)[0] == 0
    old = path.read_bytes()
    started = time.monotonic()
    assert run("generate", "--n", 2_000_000, "--seed", 2)[0] == 0
    seconds, new = time.monotonic() - started, path.read_bytes()
    rng = np.random.default_rng(kind)
    for moment in rng.uniform(0.1, 1.1, 4):
        path.write_bytes(old)
        process = start("generate", "--n", 2_000_000, "--seed", 2)
        time.sleep(moment * seconds)
        process.send_signal(kind)
        finish(process)
        assert path.read_bytes() in (old, new)
    assert run("generate", "--n", 10)[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["data.csv"]


@pytest.mark.parametrize("moment", ["importing", "compiling"])
def test_an_interrupt_is_exit_130_even_while_xla_compiles(data, tmp_path, moment):
    """The program tells when it is there; Python's own handler would wait for XLA, or crash at exit."""
    code = f"""
import os, sys, time
from cubic_cli import __main__
__main__.exit_on_interrupt()
def ready():
    os.write(1, b"ready")
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "jaxlib":
            ready()
            while True:
                pass
if {moment!r} == "importing":
    sys.meta_path.insert(0, Finder())
else:
    import cubic_cli.forward
    original = cubic_cli.forward._compile
    def compiling(name, activation, layout, hidden, devices):
        ready()
        for hidden in range(5, 5000):  # until it is interrupted
            original("plain", activation, layout, hidden, devices)
    cubic_cli.forward._compile = compiling
from cubic_cli.cli import run
run(["forward", "--num-samples", "300"])
"""
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)\n" + code
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(5) == b"ready"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"interrupted" in err
    assert b"Traceback" not in err
    assert not (tmp_path / "model" / "default_run").exists()


@pytest.mark.parametrize("limit", [0, 1_000, 20_000])
def test_a_disk_that_is_full(data, tmp_path, limit):
    assert run("forward", "--num-samples", 300, "--hidden-size", 3)[0] == 0
    before = (tmp_path / "data.csv").read_bytes()

    full = (
        f"signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    )
    for command in (["forward", "--num-samples", "300", "--num-epochs", "20"], ["generate", "--n", "100000"]):
        status, _, err = run(*command, setup=full)
        assert status == 1
        assert "File too large" in err
        assert "untouched" in err
    whole(tmp_path / "model" / "default_run", (3,))
    assert (tmp_path / "data.csv").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.csv", "model"]
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["default_run"]


@pytest.mark.parametrize("command", [["forward", "--num-samples", "300"], ["inspect"], ["generate", "--n", "10"]])
def test_standard_output_that_is_full_or_gone(data, command):
    assert run("forward", "--num-samples", 300)[0] == 0
    with open("/dev/full", "w") as full:
        status, _, err = run(*command, stdout=full)
    assert status == 1
    assert "cannot write to standard output" in err
    status, _, err = run(*command, setup="os.close(1)")
    assert status == 1
    assert "standard output is closed" in err


def test_a_folder_that_cannot_be_written(data, tmp_path):
    tmp_path.chmod(0o555)
    # Root may write everywhere, unless it has laid that power down.
    powerless = "import ctypes; [ctypes.CDLL(None).prctl(24, power) for power in (0, 1, 2)]"  # PR_CAPBSET_DROP
    try:
        for arguments in (["forward", "--num-samples", "300"], ["generate", "--n", "5"]):
            status, out, err = run(*arguments, setup=powerless)
            assert (status, out) == (1, "")
            assert "Permission denied" in err
    finally:
        tmp_path.chmod(0o755)
    assert [p.name for p in tmp_path.iterdir()] == ["data.csv"]


def test_a_folder_that_is_removed_under_way(data, tmp_path, cubic, monkeypatch):
    import shutil

    from cubic_cli import run as running

    original = running._describe

    def describe(*arguments):
        shutil.rmtree(tmp_path / "model")
        return original(*arguments)

    monkeypatch.setattr(running, "_describe", describe)
    status, out, err = cubic("forward", "--num-samples", 300)
    assert (status, out) == (1, "")
    assert "cannot save the run in model/default_run: No such file or directory" in err


@pytest.mark.parametrize("processes", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_several_at_once_on_one_name(data, tmp_path, processes):
    running = [start("forward", "--num-samples", 300, "--hidden-size", h) for h in range(1, processes + 1)]
    for process in running:
        status, _, err = finish(process)
        assert status == 0, err
    whole(tmp_path / "model" / "default_run", range(1, processes + 1))
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["default_run"]


@pytest.mark.slow
def test_generate_while_forward_reads(tmp_path):
    assert run("generate", "--n", 400_000, "--seed", 1)[0] == 0
    reading = [start("forward", "--num-samples", "all", "--num-epochs", 1, "--run-name", f"r{i}") for i in range(3)]
    assert run("generate", "--n", 400_000, "--seed", 2)[0] == 0
    for process in reading:
        assert finish(process)[0] == 0
    for i in range(3):
        record = load_run(f"model/r{i}").record
        assert record["dataset"]["rows"] == 400_000
        assert record["verification"]["passed"]


def test_links_are_never_followed(data, tmp_path, cubic):
    outside = tmp_path / "outside"
    assert cubic("forward", "--num-samples", 300, "--artifact-dir", "outside")[0] == 0
    before = {p.name: p.read_bytes() for p in (outside / "default_run").iterdir()}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "default_run").symlink_to(outside / "default_run", target_is_directory=True)
    status, _, err = cubic("forward", "--num-samples", 300)
    assert status == 1
    assert "is a link" in err
    assert {p.name: p.read_bytes() for p in (outside / "default_run").iterdir()} == before
    os.rename("data.csv", "real.csv")
    os.symlink("real.csv", "data.csv")
    real = (tmp_path / "real.csv").read_bytes()
    status, _, err = cubic("generate", "--n", 5)
    assert status == 1
    assert "is a link" in err
    assert cubic("generate", "--n", 5, "--force")[0] == 0
    assert not os.path.islink("data.csv")
    assert (tmp_path / "real.csv").read_bytes() == real


def test_a_link_within_a_run_is_not_followed(data, tmp_path, cubic):
    assert cubic("forward", "--num-samples", 300)[0] == 0
    precious = tmp_path / "precious"
    precious.write_text("three years")
    record = tmp_path / "model" / "default_run" / "run.json"
    record.unlink()
    record.symlink_to(precious)
    cubic("forward", "--num-samples", 300)
    assert precious.read_text() == "three years"


@pytest.mark.parametrize("kind", ["fifo", "zero", "folder"])
def test_a_dataset_that_is_no_file_does_not_hang(tmp_path, cubic, kind):
    if kind == "fifo":
        os.mkfifo("data.csv")
    elif kind == "zero":
        os.symlink("/dev/zero", "data.csv")
    else:
        os.mkdir("data.csv")
    for command in (("forward",), ("generate", "--n", 5)):
        status, _, err = cubic(*command)
        assert status == 1
        assert "no regular file" in err


def test_a_dataset_that_is_another_by_now(data, cubic):
    """The record says by its SHA-256 what was read."""
    assert cubic("forward", "--num-samples", 300)[0] == 0
    assert cubic("generate", "--n", 300, "--seed", 5)[0] == 0
    status, out, _ = cubic("inspect", "--epoch", 1, "--batch", 2)
    assert status == 0
    assert "CHANGED since the run" in out


@pytest.mark.parametrize(
    "environment", [{"HOME": None}, {"TERM": None}, {"LANG": "C", "LC_ALL": "C"}, {"COLUMNS": "1"}, {"COLUMNS": "abc"}]
)
def test_odd_environments(data, environment):
    surroundings = {k: v for k, v in (os.environ | environment).items() if v is not None}
    for command in (["forward", "--num-samples", "300"], ["inspect"], ["inspect", "--list"]):
        assert run(*command, env=surroundings)[0] == 0


def test_too_few_file_descriptors(data):
    status, _, err = run("forward", "--num-samples", 300, setup="resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))")
    assert status in (0, 1)
    assert status == 0 or "error: " in err


def test_a_folder_that_is_gone_beneath_the_command(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os, sys; os.rmdir(os.getcwd()); sys.argv = ['cubic', 'forward']; "
    code += "from cubic_cli.__main__ import main; main()"
    process = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=gone, capture_output=True, check=False, env=dict(os.environ)
    )
    assert process.returncode in (1, 2)
    assert b"Traceback" not in process.stderr


def test_history_of_another_number_of_rows_is_not_believed(data, cubic, tmp_path):
    assert cubic("forward", "--num-samples", 300)[0] == 0
    path = tmp_path / "model" / "default_run" / "history.parquet"
    pl.read_parquet(path).head(7).write_parquet(path)
    status, _, err = cubic("inspect")
    assert status == 1
    assert "history.parquet" in err
