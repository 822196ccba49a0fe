"""What objects derived from a DICOM slide have to say of it: which images, and where they lie.

A list of what is taken, not of what is left out: whatever else a header holds (names, dates,
institutions, private elements) is not read, unless the patient is asked for.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide.addresses import address_of, dicomweb_series
from napari_2dmamba.slide.dicom_series import quiet_dicom, volume_of
from napari_2dmamba.slide.dicom_web import WebSeries

if TYPE_CHECKING:
    from pydicom import Dataset

    from napari_2dmamba.slide.slide import Slide

_OF_THE_IMAGE = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "FrameOfReferenceUID", "ImageType", "Rows", "Columns",
    "NumberOfFrames", "TotalPixelMatrixColumns", "TotalPixelMatrixRows",
    "TotalPixelMatrixOriginSequence", "ImageOrientationSlide", "LossyImageCompression",
    "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
_GROUPS, _SPACING = "SharedFunctionalGroupsSequence", "PixelMeasuresSequence"
_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""Elements that have to be there and may hold nothing."""
_OF_THE_CONTAINER = (
    "ContainerIdentifier", "IssuerOfTheContainerIdentifierSequence", "ContainerTypeCodeSequence",
)  # fmt: skip
"""Says something only together with the specimen."""
_OF_THE_PATIENT = (
    *_EMPTY, "IssuerOfPatientID", "OtherPatientIDsSequence", "PatientIdentityRemoved",
    "DeidentificationMethod", "DeidentificationMethodCodeSequence", "StudyDescription",
    "InstitutionName", "SpecimenDescriptionSequence", *_OF_THE_CONTAINER,
)  # fmt: skip
"""What is taken of patient, study, institution and specimen where that is wanted."""
_NEEDED = (
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
    "TotalPixelMatrixOriginSequence", "ImageOrientationSlide",
)  # fmt: skip


def is_dicom_slide(slide: "Slide") -> bool:
    """Whether a slide is a DICOM whole slide image, whichever library reads it."""
    return slide.properties.get("vendor") == "dicom"


def headers_of(slide: "Slide", *, with_patient: bool = False) -> "list[Dataset]":
    """Return what is to be said of the images of a DICOM slide, its level 0 first.

    Elements of patient and study are there and empty; text is to be written as UTF-8.

    Parameters
    ----------
    with_patient
        Also take what identifies patient, study, institution and specimen.

    Raises
    ------
    SlideError
        When the slide is no DICOM slide, or states no place in the coordinates of its glass.
    """
    if not is_dicom_slide(slide):
        raise SlideError(
            f"{slide.name} is no DICOM slide, and DICOM results refer to one; export another format"
        )
    name = slide.name
    headers = [_taken(one, with_patient) for one in _read(slide.path, with_patient)]
    headers.sort(key=lambda one: -int(one.TotalPixelMatrixColumns))
    first = headers[0]
    missing = [one for one in _NEEDED if not first.get(one)]
    spacing = first.SharedFunctionalGroupsSequence[0].get(_SPACING)
    if not spacing or not spacing[0].get("PixelSpacing"):
        missing.append("PixelSpacing")
    if missing:
        raise SlideError(
            f"{name} does not state {', '.join(missing)}, without which nothing can be placed on "
            "its glass; export the slide again from its source, or choose another format"
        )
    size = int(first.TotalPixelMatrixColumns), int(first.TotalPixelMatrixRows)
    if size != slide.dimensions:
        raise SlideError(
            f"the finest image of {name} is {size[0]} x {size[1]} pixels by its header, but "
            f"{slide.dimensions[0]} x {slide.dimensions[1]} were opened; open the slide again"
        )
    return headers


def _read(path: Path, with_patient: bool) -> "list[Dataset]":
    import pydicom

    quiet_dicom()
    wanted = [*_OF_THE_IMAGE, _GROUPS, "SpecificCharacterSet"]
    wanted += _OF_THE_PATIENT if with_patient else ()
    address = address_of(path)
    series = None if address is None else dicomweb_series(address)
    if address is not None and series is not None:
        return WebSeries(path, address, *series).volume_headers()
    return [
        pydicom.dcmread(one.path, stop_before_pixels=True, specific_tags=list(wanted))
        for one in volume_of(path)
    ]


def _taken(header: "Dataset", with_patient: bool) -> "Dataset":
    """Return a new data set with what may be said, whatever the header holds besides."""
    import pydicom

    header.decode()  # what was written in another character set is written anew
    taken: Any = pydicom.Dataset()
    for name in (*_OF_THE_IMAGE, *(_OF_THE_PATIENT if with_patient else ())):
        if name in header:
            taken.add(header[name])
    if not taken.get("SpecimenDescriptionSequence"):
        for name in _OF_THE_CONTAINER:
            taken.pop(name, None)
    for name in _EMPTY:
        if name not in taken:
            setattr(taken, name, None)
    groups, shared = pydicom.Dataset(), header.get(_GROUPS)
    if shared and _SPACING in shared[0]:
        groups.add(shared[0][_SPACING])
    taken.SharedFunctionalGroupsSequence = [groups]
    taken.SpecificCharacterSet = "ISO_IR 192"
    return taken
