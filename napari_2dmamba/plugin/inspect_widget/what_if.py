"""Edits of the slide from the widget: regions, answers, undo, and the search for few patches."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject

from napari_2dmamba.explain.counterfactual import (
    Action,
    Canvas,
    Counterfactual,
    Counterfactuals,
    Decisive,
)
from napari_2dmamba.plugin.inspect_widget.live_maps import LiveMaps
from napari_2dmamba.plugin.inspect_widget.map_list import MapList
from napari_2dmamba.plugin.inspect_widget.questions import fewest_patches
from napari_2dmamba.plugin.inspect_widget.what_if_region import (
    drawing_layer,
    patches_in,
    places,
    start_drawing,
)
from napari_2dmamba.plugin.inspect_widget.what_if_section import INSPECTED, WhatIfSection
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.one_job import OneJob

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session


class WhatIf(QObject):
    """Answers the section *What if*.

    Parameters
    ----------
    session
        Its layers hold the shapes that are drawn.
    section
        Asks, and shows the answers.
    live
        The run that is asked, and its layers.
    jobs
        Runs the model.
    map_list
        Says which map is looked at again after an undo.
    message
        Says how to draw.
    """

    def __init__(
        self,
        session: "Session",
        section: WhatIfSection,
        live: LiveMaps,
        jobs: OneJob,
        map_list: MapList,
        message: Message,
    ) -> None:
        super().__init__(section)
        self._session = session
        self._section = section
        self._live = live
        self._jobs = jobs
        self._list = map_list
        self._message = message
        section.draw_wanted.connect(self._draw)
        section.edit_wanted.connect(self._edit)
        section.canvas_wanted.connect(self._set_canvas)
        section.undo_wanted.connect(self._undo)
        section.reset_wanted.connect(self._reset)
        section.search_wanted.connect(self._search)

    def _draw(self) -> None:
        slide = self._live.layers.slide
        if slide is not None:
            name = start_drawing(self._session, slide)
            self._section.where.setCurrentText(name)
            self._message.say(
                "Click the corners of the region on the slide; a double click ends it."
            )

    def _chosen_patches(self, where: str) -> NDArray[np.int64]:
        inspected = self._live.inspected
        assert inspected is not None
        if where == INSPECTED:
            return np.array(self._live.patches, dtype=np.int64)
        slide = self._live.layers.slide
        assert slide is not None
        layer = drawing_layer(self._session, slide)
        if layer is not None:
            layer.mode = "pan_zoom"  # clicks inspect again
        return patches_in(places(self._session, slide)[where], inspected.subject)

    def _edit(self, where: str, action: Action) -> None:
        if self._live.inspected is not None:
            self._message.clear()
            patches = self._chosen_patches(where)
            self._change(lambda edits: edits.apply(patches, action))

    def _set_canvas(self, canvas: Canvas) -> None:
        """Answer once more, with the canvas kept or as the patches left have it."""

        def again(edits: Counterfactuals) -> Counterfactual:
            edits.canvas = canvas
            return edits.current()

        self._change(again)

    def _undo(self) -> None:
        self._change(lambda edits: edits.undo())

    def _reset(self) -> None:
        def take_all_back(edits: Counterfactuals) -> Counterfactual:
            edits.forget()
            return edits.current()

        self._change(take_all_back)

    def _change(self, step: Callable[[Counterfactuals], Counterfactual]) -> None:
        inspected = self._live.inspected
        if inspected is None:
            return
        edits = inspected.counterfactuals
        go_back = edits.bookmark()

        def forget_step() -> None:
            """Let no answer that is shown later hold a step that was stopped, or failed."""
            go_back()
            self._section.show_canvas(edits.canvas)

        job = self._jobs.start(
            lambda progress, stop: step(edits), self._show, "Stopped; nothing was changed."
        )
        if job is not None:
            job.cancelled.connect(forget_step)
            job.failed.connect(forget_step)

    def _show(self, found: Counterfactual) -> None:
        inspected = self._live.inspected
        if inspected is None:
            return
        steps = len(inspected.counterfactuals)
        self._section.show_change(found, steps)
        layer = self._live.show_extra(found.attention_change)
        if not steps:
            self._session.viewer.layers.remove(layer)
            self._live.look_at(self._list.current)

    def _search(self) -> None:
        inspected = self._live.inspected
        if inspected is None:
            return
        task = fewest_patches(inspected.counterfactuals.subject, self._live.how.target)
        self._jobs.start(task, self._show_few, "Stopped; nothing was changed.")

    def _show_few(self, found: Decisive) -> None:
        if self._live.inspected is not None:
            self._section.say(found.verdict)
            if found.found:
                self._live.show_extra(found.map)
