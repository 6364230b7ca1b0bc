# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""Long-lived secrets in guarded memory, and their files. See keyfile.pxd."""
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from posix.stat cimport S_ISREG, fstat, struct_stat
from posix.unistd cimport close, fsync, geteuid, link, read, unlink, write

from .cert cimport (
    CERT_LEN, PEER_RECORD_MAX, cert_build, peer_id_derive, peer_record_build, peer_record_t)
from .crypto cimport (
    XCHACHA_NONCE_LEN, XCHACHA_TAG_LEN, crypto_init, crypto_random, ct_equal, ed25519_public, sha256_pair,
    x25519_public, xchacha_open, xchacha_seal,
)
from .fork cimport forks_count, forks_watch, wipe_on_fork
from .sodium cimport sodium_free, sodium_is_zero, sodium_malloc
from .status cimport E_KIND, E_LENGTH, E_MEMORY, E_MISMATCH, E_NONZERO, E_TAG, OK
from .sys cimport load_be64, store_be64

import errno as errno_names
import os
import warnings

from qg.errors import InvalidValue, KeyFileError, KeyFileExists, KeyFileMissing, UsageError


cdef extern from "<sodium.h>" nogil:
    enum:
        crypto_pwhash_argon2id_ALG_ARGON2ID13
    int sodium_mprotect_readonly(void *p) noexcept
    int crypto_pwhash_argon2id(
        unsigned char *out, unsigned long long out_len, const char *password, unsigned long long password_len,
        const unsigned char *salt, unsigned long long passes, size_t memory, int algorithm) noexcept

cdef extern from "<fcntl.h>" nogil:
    enum:
        O_CLOEXEC
        O_CREAT
        O_DIRECTORY
        O_EXCL
        O_NOFOLLOW
        O_NONBLOCK
        O_RDONLY
        O_WRONLY
    int open(const char *path, int flags, ...) noexcept

cdef extern from "<stdio.h>" nogil:
    int rename(const char *old, const char *new) noexcept

cdef enum fault_t:              # what is wrong with a file, beside the codes of `status`
    FAULT_OWNER = -101          # belongs to another user
    FAULT_MODE = -102           # others may read or write it
    FAULT_KIND = -103           # not a regular file
    FAULT_MAGIC = -104          # not a file of ours
    FAULT_SEALED = -105         # needs a passphrase, none given
    FAULT_UNSEALED = -106       # has no passphrase, one was given
    FAULT_KDF = -107            # unknown key derivation, or one that asks for absurd work
    FAULT_ERRNO = -1000         # less errno: a system call failed

ctypedef int (*store_fn)(object, const uint8_t *, size_t) except -1

cdef enum:
    CANARY_LEN = 16             # libsodium writes it before guarded memory and checks it in sodium_free
    KDF_NONE = 0
    KDF_ARGON2ID13 = 1
    KDF_OFF = 8                 # offsets in a key file, protocol.md 2.3
    SALT_OFF = 9
    PASSES_OFF = 25
    MEMORY_OFF = 33
    NONCE_OFF = 41
    SALT_LEN = 16
    SEED_LEN = 32
    PASSES_MODERATE = 3         # libsodium's "moderate" and "sensitive"
    PASSES_SENSITIVE = 4
    PASSES_MAX = 16
    NETWORK_PREFIX_LEN = 7
    NETWORK_TEXT_LEN = 65       # prefix and 58 characters for 36 bytes
    NETWORK_CHECK_LEN = 4
    NETWORK_FILE_MAX = 128      # the text and blanks around it

cdef uint64_t MEMORY_MODERATE = <uint64_t>256 << 20     # bytes
cdef uint64_t MEMORY_SENSITIVE = <uint64_t>1 << 30
cdef uint64_t MEMORY_MAX = <uint64_t>1 << 30
cdef uint64_t NOT_AFTER_OPEN = <uint64_t>0x7fffffffffffffff

cdef const uint8_t *KEYFILE_MAGIC = <const uint8_t *>b"QGKEY1\r\n"
cdef const uint8_t *CHECK_LABEL = <const uint8_t *>b"qg1 net check"
cdef const uint8_t *SALT_LABEL = <const uint8_t *>b"qg1 net salt"
cdef const uint8_t *NETWORK_PREFIX = <const uint8_t *>b"qgnet1:"
cdef const uint8_t *BASE32 = <const uint8_t *>b"abcdefghijklmnopqrstuvwxyz234567"


