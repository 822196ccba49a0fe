"""The dock widget *Compare 2DMamba*: several models on one slide, side by side."""

from napari_2dmamba.plugin.compare_widget.widget import CompareWidget

__all__ = ["CompareWidget"]
