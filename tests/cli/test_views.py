import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pages
import pytest
import records
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from cubic_cli.analysis import compare, findings, shape
from cubic_cli.analysis.iteration import Check, Values
from cubic_cli.cli.encoding import legible
from cubic_cli.cli.views import blocks, format, listing, save
from cubic_cli.cli.views import compare as compare_view
from cubic_cli.cli.views import iteration as iteration_view
from cubic_cli.cli.views import run as run_view
from cubic_cli.config import Activation
from cubic_cli.data.problem import cubic
from cubic_cli.data.source import spread_indices
from cubic_cli.errors import shorten
from cubic_cli.runs import damage
from cubic_cli.runs.record import Record, Tensor
from cubic_cli.runs.store import load_record

WIDTHS = [80, 160]
GRADIENTS = {
    "parameters": [
        {"name": "input_layer.weight", "shape": [1, 64], "norm": 12.5, "min": -3.0, "max": 4.5, "step_ratio": 0.25},
        {"name": "output_layer.bias", "shape": [1], "norm": 1.5, "min": 1.5, "max": 1.5, "step_ratio": None},
    ],
    "learning_rate": 0.01,
    "largest_learning_rate": 0.015625,
}


def exploding():
    """A run in which much goes wrong."""
    document = records.make_document(
        config__initializer="ones",
        config__scaling="none",
        loss=9194226.0,
        loss_in_data_units=9194226.0,
        tensors=[
            records.tensor("z1", [10, 64], -98.5, 100.75, -0.25, 58.5),
            records.tensor("a1", [10, 64], 0.0, 100.75, 25.25, 32.5, 0.498),
            records.tensor("z2", [10, 1], 1.0, 6461.0, 1613.25, 2074.0),
            records.tensor("loss", [1], 922024.8, 25832706.0, 9194226.18, 6015491.5),
        ],
        units={"distinct": 1, "rank": 1},
        context={"target_variance": 14933107.0, "r_squared": 0.384, "noise_floor": 98.889},
        verification={"passed": False, "deterministic": False},
        gradients=GRADIENTS,
    )
    document["epochs"] = [{"epoch": e, "loss": 9194226.0 + e % 2, "seconds": 0.002} for e in range(1, 31)]
    x = np.linspace(-98.5, 99.75, 50)
    rows = zip(x, cubic(x), 64 * np.maximum(x + 1, 0) + 1, strict=True)
    document["samples"] = [{"row": 20 * i + 1, "x": a, "y": b, "z2": c} for i, (a, b, c) in enumerate(rows)]
    document["tensors"][2] |= {"nonfinite": 12, "nan": 10, "posinf": 2}
    document["first_nonfinite"] = {"tensor": "z2", "epoch": 1, "batch": 7, "row": 63, "cause": "overflow"}
    record = Record.model_validate(document)
    return record.model_copy(update={"findings": findings.find(record)})


def text(screen, width):
    return blocks.layout(screen, width).plain


def values(batch=10, hidden=64, activation=Activation.tanh, **changes):
    x = np.linspace(-2, 2, batch)
    z1 = np.outer(x, np.linspace(-1, 1, hidden))
    z2 = np.tanh(z1).sum(axis=1)
    shown = spread_indices(batch, 20)
    z1 = z1[shown]
    check = Check(1.25e-7, "loss", 1e-5)
    rows = np.arange(31, 31 + batch)
    given = {"identified": True} | changes
    return Values(rows, x, 0.5 * x, z2, shown, z1, np.tanh(z1), activation, batch, check, **given)


DOCUMENT = {
    "run_name": "fixed",
    "epoch": 2,
    "batch": 4,
    "tensors": [
        {"name": "z1", "shape": [10, 64], "min": -81.228, "max": 67.615},
        {"name": "a1", "shape": [10, 64], "min": 0.0, "max": 67.615},
        {"name": "z2", "shape": [10, 1], "min": 1.0, "max": 4328.36},
        {"name": "loss", "shape": [1], "min": 2018853.4, "max": 2018853.4},
    ],
}
LABELS = {tensor.name: tensor.label for tensor in records.RECORD.tensors}


