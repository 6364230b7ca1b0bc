# SPDX-License-Identifier: MIT
"""The configuration of a node: every setting with its default and the reason for it.

A file is TOML; its tables are the classes below (`[link]`, `[relay]`, `[rates]`, `[limits]`), its keys their fields.
Reading it finds everything that is wrong at once. Numbers of section so-and-so are those of docs/protocol.md.
"""

import os
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from qg.address import Address, Endpoint, HostPort, Prefix, PrefixLimit, is_ip
from qg.errors import ConfigError, InvalidValue
from qg.exit_policy import ExitRule
from qg.forwarding import ForwardRule, ForwardSpec
from qg.security import LEVELS
from qg.types import PeerId

__all__ = [
    "AccessConfig",
    "Config",
    "CoverConfig",
    "ExitConfig",
    "ExtenderUse",
    "ForwardConfig",
    "ForwardOffer",
    "ForwardTo",
    "LimitsConfig",
    "LinkConfig",
    "RatesConfig",
    "RelayConfig",
]

_Count = Annotated[int, Meta(ge=1, le=1_000_000)]
_Rate = Annotated[int, Meta(ge=1, le=1_000_000)]
_Seconds = Annotated[int, Meta(ge=1, le=86_400)]
_Kib = Annotated[int, Meta(ge=64, le=1_048_576)]
_KibRate = Annotated[int, Meta(ge=0, le=1_048_576)]
_Mib = Annotated[int, Meta(ge=1, le=65_536)]
_Workers = Annotated[int, Meta(ge=1, le=64)]
_Port = Annotated[int, Meta(ge=1, le=65_535)]
_Hops = Annotated[int, Meta(ge=1, le=7)]


class LinkConfig(Struct, frozen=True, kw_only=True):
    """Settings of sessions with other nodes."""

    # "light" costs under 12 % on bulk and hides most of what lengths tell. With "blocks-1k" they
    # tell KiB, with "blocks-16k" nothing, and a short message costs as much. The stricter of both sides' wishes holds
    # (4.6).
    padding: Literal["none", "light", "blocks-1k", "blocks-16k"] = "light"
    # What a link that this node dials begins with. "printable6": six printable characters, which the rules known of one
    # censor let pass; to anybody else they show what uniform bytes do not, that somebody dials with this setting (3.7).
    first_bytes: Literal["uniform", "printable6"] = "uniform"
    # AEAD suites never to be offered or taken. ChaCha20-Poly1305 cannot be removed: every node must have it (3.6).
    suites_removed: tuple[Literal["aes-256-gcm", "aegis-256"], ...] = ()
    # Each message of a handshake waits for a random time up to this, so that when it comes tells less of what it
    # follows. The original's levels have 3 to 8 s.
    handshake_delay_ms: Annotated[int, Meta(ge=0, le=5000)] = 0
    # A peer that says nothing for this long is gone. An idle link is probed at random every 15 to 30 s, so 60 allows
    # for a lost probe (4.7).
    dead_peer_s: _Seconds = 60
    # How far a dialler's clock may be off. Wider makes the replay filter hold longer (3.5).
    clock_window_s: Annotated[int, Meta(ge=10, le=3600)] = 120
    # A stolen key opens nothing older than this: WireGuard's figure (4.5).
    epoch_s: Annotated[int, Meta(ge=1, le=3600)] = 120
    # While in use: a full new key exchange costs 2.6 kB and 0.3 ms; the original uses 300 to 1200 s (4.5).
    # A peer that asks for it a hundred times as often ends the session.
    rekey_s: Annotated[int, Meta(ge=1, le=3600)] = 600


