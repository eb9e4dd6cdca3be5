import io
import json
import re
from pathlib import Path

import helpers
import numpy as np
import pytest

from cubic_cli import forward, load_run
from cubic_cli.cli.views import plot
from cubic_cli.parameters import by_name

CORPUS = Path(__file__).parents[1] / "corpus" / "schema1"


SMALL = {"hidden_size": 3, "num_epochs": 2, "run_name": "small"}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A run of 64 drawn units over 1000 samples, in 100 batches."""
    settings = {"initializer": "he_normal", "num_epochs": 2, "run_name": "wide"}
    return forward(*helpers.samples(1000), **settings, artifact_dir=tmp_path_factory.mktemp("wide"))


def small(rows=20, **settings):
    """Return a run of three units over the noisy cubic."""
    return forward(*helpers.samples(rows), **(SMALL | settings))


@pytest.fixture
def saved(cubic):
    """A run of this folder, named default_run."""
    assert cubic("generate", "--n", 20)[0] == 0
    assert cubic("forward", *helpers.QUICK)[0] == 0
    return load_run("model/default_run")


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_panels_show_what_the_record_holds():
    saved = small(initializer="he_normal", scaling="standard", activation="tanh")
    fit, losses, *histograms = plot.draw(saved).axes
    lines = {line.get_label(): line.get_xydata() for line in fit.lines}
    rows = np.array([(sample["x"], sample["y"], sample["z2"]) for sample in saved.record["samples"]])
    rows = rows[np.argsort(rows[:, 0])]
    np.testing.assert_array_equal(lines["samples"], rows[:, :2])
    np.testing.assert_array_equal(lines["the network"], rows[:, [0, 2]])
    xs, ys = lines["the true cubic"].T
    np.testing.assert_allclose(ys, 0.01 * xs**3 - 0.5 * xs + 20)
    np.testing.assert_array_equal(losses.lines[0].get_xdata(), [1, 2])
    np.testing.assert_array_equal(losses.lines[0].get_ydata(), saved.history["loss"][:2])
    assert {line.get_label() for line in losses.lines} >= {"the epoch's mean"}
    worst = 1 + int(np.argmax(saved.history["loss"][:2]))
    assert f"the worst, batch {worst}" in {line.get_label() for line in losses.lines}
    for axes, tensor in zip(histograms, saved.record["tensors"], strict=False):
        assert axes.get_title() == tensor["label"]


def test_drawn_heights_are_those_of_numpy(wide):
    """A he_normal z1 has one hump, at 0: linear bins whose heights are the shares that NumPy counts."""
    axes = plot.draw(wide).axes[2]
    x, _ = helpers.samples(1000)
    z1 = np.outer(x, wide.parameters["input_layer.weight"][0])  # no bias
    counts, edges = np.histogram(z1, 64, (z1.min(), z1.max()))
    drawn = axes.patches[0].get_data()
    np.testing.assert_allclose(drawn.edges, edges, rtol=0, atol=1e-6 * np.abs(edges).max())
    assert np.abs(drawn.values - counts / counts.sum()).max() < 2 / z1.size * 8
    assert axes.get_xscale() == "linear"
    middle = drawn.values[24:40].sum()
    assert middle > drawn.values[:24].sum()
    assert middle > drawn.values[40:].sum()


def test_zeros_are_said_and_not_drawn(wide):
    axes = plot.draw(wide).axes[3]
    zeros = wide.record["tensors"][1]["zeros"]
    assert f"zero: {zeros:.1%}" in texts(axes)
    heights = axes.patches[0].get_data().values
    assert heights.sum() == pytest.approx(1 - zeros)
    assert heights.max() < 0.1


def test_magnitudes_of_many_decades_get_a_logarithmic_axis():
    x = 10.0 ** np.linspace(-6, 3, 1000)
    passes_x_on = by_name(helpers.parameters([1.0] * 64, 0, 1, 0))
    axes = plot.draw(forward(x, np.ones(1000), parameters=passes_x_on, run_name="decades")).axes[2]
    assert axes.get_xscale() == "symlog"
    assert axes.get_ylabel() == "share per decade"
    heights = axes.patches[0].get_data().values
    assert heights[2:-2] == pytest.approx(np.full(heights.size - 4, 1 / 9), rel=0.2)


def test_data_that_do_not_follow_the_cubic_are_drawn_without_it():
    fit = plot.draw(forward(range(20), [1, -1] * 10, **SMALL)).axes[0]
    assert {line.get_label() for line in fit.lines} == {"samples", "the network"}
    assert fit.get_title() == "samples and the network"


def test_what_is_not_finite_is_marked():
    _, losses, z1, *_ = plot.draw(forward([1.5] * 12 + [np.nan] + [2] * 7, [2.5] * 20, **SMALL)).axes
    marks = {line.get_label(): line.get_xdata() for line in losses.lines}
    np.testing.assert_array_equal(marks["not finite (1)"], [2])
    assert "not finite: 3" in texts(z1)


def test_of_many_batches_an_even_spread_is_drawn_and_the_worst():
    run = forward(*helpers.samples(helpers.MANY), hidden_size=helpers.H, num_epochs=1, run_name="many")
    _, axes, *_ = plot.draw(run).axes
    loss = run.history["loss"].to_numpy()
    drawn = axes.lines[0].get_xydata()
    assert {1, len(loss), 1 + int(np.argmax(loss))} <= set(drawn[:, 0])
    assert 1000 <= len(drawn) <= 1001
    assert max(np.diff(drawn[:, 0])) <= 5
    np.testing.assert_array_equal(drawn[:, 1], loss[drawn[:, 0].astype(int) - 1])
    assert "evenly spread" in axes.lines[0].get_label()


def test_a_figure_does_not_hang_on_the_user_s_settings(monkeypatch):
    import matplotlib

    run, ours, theirs = small(), Path("ours.svg"), Path("theirs.svg")
    plot.save(plot.draw(run), ours)
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    with matplotlib.rc_context({"text.usetex": True, "font.size": 40, "axes.facecolor": "black"}):
        plot.save(plot.draw(run), theirs)
    assert theirs.read_bytes() == ours.read_bytes()


@pytest.mark.parametrize(
    "settings",
    [{"rows": 1}, {"initializer": "zeros", "scaling": "minmax"}, {"hidden_size": 1, "batch_size": 100}],
    ids=["one sample", "zeros", "one unit, one batch"],
)
def test_runs_at_the_edge_are_drawn(settings):
    figure = plot.draw(small(**settings))
    figure.draw_without_rendering()
    assert len(figure.axes) == 5


def test_a_run_without_finite_values_is_drawn():
    fit, losses, *histograms = plot.draw(forward([np.nan] * 20, [np.inf] * 20, **SMALL)).axes
    assert texts(fit) == ["no sample is finite"]
    assert texts(losses) == ["no batch has a finite loss"]
    assert all(texts(axes)[0] == "no value is finite" for axes in histograms)


def test_the_dataset_is_not_read(saved):
    Path("data.csv").unlink()
    assert "samples" in [line.get_label() for line in plot.draw(saved).axes[0].lines]


def test_runs_of_schema_1_are_drawn_without_what_they_lack():
    fit, losses, *_ = plot.draw(load_run(CORPUS / "plain")).axes
    assert texts(fit) == ["the record has no samples"]
    assert len(losses.lines[0].get_xdata()) == 4


@pytest.mark.parametrize("ending", ["svg", "pdf", "PNG"])
def test_the_files_hold_the_figure(saved, cubic, tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    status, out, err = cubic("inspect", "default_run", "--plot", path)
    assert (status, err) == (0, f"drawn in {path}\n")
    raw = path.read_bytes()
    if ending == "svg":
        said = raw.decode()
        for text in ("default_run", "the true cubic", "Layer 2 pre-activation (z2)", "mean"):
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
    if ending == "pdf":  # of the SVG it is told above, and pixels hold no date
        status, out, _ = cubic("inspect", "--plot", path, "--json")
        assert json.loads(out)["run_name"] == "default_run"
        assert path.read_bytes() == raw
    assert [p.name for p in tmp_path.iterdir() if "scratch" in p.name] == []


def test_what_cannot_be_drawn_or_written(saved, cubic, tmp_path, monkeypatch):
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


def test_a_long_name_fits():
    figure = plot.draw(small(run_name="a" * 100))
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
