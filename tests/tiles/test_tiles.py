"""Tile classifiers: learnt on real images, saved, resumed, opened by timm, used on a slide."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from napari_2dmamba.cli import main
from napari_2dmamba.errors import Cancelled, CheckpointError, FeatureError
from napari_2dmamba.features import load_encoder
from napari_2dmamba.features.transform import Transform
from napari_2dmamba.sample import sample_slide
from napari_2dmamba.slide import GridSettings, PatchGrid, open_slide
from napari_2dmamba.tile_exports import write_tile_maps
from napari_2dmamba.tiles.classifier import TileClassifier
from napari_2dmamba.tiles.evaluation import Evaluation, evaluate
from napari_2dmamba.tiles.facts import read_facts
from napari_2dmamba.tiles.fitting import fit_tiles
from napari_2dmamba.tiles.folder import TileFolder
from napari_2dmamba.tiles.on_slide import classify_slide
from napari_2dmamba.tiles.settings import TileTraining
from napari_2dmamba.vision.class_facts import stated_mpp
from napari_2dmamba.vision.segmentation import segment
from napari_2dmamba.vision.segmenter_file import TrainedSegmenter
from tests.features.networks import require_timm

SIZES = {"depths": [1, 1], "dims": 24, "drop_path_rate": 0.0}
SMALL = {"depths": [1], "dims": 8, "drop_path_rate": 0.0}


@pytest.fixture(autouse=True)
def needs_timm() -> None:
    require_timm()


def painted(
    folder: Path, per_class: int = 4, classes: tuple[str, ...] = ("dark", "light"), side: int = 16
) -> Path:
    draw = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = draw.integers(75 * number, 75 * number + 60, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def test_handwritten_digits_are_learnt(tmp_path: Path) -> None:
    """1,797 real scans of scikit-learn; a quarter is held back. Guessing finds a tenth."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    for i, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = tmp_path / ("validation" if i % 4 == 3 else "training") / str(digit)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15.9).astype(np.uint8)).save(folder / f"{i}.png")
    torch.set_num_threads(1)
    settings = TileTraining(
        input_size=32, epochs=5, batch_size=32, learning_rate=4e-3, augmentation="none",
        device="cpu",
    )  # fmt: skip
    validation = TileFolder(tmp_path / "validation")
    classifier = fit_tiles(
        TileFolder(tmp_path / "training"), tmp_path / "out", settings,
        validation=validation, arguments=SIZES,
    )  # fmt: skip
    scores = evaluate(classifier, validation, device="cpu").summary()
    assert scores["top1"] > 0.92
    assert scores["balanced_accuracy"] == pytest.approx(classifier.training["balanced_accuracy"])

    # What was written is an encoder, and a model of timm's
    import timm

    encoder = load_encoder(f"timm:local-dir:{tmp_path / 'out'}", device="cpu", offline=True)
    assert encoder.feature_size == 48
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    image = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(theirs(image), classifier.network(image))


def test_a_stopped_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    tiles = painted(tmp_path / "tiles")
    settings = TileTraining(
        input_size=16, epochs=3, batch_size=2, held_back=0.25, device="cpu", warmup_epochs=0
    )
    whole = fit_tiles(TileFolder(tiles), tmp_path / "whole", settings, arguments=SMALL)
    calls = iter([False] * 6 + [True] * 9)
    with pytest.raises(Cancelled):
        fit_tiles(
            TileFolder(tiles), tmp_path / "parts", settings, arguments=SMALL,
            should_stop=lambda: next(calls),
        )  # fmt: skip
    with (tmp_path / "parts" / "training.csv").open() as file:
        assert 1 <= len(list(csv.reader(file))) - 1 < 3
    again = fit_tiles(TileFolder(tiles), tmp_path / "parts", settings, arguments=SMALL)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
    with pytest.raises(CheckpointError, match="other settings"):
        fit_tiles(
            TileFolder(tiles), tmp_path / "parts", TileTraining(input_size=24, device="cpu"),
            arguments=SMALL,
        )  # fmt: skip


