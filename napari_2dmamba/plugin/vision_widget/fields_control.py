"""Receptive fields: the click, the job, and the layers that follow."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject

from napari_2dmamba.pixel_fields import fields_on_slide
from napari_2dmamba.plugin.parts.pointing import Pointing
from napari_2dmamba.plugin.session import Session, SlideState
from napari_2dmamba.plugin.session.preferences import preference
from napari_2dmamba.plugin.vision_widget.field_section import FieldSection
from napari_2dmamba.plugin.vision_widget.layers import (
    FIELD_KEY,
    ShownField,
    field_layers,
    go_to_field,
    look_at_field,
    outline_crop,
    show_fields,
)
from napari_2dmamba.plugin.vision_widget.slide_jobs import SlideJobs
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.vision.region import length

if TYPE_CHECKING:
    from napari_2dmamba.pixel_fields import SlideFields


class FieldsControl(QObject):
    """Joins the section to session and jobs.

    Parameters
    ----------
    session, section, jobs
        What is joined.
    parent
        The widget.
    """

    def __init__(
        self, session: Session, section: FieldSection, jobs: SlideJobs, parent: QObject
    ) -> None:
        super().__init__(parent)
        self._session, self._section, self._jobs = session, section, jobs
        self._pointing = Pointing(session.viewer, self)
        self._pointing.clicked.connect(self._take_click)
        self._pointing.ended.connect(self.put_away)
        self._is_pointing = False
        section.pointing_wanted.connect(self._point)
        section.again_wanted.connect(self._again)
        section.chosen.connect(self._look_at)
        section.visit_wanted.connect(self._visit)
        section.remove_wanted.connect(self._remove)
        section.figure_wanted.connect(self._write_figure)

    def follow(self, slide: SlideState | None) -> None:
        """Show what the current slide has."""
        layers = field_layers(self._session, slide)
        seen = [row for row, layer in enumerate(layers) if layer.visible]
        shown = [layer.metadata[FIELD_KEY] for layer in layers]
        self._section.show_fields(shown, seen[-1] if seen else None)

    @property
    def has_place(self) -> bool:
        """Whether a place was asked about on the current slide."""
        return bool(field_layers(self._session, self._session.current))

    def put_away(self) -> None:
        """Take no click any more."""
        if self._is_pointing:
            self._is_pointing = False
            self._pointing.stop()
        self._section.show_pointing(False)

    def _point(self, is_wanted: bool) -> None:
        self.put_away()
        if not is_wanted:
            return
        problem = self._section.what_is_missing
        if problem:
            self._jobs.complain(problem)
            return
        self._is_pointing = True
        self._pointing.start()
        self._section.show_pointing(True)

    def _take_click(self, position: Any, add: bool) -> None:
        slide = self._session.current
        self.put_away()
        if slide is not None:
            y, x = (float(one) / slide.unit + 0.5 for one in position[-2:])
            self.ask(slide, (x, y))

    def _again(self) -> None:
        slide = self._session.current
        layers = field_layers(self._session, slide)
        if slide is not None and layers:
            self.ask(slide, layers[-1].metadata[FIELD_KEY].at)

    def ask(self, slide: SlideState, at: tuple[float, float]) -> None:
        """Compute the fields around a level-0 place ``(x, y)`` of a slide."""
        section, opened = self._section, slide.slide
        problem = section.what_is_missing
        if problem:
            self._jobs.complain(problem)
            return
        spec, stages = section.spec, section.chosen_stages
        device = preference("analysis", "device", "auto")
        settings = replace(section.form.settings(), device=device)

        def task(progress: ProgressCallback, stop: StopCallback) -> "SlideFields":
            progress(0, 0, "Loading the network…")
            return fields_on_slide(
                opened, [spec], settings, at=at, stages=stages, on_progress=progress,
                should_stop=stop,
            )  # fmt: skip

        def show(found: "SlideFields") -> str:
            show_fields(self._session, slide, found, at)
            field = found.fields[-1]
            side = field.square_side(0.9) * field.place.step
            size = f"{side:.0f} px" if opened.mpp is None else length(side * opened.mpp)
            return f"{field.name}: 90 % lies in a square of {size}"

        self._jobs.start(slide, task, show, "The receptive field", "Stopped; no field was made.")

    def _look_at(self, number: int) -> None:
        slide = self._session.current
        layers = field_layers(self._session, slide)
        if slide is not None and number < len(layers):
            look_at_field(self._session, slide, layers[number])

    def _visit(self) -> None:
        slide = self._session.current
        layers = field_layers(self._session, slide)
        if slide is not None and layers:
            seen = [layer for layer in layers if layer.visible]
            go_to_field(self._session, (seen or layers)[-1])

    def _remove(self) -> None:
        slide = self._session.current
        if slide is not None:
            outline_crop(self._session, slide, None)
            for layer in field_layers(self._session, slide):
                self._session.viewer.layers.remove(layer)

    def _write_figure(self, path: str) -> None:
        slide = self._session.current
        shown = [layer.metadata[FIELD_KEY] for layer in field_layers(self._session, slide)]
        if slide is None or not shown:
            return
        same = of_one_crop(shown)

        def task(progress: ProgressCallback, stop: StopCallback) -> Path:
            from napari_2dmamba.vision.pixel_field_figure import write_field_figure

            progress(0, 0, "Drawing the figure…")
            return write_field_figure([one.field for one in same], path, image=same[-1].image)

        self._jobs.start(
            slide, task, lambda written: f"Written: {written.name}", "The figure",
            "Stopped; nothing was written.",
        )  # fmt: skip


def of_one_crop(shown: Sequence[ShownField]) -> list[ShownField]:
    """Return the fields that lie over the very pixels of the last one: one picture is below all."""
    last = shown[-1]
    return [
        one
        for one in shown
        if (one.field.place, one.image.shape) == (last.field.place, last.image.shape)
    ]
