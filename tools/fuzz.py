"""Throw odd settings, datasets and runs at `cubic` for some seconds: `python tools/fuzz.py --seconds 20 --seed 1`.

Whatever comes, a command exits with 0, 1 or 2; says something where it is not 0; shows no traceback; and with --json
prints one JSON document, or nothing. The first case that does not is printed, to be run again, and this exits with 1.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from unittest import mock

from cubic_cli.cli import app as cli
from cubic_cli.config import SETTINGS
from cubic_cli.engine import compiler

WORDS = [
    "", " ", "0", "1", "2", "7", "-1", "1_0", "2.0", "1e3", "nan", "inf", "99999999999999999999", "١", "ones", "zeros",
    "he_normal", "relu", "tanh", "gelu", "identity", "none", "standard", "minmax", "all", "auto", "cpu", "tpu", "true",
    "no", "maybe", "..", "a/b", "a", "CON", "🙂", "data.csv", "data.parquet", "x.txt", "model", "nonfinite,explodes",
    "a\nb", "-", "x", "y", "--json", "'", '"', "\\", "%s", "{}", "[red]", "\x1b[31m", "\u202e",
]  # fmt: skip
FLAGS = [
    "--n", "--dataset", "--noise-std", "--seed", "--hidden-size", "--batch-size", "--num-epochs", "--num-samples",
    "--run-name", "--initializer", "--activation", "--scaling", "--device", "--fail-on", "--artifact-dir", "--epoch",
    "--batch", "--sort", "--compare", "--tolerance", "--save", "--no-verify", "--gradients", "--list", "--force",
    "--generate", "--what", "--x", "--y",
]  # fmt: skip
BARE = ("--no-verify", "--gradients", "--list", "--force", "--generate")
COMMANDS = ["generate", "forward", "inspect", "sweep"]
NUMBERS = ["1", "-2.5", "0", "-0.0", "1e38", "3.5e38", "1e-45", "1e400", "nan", "inf", "-inf", "0x1", "", "one", '"3"']
SIZES = {"--n": 200, "--hidden-size": 40, "--batch-size": 300, "--num-epochs": 4, "--num-samples": 200}


def arguments(rng: random.Random) -> list[str]:
    """Return a command with a few flags, most of them with values that fit."""
    words = [rng.choice(COMMANDS)]
    for flag in rng.sample(FLAGS, rng.randrange(5)):
        words.append(flag)
        if flag not in BARE:
            fits = flag in SIZES and rng.random() < 0.7
            words.append(str(rng.randint(1, SIZES[flag])) if fits else rng.choice(WORDS))
    if words[0] != "inspect" and not {"--num-samples", "--n"} & set(words):
        words += ["--n", "50"] if words[0] == "generate" else ["--num-samples", "50"]
    return words + ["--json"] * (rng.random() < 0.5)


def remove(path: Path) -> None:
    """Remove a file, or the folder that a command with `--artifact-dir data.csv` has made of it."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def spoil(rng: random.Random) -> None:
    """Change something in the folder: the dataset, the .env, a file of a run."""
    kind = rng.randrange(4)
    if kind == 0:
        rows = "".join(f"{rng.choice(NUMBERS)},{rng.choice(NUMBERS)}\n" for _ in range(rng.randrange(60)))
        good = "".join(f"{rng.uniform(-100, 100)},{rng.gauss(0, 1)}\n" for _ in range(60))
        remove(Path("data.csv"))
        Path("data.csv").write_text(
            rng.choice(["x,y\n", "x,y\n", "y,x\n", "x,y,note\n", "a,x\n", ""]) + rng.choice([rows, good, good + rows])
        )
    elif kind == 1:
        names = rng.sample(sorted(SETTINGS), 2)
        Path(".env").write_text("".join(f"{name}={rng.choice(WORDS)}\n" for name in names), encoding="utf-8")
    elif kind == 2:
        remove(Path(".env"))
        remove(Path("data.csv"))
    else:
        files = sorted(path for path in Path("model").glob("*/*") if path.is_file())
        if files:
            path = rng.choice(files)
            raw = bytearray(path.read_bytes())
            if raw and rng.random() < 0.7:
                raw[rng.randrange(len(raw))] = rng.randrange(256)
            path.write_bytes(raw[: rng.randrange(len(raw) + 1)] if rng.random() < 0.5 else raw)


def run(words: list[str]) -> str | None:
    """Run a command and return what is wrong with how it went, None where nothing is."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch.dict(os.environ):
            status = cli.run(words)
    except BaseException:
        return traceback.format_exc()
    said = out.getvalue() + err.getvalue()
    if "Traceback" in said or status not in (0, 1, 2):
        return f"status {status}: {said}"
    if "CUBIC_DEBUG" in said:
        return f"an error that nobody expected: {said}"
    if status and not err.getvalue().strip():
        return f"status {status}, and no word why"
    if "--json" in words and "--help" not in words and out.getvalue():
        try:
            json.loads(out.getvalue())
        except ValueError as error:
            return f"no JSON document ({error}): {out.getvalue()[:200]}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    os.environ |= {"JAX_NUM_CPU_DEVICES": "2", "JAX_ENABLE_COMPILATION_CACHE": "false", "NO_COLOR": "1"}
    compiler.prepare_cpu()
    rng = random.Random(given.seed)
    end, cases = time.monotonic() + given.seconds, 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        while time.monotonic() < end:
            cases += 1
            if rng.random() < 0.5:
                spoil(rng)
            words = arguments(rng)
            wrong = run(words)
            if wrong is not None:
                print(f"seed {given.seed}, case {cases}: cubic {words}\n{wrong}")
                for path in (Path(".env"), Path("data.csv")):
                    if path.is_file():
                        print(f"--- {path}\n{path.read_text(errors='replace')[:400]}")
                return 1
    print(f"{cases} cases, seed {given.seed}: nothing wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
