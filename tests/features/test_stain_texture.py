"""The embedded encoder on scenes whose answer is known."""

import threading

import numpy as np
import pytest
import torch

from napari_2dmamba.features.encoder import load_encoder
from napari_2dmamba.features.stain_texture import FEATURE_NAMES, StainTexture
from tests.material import shared

H, E = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
H, E = H / np.linalg.norm(H), E / np.linalg.norm(E)


def stained(h: np.ndarray, e: np.ndarray) -> torch.Tensor:
    """One patch whose pixels hold the given densities of haematoxylin and eosin."""
    rgb = 256 * np.exp(-(h[..., None] * H + e[..., None] * E)) - 1
    return torch.from_numpy(np.clip(np.rint(rgb), 0, 255).astype(np.uint8))[None]


def discs(diameter_um: float, spacing_um: float, mpp: float, side_um: float = 256) -> np.ndarray:
    """1 inside discs on a square lattice, 0 elsewhere."""
    size = round(side_um / mpp)
    y, x = (np.mgrid[:size, :size] + 0.5) * mpp
    half = spacing_um / 2
    dy, dx = (y + half) % spacing_um - half, (x + half) % spacing_um - half
    return np.clip((diameter_um / 2 - np.hypot(dx, dy)) / mpp + 0.5, 0, 1)


def measure(patches: torch.Tensor, mpp: float = 0.5) -> dict[str, np.ndarray]:
    raw = StainTexture().measure(patches, mpp).numpy()
    return dict(zip(FEATURE_NAMES, raw.T, strict=True))


def test_there_is_a_name_for_every_feature_and_none_twice():
    encoder = load_encoder(device="cpu")
    assert encoder.feature_size == len(FEATURE_NAMES) == len(set(FEATURE_NAMES)) == 102
    assert encoder.name == "stain-texture-v1"


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.7, 1.0, 1.4])
def test_uniform_stain_comes_back_as_its_density(mpp):
    size = round(256 / mpp)
    found = measure(stained(np.full((size, size), 0.6), np.full((size, size), 0.3)), mpp)
    np.testing.assert_allclose(found["H_mean"], 0.6, atol=0.02)
    np.testing.assert_allclose(found["E_mean"], 0.3, atol=0.02)
    np.testing.assert_allclose(found["R_mean"], 0.0, atol=0.02)
    np.testing.assert_allclose(found["H_q50"], 0.6, atol=0.02)
    for name in ("H_std", "E_std", "patchiness_H_16um", "corr_HE", "nuclei_all"):
        np.testing.assert_allclose(found[name], 0, atol=1e-4)
    assert found["share_H3"] == 1
    assert found["share_E1"] == 1
    assert found["share_E2"] == found["share_clear"] == 0


def test_nuclei_are_counted_per_area_at_any_resolution():
    for mpp in (0.25, 0.5, 0.8):
        nuclei = discs(7, 20.37, mpp)
        found = measure(stained(0.9 * nuclei, 0.2 + 0 * nuclei), mpp)
        density = np.expm1(found["nuclei_clear"])
        inner = (240 / 256) ** 2  # spots in the outermost 8 um are not counted
        np.testing.assert_allclose(density, (100 / 20.37) ** 2 * inner, rtol=0.12)
    sparse = measure(stained(0.9 * discs(7, 40.37, 0.5), np.full((512, 512), 0.2)))
    np.testing.assert_allclose(np.expm1(sparse["nuclei_clear"]), 6.25, rtol=0.25)
    assert sparse["nuclei_gap"] > found["nuclei_gap"]


def test_polarity_tells_dark_dots_from_light_holes():
    dots = discs(8, 24, 0.5)
    dark = measure(stained(0.8 * dots, 0 * dots))
    light = measure(stained(0.8 * (1 - dots), 0 * dots))
    assert dark["H_2um_polarity"] > 1
    assert light["H_2um_polarity"] < -1
    assert dark["nuclei_clear"] > light["nuclei_clear"] + 1


