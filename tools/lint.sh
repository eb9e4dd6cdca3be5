#!/usr/bin/env bash
# Style, types, the rooms of the package, and the places of the mutants: what fails in seconds.
#   tools/lint.sh [environment]
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${1:-.venv}/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/mypy" --config-file tests/mypy.ini
"$bin/lint-imports" --no-logo
"$bin/python" tools/mutants.py --only "no name" >/dev/null  # each place is there