def rows(count=3, name="run{}"):
    made = [
        {
            "run_name": name.format(i), "created": "2026-11-23T08:00:00Z",
            "loss": 0.5 + i, "loss_in_data_units": 10.0 ** (i % 9) + i,
            "hidden_size": 64, "batch_size": 10, "num_epochs": 10, "initializer": "glorot_uniform",
            "activation": "leaky_relu", "scaling": "standard", "seed": i, "num_samples": 1000,
            "r_squared": -(10.0 ** (i % 5)), "device": "cpu", "verified": [True, False, None][i % 3],
        }
        for i in range(count)
    ]  # fmt: skip
    return [*made, {"run_name": "broken", "damaged": "run.json is damaged: loss is 'x'"}]


def other(index):
    """A run with a long name whose z1 is wider and whose other tensors are as in the record."""
    wide = records.tensor("z1", [10, 64], -5.25 * 10**index, 5.125 * 10**index, 0.01, 1.5 * 10**index)
    return records.make(run_name="n" * 99 + str(index), tensors__0=wide, config__seed=index)


def compared(width, *runs, tolerance=None):
    """Return the screen of the first run against the others."""
    return compare_view.screen(compare.document(runs[0], list(runs[1:]), tolerance), runs, width)


def screens(width):
    """Every screen there is."""
    return {
        "run": run_view.screen(records.RECORD, records.losses(), width),
        "exploding": run_view.screen(exploding(), records.losses() * np.where(np.arange(100) == 5, np.nan, 1), width),
        "iteration": iteration_view.screen(DOCUMENT, LABELS, width, values(), ""),
        "large iteration": iteration_view.screen(DOCUMENT, LABELS, width, values(1000, 4096, Activation.relu), ""),
        "without values": iteration_view.screen(DOCUMENT, LABELS, width, None, "there is no dataset data.csv"),
        "list": listing.screen(rows(), width),
        "compare": compared(width, exploding(), records.RECORD, tolerance=0.5),
        "compare several": compared(width, records.RECORD, exploding(), *(other(i) for i in range(3))),
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", list(screens(80)))
def test_the_screens(snapshot, name, width):
    assert text(screens(width)[name], width) == snapshot


@pytest.mark.parametrize("name", list(screens(80)))
def test_the_screens_as_markdown(snapshot, name):
    assert blocks.markdown(screens(120)[name]) == snapshot


@pytest.mark.parametrize("width", [60, 72, 80, 100, 120, 160, 200])
def test_no_line_is_wider_than_the_screen_or_ends_in_spaces(width):
    for name, screen in screens(width).items():
        if width < 80 and name not in ("run", "exploding", "list", "compare", "compare several"):
            continue  # the original's words are what they are
        for line in text(screen, width).splitlines():
            assert cell_len(line) <= width, (name, line)
            assert line == line.rstrip()


@pytest.mark.parametrize("hidden", [1, 4, 40, 64])
def test_a_heat_map_and_its_title_fit_beside_the_samples_or_stand_below(hidden):
    shown = values(10, hidden, Activation.relu)
    for width in range(80, 130):
        for line in text(iteration_view.screen(DOCUMENT, LABELS, width, shown, ""), width).splitlines():
            assert cell_len(line) <= width, line


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


@given(st.lists(FINITE, min_size=4, max_size=4), st.integers(20, 200))
def test_a_number_is_whole_or_its_column_is_left_out(numbers, width):
    low, high, mean, std = (float(str(np.float32(n))) for n in sorted(numbers))
    record = records.make(tensors__2={"min": low, "max": high, "mean": mean, "std": std})
    grid = next(b for b in run_view.screen(record, None, width) if isinstance(b, blocks.Grid))
    lines = text([grid], width).splitlines()
    row = next(line for line in lines if line.startswith("z2")).split()
    assert format.number(low) in row
    assert format.number(high) in row
    assert "…" not in "".join(lines)
    shown = [column.name for column in blocks.fit(grid, width).columns]
    for name, said in (("mean", format.mean(mean, low, high)), ("std", format.number(std))):
        assert (name in shown) == (name in lines[0].split())
        assert name not in shown or said in row


def test_columns_are_left_out_in_the_stated_order():
    grid = next(b for b in run_view.screen(records.RECORD, None, 160) if isinstance(b, blocks.Grid))
    gone = []
    for width in range(300, 10, -1):
        shown = {column.name for column in blocks.fit(grid, width).columns}
        gone += [c.name for c in grid.columns if c.name not in shown and c.name not in gone]
    order = [name for names in grid.drop for name in ((names,) if isinstance(names, str) else names)]
    there = {column.name for column in grid.columns}  # records of schema 1 tell neither bytes nor FLOPs
    assert gone == [name for name in order if name in there]
    assert order[:2] == ["not finite", "equation"]
    grid = next(b for b in run_view.screen(exploding(), None, 160) if isinstance(b, blocks.Grid))
    assert "not finite" in [column.name for column in blocks.fit(grid, 20).columns]


def test_the_parameters_are_rows_in_the_order_of_the_flow_with_what_they_cost():
    # A product, a sum, an activation is one operation; three of the loss a sample.
    flops = {"z1": 1280, "a1": 640, "z2": 1280, "loss": 30}
    tensors = [t | {"bytes": 4 * math.prod(t["shape"]), "flops": flops[t["name"]]} for t in records.DOCUMENT["tensors"]]
    parameters = [entry | {"bytes": 4 * entry["count"]} for entry in records.DOCUMENT["parameters"]]
    shown = text(run_view.screen(records.make(tensors=tensors, parameters=parameters), None, 200), 200)
    table = shown[shown.index("tensor ") :].splitlines()
    assert [row.split()[0] for row in table[1:11]] == ["x", "W1", "b1", "z1", "a1", "W2", "b2", "z2", "y", "loss"]
    assert "[10, 64]  2,560  1,280" in table[4]
    assert "193 parameters of float32, 772 bytes" in shown
    assert "3,200 FLOPs, 5.16 kB of activations" in shown.replace(format.GLUE, " ")


def test_what_is_not_finite_in_the_data_is_counted_in_their_rows():
    document = records.make_document(dataset__x={"nan": 2, "neginf": 1}, schema=2)
    shown = text(run_view.screen(Record.model_validate(document), None, 120), 120)
    (row,) = (line for line in shown.splitlines() if line.startswith("x  "))
    assert " 3 " in row
    assert "not finite" in shown


@pytest.mark.parametrize("width", WIDTHS)
def test_the_loss_stands_beside_what_it_is_held_against(width):
    record = records.make(context={"target_variance": 1.75, "r_squared": 0.5, "noise_floor": 0.25})
    said = " ".join(text(run_view.screen(record, None, width), width).split())
    for words in ("loss", "0.875", "predicting the mean 1.75", "the true cubic 0.25", "R² 0.500"):
        assert words in said
    lines = text(run_view.screen(record, None, 160), 160).splitlines()
    bars = {line.split()[0]: line.count("█") for line in lines if line.startswith(("of the", "pred", "the true"))}
    assert bars == {"of": 25, "predicting": 50, "the": round(50 / 7)}


def test_the_loss_of_data_that_follow_no_cubic_does_not_speak_of_it():
    nan = {"loss": math.nan, "loss_in_data_units": math.nan}
    record = records.make(context={"noise_floor": None}, **nan)
    for width in WIDTHS:
        said = text(run_view.screen(record, None, width), width)
        assert "true cubic" not in said
        assert said.count("NaN") == 1


def test_a_part_that_is_broken_is_left_out_and_the_rest_is_there():
    whole = text(run_view.screen(records.RECORD, None, 100), 100)
    record, _ = damage.parse(records.DOCUMENT | {"tensors": [], "timing": {}})
    some = text(run_view.screen(record, None, 100), 100)
    assert "speed" in whole
    assert "speed" not in some
    assert "verified" in some


def test_wrapping_loses_no_word_and_parts_what_is_glued_only_where_it_is_too_wide():
    words = [f"a{format.GLUE}b", "ccc", "d" * 30, "e"]
    for width in range(1, 50):
        lines = [line.plain for line in blocks.wrap(Text(" ".join(words)), width)]
        assert " ".join(lines).split(" ") == (words if width >= 3 else ["a", "b", *words[1:]])
        assert all(len(line) <= width or " " not in line for line in lines)


@pytest.mark.parametrize("width", [40, 44, 48, 52])
def test_a_narrow_screen_has_room_for_what_is_needed_most(width):
    for name in ("run", "exploding", "list"):
        for line in text(screens(width)[name], width).splitlines():
            assert cell_len(line) <= width, (name, line)
    assert "verified" in text(screens(width)["list"], width)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_runs_side_by_side_are_whole_on_the_narrowest_screen(encoding):
    """Where a table of two has no room, every value and every change is in a sentence."""
    long = records.make(
        run_name="n" * 99,
        loss=1.234567e30,
        config__parameters="of/" + "p" * 99,
        config__initializer="glorot_uniform",
        config__x_column="the length of it in metres",
        dataset__sha256="e" * 64,
        tensors__2=records.tensor("z2", [10, 1], -3.4e38, 3.4e38, -1e33, 2e37),
    )
    for runs in ((records.RECORD, long), (long, records.RECORD, exploding(), other(1))):
        for width in range(20, 81):
            said = blocks.layout(compared(width, *runs, tolerance=0.5), width, encoding).plain
            for line in said.splitlines():
                assert cell_len(line) <= width, line
            words = said.replace("(", " ").replace(")", " ").replace(",", " ").split()
            for needed in ("glorot_uniform" if width >= 32 else "glo", "1.2346e+30"):
                assert any(word.startswith(needed) for word in words), (width, needed)


def test_the_page_of_runs_side_by_side_has_a_cell_for_each_value_and_each_change():
    runs = [exploding(), records.RECORD, other(1)]
    html = compare_view.as_page(compare.document(runs[0], runs[1:], 0.5), runs)
    found = pages.check(html)
    head, first = found.rows("Figures that differ")[:2]
    names = [shorten(run.run_name, 24) for run in runs]
    assert head == ["figure", names[0], names[1], "change", names[2], "change"]
    assert first[:3] == ["loss", *(format.number(run.loss) for run in runs[:2])]
    assert all(re.fullmatch(r"[+-].*%|=|×.*|", cell) for cell in (first[3], first[5]))
    assert found.rows("Settings that differ")[0] == ["setting", *names]
    assert [row[0][:2] for row in found.rows("Histograms")[1:]] == ["z1", "a1", "z2"]
    assert len(found.find("td", class_="picture")) == 9
    said = [e["text"] for kind in ("bad", "good") for e in found.find("p", class_=f"verdict {kind}")]
    assert {text.split()[1] for text in said} == {run.run_name for run in runs[1:]}


def test_braille_has_a_place_for_each_cell_in_a_picture(tmp_path):
    """A viewer may find braille in another font alone, in which it is wider."""
    picture = blocks.Picture("fit", [Text.assemble("9 │", ("⠉⠑ ⢀", "green"), ("⣀", "red"), " y")], ())
    save.save(path := tmp_path / "a.svg", lambda width: [picture], 80, "a")
    texts = [
        "".join(element.itertext()) for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    ]
    assert [text for text in texts if re.search("[⠁-⣿]", text)] == ["⠉", "⠑", "⢀", "⣀"]


def test_the_axis_is_common_and_growth_is_seen():
    axis = format.common_axis([100.0, 6461.0, math.inf], 41)
    assert (axis.limit, axis.width) == (1e4, 41)
    assert [axis.cell(v) for v in (-1e9, -1e4, 0, 1e4)] == [0, 0, 20, 40]
    cells = [axis.cell(v) for v in np.linspace(-2e4, 2e4, 999)]
    assert cells == sorted(cells)
    small, large = (format.bar(axis, -v, v, None).count("━") for v in (100.0, 6461.0))
    assert small < large
    assert axis.header().startswith("−1e4")
    assert len(axis.header()) == len(format.bar(axis, None, None, None)) == 41


@given(FINITE, FINITE, st.integers(5, 81))
def test_a_bar_spans_from_the_smallest_to_the_largest(a, b, width):
    low, high = sorted((a, b))
    entry = Tensor.model_validate(records.tensor("z1", [1], low, high, 0.0, 0.0))
    axis = format.common_axis([abs(low), abs(high)], width)
    ends = axis.cell(low), axis.cell(high)
    marks = [i for i, mark in enumerate(format.bar(axis, low, high, None)) if mark not in " ┊"]
    assert (marks[0], marks[-1]) == ends
    drawn = format.bar(axis, low, high, shape.share(entry, axis.edges))
    marks = [i for i, mark in enumerate(drawn) if mark not in " ┊"]
    assert all(ends[0] <= mark <= ends[1] for mark in marks)
    assert {end for end, value in zip(ends, (low, high), strict=True) if value} <= set(marks)


def test_the_heights_of_a_bar_are_the_shares_of_its_cells():
    axis = format.Axis(100.0, 10.0, 9)
    share = np.array([0, 0.01, 0.1, 0.2, 0, 0.4, 0.29, 0, 0])
    assert format.bar(axis, -30.0, 20.0, share) == " ▁▂▄┊█▆  "
    cells = np.searchsorted(axis.edges, values := np.linspace(-100, 100, 999)) - 1
    assert cells.tolist() == [axis.cell(value) for value in values]


def test_a_sparkline_keeps_the_spike_and_marks_what_is_not_finite():
    losses = np.ones(1000, np.float32)
    losses[500], losses[700] = 9, np.inf
    some, each = format.buckets(losses, 50)
    line = format.sparkline(some)
    assert (len(line), each) == (50, 20)
    assert [i for i, mark in enumerate(line) if mark == "█"] == [500 // 20]
    assert [i for i, mark in enumerate(line) if mark == format.NO_NUMBER] == [700 // 20]
    assert set(format.sparkline(np.full(5, 3.0))) == {"▄"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (math.nan, "NaN"),
        (-math.inf, "−∞"),
        (-0.0, "0"),
        (4328.36, "4,328.4"),
        (9194226.0, "9,194,200"),
        (98.889, "98.889"),
        (64.0, "64"),
        (1234567.0, "1,234,600"),
        (-0.5, "-0.5"),
        (100000.0, "100,000"),
        (1e-4, "0.0001"),
        (0.000123456, "0.00012346"),
        (9.9999e-5, "9.9999e-05"),
        (9.99999e-5, "0.0001"),
        (999_994_999.0, "999,990,000"),
        (999_995_001.0, "1e+09"),
        (1.25e9, "1.25e+09"),
        (3.4028235e38, "3.4028e+38"),
    ],
)
def test_numbers(value, shown):
    assert format.number(value) == shown


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_has_five_digits_and_says_what_it_is(value):
    shown = format.number(value)
    digits = re.sub(r"e.*|[-.,]", "", shown).strip("0")
    assert len(digits) <= 5
    assert float(shown.replace(",", "")) == float(f"{value:.4e}")
    assert ("e" in shown) == (value != 0 and not 1e-4 <= abs(float(f"{value:.4e}")) < 1e9)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(4328.36, "4328.360"), (-0.0, "0.000"), (1e9, "1e+09"), (1e-4, "0.0001"), (-81.228, "-81.228")],
)
def test_the_lines_of_an_iteration_have_three_decimals(value, shown):
    assert format.three_decimals(value) == shown


