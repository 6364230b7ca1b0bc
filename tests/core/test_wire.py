# SPDX-License-Identifier: MIT
"""Frames are built as they are parsed; every cut is seen; what the text forbids is refused (protocol.md 7)."""

import json
import struct

import pytest
from core.crypto_help import ROOT, status
from core.endpoint_help import BYTES, PIPE, RELAY, UUID
from core.frame_help import (
    ADDRESSES,
    CLOSE,
    COVER,
    DATA,
    DEFAULTS,
    EPOCH,
    FRAMES,
    HELLO,
    HELLOS,
    INNER_MAX,
    IPS,
    KNOWN,
    N_REASONS,
    OPEN,
    PADDING,
    REKEY_DONE,
    VARINT_MAX,
    VARINTS,
    counted,
    varint,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from model.errors import WireError
from model.frames import frames_parse, hello_values, relay_target_parse
from model.reader import Reader
from model.record import padded_len

from qg._core import wire

# Varints


@given(VARINTS)
def test_varints_come_back_and_are_the_shortest(value):
    data = wire.build_varint(value)
    assert wire.parse_varint(data + b"more") == (len(data), value)
    assert len(data) == (1 if value < 64 else 2 if value < 1 << 14 else 4 if value < 1 << 30 else 8)
    for cut in range(len(data)):
        assert wire.parse_varint(data[:cut]) == (status.E_SHORT, None)


@given(st.integers(0, (1 << 30) - 1))
def test_varints_that_are_not_minimal_are_refused(value):
    forms = {2: struct.pack(">H", value & 63 | 0x4000), 4: struct.pack(">I", value & 16383 | 0x80000000)}
    forms[8] = struct.pack(">Q", value | 3 << 62)
    for data in forms.values():
        assert wire.parse_varint(data) == (status.E_VARINT, None)


# Frames


@given(FRAMES)
def test_frames_come_back_as_they_were_built(made):
    fields, data = made
    assert wire.parse_frame(data) == (len(data), fields)
    assert wire.parse_frame(data + b"\x00\x01 what follows") == (len(data), fields)


@given(FRAMES)
def test_every_truncation_is_seen(made):
    _, data = made
    for cut in range(len(data)):
        assert wire.parse_frame(data[:cut])[0] == status.E_SHORT


@pytest.mark.parametrize("kind", [kind for kind in range(64) if kind not in KNOWN])
def test_unknown_types_below_0x40_are_an_error(kind):
    assert wire.parse_frame(bytes([kind]) + bytes(100))[0] == status.E_FRAME


@pytest.mark.parametrize("kind", [0x40, 0x7F, 0x1234, 1 << 29, VARINT_MAX])
def test_unknown_types_from_0x40_up_are_skipped_by_their_length(kind):
    data = varint(kind) + counted(b"whatever it holds")
    assert wire.parse_frame(data + b"\x01")[0] == len(data)


def test_types_are_minimal_varints():
    assert wire.parse_frame(b"\x40\x01" + bytes(8))[0] == status.E_VARINT


@given(st.integers(1, INNER_MAX))
def test_padding_takes_the_rest_and_is_zero(length):
    assert wire.parse_frame(bytes(length))[0] == length
    for at in {1, length // 2, length - 1} - {0, length}:
        data = bytearray(length)
        data[at] = 1
        assert wire.parse_frame(bytes(data))[0] == status.E_NONZERO


@given(st.integers(N_REASONS, VARINT_MAX))
def test_unknown_reasons_read_as_none(reason):
    assert wire.parse_frame(wire.build_reset(1, reason, 2))[1]["reason"] == 0
    assert wire.parse_frame(wire.build_close(reason, b""))[1]["reason"] == 0


@pytest.mark.parametrize(
    "text", [b"\xc3\x28", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff", b"ab\xe2\x82"]
)
def test_a_closing_text_is_utf8(text):
    assert wire.parse_frame(wire.build_close(0, text))[0] == status.E_UTF8


@given(st.binary(max_size=64))
def test_a_closing_text_passes_where_python_reads_it(text):
    try:
        text.decode()
        expected = 3 + len(text)
    except UnicodeDecodeError:
        expected = status.E_UTF8
    assert wire.parse_frame(wire.build_close(0, text))[0] == expected


def test_lengths_have_limits():
    limits = [
        (bytes([CLOSE, 0, 65]) + b"x" * 65, status.E_LONG),
        (bytes([HELLO]) + counted(bytes(4097)), status.E_LONG),
        (bytes([DATA, 1]) + counted(bytes(INNER_MAX + 1)), status.E_LONG),
        (bytes([COVER]) + counted(bytes(INNER_MAX + 1)), status.E_LONG),
        (wire.build_open(1, BYTES, 1, 0, UUID + bytes(1025)), status.E_LONG),
        (wire.build_open(1, BYTES, 1, 0, UUID[:15]), status.E_FRAME),
        (wire.build_open(1, PIPE, 1, 0, b""), status.E_FRAME),
        (wire.build_open(1, PIPE, 1, 0, b"\x08\x08"), status.E_FRAME),
        (wire.build_open(1, BYTES, 3, 0, UUID), status.E_FRAME),
    ]
    assert [wire.parse_frame(data)[0] for data, _ in limits] == [code for _, code in limits]


# HELLO


def hello_body(data):
    length, parsed = wire.parse_frame(data)
    assert (length, parsed["type"]) == (len(data), HELLO)
    return parsed["data"]


@given(HELLOS)
def test_hellos_come_back_as_they_were_built(fields):
    assert wire.parse_hello(hello_body(wire.build_hello(fields))) == fields


@given(HELLOS)
def test_the_other_implementation_reads_the_same_hello(fields):
    (hello,) = frames_parse(wire.build_hello(fields))
    values = hello_values(hello)
    for name in ("session_credit", "max_service_streams", "max_pipes", "max_message", "padding", "instance"):
        assert getattr(values, name) == fields[name]
    assert values.worker == (fields["worker"], fields["n_workers"])
    assert values.relay_terms == fields["terms"]
    assert list(values.services) == fields["services"]


def test_an_empty_hello_says_the_defaults():
    assert wire.build_hello() == bytes([HELLO, 0])
    assert wire.parse_hello(b"") == DEFAULTS


@pytest.mark.parametrize("number", [0, 10, 63, 64, 5000])
def test_unknown_entries_are_skipped(number):
    entry = varint(number) + counted(b"from a later version")
    known = varint(3) + counted(varint(8))
    body = entry + known if number < 3 else known + entry
    assert wire.parse_hello(body) == DEFAULTS | {"max_pipes": 8}


@pytest.mark.parametrize(
    "body",
    [
        b"\x03\x01\x08\x03\x01\x08",
        b"\x04\x01\x08\x03\x01\x08",
        b"\x03\x02\x08\x08",
        b"\x03\x00",
        b"\x03\x02\x40\x08",
        b"\x05\x01\x04",
        b"\x06\x01\x04",
        b"\x07\x07instanc",
        b"\x08\x04abcd",
        b"\x09\x0f" + bytes(15),
        b"\x09\x11" + bytes(17),
    ],
)
def test_entries_ascend_and_have_their_form(body):
    assert wire.parse_hello(body) < 0


@given(HELLOS)
def test_a_cut_hello_is_refused_unless_it_ends_with_an_entry(fields):
    body = hello_body(wire.build_hello(fields))
    ends, reader = {0}, Reader(body)
    while reader.remaining():
        reader.varint()
        reader.counted()
        ends.add(reader.pos)
    for cut in range(len(body)):
        parsed = wire.parse_hello(body[:cut])
        assert isinstance(parsed, dict) == (cut in ends)


# Addresses


@given(ADDRESSES)
def test_addresses_come_back_as_they_were_built(fields):
    data = wire.build_address(fields)
    assert wire.parse_address(data + b"more") == (len(data), fields)
    for cut in range(len(data)):
        assert wire.parse_address(data[:cut]) == (status.E_SHORT, None)


@pytest.mark.parametrize(
    "data", [b"\x05" + bytes(20), b"\x00" * 20, b"\x01\x00\x1d\x17", b"\x04\x01\x02\x03\x04\x00\x00"]
)
def test_unknown_kinds_empty_names_and_port_0_are_refused(data):
    assert wire.parse_address(data) == (status.E_ADDRESS, None)


@pytest.mark.parametrize("name", [b"a b", b"tab\t", b"nul\0", b"n\xc3\xb6", b"\x7f", b"line\n"])
def test_names_are_printable_ascii(name):
    assert wire.parse_address(bytes([1, len(name)]) + name + b"\x01\x00") == (status.E_ADDRESS, None)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.lists(IPS, min_size=1, max_size=4))
def test_relay_targets_come_back_as_they_were_built(link_key, peer_id, addresses):
    data = wire.build_open_relay(link_key, peer_id, addresses)
    assert wire.parse_open_relay(data) == (link_key, peer_id, addresses)
    for cut in range(len(data)):
        assert wire.parse_open_relay(data[:cut]) == status.E_SHORT
    assert wire.parse_open_relay(data + b"\0") == status.E_LONG


def test_a_relay_target_has_one_to_four_addresses_and_no_names():
    ip = wire.build_address((4, bytes([192, 0, 2, 7]), 7447))
    name = wire.build_address((1, b"node.example.org", 7447))
    assert wire.parse_open_relay(bytes(64) + b"\x00") == status.E_FRAME
    assert wire.parse_open_relay(bytes(64) + b"\x05" + ip * 5) == status.E_FRAME
    assert wire.parse_open_relay(bytes(64) + b"\x02" + ip + name) == status.E_ADDRESS


# Padding


@pytest.mark.parametrize("mode", range(4))
def test_padding_sizes_are_those_of_the_text(mode):
    for length in range(1, INNER_MAX + 1):
        assert wire.pad_length(length, mode) == padded_len(mode, length), length


def test_light_padding_costs_at_most_12_percent_of_bulk():
    assert all(length <= wire.pad_length(length, 1) <= length * 1.12 for length in range(1025, INNER_MAX + 1))


# The other implementation


def frames_of(inner):
    """Parse a whole record: (type, data) of its frames, or the code of the first wrong one."""
    found = []
    while inner:
        length, parsed = wire.parse_frame(inner)
        if length < 0:
            return length
        found.append(parsed)
        inner = inner[length:]
    return found


VALID = json.loads((ROOT / "tests" / "kat" / "frame.json").read_text())["valid"]
INVALID = json.loads((ROOT / "tests" / "kat" / "frame.json").read_text())["invalid"]
ABOVE = ("only PADDING may follow EPOCH", "REKEY_DONE never shares a record with EPOCH")  # rules of the session


@pytest.mark.parametrize("answer", VALID, ids=lambda answer: answer["frames"][0]["frame"])
def test_known_frames_pass(answer):
    found = frames_of(bytes.fromhex(answer["inner"]))
    assert len(found) == len(answer["frames"])
    for parsed, expected in zip(found, answer["frames"], strict=True):
        for ours, theirs in (("id", "id"), ("kind", "kind"), ("priority", "priority"), ("reason", "reason")):
            if theirs in expected:
                assert parsed[ours] == expected[theirs]
        for theirs in ("offset", "credit", "sent"):
            if theirs in expected:
                assert parsed["offset"] == expected[theirs]
        if "data" in expected and expected["frame"] not in ("Ping", "Pong"):
            assert parsed["data"].hex() == expected["data"]
        if parsed["type"] == HELLO:
            assert isinstance(wire.parse_hello(parsed["data"]), dict)
        if parsed["kind"] == RELAY:
            assert isinstance(wire.parse_open_relay(parsed["data"]), tuple)


@pytest.mark.parametrize("answer", INVALID, ids=lambda answer: answer["why"])
def test_known_wrong_frames_are_refused(answer):
    found = frames_of(bytes.fromhex(answer["inner"]))
    if answer["why"] in ABOVE:
        assert isinstance(found, list)
    elif isinstance(found, int):
        assert found < 0
    elif found[0]["type"] == HELLO:
        assert wire.parse_hello(found[0]["data"]) < 0
    else:
        assert found[0]["kind"] == RELAY
        assert wire.parse_open_relay(found[0]["data"]) < 0


def is_lawful(inner):
    """Whether the core passes a record, with the rules that stand above `frame_parse`."""
    found = frames_of(inner)
    if isinstance(found, int):
        return False
    for parsed in found:
        if parsed["type"] == HELLO and isinstance(wire.parse_hello(parsed["data"]), int):
            return False
        if (
            parsed["type"] == OPEN
            and parsed["kind"] == RELAY
            and isinstance(wire.parse_open_relay(parsed["data"]), int)
        ):
            return False
    last = next((i for i, parsed in enumerate(found) if parsed["type"] in (EPOCH, REKEY_DONE)), len(found))
    return all(parsed["type"] == PADDING for parsed in found[last + 1 :])


def has_what_only_the_core_refuses(inner):
    """Port 0 and kinds of streams that do not exist: the text leaves them open."""
    for parsed in frames_parse(inner):
        name = type(parsed).__name__
        if name == "Open" and parsed.kind > RELAY:
            return True
        if name == "Open" and parsed.kind == RELAY:
            return any(address.port == 0 for address in relay_target_parse(parsed.body).addresses)
        if name == "Observed" and parsed.address.port == 0:
            return True
    return False


@st.composite
def damaged(draw):
    data = bytearray(b"".join(made for _, made in draw(st.lists(FRAMES, min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 2))):
        data[draw(st.integers(0, min(len(data) - 1, 40)))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@settings(max_examples=1000)
@given(st.one_of(damaged(), st.binary(max_size=40)))
def test_both_implementations_refuse_the_same_records(inner):
    try:
        frames_parse(inner)
        expected = not has_what_only_the_core_refuses(inner)
    except WireError:
        expected = False
    assert is_lawful(inner) == expected


@pytest.mark.parametrize("head", [b"\x10", b"\x10\0"])
def test_services_come_and_go_by_250_at_most(head):
    tail = b"" if len(head) == 2 else b"\0"
    assert wire.parse_frame(head + varint(251) + bytes(16 * 251) + tail)[0] == status.E_FRAME
    whole = head + varint(250) + bytes(16 * 250) + tail
    assert wire.parse_frame(whole)[0] == len(whole)
