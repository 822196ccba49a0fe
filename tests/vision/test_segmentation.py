"""Segmenters: the head against mmsegmentation's numbers, windows against the whole, training."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from shapely.geometry import shape
from torch import nn

from napari_2dmamba.cli import main
from napari_2dmamba.errors import Cancelled, CheckpointError, FeatureError, SlideError
from napari_2dmamba.segment_slide import segment_slide
from napari_2dmamba.slide import open_slide
from napari_2dmamba.vision.backbone import VisionMamba
from napari_2dmamba.vision.mask_folder import MaskFolder
from napari_2dmamba.vision.region import ArrayPicture
from napari_2dmamba.vision.segment_evaluation import iou
from napari_2dmamba.vision.segment_settings import SegmentTraining, WindowSettings
from napari_2dmamba.vision.segment_training import fit_segmenter
from napari_2dmamba.vision.segmentation import normaliser, segment
from napari_2dmamba.vision.segmenter_file import TrainedSegmenter
from napari_2dmamba.vision.upernet import Segmenter, load_segmenter

GOLDEN = Path(__file__).parent / "golden" / "upernet_mmsegmentation.npz"
PLAIN = normaliser((0, 0, 0), (1, 1, 1))


def segmenter(**arguments) -> Segmenter:
    torch.manual_seed(0)
    backbone = VisionMamba(depths=(1, 1, 1, 1), dims=8, num_classes=0, drop_path_rate=0.0)
    return Segmenter(backbone, **{"num_classes": 5, "channels": 12, "auxiliary_channels": 6,
                                  **arguments})  # fmt: skip


def test_both_heads_give_the_numbers_of_mmsegmentation() -> None:
    """Made with mmsegmentation 1.2.2 in float64; weights and maps are whole 64ths."""
    stored = np.load(GOLDEN)
    network = segmenter().double().eval()
    for name in ("decode_head", "auxiliary_head"):
        state = {
            k.removeprefix(f"{name}."): torch.from_numpy(stored[k]).double() / 64
            for k in stored.files
            if k.startswith(f"{name}.")
        }
        loaded = getattr(network, name).load_state_dict(state, strict=False)
        assert not loaded.unexpected_keys
        assert all(k.endswith("num_batches_tracked") for k in loaded.missing_keys)
    stages = [torch.from_numpy(stored[f"f{i}"]).double() / 64 for i in range(4)]
    with torch.inference_mode():
        logits, auxiliary = network.decode_head(stages), network.auxiliary_head(stages[2])
    np.testing.assert_allclose(logits.numpy(), stored["logits"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(auxiliary.numpy(), stored["auxiliary"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("auxiliary", [6, 0])
def test_a_checkpoint_of_mmsegmentation_loads(tmp_path: Path, auxiliary: int) -> None:
    made = segmenter(auxiliary_channels=auxiliary).eval()
    assert {"backbone.outnorm3.weight", "decode_head.psp_modules.3.1.bn.running_var",
            "decode_head.lateral_convs.2.conv.weight"} <= made.state_dict().keys()  # fmt: skip
    path = tmp_path / "iter_160000.pth"
    state = {**made.state_dict(), "data_preprocessor.mean": torch.zeros(3, 1, 1)}
    torch.save({"meta": {}, "state_dict": state}, path)
    image = torch.randn(1, 3, 50, 70)
    with torch.inference_mode():
        found = load_segmenter(path, "2d")(image)
        assert torch.equal(found, made(image))
    assert found.shape == (1, 5, 50, 70)
    torch.save(made.backbone.state_dict(), path)
    with pytest.raises(CheckpointError, match="no UPerNet"):
        load_segmenter(path, "2d")


class Local(nn.Module):
    """Three classes from 9 x 9 pixels: what windows can give exactly, away from their edges."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 9, padding=4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.conv(pixels) * 20


