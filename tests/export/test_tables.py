import csv
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from napari_2dmamba.errors import ExportError
from napari_2dmamba.export.patches import patch_scores, values_at
from napari_2dmamba.export.tables import write_table

from .material import (
    ATTENTION,
    CELLS,
    COORDS,
    SIZE,
    TISSUE,
    attention_map,
    classification,
    scores,
)  # fmt: skip


def test_parquet_holds_every_column_with_its_unit(tmp_path) -> None:
    path = write_table(scores(occlusion=ATTENTION * 2), tmp_path / "s.parquet")
    table = pq.read_table(path).to_pydict()
    assert list(table) == [
        "row", "col", "x_level0_px", "y_level0_px", "size_level0_px", "x_um", "y_um", "size_um",
        "attention", "rank", "percentile", "tissue_fraction", "occlusion",
    ]  # fmt: skip
    np.testing.assert_array_equal(np.stack([table["row"], table["col"]], 1), CELLS)
    np.testing.assert_array_equal(np.stack([table["x_level0_px"], table["y_level0_px"]], 1), COORDS)
    np.testing.assert_array_equal(np.stack([table["x_um"], table["y_um"]], 1), COORDS * 0.5)
    assert set(table["size_um"]) == {50.0}
    np.testing.assert_array_equal(np.float32(table["attention"]), ATTENTION)
    np.testing.assert_array_equal(np.float32(table["tissue_fraction"]), TISSUE)
    np.testing.assert_array_equal(np.float32(table["occlusion"]), ATTENTION * 2)
    assert table["rank"] == [1, 3, 7, 2, 3, 10, 5, 6, 7, 9]


def test_csv_says_the_same(tmp_path) -> None:
    path = write_table(scores(), tmp_path / "s.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(COORDS)
    assert rows[0]["x_level0_px"] == "100"
    assert rows[0]["rank"] == "1"
    np.testing.assert_array_equal(np.float32([r["attention"] for r in rows]), ATTENTION)


def test_a_missing_score_is_an_empty_field(tmp_path) -> None:
    holes = ATTENTION.copy()
    holes[2] = np.nan
    assert pq.read_table(write_table(scores(a=holes), tmp_path / "s.parquet"))["a"].null_count == 1
    with write_table(scores(a=holes), tmp_path / "s.csv").open(newline="") as file:
        assert list(csv.DictReader(file))[2]["a"] == ""


def test_without_mpp_there_are_only_pixels(tmp_path) -> None:
    names = pq.read_table(write_table(scores(mpp=None), tmp_path / "s.parquet")).column_names
    assert not [n for n in names if n.endswith("um")]
    assert "x_level0_px" in names


def test_a_map_may_be_called_like_a_column(tmp_path) -> None:
    table = pq.read_table(write_table(scores(attention=ATTENTION * 0), tmp_path / "s.parquet"))
    assert table["attention"][0].as_py() == pytest.approx(0.3)
    assert table["attention (map)"][0].as_py() == 0


def test_maps_of_one_name_are_numbered_and_attention_stands_once(tmp_path) -> None:
    twice = [replace(attention_map(), name="occlusion", values=attention_map().values * n)
             for n in (2, 3)]  # fmt: skip
    gathered = patch_scores(COORDS, SIZE, classification(), maps=[attention_map(), *twice])
    assert list(gathered.maps) == ["occlusion", "occlusion (2)"]
    np.testing.assert_array_equal(gathered.maps["occlusion (2)"], ATTENTION * np.float32(3))


def test_a_map_smaller_than_the_slide_gives_nothing_beyond_it() -> None:
    part = replace(attention_map(), values=attention_map().values[:2, :2])
    found = values_at(part, COORDS, SIZE)
    inside = (CELLS < 2).all(axis=1)
    np.testing.assert_array_equal(found[inside], ATTENTION[inside])
    assert np.isnan(found[~inside]).all()


def test_other_suffixes_are_refused(tmp_path) -> None:
    with pytest.raises(ExportError, match=r"s\.xlsx .* use \.csv or \.parquet"):
        write_table(scores(), tmp_path / "s.xlsx")


def test_a_path_below_a_file_is_refused_in_one_sentence(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot be written"):
        write_table(scores(), tmp_path / "file" / "s.parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
