"""Rooms keep apart: the core needs no napari and no Qt, and light commands load no torch."""

import subprocess
import sys

GUI = ("napari", "qtpy", "magicgui", "superqt", "PyQt6", "PySide6", "vispy")
BLOCK = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {GUI!r}:
            raise ImportError("blocked in this test: " + name)
sys.meta_path.insert(0, Refuse())
"""


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_room_but_the_plugin_imports_without_napari_and_qt() -> None:
    code = (
        BLOCK
        + """
import importlib, pathlib, napari_2dmamba
package = pathlib.Path(napari_2dmamba.__file__).parent
modules = [path.relative_to(package.parent).with_suffix("") for path in package.rglob("*.py")]
left_out = {"plugin", "__main__"}
names = [".".join(module.parts) for module in modules if not left_out & {*module.parts}]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    )
    assert int(run_python(code)) > 20


def test_importing_the_package_loads_neither_torch_nor_napari() -> None:
    code = "import napari_2dmamba, sys; print([m for m in ('torch', 'napari') if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_help_loads_neither_torch_nor_napari() -> None:
    code = """
import sys
from napari_2dmamba.cli import main
try:
    main(["run", "--help"])
except SystemExit as end:
    assert end.code == 0
print("LOADED", [m for m in ("torch", "napari") if m in sys.modules])
"""
    out = run_python(code)
    assert "--patch-size" in out
    assert "LOADED []" in out
