"""Features of a file, placed on their slide.

What a file does not say of its patches is taken from the slide, then from the checkpoint, then
from the user; where each value came from is kept in the bag's ``source``. What file and slide both
say must agree.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.features.file_facts import (
    LARGEST_PATCH,
    OWN_LAYOUT,
    FeatureFileSettings,
    FileFacts,
    MissingFeatureFactsError,
)
from napari_2dmamba.features.files import FeatureFile, read_feature_file
from napari_2dmamba.features.lattice import step_of
from napari_2dmamba.features.same_slide import SAME_MAGNIFICATION, SAME_MPP, refuse_other_slide
from napari_2dmamba.slide.grid import PatchGrid, canvas_of_slide, cells_of

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide


class TrainedOn(Protocol):
    """What a checkpoint says of the patches it was trained on, such as a `CheckpointHeader`."""

    @property
    def patch_size(self) -> int | None:
        """Side of a patch in pixels at `mpp`."""

    @property
    def mpp(self) -> float | None:
        """µm per pixel of the patches."""


_SAME = 0.02
"""Relative difference of two statements of one number."""

_FROM_FILE, _FROM_SLIDE, _FROM_USER = "the features file", "the slide", "given"
_FROM_CHECKPOINT = "the checkpoint, since the features file does not say it"
_NOMINAL = "nominal magnification of the features file"
_BY_THEIR_STEP = "how far the patches lie apart"
_COMPUTED = "the patches' size on level 0 and the slide's µm per pixel"


def features_on(
    slide: Slide,
    features: FeatureBag | str | Path,
    *,
    trained: TrainedOn | None = None,
    given: FeatureFileSettings | None = None,
) -> FeatureBag:
    """Return features as they lie on a slide.

    Parameters
    ----------
    slide
        The slide they are said to belong to.
    features
        A file, or a bag, which is only checked.
    trained
        What the checkpoint was trained on, for what neither file nor slide say.
    given
        What the user says.

    Raises
    ------
    MissingFeatureFactsError
        When all of them leave open how wide the patches are.
    FeatureError
        When the features belong to another slide, or are damaged.
    """
    if not isinstance(features, FeatureBag):
        bag = placed(read_feature_file(features), slide, trained=trained, given=given)
    else:
        bag = features
    if bag.slide_id is not None and bag.slide_id != slide.fingerprint:
        raise FeatureError(
            f"these features were computed from another slide than {slide.name} (its content "
            f"differs: {bag.slide_id[:8]}, not {slide.fingerprint[:8]}); choose the slide they "
            "belong to, or extract features again"
        )
    width, height = slide.dimensions
    outside = ((bag.coords < 0) | (bag.coords >= [width, height])).any(axis=1)
    if outside.any():
        raise FeatureError(
            f"{int(outside.sum())} of {len(bag)} patches lie outside {slide.name} "
            f"({width} x {height} px); the features belong to another slide or level"
        )
    return bag


def placed(
    file: FeatureFile,
    slide: Slide | None = None,
    *,
    trained: TrainedOn | None = None,
    given: FeatureFileSettings | None = None,
    slide_mpp: float | None = None,
    encoder: str | None = None,
) -> FeatureBag:
    """Return a file's features with coordinates in level-0 pixels and the size of their patches.

    Parameters
    ----------
    slide, trained, given
        See `features_on`; without a slide nothing is compared with it.
    slide_mpp
        µm per level-0 pixel, where there is no slide to ask.
    encoder
        Name of the encoder, where the file does not say it.
    """
    facts, given = file.facts, given or FeatureFileSettings()
    remarks = [] if slide is None else refuse_other_slide(file, slide)
    if encoder is not None and facts.encoder not in (None, encoder):
        raise _contradiction(file.path, "encoder", facts.encoder, encoder)
    found = _Sizes(file, slide, trained, given, slide_mpp)
    source: dict[str, Any] = dict(facts.source)
    if facts.layout != OWN_LAYOUT:  # ours says everything itself
        source |= {"layout": facts.layout or "unknown", "taken_from": found.taken_from}
    if found.taken_from["patch_size_level0"] is _FROM_CHECKPOINT:
        remarks.append(
            f"the features file does not say how wide its patches are: {found.side} px on level 0 "
            "were taken from the checkpoint"
            + ("" if found.step is None else f", and they lie {found.step} px apart")
        )
    if "unit" in found.taken_from:
        remarks.append(
            "the features file does not state the unit of its coordinates: its patches lie as far "
            "apart as they are wide in µm, so they were taken for µm, as STAMP means them"
        )
    ordered = found.coords[np.lexsort(found.coords.T)]
    twice = int((ordered[1:] == ordered[:-1]).all(axis=1).sum())
    if twice:
        remarks.append(
            f"{twice} of {len(ordered)} patches of the features file lie exactly where another one "
            "does; models that see no positions count such a place several times"
        )
    if remarks:
        source["remarks"] = remarks
    return FeatureBag(
        file.features,
        found.coords,
        patch_size_level0=found.side,
        patch_size=found.patch_size,
        mpp=found.mpp,
        slide_mpp=found.scale,
        encoder=facts.encoder or encoder,
        slide_id=facts.slide_id,
        source=source,
        path=file.path,
    )


def grid_of(bag: FeatureBag, slide: Slide) -> PatchGrid:
    """Return the grid that given features lie on."""
    return PatchGrid(
        patch_size=bag.patch_size or bag.patch_size_level0,
        patch_size_level0=bag.patch_size_level0,
        mpp=bag.mpp,
        slide_mpp=slide.mpp,
        canvas=canvas_of_slide(slide.dimensions, bag.patch_size_level0),
        coords=bag.coords,
        tissue_fraction=np.full(len(bag), np.nan, dtype=np.float32),
    )


class _Sizes:
    """How wide patches are and where they lie, put together from all who say something.

    Attributes
    ----------
    scale
        µm per level-0 pixel, or None.
    side
        Of a patch, in level-0 pixels.
    coords
        ``(N, 2)`` int64.
    patch_size, mpp
        Pixels, and µm per pixel, of the patches; None where nobody says.
    um_per_unit
        Size of the unit of the file's coordinates in µm; None for level-0 pixels.
    step
        How far neighbouring patches lie apart, in level-0 pixels; None where none have any.
    taken_from
        By the name of a value, who said it.
    """

    def __init__(
        self,
        file: FeatureFile,
        slide: Slide | None,
        trained: TrainedOn | None,
        given: FeatureFileSettings,
        slide_mpp: float | None,
    ) -> None:
        self._file, self._slide, self._trained, self._given = file, slide, trained, given
        self.taken_from: dict[str, str] = {}
        self.scale = self._scale(slide_mpp)
        self.um_per_unit = self._unit()
        corners = self._corners_in_pixels()
        self.side = self._side(corners)
        self.coords = self._coords(corners)
        self.patch_size = self._patch_size()
        self.mpp = self._mpp()
        self._refuse_contradictions()

    @property
    def _facts(self) -> FileFacts:
        return self._file.facts

    def _take(self, name: str, *offers: tuple[Any, str]) -> Any:
        """Return the first value that is there, and remember whose it is."""
        for value, whose in offers:
            if value is not None:
                self.taken_from[name] = whose
                return value
        return None

    def _scale(self, slide_mpp: float | None) -> float | None:
        facts = self._facts
        if None not in (slide_mpp, facts.slide_mpp) and not _agree(facts.slide_mpp, slide_mpp):
            raise _contradiction(self._file.path, "slide_mpp", facts.slide_mpp, slide_mpp)
        nominal = None if facts.slide_magnification is None else 10 / facts.slide_magnification
        scale = self._take(
            "slide_mpp",
            (None if self._slide is None else self._slide.mpp, _FROM_SLIDE),
            (slide_mpp, _FROM_USER),
            (facts.slide_mpp, _FROM_FILE),
            (nominal, _NOMINAL),
        )
        return None if scale is None else float(scale)

    def _unit(self) -> float | None:
        """Return the size of the unit of the coordinates in µm; None for level-0 pixels.

        A file of STAMP that lost its unit means µm, as STAMP itself takes it, where patches lie
        as far apart as they are wide in µm, and not as in level-0 pixels.
        """
        facts, wide = self._facts, self._facts.patch_size_um
        if facts.um_per_unit is not None or facts.in_pixels or facts.layout != "STAMP":
            return facts.um_per_unit
        if wide is None or self.scale is None:
            return None
        step = step_of(np.rint(self._file.coords.astype(np.float64)).astype(np.int64))
        in_um, in_pixels = (
            step is not None and abs(step - side) <= max(1.0, _SAME * side)
            for side in (wide, wide / self.scale)
        )
        if not in_um or in_pixels:
            return None
        self.taken_from["unit"] = _BY_THEIR_STEP
        return 1.0

    def _corners_in_pixels(self) -> NDArray[np.float64]:
        """Return corners, or centres, of the patches in level-0 pixels, not yet whole."""
        coords = self._file.coords.astype(np.float64)
        if self.um_per_unit is None:
            return coords
        if self.scale is None:
            if self._slide is None:
                raise FeatureError(
                    f"{self._file.path} gives its coordinates in µm (as STAMP does); give "
                    "slide_mpp, the slide's µm per level-0 pixel, to place them"
                )
            raise FeatureError(
                f"{self._file.path} gives its coordinates in µm, and {self._slide.name} states no "
                "µm per pixel; give it (--mpp 0.25, or the µm/px field)"
            )
        return coords * (self.um_per_unit / self.scale)

    def _side(self, corners: NDArray[np.float64]) -> int:
        facts, given, trained = self._facts, self._given, self._trained
        by_um = None
        if facts.patch_size_um is not None and self.scale is not None:
            by_um = facts.patch_size_um / self.scale
        size = facts.patch_size or given.feature_patch_size
        mpp = facts.mpp or given.feature_mpp
        by_both = self._on_level0(size, mpp)
        whose = _FROM_FILE if facts.patch_size and facts.mpp else _FROM_USER
        side = self._take(
            "patch_size_level0",
            (facts.patch_size_level0, _FROM_FILE),
            (by_um, f"{_FROM_FILE}, in µm"),
            (given.feature_patch_size_level0, _FROM_USER),
            (by_both, whose),
        )
        step = self.step = step_of(np.rint(corners).astype(np.int64))
        contradicted = ""
        tile = facts.tile_size
        if side is None and tile is not None and step is not None:
            # Of level 0 if they lie so far apart, else at the patches' own resolution
            if abs(step - tile) <= max(1.0, _SAME * tile):
                side = self._take("patch_size_level0", (tile, _FROM_FILE))
            else:
                size = size or tile
                own = self._on_level0(tile, mpp)
                if own is not None and abs(step - own) <= max(1.0, _SAME * own):
                    side = self._take("patch_size_level0", (own, _FROM_FILE))
        if side is None:
            # Guesses, which the distance of the patches must confirm
            nominal = None if facts.magnification is None else 10 / facts.magnification
            guesses = [(self._on_level0(size, nominal), _NOMINAL)]
            if trained is not None:
                guess = self._on_level0(size or trained.patch_size, mpp or nominal or trained.mpp)
                guesses.append((guess, _FROM_CHECKPOINT))
            for guess, whose in guesses:
                if guess is None:
                    continue
                if step is None or abs(step - guess) <= max(1.0, _SAME * guess):
                    side = self._take("patch_size_level0", (guess, whose))
                    break
                contradicted = (
                    f" (by {'its magnification' if whose is _NOMINAL else 'the checkpoint'} they "
                    f"would be {guess:.0f} px wide, but lie {step} px apart)"
                )
        if side is None:
            raise self._ask(size, mpp, step, contradicted)
        whole = max(1, round(side))
        if whole > side + 1e-3 and step is not None:
            # Rounded up, a cell may take in the next patch far from the slide's corner
            cells = cells_of(np.rint(corners - corners.min(axis=0)).astype(np.int64), whole)
            if len(np.unique(cells, axis=0)) < len(cells):
                whole = max(1, math.floor(side))
        if whole > LARGEST_PATCH:
            raise FeatureError(
                f"{self._file.path}: its patches would be {whole} level-0 px wide; check their "
                "size and resolution"
            )
        return whole

    def _on_level0(self, size: int | None, mpp: float | None) -> float | None:
        if size is None or mpp is None or self.scale is None:
            return None
        return size * mpp / self.scale

    def _ask(
        self, size: int | None, mpp: float | None, step: int | None, why: str
    ) -> MissingFeatureFactsError:
        hint = "" if step is None else f" (neighbouring patches lie {step} apart)"
        missing: tuple[str, ...] = ("feature_patch_size_level0",)
        advice = "give patch_size_level0, in level-0 pixels (--feature-patch-size-level0)"
        if self.scale is not None:
            asked = [("feature_patch_size", size), ("feature_mpp", mpp)]
            missing = tuple(name for name, value in asked if value is None)
            flags = " and ".join("--" + name.replace("_", "-") for name in missing)
            advice += f", or at their own resolution ({flags})"
        return MissingFeatureFactsError(
            f"{self._file.path} does not say how wide its patches are: found {self._file.found} "
            f"without a patch size{why}; {advice}{hint}",
            missing,
        )

    def _coords(self, corners: NDArray[np.float64]) -> NDArray[np.int64]:
        path = self._file.path
        in_pixels = self.um_per_unit is None
        if self._facts.centred:
            corners = np.floor(corners - self.side / 2 + 1e-6)
            # A centre between two pixels may have been rounded up over the edge
            corners[corners == -1] = 0
        elif in_pixels and not (corners == np.rint(corners)).all():
            raise FeatureError(
                f"{path}: its coordinates are not whole numbers, so they are not level-0 pixels; "
                "convert them first, or declare their unit (attribute unit: um)"
            )
        coords = np.rint(corners).astype(np.int64)
        if coords.min(initial=0) < 0:
            raise FeatureError(
                f"{path}: some coordinates are negative: {coords.min()}; they belong to no slide"
            )
        return coords

    def _patch_size(self) -> int | None:
        facts, given = self._facts, self._given
        mpp = facts.mpp or given.feature_mpp
        computed = None
        if self.scale is not None and mpp is not None:
            computed = max(1, round(self.side * self.scale / mpp))
        size = self._take(
            "patch_size",
            (facts.patch_size, _FROM_FILE),
            (given.feature_patch_size, _FROM_USER),
            (computed, "their size on level 0, their resolution and the slide's µm per pixel"),
            (None if self._trained is None else self._trained.patch_size, _FROM_CHECKPOINT),
        )
        return None if size is None else int(size)

    def _mpp(self) -> float | None:
        facts = self._facts
        computed = None
        if self.scale is not None and self.patch_size is not None:
            computed = self.side * self.scale / self.patch_size
            if self.taken_from["slide_mpp"] is _NOMINAL and facts.magnification is not None:
                computed = None  # two nominal numbers make no measured one
        within = SAME_MPP + 1 / self.side  # patches are a whole number of pixels wide
        if computed is not None and facts.mpp and abs(computed - facts.mpp) > within * computed:
            raise FeatureError(
                f"{self._file.path} says that its patches have {facts.mpp:g} µm per pixel, and "
                f"on this slide they have {computed:g} (patches of {self.side} level-0 px, "
                f"{self.patch_size} px each, {self.scale:g} µm per level-0 pixel); take the "
                "slide they were computed from, or check --mpp"
            )
        given = self._given.feature_mpp
        nominal = None if facts.magnification is None else 10 / facts.magnification
        if computed is None and given is not None and nominal is not None:
            ratio = max(given / nominal, nominal / given)
            if ratio >= SAME_MAGNIFICATION:
                raise _contradiction(self._file.path, "mpp", nominal, given)
        mpp = self._take(
            "mpp",
            (facts.mpp, _FROM_FILE),
            (computed, _COMPUTED),
            (given, _FROM_USER),
            (nominal, _NOMINAL),
        )
        return None if mpp is None else float(mpp)

    def _refuse_contradictions(self) -> None:
        given = self._given
        for name, found, said in (
            ("patch_size_level0", self.side, given.feature_patch_size_level0),
            ("patch_size", self.patch_size, given.feature_patch_size),
            ("mpp", self.mpp, given.feature_mpp),
        ):
            if found is not None and said is not None and not _agree(found, said):
                raise _contradiction(self._file.path, name, found, said)


def _contradiction(path: Path, name: str, said: Any, given: Any) -> FeatureError:
    shown = f"{said:g}" if isinstance(said, float) else said
    return FeatureError(
        f"{path} says {name} {shown}, but {given} was given; leave it out, or take the file that "
        "belongs to it"
    )


def _agree(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return abs(a - b) <= _SAME * max(abs(a), abs(b))
    return bool(a == b)
