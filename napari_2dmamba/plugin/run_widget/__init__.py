"""The dock widget *Run 2DMamba*."""
from qtpy.QtWidgets import QWidget
class RunWidget(QWidget):
    def __init__(self, napari_viewer): super().__init__()
