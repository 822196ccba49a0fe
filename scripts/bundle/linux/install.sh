#!/bin/sh
# Makes the desktop of this user know the app: menu entry, icon, file types, a command in
# ~/.local/bin. Needs no administrator and moves nothing; uninstall.sh takes it back.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
share=${XDG_DATA_HOME:-$HOME/.local/share}
bin=$HOME/.local/bin
case $here in
  *[\"\`\$\\%\&]*)
    echo "install: the folder $here has a character in its name that menu entries cannot hold; rename it, and try again" >&2
    exit 1
    ;;
esac
if [ -e "$bin/napari-2dmamba" ] && [ ! -L "$bin/napari-2dmamba" ]; then
  echo "install: $bin/napari-2dmamba is there already and is no link; move it away, and try again" >&2
  exit 1
fi
mkdir -p "$bin" "$share/applications" "$share/icons/hicolor/scalable/apps" "$share/mime/packages"
ln -sfn "$here/napari-2dmamba" "$bin/napari-2dmamba"
sed "s&^Exec=.*&Exec=\"$here/napari-2dmamba\" view %F&" \
  "$here/share/applications/napari-2dmamba.desktop" >"$share/applications/napari-2dmamba.desktop"
cp "$here/share/icons/hicolor/scalable/apps/napari-2dmamba.svg" "$share/icons/hicolor/scalable/apps/"
cp "$here/share/mime/packages/napari-2dmamba.xml" "$share/mime/packages/"
if command -v update-mime-database >/dev/null; then update-mime-database "$share/mime"; fi
if command -v update-desktop-database >/dev/null; then update-desktop-database -q "$share/applications"; fi
echo "2DMamba is in the menu of your desktop. The app stays in $here"
case :$PATH: in
  *:"$bin":*) echo "In a terminal: napari-2dmamba" ;;
  *) echo "In a terminal: $bin/napari-2dmamba (or napari-2dmamba, once $bin is on your PATH)" ;;
esac