# --- private files ---

cdef int private_check(int fd) noexcept nogil:
    """Tell whether fd is a regular file that only its owner, who is us, can read or write: OK, else a fault."""
    cdef struct_stat info
    if fstat(fd, &info) != 0:
        return FAULT_ERRNO - errno
    if not S_ISREG(info.st_mode):
        return FAULT_KIND
    if info.st_uid != geteuid():
        return FAULT_OWNER
    if info.st_mode & 0o077:
        return FAULT_MODE
    return OK


cdef int private_read(uint8_t *dst, const char *path, size_t cap) noexcept nogil:
    """Read at most cap bytes of a private file: the length or a fault."""
    cdef ssize_t n = 1
    cdef size_t len = 0
    # O_NONBLOCK: a FIFO that stands in the file's place must not hang us before it is refused.
    cdef int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
    if fd < 0:
        return FAULT_ERRNO - errno
    cdef int rc = private_check(fd)
    while rc == OK and n != 0 and len < cap:
        n = read(fd, dst + len, cap - len)
        if n > 0:
            len += <size_t>n
        elif n < 0 and errno != EINTR:
            rc = FAULT_ERRNO - errno
    close(fd)
    return <int>len if rc == OK else rc


cdef int temp_write(const char *temp, const uint8_t *src, size_t len) noexcept nogil:
    """Write a new file of mode 0600 down to the disk; on a fault nothing of it is left."""
    cdef ssize_t n
    cdef size_t done = 0
    cdef int rc = OK
    cdef int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
    if fd < 0:
        return FAULT_ERRNO - errno
    while rc == OK and done < len:
        n = write(fd, src + done, len - done)
        if n >= 0:
            done += <size_t>n
        elif errno != EINTR:
            rc = FAULT_ERRNO - errno
    if rc == OK and fsync(fd) != 0:
        rc = FAULT_ERRNO - errno
    if close(fd) != 0 and rc == OK:
        rc = FAULT_ERRNO - errno
    if rc != OK:
        unlink(temp)
    return rc


cdef int folder_sync(const char *folder) noexcept nogil:
    """Make a changed name in a folder survive a power cut."""
    cdef int rc = OK
    cdef int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    if fd < 0:
        return FAULT_ERRNO - errno
    if fsync(fd) != 0:
        rc = FAULT_ERRNO - errno
    close(fd)
    return rc


cdef int private_create(const char *path, const char *temp, const char *folder, const uint8_t *src,
                        size_t len) noexcept nogil:
    """Write a file that must not exist yet, whole or not at all."""
    cdef int rc = temp_write(temp, src, len)
    if rc != OK:
        return rc
    if link(temp, path) != 0:   # unlike rename, refuses an existing name
        rc = FAULT_ERRNO - errno
    unlink(temp)
    return folder_sync(folder) if rc == OK else rc


cdef int private_replace(const char *path, const char *temp, const char *folder, const uint8_t *src,
                         size_t len) noexcept nogil:
    """Put a file in the place of another: whoever reads or crashes sees the old or the new one, whole."""
    cdef int rc = temp_write(temp, src, len)
    if rc != OK:
        return rc
    if rename(temp, path) != 0:
        rc = FAULT_ERRNO - errno
        unlink(temp)
        return rc
    return folder_sync(folder)


cdef object file_error(int rc, path):
    """Make the exception for a code or fault: one line that says what to do."""
    cdef int number = FAULT_ERRNO - rc
    name = os.fsdecode(path)
    if rc > FAULT_ERRNO:
        return KeyFileError(f"{name} {FAULT_TEXTS[rc]}")
    if number == errno_names.ELOOP:
        return KeyFileError(f"{name} is a symbolic link: give the path of the file itself")
    if number == errno_names.ENOENT:
        return KeyFileMissing(f"{name} does not exist: check the path, or make a new file there")
    if number == errno_names.EEXIST:
        return KeyFileExists(f"{name} exists already: choose another path, or load it")
    return KeyFileError(f"{name} cannot be used: {os.strerror(number)}; check the path, its permissions and the disk")


cdef object write_error(int rc, path):
    if FAULT_ERRNO - rc == errno_names.ENOENT:
        return KeyFileError(f"{os.fsdecode(path)} cannot be written: make its folder first")
    return file_error(rc, path)


