import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.errors import WireError
from device.frame import seal
from device.personal import Part
from device.personal_codec import Personal, decode_personal, encode_personal, split, values_bytes

MIXED = {"m": Part((3, 3), "bool"), "f": Part((2,), "float32"), "h": Part((1,), "float16"), "q": Part((3,), "int8")}


def drawn(layout, size, seed=0):
    rng = np.random.default_rng(seed)
    made = {name: rng.normal(0, 20, (size, *part.shape)) for name, part in layout.items()}
    return {n: (made[n] > 0 if part.kind == "bool" else made[n].astype(part.kind)) for n, part in layout.items()}


def sent(layout, devices, steps, seed=0):
    return Personal(np.array(devices, np.int64), np.array(steps, np.int64), drawn(layout, len(devices), seed))


def test_a_patch_byte_by_byte():
    patches = {
        "m": np.array([[[1, 0, 1], [0, 0, 0], [0, 0, 1]]], np.bool_),
        "f": np.array([[1.0, -2.0]], np.float32),
        "h": np.array([[0.5]], np.float16),
        "q": np.array([[1, -1, 127]], np.int8),
    }
    body = encode_personal(Personal(np.array([300]), np.array([7]), patches), MIXED)[0]
    # 9 bits 101000001 -> 0b10100000 0b10000000; 300 -> ac 02; 1.0 = 3f800000, -2.0 = c0000000; 0.5 as float16 = 3800
    head = bytes.fromhex("d1 05  ac02 07  a080  0000803f 000000c0  0038  01ff7f")
    assert body == head + struct.pack("<I", zlib.crc32(head))


@pytest.mark.parametrize(
    ("part", "values"),
    [(Part((2112,), "bool"), 264), (Part((32,), "float32"), 128), (Part((33,), "bool"), 5), (Part((32,), "int8"), 32)],
)
def test_sizes(part, values):
    """Beside the values: magic, kind, one byte each of device and step, CRC32 = 2 + 2 + 4."""
    layout = {"p": part}
    bodies = encode_personal(sent(layout, [5, 99], [1, 2]), layout)
    assert values_bytes(layout) == part.nbytes == values
    assert [len(body) for body in bodies] == [values + 8, values + 8]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 5), max_size=2), st.sampled_from(["bool", "float32", "float16", "int8"])),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**20)), max_size=5),
)
def test_what_is_sent_arrives(parts, names):
    layout = {f"p{i}": Part(tuple(shape), kind) for i, (shape, kind) in enumerate(parts)}
    one = sent(layout, [n[0] for n in names], [n[1] for n in names])
    bodies = encode_personal(one, layout)
    got = decode_personal(bodies, layout)
    assert got.device.tolist() == one.device.tolist()
    assert got.step.tolist() == one.step.tolist()
    for name, values in one.patches.items():
        assert got.patches[name].dtype == values.dtype
        np.testing.assert_array_equal(got.patches[name], values)
    assert encode_personal(got, layout) == bodies
    replies = [b"\xd1\x02reply"] * len(bodies)
    assert split([a + b for a, b in zip(bodies, replies, strict=True)], layout) == (bodies, replies)


def test_a_batch_is_single_messages():
    one = sent(MIXED, [3, 200, 70_000], [0, 128, 5])
    for row, body in enumerate(encode_personal(one, MIXED)):
        alone = Personal(one.device[[row]], one.step[[row]], {n: v[[row]] for n, v in one.patches.items()})
        assert encode_personal(alone, MIXED) == [body]


def test_only_what_starts_with_a_patch_is_split():
    body = encode_personal(sent(MIXED, [3], [300]), MIXED)[0]
    assert split([body, b"", b"\xd1\x02abc"], MIXED) == ([body, b"", b""], [b"", b"", b"\xd1\x02abc"])


def test_altered_messages_are_refused():
    body = encode_personal(sent(MIXED, [3], [9]), MIXED)[0]
    for place in range(len(body)):
        wrong = bytearray(body)
        wrong[place] ^= 16
        with pytest.raises(WireError):
            decode_personal([bytes(wrong)], MIXED)
    for cut in range(len(body)):
        with pytest.raises(WireError):
            decode_personal([body[:cut]], MIXED)


