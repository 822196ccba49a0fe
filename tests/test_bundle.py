"""The small steps that make the app; the whole is built and driven in the release workflow."""

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path
from xml.etree import ElementTree

import pytest

from napari_2dmamba import __version__
from napari_2dmamba.file_suffixes import SLIDE_SUFFIXES
from scripts.bundle import archives, contents, launchers, libraries, licences, packages
from scripts.bundle.layout import NAME, Layout

ROOT = Path(__file__).parents[1]
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the Linux app")

SAYS = r"""#!/bin/sh
printf '%s|' "$@"
printf '%s,%s,%s' "${PYTHONPATH-none}" "${LD_LIBRARY_PATH-none}" "$QT_API"
"""


@pytest.fixture
def app(tmp_path: Path) -> Layout:
    """A folder with all that is ours, and in place of Python a program that says what it got."""
    layout = Layout(tmp_path / "Program Files" / "the app", "linux")
    (layout.home / "bin").mkdir(parents=True)
    (layout.home / "lib/python3.11/site-packages").mkdir(parents=True)
    layout.python.write_text(SAYS)
    layout.python.chmod(0o755)
    launchers.add(layout, "1.2.3")
    return layout


@on_linux
def test_the_launcher_finds_its_folder_through_links_and_spaces(app: Layout) -> None:
    bin_folder = app.root.parent / "my bin"
    bin_folder.mkdir()
    (bin_folder / "first").symlink_to("../the app/napari-2dmamba")
    (bin_folder / "second").symlink_to(bin_folder / "first")
    theirs = {"PYTHONPATH": "/theirs", "LD_LIBRARY_PATH": "/theirs", "QT_API": "pyqt5"}
    for path in (f"{bin_folder}:{os.environ['PATH']}", os.environ["PATH"]):
        command = "second" if str(bin_folder) in path else "./second"
        said = subprocess.run(
            ["sh", "-c", f'{command} "a slide.svs" --x'],
            cwd=bin_folder,
            env={**os.environ, **theirs, "PATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert said == "-I|-m|napari_2dmamba.cli|a slide.svs|--x|none,none,pyside6"


@on_linux
def test_install_and_uninstall_change_only_what_is_theirs(app: Layout, tmp_path: Path) -> None:
    home = tmp_path / "a home"
    home.mkdir()
    (home / "mine.txt").write_text("mine")
    before = {*home.rglob("*")}
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}

    def run(script: Path) -> str:
        return subprocess.run(
            [script], env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert "is in the menu" in run(app.root / "install.sh")
    link = home / ".local/bin/napari-2dmamba"
    assert link.resolve() == app.launcher
    entry = home / ".local/share/applications/napari-2dmamba.desktop"
    assert f'Exec="{app.root}/napari-2dmamba" view %F\n' in entry.read_text()
    validate(entry)
    assert str(app.root) in run(app.root / "uninstall.sh")
    left = {path for path in {*home.rglob("*")} - before if path.is_file() or path.is_symlink()}
    # what the desktop's own tools keep
    assert {p.name for p in left if "/mime/" not in str(p)} <= {"mimeinfo.cache"}
    assert not [path for path in left if NAME in path.name]
    assert (home / "mine.txt").exists()
    link.parent.mkdir(exist_ok=True)
    link.symlink_to("/another/copy")
    run(app.root / "uninstall.sh")
    assert link.is_symlink()


def validate(entry: Path) -> None:
    program = shutil.which("desktop-file-validate")
    if program is not None:
        said = subprocess.run([program, entry], capture_output=True, text=True, check=False)
        assert (said.returncode, said.stdout) == (0, "")


def test_every_kind_of_slide_and_a_saved_run_open_with_the_app() -> None:
    tree = ElementTree.parse(launchers.LINUX / f"{NAME}.xml")
    space = "{http://www.freedesktop.org/standards/shared-mime-info}"
    kinds = {
        glob.attrib["pattern"]: kind.attrib["type"]
        for kind in tree.iter(f"{space}mime-type")
        for glob in kind.iter(f"{space}glob")
    }
    of_others = {"*.tif": "image/tiff", "*.tiff": "image/tiff", "*.dcm": "application/dicom"}
    kinds.update(of_others)
    entry = (launchers.LINUX / f"{NAME}.desktop").read_text()
    told = next(line for line in entry.splitlines() if line.startswith("MimeType="))
    opened = set(told.removeprefix("MimeType=").strip(";").split(";"))
    folders = {".zarr"}  # the desktop has no kinds of folders
    wanted = {f"*{suffix}" for suffix in SLIDE_SUFFIXES if suffix not in folders} | {"run.json"}
    assert wanted <= set(kinds)
    assert set(kinds.values()) == opened
    validate(launchers.LINUX / f"{NAME}.desktop")


def test_the_packages_are_those_of_users_with_a_qt_that_may_be_handed_out() -> None:
    wanted = packages.Wanted.read(ROOT)
    names = {packages.requirement_name(one) for one in wanted.requirements}
    assert wanted.version == __version__
    assert {"napari", "torch", "pyside6-essentials", "lifelines", "timm", "zarr"} <= names
    assert not names & {"pyqt6", "pytest", "ruff", "mkdocs-material"}


def test_what_is_left_out(tmp_path: Path) -> None:
    kept = [
        "torch/bin/torch_shm_manager", "torch/lib/libtorch_cpu.so", "napari_2dmamba/__init__.pyi",
        "numpy/testing/__init__.py", "PySide6/QtCore.abi3.so", "PySide6/Qt/lib/libQt6Core.so.6",
        "PySide6/Qt/lib/libicudata.so.73", "PySide6/Qt/plugins/platforms/libqxcb.so",
        "PySide6/Qt/plugins/imageformats/libqjpeg.so", "pyarrow/libarrow.so.2400",
    ]  # fmt: skip
    dropped = [
        "torch/bin/protoc", "torch/bin/test_api", "torch/include", "torch/lib/libtorchbind_test.so",
        "pandas/tests", "numpy/random/lib/libnpyrandom.a", "PySide6/QtQml.abi3.so",
        "PySide6/Qt/lib/libQt6Qml.so.6", "PySide6/Qt/plugins/platforms/libqvnc.so",
        "PySide6/Qt/plugins/imageformats/libqpdf.so", "pyarrow/libarrow_flight.so.2400",
    ]  # fmt: skip
    for name in kept + dropped:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith(("include", "tests")) else path.touch()
    unused = {path.relative_to(tmp_path).as_posix() for path in contents.unused_in(tmp_path)}
    assert unused == set(dropped)


@pytest.mark.parametrize(
    ("said", "is_gpl"),
    [
        ("License-Expression: GPL-3.0-only", True),
        ("License: AGPLv3+", True),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)", True),
        ("License-Expression: LGPL-3.0-only OR GPL-2.0-only OR GPL-3.0-only", False),
        ("License: MIT", False),
        ("Classifier: License :: OSI Approved :: GNU Lesser General Public License", False),
    ],
)
def test_the_gpl_is_told_from_what_may_be_handed_out(
    tmp_path: Path, said: str, is_gpl: bool
) -> None:
    (tmp_path / "METADATA").write_text(f"Metadata-Version: 2.1\nName: x\nVersion: 1\n{said}\n")
    assert licences.is_gpl(PathDistribution(tmp_path)) is is_gpl


def test_the_c_library_that_is_needed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x7fELF..GLIBC_2.2.5\0GLIBC_2.28\0")
    (tmp_path / "b").write_bytes(b"\x7fELF..GLIBC_2.4\0GLIBCXX_3.4.99\0")
    assert libraries.oldest_glibc([tmp_path / "a", tmp_path / "b"]) == "2.28"
    assert libraries.library_name("libQt6Core.so.6") == "libQt6Core"
    assert libraries.library_name("libstdc++.so.6") == "libstdc++"


@on_linux
def test_the_archives(app: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("dpkg-deb") or not shutil.which("zstd"):
        pytest.skip("dpkg-deb or zstd is missing")
    tar, deb = archives.pack(app, tmp_path, quick=True)
    out = tmp_path / "elsewhere"
    out.mkdir()
    subprocess.run(["tar", "-xf", tar, "-C", out], check=True)
    assert (out / "the app/napari-2dmamba").stat().st_mode & 0o777 == 0o755
    said = subprocess.run(["dpkg-deb", "-I", deb], capture_output=True, text=True, check=True)
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    assert f"Architecture: {machine}\n" in said.stdout
    assert "Version: 1.2.3\n" in said.stdout
    subprocess.run(["dpkg-deb", "-x", deb, out / "deb"], check=True)
    assert (out / "deb/usr/bin/napari-2dmamba").readlink() == Path(f"/opt/{NAME}/{NAME}")
    assert (out / "deb/opt" / NAME / "python/bin/python3").read_text() == SAYS
    assert (out / "deb/usr/share/applications" / f"{NAME}.desktop").exists()


def test_windows_is_packed_as_a_zip(app: Layout, tmp_path: Path) -> None:
    windows = Layout(app.root, "win32")
    launchers.add(windows, "1.2.3")
    (archive,) = archives.pack(windows, tmp_path)
    names = zipfile.ZipFile(archive).namelist()
    assert {"the app/napari-2dmamba.cmd", "the app/napari-2dmamba-viewer.cmd"} <= set(names)