def random_pixels(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(150, 203), (64, 64), (65, 300)])
def test_windows_are_the_whole_away_from_their_edges(height: int, width: int) -> None:
    network, pixels = Local().eval(), random_pixels(height, width)
    windows = WindowSettings(64, 0.25, batch_size=3)
    found = segment(network, ArrayPicture(pixels), "abc", windows, normalise=PLAIN)
    with torch.inference_mode():
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        whole = network(PLAIN(image)).softmax(1)[0].numpy()
    stride = 48

    def far(length: int) -> np.ndarray:
        """Pixels that every window over them sees with all their neighbours."""
        starts = [*range(0, length - 64, stride), length - 64]
        at = np.arange(length)
        good = np.ones(length, bool)
        for start in starts:
            near_left = (at >= start) & (at < start + 4) & (start > 0)
            near_right = (at < start + 64) & (at >= start + 60) & (start + 64 < length)
            good &= ~(near_left | near_right)
        return good

    good = far(height)[:, None] & far(width)[None]
    assert good.mean() > 0.5
    np.testing.assert_array_equal(found.labels[good], whole.argmax(0)[good] + 1)
    np.testing.assert_allclose(found.certainty[good] / 255, whole.max(0)[good], atol=1 / 255)


def test_blocks_and_batches_change_nothing(tmp_path: Path) -> None:
    network, pixels = Local().eval(), random_pixels(500, 700)
    one = segment(network, ArrayPicture(pixels), "abc", WindowSettings(64), normalise=PLAIN)
    small = WindowSettings(64, memory=1, batch_size=5)
    many = segment(
        network, ArrayPicture(pixels), "abc", small, normalise=PLAIN, out=tmp_path / "out"
    )
    np.testing.assert_array_equal(one.labels, many.labels)
    assert np.abs(one.certainty.astype(int) - many.certainty).max() <= 1
    assert isinstance(many.labels, np.memmap)
    assert len(json.loads((tmp_path / "out" / "segmentation.json").read_text())["done"]) > 1


class Counting(ArrayPicture):
    reads = 0

    def read(self, *where: int) -> np.ndarray:
        self.reads += 1
        return super().read(*where)


