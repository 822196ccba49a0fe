"""From slides without features to a trained model, in one command."""

from pathlib import Path

import pytest
from shapely import box

from napari_2dmamba.cli import main
from napari_2dmamba.cohort.table_features import extract_table
from napari_2dmamba.errors import CohortError, TaskError
from napari_2dmamba.features import read_features
from napari_2dmamba.models import read_header
from napari_2dmamba.pipeline import RunSettings
from napari_2dmamba.slide import GridSettings, Regions, write_regions
from napari_2dmamba.tasks import read_table
from napari_2dmamba.tasks.splits import Fold
from napari_2dmamba.training.report_facts import commands
from tests.tiny import PATCH, write_slide


def test_slides_are_extracted_and_trained_on(tmp_path: Path, capsys) -> None:
    lines = ["slide,patient,label"]
    for number in range(4):
        write_slide(tmp_path / f"s{number}.tif", seed=number)
        lines.append(f"s{number}.tif,p{number},{number % 2}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    command = [
        "train", str(tmp_path / "t.csv"), "--out", str(out), "--extract", "--patch-size",
        str(PATCH), "--architecture", "abmil", "--method", "all", "--validation-share", "0",
        "--epochs", "1", "--device", "cpu", "--no-final", "--model-option", "hidden=8",
    ]  # fmt: skip
    assert main(command) == 0
    header = read_header(out / "fold-0" / "model.safetensors")
    assert (header.encoder, header.patch_size) == ("stain-texture-v1", PATCH)
    assert header.feature_size == 102
    assert "Not tested on any slide" in (out / "fold-0" / "model-card.md").read_text()


def test_the_mpp_and_regions_of_a_table_hold_for_its_features(tmp_path: Path) -> None:
    """As in a cohort's list: the slides state 0.5, and are of 0.25 and 1."""
    lines = ["slide,patient,label,mpp,regions"]
    for number, mpp in enumerate((0.25, 1.0)):
        write_slide(tmp_path / f"s{number}.tif", seed=number)
        lines.append(f"s{number}.tif,p{number},{number},{mpp},r.geojson")
    write_regions(Regions.of([box(384, 256, 896, 768)]), tmp_path / "r.geojson")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    table = read_table(tmp_path / "t.csv")
    settings = RunSettings(grid=GridSettings(patch_size=PATCH))
    made = extract_table(table, settings, out=tmp_path / "out")
    for slide, side in zip(made.slides, (128, 32), strict=True):
        bag = read_features(slide.features)
        assert (bag.patch_size_level0, bag.slide_mpp) == (side, slide.mpp)
        assert len(bag) == (512 // side) ** 2
    fold = Fold((), (), ("s0",))
    (said,) = commands(table, {"fold 0": fold}, {"fold 0": tmp_path / "m.safetensors"}).values()
    assert '--mpp 0.25 --regions "r.geojson"' in said
    (tmp_path / "t.csv").write_text("slide,patient,label,mpp\ns0.tif,p,0,20x\n")
    with pytest.raises(TaskError, match="row 2: mpp is '20x'"):
        read_table(tmp_path / "t.csv")


def test_slides_without_a_file_are_said(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("slide,patient,label\nabc,p,0\nabd,q,1\n")
    with pytest.raises(CohortError, match="2 slides have neither features nor a slide file"):
        extract_table(read_table(tmp_path / "t.csv"), out=tmp_path / "out")
    (tmp_path / "t.csv").write_text("slide,patient,label\nabc.tif,p,0\nabd.tif,q,1\n")
    with pytest.raises(CohortError, match="2 of 2 slides failed"):
        extract_table(read_table(tmp_path / "t.csv"), out=tmp_path / "out")
