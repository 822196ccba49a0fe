"""A saved run opened to be worked with: what was chosen for it comes back with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shapely import unary_union

from napari_2dmamba.errors import UserError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.models import read_header
from napari_2dmamba.pipeline import settings_of
from napari_2dmamba.plugin.layers.region_layers import drawn_regions, show_regions
from napari_2dmamba.plugin.session.session import Session
from napari_2dmamba.plugin.session.shown_run import ShownRun, open_shown_run
from napari_2dmamba.plugin.session.slide_state import ChosenCheckpoint, SlideState
from napari_2dmamba.slide import Regions

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide


@dataclass(frozen=True)
class OpenedRun:
    """A saved run with the choices it was made with.

    Attributes
    ----------
    shown, display
        The run, and how its maps are shown.
    choices
        Fields of `session.Choices` that can be restored.
    remarks
        A sentence for each that cannot.
    """

    shown: ShownRun
    display: DisplaySettings
    choices: dict[str, Any]
    remarks: tuple[str, ...]

    @classmethod
    def of(cls, folder: str | Path, already_open: "Sequence[Slide]" = ()) -> "OpenedRun":
        """Open a saved run, off the GUI thread.

        Raises
        ------
        UserError
            When run or slide cannot be opened; see `open_shown_run`.
        """
        shown, display = open_shown_run(folder, already_open)
        choices: dict[str, Any] = {}
        remarks = []
        for restored in (_settings, _feature_file, _checkpoint):
            try:
                choices |= restored(shown)
            except UserError as error:
                remarks.append(str(error))
        return cls(shown, display, choices, tuple(remarks))

    def put_on_display(self, session: Session) -> None:
        """Show the run on its slide with regions, µm per pixel and choices as they were.

        The slide is opened if need be. Regions that are drawn already stay: nobody else has them.
        What is not as it was when the run was made is said with it (`ShownRun.remarks`).
        """
        slide = self._slide(session)
        session.show(slide)
        if self.shown.regions and drawn_regions(session, slide) is None:
            show_regions(session, slide, self.shown.regions)
        session.runs.show(slide, self.shown, self.display)
        remarks = [*self.remarks, *_other_regions(session, slide), *self._set_mpp(session, slide)]
        session.choose(**self.choices)
        session.runs.remark(slide, remarks)

    def _slide(self, session: Session) -> SlideState:
        """Return the slide that was run: the one looked at, or another that is open, or opened."""
        file = self.shown.slide.fingerprint
        of_file = [one for one in session.slides if one.slide.fingerprint == file]
        if session.current in of_file:
            return session.current
        return of_file[0] if of_file else session.add(self.shown.slide)

    def _set_mpp(self, session: Session, slide: SlideState) -> list[str]:
        before, then = slide.slide.mpp, self.shown.record.slide
        if before == then.mpp:
            return []
        try:
            session.set_mpp(slide, then.given_mpp)
        except UserError as error:
            return [str(error)]
        if slide.slide.mpp != then.mpp:
            return [slide.other_mpp]
        return [f"{slide.name} is shown {_at(then.mpp)} now, as in this run, and no more "
                f"{_at(before)}"]  # fmt: skip


def _at(mpp: float | None) -> str:
    return "in pixels" if mpp is None else f"with {mpp:.4g} µm per pixel"


def _settings(shown: ShownRun) -> dict[str, Any]:
    said = settings_of(shown.record)
    found: dict[str, Any] = {
        "tissue": said.tissue,
        "features": said.features,
        "model": said.model,
        "in_pixels": said.in_pixels,
        "feature_facts": said.feature_file,
        "from_file": False,
    }
    return found if said.grid is None else {**found, "grid": said.grid}


def _feature_file(shown: ShownRun) -> dict[str, Any]:
    if not shown.record.features.given:
        return {}
    path = shown.as_saved().find_features()
    if path is None:
        raise UserError(
            "the file with the features of this run is gone; put it back, or choose another one "
            "under Features before you run again"
        )
    return {"from_file": True, "feature_file": path}


def _checkpoint(shown: ShownRun) -> dict[str, Any]:
    said = shown.record.model
    if said.checkpoint is None:
        raise UserError("the model of this run lay in no file; choose one before you run again")
    path = shown.as_saved().find_checkpoint()
    loaded = None
    try:
        header = read_header(path)
    except UserError:  # published weights: what the user said of them is in the record
        from napari_2dmamba.models import load_checkpoint

        loaded = load_checkpoint(path, **said.told)
        header = loaded.header
    return {"checkpoint": ChosenCheckpoint(str(path), path, header, dict(said.told), loaded)}


def _other_regions(session: Session, slide: SlideState) -> list[str]:
    """Say where the regions that were drawn already are not those of the run."""
    drawn, run = drawn_regions(session, slide), slide.run
    assert run is not None
    if drawn is None or (run.regions and _same_areas(drawn, run.regions)):
        return []
    return [
        f"the regions drawn on {slide.name} are not those of this run ({run.regions_in_words}), "
        "and stay; remove them and show the run again to have its own"
    ]


def _same_areas(drawn: Regions, others: Regions) -> bool:
    """Whether regions cover the same, to a pixel: drawn ones have their holes cut open."""
    pairs = (drawn.include, others.include), (drawn.exclude, others.exclude)
    return all(
        unary_union(one).symmetric_difference(unary_union(other)).area < 1 for one, other in pairs
    )
