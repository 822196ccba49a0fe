#!/usr/bin/env bash
# Sets everything up on a fresh machine, runs the demo, and opens the viewer where there is a screen.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh viewer
exec .venv/bin/napari-2dmamba demo "$@"
