"""The widget *Train 2DMamba*: from a table of labelled slides to a checkpoint and its scores."""

from napari_2dmamba.plugin.training_widget.widget import TrainingWidget

__all__ = ["TrainingWidget"]
