# SPDX-License-Identifier: MIT
"""What services share that join streams with the sockets of programs and targets."""
