# SPDX-License-Identifier: MIT
"""What runs over circuits: transfers whose every byte is checked, and the ends that they come to."""

import random

from qg._core import runtime

UUID = bytes(range(16))
CHUNK_LEN = 65536
CHAT_LEN = 64
QUEUE_LEN = 262144  # bytes that a writer gives its machine at once
BYTES = 0
EXPEDITED, NORMAL = 0, 1


def payload(seed, number, direction, length):
    return random.Random(f"{seed} {number} {direction}").randbytes(length)


class Flow:
    """One end of a stream: what it sends, and what it expects."""

    def __init__(self, transfer, host, id, side):
        self.transfer, self.host, self.id, self.side = transfer, host, id, side
        self.outgoing, self.expected = transfer.payloads[side], transfer.payloads[1 - side]
        self.written = self.n_queued = self.n_read = self.n_unused = 0
        self.read_delay_ns = transfer.read_delays_ns[side]
        self.is_paused = side == 1 and not transfer.reads
        self.state = "open"

    def fill(self):
        """Write while there is room in the machine's queue."""
        machine, now_ns = self.host.machine, self.host.world.now_ns
        while self.written < len(self.outgoing) and self.n_queued < QUEUE_LEN:
            part = self.outgoing[self.written : self.written + CHUNK_LEN]
            self.written += len(part)
            self.n_queued += len(part)
            machine.write(self.id, part, now_ns)
            if self.written == len(self.outgoing):
                machine.finish(self.id, now_ns)
        if not self.outgoing and self.written == 0:
            self.written = 1
            machine.finish(self.id, now_ns)

    def sent(self, n):
        self.n_queued -= n
        self.fill()

    def data(self, data):
        if self.expected[self.n_read : self.n_read + len(data)] != data:
            self.transfer.wrong.append(f"side {self.side}: other bytes than were sent, at {self.n_read}")
        self.n_read += len(data)
        if self.is_paused:
            self.n_unused += len(data)
        elif self.read_delay_ns:
            self.host.world.after(self.read_delay_ns, self.host.tell, "used", self.id, len(data))
        else:
            self.host.machine.used(self.id, len(data), self.host.world.now_ns)

    def fin(self):
        if self.n_read != len(self.expected):
            self.transfer.wrong.append(f"side {self.side}: FIN at {self.n_read} of {len(self.expected)}")
        self.state = "finished"

    def end(self, state, reason=0):
        self.state = state
        self.transfer.ended(self.side, state, reason)

    def write(self):
        """Begin to write, where the transfer did not from the beginning."""
        self.fill()
        self.host.settle()


class Transfer:
    """A circuit, and a stream over it with bytes both ways."""

    def __init__(self, application, source, hops, up_len, down_len, *, read_delays_ns=(0, 0), reads=True, writes=True):
        self.application, self.source, self.hops = application, source, hops
        self.number = application.n_transfers = application.n_transfers + 1
        seed = application.world.seed
        self.payloads = (payload(seed, self.number, 0, up_len), payload(seed, self.number, 1, down_len))
        self.read_delays_ns = read_delays_ns
        self.reads = reads  # does the target?
        self.writes = writes  # does the source, from the beginning?
        self.flows = [None, None]  # at the source, at the target
        self.channel = None
        self.state = "new"  # building, running, done, failed
        self.reason = 0
        self.hop_idx = None  # of a circuit that could not be built
        self.status = 0
        self.wrong = []  # what must never be
        self.closes = True  # the session goes with the stream
        self.priority = NORMAL

    def start(self):
        self.state = "building"
        self.application.n_open += 1
        self.start_ns = self.application.world.now_ns
        self.source.tell("connect", self.number, [hop.hop for hop in self.hops])

    def flow(self, host, id, side):
        return Flow(self, host, id, side)

    def ended(self, side, state, reason):
        if side == 0 and self.state == "running":
            is_complete = state == "done" and self.flows[0].n_read == len(self.payloads[1])
            self.settle("done" if is_complete else "failed", reason)
            self.leave()

    def settle(self, state, reason=0):
        """It has ended: done, failed, or gone with its source."""
        self.state, self.reason = state, reason
        self.application.n_open -= 1
        self.end_ns = self.application.world.now_ns

    def leave(self):
        """Close the session with the target, and with it the circuit."""
        if self.closes and len(self.hops) > 1 and self.channel in self.source.channels:
            self.source.machine.close_peer(self.channel, 0, self.application.world.now_ns)

    def __repr__(self):
        path = " ".join(hop.ip for hop in self.hops)
        return f"<{self.number} {self.source.ip} -> {path}: {self.state} reason {self.reason} hop {self.hop_idx}>"


