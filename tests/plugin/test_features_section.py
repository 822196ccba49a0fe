"""The choice of encoders: grouped, with what each takes, and what the checkpoint wants."""

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox

from napari_2dmamba.features.encoder_catalog import CATALOG
from napari_2dmamba.features.encoder_names import grouped_encoders
from napari_2dmamba.plugin.parts.features_section import FeaturesSection
from tests.plugin.conftest import LONG


def made(qtbot: Any) -> tuple[FeaturesSection, QComboBox]:
    section = FeaturesSection()
    qtbot.addWidget(section)
    return section, section.form.editor("encoder").findChild(QComboBox)


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


def test_below_the_choice_stands_what_it_takes(qtbot: Any) -> None:
    section, box = made(qtbot)
    assert section.about_encoder.isHidden()
    with qtbot.waitSignal(section.changed, timeout=LONG):
        box.setCurrentIndex(box.findText("virchow2"))
        box.activated.emit(box.currentIndex())
    assert section.settings.encoder == "virchow2"
    assert "huggingface.co/paige-ai/Virchow2" in section.about_encoder.text()
    assert section.about_encoder.kind == "warning"
    section.form.editor("weights").set("/tmp/virchow2.safetensors")
    section.form.changed.emit()
    assert "from the file you gave" in section.about_encoder.text()
    assert section.about_encoder.kind == "info"
    section.from_file.setChecked(True)
    assert section.about_encoder.text() == ""


def test_what_the_checkpoint_wants_is_marked(qtbot: Any) -> None:
    section, box = made(qtbot)
    section.follow_checkpoint("uni")
    assert bold(box) == ["uni"]
    assert section.about_encoder.text().startswith("The checkpoint was trained on it. UNI")
    box.setEditText("phikon")
    section.form.changed.emit()
    assert "trained on uni" in section.about_encoder.text()
    assert section.about_encoder.kind == "warning"
    section.follow_checkpoint("stain-texture-v1")
    assert bold(box) == ["stain-texture-v1"]
    section.follow_checkpoint(None)
    assert bold(box) == []
    assert section.about_encoder.text() == ""
    section.follow_checkpoint("conch")  # needs a file: not chosen, and said how
    assert section.settings.encoder == "stain-texture-v1"
    assert "export the network" in section.stated.text()
