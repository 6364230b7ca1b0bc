# SPDX-License-Identifier: MIT
"""Extenders: the services that applications plug into a node; and the registry that calls them."""

import asyncio
import inspect
import logging
import sys
from collections import Counter, deque
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from time import monotonic
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from qg.errors import InvalidValue, QGError, Reason, RemoteError
from qg.types import ExtenderId, ExtenderInfo

if TYPE_CHECKING:
    from qg.message import MessageSource
    from qg.node import Node
    from qg.peer import Peer
    from qg.request import Answer
    from qg.stream import Stream

__all__ = ["Extender", "Registry", "extender_name"]

_log = logging.getLogger("qg.extender")

EXTENDERS_MAX = 250  # docs/protocol.md, section 7, HELLO
_HOOKS_S = 1.0  # how long a node that closes waits for `on_peer_disconnected`
FAILURES_MAX = 20  # exceptions of an extender within FAILURES_S after which it is stopped
FAILURES_S = 60.0
_DUE_MAX = 2  # calls that tell of one peer and wait for the one before: what came and went meanwhile is not told
_RESERVED = "on_peer_suspended", "on_peer_resumed"  # sessions that outlive their links
# What ends a task although it is no error: the first where it was asked for, the others the whole program.
_ENDS = asyncio.CancelledError, KeyboardInterrupt, SystemExit


class _Hook(Protocol):
    __name__: str

    def __call__(self, peer: "Peer") -> Coroutine[Any, Any, None]: ...


class Extender:
    """Offer a service to peers: derive from it, set `id`, and define the methods that you want called.

    Peers find a service by its `id`, which both sides must have. All methods run as tasks of the node, in its event
    loop, and are cancelled when the node closes. What a method raises is logged under `qg.extender` and counted; an
    extender that fails 20 times within a minute is stopped, as if it were removed, and the node goes on. `RemoteError`,
    which peers can bring about, is no failure. One extender may serve several nodes; `peer.node` and
    `stream.peer.node` tell which one called.

    An extender that defines none of `on_stream`, `on_message` and `on_request` is a mailbox: messages wait until the
    application takes them with `peer.messages(id)`.
    """

    id: ExtenderId
    name: str = ""
    """What people call it, in status and logs; its class's name where this is empty."""
    version: str = ""
    """For people too: nothing is decided by it."""
    counts: Mapping[str, int] = MappingProxyType({})
    """What it has counted, by short words such as "refused": shown in status and metrics; a `Counter`, say."""

    async def on_start(self, node: "Node") -> None:
        """Begin: called once by each node, before peers can reach it or see this service.

        What it raises refuses: `Node.start` or `Node.add_extender` raises `LocalError` with its words, and a node that
        starts does not.
        """

    async def on_stop(self, node: "Node") -> None:
        """End: called when all else has ended, because the node closes or this extender was removed.

        Not after an `on_start` that raised. It has 5 seconds, then it is cancelled.
        """

    async def on_stream(self, stream: "Stream") -> None:
        """Serve a stream that a peer opened; it is closed when the method returns, reset when it raises.

        Where it is not defined, peers that open a stream get `Unsupported`.
        """

    async def on_message(self, peer: "Peer", message: bytes) -> None:
        """Take one message; called in order, one at a time for each peer and priority.

        Credit goes back as messages are taken, so a slow method slows down the sender of its messages and nobody else.
        When it raises, the messages that wait behind it are lost, and the sender is told.
        """

    async def on_messages(self, peer: "Peer", messages: list[bytes]) -> None:
        """Take all messages that have come since the last call; define this one instead for many small messages.

        Else as `on_message`.
        """
        for message in messages:
            await self.on_message(peer, message)

    async def on_request(self, peer: "Peer", payload: bytes) -> bytes:
        """Answer a request; each runs in a task of its own, 1,024 for each peer at most.

        What is returned goes back whole, as long as a message may be. It is cancelled when the peer waits no longer.
        Where it is not defined, peers that ask get `Unsupported`; where it raises, a `RemoteError` that says so.
        """
        raise NotImplementedError

    async def on_peer_connected(self, peer: "Peer") -> None:
        """Learn that a peer is there that offers this service too: it has connected, or one of both has added it.

        Its streams and messages do not wait for this.
        """

    async def on_peer_disconnected(self, peer: "Peer") -> None:
        """Learn that such a peer is gone, or offers the service no more; after `on_peer_connected` has returned."""


def extender_name(extender: Extender) -> str:
    """Give the name that people know an extender by."""
    return extender.name or type(extender).__name__


