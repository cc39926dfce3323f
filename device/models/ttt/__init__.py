"""TTT4Rec (arXiv 2409.19142): a device model that goes on learning from what its user does."""

from device.models.ttt.eta import ETA
from device.models.ttt.model import TTT4Rec

__all__ = ["ETA", "TTT4Rec"]
