# SPDX-License-Identifier: MIT
"""What a program says to its proxy before bytes flow: SOCKS5, SOCKS4, SOCKS4a, HTTP CONNECT and plain HTTP.

No socket in here: `Front` is fed with what the program sends, gives what it is to be answered, and in the end the
request. Sources: RFC 1928 and 1929, the SOCKS4 and 4A notes, RFC 9110 section 9.3.6, RFC 9112 section 3.2.2.
"""

import base64
import binascii
from ipaddress import IPv4Address
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import h11

import qg
from qg.extenders.sockets.outcome import Outcome
from qg.extenders.sockets.target import Target, target_read

__all__ = ["Front", "FrontError", "Request", "datagram_read", "datagram_write", "http_reply"]

_HEAD_MAX = 16_384  # bytes of an HTTP head
_TEXT_MAX = 255  # bytes of a SOCKS4 user or name

# What concerns one connection only, and is between the program and us (RFC 9110, section 7.6.1).
_OWN_HEADERS = frozenset((b"connection", b"keep-alive", b"proxy-authorization", b"proxy-connection", b"te", b"upgrade"))

_HTTP = {
    Outcome.OK: b"200 Connection established",
    Outcome.FAILED: b"502 Bad Gateway",
    Outcome.NOT_ALLOWED: b"403 Forbidden",
    Outcome.NETWORK_UNREACHABLE: b"502 Bad Gateway",
    Outcome.HOST_UNREACHABLE: b"502 Bad Gateway",
    Outcome.REFUSED: b"502 Bad Gateway",
    Outcome.TIMED_OUT: b"504 Gateway Timeout",
    Outcome.NO_COMMAND: b"501 Not Implemented",
    Outcome.NO_ADDRESS_KIND: b"400 Bad Request",
}
_WORDS = {
    Outcome.FAILED: "the connection failed",
    Outcome.NOT_ALLOWED: "the exit does not allow this target",
    Outcome.NETWORK_UNREACHABLE: "the exit does not reach the target's network",
    Outcome.HOST_UNREACHABLE: "the exit does not find or reach the target",
    Outcome.REFUSED: "the target refused the connection",
    Outcome.TIMED_OUT: "the target did not answer in time",
}


class Request(NamedTuple):
    """Say what a program wants."""

    command: Literal["connect", "associate"]
    target: Target
    isolation: bytes  # user and password as they came; b"" without
    head: bytes  # what the target shall get before everything else
    dialect: Literal["socks5", "socks4", "connect", "http"]


class FrontError(Exception):
    """Say why this is no request; `answer` is what the program gets before the connection ends."""

    def __init__(self, text: str, answer: bytes = b"") -> None:
        super().__init__(text)
        self.answer = answer


