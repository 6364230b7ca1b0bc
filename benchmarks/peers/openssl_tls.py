# SPDX-License-Identifier: MIT
"""TLS 1.3 by `openssl_tls.c`: compiled when OpenSSL's headers are here, then run in place of this process."""

import json
import os
import sys
from pathlib import Path

from benchmarks.peers.asyncio_tls import certificate_make
from benchmarks.program import output_of, program_compile


def version() -> str:
    program_build()
    return output_of("openssl", "version").strip() + ", from C"


def program_build() -> str:
    source = Path(__file__).with_suffix(".c")
    return str(program_compile(source, source, ["-lssl", "-lcrypto"]))


def pem_lend(pem: bytes) -> str:
    """Give a path under which the program finds it: a file without a name that this process leaves open."""
    descriptor = os.memfd_create("pem", 0)
    os.write(descriptor, pem)
    return f"/proc/self/fd/{descriptor}"


def main() -> None:
    role, argument = sys.argv[1:]
    if role == "server":
        certificate, key = certificate_make()
        arguments = [role, pem_lend(certificate + key), argument, json.dumps(certificate.decode())]
    else:
        hello = json.loads(argument)
        arguments = [role, pem_lend(hello["certificate"].encode()), str(hello["port"]), "-"]
    program = program_build()
    os.execv(program, [program, *arguments])


if __name__ == "__main__":
    main()
