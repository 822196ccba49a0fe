"""From the patches of a slide to a bag of features: cancellable, resumable, cached."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import Cancelled, FeatureError, SlideError
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.features.encoder_speed import keep_speed, speed_of
from napari_2dmamba.features.patch_rules import RULES, rule_that_drops
from napari_2dmamba.settings import ProgressCallback, StopCallback, setting, validate
from napari_2dmamba.slide.grid import PatchGrid

if TYPE_CHECKING:
    from napari_2dmamba.features.encoder import Encoder
    from napari_2dmamba.features.journal import Journal
    from napari_2dmamba.features.patch_reader import PatchBatch
    from napari_2dmamba.slide.slide import Slide

BatchCallback = Callable[[PatchGrid, int, NDArray[np.float32], NDArray[np.bool_]], None]
"""``on_batch(grid, first, features, kept)``: the features ``(B, D)`` of the patches from ``first``
on are there; ``kept`` ``(B,)`` is False where a patch is left out. Called on the thread that
extracts, in the order of the grid; what an earlier run finished comes first."""

_READING = 2
"""Part of every cache key; raised when the reader's pixels change."""

_UNREADABLE, _KEPT = 0, 1
"""What became of a patch; the rules of `patch_rules` follow."""

_LEAST_PATCHES, _LEAST_SECONDS = 32, 0.5
"""Of which the speed of an encoder is kept."""

_log = logging.getLogger(__name__)


class UnreadablePatchesWarning(UserWarning):
    """Some patches could not be read, and were left out as the settings ask."""


@dataclass(frozen=True)
class FeatureSettings:
    """How features are computed from patches."""

    encoder: str = setting(
        "stain-texture-v1",
        "What turns a patch into features: the embedded 'stain-texture-v1', another name such as "
        "'uni' (docs/encoders.md), 'timm:<model>', or an .onnx, .yaml or .ts file.",
    )
    weights: str | None = setting(
        None, "File with the encoder's weights, instead of a download.", advanced=True
    )
    offline: bool = setting(
        False, "Never download weights; use only what is on this machine.", advanced=True
    )
    device: str = setting("auto", "Where the encoder runs: 'auto', 'cpu', 'cuda', 'cuda:1', ...")
    batch_size: int = setting(
        0,
        "Patches encoded at once; 0 measures once what is fastest here, and keeps to it.",
        minimum=0,
        zero="auto",
        unit="patches",
        advanced=True,
    )
    threads: int = setting(
        0,
        "Threads that decode the slide; 0 takes one per core, 8 at most.",
        minimum=0,
        maximum=64,
        zero="auto",
        advanced=True,
    )
    precision: str = setting(
        "float32",
        "Arithmetic of a network encoder: bfloat16 is faster where the machine has it.",
        choices=("float32", "bfloat16"),
        advanced=True,
    )
    drop_blank: bool = setting(False, "Leave out patches that are 95 % clear glass.", advanced=True)
    drop_blurred: bool = setting(
        False, "Leave out patches whose tissue is out of focus.", advanced=True
    )
    drop_pen: bool = setting(
        False, "Leave out patches of which 15 % or more is pen.", advanced=True
    )
    stain_normalisation: str = setting(
        "none",
        "Bring every slide's stains to a reference before encoding (Macenko, by torchstain).",
        choices=("none", "macenko"),
        advanced=True,
    )
    unreadable: str = setting(
        "stop",
        "What to do when a patch cannot be read: stop, or drop it and say how many.",
        choices=("stop", "drop"),
        label="Unreadable patches",
        advanced=True,
    )


