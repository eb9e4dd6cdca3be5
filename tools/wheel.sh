#!/usr/bin/env bash
# Build the wheel, install it without extras in a fresh environment, and ask it for --help and check.
#   tools/wheel.sh [python]
set -euo pipefail
unset PYTHONPATH  # what is missing in the wheel is missing here
cd "$(dirname "$0")/.."
python=${1:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$python" -m venv "$place/venv"
"$place/venv/bin/pip" wheel --quiet --no-deps --wheel-dir "$place" .
"$place/venv/bin/pip" install --quiet "$place"/*.whl
cd "$place"
venv/bin/cubic --version
venv/bin/cubic --help > help.txt
venv/bin/python -c 'import cubic_cli; cubic_cli.record_schema()'  # a file of the package's own
venv/bin/cubic check
