import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("refresh", ROOT / "tools" / "refresh.py")
refresh = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(refresh)

SCREEN = (
    "run   2026-11-24 12:45:13 UTC\nloss  9,194,226  R²  0.384  ×64.01\nspeed  949 µs an epoch, 1,053,400 samples/s\n"
)


@pytest.mark.parametrize("page", ["README.md", "docs/commands.md", "docs/exploding-numbers.md"])
def test_pages_show_what_the_commands_print(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert refresh.refresh(text) == text


def test_the_numbers_in_the_story_stand_in_its_screens():
    text = (ROOT / "docs" / "exploding-numbers.md").read_text(encoding="utf-8")
    shown = set(refresh.numbers("\n".join(refresh.console_blocks(text))))
    quoted = set(refresh.numbers(refresh.prose(text)))
    assert len(quoted) > 15
    assert not quoted - shown


@pytest.mark.parametrize(
    ("old", "new", "alike"),
    [
        ("949 µs", "1.2 ms", True),
        ("1,053,400 samples/s", "2 samples/s", True),
        ("12:45:13", "01:02:03", True),
        ("0.384  ", "0.385 ", True),  # the last digit
        ("0.384", "0.386", False),
        ("9,194,226", "9,194,300", True),
        ("9,194,226", "9,196,226", False),
        ("×64.01", "64.01", False),
        ("loss", "Loss", False),
        ("R²", "R² 1", False),
    ],
)
def test_what_may_differ(old, new, alike):
    assert old in SCREEN
    assert refresh.same(SCREEN, SCREEN.replace(old, new)) is alike


def test_what_rounding_leaves_of_a_zero_and_exponents():
    assert refresh.same("mean 8.7e-10", "mean -3.2e-09")
    assert refresh.same("loss 1.207e+11", "loss 1.208e+11")
    assert not refresh.same("loss 1.207e+11", "loss 1.210e+11")
    assert not refresh.same("units 64", "units 65")


def test_a_page_out_of_date_is_found_and_mended(tmp_path, capsys):
    page = tmp_path / "page.md"
    block = "```console\n$ cubic generate --n 20 \\\n    --dataset a.csv\nold\n$ cubic inspect --run-name none\n```\n"
    page.write_text(f"# Page\n\n{block}\nText.\n", encoding="utf-8")
    assert refresh.main(["--check", str(page)]) == 1
    assert "old\n" in page.read_text(encoding="utf-8")
    assert refresh.main([str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Page\n\n```console\n$ cubic generate --n 20 \\\n    --dataset a.csv\na.csv\nwrote")
    assert text.endswith("```\n\nText.\n")
    assert "old\n" not in text
    assert "error: there is no run model/none" in text
    assert refresh.main(["--check", str(page)]) == 0
    assert not (tmp_path / "a.csv").exists()


def test_nothing_but_cubic_is_run():
    with pytest.raises(SystemExit, match="only"):
        refresh.refresh("```console\n$ rm -r x\n```\n")


def test_the_limits_in_the_readme_are_those_of_the_code():
    from cubic_cli.analysis import findings

    assert findings.limits_markdown().strip() in (ROOT / "README.md").read_text(encoding="utf-8")
