# SPDX-License-Identifier: MIT
"""A random graph, circuits over it, and everything that can go wrong, all from one seed. `tools/dev sim` runs it.

What must hold: no byte is lost, moved or altered end to end; every transfer ends; memory stays within its bounds; and
nothing is left of any circuit.
"""

import argparse
import collections
import secrets
import sys
import time

from core.endpoint_help import CANCELLED
from sim.graph import MIB, RELAYS_MAX, Graph
from sim.world import MS_NS, SECOND_NS, World

N_HOSTS = 200
DEGREE = 8
START_GAP_NS = 50 * MS_NS  # between two circuits, on average
RELAY_MEMORY_LEN = 2 * MIB
BLOCKS_LEN_MAX = 4 * MIB
LATEST_END_S = 700  # of all streams of circuits whose source has gone: idle time, keys, deadlines
# What happens at intervals of so many seconds, on average.
FAULTS = {
    "flip": 0.5,
    "cut": 0.5,
    "tamper": 0.5,
    "cancel": 1,
    "reset": 1,
    "hang_up": 1,
    "kill": 4,
    "leave": 5,
    "swallow": 10,
    "vanish": 10,
    "partition": 30,
}
SKEW_MAX_S = 40  # two of them, and a source that rounds its time to 30 s, stay within the window of 120 s
SHORTAGES = (
    {"memory_len": 100_000},
    {"memory_len": 400_000},
    {"max_sessions": 4},
    {"max_sessions": 20},
    {"relay_memory_len": 40_000},
    {"peer_pipe_sessions": 1},
    {"max_streams": 1},
)
# What honest machines may find wrong with what they get through such a network.
E_TAG, E_KIND, E_STATE, E_LENGTH, E_CLOCK, E_FULL, E_MEMORY = -3, -5, -9, -12, -13, -32, -33
STATUSES = {
    E_TAG,  # altered, or out of its place
    E_LENGTH,  # the same, where the length of a record was hit
    E_KIND,  # a flight came twice, or out of its place
    E_STATE,  # the same
    E_CLOCK,  # a flight was held up by a partition
    E_FULL,
    E_MEMORY,
}
TAMPERS = ("flip", "drop", "repeat", "swap")


class Net(World):
    """Every third path is a slow one."""

    def path_draw(self, one, other):
        rate = 0 if self.random.random() < 0.66 else int(10 ** self.random.uniform(5, 7))
        return self.random.randint(1, 40) * MS_NS, rate, 16384


# What some hosts send beside what they are asked to, in a run with cover.
COVERS = (
    {"mode": 1, "interval_s": 2, "records": (0, 20), "on_circuits": True},
    {"mode": 2, "per_s": 50, "size": 8000, "on_circuits": True},
    {"mode": 3, "per_s": 20, "per_s_max": 200, "size": 8000, "budget_len": 65_536 * MIB},
)


