#!/usr/bin/env bash
# Makes the virtual environment .venv beside this file if it is missing or out of date, then runs the launcher.
# PYTHON3 in the environment says which Python .venv is made with.
set -euo pipefail
home=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ ! "$home/.venv/installed" -nt "$home/requirements.txt" ]; then
    python=${PYTHON3:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed" >&2; exit 2; }
    echo "setting up .venv (once) ..." >&2
    "$python" -m venv "$home/.venv"
    "$home/.venv/bin/pip" install --quiet --disable-pip-version-check -r "$home/requirements.txt"
    touch "$home/.venv/installed"
fi
export PYTHONPATH="$home${PYTHONPATH:+:$PYTHONPATH}"
exec "$home/.venv/bin/python" -m common.ops.launcher "$@"
