# SPDX-License-Identifier: MIT
"""Extenders: what operators see of them, how they begin and end, and what becomes of those that fail."""

import asyncio
import contextlib
import dataclasses
from collections import Counter

import pytest
from api.services import Broken, Echo, Guests
from net.support import LISTEN, until

import qg
from qg.cli.status import _lines
from qg.control import status_object
from qg.extender import FAILURES_MAX, FAILURES_S
from qg.metrics import metrics_text
from qg.testing import network

pytestmark = [pytest.mark.anyio, pytest.mark.net]


OTHER = qg.ExtenderId("6f1d6a52-4a5e-4f8c-9d0e-3b2a1c0d9e77")


class Counting(Echo):
    """Count its streams."""

    name = "counting"
    version = "1.2"

    def __init__(self):
        self.counts = Counter()

    async def on_stream(self, stream):
        self.counts["streams"] += 1
        await super().on_stream(stream)


async def echoed(peer, service=Echo.id):
    async with await peer.open_stream(service) as stream:
        await stream.write(b"x")
        assert await stream.readexactly(1) == b"x"


# What operators see


async def test_what_a_service_is_and_counts_stands_in_the_status_and_the_figures():
    async with network(extenders=lambda: [Counting(), Broken()]) as net:
        await echoed(net.peer(0, 1))
        status = net.nodes[1].status()
    counting, broken = (info for info in status.extenders if info.extender_id in (Echo.id, Broken.id))
    assert (counting.extender_id, counting.name, counting.version) == (Echo.id, "counting", "1.2")
    assert (counting.counts, counting.n_failures) == ({"streams": 1}, 0)
    assert (broken.name, broken.version, broken.counts) == ("Broken", "", {})
    assert status_object(status)["extenders"][0]["counts"] == {"streams": 1}
    assert "  counting 1.2: streams 1" in _lines(status_object(status))
    label = f'{{extender="counting",id="{Echo.id}"'
    assert f'qg_extender_count_total{label},what="streams"}} 1' in metrics_text(status)
    assert f"qg_extender_failures_total{label}}} 0" in metrics_text(status)


async def test_what_its_methods_raise_is_counted():
    class Fragile(Guests):
        async def on_peer_connected(self, peer):
            await super().on_peer_connected(peer)
            raise ZeroDivisionError

    fragile = Fragile()
    async with network(extenders=lambda: [Broken(), fragile]) as net:
        with pytest.raises(qg.StreamReset):
            async with await net.peer(0, 1).open_stream(Broken.id) as stream:
                await stream.read()
        await fragile.seen.get()
        status = net.nodes[1].status()
    n_failures = {info.name: info.n_failures for info in status.extenders}
    assert (n_failures["Broken"], n_failures["Fragile"]) == (1, 1)
    assert "  Broken: FAILED 1 times, see the log" in _lines(status_object(status))


# Beginning and end


class Lived(Echo):
    """Note what happens to it; `fails` names the hooks that raise."""

    def __init__(self, seen, extender_id=Echo.id, *, fails=()):
        self.id, self.seen, self.fails = extender_id, seen, fails

    async def on_start(self, node):
        self.seen.append(("start", self.id, node.addresses))
        if "start" in self.fails:
            raise ValueError("no disk")

    async def on_stop(self, node):
        self.seen.append(("stop", self.id, node.peers))
        if "stop" in self.fails:
            raise ValueError("no disk")

    async def on_peer_connected(self, peer):
        self.seen.append(("connected", self.id, peer.id))

    async def on_peer_disconnected(self, peer):
        self.seen.append(("disconnected", self.id, peer.id))


async def test_a_service_begins_before_its_node_listens_and_ends_after_all_else():
    seen = []
    async with qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[Lived(seen), Lived(seen, OTHER)]) as node:
        assert seen == [("start", Echo.id, ()), ("start", OTHER, ())]
        async with qg.Node(qg.Identity.generate(), extenders=[Echo()]) as caller:
            await echoed(await caller.connect(node.address))
            await until(lambda: len(seen) == 3, lambda: seen)
        await until(lambda: len(seen) == 4, lambda: seen)
    peer_id = caller.id
    assert seen[2:] == [
        ("connected", Echo.id, peer_id),
        ("disconnected", Echo.id, peer_id),
        ("stop", OTHER, ()),
        ("stop", Echo.id, ()),
    ]


