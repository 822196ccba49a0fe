"""The licences of what is in the app: collected, and none that forbids handing it out as it is."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

from scripts.bundle.layout import Layout

_FILE = re.compile(r"(licen[cs]e|copying|notice|copyright)", re.IGNORECASE)
_GPL = re.compile(r"\bA?GPL|GNU (Affero )?General Public License", re.IGNORECASE)
_NOTE = """\
What is in this app, and under which licences.

napari-2dmamba itself: MIT, see napari-2dmamba in this folder.

Qt and PySide6 are under the GNU Lesser General Public License, version 3. They are the unchanged
files of the package PySide6-Essentials (parts that the app never loads are left out) in
python/lib/python3.*/site-packages/PySide6, and may be replaced there by files of your own making:
    python/bin/python3 -m pip install --force-reinstall PySide6-Essentials==VERSION
Their sources: https://code.qt.io and https://download.qt.io, under the same version.

Licence texts are in the folder of each name.

"""


def refuse_gpl(layout: Layout) -> None:
    """Raise SystemExit where a package may be handed on under the GPL only."""
    names = [d.name for d in distributions(path=[str(layout.packages)]) if is_gpl(d)]
    if names:
        raise SystemExit(f"bundle: under the GPL, which the app is not: {', '.join(sorted(names))}")


def is_gpl(package: Distribution) -> bool:
    """Return whether all that a package says of its licence is the GPL or the AGPL."""
    said = licence_of(package)
    choices = re.split(r"\s+OR\s+|;\s*", said)
    return bool(_GPL.search(said)) and all(_GPL.search(choice) for choice in choices)


def licence_of(package: Distribution) -> str:
    """Return what a package says of its licence; choices are parted by ``OR`` or ``;``."""
    metadata = package.metadata
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    classifiers = [
        line.split(" :: ")[-1]
        for line in metadata.get_all("Classifier") or ()
        if line.startswith("License ::")
    ]
    written = str(metadata.get("License") or "").strip()
    # some put the whole text here
    return written if 0 < len(written) < 80 else "; ".join(classifiers) or "see its folder"


def collect(layout: Layout, copied: Iterable[Path]) -> None:
    """Write the folder ``licenses``: a list, and the texts by package.

    Parameters
    ----------
    copied
        Libraries of this system that are in the app.
    """
    folder = layout.root / "licenses"
    folder.mkdir()
    lines = []
    for package in sorted(distributions(path=[str(layout.packages)]), key=lambda d: d.name.lower()):
        lines.append(f"{package.name} {package.version}: {licence_of(package)}")
        copy_texts(package, folder / package.name)
    text = layout.library / "LICENSE.txt"
    if text.exists():
        shutil.copy(text, folder / "Python.txt")
    for library in sorted({path.name: path for path in copied}.values()):
        owner = debian_owner(library)
        lines.append(f"{library.name}: of the Debian package {owner}")
        shutil.copy(Path("/usr/share/doc") / owner / "copyright", folder / f"{owner}.txt")
    (folder / "README.txt").write_text(_NOTE + "\n".join(lines) + "\n", encoding="utf-8")


def copy_texts(package: Distribution, folder: Path) -> None:
    """Copy the texts of licences that a package brings into a folder."""
    for file in package.files or ():
        source = Path(str(package.locate_file(file)))
        is_text = source.suffix.lower() not in (".py", ".pyc", ".pyi", ".so")
        if is_text and _FILE.match(source.name) and source.is_file():
            target = folder / "-".join(file.parts[-2:])
            folder.mkdir(exist_ok=True)
            shutil.copy(source, target)


def debian_owner(library: Path) -> str:
    """Return the name of the Debian package that a library of this system came with."""
    for path in (library, library.resolve(), Path("/usr") / library.relative_to("/")):
        said = subprocess.run(["dpkg", "-S", path], capture_output=True, text=True, check=False)
        if said.returncode == 0:
            return said.stdout.split(":")[0]
    raise SystemExit(f"bundle: no package owns {library}, so its licence is not known")
