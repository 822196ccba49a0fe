"""What starts the app, and what makes the desktop know it."""

import shutil
from pathlib import Path

from scripts.bundle.layout import NAME, Layout

LINUX = Path(__file__).parent / "linux"
WINDOWS = Path(__file__).parent / "windows"


def add(layout: Layout, version: str) -> None:
    """Put the launcher into the app, on Linux with what a desktop reads, and installers."""
    if layout.is_windows:
        for script in WINDOWS.glob("*.cmd"):
            shutil.copy(script, layout.root)
    else:
        _add_program(LINUX / NAME, layout.root)
    if layout.is_linux:
        for script in ("install.sh", "uninstall.sh"):
            _add_program(LINUX / script, layout.root)
        add_desktop_files(layout.root / "share")
    (layout.root / "VERSION").write_text(version + "\n", encoding="utf-8")


def add_desktop_files(share: Path) -> None:
    """Put desktop entry, icon and MIME types where the desktop looks for them below ``share``."""
    for name, place in {
        f"{NAME}.desktop": "applications",
        f"{NAME}.svg": "icons/hicolor/scalable/apps",
        f"{NAME}.xml": "mime/packages",
    }.items():
        folder = share / place
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(LINUX / name, folder)


def _add_program(source: Path, folder: Path) -> None:
    shutil.copy(source, folder)
    (folder / source.name).chmod(0o755)
