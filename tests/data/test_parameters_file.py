import hashlib
import json
import os
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from cubic_cli.data.parameters_file import read_parameters
from cubic_cli.errors import ParametersError
from cubic_cli.parameters import Parameters, by_name

RNG = np.random.default_rng(0)
HIDDEN = 3


def network(hidden=HIDDEN, kind=np.float32):
    shapes = Parameters((1, hidden), (hidden,), (hidden, 1), (1,))
    return Parameters(*(RNG.normal(size=shape).astype(kind) for shape in shapes))


def torch_style(parameters, first="0", second="2"):
    """What PyTorch's `state_dict` of `Sequential(Linear(1, H), …, Linear(H, 1))` holds."""
    w1, b1, w2, b2 = parameters
    arrays = (w1.T, b1, w2.T, b2)
    names = (f"{first}.weight", f"{first}.bias", f"{second}.weight", f"{second}.bias")
    return {name: np.ascontiguousarray(array) for name, array in zip(names, arrays, strict=True)}


def saved(arrays, name="net.safetensors", **options):
    save_file(arrays, name, **options)
    return Path(name)


def same(found, expected):
    assert [array.shape for array in found] == [array.shape for array in expected]
    assert all(np.array_equal(a, np.asarray(b, np.float32)) for a, b in zip(found, expected, strict=True))
    assert all(array.dtype == np.float32 for array in found)


@given(st.integers(1, 5), st.sampled_from([("0", "2"), ("2", "10"), ("module.a", "module.b"), ("fc1", "fc2")]))
def test_pytorch_state_dict_in_any_width_under_any_names(hidden, names):
    expected = network(hidden)
    same(read_parameters(saved(torch_style(expected, *names))).parameters, expected)


@pytest.mark.parametrize("hidden", [1, 2, 64])
def test_run_s_own_file(hidden):
    expected = network(hidden)
    path = saved(by_name(expected), metadata={"activation": "tanh"})
    found = read_parameters(path)
    same(found.parameters, expected)
    assert found.metadata == {"activation": "tanh"}
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.dtype, found.notes) == ("float32", ())


def test_of_one_unit_the_order_of_names_decides():
    expected = network(1)
    w1, b1, w2, b2 = expected
    same(read_parameters(saved({"9.weight": w1, "9.bias": b1, "10.weight": w2, "10.bias": b2})).parameters, expected)


def test_the_hidden_layer_is_the_one_with_more_biases_whatever_its_name():
    expected = network()
    same(read_parameters(saved(torch_style(expected, first="z", second="a"))).parameters, expected)


