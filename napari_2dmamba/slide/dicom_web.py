"""Slides on DICOMweb servers: headers once, frames one at a time when they are looked at.

wsidicom puts the pyramid together. Its own web client is not used: it reads a frame of the label as
well and asks for JPEG first, which servers make of what they store without loss. Frames are asked
for as they are stored, or not had.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide.addresses import identity_of, server_of
from napari_2dmamba.slide.dicom_backend import DicomBackend, needs_dicom
from napari_2dmamba.slide.dicom_series import DicomFile, described, one_slide, quiet_dicom
from napari_2dmamba.slide.remote import ConnectionCutError, Http, RemoteError, cut
from napari_2dmamba.slide.remote_file import disk_cache

if TYPE_CHECKING:
    from pydicom import Dataset

_AS_STORED = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
_LARGEST_METADATA = 2**28
_LARGEST_FRAME = 2**28
_MOST_IMAGES = 4096
_NUMBER = re.compile(r"[0-9.]{1,64}")
_USUAL_SYNTAX = {
    "image/jpeg": "1.2.840.10008.1.2.4.50",
    "image/jp2": "1.2.840.10008.1.2.4.91",
    "image/jls": "1.2.840.10008.1.2.4.81",
    "image/jphc": "1.2.840.10008.1.2.4.203",
    "image/dicom-rle": "1.2.840.10008.1.2.5",
    "image/x-dicom-rle": "1.2.840.10008.1.2.5",
    "application/octet-stream": "1.2.840.10008.1.2.1",
}
"""Transfer syntax of a kind of frame where the server does not state it."""


class WebSeries:
    """One series on a DICOMweb server (PS3.18: WADO-RS, metadata and frames).

    Raises
    ------
    RemoteError
        When requests is not installed.
    """

    def __init__(self, path: Path, address: str, study: str, series: str) -> None:
        self.path, self.study, self.series = path, study, series
        self.server = server_of(address)
        self._http, self._mark = Http(address, path.name), identity_of(address)
        self._cache = disk_cache()

    def volume_headers(self) -> "list[Dataset]":
        """Return the headers of the images that are the slide, with their transfer syntax.

        Labels and overviews are told apart by what is stated of them; no frame of them is read.

        Raises
        ------
        RemoteError
            When the server does not answer, refuses, or sends something else.
        SlideError
            When the series is no whole slide image, or more than one.
        """
        try:
            import pydicom
        except ImportError:
            raise SlideError(needs_dicom(self.path)) from None
        quiet_dicom()
        headers: dict[str, Any] = {}
        found: list[DicomFile] = []
        for one in self._metadata():
            try:
                header = pydicom.Dataset.from_json(one, lambda *_: b"")
                header.file_meta = pydicom.dataset.FileMetaDataset()
                header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
            except Exception as error:  # noqa: BLE001 - whatever parsing raises, with values in it
                raise self._no_dicom(type(error).__name__) from None
            image = described(self.path, header)
            if image is not None and image.series == self.series:
                if not _NUMBER.fullmatch(image.instance):
                    raise self._no_dicom("an image without a number")
                headers[image.instance] = header
                found.append(image)
        if not any(image.kind == "VOLUME" for image in found):
            raise SlideError(
                f"{self.path.name} is a DICOM series without a whole slide image; give the series "
                "of the slide itself, of the modality SM"
            )
        volume = [headers[image.instance] for image in one_slide(self.path, found)]
        for header in volume:
            header.file_meta.TransferSyntaxUID = self.frame(header.SOPInstanceUID, 1)[1]
        return volume

    def frame(self, instance: str, number: int) -> tuple[bytes, str]:
        """Return a frame as it is stored, and its transfer syntax; kept on disk once read.

        Parameters
        ----------
        instance
            Number of the image, which stands for content that never changes.
        number
            From 1.

        Raises
        ------
        RemoteError
            When it cannot be had.
        """
        mark = f"{self._mark} {instance} {number}".encode()
        name = hashlib.sha256(mark).hexdigest()
        kept = self._cache.get(name)
        if kept is not None:
            syntax, _, data = kept.partition(b"\n")
            return data, syntax.decode("ascii", "replace")
        key = f"instances/{instance}/frames/{number}"
        body, kind = self._http.whole(key, _AS_STORED, _LARGEST_FRAME)
        data, syntax_told = self._only_part(body, kind)
        self._cache.put(name, syntax_told.encode() + b"\n" + data)
        return data, syntax_told

    def _metadata(self) -> list[dict[str, Any]]:
        body, _ = self._http.whole("metadata", "application/dicom+json", _LARGEST_METADATA)
        try:
            told = json.loads(body)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, list) or not all(isinstance(one, dict) for one in told):
            raise self._no_dicom("no list of data sets")
        if not 0 < len(told) <= _MOST_IMAGES:
            raise self._no_dicom(f"{len(told)} images")
        return told

    def _only_part(self, body: bytes, kind: str) -> tuple[bytes, str]:
        """Return the one frame of an answer in parts (RFC 2046), and its transfer syntax."""
        boundary = re.search(r'(?i)boundary="?([^";]+)"?', kind)
        if not kind.lower().startswith("multipart/related") or boundary is None:
            raise self._no_dicom("no frame in the form of DICOMweb")
        mark = b"--" + boundary[1].strip().encode()
        begin = body.find(mark)
        head_end = body.find(b"\r\n\r\n", begin)
        end = body.rfind(b"\r\n" + mark + b"--")
        if begin < 0 or head_end < 0 or end < head_end:
            raise ConnectionCutError(cut(self.path.name))
        head = body[begin + len(mark) : head_end].decode("latin-1")
        told = re.search(r"(?im)^content-type:\s*([^;\r\n]+)(.*)$", head)
        media, more = (told[1].strip().lower(), told[2]) if told else ("", "")
        stated = re.search(r'(?i)transfer-syntax="?([0-9.]{5,64})', more)
        syntax = stated[1] if stated else _USUAL_SYNTAX.get(media)
        if syntax is None:
            raise self._no_dicom(f"a frame of the kind {media[:40]!r}")
        return body[head_end + 4 : end], syntax

    def _no_dicom(self, what: str) -> RemoteError:
        return RemoteError(
            f"the server of {self.path.name} answers, but not as DICOMweb does ({what}); give the "
            "address of a series: https://server/…/studies/…/series/…"
        )

    def close(self) -> None:
        """Let connections go."""
        self._http.close()


class DicomWebBackend(DicomBackend):
    """Read the stored tiles of a series on a DICOMweb server.

    Raises
    ------
    SlideError
        When wsidicom is not installed, or the series cannot be read.
    """

    def __init__(self, path: Path, series: WebSeries) -> None:
        self._series = series
        try:
            self._headers = {str(one.SOPInstanceUID): one for one in series.volume_headers()}
            described_all = [described(path, one) for one in self._headers.values()]
            super().__init__(path, [one for one in described_all if one is not None])
        except BaseException:
            series.close()
            raise
        self.remarks += (f"read over the network from {series.server}",)

    def _open(self, settings: Any) -> Any:
        from wsidicom import WsiDicom

        syntaxes = {one.file_meta.TransferSyntaxUID for one in self._headers.values()}
        return WsiDicom.open_web(
            _client(self._series, self._headers),
            self._series.study,
            self._series.series,
            requested_transfer_syntax=list(syntaxes),
            settings=settings,
        )

    def close(self) -> None:
        """See `Backend.close`."""
        super().close()
        self._series.close()


def _client(series: WebSeries, headers: "dict[str, Dataset]") -> Any:
    """Return what wsidicom asks for headers and frames: those that are here, and `WebSeries`."""
    from pydicom.uid import UID
    from wsidicom.web import WsiDicomWebClient

    class Client(WsiDicomWebClient):
        def __init__(self) -> None:
            """Make no connection of its own."""

        def get_wsi_instances(self, study_uid: Any, series_uids: Any) -> Iterator[Any]:
            for instance, header in headers.items():
                yield UID(series.series), UID(instance), {header.file_meta.TransferSyntaxUID}

        def get_annotation_instances(self, study_uid: Any, series_uids: Any) -> Iterator[Any]:
            return iter(())

        def get_instance(self, study_uid: Any, series_uid: Any, instance_uid: Any) -> Any:
            return headers[str(instance_uid)]

        def get_frames(
            self, study_uid: Any, series_uid: Any, instance_uid: Any,
            frame_indices: list[int], transfer_syntax: Any,
        ) -> Iterator[bytes]:  # fmt: skip
            for number in frame_indices:
                data, syntax = series.frame(str(instance_uid), number)
                if syntax != transfer_syntax:
                    raise RemoteError(
                        f"the server of {series.path.name} sends frames of one image in two "
                        "transfer syntaxes; ask whoever runs it"
                    )
                yield data

    return Client()
