"""The CUDA kernels compile for every architecture, and what is compiled is kept safely.

Needs NVRTC (the wheel nvidia-cuda-nvrtc), no GPU.
"""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from napari_2dmamba.errors import BackendError
from napari_2dmamba.scan import cuda, cuda_compiler, cuda_driver, cuda_plans
from napari_2dmamba.scan.cuda_compiler import compile_kernels, source_folder
from napari_2dmamba.scan.cuda_launch import FORWARD_WARPS, Shape
from tests.scan import cubin, emulation

try:
    cuda_compiler.load_nvrtc()
except BackendError as error:
    pytest.skip(str(error), allow_module_level=True)

# Most shared memory of a block, in KB, from the CUDA programming guide.
SHARED_KB = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
# What is compiled: architecture, d_state, dtype, whether the forward pass keeps anything, and
# the batch: 16 items let one lane of the forward pass have a channel alone where states are few.
VARIANTS = [
    *((a, 16, torch.float32, True, 1) for a in SHARED_KB),
    *((a, 16, torch.float32, False, 1) for a in (75, 90)),
    *((a, 1, torch.float32, True, 1) for a in (75, 90, 120)),
    *((a, 1, torch.float32, True, 16) for a in (75, 90, 120)),
    *((90, 16, t, True, 1) for t in (torch.float16, torch.bfloat16)),
    (75, 16, torch.bfloat16, True, 1),
    (90, 17, torch.float32, True, 1),
    (90, 5, torch.float32, False, 1),
]
SMALL = Shape.of(torch.float32, 1).constants("forward")
SPILLED = 64  # bytes a thread of a backward kernel may keep in local memory, outside its inner loop


def _shapes(
    d_state: int, dtype: torch.dtype, keep: bool, batch: int, shared: int
) -> tuple[Shape, Shape]:
    forward = cuda_plans.forward_shape(dtype, batch, 56, 384, 1, d_state, keep)
    single, vector = int(d_state <= 16), 4 if d_state % 4 == 0 else 1
    forward = replace(forward, softplus=1, gated=1, keep=int(keep), single=single, vector=vector)
    return forward, cuda_plans.backward_shape(dtype, d_state, shared)


@pytest.mark.parametrize(("architecture", "d_state", "dtype", "keep", "batch"), VARIANTS, ids=str)
def test_kernels_fit_the_architecture(
    architecture: int, d_state: int, dtype: torch.dtype, keep: bool, batch: int
) -> None:
    """Registers and shared memory of CTAs that an SM can hold; no spills where it matters."""
    shared = SHARED_KB[architecture] * 1024
    forward, backward = _shapes(d_state, dtype, keep, batch, shared)
    found = {}
    for file, shape in (("forward", forward), ("backward", backward)):
        image = compile_kernels(file, shape.constants(file), architecture, cache=emulation.BUILDS)
        kernels = cubin.kernels(image)
        assert set(kernels) == set(cuda_driver.KERNELS[file])
        found |= kernels
    # 65536 registers of an SM: a forward CTA of 16 warps, 12 backward warps, 24 of the edges.
    most = {
        "scan_forward": 128,
        "scan_gradient_edges": 80,
        "scan_right_edges": 128 if d_state > 2 else 255,
        "scan_join_edges": 128,
        "scan_backward": 168,
        "scan_add_parts": 128,
    }
    for name, kernel in found.items():
        assert kernel.registers <= most[name], (name, kernel)
    # NVRTC 12.8 keeps a few values of the forward pass in local memory, 13 none.
    allowed = 0 if cuda_compiler.nvrtc_version() >= (13, 0) else 16
    assert found["scan_forward"].frame <= allowed, found
    # NVRTC 13.0, which torch 2.13 brings, keeps 104 bytes on the newest cards, 13.5 does not
    old = architecture >= 100 and cuda_compiler.nvrtc_version() < (13, 5)
    assert max(k.frame for k in found.values()) <= (104 if old else SPILLED), found
    most_warps = FORWARD_WARPS - 2
    for bytes_ in (backward.backward_bytes, backward.gradient_bytes, backward.sweep_bytes):
        assert bytes_ <= shared
    assert forward.forward_bytes(most_warps) <= shared


def test_four_backward_warps_fit_everywhere_and_three_times_into_an_h100() -> None:
    for kilobytes in SHARED_KB.values():
        shape = cuda_plans.backward_shape(torch.float32, 16, kilobytes * 1024)
        assert shape.backward_warps == 4
    assert shape.backward_ctas == 3
    assert 3 * (shape.backward_bytes + 1024) <= 228 * 1024


