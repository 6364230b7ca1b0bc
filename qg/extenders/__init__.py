# SPDX-License-Identifier: MIT
"""Services that come with qg, each one file on the public API only."""
