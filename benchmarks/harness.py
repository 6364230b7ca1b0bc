# SPDX-License-Identifier: MIT
"""Run the roles of a measurement as processes, read their clocks from outside, alternate what is compared.

Roles talk as those of `qg.cli.measure` do. CPU time is the kernel's process clock, read by this process just before and
after the measured interval, so start-up, connecting and warming up do not count and no role measures itself.
"""

import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.program import ROOT, Clocked, NotInstalled, process_cpu_s
from qg.cli.measure import Process
from qg.identity import NetworkSecret

N_ROUNDS = 5
WARM_UP_LEN = 64 << 20
BULK_LEN = 1 << 30
N_FAILURES_MAX = 2  # of a candidate; each may take minutes to be noticed

PLAIN, UVLOOP, ASYNCIO, FORWARDER = "plain TCP", "uvloop TLS", "asyncio TLS", "libuv forwarder"
AEGIS, CHACHA, SPINNING = "qg AEGIS-256", "qg ChaCha20-Poly1305", "qg AEGIS-256, spinning Python thread"
SSH, SSH_D, SCP, STUNNEL, TOR, PPROXY = "ssh -L", "ssh -D", "scp -r", "stunnel", "tor", "pproxy, plain"
CHAIN, CHAIN_BARE = "4 libuv forwarders, asyncio at its ends", "4 libuv forwarders, blocking sockets at its ends"
OPENSSL, ZMQ, LIBP2P, RNS = "C OpenSSL TLS", "pyzmq CURVE", "py-libp2p", "Reticulum"
QG_8, TOR_8 = "qg, 8 circuits", "tor, 8 circuits"
BATCH, EACH = "qg, batches", "qg, await each"
# What a peer is given to carry where that is not BULK_LEN, and how many round trips: the slow have to end.
LENGTHS = {LIBP2P: 32 << 20, RNS: 4 << 20}
N_PINGS = {LIBP2P: 1_000, RNS: 500}
HOPS = {1: "1 relay"} | {n_relays: f"{n_relays} relays" for n_relays in range(2, 7)}
IDLE_FEW, IDLE_MANY = "qg, 10 idle circuits", "qg, 10,000 idle circuits"
ONE_WORKER, TWO_WORKERS = "1 worker", "2 workers"
ENGINES = {1: "engines on 1 thread", 2: "engines on 2 threads"}
HASHING = {1: "hashing on 1 thread", 2: "hashing on 2 threads"}
TAKEN = {"qg, lists": "lists", "qg, callback each": "callbacks", "qg, await each": "each"}
BARE, IMPORT, HELP = "python -c pass", "import qg", "qg --help"
# Candidates that speak the roles' commands: the module under `peers`, and options for both roles.
PEERS = {
    PLAIN: ["plain_tcp"],
    UVLOOP: ["uvloop_tls"],
    ASYNCIO: ["asyncio_tls"],
    OPENSSL: ["openssl_tls"],
    ZMQ: ["zmq_curve"],
    LIBP2P: ["libp2p_noise"],
    RNS: ["reticulum"],
    AEGIS: ["qg", "aegis-256"],
    CHACHA: ["qg", "chacha20-poly1305"],
}

Figures = dict[str, float]


