"""Names, sizes and colours of regions, as they are shown."""

from collections.abc import Sequence

from napari_2dmamba.slide import Region

_METRE = 1e6  # in µm
Colour = tuple[int, int, int]


def region_names(regions: Sequence[Region]) -> list[str]:
    """Return what regions are called: by name, else by class or form and number; no name twice."""
    found: dict[str, None] = {}
    copies: dict[str, int] = {}
    for number, one in enumerate(regions, start=1):
        form = {"Point": "Point", "LineString": "Line"}.get(one.geometry.geom_type, "Area")
        name = plain = one.name or f"{one.classification or form} {number}"
        while name in found:
            copies[plain] = copies.get(plain, 1) + 1
            name = f"{plain} ({copies[plain]})"
        found[name] = None
    return list(found)


def length_words(pixels: float, mpp: float | None) -> str:
    """Say how long something of so many level-0 pixels is."""
    if mpp is None:
        return f"{pixels:,.0f} px".replace(",", "\u2009")
    micrometres = pixels * mpp
    if micrometres >= _METRE:  # on the ground
        return f"{micrometres / _METRE:.1f} m"
    return f"{micrometres:.1f} µm" if micrometres < 1000 else f"{micrometres / 1000:.3f} mm"


def hex_of(colour: Colour | None) -> str:
    """Return a colour as ``#rrggbb``, empty for none."""
    return "" if colour is None else "#{:02x}{:02x}{:02x}".format(*colour)


def area_words(region: Region, mpp: float | None) -> str:
    """Say how large a region is; lines and points are not."""
    area = sum(polygon.area for polygon in region.polygons)
    if not region.polygons:
        return ""
    if mpp is None:
        return f"{area:,.0f} px²".replace(",", "\u2009")
    area *= mpp**2
    return f"{area / 1e6:.3g} mm²" if area < _METRE**2 else f"{area / _METRE**2:,.4g} m²"
