"""A file or a folder is replaced whole, or not at all: killed at every step, by eight at once, met by strangers."""

import ctypes
import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cubic_cli import atomic as scratch
from cubic_cli.atomic import clear, replacing_file, replacing_folder

FILES, OTHERS = ("a", "b"), ("spill",)

# Run by itself: to fork is safe only where no library has started threads.
LIBRARY = """
import os, signal, sys
from pathlib import Path
from cubic_cli import atomic as scratch

FILES, OTHERS = ("a", "b"), ("spill",)
if sys.argv[1] != "exchange":
    import ctypes

    ctypes.CDLL = lambda name, **options: object()  # a C library without renameat2
if sys.argv[1] == "copies":  # overlayfs: no folder of a lower layer is renamed
    lower, rename = set(), os.rename
    def refuse(a, b, **where):
        if str(a) == "run" and os.stat(a).st_ino in lower:
            raise OSError(18, os.strerror(18))
        rename(a, b, **where)
    os.rename = refuse

def allow(path): pass

def put_folder(text):
    with scratch.replacing_folder(Path("run"), FILES, OTHERS, allow) as folder:
        for name in (*FILES, *OTHERS):
            (folder / name).write_text(text)

def put_file(text):
    with scratch.replacing_file(Path("data"), allow) as stream:
        stream.write(text.encode())

def look():
    run, data = Path("run"), Path("data")
    files = {p.name: p.read_text() for p in run.iterdir()} if run.is_dir() else None
    return files, data.read_text() if data.exists() else None
"""

KILL_AT_EVERY_STEP = (
    LIBRARY
    + """
import json
outcomes = []
for put in (put_folder, put_file):
    put("old")
    for step in range(1000):
        if sys.argv[1] == "copies" and put is put_folder:
            lower = {os.stat("run").st_ino}
        child = os.fork()
        if child == 0:
            left = step
            def count(event, arguments):
                global left
                if event.startswith(("os.", "open", "ctypes.dlsym", "fcntl")):
                    left -= 1
                    if left < 0:
                        signal.raise_signal(signal.SIGKILL)
            sys.addaudithook(count)
            put("new")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        scratch.clear(Path("run"), (*FILES, *OTHERS))
        scratch.clear(Path("data"))
        outcomes.append((put.__name__, step, status, look(), sorted(os.listdir())))
        if status == 0:
            break
        put("old")
print(json.dumps(outcomes))
"""
)

MANY_AT_ONCE = (
    LIBRARY
    + """
children = []
for child in range(8):
    if (pid := os.fork()) == 0:
        try:
            for turn in range(12):
                put_folder(f"{child} {turn}")
                put_file(f"{child} {turn}")
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    children.append(pid)
statuses = [os.waitpid(pid, 0)[1] for pid in children]
files, data = look()
assert statuses == [0] * 8, statuses
assert set(files) == set(FILES) and len(set(files.values())) == 1, files
assert data.endswith(" 11"), data
assert files["a"].endswith(" 11"), files
assert sorted(os.listdir()) == ["data", "run"], os.listdir()
"""
)


def alone(script, mode):
    return subprocess.run(
        [sys.executable, "-c", script, mode], capture_output=True, text=True, check=False, timeout=120
    )


MODES = ["exchange", "renames"]


@pytest.mark.parametrize("mode", [*MODES, "copies"])
def test_killed_at_every_step_the_old_or_the_new_is_there_whole(mode):
    done = alone(KILL_AT_EVERY_STEP, mode)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert len(outcomes) > 20
    seen = set()
    for put, step, status, (files, data), left in outcomes:
        where = (put, step, status, files, data, left)
        changed = files["a"] if put == "put_folder" else data
        seen.add(changed)
        assert changed in ("old", "new"), where
        assert status != 0 or changed == "new", where
        assert files == dict.fromkeys(FILES, files["a"]), where
        assert left == (["run"] if put == "put_folder" else ["data", "run"]), where
    assert seen == {"old", "new"}


@pytest.mark.parametrize("mode", MODES)
def test_eight_at_once(mode):
    done = alone(MANY_AT_ONCE, mode)
    assert done.returncode == 0, done.stderr


def fill(folder, text="new"):
    for name in (*FILES, *OTHERS):
        (folder / name).write_text(text)


def allow(path):
    pass


