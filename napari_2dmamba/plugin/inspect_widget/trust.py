"""Checks of maps and answers from the widget: deletion and insertion, agreement, stability."""

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject

from napari_2dmamba.explain.faithfulness import Stability, agreement
from napari_2dmamba.plugin.inspect_widget.live_maps import LiveMaps
from napari_2dmamba.plugin.inspect_widget.map_list import MapList
from napari_2dmamba.plugin.inspect_widget.questions import deletion_and_insertion, stability
from napari_2dmamba.plugin.inspect_widget.trust_section import TrustSection
from napari_2dmamba.plugin.parts.one_job import OneJob

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session

_MOST_COMPARED = 3
_TITLES = {"stability-turns": "Flips and rotations", "stability-dropout": "Patches left out"}


class Trust(QObject):
    """Answers the section *How far to trust it*.

    Parameters
    ----------
    session
        Its layers are checked.
    section
        Asks, and shows the answers.
    live
        The run that is asked.
    jobs
        Runs the model.
    map_list
        Its maps of stability are ticked after that check.
    """

    def __init__(
        self,
        session: "Session",
        section: TrustSection,
        live: LiveMaps,
        jobs: OneJob,
        map_list: MapList,
    ) -> None:
        super().__init__(section)
        self._session = session
        self._section = section
        self._live = live
        self._jobs = jobs
        self._list = map_list
        section.check_wanted.connect(self._check)
        section.stability_wanted.connect(self._check_stability)

    def _check(self, name: str) -> None:
        inspected, slide = self._live.inspected, self._live.layers.slide
        layers = [] if slide is None else self._session.runs.maps_of(slide)
        if inspected is None or name not in [one.name for one in layers]:
            return
        subject = inspected.counterfactuals.subject
        scores = {one.name: subject.scores_of_map(one.grid_map) for one in layers}
        others = [one for one in scores if one != name][:_MOST_COMPARED]
        alike = {one: agreement(scores[name], scores[one]) for one in others}
        compared = {one: scores[one] for one in (name, *others)}
        self._jobs.start(
            deletion_and_insertion(subject, compared, self._live.how.target),
            lambda found: self._section.show_check(name, found, alike),
            "Stopped.",
        )

    def _check_stability(self) -> None:
        inspected = self._live.inspected
        if inspected is not None:
            task = stability(inspected.counterfactuals.subject)
            self._jobs.start(task, self._show_stability, "Stopped.")

    def _show_stability(self, found: dict[str, Stability]) -> None:
        inspected = self._live.inspected
        if inspected is None:
            return
        self._section.show_stability([(_TITLES[name], one) for name, one in found.items()])
        for name, one in found.items():
            inspected.keep(name, one.spread)
            self._list.tick(name)
