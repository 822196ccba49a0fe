"""What docs/extend.md tells to write works as it says, and is short."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from npe2 import PluginManifest

from napari_2dmamba.explain import maps
from napari_2dmamba.features import Encoder
from napari_2dmamba.slide.slide import Slide
from tests.explain.subjects import subject
from tests.test_docs import ROOT, blocks

PAGE = ROOT / "docs" / "extend.md"
PARTS = ("mean_colour.py", "How far the features", "A widget of one's own", "Pixels of a .npy")


def python_of(part: str) -> dict[str, Any]:
    """Run the block that begins with some words; returns its names."""
    (text,) = [text for language, text in blocks(PAGE) if language == "python" and part in text]
    names: dict[str, Any] = {"__name__": "extension"}
    exec(compile(text, part, "exec"), names)
    return names


def test_every_block_is_run_and_short() -> None:
    texts = [text for language, text in blocks(PAGE) if language == "python"]
    assert [sum(part in text for text in texts) for part in PARTS] == [1] * len(texts)
    assert max(text.count("\n") for text in texts) < 50


def test_an_encoder() -> None:
    encoder = python_of("mean_colour.py")["load"]("mean-colour", device=torch.device("cpu"))
    assert isinstance(encoder, Encoder)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3), np.uint8)
    found = encoder.encode(torch.from_numpy(pixels)).numpy()
    truth = [pixels.mean((1, 2)) / 255, pixels.std((1, 2), ddof=1) / 255]
    np.testing.assert_allclose(found, np.concatenate(truth, 1), atol=1e-5)
    assert found.shape == (2, encoder.feature_size)


def test_a_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MAPS", dict(maps.MAPS))
    python_of("How far the features")
    of = subject("abmil")
    asked = maps.MapRequest(of, patch=0)
    found = maps.compute_maps(asked, ["unlikeness"])["unlikeness"]
    distance = np.linalg.norm(of.bag.features - of.bag.features.mean(0), axis=1)
    cells = found.cells_of(of.bag.coords, of.bag.cell_size)
    np.testing.assert_allclose(found.values[cells[:, 0], cells[:, 1]], distance, rtol=1e-5)
    assert np.isfinite(found.values).sum() == len(distance)


def test_a_slide_format(tmp_path: Path) -> None:
    backend = python_of("Pixels of a .npy")["NpyBackend"]
    pixels = np.random.default_rng(0).integers(0, 256, (700, 1100, 3), np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    with Slide(tmp_path / "a.npy", backend(tmp_path / "a.npy"), mpp=0.5) as slide:
        assert (slide.dimensions, slide.mpp) == ((1100, 700), 0.5)
        found = slide.read_region(480, 490, 0, 300, 100)
    np.testing.assert_array_equal(found, pixels[490:590, 480:780])


def test_the_manifest_of_a_widget() -> None:
    texts = [text for language, text in blocks(PAGE) if language == "yaml"]
    (contributions,) = [yaml.safe_load(text) for text in texts]
    manifest = PluginManifest(name="my-plugin", **contributions)
    (widget,) = manifest.contributions.widgets
    (command,) = manifest.contributions.commands
    assert widget.command == command.id
    assert command.python_name.split(":")[1] in python_of("A widget of one's own")