cdef dict FAULT_TEXTS = {
    FAULT_OWNER: "belongs to another user: run as its owner, or chown it to the user that runs this",
    FAULT_MODE: "can be read or written by others: chmod 600 it, and consider it known if others use this machine",
    FAULT_KIND: "is not a regular file: check the path",
    FAULT_MAGIC: "is not a file of qg of this kind: check the path",
    FAULT_SEALED: "is protected by a passphrase: give it",
    FAULT_UNSEALED: "is not protected by a passphrase, though one was given: check the path, or load it without",
    FAULT_KDF: "is damaged or of a newer version: restore it from a backup, or update qg",
    E_LENGTH: "is damaged (its length is wrong): restore it from a backup, or move it away and make a new one",
    E_NONZERO: "is damaged (its header is wrong): restore it from a backup, or move it away and make a new one",
    E_TAG: "is damaged, or the passphrase is wrong: try again, or restore it from a backup",
    E_MEMORY: "cannot be used: the passphrase's key derivation needs more memory than there is (256 MiB as a rule)",
}


cdef object side_paths(path):
    """The names used while writing path: a temporary one beside it, and the folder."""
    cdef bytes target = os.fsencode(path)
    cdef uint8_t[8] tag
    crypto_random(NULL, tag, 8)
    folder, _ = os.path.split(target)
    return target, target + b".tmp-" + bytes(tag[:8]).hex().encode(), folder or b"."


cdef int file_create(path, const uint8_t *src, size_t len) except -1:
    target, temp, folder = side_paths(path)
    cdef const char *target_c = target
    cdef const char *temp_c = temp
    cdef const char *folder_c = folder
    cdef int rc
    with nogil:
        rc = private_create(target_c, temp_c, folder_c, src, len)
    if rc != OK:
        raise write_error(rc, path)
    return 0


cdef int file_replace(path, const uint8_t *src, size_t len) except -1:
    target, temp, folder = side_paths(path)
    cdef const char *target_c = target
    cdef const char *temp_c = temp
    cdef const char *folder_c = folder
    cdef int rc
    with nogil:
        rc = private_replace(target_c, temp_c, folder_c, src, len)
    if rc != OK:
        raise write_error(rc, path)
    return 0


cdef int file_read(uint8_t *dst, path, size_t cap) except -1:
    cdef bytes target = os.fsencode(path)
    cdef const char *target_c = target
    cdef int rc
    with nogil:
        rc = private_read(dst, target_c, cap)
    if rc < 0:
        raise file_error(rc, path)
    return rc


cdef void *guarded_take(size_t len) except NULL:
    """Guarded memory, zeroed, of which a forked child reads zeros (Linux); guarded_give wipes it."""
    cdef uint8_t *p = <uint8_t *>sodium_malloc(len)
    if p == NULL:
        raise MemoryError("no guarded memory left for keys")
    wipe_on_fork(p - CANARY_LEN, CANARY_LEN + len)
    memset(p, 0, len)
    return p


cdef void guarded_give(void *p) noexcept:
    # In a forked child libsodium's canary is wiped too and sodium_free would abort: the memory goes with the process.
    if p != NULL and not sodium_is_zero(<const uint8_t *>p - CANARY_LEN, CANARY_LEN):
        sodium_free(p)


cdef int home_check(uint64_t n_forks) except -1:
    """Raise UsageError in a process forked since there were n_forks: zeros stand where the keys were."""
    if n_forks != forks_count():
        raise UsageError("these keys belong to the process that this one was forked from: load them again after fork")
    return 0


cdef int argon2id(uint8_t *dst32, const uint8_t *password, size_t password_len, const uint8_t *salt, uint64_t passes,
                  uint64_t memory) noexcept nogil:
    """Derive 32 bytes; OK or E_MEMORY. Takes long, and `memory` bytes."""
    if crypto_pwhash_argon2id(dst32, 32, <const char *>password, password_len, salt, passes, memory,
                              crypto_pwhash_argon2id_ALG_ARGON2ID13) != 0:
        return E_MEMORY
    return OK


# --- the key file's bytes ---

