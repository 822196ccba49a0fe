"""Cohorts whose slides lie in a bucket."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from napari_2dmamba.cohort import CohortSettings, extract_cohort, find_slides
from napari_2dmamba.cohort.run import _Ledger
from napari_2dmamba.cohort.slide_task import CohortPlan, do_slide
from napari_2dmamba.features import read_features
from napari_2dmamba.pipeline import RunSettings
from napari_2dmamba.slide import GridSettings, addresses
from tests.slide.served import serve
from tests.tiny import write_slide

pytest.importorskip("botocore", reason="the extra remote is not installed")
ALONE = CohortSettings(workers=1)
SETTINGS = RunSettings(grid=GridSettings(patch_size=64, target_mpp=0.5))


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "KEY"), ("AWS_SECRET_ACCESS_KEY", "SECRET"),
        ("AWS_EC2_METADATA_DISABLED", "true"), ("XDG_CACHE_HOME", str(tmp_path / "cache")),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)


def test_the_slides_of_a_list_lie_in_a_bucket(
    keys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = tmp_path / "served" / "bucket"
    files = [bucket / name for name in ("trial 1/a.tif", "trial 1/b.tif", "trial 2/a.tif")]
    for seed, path in enumerate(files):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_slide(path, seed=seed)
    listed = tmp_path / "cohort.csv"
    listed.write_text(
        "slide,label\ns3://bucket/trial 1/a.tif,tumour\ns3://bucket/trial 1/b.tif,normal\n"
        "s3://bucket/trial 2/a.tif,tumour\ns3://bucket/trial 2/none.tif,normal\n"
    )
    with serve(tmp_path / "served") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.address)
        once = dataclasses.replace(ALONE, retries=0)
        found = extract_cohort([listed], SETTINGS, out=tmp_path / "out", cohort=once)
        assert [(row.name, row.state, row.label) for row in found.rows] == [
            ("a.tif", "done", "tumour"), ("b.tif", "done", "normal"), ("a.tif", "done", "tumour"),
            ("none.tif", "failed", "normal"),
        ]  # fmt: skip
        assert "neither a file nor" in found.failed[0].reason
        assert len({row.folder for row in found.rows}) == 4
        local = extract_cohort(files, SETTINGS, out=tmp_path / "local", cohort=ALONE)
        for row, expected in zip(found.rows, local.rows, strict=False):
            here, there = (read_features(one.result["file"]).features for one in (expected, row))
            np.testing.assert_array_equal(there, here)
        with found.table.open(newline="") as file:
            told = [row["path"] for row in csv.DictReader(file)]
        assert sorted(told) == ["a.tif", "a.tif", "b.tif", "none.tif"]
        again = extract_cohort([listed], SETTINGS, out=tmp_path / "out", cohort=once)
        assert [row.state for row in again.rows] == ["reused"] * 3 + ["failed"]

        # a worker elsewhere has never heard of the address, and nothing prints it
        plan = CohortPlan(SETTINGS, str(tmp_path / "other"), "1")
        slides = find_slides(["s3://bucket/trial 1/a.tif"])
        job = _Ledger(slides, plan, None, None, full_paths=False).job(0)
        assert "s3://" not in repr(job)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache elsewhere"))
        assert addresses.address_of(slides[0].path) is None
        assert do_slide(job, lambda row: None, None).row.state == "done"
