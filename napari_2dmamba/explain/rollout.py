"""Rollout: a patch's influence through the whole stack of a 2DMambaMIL, with everything held.

Step sizes, B, C, gates, the factors of activations, the divisors of norms and the weights of
the attention are held at their values, as attention rollout holds attention (Abnar and Zuidema
2020, arXiv 2005.00928) and as LRP for Mamba treats them (MambaLRP, Jafari et al. 2024, arXiv
2406.07592). What is left is affine in the features: implied attention, convolution and
projections of all layers multiplied out. Its Jacobian weighs where a state came from, and
gradient times input is a relevance that adds up, but for the biases.

The forward values are those of the network itself.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from napari_2dmamba.errors import Cancelled, CheckpointError
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.outcome import Target, resolve, target_value, words_of
from napari_2dmamba.explain.receptive_field import JACOBIAN
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.models.architecture import Architecture
from napari_2dmamba.models.mamba2d import Mamba2DMIL
from napari_2dmamba.models.mamba2d_block import MambaBlock, ResidualBlock, RMSNorm
from napari_2dmamba.settings import ProgressCallback, StopCallback


def rollout(
    subject: Subject,
    patch: int,
    *,
    layer: int = -1,
    probes: int | None = 4,
    seed: int = 0,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> GridMap:
    """Return how strongly a patch's state depends on every patch, with everything held.

    The Frobenius norm of the Jacobian of the held network, from the features to the output of
    ``layer`` at the patch; ``probes`` and ``seed`` as in `receptive_field.receptive_field`.

    Raises
    ------
    CheckpointError
        For other architectures than 2DMambaMIL.
    Cancelled
        When ``should_stop()`` said so.
    """
    features = subject.features.detach().requires_grad_()
    state = held_states(subject, features, layer)[_positions(subject)[patch]]
    count = len(state) if probes is None else probes
    generator = torch.Generator().manual_seed(seed)
    squares = torch.zeros(len(subject), dtype=torch.float64)
    for probe in range(count):
        if should_stop is not None and should_stop():
            raise Cancelled
        if probes is None:
            signs = functional.one_hot(torch.tensor(probe), len(state))
        else:
            signs = torch.randint(0, 2, state.shape, generator=generator) * 2 - 1
        along = (state * signs.to(state)).sum()
        (gradient,) = torch.autograd.grad(along, features, retain_graph=True)
        squares += gradient.square().sum(1).double().cpu()
        if on_progress is not None:
            on_progress(probe + 1, count, "Rollout")
    return subject.map_of_patches(
        (squares / (1 if probes is None else count)).sqrt(),
        "rollout",
        f"how strongly the features of each patch enter the state at {subject.place_words(patch)} "
        "through all layers, step sizes and gates held (norm of the Jacobian)",
        quantity=JACOBIAN,
        queries=(patch,),
    )


def state_relevance(subject: Subject, patch: int, *, layer: int = -1) -> GridMap:
    """Return the signed part every patch has in the state of one: it adds up, but for biases.

    With h the output of ``layer`` at the patch, the parts of ``|h|**2`` in units of it: a patch
    whose features alone make up h has 1, one that works against it is negative.
    """
    features = subject.features.detach().requires_grad_()
    state = held_states(subject, features, layer)[_positions(subject)[patch]]
    size = state.detach().square().sum()
    (gradient,) = torch.autograd.grad((state * (state.detach() / size)).sum(), features)
    return subject.map_of_patches(
        (gradient * subject.features).sum(1),
        "relevance to the state",
        f"share of each patch in the state at {subject.place_words(patch)}, "
        "step sizes and gates held",
        signed=True,
        queries=(patch,),
    )


def slide_relevance(subject: Subject, target: Target = None) -> GridMap:
    """Return the signed relevance of every patch for a logit or the risk, everything held."""
    model = _model(subject)
    features = subject.features.detach().requires_grad_()
    hidden = held_states(subject, features)
    normed = _hold_layer_norm(hidden, model.norm)
    with torch.no_grad():
        scores = model.attention(normed.detach()).squeeze(1)
        if model.config.attention_over == "tissue":
            empty = torch.ones_like(scores, dtype=torch.bool)
            empty[_positions(subject)] = False
            scores = scores.masked_fill(empty, -torch.inf)
        weights = torch.softmax(scores, dim=0)
    logits = model.classifier(weights @ normed)
    chosen: int | Literal["risk"] = resolve(logits, subject.header, target)
    value = target_value(logits, subject.header, chosen)
    (gradient,) = torch.autograd.grad(value, features)
    return subject.map_of_patches(
        (gradient * subject.features).sum(1),
        "relevance",
        f"relevance of each patch for {words_of(subject.header, chosen)}: positive for, negative "
        "against, step sizes, gates and attention held",
        signed=True,
        quantity=f"part of {words_of(subject.header, chosen)}",
    )


def held_states(subject: Subject, features: Tensor, layer: int = -1) -> Tensor:
    """Return the output of a layer, ``(cells, d_model)``, differentiable with everything held.

    Raises
    ------
    CheckpointError
        For other architectures than 2DMambaMIL.
    """
    model = _model(subject)
    linear, act = model._fc1[0], model._fc1[1]
    before = linear(features)
    # GELU(u) = u * Phi(u)
    assert isinstance(act, torch.nn.GELU)
    projected = before * torch.special.ndtr(before.detach())
    if model.config.scan == "1d":
        shape, states = (1, len(features)), projected
    else:
        shape = subject.canvas
        position = torch.as_tensor(_positions(subject), device=features.device)
        states = model._on_canvas(projected, position, shape).full()
    for block in list(model.layers.layers)[: range(model.config.n_layers)[layer] + 1]:
        assert isinstance(block, ResidualBlock)
        states = states + _held_mixer(block.mixer, _hold_rms_norm(states, block.norm), shape)
    return states


def _held_mixer(mixer: MambaBlock, states: Tensor, shape: tuple[int, int]) -> Tensor:
    """The mixer of one layer, ``(cells, d_model)``, in the network's own values."""
    config = mixer.config
    x, z = mixer.in_proj(states).chunk(2, dim=-1)
    padded = functional.pad(x.t()[None], (config.d_conv - 1, 0))
    x = mixer.conv1d(padded)[0].t()
    x = x * torch.sigmoid(x.detach())

    def placed(value: Tensor) -> Tensor:
        return value.reshape(1, *shape, -1)

    y = torch.zeros_like(placed(x))
    for weights, flip in mixer.corners:
        made = {name: placed(value) for name, value in weights.dt_B_C(x.detach()).items()}
        y = y + weights.scan({"x": placed(x), "z": placed(z.detach()), **made}, flip)
    return mixer.out_proj(y.reshape(len(states), -1) / len(mixer.corners))


def _hold_rms_norm(x: Tensor, norm: RMSNorm) -> Tensor:
    scale = torch.rsqrt(x.detach().square().mean(-1, keepdim=True) + 1e-5)
    return x * scale * norm.weight


def _hold_layer_norm(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.detach().square().mean(-1, keepdim=True) + norm.eps)
    return centred * scale * norm.weight + norm.bias


def _positions(subject: Subject) -> NDArray[np.int64]:
    """Return the number of each patch's cell in the sequence."""
    if _model(subject).config.scan == "1d":
        return np.arange(len(subject))
    cells = subject.cells_of_patches
    return cells[:, 0] * subject.canvas[1] + cells[:, 1]


def why_not(model: Architecture) -> str | None:
    """Say why a model has no rollout; None if it has."""
    if isinstance(model, Mamba2DMIL):
        return None
    return f"it holds the parts of 2DMambaMIL, and this model is {model.title}"


def _model(subject: Subject) -> Mamba2DMIL:
    if not isinstance(subject.model, Mamba2DMIL):
        raise CheckpointError(
            f"rollout follows the scan of 2DMambaMIL, and this model is {subject.model.title}; "
            "choose the receptive field, or gradient x input"
        )
    return subject.model
