"""DICOM results: values and places read back by other code, and nothing of the patient unasked."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="the extra dicom-results is not installed")

import highdicom
import pydicom

from napari_2dmamba.cli import main
from napari_2dmamba.errors import ExportError, GridError
from napari_2dmamba.explain.map_regions import MapThreshold
from napari_2dmamba.export.dicom_results import NO_PATCH, write_dicom_map
from napari_2dmamba.export.exporting import RegionsAbove, export_run
from napari_2dmamba.export.run_folder import save_run
from napari_2dmamba.slide import Slide, open_slide, read_regions
from tests.material import shared
from tests.slide.written_dicom import JPEG, RLE, write_dicom

from .material import ATTENTION, COORDS, SIZE, attention_map, classification
from .test_record import GRID, record_of

_PICTURE = np.random.default_rng(5).integers(0, 255, (333, 437, 3)).astype(np.uint8)
_LEVELS = [_PICTURE, _PICTURE[::2, ::2].copy()]
_TURNED = [0.6, -0.8, 0.0, -0.8, -0.6, 0.0]
_ORIENTATIONS = ([0, -1, 0, -1, 0, 0], [0, 1, 0, 1, 0, 0], [1, 0, 0, 0, -1, 0], _TURNED)
# Words that both may hold: of the standard, and of the way the pixels are stored.
_COMMON = {
    "DERIVED", "PRIMARY", "VOLUME", "TILED_FULL", "TILED_SPARSE", "RESEARCH", "ISO_IR 192", "NONE",
    "AUTO", "YES", "ISO_10918_1",
}  # fmt: skip


def tell_everything(one: Any) -> None:
    """Write something about the patient, the hospital or the case into every kind of element."""
    texts = {
        "OtherPatientNames": "ROE^JANE", "PatientAddress": "12 Elm Street",
        "PatientComments": "comment-of-patient", "EthnicGroup": "ethnic-77",
        "InstitutionName": "Saint Elsewhere", "InstitutionAddress": "1 Hospital Road",
        "StationName": "STATION-9", "OperatorsName": "OPERATOR^O", "DeviceSerialNumber": "SER-31",
        "PerformingPhysicianName": "PERFORMER^P", "ReferringPhysicianName": "REFERRER^R",
        "StudyDescription": "breast left", "SeriesDescription": "case 4711 HE",
        "ProtocolName": "protocol-8", "ImageComments": "margin positive",
        "AcquisitionDateTime": "20200102030405", "ContentDate": "20200103",
        "ContentTime": "040506", "SeriesDate": "20200104", "PatientAge": "070Y",
        "ClinicalTrialSubjectID": "TRIAL-5", "BarcodeValue": "BAR-123", "LabelText": "LABEL-456",
        "PositionReferenceIndicator": "near Jane", "AdmissionID": "ADM-5",
        "IssuerOfPatientID": "ISSUER-6",
    }  # fmt: skip
    for name, value in texts.items():
        setattr(one, name, value)
    inner = pydicom.Dataset()
    inner.SpecimenIdentifier, inner.SpecimenUID = "SPEC-9", pydicom.uid.generate_uid()
    inner.SpecimenShortDescription = "left breast, block 3"
    inner.IssuerOfTheSpecimenIdentifierSequence = []
    inner.SpecimenPreparationSequence = []
    one.SpecimenDescriptionSequence = [inner]
    one.IssuerOfTheContainerIdentifierSequence, one.ContainerTypeCodeSequence = [], []
    request = pydicom.Dataset()
    request.RequestedProcedureDescription = "requested-procedure-2"
    request.ScheduledProcedureStepID = "STEP-44"
    one.RequestAttributesSequence = [request]
    private = one.private_block(0x0009, "SOMEONE", create=True)
    private.add_new(1, "LO", "private-word-3")
    spacing = one.SharedFunctionalGroupsSequence[0]
    spacing.add_new(0x00204000, "LT", "word-in-groups")


@pytest.fixture
def source(tmp_path: Path) -> list[Path]:
    return write_dicom(
        tmp_path / "in", _LEVELS, JPEG, kinds=("LABEL",), change=tell_everything
    )  # fmt: skip


@pytest.fixture
def slide(source: list[Path]) -> Iterator[Slide]:
    with open_slide(source[0]) as opened:
        yield opened


def saved(slide: Slide, folder: Path, **more: Any) -> Path:
    record = record_of(slide)
    maps = more.get("maps", [attention_map()])
    return save_run(folder, record, grid=GRID, prediction=classification(), maps=maps)


def place_of(header: Any, column: float, row: float) -> np.ndarray:
    """Return where on the glass a place of the total pixel matrix lies, in mm, by PS3.3."""
    origin = header.TotalPixelMatrixOriginSequence[0]
    spacing = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    cosines = [float(one) for one in header.ImageOrientationSlide]
    return np.array(
        [
            float(origin.XOffsetInSlideCoordinateSystem)
            + cosines[0] * float(spacing[1]) * column
            + cosines[3] * float(spacing[0]) * row,
            float(origin.YOffsetInSlideCoordinateSystem)
            + cosines[1] * float(spacing[1]) * column
            + cosines[4] * float(spacing[0]) * row,
        ]
    )


@pytest.mark.parametrize("orientation", _ORIENTATIONS)
@pytest.mark.parametrize("syntax", [JPEG, RLE])  # OpenSlide reads one, wsidicom the other
def test_every_patch_lies_where_it_was_cut_and_has_its_score(
    tmp_path: Path, orientation: list[float], syntax: str
) -> None:
    def turned(one: Any) -> None:
        one.ImageOrientationSlide = orientation

    paths = write_dicom(tmp_path / "in", _LEVELS, syntax, change=turned)
    shifted = replace(attention_map(), origin=(30, 70))
    with open_slide(paths[0]) as slide:
        assert slide.backend == {JPEG: "OpenSlide", RLE: "wsidicom"}[syntax]
        out = write_dicom_map(slide, shifted, tmp_path / "map.dcm", record=record_of(slide))
    made, of_slide = pydicom.dcmread(out), pydicom.dcmread(paths[0])
    assert made.SOPClassUID.name == "Parametric Map Storage"
    values = np.frombuffer(made.FloatPixelData, "<f4").reshape(3, 4)
    assert made.FloatPixelPaddingValue == NO_PATCH
    apart = highdicom.spatial.PixelToPixelTransformer.for_images
    other = apart(made, of_slide, for_total_pixel_matrix_from=True, for_total_pixel_matrix_to=True,
                  round_output=False)  # fmt: skip
    for (x, y), score in zip(COORDS, ATTENTION, strict=True):
        row, column = y // SIZE, x // SIZE
        assert values[row, column] == score  # to the bit
        middle = x + 30 + (SIZE - 1) / 2, y + 70 + (SIZE - 1) / 2
        np.testing.assert_allclose(
            place_of(made, column, row), place_of(of_slide, *middle), atol=1e-7
        )  # mm: a tenth of a nanometre
        np.testing.assert_allclose(other(np.array([[column, row]])), [middle], atol=1e-3)
    assert (values == NO_PATCH).sum() == 2


def test_highdicom_reads_the_values_and_what_they_mean(slide: Slide, tmp_path: Path) -> None:
    grid_map = replace(attention_map(), quantity="softmax over tissue", meaning="weiß\\µ " * 20)
    out = write_dicom_map(slide, grid_map, tmp_path / "map.dcm", record=record_of(slide))
    made = highdicom.pm.ParametricMap.from_dataset(pydicom.dcmread(out))
    mapping = made.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert mapping.MeasurementUnitsCodeSequence[0].CodeMeaning == "no units"
    assert mapping.LUTExplanation.startswith("weiß µ weiß")
    assert 60 < len(mapping.LUTExplanation.encode()) <= 64  # bytes, for who counts those
    concept = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    assert concept.CodeMeaning == "softmax over tissue"
    low, high = (
        mapping.DoubleFloatRealWorldValueFirstValueMapped,
        mapping.DoubleFloatRealWorldValueLastValueMapped,
    )
    assert (low, high) == (ATTENTION.min(), ATTENTION.max())
    values = made.get_total_pixel_matrix(apply_real_world_transform=False)
    has_patch = np.isfinite(grid_map.values)
    np.testing.assert_array_equal(values[has_patch], grid_map.values[has_patch])


def test_a_large_map_is_tiled_and_stitched_back(slide: Slide, tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(700, 900)).astype(np.float32)
    grid_map = replace(attention_map(), values=values, signed=True, patch_size_level0=2)
    out = write_dicom_map(slide, grid_map, tmp_path / "map.dcm", record=record_of(slide))
    made = highdicom.pm.ParametricMap.from_dataset(pydicom.dcmread(out))
    assert made.NumberOfFrames == 4
    np.testing.assert_array_equal(
        made.get_total_pixel_matrix(apply_real_world_transform=False), values
    )


def test_it_belongs_to_the_images_of_the_slide_and_not_to_its_label(
    slide: Slide, source: list[Path], tmp_path: Path
) -> None:
    out = write_dicom_map(slide, attention_map(), tmp_path / "m.dcm", record=record_of(slide))
    made, of_slide = pydicom.dcmread(out), [pydicom.dcmread(one) for one in source]
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert getattr(made, name) == getattr(of_slide[0], name)
    assert made.SeriesInstanceUID != of_slide[0].SeriesInstanceUID
    assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == of_slide[0].SeriesInstanceUID
    assert [one.ReferencedSOPInstanceUID for one in made.SourceImageSequence] == [
        of_slide[0].SOPInstanceUID, of_slide[1].SOPInstanceUID,
    ]  # fmt: skip
    assert made.ContentQualification == "RESEARCH"
    again = write_dicom_map(slide, attention_map(), tmp_path / "n.dcm", record=record_of(slide))
    assert pydicom.dcmread(again).SOPInstanceUID != made.SOPInstanceUID


def _texts(data: Any) -> Iterator[tuple[str, str]]:
    for element in data.iterall():
        if element.VR in ("SQ", "UI", "OB", "OW", "OF", "US", "UL", "FL", "FD", "AT", "UN", "DS"):
            continue
        values = element.value if isinstance(element.value, list | tuple) else [element.value]
        yield from ((element.name, str(value)) for value in values if len(str(value)) > 2)


def test_nothing_of_the_patient_leaves_unasked(
    slide: Slide, source: list[Path], tmp_path: Path
) -> None:
    above = RegionsAbove(MapThreshold(0.09))
    files = export_run(
        saved(slide, tmp_path / "run"), formats=("dicom-map",), out=tmp_path / "x", above=above
    )
    results = [one for one in files if one.suffix == ".dcm"]
    assert [one.name for one in results] == [
        "volume0-attention-map.dcm", "volume0-attention-above.dcm",
    ]  # fmt: skip
    for path in source:
        told = [pair for pair in _texts(pydicom.dcmread(path)) if pair[1] not in _COMMON]
        assert len(told) > 35
        for file in results:
            data = file.read_bytes()
            for name, text in told:
                assert text.encode() not in data, (file.name, name)
    for file in results:
        made = pydicom.dcmread(file)
        for element in made.group_dataset(0x0010):
            assert not element.value, element.name
        for name in ("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "InstitutionName"):
            assert not made.get(name)
        assert made.PatientIdentityRemoved == "YES"
        assert made.DeidentificationMethod


def test_the_patient_is_copied_on_request(slide: Slide, tmp_path: Path, capsys: Any) -> None:
    run = saved(slide, tmp_path / "run")
    given = ["export", str(run), "--as", "dicom-map", "-o", str(tmp_path / "mine.dcm")]
    assert main([*given, "--with-patient", "--regions-above", "50%"]) == 0
    for name in ("mine.dcm", "volume0-attention-above.dcm"):
        made = pydicom.dcmread(tmp_path / name)
        assert (str(made.PatientName), made.PatientID) == ("DOE^JANE", "P-1717")
        assert (made.PatientBirthDate, made.PatientSex) == ("19500101", "F")
        assert (made.AccessionNumber, made.StudyDate) == ("ACC-99", "20200101")
        assert made.InstitutionName == "Saint Elsewhere"
        assert made.ContainerIdentifier == "CASE-4711"
        assert made.SpecimenDescriptionSequence[0].SpecimenIdentifier == "SPEC-9"
        assert "PatientIdentityRemoved" not in made
        for name in ("PatientAddress", "OperatorsName", "DeviceSerialNumber"):  # never
            assert made.get(name) in (None, "0.1.0"), name
    with pytest.raises(SystemExit):
        main(["export", str(run), "--as", "csv", "--with-patient"])
    assert "--as dicom-map" in capsys.readouterr().err


def test_what_the_libraries_would_say_of_the_patient_is_not_said(
    tmp_path: Path, caplog: Any, capfd: Any, recwarn: pytest.WarningsRecorder
) -> None:
    def odd(one: Any) -> None:
        one.PatientName = "Jane Roe Without Carets"  # of which highdicom warns, with the name
        one.PatientSex = "FEMALE"  # which it refuses, with the value

    paths = write_dicom(tmp_path / "in", _LEVELS, JPEG, change=odd)
    with open_slide(paths[0]) as slide, caplog.at_level("DEBUG"):
        record = record_of(slide)
        write_dicom_map(slide, attention_map(), tmp_path / "m.dcm", record=record)
        with pytest.raises(ExportError, match="leave the patient's data out") as told:
            write_dicom_map(
                slide, attention_map(), tmp_path / "n.dcm", record=record, with_patient=True
            )
    said = [caplog.text, *capfd.readouterr(), str(told.value), str(told.value.__cause__)]
    said += [str(one.message) for one in recwarn]
    assert not any(word in one for one in said for word in ("Jane", "FEMALE"))
    assert not (tmp_path / "n.dcm").exists()


def test_names_in_any_script_survive(tmp_path: Path) -> None:
    def german(one: Any) -> None:
        one.SpecificCharacterSet = "ISO_IR 100"
        one.PatientName, one.InstitutionName = "Müller^Jürgen", "Universität Köln"

    paths = write_dicom(tmp_path / "in", _LEVELS, JPEG, change=german)
    with open_slide(paths[0]) as slide:
        out = write_dicom_map(
            slide, attention_map(), tmp_path / "m.dcm", record=record_of(slide), with_patient=True
        )
    made = pydicom.dcmread(out)
    assert made.SpecificCharacterSet == "ISO_IR 192"
    assert (str(made.PatientName), made.InstitutionName) == ("Müller^Jürgen", "Universität Köln")


def test_regions_have_the_colour_of_their_class_in_every_file(slide: Slide, tmp_path: Path) -> None:
    above = RegionsAbove(MapThreshold(0.09), class_name="Hot")
    files = export_run(
        saved(slide, tmp_path / "run"), formats=("dicom-map",), out=tmp_path / "x", above=above
    )
    (drawn, *_) = read_regions(next(one for one in files if one.suffix == ".geojson"))
    segment = highdicom.seg.segread(files[-1]).get_segment_description(1)
    expected = highdicom.color.CIELabColor.from_rgb(*drawn.colour)
    assert tuple(segment.RecommendedDisplayCIELabValue) == expected.value


def test_what_lies_above_a_threshold_is_a_segment(slide: Slide, tmp_path: Path) -> None:
    above = RegionsAbove(MapThreshold(0.09), class_name="Hot", colour=(200, 0, 0), least_patches=2)
    files = export_run(
        saved(slide, tmp_path / "run"), formats=("dicom-map",), out=tmp_path / "x", above=above
    )
    made = highdicom.seg.segread(files[-1])
    mask = made.get_total_pixel_matrix(combine_segments=True)
    grid_map = attention_map()
    alone = np.zeros((3, 4), bool)
    for row, column in np.argwhere(grid_map.values > 0.09):
        beside = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        alone[row, column] = not any(
            0 <= r < 3 and 0 <= c < 4 and grid_map.values[r, c] > 0.09 for r, c in beside
        )
    np.testing.assert_array_equal(mask, (grid_map.values > 0.09) & ~alone)
    segment = made.get_segment_description(1)
    assert segment.segment_label == "Hot"
    assert segment.algorithm_type.name == "AUTOMATIC"
    np.testing.assert_allclose(
        place_of(made, 0, 0), place_of(pydicom.dcmread(slide.path), 49.5, 49.5), atol=1e-7
    )
    with pytest.raises(GridError, match="choose a lower threshold"):
        export_run(
            saved(slide, tmp_path / "again"), formats=("dicom-map",),
            above=RegionsAbove(MapThreshold(7.0)),
        )  # fmt: skip


def test_only_dicom_slides_have_dicom_results(slide_file: Path, tmp_path: Path) -> None:
    with open_slide(slide_file) as plain:
        run = saved(plain, tmp_path / "run")
        with pytest.raises(ExportError, match="is no DICOM slide"):
            export_run(run, formats=("dicom-map",), out=tmp_path / "x")
    assert not list((tmp_path / "x").glob("*"))


@pytest.mark.parametrize(
    "name",
    ["FrameOfReferenceUID", "TotalPixelMatrixOriginSequence", "ImageOrientationSlide", "spacing"],
)
def test_a_slide_without_a_place_on_its_glass_is_refused(tmp_path: Path, name: str) -> None:
    def without(one: Any) -> None:
        if name == "spacing":
            del one.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        else:
            del one[name]

    paths = write_dicom(tmp_path / "in", _LEVELS, JPEG, change=without)
    with (
        open_slide(paths[0], mpp=0.5) as slide,
        pytest.raises(ExportError, match="can be placed on its glass"),
    ):
        write_dicom_map(slide, attention_map(), tmp_path / "m.dcm", record=record_of(slide))
    assert not (tmp_path / "m.dcm").exists()


def test_a_full_disk_leaves_an_older_file(
    slide: Slide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, *given: Any, **more: Any) -> None:
        Path(given[0]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "m.dcm").write_bytes(b"older")
    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    with pytest.raises(ExportError, match="No space left"):
        write_dicom_map(slide, attention_map(), tmp_path / "m.dcm", record=record_of(slide))
    assert [one.read_bytes() for one in tmp_path.glob("*.dcm")] == [b"older"]
    assert not [one for one in tmp_path.iterdir() if "part" in one.name]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools are not installed")
@pytest.mark.parametrize("with_patient", [False, True])
def test_dicom3tools_find_no_error(slide: Slide, tmp_path: Path, with_patient: bool) -> None:
    files = export_run(
        saved(slide, tmp_path / "run"), formats=("dicom-map",), out=tmp_path / "x",
        above=RegionsAbove(MapThreshold(0.09)), with_patient=with_patient,
    )  # fmt: skip
    for file in [one for one in files if one.suffix == ".dcm"]:
        done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
        assert "Error" not in done.stderr + done.stdout


def test_a_scanned_slide_from_any_of_its_files(tmp_path: Path) -> None:
    files = sorted(shared("slides/dicom").glob("*.dcm"))
    for path in (files[0].parent, files[1]):
        with open_slide(path) as slide:
            out = write_dicom_map(
                slide, attention_map(), tmp_path / "m.dcm", record=record_of(slide)
            )
        made = pydicom.dcmread(out)
        of_slide = pydicom.dcmread(files[1], stop_before_pixels=True)
        assert [one.ReferencedSOPInstanceUID for one in made.SourceImageSequence] == [
            of_slide.SOPInstanceUID
        ]
        np.testing.assert_allclose(
            place_of(made, 3, 2), place_of(of_slide, 349.5, 249.5), atol=1e-7
        )
