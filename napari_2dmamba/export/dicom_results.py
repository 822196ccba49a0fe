"""Maps of a DICOM slide as DICOM: a Parametric Map, and what lies above a threshold as a
Segmentation, by highdicom (the extra ``dicom-results``).

One pixel is one patch. Both lie in the frame of reference of the slide, on its glass: the middle of
pixel (1, 1) is the middle of the first cell, spacing is the side of a cell, rows and columns run as
those of the slide. Both refer to the slide's images by their unique numbers, which is what they
belong to; of the patient they hold nothing, unless that is asked for.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba import __version__
from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import ExportError, SlideError
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.map_regions import MapThreshold, patches_above
from napari_2dmamba.export.finite import refuse_infinite
from napari_2dmamba.export.record import RunRecord
from napari_2dmamba.slide.dicom_headers import headers_of

if TYPE_CHECKING:
    from pydicom import Dataset

    from napari_2dmamba.slide import Slide

NO_PATCH = float(np.finfo(np.float32).min)
"""What a pixel without a patch holds; the tag Float Pixel Padding Value says so."""
_TILE = 512
_LONG, _SHORT, _TEXT = 64, 16, 1024
_SCHEME = "99NAPARI2DMAMBA"
_SERIES = 700
_REMOVED = "Attributes of patient and study not copied from the source"


def write_dicom_map(
    slide: "Slide",
    grid_map: GridMap,
    path: str | os.PathLike[str],
    *,
    record: RunRecord,
    with_patient: bool = False,
) -> Path:
    """Write a map as a DICOM Parametric Map with the very values, float32.

    Parameters
    ----------
    slide
        A DICOM slide, whose patches the map is of.
    path
        Usually ends in ``.dcm``.
    record
        What made the map; model and checkpoint are named.
    with_patient
        Copy name, identifiers, dates, institution and specimen of the slide.

    Raises
    ------
    ExportError
        When the slide is no DICOM slide, highdicom is not installed, the map has no values, or the
        file cannot be written.
    """
    refuse_infinite(grid_map.values, f"map {grid_map.name!r}")
    has_patch = np.isfinite(grid_map.values)
    if not has_patch.any():
        raise ExportError(f"the map {grid_map.name} has no values; choose another map")
    low, high = (float(edge(grid_map.values[has_patch])) for edge in (np.min, np.max))
    highdicom, headers = _prepared(slide, with_patient)
    from pydicom.sr.codedict import codes

    quantity = grid_map.quantity or grid_map.name
    shown = grid_map.display_range or (low, high)
    made = _made(
        slide,
        highdicom.pm.ParametricMap,
        headers[:1],
        np.where(has_patch, grid_map.values, np.float32(NO_PATCH)),
        **_common(highdicom, headers, grid_map, record, grid_map.name),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            highdicom.pm.RealWorldValueMapping(
                lut_label=_label(grid_map.name),
                lut_explanation=_line(grid_map.meaning or grid_map.name),
                unit=codes.UCUM.NoUnits,
                value_range=(low, high),
                quantity_definition=_own_code(highdicom, "QUANTITY", quantity),
            )
        ],
        voi_lut_transformations=[
            highdicom.VOILUTTransformation(
                window_center=_decimal((shown[0] + shown[1]) / 2),
                window_width=_decimal(max(shown[1] - shown[0], 1e-6)),
                voi_lut_function="LINEAR_EXACT",
            )
        ],
    )
    if "SpecimenDescriptionSequence" not in made:
        made.Laterality = None  # unknown, which an empty element says
    made.FloatPixelPaddingValue = made.FloatPixelPaddingRangeLimit = NO_PATCH
    return _written(made, path, headers, with_patient, _derivation(grid_map, record))


def write_dicom_regions(
    slide: "Slide",
    grid_map: GridMap,
    threshold: MapThreshold,
    path: str | os.PathLike[str],
    *,
    record: RunRecord,
    class_name: str = "",
    colour: tuple[int, int, int] | None = None,
    least_patches: int = 1,
    with_patient: bool = False,
) -> Path:
    """Write the patches of a map that lie above a threshold as a binary DICOM Segmentation.

    Parameters
    ----------
    threshold, least_patches
        See `map_regions.patches_above`.
    class_name, colour
        Of the one segment; the name of the map when empty.
    slide, grid_map, path, record, with_patient
        See `write_dicom_map`.

    Raises
    ------
    ExportError
        As `write_dicom_map`.
    GridError
        When no patch lies above the threshold.
    """
    above = patches_above(grid_map, threshold, least_patches=least_patches) > 0
    what = f"{grid_map.name} above {threshold.value_on(grid_map):.6g}"
    highdicom, headers = _prepared(slide, with_patient)
    from pydicom.sr.codedict import codes

    name = _line(class_name or grid_map.name)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=_line(record.model.name),
        family=codes.cid7162.ArtificialIntelligence,
        version=_line(record.model.checkpoint_sha256 or __version__),
        source="napari-2dmamba",
    )
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=name,
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=_own_code(highdicom, "ABOVE", name),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        display_color=None if colour is None else highdicom.color.CIELabColor.from_rgb(*colour),
    )
    made = _made(
        slide,
        highdicom.seg.Segmentation,
        headers[:1],
        above.astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        omit_empty_frames=False,
        **_common(highdicom, headers, grid_map, record, what),
    )
    made.PatientOrientation = None  # unknown, which an empty element says
    said = _cut(f"{what}. {_derivation(grid_map, record)}", _TEXT)
    return _written(made, path, headers, with_patient, said)


def _prepared(slide: "Slide", with_patient: bool) -> "tuple[Any, list[Dataset]]":
    """Return highdicom, and what is to be said of the slide's images."""
    try:
        import highdicom
    except ImportError:
        raise ExportError(
            'DICOM results need highdicom: run pip install "napari-2dmamba[dicom-results]"'
        ) from None
    try:
        return highdicom, headers_of(slide, with_patient=with_patient)
    except SlideError as error:
        raise ExportError(str(error)) from None
    except Exception as error:  # noqa: BLE001 - a parser's, with values in it
        raise _unfit(slide, error) from None


