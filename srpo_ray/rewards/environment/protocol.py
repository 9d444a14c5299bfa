"""Messages between a replica and the process of a reward: JSON and numpy arrays, no pickled objects.

The packages of the two processes may have different versions, so only plain values cross. A message is the length of
its header, the header in JSON with the values and the types and shapes of the arrays, and the bytes of the arrays.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from socket import socket
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 1
"""Version of the messages; both processes check that they have the same."""
DTYPES = ("bool", "uint8", "int16", "int32", "int64", "float16", "float32", "float64")
"""Types of the arrays that can be sent."""

Array = NDArray[Any]
Values = dict[str, Any]
_LENGTH = struct.Struct(">Q")
_MOST_HEADER_BYTES = 1 << 30


class ConnectionEndedError(Exception):
    """End of the other process, or a damaged message of it."""


def send(connection: socket, values: Mapping[str, Any], arrays: Sequence[Array] = ()) -> None:
    """Send one message.

    Args:
        connection: Socket to the other process.
        values: Content for JSON.
        arrays: Arrays of any shape.

    Raises:
        ValueError: If an array has another type than those of `DTYPES`.
        ConnectionEndedError: If the other process has ended.
    """
    kinds = [{"dtype": _checked(array.dtype.name), "shape": list(array.shape)} for array in arrays]
    header = json.dumps({"values": values, "arrays": kinds}).encode()
    try:
        connection.sendall(_LENGTH.pack(len(header)) + header)
        for array in arrays:
            connection.sendall(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    except OSError as error:
        raise ConnectionEndedError(f"the connection broke: {error}") from error


def receive(connection: socket) -> tuple[Values, list[Array]]:
    """Wait for one message.

    Returns:
        Values and writable arrays.

    Raises:
        ConnectionEndedError: If the other process has ended or sent something else.
    """
    (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size))
    if length > _MOST_HEADER_BYTES:
        raise ConnectionEndedError(f"a header of {length} bytes is no message")
    try:
        header = json.loads(_read(connection, length))
        kinds = [(np.dtype(_checked(kind["dtype"])), tuple(kind["shape"])) for kind in header["arrays"]]
        values = header["values"]
    except (ValueError, LookupError, TypeError) as error:
        raise ConnectionEndedError(f"a message is damaged: {error!r}") from error
    arrays: list[Array] = []
    for dtype, shape in kinds:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        arrays.append(np.frombuffer(_read(connection, size), dtype).reshape(shape))
    return values, arrays


def _checked(dtype: str) -> str:
    if dtype not in DTYPES:
        raise ValueError(f"expected an array of a type of {', '.join(DTYPES)}, received {dtype}; convert it")
    return dtype


def _read(connection: socket, size: int) -> bytearray:
    content = bytearray(size)
    rest = memoryview(content)
    while rest:
        try:
            count = connection.recv_into(rest)
        except OSError as error:
            raise ConnectionEndedError(f"the connection broke: {error}") from error
        if count == 0:
            raise ConnectionEndedError("the connection was closed")
        rest = rest[count:]
    return content
