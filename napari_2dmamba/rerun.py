"""Make a saved run again from its record, and say number by number whether anything differs."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.grid_map import ATTENTION, GridMap
from napari_2dmamba.explain.maps import MAPS
from napari_2dmamba.explain_slide import explain_run
from napari_2dmamba.export.record import RunRecord
from napari_2dmamba.export.record_of_run import software
from napari_2dmamba.export.run_folder import open_run
from napari_2dmamba.export.saved_run import SavedRun
from napari_2dmamba.models import load_checkpoint
from napari_2dmamba.pipeline import RunResult, RunSettings, run, settings_of
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.slide import open_slide

TOLERANCE = 1e-5
"""Largest difference that counts as the same, as a share of the largest number of its kind: other
numbers of threads, processors and versions of torch round otherwise."""

State = Literal["exact", "within tolerance", "differs"]


@dataclass(frozen=True)
class Compared:
    """One kind of number, in the saved run and made again.

    Attributes
    ----------
    name
        Which: ``"logits"``, ``"map erf"``.
    state
        Whether all are the same to the bit, within `TOLERANCE`, or not.
    count
        How many there are.
    largest_difference
        Largest absolute difference; None where the numbers cannot be held against each other.
    words
        What differs, where it is not a number.
    """

    name: str
    state: State
    count: int
    largest_difference: float | None = 0.0
    words: str = ""

    def __str__(self) -> str:
        if self.words:
            return f"{self.name}: {self.state} ({self.words})"
        if self.state == "exact":
            return f"{self.name}: the same to the bit ({self.count})"
        return f"{self.name}: {self.state} (largest difference {self.largest_difference:.3g})"


@dataclass(frozen=True)
class Rerun:
    """A run made again.

    Attributes
    ----------
    saved, result
        The run as it was saved, and as it came out now.
    compared
        Every kind of number.
    remarks
        What else is not as it was: versions, maps that were not made again.
    """

    saved: SavedRun
    result: RunResult
    compared: tuple[Compared, ...]
    remarks: tuple[str, ...] = ()

    def differs(self, *, exact: bool = False) -> bool:
        """Return whether a number differs beyond the tolerance, or at all."""
        same = {"exact"} if exact else {"exact", "within tolerance"}
        return any(one.state not in same for one in self.compared)


def rerun(
    folder: str | Path,
    *,
    out: str | Path | None = None,
    slide_path: str | Path | None = None,
    kept_features: bool = False,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Rerun:
    """Make a saved run again.

    Slide, checkpoint and regions are those of the record, known by their content. Features that
    the run computed are computed again; those it was given are read again.

    Parameters
    ----------
    folder
        The saved run.
    out
        Folder to save the new run in; None keeps nothing.
    slide_path
        The slide, where it has moved.
    kept_features
        Take the features that the run kept, instead of computing them again.

    Raises
    ------
    UserError
        In one sentence, when slide, checkpoint or features are gone or are not those of the run.
    Cancelled
        When ``should_stop()`` said so.
    """
    saved = open_run(folder)
    record = saved.record
    settings = _with_its_batches(settings_of(record), record)
    if out is not None and Path(out).resolve() == saved.folder.resolve():
        raise ExportError(f"{out} holds the run that is made again; choose another folder for it")
    aggregator = load_checkpoint(saved.find_checkpoint(), **record.model.told)
    path = Path(slide_path) if slide_path is not None else saved.find_slide()
    with (
        open_slide(path, mpp=record.slide.given_mpp) as slide,
        tempfile.TemporaryDirectory() as cache,
    ):
        saved.check_slide(slide)
        bag = None
        if kept_features or record.features.given:
            bag = saved.read_features(slide, merged=False)
        options: dict[str, Any] = {
            "settings": settings,
            "features": bag,
            "regions": saved.regions,
            "out": out,
            "cache": cache,
            "on_progress": on_progress,
            "should_stop": should_stop,
        }
        maps: dict[str, GridMap] = {}
        asked = _maps_to_make(saved)
        if asked:
            assert record.explanations is not None
            queries = record.explanations.queries
            at = queries[0].patch if queries else None
            explained = explain_run(
                slide, aggregator, tuple(asked), at=at, target=record.explanations.target,
                layer=record.explanations.layer, channels=record.explanations.channels,  # type: ignore[arg-type]
                **options,
            )  # fmt: skip
            result, maps = explained.result, explained.maps
        else:
            result = run(slide, aggregator, **options)
    compared = tuple(_compare(saved, result, maps))
    return Rerun(saved, result, compared, tuple(_remarks(saved, maps)))


def _with_its_batches(settings: RunSettings, record: RunRecord) -> RunSettings:
    """Return the settings with the batch size that was used, on which bits of features depend."""
    size = record.features.source.get("batch_size")
    if type(size) is not int or size < 1:
        return settings
    return replace(settings, features=replace(settings.features, batch_size=size))


def _maps_to_make(saved: SavedRun) -> list[str]:
    """Return the names of the further maps that the record tells enough of."""
    told = saved.record.explanations
    if told is None or len(told.queries) > 1:
        return []
    titles = {one.name for one in saved.maps}
    return [name for name, one in told.maps.items() if name in MAPS and one.title in titles]


def _compare(saved: SavedRun, result: RunResult, maps: dict[str, GridMap]) -> Iterator[Compared]:
    old, new = saved.prediction, result.prediction
    yield _numbers("patches", saved.grid.coords, result.grid.coords)
    digest = result.record.features.content_sha256
    same = digest == saved.record.features.content_sha256
    yield Compared(
        "features", "exact" if same else "within tolerance", len(result.bag), None,
        "" if same else "not the same to the bit; what follows from them is compared below",
    )  # fmt: skip
    if old.class_names != new.class_names:
        words = f"{', '.join(old.class_names)} then, {', '.join(new.class_names)} now"
        yield Compared("classes", "differs", len(new.class_names), None, words)
    for name in ("logits", "probabilities", "hazards", "survival", "risk", "background_mass"):
        before, now = getattr(old, name), getattr(new, name)
        if before is not None or now is not None:
            yield _numbers(name.replace("_", " "), before, now)
    yield _numbers("attention", old.attention, new.attention)
    again = [result.attention_map, *maps.values()]
    for one in saved.maps:
        made = next((other for other in again if other.name == one.name), None)
        if made is not None:
            yield _numbers(f"map {one.name}", one.values, made.values)


def _numbers(name: str, before: Any, now: Any) -> Compared:
    """Hold two arrays against each other; what has no value must have none in both."""
    if before is None or now is None:
        return Compared(name, "differs", 0, None, "only one of the runs has it")
    old, new = np.asarray(before, dtype=np.float64), np.asarray(now, dtype=np.float64)
    if old.shape != new.shape:
        return Compared(name, "differs", new.size, None, f"{old.shape} then, {new.shape} now")
    if np.array_equal(old, new, equal_nan=True):
        return Compared(name, "exact", new.size)
    if not np.array_equal(np.isnan(old), np.isnan(new)):
        return Compared(name, "differs", new.size, None, "other patches have a value")
    difference = float(np.nanmax(np.abs(old - new)))
    scale = float(np.nanmax(np.abs(old)))
    state: State = "within tolerance" if difference <= TOLERANCE * scale else "differs"
    return Compared(name, state, new.size, difference)


def _remarks(saved: SavedRun, maps: dict[str, GridMap]) -> Iterator[str]:
    then, now = saved.record.software, software()
    for name in ("napari-2dmamba", "python"):
        if then.get(name) not in (None, now[name]):
            yield f"{name} was {then[name]} then and is {now[name]} now"
    packages = then.get("packages")
    for name, version in packages.items() if isinstance(packages, dict) else ():
        if version is not None and now["packages"].get(name) not in (None, version):
            yield f"{name} was {version} then and is {now['packages'][name]} now"
    made = {one.name for one in maps.values()} | {ATTENTION}
    for one in saved.maps:
        if one.name not in made:
            yield f"the map {one.name} was not made again"
