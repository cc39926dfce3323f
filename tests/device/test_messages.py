import struct
import tracemalloc
import zlib
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.errors import WireError
from device.frame import seal
from device.messages import (
    Codec,
    Replies,
    Requests,
    decode_patch,
    decode_replies,
    decode_requests,
    encode_patch,
    encode_replies,
    encode_requests,
)

CODECS = [Codec(ids, scores) for ids in ("varint", "int32") for scores in ("float16", "int8", "none")]


def requests(rows, width=4):
    """Requests of (device, step, items, received)."""
    items = np.zeros((len(rows), width), np.int32)
    for row, (_, _, listed, _) in enumerate(rows):
        items[row, width - len(listed) :] = listed
    device, step, first, received = (
        np.array([pick(row) for row in rows], np.int64)
        for pick in (lambda r: r[0], lambda r: r[1], lambda r: r[1] - len(r[2]), lambda r: r[3])
    )
    return Requests(device, step, first, items, received)


def replies(lists, *, rows=0, dim=0, denied=(), seed=0):
    """Replies with these lists, falling scores, `rows` embeddings of `dim` for the even ones."""
    rng, size = np.random.default_rng(seed), len(lists)
    items = np.zeros((size, max(map(len, lists), default=0)), np.int32)
    for row, listed in enumerate(lists):
        items[row, : len(listed)] = listed
    scores = np.where(items > 0, -np.sort(-rng.normal(0, 5, items.shape)), 0).astype(np.float32)
    even = np.arange(size) % 2 == 0
    row_ids = rng.integers(1, 2**31, (size, rows)).astype(np.int32) * even[:, None]
    codes = rng.integers(-128, 128, (size, rows, dim)).astype(np.int8) * even[:, None, None]
    scale = rng.random((size, rows)).astype(np.float32) * even[:, None]
    refused = np.isin(np.arange(size), denied)
    wait = np.where(refused, 12.5, 0).astype(np.float32)
    device, step = np.arange(size, dtype=np.int64), np.arange(size, dtype=np.int64) * 100
    return Replies(device, step, items, scores, row_ids.astype(np.int32), codes.astype(np.int8), scale, refused, wait)


def same(one, two, *, but=()):
    for field in fields(one):
        if field.name not in but:
            a, b = getattr(one, field.name), getattr(two, field.name)
            if a is None or b is None:
                assert a is b, field.name
                continue
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, err_msg=field.name)


def test_a_request_byte_by_byte():
    body = encode_requests(requests([(3, 300, [5, 200], 1)]), Codec())[0]
    # 300 = 2 * 128 + 44 -> 44 | 0x80 = 0xac, 0x02;  200 = 1 * 128 + 72 -> 72 | 0x80 = 0xc8, 0x01
    head = bytes.fromhex("d1 01  03  ac02  02  01  05 c801")
    assert body == head + struct.pack("<I", zlib.crc32(head))


def test_replies_byte_by_byte():
    one = replies([[7, 130]])
    one.scores[:] = [[1.0, 0.5]]
    # head 0x12 = kind 2 | float16 (1 << 4); 130 -> 0x82 0x01; float16 1.0 = 0x3c00, 0.5 = 0x3800
    expected = bytes.fromhex("d1 12  00 00 02  07 8201  003c 0038")
    assert encode_replies(one, Codec())[0] == expected + struct.pack("<I", zlib.crc32(expected))
    # int8: head 0x2a = kind 2 | int32 ids (8) | int8 (2 << 4); scale (1 - 0.5) / 255, offset 0.5, codes 255 and 0
    expected = bytes.fromhex("d1 2a  00 00 02  07000000 82000000") + struct.pack("<ff", 0.5 / 255, 0.5) + b"\xff\x00"
    assert encode_replies(one, Codec("int32", "int8"))[0] == expected + struct.pack("<I", zlib.crc32(expected))
    # a denial: head 0x52 = kind 2 | float16 | denied (0x40), no items, 12.5 s
    expected = bytes.fromhex("d1 52  00 00 00") + struct.pack("<f", 12.5)
    assert encode_replies(replies([[]], denied=[0]), Codec())[0] == expected + struct.pack("<I", zlib.crc32(expected))


