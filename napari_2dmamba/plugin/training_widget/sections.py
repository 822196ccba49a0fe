"""The sections: table and task, split, model and training, results."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFormLayout, QLabel, QListWidget, QListWidgetItem, QPushButton

from napari_2dmamba.evaluation.settings import EvaluationSettings
from napari_2dmamba.plugin.parts.form import ChoiceEditor, FlagEditor, Form, PathEditor, TextEditor
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.section import Fold, Section
from napari_2dmamba.plugin.session.preferences import preference
from napari_2dmamba.plugin.training_widget.architecture_options import ArchitectureOptions
from napari_2dmamba.plugin.training_widget.class_names import ClassNames
from napari_2dmamba.plugin.training_widget.plan import Checked
from napari_2dmamba.plugin.training_widget.slides_view import problem_icon
from napari_2dmamba.tasks.settings import SplitSettings, TableSettings
from napari_2dmamba.training.presets import PRESETS, preset
from napari_2dmamba.training.settings import FitSettings

if TYPE_CHECKING:
    from napari_2dmamba.models.architecture import ArchitectureConfig

_ROW_HEIGHT, _MOST_ROWS = 20, 5


class TaskSection(Section):
    """The table of labelled slides, and what is wrong with it.

    Signals
    -------
    changed()
        Another table is to be looked at, or this one again.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__("Table and task")
        self._stopping = 0
        self.hint = QLabel(
            "One row per slide: slide or features, patient, and label (or time, event)."
        )
        self.hint.setWordWrap(True)
        self.table = PathEditor("A table of labelled slides", "Tables (*.csv *.tsv *.txt)")
        self.form: Form[TableSettings] = Form(TableSettings, folders=("features",))
        self.again = QPushButton("Look again")
        self.again.setToolTip("Read the table and its features once more, after they were changed")
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.problems = QListWidget()
        self.problems.setWordWrap(True)
        self.problems.setToolTip("The slides concerned are marked in the table of slides")
        self.problems.hide()
        self.message = Message()
        self.classes = ClassNames()
        for widget in (
            self.hint, self.table, self.about, self.message, self.problems, self.classes
        ):  # fmt: skip
            self.body.addWidget(widget)
        self.body.addWidget(Fold("How it is read", self.form))
        self.body.addWidget(self.again)
        self.table.changed.connect(self.changed)
        self.form.changed.connect(self.changed)
        self.again.clicked.connect(self.changed)
        self.classes.changed.connect(self._say_names)

    @property
    def path(self) -> Path | None:
        """The table; None while none is chosen."""
        path = self.table.get()
        return None if path is None else Path(path)

    def say(self, words: str) -> None:
        """Say that the table is being looked at."""
        self.about.setText(words)
        self.problems.hide()
        self.message.clear()

    def show_checked(self, checked: Checked) -> None:
        """Show the task, and the problems with their counts."""
        table, problems = checked.table, checked.problems
        count = f", {len(problems)} remark{'s' * (len(problems) != 1)}" if problems else ""
        self.set_summary(table.kind + count)
        self.classes.show_table(table)
        self.about.setText(f"{table.kind.capitalize()} ({table.layout} table): {table.counts()}")
        self.problems.clear()
        for problem in problems:
            item = QListWidgetItem(problem_icon(stops=problem.stops), problem.sentence)
            item.setToolTip(problem.sentence + "".join(f"\n{name}" for name in problem.slides[:20]))
            self.problems.addItem(item)
        self.problems.setVisible(bool(problems))
        self.problems.setFixedHeight(8 + 2 * _ROW_HEIGHT * min(_MOST_ROWS, len(problems)))
        self._stopping = checked.stopping
        self._say_names()

    def _say_names(self) -> None:
        """Say what stands in the way: problems of the table, or of the names of its classes."""
        if self._stopping:
            many = self._stopping != 1
            self.message.say(
                f"{self._stopping} problem{'s' * many} must be mended before anything starts",
                "error",
            )
        elif self.classes.problem:
            self.message.say(self.classes.problem, "error")
        else:
            self.message.clear()

    def refuse(self, sentence: str) -> None:
        """Say why the table cannot be used."""
        self.set_summary("")
        self.about.setText("")
        self.problems.hide()
        self.classes.show_table(None)
        self.message.say(sentence, "error")


