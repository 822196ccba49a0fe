"""Where things lie in the app."""

from dataclasses import dataclass
from pathlib import Path

NAME = "napari-2dmamba"


@dataclass(frozen=True)
class Layout:
    """The folder of the app.

    Attributes
    ----------
    root
        The folder: launcher, ``python``, ``licenses``, ``share``.
    platform
        As `sys.platform` says it.
    """

    root: Path
    platform: str

    @property
    def is_linux(self) -> bool:
        """Whether it is for Linux."""
        return self.platform.startswith("linux")

    @property
    def is_windows(self) -> bool:
        """Whether it is for Windows."""
        return self.platform == "win32"

    @property
    def home(self) -> Path:
        """The Python's prefix."""
        return self.root / "python"

    @property
    def python(self) -> Path:
        """The Python itself."""
        return self.home / ("python.exe" if self.is_windows else "bin/python3")

    @property
    def library(self) -> Path:
        """The folder of the standard library."""
        if self.is_windows:
            return self.home / "Lib"
        return next((self.home / "lib").glob("python3.[0-9]*"))

    @property
    def packages(self) -> Path:
        """The folder of the installed packages."""
        return self.library / "site-packages"

    @property
    def launcher(self) -> Path:
        """What starts the app."""
        return self.root / (f"{NAME}.cmd" if self.is_windows else NAME)
