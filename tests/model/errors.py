# SPDX-License-Identifier: MIT
"""The ways in which a peer can be wrong, by what the protocol answers to each."""


class ModelError(Exception):
    """Base of everything the model raises about received bytes."""


class AuthError(ModelError):
    """A ciphertext, a signature or a key did not verify."""


class HandshakeError(ModelError):
    """A flight that opened said something that section 3 forbids."""


class WireError(ModelError):
    """A layout of section 7 (or of a certificate, record or address) is broken: answered with CLOSE(protocol)."""


class BadRecord(ModelError):
    """A record length or tag was wrong (section 4.2): nothing is answered."""
