# SPDX-License-Identifier: MIT
"""Attack a running node and see what others notice of it: python -m tools.attack [--quick] [--json] [ATTACK...]

Everything is on loopback, and bounded in count and time. The node is `qg run` on a core of its own; the attacker
(`attacker.py`), an honest transfer and honest handshakes share another one. While each attack runs it is measured how
long handshakes take, what memory and descriptors the node holds, and how fast the transfer goes on, against its speed
while the same volume goes to a server that discards it. Each refusal has to be in `qg status`. The control of an attack
is the same one on a node without the limit that it tests: the check must then fail.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from api.services import Echo  # noqa: E402

import qg  # noqa: E402
from qg.control import control_ask  # noqa: E402
from tools.attacker import STRANGERS, relayed  # noqa: E402

MIB = 1 << 20
MEMORY_MAX = 64 * MIB
HANDSHAKE_S, HANDSHAKES_MIN = 1.0, 0.99
RATE_MIN = 0.8
NEVER = 1_000_000
PATIENCE_S, PATIENCE_OFF_S = 10.0, 1.5  # that limits of time are waited for, the second for a control, that meets none
SERVICES = ROOT / "tests" / "api" / "services.py"

# Networks of the attackers have rates; that of the honest clients, 127.0.0.0/24, has none. Times are short so that an
# attack of seconds meets them.
LIMITS = {
    "exempt": ["127.0.0.0/24"], "half_open": 256, "sinks": 128, "sink_min_s": 1, "sink_max_s": 3, "slow_record_s": 1,
    "slow_reader_s": 1, "send_queue_kib": 64, "service_streams_per_s": 1000,
    "service_streams": 200, "handshake_cpu_ms": 50,
}  # fmt: skip

# Of the long form: the honest transfer shares its core with the attacker, and may be kept waiting for a second.
HONEST = {"limits": {"slow_reader_s": 5}}
DESCRIPTORS_MAX = 256 + 128 + 1024 + 64  # half-open ones, sinks, closed ones (TCP_LINGERING_MAX), peers


class Attack(NamedTuple):
    """What is done, which counter tells of its refusal, and the settings without which nothing is refused."""

    n: int  # connections or sessions, and how many a second
    rate: float
    counter: str
    off: dict[str, dict[str, int]]  # tables of the configuration; empty where nothing can switch it off
    n_quick: int = 40
    crowd: int = 4  # connections from one network, so that other limits are not met before
    instead: str = ""  # where nothing switches the limit off, its control is this, which keeps to it


ATTACKS = {
    "garbage": Attack(20_000, 4000, "refused_accept_rate", {"limits": {"accepts_per_s": NEVER, "accepts_burst": NEVER}},
                      200, 400),
    "slow_openers": Attack(10_000, 2500, "refused_half_open", {"limits": {"half_open": NEVER}}, 400, 64),
    "half_open": Attack(8000, 1000, "refused_network_rate", {"limits": {
        "handshakes_per_s": NEVER, "handshakes_burst": NEVER, "network_handshakes_per_s": NEVER,
        "network_handshakes_burst": NEVER}}, 200, 200),
    "replay": Attack(8000, 1000, "refused_replay", {}, instead="half_open"),
    "window_overrun": Attack(200, 20, "streams_overrun", {}, 2, instead="window_kept"),
    "rapid_reset": Attack(40, 4, "streams_rate", {"limits": {"service_streams_per_s": NEVER,
                                                             "control_frames_per_s": NEVER}}, 1),
    "open_flood": Attack(80, 8, "streams_full", {"limits": {"service_streams": NEVER}}, 1),
    "stalled_readers": Attack(80, 8, "slow_reader_closes", {"limits": {"slow_reader_s": 86_400}}, 2),
    "fragments": Attack(200, 20, "slow_records", {"limits": {"slow_record_s": 86_400}}, 4),
    "oversized": Attack(200, 20, "messages_refused", {"limits": {"message_max_kib": 65_536}}, 2),
    "relay_loops": Attack(30, 3, "pipes_rate", {"limits": {"pipes_per_s": NEVER, "pipes_burst": NEVER}}, 1),
    "clock_skew": Attack(8000, 1000, "bad_clock", {"link": {"clock_window_s": 3600}}),
}  # fmt: skip
IN_ORDER = {"accepted", "handshakes"}


def toml(tables: dict[str, dict[str, Any]]) -> str:
    lines = []
    for table, settings in tables.items():
        lines.append(f"[{table}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    for service in ("Echo", "Mailbox"):
        lines += ["[[extenders]]", f"use = {json.dumps(f'{SERVICES}:{service}')}"]
    return "\n".join(lines)


@contextmanager
def process(*command: str, core: int, log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program on one core; it is killed at the end."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    pipe = subprocess.PIPE
    own = os.sched_getaffinity(0)
    with log.open("a") as errors:
        os.sched_setaffinity(0, {core})  # which it inherits
        running = subprocess.Popen(
            [sys.executable, *command], stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environment
        )
        os.sched_setaffinity(0, own)
    try:
        yield running
    finally:
        running.kill()
        running.wait()
        for end in (running.stdin, running.stdout):
            if end is not None:
                end.close()


class Target:
    """A running `qg run`, seen from outside."""

    def __init__(self, pid: int, control: str, status: dict[str, Any]) -> None:
        self.pid = pid
        self._control = control
        self.address = qg.Address.parse(f"qg://{status['link_key']}@{status['listen'][0].removeprefix('tcp://')}")

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = control_ask(self._control, "status")
        return status

    def resident_len(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * resource.getpagesize()

    def n_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def port_free() -> int:
    """A port that the system gives to nobody by itself."""
    while True:
        port = random.randint(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextmanager
def target(folder: Path, off: dict[str, dict[str, int]]) -> Iterator[Target]:
    """Run a node with the limits of this suite, but for those that are off."""
    port = port_free()
    relay = {"allow": [str(qg.PeerId(relayed().peer_id))], "targets": ["127.0.0.0/8"], "ports": [port]}
    tables: dict[str, dict[str, Any]] = {"limits": dict(LIMITS), "relay": relay, "link": {}}
    for table, settings in off.items():
        tables[table] |= settings
    config, control = folder / "qg.toml", folder / "qg.sock"
    config.write_text(toml(tables))
    config.chmod(0o600)
    command = ("-m", "qg", "run", "-c", str(config), "--listen", f"tcp://127.0.0.1:{port}", "--control", str(control))
    with process(*command, core=NODE_CORE, log=folder / "node.log") as node:
        yield Target(node.pid, str(control), listening(node, str(control), folder))


def listening(node: subprocess.Popen[str], control: str, folder: Path) -> dict[str, Any]:
    """Wait until the node listens; its status."""
    deadline = time.monotonic() + 30
    while node.poll() is None and time.monotonic() < deadline:
        with suppress(qg.LocalError):
            status: dict[str, Any] = control_ask(control, "status")
            if status["listen"]:
                return status
        time.sleep(0.05)
    raise RuntimeError(f"the node did not start: {(folder / 'node.log').read_text()[-2000:]}")


class Attacker:
    """The hostile process, that is ready."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self._running = running

    async def line(self) -> str:
        assert self._running.stdout is not None
        line = await asyncio.to_thread(self._running.stdout.readline)
        if not line:
            raise RuntimeError("the attacker has ended too early")
        return line

    async def attack(self) -> list[float]:
        assert self._running.stdin is not None
        self._running.stdin.write("\n")
        self._running.stdin.flush()
        tally: list[float] = json.loads(await self.line())
        return tally


