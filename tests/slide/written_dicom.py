"""DICOM whole slide images written with pydicom and imagecodecs, by no slide library."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

JPEG, JPEG_2000 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"
JPEG_LS, HTJ2K, RLE = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5"
PLAIN = "1.2.840.10008.1.2.1"
TILE = 64


def coded(tile: NDArray[np.uint8], syntax: str) -> bytes:
    """Return a tile as the transfer syntax stores it."""
    import imagecodecs

    if syntax == JPEG:
        return bytes(imagecodecs.jpeg8_encode(tile, level=95))
    if syntax == JPEG_2000:
        return bytes(imagecodecs.jpeg2k_encode(tile, level=0, codecformat="j2k", reversible=True))
    if syntax == JPEG_LS:
        return bytes(imagecodecs.jpegls_encode(tile, out=4 * tile.nbytes))
    if syntax == HTJ2K:
        return bytes(imagecodecs.htj2k_encode(tile))
    if syntax == RLE:
        return _packbits_planes(tile)
    return tile.tobytes()


def _packbits_planes(tile: NDArray[np.uint8]) -> bytes:
    """Return the segments of RLE Lossless, PS3.5 annex G: one per colour."""
    import imagecodecs

    planes = [
        b"".join(bytes(imagecodecs.packbits_encode(line)) for line in tile[..., band])
        for band in range(tile.shape[2])
    ]
    planes = [plane + b"\0" * (len(plane) % 2) for plane in planes]
    starts = 64 + np.cumsum([0, *map(len, planes)])[: len(planes)]
    header = np.zeros(16, "<u4")
    header[0], header[1 : 1 + len(planes)] = len(planes), starts
    return header.tobytes() + b"".join(planes)


def decoded(tile: NDArray[np.uint8], syntax: str) -> NDArray[np.uint8]:
    """Return what an independent decoder makes of the tile."""
    import imagecodecs

    if syntax == JPEG:
        return np.asarray(imagecodecs.jpeg8_decode(coded(tile, syntax)))
    return tile  # all others are lossless


def write_dicom(
    folder: Path,
    levels: list[NDArray[np.uint8]],
    syntax: str = JPEG_LS,
    *,
    series: str | None = None,
    mpp: float | None = 0.25,
    change: Callable[[Any], None] | None = None,
    kinds: tuple[str, ...] = (),
) -> list[Path]:
    """Write one file for each level, and one for each of ``kinds`` (``LABEL``, ``OVERVIEW``)."""
    import pydicom
    from pydicom.uid import generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    series = series or generate_uid()
    study, frame_of_reference = generate_uid(), generate_uid()
    pictures = [(level, "VOLUME") for level in levels]
    pictures += [(np.full((TILE, TILE, 3), 7, np.uint8), kind) for kind in kinds]
    paths = []
    for index, (pixels, kind) in enumerate(pictures):
        height, width = pixels.shape[:2]
        rows, columns = -(-height // TILE), -(-width // TILE)
        whole = np.full((rows * TILE, columns * TILE, 3), 255, np.uint8)
        whole[:height, :width] = pixels
        tiles = [
            whole[r * TILE : (r + 1) * TILE, c * TILE : (c + 1) * TILE].copy()
            for r in range(rows)
            for c in range(columns)
        ]
        one = pydicom.Dataset()
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID = syntax
        one.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
        one.SOPInstanceUID = generate_uid()
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.PatientName, one.PatientID, one.AccessionNumber = "DOE^JANE", "P-1717", "ACC-99"
        one.PatientBirthDate, one.PatientSex = "19500101", "F"
        one.StudyInstanceUID, one.SeriesInstanceUID = study, series
        one.FrameOfReferenceUID = frame_of_reference
        one.StudyDate, one.StudyTime, one.StudyID = "20200101", "120000", "S-5"
        one.SeriesNumber, one.InstanceNumber = 1, index + 1
        one.Modality, one.Manufacturer = "SM", "Test Works"
        one.ContainerIdentifier = "CASE-4711"
        one.ImageType = [
            "ORIGINAL" if not index else "DERIVED", "PRIMARY", kind,
            "NONE" if not index or kind != "VOLUME" else "RESAMPLED",
        ]  # fmt: skip
        one.DimensionOrganizationType = "TILED_FULL"
        one.TotalPixelMatrixColumns, one.TotalPixelMatrixRows = width, height
        one.TotalPixelMatrixFocalPlanes = 1
        one.NumberOfOpticalPaths, one.NumberOfFrames = 1, len(tiles)
        one.Rows, one.Columns, one.SamplesPerPixel = TILE, TILE, 3
        one.BitsAllocated, one.BitsStored, one.HighBit = 8, 8, 7
        one.PixelRepresentation, one.PlanarConfiguration = 0, 0
        one.PhotometricInterpretation = {
            JPEG: "YBR_FULL_422", JPEG_2000: "YBR_RCT", HTJ2K: "YBR_RCT",
        }.get(syntax, "RGB")  # fmt: skip
        one.BurnedInAnnotation = "YES" if kind == "LABEL" else "NO"
        one.LossyImageCompression = "01" if syntax == JPEG else "00"
        one.FocusMethod, one.ExtendedDepthOfField = "AUTO", "NO"
        one.VolumetricProperties, one.SpecimenLabelInImage = "VOLUME", "NO"
        factor = levels[0].shape[1] / width
        if mpp is not None:
            measures = pydicom.Dataset()  # decimals of 16 characters at most
            measures.PixelSpacing = [float(f"{mpp * factor / 1000:.9g}")] * 2
            measures.SliceThickness = 0.001
            shared_groups = pydicom.Dataset()
            shared_groups.PixelMeasuresSequence = [measures]
            one.SharedFunctionalGroupsSequence = [shared_groups]
            one.ImagedVolumeWidth = mpp * levels[0].shape[1] / 1000
            one.ImagedVolumeHeight = mpp * levels[0].shape[0] / 1000
        one.ImagedVolumeDepth = 0.001
        one.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
        origin = pydicom.Dataset()
        origin.XOffsetInSlideCoordinateSystem = 20.0
        origin.YOffsetInSlideCoordinateSystem = 40.0
        one.TotalPixelMatrixOriginSequence = [origin]
        light = pydicom.Dataset()
        light.OpticalPathIdentifier = "1"
        one.OpticalPathSequence = [light]
        frames = [coded(tile, syntax) for tile in tiles]
        if pydicom.uid.UID(syntax).is_encapsulated:
            one.PixelData = pydicom.encaps.encapsulate(frames, has_bot=True)
            one["PixelData"].VR = "OB"
            one["PixelData"].is_undefined_length = True
        else:
            one.PixelData = b"".join(frames)
            one["PixelData"].VR = "OB"
        if change is not None:
            change(one)
        path = folder / f"{kind.lower()}{index}.dcm"
        one.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
