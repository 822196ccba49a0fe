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


COUNTS = {"records": 30, "settings": 40}
"""Mutants of targets that go through a whole run; the others are cheap."""


@pytest.mark.skipif(not campaign.supported(), reason="needs fork and resource limits")
@pytest.mark.parametrize("target", TARGETS)
def test_mutants_work_or_get_a_sentence(target: str) -> None:
    count = str(COUNTS.get(target, 100))
    # A process of its own: the one that tests run in may hold threads, which do not fork
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", target, "--count", count, "--seed", "2026"],
        cwd=_ROOT, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