def test_other_images_in_the_same_number_are_another_training(tmp_path: Path) -> None:
    tiles = painted(tmp_path / "tiles")
    settings = TileTraining(input_size=16, epochs=1, held_back=0.25, device="cpu")
    fit_tiles(TileFolder(tiles), tmp_path / "out", settings, arguments=SMALL)
    Image.new("RGB", (16, 16)).save(tiles / "dark" / "new.png")
    (tiles / "dark" / "0.png").unlink()
    with pytest.raises(CheckpointError, match="other settings, classes or tiles"):
        fit_tiles(TileFolder(tiles), tmp_path / "out", settings, arguments=SMALL)


def test_tiles_are_of_the_classes_of_the_classifier(tmp_path: Path) -> None:
    """A folder without the first class counts the others from 0, and so would be scored wrong."""
    tiles = TileFolder(painted(tmp_path / "a", classes=("dark", "grey", "light")))
    less = painted(tmp_path / "b", classes=("grey", "light"))
    settings = TileTraining(input_size=16, epochs=1, held_back=0.25, device="cpu")
    with pytest.raises(FeatureError, match="open it with these, in this order"):
        fit_tiles(tiles, tmp_path / "out", settings, validation=TileFolder(less), arguments=SMALL)
    found = fit_tiles(
        tiles, tmp_path / "out", settings, validation=TileFolder(less, tiles.classes),
        arguments=SMALL,
    )  # fmt: skip
    with pytest.raises(FeatureError, match="classifier's are dark, grey, light"):
        evaluate(found, TileFolder(less), device="cpu")
    again = TileFolder(less, tiles.classes)
    assert evaluate(found, again, device="cpu").labels.tolist() == [1] * 4 + [2] * 4
    assert again.transform is None


def test_what_a_classifier_keeps_of_its_tiles(tmp_path: Path) -> None:
    """The network sees 16 px; patches on a slide are as wide as the tiles were, in every form."""
    tiles = TileFolder(painted(tmp_path / "a", side=24))
    settings = TileTraining(input_size=16, epochs=1, tile_mpp=0.5, device="cpu")
    out = tmp_path / "out"
    found = fit_tiles(tiles, out, settings, validation=tiles, arguments=SMALL)
    assert (found.patch_size, TileClassifier.load(out).patch_size) == (24, 24)
    facts = read_facts(out)
    assert GridSettings().trained_for(facts) == GridSettings(patch_size=24, target_mpp=0.5)
    (remark,) = found.training["remarks"]
    assert remark.startswith("8 of 8 validation tiles (first 0.png) are in the training too")
    Image.new("RGB", (30, 24)).save(tmp_path / "a" / "dark" / "wide.png")
    assert TileFolder(tmp_path / "a").tile_size() is None
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"tile_size": None}))
    assert (TileClassifier.load(out).patch_size, read_facts(out).patch_size) == (None, 16)
    (out / "config.json").write_text(json.dumps(config | {"tile_size": "24"}))
    for read in (TileClassifier.load, read_facts):
        with pytest.raises(CheckpointError, match="no classifier"):
            read(out)


def test_a_loss_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    settings = TileTraining(input_size=16, epochs=2, learning_rate=1e30, device="cpu")
    with pytest.raises(FeatureError, match=r"not a number|not numbers"):
        fit_tiles(
            TileFolder(painted(tmp_path / "t", 20)), tmp_path / "o", settings, arguments=SMALL
        )


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="no folder"):
        TileFolder(tmp_path / "absent")
    with pytest.raises(FeatureError, match="no images"):
        TileFolder(tmp_path)
    tiles = painted(tmp_path / "tiles")
    with pytest.raises(FeatureError, match="'dark', which is no class"):
        TileFolder(tiles, ("light",))
    (tiles / "light" / "broken.png").write_bytes(b"no image")
    with pytest.raises(FeatureError, match=r"broken\.png cannot be decoded"):
        TileFolder(tiles).image(8)
    (tiles / "empty").mkdir()
    with pytest.raises(FeatureError, match="'empty'"):
        TileFolder(tiles)
    only = painted(tmp_path / "one", 1)
    with pytest.raises(FeatureError, match="too few"):
        TileFolder(only).split(0.2, 0)


