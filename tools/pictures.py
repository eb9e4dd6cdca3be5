"""Draw the README's pictures anew, from a real run in a temporary folder: `python tools/pictures.py`."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    "generate --n 100000",
    "forward --run-name exp1",
    f"inspect --run-name exp1 --save {ROOT / 'docs' / 'screen.svg'}",
    f"inspect --run-name exp1 --plot {ROOT / 'docs' / 'figure.svg'}",
)


def main() -> None:
    environment = os.environ | {"COLUMNS": "100", "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            arguments = [sys.executable, "-m", "cubic_cli", *command.split()]
            subprocess.run(arguments, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
