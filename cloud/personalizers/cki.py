"""CKI (AAAI 2025, arXiv 2501.07596): splice two trained nets of one shape, weight by weight, by their compatibility.

    g  = a / pi atan(c (H(W1) - H(W2))) + 1/2      a = 0.4, c = 500; H = entropy of a layer's 10-bin histogram
    l  = sigmoid(P |W1 - W2|)                      P: learned, square, one per layer
    w1 = g (1 - exp(-g l)),  w2 = (1 - g) (1 - exp(-(1 - g) (1 - l)))
    W  = s W1 + (1 - s) W2,  (s, 1 - s) = softmax(w1, w2)

The result is one network of the same shape, so inference costs what it did. As 0.3 < g < 0.7, w1 and w2 lie between 0
and 0.36, and every share s between 0.41 and 0.59: soft splicing is always near the mean of the two nets.

Trained are the maps P and the item embeddings; W1 and W2 stay as they are. What is deployed is spliced by the formula
of the training; the released code deploys by another one, which is taken for a bug. Reconstructed: entropies in nats;
the item table begins as the first net's; P works along the last axis of a weight.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cloud.personalizers.duet import Duet, Loss, next_item_loss
from device.errors import ConfigError
from device.models.personal_head import PersonalHead, head_layers
from device.models.sasrec import SASRec
from device.personal import Layout

A, C, BINS = 0.4, 500.0, 10
TABLE = "item.weight"


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


class Cki(nn.Module):
    """Static with static: two trained SASRecs of one shape, e.g. of two seeds, become one.

    Two nets trained from different initial weights need not agree on what a channel means; the item table, which is
    trained on, has to make up for that. Nets that share their beginning splice better.

    Args:
        first, second: the trained nets; copied.
        loss: "softmax" over the catalogue (default), "bce" (the paper's) or "positions" (the trainer's), as in `Duet`.
        negatives: per positive, for "bce".
    """

    item_table = TABLE

    def __init__(self, first: SASRec, second: SASRec, *, loss: Loss = "softmax", negatives: int = 4) -> None:
        super().__init__()
        shapes, others = ({k: tuple(v.shape) for k, v in net.state_dict().items()} for net in (first, second))
        if shapes != others:
            odd = next(name for name in shapes | others if shapes.get(name) != others.get(name))
            raise ConfigError(f"CKI: {odd} is {shapes.get(odd)} in one net, {others.get(odd)} in the other; match them")
        self.first, self.second = (copy.deepcopy(net).requires_grad_(False) for net in (first, second))
        self.n_items, self.length, self.loss, self.negatives = first.n_items, first.length, loss, negatives
        self.item = copy.deepcopy(first.item).requires_grad_(True)
        self.maps = nn.ModuleDict(
            {_key(name): square(shape[-1]) for name, shape in shapes.items() if name != TABLE},
        )
        if loss != "positions":
            self.training_loss = self._training_loss  # the trainer looks for it

    def reset(self) -> None:
        """Draw the maps anew from torch's global generator; the item table begins as the first net's once more."""
        for local_map in self.maps.values():
            local_map.reset_parameters()  # type: ignore[operator]
        with torch.no_grad():
            self.item.weight.copy_(self.first.item.weight)

    def weights(self) -> dict[str, Tensor]:
        """The spliced weights, by their names in SASRec."""
        pairs = zip(self.first.named_parameters(), self.second.parameters(), strict=True)
        spliced = {TABLE: self.item.weight}
        for (name, first), second in pairs:
            if name != TABLE:
                s = first_share(first, second, self.maps[_key(name)].weight)  # type: ignore[arg-type]
                spliced[name] = s * first + (1 - s) * second
        return spliced

    def spliced(self) -> SASRec:
        """The one net to deploy."""
        net = copy.deepcopy(self.first).requires_grad_(True)
        net.load_state_dict({name: weight.detach().clone() for name, weight in self.weights().items()})
        return net.eval()

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L]."""
        return self._ask("forward", history, candidates)

    def states(self, history: Tensor) -> Tensor:
        """States [B, L, d] after each position of `history` [B, L]."""
        return self._ask("states", history)

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue."""
        return self._ask("catalogue", history)

    def _ask(self, method: str, *inputs: Tensor) -> Tensor:
        weights = {f"net.{name}": weight for name, weight in self.weights().items()}
        answer: Tensor = functional_call(_Ask(self.first), weights, (method, *inputs))
        return answer

    def _training_loss(self, history: Tensor, target: Tensor, *, epoch: int, generator: torch.Generator) -> Tensor:
        """Loss of the next items `target` [B] after `history` [B, L]."""
        return next_item_loss(self, history, target, loss=self.loss, negatives=self.negatives, generator=generator)

    def flops(self, length: int, candidates: int) -> float:
        """Of the spliced net, which are those of one of the two."""
        return self.first.flops(length, candidates)


class _Ask(nn.Module):
    """Any method of a net as `forward`, the only one that `functional_call` knows."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, method: str, *inputs: Tensor) -> Tensor:
        answer: Tensor = getattr(self.net, method)(*inputs)
        return answer


