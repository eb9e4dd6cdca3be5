"""What happens to the machine, to files and to streams: a message, an exit status, and nothing of a user's is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from helpers import INTERRUPTIBLE, MAIN, QUICK, finish, needs_linux, outside, start

from cubic_cli.errors import RunError
from cubic_cli.experiments import run
from cubic_cli.runs import names
from cubic_cli.runs import store as runs
from cubic_cli.runs.files import FILES
from cubic_cli.runs.listed import list_runs
from cubic_cli.runs.saved import load_history


@pytest.fixture
def saved(cubic, tmp_path):
    """A dataset and a run."""
    assert cubic("generate", "--n", 20)[0] == 0
    assert cubic("forward", *QUICK)[0] == 0
    return tmp_path / "model" / "default_run"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.process
class TestStreams:
    @needs_linux
    def test_a_full_standard_output(self, saved):
        for arguments in (("inspect", "--json"), ("generate", "--n", "20"), ("--help",)):
            with open("/dev/full", "w") as full:
                status, _, err = outside(*arguments, stdout=full)
            assert status == 1
            assert "cannot write to standard output: No space left on device" in err

    @needs_linux
    def test_a_full_standard_error_or_none(self, saved):
        with open("/dev/full", "w") as full:
            process = start("inspect", "--json", stderr=full)
        assert json.loads(process.communicate()[0])["run_name"] == "default_run"
        assert outside("inspect", "--json", shell='exec "$0" "$@" 2>&-')[0] == 0

    def test_a_closed_standard_output(self, saved):
        status, _, err = outside("generate", "--n", "30", shell='exec "$0" "$@" >&-')
        assert status == 1
        assert "standard output is closed" in err
        assert len(Path("data.csv").read_text().splitlines()) == 21

    def test_no_file_is_taken_for_a_closed_stream(self):
        """The next file to be opened gets the number of a closed one; what is said there would land in it."""
        code = (
            "import os; from cubic_cli.__main__ import open_standard_streams; open_standard_streams()\n"
            "null = os.stat(os.devnull); print([os.path.samestat(os.fstat(n), null) for n in range(3)])"
        )
        assert outside(code=code, shell='exec "$0" "$@" 2>&- <&-')[1] == "[True, False, True]\n"

    def test_a_reader_that_leaves(self, saved):
        status, out, err = outside(
            "inspect", "default_run", "--json", shell='"$0" "$@" | head -c 5; exit "${PIPESTATUS[0]}"'
        )
        assert out == '{\n  "'
        assert status in (0, 1)
        assert err == ""

    @pytest.mark.parametrize(
        "environment",
        [
            {"COLUMNS": "1"},
            {"COLUMNS": "0"},
            {"COLUMNS": "abc", "LINES": "x", "TERM": ""},
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            {"PYTHONIOENCODING": "ascii", "PYTHONOPTIMIZE": "2", "COLUMNS": "9999"},
        ],
    )
    def test_odd_environments(self, saved, environment):
        bare = dict.fromkeys(("HOME", "TERM", "COLUMNS"))
        status, out, err = outside("inspect", "default_run", environment=bare | environment)
        assert (status, err) == (0, "")
        assert len(out) > 100

    def test_json_is_whole_in_any_encoding(self, saved):
        for encoding in ("ascii", "latin-1"):
            status, out, _ = outside("inspect", "--json", environment={"PYTHONIOENCODING": encoding})
            assert status == 0
            assert json.loads(out) == runs.load_record(saved).as_dict()


class TestLimits:
    @pytest.mark.process
    @pytest.mark.parametrize("path", ["data.csv", "data.parquet"])
    def test_a_file_that_may_not_grow(self, path):
        assert outside("generate", "--n", 20, "--dataset", path)[0] == 0
        before = contents(Path())
        status, _, err = outside("generate", "--n", 20_000, "--dataset", path, shell='ulimit -f 8; exec "$0" "$@"')
        assert status == 1
        assert "File too large" in err
        assert contents(Path()) == before

    @pytest.mark.process
    @needs_linux
    def test_a_limit_of_memory_at_which_libraries_may_hang_is_told(self):
        said = "note: `ulimit -v` allows 1953 MiB; with less than 2048 polars and JAX may crash, or never end\n"
        for limit, told in {2_000_000: said, "unlimited": ""}.items():
            status, _, err = outside("inspect", "--list", shell=f'ulimit -v {limit}; exec "$0" "$@"')
            assert (status, err) == (0, told)

    @pytest.mark.process
    def test_a_run_that_may_not_grow(self, saved):
        assert outside("generate", "--n", 20_000)[0] == 0
        before = contents(saved)
        command = ("forward", "--num-samples", "all", "--batch-size", 1, "--num-epochs", 20, "--no-verify")
        status, out, err = outside(*command, shell='ulimit -f 8000; exec "$0" "$@"')
        assert (status, out) == (1, "")
        assert "cannot save the run in model/default_run: File too large; an earlier run is untouched" in err
        assert contents(saved) == before
        assert os.listdir("model") == ["default_run"]

    @pytest.mark.parametrize("name", ["write_record", "write_parameters"])
    def test_a_disk_that_is_full(self, cubic, saved, monkeypatch, name):
        def full(*_):
            raise OSError(28, "No space left on device")

        before = contents(saved)
        monkeypatch.setattr(runs, name, full)
        status, out, err = cubic("forward", *QUICK)
        assert (status, out) == (1, "")
        assert "cannot save the run in model/default_run: No space left on device; an earlier run is untouched" in err
        assert contents(saved) == before
        assert os.listdir("model") == ["default_run"]

    @pytest.mark.process
    def test_too_few_files(self, saved):
        status, _, err = outside("inspect", shell='ulimit -n 8; exec "$0" "$@"')
        assert status in (0, 1)
        assert status == 0 or "ulimit -n 1024" in err

    def test_more_memory_than_there_is(self, cubic, saved):
        status, _, err = cubic("forward", *QUICK[:4], "--hidden-size", 10**15)
        assert status == 1
        assert "not enough memory" in err


class TestFolders:
    @pytest.mark.parametrize(
        ("name", "what"),
        [
            ("file", "file is no folder"),
            ("link", "link is a link to what is not there"),
            ("file/below", "file/below is no folder"),
            ("/proc/cubic", "the folder /proc/cubic cannot be made: No such file or directory"),
            ("a" * 300, "cannot be made: File name too long"),
        ],
        ids=["file", "link", "below a file", "proc", "long"],
    )
    def test_an_artifact_folder_that_is_none_says_what_it_is(self, cubic, name, what):
        Path("file").write_text("mine")
        Path("link").symlink_to("nothing")
        status, _, err = cubic("forward", *QUICK, "--generate", "--artifact-dir", name)
        assert status == 1
        assert f"{what}. Name another folder with --artifact-dir" in " ".join(err.split())
        assert "under way" not in err
        assert "an earlier run" not in err

    @pytest.mark.parametrize("name", ["file", "link"])
    def test_the_list_of_what_is_no_folder(self, cubic, name):
        Path("file").write_text("mine")
        Path("link").symlink_to("nothing")
        for json_too in ((), ("--json",)):
            status, out, err = cubic("inspect", "--list", "--artifact-dir", name, *json_too)
            assert (status, out) == (1, "")
            assert f"{name} is no folder of runs; name another with --artifact-dir" in err

    @pytest.mark.parametrize(
        "name", ["file", "file/below", pytest.param("/proc/cubic", marks=needs_linux), "/dev/null", "a" * 300]
    )
    def test_an_artifact_folder_that_cannot_be(self, cubic, saved, name):
        Path("file").write_text("mine")
        status, out, err = cubic("forward", *QUICK, "--artifact-dir", name)
        assert (status, out) == (1, "")
        assert "cannot save the run" in err or "cannot read" in err
        assert Path("file").read_text() == "mine"
        assert cubic("inspect", "--artifact-dir", name)[0] == 1

    @pytest.mark.parametrize("name", ["with space", "ünï 🙂", "a/b/c", ".", "a\nb", "-x"])
    def test_an_artifact_folder_that_is_unusual(self, cubic, saved, name):
        assert cubic("forward", *QUICK, f"--artifact-dir={name}")[0] == 0
        status, out, _ = cubic("inspect", "--json", f"--artifact-dir={name}")
        assert status == 0
        assert json.loads(out)["config"]["artifact_dir"] == name

    @needs_linux
    def test_a_path_that_is_no_text(self, cubic, saved):
        name = os.fsdecode(b"\xff\xfe")
        status, out, err = cubic("forward", *QUICK, "--artifact-dir", name, "--json")
        assert status == 0, err
        assert json.loads(out)["config"]["artifact_dir"] == name
        assert runs.load_record(Path(name, "default_run")).config.artifact_dir == name

    @pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs users")
    def test_a_folder_that_may_not_be_written(self, cubic, saved, monkeypatch):
        before = contents(saved)
        with monkeypatch.context() as patched:
            if os.geteuid() == 0:  # root may write everywhere: let another user ask
                patched.setattr("cubic_cli.atomic.Path.mkdir", denied, raising=True)
                patched.setattr("cubic_cli.atomic.Path.open", denied, raising=True)
            else:
                Path("model").chmod(0o555)
            status, _, err = cubic("forward", *QUICK)
        Path("model").chmod(0o755)
        assert status == 1
        assert "Permission denied" in err
        assert contents(saved) == before

    @pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs users")
    @pytest.mark.parametrize("closed", ["model/default_run", "model"])
    def test_a_run_that_may_not_be_looked_at_is_there(self, saved, closed):
        """It is no run that is missing: to make another would be no help."""
        saved.parents[1].chmod(0o755)  # for another user, who asks where root may look everywhere
        Path(closed).chmod(0)
        is_root = os.geteuid() == 0
        try:
            if is_root:
                os.seteuid(65534)
            with pytest.raises(RunError, match=r"^cannot read model/default_run: Permission denied"):
                names.find("default_run", Path("model"))
            if closed == "model":
                with pytest.raises(RunError, match=r"^cannot read model: Permission denied"):
                    names.newest_first(Path("model"))
            else:
                ((_, said),) = list_runs(Path("model"))
                assert said == "cannot read model/default_run: Permission denied"
        finally:
            if is_root:
                os.seteuid(0)
            Path(closed).chmod(0o755)

    def test_a_folder_that_is_removed_under_way(self, cubic, saved, monkeypatch):
        import shutil

        original = runs.write_record

        def write(scratch, record):
            shutil.rmtree("model")
            original(scratch, record)

        monkeypatch.setattr(runs, "write_record", write)
        status, _, err = cubic("forward", *QUICK)
        assert status == 1
        assert "model was removed under way" in err

    @pytest.mark.process
    def test_a_current_folder_that_is_gone(self, tmp_path):
        here = tmp_path / "here"
        here.mkdir()
        status, _, err = outside("inspect", shell=f'cd "{here}"; rmdir "{here}"; exec "$0" "$@"')
        assert status == 1
        assert "the current folder is not there any more" in err


def denied(self, *_, **__):
    raise PermissionError(13, "Permission denied", str(self))


class TestStrangers:
    @pytest.mark.parametrize("name", ["thesis.txt", ".hidden", "run.json.bak", "sub"])
    def test_a_strangers_file_is_refused_before_any_work(self, cubic, tmp_path, monkeypatch, name):
        stranger = tmp_path / "model" / "mine"
        stranger.mkdir(parents=True)
        if name == "sub":
            (stranger / "run.json").mkdir()
        else:
            (stranger / name).write_text("three years")
        monkeypatch.setattr(run, "run", lambda *_: pytest.fail("work was done"))
        status, _, err = cubic("forward", "--run-name", "mine")
        assert status == 1
        assert "which is no file of a run" in err
        assert len(list(stranger.iterdir())) == 1

    def test_a_strangers_file_that_comes_under_way_is_kept(self, cubic, saved, monkeypatch):
        original = runs.write_record

        def write(scratch, record):
            (saved / "thesis.txt").write_text("three years")
            original(scratch, record)

        before = contents(saved)
        monkeypatch.setattr(runs, "write_record", write)
        status, _, err = cubic("forward", *QUICK)
        assert status == 1
        assert "'thesis.txt'" in err
        assert contents(saved) == {**before, "thesis.txt": b"three years"}
        assert os.listdir("model") == ["default_run"]

    def test_links(self, cubic, saved, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        os.rename(saved, elsewhere)
        before = contents(elsewhere)
        saved.symlink_to(elsewhere)
        status, _, err = cubic("forward", *QUICK)
        assert status == 1
        assert "is a link" in err
        saved.unlink()
        saved.symlink_to("nowhere")
        assert cubic("forward", *QUICK)[0] == 1
        saved.unlink()
        saved.mkdir()
        (saved / "run.json").symlink_to(elsewhere / "run.json")
        status, _, err = cubic("forward", *QUICK)
        assert status == 1
        assert "'run.json', which is no file of a run" in err
        assert contents(elsewhere) == before

    def test_an_artifact_folder_and_a_dataset_behind_links(self, cubic, saved):
        """These are the user's to choose: they are read and written through."""
        Path("real").mkdir()
        Path("link").symlink_to("real")
        Path("there.csv").symlink_to("data.csv")
        assert cubic("forward", *QUICK, "--artifact-dir", "link", "--dataset", "there.csv")[0] == 0
        assert runs.load_record(Path("real/default_run")).config.dataset == "there.csv"

    def test_a_hard_link_keeps_the_earlier_run(self, cubic, saved):
        os.link(saved / "run.json", "kept.json")
        before = Path("kept.json").read_bytes()
        assert cubic("forward", *QUICK)[0] == 0
        assert Path("kept.json").read_bytes() == before != (saved / "run.json").read_bytes()

    def test_datasets_that_are_no_files(self, cubic):
        Path("folder.csv").mkdir()
        os.mkfifo("pipe.csv")
        Path("zero.csv").symlink_to("/dev/zero")
        Path("zero.parquet").symlink_to("/dev/zero")
        for name in ("folder.csv", "pipe.csv", "zero.csv", "zero.parquet"):
            status, _, err = cubic("forward", "--dataset", name)
            assert status == 1
            assert "no regular file" in err
        assert not Path("model").exists() or os.listdir("model") == []


