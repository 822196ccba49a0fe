"""A short campaign over every target; any number by ``python -m tests.fuzz``."""

from pathlib import Path

import pytest

from tests import warm
from tests.fuzz import campaign

TARGETS = sorted(
    p.stem for p in (Path(__file__).parent / "targets").glob("*.py") if p.stem != "__init__"
)


@pytest.mark.skipif(not campaign.supported(), reason="needs fork and resource limits")
@pytest.mark.parametrize("target", TARGETS)
def test_a_hundred_mutants_work_or_get_a_sentence(target: str) -> None:
    # A process of its own: the one that tests run in may hold threads, which do not fork
    done = warm.python("-m", "tests.fuzz", target, "--count", "100", "--seed", "2026")
    assert done.returncode == 0, done.stdout + done.stderr
