"""`--parameters`: a network from a file runs, is recorded, and stands in the place of what would have made one."""

import hashlib
import json
import re
import shlex
from pathlib import Path

import helpers
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from cubic_cli.errors import UsageError
from cubic_cli.experiments.sweep import label
from cubic_cli.parameters import by_name

ORIGINAL = Path(__file__).parents[1] / "original"
DATA = ORIGINAL / "data.csv"
NET = helpers.parameters([1.0, -0.5, 2.0], [0.5, 1.0, -3.0], [0.25, 2.0, -1.0], 0.125)


@pytest.fixture
def net(tmp_path):
    """A file of a network of three units."""
    save_file(by_name(NET), "net.safetensors")
    return "net.safetensors"


def run(cubic, *arguments, status=0, rows=20):
    given = ("--dataset", DATA, "--num-samples", rows, "--json", "--num-epochs", 2)
    found, out, err = cubic("forward", *given, *arguments)
    assert found == status, err
    return (json.loads(out) if out else None), err


def tensors(record):
    return {tensor["name"]: tensor for tensor in record["tensors"]}


def test_trained_network_of_the_original(cubic):
    record, err = run(cubic, "--parameters", ORIGINAL / "trained.json", "--scaling", "minmax", rows="all")
    # By the original's own figures, in float64.
    assert record["loss"] == pytest.approx(0.00630386693, rel=2e-6)
    assert record["loss_in_data_units"] == pytest.approx(2456088.49, rel=2e-6)
    assert record["context"]["r_squared"] == pytest.approx(0.835527, abs=1e-6)
    of = tensors(record)
    assert [of["z1"][end] for end in ("min", "max")] == pytest.approx(
        [0.410413, 1.08787], abs=5e-6
    )  # half of its last digit
    assert [of["z2"][end] for end in ("min", "max")] == pytest.approx([0.216889, 0.765574], rel=2e-6)
    assert of["a1"]["zeros"] == 0
    assert record["units"]["distinct"] == 1
    config = record["config"]
    assert (config["hidden_size"], config["initializer"]) == (64, None)
    assert config["parameters"] == str(ORIGINAL / "trained.json")
    digest = hashlib.sha256((ORIGINAL / "trained.json").read_bytes()).hexdigest()
    assert record["parameters_file"] == {
        "path": str(ORIGINAL / "trained.json"),
        "sha256": digest,
        "dtype": "float32",
    }
    assert record["verification"]["passed"]
    assert "the scale is that of these samples" in err
    assert "does not tell its activation" in err


def test_network_that_lost_its_numbers_is_a_finding(cubic):
    arguments = ("--parameters", ORIGINAL / "nonfinite.json", "--fail-on", "nonfinite")
    record, err = run(cubic, *arguments, status=1)
    assert record["first_nonfinite"]["cause"] == "parameters"
    assert "193 values are null" in err
    assert "the run is saved" in err


def test_findings_do_not_speak_of_an_initializer_that_there_is_not(cubic, tmp_path):
    networks = {
        "explodes": helpers.parameters([50.0] * 3, 1.0, [50.0] * 3, 1.0),
        "vanishes": helpers.parameters([1e-3, 2e-3, 3e-3], 0.0, [1e-3] * 3, 0.0),
        "dead_units": helpers.parameters([0.0] * 3, -1.0, 1.0, 0.0),
        "nonfinite": helpers.parameters([np.nan, 1.0, 2.0], 0.0, 1.0, 0.0),
    }
    for name, network in networks.items():
        save_file(by_name(network), f"{name}.safetensors")
        record, _ = run(cubic, "--parameters", f"{name}.safetensors")
        assert name in {finding["id"] for finding in record["findings"]}
        assert not [finding for finding in record["findings"] if "initializer" in finding["text"]]
        status, out, _ = cubic("inspect")
        assert status == 0
        assert "initializer" not in out
        assert f"from {name}.safetensors" in out


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_cast_is_told(cubic, kind):
    save_file({name: array.astype(kind) for name, array in by_name(NET).items()}, "net.safetensors")
    record, err = run(cubic, "--parameters", "net.safetensors")
    assert record["parameters_file"]["dtype"] == np.dtype(kind).name
    assert f"holds {np.dtype(kind).name}" in err


def metadata(folder="model/default_run"):
    with safe_open(f"{folder}/params.safetensors", "np") as file:
        return file.metadata()


