"""Item tables of codes: bytes by hand, what is exact, what grows better, what is scored."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from elastic_parts import KINDS as MODELS
from elastic_parts import LENGTH, batch, elastic, slimmable, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from device.item_tables import coded, coded_shapes, residual_codes, summed, uncoded
from device.models.slimming import narrowed
from device.patch import decode_patch, encode_patch
from device.seeds import rng
from device.subnet import KINDS, SubnetSpec, Table, as_read, decoded, encoded, installed

FITTED: list[Table] = [kind for kind in KINDS if kind not in ("float32", "int8")]
MANY = arrays(
    np.float32, st.tuples(st.integers(1, 60), st.integers(1, 5)), elements=st.integers(-72, 72).map(lambda v: v / 8)
)


def table_of(n_items: int, columns: int, centres: int = 0, seed: int = 0) -> np.ndarray:
    """[n + 1, e]: standard normal, or so many normal centres with noise of 0.3; zeroes for the padding."""
    draw = rng(seed, "tables of tests")
    made = np.zeros((n_items + 1, columns), np.float32)
    made[1:] = draw.normal(size=(n_items, columns))
    if centres:
        made[1:] = draw.normal(size=(centres, columns))[draw.integers(centres, size=n_items)] + 0.3 * made[1:]
    return made


def error(read: np.ndarray, table: np.ndarray) -> float:
    return float(np.linalg.norm(read - table) / np.linalg.norm(table))


@pytest.mark.parametrize(
    ("parts", "nbytes"),
    [
        (coded(table_of(5000, 8), 2), 5000 * 2 + 2 * 256 * 8 + 2 * 4),  # codes; codebooks; one scale per codebook
        (coded(table_of(100, 8), 4), 100 * 4 + 4 * 6 * 8 + 4 * 4),  # 100 // 16 = 6 code vectors
        (coded(table_of(3, 8), 1), 3 * 1 + 1 * 1 * 8 + 1 * 4),  # at least one
    ],
)
def test_bytes_by_hand(parts: dict[str, np.ndarray], nbytes: int) -> None:
    assert sum(part.nbytes for part in parts.values()) == nbytes


@pytest.mark.parametrize("n_items", [1, 17, 100])
@pytest.mark.parametrize("number", [1, 2, 8])
def test_shapes_without_fitting(n_items: int, number: int) -> None:
    table = table_of(n_items, 3)
    found = {name: (part.shape, part.itemsize) for name, part in coded(table, number).items()}
    assert found == coded_shapes(n_items + 1, 3, number)


@settings(max_examples=25, deadline=None)
@given(vectors=MANY, repeats=st.integers(1, 3))
def test_one_codebook_is_exact_for_as_many_different_vectors(vectors: np.ndarray, repeats: int) -> None:
    vectors = np.tile(vectors, (repeats, 1))
    codes, books = residual_codes(vectors, 1, entries=len(np.unique(vectors, axis=0)))
    assert (summed(codes, books) == vectors).all()


def test_256_vectors_are_told_apart_by_a_byte() -> None:
    vectors = np.repeat(table_of(256, 8)[1:], 20, axis=0)
    codes, books = residual_codes(vectors, 1, entries=256)
    assert (summed(codes, books) == vectors).all()
    assert sorted(set(codes[:, 0].tolist())) == list(range(256))
    table = np.concatenate([np.zeros((1, 8), np.float32), vectors])
    parts = coded(table, 1)  # 5,120 items: 256 code vectors
    assert np.abs(uncoded(parts) - table).max() <= 0.5001 * parts["scale"][0]


def test_two_codebooks_by_hand() -> None:
    """Centres -10 and 10; left over is -1 or 1 of each: the sums are -11, -9, 9, 11."""
    vectors = np.array([[-11], [-9], [9], [11]] * 3, np.float32)
    codes, books = residual_codes(vectors, 2, entries=2)
    assert sorted(books[0, :, 0].tolist()) == [-10, 10]
    assert sorted(books[1, :, 0].tolist()) == [-1, 1]
    assert (summed(codes, books) == vectors).all()


@settings(max_examples=25, deadline=None)
@given(vectors=MANY, entries=st.integers(1, 6))
def test_no_further_codebook_makes_it_worse(vectors: np.ndarray, entries: int) -> None:
    codes, books = residual_codes(vectors, 4, entries=entries)
    errors = [np.square(summed(codes[:, :k], books[:k]) - vectors, dtype=np.float64).sum() for k in range(5)]
    assert all(later <= sooner + 1e-5 for sooner, later in pairwise(errors))


def test_what_is_left_over_falls_with_codebooks() -> None:
    for centres in (0, 40):
        table = table_of(2000, 16, centres)
        codes = [error(as_read(table, kind), table) for kind in ("code2", "code4", "code8")]
        assert codes == sorted(codes, reverse=True)
        assert codes[1] < (0.3 if centres else 0.75)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_items", [1, 2, 200])
def test_what_is_encoded_is_the_same_each_time_and_travels(kind: Table, n_items: int) -> None:
    table = table_of(n_items, 8)
    parts = encoded(table, kind)
    again = encoded(np.asfortranarray(table), kind)
    assert {name: part.tobytes() for name, part in parts.items()} == {k: v.tobytes() for k, v in again.items()}
    sent = decode_patch(encode_patch({f"item.{name}": part for name, part in parts.items()}))
    read = decoded({name[5:]: part for name, part in sent.items()}, kind)
    assert read.tobytes() == as_read(table, kind).tobytes()
    assert (read.dtype, read.shape) == (np.float32, table.shape)
    assert not read[0].any()


@pytest.mark.parametrize("kind", FITTED)
def test_a_table_of_zeroes_stays_one(kind: Table) -> None:
    assert not as_read(np.zeros((40, 8), np.float32), kind).any()


@pytest.mark.parametrize("kind", FITTED)
@pytest.mark.parametrize("model", MODELS)
def test_a_slice_scores_as_with_the_rebuilt_table(model: Callable[..., Any], kind: Table) -> None:
    module = elastic(model)
    slim, params = slimmable(module)
    spec, given = SubnetSpec(16, 1, 12, kind), batch(5, LENGTH, 6)
    whole = slim.slice(params, spec.in_training)
    scores = slim.subnet(spec).score(slim.slice(params, spec), *given)
    rebuilt = {**whole, "item.weight": as_read(whole["item.weight"], kind)}
    assert scores.tobytes() == slim.subnet(spec.in_training).score(rebuilt, *given).tobytes()
    assert np.abs(scores - slim.subnet(spec.in_training).score(whole, *given)).max() > 1e-3
    sent = installed(whole, spec, item_table="item.weight")
    assert slim.size(spec, length=LENGTH, candidates=6).nbytes == len(encode_patch(sent))
    with torch.inference_mode():
        assert narrowed(module, spec)(*tensors(*given)).numpy().tobytes() == scores.tobytes()


@pytest.mark.parametrize("kind", FITTED)
def test_training_sees_the_table_itself(kind: Table) -> None:
    module = elastic(MODELS[0]).train()
    spec = SubnetSpec(16, 1, 12, kind)
    assert torch.equal(narrowed(module, spec).item.weight, module.item.weight[:, :12])
    read = narrowed(module.eval(), spec).item.weight
    assert not torch.equal(read, module.item.weight[:, :12])
    read.sum().backward()
    assert torch.equal(module.item.weight.grad[:, :12], torch.ones(31, 12))
