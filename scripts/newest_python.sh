#!/usr/bin/env bash
# Prints the newest Python 3 of this machine that runs: of those on the path and of pyenv's.
set -euo pipefail
for minor in 16 15 14 13 12 11; do
    for python in "python3.$minor" "$(pyenv root 2>/dev/null)/versions/3.$minor."*/bin/python; do
        if "$python" -c "import sys, venv; sys.exit(sys.version_info[:2] != (3, $minor))" 2>/dev/null; then
            echo "$python"
            exit
        fi
    done
done
echo "no Python 3.11 or newer here" >&2
exit 1
