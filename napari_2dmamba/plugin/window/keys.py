"""The keys of the standalone viewer: one table for the menu, the help page and the docs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_2dmamba.plugin.window import commands

if TYPE_CHECKING:
    from napari.viewer import Viewer


@dataclass(frozen=True)
class Key:
    """A key and what it does.

    Attributes
    ----------
    keys
        As Qt names them.
    title
        Words of the menu.
    what
        What it does, in a sentence.
    run
        Does it.
    """

    keys: str
    title: str
    what: str
    run: Callable[["Viewer"], None]


def show_keys(viewer: "Viewer") -> None:
    """Show all keys in a window."""
    from napari_2dmamba.plugin.window.keys_window import KeysWindow

    KeysWindow(viewer.window._qt_window, as_rows()).show()


KEYS = (
    Key(
        "Ctrl+Return",
        "Run",
        "Runs the chosen model on the slide that is looked at",
        commands.run_slide,
    ),
    Key(
        "Ctrl+I",
        "Inspect",
        "Begins to inspect patches: click one to see what it looks at; again ends it",
        commands.inspect,
    ),
    Key(
        "Ctrl+L",
        "Open an address…",
        "Asks for the address of a slide on a server or in a bucket, and opens it",
        commands.open_address,
    ),
    Key("H", "Show or hide the map", "Takes the map off the slide and back", commands.toggle_map),
    Key(
        "N",
        "Next patch of the gallery",
        "Goes to the next patch, from the highest score down",
        commands.next_patch,
    ),
    Key(
        "Shift+N",
        "Previous patch of the gallery",
        "Goes back to the patch before",
        commands.previous_patch,
    ),
    Key("PgDown", "Next slide", "Looks at the next open slide", commands.next_slide),
    Key("PgUp", "Previous slide", "Looks at the open slide before", commands.previous_slide),
    Key("F1", "Keys", "Shows this table", show_keys),
)

ELSEWHERE = (
    ("Delete", "In the list *Slides*: closes the slide, or takes a recent one off the list"),
    ("Enter", "In the list *Slides*: looks at the slide, or opens it"),
    ("Arrow keys", "While inspecting: go to the neighbouring patch"),
    ("Escape", "While inspecting: ends it"),
    ("Alt while dropping", "napari asks which of its readers is to open the file"),
)
"""Keys that widgets take themselves."""


def as_rows() -> list[tuple[str, str]]:
    """Return all keys with what they do."""
    return [(one.keys, one.what) for one in KEYS] + list(ELSEWHERE)


def as_markdown() -> str:
    """Return the table of the docs."""
    rows = [f"| {keys} | {what} |" for keys, what in as_rows()]
    return "\n".join(["| Key | What it does |", "| --- | --- |", *rows])
