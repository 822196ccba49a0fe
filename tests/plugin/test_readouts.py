"""What panels say of a patch is what the tables of its run say."""

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from napari_2dmamba.compare import Contender, compare
from napari_2dmamba.explain.display import format_value, top_patches
from napari_2dmamba.export.patches import patch_scores
from napari_2dmamba.features import FeatureFileSettings
from napari_2dmamba.models import Aggregator, load_checkpoint, save_checkpoint
from napari_2dmamba.models.checkpoint import build_model
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.pipeline import RunResult, RunSettings, run
from napari_2dmamba.plugin.compare_widget.values_table import ValuesTable
from napari_2dmamba.plugin.compare_widget.widget import as_trained
from napari_2dmamba.plugin.run_widget.result_section import ResultSection
from napari_2dmamba.plugin.session.shown_run import ShownRun
from napari_2dmamba.slide import GridSettings, Slide, open_slide
from napari_2dmamba.slide.grid import place_words
from tests.tiny import PATCH, write_checkpoint, write_slide


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide, a model of a grid and one without, and features of patches that overlap."""
    folder = tmp_path_factory.mktemp("readouts")
    model = write_checkpoint(folder / "tiny.safetensors")
    bag = run(write_slide(folder / "tiny.tif"), model).bag
    header = dataclasses.replace(
        load_checkpoint(model).header,
        architecture="abmil",
        config={"feature_size": 102, "n_outputs": 2},
    )
    save_checkpoint(Aggregator(build_model(header), header), folder / "abmil.safetensors")
    with h5py.File(folder / "half.h5", "w") as file:
        file["features"] = np.concatenate([bag.features, bag.features[::-1]])
        file["coords"] = np.concatenate([bag.coords, bag.coords + np.array([PATCH // 2, 0])])
    with h5py.File(folder / "pieces.h5", "w") as file:  # some share cells, as they lie askew
        file["features"] = bag.features
        askew = np.where(bag.coords[:, :1] < 700, bag.coords, bag.coords - np.array([31, 29]))
        file["coords"] = askew
    return folder


def _run(made: Path, slide: Slide, model: str, file: str, shared_cells: str) -> RunResult:
    settings = RunSettings(
        feature_file=FeatureFileSettings(feature_patch_size_level0=PATCH),
        model=ModelSettings(shared_cells=shared_cells, device="cpu"),
    )
    return run(slide, made / f"{model}.safetensors", settings, features=made / f"{file}.h5")


@pytest.mark.parametrize(
    ("model", "file", "shared_cells"),
    [("tiny", "half", "finer"), ("tiny", "half", "last"), ("abmil", "half", "refuse"),
     ("abmil", "pieces", "refuse")],
)  # fmt: skip
def test_the_result_reads_a_patch_as_tables_do(
    qtbot: Any, made: Path, model: str, file: str, shared_cells: str
) -> None:
    section = ResultSection()
    qtbot.addWidget(section)
    with open_slide(made / "tiny.tif") as slide:
        found = _run(made, slide, model, file, shared_cells)
        shown = ShownRun(slide, found.grid, found.prediction, (found.attention_map,), found.record)
        patches = shown.patches(found.attention_map)
        table = patch_scores(found.bag.coords, PATCH, found.prediction).columns()
        np.testing.assert_array_equal(patches.scores, table["attention"])
        np.testing.assert_array_equal(  # gallery and report
            top_patches(patches.scores, 8), top_patches(found.prediction.attention, 8)
        )
        section.show_map(slide, found.attention_map, patches)
        cells = found.attention_map.cells_of(found.bag.coords, PATCH)
        for patch in (0, 31, len(found.bag) - 1):
            at = (cells == cells[patch]).all(axis=1)
            patch = int(np.flatnonzero(at)[-1])  # of those in a cell the last
            corner = (int(table["x_level0_px"][patch]), int(table["y_level0_px"][patch]))
            place = place_words(corner, PATCH)
            assert f"row {table['row'][patch]}, column {table['col'][patch]}" in place
            for read in (
                lambda cell=cells[patch]: section.show_cursor(int(cell[0]), int(cell[1])),
                lambda corner=corner: (section.select(corner), section.show_cursor(-1, 0)),
            ):
                section.readout.clear()
                read()
                said = section.readout.text()
                assert place in said
                assert f"rank {table['rank'][patch]:.0f} of {len(found.bag)} " in said
                assert format_value(float(table["attention"][patch])) in said
        section.gallery.cancel()


def test_a_comparison_reads_a_patch_as_tables_do(qtbot: Any, made: Path) -> None:
    settings = RunSettings(
        feature_file=FeatureFileSettings(feature_patch_size_level0=PATCH),
        model=ModelSettings(shared_cells="finer", device="cpu"),
    )
    found = compare(
        made / "tiny.tif",
        [Contender(name, made / f"{name}.safetensors") for name in ("tiny", "abmil")],
        settings, features=made / "half.h5",
    )  # fmt: skip
    table = ValuesTable()
    qtbot.addWidget(table)
    table.read_from(found, ())
    placed = found.entries[0].grid_map
    for patch in (0, 31, len(found.bag) - 1):
        row, col = placed.cells_of(found.bag.coords, PATCH)[patch]
        assert table.show_cell(int(row), int(col))
        x, y = found.bag.coords[patch]
        assert place_words((int(x), int(y)), PATCH) in table.place.text()


def test_a_comparison_cuts_the_slide_as_a_run_of_the_chosen_model_does(made: Path) -> None:
    header = load_checkpoint(made / "tiny.safetensors").header
    by_hand = RunSettings(grid=GridSettings(patch_size=96, target_mpp=0.5))
    assert as_trained(by_hand, header, header).grid == by_hand.grid
    other = dataclasses.replace(header, patch_size=128, mpp=1.0)
    assert as_trained(by_hand, other, header).grid == GridSettings(128, 1.0)
    silent = dataclasses.replace(header, patch_size=None, mpp=None)
    taken = RunSettings(grid=GridSettings(header.patch_size, header.mpp))
    assert as_trained(taken, silent, header).grid == GridSettings()