def test_a_stopped_segmentation_goes_on(tmp_path: Path) -> None:
    network, pixels = Local().eval(), random_pixels(500, 700)
    windows = WindowSettings(64, memory=1)
    whole = Counting(pixels)
    wanted = segment(network, whole, "abc", windows, normalise=PLAIN)
    first, second = Counting(pixels), Counting(pixels)
    with pytest.raises(Cancelled):
        segment(network, first, "abc", windows, normalise=PLAIN, out=tmp_path,
                should_stop=lambda: first.reads >= 0.6 * whole.reads)  # fmt: skip
    found = segment(network, second, "abc", windows, normalise=PLAIN, out=tmp_path)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    assert 0 < second.reads < 0.9 * whole.reads
    with pytest.raises(CheckpointError, match="another picture"):
        segment(network, second, "abd", windows, normalise=PLAIN, out=tmp_path)
    (tmp_path / "segmentation.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        segment(network, second, "abc", windows, normalise=PLAIN, out=tmp_path)


def test_what_cannot_be_segmented() -> None:
    network, picture = Local().eval(), ArrayPicture(random_pixels(64, 64))
    windows = WindowSettings(64)
    with pytest.raises(FeatureError, match="names of its classes"):
        segment(network, picture, "ab", windows, normalise=PLAIN)
    nn.init.constant_(network.conv.bias, np.nan)
    with pytest.raises(FeatureError, match="not numbers"):
        segment(network, picture, "abc", windows, normalise=PLAIN)
    with pytest.raises(SlideError, match="8-bit RGB"):
        ArrayPicture(np.zeros((4, 4), np.uint8))


def test_one_image_is_learnt_by_heart() -> None:
    network = segmenter(num_classes=3).train()
    rows, cols = np.mgrid[:64, :64]
    truth = torch.from_numpy(
        np.where(np.hypot(rows - 32, cols - 30) < 14, 2, cols > 40).astype(int)
    )
    colours = torch.tensor([[0.2, 0.3, 0.9], [0.9, 0.2, 0.2], [0.2, 0.9, 0.3]])
    image = colours[truth].permute(2, 0, 1)[None] + 0.2 * torch.randn(1, 3, 64, 64)
    pair, answers = image.repeat(2, 1, 1, 1), truth[None].repeat(2, 1, 1)
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for _ in range(30):
        logits, auxiliary = network.forward_training(pair)
        loss = nn.functional.cross_entropy(logits, answers)
        loss = loss + 0.4 * nn.functional.cross_entropy(auxiliary, answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.inference_mode():
        found = network(image).argmax(1)[0]
    assert (found == truth).float().mean() > 0.9


def pair_folders(folder: Path) -> tuple[Path, Path, np.ndarray]:
    """Two images whose class is their colour, and their masks; a corner has no class."""
    truth = np.where(np.hypot(*np.mgrid[-40:56, -50:46]) < 30, 2, 1).astype(np.uint8)
    truth[:8, :8] = 0
    colours = np.array([[90, 90, 90], [60, 80, 220], [220, 60, 60]], np.uint8)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(2):
        Image.fromarray(colours[truth]).save(folder / "images" / f"{number}.png")
        Image.fromarray(truth).save(folder / "masks" / f"{number}.png")
    return folder / "images", folder / "masks", truth


def test_train_evaluate_and_use_on_the_command_line(tmp_path: Path, capsys) -> None:
    images, masks, truth = pair_folders(tmp_path)
    file, out = tmp_path / "s.safetensors", tmp_path / "out"
    train = ["segment", "train", str(images), str(masks), "--classes", "blue,red",
             "--out", str(file), "--depths", "1,1", "--dims", "8", "--channels", "8", "--crop",
             "64", "--steps", "40", "--batch-size", "2", "--learning-rate", "0.01", "--device",
             "cpu", "--image-mpp", "0.5", "--json"]  # fmt: skip
    assert main(train) == 0
    assert json.loads(capsys.readouterr().out)["last_loss"] < 1
    test = ["segment", "evaluate", str(images), str(masks), "--segmenter", str(file), "--own-size",
            "--device", "cpu", "--json"]  # fmt: skip
    assert main(test) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["mean_iou"] > 0.8
    assert main([*test, "--multi-scale"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_iou"] > 0.6

    slide = tmp_path / "slide.tif"
    pixels = np.asarray(Image.open(images / "0.png")).repeat(2, 0).repeat(2, 1)
    tifffile.imwrite(slide, pixels, tile=(64, 64), photometric="rgb",
                     resolution=(40000, 40000), resolutionunit="CENTIMETER")  # fmt: skip
    use = ["segment", "slide", str(slide), "--segmenter", str(file), "--window", "64", "--out",
           str(out), "--region", "32,16,160,176", "--device", "cpu", "--json"]  # fmt: skip
    assert main(use) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["area_of_class"].keys() == {"blue", "red"}
    assert "remarks" not in told
    # Level 0 has 0.25 µm per pixel, the images 0.5: two level-0 pixels per pixel
    found = tifffile.imread(out / "classes.ome.tif")
    assert found.shape == (88, 80)
    wanted = truth[8:96, 16:96]
    assert (found == wanted)[wanted > 0].mean() > 0.85
    outlines = json.loads((out / "classes.geojson").read_text())["features"]
    red = [f for f in outlines if f["properties"]["classification"]["name"] == "red"]
    area = sum(shape(f["geometry"]).area for f in red)
    assert area == pytest.approx(4 * (found == 2).sum())
    assert main([*use[:-1], "--mpp", "1"]) == 1
    assert "another picture" in capsys.readouterr().err
    assert main([*use, "--segment-mpp", "1", "--out", str(tmp_path / "coarse")]) == 0
    (remark,) = json.loads(capsys.readouterr().out)["remarks"]
    assert "segmented at 1 µm per pixel by a network that was trained at 0.5" in remark


def test_weights_with_another_scan_are_another_segmentation(tmp_path: Path) -> None:
    """The same published file fits three scans, whose answers differ."""
    made = segmenter(auxiliary_channels=0)
    torch.nn.init.normal_(made.decode_head.conv_seg.weight, std=3.0)
    torch.save({"state_dict": made.state_dict()}, tmp_path / "p.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(64, 64), photometric="rgb")
    found, windows = {}, WindowSettings(window=64)
    with open_slide(tmp_path / "slide.tif") as slide:
        for scan in ("2d", "1d"):
            loaded = TrainedSegmenter.load(tmp_path / "p.pth", scan=scan, classes=tuple("abcde"))
            found[scan], _ = segment_slide(slide, loaded, tmp_path / scan, windows=windows)
        assert (found["2d"].certainty != found["1d"].certainty).any()
        with pytest.raises(CheckpointError, match="another picture, network or setting"):
            segment_slide(slide, loaded, tmp_path / "2d", windows=windows)


def test_what_is_no_segmenter_or_folder(tmp_path: Path) -> None:
    images, masks, _ = pair_folders(tmp_path)
    torch.save({"state_dict": segmenter().state_dict()}, tmp_path / "p.pth")
    with pytest.raises(CheckpointError, match="does not tell its scan"):
        TrainedSegmenter.load(tmp_path / "p.pth")
    with pytest.raises(CheckpointError, match="5 classes, but 2"):
        TrainedSegmenter.load(tmp_path / "p.pth", scan="2d", classes=("a", "b"))
    with pytest.raises(FeatureError, match="holds 2, but there are 1"):
        MaskFolder(images, masks, 1).pair(0)
    (masks / "1.png").unlink()
    with pytest.raises(FeatureError, match="1 of 2 images have no mask"):
        MaskFolder(images, masks, 2)
    with pytest.raises(FeatureError, match="no folder"):
        MaskFolder(images, tmp_path / "absent", 2)


def test_masks_of_0_and_1_are_not_taken_for_the_first_of_two_classes(tmp_path: Path) -> None:
    """0 is no class: a training would learn "background" where the mask means tumour."""
    images, masks, _ = pair_folders(tmp_path)
    MaskFolder(images, masks, 2).require_all(("a", "b"))
    for path in masks.iterdir():
        Image.fromarray((np.asarray(Image.open(path)) == 2).astype(np.uint8)).save(path)
    pairs = MaskFolder(images, masks, 2)
    with pytest.raises(FeatureError, match="a pixel of the class 'tumour', which is number 2"):
        fit_segmenter(pairs, ("background", "tumour"), tmp_path / "s.safetensors")
    assert not (tmp_path / "s.safetensors").exists()


def test_intersection_over_union() -> None:
    counts = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    found = iou(counts, ("a", "b", "never"))
    assert found["iou"] == {"a": 6 / 9, "b": 3 / 6}
    assert found["mean_iou"] == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert found["pixel_accuracy"] == 9 / 12
    with pytest.raises(FeatureError, match="no pixel"):
        iou(np.zeros((2, 2), np.int64), ("a", "b"))


def test_a_killed_training_ends_with_the_same_numbers(tmp_path: Path) -> None:
    images, masks, _ = pair_folders(tmp_path)
    pairs = MaskFolder(images, masks, 2)
    settings = SegmentTraining(
        depths="1,1", dims=8, channels=8, crop=32, steps=7, batch_size=2, learning_rate=0.01
    )
    inks = ((0, 0, 255), (255, 0, 0))
    whole = fit_segmenter(pairs, ("blue", "red"), tmp_path / "whole.safetensors", settings)
    out = tmp_path / "parts.safetensors"
    state = out.with_suffix(".training-state.pt")

    def die(done: int, total: int, message: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    def again(settings: SegmentTraining, **more) -> TrainedSegmenter:
        return fit_segmenter(pairs, ("blue", "red"), out, settings, colours=inks, **more)

    with pytest.raises(KeyboardInterrupt):
        again(settings, save_every=2, on_progress=die)
    assert not out.exists()
    with pytest.raises(CheckpointError, match="other settings"):
        again(replace(settings, steps=8))
    with pytest.raises(Cancelled, match="after 4 steps"):
        again(settings, should_stop=lambda: True)
    done = []
    found = again(settings, on_progress=lambda step, *_: done.append(step))
    assert done == [5, 6, 7]
    assert not state.exists()
    wanted = whole.network.state_dict()
    assert all(torch.equal(wanted[k], v) for k, v in found.network.state_dict().items())
    assert out.with_suffix(".csv").read_text() == (tmp_path / "whole.csv").read_text()
    opened = TrainedSegmenter.load(out)
    assert (opened.classes, opened.colours) == (("blue", "red"), inks)
    state.write_bytes(b"no state")
    with pytest.raises(CheckpointError, match="damaged"):
        again(settings)
