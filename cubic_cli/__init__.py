"""cubic: run a neural network's forward pass in JAX, and see, record and check every number in it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cubic_cli.experiments.python import forward
    from cubic_cli.runs.record import record_schema
    from cubic_cli.runs.store import load_run

    __version__: str
__all__ = ["__version__", "forward", "load_run", "record_schema"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, no sooner: `cubic --help` waits for neither NumPy nor polars."""
    if name == "load_run":
        from cubic_cli.runs.store import load_run

        return load_run
    if name == "forward":
        from cubic_cli.experiments.python import forward

        return forward
    if name == "record_schema":
        from cubic_cli.runs.record import record_schema

        return record_schema
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("cubic-cli")
        except PackageNotFoundError:  # sources on a path, which nobody installed
            return "unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
