"""``python -m scripts.bundle``: build the app for the system this runs on."""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.bundle import archives, contents, launchers, libraries, licences, packages
from scripts.bundle.layout import Layout

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bundle", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the results")
    parser.add_argument(
        "--python",
        type=Path,
        default=Path(sys.base_prefix),
        metavar="PREFIX",
        help="the Python to put in: the folder that holds its bin (default: the one running this). "
        "One built for old systems, as python-build-standalone is, makes an app for old systems; "
        "one built without profile-guided optimisation starts a third slower",
    )
    parser.add_argument(
        "--wheel", type=Path, help="a wheel of this project (default: one is built from here)"
    )
    parser.add_argument(
        "--torch-index", metavar="URL", help="package index to take torch for the CPU from"
    )
    parser.add_argument("--no-archives", action="store_true", help="leave it at the folder")
    parser.add_argument("--quick", action="store_true", help="pack fast and large, for a trial")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    layout = build(options)
    print(f"folder: {layout.root}, {megabytes(layout.root)} MB", flush=True)
    if not options.no_archives:
        for archive in archives.pack(layout, options.out, quick=options.quick):
            print(f"{archive.suffix.lstrip('.')}: {archive}, {megabytes(archive)} MB", flush=True)


def build(options: argparse.Namespace) -> Layout:
    """Return the finished folder; each step needs the one before."""
    wanted = packages.Wanted.read(ROOT)
    layout = Layout(options.out.resolve() / wanted.folder_name, sys.platform)
    if layout.root.exists():
        shutil.rmtree(layout.root)
    step("copying Python")
    contents.copy_python(options.python.resolve(), layout)
    with tempfile.TemporaryDirectory() as scratch:
        step("installing packages")
        wheel = options.wheel or packages.build_wheel(ROOT, Path(scratch))
        packages.install(layout, wanted, wheel, options.torch_index, Path(scratch))
    licences.refuse_gpl(layout)
    step("leaving out what is never used")
    contents.drop_unused(layout)
    copied: list[Path] = []
    if layout.is_linux:
        step("adding libraries")
        copied = libraries.complete(layout)
    licences.collect(layout, copied)
    launchers.add(layout, wanted.version)
    shutil.copy(ROOT / "constraints.txt", layout.root)
    step("compiling")
    contents.compile_modules(layout)
    said = subprocess.run(
        [layout.launcher, "--version"], check=True, capture_output=True, text=True
    ).stdout
    if wanted.version not in said:
        raise SystemExit(f"bundle: the app says {said!r}, which is not {wanted.version}")
    return layout


def step(what: str) -> None:
    """Say what is done now."""
    print(f"bundle: {what}", flush=True)


def megabytes(path: Path) -> int:
    """Return the size of a file, or of all in a folder, in MB of 10^6 bytes."""
    files = path.rglob("*") if path.is_dir() else [path]
    return round(sum(f.lstat().st_size for f in files if not f.is_dir()) / 1e6)


if __name__ == "__main__":
    main()
