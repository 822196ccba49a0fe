"""The foot of the widget: Run, Pause, Cancel, and how far it is."""

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.progress_bar import ProgressBar

RUN_LOOK = """
QPushButton { background: #2f6fb7; color: white; font-weight: bold; padding: 7px;
              border-radius: 4px; }
QPushButton:hover { background: #3b80cd; }
QPushButton:disabled { background: #a9b4c0; color: #eef1f4; }
"""


class ProgressFooter(QWidget):
    """Buttons and progress; says nothing of what is run.

    Parameters
    ----------
    title
        Words on the button that runs it.

    Signals
    -------
    run_clicked(), cancel_clicked(), pause_clicked(is_wanted)
    """

    run_clicked = Signal()
    cancel_clicked = Signal()
    pause_clicked = Signal(bool)

    def __init__(self, title: str = "Run 2DMamba") -> None:
        super().__init__()
        self._title = title
        self._progress = ""
        self.message = Message()
        self.bar = ProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setMaximumHeight(10)
        self.detail = QLabel()
        self.detail.setWordWrap(True)
        self.run = QPushButton(title)
        self.run.setObjectName("run")
        self.run.setStyleSheet(RUN_LOOK)
        self.run.clicked.connect(self.run_clicked)
        self.pause = QPushButton("Pause")
        self.pause.setCheckable(True)
        self.pause.clicked.connect(self._ask_for_pause)
        self.cancel = QPushButton("Cancel")
        self.cancel.clicked.connect(self.cancel_clicked)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run, 1)
        buttons.addWidget(self.pause)
        buttons.addWidget(self.cancel)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 8)
        layout.setSpacing(5)
        layout.addWidget(self.message)
        layout.addWidget(self.detail)
        layout.addWidget(self.bar)
        layout.addLayout(buttons)
        self.set_running(False)

    def set_running(self, is_running: bool, *, can_pause: bool = False) -> None:
        """Show progress and Cancel, or Run."""
        self.pause.setVisible(is_running and can_pause)
        self.pause.setEnabled(is_running)
        self._show_pause(False)
        self.run.setEnabled(not is_running)
        if not is_running:
            self.run.setText(self._title)
        self.cancel.setVisible(is_running)
        self.cancel.setEnabled(is_running)
        self.bar.setVisible(is_running)
        self.detail.setVisible(is_running)
        if is_running:
            self.message.clear()
            self.bar.setRange(0, 0)
            self.detail.setText("Starting…")

    def set_stopping(self) -> None:
        """Say that the job ends as soon as its present step is done."""
        self.cancel.setEnabled(False)
        self.pause.setEnabled(False)
        self.detail.setText("Stopping after the present step…")

    def show_progress(self, done: int, total: int, message: str) -> None:
        """Show ``done`` of ``total``; the message holds pace and time left."""
        if not self.cancel.isEnabled():
            return
        self._progress = f"{done} of {total}" if total else ""
        self.bar.setRange(0, max(total, 0))
        self.bar.setValue(done)
        if self.pause.isChecked():
            return
        words = [message[:1].upper() + message[1:]]
        if total:
            words.insert(0, self._progress)
        self.detail.setText(" · ".join(words))

    def set_held(self) -> None:
        """Say that the pause has begun."""
        if self.pause.isChecked() and self.cancel.isEnabled():
            self.detail.setText(" · ".join(filter(None, [self._progress, "paused"])))

    def _ask_for_pause(self, is_wanted: bool) -> None:
        self._show_pause(is_wanted)
        self.detail.setText("Pausing after the present batch…" if is_wanted else "Going on…")
        self.pause_clicked.emit(is_wanted)

    def _show_pause(self, is_wanted: bool) -> None:
        self.pause.setChecked(is_wanted)
        self.pause.setText("Resume" if is_wanted else "Pause")
        self.run.setText("Paused" if is_wanted else "Running…")
