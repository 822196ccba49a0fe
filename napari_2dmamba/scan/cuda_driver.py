"""Loads compiled kernels into a GPU and launches them on torch's current stream.

Uses ``cuda.bindings.driver``: NVIDIA's own interface to the driver, which torch brings on
Linux. Own ctypes would save 31 MB where torch does not bring it, and 0.1 to 0.2 s at the
first launch; that does not pay for a second interface to maintain.
"""

import contextlib
import ctypes
import functools
import threading
from collections.abc import Iterator
from typing import Any

import torch

from napari_2dmamba.errors import BackendError
from napari_2dmamba.scan.cuda_compiler import compile_kernels


@functools.cache
def load_driver() -> Any:
    """Return the module ``cuda.bindings.driver`` with the driver initialised.

    Raises
    ------
    BackendError
        Where the interface or the NVIDIA driver is missing.
    """
    try:
        from cuda.bindings import driver

        (status,) = driver.cuInit(0)
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(
            f"The NVIDIA driver cannot be loaded ({error}); install it, or use the CPU."
        ) from error
    if status != driver.CUresult.CUDA_SUCCESS:
        raise BackendError(f"The NVIDIA driver does not start: {_describe(driver, status)}.")
    return driver


def _describe(driver: Any, status: Any) -> str:
    _, name = driver.cuGetErrorName(status)
    _, text = driver.cuGetErrorString(status)
    return f"{name.decode()}, {text.decode()}" if name and text else f"error {int(status)}"


def _call(what: str, function: str, *arguments: Any) -> Any:
    """Call the driver and return what it returns, or raise a BackendError that says why."""
    driver = load_driver()
    status, *results = getattr(driver, function)(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise BackendError(
            f"The GPU cannot {what}: {_describe(driver, status)} ({function}). Use the CPU, or"
            " report this together with the output of napari-2dmamba doctor."
        )
    return results[0] if len(results) == 1 else tuple(results)


class Gpu:
    """One GPU: what limits a launch there, and the modules loaded into it.

    Attributes
    ----------
    architecture
        Compute capability times ten.
    multiprocessors
        Number of streaming multiprocessors.
    shared_bytes
        The most shared memory that one block may ask for.
    """

    def __init__(self, index: int) -> None:
        attribute = load_driver().CUdevice_attribute
        device = _call("be found", "cuDeviceGet", index)

        def limit(name: str) -> int:
            return _call("be asked", "cuDeviceGetAttribute", getattr(attribute, name), device)

        self.index = index
        self.architecture = 10 * limit("CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR") + limit(
            "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR"
        )
        self.multiprocessors = limit("CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT")
        self.shared_bytes = limit("CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
        self._functions: dict[tuple[str, str, tuple[tuple[str, int], ...]], Any] = {}
        self._lock = threading.Lock()

    def launch(
        self,
        file: str,
        kernel: str,
        constants: dict[str, int],
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared_bytes: int,
        argument: ctypes.Structure,
    ) -> None:
        """Launch ``kernel`` of ``csrc/cuda/<file>.cu`` on torch's current stream.

        The first launch of a kernel compiles and loads it, which a CUDA graph cannot
        capture: run once before the capture.
        """
        with self._current():
            function = self._function(file, kernel, constants, shared_bytes)
            stream = torch.cuda.current_stream(self.index).cuda_stream
            places = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
            _call(
                f"launch {kernel} with grid {grid}, block {block}",
                "cuLaunchKernel",
                function,
                *grid,
                *block,
                shared_bytes,
                stream,
                ctypes.addressof(places),
                0,
            )

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        """Make torch's context of this GPU the current one of this thread."""
        with torch.cuda.device(self.index):
            # torch switches lazily: a new thread may not have a context yet.
            if not int(_call("be used", "cuCtxGetCurrent")):
                device = _call("be found", "cuDeviceGet", self.index)
                context = _call("be used", "cuDevicePrimaryCtxRetain", device)
                _call("be used", "cuCtxSetCurrent", context)
            yield

    def _function(
        self, file: str, kernel: str, constants: dict[str, int], shared_bytes: int
    ) -> Any:
        key = (file, kernel, tuple(sorted(constants.items())))
        with self._lock:
            if key not in self._functions:
                if torch.cuda.is_current_stream_capturing():
                    raise BackendError(
                        "The scan's kernels are not loaded yet, and a CUDA graph cannot capture"
                        " loading them: run the scan once on the same shapes before the capture."
                    )
                image = compile_kernels(file, constants, self.architecture)
                module = _call("load the kernels", "cuModuleLoadData", image)
                for name in _KERNELS[file]:
                    found = _call(f"find {name}", "cuModuleGetFunction", module, name.encode())
                    self._functions[file, name, key[2]] = found
            function = self._functions[key]
            if shared_bytes > _SHARED_WITHOUT_ASKING:
                attribute = load_driver().CUfunction_attribute
                _call(
                    f"give {kernel} {shared_bytes} bytes of shared memory",
                    "cuFuncSetAttribute",
                    function,
                    attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    shared_bytes,
                )
            return function


_SHARED_WITHOUT_ASKING = 48 * 1024
_KERNELS = {
    "forward": ("scan_left_edges", "scan_forward"),
    "backward": ("scan_gradient_edges", "scan_backward"),
}


@functools.cache
def gpu(index: int) -> Gpu:
    """Return GPU ``index`` as torch counts them."""
    # torch and the driver count alike under CUDA_VISIBLE_DEVICES, which the driver itself obeys.
    return Gpu(index)
