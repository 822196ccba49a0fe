"""Consent to encoders that are programs: asked for once per file, kept by its content.

A TorchScript file is a program of whoever made it. Loading it runs it, and it can read and write
whatever its user can. ONNX files, and safetensors with an architecture of timm, hold numbers only.
See ``docs/trust.md``.
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import FeatureError, UntrustedEncoderError

PROGRAM_SUFFIX = ".ts"
"""Of encoder files that are programs."""

WHAT_IT_CAN_DO = (
    "it is a TorchScript file, a program of whoever made it: when it is loaded it can read, change "
    "and write files as you can"
)


def consent_file() -> Path:
    """Return the file of this user that lists what was consented to."""
    from platformdirs import user_config_path

    return user_config_path("napari-2dmamba", appauthor=False) / "trusted_encoders.json"


def is_trusted(content: bytes) -> bool:
    """Whether the user has consented to run a file of this content."""
    return _digest(content) in _consents()


def trust(path: str | Path) -> None:
    """Keep the user's consent to run an encoder file, as it is now.

    Raises
    ------
    FeatureError
        When the file cannot be read, or the consent not be written.
    """
    path = Path(path)
    content = read_program(path)
    given = _consents()
    given[_digest(content)] = {
        "name": path.name,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with atomic_write(consent_file(), FeatureError) as part:
        part.write_text(json.dumps({"format": 1, "trusted": given}, indent=1), encoding="utf-8")


def trust_encoder(name: str) -> None:
    """Keep the user's consent to the program an encoder of this name runs, if it runs one.

    Raises
    ------
    FeatureError
        See `trust`.
    """
    program = program_of(name)
    if program is not None:
        trust(program)


def program_of(name: str) -> Path | None:
    """Return the file that an encoder of this name would run as a program, or None.

    Raises
    ------
    FeatureError
        For a YAML file that cannot be read.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() == PROGRAM_SUFFIX:
        return path
    if path.suffix.lower() in (".yaml", ".yml") and not name.startswith("timm:"):
        from napari_2dmamba.features.file_encoder import network_of

        network = network_of(path)
        if network is not None and network.suffix.lower() == PROGRAM_SUFFIX:
            return network
    return None


def untrusted_program(name: str) -> Path | None:
    """Return the program an encoder of this name would run and nobody consented to, or None.

    For who asks before the work begins; `load_encoder` asks by `UntrustedEncoderError`.

    Raises
    ------
    FeatureError
        When a file of the encoder cannot be read.
    """
    program = program_of(name)
    if program is None or is_trusted(read_program(program)):
        return None
    return program


def read_program(path: Path) -> bytes:
    """Return the content of a program.

    Raises
    ------
    FeatureError
        When it cannot be read.
    """
    try:
        return path.expanduser().read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FeatureError(f"the encoder file {path.name} cannot be read: {reason}") from error


def refuse_untrusted(path: Path, content: bytes) -> None:
    """Refuse a program nobody consented to.

    Raises
    ------
    UntrustedEncoderError
        Saying what it can do, and how to consent.
    """
    if is_trusted(content):
        return
    raise UntrustedEncoderError(
        f"the encoder {path.name} was not run: {WHAT_IT_CAN_DO}. If you trust its maker, say so "
        "once with --trust-encoder (in Python features.trust.trust(file); the viewer asks), or "
        "use an ONNX file, or safetensors with an architecture of timm, which run no program",
        path,
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _consents() -> dict[str, Any]:
    """Return what was consented to by digest; a damaged list is as good as none."""
    try:
        trusted = json.loads(consent_file().read_text(encoding="utf-8"))["trusted"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return dict(trusted) if isinstance(trusted, dict) else {}
