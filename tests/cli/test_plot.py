import io
import json
import re
from pathlib import Path

import helpers
import numpy as np
import pytest

pytest.importorskip("matplotlib")

from cubic_cli import load_run
from cubic_cli.cli.views import plot
from cubic_cli.data.read import read_samples


@pytest.fixture
def run(cubic):
    """A run whose data hold a NaN in batch 3, scaled, so that all that can be drawn is drawn."""

    def make(*settings, rows=60):
        cubic("generate", "--n", rows)
        status, _, err = cubic("forward", "--num-samples", rows, "--num-epochs", 2, *settings)
        assert status == 0, err
        return load_run("model/default_run")

    return make


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_curves_are_those_of_the_formulas(run):
    saved = run("--initializer", "he_normal", "--scaling", "standard", "--activation", "tanh")
    fit, losses, *histograms = plot.draw(saved).axes
    lines = {line.get_label(): line.get_xydata() for line in fit.lines}
    x, y = read_samples(Path("data.csv"), 60)
    np.testing.assert_array_equal(lines["samples"], np.stack([x, y], 1))
    xs, ys = lines["the true cubic"].T
    np.testing.assert_allclose(ys, 0.01 * xs**3 - 0.5 * xs + 20)
    data, values = saved.record["dataset"], saved.parameters
    for x, y in lines["the network"][:: plot._CURVE // 7]:
        scaled = (x - data["x"]["mean"]) / data["x"]["std"]
        hidden = [np.tanh(scaled * w) for w in values["input_layer.weight"][0].astype(float)]
        z2 = sum(h * w for h, w in zip(hidden, values["output_layer.weight"][:, 0].astype(float), strict=True))
        assert y == pytest.approx(z2 * data["y"]["std"] + data["y"]["mean"])
    recorded = saved.history["loss"][:6]
    np.testing.assert_array_equal(losses.lines[0].get_ydata(), recorded)
    for axes, tensor in zip(histograms, saved.record["tensors"], strict=False):
        counts = np.array(tensor["histogram"]["counts"])
        np.testing.assert_allclose(axes.patches[0].get_data().values, counts / counts.sum())
        assert axes.get_xscale() == "symlog"
        assert axes.get_title() == tensor["label"]


def test_what_is_not_finite_is_marked(cubic, tmp_path):
    (tmp_path / "data.csv").write_text("x,y\n" + "1.5,2.5\n" * 22 + "nan,1\n" + "2,3\n" * 7)
    cubic("forward", "--num-samples", 30)
    _, losses, z1, *_ = plot.draw(load_run("model/default_run")).axes
    marks = {line.get_label(): line.get_xdata() for line in losses.lines}
    np.testing.assert_array_equal(marks["not finite (1)"], [3])
    assert "64 are not finite" in texts(z1)


def test_many_batches_become_a_band(run, monkeypatch):
    monkeypatch.setattr(plot, "_BATCHES", 4)
    saved = run("--batch-size", 5)  # twelve batches, in buckets of three
    _, axes, *_ = plot.draw(saved).axes
    loss = saved.history["loss"][:12].to_numpy().astype(float).reshape(4, 3)
    np.testing.assert_allclose(axes.lines[0].get_xydata(), np.stack([[2, 5, 8, 11], loss.mean(1)], 1))
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == loss.min()
    assert band[:, 1].max() == loss.max()


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        (1, ()),
        (3, ("--initializer", "zeros")),
        (20, ("--scaling", "minmax", "--initializer", "zeros", "--run-name", "default_run")),
        (20, ("--hidden-size", 1, "--batch-size", 100)),
    ],
)
def test_runs_at_the_edge_are_drawn(run, rows, settings):
    assert len(plot.draw(run(*settings, rows=rows)).axes) == 5


