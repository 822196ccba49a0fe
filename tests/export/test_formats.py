from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile

from napari_2dmamba.errors import ExportError
from napari_2dmamba.export.exporting import export_run
from napari_2dmamba.export.formats import FORMATS, USUAL
from napari_2dmamba.export.run_folder import open_run, save_run
from napari_2dmamba.slide import Slide, open_slide

from .material import ATTENTION, COORDS, attention_map, classification
from .test_picture import picture_of
from .test_record import GRID, record_of


def saved(slide: Slide, folder: Path, maps=None, **about) -> Path:
    return save_run(
        folder,
        record_of(slide, model={"intended_use": "Not for any medical use."}, **about),
        grid=GRID,
        prediction=classification(),
        maps=[attention_map()] if maps is None else maps,
    )


def test_every_format_is_written_once_and_opens(slide: Slide, tmp_path) -> None:
    written = export_run(saved(slide, tmp_path / "run"), mpp=0.5)
    assert sorted(p.name for p in (tmp_path / "run" / "exports").iterdir()) == sorted(
        p.name for p in written
    )
    assert [p.name for p in written] == [
        "squares-attention.png", "squares-attention-overlay.ome.tif",
        "squares-attention.ome.tif", "squares-patches.geojson",
        "squares-patches.csv", "squares-patches.parquet", "squares-record.json",
    ]  # fmt: skip
    overlay = tifffile.imread(written[1])
    png = picture_of(written[0])
    apart = [np.abs(png[y : y + 333, :437].astype(int) - overlay) for y in range(len(png) - 333)]
    assert min(np.median(one) + (one > 40).mean() for one in apart) < 0.01  # an overlay is a JPEG
    values = tifffile.imread(written[2])
    x, y = COORDS[0]
    assert values[y, x] == ATTENTION[0]
    assert len(shapely.from_geojson(written[3].read_text()).geoms) == len(COORDS)


def test_maps_of_any_name_get_files_of_their_own(slide: Slide, tmp_path) -> None:
    names = ["attention", "Δ logit / tumour", "a\nb", "../up", "Attention", "..."]
    maps = [replace(attention_map(), name=name) for name in names]
    written = export_run(saved(slide, tmp_path / "run", maps), formats=("png",), out=tmp_path / "x")
    assert len({p.name.casefold() for p in written}) == len(names)
    assert all(p.parent == tmp_path / "x" and p.is_file() for p in written)


def test_tables_need_no_slide_and_pictures_say_that_it_is_missing(slide_file, tmp_path) -> None:
    copy = tmp_path / "copy.ome.tif"
    copy.write_bytes(slide_file.read_bytes())
    with open_slide(copy) as slide:
        folder = saved(slide, tmp_path / "run")
    copy.unlink()
    tables = tuple(name for name in USUAL if not FORMATS[name].needs_slide)
    assert len(export_run(folder, formats=tables)) == 4
    with pytest.raises(ExportError, match=r"copy\.ome\.tif .* choose where it is now"):
        export_run(folder)
    assert len(export_run(folder, formats=("png",), slide_path=slide_file)) == 1


def test_tiles_count_from_the_bounds_the_run_knows(slide: Slide, tmp_path) -> None:
    slide.bounds = (30, 7, 400, 300)
    written = export_run(saved(slide, tmp_path / "run"), formats=("geojson",))
    first = shapely.from_geojson(written[0].read_text()).geoms[0]
    assert first.bounds[:2] == (COORDS[0][0] - 30, COORDS[0][1] - 7)


def test_unknown_formats_are_named(slide: Slide, tmp_path) -> None:
    with pytest.raises(ExportError, match="no format 'pdf'"):
        export_run(saved(slide, tmp_path / "run"), formats=("pdf",))


def test_an_open_run_can_be_exported_with_other_colours(slide: Slide, tmp_path) -> None:
    run = open_run(saved(slide, tmp_path / "run"))
    plain = export_run(run, formats=("png",), out=tmp_path / "a")[0]
    other = replace(run, record=replace(run.record, display=replace(run.display, colormap="magma")))
    coloured = export_run(other, formats=("png",), out=tmp_path / "b")[0]
    assert not np.array_equal(picture_of(plain), picture_of(coloured))
