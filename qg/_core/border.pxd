# SPDX-License-Identifier: MIT
"""What crosses between Python and the core: options, addresses and bytes in, events out.

Everything here needs the GIL and belongs to the thread that calls; nothing knows workers or threads. `options` are
those of `qg.access.runtime_options`; what is absent has its default here. Wrong values raise ValueError or TypeError.
"""
from .abi cimport qg_extender_v1
from .channel cimport engine_config_t, hop_t
from .flow cimport event_t
from .guard cimport access_t, policy_t
from .handshake cimport local_t
from .keyfile cimport NetworkSecret
from .memory cimport block_t, chain_t, pool_t
from .rate cimport rates_t
from .wire cimport address_t

cdef int config_fill(engine_config_t *config, dict options) except -1  # all but services, worker and instance
cdef bint rates_wanted(dict options) except -1          # is any named, be it 0?
cdef int rates_fill(rates_t *rates, dict options) except -1    # all but the key; any time
cdef int policy_fill(policy_t *policy, dict options) except -1         # limits, ports, networks; after policy_init
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
