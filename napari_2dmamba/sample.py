"""Where the synthetic sample slide and the demo checkpoints lie."""

from pathlib import Path

from napari_2dmamba.errors import UserError

_PACKAGE = Path(__file__).parent
_PLACES = (_PACKAGE / "sample_data", _PACKAGE.parent / "sample_data")
"""In an installed wheel, and in a checkout."""


def sample_slide() -> Path:
    """Return the synthetic H&E slide; it shows no real tissue."""
    return _find("synthetic-he.tif")


def demo_checkpoint() -> Path:
    """Return the demo classifier, trained on synthetic slides and not for any medical use."""
    return _find("demo-2dmamba.safetensors")


def demo_survival_checkpoint() -> Path:
    """Return the demo survival model, trained on synthetic slides, not for any medical use."""
    return _find("demo-2dmamba-survival.safetensors")


def demo_checkpoints() -> tuple[Path, ...]:
    """Return those of the demo checkpoints that are there."""
    names = ("demo-2dmamba.safetensors", "demo-2dmamba-survival.safetensors")
    places = ((folder / name for folder in _PLACES) for name in names)
    found = (next((one for one in some if one.is_file()), None) for some in places)
    return tuple(one for one in found if one is not None)


def _find(name: str) -> Path:
    for folder in _PLACES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"the sample file {name} is missing from this installation; install napari-2dmamba again"
    )
