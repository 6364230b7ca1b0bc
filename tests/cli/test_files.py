# SPDX-License-Identifier: MIT
"""The service behind `qg send` and `qg receive`: a file is there whole or not at all, and both ends know why."""

import asyncio
import contextlib
import hashlib
import json
import os
import resource
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import qg
from qg.extenders.files import Existing, FileReceiver, Received, file_send

pytestmark = pytest.mark.net

CONTENT = b"".join(number.to_bytes(4) for number in range(600_000))  # more than two blocks


class Inbox:
    """A node that takes files, and a peer that is connected to it."""

    def __init__(self, folder: Path, peer: qg.Peer, outcomes: "asyncio.Queue[Received]") -> None:
        self.folder, self.peer, self.outcomes = folder, peer, outcomes

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    async def speak(self, header: bytes, body: bytes = b"", trailer: bytes = b"") -> Any:
        """Send these bytes and nothing else; return the answer."""
        stream = await self.peer.open_stream(FileReceiver.id)
        await stream.write(len(header).to_bytes(2) + header + body + trailer)
        stream.finish()
        answer = await stream.readexactly(int.from_bytes(await stream.readexactly(2)))
        await stream.close()
        return json.loads(answer)


@contextlib.asynccontextmanager
async def inbox_open(folder: Path, existing: Existing) -> AsyncIterator[Inbox]:
    outcomes: asyncio.Queue[Received] = asyncio.Queue()
    folder.mkdir(exist_ok=True)
    receiver = FileReceiver(folder, existing=existing, on_done=outcomes.put_nowait)
    async with (
        qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], extenders=[receiver]) as node,
        qg.Node(qg.Identity.generate()) as sender,
    ):
        yield Inbox(folder, await sender.connect(node.address), outcomes)


def with_inbox(folder: Path, test: Callable[[Inbox], Awaitable[None]], existing: Existing = "keep") -> None:
    async def main() -> None:
        async with asyncio.timeout(60), inbox_open(folder, existing) as inbox:
            await test(inbox)

    asyncio.run(main())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "inbox"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a file.bin"
    path.write_bytes(CONTENT)
    return path


def header(name: str, size: int | None) -> bytes:
    return json.dumps({"name": name, "size": size}).encode()


@pytest.mark.parametrize("content", [b"", b"x", CONTENT])
def test_a_file_arrives_whole_under_its_name(folder: Path, file: Path, content: bytes) -> None:
    file.write_bytes(content)

    async def test(inbox: Inbox) -> None:
        sent = await file_send(inbox.peer, file)
        received = await inbox.outcomes.get()
        assert received.error is None
        assert received.path == folder / file.name
        assert sent.digest == received.digest == hashlib.sha256(content).digest()
        assert sent.size == received.size == len(content)
        assert inbox.names() == [file.name]
        assert (folder / file.name).read_bytes() == content

    with_inbox(folder, test)


def test_a_folder_arrives_as_a_tar_file_with_all_that_is_in_it(folder: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "er" / "file").write_bytes(CONTENT)
    (tree / "empty").touch()
    (tree / "link").symlink_to("empty")

    async def test(inbox: Inbox) -> None:
        await file_send(inbox.peer, tree)
        assert inbox.names() == ["tree.tar"]
        with tarfile.open(folder / "tree.tar") as tar:
            names = ["tree", "tree/deep", "tree/deep/er", "tree/deep/er/file", "tree/empty", "tree/link"]
            assert sorted(tar.getnames()) == names
            content = tar.extractfile("tree/deep/er/file")
            assert content is not None
            assert content.read() == CONTENT

    with_inbox(folder, test)


