"""The page of a run, what a notebook shows of it, and the command that makes it again."""

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import helpers
import numpy as np
import pages
import pytest
import records
from safetensors.numpy import save_file

import cubic_cli
from cubic_cli.cli import again
from cubic_cli.cli.views import plot, report
from cubic_cli.runs.record import ParametersFile, Record
from cubic_cli.runs.saved import Saved, inspect_run

CORPUS = Path(__file__).parents[1] / "corpus" / "schema1"
OWN = {
    "input_layer.weight": [[1.5, -2, 1]], "input_layer.bias": [0, 1, 2],
    "output_layer.weight": [[2], [0.5], [-1]], "output_layer.bias": [3],
}  # fmt: skip
SECTIONS = ("What the numbers say", "Loss", "Tensors and parameters", "Make it again", "Where it came from")
drawn = pytest.mark.skipif(not plot.available(), reason="needs matplotlib")


def page_of(record=records.RECORD, losses=None, problems=()):
    return report.document(Saved(Path("model/fixed"), record, {}, losses, list(problems)))


def kept(cubic, *arguments):
    """Return the page of a run, checked, and its HTML."""
    assert cubic("inspect", *arguments, "--save", "out.html")[0] == 0
    html = Path("out.html").read_text(encoding="utf-8")
    return pages.check(html), html


@pytest.fixture
def undrawn(monkeypatch):
    """Pages without their figure, which takes longer than all the rest."""
    monkeypatch.setattr(plot, "available", lambda: False)


@pytest.fixture
def made(cubic):
    """Run the pass over 40 samples with more settings; returns the run."""

    def make(*settings):
        assert cubic("generate", "--n", 40)[0] == 0
        status, _, err = cubic("forward", "--num-epochs", 2, "--hidden-size", 3, *settings)
        assert status == 0, err
        return cubic_cli.load_run("model/default_run")

    return make


@drawn
def test_the_verdict_and_the_figure_come_first(cubic, made):
    made("--gradients", "--initializer", "he_normal")
    found, html = kept(cubic)
    places = [html.index(word) for word in ("Verified", '<div class="panels">', *(f">{name}<" for name in SECTIONS))]
    assert places == sorted(places)
    pictures = [svg["aria-label"] for svg in found.find("svg")]
    assert [label.split(":")[0] for label in pictures] == [
        "Samples and network", "Losses", "Histogram of z1", "Histogram of a1", "Histogram of z2",
    ]  # fmt: skip
    for text in ("the true cubic", "the network", "the worst, batch"):
        assert any(text in element["text"] for element in found.find("text"))


@pytest.mark.usefixtures("undrawn")
def test_the_tables_hold_the_record(cubic, made):
    run = made("--gradients", "--initializer", "he_normal", "--scaling", "standard")
    found, _ = kept(cubic)
    rows = {row[0]: row for row in found.rows("Tensors and parameters")}
    assert list(rows) == ["tensor", "x", "W1", "b1", "z1", "a1", "W2", "b2", "z2", "y", "loss"]
    for tensor in run.record["tensors"]:
        shown = dict(zip(rows["tensor"], rows[tensor["name"]], strict=True))
        for name in ("min", "max", "std"):
            assert float(shown[name].replace(",", "")) == pytest.approx(tensor[name], rel=1e-4)
        assert float(shown["50 %"].replace(",", "")) == pytest.approx(tensor["quantiles"]["0.5"], rel=1e-4)
    losses = {row[0]: row[1] for row in found.rows("Loss")}
    assert list(losses) == [
        "loss",
        "of the network",
        "in the data's units",
        "predicting the mean",
        "the true cubic",
        "R²",
    ]
    floor = run.record["context"]["noise_floor"]
    assert float(losses["the true cubic"].replace(",", "")) == pytest.approx(floor, rel=1e-4)
    assert len(found.rows("gradients")) == 5
    assert len(found.rows("in fewer bits")) == 1 + 4 * 7
    settings = {row[0]: row[1:] for row in found.rows("Settings")[1:]}
    assert settings["--scaling"] == ["SCALING", "standard", "flag"]
    assert settings["--batch-size"] == ["BATCH_SIZE", "10", "default"]
    said = " ".join(element["text"] for element in found.find("dd"))
    assert run.record["dataset"]["sha256"] in said
    assert f"jax {run.record['versions']['jax']}" in said
    assert {f["text"] for f in run.record["findings"]} == {
        item["text"].partition(": ")[2].partition(": ")[2] for item in found.find("li")
    }


