import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from napari_2dmamba.errors import CheckpointError, ExportError
from napari_2dmamba.models import (
    Aggregator,
    CheckpointHeader,
    MissingSettingsError,
    load_checkpoint,
    read_header,
    save_checkpoint,
    training_canvas,
)
from napari_2dmamba.models.header import METADATA_KEY
from napari_2dmamba.models.mamba2d import Mamba2DConfig, Mamba2DMIL
from tests.material import shared
from tests.models.golden_cases import HERE, case

CLASSES = {
    "canvas": (9, 12), "patch_size": 512, "task": "classification",
    "class_names": ("benign", "atypical", "malignant"), "encoder": "made-up",
}  # fmt: skip


def small(**changes: object) -> Aggregator:
    torch.manual_seed(0)
    config = Mamba2DConfig(6, 2, d_model=16, d_state=4)
    header = CheckpointHeader(
        architecture="2dmamba", config=dataclasses.asdict(config), task="classification",
        class_names=("normal", "tumour"), encoder="stain-texture-v1", patch_size=256, mpp=0.5,
        canvas=(3, 4), training={"auroc": 0.9}, intended_use="Trained on synthetic slides.",
    )  # fmt: skip
    return Aggregator(Mamba2DMIL(config), dataclasses.replace(header, **changes))


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    original = small()
    path = tmp_path / "m.safetensors"
    save_checkpoint(original, path)
    loaded = load_checkpoint(path)
    assert dataclasses.replace(loaded.header, created="") == original.header
    assert loaded.header.created.endswith("+00:00")
    assert loaded.config == original.config
    for key, value in original.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value)
    assert read_header(path) == loaded.header
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    assert not loaded.model.training


def test_options_of_the_model_survive(tmp_path: Path) -> None:
    original = small()
    changed = Aggregator(
        original.model.with_options(canvas_mode="slide", attention_over="tissue"), original.header
    )
    save_checkpoint(changed, tmp_path / "m.safetensors")
    config = load_checkpoint(tmp_path / "m.safetensors").config
    assert config.canvas_mode == "slide"
    assert config.attention_over == "tissue"


def test_header_is_read_without_torch(tmp_path: Path) -> None:
    save_checkpoint(small(), tmp_path / "m.safetensors")
    code = (
        "import sys; from napari_2dmamba.models import read_header, ModelSettings;"
        f"print(read_header({str(tmp_path / 'm.safetensors')!r}).class_names, ModelSettings());"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tumour" in done.stdout


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(small(), path)
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(ExportError, match="No space left"):
        save_checkpoint(small(notes="new"), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    with pytest.raises(ExportError, match="cannot be written"):
        save_checkpoint(small(), tmp_path / "no such folder" / "m.safetensors")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cls_small", "cls_small.full_model.pt"),
        ("cls_small", "cls_small.state_dict_cudarun.pt"),
        ("cls_small", "cls_small.safetensors"),
        ("surv_small", "surv_small.full_model_cudarun.pt"),
        *(
            (name, f"{name}.{kind}{run}.pt")
            for name in ("cls_small", "cls_small_init", "surv_small")
            for kind in ("full_model", "state_dict")
            for run in ("", "_cudarun")
        ),
    ],
)
def test_published_files_give_their_own_numbers(name: str, file: str) -> None:
    golden = case(name)
    path = HERE / file if (HERE / file).exists() else shared(f"golden/model2d/{file}")
    outputs = golden.settings["n_classes"]
    survival = golden.settings["survival"]
    wanted = {
        "canvas": golden.canvas,
        "patch_size": golden.patch_size,
        "task": "survival" if survival else "classification",
        "class_names": [f"outcome {k}" for k in range(outputs)],
        "encoder": "made-up",
    }
    with pytest.raises(MissingSettingsError) as missing:
        load_checkpoint(path)
    whole_model = "full_model" in file
    expected = ("class_names", "encoder") if whole_model else tuple(wanted)
    assert missing.value.missing == expected
    assert all(key in str(missing.value) for key in expected)
    aggregator = load_checkpoint(path, **{key: wanted[key] for key in missing.value.missing})
    assert aggregator.header.canvas == golden.canvas
    assert aggregator.header.patch_size == 512
    prediction = aggregator.predict(golden.bag())
    tolerance = golden.tolerance["float32"]["logits_rel_to_max"]
    if survival:
        np.testing.assert_allclose(
            prediction.hazards, golden.arrays["hazards"][0], rtol=0, atol=tolerance
        )
        np.testing.assert_allclose(
            prediction.survival, golden.arrays["S"][0], rtol=0, atol=tolerance
        )
        assert prediction.risk == pytest.approx(float(golden.arrays["risk"][0]), rel=tolerance)
        assert prediction.probabilities is None
    else:
        np.testing.assert_allclose(
            prediction.probabilities, golden.arrays["probs"][0], rtol=0, atol=tolerance
        )
        assert prediction.hazards is None
    assert prediction.top_class == int(golden.arrays["Y_hat"].item())


