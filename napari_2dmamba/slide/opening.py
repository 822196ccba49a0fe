"""Which backend reads a file, and what to say when none does."""

import contextlib
from pathlib import Path

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide.addresses import address_of, dicomweb_series, server_of
from napari_2dmamba.slide.backend import Backend, NotForThisBackend
from napari_2dmamba.slide.czi_backend import CziBackend, is_czi
from napari_2dmamba.slide.dicom_backend import DicomBackend, needs_dicom
from napari_2dmamba.slide.dicom_series import holds_dicom, is_dicom, volume_of
from napari_2dmamba.slide.dicom_web import DicomWebBackend, WebSeries
from napari_2dmamba.slide.geotiff_backend import GeoTiffBackend, georeference_of
from napari_2dmamba.slide.openslide_backend import OpenSlideBackend
from napari_2dmamba.slide.picture_backend import PictureBackend, is_picture
from napari_2dmamba.slide.remote import AbsentError, Transport, transport_for
from napari_2dmamba.slide.remote_file import RemoteFile
from napari_2dmamba.slide.tiff_metadata import is_vendors_own
from napari_2dmamba.slide.tifffile_backend import TifffileBackend
from napari_2dmamba.slide.zarr_backend import ZarrBackend, is_ome_zarr

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ONE_LEVEL_IS_ENOUGH = 2048


def open_backend(path: Path) -> Backend:
    """Open a file with the backend that sees its pyramid best.

    TIFFs of plain build go to tifffile, which decodes tiles several times faster; everything
    that OpenSlide knows how to put together goes to OpenSlide; where the first choice sees
    one level of a large slide and the other sees more, the other is taken.

    Raises
    ------
    SlideError
        Naming the file and what is wrong with it.
    """
    address = address_of(path)
    if address is not None:
        return _remote_backend(path, address)
    if is_ome_zarr(path):
        return ZarrBackend(path)
    if path.is_dir() and holds_dicom(path):
        return _dicom_backend(path, is_one_file=False)
    header = _header(path)
    if is_picture(header):
        return PictureBackend(path)
    if is_dicom(header):
        return _dicom_backend(path, is_one_file=True)
    if is_czi(header):
        with contextlib.suppress(NotForThisBackend):
            return OpenSlideBackend(path)
        return CziBackend(path)
    reasons: list[str] = []
    if header[:4] not in _TIFF_MAGIC:
        return _openslide_or_sentence(path, header, reasons)
    with path.open("rb") as file:
        placed = georeference_of(file, path.name)
        file.seek(0)
        is_own = placed is None and is_vendors_own(file, path.name)
    if placed is not None:
        try:
            return GeoTiffBackend(path, placed)
        except NotForThisBackend as reason:
            reasons.append(f"tifffile: {reason}")
            return _openslide_or_sentence(path, header, reasons)
    if is_own:
        try:
            return OpenSlideBackend(path)
        except NotForThisBackend as reason:
            reasons.append(f"OpenSlide: {reason}")
    try:
        tiff = TifffileBackend(path)
    except NotForThisBackend as reason:
        reasons.append(f"tifffile: {reason}")
        return _openslide_or_sentence(path, header, reasons)
    level = tiff.levels[0]
    if len(tiff.levels) == 1 and tiff.rgb and max(level.width, level.height) > _ONE_LEVEL_IS_ENOUGH:
        try:
            other = OpenSlideBackend(path)
        except NotForThisBackend:
            return tiff
        if len(other.levels) > 1:
            tiff.close()
            return other
        other.close()
    return tiff


def _remote_backend(path: Path, address: str) -> Backend:
    """Read what needs no library that wants a file on this machine."""
    numbers = dicomweb_series(address)
    if numbers is not None:
        return DicomWebBackend(path, WebSeries(path, address, *numbers))
    transport = transport_for(address, path.name)
    try:
        backend: ZarrBackend | TifffileBackend | GeoTiffBackend
        if path.suffix.lower() == ".zarr":
            backend = _remote_zarr(path, transport)
        else:
            try:
                file = RemoteFile(path, address, transport)
            except AbsentError:  # a folder, perhaps
                backend = _remote_zarr(path, transport)
            else:
                backend = _remote_tiff(path, file)
    except BaseException:
        transport.close()
        raise
    backend.remarks += (f"read over the network from {server_of(address)}",)
    return backend