class CkiPersonal(nn.Module):
    """Static with dynamic: the shared head of a trained DUET spliced with the one generated for each device.

    W1 = B, W2 = B + z A, so what travels is (1 - s) z A: a patch of `head`, on DUET's device half, of the same bytes.

    Args:
        duet: trained, with `send = "weights"` and `alone` above 0 (else its shared head is no net of its own); copied.
        loss, negatives: "softmax" (default) or "bce" (the paper's), as in `Duet`.
    """

    def __init__(self, duet: Duet, *, loss: Loss = "softmax", negatives: int = 4) -> None:
        super().__init__()
        if duet.device.send != "weights" or not duet.alone or loss == "positions":
            raise ConfigError(
                f"CKI: send = {duet.device.send!r}, alone = {duet.alone}, loss = {loss!r}; it splices the heads of a "
                "DUET with send = 'weights' and alone above 0, and learns by 'softmax' or 'bce'"
            )
        self.duet = copy.deepcopy(duet).requires_grad_(False)
        self.duet.item.weight.requires_grad_(True)
        self.n_items, self.length, self.loss, self.negatives = duet.n_items, duet.length, loss, negatives
        self.maps = nn.ModuleList(square(duet.device.width) for _ in range(4))  # W1, b1, W2, b2

    def reset(self) -> None:
        """Draw the maps anew from torch's global generator; everything else stays as the trained DUET has it."""
        for local_map in self.maps:
            local_map.reset_parameters()  # type: ignore[operator]

    @property
    def device(self) -> PersonalHead:
        """What is installed: DUET's device half, item embeddings trained on."""
        return self.duet.device

    @property
    def layout(self) -> Layout:
        """What a patch holds."""
        return self.device.layout

    def patches(self, history: Tensor) -> dict[str, Tensor]:
        """`head` [B, P] for devices with `history` [B, L]."""
        static, width = self.device.shared, self.device.width
        generated = self.duet.patches(history)["head"]
        layers = zip(head_layers(static, width), head_layers(generated, width), self.maps, strict=True)
        return {"head": torch.cat([_let_through(*layer).flatten(1) for layer in layers], dim=1)}

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] on devices whose patches were made of the same `history` [B, L]."""
        scores: Tensor = self.device(history, candidates, **self.patches(history))
        return scores

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue."""
        return self.device.catalogue(history, **self.patches(history))

    def training_loss(self, history: Tensor, target: Tensor, *, epoch: int, generator: torch.Generator) -> Tensor:
        """Loss of the next items `target` [B] after `history` [B, L]."""
        return next_item_loss(self, history, target, loss=self.loss, negatives=self.negatives, generator=generator)


def _let_through(static: Tensor, generated: Tensor, local_map: nn.Module) -> Tensor:
    """(1 - s) of what was generated, [B, *shape], for `static` [*shape] spliced with `static + generated`."""
    weight: Tensor = local_map.weight  # type: ignore[assignment]
    return (1 - first_share(static, static + generated, weight)) * generated


def square(width: int) -> nn.Linear:
    """A learned map P, drawn by torch's default."""
    return nn.Linear(width, width, bias=False)


def _key(name: str) -> str:
    """A parameter's name as a name of a part, which must not have dots."""
    return name.replace(".", "__")
