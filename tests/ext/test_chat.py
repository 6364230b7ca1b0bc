# SPDX-License-Identifier: MIT
"""Lines reach the peers of a room, and nothing that a stranger sends reaches the terminal."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from net.support import LISTEN

import qg
from qg.extenders.chat import Chat, _Guest, shown

pytestmark = [pytest.mark.net, pytest.mark.anyio]

ROOM = "lobby"


class Person:
    """A node that chats."""

    def __init__(self, nick, room=ROOM):
        self.lines = asyncio.Queue()
        self.chat = Chat(nick, room, self.lines.put_nowait)
        self.node = None

    @property
    def name(self):
        return f"{self.chat.nick} {str(self.node.id)[:12]}"

    async def hears(self, *lines):
        for line in lines:
            assert await self.lines.get() == line

    async def meet(self, host):
        peer = await self.node.connect(host.node.address)
        await self.chat.meet(peer)
        return peer


@asynccontextmanager
async def house():
    """A way to have people; `listen` makes hosts."""
    async with AsyncExitStack() as stack:

        async def person(nick, listen=(), **settings):
            made = Person(nick, **settings)
            made.node = qg.Node(qg.Identity.generate(), listen=listen, extenders=[made.chat])
            await stack.enter_async_context(made.node)
            return made

        yield person


async def together(person, *nicks):
    """A host, and guests of it who have met each other."""
    host = await person("anna", LISTEN)
    guests = []
    for nick in nicks:
        guest = await person(nick)
        await guest.meet(host)
        await guest.hears(f"* {host.name} is here", *(f"* {other.name} by anna is here" for other in guests))
        for other in guests:
            await other.hears(f"* {guest.name} by anna is here")
        await host.hears(f"* {guest.name} is here")
        guests.append(guest)
    return host, *guests


async def test_lines_go_both_ways_with_nick_and_proved_id():
    async with house() as person:
        anna, ben = await together(person, "ben")
        assert await anna.chat.say("hello ben") == 1
        await ben.hears(f"<{anna.name}> hello ben")
        assert await ben.chat.say("hello anna") == 1
        await anna.hears(f"<{ben.name}> hello anna")


async def test_a_host_passes_on_what_guests_say_and_says_that_it_does():
    async with house() as person:
        anna, ben, carl = await together(person, "ben", "carl")
        await ben.chat.say("hello all")
        await carl.hears(f"<{ben.name} by anna> hello all")
        await anna.hears(f"<{ben.name}> hello all")
        assert list(carl.chat.people()) == [anna.name, f"{ben.name} by anna"]
        await ben.node.close()
        await anna.hears(f"* {ben.name} has gone")
        await carl.hears(f"* {ben.name} by anna has gone")
        assert list(carl.chat.people()) == [anna.name]
        assert not ben.lines.qsize()


async def test_what_was_passed_on_is_not_passed_on_again_and_nobody_is_heard_twice():
    async with house() as person:
        anna, ben = await together(person, "ben")
        dora, emil = await person("dora", LISTEN), await person("emil")
        await emil.meet(dora)
        await dora.hears(f"* {emil.name} is here")
        await dora.meet(anna)
        await dora.hears(f"* {anna.name} is here", f"* {ben.name} by anna is here")
        await ben.hears(f"* {dora.name} by anna is here")
        await emil.hears(f"* {dora.name} is here", f"* {anna.name} by dora is here")
        await ben.meet(dora)
        await dora.hears(f"* {ben.name} is here")  # and hears him himself from here on, and anna through nobody
        await ben.chat.say("once")
        await dora.hears(f"<{ben.name}> once")
        await emil.hears(f"* {ben.name} by dora is here", f"<{ben.name} by dora> once")
        await dora.chat.say("end")
        await emil.hears(f"<{dora.name}> end")


async def test_rooms_do_not_hear_each_other():
    async with house() as person:
        anna, ben = await together(person, "ben")
        carl = await person("carl", room="cellar")
        peer = await carl.node.connect(anna.node.address)
        await peer.send(Chat.id, line("from the cellar", room="cellar"))
        await peer.send(Chat.id, line("through the door"))
        await anna.hears(f"<ben {str(carl.node.id)[:12]}> through the door")
        await ben.chat.say("hello")
        await anna.hears(f"<{ben.name}> hello")
        assert not carl.lines.qsize()


def line(text, room=ROOM, **more):
    return json.dumps({"kind": "line", "room": room, "nick": "ben", "text": text} | more).encode()


@asynccontextmanager
async def stranger(host):
    """A peer that sends what it likes."""
    async with qg.Node(qg.Identity.generate()) as node, await node.connect(host.node.address) as peer:
        yield peer, f"ben {str(node.id)[:12]}"


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("a\r\nb\x00\x9b\x7f", r"a\r\nb\x00\x9b\x7f"),
        ("\u202eabc\u2066\u200f\u2028\ufeff", r"\u202eabc\u2066\u200f\u2028\ufeff"),
        ("Grüße, 世界 🎉", "Grüße, 世界 🎉"),
        ("\U000e0041\ue000", r"\U000e0041\ue000"),
    ],
)
async def test_a_terminal_obeys_nothing_that_is_said(text, printed):
    assert shown(text) == printed
    async with house() as person:
        anna = await person("anna", LISTEN)
        async with stranger(anna) as (peer, name):
            await peer.send(Chat.id, line(text))
            await anna.hears(f"<{name}> {printed}")


async def test_what_is_no_event_changes_nothing():
    bad = [
        b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 10_000,
        line("x" * 1001), line("x", pad="y" * 20_000), line(7), line("x", kind="shout"), line("x", room="lobby\n"),
        line("x", nick=""), line("x", nick="n" * 25), line("x", nick="a b"), line("x", nick="ben> "),
        line("x", nick="ben\n"), line("x", nick="\x1b[1m"), line("x", nick="\u202e"), line("x", origin="anna"),
        line("x", origin="\x1b" * 52), b'{"x":' * 3000, b'{"text":' * 2000, b'{"x":' + b"[" * 10_000,
        b'{"kind":"line","room":"lobby"}',
    ]  # fmt: skip
    async with house() as person:
        anna = await person("anna", LISTEN)
        async with stranger(anna) as (peer, name):
            for message in bad:
                await peer.send(Chat.id, message)
            await peer.send(Chat.id, line("still here"))
            await anna.hears(f"<{name}> still here")
            assert anna.chat.counts == {"refused": len(bad), "taken": 1}


async def test_nobody_is_believed_in_the_name_of_who_speaks_for_himself():
    async with house() as person:
        anna, ben = await together(person, "ben")
        away = qg.Identity.generate().peer_id
        async with stranger(anna) as (peer, name):
            await peer.send(Chat.id, line("before joining", origin=str(away)))
            await peer.send(Chat.id, line("", kind="join"))
            await anna.hears(f"* {name} is here")
            for origin in (ben.node.id, anna.node.id, away):
                await peer.send(Chat.id, line("forged", origin=str(origin)))
            await anna.hears(f"<ben {str(away)[:12]} by ben> forged")


async def test_who_floods_waits_and_nobody_else_does():
    async with house() as person:
        anna, ben = await together(person, "ben")
        async with stranger(anna) as (peer, name):
            await peer.send_batch(Chat.id, [line(str(number)) for number in range(500)])
            await anna.hears(*(f"<{name}> {number}" for number in range(40)))
            await ben.chat.say("me too")
            while (said := await anna.lines.get()) != f"<{ben.name}> me too":
                assert said != f"<{name}> 499"


def test_a_peer_has_a_burst_and_then_a_rate():
    guest = _Guest()
    assert [guest.wait_s(100.0) for _ in range(40)] == [0.0] * 40
    assert [guest.wait_s(100.0) for _ in range(3)] == [0.25, 0.5, 0.75]
    assert guest.wait_s(101.0) == 0.0
    assert [guest.wait_s(200.0) for _ in range(40)] == [0.0] * 40  # rest is worth no more than a burst
    assert guest.wait_s(200.0) == 0.25
    guest.told = dict.fromkeys("abc", "nick")  # a host speaks for as many
    assert guest.wait_s(200.0) == 0.25 + 0.25 / 4


@pytest.mark.parametrize(("nick", "room"), [("a b", ROOM), ("", ROOM), ("anna", "x" * 25), ("an\u200dna", ROOM)])
def test_names_that_are_none_are_refused(nick, room):
    with pytest.raises(qg.InvalidValue, match="24 letters"):
        Chat(nick, room, print)


async def test_a_host_keeps_a_bounded_number_of_those_whom_another_tells_of():
    async with house() as person:
        anna = await person("anna", LISTEN)
        async with stranger(anna) as (peer, name):
            others = [str(qg.Identity.generate().peer_id) for _ in range(3)]
            await peer.send(Chat.id, line("", kind="join"))
            await anna.hears(f"* {name} is here")
            anna.chat._guests[anna.node.peers[0]].told = {str(n): "x" for n in range(255)}
            for other in others:
                await peer.send(Chat.id, line("", kind="join", origin=other))
            await peer.send(Chat.id, line("done"))
            while await anna.lines.get() != f"<{name}> done":
                pass
            assert len(anna.chat._guests[anna.node.peers[0]].told) == 256
