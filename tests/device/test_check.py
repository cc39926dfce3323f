"""Each planted mistake must be found by the check that is there for it, with its cure in the message."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from device.check import Report, check_device_model
from device.errors import ContractError
from device.model import Items, Parameters, Scores
from device.models.din import DIN
from device.models.gru4rec import GRU4Rec
from device.models.sasrec import SASRec

ALL = ["init", "score", "arguments", "repeated calls", "batch", "longer padding", "no padding", "candidate order"]
LAST = ["empty slots", "history order"]
Score = Callable[[Parameters, Items, Items], Scores]


class Good:
    """A numpy model: candidates near the mean of the history's embeddings, the newest item counting twice."""

    def init(self, rng: np.random.Generator) -> Parameters:
        return {"item": rng.normal(size=(51, 4)).astype(np.float32)}

    def score(self, params: Parameters, history: Items, candidates: Items) -> Scores:
        table = params["item"]
        real = history != 0
        total = (table[history] * real[:, :, None]).sum(1) + table[history[:, -1]] * real[:, -1:]
        mean = total / np.maximum(1, real.sum(1, keepdims=True) + real[:, -1:])
        return np.einsum("bd,bcd->bc", mean, table[candidates]).astype(np.float32)


class Wrong(Good):
    """The good model with a mistake after or instead of its scores."""

    def __init__(self, mistake: Score) -> None:
        self.mistake = mistake

    def score(self, params: Parameters, history: Items, candidates: Items) -> Scores:
        return self.mistake(params, history, candidates)


def good(params: Parameters, history: Items, candidates: Items) -> Scores:
    return Good().score(params, history, candidates)


def failed(report: Report) -> dict[str, str]:
    return {finding.name: finding.message for finding in report.findings if not finding.ok}


def squeezed(p: Parameters, h: Items, c: Items) -> Scores:
    return good(p, h, c).squeeze()


def double(p: Parameters, h: Items, c: Items) -> Scores:
    return good(p, h, c).astype(np.float64)


def nan_without_history(p: Parameters, h: Items, c: Items) -> Scores:
    return good(p, h, c) + np.where((h != 0).any(1, keepdims=True), np.float32(0), np.float32(np.nan))


def padding_counted(p: Parameters, h: Items, c: Items) -> Scores:
    return good(p, h, c) / np.float32(h.shape[1])


def padding_as_item(p: Parameters, h: Items, c: Items) -> Scores:
    return np.einsum("bd,bcd->bc", p["item"][h].sum(1), p["item"][c]).astype(np.float32)


def normalising_params(p: Parameters, h: Items, c: Items) -> Scores:
    p["item"][:] = np.clip(p["item"], -0.5, 0.5)  # the second call changes nothing more
    return good(p, h, c)


def sorting_candidates(p: Parameters, h: Items, c: Items) -> Scores:
    c.sort(axis=1)
    return good(p, h, c)


def centred_over_batch(p: Parameters, h: Items, c: Items) -> Scores:
    scores = good(p, h, c)
    return scores - scores.mean(0, keepdims=True)


def unseeded(p: Parameters, h: Items, c: Items) -> Scores:
    return good(p, h, c) + np.random.default_rng().normal(0, 1e-3, c.shape).astype(np.float32)


def by_position(p: Parameters, h: Items, c: Items) -> Scores:
    return good(p, h, c) - np.float32(0.01) * np.arange(c.shape[1], dtype=np.float32)


def transposed(p: Parameters, h: Items, c: Items) -> Scores:
    return good(p, h, c).T


def newest_first(p: Parameters, h: Items, c: Items) -> Scores:
    count = (h != 0).sum(1)
    back = np.zeros_like(h)
    for row, items in enumerate(count):
        back[row, len(h[row]) - items :] = h[row, len(h[row]) - items :][::-1]
    weight = np.where(back != 0, np.float32(0.5) ** np.arange(h.shape[1])[::-1], 0).astype(np.float32)
    return np.einsum("bl,bld,bcd->bc", weight, p["item"][back], p["item"][c]).astype(np.float32)


