#!/bin/sh
# SPDX-License-Identifier: MIT
# Mixed traffic with churn on 50 nodes in one process: tools/soak.sh [MINUTES], an hour unless said.
set -eu
cd "$(dirname "$0")/.."
exec .venv/bin/python -m tools.assurance.soak --minutes "${1:-60}"
