# SPDX-License-Identifier: MIT
"""The same node for programs without an event loop: its calls wait until they are done.

    with qg.sync.Node(qg.Identity.generate()) as node:
        peer = node.connect("qg://<link key>@203.0.113.7:7447", timeout_s=10)
        print(peer.request(Shout.id, b"hello"))

Each node has an event loop in a thread of its own. `Node`, `Peer`, `Stream` and `Access` here have the methods of their
twins in `qg`, which say what they do and raise; those that wait take `timeout_s` as well, and raise `TimeoutError`
then. Extenders are those of `qg`: their methods are coroutines, which run in that thread and get the twins in `qg`.
Every thread may call, and several at once; in an event loop use `qg.Node`. Calls that another thread's `Node.close`
ends raise `ClosedError`. A call costs about 0.2 ms more than its twin.
"""

import asyncio
import atexit
import concurrent.futures
import os
import socket
import threading
from asyncio.events import _get_running_loop
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, final, overload

import qg

__all__ = ["Access", "Node", "Peer", "Stream"]

_T = TypeVar("_T")
_P = ParamSpec("_P")
_Bytes = bytes | bytearray | memoryview
_EXIT_S = 5.0  # that a program which ends waits for tasks to be cancelled


class _Thread:
    """Run an event loop in a thread of its own."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._lock = threading.Lock()  # nothing is handed in behind the end
        self.is_ended = False
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop  # once it is ready
        self._end: asyncio.Event
        self._thread = threading.Thread(target=self._run, name="qg.sync", daemon=True)
        self._thread.start()
        self._ready.wait()
        atexit.register(self._at_exit)

    def _at_exit(self) -> None:
        """Let the tasks of a node that was never closed end before the interpreter does, which would complain."""
        if os.getpid() == self._pid:
            self._ask_to_end()
            self._thread.join(_EXIT_S)

    def _run(self) -> None:
        asyncio.run(self._serve())  # cancels what is under way in the end

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._end.wait()

    def wait(self, coroutine: Coroutine[Any, Any, _T], timeout_s: float | None = None) -> _T:
        """Run a coroutine and wait for what it gives; an interrupted wait cancels it."""
        bounded = _bounded(coroutine, timeout_s)
        try:
            future = self._hand_in(bounded)
        except BaseException:
            bounded.close()
            coroutine.close()
            raise
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise _closed() from None
        finally:
            future.cancel()

    def _hand_in(self, coroutine: Coroutine[Any, Any, _T]) -> "concurrent.futures.Future[_T]":
        if _get_running_loop() is not None:
            raise qg.UsageError("this call would hold up the event loop that runs here: use qg.Node in it")
        if os.getpid() != self._pid:
            raise qg.UsageError("the node belongs to the process that this one was forked from: make another")
        with self._lock:
            if self.is_ended:
                raise _closed()
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, function: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
        """Call a function that does not wait."""
        return self.wait(_called(function, *args, **options))

    def end(self) -> None:
        """Cancel what is under way and end the thread."""
        self._ask_to_end()
        self._thread.join()
        atexit.unregister(self._at_exit)

    def _ask_to_end(self) -> None:
        with self._lock:
            if not self.is_ended:
                self.is_ended = True
                self._loop.call_soon_threadsafe(self._end.set)


def _closed() -> qg.ClosedError:
    return qg.ClosedError("the node is closed: start another")


async def _bounded(coroutine: Coroutine[Any, Any, _T], timeout_s: float | None) -> _T:
    async with asyncio.timeout(timeout_s):
        return await coroutine


async def _called(function: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
    return function(*args, **options)


async def _following(items: AsyncIterator[_T]) -> list[_T]:
    """Give the next item; nothing at the end."""
    try:
        return [await anext(items)]
    except StopAsyncIteration:
        return []


class _Twin(Generic[_T]):
    """Stand for an object that belongs to the thread; two that stand for the same one are equal."""

    __slots__ = ("_thread", "_twin")

    def __init__(self, thread: _Thread, twin: _T) -> None:
        self._thread = thread
        self._twin = twin

    def __eq__(self, other: object) -> bool:
        return self._twin is other._twin if isinstance(other, _Twin) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._twin)

    def __repr__(self) -> str:
        return repr(self._twin)


class _Same(Generic[_T]):
    """Give the attribute of this name that the twin has."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: _Twin[Any], kind: type) -> _T: ...
    def __get__(self, owner: _Twin[Any] | None, kind: type) -> Self | _T:
        if owner is None:
            return self
        value: _T = getattr(owner._twin, self._name)
        return value


