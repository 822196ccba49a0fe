"""What no checkpoint exceeds, and how its values are shown; loads nothing heavy."""

MOST_TENSORS = 20_000
"""Tensors a checkpoint may hold; the largest network here has about a thousand."""


def clipped(value: object, length: int = 160) -> str:
    """Return a value of a file as text for a sentence: short, and without control characters."""
    text = str(value) if isinstance(value, BaseException) else repr(value)
    text = "".join(c if c.isprintable() else " " for c in text[: length + 1])
    return text if len(text) <= length else text[: length - 3] + "..."
