#!/usr/bin/env bash
# Print a Python that is here and works: the newest from 3.14 down to 3.11, or the one that is named.
#   tools/python.sh [3.11]
# A version manager's shim may stand in PATH and run nothing, so each is asked for its version.
set -euo pipefail
for version in ${1:-3.14 3.13 3.12 3.11}; do
  managed=("${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/"python$version")
  for python in "$(command -v "python$version" || true)" "${managed[@]}"; do
    if [ -n "$python" ] && "$python" --version > /dev/null 2>&1; then
      echo "$python"
      exit
    fi
  done
done
echo "no Python ${1:-from 3.11 to 3.14} was found" >&2
exit 1
