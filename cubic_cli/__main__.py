"""The entry point: take over Ctrl-C, then run the command line."""

import contextlib
import os
import signal
import sys
import threading


def exit_on_interrupt() -> None:
    """Make Ctrl-C exit with status 130 at any moment.

    Python runs its handler only between two bytecodes of the main thread, which a compiling XLA holds up or loses;
    so SIGINT is blocked in all threads, and one waits for it. What is half-written is in scratch, cleared up later.
    """
    if not hasattr(signal, "pthread_sigmask") or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def wait() -> None:
        signal.sigwait({signal.SIGINT})
        os.write(2, b"\ninterrupted; nothing was half-saved\n")
        os._exit(130)

    threading.Thread(target=wait, daemon=True, name="interrupt").start()


def main() -> None:
    """Run `cubic`."""
    exit_on_interrupt()
    from cubic_cli.cli import run

    status = run()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    # All is written and flushed; taking JAX and polars down one by one would cost a fifth of a small run.
    os._exit(status)


if __name__ == "__main__":
    main()