cdef int file_key(uint8_t *key32, const uint8_t *head, const uint8_t *passphrase, size_t passphrase_len) noexcept nogil:
    """The key that the header and the passphrase give: OK, E_MEMORY or a fault."""
    cdef uint64_t passes = load_be64(head + PASSES_OFF)
    cdef uint64_t memory = load_be64(head + MEMORY_OFF)
    cdef int idx
    if head[KDF_OFF] == KDF_NONE:
        for idx in range(SALT_OFF, NONCE_OFF):
            if head[idx] != 0:
                return E_NONZERO
        memset(key32, 0, 32)
        if passphrase != NULL:
            return FAULT_UNSEALED
        return OK
    if head[KDF_OFF] != KDF_ARGON2ID13 or not 1 <= passes <= PASSES_MAX or not 8192 <= memory <= MEMORY_MAX:
        return FAULT_KDF
    if passphrase == NULL:
        return FAULT_SEALED
    return argon2id(key32, passphrase, passphrase_len, head + SALT_OFF, passes, memory)


cdef int ring_open(ring_t *ring, const uint8_t *src, size_t len, const uint8_t *passphrase, size_t passphrase_len,
                   uint8_t *scratch) noexcept nogil:
    """Open the key file in src into ring; scratch is guarded, 32 + KEYFILE_LEN_MAX bytes."""
    cdef uint8_t *key = scratch
    cdef uint8_t *plain = scratch + 32
    cdef size_t n_keys_len = len - KEYFILE_HEAD_LEN - XCHACHA_TAG_LEN - SEED_LEN
    cdef size_t idx
    cdef int rc
    if len < KEYFILE_HEAD_LEN or memcmp(src, KEYFILE_MAGIC, 8) != 0:
        return FAULT_MAGIC
    if not KEYFILE_LEN_MIN <= len <= KEYFILE_LEN_MAX or n_keys_len % KEYFILE_LINK_LEN:
        return E_LENGTH
    rc = file_key(key, src, passphrase, passphrase_len)
    if rc != OK:
        return rc
    rc = xchacha_open(key, plain, src + KEYFILE_HEAD_LEN, len - KEYFILE_HEAD_LEN, src, KEYFILE_HEAD_LEN,
                      src + NONCE_OFF)
    if rc < 0:
        return rc
    memcpy(ring.seed, plain, SEED_LEN)
    ring.n_link = n_keys_len // KEYFILE_LINK_LEN
    plain += SEED_LEN
    for idx in range(ring.n_link):
        memcpy(ring.link[idx].secret, plain, 32)
        ring.link[idx].not_before = load_be64(plain + 32)
        ring.link[idx].not_after = load_be64(plain + 40)
        plain += KEYFILE_LINK_LEN
    return OK


cdef int ring_seal(uint8_t *dst, const ring_t *ring, const uint8_t *passphrase, size_t passphrase_len,
                   uint8_t *scratch) noexcept nogil:
    """Build the key file of ring in dst (KEYFILE_LEN_MAX bytes): its length or E_MEMORY. scratch as for ring_open."""
    cdef uint8_t *key = scratch
    cdef uint8_t *plain = scratch + 32
    cdef size_t plain_len = SEED_LEN + <size_t>ring.n_link * KEYFILE_LINK_LEN
    cdef uint8_t *to = plain + SEED_LEN
    cdef size_t idx
    cdef int rc
    memset(dst, 0, KEYFILE_HEAD_LEN)
    memcpy(dst, KEYFILE_MAGIC, 8)
    if passphrase != NULL:
        dst[KDF_OFF] = KDF_ARGON2ID13
        crypto_random(NULL, dst + SALT_OFF, SALT_LEN)
        store_be64(dst + PASSES_OFF, PASSES_MODERATE)
        store_be64(dst + MEMORY_OFF, MEMORY_MODERATE)
    crypto_random(NULL, dst + NONCE_OFF, XCHACHA_NONCE_LEN)
    rc = file_key(key, dst, passphrase, passphrase_len)
    if rc != OK:
        return rc
    memcpy(plain, ring.seed, SEED_LEN)
    for idx in range(ring.n_link):
        memcpy(to, ring.link[idx].secret, 32)
        store_be64(to + 32, ring.link[idx].not_before)
        store_be64(to + 40, ring.link[idx].not_after)
        to += KEYFILE_LINK_LEN
    rc = xchacha_seal(key, dst + KEYFILE_HEAD_LEN, plain, plain_len, dst, KEYFILE_HEAD_LEN, dst + NONCE_OFF)
    return rc if rc < 0 else KEYFILE_HEAD_LEN + rc


