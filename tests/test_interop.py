"""What a run saves, opened with the tools that people have, against the record; and the snippets of the pages.

pandas, DuckDB and PyTorch are no dependencies; where one is not installed, its test is skipped.
"""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

import cubic_cli
from cubic_cli import config
from cubic_cli.data import generate as dataset
from cubic_cli.errors import RunError
from cubic_cli.experiments import run
from cubic_cli.runs import store as runs
from cubic_cli.runs.record import to_json
from cubic_cli.runs.run import load_run

SHAPES = {
    "input_layer.weight": (1, 3),
    "input_layer.bias": (3,),
    "output_layer.weight": (3, 1),
    "output_layer.bias": (1,),
}
FOLDER = Path("model/exp1")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of two epochs of three batches, the second with NaN in it."""
    folder = tmp_path_factory.mktemp("interop")
    dataset.generate(config.GenerateConfig(25, str(folder / "data.csv")))
    lines = (folder / "data.csv").read_text().splitlines()
    lines[11:21] = ["nan,1"] * 10
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    settings = config.ForwardConfig(
        num_samples=None, hidden_size=3, num_epochs=2, dataset=str(folder / "data.csv"), run_name="exp1",
        initializer=config.Initializer.he_normal,
    )  # fmt: skip
    with runs.replacing(folder / FOLDER) as scratch:
        run.run(settings, {}, scratch, run.read(settings, scratch))
    return folder


@pytest.fixture(autouse=True)
def here(saved, clean_folder, monkeypatch):
    """Work where the run is: after `clean_folder`, which goes elsewhere."""
    monkeypatch.chdir(saved)


def check_history(columns):
    """Compare columns, lists with None where a value is null, with the record and the files' contract."""
    record = json.loads((FOLDER / "run.json").read_text())
    assert list(columns) == [
        "epoch", "batch", "size", "loss", "z1_min", "z1_max", "a1_min", "a1_max", "z2_min", "z2_max", "nonfinite",
    ]  # fmt: skip
    assert columns["epoch"] == [1, 1, 1, 2, 2, 2]
    assert columns["batch"] == [1, 2, 3] * 2
    assert columns["size"] == [10, 10, 5] * 2
    assert [value != value for value in columns["loss"]] == [False, True, False] * 2
    assert [value is None for value in columns["z1_min"]] == [False, True, False] * 2
    assert columns["nonfinite"] == [0, 10 * (3 + 3 + 1) + 1, 0] * 2
    for tensor in record["tensors"][:3]:
        for end in ("min", "max"):
            found = [value for value in columns[f"{tensor['name']}_{end}"] if value is not None]
            assert np.float32(tensor[end]) == np.float32({"min": min, "max": max}[end](found))


def check_parameters(arrays):
    record = json.loads((FOLDER / "run.json").read_text())
    assert {name: tuple(array.shape) for name, array in arrays.items()} == SHAPES
    for parameter in record["parameters"]:
        array = np.asarray(arrays[parameter["name"]])
        assert array.dtype == np.float32
        assert (array.min(), array.max()) == (np.float32(parameter["min"]), np.float32(parameter["max"]))


def test_history_in_polars():
    history = pl.read_parquet("model/exp1/history.parquet")
    check_history(history.to_dict(as_series=False))
    assert history.schema["loss"] == history.schema["z1_min"] == pl.Float32
    worst = history.filter(pl.col("epoch") == 1, pl.col("loss").is_finite()).top_k(1, by="loss")
    assert worst["batch"].item() in (1, 3)


def test_history_in_pandas():
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    history = pandas.read_parquet("model/exp1/history.parquet", dtype_backend="pyarrow")
    check_history({name: [None if v is pandas.NA else v for v in history[name]] for name in history})
    plain = pandas.read_parquet("model/exp1/history.parquet")
    assert str(plain["loss"].dtype) == "float32"
    assert plain["z1_min"].isna().tolist() == [False, True, False] * 2


def test_history_in_duckdb():
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql("select * from 'model/exp1/history.parquet'")
    check_history(dict(zip(found.columns, map(list, zip(*found.fetchall(), strict=True)), strict=True)))
    query = "select count(*) from 'model/exp1/history.parquet' where isnan(loss)"
    assert duckdb.sql(query).fetchall() == [(2,)]