def _remote_zarr(path: Path, transport: Transport) -> ZarrBackend:
    for name in ("zarr.json", ".zattrs"):
        with contextlib.suppress(AbsentError):
            transport.read(name, 0, 1, None)
            return ZarrBackend(path, transport)
    raise AbsentError(
        f"there is neither a file nor an OME-Zarr image {path.name} at this address; check it"
    )


def _remote_tiff(path: Path, file: RemoteFile) -> TifffileBackend | GeoTiffBackend:
    placed = None
    with file.open() as opened:
        is_readable = opened.read(4) in _TIFF_MAGIC
        opened.seek(0)
        is_readable = is_readable and not is_vendors_own(opened, path.name)
        if is_readable:
            placed = georeference_of(opened, path.name)
    if not is_readable:
        raise SlideError(
            f"{path.name} is no TIFF, SVS, OME-TIFF or OME-Zarr, and only these are read over the "
            "network; copy it to this machine and open the copy"
        )
    backend: TifffileBackend | GeoTiffBackend
    try:
        if placed is None:
            backend = TifffileBackend(path, file)
        else:
            backend = GeoTiffBackend(path, placed, file)
    except NotForThisBackend as reason:
        raise SlideError(
            f"{path.name} is a TIFF that is damaged or of a kind that cannot be read over the "
            f"network ({reason}); copy it to this machine and open the copy"
        ) from None
    if not file.version.is_stated:
        backend.remarks += ("its server states no version: a change of it may go unseen",)
    return backend


def _dicom_backend(path: Path, *, is_one_file: bool) -> Backend:
    """Take OpenSlide where it reads the series, wsidicom where it refuses."""
    if is_one_file:
        with contextlib.suppress(NotForThisBackend):
            return OpenSlideBackend(path)
    try:
        files = volume_of(path)
    except ImportError:
        raise SlideError(needs_dicom(path)) from None
    if len({one.path.parent for one in files}) == 1:  # all that OpenSlide looks for
        with contextlib.suppress(NotForThisBackend):
            return OpenSlideBackend(max(files, key=lambda one: one.width).path)
    return DicomBackend(path, files)


def _openslide_or_sentence(path: Path, header: bytes, reasons: list[str]) -> Backend:
    try:
        return OpenSlideBackend(path)
    except NotForThisBackend as reason:
        reasons.append(f"OpenSlide: {reason}")
    is_tiff = header[:4] in _TIFF_MAGIC
    if is_tiff:
        raise SlideError(
            f"{path.name} is a TIFF that is damaged or cut short, or of a kind that cannot be "
            f"read ({'; '.join(reasons)}); copy it again or export it as a pyramidal TIFF"
        )
    raise SlideError(
        f"{path.name} is not a slide this program can read: it is neither a TIFF nor any "
        "format of OpenSlide; check that it is the slide itself and was copied whole"
    )


def _header(path: Path) -> bytes:
    """Return the first bytes, or say why there are none that can be a slide."""
    try:
        if "\0" in str(path):
            raise SlideError(f"{path.name!r} is no name of a file; check it")
        if path.is_dir():
            raise SlideError(
                f"{path.name} is a folder; open the slide file in it (for MIRAX the .mrxs "
                "file beside it)"
            )
        with path.open("rb") as file:
            header = file.read(1024)
    except FileNotFoundError:
        raise SlideError(f"{path} does not exist; check the name and the folder") from None
    except PermissionError:
        raise SlideError(f"{path} may not be read by you; ask for permission to read it") from None
    except OSError as error:
        raise SlideError(f"{path} cannot be read: {error.strerror or error}") from error
    start = header.lstrip().lower()
    if not header:
        raise SlideError(f"{path.name} is empty (0 bytes); copy or download it again")
    if header.startswith(b"version https://git-lfs"):
        raise SlideError(
            f"{path.name} is a git-lfs pointer, not the slide; run git lfs pull and open it again"
        )
    if start.startswith((b"<!doctype html", b"<html")):
        raise SlideError(
            f"{path.name} is a web page, not a slide: probably the error page of a failed "
            "download; download it again"
        )
    return header