@final
class Stream(_Twin[qg.Stream]):
    """Carry bytes to and from a peer: `qg.Stream` for programs without an event loop."""

    __slots__ = ()

    extender_id = _Same[qg.ExtenderId]()
    metadata = _Same[bytes]()
    priority = _Same[qg.Priority]()
    carried = _Same[qg.Carried]()

    def read(self, n: int = -1, *, timeout_s: float | None = None) -> bytes:
        return self._thread.wait(self._twin.read(n), timeout_s)

    def readexactly(self, n: int, *, timeout_s: float | None = None) -> bytes:
        return self._thread.wait(self._twin.readexactly(n), timeout_s)

    def __iter__(self) -> Iterator[bytes]:
        """Give what comes, in chunks of any size, until the peer has finished."""
        while chunk := self._thread.wait(_following(self._twin)):
            yield chunk[0]

    def write(self, data: _Bytes, *, timeout_s: float | None = None) -> None:
        self._thread.wait(self._twin.write(data), timeout_s)

    def finish(self) -> None:
        self._thread.call(self._twin.finish)

    def splice(
        self,
        connection: socket.socket,
        *,
        head: bytes = b"",
        idle_s: float | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self._thread.wait(self._twin.splice(connection, head=head, idle_s=idle_s), timeout_s)

    def close(self, *, timeout_s: float | None = None) -> None:
        self._thread.wait(self._twin.close(), timeout_s)

    def reset(self, reason: qg.Reason = qg.Reason.CANCELLED) -> None:
        self._thread.call(self._twin.reset, reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.wait(self._twin.__aexit__(kind, error, trace))


@final
class Peer(_Twin[qg.Peer]):
    """Reach one peer: `qg.Peer` for programs without an event loop."""

    __slots__ = ()

    id = _Same[qg.PeerId]()
    link_key = _Same[qg.LinkKey]()
    host = _Same[str]()
    port = _Same[int]()
    suite = _Same[str]()
    rule = _Same[qg.PeerRule]()
    extenders = _Same[tuple[qg.ExtenderId, ...]]()
    relay_terms = _Same[qg.RelayTerms | None]()
    via = _Same[tuple[qg.Address, ...]]()
    rtt_ns = _Same[int | None]()
    is_connected = _Same[bool]()
    is_outgoing = _Same[bool]()
    is_relayed = _Same[bool]()

    def open_stream(
        self,
        extender_id: qg.ExtenderId,
        metadata: bytes = b"",
        *,
        priority: qg.Priority = qg.Priority.NORMAL,
        timeout_s: float | None = None,
    ) -> Stream:
        opening = self._twin.open_stream(extender_id, metadata, priority=priority)
        return Stream(self._thread, self._thread.wait(opening, timeout_s))

    def send(
        self,
        extender_id: qg.ExtenderId,
        message: _Bytes,
        *,
        priority: qg.Priority = qg.Priority.NORMAL,
        compress: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        self._thread.wait(self._twin.send(extender_id, message, priority=priority, compress=compress), timeout_s)

    def try_send(
        self,
        extender_id: qg.ExtenderId,
        message: _Bytes,
        *,
        priority: qg.Priority = qg.Priority.NORMAL,
        compress: bool = False,
    ) -> bool:
        return self._thread.call(self._twin.try_send, extender_id, message, priority=priority, compress=compress)

    def send_batch(
        self,
        extender_id: qg.ExtenderId,
        messages: Iterable[_Bytes],
        *,
        priority: qg.Priority = qg.Priority.NORMAL,
        timeout_s: float | None = None,
    ) -> None:
        self._thread.wait(self._twin.send_batch(extender_id, list(messages), priority=priority), timeout_s)

    def messages(self, extender_id: qg.ExtenderId, *, timeout_s: float | None = None) -> Iterator[list[bytes]]:
        """Take the messages that this peer sends for an extender; `timeout_s` is how long each batch may take.

        Call it before what the peer answers is sent: until then its messages are refused, and the thread does not wait.
        """
        return self._batches(self._thread.call(self._twin.messages, extender_id), timeout_s)

    def _batches(self, batches: AsyncIterator[list[bytes]], timeout_s: float | None) -> Iterator[list[bytes]]:
        while batch := self._thread.wait(_following(batches), timeout_s):
            yield batch[0]

    def request(
        self,
        extender_id: qg.ExtenderId,
        payload: _Bytes,
        *,
        timeout_s: float = 30.0,
        priority: qg.Priority = qg.Priority.NORMAL,
    ) -> bytes:
        """Do as `qg.Peer.request`, which raises `PeerTimeout` after `timeout_s`."""
        return self._thread.wait(self._twin.request(extender_id, payload, timeout_s=timeout_s, priority=priority))

    def ping(self, *, timeout_s: float | None = None) -> float:
        return self._thread.wait(self._twin.ping(), timeout_s)

    def close(self, *, timeout_s: float | None = None) -> None:
        self._thread.wait(self._twin.close(), timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@final
class Access:
    """Say who may connect to a node: `qg.Access` for programs without an event loop."""

    def __init__(self, thread: _Thread, access: qg.Access) -> None:
        self._thread, self._access = thread, access

    @property
    def rules(self) -> qg.Rules:
        return self._access.rules

    @property
    def store_state(self) -> str:
        return self._access.store_state

    def network_set(self, network: qg.Prefix | str, *, is_allowed: bool, note: str = "") -> None:
        self._thread.wait(self._access.network_set(network, is_allowed=is_allowed, note=note))

    def network_remove(self, network: qg.Prefix | str) -> None:
        self._thread.wait(self._access.network_remove(network))

    def peer_set(self, rule: qg.PeerRule) -> None:
        self._thread.wait(self._access.peer_set(rule))

    def peer_remove(self, peer_id: qg.PeerId) -> None:
        self._thread.wait(self._access.peer_remove(peer_id))

    def change(
        self, rules: Iterable[qg.NetworkRule | qg.PeerRule] = (), gone: Iterable[qg.Prefix | qg.PeerId] = ()
    ) -> None:
        self._thread.wait(self._access.change(rules, gone))

    def pardon(self, address: str) -> None:
        self._thread.wait(self._access.pardon(address))

    def check_peer(self, peer_id: qg.PeerId) -> qg.Verdict:
        return self._thread.call(self._access.check_peer, peer_id)

    def check_address(self, address: str) -> qg.Verdict:
        return self._thread.call(self._access.check_address, address)

    def warnings(
        self, rules: Iterable[qg.NetworkRule | qg.PeerRule] = (), gone: Iterable[qg.Prefix | qg.PeerId] = ()
    ) -> list[str]:
        return self._access.warnings(rules, gone)


@final
class Node:
    """Run a node: `qg.Node` for programs without an event loop.

    Used in `with`, or by `start` and `close`. One that is never closed is stopped when the interpreter ends.
    """

    def __init__(
        self,
        identity: qg.Identity,
        *,
        listen: Iterable[str | qg.Endpoint] = (),
        extenders: Iterable[qg.Extender] = (),
        config: qg.Config | None = None,
        network_secret: qg.NetworkSecret | None = None,
    ) -> None:
        self._node = qg.Node(identity, listen=listen, extenders=extenders, config=config, network_secret=network_secret)
        self._started: _Thread | None = None

    def start(self) -> None:
        if self._started is not None:
            raise qg.UsageError("a node is started once: make another")
        self._started = _Thread()
        try:
            self._started.wait(self._node.start())
        except BaseException:
            self._started.end()
            raise

    def close(self) -> None:
        if self._started is not None and not self._started.is_ended:
            try:
                with suppress(qg.ClosedError):  # by another thread
                    self._started.wait(self._node.close())
            finally:
                self._started.end()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._node)

    @property
    def _thread(self) -> _Thread:
        if self._started is None:
            raise qg.UsageError("the node is not started: use `with qg.sync.Node(...)`, or node.start()")
        return self._started

    def _peers(self, peers: Iterable[qg.Peer]) -> list[Peer]:
        return [Peer(self._thread, peer) for peer in peers]

    @property
    def access(self) -> Access:
        return Access(self._thread, self._node.access)

    @property
    def id(self) -> qg.PeerId:
        return self._node.id

    @property
    def addresses(self) -> tuple[qg.Address, ...]:
        return self._node.addresses

    @property
    def address(self) -> qg.Address:
        return self._node.address

    @property
    def peers(self) -> tuple[Peer, ...]:
        return tuple(self.find_peers())

    def find_peers(
        self, *extender_ids: qg.ExtenderId, is_relayed: bool | None = None, is_outgoing: bool | None = None
    ) -> list[Peer]:
        find = self._node.find_peers
        return self._peers(self._thread.call(find, *extender_ids, is_relayed=is_relayed, is_outgoing=is_outgoing))

    def broadcast(
        self,
        extender_id: qg.ExtenderId,
        message: _Bytes,
        *,
        peers: Iterable[Peer] | None = None,
        priority: qg.Priority = qg.Priority.NORMAL,
    ) -> list[Peer]:
        told = None if peers is None else [peer._twin for peer in peers]
        return self._peers(self._thread.call(self._node.broadcast, extender_id, message, peers=told, priority=priority))

    def connect(
        self,
        address: str | qg.Address,
        *,
        via: Sequence[str | qg.Address] | None = None,
        hops: int | None = None,
        identity: qg.Identity | None = None,
        isolation: str | bytes | None = None,
        keep: bool = False,
        timeout_s: float | None = None,
    ) -> Peer:
        thread = self._thread
        connecting = self._node.connect(address, via=via, hops=hops, identity=identity, isolation=isolation, keep=keep)
        return Peer(thread, thread.wait(connecting, timeout_s))

    def add_extender(self, extender: qg.Extender) -> None:
        self._thread.wait(self._node.add_extender(extender))

    def remove_extender(self, extender_id: qg.ExtenderId, *, grace_s: float = 60.0) -> None:
        self._thread.wait(self._node.remove_extender(extender_id, grace_s=grace_s))

    def configure(self, config: qg.Config, *, identity: qg.Identity | None = None) -> list[str]:
        return self._thread.wait(self._node.configure(config, identity=identity))

    def drain(self, timeout: float | None = None) -> int:
        return self._thread.wait(self._node.drain(timeout))

    def status(self) -> qg.Status:
        return self._thread.call(self._node.status)

    def totals(self) -> qg.Status:
        return self._thread.call(self._node.totals)
