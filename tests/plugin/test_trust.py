"""Encoders that checkpoints state, and the question before a program runs."""

from pathlib import Path
from typing import Any

import pytest
from qtpy.QtWidgets import QMessageBox, QWidget

from napari_2dmamba.features import trust
from napari_2dmamba.plugin.parts.features_section import FeaturesSection
from napari_2dmamba.plugin.parts.trust_question import may_run
from tests.plugin.test_features_section import header


@pytest.mark.parametrize("name", ["~/evil.ts", "timm:local-dir:/tmp/x", "/tmp/e.yaml", "a/b"])
def test_an_encoder_of_others_is_shown_and_not_chosen(qtbot: Any, name: str) -> None:
    section = FeaturesSection()
    qtbot.addWidget(section)
    before = section.settings
    section.follow_checkpoint(header(name))
    assert section.settings == before
    assert name in section.stated.text()
    assert "not chosen" in section.stated.text()
    section.follow_checkpoint(header("uni"))
    assert section.settings.encoder == "uni"
    assert section.stated.text() == ""
    section.follow_checkpoint(None)
    assert section.settings.encoder == "uni"


def test_a_program_is_asked_about_once(
    qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "consent_file", lambda: tmp_path / "trusted.json")
    program, asked = tmp_path / "mine.ts", []
    program.write_bytes(b"a program")
    window = QWidget()
    qtbot.addWidget(window)
    answers = [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]

    def answer(*given: Any) -> QMessageBox.StandardButton:
        asked.append(given[2])
        return answers[len(asked) - 1]

    monkeypatch.setattr(QMessageBox, "warning", answer)
    assert may_run(window, "uni")
    assert not may_run(window, str(program))
    assert may_run(window, str(program))
    assert may_run(window, str(program))
    assert len(asked) == 2
    assert "mine.ts" in asked[0]
    assert "write files" in asked[0]
