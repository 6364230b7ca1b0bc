# SPDX-License-Identifier: MIT
"""Channels: sessions with their carriers, and what all channels of one worker share.

A channel is a link (over a connection of the transport) or a layer (in a stream of another channel). This module gives
channels their carriers, timers, birth and end; what a session's events mean is decided above, by the functions in
`engine_t.session_hooks`, `mux_hooks` and `admit`. An ended channel keeps its memory until `channels_sweep`.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from .cover cimport cover_config_t
from .flow cimport flow_t, outbox_t
from .guard cimport bucket_t, guard_t
from .handshake cimport local_t
from .heap cimport heap_node_t, heap_t
from .memory cimport block_t, chain_t, pool_t
from .mux cimport mux_hooks_t, stream_t
from .rate cimport lane_t, rates_t, shaper_t
from .relay cimport asker_t, relay_t
from .roster cimport roster_t
from .session cimport context_t, session_hooks_t, session_t, session_times_t
from .table cimport table_t
from .wire cimport HELLO_SERVICES_MAX, RELAY_ADDRESSES_MAX, address_t

cdef enum:
    HOPS_MAX = 8                # relays and target of a circuit
    LINK_OUT_MAX = 262144       # sealed bytes of a link that may wait for a kernel that takes all of them at once
    LINK_OUT_MIN = 65536        # for one that does not: nothing can overtake what is sealed
    LAYER_WINDOWS = 4           # of credit for the stream of a relay's layer, which takes at once what comes
    SKEWS_KEPT = 16             # what the last peers dialled said of our clock
    WORKERS_MAX = 64
    LINKS_PER_PEER = 8          # of one instance; a further one is closed (duplicate)

cdef enum channel_kind_t:
    CHANNEL_LINK = 0            # over a transport connection
    CHANNEL_LAYER = 1           # in a stream of another channel

cdef enum channel_state_t:
    CHANNEL_DIALLING = 0
    CHANNEL_LIVE = 1
    CHANNEL_SINK = 2            # a stranger: input is dropped until the deadline
    CHANNEL_SINK_SHUT = 3       # our FIN is sent
    CHANNEL_ENDED = 4           # freed by engine_settle

ctypedef struct transport_t:
    void *ctx
    void (*dial)(void *ctx, channel_t *channel, const address_t *addresses, uint32_t n_addresses) noexcept nogil
        # one after the other, or the one name; answers by engine_connected or engine_dial_failed, later
    void (*cancel)(void *ctx, channel_t *channel) noexcept nogil            # forget the dial
    void (*write)(void *ctx, void *conn, chain_t *chain) noexcept nogil     # takes the chain
    uint64_t (*pending)(void *ctx, void *conn) noexcept nogil               # bytes that wait for the kernel
    void (*shutdown)(void *ctx, void *conn) noexcept nogil                  # FIN behind what is pending
    void (*close)(void *ctx, void *conn) noexcept nogil                     # the same and forget; no event follows
    void (*abort)(void *ctx, void *conn) noexcept nogil                     # drop what is pending and close
    void *(*cross)(void *ctx, channel_t *channel, uint32_t worker) noexcept nogil
        # instead of `dial`, to another worker of this node: gives the connection, NULL without memory

ctypedef struct hop_t:
    uint8_t link_key[32]
    uint8_t peer_id[32]
    uint8_t has_link_key
    uint8_t has_peer_id
    uint32_t n_addresses        # in the order in which they are to be tried
    address_t addresses[RELAY_ADDRESSES_MAX]    # of names only one, whose bytes lie in `name`
    uint8_t name[256]

ctypedef struct path_t:         # a circuit under construction, or a direct link somebody waits for
    uint64_t request
    uint32_t n_hops
    uint32_t hop_idx            # the hop being reached
    channel_t *channel          # the channel being built
    path_t *next
    path_t *prev
    uint64_t isolation          # paths with an equal one share layers; 0: none does
    uint8_t is_new              # no existing session may be taken
    local_t *identity           # throw-away identity to show to the target; owned slot, NULL: the node's
    hop_t hops[1]               # n_hops of them

ctypedef struct queue_t:        # channels in the order in which they came
    channel_t *head
    channel_t *tail

ctypedef struct channel_t:
    session_t session           # first: a session of the engine is a channel
    engine_t *engine
    const transport_t *transport    # of the connection: the engine's, or that between workers
    uint64_t id
    heap_node_t timer
    void *conn                  # of the transport; NULL for layers and when gone
    chain_t out                 # sealed bytes for the transport
    uint32_t out_max            # that may wait for the kernel
    uint32_t due_len            # paced links: bytes that turns have let go out; the others wait
    stream_t *stream            # layers: the carrier stream; NULL once gone
    channel_t *parent           # layers: whose stream that is
    channel_t *next             # all channels of the engine
    channel_t *prev
    channel_t *next_dirty
    flow_t *flows
    uint8_t *services           # links and sessions over pipes: what the peer offers, until PEER_UP tells it; owned,
                                # NULL where n_services is 0
    queue_t *queue              # of the half-open ones or of the sinks; NULL in neither
    channel_t *queue_next
    channel_t *queue_prev
    bucket_t pipes              # rate of pipes and relay streams that the peer opens
    bucket_t openings           # rate of its service streams
    bucket_t refusals           # rate of those that were above that rate
    lane_t lane                 # links, where a rate is set: its turns among all that send
    asker_t asker               # links, where a rate of relays is set: as the neighbour that splices are for
    bucket_t onward             # rate of pipes that this relay opens on the link for others
    uint64_t isolation          # layers: of the paths that share it; 0: it is not shared
    uint64_t shared_id          # its name in the table of shared layers
    uint64_t peers_ns           # when all PEERS frames that may come at once may come again
    uint64_t services_ns        # the same of SERVICES
    uint32_t n_services         # in `services`
    uint64_t pipe_peer          # guard counts it among the sessions over pipes of this one; 0 = no. The same for links
                                # without an instance
    address_t remote            # links
    local_t *identity           # of this session alone; owned slot, NULL: the node's
    uint64_t sink_ns            # when a sink shuts, then closes
    channel_t *sibling          # the next link with the same peer; new streams take the first
    uint64_t known_ns           # when it was entered among the links with its peer
    uint64_t idle_ns            # links: when to look whether anybody needs it still; NEVER
    uint64_t idle_mark          # streams begun up to the last look, NEVER where it was needed then
    uint8_t kind                # channel_kind_t
    uint8_t state               # channel_state_t
    uint8_t is_dirty
    uint8_t is_reported         # PEER_UP was emitted
    uint8_t is_half_open
    uint8_t is_auto             # made for circuits only: a layer closes with the last of them, a link some time after
    uint8_t is_known            # in the table of peers, or behind the link that is
    uint8_t is_rostered         # counted among the node's links with that peer
    uint8_t is_retiring         # another link took its place; it closes with its last stream
    uint8_t is_counted          # guard counts its session
    uint8_t has_twins           # other workers may have links with an older process of this peer
    uint8_t is_far_end          # it runs in a pipe that a peer opened
    uint8_t hops                # layers: hops that the pipe of the first one was opened with
    uint8_t is_crossing         # a link between two workers of this node: for circuits only, no rate, count or limit
    uint8_t crosses_to          # the other worker, where it was opened here

ctypedef struct engine_config_t:
    session_times_t times
    uint64_t window_max         # of streams
    uint64_t session_window_max
    uint64_t send_queue_len     # of a session
    uint64_t receive_credit_len # of this worker
    uint32_t max_streams        # that a peer may open per session
    uint32_t max_pipes
    uint32_t max_sessions       # all channels of the node but half-open ones and sinks
    uint32_t control_frames     # that a peer may send per second
    uint64_t sink_min_ns        # a sink shuts after a time drawn between the two
    uint64_t sink_max_ns
    uint64_t max_message
    uint64_t relay_memory_len
    uint64_t relay_idle_ns      # of circuits that pass through: without a byte, for one hop to come up, at the longest
    uint64_t relay_build_ns
    uint64_t relay_life_ns
    rates_t *rates              # shared with other workers; borrowed; NULL: none ever will be set
    uint32_t terms_rate_kib     # what this node says of relaying; 0: no limit
    uint32_t terms_burst_kib
    const uint8_t *services     # ids of what this node offers at first, 16 bytes each; read at engine_init only
    uint32_t n_services
    cover_config_t cover        # of the sessions that this worker has
    uint8_t padding
    uint8_t first_bytes         # first_bytes_t of handshake.pxd
    uint8_t relays              # pipes are accepted for others
    uint8_t accepts_xx
    uint8_t worker
    uint8_t n_workers
    uint8_t instance[8]

ctypedef struct engine_t:
    context_t ctx
    pool_t *pool                # borrowed
    guard_t *guard              # borrowed
    roster_t *roster            # of all workers; borrowed; NULL: there is none
    engine_config_t config
    uint8_t[16 * HELLO_SERVICES_MAX] services   # what this node offers; config.n_services of them
    transport_t transport
    transport_t crossing        # between workers; `cross` is NULL where there is one
    channel_t *crossings[WORKERS_MAX]   # links opened to the other workers, by their number; NULL: none yet
    outbox_t outbox
    const session_hooks_t *session_hooks
    const mux_hooks_t *mux_hooks
    int (*admit)(channel_t *channel, uint64_t now_ns) noexcept nogil   # the verdict that a session asks for
    int (*serve)(void *ctx, channel_t *channel, flow_t *flow, const uint8_t *opening, size_t len,
                 uint64_t now_ns) noexcept nogil
        # of the owner: takes a peer's new stream of bytes in the application's place. 1: it has tapped the flow; 0: not
        # its business; minus a reason_t: refused. NULL: nobody does
    void *serve_ctx
    heap_t timers
    table_t links               # first 8 bytes of the peer's link key -> open link
    table_t dials               # the same -> link that is being dialled, or was
    table_t shared              # layers that paths may share
    table_t peers               # PeerID and worker -> the first of the links with that peer
    table_t channels            # id -> channel
    relay_t relay
    channel_t *all
    channel_t *dirty            # links with output
    channel_t *ended
    path_t *paths
    heap_node_t relay_timer
    heap_node_t shaper_timer
    shaper_t shaper             # of all links
    uint64_t next_id
    uint32_t n_channels         # of this engine; the guard counts those of the node, and their kinds
    queue_t half_open           # oldest first
    queue_t sinks
    uint64_t spent_ns           # of ctx.handshake_ns, what the guard has been told
    uint64_t n_links_up         # sessions that became ready
    uint64_t n_bytes_in
    uint64_t n_bytes_out
    int64_t skews_s[SKEWS_KEPT] # newest over oldest
    uint32_t n_skews            # ever noted
    uint8_t is_draining         # no new circuits
    uint8_t is_drained          # EVENT_DRAINED was told
    uint8_t is_stopping
    uint8_t is_stopped

cdef uint64_t draw(engine_t *engine, uint64_t low, uint64_t high) noexcept nogil
    # a number between the two, both included
cdef bint is_own_key(const engine_t *engine, const uint8_t *link_key) noexcept nogil
cdef bint has_id(const uint8_t *peer_id) noexcept nogil         # False for 32 zero bytes: only the link key is known
cdef channel_t *find_link(engine_t *engine, const uint8_t *link_key) noexcept nogil    # an open link, NULL
cdef channel_t *find_dialling(engine_t *engine, const uint8_t *link_key, const address_t *addresses,
                              uint32_t n_addresses) noexcept nogil
    # one that is being made to one of those addresses, NULL

# Links with one peer: the first takes new streams, the others end (protocol.md 7)
cdef bint has_instance(const channel_t *channel) noexcept nogil # False: the peer wants its links to stand alone
cdef channel_t *links_of(const channel_t *channel) noexcept nogil       # the first link with the same peer, NULL
cdef channel_t *links_find(engine_t *engine, const uint8_t *peer_id, uint32_t worker) noexcept nogil
    # the first link with that worker of that peer, NULL
cdef int link_enter(channel_t *channel, uint64_t now_ns) noexcept nogil # a ready link; OK, E_FULL
cdef void name_put(channel_t *channel) noexcept nogil           # to be found by the peer's link key

cdef channel_t *channel_dial(engine_t *engine, const address_t *addresses, uint32_t n_addresses,
                             const uint8_t *link_key, const uint8_t *peer_id, uint64_t now_ns) noexcept nogil
    # link_key NULL: XX; NULL at the session limit
cdef channel_t *channel_accept(engine_t *engine, void *conn, const address_t *remote, uint64_t now_ns) noexcept nogil
    # NULL without memory
cdef channel_t *channel_cross(engine_t *engine, uint32_t worker, uint64_t now_ns) noexcept nogil
    # the link to another worker of this node, made when it is first asked for; NULL without memory
cdef channel_t *channel_crossed(engine_t *engine, void *conn, uint64_t now_ns) noexcept nogil
    # the other end of one; NULL: close it
cdef channel_t *channel_layer(channel_t *parent, stream_t *stream) noexcept nogil      # binds the stream
cdef void channel_feed(channel_t *channel, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil
cdef void channel_flush(channel_t *channel, uint64_t now_ns) noexcept nogil
    # a link's output to the transport
cdef void channels_cover(engine_t *engine, uint64_t now_ns) noexcept nogil
    # engine.config.cover has changed
cdef void channels_serve(engine_t *engine, uint64_t now_ns) noexcept nogil
    # lets links that wait for a rate have their turns, at shaper_deadline
cdef void channel_rates(channel_t *channel) noexcept nogil      # its peer is known: finds the neighbour's buckets
cdef void channel_mark(channel_t *channel) noexcept nogil       # has output
cdef void channel_arm(channel_t *channel) noexcept nogil        # its deadline into the timers
cdef void channel_close(channel_t *channel, uint64_t now_ns) noexcept nogil
    # its carrier: what is sealed goes out, then FIN; one that was dialled and never answered is dropped
cdef void channel_end(channel_t *channel, uint64_t now_ns) noexcept nogil
    # off all lists; its carrier is closed or lost
cdef void services_keep(channel_t *channel) noexcept nogil      # of the peer's HELLO, which is being read
cdef void services_change(channel_t *channel) noexcept nogil
    # by the SERVICES frame that is being read; what is too much is not kept
cdef block_t *services_take(channel_t *channel) noexcept nogil
    # gives a copy for an event and forgets them; NULL: there are none
cdef void channel_claim(channel_t *channel) noexcept nogil      # it is no longer for circuits only
cdef void channel_admitted(channel_t *channel) noexcept nogil   # no longer half open
cdef void channel_uncount(channel_t *channel) noexcept nogil    # guard counts its session no longer
cdef uint64_t n_settled(const engine_t *engine) noexcept nogil  # the node's channels but half-open ones and sinks
cdef void queue_push(queue_t *queue, channel_t *channel) noexcept nogil
cdef void queue_insert(queue_t *queue, channel_t *channel) noexcept nogil       # by age; walks over the younger ones
cdef void channels_sweep(engine_t *engine, uint64_t now_ns) noexcept nogil
cdef void stream_drain(stream_t *stream) noexcept nogil         # what it still delivers is dropped
