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


def demo_rivals() -> list[Path]:
    """Return the demo classifiers of the paper's figure, trained on the same synthetic slides.

    ABMIL, CLAM, TransMIL, MambaMIL, SRMambaMIL and 2DMambaMIL; none is for any medical use.
    """
    names = ("abmil", "clam-sb", "transmil", "mambamil", "srmambamil", "2dmamba")
    return [_find(f"demo-{name}.safetensors") for name in names]


def _find(name: str) -> Path:
    for folder in _PLACES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"the sample file {name} is missing from this installation; install napari-2dmamba again"
    )
