"""Text from files as a terminal may show it."""

import re

_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, DEL, C1
    r"\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]"  # what turns or breaks lines
    r"|[\ud800-\udfff]"  # bytes of a name that are no UTF-8
)


def printable(text: str, *, one_line: bool = False) -> str:
    r"""Return text in which nothing can steer a terminal: an escape becomes the word ``\x1b``.

    Names of slides, classes and checkpoints come from files of others; printed as they are, they
    could colour, overwrite or retitle the terminal.
    """
    if one_line:
        text = text.replace("\n", "\\n")
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
