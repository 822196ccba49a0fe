"""The choice of encoders: grouped, with what each takes, and what the checkpoint wants."""

import time
from pathlib import Path
from typing import Any

from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QComboBox, QFileDialog, QLineEdit

from napari_2dmamba.features import FeatureSettings, encoder_speed, extract_features
from napari_2dmamba.features.encoder import load_encoder
from napari_2dmamba.features.encoder_catalog import CATALOG
from napari_2dmamba.features.encoder_names import grouped_encoders
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.plugin.parts.encoder_facts_view import WANTED
from napari_2dmamba.plugin.parts.features_section import FeaturesSection
from napari_2dmamba.plugin.parts.file_or_folder import FileOrFolderButton
from napari_2dmamba.slide import GridSettings, detect_tissue, make_grid, open_slide
from tests.plugin.conftest import LONG


def made(qtbot: Any) -> tuple[FeaturesSection, QComboBox]:
    section = FeaturesSection()
    qtbot.addWidget(section)
    return section, section.encoder_form.form.editor("encoder").findChild(QComboBox)


def bold(box: QComboBox) -> list[str]:
    fonts = [box.itemData(row, Qt.ItemDataRole.FontRole) for row in range(box.count())]
    return [box.itemText(row) for row, font in enumerate(fonts) if font and font.bold()]


def test_all_encoders_are_offered_under_headings(qtbot: Any) -> None:
    _, box = made(qtbot)
    groups: dict[str, list[str]] = {}
    heading = ""
    for row in range(box.count()):
        if box.model().item(row).isEnabled():
            groups[heading].append(box.itemText(row))
        else:  # a heading cannot be chosen
            heading = box.itemText(row).strip("— ")
            groups[heading] = []
    assert groups == {access.value: [*names] for access, names in grouped_encoders().items()}
    tips = [box.itemData(box.findText(name), Qt.ItemDataRole.ToolTipRole) for name in CATALOG]
    for tip, entry in zip(tips, CATALOG.values(), strict=True):
        assert ("hf auth login" in tip) == entry.gated
        assert entry.page in tip


def header(encoder: str | None, features: int = 1024) -> CheckpointHeader:
    """A checkpoint that was trained on an encoder."""
    config = {"feature_size": features, "n_outputs": 2}
    return CheckpointHeader("abmil", config, "classification", ("a", "b"), encoder, mpp=0.5)


def test_below_the_choice_stand_the_facts_and_what_is_to_be_done(qtbot: Any) -> None:
    section, box = made(qtbot)
    facts = section.encoder_form.facts
    assert facts.text("Needs") == "nothing: works at once, without a network"
    assert facts.text("Features") == "102 per patch"
    assert facts.text(WANTED) == "none is open"
    with qtbot.waitSignal(section.changed, timeout=LONG):
        box.setCurrentIndex(box.findText("virchow2"))
        box.activated.emit(box.currentIndex())
    assert section.settings.encoder == "virchow2"
    assert "licence accepted" in facts.text("Needs")
    assert "CC BY-NC-ND 4.0" in facts.text("Licence")
    assert "https://huggingface.co/paige-ai/Virchow2" in facts.text("Licence")
    assert facts.text("Size") == "631.2 M parameters, 2,525 MB in float32"
    assert facts.text("Features") == "2560 per patch"
    assert facts.text("Input") == "224 px, 0.5 µm/px"
    assert "hf auth login" in section.encoder_form.to_do.text()
    assert section.encoder_form.to_do.kind == "warning"
    section.encoder_form.form.editor("weights").set("/tmp/virchow2.safetensors")
    section.encoder_form.form.changed.emit()
    assert "from the file you gave" in facts.text("Needs")
    assert section.encoder_form.to_do.text() == ""
    box.setEditText("conch")
    section.encoder_form.form.changed.emit()
    assert facts.text("Size") == "not known here"
    assert "export the network" in section.encoder_form.to_do.text()
    section.from_file.setChecked(True)
    assert section.encoder_form.isHidden()
    section.compute.setChecked(True)
    box.setEditText("timm:resnet18")
    section.encoder_form.form.changed.emit()
    assert "not in the lists" in facts.text("Needs")
    assert facts.text("Size") == ""


