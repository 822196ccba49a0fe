"""What is installed, which devices and kernels work, and what to do about the rest."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the report: a subject, what was found, and advice where it helps."""

    subject: str
    state: Literal["ok", "note", "problem"]
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Examine this installation; nothing is downloaded or changed."""
    return [
        Finding("Python", "ok", f"{platform.python_version()} on {platform.platform()}"),
        *_packages(),
        _scan(),
        _cuda(),
        _resampling(),
        *_viewer(),
        _encoders(),
        _sample(),
        _space(),
    ]


def _packages() -> list[Finding]:
    findings = []
    for name in ("napari-2dmamba", "torch", "openslide-python", "tifffile", "imagecodecs"):
        try:
            findings.append(Finding(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(name, "problem", "not installed", "pip install napari-2dmamba"))
    try:
        import openslide

        findings.append(Finding("OpenSlide library", "ok", openslide.__library_version__))
    except (ImportError, OSError) as error:
        findings.append(
            Finding("OpenSlide library", "problem", str(error), "pip install openslide-bin")
        )
    return findings


def _scan() -> Finding:
    import torch

    from napari_2dmamba.scan import backend_for

    backend = backend_for(torch.zeros(1, 2, 2, 8))
    return Finding(
        "2D scan on the CPU",
        "ok" if backend.name == "cpu" else "note",
        f"{backend.name}: {backend.reason}",
    )


def _cuda() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding(
            "2D scan on CUDA",
            "note",
            "no CUDA device is visible to torch",
            "Everything runs on the CPU."
            if torch.version.cuda is None
            else "Check the NVIDIA driver (nvidia-smi); until then everything runs on the CPU.",
        )
    from napari_2dmamba.scan import backend_for

    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    backend = backend_for(torch.zeros(1, 2, 2, 8, device="cuda"))
    return Finding(
        "2D scan on CUDA",
        "ok" if backend.name == "cuda" else "problem",
        f"{names}; {backend.name}: {backend.reason}",
    )


def _resampling() -> Finding:
    from napari_2dmamba.features.resample import LIBRARY

    if LIBRARY is None:
        return Finding(
            "Patch resampling",
            "note",
            "numpy, which gives the same bits, slowly",
            "Install a wheel, or a C++ compiler and then the package again.",
        )
    return Finding("Patch resampling", "ok", "C++ library")


def _viewer() -> list[Finding]:
    advice = 'pip install "napari-2dmamba[viewer]"'
    if importlib.util.find_spec("napari") is None:
        return [Finding("Viewer", "note", "napari is not installed; command line only", advice)]
    findings = [Finding("napari", "ok", importlib.metadata.version("napari"))]
    bindings = [n for n in ("PyQt6", "PySide6", "PyQt5") if importlib.util.find_spec(n)]
    findings.append(
        Finding("Qt", "ok", bindings[0])
        if bindings
        else Finding("Qt", "problem", "no Qt binding is installed", advice)
    )
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        findings.append(
            Finding(
                "Screen",
                "note",
                "no DISPLAY is set",
                "The viewer needs a screen, or xvfb-run; the rest does not.",
            )
        )
    return findings


def _encoders() -> Finding:
    if importlib.util.find_spec("timm") is None:
        return Finding(
            "timm encoders",
            "note",
            "timm is not installed; the embedded encoder works",
            'pip install "napari-2dmamba[encoders]"',
        )
    return Finding("timm encoders", "ok", importlib.metadata.version("timm"))


def _sample() -> Finding:
    from napari_2dmamba.errors import UserError
    from napari_2dmamba.sample import demo_checkpoint, sample_slide

    try:
        return Finding("Sample", "ok", f"{sample_slide().name}, {demo_checkpoint().name}")
    except UserError as error:
        return Finding("Sample", "problem", str(error))


def _space() -> Finding:
    from platformdirs import user_cache_path

    folder = user_cache_path("napari-2dmamba")
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free / 1e9
    return Finding(
        "Cache folder",
        "ok" if free > 2 else "note",
        f"{folder}, {free:.0f} GB free",
        "" if free > 2 else "Less than 2 GB free: features may not fit.",
    )
