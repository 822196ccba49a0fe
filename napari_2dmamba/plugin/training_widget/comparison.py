"""Two trainings side by side: is one better on the slides that both tested?"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.errors import EvaluationError
from napari_2dmamba.plugin.parts.form import PathEditor
from napari_2dmamba.plugin.parts.jobs import LatestJob
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.settings import ProgressCallback, StopCallback

if TYPE_CHECKING:
    from napari_2dmamba.evaluation.comparison import Difference

_PREDICTIONS, _REPORT = "predictions.csv", "report.html"
_SHOWN_BELOW = 0.05
_COLUMNS = ("Score", "First", "Second", "Difference", "p", "Test")


@dataclass(frozen=True)
class Compared:
    """What two trainings say of the slides that both tested.

    Attributes
    ----------
    first, second
        Folders.
    slides, patients
        How many both tested.
    tested
        How many slides each of them tested.
    differences
        One per score and test.
    """

    first: Path
    second: Path
    slides: int
    patients: int
    tested: tuple[int, int]
    differences: "tuple[Difference, ...]"

    @property
    def names(self) -> tuple[str, str]:
        """What the two are called: their folders, and that above where those are called alike."""
        if self.first.name != self.second.name:
            return self.first.name, self.second.name
        of = [f"{one.parent.name}/{one.name}" for one in (self.first, self.second)]
        return of[0], of[1]

    def sentence(self) -> str:
        """Say the first difference in words."""
        on = f"on the {self.slides} slides of {self.patients} patients that both tested"
        if not self.differences:
            return f"{on}, no score can be compared: a class is missing among them"
        one, (first, second) = self.differences[0], self.names
        found = (
            "more than chance alone would often give"
            if one.p_value < _SHOWN_BELOW
            else "no difference is shown"
        )
        return (
            f"{score_name(one.score)} {one.first:.3f} of {first} against {one.second:.3f} of "
            f"{second}, {on}: {found} (p = {one.p_value:.2g}, {one.test})"
        )


def score_name(score: str) -> str:
    """Return a score's name for people."""
    words = score.replace("_", " ").replace("auroc", "AUROC")
    return words[:1].upper() + words[1:]


def compare_trainings(first: Path, second: Path, permutations: int, stop: StopCallback) -> Compared:
    """Compare what two finished trainings said of their test parts.

    Raises
    ------
    EvaluationError
        When a folder holds no scored training, or the two cannot be compared.
    Cancelled
        When ``stop()`` said so.
    """
    from napari_2dmamba.evaluation import compare_models, read_predictions

    if first.resolve() == second.resolve():
        raise EvaluationError("both folders are the same training; choose another one")
    for folder in (first, second):
        if not (folder / _PREDICTIONS).is_file():
            raise EvaluationError(
                f"{folder.name} holds no scored training ({_PREDICTIONS} is missing); train it to "
                "its end, or choose another folder"
            )
    a, b = (read_predictions(folder / _PREDICTIONS) for folder in (first, second))
    differences = compare_models(a, b, permutations=permutations, should_stop=stop)
    common = set(a.slides) & set(b.slides)
    patients = {group for name, group in zip(a.slides, a.groups, strict=True) if name in common}
    tested = len(set(a.slides)), len(set(b.slides))
    return Compared(first, second, len(common), len(patients), tested, differences)


class ComparisonView(QWidget):
    """Choose two trainings, and read whether they differ.

    Parameters
    ----------
    permutations
        How often the two predictions of each patient are exchanged at random.

    Signals
    -------
    report_wanted(path)
    """

    report_wanted = Signal(object)

    def __init__(self, permutations: int = 2000) -> None:
        super().__init__()
        self._permutations = permutations
        self.folders = tuple(PathEditor("A training's folder", folder=True) for _ in range(2))
        self.reports = tuple(QPushButton("Its report") for _ in self.folders)
        rows = QFormLayout()
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for title, folder, report in zip(
            ("First training", "Second training"), self.folders, self.reports, strict=True
        ):
            row = QHBoxLayout()
            row.addWidget(folder, 1)
            row.addWidget(report)
            rows.addRow(title, row)
            folder.changed.connect(self._compare)
            report.clicked.connect(lambda _=False, of=folder: self._want_report(of))
        self.hint = QLabel(
            "Two trainings on the same slides: DeLong's test, and permutations by patient, say "
            "whether their scores on the test parts differ."
        )
        self.hint.setWordWrap(True)
        self.message = Message()
        self.table = QTableWidget(0, len(_COLUMNS))
        self.table.setHorizontalHeaderLabels(_COLUMNS)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.table.setShowGrid(False)
        header, below = self.table.horizontalHeader(), self.table.verticalHeader()
        assert header is not None
        assert below is not None
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setStretchLastSection(True)
        below.hide()
        self.table.setMinimumHeight(110)
        self.table.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 4, 4, 0)
        layout.addWidget(self.hint)
        layout.addLayout(rows)
        layout.addWidget(self.message)
        layout.addWidget(self.table, 1)
        layout.addStretch(0)
        self._job = LatestJob(self, delay_ms=0)
        self._job.started.connect(lambda: self.message.say("Comparing…"))
        self._job.succeeded.connect(self._show)
        self._job.failed.connect(lambda sentence: self.message.say(sentence, "error"))
        self._follow()

    @property
    def is_busy(self) -> bool:
        """Whether two trainings are being compared."""
        return self._job.is_busy

    def set_first(self, folder: Path) -> None:
        """Choose the first training, as one that has just ended; the second stays."""
        self.folders[0].set(folder)
        self._compare()

    def set_second(self, folder: Path) -> None:
        """Choose the second training."""
        self.folders[1].set(folder)
        self._compare()

    def cancel(self) -> None:
        """Stop what runs."""
        self._job.cancel()

    def _compare(self) -> None:
        self._follow()
        self.table.hide()
        self.message.clear()
        first, second = (editor.get() for editor in self.folders)
        if first is None or second is None:
            self._job.cancel()
            return

        def task(progress: ProgressCallback, stop: StopCallback) -> Compared:
            return compare_trainings(Path(first), Path(second), self._permutations, stop)

        self._job.request(task)

    def _follow(self) -> None:
        for editor, report in zip(self.folders, self.reports, strict=True):
            folder = editor.get()
            report.setEnabled(folder is not None and (Path(folder) / _REPORT).is_file())

    def _want_report(self, editor: PathEditor) -> None:
        folder = editor.get()
        if folder is not None:
            self.report_wanted.emit(Path(folder) / _REPORT)

    def _show(self, found: Compared) -> None:
        if [str(found.first), str(found.second)] != [str(one.get()) for one in self.folders]:
            return  # of folders that are no longer chosen
        words, partly = found.sentence(), found.slides < max(found.tested)
        if partly:
            words += (
                f". They tested {found.tested[0]} and {found.tested[1]} slides: the others are "
                "left out"
            )
        self.message.say(words, "warning" if partly or not found.differences else "info")
        self.table.setRowCount(len(found.differences))
        for row, one in enumerate(found.differences):
            cells = (
                score_name(one.score), f"{one.first:.3f}", f"{one.second:.3f}",
                f"{one.first - one.second:+.3f}", f"{one.p_value:.2g}", one.test,
            )  # fmt: skip
            for column, text in enumerate(cells):
                item = QTableWidgetItem(text)
                if 0 < column < len(cells) - 1:
                    item.setTextAlignment(
                        Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                    )
                self.table.setItem(row, column, item)
        self.table.setVisible(bool(found.differences))