def test_counters_are_acquired_and_released(tmp_path: Path) -> None:
    """What orders the row states is in the code that a GPU gets, which the emulation replaces."""
    forward = replace(Shape.of(torch.float32, 16), keep=1)
    image = compile_kernels("forward", forward.constants("forward"), 999, cache=tmp_path).decode()
    for instruction in (
        "ld.acquire.cta.shared.s32",
        "st.release.cta.shared.s32",
        "ld.acquire.gpu.global.s32",
        "st.release.gpu.global.s32",
        "ld.global.cg.v4.f32",
        "trap;",
    ):
        assert instruction in image


def test_an_older_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"7\.5 or newer; this one has 7\.0"):
        compile_kernels("forward", SMALL, 70, cache=tmp_path)


def test_a_gpu_newer_than_nvrtc_gets_ptx(tmp_path: Path) -> None:
    image = compile_kernels("forward", SMALL, 999, cache=tmp_path)
    assert b".entry scan_forward" in image


def test_a_source_that_does_not_compile_shows_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in source_folder().iterdir():
        (tmp_path / source.name).write_text(source.read_text())
    with (tmp_path / "forward.cu").open("a") as file:
        file.write("nonsense;\n")
    monkeypatch.setattr(cuda_compiler, "source_folder", lambda: tmp_path)
    with pytest.raises(BackendError, match=r"(?s)cannot compile forward\.cu.*nonsense"):
        compile_kernels("forward", SMALL, 90, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_kept_kernel_is_used_again(tmp_path: Path) -> None:
    image = compile_kernels("forward", SMALL, 90, cache=tmp_path)
    (entry,) = tmp_path.iterdir()
    before = entry.stat()
    assert compile_kernels("forward", SMALL, 90, cache=tmp_path) == image
    assert entry.stat() == before or entry.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "digest only"])
def test_a_damaged_entry_is_compiled_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = compile_kernels("forward", SMALL, 90, cache=tmp_path)
    (entry,) = tmp_path.iterdir()
    good = entry.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    bad = {"empty": b"", "cut": good[:-100], "flipped": bytes(flipped), "digest only": good[:32]}
    entry.write_bytes(bad[damage])
    assert compile_kernels("forward", SMALL, 90, cache=tmp_path) == image
    assert "damaged" in caplog.text
    assert entry.read_bytes() == good
    assert list(tmp_path.iterdir()) == [entry]


def test_source_constants_and_architecture_have_entries_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    compile_kernels("forward", SMALL, 90, cache=cache)
    compile_kernels("forward", SMALL, 80, cache=cache)
    compile_kernels("forward", SMALL | {"DEPTH": 4}, 90, cache=cache)
    changed = tmp_path / "changed"
    changed.mkdir()
    for source in source_folder().iterdir():
        (changed / source.name).write_text(source.read_text() + "\n")
    monkeypatch.setattr(cuda_compiler, "source_folder", lambda: changed)
    compile_kernels("forward", SMALL, 90, cache=cache)
    monkeypatch.setattr(cuda_compiler, "nvrtc_version", lambda: (99, 0))
    compile_kernels("forward", SMALL, 90, cache=cache)
    assert len(list(cache.iterdir())) == 5


def test_several_processes_may_compile_at_once(tmp_path: Path) -> None:
    code = f"""
import hashlib
from pathlib import Path
from napari_2dmamba.scan.cuda_compiler import compile_kernels
image = compile_kernels("forward", {SMALL!r}, 90, cache=Path({str(tmp_path)!r}))
print(hashlib.sha256(image).hexdigest())
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    digests = {p.communicate(timeout=200)[0].strip() for p in processes}
    assert [p.returncode for p in processes] == [0, 0, 0]
    image = compile_kernels("forward", SMALL, 90, cache=tmp_path)
    assert digests == {hashlib.sha256(image).hexdigest()}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    image = compile_kernels("forward", SMALL, 90, cache=tmp_path / "file" / "cache")
    assert image[:4] == b"\x7fELF"
    assert "cannot keep the compiled kernel" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_gpu_the_reason_is_told() -> None:
    available, why = cuda.availability()
    assert not available
    assert "CUDA" in why
    with pytest.raises(BackendError, match="NVIDIA driver"):
        cuda_driver.gpu(0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_device_and_the_compiler_are_named() -> None:
    available, why = cuda.availability()
    assert available
    assert torch.cuda.get_device_name() in why
    assert "NVRTC" in why
