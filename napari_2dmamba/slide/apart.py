"""Read a new slide's first tiles in a process apart, so that a crash in a decoder is not ours."""

import subprocess
import sys
from pathlib import Path

from napari_2dmamba.errors import SlideError

_SECONDS = 60.0
"""A slide's first tiles take a second or two, start of the process included."""


def require_survives(path: Path) -> None:
    """Have another process open the slide and read a tile of each level.

    What it finds wrong and can say, opening here says again.

    Raises
    ------
    SlideError
        When that process dies or does not come back.
    """
    command = [sys.executable, "-m", "napari_2dmamba.slide.apart", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise SlideError(
            f"{path.name} could not be read within {_SECONDS:.0f} s in a process apart, so it was "
            "not opened here; the file is probably damaged: copy or export it again"
        ) from None
    if done.returncode != 0:
        raise SlideError(
            f"{path.name} makes the library that reads it crash (tried in a process apart, code "
            f"{done.returncode}), so it was not opened here; copy or export it again"
        )


def _read_first_tiles(path: Path) -> None:
    from napari_2dmamba.slide.backend import TileError
    from napari_2dmamba.slide.slide import open_slide

    try:
        with open_slide(path) as slide:
            for index, level in enumerate(slide.levels):
                row = level.height // 2 // level.tile_height
                slide.read_tile(index, row, level.width // 2 // level.tile_width)
    except (SlideError, TileError):
        return  # the process that asked meets it too, and says it


if __name__ == "__main__":
    _read_first_tiles(Path(sys.argv[1]))
