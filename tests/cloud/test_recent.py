"""What is read now, by hand and against a slow count; nothing at or after the time of a request counts."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.generator import Generated, Timed, check_lists, lists_at
from cloud.generators import recent
from cloud.generators.recent import Recent
from cloud.stream import Listens, Stream
from device.errors import ConfigError, ContractError
from device.model import Items
from device.seeds import draws
from simulation.conformance.check import conformance, generator

N = 6
Click = tuple[int, int, int]  # user, time, article
# Of four users: who read 1 went on to 2 (at 20 and 950) and to 3 (at 960).
CLICKS: list[Click] = [(0, 10, 1), (0, 20, 2), (1, 30, 1), (1, 950, 2), (2, 940, 1), (2, 960, 3), (3, 990, 4)]
OPTIONS = {"window_s": 100.0, "follow_s": 1000.0, "prior": 10.0, "tail": 0.0, "refresh_s": 1.0}


def stream(clicks: list[Click]) -> Stream:
    by_user = sorted(clicks, key=lambda click: click[:2])
    user, at, item = np.array(by_user, np.int64).reshape(-1, 3).T
    return Stream.of(user, item.astype(np.int32), at.astype(np.float64))


def listening(clicks: list[Click], **options: float) -> Recent:
    made = Recent(N, **(OPTIONS | options))  # type: ignore[arg-type]
    made.listen(stream(clicks))
    return made


def asked(made: Recent, histories: list[list[int]], at: list[float], k: int = N) -> Generated:
    known: Items = np.array(histories, np.int32)
    lists = lists_at(made, known, k, at=np.array(at, np.float64), rng=draws(0, "generator", np.arange(len(known))))
    check_lists(made, lists, rows=len(known), pool=k, n_items=N)
    return lists


def one(made: Recent, history: list[int], at: float) -> list[tuple[int, float]]:
    """(article, probability) of one list."""
    lists = asked(made, [history], [at])
    return [(int(i), float(np.exp(s))) for i, s in zip(lists.items[0], lists.scores[0], strict=True) if i]


def test_the_stream_is_sorted_and_knows_what_each_user_clicked_before() -> None:
    made = stream(CLICKS)
    assert made.at.tolist() == [10, 20, 30, 940, 950, 960, 990]
    assert made.item.tolist() == [1, 2, 1, 1, 2, 3, 4]
    assert made.before.tolist() == [0, 1, 0, 0, 1, 1, 0]


def test_a_list_by_hand() -> None:
    # From 900 to 1000 the clicks were 1, 2, 3 and 4: a quarter each. Three went on from 1: twice to 2, once to 3.
    # P(2 | 1) = (2 + 10 / 4) / (3 + 10), P(3 | 1) = (1 + 2.5) / 13, P(4 | 1) = 2.5 / 13; 1 itself has been seen.
    found = one(listening(CLICKS), [0, 5, 1], 1000)
    assert [article for article, _ in found] == [2, 3, 4]
    np.testing.assert_allclose([p for _, p in found], [4.5 / 13, 3.5 / 13, 2.5 / 13], rtol=1e-6)
    assert asked(listening(CLICKS), [[0, 5, 1]], [1000]).flops == [4 + 3]  # articles of the longer window, and pairs


def test_a_click_at_the_time_of_the_request_does_not_count() -> None:
    # At 960: of 860 to 960 the clicks on 1 and 2, half each; the click on 3 is not known yet, so two went on to 2.
    assert dict(one(listening(CLICKS), [1], 960)) == pytest.approx({2: (2 + 5) / (2 + 10)})
    assert [article for article, _ in one(listening(CLICKS), [1], 961)] == [2, 3]


def test_what_is_older_than_the_windows_does_not_count() -> None:
    # At 1025: the longer window begins at 25, so the first click on 2 is gone: one went on to 2, one to 3.
    # In 925 .. 1025 four clicks again; 2 and 3 are equal and come in the order of their ids.
    found = one(listening(CLICKS), [1], 1025)
    np.testing.assert_allclose([p for _, p in found], [3.5 / 12, 3.5 / 12, 2.5 / 12], rtol=1e-6)
    assert [article for article, _ in found] == [2, 3, 4]


def test_counts_are_as_old_as_the_last_refresh() -> None:
    made = listening(CLICKS, refresh_s=60.0)
    assert one(made, [1], 1019) == one(listening(CLICKS), [1], 960)  # 1019 sees what was known at 960
    assert [article for article, _ in one(made, [1], 1020)] == [2, 3, 4]


def test_a_quiet_time_is_filled_from_the_longer_window() -> None:
    # At 500 nothing was clicked since 400; of the three clicks since -500 two were on 1 (seen), one on 2; 1 -> 2 once.
    assert dict(one(listening(CLICKS), [1], 500)) == pytest.approx({2: (1 + 10 / 3) / 11})
    # An article without a click in the shorter window is listed when it followed, or by the tail.
    assert [article for article, _ in one(listening(CLICKS), [4], 1200)] == [1, 2, 3]
    assert [article for article, _ in one(listening(CLICKS[:2] + CLICKS[-1:]), [3], 1005)] == [4]
    assert [article for article, _ in one(listening(CLICKS[:2] + CLICKS[-1:], tail=0.2), [3], 1005)] == [4, 1, 2]


def test_only_the_newest_successors_count() -> None:
    found = one(listening(CLICKS, newest=1), [1], 1000)  # only 1 -> 3
    assert [article for article, _ in found] == [3, 2, 4]
    np.testing.assert_allclose([p for _, p in found], [3.5 / 11, 2.5 / 11, 2.5 / 11], rtol=1e-6)


def test_seen_articles_may_stay() -> None:
    made = Recent(N, hide_seen=False, **OPTIONS)  # type: ignore[arg-type]
    made.listen(stream(CLICKS))
    assert [article for article, _ in one(made, [1], 1000)] == [2, 3, 1, 4]


def test_nobody_to_ask_at_inf_and_nothing_before_the_first_click() -> None:
    lists = asked(listening(CLICKS), [[1], [1], [0]], [np.inf, 5, 1000])
    assert lists.items[:2].max() == 0
    assert lists.items[2].tolist() == [1, 2, 3, 4, 0, 0]  # an empty history: the most clicked, equals by id


def slow(clicks: list[Click], history: list[int], at: int, options: dict[str, float]) -> dict[int, float]:
    """Probabilities of all articles that are listed, counted click by click."""
    known = sorted((t, u, i) for u, t, i in clicks if t < at)
    before: dict[int, int] = {}
    short, long, followed = Counter[int](), Counter[int](), []
    for t, user, item in known:
        short[item] += t >= at - options["window_s"]
        long[item] += t >= at - options["follow_s"]
        if before.get(user) == history[-1] and t >= at - options["follow_s"]:
            followed.append(item)
        before[user] = item
    counts = Counter(followed)
    tail = options["tail"] if short.total() else 1.0

    def share(of: Counter[int], item: int) -> float:
        return of[item] / max(of.total(), 1)

    values = {i: counts[i] + options["prior"] * ((1 - tail) * share(short, i) + tail * share(long, i)) for i in long}
    total = len(followed) + options["prior"]
    return {i: value / total for i, value in values.items() if value > 0 and i not in history}


# no two clicks at one moment: which of a user's came first would be open
clicks_of = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 300), st.integers(1, N)), max_size=40, unique_by=lambda c: c[1]
)
requests = st.lists(
    st.tuples(st.lists(st.integers(1, N), min_size=3, max_size=3), st.integers(0, 320)), min_size=1, max_size=6
)


@given(clicks_of, requests, st.sampled_from([0.0, 0.3]))
def test_lists_are_those_of_a_slow_count(clicks: list[Click], asking: list[tuple[list[int], int]], tail: float) -> None:
    options = OPTIONS | {"window_s": 50.0, "follow_s": 120.0, "tail": tail}
    lists = asked(listening(clicks, **options), [h for h, _ in asking], [t for _, t in asking])
    for row, (history, at) in enumerate(asking):
        wanted = slow(clicks, history, at, options)
        found = {int(i): float(np.exp(s)) for i, s in zip(lists.items[row], lists.scores[row], strict=True) if i}
        assert found == pytest.approx(wanted, rel=1e-5)


@given(clicks_of, st.integers(1, 320), st.integers(1, N), st.sampled_from([1.0, 60.0]))
def test_nothing_at_or_after_the_time_counts(clicks: list[Click], at: int, last: int, refresh: float) -> None:
    whole = asked(listening(clicks, refresh_s=refresh), [[last]], [at])
    cut = asked(listening([click for click in clicks if click[1] < at], refresh_s=refresh), [[last]], [at])
    assert np.array_equal(whole.items, cut.items)
    assert np.array_equal(whole.scores, cut.scores)


@given(clicks_of, requests)
def test_lists_do_not_depend_on_the_batch(clicks: list[Click], asking: list[tuple[list[int], int]]) -> None:
    made = listening(clicks, refresh_s=10.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent, "ROWS", 2)
        together = asked(made, [h for h, _ in asking], [t for _, t in asking])
    assert together.flops is not None
    for row, (history, at) in enumerate(asking):
        alone = asked(made, [history], [at])
        assert alone.flops == together.flops[row]
        assert np.array_equal(alone.items[0], together.items[row])
        assert np.array_equal(alone.scores[0], together.scores[row])
        short = asked(made, [history], [at], k=2)
        assert np.array_equal(short.items[0], together.items[row, :2])  # nested


def test_it_passes_the_conformance_kit() -> None:
    findings = conformance("generator", "cloud.generators.recent:Recent", [])
    assert [(finding.name, finding.ok) for finding in findings][-2:] == [("cost", True), ("time", True)]
    assert all(finding.ok for finding in findings)


class Prophet(Recent):
    """Sees a minute ahead."""

    def generate_at(self, histories: Items, k: int, *, at, rng) -> Generated:  # type: ignore[no-untyped-def]
        return super().generate_at(histories, k, at=at + 60, rng=rng)


def test_the_kit_finds_who_hears_the_future() -> None:
    wrong = [finding for finding in generator(Prophet(50)) if not finding.ok]
    assert [finding.name for finding in wrong] == ["time"]
    assert "before `at` only" in wrong[0].message


def test_it_says_what_it_needs() -> None:
    made = Recent(N)
    assert isinstance(made, Timed)
    assert isinstance(made, Listens)
    with pytest.raises(ContractError, match="listen"):
        asked(made, [[1]], [10])
    with pytest.raises(ConfigError, match="take another generator"):
        made.generate(np.ones((1, 1), np.int32), 3, rng=draws(0, "x", np.arange(1)))
    with pytest.raises(ConfigError, match="window_s <= follow_s"):
        Recent(N, window_s=10.0, follow_s=5.0)