class CoverConfig(Struct, frozen=True, kw_only=True):
    """What is sent although nobody asked for it, so that who watches a link learns less of when it is used (4.7).

    Each node covers what it sends itself: a link is covered in both directions where both ends do it.
    """

    # "chaff": records that say nothing, at random moments; whether a link is idle or busy still shows roughly.
    # "poisson": bytes leave at random moments only, and as many each time, whether there is something to say or not;
    # what is above that rate waits, and below it use does not show. "shaped": the same, at a rate that follows use
    # between two bounds, and shows its steps.
    mode: Literal["off", "chaff", "poisson", "shaped"] = "off"
    # Where: on links with neighbours, and in sessions over relays, from end to end; there each turn is one record of
    # 1 KiB.
    links: bool = True
    circuits: bool = False
    # Poisson and shaped: turns a second, and bytes of each on the wire. 10 of 1,200 are 41 MiB an hour and let 96
    # kbit/s through, in each direction; what is sent waits for 100 ms on average.
    rate_per_s: Annotated[int, Meta(ge=1, le=1000)] = 10
    size: Annotated[int, Meta(ge=64, le=16_384)] = 1200
    # Shaped: what the rate doubles up to while most turns are full.
    rate_max_per_s: Annotated[int, Meta(ge=1, le=1000)] = 80
    # Chaff: how many records in an interval, and their bytes; the original's figures of its second level.
    interval_s: Annotated[int, Meta(ge=1, le=3600)] = 60
    records_min: Annotated[int, Meta(ge=0, le=10_000)] = 0
    records_max: Annotated[int, Meta(ge=1, le=10_000)] = 30
    bytes_min: Annotated[int, Meta(ge=1, le=16_384)] = 1
    bytes_max: Annotated[int, Meta(ge=1, le=16_384)] = 256
    # What all of it may cost in an hour, all links together; 0: as much as comes. The more links there are, the slower
    # their turns; but each goes on at 27 kbit/s, or its peers would give it up, and what that takes is counted.
    budget_mib_h: _KibRate = 0


class RelayConfig(Struct, frozen=True, kw_only=True):
    """What this node carries for others (6.6). Off by default: carrying strangers' bytes is the operator's decision."""

    # Who may use this node as a relay: nobody, whoever is in the closed network, or these PeerIDs.
    allow: Literal["none", "members"] | tuple[PeerId, ...] = "none"
    # Networks that may be dialled although they are never dialled otherwise: loopback, private, link-local, CGNAT.
    targets: tuple[Prefix, ...] = ()
    # Ports that may be dialled. The port qg nodes use by convention, so that a relay is no port scanner.
    ports: tuple[_Port, ...] = (7447,)
    # Bytes held for all circuits together: accepted from one side and not yet written to the other (6.4).
    memory_mib: _Mib = 64
    # Bytes a second passed on for others, both directions together; 0: as many as come. An operator knows what the line
    # is to be left with. What is above it waits, and circuits share it in turns (6.4).
    rate_kib_s: _KibRate = 0
    # Bytes passed on at once after a pause; 0: those of a second. More serves pages better, and the line worse.
    burst_kib: _KibRate = 0
    # The same for what each neighbour asks for, however many links and circuits it has.
    neighbour_rate_kib_s: _KibRate = 0
    neighbour_burst_kib: _KibRate = 0
    # Traffic of relaying in a calendar month (UTC), what comes in and what goes out again, as hosters count; 0: no end.
    # At 95 % the log says so; once it is used up no new circuits are taken, and those that are there go on.
    monthly_gib: _KibRate = 0
    # A circuit without a byte for this long is closed: NAT boxes forget sooner (6.7).
    idle_s: _Seconds = 300
    # Time for one hop of a circuit to come up; a user will not wait longer (6.7).
    build_s: _Seconds = 15
    # A relay that is told to stop waits this long for the circuits through it; a bulk transfer is then cut, a page or a
    # command is not. Tor's ShutdownWaitLength; a service manager kills after 90 (6.8).
    drain_s: Annotated[int, Meta(ge=0, le=86_400)] = 30
    # No circuit lives longer, so that a path changes at least daily (6.7).
    life_s: Annotated[int, Meta(ge=60, le=604_800)] = 86_400


class RatesConfig(Struct, frozen=True, kw_only=True):
    """Bytes a second that this node sends on its links, its own and what it relays; what is above waits (6.4)."""

    # To all neighbours together; 0: as fast as can be, for a rate below that of the line costs its peers time.
    node_kib_s: _KibRate = 0
    # At once after a pause; 0: what a second brings. At least 64, one large read.
    node_burst_kib: _KibRate = 0
    # To each neighbour, however many links it has.
    neighbour_kib_s: _KibRate = 0
    neighbour_burst_kib: _KibRate = 0


