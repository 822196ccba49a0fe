"""Checkpoints of every kind a folder may hold."""

import dataclasses
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from napari_2dmamba.models import Aggregator, CheckpointHeader, save_checkpoint
from napari_2dmamba.models.checkpoint import build_model
from tests.models.golden_cases import HERE

SCORES = {"best": {"epoch": 3, "validation": {"loss": 0.4, "accuracy": 0.8, "auroc": 0.9}}}


def own(path: Path, *, architecture: str = "abmil", **changes: Any) -> Path:
    """Write a small checkpoint of this project."""
    torch.manual_seed(0)
    header = CheckpointHeader(
        architecture=architecture,
        config={"feature_size": 6, "n_outputs": 2},
        task="classification",
        class_names=("normal", "tumour"),
        encoder="stain-texture-v1",
        patch_size=256,
        mpp=0.5,
        training=SCORES,
        created="2026-05-04T10:00:00+00:00",
    )
    header = dataclasses.replace(header, **changes)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(Aggregator(build_model(header), header), path)
    return path


class Trace:
    """Pickles as a call that leaves a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def mixed_folder(folder: Path) -> Path:
    """Fill a folder with good, damaged, hostile and foreign files; returns it."""
    own(folder / "good.safetensors")
    own(folder / "below" / "deeper" / "survival.safetensors", task="survival",
        class_names=("early", "late"), encoder=None)  # fmt: skip
    for name in ("cls_small.full_model.pt", "cls_small.state_dict_cudarun.pt"):
        shutil.copy(HERE / name, folder / name)
    shutil.copy(HERE / "cls_small.safetensors", folder / "bare.safetensors")
    whole = (folder / "good.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.pt").write_bytes(b"")
    (folder / "page.bin").write_text("<!doctype html><html>log in</html>")
    with zipfile.ZipFile(folder / "hostile.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"w": Trace(folder / "owned")}, protocol=2))
    torch.save({"conv1.weight": torch.zeros(3)}, folder / "resnet.pth")
    torch.save(torch.zeros(5, 4), folder / "features of a slide.pt")
    (folder / "features.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (folder / "readme.txt").write_text("nothing to see")
    own(folder / ".hidden" / "not me.safetensors")
    return folder


GOOD = {
    "good.safetensors", "survival.safetensors", "cls_small.full_model.pt",
    "cls_small.state_dict_cudarun.pt", "bare.safetensors",
}  # fmt: skip
BAD = {
    "cut.safetensors": "cut short", "empty.pt": "is empty", "page.bin": "is a web page",
    "hostile.pt": "nothing in it was run", "resnet.pth": "no architecture known here",
    "features of a slide.pt": "holds no weights",
}  # fmt: skip


def install_documented_example(site: Path) -> Path:
    """Put the aggregator of docs/new_aggregator.md and its metadata where Python finds packages."""
    page = Path(__file__).parents[2] / "docs" / "new_aggregator.md"
    code = re.search(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
    assert code is not None
    info = site / "mean_pooling-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "mean_pooling.py").write_text(code[1], "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mean-pooling\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[napari_2dmamba.aggregators]\nmean = mean_pooling:MeanPooling\n"
    )
    return site
