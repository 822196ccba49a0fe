import json
from pathlib import Path

import pytest

from napari_2dmamba.cli import main
from napari_2dmamba.cli.exit_codes import FAILED, OK
from napari_2dmamba.explain.maps import MAPS
from napari_2dmamba.sample import demo_rivals, sample_slide
from tests.tiny import write_checkpoint, write_slide


def test_two_demo_models_on_the_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    abmil, mamba = demo_rivals()[0], demo_rivals()[-1]
    figure = tmp_path / "figure.svg"
    arguments = [
        "compare", str(sample_slide()), "--model", str(abmil), "--model", f"{mamba}=the paper's",
        "--out", str(tmp_path / "out"), "--figure", str(figure), "--difference", "1,2",
        "--zoom", "1300,1900,300,250", "--dpi", "60", "--json",
    ]  # fmt: skip
    assert main(arguments) == OK
    answer = json.loads(capsys.readouterr().out)
    assert [model["label"] for model in answer["models"]] == ["ABMIL", "the paper's"]
    for model in answer["models"]:
        assert model["result"]["probabilities"][1] > 0.9
        assert "Not for any medical use" in model["model"]["header"]["intended_use"]
    assert answer["agreement"][0]["spearman"] > 0.3
    assert all(Path(file).stat().st_size > 100 for file in answer["files"])
    drawing = figure.read_text()
    for words in ("ABMIL", "the paper's", "ABMIL − the paper's", "Region 1", "synthetic"):
        assert words in drawing


def test_tables_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    abmil = demo_rivals()[0]
    arguments = ["compare", str(sample_slide()), "--model", str(abmil), "--maps",
                 "score,gradient-x-input"]  # fmt: skip
    assert main(arguments) == OK
    said = capsys.readouterr().out
    assert "tumour (synthetic) >99.9 %" in said
    assert "ABMIL: gradient-x-input" in said
    assert "Not for any medical use" in said


def test_models_that_do_not_belong_together_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_checkpoint(tmp_path / "other.safetensors")  # of patches of 64 px
    demo = demo_rivals()[0]
    assert main(["compare", str(sample_slide()), "--model", str(demo), "--model", str(other)]) == (
        FAILED
    )
    assert capsys.readouterr().err == (
        "napari-2dmamba: 2DMambaMIL was trained with patch size 64 px, and ABMIL with 256 px, so "
        "they cannot run on the same patches; compare models that were trained on the same "
        "features\n"
    )


def test_seeds_of_one_model_are_an_ensemble(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = write_slide(tmp_path / "tiny.tif")
    seeds = [write_checkpoint(tmp_path / f"{n}.safetensors", seed=n) for n in range(2)]
    figure = tmp_path / "figure.svg"
    arguments = ["compare", str(slide), "--ensemble", "--figure", str(figure), "--dpi", "60"]
    for seed in seeds:
        arguments += ["--model", str(seed)]
    assert main(arguments) == OK
    drawing = figure.read_text()
    assert "ensemble mean" in drawing
    assert "ensemble spread" in drawing
    assert "2DMambaMIL (0)" in capsys.readouterr().out


def test_maps_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--maps", "list"]) == OK
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["score", *MAPS]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["slide.svs"], "give the models with --model, or --demo"),
        (["--model", "a.safetensors"], "give a slide, or --demo for the sample slide"),
        (["slide.svs", "--demo", "--zoom", "1,2"], "--zoom takes 4 numbers with commas, not '1,2'"),
        (["--demo", "--difference", "1,9"], "--difference takes two numbers from 1 to 6"),
    ],
)
def test_what_is_wrong_with_a_command(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["compare", *arguments])
    assert end.value.code == 2
    assert words in capsys.readouterr().err
