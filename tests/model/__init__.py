# SPDX-License-Identifier: MIT
"""A slow, obvious, independent implementation of qg's wire protocol, written from docs/protocol.md alone."""
