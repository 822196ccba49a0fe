"""The foot of the widget: Run, Cancel, and how far it is."""

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_2dmamba.plugin.jobs import Pace
from napari_2dmamba.plugin.run_widget.message import Message

_RUN_LOOK = """
QPushButton { background: #2f6fb7; color: white; font-weight: bold; padding: 7px;
              border-radius: 4px; }
QPushButton:hover { background: #3b80cd; }
QPushButton:disabled { background: #a9b4c0; color: #eef1f4; }
"""


class ProgressFooter(QWidget):
    """Buttons and progress; says nothing of what is run.

    Signals
    -------
    run_clicked(), cancel_clicked()
    """

    run_clicked = Signal()
    cancel_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.message = Message()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setMaximumHeight(10)
        self.detail = QLabel()
        self.run = QPushButton("Run 2DMamba")
        self.run.setObjectName("run")
        self.run.setStyleSheet(_RUN_LOOK)
        self.run.clicked.connect(self.run_clicked)
        self.cancel = QPushButton("Cancel")
        self.cancel.clicked.connect(self.cancel_clicked)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run, 1)
        buttons.addWidget(self.cancel)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 8)
        layout.setSpacing(5)
        layout.addWidget(self.message)
        layout.addWidget(self.detail)
        layout.addWidget(self.bar)
        layout.addLayout(buttons)
        self._pace = Pace()
        self._stage = ""
        self.set_running(False)

    def set_running(self, is_running: bool) -> None:
        """Show progress and Cancel, or Run."""
        self.run.setEnabled(not is_running)
        self.run.setText("Running…" if is_running else "Run 2DMamba")
        self.cancel.setVisible(is_running)
        self.cancel.setEnabled(is_running)
        self.bar.setVisible(is_running)
        self.detail.setVisible(is_running)
        self._pace, self._stage = Pace(), ""
        if is_running:
            self.message.clear()
            self.bar.setRange(0, 0)
            self.detail.setText("Starting…")

    def set_stopping(self) -> None:
        """Say that the job ends as soon as its present step is done."""
        self.cancel.setEnabled(False)
        self.detail.setText("Stopping after the present step…")

    def show_progress(self, done: int, total: int, message: str) -> None:
        """Show ``done`` of ``total``, with the pace and the time left."""
        if not self.cancel.isEnabled():
            return
        if message != self._stage:
            self._pace, self._stage = Pace(), message
        self.bar.setRange(0, max(total, 0))
        self.bar.setValue(done)
        words = [message[:1].upper() + message[1:]]
        if total:
            self._pace.update(done)
            words.append(f"{done} of {total}")
            if self._pace.per_second is not None and total > 2:
                words.append(f"{self._pace.per_second:.3g} per second")
            left = self._pace.seconds_left(total)
            if left is not None and left >= 1:
                words.append(f"{in_words(left)} left")
        self.detail.setText(" · ".join(words))


def in_words(seconds: float) -> str:
    """Return a duration as ``8 s``, ``2 min 5 s`` or ``1 h 12 min``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
