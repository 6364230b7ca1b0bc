# SPDX-License-Identifier: MIT
"""The sender: a transfer over a few streams, which can go on with another connection where the first one broke."""

import asyncio
import os
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field

import qg
from qg.extenders.files.frames import (
    Answer,
    Entry,
    Failure,
    Flag,
    FrameError,
    FrameReader,
    Kind,
    Offer,
    Want,
    Wish,
    batches_make,
    plan_encode,
    wants_decode,
)
from qg.extenders.files.names import name_shown
from qg.extenders.files.outlet import Outlet
from qg.extenders.files.protocol import FILES_ID, LANE_MARK, OFFER_MARK, TOKEN_LEN, Progress
from qg.extenders.files.threads import thread_run
from qg.extenders.files.tree import Tree, tree_walk

__all__ = ["FileSender", "Sent", "files_send"]

_LANES = 4  # streams at once
_AHEAD_MAX = 2  # plans of a lane that are out before their files


@dataclass(slots=True)
class Sent:
    """Tell what became of what was to be sent."""

    names: tuple[str, ...]  # in the target folder, as they may be printed
    n_files: int = 0  # that the receiver has and has checked; folders among them
    n_bytes: int = 0  # in them
    n_same: int = 0  # of the files, those that it had before
    n_left_out: int = 0  # links, devices, pipes and sockets
    resumed: list[str] = field(default_factory=list)  # files that went on where they had ended before
    restarted: list[str] = field(default_factory=list)  # files that changed since and were sent anew
    failures: list[tuple[str, str]] = field(default_factory=list)  # names, and why the receiver does not have them
    digest: bytes = b""  # BLAKE2b-256 of the last file