def test_whole_model_tells_what_training_scripts_pickled() -> None:
    header = load_checkpoint(
        HERE / "cls_small.full_model.pt", class_names=("a", "b", "c"), encoder=None
    ).header
    assert header.training["task"] == "BRACS3"
    assert header.config["dropout"] == 0.25
    assert header.encoder is None


def test_given_must_not_contradict_the_file() -> None:
    # Options that change what the weights compute no less than what is asked for
    for name, held, other in (("scan", "'2d'", "1d"), ("pad", "'trainable'", "zero")):
        with pytest.raises(CheckpointError, match=f"states {name} = {held}, and '{other}' was"):
            load_checkpoint(
                HERE / "cls_small.full_model.pt", class_names=("a", "b", "c"), encoder=None,
                **{name: other},
            )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"states patch_size = 512, and 256 was given"):
        load_checkpoint(
            HERE / "cls_small.full_model.pt",
            class_names=("a", "b", "c"),
            encoder=None,
            patch_size=256,
        )
    with pytest.raises(CheckpointError, match="colour cannot be given"):
        load_checkpoint(HERE / "cls_small.safetensors", **CLASSES, colour=1)
    with pytest.raises(CheckpointError, match="2 class names were given for a model of 3"):
        load_checkpoint(HERE / "cls_small.safetensors", **{**CLASSES, "class_names": ("a", "b")})
    with pytest.raises(CheckpointError, match="task is 'regression'"):
        load_checkpoint(HERE / "cls_small.safetensors", **{**CLASSES, "task": "regression"})


@pytest.mark.parametrize(
    ("setting", "value"),
    [("class_names", "benign"), ("class_names", [1, 2, 3]), ("patch_size", "512"),
     ("patch_size", 0), ("patch_size", True), ("mpp", -0.5), ("canvas", "9x12"),
     ("canvas", (9, 12, 1)), ("canvas", (9.5, 12)), ("canvas", (0, 12))],
)  # fmt: skip
def test_given_settings_make_sense(setting: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=setting.replace("_", "[_ ]")):
        load_checkpoint(HERE / "cls_small.safetensors", **{**CLASSES, setting: value})


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 3000), st.integers(0, 255))
def test_any_damage_to_an_own_file_is_refused_or_harmless(
    tmp_path: Path, position: int, value: int
) -> None:
    path = tmp_path / "whole.safetensors"
    if not path.exists():
        save_checkpoint(small(), path)
    content = bytearray(path.read_bytes())
    content[position] = value
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        load_checkpoint(damaged)
    with contextlib.suppress(CheckpointError):
        read_header(damaged)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    weights = load_file(HERE / "cls_small.safetensors")
    weights["norm.bias"] = torch.zeros(32, dtype=torch.int8)
    save_file(weights, tmp_path / "int8.safetensors")
    with pytest.raises(CheckpointError, match=r"'norm.bias' in torch.int8"):
        load_checkpoint(tmp_path / "int8.safetensors", **CLASSES)


def test_own_file_takes_no_settings(tmp_path: Path) -> None:
    save_checkpoint(small(), tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="states its own settings"):
        load_checkpoint(tmp_path / "m.safetensors", patch_size=512)


def test_own_canvas_needs_no_training_canvas() -> None:
    wanted = {key: value for key, value in CLASSES.items() if key != "canvas"}
    aggregator = load_checkpoint(HERE / "cls_small.safetensors", **wanted, canvas_mode="slide")
    assert aggregator.header.canvas is None


def test_nested_and_prefixed_weights(tmp_path: Path) -> None:
    weights = load_file(HERE / "cls_small.safetensors")
    path = tmp_path / "m.pt"
    torch.save({"epoch": 1, "model": {f"module.{k}": v for k, v in weights.items()}}, path)
    found = load_checkpoint(path, **CLASSES)
    assert torch.equal(found.model.state_dict()["norm.bias"], weights["norm.bias"])
    torch.save(weights, path, _use_new_zipfile_serialization=False)  # torch before 1.6
    found = load_checkpoint(path, **CLASSES)
    assert torch.equal(found.model.state_dict()["norm.bias"], weights["norm.bias"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"<html>", "is a web page"),
        (b"\x89PNG\r\n\x1a\n0000", "neither safetensors nor a file that torch.save wrote"),
        (b"PK\x03\x04 and then nothing", "damaged or cut short"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{}", "no known|of no architecture"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{]", "safetensors header cannot be read"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{", "no safetensors header"),
        (b'\x10\x00\x00\x00\x00\x00\x00\x00{"a":[1,2,3,4]} ', "header cannot be read"),
    ],
)
def test_what_is_no_checkpoint_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as error:
        load_checkpoint(path)
    assert "m.safetensors" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        load_checkpoint(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 0.999])
