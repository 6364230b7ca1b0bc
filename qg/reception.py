# SPDX-License-Identifier: MIT
"""Streams as the core tells of them: those that peers open go to who serves them, and all hear of their ends."""

import logging
from collections.abc import Mapping
from typing import Any, final

from qg.errors import Reason
from qg.extender import Registry
from qg.flow import Border, Link
from qg.message import MessageSource
from qg.peer import KIND_BYTES, KIND_MESSAGES
from qg.request import REQUEST, Answer
from qg.stream import Priority, Stream
from qg.types import Carried, ExtenderId

__all__ = ["Reception"]

_log = logging.getLogger("qg.node")

_SERVING_MAX = 1024  # streams of one peer being served, reset ones included


@final
class Reception:
    """Take the core's events of streams for one node, whose sessions are `links`, by channel."""

    __slots__ = ("_border", "_links", "_registry")

    def __init__(self, border: Border, links: Mapping[int, Link], registry: Registry) -> None:
        self._border = border
        self._links = links
        self._registry = registry

    def on_open(self, event: tuple[Any, ...]) -> None:
        _, flow, channel, kind, priority, opening = event
        border = self._border
        link = self._links.get(channel)
        key, metadata = opening[:16], opening[16:]
        if link is None or border.is_closing:
            border.runtime.reset(flow, Reason.SHUTDOWN)
        elif link.peer.n_serving >= _SERVING_MAX:
            border.runtime.reset(flow, Reason.LIMIT)
        elif kind == KIND_BYTES and self._registry.takes_streams(key):
            stream = Stream(link, flow, ExtenderId(key), metadata, Priority(priority))
            self._registry.stream_serve(key, stream)
            # Behind the first step of the task that serves it: what that writes accepts the stream, in the same record.
            border.loop.call_soon(self._stream_accept, stream, flow)
        elif kind == KIND_MESSAGES and not metadata and self._messages_open(link, flow, key):
            border.runtime.accept(flow)
        elif kind == KIND_MESSAGES and metadata == REQUEST and self._registry.takes_requests(key):
            border.runtime.accept(flow)
            self._registry.request_serve(key, Answer(link, flow))
        else:
            _log.debug("stream_unsupported peer=%s extender=%s kind=%d", link.peer.id, key.hex(), kind)
            border.runtime.reset(flow, Reason.UNSUPPORTED)

    def _stream_accept(self, stream: Stream, flow: int) -> None:
        if not self._border.is_closed and not stream.is_spliced:
            self._border.runtime.accept(flow)

    def _messages_open(self, link: Link, flow: int, key: bytes) -> bool:
        """Take in a message stream; False when nobody here wants its messages."""
        if self._registry.takes_messages(key):
            source = MessageSource(link, flow, None)
            self._registry.messages_serve(key, source, source.inbox)
            return True
        inbox = link.peer.inbox_make(key) if self._registry.is_mailbox(key) else link.peer.inbox_find(key)
        if inbox is not None:
            MessageSource(link, flow, inbox)
        return inbox is not None

    def on_accepted(self, event: tuple[Any, ...]) -> None:
        flow = self._border.flows.get(event[1])
        if flow is not None:
            flow.on_accepted()

    def on_fin(self, event: tuple[Any, ...]) -> None:
        flow = self._border.flows.get(event[1])
        if flow is not None:
            flow.on_fin()

    def on_reset(self, event: tuple[Any, ...]) -> None:
        flow = self._border.flows.pop(event[1], None)
        if flow is not None:
            flow.carried = Carried(*event[4:])
            flow.on_reset(Reason(event[2]), event[3])

    def on_done(self, event: tuple[Any, ...]) -> None:
        flow = self._border.flows.pop(event[1], None)
        if flow is not None:
            flow.carried = Carried(*event[2:])
            flow.on_done()
