"""The command line: one module per command, each with a function that adds it to the parser."""

from napari_2dmamba.cli.main import main, view_main

__all__ = ["main", "view_main"]
