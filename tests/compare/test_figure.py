"""Figures are read back: words from PDF and SVG, colours from the places of PNG pixels."""

import dataclasses
import itertools
import xml.etree.ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pypdf
import pytest
from PIL import Image

from napari_2dmamba.compare.comparison import Comparison
from napari_2dmamba.compare.figure import FigureSettings, answer_in_words, write_figure
from napari_2dmamba.compare.figure_layout import Words, bar_room, lay_out
from napari_2dmamba.compare.figure_text import shortened, width_of_text
from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.slide import Slide, open_slide
from tests.compare.cases import SIDE, bag_of, comparison_of, entry_of
from tests.tiny import MPP, write_slide

CELLS = [(row, col) for row in range(4) for col in range(6)]
LEFT = [1.0 if col < 3 else 0.0 for _, col in CELLS]
RIGHT = [1.0 - value for value in LEFT]


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory):
    with open_slide(write_slide(tmp_path_factory.mktemp("slide") / "tiny.tif")) as opened:
        yield opened


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    bag = bag_of(CELLS, corner=(400, 300))
    survival = {"task": "survival", "class_names": ("early", "late")}
    return comparison_of(
        bag,
        entry_of(bag, "Alpha $x^2$", LEFT, intended_use="For tests only."),
        entry_of(bag, "Beta", RIGHT, probabilities=(0.5, 0.25), **survival),
    )


def text_of(path: Path) -> str:
    if path.suffix == ".pdf":
        return pypdf.PdfReader(path).pages[0].extract_text()
    return "\n".join(
        "".join(part.itertext())
        for part in xml.etree.ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    )


def test_pdf_and_svg_hold_their_words_as_text(
    slide: Slide, comparison: Comparison, tmp_path: Path
) -> None:
    files = [tmp_path / "figure.pdf", tmp_path / "figure.svg"]
    zooms = [(250.0, 200.0, 100.0, 80.0)]
    assert write_figure(comparison, slide, files, FigureSettings(dpi=60), zooms=zooms) == files
    for file in files:
        said = text_of(file)
        for words in (
            "Alpha $x^2$", "Beta", "Slide", "Region 1", "yes 75.0 %", "risk −0.75", "µm",
            "Rank of the patch within its map (percentile)", "For tests only.",
        ):  # fmt: skip
            assert words in said, (file.name, words)
        for letter in "ABCD":
            assert letter in said.split()
    fonts = pypdf.PdfReader(files[0]).pages[0]["/Resources"]["/Font"].values()
    kinds = {font.get_object()["/DescendantFonts"][0].get_object()["/Subtype"] for font in fonts}
    assert kinds == {"/CIDFontType2"}  # TrueType outlines, and not drawn curves
    size = pypdf.PdfReader(files[0]).pages[0].mediabox
    assert float(size.width) == pytest.approx(180 / 25.4 * 72, abs=0.1)


def test_every_map_is_in_its_place(slide: Slide, comparison: Comparison, tmp_path: Path) -> None:
    settings = FigureSettings(
        width=100, dpi=254, columns=3, opacity=1.0, letters=False, predictions=False, crop=True
    )
    display = DisplaySettings(transform="raw")
    (file,) = write_figure(comparison, slide, [tmp_path / "f.png"], settings, display=display)
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    assert pixels.shape[1] == 1000  # 10 pixels per mm
    low, high = (np.array(matplotlib.colormaps["viridis"](v)[:3]) * 255 for v in (0.0, 1.0))
    # margins of 1 mm, gaps of 2.5 mm; around 6 x 4 cells lies a rim of one cell
    wide = (1000 - 20 - 50) / 3
    cell = wide / 8
    rows = np.flatnonzero((np.abs(pixels - high).max(axis=2) <= 2).sum(axis=1) > 2 * cell)
    top, bottom = rows[0], next(b for a, b in itertools.pairwise(rows) if b > a + 1 or b == rows[-1])  # fmt: skip  # noqa: E501
    for number, (left_colour, right_colour) in ((1, (high, low)), (2, (low, high))):
        start = 10 + number * (wide + 25) + cell
        for first, colour in ((0, left_colour), (3, right_colour)):
            columns = slice(round(start + first * cell) + 2, round(start + (first + 3) * cell) - 2)
            part = pixels[top + 2 : round(top + 4 * cell) - 2, columns]
            np.testing.assert_allclose(part.mean(axis=(0, 1)), colour, atol=2)
    assert bottom - top >= 3 * cell
    # the panel of the slide shows its tissue, not a map
    part = pixels[top : round(top + 4 * cell), round(10 + cell) : round(10 + 7 * cell)]
    assert part[..., 0].mean() > part[..., 1].mean()  # pink
    whole = slide.read_region(400, 300, 0, 6 * SIDE, 4 * SIDE).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(part.mean(axis=(0, 1)), whole, atol=4)


