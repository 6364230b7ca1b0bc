# SPDX-License-Identifier: MIT
"""Messages of a stream: byte by byte as all at once, and packed again to the same bytes."""

from qg._core.message import MessageReader, Packed, message_head, messages_pack, messages_take

LIMIT = 300


def run(data: bytes) -> None:
    whole, pieces = MessageReader(LIMIT), MessageReader(LIMIT)
    messages = whole.feed(data)
    assert [message for at in range(len(data)) for message in pieces.feed(data[at : at + 1])] == messages
    assert (pieces.reason, pieces.has_packed) == (whole.reason, whole.has_packed)
    assert all(len(message) <= LIMIT for message in messages)
    taken = b"".join(message_head(len(each), isinstance(each, Packed)) + each for each in messages)
    assert data.startswith(taken)
    if whole.reason == 0:
        assert pieces.n_pending == whole.n_pending == len(data) - len(taken)
    else:
        assert whole.feed(b"\1\0a") == []
    if not whole.has_packed:
        assert messages_take(messages, LIMIT) == (messages, -1)
        assert messages_pack(messages, 0, len(taken)) == (taken, len(messages))
