"""The pages show what the commands print, their links lead somewhere, and the program that keeps them so works."""

import importlib.util
import re
from pathlib import Path

import pytest
import typer

from cubic_cli.analysis import limits
from cubic_cli.cli import app as cli
from cubic_cli.config import SETTINGS

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{page.name}" for page in ROOT.glob("docs/*.md"))]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


refresh, pictures, mutants = load("refresh"), load("pictures"), load("mutants")

SCREEN = (
    "run   2026-11-24 12:45:13 UTC\nloss  9,194,226  R²  0.384  ×64.01\nspeed  949 µs an epoch, 1,053,400 samples/s\n"
)


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.long
@pytest.mark.parametrize("page", sorted(page for page in PAGES if "$ cubic" in read(page)))
def test_pages_show_what_the_commands_print(page):
    text = read(page)
    assert refresh.refresh(text) == text


def test_every_number_in_the_story_stands_in_its_screens():
    # The original's figures, at the end of the page, are tests of their own.
    text, original, _ = read("docs/exploding-numbers.md").partition("## The original program")
    assert original
    shown = set(refresh.numbers("\n".join(refresh.console_blocks(text))))
    quoted = set(refresh.numbers(refresh.prose(text)))
    assert len(quoted) > 15
    assert not quoted - shown


def anchors(text):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", refresh.without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_lead_somewhere(page):
    text = refresh.without_blocks(read(page))
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text(encoding="utf-8")), target


def shown_commands(text):
    """Yield the arguments of each `cubic …` that a page shows: in a sentence, a table, a block, another's command."""
    joined = re.sub(r"\\\n\s*", "", text)
    for line in re.findall(r"(?<![\w/.])cubic ((?:generate|forward|inspect|sweep|check)\b[^`\n#|\"]*)", joined):
        arguments = re.split(r"  | && | \d?>", line)[0].split()  # what a help says of an example stands two blanks on
        if "[OPTIONS]" not in arguments:
            yield arguments


COMMANDS = typer.main.get_group(cli.app).commands
FLAGS = {
    name: {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)} | {"--help"}
    for name, command in COMMANDS.items()
}


@pytest.mark.parametrize("page", sorted(page for page in PAGES if list(shown_commands(read(page)))))
def test_every_command_that_a_page_shows_can_be_typed(page):
    for name, *arguments in shown_commands(read(page)):
        assert {word for word in arguments if word.startswith("-")} <= FLAGS[name], (name, arguments)
        if "--help" not in arguments:
            COMMANDS[name].make_context(name, arguments)  # raises where a value is none that the flag takes


@pytest.mark.parametrize("page", sorted(page for page in PAGES if page.startswith(("README", "docs/"))))
def test_every_flag_that_a_page_names_is_one(page):
    elsewhere = {"--install-completion", "--show-completion", "--version"}  # of `cubic` itself
    assert set(re.findall(r"`(--[a-z-]+)", read(page))) <= elsewhere.union(*FLAGS.values())


def test_every_page_can_be_reached_from_the_index():
    index = read("docs/README.md")
    assert "(docs/README.md)" in read("README.md")
    for page in (ROOT / "docs").iterdir():
        assert page.name == "README.md" or page.suffix not in (".md", ".svg") or f"({page.name})" in index, page.name


@pytest.mark.long
def test_the_pictures_are_what_the_commands_draw(tmp_path):
    pictures.draw(tmp_path)
    for name in pictures.PICTURES:
        shown, fresh = (pictures.texts(folder / name) for folder in (ROOT / "docs", tmp_path))
        assert refresh.same(shown, fresh), f"docs/{name} is out of date; run `python tools/pictures.py`"


def test_every_picture_stands_on_a_page_and_has_words():
    drawn = {path.name for path in (ROOT / "docs").glob("*.svg")}
    assert drawn == set(pictures.PICTURES)
    for page, folder in (("README.md", "docs/"), *((page, "") for page in PAGES if page.startswith("docs/"))):
        for words, name in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", read(page)):
            assert name.removeprefix(folder) in drawn
            assert len(words.split()) > 5, (page, name)
    assert "H^1.00" in pictures.texts(ROOT / "docs" / "growth.svg")
    assert "](growth.svg)" in read("docs/exploding-numbers.md")


def test_each_page_leads_to_the_next():
    index = re.findall(r"^\| \[[^\]]*\]\(([^)]+)\)", read("docs/README.md"), re.MULTILINE)
    assert {f"docs/{page}" for page in index} == {page for page in PAGES if page.startswith("docs/")} - {
        "docs/README.md"
    }
    for page, following in zip(index, [*index[1:], "README.md"], strict=True):
        last = read(f"docs/{page}").strip().splitlines()[-1]
        assert re.fullmatch(rf"Next: \[[\w ]+\]\({re.escape(following)}\)", last), page


def test_the_readme_is_short():
    lines = read("README.md").splitlines()
    assert len(lines) <= 130
    assert max(map(len, lines)) <= 120


def test_the_readme_names_every_room():
    package = ROOT / "cubic_cli"
    rooms = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    shown = set(re.findall(r"^[├└]── (\S+)", read("README.md"), re.MULTILINE))
    assert rooms <= shown
    assert all((package / name).exists() for name in shown)


def test_every_setting_has_its_row():
    text = read("docs/commands.md")
    assert not [name for name in SETTINGS if f"`{name}`" not in text]


def test_the_limits_are_those_of_the_code():
    assert limits.markdown().strip() in read("docs/numbers.md")


def test_the_faults_that_tests_notice_are_those_that_are_tried():
    table = re.findall(r"^\| (\w+) \| ([^|]+) \| `", read("docs/mutants.md"), re.MULTILINE)
    assert table == [(kind, mutant.what) for kind, some in mutants.MUTANTS.items() for mutant in some]


def test_no_hint_names_an_index_entry_that_nobody_holds():
    """`cubic-cli` is installed from a clone; a package of that name on an index would be a stranger's."""
    texts = [*map(read, PAGES), *(path.read_text(encoding="utf-8") for path in (ROOT / "cubic_cli").rglob("*.py"))]
    assert not [text for text in texts if re.search(r"(pip|pipx|uvx|uv) \w*\s*'?cubic", text)]


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
def test_times_and_last_digits_may_differ(old, new, alike):
    assert old in SCREEN
    assert refresh.same(SCREEN, SCREEN.replace(old, new)) is alike


def test_exponents_and_what_rounding_leaves_of_a_zero_may_differ():
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
