import dataclasses
import math

import numpy as np
import pytest
import torch

from napari_2dmamba.errors import Cancelled, CheckpointError
from napari_2dmamba.explain import receptive_field as fields
from napari_2dmamba.explain.display import DisplayTransform
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.models import mamba2d_partial
from napari_2dmamba.models.architecture import Architecture
from napari_2dmamba.models.mamba2d import Mamba2DMIL
from tests.explain.subjects import SIDE, subject


def jacobian(of: object, patch: int, layer: int = -1) -> torch.Tensor:
    """``(width, N, D)`` by reverse mode, one output channel after another."""
    return torch.autograd.functional.jacobian(
        lambda f: of.patch_states(f, layer)[patch], of.features
    )


def test_every_measure_is_what_its_definition_says() -> None:
    of = subject(n_layers=2)
    patch = 20
    full = jacobian(of, patch)
    exact = fields.field_of_patches(of, np.array([patch]), probes=None)
    np.testing.assert_allclose(exact, full.square().sum((0, 2)).sqrt(), rtol=1e-9, atol=1e-14)
    summed = fields.field_of_patches(of, np.array([patch]), measure="sum")
    np.testing.assert_allclose(summed, full.sum(0).abs().sum(1), rtol=1e-9, atol=1e-14)
    state = of.patch_states(of.features)[patch].detach()
    figure = fields.field_of_patches(of, np.array([patch]), measure="figure")
    by_hand = torch.relu(full[state > 0].sum(0)).sum(1)
    np.testing.assert_allclose(figure, by_hand, rtol=1e-9, atol=1e-14)
    estimate = fields.field_of_patches(of, np.array([patch]), probes=80)
    np.testing.assert_allclose(estimate, exact, rtol=0.3, atol=1e-3 * exact.max())


def test_finite_differences_agree() -> None:
    of = subject()
    patch, other, step = 20, 6, 1e-6
    exact = fields.field_of_patches(of, np.array([patch]), probes=None)
    columns = []
    for k in range(4):
        moved = of.features.clone()
        moved[other, k] += step
        with torch.no_grad():
            both = [of.patch_states(f)[patch] for f in (moved, of.features)]
        columns.append((both[0] - both[1]) / step)
    assert exact[other] == pytest.approx(float(torch.stack(columns).norm()), rel=1e-4)


def test_earlier_layers_see_less_and_maps_are_placed() -> None:
    of = subject(n_layers=2)
    last, first = (fields.receptive_field(of, 20, layer=k, probes=None) for k in (-1, 0))
    assert last.values.shape == (5, 6)
    assert np.count_nonzero(np.nan_to_num(first.values)) <= np.count_nonzero(
        np.nan_to_num(last.values)
    )
    assert last.display_range == (0.0, pytest.approx(float(np.nanmax(last.values))))
    shown = DisplayTransform(last, fields.FIGURE_DISPLAY)(last.values)
    finite = np.isfinite(last.values)
    share = last.values[finite] / np.nanmax(last.values)
    np.testing.assert_allclose(shown[finite], share**0.2, rtol=1e-5)


@pytest.mark.parametrize(("directions", "layers", "scan"), [
    (1, 1, "2d"), (1, 2, "2d"), (4, 1, "2d"), (1, 1, "1d"),
])  # fmt: skip
def test_what_cannot_reach_a_patch_has_gradient_zero_and_all_else_has_not(
    directions: int, layers: int, scan: str
) -> None:
    of = subject(directions=directions, n_layers=layers, scan=scan)
    for patch in (0, 8, 15, 26):
        field = fields.field_of_patches(of, np.array([patch]), probes=None)
        np.testing.assert_array_equal(field > 0, fields.reachable(of, patch))
    if directions == 1 and scan == "2d":
        assert not fields.reachable(of, 15).all()


class WholeCanvas(Mamba2DMIL):
    """The same network as a package would bring it that states nothing but its vectors."""

    entrance = None
    states_of = Architecture.states_of


def on_whole_canvas(of: Subject) -> Subject:
    """The same subject, of whose network all cells are computed."""
    whole = WholeCanvas(of.model.config).to(of.features.dtype).eval()
    whole.load_state_dict(of.model.state_dict())
    return dataclasses.replace(of, model=whole)


