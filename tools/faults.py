"""Try faults for real, many times: `python tools/faults.py --tries 40 --seed 1` prints fault, times tried, outcome.

Each try is `cubic` in a process of its own, killed or interrupted at a random moment. Afterwards the old or the new
dataset or run must be there, complete, and the next call must clear up. Exit status 1 if anything was lost.
"""

import argparse
import collections
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cubic_cli.data.read import read_samples
from cubic_cli.runs.files import FILES
from cubic_cli.runs.run import load_run

# In the background of a shell SIGINT is ignored, and in all that is started from there.
START = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
CODE = f"{START}; from cubic_cli.__main__ import main; main()"
RUN = Path("model/run")


def start(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    error = process.communicate(timeout=600)[1]
    return process.returncode, error


def forward(hidden: int, *more: object) -> tuple[object, ...]:
    return ("forward", "--run-name", "run", "--num-samples", 100, "--hidden-size", hidden, *more)


def check_run(allowed: set[int]) -> str:
    """Return what is wrong with the run that stands there, or nothing."""
    run = load_run(RUN)
    hidden = run.record["config"]["hidden_size"]
    if sorted(os.listdir(RUN)) != sorted(FILES):
        return f"the folder holds {os.listdir(RUN)}"
    if hidden not in allowed:
        return f"hidden size {hidden}, not of {allowed}"
    if run.parameters["input_layer.bias"].size != hidden:
        return "the parameters are another run's"
    if run.history.height != run.record["iterations"] or not run.record["verification"]["passed"]:
        return "the history is another run's"
    return ""


def check_data(allowed: set[int], name: str) -> str:
    rows = len(read_samples(Path(name), None)[0])
    return "" if rows in allowed else f"{rows} rows, not of {allowed}"


def moment(rng: random.Random, whole: float) -> float:
    """Return when to strike: anywhere, or near the end, where files are replaced and Python shuts down."""
    return rng.uniform(0, whole) if rng.random() < 0.5 else rng.uniform(0.8, 1.05) * whole


def strike(process: "subprocess.Popen[str]", number: int, after: float) -> tuple[str, str]:
    """Send the signal; return what became of the process, and what is wrong with that."""
    time.sleep(after)
    process.send_signal(number)
    status, error = finish(process)
    if status == 0:
        return "done before", ""
    if number == signal.SIGKILL:
        return "killed", "" if status == -signal.SIGKILL else f"status {status}"
    if status == 130:
        return "130", "" if "Traceback" not in error else error
    if (status == -signal.SIGINT and "cubic_cli/cli/app.py" not in error) or (status == 1 and "<frozen site>" in error):
        return "by the signal, before our first line", ""  # a shell says 130
    return f"status {status}", error or "no message"


def try_signals(rng: random.Random, tries: int, number: int, kind: str) -> tuple[collections.Counter[str], list[str]]:
    outcomes: collections.Counter[str] = collections.Counter()
    wrong = []
    finish(start("generate", "--n", 1000))
    name = "data.parquet" if kind == "generate parquet" else "data.csv"
    for turn in range(tries):
        old, new = 1000 + turn, 300_000
        if kind == "forward":
            command, check = forward(new := 5 + turn, "--num-epochs", 20), lambda: check_run({old, new})  # noqa: B023
            old = 2 + turn % 2
            clean = forward(old)
        else:
            command = ("generate", "--n", new, "--dataset", name)
            clean = ("generate", "--n", old, "--dataset", name)
            check = lambda: check_data({old, new}, name)  # noqa: B023, E731
        status, error = finish(start(*clean))
        began = time.perf_counter()
        if turn == 0:
            finish(start(*command))
            whole = time.perf_counter() - began
            finish(start(*clean))
        assert status == 0, error
        after = moment(rng, whole)
        outcome, problem = strike(start(*command), number, after)
        outcomes[outcome] += 1
        try:
            problem = problem or check()
        except Exception as error:
            problem = repr(error)
        if problem:
            wrong.append(f"{kind}, signal {number} after {after:.4f} s: {problem}")
    finish(start(*(forward(4) if kind == "forward" else ("generate", "--n", 10, "--dataset", name))))
    left = [p.name for folder in (Path(), Path("model")) if folder.is_dir() for p in folder.glob(".*")]
    if left:
        wrong.append(f"{kind}: the next call left {left}")
    return outcomes, wrong


def try_many(processes: int, rounds: int) -> tuple[collections.Counter[str], list[str]]:
    outcomes: collections.Counter[str] = collections.Counter()
    wrong = []
    finish(start("generate", "--n", 1000))
    for turn in range(rounds):
        sizes = {10 * turn + i + 2 for i in range(processes)}
        running = [start(*forward(size)) for size in sizes]
        running.append(start("generate", "--n", 1000 + turn))  # replaces what they read
        for status, error in map(finish, running):
            outcomes[f"status {status}"] += 1
            if status:
                wrong.append(error)
        if problem := check_run(sizes):
            wrong.append(problem)
        if os.listdir("model") != ["run"]:
            wrong.append(f"left {os.listdir('model')}")
    return outcomes, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    failures = []
    print(f"seed {options.seed}\n\n| fault | times tried | outcome |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        rows = [
            (
                f"{number.name} at a random moment of {kind}",
                lambda n=number, k=kind: try_signals(rng, options.tries, n, k),
            )
            for kind in ("generate csv", "generate parquet", "forward")
            for number in (signal.SIGKILL, signal.SIGINT)
        ]
        rows += [
            (f"{n} forwards and a generate at once", lambda n=n: try_many(n, max(1, options.tries // 10)))
            for n in (2, 8)
        ]
        for name, attempt in rows:
            outcomes, wrong = attempt()
            told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
            verdict = "nothing lost" if not wrong else f"{len(wrong)} WRONG"
            print(f"| {name} | {sum(outcomes.values())} | {told}; {verdict} |", flush=True)
            failures += wrong
    print("\n".join(["", *failures]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