@asynccontextmanager
async def attacker(folder: Path, **order: Any) -> AsyncIterator[Attacker]:
    with process(str(ROOT / "tools" / "attacker.py"), json.dumps(order), core=OTHERS_CORE,
                 log=folder / "attacker.log") as running:  # fmt: skip
        ready = Attacker(running)
        await ready.line()
        yield ready


class Honest:
    """What honest peers do meanwhile: one transfer, and handshakes of ever new identities."""

    def __init__(self, address: qg.Address) -> None:
        self._address = address
        self.n_bytes = 0
        self.handshakes_s: list[float] = []

    async def transfer(self) -> None:
        async with qg.Node(qg.Identity.generate()) as node:
            stream = await (await node.connect(self._address)).open_stream(Echo.id)
            writing = asyncio.create_task(self._write(stream))
            try:
                async for chunk in stream:
                    self.n_bytes += len(chunk)
            finally:
                writing.cancel()
                stream.reset()

    async def _write(self, stream: qg.Stream) -> None:
        while True:
            await stream.write(bytes(65536))

    async def handshakes(self) -> None:
        while True:
            async with qg.Node(qg.Identity.generate()) as node:
                began = time.monotonic()
                try:
                    async with asyncio.timeout(5):
                        await node.connect(self._address)
                except (TimeoutError, qg.QGError):
                    self.handshakes_s.append(float("inf"))
                else:
                    self.handshakes_s.append(time.monotonic() - began)
            await asyncio.sleep(0.05)


