"""Damaged checkpoints: pickles, archives, safetensors, and headers that say something else."""

import dataclasses
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as as_safetensors

from napari_2dmamba.checkpoints.fit import InputFacts, fits
from napari_2dmamba.checkpoints.summary import summarise
from napari_2dmamba.errors import UserError
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models import (
    Aggregator,
    CheckpointHeader,
    MissingSettingsError,
    ModelSettings,
    load_checkpoint,
    save_checkpoint,
)
from napari_2dmamba.models.abmil import ABMIL, ABMILConfig
from napari_2dmamba.models.header import METADATA_KEY
from napari_2dmamba.models.mamba2d import Mamba2DConfig, Mamba2DMIL
from tests.fuzz.mutate import Seed

ALLOWED = (UserError,)
_GIVEN = {
    "canvas": (3, 4), "patch_size": 64, "task": "classification", "class_names": ("a", "b"),
    "encoder": None,
}  # fmt: skip
_STORED = "stored.json"
"""Beside a ``.pkl``: the data of its tensors, as hex."""


def seeds(folder: Path) -> list[Seed]:
    """Write each layout, and the parts of them that checksums would otherwise shield."""
    torch.manual_seed(0)
    config = Mamba2DConfig(5, 2, d_model=8, d_state=3, canvas_mode="slide")
    header = CheckpointHeader(
        "2dmamba", dataclasses.asdict(config), "classification", ("a", "b"), encoder="uni",
        patch_size=64, mpp=0.5, canvas=(3, 4), training={"validation": {"auroc": 0.9}},
    )  # fmt: skip
    network = Mamba2DMIL(config)
    own = folder / "own.safetensors"
    save_checkpoint(Aggregator(network, header), own)
    length = struct.unpack("<Q", own.read_bytes()[:8])[0]
    (folder / "header.json").write_text(header.to_json())
    beside = {
        "epoch": np.int64(3), "auc": np.float64(0.5), "scores": np.arange(4.0),
        "device": torch.device("cpu"), "size": torch.Size([1]), "args": {"lr": 1e-4},
    }  # fmt: skip
    made = [
        Seed(own, ((0, length + 8),)),
        Seed(folder / "header.json", text=True),
    ]
    weights = ABMIL(ABMILConfig(5, 2, hidden=6, attention_hidden=4)).state_dict()
    for protocol in (2, 4, 5):
        archive = io.BytesIO()
        torch.save({"model": weights, **beside}, archive, pickle_protocol=protocol)
        with zipfile.ZipFile(archive) as whole:
            (program,) = (n for n in whole.namelist() if n.endswith("data.pkl"))
            root = program.removesuffix("data.pkl") + "data/"
            stored = {
                n.removeprefix(root): whole.read(n).hex()
                for n in whole.namelist()
                if n.startswith(root)
            }
            inside = folder / f"protocol{protocol}"
            inside.mkdir()
            (inside / "data.pkl").write_bytes(whole.read(program))
            (inside / _STORED).write_text(json.dumps(stored))
        made.append(Seed(inside, inside="data.pkl"))
        (folder / f"whole{protocol}.pt").write_bytes(archive.getvalue())
        made.append(Seed(folder / f"whole{protocol}.pt"))
    torch.save(
        {"model": weights, **beside}, folder / "old.pt", _use_new_zipfile_serialization=False
    )
    made.append(Seed(folder / "old.pt", ((0, 2500),)))
    (folder / "bare.safetensors").write_bytes(as_safetensors(weights))
    made.append(Seed(folder / "bare.safetensors", ((0, 700),)))
    return made


def drive(path: Path) -> None:
    """List it, load it, and ask the model for an answer."""
    path = _as_checkpoint(path)
    summary = summarise(path)
    fits(summary, InputFacts("s", encoders=("uni",), slide_mpp=0.5))
    json.dumps(summary.to_dict())
    try:
        found = load_checkpoint(path)
    except MissingSettingsError as error:
        found = load_checkpoint(path, **{name: _GIVEN[name] for name in error.missing})
    size = found.header.feature_size
    if size > 10_000:
        return
    coords = np.array([(x * 64, y * 64) for y in range(2) for x in range(3)], np.int64)
    found.predict(
        FeatureBag(np.ones((6, size), np.float32), coords, 64), ModelSettings(device="cpu")
    )


def _as_checkpoint(path: Path) -> Path:
    """Put a damaged part into a whole file again."""
    if path.is_dir():
        whole = path.with_name("part.pt")
        stored = json.loads((path / _STORED).read_text())
        with zipfile.ZipFile(whole, "w") as archive:
            archive.writestr("a/data.pkl", (path / "data.pkl").read_bytes())
            for key, value in stored.items():
                archive.writestr(f"a/data/{key}", bytes.fromhex(value))
        return whole
    if path.suffix == ".json":
        torch.manual_seed(0)
        config = Mamba2DConfig(5, 2, d_model=8, d_state=3, canvas_mode="slide")
        text = path.read_bytes().decode("utf-8", "replace")
        whole = path.with_name("said.safetensors")
        weights = {k: v.contiguous() for k, v in Mamba2DMIL(config).state_dict().items()}
        whole.write_bytes(as_safetensors(weights, metadata={METADATA_KEY: text}))
        return whole
    return path
