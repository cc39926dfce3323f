"""How much of the test a training set already knows, and how far its order can be trusted."""

import numpy as np
from numpy.typing import NDArray

from simulation.data.dataset import Split


def leakage_audit(split: Split) -> dict[str, float | int | None]:
    """Counts and shares (0 to 1) of a split; None where there are no such events, or no recorded times to compare.

    - `train_events`, `validation_events`, `test_events`: counts.
    - `test_items_unseen`: share of test events whose item occurs in no user's training part.
    - `train_after_first_test`: share of training events recorded later than the earliest test event of all users.
    - `test_before_other_train`: share of test events for which another user has a training event recorded later:
      a model trained once on that part has seen the future of these.
    - `test_tied`: share of test events recorded at the same time as the same user's event before, so that their
      order is the file's, not the user's.
    """
    data, part = split.data, split.part()
    train, test = part == 0, part == 2
    report: dict[str, float | int | None] = {
        "train_events": int(train.sum()),
        "validation_events": int((part == 1).sum()),
        "test_events": int(test.sum()),
        "test_items_unseen": _share(~_seen(data.item, train, data.n_items)[data.item[test]]),
        "train_after_first_test": None,
        "test_before_other_train": None,
        "test_tied": None,
    }
    if data.timed and test.any():
        recorded = data.recorded
        report["train_after_first_test"] = _share(recorded[train] > recorded[test].min())
        # a user's own training never comes after its test, so the latest training event is another user's
        report["test_before_other_train"] = _share(recorded[test] < recorded[train].max(initial=-np.inf))
        report["test_tied"] = _share(data.tied[test])
    return report


def _share(which: NDArray[np.bool_]) -> float | None:
    return float(which.mean()) if which.size else None


def _seen(item: NDArray[np.int32], train: NDArray[np.bool_], n_items: int) -> NDArray[np.bool_]:
    seen = np.zeros(n_items + 1, np.bool_)
    seen[item[train]] = True
    return seen