def test_zoomed_regions_are_the_slides_own_pixels(
    slide: Slide, comparison: Comparison, tmp_path: Path
) -> None:
    zoom = (400 * MPP, 300 * MPP, 200 * MPP, 100 * MPP)  # in µm: 200 x 100 level-0 px
    settings = FigureSettings(dpi=254, letters=False)
    (file,) = write_figure(comparison, slide, [tmp_path / "f.png"], settings, zooms=[zoom])
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    red = np.abs(pixels - np.array([0xD8, 0x1B, 0x60])).max(axis=2) < 12
    columns = np.flatnonzero(red.sum(axis=0) > 300)  # 40 mm high, the box is the only such line
    rows = np.flatnonzero(red.sum(axis=1) > 600)
    left, right, top, bottom = columns[0], columns[-1], rows[0], rows[-1]
    assert (right - left) / (bottom - top) == pytest.approx(2, abs=0.05)
    inside = pixels[top + 20 : (top + bottom) // 2, left + 20 : right - 20]
    expected = slide.read_region(400, 300, 0, 200, 50).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(inside.mean(axis=(0, 1)), expected, atol=4)


def test_the_patch_that_a_map_is_about_is_circled(
    slide: Slide, comparison: Comparison, tmp_path: Path
) -> None:
    first = comparison.entries[0]
    x, y = (int(v) for v in comparison.bag.coords[8])
    placed = dataclasses.replace(first.grid_map, queries=((x, y),))
    asked = dataclasses.replace(first, grid_map=placed)
    about = dataclasses.replace(comparison, entries=(asked, comparison.entries[1]))
    settings = FigureSettings(
        width=100, dpi=254, columns=3, opacity=1.0, letters=False, predictions=False
    )
    (file,) = write_figure(about, slide, [tmp_path / "f.png"], settings)
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    wide = (1000 - 20 - 50) / 3
    cell = wide / 8
    left, top = 10 + wide + 25 + cell, 52 + cell  # of the map in the second panel
    part = pixels[round(top) : round(top + 4 * cell), round(left) : round(left + 6 * cell)]
    dark = np.argwhere(part.max(axis=2) < 40)  # neither viridis nor tissue is that dark
    # patch 8 stands in row 1, column 2
    np.testing.assert_allclose(dark.mean(axis=0), [1.5 * cell, 2.5 * cell], atol=3)
    assert (np.ptp(dark, axis=0) < cell).all()


def test_without_mpp_lengths_are_in_pixels(comparison: Comparison, tmp_path: Path) -> None:
    file = tmp_path / "f.svg"
    with open_slide(write_slide(tmp_path / "tiny.tif", mpp=None)) as slide:
        write_figure(comparison, slide, [file], FigureSettings(dpi=60), zooms=[(0, 0, 100, 100)])
        with pytest.raises(ExportError, match="is 1408 x 1152 level-0 px"):
            write_figure(comparison, slide, [file], zooms=[(0, 0, 1409, 100)])
    said = text_of(file)
    assert " px" in said
    assert "µm" not in said


def test_too_many_pixels_are_refused(slide: Slide, comparison: Comparison, tmp_path: Path) -> None:
    huge = FigureSettings(width=500, dpi=1200)
    with pytest.raises(ExportError, match=r"choose \d+ or fewer") as refusal:
        write_figure(comparison, slide, [tmp_path / "f.png"], huge)
    assert not list(tmp_path.iterdir()), refusal


def test_differences_have_a_colour_bar_of_their_own(
    slide: Slide, comparison: Comparison, tmp_path: Path
) -> None:
    file = tmp_path / "f.svg"
    write_figure(
        comparison, slide, [file], FigureSettings(dpi=60), more=[comparison.difference(0, 1)]
    )
    said = text_of(file)
    assert "Alpha $x^2$ − Beta" in said
    assert "Difference of percentile ranks" in said
    assert "+100" in said


def test_each_map_may_have_its_own_bar(
    slide: Slide, comparison: Comparison, tmp_path: Path
) -> None:
    file = tmp_path / "f.svg"
    settings = FigureSettings(dpi=60, shared_range=False)
    write_figure(comparison, slide, [file], settings, display=DisplaySettings(transform="raw"))
    said = text_of(file)
    assert "Rank of the patch" not in said
    assert "the values of each map, colours linear in the value" in said


@pytest.mark.parametrize(
    ("path", "zooms", "words"),
    [
        ("f.jpg", [], "f.jpg is no figure this program writes; use .pdf, .svg, .png"),
        (
            "f.png",
            [(0.0, 0.0, 900.0, 10.0)],
            "the zoomed region x 0, y 0, 900 x 10 µm does not lie on tiny.tif, which is 704 x "
            "576 µm; choose one inside",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    slide: Slide, comparison: Comparison, tmp_path: Path, path: str, zooms: list, words: str
) -> None:
    with pytest.raises(ExportError) as refusal:
        write_figure(comparison, slide, [tmp_path / path], zooms=zooms)
    assert str(refusal.value) == words
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("panels", range(3, 10))
@pytest.mark.parametrize("aspect", [0.2, 0.75, 1.0, 3.0])
def test_nothing_overlaps_or_leaves_the_page(panels: int, aspect: float) -> None:
    words = Words(above=4.0, below=4.0, bar=8.0, foot=4.0)
    made = lay_out(180.0, panels, aspect, [1.5, 1.0], 3, words)
    middles, room = [b.left + b.width / 2 for b in made.bars], bar_room(180.0, 3)
    assert len(made.panels) == panels
    assert made.height <= 240.001
    for box in made.panels:
        assert box.height / box.width == pytest.approx(aspect)
    boxes = [
        *((b.left, b.top - 4.0, b.left + b.width, b.top + b.height + 4.0) for b in made.panels),
        *((b.left, b.top - 4.0, b.left + b.width, b.top + b.height) for b in made.zooms),
        # a label may be wider than its bar
        *(
            (middle - room / 2, b.top, middle + room / 2, b.top + b.height + 8.0)
            for b, middle in zip(made.bars, middles, strict=True)
        ),
    ]
    for left, top, right, bottom in boxes:
        assert left >= 0.999
        assert top >= 0.999
        assert right <= 179.001
        assert bottom <= made.foot + 0.001
    for a, b in itertools.combinations(boxes, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (a, b)


def test_words_are_shortened_to_what_fits() -> None:
    long = "a model with quite a long name"
    assert shortened(long, 100.0, 7) == long
    cut = shortened(long, 20.0, 7)
    assert cut.endswith("…")
    assert long.startswith(cut[:-1])
    assert width_of_text(cut, 7) <= 20
    assert width_of_text(long, 7) > 20


def test_answers_are_short_and_never_claim_certainty() -> None:
    bag = bag_of([(0, 0)])
    assert answer_in_words(entry_of(bag, "A", [1.0]).prediction) == "yes 75.0 %"
    sure = entry_of(bag, "A", [1.0], probabilities=(1e-6, 1 - 1e-6))
    assert answer_in_words(sure.prediction) == "yes >99.9 %"
