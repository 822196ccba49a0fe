"""A saved run, and where what it was made of lies now: slide, checkpoint and features."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.content_hash import features_hash, file_hash
from napari_2dmamba.export.record import RunRecord
from napari_2dmamba.export.typed_json import WrongTypeError, read_typed
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.features.file_facts import FeatureFileSettings
from napari_2dmamba.features.in_regions import in_regions
from napari_2dmamba.features.lattice import laid_out
from napari_2dmamba.features.on_slide import features_on
from napari_2dmamba.models.prediction import SlidePrediction
from napari_2dmamba.slide.grid import GridSettings, PatchGrid
from napari_2dmamba.slide.regions import Regions

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

AGAIN = "restore it from a copy, or run the slide again"

_Settings = TypeVar("_Settings")


@dataclass(frozen=True)
class SavedRun:
    """A run as it was saved.

    Attributes
    ----------
    folder
        Where it lies.
    record
        See `RunRecord`; its paths are those the saved ones lead to from the folder.
    grid
        The patches, in the order of ``prediction.attention``.
    prediction, maps
        As they were saved.
    regions
        What the run was restricted to, or None.
    """

    folder: Path
    record: RunRecord
    grid: PatchGrid
    prediction: SlidePrediction
    maps: tuple[GridMap, ...]
    regions: Regions | None = None

    @property
    def display(self) -> DisplaySettings:
        """How the maps are shown."""
        return self.record.display

    @property
    def title(self) -> str:
        """What the user calls the run; empty for nothing."""
        return self.record.title

    @property
    def notes(self) -> str:
        """What the user says of the run."""
        return self.record.notes

    @property
    def _words(self) -> str:
        return f"the run on {self.record.slide.name}"

    def find_slide(self) -> Path:
        """Return the path of the slide, which may have moved together with the run.

        Raises
        ------
        ExportError
            When it is in none of the places where it is looked for; ask the user for it.
        """
        slide = self.record.slide
        found = self._find(slide.path, slide.name)
        if found is None:
            raise ExportError(
                f"the slide {slide.name} of the run {self.folder.name} is neither at "
                f"{slide.path} nor beside the run; choose where it is now"
            )
        return found

    def open_slide(self, path: str | os.PathLike[str] | None = None) -> "Slide":
        """Open the slide with the µm per pixel of the run, and with where they are from.

        Parameters
        ----------
        path
            Where it is now; None looks for it.

        Raises
        ------
        ExportError
            When it cannot be found, or is another slide.
        SlideError
            When it cannot be opened.
        """
        from napari_2dmamba.slide import open_slide

        told = self.record.slide
        place = self.find_slide() if path is None else Path(path)
        slide = open_slide(place, mpp=told.given_mpp)
        if slide.mpp != told.mpp:  # read otherwise by now: the run counts
            slide.close()
            slide = open_slide(place, mpp=told.mpp)
        try:
            self.check_slide(slide)
        except ExportError:
            slide.close()
            raise
        return slide

    def find_features(self) -> Path | None:
        """Return the file of the features, or None when it was not kept or is gone."""
        path = self.record.features.path
        return self._find(path, None if path is None else Path(path).name)

    def read_features(self, slide: "Slide", *, merged: bool = True) -> FeatureBag:
        """Return the features of the run, placed on its slide as they were then.

        What their file does not say comes from where the run had it: slide, checkpoint, user. Of
        a run on regions they are those in the regions.

        Parameters
        ----------
        merged
            One patch per cell, as the model had them, where the run merged patches that overlap;
            False leaves them as their file has them.

        Raises
        ------
        ExportError
            When they were not kept, are gone, or were changed.
        FeatureError
            When their file is damaged.
        """
        path = self.find_features()
        if path is None:
            raise ExportError(
                f"the features of {self._words} were not kept, or were moved; put "
                "them back, or run the slide again"
            )
        said = self._said_of("feature_file", FeatureFileSettings)
        bag = features_on(slide, path, trained=_Trained.of(self.record.model.header), given=said)
        were_merged = "merged_patches" in self.record.features.source
        if were_merged:  # their corners are not those of the cells
            if self.regions:
                least = self._said_of("grid", GridSettings).min_tissue
                bag = bag.where(in_regions(bag, slide, self.regions, least))
        elif len(bag) > len(self.grid):
            bag = bag.at(self.grid.coords)
        seen = laid_out(bag, uses_grid=True, shared_cells="mean")[0] if were_merged else bag
        if features_hash(seen) != self.record.features.content_sha256:
            raise ExportError(
                f"{path} was changed since the run (its content differs from the one recorded); "
                "put the old features back, or run the slide again"
            )
        return seen if merged else bag

    def find_checkpoint(self) -> Path:
        """Return the checkpoint, whose content is that of the run.

        Raises
        ------
        ExportError
            When it lay in no file, is gone, or another file is in its place.
        """
        model = self.record.model
        if model.checkpoint is None:
            raise ExportError(
                f"the model of {self._words} lay in no file, so that nothing more can "
                "be asked of it; run the slide with a checkpoint"
            )
        path = self._find(model.checkpoint_path, model.checkpoint)
        if path is None:
            raise ExportError(
                f"the checkpoint {model.checkpoint} of {self._words} is neither at "
                f"{model.checkpoint_path} nor beside the run; put it back"
            )
        if model.checkpoint_sha256 not in (None, file_hash(path)):
            raise ExportError(
                f"{path} is not the checkpoint of {self._words} any more (its "
                "checksum differs); put the old one back, or run the slide again"
            )
        return path

    def _said_of(self, stage: str, kind: type[_Settings]) -> _Settings:
        """Return the settings of a stage of the run."""
        try:
            return read_typed(kind, self.record.settings.get(stage) or {}, f"settings.{stage}")
        except WrongTypeError as error:
            raise ExportError(
                f"the record of {self._words} is damaged ({error}); {AGAIN}"
            ) from error

    def _find(self, path: str | None, name: str | None) -> Path | None:
        """Return the first of the places where a file of the run is looked for."""
        places = [] if path is None else [Path(path)]
        if name is not None and name == os.path.basename(name):
            places += [self.folder / name, self.folder.parent / name]
        for place in places:
            with contextlib.suppress(OSError, ValueError):  # a name no system takes
                if place.exists():
                    return place.resolve()
        return None

    def check_slide(self, slide: "Slide") -> None:
        """Refuse to show the run on another slide.

        Raises
        ------
        ExportError
            When the fingerprint differs.
        """
        if slide.fingerprint != self.record.slide.fingerprint:
            raise ExportError(
                f"{slide.path.name} is not the slide of the run {self.folder.name}, which was "
                f"made on {self.record.slide.name}; choose that file"
            )


@dataclass(frozen=True)
class _Trained:
    """What the record keeps of the patches that the checkpoint was trained on."""

    patch_size: int | None
    mpp: float | None

    @classmethod
    def of(cls, header: Mapping[str, Any]) -> "_Trained":
        size, mpp = header.get("patch_size"), header.get("mpp")
        return cls(
            size if isinstance(size, int) else None,
            float(mpp) if isinstance(mpp, int | float) else None,
        )
