from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from napari_2dmamba.cohort.dask_cluster import local_cluster
from napari_2dmamba.features import FeatureSettings
from napari_2dmamba.pipeline import RunSettings
from napari_2dmamba.slide import GridSettings
from tests.tiny import write_checkpoint, write_slide

SLOWLY = RunSettings(
    grid=GridSettings(patch_size=36, target_mpp=0.5),
    features=FeatureSettings(batch_size=1, threads=1),
)
"""Some 400 batches of one patch: time enough to be interrupted in the middle."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides, and between them one that is broken."""
    folder = tmp_path_factory.mktemp("scans")
    write_slide(folder / "a.tif", seed=1)
    (folder / "broken.svs").write_bytes(b"")
    write_slide(folder / "c.tif", seed=2)
    return folder


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    pytest.importorskip("distributed")
    with local_cluster(2, gpus=["7", "8"]) as made:
        yield made