# --- identity ---

cdef int ring_finish(ring_t *ring) noexcept nogil:
    """Fill in what follows from the secrets and write-protect the ring."""
    cdef size_t idx
    ed25519_public(ring.public_key, ring.seed)
    peer_id_derive(ring.peer_id, ring.public_key)
    for idx in range(ring.n_link):
        x25519_public(ring.link[idx].public_key, ring.link[idx].secret)
    return sodium_mprotect_readonly(ring)


cdef int ring_cert_build(const ring_t *ring, size_t link_idx, uint8_t *dst108, uint64_t now_s) noexcept nogil:
    cdef const link_key_t *key = &ring.link[link_idx]
    return cert_build(dst108, ring.seed, key.public_key, min(key.not_after, now_s + CERT_LIFE_S))


cdef int link_append(ring_t *ring, uint64_t now_s) noexcept nogil:
    """Add a fresh link key behind the others; there is room."""
    cdef link_key_t *key = &ring.link[ring.n_link]
    crypto_random(NULL, key.secret, 32)
    key.not_before = now_s
    key.not_after = NOT_AFTER_OPEN
    ring.n_link += 1
    return OK


cdef const uint8_t *password_bytes(bytes passphrase) noexcept:
    """The bytes of a passphrase, borrowed; NULL for none."""
    if passphrase is None:
        return NULL
    return <const uint8_t *><const char *>passphrase


cdef int ring_write(const ring_t *ring, path, bytes passphrase, store_fn store) except -1:
    cdef uint8_t *dst = <uint8_t *>guarded_take(2 * KEYFILE_LEN_MAX + 32)
    cdef uint8_t *scratch = dst + KEYFILE_LEN_MAX
    cdef const uint8_t *password = password_bytes(passphrase)
    cdef size_t password_len = 0 if passphrase is None else len(passphrase)
    cdef int rc
    try:
        with nogil:
            rc = ring_seal(dst, ring, password, password_len, scratch)
        if rc < 0:
            raise file_error(rc, path)
        store(path, dst, <size_t>rc)
    finally:
        guarded_give(dst)
    return 0


