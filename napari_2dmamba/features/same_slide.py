"""Whether features are those of a slide, by what their file says of the slide they are of."""

from __future__ import annotations

import hashlib
from pathlib import PurePath
from typing import TYPE_CHECKING

from napari_2dmamba.errors import FeatureError

if TYPE_CHECKING:
    from napari_2dmamba.features.files import FeatureFile
    from napari_2dmamba.slide import Slide

SAME_MPP = 0.03
"""Of two measurements of one slide's µm per pixel."""
SAME_MAGNIFICATION = 1.8
"""Ratio up to which a resolution has a nominal magnification: 20x are 0.3 to 0.6 µm per pixel."""


def refuse_other_slide(file: FeatureFile, slide: Slide) -> list[str]:
    """Compare what a file says of its slide with the slide; return remarks.

    Raises
    ------
    FeatureError
        Where they differ, with both values.
    """
    facts, (width, height) = file.facts, slide.dimensions
    advice = "choose the slide they belong to, or extract features again"
    if facts.slide_hash is not None and _has_other_content(slide, facts.slide_hash):
        raise FeatureError(
            f"{file.path} holds features of a slide whose checksum is {facts.slide_hash[:16]}…, "
            f"and that of {slide.name} is another; {advice}"
        )
    same_content = facts.slide_id is not None and facts.slide_id == slide.fingerprint
    if facts.slide_size is not None:
        across, along, within = facts.slide_size
        if abs(across - width) > within or abs(along - height) > within:
            raise FeatureError(
                f"{file.path} holds features of a slide of {across:.0f} x {along:.0f} px, and "
                f"{slide.name} is {width} x {height} px; {advice}"
            )
    if slide.mpp is not None:
        stated = facts.slide_mpp
        if stated is not None and abs(stated - slide.mpp) > SAME_MPP * slide.mpp:
            raise FeatureError(
                f"{file.path} holds features of a slide of {stated:g} µm per pixel, and "
                f"{slide.name} has {slide.mpp:g} ({slide.mpp_source}); {advice}"
            )
        power = facts.slide_magnification
        if power is not None:
            ratio = slide.mpp * power / 10
            if not 1 / SAME_MAGNIFICATION < ratio < SAME_MAGNIFICATION:
                raise FeatureError(
                    f"{file.path} holds features of a slide of {power:g}x (about "
                    f"{10 / power:.3g} µm per pixel), and {slide.name} has {slide.mpp:g} µm per "
                    f"pixel ({slide.mpp_source}); {advice}"
                )
    if facts.slide_name is None or same_content:
        return []
    if _names(facts.slide_name) & _names(slide.name):
        return []
    if facts.slide_size is None:
        raise FeatureError(
            f"{file.path} holds features of the slide {facts.slide_name!r}, and this one is "
            f"called {slide.name!r}; {advice}"
        )
    return [
        f"the features file calls its slide {facts.slide_name!r}; it is as large as {slide.name} "
        "to the pixel, so it was taken for the same"
    ]


def _has_other_content(slide: Slide, stated: str) -> bool:
    """Whether a checksum is that of another file; False where its kind cannot be told."""
    stated = stated.strip().casefold().rpartition(":")[2]
    kind = {32: "md5", 40: "sha1", 64: "sha256"}.get(len(stated))
    if kind is None or stated == slide.fingerprint.casefold() or not slide.path.is_file():
        return False
    with slide.path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest() != stated


def _names(name: str) -> set[str]:
    """Return a slide's name with and without its suffixes, in small letters."""
    path = PurePath(name.replace("\\", "/").casefold())
    return {path.name, path.stem, path.stem.removesuffix(".ome")}
