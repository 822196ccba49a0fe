"""How wide words are in a figure, and how they are made to fit."""

from napari_2dmamba.compare.figure_layout import MM_PER_POINT


def panel_letters() -> list[str]:
    """Return the names of panels: A to Z, then AA to AZ."""
    alphabet = [chr(ord("A") + number) for number in range(26)]
    return alphabet + [f"A{letter}" for letter in alphabet]


def width_of_text(text: str, size: float, *, bold: bool = False) -> float:
    """Return the width of a line in mm; ``size`` is in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    font = FontProperties(family=["DejaVu Sans"], weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text, size=size, prop=font).get_extents().x1) * MM_PER_POINT


def shortened(text: str, room: float, size: float) -> str:
    """Return as much of a line as fits into ``room`` mm, with a mark where it was cut."""
    if width_of_text(text, size) <= room:
        return text
    for length in range(len(text) - 1, 0, -1):
        cut = text[:length].rstrip() + "…"
        if width_of_text(cut, size) <= room:
            return cut
    return ""


def wrapped(text: str, room: float, size: float) -> list[str]:
    """Break a text into lines of at most ``room`` mm."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of_text(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