@asynccontextmanager
async def at_work(*works: Any) -> AsyncIterator[None]:
    """Have these run meanwhile; one that fails is an error."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def most_watched(node: Target, most: dict[str, int]) -> None:
    """Keep the most memory and descriptors that a node was seen to hold."""
    while True:
        most["resident_len"] = max(most.get("resident_len", 0), node.resident_len())
        most["n_descriptors"] = max(most.get("n_descriptors", 0), node.n_descriptors())
        await asyncio.sleep(0.05)


def refusals(node: Target, before: dict[str, int]) -> dict[str, int]:
    counters = node.status()["counters"]
    grown = {name: n - before.get(name, 0) for name, n in counters.items() if name not in IN_ORDER}
    return {name: n for name, n in grown.items() if n}


async def counted(node: Target, counter: str, before: dict[str, int], patience_s: float) -> None:
    """Wait until the node has got to the last of what was done to it, or seems to count none of it."""
    for _ in range(int(patience_s * 10)):
        if counter in refusals(node, before):
            break
        await asyncio.sleep(0.1)


async def settled(node: Target, n_before: int) -> int:
    """Descriptors more than before, once those of the attack have had time to go."""
    for _ in range(200):
        if node.n_descriptors() <= n_before:
            return 0
        await asyncio.sleep(0.1)
    return node.n_descriptors() - n_before


async def attacked(
    node: Target, folder: Path, name: str, n: int, honest: Honest | None, patience_s: float
) -> dict[str, Any]:
    """Attack a node; what was seen."""
    attack, doing = ATTACKS[name], name
    if patience_s < PATIENCE_S and not attack.off:
        doing = attack.instead
    network = 64 + list(ATTACKS).index(name)
    order = {"attack": doing, "n": n, "rate": attack.rate, "patience_s": patience_s}
    order |= {"to": str(node.address), "network": network, "crowd": attack.crowd}
    before, n_before, resident_before = node.status()["counters"], node.n_descriptors(), node.resident_len()
    most: dict[str, int] = {}
    works = [most_watched(node, most)] + ([honest.handshakes()] if honest else [])
    async with attacker(folder, **order) as hostile, at_work(*works):
        n_bytes = honest.n_bytes if honest else 0
        began = time.monotonic()
        tally = await hostile.attack()
        seconds = time.monotonic() - began
        n_bytes = honest.n_bytes - n_bytes if honest else 0
    await counted(node, attack.counter, before, patience_s)
    leaked = await settled(node, n_before)
    return {
        "attack": name, "tally": tally, "refusals": refusals(node, before), "bytes_per_s": n_bytes / seconds,
        "memory_growth": max(0, most["resident_len"] - resident_before), "descriptors_leaked": leaked,
        "descriptors_most": most["n_descriptors"] - n_before,
    }  # fmt: skip


async def discarded(folder: Path, tally: list[float], honest: Honest) -> float:
    """The speed of the transfer while the same volume goes to a server that discards it on the node's core."""
    with process(str(ROOT / "tools" / "discard.py"), core=NODE_CORE, log=folder / "discard.log") as server:
        assert server.stdout is not None
        to = f"127.0.0.1:{server.stdout.readline().strip()}"
        async with attacker(folder, attack="volume", to=to, n=0, rate=1, tally=tally) as hostile:
            n_bytes, began = honest.n_bytes, time.monotonic()
            await hostile.attack()
            return (honest.n_bytes - n_bytes) / (time.monotonic() - began)


def failures(seen: dict[str, Any]) -> list[str]:
    """What of the promises does not hold."""
    attack = ATTACKS[seen["attack"]]
    found = []
    if not seen["refusals"].get(attack.counter):
        found.append(f"nothing counted as {attack.counter}")
    if seen["memory_growth"] > MEMORY_MAX:
        found.append(f"memory grew by {seen['memory_growth'] / MIB:.0f} MiB")
    if seen["descriptors_leaked"]:
        found.append(f"{seen['descriptors_leaked']} descriptors leaked")
    if seen["attack"] in STRANGERS and seen["descriptors_most"] > DESCRIPTORS_MAX:
        found.append(f"{seen['descriptors_most']} descriptors held")
    if seen.get("handshakes_share", 1) < HANDSHAKES_MIN:
        found.append(f"{seen['handshakes_share']:.1%} of handshakes within {HANDSHAKE_S:.0f} s")
    if seen.get("rate_share", 1) < RATE_MIN:
        found.append(f"the transfer kept {seen['rate_share']:.0%} of its rate")
    return found


