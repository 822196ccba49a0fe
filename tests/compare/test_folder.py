import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_2dmamba.compare import Comparison, Contender, compare, write_comparison
from napari_2dmamba.errors import Cancelled
from napari_2dmamba.slide import Slide, open_slide
from tests.tiny import write_checkpoint, write_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory):
    with open_slide(write_slide(tmp_path_factory.mktemp("slide") / "tiny.tif")) as opened:
        yield opened


@pytest.fixture(scope="module")
def comparison(slide: Slide, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("models")
    first = write_checkpoint(folder / "first.safetensors")
    second = write_checkpoint(folder / "second.safetensors", task="survival", seed=1)
    return compare(slide, [Contender("A/B", first), Contender("C", second)])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tables_maps_and_record(slide: Slide, comparison: Comparison, tmp_path: Path) -> None:
    files = write_comparison(comparison, slide, tmp_path)
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        "predictions.csv", "agreement.csv", "patches.csv", "maps/A-B.png", "maps/A-B.ome.tif",
        "maps/C.png", "maps/C.ome.tif", "comparison.json",
    ]  # fmt: skip

    first, second = rows_of(tmp_path / "predictions.csv")
    prediction, survival = (entry.prediction for entry in comparison.entries)
    assert float(first["P malignant"]) == pytest.approx(prediction.probabilities[1])
    assert first["risk"] == first["S to end of 3+ y"] == ""
    assert float(second["risk"]) == pytest.approx(survival.risk)
    assert float(second["S to end of 3+ y"]) == pytest.approx(survival.survival[2])
    assert second["answer"] == second["P malignant"] == ""

    (pair,) = rows_of(tmp_path / "agreement.csv")
    assert (pair["first"], pair["second"]) == ("A/B", "C")
    assert float(pair["spearman"]) == pytest.approx(comparison.rank_correlation()[0, 1])
    assert float(pair["shared_of_top_10_percent"]) == pytest.approx(comparison.overlap(0.1)[0, 1])

    patches = rows_of(tmp_path / "patches.csv")
    assert len(patches) == len(comparison.bag)
    scores = [float(row["C"]) for row in patches]
    np.testing.assert_allclose(scores, comparison.entries[1].scores)
    x, y = comparison.bag.coords[5]
    assert (int(patches[5]["x_level0_px"]), int(patches[5]["y_level0_px"])) == (x, y)

    pixels = tifffile.imread(tmp_path / "maps" / "C.ome.tif")
    assert np.nanmax(pixels) == pytest.approx(comparison.entries[1].scores.max())

    record = json.loads((tmp_path / "comparison.json").read_text())
    assert record["schema"] == "napari-2dmamba comparison"
    assert record["slide"]["fingerprint"] == slide.fingerprint
    assert record["features"]["patches"] == len(comparison.bag)
    assert [model["label"] for model in record["models"]] == ["A/B", "C"]
    checksums = {model["model"]["checkpoint_sha256"] for model in record["models"]}
    assert len(checksums) == 2
    assert record["models"][0]["result"]["probabilities"] == pytest.approx(
        list(prediction.probabilities)
    )
    assert record["models"][0]["peak_bytes"] == comparison.entries[0].peak_bytes
    assert "tensors held at once" in record["peak_bytes_meaning"]
    assert record["agreement"][0]["spearman"] == pytest.approx(float(pair["spearman"]))


def test_stopping_leaves_no_record(slide: Slide, comparison: Comparison, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        write_comparison(comparison, slide, tmp_path, should_stop=lambda: True)
    assert not (tmp_path / "comparison.json").exists()
    assert not list(tmp_path.glob("**/*.part.*"))
