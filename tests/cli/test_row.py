"""`inspect --row`: the arithmetic of one sample as a screen, JSON, Markdown, LaTeX and a worksheet; and `--formats`."""

import json
import math
import re
from pathlib import Path

import helpers
import numpy as np
import pytest
from safetensors.numpy import save_file

from cubic_cli.analysis.sample import find_line
from cubic_cli.parameters import by_name

X, Y = [13.5, -2.25, 0.5], [100.0, -3.0, 0.125]
NET = helpers.parameters([1.0, -0.5, 2.0], [0.5, 1.0, -3.0], [0.25, 2.0, -1.0], 0.125)


ROWS = "13.5,100\n-2.25,-3\n0.5,0.125\n"
TWENTY, TEN = ROWS * 6 + ROWS[:18], ("--batch-size", 10)  # the shape of other runs of 64 units


def make(cubic, network=NET, *arguments, rows=ROWS):
    save_file(by_name(network), "net.safetensors")
    Path("data.csv").write_text(f"x,y\n{rows}")
    given = ("--parameters", "net.safetensors", "--num-epochs", 1, "--batch-size", 2, "--activation", "relu")
    assert cubic("forward", *given, *arguments)[0] == 0


def answer(x, network=NET):
    """z1, a1 and z2 of one sample by plain loops, float64."""
    w1, b1, w2 = (np.ravel(array).astype(float) for array in network[:3])
    z1 = [float(w * x + b) for w, b in zip(w1, b1, strict=True)]
    a1 = [max(z, 0.0) for z in z1]
    return z1, a1, sum(a * w for a, w in zip(a1, w2, strict=True)) + float(network.b2[0])


