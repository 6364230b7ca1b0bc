# SPDX-License-Identifier: MIT
"""Two sides that programs are tried over: one where they run, and one where the targets are, behind the exit.

Where the system allows it each side is a network namespace. The exit's address leads from one to the other; targets are
at an address to which the first side has no route, and their name is known on the second side only. Elsewhere both are
this machine's loopback.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

LIMIT_S = 900  # no process of a run lasts longer
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
# Programs may be of another Python: they are given no library of this one.
_ITS_OWN = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_SOURCES = [path for path in sys.path if path and not path.startswith(_ITS_OWN) and not path.endswith(".zip")]
_ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(_SOURCES), "PATH": PATH}
_TOOLS = ("ip", "unshare", "nsenter", "mount")
_FREE = "import socket, sys; print(socket.create_server((sys.argv[1], 0)).getsockname()[1])"
_LINK = {"here": "10.77.0.1", "there": "10.77.0.2"}


@contextmanager
def running(command, **options):
    """Run a command in a process group of its own, and kill the group in the end."""
    limited = ["timeout", "--kill-after=1", str(LIMIT_S), *map(str, command)]
    process = subprocess.Popen(limited, start_new_session=True, text=True, **options)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


class Side:
    """Where processes run: a network namespace, as root of the machine, or the machine itself."""

    def __init__(self, folder, stack, pid=None):
        self.folder = folder
        self._stack = stack
        self._pid = pid  # of a process that is in the namespaces; None for the machine itself

    def command(self, *words):
        """Give the command that runs another one on this side."""
        if self._pid is None:
            return [*map(str, words)]
        return [*_entering(self._pid), *map(str, words)]

    def environment(self, **more):
        """What programs are told: no proxy and no home but those of the test."""
        kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        homes = {"HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self.folder), "LC_ALL": "C.UTF-8"}
        return kept | _ENVIRONMENT | homes | more

    def run(self, *words, timeout_s=60, **environment):
        """Run a command to its end."""
        return subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )

    def start(self, *words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **environment):
        """Run a command in the background until the sides are closed."""
        log = self._stack.enter_context((self.folder / "log").open("a"))
        started = running(
            self.command(*words),
            cwd=self.folder,
            env=self.environment(**environment),
            stdin=stdin,
            stdout=stdout or log,
            stderr=log,
        )
        return self._stack.enter_context(started)

    def serve(self, host, port, *words, **environment):
        """Run a server in the background; it listens when this returns."""
        self.start(*words, stdout=None, **environment)
        tried = self.run(sys.executable, Path(__file__).with_name("probe.py"), host, port)
        assert tried.returncode == 0, f"{words} does not listen on {host}:{port}: {(self.folder / 'log').read_text()}"

    def port_free(self, host):
        """Give a port that nobody uses."""
        return int(self.run(sys.executable, "-c", _FREE, host).stdout)


class Ground:
    """Both sides, and what stands on them: an exit, three relays, and a proxy for each way."""

    def __init__(self, folder, stack):
        self._stack = stack
        folders = [folder / name for name in ("here", "there")]
        for each in folders:
            each.mkdir()
        self.folder = folder
        pids = _namespaces_make(stack, folder)
        self.is_apart = pids is not None
        self.here, self.there = map(Side, folders, (stack, stack), pids or (None, None))
        self.host, self.name = ("198.18.0.1", "target.example") if self.is_apart else ("127.0.0.1", "localhost")
        self.network = folder / "members.net"
        _qg(self.here, "keygen", "--network", self.network)
        self.exit = Station(self, f"allow {self.host}")
        self._proxies = {}

    @property
    def exit_host(self):
        return _LINK["there"] if self.is_apart else "127.0.0.1"

    def proxy(self, way):
        """Give HOST:PORT of the proxy whose connections go this way: direct, relays, or stopped (its exit is)."""
        if way not in self._proxies:
            station = Station(self, f"allow {self.host}") if way == "stopped" else self.exit
            via = [word for relay in self._relays() for word in ("--via", relay)] if way == "relays" else []
            arguments = ("socks", "--listen", "127.0.0.1:0", "--network", self.network, *via, station.address)
            process = self.here.start(sys.executable, "-m", "qg", *arguments)
            self._proxies[way] = _line(process).split()[-1]
            if way == "stopped":
                station.stop()
        return self._proxies[way]

    def _relays(self):
        hosts = [f"127.{net}.0.1" for net in (10, 11, 12)]
        ports = [self.here.port_free(host) for host in hosts]
        exit_port = int(self.exit.address.split("?")[0].rpartition(":")[2].rstrip("/"))
        config = self.folder / "relay.toml"
        targets = ["127.0.0.0/8", f"{self.exit_host}/32"]
        config.write_text(f"[relay]\ntargets = {json.dumps(targets)}\nports = {json.dumps([*ports, exit_port])}\n")
        for idx, (host, port) in enumerate(zip(hosts, ports, strict=True)):
            options = ("--network", self.network, "--relay", "members", "--control", f"relay{idx}.sock", "-c", config)
            process = self.here.start(sys.executable, "-m", "qg", "run", "--listen", f"tcp://{host}:{port}", *options)
            yield _line(process)


class Station:
    """A node with an exit in a process of its own, on the far side, and what it counts for each target."""

    def __init__(self, ground, *rules):
        script = Path(__file__).with_name("station.py")
        self._process = ground.there.start(
            sys.executable, script, ground.network, f"tcp://{ground.exit_host}:0", *rules, stdin=subprocess.PIPE
        )
        self.address = _line(self._process)

    def counts(self):
        """Give (all counters, {HOST:PORT of a target: [connections, bytes out, bytes in]}, streams that are open)."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return tuple(json.loads(_line(self._process)))

    def settled(self):
        """The same once no stream is open: what an earlier program did is counted."""
        until_s = time.monotonic() + 30
        while (counts := self.counts())[2]:
            assert time.monotonic() < until_s, counts
            time.sleep(0.05)
        return counts

    def stop(self):
        """End the node, and wait until it has."""
        self._process.stdin.close()
        assert self._process.wait(30) == 0


