"""Lists that have reached a device and wait until they are usable."""

import numpy as np
from numpy.typing import NDArray

from device.errors import ContractError
from device.fusion import normalised
from device.messages import Replies
from device.model import Items
from device.scoring import ModelScorer, Scorer

Rows = NDArray[np.int64]


class Inbox:
    """The newest list of each of D devices.

    Args:
        size: D.
        slots: candidates that a list holds at most.
        rows: streamed item rows that come with a list at most; 0 = none are streamed.
    """

    def __init__(self, size: int, slots: int, rows: int) -> None:
        self.items = np.zeros((size, slots), np.int32)
        self.cloud = np.zeros((size, slots), np.float32)  # standardised over the list
        self.step = np.zeros(size, np.int64)
        self.rows = np.zeros((size, rows), np.int32)
        self.usable_at = np.full(size, np.inf)

    def put(self, who: Rows, replies: Replies, row_ids: Items, usable_at: NDArray[np.float64]) -> None:
        """Lists of replies [B] for devices `who`, with the ids [B, R] of their rows; denials change nothing."""
        got = ~replies.denied
        if not got.any():
            return
        who, width = who[got], self.items.shape[1]
        if replies.items.shape[1] > width:
            raise ContractError(f"a reply lists {replies.items.shape[1]} candidates, the pool has {width} slots")
        pad = ((0, 0), (0, width - replies.items.shape[1]))
        items = replies.items[got]
        self.items[who] = np.pad(items, pad)
        self.cloud[who] = np.pad(normalised(replies.scores[got], items != 0, "standardise"), pad)
        self.step[who] = replies.step[got]
        self.rows[who] = np.pad(row_ids[got], ((0, 0), (0, self.rows.shape[1] - row_ids.shape[1])))
        self.usable_at[who] = usable_at[got]


def check_rows(scorer: Scorer, replies: Replies) -> Items:
    """The ids [B, R] of the streamed rows; ContractError unless their values are those that the model computes with.

    The simulator holds one table for all devices. Here it is shown that it may: what was received stands in it.
    """
    table = scorer.item_table() if isinstance(scorer, ModelScorer) else None
    ids = replies.row_ids
    if table is None or not ids.size:
        return ids
    received = replies.rows * replies.row_scale[:, :, None]
    if not np.array_equal(received[ids != 0], table[ids[ids != 0]]):
        raise ContractError("streamed item rows differ from the table that the device's model computes with")
    return ids
