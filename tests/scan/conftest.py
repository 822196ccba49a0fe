"""Fixtures of the scan's tests."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """Let every buffer start as NaN, so that a cell no kernel writes shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)
