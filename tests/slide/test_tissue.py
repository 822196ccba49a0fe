"""Tissue: painted slides with known truth, and real slides against what an eye sees."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from shapely import box

from napari_2dmamba.errors import SlideError, TissueError
from napari_2dmamba.slide import Regions, TissueMask, TissueSettings, detect_tissue, open_slide
from tests.material import shared
from tests.slide.painted import HEIGHT, WIDTH, Mask, picture, piece, stroke
from tests.slide.written import write_tiff

PALE = (229, 212, 226)
DARK = (120, 60, 140)
INKS = {
    "blue": (40, 60, 165), "light blue": (110, 140, 215), "green": (50, 140, 90),
    "teal": (30, 120, 130), "black": (35, 35, 40),
}  # fmt: skip


def found(
    path: Path,
    pixels: NDArray[np.uint8],
    settings: TissueSettings | None = None,
    regions: Regions | None = None,
    mpp: float | None = 8.0,
) -> Mask:
    """Write a picture, find its tissue, and return the mask in the picture's own pixels."""
    with open_slide(write_tiff(path / "a.tif", pixels, tile=(256, 256)), mpp=mpp) as slide:
        tissue = detect_tissue(slide, settings, regions)
    size = (pixels.shape[1], pixels.shape[0])
    return np.asarray(Image.fromarray(tissue.mask).resize(size, Image.Resampling.NEAREST))


def share(found: Mask, of: Mask) -> float:
    return float((found & of).sum() / of.sum())


@pytest.mark.parametrize(("ink", "mpp"), [*((ink, 8.0) for ink in INKS), ("blue", None)])
def test_pale_tissue_is_kept_and_pen_left_out(tmp_path: Path, ink: str, mpp: float | None) -> None:
    tissue = piece(600, 600, 250, seed=1)
    pen = stroke([(80, 60), (300, 160), (700, 90), (1300, 200)], 26)
    mask = found(tmp_path, picture((tissue, PALE), (pen, INKS[ink])), mpp=mpp)
    assert share(mask, tissue) > 0.98
    assert share(mask, pen) < 0.001
    assert (mask & ~tissue & ~pen).mean() < 0.002


def test_pen_can_be_kept(tmp_path: Path) -> None:
    tissue = piece(600, 600, 250, seed=1)
    pen = stroke([(80, 60), (1300, 200)], 26)
    pixels = picture((tissue, DARK), (pen, INKS["blue"]))
    assert share(found(tmp_path, pixels, TissueSettings(remove_pen=False)), pen) > 0.9
    assert share(found(tmp_path, pixels), pen) < 0.001


def test_a_paler_piece_beside_a_dark_one_is_not_lost(tmp_path: Path) -> None:
    dark, pale = piece(500, 380, 230, seed=1), piece(500, 1000, 200, seed=2)
    mask = found(tmp_path, picture((dark, DARK), (pale, (222, 200, 218))))
    assert share(mask, dark) > 0.98
    assert share(mask, pale) > 0.98
    assert (mask & ~dark & ~pale).mean() < 0.005


def test_dark_nuclei_and_brown_stain_are_no_pen(tmp_path: Path) -> None:
    brown, blue = piece(500, 380, 230, seed=1), piece(500, 1000, 200, seed=2)
    mask = found(tmp_path, picture((brown, (95, 60, 35)), (blue, (150, 160, 195))))
    assert share(mask, brown) > 0.98
    assert share(mask, blue) > 0.98


def test_tinted_glass_beside_white_never_scanned_is_no_tissue(tmp_path: Path) -> None:
    tissue = piece(500, 400, 200, seed=1)
    pixels = picture((tissue, (190, 120, 170)), glass=(246, 243, 240))
    pixels[:, 900:] = 255
    mask = found(tmp_path, pixels)
    assert share(mask, tissue) > 0.98
    assert (mask & ~tissue).mean() < 0.005


@pytest.mark.parametrize("shading", [0.0, 12.0])
def test_a_blank_slide_is_said_to_be_blank(tmp_path: Path, shading: float) -> None:
    with pytest.raises(TissueError, match=r"no tissue was found on a\.tif"):
        found(tmp_path, picture(shading=shading))
    with pytest.raises(TissueError, match="no tissue"):
        found(tmp_path, np.full((300, 400, 3), 255, np.uint8))


def test_a_slide_with_only_pen_has_no_tissue(tmp_path: Path) -> None:
    with pytest.raises(TissueError, match="no tissue"):
        found(tmp_path, picture((stroke([(80, 60), (1300, 200)], 30), INKS["blue"])))


def test_small_pieces_go_and_small_holes_close(tmp_path: Path) -> None:
    tissue, speck, hole = piece(500, 400, 200, 1), piece(200, 1100, 12, 2), piece(500, 400, 12, 3)
    pixels = picture((tissue & ~hole, DARK), (speck, DARK), blur=0.5)
    # a radius of 12 px at 8 µm is an area of about 29 000 µm²
    kept = found(tmp_path, pixels, TissueSettings(smallest_piece=10_000, largest_hole=10_000))
    assert share(kept, speck) > 0.9
    assert share(kept, hole) < 0.5
    gone = found(tmp_path, pixels, TissueSettings(smallest_piece=60_000, largest_hole=60_000))
    assert share(gone, speck) == 0
    assert share(gone, hole) == 1


