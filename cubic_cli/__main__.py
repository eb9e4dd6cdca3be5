"""The entry point: take over Ctrl-C, then run the command line."""

import contextlib
import os
import signal
import sys


def exit_on_interrupt() -> None:
    """Make Ctrl-C exit with status 130 at any moment.

    Python runs its handler only between two bytecodes of the main thread, which a compiling XLA holds up or loses;
    so SIGINT is blocked in all threads, and one waits for it. What is half-written is in scratch, cleared up later.
    """
    if not hasattr(signal, "pthread_sigmask") or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    import threading

    def wait() -> None:
        signal.sigwait({signal.SIGINT})
        # A progress bar hides the cursor.
        show_cursor = b"\x1b[?25h" if os.isatty(2) and not os.environ.get("NO_COLOR") else b""
        os.write(2, show_cursor + b"\ninterrupted; nothing was half-saved\n")
        os._exit(130)

    threading.Thread(target=wait, daemon=True, name="interrupt").start()


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
    exit_on_interrupt()
    open_standard_streams()
    from cubic_cli.cli import run

    status = run()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    # All is written and flushed; taking JAX and polars down one by one would cost a fifth of a small run.
    os._exit(status)


if __name__ == "__main__":
    main()
