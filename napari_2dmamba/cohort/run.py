"""A model, or the feature extraction, on many slides."""

import dataclasses
import heapq
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_2dmamba.cohort import status as states
from napari_2dmamba.cohort.executors import Executor, gather
from napari_2dmamba.cohort.plan import CohortPlan
from napari_2dmamba.cohort.publishing import Publisher
from napari_2dmamba.cohort.settings import CohortSettings
from napari_2dmamba.cohort.settings_file import SavedSettings, write_settings
from napari_2dmamba.cohort.slide_task import SlideTask, TaskResult
from napari_2dmamba.cohort.slides import CohortSlide, find_slides
from napari_2dmamba.cohort.status import (
    CohortSummary,
    SlideStatus,
    read_cohort,
    write_status,
    write_summary,
)
from napari_2dmamba.errors import CohortError, FeatureError
from napari_2dmamba.export.content_hash import file_hash
from napari_2dmamba.pipeline import RunSettings
from napari_2dmamba.settings import ProgressCallback, StopCallback, validate
from napari_2dmamba.slide import GridSettings
from napari_2dmamba.slide.addresses import addresses_of

StatusCallback = Callable[[SlideStatus], None]
"""``on_status(row)``: a slide's row of the table has changed; called on the caller's thread."""

Slides = Sequence[CohortSlide | str | os.PathLike[str]]

_SECONDS_BEFORE_LOOKING_AGAIN = 1.0
_SECONDS_BETWEEN_TABLES = 10.0


def run_cohort(
    slides: Slides,
    checkpoint: str | os.PathLike[str],
    settings: RunSettings | None = None,
    *,
    out: str | os.PathLike[str],
    cohort: CohortSettings | None = None,
    checkpoint_settings: Mapping[str, Any] | None = None,
    features: str | os.PathLike[str] | None = None,
    regions: str | os.PathLike[str] | None = None,
    client: Any = None,
    on_progress: ProgressCallback | None = None,
    on_status: StatusCallback | None = None,
    should_stop: StopCallback | None = None,
    should_pause: StopCallback | None = None,
) -> CohortSummary:
    """Run an aggregator on many slides; one that fails does not stop the others.

    A slide whose content, settings and checkpoint were done before in `out` is not done again;
    an interrupted one goes on from its last batch. Several runs may share `out`.

    Parameters
    ----------
    slides
        From `find_slides`, or what it takes: files, folders, patterns, manifests.
    checkpoint
        Path of a checkpoint; every worker must see it there.
    settings
        Defaults throughout when None; the grid then is the checkpoint's.
    out
        Gets one folder per slide, and the table ``summary.csv``. Every worker must see it.
    cohort
        Workers, retries, and whether to start again.
    checkpoint_settings
        What a published checkpoint does not hold, by name.
    features
        A file of features computed before, of the only slide, or a folder with one per slide
        named like it.
    regions
        GeoJSON of regions to include and exclude, for every slide, or a folder that holds one
        file per slide, called like it. Those that a slide brings along come first.
    client
        A connected `distributed.Client` to use instead of workers of our own.
    on_progress
        Slides ended, slides, and a sentence; see `settings.ProgressCallback`.
    on_status
        See `StatusCallback`.
    should_stop
        See `settings.StopCallback`; the summary then says that it was interrupted.
    should_pause
        ``should_pause()`` is polled; while it is True every slide waits between batches.

    Raises
    ------
    UserError
        When nothing can begin: no slide, a checkpoint that does not load, a folder that cannot
        be written, no scheduler. What happens to a slide is in its row.
    """
    from napari_2dmamba.features.files import require_features
    from napari_2dmamba.models import load_checkpoint
    from napari_2dmamba.models.prediction import is_cox

    given_features = None
    if features is not None:
        given_features = str(require_features(Path(features), or_folder=True).absolute())
    path = Path(checkpoint).expanduser().absolute()
    given = dict(checkpoint_settings or {})
    settings = settings or RunSettings()
    header = load_checkpoint(path, **given).header  # all of it: one that is damaged stops here
    plan = _plan_of(
        dataclasses.replace(settings, grid=settings.grid or GridSettings().trained_for(header)),
        out,
        cohort,
        regions,
        checkpoint=str(path),
        checkpoint_hash=file_hash(path),
        checkpoint_settings=given,
        features=given_features,
        risk="logit" if is_cox(header.task, header.config["n_outputs"]) else "",
    )
    return _cohort(slides, plan, cohort, client, on_progress, on_status, should_stop, should_pause)