class SplitSection(Section):
    """How slides are parted.

    Signals
    -------
    changed()
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__("Split", is_open=False)
        self.form: Form[SplitSettings] = Form(SplitSettings)
        self.file = PathEditor("A split made before", "Tables (*.csv)")
        self.file.setToolTip("Ours, or CLAM's splits_0.csv; a folder of those can be typed")
        rows = QFormLayout()
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addRow("From a file", self.file)
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.body.addWidget(self.form)
        self.body.addLayout(rows)
        self.body.addWidget(self.about)
        self.form.changed.connect(self._follow)
        self.form.changed.connect(self.changed)
        self.file.changed.connect(self._follow)
        self.file.changed.connect(self.changed)
        self._follow()

    @property
    def path(self) -> Path | None:
        """The file of a split; None where one is drawn."""
        path = self.file.get()
        return None if path is None else Path(path)

    def show_checked(self, checked: Checked) -> None:
        """Say how many slides each model gets."""
        split = checked.split
        self.set_summary("" if split is None else split.method)
        folds = () if split is None else split.folds
        self.about.setText(
            "\n".join(
                f"fold {number}: {len(fold.train)} fitted, {len(fold.validation)} choose epochs, "
                f"{len(fold.test)} tested"
                for number, fold in enumerate(folds)
            )
        )

    def _follow(self) -> None:
        method = self.form.settings().method
        self.form.setVisible(self.path is None)
        for name in ("folds", "repeats"):
            self.form.set_row_visible(name, method in ("auto", "kfold"))
        self.form.set_row_visible("test_share", method == "held-out")


class FitSection(Section):
    """The architecture, the preset, and what is changed of it."""

    def __init__(self) -> None:
        super().__init__("Model and training", is_open=False)
        self._kind = "classification"
        self._device = preference("analysis", "device", FitSettings().device)
        self.architecture = ChoiceEditor(("2dmamba",))
        self.preset = ChoiceEditor(PRESETS)
        self.preset.setToolTip(
            "recommended: ours. published: what the 2DMamba repository does. See docs/training.md"
        )
        self.form: Form[FitSettings] = Form(FitSettings)
        self.about = QLabel()
        self.about.setWordWrap(True)
        self._rows = QFormLayout()
        self._rows.setContentsMargins(0, 0, 0, 0)
        self._rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._rows.addRow("Architecture", self.architecture)
        self._rows.addRow("Preset", self.preset)
        self.body.addLayout(self._rows)
        self.body.addWidget(self.about)
        self.options = ArchitectureOptions()
        self.body.addWidget(Fold("Settings of the training", self.form))
        self.body.addWidget(Fold("Options of the architecture", self.options))
        self.preset.changed.connect(self._take_preset)
        self.architecture.changed.connect(self._keep_changes)
        self.form.changed.connect(self._say)
        self.options.changed.connect(self._say)
        self._known: Mapping[str, type[ArchitectureConfig]] = {}
        self._base = self._of_preset()
        self._take_preset()

    def set_architectures(self, known: "Mapping[str, type[ArchitectureConfig]]") -> None:
        """Offer the aggregators of the registry, with the options that each one has."""
        chosen, names = self.architecture.get(), tuple(known)
        self._known = known
        self._rows.removeRow(0)
        self.architecture = ChoiceEditor(names)
        self.architecture.set(chosen if chosen in names else names[0])
        self.architecture.changed.connect(self._keep_changes)
        self._rows.insertRow(0, "Architecture", self.architecture)
        self._keep_changes()

    def set_kind(self, kind: str) -> None:
        """Follow the task of the table; what the user changed stays."""
        self._kind = kind
        survival = kind == "survival"
        for name in ("survival_loss", "alpha", "time_bins"):
            self.form.set_row_visible(name, survival)
        self.form.set_row_visible("class_weights", not survival)
        self._keep_changes()

    def _of_preset(self) -> FitSettings:
        fit = preset(self.preset.get(), self.architecture.get(), self._kind).fit
        return replace(fit, device=self._device)

    def _take_preset(self) -> None:
        self._base = self._of_preset()
        self.form.set_settings(self._base)
        self.options.forget()
        self.set_kind(self._kind)

    def _keep_changes(self) -> None:
        before, now, base = asdict(self._base), asdict(self.form.settings()), self._of_preset()
        changed: dict[str, Any] = {name: now[name] for name in now if now[name] != before[name]}
        self._base = base
        self.form.set_settings(replace(base, **changed))
        name = self.architecture.get()
        of_preset = preset(self.preset.get(), name, self._kind).config
        self.options.show_options(self._known.get(name), of_preset)
        self._say()

    def _say(self) -> None:
        now, base = asdict(self.form.settings()), asdict(self._base)
        changed = [name.replace("_", " ") for name in now if now[name] != base[name]]
        changed += [f"{name} = {value}" for name, value in self.options.changes.items()]
        self.set_summary(f"{self.architecture.get()}, {self.preset.get()}")
        self.about.setText(f"Changed: {', '.join(changed)}" if changed else "")
        self.about.setVisible(bool(changed))


class OutputSection(Section):
    """Where the training goes, and how its test parts are scored."""

    def __init__(self) -> None:
        super().__init__("Results")
        self._is_own_choice = False
        self.about = QLabel("A folder that holds a training already is gone on with.")
        self.about.setWordWrap(True)
        self.out = PathEditor("A folder for the training", folder=True)
        self.final = FlagEditor()
        self.final.set(True)
        self.final.setToolTip(
            "After the folds, one more model of all slides. Its scores are those of the folds: "
            "nothing is left to test it on"
        )
        self.intended_use = TextEditor(optional=False)
        self.intended_use.setToolTip("Shown wherever results of the model are")
        rows = QFormLayout()
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.addRow("Folder", self.out)
        rows.addRow("Model of all slides", self.final)
        rows.addRow("Intended use", self.intended_use)
        self.scoring: Form[EvaluationSettings] = Form(EvaluationSettings)
        self.body.addWidget(self.about)
        self.body.addLayout(rows)
        self.body.addWidget(Fold("Scores", self.scoring))
        self.out.changed.connect(self._choose)

    @property
    def folder(self) -> Path | None:
        """Where the training goes."""
        path = self.out.get()
        return None if path is None else Path(path)

    def suggest(self, folder: Path) -> None:
        """Fill in a folder, unless the user chose one."""
        if not self._is_own_choice and folder != self.folder:
            self.out.set(folder)
            self._tell()

    def _choose(self) -> None:
        self._is_own_choice = self.folder is not None
        self._tell()

    def _tell(self) -> None:
        self.set_summary("" if self.folder is None else self.folder.name)
