"""Draw the pictures of the pages anew, from real runs in a temporary folder: `python tools/pictures.py`."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    "generate --n 100000",
    "forward --run-name exp1",
    "inspect exp1 --save {}/screen.svg",
    "inspect exp1 --plot {}/figure.svg",
    "sweep --run-name growth --scaling standard --initializer ones,he_normal --hidden-size 16,64,256,1024 "
    "--seed 0,1,2,3,4 --plot {}/growth.svg",
)
PICTURES = tuple(re.findall(r"\{\}/(\S+)", " ".join(COMMANDS)))


def draw(target: Path) -> None:
    """Draw all pictures in the folder `target`."""
    environment = os.environ | {"COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            arguments = [sys.executable, "-m", "cubic_cli", *command.format(target).split()]
            streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
            subprocess.run(arguments, cwd=folder, env=environment, check=True, **streams)


def texts(picture: Path) -> str:
    """Return what is written in a picture, a line each."""
    found = ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")
    return "\n".join("".join(text.itertext()).replace("\u00a0", " ").strip() for text in found)


if __name__ == "__main__":
    draw(ROOT / "docs")
