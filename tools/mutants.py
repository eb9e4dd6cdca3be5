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


MATHEMATICS = (
    Mutant(
        "the bias is left out",
        "network.py",
        "return product + jnp.broadcast_to(bias, product.shape)",
        "return product",
        "test_network.py",
    ),
    Mutant("the loss is a sum", "network.py", "return jnp.mean(squared)", "return jnp.sum(squared)", "test_network.py"),
    Mutant(
        "padding counts in the loss",
        "network.py",
        "return jnp.sum(squared, where=mask)",
        "return jnp.sum(squared)",
        "test_network.py engine/test_passes.py",
    ),
    Mutant(
        "He's variance is halved", "network.py", "variance = 2 / (fan_in", "variance = 1 / (fan_in", "test_network.py"
    ),
    Mutant("the generator is JAX's default", "network.py", ', impl="threefry2x32"', "", "test_network.py"),
    Mutant(
        "the variance is not corrected",
        "statistics.py",
        " / n - correction * correction",
        " / n",
        "test_statistics.py engine/test_numbers.py",
    ),
    Mutant(
        "a merge forgets the distance of the means",
        "statistics.py",
        " + weight_a * weight_b * np.square(delta)",
        "",
        "test_statistics.py",
    ),
    Mutant(
        "a merge takes the mean of the means",
        "statistics.py",
        "a.mean + weight_b * delta",
        "a.mean + 0.5 * delta",
        "test_statistics.py",
    ),
    Mutant(
        "-inf counts as +inf",
        "statistics.py",
        "neginf=total(values == -np.inf)",
        "neginf=total(values == np.inf)",
        "test_statistics.py engine/test_numbers.py",
    ),
    Mutant(
        "padding is seen",
        "engine/schedule.py",
        "summarise(values, mask, (1, 2), pivot)",
        "summarise(values, True, (1, 2), pivot)",
        "engine/test_passes.py engine/test_numbers.py",
    ),
    Mutant(
        "padding is in the error of units",
        "engine/schedule.py",
        "error = jnp.where(mask, z2 - y, 0.0)",
        "error = z2 - y",
        "engine/test_passes.py engine/test_numbers.py",
    ),
    Mutant(
        "what was flushed to zero is believed",
        "engine/schedule.py",
        " & ~flushed,",
        ",",
        "engine/test_passes.py engine/test_numbers.py",
    ),
    Mutant(
        "units that are left over are dropped",
        "engine/schedule.py",
        "    if hidden % unroll:\n",
        "    if False:\n",
        "engine/test_passes.py engine/test_numbers.py",
    ),
    Mutant(
        "a constant column is divided by zero",
        "data/scaling.py",
        "if self.factor == 0:",
        "if self.factor < 0:",
        "data/test_scaling.py",
    ),
)
RECORD = (
    Mutant(
        "NaN is written as infinity",
        "runs/record.py",
        'return "NaN" if math.isnan(value) else',
        'return "Infinity" if math.isnan(value) else',
        "runs",
    ),
    Mutant(
        "true counts as a number",
        "runs/record.py",
        "isinstance(value, bool) or not isinstance(value, int)",
        "not isinstance(value, int)",
        "runs",
    ),
    Mutant(
        "a tensor may miss in a record",
        "runs/record.py",
        "_check_tensors(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:\n",
        "_check_tensors(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:\n    return tensors\n",
        "runs",
    ),
)
VERIFICATION = (
    Mutant(
        "any error is allowed",
        "reference/verify.py",
        "not error <= reference.tolerance",
        "not error <= 1e9",
        "reference",
    ),
    Mutant(
        "NaN is no error",
        "reference/verify.py",
        "return np.where(np.isnan(error), np.inf, error)",
        "return np.where(np.isnan(error), 0.0, error)",
        "reference engine/test_nonfinite.py",
    ),
    Mutant(
        "an infinity is excused anywhere",
        "reference/verify.py",
        "np.where(~np.isfinite(found) & beyond, 0.0, error)",
        "np.where(~np.isfinite(found), 0.0, error)",
        "reference engine/test_nonfinite.py",
    ),
    Mutant(
        "the mean may leave the range",
        "reference/verify.py",
        "ordered = found.min <= found.mean <= found.max",
        "ordered = True",
        "reference",
    ),
    Mutant(
        "the std is not compared",
        "reference/verify.py",
        'yield _whole(f"{name}_std", found.std, std,',
        'yield _whole(f"{name}_std", std, std,',
        "reference",
    ),
    Mutant(
        "the zeros are not compared",
        "reference/verify.py",
        'yield _count(f"{name}_zeros", found.zeros, *tensor.zeros)',
        "pass",
        "reference",
    ),
    Mutant(
        "the counts of NaN are not compared",
        "reference/verify.py",
        'yield _count(f"{name}_nonfinite", found.nonfinite, least, most)',
        "pass",
        "reference",
    ),
    Mutant(
        "the history's counts are not compared",
        "reference/verify.py",
        'yield _interval("nonfinite", nonfinite, surely',
        'yield _interval("nonfinite", nonfinite * 0 + surely, surely',
        "reference",
    ),
    Mutant(
        "epochs that differ pass",
        "reference/verify.py",
        "return self.failure is None and self.deterministic",
        "return self.failure is None",
        "reference cli/test_cli.py",
    ),
    Mutant(
        "only the first batch is verified",
        "reference/verify.py",
        "np.linspace(0, batches - 1, wanted)",
        "np.linspace(0, 0, wanted)",
        "reference",
    ),
)
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
    """Return the first quick test that fails with the mutant in `place`, a copy of the sources; None if none does."""
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
    found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", ended.stdout, re.MULTILINE)
    if found is None:
        said = ended.stdout[-2000:] + ended.stderr[-2000:]
        raise SystemExit(f"{mutant.what}: pytest exits {ended.returncode}\n{said}")
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
