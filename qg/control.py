# SPDX-License-Identifier: MIT
"""The control socket of a running node: how `qg status` and `qg stop` reach `qg run`.

A Unix socket of mode 0600, so that only its owner and root may use it. One JSON object per line: the request
`{"do": "status"}`, with `"arguments": {...}` where something takes any, is answered by `{"ok": ...}` or
`{"error": "text"}`. The socket stays open to who asked for `stop` until the node has closed: its end says that the node
is gone. The answer's `wait_s` is how long circuits may take.
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, final

import msgspec

from qg.errors import LocalError, QGError
from qg.types import Status

__all__ = ["ControlServer", "control_ask", "control_path_default", "control_stop", "status_object"]

_log = logging.getLogger("qg.control")

_LINE_MAX = 16 << 20  # longest request, a list of networks mostly; a longer one ends the connection
_CONNECTIONS_MAX = 16  # at a time; one more is closed at once
_ADDRESS_MAX = 107  # bytes of a socket's path
_OPEN_FILES = "/proc/self/fd"
_ANSWER_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 60.0


class _Request(msgspec.Struct, omit_defaults=True):
    do: str
    arguments: dict[str, Any] = {}


class _Answer(msgspec.Struct, omit_defaults=True):
    ok: Any = None
    error: str | None = None


def control_path_default() -> Path:
    """Give the socket that is used when none is named: in the user's run-time folder, else in that for state."""
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime, "qg.sock")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", "qg", "qg.sock")


def status_object(status: Status) -> dict[str, Any]:
    """Turn a status into what JSON can hold: identifiers as their text, peers and links as objects."""
    table = status._asdict() | {
        "peers": [peer._asdict() for peer in status.peers],
        "links": [link._asdict() for link in status.links],
        "kept": [kept._asdict() for kept in status.kept],
        "workers": [worker._asdict() for worker in status.workers],
        "extenders": [extender._asdict() for extender in status.extenders],
        "counters": dict(status.counters),
    }
    plain: dict[str, Any] = msgspec.to_builtins(table, enc_hook=str)
    return plain


@final
class ControlServer:
    """Answer requests on a control socket, each by the function of its name, which may be asynchronous.

    The socket is taken when the server is made, which raises `LocalError` if another node answers there; a socket
    that nobody listens on any more is replaced. Requests are answered inside `async with`.
    """

    def __init__(self, path: str | os.PathLike[str], answers: Mapping[str, Callable[..., object]]) -> None:
        self._path = os.fspath(path)
        self._answers = answers
        self._open: set[asyncio.BaseTransport] = set()
        self._socket = _socket_bind(self._path)
        self._inode = os.stat(self._path).st_ino

    async def __aenter__(self) -> "ControlServer":
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self._answers, self._open), sock=self._socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for transport in set(self._open):
            transport.close()
        with suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == self._inode:  # not that of a node that came after
                os.unlink(self._path)


@contextmanager
def _short(path: str) -> Iterator[str]:
    """Give a name of the path that fits into a socket's address, where there is one: the system takes 107 bytes."""
    if len(os.fsencode(path)) <= _ADDRESS_MAX or not os.path.isdir(_OPEN_FILES):
        yield path
        return
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"{_OPEN_FILES}/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)


def _socket_bind(path: str) -> socket.socket:
    Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _is_answered(path):
        raise LocalError(f"another node uses the control socket {path}: stop it, or give another with --control")
    with suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)  # the mode must be right from the first moment on
    try:
        with _short(path) as name:
            listener.bind(name)
        listener.listen(_CONNECTIONS_MAX)
    except OSError as error:
        listener.close()
        raise LocalError(f"the control socket {path} cannot be made: {error}; give another with --control") from None
    finally:
        os.umask(umask)
    return listener


