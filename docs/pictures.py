"""Draw the README's pictures anew, from a real run in a temporary folder: `python docs/pictures.py`."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
COMMANDS = (
    "generate --n 100000",
    "forward --run-name exp1",
    f"inspect --run-name exp1 --save {DOCS / 'screen.svg'}",
    f"inspect --run-name exp1 --plot {DOCS / 'figure.svg'}",
)


def main() -> None:
    environment = os.environ | {"COLUMNS": "100", "PYTHONPATH": str(DOCS.parent)}
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            arguments = [sys.executable, "-m", "cubic_cli", *command.split()]
            subprocess.run(arguments, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
