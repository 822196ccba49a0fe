"""A cohort on Dask workers of two machines that see each other over a network, and no further.

A machine is a network namespace. One worker is killed in the middle of a slide, and one does not
have the folder that all others share. It takes half a minute and rights that few users have, so
it is done where NAPARI_2DMAMBA_MACHINES=1 is set.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from napari_2dmamba.cohort import CohortSettings, extract_cohort
from napari_2dmamba.features import FeatureSettings, read_features
from napari_2dmamba.pipeline import RunSettings
from napari_2dmamba.slide import GridSettings
from tests.tiny import write_slide

pytest.importorskip("distributed")

HERE, THERE = "10.213.77.1", "10.213.77.2"
PATCH, SLIDES = 48, 5
SETTINGS = RunSettings(
    grid=GridSettings(patch_size=PATCH), features=FeatureSettings(batch_size=1, threads=1)
)

COMMAND = f"""
import json, sys
from napari_2dmamba.cohort import CohortSettings, extract_cohort
from tests.cohort.test_two_machines import SETTINGS

def tell(row):
    middle = 5 < row.patches_done < row.patches_total
    told = dict(name=row.name, good=row.good, worker=row.worker, middle=middle)
    print(json.dumps(told), flush=True)

summary = extract_cohort(
    sys.argv[1:2], SETTINGS, out=sys.argv[2], on_status=tell,
    cohort=CohortSettings(dask="tcp://{HERE}:8786"),
)
print(*summary.warnings, sep="\\n", file=sys.stderr)
sys.exit(summary.exit_code)
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces that are joined by a cable."""
    if os.environ.get("NAPARI_2DMAMBA_MACHINES") != "1":
        pytest.skip("takes half a minute; set NAPARI_2DMAMBA_MACHINES=1")
    if sys.platform != "linux" or shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("network namespaces need Linux, ip and unshare")
    names = tuple(f"n2m-{os.getpid()}-{side}" for side in "ab")
    try:
        for name in names:
            ip("netns", "add", name)
        ends = [f"v{os.getpid()}{side}" for side in "ab"]
        ip("link", "add", ends[0], "netns", names[0], "type", "veth",
           "peer", ends[1], "netns", names[1])  # fmt: skip
        for name, end, address in zip(names, ends, (HERE, THERE), strict=True):
            ip("-n", name, "addr", "add", f"{address}/30", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        pytest.skip(f"this user may not make network namespaces ({error.stderr.strip()})")
    yield names[0], names[1]
    for name in names:
        ip("netns", "del", name)


class Cluster:
    """A scheduler here, two workers here and two there, one of which lacks the shared folder."""

    def __init__(self, here: str, there: str, shared: Path, logs: Path) -> None:
        self.here, self._logs = here, logs
        self._running: list[subprocess.Popen[bytes]] = []
        self._start(here, "scheduler", "--host", HERE, "--port", "8786", "--no-dashboard")
        worker = ("worker", f"tcp://{HERE}:8786", "--nthreads", "1", "--memory-limit", "0",
                  "--no-nanny", "--no-dashboard", "--local-directory", str(logs))  # fmt: skip
        self.seeing = [
            self._start(here, *worker, "--host", HERE),
            self._start(here, *worker, "--host", HERE),
            self._start(there, *worker, "--host", THERE),
        ]
        self.blind = self._start(there, *worker, "--host", THERE, without=shared)

    def _start(self, machine: str, *words: str, without: Path | None = None) -> int:
        command = ["ip", "netns", "exec", machine, sys.executable, "-m", "dask", *words]
        if without is not None:
            hide = f'mount -t tmpfs none "{without}" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", hide, "sh", *command]
        log = (self._logs / f"{len(self._running)}.log").open("wb")
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self._running.append(process)
        return process.pid

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(machines: tuple[str, str], tmp_path: Path) -> Iterator[Cluster]:
    for name in ("shared", "logs"):
        (tmp_path / name).mkdir()
    with contextlib.closing(Cluster(*machines, tmp_path / "shared", tmp_path / "logs")) as made:
        yield made


@pytest.mark.timeout(400)
def test_no_slide_is_lost_and_none_done_twice(cluster: Cluster, tmp_path: Path) -> None:
    scans, out = tmp_path / "shared" / "scans", tmp_path / "shared" / "out"
    scans.mkdir()
    names = [write_slide(scans / f"{n}.tif", seed=n).name for n in range(SLIDES)]
    command = subprocess.Popen(
        ["ip", "netns", "exec", cluster.here, sys.executable, "-c", COMMAND, str(scans), str(out)],
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "complaints").open("w"),
        text=True,
    )
    assert command.stdout is not None
    killed, rows, workers = "", [], {}
    for line in command.stdout:
        row = json.loads(line)
        name, worker = row["name"], row["worker"]
        if row["good"]:
            rows.append(name)
        if worker:
            workers.setdefault(name, []).append(int(worker.rpartition(":")[2]))
        if not killed and row["middle"]:
            os.kill(workers[name][-1], signal.SIGKILL)
            killed = name
    complaints = (tmp_path / "complaints").read_text()
    assert command.wait(60) == 0, complaints
    assert sorted(rows) == names

    for name in names:
        log = (out / name.removesuffix(".tif") / "log.txt").read_text(encoding="utf-8")
        assert log.count(" begins ") == 1 + (name == killed)
        assert ("going on from" in log) is (name == killed)
    assert len(set(workers[killed])) == 2
    used = {worker for found in workers.values() for worker in found}
    assert used <= set(cluster.seeing)
    assert cluster.seeing[2] in used  # over the cable
    assert f"does not see {out} and was given no slides" in complaints
    assert "Traceback" not in complaints

    alone = extract_cohort(
        [scans], SETTINGS, out=tmp_path / "alone", cohort=CohortSettings(workers=1)
    )
    for expected in alone.rows:
        here = read_features(expected.result["file"])
        found = read_features(out / Path(expected.folder).name / "features.h5")
        np.testing.assert_array_equal(found.features, here.features)
        np.testing.assert_array_equal(found.coords, here.coords)