cdef class KeyRing:
    """Hold an identity: the Ed25519 seed and the link keys, in guarded memory. Immutable; any thread may use it."""

    def __cinit__(self):
        self.n_forks = forks_count()
        self.ring = <ring_t *>guarded_take(sizeof(ring_t))

    def __init__(self):
        raise UsageError("a KeyRing comes from KeyRing.generate or KeyRing.load")

    def __dealloc__(self):
        guarded_give(self.ring)

    def __reduce__(self):
        raise UsageError("keys are not serialised: save them to a key file")

    cdef int finish(self) except -1:
        """Write-protect the ring, and keep what is public of it where a forked child can read it too."""
        cdef const ring_t *ring = self.ring
        cdef list keys = []
        cdef size_t idx
        ring_finish(self.ring)
        for idx in range(ring.n_link):
            keys.append((bytes(ring.link[idx].public_key[:32]), ring.link[idx].not_before, ring.link[idx].not_after))
        self.peer_id = bytes(ring.peer_id[:32])
        self.public_key = bytes(ring.public_key[:32])
        self.link_keys = tuple(keys)
        return 0

    cdef const ring_t *borrow(self) except NULL:
        home_check(self.n_forks)
        return self.ring

    def __repr__(self):
        return f"<KeyRing with {len(self.link_keys)} link keys>"

    @staticmethod
    def generate(uint64_t now_s):
        """Make a new identity with one link key."""
        cdef KeyRing self = KeyRing.__new__(KeyRing)
        crypto_random(NULL, self.ring.seed, SEED_LEN)
        link_append(self.ring, now_s)
        self.finish()
        return self

    @staticmethod
    def load(path, bytes passphrase=None):
        """Read a key file (Argon2id, about a second, with the GIL released, if it has a passphrase)."""
        cdef KeyRing self = KeyRing.__new__(KeyRing)
        cdef uint8_t *src = <uint8_t *>guarded_take(2 * KEYFILE_LEN_MAX + 33)
        cdef uint8_t *scratch = src + KEYFILE_LEN_MAX + 1
        cdef const uint8_t *password = password_bytes(passphrase)
        cdef size_t password_len = 0 if passphrase is None else len(passphrase)
        cdef int rc
        try:
            rc = file_read(src, path, KEYFILE_LEN_MAX + 1)
            with nogil:
                rc = ring_open(self.ring, src, <size_t>rc, password, password_len, scratch)
        finally:
            guarded_give(src)
        if rc != OK:
            raise file_error(rc, path)
        self.finish()
        return self

    def create(self, path, bytes passphrase=None):
        """Write a new key file; refuse to touch an existing file."""
        ring_write(self.borrow(), path, passphrase, file_create)

    def replace(self, path, bytes passphrase=None):
        """Write the key file in the place of an older one, or a new one."""
        ring_write(self.borrow(), path, passphrase, file_replace)

    def rotate(self, uint64_t now_s, uint64_t overlap_s):
        """Give a ring with a fresh link key; the newest of this ring ends after overlap_s, older ones are dropped."""
        cdef const ring_t *ring = self.borrow()
        cdef KeyRing other = KeyRing.__new__(KeyRing)
        cdef link_key_t *old = &other.ring.link[0]
        memcpy(other.ring.seed, ring.seed, SEED_LEN)
        memcpy(old, &ring.link[ring.n_link - 1], sizeof(link_key_t))
        old.not_after = now_s + overlap_s
        other.ring.n_link = 1
        link_append(other.ring, now_s)
        other.finish()
        return other

    def link_cert(self, size_t link_idx, uint64_t now_s):
        """Give the certificate of a link key, which is public."""
        cdef const ring_t *ring = self.borrow()
        cdef uint8_t[108] cert
        if link_idx >= ring.n_link:
            raise IndexError("no such link key")
        ring_cert_build(ring, link_idx, cert, now_s)
        return bytes(cert[:108])

    def peer_record(self, uint32_t flags, uint32_t rate_kib, uint32_t burst_kib, uint32_t n_addresses,
                    bytes addresses not None, uint64_t now_s, uint64_t life_s):
        """Sign a record that tells others of this identity (docs/protocol.md, section 2.2), with the newest link key.

        `addresses` are those of the wire, one behind the other. Raises InvalidValue if they are not.
        """
        cdef const ring_t *ring = self.borrow()
        cdef peer_record_t record
        cdef uint8_t[CERT_LEN] cert
        cdef uint8_t[PEER_RECORD_MAX] dst
        cdef size_t newest = ring.n_link - 1
        cdef int rc
        ring_cert_build(ring, newest, cert, now_s)
        record.peer_id = ring.peer_id
        record.link_key = ring.link[newest].public_key
        record.cert = cert
        record.flags = <uint8_t>flags
        record.rate_kib = rate_kib
        record.burst_kib = burst_kib
        record.n_addresses = n_addresses
        record.addresses = addresses
        record.addresses_len = len(addresses)
        record.issued_s = now_s
        record.not_after_s = now_s + life_s
        rc = peer_record_build(dst, &record, ring.seed)
        if rc < 0:
            raise InvalidValue("a record holds one to four IP addresses, each with a port")
        return (<char *>dst)[:rc]


# --- network secret ---

cdef int base32_write(uint8_t *dst, const uint8_t *src, size_t len) noexcept nogil:
    """Write len bytes in base32: the number of characters. No table and no branch on the bytes: they are secret."""
    cdef size_t n_chars = (len * 8 + 4) // 5
    cdef size_t idx, at
    cdef uint32_t c
    for idx in range(n_chars):
        at = idx * 5 // 8
        c = <uint32_t>src[at] << 8 | (src[at + 1] if at + 1 < len else 0)
        c = c >> (11 - idx * 5 % 8) & 31
        dst[idx] = <uint8_t>(c + c"a" - (c > 25) * 73)      # 26 becomes "2"
    return <int>n_chars