def test_a_given_threshold_is_used(tmp_path: Path) -> None:
    dark, pale = piece(500, 380, 230, seed=1), piece(500, 1000, 200, seed=2)
    pixels = picture((dark, DARK), (pale, PALE))
    mask = found(tmp_path, pixels, TissueSettings(threshold=0.3))
    assert share(mask, dark) > 0.95
    assert share(mask, pale) < 0.01


def test_regions_narrow_the_tissue(tmp_path: Path) -> None:
    tissue = piece(500, 700, 300, seed=1)
    pixels = picture((tissue, DARK))
    regions = Regions.of(include=(box(0, 0, 700, HEIGHT),), exclude=(box(0, 0, WIDTH, 500),))
    mask = found(tmp_path, pixels, regions=regions)
    quarter = np.zeros_like(mask)
    quarter[500:, :700] = True
    assert share(mask, tissue & quarter) > 0.97
    assert share(mask, ~quarter) == 0
    everything = found(tmp_path, pixels, TissueSettings(method="everything"), regions)
    np.testing.assert_array_equal(everything, quarter)
    with pytest.raises(TissueError, match="given regions"):
        found(tmp_path, pixels, regions=Regions.of(include=(box(0, 0, 50, 50),)))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("slides/he/metaplasia-HE.svs", 0.55, 0.66), ("slides/he/lungSCC-HE2-half.tif", 0.10, 0.115),
     ("slides/he/CMU-1-Small-Region.svs", 0.38, 0.44),
     ("slides/ihc/metaplasia-trypsin-IHC.tif", 0.53, 0.58),
     ("slides/no_mpp/tcga-cr-7395-01a-01-ts1.svs", 0.61, 0.65),
     ("atlas/slides/lung-squamous-cell-carcinoma_HE1_1um.tif", 0.12, 0.132),
     ("atlas/slides/BS17_HE_1um.tif", 0.25, 0.275)],
)  # fmt: skip
def test_real_slides_as_judged_by_eye(name: str, low: float, high: float) -> None:
    with open_slide(shared(name)) as slide:
        tissue = detect_tissue(slide)
        assert isinstance(tissue, TissueMask)
        assert low < tissue.fraction < high
        pixels = slide.thumbnail(max(tissue.mask.shape))
    outside = pixels[~tissue.mask].reshape(-1, 3).astype(int)
    # what is left out is nearly all bright and grey: glass
    assert (outside.min(axis=1) > 170).mean() > 0.95


def test_damage_where_tissue_is_looked_for_is_refused() -> None:
    with (
        open_slide(shared("slides/broken/corrupt-tiles.svs")) as slide,
        pytest.raises(SlideError, match="damaged"),
    ):
        detect_tissue(slide)


@pytest.mark.parametrize("ink", [(120, 200, 140), (170, 215, 185)])
def test_a_green_smear_at_the_edge_of_a_pale_slide_is_left_out(
    tmp_path: Path, ink: tuple[int, int, int]
) -> None:
    """Its inked core is a quarter of what other strokes need; the rest is paler."""
    tissue = piece(500, 500, 220, seed=1)
    smear = stroke([(1200, 880), (1390, 960)], 14)
    core = stroke([(1250, 900), (1300, 921)], 12)
    pixels = picture((tissue, (225, 205, 220)), (smear, ink), (core, (60, 160, 90)))
    mask = found(tmp_path, pixels)
    assert share(mask, tissue) > 0.95
    assert share(mask, smear) < 0.05


def test_pink_glass_beside_tissue_is_left_out(tmp_path: Path) -> None:
    tissue = piece(500, 400, 200, seed=1)
    pink = np.zeros((1000, 1400), bool)
    pink[100:900, 800:1300] = True
    pixels = picture((tissue, (190, 120, 170)), (pink, (243, 232, 238)), texture=0.3)
    mask = found(tmp_path, pixels)
    assert share(mask, tissue) > 0.98
    assert share(mask, pink) < 0.05


def test_fat_is_out_or_in_throughout_on_a_real_slide() -> None:
    """Two lymph nodes in fat that fills the picture."""
    with open_slide(shared("atlas/slides/insidious-lymph-node-metastasis_HE_1um.tif")) as slide:
        lean = detect_tissue(slide)
        assert 0.25 < lean.fraction < 0.5
        assert lean.mask[:, 480:560].mean() < 0.15  # fat between the nodes
        assert detect_tissue(slide, TissueSettings(fat=True)).fraction > 0.92