def test_a_mean_below_the_rounding_of_its_tensor_is_0():
    assert format.mean(1e-6, -100.0, 90.0) == "0"
    assert format.mean(1e-5, -100.0, 90.0) == "1e-05"
    assert format.mean(1e-6, -1.0, 1.0) == "1e-06"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.38412, "0.384"),
        (-1e-9, "0.000"),
        (-53.25, "-53.250"),
        (-53250.25, "-53,250.250"),
        (-1.5e12, "-1.500e+12"),
        (None, "–"),
    ],
)
def test_r_squared(value, shown):
    assert format.r_squared(value) == shown


def test_shares_are_none_or_all_only_if_they_are():
    shown = {s: format.percent(s) for s in (0.0, 1e-9, 0.4985, 1 - 1e-9, 1.0)}
    assert list(shown.values()) == ["0.0%", "<0.1%", "49.9%", ">99.9%", "100.0%"]


def line_of(screen, label, width=160):
    """Return what follows a label on its line of a screen, one entry a column."""
    line = next(line for line in text(screen, width).splitlines() if line.startswith(label + "  "))
    return re.split("  +", line.removeprefix(label).strip())


@pytest.mark.parametrize(
    ("this", "that", "said"),
    [
        (2.0, 3.0, "+50.0%"),
        (2.0, 1.0, "-50.0%"),
        (2.0, 2.0002, "+0.010%"),
        (2.0, 2.000002, "+1.0e-06"),
        (2.0, 46.0, "× 23"),
        (2.0, 4e38, "× 2e+38"),
        (2.0, math.nan, None),
        (math.inf, 2.0, None),
        (0.0, 2.0, None),
    ],
)
def test_the_change_of_a_loss_is_signed_and_against_the_first_run(this, that, said):
    runs = [records.make(loss=loss, config__scaling="none") for loss in (this, that)]
    shown = line_of(compared(160, *runs), "loss")
    assert shown == [format.number(this), format.number(that), *([said] if said else [])]


