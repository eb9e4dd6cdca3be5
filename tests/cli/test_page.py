"""A page: its colours, its style, and what stands in its tables."""

import itertools
import re

import numpy as np
import pages
import pytest
from rich.text import Text

from cubic_cli.cli.views import blocks, page

MODES = {"light": page.LIGHT, "dark": page.DARK}
TEXTS = ("ink", "quiet", "blue", "green", "red", "orange", "purple")


def channels(code):
    return np.array([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def linear(code):
    """Return the linear channels of a colour in sRGB (IEC 61966-2-1)."""
    values = channels(code)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    """Return the contrast of two colours (WCAG 2.2)."""
    high, low = sorted((float(linear(code) @ (0.2126, 0.7152, 0.0722)) for code in (a, b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_formula_of_contrast():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the grey that just fails


@pytest.mark.parametrize("ground", ["paper", "card"])
@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("mode", MODES)
def test_every_text_can_be_read_in_both_modes(mode, name, ground):
    assert contrast(MODES[mode][name], MODES[mode][ground]) >= 4.5


# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency" (2009), of
# full severity, on linear channels.
BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(rgb):
    """Return CIELAB (D65) of linear channels."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    t = np.clip(xyz / (0.9505, 1.0, 1.089), 0, None)
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", [None, *BLIND])
@pytest.mark.parametrize("mode", MODES)
def test_the_colours_differ_for_every_sight(mode, sight):
    matrix = np.eye(3) if sight is None else np.array(BLIND[sight])
    seen = {name: lab(np.clip(matrix @ linear(MODES[mode][name]), 0, 1)) for name in TEXTS[2:]}
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 15, (one, other)  # 2.3 is just noticeable


def test_the_style_has_no_colour_but_the_palette():
    assert page.LIGHT.keys() == page.DARK.keys()
    assert not re.search(r"#[0-9a-fA-F]{3}|rgb|: *(white|black|red|grey)", page.STYLE)
    assert set(re.findall(r"var\(--(\w+)\)", page.STYLE)) <= page.LIGHT.keys()
    whole = page.document("a", "")
    assert "@media (prefers-color-scheme: dark)" in whole
    assert all(f"--{name}: {code};" in whole for colours in MODES.values() for name, code in colours.items())
    assert 'name="viewport"' in whole


def test_a_picture_of_matplotlib_takes_the_colours_of_the_page():
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([1, 2], color=page.LIGHT["red"], marker="o", label="a")
    axes.legend()
    from cubic_cli.cli.views import plot

    svg = plot.render(figure, "svg").decode()
    shown = "".join(page.figure(svg, name, "A picture", "some words & more", "half") for name in ("one", "two"))
    pages.check(shown)
    assert "var(--red)" in shown
    assert not re.search("#[0-9a-f]{6}", shown)
    assert "some words &amp; more" in shown


def test_a_screen_becomes_tables_lists_and_headings():
    made = page.from_screen([
        blocks.Heading("name", Text("note")),
        blocks.Facts([("label", Text.assemble("a", ("b", blocks.BAD), ("c", "on #123456")))]),
        blocks.Grid("title", [blocks.Column("n"), blocks.Column("p", False, True)], [["1\u00a0s", "▁ ▂"]], (), "b"),
        blocks.Lines(["1  < 2"]),
        blocks.Heading("second"),
    ])  # fmt: skip
    found = pages.check(made)
    assert [(e["tag"], e["text"]) for e in found.elements if e["tag"] in ("h1", "h2")] == [
        ("h1", "name"),
        ("h2", "second"),
    ]
    assert found.rows("title") == [["n", "p"], ["1 s", "▁ ▂"]]
    assert [e["text"] for e in found.find("td", class_="picture")] == ["▁ ▂"]
    assert [e["text"] for e in found.find("span", class_="bad")] == ["b"]
    assert "background-color: #123456" in made
    assert [e["text"] for e in found.find("pre")] == ["1  < 2"]
    assert pages.check(page.from_screen([blocks.Lines(["a"])], "all of them")).find("h1")


def test_a_table_begins_with_what_a_narrow_terminal_keeps():
    columns = [blocks.Column(name) for name in "abcd"]
    made = page.from_screen([blocks.Grid("title", columns, [["1", "2", "3", "4"]], ("b", ("c", "x")))])
    assert pages.check(made).rows("title") == [["a", "d", "c", "b"], ["1", "4", "3", "2"]]


def test_the_lines_of_a_long_head_may_break_and_those_of_a_short_one_not():
    made = page.table([blocks.Column(""), blocks.Column("b")], [["a" * 24, "1"], ["a" * 25, "2"]])
    assert [len(e["text"]) for e in pages.check(made).find("th", class_="long")] == [25]


@pytest.mark.parametrize(
    ("home", "text", "shown"),
    [
        ("/home/ann", "/home/ann/x.csv", "~/x.csv"),
        ("/home/ann/", "in '/home/ann' and /home/ann/b", "in '~' and ~/b"),
        ("/home/ann", "/home/anna/x /mnt/home/ann/x /home/ann.old", "/home/anna/x /mnt/home/ann/x /home/ann.old"),
        ("/", "/data/x", "/data/x"),
    ],
)
def test_the_home_folder_is_a_tilde(monkeypatch, home, text, shown):
    monkeypatch.setenv("HOME", home)
    assert page.tilde(text) == shown
