"""Whatever is dropped into the window: told apart, and taken to where it belongs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import QApplication

from napari_2dmamba.errors import UserError
from napari_2dmamba.plugin.layers.region_layers import show_regions
from napari_2dmamba.plugin.parts import docks
from napari_2dmamba.plugin.parts.jobs import Job
from napari_2dmamba.plugin.session import Session
from napari_2dmamba.plugin.session.preferences import tries_slides_apart
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.slide import open_slide, read_regions
from napari_2dmamba.slide.addresses import address_of, is_address, slide_path

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.plugin.session import SlideState
    from napari_2dmamba.slide import Slide

Kind = Literal["slide", "run", "regions", "checkpoint", "features"]

_FEATURES = (".h5", ".hdf5", ".parquet", ".h5ad")
_PICKLED = (".pt", ".pth")  # either a model or features: the file must be opened to know
_WEIGHTS = (".safetensors", ".bin", ".ckpt")
_REGIONS = (".geojson", ".json")
_OURS_ELSEWHERE = (Qt.KeyboardModifier.AltModifier, Qt.KeyboardModifier.ShiftModifier)
_MOST_SLIDES = 24


@dataclass(frozen=True)
class Thing:
    """Something that can be used.

    Attributes
    ----------
    kind, path
        What it is, and where.
    """

    kind: Kind
    path: Path


@dataclass(frozen=True)
class Sorted:
    """What was dropped, told apart.

    Attributes
    ----------
    things
        What can be used, in its order.
    problems
        A sentence for each that cannot be.
    opened
        Slides that were opened already: those on the network, for which a window cannot wait.
    """

    things: tuple[Thing, ...]
    problems: tuple[str, ...]
    opened: tuple["Slide", ...] = ()


def sort_paths(paths: Iterable[Path | str]) -> Sorted:
    """Tell dropped files, folders and addresses apart; reads no more of each than it must."""
    things: list[Thing] = []
    problems: list[str] = []
    opened: list[Slide] = []
    for given in paths:
        path = Path(given)
        try:
            path = slide_path(given)
            if address_of(path) is None:
                things += _things_in(path)
            else:
                opened.append(_opened_over_the_network(path))
        except UserError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path.name} cannot be read ({error.strerror or error})")
    return Sorted(tuple(things), tuple(problems), tuple(opened))


def _opened_over_the_network(path: Path) -> "Slide":
    """Open a slide and read what is drawn first."""
    slide = open_slide(path, apart=tries_slides_apart())
    try:
        slide.thumbnail()
    except BaseException:
        slide.close()
        raise
    return slide


def _things_in(path: Path) -> list[Thing]:
    from napari_2dmamba.export.run_folder import RECORD_FILE
    from napari_2dmamba.features.files import holds_features

    suffix = path.suffix.lower()
    if path.is_dir():
        return _things_in_folder(path)
    if path.name == RECORD_FILE:
        return [Thing("run", path.parent)]
    if suffix in _REGIONS:
        return [Thing("regions", path)]
    if suffix in _FEATURES:
        return [Thing("features", path)]
    if suffix in _WEIGHTS:
        return [Thing("checkpoint", path)]
    if suffix in _PICKLED:
        return [Thing("features" if holds_features(path) else "checkpoint", path)]
    return [Thing("slide", path)]  # opening it says what it is not


def _things_in_folder(folder: Path) -> list[Thing]:
    from napari_2dmamba.cohort.slides import slides_below
    from napari_2dmamba.export.run_folder import RECORD_FILE
    from napari_2dmamba.export.run_library import list_runs
    from napari_2dmamba.features.files import holds_features
    from napari_2dmamba.slide.dicom_series import holds_dicom
    from napari_2dmamba.slide.zarr_backend import is_ome_zarr

    if (folder / RECORD_FILE).is_file():
        return [Thing("run", folder)]
    if folder.suffix.lower() == ".zarr" or is_ome_zarr(folder):
        return [Thing("features" if holds_features(folder) else "slide", folder)]
    slides = slides_below(folder)
    if len(slides) > _MOST_SLIDES:
        raise UserError(
            f"{folder.name} holds {len(slides)} slides, too many for one window; analyse them "
            "with Cohort 2DMamba, or drop single slides"
        )
    runs = [] if slides else [one for one in list_runs(folder) if one.problem is None]
    if runs:
        return [Thing("run", runs[0].folder)]
    if not slides and holds_dicom(folder):  # whose files are often called without a suffix
        return [Thing("slide", folder)]
    if not slides:
        raise UserError(
            f"{folder.name} holds no slide and no saved run; drop slide files, regions as "
            "GeoJSON, a checkpoint, features or the folder of a run"
        )
    return [Thing("slide", one) for one in slides]


class Intake(QObject):
    """Takes what is dropped on a window, and what widgets want opened.

    Alt and Shift leave a drop to napari, which then asks for a reader or makes a stack.

    Parameters
    ----------
    session
        Gets slides, regions and choices.
    parent
        The window.
    """

    def __init__(self, session: Session, parent: QObject) -> None:
        super().__init__(parent)
        self._session = session
        self._jobs: set[Job] = set()

    def watch(self, *places: Any) -> None:
        """Take what is dropped on these widgets."""
        for place in places:
            place.setAcceptDrops(True)
            place.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: Any) -> bool:
        """Take drops of local files and of web links before napari does."""
        if event.type() not in (QEvent.Type.DragEnter, QEvent.Type.DragMove, QEvent.Type.Drop):
            return False
        data = event.mimeData()
        urls = [] if data is None else data.urls()
        paths: list[Path | str] = [Path(url.toLocalFile()) for url in urls if url.isLocalFile()]
        paths += [link for url in urls if is_address(link := url.toString(url.FullyEncoded))]
        keys = QApplication.keyboardModifiers()
        if not paths or any(keys & one for one in _OURS_ELSEWHERE):
            return False
        event.acceptProposedAction()
        if event.type() == QEvent.Type.Drop:
            # the file manager waits until this has returned
            QTimer.singleShot(0, lambda: self.take(paths))
        return True

    def take(self, paths: Sequence[Path | str]) -> None:
        """Open or use files, folders and addresses, and say what cannot be used."""
        if not paths:
            return

        def task(progress: ProgressCallback, stop: StopCallback) -> Sorted:
            return sort_paths(paths)

        asked_on = self._session.current
        job = Job(task)
        self._jobs.add(job)
        job.succeeded.connect(lambda found: self._use(found, asked_on))
        job.failed.connect(lambda sentence: self._say([sentence]))
        job.finished.connect(lambda: self._jobs.discard(job))
        job.start()

    @property
    def is_busy(self) -> bool:
        """Whether something is still being told apart."""
        return bool(self._jobs)

    def _use(self, found: Sorted, asked_on: "SlideState | None") -> None:
        """Use what was dropped while ``asked_on`` was looked at."""
        problems = [*found.problems]
        for slide in found.opened:
            self._session.add(slide)
        slides = [one.path for one in found.things if one.kind == "slide"]
        problems += self._session.open(slides)
        if slides or found.opened:
            asked_on = self._session.current
        for thing in found.things:  # after the slides they may belong to
            if thing.kind != "slide":
                problem = self._use_one(thing, asked_on)
                problems += [problem] if problem else []
        self._say(problems)

    def _use_one(self, thing: Thing, asked_on: "SlideState | None") -> str:
        """Use what is no slide; returns why it cannot be used, or nothing."""
        session, path = self._session, thing.path
        slide = session.current
        if thing.kind == "run":
            widget = docks.show(session.viewer, docks.RUN)
            if widget.is_running:
                return f"{path.name} was not opened, for something runs; wait, or cancel it"
            widget.open_saved_run(path)
        elif slide is not asked_on:  # it would be used on what the user did not mean
            return f"{path.name} was not used, for another slide is shown now; drop it again"
        elif thing.kind == "checkpoint":
            docks.show(session.viewer, docks.RUN).model_section.add_checkpoint(path)
        elif slide is None:
            return f"{path.name} belongs to a slide, and none is open; open its slide first"
        elif thing.kind == "features":
            session.choose(from_file=True, feature_file=path)
        else:
            try:
                regions = read_regions(path, offset=slide.slide.bounds[:2])
            except UserError as error:
                return str(error)
            show_regions(session, slide, regions)
        return ""

    def _say(self, problems: list[str]) -> None:
        if problems:
            docks.show(self._session.viewer, docks.RUN)  # where it is said
            self._session.events.said.emit(". ".join(problems), "error")


_intakes: "WeakKeyDictionary[Session, Intake]" = WeakKeyDictionary()


def intake_of(session: Session) -> Intake:
    """Return what takes in dropped files for a session."""
    if session not in _intakes:
        _intakes[session] = Intake(session, session.viewer.window._qt_window)
    return _intakes[session]


def accept_drops(viewer: "Viewer") -> None:
    """Let the window of a viewer take whatever is dropped on it; napari has no public way."""
    session = Session.of(viewer)
    if session in _intakes:
        return
    window = session.viewer.window._qt_window
    canvas = window._qt_viewer
    welcome = getattr(canvas, "_welcome_widget", None)
    intake_of(session).watch(window, canvas, *([] if welcome is None else [welcome]))


def take(session: Session, paths: Sequence[Path | str]) -> None:
    """Open or use files, folders and addresses as if they were dropped."""
    intake_of(session).take(paths)
