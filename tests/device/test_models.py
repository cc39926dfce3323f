"""The three rerankers: what padding, later items and order may change, their costs, and the arithmetic itself."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cloud.losses import candidate_loss, position_loss
from cloud.options import Training
from cloud.ranking import through_forward
from device.check import check_device_model
from device.models.din import DIN
from device.models.gru4rec import GRU4Rec
from device.models.sasrec import SASRec

N_ITEMS, LENGTH, WIDTH = 30, 6, 8
KINDS: list[Callable[..., Any]] = [SASRec, GRU4Rec, DIN]
STATEFUL: list[Callable[..., Any]] = [SASRec, GRU4Rec]
HISTORY = torch.tensor([[0, 0, 0, 4, 9, 2], [0, 0, 0, 0, 0, 7], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0]])
CANDIDATES = torch.tensor([[3, 8, 2], [7, 30, 1], [6, 5, 29], [1, 2, 3]])


def model(kind: Callable[..., Any], **options: Any) -> Any:
    """Weights ten times larger than those drawn, so that a mistake shows."""
    torch.manual_seed(1)
    made = kind(N_ITEMS, **{"width": WIDTH, "length": LENGTH, **options}).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        made.item.weight[0] = 0
    return made


def catalogue(made: Any, history: Tensor) -> Tensor:
    """Scores of all items: by the model's own product, or through `forward` where a model has none."""
    scores: Tensor = made.catalogue(history) if hasattr(made, "catalogue") else through_forward(made, history)
    return scores


@pytest.mark.parametrize("kind", KINDS)
def test_the_conformance_kit_passes(kind: Callable[..., Any]) -> None:
    report = check_device_model(model(kind), n_items=N_ITEMS, length=LENGTH)
    report.raise_on_failure()
    assert report.ok
    assert len(report.findings) > 5


@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_the_left_changes_nothing(kind: Callable[..., Any]) -> None:
    made = model(kind, length=12)
    with torch.inference_mode():
        scores = made(HISTORY, CANDIDATES)
        longer = made(nn.functional.pad(HISTORY, (5, 0)), CANDIDATES)
        for row, count in ((0, 3), (1, 1), (2, 6)):
            shorter = made(HISTORY[row : row + 1, -count:], CANDIDATES[row : row + 1])
            assert torch.allclose(shorter[0], scores[row], atol=1e-5)
    assert torch.allclose(longer, scores, atol=1e-5)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_newest_items_count(kind: Callable[..., Any]) -> None:
    made = model(kind, length=3)
    with torch.inference_mode():
        assert torch.equal(made(HISTORY, CANDIDATES), made(HISTORY[:, -3:], CANDIDATES))
        assert torch.equal(catalogue(made, HISTORY), catalogue(made, HISTORY[:, -3:]))


@pytest.mark.parametrize("kind", STATEFUL)
@settings(max_examples=30)
@given(data=st.data())
def test_later_items_do_not_change_earlier_states(kind: Callable[..., Any], data: st.DataObject) -> None:
    made = model(kind)
    start = data.draw(st.integers(0, LENGTH - 2))
    cut = data.draw(st.integers(start + 1, LENGTH - 1))
    items = st.lists(st.integers(1, N_ITEMS), min_size=LENGTH, max_size=LENGTH)
    one, other = torch.tensor([data.draw(items), data.draw(items)])
    other[:cut] = one[:cut]
    one[:start] = other[:start] = 0
    with torch.inference_mode():
        first, second = made.states(one[None]), made.states(other[None])
        prefix = made.states(one[None, :cut])
    assert torch.allclose(first[0, start:cut], second[0, start:cut], atol=1e-5)
    # training on all positions at once is the same as one history per position; SASRec counts positions from the end
    if kind is GRU4Rec:
        assert torch.allclose(first[0, start:cut], prefix[0, start:], atol=1e-5)