class FileSender:
    """Send files and folders; `run` may be called again when it was broken off, and goes on then."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]], *, on_progress: Progress | None = None) -> None:
        self._paths = paths
        self._on_progress = on_progress or (lambda *_: None)
        self._token = os.urandom(TOKEN_LEN)
        self._tree: Tree | None = None
        self._left: dict[bytes, Entry] = {}  # by path; a FRESH one has to replace another
        self.sent = Sent(())
        self.is_begun = False  # a receiver has taken the offer

    async def run(self, peer: qg.Peer) -> Sent:
        """Send what is left to be sent, and return once the receiver has it.

        Files that failed stand in the result; the others are there. Raises `qg.Unsupported` if the peer takes no
        files, `qg.Refused` with its words if it does not want these, `qg.LocalError` if one of the paths cannot be
        sent at all, and what its streams raise when the link breaks. Cancelling it ends the transfer.
        """
        if self._tree is None:
            self._tree = await asyncio.to_thread(tree_walk, self._paths)
            self._left = {entry.path: entry for entry in self._tree.entries}
            self.sent = Sent(tuple(map(name_shown, self._tree.names)), n_left_out=self._tree.n_left_out)
            self.sent.failures += [(name_shown(path), why) for path, why in self._tree.failures]
        if self._left:
            try:
                await self._transfer(peer, self._tree)
            except FrameError as error:
                raise qg.RemoteError(f"sending failed: {error}", qg.Reason.PROTOCOL) from None
        return self.sent

    async def _transfer(self, peer: qg.Peer, tree: Tree) -> None:
        entries = list(self._left.values())
        offer = Offer(len(entries), sum(entry.size for entry in entries), tree.names)
        async with await peer.open_stream(FILES_ID, OFFER_MARK + self._token) as stream:
            await stream.write(offer.encode())
            await self._answer_take(stream)
            work = _Work(self, tree, entries, offer.n_bytes)
            n_lanes = min(_LANES, len(work.batches))
            await _all([_Lane(peer, work).run(self._token) for _ in range(n_lanes)])

    async def _answer_take(self, stream: qg.Stream) -> None:
        reader = FrameReader()
        async for data in stream:
            for kind, body in reader.feed(data):
                if kind != Kind.ANSWER:
                    raise FrameError("something else than an answer comes first")
                answer = Answer.decode(body)
                if answer.refusal is not None:
                    words = f"{stream.peer.id} did not take {', '.join(self.sent.names)[:200]}: {answer.refusal}"
                    raise qg.Refused(words, qg.Reason.REFUSED)
                self.is_begun = True
                return
        raise FrameError("the receiver ended before its answer")

    def entry_done(self, entry: Entry, *, is_same: bool) -> None:
        """Take note that the receiver has it."""
        del self._left[entry.path]
        self.sent.n_files += 1
        self.sent.n_bytes += entry.size
        self.sent.n_same += is_same

    def entry_failed(self, entry: Entry, why: str) -> None:
        """Take note that the receiver will not have it."""
        del self._left[entry.path]
        self.sent.failures.append((name_shown(entry.path), why))

    def entry_again(self, entry: Entry) -> Entry:
        """Take note that its bytes are wanted after all."""
        entry = self._left[entry.path] = entry._replace(flags=entry.flags | Flag.FRESH)
        return entry

    def progress(self, done_len: int, total_len: int) -> None:
        """Tell how far it is."""
        names = self.sent.names
        self._on_progress(", ".join(names[:3]), min(done_len, total_len), total_len)


async def files_send(peer: qg.Peer, *paths: str | os.PathLike[str], on_progress: Progress | None = None) -> Sent:
    """Send files and folders, and return once the receiver has them; raises what `FileSender.run` does."""
    return await FileSender(paths, on_progress=on_progress).run(peer)


class _Work:
    """What the lanes of one transfer take from, and tell."""

    def __init__(self, sender: FileSender, tree: Tree, entries: Iterable[Entry], n_bytes: int) -> None:
        self.sender, self.tree = sender, tree
        self.batches = deque(batches_make(entries))
        self._n_bytes = n_bytes
        self._n_done = 0
        self._outlets: set[Outlet] = set()

    def take(self) -> list[Entry] | None:
        return self.batches.popleft() if self.batches else None

    def begin(self, outlet: Outlet) -> None:
        self._outlets.add(outlet)

    def end(self, outlet: Outlet) -> None:
        self._outlets.discard(outlet)
        self._n_done += outlet.n_done

    def progress(self) -> None:
        self.sender.progress(self._n_done + sum(outlet.n_done for outlet in self._outlets), self._n_bytes)


class _Plan:
    """One plan that is out."""

    def __init__(self, entries: list[Entry]) -> None:
        loop = asyncio.get_running_loop()
        self.entries = entries
        self.wants: asyncio.Future[list[Want]] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.outlet: Outlet | None = None
        self.failures: dict[int, Failure] = {}


class _Lane:
    """One stream of a transfer."""

    def __init__(self, peer: qg.Peer, work: _Work) -> None:
        self._peer, self._work = peer, work
        self._unwanted: deque[_Plan] = deque()  # plans whose wants have not come
        self._undone: deque[_Plan] = deque()
        self._is_through = False

    async def run(self, token: bytes) -> None:
        async with await self._peer.open_stream(FILES_ID, LANE_MARK + token) as stream:
            await _all([self._send(stream), self._answers(stream)])

    async def _send(self, stream: qg.Stream) -> None:
        ahead: deque[_Plan] = deque()
        while True:
            while len(ahead) < _AHEAD_MAX and (entries := self._work.take()):
                ahead.append(await self._plan(stream, entries))
            if ahead:
                await self._files(stream, ahead.popleft())
            elif self._undone:
                await asyncio.wait([self._undone[0].done])
            else:
                break
        self._is_through = True
        stream.finish()

    async def _plan(self, stream: qg.Stream, entries: list[Entry]) -> _Plan:
        plan = _Plan(entries)
        self._unwanted.append(plan)
        self._undone.append(plan)
        await stream.write(plan_encode(entries))
        return plan

    async def _files(self, stream: qg.Stream, plan: _Plan) -> None:
        await asyncio.wait([plan.wants])
        outlet = plan.outlet = Outlet(self._work.tree, plan.entries, plan.wants.result())
        self._work.begin(outlet)
        try:
            while data := await thread_run(outlet.read, outlet.stop):
                await stream.write(data)
                self._work.progress()
        finally:
            self._work.end(outlet)
            outlet.close()

    async def _answers(self, stream: qg.Stream) -> None:
        reader = FrameReader()
        async for data in stream:
            for kind, body in reader.feed(data):
                self._answer(kind, body)
        if not self._is_through:
            raise FrameError("the receiver ended before all was sent")

    def _answer(self, kind: int, body: bytes) -> None:
        if kind == Kind.WANT and self._unwanted:
            plan = self._unwanted.popleft()
            plan.wants.set_result(wants_decode(body, len(plan.entries)))
        elif kind == Kind.FAILED and self._undone and self._undone[0].outlet:
            self._failed(self._undone[0], self._undone[0].outlet, Failure.decode(body))
        elif kind == Kind.DONE and self._undone and self._undone[0].wants.done():
            self._done(self._undone.popleft())
        else:
            raise FrameError(f"a frame of kind {kind} comes out of turn")

    def _failed(self, plan: _Plan, outlet: Outlet, failure: Failure) -> None:
        if failure.place >= len(plan.entries):
            raise FrameError("a failure is of no file")
        plan.failures[failure.place] = failure
        outlet.refused.add(failure.place)

    def _done(self, plan: _Plan) -> None:
        """Take note of what became of the entries of a plan."""
        sender, outlet = self._work.sender, plan.outlet
        again = []
        for index, (entry, want) in enumerate(zip(plan.entries, plan.wants.result(), strict=True)):
            failure = plan.failures.get(index)
            if want.wish is Wish.REFUSE:
                sender.entry_failed(entry, want.why)
            elif failure and failure.is_other and want.wish is Wish.CHECK and not entry.flags & Flag.FRESH:
                again.append(sender.entry_again(entry))
            elif failure:
                sender.entry_failed(entry, failure.why)
            elif outlet and index in outlet.dropped:
                sender.entry_failed(entry, outlet.dropped[index])
            else:
                sender.entry_done(entry, is_same=want.wish is Wish.CHECK)
        if outlet:
            sender.sent.resumed += [name_shown(plan.entries[index].path) for index in sorted(outlet.resumed)]
            sender.sent.restarted += [name_shown(plan.entries[index].path) for index in sorted(outlet.restarted)]
            sender.sent.digest = outlet.digest or sender.sent.digest
        self._work.batches.extend(batches_make(again))
        plan.done.set_result(None)


async def _all(coroutines: Iterable[Coroutine[object, object, None]]) -> None:
    """Run these side by side; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
