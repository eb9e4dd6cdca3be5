"""cubic: run a neural network's forward pass in JAX, and see, record and check every number in it.

For notebooks and scripts:

    run = cubic_cli.load_run("model/exp1")
    run.record["loss"], run.history, run.parameters["input_layer.weight"]
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cubic_cli.runs import load_run

__version__ = "0.1.0"
__all__ = ["__version__", "load_run"]


def __getattr__(name: str) -> Any:
    """Import `load_run` when it is first asked for: it brings NumPy and polars, which `cubic --help` does without."""
    if name == "load_run":
        from cubic_cli.runs import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
