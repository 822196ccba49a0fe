"""How a model is run; torch is loaded only to look for a device."""

from dataclasses import dataclass

from napari_2dmamba.errors import BackendError
from napari_2dmamba.settings import setting


@dataclass(frozen=True)
class ModelSettings:
    """How an aggregator is run on a bag."""

    device: str = setting(
        "auto",
        "Where the model runs: CUDA where there is one, or what you name.",
        choices=("auto", "cuda", "cpu"),
    )
    canvas: str = setting(
        "auto",
        "Where patches stand for models that see positions: on the canvas the model was trained "
        "on, or in the bounding box of this slide's own patches; auto is what the checkpoint says.",
        choices=("auto", "checkpoint", "slide"),
    )
    attention: str = setting(
        "auto",
        "Spread the attention over all cells, as published models do, or over tissue only; auto "
        "is what the checkpoint says.",
        choices=("auto", "all", "tissue"),
        advanced=True,
    )
    shared_cells: str = setting(
        "refuse",
        "Patches that share a cell of the canvas, as those that overlap do: refuse them, let the "
        "last win, as published code does, take the mean of their features, or make the cells as "
        "small as the step from patch to patch. Models that see no positions take every patch.",
        choices=("refuse", "last", "mean", "finer"),
        advanced=True,
    )


def device_and_reason(settings: ModelSettings) -> tuple[str, str]:
    """Return the device to run on, such as ``"cuda:0"`` or ``"cpu"``, and why in a sentence.

    Raises
    ------
    BackendError
        When CUDA is asked for and there is none.
    """
    import torch

    if settings.device == "cpu":
        return "cpu", "the CPU was asked for"
    if torch.cuda.is_available():
        index = torch.cuda.current_device()
        return f"cuda:{index}", f"CUDA device found: {torch.cuda.get_device_name(index)}"
    absent = (
        "no CUDA device was found"
        if torch.version.cuda
        else f"the installed torch {torch.__version__} is built without CUDA"
    )
    if settings.device == "cuda":
        raise BackendError(
            f"CUDA was asked for, but {absent}; choose device auto or cpu, or install a CUDA "
            "build of torch and its driver (`napari-2dmamba doctor` shows what is there)"
        )
    return "cpu", absent
