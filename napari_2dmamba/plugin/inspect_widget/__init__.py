"""The widget *Inspect 2DMamba*: why the model said what it said, patch by patch."""

from napari_2dmamba.plugin.inspect_widget.widget import InspectWidget

__all__ = ["InspectWidget"]
