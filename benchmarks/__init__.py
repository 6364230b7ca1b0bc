# SPDX-License-Identifier: MIT
"""Measure qg against peers: `python -m benchmarks.report` runs all and writes the table of docs/performance.md.

One work alone: `pytest benchmarks/test_link.py`. Every figure is the median of alternated rounds; CPU seconds per GB
come first.
"""