@drawn
def test_no_word_of_a_panel_is_cut_off():
    spread = {"first": -1, "negative": [0] * 14, "positive": [50] * 2 + [0] * 10 + [1, 9]}
    z2 = records.DOCUMENT["tensors"][2] | {"exponents": spread, "histogram": {"edges": [0.5, 8000], "counts": [110]}}
    record = records.make(tensors__2=z2)
    for name, svg in plot.panels(record, records.losses()).items():
        (box,) = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
        width, height = map(float, box)
        for x, y in re.findall(r'<text [^>]*x="([\d.-]+)" y="([\d.-]+)"', svg):
            assert 6 < float(x) < width - 6, name  # half of a letter's height, of labels that are turned
            assert 6 < float(y) < height - 2, name


FAILED = {"passed": False, "failure": {
    "quantity": "z1_max", "batch": 3, "found": 2.5, "expected": math.nan, "relative_error": 1.0}}  # fmt: skip


@pytest.mark.parametrize(
    ("verification", "kind", "said"),
    [
        ({}, "good", "✓ Verified: 100 batches"),
        (None, "warning", "– Not verified: the run was made with --no-verify."),
        (FAILED, "bad", "✗ NOT VERIFIED: z1_max of batch 3 is 2.5, and numpy float64 says NaN."),
        ({"passed": False, "deterministic": False}, "bad", "The epochs differ."),
    ],
    ids=["right", "not verified", "wrong", "not deterministic"],
)
@pytest.mark.usefixtures("undrawn")
def test_the_verdict_has_a_sign_and_words(verification, kind, said):
    found = pages.check(page_of(records.make(verification=verification)))
    (verdict,) = found.find("p", class_=f"verdict {kind}")
    assert said in verdict["text"]
    assert found.elements.index(verdict) < found.elements.index(found.find("h2")[0])


# Whatever the run is


