# SPDX-License-Identifier: MIT
"""The receiver: who may send, how much, and what became of it."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import qg
from qg.extenders.files.frames import Answer, FrameError, FrameReader, Kind, Offer
from qg.extenders.files.intake import Lane, Tally
from qg.extenders.files.landing import Existing, Ground, Landing
from qg.extenders.files.names import name_shown, path_problem
from qg.extenders.files.protocol import FILES_ID, LANES_MAX, TOKEN_LEN, Progress
from qg.extenders.files.threads import thread_run

__all__ = ["FileReceiver", "Received", "Request"]

_TRANSFERS_MAX = 16  # at once
_QUESTIONS_MAX = 4  # about one sender that wait for an answer; one that comes back may be asked about twice
_FILES_MAX = 1_000_000  # of one transfer, folders among them
_KNOWN_MAX = 64  # transfers that were taken, and are not asked for again when the sender comes back
_DRAIN_TIMEOUT_S = 10.0  # for a sender to take note of a refusal


class Request(NamedTuple):
    """Tell what somebody wants to send."""

    peer_id: qg.PeerId
    names: tuple[str, ...]  # as they may be printed; the first 16
    n_files: int  # folders among them
    n_bytes: int


class Received(NamedTuple):
    """Tell how one transfer ended at the receiver."""

    request: Request
    error: str | None  # why it ended early; None: it came to its end, though files may have failed
    is_taken: bool = False  # False: it was refused before it began
    is_lost: bool = False  # the sender may come back and go on
    n_files: int = 0  # whole, folders among them
    n_same: int = 0  # of these, those that were here before
    n_bytes: int = 0  # came
    n_resumed: int = 0  # files that went on where they had ended before
    n_restarted: int = 0  # files that had changed since and began anew
    n_failed: int = 0
    failures: tuple[tuple[str, str], ...] = ()  # names and reasons, the first 1,000
    parts: tuple[str, ...] = ()  # unfinished files, the first 1,000
    path: Path | None = None  # of the last file, and its size and BLAKE2b-256
    size: int = 0
    digest: bytes = b""

    @property
    def is_whole(self) -> bool:
        """Tell whether all that was announced is here."""
        return self.error is None and not self.n_failed


class _RefusedError(Exception):
    """Why a transfer is not taken; the words are told to the sender."""


class _Transfer:
    """One transfer that was taken: its lanes, and what they brought."""

    def __init__(self, stream: qg.Stream, offer: Offer, ground: Ground) -> None:
        self.stream, self.offer, self.ground = stream, offer, ground
        self.tally = Tally(offer)
        self.lanes: dict[asyncio.Task[None], qg.Stream] = {}
        self.error: str | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def stop(self, why: str, reason: qg.Reason) -> None:
        """End it early."""
        self.error = self.error or why
        self.ground.is_stopped = True
        for stream in (self.stream, *self.lanes.values()):
            stream.reset(reason)


class FileReceiver(qg.Extender):
    """Take files and folders into a folder.

    `senders` says from whom; None: from anybody. With `ask`, it is awaited for all others, and says whether a transfer
    is taken. `size_max` bounds the bytes of one transfer. `existing` says what happens when another file has the name
    of one that comes: "keep" refuses the new one, "replace" puts it in the place of the old one once it is whole. The
    functions are called on the event loop.
    """

    id = FILES_ID

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        senders: Collection[qg.PeerId] | None = None,
        ask: Callable[[Request], Awaitable[bool]] | None = None,
        size_max: int | None = None,
        existing: Existing = "keep",
        on_progress: Progress | None = None,
        on_done: Callable[[Received], None] | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._senders, self._ask, self._size_max = senders, ask, size_max
        self._existing: Existing = existing
        self._on_progress = on_progress or (lambda *_: None)
        self._on_done = on_done or (lambda _: None)
        self._transfers: dict[tuple[qg.PeerId, bytes], _Transfer] = {}
        self._known: dict[tuple[qg.PeerId, bytes], Offer] = {}
        self._asking: list[qg.PeerId] = []  # about whom, once for each question

    async def on_stream(self, stream: qg.Stream) -> None:
        """Take the offer of a transfer, or a lane of one that was taken."""
        key = stream.peer.id, stream.metadata[1:]
        if len(stream.metadata) != 1 + TOKEN_LEN or stream.metadata[0] > 1:
            stream.reset(qg.Reason.PROTOCOL)
        elif stream.metadata[0] == 0:
            await self._transfer(stream, key)
        elif (transfer := self._transfers.get(key)) is None or len(transfer.lanes) >= LANES_MAX:
            stream.reset(qg.Reason.REFUSED)
        else:
            await self._lane(stream, transfer)

    # One transfer

    async def _transfer(self, stream: qg.Stream, key: tuple[qg.PeerId, bytes]) -> None:
        request = Request(stream.peer.id, (), 0, 0)
        try:
            offer = await _offer_read(stream)
            request = _request(stream.peer.id, offer)
            transfer = await self._take(stream, request, offer, key)
        except (_RefusedError, FrameError) as refusal:
            await _refuse(stream, str(refusal))
            self._on_done(Received(request, str(refusal)))
            return
        is_lost = False
        try:
            await stream.write(Answer(None).encode())
            if await stream.read(1):
                transfer.error = "the sender says more than an offer"
        except qg.QGError as error:
            is_lost = isinstance(error, qg.RemoteError) and error.reason is not qg.Reason.CANCELLED
            transfer.error = transfer.error or str(error)
        finally:
            await self._end(transfer, key)
        stream.finish()
        self._on_done(_outcome(transfer, request, self._folder, is_lost=is_lost))

    async def _take(
        self, stream: qg.Stream, request: Request, offer: Offer, key: tuple[qg.PeerId, bytes]
    ) -> _Transfer:
        """Begin a transfer; raises `_RefusedError`."""
        await self._offer_check(request, offer, key)
        while old := self._transfers.get(key):  # its sender has come back before its link was known to be lost
            old.stop("the sender has come back", qg.Reason.DUPLICATE)
            await asyncio.wait([old.ended])
        if len(self._transfers) >= _TRANSFERS_MAX:
            raise _RefusedError("too many others are sending: try again later")
        ground = self._ground_open(offer)  # nothing is waited for from here on
        self._known[key] = offer
        if len(self._known) > _KNOWN_MAX:
            del self._known[next(iter(self._known))]
        transfer = self._transfers[key] = _Transfer(stream, offer, ground)
        return transfer

    def _ground_open(self, offer: Offer) -> Ground:
        try:
            ground = Ground(self._folder, self._existing)
        except OSError as error:
            raise _RefusedError(f"the folder cannot be written: {error.strerror}") from None
        if offer.n_bytes > ground.free_len:
            ground.close()
            raise _RefusedError("the disk has no room for it")
        return ground

    async def _offer_check(self, request: Request, offer: Offer, key: tuple[qg.PeerId, bytes]) -> None:
        """Decide about a transfer; raises `_RefusedError`."""
        if offer.n_files > _FILES_MAX:
            raise _RefusedError(f"{offer.n_files} files are more than the {_FILES_MAX} that are taken at once")
        if self._size_max is not None and offer.n_bytes > self._size_max:
            raise _RefusedError(f"{offer.n_bytes} bytes are more than the {self._size_max} that are taken")
        is_listed = self._senders is not None and request.peer_id in self._senders
        if is_listed or offer.is_within(self._known.get(key)):
            return
        if self._ask is not None:
            if not await self._asked(request, self._ask):
                raise _RefusedError("the receiver does not want it")
        elif self._senders is not None:
            raise _RefusedError("files are taken from others only")

    async def _asked(self, request: Request, ask: Callable[[Request], Awaitable[bool]]) -> bool:
        if len(self._asking) >= _TRANSFERS_MAX or self._asking.count(request.peer_id) >= _QUESTIONS_MAX:
            raise _RefusedError("an earlier one waits for an answer there: try again later")
        self._asking.append(request.peer_id)
        try:
            return await ask(request)
        finally:
            self._asking.remove(request.peer_id)

    async def _end(self, transfer: _Transfer, key: tuple[qg.PeerId, bytes]) -> None:
        """Wait for the lanes, which end with the link or have ended already."""
        try:
            if transfer.lanes:
                await asyncio.wait(transfer.lanes)
        finally:
            del self._transfers[key]
            transfer.ground.close()
            transfer.ended.set_result(None)

    # One lane

    async def _lane(self, stream: qg.Stream, transfer: _Transfer) -> None:
        task = asyncio.current_task()
        assert task is not None
        transfer.lanes[task] = stream
        lane = Lane(Landing(transfer.ground), transfer.tally)
        name = _title(transfer.offer)
        try:
            async for data in stream:
                answers = await thread_run(partial(lane.feed, data), partial(_stop, transfer))
                if answers:
                    await stream.write(answers)
                self._on_progress(name, transfer.tally.n_bytes, transfer.offer.n_bytes)
            lane.end()
        except FrameError as error:
            transfer.stop(f"this is not what a compatible version of qg sends: {error}", qg.Reason.PROTOCOL)
        finally:
            lane.close()
            del transfer.lanes[task]


def _stop(transfer: _Transfer) -> None:
    transfer.ground.is_stopped = True


async def _offer_read(stream: qg.Stream) -> Offer:
    reader = FrameReader()
    async for data in stream:
        for kind, body in reader.feed(data):
            if kind != Kind.OFFER:
                raise FrameError("no offer comes first")
            return Offer.decode(body)
    raise FrameError("the sender ended before its offer")


def _request(peer_id: qg.PeerId, offer: Offer) -> Request:
    for name in offer.names:
        if b"/" in name or (problem := path_problem(name)):
            raise _RefusedError(f"{name_shown(name)}: {problem if b'/' not in name else 'that is no name'}")
    return Request(peer_id, tuple(map(name_shown, offer.names)), offer.n_files, offer.n_bytes)


def _title(offer: Offer) -> str:
    return name_shown(offer.names[0]) if len(offer.names) == 1 else f"{offer.n_files} files"


async def _refuse(stream: qg.Stream, why: str) -> None:
    """Say no, and wait until the sender has read it."""
    with suppress(TimeoutError, qg.RemoteError):
        async with asyncio.timeout(_DRAIN_TIMEOUT_S):
            await stream.write(Answer(why).encode())
            stream.finish()
            async for _ in stream:
                pass


def _outcome(transfer: _Transfer, request: Request, folder: Path, *, is_lost: bool) -> Received:
    tally = transfer.tally
    path, digest, size = tally.last or (None, b"", 0)
    return Received(
        request,
        transfer.error,
        is_taken=True,
        is_lost=is_lost,
        n_files=tally.n_files,
        n_same=tally.n_same,
        n_bytes=tally.n_bytes,
        n_resumed=tally.n_resumed,
        n_restarted=tally.n_restarted,
        n_failed=tally.n_failed,
        failures=tuple(tally.failures),
        parts=tuple(sorted(tally.parts)),
        path=folder / os.fsdecode(path) if path else None,
        size=size,
        digest=digest,
    )
