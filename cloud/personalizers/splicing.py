"""The formulas of CKI (AAAI 2025, arXiv 2501.07596): how much of each of two nets' weights goes into a spliced one.

    g  = a / pi atan(c (H(W1) - H(W2))) + 1/2      a = 0.4, c = 500; H = entropy of a layer's 10-bin histogram
    l  = sigmoid(P |W1 - W2|)                      P: learned, square, one per layer
    w1 = g (1 - exp(-g l)),  w2 = (1 - g) (1 - exp(-(1 - g) (1 - l)))
    W  = s W1 + (1 - s) W2,  (s, 1 - s) = softmax(w1, w2)

The result is one network of the same shape, so inference costs what it did. As 0.3 < g < 0.7, w1 and w2 lie between 0
and 0.36, and every share s between 0.41 and 0.59: soft splicing is always near the mean of the two nets.

Reconstructed: entropies in nats; P works along the last axis of a weight.
"""

import math

import torch
from torch import Tensor, nn

A, C, BINS = 0.4, 500.0, 10


def entropy(weights: Tensor, bins: int = BINS) -> Tensor:
    """Entropy in nats [...] of the histograms of `weights` [..., n], each between its own least and largest value."""
    low, high = weights.amin(-1, keepdim=True), weights.amax(-1, keepdim=True)
    place = (weights - low) / (high - low).clamp_min(torch.finfo(weights.dtype).tiny)
    place = (place * bins).long().clamp(max=bins - 1)
    counts = torch.zeros(*weights.shape[:-1], bins, dtype=weights.dtype, device=weights.device)
    counts.scatter_add_(-1, place, torch.ones_like(weights))
    spread: Tensor = torch.special.entr(counts / weights.shape[-1]).sum(-1)
    return spread


def global_gate(first: Tensor, second: Tensor) -> Tensor:
    """g [...] of the entropies [...] of two layers: how much the first is to be preferred, in (0.3, 0.7)."""
    gate: Tensor = A / math.pi * torch.atan(C * (first - second)) + 0.5
    return gate


def share(g: Tensor, local: Tensor) -> Tensor:
    """The share s of the first net's weights, elementwise, from g and l; the second net's is 1 - s."""
    w1 = g * (1 - torch.exp(-g * local))
    w2 = (1 - g) * (1 - torch.exp(-(1 - g) * (1 - local)))
    return torch.sigmoid(w1 - w2)  # softmax of two


def first_share(first: Tensor, second: Tensor, local_map: Tensor) -> Tensor:
    """s of a layer `first` [*shape] spliced with one or many `second` [..., *shape]; `local_map` P is [d, d]."""
    with torch.no_grad():
        batch = second.shape[: second.dim() - first.dim()]
        g = global_gate(entropy(first.flatten()), entropy(second.reshape(*batch, -1)))
        g = g.view(*batch, *[1] * first.dim())
    return share(g, torch.sigmoid((first - second).abs() @ local_map.T))


def square(width: int) -> nn.Linear:
    """A learned map P, drawn by torch's default."""
    return nn.Linear(width, width, bias=False)
