"""Fixtures of the tests of slides."""

from pathlib import Path

import pytest

from napari_2dmamba.slide import remote


@pytest.fixture
def own_network_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is read over the network in a folder of the test, and try again at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.001)
