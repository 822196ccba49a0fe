"""A model ready to run: a network, its header, and the checks between it and a bag."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_2dmamba.errors import BackendError, Cancelled, CheckpointError, FeatureError
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models.answer import answer_of
from napari_2dmamba.models.architecture import Architecture, ArchitectureConfig
from napari_2dmamba.models.finite import check_output
from napari_2dmamba.models.fit import misfit, not_compared
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.models.prediction import SlidePrediction
from napari_2dmamba.models.settings import ModelSettings, device_and_reason
from napari_2dmamba.scan import backend_for
from napari_2dmamba.settings import ProgressCallback, StopCallback, validate
from napari_2dmamba.slide.grid import cells_of, check_cells


@dataclass(frozen=True)
class ModelInputs:
    """A bag made ready for a network: what `Architecture.forward` takes.

    Attributes
    ----------
    model
        The network with the options of this run, on `device`, in evaluation mode.
    features
        ``(N, D)`` float32 on `device`.
    cells
        ``(N, 2)`` int64 on `device`.
    canvas
        ``(rows, cols)``.
    device, device_reason
        Where it runs, and why there.
    record
        Options of this run by name, and what could not be checked.
    """

    model: Architecture
    features: Tensor
    cells: Tensor
    canvas: tuple[int, int]
    device: str
    device_reason: str
    record: dict[str, Any]


class Aggregator:
    """A loaded or freshly trained model.

    Parameters
    ----------
    model
        The network.
    header
        What is known about it.
    path
        The file it was loaded from, or None.
    told
        What had to be given besides the file, to load it again.
    """

    def __init__(
        self,
        model: Architecture,
        header: CheckpointHeader,
        path: Path | None = None,
        told: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model.eval()
        self.header = header
        self.path = path
        self.told = dict(told or {})

    @property
    def config(self) -> ArchitectureConfig:
        """The architecture's own numbers and options."""
        return self.model.config

    @property
    def score_meaning(self) -> str:
        """One sentence: what the score of a patch is, for the classes this model has."""
        return self.model.score_meaning.replace("the predicted class", self.header.scored_output)

    def check_fits(self, bag: FeatureBag) -> tuple[str, ...]:
        """Refuse a bag this model was not made for.

        Returns
        -------
        One sentence for each thing that could not be compared because a side does not say it.

        Raises
        ------
        CheckpointError
            Naming what the model expects and what the bag holds.
        """
        reason = misfit(self.header, bag)
        if reason is not None:
            raise CheckpointError(reason)
        return not_compared(self.header, bag)

    def place(
        self, bag: FeatureBag, settings: ModelSettings | None = None
    ) -> tuple[NDArray[np.int64], tuple[int, int]]:
        """Return the cell ``(row, col)`` of each patch, ``(N, 2)``, and the canvas.

        Raises
        ------
        GridError
            When patches lie off the canvas, or share a cell and that is not allowed.
        """
        settings = settings or ModelSettings()
        mode = self._options(settings).get("canvas_mode", "slide")
        if mode == "checkpoint" and self.header.canvas is not None:
            cells = cells_of(bag.coords, bag.cell_size)
            canvas = self.header.canvas
        else:
            coords = np.asarray(bag.coords, dtype=np.int64)
            cells = cells_of(coords - coords.min(axis=0), bag.cell_size)
            rows, cols = (int(v) + 1 for v in cells.max(axis=0))
            canvas = (rows, cols)
        if self.model.uses_grid:
            # Means and finer cells are made before (`features.lattice.laid_out`): the last patch
            # of a cell would be taken for them here
            allowed = settings.shared_cells == "last" or (
                settings.shared_cells == "finer" and bag.cell_size_level0 is not None
            )
            check_cells(np.unique(cells, axis=0) if allowed else cells, canvas)
        return cells, canvas

    def _options(self, settings: ModelSettings) -> dict[str, str]:
        """Options of the network's config with those of this run put in."""
        options = {}
        for name, value in (
            ("canvas_mode", settings.canvas),
            ("attention_over", settings.attention),
        ):
            if hasattr(self.config, name):
                options[name] = getattr(self.config, name) if value == "auto" else value
        return options

    def prepare(
        self, bag: FeatureBag, settings: ModelSettings | None = None, *, keeps: bool = False
    ) -> ModelInputs:
        """Check a bag, choose the device, and put network and bag there.

        `predict` is this followed by one forward pass; explanations start here too, so that
        they explain the very same computation. ``keeps`` says that the pass will keep its
        stages, or be differentiated, and so take more memory.

        Raises
        ------
        CheckpointError, GridError, FeatureError, BackendError
            When bag, model and settings do not fit each other or this machine.
        """
        settings = settings or ModelSettings()
        validate(settings)
        if len(bag) == 0:
            raise FeatureError(
                "the feature bag holds no patches; lower the least tissue per patch, or check "
                "that the tissue detection finds the tissue"
            )
        unchecked = self.check_fits(bag)
        broken = ~np.isfinite(bag.features).all(axis=1)
        if broken.any():
            raise FeatureError(
                f"the features of {int(broken.sum())} of {len(bag)} patches are not finite "
                "numbers; extract them again"
            )
        cells, canvas = self.place(bag, settings)
        options = self._options(settings)
        device, reason = device_and_reason(settings)
        self._check_memory(len(bag), canvas, device, keeps)
        record: dict[str, Any] = {**options, "unchecked": list(unchecked)}
        if self.model.uses_grid:
            record["overwritten_patches"] = len(cells) - len(np.unique(cells, axis=0))
        return ModelInputs(
            model=self.model.with_options(**options).to(device),
            features=torch.from_numpy(np.ascontiguousarray(bag.features, np.float32)).to(device),
            cells=torch.from_numpy(np.ascontiguousarray(cells)).to(device),
            canvas=canvas,
            device=device,
            device_reason=reason,
            record=record,
        )

    def _check_memory(
        self, patches: int, canvas: tuple[int, int], device: str, keeps: bool
    ) -> None:
        """Refuse what cannot fit, before it takes the machine down."""
        estimate = self.model.kept_floats if keeps else self.model.peak_floats
        needed = 4 * estimate(patches, canvas[0] * canvas[1])
        if device == "cpu":
            free = psutil.virtual_memory().available
        else:
            free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        if needed > free:
            grid = f" on a canvas of {canvas[0]} x {canvas[1]} cells"
            raise BackendError(
                f"{self.model.title} needs about {needed / 1e9:.1f} GB for {patches} patches"
                f"{grid if self.model.uses_grid else ''}, and {free / 1e9:.1f} GB are free on "
                f"{device}; close other programs, choose the other device or larger patches, or "
                "check that no stray patch stretches the canvas"
            )

    def predict(
        self,
        bag: FeatureBag,
        settings: ModelSettings | None = None,
        on_progress: ProgressCallback | None = None,
        should_stop: StopCallback | None = None,
    ) -> SlidePrediction:
        """Run the model on a bag, in float32.

        Raises
        ------
        CheckpointError, GridError, FeatureError, BackendError
            See `prepare`; also `BackendError` when the device runs out of memory.
        NotFiniteError
            When numbers overflow in the model, so that it has no answer.
        Cancelled
            When ``should_stop()`` said so before or after the forward pass, which takes about
            a second at most and is not interrupted.
        """

        def step(done: int, message: str) -> None:
            if should_stop is not None and should_stop():
                raise Cancelled
            if on_progress is not None:
                on_progress(done, 2, message)

        step(0, "Placing patches")
        inputs = self.prepare(bag, settings)
        step(1, f"Running {self.model.title} on {inputs.device}")
        started = time.perf_counter()
        try:
            with torch.inference_mode():
                output = inputs.model(inputs.features, inputs.cells, inputs.canvas)
                check_output(
                    output,
                    inputs.model,
                    inputs.features,
                    lambda **more: inputs.model(
                        inputs.features, inputs.cells, inputs.canvas, **more
                    ),
                )
                answer = answer_of(output.logits, self.header.task)
                scores = output.scores.float().cpu().numpy()
                background = output.background_mass
                mass = None if background is None else float(background)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise BackendError(
                f"{inputs.device} has too little memory for {len(bag)} patches on a canvas of "
                f"{inputs.canvas[0]} x {inputs.canvas[1]} cells; choose device cpu, or the "
                "slide's own canvas"
            ) from error
        seconds = time.perf_counter() - started
        step(2, "Done")
        backend, why = "torch", "the model has no scan"
        if self.model.uses_scan:
            scan = backend_for(inputs.features)
            backend, why = scan.name, scan.reason
        return SlidePrediction(
            task="survival" if self.header.task == "survival" else "classification",
            class_names=self.header.class_names,
            logits=answer.logits,
            probabilities=answer.probabilities,
            hazards=answer.hazards,
            survival=answer.survival,
            risk=answer.risk,
            attention=scores,
            attention_meaning=self.score_meaning + _said_twice(inputs.record),
            background_mass=mass,
            canvas=inputs.canvas,
            cells=inputs.cells.cpu().numpy(),
            device=inputs.device,
            backend=backend,
            extra={
                **inputs.record,
                "device_reason": inputs.device_reason,
                "backend_reason": why,
                "seconds": seconds,
            },
        )


def _said_twice(record: dict[str, Any]) -> str:
    """Say that a column of scores does not add up where patches share a cell."""
    hidden = record.get("overwritten_patches", 0)
    if not hidden:
        return ""
    return (
        f". {hidden} patches share a cell with a later one, which the model saw in their place, "
        "and repeat its score, so that the scores of all patches add up to more than those of all "
        "cells"
    )
