"""DICOM slides: every transfer syntax against what was written, and nothing of the patient."""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_2dmamba.cohort.slides import find_slides
from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide import open_slide
from tests.slide.written import halved, noise

pytest.importorskip("wsidicom", reason="the extra dicom is not installed")

from tests.slide.written_dicom import (
    HTJ2K,
    JPEG,
    JPEG_2000,
    JPEG_LS,
    PLAIN,
    RLE,
    TILE,
    decoded,
    write_dicom,
)

_LEVELS = [noise(300, 420, 3)]
for _ in range(2):
    _LEVELS.append(halved(_LEVELS[-1]))


@pytest.mark.parametrize(
    ("syntax", "backend"),
    [
        (JPEG, "OpenSlide"), (JPEG_2000, "OpenSlide"), (PLAIN, "OpenSlide"),
        (JPEG_LS, "wsidicom"), (HTJ2K, "wsidicom"), (RLE, "wsidicom"),
    ],
)  # fmt: skip
def test_pixels_levels_and_resolution(tmp_path: Path, syntax: str, backend: str) -> None:
    paths = write_dicom(tmp_path, _LEVELS, syntax, kinds=("LABEL", "OVERVIEW"))
    prints = set()
    for place in (paths[0], paths[2], paths[3], tmp_path):  # a label's own file opens the slide
        with open_slide(place) as slide:
            assert (slide.backend, slide.kind) == (backend, "brightfield")
            assert slide.dimensions == (420, 300)
            assert slide.level_downsamples == (1, 2, 4)
            assert slide.mpp == pytest.approx(0.25)
            assert "dicom" in slide.mpp_source.lower()
            prints.add(slide.fingerprint)
            for index, level in enumerate(_LEVELS):
                part = decoded(level[:TILE, :TILE].copy(), syntax).astype(int)
                found = slide.read_region(0, 0, index, TILE, TILE, strict=True)
                assert np.abs(found - part).max() <= (2 if syntax == JPEG else 0)
            if syntax != JPEG:
                whole = slide.read_region(0, 0, 0, 420, 300, strict=True)
                np.testing.assert_array_equal(whole, _LEVELS[0])
    assert len(prints) == 1


def test_a_dicomdir_stands_for_the_slide_it_lists(tmp_path: Path) -> None:
    from pydicom.fileset import FileSet

    paths = write_dicom(tmp_path / "in", _LEVELS, RLE, kinds=("LABEL",))
    disc = FileSet()
    for path in paths:
        disc.add(path)
    disc.write(tmp_path / "disc")
    with (
        open_slide(tmp_path / "disc" / "DICOMDIR") as slide,
        open_slide(tmp_path / "disc") as same,
        open_slide(paths[0]) as original,
    ):
        assert slide.backend == same.backend == "wsidicom"
        assert slide.fingerprint == same.fingerprint == original.fingerprint
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 420, 300), _LEVELS[0])
    for path in (tmp_path / "disc").rglob("*"):
        if path.is_file() and path.name != "DICOMDIR":
            path.unlink()
            break
    with pytest.raises(SlideError, match="missing"):
        open_slide(tmp_path / "disc")


def test_several_series_in_a_folder_are_not_mixed(tmp_path: Path) -> None:
    write_dicom(tmp_path / "one", _LEVELS, JPEG_LS)
    other = [255 - level for level in _LEVELS]
    write_dicom(tmp_path / "two", other, JPEG_LS)
    for folder in ("one", "two"):
        for path in (tmp_path / folder).iterdir():
            path.rename(tmp_path / f"{folder}-{path.name}")
    with pytest.raises(SlideError, match="2 DICOM series") as told:
        open_slide(tmp_path)
    assert "one-volume0.dcm" in str(told.value)
    write_dicom(tmp_path / "three", _LEVELS[:1], JPEG_LS, kinds=("LABEL",))
    assert [one.path.name for one in find_slides([tmp_path / "three"])] == ["volume0.dcm"]
    with open_slide(tmp_path / "two-volume1.dcm") as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 420, 300), other[0])
    assert len(find_slides([tmp_path])) == 3