class ExitConfig(Struct, frozen=True, kw_only=True):
    """Let peers reach the internet from this machine. `qg run` does what this says; programs give a node an `Exit`."""

    # Off: what peers do comes from this machine's address, for which its owner has to answer.
    enabled: bool = False
    # `allow HOST[:PORTS]` or `deny HOST[:PORTS]`, the first that matches decides. None matches: the open internet is
    # allowed; private, loopback and reserved networks, and those that this machine is in, are not, unless a rule names
    # them.
    rules: tuple[ExitRule, ...] = ()
    # Connections at a time, of all peers and of one: each takes a descriptor.
    connections: _Count = 8192
    peer_connections: _Count = 1024
    # New connections of one peer; twice as many at once, as a browser that restores its windows opens them.
    peer_connections_per_s: _Rate = 500


class ForwardOffer(Struct, frozen=True, kw_only=True):
    """What peers may reach through this node, and listen to on it; nothing beside it. `qg run` does what this says."""

    # Who may: anyone that has a session with this node, or these PeerIDs.
    peers: Literal["anyone"] | tuple[PeerId, ...] = "anyone"
    # `tcp HOST[:PORTS]` or `udp HOST[:PORTS]`: where connections and datagrams of peers may go.
    allow: tuple[ForwardRule, ...] = ()
    # The same for what a peer may have this node listen on, to get what comes there.
    listen: tuple[ForwardRule, ...] = ()


class ForwardTo(Struct, frozen=True, kw_only=True):
    """What this node forwards over a session with one peer, which it keeps. `qg run` does what this says."""

    # The peer, with `via=` over relays.
    peer: Address
    # Go through so many relays, drawn from those that are known.
    hops: _Hops | None = None
    # Ports of this machine that lead to what the peer reaches: "2222:127.0.0.1:22", "5353/udp:10.0.0.1:53".
    local: tuple[ForwardSpec, ...] = ()
    # Ports of the peer that lead to what this machine reaches, written in the same way.
    remote: tuple[ForwardSpec, ...] = ()


class ForwardConfig(Struct, frozen=True, kw_only=True):
    """Forwards: written [[forward.offer]] and [[forward.to]], each as often as needed."""

    offer: tuple[ForwardOffer, ...] = ()
    to: tuple[ForwardTo, ...] = ()


class ExtenderUse(Struct, frozen=True, kw_only=True):
    """One more service, of a package or a file: written [[extenders]]. `qg run` does what this says."""

    # The name under which an installed package offers it (entry point of the group qg.extenders), or a file and the
    # class in it: "services/board.py:Board". Files run as part of the node: they may be writable by nobody else.
    use: str
    # Handed to the class by name.
    settings: dict[str, Any] = {}


class AccessConfig(Struct, frozen=True, kw_only=True):
    """Where rules of access live on that are made while the node runs (`qg access`, `Node.access`)."""

    # "sqlite:FILE", or "postgresql://USER@HOST/DATABASE" for nodes that share their rules and what they find out about
    # addresses. None: rules end with the node.
    store: str | None = None
    # File that keeps the rules as they last were, to start with while the store cannot be reached. None: then nobody
    # may connect until it can.
    snapshot: str | None = None