def test_a_patch_byte_by_byte():
    expected = bytes.fromhex("d1 03  01  01 77  00 02 01 02") + struct.pack("<ff", 1.5, -2)
    assert encode_patch({"w": np.array([[1.5, -2]], np.float32)}) == expected + struct.pack("<I", zlib.crc32(expected))


ids = st.integers(1, 2**31 - 1)
request_rows = st.tuples(
    st.integers(0, 2**62), st.integers(0, 2**40), st.lists(ids, max_size=6), st.integers(0, 2**40)
).map(lambda row: (row[0], row[1] + len(row[2]), row[2], row[3]))


@settings(max_examples=60, deadline=None)
@given(st.lists(request_rows, max_size=6), st.lists(st.sampled_from(CODECS), min_size=6, max_size=6))
def test_requests_round_trip(rows, codecs):
    batch = requests(rows, width=6)
    same(batch, decode_requests(encode_requests(batch, codecs[0]), width=6))
    mixed = [encode_requests(requests([row], width=6), codec)[0] for row, codec in zip(rows, codecs, strict=False)]
    same(batch, decode_requests(mixed, width=6))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(ids, max_size=7), min_size=1, max_size=6),
    st.sampled_from(CODECS),
    st.integers(0, 3),
    st.sets(st.integers(0, 5)),
    st.integers(0, 99),
)
def test_replies_round_trip(lists, codec, rows, denied, seed):
    batch = replies(lists, rows=rows, dim=5 if rows else 0, denied=list(denied), seed=seed)
    bodies = encode_replies(batch, codec)
    found = decode_replies(bodies)
    same(batch, found, but=["scores"])
    listed = batch.items > 0
    if codec.scores == "float16":
        np.testing.assert_array_equal(found.scores, batch.scores.astype(np.float16).astype(np.float32))
    elif codec.scores == "int8":
        spread = [np.ptp(s[m]) if m.any() else 0 for s, m in zip(batch.scores, listed, strict=True)]
        step = np.array(spread)[:, None] / 255
        assert (
            np.abs(found.scores - batch.scores)[listed] <= (np.ones_like(batch.scores) * step / 2 + 1e-5)[listed]
        ).all()
    else:
        n = np.maximum(listed.sum(axis=1, keepdims=True), 1)
        linear = np.where(listed, 1 - np.arange(batch.items.shape[1]) / n, 0)
        np.testing.assert_array_equal(found.scores, linear.astype(np.float32))
    same(found, decode_replies(encode_replies(found, codec)), but=["scores"] if codec.scores == "int8" else [])


def test_replies_of_several_codecs_decode_together():
    parts = [replies([[9, 8, 1000]], seed=seed) for seed in range(6)]
    bodies = [encode_replies(part, codec)[0] for part, codec in zip(parts, CODECS, strict=True)]
    together = decode_replies(bodies)
    alone = np.concatenate([decode_replies([body]).scores for body in bodies])
    np.testing.assert_array_equal(together.scores, alone)
    assert (together.items == [9, 8, 1000]).all()


arrays = st.one_of(
    st.builds(
        lambda kind, shape, seed: np.random.default_rng(seed).integers(0, 2, shape).astype(kind),
        st.sampled_from(["float32", "float16", "int8", "uint8", "int32", "int64", "bool"]),
        st.lists(st.integers(0, 3), max_size=3).map(tuple),
        st.integers(0, 9),
    )
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), arrays, max_size=4))
def test_patches_round_trip(named):
    found = decode_patch(encode_patch(named))
    assert list(found) == sorted(named)
    for name, array in found.items():
        assert array.dtype == named[name].dtype
        assert array.flags.writeable
        np.testing.assert_array_equal(array, named[name])


