"""The report as a stranger's browser sees it: parsed, its pictures decoded."""

import base64
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapely import box

from napari_2dmamba.errors import Cancelled, ExportError
from napari_2dmamba.explain.display import DisplaySettings, to_rgba
from napari_2dmamba.export.exporting import export_run
from napari_2dmamba.export.raster import Raster
from napari_2dmamba.export.report_figures import Mark, slide_figure
from napari_2dmamba.export.run_folder import open_run, save_run
from napari_2dmamba.export.run_report import write_run_report
from napari_2dmamba.slide import Slide, open_slide
from napari_2dmamba.slide.regions import Region, Regions

from .material import ATTENTION, COORDS, SIZE, attention_map, classification, survival
from .test_record import GRID, record_of

VIOLET = (120, 60, 160)
SVG = "{http://www.w3.org/2000/svg}"


def saved(slide: Slide, folder: Path, prediction=None, regions=None, **more) -> Path:
    prediction = prediction or classification()
    record = record_of(slide, prediction=prediction, regions=regions, **more)
    return save_run(
        folder, record, grid=GRID, prediction=prediction, maps=[attention_map()],
        regions=regions, display=DisplaySettings(transform="raw", opacity=1.0),
    )  # fmt: skip


def page_of(path: Path) -> ET.Element:
    return ET.fromstring(path.read_text(encoding="utf-8").removeprefix("<!DOCTYPE html>"))


def words(page: ET.Element) -> str:
    return " ".join(" ".join(page.itertext()).split())


def pictures(page: ET.Element) -> list[np.ndarray]:
    addresses = [one.get("href") for one in page.iter(f"{SVG}image")]
    addresses += [one.get("src") for one in page.iter("img")]
    found = []
    for address in addresses:
        assert address is not None
        assert address.startswith(("data:image/jpeg;base64,", "data:image/png;base64,"))
        data = base64.b64decode(address.partition(",")[2], validate=True)
        found.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int))
    return found


def test_slide_map_and_patches_are_those_of_the_run(slide: Slide, tmp_path) -> None:
    told = {"told": {"canvas": "slide"}, "warnings": ["the mpp was given"]}
    (path,) = export_run(
        saved(slide, tmp_path / "run", model={"intended_use": "A demo."}, **told),
        formats=("report",), out=tmp_path / "case.html",
    )  # fmt: skip
    assert path == tmp_path / "case.html"
    page = page_of(path)
    found = pictures(page)
    assert len(found) == 3 + 8  # slide, map and its bar; patches
    rgb = to_rgba(attention_map(), DisplaySettings(transform="raw"))[..., :3].astype(int)
    first = attention_map().origin
    for x, y in COORDS:
        at = y + SIZE // 2, min(x + SIZE // 2, 436)
        assert np.abs(found[0][at] - VIOLET).max() <= 3
        cell = (y - first[1]) // SIZE, (x - first[0]) // SIZE
        assert np.abs(found[1][at] - rgb[cell]).max() <= 6
    assert np.abs(found[1][10, 10] - 255).max() <= 3  # no tissue there
    assert all(np.abs(one - VIOLET).max() <= 3 for one in found[3:])
    text = words(page)
    best = COORDS[int(np.argmax(ATTENTION))]
    assert f"1 · attention 0.300, 10% tissue row 0, column 1; corner at x {best[0]}, y 0" in text
    share = classification().probabilities[1]
    for said in (
        "squares.ome.tif", f"tumour: {share:.2%}", "Research use only", "A demo.", "0.5 µm/px",
        "437 x 333 px (0.22 x 0.17 mm)", "50 px at 1 µm/px = 100 px of level 0", "25.0%",
        "the mpp was given", "canvas slide", slide.fingerprint, "stain-texture-v1",
        "All tissue of the slide was analysed.",
    ):  # fmt: skip
        assert said in text, said
    area = re.search(r"([\d.]+) mm² within the patches", text)
    assert area is not None
    assert float(area[1]) == pytest.approx(float(GRID.tissue_fraction.sum()) * 0.05**2, rel=0.01)
    assert str(tmp_path) not in path.read_text()


def test_scale_bar_and_numbers_lie_where_they_should() -> None:
    raster = Raster((1000, 0, 4000, 2000), 1000, 500, 0.25)  # 1 µm per pixel
    marks = [Mark("1", 1400, 400), Mark("2", 1800, 400), Mark("3", 1400, 800)]
    figure = ET.fromstring(slide_figure("data:,", raster, marks=marks, patch_size=400))
    bar, *boxes = [
        tuple(float(one.get(key, "")) for key in ("x", "y", "width", "height"))
        for one in figure.iter(f"{SVG}rect")
    ]
    assert bar[2] == 200
    assert next(one.text for one in figure.iter(f"{SVG}text")) == "200 µm"
    assert boxes == [(100, 100, 100, 100), (200, 100, 100, 100), (100, 200, 100, 100)]
    circles = [
        [float(one.get(key, "")) for key in ("cx", "cy", "r")]
        for one in figure.iter(f"{SVG}circle")
    ]
    for number, (x, y, r) in enumerate(circles):
        assert r <= x <= 1000 - r
        assert all(np.hypot(x - u, y - v) > 2 * r for u, v, _ in circles[:number])
        for left, top, w, h in boxes:  # a number covers no patch
            assert not (left - r < x < left + w + r and top - r < y < top + h + r)


def test_what_files_say_is_text_and_no_markup(slide: Slide, tmp_path) -> None:
    hostile = '<script>alert(1)</script> & "x"'
    regions = Regions((Region(box(0, 0, 200, 100), "include", hostile, "Tumor"),))
    folder = saved(
        slide, tmp_path / "run", regions=regions, warnings=[hostile, "see /home/jane/case 7/x.svs"],
        model={"intended_use": hostile},
    )  # fmt: skip
    run = open_run(folder)
    run = replace(run, record=replace(run.record, title=hostile, notes=f"{hostile}\nmore"))
    page = page_of(write_run_report(run, slide, tmp_path / "a.html"))
    assert not list(page.iter("script"))
    text = words(page)
    assert text.count(hostile) >= 5
    assert "jane" not in text
    assert f"{hostile}, Tumor analysed 0.005 mm²" in text
    assert "All tissue" not in text


def test_survival_and_a_slide_without_scale(slide_file: Path, tmp_path) -> None:
    with open_slide(slide_file) as slide:
        slide.mpp = None
        run = open_run(saved(slide, tmp_path / "run", survival()))
        text = words(page_of(write_run_report(run, slide, tmp_path / "a.html")))
    assert f"Risk {survival().risk:.3f}" in text
    assert "to the end of 0 to 12 months" in text
    assert "100 px" in text
    assert "The slide states no µm per pixel" in text
    assert "mm²" not in text


def test_another_slide_is_refused_and_a_stop_leaves_nothing(
    slide: Slide, slide_file: Path, tmp_path
) -> None:
    run = open_run(saved(slide, tmp_path / "run"))
    with pytest.raises(Cancelled):
        write_run_report(run, slide, tmp_path / "a.html", should_stop=lambda: True)
    other = tmp_path / "other.ome.tif"
    other.write_bytes(slide_file.read_bytes() + b" ")
    with open_slide(other) as another, pytest.raises(ExportError, match="not the slide of the run"):
        write_run_report(run, another, tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()