class LimitsConfig(Struct, frozen=True, kw_only=True):
    """Bounds on what others can make this node do; the table of section 9 tells what happens when one is reached.

    Rates "per address" are per IPv4 address or IPv6 /64, "per network" per /24 or /48.
    """

    # Networks that the rates per address do not apply to: this machine.
    exempt: tuple[Prefix, ...] = (Prefix.parse("127.0.0.0/8"), Prefix.parse("::1/128"))
    # Connections accepted per address; a browser opens six at once.
    accepts_per_s: _Rate = 10
    accepts_burst: _Count = 20
    # Handshakes per address: WireGuard allows 20 per second, burst 5; we allow bursts since ours are dearer but rarer.
    handshakes_per_s: _Rate = 5
    handshakes_burst: _Count = 20
    # Handshakes per network: a company behind one /24 may come back at once after a power cut.
    network_handshakes_per_s: _Rate = 20
    network_handshakes_burst: _Count = 60
    # Handshakes of the whole node: 500 cost about 16 % of a core.
    node_handshakes_per_s: _Rate = 500
    # Processor time that handshakes of others may take per 100 ms, as measured: what a slow machine can afford.
    handshake_cpu_ms: Annotated[int, Meta(ge=1, le=100)] = 20
    # Connections whose handshake is under way: 6 KiB each.
    half_open: _Count = 1024
    # Time to the first 80 bytes, to the whole first flight, to the end of the handshake.
    head_s: _Seconds = 10
    flight_s: _Seconds = 15
    handshake_s: _Seconds = 30
    # Failed connections that are kept open in silence, and how long; one descriptor each (3.8). The shortest time must
    # not be below the three above, or when a connection ends tells how it failed.
    sinks: _Count = 256
    sink_min_s: _Seconds = 30
    sink_max_s: _Seconds = 90
    # Sessions, all and per network; an idle one takes up to 8 KiB.
    sessions: _Count = 10_000
    network_sessions: _Count = 32
    # Sessions per network of other widths, each written "ip4/16 = 256" or "ip6/32 = 256".
    prefix_sessions: tuple[PrefixLimit, ...] = ()
    # Sessions over relays per PeerID: its address does not tell that they are one peer's.
    peer_pipe_sessions: _Count = 8
    # Bytes that peers may have under way to this node's applications; windows shrink at half of it.
    receive_credit_mib: _Mib = 256
    # Bytes written by the application and not yet sent, per session; then `write` waits.
    send_queue_kib: _Kib = 4096
    # A peer that takes nothing for this long while the queue is full is closed.
    slow_reader_s: _Seconds = 30
    # A record that began must be whole after this long.
    slow_record_s: _Seconds = 20
    # Largest windows that receive buffers grow to, per stream and per session (section 7): 1 MiB carries 100 Mbit/s
    # at 80 ms. No stream gets more than a quarter of its session's window.
    stream_window_kib: _Kib = 1024
    session_window_kib: _Kib = 8192
    # Streams of applications per session: open at a time, and new ones per second.
    service_streams: _Count = 1024
    # This node itself opens no more on a session: beyond that `open_stream` and `request` wait for their turn.
    service_streams_per_s: _Rate = 5000
    # PING, RESET, SERVICES, PEERS, OBSERVED together; CREDIT has the same again. A new stream is a 16th of one.
    control_frames_per_s: _Rate = 1000
    # One message; it must be whole in memory before it is handed over.
    message_max_kib: _Kib = 1024
    # Pipes and relay streams per link and for the node, and new ones per second and link.
    pipes_per_link: _Count = 1024
    pipes: _Count = 65_536
    pipes_per_s: _Rate = 50
    pipes_burst: _Count = 200
    # Log lines that unauthenticated peers can cause; the rest is counted.
    log_lines_per_s: _Rate = 10