@pytest.mark.parametrize("folder", sorted(CORPUS.iterdir()), ids=lambda folder: folder.name)
def test_runs_of_schema_1(folder, request):
    if folder.name not in ("nonfinite", "scaled"):
        request.getfixturevalue("undrawn")
    found = pages.check(report.document(inspect_run(folder)))
    assert {e["text"] for e in found.find("h2")} >= set(SECTIONS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run, made once, to be copied."""
    settings = {"num_epochs": 2, "hidden_size": 3, "run_name": "default_run"}
    return cubic_cli.forward(*helpers.samples(40), **settings, artifact_dir=tmp_path_factory.mktemp("whole")).folder


@pytest.mark.parametrize("part", sorted(records.DOCUMENT.keys() - {"schema"}))
@pytest.mark.parametrize("damage", [{}, "missing"], ids=["another type", "missing"])
def test_of_a_damaged_record_the_rest_is_shown(whole, request, part, damage):
    path = Path(shutil.copytree(whole, "model/default_run")) / "run.json"
    document = json.loads(path.read_text())
    if damage == "missing":
        del document[part]
    else:
        document[part] = [1]
    if damage != "missing" or part not in ("config", "context", "dataset", "loss", "samples", "tensors"):  # as drawn
        request.getfixturevalue("undrawn")
    path.write_text(json.dumps(document))
    found = inspect_run(path.parent)
    html = report.document(found)
    page = pages.check(html)
    if part == "gradients" and damage:  # may be missing
        assert not found.problems
        return
    assert page.find("p", class_="verdict bad")[0]["text"].startswith("✗ Damaged")
    assert all(problem in html.replace("&#x27;", "'") for problem in found.problems)
    assert len(page.find("h2")) >= 2


@pytest.mark.parametrize("lost", ["history.parquet", "params.safetensors"])
def test_of_a_run_that_lacks_a_file_the_record_is_shown(cubic, made, request, lost):
    made()
    if lost == "params.safetensors":  # of which nothing is drawn
        request.getfixturevalue("undrawn")
    Path("model/default_run", lost).unlink()
    status, _, err = cubic("inspect", "--save", "out.html")
    found = pages.check(Path("out.html").read_text(encoding="utf-8"))
    assert (status, f"{lost} is missing" in err) == (1, True)
    assert {e["text"] for e in found.find("h2")} >= set(SECTIONS)


def test_of_a_run_whose_record_cannot_be_read_the_page_says_what_remains(cubic, made):
    made()
    Path("model/default_run/run.json").write_text("{")
    status, _, err = cubic("inspect", "default_run", "--save", "out.html")
    found = pages.check(Path("out.html").read_text(encoding="utf-8"))
    assert (status, "kept in out.html" in err) == (1, True)
    assert "✗ Damaged: model/default_run/run.json is damaged" in found.find("p")[0]["text"]
    assert "8 iterations in 2 epochs" in found.find("dd")[0]["text"]


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_finite_values(cubic):
    Path("data.csv").write_text("x,y\n" + "nan,inf\n" * 20)
    assert cubic("forward", *helpers.QUICK)[0] == 0
    found, _ = kept(cubic)
    rows = found.rows("Tensors and parameters")
    shown = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows}
    assert (shown["z1"]["min"], shown["z1"]["not finite"]) == ("–", "60")
    assert "error: nonfinite" in " ".join(e["text"] for e in found.find("li"))


def test_without_matplotlib_a_note_stands_for_the_figure(cubic, made, monkeypatch):
    made()
    monkeypatch.setattr(plot, "available", lambda: False)
    found, html = kept(cubic)
    assert "pip install matplotlib" in html
    assert not found.find("figure")


def test_foreign_text_is_escaped():
    evil = "\x1b]0;x\x07\u202e<script>alert(1)</script>&\"'"
    record = records.make(
        run_name=evil, created=evil, device__kind=evil, versions={evil: evil}, sources={"seed": evil},
        config__dataset=evil, config__x_column=evil, config__fail_on=[evil], dataset__path=f"/{evil}/{evil}",
        dataset__sha256=evil, verification__reference=evil,
        findings=[{"id": evil, "level": evil, "tensor": None, "value": 1.0, "limit": 2.0, "text": evil}],
        parameters__0__name=evil, tensors__0__label=evil,
    )  # fmt: skip
    html = page_of(record, records.losses(), [evil])
    pages.check(html)
    assert not set("\x1b\x07\u202e") & set(html)
    assert r"\x1b" in html


@drawn
def test_a_page_stays_small_whatever_the_run_s_size():
    many = records.make_document(
        config__num_epochs=20_000, iterations=10**9, sources={"seed": "x" * 10_000},
        epochs=[{"epoch": n, "loss": 1.0 + n / 1e9, "seconds": 0.1} for n in range(1, 20_001)],
        samples=[{"row": n, "x": math.cos(n), "y": math.sin(n), "z2": n / 7} for n in range(1, 20_001)],
        config__x_column="x" * 100_000, config__run_name="n" * 100_000, run_name="n" * 100_000, schema=2,
        findings=[{"id": "a", "level": "error", "tensor": None, "value": 1.0, "limit": 2.0, "text": "t" * 100_000}],
    )  # fmt: skip
    losses = np.random.default_rng(0).exponential(size=1_000_000).astype(np.float32)
    found = pages.check(page_of(Record.model_validate(many), losses))
    assert len(found.rows("epochs")) == 21
    assert len(found.find("figure")) == 5


@drawn
@pytest.mark.parametrize(("x", "y"), [("$x^2$", r"a $\foo$"), ("$", "\\$b$")])
def test_a_name_is_no_formula(x, y):
    record = records.make(config__x_column=x, config__y_column=y, run_name=x, tensors__0__label=y)
    shown = {e["text"] for e in pages.check(page_of(record, records.losses())).find("text")}
    assert {x, y} <= shown


def test_the_home_folder_is_not_told(cubic, made, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    made("--dataset", tmp_path / "data.csv")
    for ending in ("html", "md", "txt", "svg"):
        assert cubic("inspect", "--save", f"out.{ending}")[0] == 0
        assert str(tmp_path) not in Path(f"out.{ending}").read_text(encoding="utf-8"), ending
    assert "cubic forward --dataset ~/data.csv --hidden-size 3 --num-epochs 2" in Path("out.html").read_text()


# The command


def run_in_bash(command):
    """Run a line as a user's shell would, with `cubic` as that of this Python."""
    line = f'cubic() {{ {shlex.quote(sys.executable)} -m cubic_cli "$@"; }}; {command}'
    subprocess.run(["bash", "-c", line], check=True, capture_output=True)


def numbers(run):
    """Return what is the same of two runs."""
    record = dict(run.record)
    for name in ("created", "timing", "epochs", "sources"):
        del record[name]
    return json.dumps(record, default=str), run.history.to_dicts(), run.parameters["input_layer.weight"].tolist()


@pytest.mark.process
@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("--initializer", "he_normal", "--seed", "7", "--activation", "tanh", "--scaling", "minmax", "--gradients"),
        ("--no-verify", "--num-samples", "all", "--batch-size", "7", "--fail-on", "explodes,nonfinite"),
        (
            "--dataset",
            "$HOME 'ü\".csv",
            "--x",
            "-height; rm x",
            "--y",
            "a\x1b\\b'c",
            "--artifact-dir",
            "my runs",
        ),
        ("--parameters", "own network.safetensors"),
    ],
    ids=["defaults", "many", "off and all", "names for a shell", "parameters"],
)
def test_the_command_makes_the_run_again(cubic, settings):
    assert cubic("generate", "--n", 30)[0] == 0
    if "--x" in settings:
        text = Path("data.csv").read_text().partition("\n")[2]
        Path(settings[1]).write_text(f"{settings[3]},{settings[5]}\n{text}", encoding="utf-8")
    if "--parameters" in settings:
        save_file({name: np.array(values, np.float32) for name, values in OWN.items()}, settings[1])
    status, _, err = cubic("forward", "--run-name", "one", "--num-epochs", 2, *settings)
    assert status == ("--fail-on" in settings), err
    folder = Path(settings[-1] if "--artifact-dir" in settings else "model") / "one"
    first = cubic_cli.load_run(folder)
    before = numbers(first)
    found = pages.check(report.document(inspect_run(folder)))
    (command,) = [e["text"] for e in found.find("pre", class_="command")]
    (folder / "run.json").unlink()
    run_in_bash(command if "--fail-on" not in settings else f"{command} || true")
    assert numbers(cubic_cli.load_run(folder)) == before


