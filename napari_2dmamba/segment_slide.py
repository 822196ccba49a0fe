"""Segment a region of a slide, start to end: labels, outlines for QuPath, an OME-TIFF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba.models.fit import MPP_TOLERANCE
from napari_2dmamba.settings import ProgressCallback, StopCallback

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide
    from napari_2dmamba.vision.segment_settings import SegmentSettings, WindowSettings
    from napari_2dmamba.vision.segmentation import Segmentation
    from napari_2dmamba.vision.segmenter_file import TrainedSegmenter


def segment_slide(
    slide: Slide,
    segmenter: TrainedSegmenter,
    out: str | Path,
    settings: SegmentSettings | None = None,
    windows: WindowSettings | None = None,
    *,
    region: tuple[int, int, int, int] | None = None,
    background: tuple[str, ...] = (),
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> tuple[Segmentation, list[Path]]:
    """Segment a region and write it; the same call goes on where it was stopped.

    Parameters
    ----------
    slide
        In 8-bit colours.
    segmenter
        What answers.
    out
        Folder: ``work/`` with the labels as they come, ``classes.geojson`` and
        ``classes.ome.tif``.
    settings, windows
        How; defaults when absent.
    region
        Level-0 ``(x, y, width, height)``; None for the whole slide.
    background
        Classes of which no outlines are written.
    on_progress, should_stop
        See `settings`.

    Raises
    ------
    UserError
        When the slide cannot be read at that resolution, or nothing can be written.
    """
    from napari_2dmamba.features.encoder import choose_device
    from napari_2dmamba.features.model_encoder import checksum_of_weights
    from napari_2dmamba.vision.region import SlidePicture
    from napari_2dmamba.vision.segment_settings import SegmentSettings
    from napari_2dmamba.vision.segmentation import normaliser, segment

    settings = settings or SegmentSettings()
    out = Path(out)
    mpp = settings.segment_mpp or segmenter.mpp
    picture = SlidePicture(slide, region, mpp)
    network = segmenter.network.eval().to(choose_device(settings.device))
    found = segment(
        network,
        picture,
        segmenter.classes,
        windows,
        normalise=normaliser(segmenter.mean, segmenter.std),
        # the same weights answer otherwise with another scan or other means of the colours
        identity=f"{slide.fingerprint} {checksum_of_weights(network.state_dict())} "
        f"{network.backbone.scan} {segmenter.mean} {segmenter.std}",
        out=out / "work",
        on_progress=on_progress,
        should_stop=should_stop,
    )
    found = replace(found, colours=segmenter.colours, remarks=_other_resolution(segmenter, mpp))
    written = []
    for name in ("classes.geojson", "classes.ome.tif"):
        written += write_segmentation(found, out / name, slide, background=background)
    return found, written


def _other_resolution(segmenter: TrainedSegmenter, mpp: float | None) -> tuple[str, ...]:
    """Say when a segmenter is asked at another resolution than it states."""
    if segmenter.mpp is None or mpp is None:
        return ()
    if abs(mpp - segmenter.mpp) <= MPP_TOLERANCE * segmenter.mpp:
        return ()
    return (
        f"segmented at {mpp:g} µm per pixel by a network that was trained at {segmenter.mpp:g}; "
        "its answers may mean nothing there",
    )


def write_segmentation(
    found: Segmentation, path: str | Path, slide: Slide, *, background: Sequence[str] = ()
) -> list[Path]:
    """Write outlines for QuPath (``.geojson``) or class numbers (``.ome.tif``).

    Of a georeferenced image, outlines are written once in level-0 pixels, and once in coordinates
    of its reference system (``.crs.geojson``); the OME-TIFF is a GeoTIFF as well.

    Parameters
    ----------
    found
        Of this slide.
    path
        Its ending chooses the format.
    slide
        As it is shown.
    background
        Classes of which no outlines are written.

    Raises
    ------
    ExportError
        When the file cannot be written.
    """
    from napari_2dmamba.export.labels import write_label_tiff, write_outlines

    place: dict[str, Any] = {"origin": found.place.origin_level0, "step": found.place.step}
    if str(path).endswith(".geojson"):
        return write_outlines(
            found.labels,
            Path(path),
            found.classes,
            slide,
            background=background,
            colours=found.colours,
            **place,
        )
    ground = slide.georeference
    return [
        write_label_tiff(found.labels, path, found.classes, mpp=slide.mpp, ground=ground, **place)
    ]
