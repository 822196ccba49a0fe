"""From slides without features to a trained model, in one command."""

from pathlib import Path

import pytest

from napari_2dmamba.cli import main
from napari_2dmamba.cohort.table_features import extract_table
from napari_2dmamba.errors import CohortError
from napari_2dmamba.models import read_header
from napari_2dmamba.tasks import read_table
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


def test_slides_without_a_file_are_said(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("slide,patient,label\nabc,p,0\nabd,q,1\n")
    with pytest.raises(CohortError, match="2 slides have neither features nor a slide file"):
        extract_table(read_table(tmp_path / "t.csv"), out=tmp_path / "out")
    (tmp_path / "t.csv").write_text("slide,patient,label\nabc.tif,p,0\nabd.tif,q,1\n")
    with pytest.raises(CohortError, match="2 of 2 slides failed"):
        extract_table(read_table(tmp_path / "t.csv"), out=tmp_path / "out")