def without_the_newest(p: Parameters, h: Items, c: Items) -> Scores:
    return good(p, np.pad(h[:, :-1], ((0, 0), (1, 0))), c)


def first_column(p: Parameters, h: Items, c: Items) -> Scores:
    return np.einsum("bd,bcd->bc", p["item"][h[:, 0]], p["item"][c])


def writing_history(p: Parameters, h: Items, c: Items) -> Scores:
    h[h == 0] = 1
    return good(p, h, c)


def standardised(p: Parameters, h: Items, c: Items) -> Scores:
    scores = good(p, h, c)
    return scores - scores.mean(1, keepdims=True)


KEPT = np.empty((64, 64), np.float32)


def same_memory(p: Parameters, h: Items, c: Items) -> Scores:
    out = KEPT[: len(h), : c.shape[1]]
    out[:] = good(p, h, c)
    return out


def short_table(p: Parameters, h: Items, c: Items) -> Scores:
    return good({"item": p["item"][:50]}, h, c)  # row 50 is lacking


def as_list(p: Parameters, h: Items, c: Items) -> Scores:
    return good(p, h, c).tolist()  # type: ignore[no-any-return]


def raising(p: Parameters, h: Items, c: Items) -> Scores:
    raise IndexError("out of my table")


@pytest.mark.parametrize(
    ("mistake", "check", "cure"),
    [
        (squeezed, "score", "do not squeeze"),
        (double, "score", "dtype float64; return float32"),
        (as_list, "score", "returned list; return a numpy array"),
        (nan_without_history, "score", "rows [3] (row 3 has an empty history: do not divide by its length)"),
        (raising, "score", "raised IndexError: out of my table"),
        (normalising_params, "arguments", "score changed params (item), which devices share; copy"),
        (sorting_candidates, "arguments", "changed history or candidates; copy"),
        (unseeded, "repeated calls", "take out dropout and unseeded randomness"),
        (centred_over_batch, "batch", "no statistics over the batch"),
        (padding_counted, "longer padding", "mask id 0"),
        (padding_counted, "no padding", "divide by the number of items instead of L"),
        (padding_counted, "no padding", "scores differ by up to"),
        (padding_as_item, "longer padding", "mask id 0"),
        (padding_as_item, "no padding", "do not treat id 0 as an item"),
        (by_position, "candidate order", "score each candidate by its id"),
        (transposed, "score", "return one score per candidate, [B, C]"),
        (short_table, "score", "a table has n_items + 1 rows"),
        (writing_history, "arguments", "changed history or candidates; copy"),
        (same_memory, "repeated calls", "return a new array"),
        (standardised, "empty slots", "no statistics over the list"),
        (newest_first, "history order", "the newest is history[:, -1]: read from there, and do not reverse"),
        (without_the_newest, "history order", "sways scores, and not the newest"),
        (first_column, "history order", "ids are oldest first"),
    ],
)
def test_a_planted_mistake_is_found_with_its_cure(mistake: Score, check: str, cure: str):
    report = check_device_model(Wrong(mistake))
    assert cure in failed(report)[check]
    with pytest.raises(ContractError, match=f"Wrong, {check}: "):
        report.raise_on_failure()


def shrinking_params(p: Parameters, h: Items, c: Items) -> Scores:
    p["item"][:] *= np.float32(0.9)  # every call changes something more
    return good(p, h, c)


@pytest.mark.parametrize(
    "mistake",
    [by_position, centred_over_batch, normalising_params, shrinking_params, unseeded, same_memory, newest_first],
)
def test_a_mistake_is_not_blamed_on_another_check(mistake: Score):
    assert len(failed(check_device_model(Wrong(mistake)))) == 1


def mean_only(p: Parameters, h: Items, c: Items) -> Scores:
    real = (h != 0).sum(1, keepdims=True)
    return np.einsum("bd,bcd->bc", p["item"][h].sum(1) / np.maximum(real, 1), p["item"][c]).astype(np.float32)