@pytest.mark.parametrize("kind", STATEFUL)
def test_earlier_items_do_change_later_states(kind: Callable[..., Any]) -> None:
    made, other = model(kind), HISTORY[2:3].clone()
    other[0, 0] = 20
    with torch.inference_mode():
        change = (made.states(HISTORY[2:3]) - made.states(other)).abs().amax((0, 2))
    assert (change > 1e-4).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_padding_learns_nothing(kind: Callable[..., Any], loss: Any) -> None:
    made, options = model(kind).train(), Training(loss=loss, negatives=9)
    optimizer = torch.optim.AdamW(made.parameters(), 0.1, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        if kind in STATEFUL:
            target = torch.where(HISTORY > 0, HISTORY % N_ITEMS + 1, 0)
            value = position_loss(made, HISTORY, target, options=options, generator=generator)
        else:
            value = candidate_loss(made, HISTORY, CANDIDATES[:, 0], options=options, generator=generator)
        optimizer.zero_grad()
        torch.autograd.backward(value)
        gradient = made.item.weight.grad
        assert (gradient[0] == 0).all()
        assert (gradient[HISTORY[2]] != 0).any(1).all()
        optimizer.step()
    assert (made.item.weight[0] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_catalogue_is_forward_over_all_ids(kind: Callable[..., Any]) -> None:
    made = model(kind)
    with torch.inference_mode():
        whole = catalogue(made, HISTORY)
        asked = made(HISTORY, torch.arange(1, N_ITEMS + 1).expand(len(HISTORY), -1))
    assert whole.shape == (len(HISTORY), N_ITEMS + 1)
    assert torch.allclose(whole[:, 1:], asked, atol=1e-5)


def test_a_large_catalogue_is_scored_in_slices() -> None:
    torch.manual_seed(0)
    made = DIN(2500, width=4, length=3).eval()
    ids = torch.tensor([[1, 1023, 1024, 1025, 2048, 2500]])
    with torch.inference_mode():
        whole = through_forward(made, torch.tensor([[5, 6, 7]]))
        assert torch.allclose(whole[0, ids[0]], made(torch.tensor([[5, 6, 7]]), ids)[0], atol=1e-6)
    assert whole.shape == (1, 2501)


@pytest.mark.parametrize(
    ("kind", "options"), [(SASRec, {"blocks": 1}), (SASRec, {"blocks": 3}), (GRU4Rec, {"layers": 2})]
)
def test_forward_uses_the_last_of_all_states(kind: Callable[..., Any], options: dict[str, int]) -> None:
    """What is trained at every position is what is served at the newest one."""
    made = model(kind, **options)
    with torch.inference_mode():
        scores = (made.states(HISTORY)[:, -1:] * made.item(CANDIDATES)).sum(-1)
        assert torch.allclose(made(HISTORY, CANDIDATES), scores, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_come_from_the_seed_alone(kind: Callable[..., Any]) -> None:
    made, other = model(kind), kind(N_ITEMS, width=WIDTH, length=LENGTH)
    for each in (made, other):
        torch.manual_seed(5)
        each.reset()
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), other.parameters(), strict=True))
    assert (made.item.weight[0] == 0).all()
    assert (made.item.weight[1:].std() > 0.01).all()


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_for_training_only(kind: Callable[..., Any]) -> None:
    made = model(kind, dropout=0.5)
    with torch.inference_mode():
        assert torch.equal(made(HISTORY, CANDIDATES), made(HISTORY, CANDIDATES))
        made.train()
        assert not torch.equal(made(HISTORY, CANDIDATES), made(HISTORY, CANDIDATES))


# Costs. Two operations per multiply-add; d = 8, L = 5, C = 10.


def test_flops_of_sasrec() -> None:
    # a block for all 5 positions: query, key, value, output and two feed-forward maps, 5 * 6 * 64 = 1,920, and scores
    # and mixtures of attention, 5 * 2 * 5 * 8 = 400. The last block makes one state only: keys and values of all
    # positions 5 * 2 * 64 = 640, the four other maps once 4 * 64 = 256, attention 2 * 5 * 8 = 80. Candidates 10 * 8.
    assert model(SASRec, blocks=1).flops(5, 10) == 2 * (640 + 256 + 80 + 80)
    assert model(SASRec, blocks=3).flops(5, 10) == 2 * (2 * (1920 + 400) + 640 + 256 + 80 + 80)


def test_flops_of_gru4rec() -> None:
    # three gates, each an 8 x 8 map of input and state: 5 * 6 * 64 = 1,920 per layer; the output
    # map 5 * 64 = 320; candidates 10 * 8 = 80
    assert model(GRU4Rec).flops(5, 10) == 2 * (1920 + 320 + 80)
    assert model(GRU4Rec, layers=2).flops(5, 10) == 2 * (2 * 1920 + 320 + 80)


def test_flops_of_din() -> None:
    # keys and values of the history 2 * 5 * 64 = 640; per candidate: query 64, attention 2 * 5 * 8 = 80,
    # head 16 * 128 + 128 * 64 + 64 = 10,304, together 10,448
    assert model(DIN).flops(5, 10) == 2 * (640 + 10 * 10_448)


@pytest.mark.parametrize("kind", [SASRec, DIN, pytest.param(GRU4Rec)])
@pytest.mark.parametrize(("length", "candidates"), [(5, 10), (6, 3), (1, 1)])
def test_flops_are_those_that_torch_counts(kind: Callable[..., Any], length: int, candidates: int) -> None:
    made = model(kind)
    history, pool = torch.ones(1, length).long(), torch.ones(1, candidates).long()
    with FlopCounterMode(display=False) as counted, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        made(history, pool)
    assert made.flops(length, candidates) == counted.get_total_flops()


# The arithmetic, written out once more with loops.


def table_of(made: nn.Module) -> dict[str, NDArray[np.float64]]:
    return {name: tensor.detach().double().numpy() for name, tensor in made.state_dict().items()}


def normalised(x: NDArray[np.float64], weight: NDArray[np.float64], bias: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias)


def softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(x - x.max()) / np.exp(x - x.max()).sum())