class TestDamage:
    @pytest.mark.parametrize(
        ("name", "raw", "said"),
        [
            ("run.json", b"", "damaged"),
            ("run.json", b"{", "damaged"),
            ("run.json", b'{"schema": 1', "damaged"),
            ("run.json", b"\xff\xfe", "damaged"),
            ("run.json", b"[" * 100_000, "damaged"),
            ("run.json", b"1" * 10_000, "damaged"),
            ("run.json", b"[]", "schema None"),
            ("run.json", b"null", "schema None"),
            ("run.json", b'{"schema": 3}', "schema 3"),
            ("run.json", b'{"schema": true}', "schema True"),
            ("run.json", None, "missing"),
            ("history.parquet", None, "missing"),
            ("history.parquet", b"", "damaged"),
            ("history.parquet", b"PAR1junkPAR1", "damaged"),
            ("params.safetensors", None, "missing"),
            ("params.safetensors", b"", "damaged"),
            ("params.safetensors", b"\xff" * 100, "damaged"),
            ("params.safetensors", b"\x02\0\0\0\0\0\0\0{}x", "damaged"),
        ],
    )
    def test_a_damaged_file_is_named(self, saved, name, raw, said):
        path = saved / name
        path.unlink()
        if raw is not None:
            path.write_bytes(raw)
        load = {"run.json": runs.load_record, "history.parquet": load_history}.get(name, runs.load_parameters)
        with pytest.raises(RunError, match=said) as caught:
            load(saved)
        assert name in str(caught.value)

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("kind", ["folder", "pipe", "link to itself"])
    def test_what_is_no_file_is_named(self, saved, name, kind):
        path = saved / name
        path.unlink()
        {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link to itself": lambda: path.symlink_to(path)}[kind]()
        load = {"run.json": runs.load_record, "history.parquet": load_history}.get(name, runs.load_parameters)
        with pytest.raises(RunError, match="no regular file"):
            load(saved)

    def test_cut_anywhere(self, saved):
        for name in FILES:
            path = saved / name
            raw = path.read_bytes()
            load = {"run.json": runs.load_record, "history.parquet": load_history}.get(name, runs.load_parameters)
            for length in range(0, len(raw) - 1, max(1, len(raw) // 60)):
                path.write_bytes(raw[:length])
                with pytest.raises(RunError, match=name):
                    load(saved)
            path.write_bytes(raw)
            load(saved)


ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -signal.SIGKILL}
SAID = {
    signal.SIGINT: "\ninterrupted; nothing was half-saved\n",
    signal.SIGTERM: "\nended by SIGTERM; nothing was half-saved\n",
    signal.SIGHUP: "\nended by SIGHUP; nothing was half-saved\n",
    signal.SIGKILL: "",
}


@pytest.mark.process
class TestInterrupts:
    """Exit 128 and the number of the signal, at any moment; the old or the new is there, whole (tools/faults.py)."""

    def whole(self):
        record = runs.load_record(Path("model/default_run"))
        assert load_history(Path("model/default_run")).height == record.iterations
        size = record.config.hidden_size
        assert runs.load_parameters(Path("model/default_run"))["input_layer.bias"].size == size
        return size

    def wait_for_scratch(self, process, folder):
        while process.poll() is None and not list(folder.glob(".*.scratch")):
            time.sleep(0.005)

    @pytest.mark.parametrize(("number", "status"), ENDS.items(), ids=[number.name for number in ENDS])
    def test_generate(self, cubic, saved, tmp_path, number, status):
        before = Path("data.csv").read_bytes()
        process = start("generate", "--n", 10**9)
        self.wait_for_scratch(process, tmp_path)
        time.sleep(0.1)
        process.send_signal(number)
        found, out, err = finish(process)
        assert (found, out) == (status, "")
        assert err == SAID[number]
        assert Path("data.csv").read_bytes() == before
        assert bool(list(tmp_path.glob(".*"))) == (number == signal.SIGKILL)  # Ctrl-C takes its scratch with it
        assert cubic("generate", "--n", 20)[0] == 0
        assert sorted(os.listdir()) == ["data.csv", "model"]

    def test_a_list_mends_what_a_killed_run_left(self, cubic, saved):
        process = start("forward", *QUICK[:2], "--hidden-size", 7, "--num-epochs", 10**6)
        self.wait_for_scratch(process, saved.parent)
        running = json.loads(cubic("inspect", "--list", "--json")[1])["runs"]
        assert process.poll() is None
        assert list(saved.parent.glob(".*.scratch"))
        process.kill()
        finish(process)
        os.rename(saved, saved.with_name(".other.0123abcd.earlier"))  # as if it had died between two steps
        found = json.loads(cubic("inspect", "--list", "--json")[1])["runs"]
        assert [run["run_name"] for run in running + found] == ["default_run", "other"]
        assert os.listdir("model") == ["other"]

    def test_a_run_mends_what_another_run_left(self, cubic, saved):
        process = start("forward", "--run-name", "other", *QUICK[:2], "--hidden-size", 7, "--num-epochs", 10**6)
        self.wait_for_scratch(process, saved.parent)
        assert cubic("forward", *QUICK)[0] == 0
        assert process.poll() is None
        assert list(saved.parent.glob(".other.*.scratch"))  # of a living process
        process.kill()
        finish(process)
        assert list(saved.parent.glob(".other.*.scratch"))
        assert cubic("forward", *QUICK)[0] == 0
        assert os.listdir("model") == ["default_run"]

    @pytest.mark.parametrize(("number", "status"), ENDS.items(), ids=[number.name for number in ENDS])
    def test_forward(self, cubic, saved, number, status):
        process = start("forward", *QUICK[:2], "--hidden-size", 7, "--num-epochs", 10**6)
        self.wait_for_scratch(process, saved.parent)
        time.sleep(0.5)
        process.send_signal(number)
        found, out, err = finish(process)
        assert (found, out, err) == (status, "", SAID[number])
        assert bool(list(saved.parent.glob(".*"))) == (number == signal.SIGKILL)
        assert self.whole() == 3
        assert cubic("forward", *QUICK, "--hidden-size", 5)[0] == 0
        assert self.whole() == 5
        assert os.listdir("model") == ["default_run"]

    def test_what_is_said_has_no_reader(self, saved):
        """As in `cubic forward 2>&1 | less`, where Ctrl-C ends both."""
        process = start("forward", *QUICK[:2], "--hidden-size", 7, "--num-epochs", 10**6)
        self.wait_for_scratch(process, saved.parent)
        process.stdout.close()
        process.stderr.close()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert os.listdir("model") == ["default_run"]

    @needs_linux
    def test_while_xla_compiles(self, saved):
        """A compiler that never comes back, in C: no handler of Python's runs in the main thread any more."""
        code = INTERRUPTIBLE + (
            "import ctypes, os, threading; os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'\n"
            "from jax._src import compiler\n"
            "def compile(*a, **k):\n"
            "    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
            "    lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(256)\n"
            "    lock(mutex), lock(mutex)\n"
            "compiler.backend_compile_and_load = compile\n"
            "from cubic_cli.__main__ import main; main()"
        )
        status, out, err = outside("forward", *QUICK, code=code)
        assert (status, out) == (130, "")
        assert err.count("interrupted") == 1
        assert self.whole() == 3

    def test_in_the_background_a_shell_ignores_it(self, saved):
        code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " + MAIN.removeprefix(INTERRUPTIBLE)
        code = code.replace("main()", "import os; os.kill(os.getpid(), signal.SIGINT); main()")
        assert outside("inspect", "--json", code=code)[0] == 0


@pytest.mark.process
@pytest.mark.parametrize("sizes", [{4, 5}, set(range(4, 12))])
def test_several_at_once_on_one_name(saved, sizes):
    """The last one to finish wins, whole, and all are done; `generate` replaces what they read meanwhile."""
    processes = [start("forward", *QUICK[:4], "--hidden-size", size, "--json") for size in sizes]
    processes.append(start("generate", "--n", 5000))
    for status, _, err in map(finish, processes):
        assert status == 0, err
    record = runs.load_record(saved)
    size = record.config.hidden_size
    assert size in sizes
    assert runs.load_parameters(saved)["input_layer.bias"].size == size
    assert pl.read_parquet(saved / "history.parquet").height == record.iterations
    assert os.listdir("model") == ["default_run"]


@pytest.mark.process
def test_an_interrupt_that_is_ignored_stays_so(cubic, tmp_path):
    """In the background of a shell SIGINT is ignored; polars would take it for itself while it reads."""
    assert cubic("generate", "--n", 100_000)[0] == 0
    shell = ["sh", "-c", """trap '' INT; exec "$0" "$@\"""", sys.executable, "-m", "cubic_cli"]
    command = ["forward", "--num-samples", "all", "--batch-size", "1", "--num-epochs", "20", "--no-verify"]
    process = subprocess.Popen([*shell, *command], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(0.3)  # the shell is soon gone
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, b"saved in model/default_run\n")
    assert pl.read_parquet(tmp_path / "model" / "default_run" / "history.parquet").height == 2_000_000
