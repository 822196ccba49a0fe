"""The figure of effective receptive fields: one panel per network and stage, beside the crop."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.vision.pixel_field import PixelField


def write_field_figure(
    fields: Sequence[PixelField],
    path: str | Path,
    *,
    image: NDArray[np.uint8] | None = None,
    power: float = 0.2,
    colormap: str = "Greens",
    dpi: int = 200,
) -> Path:
    """Write a figure: networks below each other, their stages side by side.

    Parameters
    ----------
    fields
        Of one crop size.
    path
        ``.png``, ``.pdf`` or ``.svg``.
    image
        The crop, shown first.
    power
        Exponent of the values shown; 0.2 as in the published figures.
    colormap
        Of matplotlib.
    dpi
        Of a ``.png``.

    Raises
    ------
    ExportError
        When the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows: dict[str, list[PixelField]] = {}
    for field in fields:
        rows.setdefault(field.model, []).append(field)
    extra = int(image is not None)
    columns = extra + max(len(row) for row in rows.values())
    figure = Figure(figsize=(2.6 * columns + 0.7, 2.85 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    shown = None
    for ax_row, (model, row) in zip(axes, rows.items(), strict=True):
        if image is not None:
            ax_row[0].imshow(image)
            ax_row[0].set_title("crop", fontsize=8)
        for ax, field in zip(ax_row[extra:], row, strict=False):
            shown = ax.imshow(field.shown(power), cmap=colormap, vmin=0, vmax=1)
            ax.set_title(
                f"{model}\nstage {field.stage + 1}, cross {field.cross_strength():.2f}, "
                f"half in {100 * field.area(0.5):.1f} %",
                fontsize=7,
            )
    if shown is not None:
        bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.01)
        bar.set_label(
            f"(gradient / largest) to the power {power:g}, mean of {_crops(fields)}",
            fontsize=7,
        )
        bar.ax.tick_params(labelsize=7)
    path = Path(path)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=dpi, bbox_inches="tight")
    return path


def _crops(fields: Sequence[PixelField]) -> str:
    """Say over how many crops fields are means; networks may have been asked otherwise."""
    fewest, most = (of(field.crops for field in fields) for of in (min, max))
    return f"{most} crops" if fewest == most else f"{fewest} to {most} crops"
