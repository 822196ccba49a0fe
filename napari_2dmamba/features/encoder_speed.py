"""How fast encoders are on this machine, as measured here: kept with this user's settings.

What is kept names an encoder that comes with the program, its catalogue or a package; of others,
whose names may be places, only a checksum of what they are. Loads no torch.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features.encoder_names import EMBEDDED_ENCODER, is_known

if TYPE_CHECKING:
    import torch

    from napari_2dmamba.features.encoder import Encoder

MOST_KEPT = 200
"""Speeds that are kept; the oldest go first."""

_FORMAT = 2  # in 1 a batch size was that of patches of any size
_LOCK_SECONDS = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderSpeed:
    """What was measured of one encoder, on one device, in one precision, on patches of one size.

    Attributes
    ----------
    encoder
        Its name, or nothing where that is not one of `encoder_names.known_encoders`.
    identity
        Checksum of `Encoder.identity`: another for other weights.
    device, device_kind
        What it ran on, as people call it, and its type for torch, such as ``"cuda"``.
    precision
        ``"float32"`` or ``"bfloat16"``.
    patches_per_second
        Of the last extraction, reading included; where none was long enough, of the measuring.
    patches, patch_size
        Of how many patches, and their side in pixels.
    batch_size
        Patches that were encoded at once.
    of_extraction
        Whether it is the speed of an extraction, and not of the encoder alone.
    automatic
        The batch size that measuring found, 0 where it was not measured.
    date
        Day, in UTC.
    """

    encoder: str
    identity: str
    device: str
    device_kind: str
    precision: str
    patches_per_second: float
    patches: int
    patch_size: int
    batch_size: int
    of_extraction: bool
    automatic: int
    date: str

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if type(getattr(self, field.name)) is not field.type:
                raise TypeError(f"{field.name} is no {field.type}")
        if not (0 < self.patches_per_second < math.inf and self.batch_size > 0):
            raise ValueError("a speed and its batch size are above 0")
        if self.automatic < 0:
            raise ValueError("the automatic batch size is not below 0")

    @property
    def words(self) -> str:
        """The speed in a line, with what it is the speed of."""
        what = "reading included" if self.of_extraction else "the encoder alone"
        return (
            f"{self.patches_per_second:.3g} patches/s, {what} ({self.device}, {self.precision}, "
            f"{self.patches:,} patches of {self.patch_size} px, {self.batch_size} at a time, "
            f"{self.date})"
        )

    @property
    def _key(self) -> "_Key":
        return self.identity, self.device, self.precision, self.patch_size


_Key = tuple[str, str, str, int]

_measured_here: dict[_Key, EncoderSpeed] = {}
"""Those of this process, for where settings cannot be written."""


def speeds_file() -> Path:
    """Return the file of this user that holds the speeds."""
    from platformdirs import user_config_path

    return user_config_path("napari-2dmamba", appauthor=False) / "encoder_speeds.json"


def keep_speed(
    encoder: "Encoder",
    precision: str,
    *,
    patches_per_second: float,
    patches: int,
    patch_size: int,
    batch_size: int,
    automatic: int | None = None,
) -> EncoderSpeed:
    """Keep what was measured of an encoder, in place of what was known of it.

    Several processes may do so at once, as the workers of a cohort do: none drops what another
    keeps. The first batch size that was measured stays, whoever measured another meanwhile.

    Parameters
    ----------
    precision
        That was asked for; what the encoder itself says of it counts.
    automatic
        The batch size that measuring found; None for the speed of an extraction, which leaves
        the automatic batch size as it was.

    Returns
    -------
    EncoderSpeed
        What is known now.
    """
    measured = EncoderSpeed(
        encoder=encoder.name if is_known(encoder.name) else "",
        identity=_digest(encoder),
        device=name_of_device(encoder.device),
        device_kind=encoder.device.type,
        precision=_precision(encoder, precision),
        patches_per_second=float(patches_per_second),
        patches=int(patches),
        patch_size=int(patch_size),
        batch_size=int(batch_size),
        of_extraction=automatic is None,
        automatic=automatic or 0,
        date=datetime.now(UTC).date().isoformat(),
    )
    try:
        with _file_locked():
            others = _kept()
            before = next((one for one in others if one._key == measured._key), None)
            found = _noted(measured, before)
            others = [one for one in others if one._key != found._key]
            content = [dataclasses.asdict(one) for one in [found, *others][:MOST_KEPT]]
            with atomic_write(speeds_file(), FeatureError) as part:
                text = json.dumps({"format": _FORMAT, "speeds": content}, indent=1)
                part.write_text(text, "utf-8")
    except FeatureError as error:  # a comfort, for which no extraction fails
        _log.warning("the speed of the encoder is kept for this session only: %s", error)
        found = _noted(measured, None)
    return found


def _noted(measured: EncoderSpeed, kept: EncoderSpeed | None) -> EncoderSpeed:
    """Put together what was measured and what was known, and note it for this process."""
    before = kept or _measured_here.pop(measured._key, None)
    found = measured
    if before is not None:
        found = before if before.of_extraction and not measured.of_extraction else measured
        found = dataclasses.replace(found, automatic=before.automatic or measured.automatic)
    _measured_here.pop(found._key, None)  # the newest is the last
    _measured_here[found._key] = found
    return found


@contextlib.contextmanager
def _file_locked() -> Iterator[None]:
    path = speeds_file()
    lock = FileLock(path.with_suffix(".lock"), timeout=_LOCK_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, Timeout) as error:
        raise FeatureError(f"{path} cannot be changed now ({error})") from error
    try:
        yield
    finally:
        lock.release()


def speed_of(encoder: "Encoder", precision: str, patch_size: int) -> EncoderSpeed | None:
    """Return what was measured of a loaded encoder on its device and such patches, or None."""
    key = (
        _digest(encoder), name_of_device(encoder.device), _precision(encoder, precision),
        patch_size,
    )  # fmt: skip
    if key in _measured_here:
        return _measured_here[key]
    return next((one for one in _kept() if one._key == key), None)


def latest_speed(name: str, device: str, precision: str) -> EncoderSpeed | None:
    """Return what was measured last of the encoder of a name, or None.

    Parameters
    ----------
    name
        Of `encoder_names.known_encoders`.
    device
        As `FeatureSettings.device`; ``"auto"`` is any.
    precision
        As `FeatureSettings.precision`; the embedded encoder has one alone.
    """
    kind = device.partition(":")[0]
    precision = "float32" if name == EMBEDDED_ENCODER else precision
    known = [*reversed(_measured_here.values()), *_kept()]
    return next(
        (
            one
            for one in known
            if one.encoder == name
            and kind in ("auto", one.device_kind)
            and one.precision == precision
        ),
        None,
    )


def name_of_device(device: "torch.device") -> str:
    """Return what a device is called; of the CPU also with how many threads torch uses it."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{_processor()}, {torch.get_num_threads()} threads"
    return device.type.upper()


def _processor() -> str:
    import platform

    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not on Linux
        pass
    return platform.processor() or platform.machine() or "CPU"


def _precision(encoder: "Encoder", asked: str) -> str:
    return str(getattr(encoder, "precision", asked))


def _digest(encoder: "Encoder") -> str:
    return hashlib.sha256(encoder.identity.encode()).hexdigest()[:16]


def _kept() -> list[EncoderSpeed]:
    """Return the speeds of the file, the newest first; what is damaged is left out."""
    try:
        whole = json.loads(speeds_file().read_text(encoding="utf-8"))
        content = whole["speeds"] if whole["format"] == _FORMAT else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    found = []
    for one in content if isinstance(content, list) else []:
        try:
            found.append(EncoderSpeed(**one))
        except (TypeError, ValueError):
            continue
    return found
