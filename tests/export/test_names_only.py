"""What is exported tells neither where files lie, nor whose machine it is, nor a label."""

import getpass
import json
import os
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from shapely import box

from napari_2dmamba.cli import main
from napari_2dmamba.export.exporting import export_run
from napari_2dmamba.export.formats import USUAL
from napari_2dmamba.export.run_folder import open_run
from napari_2dmamba.pipeline import run
from napari_2dmamba.slide import Regions
from tests.tiny import write_checkpoint, write_slide

PATIENT, LABEL_GREY = "Mustermann^Erika", 137


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose slide tells of a patient in its metadata, in a folder named after a case."""
    folder = tmp_path_factory.mktemp("case-of-erika")
    slide = write_slide(folder / "tiny.tif")
    with tifffile.TiffWriter(slide, append=True) as writer:
        label = np.full((64, 64), LABEL_GREY, np.uint8)
        writer.write(label, description=f"label Patient={PATIENT}", photometric="minisblack")
    model = write_checkpoint(folder / "tiny.safetensors")
    regions = Regions.of([box(100, 100, 900, 900)])
    run(slide, model, regions=regions, out=folder / "run", cache=folder / "features")
    return folder


def secrets(folder: Path) -> list[str]:
    found = [str(folder), folder.name, PATIENT, "Mustermann"]
    of_machine = os.path.expanduser("~"), getpass.getuser(), platform.node()
    return found + [name for name in of_machine if len(name) > 3]  # shorter ones occur by chance


def assert_silent(files: list[Path], folder: Path) -> None:
    assert files
    for file in files:
        data = file.read_bytes()
        for secret in secrets(folder):
            for encoded in (secret.encode(), secret.encode("utf-16-le")):
                assert encoded not in data, (file.name, secret)


def test_exports_name_files_and_no_places(folder: Path, tmp_path: Path) -> None:
    files = export_run(folder / "run", formats=(*USUAL, "report", "h5ad"), out=tmp_path)
    kinds = {"".join(file.suffixes[-2:]) for file in files}
    assert len(files) == 10, kinds  # also what the run was restricted to
    assert_silent(files, folder)
    record = json.loads((tmp_path / "tiny-record.json").read_text())
    assert record["slide"]["name"] == "tiny.tif"
    assert record["model"]["checkpoint"] == "tiny.safetensors"


def test_a_saved_run_keeps_its_places_relative(folder: Path) -> None:
    data = json.loads((folder / "run" / "run.json").read_text())
    assert data["slide"]["path"] == "../tiny.tif"
    assert data["model"]["checkpoint_path"] == "../tiny.safetensors"
    assert data["features"]["path"].startswith("../features/features-")
    assert_silent([one for one in (folder / "run").iterdir() if one.is_file()], folder)
    assert open_run(folder / "run").find_slide() == folder / "tiny.tif"


def test_full_paths_on_request(folder: Path, tmp_path: Path, capsys) -> None:
    given = ["export", str(folder / "run"), "--as", "record", "--out", str(tmp_path)]
    assert main([*given, "--full-paths"]) == 0
    record = json.loads((tmp_path / "tiny-record.json").read_text())
    assert record["slide"]["path"] == str(folder / "tiny.tif")


def test_a_comparison_names_no_places(folder: Path, tmp_path: Path, capsys) -> None:
    model = str(folder / "tiny.safetensors")
    other = str(shutil.copy(model, tmp_path / "other.safetensors"))
    given = ["compare", str(folder / "tiny.tif"), "--model", f"{model}=a", "--model", f"{other}=b"]
    code = main([*given, "--out", str(tmp_path / "c")])
    assert code == 0, capsys.readouterr().err
    assert_silent([one for one in (tmp_path / "c").rglob("*") if one.is_file()], folder)


def test_regions_above_on_the_command_line(folder: Path, tmp_path: Path, capsys) -> None:
    given = ["export", str(folder / "run"), "--as", "csv", "--out", str(tmp_path)]
    more = ["--regions-above", "80%", "--class-name", "hot", "--colour", "c80000"]
    assert main([*given, *more, "--json"]) == 0
    file = tmp_path / "tiny-attention-above.geojson"
    assert str(file) in json.loads(capsys.readouterr().out)["files"]
    data = json.loads(file.read_text())["features"]
    assert data[0]["properties"]["classification"] == {"name": "hot", "color": [200, 0, 0]}
    saved = open_run(folder / "run")
    above = saved.maps[0].values > np.nanpercentile(saved.maps[0].values, 80)
    patches = sum(one["properties"]["measurements"]["Patches"] for one in data)
    assert patches == above.sum() > 0
    with pytest.raises(SystemExit):
        main([*given, "--regions-above", "many"])
    assert main([*given, "--regions-above", "99999"]) == 1
    assert "choose a lower threshold" in capsys.readouterr().err
    assert main([*given, "--regions-above", "1", "--map", "erf"]) == 1
    assert "has no map 'erf'; it has attention" in capsys.readouterr().err


def test_a_slide_with_a_very_long_name_is_exported(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / ("x" * 236 + ".tif"))
    model = write_checkpoint(tmp_path / "m.safetensors")
    run(slide, model, out=tmp_path / "run")
    files = export_run(tmp_path / "run")
    assert all(file.is_file() for file in files)
    assert len({file.name for file in files}) == len(files)
