"""Which packages the app has, and their installation."""

import os
import platform
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from scripts.bundle.layout import NAME, Layout

NOT_IN_THE_APP = ("dev", "docs", "search", "wandb", "mlflow", "anndata", "spatialdata")
"""Extras for who writes programs or tracks experiments; ``pip`` adds them to the app."""
QT = "PySide6-Essentials>=6.7"
"""In place of PyQt6, whose licence is the GPL: the app is handed out, and PySide6 is LGPL."""
_UNDER_THE_GPL = ("pyqt6",)


@dataclass(frozen=True)
class Wanted:
    """What pyproject.toml says.

    Attributes
    ----------
    version
        Of the project.
    requirements
        Of the project and of the extras for users.
    constraints
        The versions that the tests passed with.
    """

    version: str
    requirements: tuple[str, ...]
    constraints: Path

    @classmethod
    def read(cls, root: Path) -> "Wanted":
        """Read the pyproject.toml of a clone."""
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        wanted = [*project["dependencies"]]
        for extra, requirements in project["optional-dependencies"].items():
            if extra not in NOT_IN_THE_APP:
                wanted += requirements
        kept = [w for w in wanted if requirement_name(w) not in _UNDER_THE_GPL]
        return cls(project["version"], tuple(dict.fromkeys([*kept, QT])), root / "constraints.txt")

    @property
    def folder_name(self) -> str:
        """The name of the app's folder."""
        system = {"win32": "windows", "darwin": "macos"}.get(sys.platform, "linux")
        return f"{NAME}-{self.version}-{system}-{platform.machine().lower()}"


def requirement_name(requirement: str) -> str:
    """Return the normalised name of the package that a requirement is for."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    if found is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def build_wheel(root: Path, folder: Path) -> Path:
    """Build the wheel of a clone with the Python that runs this, and return it."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, root], check=True
    )
    (wheel,) = folder.glob("napari_2dmamba-*.whl")
    return wheel


def install(
    layout: Layout, wanted: Wanted, wheel: Path, torch_index: str | None, scratch: Path
) -> None:
    """Install everything with the app's own Python, torch for the CPU first."""
    run(layout, "ensurepip")
    pip(layout, "--upgrade", "pip>=24")
    limits = ("-c", wanted.constraints)
    index = ("--index-url", torch_index) if torch_index else ()
    pip(layout, *index, *limits, "torch", "torchvision")
    said = run(layout, "-c", "import torch; print(torch.version.cuda)").strip()
    if said != "None":
        raise SystemExit(
            f"bundle: this torch is for CUDA {said} and several GB large; name an index of torch "
            "for the CPU by --torch-index"
        )
    listed = scratch / "requirements.txt"
    listed.write_text("\n".join(wanted.requirements) + "\n", encoding="utf-8")
    pip(layout, *limits, "-r", listed)
    pip(layout, "--no-deps", wheel)


def pip(layout: Layout, *arguments: str | Path) -> None:
    """Install packages into the app; modules are compiled at the end, once."""
    run(layout, "pip", "install", "-q", "--no-compile", "--no-warn-script-location", *arguments)


def run(layout: Layout, module: str, *arguments: str | Path) -> str:
    """Run a module (or ``-c`` and a program) with the app's own Python, and return what it says."""
    which = ["-c"] if module == "-c" else ["-m", module]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [layout.python, "-I", *which, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=kept,
    ).stdout
