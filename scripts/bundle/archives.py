"""Packs the app: ``.tar.zst`` and ``.deb`` (Linux), ``.zip`` (Windows), ``.tar.gz`` (macOS)."""

import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from scripts.bundle import libraries
from scripts.bundle.launchers import add_desktop_files
from scripts.bundle.layout import NAME, Layout

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def pack(layout: Layout, folder: Path, *, quick: bool = False) -> list[Path]:
    """Pack the app into a folder, in each form for its system, and return the files."""
    if not layout.is_linux:
        form = "zip" if layout.is_windows else "gztar"
        base = folder / layout.root.name
        return [Path(shutil.make_archive(str(base), form, layout.root.parent, layout.root.name))]
    # readable for everybody, whatever the umask here was
    subprocess.run(["chmod", "-R", "u+rwX,go+rX,go-w", layout.root], check=True)
    return [write_tar(layout, folder, quick=quick), write_deb(layout, folder, quick=quick)]


def write_tar(layout: Layout, folder: Path, *, quick: bool) -> Path:
    """Write the ``.tar.zst``; every tar and zstd unpacks it without options."""
    archive = folder / f"{layout.root.name}.tar.zst"
    level = "-3" if quick else "-12"
    subprocess.run(
        [
            *("tar", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"),
            *("-I", f"zstd -q -T0 --long=27 {level}"),
            *("-cf", archive, "-C", layout.root.parent, layout.root.name),
        ],
        check=True,
    )
    return archive


def write_deb(layout: Layout, folder: Path, *, quick: bool) -> Path:
    """Write the ``.deb``: the app in /opt, a link in /usr/bin, desktop files in /usr/share."""
    architecture = _ARCHITECTURES[platform.machine()]
    version = (layout.root / "VERSION").read_text(encoding="utf-8").strip()
    archive = folder / f"{NAME}_{version}_{architecture}.deb"
    with tempfile.TemporaryDirectory(dir=layout.root.parent) as scratch:
        tree = Path(scratch)
        tree.chmod(0o755)  # it becomes the root folder
        app = tree / "opt" / NAME
        app.parent.mkdir()
        shutil.copytree(
            layout.root,
            app,
            symlinks=True,
            copy_function=os.link,
            # those are for one user; the package manager does the same for all
            ignore=shutil.ignore_patterns("install.sh", "uninstall.sh"),
        )
        (tree / "usr/bin").mkdir(parents=True)
        (tree / "usr/bin" / NAME).symlink_to(f"/opt/{NAME}/{NAME}")
        add_desktop_files(tree / "usr/share")
        documents = tree / "usr/share/doc" / NAME
        documents.mkdir(parents=True)
        (documents / "copyright").write_text(
            f"MIT, and the licences in /opt/{NAME}/licenses of what comes with it.\n"
        )
        control = tree / "DEBIAN"
        control.mkdir()
        (control / "control").write_text(control_file(layout, version, architecture))
        (control / "prerm").write_text(PRERM)
        (control / "prerm").chmod(0o755)
        subprocess.run(
            [
                *("dpkg-deb", "-Zzstd", f"-z{3 if quick else 12}", "--root-owner-group"),
                *("--build", tree, archive),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return archive


PRERM = f"""#!/bin/sh
# What pip added later (CUDA) is not dpkg's: it would stay behind, and mix with a new version.
set -e
case "$1" in remove | upgrade) rm -rf /opt/{NAME}/python/lib/python3.*/site-packages ;; esac
"""


def control_file(layout: Layout, version: str, architecture: str) -> str:
    """Return the text of the package's ``control``."""
    size = sum(f.lstat().st_size for f in layout.root.rglob("*") if not f.is_dir()) // 1024
    return f"""\
Package: {NAME}
Version: {version}
Architecture: {architecture}
Maintainer: The napari-2dmamba developers
Installed-Size: {size}
Depends: {", ".join(libraries.debian_packages(layout))}
Section: science
Priority: optional
Description: open a gigapixel slide, run 2DMambaMIL, and see why it decided what it did
 A viewer for whole-slide images with slide-level models (2DMambaMIL, ABMIL, CLAM, DSMIL and
 others), maps of what decided, comparison, training and export. For research only.
"""