def popularity(p: Parameters, h: Items, c: Items) -> Scores:
    return p["item"][c, 0]


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (mean_only, "if it should, weigh items by their distance from history[:, -1]"),
        (popularity, "do not change with the history; if they should"),
    ],
)
def test_no_order_and_no_history_are_told_and_allowed(score: Score, said: str):
    class Zero(Wrong):
        def init(self, rng: np.random.Generator) -> Parameters:
            table = super().init(rng)["item"].copy()
            table[0] = 0
            return {"item": table}

    report = check_device_model(Zero(score))
    assert failed(report) == {}
    assert said in report.findings[-1].message


def test_a_good_numpy_model_passes():
    report = check_device_model(Good())
    assert failed(report) == {}
    assert [finding.name for finding in report.findings] == [*ALL, *LAST]
    assert report.findings[-1].message == "the order of the history matters"
    report.raise_on_failure()


@pytest.mark.parametrize(("make", "order"), [(DIN, "does not matter"), (SASRec, "matters"), (GRU4Rec, "matters")])
def test_a_good_module_passes_as_it_is(make: Callable[..., nn.Module], order: str):
    report = check_device_model(make(50, width=8))
    assert failed(report) == {}
    assert f"the order of the history {order}" in report.findings[-1].message
    assert report.model == make.__name__


def test_a_module_that_normalises_over_the_batch_is_found():
    class BatchNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.item = nn.Embedding(51, 4, padding_idx=0)
            self.norm = nn.BatchNorm1d(4, track_running_stats=False)

        def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
            state = self.item(history).sum(1)
            state = self.norm(state) if len(state) > 1 else state
            return torch.einsum("bd,bcd->bc", state, self.item(candidates))

    assert "batch norm in eval mode" in failed(check_device_model(BatchNorm()))["batch"]


class Answers(nn.Module):
    """Does something to the product of the newest item and each candidate."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.item, self.change = nn.Embedding(51, 4, padding_idx=0), change

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        return self.change(torch.einsum("bd,bcd->bc", self.item(history[:, -1]), self.item(candidates)))


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        (lambda scores: scores.double(), "forward returned torch.float64; return torch.float32"),
        (lambda scores: scores.long(), "forward returned torch.int64; return torch.float32"),
        (lambda scores: scores.squeeze(), "return one score per candidate, [B, C], and do not squeeze sizes of 1"),
    ],
)
def test_what_a_module_answers(change: Callable[[Tensor], Tensor], cure: str):
    message = failed(check_device_model(Answers(change)))["score"]
    assert cure in message
    assert "must pass without an exception" not in message  # what names its cure is left at that
    assert failed(check_device_model(Answers(lambda scores: scores))) == {}


class Init(Good):
    def __init__(self, init: Callable[[np.random.Generator], Parameters]) -> None:
        self.make = init

    def init(self, rng: np.random.Generator) -> Parameters:
        return self.make(rng)


@pytest.mark.parametrize(
    ("init", "cure"),
    [
        (lambda rng: {"item": np.random.default_rng().normal(size=(51, 4))}, "draw everything from `rng`"),
        (lambda rng: {"item": np.random.normal(size=(51, 4))}, "nothing from np.random"),  # noqa: NPY002
        (lambda rng: [np.zeros(3)], "returned list; return a mapping"),
        (lambda rng: {"item": [1.0]}, "'item' is list; return a mapping from names to numpy arrays"),
        (lambda rng: {"item": np.array([None])}, "numpy arrays of numbers"),
    ],
)
def test_mistakes_in_init_end_the_checks(init: Callable[[np.random.Generator], Parameters], cure: str):
    report = check_device_model(Init(init))
    assert [finding.name for finding in report.findings] == ["init"]
    assert cure in failed(report)["init"]


def test_what_is_no_model_is_said_without_an_exception():
    report = check_device_model("device.models.sasrec:SASRec")
    assert "str is no device model; give it init(rng)" in failed(report)["contract"]
    assert report.to_dict()["ok"] is False


@pytest.mark.parametrize(("seed", "sizes"), [(1, (9, 3, 2)), (2, (400, 60, 100))])
def test_other_sizes(seed: int, sizes: tuple[int, int, int]):
    n_items, length, candidates = sizes
    module = SASRec(n_items, width=8, length=70)
    report = check_device_model(module, n_items=n_items, length=length, candidates=candidates, seed=seed)
    assert failed(report) == {}
