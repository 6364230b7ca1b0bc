# SPDX-License-Identifier: MIT
"""What is measured, one file each. All understand the same commands, so one measurement serves all."""