def _made(slide: "Slide", kind: Callable[..., Any], *given: Any, **more: Any) -> Any:
    """Return what highdicom makes; its own words about values may quote the patient's data."""
    try:
        return kind(*given, **more)
    except Exception as error:  # noqa: BLE001 - of many kinds, with values in it
        raise _unfit(slide, error) from None


def _unfit(slide: "Slide", error: Exception) -> ExportError:
    return ExportError(
        f"no DICOM result can be made of {slide.name} ({type(error).__name__}): its header holds "
        "values that DICOM does not allow; leave the patient's data out, or mend the header"
    )


def _common(
    highdicom: Any, headers: "list[Dataset]", grid_map: GridMap, record: RunRecord, what: str
) -> dict[str, Any]:
    """Return what Parametric Maps and Segmentations are told alike: place, origin and maker."""
    first: Any = headers[0]
    measures = first.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    rows_apart, columns_apart = (float(value) for value in measures.PixelSpacing)
    along_row = np.array(first.ImageOrientationSlide[:3], np.float64)
    along_column = np.array(first.ImageOrientationSlide[3:], np.float64)
    size = grid_map.patch_size_level0
    column, row = (corner + (size - 1) / 2 for corner in grid_map.origin)
    middle = _origin(first)
    middle += column * columns_apart * along_row + row * rows_apart * along_column
    rows, columns = grid_map.values.shape
    return {
        "further_source_images": headers[1:],
        "series_instance_uid": highdicom.UID(),
        "series_number": _SERIES,
        "sop_instance_uid": highdicom.UID(),
        "instance_number": 1,
        "manufacturer": "napari-2dmamba",
        "manufacturer_model_name": "napari-2dmamba",
        "software_versions": __version__,
        "device_serial_number": __version__,  # has to be there; no machine is named
        "series_description": _line(f"{what} ({record.model.name})"),
        "content_label": _label(grid_map.name),
        "content_description": _line(what),
        "institution_name": first.get("InstitutionName") or None,
        "pixel_measures": highdicom.PixelMeasuresSequence(
            pixel_spacing=(rows_apart * size, columns_apart * size),
            slice_thickness=float(measures.get("SliceThickness") or 0) or None,
        ),
        "plane_orientation": highdicom.PlaneOrientationSequence(
            "SLIDE", [float(value) for value in first.ImageOrientationSlide]
        ),
        "plane_positions": [
            highdicom.PlanePositionSequence("SLIDE", tuple(middle), pixel_matrix_position=(1, 1))
        ],
        "tile_pixel_array": True,
        "tile_size": (min(rows, _TILE), min(columns, _TILE)),
    }


def _origin(header: Any) -> NDArray[np.float64]:
    """Return the place of the slide's first pixel on the glass, in mm."""
    told = header.TotalPixelMatrixOriginSequence[0]
    return np.array(
        [
            float(told.XOffsetInSlideCoordinateSystem),
            float(told.YOffsetInSlideCoordinateSystem),
            float(told.get("ZOffsetInSlideCoordinateSystem") or 0),
        ]
    )


def _written(
    made: Any, path: str | os.PathLike[str], headers: "list[Dataset]", with_patient: bool, said: str
) -> Path:
    made.DerivationDescription = said
    if not with_patient:
        made.PatientIdentityRemoved = "YES"
        made.DeidentificationMethod = _REMOVED
        made.LongitudinalTemporalInformationModified = "REMOVED"
    with atomic_write(path) as part:
        made.save_as(part)
    return Path(path)


def _derivation(grid_map: GridMap, record: RunRecord) -> str:
    model = record.model
    made_by = f"model {model.name}"
    if model.checkpoint_sha256:
        made_by += f", SHA-256 {model.checkpoint_sha256[:16]}"
    use = f" {model.intended_use}" if model.intended_use else ""
    return _cut(
        f"{grid_map.name}: {grid_map.meaning}. One pixel is one patch of "
        f"{grid_map.patch_size_level0} level-0 pixels; made by napari-2dmamba {__version__}, "
        f"{made_by}.{use}",
        _TEXT,
    )


def _own_code(highdicom: Any, value: str, meaning: str) -> Any:
    return highdicom.sr.CodedConcept(value, _SCHEME, _line(meaning))


def _label(name: str) -> str:
    """Return a name as a code string: at most 16 capitals, digits, spaces and underscores."""
    return re.sub(r"[^A-Z0-9]+", "_", name.upper())[:_SHORT].strip("_") or "MAP"


def _line(text: str) -> str:
    return _cut(text, _LONG)


def _cut(text: str, most: int) -> str:
    """Return a text without what separates values, of so many bytes at most.

    The standard counts characters; what counts bytes is content as well.
    """
    plain = re.sub(r"[\x00-\x1f\x7f\\]+", " ", text).strip() or "-"
    whole = plain.encode()
    return plain if len(whole) <= most else whole[: most - 3].decode("utf-8", "ignore") + "..."


def _decimal(value: float) -> float:
    """Return a number that a decimal string of 16 characters holds."""
    return float(f"{value:.9g}")