def test_fibres_are_aligned_and_have_no_saddles():
    y, x = np.mgrid[:512, :512] * 0.5
    fibres = measure(stained(0.2 + 0 * x, 0.4 + 0.3 * np.sin(2 * np.pi * (0.6 * x + 0.8 * y) / 32)))
    assert fibres["E_4um_aligned"] > 0.95
    np.testing.assert_allclose(fibres["E_2um_saddles"], 0, atol=0.05)
    # Gaussian spots: means of |r^2| and |r^2 - 2| under exp(-r^2 / 2) are as 2 to 4 / e
    r2 = ((x % 64 - 32) ** 2 + (y % 64 - 32) ** 2) / 8**2
    spots = measure(stained(0.2 + 0 * x, 0.9 * np.exp(-r2 / 2)))
    assert spots["E_4um_aligned"] < 0.1
    np.testing.assert_allclose(spots["E_4um_saddles"], np.log(2 / (4 / np.e)), atol=0.1)


def test_turning_a_patch_changes_little():
    rng = np.random.default_rng(3)
    patch = stained(rng.gamma(2, 0.2, (512, 512)), 0.2 + 0.3 * discs(9, 30, 0.5))
    turned = patch.rot90(1, (1, 2)).contiguous()
    encoder = StainTexture()
    difference = (encoder.encode(patch) - encoder.encode(turned)).abs()
    assert difference.max() < 0.25
    assert difference.mean() < 0.03


def test_numbers_do_not_depend_on_batch_or_threads():
    rng = np.random.default_rng(0)
    patches = torch.from_numpy(rng.integers(0, 256, (5, 96, 96, 3), np.uint8))
    encoder = StainTexture()
    together = encoder.encode(patches)
    alone = torch.cat([encoder.encode(patches[i : i + 1]) for i in range(5)])
    assert (together == alone).all()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert (encoder.encode(patches) == together).all()
    torch.set_num_threads(before)


@pytest.mark.parametrize("value", [0, 255, 128])
@pytest.mark.parametrize("size", [16, 100, 512])
def test_blank_patches_give_finite_features(value, size):
    features = StainTexture().encode(torch.full((2, size, size, 3), value, dtype=torch.uint8), 0.5)
    assert features.isfinite().all()
    assert features.abs().max() <= 8
    assert (features[0] == features[1]).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_gives_the_same_to_rounding():
    patches = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (4, 512, 512, 3), np.uint8)
    )
    on_cpu = StainTexture("cpu").encode(patches)
    on_gpu = StainTexture("cuda").encode(patches).cpu()
    assert (on_cpu - on_gpu).abs().max() < 0.1


def test_real_tissue_separates_mucosa_muscle_and_glass():
    """Features of three kinds of tissue of one slide, picked by eye at 128 um a patch."""
    from napari_2dmamba.features.patch_reader import PatchReader
    from napari_2dmamba.slide import open_slide
    from tests.features.conftest import full_grid

    with open_slide(shared("slides/he/metaplasia-HE.svs")) as slide:
        grid = full_grid(slide, 256, 506)
        columns = grid.canvas[1]
        places = {
            "mucosa": [(8, 4), (10, 5), (12, 4), (9, 22)],
            "muscle": [(12, 14), (11, 15), (13, 13)],
            "glass": [(1, 1), (2, 24), (21, 1)],
        }
        reader = PatchReader(slide, grid)
        found = {
            kind: StainTexture().encode(
                torch.stack([torch.from_numpy(reader.read(r * columns + c)) for r, c in cells]),
                grid.mpp,
            )
            for kind, cells in places.items()
        }
    centre = {kind: features.mean(0) for kind, features in found.items()}
    for kind, features in found.items():
        for row in features:
            nearest = min(centre, key=lambda other, row=row: float((row - centre[other]).norm()))
            assert nearest == kind
    nuclei = FEATURE_NAMES.index("nuclei_clear")
    assert centre["mucosa"][nuclei] > centre["muscle"][nuclei] > centre["glass"][nuclei]


def test_threads_that_come_after_an_encoding_have_all_of_torch_s_threads() -> None:
    before = torch.get_num_threads()
    patches = torch.zeros(8, 64, 64, 3, dtype=torch.uint8)
    seen: list[int] = []

    def encode_and_look() -> None:
        StainTexture().encode(patches, 0.5)

    try:
        torch.set_num_threads(3)
        together = [threading.Thread(target=encode_and_look) for _ in range(3)]
        for thread in together:
            thread.start()
        encode_and_look()
        for thread in together:
            thread.join()
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert seen == [3]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
