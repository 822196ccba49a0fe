"""Named rules by which a patch can be left out; all off unless asked for.

``blank``
    At least 95 % of the pixels are clear: mean optical density under 0.12.
``blurred``
    The tissue holds no detail: over pixels that are not clear, after means of about 1 µm, the
    mean magnitude of the four-neighbour Laplacian of the grey value is under 2.5 grey levels.
``pen``
    At least 15 % of the pixels have the colour of a marker: saturated blue or green, which
    haematoxylin and eosin do not give, or an even black.
"""

import numpy as np
from numpy.typing import NDArray

RULES = ("blank", "blurred", "pen")

_CLEAR_DENSITY, _BLANK_SHARE = 0.12, 0.95
_LEAST_DETAIL = 2.5
_PEN_SHARE = 0.15


def rule_that_drops(
    pixels: NDArray[np.uint8], mpp: float | None, rules: tuple[str, ...]
) -> str | None:
    """Return the first of ``rules`` that drops the patch, or None.

    Parameters
    ----------
    pixels
        ``(h, w, 3)`` uint8.
    mpp
        µm per pixel; 0.5 is taken when None.
    """
    step = max(1, round(1 / (mpp or 0.5)))
    h, w = (side // step * step for side in pixels.shape[:2])
    rgb = pixels[:h, :w].reshape(h // step, step, w // step, step, 3).mean((1, 3))
    density = -np.log((rgb + 1) / 256).mean(-1)
    tissue = density >= _CLEAR_DENSITY
    if "blank" in rules and 1 - tissue.mean() >= _BLANK_SHARE:
        return "blank"
    if "pen" in rules and _pen(rgb).mean() >= _PEN_SHARE:
        return "pen"
    inner = tissue[1:-1, 1:-1]
    if "blurred" in rules and inner.any():
        grey = rgb.mean(-1)
        around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        detail = np.abs(around - 4 * grey[1:-1, 1:-1])[inner].mean()
        if detail < _LEAST_DETAIL:
            return "blurred"
    return None


def _pen(rgb: NDArray[np.float64]) -> NDArray[np.bool_]:
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    brightest, darkest = rgb.max(-1), rgb.min(-1)
    saturated = brightest - darkest > 0.35 * np.maximum(brightest, 1)
    blue_pen = saturated & (blue >= brightest) & (red < green * 0.9)
    green_pen = saturated & (green >= brightest)
    black_pen = (brightest < 70) & (brightest - darkest < 20)
    return blue_pen | green_pen | black_pen
