# SPDX-License-Identifier: MIT
"""Files and folders between nodes: each is there whole or not at all, nothing lands elsewhere, both ends know why."""

import asyncio
import contextlib
import errno
import hashlib
import os
import resource
import socket

import pytest
from net.support import LISTEN, until

import qg
from qg.extenders.files import FileReceiver, FileSender, files_send
from qg.extenders.files import frames as wire
from qg.extenders.files.names import PART_SUFFIX, part_name
from qg.extenders.files.protocol import LANE_MARK, OFFER_MARK

pytestmark = [pytest.mark.net, pytest.mark.anyio]

CONTENT = b"".join(number.to_bytes(4) for number in range(600_000))  # more than two reads of the sender
SHORT = b"short"
PART = PART_SUFFIX.decode()


def blake(data):
    return hashlib.blake2b(data, digest_size=32).digest()


class Inbox:
    """A node that takes files, and a peer that is connected to it."""

    def __init__(self, folder, node, peer, outcomes):
        self.folder, self.node, self.peer, self.outcomes = folder, node, peer, outcomes

    def names(self):
        return sorted(os.listdir(self.folder))


@contextlib.asynccontextmanager
async def inbox_open(folder, **options):
    outcomes = asyncio.Queue()
    folder.mkdir(exist_ok=True)
    receiver = FileReceiver(folder, on_done=outcomes.put_nowait, **options)
    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[receiver]) as node,
        qg.Node(qg.Identity.generate()) as sender,
    ):
        yield Inbox(folder, node, await sender.connect(node.address), outcomes)


class Hostile:
    """A sender that says what a test has it say."""

    def __init__(self, peer):
        self.peer, self.token, self.reader, self.frames = peer, os.urandom(16), wire.FrameReader(), []

    async def offer(self, n_files, n_bytes, *names):
        self.stream = await self.peer.open_stream(FileReceiver.id, OFFER_MARK + self.token)
        await self.stream.write(wire.Offer(n_files, n_bytes, names).encode())
        return wire.Answer.decode((await self._frame(self.stream))[1]).refusal

    async def lane(self, *entries):
        self.file = await self.peer.open_stream(FileReceiver.id, LANE_MARK + self.token)
        await self.file.write(wire.plan_encode(entries))
        return wire.wants_decode((await self._frame(self.file))[1], len(entries))

    async def say(self, kind, body=b""):
        await self.file.write(wire.frame_make(kind, body))

    async def hear(self):
        return await self._frame(self.file)

    async def _frame(self, stream):
        while not self.frames:
            data = await stream.read(65536)
            assert data, "it said nothing more"
            self.frames += self.reader.feed(data)
        return self.frames.pop(0)

    async def end(self):
        self.file.finish()
        self.stream.finish()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "inbox"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a file.bin"
    path.write_bytes(CONTENT)
    return path


def tree_read(path):
    """Give all that is below a folder: files with their bytes and whether they can be run, folders."""
    found = {}
    for place, folders, names in os.walk(os.fsencode(path)):
        below = os.path.relpath(place, os.fsencode(path))
        for name in folders:
            found[os.path.join(below, name)] = None
        for name in names:
            with open(os.path.join(place, name), "rb") as source:
                found[os.path.join(below, name)] = source.read(), bool(os.fstat(source.fileno()).st_mode & 0o100)
    return found


@pytest.mark.parametrize("content", [b"", b"x", CONTENT])
async def test_a_file_arrives_whole_under_its_name(folder, file, content):
    file.write_bytes(content)
    async with inbox_open(folder) as inbox:
        sent = await files_send(inbox.peer, file)
        received = await inbox.outcomes.get()
        assert (received.error, received.failures, received.is_whole) == (None, (), True)
        assert received.path == folder / file.name
        assert sent.digest == received.digest == blake(content)
        assert sent.n_bytes == received.n_bytes == len(content)
        assert inbox.names() == [file.name]
        assert (folder / file.name).read_bytes() == content


