import math
import re

import numpy as np
import pytest
import records
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cubic_cli.cli.views import blocks, canvas
from cubic_cli.cli.views.fit import HEIGHT, picture
from cubic_cli.data.problem import cubic


def plain(lines):
    return [line.plain for line in lines]


def layer(dots, style="", letter="#"):
    return canvas.Layer(np.array(dots, bool), style, letter)


# Unicode 15, 2.4 "Braille Patterns": the dots of a cell are 1, 2, 3 down the left and 4, 5, 6 down the right, 7 and 8
# below them, and dot n is bit n − 1.
BITS = [(0, 0, 0), (1, 0, 1), (2, 0, 2), (0, 1, 3), (1, 1, 4), (2, 1, 5), (3, 0, 6), (3, 1, 7)]


@pytest.mark.parametrize(("row", "column", "bit"), BITS)
def test_each_dot_of_a_cell_is_its_bit(row, column, bit):
    dots = np.zeros((4, 2), bool)
    dots[row, column] = True
    assert plain(canvas.braille([layer(dots)])) == [chr(0x2800 + (1 << bit))]


def test_a_straight_line_lights_the_diagonal():
    """On a square of dots, 8 by 8: two cells high and four wide."""
    assert (canvas.line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), 2, 4) == np.eye(8)[::-1]).all()
    assert (canvas.line(np.array([0.0, 1.0]), np.array([1.0, 0.0]), 2, 4) == np.eye(8)).all()
    assert plain(canvas.letters([layer(np.eye(8)[::-1])])) == ["  ##", "##  "]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=6))
def test_a_line_passes_its_points_and_has_no_gap(places):
    x, y = np.array(places).T
    drawn = canvas.line(x, y, 3, 5)
    assert not (canvas.points(x, y, 3, 5) & ~drawn).any()
    seen, edge = np.zeros_like(drawn), [tuple(np.argwhere(drawn)[0])]
    while edge:  # neighbours of neighbours are all that is lit
        row, column = edge.pop()
        seen[row, column] = True
        around = np.argwhere(drawn[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2])
        new = [(r + max(0, row - 1), c + max(0, column - 1)) for r, c in around]
        edge += [place for place in new if not seen[place]]
    assert (seen == drawn).all()


def test_where_layers_share_a_cell_the_dots_are_of_both_and_the_style_of_the_first():
    above, below = [[1, 0]] + [[0, 0]] * 3, [[0, 0]] * 3 + [[0, 1]]
    (line,) = canvas.braille([layer(above, "red"), layer(below, "green")])
    assert line.plain == chr(0x2800 + 0x01 + 0x80)
    assert [span.style for span in line.spans] == ["red"]
    assert plain(canvas.letters([layer(above, "red", "a"), layer(below, "green", "b")])) == ["a"]


def fitted(x, y, z2, noise_floor=None, **config):
    samples = [{"row": i + 1, "x": a, "y": b, "z2": c} for i, (a, b, c) in enumerate(zip(x, y, z2, strict=True))]
    changes = {f"config__{name}": value for name, value in config.items()}
    document = records.make_document(context={"noise_floor": noise_floor}, **changes) | {"samples": samples}
    return records.Record.model_validate(document)


X = np.linspace(-100, 100, 200)


def lines_of(record, width=80, encoding=None):
    drawn = picture(record, width)
    return [] if drawn is None else blocks.layout([drawn], width, encoding).plain.splitlines()


def test_the_network_and_the_data_stand_at_their_heights_and_are_named():
    """The network answers a straight line upward, y one downward: each is a diagonal, named where it ends."""
    title, *lines, below = lines_of(fitted(X, -X, X), encoding="ascii")
    assert title == "y and the network's answer over x, 200 of 1,000 samples"
    assert len(lines) == HEIGHT
    assert re.fullmatch(r" 100 \|\..*# # network", lines[0])
    assert re.fullmatch(r"-100 \|#.*\. \. y", lines[-1])
    starts = [min(line.index("#"), line.index(".")) for line in lines]
    assert starts[: HEIGHT // 2] == sorted(starts[: HEIGHT // 2])
    assert below.split() == ["-100", "x", "100"]


def test_the_cubic_is_drawn_only_for_data_that_follow_it():
    y = cubic(X)
    with_it, without = (lines_of(fitted(X, y, 0 * X, floor), encoding="ascii") for floor in (100.0, None))
    assert with_it[1].endswith("~ true cubic, . y")
    assert "cubic" not in "".join(without)
    assert "~" not in "".join(without)


def test_braille_where_the_encoding_has_it_and_letters_elsewhere():
    record = fitted(X, X, -X)
    for encoding in (None, "utf-8"):
        lines = lines_of(record, 80, encoding)
        assert any(0x2800 < ord(c) <= 0x28FF for c in "".join(lines))
        assert not any("#" in line for line in lines)
    for encoding in ("ascii", "cp1252", "cp437"):
        lines = lines_of(record, 80, encoding)
        "".join(lines).encode(encoding)
        assert "\\" not in "".join(lines)


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("letter", ["y", "宽", "\x1b"], ids=["long", "wide", "escaped"])
def test_long_names_and_large_numbers_fit(width, encoding, letter):
    record = fitted(X * 3.4e36, X * 3.4e36, -X, y_column=letter * 60, x_column=letter * 60)
    lines = lines_of(record, width, encoding)
    assert lines
    assert max(map(cell_len, lines[-HEIGHT - 1 :])) <= width  # a name that is wider than the screen is not parted above


def test_no_room_and_no_samples_leave_it_out():
    assert picture(fitted(X, X, X), 30) is None
    assert picture(fitted([], [], []), 80) is None
    assert picture(records.RECORD, 80) is None
    assert picture(fitted([math.nan, 1.0], [1.0, math.inf], [0.0, 0.0]), 80) is None


def test_a_constant_stands_in_the_middle_and_one_sample_is_a_dot():
    _, *lines, _ = lines_of(fitted([3.0], [5.0], [5.0]), encoding="ascii")
    assert [("#" in line) for line in lines] == [row == HEIGHT // 2 for row in range(HEIGHT)]