def test_a_change_of_an_end_is_held_against_its_tensor_and_one_of_r_squared_is_a_difference():
    changed = records.make(tensors__2={"min": -0.375}, context__r_squared=-0.25)  # z2 reaches 2.25
    screen = compared(160, records.RECORD, changed)
    assert line_of(screen, "z2 min") == ["-1.5", "-0.375", "+50.0%"]
    assert line_of(screen, "R²") == ["0.125", "-0.250", "-0.375"]


def test_losses_of_different_scalings_are_not_compared_but_in_the_units_of_the_data():
    changed = records.make(loss=8.75, loss_in_data_units=6317500.0, config__scaling="none")
    screen = compared(160, records.RECORD, changed)
    assert line_of(screen, "loss") == ["0.875", "8.75"]
    assert line_of(screen, "loss in data units") == ["12,635,000", "6,317,500", "-50.0%"]


def test_what_is_equal_is_one_line_and_what_differs_in_the_settings_stands_first():
    changed = records.make(config__seed=7, device__kind="other", tensors__0={"std": 3.0})
    lines = text(compared(80, records.RECORD, changed), 80).splitlines()
    assert [line.split()[0] for line in lines[3:5]] == ["seed", "device"]
    equal = " ".join(" ".join(lines).split("equal  ")[1].split())
    losses = "loss, loss in data units, R²"
    assert equal == f"12 settings, dataset, versions, {losses}, z1 (min, max, mean), a1, z2, batch loss"
    assert not [line for line in lines if line.startswith(("a1", "z2", "loss"))]
    same = " ".join(text(compared(80, records.RECORD, records.RECORD), 80).split())
    assert same.endswith(f"equal all settings, dataset, device, versions, {losses}, z1, a1, z2, batch loss")


