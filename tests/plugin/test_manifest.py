from pathlib import Path

import pytest
from napari._app_model.constants._menus import is_menu_contributable
from npe2 import PluginManifest

from napari_2dmamba.plugin.npe2.reader import SLIDE_PATTERNS
from napari_2dmamba.slide.tile_cache import DEFAULT_CACHE_MB
from tests.plugin.conftest import MANIFEST


def test_every_python_name_can_be_imported(manifest: PluginManifest) -> None:
    manifest.validate_imports()
    for command in manifest.contributions.commands:
        assert callable(command.python_name and _load(command.python_name))


def _load(name: str) -> object:
    import importlib

    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def test_menus_exist_and_commands_are_declared(manifest: PluginManifest) -> None:
    contributions = manifest.contributions
    declared = {command.id for command in contributions.commands}
    assert contributions.menus
    for menu, items in contributions.menus.items():
        assert is_menu_contributable(menu), menu
        assert {item.command for item in items} <= declared
    for part in (
        contributions.readers,
        contributions.writers,
        contributions.widgets,
        contributions.sample_data,
    ):
        assert part
        assert {item.command for item in part} <= declared


def test_widgets_and_readers_are_what_the_documentation_names(manifest: PluginManifest) -> None:
    names = [widget.display_name for widget in manifest.contributions.widgets]
    assert names == [
        "Run 2DMamba", "Inspect 2DMamba", "Regions", "Cohort 2DMamba", "Train 2DMamba",
        "Compare 2DMamba", "Image networks", "Checkpoints", "Slide overview", "Slides",
    ]  # fmt: skip
    (reader,) = manifest.contributions.readers
    assert tuple(reader.filename_patterns) == SLIDE_PATTERNS
    assert "*.h5" not in reader.filename_patterns


def test_preferences(manifest: PluginManifest) -> None:
    from napari.settings import get_plugin_settings

    settings = get_plugin_settings("napari-2dmamba")
    assert settings.slides.cache_mb == DEFAULT_CACHE_MB
    assert settings.analysis.device == "auto"


def test_manifest_is_visible_at_the_top_of_the_project() -> None:
    top = MANIFEST.parents[1] / "napari.yaml"
    if not top.exists():
        pytest.skip("not a checkout")
    assert Path(top).resolve() == MANIFEST.resolve()
