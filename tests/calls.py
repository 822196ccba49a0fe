"""How much work something is, in numbers that no busy machine changes."""

import sys
from collections.abc import Callable
from typing import Any


def python_calls(action: Callable[[], object]) -> int:
    """Count the calls of functions written in Python."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls
