"""What is done to every slide of a cohort, and the models that a process keeps for it."""

import functools
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.cohort.slides import CohortSlide
from napari_2dmamba.cohort.status import SlideStatus
from napari_2dmamba.errors import CheckpointError, ExportError, FeatureError, GridError
from napari_2dmamba.export.content_hash import file_hash
from napari_2dmamba.export.json_file import as_json
from napari_2dmamba.pipeline import RunSettings, prepare_grid, run, summary_of
from napari_2dmamba.settings import StopCallback
from napari_2dmamba.slide import Slide, read_regions
from napari_2dmamba.slide.region_files import regions_named_like

if TYPE_CHECKING:
    from napari_2dmamba.features.encoder import Encoder
    from napari_2dmamba.models import Aggregator

FEATURES_FILE = "features.h5"
_HOW_NOT_WHAT = {"threads", "batch_size", "device", "offline"}
"""Settings that change how fast or where, not what is computed."""


@dataclass(frozen=True)
class CohortPlan:
    """What is done to every slide of a cohort; travels to the workers.

    Attributes
    ----------
    settings
        Complete: the grid is not left to the checkpoint.
    out
        The cohort's folder, seen by every worker under this path.
    cohort
        Number of this run.
    fresh
        Whether results of earlier runs are forgotten.
    checkpoint, checkpoint_hash, checkpoint_settings
        The model, or None to compute features only.
    features
        A file of features computed before, or a folder with one per slide.
    regions
        GeoJSON of regions to include and exclude, or a folder with one per slide.
    weights_hash
        Of the encoder's weights, where a file of them was given.
    risk
        What the model's risk is, where earlier versions took it for something else.
    """

    settings: RunSettings
    out: str
    cohort: str
    fresh: bool = False
    checkpoint: str | None = None
    checkpoint_hash: str | None = None
    checkpoint_settings: dict[str, Any] = field(default_factory=dict)
    features: str | None = None
    regions: str | None = None
    weights_hash: str | None = None
    risk: str = ""

    @property
    def features_of_one(self) -> bool:
        """Whether the given features are one file or store, and so those of one slide."""
        from napari_2dmamba.features.stores import is_store

        if self.features is None:
            return False
        return not Path(self.features).is_dir() or is_store(Path(self.features))

    def features_of(self, slide: Path) -> Path | None:
        """Return the file of features given for a slide.

        Raises
        ------
        FeatureError
            When the folder of features has none for it.
        """
        if self.features is None:
            return None
        from napari_2dmamba.features.files import features_named_like

        if self.features_of_one:
            return Path(self.features)
        return features_named_like(slide, Path(self.features))

    def regions_of(self, slide: CohortSlide) -> Path | None:
        """Return the file of regions of a slide: its own, or that given for all.

        Raises
        ------
        GridError
            When the folder of regions has none for it, or its own is not there.
        """
        if slide.regions is not None:
            if not slide.regions.is_file():
                raise GridError(
                    f"the regions {slide.regions.name} of {slide.path.name} do not exist; check "
                    "the column regions of the list"
                )
            return slide.regions
        if self.regions is None or not Path(self.regions).is_dir():
            return None if self.regions is None else Path(self.regions)
        return regions_named_like(slide.path, Path(self.regions))

    def refuse_one_file_for_two(self, slide: CohortSlide) -> None:
        """Refuse a slide that shares its name with another where files are found by the name.

        Raises
        ------
        GridError
            When its features or regions could be those of the other.
        """
        found_by_name = {
            "features": self.features is not None and Path(self.features).is_dir(),
            "regions": slide.regions is None
            and self.regions is not None
            and Path(self.regions).is_dir(),
        }
        for what, is_so in found_by_name.items():
            if is_so:
                raise GridError(
                    f"two slides of this list are called {slide.path.stem}, and the folder of "
                    f"{what} tells slides by their names; give one of the two another name, or do "
                    "them one after the other"
                )

    def settings_digest(self) -> str:
        """Return digits that results share which were made by one checkpoint and settings."""
        text = json.dumps(self._of_all_slides(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def key(self, slide: Slide, regions: Path | None) -> str:
        """Return a hash of everything the result depends on, and of no name or place."""
        features = self.features_of(slide.path)
        made_of = {
            **self._of_all_slides(),
            "slide": slide.fingerprint,
            "mpp": slide.mpp,
            "features": None if features is None else file_hash(features),
            "regions": None if regions is None else file_hash(regions),
        }
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]

    def _of_all_slides(self) -> dict[str, Any]:
        """Return what the results of all slides depend on, as JSON."""
        settings = as_json(self.settings)
        if self.checkpoint is None:
            settings.pop("model")
        for stage in settings.values():
            if isinstance(stage, dict):
                for name in _HOW_NOT_WHAT & stage.keys():
                    del stage[name]
        settings["features"].pop("weights", None)  # its content counts, not its name
        return {
            "settings": settings,
            "checkpoint": self.checkpoint_hash,
            "checkpoint_settings": as_json(self.checkpoint_settings),
            "weights": self.weights_hash,
            **({"risk": self.risk} if self.risk else {}),
        }

    def is_whole(self, folder: Path, before: SlideStatus) -> bool:
        """Return whether the result of an earlier run is still there and undamaged."""
        if self.checkpoint is None:
            import h5py

            try:
                with h5py.File(folder / FEATURES_FILE) as file:
                    return len(file["features"]) == before.result["patches"]
            except (OSError, KeyError, TypeError):
                return False
        from napari_2dmamba.export.run_folder import open_run

        try:
            return open_run(folder).record.slide.fingerprint == before.fingerprint
        except ExportError:
            return False

    def do(
        self,
        slide: Slide,
        folder: Path,
        regions: Path | None,
        on_progress: Callable[[int, int, str], None],
        should_stop: StopCallback | None,
    ) -> dict[str, Any]:
        """Do it to one open slide, and return what was found."""
        if self.checkpoint is not None:
            given = json.dumps(self.checkpoint_settings, sort_keys=True)
            result = run(
                slide,
                _aggregator(self.checkpoint, self.checkpoint_hash, given),
                self.settings,
                features=self.features_of(slide.path),
                regions=regions,
                out=folder,
                encoder=None if self.features is not None else self._encoder(),
                on_progress=on_progress,
                should_stop=should_stop,
            )
            answer, source = summary_of(result), result.bag.source
        else:
            answer, source = self._extract(slide, folder, regions, on_progress, should_stop)
        if source.get("unreadable_patches"):
            answer["unreadable_patches"] = source["unreadable_patches"]
        answer["mpp"], answer["settings_digest"] = slide.mpp, self.settings_digest()
        if self.checkpoint is not None:
            answer["checkpoint"] = Path(self.checkpoint).name
        return dict(as_json(answer))

    def _encoder(self) -> "Encoder":
        """Return the encoder, loaded once per process."""
        features = self.settings.features
        return _encoder(
            features.encoder,
            features.weights,
            self.weights_hash,
            features.offline,
            features.device,
            features.precision,
        )

    def _extract(
        self,
        slide: Slide,
        folder: Path,
        regions: Path | None,
        on_progress: Callable[[int, int, str], None],
        should_stop: StopCallback | None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        from napari_2dmamba.features import extract_features

        within = None if regions is None else read_regions(regions, offset=slide.bounds[:2])
        assert self.settings.grid is not None
        on_progress(0, 0, "finding tissue")
        _, grid = prepare_grid(slide, self.settings, self.settings.grid, within)
        bag = extract_features(
            slide,
            grid,
            self.settings.features,
            encoder=self._encoder(),
            cache=folder,
            on_progress=on_progress,
            should_stop=should_stop,
        )
        assert bag.path is not None
        # A name that other programs find, without the bytes a second time
        with atomic_write(folder / FEATURES_FILE, FeatureError) as part:
            try:
                os.link(bag.path, part)
            except OSError:  # a file system without hard links
                shutil.copyfile(bag.path, part)
        answer: dict[str, Any] = {
            "slide": slide.name,
            "patches": len(bag),
            "feature_size": bag.feature_size,
            "encoder": bag.encoder,
            "file": str(folder / FEATURES_FILE),
        }
        if slide.remarks:
            answer["warnings"] = list(slide.remarks)
        return answer, bag.source


@functools.lru_cache(maxsize=1)
def _aggregator(path: str, expected_hash: str | None, given: str) -> "Aggregator":
    """Load the checkpoint once per process."""
    from napari_2dmamba.models import load_checkpoint

    if file_hash(path) != expected_hash:
        raise CheckpointError(
            f"{path} on {platform.node()} is another file than the one this cohort was started "
            "with; let every worker see the same file"
        )
    return load_checkpoint(path, **json.loads(given))


@functools.lru_cache(maxsize=1)
def _encoder(
    name: str,
    weights: str | None,
    content: str | None,
    offline: bool,
    device: str,
    precision: str,
) -> "Encoder":
    """Load the encoder; ``content`` tells weights apart that came to lie under the same name."""
    from napari_2dmamba.features.encoder import load_encoder

    return load_encoder(name, weights, offline=offline, device=device, precision=precision)


def forget_models() -> None:
    """Give back the memory of the model and encoder that this process holds."""
    _aggregator.cache_clear()
    _encoder.cache_clear()
