"""Break the code in small ways, one at a time, and say which quick test notices: `python tools/mutants.py`.

    python tools/mutants.py --only statistics --markdown

Each mutant is a change of one place in a copy of the sources; the quick tests of the rooms it concerns then run until
one fails. The exit status is 1 if a mutant lives. A mutant whose place is gone is an error: mend the table below.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Mutant(NamedTuple):
    """What breaks, where, and the tests that should notice."""

    what: str
    file: str  # below cubic_cli/
    old: str
    new: str
    tests: str  # below tests/, separated by blanks


MATHEMATICS: tuple[Mutant, ...] = ()
RECORD: tuple[Mutant, ...] = ()
VERIFICATION: tuple[Mutant, ...] = ()
MUTANTS = {"mathematics": MATHEMATICS, "record": RECORD, "verification": VERIFICATION}


def misplaced() -> list[str]:
    """Return the mutants whose place is not there exactly once."""
    return [
        f"{mutant.file}: {mutant.old!r} ({mutant.what})"
        for mutants in MUTANTS.values()
        for mutant in mutants
        if (ROOT / "cubic_cli" / mutant.file).read_text(encoding="utf-8").count(mutant.old) != 1
    ]


def noticed_by(mutant: Mutant, place: Path) -> str | None:
    """Return the first quick test that fails with the mutant in `place`, a copy of the repository; None if none does."""
    path = place / "cubic_cli" / mutant.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-n", "2", "--tb=no", "-rfE"]
        tests = [f"tests/{name}" for name in mutant.tests.split()]
        environment = os.environ | {"PYTHONPATH": str(place)}
        ended = subprocess.run([*command, *tests], cwd=place, env=environment, capture_output=True, text=True)
    finally:
        path.write_text(whole, encoding="utf-8")
    if ended.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
    if found is None:
        raise SystemExit(f"{mutant.what}: pytest exits {ended.returncode}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return found[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="those whose file or name holds this")
    given = parser.parse_args()
    if gone := misplaced():
        print("not there exactly once:", *gone, sep="\n  ")
        return 1
    alive = 0
    print("| kind | what breaks | where | noticed by |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in ("cubic_cli", "tests", "tools", "docs"):
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
            shutil.copy(ROOT / name, place)
        for kind, mutants in MUTANTS.items():
            for mutant in mutants:
                if given.only in mutant.file or given.only in mutant.what:
                    test = noticed_by(mutant, place)
                    alive += test is None
                    print(f"| {kind} | {mutant.what} | `{mutant.file}` | {test or '**nothing**'} |", flush=True)
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main())
