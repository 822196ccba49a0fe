"""Make the GeoTIFFs beside this file with GDAL (pip install rasterio; not needed for tests)."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from make_bands import bands
from rasterio.enums import ColorInterp
from rasterio.transform import Affine, from_origin

TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "predictor": 2}
RGB = {**TILED, "photometric": "RGB"}


def write(name: str, pixels: np.ndarray, crs: str, place: Affine, **more: Any) -> None:
    """Write one file, with names and meanings of its bands."""
    names, meanings = more.pop("names", ()), more.pop("meanings", None)
    with rasterio.open(
        Path(__file__).parent / f"{name}.tif", "w", driver="GTiff", count=len(pixels),
        height=pixels.shape[1], width=pixels.shape[2], dtype=pixels.dtype, crs=crs,
        transform=place, **more,
    ) as file:  # fmt: skip
        file.write(pixels)
        for number, one in enumerate(names, start=1):
            file.set_band_description(number, one)
        if meanings:
            file.colorinterp = meanings


def main() -> None:
    """Write them all."""
    wide = bands(64, 96, 4, np.uint16, 3000)
    wide[:, :8, :8] = 0
    write("utm-16bit-4bands", wide, "EPSG:32632", from_origin(500000, 5250000, 0.5, 0.5), nodata=0,
          names=["B02 blue", "B03 green", "B04 red", "B08 nir"], **TILED)  # fmt: skip
    small = bands(64, 64, 3, np.uint8, 255)
    degrees = from_origin(11.5, 48.2, 1e-5, 1e-5)
    write("geographic", small, "EPSG:4326", degrees, **RGB)
    write("equator", small, "EPSG:4326", from_origin(36.8, 0.3, 1e-5, 1e-5), **RGB)
    write("webmercator", small, "EPSG:3857", from_origin(1280000, 6130000, 0.6, 0.6), **RGB)
    write("feet", small, "EPSG:2263", from_origin(990000, 200000, 1, 1), **RGB)
    turned = Affine(0.4, 0.3, 690000, 0.3, -0.4, 5340000)
    colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined]
    nir = bands(64, 64, 4, np.uint8, 255)
    write("rgb-nir", nir, "EPSG:25832", turned, meanings=colours, **RGB)


if __name__ == "__main__":
    main()