class ChatFlow:
    """One end of a chat: the source asks and waits, the target gives back what comes."""

    def __init__(self, chat, host, id, side):
        self.chat, self.host, self.id, self.side = chat, host, id, side
        self.n_awaited = 0
        self.sent_ns = None

    def fill(self):
        if self.side == 0:
            self.chat.wait(self)

    def ask(self):
        world = self.host.world
        if self.chat.is_over:
            return
        self.sent_ns, self.n_awaited = world.now_ns, CHAT_LEN
        self.host.tell("write", self.id, bytes(CHAT_LEN))

    def data(self, data):
        machine, now_ns = self.host.machine, self.host.world.now_ns
        machine.used(self.id, len(data), now_ns)
        if self.side == 1:
            machine.write(self.id, data, now_ns)
            return
        self.n_awaited -= len(data)
        if self.n_awaited == 0:
            self.chat.round_trips_ns.append(now_ns - self.sent_ns)
            self.chat.wait(self)

    def sent(self, n):
        pass

    def fin(self):
        if self.side == 1:
            self.host.machine.finish(self.id, self.host.world.now_ns)

    def end(self, state, reason=0):
        self.chat.ended(self.side, state, reason)


class Chat(Transfer):
    """A circuit on which a short question is asked and answered, again and again; a pause of `gap_ns` on average."""

    def __init__(self, application, source, hops, gap_ns):
        super().__init__(application, source, hops, 0, 0)
        self.gap_ns = gap_ns
        self.round_trips_ns = []
        self.is_over = False
        self.random = random.Random(f"{application.world.seed} chat {self.number}")

    def flow(self, host, id, side):
        return ChatFlow(self, host, id, side)

    def wait(self, flow):
        flow.host.world.after(int(self.random.uniform(0, 2 * self.gap_ns)), flow.ask)

    def stop(self):
        self.is_over = True
        self.source.tell("finish", self.flows[0].id)

    def ended(self, side, state, reason):
        if side == 0 and self.state == "running":
            self.settle("done" if state == "done" else "failed", reason)
            self.leave()


class Application:
    """The transfers of a world, and what every host does about them."""

    def __init__(self, world):
        self.world = world
        self.transfers = {}
        self.n_transfers = 0
        self.n_open = 0

    def install(self, host):
        """Let a host take part."""
        host.channels = {}  # channel -> Transfer, where we dialled for one
        host.flows = {}
        host.is_stopped = False
        host.on_event = {
            runtime.EV_PEER_UP: lambda channel, request, *rest: self._up(host, channel, request),
            runtime.EV_PEER_DOWN: lambda channel, reason, *rest: self._down(host, channel, reason),
            runtime.EV_CONNECT_FAILED: self._failed,
            runtime.EV_STREAM_OPEN: lambda flow, channel, kind, priority, data: self._open(host, flow, data),
            runtime.EV_STREAM_DATA: lambda flow, data: self._flow(host, flow, "data", data),
            runtime.EV_STREAM_SENT: lambda flow, n: self._flow(host, flow, "sent", n),
            runtime.EV_STREAM_FIN: lambda flow: self._flow(host, flow, "fin"),
            runtime.EV_STREAM_DONE: lambda flow, *_: self._ended(host, flow, "done", 0),
            runtime.EV_STREAM_RESET: lambda flow, reason, *_: self._ended(host, flow, "reset", reason),
            runtime.EV_STOPPED: lambda *rest: setattr(host, "is_stopped", True),
        }

    def transfer(self, source, hops, up_len=1000, down_len=1000, **options):
        return self.add(Transfer(self, source, hops, up_len, down_len, **options))

    def chat(self, source, hops, gap_ns):
        return self.add(Chat(self, source, hops, gap_ns))

    def add(self, transfer):
        self.transfers[transfer.number] = transfer
        return transfer

    @property
    def is_settled(self):
        """Whether every transfer that was started has ended."""
        return self.n_open == 0

    def _up(self, host, channel, request):
        transfer = self.transfers.get(request)
        if transfer is None or transfer.source is not host:
            return
        if transfer.state != "building":
            transfer.wrong.append(f"it came up when it was {transfer.state}")
            return
        host.channels[channel] = transfer
        self.stream_open(transfer, channel)

    def stream_open(self, transfer, channel):
        """Let a transfer begin on a session that is there."""
        host = transfer.source
        transfer.channel = channel
        transfer.state = "running"
        transfer.up_ns = self.world.now_ns
        flow = transfer.flows[0] = host.flows[transfer.number] = transfer.flow(host, transfer.number, 0)
        opening = UUID + transfer.number.to_bytes(8, "big")
        host.machine.open(flow.id, channel, BYTES, transfer.priority, opening, self.world.now_ns)
        if transfer.writes:
            flow.fill()

    def _down(self, host, channel, reason):
        host.channels.pop(channel, None)

    def _failed(self, request, reason, hop_idx, status, *rest):
        transfer = self.transfers[request]
        if transfer.state != "building":
            transfer.wrong.append(f"it failed when it was {transfer.state}")
            return
        transfer.hop_idx, transfer.status = hop_idx, status
        transfer.settle("failed", reason)

    def _open(self, host, id, data):
        transfer = self.transfers[int.from_bytes(data[16:], "big")]
        flow = transfer.flows[1] = host.flows[id] = transfer.flow(host, id, 1)
        host.machine.accept(id, self.world.now_ns)
        flow.fill()

    def _flow(self, host, id, what, *arguments):
        getattr(host.flows[id], what)(*arguments)

    def _ended(self, host, id, state, reason):
        host.flows.pop(id).end(state, reason)
