"""Slides opened, closed, switched, drawn on, run, cancelled and reopened in random order.

After every step, all that is visible, counted and written is of the slide that is looked at.
"""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from napari_2dmamba.plugin.layers.region_layers import drawn_regions, ensure_region_layer
from napari_2dmamba.plugin.layers.slide_layer import slide_of
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.plugin.session import SlideState
from napari_2dmamba.plugin.session.layer_marks import SLIDE_ID
from tests.plugin.conftest import process_events, tissue_pixels, write_slide
from tests.plugin.run_widget import checkpoint, finish, runs, widget

__all__ = ["checkpoint", "runs", "widget"]  # fixtures
STEPS = 20


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    return make_napari_viewer(show=True)


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three slides of three sizes and resolutions, one of which states none."""
    folder, pixels = tmp_path_factory.mktemp("three"), tissue_pixels()
    sides = {"a": (512, 768, 0.5), "b": (768, 512, 0.4), "c": (512, 512, None)}
    return [
        write_slide(
            folder / f"{name}.tif",
            mpp=mpp,
            pixels=np.ascontiguousarray(pixels[400 : 400 + height, 400 : 400 + width]),
        )
        for name, (height, width, mpp) in sides.items()
    ]


class Walk:
    """One walk; what it did stands in ``steps``, for when it fails."""

    def __init__(self, widget: RunWidget, qtbot: Any, paths: list[Path], random: Random) -> None:
        self.widget, self.session, self.qtbot = widget, widget.session, qtbot
        self.paths, self.random = paths, random
        self.saved: list[tuple[Path, str, Any]] = []
        self.regions: dict[str, int] = {}
        self.steps: list[str] = []

    def step(self) -> None:
        names = ["open", "switch", "draw", "run", "run", "run_and_leave", "cancel", "close",
                 "close_layer", "reopen", "see", "correct"]  # fmt: skip
        name = self.random.choice(names) if self.session.slides else "open"
        self.steps.append(name)
        getattr(self, name)()
        process_events(1)
        self.check()

    def any_slide(self) -> SlideState:
        return self.random.choice(self.session.slides)

    def open(self) -> None:
        if len(self.session.slides) < 4:
            path = self.random.choice(self.paths)
            assert self.widget.open_slides([path]) == ()
            assert self.session.current is self.session.slides[-1]
            self.widget.slide_section.mpp_row.use_pixels.setChecked(path.stem == "c")

    def switch(self) -> None:
        section = self.widget.slide_section.slides
        section.setCurrentIndex(self.random.randrange(section.count()))

    def see(self) -> None:
        slide = self.any_slide()
        layer = self.random.choice(self.session.layers_of(slide))
        layer.visible = True
        assert self.session.current is slide or layer in self.session.layers_of(slide)

    def draw(self) -> None:
        slide = self.session.current
        assert slide is not None
        layer = ensure_region_layer(self.session, slide, "include")
        layer.add_rectangles(np.array([[0, 0], [0, 600], [600, 600], [600, 0]]))
        self.regions[slide.key] = self.regions.get(slide.key, 0) + 1

    def correct(self) -> None:
        slide = self.session.current
        assert slide is not None
        if slide.slide.mpp is not None:
            self.session.set_mpp(slide, self.random.choice([None, 0.45]))

    def run(self) -> None:
        slide = self.session.current
        assert slide is not None
        before = slide.run
        self.widget.start_run()
        finish(self.widget, self.qtbot)
        assert slide.run is not None
        assert slide.run is not before
        self.keep(slide)

    def run_and_leave(self) -> None:
        slide = self.session.current
        assert slide is not None
        self.widget.start_run()
        self.session.show(self.any_slide())
        self.check()
        finish(self.widget, self.qtbot)
        if slide.run is not None:
            self.keep(slide)

    def keep(self, slide: SlideState) -> None:
        run = slide.run
        assert run is not None
        assert run.folder is not None
        assert run.record.slide.name == slide.name
        assert len(run.regions or ()) == self.regions.get(slide.key, 0)
        assert (run.grid.coords < slide.slide.dimensions).all()
        self.saved.append((run.folder, slide.name, run.prediction.logits))

    def cancel(self) -> None:
        self.widget.start_run()
        if self.random.random() < 0.5:
            self.widget.cancel()
        else:
            assert self.session.current is not None
            self.session.close(self.session.current)
        finish(self.widget, self.qtbot)

    def close(self) -> None:
        self.session.close(self.any_slide())

    def close_layer(self) -> None:
        self.session.viewer.layers.remove(self.session.pyramid_of(self.any_slide())[0])

    def reopen(self) -> None:
        if not self.saved:
            return
        folder, name, logits = self.random.choice(self.saved)
        before = {slide.key: drawn_regions(self.session, slide) for slide in self.session.slides}
        self.widget.open_saved_run(folder)
        finish(self.widget, self.qtbot)
        slide = self.session.current
        assert slide is not None
        assert slide.name == name
        assert slide.run is not None
        np.testing.assert_array_equal(slide.run.prediction.logits, logits)
        if not before.get(slide.key):  # nothing was drawn: those of the run have come
            drawn = drawn_regions(self.session, slide)
            made_in = slide.run.regions
            covers = [one.content_hash() for one in (drawn, made_in) if one]
            assert len(covers) in (0, 2)
            assert len(set(covers)) <= 1
            self.regions[slide.key] = len(drawn or ())

    def check(self) -> None:
        """What is to hold at every moment."""
        session, widget, viewer = self.session, self.widget, self.session.viewer
        slide = session.current
        assert (slide is None) == (not session.slides)
        keys = {one.key for one in session.slides}
        assert {layer.metadata.get(SLIDE_ID) for layer in viewer.layers} == keys
        for one in session.slides:
            assert len(session.pyramid_of(one)) == 1
            assert len(drawn_regions(session, one) or ()) == self.regions.get(one.key, 0)
            for layer in session.runs.maps_of(one):
                assert one.run is not None
                np.testing.assert_array_equal(layer.data, one.run.maps[0].values)
                assert layer.grid_map.mpp == one.slide.mpp
        result, section = widget.result_section, widget.slide_section
        if slide is None:
            assert not viewer.layers
            assert "No result" in result.headline.text()
            return
        visible = [layer for layer in viewer.layers if layer.visible]
        assert all(layer.metadata[SLIDE_ID] == slide.key for layer in visible)
        assert any(slide_of(layer) is slide.slide for layer in visible)
        unit = "pixel" if slide.slide.mpp is None else "micrometer"
        assert str(viewer.layers.units[-1]) == unit
        assert section.slides.currentIndex() == session.slides.index(slide)
        stated = "unknown" if slide.slide.mpp is None else f"{slide.slide.mpp:.4g}"
        assert stated in section.mpp_row.about.text()
        drawn = len(drawn_regions(session, slide) or ())
        assert (f"{drawn} to include" if drawn else "None drawn") in section.regions_about.text()
        assert section.mpp_row.use_pixels.isChecked() == slide.choices.in_pixels
        assert widget.shown is slide.run
        assert widget.export_section.export.isEnabled() == (slide.run is not None)
        if slide.run is None:
            assert "No result" in result.headline.text()
            assert not viewer.canvas.overlays.text.visible
            return
        said = slide.run.prediction
        assert said.probabilities is not None
        assert f"{said.probabilities[said.top_class]:.3f}" in result.headline.text()
        assert slide.name in result.about.text()
        assert slide.run.record.slide.fingerprint == slide.slide.fingerprint
        assert bool(result.other_mpp.text()) == (slide.run.mpp != slide.slide.mpp)


@pytest.mark.parametrize("seed", [3, 11])
def test_in_any_order(widget: RunWidget, qtbot: Any, paths: list[Path], seed: int) -> None:
    walk = Walk(widget, qtbot, paths, Random(seed))
    try:
        for _ in range(STEPS):
            walk.step()
    except BaseException:
        print("after", ", ".join(walk.steps))
        raise