cdef int base32_read(uint8_t *dst, const uint8_t *src, size_t n_chars) noexcept nogil:
    """Read what base32_write wrote: OK, or E_KIND for a foreign character or unused bits that are not zero."""
    cdef uint32_t bits = 0
    cdef uint32_t bad = 0
    cdef uint32_t is_letter, is_digit
    cdef int n_bits = 0
    cdef size_t idx
    for idx in range(n_chars):
        is_letter = <uint32_t>(src[idx] - <uint32_t>c"a") < 26
        is_digit = <uint32_t>(src[idx] - <uint32_t>c"2") < 6
        bad |= 1 ^ is_letter ^ is_digit
        bits = bits << 5 | (is_letter * (src[idx] - c"a") + is_digit * (src[idx] - c"2" + 26)) & 31
        n_bits += 5
        if n_bits >= 8:
            n_bits -= 8
            dst[0] = <uint8_t>(bits >> n_bits)
            dst += 1
            bits &= (<uint32_t>1 << n_bits) - 1
    return E_KIND if bad | bits else OK


cdef int network_check(uint8_t *dst32, const uint8_t *secret) noexcept nogil:
    return sha256_pair(dst32, CHECK_LABEL, 13, secret, NETWORK_SECRET_LEN)


cdef int network_write(uint8_t *dst, const uint8_t *secret, uint8_t *scratch) noexcept nogil:
    """Write the text form (protocol.md 2.4): its length. scratch is guarded, 64 bytes."""
    memcpy(scratch, secret, NETWORK_SECRET_LEN)
    network_check(scratch + NETWORK_SECRET_LEN, secret)
    memcpy(dst, NETWORK_PREFIX, NETWORK_PREFIX_LEN)
    return NETWORK_PREFIX_LEN + base32_write(dst + NETWORK_PREFIX_LEN, scratch, NETWORK_SECRET_LEN + NETWORK_CHECK_LEN)


cdef int network_read(uint8_t *secret, const uint8_t *src, size_t len, uint8_t *scratch) noexcept nogil:
    """Read the text form, with blanks around it: OK, FAULT_MAGIC, E_LENGTH, E_KIND or E_MISMATCH.

    scratch is guarded, 68 bytes.
    """
    cdef int rc
    while len and src[len - 1] <= c" ":
        len -= 1
    while len and src[0] <= c" ":
        src += 1
        len -= 1
    if len < NETWORK_PREFIX_LEN or memcmp(src, NETWORK_PREFIX, NETWORK_PREFIX_LEN) != 0:
        return FAULT_MAGIC
    if len != NETWORK_TEXT_LEN:
        return E_LENGTH
    rc = base32_read(scratch, src + NETWORK_PREFIX_LEN, NETWORK_TEXT_LEN - NETWORK_PREFIX_LEN)
    if rc != OK:
        return rc
    memcpy(secret, scratch, NETWORK_SECRET_LEN)
    network_check(scratch + NETWORK_SECRET_LEN + NETWORK_CHECK_LEN, secret)
    if not ct_equal(scratch + NETWORK_SECRET_LEN, scratch + NETWORK_SECRET_LEN + NETWORK_CHECK_LEN, NETWORK_CHECK_LEN):
        return E_MISMATCH
    return OK


cdef dict NETWORK_TEXTS = {
    FAULT_MAGIC: "a network secret starts with qgnet1:",
    E_LENGTH: f"a network secret has {NETWORK_TEXT_LEN} characters: copy it again, whole",
    E_KIND: "a network secret has only lower case letters and the digits 2-7 after qgnet1: copy it again",
    E_MISMATCH: "the network secret's check does not match: a character was changed, copy it again",
}


cdef int secret_read(uint8_t *secret, const uint8_t *src, size_t len) except? -1:
    """network_read with scratch memory; write-protects the secret."""
    cdef uint8_t *scratch = <uint8_t *>guarded_take(2 * NETWORK_SECRET_LEN + NETWORK_CHECK_LEN)
    cdef int rc = network_read(secret, src, len, scratch)
    guarded_give(scratch)
    sodium_mprotect_readonly(secret)
    return rc