def test_counts_of_what_is_not_finite_stand_where_there_are_some():
    changed = records.make(tensors__0={"nonfinite": 3, "nan": 2, "neginf": 1})
    screen = compared(160, records.RECORD, changed)
    assert line_of(screen, "z1 NaN") == ["0", "2", "+2"]
    assert line_of(screen, "z1 −∞") == ["0", "1", "+1"]
    assert "+∞" not in text(screen, 160)


def test_of_more_runs_than_fit_each_table_has_the_first():
    runs = [records.RECORD, *(other(i) for i in range(1, 6))]
    shown = text(compared(80, *runs), 80)
    heads = [line.split() for line in shown.splitlines() if line.split()[:1] == ["fixed"] and "against" not in line]
    assert len(heads) > 1
    assert [name[-1] for head in heads for name in head[1:]] == list("12345")


CORPUS = sorted((Path(__file__).parents[1] / "corpus" / "schema1").iterdir())


@pytest.mark.parametrize("folder", CORPUS, ids=lambda folder: folder.name)
def test_runs_of_schema_1_are_compared(folder):
    runs = [load_record(folder), records.RECORD]
    for pair in (runs, runs[::-1]):
        shown = text(compared(80, *pair), 80)
        assert format.number(runs[0].loss) in shown
        assert max(map(cell_len, shown.splitlines())) <= 80