def test_a_run_of_the_defaults_needs_no_flag():
    record = records.make(
        config__run_name="default_run",
        config__initializer="ones",
        config__scaling="none",
        dataset__path="/a/b/data.csv",
    )
    assert again.command(record) == "cubic forward"
    assert again.place(record) == Path("/a/b")
    assert again.place(records.make(config__dataset="sub/data.csv", dataset__path="/a/sub/data.csv")) == Path("/a")
    assert again.place(records.make(config__dataset="/a/data.csv", dataset__path="/a/data.csv")) is None
    assert again.place(records.make(config__dataset="other.csv", dataset__path="/a/data.csv")) is None


def test_the_command_has_each_setting_that_is_no_default():
    record = records.make(
        config={
            "hidden_size": 8, "batch_size": 4, "num_epochs": 3, "num_samples": "all", "seed": 7, "run_name": "a",
            "activation": "gelu", "dataset": "/a b/c.csv", "verify": False, "gradients": True, "device": "cpu",
            "fail_on": ["nonfinite", "explodes"], "x_column": "p", "artifact_dir": "it's",
        }
    )  # fmt: skip
    assert again.command(record) == (
        "cubic forward --dataset '/a b/c.csv' --x p --seed 7 --num-samples all --hidden-size 8 --initializer he_normal "
        "--activation gelu --scaling standard --batch-size 4 --num-epochs 3 --run-name a --device cpu "
        "--artifact-dir 'it'\"'\"'s' --no-verify --gradients --fail-on nonfinite,explodes"
    )