@pytest.mark.parametrize(
    "config",
    [
        {}, {"n_layers": 2}, {"n_layers": 3, "rows": 7, "cols": 8}, {"directions": 4},
        {"directions": 4, "n_layers": 2}, {"scan": "1d"}, {"scan": "1d", "n_layers": 2},
        {"inner_norms": True}, {"d_conv": 2, "n_layers": 2}, {"left_out": ()},
        {"left_out": tuple(range(0, 30, 2))}, {"rows": 1, "cols": 9},
        {"rows": 9, "cols": 1, "left_out": (0, 4)},
    ],
)  # fmt: skip
@pytest.mark.parametrize("double", [True, False])
def test_fields_from_the_cells_that_can_reach_are_those_from_the_whole_canvas(
    config: dict, double: bool
) -> None:
    of = subject(double=double, **config)
    whole = on_whole_canvas(of)
    near = 1e-12 if double else 1e-5
    last = len(of) - 1
    for asked in ([last // 2], [1, last // 3], [last, 0]):
        patches = np.array(asked)
        for layer in range(of.layers):
            states = of.states_of(torch.tensor(asked), of.entered.values, layer)
            truth = of.patch_states(of.features, layer)[asked]
            torch.testing.assert_close(states, truth, rtol=near, atol=near)
            for measure in fields.MEASURES:
                ask = {"layer": layer, "measure": measure, "probes": 3, "seed": 5}
                found = fields.field_of_patches(of, patches, **ask)
                before = fields.field_of_patches(whole, patches, **ask)
                np.testing.assert_allclose(found, before, rtol=near, atol=near * before.max())
                np.testing.assert_array_equal(found == 0, before == 0)


def test_patches_that_share_a_cell_and_channels_in_parts_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = subject(n_layers=2)
    cells = of.cells.clone()
    cells[7] = cells[8]  # the later one is on the canvas
    of = dataclasses.replace(of, cells=cells)
    for patch in (7, 8, 20):
        found = fields.field_of_patches(of, np.array([patch]), probes=None)
        before = fields.field_of_patches(on_whole_canvas(of), np.array([patch]), probes=None)
        np.testing.assert_allclose(found, before, rtol=1e-12, atol=1e-14)
        assert found[7] == 0
    monkeypatch.setattr("napari_2dmamba.models.mamba2d_block.SCAN_FLOATS", 1)
    monkeypatch.setattr("napari_2dmamba.models.mamba2d_block.LEAST_CHANNELS", 4)
    with torch.no_grad():
        whole = of.patch_states(of.features)
        part = of.states_of(torch.tensor([20]), of.entered.values)
    torch.testing.assert_close(part[0], whole[20], rtol=1e-12, atol=1e-12)


def test_less_is_computed_near_the_corner_where_the_scan_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scanned: list[tuple[int, ...]] = []
    scan = mamba2d_partial.selective_scan_2d

    def noted(x: torch.Tensor, *more: torch.Tensor, **options: object) -> torch.Tensor:
        scanned.append(tuple(x.shape[1:3]))
        return scan(x, *more, **options)

    monkeypatch.setattr(mamba2d_partial, "selective_scan_2d", noted)
    of = subject()
    row, col = of.cell_of(8)
    fields.field_of_patches(of, np.array([8]))
    assert scanned == [(row + 1, col + 1)]
    scanned.clear()
    fields.field_of_patches(subject(directions=4), np.array([8]))
    rows, cols = of.canvas
    assert scanned == [
        (row + 1, col + 1), (row + 1, cols - col), (rows - row, col + 1), (rows - row, cols - col),
    ]  # fmt: skip


def test_several_patches_add_up_in_squares() -> None:
    of = subject()
    one, two = (fields.field_of_patches(of, np.array([p]), probes=None) for p in (12, 20))
    both = fields.field_of_patches(of, np.array([12, 20]), probes=None)
    np.testing.assert_allclose(both**2, one**2 + two**2, rtol=1e-9, atol=1e-14)


def test_fields_of_other_models_differ_as_they_must() -> None:
    alone = subject("abmil", hidden=8, attention_hidden=4)
    field = fields.field_of_patches(alone, np.array([7]), probes=None)
    assert field[7] > 0
    assert np.count_nonzero(field) == 1
    causal = subject("mambamil", d_model=8, kind="mamba", n_layers=1, d_state=3, attention_hidden=4)
    field = fields.field_of_patches(causal, np.array([7]), probes=None)
    np.testing.assert_array_equal(field > 0, np.arange(len(causal)) <= 7)
    both = subject("mambamil", d_model=8, kind="bimamba", n_layers=1, d_state=3, attention_hidden=4)
    assert (fields.field_of_patches(both, np.array([7]), probes=None) > 0).all()
    with pytest.raises(CheckpointError, match="this model is MambaMIL"):
        fields.reachable(causal, 7)


def test_models_without_a_vector_per_patch_have_a_score() -> None:
    of = subject("s4mil", double=False, d_model=8)
    with pytest.raises(CheckpointError, match="or of the patch's score"):
        fields.field_of_patches(of, np.array([3]))
    field = fields.field_of_patches(of, np.array([3]), output="score", probes=None)
    features = of.features.clone().requires_grad_()
    of.run(features).scores[3].backward()
    np.testing.assert_allclose(field, features.grad.norm(dim=1), rtol=1e-4, atol=1e-9)


def test_field_of_the_slide_is_the_gradient_of_its_logit() -> None:
    of = subject()
    features = of.features.clone().requires_grad_()
    logits = of.run(features).logits
    logits[1].backward()
    found = of.scores_of_map(fields.slide_field(of, "b"))
    np.testing.assert_allclose(found, features.grad.norm(dim=1), rtol=1e-6)


def test_average_over_tissue_has_the_query_in_the_middle() -> None:
    of = subject(rows=4, cols=4, left_out=(5,))
    mean = fields.average_field(of, count=100, probes=None)
    assert mean.shape == (7, 7)
    # all patches were drawn: by hand for one offset, one row up
    cells = {tuple(c): k for k, c in enumerate(of.cells_of_patches)}
    values = []
    for (row, col), patch in cells.items():
        above = cells.get((row - 1, col))
        if above is not None:
            field = fields.field_of_patches(of, np.array([patch]), probes=None)
            values.append(field[above] / field.sum())
    assert mean[2, 3] == pytest.approx(np.mean(values), rel=1e-9)
    below = mean[5:]
    assert (below[np.isfinite(below)] == 0).all()


def test_average_over_chosen_patches_is_laid_on_a_patch() -> None:
    of = subject(directions=4)
    chosen = [3, 11]
    field = fields.average_field(of, chosen, probes=2)
    cells = of.cells_of_patches
    found = fields.lay_on_patch(of, field, 7, "2 patches")
    one, two = (fields.field_of_patches(of, np.array([p]), probes=2) for p in chosen)
    by_cell = [dict(zip(map(tuple, cells), f / f.sum(), strict=True)) for f in (one, two)]
    for patch, cell in enumerate(cells):
        offset = cell - cells[7]
        met = [
            values[tuple(cells[p] + offset)]
            for p, values in zip(chosen, by_cell, strict=True)
            if tuple(cells[p] + offset) in values
        ]
        value = of.scores_of_map(found)[patch]
        assert value == pytest.approx(np.mean(met), rel=1e-5) if met else np.isnan(value)
    assert found.queries == (of.corner_of(7),)
    assert "mean over 2 patches" in found.meaning


def test_size_of_a_field_made_by_hand() -> None:
    values = np.zeros((5, 9))
    values[2, 4], values[2, 3], values[2, 0] = 5, 4, 1
    values[4, 8] = np.nan
    size = fields.field_size(values, (2, 4), cell_um=50.0)
    assert size.radii == {50: 0.0, 90: 50.0, 99: 200.0}
    assert size.unit == "µm"
    assert size.anisotropy == math.inf
    assert size.angle == pytest.approx(0.0)
    assert (size.left, size.right, size.above, size.below) == pytest.approx((0.5, 0, 0, 0))
    assert size.zero_share == pytest.approx(41 / 44)
    assert fields.field_size(values, (2, 4)).radii[99] == 4
    assert fields.field_size(values, (2, 4)).unit == "cells"
    # mass 2 cells up and down, 1 to the sides
    values = np.zeros((5, 5))
    values[[0, 4], 2] = 1
    values[2, [1, 3]] = 1
    size = fields.field_size(values, (2, 2))
    assert size.anisotropy == pytest.approx(2)
    assert abs(size.angle) == pytest.approx(90)
    diagonal = fields.field_size(np.eye(5), (2, 2))
    assert diagonal.angle == pytest.approx(45)  # towards the lower right
    assert math.isnan(fields.field_size(np.zeros((3, 3)), (1, 1)).radii[50])


def test_size_of_a_patch_is_in_micrometres() -> None:
    of = subject()
    size = fields.measure_field(of, fields.receptive_field(of, 20, probes=None), 20)
    steps = size.radii[99] / (SIDE * 0.5)
    assert 1 <= steps <= math.hypot(5, 6)
    assert size.right < 0.2 * size.left or size.right < 1e-6 or size.left == 0
    assert size.below == 0


def test_it_stops_when_told() -> None:
    with pytest.raises(Cancelled):
        fields.receptive_field(subject(), 3, should_stop=lambda: True)
