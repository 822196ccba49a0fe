"""What a terminal shows of a cohort at work."""

import dataclasses
from types import SimpleNamespace

import pytest

from napari_2dmamba.cohort import SlideStatus, following
from napari_2dmamba.cohort import display as cohort_display


def test_the_terminal_says_how_far_it_is_and_how_long_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with cohort_display.LiveTable(20) as live:
        for number in range(10):
            row = SlideStatus(f"/s/{number}.svs", "running", patches_total=100)
            live.show(dataclasses.replace(row, patches_done=50, patches_per_second=8.0))
            live.show(dataclasses.replace(row, state="failed" if number == 3 else "done"))
        last = SlideStatus("/s/10.svs", "running", patches_done=50, patches_total=100)
        live.show(dataclasses.replace(last, patches_per_second=8.0))
        live._bars.refresh()
    said = capsys.readouterr().err
    assert "10/20" in said
    # half a slide more than ten in 200 s, so nine and a half take 181
    assert "1 failed · 1 at work · 8 patches/s · about 3 min 01 s left" in said
