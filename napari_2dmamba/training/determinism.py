"""The same bits twice, as far as torch can promise them."""

import contextlib
import os
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def determinism(wanted: bool, device: str) -> Iterator[list[str]]:
    """Ask torch for computations that give the same bits twice; yield what is not promised."""
    remarks: list[str] = []
    if not wanted:
        if device != "cpu":
            remarks.append(
                "gradients are added up in an order that differs between runs on this device; "
                "choose deterministic for the same bits twice"
            )
        yield remarks
        return
    remarks.append(
        "the same bits are promised on this device, with these versions and this number of "
        "threads and devices only"
    )
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if device != "cpu" and "CUBLAS_WORKSPACE_CONFIG" not in os.environ:
        # cuBLAS reads it when it starts, which may have been before
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        remarks.append(
            "set CUBLAS_WORKSPACE_CONFIG=:4096:8 before starting, if the GPU was used before"
        )
    torch.use_deterministic_algorithms(True)
    try:
        yield remarks
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
