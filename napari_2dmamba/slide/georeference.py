"""Where a GeoTIFF lies on the ground: its affine placement, and the size of its pixels in metres.

Read from tifffile's GeoTIFF tags (OGC GeoTIFF 1.1). Degrees are never taken for metres: they are
converted at the image's latitude, on the WGS 84 ellipsoid.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

_KEYS, _DOUBLES, _ASCII = 34735, 34736, 34737
_SCALE, _TIEPOINT, _TRANSFORM = 33550, 33922, 34264
_PROJECTED, _GEOGRAPHIC = 1, 2
_POINT = 2
_UNITS = {9001: ("metre", 1.0), 9002: ("foot", 0.3048), 9003: ("US survey foot", 1200 / 3937)}
_DEGREE = 9102
_WEB_MERCATOR, _EARTH = (3857, 3785, 900913), 6378137.0
_NOT_SQUARE = 0.02
_ADVICE = "reproject it to a projection in metres, such as UTM"


@dataclass(frozen=True)
class Georeference:
    """Placement of level-0 pixels in a coordinate reference system.

    Attributes
    ----------
    affine
        ``(a, b, c, d, e, f)``: the corner of pixel ``(column, row)`` lies at
        ``x = a * column + b * row + c``, ``y = d * column + e * row + f``.
    epsg
        Number of the reference system, or None.
    crs
        Its name, for the user.
    metres
        Metres on the ground per pixel, or None.
    source
        Where that comes from, or why there is none.
    keys
        ``(tag, type, count, value)`` of the GeoTIFF keys, to be written again.
    is_point
        Whether tags place centres of pixels instead of corners.
    """

    affine: tuple[float, float, float, float, float, float]
    epsg: int | None
    crs: str
    metres: float | None
    source: str
    keys: tuple[tuple[int, int, int, Any], ...] = ()
    is_point: bool = False

    def coordinates(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ``(N, 2)`` coordinates ``(x, y)`` of level-0 pixel places ``(column, row)``."""
        a, b, c, d, e, f = self.affine
        column, row = np.asarray(pixels, np.float64).T
        return np.stack([a * column + b * row + c, d * column + e * row + f], axis=1)

    def tags_of(
        self, origin: tuple[float, float], step: float
    ) -> list[tuple[int, int, int, Any, bool]]:
        """Return TIFF tags that place a picture of this image, as tifffile takes them.

        Parameters
        ----------
        origin, step
            Level-0 ``(x, y)`` of its corner, and level-0 pixels per pixel.
        """
        a, b, _, d, e, _ = (value * step for value in self.affine)
        middle = 0.5 * step if self.is_point else 0.0
        ((x, y),) = self.coordinates(np.array([origin]) + middle)
        matrix = (a, b, 0.0, x, d, e, 0.0, y, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
        placed = [(_TRANSFORM, 12, 16, tuple(map(float, matrix)), True)]
        return placed + [(*key, True) for key in self.keys]


def georeference(page: tifffile.TiffPage) -> Georeference | None:
    """Return where a page lies on the ground; None where it does not say."""
    if not page.is_geotiff:
        return None
    told: dict[str, Any] = dict(page.geotiff_tags or {})
    is_point = int(told.get("GTRasterTypeGeoKey", 1)) == _POINT
    affine = _affine(page, 0.5 if is_point else 0.0)
    if affine is None:
        return None
    model = int(told.get("GTModelTypeGeoKey", 0))
    code = told.get("ProjectedCSTypeGeoKey" if model == _PROJECTED else "GeographicTypeGeoKey")
    epsg = None if code is None or not 1024 <= int(code) < 32767 else int(code)
    named = str(told.get("GTCitationGeoKey") or told.get("GeogCitationGeoKey") or "").strip("| ")
    crs = ", ".join(filter(None, [named, f"EPSG:{epsg}" if epsg else ""])) or "unnamed"
    size = page.imagewidth, page.imagelength
    metres, source = _ground_size(affine, model, epsg, told, size)
    keys = tuple(
        (tag.code, int(tag.dtype), tag.count, tag.value)
        for tag in page.tags
        if tag.code in (_KEYS, _DOUBLES, _ASCII)
    )
    return Georeference(affine, epsg, crs, metres, source, keys, is_point)


def _affine(
    page: tifffile.TiffPage, middle: float
) -> tuple[float, float, float, float, float, float] | None:
    """Return the placement of corners; tags place the point ``middle`` within a pixel."""
    scale, tiepoint, transform = (
        None if (tag := page.tags.get(code)) is None else [float(v) for v in tag.value]
        for code in (_SCALE, _TIEPOINT, _TRANSFORM)
    )
    if transform is not None and len(transform) == 16:
        a, b, c, d, e, f = (transform[i] for i in (0, 1, 3, 4, 5, 7))
    elif scale is not None and tiepoint is not None:
        across, down = scale[:2]
        column, row, _, x, y = tiepoint[:5]
        a, b, c, d, e, f = across, 0.0, x - across * column, 0.0, -down, y + down * row
    else:
        return None
    found = (a, b, c - (a + b) * middle, d, e, f - (d + e) * middle)
    return found if np.isfinite(found).all() and abs(a * e - b * d) > 0 else None


def _ground_size(
    affine: tuple[float, ...], model: int, epsg: int | None, told: dict[str, Any],
    size: tuple[int, int],
) -> tuple[float | None, str]:  # fmt: skip
    """Return metres per pixel, or None, with where it comes from or why there is none."""
    a, b, _, d, e, f = affine
    y = d * size[0] / 2 + e * size[1] / 2 + f  # of the middle
    if model == _GEOGRAPHIC:
        if int(told.get("GeogAngularUnitsGeoKey", _DEGREE)) != _DEGREE or abs(y) > 90:
            return None, f"its coordinates are angles in an unknown unit; {_ADVICE}"
        east, north = _metres_per_degree(y)
        across, down = math.hypot(a * east, d * north), math.hypot(b * east, e * north)
        where = f"degrees converted at latitude {y:.2f}°"
    elif model == _PROJECTED:
        unit = told.get("ProjLinearUnitsGeoKey")
        if unit is None or int(unit) not in _UNITS:
            return None, f"the file does not name the unit of its projection; {_ADVICE}"
        name, factor = _UNITS[int(unit)]
        if epsg in _WEB_MERCATOR:  # its metres are those of the equator
            latitude = math.atan(math.sinh(y / _EARTH))
            factor *= math.cos(latitude)
            name = f"web map metres, converted at latitude {math.degrees(latitude):.2f}°"
        across, down = factor * math.hypot(a, d), factor * math.hypot(b, e)
        where = "metres" if name == "metre" else name if "," in name else f"{name} converted"
    else:
        return None, f"its coordinates are neither projected nor geographic; {_ADVICE}"
    if abs(across - down) > _NOT_SQUARE * max(across, down):
        return None, (
            f"its pixels are {across:.4g} x {down:.4g} m on the ground ({where}), and not square; "
            f"{_ADVICE}"
        )
    return (across + down) / 2, f"GeoTIFF, {where}"


def _metres_per_degree(latitude: float) -> tuple[float, float]:
    """Return metres per degree of longitude and of latitude on WGS 84."""
    flattening = 1 / 298.257223563
    squared = flattening * (2 - flattening)  # of the eccentricity
    sine, cosine = math.sin(math.radians(latitude)), math.cos(math.radians(latitude))
    curve = 1 - squared * sine**2
    east = _EARTH * cosine / math.sqrt(curve)
    north = _EARTH * (1 - squared) / curve**1.5
    return math.radians(east), math.radians(north)