class Config(Struct, frozen=True, kw_only=True):
    """Hold the settings of one node. Immutable.

    `load` and `from_dict` check every value; the constructor takes what it is given.
    """

    # Key file; made by `qg keygen`. None: a throw-away identity. Relative paths are taken from the configuration's
    # folder.
    identity: str | None = None
    # Have `qg run` wait until the key file is there, on a medium that somebody plugs in. Off: without it there is no
    # node.
    wait_for_key: bool = False
    # Have `qg run` forbid core dumps of its process, and debuggers (section 8). Off: after a crash a dump tells why.
    # Keys lie in memory that a dump leaves out; what is being sent and received does not.
    no_core_dumps: bool = False
    # Where to wait for peers. Empty: a node that only dials is of use and needs no open port.
    listen: tuple[Endpoint, ...] = ()
    # What others are told to reach this node by, where that is not what it listens on: behind NAT, the router's address
    # and port. Empty: what it listens on.
    advertise: tuple[Endpoint, ...] = ()
    # Peers that are kept connected: dialled at the start, and again when they are gone. With `via=` over relays. The
    # node's own address among them is skipped, so that a list may be the same everywhere.
    peers: tuple[Address, ...] = ()
    # File with the secret of a closed network. None: the open network.
    network_secret: str | None = None
    # File with the secret before this one: nodes that have not changed yet are answered too (2.4). Give it while a new
    # secret spreads, and take it away when all have it.
    network_secret_previous: str | None = None
    # File that remembers up to which time handshakes were taken, so that a node that starts anew is not fooled by a
    # recording of what it answered before (3.5). For one node alone. None: `qg run` and `qg receive` keep one beside
    # the key file, nodes of other programs keep none.
    replay_mark: str | None = None
    # Relays to choose from for circuits by number of hops (`connect(hops=)`), beside those that peers tell of. Each
    # with its link key and an IP address, since the rules of the choice look at networks (6.2).
    relays: tuple[Address, ...] = ()
    # File that keeps which two relays such circuits begin with: who draws new ones at every start meets a hostile one
    # sooner or later (6.2). None: `qg run` keeps one beside the key file, nodes of other programs choose anew.
    guards: str | None = None
    # File that keeps the bytes relayed in each month. None: `qg run` keeps one beside the key file, nodes of other
    # programs count from their start.
    relay_account: str | None = None
    # A guard that has not answered for so long is replaced once another relay has. Longer than maintenance and outages
    # mostly last: who can cut us off from our guards shall not soon have us try others until we come to his.
    guard_patience_s: Annotated[int, Meta(ge=60, le=31_536_000)] = 43_200
    # Answer diallers that do not know our link key (XX). Off: it shows our identity to whoever asks (protocol 1.2, P9).
    allow_first_contact: bool = False
    # Who may have a session with this node: anyone that completes a handshake, members of the closed network, these
    # PeerIDs.
    allow: Literal["anyone", "members"] | tuple[PeerId, ...] = "anyone"
    # Go on with keys in memory that may reach the swap file once the limit for locked memory is reached; `status`
    # says so. On: the limit is 8 MiB on most machines, and ending there would close a relay at 5,400 sessions
    # (section 8).
    allow_unlocked: bool = True
    # Threads that carry the data, each with links and circuits of its own. None: one for each core that this process
    # may use. One thread fills a core before it fills 10 Gbit/s; more of them than cores only take turns.
    workers: _Workers | None = None
    # Unix socket for `qg status` and `qg stop`. None: none is made.
    control_socket: str | None = None
    # What `[link]` and `[cover]` are to be, all at once: a level of docs/security-levels.md. Settings that a level
    # decides must not stand beside it. "custom": what those tables say; their defaults are level one.
    security: Literal["custom", "one", "two", "three", "four", "five"] = "custom"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    # Lines for people, or an object of JSON each for what collects logs.
    log_format: Literal["text", "json"] = "text"
    # Where Prometheus may fetch figures: "127.0.0.1:9464" serves http://127.0.0.1:9464/metrics. None: nowhere, for they
    # tell when this node is used and how much.
    metrics: HostPort | None = None
    # Let `metrics` be an address that other machines reach. Off: whoever reaches it reads it.
    metrics_remote: bool = False
    link: LinkConfig = LinkConfig()
    cover: CoverConfig = CoverConfig()
    relay: RelayConfig = RelayConfig()
    exit: ExitConfig = ExitConfig()
    forward: ForwardConfig = ForwardConfig()
    access: AccessConfig = AccessConfig()
    # Services beside those.
    extenders: tuple[ExtenderUse, ...] = ()
    rates: RatesConfig = RatesConfig()
    limits: LimitsConfig = LimitsConfig()

    def at_level(self, level: str) -> "Config":
        """Give the configuration at a level of security; its other settings stay, and at "custom" all of them.

        Raises `InvalidValue` for a level that there is not.
        """
        if level != "custom" and level not in LEVELS:
            raise InvalidValue(f"{level!r} is no level of security: {', '.join(LEVELS)} or custom")
        if level == "custom":
            return msgspec.structs.replace(self, security=level)
        return msgspec.structs.replace(
            self,
            security=level,
            link=msgspec.structs.replace(self.link, **LEVELS[level].link),
            cover=CoverConfig(budget_mib_h=self.cover.budget_mib_h, **LEVELS[level].cover),
        )

    @classmethod
    def load(cls, path: "str | os.PathLike[str]") -> "Config":
        """Read a TOML file; raises `ConfigError` with one line for each thing that is wrong."""
        import tomllib  # only who reads a file pays for it

        name = os.fspath(path)
        try:
            with open(name, "rb") as file:
                table = tomllib.load(file)
        except OSError as error:
            raise ConfigError(f"{name}: cannot be read: {error.strerror}; check the path and its permissions") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}: is not TOML: {error}") from None
        return cls.from_dict(table, name)

    @classmethod
    def from_dict(cls, table: dict[str, Any], source: str = "configuration") -> "Config":
        """Check settings given as nested dictionaries, as a TOML file would give them; errors as for `load`.

        `source` stands in front of each error; if it is a path, paths in the settings are relative to its folder.
        """
        problems: list[str] = []
        config = _table_read(cls, table, "", problems)
        problems += _decided_problems(config.security, table)
        config = config.at_level(config.security)
        problems += _rules_check(config)
        if problems:
            raise ConfigError(*(f"{source}: {problem}" for problem in problems))
        folder = os.path.dirname(source)
        access = _access_placed(config.access, folder)
        paths = {name: getattr(config, name) for name in _PATHS}
        extenders = tuple(
            msgspec.structs.replace(use, use=os.path.join(os.path.abspath(folder), os.path.expanduser(use.use)))
            if ":" in use.use
            else use
            for use in config.extenders
        )
        return msgspec.structs.replace(
            config,
            access=access,
            extenders=extenders,
            **{
                name: os.path.join(folder, os.path.expanduser(path)) for name, path in paths.items() if path is not None
            },
        )