def test_several_glass_slides_in_a_series_are_refused(tmp_path: Path) -> None:
    glass = iter("AB")

    def another(one: Any) -> None:
        one.ContainerIdentifier = next(glass)

    write_dicom(tmp_path, _LEVELS[:2], RLE, change=another)
    with pytest.raises(SlideError, match="several glass slides"):
        open_slide(tmp_path)


def test_nothing_of_the_patient_is_shown_or_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def odd(one: Any) -> None:
        one.PatientAge = "77Y"
        one["PatientBirthDate"].value = "DOE^JANE"  # what pydicom warns of, with the value

    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True):
        write_dicom(tmp_path, _LEVELS, JPEG_LS, change=odd, kinds=("LABEL",))
    caplog.clear()
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        with open_slide(tmp_path) as slide:
            shown = repr((slide, slide.properties, slide.remarks, slide.channels))
        for path in tmp_path.iterdir():
            path.write_bytes(path.read_bytes()[:1500])
        with pytest.raises(SlideError) as told:
            open_slide(tmp_path)
    printed = capfd.readouterr()
    said = f"{shown} {told.value} {told.value.__cause__} {caplog.text} {printed} "
    said += " ".join(str(one.message) for one in warned)
    for private in ("DOE", "P-1717", "ACC-99", "4711", "19500101"):
        assert private not in said


def _set(**values: Any) -> Any:
    def change(one: Any) -> None:
        for name, value in values.items():
            setattr(one, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set(TotalPixelMatrixColumns=2**31 - 1), "which no slide has"),
        (_set(NumberOfFrames=2**30), "which no slide has"),
        (_set(Rows=65535, Columns=65535), "which no slide has"),
        (_set(PhotometricInterpretation="MONOCHROME1"), "no reader here"),
        (_set(PhotometricInterpretation="YBR_FULL"), "no reader here"),
        (_set(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"), "another kind"),
        (lambda one: one.__delattr__("Rows"), "lacks what its pixels need"),
        (lambda one: one.__delattr__("PixelData"), "damaged"),
    ],
)  # fmt: skip
def test_headers_that_lie_are_one_sentence(tmp_path: Path, change: Any, words: str) -> None:
    write_dicom(tmp_path, _LEVELS[:1], JPEG_LS, change=change)
    with pytest.raises(SlideError, match=words):
        open_slide(tmp_path / "volume0.dcm")


@pytest.mark.parametrize("kept", [0.02, 0.2, 0.6])
def test_a_file_cut_short_is_an_error_and_no_other_picture(tmp_path: Path, kept: float) -> None:
    write_dicom(tmp_path, _LEVELS[:1], JPEG_LS)
    path = tmp_path / "volume0.dcm"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(SlideError), open_slide(path) as slide:
        slide.read_region(0, 0, 0, 420, 300, strict=True)


def test_a_frame_that_states_another_size_is_not_decoded(tmp_path: Path) -> None:
    """Its decoder would set 12 GB aside."""
    write_dicom(tmp_path, _LEVELS[:1], JPEG_LS)
    path = tmp_path / "volume0.dcm"
    data = bytearray(path.read_bytes())
    at = data.rfind(b"\xff\xf7") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with open_slide(path) as slide:
        with pytest.raises(SlideError, match="65535 x 65535"):
            slide.read_region(0, 0, 0, 420, 300, strict=True)
        np.testing.assert_array_equal(
            slide.read_region(0, 0, 0, TILE, TILE, strict=True), _LEVELS[0][:TILE, :TILE]
        )


def test_a_folder_with_ct_pictures_says_what_it_is(tmp_path: Path) -> None:
    write_dicom(tmp_path, _LEVELS[:1], RLE, change=_set(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"))
    with pytest.raises(SlideError, match="no DICOM whole slide image"):
        open_slide(tmp_path)
