# SPDX-License-Identifier: MIT
"""What programs say to a proxy: SOCKS5, SOCKS4, SOCKS4a and HTTP, whole, byte by byte, and wrong at every place."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qg.errors import InvalidValue
from qg.extenders.proxy.front import Front, FrontError, Request, datagram_read, datagram_write
from qg.extenders.sockets.outcome import Outcome
from qg.extenders.sockets.target import Target, target_read

NAME = b"\x03\x0bexample.org\x01\xbb"
HOST = Target("example.org", 443)

# what the program sends, what it is answered before its request is carried out, the request, what is left over
TALKS = {
    "socks5, no password": (b"\5\1\0" + b"\5\1\0" + NAME, b"\5\0", ("connect", HOST, b"", b"", "socks5"), b""),
    "socks5, IPv4 and early data": (
        b"\5\1\0" + b"\5\1\0\1\x08\x08\x04\x04\0\x50GET",
        b"\5\0",
        ("connect", Target("8.8.4.4", 80), b"", b"", "socks5"),
        b"GET",
    ),
    "socks5, IPv6": (
        b"\5\1\0" + b"\5\1\0\4" + bytes(15) + b"\1\0\x50",
        b"\5\0",
        ("connect", Target("::1", 80), b"", b"", "socks5"),
        b"",
    ),
    "socks5, password": (
        b"\5\2\0\2" + b"\1\2me\4pass" + b"\5\1\0" + NAME,
        b"\5\2\1\0",
        ("connect", HOST, b"\2me\4pass", b"", "socks5"),
        b"",
    ),
    "socks5, datagrams": (
        b"\5\1\0" + b"\5\3\0\1" + bytes(6),
        b"\5\0",
        ("associate", Target("0.0.0.0", 0), b"", b"", "socks5"),
        b"",
    ),
    "socks4": (b"\4\1\0\x50\x08\x08\x04\x04me\0", b"", ("connect", Target("8.8.4.4", 80), b"me", b"", "socks4"), b""),
    "socks4a": (b"\4\1\x01\xbb\0\0\0\1\0example.org\0xy", b"", ("connect", HOST, b"", b"", "socks4"), b"xy"),
    "http connect": (
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\nhello",
        b"",
        ("connect", HOST, b"", b"", "connect"),
        b"hello",
    ),
    "http connect with a password": (
        b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic "
        + base64.b64encode(b"me:pass")
        + b"\r\n\r\n",
        b"",
        ("connect", Target("2001:db8::1", 443), b"me:pass", b"", "connect"),
        b"",
    ),
    "http get": (
        b"GET http://Example.org:8080/a?b=c HTTP/1.1\r\nHost: wrong\r\nProxy-Connection: keep-alive\r\n"
        b"Connection: keep-alive, X-Own\r\nX-Own: 1\r\nAccept: */*\r\n\r\n",
        b"",
        (
            "connect",
            Target("example.org", 8080),
            b"",
            b"GET /a?b=c HTTP/1.1\r\nHost: Example.org:8080\r\nConnection: close\r\nAccept: */*\r\n\r\n",
            "http",
        ),
        b"",
    ),
    "http post": (
        b"POST http://example.org HTTP/1.1\r\nHost: example.org\r\nContent-Length: 3\r\n\r\nabc",
        b"",
        (
            "connect",
            Target("example.org", 80),
            b"",
            b"POST / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\nContent-Length: 3\r\n\r\n",
            "http",
        ),
        b"abc",
    ),
    "http 1.0": (
        b"GET http://example.org/ HTTP/1.0\r\n\r\n",
        b"",
        (
            "connect",
            Target("example.org", 80),
            b"",
            b"GET / HTTP/1.0\r\nHost: example.org\r\nConnection: close\r\n\r\n",
            "http",
        ),
        b"",
    ),
}


def fed(pieces):
    front = Front()
    return front, b"".join(front.feed(piece) for piece in pieces)


@pytest.mark.parametrize("name", TALKS)
def test_a_request_is_understood(name):
    said, answer, request, rest = TALKS[name]
    front, answered = fed([said])
    assert (front.request, answered, front.rest) == (Request(*request), answer, rest)


@pytest.mark.parametrize("name", TALKS)
def test_byte_by_byte_is_as_good_as_all_at_once(name):
    said, answer, request, rest = TALKS[name]
    said = said[: len(said) - len(rest)]
    front, answered = fed(bytes((byte,)) for byte in said)
    assert (front.request, answered, front.rest) == (Request(*request), answer, b"")


@pytest.mark.parametrize("name", TALKS)
def test_a_request_that_is_cut_short_is_none(name):
    said, _, _, rest = TALKS[name]
    for n in range(len(said) - len(rest)):
        assert fed([said[:n]])[0].request is None


WRONG = {
    "no greeting": (b"\6\1\0", b""),
    "a TLS greeting": (b"\x16\3\1\2\0", b""),
    "no method that is known": (b"\5\1\1", b"\5\xff"),
    "no method at all": (b"\5\0", b"\5\xff"),
    "another version of the password": (b"\5\1\2\2", b"\1\1"),
    "another version of the request": (b"\5\1\0\4", b"\5\1\0\1" + bytes(6)),
    "bind": (b"\5\1\0\5\2\0" + NAME, b"\5\7\0\1" + bytes(6)),
    "an unknown command": (b"\5\1\0\5\x09\0" + NAME, b"\5\7\0\1" + bytes(6)),
    "an unknown kind of address": (b"\5\1\0\5\1\0\2abcd\0\x50", b"\5\x08\0\1" + bytes(6)),
    "an empty name": (b"\5\1\0\5\1\0\3\0\0\x50", b"\5\x08\0\1" + bytes(6)),
    "a name with a space": (b"\5\1\0\5\1\0\3\3a b\0\x50", b"\5\x08\0\1" + bytes(6)),
    "a name with a zero": (b"\5\1\0\5\1\0\3\3a\0b\0\x50", b"\5\x08\0\1" + bytes(6)),
    "a name that is not ASCII": (b"\5\1\0\5\1\0\3\3a\xffb\0\x50", b"\5\x08\0\1" + bytes(6)),
    "port 0": (b"\5\1\0\5\1\0\1\1\2\3\4\0\0", b"\5\1\0\1" + bytes(6)),
    "socks4 bind": (b"\4\2\0\x50\1\2\3\4\0", b"\0\x5b" + bytes(6)),
    "socks4 port 0": (b"\4\1\0\0\1\2\3\4\0", b"\0\x5b" + bytes(6)),
    "socks4 user without end": (b"\4\1\0\x50\1\2\3\4" + b"u" * 256, b"\0\x5b" + bytes(6)),
    "socks4a name without end": (b"\4\1\0\x50\0\0\0\1\0" + b"n" * 256, b"\0\x5b" + bytes(6)),
    "socks4a empty name": (b"\4\1\0\x50\0\0\0\1\0\0", b"\0\x5b" + bytes(6)),
}
WRONG_HTTP = {
    "not a request": b"HELLO\r\n\r\n",
    "https without CONNECT": b"GET https://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "a path only": b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "no port": b"CONNECT example.org HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "a port of letters": b"CONNECT example.org:https HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "port 0 of CONNECT": b"CONNECT example.org:0 HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "a port too large": b"GET http://example.org:65536/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "a header without end": b"GET http://example.org/ HTTP/1.1\r\nX: " + b"x" * 20_000,
    "two lengths": b"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_request_is_refused_in_its_own_tongue(name):
    said, answer = WRONG[name]
    with pytest.raises(FrontError) as caught:
        fed([said])
    assert caught.value.answer == answer
    with pytest.raises(FrontError) as caught:
        fed(bytes((byte,)) for byte in said)
    assert caught.value.answer == answer


@pytest.mark.parametrize("name", WRONG_HTTP)
def test_wrong_http_is_answered_with_a_status(name):
    with pytest.raises(FrontError) as caught:
        fed([WRONG_HTTP[name]])
    assert caught.value.answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")


@given(st.lists(st.binary(max_size=64), max_size=12), st.sampled_from([said for said, *_ in TALKS.values()]), st.data())
def test_no_bytes_do_more_than_a_refusal(noise, said, data):
    """Noise, and requests with one byte changed: a request, a refusal, or waiting for more of at most 16 KiB."""
    at = data.draw(st.integers(0, len(said) - 1))
    changed = said[:at] + bytes((data.draw(st.integers(0, 255)),)) + said[at + 1 :]
    for pieces in (noise, [changed], [bytes((byte,)) for byte in changed]):
        try:
            front, _ = fed(pieces)
        except FrontError:
            continue
        if front.request is not None:
            assert front.request.target.port > 0 or front.request.command == "associate"


@pytest.mark.parametrize(
    ("said", "good", "bad"),
    [
        (TALKS["socks5, no password"][0], b"\5\0\0\1" + bytes(6), b"\5\5\0\1" + bytes(6)),
        (TALKS["socks4"][0], b"\0\x5a" + bytes(6), b"\0\x5b" + bytes(6)),
        (TALKS["http connect"][0], b"HTTP/1.1 200 Connection established\r\n\r\n", b"HTTP/1.1 502 Bad Gateway\r\n"),
        (TALKS["http get"][0], b"", b"HTTP/1.1 502 Bad Gateway\r\n"),
    ],
)
def test_answers_are_in_the_tongue_of_the_request(said, good, bad):
    front, _ = fed([said])
    assert front.answer(Outcome.OK) == good
    assert front.answer(Outcome.REFUSED).startswith(bad)


def test_a_place_for_datagrams_is_told():
    front, _ = fed([TALKS["socks5, datagrams"][0]])
    assert front.answer(Outcome.OK, Target("127.0.0.1", 4660)) == b"\5\0\0\1\x7f\0\0\1\x12\x34"


def test_datagrams_there_and_back():
    for target in (HOST, Target("8.8.4.4", 53), Target("2001:db8::1", 53)):
        assert datagram_read(datagram_write(target, b"payload")) == (target, b"payload")


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\0", b"\0\0\1" + NAME, b"\1\0\0" + NAME, b"\0\0\0\3\x0bexample", b"\0\0\0\2"]
)
def test_fragments_and_what_is_no_datagram_are_dropped(data):
    assert datagram_read(data) is None


@given(st.binary(max_size=40))
def test_a_target_is_read_or_refused(data):
    try:
        found = target_read(data)
    except InvalidValue:
        return
    if found is not None:
        target, n = found
        assert n <= len(data)
        assert target_read(bytes(target)) == (target, len(bytes(target)))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("Example.ORG:443", HOST),
        ("[2001:DB8:0::1]:1", Target("2001:db8::1", 1)),
        ("127.0.0.1:65535", Target("127.0.0.1", 65535)),
        ("bücher.example:80", Target("xn--bcher-kva.example", 80)),
    ],
)
def test_a_target_is_read_from_text(text, target):
    assert Target.parse(text) == target
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    "text", ["", "a", "a:", ":1", "a:b", "a:65536", "a b:1", "::1:80", "a/b:1", "a:١", "[::1]", "%:1"]
)
def test_text_that_is_no_target_is_refused(text):
    with pytest.raises(InvalidValue):
        Target.parse(text)