def test_parameters_in_numpy():
    check_parameters(load_file("model/exp1/params.safetensors"))


def test_parameters_in_pytorch():
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch

    parameters = load_torch("model/exp1/params.safetensors")
    check_parameters({name: tensor.numpy() for name, tensor in parameters.items()})
    network = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    for layer, name in ((network[0], "input_layer"), (network[2], "output_layer")):
        layer.weight.data = parameters[f"{name}.weight"].T  # PyTorch keeps [out, in]
        layer.bias.data = parameters[f"{name}.bias"]
    history = pl.read_parquet("model/exp1/history.parquet")
    data = pl.read_csv("data.csv", schema={"x": pl.Float32, "y": pl.Float32})
    for batch, rows in ((1, slice(0, 10)), (3, slice(20, 25))):
        x, y = (torch.from_numpy(data[name].to_numpy()[rows].copy())[:, None] for name in ("x", "y"))
        loss = torch.nn.functional.mse_loss(network(x), y).item()
        # float32, summed in another order: 1e-5 of the loss, as in the verification.
        assert loss == pytest.approx(history["loss"][batch - 1], rel=1e-5)


def snippets():
    """Yield the Python of the pages on runs; that of the README computes one of the default shape."""
    for page, marks in (("README.md", pytest.mark.long), ("docs/files.md", ())):
        text = (Path(__file__).parents[1] / page).read_text(encoding="utf-8")
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            library = re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)[-1]
            yield pytest.param(code, marks=marks, id=f"{page} {library}")


@pytest.mark.parametrize("code", list(snippets()))
def test_the_snippets_of_the_pages_run(code):
    for library in re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE):
        pytest.importorskip(library)
    if "pandas" in code:
        pytest.importorskip("pyarrow")
    exec(code, {})


def test_load_run():
    loaded = cubic_cli.load_run("model/exp1")
    assert to_json(loaded.record) + "\n" == (FOLDER / "run.json").read_text()
    assert loaded.record["loss"] != loaded.record["loss"]  # a float, no text
    check_history(loaded.history.to_dict(as_series=False))
    check_parameters(loaded.parameters)
    assert loaded.history is loaded.history
    assert loaded.parameters is loaded.parameters
    assert repr(loaded) == "<Run 'model/exp1': N = 25, H = 3, loss nan, verified>"


@pytest.mark.parametrize(("check", "said"), [(None, "not verified"), ({"passed": False}, "NOT VERIFIED")])
def test_the_repr_says_whether_the_run_is_verified(tmp_path, check, said):
    record = json.loads((FOLDER / "run.json").read_text())
    record["verification"] = check and record["verification"] | check
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert said in repr(cubic_cli.load_run(tmp_path))


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(RunError, match=r"there is no run model/nowhere"):
        cubic_cli.load_run("model/nowhere")
    with pytest.raises(RunError, match=r"there is no run"):
        cubic_cli.load_run(tmp_path)
    (tmp_path / "run.json").write_bytes((FOLDER / "run.json").read_bytes())
    loaded = cubic_cli.load_run(tmp_path)
    with pytest.raises(RunError, match=r"history\.parquet is missing"):
        _ = loaded.history
    with pytest.raises(RunError, match=r"params\.safetensors is missing"):
        _ = loaded.parameters
    (tmp_path / "run.json").write_text('{"schema": 1,')
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        cubic_cli.load_run(tmp_path)


def test_the_package_shows_what_it_has():
    assert {"CubicError", "forward", "load_run", "record_schema", "__version__"} <= set(dir(cubic_cli))
    assert cubic_cli.load_run is load_run
    assert ">>> run = cubic_cli.load_run(" in inspect.getdoc(cubic_cli.load_run)
    with pytest.raises(AttributeError, match="no attribute 'load_runs'"):
        _ = cubic_cli.load_runs


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, cubic_cli; sys.exit(any(m in sys.modules for m in ('polars', 'numpy', 'jax', 'typer')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
