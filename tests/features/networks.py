"""timm, where it can be imported; small networks whose output is known."""

import importlib.util

import pytest
import torch


def require_timm() -> None:
    """Import timm, or skip the test saying why.

    A torchvision built for another torch lacks its compiled operators, whose declarations its
    Python code asks for on import; no encoder uses them, so they are declared here.
    """
    for package in ("timm", "torchvision"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        require_timm.library = library  # type: ignore[attr-defined]  # it lives as long as its object
    import timm  # noqa: F401
