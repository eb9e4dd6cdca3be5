"""A network from a file in the place of an initialiser: what it means for the run, and what is to be told of it."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace

from cubic_cli.config import ForwardConfig, Scaling
from cubic_cli.data.parameters_file import NetworkFile
from cubic_cli.data.scaling import Scale
from cubic_cli.runs.record import ParametersFile


def adopt(config: ForwardConfig, network: NetworkFile) -> ForwardConfig:
    """Return `config` with the width of the network, and no initialiser."""
    return replace(config, hidden_size=network.parameters.hidden_size, initializer=None)


def describe(network: NetworkFile) -> ParametersFile:
    """Return the record's `parameters_file`."""
    path = None if network.path is None else os.path.abspath(network.path)
    return ParametersFile(path=path, sha256=network.sha256, dtype=network.dtype)


def metadata(config: ForwardConfig, x: Scale, y: Scale) -> dict[str, str]:
    """Return what a run writes beside its parameters: the activation, and how x and y were scaled."""
    scales = {f"{name}_{part}": repr(float(getattr(s, part))) for name, s in (("x", x), ("y", y)) for part in _PARTS}
    return {"activation": str(config.activation), "scaling": str(config.scaling), **scales}


_PARTS = ("shift", "factor")


def remarks(
    config: ForwardConfig, sources: Mapping[str, str], network: NetworkFile, x: Scale, y: Scale
) -> Iterator[str]:
    """Yield what people should know of a network from a file: what was cast, and what the file does not tell.

    Args:
        config: the run's.
        sources: where each setting came from.
        network: the file's.
        x: how x is scaled in this run.
        y: how y is.
    """
    yield from network.notes
    told, here = network.metadata, metadata(config, x, y)
    activation = told.get("activation")
    if activation is None:
        if sources.get("activation", "default") in ("default", ".env"):
            yield f"{network.name} does not tell its activation; this run takes {config.activation} (--activation)"
    elif activation != config.activation:
        yield (
            f"{network.name} was saved by a run with --activation {activation}, and this one has {config.activation}"
        )
    scaling = told.get("scaling")
    if scaling is not None and scaling != config.scaling:
        yield f"{network.name} was saved by a run with --scaling {scaling}, and this one has {config.scaling}"
    elif config.scaling is not Scaling.none and any(told.get(name) != here[name] for name in _SCALES):
        whose = "the training's" if scaling is None else "the run's that saved it"
        yield f"--scaling {config.scaling}: the scale is that of these samples, not {whose}"


_SCALES = tuple(f"{column}_{part}" for column in "xy" for part in _PARTS)
