"""Effective receptive fields: hand-made maps, networks whose field is known, and the command."""

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from napari_2dmamba.cli import main
from napari_2dmamba.errors import UserError
from napari_2dmamba.pixel_fields import FieldSettings, fields_on_slide
from napari_2dmamba.slide import open_slide
from napari_2dmamba.vision.backbone import VisionMamba
from napari_2dmamba.vision.pixel_field import PixelField, pixel_fields
from napari_2dmamba.vision.pixel_field_figure import write_field_figure
from napari_2dmamba.vision.region import Place
from tests.features.networks import require_timm


def field(values: np.ndarray, stride: int = 4) -> PixelField:
    middle = values.shape[0] / 2 + 0.5, values.shape[1] / 2 + 0.5
    return PixelField(values, "made", 0, stride, 1, middle)


def round_field(side: int = 64, width: float = 9.0) -> np.ndarray:
    away = np.arange(side) - side // 2
    return np.exp(-np.hypot(*np.meshgrid(away, away)) / width)


def test_a_round_field_has_no_cross_and_four_equal_quadrants() -> None:
    made = field(round_field())
    assert made.cross_strength() == pytest.approx(1, abs=0.1)
    up_left, up_right, down_left, down_right = made.quadrants().values()
    assert up_right == pytest.approx(down_left)
    assert up_left == pytest.approx(down_right, rel=0.4)  # a side of even length has no middle


def test_a_cross_is_measured() -> None:
    values = round_field()
    crossed = values.copy()
    crossed[31:34] += 3 * values[31:34]
    crossed[:, 31:34] += 3 * values[:, 31:34]
    assert 2 < field(crossed).cross_strength() < 5
    assert field(1 / (crossed + 1e-3)).cross_strength() < 1


def test_areas() -> None:
    values = np.zeros((40, 40))
    values[19:22, 19:22] = 1.0
    values[0, 0] = 1.0
    made = field(values)
    assert made.square_side(0.9) == 4
    assert made.square_side(0.99) == 40
    assert made.area(0.9) == 9 / 1600
    assert made.area_above(0.5) == 10 / 1600
    with_weak = values.copy()
    with_weak[5, 5] = 0.5**5
    assert field(with_weak).area_above(0.5) == 11 / 1600  # the power lifts weak pixels