def fat(cell: float, wall: float, seed: int = 0) -> NDArray[np.uint8]:
    """Paint tissue with a field of fat cells of so many µm, at 8 µm/px, and give the field."""
    height, width, fine = 200, 250, 4  # walls are painted at 2 µm
    random = np.random.default_rng(seed)
    count = int(height * width * 64 / cell**2)
    centres = random.uniform(0, 1, (count, 2)) * (height * fine, width * fine)
    grid = np.indices((height * fine, width * fine)).reshape(2, -1).T
    near = cKDTree(centres).query(grid, k=2)[0]
    walls = (np.diff(near).ravel() * 2 < wall).reshape(height, fine, width, fine).mean((1, 3))
    pixels = np.full((HEIGHT, WIDTH, 3), 243.0)
    pixels[300:500, 400:650] -= walls[..., np.newaxis] * (20, 65, 40)
    pixels[300:500, 650:750] = (190, 120, 170)
    pixels += random.standard_normal(pixels.shape) * 1.5
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("cell", "wall"), [(60, 4), (80, 6)])
def test_fat_is_tissue_up_to_its_edge_if_wanted(tmp_path: Path, cell: float, wall: float) -> None:
    pixels = fat(cell, wall)
    mask = found(tmp_path, pixels, TissueSettings(fat=True))
    field = np.zeros_like(mask)
    field[300:500, 400:650] = True
    assert share(mask, field) > 0.88
    lean = found(tmp_path, pixels)
    assert share(lean, field) < 0.25
    assert share(lean[:, 650:750], np.ones_like(mask[:, 650:750])) > 0.19  # the tissue beside it
    beyond = np.ones_like(mask)
    beyond[296:504, 396:754] = False
    assert share(mask, beyond) == 0


@pytest.mark.parametrize("ink", ["blue", "green", "teal", "black"])
@pytest.mark.parametrize(("width", "length"), [(4, 200), (8, 120), (20, 30)])
def test_small_strokes_on_glass_are_left_out(
    tmp_path: Path, ink: str, width: int, length: int
) -> None:
    """The smallest has 45 000 µm²; such were tissue once."""
    tissue = piece(600, 400, 200, seed=1)
    pen = stroke([(1000, 300), (1000 + length, 300 + length // 5)], width)
    mask = found(tmp_path, picture((tissue, (190, 120, 170)), (pen, INKS[ink])))
    assert share(mask, tissue) > 0.97
    assert share(mask, pen) < 0.05


@pytest.mark.parametrize("ink", ["blue", "green"])
def test_a_small_stroke_that_touches_tissue_is_left_out(tmp_path: Path, ink: str) -> None:
    tissue = piece(600, 400, 200, seed=1)
    pen = stroke([(560, 600), (760, 640)], 6) & ~tissue
    mask = found(tmp_path, picture((tissue, (190, 120, 170)), (pen, INKS[ink])))
    assert share(mask, pen) < 0.05
    assert share(mask, tissue) > 0.95


def test_scratches_and_dust_are_no_tissue(tmp_path: Path) -> None:
    """Grey detail in most of a neighbourhood, without colour."""
    tissue = piece(600, 400, 200, seed=1)
    pixels = picture((tissue, (190, 120, 170))).astype(float)
    random = np.random.default_rng(3)
    dust = gaussian_filter((random.random((400, 400)) < 0.08).astype(float), 0.7) * 160
    pixels[:400, 900:1300] -= dust[..., np.newaxis]
    pixels[500:900, 900:1300:5] -= 25
    mask = found(tmp_path, np.clip(pixels, 0, 255).astype(np.uint8))
    assert share(mask, tissue) > 0.97
    assert not mask[:, 860:].any()


@pytest.mark.parametrize("kind", ["vignette", "pink to one side", "stripes", "pink stripes"])
def test_uneven_glass_is_no_tissue(tmp_path: Path, kind: str) -> None:
    tissue = piece(500, 600, 220, seed=1)
    rows, columns = np.indices((HEIGHT, WIDTH)) / np.array([HEIGHT, WIDTH]).reshape(2, 1, 1)
    band = (columns * WIDTH // 120) % 2
    shade, tint = {
        "vignette": (0.3 * ((rows - 0.5) ** 2 + (columns - 0.5) ** 2), 0 * rows),
        "pink to one side": (0 * rows, 0.05 * columns),
        "stripes": (0.03 * band, 0 * rows),
        "pink stripes": (0 * rows, 0.035 * band),
    }[kind]
    light = 1 - shade[..., np.newaxis] - tint[..., np.newaxis] * (0, 1, 0.5)
    pixels = (picture((tissue, (190, 120, 170))) * light).astype(np.uint8)
    mask = found(tmp_path, pixels)
    assert share(mask, tissue) > 0.97
    assert (mask & ~tissue).mean() < 0.005


def test_tissue_on_glass_of_pure_white_is_found(tmp_path: Path) -> None:
    pixels = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    noise = np.random.default_rng(0).integers(-25, 26, (500, 600, 1))
    pixels[300:800, 200:800] = np.clip(np.array((220, 140, 200)) + noise, 0, 255)
    mask = found(tmp_path, pixels)
    assert mask[300:800, 200:800].mean() > 0.98
    assert mask.mean() < 0.22
