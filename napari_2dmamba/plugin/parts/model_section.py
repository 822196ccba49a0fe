"""The section *Model and checkpoint*: which model, what it says of itself, where it runs."""

from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.checkpoints.summary import HUB_PREFIX
from napari_2dmamba.errors import UserError
from napari_2dmamba.models.header import CheckpointHeader, read_header
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.plugin.parts.checkpoint_chooser import CheckpointChooser
from napari_2dmamba.plugin.parts.checkpoint_model import shared_checkpoints
from napari_2dmamba.plugin.parts.form import Form
from napari_2dmamba.plugin.parts.jobs import LatestJob
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.section import Section
from napari_2dmamba.plugin.session import ChosenCheckpoint
from napari_2dmamba.plugin.session.preferences import preference
from napari_2dmamba.settings import ProgressCallback, StopCallback, setting

if TYPE_CHECKING:
    from napari_2dmamba.models import Aggregator

CHECKPOINT_FILTER = "Checkpoints (*.safetensors *.pt *.pth *.bin);;All files (*)"


@dataclass(frozen=True)
class ForeignCheckpoint:
    """What a checkpoint of published code does not hold; the widget asks for it."""

    canvas_rows: int = setting(
        100,
        "Rows of the canvas the model was trained on: the grid of cells it scans, one per patch.",
        minimum=1,
    )
    canvas_cols: int = setting(100, "Columns of that canvas.", label="Canvas columns", minimum=1)
    patch_size: int = setting(512, "Side of a training patch.", unit="px", minimum=1)
    task: str = setting(
        "classification", "What it predicts.", choices=("classification", "survival")
    )
    class_names: str = setting("", "Names of the classes or time bins, with commas between.")
    encoder: str | None = setting(
        None, "Encoder whose features it was trained on; empty when nobody knows."
    )

    def given(self, missing: tuple[str, ...]) -> dict[str, Any]:
        """Return the values of the ``missing`` settings, by the names `load_checkpoint` takes."""
        values = {
            "canvas": (self.canvas_rows, self.canvas_cols),
            "patch_size": self.patch_size,
            "task": self.task,
            "class_names": tuple(n.strip() for n in self.class_names.split(",") if n.strip()),
            "encoder": self.encoder,
        }
        return {name: values[name] for name in missing}


