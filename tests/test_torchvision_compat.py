import importlib.util

import pytest

from tests import warm

IMPORT = """
from napari_2dmamba.torchvision_compat import import_needing_torchvision
for name in {names}:
    print(import_needing_torchvision(name).__name__)
"""


@pytest.mark.parametrize(
    "names", [("timm", "torchmetrics"), ("torchmetrics", "timm"), ("torchmetrics.functional",)]
)
def test_either_may_come_first(names: tuple[str, ...]) -> None:
    """In a process of its own: where torchvision does not fit torch, the first import decides."""
    for name in names:
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            pytest.skip(f"{name} is not installed")
    said = warm.python("-c", IMPORT.format(names=names))
    assert said.stdout.split() == list(names), said.stderr
