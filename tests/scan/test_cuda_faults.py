"""Sanitizers find nothing in the CUDA kernels, and faults put into them are caught."""

from pathlib import Path

import pytest
import torch

from napari_2dmamba.scan import cuda, cuda_plans
from napari_2dmamba.scan.cuda_compiler import source_folder
from napari_2dmamba.scan.definition import scan_2d
from tests.scan.cuda_cases import check, make
from tests.scan.emulation import Emulation, EmulationFault

pytestmark = pytest.mark.usefixtures("unwritten_is_nan")


# 5 states: several strips of several warps, segments, bands. 1 state: two rows a step, two
# strips; then a channel a lane.
SANITIZED = [(1, 10, 36, 9, 5, 1), (1, 9, 60, 9, 1, 1), (2, 6, 37, 3, 1, 1)]


@pytest.mark.parametrize("size", SANITIZED, ids=str)
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_sanitizers_find_nothing(
    sanitizer: str, size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if size[0] > 1:  # a channel a lane, without the many blocks that choose it
        monkeypatch.setattr(cuda_plans, "_NOMINAL_MULTIPROCESSORS", 1)
        assert cuda_plans.forward_shape(torch.float32, 2, 37, 3, 1, 1, True).forward_lanes == 1
    place = Emulation(sanitizer=sanitizer, multiprocessors=132, resident=4, seed=7)
    check(place, *size)


RELAXED = "__atomic_load_n(counter, __ATOMIC_RELAXED)"
RELAXED_STORE = "[](int* p, int v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }"
FAULTS = {  # file, what is there, what is there instead: FAULT is true in the run that has it
    "a warp does not acquire what its neighbour wrote": (
        "forward.cu",
        "if (polls) poll_again(polls);\n        known = load_acquire_cta(counter);",
        "if (polls) poll_again(polls);\n        known = FAULT ? "
        + RELAXED
        + " : load_acquire_cta(counter);",
    ),
    "a warp does not release what it wrote": (
        "forward.cu",
        "store_release_cta(done_by_me, s + 1);",
        f"FAULT ? {RELAXED_STORE}(done_by_me, s + 1) : store_release_cta(done_by_me, s + 1);",
    ),
    "a CTA does not acquire what another one wrote": (
        "forward.cu",
        "known = load_acquire_gpu(counter);",
        "known = FAULT ? " + RELAXED + " : load_acquire_gpu(counter);",
    ),
    "a CTA does not release what it wrote": (
        "forward.cu",
        "store_release_gpu(counter, s + 1);",
        f"FAULT ? {RELAXED_STORE}(counter, s + 1) : store_release_gpu(counter, s + 1);",
    ),
    "a warp does not wait for its left neighbour": (
        "forward.cu",
        "wait_in_cta(done_by_me - 1, s + 1, known_in);",
        "if (!FAULT) wait_in_cta(done_by_me - 1, s + 1, known_in);",
    ),
    "a warp does not wait for room in the ring": (
        "forward.cu",
        "over();\n            wait_in_cta(done_by_me + 1, s - RING + 1, known_out);",
        "over();\n            if (!FAULT) wait_in_cta(done_by_me + 1, s - RING + 1, known_out);",
    ),
    "a warp thinks the ring has one more slot": (
        "forward.cu",
        "s - RING + 1, known_out);  // there is room\n            prepare",
        "s - RING + 1 - FAULT, known_out);\n            prepare",
    ),
    "the rows brought in overwrite some that nobody took": (
        "forward.cu",
        "s + count - RING, taken);",
        "s + count - RING - FAULT, taken);",
    ),
    "no warp barrier before a row is handed over": (
        "forward.cu",
        "__syncwarp();  // all lanes have written",
        "if (!FAULT) __syncwarp();  // all lanes have written",
    ),
    "no barrier before the strip is known": (
        "forward.cu",
        "    __syncthreads();\n    const int item",
        "    if (!FAULT) __syncthreads();\n    const int item",
    ),
    "no barrier between bands and their chain": (
        "backward.cu",
        "__syncthreads();  // the two halves alternate, so that one barrier a turn",
        "if (!FAULT) __syncthreads();  // the two halves alternate, so that one barrier a turn",
    ),
    "no barrier between panels": (
        "backward.cu",
        "__syncthreads();  // the two halves alternate, so that one barrier a panel",
        "if (!FAULT) __syncthreads();  // the two halves alternate, so that one barrier a panel",
    ),
    "no barrier before step sizes are overwritten": (
        "backward.cu",
        "__syncthreads();  // everything shared is read",
        "if (!FAULT) __syncthreads();  // everything shared is read",
    ),
    "no barrier before the sums of other warps are read": (
        "backward.cu",
        "__syncthreads();  // P, Q",
        "if (!FAULT) __syncthreads();  // P, Q",
    ),
    "blocks of different channels write the same sum of grad B": (
        "backward.cu",
        "static_cast<index_t>(tile) * p.batches",
        "static_cast<index_t>(FAULT ? 0 : tile) * p.batches",
    ),
    "neighbouring bands write the same partial gradient of A": (
        "backward.cu",
        "static_cast<index_t>(b) * gridDim.x + blockIdx.x;",
        "static_cast<index_t>(b) * gridDim.x + (FAULT ? 0 : blockIdx.x);",
    ),
}


def broken(folder: Path, faults: dict[str, tuple[str, str, str]]) -> Path:
    """Return a copy of the kernels with faults that a run may choose from, by their number."""
    texts = {source.name: source.read_text() for source in source_folder().iterdir()}
    for number, (file, before, after) in enumerate(faults.values(), 1):
        assert texts[file].count(before) == 1, f"{file} has changed: not once there: {before!r}"
        texts[file] = texts[file].replace(before, after.replace("FAULT", f"emu::faulty({number})"))
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("fault", FAULTS)
def test_thread_sanitizer_catches_a_race(fault: str, tmp_path: Path) -> None:
    number = [*FAULTS].index(fault) + 1
    place = Emulation(
        sanitizer="thread",
        multiprocessors=132,
        kernels=broken(tmp_path, FAULTS),
        fault=number,
    )
    # A strip whose number is not there yet is somewhere else in memory.
    says = "SEGV|data race" if "strip is known" in fault else "data race"
    if FAULTS[fault][0] == "forward.cu":
        with pytest.raises(EmulationFault, match=says):
            cuda.forward(make(1, 10, 36, 9, 5), True, launcher=place)
        return
    inputs = make(1, 10, 12, 33 if "channels" in fault else 9, 5)
    y, kept = cuda.forward(inputs, True, launcher=Emulation())
    with pytest.raises(EmulationFault, match=says):
        cuda.backward(torch.ones_like(y), inputs, True, kept, launcher=place)


def test_random_order_shows_what_is_not_waited_for_in_the_numbers(tmp_path: Path) -> None:
    fault = "a warp does not wait for its left neighbour"
    kernels = broken(tmp_path, {fault: FAULTS[fault]})
    inputs = make(1, 9, 17, 18, 5)
    want = scan_2d(*(None if t is None else t.double() for t in inputs), True)
    y, _ = cuda.forward(inputs, True, launcher=Emulation(kernels=kernels, fault=1))
    error = (y.double() - want).abs().max() / want.abs().max()
    assert not error < 1e-3


STUCK = {
    "strips that wait for one that is not running": (
        "forward.cu",
        "p.progress ? atomicAdd(p.progress, 1) : static_cast<int>(blockIdx.x)",
        "p.progress && !FAULT ? atomicAdd(p.progress, 1) : static_cast<int>(blockIdx.x)",
    ),
    "a strip that is never done": (
        "forward.cu",
        "if (known <= s + 1) store_release_gpu",
        "if (known <= s + 1 && !FAULT) store_release_gpu",
    ),
    "a barrier that some threads do not reach": (
        "forward.cu",
        "    __syncthreads();\n    const int item",
        "    if (!FAULT || threadIdx.x) __syncthreads();\n    const int item",
    ),
}


@pytest.mark.parametrize("fault", STUCK)
def test_what_never_ends_is_reported(fault: str, tmp_path: Path) -> None:
    # A thread that goes on alone may also read what nobody wrote yet, and fall over that
    says = "without reaching the __syncthreads|exit -11" if "barrier" in fault else "deadlock: "
    place = Emulation(
        multiprocessors=132,
        resident=1,
        kernels=broken(tmp_path, STUCK),
        fault=[*STUCK].index(fault) + 1,
    )
    with pytest.raises(EmulationFault, match=says):
        cuda.forward(make(1, 6, 36, 3, 5), True, launcher=place)


def test_address_sanitizer_catches_a_ring_too_small(tmp_path: Path) -> None:
    """The kernel's ring is longer than the host has shared memory for."""
    kernels = broken(
        tmp_path, {"ring": ("forward.cu", "constexpr int RING = 4;", "constexpr int RING = 8;")}
    )
    with pytest.raises(EmulationFault, match="AddressSanitizer"):
        cuda.forward(
            make(1, 10, 36, 3, 5),
            True,
            launcher=Emulation(sanitizer="address", kernels=kernels, multiprocessors=132),
        )
