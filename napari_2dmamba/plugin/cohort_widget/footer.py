"""The foot of the cohort widget: what to do, and how far all of it is."""

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.progress_bar import ProgressBar
from napari_2dmamba.plugin.parts.progress_footer import RUN_LOOK

_STEPS = 1000


class CohortFooter(QWidget):
    """Buttons, one bar for all slides, and a sentence.

    Signals
    -------
    run_clicked(), extract_clicked(), retry_clicked(), pause_clicked(is_wanted), cancel_clicked()
    """

    run_clicked = Signal()
    extract_clicked = Signal()
    retry_clicked = Signal()
    pause_clicked = Signal(bool)
    cancel_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.message = Message()
        self.bar = ProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setMaximumHeight(10)
        self.detail = QLabel()
        self.detail.setWordWrap(True)
        self.run = QPushButton("Run 2DMamba")
        self.run.setToolTip("Features and the model's answer for every slide")
        self.run.setStyleSheet(RUN_LOOK)
        self.extract = QPushButton("Extract features only")
        self.extract.setToolTip("Features of every slide, without a model")
        self.retry = QPushButton("Retry failed")
        self.retry.setToolTip("Only the slides that failed or were stopped, with what is set now")
        self.pause = QPushButton("Pause")
        self.pause.setCheckable(True)
        self.pause.setToolTip("Let every slide wait after its present batch")
        self.cancel = QPushButton("Cancel")
        self.cancel.setToolTip("Stop; what is finished is kept, and the next run goes on from it")
        self.run.clicked.connect(self.run_clicked)
        self.extract.clicked.connect(self.extract_clicked)
        self.retry.clicked.connect(self.retry_clicked)
        self.pause.clicked.connect(self._ask_for_pause)
        self.cancel.clicked.connect(self.cancel_clicked)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run, 1)
        for button in (self.extract, self.retry, self.pause, self.cancel):
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 8)
        layout.setSpacing(5)
        for widget in (self.message, self.detail, self.bar):
            layout.addWidget(widget)
        layout.addLayout(buttons)
        self.set_running(False)

    def set_running(self, is_running: bool) -> None:
        """Offer to start, or to pause and cancel."""
        for button in (self.extract, self.retry):
            button.setVisible(not is_running)
        self._is_running = is_running
        self.offer(0)
        for button in (self.pause, self.cancel):
            button.setVisible(is_running)
            button.setEnabled(is_running)
        self._show_pause(False)
        self.bar.setVisible(is_running)
        if is_running:
            self.message.clear()
            self.bar.setRange(0, 0)
            self.say("Starting workers…")

    def offer(self, slides: int, *, with_model: bool = False) -> None:
        """Say of how many slides the buttons are."""
        of_all = f" on {slides} slide{'s' * (slides != 1)}" if slides else ""
        self.run.setText("Running…" if self._is_running else f"Run 2DMamba{of_all}")
        self.run.setEnabled(bool(slides) and with_model and not self._is_running)
        self.extract.setEnabled(bool(slides))

    def set_stopping(self) -> None:
        """Say that it ends as soon as the present batches are done."""
        self.pause.setEnabled(False)
        self.cancel.setEnabled(False)
        self.say("Stopping after the present batches…")

    def show_progress(self, share: float, words: str) -> None:
        """Show how much of all the work is done, 0 to 1."""
        if self.cancel.isEnabled():
            self.bar.setRange(0, _STEPS)
            self.bar.setValue(round(share * _STEPS))
            self.say(words)

    def say(self, words: str) -> None:
        """Show a line above the bar."""
        self.detail.setText(words)
        self.detail.setVisible(bool(words))

    def _ask_for_pause(self, is_wanted: bool) -> None:
        self._show_pause(is_wanted)
        self.pause_clicked.emit(is_wanted)

    def _show_pause(self, is_wanted: bool) -> None:
        if self._is_running:
            self.run.setText("Paused" if is_wanted else "Running…")
        self.pause.setChecked(is_wanted)
        self.pause.setText("Resume" if is_wanted else "Pause")
