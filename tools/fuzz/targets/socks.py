# SPDX-License-Identifier: MIT
"""What programs say to the proxy, and targets to both: byte by byte as all at once, and written again alike."""

import qg
from qg.extenders.proxy.front import Front, FrontError, datagram_read, datagram_write
from qg.extenders.proxy.plain_http import answer_closing
from qg.extenders.sockets.outcome import Outcome
from qg.extenders.sockets.target import Target, target_read


def run(data: bytes) -> None:
    whole = heard([data])
    assert heard([data[at : at + 1] for at in range(len(data))]) == whole
    targets(data)
    if data:
        try:
            answer = answer_closing(data)
        except FrontError:
            answer = None
        assert answer is None or b"\nConnection: close\r\n" in answer or answer.endswith(b"\nConnection: close\r")


def heard(pieces: list[bytes]) -> tuple:
    """What a proxy understands: the request, what it says, what is for the target, or that it is nothing."""
    front, said, rest = Front(), b"", b""
    try:
        for piece in pieces:
            if front.request is None:
                said += front.feed(piece)
                rest = front.rest
            elif front.request.dialect == "http":
                rest += front.body(piece)
            else:
                rest += piece
    except FrontError as error:
        # What was said before goes out before it, so a fault in the body must not tell how the bytes came.
        return None if front.request is None else front.request, error.answer
    request = front.request
    if request is not None:
        check(front, request.target)
    return request, said, rest if request is not None else b""


def check(front: Front, target: Target) -> None:
    assert 0 < target.port <= 65535 or front.request.command == "associate"
    assert target_read(bytes(target)) == (target, len(bytes(target)))
    for outcome in Outcome:
        assert isinstance(front.answer(outcome), bytes)


def targets(data: bytes) -> None:
    found = datagram_read(data)
    if found is not None:
        assert datagram_read(datagram_write(*found)) == found
    try:
        read = target_read(data)
        made = Target.parse(data.decode("latin-1"))
    except qg.InvalidValue:
        return
    if read is not None:
        assert target_read(bytes(read[0])) == (read[0], len(bytes(read[0])))
    assert Target.parse(str(made)) == made
    assert target_read(bytes(made)) == (made, len(bytes(made)))