@pytest.mark.parametrize(
    ("change", "about"),
    [
        (lambda b: b[:4] + b"\x00" + b[4:], "trailing"),  # one byte too many before the values
        (lambda b: bytes([b[0], b[1] | 8]) + b[2:], "flags"),
        (lambda b: b[:5] + bytes([b[5] | 1]) + b[6:], "zeros behind"),  # the seven bits behind the ninth
        (lambda b: b[:6] + struct.pack("<f", np.nan) + b[10:], "finite"),
    ],
)
def test_well_sealed_nonsense_is_refused(change, about):
    body = encode_personal(sent(MIXED, [3], [9]), MIXED)[0]
    with pytest.raises(WireError, match=about):
        decode_personal([seal(change(body[:-4]))], MIXED)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("f", np.zeros((1, 3), np.float32)),
        ("f", np.zeros((1, 2))),
        ("f", np.full((1, 2), np.inf, np.float32)),
        ("m", np.zeros((2, 3, 3), np.bool_)),
    ],
)
def test_what_the_layout_does_not_say_is_not_encoded(name, values):
    one = sent(MIXED, [3], [9])
    with pytest.raises(WireError, match=name):
        encode_personal(Personal(one.device, one.step, {**one.patches, name: values}), MIXED)


def test_parts_and_steps_must_be_there():
    one = sent(MIXED, [3], [9])
    with pytest.raises(WireError, match="parts"):
        encode_personal(Personal(one.device, one.step, {"f": one.patches["f"]}), MIXED)
    with pytest.raises(WireError, match="steps"):
        encode_personal(Personal(one.device, one.step[:0], one.patches), MIXED)


KEPT = {"keep": Part((3,), "bool"), "block": Part((3, 2), "int8", kept_by="keep")}


def kept(keep, block):
    return {"keep": np.array(keep, np.bool_), "block": np.array(block, np.int8)}


def test_only_kept_slices_travel():
    """Three blocks of two bytes; one device keeps two of them, the other none: 1 + 4 and 1 + 0 bytes of values."""
    patches = kept([[1, 0, 1], [0, 0, 0]], [[[1, 2], [0, 0], [5, 6]], [[0, 0]] * 3])
    bodies = encode_personal(Personal(np.array([4, 5]), np.array([1, 2]), patches), KEPT)
    heads = [bytes.fromhex("d1 05 04 01  a0  0102 0506"), bytes.fromhex("d1 05 05 02  00")]
    assert bodies == [head + struct.pack("<I", zlib.crc32(head)) for head in heads]
    found = decode_personal(bodies, KEPT).patches
    np.testing.assert_array_equal(found["block"], patches["block"])
    np.testing.assert_array_equal(found["keep"], patches["keep"])
    reply = b"a reply behind it"
    assert split([bodies[0] + reply, bodies[1], reply], KEPT) == ([*bodies, b""], [reply, b"", reply])


def test_a_slice_that_is_left_out_is_zero():
    with pytest.raises(WireError, match="expected zeros in slices that 'keep' leaves out"):
        encode_personal(Personal(np.array([4]), np.array([1]), kept([[1, 0, 1]], [[[1, 2], [3, 0], [5, 6]]])), KEPT)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6), st.integers(0, 9))
def test_cut_and_padded_messages_are_refused(keep, seed):
    block = np.random.default_rng(seed).integers(1, 100, (len(keep), 3, 2)) * np.array(keep)[:, :, None]
    who = Personal(np.arange(len(keep)), np.arange(len(keep)), kept(keep, block))
    bodies = encode_personal(who, KEPT)
    np.testing.assert_array_equal(decode_personal(bodies, KEPT).patches["block"], block)
    for wrong in (bodies[0][:-1], bodies[0] + b"\0", seal(bodies[0][:-4] + b"\0"), seal(bodies[0][:-5])):
        with pytest.raises(WireError):
            decode_personal([wrong], KEPT)
