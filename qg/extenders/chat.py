# SPDX-License-Identifier: MIT
"""Chat: lines between the peers of a room. Short enough to be read whole, and to begin something of your own with.

Each peer sends its lines to those that it is linked with. A node that listens is the host of its guests: it passes on
what each of them says. Who says something over a link is proved by the handshake; in whose name a host passes
something on is the host's word alone, and shown as such. Nothing is passed on twice.

What arrives is the JSON of an `Event`, as a message. It comes from strangers, so: its length is looked at first, its
form is checked before anything is done with it, nothing that a terminal would obey is shown, and who floods is read
more slowly, which leaves his lines waiting with him.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Annotated, Literal

import msgspec

import qg

__all__ = ["Chat", "shown"]

_NAME = r"^[\w.-]{1,24}\Z"  # of people and rooms: nothing that looks like a part of the line around it
_LINE_MAX = 1000  # characters
_MESSAGE_MAX = 16_384  # bytes; such a line fits however it is escaped
_TOLD_MAX = 256  # people whom one host tells of; of further ones only the lines are shown
_BURST, _EVERY_S = 40, 0.25  # lines of a peer that are taken at once, and the time that each is worth
_SEND_S = 5.0  # for a peer to take a line; then it misses it


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """What somebody does: joins a room, says a line, leaves."""

    kind: Literal["join", "line", "leave"]
    room: Annotated[str, msgspec.Meta(pattern=_NAME)]
    nick: Annotated[str, msgspec.Meta(pattern=_NAME)]
    text: Annotated[str, msgspec.Meta(max_length=_LINE_MAX)] = ""
    origin: Annotated[str, msgspec.Meta(pattern=r"^[a-z2-7]{52}\Z")] | None = None  # PeerID, where a host passes it on


def shown(text: str) -> str:
    """Write a text so that a terminal shows all of it and obeys none: no controls, no turning of the direction."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Guest:
    """What is known of a peer."""

    def __init__(self) -> None:
        self.nick: str | None = None  # once it has joined
        self.joined = asyncio.Event()
        self.told: dict[str, str] = {}  # whom it passes on: nicks by PeerID
        self.due_s = 0.0  # when its next line is, if it sends without a pause

    def wait_s(self, now_s: float) -> float:
        """Count one more line; gives how long it has to wait. A host speaks for as many as it tells of."""
        self.due_s = max(self.due_s, now_s - _BURST * _EVERY_S) + _EVERY_S / (1 + len(self.told))
        return max(self.due_s - now_s, 0.0)