def test_sasrec_with_loops() -> None:
    made = model(SASRec, blocks=1, heads=2)
    w, items, half = table_of(made), [4, 9, 2], WIDTH // 2
    x = np.stack([w["item.weight"][item] + w["position.weight"][2 - at] for at, item in enumerate(items)])
    after = x.copy()
    for at in range(3):
        mixed = []
        for head in (slice(0, half), slice(half, WIDTH)):
            parts = []
            for row in range(at + 1):
                y = normalised(x[row], w["blocks.0.norm_attention.weight"], w["blocks.0.norm_attention.bias"])
                parts.append((w["blocks.0.qkv.weight"] @ y + w["blocks.0.qkv.bias"]).reshape(3, WIDTH)[:, head])
            query = parts[at][0]
            weight = softmax(np.array([query @ key for _, key, _ in parts]) / math.sqrt(half))
            mixed.append(sum(share * value for share, (_, _, value) in zip(weight, parts, strict=True)))
        after[at] += w["blocks.0.out.weight"] @ np.concatenate(mixed) + w["blocks.0.out.bias"]
        y = normalised(after[at], w["blocks.0.norm_ffn.weight"], w["blocks.0.norm_ffn.bias"])
        inner = w["blocks.0.up.weight"] @ y + w["blocks.0.up.bias"]
        inner = 0.5 * inner * (1 + np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        after[at] += w["blocks.0.down.weight"] @ inner + w["blocks.0.down.bias"]
    states = np.stack([normalised(row, w["norm.weight"], w["norm.bias"]) for row in after])
    with torch.inference_mode():
        got = made.states(torch.tensor([[0, 0, 0, *items]]))[0, 3:]
        scores = made(torch.tensor([[0, 0, 0, *items]]), CANDIDATES[:1])[0]
    assert got.numpy() == pytest.approx(states, abs=1e-4)
    assert scores.numpy() == pytest.approx(w["item.weight"][CANDIDATES[0].numpy()] @ states[-1], abs=1e-4)


def test_gru4rec_with_loops() -> None:
    made = model(GRU4Rec)
    w, state, states = table_of(made), np.zeros(WIDTH), []

    def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1 / (1 + np.exp(-x))

    for item in (4, 9, 2):  # Cho et al. 2014, with the reset gate after the map, as torch documents it
        given = (w["gru.weight_ih_l0"] @ w["item.weight"][item] + w["gru.bias_ih_l0"]).reshape(3, WIDTH)
        own = (w["gru.weight_hh_l0"] @ state + w["gru.bias_hh_l0"]).reshape(3, WIDTH)
        reset, update = sigmoid(given[0] + own[0]), sigmoid(given[1] + own[1])
        state = (1 - update) * np.tanh(given[2] + reset * own[2]) + update * state
        states.append(w["out.weight"] @ state + w["out.bias"])
    with torch.inference_mode():
        got = made.states(HISTORY[:1])[0, 3:]  # 0 0 0 4 9 2: the padding is moved out of the way and back
    assert got.numpy() == pytest.approx(np.stack(states), abs=1e-5)


def test_din_with_loops() -> None:
    made = model(DIN)
    w, scores = table_of(made), []
    past = w["item.weight"][[4, 9, 2]]
    keys, values = (past @ w[f"{name}.weight"].T + w[f"{name}.bias"] for name in ("key", "value"))
    for candidate in w["item.weight"][CANDIDATES[0].numpy()]:
        query = w["query.weight"] @ candidate + w["query.bias"]
        x = np.concatenate([candidate, softmax(keys @ query / math.sqrt(WIDTH)) @ values])
        for layer in (0, 2):
            x = np.tanh(w[f"head.{layer}.weight"] @ x + w[f"head.{layer}.bias"])
        scores.append(float((w["head.4.weight"] @ x + w["head.4.bias"])[0]))
    with torch.inference_mode():
        assert made(HISTORY[:1], CANDIDATES[:1])[0].tolist() == pytest.approx(scores, abs=1e-4)


@given(st.permutations(range(LENGTH)))
def test_din_does_not_know_the_order(order: list[int]) -> None:
    made = model(DIN)
    with torch.inference_mode():
        scores, mixed = made(HISTORY, CANDIDATES), made(HISTORY[:, order], CANDIDATES)
    assert torch.allclose(scores, mixed, atol=1e-5)


@pytest.mark.parametrize("kind", STATEFUL)
def test_the_others_do_know_the_order(kind: Callable[..., Any]) -> None:
    made = model(kind)
    with torch.inference_mode():
        scores, mixed = made(HISTORY[2:3], CANDIDATES[2:3]), made(HISTORY[2:3].flip(1), CANDIDATES[2:3])
    assert (scores - mixed).abs().max() > 1e-3


def test_an_empty_history_in_din_attends_to_nothing() -> None:
    made = model(DIN)
    with torch.inference_mode():
        target = made.item(CANDIDATES[3:])
        alone: Tensor = made.head(torch.cat([target, torch.zeros_like(target)], dim=-1))[..., 0]
        assert torch.allclose(made(HISTORY[3:], CANDIDATES[3:]), alone, atol=1e-6)


def test_an_empty_history_in_gru4rec_has_no_state() -> None:
    with torch.inference_mode():
        assert not model(GRU4Rec).states(HISTORY[3:]).any()
        assert not model(GRU4Rec)(HISTORY[3:, :2], CANDIDATES[3:]).any()
