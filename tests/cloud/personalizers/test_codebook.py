"""SOLID's semantic groups, of any catalogue."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.personalizers.solid import Codebook, codebook
from device.errors import ConfigError


@settings(max_examples=20, deadline=None)
@given(items=st.integers(1, 40), count=st.integers(1, 40), kinds=st.integers(1, 3), seed=st.integers(0, 9))
def test_every_item_is_in_its_nearest_group(items: int, count: int, kinds: int, seed: int) -> None:
    """Also with equal items, where clusters stay empty."""
    numbers = np.random.default_rng(seed)
    table = numbers.standard_normal((kinds, 3)).astype(np.float32)[numbers.integers(0, kinds, items + 1)]
    if count > items:
        with pytest.raises(ConfigError, match="semantic groups"):
            codebook(table, count, seed=seed)
        return
    made = codebook(table, count, seed=seed)
    distance = ((table[1:, None].astype(float) - made.codes[None, 1:]) ** 2).sum(2)
    own = np.take_along_axis(distance, made.groups[1:, None] - 1, 1)[:, 0]
    assert (own <= distance.min(1) + 1e-3).all()  # the last round moves the centres once more
    assert set(made.groups[1:]) <= set(range(1, count + 1))


@pytest.mark.parametrize(("groups", "each"), [(255, 1), (256, 2)])
def test_bytes_of_a_group_id(groups: int, each: int) -> None:
    assert Codebook(np.zeros(3, np.int64), np.zeros((groups + 1, 2), np.float32)).id_bytes == each