class Chat(qg.Extender):
    """Talk to the peers of a room; `show` is called with each line for the screen, which is safe to print.

    Raises `InvalidValue` for names that are none: up to 24 letters, digits, dots, dashes and underscores.
    """

    id = qg.ExtenderId("5d0c1b6e-8a3f-4a92-b6d4-2f7e9c0a1b38")
    name = "chat"

    def __init__(self, nick: str, room: str, show: Callable[[str], None]) -> None:
        self.counts: Counter[str] = Counter()
        self._show = show
        self._guests: dict[qg.Peer, _Guest] = {}
        self._decoder = msgspec.json.Decoder(Event)
        self._own = Event("join", room, nick)
        try:
            self._decoder.decode(msgspec.json.encode(self._own))
        except msgspec.ValidationError:
            raise qg.InvalidValue(
                f"{nick!r} in {room!r}: names have up to 24 letters, digits, dots, dashes and underscores"
            ) from None

    async def meet(self, peer: qg.Peer) -> None:
        """Wait until a peer is in the room."""
        await self._guests.setdefault(peer, _Guest()).joined.wait()

    async def say(self, text: str) -> int:
        """Send a line to everybody in the room; gives how many took it, hosts counted as one."""
        event = msgspec.structs.replace(self._own, kind="line", text=text[:_LINE_MAX])
        joined = [peer for peer, guest in self._guests.items() if guest.nick]
        return sum(await asyncio.gather(*(self._send(peer, event) for peer in joined)))

    def people(self) -> Iterator[str]:
        """Give everybody who is in the room, but for this node itself."""
        for peer, guest in self._guests.items():
            if guest.nick:
                yield _name(guest.nick, str(peer.id))
                told = ((nick, origin) for origin, nick in guest.told.items() if origin not in self._speaking(peer))
                yield from (_name(nick, origin, guest) for nick, origin in told)

    @property
    def nick(self) -> str:
        """Give the name under which this node speaks."""
        return self._own.nick

    # Called by the node

    async def on_peer_connected(self, peer: qg.Peer) -> None:
        """Join the room there."""
        await self._send(peer, self._own)

    async def on_peer_disconnected(self, peer: qg.Peer) -> None:
        """Take note that somebody has gone, and those with him whom he passed on."""
        guest = self._guests.pop(peer, None)
        if guest and guest.nick and not peer.is_closed_here:
            self._happened(peer, guest, Event("leave", self._own.room, guest.nick))

    async def on_message(self, peer: qg.Peer, message: bytes) -> None:
        """Take what a peer says; as long as this waits, what he says next waits with him."""
        guest = self._guests.get(peer, _Guest())
        if peer.is_connected:  # else these are his last words
            self._guests[peer] = guest
        wait_s = guest.wait_s(asyncio.get_running_loop().time())
        if wait_s:
            await asyncio.sleep(wait_s)
        event = self._event(message)
        if event and event.room == self._own.room and self._is_credible(peer, guest, event):
            self.counts["taken"] += 1
            self._happened(peer, guest, event)
        else:
            self.counts["refused"] += 1

    # What follows from it

    def _event(self, message: bytes) -> Event | None:
        if len(message) <= _MESSAGE_MAX:
            with suppress(msgspec.DecodeError, RecursionError):  # of brackets in brackets
                return self._decoder.decode(message)
        return None

    def _is_credible(self, peer: qg.Peer, guest: _Guest, event: Event) -> bool:
        """Tell whether a peer may say this: of others only once it has joined, and of none who speaks for himself."""
        return event.origin is None or (guest.nick is not None and event.origin not in self._speaking(peer))

    def _speaking(self, peer: qg.Peer) -> set[str]:
        """Give the ids of this node and of those who are linked with it."""
        return {str(peer.node.id)} | {str(other.id) for other, guest in self._guests.items() if guest.nick}

    def _happened(self, peer: qg.Peer, guest: _Guest, event: Event) -> None:
        if event.origin is None:
            if event.kind == "join" and guest.nick is None:
                self._welcome(peer)
            guest.nick = None if event.kind == "leave" else event.nick
            guest.joined.set()
            self._pass_on(peer, msgspec.structs.replace(event, origin=str(peer.id)))
        elif event.kind == "leave":
            guest.told.pop(event.origin, None)
        elif len(guest.told) < _TOLD_MAX:
            guest.told[event.origin] = event.nick
        name = _name(event.nick, event.origin or str(peer.id), guest if event.origin else None)
        words = {"join": f"* {name} is here", "leave": f"* {name} has gone", "line": f"<{name}> {event.text}"}
        self._show(shown(words[event.kind]))

    def _welcome(self, peer: qg.Peer) -> None:
        """As a host, tell somebody new who is here."""
        for other, guest in self._guests.items():
            if other is not peer and guest.nick:
                self._tell(peer, msgspec.structs.replace(self._own, nick=guest.nick, origin=str(other.id)))

    def _pass_on(self, peer: qg.Peer, event: Event) -> None:
        """As a host, tell the others."""
        for other, guest in self._guests.items():
            if other is not peer and guest.nick:
                self._tell(other, event)

    def _tell(self, peer: qg.Peer, event: Event) -> None:
        """Send what is not ours; whoever does not keep up with the others misses it."""
        if peer.node.addresses:
            with suppress(qg.QGError):
                peer.try_send(self.id, msgspec.json.encode(event))

    async def _send(self, peer: qg.Peer, event: Event) -> bool:
        with suppress(qg.QGError, TimeoutError):
            async with asyncio.timeout(_SEND_S):
                await peer.send(self.id, msgspec.json.encode(event))
                return True
        return False


def _name(nick: str, peer_id: str, by: _Guest | None = None) -> str:
    """Write who somebody is: the name is his own choice, the beginning of the PeerID is proved."""
    return f"{nick} {peer_id[:12]}" + (f" by {by.nick}" if by else "")