def extract_features(
    slide: "Slide",
    grid: PatchGrid,
    settings: FeatureSettings | None = None,
    *,
    encoder: "Encoder | None" = None,
    cache: str | Path | None = None,
    on_progress: ProgressCallback | None = None,
    on_batch: BatchCallback | None = None,
    should_stop: StopCallback | None = None,
) -> FeatureBag:
    """Compute the features of a grid's patches.

    Parameters
    ----------
    slide, grid
        Where the patches are.
    settings
        How; defaults when absent.
    encoder
        A loaded encoder, instead of the one `settings` names.
    cache
        Folder in which finished batches are kept as they come, and the features at the end.
        Features of the same slide, grid and encoder found there are returned at once, whatever
        their file is called; an interrupted job goes on from its last batch.
    on_progress, on_batch, should_stop
        See `settings.ProgressCallback`, `BatchCallback` and `settings.StopCallback`.

    Returns
    -------
    FeatureBag
        ``source`` tells how it was made. The same bits come out however often the job was
        interrupted and however many threads decoded. The last bits of a network's features can
        depend on ``batch_size`` of ``source``: see ``docs/encoders.md``.

    Raises
    ------
    SlideError
        When a patch cannot be read and `settings` does not drop such patches.
    FeatureError
        When the encoder cannot be had, or nothing can be written to `cache`.
    Cancelled
        When `should_stop` said so; finished batches stay in `cache`.
    """
    settings = settings or FeatureSettings()
    validate(settings)
    if len(grid) == 0:
        raise FeatureError(f"the grid of {slide.name} has no patch, so there are no features")
    if encoder is None:
        from napari_2dmamba.features.encoder import load_encoder

        encoder = load_encoder(
            settings.encoder,
            settings.weights,
            offline=settings.offline,
            device=settings.device,
            precision=settings.precision,
        )
    made_of = _what_features_depend_on(slide, grid, encoder, settings)
    if cache is None:
        return _extract(
            slide, grid, encoder, settings, made_of, None, on_progress, on_batch, should_stop
        )
    folder = Path(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FeatureError(
            f"{folder} cannot be made ({error.strerror}); choose another folder for the features"
        ) from error
    stored = folder / f"features-{_key(made_of)}.h5"
    bag = _reuse(stored, made_of)
    if bag is not None:
        with contextlib.suppress(OSError):  # left by a kill after the features were written
            stored.with_suffix(".journal").unlink(missing_ok=True)
        if on_progress:
            on_progress(len(grid), len(grid), f"features of {len(grid)} patches reused")
        return bag
    from napari_2dmamba.features.files import write_features
    from napari_2dmamba.features.journal import Journal

    def batch_size() -> int:
        return _batch_size(slide, grid, encoder, settings, on_progress, should_stop)

    path = stored.with_suffix(".journal")
    with Journal(path, made_of, encoder.feature_size, batch_size) as journal:
        bag = _extract(
            slide, grid, encoder, settings, made_of, journal, on_progress, on_batch, should_stop
        )
        write_features(bag, stored)
        journal.remove()
    return dataclasses.replace(bag, path=stored)


def _extract(
    slide: "Slide",
    grid: PatchGrid,
    encoder: "Encoder",
    settings: FeatureSettings,
    made_of: dict[str, Any],
    journal: "Journal | None",
    on_progress: ProgressCallback | None,
    on_batch: BatchCallback | None,
    should_stop: StopCallback | None,
) -> FeatureBag:
    from napari_2dmamba.features.encoding import encode_in_order, patch_memory
    from napari_2dmamba.features.patch_reader import PatchReader

    features: list[NDArray[np.float32]] = list(journal.features) if journal else []
    verdicts: list[NDArray[np.uint8]] = list(journal.verdicts) if journal else []
    start = sum(map(len, verdicts))
    if journal:
        size = journal.batch_size
    else:
        size = _batch_size(slide, grid, encoder, settings, on_progress, should_stop)
    clock = _Clock(start, len(grid), on_progress)
    reader = PatchReader(slide, grid, threads=_threads(settings))
    normalise = None
    if settings.stain_normalisation == "macenko":
        from napari_2dmamba.features.stain_normalisation import MacenkoNormaliser

        normalise = MacenkoNormaliser(reader, encoder.device)
    if on_batch and start:
        on_batch(grid, 0, np.concatenate(features), np.concatenate(verdicts) == _KEPT)
    unreadable: dict[int, str] = {}
    batches = reader.batches(size, start, patch_memory(encoder.device))

    def judged() -> Generator[tuple[tuple[int, NDArray[np.uint8]], NDArray[np.uint8]]]:
        for batch in batches:
            if should_stop and clock.stopped_for(should_stop):
                raise Cancelled(f"stopped after {batch.start} of {len(grid)} patches")
            verdict = _judge(batch, grid, settings)
            unreadable.update(batch.unreadable)
            yield (batch.start, verdict), batch.pixels

    with (
        contextlib.closing(batches),
        contextlib.closing(encode_in_order(encoder, judged(), grid.mpp, normalise)) as encoded,
    ):
        for (first, verdict), values in encoded:
            keep = verdict == _KEPT
            _require_finite(values[keep], first, len(keep), encoder, slide)
            values[~keep] = 0
            if journal:
                journal.append(values, verdict)
            features.append(values)
            verdicts.append(verdict)
            if on_batch:
                on_batch(grid, first, values, keep)
            clock.tell(first + len(keep))
    if clock.is_telling:
        keep_speed(
            encoder, settings.precision, patches_per_second=clock.speed(len(grid)),
            patches=len(grid) - start, patch_size=grid.patch_size, batch_size=size,
        )  # fmt: skip
    verdict = np.concatenate(verdicts)
    keep = verdict == _KEPT
    counts = {rule: int((verdict == i).sum()) for i, rule in enumerate(RULES, _KEPT + 1)}
    dropped = {rule: count for rule, count in counts.items() if count}
    lost = int((verdict == _UNREADABLE).sum())
    if not keep.any():
        why = [f"{count} are {rule}" for rule, count in dropped.items()]
        why += [f"{lost} cannot be read"] if lost else []
        raise FeatureError(f"no patch of {slide.name} is left: {', '.join(why)} of {len(grid)}")
    source: dict[str, Any] = {"made_of": made_of, "weights_from": encoder.weights_from}
    source |= {"licence": encoder.licence, "device": str(encoder.device), "batch_size": size}
    if dropped:
        source["dropped_patches"] = dropped
    if lost:
        source["unreadable_patches"] = lost
        example = next(iter(unreadable.values()), "")
        warnings.warn(
            f"{lost} of {len(grid)} patches of {slide.name} could not be read and are left out"
            + (f"; the first: {example}" if example else ""),
            UnreadablePatchesWarning,
            stacklevel=3,
        )
    return FeatureBag(
        np.concatenate(features)[keep],
        grid.coords[keep],
        patch_size_level0=grid.patch_size_level0,
        patch_size=grid.patch_size,
        mpp=grid.mpp,
        slide_mpp=grid.slide_mpp,
        encoder=encoder.name,
        slide_id=slide.fingerprint,
        source=source,
    )


def _judge(batch: "PatchBatch", grid: PatchGrid, settings: FeatureSettings) -> NDArray[np.uint8]:
    """Return ``(B,)``: `_KEPT`, `_UNREADABLE`, or above them the rule that drops the patch."""
    if batch.unreadable and settings.unreadable == "stop":
        reason = next(iter(batch.unreadable.values()))
        raise SlideError(
            f"{reason}; mend the slide, or choose to drop unreadable patches "
            f"(unreadable='drop'), which keeps the {batch.start} patches done so far"
        )
    verdict = np.full(len(batch.pixels), _KEPT, np.uint8)
    rules = _rules(settings)
    for i, pixels in enumerate(batch.pixels) if rules else ():
        rule = rule_that_drops(pixels, grid.mpp, rules)
        if rule is not None:
            verdict[i] = _KEPT + 1 + RULES.index(rule)
    verdict[[index - batch.start for index in batch.unreadable]] = _UNREADABLE
    return verdict


def _require_finite(
    values: NDArray[np.float32], first: int, count: int, encoder: "Encoder", slide: "Slide"
) -> None:
    if not np.isfinite(values).all():
        raise FeatureError(
            f"the encoder {encoder.name!r} gave numbers that are not finite for patches {first} to "
            f"{first + count - 1} of {slide.name}; its weights may be damaged"
        )


def _rules(settings: FeatureSettings) -> tuple[str, ...]:
    return tuple(rule for rule in RULES if getattr(settings, f"drop_{rule}"))


def _what_features_depend_on(
    slide: "Slide", grid: PatchGrid, encoder: "Encoder", settings: FeatureSettings
) -> dict[str, Any]:
    return {
        "slide": slide.fingerprint,
        "encoder": encoder.identity,
        "coords": hashlib.sha256(np.ascontiguousarray(grid.coords, "<i8").tobytes()).hexdigest(),
        "patches": len(grid),
        "patch_size": grid.patch_size,
        "patch_size_level0": grid.patch_size_level0,
        "mpp": grid.mpp,
        "unreadable": settings.unreadable,
        "drop": list(_rules(settings)),
        "stain_normalisation": settings.stain_normalisation,
        "reading": _READING,
    }


def _key(made_of: dict[str, Any]) -> str:
    text = json.dumps(made_of, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _reuse(stored: Path, made_of: dict[str, Any]) -> FeatureBag | None:
    """Return the features in the cache, or None; a damaged file is made again."""
    from napari_2dmamba.features.files import read_features

    if not stored.exists():
        return None
    try:
        bag = read_features(stored)
    except FeatureError as error:
        _log.warning("the cached features are computed again: %s", error)
        return None
    return bag if bag.source.get("made_of") == made_of else None


def _threads(settings: FeatureSettings) -> int:
    # Beyond nine or so the threads wait for the interpreter's lock (docs/performance.md), which
    # the thread that feeds a GPU needs as well
    return settings.threads or min(8, os.cpu_count() or 1)


def _batch_size(
    slide: "Slide",
    grid: PatchGrid,
    encoder: "Encoder",
    settings: FeatureSettings,
    on_progress: ProgressCallback | None,
    should_stop: StopCallback | None,
) -> int:
    """Return the size that was set, or that was found fastest here, measuring it if that pays."""
    import torch

    from napari_2dmamba.features.batch_size import (
        SAMPLE,
        WORTH,
        default_batch_size,
        measure_batch_size,
    )
    from napari_2dmamba.features.patch_reader import PatchReader

    if settings.batch_size:
        return settings.batch_size
    known = speed_of(encoder, settings.precision, grid.patch_size)
    if known is not None and known.automatic:
        return known.automatic
    if len(grid) < WORTH:
        return default_batch_size(encoder.device)
    if on_progress:
        on_progress(0, len(grid), "measuring how many patches to encode at once")
    batches = PatchReader(slide, grid, threads=_threads(settings)).batches(SAMPLE)
    try:
        sample = torch.from_numpy(next(batches).pixels.copy())
    finally:
        batches.close()
    found = measure_batch_size(encoder, sample, grid.mpp, should_stop)
    _log.info("%s: patches/s by batch size %s", encoder.name, found.tried)
    kept = keep_speed(
        encoder, settings.precision, patches_per_second=found.patches_per_second,
        patches=found.patches, patch_size=grid.patch_size, batch_size=found.batch_size,
        automatic=found.batch_size,
    )  # fmt: skip
    return kept.automatic  # of another worker that measured at the same time, and was first


class _Clock:
    """Turns counts into progress messages with speed and time left."""

    def __init__(self, done: int, total: int, on_progress: ProgressCallback | None) -> None:
        self._start, self._total, self._tell = done, total, on_progress
        self._began = time.monotonic()
        if on_progress:
            on_progress(done, total, "reading patches" if not done else f"going on from {done}")

    def stopped_for(self, should_stop: StopCallback) -> bool:
        """Ask whether to stop; while the answer is held back, as in a pause, the clock stands."""
        asked = time.monotonic()
        answer = should_stop()
        self._began += time.monotonic() - asked
        return answer

    @property
    def is_telling(self) -> bool:
        """Whether so much was done since the start that its speed says something."""
        long = time.monotonic() - self._began >= _LEAST_SECONDS
        return long and self._total - self._start >= _LEAST_PATCHES

    def speed(self, done: int) -> float:
        """Patches per second since the start, pauses left out."""
        return (done - self._start) / max(time.monotonic() - self._began, 1e-6)

    def tell(self, done: int) -> None:
        if self._tell is None:
            return
        speed = self.speed(done)
        left = round((self._total - done) / max(speed, 1e-6))
        minutes, seconds = divmod(left, 60)
        time_left = f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
        self._tell(done, self._total, f"{speed:.3g} patches/s, {time_left} left")
