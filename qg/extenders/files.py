# SPDX-License-Identifier: MIT
"""Files from one node to another: what `qg send` and `qg receive` speak. One stream carries one file.

    sender to receiver   u16 length | header as JSON {"name": "a.txt", "size": 5} | the bytes | SHA-256 of them, 32
    receiver to sender   u16 length | answer as JSON {"error": null}: once all is on disk, or as soon as it cannot be

`size` is null when the sender does not know it before the end, as for a folder, which is sent as a tar stream. The
receiver writes NAME.part and renames it when the hash is right and the disk has it, so NAME is whole or not there; what
came before a failure stays under NAME.part. Names are the sender's, so they are not believed: no folder, nothing
hidden, nothing that cannot be printed.
"""

import asyncio
import fcntl
import hashlib
import os
import stat
import tarfile
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal, NamedTuple, TypeVar

import msgspec

import qg

__all__ = ["FileReceiver", "Received", "Sent", "file_send"]

_FILES_ID = qg.ExtenderId("ab566ab6-b8d0-4480-aedd-48e539884ed1")

_BLOCK_LEN = 1 << 18  # bytes read, hashed or written in one go, on a thread beside the event loop
_DIGEST_LEN = 32
_MESSAGE_MAX = 4096  # header or answer
_NAME_MAX = 250  # bytes; ".part" must fit behind it
_TEXT_MAX = 200  # characters of a peer's words that are shown
_DRAIN_TIMEOUT_S = 10.0  # for a sender to take note of a refusal

Existing = Literal["keep", "replace"]
Progress = Callable[[str, int, int | None], None]  # name, bytes so far, bytes in all if known

_T = TypeVar("_T")


class Sent(NamedTuple):
    """Tell what the receiver has on its disk."""

    name: str
    size: int
    digest: bytes  # SHA-256


class Received(NamedTuple):
    """Tell how one transfer ended at the receiver."""

    peer_id: qg.PeerId
    name: str  # "": it was refused before that was known, or because of it
    path: Path | None  # None: it failed
    size: int  # bytes that came
    digest: bytes  # SHA-256 of them
    error: str | None


class _Header(msgspec.Struct):
    name: str
    size: int | None


class _Answer(msgspec.Struct):
    error: str | None


class _Refusal(Exception):
    """Why this side cannot or will not go on; its text is told to the other side."""


def _name_problem(name: str) -> str | None:
    """Say why a received file may not have this name; None if it may."""
    if not name or "/" in name or "\\" in name:
        return f"{name!r} is not a plain file name"
    if name.startswith("."):
        return f"{name!r} is a hidden name"
    if not name.isprintable() or len(os.fsencode(name)) > _NAME_MAX:
        return f"{name!r} has characters that cannot be printed, or is longer than {_NAME_MAX} bytes"
    return None


async def _message_write(stream: qg.Stream, message: msgspec.Struct) -> None:
    raw = msgspec.json.encode(message)
    await stream.write(len(raw).to_bytes(2) + raw)


async def _message_read(stream: qg.Stream, type_: type[_T]) -> _T:
    try:
        length = int.from_bytes(await stream.readexactly(2))
        if length > _MESSAGE_MAX:
            raise _Refusal(f"a message of {length} bytes is longer than {_MESSAGE_MAX}")
        return msgspec.json.decode(await stream.readexactly(length), type=type_)
    except asyncio.IncompleteReadError:
        raise _Refusal("the other side ended in the middle of a message") from None
    except msgspec.DecodeError as error:
        raise _Refusal(f"this is not what a compatible version of qg sends: {error}") from None


# ---- receiving


