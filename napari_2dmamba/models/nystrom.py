"""Nyström self-attention (Xiong et al., AAAI 2021, arXiv 2102.03902), as TransMIL uses it.

The N x N attention is written as a product of three thin matrices through m landmark tokens,
means over consecutive groups. It is applied from the right, so that memory grows with N.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def pseudo_inverse(matrices: Tensor, iterations: int) -> Tensor:
    """Approximate the Moore-Penrose inverses of ``(heads, m, m)`` by iteration.

    The starting scale uses the largest row sum and column sum over all heads together, as in
    the implementation that published weights were trained with.
    """
    size = matrices.abs()
    scale = size.sum(dim=-1).max() * size.sum(dim=-2).max()
    inverse = matrices.transpose(-1, -2) / scale
    eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    for _ in range(iterations):
        product = matrices @ inverse
        inner = 7 * eye - product
        inner = 15 * eye - product @ inner
        inner = 13 * eye - product @ inner
        inverse = 0.25 * inverse @ inner
    return inverse


class NystromAttention(nn.Module):
    """Multi-head attention through landmarks, with a depthwise convolution of the values.

    Parameters
    ----------
    dim
        Width of the tokens.
    dim_head, heads
        Width and number of heads.
    landmarks
        m; tokens are padded in front with zeros to a multiple of it.
    iterations
        Steps of the pseudo-inverse.
    kernel
        Taps of the convolution along the sequence.
    dropout
        After the output projection.
    """

    def __init__(
        self,
        dim: int,
        dim_head: int,
        heads: int,
        landmarks: int,
        iterations: int = 6,
        kernel: int = 33,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads, self.landmarks, self.iterations = heads, landmarks, iterations
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))
        self.res_conv = nn.Conv2d(
            heads, heads, (kernel, 1), padding=(kernel // 2, 0), groups=heads, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, dim) -> (N, dim)``."""
        q, k, v, q_marks, k_marks = self._project(x)
        inverse = pseudo_inverse(_softmax_product(q_marks, k_marks), self.iterations)
        seen = functional.scaled_dot_product_attention(q_marks, k, v, scale=1.0)
        out = functional.scaled_dot_product_attention(q, k_marks, inverse @ seen, scale=1.0)
        out = out + self.res_conv(v[None])[0]
        out = out.transpose(0, 1).reshape(out.shape[1], -1)
        return self.to_out(out)[-len(x) :]

    def attention_of(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Return how much some tokens attend to all tokens of ``x``, zeros in front included.

        Parameters
        ----------
        x
            ``(N, dim)``.
        tokens
            ``(T,)`` positions in the padded sequence.

        Returns
        -------
        ``(heads, T, N + zeros)``; the approximation lets small negative values occur.
        """
        q, k, _, q_marks, k_marks = self._project(x)
        inverse = pseudo_inverse(_softmax_product(q_marks, k_marks), self.iterations)
        left = _softmax_product(q[:, tokens], k_marks) @ inverse
        # Head by head: all landmarks times all tokens is the largest array there is.
        heads = zip(left, q_marks, k, strict=True)
        return torch.stack([row @ _softmax_product(mark, key) for row, mark, key in heads])

    def zeros_in_front(self, count: int) -> int:
        """Return how many zero tokens are put before ``count`` tokens."""
        return -count % self.landmarks

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return queries (scaled), keys, values, and the landmarks of the first two."""
        group = math.ceil(len(x) / self.landmarks)
        x = functional.pad(x, (0, 0, self.zeros_in_front(len(x)), 0))
        q, k, v = (
            part.reshape(len(x), self.heads, -1).transpose(0, 1)
            for part in self.to_qkv(x).chunk(3, dim=-1)
        )
        q = q * q.shape[-1] ** -0.5
        marks = (part.unflatten(1, (-1, group)).mean(2) for part in (q, k))
        return (q, k, v, *marks)


def _softmax_product(q: Tensor, k: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2), dim=-1)
