import shutil
from pathlib import Path

import pytest

from napari_2dmamba.cohort.slides import CohortSlide, find_slides
from napari_2dmamba.errors import CohortError
from tests.material import shared


def names(slides: list[CohortSlide], base: Path) -> list[str]:
    return [slide.path.relative_to(base).as_posix() for slide in slides]


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for name in (
        "b.svs", "a.TIF", "deep/c.ndpi", "deep/notes.txt", "deep/._c.ndpi", ".trash/d.svs",
        "x.mrxs", "x/Slidedat.ini", "x/Data0001.dat", "runs/a/run.json", "runs/a/map.ome.tif",
        "out/a/features.tif",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_is_searched_for_slides_but_not_for_results(scans: Path) -> None:
    found = find_slides([scans], leave_out=scans / "out")
    assert names(found, scans) == ["a.TIF", "b.svs", "deep/c.ndpi", "x.mrxs"]


def test_the_data_folder_of_a_mirax_slide_is_that_slide(scans: Path) -> None:
    assert names(find_slides([scans / "x"]), scans) == ["x.mrxs"]


def test_patterns(scans: Path) -> None:
    assert names(find_slides([str(scans / "*.svs")]), scans) == ["b.svs"]
    assert names(find_slides([str(scans / "**" / "*.ndpi")]), scans) == ["deep/c.ndpi"]
    assert names(find_slides([str(scans / "d*")]), scans) == ["deep/c.ndpi"]


def test_a_slide_named_twice_comes_once_with_what_the_manifest_says(scans: Path) -> None:
    (scans / "list.csv").write_text("slide,label,mpp\nb.svs,tumour,0.5\n")
    (scans / "same.svs").symlink_to(scans / "b.svs")
    found = find_slides(
        [scans / "b.svs", scans / "same.svs", scans / "list.csv", scans / "a.TIF"], mpp=0.25
    )
    assert [(s.path.name, s.label, s.mpp) for s in found] == [
        ("b.svs", "tumour", 0.5),
        ("a.TIF", None, 0.25),
    ]


@pytest.mark.parametrize("what", ["label,A", "mpp,0.25", "regions,other.geojson"])
def test_lists_that_contradict_are_refused(scans: Path, what: str) -> None:
    name, value = what.split(",")
    (scans / "one.csv").write_text("slide,label,mpp,regions,block\nb.svs,B,0.5,r.geojson,1\n")
    (scans / "two.csv").write_text(f"slide,{name},block\nb.svs,{value},2\n")
    with pytest.raises(CohortError, match=rf"b\.svs is named twice, with {name} .* and .*{value}"):
        find_slides([scans / "one.csv", scans / "two.csv"])
    (scans / "two.csv").write_text("slide,block\nb.svs,2\n")
    assert [slide.mpp for slide in find_slides([scans / "one.csv", scans / "two.csv"])] == [0.5]


def test_a_named_file_need_not_exist(tmp_path: Path) -> None:
    assert names(find_slides([tmp_path / "gone.svs"]), tmp_path) == ["gone.svs"]


def test_a_loop_of_links_ends(scans: Path) -> None:
    (scans / "deep" / "loop").symlink_to(scans)
    assert names(find_slides([scans / "deep"], leave_out=scans / "out"), scans)[0] == "deep/c.ndpi"


@pytest.mark.parametrize(
    ("given", "said"),
    [("empty", "holds no slide"), ("*.scn", "no slide matches"), ("no.csv", "cannot be read")],
)
def test_nothing_found_is_one_sentence(tmp_path: Path, given: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CohortError, match=said):
        find_slides([str(tmp_path / given)])


def test_the_files_of_a_dicom_series_are_one_slide(tmp_path: Path) -> None:
    for source in (shared("slides/dicom"), shared("slides/odd")):
        for path in source.glob("*.dcm"):
            shutil.copy(path, tmp_path)
    found = find_slides([tmp_path])
    assert [slide.path.name[:6] for slide in found] == ["1.2.82", "boxes_"]
    (tmp_path / "list.csv").write_text("slide\nseries\n")
    (tmp_path / "series").mkdir()
    for path in shared("slides/dicom").glob("*.dcm"):
        shutil.move(tmp_path / path.name, tmp_path / "series")
    assert [slide.path.parent.name for slide in find_slides([tmp_path / "list.csv"])] == ["series"]