def _class_check(extender: Extender) -> None:
    """Refuse what would fail later and say less: methods that cannot be awaited, names that are no text."""
    kind = type(extender)
    for name in vars(Extender):
        method = inspect.unwrap(getattr(kind, name))
        is_function = name.startswith("on_") and isinstance(method, FunctionType)
        if is_function and not inspect.iscoroutinefunction(method):
            raise InvalidValue(f"{kind.__name__}.{name} cannot be awaited: write `async def {name}`, without `yield`")
    for name in _RESERVED:
        if hasattr(kind, name):
            raise InvalidValue(f"{kind.__name__}.{name} cannot be defined: the name is kept for a later version")
    for name in ("name", "version"):
        if not isinstance(getattr(extender, name), str):
            raise InvalidValue(f"{kind.__name__}.{name} must be a text, not {getattr(extender, name)!r}")
    if kind.__hash__ is None:
        raise InvalidValue(f"{kind.__name__} has no hash: make a data class with @dataclass(eq=False)")


def _defines(extender: Extender, name: str) -> bool:
    return getattr(type(extender), name) is not getattr(Extender, name)


def is_cancelled_by_itself() -> bool:
    """Tell of the `CancelledError` being handled that nobody has asked for it: what was waited for was cancelled."""
    task = asyncio.current_task()
    return isinstance(sys.exception(), asyncio.CancelledError) and task is not None and not task.cancelling()