def _decided_problems(level: str, table: dict[str, Any]) -> list[str]:
    """Find settings that stand beside the level which decides them."""
    if level not in LEVELS:
        return []
    decided = {"link": set(LEVELS[level].link), "cover": set(CoverConfig.__struct_fields__) - {"budget_mib_h"}}
    return [
        f'{where}.{key}: security = "{level}" decides it; take one of the two away'
        for where, keys in decided.items()
        for key in table.get(where, {})
        if key in keys
    ]


def _access_placed(access: AccessConfig, folder: str) -> AccessConfig:
    """Take relative paths from the configuration's folder."""
    kind, colon, path = (access.store or "").partition(":")
    store = f"{kind}{colon}{os.path.join(folder, os.path.expanduser(path))}" if kind == "sqlite" else access.store
    snapshot = None if access.snapshot is None else os.path.join(folder, os.path.expanduser(access.snapshot))
    return AccessConfig(store=store, snapshot=snapshot)


# Bytes a second of a paced link, at least: COVER_RECORD_S of qg/_core/cover.pxd.
_PACE_MIN = 3284

_Table = TypeVar("_Table", bound=Struct)

# Settings that name files.
_PATHS = (
    "identity",
    "network_secret",
    "network_secret_previous",
    "replay_mark",
    "guards",
    "relay_account",
    "control_socket",
)

# How the types that are written as text are read.
_TEXT_TYPES: dict[Any, Any] = {
    Address: Address.parse,
    Endpoint: Endpoint.parse,
    HostPort: HostPort.parse,
    PeerId: PeerId,
    Prefix: Prefix.parse,
    PrefixLimit: PrefixLimit.parse,
    ExitRule: ExitRule.parse,
    ForwardRule: ForwardRule.parse,
    ForwardSpec: ForwardSpec.parse,
}
_TEXT_EXAMPLES = {
    Address: "an address, written qg://<link key>@<host>:<port>",
    HostPort: 'an IP address and a port such as "127.0.0.1:9464"',
    Endpoint: 'an endpoint such as "tcp://0.0.0.0:7447"',
    Prefix: 'a network such as "10.0.0.0/8"',
    PrefixLimit: 'a limit such as "ip4/16 = 256"',
    PeerId: "a PeerID",
    ExitRule: 'a rule such as "deny 192.0.2.0/24:25"',
    ForwardRule: 'a rule such as "tcp 127.0.0.1:22"',
    ForwardSpec: 'a forward such as "8080:127.0.0.1:80"',
}


