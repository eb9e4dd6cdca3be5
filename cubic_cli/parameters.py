"""The parameters of the network, `1 → H → 1`, as arrays of any library: JAX, NumPy, float32 or float64."""

from typing import Any, NamedTuple


class Parameters(NamedTuple):
    """`z1 = x w1 + b1`, `z2 = a1 w2 + b2`: `w1 [1, H]`, `b1 [H]`, `w2 [H, 1]`, `b2 [1]`."""

    w1: Any
    b1: Any
    w2: Any
    b2: Any

    @property
    def hidden_size(self) -> int:
        """H, the units of the hidden layer."""
        return int(self.b1.size)


def shapes(hidden_size: int) -> Parameters:
    """Return the shapes of the parameters of H hidden units."""
    return Parameters((1, hidden_size), (hidden_size,), (hidden_size, 1), (1,))


# What files, records and screens call them, in the order of the tuple.
NAMES = Parameters("input_layer.weight", "input_layer.bias", "output_layer.weight", "output_layer.bias")


def by_name(parameters: Parameters) -> dict[str, Any]:
    """Return the arrays by the names that files and records use."""
    return dict(zip(NAMES, parameters, strict=True))


def from_names(arrays: dict[str, Any]) -> Parameters:
    """Return the parameters from the arrays of a file."""
    return Parameters(*(arrays[name] for name in NAMES))