@pytest.mark.parametrize("row", [1, 2, 3])
def test_json_has_every_unit_of_every_row(cubic, row):
    make(cubic, NET, "--gradients")
    status, out, _ = cubic("inspect", "--row", row, "--json")
    assert status == 0
    found = json.loads(out)
    x, y = X[row - 1], Y[row - 1]
    z1, a1, z2 = answer(x)
    assert (found["row"], found["line"], found["batch"]) == (row, row + 1, (row + 1) // 2)
    assert (found["x"], found["y"], found["z1"], found["a1"], found["z2"]) == (x, y, z1, a1, z2)  # all are exact
    assert found["error"] == z2 - y
    squares = [(answer(x)[2] - y) ** 2 for x, y in zip(X, Y, strict=True)]
    batch = squares[:2] if row < 3 else squares[2:]
    assert found["shares"]["batch"] == pytest.approx(squares[row - 1] / sum(batch), rel=1e-6)
    assert found["shares"]["epoch"] == pytest.approx(squares[row - 1] / sum(squares), rel=1e-6)
    assert found["gradients"]["output_layer.bias"] == [2 * (z2 - y)]
    assert found["gradients"]["output_layer.weight"] == [2 * (z2 - y) * a for a in a1]
    slopes = [2 * (z2 - y) * float(w) * (z > 0) for w, z in zip(NET.w2[:, 0], z1, strict=True)]
    assert found["gradients"]["input_layer.bias"] == slopes
    assert found["gradients"]["input_layer.weight"] == [slope * x for slope in slopes]


def test_no_gradients_where_the_run_has_none(cubic):
    make(cubic)
    assert json.loads(cubic("inspect", "--row", 1, "--json")[1])["gradients"] is None
    assert "∂" not in cubic("inspect", "--row", 1)[1]


def test_screen_writes_products_and_sums(cubic):
    make(cubic)
    out = cubic("inspect", "--row", 1)[1]
    for line in (
        "z1[1] = 13.5 · 1 + 0.5 = 14",
        "z1[2] = 13.5 · (−0.5) + 1 = −5.75",
        "a1[2] = relu(−5.75) = 0",
        "a1[3]·W2[3] = 24 · (−1) = −24",
        "z2 − y = −20.375 − 100 = −120.375",
        "(z2 − y)² = 14490.140625",
    ):
        assert line in out.splitlines()
    assert "z2 = −24 + 3.5 + 0 + 0.125 = −20.375" in out
    assert "line 2 of data.csv" in out


@pytest.mark.parametrize("width", [40, 80, 120])
def test_lines_fit_the_screen(cubic, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    rng = np.random.default_rng(0)
    make(cubic, helpers.parameters(*(rng.normal(size=64) for _ in range(3)), 0.1), *TEN, rows=TWENTY)
    out = cubic("inspect", "--row", 2)[1]
    assert "56 other units are left out" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= max(width, 80)
    assert "z1[64]" in cubic("inspect", "--row", 2, "--units", "all")[1]


def test_units_that_are_alike_are_written_once(cubic):
    make(cubic, helpers.parameters([1.0] * 64, 1.0, 1.0, 1.0), *TEN, rows=TWENTY)
    out = cubic("inspect", "--row", 1)[1]
    assert "z1[1] = 13.5 · 1 + 1 = 14.5  (64 units alike)" in out
    assert "64 · a1[1]·W2[1] = 64 · 14.5 · 1 = 928" in out
    assert "z1[2]" not in out


def test_worksheet_has_blanks_and_its_answers_stand_apart(cubic):
    make(cubic)
    assert cubic("inspect", "--row", 1, "--blank", "--save", "sheet.md")[0] == 0
    sheet, answers = Path("sheet.md").read_text(), Path("sheet-answers.md").read_text()
    assert "z1[1] = 13.5 · 1 + 0.5 = ____" in sheet
    for result in ("−5.75", "−20.375", "14490.140625", "−24", "= 3.5"):
        assert result in answers
        assert result not in sheet
    assert "____" not in answers


def test_latex_is_a_whole_document(cubic):
    make(cubic, NET, "--gradients", "--run-name", "a_b")
    assert cubic("inspect", "--row", 1, "--save", "row.tex")[0] == 0
    text = Path("row.tex").read_text()
    assert text.startswith(r"\documentclass{article}")
    assert text.rstrip().endswith(r"\end{document}")
    assert r"z^{(1)}_{2} = 13.5 \cdot (-0.5) + 1 = -5.75" in re.sub(r" +", " ", text)
    assert r"run a\_b" in text
    assert text.isascii()
    assert text.count("{") == text.count("}")
    begun, ended = (re.findall(rf"\\{word}{{(\w+\*?)}}", text) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended)
    assert cubic("inspect", "--save", "run.tex")[0] == 2


@pytest.mark.parametrize("row", [4, 1001])
def test_row_beyond_the_end(cubic, row):
    make(cubic)
    status, out, err = cubic("inspect", "--row", row)
    assert (status, out) == (1, "")
    assert "rows 1 to 3" in err


def test_row_of_data_that_have_changed(cubic):
    make(cubic)
    Path("data.csv").write_text("x,y\n13.5,100\n-2.25,-3\n0.5,0.25\n")
    status, out, err = cubic("inspect", "--row", 1)
    assert (status, out) == (1, "")
    assert "the dataset of run default_run has changed since" in " ".join(err.split())
    Path("data.csv").unlink()
    assert cubic("inspect", "--row", 1)[0] == 1


def test_line_counts_those_within_quotes():
    Path("data.csv").write_text('note,x,y\n"a\nb",1,2\nc,3,4\n"d ""e""\n",5,6\n')
    assert [find_line(Path("data.csv"), row) for row in (1, 2, 3)] == [2, 4, 5]


@pytest.mark.parametrize(
    "arguments",
    [("--units", 2), ("--blank",), ("--row", 1, "--formats"), ("--row", 0), ("--row", 1, "--units", "some")],
    ids=["units alone", "blank alone", "two views", "row 0", "no number of units"],
)
def test_what_no_row_can_be_asked_for_is_a_wrong_use(cubic, arguments):
    make(cubic)
    assert cubic("inspect", *arguments)[0] == 2


def test_numbers_that_are_not_finite_are_written_out(cubic):
    make(cubic, helpers.parameters([np.nan, 1.0, 1.0], 0.0, [1.0, np.inf, 1.0], 0.0), *TEN, rows=TWENTY)
    status, out, _ = cubic("inspect", "--row", 1)
    assert status == 0
    assert "relu(NaN) = NaN" in out
    assert json.loads(cubic("inspect", "--row", 1, "--json")[1])["z2"] == "NaN"


def test_what_is_left_out_may_add_up_to_no_number(cubic):
    """Under pytest a warning of NumPy's is an error."""
    network = helpers.parameters([*range(1, 63), 63, 64], 0, [1] * 60 + [np.inf, -np.inf] * 2, 0)
    make(cubic, network, *TEN, rows=TWENTY)
    status, out, err = cubic("inspect", "--row", 1, "--units", 1)
    assert (status, err) == (0, "default_run is the newest run\n")
    assert "the 63 other units together = NaN" in out


def test_formats_say_what_is_lost(cubic):
    make(cubic, helpers.parameters([1e4] * 3, 0.0, [1e-9, 1.0, 1.0], 0.0))
    document = json.loads(cubic("inspect", "--formats", "--json")[1])
    entries = {(entry["tensor"], entry["format"]): entry for entry in document["formats"]}
    assert len(entries) == 7 * 4
    # z1 reaches 135,000: float16 ends at 65,504, and half of it fits twice over.
    assert entries["z1", "float16"]["scale"] == 2.0 ** math.floor(math.log2(65504 / 135000))
    assert entries["z1", "bfloat16"]["overflow"] == 0
    assert entries["output_layer.weight", "float16"]["underflow"] == pytest.approx(1 / 3)
    status, out, _ = cubic("inspect", "--formats")
    assert status == 0
    assert re.search(r"^z1 +float16 +no +33.3%", out, re.MULTILINE)
    assert "2⁻²" in out
    assert cubic("inspect", "--formats", "--save", "formats.md")[0] == 0
    assert "| z1 | float16 | no |" in Path("formats.md").read_text()
