# SPDX-License-Identifier: MIT
"""The long form of the attack suite: python -m tools.assurance.attack; its last line is one object of JSON."""

import sys

from tools.attack import main

if __name__ == "__main__":
    sys.argv.append("--json")
    sys.exit(main())
