"""CSV lists of slides."""

from pathlib import Path

from napari_2dmamba.cohort.manifest import read_manifest
from napari_2dmamba.errors import UserError
from tests.fuzz.mutate import Seed

ALLOWED = UserError
_LINES = "slide,label,mpp,patient\r\nscans/a.tif,tumour,0.25,P1\r\nscans/b.tif,grün,,P2\r\n"


def seeds(folder: Path) -> list[Seed]:
    made = {
        "comma.csv": _LINES.encode(),
        "sep.csv": ("sep=;\r\n" + _LINES.replace(",", ";")).encode("cp1252"),
        "excel.csv": _LINES.replace("\r\n", ",,\r\n").encode("utf-8-sig"),
        "utf16.csv": _LINES.replace(",", "\t").encode("utf-16"),
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return [Seed(folder / name, text=True) for name in made]


def drive(path: Path) -> None:
    for slide in read_manifest(path):
        assert slide.mpp is None or 0 < slide.mpp < 100
