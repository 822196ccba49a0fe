"""Tables whose features lie in stores of other programs, beside files of ours."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from napari_2dmamba.cli.checkpoints import subject_of
from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features import write_features
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.tasks import TableBags, TableSettings, read_table
from napari_2dmamba.tasks.bags import check_features, features_digest
from napari_2dmamba.tasks.table import slide_name

anndata = pytest.importorskip("anndata")
zarr = pytest.importorskip("zarr")

NAMES = ("a", "b", "c", "d")


def bag_of(number: int) -> FeatureBag:
    coords = 512 * np.stack([np.arange(3), np.full(3, number)], 1)
    features = np.full((3, 4), number, np.float32)
    return FeatureBag(features, coords, 512, 512)


def anndata_of(number: int) -> "anndata.AnnData":
    bag = bag_of(number)
    obs = pd.DataFrame(
        {"x_level0_px": bag.coords[:, 0], "y_level0_px": bag.coords[:, 1], "size_level0_px": 512},
        index=["0", "1", "2"],
    )
    return anndata.AnnData(X=bag.features, obs=obs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One slide in each kind of file and store."""
    write_features(bag_of(0), tmp_path / "a.h5")
    anndata_of(1).write_h5ad(tmp_path / "b.h5ad")
    anndata_of(2).write_zarr(tmp_path / "c.zarr")
    store = zarr.open_group(str(tmp_path / "d.zarr"), mode="w", zarr_format=3)
    for name in ("uni", "other"):
        anndata.io.write_elem(store.require_group("tables"), name, anndata_of(3))
    (tmp_path / "table.csv").write_text(
        "features,patient,label\na.h5,p,x\nb.h5ad,q,y\nc.zarr,r,x\nd.zarr/tables/uni,s,y\n"
    )
    return tmp_path


def test_all_kinds_are_read_as_the_same_features(folder: Path) -> None:
    table = read_table(folder / "table.csv")
    assert tuple(slide.name for slide in table.slides) == NAMES
    kind, problems = check_features(table)
    assert kind.feature_size == 4
    assert [problem.what for problem in problems] == ["unknown encoder"]
    for number, labelled in enumerate(TableBags(table, NAMES)):
        np.testing.assert_array_equal(labelled.bag.features, bag_of(number).features)
        np.testing.assert_array_equal(labelled.bag.coords, bag_of(number).coords)


def test_other_features_under_the_same_name_are_told(folder: Path) -> None:
    table = read_table(folder / "table.csv")
    before = features_digest(table)
    assert features_digest(read_table(folder / "table.csv")) == before
    (folder / "d.zarr" / "images").mkdir()
    (folder / "d.zarr" / "images" / "picture").write_text("added later by another program")
    assert features_digest(table) == before
    shutil.rmtree(folder / "c.zarr")
    anndata_of(7).write_zarr(folder / "c.zarr")
    after = features_digest(table)
    assert after != before
    anndata_of(8).write_h5ad(folder / "b.h5ad")
    assert features_digest(table) != after


def test_a_copied_store_under_another_patient_stops(folder: Path) -> None:
    shutil.copytree(folder / "c.zarr", folder / "e.zarr")
    with (folder / "table.csv").open("a") as file:
        file.write("e.zarr,t,y\n")
    _, problems = check_features(read_table(folder / "table.csv"))
    (same,) = [problem for problem in problems if problem.what == "same content"]
    assert same.stops
    assert same.slides == ("c", "e")


def test_a_folder_is_searched_by_whole_names(folder: Path) -> None:
    (folder / "named.csv").write_text("slide,patient,label\nb,p,x\nc,q,y\na.1,r,y\n")
    table = read_table(folder / "named.csv", TableSettings(features=str(folder)))
    found = {slide.name: slide.features and slide.features.name for slide in table.slides}
    assert found == {"b": "b.h5ad", "c": "c.zarr", "a.1": None}
    shutil.copy(folder / "b.h5ad", folder / "b.H5AD")
    with pytest.raises(FeatureError, match=r"holds both b\.H5AD and b\.h5ad"):
        read_table(folder / "named.csv", TableSettings(features=str(folder)))


def test_a_store_that_is_gone_is_named(folder: Path) -> None:
    table = read_table(folder / "table.csv")
    shutil.rmtree(folder / "d.zarr")
    _, problems = check_features(table)
    assert [problem.slides for problem in problems if problem.what == "no features"] == [("d",)]


@pytest.mark.parametrize("name", ["b.h5ad", "c.zarr", "d.zarr/tables/uni", "p.parquet"])
def test_checkpoints_are_held_against_features_of_any_kind(folder: Path, name: str) -> None:
    write_features(replace(bag_of(0), encoder="uni"), folder / "p.parquet")
    told = subject_of(folder / name).features
    assert told is not None
    assert told.feature_size == 4


def test_names_of_slides_in_stores() -> None:
    assert slide_name("stores/x.1.zarr/tables/uni") == "x.1"
    assert slide_name("x.tables/y.h5") == "y"
