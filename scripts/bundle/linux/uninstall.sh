#!/bin/sh
# Takes back what install.sh did. Deletes neither the app's folder nor anything of yours.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
share=${XDG_DATA_HOME:-$HOME/.local/share}
link=$HOME/.local/bin/napari-2dmamba
if [ -L "$link" ] && [ "$(readlink "$link")" = "$here/napari-2dmamba" ]; then
  rm -f "$link" "$share/applications/napari-2dmamba.desktop" \
    "$share/icons/hicolor/scalable/apps/napari-2dmamba.svg" "$share/mime/packages/napari-2dmamba.xml"
  if command -v update-mime-database >/dev/null; then update-mime-database "$share/mime"; fi
  if command -v update-desktop-database >/dev/null; then update-desktop-database -q "$share/applications"; fi
  echo "2DMamba is no longer in the menu."
else
  echo "install.sh of this folder was not run, or another copy was installed since: nothing to take back."
fi
echo "The app itself: delete the folder $here"
echo "Its settings, logs and stored features, if you want those gone as well:"
echo "  ${XDG_CONFIG_HOME:-$HOME/.config}/napari-2dmamba"
echo "  ${share}/napari-2dmamba (the list of checkpoints)"
echo "  ${XDG_STATE_HOME:-$HOME/.local/state}/napari-2dmamba"
echo "  ${XDG_CACHE_HOME:-$HOME/.cache}/napari-2dmamba"
echo "Runs are yours and stay: look in Documents for '2DMamba runs'."
