"""Print the lower bounds that pyproject.toml states, as constraints for pip: `python tools/lowest.py > lowest.txt`.

    pip install --constraint lowest.txt -e '.[dev]'

then installs the oldest versions that `cubic` says it works with, so that CI can hold it to its word.
"""

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lowest(project: dict[str, object]) -> list[str]:
    """Return `name==version` for each dependency, those of the extra `dev` too.

    Raises:
        SystemExit: a dependency states no lower bound.
    """
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    assert isinstance(project["dependencies"], list)
    pinned = []
    for requirement in project["dependencies"] + extras["dev"]:
        found = re.match(r"([\w.-]+)(?:\[.*?\])?>=([\d.]+)", requirement)
        if found is None:
            raise SystemExit(f"{PYPROJECT}: {requirement!r} states no lower bound")
        pinned.append(f"{found[1]}=={found[2]}")
    return pinned


if __name__ == "__main__":
    print(*lowest(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]), sep="\n")
