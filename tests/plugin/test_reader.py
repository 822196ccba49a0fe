from collections.abc import Callable
from pathlib import Path

import pytest
from napari.components import ViewerModel

from napari_2dmamba.plugin.npe2.reader import get_reader, read_slides
from napari_2dmamba.slide import Slide
from tests.material import shared


@pytest.mark.parametrize("name", ["a.png", "b.h5", "c.zip", "noextension", "x.svs.txt"])
def test_foreign_files_are_left_to_others(name: str) -> None:
    assert get_reader(name) is None


def test_a_list_with_one_foreign_file_is_left_to_others() -> None:
    assert get_reader(["a.svs", "b.png"]) is None
    assert get_reader([]) is None


def test_the_layer_is_in_microns_and_knows_its_slide(slide_path: Path) -> None:
    reader = get_reader(str(slide_path))
    assert reader is not None
    ((levels, options, kind),) = reader(str(slide_path))
    assert kind == "image"
    assert options["rgb"] is True
    assert options["scale"] == (0.5, 0.5)
    assert options["units"] == ("µm", "µm")
    assert isinstance(options["metadata"]["slide"], Slide)
    assert levels[0].shape == (1536, 2048, 3)
    assert levels[0].chunks == (512, 512, 3)
    assert max(levels[-1].shape) <= 1536


def test_several_slides_at_once(slide_path: Path, no_mpp_path: Path) -> None:
    layers = read_slides([str(slide_path), str(no_mpp_path)])
    assert [layer[1]["name"] for layer in layers] == ["pink.tif", "no-mpp.tif"]
    assert layers[1][1]["units"] == ("pixel", "pixel")


def test_opening_through_napari(slide_path: Path) -> None:
    viewer = ViewerModel()
    (layer,) = viewer.open(str(slide_path), plugin="napari-2dmamba")
    assert layer.multiscale
    assert layer.extent.world[1].tolist() == pytest.approx([767.5, 1023.5])


BROKEN = [
    "git-lfs-pointer.svs", "html-error-page.svs", "not-a-tiff.svs", "truncated-half.svs",
    "unopenable.tiff", "unreadable.svs", "zero-byte.svs", "zero-height.tif",
]  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_slide_gives_one_sentence(
    name: str, notifications: Callable[[], list[str]]
) -> None:
    path = shared(f"slides/broken/{name}")
    viewer = ViewerModel()
    assert viewer.open(str(path), plugin="napari-2dmamba") == []
    (sentence,) = notifications()
    assert name in sentence
    assert "Traceback" not in sentence
    assert len(sentence) > 40


def test_a_missing_file_gives_one_sentence(
    tmp_path: Path, notifications: Callable[[], list[str]]
) -> None:
    assert read_slides(str(tmp_path / "gone.svs")) == [(None,)]
    assert "gone.svs" in notifications()[0]
