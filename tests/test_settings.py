from dataclasses import dataclass

import pytest

from napari_2dmamba.settings import setting, validate


@dataclass(frozen=True)
class Example:
    size: int = setting(4, "A size.", minimum=1, maximum=8)
    mode: str = setting("a", "A mode.", choices=("a", "b"))
    mpp: float | None = setting(None, "Optional.", minimum=0.1)


def test_defaults_are_valid() -> None:
    validate(Example())
    assert Example().size == 4


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"size": 0}, "size is 0, but must be at least 1"),
        ({"size": 9}, "at most 8"),
        ({"mode": "c"}, "mode is 'c', but must be one of a, b"),
        ({"mpp": 0.0}, "mpp is 0.0"),
        ({"mpp": float("nan")}, "mpp is nan, but must be a finite number"),
        ({"mpp": float("inf")}, "mpp is inf, but must be a finite number"),
        ({"mpp": "0.5"}, "mpp is '0.5', but must be a number"),
        ({"size": True}, "size is True, but must be a number"),
        ({"size": None}, "size is None, but must be given"),
    ],
)
def test_what_is_wrong_is_named(values: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        validate(Example(**values))
