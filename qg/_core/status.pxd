# SPDX-License-Identifier: MIT
"""Status codes and limits of the core.

A function returns >= 0 for success (often a length) and one of these codes otherwise. The codes of the first group are
outcomes of hostile or broken input: they are counted by reason and end a session. The second group are outcomes of a
full table.
"""

cdef enum status_t:
    OK = 0

    # What a peer sent was wrong.
    E_SHORT = -1            # fewer bytes than the layout needs
    E_LONG = -2             # more bytes than the layout allows
    E_TAG = -3              # an AEAD tag did not verify
    E_VERSION = -4          # unknown wire version
    E_KIND = -5             # a kind that may not stand here
    E_NONZERO = -6          # a field that must be zero is not
    E_VARINT = -7           # a varint that is not minimal or not whole
    E_FRAME = -8            # unknown or malformed frame
    E_STATE = -9            # legal bytes at the wrong moment
    E_CREDIT = -10          # more data than the window allows
    E_STREAM_ID = -11       # a stream id out of order
    E_LENGTH = -12          # record length out of range
    E_CLOCK = -13           # envelope time outside the window
    E_REPLAY = -14          # seen before
    E_SUITE = -15           # no common or no usable suite
    E_DH = -16              # all-zero Diffie-Hellman result
    E_KEM = -17             # malformed ML-KEM key or ciphertext
    E_SIGNATURE = -18       # a signature did not verify
    E_EXPIRED = -19         # certificate or record past its time
    E_IDENTITY = -20        # not the peer that was meant
    E_RATE = -21            # too many frames of a kind
    E_MISMATCH = -22        # an echo differs from what was sent
    E_UTF8 = -23            # text that is not UTF-8
    E_ADDRESS = -24         # malformed address

    # The machine or a limit said no.
    E_FULL = -32            # a bounded queue, table or pool is full
    E_MEMORY = -33          # allocation failed or budget spent
    E_EXISTS = -34          # key is in the table already
    E_FORK = -36            # the object was made in another process
    E_LOCK = -37            # memory could not be locked
    E_IO = -38              # a system call failed (errno tells)
    E_ARGUMENT = -39        # misuse by the caller
    E_CLOSED = -40          # the object is closed

    # Not failures: the caller must act before the machine can go on.
    NEED_MORE = -64         # give more bytes
    NEED_ADMIT = -65        # a verdict is needed (session_admit)


cdef enum reason_t:
    """Reasons on the wire, protocol.md 7. Unknown ones read as REASON_NONE."""
    REASON_NONE = 0
    REASON_PROTOCOL = 1
    REASON_INTERNAL = 2
    REASON_SHUTDOWN = 3
    REASON_REFUSED = 4
    REASON_UNREACHABLE = 5
    REASON_BUSY = 6
    REASON_LIMIT = 7
    REASON_UNSUPPORTED = 8
    REASON_TIMEOUT = 9
    REASON_MEMORY = 10
    REASON_SLOW_READER = 11
    REASON_HOPS = 12
    REASON_DUPLICATE = 13
    REASON_IDLE = 14
    REASON_REKEY = 15
    REASON_CANCELLED = 16
    REASON_COUNT = 17


cdef enum limit_t:
    """Sizes that both ends of a link rely on (protocol.md 4 to 7)."""
    INNER_MAX = 16384           # plaintext of a record
    RECORD_LEN_MAX = 16416      # ciphertext of a record: INNER_MAX and the longest tag
    RECORD_HEAD_LEN = 2         # the masked length
    INNER_SMALL = 1024          # the smaller of the two record sizes of a circuit
    LAYER_OVERHEAD = 45         # what one layer costs at most: DATA header 1 + 8 + 2, record head 2, tag 32
    LAYERS_MAX = 8
    LAYER_ROOM_MIN = 128        # a session with less carrier room waits
    HELLO_MAX = 4096
    METADATA_MAX = 1024
    PEERS_LEN_MAX = 4096        # of a PEERS frame behind its type
    SERVICES_LEN_MAX = 4096     # of a SERVICES frame behind its type that this node sends
    OPEN_MAX = 1536             # bytes of an OPEN frame after its kind
    INITIAL_CREDIT_SERVICE = 16384
    INITIAL_CREDIT_PIPE = 4096
    WINDOW_MIN = 65536
    WINDOW_MAX = 1048576
    SESSION_WINDOW_MIN = 1048576
    SESSION_WINDOW_MAX = 8388608
    SEND_QUEUE_MAX = 4194304
    PEER_ID_LEN = 32