def extract_cohort(
    slides: Slides,
    settings: RunSettings | None = None,
    *,
    out: str | os.PathLike[str],
    cohort: CohortSettings | None = None,
    regions: str | os.PathLike[str] | None = None,
    client: Any = None,
    on_progress: ProgressCallback | None = None,
    on_status: StatusCallback | None = None,
    should_stop: StopCallback | None = None,
    should_pause: StopCallback | None = None,
) -> CohortSummary:
    """Compute the features of many slides, each to ``features.h5`` in its folder of `out`.

    Parameters
    ----------
    settings
        Tissue, grid and features; the model's settings have no effect.
    slides, out, cohort, regions, client, on_progress, on_status, should_stop, should_pause
        See `run_cohort`.

    Raises
    ------
    UserError
        As for `run_cohort`.
    """
    settings = settings or RunSettings()
    complete = dataclasses.replace(settings, grid=settings.grid or GridSettings())
    plan = _plan_of(complete, out, cohort, regions)
    return _cohort(slides, plan, cohort, client, on_progress, on_status, should_stop, should_pause)


def _plan_of(
    settings: RunSettings,
    out: str | os.PathLike[str],
    cohort: CohortSettings | None,
    regions: str | os.PathLike[str] | None,
    **model: Any,
) -> CohortPlan:
    from napari_2dmamba.slide import read_regions

    for stage in (
        settings.tissue, settings.grid, settings.features, settings.model, settings.feature_file
    ):  # fmt: skip
        validate(stage)
    weights = settings.features.weights
    if weights is not None and not Path(weights).exists():
        raise FeatureError(f"the encoder's weights {weights} do not exist; check the path")
    if regions is not None:
        regions = Path(regions).absolute()
        if not regions.is_dir():
            read_regions(regions)  # a file that is none stops here, not once per slide
    return CohortPlan(
        settings,
        out=str(Path(out).expanduser().absolute()),
        cohort=secrets.token_hex(8),
        fresh=cohort is not None and cohort.fresh,
        regions=None if regions is None else str(regions),
        weights_hash=file_hash(weights) if weights and Path(weights).is_file() else weights,
        **model,
    )


def _cohort(
    slides: Slides,
    plan: CohortPlan,
    settings: CohortSettings | None,
    client: Any,
    on_progress: ProgressCallback | None,
    on_status: StatusCallback | None,
    should_stop: StopCallback | None,
    should_pause: StopCallback | None,
) -> CohortSummary:
    settings = settings or CohortSettings()
    should_stop, should_pause = should_stop or _never, should_pause or _never
    validate(settings)
    out = Path(plan.out)
    listed = [one for one in slides if isinstance(one, CohortSlide)]
    others = [one for one in slides if not isinstance(one, CohortSlide)]
    if others or not listed:
        listed += find_slides(others, leave_out=out)
    if len(listed) > 1 and plan.features_of_one:
        raise FeatureError(
            f"{Path(str(plan.features)).name} holds the features of one slide, and {len(listed)} "
            "slides were named; give the folder with a file for each, named like it"
        )
    _refuse_if_read_only(out)
    made = SavedSettings(
        plan.settings, plan.checkpoint, plan.checkpoint_settings, plan.features, plan.regions
    )
    write_settings(made, out)
    publisher = None if settings.publish is None else Publisher(settings.publish, out)
    begun = time.monotonic()
    executor = gather(
        settings,
        len(listed),
        plan.cohort,
        out,
        device=plan.settings.features.device,
        client=client,
        should_stop=should_stop,
        should_pause=should_pause,
    )
    features = plan.settings.features
    if executor.threads and not features.threads:
        features = dataclasses.replace(features, threads=min(8, executor.threads))
        plan = dataclasses.replace(
            plan, settings=dataclasses.replace(plan.settings, features=features)
        )
    ledger = _Ledger(
        listed, plan, on_progress, on_status, full_paths=settings.full_paths, publisher=publisher
    )
    unpublished: list[str] = []
    interrupted = True
    try:
        interrupted = _share_out(executor, ledger, settings.retries, should_stop, should_pause)
    except BaseException:
        for number, outcome in executor.stop():
            ledger.put(number, outcome.row)
        raise
    finally:
        executor.close()
        ledger.write_table()
        if publisher is not None:
            unpublished = publisher.close(whole=not interrupted)
    seconds = time.monotonic() - begun
    warnings = (*executor.warnings, *ledger.of_others())
    if unpublished:
        warnings = (*warnings, f"{len(unpublished)} results are not published: {unpublished[0]}")
    return CohortSummary(
        out, tuple(ledger.rows), interrupted, seconds, warnings, unpublished=len(unpublished)
    )