def test_own_file_cut_short(share: float, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(small(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    for read in (load_checkpoint, read_header):
        with pytest.raises(CheckpointError, match=r"m\.safetensors"):
            read(path)


def rewritten(path: Path, **changes: object) -> Path:
    """Save a small model under a changed header."""
    aggregator = small()
    header = json.loads(aggregator.header.to_json())
    for key, value in changes.items():
        if value is None:
            del header[key]
        else:
            header[key] = value
    tensors = {k: v.detach().clone() for k, v in aggregator.model.state_dict().items()}
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(header)})
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architecture": "resnet"}, "architecture 'resnet' is not known here"),
        ({"format": 2}, "has checkpoint format 2"),
        ({"format": None}, "damaged"),
        ({"class_names": ["one"]}, "1 class names were given for a model of 2"),
        ({"class_names": 3}, "damaged"),
        ({"canvas": [1, 2, 3]}, "damaged"),
        ({"canvas": [0, 3]}, "canvas"),
        ({"task": "both"}, "task is 'both'"),
        ({"surprise": 1}, "damaged"),
        ({"config": {"feature_size": 6, "n_outputs": 2}}, "do not fit 2DMambaMIL"),
        ({"config": {"feature_size": 6, "n_outputs": 2, "depth": 9}}, "cannot be built"),
        ({"config": {"feature_size": 6, "n_outputs": 2, "n_layers": 10**9}}, "n_layers"),
        ({"config": {"feature_size": 6, "n_outputs": 2, "d_model": 16.5}}, "d_model"),
        ({"config": {"feature_size": 10**9, "n_outputs": 2}}, "feature_size"),
    ],
)
def test_a_header_that_lies_is_refused(changes: dict, says: str, tmp_path: Path) -> None:
    path = rewritten(tmp_path / "m.safetensors", **changes)
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(path)


def test_other_architecture_and_broken_weights(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointError, match=r"no architecture known here .*conv1\.weight"):
        load_checkpoint(tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointError, match="without a napari-2dmamba header"):
        read_header(tmp_path / "resnet.safetensors")
    weights = load_file(HERE / "cls_small.safetensors")
    del weights["norm.bias"]
    save_file(weights, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=r"1 are absent \(first 'norm.bias'\)"):
        load_checkpoint(tmp_path / "part.safetensors", **CLASSES)
    weights["norm.bias"] = torch.full((32,), torch.nan)
    save_file(weights, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="not finite"):
        load_checkpoint(tmp_path / "nan.safetensors", **CLASSES)


def test_training_canvas_of_the_published_sizes() -> None:
    assert training_canvas(181272, 88334, 512) == (173, 355)  # BRACS
    assert training_canvas(96800, 47408, 512) == (93, 190)  # PANDA
    assert training_canvas(20160, 12096, 512) == (24, 40)  # DHMC


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"canvas": [float("inf"), 3]}, "canvas"),
        ({"canvas": [10**9, 3]}, "canvas"),
        ({"canvas": [-1, 3]}, "canvas"),
        ({"canvas": [1.5, 3]}, "canvas"),
        ({"patch_size": 0}, "patch size"),
        ({"patch_size": True}, "patch size"),
        ({"patch_size": 10**12}, "patch size"),
        ({"mpp": float("nan")}, "µm/px"),
        ({"mpp": float("inf")}, "µm/px"),
        ({"mpp": -0.5}, "µm/px"),
        ({"mpp": 10**400}, "µm/px"),
        ({"class_names": "ab"}, "list of names"),
        ({"class_names": ["a", 2]}, "list of names"),
        ({"class_names": ["a", "a"]}, "same name"),
        ({"config": {"feature_size": 6, "n_outputs": float("inf")}}, "n_outputs"),
        ({"config": {"feature_size": "6", "n_outputs": 2}}, "feature_size"),
        ({"config": {"feature_size": 6, "n_outputs": 2, "dropout": float("nan")}}, "dropout"),
        ({"config": {}}, "feature_size"),
        ({"encoder": "x" * 501}, "501 characters"),
        ({"notes": "x" * 200_000}, "200000 characters"),
        ({"format": "9" * 10_000}, "format"),
    ],
)
def test_absurd_numbers_in_a_header_are_refused(changes: dict, says: str, tmp_path: Path) -> None:
    path = rewritten(tmp_path / "m.safetensors", **changes)
    for read in (read_header, load_checkpoint):
        with pytest.raises(CheckpointError, match=says) as error:
            read(path)
        assert len(str(error.value)) < 600
    from napari_2dmamba.checkpoints.summary import summarise

    assert says in summarise(path).problem


def test_too_many_names_are_refused_at_once(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [], "data_offsets": [0, 0]}
    text = json.dumps({f"layer.{number}": entry for number in range(200_000)}).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match="200000 tensors"):
        load_checkpoint(path)