def _is_answered(path: str) -> bool:
    """Tell whether somebody listens there; raises `LocalError` if the path is something else than a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            with _short(path) as name:
                probe.connect(name)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if isinstance(error, ConnectionRefusedError) and not Path(path).is_socket():
                raise LocalError(f"{path} is not a control socket: give another path with --control") from None
            return False
        except OSError as error:
            if error.errno == errno.EAGAIN:  # its backlog is full, so there is somebody
                return True
            raise LocalError(f"the control socket {path} cannot be used: {error}; give another by --control") from None
    return True


class _Connection(asyncio.Protocol):
    """One client of the socket."""

    def __init__(self, answers: Mapping[str, Callable[..., object]], open_: set[asyncio.BaseTransport]) -> None:
        self._answers = answers
        self._open = open_
        self._received = bytearray()
        self._waiting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._open.add(transport)
        if len(self._open) > _CONNECTIONS_MAX:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            self._begin(line)
        if len(self._received) > _LINE_MAX:
            self._transport.close()

    def _begin(self, line: bytearray) -> None:
        """Answer a request, at once unless that takes waiting."""
        try:
            request = msgspec.json.decode(line, type=_Request)
            if request.do not in self._answers:
                raise LocalError(f"{request.do!r} is not one of: {', '.join(self._answers)}")
            answer = self._answers[request.do](**request.arguments)
        except (msgspec.DecodeError, TypeError) as error:
            self._send(_Answer(error=f"not a request: {error}"))
        except QGError as error:
            self._send(_Answer(error=str(error)))
        else:
            if isinstance(answer, Coroutine):
                self._waiting = asyncio.create_task(self._finish(answer))
            else:
                self._send(_Answer(ok=answer))

    async def _finish(self, answer: Coroutine[Any, Any, object]) -> None:
        try:
            self._send(_Answer(ok=await answer))
        except QGError as error:
            self._send(_Answer(error=str(error)))
        except Exception as error:  # whoever asks shall not wait for an answer that never comes
            _log.exception("request_failed")
            self._send(_Answer(error=f"it failed: {error!r}; the node's log says where"))

    def _send(self, answer: _Answer) -> None:
        self._transport.write(msgspec.json.encode(answer, enc_hook=str) + b"\n")


def control_ask(path: str | os.PathLike[str], do: str, **arguments: Any) -> Any:
    """Send one request to the node behind the socket and return its answer; blocks for at most 10 s.

    Raises `LocalError` if no node answers there, or with the node's words if it refuses.
    """
    with _socket_connect(os.fspath(path)) as connection:
        return _answer_read(connection, os.fspath(path), _Request(do, arguments))


def control_stop(path: str | os.PathLike[str], do: Literal["stop", "stop_now"] = "stop") -> None:
    """Ask the node behind the socket to stop and return when it has closed; errors as for `control_ask`."""
    with _socket_connect(os.fspath(path)) as connection:
        answer = _answer_read(connection, os.fspath(path), _Request(do))
        timeout_s = _CLOSE_TIMEOUT_S + (answer or {}).get("wait_s", 0)
        connection.settimeout(timeout_s)
        try:
            while connection.recv(4096):
                pass
        except TimeoutError:
            raise LocalError(f"the node at {path} is still closing after {timeout_s:.0f} s") from None


def _socket_connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_ANSWER_TIMEOUT_S)
    try:
        with _short(path) as name:
            connection.connect(name)
    except OSError as error:
        connection.close()
        hint = "start it with `qg run`, or name its socket with --control"
        raise LocalError(f"no node answers at {path} ({error.strerror or error}); {hint}") from None
    return connection


def _answer_read(connection: socket.socket, path: str, request: _Request) -> Any:
    try:
        connection.sendall(msgspec.json.encode(request) + b"\n")
        with connection.makefile("rb") as lines:
            line = lines.readline()
    except OSError as error:
        raise LocalError(f"the node at {path} did not answer ({error}); is it stopped or overloaded?") from None
    if not line:
        raise LocalError(f"the node at {path} is closing; try again when it has started anew")
    answer = msgspec.json.decode(line, type=_Answer)
    if answer.error is not None:
        raise LocalError(f"the node at {path} says: {answer.error}")
    return answer.ok
