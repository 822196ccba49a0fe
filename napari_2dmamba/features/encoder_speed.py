"""How fast encoders are on this machine, as measured here: kept with this user's settings.

What is kept names an encoder that comes with the program, its catalogue or a package; of others,
whose names may be places, only a checksum of what they are. Loads no torch.
"""

import dataclasses
import hashlib
import json
import logging
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features.encoder_names import EMBEDDED_ENCODER, is_known

if TYPE_CHECKING:
    import torch

    from napari_2dmamba.features.encoder import Encoder

MOST_KEPT = 200
"""Speeds that are kept; the oldest go first."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderSpeed:
    """What was measured of one encoder, on one device, in one precision.

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
    def _key(self) -> tuple[str, str, str]:
        return self.identity, self.device, self.precision


_measured_here: dict[tuple[str, str, str], EncoderSpeed] = {}
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
) -> None:
    """Keep what was measured of an encoder, in place of what was known of it.

    Parameters
    ----------
    precision
        That was asked for; what the encoder itself says of it counts.
    automatic
        The batch size that measuring found; None for the speed of an extraction, which leaves
        the automatic batch size as it was.
    """
    before = speed_of(encoder, precision)
    found = EncoderSpeed(
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
        automatic=(before.automatic if before else 0) if automatic is None else automatic,
        date=datetime.now(UTC).date().isoformat(),
    )
    if before and before.of_extraction and not found.of_extraction:
        found = dataclasses.replace(before, automatic=found.automatic)
    _measured_here.pop(found._key, None)  # the newest is the last
    _measured_here[found._key] = found
    others = [one for one in _kept() if one._key != found._key]
    content = [dataclasses.asdict(one) for one in [found, *others][:MOST_KEPT]]
    try:
        with atomic_write(speeds_file(), FeatureError) as part:
            part.write_text(json.dumps({"format": 1, "speeds": content}, indent=1), "utf-8")
    except FeatureError as error:  # a comfort, for which no extraction fails
        _log.warning("the speed of the encoder is kept for this session only: %s", error)


def speed_of(encoder: "Encoder", precision: str) -> EncoderSpeed | None:
    """Return what was measured of a loaded encoder on its device, or None."""
    key = _digest(encoder), name_of_device(encoder.device), _precision(encoder, precision)
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
        content = json.loads(speeds_file().read_text(encoding="utf-8"))["speeds"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    found = []
    for one in content if isinstance(content, list) else []:
        try:
            found.append(EncoderSpeed(**one))
        except (TypeError, ValueError):
            continue
    return found
