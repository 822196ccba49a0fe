"""One question asked through several entrances gets one answer: numbers, places and words."""

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet
import pytest
from numpy.typing import NDArray
from shapely import box

from napari_2dmamba.compare import Contender, compare, make_comparison_record, write_comparison
from napari_2dmamba.errors import GridError
from napari_2dmamba.evaluation.predictions import predict
from napari_2dmamba.explain.grid_map import scatter
from napari_2dmamba.explain.inspection import Inspection, MapOptions
from napari_2dmamba.explain.patch_numbers import numbers_of
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.explain_slide import ExplainedRun, explain_run
from napari_2dmamba.export.run_folder import open_run
from napari_2dmamba.features import FeatureFileSettings, read_features
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models import load_checkpoint
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.pipeline import RunSettings, run
from napari_2dmamba.rerun import rerun
from napari_2dmamba.slide import Regions, open_slide, read_regions
from napari_2dmamba.tasks.bags import LabelledBag
from tests.tiny import MPP, PATCH, write_checkpoint, write_slide

REGIONS = Regions.of([box(200, 200, 900, 900)], [box(300, 300, 420, 420)])
MAPS = ("provenance", "gradient-x-input", "erf-average")

LAYOUTS = {
    # every patch twice, half a patch apart: coordinates by hand from one lattice
    "overlapping, last": ("half", "last"),
    "overlapping, mean": ("half", "mean"),
    "overlapping, finer": ("half", "finer"),
    # a quarter of a patch apart along rows, and not at all along columns
    "overlapping much, finer": ("quarter", "finer"),
    # lattices that begin anew for every piece of tissue, as CLAM's do
    "several lattices": ("pieces", "refuse"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide, a model, and features of it on several layouts."""
    folder = tmp_path_factory.mktemp("entrances")
    bag = run(write_slide(folder / "tiny.tif"), write_checkpoint(folder / "tiny.safetensors")).bag
    coords, features = bag.coords, bag.features
    left = coords[:, :1] < 700
    files = {
        "half": (
            np.concatenate([coords, coords + np.array([PATCH // 2, 0])]),
            np.concatenate([features, features[::-1]]),
        ),
        "quarter": (
            np.concatenate([coords + np.array([PATCH // 4 * k, 0]) for k in range(4)]),
            np.concatenate([np.roll(features, k, 0) for k in range(4)]),
        ),
        "pieces": (
            np.where(left, coords + np.array([5, 3]), coords + np.array([45, 50])),
            features,
        ),
    }
    for name, (places, values) in files.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["features"], file["coords"] = values, places
    return folder


def _settings(shared_cells: str) -> RunSettings:
    return RunSettings(
        feature_file=FeatureFileSettings(feature_patch_size_level0=PATCH),
        model=ModelSettings(shared_cells=shared_cells, device="cpu"),
    )


@pytest.fixture(scope="module", params=LAYOUTS)
def explained(
    made: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[ExplainedRun, Path, RunSettings]:
    """An explained run on one of the layouts, its features, and its settings."""
    file, shared_cells = LAYOUTS[request.param]
    settings = _settings(shared_cells)
    found = explain_run(
        made / "tiny.tif", made / "tiny.safetensors", MAPS, settings=settings,
        features=made / f"{file}.h5", out=tmp_path_factory.mktemp("run") / "run",
    )  # fmt: skip
    return found, made / f"{file}.h5", settings


def test_maps_and_tables_hold_one_value_for_a_patch(
    explained: tuple[ExplainedRun, Path, RunSettings],
) -> None:
    result = explained[0].result
    saved = open_run(result.folder)
    coords, side = result.bag.coords, result.bag.patch_size_level0
    cells = result.prediction.cells - result.prediction.cells.min(axis=0)
    for one in saved.maps:
        np.testing.assert_array_equal(one.cells_of(coords, side), cells)
    attention = saved.maps[0].values[cells[:, 0], cells[:, 1]]
    np.testing.assert_array_equal(attention, result.prediction.attention)
    table = pyarrow.parquet.read_table(saved.folder / "scores.parquet")
    assert "attention (map)" not in table.column_names  # it would be that of other patches
    contribution = next(one for one in saved.maps if one.name == "gradient x input")
    np.testing.assert_array_equal(
        table[contribution.name], contribution.values[cells[:, 0], cells[:, 1]]
    )


def test_record_and_table_say_one_place_of_a_patch(
    explained: tuple[ExplainedRun, Path, RunSettings],
) -> None:
    found = explained[0]
    (said,) = found.result.record.explanations.queries
    table = pyarrow.parquet.read_table(found.result.folder / "scores.parquet").to_pylist()
    row = table[said.patch]
    assert (said.x, said.y) == (row["x_level0_px"], row["y_level0_px"])
    assert (said.row, said.col) == (row["row"], row["col"])
    words = f"row {row['row']}, column {row['col']}"
    assert words in found.maps["provenance"].meaning
    shown = found.maps["provenance"]
    cell = shown.cells_of(np.array([[said.x, said.y]]), PATCH)[0]
    corner = np.array(shown.origin) + cell[::-1] * shown.patch_size_level0
    assert shown.queries == (tuple(corner),)


def test_an_explained_run_is_made_again_about_the_same_patch(
    explained: tuple[ExplainedRun, Path, RunSettings],
) -> None:
    again = rerun(explained[0].result.folder)
    assert {one.state for one in again.compared} == {"exact"}
    assert {"map provenance (state)", "map average receptive field"} <= {
        one.name for one in again.compared
    }
    assert (
        again.result.record.explanations.queries == explained[0].result.record.explanations.queries
    )


def test_explain_compare_and_the_viewer_find_one_patch_under_a_point(
    made: Path, explained: tuple[ExplainedRun, Path, RunSettings]
) -> None:
    found, features, settings = explained
    slide, model = made / "tiny.tif", made / "tiny.safetensors"
    subject = Subject.of(load_checkpoint(model), found.result.bag, settings.model)
    at = (501.0, 407.0)
    patch = subject.patch_at(*at)
    explained_at = explain_run(
        slide, model, ("provenance",), at=at, settings=settings, features=features
    )
    compared = compare(
        slide, [Contender("a", model, maps=("score", "provenance"))], settings,
        features=features, at=at,
    )  # fmt: skip
    assert patch == explained_at.patch == compared.query
    offset = np.array(at) - found.result.bag.coords[patch]
    if features.stem != "pieces":  # whose patches are shown up to a cell from where they lie
        assert ((offset >= 0) & (offset < PATCH)).all()
    for patch in (0, 7, len(subject) - 1):
        assert subject.patch_with_corner(subject.corner_of(patch)) == patch
        assert subject.corner_of(patch) == tuple(subject.bag.coords[patch])
    assert subject.patch_with_corner((1, 1)) is None
    said = []
    for ask in (
        lambda: explain_run(
            slide, model, ("erf",), at=(10, 10), settings=settings, features=features
        ),
        lambda: compare(
            slide,
            [Contender("a", model, maps=("score", "erf"))],
            settings,
            features=features,
            at=(10, 10),
        ),
    ):
        with pytest.raises(GridError, match=r"no patch lies at x 10, y 10 of tiny\.tif") as refused:
            ask()
        said.append(str(refused.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("shared_cells", ["last", "mean", "finer"])
def test_an_evaluation_lays_patches_out_as_a_run_does(made: Path, shared_cells: str) -> None:
    settings, features = _settings(shared_cells), made / "half.h5"
    said = run(made / "tiny.tif", made / "tiny.safetensors", settings, features=features)
    aggregator = load_checkpoint(made / "tiny.safetensors")
    bag = read_features(features, patch_size_level0=PATCH)
    found = predict(aggregator, [LabelledBag(bag, 0, name="a")], settings.model)
    np.testing.assert_allclose(found.values[0], said.prediction.probabilities, rtol=1e-6)
    assert "of 1 slides the patches overlap" in found.unchecked
    if shared_cells != "last":  # who lays nothing out gets no number of another layout
        with pytest.raises(GridError, match="fall into a cell"):
            aggregator.predict(bag, settings.model)


def test_a_comparison_reads_and_writes_every_patch_as_a_run_does(
    made: Path, tmp_path: Path, explained: tuple[ExplainedRun, Path, RunSettings]
) -> None:
    found, features, settings = explained
    model = made / "tiny.safetensors"
    with open_slide(made / "tiny.tif") as slide:
        compared = compare(
            slide, [Contender("a", model, maps=("score", "gradient-x-input"))], settings,
            features=features,
        )  # fmt: skip
        write_comparison(compared, slide, tmp_path)
    entry = compared.entries[0]
    np.testing.assert_array_equal(entry.scores, found.result.prediction.attention)
    table = pyarrow.parquet.read_table(found.result.folder / "scores.parquet").to_pylist()
    with (tmp_path / "patches.csv").open() as file:
        rows = list(csv.DictReader(file))
    places = ("row", "col", "x_level0_px", "y_level0_px", "size_level0_px")
    assert [[int(row[name]) for name in places] for row in rows] == [
        [row[name] for name in places] for row in table
    ]
    shown = found.result.prediction.cells - found.result.prediction.cells.min(axis=0)
    for patch in (0, 40, len(table) - 1):
        cell = tuple(int(v) for v in shown[patch])
        shows = int(np.flatnonzero((shown == cell).all(axis=1))[-1])  # the last of a cell
        assert compared.corner_at(cell) == tuple(found.result.bag.coords[shows])
        assert compared.values_at(cell)[0].value == found.result.prediction.attention[shows]
    assert compared.corner_at((-1, 0)) is None


@pytest.mark.parametrize("given", [False, True])
def test_the_record_of_a_comparison_is_that_of_its_runs(
    made: Path, tmp_path: Path, given: bool
) -> None:
    slide, model = made / "tiny.tif", made / "tiny.safetensors"
    features = made / "pieces.h5" if given else None
    settings = _settings("refuse")
    one = run(slide, model, settings, features=features, regions=REGIONS).record
    with open_slide(slide) as opened:
        compared = compare(
            opened, [Contender("a", model, maps=("score", "gradient-x-input"))], settings,
            features=features, regions=REGIONS,
        )  # fmt: skip
        write_comparison(compared, opened, tmp_path)
    other = compared.entries[0].record
    for part in ("slide", "grid", "features", "regions", "settings", "result", "warnings"):
        assert getattr(other, part) == getattr(one, part), part
    assert other.features.given is given
    said = json.loads((tmp_path / "comparison.json").read_text())
    assert said["regions"] == {
        "included": 1, "excluded": 1, "content_sha256": REGIONS.content_hash(),
    }  # fmt: skip
    drawn = read_regions(tmp_path / "comparison-regions.geojson")
    assert drawn.content_hash() == REGIONS.content_hash()
    without = compare(slide, [Contender("a", model, maps=("score", "erf"))], settings)
    assert make_comparison_record(without)["regions"] is None


def test_explain_says_of_a_patch_what_the_viewer_says(
    made: Path, explained: tuple[ExplainedRun, Path, RunSettings]
) -> None:
    found, _, settings = explained
    result = found.result
    subject = Subject.of(load_checkpoint(made / "tiny.safetensors"), result.bag, settings.model)
    asked, how = Inspection.of(subject), MapOptions()
    maps = {
        name: asked.map(name, (found.patch,), how, lambda *_: None, lambda: False) for name in MAPS
    }
    numbers = numbers_of(asked, result.prediction.attention, (found.patch,), how, maps)
    (said,) = result.record.explanations.queries
    assert (said.x, said.y, said.row, said.col) == (*numbers.corner, *numbers.cell)
    assert set(said.extents) == set(numbers.extents) == {"provenance", "erf-average"}
    for name, one in maps.items():
        np.testing.assert_array_equal(one.values, found.maps[name].values)
        assert one.meaning == found.maps[name].meaning


@pytest.mark.parametrize("stated", [MPP, None])
def test_a_run_that_is_opened_knows_whose_its_mpp_are(
    made: Path, tmp_path: Path, stated: float | None
) -> None:
    slide = write_slide(tmp_path / "one.tif", mpp=stated)
    told = run(
        slide, made / "tiny.safetensors", mpp=None if stated else MPP, out=tmp_path / "run"
    ).record.slide
    with open_run(tmp_path / "run").open_slide() as opened:
        assert (opened.mpp, opened.mpp_source) == (told.mpp, told.mpp_source)
    assert (told.given_mpp is None) == (stated is not None)


def test_the_regions_of_a_saved_run_are_the_same_for_another(made: Path, tmp_path: Path) -> None:
    slide, model = made / "tiny.tif", made / "tiny.safetensors"
    run(slide, model, regions=REGIONS, out=tmp_path / "run")
    again = read_regions(tmp_path / "run" / "regions.geojson", offset=(5000, 7000))
    assert again.content_hash() == REGIONS.content_hash()


def _bag(coords: list[list[int]], cell: int | None = None) -> FeatureBag:
    places: NDArray[np.int64] = np.array(coords)
    return FeatureBag(np.zeros((len(places), 1), np.float32), places, 64, cell_size_level0=cell)


def test_where_a_canvas_begins() -> None:
    """By hand: cells counted from there are those that the canvas has."""
    one_lattice = _bag([[50, 30], [114, 30], [50 + 640, 30 + 64]])
    assert one_lattice.canvas_corner(one_lattice.coords[:, ::-1] // 64) == (50, 30)
    assert one_lattice.canvas_corner(np.array([[0, 0], [0, 1], [1, 10]])) == (50, 30)
    several = _bag([[50, 0], [1000, 0]])  # 1000 is in column 15; counted from 50 in column 14
    cells = several.coords[:, ::-1] // 64
    assert several.canvas_corner(cells) == (0, 0)
    assert several.canvas_corner(np.array([[0, 0], [0, 14]])) == (50, 0)
    assert _bag([[0, 0], [32, 0]], cell=32).canvas_corner(np.array([[0, 0], [0, 1]])) == (16, 16)
    shown = scatter(
        np.array([1.0, 2.0]), several.coords, 64, name="", meaning="", mpp=None, corner=(0, 0)
    )
    assert (shown.origin, shown.values.shape) == ((0, 0), (1, 16))
    assert shown.cells_of(several.coords, 64).tolist() == [[0, 0], [0, 15]]
    assert shown.values[0, [0, 15]].tolist() == [1.0, 2.0]