def _share_out(
    executor: Executor,
    ledger: "_Ledger",
    retries: int,
    should_stop: StopCallback,
    should_pause: StopCallback,
) -> bool:
    """Have every slide done; return True when it was stopped before."""
    for number in range(len(ledger.rows)):
        executor.submit(number, ledger.job(number))
    open_ = set(range(len(ledger.rows)))
    later: list[tuple[float, int]] = []
    while open_:
        if ledger.stopped or should_stop():
            for number, outcome in executor.stop():
                ledger.put(number, outcome.row)
            return True
        executor.hold(should_pause())
        while later and later[0][0] <= time.monotonic():
            _, number = heapq.heappop(later)
            executor.submit(number, ledger.job(number))
        ended = executor.wait(ledger.put)
        if ended is None:
            continue
        number, outcome = ended
        if outcome.row.state == states.ELSEWHERE:
            heapq.heappush(later, (time.monotonic() + _SECONDS_BEFORE_LOOKING_AGAIN, number))
        elif outcome.worth_retrying and ledger.attempts[number] <= retries:
            ledger.attempts[number] += 1
            executor.submit(number, ledger.job(number))
            row = dataclasses.replace(outcome.row, state=states.WAITING)
            outcome = TaskResult(dataclasses.replace(row, message="failed; is tried again"))
        else:
            open_.remove(number)
        ledger.put(number, outcome.row)
    return ledger.stopped


def _never() -> bool:
    return False


class _Ledger:
    """The rows of a cohort, told to whoever listens and written as a table now and then."""

    def __init__(
        self,
        slides: list[CohortSlide],
        plan: CohortPlan,
        on_progress: ProgressCallback | None,
        on_status: StatusCallback | None,
        *,
        full_paths: bool,
        publisher: Publisher | None = None,
    ) -> None:
        self._full_paths, self._publisher = full_paths, publisher
        self._plan, self._slides = plan, slides
        self._addresses = addresses_of(slide.path for slide in slides)
        self._on_progress, self._on_status = on_progress, on_status
        # Names are compared as a Mac or Windows compares them
        self._stems = Counter(slide.path.stem.casefold() for slide in slides)
        self.attempts = [1] * len(slides)
        self._others = 0
        self.rows = [self.job(n).row(states.WAITING) for n in range(len(slides))]
        self._states = Counter(row.state for row in self.rows)
        self._next_table = time.monotonic() + _SECONDS_BETWEEN_TABLES
        for row in self.rows:
            self._tell(row)

    def job(self, number: int) -> SlideTask:
        """Return a slide's next turn."""
        slide = self._slides[number]
        alone = self._stems[slide.path.stem.casefold()] == 1
        address = self._addresses[number]
        return SlideTask(self._plan, slide, alone, self.attempts[number], address)

    @property
    def stopped(self) -> bool:
        """Whether a slide was stopped, and with it the cohort."""
        return self._states[states.STOPPED] > 0

    def put(self, number: int, row: SlideStatus) -> None:
        """Take in what is new of a slide."""
        before, self.rows[number] = self.rows[number], row
        if row.state == states.FAILED and row.folder and row.reason:
            self._keep_failure_of_a_dead_worker(row)
        self._states[before.state] -= 1
        self._states[row.state] += 1
        if self._publisher is not None and row.good and not before.good:
            self._publisher.slide(Path(row.folder))
        self._tell(row)
        if time.monotonic() > self._next_table:
            self.write_table()

    def _keep_failure_of_a_dead_worker(self, row: SlideStatus) -> None:
        held = states.read_status(Path(row.folder))
        if held is not None and held.state == states.RUNNING and held.cohort == row.cohort:
            write_status(row)

    def _tell(self, row: SlideStatus) -> None:
        if self._on_status is not None:
            self._on_status(row)
        if self._on_progress is not None:
            words = f"{row.name}: {row.message or row.reason or states.STATES[row.state]}"
            ended = sum(
                self._states[state] for state in (states.DONE, states.REUSED, states.FAILED)
            )
            self._on_progress(ended, len(self.rows), words)

    def write_table(self) -> None:
        """Write the table of every slide in the folder, this run's and those of others."""
        began = time.monotonic()
        kept = read_cohort(self._plan.out, superseded=True).rows
        digest = self._plan.settings_digest()
        self._others = sum(row.good and row.result.get("settings_digest") != digest for row in kept)
        homeless = [row for row in self.rows if not row.folder]
        write_summary(Path(self._plan.out), [*kept, *homeless], full_paths=self._full_paths)
        took = time.monotonic() - began
        self._next_table = time.monotonic() + _SECONDS_BETWEEN_TABLES + 20 * took

    def of_others(self) -> tuple[str, ...]:
        """Say whether the table holds results of another checkpoint or other settings."""
        if not self._others:
            return ()
        return (
            f"{self._others} results in {states.SUMMARY_FILE} are of another checkpoint or other "
            "settings (its column settings digest tells them apart)",
        )


def _refuse_if_read_only(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CohortError(
            f"{out} cannot be written ({error.strerror}); choose another folder for the results"
        ) from error
