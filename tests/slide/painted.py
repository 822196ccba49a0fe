"""Pictures of slides at low resolution whose tissue and pen strokes are known."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

HEIGHT, WIDTH = 1000, 1400
Mask = NDArray[np.bool_]


def piece(y: float, x: float, radius: float, seed: int) -> Mask:
    """Return a lobed disc."""
    random = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radii = radius * (1 + gaussian_filter(0.15 * random.standard_normal(60), 2, mode="wrap"))
    corners = zip(x + radii * np.cos(angles), y + radii * np.sin(angles), strict=True)
    canvas = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(canvas).polygon(list(corners), fill=1)
    return np.asarray(canvas)


def stroke(points: list[tuple[int, int]], width: int) -> Mask:
    """Return a line as a pen draws it."""
    canvas = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(canvas).line(points, fill=1, width=width, joint="curve")
    return np.asarray(canvas)


def picture(
    *layers: tuple[Mask, tuple[int, int, int]],
    glass: tuple[float, float, float] = (243, 243.5, 242),
    blur: float = 1.5,
    texture: float = 6.0,
    shading: float = 0.0,
) -> NDArray[np.uint8]:
    """Paint masks over noisy glass, each with its colour, soft edges and some texture."""
    random = np.random.default_rng(0)
    image = np.broadcast_to(np.array(glass, float), (HEIGHT, WIDTH, 3)).copy()
    image -= np.linspace(0, shading, HEIGHT)[:, np.newaxis, np.newaxis]
    for mask, color in layers:
        alpha = gaussian_filter(mask.astype(float), blur)[..., np.newaxis]
        grain = gaussian_filter(random.standard_normal(mask.shape), 2) * 7 * texture / 2
        image = image * (1 - alpha) + alpha * (np.array(color) + grain[..., np.newaxis])
    image += random.standard_normal(image.shape) * 2
    return np.clip(image, 0, 255).astype(np.uint8)