def test_a_part_of_each_class_is_held_back(tmp_path: Path) -> None:
    tiles = TileFolder(painted(tmp_path, 10, ("a", "b", "c")))
    kept, held = tiles.split(0.2, 0)
    assert sorted(held.labels) == [0, 0, 1, 1, 2, 2]
    assert not set(kept.files) & set(held.files)
    assert len(kept) + len(held) == 30


def test_ties_count_with_their_chance() -> None:
    found = Evaluation(
        np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [1 / 3] * 3], np.float32),
        np.array([0, 0, 1]),
        ("a", "b", "c"),
    )
    assert found.top(1) == pytest.approx((0.5 + 0 + 1 / 3) / 3)
    assert found.top(3) == 1
    assert found.confusion().tolist() == [[1, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_imagenet_evaluation_with_published_weights(tmp_path: Path, capsys) -> None:
    """The usual folder layout, and weights of another classifier's number of classes."""
    from napari_2dmamba.vision.backbone import VisionMamba

    torch.save({"model": VisionMamba(num_classes=2).state_dict()}, tmp_path / "w.pth")
    tiles = painted(tmp_path / "tiles", 1, ("n01440764", "n01443537"))
    command = ["tiles", "evaluate", str(tiles), "--model", "vmamba2d_tiny", "--device", "cpu",
               "--json", "--weights"]  # fmt: skip
    assert main([*command, str(tmp_path / "w.pth")]) == 0
    assert json.loads(capsys.readouterr().out)["tiles"] == 2


def test_what_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is not there"):
        TileClassifier.load(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "test_resnet"}')
    with pytest.raises(CheckpointError, match="names no classes"):
        TileClassifier.load(tmp_path)
    elsewhere = {"architecture": "test_resnet", "model_args": {"checkpoint_path": "/other.pth"}}
    (tmp_path / "config.json").write_text(json.dumps(elsewhere))
    with pytest.raises(FeatureError, match="load other files"):
        TileClassifier.load(tmp_path)
    cfg = {"input_size": [3, 16, 16], "mean": [0, 0, 0], "std": [1, 1, 1]}
    config = {"architecture": "test_resnet", "label_names": ["a"], "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(FeatureError, match="do not fit"):
        TileClassifier.load(tmp_path)


class Redness(nn.Module):
    """Logits that are the mean red and the mean blue of a tile."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(10.0))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((2, 3))[:, [0, 2]] * self.gain


def test_on_a_slide_every_probability_lies_on_its_patch(tmp_path: Path) -> None:
    pixels = np.full((192, 256, 3), 245, np.uint8)
    pixels[64:192, 64:192] = (200, 60, 120)  # 2 x 2 patches of 64, red
    pixels[64:128, 128:192] = (90, 60, 190)  # one of them blue
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb",
                     resolution=(20000, 20000), resolutionunit="CENTIMETER")  # fmt: skip
    classifier = TileClassifier(
        Redness(), "", {}, ("red", "blue"), Transform(64, (0, 0, 0), (1, 1, 1)), mpp=0.5
    )
    with open_slide(path) as slide:
        corners = np.array([[64, 64], [128, 64], [64, 128], [128, 128]])
        grid = PatchGrid(64, 64, 0.5, 0.5, (3, 4), corners, np.ones(4, np.float32))
        found = classify_slide(slide, grid, classifier, cache=tmp_path / "cache")
        written = write_tile_maps(found, tmp_path / "out", slide)
        coarse = replace(grid, patch_size=32, mpp=1.0)
        with pytest.raises(FeatureError, match=r"trained on tiles of 0\.5"):
            classify_slide(slide, coarse, classifier)
    assert found.answers().tolist() == [[1, 2], [1, 1]]
    assert found.maps[0].origin == (64, 64)
    blue = np.exp(190 / 25.5) / (np.exp(190 / 25.5) + np.exp(90 / 25.5))
    assert found.maps[1].values[0, 1] == pytest.approx(blue, rel=1e-4)
    np.testing.assert_allclose(found.maps[0].values + found.maps[1].values, 1, rtol=1e-6)
    rows = list(csv.DictReader((tmp_path / "out" / "probabilities.csv").open()))
    at = {(int(r["x_level0_px"]), int(r["y_level0_px"])): r["class"] for r in rows}
    assert at == {(64, 64): "red", (128, 64): "blue", (64, 128): "red", (128, 128): "red"}
    outlines = json.loads((tmp_path / "out" / "classes.geojson").read_text())["features"]
    assert sorted(f["properties"]["classification"]["name"] for f in outlines) == ["blue", "red"]
    assert all(p.is_file() for p in written)


def test_features_kept_of_one_network_are_not_those_of_another_with_its_weights(
    tmp_path: Path,
) -> None:
    """VMamba's two scans take the same weights: what was kept for one is not the other's."""
    from napari_2dmamba.features.timm_encoder import create

    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (64, 128, 3), np.uint8)
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(64, 64), photometric="rgb")
    torch.manual_seed(0)
    arguments = SMALL | {"num_classes": 2}
    network = create("vmamba2d_tiny", **arguments).eval()
    for parameter in network.parameters():  # so that the scan has a say
        parameter.data += 0.3 * torch.randn_like(parameter)
    made = TileClassifier(
        network, "vmamba2d_tiny", arguments, ("a", "b"),
        Transform(32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
    )  # fmt: skip
    folder = made.save(tmp_path / "classifier")
    grid = PatchGrid(64, 64, None, None, (1, 2), np.array([[0, 0], [64, 0]]), np.ones(2, "f4"))
    identities, found = [], []
    with open_slide(tmp_path / "slide.tif") as slide:
        for name in ("vmamba2d_tiny", "vmamba_tiny"):
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"architecture": name}))
            loaded = TileClassifier.load(folder)
            kept = classify_slide(slide, grid, loaded, cache=tmp_path / "cache")
            np.testing.assert_array_equal(
                kept.probabilities, classify_slide(slide, grid, loaded).probabilities
            )
            found.append(kept.probabilities)
            encoder = load_encoder(f"timm:local-dir:{folder}", device="cpu", offline=True)
            identities.append(encoder.identity)
    assert (found[0] != found[1]).any()
    assert identities[0] != identities[1]


def test_train_and_classify_on_the_command_line(tmp_path: Path, capsys) -> None:
    tiles, out = painted(tmp_path / "tiles", side=1024), tmp_path / "out"
    train = ["tiles", "train", str(tiles), "--out", str(out), "--input-size", "16", "--epochs", "1",
             "--device", "cpu", "--model-arg", "depths=[1]", "--model-arg", "dims=8",
             "--json"]  # fmt: skip
    assert main(train) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["classes"] == ["dark", "light"]
    assert "tiles of one slide may be on both sides" in said["warnings"][0]
    use = ["tiles", "classify", str(sample_slide()), "--classifier", str(out), "--out",
           str(tmp_path / "maps"), "--device", "cpu", "--json"]  # fmt: skip
    assert main(use) == 0
    answer = json.loads(capsys.readouterr().out)
    assert 16 <= answer["patches"] <= 63  # of 1024 px, as the tiles
    assert len(answer["files"]) == 4
    assert sum(answer["patches_of_class"].values()) == pytest.approx(1)
    assert main([*use, "--patch-size", "512"]) == 1
    assert "trained on tiles of 1024 px, but the patches have 512 px" in capsys.readouterr().err
    assert main([*use[:3], "--classifier", str(tmp_path)]) == 1
    assert "no classifier" in capsys.readouterr().err


@pytest.mark.parametrize(("classes", "says"), [(("tumour",), "100 %"), (("a", "a"), "called 'a'")])
def test_classes_whose_probabilities_mean_nothing_are_refused(
    classes: tuple[str, ...], says: str
) -> None:
    with pytest.raises(CheckpointError, match=says):
        TileClassifier(Redness(), "", {}, classes, Transform(64, (0, 0, 0), (1, 1, 1)))
    with pytest.raises(CheckpointError, match=says):
        TrainedSegmenter(Redness(), classes)
    with pytest.raises(CheckpointError, match=says):
        segment(Redness(), None, classes, normalise=lambda pixels: pixels)


@pytest.mark.parametrize("mpp", [float("nan"), float("inf"), 0, -1, "0.5", True, [1]])
def test_a_resolution_that_is_none_is_no_resolution(mpp: object) -> None:
    assert (stated_mpp(None), stated_mpp(0.5)) == (None, 0.5)
    with pytest.raises(ValueError, match="mpp is"):
        stated_mpp(mpp)
