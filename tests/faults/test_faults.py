"""A kill, a full disk or no free memory at any call: the next run gives the same, bit by bit.

``FAULTS_EVERY=1`` tries every single call, which takes minutes; without it some are tried.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("faults are put under the process by a preloaded library: Linux with cc")
    made = tmp_path_factory.mktemp("shim") / "shim.so"
    source = str(HERE / "shim.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
    return made


EVERY = {
    "extraction": 9,
    "cohort_extraction": 29,
    "run": 41,
    "export": 180,
    "training": 140,
}
"""Of each action's calls, one in how many is tried."""


@pytest.mark.timeout(900)
def test_after_any_fault_the_next_run_gives_the_same(shim: Path, tmp_path: Path) -> None:
    every = EVERY
    if "FAULTS_EVERY" in os.environ:
        every = dict.fromkeys(EVERY, int(os.environ["FAULTS_EVERY"]))
    told = subprocess.run(
        [sys.executable, "-m", "tests.faults.campaign", str(tmp_path), json.dumps(every)],
        env={**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    answers = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("{")]
    assert [found["action"] for found in answers] == list(every)
    known = ("No space left on device", "memory", "GB are free")
    for found in answers:
        assert found["calls"] > 10, found["action"]
        assert found["wrong"] == [], found["action"]
        assert all(any(word in sentence for word in known) for sentence in found["sentences"])
