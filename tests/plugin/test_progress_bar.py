import time
from typing import Any

from napari_2dmamba.plugin.parts.progress_bar import ProgressBar
from tests.plugin.conftest import LONG


def test_a_busy_bar_moves_and_is_drawn_a_few_times_a_second(qtbot: Any) -> None:
    class Counted(ProgressBar):
        drawn = 0

        def paintEvent(self, event: Any) -> None:
            self.drawn += 1
            super().paintEvent(event)

    bar = Counted()
    qtbot.addWidget(bar)
    bar.setRange(0, 0)
    bar.resize(200, 20)
    bar.show()
    qtbot.waitUntil(lambda: bar.drawn > 0, timeout=LONG)
    begun, before = time.monotonic(), bar.drawn
    qtbot.waitUntil(lambda: bar.drawn >= before + 4, timeout=LONG)  # it moves
    qtbot.wait(1000)
    assert bar.drawn - before <= 5 * (time.monotonic() - begun) + 3