def test_progress_is_reported_up_to_the_end(folder: Path, file: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []

    async def test(inbox: Inbox) -> None:
        await file_send(inbox.peer, file, on_progress=lambda *progress: seen.append(progress))

    with_inbox(folder, test)
    assert seen[-1] == (file.name, len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_an_existing_file_is_kept_and_the_sender_told(folder: Path, file: Path) -> None:
    folder.mkdir()
    (folder / file.name).write_bytes(b"old")

    async def test(inbox: Inbox) -> None:
        with pytest.raises(qg.Refused, match="exists already"):
            await file_send(inbox.peer, file)
        assert (await inbox.outcomes.get()).error
        assert inbox.names() == [file.name]
        assert (folder / file.name).read_bytes() == b"old"

    with_inbox(folder, test)


def test_an_existing_file_is_replaced_where_that_is_wanted(folder: Path, file: Path) -> None:
    folder.mkdir()
    (folder / file.name).write_bytes(b"old")

    async def test(inbox: Inbox) -> None:
        await file_send(inbox.peer, file)
        assert inbox.names() == [file.name]
        assert (folder / file.name).read_bytes() == CONTENT

    with_inbox(folder, test, "replace")


def test_a_file_that_comes_into_being_meanwhile_is_kept(folder: Path) -> None:
    async def test(inbox: Inbox) -> None:
        stream = await inbox.peer.open_stream(FileReceiver.id)
        await stream.write(len(header("a", 1)).to_bytes(2) + header("a", 1))
        while inbox.names() != ["a.part"]:
            await inbox.peer.ping()
        (folder / "a").write_bytes(b"first")
        await stream.write(b"x" + hashlib.sha256(b"x").digest())
        stream.finish()
        assert b"exists by now" in await stream.read()
        assert (folder / "a").read_bytes() == b"first"
        assert (folder / "a.part").read_bytes() == b"x"

    with_inbox(folder, test)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../a",
        "/a",
        "a/b",
        "a\\b",
        ".bashrc",
        "a\0",
        "a\nb",
        "a\x1b[2J",
        "a\u202eexe",
        "x" * 251,
        "é" * 126,
    ],
)
def test_a_name_that_is_not_plain_is_refused_and_nothing_is_written(folder: Path, name: str) -> None:
    async def test(inbox: Inbox) -> None:
        answer = await inbox.speak(header(name, 1), b"x", hashlib.sha256(b"x").digest())
        assert "rename it" in answer["error"]
        assert (await inbox.outcomes.get()).error
        assert inbox.names() == []
        assert sorted(path.name for path in folder.parent.iterdir()) == ["inbox"]

    with_inbox(folder, test)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"name": "a"}', b'{"name": 1, "size": 1}', b'{"name": "a", "size": "1"}']
)
def test_a_header_that_is_none_is_refused(folder: Path, raw: bytes) -> None:
    async def test(inbox: Inbox) -> None:
        assert "compatible" in (await inbox.speak(raw))["error"]
        assert inbox.names() == []

    with_inbox(folder, test)


def test_a_header_that_is_too_long_is_refused(folder: Path) -> None:
    async def test(inbox: Inbox) -> None:
        assert "longer" in (await inbox.speak(header("a" * 5000, 1)))["error"]

    with_inbox(folder, test)


@pytest.mark.parametrize(
    ("size", "body", "trailer"),
    [
        (3, b"abc", bytes(32)),  # another hash
        (4, b"abc", hashlib.sha256(b"abc").digest()),  # shorter than announced
        (2, b"abc", hashlib.sha256(b"abc").digest()),  # longer
        (3, b"abc", b""),  # no hash
        (None, b"abc", bytes(32)),
        (0, b"", b""),
    ],
)
def test_bytes_that_are_not_right_stay_in_the_part_file(
    folder: Path, size: int | None, body: bytes, trailer: bytes
) -> None:
    async def test(inbox: Inbox) -> None:
        assert (await inbox.speak(header("a", size), body, trailer))["error"]
        assert (await inbox.outcomes.get()).error
        assert inbox.names() == ["a.part"]

    with_inbox(folder, test)


def test_a_sender_that_gives_up_leaves_the_part_file(folder: Path) -> None:
    async def test(inbox: Inbox) -> None:
        stream = await inbox.peer.open_stream(FileReceiver.id)
        await stream.write(len(header("a", 9)).to_bytes(2) + header("a", 9))
        while inbox.names() != ["a.part"]:
            await inbox.peer.ping()
        stream.reset()
        received = await inbox.outcomes.get()
        assert (received.name, received.path) == ("a", None)
        assert received.error
        assert inbox.names() == ["a.part"]

    with_inbox(folder, test)