class Trial(Graph):
    """A graph in which hosts know `DEGREE` others each, and circuits are random walks."""

    def __init__(self, seed, n_circuits, faults=FAULTS, covers=()):
        super().__init__(seed, 0, relay_memory_len=RELAY_MEMORY_LEN, world=Net)
        self.n_circuits = n_circuits
        self.counts = collections.Counter()
        self.is_quiet = False  # nothing new goes wrong
        self.most = collections.Counter()
        self.is_calm = not faults
        self.covers = covers
        self.rekey_s = self.random.choice((2, 600))  # of all: who has 600 takes 2 for a flood
        for idx in range(min(N_HOSTS, 20 + n_circuits // 5)):
            self.hosts.append(self.host_draw(idx))
        self.known = {host.ip: self.random.sample(self.hosts, DEGREE + 1) for host in self.hosts}
        for number in range(n_circuits):
            self.world.after(number * START_GAP_NS, self.walk)
        for what, interval_s in faults.items():
            self.later(interval_s, what)
        self.world.after(SECOND_NS, self.look)

    def host_draw(self, idx):
        """One host in five is short of something, unless it is a calm run."""
        options = {"rekey_s": self.rekey_s, "epoch_s": self.random.choice((1, 120))}
        if not self.is_calm and self.random.random() < 0.2:
            options |= self.random.choice(SHORTAGES)
        if self.covers and self.random.random() < 0.3:
            options["cover"] = self.random.choice(self.covers)
        return self.host(idx, skew_s=self.random.randint(-SKEW_MAX_S, SKEW_MAX_S), **options)

    def later(self, interval_s, what):
        self.world.after(int(self.random.expovariate(1 / interval_s) * SECOND_NS), self.happen, interval_s, what)

    def happen(self, interval_s, what):
        if not self.is_quiet:
            getattr(self, what)()
            self.counts[what] += 1
            self.later(interval_s, what)

    # Circuits

    def walk(self):
        """Start a transfer over a random path from a host that runs."""
        source = self.random.choice([host for host in self.hosts if host.is_up])
        hops, at = [], source
        for _ in range(self.random.randint(2, RELAYS_MAX + 1)):
            onward = [each for each in map(self.latest, self.known[at.ip]) if each not in hops and each is not source]
            if not onward:
                break
            at = self.random.choice(onward)
            hops.append(at)
        delays = [self.random.choice((0, 0, 0, 5, 200)) * MS_NS for _ in range(2)]
        lengths = [int(10 ** self.random.uniform(0, 5.5)) if self.random.random() < 0.9 else 0 for _ in range(2)]
        self.circuit(source, hops, *lengths, read_delays_ns=delays)

    def latest(self, host):
        """The host that has its address now."""
        return self.world.hosts[host.ip]

    # Faults

    def wire(self):
        return self.random.choice(list(self.world.wires.values()) or [None])

    def flip(self):
        wire = self.wire()
        if wire is not None:
            wire.flip(self.random.randrange(2), self.random.randrange(20000))

    def cut(self):
        wire = self.wire()
        if wire is not None:
            wire.cut()

    def tamper(self):
        host = self.random.choice([host for host in self.hosts if host.is_up])
        host.machine.tamper(self.random.choice(TAMPERS), self.random.randrange(20), self.random.random() < 0.5)

    def swallow(self):
        """A relay keeps what it gets, for ten seconds."""
        host = self.random.choice([host for host in self.hosts if host.is_up])
        host.machine.tamper("swallow", 0, self.random.random() < 0.5)
        self.world.after(10 * SECOND_NS, host.honest)

    def transfer_draw(self, state):
        """A transfer in this state; None when there is none."""
        found = [each for each in self.application.transfers.values() if each.state == state]
        return self.random.choice(found) if found else None

    def cancel(self):
        """A source wants a circuit no more that it is building."""
        transfer = self.transfer_draw("building")
        if transfer is not None:
            transfer.settle("cancelled")
            transfer.source.tell("cancel", transfer.number)

    def reset(self):
        """The application at one end resets the stream."""
        transfer = self.transfer_draw("running")
        flow = transfer and transfer.flows[self.random.randrange(2)]
        if flow and flow.host.flows.pop(flow.id, None) is not None:
            flow.host.tell("reset", flow.id, CANCELLED)
            if flow.side == 0:
                transfer.settle("cancelled")
                transfer.leave()
                transfer.source.settle()

    def hang_up(self):
        """A source closes the session with the target."""
        transfer = self.transfer_draw("running")
        if transfer is not None:
            transfer.source.tell("close_peer", transfer.channel, 0)

    def leave(self):
        """A host says goodbye; another one comes in its place."""
        host = self.random.choice([host for host in self.hosts if host.is_up])
        host.tell("stop")
        self.world.after(3 * SECOND_NS, self.left, host)

    def left(self, host):
        if host.is_up:
            self.replace(host, host.kill)

    def kill(self):
        self.end_host("kill")

    def vanish(self):
        self.end_host("vanish")

    def end_host(self, how):
        """End a host; a new one with its identity comes some time later."""
        host = self.random.choice([host for host in self.hosts if host.is_up])
        self.replace(host, getattr(host, how))

    def replace(self, host, end):
        end()
        self.hosts.remove(host)
        self.gone.append(host)
        for transfer in self.application.transfers.values():
            if transfer.source is host and transfer.state in ("building", "running"):
                transfer.settle("gone")
        self.world.after(int(self.random.uniform(0.1, 30) * SECOND_NS), self.begin_host, host)

    def begin_host(self, host):
        _, low, high, _ = map(int, host.ip.split("."))
        self.hosts.append(self.host_draw(250 * high + low))

    def partition(self):
        """Two groups, for a time that links may survive or not."""
        hosts = [each.ip for each in self.hosts]
        self.random.shuffle(hosts)
        self.world.partition(hosts[: len(hosts) // 2], hosts[len(hosts) // 2 :])
        self.world.after(int(self.random.choice((0.5, 3, 10, 75)) * SECOND_NS), self.world.partition)

    # What must hold

    def look(self):
        """Once a second: is every machine within its bounds?"""
        for host in self.hosts:
            held_len = host.machine.relay_held_len
            blocks_len = host.machine.held[1]
            self.most["relay_held_len"] = max(self.most["relay_held_len"], held_len)
            self.most["blocks_len"] = max(self.most["blocks_len"], blocks_len)
            assert held_len <= RELAY_MEMORY_LEN + 70000, (host, held_len)
            assert blocks_len <= BLOCKS_LEN_MAX, (host, blocks_len)
        if not self.is_quiet:
            self.world.after(SECOND_NS, self.look)

    @property
    def is_drained(self):
        """Nothing of any circuit is known to any host."""
        return all(host.machine.n_circuits == 0 and not host.flows for host in self.hosts)

    def complete(self):
        """Run to the end and check it; how many transfers ended how."""
        started = self.world.run(lambda: self.application.n_transfers == self.n_circuits)
        assert started
        self.run()
        self.is_quiet = True
        self.world.partition()
        assert self.world.run(lambda: self.is_drained, LATEST_END_S), self.lingering()
        self.close()
        for host in self.gone:
            assert host.machine.held == (0, 0, 0, 0), (host, host.machine.held)
        assert set(self.statuses()) <= (set() if self.is_calm else STATUSES), self.statuses()
        return collections.Counter(each.state for each in self.application.transfers.values())

    def statuses(self):
        """What all machines have found wrong, and how often."""
        counts = collections.Counter()
        for host in self.hosts + self.gone:
            counts.update(host.machine.status()["by_status"])
        return counts

    def lingering(self):
        return [(host, host.machine.n_circuits, dict(host.flows)) for host in self.hosts
                if host.machine.n_circuits or host.flows]  # fmt: skip


def trial_run(seed, n_circuits, faults=FAULTS, covers=()):
    """Run one; what it prints of a failure repeats it."""
    began_s = time.process_time()
    trial = None
    try:
        trial = Trial(seed, n_circuits, faults, covers)
        ends = trial.complete()
    except BaseException:
        covered = " --covered" if covers else ""
        print(f"repeat this with: tools/dev sim --seed {seed} --circuits {n_circuits}{covered}", file=sys.stderr)
        raise
    spent_s = time.process_time() - began_s
    virtual_s = (trial.world.now_ns - trial.start_ns) / SECOND_NS
    print(f"seed {seed}: {n_circuits} circuits among {len(trial.hosts)} nodes, {dict(ends)}")
    print(f"  {n_circuits / spent_s:.0f} circuits per second of CPU, {virtual_s:.0f} s in {spent_s:.1f} s")
    print(f"  what went wrong: {dict(trial.counts)}; what machines found: {dict(trial.statuses())}")
    print(f"  most at once: {dict(trial.most)}; trace {trial.world.trace}")
    return trial, ends


def main():
    parser = argparse.ArgumentParser(prog="tools/dev sim", description="run circuits over a virtual, hostile network")
    parser.add_argument("--seed", default=None, help="repeat the run that printed this; without it: a new one")
    parser.add_argument("--circuits", type=int, default=10000)
    parser.add_argument("--calm", action="store_true", help="let nothing go wrong")
    parser.add_argument("--covered", action="store_true", help="have some nodes send cover")
    options = parser.parse_args()
    faults, covers = {} if options.calm else FAULTS, COVERS if options.covered else ()
    trial_run(options.seed or secrets.token_hex(4), options.circuits, faults, covers)


if __name__ == "__main__":
    main()
