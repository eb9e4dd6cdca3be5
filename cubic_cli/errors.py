"""The errors that people see: a message that says what was found, what was expected and what to do next."""


class CubicError(Exception):
    """Something could not be done, or a check failed: exit status 1."""

    exit_code = 1


class UsageError(CubicError):
    """The command was asked for something that it does not accept: exit status 2."""

    exit_code = 2


class DatasetError(CubicError):
    """The dataset is missing, is not a dataset, or cannot be written."""


class ParametersError(CubicError):
    """A file of parameters is missing, or holds no network that fits."""


class RunError(CubicError):
    """A saved run is missing or damaged, or a run cannot be saved."""


class DeviceError(CubicError):
    """The device that was asked for is not there."""


class PeerError(CubicError):
    """Another process of a distributed run failed, died, or never came."""


NO_MEMORY = "there is not enough memory; give a smaller --hidden-size, --batch-size or --num-samples"


def is_no_memory(error: Exception) -> bool:
    """Return whether the memory of the machine or of a device was not enough."""
    text = str(error).split("\n", 1)[0]
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text  # XLA's words