def test_a_run_without_finite_values_is_drawn(cubic, tmp_path):
    (tmp_path / "data.csv").write_text("x,y\n" + "nan,inf\n" * 3)
    cubic("forward", "--num-samples", 3)
    fit, losses, *histograms = plot.draw(load_run("model/default_run")).axes
    assert texts(fit) == ["no x is finite"]
    assert texts(losses) == ["no batch has a finite loss"]
    assert all(texts(axes)[0] == "no value is finite" for axes in histograms)


def test_other_samples_than_the_run_has_seen_are_not_shown(run, cubic):
    saved = run()
    cubic("generate", "--n", 60, "--seed", 1, "--force")
    fit = plot.draw(saved).axes[0]
    assert "has changed since the run" in " ".join(texts(fit)).replace("\n", " ")
    assert "samples" not in [line.get_label() for line in fit.lines]
    Path("data.csv").unlink()
    assert "there is no dataset" in " ".join(texts(plot.draw(saved).axes[0]))


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "PNG"])
def test_the_files_hold_the_figure(run, cubic, tmp_path, ending):
    run()
    path = tmp_path / f"a.{ending}"
    status, out, err = cubic("inspect", "default_run", "--plot", path)
    assert (status, err) == (0, f"drawn in {path}\n")
    raw = path.read_bytes()
    if ending == "svg":
        said = raw.decode()
        for text in ("default_run", "the true cubic", "Layer 2 pre-activation (z2)", "the loss of the epoch"):
            assert text in said
        assert not re.search(r"20\d\d-\d\d-\d\d", said)
    elif ending == "pdf":
        assert raw.startswith(b"%PDF")
        assert len(raw) > 5_000
    else:
        from matplotlib.image import imread

        pixels = imread(io.BytesIO(raw), format="png")
        assert pixels.shape[:2] == (1080, 1500)
        assert 0.02 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.5
    status, out, _ = cubic("inspect", "--plot", path, "--json")
    assert json.loads(out)["run_name"] == "default_run"
    assert path.read_bytes() == raw
    assert [p.name for p in tmp_path.iterdir() if "scratch" in p.name] == []


def test_what_cannot_be_drawn_or_written(run, cubic, tmp_path, monkeypatch):
    run()
    status, out, err = cubic("inspect", "--plot", "a.gif")
    assert (status, out) == (2, "")
    assert "--plot" in err
    assert "a.gif" in err
    assert ".png, .svg, .pdf" in err
    (tmp_path / "target.png").write_text("precious")
    (tmp_path / "link.png").symlink_to("target.png")
    assert cubic("inspect", "--plot", "link.png")[0] == 1
    assert (tmp_path / "target.png").read_text() == "precious"
    assert cubic("inspect", "--plot", "nowhere/a.png")[0] == 1
    monkeypatch.setattr(plot, "available", lambda: False)
    status, out, err = cubic("inspect", "--plot", "a.png")
    assert (status, out) == (1, "")
    assert "pip install matplotlib" in err


def test_a_long_name_fits(run, cubic):
    name = "a" * 100
    run()
    cubic("forward", "--num-samples", 20, "--run-name", name)
    figure = plot.draw(load_run(f"model/{name}"))
    figure.draw_without_rendering()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


@pytest.mark.process
def test_a_figure_depends_on_nothing_of_the_users(cubic, tmp_path):
    """A notebook sets MPLBACKEND for all that it starts; a matplotlibrc may ask for TeX."""
    assert cubic("generate", "--n", 20)[0] == 0
    assert cubic("forward", *helpers.QUICK, "--run-name", "a")[0] == 0
    (tmp_path / "theirs").write_text("text.usetex: True\nfont.size: 30\n")
    theirs = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "MATPLOTLIBRC": str(tmp_path / "theirs")}
    pictures = []
    for environment in ({}, theirs):
        assert helpers.outside("inspect", "a", "--plot", "a.svg", environment=environment)[0] == 0
        pictures.append((tmp_path / "a.svg").read_bytes())
    assert pictures[0] == pictures[1]
