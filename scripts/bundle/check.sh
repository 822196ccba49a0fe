#!/bin/sh
# Drives an installed app in a system without Python, as a user: what it says of itself, a run, its
# exports, and, where Xvfb is, the window. Usage: check.sh LAUNCHER FOLDER (new; gets the results).
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
case $1 in
  */*) app=$(CDPATH='' cd -- "$(dirname -- "$1")" && pwd -P)/$(basename -- "$1") ;;
  *) app=$(command -v -- "$1") ;;
esac
mkdir -p "$2"
out=$(cd -- "$2" && pwd -P)
if command -v python3 >/dev/null; then
  echo "check: this system has a Python; what the app lacks would not show" >&2
fi
folder=$(dirname -- "$(readlink -f -- "$app")")
sample=$(echo "$folder"/python/lib/python3.*/site-packages/napari_2dmamba/sample_data)
cd "$out"
"$app" --version
"$app" doctor
"$app" run "$sample/synthetic-he.tif" --checkpoint "$sample/demo-2dmamba.safetensors" --out runs
"$app" export runs/synthetic-he
ls runs/synthetic-he/exports
if command -v xvfb-run >/dev/null; then
  QT_API=pyside6 xvfb-run -a -s "-screen 0 1600x1000x24" \
    "$folder/python/bin/python3" -I "$here/drive_window.py" "$sample" "$out"
fi
echo "check: all well"
