# SPDX-License-Identifier: MIT
"""Lawful frames of every type, as Hypothesis strategies: what the parser gives, and the bytes."""

from core.endpoint_help import BYTES, MESSAGES, PIPE, RELAY, UUID
from hypothesis import strategies as st
from model.reader import Reader

from qg._core import wire

PADDING, PING, PONG, HELLO, CLOSE = range(5)
OPEN, ACCEPT, DATA, DATA_FIN, CREDIT, RESET, SESSION_CREDIT = range(0x08, 0x0F)
SERVICES, PEERS, OBSERVED, COVER = 0x10, 0x11, 0x12, 0x18
EPOCH, REKEY1, REKEY2, REKEY_DONE, GREASE = 0x20, 0x21, 0x22, 0x23, 0x40
KNOWN = (*range(5), *range(0x08, 0x0F), 0x10, 0x11, 0x12, 0x18, 0x20, 0x21, 0x22, 0x23)
N_REASONS = 17
INNER_MAX = 16384
VARINT_MAX = (1 << 62) - 1

VARINTS = st.one_of(
    st.integers(0, VARINT_MAX),
    st.integers(0, 70),
    st.sampled_from([63, 64, 16383, 16384, (1 << 30) - 1, 1 << 30, VARINT_MAX]),
)
TOKENS = st.integers(0, (1 << 64) - 1)
SMALL = st.binary(max_size=300)
KEYS = st.binary(min_size=32, max_size=32)
NAMES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255).map(str.encode)
PORTS = st.integers(1, 65535)
IPS = st.one_of(
    st.tuples(st.just(4), st.binary(min_size=4, max_size=4), PORTS),
    st.tuples(st.just(6), st.binary(min_size=16, max_size=16), PORTS),
)
ADDRESSES = st.one_of(IPS, st.tuples(st.just(1), NAMES, PORTS))


def varint(value):
    return wire.build_varint(value)


def counted(data):
    return varint(len(data)) + data


def frame(type, **fields):
    empty = {"id": 0, "offset": 0, "reason": 0, "kind": 0, "priority": 0, "data": b""}
    return {"type": type} | empty | fields


# (what parse_frame gives, the bytes) of lawful frames of every type but PADDING
OPENINGS = st.one_of(
    st.tuples(st.sampled_from([BYTES, MESSAGES]), st.binary(min_size=16, max_size=1040)),
    st.tuples(st.just(PIPE), st.binary(min_size=1, max_size=1)),
    st.tuples(st.just(RELAY), st.builds(wire.build_open_relay, KEYS, KEYS, st.lists(IPS, min_size=1, max_size=4))),
)


@st.composite
def opens(draw):
    number, priority, credit = draw(VARINTS), draw(st.integers(0, 2)), draw(VARINTS)
    kind, data = draw(OPENINGS)
    fields = frame(OPEN, id=number, kind=kind, priority=priority, offset=credit, data=data)
    return fields, wire.build_open(number, kind, priority, credit, data)


@st.composite
def texts(draw):
    reason, text = draw(st.integers(0, N_REASONS - 1)), draw(st.text(max_size=16)).encode()
    return frame(CLOSE, reason=reason, data=text), wire.build_close(reason, text)


DEFAULTS = {
    "session_credit": 1048576,
    "max_service_streams": 1024,
    "max_pipes": 0,
    "max_message": 1048576,
    "padding": 1,
    "worker": 0,
    "n_workers": 0,
    "instance": bytes(8),
    "terms": None,
    "services": [],
}
U32 = st.integers(0, (1 << 32) - 1)
HELLOS = st.fixed_dictionaries(
    {
        "session_credit": VARINTS,
        "max_service_streams": VARINTS,
        "max_pipes": VARINTS,
        "max_message": VARINTS,
        "padding": st.integers(0, 3),
        "worker": st.integers(0, 255),
        "n_workers": st.integers(0, 255),
        "instance": st.binary(min_size=8, max_size=8),
        "terms": st.one_of(st.none(), st.tuples(U32, U32)),
        "services": st.lists(st.binary(min_size=16, max_size=16), max_size=9),
    }
)

FRAMES = st.one_of(
    HELLOS.map(wire.build_hello).map(lambda x: (frame(HELLO, data=Reader(x[1:]).counted()), x)),
    st.tuples(st.sampled_from([PING, PONG]), TOKENS).map(lambda x: (frame(x[0], id=x[1]), wire.build_ping(*x))),
    st.tuples(VARINTS, SMALL, st.sampled_from([DATA, DATA_FIN])).map(
        lambda x: (frame(x[2], id=x[0], data=x[1]), wire.build_data(*x))
    ),
    st.tuples(st.sampled_from([ACCEPT, CREDIT]), VARINTS, VARINTS).map(
        lambda x: (frame(x[0], id=x[1], offset=x[2]), wire.build_offset(*x))
    ),
    VARINTS.map(lambda x: (frame(SESSION_CREDIT, offset=x), wire.build_offset(SESSION_CREDIT, 0, x))),
    st.tuples(VARINTS, st.integers(0, N_REASONS - 1), VARINTS).map(
        lambda x: (frame(RESET, id=x[0], reason=x[1], offset=x[2]), wire.build_reset(*x))
    ),
    opens(),
    texts(),
    SMALL.map(lambda x: (frame(COVER, data=x), bytes([COVER]) + counted(x))),
    st.tuples(st.integers(GREASE, VARINT_MAX), SMALL).map(
        lambda x: (frame(x[0], data=x[1]), varint(x[0]) + counted(x[1]))
    ),
    ADDRESSES.map(lambda x: (frame(OBSERVED, data=wire.build_address(x)), bytes([OBSERVED]) + wire.build_address(x))),
    st.tuples(st.integers(0, 4), st.integers(0, 4))
    .map(lambda n: b"".join(varint(k) + UUID * k for k in n))
    .map(lambda x: (frame(SERVICES, data=x), bytes([SERVICES]) + x)),
    st.lists(SMALL, max_size=4).map(
        lambda x: (
            frame(PEERS, data=b"".join(map(counted, x))),
            bytes([PEERS]) + varint(len(x)) + b"".join(map(counted, x)),
        )
    ),
    st.sampled_from([EPOCH, REKEY_DONE]).map(lambda x: (frame(x), bytes([x]))),
    st.sampled_from([(REKEY1, 1272), (REKEY2, 1176)]).map(
        lambda x: (frame(x[0], data=b"k" * x[1]), bytes([x[0]]) + b"k" * x[1])
    ),
)