async def test_a_service_that_refuses_keeps_its_node_from_starting():
    seen = []
    extenders = [Lived(seen), Lived(seen, OTHER, fails=["start"])]
    node = qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=extenders)
    with pytest.raises(qg.LocalError, match="extender Lived did not start: no disk"):
        await node.start()
    assert [(what, extender_id) for what, extender_id, _ in seen] == [
        ("start", Echo.id),
        ("start", OTHER),
        ("stop", Echo.id),
    ]
    assert not node.addresses


async def test_a_service_that_refuses_is_not_added():
    seen = []
    async with network(extenders=lambda: []) as net:
        node, peer = net.nodes[1], net.peer(0, 1)
        with pytest.raises(qg.LocalError, match="no disk"):
            await node.add_extender(Lived(seen, fails=["start"]))
        with pytest.raises(qg.Unsupported):
            await peer.open_stream(Echo.id)
        await node.add_extender(Lived(seen))
        await echoed(peer)
        await node.remove_extender(Echo.id)
        assert [what for what, *_ in seen] == ["start", "start", "stop"]
    assert len(seen) == 3


async def test_an_end_that_raises_or_hangs_keeps_nobody(monkeypatch, caplog):
    class Hanging(Echo):
        id = OTHER

        async def on_stop(self, node):
            await asyncio.Event().wait()

    monkeypatch.setattr("qg.offer._STOP_S", 0.05)
    seen = []
    async with qg.Node(qg.Identity.generate(), extenders=[Lived(seen, fails=["stop"]), Hanging()]):
        pass
    assert [what for what, *_ in seen] == ["start", "stop"]
    assert "on_stop_slow extender=Hanging" in caplog.text
    assert "on_stop_failed extender=Lived" in caplog.text


# Failures


class Failing(qg.Extender):
    """Fail at the one hook that is named."""

    id = OTHER

    def __init__(self, hook):
        async def fail(*_):
            raise ZeroDivisionError(f"planted in {hook}")

        # The registry looks at the class for what is defined.
        self.__class__ = type("Failing", (qg.Extender,), {"id": OTHER, hook: fail})


async def provoke(net, hook):
    """Have the hook of the service at node 1 be called once more."""
    peer = net.peer(0, 1)
    if hook == "on_stream":
        async with await peer.open_stream(OTHER) as stream:
            await stream.read()
    elif hook == "on_message":
        try:
            await peer.send(OTHER, b"x")
        except qg.StreamReset:  # tells of the failure before
            await peer.send(OTHER, b"x")
    else:
        await net.nodes[0].add_extender(Mailing())
        await net.nodes[0].remove_extender(OTHER)


class Mailing(qg.Extender):
    """Take messages of that service."""

    id = OTHER


def failing_of(node):
    return next(info for info in node.status().extenders if info.extender_id == OTHER)


@pytest.mark.parametrize("hook", ["on_stream", "on_message", "on_peer_connected", "on_peer_disconnected"])
async def test_a_service_that_fails_too_often_is_stopped_and_its_node_goes_on(hook, caplog):
    async with network(extenders=lambda: [Echo()]) as net:
        node, peer = net.nodes[1], net.peer(0, 1)
        await node.add_extender(Failing(hook))
        await until(lambda: OTHER in peer.extenders, lambda: peer.extenders)
        for idx in range(FAILURES_MAX):
            info = failing_of(node)
            assert (info.n_failures, info.is_stopped) == (idx, False)
            with contextlib.suppress(qg.RemoteError):
                await provoke(net, hook)
            await until(lambda n=idx + 1: failing_of(node).n_failures == n, lambda: failing_of(node))
        await until(lambda: OTHER not in peer.extenders, lambda: peer.extenders)
        info = failing_of(node)
        assert (info.n_failures, info.is_stopped) == (FAILURES_MAX, True)
        assert "extender_stopped extender=Failing" in caplog.text
        assert "STOPPED" in "\n".join(_lines(status_object(node.status())))
        with pytest.raises(qg.Unsupported):
            await peer.open_stream(OTHER)
        await echoed(peer)
        await node.add_extender(Mailing())  # another one may take its place
        assert not failing_of(node).is_stopped


