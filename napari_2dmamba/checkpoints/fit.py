"""Which checkpoints suit the slide that is open, and why others do not."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path

from napari_2dmamba.checkpoints.summary import CheckpointSummary
from napari_2dmamba.models.fit import SaysOfFeatures, misfit, not_compared

_FILES = (".ts", ".onnx", ".yaml", ".yml")


class State(Enum):
    """How a checkpoint suits, from best to worst; the value is what a table shows."""

    FITS = "fits"
    UNSURE = "may fit"
    EXTRACT = "needs extraction"
    NO = "does not fit"
    UNUSABLE = "unusable"


@dataclass(frozen=True)
class Fit:
    """The answer for one checkpoint: a word for the table, and a sentence that explains it."""

    state: State
    sentence: str

    @property
    def usable(self) -> bool:
        """Whether a run with it can be expected to go through."""
        return self.state in (State.FITS, State.UNSURE, State.EXTRACT)


@dataclass(frozen=True)
class FeatureFacts:
    """What is known of features without reading them; see `SaysOfFeatures`."""

    feature_size: int | None = None
    encoder: str | None = None
    patch_size: int | None = None
    mpp: float | None = None

    @classmethod
    def of(cls, features: SaysOfFeatures) -> "FeatureFacts":
        """Return what a bag, or anything like one, says of itself."""
        return cls(features.feature_size, features.encoder, features.patch_size, features.mpp)

    def __str__(self) -> str:
        parts = [self.encoder or "unknown encoder"]
        if self.feature_size:
            parts.append(f"{self.feature_size} features")
        patches = [f"{self.patch_size} px"] if self.patch_size else []
        patches += [f"{self.mpp:.3g} µm/px"] if self.mpp else []
        return ", ".join([*parts, " at ".join(patches)] if patches else parts)


@dataclass(frozen=True)
class InputFacts:
    """What checkpoints are held against.

    Attributes
    ----------
    name
        Of the slide or the features file.
    features
        Features that are there already, or None.
    encoders
        Encoders whose features can be extracted here from the slide; empty where there is no
        slide to extract from.
    slide_mpp
        µm per level-0 pixel, or None.
    """

    name: str
    features: FeatureFacts | None = None
    encoders: tuple[str, ...] = ()
    slide_mpp: float | None = None

    def __str__(self) -> str:
        if self.features is not None:
            return f"the features of {self.name} ({self.features})"
        return f"{self.name}, from which features can be extracted"


def fits(summary: CheckpointSummary, subject: InputFacts) -> Fit:
    """Say whether a checkpoint suits a slide and its features, and why not."""
    if summary.problem:
        return Fit(State.UNUSABLE, summary.problem)
    if subject.features is not None:
        reason = misfit(summary, subject.features)
        if reason is None:
            unknown = not_compared(summary, subject.features)
            if unknown:
                return Fit(State.UNSURE, "may fit: " + "; ".join(unknown))
            return Fit(State.FITS, f"fits {subject}")
    else:
        reason = "there are no features yet, and no slide to extract them from"
    if not subject.encoders:
        return Fit(State.NO, reason)
    if summary.encoder is None:
        told = "the checkpoint does not state its encoder, so choose the one it was trained on"
        if subject.features is not None:
            return Fit(State.NO, reason)
        return Fit(State.UNSURE, f"may fit: {told}")
    if Path(summary.encoder).suffix.lower() in _FILES or "local-dir:" in summary.encoder:
        return Fit(
            State.UNSURE,
            f"may fit: it states the encoder {summary.encoder!r}, a file, which is not taken from "
            "a checkpoint; choose it yourself if you know and trust it",
        )
    if not can_extract(summary.encoder, subject.encoders):
        return Fit(
            State.NO,
            f"it was trained on features of encoder {summary.encoder!r}, which is not known "
            "here; give a file of such features, or choose another checkpoint",
        )
    return Fit(State.EXTRACT, _extraction(summary, subject))


def encoders_here() -> tuple[str, ...]:
    """Return names of encoders that can be had here; ``timm:`` stands for all of timm's."""
    from napari_2dmamba.features.encoder_catalog import CATALOG
    from napari_2dmamba.features.encoder_names import known_encoders

    if find_spec("timm") is not None:
        return (*known_encoders(), "timm:")
    return tuple(name for name in known_encoders() if name not in CATALOG)


def can_extract(encoder: str, known: Collection[str]) -> bool:
    """Whether an encoder of this name can be had here: see `features.load_encoder`."""
    if encoder.startswith("timm:"):
        return any(name.startswith("timm:") for name in known)
    return encoder in known


def _extraction(summary: CheckpointSummary, subject: InputFacts) -> str:
    wanted = FeatureFacts(None, summary.encoder, summary.patch_size, summary.mpp)
    sentence = f"a run first extracts the features it was trained on ({wanted})"
    coarse = summary.mpp is not None and subject.slide_mpp is not None
    if coarse and summary.mpp < 0.9 * subject.slide_mpp:  # type: ignore[operator]
        sentence += (
            f"; the slide has {subject.slide_mpp:.3g} µm/px, coarser than that, so its patches "
            "are enlarged"
        )
    return sentence
