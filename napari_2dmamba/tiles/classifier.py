"""A classifier of tiles: a timm model, its classes, and a folder that timm opens as well."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import CheckpointError, FeatureError
from napari_2dmamba.features.encoder import choose_device
from napari_2dmamba.features.model_encoder import ModelEncoder
from napari_2dmamba.features.timm_encoder import create, read_config
from napari_2dmamba.features.transform import Transform
from napari_2dmamba.features.weights import fit_weights
from napari_2dmamba.tiles.facts import CONFIG, WEIGHTS
from napari_2dmamba.vision.class_facts import require_classes, stated_mpp, stated_size


@dataclass
class TileClassifier:
    """A network with a class per output.

    Attributes
    ----------
    network
        Takes ``(B, 3, size, size)``, returns ``(B, K)`` logits.
    architecture, arguments
        As ``timm.create_model`` takes them.
    classes
        K names.
    transform
        What happens to a tile before the network sees it: the whole tile, resized.
    mpp
        µm per pixel of the tiles it was trained on, or None when nobody said.
    patch_size
        Side of those tiles in pixels, or None when they differed or nobody said.
    crop_pct
        Part of an image's side that is seen in `evaluation`; 1 for the whole.
    training
        What is known of its training, for records.
    """

    network: nn.Module
    architecture: str
    arguments: dict[str, Any]
    classes: tuple[str, ...]
    transform: Transform
    mpp: float | None = None
    crop_pct: float = 1.0
    training: dict[str, Any] = field(default_factory=dict)
    patch_size: int | None = None

    def __post_init__(self) -> None:
        require_classes(self.classes)

    def save(self, folder: str | Path) -> Path:
        """Write a folder with ``config.json`` and ``model.safetensors``, in timm's layout.

        ``timm.create_model("local-dir:FOLDER", pretrained=True)`` opens it, and so does
        ``--encoder timm:local-dir:FOLDER``.

        Raises
        ------
        CheckpointError
            When it cannot be written.
        """
        folder = Path(folder)
        size = self.transform.size
        config = {
            "architecture": self.architecture,
            "num_classes": len(self.classes),
            "label_names": list(self.classes),
            "model_args": self.arguments,
            "pretrained_cfg": {
                "num_classes": len(self.classes),
                "label_names": list(self.classes),
                "input_size": [3, size, size],
                "mean": list(self.transform.mean),
                "std": list(self.transform.std),
                "interpolation": self.transform.interpolation,
                "crop_pct": self.crop_pct,
                "custom_load": False,
                "license": "not stated",
            },
            "mpp": self.mpp,
            "tile_size": self.patch_size,
            "training": self.training,
        }
        state = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        with atomic_write(folder / WEIGHTS, CheckpointError) as part:
            save_file(state, part, metadata={"format": "pt"})
        with atomic_write(folder / CONFIG, CheckpointError) as part:
            part.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "TileClassifier":
        """Open what `save` wrote, or a folder in timm's layout with ``label_names``.

        Raises
        ------
        CheckpointError
            When it is no classifier or damaged.
        FeatureError
            When timm does not know the architecture, or the weights do not fit.
        """
        folder = Path(folder).expanduser()
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            architecture, arguments, told = read_config(folder / CONFIG)
            names = config.get("label_names") or told.get("label_names")
            classes = tuple(str(name) for name in names or ())
            if not classes:
                raise ValueError("it names no classes")
            transform = Transform(
                size=int(told["input_size"][1]),
                mean=_three(told["mean"]),
                std=_three(told["std"]),
                interpolation="bilinear" if told.get("interpolation") == "bilinear" else "bicubic",
            )
            state = load_file(folder / WEIGHTS)
            crop_pct = float(told.get("crop_pct") or 1.0)
            mpp = stated_mpp(config.get("mpp"))
            patch_size = stated_size(config.get("tile_size"))
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{folder} is no classifier: {Path(str(error.filename)).name} is not there; give "
                "the folder that training wrote"
            ) from error
        except FeatureError:
            raise
        except Exception as error:  # safetensors and JSON raise their own
            raise CheckpointError(
                f"{folder} is no classifier, or is damaged ({type(error).__name__}: {error}); "
                "train it again, or copy it again"
            ) from error
        network = create(architecture, **(arguments | {"num_classes": len(classes)}))
        fit_weights(network, state, str(folder))
        return cls(
            network.eval(), architecture, arguments, classes, transform, mpp, crop_pct,
            dict(config.get("training") or {}), patch_size,
        )  # fmt: skip

    @classmethod
    def of_published(
        cls,
        architecture: str,
        weights: str | Path,
        classes: Sequence[str],
        *,
        crop_pct: float = 0.875,
        **arguments: Any,
    ) -> "TileClassifier":
        """Return a published classifier, such as 2DVMamba's for ImageNet, from its weights.

        Raises
        ------
        UserError
            When the weights cannot be read, do not fit, or are for another number of classes.
        """
        from napari_2dmamba.features.timm_encoder import load_network

        loaded = load_network(architecture, weights, num_classes=len(classes), **arguments)
        return cls(
            loaded.network.eval(), architecture, arguments, tuple(classes), loaded.transform,
            crop_pct=crop_pct, training={"weights": Path(weights).name},
        )  # fmt: skip

    def encoder(self, device: str = "auto", precision: str = "float32") -> ModelEncoder:
        """Return an encoder whose features of a patch are the probabilities of the classes."""
        encoder = ModelEncoder(
            nn.Sequential(self.network, nn.Softmax(-1)),
            name="tile-classifier",
            transform=self.transform,
            device=choose_device(device),
            licence="the user's own",
            weights_from="a tile classifier",
            mpp=self.mpp,
            precision=precision,
            built_as=f"{self.architecture} {json.dumps(self.arguments, sort_keys=True)}",
        )
        if encoder.feature_size != len(self.classes):
            raise FeatureError(
                f"the classifier has {encoder.feature_size} outputs for {len(self.classes)} "
                "classes; its folder is damaged"
            )
        return encoder

    def probabilities(self, tiles: torch.Tensor, device: str = "auto") -> torch.Tensor:
        """Return ``(B, K)`` probabilities of ``(B, H, W, 3)`` uint8 tiles."""
        return self.encoder(device).encode(tiles)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
