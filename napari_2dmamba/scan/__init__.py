"""The 2D selective scan: a definition in torch, kernels for CPU and GPU, and which one runs."""

from napari_2dmamba.scan.operator import selective_scan_2d

__all__ = ["selective_scan_2d"]
