# SPDX-License-Identifier: MIT
"""Each row of the table of limits (docs/protocol.md, section 9) is driven over its limit by the tests named here."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PROTOCOL = TESTS.parent / "docs" / "protocol.md"

# Of each row its name, and file::test for every thing that it says; the tests assert what is counted or answered.
DRIVEN = {
    "accept rate per IPv4 /32, IPv6 /64": [
        "core/test_guard.py::test_an_address_connects_twenty_times_at_once_and_ten_times_a_second",
        "net/test_settings.py::test_who_connects_too_often_meets_silence_while_sinks_are_free_and_fin_without_them",
    ],
    "handshakes per /32 (/64)": ["net/test_settings.py::test_handshakes_of_one_address_have_a_burst"],
    "handshakes per /24 (/48)": ["net/test_settings.py::test_handshakes_of_one_network_have_a_burst"],
    "full handshakes that others begin, node": [
        "net/test_settings.py::test_handshakes_of_the_node_have_a_rate_and_nobody_is_blamed",
        "net/test_settings.py::test_handshakes_that_take_too_much_of_the_processor_are_refused_and_nobody_is_blamed",
    ],
    "half-open TCP": [
        "net/test_silence.py::test_half_open_connections_are_bounded_and_the_oldest_becomes_a_sink",
        "net/test_silence.py::test_silent_slow_and_wrong_strangers_are_all_ended_by_fin_and_without_a_byte",
        "net/test_settings.py::test_who_is_slow_with_the_first_bytes_or_the_first_flight_goes_to_the_sink",
    ],
    "sinks": [
        "net/test_silence.py::test_sinks_are_bounded_and_the_oldest_is_closed_first",
        "net/test_settings.py::test_a_sink_shuts_after_the_time_that_is_set",
    ],
    "bytes read before authentication": [
        "net/test_silence.py::test_garbage_of_any_length_is_met_with_silence",
        "net/test_silence.py::test_lengths_out_of_range_are_met_with_silence",
        "net/test_silence.py::test_a_stranger_that_sends_on_and_on_is_read_and_ended_by_fin",
    ],
    "replay filter": [
        "core/test_guard.py::test_a_full_replay_filter_refuses_handshakes",
        "net/test_silence.py::test_a_replayed_flight_is_met_with_silence_while_and_after_the_first_lives",
    ],
    "sessions": [
        "core/test_guard.py::test_a_network_has_32_sessions",
        "net/test_settings.py::test_a_full_node_looks_to_strangers_like_any_other",
        "net/test_settings.py::test_sessions_over_pipes_are_bounded_per_peer",
        "net/test_model_circuits.py::test_pipes_of_one_peer_leave_room_for_the_links_of_others",
        "api/test_access.py::test_sessions_are_limited_per_network_of_any_width",
    ],
    "idle session memory": ["core/test_session.py::test_an_idle_session_holds_no_blocks"],
    "receive credit, node": [
        "core/test_mux_credit.py::test_windows_shrink_when_half_of_what_a_node_may_hold_is_unread",
        "core/test_mux_credit.py::test_no_credit_is_given_while_a_node_holds_nine_tenths_of_what_it_may",
        "net/test_limits.py::test_a_node_that_holds_much_unread_withholds_credit_and_says_so",
    ],
    "send queue per session": ["net/test_slow_reader.py::test_an_application_that_does_not_read_holds_the_source_back"],
    "slow reader": ["net/test_slow_reader.py::test_a_peer_that_takes_nothing_of_a_full_queue_is_closed"],
    "slow sender of a record": ["net/test_settings.py::test_a_record_that_does_not_end_ends_its_session"],
    "service streams per session": [
        "net/test_limits.py::test_streams_beyond_those_that_may_be_open_are_refused",
        "net/test_settings.py::test_new_streams_are_refused_above_their_rate_and_then_the_session_closes",
        "net/test_settings.py::test_who_opens_many_streams_or_pings_much_keeps_to_the_rates",
    ],
    "control frames": [
        "net/test_settings.py::test_control_frames_have_a_rate",
        "core/test_session.py::test_frames_that_cost_work_are_limited_to_1000_a_second",
        "core/test_session.py::test_credit_is_allowed_for_what_was_sent",
        "core/test_rekey.py::test_a_peer_may_not_make_us_derive_keys_whenever_it_likes",
        "core/test_rekey.py::test_a_peer_may_not_make_us_exchange_keys_whenever_it_likes",
    ],
    "message": ["net/test_limits.py::test_a_message_longer_than_may_come_is_refused"],
    "pipes and relay streams": [
        "net/test_limits.py::test_pipes_beyond_those_of_one_link_are_refused",
        "net/test_settings.py::test_pipes_of_one_link_have_a_burst",
        "net/test_settings.py::test_pipes_of_the_node_are_bounded",
        "net/test_model_circuits.py::test_a_relay_opens_only_so_many_pipes_a_second_on_one_link",
    ],
    "relay memory": [
        "net/test_model_circuits.py::test_what_waits_for_a_target_counts_for_the_relays_memory",
        "sim/test_stalled.py::test_a_target_that_takes_nothing_fills_the_budget_and_not_more",
    ],
    "bandwidth of links, of relayed payload": [
        "sim/test_rates.py::test_links_share_the_rate_of_a_node_however_many_streams_they_carry",
        "sim/test_rates.py::test_a_relay_passes_on_no_more_than_its_rate_and_cuts_nobody",
    ],
    "failed opens": [
        "core/test_session.py::test_every_flipped_bit_of_a_record_is_met_with_silence",
        "net/test_model_live.py::test_a_node_answers_a_bad_record_with_nothing",
    ],
    "log lines from unauthenticated peers": ["api/test_status.py::test_lines_that_strangers_cause_are_bounded"],
}
WITH_UDP = {"half-open UDP", "UDP junk"}  # there is no UDP carrier yet


def table():
    section = PROTOCOL.read_text().partition("\n## 9. Limits")[2].partition("\n## ")[0]
    return re.findall(r"^\| ([^|]+?) \|", section, re.MULTILINE)[1:]


def test_every_row_of_the_limits_has_tests_and_every_entry_is_a_row():
    assert sorted(table()) == sorted(DRIVEN.keys() | WITH_UDP)


@pytest.mark.parametrize("row", DRIVEN)
def test_the_tests_of_a_row_are_there(row):
    assert DRIVEN[row]
    for name in DRIVEN[row]:
        path, _, test = name.partition("::")
        body = ast.parse((TESTS / path).read_text()).body
        assert test in {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}, name
