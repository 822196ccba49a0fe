"""Segmentations: the job, the layer that follows, and its exports."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from qtpy.QtCore import QObject

from napari_2dmamba.plugin.session import Session, SlideState
from napari_2dmamba.plugin.session.preferences import features_folder, preference
from napari_2dmamba.plugin.vision_widget.layers import (
    SEGMENTS_KEY,
    hide_classes,
    segments_layer,
    show_segments,
)
from napari_2dmamba.plugin.vision_widget.segment_section import SegmentSection
from napari_2dmamba.plugin.vision_widget.slide_jobs import SlideJobs
from napari_2dmamba.settings import ProgressCallback, StopCallback

if TYPE_CHECKING:
    from napari_2dmamba.vision.segmentation import Segmentation

_ROWS = 4096


class SegmentsControl(QObject):
    """Joins the section to session and jobs.

    Parameters
    ----------
    session, section, jobs
        What is joined.
    parent
        The widget.
    """

    def __init__(
        self, session: Session, section: SegmentSection, jobs: SlideJobs, parent: QObject
    ) -> None:
        super().__init__(parent)
        self._session, self._section, self._jobs = session, section, jobs
        self._listed: Any = None
        section.segment_wanted.connect(self.segment)
        section.hidden_changed.connect(self._hide)
        section.export_wanted.connect(self._export)

    def follow(self, slide: SlideState | None) -> None:
        """Show what the current slide has."""
        layer = segments_layer(self._session, slide)
        if layer is self._listed and layer is not None:
            return  # what is ticked stays
        self._listed = layer
        if layer is None:
            self._section.show_classes((), ())
            return
        hide_classes(layer, ())
        found = layer.metadata[SEGMENTS_KEY]
        self._section.show_classes(found.classes, layer.metadata["shares"], found.colours)

    def segment(self) -> None:
        """Segment the chosen area."""
        slide, section = self._session.current, self._section
        if slide is None:
            return
        file, names_file = section.file.get(), section.names.get()
        if file is None:
            self._jobs.complain("no segmenter is chosen; browse for its file")
            return
        opened, area = slide.slide, section.area.area(self._session, slide)
        region = area.box(opened.dimensions)
        if region is not None and not (region[2] and region[3]):
            self._jobs.complain("the area lies off the slide; move the view, or draw on it")
            return
        windows, scan = section.windows.settings(), section.chosen_scan
        settings = replace(section.form.settings(), device=preference("analysis", "device", "auto"))
        root = features_folder(opened)

        def task(
            progress: ProgressCallback, stop: StopCallback
        ) -> "tuple[Segmentation, list[float]]":
            progress(0, 0, "Loading the segmenter…")
            from napari_2dmamba.segment_slide import segment_slide
            from napari_2dmamba.vision.segmenter_file import TrainedSegmenter, read_class_names

            names = None if names_file is None else read_class_names(names_file)
            segmenter = TrainedSegmenter.load(file, scan=cast(Any, scan), classes=names)
            made_with = (
                region, opened.mpp, settings.segment_mpp, windows, _stamp(Path(file)),
                segmenter.network.backbone.scan, segmenter.classes,
            )  # fmt: skip
            number = hashlib.sha256(repr(made_with).encode()).hexdigest()[:8]
            out = root / f"segmented-{Path(file).stem[:40]}-{number}"
            found, _ = segment_slide(
                opened, segmenter, out, settings, windows, region=region,
                on_progress=progress, should_stop=stop,
            )  # fmt: skip
            return found, shares_of(found)

        def show(result: "tuple[Segmentation, list[float]]") -> str:
            found, shares = result
            show_segments(self._session, slide, found, shares)
            count = f"{found.labels.shape[1]} x {found.labels.shape[0]} pixels"
            return "; ".join((f"{count} were segmented", *found.remarks))

        self._jobs.start(
            slide, task, show, "The segmentation",
            "Stopped; finished blocks are kept, and the same segmentation goes on from them.",
        )  # fmt: skip

    def _hide(self, names: list[str]) -> None:
        layer = segments_layer(self._session, self._session.current)
        if layer is not None:
            hide_classes(layer, names)

    def _export(self, path: str) -> None:
        slide = self._session.current
        layer = segments_layer(self._session, slide)
        if slide is None or layer is None:
            return
        found: Segmentation = layer.metadata[SEGMENTS_KEY]
        opened, hidden = slide.slide, self._section.legend.hidden

        def task(progress: ProgressCallback, stop: StopCallback) -> list[Path]:
            from napari_2dmamba.segment_slide import write_segmentation

            progress(0, 0, "Writing…")
            return write_segmentation(found, path, opened, background=hidden)

        def tell(files: list[Path]) -> str:
            return f"Written: {', '.join(one.name for one in files)}"

        self._jobs.start(slide, task, tell, "The export", "Stopped; nothing was written.")


def shares_of(found: "Segmentation") -> list[float]:
    """Return the share of each class in the labelled area, read in bands."""
    counts = np.zeros(len(found.classes) + 1, np.int64)
    for top in range(0, len(found.labels), _ROWS):
        band = np.asarray(found.labels[top : top + _ROWS]).ravel()
        counts += np.bincount(band, minlength=len(counts))
    total = max(1, int(counts[1:].sum()))
    return [float(count / total) for count in counts[1:]]


def _stamp(path: Path) -> tuple[str, int, int]:
    """Return what changes when a file is replaced by another one."""
    told = path.stat()
    return path.name, told.st_size, told.st_mtime_ns
