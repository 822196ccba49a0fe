"""Effective receptive fields of image networks on a slide, start to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_2dmamba.errors import SlideError, UserError
from napari_2dmamba.settings import ProgressCallback, StopCallback, setting, validate

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from napari_2dmamba.features.transform import Transform
    from napari_2dmamba.slide import Slide
    from napari_2dmamba.vision.pixel_field import PixelField

PRETRAINED = "pretrained"


@dataclass(frozen=True)
class FieldSettings:
    """How effective receptive fields are computed."""

    crop: int = setting(
        448, "Side of a crop; a multiple of 32 puts whole cells into it.", unit="px", minimum=32
    )
    field_mpp: float | None = setting(
        None,
        "Resolution of the crops; left empty, level-0 pixels.",
        label="Resolution",
        unit="µm/px",
        minimum=0.01,
    )
    crops: int = setting(
        16, "How many crops are averaged: one at the place, the others near it.", minimum=1
    )
    spread: float = setting(
        0.5, "How far the other crops lie from the place, in sides of a crop.", minimum=0.0
    )
    rectified: bool = setting(
        True, "Negative features and gradients count as 0, as in the published figures."
    )
    seed: int = setting(0, "Draws the crops, and weights that are not given.", minimum=0)
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, ...", advanced=True)


@dataclass(frozen=True)
class SlideFields:
    """Receptive fields over one crop of a slide.

    Attributes
    ----------
    image
        ``(h, w, 3)`` uint8: the crop at the place.
    fields
        By network and stage; their `place` has the scale and translation of a layer.
    """

    image: NDArray[np.uint8]
    fields: tuple[PixelField, ...]


def fields_on_slide(
    slide: Slide,
    models: Sequence[str],
    settings: FieldSettings | None = None,
    *,
    at: tuple[float, float],
    stages: Sequence[int] | None = (-1,),
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> SlideFields:
    """Return the effective receptive fields of networks around a place of a slide.

    Parameters
    ----------
    slide
        In 8-bit colours.
    models
        ``"<timm model>=<weights file>"``; ``"<timm model>=pretrained"`` for timm's own weights;
        ``"<timm model>"`` for random ones, which the field's name then says. A folder of a
        trained classifier as ``"local-dir:<folder>"``.
    settings
        How; defaults when absent.
    at
        Level-0 ``(x, y)`` of the middle of the crop.
    stages
        Which, from 0; negative ones from the last, None for all.
    on_progress, should_stop
        Called for every crop.

    Raises
    ------
    UserError
        When the place is off the slide, or a network or its weights cannot be had.
    """
    from napari_2dmamba.features.encoder import choose_device
    from napari_2dmamba.vision.pixel_field import pixel_fields
    from napari_2dmamba.vision.region import Place

    settings = settings or FieldSettings()
    validate(settings)
    if not models:
        raise UserError("no network was named; name one, such as vmamba2d_tiny=weights.pth")
    width, height = slide.dimensions
    if not (0 <= at[0] < width and 0 <= at[1] < height):
        raise SlideError(
            f"the place {at[0]:g},{at[1]:g} lies off {slide.name}, which has {width} x {height} "
            "level-0 pixels; give a place on it"
        )
    device = choose_device(settings.device)
    crops, corner, step = _crops(slide, settings, at)
    total = settings.crops * len(models)
    fields: list[PixelField] = []
    for number, spec in enumerate(models):
        title, network, transform = load_spec(spec, settings)
        network = network.eval().to(device).requires_grad_(False)
        made = replace(transform, size=settings.crop)

        def images(made: Transform = made) -> Iterator[torch.Tensor]:
            import torch

            for crop in crops:
                yield made(torch.from_numpy(crop)[None], device)[0]

        def count(done: int, _: int, message: str, before: int = number) -> None:
            if on_progress is not None:
                on_progress(before * settings.crops + done, total, message)

        found = pixel_fields(
            network,
            images(),
            model=title,
            stages=stages,
            rectified=settings.rectified,
            total=settings.crops,
            on_progress=count,
            should_stop=should_stop,
        )
        fields += [replace(f, place=Place(corner, step, slide.mpp)) for f in found]
    return SlideFields(crops[0], tuple(fields))


def load_spec(spec: str, settings: FieldSettings) -> tuple[str, torch.nn.Module, Transform]:
    """Return title, network and transform of ``"<timm model>[=<weights>]"``."""
    import torch

    from napari_2dmamba.features.timm_encoder import (
        LoadedNetwork,
        create,
        load_network,
        require_timm,
    )

    name, _, weights = spec.partition("=")
    size: dict[str, Any] = {}
    if ":" not in name:
        known = require_timm().get_pretrained_cfg(name, allow_unregistered=True)
        if known is not None and known.fixed_input_size:
            size = {"img_size": settings.crop}
    if not weights and not name.startswith(("local-dir:", "hf-hub:")):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = create(name, **size)
        loaded = LoadedNetwork(network, dict(vars(network)["pretrained_cfg"]), "")
        return f"{name} (random weights)", network, loaded.transform
    file = None if weights in ("", PRETRAINED) else Path(weights)
    loaded = load_network(name, file, **size)
    label = name.rstrip("/").rpartition("/")[2] if name.startswith("local-dir:") else name
    return (label if file is None else f"{label} ({file.stem})"), loaded.network, loaded.transform


def _crops(
    slide: Slide, settings: FieldSettings, at: tuple[float, float]
) -> tuple[list[NDArray[np.uint8]], tuple[float, float], float]:
    """Return crops around a place, level-0 corner of the first, and level-0 pixels per pixel."""
    from napari_2dmamba.vision.region import SlidePicture

    draw = np.random.default_rng(settings.seed)
    picture = SlidePicture(slide, mpp=settings.field_mpp)
    side = settings.crop
    crops = []
    corner = (0.0, 0.0)
    for number in range(settings.crops):
        away = draw.uniform(-1, 1, 2) * settings.spread * side if number else np.zeros(2)
        left, top = (
            round(place / picture.step + a - side / 2) for place, a in zip(at, away, strict=True)
        )
        if not number:
            corner = (left * picture.step, top * picture.step)
        crops.append(np.array(picture.read(top, left, side, side)))
    return crops, corner, picture.step
