"""Callbacks of the viewer that do not keep what they call."""

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod


def weak_callback(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls a method for as long as its object lives.

    napari keeps mouse callbacks in plain lists, which would keep the widget alive.
    """
    reference = WeakMethod(method)

    def call(*args: Any) -> Any:
        target = reference()
        return target(*args) if target is not None else None

    return call