class Front:
    """Understand one program's request. `feed` until `request` is there; `rest` is what came behind it, as its own."""

    __slots__ = ("_buffer", "_http", "_is_whole", "_isolation", "_step", "request")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._step = self._first
        self._isolation = b""
        self._http: h11.Connection | None = None
        self._is_whole = False  # the body of a plain HTTP request has ended
        self.request: Request | None = None

    @property
    def rest(self) -> bytes:
        """Give what came behind the request and is for the target."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> bytes:
        """Take in bytes, answer with bytes, perhaps none; raises `FrontError` when nothing can come of it."""
        self._buffer += data
        answer = b""
        while self.request is None:
            said = self._step()
            if said is None:
                break
            answer += said
        return answer

    def answer(self, outcome: Outcome, bound: Target | None = None) -> bytes:
        """Give the bytes that tell the program how its request went; `bound` is where datagrams go."""
        if self.request is None or self.request.dialect == "socks5":
            return _socks5_reply(outcome, bound)
        if self.request.dialect == "socks4":
            return bytes((0, 90 if outcome is Outcome.OK else 91)) + bytes(6)
        if outcome is not Outcome.OK:
            return http_reply(outcome)
        return b"HTTP/1.1 200 Connection established\r\n\r\n" if self.request.dialect == "connect" else b""

    # Each step gives what to answer when it is done, None while bytes are missing.

    def _first(self) -> bytes | None:
        if not self._buffer:
            return None
        first = self._buffer[0]
        if first == 5:
            self._step = self._greeting
        elif first == 4:
            self._step = self._socks4
        elif 0x41 <= first <= 0x5A or 0x61 <= first <= 0x7A:
            self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_MAX)
            self._step = self._http_head
        else:
            raise FrontError(f"neither SOCKS nor HTTP begins with the byte {first:#04x}")
        return b""

    def _take(self, n: int) -> bytes:
        taken = bytes(self._buffer[:n])
        del self._buffer[:n]
        return taken

    def _greeting(self) -> bytes | None:
        if len(self._buffer) < 2 or len(self._buffer) < 2 + self._buffer[1]:
            return None
        methods = self._take(2 + self._buffer[1])[2:]
        if 2 in methods:  # preferred, for who sends a password wants a circuit of its own
            self._step = self._password
            return b"\x05\x02"
        if 0 in methods:
            self._step = self._socks5
            return b"\x05\x00"
        raise FrontError("the program offers neither `no authentication` nor `user and password`", b"\x05\xff")

    def _password(self) -> bytes | None:
        buffer = self._buffer
        if buffer and buffer[0] != 1:
            raise FrontError(f"version {buffer[0]} of the password exchange: it is 1", b"\x01\x01")
        if len(buffer) < 2 or len(buffer) < 3 + buffer[1]:
            return None
        n = 3 + buffer[1] + buffer[2 + buffer[1]]
        if len(buffer) < n:
            return None
        self._isolation = self._take(n)[1:]
        self._step = self._socks5
        return b"\x01\x00"

    def _socks5(self) -> bytes | None:
        buffer = self._buffer
        if buffer and buffer[0] != 5:
            raise FrontError(f"a request of SOCKS version {buffer[0]} behind a greeting of version 5", _FAILED)
        if len(buffer) < 4:
            return None
        try:
            found = target_read(buffer, 3)
        except qg.InvalidValue as error:
            raise FrontError(str(error), _socks5_reply(Outcome.NO_ADDRESS_KIND)) from None
        if found is None:
            return None
        target, n = found
        command = self._take(n)[1]
        if command == 1 and target.port:
            self.request = Request("connect", target, self._isolation, b"", "socks5")
        elif command == 3:
            self.request = Request("associate", target, self._isolation, b"", "socks5")
        elif command == 1:
            raise FrontError("port 0", _FAILED)
        else:
            raise FrontError(f"command {command}: known are 1 and 3", _socks5_reply(Outcome.NO_COMMAND))
        return b""

    def _socks4(self) -> bytes | None:
        buffer, refused = self._buffer, b"\x00\x5b" + bytes(6)
        if len(buffer) < 8:
            return None
        user_end = buffer.find(0, 8, 9 + _TEXT_MAX)
        if user_end < 0:
            if len(buffer) > 8 + _TEXT_MAX:
                raise FrontError("a SOCKS4 user that does not end", refused)
            return None
        ip, end = bytes(buffer[4:8]), user_end + 1
        host = str(IPv4Address(ip))
        if ip[:3] == b"\0\0\0" and ip[3]:  # SOCKS4a: a name follows
            name_end = buffer.find(0, end, end + _TEXT_MAX + 1)
            if name_end < 0:
                if len(buffer) > end + _TEXT_MAX:
                    raise FrontError("a SOCKS4a name that does not end", refused)
                return None
            host = buffer[end:name_end].decode("latin-1")
            end = name_end + 1
        command, port, user = buffer[1], int.from_bytes(buffer[2:4], "big"), bytes(buffer[8:user_end])
        if command != 1 or not port:
            raise FrontError(f"SOCKS4 command {command} to port {port}: known is 1, to a port", refused)
        try:
            target = Target.make(host, port)
        except qg.InvalidValue as error:
            raise FrontError(str(error), refused) from None
        del buffer[:end]
        self.request = Request("connect", target, user, b"", "socks4")
        return b""

    def _http_head(self) -> bytes | None:
        assert self._http is not None
        data = self._take(len(self._buffer))
        try:
            if data:
                self._http.receive_data(data)
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise FrontError(f"HTTP: {error}", http_reply(Outcome.NO_ADDRESS_KIND)) from None
        if event is h11.NEED_DATA:
            return None
        if not isinstance(event, h11.Request):
            raise FrontError("HTTP: no request", http_reply(Outcome.NO_ADDRESS_KIND))
        self._buffer += self._http.trailing_data[0]
        try:
            self.request = _http_request(event)
        except (qg.InvalidValue, ValueError) as error:
            raise FrontError(f"HTTP: {error}", http_reply(Outcome.NO_ADDRESS_KIND)) from None
        if self.request.dialect == "http":
            self._buffer[:] = self._body_cut(bytes(self._buffer))
        return b""

    def body(self, data: bytes) -> bytes:
        """Give what of `data`, which came behind a plain HTTP request, is of its body; raises `FrontError`."""
        assert self._http is not None
        if self._is_whole:
            return b""
        self._http.receive_data(data)
        return self._body_cut(data)

    def _body_cut(self, data: bytes) -> bytes:
        assert self._http is not None
        try:
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.EndOfMessage):
                    self._is_whole = True
                    return data[: len(data) - len(self._http.trailing_data[0])]
        except h11.RemoteProtocolError as error:
            raise FrontError(f"HTTP: {error}", http_reply(Outcome.NO_ADDRESS_KIND)) from None
        return data


def _socks5_reply(outcome: Outcome, bound: Target | None = None) -> bytes:
    return bytes((5, outcome, 0)) + bytes(bound or Target("0.0.0.0", 0))


_FAILED = _socks5_reply(Outcome.FAILED)


def http_reply(outcome: Outcome) -> bytes:
    """Give a whole answer to an HTTP request that came to nothing."""
    text = _WORDS.get(outcome, "this is not a request that a proxy understands").encode() + b"\n"
    head = b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % (_HTTP[outcome], len(text)) + text


def _http_request(event: h11.Request) -> Request:
    isolation = b""
    for name, value in event.headers:
        if name == b"proxy-authorization":
            isolation = _basic(bytes(value))
    if event.method == b"CONNECT":
        target = _with_port(Target.parse(event.target.decode("ascii")))
        return Request("connect", target, isolation, b"", "connect")
    url = urlsplit(event.target.decode("ascii"))
    if url.scheme != "http" or not url.hostname:
        raise qg.InvalidValue("a proxy is asked for http://HOST/..., or with CONNECT")
    target = _with_port(Target.make(url.hostname, 80 if url.port is None else url.port))
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    lines = [b"%s %s HTTP/%s" % (event.method, path.encode("ascii"), event.http_version), b"Connection: close"]
    host = b""
    named = {
        word.strip().lower() for name, value in event.headers if name == b"connection" for word in value.split(b",")
    }
    for name, value in event.headers.raw_items():
        if name.lower() == b"host":
            host = value
        elif name.lower() not in _OWN_HEADERS and name.lower() not in named:
            lines.append(b"%s: %s" % (name, value))
    lines.insert(1, b"Host: " + (url.netloc.rpartition("@")[2].encode("ascii") or host))
    return Request("connect", target, isolation, b"\r\n".join(lines) + b"\r\n\r\n", "http")


def _with_port(target: Target) -> Target:
    if not target.port:
        raise qg.InvalidValue("port 0")
    return target


def _basic(value: bytes) -> bytes:
    scheme, _, words = value.partition(b" ")
    try:
        return base64.b64decode(words, validate=True) if scheme.lower() == b"basic" else value
    except binascii.Error:
        return value


def datagram_read(data: bytes) -> tuple[Target, bytes] | None:
    """Take apart a datagram of a program (RFC 1928, section 7); None for a fragment and what is none."""
    if len(data) < 4 or data[:3] != b"\0\0\0":
        return None
    try:
        found = target_read(data, 3)
    except qg.InvalidValue:
        return None
    return None if found is None else (found[0], data[found[1] :])


def datagram_write(source: Target, payload: bytes) -> bytes:
    """Put together a datagram for a program."""
    return b"\0\0\0" + bytes(source) + payload