def put_run(meanwhile=lambda: None, check=allow):
    with replacing_folder(Path("run"), FILES, OTHERS, check) as folder:
        fill(folder)
        meanwhile()


def put_data(meanwhile=lambda: None):
    with replacing_file(Path("data"), allow) as stream:
        stream.write(b"new")
        meanwhile()


def write_thesis():
    Path("run").mkdir(exist_ok=True)
    Path("run", "thesis").write_text("three years")


def fail():
    raise ZeroDivisionError


class RefusedError(Exception):
    pass


def without_exchange(monkeypatch):
    """Let the C library have no renameat2, as elsewhere than on Linux."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name, **options: object())


def refuse_strangers(path):
    if path.exists() and {p.name for p in path.iterdir()} - set(FILES):
        raise RefusedError(path.name)


@pytest.mark.parametrize("mode", MODES)
def test_a_strangers_file_that_comes_before_the_last_check_is_kept(mode, monkeypatch):
    if mode == "renames":
        without_exchange(monkeypatch)
    with pytest.raises(RefusedError, match="run"):
        put_run(write_thesis, refuse_strangers)
    assert Path("run", "thesis").read_text() == "three years"
    assert os.listdir() == ["run"]


@pytest.mark.parametrize("mode", MODES)
def test_a_strangers_file_that_comes_after_the_last_check_is_put_back(mode, monkeypatch):
    if mode == "renames":
        without_exchange(monkeypatch)
    Path("run").mkdir()
    original = scratch.exchange
    calls = []

    def exchange(*arguments):
        if not calls:
            write_thesis()
        calls.append(arguments)
        original(*arguments)

    monkeypatch.setattr(scratch, "exchange", exchange)
    with pytest.raises(RefusedError, match="run"):
        put_run(check=refuse_strangers)
    assert len(calls) == 2
    assert os.listdir("run") == ["thesis"]
    assert os.listdir() == ["run"]


def test_an_error_in_the_block_leaves_the_old_and_nothing_else():
    Path("run").mkdir()
    Path("data").write_text("old")
    for put in (put_run, put_data):
        with pytest.raises(ZeroDivisionError):
            put(fail)
    assert Path("data").read_text() == "old"
    assert sorted(os.listdir()) == ["data", "run"]
    assert os.listdir("run") == []


def test_a_disk_that_is_full_from_the_start_has_nothing_left():
    """A process that may write no byte to a file, as on a full disk, which still holds names."""
    code = (
        "import resource, pathlib; from cubic_cli import atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "with atomic.scratch_folder(pathlib.Path('run'), ()): pass"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "OSError: [Errno 27] File too large" in ended.stderr
    assert list(Path().iterdir()) == []


def test_what_is_alive_and_what_is_a_strangers_is_not_cleared_up():
    with replacing_folder(Path("run"), FILES, OTHERS, allow) as folder:
        fill(folder)
        clear(Path("run"), FILES)
        assert set(os.listdir(folder)) == {*FILES, *OTHERS}
    stranger = Path(".run.0123abcd.scratch")
    stranger.mkdir()
    fill(stranger)
    (stranger / "thesis").write_text("three years")
    Path(".run.notes.scratch").write_text("a stranger's name")
    Path("elsewhere").mkdir()
    fill(Path("elsewhere"))
    Path(".run.00000000.scratch").symlink_to("elsewhere")
    clear(Path("run"), (*FILES, *OTHERS))
    assert os.listdir(stranger) == ["thesis"]
    assert Path(".run.notes.scratch").exists()
    assert not Path(".run.00000000.scratch").is_symlink()
    assert set(os.listdir("elsewhere")) == {*FILES, *OTHERS}


def test_no_descriptor_is_left_open():
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        put_run()
        put_data()
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert before == after


def test_without_locks_nothing_is_cleared_up_for_nobody_knows_whose_it_is(monkeypatch):
    def refuse(descriptor, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with replacing_file(Path("data"), allow) as stream:
        stream.write(b"new")
        clear(Path("data"))
        assert len(os.listdir()) == 2
    assert os.listdir() == ["data"]


def test_a_file_too_large_for_the_system_is_an_error_with_its_number():
    with pytest.raises(OSError, match="No space left") as caught, scratch.system_errors():
        raise RuntimeError("parquet: underlying IO error: no room (os error 28)")
    assert caught.value.errno == 28
    with pytest.raises(RuntimeError), scratch.system_errors():
        raise RuntimeError("another error")


@pytest.mark.parametrize(
    ("host", "hours", "stays"),
    [("another", 1, True), ("another", 25, False), ("this", 1, False), ("", 1, False)],
    ids=["another host's", "another host's of yesterday", "a dead process's", "an earlier version's"],
)
def test_another_hosts_scratch_is_abandoned_after_a_day(host, hours, stays):
    said = {"another": "elsewhere\nother-boot\n", "this": scratch._this_host().decode(), "": ""}[host]
    lock, half_made = Path(".data.0123abcd.lock"), Path(".data.0123abcd.scratch")
    lock.write_text(said)
    half_made.write_text("half")
    then = time.time() - hours * 3600
    os.utime(lock, (then, then))
    clear(Path("data"))
    assert (lock.exists(), half_made.exists()) == (stays, stays)


def test_what_cannot_be_removed_is_told():
    """As the files of a run of another owner's, which was replaced in a folder of all."""
    put_run()
    unlink, owner = Path.unlink, Path("run").stat().st_uid

    def refuse(path, **options):
        if path.parent.suffix == ".scratch" and path.name in FILES:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        unlink(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        patch.setattr(Path, "owner", lambda path: "alice")
        patch.setattr(os, "geteuid", lambda: owner + 1)
        with pytest.warns(UserWarning, match=r"cannot be removed: Permission denied; it belongs to alice") as told:
            put_run()
        (left,) = [name for name in os.listdir() if name != "run"]
        assert str(told[0].message).startswith(f"{left}, left of an earlier run, ")
        with pytest.warns(UserWarning, match="cannot be removed"):
            clear(Path("run"), FILES)
    clear(Path("run"), FILES)
    assert os.listdir() == ["run"]


def test_anothers_lock_that_may_only_be_read_says_whether_he_lives(monkeypatch):
    lock, half_made, opened = Path(".data.0123abcd.lock"), Path(".data.0123abcd.scratch"), Path.open
    lock.write_bytes(scratch._this_host())
    half_made.write_text("half")

    def refuse(path, mode="r", **options):
        if path == lock and "+" in mode:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with lock.open("rb") as stream:
        assert scratch._lock(stream.fileno(), wait=True)
        clear(Path("data"))
        assert half_made.exists()
    clear(Path("data"))
    assert os.listdir() == []


def test_a_folder_that_cannot_be_renamed_is_replaced_by_way_of_a_copy(monkeypatch):
    put_run()
    lower, rename = Path("run").stat().st_ino, os.rename

    def refuse(source, target, **where):
        if str(source) == "run" and os.stat(source).st_ino == lower:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target, **where)

    without_exchange(monkeypatch)
    monkeypatch.setattr(os, "rename", refuse)
    with replacing_folder(Path("run"), FILES, OTHERS, allow) as folder:
        for name in FILES:
            (folder / name).write_text("newer")
    assert {p.name: p.read_text() for p in Path("run").iterdir()} == dict.fromkeys(FILES, "newer")
    assert os.listdir() == ["run"]


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "n" * 230])
def test_the_longest_names_that_the_system_allows(name):
    with replacing_file(Path(name), allow) as stream:
        stream.write(b"new")
        clear(Path(name))
    assert os.listdir() == [name]
    with pytest.raises(ZeroDivisionError), replacing_file(Path(name), allow):
        raise ZeroDivisionError
    assert os.listdir() == [name]


def test_who_could_read_an_earlier_run_can_read_the_new_one():
    put_run()
    Path("run").chmod(0o710)
    Path("run", "a").chmod(0o640)
    put_run()
    assert [p.stat().st_mode & 0o777 for p in (Path("run"), Path("run", "a"))] == [0o710, 0o640]


def test_what_is_being_made_is_abandoned_at_once(tmp_path):
    """As Ctrl-C does, at any moment: what stands there stays, and nothing is left beside it."""

    def make_file():
        with replacing_file(tmp_path / "data", lambda path: None) as stream:
            stream.write(b"new")
            scratch.abandon()

    def make_folder():
        with replacing_folder(tmp_path / "run", FILES, OTHERS, lambda path: None) as made:
            (made / "a").write_text("new")
            scratch.abandon()

    (tmp_path / "data").write_text("old")
    for make in (make_file, make_folder):
        with pytest.raises(FileNotFoundError):
            make()
        assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert (tmp_path / "data").read_text() == "old"
