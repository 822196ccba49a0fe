"""Pathology encoders by name: architecture, transform, pooling, licence and where weights are.

Facts from the makers' model cards, without torch: forms and pages show them. `timm_encoder` builds
the networks. Nothing is downloaded before an encoder is asked for; gated weights need the user's
own access.
"""

from dataclasses import dataclass, field
from typing import Any

from napari_2dmamba.features.transform import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Pooling,
    Transform,
)
from napari_2dmamba.huggingface import page_of

_HALF = (0.5, 0.5, 0.5)
_OPTIMUS = Transform(mean=(0.707223, 0.578729, 0.703617), std=(0.211883, 0.230117, 0.177517))
_HIBOU = Transform(mean=(0.7068, 0.5755, 0.722), std=(0.195, 0.2316, 0.1816))
_IMAGENET = Transform(mean=IMAGENET_MEAN, std=IMAGENET_STD)
_LUNIT = Transform(
    mean=(0.70322989, 0.53606487, 0.66096631), std=(0.21716536, 0.26081574, 0.20723464)
)
_HALVES = Transform(mean=_HALF, std=_HALF)
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
_VIRCHOW = {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", **_SWIGLU}


@dataclass(frozen=True)
class CatalogEntry:
    """What has to be known to build an encoder and read its weights.

    Attributes
    ----------
    repository
        On Hugging Face.
    architecture, arguments
        As `timm.create_model` takes them; layers are named by their class.
    feature_size
        D after pooling.
    licence
        Of the weights.
    gated
        Whether the maker asks to accept the licence first.
    mpp
        µm per pixel of the patches it was trained on, where one was stated.
    prefix_tokens
        Class token and registers.
    layout
        ``"timm"``, or ``"transformers"`` where the weights have that library's names.
    stages
        Stages of a ResNet that are kept; None for all.
    title, network
        What it is called, and its architecture as papers write it.
    millions
        Parameters of what is kept of the network, in millions.
    """

    repository: str
    architecture: str
    feature_size: int
    licence: str
    transform: Transform = _IMAGENET
    arguments: dict[str, Any] = field(default_factory=dict)
    pooling: Pooling = "none"
    prefix_tokens: int = 1
    gated: bool = False
    mpp: float | None = 0.5
    layout: str = "timm"
    stages: int | None = None
    title: str = field(kw_only=True)
    network: str = field(kw_only=True)
    millions: float = field(kw_only=True)

    @property
    def input_size(self) -> int:
        """Side in pixels of the patches that the network sees."""
        return self.transform.size

    @property
    def megabytes(self) -> int:
        """Size in memory in float32, in MB; what is fetched may be smaller or hold more."""
        return round(4 * self.millions)

    @property
    def page(self) -> str:
        """Where the maker gives the weights out, and the terms are read and accepted."""
        return page_of(self.repository)


@dataclass(frozen=True)
class ByFile:
    """An encoder whose network is its maker's own code, so that it has to be exported to a file.

    Attributes
    ----------
    title, feature_size, input_size, licence
        As of `CatalogEntry`.
    page
        Where code and weights are.
    """

    title: str
    feature_size: int
    input_size: int
    licence: str
    page: str

    @property
    def how(self) -> str:
        """What to do, in a sentence."""
        return (
            f"{self.title} ({self.feature_size} features; {self.licence}) runs by its maker's own "
            f"code, which is not part of this program: get it at {self.page}, export the network "
            "to ONNX (torch.onnx.export), and choose that file as the encoder"
        )


def _kaiko(architecture: str, size: int, network: str, millions: float) -> CatalogEntry:
    return CatalogEntry(
        f"1aurent/{architecture}.kaiko_ai_towards_large_pathology_fms",
        architecture,
        size,
        "Kaiko research licence, non-commercial",
        _HALVES,
        mpp=None,
        title=f"kaiko {network}",
        network=network,
        millions=millions,
    )


CATALOG: dict[str, CatalogEntry] = {
    "uni": CatalogEntry(
        "MahmoodLab/UNI",
        "vit_large_patch16_224",
        1024,
        "CC BY-NC-ND 4.0",
        arguments={"init_values": 1e-5, "dynamic_img_size": True},
        gated=True,
        title="UNI",
        network="ViT-L/16",
        millions=303.4,
    ),
    "uni2-h": CatalogEntry(
        "MahmoodLab/UNI2-h",
        "vit_giant_patch14_224",
        1536,
        "CC BY-NC-ND 4.0",
        arguments={
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
            "dynamic_img_size": True,
            **_SWIGLU,
        },
        gated=True,
        title="UNI2-h",
        network="ViT-H/14",
        millions=681.4,
    ),
    "virchow": CatalogEntry(
        "paige-ai/Virchow",
        "vit_huge_patch14_224",
        2560,
        "Apache 2.0",
        arguments=_VIRCHOW,
        pooling="cls+mean",
        gated=True,
        title="Virchow",
        network="ViT-H/14",
        millions=631.2,
    ),
    "virchow2": CatalogEntry(
        "paige-ai/Virchow2",
        "vit_huge_patch14_224",
        2560,
        "CC BY-NC-ND 4.0",
        arguments={**_VIRCHOW, "reg_tokens": 4},
        pooling="cls+mean",
        prefix_tokens=5,
        gated=True,
        title="Virchow2",
        network="ViT-H/14",
        millions=631.2,
    ),
    "prov-gigapath": CatalogEntry(
        "prov-gigapath/prov-gigapath",
        "vit_giant_patch14_dinov2",
        1536,
        "Apache 2.0, with terms of use: research only",
        arguments={
            "img_size": 224,
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "init_values": 1e-5,
            "mlp_ratio": 5.33334,
        },
        gated=True,
        title="Prov-GigaPath",
        network="ViT-g/16",
        millions=1135.0,
    ),
    "h-optimus-0": CatalogEntry(
        "bioptimus/H-optimus-0",
        "vit_giant_patch14_reg4_dinov2",
        1536,
        "Apache 2.0",
        _OPTIMUS,
        {"img_size": 224, "init_values": 1e-5},
        gated=True,
        title="H-optimus-0",
        network="ViT-g/14",
        millions=1134.8,
    ),
    "h-optimus-1": CatalogEntry(
        "bioptimus/H-optimus-1",
        "vit_giant_patch14_reg4_dinov2",
        1536,
        "CC BY-NC-ND 4.0",
        _OPTIMUS,
        {"img_size": 224, "init_values": 1e-5},
        gated=True,
        title="H-optimus-1",
        network="ViT-g/14",
        millions=1134.8,
    ),
    "h0-mini": CatalogEntry(
        "bioptimus/H0-mini",
        "vit_base_patch14_reg4_dinov2",
        768,
        "CC BY-NC-ND 4.0",
        _OPTIMUS,
        {
            "img_size": 224,
            "init_values": 1e-5,
            "mlp_ratio": 5.33334,
            "global_pool": "",
            **_SWIGLU,
        },
        pooling="cls",
        prefix_tokens=5,
        gated=True,
        title="H0-mini",
        network="ViT-B/14",
        millions=85.7,
    ),
    "phikon": CatalogEntry(
        "owkin/phikon",
        "vit_base_patch16_224",
        768,
        "Owkin licence, non-commercial",
        layout="transformers",
        title="Phikon",
        network="ViT-B/16",
        millions=85.8,
    ),
    "phikon-v2": CatalogEntry(
        "owkin/phikon-v2",
        "vit_large_patch16_224",
        1024,
        "Owkin licence, non-commercial",
        arguments={"init_values": 1e-5},
        layout="transformers",
        title="Phikon-v2",
        network="ViT-L/16",
        millions=303.4,
    ),
    "hibou-b": CatalogEntry(
        "histai/hibou-b",
        "vit_base_patch14_reg4_dinov2",
        768,
        "Apache 2.0",
        _HIBOU,
        {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.33334, **_SWIGLU},
        gated=True,
        layout="transformers",
        title="Hibou-B",
        network="ViT-B/14",
        millions=85.7,
    ),
    "hibou-l": CatalogEntry(
        "histai/hibou-L",
        "vit_large_patch14_reg4_dinov2",
        1024,
        "Apache 2.0",
        _HIBOU,
        {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.34375, **_SWIGLU},
        gated=True,
        layout="transformers",
        title="Hibou-L",
        network="ViT-L/14",
        millions=303.7,
    ),
    "kaiko-vits16": _kaiko("vit_small_patch16_224", 384, "ViT-S/16", 21.7),
    "kaiko-vits8": _kaiko("vit_small_patch8_224", 384, "ViT-S/8", 21.7),
    "kaiko-vitb16": _kaiko("vit_base_patch16_224", 768, "ViT-B/16", 85.8),
    "kaiko-vitb8": _kaiko("vit_base_patch8_224", 768, "ViT-B/8", 85.8),
    "midnight": CatalogEntry(
        "kaiko-ai/midnight",
        "vit_giant_patch14_dinov2",
        3072,
        "MIT",
        _HALVES,
        {"img_size": 224, "init_values": 1e-5, "global_pool": ""},
        pooling="cls+mean",
        mpp=None,
        layout="transformers",
        title="Midnight",
        network="ViT-g/14",
        millions=1134.8,
    ),
    "lunit-vits16": CatalogEntry(
        "1aurent/vit_small_patch16_224.lunit_dino",
        "vit_small_patch16_224",
        384,
        "Lunit licence, non-commercial",
        _LUNIT,
        title="Lunit DINO",
        network="ViT-S/16",
        millions=21.7,
    ),
    "lunit-vits8": CatalogEntry(
        "1aurent/vit_small_patch8_224.lunit_dino",
        "vit_small_patch8_224",
        384,
        "Lunit licence, non-commercial",
        _LUNIT,
        title="Lunit DINO",
        network="ViT-S/8",
        millions=21.7,
    ),
    "resnet50-clam": CatalogEntry(
        "timm/resnet50.tv_in1k",
        "resnet50",
        1024,
        "BSD-3-Clause (torchvision)",
        Transform(interpolation="bilinear"),
        stages=3,
        mpp=None,
        title="ResNet-50 as CLAM uses it",
        network="ResNet-50, three stages",
        millions=8.5,
    ),
}

BY_FILE: dict[str, ByFile] = {
    "conch": ByFile("CONCH", 512, 448, "CC BY-NC-ND 4.0, on request", page_of("MahmoodLab/CONCH")),
    "ctranspath": ByFile(
        "CTransPath", 768, 224, "GPL-3.0", "https://github.com/Xiyue-Wang/TransPath"
    ),
}
"""Named so that nobody looks for them in vain; `load_encoder` says what to do."""
