"""Feature files of several tools, placed on a slide."""

import json
from pathlib import Path

import h5py
import numpy as np
import torch

from napari_2dmamba.errors import UserError
from napari_2dmamba.features import FeatureBag, write_features
from napari_2dmamba.features.files import describe_features
from napari_2dmamba.features.on_slide import features_on
from napari_2dmamba.models.header import CheckpointHeader
from tests.fuzz.mutate import Seed

ALLOWED = UserError
_COORDS = np.array([(x, y) for y in range(0, 512, 128) for x in range(0, 512, 128)], np.int64)
_FEATURES = np.random.default_rng(0).normal(size=(len(_COORDS), 6)).astype(np.float32)
_CONFIG = {"n_outputs": 2, "feature_size": 6}
_TRAINED = CheckpointHeader("abmil", _CONFIG, "classification", ("a", "b"), patch_size=128, mpp=0.5)


class _Slide:
    """What features are compared with."""

    name, dimensions, mpp, mpp_source, fingerprint = "s.tif", (512, 512), 0.5, "stated", "0" * 32


def seeds(folder: Path) -> list[Seed]:
    bag = FeatureBag(_FEATURES, _COORDS, 128, 128, 0.5, 0.5, "uni", "0" * 32)
    made = [write_features(bag, folder / name) for name in ("own.h5", "own.parquet")]
    for name, attributes in (
        ("bare.h5", {}),
        ("trident.h5", {"patch_size": 128, "patch_size_level0": 128, "overlap": 0, "name": "s",
                        "target_magnification": 20, "level0_magnification": 20,
                        "level0_width": 512, "level0_height": 512}),
        ("clam.h5", {"patch_size": 128, "patch_level": 0, "downsample": np.array([1.0, 1.0]),
                     "level_dim": np.array([512, 512]), "name": "s"}),
    ):  # fmt: skip
        made.append(folder / name)
        with h5py.File(made[-1], "w") as file:
            file.create_dataset("features", data=_FEATURES, chunks=(8, 6), compression="gzip")
            file.create_dataset("coords", data=_COORDS, chunks=(8, 2))
            file["coords"].attrs.update(attributes)
    made.append(folder / "stamp.h5")
    with h5py.File(made[-1], "w") as file:
        file["feats"], file["coords"] = _FEATURES.astype(np.float16), _COORDS * 0.5
        file.attrs.update(unit="um", tile_size_um=64.0, tile_size_px=128, extractor="uni")
    tensors = {"features": torch.from_numpy(_FEATURES), "coords": torch.from_numpy(_COORDS)}
    for name, content in (
        ("dict.pt", {**tensors, "patch_size_level0": 128}),
        ("numpy.pt", {name: tensor.numpy() for name, tensor in tensors.items()}),
    ):
        made.append(folder / name)
        torch.save(content, made[-1])
    old = folder / "old.pt"
    torch.save(tensors, old, _use_new_zipfile_serialization=False)
    hot = {".h5": ((0, 2048),), ".parquet": (), ".pt": ((0, 1024),)}
    listed = [Seed(path, hot=hot[path.suffix]) for path in [*made, old]]
    bag_of_slideflow = folder / "slideflow"
    bag_of_slideflow.mkdir()
    torch.save(tensors["features"], bag_of_slideflow / "s.pt")
    np.savez(bag_of_slideflow / "s.index.npz", _COORDS + 64)
    said = {"extractor": {"class": "a.Uni"}, "tile_px": 128, "tile_um": 64}
    (bag_of_slideflow / "bags_config.json").write_text(json.dumps(said))
    listed += [
        Seed(bag_of_slideflow, inside="s.index.npz"),
        Seed(bag_of_slideflow, inside="bags_config.json", text=True),
    ]
    return listed


def drive(path: Path) -> None:
    if path.is_dir():
        path = path / "s.pt"
    describe_features(path)
    bag = features_on(_Slide(), path, trained=_TRAINED)  # type: ignore[arg-type]
    assert np.isfinite(bag.features).all()
    assert bag.coords.min() >= 0
    assert bag.patch_size_level0 > 0
