"""cubic: run a neural network's forward pass in JAX, and see, record and check every number in it."""

TYPE_CHECKING = False  # `typing` takes milliseconds in which Ctrl-C would be Python's traceback: see `__main__`

if TYPE_CHECKING:
    from typing import Any

    from cubic_cli.errors import CubicError
    from cubic_cli.experiments.python import forward
    from cubic_cli.runs.record import record_schema
    from cubic_cli.runs.run import load_run

    __version__: str
__all__ = ["CubicError", "__version__", "forward", "load_run", "record_schema"]


_PLACES = {
    "CubicError": "errors",
    "forward": "experiments.python",
    "load_run": "runs.run",
    "record_schema": "runs.record",
}


def __getattr__(name: str) -> "Any":
    """Import what is asked for, no sooner: `cubic --help` waits for neither NumPy nor polars."""
    if name in _PLACES:
        import importlib

        return getattr(importlib.import_module(f"cubic_cli.{_PLACES[name]}"), name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("cubic-cli")
        except PackageNotFoundError:  # sources on a path, which nobody installed
            return "unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
