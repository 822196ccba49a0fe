"""The widget *Slides*: every open and recent slide."""

from napari_2dmamba.plugin.slides_widget.widget import SlidesWidget

__all__ = ["SlidesWidget"]
