#!/usr/bin/env bash
# Make an environment and run tests in it.
#   tools/test.sh ENVIRONMENT PYTHON [--lowest] [pytest's arguments]
# --lowest installs the oldest versions that pyproject.toml states, else the newest. CUBIC_PIP adds arguments to pip.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=$1 python=$2
shift 2
constraints=()
"$python" -m venv "$environment"
if [ "${1:-}" = --lowest ]; then
  shift
  "$environment/bin/python" tools/lowest.py > "$environment/lowest.txt"
  constraints=(--constraint "$environment/lowest.txt")
fi
# shellcheck disable=SC2086  # several words; and an empty array is unset in the bash of macOS
"$environment/bin/pip" install --quiet --upgrade ${constraints[@]+"${constraints[@]}"} ${CUBIC_PIP:-} -e '.[dev]'
"$environment/bin/python" -c '
import platform
from importlib.metadata import version
print("Python", platform.python_version(), *(f"{name} {version(name)}" for name in ("jax", "numpy", "polars", "typer")), sep=", ")'
"$environment/bin/pytest" "$@"
