import json
import socket
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from srpo_ray.rewards.environment.protocol import DTYPES, ConnectionEndedError, receive, send

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 5, 7)])
def test_arrays_arrive_with_type_shape_and_every_bit(pair: Pair, dtype: str, shape: tuple[int, ...]) -> None:
    bits = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 256, 4096, dtype=np.uint8)
    size = int(np.prod(shape))
    array = bits[: size * np.dtype(dtype).itemsize].view(dtype).reshape(shape)

    send(pair[0], {}, [array])
    (received,) = receive(pair[1])[1]

    assert (received.dtype, received.shape) == (array.dtype, shape)
    assert received.tobytes() == array.tobytes()
    assert received.flags.writeable


def test_values_and_several_arrays_keep_their_order_and_messages_do_not_mix(pair: Pair) -> None:
    transposed = np.arange(6.0).reshape(2, 3).T

    send(pair[0], {"text": "é\n", "terms": [[1.5, "a"]]}, [transposed, np.array([1], "int16")])
    send(pair[0], {"second": True})

    values, arrays = receive(pair[1])
    assert values == {"text": "é\n", "terms": [[1.5, "a"]]}
    assert arrays[0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert arrays[1].tolist() == [1]
    assert receive(pair[1]) == ({"second": True}, [])


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([object()]), np.array([1j])])
def test_other_types_are_refused_before_anything_is_sent(pair: Pair, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected an array of a type of bool.*received"):
        send(pair[0], {}, [array])
    send(pair[0], {"next": 1})
    assert receive(pair[1])[0] == {"next": 1}


def framed(header: bytes) -> bytes:
    return struct.pack(">Q", len(header)) + header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0",
        framed(b"{"),
        framed(b"[]"),
        framed(json.dumps({"values": {}}).encode()),
        framed(json.dumps({"values": {}, "arrays": [{"dtype": "object", "shape": [1]}]}).encode()),
        framed(json.dumps({"values": {}, "arrays": [{"dtype": "float32", "shape": [9]}]}).encode()) + b"\0",
        struct.pack(">Q", 1 << 60),
    ],
)
def test_cut_and_damaged_messages_are_one_error(pair: Pair, content: bytes) -> None:
    pair[0].sendall(content)
    pair[0].close()

    with pytest.raises(ConnectionEndedError):
        receive(pair[1])


def test_sending_to_a_process_that_ended_is_the_same_error(pair: Pair) -> None:
    pair[1].close()

    with pytest.raises(ConnectionEndedError, match="broke"):
        send(pair[0], {}, [np.zeros(1_000_000)])
