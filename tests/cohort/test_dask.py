"""Cohorts on a real Dask cluster of several processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_2dmamba.cohort import CohortSettings, CohortSummary, extract_cohort, read_cohort
from napari_2dmamba.cohort.dask_cluster import as_many_as_fit, dealt
from napari_2dmamba.cohort.executors import _as_task, _BlindWorkers
from napari_2dmamba.cohort.plan import CohortPlan
from napari_2dmamba.cohort.slide_task import SlideTask
from napari_2dmamba.cohort.slides import CohortSlide
from napari_2dmamba.cohort.status import SlideStatus
from napari_2dmamba.errors import CohortError
from napari_2dmamba.features import extract_features, read_features
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.pipeline import prepare_grid
from napari_2dmamba.slide import open_slide
from tests.cohort.conftest import SLOWLY

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def undisturbed(scans: Path) -> dict[str, FeatureBag]:
    bags = {}
    for path in scans.glob("*.tif"):
        with open_slide(path) as slide:
            assert SLOWLY.grid is not None
            _, grid = prepare_grid(slide, SLOWLY, SLOWLY.grid, None)
            bags[path.name] = extract_features(slide, grid, SLOWLY.features)
    return bags


def assert_bit_equal(summary: CohortSummary, expected: dict[str, FeatureBag]) -> None:
    rows = {row.name: row for row in summary.rows if row.good}
    assert rows.keys() == expected.keys()
    for name, bag in expected.items():
        found = read_features(rows[name].result["file"])
        np.testing.assert_array_equal(found.features, bag.features)
        np.testing.assert_array_equal(found.coords, bag.coords)


def test_a_killed_worker_is_replaced_and_its_slide_goes_on(
    cluster: Any, scans: Path, tmp_path: Path, undisturbed: dict[str, FeatureBag]
) -> None:
    killed: list[SlideStatus] = []
    workers: dict[str, set[str]] = {}

    def watch(row: SlideStatus) -> None:
        if row.worker:
            workers.setdefault(row.name, set()).add(row.worker)
        if not killed and 0 < row.patches_done < row.patches_total:
            killed.append(row)
            os.kill(int(row.worker.rsplit(":", 1)[1]), signal.SIGKILL)

    summary = extract_cohort(
        [scans],
        SLOWLY,
        out=tmp_path,
        cohort=CohortSettings(dask=cluster.scheduler_address),
        on_status=watch,
    )
    assert killed
    assert [(row.name, row.state) for row in summary.rows] == [
        ("a.tif", "done"),
        ("broken.svs", "failed"),
        ("c.tif", "done"),
    ]
    assert "is empty (0 bytes)" in summary.rows[1].reason
    assert summary.exit_code == 1
    assert len(workers[killed[0].name]) == 2
    assert "going on from" in Path(killed[0].folder, "log.txt").read_text()
    assert str(os.getpid()) not in {w.rsplit(":")[1] for ws in workers.values() for w in ws}
    assert_bit_equal(summary, undisturbed)


def test_stopping_on_dask_and_going_on_without(
    cluster: Any, scans: Path, tmp_path: Path, undisturbed: dict[str, FeatureBag]
) -> None:
    from distributed import Client

    begun: set[str] = set()
    slides = [scans / "a.tif", scans / "c.tif"]
    with Client(cluster) as client:
        summary = extract_cohort(
            slides,
            SLOWLY,
            out=tmp_path,
            client=client,
            on_status=lambda row: begun.add(row.name) if row.patches_done else None,
            should_stop=lambda: bool(begun),
        )
        assert client.status == "running"  # somebody else's client is left open
    assert summary.exit_code == 130
    assert {row.state for row in summary.rows} <= {"stopped", "done"}
    assert not list(tmp_path.glob(".at-work-*"))
    again = extract_cohort(slides, SLOWLY, out=tmp_path, cohort=CohortSettings(workers=1))
    assert again.exit_code == 0
    assert_bit_equal(again, undisturbed)


def test_a_pause_reaches_the_workers(
    cluster: Any, scans: Path, tmp_path: Path, undisturbed: dict[str, FeatureBag]
) -> None:
    begun: set[str] = set()
    held: list[float] = []
    known: dict[str, int] = {}
    went_on: list[SlideStatus] = []

    def watch(row: SlideStatus) -> None:
        if row.patches_done:
            begun.add(row.name)
        # the batch at hand, and the news of it, may take a while
        if (
            held
            and 3 < time.monotonic() - held[0] < 4
            and row.patches_done > known.get(row.name, 0)
        ):
            went_on.append(row)
        known[row.name] = row.patches_done

    def should_pause() -> bool:
        if len(begun) == 2 and (not held or time.monotonic() - held[0] < 4):
            held.append(time.monotonic())
            return True
        return False

    summary = extract_cohort(
        [scans / "a.tif", scans / "c.tif"],
        SLOWLY,
        out=tmp_path,
        cohort=CohortSettings(dask=cluster.scheduler_address),
        on_status=watch,
        should_pause=should_pause,
    )
    assert summary.seconds > 4
    assert held
    assert went_on == []
    assert_bit_equal(summary, undisturbed)


def test_one_worker_in_a_process_of_its_own(scans: Path, tmp_path: Path) -> None:
    settings = CohortSettings(workers=1, apart=True)
    summary = extract_cohort([scans / "a.tif"], out=tmp_path, cohort=settings)
    assert summary.exit_code == 0
    assert summary.rows[0].worker.rsplit(":")[1] != str(os.getpid())


def test_workers_share_out_the_gpus(cluster: Any) -> None:
    from distributed import Client

    with Client(cluster) as client:
        seen = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
    assert sorted(seen.values()) == ["7", "8"]


def test_gpus_are_dealt_in_turn() -> None:
    gpus = ["0", "1", "GPU-c", "3"]
    assert [dealt(gpus, worker) for worker in range(5)] == [["0"], ["1"], ["GPU-c"], ["3"], ["0"]]
    assert [dealt(gpus, worker, 2) for worker in range(3)] == [
        ["0", "1"], ["GPU-c", "3"], ["0", "1"]
    ]  # fmt: skip
    assert dealt(gpus, 1, 3) == ["3", "0", "1"]
    assert dealt(["7"], 1, 2) == ["7"]  # the training itself says that it is one too few
    assert [as_many_as_fit(gpus, each) for each in (1, 2, 3, 8)] == [4, 2, 1, 1]


def test_a_worker_that_is_slow_to_come_back_is_not_given_up(cluster: Any) -> None:
    import dask

    delay = dask.config.get("distributed.deploy.lost-worker-timeout")
    assert dask.utils.parse_timedelta(delay) >= 600


def test_a_worker_that_does_not_see_the_folder_says_so(
    cluster: Any, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Client

    out = tmp_path / "mounted nowhere"
    job = SlideTask(
        CohortPlan(SLOWLY, str(out), "1"), CohortSlide(scans / "a.tif"), alone=True, attempt=1
    )
    with Client(cluster) as client:
        found = client.submit(_as_task, job, 0, str(out / ".at-work-1")).result()
        addresses = list(client.nthreads())
    assert not out.exists()
    assert found.address in addresses

    # the other is left; with none left, it ends with a sentence after a while
    blind = _BlindWorkers(out)
    assert not blind
    blind.add(found)
    assert blind.others(addresses) == [one for one in addresses if one != found.address]
    monkeypatch.setattr("napari_2dmamba.cohort.executors._SECONDS_FOR_OTHERS", 0)
    blind.require_others([found.address])
    blind.require_others(addresses)
    blind.require_others([found.address])
    with pytest.raises(CohortError, match=f"does not see {out} and was given no slides"):
        blind.require_others([found.address])


def test_the_scheduler_is_given_a_few_slides_at_a_time(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_2dmamba.cohort.executors._MOST_HANDED_OUT", 3)
    at_once: list[int] = []
    summary = extract_cohort(
        [tmp_path / f"{number}.svs" for number in range(12)],
        out=tmp_path / "out",
        cohort=CohortSettings(dask=cluster.scheduler_address, retries=1),
        on_status=lambda row: at_once.append(len(cluster.scheduler.tasks)),
    )
    assert [row.attempts for row in summary.failed] == [2] * 12
    assert 1 < max(at_once) <= 3 + 2  # those that ended are forgotten a moment later


def heed_interrupts() -> None:
    """Undo what a shell does to the children of jobs in its background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def begin(out: Path, *slides: Path, workers: int = 1) -> subprocess.Popen[str]:
    """Start the command line on slides, and wait until batches are being kept."""
    command = [sys.executable, "-m", "napari_2dmamba.cli", "extract", *map(str, slides)]
    command += ["--out", str(out), "--patch-size", "36", "--batch-size", "1", "--threads", "1"]
    command += ["--workers", str(workers)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    deadline = time.monotonic() + 150
    while sum(p.stat().st_size for p in out.glob("*/*.journal")) < 5000:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_two_runs_on_one_folder_do_each_slide_once(
    scans: Path, tmp_path: Path, undisturbed: dict[str, FeatureBag]
) -> None:
    slides = (scans / "a.tif", scans / "c.tif")
    other = begin(tmp_path, *slides)
    seen: set[tuple[str, str]] = set()
    summary = extract_cohort(
        slides,
        SLOWLY,
        out=tmp_path,
        cohort=CohortSettings(workers=1),
        on_status=lambda row: seen.add((row.name, row.state)),
    )
    said, complaints = other.communicate(timeout=120)
    assert other.returncode == 0, complaints
    assert summary.exit_code == 0, said
    assert ("a.tif", "elsewhere") in seen
    for name in ("a", "c"):
        assert (tmp_path / name / "log.txt").read_text().count(" begins ") == 1
    assert_bit_equal(summary, undisturbed)


def test_a_run_that_was_killed_goes_on(
    scans: Path, tmp_path: Path, undisturbed: dict[str, FeatureBag]
) -> None:
    process = begin(tmp_path, scans / "a.tif", scans / "c.tif")
    process.kill()
    process.communicate()
    (row,) = read_cohort(tmp_path).rows
    assert (row.name, row.state, row.reason) == ("a.tif", "stopped", "its worker was killed")
    summary = extract_cohort([scans], SLOWLY, out=tmp_path, cohort=CohortSettings(workers=1))
    assert "going on from" in (tmp_path / "a" / "log.txt").read_text()
    assert_bit_equal(summary, undisturbed)


def test_ctrl_c_with_workers_of_our_own(scans: Path, tmp_path: Path) -> None:
    process = begin(tmp_path, scans / "a.tif", scans / "c.tif", workers=2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "napari-2dmamba: stopped; what was finished is kept"
    assert "Traceback" not in said
    assert {row.state for row in read_cohort(tmp_path).rows} <= {"stopped", "done"}