async def test_a_folder_arrives_with_all_that_is_in_it(folder, tmp_path):
    tree = tmp_path / "tree"
    (tree / "deep" / "er" / "empty").mkdir(parents=True)
    (tree / ".hidden").write_bytes(CONTENT)
    (tree / "deep" / "er" / "program").write_bytes(SHORT)
    (tree / "deep" / "er" / "program").chmod(0o4755)
    for number in range(600):
        (tree / "deep" / f"{number}").write_bytes(b"%d" % number)
    async with inbox_open(folder) as inbox:
        sent = await files_send(inbox.peer, tree)
        assert (sent.n_files, sent.failures) == (606, [])
        assert tree_read(folder / "tree") == tree_read(tree)
        assert (folder / "tree" / "deep" / "er" / "program").stat().st_mode & 0o7000 == 0


async def test_several_files_and_folders_arrive_in_one_transfer(folder, tmp_path, file):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "x").write_bytes(SHORT)
    async with inbox_open(folder) as inbox:
        await files_send(inbox.peer, file, tmp_path / "tree")
        received = await inbox.outcomes.get()
        assert received.request.names == (file.name, "tree")
        assert (folder / "tree" / "x").read_bytes() == SHORT
        assert (folder / file.name).read_bytes() == CONTENT


async def test_links_and_devices_are_left_out_and_counted(folder, tmp_path, file):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(SHORT)
    (tree / "link").symlink_to(file)
    (tree / "folder link").symlink_to(tmp_path)
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fspath(tree / "s"))
        async with inbox_open(folder) as inbox:
            sent = await files_send(inbox.peer, tree)
    assert (sent.n_left_out, sent.failures) == (4, [])
    assert os.listdir(folder / "tree") == ["file"]


NAMES = [
    b"a\nb",
    b"a\x1b[2J",
    "a\u202eexe".encode(),
    b"\xff\xfe",
    b"a\\b",
    b" ",
    b"-rf",
    b"x" * 255,
    "é".encode() * 127,
]


@pytest.mark.parametrize("content", [SHORT, CONTENT])
async def test_names_arrive_as_they_are_and_are_printed_in_one_line(folder, tmp_path, content):
    tree = os.fsencode(tmp_path / "tree")
    os.mkdir(tree)
    names = []
    for name in NAMES:
        try:
            with open(os.path.join(tree, name), "wb") as target:
                target.write(content)
        except OSError as error:  # a file system that wants UTF-8
            assert error.errno == errno.EILSEQ
        else:
            names.append(name)
    async with inbox_open(folder) as inbox:
        assert (await files_send(inbox.peer, tmp_path / "tree")).failures == []
        assert tree_read(folder / "tree") == tree_read(tree)
        sent = await files_send(inbox.peer, *(os.fsdecode(os.path.join(tree, name)) for name in names))
        assert all(name.isprintable() for name in sent.names)
        assert set(names) < set(os.listdir(os.fsencode(folder)))