def test_the_histograms_of_a_tensor_share_one_axis():
    screen = compared(160, *(other(i) for i in range(3)))
    line = next(line for line in text(screen, 160).splitlines() if line.startswith("z1 on ±1,000  "))
    bars = re.findall("[▁-█]+", line.removeprefix("z1 on ±1,000"))
    assert len(bars) == 3
    assert len(bars[0]) < len(bars[1]) < len(bars[2])


def test_a_figure_beyond_the_tolerance_is_bad():
    changed = records.make(tensors__0={"std": 3.0})
    for tolerance, expected in ((0.6, False), (0.4, True)):
        cells = painted(compared(80, records.RECORD, changed, tolerance=tolerance))
        shown = "".join(glyph for glyph, _ in cells)
        at = shown.index("+100.0%")
        assert (cells[at][1].color is not None) == expected
        assert ("NO, beyond 0.4, relatively: z1.std" in shown) == expected


def painted(screen, width=80):
    """Return each cell of a screen: its glyph and the style that it has."""
    text = blocks.layout(screen, width)
    return [(text.plain[at], text.get_style_at_offset(CONSOLE, at)) for at in range(len(text.plain))]


CONSOLE = Console(color_system="truecolor")


@pytest.mark.parametrize("activation", [Activation.tanh, Activation.relu], ids=str)
def test_a_heat_map_is_blue_below_zero_and_red_above_and_its_glyphs_are_seen_without_colour_alone(activation):
    shown = values(9, activation=activation)
    cells = painted(iteration_view.screen(DOCUMENT, LABELS, 80, shown, ""))
    blocks_ = [(glyph, style) for glyph, style in cells if style.bgcolor and glyph != "·"][: 8 * 64]
    units = shown.z1 if activation is Activation.relu else shown.a1
    for (glyph, style), value in zip(blocks_, np.delete(units, 4, axis=0).ravel(), strict=True):
        red, _, blue = style.bgcolor.triplet
        assert (glyph in "=-", blue > red) == (value < 0, value < 0)
        assert style.color == style.bgcolor
    assert len([1 for glyph, style in cells if glyph == "·" and style.color != style.bgcolor]) == 64 + 1


