"""The third kind of reply: named arrays, for installing a model or a part of it (layout in device/messages.py)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.errors import WireError
from device.frame import COUNT_CAP, MAGIC, RESEND, check_frame, seal

PATCH = 3
_MAX_NDIM, _MAX_NAME = 8, 256
_DTYPES = tuple(np.dtype(name) for name in ("<f4", "<f2", "i1", "u1", "<i4", "<i8", "?"))


def encode_patch(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """One message with the arrays in order of name; WireError for a dtype, rank or name the wire cannot say."""
    parts = [bytes((MAGIC, PATCH)), _varint(len(arrays))]
    for name, array in sorted(arrays.items()):
        parts += _array_parts(name, np.asarray(array))
    return seal(b"".join(parts))


def decode_patch(body: bytes) -> dict[str, NDArray[np.generic]]:
    """The named arrays, each writable and of its own memory; WireError for anything else than one whole patch."""
    check_frame(body, PATCH, "patch")
    if body[1] != PATCH:
        raise WireError(f"patch, flags: expected none, found 0x{body[1] ^ PATCH:02x}; {RESEND}")
    cursor = _Cursor(body[:-4])
    arrays: dict[str, NDArray[np.generic]] = {}
    for _ in range(cursor.varint("number of arrays", COUNT_CAP)):
        name = cursor.name()
        if arrays and name <= next(reversed(arrays)):
            raise WireError(f"patch, {name!r}: expected names in ascending order, each once; {RESEND}")
        arrays[name] = cursor.array(name)
    if cursor.at != len(cursor.data):
        raise WireError(f"patch, end: expected no trailing bytes, found {len(cursor.data) - cursor.at}; {RESEND}")
    return arrays


def _array_parts(name: str, array: NDArray[np.generic]) -> list[bytes]:
    label = name.encode()
    little = array.dtype.newbyteorder("<")
    if little not in _DTYPES or array.ndim > _MAX_NDIM or not 0 < len(label) <= _MAX_NAME:
        raise WireError(
            f"encoding patch, {name!r}: expected a name of 1..{_MAX_NAME} bytes, at most {_MAX_NDIM} axes and one of "
            f"{', '.join(kind.name for kind in _DTYPES)}, found {array.dtype} {array.shape}; convert it first"
        )
    sizes = [_varint(size) for size in (array.ndim, *array.shape)]
    return [_varint(len(label)), label, bytes((_DTYPES.index(little),)), *sizes, array.astype(little).tobytes()]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@dataclass(slots=True)
class _Cursor:
    data: bytes
    at: int = 2

    def take(self, size: int, field: str) -> bytes:
        left = len(self.data) - self.at
        if size > left:
            raise WireError(f"patch, {field}: expected {size} more bytes, found {left}; {RESEND}")
        self.at += size
        return self.data[self.at - size : self.at]

    def varint(self, field: str, cap: int) -> int:
        value = 0
        for place in range(9):
            byte = self.take(1, field)[0]
            value |= (byte & 127) << (7 * place)
            if byte < 128:
                break
        if byte > 127 or (place and byte == 0) or value > cap:
            raise WireError(f"patch, {field}: expected a shortest varint of at most {cap}, found {value}; {RESEND}")
        return value

    def name(self) -> str:
        raw = self.take(self.varint("length of a name", _MAX_NAME), "name")
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise WireError(f"patch, name: expected UTF-8, found {raw!r}; {RESEND}") from error
        if not text:
            raise WireError(f"patch, name: expected at least one character, found none; {RESEND}")
        return text

    def array(self, name: str) -> NDArray[np.generic]:
        code = self.take(1, f"{name}, dtype")[0]
        if code >= len(_DTYPES):
            raise WireError(f"patch, {name}, dtype: expected a code 0..{len(_DTYPES) - 1}, found {code}; {RESEND}")
        ndim = self.varint(f"{name}, axes", _MAX_NDIM)
        shape = [self.varint(f"{name}, shape", 2**31) for _ in range(ndim)]
        size = _DTYPES[code].itemsize
        for extent in shape:
            size *= extent
        raw = np.frombuffer(self.take(size, f"{name} {shape}"), np.uint8)
        if _DTYPES[code] == np.bool_ and (raw > 1).any():
            raise WireError(f"patch, {name}: expected bytes 0 and 1 for bool, found {raw.max()}; {RESEND}")
        kind = _DTYPES[code]
        return raw.view(kind).reshape(shape).astype(kind.newbyteorder("="))
