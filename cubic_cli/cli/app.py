"""The command line: the app and the edge where errors become messages. The commands stand in `commands`."""

import contextlib
import errno
import os
import sys
from typing import Annotated

import typer

import cubic_cli
from cubic_cli.cli import dotenv, terminal
from cubic_cli.cli.commands import check, forward, generate, inspect, sweep
from cubic_cli.cli.help import Command, Group
from cubic_cli.errors import CubicError, Note, no_memory, printable

app = typer.Typer(
    name="cubic",
    help="Run a neural network's forward pass in JAX, and see, record and check every number in it.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    cls=Group,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"cubic {cubic_cli.__version__}")
        raise typer.Exit


_LITTLE = 1 << 31  # bytes of addresses: JAX with two devices of a CPU takes 1.8 GB


@app.callback(invoke_without_command=True)
def main(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Lay the nearest .env underneath the environment, before a command's options are read."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise typer.Exit(2)
    ctx.obj = dotenv.load()
    _tell_of_little_memory()


def _tell_of_little_memory() -> None:
    """Say that a limit of memory is small: at some such limits libraries crash or wait for ever, without a word."""
    try:
        import resource
    except ImportError:  # on Windows
        return
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= allowed < _LITTLE:  # negative: there is no limit
        terminal.tell(
            f"note: `ulimit -v` allows {allowed >> 20} MiB; with less than {_LITTLE >> 20} polars and JAX may crash, "
            "or never end"
        )


app.command(cls=Command)(generate.generate)
app.command(cls=Command)(forward.forward)
app.command(cls=Command)(inspect.inspect)
app.command(cls=Command)(sweep.sweep)
app.command(cls=Command)(check.check)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; the one place where errors become messages."""
    if sys.platform not in ("linux", "darwin"):
        return terminal.fail(f"cubic runs on Linux and macOS, and on Windows in WSL; this is {sys.platform}", 1)
    if sys.stdout is None:
        return terminal.fail("standard output is closed; send it to a file, or to /dev/null", 1)
    try:
        with contextlib.suppress(AttributeError):
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        status = app(arguments, standalone_mode=False, prog_name="cubic")
        sys.stdout.flush()
        return int(status or 0)
    except (typer.Abort, KeyboardInterrupt):  # polars takes the signal for itself
        return 130
    except typer.Exit as error:
        return error.exit_code
    except BrokenPipeError:
        terminal.discard_stdout()
        return 1
    except CubicError as error:
        return terminal.fail(_noted(error, str(error)), error.exit_code)
    except OSError as error:
        return terminal.fail(_noted(error, printable(_describe(error))), 1)
    except BaseException as error:
        if isinstance(error, typer.TyperException):  # its usage errors
            message = terminal.usage_message(error, _command(sys.argv[1:] if arguments is None else arguments))
            return terminal.fail(message, error.exit_code)
        # A panic of Rust, in polars, is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if said := no_memory(error):
            return terminal.fail(said, 1)
        if os.environ.get("CUBIC_DEBUG"):
            raise
        return terminal.fail(_unforeseen(error), 1)


def _unforeseen(error: BaseException) -> str:
    """Return the message of an error of a library: all that it says, and where to look."""
    lines = str(error).strip().splitlines()[:_MOST_LINES] or [""]
    return _noted(error, f"{type(error).__name__}: " + "\n".join(lines)) + f"\n{_DEBUG}"


def _noted(error: BaseException, message: str) -> str:
    """Return a message with what was noted on the error."""
    notes = [note for note in getattr(error, "__notes__", ()) if isinstance(note, Note)]
    return "\n".join([message, *map(printable, notes)])


_MOST_LINES = 20  # of an error of a library
_DEBUG = "CUBIC_DEBUG=1 shows where"


def _command(arguments: list[str]) -> str:
    """Return which command the arguments name."""
    names = {str(info.callback.__name__) for info in app.registered_commands if info.callback}
    return next((f"cubic {word}" for word in arguments if word in names), "cubic")


def _describe(error: OSError) -> str:
    """Return the message of an error of the system that no one else told in better words."""
    what = error.strerror or str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{what}; raise the limit, as in `ulimit -n 1024`"
    if error.filename is not None:
        return f"{what} ({error.filename})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF):
        # Files are written under a name: this is the stream without one.
        terminal.discard_stdout()
        return f"cannot write to standard output: {what}; what was saved is whole"
    return what
