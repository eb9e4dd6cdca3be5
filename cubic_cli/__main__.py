"""The entry point: take over Ctrl-C, then run the command line.

Before that a Ctrl-C is Python's own traceback, so what is imported until then is little.
"""

import os
import signal
import sys
import time


def exit_on_interrupt() -> None:
    """Make Ctrl-C exit with status 130 at any moment.

    Python runs a handler only between two bytecodes of the main thread, which a compiling XLA holds up. But its C code
    writes a byte to a pipe at once, in whatever thread the signal arrives, and a thread waits for that. (Blocking the
    signal instead does not do: libraries start threads that unblock it.) What is half-written is in scratch, which
    is removed.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background of a shell
        if hasattr(signal, "pthread_sigmask"):  # polars would take it for itself while it reads or writes
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        return
    signal.signal(signal.SIGINT, lambda number, frame: _leave())
    import threading

    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)

    def wait() -> None:
        while os.read(receiver, 1) != bytes([signal.SIGINT]):
            pass
        _leave()

    threading.Thread(target=wait, daemon=True, name="interrupt").start()


_leaving = iter([True])  # for whoever comes first: the handler and the thread both see one signal


def _leave() -> None:
    if not next(_leaving, False):
        time.sleep(0.1)  # the other says so
        os._exit(130)
    # A progress bar hides the cursor.
    show_cursor = b"\x1b[?25h" if os.isatty(2) else b""
    try:
        os.write(2, show_cursor + b"\ninterrupted; nothing was half-saved\n")
        if abandon := getattr(sys.modules.get("cubic_cli.atomic"), "abandon", None):  # it may not be there yet
            abandon()
    finally:
        os._exit(130)


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
    if os.environ.get("CUBIC_WORKER"):  # Ctrl-C is for its supervisor, with which a worker ends
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        exit_on_interrupt()
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
