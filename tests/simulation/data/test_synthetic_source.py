"""The synthetic source: interests drift, so an old list gets worse; sequences can be learned; users are independent."""

import numpy as np
import pytest

from device.errors import ConfigError
from simulation.data.synthetic import synthetic


def topic_of(data):
    return np.concatenate([[0], [int(title[6:8]) for title in data.titles]])


def test_shape_and_titles():
    data = synthetic(seed=1, users=7, items=50, topics=5, length=4)
    assert (data.n_users, data.n_items, data.n_events) == (7, 50, 28)
    assert data.lengths.tolist() == [4] * 7
    assert data.titles[11].startswith("Topic 0")
    assert data.titles[11].endswith(" / item 0012")
    assert not data.timed
    assert np.bincount(topic_of(data)[1:])[1:].tolist() == [10] * 5


def test_a_users_events_do_not_depend_on_the_other_users():
    few, many = synthetic(seed=4, users=3), synthetic(seed=4, users=30)
    assert few.item.tolist() == many.item[: few.n_events].tolist()
    assert few.at.tolist() == many.at[: few.n_events].tolist()
    assert synthetic(seed=5, users=3).item.tolist() != few.item.tolist()


def test_a_list_made_k_steps_ago_gets_worse_with_k():
    data = synthetic(seed=2, users=1500, length=40)
    topic, item = topic_of(data), data.item.reshape(1500, 40)
    counts = np.bincount(item.ravel(), minlength=data.n_items + 1)
    best = {t: set(np.argsort(-np.where(topic == t, counts, -1))[:10].tolist()) for t in range(1, 21)}
    inside = np.array([[i in best[t] for t in range(1, 21)] for i in range(data.n_items + 1)])
    rate = [inside[item[:, 20:], topic[item[:, 20 - k : 40 - k]] - 1].mean() for k in (1, 5, 10, 20)]
    assert rate[0] > 0.25
    assert rate[1] < 0.85 * rate[0]
    assert rate[2] < 0.85 * rate[1]
    assert rate[3] < 0.85 * rate[2]


def test_without_drift_the_topic_stays_and_with_drift_it_jumps_at_that_rate():
    still = synthetic(seed=3, users=50, drift=0.0, length=20)
    topics = topic_of(still)[still.item].reshape(50, 20)
    assert (topics == topics[:, :1]).all()
    moving = synthetic(seed=3, users=2000, drift=0.3, length=20)
    topics = topic_of(moving)[moving.item].reshape(2000, 20)
    # nine jumps in ten leave the topic for sure, one in ten lands on any of 20: 0.3 * (0.9 + 0.1 * 19 / 20) = 0.2985
    assert (np.diff(topics, axis=1) != 0).mean() == pytest.approx(0.2985, abs=0.01)


def test_the_previous_item_tells_more_than_the_topic():
    data = synthetic(seed=6, users=3000, length=30)
    topic, item = topic_of(data), data.item.reshape(3000, 30)
    train, test = item[:2000], item[2000:]
    pairs = np.zeros((data.n_items + 1, data.n_items + 1), np.int32)
    np.add.at(pairs, (train[:, :-1].ravel(), train[:, 1:].ravel()), 1)
    counts = np.bincount(train.ravel(), minlength=data.n_items + 1)
    before, after = test[:, :-1].ravel(), test[:, 1:].ravel()
    popular = {t: np.argsort(-np.where(topic == t, counts, -1))[:4] for t in range(1, 21)}
    by_topic = np.mean([a in popular[topic[b]] for b, a in zip(before, after, strict=True)])
    top4 = np.argsort(-pairs, axis=1)[:, :4]
    by_item = (top4[before] == after[:, None]).any(axis=1).mean()
    assert by_item > 1.3 * by_topic


def test_items_are_rarely_repeated():
    data = synthetic(seed=8)
    distinct = len(np.unique(data.owner * (data.n_items + 1) + data.item))
    assert distinct > 0.9 * data.n_events


def test_ids_say_nothing_about_popularity():
    data = synthetic(seed=9, users=1000)
    counts = np.bincount(data.item, minlength=data.n_items + 1)[1:]
    rank = np.argsort(np.argsort(counts))
    assert abs(np.corrcoef(rank, np.arange(data.n_items))[0, 1]) < 0.1  # 3 standard errors of 1000 items


@pytest.mark.parametrize(
    "wrong", [{"users": 0}, {"items": 30, "topics": 20}, {"topics": 3, "favourites": 3}, {"drift": 1.5}]
)
def test_sizes_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match="synthetic"):
        synthetic(seed=1, **wrong)