@pytest.mark.parametrize(
    ("dataset", "where"), [("sub/../data.csv", "/a/data.csv"), ("../a/data.csv", "/a/data.csv"), ("/b.csv", "/b.csv")]
)
def test_where_the_folder_of_the_command_is_not_known_its_files_are_absolute(dataset, where):
    network = ParametersFile(path="/a/net.json", sha256="0" * 64, dtype="float32")
    record = records.make(config__dataset=dataset, config__parameters="net.json", dataset__path=where)
    record = record.model_copy(update={"parameters_file": network})
    words = shlex.split(again.command(record))
    assert [words[words.index(flag) + 1] for flag in ("--dataset", "--parameters")] == [where, "/a/net.json"]


@pytest.mark.usefixtures("undrawn")
def test_samples_and_parameters_from_arrays(cubic):
    x, y = np.arange(20.0), np.arange(20.0) ** 2
    run = cubic_cli.forward(x, y, parameters=OWN, num_epochs=2, run_name="arrays")
    found = pages.check(report.document(inspect_run(run.folder)))
    (line,) = [e["text"] for e in found.find("pre", class_="command")]
    parameters = "model/arrays/params.safetensors"
    assert line == f"cubic_cli.forward(x, y, parameters='{parameters}', num_epochs=2, run_name='arrays')"
    assert "the parameters" in [e["text"] for e in found.find("td")]
    status, out, _ = cubic("inspect", "arrays")
    assert status == 0
    assert "settings     num_epochs=2 (argument), run_name=arrays (argument)\n" in out
    other = eval(line, {"cubic_cli": cubic_cli, "x": x, "y": y})
    assert other.record["loss"] == run.record["loss"]
    assert "arrays" in [e["text"] for e in found.find("dd")]


# A notebook


def test_a_notebook_shows_a_run_in_its_own_colours(made):
    html = made("--initializer", "he_normal")._repr_html_()
    found = pages.check(html)
    assert "✓ Verified" in found.find("p", class_="verdict good")[0]["text"]
    assert [row[0] for row in found.rows("Tensors and parameters")][:5] == ["tensor", "x", "W1", "b1", "z1"]
    assert [e["text"] for e in found.find("h2")] == ["What the numbers say", "Loss", "Tensors and parameters"]
    assert not re.search("#[0-9a-f]{3}", html)
    rules = re.findall(r"^[.@\w][^{]*", found.find("style")[0]["text"], re.M)
    assert all(rule.startswith((".cubic", "@media")) for rule in rules)
    assert len(html) < 20_000


def test_a_notebook_shows_a_run_that_is_not_saved():
    run = cubic_cli.forward([1.0, np.nan] * 10, [1.0, 2.0] * 10, hidden_size=3)
    found = pages.check(run._repr_html_())
    assert "not saved" in found.find("p")[0]["text"]
    assert "error: nonfinite" in " ".join(e["text"] for e in found.find("li"))
