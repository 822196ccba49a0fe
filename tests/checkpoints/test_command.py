import json
from pathlib import Path

import numpy as np
import pytest

from napari_2dmamba.checkpoints.library import FOLDER_VARIABLE, CheckpointLibrary
from napari_2dmamba.cli import main
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.features.files import write_features
from napari_2dmamba.sample import demo_checkpoints, sample_slide
from tests.checkpoints.material import BAD, GOOD, mixed_folder, own


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointLibrary:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "list"))
    return CheckpointLibrary()


def listed(capsys: pytest.CaptureFixture, *arguments: object, exit_code: int = 0) -> list[dict]:
    assert main(["checkpoints", *map(str, arguments), "--json"]) == exit_code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_without_names_it_is_the_list_of_the_widget(tmp_path, capsys, library) -> None:
    path = own(tmp_path / "models" / "a.safetensors")
    library.add(path.parent)
    library.set_note(str(path), "the good one")
    rows = listed(capsys)
    assert {row["location"] for row in rows} == {str(path), *map(str, demo_checkpoints())}
    assert [row["note"] for row in rows if row["location"] == str(path)] == ["the good one"]
    library.remove(str(path))
    assert len(listed(capsys)) == len(demo_checkpoints())


def test_a_folder_as_table_and_as_json(tmp_path: Path, capsys) -> None:
    folder = mixed_folder(tmp_path / "models")
    rows = listed(capsys, folder, "--sort", "size", "--reverse")
    assert len(rows) == len(GOOD) + len(BAD)
    sizes = [row["size"] for row in rows if row["size"]]
    assert sizes == sorted(sizes, reverse=True)
    assert main(["checkpoints", str(folder)]) == 0
    table, _, problems = capsys.readouterr().out.partition("6 cannot be used:")
    for name in GOOD:
        assert name in table
    for name, says in BAD.items():
        assert name not in table
        assert f"{name}: " in problems
        assert says in problems


def test_held_against_features(tmp_path: Path, capsys) -> None:
    own(tmp_path / "m" / "same.safetensors")
    own(tmp_path / "m" / "other.safetensors", patch_size=512)
    bag = FeatureBag(
        np.zeros((3, 6), np.float32), np.zeros((3, 2), np.int64), 512, 256, 0.5, 0.25,
        "stain-texture-v1",
    )  # fmt: skip
    features = write_features(bag, tmp_path / "f.h5")
    fits = {
        Path(row["location"]).name: row["fit"]
        for row in listed(capsys, tmp_path / "m", "--for", features)
    }
    assert fits["same.safetensors"]["state"] == "fits"
    assert fits["other.safetensors"]["state"] == "does not fit"
    assert "patch size 512 px" in fits["other.safetensors"]["sentence"]
    assert main(["checkpoints", str(tmp_path / "m"), "--for", str(features)]) == 0
    assert "Held against the features of f.h5 (stain-texture-v1, 6 features" in (
        capsys.readouterr().out
    )


def test_held_against_a_slide(capsys) -> None:
    rows = listed(capsys, *demo_checkpoints(), "--for", sample_slide())
    assert [row["fit"]["state"] for row in rows] == ["needs extraction"] * len(rows)


def test_mistakes(tmp_path: Path, capsys) -> None:
    assert "No such file" in listed(capsys, tmp_path / "gone", exit_code=1)[0]["problem"]
    with pytest.raises(SystemExit):
        main(["checkpoints", "--sort", "colour"])
    assert "no column is called 'colour'" in capsys.readouterr().err
    assert main(["checkpoints", "hub:nobody"]) == 1
    assert "no name of a Hugging Face repository" in capsys.readouterr().err
    (tmp_path / "list").mkdir(exist_ok=True)
    (tmp_path / "list" / "checkpoints.json").write_text("{")
    assert main(["checkpoints"]) == 1  # the demo checkpoints are listed nevertheless
    told = capsys.readouterr()
    assert "demo-2dmamba.safetensors" in told.out
    assert "is damaged" in told.err
    (tmp_path / "empty").mkdir()
    assert main(["checkpoints", str(tmp_path / "empty")]) == 0
    assert "no checkpoints were found" in capsys.readouterr().out


def test_the_architectures_with_the_meaning_of_their_scores(capsys) -> None:
    assert main(["checkpoints", "--architectures"]) == 0
    out = capsys.readouterr().out
    assert "TransMIL" in out
    assert "attention of the class token" in out
