import contextlib
import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_2dmamba.cohort.manifest import read_manifest
from napari_2dmamba.cohort.slides import CohortSlide
from napari_2dmamba.errors import CohortError, SlideError
from napari_2dmamba.slide import open_slide
from tests.material import shared

in_one_folder = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    manifest = written(
        tmp_path,
        "slide,label,mpp,patient\nscans/a.svs,tumour,,P1\n/elsewhere/b.tif,normal,0.25,\n",
    )
    assert read_manifest(manifest) == [
        CohortSlide(tmp_path / "scans" / "a.svs", "tumour", None, {"patient": "P1"}),
        CohortSlide(Path("/elsewhere/b.tif"), "normal", 0.25, {}),
    ]


def test_a_list_saved_by_a_european_excel(tmp_path: Path) -> None:
    manifest = written(tmp_path, "\ufeffSlide;MPP;Label\r\na.svs;0,5;grün\r\n\r\n")
    assert read_manifest(manifest) == [CohortSlide(tmp_path / "a.svs", "grün", 0.5)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("slide,label\n", "names no slide"),
        ("file,label\na.svs,x\n", "line 1: no column is called slide"),
        ("slide,label\na.svs,x\n,y\n", "line 3: the cell slide is empty"),
        ("slide,mpp\na.svs,0.25\nb.svs,twenty\n", "line 3: mpp is 'twenty'"),
        ("slide,mpp\na.svs,250\n", "line 2: mpp is 250, but a slide lies between 0.05 and 20"),
        ("slide,mpp\na.svs,nan\n", "line 2: mpp is nan"),
        ("slide,label\na.svs\n", "line 2: 1 cell, but the first line names 2 columns"),
        ("slide,label\na.svs,x\n\n./a.svs,y\n", "line 4: a.svs stands in line 2 already"),
        ("slide,slide\na,b\n", "line 1: two columns are called 'slide'"),
        ("slide,Labels\na.svs,x\n", "line 1: the column 'Labels' is unknown; call it 'label'"),
        ('slide,label\n"a.svs"b,x\n', "line 2: not a line of a CSV table"),
        ("slide\nfolder\n", "line 2: the folder folder holds 0 slides instead of one"),
        (b"slide\n\x81\xfe.svs\n", "is not text in UTF-8"),
        ("slide,label,\na.svs,x,y\n", "line 2: 3 cells, but the first line names 2 columns"),
        ("slide,,label\na.svs,z,x\n", "line 2: 'z' stands in a column without a name"),
        ("sep=;\nslide;mpp\na.svs;nan\n", "line 3: mpp is nan"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    (tmp_path / "folder").mkdir()
    manifest = written(tmp_path, text)
    with pytest.raises(CohortError) as error:
        read_manifest(manifest)
    assert said in str(error.value)
    assert str(manifest) in str(error.value)
    assert "\n" not in str(error.value)


plain = st.text(
    st.characters(exclude_characters="\0\r\n/\\~", exclude_categories=("Cs", "Cc")), min_size=1
).filter(lambda text: text == text.strip() and text not in (".", ".."))


@in_one_folder
@given(
    rows=st.lists(
        st.tuples(plain, plain | st.none(), st.floats(0.05, 20.0) | st.none()),
        min_size=1,
        unique_by=lambda row: row[0],
    ),
    separator=st.sampled_from(",;\t"),
)
def test_what_csv_writes_comes_back(
    tmp_path: Path, rows: list[tuple[str, str | None, float | None]], separator: str
) -> None:
    text = io.StringIO()
    table = csv.writer(text, delimiter=separator)
    table.writerow(["label", "slide", "mpp"])
    for slide, label, mpp in rows:
        table.writerow([label or "", slide, "" if mpp is None else repr(mpp)])
    found = read_manifest(written(tmp_path, text.getvalue()))
    assert [(one.path.name, one.label, one.mpp) for one in found] == rows


@in_one_folder
@given(text=st.text(max_size=200) | st.binary(max_size=200))
def test_any_other_file_is_read_or_refused(tmp_path: Path, text: str | bytes) -> None:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    for start in (b"", b"slide,label,mpp\n"):
        manifest = written(tmp_path, start + data)
        with contextlib.suppress(CohortError):
            found = read_manifest(manifest)
            assert found
            assert all(one.path.is_absolute() for one in found)


def test_a_name_too_long_for_the_system_is_a_slide_that_is_not_there(tmp_path: Path) -> None:
    name = "x" * 300 + ".svs"
    (slide,) = read_manifest(written(tmp_path, f"slide\n{name}\n"))
    assert slide.path == tmp_path / name
    with pytest.raises(SlideError, match=r"does not exist|too long"):
        open_slide(slide.path)


@pytest.mark.parametrize(
    "data",
    [
        "slide,label,\r\na.svs,grün,\r\n",
        "slide,label,,\r\na.svs,grün,,\r\n,,,\r\n",
        "slide,,label\r\na.svs,,grün\r\n",
        "sep=;\r\nslide;label\r\na.svs;grün\r\n",
        '"sep=|"\nslide|label\na.svs|grün\n',
        "SEP=,\nslide,label\na.svs,grün\n",
        "slide;label\r\na.svs;grün\r\n".encode("cp1252"),
        "slide\tlabel\r\na.svs\tgrün\r\n".encode("utf-16"),
        b"\xfe\xff" + "slide\tlabel\r\na.svs\tgrün\r\n".encode("utf-16-be"),
        "slide,label\na.svs,grün\n".encode("utf-16-le"),
        "\ufeffsep=;\nslide;label\na.svs;grün\n",
    ],
)
def test_what_spreadsheets_write(tmp_path: Path, data: str | bytes) -> None:
    assert read_manifest(written(tmp_path, data)) == [CohortSlide(tmp_path / "a.svs", "grün")]


@pytest.mark.parametrize("name", ["excel_one_trailing_col.csv", "excel_sep.csv"])
def test_the_lists_of_the_cases(name: str) -> None:
    path = shared(f"cases/lists/{name}")
    first = read_manifest(path)[0]
    assert (first.path, first.label, first.notes) == (path.parent / "scans" / "a.tif", "x", {})


def test_a_list_that_is_none_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    with path.open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(CohortError, match="1000 MB, which no list"):
        read_manifest(path)
