"""DCRec: losses, sampling and scores of the whole catalogue."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cloud.generators.dcrec.denoiser import Context, Denoiser, Sight
from cloud.generators.dcrec.schedule import Annealing, jumps, sampling_times, signal_left
from device.errors import ConfigError, ContractError


class DCRec(nn.Module):
    """Dual conditional diffusion recommender (Huang et al., WSDM 2026, arXiv 2410.21967).

    Implicit condition: the next item joins the history and the whole sequence is noised. Explicit condition: every
    step sees the clean history, by cross-attention and by an adaptive layer norm per slot.

    `faithful` follows the released code where it differs: padding is embedded like an item and noised, masks hide
    padded queries instead of padded keys, every batch is padded to `length`, the prior term counts padding, padding
    can be ranked, and all `steps` are sampled whatever `sampling_steps` says. The release's numbers are width=128,
    blocks=4, heads=4, length=50, steps=50, dropout=0.1, embedding_dropout=0.4, lambda_floor=0.003, lambda_epochs=150;
    the defaults here are for minutes of training on a CPU. Initial weights come from torch's global generator.

    Raises ConfigError for settings that cannot work.
    """

    signal: Tensor  # A_0..A_T, float32 [T + 1]
    rankable: Tensor  # float32 [n_items + 1], added to scores

    def __init__(  # noqa: PLR0913 (the keys of the [cloud.generator] table)
        self,
        n_items: int,
        *,
        width: int = 64,
        blocks: int = 2,
        heads: int = 2,
        length: int = 20,
        steps: int = 50,
        sampling_steps: int = 5,
        dropout: float = 0.1,
        embedding_dropout: float = 0.3,
        knowledge_ratio: float = 0.1,
        lambda_start: float = 0.2,
        lambda_floor: float = 0.05,
        lambda_epochs: int = 15,
        samples: int = 1,
        faithful: bool = False,
    ) -> None:
        super().__init__()
        _check(n_items=n_items, blocks=blocks, length=length, samples=samples)
        _check_width(width, heads)
        self.n_items, self.width, self.length, self.samples = n_items, width, length, samples
        self.knowledge_ratio, self.faithful = knowledge_ratio, faithful
        self.annealing = Annealing(lambda_start, lambda_floor, lambda_epochs)
        signal = signal_left(steps)
        self.times = sampling_times(steps, steps if faithful else sampling_steps)
        self.jumps = jumps(signal, self.times)
        self.register_buffer("signal", torch.from_numpy(signal.astype(np.float32)), persistent=False)
        self.register_buffer("rankable", _rankable(n_items, pad=faithful), persistent=False)
        # Both start at deviation 1 (torch's default): from 0.02 the prior term keeps scores at chance.
        self.items, self.positions = nn.Embedding(n_items + 1, width), nn.Embedding(length, width)
        self.norm, self.drop = nn.LayerNorm(width, eps=1e-12), nn.Dropout(embedding_dropout)
        self.denoiser = Denoiser(
            width=width, blocks=blocks, heads=heads, dropout=dropout, time_scale=max(1, 1000 // steps)
        )

    def training_loss(self, history: Tensor, target: Tensor, *, epoch: int, generator: torch.Generator) -> Tensor:
        """Scalar loss of history int64 [B, L] and the items that followed, int64 [B]; `epoch` counts from 0.

        lambda * cross-entropy over the catalogue + (1 - lambda) * squared error of the next item's slot + squared
        prediction (the prior term): the paper's L_z, L_t and L_T, summed as in the released code. Steps and noise
        come from `generator`, dropout from torch's global generator. Raises ContractError for a history too long.
        """
        sequence = self._sequence(history, target)
        clean = self._embed(sequence)
        context, knowledge = self._conditions(history)
        step = self._draw_steps(len(history), generator)
        signal = self.signal[step][:, None, None]
        noise = torch.randn(clean.shape, generator=generator, device=generator.device).to(clean)
        state = signal.sqrt() * clean + (1.0 - signal).sqrt() * (noise + self.knowledge_ratio * knowledge)
        guess = self.denoiser(state, step, context)
        weight = self.annealing.at(epoch)
        entropy = F.cross_entropy(self._scores(guess[:, -1]), target)
        error = F.mse_loss(guess[:, -1], clean[:, -1])
        return weight * entropy + (1.0 - weight) * error + self._prior(guess, sequence)

    @torch.no_grad()
    def catalogue_scores(self, history: Tensor, noise: Tensor | None) -> Tensor:
        """Scores float32 [B, n_items + 1] after history int64 [B, L], -inf at padding (unless faithful).

        `noise`: standard normals [B, *noise_shape(L)], flat rows allowed; a row's scores depend on that row of
        history and noise only. None stands for zeros, the mean of the noise. Scores are the mean over the samples.
        Raises ContractError in training mode, for a history too long or noise of another size.
        """
        if self.training:
            raise ContractError("DCRec.catalogue_scores: the model is in training mode, so dropout is on; call eval()")
        context, knowledge = self._conditions(history)
        draws = self._unpack(noise, len(history), slots=knowledge.shape[1])
        guesses = [self._sample(one, context, knowledge) for one in draws.unbind(1)]
        return self._scores(torch.stack(guesses).mean(0))  # a score is linear in the guess: one product for all

    def noise_shape(self, length: int) -> tuple[int, int, int, int]:
        """Standard normals of one request: (samples, sampling steps, slots, width).

        The same for every history length, because a row of draws must not change with the batch it is served in.
        Raises ContractError for a `length` beyond the model's.
        """
        self._check_length(length)
        return self.samples, len(self.times), self.length, self.width

    def flops(self, length: int) -> float:
        """Floating-point operations (two per multiply-add) that scores after `length` items take."""
        slots, net = self._slots(length), self.denoiser
        walk = (len(self.times) - 1) * net.multiply_adds(slots) + net.multiply_adds(slots, last=True)
        catalogue = (self.n_items + 1) * self.width
        return 2.0 * (net.context_multiply_adds(slots) + self.samples * walk + catalogue)

    def _sample(self, noise: Tensor, context: Context, knowledge: Tensor) -> Tensor:
        """Guess of the next item [B, d] by ancestral sampling with noise [B, steps, W, d]."""
        state = noise[:, 0] + self.knowledge_ratio * knowledge
        for i, (step, jump) in enumerate(zip(self.times[:-1], self.jumps, strict=True), start=1):
            guess = self.denoiser(state, torch.tensor([step], device=state.device), context)
            state = jump.clean * guess + jump.noisy * state + jump.deviation * noise[:, i]
        end = torch.tensor(self.times[-1:], device=state.device)
        final: Tensor = self.denoiser(state, end, context, last=True)
        return final[:, -1]

    def _conditions(self, history: Tensor) -> tuple[Context, Tensor]:
        """The clean history as the denoiser sees it, and the part of it [B, W, d] that is mixed into the noise."""
        past = _widen(history, self._slots(history.shape[1]))
        known = self._sequence(history, torch.zeros_like(history[:, -1]))
        context = self.denoiser.context(self._blank(past), self._sight(past))
        return context, self._blank(known)

    def _sequence(self, history: Tensor, target: Tensor) -> Tensor:
        """Item ids [B, W]: history, then target, without the oldest where there is no room."""
        slots = self._slots(history.shape[1])
        return _widen(torch.cat([history, target[:, None]], dim=1), slots)

    def _embed(self, ids: Tensor) -> Tensor:
        """[B, W, d]; positions count from the right, so padding on the left moves nothing."""
        positions = self.positions.weight[self.length - ids.shape[1] :]
        embedded: Tensor = self.norm(self.drop(self.items(ids) + positions))
        return embedded

    def _draw_steps(self, n: int, generator: torch.Generator) -> Tensor:
        steps = len(self.signal) - 1
        drawn = torch.randint(1, steps + 1, (n,), generator=generator, device=generator.device)
        return drawn.to(self.items.weight.device)

    def _unpack(self, noise: Tensor | None, n: int, *, slots: int) -> Tensor:
        """[B, samples, sampling steps, W, d] with the last slots of each row's draws."""
        shape = self.noise_shape(slots)
        if noise is None:
            return self.items.weight.new_zeros(n, 1, shape[1], slots, self.width)
        if noise.numel() != n * int(np.prod(shape)):
            raise ContractError(
                f"DCRec.catalogue_scores: noise of shape {tuple(noise.shape)} for {n} histories; "
                f"draw {int(np.prod(shape))} standard normals a row (noise_shape)"
            )
        return noise.to(self.items.weight).reshape(n, *shape)[..., self.length - slots :, :]

    def _check_length(self, length: int) -> None:
        if not 1 <= length <= self.length:
            raise ContractError(f"DCRec: histories of {length} columns, but the model takes 1..{self.length}; cut them")

    # What `faithful` changes, one method each; the steps and the pad row's rank are set in __init__.

    def _slots(self, length: int) -> int:
        """W: room for the history and one more item. Faithful: always the full length."""
        self._check_length(length)
        return self.length if self.faithful else min(length + 1, self.length)

    def _blank(self, ids: Tensor) -> Tensor:
        """Embeddings [B, W, d], zero at padding. Faithful: padding has an embedding like any item."""
        embedded = self._embed(ids)
        return embedded if self.faithful else embedded * (ids > 0)[..., None]

    def _sight(self, past: Tensor) -> Sight:
        """Padded keys are hidden. Faithful: padded queries are blanked instead, and all see padded keys."""
        real = past > 0
        sequence = F.pad(real[:, 1:], (0, 1), value=True)  # the history moved left, the next item behind it
        if self.faithful:
            return Sight(sequence[:, None, :, None].to(self.items.weight), None, None)
        empty = ~real.any(1, keepdim=True)  # a new user's keys are all blank and alike: any may be seen
        return Sight(None, sequence[:, None, None], (real | empty)[:, None, None])

    def _prior(self, guess: Tensor, sequence: Tensor) -> Tensor:
        """Mean square of the guess over real slots. Faithful: over all slots."""
        if self.faithful:
            return guess.square().mean()
        return guess[sequence > 0].square().mean()

    def _scores(self, guess: Tensor) -> Tensor:
        """[B, n_items + 1] products of guesses [B, d] with the raw item table, plus 0 or -inf for the pad row."""
        return F.linear(guess, self.items.weight, self.rankable)


def _widen(ids: Tensor, slots: int) -> Tensor:
    """The last `slots` columns of ids [B, n], with padding on the left where there are fewer."""
    return F.pad(ids, (slots - ids.shape[1], 0))  # a negative pad cuts


def _rankable(n_items: int, *, pad: bool) -> Tensor:
    """[n_items + 1], zeros, and -inf for the pad row unless it may be ranked (`pad`, the release's way)."""
    bias = torch.zeros(n_items + 1)
    bias[0] = 0.0 if pad else -torch.inf
    return bias


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"DCRec: {name} = {value}, but it must be at least 1; raise it")


def _check_width(width: int, heads: int) -> None:
    if heads < 1 or width < 2 or width % heads or width % 2:
        raise ConfigError(f"DCRec: width = {width}, heads = {heads}; choose an even width divisible by heads")
