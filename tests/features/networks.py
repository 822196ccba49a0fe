"""timm, where it is installed."""

import importlib.util

import pytest


def require_timm() -> None:
    """Import timm as the encoders do, or skip the test saying why."""
    for package in ("timm", "torchvision"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    from napari_2dmamba.features import timm_encoder

    timm_encoder.require_timm()
