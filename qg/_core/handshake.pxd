# SPDX-License-Identifier: MIT
"""The flights of one handshake: envelopes outside, Noise inside, certificates checked (protocol.md 2.1, 3).

Calling contract: `handshake_flight` writes the flight that is due, `handshake_feed` takes what arrives and stops behind
the flight that it completes. NEED_ADMIT asks for a verdict: `handshake_admit` goes on, anything else is silence.
Nothing here knows a carrier; the caller writes, waits and times out. A failed handshake is good for `handshake_clear`
only.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .cert cimport cert_cache_t
from .crypto cimport mlkem768_secret_t, random_fn
from .envelope cimport envelope_head_t, envelope_keys_t, network_t
from .keyfile cimport ring_t
from .noise cimport noise_pattern_t, noise_secret_t, noise_t
from .secret cimport secret_pool_t

cdef enum:
    LOCAL_KEYS_MAX = 2          # live link keys
    LOCAL_NETWORKS_MAX = 2      # the current network secret and its predecessor
    FLIGHT_MAX = 3543           # 80 + 1400 + 2047 + 16

cdef enum handshake_kind_t:
    HANDSHAKE_XK = 1            # wire values of the first flight's kind
    HANDSHAKE_XX = 2
    HANDSHAKE_NK = 3

cdef enum first_bytes_t:
    FIRST_BYTES_UNIFORM = 0
    FIRST_BYTES_PRINTABLE6 = 1  # protocol.md 3.7

cdef enum handshake_stage_t:
    STAGE_WRITE_M1 = 0
    STAGE_READ_M1 = 1
    STAGE_ADMIT_M1 = 2          # M1's envelope is open; waits for handshake_admit
    STAGE_WRITE_M2 = 3
    STAGE_READ_M2 = 4
    STAGE_WRITE_M3 = 5
    STAGE_READ_M3 = 6
    STAGE_ADMIT_M3 = 7          # the peer is proven; waits for handshake_admit
    STAGE_DONE = 8
    STAGE_FAILED = 9

ctypedef struct local_key_t:    # one link key of this node
    uint8_t secret[32]
    uint8_t public_key[32]
    uint8_t cert[108]
    envelope_keys_t env[LOCAL_NETWORKS_MAX]     # envelopes to this key, per network

ctypedef struct local_t:        # this node as its peers meet it; in guarded memory, read-only for the core
    uint8_t peer_id[32]
    uint32_t n_keys             # the first one is current
    uint32_t n_networks         # the first one is current
    local_key_t keys[LOCAL_KEYS_MAX]
    network_t networks[LOCAL_NETWORKS_MAX]
    envelope_keys_t env_open[LOCAL_NETWORKS_MAX]    # XX envelopes, per network
    uint16_t suites             # mask offered and accepted
    uint8_t accepts_xx
    uint32_t clock_window_s

ctypedef struct party_t:        # what all handshakes of one worker share
    secret_pool_t *secrets      # borrowed
    const local_t *local        # borrowed
    cert_cache_t *certs         # borrowed
    random_fn random
    void *random_ctx
    noise_pattern_t patterns[4] # by NOISE_XK to NOISE_NN
    uint8_t first_bytes         # first_bytes_t: of first flights on TCP

ctypedef struct handshake_secret_t:     # a secret slot
    noise_secret_t noise
    envelope_keys_t env         # of flights from initiator to responder
    envelope_keys_t env_reply   # of M2

ctypedef struct handshake_t:
    party_t *party              # borrowed
    const local_t *local        # who we are in this handshake: the party's, or a throw-away identity; borrowed
    handshake_secret_t *secret  # owned slot
    mlkem768_secret_t *kem      # initiator: owned slot for the key sent in M1
    noise_t noise
    int stage
    uint8_t role                # 0 initiator, 1 responder
    uint8_t kind                # handshake_kind_t
    uint8_t kinds               # responder: bit mask of kinds that may arrive
    uint8_t is_pipe             # flights are padded to PIPE_FLIGHT_LEN
    uint8_t key_idx             # responder: link key that opened M1
    uint8_t network_idx
    uint8_t has_peer_id         # initiator: expects peer_id
    uint16_t suite              # chosen
    uint16_t offered            # initiator: suites of P1
    envelope_head_t first       # of M1; M2 and M3 repeat its id and time
    envelope_head_t head        # of the flight being read
    uint64_t responder_time_s   # initiator: from P2
    uint8_t m1_hash[32]
    uint8_t cid_own[8]
    uint8_t peer_id[32]         # proven when the stage is STAGE_ADMIT_M3 or STAGE_DONE (not for NK's initiator)
    uint8_t peer_link_key[32]
    uint8_t peer_cert[108]
    uint8_t cert[108]           # ours, of the key that does the DH: RENEW may change the party's meanwhile
    uint32_t in_len             # bytes of the flight collected
    uint32_t in_need            # bytes of the flight known to come; 80 until the head is open
    uint8_t in_buf[FLIGHT_MAX]

cdef void local_fill(local_t *local, const ring_t *ring, uint64_t unix_s, uint64_t cert_end_s) noexcept nogil
    # keys that are good at unix_s, certificates until cert_end_s or the key's own end, envelope keys for the networks
    # that `local` already has
cdef int party_init(party_t *party) noexcept nogil             # fills the patterns; the rest is the owner's
cdef int handshake_connect(handshake_t *hs, party_t *party, const local_t *local, int kind, int is_pipe,
                           const uint8_t *link_key, const uint8_t *peer_id, uint64_t unix_s) noexcept nogil
    # local NULL: the party's; link_key NULL for XX, peer_id NULL when not pinned; OK, E_MEMORY
cdef int handshake_listen(handshake_t *hs, party_t *party, int kinds, int is_pipe) noexcept nogil
cdef int handshake_flight(handshake_t *hs, uint8_t *dst, uint64_t unix_s) noexcept nogil
    # writes the flight that is due (at most FLIGHT_MAX); its length, 0 when none is due
cdef int handshake_feed(handshake_t *hs, const uint8_t *src, size_t len, size_t *used, uint64_t unix_s) noexcept nogil
    # NEED_MORE, NEED_ADMIT, OK when a flight was taken, or why it failed
cdef int handshake_admit(handshake_t *hs) noexcept nogil
cdef int handshake_keys(handshake_t *hs, uint8_t *k1, uint8_t *k2, uint8_t *h32) noexcept nogil
    # once, at STAGE_DONE
cdef void handshake_clear(handshake_t *hs) noexcept nogil       # wipes and gives back; any stage
