#!/usr/bin/env bash
# Sets up everything on Debian or Ubuntu: system libraries, .venv, the package.
# Usage: scripts/setup.sh [EXTRAS [SYSTEM_PACKAGE...]]   e.g. viewer,dev clang
set -euo pipefail
cd "$(dirname "$0")/.."
extras=${1:-viewer}

die() { printf 'setup: %s\n' "$1" >&2; exit 1; }

# What Qt, OpenGL and a virtual screen need; only what is missing is installed.
packages=(python3-venv xvfb libgl1 libegl1 libopengl0 libgl1-mesa-dri libdbus-1-3 libfontconfig1
  libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0
  libxcb-render-util0 libxcb-shape0 libxcb-xinerama0 libxcb-xkb1 fonts-dejavu-core "${@:2}")
if command -v dpkg-query >/dev/null; then
  missing=()
  for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' ||
      missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    sudo=()
    if [ "$(id -u)" -ne 0 ]; then
      command -v sudo >/dev/null || die "these system packages are missing and there is no sudo to install them: ${missing[*]}"
      sudo=(sudo)
    fi
    printf 'setup: installing %s\n' "${missing[*]}"
    "${sudo[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends \
      "${missing[@]}" >/dev/null
  fi
else
  printf 'setup: not Debian or Ubuntu; Qt and OpenGL libraries are taken as given\n'
fi

python=""
for candidate in python3 python3.13 python3.12 python3.11; do
  if command -v "$candidate" >/dev/null &&
    "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || die "Python 3.11, 3.12 or 3.13 is needed, and none is on the PATH"

[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install -q --upgrade "pip>=24"
.venv/bin/python -m pip install -q -c constraints.txt -e ".[$extras]"
.venv/bin/python -c 'import sys, torch; print(f"setup: Python {sys.version.split()[0]}, torch {torch.__version__}, ready in .venv")'
