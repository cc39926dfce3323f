"""CKI (AAAI 2025, arXiv 2501.07596): splice two trained nets of one shape, weight by weight, by their compatibility.

For the formulas see `cloud.personalizers.splicing`; the two nets are constants in them. What is deployed is spliced by
the formula of the training; the released code deploys by another one, which is taken for a bug.

What is spliced: the released code takes the two-layer heads of nets of two seeds and puts the result behind the body
and the item embeddings of the first, which go on learning together with P. Heads of two seeds do not agree on what a
channel means, and a mean of such weights is neither net: that is left to the further training. So here both nets have
one beginning. `CkiPersonal`, which a configuration can name, splices a static head with the dynamic one that DUET
generates, offsets of the static one behind the same body; `Cki` splices two whole nets, of which one should have been
trained further from the other, or both from a third.

Reconstructed: the item table of `Cki` begins as the first net's; `CkiPersonal` learns in one training, where the
released code trains both nets before P.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cloud.personalizers.duet import Duet, Loss, next_item_loss
from cloud.personalizers.splicing import first_share, square
from device.errors import ConfigError
from device.models.personal_head import PersonalHead, head_layers
from device.models.sasrec import SASRec
from device.personal import Layout

TABLE = "item.weight"


class Cki(nn.Module):
    """Static with static: two trained SASRecs of one shape become one; learned are the maps P and the item embeddings.

    Of nets of two seeds it makes about a mean of unrelated weights, and the item embeddings have to make up for it.

    Args:
        first, second: the trained nets, `second` trained further from `first` or both from a third; copied.
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
    """CKI, static with dynamic: the shared head of a DUET spliced with the one that it generates for each device.

    W1 = B, W2 = B + z A, so what travels is (1 - s) z A: a patch of `head`, on DUET's device half, of the same bytes.
    The two nets learn by DUET's loss, P and what lies before the heads by that of the spliced net too, whose gradients
    stop at both heads.

    Args:
        backbone: of the device, trained together with everything else.
        code, uploaded, negatives: as in `Duet`.
        alone: as in `Duet`; above 0, for otherwise the shared head is no net of its own.
        loss: "softmax" (default) or "bce" (the paper's), as in `Duet`.
    """

    def __init__(
        self,
        backbone: SASRec,
        *,
        code: int = 32,
        uploaded: int | None = None,
        alone: float = 0.1,
        loss: Loss = "softmax",
        negatives: int = 4,
    ) -> None:
        super().__init__()
        if not 0 < alone < 1 or loss == "positions":
            raise ConfigError(
                f"CKI: alone = {alone}, loss = {loss!r}; it splices two heads, so some rows, but not all, have to "
                "learn with the shared one alone (0 < alone < 1), and it learns by 'softmax' or 'bce'"
            )
        self.duet = Duet(backbone, code=code, uploaded=uploaded, alone=alone, loss=loss, negatives=negatives)
        self.n_items, self.length = self.duet.n_items, self.duet.length
        self.maps = nn.ModuleList(square(self.duet.device.width) for _ in range(4))  # W1, b1, W2, b2

    def reset(self) -> None:
        """Draw all weights anew from torch's global generator."""
        self.duet.reset()
        for local_map in self.maps:
            local_map.reset_parameters()  # type: ignore[operator]

    @property
    def device(self) -> PersonalHead:
        """What is installed: DUET's device half."""
        return self.duet.device

    @property
    def layout(self) -> Layout:
        """What a patch holds."""
        return self.device.layout

    def patches(self, history: Tensor) -> dict[str, Tensor]:
        """`head` [B, P] for devices with `history` [B, L]."""
        return {"head": self._spliced(self.duet.patches(history)["head"])}

    def _spliced(self, generated: Tensor) -> Tensor:
        """(1 - s) `generated` [B, P]; gradients reach the maps alone."""
        static, dynamic = self.device.shared.detach(), generated.detach()
        layers = (head_layers(weights, self.device.width) for weights in (static, dynamic))
        parts = [_let_through(*layer) for layer in zip(*layers, self.maps, strict=True)]
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] on devices whose patches were made of the same `history` [B, L]."""
        scores: Tensor = self.device(history, candidates, **self.patches(history))
        return scores

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue."""
        return self.device.catalogue(history, **self.patches(history))

    def training_loss(self, history: Tensor, target: Tensor, *, epoch: int, generator: torch.Generator) -> Tensor:
        """Losses of the dynamic and of the spliced net for the next items `target` [B] after `history` [B, L], added.

        `Duet.alone` of the rows are of the static net in both.
        """
        state, generated = self.device.before(history), self.duet.patches(history)["head"]
        kept_out = self.device.shared.detach() - self.device.shared  # zeros that take the gradient of W1 back
        total = torch.zeros(())
        for head in (generated, self._spliced(generated) + kept_out):
            net: Any = _Behind(self.device, state, head)
            total = total + next_item_loss(
                net, history, target, loss=self.duet.loss, negatives=self.duet.negatives, generator=generator
            )
        return total


@dataclass(frozen=True, slots=True)
class _Behind:
    """Devices whose body has read its history, under the patches `head` [B, P], as `next_item_loss` takes a module."""

    device: PersonalHead
    state: Tensor  # [B, d]
    head: Tensor

    @property
    def n_items(self) -> int:
        return self.device.n_items

    def catalogue(self, history: Tensor) -> Tensor:
        return self.device.catalogue_behind(self.state, head=self.head)

    def __call__(self, history: Tensor, candidates: Tensor) -> Tensor:
        return self.device.behind(self.state, candidates, head=self.head)


def _let_through(static: Tensor, generated: Tensor, local_map: nn.Module) -> Tensor:
    """(1 - s) of what was generated, [B, *shape], for `static` [*shape] spliced with `static + generated`."""
    weight: Tensor = local_map.weight  # type: ignore[assignment]
    return (1 - first_share(static, static + generated, weight)) * generated


def _key(name: str) -> str:
    """A parameter's name as a name of a part, which must not have dots."""
    return name.replace(".", "__")
