from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtWidgets import QSpinBox

from napari_2dmamba.cohort.settings import CohortSettings
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.features import FeatureSettings
from napari_2dmamba.models import ModelSettings
from napari_2dmamba.plugin.parts.form import Form
from napari_2dmamba.settings import setting
from napari_2dmamba.slide import GridSettings, TissueSettings
from tests.plugin.conftest import LONG


@dataclass(frozen=True)
class Everything:
    count: int = setting(5, "How many.", minimum=1, maximum=9, unit="px")
    share: float = setting(0.25, "A share.", minimum=0.0, maximum=1.0)
    mpp: float = setting(0.5, "A number.", minimum=0.05, unit="µm/px")
    threshold: float | None = setting(None, "May be absent.", minimum=0.0, maximum=1.0)
    mode: str = setting("a", "A choice.", choices=("a", "b"), label="Way")
    flag: bool = setting(True, "Yes or no.")
    name: str | None = setting(None, "A text.", advanced=True)
    file: Path | None = setting(None, "A file.", advanced=True)  # noqa: RUF009


@pytest.mark.parametrize(
    "settings_class",
    [Everything, TissueSettings, GridSettings, FeatureSettings, ModelSettings, DisplaySettings],
)
def test_a_form_starts_with_the_defaults(qtbot: Any, settings_class: type) -> None:
    form: Form[Any] = Form(settings_class)
    qtbot.addWidget(form)
    assert form.settings() == settings_class()


def test_every_kind_of_value_goes_in_and_comes_out(qtbot: Any) -> None:
    form: Form[Everything] = Form(Everything)
    qtbot.addWidget(form)
    wanted = Everything(
        count=7, share=0.75, mpp=0.2528, threshold=0.12, mode="b", flag=False,
        name="x", file=Path("/tmp/a.h5"),
    )  # fmt: skip
    with qtbot.waitSignal(form.changed, timeout=LONG):
        form.set_settings(wanted)
    assert form.settings() == wanted
    form.set_settings(Everything())
    assert form.settings() == Everything()


def test_limits_hold(qtbot: Any) -> None:
    form: Form[Everything] = Form(Everything)
    qtbot.addWidget(form)
    form.editor("count").set(1000)
    assert form.settings().count == 9


def test_fields_that_are_left_out_keep_their_value(qtbot: Any) -> None:
    form: Form[Everything] = Form(Everything, leave_out=("count",))
    qtbot.addWidget(form)
    form.set_settings(Everything(count=3))
    assert form.settings().count == 3


def test_tooltips_say_what_the_command_line_says(qtbot: Any) -> None:
    form: Form[GridSettings] = Form(GridSettings)
    qtbot.addWidget(form)
    assert form.editor("patch_size").toolTip() == (
        "Side of a patch, in pixels at the target resolution."
    )


def test_editing_says_so_once(qtbot: Any) -> None:
    form: Form[Everything] = Form(Everything)
    qtbot.addWidget(form)
    count = []
    form.changed.connect(lambda: count.append(1))
    form.editor("mode").set("b")
    assert count == [1]


def test_a_number_shows_what_zero_stands_for(qtbot: Any) -> None:
    form: Form[CohortSettings] = Form(CohortSettings)
    qtbot.addWidget(form)
    box = form.editor("workers").findChild(QSpinBox)
    assert box.text() == "auto"
    assert form.settings().workers == 0
    box.setValue(3)
    assert box.text() == "3"
    assert form.settings().workers == 3
