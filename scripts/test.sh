#!/usr/bin/env bash
# Sets everything up on a fresh machine and runs the tests, in a virtual screen where there is none.
# With SKIP_SETUP=1 it takes .venv as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${SKIP_SETUP:-}" ] || scripts/setup.sh viewer,training,search,cohort,explain,encoders,hub,dev
unset QT_QPA_PLATFORM  # "offscreen" shows no image layers
unset PYTHONDONTWRITEBYTECODE  # or each of the processes of the tests compiles what it imports anew
exec .venv/bin/python -m pytest "$@"