def test_run_s_own_parameters_run_again(cubic, net):
    first, _ = run(cubic, "--parameters", net, "--activation", "tanh", "--scaling", "standard")
    told = metadata()
    assert (told["activation"], told["scaling"]) == ("tanh", "standard")
    assert float(told["y_factor"]) == first["scaling"]["y"]["factor"]
    saved = "model/default_run/params.safetensors"
    again = ("--parameters", saved, "--run-name", "again")
    record, err = run(cubic, *again, "--activation", "tanh", "--scaling", "standard")
    assert record["loss"] == first["loss"]
    assert saved not in err
    assert "scale" not in err
    _, err = run(cubic, *again)
    assert "was saved by a run with --activation tanh, and this one has relu" in err
    assert "was saved by a run with --scaling standard, and this one has none" in err
    _, err = run(cubic, *again, "--activation", "tanh", "--scaling", "standard", rows=19)
    assert "the scale is that of these samples, not the run's that saved it" in err


def test_parameters_are_saved_in_the_same_bytes(cubic, net):
    digests = set()
    for _ in range(3):
        run(cubic, "--parameters", net)
        digests.add(hashlib.sha256(Path("model/default_run/params.safetensors").read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("dotenv", "environment", "flags", "initializer", "hidden", "told"),
    [
        ("PARAMETERS={net}\nINITIALIZER=zeros\nHIDDEN_SIZE=5\n", {}, [], None, 3, ""),
        ("INITIALIZER=zeros\n", {"PARAMETERS": "{net}"}, [], None, 3, ""),
        ("", {"PARAMETERS": "{net}", "HIDDEN_SIZE": "5", "INITIALIZER": "zeros"}, [], None, 3, ""),
        ("", {"HIDDEN_SIZE": "5", "INITIALIZER": "zeros"}, ["--parameters", "{net}"], None, 3, ""),
        ("PARAMETERS={net}\n", {"INITIALIZER": "zeros"}, [], "zeros", 64, "INITIALIZER=zeros in the environment takes"),
        ("PARAMETERS={net}\n", {}, ["--initializer", "zeros"], "zeros", 64, "--initializer zeros takes the place"),
        ("", {"PARAMETERS": "{net}"}, ["--hidden-size", "64"], "ones", 64, "--hidden-size 64 takes the place"),
        ("", {"PARAMETERS": "{net}"}, ["--hidden-size", "3"], None, 3, ""),
        ("", {}, ["--parameters", "{net}", "--hidden-size", "3"], None, 3, ""),
    ],
    ids=[
        "all in .env",
        "environment over .env",
        "all in the environment",
        "flag over the environment",
        "initializer of the environment over .env",
        "initializer by flag over .env",
        "width by flag over the environment",
        "the file's own width displaces nothing",
        "the file's own width beside its flag",
    ],
)
def test_what_beats_what(cubic, net, monkeypatch, dotenv, environment, flags, initializer, hidden, told):
    Path(".env").write_text(dotenv.format(net=net))
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(net=net))
    record, err = run(cubic, *(flag.format(net=net) for flag in flags))
    assert (record["config"]["initializer"], record["config"]["hidden_size"]) == (initializer, hidden)
    assert (record["config"]["parameters"] is None) == (record["parameters_file"] is None) == (initializer is not None)
    assert told in err
    assert bool(told) == ("takes the place" in err)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--initializer", "ones"], "--parameters and --initializer"),
        (["--hidden-size", "4"], "has 3 hidden units"),
    ],
    ids=["initializer", "another width"],
)
def test_two_flags_are_a_usage_error(cubic, net, flags, said):
    _, err = run(cubic, "--parameters", net, *flags, status=2)
    assert said in err


@pytest.mark.parametrize("name", ["net.pt", "net.PTH", "net.pkl", "net.bin"])
def test_pickle_is_refused_with_the_lines_that_convert_it(cubic, name):
    status, _, err = cubic("forward", "--parameters", name)
    assert status == 2
    code = [line.strip() for line in err.splitlines() if "torch" in line and "with PyTorch" not in line]
    assert code[0] == "import torch, safetensors.torch"
    compile("\n".join(code), "told", "exec")  # can be pasted as it stands


@pytest.mark.parametrize("name", ["net", "net.npz", ""])
def test_other_endings_are_refused(cubic, name):
    status, _, err = cubic("forward", "--parameters", name)
    assert status == 2
    assert ".safetensors or .json" in err


