"""The question before an encoder that is a program runs for the first time."""

import html

from qtpy.QtWidgets import QMessageBox, QWidget

from napari_2dmamba.features.trust import WHAT_IT_CAN_DO, trust, untrusted_program


def may_run(parent: QWidget, encoder: str) -> bool:
    """Whether an encoder may run: none that is a program does before the user consents.

    The consent is kept for the content of the file.

    Raises
    ------
    FeatureError
        When a file of the encoder cannot be read.
    """
    program = untrusted_program(encoder)
    if program is None:
        return True
    answer = QMessageBox.warning(
        parent,
        "Run this program?",
        f"<b>{html.escape(program.name)}</b>: {WHAT_IT_CAN_DO}.<br><br>Run it only if you know and "
        "trust its maker. The answer is kept until the file changes.",
        QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.No,
        QMessageBox.StandardButton.No,
    )
    if answer != QMessageBox.StandardButton.Yes:
        return False
    trust(program)
    return True