@pytest.mark.parametrize("kind", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_types_are_cast_and_told(kind):
    expected = network(kind=kind)
    found = read_parameters(saved(torch_style(expected)))
    same(found.parameters, expected)
    assert found.dtype == np.dtype(kind).name
    assert f"holds {found.dtype}; the network is computed in float32" in found.notes[0]


def test_values_beyond_float32_are_told():
    arrays = torch_style(network(kind=np.float64))
    arrays["0.bias"][1] = 1e300
    found = read_parameters(saved(arrays))
    assert found.parameters.b1[1] == np.inf
    size = found.parameters.b1.size
    assert f"0.bias has 1 of {size} values beyond float32, which become infinite" in found.notes[1]


FITS = torch_style(network())
WRONG = {
    "image layer": ({**FITS, "0.weight": np.zeros((64, 3), np.float32)}, "0.weight is [64, 3]"),
    "convolution": ({**FITS, "0.weight": np.zeros((3, 1, 1), np.float32)}, "0.weight is [3, 1, 1]"),
    "two outputs": ({**FITS, "2.bias": np.zeros(2, np.float32)}, "2.bias is [2]"),
    "other widths": ({**FITS, "2.weight": np.zeros((1, 4), np.float32)}, "2.weight is [1, 4]"),
    "one way and the other": ({**FITS, "2.weight": np.zeros((3, 1), np.float32)}, "are both [3, 1]"),
    "no bias": ({k: v for k, v in FITS.items() if "weight" in k}, "no bias"),
    "one bias": ({k: v for k, v in FITS.items() if k != "0.bias"}, "a weight or a bias is missing"),
    "a third layer": ({**FITS, "4.weight": np.zeros((1, 1), np.float32)}, "it holds 5 tensors"),
    "a batch norm": ({**FITS, "1.running_mean": np.zeros(3, np.float32)}, "it holds 5 tensors"),
    "a counter": ({**FITS, "1.count": np.zeros((), np.float32)}, "1.count is []"),
    "nothing": ({}, "it holds nothing"),
    "empty": (torch_style(network(0)), "is empty"),
    "biases of others": (
        {
            "a.weight": FITS["0.weight"],
            "b.weight": FITS["2.weight"],
            "c.bias": FITS["0.bias"],
            "d.bias": FITS["2.bias"],
        },
        "have the biases",
    ),
}


@pytest.mark.parametrize(("arrays", "why"), WRONG.values(), ids=WRONG)
def test_what_is_no_network_of_two_layers_is_refused(arrays, why):
    with pytest.raises(ParametersError) as error:
        read_parameters(saved(arrays))
    assert "net.safetensors holds no 1 → H → 1 network: " in str(error.value)
    assert why in str(error.value)
    assert "Expected two linear layers" in str(error.value)


def test_integers_are_no_parameters():
    with pytest.raises(ParametersError, match=r"0\.bias has the type I64; expected one of float32"):
        read_parameters(saved({**FITS, "0.bias": np.zeros(3, np.int64)}))


def test_a_width_beyond_the_memory_is_refused_by_its_header():
    header = {
        "0.weight": {"dtype": "F32", "shape": [1 << 40, 1], "data_offsets": [0, 1 << 42]},
        "0.bias": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [1 << 42, 1 << 43]},
    }
    text = json.dumps(header).encode()
    Path("wide.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(ParametersError):
        read_parameters(Path("wide.safetensors"))


@pytest.mark.parametrize(
    "raw",
    [b"", b"1234567", bytes(8), b"\xff" * 40, struct.pack("<Q", 4) + b"nope", struct.pack("<Q", 2) + b"[]",
     struct.pack("<Q", 1000) + b"[" * 1000, save(FITS)[:-1], save(FITS) + b"x"],
    ids=["empty", "short", "no header", "huge header", "no JSON", "a list", "nested", "cut", "longer"],
)  # fmt: skip
def test_a_damaged_file_is_refused(raw):
    Path("bad.safetensors").write_bytes(raw)
    with pytest.raises(ParametersError, match=r"bad\.safetensors"):
        read_parameters(Path("bad.safetensors"))


@given(st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_whatever_byte_is_changed_it_is_read_or_refused(at, change):
    raw = bytearray(save(FITS))
    raw[at : at + len(change)] = change
    Path("any.safetensors").write_bytes(raw)
    try:
        read_parameters(Path("any.safetensors"))
    except ParametersError as error:
        assert "any.safetensors" in str(error)  # noqa: PT017


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02"], ids=["zip", "pickle"])
def test_a_pickle_is_refused_with_the_lines_that_convert_it(start):
    Path("net.safetensors").write_bytes(start + bytes(100))
    with pytest.raises(ParametersError, match="weights_only=True"):
        read_parameters(Path("net.safetensors"))


def test_what_is_no_file_is_refused():
    os.mkfifo("pipe.json")
    Path("folder.json").mkdir()
    for name in ("pipe.json", "folder.json", "none.json", "/dev/zero", "x\0.json"):
        with pytest.raises(ParametersError, match=r"no regular file|there is no file|cannot read"):
            read_parameters(Path(name))


# --- model.json -----------------------------------------------------------------------------------------------------


def document(parameters):
    return {
        name: {"shape": list(array.shape), "values": [float(v) for v in array.ravel()]}
        for name, array in zip(("w1", "b1", "w2", "b2"), parameters, strict=True)
    }


def written(value, name="model.json"):
    Path(name).write_text(value if isinstance(value, str) else json.dumps(value))
    return Path(name)


def test_model_json():
    expected = network()
    same(read_parameters(written(document(expected))).parameters, expected)


def test_null_is_nan_and_told():
    content = document(network())
    content["b1"]["values"][1] = None
    found = read_parameters(written(content))
    assert np.isnan(found.parameters.b1).tolist() == [False, True, False]
    assert "1 value is null" in found.notes[0]


def changed(**entries):
    return {**document(network()), **entries}


BAD_JSON = {
    "no JSON": "{",
    "NaN": json.dumps(changed(b2={"shape": [1], "values": [float("nan")]})),
    "nested": "[" * 100_000,
    "a list": [],
    "a key too few": {k: v for k, v in document(network()).items() if k != "b2"},
    "a key too many": changed(w3={}),
    "a key twice": json.dumps(document(network()))[:-1] + ', "b2": {}}',
    "no values": changed(b2={"shape": [1]}),
    "a value too few": changed(b1={"shape": [3], "values": [1, 2]}),
    "a shape of words": changed(b1={"shape": ["3"], "values": [1, 2, 3]}),
    "a negative shape": changed(b1={"shape": [-3], "values": [1, 2, 3]}),
    "a shape that is true": changed(b2={"shape": [True], "values": [1]}),
    "values in rows": changed(w1={"shape": [1, 3], "values": [[1, 2, 3]]}),
    "a word": changed(b2={"shape": [1], "values": ["1"]}),
    "true": changed(b2={"shape": [1], "values": [True]}),
    "beyond float32": changed(b2={"shape": [1], "values": [1e39]}),
    "a long integer": changed(b2={"shape": [1], "values": [10**400]}),
    "another width": changed(w1={"shape": [1, 4], "values": [1, 2, 3, 4]}),
    "no units": document(network(0)),
    "transposed": changed(w1={"shape": [3, 1], "values": [1, 2, 3]}),
}


@pytest.mark.parametrize("content", BAD_JSON.values(), ids=BAD_JSON)
def test_json_that_is_no_network_is_refused(content):
    with pytest.raises(ParametersError, match=r"model\.json"):
        read_parameters(written(content))