def test_the_units_of_the_default_fit_80_columns_and_what_is_not_finite_is_seen():
    shown = values()
    shown.a1[3, 5] = np.nan
    cells = painted(iteration_view.screen(DOCUMENT, LABELS, 80, shown, ""))
    assert "".join(glyph for glyph, _ in cells).count("a1 of all units") == 1
    lost = [style for glyph, style in cells if glyph == "?"]
    assert len(lost) == 2  # the cell, and the legend's
    assert all(style.color != style.bgcolor for style in lost)


def test_of_a_large_batch_json_has_the_first_1000_samples_as_the_network_has_them():
    samples = values(1500, 3).samples()
    assert [sample["row"] for sample in samples] == list(range(31, 1031))
    for name in ("x", "y", "z2", "error"):
        assert all(float(str(np.float32(sample[name]))) == sample[name] for sample in samples)
    assert all(sample["error"] == float(str(np.float32(sample["z2"]) - np.float32(sample["y"]))) for sample in samples)


def test_500_runs_with_long_names_at_80_columns():
    found = rows(500, "a-very-long-beginning-that-all-the-names-share-and-then-an-end-that-differs-{}")
    lines = text(listing.screen(found, 80), 80).splitlines()
    assert len(lines) == 1 + 500 + 3 + 1 + 1  # the head, the runs, a note of three lines
    assert max(map(cell_len, lines)) <= 80
    assert len({line.split()[0] for line in lines[1:501]}) == 500
    assert all(
        format.number(row["loss_in_data_units"]) in line for row, line in zip(found[:500], lines[1:], strict=False)
    )
    assert "damaged" in lines[-1]


@pytest.mark.parametrize("width", [48, 52, 60, 72, 80, 100, 120, 160])
def test_a_list_keeps_the_loss_its_fit_and_the_verdict_at_any_width(width):
    found = rows(6, "a-long-name-of-a-run-{}-" + "x" * 60)[:6]
    for encoding in ("utf-8", "ascii"):
        head, *lines = blocks.layout(listing.screen(found, width), width, encoding).plain.splitlines()[:7]
        assert re.search(r"^run .* loss +R\S+ +verified$", head)
        assert [line.split()[-1] for line in lines] == ["yes", "NO", legible("–", encoding)] * 2
        assert all(format.number(row["loss_in_data_units"]) in line for row, line in zip(found, lines, strict=True))
        assert max(map(cell_len, [head, *lines])) <= width


def test_what_all_runs_share_is_said_once_and_what_has_no_room_is_named():
    found = rows(3)[:3]
    found[1]["hidden_size"] = 16
    head, *_, note = text(listing.screen(found, 160), 160).splitlines()
    assert note == (
        "in all runs: created 2026-11-23 08:00:00, B 10, epochs 10, samples 1,000, initializer glorot_uniform, "
        "activation leaky_relu, scaling standard, device cpu"
    ).replace("created 2026-11-23 08:00:00, ", "")
    assert head.split() == ["run", "created", "H", "seed", "loss", "R²", "verified"]
    narrow = text(listing.screen(found, 60), 60)
    assert "no room for created" in narrow
    assert "in all runs" not in text(listing.screen(found[:1], 160), 160)


