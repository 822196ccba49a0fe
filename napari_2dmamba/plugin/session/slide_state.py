"""One open slide with all that belongs to it; plain data, changed by the `Session` alone."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4
from weakref import ReferenceType, WeakSet

from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.features import FeatureFileSettings, FeatureSettings
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.pipeline import RunSettings
from napari_2dmamba.plugin.session.shown_run import ShownRun
from napari_2dmamba.slide import GridSettings, TissueSettings

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_2dmamba.compare import Comparison
    from napari_2dmamba.models import Aggregator
    from napari_2dmamba.slide import PatchGrid, Slide, TissueMask


class Work(Protocol):
    """What runs for a slide and ends with it; a `plugin.jobs.Job` is one."""

    def cancel(self) -> None:
        """Ask it to stop; returns at once."""


@dataclass(frozen=True)
class ChosenCheckpoint:
    """A model that was chosen, and what is known of it so far.

    Attributes
    ----------
    location
        A path, or a place on Hugging Face; empty where none is chosen.
    path
        The file; None while it is still fetched.
    header
        What it says of itself; None while it cannot be used.
    given
        Settings that the file does not hold, as `models.load_checkpoint` takes them.
    loaded
        The model, where it had to be loaded to be understood.
    """

    location: str = ""
    path: Path | None = None
    header: CheckpointHeader | None = None
    given: dict[str, Any] = field(default_factory=dict)
    loaded: "Aggregator | None" = None

    @property
    def name(self) -> str:
        """What its runs are called by: its file without the ending, or its architecture."""
        if self.path is not None:
            return self.path.stem
        return "" if self.header is None else self.header.architecture

    @property
    def model(self) -> "Aggregator | Path | None":
        """What `pipeline.run` takes: a loaded model or a file; None while it cannot be used."""
        if self.header is None:
            return None
        return self.loaded or self.path


@dataclass(frozen=True)
class Choices:
    """How a slide is to be analysed.

    Attributes
    ----------
    tissue, grid, features, model
        Settings of the stages.
    in_pixels
        Whether to work in pixels where the slide states no µm per pixel.
    from_file, feature_file
        Whether features are read from a file, and which (None while none is chosen).
    feature_facts
        What that file does not say of its patches.
    checkpoint
        The model.
    """

    tissue: TissueSettings = field(default_factory=TissueSettings)
    grid: GridSettings = field(default_factory=GridSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    in_pixels: bool = False
    from_file: bool = False
    feature_file: Path | None = None
    feature_facts: FeatureFileSettings = field(default_factory=FeatureFileSettings)
    checkpoint: ChosenCheckpoint = field(default_factory=ChosenCheckpoint)

    @property
    def run_settings(self) -> RunSettings:
        """The settings as `pipeline.run` takes them."""
        return RunSettings(
            tissue=self.tissue,
            grid=self.grid,
            features=self.features,
            model=self.model,
            feature_file=self.feature_facts,
            in_pixels=self.in_pixels,
        )

    @property
    def features_to_read(self) -> Path | None:
        """The file that features are read from; None where they are computed."""
        return self.feature_file if self.from_file else None

    @property
    def lacks_features(self) -> bool:
        """Whether features are to be read and no file is chosen."""
        return self.from_file and self.feature_file is None

    def for_another_slide(self) -> "Choices":
        """Return what holds for a further slide too: not what is about this one's file."""
        return replace(
            self, in_pixels=False, from_file=False, feature_file=None,
            feature_facts=FeatureFileSettings(),
        )  # fmt: skip


@dataclass(eq=False)
class SlideState:
    """An open slide.

    Two openings of one file are two of these. Read freely; change through the `Session`,
    which tells all who listen.

    Attributes
    ----------
    slide
        The file, at the µm per pixel it is shown with.
    choices
        How it is to be analysed.
    key
        Identity: layers of this slide carry it in their metadata.
    tissue, grid
        What tissue and patches the choices give; None while not known.
    problem
        Why there are none.
    shows_tissue, shows_patches
        Whether they are drawn.
    run
        The run on display, with the maps that exports of it hold.
    own_maps
        The maps that the run itself made or had saved.
    map_name
        Name of the map whose values are read; its layer may be called otherwise.
    display
        How maps are shown that have no layer yet.
    comparison, compared_on
        The comparison of models on display, and the slide as it was when it was made, with the
        µm per pixel of then.
    patch
        Level-0 ``(x, y)`` of the corner of the patch that is selected.
    works
        What runs for it.
    camera
        Centre and zoom of its view, as it was left.
    active
        The layer that was active when it was left.
    hidden
        Layers that are to stay hidden when it is shown again.
    """

    slide: "Slide"
    choices: Choices
    key: str = field(default_factory=lambda: uuid4().hex)
    tissue: "TissueMask | None" = None
    grid: "PatchGrid | None" = None
    problem: str = ""
    shows_tissue: bool = False
    shows_patches: bool = False
    run: ShownRun | None = None
    own_maps: tuple[GridMap, ...] = ()
    map_name: str = ""
    display: DisplaySettings = field(default_factory=DisplaySettings)
    comparison: "Comparison | None" = None
    compared_on: "Slide | None" = None
    patch: tuple[int, int] | None = None
    works: set[Work] = field(default_factory=set)
    camera: tuple[tuple[float, ...], float] | None = None
    active: "ReferenceType[Layer] | None" = None
    hidden: "WeakSet[Layer]" = field(default_factory=WeakSet)

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.slide.name

    @property
    def unit(self) -> float:
        """World units per level-0 pixel: µm, or 1 where it is shown in pixels."""
        return self.slide.mpp or 1.0

    @property
    def can_be_cut(self) -> bool:
        """Whether patches have a size: µm per pixel are known, or pixels were chosen."""
        return self.slide.mpp is not None or self.choices.in_pixels

    @property
    def other_mpp(self) -> str:
        """Why the run on display is one of another µm per pixel, as a sentence; else empty."""
        if self.run is None or self.run.mpp == self.slide.mpp:
            return ""
        made = "in pixels" if self.run.mpp is None else f"with {self.run.mpp:.4g} µm per pixel"
        now = "in pixels" if self.slide.mpp is None else f"with {self.slide.mpp:.4g}"
        return (
            f"This run was made {made}; the slide is shown {now} now. Its patches lie where they "
            "were cut; run again for patches of the size that the model was trained on"
        )