def test_what_the_checkpoint_wants_is_marked_and_named(qtbot: Any) -> None:
    section, box = made(qtbot)
    facts = section.encoder_form.facts
    section.follow_checkpoint(header("uni"))
    assert bold(box) == ["uni"]
    assert facts.text(WANTED) == "match: trained on uni, on patches at 0.5 µm/px"
    box.setEditText("phikon")
    section.encoder_form.form.changed.emit()
    assert facts.text(WANTED) == "mismatch: trained on uni"
    section.follow_checkpoint(header("stain-texture-v1", 102))
    assert bold(box) == ["stain-texture-v1"]
    assert facts.text(WANTED).startswith("match")
    section.follow_checkpoint(header(None, 512))
    assert facts.text(WANTED) == ("mismatch: takes 512 features, and stain-texture-v1 gives 102")
    section.follow_checkpoint(None)
    assert bold(box) == []
    assert facts.text(WANTED) == "none is open"
    section.follow_checkpoint(header("conch", 512))  # needs a file: not chosen, and said how
    assert section.settings.encoder == "stain-texture-v1"
    assert "export the network" in section.stated.text()


def test_the_speed_is_there_once_it_was_measured_and_only_where_it_was(
    qtbot: Any, slide_path: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(encoder_speed, "speeds_file", lambda: tmp_path / "speeds.json")
    monkeypatch.setattr(encoder_speed, "_measured_here", {})
    section, box = made(qtbot)
    facts = section.encoder_form.facts
    assert facts.text("Speed here") == "not measured here yet"
    settings = FeatureSettings(device="cpu", batch_size=2)
    slow = Slowed()
    with open_slide(slide_path) as slide:
        grid = make_grid(slide, detect_tissue(slide), GridSettings(patch_size=128))
        extract_features(slide, grid, settings, encoder=slow)
    section.show_facts()
    kept = encoder_speed.latest_speed("stain-texture-v1", "auto", "float32")
    assert kept is not None
    assert 0 < kept.patches_per_second < slow.most
    assert f"{kept.patches_per_second:.3g} patches/s, reading included" in facts.text("Speed here")
    assert f"{len(grid)} patches of 128 px, 2 at a time" in facts.text("Speed here")
    section.encoder_form.form.editor("device").set("cuda")
    section.encoder_form.form.changed.emit()
    assert facts.text("Speed here") == "not measured here yet"
    section.encoder_form.form.editor("device").set("cpu")
    box.setEditText("uni")
    section.encoder_form.form.changed.emit()
    assert facts.text("Speed here") == "not measured here yet"


def test_features_are_a_file_or_a_folder(qtbot: Any, tmp_path: Path, monkeypatch: Any) -> None:
    section, _ = made(qtbot)
    section.from_file.setChecked(True)
    file, store, dropped = tmp_path / "a.h5", tmp_path / "a.zarr", tmp_path / "b.zarr"
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *args: (str(file), ""))
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *args: str(store))
    button = section.file.findChild(FileOrFolderButton)
    with qtbot.waitSignal(section.changed, timeout=LONG):
        button.file.trigger()
    assert section.feature_file == file
    with qtbot.waitSignal(section.changed, timeout=LONG):
        button.folder.trigger()
    assert section.feature_file == store
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(f"{dropped}/")])
    how = Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    section.file.findChild(QLineEdit).dropEvent(QDropEvent(QPointF(5, 5), *how))
    assert section.feature_file == dropped
    of_many = FeaturesSection(of_many=True)  # where a folder is what is asked for
    qtbot.addWidget(of_many)
    assert of_many.file.findChild(FileOrFolderButton) is None


class Slowed:
    """The embedded encoder, which takes a known time at least."""

    most = 50.0
    """Patches per second."""

    def __init__(self) -> None:
        self._inner = load_encoder(device="cpu")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode(self, patches: Any, mpp: float | None = None) -> Any:
        time.sleep(len(patches) / self.most)
        return self._inner.encode(patches, mpp)
