"""Cohorts whose slides lie in a bucket, and whose results go into one.

Where NAPARI_2DMAMBA_S3 names a server such as moto's or MinIO's (http://127.0.0.1:5000), the round
trip is made there as well, in a bucket of its own.
"""

import csv
import dataclasses
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_2dmamba.cohort import (
    CohortSettings,
    CohortSummary,
    extract_cohort,
    find_slides,
)
from napari_2dmamba.cohort.plan import CohortPlan
from napari_2dmamba.cohort.run import _Ledger
from napari_2dmamba.cohort.slide_task import do_slide
from napari_2dmamba.errors import CohortError
from napari_2dmamba.features import read_features
from napari_2dmamba.pipeline import RunSettings
from napari_2dmamba.slide import GridSettings, addresses
from napari_2dmamba.slide.remote import s3_client
from tests.cohort.bucket import store
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


@pytest.fixture(params=["own", "other"])
def bucket(
    request: pytest.FixtureRequest, keys: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Any, str]]:
    """A client of a store, and the name of an empty bucket in it."""
    address = os.environ.get("NAPARI_2DMAMBA_S3", "")
    if request.param == "other" and not address:
        pytest.skip("NAPARI_2DMAMBA_S3 names no server")
    with store() as server:
        here = server.address if request.param == "own" else address
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", here)
        client, name = s3_client("the test"), f"test-{secrets.token_hex(4)}"
        if request.param == "other":
            client.create_bucket(Bucket=name)
        yield client, name


def objects(client: Any, name: str) -> dict[str, bytes]:
    """Everything in a bucket."""
    found = client.list_objects_v2(Bucket=name).get("Contents", ())
    keys = [one["Key"] for one in found]
    return {key: client.get_object(Bucket=name, Key=key)["Body"].read() for key in keys}


def results(out: Path) -> dict[str, bytes]:
    """What a folder of results holds for others."""
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")]
    plain = {path.parent for path in files if path.name == "features.h5"}
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in files
        if not (path.name.startswith("features-") and path.parent in plain)
    }


def test_results_go_into_a_bucket_from_slides_in_it(
    bucket: tuple[Any, str], scans: Path, tmp_path: Path
) -> None:
    client, name = bucket
    if os.environ["AWS_ENDPOINT_URL_S3"] == os.environ.get("NAPARI_2DMAMBA_S3"):
        for path in scans.iterdir():
            client.put_object(Bucket=name, Key=f"scans/{path.name}", Body=path.read_bytes())
        slides: list[Any] = [f"s3://{name}/scans/{path.name}" for path in sorted(scans.iterdir())]
    else:
        slides = [scans]  # our own store sends no parts of slides
    before = objects(client, name)
    how = CohortSettings(workers=1, retries=0, publish=f"s3://{name}/trial/runs/")
    summary = extract_cohort(slides, SETTINGS, out=tmp_path / "out", cohort=how)
    assert [row.state for row in summary.rows] == ["done", "failed", "done"]
    assert summary.unpublished == 0
    local = {
        f"trial/runs/{key}": data
        for key, data in results(tmp_path / "out").items()
        if not key.startswith("broken")
    }
    assert len(local) == 8
    assert objects(client, name) == before | local

    # what is there is left alone, and other things are neither mixed nor deleted
    client.put_object(Bucket=name, Key="mine/c/notes.txt", Body=b"mine")
    elsewhere = dataclasses.replace(how, publish=f"s3://{name}/mine")
    again = extract_cohort(slides, SETTINGS, out=tmp_path / "out", cohort=elsewhere)
    assert [row.state for row in again.rows] == ["reused", "failed", "reused"]
    assert (again.unpublished, again.exit_code) == (1, 1)
    assert "c in the bucket" in again.warnings[0]
    assert "holds other things than a result" in again.warnings[0]
    found = objects(client, name)
    assert found["mine/c/notes.txt"] == b"mine"
    assert {key for key in found if key.startswith("mine/c/")} == {"mine/c/notes.txt"}
    assert found["mine/a/features.h5"] == local["trial/runs/a/features.h5"]


def test_a_store_that_refuses_in_the_middle_leaves_no_half_result(
    keys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, out = tmp_path / "a.tif", tmp_path / "out"
    write_slide(slide, seed=1)
    how = CohortSettings(workers=1, publish="s3://bucket/runs")

    def below(prefix: str, found: dict[str, Any]) -> dict[str, bytes]:
        return {k.partition(prefix)[2]: v[0] for k, v in found.items() if prefix in k}

    def publish() -> CohortSummary:
        return extract_cohort([slide], SETTINGS, out=out, cohort=how)

    with store() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.address)
        assert publish().exit_code == 0
        first = below("/runs/a/", server.objects)
        assert first == results(out / "a")
        kept = dict(server.objects) | {"/bucket/runs/a/of an earlier version": (b"", {})}
        write_slide(slide, seed=2)
        assert extract_cohort([slide], SETTINGS, out=out, cohort=ALONE).exit_code == 0
        second = results(out / "a")

        for refused in range(1, 100):
            server.objects, server.writes, server.refuse_from = dict(kept), 0, refused
            if refused == 1:
                with pytest.raises(CohortError, match="could not be put into the bucket bucket"):
                    publish()
                continue
            summary = publish()
            found = below("/runs/a/", server.objects)
            if summary.exit_code == 0:
                break
            status = json.loads(found["status.json"])
            if status:
                assert found.items() >= (first if refused == 2 else second).items()
            server.refuse_from = None
            assert publish().exit_code == 0
            assert below("/runs/a/", server.objects) == second
        assert refused > len(second)
        assert found == second


@pytest.mark.parametrize("address", ["bucket/runs", "https://server/runs", "s3://", "s3:///runs"])
def test_an_address_that_is_no_bucket_is_refused(address: str, scans: Path, tmp_path: Path) -> None:
    how = CohortSettings(workers=1, publish=address)
    with pytest.raises(CohortError, match="published to addresses like s3://bucket/folder"):
        extract_cohort([scans], out=tmp_path / "out", cohort=how)
