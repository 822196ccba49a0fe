"""A small DICOMweb server on this machine: metadata and frames of the files in a folder."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.local_server import served_by
from tests.slide.served import Served

_MEDIA = {
    "1.2.840.10008.1.2.4.50": "image/jpeg", "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2", "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}  # fmt: skip


class DicomWeb(Served):
    """WADO-RS of PS3.18; as `Served`, ``server.twist(handler)`` may answer instead."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append((self.path, dict(self.headers)))
        if server.twist is not None and server.twist(self):
            return
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] != ["dicom-web", "studies"]:
            self.answer(404)
            return
        data = [
            one for one in server.data
            if (one.StudyInstanceUID, one.SeriesInstanceUID) == (parts[2], parts[4])
        ]  # fmt: skip
        if parts[5:] == ["metadata"] and data:
            self.answer(200, json.dumps([_json(one) for one in data]).encode(),
                        {"Content-Type": "application/dicom+json"})  # fmt: skip
            return
        found = [
            one for one in data if parts[5:6] == ["instances"] and one.SOPInstanceUID == parts[6]
        ]
        if not found:
            self.answer(404)
            return
        server.frames.append((str(found[0].ImageType[2]), parts[6], int(parts[8])))
        if "transfer-syntax=*" not in self.headers.get("Accept", ""):
            self.answer(406)
            return
        body, kind = multipart(found[0], int(parts[8]), stated=server.states_syntax)
        self.answer(200, body, {"Content-Type": kind})


def _json(one: Any) -> dict[str, Any]:
    told = one.to_json_dict()
    told.pop("7FE00010", None)
    return told


def multipart(one: Any, number: int, *, stated: bool = True) -> tuple[bytes, str]:
    """Return the answer that holds a frame as it is stored, and its content type."""
    syntax = str(one.file_meta.TransferSyntaxUID)
    media = _MEDIA.get(syntax, "application/octet-stream")
    head = f"Content-Type: {media}" + (f"; transfer-syntax={syntax}" if stated else "")
    body = f"\r\n--edge\r\n{head}\r\nContent-Location: x\r\n\r\n".encode()
    body += _frames(one)[number - 1] + b"\r\n--edge--\r\n"
    return body, f'multipart/related; type="{media}"; boundary="edge"'


def _frames(one: Any) -> list[bytes]:
    """Return all frames of an image, kept for the next time."""
    from pydicom.encaps import generate_frames

    if not hasattr(one, "kept_frames"):
        count, data = int(one.get("NumberOfFrames", 1)), one.PixelData
        size = len(data) // count
        one.kept_frames = (
            list(generate_frames(data, number_of_frames=count))
            if one.file_meta.TransferSyntaxUID.is_encapsulated
            else [data[k * size : (k + 1) * size] for k in range(count)]
        )
    return one.kept_frames


@contextlib.contextmanager
def serve_dicomweb(folder: Path, twist: Callable[[Served], bool] | None = None) -> Iterator[Any]:
    """Yield the server; ``server.series`` is the address, ``server.frames`` what was fetched."""
    import pydicom

    data = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    with served_by(
        DicomWeb, data=data, twist=twist, asked=[], frames=[], states_syntax=True
    ) as server:
        first = data[0]
        server.series = (
            f"{server.address}/dicom-web/studies/{first.StudyInstanceUID}/series/"
            f"{first.SeriesInstanceUID}"
        )
        yield server
