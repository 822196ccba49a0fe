"""Bags with what is known about their slides; read when they are needed, in bounded memory."""

import hashlib
from collections import OrderedDict, defaultdict, deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_2dmamba.errors import FeatureError, TaskError
from napari_2dmamba.features import read_features
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.features.file_content import digest_of, sampled_digest_of, size_of
from napari_2dmamba.features.files import are_features, described
from napari_2dmamba.models.fit import MPP_TOLERANCE
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.tasks.table import LabelledSlide, Problem, Table
from napari_2dmamba.tasks.time_bins import bin_of


@dataclass(frozen=True)
class LabelledBag:
    """One training example; the label is of the slide, never of a patch.

    Attributes
    ----------
    bag
        Features of the slide.
    label
        Index of the class, or of the time bin of the event or censoring.
    censored
        Survival only: the event was not seen.
    time
        Survival only: time of the event or censoring, in any unit; the bin stands in for it
        when None.
    name, patient
        Of the slide; slides of one patient are resampled together.
    """

    bag: FeatureBag
    label: int
    censored: bool = False
    time: float | None = None
    name: str = ""
    patient: str = ""


class TableBags(Sequence[LabelledBag]):
    """Slides of a table as bags that are read when they are asked for.

    Bags once read are kept as long as all together take less than ``memory_mb``; larger sets
    are read from the disk every epoch. What is held at most is ``memory_mb`` and, while
    training, the bags that are prefetched (`prefetched`).

    Parameters
    ----------
    table, names
        The table, and which of its slides.
    edges
        Survival: edges of the time bins.
    memory_mb
        MiB of features to keep.
    """

    def __init__(
        self,
        table: Table,
        names: Sequence[str],
        edges: Sequence[float] | None = None,
        memory_mb: int = 1024,
    ) -> None:
        known = table.by_name()
        self.slides: tuple[LabelledSlide, ...] = tuple(known[name] for name in names)
        self.labels: tuple[int, ...] = tuple(
            table.class_index(slide)
            if table.kind != "survival"
            else bin_of(slide.time or 0.0, edges or (0.0, np.inf))
            for slide in self.slides
        )
        self._memory = memory_mb * 2**20
        self._forget()

    def _forget(self) -> None:
        self._kept: OrderedDict[int, FeatureBag] = OrderedDict()
        self._room = self._memory

    def __getstate__(self) -> dict[str, Any]:
        """Go to another process without what was read: it may be a gigabyte."""
        return {"slides": self.slides, "labels": self.labels, "_memory": self._memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return len(self.slides)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        slide = self.slides[index]
        return LabelledBag(
            self._bag(index % len(self), slide),
            self.labels[index],
            censored=slide.event is False,
            time=slide.time,
            name=slide.name,
            patient=slide.patient,
        )

    def _bag(self, index: int, slide: LabelledSlide) -> FeatureBag:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        if slide.features is None:
            raise TaskError(f"slide {slide.name} has no features file; extract its features first")
        bag = read_features(slide.features, slide_mpp=slide.mpp)
        size = bag.features.nbytes + bag.coords.nbytes
        # What does not fit is not kept: in a loop over all, dropping the oldest would always
        # drop what is needed next
        if size <= self._room:
            self._room -= size
            self._kept[index] = bag
        return bag


def prefetched(
    bags: Sequence[LabelledBag], order: Sequence[int], depth: int
) -> Generator[LabelledBag]:
    """Yield bags in an order, reading up to `depth` ahead in a thread of its own."""
    if depth == 0:
        for index in order:
            yield bags[index]
        return
    with ThreadPoolExecutor(1, thread_name_prefix="bags") as reader:
        ahead: deque[Future[LabelledBag]] = deque()
        try:
            for index in order:
                ahead.append(reader.submit(bags.__getitem__, index))
                if len(ahead) > depth:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


@dataclass(frozen=True)
class FeatureKind:
    """What the features of a table are, as `models.fit` compares it.

    Attributes
    ----------
    feature_size
        D.
    encoder, patch_size, mpp
        None where the files do not say.
    canvas
        ``(rows, cols)`` that holds every slide at its own place, as the published training
        takes it; None where it was not asked for.
    """

    feature_size: int
    encoder: str | None = None
    patch_size: int | None = None
    mpp: float | None = None
    canvas: tuple[int, int] | None = None


def check_features(
    table: Table,
    *,
    canvas: bool = False,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> tuple[FeatureKind, tuple[Problem, ...]]:
    """Look at every features file of a table, without reading its features.

    The most frequent kind is taken for the table's; files of another kind are problems that
    stop, as are those that are not there.

    Raises
    ------
    TaskError
        When no features file can be used.
    Cancelled
        When ``should_stop()`` said so.
    """
    from collections import Counter

    from napari_2dmamba.errors import Cancelled

    told: dict[str, dict[str, Any]] = {}
    absent, broken = [], []
    first_error = ""
    extent = np.zeros(2, np.int64)
    for number, slide in enumerate(table.slides):
        if should_stop is not None and should_stop():
            raise Cancelled
        if on_progress is not None:
            on_progress(number, len(table), "Looking at features")
        if slide.features is None or not are_features(slide.features):
            absent.append(slide.name)
            continue
        try:
            told[slide.name] = _describe(slide.features, slide.mpp)
            if canvas:
                extent = np.maximum(extent, _last_cell(slide.features))
        except FeatureError as error:
            broken.append(slide.name)
            first_error = first_error or str(error)
    problems = []
    if absent:
        words = (
            f"{len(absent)} slides have no features file (first {absent[0]}); extract them first"
        )
        problems.append(Problem("no features", len(absent), words, True, tuple(absent)))
    if broken:
        words = f"{len(broken)} features files cannot be used: {first_error}"
        problems.append(Problem("damaged features", len(broken), words, True, tuple(broken)))
    if not told:
        raise TaskError(problems[0].sentence if problems else "the table has no slides; add some")
    usual: dict[str, Any] = {}
    for what in ("feature_size", "encoder", "patch_size", "mpp"):
        values = Counter(kind[what] for kind in told.values() if kind[what] is not None)
        usual[what] = values.most_common(1)[0][0] if values else None
        other = [n for n, kind in told.items() if _differs(what, kind[what], usual[what])]
        if other:
            found = sorted({str(told[name][what]) for name in other})
            words = (
                f"{len(other)} slides have features of {what.replace('_', ' ')} "
                f"{', '.join(found)}, and the others of {usual[what]} (first {other[0]}); extract "
                "all features alike"
            )
            problems.append(Problem(f"other {what}", len(other), words, True, tuple(other)))
    if usual["encoder"] is None:
        words = (
            "no features file says by which encoder it was made, so the checkpoint cannot refuse "
            "features of another"
        )
        problems.append(Problem("unknown encoder", len(told), words))
    nominal = tuple(name for name, kind in told.items() if kind["is_nominal"])
    if nominal:
        words = (
            f"{len(nominal)} features files state a nominal magnification only, which was taken "
            f"for {usual['mpp']:g} µm/px; give the slides' µm per level-0 pixel in the column mpp, "
            "or the model may state a resolution it was not trained at"
        )
        problems.append(Problem("nominal resolution", len(nominal), words, slides=nominal))
    problems += _same_content([s for s in table.slides if s.name in told])
    size = (int(extent[0]) + 1, int(extent[1]) + 1) if canvas else None
    return FeatureKind(canvas=size, **usual), tuple(problems)


def features_digest(table: Table) -> str:
    """Return a hash that tells other features under the same names."""
    told = [
        (slide.name, size_of(slide.features), sampled_digest_of(slide.features))
        for slide in table.slides
        if slide.features is not None
    ]
    return hashlib.sha256(repr(sorted(told)).encode()).hexdigest()[:16]


def _same_content(slides: Sequence[LabelledSlide]) -> list[Problem]:
    """Find slides that are one slide under several names.

    Only files of one size are read. Of several patients, or with several answers, they stop:
    such a slide could be fitted and tested at once.
    """
    by_size: dict[int, list[LabelledSlide]] = defaultdict(list)
    for slide in slides:
        assert slide.features is not None
        by_size[size_of(slide.features)].append(slide)
    found = []
    for alike in by_size.values():
        if len(alike) < 2:
            continue
        by_content: dict[str, list[LabelledSlide]] = defaultdict(list)
        for slide in alike:
            assert slide.features is not None
            by_content[digest_of(slide.features)].append(slide)
        for same in by_content.values():
            if len(same) < 2:
                continue
            differs = len({(s.patient, s.label, s.time, s.event) for s in same}) > 1
            words = f"{len(same)} slides have the same features ({same[0].name}, {same[1].name})"
            if differs:
                words += (
                    " but other patients or answers, so that a slide could be fitted and tested "
                    "at once; keep one of them"
                )
            else:
                words += ", so that one slide counts several times"
            names = tuple(s.name for s in same)
            found.append(Problem("same content", len(same), words, differs, names))
    return found


def with_features(table: Table, files: dict[str, Path]) -> Table:
    """Return the table with features files that were made for slides without any."""
    slides = tuple(
        replace(slide, features=files[slide.name]) if slide.name in files else slide
        for slide in table.slides
    )
    return replace(table, slides=slides)


def _describe(path: Path, slide_mpp: float | None) -> dict[str, Any]:
    """Return what `describe_features` does, the resolution by the slide's where that is known.

    ``is_nominal`` says that it is that of a magnification: 20x stands for 0.3 to 0.6 µm per pixel.
    """
    if path.suffix == ".parquet":
        bag = read_features(path, slide_mpp=slide_mpp)
        names = ("feature_size", "encoder", "patch_size", "mpp")
        return {name: getattr(bag, name) for name in names} | {"is_nominal": False}
    told, facts = described(path)
    nominal = facts.mpp is None and told["mpp"] is not None
    side, size = facts.patch_size_level0, facts.patch_size
    if nominal and slide_mpp is not None and side is not None and size is not None:
        return told | {"mpp": side * slide_mpp / size, "is_nominal": False}
    return told | {"is_nominal": nominal}


def _last_cell(path: Path) -> np.ndarray:
    bag = read_features(path)
    return np.asarray(bag.coords[:, ::-1].max(0) // bag.patch_size_level0)


def _differs(what: str, value: Any, usual: Any) -> bool:
    if value is None or usual is None:
        return False
    if what == "mpp":
        return bool(abs(value - usual) > MPP_TOLERANCE * usual)
    return bool(value != usual)