def test_markdown_tables_are_tables():
    for name, screen in screens(120).items():
        tables = re.findall(r"(?:^\|.*\n)+", blocks.markdown(screen), re.MULTILINE)
        assert bool(tables) == (name != "without values")
        for table in tables:
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


HOSTILE = "".join(map(chr, [0, 7, 9, 10, 13, 27, 127, 0x9B, 0x202E, 0x2028, 0xFEFF, 0xFFFE, 0xDCFF, 0xD800])) + "<b>&|`"
FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\u2066-\u2069\ufeff\ufffe\ud800-\udfff]")


def hostile_blocks(text=HOSTILE):
    """Each kind of block with foreign text in each of its places."""
    return [
        blocks.Heading(text, Text(text)),
        blocks.Facts([(text, Text.assemble((text, "bold"), " and ", (text, "red")))]),
        blocks.Grid(text, [blocks.Column(text), blocks.Column("b")], [[text, Text(text, "red")]], note=text),
        blocks.Bullets(text, [blocks.Bullet(text, text, "warning")]),
        blocks.Lines([text]),
    ]


@pytest.mark.parametrize("block", hostile_blocks(), ids=lambda block: type(block).__name__)
def test_foreign_text_is_escaped_on_every_screen_and_page(block, tmp_path):
    plain, marked = text([block], 400), blocks.markdown([block])
    for shown in (plain, marked):
        assert not FORBIDDEN.search(shown)
        assert r"\x1b" in shown.replace("\\\\", "\\")
    assert "<b>" not in marked.split("```")[0]
    for ending in save.ENDINGS:
        save.save(path := tmp_path / f"screen{ending}", lambda width: [block], 400, f"cubic {HOSTILE}")
        shown = path.read_text(encoding="utf-8")
        assert not FORBIDDEN.search(shown)
        if ending == ".svg":
            ElementTree.fromstring(shown)
        if ending == ".html":
            assert "<b>" not in shown


def test_what_is_escaped_keeps_the_style_of_each_piece():
    (line,) = blocks.layout([blocks.Facts([("a", Text.assemble(("x\x1b", "red"), "y", ("z\n", "blue")))])], 80).split()
    assert line.plain == "a  x\\x1byz\\n"
    assert [(line.plain[s.start : s.end], s.style) for s in line.spans if s.style in ("red", "blue")] == [
        ("x\\x1b", "red"), ("z\\n", "blue"),
    ]  # fmt: skip


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437", "koi8-r"])
@pytest.mark.parametrize("width", WIDTHS)
def test_any_encoding_has_a_stand_in_for_each_glyph_and_keeps_the_columns(encoding, width):
    for name, screen in screens(width).items():
        shown = blocks.layout(screen, width, encoding).plain
        shown.encode(encoding)
        assert "\\" not in shown, name
        assert all(len(line) <= width for line in shown.splitlines() if "iteration" not in name)


def test_a_family_of_glyphs_is_all_there_or_replaced_as_a_whole():
    assert legible("▁█░", "cp437") == ".@+"  # cp437 has the last two
    assert legible("▁█░ é\x1b", "utf-8") == "▁█░ é\\x1b"
    assert legible("é−∞", "ascii") == "\\xe9-inf"


@pytest.mark.parametrize(
    ("written", "encoding", "shown"),
    [
        ("2¹²¹", "ascii", "2^121"),
        ("2⁻⁴ to 2⁶", "ascii", "2^-4 to 2^6"),
        ("R² and x³", "ascii", "R^2 and x^3"),
        ("2¹²³ and 2⁻¹²", "latin-1", "2¹²³ and 2^-12"),
        ("2⁻¹²", "utf-8", "2⁻¹²"),
        ("z2 = Σ a1·W2", "ascii", "z2 = sum a1.W2"),
    ],
)
def test_an_exponent_is_spelt_as_a_whole(written, encoding, shown):
    assert legible(written, encoding) == shown


def test_what_is_relied_on_of_rich_is_there():
    """The picture's template is a default of a public method; its fonts are what is taken out."""
    assert "@font-face {{" in save._DEFAULT
    assert "Fira Code" in save._DEFAULT
    assert "url(" not in save._SVG.replace("url(#", "")
    assert save._SVG.count('<svg xml:space="preserve" ') == 1
