"""The dock widget *Run 2DMamba*: from an open slide to an attention map on it."""

from napari_2dmamba.plugin.run_widget.widget import RunWidget

__all__ = ["RunWidget"]
