"""The synthetic slide under File > Open Sample."""

from typing import Any


def demo_slide() -> list[tuple[Any, ...]]:
    """Return the layer of the sample slide."""
    from napari_2dmamba.plugin.npe2.reader import layers_for_window
    from napari_2dmamba.sample import sample_slide
    from napari_2dmamba.slide import open_slide

    return layers_for_window(open_slide(sample_slide()))
