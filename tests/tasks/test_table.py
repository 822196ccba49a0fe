from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_2dmamba.errors import TaskError
from napari_2dmamba.tasks import SplitSettings, Table, TableSettings, make_split, read_table
from napari_2dmamba.tasks.table import slide_name


def table(folder: Path, text: str, **settings) -> Table:
    path = folder / "t.csv"
    path.write_text(text, encoding="utf-8")
    return read_table(path, TableSettings(**settings))


def problems(found: Table) -> dict[str, int]:
    return {problem.what: problem.count for problem in found.problems}


def test_a_manifest(tmp_path: Path) -> None:
    text = "slide,patient,label,site\na.svs,p1,yes,here\nb.svs,p1,no,there\nc.svs,p2,no,there\n"
    found = table(tmp_path, text)
    assert (found.kind, found.classes, found.layout) == (
        "classification", ("no", "yes"), "manifest"
    )  # fmt: skip
    first = found.slides[0]
    assert (first.name, first.patient, first.label) == ("a", "p1", "yes")
    assert first.slide == tmp_path / "a.svs"
    assert first.notes == {"site": "here"}
    assert found.counts() == "3 slides of 2 patients: 2 'no', 1 'yes'"
    found.require_usable()


def test_published_layouts_are_told_from_their_columns(tmp_path: Path) -> None:
    survival = (
        "case_id,slide_id,survival_months,censorship,oncotree\nA,A-1.svs,3.5,0,X\nB,B-1.svs,9,1,X\n"
    )
    found = table(tmp_path, survival)
    assert (found.layout, found.kind) == ("TCGA survival", "survival")
    assert [(s.patient, s.time, s.event) for s in found.slides] == [
        ("A", 3.5, True), ("B", 9.0, False)
    ]  # fmt: skip
    clam = table(tmp_path, ",case_id,slide_id,label\n0,P,s1,tumor\n1,Q,s2,normal\n")
    assert (clam.layout, clam.classes) == ("CLAM", ("normal", "tumor"))
    panda = table(
        tmp_path, "image_id,data_provider,isup_grade,gleason_score\na,x,0,0+0\nb,x,5,5+5\n"
    )
    assert (panda.layout, panda.kind) == ("PANDA", "ordinal")
    assert panda.classes == ("0", "1", "2", "3", "4", "5")
    bracs = table(
        tmp_path,
        "WSI Filename;Patient Id;WSI label;Set\nBRACS_1;1;IC;Training\nBRACS_2;2;N;Testing\n",
    )
    assert (bracs.layout, [s.part for s in bracs.slides]) == ("BRACS", ["train", "test"])
    dhmc = table(
        tmp_path, "File Name,Class,Pathologist 1\nDHMC_1.tif,Acinar,x\nDHMC_2.tif,Solid,x\n"
    )
    assert (dhmc.layout, dhmc.slides[0].name) == ("DHMC", "DHMC_1")
    bcnb = table(tmp_path, "Patient ID,Age(years),ALN status\n1,50,N0\n2,51,N+(1-2)\n")
    assert (bcnb.layout, bcnb.slides[1].patient) == ("BCNB", "2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slide,label\na,0\nb,1\nb,1\n", {"duplicate": 1, "patient": 3}),
        ("slide,patient,label\na,p,0\nb,q,\nc,r,NA\nd,s,1\n", {"label": 2}),
        ("slide,patient,label\na,p,1\nb,q,1\n", {"one class": 2}),
        ("slide,patient,label\na,p,1\nb,p,0\n", {"contradiction": 1}),
        ("slide,patient,time,event\na,p,1,0\nb,q,2,0\n", {"censored": 2}),
        ("slide,patient,time,event\na,p,1,1\nb,p,2,0\nc,q,3,1\n", {"contradiction": 1}),
        ("slide,patient,label\na,p,\n", {"label": 1, "empty": 0}),
    ],
)
def test_problems_are_counted(tmp_path: Path, text: str, expected: dict[str, int]) -> None:
    found = problems(table(tmp_path, text))
    found.pop("rare class", None)
    assert found == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("slide,patient,label\na,p,1\nb,q,1\n", "all slides have the label '1'"),
        ("slide,patient,time,event\na,p,1,0\n", "all patients are censored"),
        ("slide,patient,time,event\na,p,1,1\na2,p,2,1\n", "different times"),
    ],
)
def test_what_cannot_be_learnt_stops(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(TaskError, match=says):
        table(tmp_path, text).require_usable()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("slide,label\n", "has no row"),
        ("slide,label\na,1,2\n", "line 2: 3 cells"),
        ("name,answer\na,1\n", "no layout known here"),
        ("slide,slide,label\na,b,1\n", "two columns of one name"),
        ("slide,label\na,1\na,0\n", "twice with different answers"),
        ("slide,time,event\na,soon,1\n", "the time is 'soon'"),
        ("slide,time,event\na,-1,1\n", "the time is '-1'"),
        ("slide,time,event\na,1,maybe\n", "'maybe'"),
        ("slide,label,fold\na,1,x\n", "the fold is 'x'"),
        ("slide,label,split\na,1,x\n", "the split is 'x'"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(TaskError, match=says):
        table(tmp_path, text)


def test_label_column_and_kind_can_be_named(tmp_path: Path) -> None:
    text = "slide,case,grade,ignored\na,p,2.0,x\nb,q,0,x\n"
    found = table(tmp_path, text, label_column="grade", kind="ordinal")
    assert (found.kind, found.classes) == ("ordinal", ("0", "1", "2"))
    assert found.slides[0].patient == "p"
    with pytest.raises(TaskError, match="no column 'colour'"):
        table(tmp_path, text, label_column="colour")
    with pytest.raises(TaskError, match="survival needs"):
        table(tmp_path, text, label_column="grade", kind="survival")


def test_feature_files_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "uni"
    (folder / "h5_files").mkdir(parents=True)
    (folder / "h5_files" / "a.h5").touch()
    (tmp_path / "b.h5").touch()
    found = table(tmp_path, "slide,label\na.svs,0\nb.h5,1\nc.svs,1\n", features=str(folder))
    assert [s.features for s in found.slides] == [
        folder / "h5_files" / "a.h5", tmp_path / "b.h5", None
    ]  # fmt: skip


def test_names_of_slides() -> None:
    assert slide_name("x/y/TCGA-1.2.svs") == "TCGA-1.2"
    assert slide_name("C:\\z\\a.ome.tiff").startswith("a")
    assert slide_name("TCGA-AA-1.0123") == "TCGA-AA-1.0123"


@settings(deadline=None, max_examples=60)
@given(st.text("slide,ptnab01\n;\t\"' \u00e9", max_size=120))
def test_any_text_is_a_table_or_a_sentence(tmp_path_factory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text("slide,patient,label\n" + text, encoding="utf-8")
    try:
        found = read_table(path)
    except TaskError as error:
        assert len(str(error)) > 20  # noqa: PT017
    else:
        assert len({slide.name for slide in found.slides}) == len(found)


@pytest.mark.parametrize("other", ["P1", " p1", "p 1", "p1 "])
def test_a_patient_written_in_two_ways_stays_on_one_side(tmp_path: Path, other: str) -> None:
    lines = [f"s{n},{'p1' if n % 2 else other},{n % 3 % 2}" for n in range(6)]
    lines += [f"t{n},q{n},{n % 2}" for n in range(8)]
    found = table(tmp_path, "slide,patient,label\n" + "\n".join(lines) + "\n")
    assert len(found.patients) == 9
    if other.strip() != "p1":
        assert problems(found)["spelling"] == 1
    for fold in make_split(found, SplitSettings(folds=3)).folds:
        parts = [{name[0] for name in part if name[0] == "s"} for part in (fold.train, fold.test)]
        assert parts.count({"s"}) <= 1


def test_patients_as_spreadsheets_write_numbers(tmp_path: Path) -> None:
    found = table(tmp_path, "slide,patient,label\na,12,x\nb,12.0,x\nc,013,y\nd,nan,y\n")
    assert len(found.patients) == 3
    assert problems(found)["patient"] == 1  # nan is nobody's name


@pytest.mark.parametrize(("one", "two"), [("Tumor", "tumor"), ("IDC ", "I DC"), ("1", "01")])
def test_labels_that_differ_in_spelling_only_stop(tmp_path: Path, one: str, two: str) -> None:
    found = table(tmp_path, f"slide,label\na,{one}\nb,{two}\nc,other\nd,other\n")
    with pytest.raises(TaskError, match="differ in case, spaces or zeros"):
        found.require_usable()


@pytest.mark.parametrize(
    ("yes", "no"),
    [("dead", "alive"), ("1:DECEASED", "0:LIVING"), ("Deceased", "Living"), ("1.0", "0.0")],
)
def test_events_in_words(tmp_path: Path, yes: str, no: str) -> None:
    found = table(tmp_path, f"slide,time,event\na,1,{yes}\nb,2,{no}\n")
    assert [slide.event for slide in found.slides] == [True, False]


def test_words_in_a_column_of_censoring_are_not_guessed(tmp_path: Path) -> None:
    head = "case_id,slide_id,survival_months,censorship\n"
    with pytest.raises(TaskError, match="row 2: whether the event was seen is 'dead'"):
        table(tmp_path, f"{head}A,a,1,dead\n")


@pytest.mark.parametrize("time", ["-1", "inf", "1,5", "-0.001"])
def test_times_that_are_none(tmp_path: Path, time: str) -> None:
    with pytest.raises(TaskError, match="must be a number from 0 on"):
        table(tmp_path, f"slide;time;event\na;{time};1\n")


def test_a_time_that_is_absent_leaves_the_slide_out_by_name(tmp_path: Path) -> None:
    found = table(tmp_path, "slide,time,event\na,NaN,1\nb,2,1\nc,,0\nd,3,0\n")
    assert problems(found)["label"] == 2


@pytest.mark.parametrize("fold", ["1.5", "inf", "-1", "one"])
def test_folds_are_whole_numbers(tmp_path: Path, fold: str) -> None:
    with pytest.raises(TaskError, match=f"the fold is '{fold}'"):
        table(tmp_path, f"slide,label,fold\na,x,0\nb,y,{fold}\n")


def test_a_slide_in_two_folds_is_refused_and_a_second_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="twice with different answers"):
        table(tmp_path, "slide,label,fold\na,x,0\na,x,1\nb,y,1\n")
    found = table(tmp_path, "slide,label,fold,split\na,x,0,train\nb,y,1,test\nc,x,2,train\n")
    assert problems(found)["two splits"] == 3
    half = table(tmp_path, "slide,patient,label,fold\na,p,x,0\nb,q,y,\nc,r,x,1\nd,s,y,1\n")
    with pytest.raises(TaskError, match="1 slides have no fold"):
        make_split(half, SplitSettings())


def test_figures_that_are_no_numbers_are_words(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("slide,patient,label\na,p,²\nb,q,1\nc,r,²\nd,s,1\n")
    assert read_table(tmp_path / "t.csv").classes == ("1", "²")


def test_a_table_of_two_tasks_says_which_is_learnt(tmp_path: Path) -> None:
    text = "slide,patient,time,event,label\na,p,1,1,x\nb,q,2,0,y\n"
    found = table(tmp_path, text)
    assert found.kind == "classification"
    assert problems(found)["two tasks"] == 2
    assert "two tasks" not in problems(table(tmp_path, text, kind="survival"))
    assert "two tasks" not in problems(table(tmp_path, text, kind="classification"))


def test_event_and_censored_must_not_contradict(tmp_path: Path) -> None:
    good = "slide,patient,time,event,censored\na,p,1,1,0\nb,q,2,0,1\nc,r,3,dead,\n"
    assert [slide.event for slide in table(tmp_path, good).slides] == [True, False, True]
    for event, censored in (("1", "1"), ("0", "0"), ("dead", "true")):
        bad = f"slide,patient,time,event,censored\na,p,1,{event},{censored}\n"
        with pytest.raises(TaskError, match=r"row 2: event is .* which contradict each other"):
            table(tmp_path, bad)
