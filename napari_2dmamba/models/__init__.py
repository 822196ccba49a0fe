"""Aggregators: from a feature bag to a prediction with a score per patch."""

import lazy_loader

ENTRY_POINTS = "napari_2dmamba.aggregators"
"""Entry point group under which other packages bring architectures."""

# Names on first use (the list is in __init__.pyi): settings and help must not cost torch
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