async def measured(name: str) -> dict[str, Any]:
    """The long form of one attack, with what honest peers notice."""
    with tempfile.TemporaryDirectory() as made, target(Path(made), HONEST) as node:
        honest = Honest(node.address)
        async with at_work(honest.transfer()):
            await asyncio.sleep(1)
            seen = await attacked(node, Path(made), name, ATTACKS[name].n, honest, PATIENCE_S)
            alone = await discarded(Path(made), seen["tally"], honest)
    in_time = sum(s <= HANDSHAKE_S for s in honest.handshakes_s)
    seen["n_handshakes"] = len(honest.handshakes_s)
    seen["handshakes_share"] = in_time / max(1, len(honest.handshakes_s))
    seen["rate_share"] = seen["bytes_per_s"] / alone
    return seen


async def controlled(name: str, n: int) -> dict[str, Any]:
    """The same attack without the limit that it tests."""
    with tempfile.TemporaryDirectory() as made, target(Path(made), ATTACKS[name].off) as node:
        return await attacked(node, Path(made), name, n, None, PATIENCE_OFF_S)


async def quick(names: list[str]) -> list[dict[str, Any]]:
    """All attacks in few seconds, one after the other on one node, and their controls on another."""
    off: dict[str, dict[str, int]] = {}
    for attack in ATTACKS.values():
        for table, settings in attack.off.items():
            off.setdefault(table, {}).update(settings)

    async def run(settings: dict[str, dict[str, int]], patience_s: float) -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory() as made, target(Path(made), settings) as node:
            return [await attacked(node, Path(made), name, ATTACKS[name].n_quick, None, patience_s) for name in names]

    seen, controls = await asyncio.gather(run({}, PATIENCE_S), run(off, PATIENCE_OFF_S))
    for control in controls:
        next(each for each in seen if each["attack"] == control["attack"])["control"] = control
    return seen


async def full(names: list[str]) -> list[dict[str, Any]]:
    seen = []
    for name in names:
        seen.append(await measured(name))
        seen[-1]["control"] = await controlled(name, ATTACKS[name].n_quick)
        row_print(seen[-1])
    return seen


def judged(seen: dict[str, Any]) -> dict[str, Any]:
    """What was seen of an attack, with what failed; of its control something has to."""
    control = failures(seen.pop("control"))
    found = failures(seen)
    if not control:
        found.append("the control holds without the limit")
    return seen | {"control": control, "failures": found}


def row_print(seen: dict[str, Any]) -> None:
    found = failures(seen)
    print(
        f"{seen['attack']:16} {int(seen['tally'][0]):6} "
        f"{seen.get('handshakes_share', float('nan')):8.1%} {seen['memory_growth'] / MIB:7.1f} MiB "
        f"{seen.get('rate_share', float('nan')):6.0%}  {'; '.join(found) or 'holds'}",
        flush=True, file=sys.stderr,
    )  # fmt: skip


def attacks_run(names: list[str], is_quick: bool) -> list[dict[str, Any]]:
    """What was seen of each attack, and under `failures` what did not hold."""
    if not is_quick:
        os.sched_setaffinity(0, {OTHERS_CORE})
    return [judged(seen) for seen in asyncio.run((quick if is_quick else full)(names))]


NODE_CORE, OTHERS_CORE = (sorted(os.sched_getaffinity(0)) * 2)[:2]


def main() -> int:
    parser = argparse.ArgumentParser(description="Attack a node on loopback.")
    parser.add_argument("--quick", action="store_true", help="small, and without the figures of honest peers")
    parser.add_argument("--json", action="store_true", help="one object with all figures on the last line")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=", ".join(ATTACKS))
    arguments = parser.parse_args()
    names = arguments.attacks or list(ATTACKS)
    if unknown := set(names) - set(ATTACKS):
        parser.error(f"no such attack: {', '.join(sorted(unknown))}")
    rows = attacks_run(names, arguments.quick)
    if arguments.json:
        print(json.dumps({"attacks": rows, "failed": sum(bool(row["failures"]) for row in rows)}))
    else:
        for row in rows:
            row_print(row)
    return int(any(row["failures"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
