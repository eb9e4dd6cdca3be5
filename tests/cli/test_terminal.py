import io
import itertools
import re
import sys

import pytest

from cubic_cli.cli import terminal
from cubic_cli.cli.views.blocks import Lines


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


def be_terminal(monkeypatch, term="xterm"):
    """Make standard error a terminal, for the rest of a test (pytest takes it back after a fixture)."""
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "100")
    return stream


@pytest.mark.parametrize(("term", "shown"), [("xterm", "a → b ▁█"), ("dumb", "a -> b .@"), ("unknown", "a -> b .@")])
def test_a_dumb_terminal_gets_ascii(monkeypatch, capsys, term, shown):
    monkeypatch.setenv("TERM", term)
    terminal.show(lambda width: [Lines(["a → b ▁█"])])
    assert capsys.readouterr().out == f"{shown}\n"


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_bar_has_its_count_and_rate_and_no_color_takes_the_colour_alone(monkeypatch, no_color):
    stderr = be_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", no_color)
    seconds = itertools.count()
    with terminal.progress("passing", 200, clock=lambda: next(seconds)) as advance:
        for _ in range(64):
            advance(1, 1_000_000)
    shown = stderr.getvalue()
    assert re.search(r"passing .*64/200 epochs, [\d.]+ [kMG] samples/s", shown)
    assert bool(re.search(r"\x1b\[[\d;]*3\d", shown)) == (not no_color)


def test_a_total_that_is_unknown_is_counted(monkeypatch):
    stderr = be_terminal(monkeypatch)
    with terminal.progress("reading", None, "rows", "rows") as advance:
        advance(1000, 1000)
        advance(234, 234)
    assert "1,234 rows, " in stderr.getvalue()


def test_the_rate_leaves_out_what_came_before_the_first_report(monkeypatch):
    """An epoch of 10 samples took 100 s, compiling, and each that followed 2 s."""
    stderr = be_terminal(monkeypatch)
    now = [0.0]
    with terminal.progress("passing", 4, clock=lambda: now[0]) as advance:
        assert "0/4 epochs" in stderr.getvalue()
        for seconds in (100, 2, 2):
            now[0] += seconds
            advance(1, 10)
        now[0] += 1000  # after the last report
    assert set(re.findall("3/4 epochs, (.*?)/s", stderr.getvalue())) == {"5 samples"}
    assert "1/4 epochs, " not in stderr.getvalue()


def test_a_bar_says_what_comes_when_all_is_passed(monkeypatch):
    stderr = be_terminal(monkeypatch)
    with terminal.progress("passing", 2, then="verifying") as advance:
        advance(1, 0)
        assert "verifying" not in stderr.getvalue()
        advance(1, 0)
    assert re.search(r"verifying .*2/2 epochs", stderr.getvalue())


def test_a_bar_without_a_unit_has_no_count(monkeypatch):
    stderr = be_terminal(monkeypatch)
    with terminal.progress("starting JAX", None, "") as advance:
        advance(1, 0)
    assert "starting JAX" in stderr.getvalue()
    assert "1" not in re.sub(r"\x1b\[[\d;]*\w", "", stderr.getvalue())


def test_a_long_name_leaves_room_for_the_bar_and_is_not_markup(monkeypatch):
    stderr = be_terminal(monkeypatch)
    monkeypatch.setattr(stderr, "encoding", "ascii", raising=False)
    with terminal.progress("n" * 90 + "[red]-h64", 2) as advance:
        advance(1, 0)
    assert re.search(r"n{8,20}\.\.\.n*\[red\]-h64 ", stderr.getvalue())
    assert "-" * 20 in re.sub(r"\x1b\[[\d;]*m", "", stderr.getvalue())


def test_where_nothing_moves_nothing_is_shown(monkeypatch):
    stderr = be_terminal(monkeypatch, "dumb")
    with terminal.progress("reading", 10) as advance:
        advance(10, 0)
    monkeypatch.setattr(sys, "stderr", plain := io.StringIO())
    with terminal.progress("reading", 10) as advance:
        advance(10, 0)
    assert stderr.getvalue() == plain.getvalue() == ""


@pytest.mark.parametrize(("rate", "said"), [(3.1e9, "3.1 G"), (1.2e6, "1.2 M"), (45_600, "45.6 k"), (7.0, "7")])
def test_a_rate_is_short(rate, said):
    assert terminal._short(rate) == said


def test_the_lines_of_an_error_are_set_in_and_hold_nothing_that_controls(capsys):
    assert terminal.fail("a\nerror: b\x1b[2J\u2028", 3) == 3
    assert capsys.readouterr().err == "error: a\n  error: b\\x1b[2J\\u2028\n"
