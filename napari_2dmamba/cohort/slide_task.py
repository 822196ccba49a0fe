"""The work on one slide of a cohort, wherever it is done: it never raises, it reports."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba import __version__
from napari_2dmamba.atomic_files import process_mark
from napari_2dmamba.cohort import status as states
from napari_2dmamba.cohort.folders import WorkedOnElsewhere, claim, forget, worked_on
from napari_2dmamba.cohort.slides import CohortSlide
from napari_2dmamba.cohort.status import SlideStatus, read_status, write_status
from napari_2dmamba.errors import (
    Cancelled,
    CheckpointError,
    ExportError,
    FeatureError,
    GridError,
    MissingMppError,
    TissueError,
    UserError,
)
from napari_2dmamba.export.content_hash import file_hash
from napari_2dmamba.export.json_file import as_json
from napari_2dmamba.features import MissingFeatureFactsError
from napari_2dmamba.pipeline import RunSettings, prepare_grid, run, summary_of
from napari_2dmamba.redaction import file_names_only
from napari_2dmamba.settings import StopCallback
from napari_2dmamba.slide import Slide, open_slide, read_regions
from napari_2dmamba.slide.addresses import stand_in
from napari_2dmamba.slide.region_files import regions_named_like

if TYPE_CHECKING:
    from napari_2dmamba.features.encoder import Encoder
    from napari_2dmamba.models import Aggregator

LOG_FILE = "log.txt"
FEATURES_FILE = "features.h5"
HOPELESS = (MissingMppError, TissueError, CheckpointError, GridError, MissingFeatureFactsError)
"""Failures that trying again cannot mend."""

_HOW_NOT_WHAT = {"threads", "batch_size", "device", "offline"}
"""Settings that change how fast or where, not what is computed."""
_SECONDS_BETWEEN_NEWS = 0.5

_log = logging.getLogger(__name__)
"""The slides' own logs: what it says goes there and nowhere else."""
_log.setLevel(logging.INFO)
_log.propagate = False
_log.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class CohortPlan:
    """What is done to every slide of a cohort; travels to the workers.

    Attributes
    ----------
    settings
        Complete: the grid is not left to the checkpoint.
    out
        The cohort's folder, seen by every worker under this path.
    cohort
        Number of this run.
    fresh
        Whether results of earlier runs are forgotten.
    checkpoint, checkpoint_hash, checkpoint_settings
        The model, or None to compute features only.
    features
        A file of features computed before, or a folder with one per slide.
    regions
        GeoJSON of regions to include and exclude, or a folder with one per slide.
    weights_hash
        Of the encoder's weights, where a file of them was given.
    """

    settings: RunSettings
    out: str
    cohort: str
    fresh: bool = False
    checkpoint: str | None = None
    checkpoint_hash: str | None = None
    checkpoint_settings: dict[str, Any] = field(default_factory=dict)
    features: str | None = None
    regions: str | None = None
    weights_hash: str | None = None

    def features_of(self, slide: Path) -> Path | None:
        """Return the file of features given for a slide.

        Raises
        ------
        FeatureError
            When the folder of features has none for it.
        """
        if self.features is None:
            return None
        from napari_2dmamba.features.files import features_named_like
        from napari_2dmamba.features.stores import is_store

        if not Path(self.features).is_dir() or is_store(Path(self.features)):
            return Path(self.features)

        return features_named_like(slide, Path(self.features))

    def regions_of(self, slide: CohortSlide) -> Path | None:
        """Return the file of regions of a slide: its own, or that given for all.

        Raises
        ------
        GridError
            When the folder of regions has none for it, or its own is not there.
        """
        if slide.regions is not None:
            if not slide.regions.is_file():
                raise GridError(
                    f"the regions {slide.regions.name} of {slide.path.name} do not exist; check "
                    "the column regions of the list"
                )
            return slide.regions
        if self.regions is None or not Path(self.regions).is_dir():
            return None if self.regions is None else Path(self.regions)
        return regions_named_like(slide.path, Path(self.regions))

    def key(self, slide: Slide, regions: Path | None) -> str:
        """Return a hash of everything the result depends on, and of no name or place."""
        settings = as_json(self.settings)
        if self.checkpoint is None:
            settings.pop("model")
        for stage in settings.values():
            if isinstance(stage, dict):
                for name in _HOW_NOT_WHAT & stage.keys():
                    del stage[name]
        settings["features"].pop("weights", None)  # its content counts, not its name
        features = self.features_of(slide.path)
        made_of = {
            "slide": slide.fingerprint,
            "mpp": slide.mpp,
            "settings": settings,
            "checkpoint": self.checkpoint_hash,
            "checkpoint_settings": as_json(self.checkpoint_settings),
            "features": None if features is None else file_hash(features),
            "regions": None if regions is None else file_hash(regions),
            "weights": self.weights_hash,
        }
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]

    def is_whole(self, folder: Path, before: SlideStatus) -> bool:
        """Return whether the result of an earlier run is still there and undamaged."""
        if self.checkpoint is None:
            import h5py

            try:
                with h5py.File(folder / FEATURES_FILE) as file:
                    return len(file["features"]) == before.result["patches"]
            except (OSError, KeyError, TypeError):
                return False
        from napari_2dmamba.export.run_folder import open_run

        try:
            return open_run(folder).record.slide.fingerprint == before.fingerprint
        except ExportError:
            return False

    def do(
        self,
        slide: Slide,
        folder: Path,
        regions: Path | None,
        on_progress: Callable[[int, int, str], None],
        should_stop: StopCallback | None,
    ) -> dict[str, Any]:
        """Do it to one open slide, and return what was found."""
        if self.checkpoint is not None:
            given = json.dumps(self.checkpoint_settings, sort_keys=True)
            result = run(
                slide,
                _aggregator(self.checkpoint, self.checkpoint_hash, given),
                self.settings,
                features=self.features_of(slide.path),
                regions=regions,
                out=folder,
                encoder=None if self.features is not None else self._encoder(),
                on_progress=on_progress,
                should_stop=should_stop,
            )
            answer, source = summary_of(result), result.bag.source
        else:
            answer, source = self._extract(slide, folder, regions, on_progress, should_stop)
        if source.get("unreadable_patches"):
            answer["unreadable_patches"] = source["unreadable_patches"]
        return dict(as_json(answer))

    def _encoder(self) -> "Encoder":
        """Return the encoder, loaded once per process."""
        features = self.settings.features
        return _encoder(
            features.encoder,
            features.weights,
            self.weights_hash,
            features.offline,
            features.device,
            features.precision,
        )

    def _extract(
        self,
        slide: Slide,
        folder: Path,
        regions: Path | None,
        on_progress: Callable[[int, int, str], None],
        should_stop: StopCallback | None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        from napari_2dmamba.atomic_files import atomic_write
        from napari_2dmamba.features import extract_features

        within = None if regions is None else read_regions(regions, offset=slide.bounds[:2])
        assert self.settings.grid is not None
        on_progress(0, 0, "finding tissue")
        _, grid = prepare_grid(slide, self.settings, self.settings.grid, within)
        bag = extract_features(
            slide,
            grid,
            self.settings.features,
            encoder=self._encoder(),
            cache=folder,
            on_progress=on_progress,
            should_stop=should_stop,
        )
        assert bag.path is not None
        # A name that other programs find, without the bytes a second time
        with atomic_write(folder / FEATURES_FILE, FeatureError) as part:
            try:
                os.link(bag.path, part)
            except OSError:  # a file system without hard links
                shutil.copyfile(bag.path, part)
        answer: dict[str, Any] = {
            "slide": slide.name,
            "patches": len(bag),
            "feature_size": bag.feature_size,
            "encoder": bag.encoder,
            "file": str(folder / FEATURES_FILE),
        }
        if slide.remarks:
            answer["warnings"] = list(slide.remarks)
        return answer, bag.source


@functools.lru_cache(maxsize=1)
def _aggregator(path: str, expected_hash: str | None, given: str) -> "Aggregator":
    """Load the checkpoint once per process."""
    from napari_2dmamba.models import load_checkpoint

    if file_hash(path) != expected_hash:
        raise CheckpointError(
            f"{path} on {platform.node()} is another file than the one this cohort was started "
            "with; let every worker see the same file"
        )
    return load_checkpoint(path, **json.loads(given))


@functools.lru_cache(maxsize=1)
def _encoder(
    name: str,
    weights: str | None,
    content: str | None,
    offline: bool,
    device: str,
    precision: str,
) -> "Encoder":
    """Load the encoder; ``content`` tells weights apart that came to lie under the same name."""
    from napari_2dmamba.features.encoder import load_encoder

    return load_encoder(name, weights, offline=offline, device=device, precision=precision)


def forget_models() -> None:
    """Give back the memory of the model and encoder that this process holds."""
    _aggregator.cache_clear()
    _encoder.cache_clear()


@dataclass(frozen=True)
class SlideTask:
    """One slide's turn.

    Attributes
    ----------
    plan, slide
        What is done to which slide.
    alone
        Whether no other slide of the cohort has its name.
    attempt
        Counted from 1.
    address
        Of a slide on the network, for workers on machines that do not know it yet. It may hold a
        secret, so that nothing prints it.
    """

    plan: CohortPlan
    slide: CohortSlide
    alone: bool
    attempt: int
    address: str | None = field(default=None, repr=False)

    def opened(self) -> Slide:
        """Open the slide."""
        path = self.slide.path if self.address is None else stand_in(self.address)
        return open_slide(path, mpp=self.slide.mpp)

    def row(self, state: str = states.RUNNING, **fields: Any) -> SlideStatus:
        """Return the slide's row in the table."""
        slide = self.slide
        return SlideStatus(
            slide=str(slide.path),
            state=state,
            label=slide.label,
            notes=dict(slide.notes),
            mpp=slide.mpp,
            regions="" if slide.regions is None else str(slide.regions),
            attempts=self.attempt,
            cohort=self.plan.cohort,
            **fields,
        )


@dataclass(frozen=True)
class TaskResult:
    """What became of a slide's turn, and whether another one may end better."""

    row: SlideStatus
    worth_retrying: bool = False


def do_slide(
    job: SlideTask, tell: Callable[[SlideStatus], None], should_stop: StopCallback | None
) -> TaskResult:
    """Do one slide and return what became of it; only an interrupt of the program is raised.

    Parameters
    ----------
    job
        The slide and the work.
    tell
        Called with the slide's row as it goes on, at most twice a second.
    should_stop
        Polled between batches.
    """
    turn = _Turn(job, tell)
    slide: Slide | None = None
    problem: Exception | None = None
    try:
        slide = job.opened()
        identity = slide.fingerprint
        turn.row = dataclasses.replace(turn.row, fingerprint=identity)
    except Exception as error:  # noqa: BLE001 - told below, in the slide's own folder
        problem = error
        identity = hashlib.sha256(str(job.slide.path).encode()).hexdigest()
    try:
        folder = claim(Path(job.plan.out), turn.row, identity, alone=job.alone)
        with worked_on(folder):
            return turn.take(folder, slide, problem, should_stop)
    except WorkedOnElsewhere:
        return TaskResult(dataclasses.replace(turn.row, state=states.ELSEWHERE, folder=str(folder)))
    except UserError as error:
        return TaskResult(turn.ended(states.FAILED, str(error)), worth_retrying=True)
    finally:
        if slide is not None:
            slide.close()


class _Turn:
    """One attempt at one slide: its row, its log, its news."""

    def __init__(self, job: SlideTask, tell: Callable[[SlideStatus], None]) -> None:
        self._job, self._tell = job, tell
        self._began = time.monotonic()
        self._told, self._counting = 0.0, False
        self._counted_from = 0, 0.0  # patches, and time less pauses
        self._paused = 0.0
        self.row = job.row(
            worker=_worker(),
            started=_now(),
            message="opening",
        )

    def take(
        self,
        folder: Path,
        slide: Slide | None,
        problem: Exception | None,
        should_stop: StopCallback | None,
    ) -> TaskResult:
        """Work in the slide's own folder, and keep there what became of it."""
        self.row = dataclasses.replace(self.row, folder=str(folder))
        with _logged(folder):
            try:
                if problem is not None:
                    raise problem
                assert slide is not None
                return self._do(folder, slide, should_stop)
            except Cancelled:
                return TaskResult(self._kept(states.STOPPED, "stopped; what was finished is kept"))
            except UserError as error:
                row = self._kept(states.FAILED, str(error))
                return TaskResult(row, worth_retrying=not isinstance(error, HOPELESS))
            except Exception as error:  # noqa: BLE001 - whatever it is, the other slides go on
                _log.exception("unexpected")
                words = f"{type(error).__name__}: {error}".partition("\n")[0]
                row = self._kept(
                    states.FAILED,
                    f"{self.row.name} failed unexpectedly ({words}); please report it with "
                    f"{folder / LOG_FILE}",
                )
                return TaskResult(row, worth_retrying=True)
            except BaseException:
                self._kept(states.STOPPED, "stopped; what was finished is kept")
                raise

    def _do(self, folder: Path, slide: Slide, should_stop: StopCallback | None) -> TaskResult:
        plan = self._job.plan
        if should_stop is not None and should_stop():
            raise Cancelled("stopped before it began")
        regions = plan.regions_of(self._job.slide)
        key = plan.key(slide, regions)
        before = read_status(folder)
        own = before is not None and before.cohort == plan.cohort
        if before is not None:
            done = before.state == states.DONE and before.key == key and (own or not plan.fresh)
            if done and plan.is_whole(folder, before):
                return TaskResult(self._reused(before, own))
            if plan.fresh and not own:
                forget(folder)
        write_status(self.row)
        self._tell(self.row)

        def stops() -> bool:
            asked = time.monotonic()
            answer = should_stop is not None and should_stop()
            self._paused += time.monotonic() - asked
            return answer

        _log.info("napari-2dmamba %s begins %s", __version__, self.row.name)
        found = plan.do(slide, folder, regions, self._on_progress, stops)
        self.row = dataclasses.replace(self.row, key=key, result=found)
        row = self.ended(states.DONE)
        write_status(row)
        _log.info("done in %.1f s", row.seconds)
        return TaskResult(row)

    def _reused(self, before: SlideStatus, own: bool) -> SlideStatus:
        """Return an earlier result under the slide's present name, place and label."""
        result = dict(before.result) | {"slide": self.row.name}
        if "folder" in result:
            result["folder"] = self.row.folder
        if "file" in result:
            result["file"] = str(Path(self.row.folder, FEATURES_FILE))
        row = dataclasses.replace(
            before,
            slide=self.row.slide,
            label=self.row.label,
            notes=self.row.notes,
            mpp=self.row.mpp,
            result=result,
        )
        if row != before:
            write_status(row)
        return row if own else dataclasses.replace(row, state=states.REUSED)

    def _on_progress(self, done: int, total: int, message: str) -> None:
        now = time.monotonic()
        if not total or not self._counting:
            self._counting = total > 0
            self._counted_from = done, now - self._paused
            _log.info("%s", message)
        elif done < total and now - self._told < _SECONDS_BETWEEN_NEWS:
            return
        self._told = now
        first, since = self._counted_from
        if self._counting and done > first:
            speed = (done - first) / max(now - self._paused - since, 1e-6)
            self.row = dataclasses.replace(self.row, patches_per_second=speed)
        self._tell(
            dataclasses.replace(self.row, patches_done=done, patches_total=total, message=message)
        )

    def _kept(self, state: str, reason: str) -> SlideStatus:
        """End in a state, in the slide's folder as well; a full disk must not hide the reason."""
        row = self.ended(state, reason)
        _log.error("%s", reason)
        with contextlib.suppress(UserError):
            write_status(row)
        return row

    def ended(self, state: str, reason: str = "") -> SlideStatus:
        """Return the row with its end."""
        return dataclasses.replace(
            self.row,
            state=state,
            reason=reason,
            seconds=time.monotonic() - self._began,
            finished=_now(),
            message="",
        )


class _NamesOnly(logging.Formatter):
    """Lines that name files and not where they lie: logs are shared."""

    def format(self, record: logging.LogRecord) -> str:
        return file_names_only(super().format(record))


@contextlib.contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Append what the package logs meanwhile to the slide's log; a full disk stops nothing."""
    try:
        handler = logging.FileHandler(folder / LOG_FILE, encoding="utf-8")
    except OSError:
        yield
        return
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    handler.setFormatter(_NamesOnly("%(asctime)s %(levelname)s %(message)s"))
    loggers = (_log, logging.getLogger("napari_2dmamba"))
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        with contextlib.suppress(OSError):  # what a full disk did not take goes at the end
            handler.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _worker() -> str:
    """Return what tells workers apart: a hash of the machine, as tables are shared, and the pid."""
    return f"{process_mark().rpartition('-')[0]}:{os.getpid()}"
