"""Published-model cases: the small ones lie here, the others in shared material."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models.mamba2d import Mamba2DConfig, Mamba2DMIL
from napari_2dmamba.models.published import training_canvas
from napari_2dmamba.slide.grid import cells_of
from tests.material import shared

HERE = Path(__file__).parent / "golden"
OWN = ("cls_small", "surv_small", "cls_one_col")
CASES = (
    *OWN,
    "cls_small_init", "cls_small_l2", "cls_default_20x30", "cls_dim128_20x30_init",
    "cls_mid_l2_1500", "cls_zero_pad_innernorm", "cls_two_rows", "cls_one_row",
    "cls_offset_shuffled", "cls_duplicates", "cls_patch256_state4", "simplemamba_1d",
)  # fmt: skip


@dataclass
class Case:
    folder: Path
    settings: dict[str, Any]
    tolerance: dict[str, Any]
    arrays: dict[str, np.ndarray]
    weights: dict[str, torch.Tensor]

    @property
    def patch_size(self) -> int:
        return self.settings["mamba_2d_patch_size"]

    @property
    def canvas(self) -> tuple[int, int]:
        return training_canvas(
            self.settings["mamba_2d_max_w"], self.settings["mamba_2d_max_h"], self.patch_size
        )

    @property
    def config(self) -> Mamba2DConfig:
        s = self.settings
        return Mamba2DConfig(
            feature_size=s["in_dim"],
            n_outputs=s["n_classes"],
            dropout=s["drop_out"],
            d_model=s["mambamil_dim"],
            n_layers=s["mambamil_layer"],
            d_state=s["mambamil_state_dim"],
            inner_norms=s.get("mambamil_inner_layernorms", False),
            pad=s["mamba_2d_pad_token"],
            scan="2d" if s.get("model_type", "2DMambaMIL") == "2DMambaMIL" else "1d",
        )

    def model(self, dtype: torch.dtype) -> Mamba2DMIL:
        model = Mamba2DMIL(self.config)
        model.load_state_dict(self.weights)
        return model.to(dtype).eval()

    def inputs(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
        features = torch.from_numpy(self.arrays["features"]).to(dtype)
        cells = torch.from_numpy(cells_of(self.arrays["coords"], self.patch_size))
        return features, cells, self.canvas

    def bag(self) -> FeatureBag:
        return FeatureBag(
            self.arrays["features"],
            self.arrays["coords"].astype(np.int64),
            self.patch_size,
            self.patch_size,
            encoder="made-up",
        )


def case(name: str) -> Case:
    folder = HERE if name in OWN else shared("golden/model2d")
    index = json.loads((folder / "index.json").read_text())
    entry = next(entry for entry in index["cases"] if entry["case"] == name)
    arrays = dict(np.load(folder / f"{name}.npz"))
    weights = load_file(folder / f"{name}.safetensors")
    return Case(folder, entry["config"], entry["tolerance"], arrays, weights)