async def test_progress_is_reported_up_to_the_end(folder, file):
    seen = []
    async with inbox_open(folder) as inbox:
        await files_send(inbox.peer, file, on_progress=lambda *progress: seen.append(progress))
    assert seen[-1] == (file.name, len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


# Files that are there


@pytest.mark.parametrize("old", [b"old", bytes(len(CONTENT))])
async def test_an_existing_file_is_kept_and_the_others_arrive(folder, file, tmp_path, old):
    folder.mkdir()
    (folder / file.name).write_bytes(old)
    (tmp_path / "other").write_bytes(SHORT)
    async with inbox_open(folder) as inbox:
        sent = await files_send(inbox.peer, file, tmp_path / "other")
        ((name, why),) = sent.failures
        assert name == file.name
        assert "already" in why
        received = await inbox.outcomes.get()
        assert not received.is_whole
        assert received.failures == ((name, why),)
        assert inbox.names() == [file.name, "other"]
        assert (folder / file.name).read_bytes() == old


@pytest.mark.parametrize("content", [SHORT, CONTENT])
@pytest.mark.parametrize("is_as_long", [False, True])
async def test_an_existing_file_is_replaced_where_that_is_wanted(folder, file, content, is_as_long):
    file.write_bytes(content)
    folder.mkdir()
    (folder / file.name).write_bytes(bytes(len(content)) if is_as_long else b"old")
    async with inbox_open(folder, existing="replace") as inbox:
        sent = await files_send(inbox.peer, file)
        assert (sent.failures, sent.n_files, sent.n_same) == ([], 1, 0)
        assert inbox.names() == [file.name]
        assert (folder / file.name).read_bytes() == content


@pytest.mark.parametrize("existing", ["keep", "replace"])
async def test_a_file_that_is_there_already_is_not_sent_again(folder, file, existing):
    async with inbox_open(folder, existing=existing) as inbox:
        await files_send(inbox.peer, file)
        await inbox.outcomes.get()
        sent = await files_send(inbox.peer, file)
        assert (sent.n_files, sent.n_same, sent.failures) == (1, 1, [])
        assert (await inbox.outcomes.get()).n_bytes == 0


@pytest.mark.parametrize("existing", ["keep", "replace"])
@pytest.mark.parametrize("content", [SHORT, CONTENT])
async def test_of_two_files_with_one_name_the_first_stays(folder, existing, content):
    """As where the disk takes "A" and "a" for one name: both were free when they were planned."""
    other = content[::-1]
    size = len(content)
    async with inbox_open(folder, existing=existing) as inbox:
        sender = Hostile(inbox.peer)
        assert await sender.offer(2, 2 * size, b"a") is None
        await sender.lane(wire.Entry(b"a", size), wire.Entry(b"a", size))
        for data in (content, other):
            for off in range(0, size, wire.BODY_MAX):
                await sender.say(wire.Kind.CHUNK, data[off : off + wire.BODY_MAX])
            await sender.say(wire.Kind.END, blake(data))
        kind, body = await sender.hear()
        assert kind == wire.Kind.FAILED
        assert "name" in wire.Failure.decode(body).why
        await sender.end()
        assert (await inbox.outcomes.get()).n_failed == 1
        assert (folder / "a").read_bytes() == content


async def test_a_file_that_comes_into_being_meanwhile_is_kept(folder):
    async with inbox_open(folder) as inbox:
        sender = Hostile(inbox.peer)
        assert await sender.offer(1, 5, b"a") is None
        assert await sender.lane(wire.Entry(b"a", 5)) == [wire.Want(wire.Wish.SEND)]
        (folder / "a").write_bytes(b"first")
        await sender.say(wire.Kind.CHUNK, SHORT)
        await sender.say(wire.Kind.END, blake(SHORT))
        kind, body = await sender.hear()
        assert kind == wire.Kind.FAILED
        assert "by now" in wire.Failure.decode(body).why
        assert (await sender.hear())[0] == wire.Kind.DONE
        assert (folder / "a").read_bytes() == b"first"


# Never outside the folder


@pytest.mark.parametrize(
    "path",
    [
        *(b"", b".", b"..", b"../a", b"/a", b"a/", b"a//b", b"a/../../b", b"a/./b", b"a\0", b".bashrc", b"x" * 256),
        *(b"a" + PART_SUFFIX, b"a" + PART_SUFFIX + b"/b", b"/".join([b"x"] * 200), b"/".join([b"x" * 250] * 20)),
    ],
)
@pytest.mark.parametrize("flags", [0, wire.Flag.FOLDER])
async def test_a_path_that_is_not_plain_is_refused_and_nothing_is_written(folder, path, flags):
    async with inbox_open(folder) as inbox:
        sender = Hostile(inbox.peer)
        assert await sender.offer(1, 1, *[b"fine"] * 16) is None  # so many that there may be others
        (want,) = await sender.lane(wire.Entry(path, 1, flags))
        assert want.wish is wire.Wish.REFUSE
        assert "announced" not in want.why
        await sender.end()
        assert (await inbox.outcomes.get()).n_failed == 1
        assert inbox.names() == []
        assert os.listdir(folder.parent) == ["inbox"]


async def test_a_name_that_was_not_announced_is_refused(folder):
    async with inbox_open(folder) as inbox:
        sender = Hostile(inbox.peer)
        assert await sender.offer(3, 300_000, b"photos", b"plan") is None
        entries = [wire.Entry(name, 1) for name in (b"evil", b"photos/1", b"plan", b"plans", b"evil/photos")]
        wants = await sender.lane(*entries)
        assert [want.wish is wire.Wish.REFUSE for want in wants] == [True, False, False, True, True]
        assert "announced" in wants[0].why


async def test_no_link_below_the_folder_is_followed(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    folder.mkdir()
    (folder / "tree").symlink_to(outside)
    (folder / "precious").symlink_to(outside / "precious")
    (folder / "pipe").parent.mkdir(exist_ok=True)
    os.mkfifo(folder / "pipe")
    async with inbox_open(folder, existing="replace") as inbox:
        sender = Hostile(inbox.peer)
        assert await sender.offer(5, 100, b"tree", b"precious", b"pipe") is None
        names = (b"tree/new", b"tree/precious", b"precious", b"pipe", b"pipe/x")
        wants = await sender.lane(*(wire.Entry(name, 8) for name in names))
        assert [want.wish for want in wants] == [wire.Wish.REFUSE] * 5
        assert os.listdir(outside) == ["precious"]
        assert (outside / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("existing", ["keep", "replace"])
@pytest.mark.parametrize("size", [len(SHORT), wire.BODY_MAX + 1])
async def test_no_link_that_is_put_in_place_during_a_transfer_is_followed(folder, tmp_path, existing, size):
    outside = tmp_path / "outside"
    outside.mkdir()
    content = bytes(size)
    async with inbox_open(folder, existing=existing) as inbox:
        sender = Hostile(inbox.peer)
        assert await sender.offer(3, 3 * size, b"tree") is None
        (want,) = await sender.lane(wire.Entry(b"tree/sub/a", size))
        assert want.wish is wire.Wish.SEND
        (folder / "tree" / "sub").rename(tmp_path / "moved")
        (folder / "tree" / "sub").symlink_to(outside)
        for block in (content[: wire.BODY_MAX], content[wire.BODY_MAX :]):
            if block:
                await sender.say(wire.Kind.CHUNK, block)
        await sender.say(wire.Kind.END, blake(content))
        while (await sender.hear())[0] != wire.Kind.DONE:
            pass
        await sender.file.write(wire.plan_encode([wire.Entry(b"tree/c", size), wire.Entry(b"tree/sub/b", size)]))
        wants = wire.wants_decode((await sender.hear())[1], 2)
        assert [want.wish for want in wants] == [wire.Wish.SEND, wire.Wish.REFUSE]
        assert os.listdir(outside) == []


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder"])
async def test_an_unfinished_file_that_is_none_is_not_written(folder, file, tmp_path, kind):
    folder.mkdir()
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    part = folder / f"{file.name}{PART}"
    if kind == "link":
        part.symlink_to(precious)
    elif kind == "hard link":
        part.hardlink_to(precious)
    elif kind == "pipe":
        os.mkfifo(part)
    else:
        part.mkdir()
    async with inbox_open(folder, existing="replace") as inbox:
        sent = await files_send(inbox.peer, file)
        assert [name for name, _ in sent.failures] == [file.name]
        assert precious.read_bytes() == b"precious"
        assert not (folder / file.name).exists()


# What is not right


@pytest.mark.parametrize(
    ("size", "body", "digest"), [(3, b"abc", bytes(32)), (4, b"abc", blake(b"abc")), (3, b"abc", b""), (0, b"", b"")]
)
async def test_bytes_that_are_not_right_are_not_put_in_place(folder, size, body, digest):
    async with inbox_open(folder) as inbox:
        sender = Hostile(inbox.peer)
        assert await sender.offer(1, 10, b"a") is None
        await sender.lane(wire.Entry(b"a", size))
        if body:
            await sender.say(wire.Kind.CHUNK, body)
        await sender.say(wire.Kind.END, digest)
        kind, body = await sender.hear()
        assert kind == wire.Kind.FAILED
        assert "BLAKE2b" in wire.Failure.decode(body).why
        await sender.end()
        received = await inbox.outcomes.get()
        assert [name for name, _ in received.failures] == ["a"]
        assert inbox.names() == []


@pytest.mark.parametrize(
    "said",
    [
        wire.frame_make(wire.Kind.END, bytes(32)),  # before a plan
        wire.frame_make(wire.Kind.PLAN),
        wire.plan_encode([wire.Entry(b"a", 1)])[:-1] + b"",  # cut
        wire.plan_encode([wire.Entry(b"a", 1)] * 3),  # more than was announced
        wire.plan_encode([wire.Entry(b"a", 9)]) + wire.frame_make(wire.Kind.CHUNK, bytes(9)),
        wire.plan_encode([wire.Entry(b"a", 1)]) + wire.frame_make(wire.Kind.CHUNK),
        wire.plan_encode([wire.Entry(b"a", 1)]) + wire.frame_make(wire.Kind.START, bytes(8)),
        wire.plan_encode([wire.Entry(b"a", 1)]) + wire.frame_make(wire.Kind.DONE),
        bytes([99, 0, 0, 0, 0]),
        bytes([wire.Kind.CHUNK, 255, 0, 0, 0]),
    ],
)
async def test_what_the_protocol_does_not_allow_ends_the_transfer(folder, said):
    async with inbox_open(folder) as inbox:
        sender = Hostile(inbox.peer)
        assert await sender.offer(1, 1, b"a") is None
        lane = await inbox.peer.open_stream(FileReceiver.id, LANE_MARK + sender.token)
        await lane.write(said)
        lane.finish()
        received = await inbox.outcomes.get()
        assert "compatible" in received.error
        assert not received.is_whole
        assert inbox.names() == []


@pytest.mark.parametrize("metadata", [b"", b"\0", bytes(16), b"\2" + bytes(16), LANE_MARK + bytes(16)])
async def test_a_stream_that_belongs_to_no_transfer_is_reset(folder, metadata):
    async with inbox_open(folder) as inbox:
        with pytest.raises(qg.RemoteError):
            await (await inbox.peer.open_stream(FileReceiver.id, metadata)).read()


async def test_names_of_unfinished_files_that_are_kept_are_bounded(folder, monkeypatch):
    monkeypatch.setattr("qg.extenders.files.intake._FAILURES_MAX", 3)
    async with inbox_open(folder) as inbox:
        sender = Hostile(inbox.peer)
        names = [b"%d" % number for number in range(5)]
        assert await sender.offer(5, 5, *names) is None
        await sender.lane(*(wire.Entry(name, wire.BODY_MAX + 1) for name in names))
        for _ in range(5):
            await sender.say(wire.Kind.CHUNK, b"x")
            await sender.say(wire.Kind.DROP)
        assert (await sender.hear())[0] == wire.Kind.DONE
        await sender.end()
        received = await inbox.outcomes.get()
        assert received.n_failed == 5
        assert len(received.parts) == len(received.failures) == 3
        assert len(inbox.names()) == 5


async def test_two_senders_cannot_write_one_unfinished_file(folder, file):
    async with inbox_open(folder) as inbox:
        sender = Hostile(inbox.peer)
        assert await sender.offer(1, len(CONTENT), os.fsencode(file.name)) is None
        await sender.lane(wire.Entry(os.fsencode(file.name), len(CONTENT)))
        await sender.say(wire.Kind.CHUNK, CONTENT[:100])
        await until(inbox.names, inbox.names)
        sent = await files_send(inbox.peer, file)
        assert "being received already" in sent.failures[0][1]


# Breaks


async def break_off(inbox, content, length):
    """Leave an unfinished file of `length` bytes."""
    sender = Hostile(inbox.peer)
    assert await sender.offer(1, len(content), b"a file.bin") is None
    await sender.lane(wire.Entry(b"a file.bin", len(content)))
    for off in range(0, length, 100_000):
        await sender.say(wire.Kind.CHUNK, content[off : min(length, off + 100_000)])
    part = inbox.folder / f"a file.bin{PART}"
    await until(lambda: part.exists() and part.stat().st_size == length, inbox.names)
    sender.file.reset()
    sender.stream.reset()
    received = await inbox.outcomes.get()
    assert received.error
    assert received.parts == (part.name,)
    assert inbox.names() == [part.name]


@pytest.mark.parametrize("length", [1, 1_500_000, len(CONTENT)])
async def test_a_file_goes_on_where_it_ended(folder, file, length):
    async with inbox_open(folder) as inbox:
        await break_off(inbox, CONTENT, length)
        sent = await files_send(inbox.peer, file)
        assert (sent.resumed, sent.restarted, sent.failures) == ([file.name], [], [])
        received = await inbox.outcomes.get()
        assert (received.n_bytes, received.n_resumed) == (len(CONTENT) - length, 1)
        assert (folder / file.name).read_bytes() == CONTENT
        assert inbox.names() == [file.name]


@pytest.mark.parametrize("length", [1, 1_500_000, len(CONTENT)])
async def test_a_file_that_has_changed_begins_anew_and_both_ends_are_told(folder, file, length):
    async with inbox_open(folder) as inbox:
        await break_off(inbox, b"!" + CONTENT[1:], length)
        sent = await files_send(inbox.peer, file)
        assert (sent.resumed, sent.restarted, sent.failures) == ([], [file.name], [])
        received = await inbox.outcomes.get()
        assert (received.n_bytes, received.n_restarted) == (len(CONTENT), 1)
        assert (folder / file.name).read_bytes() == CONTENT
        assert inbox.names() == [file.name]


async def test_a_file_that_has_become_shorter_than_its_part_begins_anew(folder, file):
    async with inbox_open(folder) as inbox:
        await break_off(inbox, CONTENT, 1_500_000)
        file.write_bytes(CONTENT[:700_000])
        assert (await files_send(inbox.peer, file)).failures == []
        assert (folder / file.name).read_bytes() == CONTENT[:700_000]
        assert inbox.names() == [file.name]


async def test_a_sender_goes_on_over_another_connection_without_being_asked_about_again(folder, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(40):
        (tree / f"{number:02}").write_bytes(CONTENT)
    asked = []

    async def ask(request):
        asked.append(request)
        return True

    async with inbox_open(folder, ask=ask) as inbox:
        node, address = inbox.peer.node, f"qg://{inbox.peer.link_key}@{inbox.peer.host}:{inbox.peer.port}"
        sender = FileSender([tree], on_progress=lambda *_: None)
        running = asyncio.create_task(sender.run(inbox.peer))
        await until(lambda: sender.sent.n_files > 3, lambda: sender.sent)
        await inbox.peer.close()
        with pytest.raises(qg.QGError):
            await running
        assert (await inbox.outcomes.get()).error
        n_before = sender.sent.n_files
        sent = await sender.run(await node.connect(address))
        assert (sent.n_files, sent.failures) == (41, [])
        assert (await inbox.outcomes.get()).request.n_files == 41 - n_before
        assert tree_read(folder / "tree") == tree_read(tree)
        assert len(asked) == 1


async def test_a_transfer_that_was_taken_does_not_grow_without_asking(folder):
    asked = []

    async def ask(request):
        asked.append((request.names, request.n_files, request.n_bytes))
        return len(asked) == 1

    async with inbox_open(folder, ask=ask) as inbox:
        sender = Hostile(inbox.peer)
        assert await sender.offer(3, 100, b"a", b"b") is None
        for less in ((3, 100, b"b", b"a"), (1, 10, b"a")):
            assert await sender.offer(*less) is None
        assert len(asked) == 1
        for more in ((4, 1, b"a"), (1, 101, b"a"), (1, 10, b"c"), (1, 10, *[b"a"] * 16)):
            assert "does not want it" in await sender.offer(*more)
        assert len(asked) == 5


async def test_offers_of_one_transfer_at_the_same_time_are_one_transfer(folder):
    async with inbox_open(folder, size_max=10**9) as inbox:
        senders = [Hostile(inbox.peer) for _ in range(6)]
        for sender in senders:
            sender.token = senders[0].token
        answers = await asyncio.gather(*(sender.offer(1, 1, b"a") for sender in senders), return_exceptions=True)
        assert None in answers
        assert all(answer is None or isinstance(answer, qg.RemoteError) for answer in answers)
        for sender in senders:
            sender.stream.reset()
        for _ in senders:
            assert (await inbox.outcomes.get()).error
        assert [info.n_failures for info in inbox.node.status().extenders] == [0]


async def test_more_files_than_anybody_sends_are_refused(folder):
    async with inbox_open(folder) as inbox:
        assert "1000001 files are more" in await Hostile(inbox.peer).offer(1_000_001, 1, b"a")


async def test_a_cancelled_send_ends_the_transfer(folder, file):
    async with inbox_open(folder) as inbox:
        sending = asyncio.create_task(files_send(inbox.peer, file, on_progress=lambda *_: sending.cancel() and None))
        with pytest.raises(asyncio.CancelledError):
            await sending
        received = await inbox.outcomes.get()
        assert received.error
        assert not received.is_lost


# Disks and sources that fail


@contextlib.contextmanager
def files_limited(length):
    """Let no file of this process grow beyond a length: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_disk_that_takes_no_more_is_an_error_at_both_ends_and_the_rest_goes_on(folder, file, tmp_path):
    (tmp_path / "other").write_bytes(SHORT)
    async with inbox_open(folder) as inbox:
        with files_limited(1_500_000):
            sent = await files_send(inbox.peer, file, tmp_path / "other")
        assert sent.failures == [(file.name, "it cannot be written: File too large")]
        received = await inbox.outcomes.get()
        assert received.failures == tuple(sent.failures)
        assert inbox.names() == [f"{file.name}{PART}", "other"]
        assert (folder / f"{file.name}{PART}").read_bytes() == CONTENT[:1_500_000]
        sent = await files_send(inbox.peer, file)
        assert (sent.resumed, sent.failures) == ([file.name], [])


async def test_a_folder_that_cannot_be_written_refuses(folder, file):
    async with inbox_open(folder) as inbox:
        folder.rmdir()
        with pytest.raises(qg.Refused, match="cannot be written"):
            await files_send(inbox.peer, file)


async def test_a_path_that_cannot_be_sent_is_this_sides_fault(folder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".hidden").touch()
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/a"):
        (tmp_path / name).touch()
    async with inbox_open(folder) as inbox:
        for paths in (["nothing"], ["pipe"], [".hidden"], ["a", "sub/a"], []):
            with pytest.raises(qg.LocalError):
                await files_send(inbox.peer, *(tmp_path / path for path in paths))


@pytest.mark.parametrize("length", [1_500_000, 3_000_000])
async def test_a_file_that_changes_its_length_while_it_is_sent_fails_and_the_rest_goes_on(
    folder, file, tmp_path, length
):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "other").write_bytes(SHORT)
    async with inbox_open(folder) as inbox:
        sent = await files_send(inbox.peer, file, tmp_path / "tree", on_progress=lambda *_: os.truncate(file, length))
        ((name, why),) = sent.failures
        assert name == file.name
        assert "changed" in why
        received = await inbox.outcomes.get()
        assert "changed" in received.failures[0][1]
        assert not (folder / file.name).exists()
        assert (folder / "tree" / "other").read_bytes() == SHORT


async def test_a_file_that_is_gone_when_its_turn_comes_fails_and_the_rest_goes_on(folder, file, tmp_path):
    (tmp_path / "other").write_bytes(SHORT)

    async def ask(_):
        os.unlink(file)
        return True

    async with inbox_open(folder, ask=ask) as inbox:
        sent = await files_send(inbox.peer, file, tmp_path / "other")
        assert sent.failures == [(file.name, "it cannot be read: No such file or directory")]
        assert inbox.names() == ["other"]


# Who may send


async def test_a_transfer_is_taken_by_rule_or_by_asking(folder, file):
    answers, asked = [False, True], []

    async def ask(request):
        asked.append((request.names, request.n_files, request.n_bytes))
        return answers.pop(0)

    async with inbox_open(folder, ask=ask, size_max=len(CONTENT)) as inbox:
        with pytest.raises(qg.Refused, match="does not want it"):
            await files_send(inbox.peer, file)
        assert not (await inbox.outcomes.get()).is_taken
        assert (await files_send(inbox.peer, file)).failures == []
        assert asked == [((file.name,), 1, len(CONTENT))] * 2
        file.write_bytes(CONTENT + b"x")
        with pytest.raises(qg.Refused, match="more than"):
            await files_send(inbox.peer, file)


async def test_few_questions_about_one_sender_wait_for_an_answer(folder):
    asked, answered = [], asyncio.Event()

    async def ask(request):
        asked.append(request.peer_id)
        await answered.wait()
        return True

    async with inbox_open(folder, ask=ask) as inbox, qg.Node(qg.Identity.generate()) as other:
        offers = [asyncio.ensure_future(Hostile(inbox.peer).offer(1, 1, b"a")) for _ in range(10)]
        await until(lambda: sum(offer.done() for offer in offers) == 6, lambda: asked)
        assert all("waits" in offer.result() for offer in offers if offer.done())
        offers.append(asyncio.ensure_future(Hostile(await other.connect(inbox.node.address)).offer(1, 1, b"a")))
        await until(lambda: len(asked) == 5, lambda: asked)
        answered.set()
        assert (await asyncio.gather(*offers)).count(None) == 5


async def test_only_senders_on_the_list_are_served(folder, file):
    async with inbox_open(folder, senders=[]) as inbox:
        with pytest.raises(qg.Refused, match="from others only"):
            await files_send(inbox.peer, file)
        assert inbox.names() == []


async def test_a_disk_without_room_refuses_before_anything_comes(folder):
    async with inbox_open(folder) as inbox:
        assert "room" in await Hostile(inbox.peer).offer(1, 1 << 62, b"a")


async def test_the_words_of_a_receiver_cannot_play_with_the_terminal(file):
    class Rude(qg.Extender):
        id = FileReceiver.id

        async def on_stream(self, stream):
            await stream.write(wire.frame_make(wire.Kind.ANSWER, b"\0no\x1b[2J" + b"o" * 3000))
            stream.finish()
            async for _ in stream:
                pass

    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[Rude()]) as node,
        qg.Node(qg.Identity.generate()) as sender,
    ):
        with pytest.raises(qg.Refused) as caught:
            await files_send(await sender.connect(node.address), file)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 600


async def test_a_receiver_that_asks_for_the_same_file_for_ever_is_left(file):
    class Insatiable(qg.Extender):
        id = FileReceiver.id

        async def on_stream(self, stream):
            reader = wire.FrameReader()
            if stream.metadata.startswith(OFFER_MARK):
                await stream.write(wire.Answer(None).encode())
            async for data in stream:
                for kind, body in reader.feed(data):
                    if kind == wire.Kind.PLAN:
                        wants = [wire.Want(wire.Wish.CHECK)] * len(wire.plan_decode(body))
                        await stream.write(wire.wants_encode(wants))
                    elif kind == wire.Kind.END:
                        await stream.write(wire.Failure(0, True, "another one").encode())
                        await stream.write(wire.frame_make(wire.Kind.DONE))

    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[Insatiable()]) as node,
        qg.Node(qg.Identity.generate()) as sender,
    ):
        sent = await files_send(await sender.connect(node.address), file)
        assert sent.failures == [(file.name, "another one")]


async def test_a_peer_that_takes_no_files_is_said_so(file):
    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN) as node,
        qg.Node(qg.Identity.generate()) as sender,
    ):
        with pytest.raises(qg.Unsupported):
            await files_send(await sender.connect(node.address), file)


def test_a_name_too_long_to_be_lengthened_has_an_unfinished_name_of_its_own():
    twins = b"x" * 254 + b"a", b"x" * 254 + b"b"
    parts = {part_name(name) for name in twins}
    assert len(parts) == 2
    assert all(len(part) <= 255 and part.endswith(PART_SUFFIX) for part in parts)
    assert part_name(b"short") == b"short" + PART_SUFFIX
