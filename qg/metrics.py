# SPDX-License-Identifier: MIT
"""Figures for Prometheus: its text format 0.0.4, over the least HTTP that its scraper needs.

Of our own, since both are a page of code and the library would bring a registry, threads and a server of more. No
PeerID and no address is in it: figures go to whoever runs the monitoring.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import final

from qg.errors import ListenError
from qg.status import COUNTERS
from qg.types import Status

__all__ = ["MetricsServer", "metrics_text"]

_CONNECTIONS_MAX = 8  # at a time; one more is closed at once
_REQUEST_MAX = 8192  # bytes of a request's head
_REQUEST_S = 5.0  # for the whole exchange
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Sample = tuple[str, str, str, float]  # name, type, meaning, value


def metrics_text(status: Status) -> str:
    """Write a status in Prometheus's text format."""
    lines = [
        "# HELP qg_build_info The version that runs.",
        "# TYPE qg_build_info gauge",
        f'qg_build_info{{version="{_escaped(status.version)}"}} 1',
    ]
    for name, kind, meaning, value in (*_figures(status), *_counters(status)):
        text = meaning[:1].upper() + meaning[1:].replace("\\", "\\\\").replace("\n", "\\n")
        lines += [f"# HELP {name} {text}.", f"# TYPE {name} {kind}", f"{name} {value!r}"]
    lines += _extenders_lines(status)
    return "\n".join(lines) + "\n"


def _figures(status: Status) -> Iterator[_Sample]:
    yield "qg_uptime_seconds", "gauge", "time since the start", status.uptime_s
    yield "qg_peers", "gauge", "peers connected now", status.n_peers
    yield "qg_links", "gauge", "sessions with peers now", status.n_links
    yield "qg_circuits", "gauge", "circuits that pass through now", status.n_splices
    yield "qg_circuit_links", "gauge", "links dialled for circuits only", status.n_circuit_links
    yield "qg_relayed_bytes_total", "counter", "payload passed on for others, both directions", status.relayed_bytes
    yield "qg_relayed_month_bytes", "gauge", "relayed in this month, in and out", status.relayed_month_bytes
    yield "qg_relayed_month_limit_bytes", "gauge", "end that is set to it, 0 for none", status.relayed_month_limit
    yield "qg_received_bytes_total", "counter", "bytes read from all connections", status.bytes_in
    yield "qg_sent_bytes_total", "counter", "bytes written to all connections", status.bytes_out
    yield "qg_cover_bytes_total", "counter", "bytes sent that say nothing", status.cover_bytes
    yield "qg_pool_memory_bytes", "gauge", "memory taken from the pools", status.memory_bytes
    yield "qg_secret_memory_bytes", "gauge", "guarded memory for secrets", status.locked_bytes
    yield "qg_secret_memory_locked", "gauge", "1 while no secret can reach the swap file", int(status.is_locked)
    yield "qg_draining", "gauge", "1 while the node is about to stop", int(status.is_draining)
    if status.clock_skew_s is not None:
        yield "qg_clock_skew_seconds", "gauge", "what peers' clocks say, theirs less ours", status.clock_skew_s


def _counters(status: Status) -> Iterator[_Sample]:
    for name, meaning in COUNTERS.items():
        yield f"qg_{name}_total", "counter", meaning, status.counters.get(name, 0)


def _extenders_lines(status: Status) -> Iterator[str]:
    """Write what services have counted, by name, id and word."""
    labels = [
        (extender, f'extender="{_escaped(extender.name)}",id="{extender.extender_id}"')
        for extender in status.extenders
    ]
    if labels:
        yield "# HELP qg_extender_failures_total Exceptions that came out of the methods of a service."
        yield "# TYPE qg_extender_failures_total counter"
    for extender, label in labels:
        yield f"qg_extender_failures_total{{{label}}} {extender.n_failures}"
    if any(extender.counts for extender, _ in labels):
        yield "# HELP qg_extender_count_total What a service has counted, by its own words."
        yield "# TYPE qg_extender_count_total counter"
    for extender, label in labels:
        for word, n in extender.counts.items():
            yield f'qg_extender_count_total{{{label},what="{_escaped(word)}"}} {n}'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@final
class MetricsServer:
    """Answer `GET /metrics` on one endpoint with what `text` gives; listens inside `async with`.

    A request has five seconds and 8 KiB, and eight connections may be open: a scraper needs one. Raises `ListenError`
    when the endpoint cannot be listened on.
    """

    def __init__(self, host: str, port: int, text: Callable[[], str]) -> None:
        self._host = host
        self._port = port
        self._text = text
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """Give the port that is really bound."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> "MetricsServer":
        try:
            self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=_REQUEST_MAX)
        except OSError as error:
            raise ListenError(
                f"metrics = {self._host}:{self._port} cannot be listened on: {error.strerror or error}; choose another"
            ) from None
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in set(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        if len(self._tasks) >= _CONNECTIONS_MAX:
            writer.close()
            return
        self._tasks.add(task)
        try:
            async with asyncio.timeout(_REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
                writer.write_eof()
                await reader.read(1)  # the end of the other side: closing before would cut off what is on its way
        except asyncio.LimitOverrunError:
            writer.write(_response("431 Request Header Fields Too Large", "the request is too long\n", "text/plain"))
        except TimeoutError:
            writer.transport.abort()  # what the client does not take keeps no descriptor
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            return _response("400 Bad Request", "this is HTTP/1.1\n", "text/plain")
        if target.partition(b"?")[0] != b"/metrics":
            return _response("404 Not Found", "the figures are at /metrics\n", "text/plain")
        if method != b"GET":
            return _response("405 Method Not Allowed", "only GET\n", "text/plain", "Allow: GET\r\n")
        return _response("200 OK", self._text(), _CONTENT_TYPE)


def _response(status: str, body: str, content_type: str, more: str = "") -> bytes:
    raw = body.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(raw)}\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode() + raw
