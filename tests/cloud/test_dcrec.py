"""DCRec: the diffusion's arithmetic, what padding and batches may change, the released code's quirks, a toy."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cloud.generators.dcrec import DCRec
from cloud.generators.dcrec.denoiser import Block, Sight
from cloud.generators.dcrec.schedule import Annealing, jumps, posterior_jump, sampling_times, signal_left
from device.errors import ConfigError, ContractError
from device.seeds import draws

N_ITEMS, LENGTH = 30, 6
HISTORY = torch.tensor([[0, 0, 0, 4, 9, 2], [0, 0, 0, 0, 0, 7], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0]])


def model(**settings: object) -> DCRec:
    """A small model whose zero-initialised parts have been moved, so that nothing is multiplied by zero."""
    torch.manual_seed(3)
    made = DCRec(N_ITEMS, width=8, length=LENGTH, **settings).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "modulation" in name:
                parameter.normal_(std=0.5)
    return made


def noise_for(made: DCRec, rows: int, seed: int = 0) -> Tensor:
    shape = made.noise_shape(LENGTH)
    return torch.from_numpy(draws(seed, "dcrec", np.arange(rows)).normal(math.prod(shape))).view(rows, *shape)


# The schedule


def test_noise_levels_of_fifty_steps() -> None:
    signal = signal_left(50)
    # k = 1000 / 50 = 20: beta from 20 * 1e-4 = 0.002 to 20 * 0.02 = 0.4, in steps of 0.398 / 49
    assert signal[0] == 1.0
    assert signal[1] == pytest.approx(0.998)
    assert signal[2] == pytest.approx(0.998 * (1 - (0.002 + 0.398 / 49)))
    assert signal[50] / signal[49] == pytest.approx(0.6)
    # ln A_T ~ 50 / 0.398 * [u ln u - u] from 0.6 to 0.998 = 125.6 * (-1.0000 + 0.9065) = -11.75, e^-11.75 = 7.9e-6
    assert 6e-6 < signal[50] < 1e-5


@given(st.integers(21, 300), st.data())
def test_jump_keeps_the_marginals(steps: int, data: st.DataObject) -> None:
    """If x_t has mean sqrt(A_t) x_0 and variance 1 - A_t, then x_s has sqrt(A_s) x_0 and 1 - A_s."""
    signal = signal_left(steps)
    s = data.draw(st.integers(0, steps - 1))
    t = data.draw(st.integers(s + 1, steps))
    jump = posterior_jump(signal[t], signal[s])
    assert jump.clean + jump.noisy * math.sqrt(signal[t]) == pytest.approx(math.sqrt(signal[s]))
    assert jump.noisy**2 * (1 - signal[t]) + jump.deviation**2 == pytest.approx(1 - signal[s], abs=1e-12)


@pytest.mark.parametrize("t", [1, 2, 17, 50])
def test_jump_of_one_step_is_ddpm(t: int) -> None:
    signal = signal_left(50)
    beta = np.linspace(0.002, 0.4, 50)[t - 1]
    jump = posterior_jump(signal[t], signal[t - 1])
    assert jump.clean == pytest.approx(math.sqrt(signal[t - 1]) * beta / (1 - signal[t]))
    assert jump.noisy == pytest.approx(math.sqrt(1 - beta) * (1 - signal[t - 1]) / (1 - signal[t]))
    assert jump.deviation**2 == pytest.approx(beta * (1 - signal[t - 1]) / (1 - signal[t]))


def test_jump_to_the_clean_end_is_the_guess() -> None:
    jump = posterior_jump(signal_left(50)[30], 1.0)
    assert jump.clean == pytest.approx(1.0)
    assert jump.noisy == jump.deviation == 0.0


def test_sampling_times_by_hand() -> None:
    assert sampling_times(50, 1) == (50,)
    assert sampling_times(50, 2) == (50, 25)
    assert sampling_times(50, 5) == (50, 40, 30, 20, 10)
    assert sampling_times(50, 3) == (50, 33, 16)  # 3 * 50 // 3, 2 * 50 // 3, 50 // 3
    assert sampling_times(50, 50) == tuple(range(50, 0, -1))


@given(st.integers(21, 400), st.data())
def test_sampling_times_fall_evenly_from_the_last(steps: int, data: st.DataObject) -> None:
    used = data.draw(st.integers(1, steps))
    times = sampling_times(steps, used)
    gaps = [a - b for a, b in pairwise((*times, 0))]
    assert (len(times), times[0]) == (used, steps)
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1
    assert len(jumps(signal_left(steps), times)) == used - 1


def test_lambda_by_hand() -> None:
    ours, released = Annealing(0.2, 0.05, 15), Annealing(0.2, 0.003, 150)
    assert ours.at(0) == pytest.approx(0.25)
    assert ours.at(5) == pytest.approx(0.2 * 512 / 19683 + 0.05)  # (2/3)^9 = 512 / 19683
    assert ours.at(15) == ours.at(40) == pytest.approx(0.05)
    assert released.at(75) == pytest.approx(0.2 / 512 + 0.003)  # (1/2)^9
    assert released.at(1000) == pytest.approx(0.003)


# The network


def test_fresh_adaptive_norm_is_a_plain_one() -> None:
    torch.manual_seed(0)
    block, x, history = Block(8, 2, 0.0), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    sight, memory = Sight(None, None, None), block.memory(history)
    conditions = torch.randn(2, 2, 5, 8)
    y = F.layer_norm(x, (8,))
    middle = x + block.own(y, block.own.keys_values(y), queries=None, keys=None)
    middle = middle + block.cross(block.cross_norm(middle), memory, queries=None, keys=None)
    u = block.inner_norm(middle)
    plain = middle + block.outer_norm(u + block.inner(u))
    for condition in conditions:
        torch.testing.assert_close(block(x, condition, memory, sight), plain)
    torch.nn.init.normal_(block.modulation.weight)
    first, second = (block(x, condition, memory, sight) for condition in conditions)
    assert (first - second).abs().max() > 0.01


@pytest.mark.parametrize("faithful", [False, True])
def test_last_slot_alone_is_the_last_of_all(faithful: bool) -> None:
    made = model(blocks=3, faithful=faithful)
    context, knowledge = made._conditions(HISTORY)
    state = torch.randn(knowledge.shape, generator=torch.Generator().manual_seed(0))
    step = torch.tensor([17])
    whole, last = made.denoiser(state, step, context), made.denoiser(state, step, context, last=True)
    assert last.shape == (4, 1, 8)
    torch.testing.assert_close(last, whole[:, -1:])


def test_each_step_and_the_history_matter() -> None:
    made = model()
    context, knowledge = made._conditions(HISTORY)
    other, _ = made._conditions(HISTORY.flip(0))
    early, late = (made.denoiser(knowledge, torch.tensor([t]), context)[:, -1] for t in (1, 50))
    assert (early - late).abs().max() > 1e-3
    for part in ("memory", "history"):  # cross-attention and adaptive norm, each by itself
        mixed = replace(context, **{part: getattr(other, part)})
        assert (made.denoiser(knowledge, torch.tensor([1]), mixed)[:, -1] - early).abs().max() > 1e-3


# Scores


@pytest.mark.parametrize("used", [1, 2, 5, 50])
def test_any_number_of_sampling_steps(used: int) -> None:
    made = model(sampling_steps=used)
    noise = noise_for(made, 4)
    assert made.noise_shape(3) == (1, used, LENGTH, 8)
    scores = made.catalogue_scores(HISTORY, noise)
    assert (scores.shape, scores.dtype) == ((4, N_ITEMS + 1), torch.float32)
    assert torch.isneginf(scores[:, 0]).all()
    assert torch.isfinite(scores[:, 1:]).all()
    assert torch.equal(scores, made.catalogue_scores(HISTORY, noise.flatten(1)))
    assert not torch.allclose(scores, made.catalogue_scores(HISTORY, noise_for(made, 4, seed=1)))


def test_two_sampling_steps_written_out() -> None:
    made = model(sampling_steps=2)
    noise = noise_for(made, 4).float()[:, 0]
    context, knowledge = made._conditions(HISTORY)
    state = noise[:, 0] + 0.1 * knowledge
    guess = made.denoiser(state, torch.tensor([50]), context)
    a, b = signal_left(50)[[50, 25]]
    mean = math.sqrt(b) * (1 - a / b) / (1 - a) * guess + math.sqrt(a / b) * (1 - b) / (1 - a) * state
    state = mean + math.sqrt((1 - b) * (1 - a / b) / (1 - a)) * noise[:, 1]
    guess = made.denoiser(state, torch.tensor([25]), context)[:, -1]
    expected = guess @ made.items.weight.T
    scores = made.catalogue_scores(HISTORY, noise)
    torch.testing.assert_close(scores[:, 1:], expected[:, 1:], atol=1e-5, rtol=1e-5)


def test_no_noise_means_zero_noise() -> None:
    made = model(samples=2)
    zeros = torch.zeros(4, *made.noise_shape(LENGTH))
    torch.testing.assert_close(made.catalogue_scores(HISTORY, None), made.catalogue_scores(HISTORY, zeros))


def test_samples_are_averaged() -> None:
    single, double = model(samples=1), model(samples=2)
    noise = noise_for(double, 4)
    each = [single.catalogue_scores(HISTORY, noise[:, i])[:, 1:] for i in (0, 1)]
    mean = double.catalogue_scores(HISTORY, noise)[:, 1:]
    torch.testing.assert_close(mean, (each[0] + each[1]) / 2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("faithful", [False, True])
def test_rows_do_not_depend_on_the_batch(faithful: bool) -> None:
    made = model(faithful=faithful, steps=25)
    history = torch.cat([HISTORY, HISTORY.roll(1, 1).sort(1).values])
    noise = noise_for(made, 8)
    together = made.catalogue_scores(history, noise)
    alone = [made.catalogue_scores(history[i : i + 1], noise[i : i + 1]) for i in range(8)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("faithful", [False, True])
def test_trimming_the_padding_changes_nothing(faithful: bool) -> None:
    made = model(faithful=faithful, steps=25)
    noise = noise_for(made, 2)
    full = made.catalogue_scores(HISTORY[:2], noise)
    for columns in (3, 4, 5):
        torch.testing.assert_close(made.catalogue_scores(HISTORY[:2, -columns:], noise), full, atol=1e-5, rtol=0)


def test_full_history_gives_up_its_oldest_item_in_the_state_alone() -> None:
    made = model()
    assert made._sequence(HISTORY[2:3], torch.tensor([8])).tolist() == [[2, 3, 4, 5, 6, 8]]
    assert made._sequence(HISTORY[2:3, 2:], torch.tensor([8])).tolist() == [[3, 4, 5, 6, 8]]
    assert made._sequence(HISTORY[:1, -3:], torch.tensor([8])).tolist() == [[4, 9, 2, 8]]
    older = HISTORY[2:3].clone()
    older[0, 0] = 20  # still in the clean history
    noise = noise_for(made, 1)
    assert not torch.allclose(made.catalogue_scores(HISTORY[2:3], noise), made.catalogue_scores(older, noise))


# What `faithful` changes


def _moved_by_pad_row(made: DCRec) -> Tensor:
    noise = noise_for(made, 4)
    before = made.catalogue_scores(HISTORY, noise)[:, 1:]
    with torch.no_grad():
        made.items.weight[0] += torch.linspace(-3.0, 3.0, made.width)
    return (made.catalogue_scores(HISTORY, noise)[:, 1:] - before).abs().amax(1)


def test_pad_embedding_counts_in_faithful_mode_only() -> None:
    assert _moved_by_pad_row(model()).max() == 0.0
    moved = _moved_by_pad_row(model(faithful=True, steps=25))
    assert moved[[0, 1, 3]].min() > 0.1
    assert 1e-5 < moved[2] < 1e-2  # no padding in this row, but the noise holds the unknown item's pad row


def test_quirk_padded_queries_are_blanked_instead_of_keys() -> None:
    past = torch.tensor([[0, 0, 0, 4, 9, 2]])
    ours, theirs = model()._sight(past), model(faithful=True)._sight(past)
    assert ours.queries is None
    assert ours.own is not None
    assert ours.history is not None
    assert ours.own.flatten().tolist() == [False, False, True, True, True, True]  # three items and the next one
    assert ours.history.flatten().tolist() == [False, False, False, True, True, True]
    assert theirs.own is theirs.history is None
    assert theirs.queries is not None
    assert theirs.queries.flatten().tolist() == [0, 0, 1, 1, 1, 1]


def test_empty_history_leaves_no_query_without_keys() -> None:
    sight = model()._sight(torch.zeros(1, 4, dtype=torch.long))
    assert sight.own is not None
    assert sight.history is not None
    assert sight.own.flatten().tolist() == [False, False, False, True]
    assert sight.history.all()


def test_blanked_query_attends_evenly() -> None:
    attention = Block(8, 2, 0.0).own
    x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    queries = torch.tensor([0.0, 1, 1, 1, 1])[None, None, :, None]
    out = attention(x, attention.keys_values(x), queries=queries, keys=None)
    torch.testing.assert_close(out[0, 0], attention.out(attention.value(x)[0].mean(0)))
    assert not torch.allclose(out[0, 1], out[0, 0])


def test_quirk_every_batch_has_full_length() -> None:
    assert model()._slots(3) == 4
    assert model()._slots(LENGTH) == LENGTH
    assert model(faithful=True)._slots(3) == LENGTH


def test_quirk_padding_has_an_embedding() -> None:
    ids = torch.tensor([[0, 5]])
    ours, theirs = model()._blank(ids), model(faithful=True)._blank(ids)
    assert ours[0, 0].abs().max() == 0
    assert theirs[0, 0].abs().max() > 0.1
    assert torch.equal(ours[0, 1], theirs[0, 1])


def test_quirk_prior_counts_padding() -> None:
    guess = torch.tensor([[[4.0], [2.0], [1.0]]])  # squares 16, 4, 1; the first slot is padding
    sequence = torch.tensor([[0, 3, 8]])
    assert model()._prior(guess, sequence).item() == pytest.approx(2.5)
    assert model(faithful=True)._prior(guess, sequence).item() == pytest.approx(7.0)


def test_quirk_pad_row_is_ranked() -> None:
    made = model(faithful=True, steps=25)
    scores = made.catalogue_scores(HISTORY, noise_for(made, 4))
    assert torch.isfinite(scores).all()
    guess = torch.randn(2, 8)
    torch.testing.assert_close(made._scores(guess), guess @ made.items.weight.T)


def test_quirk_all_steps_are_sampled() -> None:
    assert model(sampling_steps=5).times == (50, 40, 30, 20, 10)
    assert model(faithful=True, sampling_steps=5).times == tuple(range(50, 0, -1))


# Training


def test_loss_written_out() -> None:
    made = model(knowledge_ratio=0.3)  # in eval mode, so that no dropout blurs the comparison
    history, target = HISTORY[:3], torch.tensor([5, 6, 7])
    loss = made.training_loss(history, target, epoch=5, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    step = torch.randint(1, 51, (3,), generator=generator)
    noise = torch.randn(3, LENGTH, 8, generator=generator)
    signal = torch.from_numpy(signal_left(50)).float()[step].view(3, 1, 1)
    sequence = torch.tensor([[0, 0, 4, 9, 2, 5], [0, 0, 0, 0, 7, 6], [2, 3, 4, 5, 6, 7]])
    clean = made._embed(sequence)
    context, knowledge = made._conditions(history)
    state = signal.sqrt() * clean + (1 - signal).sqrt() * (noise + 0.3 * knowledge)
    guess = made.denoiser(state, step, context)
    weight = 0.2 * (10 / 15) ** 9 + 0.05
    entropy = -torch.log_softmax(guess[:, -1] @ made.items.weight[1:].T, 1)[range(3), target - 1].mean()
    error = ((guess[:, -1] - clean[:, -1]) ** 2).mean()
    prior = (guess**2)[sequence > 0].mean()
    assert loss.item() == pytest.approx((weight * entropy + (1 - weight) * error + prior).item(), rel=1e-5)


@pytest.mark.parametrize("faithful", [False, True])
def test_every_parameter_learns_and_draws_repeat(faithful: bool) -> None:
    made = model(faithful=faithful).train()
    losses = []
    for _ in range(2):
        torch.manual_seed(5)
        generator = torch.Generator().manual_seed(1)
        losses.append(made.training_loss(HISTORY, torch.tensor([5, 6, 7, 8]), epoch=0, generator=generator))
    assert torch.equal(losses[0], losses[1])
    torch.autograd.backward(losses[0])
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert ".key.bias" in name or parameter.grad.abs().max() > 0, name  # a key's bias cancels in the softmax
    assert made.items.weight.grad is not None
    assert bool(made.items.weight.grad[0].any()) == faithful


@pytest.fixture(scope="module")
def cyclic() -> tuple[DCRec, list[float]]:
    """A model trained on 50 items that follow one another in a circle, and its losses."""
    torch.manual_seed(0)
    made = DCRec(50, width=32, blocks=1, length=8, embedding_dropout=0.1)
    generator, losses = torch.Generator().manual_seed(1), []
    optimiser = torch.optim.Adam(made.parameters(), lr=1e-2)
    for _ in range(200):
        first = torch.randint(0, 50, (64, 1), generator=generator)
        history = (first + torch.arange(8)) % 50 + 1
        history[torch.arange(8) < torch.randint(0, 7, (64, 1), generator=generator)] = 0
        loss = made.training_loss(history, (first[:, 0] + 8) % 50 + 1, epoch=0, generator=generator)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    return made.eval(), losses


def test_toy_is_learnt(cyclic: tuple[DCRec, list[float]]) -> None:
    _, losses = cyclic
    assert np.mean(losses[-20:]) < 0.3 * np.mean(losses[:20])


@pytest.mark.parametrize("used", [1, 2, 5, 50])
def test_toy_ranks_the_next_item_first(cyclic: tuple[DCRec, list[float]], used: int) -> None:
    made = DCRec(50, width=32, blocks=1, length=8, embedding_dropout=0.1, sampling_steps=used).eval()
    made.load_state_dict(cyclic[0].state_dict())
    first = torch.arange(50)[:, None]
    noise = torch.from_numpy(draws(1, "toy", np.arange(50)).normal(math.prod(made.noise_shape(8))))
    for seen in (2, 8):
        history = (first + torch.arange(8 - seen, 8)) % 50 + 1
        top = made.catalogue_scores(history, noise).argmax(1)
        assert (top == (first[:, 0] + 8) % 50 + 1).float().mean() >= 0.95


# Costs and refusals


@pytest.mark.parametrize("settings", [{}, {"sampling_steps": 1, "samples": 2}, {"blocks": 3, "heads": 4, "length": 5}])
@pytest.mark.parametrize("columns", [3, 5])
def test_flops_are_what_a_counter_counts(settings: dict[str, int], columns: int) -> None:
    made = DCRec(40, width=16, **settings).eval()  # type: ignore[arg-type]
    noise = torch.zeros(1, *made.noise_shape(columns))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        made.catalogue_scores(torch.arange(1, columns + 1)[None], noise)
    assert made.flops(columns) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"steps": 20}, "steps = 20"),
        ({"sampling_steps": 0}, "sampling_steps = 0"),
        ({"sampling_steps": 51}, "sampling_steps = 51"),
        ({"heads": 3}, "heads = 3"),
        ({"blocks": 0}, "blocks = 0"),
        ({"samples": 0}, "samples = 0"),
        ({"lambda_floor": 0.9}, "lambda_floor = 0.9"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, int], place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        model(**settings)


def test_misuse_is_refused() -> None:
    made = model()
    with pytest.raises(ContractError, match="7 columns"):
        made.catalogue_scores(torch.ones(2, 7, dtype=torch.long), None)
    with pytest.raises(ContractError, match="7 columns"):
        made.noise_shape(7)
    with pytest.raises(ContractError, match="draw 240 standard normals"):  # 1 sample * 5 steps * 6 slots * 8 wide
        made.catalogue_scores(HISTORY, torch.zeros(4, 239))
    with pytest.raises(ContractError, match=r"eval\(\)"):
        made.train().catalogue_scores(HISTORY, None)