def test_folder_of_the_original_is_refused_with_the_command_that_works(cubic):
    Path("model/exp").mkdir(parents=True)
    Path("model/exp/model.json").write_bytes((ORIGINAL / "trained.json").read_bytes())
    given = ("--dataset", DATA, "--run-name", "exp", "--initializer", "ones", "--scaling", "minmax", "--no-verify")
    status, _, err = cubic("forward", *given)
    assert status == 1
    command = shlex.split(next(line for line in err.splitlines() if line.strip().startswith("cubic ")))
    assert {"--no-verify", "--scaling"} <= set(command)
    assert cubic(*command[1:])[0] == 0
    assert json.loads(Path("model", command[-1], "run.json").read_text())["config"]["scaling"] == "minmax"
    assert [path.name for path in Path("model/exp").iterdir()] == ["model.json"]


# --- a grid of files ------------------------------------------------------------------------------------------------


def checkpoints(*paths):
    for step, path in enumerate(paths):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_file(by_name(NET._replace(b2=NET.b2 + np.float32(step))), path)


def sweep(cubic, *arguments, status=0):
    found, out, err = cubic("sweep", "--dataset", DATA, "--num-samples", 20, "--num-epochs", 2, "--json", *arguments)
    assert found == status, err
    return {row["run_name"]: row for row in json.loads(out)["runs"]} if out else err


def test_checkpoints_are_an_axis(cubic):
    checkpoints("a/net.safetensors", "b/net.safetensors")
    files = ("--parameters", "a/net.safetensors", "--parameters", "b/net.safetensors")
    rows = sweep(cubic, *files, "--scaling", "none,standard", "--run-name", "r")
    assert set(rows) == {f"r-{folder}-net.safetensors-{s}" for folder in "ab" for s in ("none", "standard")}
    assert {row["parameters"] for row in rows.values()} == {"a/net.safetensors", "b/net.safetensors"}
    assert {row["initializer"] for row in rows.values()} == {None}
    assert {row["hidden_size"] for row in rows.values()} == {3}
    alone, _ = run(cubic, "--parameters", "b/net.safetensors")
    assert rows["r-b-net.safetensors-none"]["loss"] == alone["loss"]
    status, out, _ = cubic("inspect", "--list")
    assert status == 0
    assert "net.safetensors" in out


def test_grid_keeps_a_run_while_its_file_is_the_same(cubic):
    checkpoints("a.safetensors", "b.safetensors")
    files = ("--parameters", "a.safetensors", "--parameters", "b.safetensors")
    sweep(cubic, *files)
    assert all(row["kept"] for row in sweep(cubic, *files, "--seed", 7).values())
    checkpoints("other.safetensors", "a.safetensors")
    kept = {name: row["kept"] for name, row in sweep(cubic, *files).items()}
    assert kept == {"default_run-a.safetensors": False, "default_run-b.safetensors": True}


def test_path_of_a_variable_is_one_with_its_blanks_and_commas(cubic, monkeypatch):
    checkpoints("my net, the best.safetensors")
    monkeypatch.setenv("PARAMETERS", "my net, the best.safetensors")
    rows = sweep(cubic, "--scaling", "none,standard")
    assert set(rows) == {"default_run-none", "default_run-standard"}


@pytest.mark.parametrize("axis", [("--initializer", "ones,zeros"), ("--hidden-size", "3,4"), ("--seed", "0,1")])
def test_axes_that_make_networks_do_not_go_with_files(cubic, net, axis):
    assert axis[0] in sweep(cubic, "--parameters", net, *axis, status=2)


def test_stronger_axis_displaces_a_file_of_dotenv(cubic, net):
    Path(".env").write_text(f"PARAMETERS={net}\n")
    rows = sweep(cubic, "--initializer", "ones,zeros")
    assert {row["initializer"] for row in rows.values()} == {"ones", "zeros"}


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["/c/a.json", "/c/b.json"], ["a.json", "b.json"]),
        (["/c/1/a.json", "/c/2/a.json", "/c/b.json"], ["1-a.json", "2-a.json", "b.json"]),
        (["/c/run one/a.json", "/c/run two/a.json"], ["run-one-a.json", "run-two-a.json"]),
    ],
    ids=["names", "folders", "blanks"],
)
def test_shortest_ends_tell_paths_apart(paths, labels):
    assert list(label(paths).values()) == labels


def test_names_that_are_alike_in_what_a_run_s_name_holds_are_refused():
    with pytest.raises(UsageError, match=re.escape("named 'a-b.json'")):
        label(["/c/a b.json", "/c/a-b.json"])