class _PartFile:
    """A file that grows as NAME.part and becomes NAME at the end. All methods block."""

    def __init__(self, path: Path, existing: Existing) -> None:
        self._path, self._existing = path, existing
        if existing == "keep" and os.path.lexists(path):
            raise _Refusal(f"{path.name} exists already")
        self._part = path.with_name(path.name + ".part")
        self._fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            self._take()
        except BaseException:
            self.close()
            raise
        self._hash = hashlib.sha256()
        self.size = 0

    def _take(self) -> None:
        """Make sure that nobody else writes it, then empty it."""
        mine = os.fstat(self._fd)
        if not stat.S_ISREG(mine.st_mode):
            raise _Refusal(f"{self._part.name} is not a regular file")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.stat(self._part).st_ino == mine.st_ino
        except (BlockingIOError, FileNotFoundError):
            is_ours = False
        if not is_ours:  # locked, or renamed by its writer before we had the lock
            raise _Refusal(f"{self._path.name} is being received already")
        os.ftruncate(self._fd, 0)

    def append(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                n_written = os.write(self._fd, view)
                self._hash.update(view[:n_written])
                self.size += n_written
                view = view[n_written:]

    @property
    def digest(self) -> bytes:
        return self._hash.digest()

    def commit(self) -> None:
        """Give it its name, once the disk has all of it."""
        os.fsync(self._fd)
        if self._existing == "replace":
            os.replace(self._part, self._path)
        else:
            _rename_new(self._part, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        os.close(self._fd)


def _rename_new(source: Path, destination: Path) -> None:
    """Rename, but never over another file."""
    try:
        os.link(source, destination)
    except OSError:  # the name is taken, or a file system without hard links, such as FAT
        if os.path.lexists(destination):
            raise _Refusal(f"{destination.name} exists by now") from None
        os.rename(source, destination)
    else:
        os.unlink(source)


def _tail_take(chunks: list[bytes]) -> bytes:
    """Take off the end what may be the trailer, and return it."""
    tail = b""
    while chunks and len(tail) < _DIGEST_LEN:
        tail = chunks.pop() + tail
    chunks.append(tail[:-_DIGEST_LEN])
    return tail[-_DIGEST_LEN:]


class _Incoming:
    """One transfer at the receiver."""

    def __init__(self, stream: qg.Stream, on_progress: Progress) -> None:
        self._stream, self._on_progress = stream, on_progress
        self._part: _PartFile | None = None
        self._header = _Header("", None)
        self._path: Path | None = None

    async def run(self, folder: Path, existing: Existing) -> None:
        """Take the file; raises `_Refusal`, `OSError` of the disk, or `qg.QGError` of the stream."""
        header = await _message_read(self._stream, _Header)
        if problem := _name_problem(header.name):
            raise _Refusal(f"{problem}; rename it")
        self._header = header
        self._part = await asyncio.to_thread(_PartFile, folder / header.name, existing)
        try:
            trailer = await self._blocks_write(self._part)
            if header.size not in (None, self._part.size) or trailer != self._part.digest:
                raise _Refusal(f"{self._part.size} bytes came, and their size or SHA-256 is not what it should be")
            await asyncio.to_thread(self._part.commit)
            self._path = folder / header.name
        finally:
            self._part.close()

    async def _blocks_write(self, part: _PartFile) -> bytes:
        """Write all that comes but the trailer, which is returned."""
        size = self._header.size
        chunks: list[bytes] = []
        n_pending = 0
        async for chunk in self._stream:
            chunks.append(chunk)
            n_pending += len(chunk)
            if n_pending >= _BLOCK_LEN:
                trailer = _tail_take(chunks)
                await asyncio.to_thread(part.append, chunks)
                chunks, n_pending = [trailer], len(trailer)
                self._on_progress(self._header.name, part.size, size)
            if size is not None and part.size > size:
                raise _Refusal(f"more than the {size} bytes come that were announced")
        trailer = _tail_take(chunks)
        await asyncio.to_thread(part.append, chunks)
        return trailer

    def outcome(self, error: str | None) -> Received:
        size, digest = (self._part.size, self._part.digest) if self._part else (0, b"")
        return Received(self._stream.peer.id, self._header.name, self._path, size, digest, error)


class FileReceiver(qg.Extender):
    """Take files into a folder.

    `senders` says from whom; None: from anybody. `existing` says what happens when a name is taken: "keep" refuses the
    new file, "replace" puts it in the place of the old one, which stays until the new one is whole. The functions are
    called on the event loop.
    """

    id = _FILES_ID

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        senders: Collection[qg.PeerId] | None = None,
        existing: Existing = "keep",
        on_progress: Progress | None = None,
        on_done: Callable[[Received], None] | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._senders = senders
        self._existing: Existing = existing
        self._on_progress = on_progress or (lambda *_: None)
        self._on_done = on_done or (lambda _: None)

    async def on_stream(self, stream: qg.Stream) -> None:
        """Receive one file, tell the sender how it went, report it."""
        incoming = _Incoming(stream, self._on_progress)
        error: str | None = None
        try:
            try:
                if self._senders is not None and stream.peer.id not in self._senders:
                    raise _Refusal("files are taken from others only")
                await incoming.run(self._folder, self._existing)
            except _Refusal as refusal:
                error = str(refusal)
            except OSError as failure:
                if isinstance(failure, qg.QGError):
                    raise
                error = f"it cannot be written: {failure.strerror}"
            await self._answer(stream, error)
        except qg.QGError as lost:  # nobody is there to be told; what is on disk stays
            error = error or str(lost)
        self._on_done(incoming.outcome(error))

    async def _answer(self, stream: qg.Stream, error: str | None) -> None:
        await _message_write(stream, _Answer(error))
        stream.finish()
        # A sender in the middle of the file reads the answer and resets; until then its bytes must not be in the way.
        with suppress(TimeoutError, qg.RemoteError):
            async with asyncio.timeout(_DRAIN_TIMEOUT_S):
                async for _ in stream:
                    pass


# ---- sending


class _Source:
    """A file to send. `read` blocks."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file: IO[bytes] = open(path, "rb", buffering=0)  # noqa: SIM115
        self.size: int | None = os.fstat(self._file.fileno()).st_size
        self._hash = hashlib.sha256()

    def read(self) -> bytes:
        """Return the next block, b"" at the end."""
        block = self._file.read(_BLOCK_LEN)
        self._hash.update(block)
        return block

    @property
    def digest(self) -> bytes:
        return self._hash.digest()

    def close(self) -> None:
        self._file.close()


class _TreeSource(_Source):
    """A folder to send, as a tar stream that a thread of its own writes into a pipe."""

    def __init__(self, path: Path) -> None:
        read_fd, self._write_fd = os.pipe()
        self.name = f"{path.name}.tar"
        self.size = None
        self._file = open(read_fd, "rb", buffering=_BLOCK_LEN)  # noqa: SIM115
        self._hash = hashlib.sha256()
        self._failure: OSError | tarfile.TarError | None = None
        self._writer = threading.Thread(target=self._write, args=(path,), name="qg tar", daemon=True)
        self._writer.start()

    def _write(self, path: Path) -> None:
        try:
            with open(self._write_fd, "wb") as pipe, tarfile.open(fileobj=pipe, mode="w|") as tar:
                tar.add(path, path.name)
        except (OSError, tarfile.TarError) as failure:  # a broken pipe: `close` came before the end
            self._failure = failure

    def read(self) -> bytes:
        block = super().read()
        if not block:
            self._writer.join()
            if self._failure:
                raise self._failure
        return block


def _source_open(path: Path) -> _Source:
    path = path.resolve()  # "." has a name too
    if problem := _name_problem(path.name):
        raise qg.LocalError(f"{path} cannot be sent: {problem}; rename it")
    return _TreeSource(path) if path.is_dir() else _Source(path)


async def file_send(peer: qg.Peer, path: str | os.PathLike[str], *, on_progress: Progress | None = None) -> Sent:
    """Send a file, or a folder as NAME.tar, and return once the receiver has it on its disk.

    Raises `qg.Unsupported` if the peer takes no files, `qg.Refused` with its words if it will not or cannot take this
    one, `qg.LocalError` if the file cannot be sent, and what its stream raises. Cancelling it ends the transfer.
    """
    try:
        source = await asyncio.to_thread(_source_open, Path(path))
    except OSError as error:
        raise qg.LocalError(f"{os.fspath(path)} cannot be read: {error.strerror}; check the path") from None
    try:
        async with await peer.open_stream(_FILES_ID) as stream:
            return await _transfer(stream, source, on_progress or (lambda *_: None))
    finally:
        source.close()


async def _transfer(stream: qg.Stream, source: _Source, on_progress: Progress) -> Sent:
    """Send while listening for an answer, since a receiver may refuse in the middle."""
    sending = asyncio.create_task(_source_write(stream, source, on_progress))
    answering = asyncio.create_task(_message_read(stream, _Answer))
    try:
        await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
        answer = await answering
        if answer.error is not None:
            words = "".join(c if c.isprintable() else "?" for c in answer.error[:_TEXT_MAX])
            raise qg.Refused(f"{stream.peer.id} did not take {source.name}: {words}", qg.Reason.REFUSED)
        return await sending
    except _Refusal as refusal:
        raise qg.RemoteError(f"sending {source.name} failed: {refusal}", qg.Reason.PROTOCOL) from None
    finally:
        for task in (sending, answering):
            task.cancel()
        await asyncio.gather(sending, answering, return_exceptions=True)


async def _source_write(stream: qg.Stream, source: _Source, on_progress: Progress) -> Sent:
    await _message_write(stream, _Header(source.name, source.size))
    n_sent = 0
    try:
        while block := await asyncio.to_thread(source.read):
            await stream.write(block)
            n_sent += len(block)
            on_progress(source.name, n_sent, source.size)
    except (OSError, tarfile.TarError) as error:
        if isinstance(error, qg.QGError):
            raise
        raise qg.LocalError(f"{source.name} cannot be read to its end: {error}; nothing was sent") from None
    if source.size not in (None, n_sent):
        raise qg.LocalError(f"{source.name} changed while it was sent: send it again")
    await stream.write(source.digest)
    stream.finish()
    return Sent(source.name, n_sent, source.digest)
