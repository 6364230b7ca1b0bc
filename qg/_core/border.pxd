# SPDX-License-Identifier: MIT
"""What crosses between Python and the core: options, addresses and bytes in, events out.

Everything here needs the GIL and belongs to the thread that calls; nothing knows workers or threads. `options` are
those of `qg.policy.runtime_options`; what is absent has its default here. Wrong values raise ValueError or TypeError.
"""
from libc.stdint cimport uint64_t

from .abi cimport qg_extender_v1
from .channel cimport engine_config_t, hop_t
from .flow cimport event_t
from .guard cimport access_t, guard_t, policy_t
from .handshake cimport local_t
from .keyfile cimport NetworkSecret
from .memory cimport block_t, chain_t, pool_t
from .rate cimport rates_t
from .wire cimport address_t

cdef int config_fill(engine_config_t *config, dict options) except -1  # all but services, worker and instance
cdef bint rates_wanted(dict options) except -1          # is any named, be it 0?
cdef int rates_fill(rates_t *rates, dict options) except -1    # all but the key; any time
cdef int policy_fill(policy_t *policy, dict options) except -1         # limits, ports, networks; after policy_init
cdef int networks_take(policy_t *policy, pool_t *pool, dict options) except -1   # gives: what is said of networks
cdef void networks_free(policy_t *policy) noexcept      # of a policy that no guard has any more
cdef object network_mark(const policy_t *policy, bytes ip)      # the place in `networks` of what decides, or None
cdef tuple score_tuple(guard_t *guard, bytes ip, uint64_t now_ns)       # (score, seconds for which it is refused)
cdef list scores_list(guard_t *guard, uint64_t now_ns)      # what became worse: (16 bytes, bits, as score_put takes)
cdef int score_put(guard_t *guard, bytes ip, int n_bits, tuple score, uint64_t now_ns) except -1
cdef access_t *access_take(pool_t *pool, dict options) except NULL     # gives: who may have a session
cdef access_t *relay_access_take(pool_t *pool, dict options) except NULL       # gives: who may relay
cdef int local_options(local_t *local, NetworkSecret network, NetworkSecret previous, dict options) except -1
    # networks, suites, clock window; local_fill comes after it

cdef int calls_read(qg_extender_v1 *calls, object table) except -1
    # copies the table that a capsule or an address points to; what it does not have is NULL

cdef int fill_bytes(chain_t *chain, pool_t *pool, data) except -1      # copies; an empty chain after MemoryError
cdef int fill_ip(address_t *address, str host, int port) except -1     # 1: an IP literal, now in `address`; 0: no
cdef int fill_hops(hop_t *hops, list named) except -1
    # `named`: (link_key or None, peer_id or None, host, port) each; a name's address does not point to it yet

cdef tuple event_tuple(event_t *event)                  # takes its blocks
cdef void drop_blocks(block_t *block) noexcept nogil    # takes a chain; from any thread but its pool's, which may too
