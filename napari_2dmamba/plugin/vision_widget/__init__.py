"""The docked widget *Image networks*."""

from napari_2dmamba.plugin.vision_widget.widget import VisionWidget

__all__ = ["VisionWidget"]
