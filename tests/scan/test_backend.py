import pytest
import torch

from napari_2dmamba.errors import BackendError
from napari_2dmamba.scan import backend as backend_module
from napari_2dmamba.scan import backend_for, cpu, selective_scan_2d, use_backend
from tests.scan.cases import draw, relative_error

needs_kernels = pytest.mark.skipif(cpu.why_not() is not None, reason=str(cpu.why_not()))
X = torch.zeros(1, 2, 2, 4)


@pytest.fixture(autouse=True)
def _nothing_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAPARI_2DMAMBA_SCAN", raising=False)


@needs_kernels
def test_float32_runs_on_kernels_and_float64_on_the_definition() -> None:
    assert backend_for(X).name == "cpu"
    assert cpu.instruction_sets()[-1] in backend_for(X).reason
    chosen = backend_for(X.double())
    assert chosen.name == "definition"
    assert "float64" in chosen.reason


@needs_kernels
def test_forcing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_2DMAMBA_SCAN", "definition")
    assert backend_for(X).name == "definition"
    with use_backend("cpu"):  # the nearer word counts
        assert backend_for(X) == ("cpu", "forced by use_backend")
        with pytest.raises(BackendError, match=r"'cpu', forced by use_backend.*float64"):
            backend_for(X.double())
    assert "NAPARI_2DMAMBA_SCAN" in backend_for(X).reason


def test_what_cannot_be_forced() -> None:
    with use_backend("cuda"), pytest.raises(BackendError, match="tensors are on cpu; move them"):
        selective_scan_2d(*draw(2, 2, 4, 1))
    with pytest.raises(BackendError, match="'gpu', but must name one of definition, cpu, cuda"):
        use_backend("gpu").__enter__()


def test_unknown_name_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_2DMAMBA_SCAN", "fast")
    with pytest.raises(BackendError, match="NAPARI_2DMAMBA_SCAN names the scan backend 'fast'"):
        backend_for(X)


def test_without_a_built_library_the_definition_runs_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = draw(4, 3, 5, 2)
    expected = selective_scan_2d(*(t.double() for t in inputs))
    monkeypatch.setattr(cpu, "_NAME", "not_built.so")
    cpu.why_not.cache_clear()
    backend_module._warn_once.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="slow torch definition"):
            assert "no C++ compiler was found" in backend_for(X).reason
        backend_module._warn_once.cache_clear()
        with pytest.warns(RuntimeWarning, match="slow torch definition"):
            y = selective_scan_2d(*inputs)
        assert relative_error(y, expected) < 1e-5
        with use_backend("cpu"), pytest.raises(BackendError, match="install a wheel"):
            backend_for(X)
    finally:
        monkeypatch.undo()
        cpu.why_not.cache_clear()
        backend_module._warn_once.cache_clear()


def test_a_meta_device_has_no_kernels() -> None:
    assert backend_for(X.to("meta")).reason == "there are no kernels for meta devices"
