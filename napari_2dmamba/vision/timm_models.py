"""VMamba and 2DVMamba among timm's models; importing this module registers them.

    import napari_2dmamba.vision.timm_models
    import timm
    timm.create_model("vmamba2d_tiny", features_only=True)

The encoders of this package (``timm:vmamba2d_tiny``) register them by themselves. The makers
publish the weights, not timm and not this package: ``pretrained=True`` finds none.
"""

from typing import Any

from napari_2dmamba.torchvision_compat import import_needing_torchvision
from napari_2dmamba.vision.backbone import VisionMamba

import_needing_torchvision("timm")
from timm.models import (  # noqa: E402
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
)

__all__: list[str] = []

_CFG: dict[str, Any] = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,  # of 224 pixels: resize to 256, as the published evaluation does
    "interpolation": "bicubic",
    "fixed_input_size": False,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "first_conv": "patch_embed.0",
    "classifier": "classifier.head",
    "paper_ids": "arXiv:2412.00678",
}
_NAMES = (
    "vmamba2d_tiny", "vmamba2d_small", "vmamba2d_tiny_corners", "vmamba_tiny", "vmamba_small",
)  # fmt: skip
default_cfgs = generate_default_cfgs({name: dict(_CFG) for name in _NAMES})


def _create(name: str, pretrained: bool, arguments: dict[str, Any], given: dict[str, Any]) -> Any:
    arguments = arguments | given
    stages = tuple(range(len(arguments["depths"])))
    return build_model_with_cfg(
        VisionMamba,
        name,
        pretrained,
        feature_cfg={"out_indices": stages, "feature_cls": "getter"},
        **arguments,
    )


_TINY = {"depths": (2, 2, 8, 2), "ssm_ratio": 1.0, "drop_path_rate": 0.2}
_SMALL = {"depths": (2, 2, 15, 2), "ssm_ratio": 2.0, "drop_path_rate": 0.3}


@register_model
def vmamba2d_tiny(pretrained: bool = False, **kwargs: Any) -> Any:
    """2DVMamba, tiny, as published."""
    return _create("vmamba2d_tiny", pretrained, {"scan": "2d", **_TINY}, kwargs)


@register_model
def vmamba2d_small(pretrained: bool = False, **kwargs: Any) -> Any:
    """2DVMamba, small, as published."""
    return _create("vmamba2d_small", pretrained, {"scan": "2d", **_SMALL}, kwargs)


@register_model
def vmamba2d_tiny_corners(pretrained: bool = False, **kwargs: Any) -> Any:
    """2DVMamba, tiny, scanned from all four corners: no published weights are for it."""
    return _create(
        "vmamba2d_tiny_corners", pretrained, {"scan": "2d-four-corners", **_TINY}, kwargs
    )


@register_model
def vmamba_tiny(pretrained: bool = False, **kwargs: Any) -> Any:
    """VMamba, tiny, of the depth and width 2DVMamba is compared with."""
    return _create("vmamba_tiny", pretrained, {"scan": "1d", **_TINY}, kwargs)


@register_model
def vmamba_small(pretrained: bool = False, **kwargs: Any) -> Any:
    """VMamba, small."""
    return _create("vmamba_small", pretrained, {"scan": "1d", **_SMALL}, kwargs)
