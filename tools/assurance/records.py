# SPDX-License-Identifier: MIT
"""Two gigabytes of records through ent, and two more through three tests of dieharder, none of them twice."""

from looks.stream import dieharder_judge, ent_measure, records_make

from tools.assurance import finish, programs_install

ENT_LEN = 2_000_000_000
# Samples for the tests of dieharder: birthdays, ranks of 32x32 matrices, single bits. One of ranks takes 5 MB.
SAMPLES = {0: 100, 2: 400, 100: 100}


def main() -> None:
    programs_install(ent="ent", dieharder="dieharder")
    ent = ent_measure(records_make(ENT_LEN))
    verdicts = []
    records = records_make(1 << 50)
    for number, n_samples in SAMPLES.items():
        verdicts.append(dieharder_judge(number, n_samples, records))
    n_bytes = sum(verdict["n_bytes"] for verdict in verdicts)
    finish(
        "records",
        ent["n_bytes"] >= ENT_LEN
        and 0.1 < ent["chi_square_percent"] < 99.9
        and n_bytes >= ENT_LEN
        and all(verdict["verdict"] != "FAILED" for verdict in verdicts),
        ent=ent,
        dieharder=verdicts,
        dieharder_n_bytes=n_bytes,
    )


if __name__ == "__main__":
    main()