class Role(Process):
    """A process of the measurement, whose clocks are read from outside."""

    def __init__(self, *argv: str) -> None:
        super().__init__(" ".join(argv), argv, ROOT)
        self.pid = self.process.pid

    def cpu_s(self) -> float:
        return process_cpu_s(self.pid)

    def threads_cpu_s(self, except_tids: list[int]) -> float:
        """CPU seconds of its threads but these."""
        tids = (int(task.name) for task in Path(f"/proc/{self.pid}/task").iterdir())
        return sum(self.thread_cpu_s(tid) for tid in tids if tid not in except_tids)

    def thread_cpu_s(self, tid: int) -> float:
        """CPU seconds of one of its threads. Read it when it rests: a running one's figure is up to a tick old."""
        return int(Path(f"/proc/{self.pid}/task/{tid}/schedstat").read_text().split()[0]) / 1e9

    def n_wake_ups(self) -> int:
        """How often one of its threads waited for something and was woken."""
        tasks = [task.read_text() for task in Path(f"/proc/{self.pid}/task").glob("*/status")]
        return sum(int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", task, re.MULTILINE)[0]) for task in tasks)

    def resident_len(self) -> int:
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Rss:"))


def python_role(module: str, *arguments: str) -> Role:
    return Role(sys.executable, "-m", f"benchmarks.peers.{module}", *arguments)


def peer_version(module: str) -> str:
    """Say which one runs; raises `NotInstalled` where it cannot."""
    text: str = import_module(f"benchmarks.peers.{module}").version()
    return text


@contextmanager
def pair(module: str, service: str, *options: str) -> Iterator[tuple[Role, Role]]:
    """A server that offers `service` and a client that knows what the server said."""
    peer_version(module)
    with ExitStack() as stack:
        server = stack.enter_context(python_role(module, "server", service, *options))
        yield server, stack.enter_context(python_role(module, "client", json.dumps(server.hello), *options))


@contextmanager
def circuit(
    suite: str, service: str, n_relays: int, n_streams: int = 1, load: str = "resting"
) -> Iterator[tuple[Role, dict[str, Role], Role]]:
    """qg's client, relays by name, and server: a process each; the client opens each stream on a circuit of its own."""
    secret = NetworkSecret.generate().export()
    with ExitStack() as stack:
        server = stack.enter_context(python_role("qg", "server", service, suite, secret))
        addresses = [server.hello["address"]]
        relays: dict[str, Role] = {}
        for idx in range(n_relays, 0, -1):
            relay = python_role("qg", "relay", load, f"127.{idx}.0.1", addresses[0], suite, secret)
            relays[f"relay{idx}"] = stack.enter_context(relay)
            addresses.insert(0, relay.hello["address"])
        client = stack.enter_context(python_role("qg", "client", json.dumps(server.hello), suite, secret))
        client.ask("route", via=addresses[:-1], n_streams=n_streams)
        yield client, relays, server


class Interval:
    """Wall clock and CPU clocks of roles from its making to `stop`."""

    def __init__(self, **roles: Clocked) -> None:
        self._roles = roles
        self._started = {name: role.cpu_s() for name, role in roles.items()}
        self._started_s = time.perf_counter()

    def stop(self) -> None:
        self.wall_s = time.perf_counter() - self._started_s
        self.cpu_s = {name: role.cpu_s() - self._started[name] for name, role in self._roles.items()}

    def per_gb(self, length: int) -> Figures:
        """Speed and cost of `length` bytes: the total, then each role."""
        figures = {"cpu_s_per_gb": sum(self.cpu_s.values()) / length * 1e9, "mb_per_s": length / self.wall_s / 1e6}
        return figures | {f"{name}_cpu_s_per_gb": cpu_s / length * 1e9 for name, cpu_s in self.cpu_s.items()}


class Transfer:
    """Push bytes from one role to another, which tells when all have come."""

    def __init__(self, sender: Role, receiver: Role) -> None:
        self._sender, self._receiver, self._sent_len = sender, receiver, 0

    def run(self, length: int, **options: int) -> None:
        self._sent_len += length
        self._sender.post("send", length=length, **options)
        self._receiver.ask("received", total=self._sent_len)
        self._sender.answer()


def candidates_of(measure: Callable[..., Figures], *names: str, **options: Any) -> dict[str, Callable[[], Figures]]:
    """The named candidates, ready to be measured."""
    return {name: partial(measure, *PEERS[name], **options) for name in names}


def compare(benchmark: Any, candidates: dict[str, Callable[[], Figures]], n_rounds: int = N_ROUNDS) -> None:
    """Measure all candidates in each round, every other time in turned order; leave all figures in the record.

    A candidate that is not installed is left out, and the record says how to install it. One that fails keeps what was
    measured of it and is given up when it fails again; the record names it, and this raises when all rounds are over.
    """
    rounds: dict[str, list[Figures]] = {}
    missing: dict[str, str] = {}
    failed: dict[str, list[str]] = {}
    order = list(candidates)

    def alternated_round() -> None:
        for name in order:
            if len(failed.get(name, ())) == N_FAILURES_MAX:
                continue
            try:
                rounds.setdefault(name, []).append(candidates[name]())
            except NotInstalled as error:
                missing[name] = str(error)
            except Exception as error:  # whatever it is, it costs no other candidate its figures
                traceback.print_exc()
                failed.setdefault(name, []).append(f"{type(error).__name__}: {error}")
        order.reverse()

    try:
        benchmark.pedantic(alternated_round, rounds=n_rounds)
    finally:  # also when it is interrupted
        benchmark.extra_info["figures"] = {
            name: {key: [figures[key] for figures in done] for key in done[0]} for name, done in rounds.items() if done
        }
        benchmark.extra_info["missing"] = missing
        benchmark.extra_info["failed"] = {name: words[0] for name, words in failed.items()}
    if failed:
        raise RuntimeError(f"failed: {benchmark.extra_info['failed']}")
