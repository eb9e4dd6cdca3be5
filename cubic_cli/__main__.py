"""The entry point: take over Ctrl-C and its like, then run the command line.

Before that a Ctrl-C is Python's own traceback, so what is imported until then is little.
"""

import os
import signal
import sys
import time


def exit_on_signals() -> None:
    """Make Ctrl-C, a job's time limit and a closed terminal end this with status 128 and their number, at any moment.

    Python runs a handler only between two bytecodes of the main thread, which a compiling XLA holds up. But its C code
    writes a byte to a pipe at once, in whatever thread the signal arrives, and a thread waits for that. (Blocking the
    signal instead does not do: libraries start threads that unblock it.) What is half-written is in scratch, which
    is removed.
    """
    heard = _signals()
    ignored = {number for number in heard if signal.getsignal(number) == signal.SIG_IGN}
    if ignored and hasattr(signal, "pthread_sigmask"):  # polars would take Ctrl-C for itself while it reads or writes
        signal.pthread_sigmask(signal.SIG_BLOCK, ignored)
    for number in heard - ignored:
        signal.signal(number, lambda number, frame: _leave(number))
    import threading

    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)

    def wait() -> None:
        while (number := os.read(receiver, 1)[0]) not in heard:
            pass
        _leave(number)

    threading.Thread(target=wait, daemon=True, name="signals").start()


def _signals() -> set[int]:
    """Return the numbers of Ctrl-C, of a job's time limit and of a closed terminal, which Windows does not have."""
    return {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}


_leaving = iter([True])  # for whoever comes first: the handler and the thread both see one signal


def _leave(number: int) -> None:
    status = 128 + number
    if not next(_leaving, False):
        time.sleep(5)  # the other ends this, once it has cleared up
        os._exit(status)
    # A progress bar hides the cursor.
    show_cursor = "\x1b[?25h" if os.isatty(2) else ""
    what = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    try:
        if abandon := getattr(sys.modules.get("cubic_cli.atomic"), "abandon", None):  # it may not be there yet
            abandon()
        os.write(2, f"{show_cursor}\n{what}; nothing was half-saved\n".encode())  # whose reader may be gone
    finally:
        os._exit(status)


def open_standard_streams() -> None:
    """Give descriptors 0, 1 and 2 to /dev/null where they are closed, or the next file opened would be taken for one.

    A closed standard output stays None in `sys`, for `cli.run` to refuse.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def main() -> None:
    """Run `cubic`."""
    open_standard_streams()  # or Ctrl-C's pipe would be taken for one
    if os.environ.get("CUBIC_WORKER"):  # they are for its supervisor, with which a worker ends
        for number in _signals():
            signal.signal(number, signal.SIG_IGN)
    else:
        exit_on_signals()
    import contextlib
    import gc

    # Imports make some hundred thousand objects, and all stay: to look for garbage there takes a tenth of `inspect`.
    gc.set_threshold(500_000, 20, 100)
    # NumPy's own products are small; threads for them, a core each, take longer to start than they save.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if not os.environ.get("CUBIC_DEBUG"):
        os.environ["RUST_BACKTRACE"] = "0"  # polars would print one at a panic
    try:
        from cubic_cli.cli.app import run
    except (ImportError, OSError, MemoryError) as error:
        os.write(
            2,
            f"error: cubic cannot start: {error}; is there memory (`ulimit -v`), may files be opened "
            "(`ulimit -n`), and is what it needs installed?\n".encode(errors="backslashreplace"),
        )
        os._exit(1)
    status = run()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # AttributeError: it was closed from the start
            stream.flush()
    # All is written and flushed; taking JAX and polars down one by one would cost a fifth of a small run.
    os._exit(status)


if __name__ == "__main__":
    main()
