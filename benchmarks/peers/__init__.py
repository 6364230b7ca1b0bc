# SPDX-License-Identifier: MIT
"""What is measured, one file each. All understand the same commands, so one measurement serves all.

A file has `version`, which raises `NotInstalled` with what to do where the peer is not here. What carries TCP for
others has `tunnel`, or `network` for tor; the rest are roles, run as `python -m`.
"""