class Registry:
    """Hold the extenders of one node and the tasks in which they run. Belongs to the node's event loop."""

    __slots__ = (
        *("_by_id", "_due", "_failed_s", "_hooks", "_is_ended", "_n_failures"),
        *("_serving", "_shared", "_stopped", "on_worn"),
    )

    def __init__(self, extenders: Iterable[Extender]) -> None:
        self._by_id: dict[bytes, Extender] = {}
        self._serving: dict[asyncio.Task[None], Extender] = {}
        self._hooks: dict[tuple[Extender, Peer], asyncio.Task[None]] = {}  # they tell one of the other
        self._due: dict[tuple[Extender, Peer], deque[_Hook]] = {}  # what the task still has to call
        self._n_failures = Counter[Extender]()
        self._failed_s: dict[Extender, deque[float]] = {}  # when, the latest last
        self._stopped: dict[bytes, Extender] = {}  # because they failed
        self.on_worn: Callable[[Extender], None] = lambda _: None  # called with one that fails too often
        self._shared: dict[Peer, dict[bytes, Extender]] = {}  # what is offered here and there, as extenders were told
        self._is_ended = False  # the tasks that tell of peers begin no more
        for extender in extenders:
            self.add(extender)

    def check(self, extender: Extender) -> bytes:
        """Give the key of an extender that can be taken in; raises `InvalidValue` for what is none, or one too many."""
        if not isinstance(extender, Extender):
            raise InvalidValue(f"{extender!r} is not an extender: give an instance of a class made from qg.Extender")
        extender_id = getattr(extender, "id", None)
        if not isinstance(extender_id, ExtenderId):
            raise InvalidValue(f"{type(extender).__name__}.id must be a qg.ExtenderId, not {extender_id!r}")
        _class_check(extender)
        key = bytes(extender_id)
        if key in self._by_id:
            raise InvalidValue(f"two extenders have the id {extender_id}: a node can have each service once")
        if len(self._by_id) >= EXTENDERS_MAX:
            raise InvalidValue(f"a node can have {EXTENDERS_MAX} extenders, no more")
        return key

    def add(self, extender: Extender) -> bytes:
        """Take in an extender and give its key; raises what `check` does."""
        key = self.check(extender)
        self._by_id[key] = extender
        self._stopped.pop(key, None)
        self._failed_s.pop(extender, None)
        return key

    def remove(self, key: bytes) -> Extender | None:
        """Forget the extender of this id, whose tasks run on; None if there is none."""
        extender = self._by_id.pop(key, None)
        if extender is not None:
            self._failed_s.pop(extender, None)
        return extender

    @property
    def keys(self) -> list[bytes]:
        """Give the ids of all extenders."""
        return list(self._by_id)

    @property
    def extenders(self) -> list[Extender]:
        """Give all extenders."""
        return list(self._by_id.values())

    def has(self, extender: Extender) -> bool:
        """Tell whether this very extender is offered."""
        return self._by_id.get(bytes(extender.id)) is extender

    def infos(self) -> tuple[ExtenderInfo, ...]:
        """Describe all extenders, and those that were stopped because they failed."""
        return tuple(
            ExtenderInfo(
                extender_id=extender.id,
                name=extender_name(extender),
                version=extender.version,
                n_failures=self._n_failures[extender],
                is_stopped=not self.has(extender),
                counts=self._counts(extender),
            )
            for extender in (*self._by_id.values(), *self._stopped.values())
        )

    def _counts(self, extender: Extender) -> dict[str, int]:
        try:
            return {str(word): int(n) for word, n in extender.counts.items()}
        except Exception:
            self.failed(extender, "counts_failed")
            return {}

    def failed(self, extender: Extender, what: str, peer: "Peer | None" = None) -> None:
        """Log and count the exception that is being handled; too many within a minute, and the extender is stopped."""
        self._n_failures[extender] += 1
        _log.exception("%s extender=%s%s", what, extender_name(extender), f" peer={peer.id}" if peer else "")
        if not self.has(extender):
            return
        now_s = monotonic()
        failed_s = self._failed_s.setdefault(extender, deque(maxlen=FAILURES_MAX))
        failed_s.append(now_s)
        if len(failed_s) == FAILURES_MAX and now_s - failed_s[0] < FAILURES_S and not self._is_ended:
            _log.error(
                "extender_stopped extender=%s: its methods raised %d times within %.0f s; see the exceptions above",
                *(extender_name(extender), FAILURES_MAX, FAILURES_S),
            )
            self._stopped[bytes(extender.id)] = extender
            self.on_worn(extender)

    def takes_streams(self, key: bytes) -> bool:
        """Tell whether the extender of this id serves streams."""
        return key in self._by_id and _defines(self._by_id[key], "on_stream")

    def takes_messages(self, key: bytes) -> bool:
        """Tell whether the extender of this id is called with messages."""
        extender = self._by_id.get(key)
        return extender is not None and (_defines(extender, "on_message") or _defines(extender, "on_messages"))

    def takes_requests(self, key: bytes) -> bool:
        """Tell whether the extender of this id answers requests."""
        return key in self._by_id and _defines(self._by_id[key], "on_request")

    def is_mailbox(self, key: bytes) -> bool:
        """Tell whether messages for this id wait until they are asked for."""
        takes = self.takes_streams(key) or self.takes_messages(key) or self.takes_requests(key)
        return key in self._by_id and not takes

    def _serve(
        self, extender: Extender, peer: "Peer", work: Coroutine[Any, Any, None], hook: str
    ) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=f"{type(extender).__name__}.{hook}")
        peer.n_serving += 1
        self._serving[task] = extender
        task.add_done_callback(partial(self._served, peer))
        return task

    def _served(self, peer: "Peer", task: asyncio.Task[None]) -> None:
        peer.n_serving -= 1
        del self._serving[task]

    def stream_serve(self, key: bytes, stream: "Stream") -> None:
        """Start a task that serves a stream which the node has accepted."""
        extender = self._by_id[key]
        self._serve(extender, stream.peer, self._stream_run(extender, stream), "on_stream")

    async def _stream_run(self, extender: Extender, stream: "Stream") -> None:
        peer = stream.peer
        try:
            await extender.on_stream(stream)
            await stream.close()
        except _ENDS:
            stream.reset(self._end_reason(extender, "on_stream_failed", peer))
            raise
        except BaseException as error:
            stream.reset(self._raised(extender, "on_stream", peer, error, is_gone=stream.is_gone))

    def _raised(
        self, extender: Extender, method: str, peer: "Peer", error: BaseException, *, is_gone: bool
    ) -> Reason:
        """Say what the peer is told of an exception; one that the peer can bring about is none of the extender's."""
        if isinstance(error, RemoteError) or ((is_gone or peer.is_closed_here) and isinstance(error, QGError)):
            name = extender_name(extender)
            _log.info("call_ended extender=%s peer=%s method=%s error=%s", name, peer.id, method, error)
            return Reason.CANCELLED
        self.failed(extender, f"{method}_failed", peer)
        return Reason.INTERNAL

    def _end_reason(self, extender: Extender, what: str, peer: "Peer") -> Reason:
        """Say why a task ends: the node does, or it was removed; what it has cancelled itself is a failure."""
        if is_cancelled_by_itself():
            self.failed(extender, what, peer)
            return Reason.INTERNAL
        return Reason.SHUTDOWN if self.has(extender) else Reason.UNSUPPORTED

    def messages_serve(self, key: bytes, source: "MessageSource", batches: AsyncIterable[list[bytes]]) -> None:
        """Start a task that hands over what arrives on one message stream."""
        extender = self._by_id[key]
        self._serve(extender, source.peer, self._messages_run(extender, source, batches), "on_message")

    async def _messages_run(
        self, extender: Extender, source: "MessageSource", batches: AsyncIterable[list[bytes]]
    ) -> None:
        peer = source.peer
        try:
            async for batch in batches:
                await extender.on_messages(peer, batch)
        except _ENDS:
            source.abort(self._end_reason(extender, "on_message_failed", peer))
            raise
        except BaseException as error:
            source.abort(self._raised(extender, "on_message", peer, error, is_gone=source.is_gone))

    def request_serve(self, key: bytes, answer: "Answer") -> None:
        """Start a task that answers a request which the node has accepted."""
        extender = self._by_id[key]
        work = self._request_run(extender, answer)
        answer.task = self._serve(extender, answer.peer, work, "on_request")

    async def _request_run(self, extender: Extender, answer: "Answer") -> None:
        peer = answer.peer
        try:
            payload = await answer.payload()
            await answer.reply(await extender.on_request(peer, payload))
        except _ENDS:
            answer.abort(self._end_reason(extender, "on_request_failed", peer))
            raise
        except BaseException as error:
            answer.abort(self._raised(extender, "on_request", peer, error, is_gone=answer.is_gone))

    def peer_look(self, peer: "Peer") -> None:
        """Start the tasks that tell of a peer with which a service came to be shared, or is no more."""
        shared = {}
        if peer.is_connected:
            offered = (bytes(extender_id) for extender_id in peer.extenders)
            shared = {key: self._by_id[key] for key in offered if key in self._by_id}
        before = self._shared.pop(peer, {})
        if shared:
            self._shared[peer] = shared
        for key, extender in before.items():
            if shared.get(key) is not extender and _defines(extender, "on_peer_disconnected"):
                self._hook_start(extender, peer, extender.on_peer_disconnected)
        for key, extender in shared.items():
            if before.get(key) is not extender and _defines(extender, "on_peer_connected"):
                self._hook_start(extender, peer, extender.on_peer_connected)

    def _hook_start(self, extender: Extender, peer: "Peer", hook: "_Hook") -> None:
        if self._is_ended:
            return
        key = extender, peer
        due = self._due.setdefault(key, deque())
        due.append(hook)
        if len(due) > _DUE_MAX:
            due.popleft()
            due.popleft()
        if key not in self._hooks:
            task = asyncio.get_running_loop().create_task(self._hooks_run(extender, peer, due))
            self._hooks[key] = task
            task.add_done_callback(partial(self._hooks_done, key))

    def _hooks_done(self, key: "tuple[Extender, Peer]", task: asyncio.Task[None]) -> None:
        if self._hooks.get(key) is task:
            del self._hooks[key]
            del self._due[key]

    async def _hooks_run(self, extender: Extender, peer: "Peer", due: "deque[_Hook]") -> None:
        """Tell an extender of a peer, one call after the other."""
        while due:
            hook = due.popleft()
            try:
                await hook(peer)
            except BaseException as error:
                if isinstance(error, _ENDS) and not is_cancelled_by_itself():
                    raise
                self._raised(extender, hook.__name__, peer, error, is_gone=not peer.is_connected)
        task = asyncio.current_task()
        assert task is not None
        self._hooks_done((extender, peer), task)  # now: what comes next begins another

    async def serving_stop(self) -> None:
        """Cancel the tasks that serve streams and messages, and wait until they have ended."""
        await _tasks_cancel(self._serving)

    async def extender_stop(self, extender: Extender, grace_s: float) -> None:
        """Wait for the tasks of an extender that was removed, and cancel those that take longer."""
        if tasks := [task for task, owner in self._serving.items() if owner is extender]:
            await asyncio.wait(tasks, timeout=grace_s)
            await _tasks_cancel(tasks)
        if hooks := [task for (owner, _), task in self._hooks.items() if owner is extender]:
            await asyncio.wait(hooks, timeout=_HOOKS_S)
            await _tasks_cancel(hooks)

    async def hooks_stop(self) -> None:
        """Wait a moment for the tasks that tell of peers, then cancel them; from here on none begins."""
        self._is_ended = True
        if self._hooks:
            await asyncio.wait(self._hooks.values(), timeout=_HOOKS_S)
        await _tasks_cancel(self._hooks.values())


async def _tasks_cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)