@contextmanager
def ground(folder):
    """Both sides with their exit; afterwards no process of theirs is left, and so no namespace."""
    with ExitStack() as stack:
        yield Ground(folder, stack)
    until_s = time.monotonic() + 20  # the system takes a moment to end what was killed
    while left := processes_of(folder):
        assert time.monotonic() < until_s, left
        time.sleep(0.01)


def processes_of(folder):
    """Give the processes that have been started on the sides in this folder, by their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if os.fsencode(f"{folder}/") in entry.read_bytes():
                found.append(entry.parent.name)
    return found


def _namespaces_make(stack, folder):
    """Make two namespaces with a link between them; gives a process of each, or None where that is denied."""
    if os.geteuid() or not all(shutil.which(word, path=PATH) for word in _TOOLS):
        return None
    pids, environment = [], os.environ | _ENVIRONMENT | {"HOME": str(folder / "there")}
    for _ in range(2):
        # `cat` waits for an end of input that comes whatever ends this process, and the namespace goes with it.
        words = ["unshare", "--net", "--mount", "sh", "-c", "echo $$; exec cat"]
        holder = stack.enter_context(running(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment))
        pid = holder.stdout.readline()
        if not pid:
            return None
        pids.append(int(pid))
    here, there = pids
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost\n198.18.0.1 target.example\n")
    steps = [
        (here, f"ip link add qg0 type veth peer name qg0 netns {there}"),
        (here, f"ip address add {_LINK['here']}/24 dev qg0"),
        (there, f"ip address add {_LINK['there']}/24 dev qg0"),
        *((pid, f"ip link set {device} up") for pid in pids for device in ("lo", "qg0")),
        (there, "ip address add 198.18.0.1/32 dev lo"),
        (there, f"mount --bind {hosts} /etc/hosts"),
    ]
    for pid, step in steps:
        if subprocess.run([*_entering(pid), *step.split()], env=environment, capture_output=True).returncode:
            return None
    return pids


def _entering(pid):
    return ["nsenter", f"--net=/proc/{pid}/ns/net", f"--mount=/proc/{pid}/ns/mnt", "--wd=.", "--"]


def _line(process):
    line = process.stdout.readline()
    assert line, f"it ended with {process.wait(30)}: {process.args}"
    return line.rstrip("\n")


def _qg(side, *arguments):
    done = side.run(sys.executable, "-m", "qg", *arguments)
    assert done.returncode == 0, done.stderr