class ModelSection(Section):
    """The checkpoint and how it runs.

    Signals
    -------
    checkpoint_changed(header)
        A checkpoint was chosen and says what it is; None when it cannot be used.
    table_wanted()
        All checkpoints are to be shown.
    """

    checkpoint_changed = Signal(object)
    table_wanted = Signal()

    def __init__(self) -> None:
        super().__init__("Model and checkpoint", is_open=True)
        self.setAcceptDrops(True)
        self.header: CheckpointHeader | None = None
        self._aggregator: Aggregator | None = None
        self._given: dict[str, Any] = {}
        self._is_restoring = False
        self.checkpoints = CheckpointChooser(shared_checkpoints())
        self.checkpoints.setToolTip("A checkpoint file can also be dropped here")
        browse = QPushButton("Browse…")
        browse.clicked.connect(self._browse)
        self.all = QPushButton("All…")
        self.all.setToolTip("Show all checkpoints in a table, with what fits the open slide")
        self.all.clicked.connect(self.table_wanted)
        row = QHBoxLayout()
        row.addWidget(self.checkpoints, 1)
        row.addWidget(browse)
        row.addWidget(self.all)
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.warning = Message()
        self.message = Message()
        self.missing_box = QWidget()
        self._missing_layout = QVBoxLayout(self.missing_box)
        self._missing_layout.setContentsMargins(0, 0, 0, 0)
        self.missing_box.hide()
        self._missing_form: Form[ForeignCheckpoint] | None = None
        self._missing: tuple[str, ...] = ()
        self.form: Form[ModelSettings] = Form(ModelSettings)
        preferred = preference("analysis", "device", ModelSettings().device)
        self.form.set_settings(replace(ModelSettings(), device=preferred))
        self.device = QLabel()
        self.device.setWordWrap(True)
        self.body.addLayout(row)
        for widget in (self.warning, self.about, self.message, self.missing_box):
            self.body.addWidget(widget)
        self.body.addWidget(self.form)
        self.body.addWidget(self.device)
        self._loading = LatestJob(self, delay_ms=0)
        self._loading.succeeded.connect(self._on_loaded)
        self._loading.failed.connect(self._refuse)
        self._devices = LatestJob(self, delay_ms=0)
        self._devices.succeeded.connect(self.device.setText)
        self._devices.failed.connect(self.device.setText)
        self.form.editor("device").changed.connect(self._look_for_device)
        self.device.setText("auto takes a CUDA GPU where one works, else the CPU.")
        self._fetched: dict[str, Path] = {}
        self._loading.progressed.connect(self._show_fetching)
        self.checkpoints.chosen.connect(self._choose)
        self._choose(self.checkpoints.location)

    @property
    def settings(self) -> ModelSettings:
        """How the model runs."""
        return self.form.settings()

    @property
    def path(self) -> Path | None:
        """The file chosen now; None also while it is on Hugging Face still."""
        location = self.checkpoints.location
        if location.startswith(HUB_PREFIX):
            return self._fetched.get(location)
        return Path(location) if location else None

    @property
    def checkpoint(self) -> "Aggregator | Path | None":
        """What to run: a loaded model, or a file that states all its settings."""
        if self.header is None:
            return None
        return self._aggregator or self.path

    @property
    def chosen(self) -> ChosenCheckpoint:
        """What is chosen, with all that is known of it."""
        return ChosenCheckpoint(
            self.checkpoints.location, self.path, self.header, dict(self._given), self._aggregator
        )

    def restore(self, chosen: ChosenCheckpoint) -> None:
        """Show what was chosen before, or elsewhere; a model known already is not read again."""
        if chosen == self.chosen or not chosen.location:
            return
        self._loading.cancel()
        self._is_restoring = True
        self.checkpoints.choose(shared_checkpoints().add(chosen.location))
        self._is_restoring = False
        if chosen.header is None or chosen.path is None:
            self._choose(self.checkpoints.location)
            return
        self._forget()
        self._fetched[chosen.location] = chosen.path
        self._aggregator, self._given = chosen.loaded, dict(chosen.given)
        self._show_header(chosen.header)

    @property
    def checkpoint_settings(self) -> dict[str, Any]:
        """What the user gave that the file does not hold, as `load_checkpoint` takes it."""
        return dict(self._given)

    def add_checkpoint(self, path: Path | str, given: dict[str, Any] | None = None) -> None:
        """Put a file on the list of checkpoints and choose it.

        ``given`` is what the file does not hold, as `load_checkpoint` takes it.
        """
        self.checkpoints.choose(shared_checkpoints().add(path))
        if given:
            self._load(given)

    def show_device(self, device: str, reason: str, backend: str) -> None:
        """Say where the model ran."""
        scan = f"; scan: {backend}" if backend else ""
        self.device.setText(f"Ran on <b>{device}</b> ({reason}){scan}.")

    def dragEnterEvent(self, event: Any) -> None:
        """Accept one file."""
        data = event.mimeData()
        if data is not None and len(data.urls()) == 1 and data.urls()[0].isLocalFile():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Choose the dropped file."""
        data = event.mimeData()
        if data is not None:
            self.add_checkpoint(Path(data.urls()[0].toLocalFile()))

    def cancel(self) -> None:
        """Stop loading."""
        self._loading.cancel()
        self._devices.cancel()

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Choose a checkpoint", "", CHECKPOINT_FILTER)
        if path:
            self.add_checkpoint(Path(path))

    def _choose(self, location: str) -> None:
        if self._is_restoring:
            return
        self._loading.cancel()
        self._forget()
        if not location:
            self.set_summary("none chosen")
            self.checkpoint_changed.emit(None)
            return
        path = self.path
        if path is None:
            self._fetch(location)
            return
        try:
            self._accept(read_header(path))
        except UserError:
            # not one of ours, or damaged: loading it says which
            self.about.setText("Reading the checkpoint…")
            self.checkpoint_changed.emit(None)
            self._load({})

    def _fetch(self, location: str) -> None:
        self.about.setText("Fetching the checkpoint…")
        self.set_summary("being fetched")
        self.checkpoint_changed.emit(None)

        def task(progress: ProgressCallback, stop: StopCallback) -> Any:
            from napari_2dmamba.checkpoints.hub import fetch

            return fetch(location, progress, stop)

        self._loading.request(task)

    def _show_fetching(self, done: int, total: int, message: str) -> None:
        share = f" of {total / 1e6:.0f} MB" if total else ""
        self.about.setText(f"{message[:1].upper()}{message[1:]}{share}")

    def _load(self, given: dict[str, Any]) -> None:
        path = self.path
        assert path is not None
        self._given = given

        def task(progress: ProgressCallback, stop: StopCallback) -> Any:
            from napari_2dmamba.models import load_checkpoint
            from napari_2dmamba.models.published import MissingSettingsError

            try:
                return load_checkpoint(path, **given)
            except MissingSettingsError as error:
                return error

        self._loading.request(task)

    def _on_loaded(self, loaded: Any) -> None:
        if isinstance(loaded, Path):
            self._fetched[self.checkpoints.location] = loaded
            self._choose(self.checkpoints.location)
            return
        if isinstance(loaded, UserError):
            self._ask(loaded.missing)  # type: ignore[attr-defined]
            return
        self._aggregator = loaded
        self._clear_missing()
        self._accept(loaded.header)

    def _ask(self, missing: tuple[str, ...]) -> None:
        self._clear_missing()
        self._missing = missing
        self.about.clear()
        self.message.say(
            "These weights come without some settings; give those of the training", "info"
        )
        fields = {"canvas_rows", "canvas_cols", "patch_size", "task", "class_names", "encoder"}
        asked = set(missing) | ({"canvas_rows", "canvas_cols"} if "canvas" in missing else set())
        form: Form[ForeignCheckpoint] = Form(
            ForeignCheckpoint, leave_out=tuple(fields - asked), parent=self.missing_box
        )
        self.load_button = QPushButton("Load with these settings")
        self.load_button.clicked.connect(lambda: self._load(form.settings().given(self._missing)))
        self._missing_form = form
        self._missing_layout.addWidget(form)
        self._missing_layout.addWidget(self.load_button)
        self.missing_box.show()

    def _accept(self, header: CheckpointHeader) -> None:
        self._show_header(header)
        self.checkpoint_changed.emit(header)

    def _show_header(self, header: CheckpointHeader) -> None:
        self.message.clear()
        self.header = header
        self.about.setText(describe(header))
        if header.intended_use:
            self.warning.say(header.intended_use, "warning")
        self.set_summary(self.checkpoints.currentText())

    def _refuse(self, sentence: str) -> None:
        self.about.clear()
        self.message.say(sentence, "error")
        self.set_summary("cannot be used")
        self.checkpoint_changed.emit(None)

    def _forget(self) -> None:
        self.header = self._aggregator = None
        self._given = {}
        self.warning.clear()
        self.message.clear()
        self.about.clear()
        self._clear_missing()

    def _clear_missing(self) -> None:
        for child in self.missing_box.children():
            if isinstance(child, QWidget):
                self._missing_layout.removeWidget(child)
                child.deleteLater()
        self._missing_form = None
        self.missing_box.hide()

    def _look_for_device(self) -> None:
        settings = self.settings
        self.device.setText("Looking for a device…")

        def task(progress: ProgressCallback, stop: StopCallback) -> str:
            from napari_2dmamba.models.settings import device_and_reason

            device, reason = device_and_reason(settings)
            return f"Will run on <b>{device}</b>: {reason}."

        self._devices.request(task)


def describe(header: CheckpointHeader) -> str:
    """Return what a checkpoint says of itself, in two short lines of rich text."""
    classes = escape(", ".join(header.class_names))
    kind = "time bins" if header.task == "survival" else "classes"
    lines = [f"<b>{escape(header.architecture)}</b> · {header.task} · {kind}: {classes}"]
    patches = [f"{header.patch_size} px"] if header.patch_size else []
    patches += [f"{header.mpp:g} µm/px"] if header.mpp else []
    trained = f"{escape(header.encoder or 'encoder unknown')} ({header.feature_size} features)"
    lines.append(
        f"features: {trained}" + (f" · patches: {' at '.join(patches)}" if patches else "")
    )
    return "<br>".join(lines)
