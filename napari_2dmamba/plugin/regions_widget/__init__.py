"""The docked widget *Regions*."""

from napari_2dmamba.plugin.regions_widget.widget import RegionsWidget

__all__ = ["RegionsWidget"]
