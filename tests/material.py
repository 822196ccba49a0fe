"""The one place that finds shared test material, which is not part of the project."""

import os
from pathlib import Path

import pytest

_BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared"
SHARED = Path(os.environ.get("NAPARI_2DMAMBA_SHARED", _BESIDE_THE_CHECKOUT))


def shared(relative: str) -> Path:
    """Return the path of shared material, or skip the test saying what is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"shared test material {relative!r} is not beside this checkout")
    return path