def size(value):
    return max(1, -(-int(value).bit_length() // 7))


@pytest.mark.parametrize("codec", CODECS)
def test_lengths_are_the_formula(codec):
    lists = [[1, 127, 128], [2**14 - 1, 2**14, 2**21, 2**28, 2**31 - 1], []]
    batch = replies(lists, rows=2, dim=8, denied=[1])
    id_bytes = (lambda n: 4) if codec.ids == "int32" else size
    for row, body in enumerate(encode_replies(batch, codec)):
        n, rows = len(lists[row]), batch.row_ids[row].tolist()
        scores = {"none": 0, "float16": 2 * n, "int8": n + 8 * (n > 0)}[codec.scores]
        streamed = 2 + sum(map(id_bytes, rows)) + 2 * (4 + 8) if row % 2 == 0 else 0
        listed = sum(map(id_bytes, lists[row]))
        assert len(body) == 2 + 1 + size(100 * row) + 1 + listed + scores + streamed + 4 * (row == 1) + 4
    body = encode_requests(requests([(500, 2, [3, 16_384], 0)]), codec)[0]
    assert len(body) == 2 + (2 + 1 + 1 + 1) + id_bytes(3) + id_bytes(16_384) + 4


def refused(decode, body):
    """The WireError of a body; anything else fails the test."""
    with pytest.raises(WireError) as error:
        decode(body)
    return str(error.value)


def outcome(decode, body):
    """Whether a body is accepted; any exception but WireError passes through and fails the test."""
    try:
        decode(body)
    except WireError:
        return False
    return True


SAMPLES = [
    (lambda b: decode_requests([b], width=8), encode_requests(requests([(300, 900, [5, 200, 70_000], 7)]), Codec())[0]),
    *[
        (lambda b: decode_replies([b]), encode_replies(replies([[7, 300, 2]], rows=2, dim=3, denied=[0]), codec)[0])
        for codec in CODECS
    ],
    (decode_patch, encode_patch({"a": np.ones(3, np.float32), "mask": np.array([True, False])})),
]


@pytest.mark.parametrize(("decode", "body"), SAMPLES)
def test_every_flipped_bit_and_every_cut_is_refused(decode, body):
    for bit in range(8 * len(body)):
        altered = bytearray(body)
        altered[bit // 8] ^= 1 << bit % 8
        assert "expected" in refused(decode, bytes(altered))
    for cut in range(len(body)):
        refused(decode, body[:cut])
        refused(decode, body[cut + 1 :])
    refused(decode, body + b"\x00")
    refused(decode, seal(body[:-4] + b"\x00"))


@pytest.mark.parametrize(("decode", "body"), SAMPLES)
def test_a_sender_that_lies_with_a_right_checksum_gets_no_other_exception(decode, body):
    accepted = 0
    for place in range(1, len(body) - 4):
        for value in (0, 1, 127, 128, 255, body[place] ^ 16, body[place] ^ 64):
            altered = bytearray(body[:-4])
            altered[place] = value
            accepted += outcome(decode, seal(bytes(altered)))
        accepted += outcome(decode, seal(body[:place]))
    assert accepted < 8 * len(body)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([1, 2, 3, 10, 18, 0x92, 0xD2, 0x22, 0xFA]))
def test_noise_with_a_right_checksum_gets_no_other_exception(noise, head):
    body = seal(bytes([0xD1, head]) + noise)
    for decode in (lambda b: decode_requests([b], width=8), lambda b: decode_replies([b]), decode_patch):
        assert outcome(decode, body) in (True, False)


@pytest.mark.parametrize(
    ("hexed", "message"),
    [
        ("d2 12 00 00 00", "expected first byte 0xd1"),
        ("d1 11 00 00 00", "expected kind 2, found 1"),
        ("d1 17 00 00 00", "expected kind 2, found 7"),
        ("d1 12 00 00 81808080808080808001", "varint of at most 9 bytes"),
        ("d1 12 00 00 8000", "shortest form"),
        ("d1 12 00 00 818004", "at most 65536, found 65537"),
        ("d1 12 00 00 ffff03", "up to 65535 more bytes, found 0"),
        ("d1 12 00 00 01 00 003c", "expected ids 1..2147483647, found 0"),
        ("d1 12 00 00 01 8080808008 003c", "expected ids 1..2147483647, found 2147483648"),
        ("d1 12 00 00 01 07 007c", "scores: expected finite numbers, found inf"),
        ("d1 22 00 00 01 07 0000c07f 00000000 01", "score scale, offset: expected finite"),
        ("d1 32 00 00 00", "score codec"),
        ("d1 92 00 00 00 00 05", "row count and width >= 1"),
        ("d1 52 00 00 00 000080bf", "retry_after: expected seconds >= 0"),
        ("d1 12 00 00 00 00", "no trailing bytes, found 1"),
        ("d1 12 00 80", "ends inside the message|more bytes"),
    ],
)
def test_refusals_say_what_was_expected(hexed, message):
    with pytest.raises(WireError, match=rf"message 0.*({message})"):
        decode_replies([seal(bytes.fromhex(hexed))])


def test_requests_are_refused_beyond_the_width_or_the_step():
    body = encode_requests(requests([(1, 4, [1, 2, 3], 0)]), Codec())
    with pytest.raises(WireError, match="items: expected at most 2, found 3"):
        decode_requests(body, width=2)
    with pytest.raises(WireError, match="no more items than the step number"):
        decode_requests([seal(bytes.fromhex("d1 01 00 01 02 00 05 06"))], width=8)
    with pytest.raises(WireError, match="message 1 of 2"):
        decode_requests([*body, b""], width=8)


def test_claims_of_great_size_allocate_nothing():
    great = [
        (lambda b: decode_replies([b]), bytes.fromhex("d1 92 00 00 00 808004 808004")),
        (lambda b: decode_replies([b] * 1000), bytes.fromhex("d1 12 00 00 808004")),
        (decode_patch, bytes.fromhex("d1 03 01 01 77 00 03 8080808008 8080808008 8080808008")),
    ]
    for decode, body in great:
        tracemalloc.start()
        refused(decode, seal(body))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_000_000


def test_no_messages_at_all():
    assert encode_requests(requests([]), Codec()) == []
    assert decode_requests([], width=3).items.shape == (0, 3)
    assert encode_replies(replies([]), Codec()) == []
    assert decode_replies([]).items.shape == (0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": np.array([[0, 5]], np.int32)}, "padding on one side"),
        ({"items": np.array([[5, -1]], np.int32)}, "ids >= 1"),
        ({"scores": np.array([[np.nan, 0]], np.float32)}, "scores: expected finite"),
        ({"scores": np.array([[1e6, 0]], np.float32)}, "float16's 65504; use scores = 'int8'"),
        ({"retry_after": np.array([1], np.float32)}, "retry_after"),
        ({"device": np.array([-4])}, "-4, expected >= 0"),
        ({"step": np.array([1, 2])}, "expected 1 rows"),
        ({"scores": np.zeros((1, 3), np.float32)}, r"expected scores \(1, 2\)"),
    ],
)
def test_replies_that_cannot_be_encoded(change, message):
    with pytest.raises(WireError, match=message):
        encode_replies(replace(replies([[5, 6]]), **change), Codec())


def test_orders_and_requests_that_cannot_be_encoded():
    rising = replace(replies([[5, 6]]), scores=np.array([[1, 2]], np.float32))
    with pytest.raises(WireError, match="sort descending"):
        encode_replies(rising, Codec(scores="none"))
    with pytest.raises(WireError, match="padding on one side"):
        encode_requests(replace(requests([(1, 3, [4, 5], 0)]), first=np.array([0])), Codec())
    with pytest.raises(WireError, match=r"codec\.scores: expected one of none, float16, int8, found 'int4'"):
        Codec(scores="int4")
    with pytest.raises(WireError, match="float64"):
        encode_patch({"w": np.zeros(2)})


def test_repeated_and_unordered_names_are_refused():
    one = bytes.fromhex("01 77 03 01 01 05")
    with pytest.raises(WireError, match="ascending order, each once"):
        decode_patch(seal(b"\xd1\x03\x02" + one + one))
