"""The widget *Checkpoints*."""

from napari_2dmamba.plugin.checkpoints_widget.widget import CheckpointsWidget

__all__ = ["CheckpointsWidget"]
