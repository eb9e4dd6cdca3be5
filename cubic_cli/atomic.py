"""A file or a folder is replaced whole, or not at all: what is new is made beside its place, and takes it in one step.

    .<name>.<8 hex digits>.scratch    what is being made
    .<name>.<8 hex digits>.lock       locked for as long as the process that makes it lives
    .<name>.<8 hex digits>.earlier    what was there before, where a system cannot exchange two folders in one step
    .<name>.<8 hex digits>.copy       what will be the `.earlier` one, where a folder cannot even be renamed

A lock says whether a scratch was abandoned, which no process id can: the next that comes by clears it up. The lock is
there before its scratch and goes after it, so that at no moment a living process's scratch seems abandoned. It holds
the host's name, for a shared file system may keep locks on each host apart: another host's is abandoned after a day.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

Check = Callable[[Path], None]

_DAY = 24 * 60 * 60  # seconds


@contextlib.contextmanager
def replacing_file(path: Path, check: Check) -> Iterator[IO[bytes]]:
    """Yield a stream for what is to stand in `path`; it does so once the block is left without an error.

    Who may read and write an earlier file may do so with the new one.

    Args:
        path: the file; the stream is seekable.
        check: called just before the file is replaced; raises if what has come to stand there must not be.

    Raises:
        OSError: the file cannot be written; `path` is as it was.
    """
    with _claimed(path) as scratch, scratch.open("xb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
        check(path)
        if path.is_file() and not path.is_symlink():
            scratch.chmod(stat.S_IMODE(path.stat().st_mode))
        os.replace(scratch, path)


@contextlib.contextmanager
def replacing_folder(folder: Path, files: tuple[str, ...], others: tuple[str, ...], check: Check) -> Iterator[Path]:
    """Yield a scratch folder; once the block is left without an error, it stands in `folder`, with `files` alone.

    Several may do so at once: the last one wins, whole.

    Args:
        folder: the place; its parent must be there.
        files: the names of the files that the block makes.
        others: names of files that it may make for itself, removed at the end.
        check: called just before the folder is replaced; raises if what has come to stand there must not be.

    Raises:
        OSError: the folder cannot be written; `folder` is as it was.
    """
    with scratch_folder(folder, (*files, *others)) as scratch:
        yield scratch
        for name in files:
            with (scratch / name).open("rb+") as stream:
                os.fsync(stream.fileno())
        for name in others:
            (scratch / name).unlink(missing_ok=True)
        _put(scratch, folder, files, check)


@contextlib.contextmanager
def scratch_folder(place: Path, files: tuple[str, ...]) -> Iterator[Path]:
    """Yield an empty folder beside `place`, removed at the end with the `files` in it.

    Raises:
        OSError: it cannot be made.
    """
    with _claimed(place, files) as scratch:
        scratch.mkdir()
        yield scratch


@contextlib.contextmanager
def system_errors() -> Iterator[None]:
    """Raise as `OSError`, with its number, what a library tells of an error of the system in its own words (polars)."""
    try:
        yield
    except BaseException as error:  # a panic of Rust is no Exception
        found = re.search(r"(?:os error|code:) (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from None


_HALF_MADE = re.compile(r"(?P<stem>\.(?P<name>.+)\.[0-9a-f]{8})\.(scratch|earlier|copy|lock)", re.DOTALL)


def half_made(parent: Path) -> set[str]:
    """Return the names of the files and folders of `parent` beside which something half-made stands."""
    return {found["name"] for path in parent.iterdir() if (found := _HALF_MADE.fullmatch(path.name))}


def _short(name: str) -> str:
    """Return a name that leaves room for what is put around it; systems allow 255 bytes."""
    raw = os.fsencode(name)
    if len(raw) <= 255 - len(".") - len(".01234567.earlier"):
        return name
    return f"{os.fsdecode(raw[:64]).encode('utf-8', 'ignore').decode()}-{hashlib.sha256(raw).hexdigest()}"


def clear(place: Path, files: tuple[str, ...] = ()) -> None:
    """Mend what killed processes left beside `place`: put an earlier folder back, remove what was half-made.

    Of a folder only `files` are removed, so that nothing of a stranger's is. What cannot be cleared up is
    left, and told.
    """
    with contextlib.suppress(OSError):
        left = [found for path in place.parent.iterdir() if (found := _HALF_MADE.fullmatch(path.name))]
        for stem in sorted({found["stem"] for found in left if found["name"] == _short(place.name)}):
            scratch = place.with_name(f"{stem}.scratch")
            with contextlib.suppress(OSError), _abandoned(scratch.with_suffix(".lock")) as abandoned:
                if abandoned:
                    earlier = scratch.with_suffix(".earlier")
                    if earlier.is_dir():
                        if _is_half_removed(place, earlier):
                            _remove(place, files)
                        if not os.path.lexists(place):
                            os.rename(earlier, place)
                    for path in (scratch, earlier, scratch.with_suffix(".copy")):
                        _remove(path, files)


@contextlib.contextmanager
def _claimed(place: Path, files: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield a free path beside `place` that no other process clears up; at the end it is removed."""
    clear(place, files)
    while True:
        scratch = place.with_name(f".{_short(place.name)}.{secrets.token_hex(4)}.scratch")
        lock = scratch.with_suffix(".lock")
        with lock.open("xb", buffering=0) as stream:
            try:
                stream.write(_this_host())
            except OSError:  # a full disk holds a name, and no byte
                lock.unlink()
                raise
            _lock(stream.fileno(), wait=True)
            if not _is_at(lock, stream.fileno()):
                continue  # someone took it for abandoned in the moment before it was locked
            _making[scratch] = files
            try:
                yield scratch
            finally:
                _remove(scratch, files)
                with contextlib.suppress(OSError):
                    lock.unlink()
                del _making[scratch]
            return


