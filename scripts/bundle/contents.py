"""What of Python and of the packages is in the app, and what is left out."""

import shutil
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from scripts.bundle.layout import Layout

UNUSED_LIBRARY = (
    *("test", "idlelib", "tkinter", "turtledemo", "turtle.py", "lib2to3", "pydoc_data"),
    *("config-3*", "_tkinter*", "__pycache__", "site-packages", "EXTERNALLY-MANAGED"),
)
"""Of the standard library, wherever in it; ``ensurepip`` goes when pip is there."""
UNUSED_MODULES = ("_tkinter.*", "readline.*", "nis.*", "_gdbm.*", "_dbm.*", "ossaudiodev.*")
"""Of the compiled modules; GNU readline and gdbm are under the GPL."""

QT_MODULES = (
    *("Core", "Gui", "Widgets", "OpenGL", "OpenGLWidgets", "Svg", "SvgWidgets", "DBus"),
    *("PrintSupport", "Test", "XcbQpa", "WaylandClient", "WaylandEglClientHwIntegration"),
    *("WlShellIntegration",),
)
QT_PLUGINS = (
    *("platforms/libqxcb.*", "platforms/libqwayland*", "platforms/libqoffscreen.*"),
    *(f"imageformats/libq{name}.*" for name in ("gif", "ico", "jpeg", "svg", "webp")),
    *("iconengines/*", "platforminputcontexts/libcompose*", "platforminputcontexts/libibus*"),
    *("platformthemes/libqxdgdesktopportal*",),
    *("wayland-decoration-client/*", "wayland-shell-integration/*xdg-shell.*"),
    *("wayland-graphics-integration-client/*", "xcbglintegrations/*"),
)
_QT_UNUSED = (
    *("Qt/qml", "Qt/metatypes", "Qt/translations", "Qt/libexec", "include", "typesystems", "glue"),
    *("doc", "scripts", "*.pyi", "assistant*", "designer*", "linguist*", "lrelease*", "lupdate*"),
    *("qmlformat*", "qmllint*", "qmlls*", "svgtoqml*", "balsam*", "qsb*", "Assistant.app"),
    *("Designer.app", "Linguist.app", "resources", "translations", "metatypes", "qml"),
)

UNUSED_PACKAGES = (
    *(f"torch/{name}" for name in ("include", "test", "share", "_inductor/codegen/cuda")),
    *("torch/bin/[!t]*", "torch/bin/t[!o]*"),  # all but torch_shm_manager, which torch starts
    *("torch/lib/*_test.so", "torch/lib/libbackend_with_compiler.so", "torch/lib/*.lib"),
    *("torch/lib/libaoti_custom_ops.so",),
    *("pyarrow/include", "pyarrow/src", "pyarrow/*flight*"),
    *("jedi/third_party/django-stubs", "numpy/_core/include", "numpy/_core/lib"),
    *("matplotlib/mpl-data/sample_data", "onnxruntime/transformers", "onnxruntime/tools"),
    *(f"PySide6/{name}" for name in _QT_UNUSED),
)
"""Of the packages, by a pattern for each path; none of these is imported by what the app does."""
_UNUSED_SUFFIXES = (".a", ".pyx", ".pxd", ".pxi")
_UNUSED_FOLDERS = ("tests", "__pycache__")


def copy_python(prefix: Path, layout: Layout) -> None:
    """Copy a Python, without its packages and without what a desktop program never uses."""
    if not prefix.joinpath("python.exe" if layout.is_windows else "bin/python3").exists():
        raise SystemExit(f"bundle: there is no Python in {prefix}; name its prefix by --python")
    home = layout.home
    if layout.is_windows:
        shutil.copytree(prefix, home, ignore=shutil.ignore_patterns(*UNUSED_LIBRARY))
        layout.packages.mkdir(exist_ok=True)
        return
    interpreter = (prefix / "bin/python3").resolve()
    (home / "bin").mkdir(parents=True)
    shutil.copy2(interpreter, home / "bin")
    for name in {"python3", "python"} - {interpreter.name}:
        (home / "bin" / name).symlink_to(interpreter.name)
    library = prefix / "lib" / interpreter.name
    if not library.is_dir():
        raise SystemExit(f"bundle: {interpreter} has no standard library at {library}")
    shutil.copytree(
        library,
        home / "lib" / interpreter.name,
        ignore=shutil.ignore_patterns(*UNUSED_LIBRARY),
        symlinks=True,
    )
    layout.packages.mkdir()
    for shared in (prefix / "lib").glob(f"lib{interpreter.name}.*"):
        if ".a" not in shared.suffixes:
            shutil.copy2(shared, home / "lib", follow_symlinks=False)
    for module in (layout.library / "lib-dynload").iterdir():
        if any(fnmatchcase(module.name, pattern) for pattern in UNUSED_MODULES):
            module.unlink()


def drop_unused(layout: Layout) -> None:
    """Delete what is installed and never used."""
    shutil.rmtree(layout.library / "ensurepip", ignore_errors=True)
    for script in (layout.home / ("Scripts" if layout.is_windows else "bin")).iterdir():
        if not script.name.startswith("python"):  # they name the folder they were built in
            script.unlink()
    for path in [*unused_in(layout.packages)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def unused_in(packages: Path) -> Iterator[Path]:
    """Yield the files and folders of installed packages that the app does without."""
    for pattern in UNUSED_PACKAGES:
        yield from packages.glob(pattern)
    for path in packages.rglob("*"):
        if path.suffix in _UNUSED_SUFFIXES or (path.name in _UNUSED_FOLDERS and path.is_dir()):
            yield path
    yield from unused_qt(packages / "PySide6")


def unused_qt(pyside: Path) -> Iterator[Path]:
    """Yield the modules, libraries and plugins of Qt that no part of the app asks for."""
    for module in pyside.glob("Qt*.so"):
        if module.name.removeprefix("Qt").split(".")[0] not in QT_MODULES:
            yield module
    for library in (pyside / "Qt/lib").glob("libQt6*"):
        if library.name.removeprefix("libQt6").split(".")[0] not in QT_MODULES:
            yield library
    yield from pyside.glob("libpyside6qml*")
    plugins = pyside / "Qt/plugins"
    for plugin in plugins.glob("*/*"):
        name = plugin.relative_to(plugins).as_posix()
        if not any(fnmatchcase(name, pattern) for pattern in QT_PLUGINS):
            yield plugin


def compile_modules(layout: Layout) -> None:
    """Compile every module, so that nothing is written at the first start; /opt is read only."""
    subprocess.run(
        [
            *(layout.python, "-I", "-m", "compileall", "-q", "-j", "0"),
            # trusted as they are: neither archive nor package manager keeps times for sure
            *("--invalidation-mode", "unchecked-hash", layout.library),
        ],
        stdout=subprocess.DEVNULL,  # templates that are no Python; they are not imported either
        stderr=subprocess.DEVNULL,
        check=False,
    )