def test_a_part_file_of_an_earlier_try_is_written_anew(folder: Path, file: Path) -> None:
    folder.mkdir()
    (folder / f"{file.name}.part").write_bytes(bytes(5_000_000))

    async def test(inbox: Inbox) -> None:
        await file_send(inbox.peer, file)
        assert (folder / file.name).read_bytes() == CONTENT
        assert inbox.names() == [file.name]

    with_inbox(folder, test)


def test_a_part_file_that_is_a_link_is_not_followed(folder: Path, file: Path) -> None:
    folder.mkdir()
    precious = folder.parent / "precious"
    precious.write_bytes(b"precious")
    (folder / f"{file.name}.part").symlink_to(precious)

    async def test(inbox: Inbox) -> None:
        with pytest.raises(qg.Refused):
            await file_send(inbox.peer, file)
        assert precious.read_bytes() == b"precious"

    with_inbox(folder, test, "replace")


def test_the_same_name_is_not_received_twice_at_once(folder: Path, file: Path) -> None:
    async def test(inbox: Inbox) -> None:
        first = await inbox.peer.open_stream(FileReceiver.id)
        raw = header(file.name, 9)
        await first.write(len(raw).to_bytes(2) + raw)
        while not inbox.names():
            await inbox.peer.ping()
        with pytest.raises(qg.Refused, match="being received already"):
            await file_send(inbox.peer, file)
        first.reset()

    with_inbox(folder, test)


@contextlib.contextmanager
def files_limited(length: int) -> Iterator[None]:
    """Let no file of this process grow beyond a length: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_is_an_error_at_both_ends_and_the_part_file_stays(folder: Path, file: Path) -> None:
    async def test(inbox: Inbox) -> None:
        with files_limited(1_500_000), pytest.raises(qg.Refused, match="cannot be written: File too large"):
            await file_send(inbox.peer, file)
        assert "File too large" in str((await inbox.outcomes.get()).error)
        assert inbox.names() == [f"{file.name}.part"]
        assert (folder / f"{file.name}.part").read_bytes() == CONTENT[:1_500_000]

    with_inbox(folder, test)


def test_a_file_that_cannot_be_read_is_this_sides_fault(folder: Path, tmp_path: Path) -> None:
    async def test(inbox: Inbox) -> None:
        with pytest.raises(qg.LocalError, match="cannot be read"):
            await file_send(inbox.peer, tmp_path / "nothing")

    with_inbox(folder, test)


def test_a_file_that_shrinks_while_it_is_sent_is_said_on_both_sides(folder: Path, file: Path) -> None:
    async def test(inbox: Inbox) -> None:
        with pytest.raises(qg.LocalError, match="changed"):
            await file_send(inbox.peer, file, on_progress=lambda *_: os.truncate(file, 1_500_000))
        assert (await inbox.outcomes.get()).error
        assert inbox.names() == [f"{file.name}.part"]

    with_inbox(folder, test)


def test_a_cancelled_send_ends_the_transfer(folder: Path, file: Path) -> None:
    async def test(inbox: Inbox) -> None:
        sending = asyncio.create_task(file_send(inbox.peer, file, on_progress=lambda *_: sending.cancel() and None))
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert (await inbox.outcomes.get()).error

    with_inbox(folder, test)


def test_the_words_of_a_receiver_cannot_play_with_the_terminal(file: Path) -> None:
    class Rude(qg.Extender):
        id = FileReceiver.id

        async def on_stream(self, stream: qg.Stream) -> None:
            answer = json.dumps({"error": "no\x1b[2J" + "o" * 3000}).encode()
            await stream.write(len(answer).to_bytes(2) + answer)
            stream.finish()
            async for _ in stream:
                pass

    async def main() -> None:
        async with (
            qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], extenders=[Rude()]) as node,
            qg.Node(qg.Identity.generate()) as sender,
        ):
            peer = await sender.connect(node.address)
            with pytest.raises(qg.Refused) as caught:
                await file_send(peer, file)
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 400

    asyncio.run(main())


def test_a_peer_that_takes_no_files_is_said_so(file: Path) -> None:
    async def main() -> None:
        async with (
            qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"]) as node,
            qg.Node(qg.Identity.generate()) as sender,
        ):
            with pytest.raises(qg.Unsupported):
                await file_send(await sender.connect(node.address), file)

    asyncio.run(main())
