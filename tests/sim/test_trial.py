# SPDX-License-Identifier: MIT
"""Random graphs with circuits over them, in peace and in all that can go wrong; `tools/dev sim` runs others."""

import pytest
from sim.trial import COVERS, FAULTS, trial_run

# A seed that once found a fault stays here, with what it found.
SEEDS = {"first": 200}


@pytest.mark.slow
def test_a_thousand_circuits_in_a_hostile_network_lose_no_byte_and_leave_nothing():
    trial, ends = trial_run("thousand", 1000)
    assert sum(ends.values()) == 1000
    assert ends["done"] > 200, "too little came through for the run to say much"
    assert all(trial.counts[fault] for fault in FAULTS)


def test_in_peace_every_circuit_is_done():
    _, ends = trial_run("peace", 150, {})
    assert ends == {"done": 150}


def test_in_peace_every_circuit_over_covered_links_is_done():
    _, ends = trial_run("covered peace", 100, {}, COVERS)
    assert ends == {"done": 100}


def test_nodes_that_cover_what_they_send_lose_no_byte_in_a_hostile_network():
    trial, ends = trial_run("covered", 300, covers=COVERS)
    assert ends["done"] > 20
    assert sum(host.machine.status()["n_cover_records"] for host in trial.hosts if host.is_up) > 1000


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_repeats_byte_for_byte(seed):
    one, other = (trial_run(seed, SEEDS[seed])[0] for _ in range(2))
    assert (one.world.trace, one.world.n_calls, one.counts) == (other.world.trace, other.world.n_calls, other.counts)


def test_a_failure_says_how_to_repeat_it(capsys):
    with pytest.raises(AttributeError):
        trial_run("broken", 20, {"something that nobody wrote": 0.01})
    assert "tools/dev sim --seed broken --circuits 20\n" in capsys.readouterr().err
