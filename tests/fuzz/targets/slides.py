"""Small slides of every kind that the TIFF reader knows, most damage in their directories."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_2dmamba.errors import UserError
from napari_2dmamba.features.patch_reader import PatchReader
from napari_2dmamba.slide.grid import GridSettings, make_grid
from napari_2dmamba.slide.slide import open_slide
from napari_2dmamba.slide.tissue import TissueSettings, detect_tissue
from tests.fuzz.mutate import Seed
from tests.slide.written import write_ome_pyramid, write_pyramid, write_svs, write_tiff

ALLOWED = (UserError,)


def seeds(folder: Path) -> list[Seed]:
    """See `tests.fuzz`."""
    levels = _picture()
    flat = levels[1]
    files = [
        write_pyramid(folder / "pyramid.tif", levels),
        write_pyramid(folder / "jpeg.tif", levels, compression="jpeg"),
        write_svs(folder / "svs.svs", levels),
        write_ome_pyramid(folder / "planes.ome.tif", [np.moveaxis(p, -1, 0).copy() for p in levels],
                          metadata={"axes": "CYX"}, photometric="minisblack"),
        write_ome_pyramid(folder / "rgb.ome.tif", levels, metadata={"axes": "YXS"},
                          photometric="rgb"),
        write_tiff(folder / "plain.tif", flat, tile=None, compression=None, rowsperstrip=16),
        write_tiff(folder / "separate.tif", np.moveaxis(flat, -1, 0).copy(),
                   planarconfig="separate"),
        write_tiff(folder / "strips.tif", flat, tile=None, compression="lzw", rowsperstrip=16),
        write_tiff(folder / "big-endian.tif", flat, byteorder=">"),
        write_tiff(folder / "bigtiff.tif", flat, bigtiff=True),
        write_tiff(folder / "j2k.tif", flat, compression="jpeg2000"),
        write_tiff(folder / "grey16.tif", flat[..., 0].astype(np.uint16) * 257,
                   photometric="minisblack"),
        write_tiff(folder / "alpha.tif", np.dstack([flat, flat[..., 0]]),
                   extrasamples=["unassalpha"]),
    ]  # fmt: skip
    return [Seed(path, _directories(path)) for path in files]


def drive(path: Path) -> None:
    """Open, look at every level, find tissue, and read patches in both ways."""
    with open_slide(path) as slide:
        _ = slide.kind, slide.fingerprint, slide.objective_power, repr(slide)
        for level in slide.pyramid():
            level[: min(64, level.shape[0]), : min(64, level.shape[1])]
            level[level.shape[0] // 2, :64]
        slide.thumbnail(256)
        slide.contrast_limits()
        slide.require_brightfield()
        tissue = detect_tissue(slide, TissueSettings(method="everything"))
        for patch, mpp in ((64, (slide.mpp or 1.0)), (32, (slide.mpp or 1.0) * 1.7)):
            grid = make_grid(slide, tissue, GridSettings(patch_size=patch, target_mpp=mpp))
            for _batch in zip(range(2), PatchReader(slide, grid).batches(8), strict=False):
                pass


def _picture() -> list[Any]:
    """Return three levels of coloured noise that is smooth enough for JPEG."""
    chance = np.random.default_rng(3)
    coarse = chance.integers(90, 230, (32, 40, 3), dtype=np.uint8)
    full = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    return [full, full[::2, ::2].copy(), full[::4, ::4].copy()]


def _directories(path: Path) -> tuple[tuple[int, int], ...]:
    """Return the byte ranges of the header, of each directory, and of values near them."""
    ranges = [(0, 16)]
    with tifffile.TiffFile(path) as tiff:
        pages = list(tiff.pages)
        for page in tuple(pages):
            pages += list(getattr(page, "pages", None) or ())
        for page in pages:
            size = tiff.tiff.tagnosize + len(page.tags) * tiff.tiff.tagsize + 8
            ranges.append((page.offset, page.offset + size))
            ranges += [
                (tag.valueoffset, tag.valueoffset + min(tag.valuebytecount, 400))
                for tag in page.tags
                if tag.valueoffset > page.offset + size
            ]
    return tuple(ranges)
