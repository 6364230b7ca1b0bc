# SPDX-License-Identifier: MIT
"""Frames of a record: taken where the second reading takes them, each built again to the same bytes."""

from model.errors import WireError
from model.frames import Close, Data, Hello, Open, Reset, frames_parse, hello_values, relay_target_parse
from model.reader import Reader, address_read, varint_build

from qg._core import wire

INNER_MAX = 16384
PADDING, HELLO, OPEN, DATA, DATA_FIN, RESET = 0, 3, 0x08, 0x0A, 0x0B, 0x0D
RELAY = 3
ENDS = (0x20, 0x23)  # EPOCH, REKEY_DONE: only PADDING may follow
E_SHORT = -1


def run(data: bytes) -> None:
    inner = data[:INNER_MAX]
    frames = walk(inner)
    try:
        expected = frames_parse(inner)
    except WireError:
        expected = None
    assert (frames is None) == (expected is None), (frames, expected)
    for (fields, raw), other in zip(frames or (), expected or (), strict=True):
        assert other.build() == raw
        rebuild(fields, raw, other)
    pieces(inner)


def walk(inner: bytes) -> list[tuple[dict, bytes]] | None:
    """Give the frames that the core finds, as a session looks at them; None where it refuses."""
    found, at, is_end = [], 0, False
    while at < len(inner):
        n, fields = wire.parse_frame(inner[at:])
        if n < 0:
            return None
        assert 0 < n <= len(inner) - at
        raw = inner[at : at + n]
        if is_end and fields["type"] != PADDING:
            return None
        if fields["type"] == HELLO and isinstance(wire.parse_hello(fields["data"]), int):
            return None
        if fields["type"] != PADDING:
            assert wire.parse_frame(raw) == (n, fields)
            assert wire.parse_frame(raw[:-1])[0] < 0
        is_end = fields["type"] in ENDS
        found.append((fields, raw))
        at += n
    return found


def rebuild(fields: dict, raw: bytes, other: object) -> None:
    kind = fields["type"]
    if kind in (DATA, DATA_FIN):
        assert wire.build_data(fields["id"], fields["data"], kind) == raw
    elif kind == OPEN:
        assert isinstance(other, Open)
        assert (fields["id"], fields["kind"], fields["priority"]) == (other.id, other.kind, other.priority)
        assert wire.build_open(other.id, other.kind, other.priority, fields["offset"], fields["data"]) == raw
        if other.kind == RELAY:
            target = wire.parse_open_relay(other.body)
            assert isinstance(target, tuple) and wire.build_open_relay(*target) == other.body
            assert relay_target_parse(other.body).link_key == target[0]
    elif kind == RESET:
        assert isinstance(other, Reset)
        assert (fields["id"], fields["offset"]) == (other.id, other.sent)
    elif kind == HELLO:
        assert isinstance(other, Hello)
        hello, values = wire.parse_hello(fields["data"]), hello_values(other)
        assert hello["session_credit"] == values.session_credit and hello["max_message"] == values.max_message
        assert wire.parse_hello(wire.parse_frame(wire.build_hello(hello))[1]["data"]) == hello
    elif isinstance(other, Close | Data):
        assert other.build() == raw


def pieces(inner: bytes) -> None:
    """Varints and addresses at the front."""
    length, value = wire.parse_varint(inner)
    if value is not None:
        assert wire.build_varint(value) == varint_build(value) == inner[:length]
    length, address = wire.parse_address(inner)
    try:
        reader = Reader(inner)
        expected = address_read(reader)
    except WireError:
        assert length < 0
        return
    assert length == reader.pos and address == (expected.kind, expected.host, expected.port)
    assert wire.build_address(address) == inner[:length]