_making: dict[Path, tuple[str, ...]] = {}  # by this process, just now


def abandon() -> None:
    """Remove what this process is making, for it ends at once; what cannot go so is left for `clear`.

    It may be on its way to its place: a folder that was moved aside for it stays, and so does what is to follow.
    """
    for scratch, files in list(_making.items()):
        if not any(os.path.lexists(scratch.with_suffix(end)) for end in (".earlier", ".copy")):
            with contextlib.suppress(OSError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _remove(scratch, files)
                if not os.path.lexists(scratch):
                    scratch.with_suffix(".lock").unlink(missing_ok=True)


@contextlib.contextmanager
def _abandoned(lock: Path) -> Iterator[bool]:
    """Hold `lock` and yield whether no living process does; it is gone at the end."""
    try:
        try:
            stream: IO[bytes] = lock.open("rb+")  # an NFS locks only what may be written
        except PermissionError:  # another owner's
            stream = lock.open("rb")
    except FileNotFoundError:
        yield True
        return
    with stream:
        old = time.time() - os.fstat(stream.fileno()).st_mtime > _DAY
        free = (old or _is_ours(stream.read(1024))) and _lock(stream.fileno(), wait=False)
        yield free
        if free:
            lock.unlink(missing_ok=True)


def _this_host() -> bytes:
    """Return the host's name and, where the system has one, the id of this boot of it."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    with contextlib.suppress(OSError):
        return f"{socket.gethostname()}\n{boot.read_text(encoding='ascii')}".encode()
    return f"{socket.gethostname()}\n\n".encode()


def _is_ours(said: bytes) -> bool:
    """Return whether a lock is of this host: by its name, or by this boot, whatever the name was then."""
    (name, boot), (our_name, our_boot) = ([*text.split(b"\n"), b""][:2] for text in (said, _this_host()))
    return not said or name == our_name or (boot == our_boot != b"")


def _lock(descriptor: int, wait: bool) -> bool:
    """Lock a file, and return whether it is locked now; never so where there are no such locks (Windows)."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove(path: Path, files: tuple[str, ...]) -> None:
    """Remove a file, or a folder and the `files` in it; a folder that holds anything else stays.

    What stays, as what another owner's process left does, is told by a warning.
    """
    why: OSError | None = None
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        for name in files:
            try:
                (path / name).unlink(missing_ok=True)
            except OSError as error:
                why = why or error
        path.rmdir()
    except OSError as error:
        if os.path.lexists(path):
            with contextlib.suppress(Warning):  # where warnings are errors: it is no reason to end
                text = f"{path}, left of an earlier run, cannot be removed: {(why or error).strerror}{_owned(path)}"
                warnings.warn(text, stacklevel=2)


def _owned(path: Path) -> str:
    """Return whose a path is, where it is another's."""
    user = path.lstat().st_uid if hasattr(os, "geteuid") else 0
    if not hasattr(os, "geteuid") or user == os.geteuid():
        return ""
    try:
        return f"; it belongs to {path.owner()}"
    except KeyError:
        return f"; it belongs to user {user}"


def _put(scratch: Path, folder: Path, files: tuple[str, ...], check: Check) -> None:
    """Move `scratch` to `folder`; what was there ends up in `scratch`. Others may do so at once."""
    while True:
        check(folder)
        try:
            if not os.path.lexists(folder):
                os.rename(scratch, folder)
                return
            _take_modes(folder, scratch, files)
            exchange(scratch, folder, files)
        except OSError as error:
            # Another put its own there, or moved it away, between looking and renaming.
            if not scratch.exists() or error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise
        else:
            break
    try:
        check(scratch)
    except Exception:  # a stranger's file came between the check and the exchange: it goes back
        exchange(scratch, folder, files)
        check(folder)
        raise


def _take_modes(folder: Path, scratch: Path, files: tuple[str, ...]) -> None:
    """Let those who may read and write the earlier folder do so with the new one."""
    for old, new in ((folder, scratch), *((folder / name, scratch / name) for name in files)):
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(old.lstat().st_mode)
            if mode & stat.S_IRWXU == stat.S_IRWXU or old != folder:  # else it could not be cleared up
                new.chmod(mode)


def exchange(scratch: Path, folder: Path, files: tuple[str, ...]) -> None:
    """Exchange two folders in one step where the system can (Linux), else by renames that `clear` mends."""
    if _exchange_at_once(scratch, folder):
        return
    earlier = scratch.with_suffix(".earlier")
    try:
        os.rename(folder, earlier)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _move_by_copy(folder, earlier, files)  # a folder of a lower layer of overlayfs
    try:
        os.rename(scratch, folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            _remove(earlier, files)  # another's stands there by now, whole
        else:
            os.rename(earlier, folder)
        raise
    os.rename(earlier, scratch)


def _move_by_copy(folder: Path, earlier: Path, files: tuple[str, ...]) -> None:
    """Move a folder that cannot be renamed: `earlier` is whole before the first file of `folder` goes.

    Killed in between, it leaves fewer files than `earlier` has, by which `clear` knows it and puts `earlier` back.
    """
    copy = earlier.with_suffix(".copy")
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # no other's folder that takes its place loses a file
    try:
        copy.mkdir()
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                shutil.copy2(folder / name, copy / name)
        os.rename(copy, earlier)
        try:
            for name in files:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=parent)
            folder.rmdir()
        except OSError:
            for name in files:
                with contextlib.suppress(FileNotFoundError):
                    os.rename(earlier / name, name, dst_dir_fd=parent)
            _remove(earlier, files)
            raise
    finally:
        os.close(parent)
        _remove(copy, files)


def _is_half_removed(folder: Path, earlier: Path) -> bool:
    """Return whether `folder` is what a killed `_move_by_copy` left of `earlier`."""
    return folder.is_dir() and not folder.is_symlink() and set(os.listdir(folder)) < set(os.listdir(earlier))


def _exchange_at_once(a: Path, b: Path) -> bool:
    """Exchange two folders by renameat2(2); False where the system or the file system has no such thing."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    at_cwd, rename_exchange = -100, 2
    if libc.renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), rename_exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV):
        return False
    raise OSError(code, os.strerror(code), str(b))