cdef class NetworkSecret:
    """Hold the secret that all members of a closed network share, in guarded memory. Immutable; any thread may use it.

    Who has it may join the network. It is never shown: `export` is the only way out.
    """

    def __cinit__(self):
        self.n_forks = forks_count()
        self.secret = <uint8_t *>guarded_take(NETWORK_SECRET_LEN)

    def __init__(self):
        raise UsageError("a NetworkSecret comes from generate, parse, load or from_passphrase")

    def __dealloc__(self):
        guarded_give(self.secret)

    def __reduce__(self):
        raise UsageError("secrets are not serialised: export the text")

    cdef const uint8_t *borrow(self) except NULL:
        home_check(self.n_forks)
        return self.secret

    def __repr__(self):
        return "<NetworkSecret>"

    @staticmethod
    def generate():
        """Make a random secret for a new network."""
        cdef NetworkSecret self = NetworkSecret.__new__(NetworkSecret)
        crypto_random(NULL, self.secret, NETWORK_SECRET_LEN)
        sodium_mprotect_readonly(self.secret)
        return self

    @staticmethod
    def parse(str text not None):
        """Read the text form "qgnet1:..." (docs/protocol.md, section 2.4); raises InvalidValue without showing it."""
        cdef Py_ssize_t len = 0
        cdef const uint8_t *src = <const uint8_t *>PyUnicode_AsUTF8AndSize(text, &len)
        cdef NetworkSecret self = NetworkSecret.__new__(NetworkSecret)
        cdef int rc = secret_read(self.secret, src, <size_t>len)
        if rc != OK:
            raise InvalidValue(NETWORK_TEXTS[rc])
        return self

    @staticmethod
    def load(path):
        """Read the text form from a file private to its owner, straight into guarded memory; raises KeyFileError."""
        cdef NetworkSecret self = NetworkSecret.__new__(NetworkSecret)
        cdef uint8_t *src = <uint8_t *>guarded_take(NETWORK_FILE_MAX + 1)
        cdef int rc
        try:
            rc = file_read(src, path, NETWORK_FILE_MAX + 1)
            rc = E_LENGTH if rc > NETWORK_FILE_MAX else secret_read(self.secret, src, <size_t>rc)
        finally:
            guarded_give(src)
        if rc != OK:
            raise KeyFileError(f"{os.fsdecode(path)} holds no network secret: {NETWORK_TEXTS[rc]}")
        return self

    @staticmethod
    def from_passphrase(str passphrase not None, str network_name not None):
        """Derive the secret from a passphrase: Argon2id "sensitive", 1 GiB of memory, some seconds, the GIL released.

        A recorded handshake lets anybody test guesses at leisure, so this warns: better generate a secret.
        """
        cdef bytes password = passphrase.encode()
        cdef bytes name = network_name.encode()
        cdef const uint8_t *password_c = <const uint8_t *><const char *>password
        cdef size_t password_len = len(password)
        cdef uint8_t[32] salt
        cdef int rc
        cdef NetworkSecret self = NetworkSecret.__new__(NetworkSecret)
        warnings.warn("a network secret from a passphrase can be guessed from one recorded connection: better generate"
                      " one", stacklevel=1)     # compiled frames do not count: this is the caller
        sha256_pair(salt, SALT_LABEL, 12, <const uint8_t *><const char *>name, len(name))
        with nogil:
            rc = argon2id(self.secret, password_c, password_len, salt, PASSES_SENSITIVE, MEMORY_SENSITIVE)
        if rc != OK:
            raise MemoryError("deriving a network secret from a passphrase takes 1 GiB of memory")
        sodium_mprotect_readonly(self.secret)
        return self

    def export(self):
        """Give the text form "qgnet1:...". It is the secret itself: keep it as one."""
        cdef const uint8_t *secret = self.borrow()
        cdef uint8_t *text = <uint8_t *>guarded_take(NETWORK_TEXT_LEN + 2 * NETWORK_SECRET_LEN + NETWORK_CHECK_LEN)
        cdef int len = network_write(text, secret, text + NETWORK_TEXT_LEN)
        try:
            return text[:len].decode("ascii")
        finally:
            guarded_give(text)

    def create(self, path):
        """Write the text form to a new private file; refuse to touch an existing one."""
        cdef const uint8_t *secret = self.borrow()
        cdef uint8_t *text = <uint8_t *>guarded_take(NETWORK_TEXT_LEN + 1 + 2 * NETWORK_SECRET_LEN + NETWORK_CHECK_LEN)
        cdef int len = network_write(text, secret, text + NETWORK_TEXT_LEN + 1)
        text[len] = c"\n"
        try:
            file_create(path, text, <size_t>len + 1)
        finally:
            guarded_give(text)


if crypto_init() < 0:
    raise ImportError("libsodium could not be initialised")
if forks_watch() != 0:
    raise MemoryError("no memory to watch for forks")
