"""From the pixels of patches to a bag of features, and to and from feature files."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_2dmamba.features.bag import FeatureBag
    from napari_2dmamba.features.encoder import Encoder, load_encoder
    from napari_2dmamba.features.extract import FeatureSettings, extract_features
    from napari_2dmamba.features.file_facts import FeatureFileSettings, MissingFeatureFactsError
    from napari_2dmamba.features.files import read_features, write_features

_PUBLIC = {
    "Encoder": "encoder",
    "FeatureBag": "bag",
    "FeatureFileSettings": "file_facts",
    "FeatureSettings": "extract",
    "MissingFeatureFactsError": "file_facts",
    "extract_features": "extract",
    "load_encoder": "encoder",
    "read_features": "files",
    "write_features": "files",
}

__all__ = [
    "Encoder",
    "FeatureBag",
    "FeatureFileSettings",
    "FeatureSettings",
    "MissingFeatureFactsError",
    "extract_features",
    "load_encoder",
    "read_features",
    "write_features",
]


def __getattr__(name: str) -> Any:
    # Names on first use: the settings must not cost torch
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