def _rules_check(config: Config) -> list[str]:
    """Find settings that are right alone and wrong together."""
    problems = []
    limits = config.limits
    if limits.sink_min_s > limits.sink_max_s:
        problems.append(
            f"limits.sink_min_s = {limits.sink_min_s}: must not be above limits.sink_max_s = {limits.sink_max_s}"
        )
    if limits.stream_window_kib * 4 > limits.session_window_kib:
        problems.append(
            f"limits.stream_window_kib = {limits.stream_window_kib}: must not be above a quarter of"
            f" limits.session_window_kib ({limits.session_window_kib})"
        )
    problems += _cover_problems(config.cover)
    if access_problem := _store_problem(config.access.store):
        problems.append(access_problem)
    widths = [(limit.is_ip4, limit.n_bits) for limit in limits.prefix_sessions]
    problems += [
        f"limits.prefix_sessions: {limit.family}/{limit.n_bits} stands there twice, or is limits.network_sessions"
        for limit in limits.prefix_sessions
        if [*widths, (True, 24), (False, 48)].count((limit.is_ip4, limit.n_bits)) > 1
    ]
    problems += [
        f"advertise[{idx}] = {str(endpoint)!r}: must be an address and a port that others can dial"
        for idx, endpoint in enumerate(config.advertise)
        if endpoint.port == 0 or endpoint.host in ("0.0.0.0", "::")
    ]
    problems += [
        f"relays[{idx}] = '{relay}': must be the address of one relay, with a link key and an IP address"
        for idx, relay in enumerate(config.relays)
        if relay.link_key is None or relay.via or not is_ip(relay.host)
    ]
    if config.metrics is not None and not config.metrics_remote and not config.metrics.is_loopback:
        problems.append(
            f"metrics = {str(config.metrics)!r}: other machines reach that; use 127.0.0.1, or metrics_remote = true"
        )
    if config.network_secret is None:
        if config.network_secret_previous is not None:
            problems.append(
                f"network_secret_previous = {config.network_secret_previous!r}: must stand beside network_secret, the"
                " secret that is used now"
            )
        problems += [
            f'{key} = "members": only a closed network has members; set network_secret, or list PeerIDs'
            for key, allow in (("allow", config.allow), ("relay.allow", config.relay.allow))
            if allow == "members"
        ]
    return problems


def _cover_problems(cover: CoverConfig) -> list[str]:
    problems = [
        f"cover.{low} = {getattr(cover, low)}: must not be above cover.{high} = {getattr(cover, high)}"
        for low, high in (("records_min", "records_max"), ("bytes_min", "bytes_max"), ("rate_per_s", "rate_max_per_s"))
        if getattr(cover, low) > getattr(cover, high) and (high != "rate_max_per_s" or cover.mode == "shaped")
    ]
    if cover.mode not in ("poisson", "shaped"):
        return problems
    if cover.rate_per_s * cover.size < _PACE_MIN:
        problems.append(
            f"cover.rate_per_s = {cover.rate_per_s}: {cover.size} bytes of cover.size each time are too few; a link"
            f" needs {_PACE_MIN} bytes a second, or its largest record takes longer than peers wait for it"
        )
    if 0 < cover.budget_mib_h << 20 < 3600 * _PACE_MIN:
        problems.append(
            f"cover.budget_mib_h = {cover.budget_mib_h}: must be at least {-(-3600 * _PACE_MIN >> 20)}, what one link"
            " takes at the least rate, or 0"
        )
    return problems


def _store_problem(store: str | None) -> str | None:
    kind, _, rest = (store or "").partition(":")
    if store is None or (kind in ("sqlite", "postgres", "postgresql") and rest):
        return None
    return f'access.store = {store!r}: must be "sqlite:FILE" or "postgresql://USER@HOST/DATABASE"'


