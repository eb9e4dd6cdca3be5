"""cubic: run a neural network's forward pass in JAX, and see, record and check every number in it."""

from cubic_cli.runs import load_run

__version__ = "0.1.0"
__all__ = ["__version__", "load_run"]