class Answering(qg.Extender):
    """Send something to whoever comes or asks."""

    id = OTHER

    async def on_peer_connected(self, peer):
        await peer.ping()
        await self.on_message(peer, b"")

    async def on_message(self, peer, message):
        while True:  # until the peer's refusal has come
            await peer.send(Echo.id, b"x")
            await peer.ping()

    async def on_request(self, peer, payload):
        await self.on_message(peer, payload)
        return b""


async def test_peers_that_refuse_what_a_service_sends_do_not_wear_it_out():
    async with network(extenders=lambda: [Answering()]) as net:
        node, peer = net.nodes[1], net.peer(0, 1)
        for _ in range(FAILURES_MAX + 1):
            with pytest.raises(qg.RemoteError):
                await peer.request(OTHER, b"")
            with contextlib.suppress(qg.RemoteError):
                await peer.send(OTHER, b"")
                await peer.ping()
        info = failing_of(node)
        assert (info.n_failures, info.is_stopped) == (0, False)


async def test_failures_that_are_far_apart_are_counted_and_no_more(monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr("qg.extender.monotonic", lambda: now_s[0])
    async with network(extenders=lambda: [Broken()]) as net:
        for _ in range(FAILURES_MAX + 2):
            now_s[0] += FAILURES_S / (FAILURES_MAX - 1) + 0.001
            with pytest.raises(qg.StreamReset):
                async with await net.peer(0, 1).open_stream(Broken.id) as stream:
                    await stream.read()
        info = next(info for info in net.nodes[1].status().extenders if info.extender_id == Broken.id)
        assert (info.n_failures, info.is_stopped) == (FAILURES_MAX + 2, False)


def raising(hook, error):
    """Make a service whose one hook raises."""

    async def fail(*_):
        raise error

    return type("Failing", (qg.Extender,), {"id": OTHER, hook: fail})()


class NotForPrograms(BaseException):
    """Be no `Exception`, as the outcomes of test frameworks are not."""


HOOKS = ["on_stream", "on_message", "on_request", "on_peer_connected", "on_peer_disconnected"]


@pytest.mark.parametrize("error", [asyncio.CancelledError, NotForPrograms])
@pytest.mark.parametrize("hook", HOOKS)
async def test_what_is_no_exception_is_a_failure_too(hook, error):
    async with network(extenders=lambda: [Echo()]) as net:
        node, peer = net.nodes[1], net.peer(0, 1)
        await node.add_extender(raising(hook, error))
        await until(lambda: OTHER in peer.extenders, lambda: peer.extenders)
        if hook == "on_request":
            with pytest.raises(qg.StreamReset) as caught:
                await peer.request(OTHER, b"x")
            assert caught.value.reason is qg.Reason.INTERNAL
        elif hook == "on_stream":
            with pytest.raises(qg.StreamReset) as caught:
                await provoke(net, hook)
            assert caught.value.reason is qg.Reason.INTERNAL
        else:
            await provoke(net, hook)
        await until(lambda: failing_of(node).n_failures == 1, lambda: failing_of(node))
        await echoed(peer)


@pytest.mark.parametrize("error", [asyncio.CancelledError, ZeroDivisionError])
async def test_a_start_that_raises_without_a_word_is_named(error):
    async with qg.Node(qg.Identity.generate()) as node:
        with pytest.raises(qg.LocalError, match=f"Failing did not start: {error.__name__}"):
            await node.add_extender(raising("on_start", error))


async def test_an_end_that_cancels_itself_is_logged(caplog):
    async with qg.Node(qg.Identity.generate(), extenders=[raising("on_stop", asyncio.CancelledError)]):
        pass
    assert "on_stop_failed extender=Failing" in caplog.text


async def test_a_start_that_is_cancelled_from_outside_stays_cancelled():
    class Waiting(Echo):
        async def on_start(self, node):
            begun.set()
            await asyncio.Event().wait()

    begun = asyncio.Event()
    async with qg.Node(qg.Identity.generate()) as node:
        adding = asyncio.create_task(node.add_extender(Waiting()))
        await begun.wait()
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert not node.status().extenders


async def test_a_removal_that_is_cancelled_goes_on():
    seen = []
    async with network(extenders=lambda: []) as net:
        node = net.nodes[1]
        await node.add_extender(Lived(seen))
        async with await net.peer(0, 1).open_stream(Echo.id) as stream:
            removing = asyncio.create_task(node.remove_extender(Echo.id))
            await asyncio.sleep(0)
            removing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await removing
            await stream.write(b"x")
            assert await stream.readexactly(1) == b"x"
            assert [what for what, *_ in seen] == ["start"]
        await until(lambda: len(seen) == 2, lambda: seen)
    assert seen[1][0] == "stop"


async def test_a_peer_that_comes_and_goes_while_a_call_waits_makes_no_queue():
    class Slow(Guests):
        async def on_peer_connected(self, peer):
            await super().on_peer_connected(peer)
            await may_go_on.wait()

    slow, may_go_on = Slow(), asyncio.Event()
    async with network(extenders=lambda: []) as net:
        near, far = net.nodes
        await near.add_extender(slow)
        for _ in range(6):
            await far.add_extender(Guests())
            await until(lambda: near.peers[0].extenders[-1:] == (Guests.id,), lambda: near.peers[0].extenders)
            await far.remove_extender(Guests.id)
            await until(lambda: Guests.id not in near.peers[0].extenders, lambda: near.peers[0].extenders)
        may_go_on.set()
        assert [(await slow.seen.get())[0] for _ in range(2)] == ["connected", "disconnected"]
        await far.add_extender(Guests())
        assert (await slow.seen.get())[0] == "connected"
        assert slow.seen.empty()


# Mistakes


class Plain(Echo):
    """Forget the word `async`."""

    def on_message(self, peer, message):
        return None


class Yielding(Echo):
    """Be a generator by mistake."""

    async def on_stream(self, stream):
        yield stream


@dataclasses.dataclass
class Valued(Echo):
    """Be equal to others."""

    word: str = ""


class Numbered(Echo):
    """Have a version that is no text."""

    version = 1


class Textual(Echo):
    """Have an id that is text."""

    id = "6f1d6a52-4a5e-4f8c-9d0e-3b2a1c0d9e77"


class Early(Echo):
    async def on_peer_resumed(self, peer):
        pass


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Early, "Early.on_peer_resumed cannot be defined"),
        (Plain, "Plain.on_message cannot be awaited: write `async def on_message`"),
        (Yielding, "Yielding.on_stream cannot be awaited"),
        (Valued, r"Valued has no hash: make a data class with @dataclass\(eq=False\)"),
        (Numbered, "Numbered.version must be a text, not 1"),
        (Textual, "Textual.id must be a qg.ExtenderId, not '6f1d6a52"),
    ],
)
async def test_a_class_that_is_wrong_is_refused_before_it_is_used(kind, words):
    with pytest.raises(qg.InvalidValue, match=words):
        qg.Node(qg.Identity.generate(), extenders=[kind()])


async def test_one_extender_in_place_of_a_list_is_refused():
    for extenders in (Echo(), Echo):
        with pytest.raises(qg.InvalidValue, match="give a list"):
            qg.Node(qg.Identity.generate(), extenders=extenders)


class Miscounting(Echo):
    """Fail where it is asked what it has counted."""

    @property
    def counts(self):
        raise ZeroDivisionError


async def test_counts_that_raise_harm_no_status():
    async with qg.Node(qg.Identity.generate(), extenders=[Miscounting()]) as node:
        node.status()
        status = node.status()
        assert (status.extenders[0].n_failures, status.extenders[0].counts) == (1, {})
        assert "Miscounting: FAILED 1 times" in "\n".join(_lines(status_object(status)))
