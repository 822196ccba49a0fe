"""A short campaign over every target; any number by ``python -m tests.fuzz``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import campaign

_ROOT = Path(__file__).resolve().parents[2]
TARGETS = sorted(
    p.stem for p in (Path(__file__).parent / "targets").glob("*.py") if p.stem != "__init__"
)


WHOLE_RUNS = ["records", "settings"]
"""Targets whose mutants go through a whole run; the others are cheap."""


@pytest.mark.skipif(not campaign.supported(), reason="needs fork and resource limits")
@pytest.mark.parametrize(
    ("targets", "count"),
    [(WHOLE_RUNS, 35), ([name for name in TARGETS if name not in WHOLE_RUNS], 100)],
    ids=["whole runs", "others"],
)
def test_mutants_work_or_get_a_sentence(targets: list[str], count: int) -> None:
    # A process of its own: the one that tests run in may hold threads, which do not fork. One for
    # many targets, as its imports take longer than their mutants
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *targets, "--count", str(count), "--seed", "2026"],
        cwd=_ROOT, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