def _table_read(cls: type[_Table], table: dict[str, Any], where: str, problems: list[str]) -> _Table:
    """Make a Struct of a TOML table; what is wrong goes to problems and keeps its default."""
    return cls(**_values_read(cls, table, where, problems))


def _values_read(cls: type[Struct], table: dict[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    types = {field.name: field.type for field in msgspec.structs.fields(cls)}
    values = {}
    for key, value in table.items():
        if key not in types:
            problems.append(f"{where}{key}: unknown key; allowed here: {', '.join(sorted(types))}")
        elif not isinstance(types[key], type) or not issubclass(types[key], Struct):
            found: list[str] = []
            parsed = _value_read(types[key], value, where + key, found)
            if found:
                problems += found
            else:
                values[key] = parsed
        elif isinstance(value, dict):
            values[key] = _table_read(types[key], value, f"{where}{key}.", problems)
        else:
            problems.append(f"{where}{key} = {value!r}: must be a table, written [{where}{key}]")
    return values


def _tables_read(cls: type[_Table], tables: list[Any], where: str, problems: list[str]) -> tuple[_Table, ...]:
    """Make Structs of an array of tables."""
    needed = {field.name for field in msgspec.structs.fields(cls) if field.required}
    read = []
    for idx, table in enumerate(tables):
        if not isinstance(table, dict):
            problems.append(f"{where}[{idx}] = {table!r}: must be a table, written [[{where}]]")
            continue
        problems += [f"{where}[{idx}].{key}: is missing" for key in needed - set(table)]
        values = _values_read(cls, table, f"{where}[{idx}].", problems)
        if needed <= set(values):
            read.append(cls(**values))
    return tuple(read)


def _value_read(type_: Any, value: Any, where: str, problems: list[str]) -> Any:
    type_ = next((arm for arm in get_args(type_) if arm in _TEXT_TYPES and type(None) in get_args(type_)), type_)
    is_list = isinstance(value, list | tuple)
    if get_origin(type_) is Union and any(get_origin(arm) is tuple for arm in get_args(type_)):
        arms = [arm for arm in get_args(type_) if (get_origin(arm) is tuple) == is_list]
        if is_list or value in get_args(arms[0]):
            return _value_read(arms[0], value, where, problems)
    elif get_origin(type_) is tuple and is_list:
        item_type = get_args(type_)[0]
        if isinstance(item_type, type) and issubclass(item_type, Struct):
            return _tables_read(item_type, list(value), where, problems)
        return tuple(_value_read(item_type, item, f"{where}[{idx}]", problems) for idx, item in enumerate(value))
    elif type_ in _TEXT_TYPES and isinstance(value, str):
        try:
            return _TEXT_TYPES[type_](value)
        except InvalidValue as error:
            problems.append(f"{where}: {error}")
            return None
    elif type_ in _TEXT_TYPES and isinstance(value, type_):
        return value
    elif get_origin(type_) is not tuple and type_ not in _TEXT_TYPES:
        try:
            return msgspec.convert(value, type_)
        except msgspec.ValidationError:
            pass
    problems.append(f"{where} = {value!r}: must be {_allowed_text(type_)}")
    return None


def _allowed_text(type_: Any) -> str:
    """Say what a setting may be, in the words of a TOML file."""
    arguments = get_args(type_)
    if get_origin(type_) is Annotated:
        return f"a whole number from {arguments[1].ge} to {arguments[1].le}"
    if get_origin(type_) is Literal:
        return " or ".join(f'"{choice}"' for choice in arguments)
    if get_origin(type_) is tuple and isinstance(arguments[0], type) and issubclass(arguments[0], Struct):
        return "tables, each written in double brackets"
    if get_origin(type_) is dict:
        return "a table"
    if get_origin(type_) is tuple:
        return f"a list, each item {_allowed_text(arguments[0])}"
    if arguments:
        return ", or ".join(_allowed_text(arm) for arm in arguments if arm is not type(None))
    return {bool: "true or false", str: "a text"}.get(type_) or _TEXT_EXAMPLES[type_]