class Box(nn.Module):
    """The mean over 3 x 3 cells of a patch embedding without padding: its field is a square."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 2, 4, stride=4, bias=False)
        nn.init.ones_(self.cut.weight)

    def forward_intermediates(self, image: torch.Tensor, intermediates_only: bool = True):
        return [nn.functional.avg_pool2d(self.cut(image), 3, 1, 1)]


def test_a_network_whose_field_is_known() -> None:
    crops = [torch.rand(3, 40, 32) for _ in range(3)]
    found = pixel_fields(Box(), crops, model="box")[0]
    wanted = np.zeros((40, 32))
    wanted[16:28, 12:24] = 2 * 3 / 9  # two channels, three colours
    np.testing.assert_allclose(found.values, wanted)
    assert (found.stride, found.crops, found.centre) == (4, 3, (22.0, 18.0))
    assert found.square_side(0.999) == 12


def scanned(scan: str) -> PixelField:
    torch.manual_seed(0)
    network = VisionMamba(scan=scan, depths=(1,), dims=8).double()
    for block in network.layers[0].blocks:
        nn.init.constant_(block.op.dt_projs_bias, -4.0)  # long memory
    crops = [torch.randn(3, 64, 64, dtype=torch.float64) for _ in range(2)]
    return pixel_fields(network, crops, model=scan, rectified=False)[0]


def test_one_published_block_sees_two_quadrants_and_vmamba_a_cross() -> None:
    both, flat, corners = scanned("2d"), scanned("1d"), scanned("2d-four-corners")
    # 3 x 3 convolutions widen the edges by 3 + 4 pixels
    assert not both.values[:24, 40:].any()
    assert not both.values[40:, :24].any()
    assert both.values[:24, :24].all()
    assert both.values[40:, 40:].all()
    assert corners.values[:24, 40:].all()
    assert corners.values[40:, :24].all()
    assert flat.values.all()
    assert flat.cross_strength() > 1.2 * corners.cross_strength()


def test_what_cannot_be_looked_at() -> None:
    network = VisionMamba(depths=(1,), dims=8)
    crops = [torch.rand(3, 16, 16)]
    with pytest.raises(UserError, match="stages"):
        pixel_fields(network, crops, model="m", stages=(1,))
    with pytest.raises(UserError, match="no crop"):
        pixel_fields(network, [], model="m")
    with pytest.raises(UserError, match="cannot take crops of 16 x 16"):
        pixel_fields(network, [torch.rand(4, 16, 16)], model="m")
    with pytest.raises(UserError, match="forward_intermediates"):
        pixel_fields(nn.Conv2d(3, 1, 1), crops, model="m")
    nn.init.zeros_(network.patch_embed[0].weight)
    with pytest.raises(UserError, match="zero everywhere"):
        pixel_fields(network, crops, model="m")
    nn.init.constant_(network.patch_embed[0].weight, np.nan)
    with pytest.raises(UserError, match=r"zero everywhere|not finite"):
        pixel_fields(network, crops, model="m", rectified=False)


@pytest.fixture
def slide_file(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    path = tmp_path / "slide.tif"
    tifffile.imwrite(
        path, pixels, tile=(64, 64), photometric="rgb",
        resolution=(20000, 20000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


def test_on_a_slide_the_field_lies_where_its_pixels_are(slide_file: Path) -> None:
    require_timm()
    settings = FieldSettings(crop=64, crops=2, field_mpp=1.0, device="cpu")
    with open_slide(slide_file) as slide:
        found = fields_on_slide(slide, ["test_resnet"], settings, at=(200, 150), stages=None)
        pixels = slide.read_region(200 - 64, 150 - 64, 0, 128, 128)
    first = found.fields[0]
    assert first.place == Place((136.0, 86.0), 2.0, 0.5)
    averaged = pixels.reshape(64, 2, 64, 2, 3).mean((1, 3))
    np.testing.assert_allclose(found.image, averaged, atol=1)
    # 2 level-0 pixels of 0.5 µm per pixel, first centre half a pixel in
    assert first.place.scale == (1.0, 1.0)
    assert first.place.translate == ((86 + 0.5) * 0.5, (136 + 0.5) * 0.5)
    assert first.model == "test_resnet (random weights)"
    with open_slide(slide_file) as slide, pytest.raises(UserError, match="lies off"):
        fields_on_slide(slide, ["test_resnet"], settings, at=(400, 0))


def test_the_command_draws_a_figure(slide_file: Path, tmp_path: Path, capsys) -> None:
    require_timm()
    figure = tmp_path / "out.png"
    done = main(
        ["receptive-field", str(slide_file), "--at", "200,150", "--models", "test_resnet",
         "test_convnext", "--stages", "1,2", "--crop", "64", "--crops", "1",
         "--device", "cpu", "--figure", str(figure), "--json"]
    )  # fmt: skip
    assert done == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["fields"]) == 4
    drawn = matplotlib.image.imread(figure)[..., :3]
    greener = (drawn[..., 1] > drawn[..., 0] + 0.2).mean()
    assert greener > 0.005
    with pytest.raises(SystemExit):
        main(["receptive-field", str(slide_file), "--at", "here"])


def test_a_figure_says_how_many_crops_its_fields_are_means_of(tmp_path: Path) -> None:
    values = np.ones((32, 32))
    fields = [PixelField(values, name, 0, 1, n, (16, 16)) for name, n in (("a", 4), ("b", 16))]
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # words stay words
        path = write_field_figure(fields, tmp_path / "fields.svg")
    assert "mean of 4 to 16 crops" in path.read_text()
