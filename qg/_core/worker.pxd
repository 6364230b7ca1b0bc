# SPDX-License-Identifier: MIT
"""Workers: engine, loop and transports on one native thread each, with the queues of the border to Python.

The border is two queues per worker. Commands go in through an inbox that the worker empties at once; the loop is woken
only when the inbox was empty. Events come out through a ring; one write to an eventfd, which all workers share, wakes
Python, only when it sleeps. A loop thread never takes the GIL, and Python never touches what a worker owns, except
counters, which are read as they are.

Ids of channels, and of streams, carry the number of their worker from bit WORKER_SHIFT on: so a command finds it.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .bridge cimport shore_t
from .cert cimport cert_cache_t, cert_entry_t
from .channel cimport channel_t, engine_config_t, engine_t, hop_t
from .crypto cimport random_pool_t
from .flow cimport event_t
from .keyfile cimport ring_t
from .guard cimport guard_t
from .handshake cimport local_t
from .loop cimport gate_t, loop_t
from .memory cimport chain_t, pool_t
from .replay cimport replay_t
from .resolve cimport resolve_t
from .roster cimport roster_t
from .secret cimport secret_pool_t
from .service cimport services_t, tally_t
from .shared cimport budget_t, cursors_t
from .tcp cimport tcp_t
from .tunnel cimport tunnels_t
from .wire cimport address_t

cdef enum:
    RING_LEN = 2048             # events that Python has not taken; more stay with the engine
    QUIET_MAX = 16384           # sent bytes that Python need not be woken for: little beside any queue's limit
    DIAL_ADDRESSES_MAX = 8
    CERT_ENTRIES = 1024
    WORKER_SHIFT = 48           # ids stay below 2^56, and short as Python's numbers

cdef enum command_type_t:
    COMMAND_LISTEN = 1
    COMMAND_CONNECT = 2
    COMMAND_CANCEL = 3
    COMMAND_CLOSE_PEER = 4
    COMMAND_PING = 5
    COMMAND_OPEN = 6
    COMMAND_ACCEPT = 7
    COMMAND_WRITE = 8
    COMMAND_FINISH = 9
    COMMAND_RESET = 10
    COMMAND_USED = 11
    COMMAND_STOP = 12
    COMMAND_KILL = 13           # the owner is gone: no goodbye
    COMMAND_RENEW = 14          # new certificates, perhaps a new link key
    COMMAND_LINKS = 15          # how the sessions stand: into `links`, then opens the gate
    COMMAND_DRAIN = 16          # no new connections and circuits
    COMMAND_CONFIGURE = 17      # new settings; EVENT_CONFIGURED follows
    COMMAND_PEERS = 18          # a PEERS frame to a direct peer
    COMMAND_OFFER = 21          # what this node offers, and the SERVICES frame that says what has changed
    COMMAND_SPLICE = 19         # joins a stream with a connection; again for each piece that Python still had
    COMMAND_SERVICE = 20        # a native extender comes, or goes
    COMMAND_ADOPT = 101         # of a worker to another: a connection that it accepted
    COMMAND_TWINS = 102         # a peer runs under a new instance with another worker

cdef enum connect_t:            # reason of COMMAND_CONNECT
    CONNECT_ANY = 0
    CONNECT_NEW = 1             # no existing session may be taken
    CONNECT_HANDED = 2          # by a worker that has no link to one that had one

ctypedef struct command_t:
    command_t *next
    uint64_t id                 # request, channel or flow; TWINS: when the new one was seen, in ns
    uint64_t a                  # OPEN: channel; USED: bytes; CONNECT: isolation; TWINS: instance; ADOPT, SPLICE:
                                # descriptor + 1, 0 once taken; SPLICE: 0, there is a tunnel already
    uint32_t type
    uint32_t reason             # RESET, CLOSE_PEER: reason_t; OPEN: kind | priority << 8; CONNECT: connect_t;
                                # SPLICE: how long nothing may move, in ms
    chain_t chain               # WRITE; SPLICE: what Python has read and not used
    uint32_t n                  # CONNECT: hops; OPEN, PEERS, SERVICE: bytes of data; SPLICE: bytes to give credit for
    hop_t *hops                 # CONNECT: owned
    ring_t *ring                # CONNECT: keys of a throw-away identity, RENEW: of the node, in a slot of the border;
                                # NULL
    engine_config_t *config     # CONFIGURE: owned
    local_t *local              # CONFIGURE: the node as its peers meet it from now on, in a slot of the border; NULL
    address_t address           # LISTEN; ADOPT: where it comes from
    tally_t *tally              # SERVICE: borrowed, also by which service it is; NULL
    uint8_t data[32]            # OPEN, PEERS: what they take, perhaps more; TWINS: PeerID; SERVICE: id, and behind it
                                # the table of one that comes; empty for one that goes

ctypedef struct dial_t:         # a link being dialled: the addresses that are left to try
    dial_t *next
    channel_t *channel
    uint32_t n_addresses
    uint32_t address_idx
    uint64_t next_ns            # when the address being tried is given up; NEVER for the last one
    address_t addresses[DIAL_ADDRESSES_MAX]
    uint8_t has_failed          # no address is left; told to the engine on the next turn

ctypedef struct event_ring_t:
    cursors_t at
    event_t *events             # RING_LEN, owned

ctypedef struct link_row_t:     # how a session stands
    uint64_t channel
    uint64_t in_len             # on its carrier
    uint64_t out_len
    uint64_t cover_len          # of out_len, what says nothing
    uint64_t generation         # full key exchanges since the handshake

ctypedef struct link_rows_t:
    uint32_t n
    link_row_t rows[1]          # n of them

ctypedef struct node_t:         # what the workers of one node share
    worker_t *workers           # n_workers of them, owned
    uint32_t n_workers
    int event_fd                # written to wake Python; owned by Python
    uint64_t is_asleep          # bell: Python waits for the descriptor
    void *spent                 # inbox of wiped slots that go back to the border
    guard_t guard               # of all, with a lock inside
    pool_t guard_pool           # under that lock
    roster_t roster             # with a lock inside
    replay_t replay             # atomic slots
    budget_t memory             # of the workers' pools
    budget_t unread             # of what was received and not consumed
    budget_t relayed            # of what is held for circuits

ctypedef struct worker_t:
    node_t *node                # borrowed
    uint32_t idx
    loop_t loop
    tcp_t tcp
    tunnels_t tunnels
    services_t services
    resolve_t resolve
    engine_t engine
    pool_t pool
    secret_pool_t secrets
    random_pool_t random        # of the worker's thread
    cert_cache_t certs
    cert_entry_t *cert_entries  # owned
    local_t *local              # a secret slot
    uint8_t *scratch            # owned
    void *inbox                 # of commands
    shore_t shore               # bridges to other workers
    void *links                 # atomic: link_rows_t, from malloc, owned by whoever takes it out; NULL
    gate_t gate                 # opened with the number of each COMMAND_LINKS that was answered
    event_ring_t ring
    dial_t *dials
    uint64_t dial_ns            # the first next_ns of them, or some time before it
    uint64_t n_conns            # atomic: connections when last looked at
    uint64_t n_offered          # atomic: more that others have handed over
    uint64_t offset_ns          # when the wall clock was last looked at
    uint64_t stop_ns            # when waiting for goodbyes ends; 0 while not stopping
    uint64_t quiet_len          # bytes of which Python may not know yet that they were sent, at most QUIET_MAX
    uint8_t has_news            # events were written in this turn
    uint8_t has_quiet_news      # the same, but none that a sleeper must be woken for
    uint8_t is_loop_ready
    uint8_t has_gate
    uint8_t is_killed           # the owner is gone: nothing more is told
    uint8_t apart[128]          # the next worker's memory begins in another cache line

cdef inline worker_t *worker_of(node_t *node, uint64_t id) noexcept nogil:
    # whose channel or stream this is; ids come from this process alone
    cdef uint64_t idx = id >> WORKER_SHIFT
    return &node.workers[idx if idx < node.n_workers else 0]

cdef void local_renew(local_t *local, const ring_t *ring) noexcept nogil       # local_fill by the clock of this moment
cdef int mark_write(void *ctx, uint64_t mark_s) noexcept nogil   # mark_fn; ctx: a file descriptor as a pointer
cdef int worker_start(worker_t *worker, size_t read_len) noexcept nogil
    # engine, pools and the node's event_fd are ready; starts the thread
cdef command_t *command_make(uint32_t type, uint64_t id, size_t extra) noexcept nogil   # zeroed; NULL without memory
cdef void worker_post(worker_t *worker, command_t *command) noexcept nogil      # takes; any thread
cdef void worker_end(worker_t *worker) noexcept nogil           # after all threads have ended: frees its sessions
cdef void worker_stop(worker_t *worker) noexcept nogil          # after worker_end of all: closes all that is left
cdef void worker_free(worker_t *worker) noexcept nogil          # gives the memory back; last
cdef void command_free(node_t *node, command_t *command) noexcept nogil
