"""A network of the user's own: its parameters from a file, or refused with words that help.

    .safetensors    a run's own `params.safetensors`, or the `state_dict` of two linear layers that PyTorch saved
    .json           the `model.json` of the program that `cubic` follows: w1, b1, w2, b2, each a shape and its values

A layer is a weight and a bias. The hidden layer is the one whose bias has H values; where H is 1, the one whose name
comes first. PyTorch keeps weights as [out, in], a run's own file as [in, out]: the shapes tell which.
"""

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from cubic_cli.errors import ParametersError, list_names, shorten
from cubic_cli.float32 import FLOAT32_MAX
from cubic_cli.parameters import Parameters, shapes
from cubic_cli.parsers import conversion

_MAX_JSON = 1 << 29  # bytes: some ten million units
_DTYPES = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16"}
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class NetworkFile:
    """The parameters that a file holds, float32, and what is to be told of it.

    `dtype` is the file's own, `metadata` what a run wrote beside its parameters, `notes` what changed on the way.
    """

    path: Path | None
    sha256: str
    dtype: str
    parameters: Parameters
    metadata: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """What people call it."""
        return "parameters" if self.path is None else str(self.path)


class _Array(NamedTuple):
    """A tensor of a file, before it is read."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def read_parameters(path: Path) -> NetworkFile:
    """Return the network in `path`.

    Raises:
        ParametersError: there is no such file, it cannot be read, or it holds no `1 → H → 1` network; says what does
            not fit and what would.
    """
    try:
        # A pipe would make its reader wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise ParametersError(f"there is no file {path}; name one with --parameters") from None
    except (OSError, ValueError) as error:
        raise ParametersError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ParametersError(f"{path} is no regular file; name a .safetensors or .json file with --parameters")
    with os.fdopen(descriptor, "rb") as stream:
        try:
            read = _read_json if path.suffix.lower() == ".json" else _read_safetensors
            return read(path, stream)
        except OSError as error:
            raise ParametersError(f"cannot read {path}: {error.strerror or error}") from None


def from_arrays(given: Mapping[str, Any]) -> NetworkFile:
    """Return the network of arrays by name, as `read_parameters` does that of a file; its `path` is None.

    Raises:
        ParametersError: they are those of no `1 → H → 1` network.
    """
    codes = {name: code for code, name in _DTYPES.items()}
    values = {str(name): np.asarray(value) for name, value in given.items()}
    for name, value in values.items():
        if value.dtype.kind in "iu":
            values[name] = value.astype(np.float64)
        elif value.dtype.name not in codes:
            raise ParametersError(f"parameters: {name} has the type {value.dtype}; expected one of {', '.join(codes)}")
    arrays = [_Array(name, value.shape, codes[value.dtype.name]) for name, value in values.items()]
    parameters = _parameters(
        _pair(Path("parameters"), arrays), {name: _to_float32(value) for name, value in values.items()}
    )
    kinds = "/".join(sorted({value.dtype.name for value in values.values()}))
    digest = hashlib.sha256(b"".join(array.astype("<f4").tobytes() for array in parameters)).hexdigest()
    return NetworkFile(None, digest, kinds, parameters, {}, ())


# --- safetensors ----------------------------------------------------------------------------------------------------


def _read_safetensors(path: Path, stream: IO[bytes]) -> NetworkFile:
    from safetensors import SafetensorError, deserialize, safe_open

    if stream.read(8).startswith(_PICKLES):
        what, *code = conversion(path)
        raise ParametersError(f"{path} is a pickle of PyTorch's, no safetensors file: {what}", *code)
    try:
        with safe_open(path, "numpy") as header:
            metadata = header.metadata() or {}
            slices = {name: header.get_slice(name) for name in header.keys()}  # noqa: SIM118 (it is no mapping)
            arrays = [_Array(name, tuple(one.get_shape()), one.get_dtype()) for name, one in slices.items()]
        for array in arrays:
            if array.dtype not in _DTYPES:
                accepted = ", ".join(_DTYPES.values())
                raise ParametersError(f"{path}: {array.name} has the type {array.dtype}; expected one of {accepted}")
        layers = _pair(path, arrays)  # refuses by the shapes, before the arrays are read
        stream.seek(0)
        raw = stream.read()
        found = {name: entry["data"] for name, entry in deserialize(raw)}  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise ParametersError(f"{path} is no whole safetensors file: {error}; save it again") from None
    values = {array.name: _decode(array, found[array.name]) for array in arrays}
    kinds = sorted({array.dtype for array in arrays})
    notes = _notes(path, kinds, values)
    parameters = _parameters(layers, {name: _to_float32(value) for name, value in values.items()})
    digest = hashlib.sha256(raw).hexdigest()
    return NetworkFile(path, digest, "/".join(_DTYPES[kind] for kind in kinds), parameters, metadata, notes)


def _decode(array: _Array, data: bytes) -> NDArray[Any]:
    import ml_dtypes  # safetensors.numpy reads no bfloat16

    kind = ml_dtypes.bfloat16 if array.dtype == "BF16" else np.dtype(_DTYPES[array.dtype]).newbyteorder("<")
    return np.frombuffer(data, kind).reshape(array.shape)


def _to_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _notes(path: Path, kinds: list[str], values: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    if kinds == ["F32"]:
        return ()
    notes = [f"{path} holds {'/'.join(_DTYPES[kind] for kind in kinds)}; the network is computed in float32"]
    for name, array in values.items():
        wide = array.astype(np.float64)
        beyond = int(np.count_nonzero(np.isfinite(wide) & ~np.isfinite(_to_float32(array))))
        if beyond:
            some = f"{beyond:,} of {array.size:,} values"
            notes.append(f"{path}: {name} has {some} beyond float32, which become infinite")
    return tuple(notes)


# --- two layers -----------------------------------------------------------------------------------------------------


class _Layer(NamedTuple):
    weight: _Array
    bias: _Array


def _pair(path: Path, arrays: list[_Array]) -> tuple[_Layer, _Layer]:
    """Return the hidden and the output layer.

    Raises:
        ParametersError: the tensors are not those of a `1 → H → 1` network.
    """
    weights = [array for array in arrays if len(array.shape) == 2]
    biases = [array for array in arrays if len(array.shape) == 1]
    for array in arrays:
        if len(array.shape) not in (1, 2):
            _refuse(path, f"{array.name} is {list(array.shape)}")
        if len(array.shape) == 2 and 1 not in array.shape:
            _refuse(path, f"{array.name} is {list(array.shape)}")
        if 0 in array.shape:
            _refuse(path, f"{array.name} is empty, {list(array.shape)}")
    if not biases and len(weights) == 2:
        _refuse(path, "its layers have no bias; save them with one (zeros do)")
    if len(weights) < 2 or len(biases) < 2:
        there = ", ".join(f"{array.name} {list(array.shape)}" for array in arrays) or "nothing"
        _refuse(path, f"a weight or a bias is missing; it holds {shorten(there, 200)}")
    if len(arrays) > 4:
        there = ", ".join(f"{array.name} {list(array.shape)}" for array in arrays)
        _refuse(path, f"it holds {len(arrays)} tensors, and two layers have 4: {shorten(there, 200)}")
    first, second = _by_name(path, weights, biases)
    hidden, output = (second, first) if _size(first.bias) == 1 < _size(second.bias) else (first, second)
    width = _size(hidden.bias)
    for array, expected in (
        (output.bias, [1]),
        (hidden.weight, [width, 1]),
        (output.weight, [1, width]),
    ):
        if _size(array) != math.prod(expected):
            _refuse(path, f"{array.name} is {list(array.shape)}, where {hidden.bias.name} has {width:,} values")
    # Both as PyTorch keeps them, [out, in], or both the other way round.
    if width > 1 and (hidden.weight.shape[0] == 1) == (output.weight.shape[0] == 1):
        _refuse(path, f"{hidden.weight.name} and {output.weight.name} are both {list(output.weight.shape)}")
    return hidden, output


def _by_name(path: Path, weights: list[_Array], biases: list[_Array]) -> tuple[_Layer, _Layer]:
    """Return both layers in the order of their names: `2.weight` goes with `2.bias`, else first with first."""
    weights, biases = (sorted(arrays, key=lambda array: _natural(array.name)) for arrays in (weights, biases))
    of_weights, of_biases = ([array.name.rpartition(".")[0] for array in arrays] for arrays in (weights, biases))
    if len(set(of_weights)) == 2 and len(set(of_biases)) == 2 and of_weights != of_biases:
        _refuse(path, f"{weights[0].name} and {weights[1].name} have the biases {biases[0].name} and {biases[1].name}")
    return _Layer(weights[0], biases[0]), _Layer(weights[1], biases[1])


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key by which layer 10 comes after layer 2."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _size(array: _Array) -> int:
    return math.prod(array.shape)


def _refuse(path: Path, why: str) -> NoReturn:
    raise ParametersError(
        f"{path} holds no 1 → H → 1 network: {why}. Expected two linear layers: weights [H, 1] and [1, H] as PyTorch "
        "keeps them (or [1, H] and [H, 1]), biases [H] and [1]"
    )


def _parameters(layers: tuple[_Layer, _Layer], values: Mapping[str, NDArray[np.float32]]) -> Parameters:
    hidden, output = layers
    return Parameters(
        values[hidden.weight.name].reshape(1, -1),
        values[hidden.bias.name],
        values[output.weight.name].reshape(-1, 1),
        values[output.bias.name],
    )


# --- model.json -----------------------------------------------------------------------------------------------------


def _read_json(path: Path, stream: IO[bytes]) -> NetworkFile:
    raw = stream.read(_MAX_JSON + 1)
    if len(raw) > _MAX_JSON:
        raise ParametersError(f"{path} is larger than {_MAX_JSON >> 20} MiB; save so large a network as safetensors")
    try:
        document = json.loads(raw, parse_constant=_no_constant, object_pairs_hook=_no_twice)
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ParametersError(f"{path} cannot be read as JSON: {what}") from None
    if not isinstance(document, dict) or set(document) != set(Parameters._fields):
        there = list_names(document) if isinstance(document, dict) else "no object"
        raise ParametersError(
            f"{path} holds {there}; expected the keys w1, b1, w2 and b2, each with a shape and its values"
        )
    values = {name: _json_array(path, name, document[name]) for name in Parameters._fields}
    width = values["b1"].size
    for (name, array), expected in zip(values.items(), shapes(width), strict=True):
        if array.shape != expected or not width:
            _refuse(path, f"{name} is {list(array.shape)}, where b1 has {width:,} values")
    lost = sum(int(np.count_nonzero(np.isnan(array))) for array in values.values())
    some = "1 value is null" if lost == 1 else f"{lost:,} values are null"
    notes = (f"{path}: {some}, which stands for NaN or an infinity, and read as NaN",)
    digest = hashlib.sha256(raw).hexdigest()
    return NetworkFile(path, digest, "float32", Parameters(*values.values()), {}, notes if lost else ())


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON; null stands for what is not finite")


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return dict(pairs)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value


def _json_array(path: Path, name: str, entry: Any) -> NDArray[np.float32]:
    if not isinstance(entry, dict) or set(entry) != {"shape", "values"}:
        raise ParametersError(f"{path}: {name} must hold a shape and its values, and nothing else")
    shape, values = entry["shape"], entry["values"]
    try:
        shape = tuple(_whole(size) for size in shape)
    except (TypeError, ValueError):
        raise ParametersError(f"{path}: {name}.shape must be a list of counts, as in [1, 64]") from None
    if not isinstance(values, list) or len(values) != math.prod(shape):
        count = f"{len(values):,} values" if isinstance(values, list) else "no list of values"
        raise ParametersError(f"{path}: {name} has {count}, and its shape is {list(shape)}")
    for index, value in enumerate(values):
        if value is None:
            values[index] = math.nan
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ParametersError(f"{path}: {name}.values[{index}] is no number")
        elif not abs(value) <= FLOAT32_MAX:
            raise ParametersError(f"{path}: {name}.values[{index}] is outside the range of float32")
    return np.array(values, np.float32).reshape(shape)
