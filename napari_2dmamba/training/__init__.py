"""Training aggregators: one bag a step, resumable, from a table to documented checkpoints."""

import lazy_loader

# Names on first use (the list is in __init__.pyi): settings and help must not cost torch
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
